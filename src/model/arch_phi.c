/* arch_phi.c - Phi-3 and Phi-4-mini.
 *
 * Llama with fused tensors (Abdin et al. 2024): attn_qkv holds the rows of q, then k, then v;
 * ffn_up holds the rows of the gate, then of up. Ops see views of them. Long models turn by
 * longrope. A window, where a file states one, is one of every layer.
 */
#include "model/arch.h"

const architecture arch_phi3 = {
    .name = "phi3",
    .pairing = ROPE_HALVES,
    .tensor = {tensors_norms, tensors_qkv_fused, tensors_ffn_fused},
    .ops = ops_decoder,
};
