/* op_exact.h - operands as real numbers, for the arbiter (op_f64.c) and its bounds (op_bound.c). */
#ifndef GRETA_REPLAY_OP_EXACT_H
#define GRETA_REPLAY_OP_EXACT_H

#include "replay/op_internal.h"

/* Value i of a row, F32 or ACT_Q8, exactly. */
double op_value_at(const op_operand *in, int64_t i);
float op_float_at(const op_operand *in, int64_t i);
int32_t op_id_at(const op_operand *in, int64_t i);
/* A row of a weight in one piece: ws q + wm, and |ws q| + |wm|; (n_col) each. */
void op_weight_exact(const weight *w, int64_t row, double *value, double *size);
/* The row that a product reads, (in[0].n), quantised where the contract wants it. */
greta_status op_activations(const op_case *c, const op_contract *contract, double *x,
                            greta_error *err);
double op_activation_exact(activation f, double x);
/* As a cache of this type keeps it. */
double op_round_kv(dtype type, double value);
/* Where the two values of rotary pair i lie in a head. */
void op_pair(const op *o, int32_t i, int64_t *first, int64_t *second);

/* One query head against the positions it sees, from op_first_seen on. */
typedef struct exact_head {
    const op_case *c;
    dtype kv; /* rows are rounded to it first */
    int32_t head;
    double *score;  /* scaled, capped */
    double *size;   /* scale * sum |q k| */
    double *weight; /* softmax of the scores */
    double *row;    /* (head_dim) room */
} exact_head;

greta_status op_head_new(const op_case *c, dtype kv, exact_head *h, greta_error *err);
void op_head_free(exact_head *h);
/* Scores, sizes and weights of h->head. */
void op_head_weights(const exact_head *h);
void op_key_row(const exact_head *h, int64_t p, double *out);
void op_value_row(const exact_head *h, int64_t p, double *out);

#endif
