/* score_baseline.c - what simpler methods say of the same two traces.
 *
 * Rows that pair are gathered by op, in execution order. Each method gives a score to every op, and
 * raises an alarm where one is over its limit:
 *
 *     first      largest difference over 1e-3; the first such op is accused
 *     cosine     cosine of all rows below 0.99; the first such op
 *     growth     mean distance of the op over that of what it read, (d - e) / (e + 1e-7), as CRADLE
 *                ranks layers (Pham et al., ICSE 2019); distances are over the mean magnitude; an
 *                alarm where that of the logits is over 0.2, CRADLE's distance of classes in spirit
 *     allclose   |a - b| <= 1e-5 + 1.3e-6 |b|, the tolerances of torch.testing for f32
 *     report     the rules of the reference report at ffn_norm of layer 0: A where what was read
 *                differs in place or in value; else B: eps or mean square; C: weights; D: output
 *
 * An op's rank in methods that only flag is: flagged ops in execution order, then all others.
 */
#include "score/score.h"

#include "explain/pair.h"
#include "explain/terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_LIMIT    1e-3
#define COSINE_LIMIT   0.99
#define LOGITS_LIMIT   0.2
#define CLOSE_ABSOLUTE 1e-5
#define CLOSE_RELATIVE 1.3e-6
#define GROWTH_BASE    1e-7

const char *score_method_name(score_method method)
{
    static const char *const name[] = {"first", "cosine", "growth", "allclose", "report"};
    return name[method];
}

/* All paired rows of one op. */
typedef struct op_gap {
    bool is_there, differs, is_beyond;
    double largest, distance; /* of values; mean |a - b| over mean |a| */
    double sum_difference, sum_magnitude, dot, square[2];
    int32_t position; /* of the first row that differs; -1: none */
    int64_t pass[2];  /* of each run, the first that has such a row */
    const trace_record *record[2];
} op_gap;

typedef struct gaps {
    op_gap *op; /* (n), in execution order: before the layers, layers, behind them */
    int32_t n_layer;
    size_t n;
} gaps;

static size_t index_of(const gaps *g, stage name, int32_t layer)
{
    size_t block = stage_is_per_layer(name) ? (size_t)layer + 1
                   : name < STAGE_ATTN_NORM ? 0
                                            : (size_t)g->n_layer + 1;
    return block * STAGE_COUNT + (size_t)name;
}

static score_place place_of(const gaps *g, size_t i)
{
    size_t block = i / STAGE_COUNT;
    bool is_layer = block > 0 && block <= (size_t)g->n_layer;
    return (score_place){(stage)(i % STAGE_COUNT), is_layer ? (int32_t)block - 1 : -1};
}

static void values_add(op_gap *gap, const trace_tensor *a, const trace_tensor *b)
{
    term_row row[2] = {{a->type, a->n_kept, a->data}, {b->type, b->n_kept, b->data}};
    int64_t n = a->n_kept < b->n_kept ? a->n_kept : b->n_kept;
    for (int64_t i = 0; i < n && a->type == b->type; i++) {
        double x = term_value(&row[0], i), y = term_value(&row[1], i), d = fabs(x - y);
        if (!isfinite(x) || !isfinite(y)) {
            bool is_same = (isnan(x) && isnan(y)) || x == y;
            gap->largest = is_same ? gap->largest : INFINITY;
            gap->is_beyond = gap->is_beyond || !is_same;
            continue;
        }
        gap->largest = d > gap->largest ? d : gap->largest;
        gap->is_beyond = gap->is_beyond || d > CLOSE_ABSOLUTE + CLOSE_RELATIVE * fabs(y);
        gap->sum_difference += d;
        gap->sum_magnitude += fabs(x);
        gap->dot += x * y;
        gap->square[0] += x * x;
        gap->square[1] += y * y;
    }
}

static void pair_add(gaps *g, const pair *p)
{
    const trace_record *a = p->record[0];
    op_gap *gap = &g->op[index_of(g, a->name, a->layer)];
    row_difference d;
    if (!gap->is_there) {
        *gap = (op_gap){.is_there = true, .position = -1, .record = {a, p->record[1]}};
    }
    row_compare(&a->out[0], &p->record[1]->out[0], &d);
    if (d.state == PAIR_DIFFERS) {
        bool is_first = gap->position < 0 || a->position < gap->position;
        for (int s = 0; s < 2; s++) {
            int64_t pass = p->record[s]->pass;
            gap->pass[s] = !gap->differs || pass < gap->pass[s] ? pass : gap->pass[s];
        }
        gap->differs = true;
        gap->position = is_first ? a->position : gap->position;
    }
    values_add(gap, &a->out[0], &p->record[1]->out[0]);
}

static greta_status gaps_new(const trace *a, const pairing *pairs, gaps *g, greta_error *err)
{
    g->n_layer = a->header.n_layer;
    g->n = ((size_t)g->n_layer + 2) * STAGE_COUNT;
    g->op = calloc(g->n, sizeof *g->op);
    if (!g->op) {
        return error_memory(err, "the ops of two traces", g->n * sizeof *g->op);
    }
    for (size_t i = 0; i < pairs->n_pair; i++) {
        pair_room room;
        const pair p = pair_open(pairs, i, &room);
        pair_add(g, &p);
    }
    for (size_t i = 0; i < g->n; i++) {
        op_gap *gap = &g->op[i];
        gap->distance = gap->sum_magnitude > 0    ? gap->sum_difference / gap->sum_magnitude
                        : gap->sum_difference > 0 ? 1
                                                  : 0;
    }
    return GRETA_OK;
}

/* ---- Methods --------------------------------------------------------------------------------- */

static double growth(const gaps *g, const op_gap *gap)
{
    double read = 0;
    for (int32_t k = 0; k < gap->record[0]->n_in; k++) {
        const trace_tensor *in = &gap->record[0]->in[k];
        bool is_known = in->name < STAGE_COUNT && (!stage_is_per_layer(in->name) ||
                                                   (in->layer >= 0 && in->layer < g->n_layer));
        const op_gap *from = is_known ? &g->op[index_of(g, in->name, in->layer)] : NULL;
        read = from && from->is_there && from->distance > read ? from->distance : read;
    }
    return (gap->distance - read) / (read + GROWTH_BASE);
}

/* The reference report's bucket of one norm. */
static cause report_bucket(const op_gap *norm)
{
    const trace_record *a = norm->record[0], *b = norm->record[1];
    const trace_tensor *x = &a->in[0], *y = &b->in[0];
    bool is_moved = strcmp(x->buffer, y->buffer) != 0 || x->offset != y->offset;
    bool is_other = x->hash.ordered != y->hash.ordered;
    if (is_moved || is_other) {
        return CAUSE_INPUT_SELECTION;
    }
    if (a->eps != b->eps || x->sumsq != y->sumsq || a->inv_rms != b->inv_rms) {
        return CAUSE_NORM_STATS;
    }
    if (a->n_weight > 0 && b->n_weight > 0 &&
        a->weight[0].hash.ordered != b->weight[0].hash.ordered) {
        return CAUSE_WEIGHT_LAYOUT;
    }
    return norm->differs ? CAUSE_KERNEL_MATH : CAUSE_NONE;
}

/* How much a method has against an op; 0 and below: nothing. */
static double suspicion(const gaps *g, score_method method, size_t i)
{
    const op_gap *gap = &g->op[i];
    double norm = sqrt(gap->square[0]) * sqrt(gap->square[1]);
    switch (method) {
    case METHOD_FIRST:
        return gap->largest > FIRST_LIMIT;
    case METHOD_COSINE:
        return isinf(gap->largest) ||
               (norm > 0 ? gap->dot / norm < COSINE_LIMIT : gap->sum_difference > 0);
    case METHOD_GROWTH:
        return growth(g, gap);
    case METHOD_ALLCLOSE:
        return gap->is_beyond;
    default:
        return i == index_of(g, STAGE_FFN_NORM, 0) && report_bucket(gap) != CAUSE_NONE;
    }
}

static bool is_alarm(const gaps *g, score_method method, double most)
{
    const op_gap *logits = &g->op[index_of(g, STAGE_LOGITS, -1)];
    if (method == METHOD_GROWTH) {
        return logits->is_there && (logits->distance > LOGITS_LIMIT || isinf(logits->largest));
    }
    return most > 0;
}

/* The rank of op `at`: those with more suspicion stand before it, equals in execution order. */
static void opinion_take(const gaps *g, score_method method, size_t at, score_opinion *out)
{
    double most = -INFINITY, own = at < g->n ? suspicion(g, method, at) : 0;
    size_t first = 0;
    int32_t before = 0;
    for (size_t i = 0; i < g->n; i++) {
        if (!g->op[i].is_there) {
            continue;
        }
        double s = suspicion(g, method, i);
        if (s > most) {
            most = s;
            first = i;
        }
        before += s > own || (s >= own && i < at);
    }
    out->alarm = is_alarm(g, method, most);
    out->place = out->alarm ? place_of(g, first) : (score_place){STAGE_NONE, -1};
    out->rank = at < g->n && g->op[at].is_there ? before + 1 : 0;
    out->cause = CAUSE_NONE;
    if (method == METHOD_REPORT && out->alarm) {
        out->cause = report_bucket(&g->op[index_of(g, STAGE_FFN_NORM, 0)]);
    }
}

/* ---- The referee's own ranking --------------------------------------------------------------- */

static bool is_ranked(const score_answer *a, score_place place)
{
    for (int32_t i = 0; i < a->n_ranked; i++) {
        if (a->ranked[i].name == place.name && a->ranked[i].layer == place.layer) {
            return true;
        }
    }
    return false;
}

/* Behind the places it told come the others, those that differ first. */
static int32_t referee_rank(const gaps *g, const score_answer *a, score_place place)
{
    for (int32_t i = 0; i < a->n_ranked; i++) {
        if (a->ranked[i].name == place.name && a->ranked[i].layer == place.layer) {
            return i + 1;
        }
    }
    size_t at = index_of(g, place.name, place.layer);
    int32_t rank = a->n_ranked + 1;
    for (size_t i = 0; i < g->n; i++) {
        const op_gap *gap = &g->op[i];
        bool is_before =
            gap->differs > g->op[at].differs || (gap->differs == g->op[at].differs && i < at);
        rank += gap->is_there && is_before && !is_ranked(a, place_of(g, i));
    }
    return rank;
}

/* Of two faults the second is the first to show where the other changes no bit, or waits for a row
 * of a later pass. */
static bool is_second_first(const gaps *g, const score_case *c)
{
    const op_gap *first = &g->op[index_of(g, c->place.name, c->place.layer)];
    const op_gap *next = &g->op[index_of(g, c->place_next.name, c->place_next.layer)];
    return !first->differs || (next->differs && next->pass[0] < first->pass[0]);
}

/* A device makes its mistake in many ops of each of its passes. Bits of ops in front of the first
 * of them that shows it cannot differ, so which that is follows from what the mistake concerns and
 * from the traces. */
static void defect_place(const gaps *g, const op_list *list, score_case *c)
{
    const op_gap *first = NULL;
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        const op_gap *gap = &g->op[index_of(g, o->name, o->layer)];
        if (gap->differs && defect_concerns(c->defect, list, o) &&
            (!first || gap->pass[1] < first->pass[1])) {
            first = gap;
            c->place = (score_place){o->name, o->layer};
        }
    }
}

static void answers_fill(const gaps *g, const op_list *list, score_case *c, score_answer *out)
{
    if (c->defect) {
        defect_place(g, list, c);
    }
    if (c->kind_next && is_second_first(g, c)) {
        c->kind = c->kind_next;
        c->place = c->place_next;
    }
    bool is_op = c->place.name != STAGE_NONE && c->place.name != STAGE_TOKENS;
    size_t at = is_op ? index_of(g, c->place.name, c->place.layer) : g->n;
    for (size_t i = 0; i < g->n; i++) {
        out->n_place += g->op[i].is_there;
        out->differs = out->differs || g->op[i].differs;
    }
    for (score_method m = 0; m < SCORE_METHODS && out->n_place > 0; m++) {
        opinion_take(g, m, at, &out->opinion[m]);
    }
    if (is_op && g->op[at].is_there) {
        out->position_true = g->op[at].position;
        out->rank = referee_rank(g, out, c->place);
    }
}

greta_status score_baselines(const char *const path[2], const op_list *list, score_case *c,
                             score_answer *out, greta_error *err)
{
    trace *t[2] = {NULL, NULL};
    pairing pairs = {0};
    gaps g = {0};
    greta_status status = trace_open(path[0], &t[0], err);
    status = status ? status : trace_open(path[1], &t[1], err);
    status = status ? status : pairing_new(t[0], t[1], &pairs, err);
    status = status ? status : gaps_new(t[0], &pairs, &g, err);
    if (status == GRETA_OK) {
        answers_fill(&g, list, c, out);
        for (int i = 0; i < 2; i++) {
            out->bytes +=
                t[i]->n_record > 0 ? t[i]->record[t[i]->n_record - 1].out[0].blob_offset : 0;
        }
    }
    /* Other tokens pair with nothing: that the runs are not comparable is the whole answer. */
    out->differs = out->differs || (status == GRETA_OK && pairs.n_pair == 0);
    free(g.op);
    pairing_free(&pairs);
    trace_close(t[0]);
    trace_close(t[1]);
    return status;
}
