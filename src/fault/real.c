/* real.c - bugs that were reported against other engines, as what such an engine computes here.
 *
 * Facts of each (what was edited, where it showed) are of the threads named in `source`; what is
 * planted is ours. Where a bug needs sizes that no test has (32768 rows), the limit is smaller.
 * Not here, since no op of our models has the part: multi-axis positions, recurrent states, a clamp
 * of experts' activations, drivers. Bugs that compute the same thing stand here once.
 *
 * All were written before the referee was asked about any.
 */
#include "fault/real.h"

#include <string.h>

static const fault_real reals[] = {
    {"real/llama.cpp-2374-rms-eps", "ggml-org/llama.cpp 2373, 2374",
     "every norm uses eps 1e-6, Llama 2 was trained with 1e-5",
     "norm-eps-1e-6/attn_norm:*+norm-eps-1e-6/ffn_norm:*+norm-eps-1e-6/final_norm", "engine",
     STAGE_ATTN_NORM, .cause = CAUSE_NORM_STATS},
    {"real/transformers-37418-qk-norm-eps", "huggingface/transformers 37418",
     "the norms of queries and keys use an eps of their own, not the file's",
     "norm-eps-1e-6/q_norm:*+norm-eps-1e-6/k_norm:*", "engine", STAGE_Q_NORM,
     .cause = CAUSE_NORM_STATS},
    {"real/shainet-176-norm-offset", "NeuraLegion/shainet 176",
     "norm weights that are stored less 1 are used as they are, and the queries' scale is missing",
     "norm-weight-minus-1/attn_norm:*+norm-weight-minus-1/ffn_norm:*+attention-scale-1/attn_out:*",
     "engine", STAGE_ATTN_NORM, .cause = CAUSE_KERNEL_MATH},
    {"real/tt-mlir-8798-sum-for-mean", "tenstorrent/tt-mlir 8798",
     "norms divide by the root of the sum of squares, sqrt(n) too much",
     "ffn_norm-sum-for-mean/attn_norm:*+ffn_norm-sum-for-mean/ffn_norm:*+ffn_norm-sum-for-mean/"
     "final_norm",
     "engine", STAGE_ATTN_NORM, .cause = CAUSE_KERNEL_MATH},
    {"real/llama.cpp-8676-rope-factors", "ggml-org/llama.cpp 8650, 8676",
     "the factors of the rotary frequencies are not applied",
     "rope-scaling-missing/q_rope:*+rope-scaling-missing/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/ik_llama.cpp-2291-factors-on-one-path", "ikawrakow/ik_llama.cpp 2291",
     "one of two paths through attention is handed no rotary factors",
     "rope-scaling-missing/q_rope:*+rope-scaling-missing/k_rope:*", "fresh", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/llama.cpp-7481-qk-permuted", "ggml-org/llama.cpp 7481",
     "rows of q and k are reordered for a rotary pairing that the model does not use",
     "qk-rows-of-other-pairing/q:*+qk-rows-of-other-pairing/k:*", "engine", STAGE_Q,
     .cause = CAUSE_WEIGHT_LAYOUT},
    {"real/nanotron-427-qk-not-permuted", "huggingface/nanotron 427",
     "the converter is not told to reorder the rows of q and k",
     "qk-rows-of-other-pairing-back/q:*+qk-rows-of-other-pairing-back/k:*", "engine", STAGE_Q,
     .cause = CAUSE_WEIGHT_LAYOUT},
    {"real/candle-2891-one-rope-base", "huggingface/candle 2891",
     "layers with a window turn by the base of those without",
     "rope-base-global/q_rope:*+rope-base-global/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION, .arch = "gemma3"},
    {"real/gpt-neox-1003-rope-f16", "EleutherAI/gpt-neox 1003",
     "rotary angles are computed in binary16", "rope-phase-f16/q_rope:*+rope-phase-f16/k_rope:*",
     "engine", STAGE_Q_ROPE, .cause = CAUSE_POSITION},
    {"real/transformers-29285-rope-bf16", "huggingface/transformers 25681, 29285",
     "positions and angles are computed in bfloat16",
     "rope-phase-bf16/q_rope:*+rope-phase-bf16/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/sglang-jax-1472-frequencies-cast", "sgl-project/sglang-jax 1472",
     "rotary frequencies are cast to bfloat16 before they are used",
     "rope-frequencies-bf16/q_rope:*+rope-frequencies-bf16/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/imp-880-rope-magnitude", "kekzl/imp 880",
     "two fields are taken for one, and rotated pairs are 1.261 times as long",
     "rope-magnitude-1.261/q_rope:*+rope-magnitude-1.261/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/vllm-48623-yarn-mscale", "vllm-project/vllm 48621, 48623",
     "mscale is not read, and YaRN's factor is 1.277 in place of 1",
     "rope-magnitude-of-yarn/q_rope:*+rope-magnitude-of-yarn/k_rope:*", "engine", STAGE_Q_ROPE,
     .cause = CAUSE_POSITION},
    {"real/llama.cpp-8197-gemma2-caps", "ggml-org/llama.cpp 8197",
     "no soft-caps, and queries scaled by another width",
     "attention-cap-missing/attn_out:*+attention-scale-of-width/attn_out:*+logit-cap-missing",
     "engine", STAGE_ATTN_OUT, .cause = CAUSE_SCALE, .arch = "gemma2"},
    {"real/vllm-metal-665-cap-0", "vllm-project/vllm-metal 665",
     "the soft-cap of scores is handed on as 0", "attention-cap-missing/attn_out:*", "engine",
     STAGE_ATTN_OUT, .cause = CAUSE_SCALE},
    {"real/llama.cpp-8412-f16-scores", "ggml-org/llama.cpp 7805, 8412, 10015",
     "scores are computed in binary16", "attention-f16-scores/attn_out:*", "engine", STAGE_ATTN_OUT,
     .cause = CAUSE_PRECISION_POLICY},
    {"real/llama.cpp-13975-f16-values", "ggml-org/llama.cpp 12433, 13975",
     "attention adds values in binary16, seen in long contexts",
     "attention-f16-accumulator/attn_out:*@from-position-8", "engine", STAGE_ATTN_OUT,
     .cause = CAUSE_PRECISION_POLICY},
    {"real/mlx-lm-390-window-of-prompt", "ml-explore/mlx-lm 390",
     "the window is one wider while the prompt is processed", "window-plus-1/attn_out:*@prefill",
     "engine", STAGE_ATTN_OUT, .cause = CAUSE_MASK, .n_token = 16},
    {"real/transformers-39408-window-inclusive", "huggingface/transformers 39408",
     "a bound that is taken as inclusive makes every window one wider", "window-plus-1/attn_out:*",
     "engine", STAGE_ATTN_OUT, .cause = CAUSE_MASK, .n_token = 16},
    {"real/transformers-47651-length-1-mod-32", "huggingface/transformers 47651",
     "rows see nothing where the padded prompt is 1 longer than a multiple of 32",
     "mask-all-hidden-at-33/attn_out:*", "engine", STAGE_ATTN_OUT, .cause = CAUSE_MASK,
     .n_token = 35},
    {"real/transformers-32390-nan-padded-batch",
     "huggingface/transformers 32390, ml-explore/mlx 2608",
     "a row of a batch with every key hidden is 0 / 0", "attention-nan/attn_out:*@batch-row-1",
     "batch", STAGE_ATTN_OUT, .cause = CAUSE_NONFINITE_ORIGIN},
    {"real/vllm-5543-stale-prefix", "vllm-project/vllm 5543, tenstorrent/vllm 415",
     "a second request reads the keys and values of the first",
     "kv-store-skipped/k_cache:*+kv-store-skipped/v_cache:*", "reuse", STAGE_K_CACHE,
     .cause = CAUSE_KV_STATE},
    {"real/kvcached-446-window-blocks", "ovg-project/kvcached 446",
     "blocks of a layer with a window are reused with what they held",
     "kv-store-skipped/k_cache:0@from-position-8+kv-store-skipped/v_cache:0@from-position-8",
     "reuse", STAGE_K_CACHE, .cause = CAUSE_KV_STATE, .arch = "gemma", .n_token = 16},
    {"real/mlx-3480-gqa-small-m", "ml-explore/mlx 3480",
     "the kernel for few rows steps through keys that all heads of a group share",
     "heads-tiled/attn_out:*", "fresh", STAGE_ATTN_OUT, .cause = CAUSE_STRUCTURE},
    {"real/onnx-7274-heads-tiled", "onnx/onnx 7274, ekzhang/jax-js 180",
     "kv heads are tiled where they have to be repeated", "heads-tiled/attn_out:*", "engine",
     STAGE_ATTN_OUT, .cause = CAUSE_STRUCTURE},
    {"real/mflux-489-first-rows", "mflux-community/mflux 489, ml-explore/mlx 3856",
     "a row count wraps, and the first rows of a product are not written (at 4 here, 32768 there)",
     "matmul-first-rows-lost/gate:*+matmul-first-rows-lost/up:*+matmul-first-rows-lost/mlp_out:*",
     "engine", STAGE_GATE, .cause = CAUSE_KERNEL_MATH, .n_token = 16},
    {"real/aneforge-253-biases-dropped", "sbryngelson/ANEForge 253, mlc-ai/mlc-llm 3494",
     "biases of q, k and v are dropped", "bias-missing/q:*+bias-missing/k:*+bias-missing/v:*",
     "engine", STAGE_Q, .cause = CAUSE_STRUCTURE},
    {"real/imp-1282-head-zero", "kekzl/imp 1282, huggingface/transformers 43429",
     "tied weights are not found, and the head is zero", "head-zero", "engine", STAGE_LOGITS,
     .cause = CAUSE_WEIGHT_LAYOUT},
    {"real/aprender-187-embedding-transposed", "paiml/aprender 187, 188",
     "the embedding is read in column order", "embedding-in-column-order", "engine", STAGE_EMBED,
     .cause = CAUSE_WEIGHT_LAYOUT},
    {"real/mlxcel-391-router-sum", "lablup/mlxcel 391",
     "weights of experts add up to 1 where they must not, or do not where they must",
     "experts-norm-other/expert_weights:*", "engine", STAGE_EXPERT_WEIGHTS,
     .cause = CAUSE_STRUCTURE},
    {"real/sglang-35160-router-raw", "sgl-project/sglang 35160",
     "the router's raw values are used as weights of experts",
     "experts-weights-raw/expert_weights:*", "engine", STAGE_EXPERT_WEIGHTS,
     .cause = CAUSE_STRUCTURE},
    {"real/imp-981-chunk-2-replayed", "kekzl/imp 981, 986",
     "the second chunk replays a captured graph with the first one's geometry",
     "mask-of-first-chunk/attn_out:*", "engine", STAGE_ATTN_OUT, .cause = CAUSE_MASK, .n_token = 16,
     .n_chunk = 8},
    {"real/aprender-2971-scale-per-256", "paiml/aprender 2971, 2091, 3356",
     "one activation scale for 256 values, crushed by an outlier", "quantize-per-256/act_q8:*",
     "engine", STAGE_ACT_Q8, .cause = CAUSE_PRECISION_POLICY},
};

const fault_real *fault_reals(size_t *n)
{
    *n = sizeof reals / sizeof *reals;
    return reals;
}

const fault_real *fault_real_find(const char *name)
{
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        if (strcmp(reals[i].name, name) == 0) {
            return &reals[i];
        }
    }
    return NULL;
}
