/* pair.c - pairs the rows of two traces by key, and says in which bits two rows differ.
 *
 * Both sides are sorted by key and merged, so that the cost is n log n whatever the traces hold; of
 * rows that are only counted as equal, no more is looked at than what stays in memory of them. A
 * key that stands alone is looked up once more with fewer parts, to name the part that differs:
 * most failures of comparisons are comparisons of different tokens, and they must say so.
 *
 * Bits decide. A NaN equals every NaN (numbers are written so), and +0 differs from -0.
 */
#include "explain/pair.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#define SCALE_BLOCK 32 /* values per scale of ACT_Q8 */

static const char *const field_names[] = {"stage", "layer", "position", "prefix", "pass"};

const char *pair_field_name(pair_field field)
{
    return (unsigned)field < PAIR_FIELD_COUNT ? field_names[field] : "?";
}

/* ---- Order ----------------------------------------------------------------------------------- */

static int order(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int order_signed(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* What a row is sorted by. */
typedef struct row_key {
    uint64_t prefix;
    int64_t pass;
    int32_t layer, position;
    uint32_t n; /* of its record */
    uint8_t name, phase;
} row_key;

/* By stage, then layer, then position: the first `depth` of them. */
static int order_place(const row_key *a, const row_key *b, int depth)
{
    int by = order_signed(a->name, b->name);
    by = by != 0 || depth < 2 ? by : order_signed(a->layer, b->layer);
    return by != 0 || depth < 3 ? by : order_signed(a->position, b->position);
}

static int order_key(const row_key *a, const row_key *b)
{
    int by = order(a->prefix, b->prefix);
    return by != 0 ? by : order_place(a, b, 3);
}

static int sort_place(const void *a, const void *b)
{
    return order_place(a, b, 3);
}

/* Within a key by phase, then pass, so that equal phases of two traces stand at equal places. */
static int sort_key(const void *a, const void *b)
{
    const row_key *x = a, *y = b;
    int by = order_key(x, y);
    by = by != 0 ? by : order_signed(x->phase, y->phase);
    by = by != 0 ? by : order_signed(x->pass, y->pass);
    return by != 0 ? by : order(x->n, y->n);
}

/* Place of a stage in a pass. */
static int64_t execution_rank(const trace_head *h)
{
    bool is_after = !stage_is_per_layer((stage)h->name) && h->name > STAGE_ATTN_NORM;
    int64_t layer = is_after ? INT32_MAX : h->layer; /* -1 before the layers */
    return layer * STAGE_COUNT + h->name;
}

/* A pair with where it stands in each run. */
typedef struct ranked_pair {
    pair_rows rows;
    int64_t pass[2], rank[2];
    int32_t row[2];
} ranked_pair;

static int sort_execution(const void *a, const void *b)
{
    const ranked_pair *x = a, *y = b;
    for (int side = 0; side < 2; side++) {
        int by = order_signed(x->pass[side], y->pass[side]);
        by = by != 0 ? by : order_signed(x->rank[side], y->rank[side]);
        by = by != 0 ? by : order_signed(x->row[side], y->row[side]);
        by = by != 0 ? by : order(x->rows.row[side], y->rows.row[side]);
        if (by != 0) {
            return by;
        }
    }
    return 0;
}

/* ---- Pairing --------------------------------------------------------------------------------- */

typedef struct rows {
    row_key *by_key, *by_place; /* by_place: made when a row without a partner asks */
    size_t n;
} rows;

typedef struct rows_group { /* rows of one key */
    const row_key *row;
    size_t n;
} rows_group;

static greta_status rows_sort(const trace *t, rows *r, greta_error *err)
{
    r->by_key = malloc((t->n_record + 1) * sizeof *r->by_key);
    if (r->by_key == NULL) {
        return error_memory(err, "pairs", t->n_record * sizeof *r->by_key);
    }
    for (size_t i = 0; i < t->n_record; i++) {
        trace_head h = trace_head_of(t, i);
        if (h.kind == TRACE_ROW) {
            r->by_key[r->n++] =
                (row_key){h.prefix, h.pass, h.layer, h.position, (uint32_t)i, h.name, h.phase};
        }
    }
    qsort(r->by_key, r->n, sizeof *r->by_key, sort_key);
    return GRETA_OK;
}

static rows_group group_at(const rows *r, size_t start)
{
    size_t end = start;
    while (end < r->n && order_key(&r->by_key[end], &r->by_key[start]) == 0) {
        end++;
    }
    return (rows_group){r->by_key + start, end - start};
}

/* Whether a row with the same stage, layer and position (the first `depth` of them) is there. */
static bool has_place(const rows *r, const row_key *row, int depth)
{
    size_t low = 0, high = r->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (order_place(&r->by_place[middle], row, depth) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < r->n && order_place(&r->by_place[low], row, depth) == 0;
}

static pair_field field_of(const rows *other, const row_key *row)
{
    return !has_place(other, row, 1)   ? PAIR_STAGE
           : !has_place(other, row, 2) ? PAIR_LAYER
           : !has_place(other, row, 3) ? PAIR_POSITION
                                       : PAIR_PREFIX;
}

/* Rows of a key are sorted by phase and pass: two of one pass are neighbours. */
static bool has_twice(const rows_group *g)
{
    for (size_t i = 1; i < g->n; i++) {
        if (g->row[i].pass == g->row[i - 1].pass) {
            return true;
        }
    }
    return false;
}

static void group_pair(pairing *p, const rows_group group[2])
{
    size_t n = group[0].n > group[1].n ? group[0].n : group[1].n;
    for (size_t i = 0; i < n; i++) {
        pair_rows *q = &p->pair[p->n_pair++];
        for (int side = 0; side < 2; side++) {
            q->row[side] = group[side].row[i < group[side].n ? i : group[side].n - 1].n;
        }
    }
}

/* Rows without a partner; their fields are known when all are. */
static void group_leave(pairing *p, int side, const rows_group *group, bool is_twice)
{
    for (size_t i = 0; i < group->n; i++) {
        p->alone[side][p->n_alone[side]++] =
            (pair_alone){group->row[i].n, is_twice ? PAIR_PASS : PAIR_PREFIX};
    }
}

static void merge(const rows r[2], pairing *p)
{
    size_t at[2] = {0, 0};
    while (at[0] < r[0].n || at[1] < r[1].n) {
        int by = at[0] == r[0].n   ? 1
                 : at[1] == r[1].n ? -1
                                   : order_key(&r[0].by_key[at[0]], &r[1].by_key[at[1]]);
        rows_group group[2] = {{NULL, 0}, {NULL, 0}};
        for (int side = 0; side < 2; side++) {
            if (by == 0 || (by > 0) == (side == 1)) {
                group[side] = group_at(&r[side], at[side]);
                at[side] += group[side].n;
            }
        }
        bool is_twice = has_twice(&group[0]) || has_twice(&group[1]);
        if (by == 0 && !is_twice) {
            group_pair(p, group);
            continue;
        }
        for (int side = 0; side < 2; side++) {
            group_leave(p, side, &group[side], is_twice);
        }
    }
}

/* In which field the rows differ from everything on the other side. */
static greta_status alone_explain(rows r[2], pairing *p, greta_error *err)
{
    for (int side = 0; side < 2; side++) {
        rows *other = &r[1 - side];
        if (p->n_alone[side] == 0) {
            continue;
        }
        other->by_place = malloc((other->n + 1) * sizeof *other->by_place);
        if (other->by_place == NULL) {
            return error_memory(err, "pairs", other->n * sizeof *other->by_place);
        }
        memcpy(other->by_place, other->by_key, other->n * sizeof *other->by_place);
        qsort(other->by_place, other->n, sizeof *other->by_place, sort_place);
        for (size_t i = 0; i < p->n_alone[side]; i++) {
            pair_alone *alone = &p->alone[side][i];
            trace_head h = trace_head_of(p->trace[side], alone->row);
            row_key row = {.layer = h.layer, .position = h.position, .name = h.name};
            alone->field = alone->field == PAIR_PASS ? PAIR_PASS : field_of(other, &row);
        }
    }
    return GRETA_OK;
}

static greta_status pairs_sort(pairing *p, greta_error *err)
{
    ranked_pair *ranked = malloc((p->n_pair + 1) * sizeof *ranked);
    if (ranked == NULL) {
        return error_memory(err, "pairs", p->n_pair * sizeof *ranked);
    }
    for (size_t i = 0; i < p->n_pair; i++) {
        ranked[i].rows = p->pair[i];
        for (int side = 0; side < 2; side++) {
            trace_head h = trace_head_of(p->trace[side], p->pair[i].row[side]);
            ranked[i].pass[side] = h.pass;
            ranked[i].rank[side] = execution_rank(&h);
            ranked[i].row[side] = h.row;
        }
    }
    qsort(ranked, p->n_pair, sizeof *ranked, sort_execution);
    for (size_t i = 0; i < p->n_pair; i++) {
        p->pair[i] = ranked[i].rows;
    }
    free(ranked);
    return GRETA_OK;
}

static greta_status pairs_make(rows r[2], pairing *out, greta_error *err)
{
    size_t n = r[0].n + r[1].n;
    out->n_row[0] = r[0].n;
    out->n_row[1] = r[1].n;
    out->pair = calloc(n + 1, sizeof out->pair[0]);
    out->alone[0] = calloc(r[0].n + 1, sizeof(pair_alone));
    out->alone[1] = calloc(r[1].n + 1, sizeof(pair_alone));
    if (out->pair == NULL || out->alone[0] == NULL || out->alone[1] == NULL) {
        return error_memory(err, "pairs", n * (sizeof(pair_rows) + sizeof(pair_alone)));
    }
    merge(r, out);
    return alone_explain(r, out, err);
}

greta_status pairing_new(const trace *a, const trace *b, pairing *out, greta_error *err)
{
    rows r[2] = {{NULL, NULL, 0}, {NULL, NULL, 0}};
    *out = (pairing){.trace = {a, b}};
    greta_status status = rows_sort(a, &r[0], err);
    status = status != GRETA_OK ? status : rows_sort(b, &r[1], err);
    status = status != GRETA_OK ? status : pairs_make(r, out, err);
    for (int side = 0; side < 2; side++) {
        free(r[side].by_key);
        free(r[side].by_place);
    }
    status = status != GRETA_OK ? status : pairs_sort(out, err);
    if (status != GRETA_OK) {
        pairing_free(out);
    }
    return status;
}

void pairing_free(pairing *p)
{
    free(p->pair);
    free(p->alone[0]);
    free(p->alone[1]);
    memset(p, 0, sizeof *p);
}

pair pair_open(const pairing *p, size_t i, pair_room *room)
{
    const pair_rows *at = &p->pair[i];
    return (pair){{trace_at(p->trace[0], at->row[0], &room->record[0]),
                   trace_at(p->trace[1], at->row[1], &room->record[1])}};
}

bool pair_is_equal(const trace_head *a, const trace_head *b)
{
    return a->body != 0 && a->body == b->body;
}

/* ---- Bits ------------------------------------------------------------------------------------ */

/* One kept value: its bits with one NaN, what it means, and its place on the line of all values of
 * its type (-0 and +0 share one). */
typedef struct kept_value {
    uint64_t bits;
    double value;
    int64_t rank;
    bool is_finite;
} kept_value;

static double double_from_half(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float magnitude;
    memcpy(&magnitude, &bits, sizeof bits);
    magnitude *= 0x1p112f; /* moves the exponent's bias from 15 to 127; exact */
    return half & 0x8000 ? -(double)magnitude : (double)magnitude;
}

static int64_t rank_of(uint32_t bits, uint32_t sign)
{
    return bits & sign ? -(int64_t)(bits & ~sign) : (int64_t)bits;
}

static kept_value value_of_float(float value)
{
    uint32_t bits = hash_float_bits(value);
    bool is_finite = value >= -FLT_MAX && value <= FLT_MAX;
    return (kept_value){bits, (double)value, rank_of(bits, 0x80000000u), is_finite};
}

/* Value i of the kept ones of a tensor. */
static kept_value value_at(const trace_tensor *t, int64_t i)
{
    const uint8_t *data = t->data;
    float value;
    uint16_t half;
    int32_t whole;
    switch (t->type) {
    case DTYPE_F16:
        memcpy(&half, data + 2 * i, sizeof half);
        half = (half & 0x7fff) > 0x7c00 ? 0x7e00 : half;
        return (kept_value){half, double_from_half(half), rank_of(half, 0x8000),
                            (half & 0x7fff) < 0x7c00};
    case DTYPE_I32:
        memcpy(&whole, data + 4 * i, sizeof whole);
        return (kept_value){(uint32_t)whole, whole, whole, true};
    case DTYPE_ACT_Q8: {
        int8_t code = (int8_t)data[i];
        memcpy(&value, data + t->n_kept + 4 * (i / SCALE_BLOCK), sizeof value);
        kept_value scale = value_of_float(value);
        scale.bits = scale.bits << 8 | (uint8_t)code;
        scale.value = (double)value * code;
        return scale;
    }
    default:
        memcpy(&value, data + 4 * i, sizeof value);
        return value_of_float(value);
    }
}

static void values_compare(const trace_tensor *a, const trace_tensor *b, row_difference *out)
{
    out->n_compared = a->n_kept < b->n_kept ? a->n_kept : b->n_kept;
    for (int64_t i = 0; i < out->n_compared; i++) {
        kept_value x = value_at(a, i), y = value_at(b, i);
        if (x.bits == y.bits) {
            continue;
        }
        out->n_differ++;
        if (!x.is_finite || !y.is_finite) {
            out->n_nonfinite++;
            continue;
        }
        double difference = x.value > y.value ? x.value - y.value : y.value - x.value;
        uint64_t ulp = (uint64_t)(x.rank > y.rank ? x.rank - y.rank : y.rank - x.rank);
        out->ulp_max = ulp > out->ulp_max ? ulp : out->ulp_max;
        if (out->largest < 0 || difference > out->abs_max) {
            out->largest = i;
            out->abs_max = difference;
            out->value[0] = x.value;
            out->value[1] = y.value;
        }
    }
}

static bool is_hashed(const trace_tensor *t)
{
    return t->hash.ordered != 0 || t->hash.bag != 0;
}

/* A writer may take none. */
static bool has_statistics(const trace_tensor *t)
{
    return t->min < 0 || t->max > 0 || t->sumsq > 0 || t->n_nonfinite > 0;
}

/* Equal hashes with other statistics are no equal rows: an instrument is wrong. */
static bool statistics_differ(const trace_tensor *a, const trace_tensor *b)
{
    if (!has_statistics(a) || !has_statistics(b)) {
        return false;
    }
    return hash_float_bits(a->min) != hash_float_bits(b->min) ||
           hash_float_bits(a->max) != hash_float_bits(b->max) ||
           hash_float_bits(a->sumsq) != hash_float_bits(b->sumsq) ||
           a->n_nonfinite != b->n_nonfinite;
}

/* Whether the rows differ, by what is cheapest to ask. */
static pair_state row_state(const trace_tensor *a, const trace_tensor *b)
{
    if (a->type != b->type || a->n != b->n) {
        return PAIR_DIFFERS;
    }
    if (!is_hashed(a) || !is_hashed(b)) {
        return PAIR_UNMEASURED;
    }
    bool is_equal = a->hash.ordered == b->hash.ordered && a->hash.bag == b->hash.bag &&
                    !statistics_differ(a, b);
    return is_equal ? PAIR_EQUAL : PAIR_DIFFERS;
}

void row_compare(const trace_tensor *a, const trace_tensor *b, row_difference *out)
{
    *out = (row_difference){.state = row_state(a, b), .largest = -1};
    out->is_shape = a->type != b->type || a->n != b->n;
    out->has_ulp = a->type == DTYPE_F32 || a->type == DTYPE_F16;
    if (out->state != PAIR_EQUAL && !out->is_shape) {
        values_compare(a, b, out);
        /* Rows without hashes can differ in what was kept, and be equal only if all was. */
        if (out->state == PAIR_UNMEASURED && out->n_differ > 0) {
            out->state = PAIR_DIFFERS;
        } else if (out->state == PAIR_UNMEASURED && out->n_compared == a->n) {
            out->state = PAIR_EQUAL;
        }
    }
}

static pair_state operands_state(const trace_tensor *a, int32_t n_a, const trace_tensor *b,
                                 int32_t n_b)
{
    pair_state state = n_a == n_b ? PAIR_EQUAL : PAIR_DIFFERS;
    for (int32_t i = 0; i < n_a && i < n_b && state != PAIR_DIFFERS; i++) {
        pair_state one = row_state(&a[i], &b[i]);
        state = one == PAIR_EQUAL ? state : one;
    }
    return state;
}

void pair_compare(const pair *p, pair_difference *out)
{
    const trace_record *a = p->record[0], *b = p->record[1];
    *out = (pair_difference){.state = PAIR_EQUAL, .out = -1};
    out->in = operands_state(a->in, a->n_in, b->in, b->n_in);
    out->weight = operands_state(a->weight, a->n_weight, b->weight, b->n_weight);
    for (int32_t i = 0; i < a->n_out && i < b->n_out && out->state != PAIR_DIFFERS; i++) {
        row_difference row;
        row_compare(&a->out[i], &b->out[i], &row);
        if (row.state != PAIR_EQUAL) {
            out->state = row.state;
            out->out = i;
            out->row = row;
        }
    }
    if (out->state != PAIR_DIFFERS && a->has_norm && b->has_norm) {
        out->number = hash_float_bits(a->eps) != hash_float_bits(b->eps)           ? "eps"
                      : hash_float_bits(a->inv_rms) != hash_float_bits(b->inv_rms) ? "inv_rms"
                      : a->count != b->count                                       ? "count"
                                                                                   : NULL;
        out->state = out->number != NULL ? PAIR_DIFFERS : out->state;
    }
    if (a->n_out != b->n_out) {
        out->state = PAIR_DIFFERS;
    }
}
