/* op_judge.h - why an op's output is not what the model says, and whose fault a difference is.
 *
 *     op_check_reads(&run[s], &expected, &c.check[s]);      for both sides
 *     c.evidence[s] = ...                                   replay (verdict/op_audit.h)
 *     op_judge_side(&c, s, &found[s]);                      one run against the model
 *     op_judge_pair(&c, found, &line);                      two runs against each other
 *
 * Both sides are judged alike; nothing assumes which run is right. Needs no model and no engine.
 */
#ifndef GRETA_EXPLAIN_OP_JUDGE_H
#define GRETA_EXPLAIN_OP_JUDGE_H

#include "explain/op_check.h"

typedef struct op_trial {
    const op_expected *expected[SIDE_COUNT]; /* of each side's own contract */
    run_site run[SIDE_COUNT];
    op_check check[SIDE_COUNT];
    const op_evidence *evidence[SIDE_COUNT]; /* NULL: not replayed */
    int32_t head_dim;                        /* 0: unknown */
    bool has_two_weights;                    /* the sides' models hold other values for the op */
} op_trial;

/* One run's op against what the model says. out->state: EQUAL (healthy), CONFIRMED, SUSPECTED,
 * INCONCLUSIVE (wrong, and no hypothesis fits), INSTRUMENT_SUSPECT, or UNMEASURED. */
void op_judge_side(const op_trial *t, side s, finding *out);

/* Two runs' findings of one op as one: accused sides, or INHERITED, EQUAL, UNMEASURED. */
void op_judge_pair(const op_trial *t, const finding judged[SIDE_COUNT], finding *out);

/* Whether a run introduced something here that its contract does not allow. */
static inline bool finding_is_accused(const finding *f)
{
    return !f->is_benign && (f->state == VERDICT_CONFIRMED || f->state == VERDICT_SUSPECTED ||
                             f->state == VERDICT_INCONCLUSIVE);
}

#endif
