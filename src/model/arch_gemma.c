/* arch_gemma.c - Gemma 2 and Gemma 3 (text).
 *
 * Both scale the embedding by sqrt(n_embd), norm what a block adds before it is added, gate by GELU
 * (tanh form) and tie the head. Gemma 2 (Gemma Team 2024) caps scores and logits, and every second
 * layer has a window. Gemma 3 (Gemma Team 2025) has norms of q and k heads instead of caps; five of
 * six layers have a window and turn by a base of their own. In both the largest size scales scores
 * by the width of a head it would have without key_length, and files of it do not say so; it is
 * known by its number of layers.
 */
#include "model/arch.h"

#include <math.h>

#define GEMMA2_27B_LAYERS 46
#define GEMMA3_27B_LAYERS 62

static void gemma_defaults(config *c, int32_t layers_27b)
{
    c->activation = ACTIVATION_GELU_TANH;
    c->embd_scale = sqrtf((float)c->n_embd);
    if (c->n_layer == layers_27b) {
        c->attn_scale = 1.0f / sqrtf((float)(c->n_embd / c->n_head));
    }
}

static void gemma2_defaults(config *c)
{
    gemma_defaults(c, GEMMA2_27B_LAYERS);
    c->attn_softcap = 50.0f;
    c->logit_softcap = 30.0f;
    c->window = 4096;
    config_window_period(c, 2);
}

static void gemma3_defaults(config *c)
{
    gemma_defaults(c, GEMMA3_27B_LAYERS);
    c->rope.freq_base = 1e6f;
    c->rope.freq_base_local = 10000.0f;
    config_window_period(c, 6);
}

const architecture arch_gemma2 = {
    .name = "gemma2",
    .hf_norm_add = 1.0f,
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_post_norms, tensors_qkv, tensors_ffn},
    .defaults = gemma2_defaults,
    .ops = ops_decoder,
};

const architecture arch_gemma3 = {
    .name = "gemma3",
    .hf_norm_add = 1.0f,
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_post_norms, tensors_qkv, tensors_qk_norm, tensors_ffn},
    .defaults = gemma3_defaults,
    .ops = ops_decoder,
};
