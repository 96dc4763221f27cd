/* stage.h - the named places of a forward pass, in execution order.
 *
 * Traces quote these names: they are stable for ever, new ones may be added. One X-macro gives the
 * enum and the names. `scope` says whether a stage belongs to the model or repeats per layer.
 */
#ifndef GRETA_BASE_STAGE_H
#define GRETA_BASE_STAGE_H

#define STAGE_LIST_VERSION 1

#define STAGE_LIST(X)                                                                              \
    X(TOKENS, "tokens", 0)                                                                         \
    X(EMBED, "embed", 0)                                                                           \
    X(EMBED_SCALED, "embed_scaled", 0)                                                             \
    X(ATTN_NORM, "attn_norm", 1)                                                                   \
    X(ATTN_NORM_Q8, "attn_norm_q8", 1)                                                             \
    X(Q, "q", 1)                                                                                   \
    X(K, "k", 1)                                                                                   \
    X(V, "v", 1)                                                                                   \
    X(Q_NORM, "q_norm", 1)                                                                         \
    X(K_NORM, "k_norm", 1)                                                                         \
    X(Q_ROPE, "q_rope", 1)                                                                         \
    X(K_ROPE, "k_rope", 1)                                                                         \
    X(K_CACHE, "k_cache", 1)                                                                       \
    X(V_CACHE, "v_cache", 1)                                                                       \
    X(SCORES, "scores", 1)                                                                         \
    X(PROBS, "probs", 1)                                                                           \
    X(ATTN_OUT, "attn_out", 1)                                                                     \
    X(ATTN_OUT_Q8, "attn_out_q8", 1)                                                               \
    X(WO_OUT, "wo_out", 1)                                                                         \
    X(ATTN_POST_NORM, "attn_post_norm", 1)                                                         \
    X(X_AFTER_ATTN, "x_after_attn", 1)                                                             \
    X(FFN_NORM, "ffn_norm", 1)                                                                     \
    X(FFN_NORM_Q8, "ffn_norm_q8", 1)                                                               \
    X(ROUTER, "router", 1)                                                                         \
    X(EXPERT_IDS, "expert_ids", 1)                                                                 \
    X(EXPERT_WEIGHTS, "expert_weights", 1)                                                         \
    X(GATE, "gate", 1)                                                                             \
    X(UP, "up", 1)                                                                                 \
    X(ACT, "act", 1)                                                                               \
    X(ACT_Q8, "act_q8", 1)                                                                         \
    X(EXPERT_OUT, "expert_out", 1)                                                                 \
    X(MLP_OUT, "mlp_out", 1)                                                                       \
    X(FFN_POST_NORM, "ffn_post_norm", 1)                                                           \
    X(X_AFTER_MLP, "x_after_mlp", 1)                                                               \
    X(FINAL_NORM, "final_norm", 0)                                                                 \
    X(FINAL_NORM_Q8, "final_norm_q8", 0)                                                           \
    X(LOGITS_RAW, "logits_raw", 0)                                                                 \
    X(LOGITS, "logits", 0)

typedef enum stage {
#define STAGE_ENUM(id, name, per_layer) STAGE_##id,
    STAGE_LIST(STAGE_ENUM)
#undef STAGE_ENUM
    STAGE_COUNT,
    STAGE_NONE = STAGE_COUNT
} stage;

const char *stage_name(stage s);          /* "?" for STAGE_NONE */
stage stage_find(const char *name);       /* STAGE_NONE: no such stage */
int stage_is_per_layer(stage s);

#endif
