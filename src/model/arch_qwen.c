/* arch_qwen.c - Qwen 2 and 2.5, Qwen 3, and Qwen 3 with experts.
 *
 * Qwen 2 is Llama with biases of q, k and v (Yang et al. 2024); Qwen 3 has none, and an RMS norm of
 * each head of q and k before the rotation (Yang et al. 2025). Rotary pairs are halves of a head.
 */
#include "model/arch.h"

static void qwen3moe_defaults(config *c)
{
    c->expert_weights_norm = 1;
}

const architecture arch_qwen2 = {
    .name = "qwen2",
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_qkv, tensors_qkv_bias, tensors_ffn},
    .ops = ops_decoder,
};

const architecture arch_qwen3 = {
    .name = "qwen3",
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_qkv, tensors_qkv_bias, tensors_qk_norm, tensors_ffn},
    .ops = ops_decoder,
};

const architecture arch_qwen3moe = {
    .name = "qwen3moe",
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_qkv, tensors_qkv_bias, tensors_qk_norm, tensors_experts},
    .defaults = qwen3moe_defaults,
    .ops = ops_decoder,
};
