/* op_sites.h - the ops of many tokens: of two traces that are compared, or of one that is audited.
 *
 * Findings of all tokens are put in execution order, so that the first fault is the first, whatever
 * token shows it.
 */
#ifndef GRETA_VERDICT_OP_SITES_H
#define GRETA_VERDICT_OP_SITES_H

#include "explain/pair.h"
#include "verdict/op_pair.h"

/* Two traces, and the model that each was made with. */
typedef struct sites_sides {
    const struct greta_model *model[SIDE_COUNT];
    const trace *t[SIDE_COUNT];
    const pairing *pairs;
    const op_kin *kin; /* of two models; NULL: they are one */
} sites_sides;

/* Judges every token at which an operand or an output of the paired rows differs. `watch` may be
 * NULL. */
greta_status op_sites_compare(const sites_sides *sides, const greta_watch *watch, op_findings *out,
                              greta_error *err);
/* Judges every token of a trace. */
greta_status op_sites_audit(const struct greta_model *model, const trace *t,
                            const greta_watch *watch, op_findings *out, greta_error *err);

/* The first line that is a fault; NULL: none is. */
const op_line *op_findings_first(const op_findings *f);
/* Whether any record contradicts itself. */
bool op_findings_suspect(const op_findings *f);

#endif
