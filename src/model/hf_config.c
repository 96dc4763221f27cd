/* hf_config.c - config.json to validated numbers.
 *
 * The keys are those of transformers' configuration classes; config.h lists which field each one
 * is. `null` is the same as absent. A value that changes what the model computes and that the op
 * list cannot express is refused with what is supported; keys that do not (dtype, initialisers,
 * dropout, caches) are not looked at. Numbers are read as they stand: rms_norm_eps is rounded once
 * to f32, as the GGUF converter does, so that both files of one model give the same bits.
 *
 * Rotary settings have two spellings: rope_theta beside rope_scaling, and, newer, rope_parameters
 * that holds both - and for Gemma 3 one object for each type of layer.
 */
#include "model/hf.h"

#include "base/limits.h"
#include "model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct keys {
    const json_t *object;
    greta_error *err;
} keys;

/* ---- Typed keys ------------------------------------------------------------------------------ */

/* NULL: absent, or null. */
static const json_t *key_get(const keys *k, const char *name)
{
    const json_t *value = json_object_get(k->object, name);
    return json_is_null(value) ? NULL : value;
}

static greta_status fail_key(const keys *k, const char *name, const char *what)
{
    return error_about(k->err, GRETA_BAD_INPUT, name, "%s %s", name, what);
}

typedef struct int_key {
    const char *name;
    int32_t *value;
    int needed;
    int32_t low, high;
} int_key;

static greta_status key_int(const keys *k, const int_key *f)
{
    const json_t *value = key_get(k, f->name);
    if (value == NULL) {
        return f->needed ? fail_key(k, f->name, "is missing") : GRETA_OK;
    }
    if (!json_is_integer(value)) {
        return fail_key(k, f->name, "is not a whole number");
    }
    json_int_t number = json_integer_value(value);
    if (number < f->low || number > f->high) {
        return error_about(k->err, GRETA_BAD_INPUT, f->name,
                           "%s is %" JSON_INTEGER_FORMAT " (%" PRId32 " to %" PRId32 ")", f->name,
                           number, f->low, f->high);
    }
    *f->value = (int32_t)number;
    return GRETA_OK;
}

/* A finite number above 0, or absent. */
static greta_status key_positive(const keys *k, const char *name, int needed, float *out)
{
    const json_t *value = key_get(k, name);
    if (value == NULL) {
        return needed ? fail_key(k, name, "is missing") : GRETA_OK;
    }
    float number = (float)json_number_value(value);
    if (!json_is_number(value) || !(number > 0) || isinf(number)) {
        return fail_key(k, name, "is not a positive number");
    }
    *out = number;
    return GRETA_OK;
}

static greta_status key_bool(const keys *k, const char *name, int *out)
{
    const json_t *value = key_get(k, name);
    if (value != NULL && !json_is_boolean(value)) {
        return fail_key(k, name, "is not true or false");
    }
    if (value != NULL) {
        *out = json_is_true(value);
    }
    return GRETA_OK;
}

/* NULL: absent. */
static greta_status key_string(const keys *k, const char *name, const char **out)
{
    const json_t *value = key_get(k, name);
    if (value != NULL && !json_is_string(value)) {
        return fail_key(k, name, "is not a string");
    }
    if (value != NULL) {
        *out = json_string_value(value);
    }
    return GRETA_OK;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

/* A class that transformers gives other defaults than n_head must say its kv heads. */
static greta_status read_sizes(const keys *k, const hf_class *class, config *c)
{
    int kv_needed = strcmp(class->model_type, "llama") != 0 && strcmp(class->model_type, "phi3");
    const int_key sizes[] = {
        {"num_hidden_layers", &c->n_layer, 1, 1, LIMIT_LAYERS},
        {"hidden_size", &c->n_embd, 1, 1, LIMIT_EMBD},
        {"intermediate_size", &c->n_ff, 1, 1, LIMIT_FF},
        {"vocab_size", &c->n_vocab, 1, 1, LIMIT_VOCAB},
        {"num_attention_heads", &c->n_head, 1, 1, LIMIT_HEADS},
        {"num_key_value_heads", &c->n_head_kv, kv_needed, 1, LIMIT_HEADS},
        {"head_dim", &c->head_dim, 0, 1, LIMIT_HEAD_DIM},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        GRETA_TRY(key_int(k, &sizes[i]));
    }
    c->n_head_kv = c->n_head_kv == 0 ? c->n_head : c->n_head_kv;
    if (c->head_dim == 0 && c->n_embd % c->n_head != 0) {
        return error_about(k->err, GRETA_BAD_INPUT, "head_dim",
                           "hidden_size %" PRId32 " is not a multiple of %" PRId32 " heads",
                           c->n_embd, c->n_head);
    }
    c->head_dim = c->head_dim == 0 ? c->n_embd / c->n_head : c->head_dim;
    const json_t *context = key_get(k, "max_position_embeddings");
    if (!json_is_integer(context) || json_integer_value(context) < 1) {
        return fail_key(k, "max_position_embeddings", "is not a whole number of at least 1");
    }
    json_int_t n = json_integer_value(context);
    c->n_ctx_train = n < LIMIT_CONTEXT ? (int32_t)n : LIMIT_CONTEXT;
    return GRETA_OK;
}

static greta_status read_activation(const keys *k, const hf_class *class, config *c)
{
    const char *name = "silu";
    char shown[ESCAPED_MAX];
    GRETA_TRY(key_string(k, class->activation_key, &name));
    if (strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0) {
        c->activation = ACTIVATION_SILU;
    } else if (strcmp(name, "gelu_pytorch_tanh") == 0 || strcmp(name, "gelu_new") == 0) {
        c->activation = ACTIVATION_GELU_TANH;
    } else {
        return error_about(k->err, GRETA_BAD_INPUT, class->activation_key,
                           "%s \"%s\" is not supported (silu, swish, gelu_pytorch_tanh, gelu_new)",
                           class->activation_key, escape(name, strlen(name), shown));
    }
    return GRETA_OK;
}

/* ---- Rotary embedding ------------------------------------------------------------------------ */

static greta_status read_rope_kind(const keys *k, rope_scaling *kind)
{
    static const struct {
        const char *name;
        rope_scaling kind;
    } kinds[] = {
        {"default", ROPE_SCALING_NONE},      {"linear", ROPE_SCALING_LINEAR},
        {"llama3", ROPE_SCALING_LLAMA3},     {"yarn", ROPE_SCALING_YARN},
        {"longrope", ROPE_SCALING_LONGROPE}, {"su", ROPE_SCALING_LONGROPE},
    };
    const char *name = "default";
    char shown[ESCAPED_MAX];
    GRETA_TRY(key_string(k, "type", &name)); /* older */
    GRETA_TRY(key_string(k, "rope_type", &name));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            *kind = kinds[i].kind;
            return GRETA_OK;
        }
    }
    return error_about(k->err, GRETA_BAD_INPUT, "rope_type",
                       "rope_type \"%s\" is not supported (default, linear, llama3, yarn, "
                       "longrope)",
                       escape(name, strlen(name), shown));
}

/* Keys that would change the angles and that have no definition here. */
static greta_status refuse_others(const keys *k)
{
    static const char *const others[] = {"mscale", "mscale_all_dim", "short_mscale", "long_mscale",
                                         "mrope_section"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (key_get(k, others[i]) != NULL) {
            return fail_key(k, others[i], "is not supported");
        }
    }
    int truncate = 1;
    GRETA_TRY(key_bool(k, "truncate", &truncate));
    return truncate ? GRETA_OK : fail_key(k, "truncate", "false is not supported");
}

/* `k` is the object that scales; the original context may stand beside it, and counts before one
 * inside. Phi-3's class has a default of its own for the one beside, which a folder must say. */
static greta_status read_rope_scaling(const keys *k, const keys *beside, config *c)
{
    rope_config *r = &c->rope;
    GRETA_TRY(read_rope_kind(k, &r->scaling));
    if (r->scaling == ROPE_SCALING_NONE) {
        return GRETA_OK;
    }
    GRETA_TRY(refuse_others(k));
    const char *original = "original_max_position_embeddings";
    int is_long = r->scaling == ROPE_SCALING_LONGROPE;
    int_key context = {original, &r->n_ctx_original, 0, 1, LIMIT_CONTEXT};
    GRETA_TRY(key_int(k, &context));
    GRETA_TRY(key_int(beside, &context));
    int is_inside = key_get(k, original) != NULL && strcmp(c->arch, "phi3") != 0;
    if ((is_long || r->scaling == ROPE_SCALING_LLAMA3) && key_get(beside, original) == NULL &&
        !is_inside) {
        return fail_key(k, original, "is missing");
    }
    GRETA_TRY(key_positive(k, "factor", !is_long, &r->factor));
    GRETA_TRY(key_positive(k, "attention_factor", 0, &r->attn_factor));
    if (is_long && key_get(k, "factor") != NULL && r->factor <= 1.0f && !(r->attn_factor > 0)) {
        r->attn_factor = 1.0f; /* said to be no stretch, whatever the lengths are */
    }
    GRETA_TRY(key_positive(k, "beta_fast", 0, &r->beta_fast));
    GRETA_TRY(key_positive(k, "beta_slow", 0, &r->beta_slow));
    int is_llama3 = r->scaling == ROPE_SCALING_LLAMA3;
    GRETA_TRY(key_positive(k, "low_freq_factor", is_llama3, &r->low_freq_factor));
    return key_positive(k, "high_freq_factor", is_llama3, &r->high_freq_factor);
}

/* rope_parameters with an object for each type of layer. */
static greta_status read_rope_types(const keys *k, const json_t *full, const json_t *local,
                                    config *c)
{
    keys all = {full, k->err}, window = {local, k->err};
    rope_scaling kind = ROPE_SCALING_NONE;
    if (local == NULL && arch_find(c->arch)->is_local_unscaled) {
        c->rope.freq_base_local = c->rope.freq_base; /* the one beside, or the class's */
    }
    if (!json_is_object(full) || (local != NULL && !json_is_object(local))) {
        return fail_key(k, "rope_parameters", "is not an object for each type of layer");
    }
    GRETA_TRY(key_positive(&all, "rope_theta", 1, &c->rope.freq_base));
    if (local != NULL) {
        GRETA_TRY(key_positive(&window, "rope_theta", 1, &c->rope.freq_base_local));
        GRETA_TRY(read_rope_kind(&window, &kind));
    }
    if (kind != ROPE_SCALING_NONE) {
        return fail_key(k, "rope_parameters", "scales layers with a window (default only)");
    }
    return read_rope_scaling(&all, k, c);
}

static greta_status read_rope(const keys *k, config *c)
{
    const json_t *newer = key_get(k, "rope_parameters"), *scaling = key_get(k, "rope_scaling");
    const json_t *full = json_object_get(newer, "full_attention");
    const json_t *local = json_object_get(newer, "sliding_attention");
    keys object = {newer != NULL ? newer : scaling, k->err};
    float turned = 1.0f;
    GRETA_TRY(key_positive(k, "partial_rotary_factor", 0, &turned));
    GRETA_TRY(key_positive(k, "rope_theta", 0, &c->rope.freq_base));
    if (key_get(k, "rope_local_base_freq") != NULL) {
        GRETA_TRY(key_positive(k, "rope_local_base_freq", 1, &c->rope.freq_base_local));
    }
    if (object.object != NULL && !json_is_object(object.object)) {
        return fail_key(k, newer != NULL ? "rope_parameters" : "rope_scaling", "is not an object");
    }
    if (full != NULL || local != NULL) {
        GRETA_TRY(read_rope_types(k, full, local, c));
    } else if (object.object != NULL) {
        GRETA_TRY(key_positive(&object, "rope_theta", 0, &c->rope.freq_base));
        GRETA_TRY(key_positive(&object, "partial_rotary_factor", 0, &turned));
        GRETA_TRY(read_rope_scaling(&object, k, c));
    }
    if (turned > 1.0f) {
        return fail_key(k, "partial_rotary_factor", "is above 1");
    }
    c->rope.dim = (int32_t)((double)c->head_dim * (double)turned);
    return GRETA_OK;
}

/* ---- Windows --------------------------------------------------------------------------------- */

static greta_status read_layer_types(const keys *k, const json_t *types, config *c)
{
    if (json_array_size(types) != (size_t)c->n_layer) {
        return fail_key(k, "layer_types", "is not an array with one type for each layer");
    }
    for (int32_t l = 0; l < c->n_layer; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        int is_local = type != NULL && strcmp(type, "sliding_attention") == 0;
        if (!is_local && (type == NULL || strcmp(type, "full_attention") != 0)) {
            char shown[ESCAPED_MAX];
            return error_about(k->err, GRETA_BAD_INPUT, "layer_types",
                               "layer_types[%" PRId32
                               "] is \"%s\" (full_attention, sliding_attention)",
                               l, escape(type ? type : "?", type ? strlen(type) : 1, shown));
        }
        if (is_local && c->window == 0) {
            return fail_key(k, "layer_types", "has a sliding_attention, but there is no window");
        }
        c->is_local[l] = (uint8_t)is_local;
    }
    return GRETA_OK;
}

static greta_status read_window_layers(const keys *k, const hf_class *class, config *c)
{
    const json_t *types = key_get(k, "layer_types");
    int32_t full = 0, period = 0;
    if (class->window == HF_WINDOW_ALL || class->window == HF_WINDOW_SWITCH) {
        config_window_period(c, 0);
        return GRETA_OK;
    }
    if (types != NULL) {
        return read_layer_types(k, types, c);
    }
    if (class->window == HF_WINDOW_UPPER) {
        int_key from = {"max_window_layers", &full, c->window > 0, 0, INT32_MAX};
        GRETA_TRY(key_int(k, &from));
        for (int32_t l = 0; l < c->n_layer; l++) {
            c->is_local[l] = l >= full;
        }
        return GRETA_OK;
    }
    int_key older = {"sliding_window_pattern", &period, 0, 1, LIMIT_LAYERS};
    int_key newer = {"_sliding_window_pattern", &period, 0, 1, LIMIT_LAYERS};
    GRETA_TRY(key_int(k, &older));
    GRETA_TRY(key_int(k, &newer));
    if (period > 0) {
        config_window_period(c, period);
    }
    return GRETA_OK; /* else as the architecture has it */
}

static greta_status read_window(const keys *k, const hf_class *class, config *c)
{
    int has_window = class->window != HF_WINDOW_NONE;
    const json_t *window = key_get(k, "sliding_window");
    if (class->window == HF_WINDOW_UPPER || class->window == HF_WINDOW_SWITCH) {
        has_window = 0;
        GRETA_TRY(key_bool(k, "use_sliding_window", &has_window));
    }
    c->window = 0;
    if (has_window && window != NULL) {
        if (!json_is_integer(window) || json_integer_value(window) < 1) {
            return fail_key(k, "sliding_window", "is not a whole number of at least 1");
        }
        json_int_t n = json_integer_value(window);
        c->window = n < LIMIT_CONTEXT ? (int32_t)n : LIMIT_CONTEXT;
    }
    return class->window == HF_WINDOW_NONE ? GRETA_OK : read_window_layers(k, class, c);
}

/* ---- The rest -------------------------------------------------------------------------------- */

static greta_status read_caps(const keys *k, const hf_class *class, config *c)
{
    float q = 0;
    int bidirectional = 0;
    if (strncmp(class->model_type, "gemma", 5) != 0) {
        return GRETA_OK; /* the Gemmas alone have these */
    }
    GRETA_TRY(key_positive(k, "query_pre_attn_scalar", 1, &q));
    GRETA_TRY(key_bool(k, "use_bidirectional_attention", &bidirectional));
    c->attn_scale = 1.0f / sqrtf(q); /* the formula of config.c: the same bits for q = head_dim */
    c->attn_softcap = c->logit_softcap = 0;
    GRETA_TRY(key_positive(k, "attn_logit_softcapping", 0, &c->attn_softcap));
    if (c->attn_softcap > 0 && strcmp(class->model_type, "gemma2") != 0) {
        return fail_key(k, "attn_logit_softcapping",
                        "is not supported here (null: the reference reads and ignores it)");
    }
    GRETA_TRY(key_positive(k, "final_logit_softcapping", 0, &c->logit_softcap));
    return bidirectional ? fail_key(k, "use_bidirectional_attention", "true is not supported")
                         : GRETA_OK;
}

static greta_status read_experts(const keys *k, const hf_class *class, config *c)
{
    int is_mixtral = strcmp(class->model_type, "mixtral") == 0;
    int is_qwen = strcmp(class->model_type, "qwen3_moe") == 0;
    int32_t step = 1;
    if (!is_mixtral && !is_qwen) {
        return GRETA_OK;
    }
    /* Qwen's older folders say num_experts; transformers 5 writes the name of Mixtral. */
    const char *count = is_qwen && key_get(k, "num_experts") ? "num_experts" : "num_local_experts";
    const int_key sizes[] = {
        {count, &c->n_expert, 1, 1, LIMIT_EXPERTS},
        {"num_experts_per_tok", &c->n_expert_used, 1, 1, LIMIT_EXPERTS_USED},
        {is_qwen ? "moe_intermediate_size" : "intermediate_size", &c->n_ff_expert, 1, 1, LIMIT_FF},
        {"decoder_sparse_step", &step, 0, 1, 1},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        GRETA_TRY(key_int(k, &sizes[i]));
    }
    if (json_array_size(key_get(k, "mlp_only_layers")) > 0) {
        return fail_key(k, "mlp_only_layers", "is not supported (all layers have experts)");
    }
    c->expert_weights_norm = is_mixtral;
    return is_qwen ? key_bool(k, "norm_topk_prob", &c->expert_weights_norm) : GRETA_OK;
}

static greta_status refuse_quantised(const json_t *root, greta_error *err)
{
    keys k = {json_object_get(root, "quantization_config"), err};
    const char *method = "?";
    char shown[ESCAPED_MAX];
    if (k.object == NULL || json_is_null(k.object)) {
        return GRETA_OK;
    }
    GRETA_TRY(key_string(&k, "quant_method", &method));
    error_about(err, GRETA_BAD_INPUT, "quantization_config",
                "quantised checkpoint (\"%s\") is not supported (F32, F16, BF16 weights)",
                escape(method, strlen(method), shown));
    error_hint(err, "quantised weights are read from GGUF files");
    return GRETA_BAD_INPUT;
}

static greta_status read_all(const hf_folder *f, config *c, greta_error *err)
{
    keys k = {f->text, err};
    GRETA_TRY(refuse_quantised(f->config, err));
    GRETA_TRY(read_sizes(&k, f->class, c));
    GRETA_TRY(config_defaults(c, err));
    GRETA_TRY(key_positive(&k, "rms_norm_eps", 1, &c->rms_eps));
    GRETA_TRY(read_activation(&k, f->class, c));
    GRETA_TRY(read_rope(&k, c));
    GRETA_TRY(read_window(&k, f->class, c));
    GRETA_TRY(read_caps(&k, f->class, c));
    GRETA_TRY(read_experts(&k, f->class, c));
    config_derive(c);
    return config_check(c, err);
}

greta_status hf_config(const hf_folder *f, config *c, greta_error *err)
{
    const hf_class *class = NULL;
    memset(c, 0, sizeof *c);
    greta_status status = f->class ? GRETA_OK : hf_class_find(f->config, &class, err);
    if (status == GRETA_OK) {
        snprintf(c->arch, sizeof c->arch, "%s", f->class->arch);
        snprintf(c->name, sizeof c->name, "%s", f->name);
        status = read_all(f, c, err);
    }
    error_file(status == GRETA_OK ? NULL : err, f->config_file.path);
    return status;
}

/* ---- Ends ------------------------------------------------------------------------------------ */

greta_status hf_ends(const hf_folder *f,
                     greta_status (*each)(void *user, int64_t id, greta_error *err), void *user,
                     greta_error *err)
{
    static const char name[] = "eos_token_id";
    const json_t *ids = json_object_get(f->generation, name);
    if (ids == NULL || json_is_null(ids)) {
        ids = json_object_get(f->text, name);
    }
    if (ids == NULL || json_is_null(ids)) {
        ids = json_object_get(f->config, name);
    }
    size_t n = json_is_array(ids) ? json_array_size(ids) : ids != NULL && !json_is_null(ids);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(ids) ? json_array_get(ids, i) : ids;
        if (!json_is_integer(id)) {
            return error_about(err, GRETA_BAD_INPUT, name, "%s is not a token id or a list", name);
        }
        GRETA_TRY(each(user, json_integer_value(id), err));
    }
    return GRETA_OK;
}
