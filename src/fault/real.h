/* real.h - bugs that happened: named, with what an engine that had them computes.
 *
 * Each is an order of faults (fault.h), planted in every layer that the bug was in, the runs that
 * show it, and the answer: the first op and the cause. They stand apart from the catalogue because
 * an exam of planted faults alone does not prove a referee.
 */
#ifndef GRETA_FAULT_REAL_H
#define GRETA_FAULT_REAL_H

#include "fault/fault.h"

#define FAULT_REAL_PREFIX "real/"

typedef struct fault_real {
    const char *name;        /* "real/llama.cpp-2374-rms-eps": stable, typed by users */
    const char *source;      /* where it was reported */
    const char *description; /* one clause: what the faulty engine did */
    const char *order;       /* as fault_order_parse takes it */
    const char *mode;        /* of the exam: "engine", "fresh", "batch", "reuse" */
    stage stage;             /* of the first op in execution order that is wrong */
    cause cause;
    const char *arch;         /* NULL: any; else models whose architecture begins so */
    int32_t n_token, n_chunk; /* that show it; 0: any */
} fault_real;

const fault_real *fault_reals(size_t *n);
const fault_real *fault_real_find(const char *name); /* NULL: no such bug */

#endif
