/* agree.c - whether two records of one row say the same: the hash that an INDEX has for a row is
 * that of the row's own record.
 *
 * The writer takes both from one place, so that a trace in which they differ was put together from
 * two, or by a writer that is wrong; what such a trace says of what was stored is worth nothing.
 * Indexes are sorted by (stage, layer, sequence, pass, first position), and each row's is searched.
 */
#include "trace/agree.h"

#include "base/stage.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct index_at {
    trace_head head;
    size_t record;
} index_at;

static int order_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* By all but positions. */
static int by_pass(const trace_head *x, const trace_head *y)
{
    int by = order_of(x->name, y->name);
    by = by != 0 ? by : order_of(x->layer, y->layer);
    by = by != 0 ? by : order_of(x->sequence, y->sequence);
    return by != 0 ? by : order_of(x->pass, y->pass);
}

static int by_position(const void *a, const void *b)
{
    const trace_head *x = &((const index_at *)a)->head, *y = &((const index_at *)b)->head;
    int by = by_pass(x, y);
    return by != 0 ? by : order_of(x->position, y->position);
}

/* The last index of the row's pass that begins at its position or before; NULL: none. */
static const index_at *index_find(const index_at *list, size_t n, const trace_head *row)
{
    size_t low = 0, high = n; /* the first one behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int by = by_pass(&list[middle].head, row);
        if (by < 0 || (by == 0 && list[middle].head.position <= row->position)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 && by_pass(&list[low - 1].head, row) == 0 ? &list[low - 1] : NULL;
}

static bool is_hashed(row_hash h)
{
    return h.ordered != 0 || h.bag != 0;
}

/* Whether the index has another hash for the row. */
static bool contradicts(const index_at *index, const trace_head *row)
{
    const trace_head *h = &index->head;
    int64_t at = (int64_t)row->position - h->position;
    row_hash hash;
    if (at >= h->n || !is_hashed(row->content)) {
        return false;
    }
    memcpy(&hash, (const uint8_t *)h->values + (size_t)at * sizeof hash, sizeof hash);
    return is_hashed(hash) &&
           (hash.ordered != row->content.ordered || hash.bag != row->content.bag);
}

greta_status trace_agree(const trace *t, greta_error *err)
{
    size_t n = 0, n_index = 0;
    greta_status status = GRETA_OK;
    for (size_t i = 0; i < t->n_record; i++) {
        n_index += (t->head ? t->head[i].kind : (int)t->record[i].kind) == TRACE_INDEX;
    }
    index_at *list = n_index > 0 ? malloc(n_index * sizeof *list) : NULL;
    if (!list) {
        return n_index > 0 ? error_memory(err, "indexes of the trace", n_index * sizeof *list)
                           : GRETA_OK;
    }
    for (size_t i = 0; i < t->n_record; i++) {
        const index_at at = {trace_head_of(t, i), i};
        if (at.head.kind == TRACE_INDEX && at.head.values) {
            list[n++] = at;
        }
    }
    qsort(list, n, sizeof *list, by_position);
    for (size_t i = 0; i < t->n_record && status == GRETA_OK; i++) {
        const trace_head row = trace_head_of(t, i);
        const index_at *index = row.kind == TRACE_ROW ? index_find(list, n, &row) : NULL;
        if (index && contradicts(index, &row)) {
            status = error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, index->record + 2,
                              "the hash of %s, layer %" PRId32 ", position %" PRId32
                              " is not that of its own record, in line %zu",
                              stage_name((stage)row.name), row.layer, row.position, i + 2);
        }
    }
    free(list);
    return status;
}
