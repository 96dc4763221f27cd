/* op_variant.h - an op's arithmetic, changed in one way: another order, precision or formula.
 *
 * What no operand can express. All zero is the definition; then op_replay calls the kernel table,
 * else the scalar code of op_variant.c, which is written apart from kernel/ and fault/ on purpose.
 */
#ifndef GRETA_REPLAY_OP_VARIANT_H
#define GRETA_REPLAY_OP_VARIANT_H

#include "replay/norm_variant.h"

#include <stdbool.h>

/* How the terms of a product are added; an order that a correct engine may have. */
typedef enum dot_order {
    DOT_CANONICAL,
    DOT_CHAIN,       /* one fused chain over all of K */
    DOT_CHAIN_PLAIN, /* the same, every product and every sum rounded */
    DOT_PLAIN,       /* the definition's chains, every product and every sum rounded */
    DOT_SEGMENTS, /* the definition with segments of the other size: 1024 for 256, 256 for 1024 */
    DOT_LANES_8,  /* fused, lane i mod 8, lanes halved by stride; quantised: a lane has every
                     eighth part of a block, as SIMD code sums it, and minima a chain apart */
    DOT_LANES_16,
    DOT_LANES_32,
    DOT_PAIRWISE,   /* rounded terms in a tree */
    DOT_F64,        /* binary64, rounded once */
    DOT_BIAS_FIRST, /* the definition, but the first chain starts at the bias */
} dot_order;

typedef enum precision {
    PRECISION_F32,
    PRECISION_TF32,     /* 10 bits behind the point, nearest even */
    PRECISION_TF32_CUT, /* the same, cut: what tensor cores make of binary32 */
    PRECISION_F16,
    PRECISION_BF16,
    PRECISION_E4M3, /* 4 bits of exponent, 3 behind the point, saturating at 448 (OCP FP8) */
} precision;

/* What becomes of the values behind the last whole group of `tail_size`, of K or of the output. */
typedef enum tail_fault {
    TAIL_NONE,
    TAIL_K_SKIPPED,      /* take no part in the product */
    TAIL_K_TWICE,        /* take part twice, in the same chain */
    TAIL_K_TWICE_APART,  /* and again in a product of their own, added at the end */
    TAIL_K_LAST_SKIPPED, /* the last tail_size values take no part, however many there are */
    TAIL_OUT_SKIPPED,    /* of the output: left zero */
    TAIL_OUT_TWICE,      /* of the output: written twice as large */
} tail_fault;

/* Functions of one number that no kernel table has. */
typedef enum wrong_activation {
    WRONG_ACTIVATION_NONE,
    WRONG_ACTIVATION_GELU_ERF,
    WRONG_ACTIVATION_GELU_ERF_SUM,   /* by 1 + erf, which cancels */
    WRONG_ACTIVATION_GELU_QUICK,     /* x sigmoid(1.702 x) */
    WRONG_ACTIVATION_GELU_QUICK_F32, /* the same, every operation rounded */
    WRONG_ACTIVATION_RELU,
    WRONG_ACTIVATION_IDENTITY,
} wrong_activation;

/* What stands for the softmax of the router's values. */
typedef enum wrong_expert_weights {
    WRONG_WEIGHTS_NONE,
    WRONG_WEIGHTS_RAW,
    WRONG_WEIGHTS_SIGMOID,
    WRONG_WEIGHTS_EQUAL,
} wrong_expert_weights;

/* Quantisers of activations. */
typedef struct act_quantiser {
    int32_t width;       /* values per scale, a multiple of 32; 0: the definition */
    int32_t steps;       /* scale = largest / steps: 127 or 128; 0: 127 */
    int is_away, is_cut; /* codes rounded half away from zero; cut towards it */
    int is_divided;      /* x / scale for x * (127 / largest) */
    int is_half;         /* the scale is rounded to binary16, as ggml's Q8_0 does */
} act_quantiser;

typedef enum attention_order {
    ATTENTION_CANONICAL,
    ATTENTION_TILES,    /* the definition in scalar code, for the changes below */
    ATTENTION_TWO_PASS, /* maximum over all positions first, one chain over all of them */
    ATTENTION_NO_MAX,   /* exp(s) without a maximum */
    ATTENTION_F64,
} attention_order;

typedef struct op_variant {
    precision output;         /* any op that writes floats: rounded to it, at last */
    int32_t is_copy;          /* any op as wide as its input 0: that row is passed on */
    int32_t heads_only;       /* ROPE: heads that turn, the others are passed on; 0: all */
    const norm_variant *norm; /* RMS_NORM, HEAD_NORM; NULL: none */
    dot_order order;          /* MATMUL, EXPERT_MATMUL */
    precision input, accumulator;
    tail_fault tail;
    int32_t tail_size;
    int32_t is_flushed;          /* subnormal operands and results are zero; not of norms */
    int32_t has_no_minima;       /* MATMUL of codes: the minima of weights are left out */
    int32_t takes_scale_before;  /* MATMUL of codes: every block by the scale of the one before */
    wrong_activation activation; /* GLU */
    float clamp;                 /* GLU, SOFTCAP: results cut to it; 0: not */
    act_quantiser quantiser;     /* QUANTIZE */
    attention_order attention;
    precision scores, values; /* ATTENTION_TILES: rounded after the dot; after each step */
    int32_t is_not_divided, adds_one, keeps_scale; /* ATTENTION_TILES: by the sum; a key of score
                                                      and value 0 more; tiles are not rescaled */
    wrong_expert_weights expert_weights;           /* EXPERT_WEIGHTS */
    int32_t id_shift;    /* TOP_K: added to every id, modulo the experts */
    precision angles;    /* ROPE: cos and sin are rounded to it */
    int32_t is_plain;    /* ROPE: products are rounded before they are added */
    int32_t is_flushing; /* any op: by the definition's kernels on a processor that flushes, so that
                            the subnormals of binary16, which they widen by a product, are zero
                            as well */
    const float *left; /* any op that writes floats: (out.n), what its outputs from left_from on */
    int64_t left_from; /* are instead; NULL: none */
} op_variant;

/* Nearest even; overflow to Inf. */
float precision_round(precision p, float value);

#endif
