/* fault.h - the catalogue of plantable faults, as data, and how one is planted.
 *
 * A fault is what a run executes instead of the healthy op list: an edited copy (an edge, a number,
 * a weight) or an alternate kernel for one op. Kernels carry no fault flags, and what is planted
 * leaves no name behind: the alternate table is called like the healthy one, rearranged weights
 * like the tensor they replace. The caller hands `list` and `table` to session_override_set.
 */
#ifndef GRETA_FAULT_FAULT_H
#define GRETA_FAULT_FAULT_H

#include "base/causes.h"
#include "kernel/kernel.h"
#include "model/op.h"

#include <stdbool.h>

typedef struct fault_kind {
    const char *name;        /* "ffn_norm-reads-previous-position": stable, typed by users */
    cause cause;             /* the bucket a correct classifier names */
    const char *description; /* one clause: what the faulty run does */
    stage stage;             /* the op it is planted at */
    int32_t layer_min;       /* first layer it can be planted at */
    bool needs_chunk;        /* the last prefill pass must hold 2 rows or more */
    bool needs_two_layers;
    bool is_hidden;          /* the record shows the right number, the kernel uses another */
    const struct fault_edit *edit; /* how; known to fault.c only */
} fault_kind;

/* All kinds, grouped by cause. */
const fault_kind *fault_kinds(size_t *n);
/* NULL: no such fault. */
const fault_kind *fault_find(const char *name);
/* A layer of a model of n_layer that the kind can be planted at, drawn from the seed; -1: none. */
int32_t fault_layer_draw(const fault_kind *kind, int32_t n_layer, uint64_t seed);

typedef struct fault_site {
    const fault_kind *kind;
    const op_list *list;             /* healthy; copied, and its weights must outlive the fault */
    const kernel_table *table;       /* healthy: the one the session runs */
    stage stage;                     /* another norm than the kind's; STAGE_NONE: the kind's */
    int32_t layer;                   /* -1 for final_norm */
    int32_t previous_row;            /* row of the previous pass that holds position-1, counted from
                                        its end: -1 in a fresh session; -2 where the last row was
                                        prefilled and dropped */
} fault_site;

typedef struct fault_planted {
    op_list list;            /* run this instead */
    kernel_table table;      /* for ops with table == 1 */
    bool has_table;          /* an op of the list wants it */
    weight tensor;           /* the rearranged weights the list points to, if any */
    float *values;           /* its values, owned; NULL: another tensor's own */
} fault_planted;

/* Plants one fault. GRETA_USAGE when the site cannot carry it (names why). *out is malloc'd and
 * must outlive every session that runs it: the list points into it. */
greta_status fault_plant(const fault_site *site, fault_planted **out, greta_error *err);
void fault_planted_free(fault_planted *planted); /* NULL is fine */

#endif
