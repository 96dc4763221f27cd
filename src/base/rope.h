/* rope.h - what models say of rotary position embedding; kernel/rope_table.c computes it. */
#ifndef GRETA_BASE_ROPE_H
#define GRETA_BASE_ROPE_H

#include <stdint.h>

/* Which values of a head turn together: (2i, 2i + 1), or (i, i + dim / 2). */
typedef enum rope_pairing { ROPE_NEIGHBOURS, ROPE_HALVES } rope_pairing;

typedef enum rope_scaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,   /* position / factor (Chen et al. 2023) */
    ROPE_SCALING_LLAMA3,   /* inv_freq / f(inv_freq), Llama 3.1. Not of GGUF files, which hold f as
                              rope_freqs.weight, whatever the kind says */
    ROPE_SCALING_YARN,     /* Peng et al. 2023 */
    ROPE_SCALING_LONGROPE, /* inv_freq / long or short factors (Ding et al. 2024) */
} rope_scaling;

/* A model's numbers, with their places: GGUF keys after `<arch>.`, and names of a Hugging Face
 * configuration after "HF:". model/config.h says how they are read. */
typedef struct rope_config {
    /* It depends on the order of the rows of q and k in the file: Llama's GGUF converter reorders
     * them to neighbours, Hugging Face checkpoints have halves for every architecture here. */
    rope_pairing pairing;
    int32_t dim;     /* values of a head that turn: even, <= head_dim. rope.dimension_count;
                        HF: head_dim * partial_rotary_factor (1). Default head_dim */
    float freq_base; /* rope.freq_base; HF: rope_theta. Default 10000 */
    /* Layers with a window turn by this base, without scaling; 0: as all the others.
     * rope.freq_base_swa; HF: rope_local_base_freq. gemma3: 10000 */
    float freq_base_local;
    rope_scaling scaling;   /* rope.scaling.type; HF: rope_type or type in rope_scaling, or in
                               rope_parameters, where the others stand too */
    float factor;           /* LINEAR, YARN, LLAMA3: rope.scaling.factor; HF: factor. Default 1.
                               LONGROPE, HF alone: above 1, what stands for n_ctx_train /
                               n_ctx_original in attn_factor; the angles do not know it */
    int32_t n_ctx_original; /* YARN, LLAMA3, LONGROPE: positions trained before the stretch.
                               rope.scaling.original_context_length; HF:
                               original_max_position_embeddings. Default n_ctx_train */
    /* YARN, LONGROPE: what cos and sin are multiplied by, in the end; 0: by the method's own
     * number, which is 0.1 ln(factor) + 1, or sqrt(1 + ln(n_ctx_train / n_ctx_original) /
     * ln(n_ctx_original)). rope.scaling.attn_factor, rope.scaling.yarn_attn_factor; HF:
     * attention_factor */
    float attn_factor;
    float beta_fast, beta_slow; /* YARN: turns in n_ctx_original at the ends of the ramp.
                                   rope.scaling.yarn_beta_fast (32), .yarn_beta_slow (1) */
    float ext_factor;           /* YARN: weight of extrapolation, rope.scaling.yarn_ext_factor (1);
                                   HF has none: 1 */
    float low_freq_factor, high_freq_factor; /* LLAMA3; HF: the same names */
} rope_config;

#endif
