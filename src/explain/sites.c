/* sites.c - the tokens of a trace, each with its records filed by stage and layer.
 *
 * One sort of the rows makes all of them, so that a trace of many tokens is not read once for each.
 */
#include "explain/catalog.h"

#include <stdlib.h>

static int order_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_site(const trace_record *x, const trace_record *y)
{
    int by = order_of(x->pass, y->pass);
    by = by != 0 ? by : order_of((int)x->phase, (int)y->phase);
    by = by != 0 ? by : order_of(x->sequence, y->sequence);
    return by != 0 ? by : order_of(x->position, y->position);
}

static int by_record(const void *a, const void *b)
{
    const trace_record *x = *(const trace_record *const *)a, *y = *(const trace_record *const *)b;
    int by = by_site(x, y);
    return by != 0 ? by : order_of((int64_t)x->n, (int64_t)y->n);
}

static greta_status site_start(const trace *t, const trace_record *any, site *out, greta_error *err)
{
    size_t n = ((size_t)t->header.n_layer + 1) * STAGE_COUNT;
    *out = (site){.trace = t, .any = any};
    out->record = calloc(n, sizeof *out->record);
    if (!out->record) {
        *out = (site){0};
        return error_memory(err, "the records of a row", n * sizeof *out->record);
    }
    return GRETA_OK;
}

static void site_file(site *s, const trace_record *r)
{
    if (r->layer < -1 || r->layer >= s->trace->header.n_layer || r->n_out < 1) {
        return;
    }
    const trace_record **at = &s->record[(size_t)(r->layer + 1) * STAGE_COUNT + r->name];
    if (*at) {
        s->twice = r;
    } else {
        *at = r;
    }
}

greta_status site_new(const trace *t, const trace_record *any, site *out, greta_error *err)
{
    GRETA_TRY(site_start(t, any, out, err));
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].kind == TRACE_ROW && by_site(&t->record[i], any) == 0) {
            site_file(out, &t->record[i]);
        }
    }
    return GRETA_OK;
}

void site_free(site *s)
{
    free(s->record);
    *s = (site){0};
}

/* ---- All of a trace -------------------------------------------------------------------------- */

greta_status site_list_new(const trace *t, site_list *out, greta_error *err)
{
    size_t n_row = 0;
    *out = (site_list){.trace = t};
    out->row = malloc((t->n_record + 1) * sizeof(trace_record *));
    out->first = malloc((t->n_record + 2) * sizeof(size_t));
    if (!out->row || !out->first) {
        site_list_free(out);
        return error_memory(err, "the tokens of a trace", t->n_record * sizeof(trace_record *));
    }
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].kind == TRACE_ROW) {
            out->row[n_row++] = &t->record[i];
        }
    }
    qsort(out->row, n_row, sizeof *out->row, by_record);
    for (size_t i = 0; i < n_row; i++) {
        if (i == 0 || by_site(out->row[i - 1], out->row[i]) != 0) {
            out->first[out->n++] = i;
        }
    }
    out->first[out->n] = n_row;
    return GRETA_OK;
}

void site_list_free(site_list *list)
{
    free(list->row);
    free(list->first);
    *list = (site_list){0};
}

size_t site_list_of(const site_list *list, const trace_record *record)
{
    size_t low = 0, high = list->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (by_site(list->row[list->first[middle]], record) <= 0) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

greta_status site_list_open(const site_list *list, size_t i, site *out, greta_error *err)
{
    GRETA_TRY(site_start(list->trace, list->row[list->first[i]], out, err));
    for (size_t k = list->first[i]; k < list->first[i + 1]; k++) {
        site_file(out, list->row[k]);
    }
    return GRETA_OK;
}
