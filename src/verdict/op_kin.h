/* op_kin.h - the weights that two models give to the same op: one and the same, the same in another
 * type, or other ones.
 *
 *     op_kin_new(model, headers, wanted, watch, &kin, err);     reads both models' weights once
 *     op_kin_of(&kin, a, b);                                    what was found of two ops' weights
 *
 * Views are matched op by op, not by the names of tensors: one file may hold as one tensor, or tie
 * to another, what the other keeps apart.
 */
#ifndef GRETA_VERDICT_OP_KIN_H
#define GRETA_VERDICT_OP_KIN_H

#include "replay/weight_kin.h"
#include "verdict/op_audit.h"

typedef struct kin_entry {
    weight_view of[SIDE_COUNT];
    stage name; /* of the first op that reads them */
    int32_t layer;
    weight_match match;
} kin_entry;

typedef struct op_kin {
    kin_entry *entry;
    size_t n;
    size_t n_of[WEIGHTS_OTHER + 1];      /* by relation */
    char mismatch[MODEL_DIFFERENCE_MAX]; /* the models' ops are others: not compared; else "" */
} op_kin;

/* Of the stages in `wanted` (STAGE_COUNT). Both models agree in their configurations. `watch` may
 * be NULL; it is told "weights", in tensors. */
greta_status op_kin_new(const struct greta_model *const model[SIDE_COUNT],
                        const trace_header *const header[SIDE_COUNT], const bool *wanted,
                        const greta_watch *watch, op_kin *out, greta_error *err);
void op_kin_free(op_kin *kin); /* a zeroed one is fine */

/* The least related weights of two ops; NULL: they have none, or theirs were not compared. */
const kin_entry *op_kin_of(const op_kin *kin, const op *a, const op *b);
/* The first entry of a relation, in execution order; NULL: none. */
const kin_entry *op_kin_first(const op_kin *kin, weight_relation relation);

#endif
