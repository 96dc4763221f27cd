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
    if (x->record != y->record) {
        return x->record < y->record ? -1 : 1;
    }
    return x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind)
                              : (x->row > y->row) - (x->row < y->row);
}

/* A hash of an INDEX. */
static row_hash index_hash(const trace_head *index, int64_t row)
{
    row_hash hash;
    memcpy(&hash, (const row_hash *)index->values + row, sizeof hash);
    return hash;
}

static greta_status sight(catalog *c, const sighting *s, greta_error *err)
{
    if (!is_taken(s->content)) {
        return GRETA_OK;
    }
    if (c->n_sighting == c->n_sighting_max) {
        size_t n = c->n_sighting_max ? c->n_sighting_max + c->n_sighting_max / 2 : 1024;
        sighting *grown = realloc(c->sighting, n * sizeof *grown);
        if (!grown) {
            return error_memory(err, "the catalog of a trace", n * sizeof *grown);
        }
        c->sighting = grown;
        c->n_sighting_max = n;
    }
    c->sighting[c->n_sighting++] = *s;
    return GRETA_OK;
}

/* Of what a row read, only values that nobody else may have kept are worth finding. */
static greta_status sight_row(catalog *c, uint32_t i, greta_error *err)
{
    trace_record room;
    const trace_record *r = trace_at(c->trace, i, &room);
    for (int32_t k = 0; k < r->n_out; k++) {
        sighting s = {r->out[k].hash, i, 0, SIGHTING_WRITTEN, (int8_t)k};
        GRETA_TRY(sight(c, &s, err));
    }
    for (int32_t k = 0; k < r->n_in; k++) {
        sighting s = {r->in[k].hash, i, 0, SIGHTING_READ, (int8_t)k};
        bool is_kept = r->in[k].data && r->in[k].n_kept == r->in[k].n;
        GRETA_TRY(is_kept ? sight(c, &s, err) : GRETA_OK);
    }
    return GRETA_OK;
}

static greta_status sight_record(catalog *c, uint32_t i, greta_error *err)
{
    const trace_head h = trace_head_of(c->trace, i);
    if (h.kind == TRACE_ROW) {
        return sight_row(c, i, err);
    }
    if (h.kind == TRACE_WEIGHT) {
        return sight(c, &(sighting){h.content, i, 0, SIGHTING_WEIGHT, 0}, err);
    }
    for (int32_t row = 0; h.values && row < h.n; row++) {
        sighting s = {index_hash(&h, row), i, row, SIGHTING_WRITTEN, -1};
        GRETA_TRY(sight(c, &s, err));
    }
    return GRETA_OK;
}

static greta_status contents_sort(catalog *c, greta_error *err)
{
    for (size_t i = 0; i < c->trace->n_record; i++) {
        GRETA_TRY(sight_record(c, (uint32_t)i, err));
    }
    if (c->n_sighting > 0) {
        qsort(c->sighting, c->n_sighting, sizeof *c->sighting, by_content);
    }
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

/* The values behind a sighting. */
static row_values values_of(const catalog *c, const sighting *s)
{
    const trace_head h = trace_head_of(c->trace, s->record);
    if (s->part < 0) {
        return (row_values){0};
    }
    if (s->part == 0 && s->kind != SIGHTING_READ) {
        return (row_values){h.type, h.n, h.values};
    }
    trace_record room;
    const trace_record *r = trace_at(c->trace, s->record, &room);
    const trace_tensor *t = s->kind == SIGHTING_READ ? &r->in[s->part] : &r->out[s->part];
    return (row_values){t->type, t->n, t->n_kept == t->n ? t->data : NULL};
}

row_values catalog_values(const catalog *c, row_hash content)
{
    size_t n;
    const sighting *s = catalog_find(c, content, false, &n);
    row_values found = {0};
    for (size_t i = 0; s && i < n && !found.data; i++) {
        found = values_of(c, &s[i]);
    }
    return found;
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

/* A row that was written, as it is looked for. */
typedef struct written_key {
    size_t place;
    int32_t sequence, position;
    int64_t pass;
    bool is_index;
} written_key;

static written_key key_of(const trace *t, const written_row *w)
{
    const trace_head h = trace_head_of(t, w->record);
    return (written_key){place_of((stage)h.name, h.layer), h.sequence, h.position + w->row, h.pass,
                         h.kind == TRACE_INDEX};
}

static row_hash content_of(const trace *t, const written_row *w)
{
    const trace_head h = trace_head_of(t, w->record);
    return h.kind == TRACE_INDEX ? index_hash(&h, w->row) : h.content;
}

/* By place, sequence and position. */
static int by_row(const written_key *x, const written_key *y)
{
    int by = order_of((int64_t)x->place, (int64_t)y->place);
    by = by != 0 ? by : order_of(x->sequence, y->sequence);
    return by != 0 ? by : order_of(x->position, y->position);
}

static int by_place(const void *a, const void *b, void *user)
{
    const written_key x = key_of(user, a), y = key_of(user, b);
    int by = by_row(&x, &y);
    by = by != 0 ? by : order_of(x.pass, y.pass);
    by = by != 0 ? by : order_of(x.is_index, y.is_index);
    return by != 0 ? by
                   : order_of(((const written_row *)a)->record, ((const written_row *)b)->record);
}

static greta_status places_sort(catalog *c, greta_error *err)
{
    const trace *t = c->trace;
    size_t n = 1, n_weight = 1;
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_head h = trace_head_of(t, i);
        n += h.kind == TRACE_INDEX ? (size_t)h.n : 1;
        n_weight += h.kind == TRACE_WEIGHT;
    }
    c->written = malloc(n * sizeof *c->written);
    c->weight = malloc(n_weight * sizeof *c->weight);
    if (!c->written || !c->weight) {
        return error_memory(err, "the catalog of a trace", n * sizeof *c->written);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_head h = trace_head_of(t, i);
        int64_t n_row = h.kind == TRACE_INDEX && h.values ? h.n : h.kind == TRACE_ROW;
        for (int32_t row = 0; row < n_row; row++) {
            c->written[c->n_written++] = (written_row){(uint32_t)i, row};
        }
        if (h.kind == TRACE_WEIGHT) {
            c->weight[c->n_weight++] = (uint32_t)i;
        }
    }
    qsort_r(c->written, c->n_written, sizeof *c->written, by_place, (void *)(uintptr_t)t);
    return GRETA_OK;
}

/* The latest row written there up to the pass; NULL: none. */
static const written_row *latest(const catalog *c, const row_place *at, written_key *key)
{
    const written_key wanted = {place_of(at->name, at->layer), at->sequence, at->position, at->pass,
                                false};
    size_t low = 0, high = c->n_written; /* the first one behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        *key = key_of(c->trace, &c->written[middle]);
        int by = by_row(key, &wanted);
        if (by < 0 || (by == 0 && key->pass <= at->pass)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0) {
        return NULL;
    }
    const written_row *found = &c->written[low - 1];
    *key = key_of(c->trace, found);
    while (found > c->written) { /* a ROW stands before the INDEX of its pass */
        const written_key before = key_of(c->trace, found - 1);
        if (by_row(&before, key) != 0 || before.pass != key->pass) {
            break;
        }
        found--;
    }
    return by_row(key, &wanted) == 0 ? found : NULL;
}

bool catalog_written(const catalog *c, const row_place *at, row_hash *hash)
{
    written_key key;
    const written_row *w = latest(c, at, &key);
    *hash = w ? content_of(c->trace, w) : (row_hash){0, 0};
    return w && key.pass == at->pass && is_taken(*hash);
}

bool catalog_stored(const catalog *c, const row_place *at, row_hash *hash)
{
    written_key key;
    const written_row *w = latest(c, at, &key);
    *hash = w ? content_of(c->trace, w) : (row_hash){0, 0};
    return w && is_taken(*hash);
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
