/* norm_variant.h - RMS norms that differ from the definition in one way: another formula, or
 * another order of rounding. Hypotheses as data: a row of the table is one of them.
 */
#ifndef GRETA_REPLAY_NORM_VARIANT_H
#define GRETA_REPLAY_NORM_VARIANT_H

#include "base/causes.h"
#include "kernel/kernel.h"

typedef enum sum_order {
    SUM_CANONICAL,  /* groups of 64 halved by stride, groups in index order: docs/numerics.md */
    SUM_SEQUENTIAL,
    SUM_REVERSED,
    SUM_PAIRWISE,
    SUM_LANES_4,    /* lane i mod 4, lanes halved by stride */
    SUM_LANES_8,
    SUM_LANES_16,
    SUM_LANES_32,
    SUM_F64,        /* binary64, rounded once */
    SUM_FUSED,      /* one fused multiply-add chain; squares only */
    SUM_FUSED_8,    /* eight of them */
    SUM_F16,        /* in index order, kept in binary16; squares only */
    SUM_BF16,
    /* The definition but for one thing; squares only. */
    SUM_CONTRACTED,      /* the first halving is fma(a, a, b b): a compiler makes it of a a + b b */
    SUM_CONTRACTED_BACK, /* or fma(b, b, a a) */
    SUM_LAST_LEFT,       /* the last group of two or more is `left`, whatever its squares are */
} sum_order;

typedef enum norm_centre {
    CENTRE_NONE,
    CENTRE_MEAN,       /* the mean is subtracted first (LayerNorm without bias) */
    CENTRE_MEAN_LATE,  /* subtracted only from what is scaled */
} norm_centre;

typedef enum norm_inverse {
    INVERSE_ROOT,        /* 1 / sqrt(mean + eps): the definition */
    INVERSE_ROOT_SUM,    /* 1 / sqrt(sum + eps) */
    INVERSE_NO_ROOT,     /* 1 / (mean + eps) */
    INVERSE_EPS_OUTSIDE, /* 1 / (sqrt(mean) + eps) */
    INVERSE_ONE,         /* not normalised */
} norm_inverse;

typedef enum norm_gain {
    GAIN_WEIGHT,         /* (x * inverse) * weight: the definition */
    GAIN_WEIGHT_PLUS_1,
    GAIN_NONE,
    GAIN_SQUARED,        /* applied twice */
    GAIN_FACTOR_FIRST,   /* x * (inverse * weight) */
    GAIN_WEIGHT_FIRST,   /* (x * weight) * inverse */
    GAIN_DIVIDED,        /* (x / root) * weight */
} norm_gain;

typedef struct norm_variant {
    cause cause;         /* KERNEL_MATH, ROUNDING or PRECISION_POLICY */
    const char *phrase;
    sum_order order, mean_order;
    norm_centre centre;
    norm_inverse inverse;
    norm_gain gain;
    float left;          /* SUM_LAST_LEFT */
    int is_flushed;      /* subnormal operands and results are zero */
} norm_variant;

const norm_variant *norm_variants(size_t *n);
/* a->y and a->inv_rms by the variant. `terms`: room for n values. Operands do not overlap. */
void norm_variant_apply(const norm_variant *variant, norm_args *a, float *terms);
/* The squares of the last group of 64, as the definition adds them. */
float norm_last_group(const float *x, int64_t n);
/* The sum of n terms, or (fused orders) of their squares. */
float sum_in_order(sum_order order, const float *terms, int64_t n);

#endif
