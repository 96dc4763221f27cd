/* catalog.c - the two orders of a trace's records, and look-ups in them.
 *
 * A trace of a long prompt holds hundreds of thousands of rows, and every op judged asks several
 * times who wrote its operands and where a content was seen: linear search would make the cost
 * quadratic. Contents are sorted by the order-free hash first, so that one order answers both "this
 * row" and "these values in another order".
 */
#include "explain/catalog.h"

#include <stdlib.h>
#include <string.h>

static bool is_taken(row_hash h)
{
    return h.ordered != 0 || h.bag != 0;
}

/* ---- Contents -------------------------------------------------------------------------------- */

static int by_content(const void *a, const void *b)
{
    const sighting *x = a, *y = b;
    if (x->content.bag != y->content.bag) {
        return x->content.bag < y->content.bag ? -1 : 1;
    }
    if (x->content.ordered != y->content.ordered) {
        return x->content.ordered < y->content.ordered ? -1 : 1;
    }
    if (x->record->n != y->record->n) {
        return x->record->n < y->record->n ? -1 : 1;
    }
    return x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind)
                              : (x->row > y->row) - (x->row < y->row);
}

static size_t sightings_of(const trace_record *r)
{
    return r->kind == TRACE_INDEX ? (size_t)r->chunk_rows
                                  : (size_t)(r->n_in + r->n_weight + r->n_out);
}

/* Hash of an INDEX record's row; false: it has no such row. */
static bool index_hash(const trace_record *index, int64_t row, row_hash *hash)
{
    const trace_tensor *out = &index->out[0];
    if (row < 0 || row >= index->chunk_rows || !out->data ||
        out->blob_bytes < (uint64_t)index->chunk_rows * sizeof *hash) {
        return false;
    }
    memcpy(hash, (const row_hash *)out->data + row, sizeof *hash);
    return true;
}

static void sight(catalog *c, const sighting *s)
{
    if (is_taken(s->content)) {
        c->sighting[c->n_sighting++] = *s;
    }
}

static void sight_record(catalog *c, const trace_record *r)
{
    for (int64_t row = 0; r->kind == TRACE_INDEX && row < r->chunk_rows; row++) {
        sighting s = {.record = r, .kind = SIGHTING_WRITTEN, .part = -1, .row = row};
        if (index_hash(r, row, &s.content)) {
            sight(c, &s);
        }
    }
    if (r->kind == TRACE_INDEX) {
        return;
    }
    for (int32_t i = 0; i < r->n_out; i++) {
        sight(c, &(sighting){r->out[i].hash, r, SIGHTING_WRITTEN, i, 0});
    }
    for (int32_t i = 0; i < r->n_in; i++) {
        sight(c, &(sighting){r->in[i].hash, r, SIGHTING_READ, i, 0});
    }
    for (int32_t i = 0; i < r->n_weight; i++) {
        sight(c, &(sighting){r->weight[i].hash, r, SIGHTING_WEIGHT, i, 0});
    }
}

static greta_status contents_sort(catalog *c, greta_error *err)
{
    size_t n = 1;
    for (size_t i = 0; i < c->trace->n_record; i++) {
        n += sightings_of(&c->trace->record[i]);
    }
    c->sighting = malloc(n * sizeof *c->sighting);
    if (!c->sighting) {
        return error_memory(err, "the catalog of a trace", n * sizeof *c->sighting);
    }
    for (size_t i = 0; i < c->trace->n_record; i++) {
        sight_record(c, &c->trace->record[i]);
    }
    qsort(c->sighting, c->n_sighting, sizeof *c->sighting, by_content);
    return GRETA_OK;
}

const sighting *catalog_find(const catalog *c, row_hash content, bool any_order, size_t *n)
{
    size_t low = 0, high = c->n_sighting;
    *n = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        row_hash at = c->sighting[middle].content;
        bool is_before = at.bag < content.bag ||
                         (at.bag == content.bag && !any_order && at.ordered < content.ordered);
        if (is_before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const sighting *first = c->sighting + low;
    while (low < c->n_sighting && c->sighting[low].content.bag == content.bag &&
           (any_order || c->sighting[low].content.ordered == content.ordered)) {
        low++;
        ++*n;
    }
    return is_taken(content) && *n > 0 ? first : NULL;
}

static const trace_tensor *tensor_of(const sighting *s)
{
    return s->part < 0                   ? NULL
           : s->kind == SIGHTING_WRITTEN ? &s->record->out[s->part]
           : s->kind == SIGHTING_READ    ? &s->record->in[s->part]
                                         : &s->record->weight[s->part];
}

const trace_tensor *catalog_values(const catalog *c, row_hash content)
{
    size_t n;
    const sighting *s = catalog_find(c, content, false, &n);
    for (size_t i = 0; s && i < n; i++) {
        const trace_tensor *t = tensor_of(&s[i]);
        if (t && t->data && t->n_kept == t->n) {
            return t;
        }
    }
    return NULL;
}

/* ---- Places ---------------------------------------------------------------------------------- */

static size_t place_of(stage name, int32_t layer)
{
    return (size_t)((int64_t)layer + 1) * (STAGE_COUNT + 1) + (size_t)name;
}

static int order_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* By place, sequence and position. */
static int by_row(const written_row *x, const written_row *y)
{
    int by = order_of((int64_t)x->place, (int64_t)y->place);
    by = by != 0 ? by : order_of(x->sequence, y->sequence);
    return by != 0 ? by : order_of(x->position, y->position);
}

static int by_place(const void *a, const void *b)
{
    const written_row *x = a, *y = b;
    int by = by_row(x, y);
    by = by != 0 ? by : order_of(x->pass, y->pass);
    return by != 0 ? by : order_of(x->record == NULL, y->record == NULL);
}

static void place_record(catalog *c, const trace_record *r)
{
    written_row w = {place_of(r->name, r->layer), r->sequence, r->position, r->pass, {0, 0}, NULL};
    if (r->kind == TRACE_ROW && r->n_out > 0) {
        w.content = r->out[0].hash;
        w.record = r;
        c->written[c->n_written++] = w;
    }
    for (int64_t row = 0; r->kind == TRACE_INDEX && row < r->chunk_rows; row++) {
        w.position = r->first_position + (int32_t)row;
        if (index_hash(r, row, &w.content)) {
            c->written[c->n_written++] = w;
        }
    }
}

static greta_status places_sort(catalog *c, greta_error *err)
{
    const trace *t = c->trace;
    size_t n = 1;
    for (size_t i = 0; i < t->n_record; i++) {
        n += t->record[i].kind == TRACE_INDEX ? (size_t)t->record[i].chunk_rows : 1;
    }
    c->written = malloc(n * sizeof *c->written);
    c->weight = malloc((t->n_record + 1) * sizeof(trace_record *));
    if (!c->written || !c->weight) {
        return error_memory(err, "the catalog of a trace", n * sizeof *c->written);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        place_record(c, &t->record[i]);
        if (t->record[i].kind == TRACE_WEIGHT) {
            c->weight[c->n_weight++] = &t->record[i];
        }
    }
    qsort(c->written, c->n_written, sizeof *c->written, by_place);
    return GRETA_OK;
}

/* The latest row written there up to the pass; NULL: none. */
static const written_row *latest(const catalog *c, const row_place *at)
{
    written_row wanted = {
        place_of(at->name, at->layer), at->sequence, at->position, at->pass, {0, 0}, NULL};
    size_t low = 0, high = c->n_written; /* the first one behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const written_row *w = &c->written[middle];
        int by = by_row(w, &wanted);
        if (by < 0 || (by == 0 && w->pass <= at->pass)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const written_row *found = low > 0 ? &c->written[low - 1] : NULL;
    while (found && found > c->written && by_row(found - 1, found) == 0 &&
           found[-1].pass == found->pass) {
        found--; /* a ROW stands before the INDEX of its pass */
    }
    return found && by_row(found, &wanted) == 0 ? found : NULL;
}

bool catalog_written(const catalog *c, const row_place *at, row_hash *hash)
{
    const written_row *w = latest(c, at);
    *hash = w ? w->content : (row_hash){0, 0};
    return w && w->pass == at->pass && is_taken(w->content);
}

bool catalog_stored(const catalog *c, const row_place *at, row_hash *hash)
{
    const written_row *w = latest(c, at);
    *hash = w ? w->content : (row_hash){0, 0};
    return w && is_taken(w->content);
}

const trace_record *catalog_row(const catalog *c, const row_place *at)
{
    const written_row *w = latest(c, at);
    return w && w->pass == at->pass ? w->record : NULL;
}

greta_status catalog_new(const trace *t, catalog *out, greta_error *err)
{
    *out = (catalog){.trace = t};
    greta_status status = contents_sort(out, err);
    status = status != GRETA_OK ? status : places_sort(out, err);
    if (status != GRETA_OK) {
        catalog_free(out);
    }
    return status;
}

void catalog_free(catalog *c)
{
    free(c->sighting);
    free(c->written);
    free(c->weight);
    *c = (catalog){0};
}
