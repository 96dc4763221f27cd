/* kernel.h - the table of kernels: one function per op, the boundary between engine and arithmetic.
 *
 * docs/numerics.md is the text of the arithmetic, kernel/ref/ its definition; every table obeys it
 * to the last bit. A kernel computes outputs [first, last) of its op (output rows, heads, values),
 * so threads split work by outputs and never change a bit. Operands never overlap unless said.
 */
#ifndef GRETA_KERNEL_KERNEL_H
#define GRETA_KERNEL_KERNEL_H

#include "base/activation.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "base/rope.h"

#include <stddef.h>
#include <stdint.h>

#define ARITHMETIC_VERSION 2
#define ACT_BLOCK          32   /* values per activation block */
#define SEGMENT            1024 /* values of K per chain of a quantised product */
#define SEGMENT_FLOAT      256  /* and of a product of floats */
#define ATTENTION_TILE     64   /* absolute positions per attention tile */
#define ROW_SUM_GROUP      64   /* terms per group of a row sum */

/* A quantised activation row of K values (K a multiple of 32), laid out in one buffer:
 * codes int8[K] | d float[K/32] | isum int32[K/32], the sum of each block's codes. */
static inline size_t act_q8_bytes(int64_t k)
{
    return (size_t)k + (size_t)(k / ACT_BLOCK) * 8;
}

typedef struct embed_args {
    dtype type;
    const uint8_t *row; /* of the embedding tensor */
    float *y;           /* (n) */
    int64_t n;
} embed_args;

typedef struct norm_args {
    const float *x;      /* (n) */
    const float *weight; /* (n) */
    float *y;            /* (n) */
    int64_t n;
    int64_t count; /* divisor of the mean */
    float eps;
    float inv_rms; /* out */
} norm_args;

typedef struct matmul_args {
    dtype type;       /* of w */
    const uint8_t *w; /* (n_out, k), rows row_bytes apart */
    int64_t row_bytes;
    const float *bias; /* (n_out) or NULL */
    const void *x;     /* (n_token, k): act_q8 rows if x_is_q8, else float rows */
    int64_t x_stride;  /* bytes between rows of x */
    float *y;          /* (n_token, n_out) */
    int64_t y_stride;  /* floats between rows of y */
    int64_t k, n_token;
    int x_is_q8;
    const uint8_t *packed; /* the same rows in the table's layout; NULL: read w */
} matmul_args;

/* Weights of one matrix in a table's own layout: tiles of PACK_ROWS output rows. */
typedef struct pack_args {
    dtype type;
    const uint8_t *w; /* (n_row, k), rows row_bytes apart */
    int64_t row_bytes, n_row, k;
    uint8_t *packed; /* 64-byte aligned */
} pack_args;

#define PACK_ROWS 16

typedef struct rope_args {
    const float *x; /* (n_head, head_dim) */
    float *y;
    const float *cos_sin; /* (rope_dim / 2, 2) of this position */
    int32_t n_head, head_dim, rope_dim;
    rope_pairing pairing;
} rope_args;

/* ---- KV cache -----------------------------------------------------------------------------------
 * Every table has the same layout, so a cache may be written by one and read by another. Keys, and
 * values, of one layer and sequence lie in tiles of ATTENTION_TILE positions; in a tile each head
 * has a block of its own:
 *     keys    (tile, n_head_kv, head_dim, ATTENTION_TILE)
 *     values  (tile, n_head_kv, ATTENTION_TILE, head_dim)
 * Attention reads blocks front to back: lanes are positions in the chains over head_dim, and values
 * in the chains over positions. Memory is whole tiles from a multiple of 64 bytes on; positions
 * that were not stored may hold anything: they are read, and take no part.
 */
typedef enum kv_side { KV_KEYS, KV_VALUES } kv_side;

typedef struct kv_shape {
    dtype type; /* DTYPE_F16 or DTYPE_F32 */
    int32_t n_head_kv, head_dim;
} kv_shape;

static inline size_t kv_value_bytes(const kv_shape *s)
{
    return s->type == DTYPE_F16 ? 2 : 4;
}

/* One block, in values; block h of tile t is number t * n_head_kv + h. */
static inline int64_t kv_block_size(const kv_shape *s)
{
    return (int64_t)ATTENTION_TILE * s->head_dim;
}

/* Where value 0 of a head at a position lies, in values from the sequence's start. */
static inline int64_t kv_at(const kv_shape *s, kv_side which, int64_t position, int32_t head)
{
    int64_t block = position / ATTENTION_TILE * s->n_head_kv + head;
    int64_t in_tile = position % ATTENTION_TILE;
    return block * kv_block_size(s) + (which == KV_KEYS ? in_tile : in_tile * s->head_dim);
}

/* From a value to the next one of the same head and position. */
static inline int64_t kv_step(kv_side which)
{
    return which == KV_KEYS ? ATTENTION_TILE : 1;
}

/* One position of one side: (n_head_kv, head_dim) floats rounded into the cache. */
typedef struct kv_store_args {
    const float *x;
    void *cache; /* of the sequence */
    kv_shape shape;
    kv_side side;
    int64_t position;
} kv_store_args;

/* n_token consecutive tokens of one sequence; token t stands at position n_position + t - 1 and
 * sees all up to it, or with a window the last `window` of them. */
typedef struct attention_args {
    const float *q;    /* (n_token, n_head, head_dim), rows q_stride floats apart */
    const void *k, *v; /* cache of the sequence */
    kv_shape kv;
    int64_t n_position, n_token;
    int64_t q_stride, y_stride;
    int32_t n_head;
    float scale;
    float *y; /* (n_token, n_head, head_dim), rows y_stride floats apart */
    float softcap;  /* of scaled scores; 0: none */
    int64_t window; /* 0: none */
} attention_args;

/* The first position that a token at `position` sees. */
static inline int64_t attention_first(const attention_args *a, int64_t position)
{
    return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

#define ATTENTION_TOKENS 16 /* tokens that may share a call; any number gives the same bits */

/* Of the values a row stands for; the hash is of its words (base/hash.h). */
typedef struct row_stats {
    float min, max; /* of the finite values, the first of equal ones; 0 if none */
    float sumsq;    /* canonical row sum of squares */
    uint64_t n_nonfinite;
    row_hash hash;
} row_stats;

/* Weights of the chosen experts of one token: a softmax over all, or over the chosen ones. */
typedef struct expert_weights_args {
    const float *router; /* (n) */
    const int32_t *ids;  /* (n_used) by falling router value: the first has the largest */
    float *y;            /* (n_used) */
    int64_t n, n_used;
    int is_norm; /* over the chosen ones: the weights add up to 1 */
} expert_weights_args;

typedef struct kernel_table {
    const char *name; /* "ref", "ref-avx2": written into traces */
    /* NULL: every bit as docs/numerics.md defines it. Else the results of these kernels are only as
     * near as their class of replay/op_bound.h says ("f32"; "": no class is claimed). */
    const char *rounding;
    void (*embed)(const embed_args *a);
    void (*rms_norm)(norm_args *a);
    /* Values [first, last) of a row of k, both multiples of ACT_BLOCK. */
    void (*quantize)(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
    void (*matmul)(const matmul_args *a, int64_t first, int64_t last);
    /* Layout of packed weights; tables that share it have the same number. 0: they read the file's
     * layout, and the two functions are NULL. packed_bytes 0: a matrix of this kind is not packed.
     */
    int layout;
    size_t (*packed_bytes)(dtype type, int64_t n_row, int64_t k);
    void (*pack)(const pack_args *a, int64_t tile_first, int64_t tile_last);
    void (*rope)(const rope_args *a);
    void (*kv_store)(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
    void (*attention)(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
    void (*add)(const float *a, const float *b, float *y, int64_t n);
    void (*scale)(float factor, const float *x, float *y, int64_t n);
    void (*softcap)(float cap, const float *x, float *y, int64_t n); /* cap * tanh(x / cap) */
    /* The n_used largest of n values, in falling order, lower ids first among equals, NaN last. */
    void (*top_k)(const float *x, int64_t n, int32_t *ids, int64_t n_used);
    void (*expert_weights)(const expert_weights_args *a);
    /* y[i] = sum over r of weight[r] * x[r][i], x (n_used, n). */
    void (*expert_sum)(const float *weight, const float *x, float *y, int64_t n_used, int64_t n);
    /* activation(gate) * up (Shazeer 2020, GLU variants); up NULL: activation(gate) alone. */
    void (*glu)(activation f, const float *gate, const float *up, float *y, int64_t n);
    /* Of F32, F16 and ACT_Q8 rows. */
    void (*row_stats)(dtype type, const void *row, int64_t n, row_stats *stats);
} kernel_table;

/* The tables this machine can run, best first, ended by NULL. */
const kernel_table *const *kernel_tables(void);
/* By name; NULL name: the best. NULL: no such table here. */
const kernel_table *kernel_find(const char *name);

/* ---- Operands as the ops see them, for replay, trace and tests ---------------------------------
 */

/* Row values rounded once to f32, as --act f32 and the embedding use them. n: multiple of the
 * block. */
void kernel_dequantize(dtype type, const uint8_t *row, float *y, int64_t n);
/* A position of a cache, gathered: (n_head_kv, head_dim) in the cache's type. */
typedef struct kv_load_args {
    const void *cache; /* of the sequence */
    kv_shape shape;
    kv_side side;
    int64_t position;
    void *row;
} kv_load_args;
void kernel_kv_load(const kv_load_args *a);
float kernel_f32_from_f16(uint16_t half);
uint16_t kernel_f16_from_f32(float value); /* nearest even, overflow to Inf, NaN to 7e00 */
/* What a rotary table is made of. Zero of a number that the scaling does not use. */
typedef struct rope_table_args {
    float freq_base;
    const float *factors; /* (rope_dim / 2) divisors of inv_freq; NULL: none */
    int32_t rope_dim;
    int64_t first_position, n_position;
    rope_scaling scaling; /* of LONGROPE the factors are all there is */
    float factor;         /* LINEAR, YARN, LLAMA3 */
    float attn_factor;    /* cos and sin are multiplied by it; 0: not at all */
    float beta_fast, beta_slow, ext_factor;  /* YARN */
    float low_freq_factor, high_freq_factor; /* LLAMA3 */
    int32_t n_ctx_original;                  /* YARN, LLAMA3 */
} rope_table_args;

/* A model's numbers and tensors of factors (NULL: none). */
typedef struct rope_source {
    const rope_config *config;
    const float *factors, *factors_long, *factors_short;
    int32_t n_ctx_train;
    int32_t n_ctx; /* of the session: above n_ctx_original, longrope takes its long factors */
} rope_source;

/* Longrope's choice, which a session makes once. */
int kernel_rope_is_long(const rope_source *source);
/* Of one position; is_local: of layers with a window (op.rope_table 1). */
rope_table_args kernel_rope_args(const rope_source *source, int is_local);
/* Are the angles of all positions within LIMIT_ROPE_ANGLE? Beyond it the table holds NaN. */
int kernel_rope_is_in_range(const rope_table_args *a);
/* cos and sin of position * inv_freq, (n_position, rope_dim / 2, 2). */
void kernel_rope_table(const rope_table_args *a, float *cos_sin);

#endif
