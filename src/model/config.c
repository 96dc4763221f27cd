/* config.c - metadata keys to validated numbers.
 *
 * Keys are `<arch>.<name>` as the GGUF specification lists them. Every number is checked against
 * limits.h before anything is derived from it, and every error quotes key, value and range.
 */
#include "model/config.h"

#include "base/limits.h"

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
    char shown[ESCAPED_MAX];
    GRETA_TRY(gguf_get_string(g, "general.architecture", 1, &arch, err));
    if (arch.length != 5 || memcmp(arch.data, "llama", 5) != 0) {
        return error_about(err, GRETA_BAD_INPUT, "general.architecture",
                           "architecture \"%s\" is not supported (llama)",
                           escape(arch.data, arch.length, shown));
    }
    copy_string(arch, cfg->arch, sizeof cfg->arch);
    if (gguf_find_key(g, "general.name")) {
        GRETA_TRY(gguf_get_string(g, "general.name", 1, &name, err));
        copy_string(name, cfg->name, sizeof cfg->name);
    }
    return GRETA_OK;
}

/* Only no scaling and linear scaling have a definition so far; others would be silently wrong. */
static greta_status read_rope(const gguf *g, config *cfg, greta_error *err)
{
    char key[KEY_MAX], shown[ESCAPED_MAX];
    int_field dim = {"rope.dimension_count", &cfg->rope_dim, 0, 2, cfg->head_dim};
    cfg->rope_dim = cfg->head_dim;
    cfg->rope_freq_base = 10000.0f;
    cfg->rope_scale = 1.0f;
    GRETA_TRY(read_int(g, cfg, &dim, err));
    if (cfg->rope_dim % 2 != 0) {
        return error_set(err, GRETA_BAD_INPUT, "%s is %" PRId32 " (even)",
                         key_name(cfg, dim.suffix, key), cfg->rope_dim);
    }
    GRETA_TRY(read_positive(g, cfg, "rope.freq_base", 0, &cfg->rope_freq_base, err));
    if (cfg->rope_freq_base < 0x1p-100f) {
        return error_set(err, GRETA_BAD_INPUT, "%s is too small",
                         key_name(cfg, "rope.freq_base", key));
    }
    gguf_string type = {"none", 4};
    GRETA_TRY(gguf_get_string(g, key_name(cfg, "rope.scaling.type", key), 0, &type, err));
    int is_linear = type.length == 6 && memcmp(type.data, "linear", 6) == 0;
    if (!is_linear && !(type.length == 4 && memcmp(type.data, "none", 4) == 0)) {
        return error_about(err, GRETA_BAD_INPUT, key,
                           "rope scaling \"%s\" is not supported (none, linear)",
                           escape(type.data, type.length, shown));
    }
    if (is_linear) {
        GRETA_TRY(read_positive(g, cfg, "rope.scaling.factor", 1, &cfg->rope_scale, err));
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

greta_status config_read(const gguf *g, config *cfg, greta_error *err)
{
    memset(cfg, 0, sizeof *cfg);
    GRETA_TRY(read_arch(g, cfg, err));
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
    GRETA_TRY(read_rope(g, cfg, err));
    GRETA_TRY(read_positive(g, cfg, "attention.layer_norm_rms_epsilon", 1, &cfg->rms_eps, err));
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
