/* config.c - metadata keys to validated numbers.
 *
 * Keys are `<arch>.<name>` as the GGUF specification lists them; all architectures are read by the
 * same code, since a key that a family does not have is absent. Every number is checked against
 * limits.h before anything is derived from it, and every error quotes key, value and range. What
 * does not depend on where the numbers came from is config_defaults and config_check.
 */
#include "model/config.h"

#include "model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX 96

static const char *key_name(const config *cfg, const char *suffix, char key[KEY_MAX])
{
    snprintf(key, KEY_MAX, "%s.%s", cfg->arch, suffix);
    return key;
}

typedef struct int_field {
    const char *suffix;
    int32_t *value;
    int needed;
    int32_t low, high;
} int_field;

static greta_status read_int(const gguf *g, const config *cfg, const int_field *f, greta_error *err)
{
    char key[KEY_MAX];
    uint64_t value = (uint64_t)*f->value;
    GRETA_TRY(gguf_get_u64(g, key_name(cfg, f->suffix, key), f->needed, &value, err));
    if (value < (uint64_t)f->low || value > (uint64_t)f->high) {
        return error_about(err, GRETA_BAD_INPUT, key,
                           "%s is %" PRIu64 " (%" PRId32 " to %" PRId32 ")", key, value, f->low,
                           f->high);
    }
    *f->value = (int32_t)value;
    return GRETA_OK;
}

static greta_status read_positive(const gguf *g, const config *cfg, const char *suffix, int needed,
                                  float *value, greta_error *err)
{
    char key[KEY_MAX], shown[32];
    GRETA_TRY(gguf_get_f32(g, key_name(cfg, suffix, key), needed, value, err));
    if (!(*value > 0.0f) || isinf(*value)) {
        snprintf(shown, sizeof shown, "%s",
                 isnan(*value)   ? "nan"
                 : isinf(*value) ? "inf"
                                 : "not positive");
        return error_about(err, GRETA_BAD_INPUT, key, "%s is %s (finite, > 0)", key, shown);
    }
    return GRETA_OK;
}

static void copy_string(gguf_string s, char *out, size_t capacity)
{
    size_t n = s.length < capacity - 1 ? s.length : capacity - 1;
    if (n > 0) {
        memcpy(out, s.data, n);
    }
    out[n] = 0;
}

static greta_status read_arch(const gguf *g, config *cfg, greta_error *err)
{
    gguf_string arch = {0}, name = {0};
    char shown[ESCAPED_MAX], names[ARCH_NAMES_MAX];
    GRETA_TRY(gguf_get_string(g, "general.architecture", 1, &arch, err));
    copy_string(arch, cfg->arch, sizeof cfg->arch);
    if (arch.length >= sizeof cfg->arch || !arch_find(cfg->arch)) {
        return error_about(err, GRETA_BAD_INPUT, "general.architecture",
                           "architecture \"%s\" is not supported (%s)",
                           escape(arch.data, arch.length, shown), arch_names(names));
    }
    if (gguf_find_key(g, "general.name")) {
        GRETA_TRY(gguf_get_string(g, "general.name", 1, &name, err));
        copy_string(name, cfg->name, sizeof cfg->name);
    }
    return GRETA_OK;
}

static int string_is(gguf_string s, const char *name)
{
    return s.length == strlen(name) && memcmp(s.data, name, s.length) == 0;
}

static int has_key(const gguf *g, const config *cfg, const char *suffix)
{
    char key[KEY_MAX];
    return gguf_find_key(g, key_name(cfg, suffix, key)) != NULL;
}

/* A factor without a kind means linear, as in llama.cpp. */
static greta_status read_rope_scaling(const gguf *g, config *cfg, greta_error *err)
{
    static const char *const kinds[] = {[ROPE_SCALING_NONE] = "none",
                                        [ROPE_SCALING_LINEAR] = "linear",
                                        [ROPE_SCALING_YARN] = "yarn",
                                        [ROPE_SCALING_LONGROPE] = "longrope"};
    char key[KEY_MAX], shown[ESCAPED_MAX];
    rope_config *rope = &cfg->rope;
    const char *factor =
        has_key(g, cfg, "rope.scale_linear") ? "rope.scale_linear" : "rope.scaling.factor";
    gguf_string type = {"none", 4};
    if (has_key(g, cfg, factor)) {
        type = (gguf_string){"linear", 6};
    }
    GRETA_TRY(gguf_get_string(g, key_name(cfg, "rope.scaling.type", key), 0, &type, err));
    size_t kind = 0, n = sizeof kinds / sizeof kinds[0];
    while (kind < n && (!kinds[kind] || !string_is(type, kinds[kind]))) {
        kind++;
    }
    if (kind == n) {
        return error_about(err, GRETA_BAD_INPUT, key,
                           "rope scaling \"%s\" is not supported (none, linear, yarn, longrope)",
                           escape(type.data, type.length, shown));
    }
    rope->scaling = (rope_scaling)kind;
    int32_t original = 0;
    int_field context = {"rope.scaling.original_context_length", &original, 0, 1, LIMIT_CONTEXT};
    switch (rope->scaling) {
    case ROPE_SCALING_YARN:
        GRETA_TRY(read_positive(g, cfg, "rope.scaling.yarn_beta_fast", 0, &rope->beta_fast, err));
        GRETA_TRY(read_positive(g, cfg, "rope.scaling.yarn_beta_slow", 0, &rope->beta_slow, err));
        GRETA_TRY(gguf_get_f32(g, key_name(cfg, "rope.scaling.yarn_ext_factor", key), 0,
                               &rope->ext_factor, err));
        if (has_key(g, cfg, "rope.scaling.yarn_attn_factor")) {
            GRETA_TRY(
                read_positive(g, cfg, "rope.scaling.yarn_attn_factor", 1, &rope->attn_factor, err));
        }
        break;
    case ROPE_SCALING_LONGROPE:
        break;
    case ROPE_SCALING_LINEAR:
        return read_positive(g, cfg, factor, 1, &rope->factor, err);
    default:
        return GRETA_OK;
    }
    if (has_key(g, cfg, "rope.scaling.attn_factor")) {
        GRETA_TRY(read_positive(g, cfg, "rope.scaling.attn_factor", 1, &rope->attn_factor, err));
    }
    if (has_key(g, cfg, context.suffix)) {
        GRETA_TRY(read_int(g, cfg, &context, err));
        rope->n_ctx_original = original;
    }
    return rope->scaling == ROPE_SCALING_YARN ? read_positive(g, cfg, factor, 1, &rope->factor, err)
                                              : GRETA_OK;
}

static greta_status read_rope(const gguf *g, config *cfg, greta_error *err)
{
    int_field turned = {"rope.dimension_count", &cfg->rope.dim, 0, 2, cfg->head_dim};
    char key[KEY_MAX];
    GRETA_TRY(read_int(g, cfg, &turned, err));
    if (cfg->rope.dim % 2 != 0) {
        return error_set(err, GRETA_BAD_INPUT, "%s is %" PRId32 " (even)",
                         key_name(cfg, turned.suffix, key), cfg->rope.dim);
    }
    GRETA_TRY(read_positive(g, cfg, "rope.freq_base", 0, &cfg->rope.freq_base, err));
    if (cfg->rope.freq_base < 0x1p-100f) {
        return error_set(err, GRETA_BAD_INPUT, "%s is too small",
                         key_name(cfg, "rope.freq_base", key));
    }
    if (has_key(g, cfg, "rope.freq_base_swa")) {
        GRETA_TRY(read_positive(g, cfg, "rope.freq_base_swa", 1, &cfg->rope.freq_base_local, err));
    }
    return read_rope_scaling(g, cfg, err);
}

/* The pattern is a period, or says for every layer whether it is local. */
static greta_status read_window(const gguf *g, config *cfg, greta_error *err)
{
    char key[KEY_MAX];
    uint64_t window = (uint64_t)cfg->window;
    GRETA_TRY(gguf_get_u64(g, key_name(cfg, "attention.sliding_window", key), 0, &window, err));
    cfg->window = window < LIMIT_CONTEXT ? (int32_t)window : LIMIT_CONTEXT;
    const gguf_key *pattern =
        gguf_find_key(g, key_name(cfg, "attention.sliding_window_pattern", key));
    if (!pattern) {
        return GRETA_OK;
    }
    if (pattern->kind != GGUF_ARRAY) {
        uint64_t period = 0;
        GRETA_TRY(gguf_get_u64(g, key, 1, &period, err));
        config_window_period(cfg, period < LIMIT_LAYERS ? (int32_t)period : LIMIT_LAYERS + 1);
        return GRETA_OK;
    }
    int is_number = pattern->item_kind != GGUF_STRING && pattern->item_kind != GGUF_ARRAY &&
                    pattern->item_kind != GGUF_F32 && pattern->item_kind != GGUF_F64;
    if (!is_number || pattern->n < (uint64_t)cfg->n_layer) {
        return error_about(err, GRETA_BAD_INPUT, key,
                           "%s is an array of %" PRIu64 " %s (%" PRId32 " of bool, or a period)",
                           key, pattern->n, gguf_kind_name(pattern->item_kind), cfg->n_layer);
    }
    for (int32_t l = 0; l < cfg->n_layer; l++) {
        cfg->is_local[l] = gguf_item_i64(pattern, (uint64_t)l) != 0;
    }
    return GRETA_OK;
}

/* Softmax gating is the only one that the architectures here have. */
static greta_status read_experts(const gguf *g, config *cfg, greta_error *err)
{
    char key[KEY_MAX];
    int_field n = {"expert_count", &cfg->n_expert, 0, 0, LIMIT_EXPERTS};
    int_field used = {"expert_used_count", &cfg->n_expert_used, 1, 1, LIMIT_EXPERTS_USED};
    int_field ff = {"expert_feed_forward_length", &cfg->n_ff_expert, 0, 1, LIMIT_FF};
    GRETA_TRY(read_int(g, cfg, &n, err));
    if (cfg->n_expert == 0) {
        return GRETA_OK;
    }
    uint64_t gating = 1;
    float scale = 1.0f;
    GRETA_TRY(read_int(g, cfg, &used, err));
    GRETA_TRY(read_int(g, cfg, &ff, err));
    GRETA_TRY(gguf_get_bool(g, key_name(cfg, "expert_weights_norm", key), 0,
                            &cfg->expert_weights_norm, err));
    GRETA_TRY(gguf_get_u64(g, key_name(cfg, "expert_gating_func", key), 0, &gating, err));
    if (gating != 1) {
        return error_about(err, GRETA_BAD_INPUT, key, "%s is %" PRIu64 " (1: softmax)", key,
                           gating);
    }
    GRETA_TRY(gguf_get_f32(g, key_name(cfg, "expert_weights_scale", key), 0, &scale, err));
    if (scale != 1.0f && scale != 0.0f) {
        return error_about(err, GRETA_BAD_INPUT, key, "%s is not supported (absent, 0 or 1)", key);
    }
    return GRETA_OK;
}

/* Zero means none, as in the files. */
static greta_status read_cap(const gguf *g, config *cfg, const char *suffix, float *cap,
                             greta_error *err)
{
    char key[KEY_MAX];
    GRETA_TRY(gguf_get_f32(g, key_name(cfg, suffix, key), 0, cap, err));
    if (!(*cap >= 0) || isinf(*cap)) {
        return error_about(err, GRETA_BAD_INPUT, key, "%s is %s (finite, not below 0)", key,
                           isnan(*cap)   ? "nan"
                           : isinf(*cap) ? "inf"
                                         : "negative");
    }
    return GRETA_OK;
}

static greta_status read_heads(const gguf *g, config *cfg, greta_error *err)
{
    int_field heads = {"attention.head_count", &cfg->n_head, 1, 1, LIMIT_HEADS};
    GRETA_TRY(read_int(g, cfg, &heads, err));
    cfg->n_head_kv = cfg->n_head;
    int_field kv = {"attention.head_count_kv", &cfg->n_head_kv, 0, 1, LIMIT_HEADS};
    GRETA_TRY(read_int(g, cfg, &kv, err));
    if (cfg->n_head % cfg->n_head_kv != 0) {
        return error_set(err, GRETA_BAD_INPUT,
                         "%" PRId32 " query heads cannot share %" PRId32 " kv heads evenly",
                         cfg->n_head, cfg->n_head_kv);
    }
    char key[KEY_MAX];
    if (gguf_find_key(g, key_name(cfg, "attention.key_length", key)) == NULL) {
        if (cfg->n_embd % cfg->n_head != 0) {
            return error_set(err, GRETA_BAD_INPUT,
                             "embedding length %" PRId32 " is not a multiple of %" PRId32 " heads",
                             cfg->n_embd, cfg->n_head);
        }
        cfg->head_dim = cfg->n_embd / cfg->n_head;
    }
    int_field key_dim = {"attention.key_length", &cfg->head_dim, 0, 1, LIMIT_HEAD_DIM};
    GRETA_TRY(read_int(g, cfg, &key_dim, err));
    int32_t value_dim = cfg->head_dim;
    int_field value = {"attention.value_length", &value_dim, 0, 1, LIMIT_HEAD_DIM};
    GRETA_TRY(read_int(g, cfg, &value, err));
    if (value_dim != cfg->head_dim) {
        return error_set(err, GRETA_BAD_INPUT,
                         "value heads of %" PRId32 " beside key heads of %" PRId32
                         " are not supported",
                         value_dim, cfg->head_dim);
    }
    return GRETA_OK;
}

static greta_status read_sizes(const gguf *g, config *cfg, greta_error *err)
{
    int_field field[] = {
        {"block_count", &cfg->n_layer, 1, 1, LIMIT_LAYERS},
        {"embedding_length", &cfg->n_embd, 1, 1, LIMIT_EMBD},
        {"feed_forward_length", &cfg->n_ff, 1, 1, LIMIT_FF},
    };
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        GRETA_TRY(read_int(g, cfg, &field[i], err));
    }
    uint64_t context = 0;
    char key[KEY_MAX];
    GRETA_TRY(gguf_get_u64(g, key_name(cfg, "context_length", key), 1, &context, err));
    cfg->n_ctx_train = context < LIMIT_CONTEXT ? (int32_t)context : LIMIT_CONTEXT;
    GRETA_TRY(read_heads(g, cfg, err));
    const gguf_key *tokens = gguf_find_key(g, "tokenizer.ggml.tokens");
    const gguf_tensor *embd = gguf_find_tensor(g, "token_embd.weight");
    uint64_t n_vocab = embd ? embd->dim[1] : tokens ? tokens->n : 0;
    if (n_vocab < 1 || n_vocab > LIMIT_VOCAB) {
        return error_set(err, GRETA_BAD_INPUT, "the vocabulary has %" PRIu64 " tokens (1 to %d)",
                         n_vocab, LIMIT_VOCAB);
    }
    cfg->n_vocab = (int32_t)n_vocab;
    return GRETA_OK;
}

greta_status config_read(const gguf *g, config *cfg, greta_error *err)
{
    memset(cfg, 0, sizeof *cfg);
    GRETA_TRY(read_arch(g, cfg, err));
    GRETA_TRY(read_sizes(g, cfg, err));
    GRETA_TRY(config_defaults(cfg, err));
    cfg->rope.pairing = arch_find(cfg->arch)->pairing;
    GRETA_TRY(read_rope(g, cfg, err));
    GRETA_TRY(read_positive(g, cfg, "attention.layer_norm_rms_epsilon", 1, &cfg->rms_eps, err));
    GRETA_TRY(read_positive(g, cfg, "attention.scale", 0, &cfg->attn_scale, err));
    GRETA_TRY(read_cap(g, cfg, "attn_logit_softcapping", &cfg->attn_softcap, err));
    GRETA_TRY(read_cap(g, cfg, "final_logit_softcapping", &cfg->logit_softcap, err));
    GRETA_TRY(read_window(g, cfg, err));
    GRETA_TRY(read_experts(g, cfg, err));
    config_derive(cfg);
    return config_check(cfg, err);
}

/* ---- Whatever the source -----------------------------------------------------------------------
 */

void config_window_period(config *cfg, int32_t period)
{
    for (int32_t l = 0; l < cfg->n_layer; l++) {
        cfg->is_local[l] = period == 0 || l % period < period - 1;
    }
}

greta_status config_defaults(config *cfg, greta_error *err)
{
    const architecture *a = arch_find(cfg->arch);
    char shown[ESCAPED_MAX], names[ARCH_NAMES_MAX];
    if (!a) {
        return error_about(err, GRETA_BAD_INPUT, "architecture",
                           "architecture \"%s\" is not supported (%s)",
                           escape(cfg->arch, strlen(cfg->arch), shown), arch_names(names));
    }
    cfg->activation = ACTIVATION_SILU;
    cfg->embd_scale = 1.0f;
    cfg->attn_scale = 1.0f / sqrtf((float)cfg->head_dim);
    cfg->n_ff_expert = cfg->n_ff;
    cfg->rope = (rope_config){
        .pairing = ROPE_HALVES,
        .dim = cfg->head_dim,
        .freq_base = 10000.0f,
        .factor = 1.0f,
        .n_ctx_original = cfg->n_ctx_train,
        .beta_fast = 32.0f,
        .beta_slow = 1.0f,
        .ext_factor = 1.0f,
        .low_freq_factor = 1.0f,
        .high_freq_factor = 4.0f,
    };
    config_window_period(cfg, 0);
    if (a->defaults) {
        a->defaults(cfg);
    }
    return GRETA_OK;
}

void config_derive(config *cfg)
{
    rope_config *r = &cfg->rope;
    if (arch_find(cfg->arch)->is_local_unscaled && cfg->window > 0 &&
        r->scaling != ROPE_SCALING_NONE && r->freq_base_local == 0) {
        r->freq_base_local = r->freq_base;
    }
}

typedef struct int_check {
    const char *name;
    int32_t value, low, high;
} int_check;

static greta_status check_ints(const config *c, greta_error *err)
{
    const rope_config *r = &c->rope;
    const int_check check[] = {
        {"layers", c->n_layer, 1, LIMIT_LAYERS},
        {"embedding length", c->n_embd, 1, LIMIT_EMBD},
        {"feed-forward length", c->n_ff, 1, LIMIT_FF},
        {"vocabulary", c->n_vocab, 1, LIMIT_VOCAB},
        {"query heads", c->n_head, 1, LIMIT_HEADS},
        {"kv heads", c->n_head_kv, 1, c->n_head},
        {"head length", c->head_dim, 1, LIMIT_HEAD_DIM},
        {"trained context", c->n_ctx_train, 0, LIMIT_CONTEXT},
        {"rotary dimensions", r->dim, 2, c->head_dim},
        {"sliding window", c->window, 0, LIMIT_CONTEXT},
        {"experts", c->n_expert, 0, LIMIT_EXPERTS},
    };
    for (size_t i = 0; i < sizeof check / sizeof *check; i++) {
        if (check[i].value < check[i].low || check[i].value > check[i].high) {
            return error_about(err, GRETA_BAD_INPUT, check[i].name,
                               "%s: %" PRId32 " (%" PRId32 " to %" PRId32 ")", check[i].name,
                               check[i].value, check[i].low, check[i].high);
        }
    }
    if (c->n_head % c->n_head_kv != 0) {
        return error_set(err, GRETA_BAD_INPUT,
                         "%" PRId32 " query heads cannot share %" PRId32 " kv heads evenly",
                         c->n_head, c->n_head_kv);
    }
    if (r->dim % 2 != 0) {
        return error_about(err, GRETA_BAD_INPUT, "rotary dimensions",
                           "%" PRId32 " rotary dimensions (even)", r->dim);
    }
    if (c->n_expert > 0 && (c->n_expert_used < 1 || c->n_expert_used > c->n_expert ||
                            c->n_expert_used > LIMIT_EXPERTS_USED)) {
        return error_about(err, GRETA_BAD_INPUT, "experts used",
                           "%" PRId32 " of %" PRId32 " experts used (1 to all, at most %d)",
                           c->n_expert_used, c->n_expert, LIMIT_EXPERTS_USED);
    }
    return GRETA_OK;
}

typedef struct real_check {
    const char *name;
    float value, low;
} real_check;

greta_status config_check(const config *c, greta_error *err)
{
    const rope_config *r = &c->rope;
    GRETA_TRY(check_ints(c, err));
    int has_original = r->scaling == ROPE_SCALING_YARN || r->scaling == ROPE_SCALING_LLAMA3 ||
                       r->scaling == ROPE_SCALING_LONGROPE;
    const real_check check[] = {
        {"eps of the norms", c->rms_eps, 0x1p-149f},
        {"embedding scale", c->embd_scale, 0x1p-100f},
        {"attention scale", c->attn_scale, 0x1p-100f},
        {"soft-cap of scores", c->attn_softcap, 0},
        {"soft-cap of logits", c->logit_softcap, 0},
        {"rotary base", r->freq_base, 0x1p-100f},
        {"local rotary base", r->freq_base_local == 0 ? 1 : r->freq_base_local, 0x1p-100f},
        {"rope scaling factor", r->factor, 0x1p-100f},
        {"rope attention factor", r->attn_factor, 0},
        {"beta_fast", r->beta_fast, 0x1p-100f},
        {"beta_slow", r->beta_slow, 0x1p-100f},
        {"yarn ext factor", r->ext_factor, 0},
        {"low_freq_factor", r->low_freq_factor, 0x1p-100f},
        {"high_freq_factor", r->high_freq_factor, r->low_freq_factor},
        {"original context", has_original ? (float)r->n_ctx_original : 2.0f, 2.0f},
    };
    for (size_t i = 0; i < sizeof check / sizeof *check; i++) {
        if (!(check[i].value >= check[i].low) || isinf(check[i].value)) {
            return error_about(err, GRETA_BAD_INPUT, check[i].name, "%s is %s", check[i].name,
                               isnan(check[i].value)   ? "nan"
                               : isinf(check[i].value) ? "inf"
                                                       : "too small");
        }
    }
    if (r->scaling == ROPE_SCALING_LLAMA3 && !(r->high_freq_factor > r->low_freq_factor)) {
        return error_about(err, GRETA_BAD_INPUT, "high_freq_factor",
                           "high_freq_factor must be above low_freq_factor");
    }
    return GRETA_OK;
}
