/* op_effect.c - amplification op by op, the flip of the next token, and the way back.
 *
 * An op's condition for this difference is the relative size (Euclidean) of what differs behind it
 * over that of what differs in front of it. Benign noise and a fault grow alike: so the op where
 * most is visible is told as what it is, and accused only by what it introduced itself.
 */
#include "verdict/op_effect.h"

#include "explain/norm_side.h"
#include "explain/terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static term_row row_of(const trace_record *r)
{
    const trace_tensor *t = &r->out[0];
    return (term_row){t->type, t->n, t->data && t->n_kept == t->n ? t->data : NULL};
}

static bool differs(const effect_op *o)
{
    const trace_record *a = o->record[SIDE_A], *b = o->record[SIDE_B];
    return a && b && !hash_equal(a->out[0].hash, b->out[0].hash);
}

/* ---- Amplification --------------------------------------------------------------------------- */

typedef struct spread {
    double difference, size; /* Euclidean: of A - B, of B */
    int64_t channel;         /* of the largest difference */
    double share;            /* of the squared difference that it holds */
} spread;

static spread spread_of(const term_row *a, const term_row *b, int64_t first, int64_t n)
{
    spread s = {.channel = first};
    double largest = 0;
    for (int64_t i = first; i < first + n; i++) {
        double y = term_value(b, i), d = term_value(a, i) - y;
        if (!isfinite(d)) {
            continue;
        }
        s.difference += d * d;
        s.size += y * y;
        s.channel = d * d > largest ? i : s.channel;
        largest = fmax(largest, d * d);
    }
    s.share = s.difference > 0 ? largest / s.difference : 0;
    s.difference = sqrt(s.difference);
    s.size = sqrt(s.size);
    return s;
}

static bool is_of_heads(stage name)
{
    return name == STAGE_Q || name == STAGE_K || name == STAGE_V || name == STAGE_Q_NORM ||
           name == STAGE_K_NORM || name == STAGE_Q_ROPE || name == STAGE_K_ROPE ||
           name == STAGE_K_CACHE || name == STAGE_V_CACHE || name == STAGE_ATTN_OUT;
}

/* Heads that hold more than half of an equal share of what differs. */
static void heads_count(const term_row *a, const term_row *b, int32_t head_dim, double difference,
                        op_growth *out)
{
    if (head_dim < 1 || a->n % head_dim != 0) {
        return;
    }
    out->n_head = (int32_t)(a->n / head_dim);
    for (int32_t h = 0; h < out->n_head; h++) {
        double of_head = spread_of(a, b, (int64_t)h * head_dim, head_dim).difference;
        out->n_head_hit +=
            of_head * of_head * 2 * out->n_head > difference * difference && difference > 0;
    }
}

/* (|x| + |y|) / |x + y|: how much of what comes in a sum takes away. */
static double condition_of(const op_list *list, const op *o, const effect_op *ops, double size)
{
    double in = 0;
    for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0; k++) {
        int32_t producer = list->edge[o->in[k].edge].producer;
        const trace_record *r = producer >= 0 ? ops[producer].record[SIDE_B] : NULL;
        term_row row = r ? row_of(r) : (term_row){0};
        if (!row.values) {
            return NAN;
        }
        in += spread_of(&row, &row, 0, row.n).size;
    }
    return size > 0 ? in / size : INFINITY;
}

static int by_growth(const void *a, const void *b)
{
    const op_growth *x = a, *y = b;
    double of_x = x->after - x->before, of_y = y->after - y->before; /* what becomes visible */
    return (of_x < of_y) - (of_x > of_y);
}

/* Of an op at several tokens the one where it grows most. */
static void growth_keep(op_findings *out, const op_growth *g)
{
    int at = 0;
    while (at < out->n_growth &&
           (out->growth[at].name != g->name || out->growth[at].layer != g->layer)) {
        at++;
    }
    if (at == GROWTH_MAX) {
        at--; /* the least of them */
    } else if (at == out->n_growth) {
        out->growth[out->n_growth++] = *g;
    }
    if (by_growth(&out->growth[at], g) > 0) {
        out->growth[at] = *g;
    }
    qsort(out->growth, (size_t)out->n_growth, sizeof *out->growth, by_growth);
}

/* relative[i]: of what op i wrote, where both rows are known; else 0. */
static void op_grow(const audit_terms *terms, int32_t i, const effect_op *ops, double *relative,
                    op_findings *out)
{
    const op_list *list = &terms->plan->list;
    const op *o = &list->op[i];
    if (!differs(&ops[i])) {
        return;
    }
    term_row a = row_of(ops[i].record[SIDE_A]), b = row_of(ops[i].record[SIDE_B]);
    if (!a.values || !b.values || a.type != b.type || a.n != b.n) {
        return;
    }
    spread s = spread_of(&a, &b, 0, a.n);
    double before = 0;
    for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0; k++) {
        int32_t producer = list->edge[o->in[k].edge].producer;
        before = producer >= 0 ? fmax(before, relative[producer]) : before;
    }
    relative[i] = s.size > 0 ? s.difference / s.size : 0;
    if (before > 0 && relative[i] > before && !ops[i].is_introduced && !ops[i].has_earlier) {
        op_growth g = {.name = o->name,
                       .layer = o->layer,
                       .position = ops[i].record[SIDE_B]->position,
                       .before = before,
                       .after = relative[i],
                       .condition = o->kind == OP_ADD ? condition_of(list, o, ops, s.size) : NAN,
                       .channel = s.channel,
                       .channel_share = s.share};
        if (is_of_heads(o->name)) {
            heads_count(&a, &b, terms->plan->model->cfg.head_dim, s.difference, &g);
        }
        growth_keep(out, &g);
    }
}

/* ---- The next token -------------------------------------------------------------------------- */

static int32_t top_of(const term_row *logits, int32_t *second)
{
    int64_t best = 0, next = -1;
    for (int64_t i = 1; i < logits->n; i++) {
        if (term_value(logits, i) > term_value(logits, best)) {
            next = best;
            best = i;
        } else if (next < 0 || term_value(logits, i) > term_value(logits, next)) {
            next = i;
        }
    }
    *second = (int32_t)next;
    return (int32_t)best;
}

static double log_sum(const term_row *logits, double top)
{
    double sum = 0;
    for (int64_t i = 0; i < logits->n; i++) {
        sum += exp(term_value(logits, i) - top);
    }
    return top + log(sum);
}

/* The product that makes logits; a cap behind it has a slope of 1 at most. */
static int32_t logits_op(const op_list *list)
{
    int32_t raw = op_list_op(list, STAGE_LOGITS_RAW, -1);
    return raw >= 0 ? raw : op_list_op(list, STAGE_LOGITS, -1);
}

/* The lead of a token over the next one, in what rounding of the two logits may do. */
static greta_status gap_take(const audit_terms *terms, const int32_t at[2], double gap, double *out,
                             greta_error *err)
{
    int32_t i = logits_op(&terms->plan->list);
    char missing[OP_MISSING_MAX];
    op_case c = {0};
    *out = NAN;
    GRETA_TRY(i >= 0 && at[1] >= 0 ? op_audit_case(terms, i, &c, err) : GRETA_OK);
    double *bound = c.out.n > at[0] && c.out.n > at[1] && op_case_check(&c, missing)
                        ? malloc((size_t)c.out.n * sizeof *bound)
                        : NULL;
    if (bound) {
        greta_status status = op_bound(&c, &terms->plan->contract, BOUND_SOUND, bound, err);
        double both = status == GRETA_OK ? bound[at[0]] + bound[at[1]] : 0;
        *out = both > 0 ? gap / both : NAN;
        free(bound);
        op_case_free(&c);
        return status;
    }
    op_case_free(&c);
    return GRETA_OK;
}

static void kl_take(const term_row *x, const term_row *y, logit_effect *out)
{
    double of_a = log_sum(x, term_value(x, out->top[SIDE_A]));
    double of_b = log_sum(y, term_value(y, out->top[SIDE_B]));
    for (int64_t i = 0; i < x->n; i++) {
        double log_a = term_value(x, i) - of_a, log_b = term_value(y, i) - of_b;
        out->kl += exp(log_a) * (log_a - log_b);
        out->largest = fmax(out->largest, fabs(term_value(x, i) - term_value(y, i)));
    }
}

/* ---- The way back ---------------------------------------------------------------------------- */

/* The first op in execution order that introduced something and from which differing edges lead to
 * op `from`; -1: none at this token. *has_earlier: cache rows of earlier tokens are on the way. */
static int32_t origin_of(const op_list *list, const effect_op *ops, int32_t from, bool *on_way,
                         bool *has_earlier)
{
    int32_t first = -1;
    on_way[from] = true;
    for (int32_t i = from; i >= 0; i--) { /* producers stand before their readers */
        const op *o = &list->op[i];
        if (!on_way[i]) {
            continue;
        }
        first = ops[i].is_introduced ? i : first;
        *has_earlier = *has_earlier || ops[i].has_earlier;
        for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0; k++) {
            int32_t producer = list->edge[o->in[k].edge].producer;
            if (producer >= 0 && differs(&ops[producer])) {
                on_way[producer] = true;
            }
        }
    }
    return first;
}

static greta_status origin_take(const audit_terms *terms, const effect_op *ops, logit_effect *out,
                                greta_error *err)
{
    const op_list *list = &terms->plan->list;
    int32_t from = op_list_op(list, STAGE_LOGITS, -1);
    bool *on_way = calloc((size_t)list->n_op, sizeof *on_way);
    if (!on_way) {
        return error_memory(err, "the way back", (uint64_t)list->n_op);
    }
    int32_t first = from >= 0 ? origin_of(list, ops, from, on_way, &out->has_earlier) : -1;
    out->has_origin = first >= 0;
    out->origin = first >= 0 ? list->op[first].name : STAGE_NONE;
    out->origin_layer = first >= 0 ? list->op[first].layer : -1;
    for (int32_t i = 0; i < list->n_op; i++) {
        out->n_on_way += on_way[i];
    }
    free(on_way);
    return GRETA_OK;
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* What the first token whose logits differ says; whether a token changes is asked of all. */
static greta_status logits_take(const audit_terms terms[SIDE_COUNT], const effect_op *ops,
                                const effect_op *logits, logit_effect *out, greta_error *err)
{
    term_row row[SIDE_COUNT] = {row_of(logits->record[SIDE_A]), row_of(logits->record[SIDE_B])};
    logit_effect here = {
        .is_measured = true, .position = logits->record[SIDE_B]->position, .changed_position = -1};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        int32_t at[2];
        at[0] = top_of(&row[s], &at[1]);
        here.top[s] = at[0];
        here.gap[s] =
            at[1] < 0 ? INFINITY : term_value(&row[s], at[0]) - term_value(&row[s], at[1]);
        GRETA_TRY(gap_take(&terms[s], at, here.gap[s], &here.gap_in_bounds[s], err));
    }
    kl_take(&row[SIDE_A], &row[SIDE_B], &here);
    bool is_changed = here.top[SIDE_A] != here.top[SIDE_B];
    if (!out->is_measured || (is_changed && out->changed_position < 0)) {
        here.n = out->n;
        here.n_changed = out->n_changed;
        here.changed_position = is_changed ? here.position : -1;
        GRETA_TRY(origin_take(&terms[SIDE_A], ops, &here, err));
        *out = here;
    }
    out->n++;
    out->n_changed += is_changed;
    return GRETA_OK;
}

greta_status op_effect_take(const audit_terms terms[SIDE_COUNT], const effect_op *ops,
                            op_findings *out, greta_error *err)
{
    const op_list *list = &terms[SIDE_A].plan->list;
    double *relative = calloc((size_t)list->n_op, sizeof *relative);
    if (!relative) {
        return error_memory(err, "the effect", (uint64_t)list->n_op * sizeof *relative);
    }
    for (int32_t i = 0; i < list->n_op; i++) {
        op_grow(&terms[SIDE_A], i, ops, relative, out);
    }
    free(relative);
    int32_t i = op_list_op(list, STAGE_LOGITS, -1);
    if (i < 0 || !differs(&ops[i])) {
        return GRETA_OK;
    }
    const trace_record *a = ops[i].record[SIDE_A], *b = ops[i].record[SIDE_B];
    term_row x = row_of(a), y = row_of(b);
    bool is_known = x.values && y.values && x.n == y.n && x.n > 0 &&
                    a->out[0].n_nonfinite + b->out[0].n_nonfinite == 0;
    return is_known ? logits_take(terms, ops, &ops[i], &out->effect, err) : GRETA_OK;
}
