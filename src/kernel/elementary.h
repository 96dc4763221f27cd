/* elementary.h - exp, sigmoid, silu, tanh and gelu in binary32, the definition.
 *
 * Each function is one sequence of binary32 operations without table or branch, so that scalar
 * code, vectors and GPUs give the same bits; docs/numerics.md has the text and the largest error
 * over all floats, which `make ulp` measures. All five rest on one reduction (Cody & Waite 1980):
 *
 *     x = n ln2 + r,    e^x = 2^n (1 + r + r^2 q(r)),    |r| <= ln2 / 2
 *
 * of which the sum is rounded once: r is kept as t, which is exact, and n * LN2_LOW, and 1 + t as a
 * sum and its rounding error (Dekker 1971, Fast2Sum). 2^n comes last, so nothing underflows early.
 * The others are quotients of such sums:
 *
 *     sigmoid(x) = 1 / (1 + e^-x),  silu(x) = x / (1 + e^-x),  gelu(x) = x / (1 + e^-2u),
 *     tanh|x| = (1 - e^-2|x|) / (1 + e^-2|x|)
 *
 * with numerator and denominator times 2^-n, which joins 1 + 2^-n, exact where it matters, to the
 * sum. There is no cancellation: 2^-n - 1 is exact, and 0 for small arguments. The comparisons of
 * the clamps are false for NaN, which so passes through. One addition less per sum (1 + the rest in
 * one go) would be 14 % faster and 0.9 ulp.
 */
#ifndef GRETA_KERNEL_ELEMENTARY_H
#define GRETA_KERNEL_ELEMENTARY_H

#include <math.h>
#include <stdint.h>

#define LOG2_E    0x1.715476p+0f
#define LN2       0x1.62e430p-1f /* whole multiples up to 256 are multiples of 2^-24 */
#define LN2_LOW   -0x1.05c610p-29f
#define EXP_Q0    0x1.fffffap-2f /* (e^r - 1 - r) / r^2, in ulp of e^r within 0.04 */
#define EXP_Q1    0x1.555490p-3f
#define EXP_Q2    0x1.555a3ap-5f
#define EXP_Q3    0x1.123b38p-7f
#define EXP_Q4    0x1.693e74p-10f
#define EXP_LEAST -104.0f /* e^x is below half of the smallest subnormal */
#define EXP_MOST  89.0f   /* above the largest float */

#define ONE_LEAST   -30.0f         /* 1 + e^a is 1 */
#define SILU_LEAST  -110.0f        /* silu is below half of the smallest subnormal */
#define TANH_LEAST  -20.0f         /* of -2|x|: tanh is 1 */
#define GELU_LEAST  -11.0f         /* gelu is below half of the smallest subnormal */
#define GELU_MOST   6.0f           /* gelu(x) is x */
#define GELU_C1     0x1.988450p+0f /* 2 sqrt(2 / pi), to 2^-20, and the rest */
#define GELU_C1_LOW 0x1.9ea1b2p-23f
#define GELU_C3     0x1.2444f2p-4f /* 0.044715 of it */
#define GELU_C3_LOW 0x1.49b16ap-29f

/* An argument as n ln2 + t + n * LN2_LOW; r is t and the rest, rounded. */
typedef struct exp_parts {
    float n, t, r;
} exp_parts;

static inline exp_parts exp_reduce(float x)
{
    exp_parts p;
    p.n = fmaf(x, LOG2_E, 0x1.8p23f) - 0x1.8p23f; /* nearest whole number, even among two */
    p.t = fmaf(p.n, -LN2, x);
    p.r = fmaf(p.n, -LN2_LOW, p.t);
    return p;
}

/* q(r) = (e^r - 1 - r) / r^2 */
static inline float exp_series(float r)
{
    float q = fmaf(EXP_Q4, r, EXP_Q3);
    q = fmaf(q, r, EXP_Q2);
    q = fmaf(q, r, EXP_Q1);
    return fmaf(q, r, EXP_Q0);
}

/* base + (e^r - 1); base is 0 or not below |t| in size. */
static inline float exp_sum(const exp_parts *p, float base)
{
    float high = base + p->t, low = p->t - (high - base);
    low = fmaf(p->n, -LN2_LOW, low);
    return high + fmaf(p->r * p->r, exp_series(p->r), low);
}

/* scale + e^r - rest, scale a power of two: what 1 + scale loses is in low as well. */
static inline float exp_plus(const exp_parts *p, float scale, float rest)
{
    float high = 1.0f + scale + p->t, low = p->t - (high - 1.0f - scale);
    low = fmaf(p->n, -LN2_LOW, low) - rest;
    return high + fmaf(p->r * p->r, exp_series(p->r), low);
}

/* y * 2^n for whole |n| <= 252, in two steps of which the first is exact where we use it. The sum
 * has n + 254 in its low bits, which is halved into two biased exponents. */
static inline float exp_scale(float y, float n)
{
    union {
        float f;
        uint32_t bits;
    } sum = {n + (0x1.8p23f + 254.0f)}, first, second;
    first.bits = (sum.bits >> 1) << 23;
    second.bits = (sum.bits - (sum.bits >> 1)) << 23;
    return y * first.f * second.f;
}

static inline float elementary_exp(float x)
{
    x = x < EXP_LEAST ? EXP_LEAST : x;
    x = x > EXP_MOST ? EXP_MOST : x;
    exp_parts p = exp_reduce(x);
    return exp_scale(exp_sum(&p, 1.0f), p.n);
}

static inline float elementary_sigmoid(float x)
{
    x = x < SILU_LEAST ? SILU_LEAST : x;
    exp_parts p = exp_reduce(-x < ONE_LEAST ? ONE_LEAST : -x);
    return exp_scale(1.0f / exp_plus(&p, exp_scale(1.0f, -p.n), 0.0f), -p.n);
}

/* x sigmoid(x) (Elfwing et al. 2017) as x / (1 + e^-x). The sum without its low part: 0.5 ulp
 * worse, and a fifth faster, where it is used most. */
static inline float elementary_silu(float x)
{
    x = x < SILU_LEAST ? SILU_LEAST : x;
    exp_parts p = exp_reduce(-x < ONE_LEAST ? ONE_LEAST : -x);
    float slope = fmaf(exp_series(p.r), p.r, 1.0f);
    float sum = fmaf(slope, p.r, 1.0f + exp_scale(1.0f, -p.n));
    return exp_scale(x / sum, -p.n);
}

static inline float elementary_tanh(float x)
{
    float a = -2.0f * fabsf(x);
    a = a < TANH_LEAST ? TANH_LEAST : a;
    exp_parts p = exp_reduce(a);
    float scale = exp_scale(1.0f, -p.n);
    return copysignf(exp_sum(&p, 1.0f - scale) / exp_plus(&p, scale, 0.0f), x);
}

/* Within (-cap, cap), the identity near 0 (Bello et al. 2016, section 5.1; Gemma 2). */
static inline float elementary_softcap(float cap, float x)
{
    return cap * elementary_tanh(x / cap);
}

/* x / (1 + e^-2u), 2u = x (c1 + c3 x^2): the tanh form of Hendrycks & Gimpel 2016 without its
 * cancellation. e^-2u needs 2u to far below an ulp, so it is computed as a sum of two floats. */
static inline float elementary_gelu_tanh(float x)
{
    x = x < GELU_LEAST ? GELU_LEAST : x;
    float v = x > GELU_MOST ? GELU_MOST : x;
    float v2 = v * v, v2_low = fmaf(v, v, -v2);
    float s = fmaf(GELU_C3, v2, GELU_C1);
    float s_low = fmaf(GELU_C3, v2, GELU_C1 - s) + GELU_C1_LOW;
    s_low = fmaf(GELU_C3_LOW, v2, s_low);
    s_low = fmaf(GELU_C3, v2_low, s_low);
    float w = v * s, w_low = fmaf(v, s_low, fmaf(v, s, -w));
    exp_parts p = exp_reduce(-w);
    p.r -= w_low;
    return exp_scale(x / exp_plus(&p, exp_scale(1.0f, -p.n), w_low), -p.n);
}

#endif
