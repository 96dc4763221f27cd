/* norm_side.h - what the files of the norm classifier share. */
#ifndef GRETA_EXPLAIN_NORM_SIDE_H
#define GRETA_EXPLAIN_NORM_SIDE_H

#include "explain/norm.h"

static inline bool hash_equal(row_hash a, row_hash b)
{
    return a.ordered == b.ordered && a.bag == b.bag;
}

/* Judges one side against its own proper operands. out->state: EQUAL (healthy), CONFIRMED,
 * SUSPECTED, INSTRUMENT_SUSPECT, or UNMEASURED. */
void norm_side_judge(const norm_case *c, side s, finding *out);

/* The captured row with this content, in the side's own trace, else in the other; of several the
 * one at the place the record names, else of the proper stage, else the latest. If there is none,
 * the same for a row with the same values in another order. */
void norm_source_find(const norm_case *c, side s, row_hash content, finding_source *out);
/* The tensor of another op with this content, and the name of the record's own. */
void norm_tensor_find(const norm_case *c, side s, finding_weight *out);

/* "x_after_attn layer 3"; "embed". */
const char *norm_place(stage name, int32_t layer, char out[FINDING_TEXT]);

#endif
