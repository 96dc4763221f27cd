/* tracing.h - a trace beside a run, asked for by flags or by the GRETA_TRACE_ variables. */
#ifndef GRETA_CLI_TRACING_H
#define GRETA_CLI_TRACING_H

#include "common.h"

#define TRACING_FIELDS 5

typedef struct tracing {
    greta_trace_options options;
    /* What the user wrote for stages, layers, phases, tokens, sample: "--layers"; for errors. */
    const char *const *name;
    bool is_asked;   /* a trace is wanted */
    bool is_running; /* it was begun and not ended */
    bool is_captured; /* outputs only, written when the run is over */
} tracing;

/* Reads the variables. Both families at once are refused: a session has one trace. */
greta_status tracing_variables(tracing *t, greta_error *err);
/* Whether a family is switched on; *name is its switch. */
bool tracing_is_switched_on(const char **name);
/* Says the size on stderr and begins. n_decode: most decode rows the run can take. */
greta_status tracing_begin(tracing *t, runner *r, size_t n_prefill, size_t n_decode,
                           greta_error *err);
/* Footer: "interrupted" after a signal or failure. Does nothing when no trace runs. */
greta_status tracing_end(tracing *t, runner *r, bool is_complete, greta_error *err);

#endif
