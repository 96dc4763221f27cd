/* op_bound.h - how far an op's row may lie from its exact value, for a printed class of engines.
 *
 *     op_replay_f64(&c, &contract, exact, err);
 *     op_bound(&c, &contract, BOUND_SOUND, bound, err);
 *     |y[i] - exact[i]| > bound[i]  is no rounding of that class
 *
 * Bounds are computed per element from the operands of this op at this token, never from constants.
 * Two runs of one class differ by at most twice as much. SOUND holds for every engine of its class,
 * on any operands; what lies above it is a proven fault, if the class is known to be theirs.
 * CALIBRATED is what rounding does in practice (EXPLAINING, noise model), hundreds of times
 * smaller for long sums; an adversary can exceed it, random data do not. The other classes are
 * precision policies: sound, and wider by what that policy does.
 */
#ifndef GRETA_REPLAY_OP_BOUND_H
#define GRETA_REPLAY_OP_BOUND_H

#include "replay/op_replay.h"

typedef enum bound_class {
    BOUND_SOUND,
    BOUND_CALIBRATED,
    BOUND_ACT_Q8,     /* against contract f32: rows in front of quantised weights are codes of 8
                         bits with a scale per 32 values, in binary32 or binary16 */
    BOUND_ACT_Q8_256, /* the same with a scale per 256 values */
    BOUND_STORE_F16,  /* rows that the op reads and writes are held in binary16 */
    BOUND_STORE_BF16,
    BOUND_KV_F16,     /* against contract f32: the cache is binary16 */
    BOUND_INPUT_TF32, /* both factors of products are rounded to it, sums are binary32 */
    BOUND_INPUT_F16,
    BOUND_INPUT_BF16,
    BOUND_SUM_F16, /* sums of products are binary16 */
    BOUND_SUM_BF16,
    BOUND_ANGLES_F32, /* rotary angles are products or powers in binary32 */
    BOUND_FUNCTIONS,  /* exponentials, and what is made of them, are off by 2^-16 of themselves */
    BOUND_CLASS_COUNT
} bound_class;

/* "f32" of SOUND, "store_f16": as the header of a trace claims it. */
const char *bound_class_name(bound_class of);
/* BOUND_CLASS_COUNT: no class has this name ("calibrated" is no claim that holds for all data). */
bound_class bound_class_find(const char *name);
/* One line: what every engine of the class does, and what is assumed of the record. */
const char *bound_class_text(bound_class of);

/* Of c->out.n elements, of |result - op_replay_f64|. INFINITY where nothing can be said: sums that
 * may overflow, relative errors of 1 and more. Needs a case that passes op_case_check. */
greta_status op_bound(const op_case *c, const op_contract *contract, bound_class of, double *bound,
                      greta_error *err);

#endif
