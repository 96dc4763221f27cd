/* op_effect.h - what a difference does on its way to the next token, and where it came from.
 *
 * Forwards: how each op amplifies what differs in its operands, which sums cancel, which channel
 * and how many heads hold the difference. At the end: whether the most likely token changes, and by
 * how many bounds of rounding it led. Backwards: from differing logits along differing edges to the
 * first op that introduced something.
 */
#ifndef GRETA_VERDICT_OP_EFFECT_H
#define GRETA_VERDICT_OP_EFFECT_H

#include "verdict/op_pair.h"

/* One op of A's list at a token of both runs. */
typedef struct effect_op {
    const trace_record *record[SIDE_COUNT]; /* NULL: none */
    bool is_introduced; /* a fault, or what policy or rounding makes of equal operands */
    bool has_earlier;   /* reads cache rows of earlier tokens that differ */
} effect_op;

/* Adds the token to out->effect and out->growth. `terms` of both sides, for bounds of logits. */
greta_status op_effect_take(const audit_terms terms[SIDE_COUNT], const effect_op *ops,
                            op_findings *out, greta_error *err);

#endif
