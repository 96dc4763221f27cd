/* tables.c - the tables of an analysis. A table is a list of titles and one function that gives
 * the text of a cell; the three styles walk it. Numbers have the look of the reference report
 * (1.241e-02, 0.0, true), so that its readers recognise them; analysis.json has them in full.
 */
#include "report/tables.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))
#define COLUMNS_MAX     12
#define CELL_MAX        ESCAPED_MAX
#define WINDOW_BEFORE   3
#define WINDOW_AFTER    8

/* A row of either table. */
typedef struct row {
    const analysis_prompt *prompt;
    const norm_line *norm; /* or */
    const stage_line *stage;
} row;

typedef struct table {
    const char *const *title;
    int n_column, first; /* columns first .. n_column-1 are written */
    unsigned left;       /* bit i: column i is text */
    const char *(*cell)(const row *r, int column, char out[CELL_MAX]);
    row *rows; /* (n_row) */
    size_t n_row;
} table;

/* ---- Cells ----------------------------------------------------------------------------------- */

static const char *cell_real(double value, int digits, char out[CELL_MAX])
{
    return isnan(value) ? "-" : value == 0.0 ? "0.0" : number_scientific(value, digits, out);
}

static const char *cell_match(int match)
{
    return match < 0 ? "-" : match ? "true" : "false";
}

static const char *cell_count(int64_t count, char out[CELL_MAX])
{
    snprintf(out, CELL_MAX, "%" PRId64, count);
    return out;
}

static const char *const norm_title[] = {
    "prompt",
    "layer",
    "input_mae",
    "weight_mae",
    "output_mae",
    "eps_match",
    "sumsq_delta",
    "inv_rms_delta",
    "input_ptr_match",
    "input_offset_match",
    "weight_hash_match",
    "bucket",
};

static const char *norm_cell(const row *r, int column, char out[CELL_MAX])
{
    const norm_numbers *n = &r->norm->found.numbers;
    switch (column) {
    case 0:
        return r->prompt->id;
    case 1:
        return layer_text(r->norm->layer, out);
    case 2:
        return cell_real(n->input_mae, 3, out);
    case 3:
        return cell_real(n->weight_mae, 3, out);
    case 4:
        return cell_real(n->output_mae, 3, out);
    case 5:
        return cell_match(n->eps_match);
    case 6:
        return cell_real(n->sumsq_delta, 2, out);
    case 7:
        return cell_real(n->inv_rms_delta, 2, out);
    case 8:
        return cell_match(n->input_ptr_match);
    case 9:
        return cell_match(n->input_offset_match);
    case 10:
        return cell_match(n->weight_hash_match);
    default:
        return analysis_bucket(r->norm->found.state, r->norm->found.cause);
    }
}

static const char *const stage_title[] = {
    "prompt",   "layer",     "stage",   "state",   "values",
    "compared", "differing", "max_abs", "max_ulp", "first_divergence",
};

static const char *stage_cell(const row *r, int column, char out[CELL_MAX])
{
    const stage_line *s = r->stage;
    bool is_known = s->state != STAGE_STATE_UNMEASURED;
    switch (column) {
    case 0:
        return r->prompt->id;
    case 1:
        return layer_text(s->layer, out);
    case 2:
        return stage_name(s->name);
    case 3:
        return stage_state_name(s->state);
    case 4:
        return is_known ? cell_count(s->n, out) : "-";
    case 5:
        return is_known ? cell_count(s->n_compared, out) : "-";
    case 6:
        return is_known ? cell_count(s->n_differ, out) : "-";
    case 7:
        return is_known ? cell_real(s->abs_max, 3, out) : "-";
    case 8:
        return is_known && s->has_ulp ? cell_count((int64_t)s->ulp_max, out) : "-";
    default:
        return s == r->prompt->stage + r->prompt->first ? "first" : "";
    }
}

/* ---- Styles ---------------------------------------------------------------------------------- */

static void write_line(text *t, const table *b, const char *const *cell, table_style style)
{
    for (int c = b->first; c < b->n_column; c++) {
        if (style == TABLE_TSV) {
            text_format(t, "%s%s", c > b->first ? "\t" : "", cell[c]);
            continue;
        }
        text_string(t, c > b->first ? " " : "| ");
        for (const char *at = cell[c]; *at; at++) {
            text_format(t, "%s%c", *at == '|' ? "\\" : "", *at);
        }
        text_string(t, " |");
    }
    text_string(t, "\n");
}

static void write_rule(text *t, const table *b)
{
    text_string(t, "|");
    for (int c = b->first; c < b->n_column; c++) {
        text_string(t, (b->left >> c) & 1 ? "---|" : "---:|");
    }
    text_string(t, "\n");
}

static void write_plain(text *t, const table *b, const char *const *cell, const int *width)
{
    size_t start = t->length;
    for (int c = b->first; c < b->n_column; c++) {
        text_format(t, (b->left >> c) & 1 ? "%s%-*s" : "%s%*s", c > b->first ? "  " : "", width[c],
                    cell[c]);
    }
    while (!t->failed && t->length > start && t->data[t->length - 1] == ' ') {
        t->length--;
    }
    text_string(t, "\n");
}

static void row_cells(const table *b, size_t r, char buffer[COLUMNS_MAX][CELL_MAX],
                      const char *cell[COLUMNS_MAX])
{
    for (int c = 0; c < b->n_column; c++) {
        cell[c] = b->cell(&b->rows[r], c, buffer[c]);
    }
}

static void table_write(text *t, const table *b, table_style style)
{
    char buffer[COLUMNS_MAX][CELL_MAX];
    const char *cell[COLUMNS_MAX];
    int width[COLUMNS_MAX];
    for (int c = 0; c < b->n_column; c++) {
        width[c] = (int)strlen(b->title[c]);
    }
    for (size_t r = 0; r < b->n_row && style == TABLE_TEXT; r++) {
        row_cells(b, r, buffer, cell);
        for (int c = 0; c < b->n_column; c++) {
            int wide = (int)strlen(cell[c]);
            width[c] = wide > width[c] ? wide : width[c];
        }
    }
    if (style == TABLE_TEXT) {
        write_plain(t, b, b->title, width);
    } else {
        write_line(t, b, b->title, style);
    }
    if (style == TABLE_MARKDOWN) {
        write_rule(t, b);
    }
    for (size_t r = 0; r < b->n_row; r++) {
        row_cells(b, r, buffer, cell);
        if (style == TABLE_TEXT) {
            write_plain(t, b, cell, width);
        } else {
            write_line(t, b, cell, style);
        }
    }
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static table norm_table(void)
{
    return (table){.title = norm_title,
                   .n_column = COUNT_OF(norm_title),
                   .cell = norm_cell,
                   .left = 1u << 0 | 1u << 5 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 11};
}

static table stage_table(void)
{
    return (table){.title = stage_title,
                   .n_column = COUNT_OF(stage_title),
                   .cell = stage_cell,
                   .left = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 9};
}

static bool table_reserve(table *b, text *t, size_t n)
{
    b->rows = calloc(n ? n : 1, sizeof *b->rows);
    t->failed = t->failed || !b->rows;
    return b->rows != NULL;
}

void table_norms(text *t, const analysis *a, table_style style)
{
    table b = norm_table();
    size_t n = 0;
    for (size_t i = 0; i < a->n_prompt; i++) {
        n += a->prompt[i].n_norm;
    }
    if (!table_reserve(&b, t, n)) {
        return;
    }
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *p = &a->prompt[i];
        for (size_t k = 0; k < p->n_norm; k++) {
            if (p->norm[k].is_chosen) {
                b.rows[b.n_row++] = (row){.prompt = p, .norm = &p->norm[k]};
            }
        }
    }
    table_write(t, &b, style);
    free(b.rows);
}

void table_stages(text *t, const analysis *a, table_style style)
{
    table b = stage_table();
    size_t n = 0;
    for (size_t i = 0; i < a->n_prompt; i++) {
        n += a->prompt[i].n_stage;
    }
    if (!table_reserve(&b, t, n)) {
        return;
    }
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *p = &a->prompt[i];
        for (size_t k = 0; k < p->n_stage; k++) {
            b.rows[b.n_row++] = (row){.prompt = p, .stage = &p->stage[k]};
        }
    }
    table_write(t, &b, style);
    free(b.rows);
}

size_t table_window(text *t, const analysis_prompt *p, table_style style)
{
    row rows[WINDOW_BEFORE + 1 + WINDOW_AFTER];
    table b = stage_table();
    b.first = 1; /* of one prompt */
    size_t from = p->first > WINDOW_BEFORE ? p->first - WINDOW_BEFORE : 0;
    b.rows = rows;
    for (size_t k = from; k < p->n_stage && k <= p->first + WINDOW_AFTER; k++) {
        rows[b.n_row++] = (row){.prompt = p, .stage = &p->stage[k]};
    }
    table_write(t, &b, style);
    return b.n_row;
}
