/* arch_olmo.c - OLMo 2 and OLMo 3.
 *
 * Llama that norms what a block adds and not what it reads, and all heads of q, and of k, in one
 * norm (OLMo Team 2024, section 2.1). OLMo 3 (OLMo Team 2025) has the same name in GGUF files:
 * three of four layers have a window, and rotary scaling is for the others only.
 */
#include "model/arch.h"

static void defaults(config *c)
{
    config_window_period(c, 4);
}

const architecture arch_olmo2 = {
    .name = "olmo2",
    .pairing = ROPE_HALVES,
    .is_local_unscaled = 1,
    .tensor = {tensors_post_norms, tensors_qkv, tensors_qk_norm_whole, tensors_ffn},
    .defaults = defaults,
    .ops = ops_decoder,
};
