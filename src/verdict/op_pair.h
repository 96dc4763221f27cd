/* op_pair.h - every op of a token on two runs, or on one, as lines that have something to tell.
 *
 *     op_pair p = {.sides = ..., .catalog = ..., .plan = ..., .naming = ...};
 *     op_pair_judge(&p, &findings, err);          isolate, compare: two runs
 *     op_single_judge(&s, &findings, err);        audit: one run against the model
 */
#ifndef GRETA_VERDICT_OP_PAIR_H
#define GRETA_VERDICT_OP_PAIR_H

#include "report/analysis.h"
#include "verdict/op_audit.h"
#include "verdict/op_kin.h"

typedef struct op_pair {
    const site *side[SIDE_COUNT];
    const catalog *catalog[SIDE_COUNT];
    const op_plan *plan[SIDE_COUNT]; /* of each side's own contract and model; may be one */
    const op_kin *kin;               /* the plans are of two models; NULL: of one */
    bool is_one_session;             /* B's session went on from A's trace */
    const norm_line *norm;           /* (n_norm) judged norms whose findings stand; may be none */
    size_t n_norm;
    side_naming naming;
    bool has_canaries; /* plant them in B, after it was judged */
} op_pair;

/* Adds to *out: its lines are in execution order of A's list, those of B's own ops behind. */
greta_status op_pair_judge(const op_pair *p, op_findings *out, greta_error *err);

typedef struct op_single {
    const site *site;
    const catalog *catalog;
    const op_plan *plan;
    bool has_canaries;
} op_single;

greta_status op_single_judge(const op_single *s, op_findings *out, greta_error *err);

/* C_B(a) of op i of B's plan: on the rows that `a` should have read, put under B's contract where
 * A's is another. healthy.values NULL: a row is missing. */
greta_status op_cross(const audit_terms *a, const op_plan *b, int32_t i, op_output *out,
                      greta_error *err);
/* What A's weights make of the row that op i of A's plan should have read, less what those of op k
 * of B's make of it, in binary64: *out is malloc'd, one per value; NULL: a row is missing. */
greta_status op_cross_weights(const audit_terms *a, int32_t i, const op_plan *b, int32_t k,
                              double **out, greta_error *err);

#endif
