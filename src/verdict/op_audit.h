/* op_audit.h - every op of one run at one token, against the model: what it read, and whether its
 * output is what the model's op gives.
 *
 *     op_plan_new(model, &trace->header, &plan, err);     the op list of the run's own contract
 *     op_audit_run(&plan, &seen, NULL, &list, err);       one op_audit per op, in execution order
 *
 * Replay runs builds of the definition only, never the kernels that made the records. What a row is
 * held to, bits or bounds, is what the run's own trace claims (op_standard.h).
 */
#ifndef GRETA_VERDICT_OP_AUDIT_H
#define GRETA_VERDICT_OP_AUDIT_H

#include "explain/op_judge.h"
#include "replay/op_hypothesis.h"
#include "verdict/op_standard.h"

/* The op list of one contract, as replay and as explain see it. */
typedef struct op_plan {
    const struct greta_model *model;
    op_list list;
    op_expected *expected; /* (list.n_op) */
    op_contract contract;
    int32_t n_ctx; /* of the session, from the header */
} op_plan;

/* The contract a trace was made under. The model must outlive the plan. */
greta_status op_plan_new(const struct greta_model *model, const trace_header *header, op_plan *out,
                         greta_error *err);
void op_plan_free(op_plan *plan); /* a zeroed one is fine */

/* One op of one run at one token. */
typedef struct op_audit {
    op_check check;
    op_evidence evidence; /* its items are owned */
    op_output healthy;    /* the op on what it should have read; values NULL: not replayed */
} op_audit;

/* What a run is audited with. */
typedef struct audit_terms {
    const op_plan *plan;
    run_site run;
    const site *other;    /* the other run at the same token, for values; NULL: none */
    const op_audit *twin; /* (n_op) of a run of the same plan: what is equal to the last bit there
                             is not replayed again; NULL: none */
    double *work;         /* replays are counted there (op_work); NULL: nowhere */
    bool is_arbitrated;   /* records of the definition that fit need no binary64 beside them: the
                             other run's, made by it as well, have it */
    bool is_trial;        /* a canary (op_canary.h): only op trial_op, and not why it is wrong */
    int32_t trial_op;     /* of the list */
} audit_terms;

/* (plan->list.n_op) audits, malloc'd; free with op_audits_free. */
greta_status op_audit_run(const audit_terms *terms, op_audit **out, greta_error *err);
void op_audits_free(op_audit *list, int32_t n); /* NULL is fine */

/* The row that (stage, layer) wrote for a position of the run, for an op that should read it;
 * false: it was not kept. */
bool op_audit_row(const audit_terms *terms, const op_expected *reader, stage name, int32_t layer,
                  int64_t position, op_operand *out);
/* The case of op i on what it should have read. Free with op_case_free. */
greta_status op_audit_case(const audit_terms *terms, int32_t i, op_case *c, greta_error *err);

#endif
