/* op.h - a model as data: the list of ops that is run, traced, replayed, faulted and patched.
 *
 * An op reads up to 4 edges and up to 3 weight views and writes up to 3 edges. An edge is the
 * output of one op: a row of `width` values per token. The list is in execution order, and an edge
 * is written once per pass. It is built once from the metadata (arch_*.c) and never changes; faults
 * and fusion work on copies. In such a copy a read may be delayed, which takes the rows that the
 * previous pass of the session left on the edge, or shifted, and an op may be bound to a trigger:
 * rows that it does not name run the healthy op. The healthy list has none of the three.
 */
#ifndef GRETA_MODEL_OP_H
#define GRETA_MODEL_OP_H

#include "base/activation.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/stage.h"
#include "model/config.h"

#define OP_IN_MAX     4
#define OP_OUT_MAX    3
#define OP_WEIGHT_MAX 3

typedef enum op_kind {
    OP_EMBED,     /* tokens -> x                      weight 0: (n_vocab, n_embd) */
    OP_SCALE,     /* x -> x * factor */
    OP_RMS_NORM,  /* x -> y                           weight 0: (n_embd) f32; eps, count */
    OP_HEAD_NORM, /* x -> y, each head by itself      weight 0: (head_dim) f32; eps, count */
    OP_QUANTIZE,  /* x -> codes and scales, DTYPE_ACT_Q8 */
    OP_MATMUL,    /* x or x_q8 -> y                   weight 0: (rows, K); 1: bias, or none */
    OP_ROPE,      /* x -> x turned                    n_head heads of head_dim */
    OP_KV_STORE,  /* k -> cache rows (or v)           rounds to the cache type */
    OP_ATTENTION, /* q_rope, k_cache, v_cache -> out */
    OP_ADD,       /* a, b -> a + b */
    OP_GLU,       /* gate, up -> activation(gate) * up */
    OP_SOFTCAP,   /* x -> cap * tanh(x / cap) */
    OP_TOP_K,          /* router -> expert ids, I32, by rank */
    OP_EXPERT_WEIGHTS, /* router, ids -> weights of the chosen experts, by rank */
    /* x or x_q8, ids -> y (n_expert_used, rows): the matrix of each chosen expert times x, or times
     * its own part of x where x is (n_expert_used, K). weight 0: (n_expert, rows, K) */
    OP_EXPERT_MATMUL,
    OP_EXPERT_SUM, /* expert_out (n_expert_used, n), weights -> (n), added in order of rank */
    OP_KIND_COUNT
} op_kind;

const char *op_kind_name(op_kind kind); /* "rms_norm" */

/* A tensor of the model, in place. */
typedef struct weight {
    const char *name; /* "blk.0.attn_q.weight", owned by the model */
    dtype type;
    int64_t n_row, n_col; /* (n_row, n_col): rows of K values; norms are (1, n); a tensor of experts
                             (n_expert, n, K) has n_expert * n rows */
    int64_t row_bytes;
    const uint8_t *data; /* NULL: the rows lie in `part` */
    /* Experts stored one by one: (n_part) weights of n_row / n_part rows each; NULL: in one piece.
     */
    const struct weight *const *part;
    int32_t n_part;
} weight;

/* Rows [first, first + n) of a weight. */
typedef struct weight_view {
    const weight *tensor; /* NULL: absent */
    int64_t first, n;
} weight_view;

/* Where row r lies. */
static inline const uint8_t *weight_row(const weight *w, int64_t r)
{
    if (w->part) {
        int64_t n = w->n_row / w->n_part;
        return w->part[r / n]->data + r % n * w->row_bytes;
    }
    return w->data + r * w->row_bytes;
}

/* Expert `e` of a view of n_expert matrices, as a view of the tensor that holds its rows. */
weight_view weight_view_expert(const weight_view *view, int32_t n_expert, int32_t e);

typedef enum op_delay { READ_THIS_PASS, READ_PREVIOUS_PASS } op_delay;

typedef struct op_read {
    int32_t edge; /* index into op_list.edge; -1: absent */
    op_delay delay;
    int32_t row; /* with READ_PREVIOUS_PASS: the row read for every token of this pass;
                    negative counts from the end. Else token t reads row t + row of this pass, or,
                    of a cache, sequence + row; where there is none the healthy op runs. */
} op_read;

/* Rows of a pass. A field of 0 is no condition; all others must hold. */
typedef struct op_trigger {
    uint32_t phases;      /* bit 1 << phase */
    int32_t position_min; /* positions from this one on */
    int32_t row_min;      /* rows of the pass from this one on: 1 spares batch row 0 */
    int32_t tail_of;      /* the last rows, those that do not fill `tail_of` of them */
    int32_t length_of;    /* passes of a multiple of length_of rows, and length_rest more */
    int32_t length_rest;
    int is_warm;        /* the cache row was written before: a dropped token's, or a fork's */
    int is_later_chunk; /* the sequence began in an earlier pass */
    int has_next;       /* the next position is in the same pass */
} op_trigger;

#define ROPE_TABLE_OTHER 2

typedef struct op {
    op_kind kind;
    stage name;    /* of output 0 */
    int32_t layer; /* -1: not in a layer */
    op_read in[OP_IN_MAX];
    int32_t out[OP_OUT_MAX]; /* edge; -1: absent */
    weight_view w[OP_WEIGHT_MAX];
    float eps;                           /* RMS_NORM, HEAD_NORM */
    int32_t count;                       /* RMS_NORM, HEAD_NORM: divisor of the mean, the width */
    int32_t n_head, n_head_kv, head_dim; /* HEAD_NORM, ROPE, KV_STORE, ATTENTION */
    int32_t rope_dim;
    rope_pairing pairing;  /* ROPE */
    int32_t rope_table;    /* ROPE: 0: the model's angles; 1: those of layers with a window; from
                              ROPE_TABLE_OTHER on: the session's alternate ones (see fault/) */
    float scale;           /* ATTENTION: of q.k */
    float softcap;         /* ATTENTION: of scaled scores, 0: none; SOFTCAP */
    int32_t window;        /* ATTENTION: positions seen, the own one included; 0: all */
    float factor;          /* SCALE */
    int32_t n_expert, n_expert_used; /* TOP_K, EXPERT_* */
    int32_t is_norm;                 /* EXPERT_WEIGHTS: they add up to 1 */
    activation activation; /* GLU */
    int32_t table;         /* 0: the session's kernels; n: its n-th alternate table (see fault/) */
    int32_t trigger;       /* 0: every row; n: rows of the session's n-th trigger */
} op;

typedef struct edge {
    stage name;
    int32_t layer;
    int32_t width;    /* values per token */
    dtype type;       /* F32, ACT_Q8, I32; k_cache and v_cache: the session's cache type */
    int32_t producer; /* index of the op; -1: the input tokens */
    int is_cache;     /* lives in the KV cache, not in a buffer */
    int is_packed;    /* has rows only for the tokens whose logits are wanted, in order */
} edge;

typedef struct op_list {
    op *op;
    int32_t n_op;
    edge *edge;
    int32_t n_edge;
} op_list;

struct greta_model;
typedef enum act_contract { ACT_CONTRACT_Q8, ACT_CONTRACT_F32 } act_contract;

/* Builds the list of a bound model: with ACT_CONTRACT_Q8 a QUANTIZE op stands before matmuls with
 * quantised weights. Free with op_list_free. */
greta_status op_list_build(const struct greta_model *model, act_contract act, op_list *list,
                           greta_error *err);
greta_status op_list_copy(const op_list *source, op_list *target, greta_error *err);
void op_list_free(op_list *list);
/* The edge or op of a stage in a layer; -1: none. */
int32_t op_list_edge(const op_list *list, stage name, int32_t layer);
int32_t op_list_op(const op_list *list, stage name, int32_t layer);

#endif
