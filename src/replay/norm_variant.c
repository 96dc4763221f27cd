/* norm_variant.c - the wrong formulas and the other orders of rounding that replay tries on a norm.
 *
 * Formulas come from bugs of real engines (EXPLAINING, rows N1-N3). Orders are those a correct
 * engine may have chosen: a scalar loop, SIMD lanes, a pairwise tree, binary64, contraction to
 * fused multiply-adds, the ways to multiply three factors. None is the definition, and none is a
 * fault: a record that an order explains is told as rounding.
 *
 * Written apart from the planted kernels of fault/ on purpose: a shared mistake would hide itself.
 */
#include "replay/op_variant.h"

#include <math.h>

static const norm_variant variants[] = {
    {CAUSE_KERNEL_MATH, "sum of squares for their mean", .inverse = INVERSE_ROOT_SUM},
    {CAUSE_KERNEL_MATH, "no root", .inverse = INVERSE_NO_ROOT},
    {CAUSE_KERNEL_MATH, "eps outside the root", .inverse = INVERSE_EPS_OUTSIDE},
    {CAUSE_KERNEL_MATH, "not normalised", .inverse = INVERSE_ONE},
    {CAUSE_KERNEL_MATH, "mean subtracted", .centre = CENTRE_MEAN},
    {CAUSE_KERNEL_MATH, "mean subtracted (summed in binary64)", .centre = CENTRE_MEAN,
     .mean_order = SUM_F64},
    {CAUSE_KERNEL_MATH, "mean subtracted (summed in index order)", .centre = CENTRE_MEAN,
     .mean_order = SUM_SEQUENTIAL},
    {CAUSE_KERNEL_MATH, "mean subtracted after the root", .centre = CENTRE_MEAN_LATE},
    {CAUSE_KERNEL_MATH, "1 + weight for weight", .gain = GAIN_WEIGHT_PLUS_1},
    {CAUSE_KERNEL_MATH, "weight missing", .gain = GAIN_NONE},
    {CAUSE_KERNEL_MATH, "weight applied twice", .gain = GAIN_SQUARED},
    {CAUSE_ROUNDING, "squares summed in index order", .order = SUM_SEQUENTIAL},
    {CAUSE_ROUNDING, "squares summed in reverse order", .order = SUM_REVERSED},
    {CAUSE_ROUNDING, "squares summed pairwise", .order = SUM_PAIRWISE},
    {CAUSE_ROUNDING, "squares summed in 4 lanes", .order = SUM_LANES_4},
    {CAUSE_ROUNDING, "squares summed in 8 lanes", .order = SUM_LANES_8},
    {CAUSE_ROUNDING, "squares summed in 16 lanes", .order = SUM_LANES_16},
    {CAUSE_ROUNDING, "squares summed in 32 lanes", .order = SUM_LANES_32},
    {CAUSE_ROUNDING, "squares summed in binary64", .order = SUM_F64},
    {CAUSE_ROUNDING, "squares summed in a fused chain", .order = SUM_FUSED},
    {CAUSE_ROUNDING, "squares summed in 8 fused chains", .order = SUM_FUSED_8},
    {CAUSE_PRECISION_POLICY, "squares summed in binary16", .order = SUM_F16},
    {CAUSE_PRECISION_POLICY, "squares summed in bfloat16", .order = SUM_BF16},
    {CAUSE_ROUNDING, "inverse rms and weight multiplied first", .gain = GAIN_FACTOR_FIRST},
    {CAUSE_ROUNDING, "row and weight multiplied first", .gain = GAIN_WEIGHT_FIRST},
    {CAUSE_ROUNDING, "row divided by its rms", .gain = GAIN_DIVIDED},
    {CAUSE_ROUNDING, "squares fused into their sum", .order = SUM_CONTRACTED},
    {CAUSE_ROUNDING, "squares fused into their sum, second ones first",
     .order = SUM_CONTRACTED_BACK},
    {CAUSE_KERNEL_MATH, "last 64 squares left out", .order = SUM_LAST_LEFT},
    {CAUSE_KERNEL_MATH, "subnormals flushed to zero", .is_flushed = 1},
};

const norm_variant *norm_variants(size_t *n)
{
    *n = sizeof variants / sizeof variants[0];
    return variants;
}

/* Lane i mod n_lane, lanes halved by stride; fused: the squares of the terms, chained. */
static float sum_lanes(const float *terms, int64_t n, int n_lane, int fused)
{
    float lane[ROW_SUM_GROUP] = {0};
    for (int64_t i = 0; i < n; i++) {
        float *acc = &lane[i % n_lane];
        *acc = fused ? fmaf(terms[i], terms[i], *acc) : *acc + terms[i];
    }
    for (int stride = n_lane / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    return lane[0];
}

static float sum_canonical(const float *terms, int64_t n)
{
    float total = 0.0f;
    for (int64_t start = 0; start < n; start += ROW_SUM_GROUP) {
        int64_t size = n - start < ROW_SUM_GROUP ? n - start : ROW_SUM_GROUP;
        float sum = sum_lanes(terms + start, size, ROW_SUM_GROUP, 0);
        total = start == 0 ? sum : total + sum;
    }
    return total;
}

/* A group whose first halving squares: one of the two squares is not rounded. */
static float sum_contracted(const float *x, int64_t n, int is_back)
{
    float total = 0.0f;
    for (int64_t start = 0; start < n; start += ROW_SUM_GROUP) {
        float term[ROW_SUM_GROUP / 2];
        for (int64_t i = 0; i < ROW_SUM_GROUP / 2; i++) {
            int64_t at = start + i, other = at + ROW_SUM_GROUP / 2;
            float a = at < n ? x[at] : 0.0f, b = other < n ? x[other] : 0.0f;
            float square = is_back ? a * a : b * b;
            term[i] = is_back ? fmaf(b, b, square) : fmaf(a, a, square);
        }
        float sum = sum_lanes(term, ROW_SUM_GROUP / 2, ROW_SUM_GROUP / 2, 0);
        total = start == 0 ? sum : total + sum;
    }
    return total;
}

float norm_last_group(const float *x, int64_t n)
{
    float square[ROW_SUM_GROUP] = {0};
    int64_t start = (n - 1) / ROW_SUM_GROUP * ROW_SUM_GROUP;
    for (int64_t i = start; i < n; i++) {
        square[i - start] = x[i] * x[i];
    }
    return sum_canonical(square, ROW_SUM_GROUP);
}

/* Squares of the groups before the last one, by the definition. */
static float sum_before_last(const float *x, int64_t n, float *terms)
{
    int64_t end = (n - 1) / ROW_SUM_GROUP * ROW_SUM_GROUP;
    for (int64_t i = 0; i < n; i++) {
        terms[i] = x[i] * x[i];
    }
    return sum_canonical(terms, end > 0 ? end : n);
}

/* A binary counter of finished subtrees: level l holds the sum of 2^l neighbours. */
static float sum_pairwise(const float *terms, int64_t n)
{
    float level[64] = {0};
    for (int64_t i = 0; i < n; i++) {
        float sum = terms[i];
        int l = 0;
        for (; (i >> l) & 1; l++) {
            sum = level[l] + sum;
        }
        level[l] = sum;
    }
    float total = 0.0f;
    for (int l = 0; l < 63; l++) {
        if ((n >> l) & 1) {
            total = level[l] + total;
        }
    }
    return total;
}

static float sum_reversed(const float *terms, int64_t n)
{
    float total = 0.0f;
    for (int64_t i = n; i-- > 0;) {
        total += terms[i];
    }
    return total;
}

static double sum_f64(const float *x, int64_t n, int squared)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double term = (double)x[i];
        total += squared ? term * term : term;
    }
    return total;
}

/* Squares; the sum is rounded to the narrower format after every one of them. */
static float sum_narrow(precision p, const float *x, int64_t n)
{
    float total = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        total = precision_round(p, total + x[i] * x[i]);
    }
    return total;
}

float sum_in_order(sum_order order, const float *terms, int64_t n)
{
    switch (order) {
    case SUM_SEQUENTIAL:
        return sum_lanes(terms, n, 1, 0);
    case SUM_REVERSED:
        return sum_reversed(terms, n);
    case SUM_PAIRWISE:
        return sum_pairwise(terms, n);
    case SUM_LANES_4:
        return sum_lanes(terms, n, 4, 0);
    case SUM_LANES_8:
        return sum_lanes(terms, n, 8, 0);
    case SUM_LANES_16:
        return sum_lanes(terms, n, 16, 0);
    case SUM_LANES_32:
        return sum_lanes(terms, n, 32, 0);
    case SUM_F64:
        return (float)sum_f64(terms, n, 0);
    case SUM_FUSED:
        return sum_lanes(terms, n, 1, 1);
    case SUM_FUSED_8:
        return sum_lanes(terms, n, 8, 1);
    case SUM_F16:
        return sum_narrow(PRECISION_F16, terms, n);
    case SUM_BF16:
        return sum_narrow(PRECISION_BF16, terms, n);
    case SUM_CONTRACTED:
    case SUM_CONTRACTED_BACK:
        return sum_contracted(terms, n, order == SUM_CONTRACTED_BACK);
    case SUM_LAST_LEFT: /* of norm_variant_apply alone */
    case SUM_CANONICAL:
        break;
    }
    return sum_canonical(terms, n);
}

static float flushed(const norm_variant *v, float value)
{
    return v->is_flushed && fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;
}

static float sum_of_squares(const norm_variant *v, const float *x, int64_t n, float *terms)
{
    sum_order order = v->order;
    if (order == SUM_LAST_LEFT) {
        float sum = sum_before_last(x, n, terms);
        return n > ROW_SUM_GROUP ? sum + v->left : sum;
    }
    if (order >= SUM_FUSED) { /* these square the terms themselves */
        return sum_in_order(order, x, n);
    }
    if (order == SUM_F64) {
        return (float)sum_f64(x, n, 1);
    }
    for (int64_t i = 0; i < n; i++) {
        terms[i] = flushed(v, x[i] * x[i]);
    }
    return sum_in_order(order, terms, n);
}

static float mean_of(sum_order order, const norm_args *a)
{
    if (order == SUM_F64) {
        return (float)(sum_f64(a->x, a->n, 0) / (double)a->count);
    }
    return sum_in_order(order, a->x, a->n) / (float)a->count;
}

static float inverse_of(norm_inverse inverse, float sumsq, const norm_args *a)
{
    float mean = sumsq / (float)a->count;
    switch (inverse) {
    case INVERSE_ROOT_SUM:
        return 1.0f / sqrtf(sumsq + a->eps);
    case INVERSE_NO_ROOT:
        return 1.0f / (mean + a->eps);
    case INVERSE_EPS_OUTSIDE:
        return 1.0f / (sqrtf(mean) + a->eps);
    case INVERSE_ONE:
        return 1.0f;
    case INVERSE_ROOT:
        break;
    }
    return 1.0f / sqrtf(mean + a->eps);
}

static float scaled(norm_gain gain, float x, float inverse, float weight)
{
    float normal = x * inverse;
    switch (gain) {
    case GAIN_WEIGHT_PLUS_1:
        return normal * (weight + 1.0f);
    case GAIN_NONE:
        return normal;
    case GAIN_SQUARED:
        return normal * weight * weight;
    case GAIN_FACTOR_FIRST:
        return x * (inverse * weight);
    case GAIN_WEIGHT_FIRST:
        return x * weight * inverse;
    case GAIN_DIVIDED: /* the caller passes the root */
        return x / inverse * weight;
    case GAIN_WEIGHT:
        break;
    }
    return normal * weight;
}

void norm_variant_apply(const norm_variant *variant, norm_args *a, float *terms)
{
    float mean = variant->centre == CENTRE_NONE ? 0.0f : mean_of(variant->mean_order, a);
    for (int64_t i = 0; i < a->n; i++) {
        a->y[i] = variant->centre == CENTRE_NONE ? flushed(variant, a->x[i]) : a->x[i] - mean;
    }
    const float *squared = variant->centre == CENTRE_MEAN_LATE ? a->x : a->y;
    float sumsq = sum_of_squares(variant, squared, a->n, terms);
    a->inv_rms = inverse_of(variant->inverse, sumsq, a);
    float factor =
        variant->gain == GAIN_DIVIDED ? sqrtf(sumsq / (float)a->count + a->eps) : a->inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        float w = flushed(variant, a->weight[i]);
        a->y[i] = variant->is_flushed ? flushed(variant, flushed(variant, a->y[i] * factor) * w)
                                      : scaled(variant->gain, a->y[i], factor, w);
    }
}
