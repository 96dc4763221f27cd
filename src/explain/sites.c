/* sites.c - the tokens of a trace, each with its records filed by stage and layer.
 *
 * One sort of the rows makes all of them, so that a trace of many tokens is not read once for each.
 * Of a trace that holds no records, those of one token are read when its site is opened.
 */
#include "explain/catalog.h"

#include <stdlib.h>

static int order_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_site(const trace_head *x, const trace_head *y)
{
    int by = order_of(x->pass, y->pass);
    by = by != 0 ? by : order_of(x->phase, y->phase);
    by = by != 0 ? by : order_of(x->sequence, y->sequence);
    return by != 0 ? by : order_of(x->position, y->position);
}

static int by_record(const void *a, const void *b, void *user)
{
    const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    const trace_head x = trace_head_of(user, i), y = trace_head_of(user, k);
    int by = by_site(&x, &y);
    return by != 0 ? by : order_of(i, k);
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

/* The site of records row[0..n), n from 1. */
static greta_status site_of_rows(const trace *t, const uint32_t *row, size_t n, site *out,
                                 greta_error *err)
{
    size_t n_place = ((size_t)t->header.n_layer + 1) * STAGE_COUNT;
    *out = (site){.trace = t};
    out->record = calloc(n_place, sizeof *out->record);
    out->room = t->record ? NULL : malloc(n * sizeof *out->room);
    if (!out->record || (!t->record && !out->room)) {
        site_free(out);
        return error_memory(err, "the records of a row", n * sizeof *out->room);
    }
    for (size_t i = 0; i < n; i++) {
        const trace_record *r = trace_at(t, row[i], out->room ? &out->room[i] : NULL);
        out->any = out->any ? out->any : r;
        site_file(out, r);
    }
    return GRETA_OK;
}

greta_status site_new(const trace *t, const trace_record *any, site *out, greta_error *err)
{
    const trace_head wanted = trace_head_new(any);
    uint32_t *row = malloc((t->n_record + 1) * sizeof *row);
    size_t n = 0;
    *out = (site){0};
    if (!row) {
        return error_memory(err, "the records of a row", t->n_record * sizeof *row);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_head h = trace_head_of(t, i);
        if (h.kind == TRACE_ROW && by_site(&h, &wanted) == 0) {
            row[n++] = (uint32_t)i;
        }
    }
    greta_status status = site_of_rows(t, row, n, out, err);
    out->any = status == GRETA_OK ? any : NULL;
    free(row);
    return status;
}

void site_free(site *s)
{
    free(s->record);
    free(s->room);
    *s = (site){0};
}

/* ---- All of a trace -------------------------------------------------------------------------- */

greta_status site_list_new(const trace *t, site_list *out, greta_error *err)
{
    size_t n_row = 0;
    *out = (site_list){.trace = t};
    out->row = malloc((t->n_record + 1) * sizeof *out->row);
    if (!out->row) {
        return error_memory(err, "the tokens of a trace", t->n_record * sizeof *out->row);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        if (trace_head_of(t, i).kind == TRACE_ROW) {
            out->row[n_row++] = (uint32_t)i;
        }
    }
    qsort_r(out->row, n_row, sizeof *out->row, by_record, (void *)(uintptr_t)t);
    for (int pass = 0; pass < 2; pass++) { /* counts the sites, then notes where each begins */
        trace_head last = {0};
        out->n = 0;
        for (size_t i = 0; i < n_row; i++) {
            const trace_head h = trace_head_of(t, out->row[i]);
            if (i == 0 || by_site(&last, &h) != 0) {
                out->n++;
                if (pass == 1) {
                    out->first[out->n - 1] = i;
                }
            }
            last = h;
        }
        out->first = pass == 0 ? malloc((out->n + 1) * sizeof *out->first) : out->first;
        if (!out->first) {
            site_list_free(out);
            return error_memory(err, "the tokens of a trace", n_row * sizeof *out->first);
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

size_t site_list_of(const site_list *list, uint32_t i)
{
    const trace_head wanted = trace_head_of(list->trace, i);
    size_t low = 0, high = list->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        const trace_head h = trace_head_of(list->trace, list->row[list->first[middle]]);
        if (by_site(&h, &wanted) <= 0) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

greta_status site_list_open(const site_list *list, size_t i, site *out, greta_error *err)
{
    return site_of_rows(list->trace, &list->row[list->first[i]],
                        list->first[i + 1] - list->first[i], out, err);
}
