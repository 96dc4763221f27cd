/* test_hf.c - Hugging Face folders: the tables of names, and config.json that is not what it was.
 *
 * What the numbers and names mean is held against GGUF files by tests/py/test_hf_folder.py. Here:
 * every tensor that an architecture needs has a name in each class that uses it, names are matched
 * to the letter, and mutations of a config.json that works give an answer or a refusal.
 */
#include "base/limits.h"
#include "model/arch.h"
#include "model/hf.h"
#include "splice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The classes this build has, by the names that transformers gives them. */
static const char *const class_names[] = {
    "LlamaForCausalLM",  "MistralForCausalLM", "MixtralForCausalLM",
    "Qwen2ForCausalLM",  "Qwen3ForCausalLM",   "Qwen3MoeForCausalLM",
    "Gemma2ForCausalLM", "Gemma3ForCausalLM",  "Gemma3ForConditionalGeneration",
    "Olmo2ForCausalLM",  "Olmo3ForCausalLM",   "Phi3ForCausalLM",
};
#define N_CLASS (sizeof class_names / sizeof class_names[0])

static const hf_class *class_of(const char *name)
{
    const hf_class *class = NULL;
    json_t *root = json_pack("{s:[s]}", "architectures", name);
    assert_int_equal(hf_class_find(root, &class, NULL), GRETA_OK);
    json_decref(root);
    return class;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

/* Whether some name of the class becomes this tensor of a layer. */
static bool is_named(const hf_class *class, const tensor_rule *rule)
{
    char one_by_one[64];
    const char *exps = strstr(rule->suffix, "_exps");
    snprintf(one_by_one, sizeof one_by_one, "%.*s.*.weight", exps ? (int)(exps - rule->suffix) : 0,
             rule->suffix);
    const char *wanted = rule->flags & TENSOR_EXPERTS ? one_by_one : rule->suffix;
    for (size_t k = 0; k < HF_NAMES_MAX && class->names[k] != NULL; k++) {
        for (const hf_name *n = class->names[k]; n->hf != NULL; n++) {
            if (n->gguf != NULL && strcmp(n->gguf, wanted) == 0) {
                return true;
            }
        }
    }
    return false;
}

static void test_every_tensor_has_a_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CLASS; i++) {
        const hf_class *class = class_of(class_names[i]);
        const architecture *a = arch_find(class->arch);
        bool has_experts = strstr(class->name, "Moe") || strstr(class->name, "Mixtral");
        unsigned unfit = has_experts ? TENSOR_DENSE : TENSOR_MOE;
        size_t n = 0;
        for (int l = 0; l < TENSOR_LISTS_MAX && a->tensor[l] != NULL; l++) {
            for (const tensor_rule *rule = a->tensor[l]; rule->suffix != NULL; rule++) {
                if (!(rule->flags & unfit) && !is_named(class, rule)) {
                    fail_msg("%s: no name becomes %s", class->name, rule->suffix);
                }
                n++;
            }
        }
        assert_true(n > 5);
    }
}

static void check_name(const char *class, const char *name, const char *becomes, int32_t layer,
                       int32_t expert)
{
    int32_t l, e;
    const hf_name *found = hf_name_find(class_of(class), name, &l, &e);
    if (becomes == NULL) {
        assert_null(found);
        return;
    }
    assert_non_null(found);
    assert_string_equal(found->gguf, becomes);
    assert_int_equal(l, layer);
    assert_int_equal(e, expert);
}

static void test_names(void **state)
{
    (void)state;
    static const char llama[] = "LlamaForCausalLM", moe[] = "Qwen3MoeForCausalLM";
    static const char both[] = "Gemma3ForConditionalGeneration";
    check_name(llama, "model.embed_tokens.weight", "token_embd.weight", -1, -1);
    check_name(llama, "embed_tokens.weight", "token_embd.weight", -1, -1);
    check_name(llama, "lm_head.weight", "output.weight", -1, -1);
    check_name(llama, "model.layers.0.mlp.up_proj.weight", "ffn_up.weight", 0, -1);
    check_name(llama, "model.layers.1023.mlp.up_proj.weight", "ffn_up.weight", 1023, -1);
    check_name(llama, "model.layers.1024.mlp.up_proj.weight", NULL, 0, 0);
    check_name(llama, "model.layers.99999999999999999999.mlp.up_proj.weight", NULL, 0, 0);
    check_name(llama, "model.layers.00.mlp.up_proj.weight", NULL, 0, 0);
    check_name(llama, "model.layers..mlp.up_proj.weight", NULL, 0, 0);
    check_name(llama, "model.layers.-1.mlp.up_proj.weight", NULL, 0, 0);
    check_name(llama, "model.layers.1.mlp.up_proj.weight.", NULL, 0, 0);
    check_name(llama, "model.layers.1.mlp.up_proj.weigh", NULL, 0, 0);
    check_name(llama, "model.model.norm.weight", NULL, 0, 0);
    check_name(llama, "vision_tower.a", NULL, 0, 0);
    check_name(llama, "", NULL, 0, 0);
    check_name(moe, "model.layers.7.mlp.experts.12.down_proj.weight", "ffn_down.*.weight", 7, 12);
    check_name(moe, "model.layers.7.mlp.experts.1024.down_proj.weight", NULL, 0, 0);
    check_name(moe, "model.layers.7.mlp.gate.weight", "ffn_gate_inp.weight", 7, -1);
    check_name(both, "language_model.model.norm.weight", "output_norm.weight", -1, -1);
    check_name(both, "model.language_model.norm.weight", "output_norm.weight", -1, -1);
    check_name(both, "language_model.lm_head.weight", "output.weight", -1, -1);
    check_name(both, "model.norm.weight", NULL, 0, 0);
    int32_t l, e;
    assert_true(hf_name_find(class_of(both), "model.vision_tower.a.b", &l, &e)->flags & HF_IGNORED);
}

static void test_classes(void **state)
{
    (void)state;
    greta_error err = {0};
    const hf_class *class = NULL;
    json_t *root = json_pack("{s:[s], s:s}", "architectures", "T5Model", "model_type", "llama");
    assert_int_equal(hf_class_find(root, &class, &err), GRETA_BAD_INPUT);
    for (size_t i = 0; i < N_CLASS; i++) {
        assert_non_null(strstr(err.message, class_names[i]));
    }
    json_object_del(root, "architectures");
    assert_int_equal(hf_class_find(root, &class, NULL), GRETA_OK);
    assert_string_equal(class->name, "LlamaForCausalLM");
    json_decref(root);
}

/* ---- Mutations ------------------------------------------------------------------------------- */

static char folder[] = "/tmp/greta-test-hf-XXXXXX";

static void put_file(const char *name, const char *bytes, size_t n)
{
    char path[96];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* Two tensors and no more: a model that opens is not the matter here. */
static void put_weights(void)
{
    char file[8 + 256] = {0};
    int n = snprintf(file + 8, 256,
                     "{\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[8],\"data_offsets\":"
                     "[0,16]},\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"F32\","
                     "\"shape\":[1,2],\"data_offsets\":[16,24]}}");
    file[0] = (char)n;
    char whole[8 + 256 + 24] = {0};
    memcpy(whole, file, (size_t)n + 8);
    put_file("model.safetensors", whole, (size_t)n + 8 + 24);
}

static const char sample[] =
    "{\"architectures\":[\"Gemma3ForCausalLM\"],\"model_type\":\"gemma3_text\",\"hidden_size\":8,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,"
    "\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":1e-6,\"sliding_window\":4,"
    "\"max_position_embeddings\":64,\"layer_types\":[\"full_attention\",\"sliding_attention\"],"
    "\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":2.0,\"short_factor\":[1,1],"
    "\"long_factor\":[1,2],\"original_max_position_embeddings\":32},\"eos_token_id\":[1,2]}";

/* Opens what the bytes make of the folder, and looks at all of it. */
static greta_status touch(greta_error *err)
{
    hf_folder *f = NULL;
    config *cfg = malloc(sizeof *cfg);
    weight *w = NULL;
    size_t n = 0;
    char *text = NULL;
    greta_status status = hf_open(folder, &f, err);
    if (status == GRETA_OK) {
        assert_int_equal(hf_describe(f, 1, &text, NULL), GRETA_OK);
        greta_free(text);
        status = hf_config(f, cfg, err);
    }
    if (status == GRETA_OK) {
        status = hf_weights(f, cfg, &w, &n, err);
    }
    for (size_t i = 0; i < n; i++) {
        volatile uint8_t last = w[i].data[w[i].n_row * w[i].row_bytes - 1];
        (void)last;
    }
    free(w);
    free(cfg);
    hf_close(f);
    return status;
}

static void test_sample_opens(void **state)
{
    (void)state;
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    put_weights();
    put_file("config.json", sample, sizeof sample - 1);
    if (touch(&err) != GRETA_OK) {
        fail_msg("refused: %s", greta_error_line(&err, line));
    }
}

static void test_mutations(void **state)
{
    (void)state;
    static const char *const piece[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\"",
                                        "0",
                                        "-1",
                                        "1e999",
                                        "9223372036854775807",
                                        "1.5",
                                        "null",
                                        "true",
                                        "\"full_attention\"",
                                        "\"llama3\"",
                                        "\"linear\"",
                                        "\"yarn\"",
                                        "\"Phi3ForCausalLM\"",
                                        "\"MixtralForCausalLM\"",
                                        "\"text_config\":{},",
                                        "\"rope_parameters\":{},",
                                        "\"quantization_config\":1,",
                                        "\"num_experts\":3,",
                                        "\\u0000",
                                        "\xff"};
    const splice_source source = {
        sample, sizeof sample - 1, piece, sizeof piece / sizeof piece[0], 20, 2};
    size_t n_open = 0, n_refused = 0;
    put_weights();
    for (uint64_t round = 0; round < splice_rounds(1000); round++) {
        char text[2048];
        size_t n = splice(&source, round, text);
        put_file("config.json", text, n);
        greta_error err = {0};
        greta_status status = touch(&err);
        assert_true(status == GRETA_OK || status == GRETA_BAD_INPUT);
        assert_int_equal(err.code, status);
        n_open += status == GRETA_OK;
        n_refused += status != GRETA_OK;
    }
    assert_true(n_open > 5 && n_refused > 300);
}

static int folder_begin(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int folder_end(void **state)
{
    char path[96];
    (void)state;
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tensor_has_a_name),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_sample_opens),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
