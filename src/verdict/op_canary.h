/* op_canary.h - proof that the judge sees: one wrong value in a copy of one record of each stage.
 *
 *     op_canaries_run(&terms, seed, &findings.canaries, err);     after a run was judged
 *
 * Stage, layer and value are drawn by a hash in the trace. The value is 1 ulp off, or where the run
 * is held to bounds twice its bound, and goes through the code that judges every op. Which stages
 * there are is asked of the trace and of the model, never of the list that was judged: a judge that
 * leaves one out misses its canary.
 */
#ifndef GRETA_VERDICT_OP_CANARY_H
#define GRETA_VERDICT_OP_CANARY_H

#include "report/analysis.h"
#include "verdict/op_audit.h"

/* Plants in every stage that has no canary so far and an op that can be replayed at this token. */
greta_status op_canaries_run(const audit_terms *terms, uint64_t seed, op_canaries *out,
                             greta_error *err);

/* splitmix64 of a hash in the trace, below n: anyone can say where a canary must have been. */
uint64_t canary_draw(uint64_t seed, uint64_t n);

/* A copy of a record with one value of its first output one step off, its hash with it. Of a row
 * whose values were not kept only the hash changes. */
typedef struct altered_record {
    trace_record record;
    void *values; /* owned; NULL: none were kept */
    int64_t index;
    bool is_altered; /* false: no value is finite, and none can be a step off */
} altered_record;

greta_status altered_record_new(const trace_record *of, uint64_t seed, altered_record *out,
                                greta_error *err);
void altered_record_free(altered_record *a); /* a zeroed one is fine */

#endif
