/* op_internal.h - what the files of the replay of ops share. */
#ifndef GRETA_REPLAY_OP_INTERNAL_H
#define GRETA_REPLAY_OP_INTERNAL_H

#include "replay/op_replay.h"

/* At least `bytes`, 64-byte aligned, cleared; free with free. NULL: no memory. */
void *op_memory(size_t bytes);

/* The first position that attention sees. */
static inline int64_t op_first_seen(const op_case *c)
{
    return c->op.window > 0 && c->end > c->op.window ? c->end - c->op.window : 0;
}

/* The kv head that a query head reads. */
static inline int32_t op_kv_head(const op_case *c, int32_t head)
{
    return c->kv_head ? c->kv_head[head] : head / (c->op.n_head / c->op.n_head_kv);
}

/* Counts a replay of the case. */
static inline void op_count(const op_case *c)
{
    if (c->work) {
        *c->work += op_work(&c->op, c->out.n, c->position);
    }
}

static inline const float *op_weight_floats(const weight_view *view)
{
    const weight *w = view->tensor;
    return w ? (const float *)(const void *)(w->data + view->first * w->row_bytes) : NULL;
}

/* EXPERT_MATMUL: the product of the expert of rank r, as a MATMUL. Its row goes into `room`, which
 * has bytes for the whole row that the op reads. */
op_case op_expert_case(const op_case *c, int32_t r, void *room);

/* cos and sin of a ROPE op's position, (rope_dim / 2, 2), into room for rope_dim floats. */
void op_angles(const op_case *c, float *cos_sin);

/* A row of the cache as floats, widened exactly. */
void op_cache_floats(dtype type, const void *row, int64_t n, float *out);

/* Whether the variant changes the arithmetic of this op. */
bool op_variant_applies(const op_case *c);
/* The op by its variant. x: the rows as kernels read them. False: no memory. */
bool op_variant_run(const op_case *c, const void *const x[OP_IN_MAX], op_output *out);
/* MATMUL by its variant (op_variant_dot.c). */
bool op_variant_matmul(const op_case *c, const void *x, float *y);
/* ATTENTION by its variant (op_variant_attention.c). */
bool op_variant_attention(const op_case *c, const float *q, float *y);

#endif
