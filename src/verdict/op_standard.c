/* op_standard.c - distances from binary64 in the bounds of a class, and which class a trace claims.
 *
 * Sound bounds decide, so that no order of summation is ever accused. A class that explains any row
 * explains none: policies whose bounds are as large as the row are not asked.
 */
#include "verdict/op_standard.h"

#include "explain/terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

op_standard op_standard_of(const trace_header *header)
{
    bound_class of = bound_class_find(header->rounding);
    bool is_known = of != BOUND_CLASS_COUNT;
    bool is_bits = header->arithmetic == ARITHMETIC_VERSION && header->rounding[0] == '\0';
    return (op_standard){is_bits, is_bits || is_known, is_known ? of : BOUND_SOUND};
}

void op_standard_say(text *out, const trace_header *header)
{
    const op_standard s = op_standard_of(header);
    if (s.is_bits) {
        text_format(out, "held to every bit of arithmetic %d\n", header->arithmetic);
    } else {
        text_format(out, "%s (it claims %s): held to bounds computed from its own operands (%s)\n",
                    header->arithmetic == 0 ? "of another arithmetic" : "of another version",
                    s.is_declared ? bound_class_name(s.of) : "no class of rounding",
                    bound_class_text(s.of));
    }
}

/* ---- The arbiter ----------------------------------------------------------------------------- */

greta_status op_arbiter_open(const op_case *c, const op_contract *contract, op_arbiter *out,
                             greta_error *err)
{
    size_t n = (size_t)c->out.n;
    *out = (op_arbiter){.c = c, .contract = contract};
    out->exact = malloc(n * sizeof *out->exact);
    out->bound = malloc(n * sizeof *out->bound);
    greta_status status = out->exact && out->bound
                              ? op_replay_f64(c, contract, out->exact, err)
                              : error_memory(err, "a row", 2 * n * sizeof *out->exact);
    if (status != GRETA_OK) {
        op_arbiter_close(out);
    }
    return status;
}

void op_arbiter_close(op_arbiter *a)
{
    free(a->exact);
    free(a->bound);
    *a = (op_arbiter){0};
}

/* Of the row, under the bounds that stand in a->bound. */
static double ratio_of(const op_arbiter *a, const op_operand *row)
{
    const term_row values = {row->type, row->n, row->values};
    double largest = 0;
    for (int64_t i = 0; i < row->n; i++) {
        double value = term_value(&values, i), exact = a->exact[i], bound = a->bound[i];
        bool is_same = value == exact || (isnan(value) && isnan(exact));
        double distance = is_same ? 0 : fabs(value - exact);
        double ratio = distance <= bound ? (distance > 0 ? distance / bound : 0)
                       : bound > 0       ? distance / bound
                                         : INFINITY;
        largest = isnan(ratio) ? INFINITY : fmax(largest, ratio);
    }
    return largest;
}

greta_status op_arbiter_ratio(op_arbiter *a, bound_class of, const op_operand *row, double *ratio,
                              greta_error *err)
{
    GRETA_ASSERT(row->type == a->c->out.type && row->n == a->c->out.n && row->values);
    GRETA_TRY(op_bound(a->c, a->contract, of, a->bound, err));
    *ratio = ratio_of(a, row);
    return GRETA_OK;
}

/* ---- Policies -------------------------------------------------------------------------------- */

/* Narrow ones first: what a narrow one explains needs no wide one. */
static const bound_class policies[] = {
    BOUND_FUNCTIONS,  BOUND_ANGLES_F32, BOUND_INPUT_TF32, BOUND_KV_F16,
    BOUND_INPUT_F16,  BOUND_STORE_F16,  BOUND_ACT_Q8,     BOUND_INPUT_BF16,
    BOUND_STORE_BF16, BOUND_ACT_Q8_256, BOUND_SUM_F16,    BOUND_SUM_BF16,
};
#define SHARE_MOST 0.5 /* of the row that bounds may be */

static bool is_telling(const op_arbiter *a)
{
    double bounds = 0, row = 0;
    for (int64_t i = 0; i < a->c->out.n; i++) {
        bounds += a->bound[i] * a->bound[i];
        row += a->exact[i] * a->exact[i];
    }
    return sqrt(bounds) <= SHARE_MOST * sqrt(row);
}

greta_status op_arbiter_policy(op_arbiter *a, const op_operand *row, const char **name,
                               greta_error *err)
{
    *name = NULL;
    for (size_t i = 0; i < sizeof policies / sizeof *policies && !*name; i++) {
        double ratio;
        GRETA_TRY(op_arbiter_ratio(a, policies[i], row, &ratio, err));
        *name = ratio <= 1 && is_telling(a) ? bound_class_name(policies[i]) : NULL;
    }
    return GRETA_OK;
}
