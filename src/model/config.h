/* config.h - what a model's metadata says, validated: the numbers the op list is built from.
 *
 * One struct for every architecture; whoever reads a model file fills it. config_read does it from
 * GGUF keys (`<arch>.` stands before each unless said), a Hugging Face folder gives the names after
 * "HF:". The order is the same for every source:
 *
 *   1. memset 0, arch, name, the sizes;  2. config_defaults: what the architecture implies;
 *   3. what the file says on top of it, and config_derive what follows from that;
 *   4. config_check: ranges, and what must agree.
 *
 * A field that an architecture does not have keeps its neutral value: 0, or 1 for factors.
 */
#ifndef GRETA_MODEL_CONFIG_H
#define GRETA_MODEL_CONFIG_H

#include "base/activation.h"
#include "base/limits.h"
#include "base/rope.h"
#include "format/gguf.h"

typedef struct config {
    char arch[32];  /* name of the architecture (arch.h): general.architecture */
    char name[128]; /* general.name, cut; "" if absent. HF: the folder's */

    int32_t n_layer;      /* block_count; HF: num_hidden_layers */
    int32_t n_embd;       /* embedding_length; HF: hidden_size */
    int32_t n_ff;         /* feed_forward_length; HF: intermediate_size. Of a dense layer */
    int32_t n_vocab;      /* rows of the embedding; HF: vocab_size */
    int32_t n_head;       /* attention.head_count; HF: num_attention_heads */
    int32_t n_head_kv;    /* attention.head_count_kv; HF: num_key_value_heads. Default n_head */
    int32_t head_dim;     /* attention.key_length; HF: head_dim. Default n_embd / n_head */
    int32_t n_ctx_train;  /* context_length, cut to LIMIT_CONTEXT; HF: max_position_embeddings */

    float rms_eps;          /* attention.layer_norm_rms_epsilon; HF: rms_norm_eps */
    activation activation;  /* of the gate. HF: hidden_act, hidden_activation */
    float embd_scale;       /* embeddings are multiplied by it; 1: not at all. gemma: sqrtf(n_embd),
                               rounded once to f32 */
    float attn_scale;       /* of q.k: attention.scale; HF gemma: query_pre_attn_scalar ** -0.5.
                               Default rn(1 / rn(sqrt(head_dim))) */
    float attn_softcap;     /* scores become cap * tanh(score / cap); 0: none.
                               attn_logit_softcapping; HF: attn_logit_softcapping */
    float logit_softcap;    /* the same of logits. final_logit_softcapping; HF: the same */

    rope_config rope; /* base/rope.h says where its numbers stand */

    /* A layer with a window sees, from position p, the positions p - window + 1 .. p; 0: no layer
     * has one. attention.sliding_window; HF: sliding_window (with use_sliding_window not false).
     * is_local[l]: layer l has the window. attention.sliding_window_pattern, an array of bool or a
     * period n (every n-th layer is global, the last of each n); HF: layer_types,
     * sliding_window_pattern, max_window_layers. Default by architecture, else all layers. */
    int32_t window;
    uint8_t is_local[LIMIT_LAYERS]; /* (n_layer) 0 or 1 */

    int32_t n_expert;      /* experts of a layer; 0: dense. expert_count; HF: num_local_experts,
                              num_experts */
    int32_t n_expert_used; /* chosen per token. expert_used_count; HF: num_experts_per_tok */
    int32_t n_ff_expert;   /* expert_feed_forward_length; HF: moe_intermediate_size. Default n_ff */
    int expert_weights_norm; /* weights of the chosen experts are divided by their sum: 0 or 1.
                                expert_weights_norm; HF: norm_topk_prob. Default by architecture */
} config;

/* Reads <arch>.* keys. Every error names the key, its value and what was expected. */
greta_status config_read(const gguf *g, config *cfg, greta_error *err);

/* Sets what the architecture implies. Needs arch, n_layer, n_embd, n_head, n_head_kv, head_dim,
 * n_ff and n_ctx_train. GRETA_BAD_INPUT: cfg->arch is no architecture of this build. */
greta_status config_defaults(config *cfg, greta_error *err);
/* Every window pattern that is a period: layer l is local unless l % period == period - 1. */
void config_window_period(config *cfg, int32_t period);
/* What follows from numbers of the file and not from the architecture alone. Before config_check.
 */
void config_derive(config *cfg);
/* Ranges and agreement of everything, whatever the source. */
greta_status config_check(const config *cfg, greta_error *err);

#endif
