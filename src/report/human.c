/* human.c - the analysis as text on a terminal: first the answer in one sentence, then the norm
 * table, then for each prompt what its answer stands on, then what the whole is worth (coverage,
 * instrument, configuration, what was not looked at), and how to do it again.
 *
 * Nothing is said here that analysis.json does not hold.
 */
#include "report/tables.h"

#include <string.h>

static bool has_norms(const analysis *a)
{
    for (size_t i = 0; i < a->n_prompt; i++) {
        for (size_t k = 0; k < a->prompt[i].n_norm; k++) {
            if (a->prompt[i].norm[k].is_chosen) {
                return true;
            }
        }
    }
    return false;
}

static void write_norms(text *t, const analysis *a)
{
    if (!has_norms(a)) {
        return;
    }
    text_format(t, "\nffn_norm, layers %s\n\n", a->layers);
    table_norms(t, a, TABLE_TEXT);
    text_string(t,
                "\nsumsq is the sum of squares of the input, where the reference report held its "
                "mean.\nPointers and offsets are shown and decide nothing: prefill and decode use "
                "other buffers and rows\nby design.\n");
}

/* ---- Prompts --------------------------------------------------------------------------------- */

static void write_window(text *t, const analysis_prompt *p)
{
    if (p->first == p->n_stage) {
        return;
    }
    text_string(t, "\n");
    size_t n = table_window(t, p, TABLE_TEXT);
    if (n < p->n_stage) {
        text_format(t, "(and %zu other stages, in analysis.tsv and analysis.json)\n",
                    p->n_stage - n);
    }
}

static void write_prompt(text *t, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    const op_line *op = analysis_decisive_op(p);
    text_format(t, "\n%s: ", p->id);
    say_prompt(t, LANG_EN, p);
    text_string(t, "\n");
    for (int s = 0; s < SIDE_COUNT && (p->side[SIDE_A].is_present || p->side[SIDE_B].is_present);
         s++) {
        text_string(t, s == SIDE_A ? "  prefill_last: " : "  decode0:      ");
        say_side(t, LANG_EN, &p->side[s]);
        text_string(t, "\n");
    }
    if (norm) {
        text_string(t, "  evidence:");
        size_t before = t->length;
        say_norm_details(t, LANG_EN, norm);
        text_string(t, t->length == before ? " none beyond the numbers.\n" : "\n");
    }
    if (op) {
        text_string(t, norm ? "  and:     " : "  evidence:");
        (norm ? say_op_details : say_op_evidence)(t, LANG_EN, op);
        text_string(t, "\n");
    }
    if (p->ops.effect.is_measured) {
        text_string(t, "  effect:   ");
        say_effect(t, LANG_EN, &p->ops);
        text_string(t, "\n");
    }
    say_others(t, LANG_EN, p, "  also: ");
    write_window(t, p);
}

/* ---- What it is worth ------------------------------------------------------------------------ */

static bool same_configuration(const trace_header *x, const trace_header *y)
{
    return x->model_hash == y->model_hash && x->arithmetic == y->arithmetic &&
           x->n_chunk == y->n_chunk && x->n_thread == y->n_thread &&
           strcmp(x->kernel, y->kernel) == 0 && strcmp(x->kv, y->kv) == 0 &&
           strcmp(x->act, y->act) == 0;
}

static const analysis_side *side_at(const analysis *a, size_t i)
{
    return &a->prompt[i / SIDE_COUNT].side[i % SIDE_COUNT];
}

/* One line where all sides ran alike, else one a side. */
static void write_configurations(text *t, const analysis *a)
{
    const analysis_side *first = NULL;
    bool is_one = true;
    for (size_t i = 0; i < a->n_prompt * SIDE_COUNT; i++) {
        const analysis_side *s = side_at(a, i);
        first = first || !s->is_present ? first : s;
        is_one = is_one && (!s->is_present || same_configuration(&first->header, &s->header));
    }
    if (first && is_one) {
        text_string(t, "  both sides of every prompt: ");
        say_configuration(t, &first->header);
        text_string(t, "\n");
    }
    for (size_t i = 0; i < a->n_prompt * SIDE_COUNT && !is_one; i++) {
        if (side_at(a, i)->is_present) {
            text_format(t, "  %s, %s: ", a->prompt[i / SIDE_COUNT].id,
                        i % SIDE_COUNT == SIDE_A ? "prefill_last" : "decode0");
            say_configuration(t, &side_at(a, i)->header);
            text_string(t, "\n");
        }
    }
}

static void write_worth(text *t, const analysis *a)
{
    const analysis_prompt *measured = NULL;
    text_string(t, "\nwhat was compared:\n");
    write_configurations(t, a);
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *p = &a->prompt[i];
        if (p->n_stage > 0) {
            measured = measured ? measured : p;
            text_format(t, "  %s: ", p->id);
            say_coverage(t, LANG_EN, p);
            text_string(t, " ");
            say_judged(t, LANG_EN, p);
            text_string(t, " ");
            say_instrument(t, LANG_EN, p);
            text_string(t, "\n");
        }
    }
    if (measured) {
        text_string(t, "  not looked at: ");
        say_not_seen(t, LANG_EN, measured);
        text_string(t, "\n");
    } else {
        text_string(t, "  nothing\n");
    }
}

void report_human(text *t, const analysis *a)
{
    say_headline(t, LANG_EN, a);
    text_string(t, "\n");
    write_norms(t, a);
    for (size_t i = 0; i < a->n_prompt; i++) {
        write_prompt(t, &a->prompt[i]);
    }
    write_worth(t, a);
    text_string(t, "\ncommands:\n");
    for (size_t i = 0; i < a->n_command; i++) {
        text_format(t, "  %s\n", a->command[i]);
    }
    if (a->has_out) {
        text_format(t, "reports: report.md, analysis.tsv, analysis.json in %s\n", a->out);
    }
    if (analysis_has_traces(a)) {
        text_format(t, "traces: %s\n", a->traces);
    }
}
