/* session.h - a walk over the op list: buffers, KV cache, threads, the one edge callback.
 *
 * The plan gives every edge a buffer by liveness (edges that are never alive together share one);
 * edges read with a delay get two buffers that alternate from pass to pass. Evaluation allocates
 * nothing.
 */
#ifndef GRETA_ENGINE_SESSION_H
#define GRETA_ENGINE_SESSION_H

#include "base/threads.h"
#include "kernel/kernel.h"
#include "model/model.h"
#include "trace/trace.h"

/* Where the rows of an edge are in this pass. */
typedef struct edge_rows {
    uint8_t *base;  /* row 0 of the buffer */
    size_t stride;  /* bytes between rows */
    int32_t buffer; /* index into session buffers; -1: KV cache */
} edge_rows;

/* What a session runs instead of the healthy list in the phases of `phases` (bit 1 << phase).
 * The list is copied; everything else must outlive the session. See fault/. */
typedef struct session_override {
    const op_list *list;
    const kernel_table *table; /* for ops with op.table 1, 2 ..; NULL: none */
    uint32_t phases;
    const op_trigger *trigger;   /* for ops with op.trigger 1, 2 ..; NULL: none */
    const float *const *cos_sin; /* for ops with op.rope_table ROPE_TABLE_OTHER, ..: (n_ctx,
                                    op.rope_dim / 2, 2) each; NULL: none */
} session_override;

/* Replans; cached KV rows stay, delayed rows are lost. NULL removes the override. */
greta_status session_override_set(greta_session *session, const session_override *override,
                                  greta_error *err);
const struct greta_model *session_model(const greta_session *session);
/* Longrope: the session's context is above the original one, so it turns by the long factors. */
int session_rope_is_long(const greta_session *session);
/* What the session's angles are made from; freq_base 0: there are none for layers with a window. */
rope_table_args session_angles(const greta_session *session, int is_local);
const op_list *session_ops(const greta_session *session, greta_phase phase);

#endif
