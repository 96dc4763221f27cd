/* bound_rig.h - what the tests of bounds share: operands, rows, and holding results to a bound.
 */
#ifndef GRETA_TESTS_BOUND_RIG_H
#define GRETA_TESTS_BOUND_RIG_H

#include "op_rig.h"

#include "replay/op_bound.h"

#include <math.h>

enum { K_MAX = 1024, OUT_MAX = 8 };

static uint64_t seed = 20260101;

static inline uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % below);
}

static inline float uniform(void) /* (-1, 1) */
{
    return ((float)draw(1u << 24) + 0.5f) * 0x1p-23f - 1.0f;
}

static inline float normal(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += uniform();
    }
    return sum * 0.5f;
}

/* ---- Operands -------------------------------------------------------------------------------- */

typedef enum hostile {
    RANDOM,
    ONE_SIGN,
    LOSES_ALL, /* 1, then terms that each vanish against it */
    CANCELS,   /* large terms of both signs, a small sum */
    TINY,      /* products that underflow */
    WIDE,      /* magnitudes over forty binades */
    HOSTILE_COUNT
} hostile;

/* Rows whose products are what the name says; `vanishing` is half an ulp of 1. */
static inline void fill(hostile h, float *w, float *x, int n, float vanishing)
{
    for (int i = 0; i < n; i++) {
        w[i] = normal();
        x[i] = normal();
        switch (h) {
        case ONE_SIGN:
            w[i] = fabsf(w[i]);
            x[i] = fabsf(x[i]);
            break;
        case LOSES_ALL:
            w[i] = 1;
            x[i] = i == 0 ? 1 : vanishing;
            break;
        case CANCELS:
            w[i] = i % 2 ? -w[i - 1] : w[i] * 1000;
            x[i] = i % 2 ? x[i - 1] * (1 + 0x1p-12f * uniform()) : x[i];
            break;
        case TINY:
            w[i] *= 0x1p-70f;
            x[i] *= 0x1p-75f;
            break;
        case WIDE:
            w[i] = ldexpf(w[i], (int)draw(40) - 20);
            break;
        default:
            break;
        }
    }
}

static const op_contract plain = {ACT_CONTRACT_F32, DTYPE_F32};

static inline void judge(const op_case *c, bound_class of, double *exact, double *bound)
{
    greta_error err = {0};
    rig_check(op_replay_f64(c, &plain, exact, &err), &err);
    rig_check(op_bound(c, &plain, of, bound, &err), &err);
}

/* Keeps the largest error in bounds; fails above 1. */
static inline void hold(double *reached, double got, double exact, double bound, const char *what)
{
    double error = fabs(got - exact);
    if (isinf(bound)) { /* sums that may overflow */
        return;
    }
    if (!(error <= bound)) {
        fail_msg("%s: error %g of %g is above the bound %g", what, error, exact, bound);
    }
    if (bound > 0 && error / bound > *reached) {
        *reached = error / bound;
    }
}

static inline void reaches(double reached, double claim, const char *what)
{
    print_message("%-40s reached %.3f of the bound\n", what, reached);
    if (reached < claim) {
        fail_msg("%s: only %g of the bound was reached, %g is claimed", what, reached, claim);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

typedef struct row_rig {
    op_case c;
    weight tensor;
    float w[K_MAX], x[K_MAX], z[K_MAX];
    double exact[K_MAX], bound[K_MAX];
} row_rig;

static inline void row_of(row_rig *r, op_kind kind, int n)
{
    r->tensor = (weight){.type = DTYPE_F32,
                         .n_row = 1,
                         .n_col = n,
                         .row_bytes = 4 * n,
                         .data = (const uint8_t *)r->w};
    r->c = (op_case){.op = {.kind = kind, .w = {{&r->tensor, 0, 1}}, .count = n, .eps = 1e-5f},
                     .in = {{DTYPE_F32, n, r->x}, {DTYPE_F32, n, r->z}},
                     .out = {DTYPE_F32, n, NULL}};
}

#endif
