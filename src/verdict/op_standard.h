/* op_standard.h - what a run is held to: the bits that its trace claims, or bounds.
 *
 *     op_standard standard = op_standard_of(&trace->header);
 *     op_arbiter_open(&c, &contract, &a, err);
 *     op_arbiter_ratio(&a, standard.of, &recorded, &ratio, err);      ratio <= 1: inside
 *
 * The trace's own header decides: with this build's arithmetic its rows are the definition's, bit
 * for bit. Another engine, another version, kernels that claim no more than a class of rounding:
 * each op is held to its bound, computed from the operands that the run itself recorded.
 */
#ifndef GRETA_VERDICT_OP_STANDARD_H
#define GRETA_VERDICT_OP_STANDARD_H

#include "base/text.h"
#include "replay/op_bound.h"
#include "trace/record.h"

typedef struct op_standard {
    bool is_bits;     /* 0 bits may differ */
    bool is_declared; /* the trace says its class, or promises bits */
    bound_class of;   /* BOUND_SOUND where it says none */
} op_standard;

op_standard op_standard_of(const trace_header *header);
/* One line on it: "held to every bit of arithmetic 2". */
void op_standard_say(text *out, const trace_header *header);

/* An op in binary64, and room for its bounds. */
typedef struct op_arbiter {
    const op_case *c;
    const op_contract *contract;
    double *exact, *bound; /* (c->out.n) */
} op_arbiter;

greta_status op_arbiter_open(const op_case *c, const op_contract *contract, op_arbiter *out,
                             greta_error *err);
void op_arbiter_close(op_arbiter *a); /* a zeroed one is fine */

/* The largest distance of a row of the op's type and length from the exact one, over the element's
 * bound; INFINITY where a bound of 0 is left, or one of two values is not a number. */
greta_status op_arbiter_ratio(op_arbiter *a, bound_class of, const op_operand *row, double *ratio,
                              greta_error *err);
/* The narrowest precision policy that explains the row; NULL: none does. A policy whose bounds are
 * half as large as the row itself explains nothing. */
greta_status op_arbiter_policy(op_arbiter *a, const op_operand *row, const char **name,
                               greta_error *err);

#endif
