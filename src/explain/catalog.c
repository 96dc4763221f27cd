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

static size_t place_of(const catalog *c, stage name, int32_t layer)
{
    bool is_there = layer >= -1 && layer < c->trace->header.n_layer && name < STAGE_COUNT;
    return is_there ? (size_t)(layer + 1) * STAGE_COUNT + (size_t)name : SIZE_MAX;
}

static greta_status places_sort(catalog *c, greta_error *err)
{
    const trace *t = c->trace;
    size_t n_place = ((size_t)t->header.n_layer + 1) * STAGE_COUNT;
    c->place = calloc(n_place + 2, sizeof *c->place);
    c->placed = malloc((t->n_record + 1) * sizeof(trace_record *));
    if (!c->place || !c->placed) {
        return error_memory(err, "the catalog of a trace", t->n_record * sizeof(trace_record *));
    }
    for (int pass = 0; pass < 2; pass++) { /* count, then file */
        for (size_t i = 0; i < t->n_record; i++) {
            const trace_record *r = &t->record[i];
            size_t at = place_of(c, r->name, r->layer);
            if (r->kind == TRACE_WEIGHT || r->n_out < 1 || at == SIZE_MAX) {
                continue;
            }
            if (pass == 0) {
                c->place[at + 2]++;
            } else {
                c->placed[c->place[at + 1]++] = r;
            }
        }
        for (size_t at = 0; pass == 0 && at < n_place; at++) {
            c->place[at + 2] += c->place[at + 1];
        }
    }
    return GRETA_OK;
}

/* Whether a record says what was written there, whatever the pass. */
static bool record_written(const trace_record *r, const row_place *at, row_hash *hash)
{
    if (r->sequence != at->sequence) {
        return false;
    }
    if (r->kind == TRACE_ROW) {
        *hash = r->out[0].hash;
        return r->position == at->position && is_taken(*hash);
    }
    return index_hash(r, (int64_t)at->position - r->first_position, hash);
}

static bool written(const catalog *c, const row_place *at, bool is_exact, row_hash *hash)
{
    size_t place = place_of(c, at->name, at->layer);
    int64_t best = -1;
    *hash = (row_hash){0, 0};
    for (size_t i = place == SIZE_MAX ? 1 : c->place[place];
         place != SIZE_MAX && i < c->place[place + 1]; i++) {
        const trace_record *r = c->placed[i];
        row_hash found;
        bool is_wanted = is_exact ? r->pass == at->pass : r->pass <= at->pass && r->pass > best;
        if (is_wanted && record_written(r, at, &found)) {
            *hash = found;
            best = r->pass;
        }
    }
    return best >= 0;
}

bool catalog_written(const catalog *c, const row_place *at, row_hash *hash)
{
    return written(c, at, true, hash);
}

bool catalog_stored(const catalog *c, const row_place *at, row_hash *hash)
{
    return written(c, at, false, hash);
}

const trace_record *catalog_row(const catalog *c, const row_place *at)
{
    size_t place = place_of(c, at->name, at->layer);
    for (size_t i = place == SIZE_MAX ? 1 : c->place[place];
         place != SIZE_MAX && i < c->place[place + 1]; i++) {
        const trace_record *r = c->placed[i];
        if (r->kind == TRACE_ROW && r->pass == at->pass && r->sequence == at->sequence &&
            r->position == at->position) {
            return r;
        }
    }
    return NULL;
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
    free(c->placed);
    free(c->place);
    *c = (catalog){0};
}

/* ---- One token of one run -------------------------------------------------------------------- */

greta_status site_new(const trace *t, const trace_record *any, site *out, greta_error *err)
{
    size_t n = ((size_t)t->header.n_layer + 1) * STAGE_COUNT;
    *out = (site){.trace = t, .any = any};
    out->record = calloc(n, sizeof *out->record);
    if (!out->record) {
        *out = (site){0};
        return error_memory(err, "the records of a row", n * sizeof *out->record);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        bool is_ours = r->kind == TRACE_ROW && r->pass == any->pass && r->phase == any->phase &&
                       r->position == any->position && r->sequence == any->sequence;
        if (!is_ours || r->layer < -1 || r->layer >= t->header.n_layer || r->n_out < 1) {
            continue;
        }
        const trace_record **at = &out->record[(size_t)(r->layer + 1) * STAGE_COUNT + r->name];
        if (*at) {
            out->twice = r;
        } else {
            *at = r;
        }
    }
    return GRETA_OK;
}

void site_free(site *s)
{
    free(s->record);
    *s = (site){0};
}
