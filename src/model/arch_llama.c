/* arch_llama.c - Llama 1 to 3.3, and what was built like it: Mistral, SmolLM, TinyLlama, Mixtral.
 *
 * Touvron et al. 2023, section 2.2, with grouped-query attention (Ainslie et al. 2023). In GGUF
 * files of this architecture the rows of attn_q and attn_k are ordered so that rotary pairs are
 * neighbours. The head is `output.weight`, or the embedding when the file has none.
 * `rope_freqs.weight` holds the divisors of Llama 3.1's rotary frequencies. Files with experts are
 * Mixtral (Jiang et al. 2024): weights are a softmax over the chosen experts.
 */
#include "model/arch.h"

static void defaults(config *c)
{
    c->expert_weights_norm = 1;
}

const architecture arch_llama = {
    .name = "llama",
    .pairing = ROPE_NEIGHBOURS,
    .tensor = {tensors_norms, tensors_qkv, tensors_qkv_bias, tensors_ffn, tensors_experts},
    .defaults = defaults,
    .ops = ops_decoder,
};
