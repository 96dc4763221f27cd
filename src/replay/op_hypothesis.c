/* op_hypothesis.c - every hypothesis about one op, tried.
 *
 * The tables stand in change_*.c, one file per subject. Here they are walked: each row that names
 * the op's kind edits a copy of the healthy case, the copy is replayed, and the result is held
 * against the recorded row, bit by bit and within its bounds. A hypothesis whose edit leads to a
 * case that does not fit (another shape, a row that was not recorded) is left out.
 *
 * Nothing is concluded. Results are remembered by their hash, so that those that one op at one
 * token cannot tell apart are told to be the same.
 */
#include "replay/op_hypothesis.h"

#include "base/hash.h"
#include "base/text.h"
#include "replay/change.h"
#include "replay/op_bound.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const hypothesis_table *const tables[] = {
    &changes_norm, &changes_row,       &changes_math,   &changes_weight,
    &changes_rope, &changes_attention, &changes_expert,
};
#define TABLES (sizeof tables / sizeof *tables)

int32_t op_hypotheses_count(op_kind kind)
{
    int32_t n = 0;
    for (size_t t = 0; t < TABLES; t++) {
        for (int32_t i = 0; i < tables[t]->n; i++) {
            n += (tables[t]->row[i].kinds & KIND(kind)) != 0;
        }
    }
    return n;
}

/* ---- What edits use -------------------------------------------------------------------------- */

void *change_memory(change *e, size_t bytes)
{
    GRETA_ASSERT(e->n_owned < CHANGE_OWNED);
    void *memory = op_memory(bytes);
    e->failed |= memory == NULL;
    if (memory) {
        e->owned[e->n_owned++] = memory;
    }
    return memory;
}

void change_say(change *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e->told.phrase, sizeof e->told.phrase, format, arguments);
    va_end(arguments);
}

bool change_number(change *e, evidence_number number, const char *name, double healthy, double used)
{
    char a[NUMBER_MAX], b[NUMBER_MAX];
    bool is_float = (double)(float)used == used && (double)(float)healthy == healthy;
    const char *shown = is_float ? number_f32((float)used, a) : number_f64(used, a);
    const char *proper = is_float ? number_f32((float)healthy, b) : number_f64(healthy, b);
    change_say(e, "%s %s for %s", name, shown, proper);
    e->told.number = number;
    e->told.number_healthy = healthy;
    e->told.number_used = used;
    return healthy != used;
}

bool change_find(const change *e, stage name, int32_t layer, int64_t position, op_operand *row)
{
    const op_rows *rows = e->around->rows;
    return rows && position >= 0 && rows->find(rows->user, name, layer, position, row);
}

uint8_t *change_weight_copy(change *e, int which)
{
    weight_view *view = &e->c.op.w[which];
    if (!view->tensor || !view->tensor->data || view->n < 1) {
        return NULL;
    }
    size_t bytes = (size_t)view->n * (size_t)view->tensor->row_bytes;
    uint8_t *data = change_memory(e, bytes);
    if (data) {
        memcpy(data, view->tensor->data + view->first * view->tensor->row_bytes, bytes);
        e->tensor = *view->tensor;
        e->tensor.data = data;
        e->tensor.n_row = view->n;
        *view = (weight_view){&e->tensor, 0, view->n};
    }
    return data;
}

/* ---- Judging --------------------------------------------------------------------------------- */

typedef struct tries {
    const op_case *healthy;
    const op_around *around;
    const op_trial_terms *trial;
    const kernel_table *table;
    op_output y;
    double *bound; /* (recorded->n) of the case in hand; NULL: trial->bound */
    evidence *item;
    row_hash *result; /* (n) */
    int32_t n, capacity;
} tries;

static double value_of(dtype type, const void *row, int64_t n, int64_t i)
{
    op_operand r = {type, n, row};
    uint16_t half;
    switch (type) {
    case DTYPE_F16:
        memcpy(&half, (const uint8_t *)row + 2 * i, sizeof half);
        return (double)kernel_f32_from_f16(half);
    case DTYPE_I32:
        return (double)op_id_at(&r, i);
    default:
        return op_value_at(&r, i);
    }
}

/* Rank of a float among floats; values that are no float are compared as such. */
static int64_t rank_of(double value)
{
    float f = (float)value;
    int32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits < 0 ? (int64_t)INT32_MIN - bits : bits;
}

static void value_judge(evidence *item, double got, double wanted, double bound, int64_t at)
{
    if (isnan(got) && isnan(wanted)) {
        item->n_equal++;
        return;
    }
    bool is_finite = isfinite(got) && isfinite(wanted);
    int64_t ulps = isnan(got) || isnan(wanted) ? UINT32_MAX : rank_of(got) - rank_of(wanted);
    ulps = ulps < 0 ? -ulps : ulps;
    bool is_equal = got == wanted && signbit(got) == signbit(wanted);
    item->n_equal += is_equal;
    item->ulp_max = ulps > item->ulp_max ? (uint32_t)ulps : item->ulp_max;
    double distance = is_equal ? 0.0 : !is_finite ? INFINITY : fabs(got - wanted);
    double in_bounds = distance == 0 ? 0.0 : bound > 0 ? distance / bound : INFINITY;
    double ratio = bound >= 0 ? in_bounds : distance;
    item->is_within &= bound >= 0 ? distance <= bound : is_equal;
    if (!is_equal && (item->worst_at < 0 || ratio > item->worst)) {
        item->worst = ratio;
        item->worst_at = at;
    }
}

/* Codes and scales are the bits of a quantised row: equal values need not be equal bits. */
static bool same_bits(const op_output *y, const op_operand *recorded)
{
    row_hash a = trace_values_hash(y->type, y->values, y->n);
    row_hash b = trace_values_hash(recorded->type, recorded->values, recorded->n);
    return a.ordered == b.ordered && a.bag == b.bag;
}

static void item_judge(const tries *t, evidence *item)
{
    const op_operand *recorded = t->trial->recorded;
    item->n = recorded->n;
    item->worst_at = -1;
    item->is_within = true;
    for (int64_t i = 0; i < recorded->n; i++) {
        value_judge(item, value_of(t->y.type, t->y.values, t->y.n, i),
                    value_of(recorded->type, recorded->values, recorded->n, i),
                    t->bound          ? (isfinite(t->bound[i]) ? 2 * t->bound[i] : 0)
                    : t->trial->bound ? t->trial->bound[i]
                                      : -1.0,
                    i);
    }
    item->fits = same_bits(&t->y, recorded);
}

static bool item_room(tries *t)
{
    if (t->n < t->capacity) {
        return true;
    }
    int32_t capacity = t->capacity ? 2 * t->capacity : 64;
    evidence *item = realloc(t->item, (size_t)capacity * sizeof *item);
    t->item = item ? item : t->item;
    row_hash *result = realloc(t->result, (size_t)capacity * sizeof *result);
    t->result = result ? result : t->result;
    t->capacity = item && result ? capacity : t->capacity;
    return item && result;
}

/* The replayed row stands in t->y. */
static void item_add(tries *t, const evidence *told)
{
    row_hash result = trace_values_hash(t->y.type, t->y.values, t->y.n);
    evidence *item = &t->item[t->n];
    *item = *told;
    item->same_as = t->n;
    for (int32_t i = t->n - 1; i >= 0; i--) {
        bool is_same = t->result[i].ordered == result.ordered && t->result[i].bag == result.bag;
        item->same_as = is_same ? t->item[i].same_as : item->same_as;
    }
    t->result[t->n] = result;
    item_judge(t, item);
    t->n++;
}

static greta_status try_case(tries *t, const op_case *c, const evidence *told, greta_error *err)
{
    if (!item_room(t)) {
        return error_memory(err, "hypotheses", (uint64_t)t->capacity * sizeof *t->item);
    }
    memset(t->y.values, 0, t->y.bytes);
    GRETA_TRY(op_replay(t->table, c, &t->y, err));
    if (t->bound) {
        GRETA_TRY(op_bound(c, t->trial->contract, BOUND_CALIBRATED, t->bound, err));
    }
    item_add(t, told);
    return GRETA_OK;
}

/* ---- Trying ---------------------------------------------------------------------------------- */

static bool is_finite_row(dtype type, const void *values, int64_t n)
{
    bool is_finite = true;
    for (int64_t i = 0; values && i < n && is_finite && type != DTYPE_I32; i++) {
        is_finite = isfinite(value_of(type, values, n, i));
    }
    return is_finite;
}

/* Whether everything that the op reads is finite. */
static bool reads_finite(const op_case *c)
{
    bool is_finite = true;
    bool is_attention = c->op.kind == OP_ATTENTION;
    for (int i = 0; i < OP_IN_MAX && is_finite; i++) {
        is_finite = is_finite_row(c->in[i].type, c->in[i].values, c->in[i].n);
    }
    int64_t n = (int64_t)c->op.n_head_kv * c->op.head_dim;
    for (int64_t p = 0; is_attention && p < c->end && p < c->n_key && is_finite; p++) {
        is_finite =
            is_finite_row(c->kv_type, c->key[p], n) && is_finite_row(c->kv_type, c->value[p], n);
    }
    return is_finite;
}

/* Rows further on hold what became of a NaN: to read them gives it, whatever it came from. So where
 * finite operands gave values that are not, no hypothesis may bring such values along. */
static bool is_begged(const tries *t, const op_case *c)
{
    const op_operand *recorded = t->trial->recorded;
    return !is_finite_row(recorded->type, recorded->values, recorded->n) &&
           reads_finite(t->healthy) && !reads_finite(c);
}

static greta_status try_one(tries *t, const hypothesis *h, greta_error *err)
{
    char missing[OP_MISSING_MAX];
    change e = {.healthy = t->healthy,
                .around = t->around,
                .recorded = t->trial->recorded,
                .c = *t->healthy,
                .told = {.role = h->role, .cause = h->cause}};
    if (h->phrase) {
        change_say(&e, "%s", h->phrase);
    }
    bool applies = h->edit(&e, h->value) && !e.failed && op_case_check(&e.c, missing) &&
                   e.c.out.type == t->y.type && e.c.out.n == t->y.n && !is_begged(t, &e.c);
    greta_status status = e.failed  ? error_memory(err, "a hypothesis", 0)
                          : applies ? try_case(t, &e.c, &e.told, err)
                                    : GRETA_OK;
    for (int32_t i = 0; i < e.n_owned; i++) {
        free(e.owned[i]);
    }
    return status;
}

static greta_status try_all(tries *t, greta_error *err)
{
    evidence healthy = {.role = EVIDENCE_HEALTHY, .cause = CAUSE_NONE, .phrase = "healthy"};
    size_t n = (size_t)t->trial->recorded->n;
    GRETA_TRY(op_output_new(t->healthy, &t->y, err));
    if (t->trial->contract) {
        t->bound = malloc(n * sizeof *t->bound);
        if (!t->bound) {
            return error_memory(err, "bounds", n * sizeof *t->bound);
        }
    }
    GRETA_TRY(try_case(t, t->healthy, &healthy, err));
    for (size_t i = 0; i < TABLES; i++) {
        for (int32_t r = 0; r < tables[i]->n; r++) {
            if (tables[i]->row[r].kinds & KIND(t->healthy->op.kind)) {
                GRETA_TRY(try_one(t, &tables[i]->row[r], err));
            }
        }
    }
    return GRETA_OK;
}

greta_status op_try(const op_case *c, const op_around *around, const op_trial_terms *trial,
                    evidence **item, int32_t *n, greta_error *err)
{
    char missing[OP_MISSING_MAX];
    const op_operand *recorded = trial->recorded;
    *item = NULL;
    *n = 0;
    if (!op_case_check(c, missing)) {
        return error_set(err, GRETA_BAD_INPUT, "hypotheses of a %s need %s",
                         op_kind_name(c->op.kind), missing);
    }
    if (!recorded->values || recorded->type != c->out.type || recorded->n != c->out.n) {
        return error_set(err, GRETA_BAD_INPUT, "the recorded row is not one of this %s",
                         op_kind_name(c->op.kind));
    }
    tries t = {.healthy = c,
               .around = around,
               .trial = trial,
               .table = op_replay_table(trial->recorded_by)};
    greta_status status = try_all(&t, err);
    op_output_free(&t.y);
    free(t.bound);
    free(t.result);
    if (status != GRETA_OK) {
        free(t.item);
        return status;
    }
    *item = t.item;
    *n = t.n;
    return GRETA_OK;
}
