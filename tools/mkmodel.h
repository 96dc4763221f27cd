/* mkmodel.h - what the parts of mkmodel tell each other.
 *
 * mkmodel.c reads the command line, mkmodel_file.c writes the file (directory, metadata,
 * vocabulary), mkmodel_weights.c chooses the tensors and makes their values, mkmodel_round.c rounds
 * them into blocks.
 */
#ifndef GRETA_TOOLS_MKMODEL_H
#define GRETA_TOOLS_MKMODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is written as it lies in memory");

enum { EXIT_OK = 0, EXIT_USAGE = 2, EXIT_IO = 4 };

#define TENSOR_NAME_BYTES 64
#define BUFFER_BYTES (1u << 20)
#define VOCAB_MIN (3 + 256) /* control tokens and bytes */

/* A block is `bytes` bytes for `block` values. `scale` and `minimum` are the places of its f16
 * scale (of MXFP4 an exponent) and minimum (-1: none); `rms` is that of the values when the scale
 * is 1, the minimum scale is `ratio` and all other bytes are random. For minima `ratio` is minus
 * the mean code, or the mean code where the format subtracts them, so that values have mean 0. */
typedef struct type_traits {
    const char *name;
    uint32_t number; /* enum ggml_type */
    uint32_t block, bytes;
    int scale, minimum;
    double ratio, rms;
} type_traits;

/* What an architecture has that others have not. */
enum {
    HAS_BIAS = 1,        /* of q, k and v */
    HAS_QK_NORM = 2,     /* norms of the heads of q and k */
    HAS_POST_NORM = 4,   /* norms of what a block adds */
    HAS_FUSED = 8,       /* attn_qkv; gate and up in ffn_up */
    HAS_EXPERTS = 16,    /* always */
    HAS_CAPS = 32,       /* of scores and logits */
    HAS_WINDOW = 64,     /* the file states one */
    HAS_LONGROPE = 128,
    HAS_TIED_HEAD = 256, /* never an own one */
    HAS_LOCAL_BASE = 512, /* a rotary base of its own for layers with a window */
    HAS_NO_PRE_NORM = 1024,
    HAS_WHOLE_NORM = 2048 /* norms of q and k are of all heads at once */
};

typedef struct family {
    const char *name; /* general.architecture */
    unsigned has;
} family;

/* NULL: no such architecture. */
const family *family_find(const char *name);

typedef struct options {
    const char *out, *pre;
    const type_traits *type, *embd_type;
    const char *type_name, *embd_type_name, *shape_name;
    uint64_t seed;
    /* 0: not given */
    int64_t layers, embd, heads, heads_kv, head_dim, ff, vocab, ctx, gguf_version;
    int64_t window, window_period, ctx_original, experts, experts_used, ff_expert;
    double rope_base, eps, rope_base_local, rope_factor, score_cap, logit_cap, attn_scale;
    const char *arch_name, *rope_scaling;
    const family *family;
    bool untied, bias, rope_factors, help, split_experts;
    bool rounded; /* blocks hold the values of F32, not codes drawn at random */
    bool is_mix; /* of types by type_mixed; `type` is that of most matrices */
} options;

typedef enum fill { FILL_NORMAL, FILL_UNIFORM } fill;

typedef struct tensor {
    char name[TENSOR_NAME_BYTES];
    const type_traits *type;
    int64_t n_col, n_row; /* n_row 0: a vector of n_col values */
    int64_t n_matrix;     /* 0: one; else that many of n_row rows, a third dimension */
    fill fill;
    double low, high;     /* FILL_UNIFORM: the range; FILL_NORMAL: high is the rms */
} tensor;

typedef struct tensor_list {
    tensor *item;
    size_t n;
} tensor_list;

/* By name, as GGUF tools spell it; NULL: no such type. */
const type_traits *type_find(const char *name);
/* The type of most matrices of a mix; NULL: no mix has this name. */
const type_traits *mix_base(const char *name);
/* The type of a matrix of rows of n_col values in a mix; layer -1: the embedding or the head. */
const type_traits *type_mixed(const options *p, int64_t layer, const char *name, int64_t n_col);
/* All tensors in file order; false: out of memory. Free list->item. */
bool tensors_build(const options *p, tensor_list *list);
uint64_t tensor_values(const tensor *t);
uint64_t tensor_bytes(const tensor *t);

/* The first failure sticks: later bytes are counted and not written. */
typedef struct output {
    FILE *file;
    uint64_t bytes;
    bool failed;
} output;

void put(output *o, const void *data, size_t bytes);
/* The values of a tensor. `buffer` holds BUFFER_BYTES. */
void put_tensor(output *o, const tensor *t, const options *p, uint8_t *buffer);
/* Whether --rounded knows the type. */
bool type_is_rounded(const type_traits *type);
/* 32 values as one block of a type with such blocks. */
void round_block(const type_traits *type, const float *x, uint8_t *out);
/* Nearest even; finite values below 65520. */
uint16_t half_from_float(float value);

/* Writes p->out, or leaves nothing; says what it did on stdout or what failed on stderr. Returns
 * the exit code. */
int write_model(const options *p, const tensor_list *list);

#endif
