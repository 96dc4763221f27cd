/* elementary_exact.h - exp, sigmoid, silu, tanh and gelu by binary64 and by MPFR, for tests.
 *
 * Nothing here knows how kernel/elementary.h computes them: the formulas are the textbook's. An ulp
 * of y is the distance of floats at y, 2^-149 below 2^-126; infinity stands for 2^128.
 */
#ifndef GRETA_TESTS_ELEMENTARY_EXACT_H
#define GRETA_TESTS_ELEMENTARY_EXACT_H

#include "base/activation.h"

#include <math.h>
#include <mpfr.h>
#include <stdint.h>

#define EXACT_BITS 256
#define TINY       0x1p-100f

typedef struct exact_function {
    activation kind;
    const char *name;
    double (*approximate)(double x);
    void (*exact)(mpfr_t y, float x);
    double at_zero, slope; /* f(x) = at_zero + slope x + a little, for |x| < TINY */
    int is_rising;
} exact_function;

static inline double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static inline double silu(double x)
{
    return x / (1.0 + exp(-x));
}

static inline double gelu_tanh(double x)
{
    const double c1 = 0x1.9884533d43650p+0, c3 = 0x1.2444f2a4d8b54p-4;
    return x / (1.0 + exp(-x * (c1 + c3 * x * x)));
}

static inline void exact_exp(mpfr_t y, float x)
{
    mpfr_set_flt(y, x, MPFR_RNDN);
    mpfr_exp(y, y, MPFR_RNDN);
}

/* y / (1 + e^-a), a in y */
static inline void exact_gate(mpfr_t y, float numerator)
{
    mpfr_neg(y, y, MPFR_RNDN);
    mpfr_exp(y, y, MPFR_RNDN);
    mpfr_add_ui(y, y, 1, MPFR_RNDN);
    mpfr_d_div(y, (double)numerator, y, MPFR_RNDN);
}

static inline void exact_sigmoid(mpfr_t y, float x)
{
    mpfr_set_flt(y, x, MPFR_RNDN);
    exact_gate(y, 1.0f);
}

static inline void exact_silu(mpfr_t y, float x)
{
    mpfr_set_flt(y, x, MPFR_RNDN);
    exact_gate(y, x);
}

static inline void exact_tanh(mpfr_t y, float x)
{
    mpfr_set_flt(y, x, MPFR_RNDN);
    mpfr_tanh(y, y, MPFR_RNDN);
}

/* 2 sqrt(2 / pi) (x + 0.044715 x^3) */
static inline void exact_gelu_tanh(mpfr_t y, float x)
{
    mpfr_t c;
    mpfr_init2(c, EXACT_BITS);
    mpfr_set_flt(y, x, MPFR_RNDN);
    mpfr_sqr(y, y, MPFR_RNDN);
    mpfr_mul_ui(y, y, 44715, MPFR_RNDN);
    mpfr_div_ui(y, y, 1000000, MPFR_RNDN);
    mpfr_add_ui(y, y, 1, MPFR_RNDN);
    mpfr_mul_d(y, y, 2.0 * (double)x, MPFR_RNDN);
    mpfr_const_pi(c, MPFR_RNDN);
    mpfr_ui_div(c, 2, c, MPFR_RNDN);
    mpfr_sqrt(c, c, MPFR_RNDN);
    mpfr_mul(y, y, c, MPFR_RNDN);
    mpfr_clear(c);
    exact_gate(y, x);
}

static const exact_function exact_functions[] = {
    {ACTIVATION_EXP, "exp", exp, exact_exp, 1.0, 0.0, 1},
    {ACTIVATION_SIGMOID, "sigmoid", sigmoid, exact_sigmoid, 0.5, 0.0, 1},
    {ACTIVATION_SILU, "silu", silu, exact_silu, 0.0, 0.5, 0},
    {ACTIVATION_TANH, "tanh", tanh, exact_tanh, 0.0, 1.0, 1},
    {ACTIVATION_GELU_TANH, "gelu_tanh", gelu_tanh, exact_gelu_tanh, 0.0, 0.5, 0},
};

enum { N_EXACT = sizeof exact_functions / sizeof *exact_functions };

/* Of a double; by hand, because it is asked four billion times. */
static inline double ulp_at(double y)
{
    union {
        double d;
        uint64_t bits;
    } power = {y};
    power.bits &= 0x7ff0000000000000u;
    return (power.d < 0x1p-126 ? 0x1p-126 : power.d) * 0x1p-23;
}

/* y, or the first power of two that is too large. */
static inline double value_of(float y)
{
    return isinf(y) ? copysign(0x1p128, (double)y) : (double)y;
}

/* |y - exact| / ulp */
static inline double error_in_ulp(const exact_function *f, float x, float y, double ulp)
{
    mpfr_t exact;
    mpfr_init2(exact, EXACT_BITS);
    f->exact(exact, x);
    if (mpfr_cmp_d(exact, 0x1p128) > 0) {
        mpfr_set_d(exact, 0x1p128, MPFR_RNDN);
    }
    mpfr_d_sub(exact, value_of(y), exact, MPFR_RNDN);
    double error = fabs(mpfr_get_d(exact, MPFR_RNDN)) / ulp;
    mpfr_clear(exact);
    return error;
}

#endif
