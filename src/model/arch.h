/* arch.h - an architecture as data: its name, what it implies, its tensors, its op list.
 *
 * One `architecture` a family, in an arch_*.c of its own; arch.c lists them all. Tensors are rules
 * in symbolic sizes; ops are appended by pieces that all families share (arch_blocks.c), for which
 * a tensor that was not bound, or a number that is neutral, leaves its op out.
 */
#ifndef GRETA_MODEL_ARCH_H
#define GRETA_MODEL_ARCH_H

#include "model/model.h"

/* ---- Tensors -----------------------------------------------------------------------------------
 */

/* Sizes that a rule may name. */
typedef enum dim {
    DIM_0,         /* 0: a view from the first row */
    DIM_1,         /* 1: a vector */
    DIM_EMBD,      /* n_embd */
    DIM_VOCAB,     /* n_vocab */
    DIM_HEAD,      /* head_dim */
    DIM_Q,         /* n_head * head_dim */
    DIM_KV,        /* n_head_kv * head_dim */
    DIM_Q_KV,      /* rows of q and k */
    DIM_QKV,       /* rows of q, k and v */
    DIM_FF,        /* n_ff */
    DIM_FF_2,      /* 2 * n_ff: gate and up */
    DIM_FF_EXPERT, /* n_ff_expert */
    DIM_EXPERTS,   /* n_expert */
    DIM_COUNT
} dim;

int64_t dim_of(const config *cfg, dim d);

enum {
    TENSOR_NEEDED = 1,  /* else it may be absent */
    TENSOR_F32 = 2,     /* a norm or a bias, read as floats in place */
    TENSOR_DENSE = 4,   /* of layers without experts only */
    TENSOR_MOE = 8,     /* of layers with experts only */
    TENSOR_EXPERTS = 16 /* one matrix per expert: "blk.3.ffn_up_exps.weight" of n_expert * n_row
                           rows, or "blk.3.ffn_up.7.weight" one by one */
};

/* Rows [first, first + n_row) of a tensor of n_total rows (DIM_0: n_row) and n_col columns, bound
 * to a weight_view of layer_weights. */
typedef struct tensor_rule {
    const char *suffix; /* after "blk.<layer>."; NULL ends a list */
    size_t place;       /* offsetof(layer_weights, ...) */
    dim n_row, n_col;
    unsigned flags;
    dim first, n_total;
} tensor_rule;

#define TENSOR_LISTS_MAX 6

/* ---- The architecture --------------------------------------------------------------------------
 */

typedef struct op_builder op_builder;

typedef struct architecture {
    const char *name;      /* general.architecture, and prefix of the keys */
    float hf_norm_add;     /* added to norm weights of HF checkpoints, which store w - 1; the
                              GGUF converter adds it */
    rope_pairing pairing;  /* of its GGUF files */
    int is_local_unscaled; /* layers with a window turn by the model's base without scaling,
                              where files name no base of theirs */
    const tensor_rule *tensor[TENSOR_LISTS_MAX]; /* of a layer, up to the first NULL */
    void (*defaults)(config *cfg);               /* beyond those of config.c; NULL: none */
    void (*ops)(op_builder *b);                  /* appends the whole list */
} architecture;

/* By name; NULL: not known. */
const architecture *arch_find(const char *name);
/* "gemma2, gemma3, llama, ...", for messages. */
#define ARCH_NAMES_MAX 256
const char *arch_names(char text[ARCH_NAMES_MAX]);

/* Binds all tensors of the model's architecture by name (model_weight). */
greta_status arch_bind(struct greta_model *m, greta_error *err);

extern const architecture arch_llama, arch_qwen2, arch_qwen3, arch_qwen3moe, arch_gemma2,
    arch_gemma3, arch_olmo2, arch_phi3;

/* Lists that several families share (arch.c). */
extern const tensor_rule tensors_norms[], tensors_qkv[], tensors_qkv_bias[], tensors_qk_norm[],
    tensors_qk_norm_whole[], tensors_post_norms[], tensors_ffn[], tensors_experts[],
    tensors_qkv_fused[], tensors_ffn_fused[];

/* ---- Ops ---------------------------------------------------------------------------------------
 */

/* Appends ops; the edges they write are made as they go. First failure sticks. */
struct op_builder {
    op_list *list;
    const struct greta_model *model;
    act_contract act;
    int32_t capacity_op, capacity_edge;
    int32_t layer;
    int is_packed; /* edges from here on: rows for wanted logits only */
    greta_status status;
    greta_error *err;
};

/* What op_add needs beside the builder; zero means none. Reads and weights end at the first absent.
 * The op's numbers (eps, rotary numbers, window, caps) come from the configuration. */
typedef struct op_spec {
    op_kind kind;
    stage name;
    int32_t in[OP_IN_MAX]; /* edge + 1; 0: absent */
    weight_view w[OP_WEIGHT_MAX];
    int32_t width;
    dtype type;
    int is_cache;
    int32_t n_head;        /* HEAD_NORM, ROPE, KV_STORE, ATTENTION */
    activation activation; /* GLU */
    float factor;          /* SCALE; SOFTCAP: the cap */
} op_spec;

/* Returns the edge written. */
int32_t op_add(op_builder *b, const op_spec *spec);
/* y = W x + bias. Under ACT_CONTRACT_Q8 a quantised W reads the quantised edge, made on first use
 * and kept in *x_q8 (-1: not yet made) under the stage name `q8`. With `ids` one product for each
 * chosen expert, side by side. */
typedef struct matmul_spec {
    stage name, q8;
    int32_t x;
    int32_t *x_q8;
    weight_view w, bias;
    int32_t ids; /* edge + 1 of the chosen experts, of which w holds the matrices; 0: none */
} matmul_spec;
int32_t op_add_matmul(op_builder *b, const matmul_spec *spec);

/* Pieces (arch_blocks.c): each returns the edge of the residual stream after it. */
int32_t block_embed(op_builder *b);
int32_t block_attention(op_builder *b, const layer_weights *w, int32_t x);
int32_t block_ffn(op_builder *b, const layer_weights *w, int32_t x);
void block_head(op_builder *b, int32_t x);
/* Embedding, layers of attention and feed-forward one after the other, head: what all of today's
 * architectures are. */
void ops_decoder(op_builder *b);

#endif
