/* cause.c - names of the verdict states, and the exit code a finding stands for. */
#include "explain/cause.h"

static const char *const verdict_state_names[VERDICT_STATE_COUNT] = {
#define VERDICT_STATE_NAME(id, name) name,
    VERDICT_STATE_LIST(VERDICT_STATE_NAME)
#undef VERDICT_STATE_NAME
};

const char *verdict_state_name(verdict_state state)
{
    return (unsigned)state < VERDICT_STATE_COUNT ? verdict_state_names[state] : "?";
}

int verdict_exit_code(verdict_state state, cause c)
{
    switch (state) {
    case VERDICT_EQUAL:
    case VERDICT_INHERITED:
        return 0;
    case VERDICT_CONFIRMED:
        return c == CAUSE_ROUNDING || c == CAUSE_PRECISION_POLICY ? 0 : 1;
    case VERDICT_SUSPECTED:
        return 1;
    default:
        return 6;
    }
}
