/* control.h - benign variants: other arithmetic, as good as ours, that is no fault.
 *
 * A referee that calls one of them a fault raises a false alarm. They are whole kernels of the kind
 * other engines have: another order of summation, no fused operations, another exp, attention in
 * one piece, another quantiser. All ops of a list run the variant, and their table says what class
 * of rounding it claims, so that traces do not promise the bits of docs/numerics.md. Two of them
 * are another contract of the session. What gives the same bits by definition (threads, kernels,
 * chunk) is no variant.
 */
#ifndef GRETA_FAULT_CONTROL_H
#define GRETA_FAULT_CONTROL_H

#include "base/causes.h"
#include "kernel/kernel.h"
#include "model/op.h"

typedef struct control_kind {
    const char *name, *description;
    cause cause;                /* the right answer: CAUSE_ROUNDING or CAUSE_PRECISION_POLICY */
    const char *rounding;       /* what its kernels claim (kernel_table); "": nothing */
    kernel_table kernel;        /* entries that are not NULL */
    bool is_kv_f32, is_act_f32; /* or another contract of the session, with our kernels */
} control_kind;

const control_kind *control_kinds(size_t *n);
const control_kind *control_find(const char *name); /* NULL: no such variant */

/* Whether its kernels are others; if not, nothing is to be set but the session's options. */
bool control_has_kernels(const control_kind *kind);
/* A copy of `healthy` whose ops all run alternate table 1, which control_table makes. The caller
 * frees it. */
greta_status control_list(const op_list *healthy, op_list *list, greta_error *err);
kernel_table control_table(const control_kind *kind, const kernel_table *table);

#endif
