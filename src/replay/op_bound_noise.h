/* op_bound_noise.h - what the files of op_bound share: a class as numbers. */
#ifndef GRETA_REPLAY_OP_BOUND_NOISE_H
#define GRETA_REPLAY_OP_BOUND_NOISE_H

#include "replay/op_exact.h"

/* Unit roundoffs, and half of the smallest subnormals. */
#define U         0x1p-24
#define U_F16     0x1p-11
#define U_BF16    0x1p-8
#define U_TF32    0x1p-11
#define TINY_F16  0x1p-25
#define TINY_BF16 0x1p-134
#define TINY_TF32 0x1p-137

typedef struct noise {
    double u_sum, tiny_sum; /* of accumulators */
    bool is_calibrated;
    int32_t width;                /* values per scale of coded activations; 0: not coded */
    double u_row, tiny_row;       /* of every row that is read */
    bool is_stored;               /* and of the row that is written */
    double u_factor, tiny_factor; /* of both factors of products */
    double u_kv, tiny_kv;         /* of cache rows */
    double u_angle;
    double u_function; /* of exponentials, relative */
    double most; /* finite range, 0: that of binary32 */
} noise;

typedef struct bounding {
    const op_case *c;
    const op_contract *contract;
    noise noise;
    double *out;
    const double *angle; /* ROPE: errors of the angles */
    greta_error *err;
} bounding;

/* n u / (1 - n u); INFINITY from n u = 1 on. */
double noise_gamma(double n, double u);
/* Of a sum of n_term terms, own roundings included, of absolute sum `size` and sum y. */
double noise_sum(const noise *s, double n_term, double size, double y);
/* Of a value of a row as the class keeps it. */
double noise_row(const noise *s, double x);

greta_status bound_attention(const bounding *b);

#endif
