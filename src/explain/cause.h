/* cause.h - what a finding can say: a cause (base/causes.h) and how sure the evidence makes it. */
#ifndef GRETA_EXPLAIN_CAUSE_H
#define GRETA_EXPLAIN_CAUSE_H

#include "base/causes.h"

#define VERDICT_STATE_LIST(X)                                                                      \
    X(EQUAL, "EQUAL")                   /* no bit differs; cause NONE */                           \
    X(INHERITED, "INHERITED")           /* differs only because its operands do; cause NONE */     \
    X(CONFIRMED, "CONFIRMED")           /* the counterfactual, it alone, gives the bad bits */     \
    X(SUSPECTED, "SUSPECTED")           /* several causes fit, or no counterfactual could run */   \
    X(NOT_COMPARABLE, "NOT_COMPARABLE") /* not the same logical token and place */                 \
    X(UNMEASURED, "UNMEASURED")         /* a record or its values are missing */                   \
    X(INCONCLUSIVE, "INCONCLUSIVE")     /* measured, but the evidence does not decide */           \
    X(INSTRUMENT_SUSPECT, "INSTRUMENT_SUSPECT") /* the records contradict themselves */

typedef enum verdict_state {
#define VERDICT_STATE_ENUM(id, name) VERDICT_##id,
    VERDICT_STATE_LIST(VERDICT_STATE_ENUM)
#undef VERDICT_STATE_ENUM
    VERDICT_STATE_COUNT
} verdict_state;

/* "CONFIRMED"; "?" if out of range. */
const char *verdict_state_name(verdict_state state);
/* The exit code one finding stands for (DESIGN section 6): 0, 1 or 6. A CONFIRMED rounding or
 * policy difference is 0: a caller whose contract promises equal bits (isolate) treats it as 1. */
int verdict_exit_code(verdict_state state, cause c);

#endif
