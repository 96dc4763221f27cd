/* norm_replay.h - recompute one recorded RMS norm: healthy, as read, and once per hypothesis.
 *
 * The kernel is never the one that made the record: a record of one build of `ref` is replayed by
 * its other build. The changes are those a real engine gets wrong (EXPLAINING, rows N1-N3, W1, I3);
 * other orders of the sum of squares are tried beside them, so that what rounding explains is never
 * called a fault.
 */
#ifndef GRETA_REPLAY_NORM_REPLAY_H
#define GRETA_REPLAY_NORM_REPLAY_H

#include "base/error.h"
#include "trace/evidence.h"

/* A solved eps counts only inside [0, this]: beyond, any factor could be called one. */
#define NORM_EPS_SOLVED_MAX 1e-2

/* Tries every hypothesis on `operands`. Values that were not kept are no error: out->is_measured is
 * false. Fails only for memory, or GRETA_BUG when no build of the definition is there.
 * Pure: reads the trace, writes *out. */
greta_status norm_replay(const norm_operands *operands, norm_evidence *out, greta_error *err);

#endif
