/* op_hypothesis.h - what may be wrong with one op, as data: each hypothesis is one change of a
 * case.
 *
 *     op_around around = {&at, &rows, NULL, 0};
 *     op_try(&c, &around, &trial, &item, &n, err);      // c: what the op should have read
 *     item[0] is the healthy op; every other one the healthy op with exactly one change
 *
 * A hypothesis is one row of a table: cause, kinds of op, what it says, and an edit of the case
 * (change.h). Which of them fit is told; what follows from it is explain's business. Several may
 * give one result at one token (`same_as`): position 0 knows nothing of rotation, one key nothing
 * of scales.
 */
#ifndef GRETA_REPLAY_OP_HYPOTHESIS_H
#define GRETA_REPLAY_OP_HYPOTHESIS_H

#include "replay/op_replay.h"
#include "trace/evidence.h"

/* Where changes find other operands. All may be NULL: changes that need them are left out. */
typedef struct op_around {
    const op_place *at;    /* model, list, index of the op */
    const op_rows *rows;   /* rows of other stages, layers and positions of this sequence */
    const op_rows *others; /* (n_other) other sequences */
    int32_t n_other;
} op_around;

/* What a result is held against. */
typedef struct op_trial_terms {
    const char *recorded_by;    /* kernel of the record: another one replays (op_replay_table) */
    const op_operand *recorded; /* the op's row */
    const double *bound;        /* (recorded->n) op_bound, or NULL: bits only */
    const op_contract
        *contract; /* not NULL: each result is held instead against twice its own
                      calibrated bound, from the operands as the hypothesis has them */
} op_trial_terms;

/* Replays the healthy op and every hypothesis that applies. *item is malloc'd, (*n), at least 1.
 * GRETA_BAD_INPUT: the case does not pass op_case_check, or the recorded row is another one's. */
greta_status op_try(const op_case *c, const op_around *around, const op_trial_terms *trial,
                    evidence **item, int32_t *n, greta_error *err);

/* Number of hypotheses for a kind, whether they apply or not. */
int32_t op_hypotheses_count(op_kind kind);

#endif
