/* hf_names.c - the classes of transformers that are read, and their tensors' names: tables.
 *
 * A row of `classes` is a class as config.json's `architectures` spells it. Its names are lists of
 * pairs, the checkpoint's and GGUF's (those of llama.cpp's converter, gguf-py/gguf/
 * tensor_mapping.py), with '#' for the layer and '*' for the expert. Defaults are those of the
 * class's configuration in transformers 4.57 (models/<type>/configuration_<type>.py), and only of
 * keys that published checkpoints leave out.
 *
 * To add a class: a row here; if it is a new architecture, arch.h says what that takes.
 */
#include "model/hf.h"

#include "base/limits.h"
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

#define LAYER "layers.#."

static const hf_name names_model[] = {
    {"embed_tokens.weight", "token_embd.weight", 0},
    {"norm.weight", "output_norm.weight", HF_NORM},
    {"lm_head.weight", "output.weight", HF_HEAD},
    {LAYER "input_layernorm.weight", "attn_norm.weight", HF_NORM},
    {LAYER "self_attn.o_proj.weight", "attn_output.weight", 0},
    {LAYER "self_attn.rotary_emb.inv_freq", NULL, HF_IGNORED}, /* a buffer that old ones saved */
    {NULL, NULL, 0},
};

static const hf_name names_qkv[] = {
    {LAYER "self_attn.q_proj.weight", "attn_q.weight", 0},
    {LAYER "self_attn.k_proj.weight", "attn_k.weight", 0},
    {LAYER "self_attn.v_proj.weight", "attn_v.weight", 0},
    {LAYER "self_attn.q_proj.bias", "attn_q.bias", HF_F32},
    {LAYER "self_attn.k_proj.bias", "attn_k.bias", HF_F32},
    {LAYER "self_attn.v_proj.bias", "attn_v.bias", HF_F32},
    {LAYER "self_attn.q_norm.weight", "attn_q_norm.weight", HF_NORM},
    {LAYER "self_attn.k_norm.weight", "attn_k_norm.weight", HF_NORM},
    {NULL, NULL, 0},
};

static const hf_name names_ffn[] = {
    {LAYER "mlp.gate_proj.weight", "ffn_gate.weight", 0},
    {LAYER "mlp.up_proj.weight", "ffn_up.weight", 0},
    {LAYER "mlp.down_proj.weight", "ffn_down.weight", 0},
    {NULL, NULL, 0},
};

/* The same name is two different norms: before the feed-forward block, or behind attention. */
static const hf_name names_norm_before[] = {
    {LAYER "post_attention_layernorm.weight", "ffn_norm.weight", HF_NORM},
    {NULL, NULL, 0},
};

static const hf_name names_norm_around[] = {
    {LAYER "post_attention_layernorm.weight", "post_attention_norm.weight", HF_NORM},
    {LAYER "pre_feedforward_layernorm.weight", "ffn_norm.weight", HF_NORM},
    {LAYER "post_feedforward_layernorm.weight", "post_ffw_norm.weight", HF_NORM},
    {NULL, NULL, 0},
};

static const hf_name names_fused[] = {
    {LAYER "self_attn.qkv_proj.weight", "attn_qkv.weight", 0},
    {LAYER "mlp.gate_up_proj.weight", "ffn_up.weight", 0},
    {LAYER "mlp.down_proj.weight", "ffn_down.weight", 0},
    {NULL, NULL, 0},
};

/* Experts one by one, as all published checkpoints have them, or in one tensor for all, as newer
 * transformers hold them. */
static const hf_name names_experts[] = {
    {LAYER "mlp.gate.weight", "ffn_gate_inp.weight", 0},
    {LAYER "mlp.experts.*.gate_proj.weight", "ffn_gate.*.weight", 0},
    {LAYER "mlp.experts.*.up_proj.weight", "ffn_up.*.weight", 0},
    {LAYER "mlp.experts.*.down_proj.weight", "ffn_down.*.weight", 0},
    {LAYER "mlp.experts.gate_up_proj", "ffn_gate.*.weight", HF_EXPERTS | HF_GATE_UP},
    {LAYER "mlp.experts.down_proj", "ffn_down.*.weight", HF_EXPERTS},
    {NULL, NULL, 0},
};

static const hf_name names_experts_mixtral[] = {
    {LAYER "block_sparse_moe.gate.weight", "ffn_gate_inp.weight", 0},
    {LAYER "block_sparse_moe.experts.*.w1.weight", "ffn_gate.*.weight", 0},
    {LAYER "block_sparse_moe.experts.*.w2.weight", "ffn_down.*.weight", 0},
    {LAYER "block_sparse_moe.experts.*.w3.weight", "ffn_up.*.weight", 0},
    {NULL, NULL, 0},
};

/* What stands before the language model where there is an image encoder beside it. */
static const hf_name names_vision[] = {
    {"vision_tower.", NULL, HF_IGNORED},
    {"multi_modal_projector.", NULL, HF_IGNORED},
    {"model.vision_tower.", NULL, HF_IGNORED},
    {"model.multi_modal_projector.", NULL, HF_IGNORED},
    {NULL, NULL, 0},
};

#define GEMMA3_DEFAULTS                                                                            \
    "{\"vocab_size\": 262208, \"hidden_size\": 2304, \"intermediate_size\": 9216,"                 \
    " \"num_hidden_layers\": 26, \"num_attention_heads\": 8, \"num_key_value_heads\": 4,"          \
    " \"head_dim\": 256, \"hidden_activation\": \"gelu_pytorch_tanh\","                            \
    " \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0,"     \
    " \"query_pre_attn_scalar\": 256, \"sliding_window\": 4096,"                                   \
    " \"rope_local_base_freq\": 10000.0}"

static const hf_class classes[] = {
    {.name = "LlamaForCausalLM",
     .model_type = "llama",
     .arch = "llama",
     .window = HF_WINDOW_NONE,
     .activation_key = "hidden_act",
     .names = {names_model, names_qkv, names_norm_before, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "MistralForCausalLM",
     .model_type = "mistral",
     .arch = "llama",
     .window = HF_WINDOW_ALL,
     .activation_key = "hidden_act",
     .names = {names_model, names_qkv, names_norm_before, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "MixtralForCausalLM",
     .model_type = "mixtral",
     .arch = "llama",
     .window = HF_WINDOW_ALL,
     .activation_key = "hidden_act",
     .defaults = "{\"rope_theta\": 1000000.0}",
     .names = {names_model, names_qkv, names_norm_before, names_experts, names_experts_mixtral},
     .prefix = {"model.", ""}},
    {.name = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .arch = "qwen2",
     .window = HF_WINDOW_UPPER,
     .activation_key = "hidden_act",
     .names = {names_model, names_qkv, names_norm_before, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .arch = "qwen3",
     .window = HF_WINDOW_UPPER,
     .activation_key = "hidden_act",
     .defaults = "{\"head_dim\": 128}",
     .names = {names_model, names_qkv, names_norm_before, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .arch = "qwen3moe",
     .window = HF_WINDOW_SWITCH,
     .activation_key = "hidden_act",
     .defaults = "{\"norm_topk_prob\": false}",
     .names = {names_model, names_qkv, names_norm_before, names_experts},
     .prefix = {"model.", ""}},
    {.name = "Gemma2ForCausalLM",
     .model_type = "gemma2",
     .arch = "gemma2",
     .window = HF_WINDOW_TYPES,
     .ties = 1,
     .activation_key = "hidden_activation",
     .defaults = "{\"head_dim\": 256, \"hidden_activation\": \"gelu_pytorch_tanh\","
                 " \"query_pre_attn_scalar\": 256, \"sliding_window\": 4096,"
                 " \"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0}",
     .names = {names_model, names_qkv, names_norm_around, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Gemma3ForCausalLM",
     .model_type = "gemma3_text",
     .arch = "gemma3",
     .window = HF_WINDOW_TYPES,
     .ties = 1,
     .activation_key = "hidden_activation",
     .defaults = GEMMA3_DEFAULTS,
     .names = {names_model, names_qkv, names_norm_around, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Gemma3ForConditionalGeneration",
     .model_type = "gemma3",
     .arch = "gemma3",
     .window = HF_WINDOW_TYPES,
     .ties = 1,
     .activation_key = "hidden_activation",
     .defaults = GEMMA3_DEFAULTS,
     .names = {names_model, names_qkv, names_norm_around, names_ffn, names_vision},
     .prefix = {"language_model.model.", "model.language_model.", "language_model."}},
    {.name = "Olmo2ForCausalLM",
     .model_type = "olmo2",
     .arch = "olmo2",
     .window = HF_WINDOW_NONE,
     .activation_key = "hidden_act",
     .names = {names_model, names_qkv, names_norm_around, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Olmo3ForCausalLM",
     .model_type = "olmo3",
     .arch = "olmo2",
     .window = HF_WINDOW_TYPES,
     .activation_key = "hidden_act",
     .defaults = "{\"sliding_window\": 4096, \"rope_theta\": 500000.0}",
     .names = {names_model, names_qkv, names_norm_around, names_ffn},
     .prefix = {"model.", ""}},
    {.name = "Phi3ForCausalLM",
     .model_type = "phi3",
     .arch = "phi3",
     .window = HF_WINDOW_ALL,
     .activation_key = "hidden_act",
     .names = {names_model, names_fused, names_norm_before},
     .prefix = {"model.", ""}},
};

#define N_CLASS (sizeof classes / sizeof classes[0])

/* ---- Classes --------------------------------------------------------------------------------- */

/* Of which this build has the architecture. */
static greta_status fail_class(const char *name, greta_error *err)
{
    char shown[ESCAPED_MAX], list[256];
    size_t at = 0;
    for (size_t i = 0; i < N_CLASS; i++) {
        if (arch_find(classes[i].arch) != NULL) {
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at > 0 ? ", " : "",
                                   classes[i].name);
            GRETA_ASSERT(at < sizeof list);
        }
    }
    error_set(err, GRETA_BAD_INPUT, "\"%.60s\" is not supported (%s)",
              escape(name, strlen(name), shown), list);
    error_subject(err, "architectures");
    return GRETA_BAD_INPUT;
}

greta_status hf_class_find(const json_t *root, const hf_class **out, greta_error *err)
{
    const json_t *list = json_object_get(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *type = json_string_value(json_object_get(root, "model_type"));
    *out = NULL;
    for (size_t i = 0; i < N_CLASS; i++) {
        const char *wanted = name != NULL ? name : type;
        const char *has = name != NULL ? classes[i].name : classes[i].model_type;
        if (wanted != NULL && strcmp(wanted, has) == 0 && arch_find(classes[i].arch) != NULL) {
            *out = &classes[i];
            return GRETA_OK;
        }
    }
    return fail_class(name != NULL ? name : type != NULL ? type : "", err);
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* Reads a number without leading zeros and below `limit`; NULL: there is none. */
static const char *read_number(const char *text, int32_t limit, int32_t *number)
{
    const char *at = text;
    int32_t value = 0;
    while (*at >= '0' && *at <= '9' && value < limit) {
        value = 10 * value + (*at++ - '0');
    }
    if (at == text || value >= limit || (*text == '0' && at != text + 1)) {
        return NULL;
    }
    *number = value;
    return at;
}

static bool name_matches(const char *pattern, const char *name, int32_t *layer, int32_t *expert)
{
    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '#') {
            name = read_number(name, LIMIT_LAYERS, layer);
        } else if (*pattern == '*') {
            name = read_number(name, LIMIT_EXPERTS, expert);
        } else {
            name = *name == *pattern ? name + 1 : NULL;
        }
        if (name == NULL) {
            return false;
        }
    }
    return *name == '\0';
}

static const hf_name *find_in(const hf_name *list, const char *name, int32_t *layer,
                              int32_t *expert)
{
    for (; list->hf != NULL; list++) {
        size_t n = strlen(list->hf);
        bool is_prefix = list->hf[n - 1] == '.';
        *layer = *expert = -1;
        if (is_prefix ? strncmp(name, list->hf, n) == 0
                      : name_matches(list->hf, name, layer, expert)) {
            return list;
        }
    }
    return NULL;
}

const hf_name *hf_name_find(const hf_class *class, const char *name, int32_t *layer,
                            int32_t *expert)
{
    static const char head[] = "lm_head.weight";
    for (size_t i = 0; i < sizeof class->prefix / sizeof class->prefix[0]; i++) {
        const char *prefix = class->prefix[i];
        size_t n = prefix != NULL ? strlen(prefix) : 0;
        if (prefix == NULL || (strncmp(name, prefix, n) != 0 && strcmp(name, head) != 0)) {
            continue;
        }
        const char *rest = strcmp(name, head) == 0 ? name : name + n;
        for (size_t k = 0; k < HF_NAMES_MAX && class->names[k] != NULL; k++) {
            const hf_name *found = find_in(class->names[k], rest, layer, expert);
            if (found != NULL && found->hf[strlen(found->hf) - 1] != '.') {
                return found;
            }
        }
    }
    for (size_t k = 0; k < HF_NAMES_MAX && class->names[k] != NULL; k++) {
        const hf_name *found = find_in(class->names[k], name, layer, expert);
        if (found != NULL && (found->flags & HF_IGNORED)) {
            return found;
        }
    }
    return NULL;
}
