/* arch.h - what an architecture gives the model room: its tensors and its op list. */
#ifndef GRETA_MODEL_ARCH_H
#define GRETA_MODEL_ARCH_H

#include "model/model.h"

/* A tensor as the architecture expects it: (n_row, n_col), row length n_col. */
typedef struct weight_spec {
    const char *name;
    int64_t n_row, n_col;
    int needed;
    int is_f32; /* norms and biases: read as floats in place */
} weight_spec;

/* The bound tensor, or NULL when it is absent and not needed. */
greta_status model_bind(const struct greta_model *m, const weight_spec *spec, const weight **out,
                        greta_error *err);

/* Appends ops; the edges they write are made as they go. First failure sticks. */
typedef struct op_builder {
    op_list *list;
    const struct greta_model *model;
    act_contract act;
    int32_t capacity_op, capacity_edge;
    int32_t layer;
    int is_packed; /* edges from here on: rows for wanted logits only */
    greta_status status;
    greta_error *err;
} op_builder;

/* What op_add needs beside the builder; zero means none. Reads and weights end at the first absent.
 */
typedef struct op_spec {
    op_kind kind;
    stage name;
    int32_t in[OP_IN_MAX]; /* edge + 1; 0: absent */
    const weight *w[OP_WEIGHT_MAX];
    int32_t width;
    dtype type;
    int is_cache;
    int32_t n_head;        /* ROPE, KV_STORE */
    activation activation; /* GLU */
} op_spec;

/* Returns the edge written. */
int32_t op_add(op_builder *b, const op_spec *spec);
/* y = W x + bias. Under ACT_CONTRACT_Q8 a quantised W reads the quantised edge, made on first use
 * and kept in *x_q8 (-1: not yet made) under the stage name `q8`. */
typedef struct matmul_spec {
    stage name, q8;
    int32_t x;
    int32_t *x_q8;
    const weight *w, *bias;
} matmul_spec;
int32_t op_add_matmul(op_builder *b, const matmul_spec *spec);

greta_status arch_llama_bind(struct greta_model *m, greta_error *err);
void arch_llama_ops(op_builder *b);

#endif
