/* weight_kin.h - whether two tensors are the same weights, stored in two types.
 *
 * A quantiser rounds a value to the nearest of the values that its block can hold. So for every
 * value of two stored tensors that were made of one
 *     |a - b| <= e(a) + e(b),      e: half the step of its block there, and the rounding of scales
 * and nothing more has to be known of how they were made. At the ends of a block's codes a value
 * may lie further out: by half a step, and by what rounding of the block's own scales takes away
 * (K-quants). Quantisers that search for scales which serve a weighted error (llama.cpp's, with an
 * importance matrix) exceed that by a little, and rarely; a limit says how much is still theirs.
 *
 * What cannot be told: weights that were changed by less than a step of their type. Then a few
 * values lie outside of e(a) + e(b), as behind such a search: WEIGHTS_SEARCHED says that.
 */
#ifndef GRETA_REPLAY_WEIGHT_KIN_H
#define GRETA_REPLAY_WEIGHT_KIN_H

#include "model/op.h"

typedef enum weight_relation {
    WEIGHTS_EQUAL,    /* every value is the same number */
    WEIGHTS_ROUNDED,  /* every value within e(a) + e(b): rounded to nearest */
    WEIGHTS_SEARCHED, /* nearly all of them, and none far out */
    WEIGHTS_OTHER
} weight_relation;

const char *weight_relation_name(weight_relation r); /* "rounded" */

/* Limits of WEIGHTS_SEARCHED. Searches of llama.cpp's kind for Q4_0 and Q5_0, of normal and of
 * heavy-tailed values (Student, 3 degrees) under importances from even to those of 4th powers of
 * exponential numbers, stay below 12, 0.05 and 0.35 (tests/py/test_two_models.py). Unrelated
 * weights have most of their values outside. */
#define WEIGHTS_FAR_MAX   16.0 /* largest |a - b| / (e(a) + e(b)) */
#define WEIGHTS_SHARE_MAX 0.1  /* of values outside of e(a) + e(b) */
#define WEIGHTS_ROW_MAX   0.5  /* the same, of any one row */

typedef struct weight_match {
    weight_relation relation;
    int64_t n, n_outside;
    double largest;   /* |a - b| / (e(a) + e(b)) */
    double row_share; /* of values outside, in the row that has most of them */
    int64_t row, at;  /* of it, in the view */
    double relative;  /* norm of a - b over the larger of both */
} weight_match;

/* Compares rows of two views of one shape by `n_thread` threads; the result does not depend on
 * them. */
struct thread_pool;
void weights_match(const weight_view *a, const weight_view *b, struct thread_pool *pool,
                   weight_match *out);

#endif
