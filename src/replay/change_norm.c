/* change_norm.c - hypotheses about norms: their numbers, formulas and vectors of weights.
 *
 * The eps and the count that were used can be solved from the output: x w / y is the root of the
 * mean, to the precision of one value. Formulas and orders of the sum are norm_variant.c's.
 */
#include "replay/change.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Numbers --------------------------------------------------------------------------------- */

static bool eps_set(change *e, double eps)
{
    e->c.op.eps = (float)eps;
    return eps >= 0 && eps < 1 &&
           change_number(e, EVIDENCE_NUMBER_EPS, "eps", (double)e->healthy->op.eps,
                         (double)e->c.op.eps);
}

static bool eps_times(change *e, double factor)
{
    return eps_set(e, (double)(e->healthy->op.eps * (float)factor));
}

static bool eps_over(change *e, double divisor)
{
    return eps_set(e, (double)(e->healthy->op.eps / (float)divisor));
}

static bool eps_plus(change *e, double more)
{
    return eps_set(e, (double)(e->healthy->op.eps + (float)more));
}

static int64_t norm_width(const op_case *c)
{
    return c->op.kind == OP_HEAD_NORM ? c->op.head_dim : c->out.n;
}

/* Twice the inverse square of the inverse rms, as the row says: of the product x w of largest
 * magnitude. 0: not known. */
static double inverse_square(const change *e)
{
    const float *w = op_weight_floats(&e->healthy->op.w[0]);
    double most = 0.0, inverse = 0.0;
    for (int64_t i = 0; i < norm_width(e->healthy); i++) {
        double product = op_value_at(&e->healthy->in[0], i) * (double)w[i];
        if (fabs(product) > most) {
            most = fabs(product);
            inverse = op_value_at(e->recorded, i) / product;
        }
    }
    return inverse > 0 && isfinite(inverse) ? 1.0 / (inverse * inverse) : 0.0;
}

static double mean_square(const change *e)
{
    double sum = 0.0;
    int64_t n = norm_width(e->healthy);
    for (int64_t i = 0; i < n; i++) {
        double x = op_value_at(&e->healthy->in[0], i);
        sum += x * x;
    }
    return sum / (double)e->healthy->op.count;
}

/* The number of fewest digits in [low, high], 0 < low. */
static double simplest(double low, double high)
{
    double middle = (low + high) / 2;
    int exponent = (int)floor(log10(middle));
    for (int digits = 0; digits < 8; digits++) {
        double unit = pow(10.0, exponent - digits), candidate = round(middle / unit) * unit;
        if (candidate >= low && candidate <= high) {
            return candidate;
        }
    }
    return middle;
}

/* The eps that the output tells, to its precision: the mean loses a few u on the way. */
static bool eps_solved(change *e, double unused)
{
    (void)unused;
    double mean = mean_square(e), square = inverse_square(e), eps = square - mean;
    double slack = 8 * 0x1p-23 * square;
    e->told.is_solved = true;
    return square > 0 && eps > slack && eps < 1e-2 &&
           eps_set(e, simplest(eps - slack, eps + slack));
}

static bool count_set(change *e, double count)
{
    e->c.op.count = (int32_t)count;
    return count > 1 && count < 16777216 &&
           change_number(e, EVIDENCE_NUMBER_COUNT, "mean over", (double)e->healthy->op.count,
                         count);
}

static bool count_plus(change *e, double more)
{
    return count_set(e, (double)e->healthy->op.count + more);
}

static bool count_times(change *e, double factor)
{
    return count_set(e, floor((double)e->healthy->op.count * factor));
}

static bool count_padded(change *e, double to)
{
    return count_set(e, ceil((double)e->healthy->op.count / to) * to);
}

static bool count_of_row(change *e, double unused)
{
    (void)unused;
    return e->c.op.kind == OP_HEAD_NORM && count_set(e, (double)e->c.out.n);
}

static bool count_of_head(change *e, double unused)
{
    (void)unused;
    return e->around->at && count_set(e, (double)e->around->at->model->cfg.head_dim);
}

static bool count_solved(change *e, double unused)
{
    (void)unused;
    double mean = inverse_square(e) - (double)e->healthy->op.eps;
    double sum = mean_square(e) * (double)e->healthy->op.count;
    e->told.is_solved = true;
    return mean > 0 && count_set(e, floor(sum / mean + 0.5));
}

/* ---- Formulas -------------------------------------------------------------------------------- */

static bool formula(change *e, double which)
{
    size_t n;
    const norm_variant *list = norm_variants(&n);
    if ((size_t)which >= n) {
        return false;
    }
    e->c.variant.norm = &list[(size_t)which];
    e->told.cause = e->c.variant.norm->cause;
    e->told.role = e->told.cause == CAUSE_ROUNDING ? EVIDENCE_ORDER : EVIDENCE_CHANGE;
    change_say(e, "%s", e->c.variant.norm->phrase);
    return true;
}

/* What the norm before this one in the list read, for this token; or, for value n, what the last
 * norms of the list read n positions before: what a launch before could have left in memory that a
 * block shares. */
static bool norm_before(const change *e, double by, op_operand *row, const edge **from)
{
    const op_place *at = e->around->at;
    int32_t i = !at ? -1 : by > 0 ? at->list->n_op - 1 : at->index - 1;
    for (; i >= 0; i--) {
        const op *o = &at->list->op[i];
        bool is_packed = at->list->edge[o->out[0]].is_packed;
        if (o->kind == OP_RMS_NORM && !(by > 0 && is_packed)) {
            *from = &at->list->edge[o->in[0].edge];
            return change_find(e, (*from)->name, (*from)->layer, e->healthy->position - (int64_t)by,
                               row) &&
                   row->type == DTYPE_F32 && row->values && row->n > ROW_SUM_GROUP;
        }
    }
    return false;
}

/* The sum of the last squares is that of another norm. */
static bool group_left(change *e, double by)
{
    const edge *from = NULL;
    op_operand row = {0};
    if (norm_width(e->healthy) <= ROW_SUM_GROUP || !norm_before(e, by, &row, &from)) {
        return false;
    }
    norm_variant *v = change_memory(e, sizeof *v);
    float *x = change_memory(e, op_row_bytes(DTYPE_F32, row.n));
    if (!v || !x) {
        return false;
    }
    memcpy(x, row.values, (size_t)row.n * sizeof *x);
    *v = (norm_variant){.order = SUM_LAST_LEFT, .left = norm_last_group(x, row.n)};
    e->c.variant.norm = v;
    char layer[24] = "";
    if (from->layer >= 0) {
        snprintf(layer, sizeof layer, " of layer %d", (int)from->layer);
    }
    change_say(e, "last 64 squares are those of %s%s, position %lld", stage_name(from->name), layer,
               (long long)(e->healthy->position - (int64_t)by));
    return true;
}

static bool weight_minus(change *e, double less)
{
    float *w = (float *)(void *)change_weight_copy(e, 0);
    for (int64_t i = 0; i < norm_width(&e->c) && w; i++) {
        w[i] -= (float)less;
    }
    return w != NULL;
}

/* ---- Arrangements of the vector -------------------------------------------------------------- */

typedef enum arranged {
    REVERSED,
    HALVES,
    STRIDE_2,
    REPEAT_2,
    NEXT,
    PREVIOUS,
    TRANSPOSED,
    NEGATED,
    ZERO
} arranged;

static int64_t index_of(arranged how, int64_t i, int64_t n, int64_t rows)
{
    switch (how) {
    case REVERSED:
        return n - 1 - i;
    case HALVES:
        return (i + n / 2) % n;
    case STRIDE_2:
        return 2 * i % n;
    case REPEAT_2:
        return i / 2;
    case NEXT:
        return (i + 1) % n;
    case PREVIOUS:
        return (i + n - 1) % n;
    case TRANSPOSED:
        return i % rows * (n / rows) + i / rows;
    default:
        return i;
    }
}

static bool arrange(change *e, arranged how, int64_t rows)
{
    int64_t n = norm_width(&e->c);
    const float *from = op_weight_floats(&e->healthy->op.w[0]);
    float *w = (float *)(void *)change_weight_copy(e, 0);
    for (int64_t i = 0; i < n && w; i++) {
        float value = from[index_of(how, i, n, rows)];
        w[i] = how == NEGATED ? -value : how == ZERO ? 0.0f : value;
    }
    return w != NULL;
}

static bool arrangement(change *e, double how)
{
    return arrange(e, (arranged)how, 1);
}

static bool transposed(change *e, double rows)
{
    int64_t n = norm_width(&e->c);
    change_say(e, "weights transposed as %d rows", (int)rows);
    return n % (int64_t)rows == 0 && n > (int64_t)rows && arrange(e, TRANSPOSED, (int64_t)rows);
}

#define CHANGE(cause, edit, value, phrase)                                                         \
    {                                                                                              \
        KINDS_NORM, CAUSE_##cause, EVIDENCE_CHANGE, edit, value, phrase                            \
    }
#define EPS(value)            CHANGE(NORM_STATS, eps_set, value, NULL)
#define LEFT(by)              CHANGE(KERNEL_MATH, group_left, by, NULL)
#define FORMULA(which)        CHANGE(KERNEL_MATH, formula, which, NULL)
#define ARRANGED(how, phrase) CHANGE(WEIGHT_LAYOUT, arrangement, how, phrase)

static const hypothesis rows[] = {
    EPS(1e-5),
    EPS(1e-6),
    EPS(1e-12),
    EPS(1e-8),
    EPS(1e-7),
    EPS(1e-4),
    EPS(1e-3),
    EPS(1e-9),
    EPS(1e-10),
    EPS(1e-11),
    EPS(0),
    CHANGE(NORM_STATS, eps_times, 10, NULL),
    CHANGE(NORM_STATS, eps_over, 10, NULL),
    CHANGE(NORM_STATS, eps_plus, 1e-3, NULL),
    CHANGE(NORM_STATS, eps_plus, -1e-3, NULL),
    CHANGE(NORM_STATS, count_plus, -1, NULL),
    CHANGE(NORM_STATS, count_plus, 1, NULL),
    CHANGE(NORM_STATS, count_times, 0.5, NULL),
    CHANGE(NORM_STATS, count_times, 2, NULL),
    CHANGE(NORM_STATS, count_padded, 64, NULL),
    CHANGE(NORM_STATS, count_padded, 128, NULL),
    CHANGE(NORM_STATS, count_padded, 256, NULL),
    CHANGE(NORM_STATS, count_padded, 1024, NULL),
    CHANGE(NORM_STATS, count_of_row, 0, NULL),
    CHANGE(NORM_STATS, count_of_head, 0, NULL),
    CHANGE(NORM_STATS, count_solved, 0, NULL),
    CHANGE(NORM_STATS, eps_solved, 0, NULL),
    FORMULA(0),
    FORMULA(1),
    FORMULA(2),
    FORMULA(3),
    FORMULA(4),
    FORMULA(5),
    FORMULA(6),
    FORMULA(7),
    FORMULA(8),
    FORMULA(9),
    FORMULA(10),
    FORMULA(11),
    FORMULA(12),
    FORMULA(13),
    FORMULA(14),
    FORMULA(15),
    FORMULA(16),
    FORMULA(17),
    FORMULA(18),
    FORMULA(19),
    FORMULA(20),
    FORMULA(21),
    FORMULA(22),
    FORMULA(23),
    FORMULA(24),
    FORMULA(25),
    FORMULA(26),
    FORMULA(27),
    FORMULA(28),
    FORMULA(29),
    LEFT(0),
    LEFT(1),
    LEFT(2),
    LEFT(3),
    LEFT(4),
    LEFT(5),
    LEFT(6),
    LEFT(7),
    LEFT(8),
    CHANGE(KERNEL_MATH, weight_minus, 1, "weight - 1 for weight"),
    ARRANGED(REVERSED, "weights reversed"),
    ARRANGED(HALVES, "weights with their halves swapped"),
    ARRANGED(STRIDE_2, "weights at index 2i mod n"),
    ARRANGED(REPEAT_2, "weights at index i / 2"),
    ARRANGED(NEXT, "weights one further on"),
    ARRANGED(PREVIOUS, "weights one further back"),
    ARRANGED(NEGATED, "weights negated"),
    ARRANGED(ZERO, "weights zero"),
    CHANGE(WEIGHT_LAYOUT, transposed, 2, NULL),
    CHANGE(WEIGHT_LAYOUT, transposed, 4, NULL),
    CHANGE(WEIGHT_LAYOUT, transposed, 8, NULL),
    CHANGE(WEIGHT_LAYOUT, transposed, 16, NULL),
    CHANGE(WEIGHT_LAYOUT, transposed, 32, NULL),
    CHANGE(WEIGHT_LAYOUT, transposed, 64, NULL),
};

const hypothesis_table changes_norm = {rows, sizeof rows / sizeof *rows};
