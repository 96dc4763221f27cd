/* test_two_models.c - compare of traces of two models: the same weights in two types are policy at
 * the ops that read them, a fault planted in either run is named and confirmed beside that policy,
 * and weights that no rounding explains are named by tensor.
 *
 * mkmodel --rounded writes one model in several types; its blocks are those of the gguf package
 * (tests/py/test_mkmodel.py).
 */
#include "sites_rig.h"

#define SHAPE "--shape tiny-32 --layers 3 --vocab 500 --ff 128 --rounded "

typedef struct two_models {
    greta_model *of[SIDE_COUNT];
    char file[SIDE_COUNT][TINY_PATH];
    char trace[SIDE_COUNT][TINY_PATH];
} two_models;

static void models_open(two_models *t, const char *a, const char *b)
{
    const char *const options[SIDE_COUNT] = {a, b};
    greta_error err = {0};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        char words[TINY_PATH];
        snprintf(words, sizeof words, SHAPE "%s", options[s]);
        assert_true(tiny_model(s == SIDE_A ? "two-a" : "two-b", words, t->file[s]));
        snprintf(t->trace[s], TINY_PATH, "%s", path_of(s == SIDE_A ? "two-a" : "two-b"));
        check(greta_model_open(t->file[s], &t->of[s], &err), &err);
    }
}

static void models_close(two_models *t)
{
    greta_model_release(t->of[SIDE_A]);
    greta_model_release(t->of[SIDE_B]);
}

static void run_both(const two_models *t, const traced_run run[SIDE_COUNT])
{
    greta_model *own = model;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        model = t->of[s];
        run_traced(&run[s], t->trace[s]);
    }
    model = own;
}

static const traced_run healthy = {GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "all,cache", -1, NULL, -1};

static json_t *compared(const two_models *t, greta_status expected)
{
    const greta_traced side_of[2] = {{t->trace[0], t->of[0]}, {t->trace[1], t->of[1]}};
    greta_error err = {0};
    greta_status verdict;
    char *text, *human;
    check(greta_compare_models(side_of, NULL, 1, &text, &verdict, &err), &err);
    if (verdict != expected) {
        fail_msg("verdict %d, expected %d: %.1500s", (int)verdict, (int)expected, text);
    }
    if (volume_is_whole()) {
        check(greta_compare_models(side_of, NULL, 0, &human, &verdict, &err), &err);
        greta_free(human);
        assert_int_equal(verdict, expected);
    }
    return parsed(text);
}

/* How many tensors stand in a relation. */
static size_t weights_in(json_t *root, const char *relation)
{
    json_t *list = json_object_get(root, "weights");
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        n += strcmp(text_at(json_array_get(list, i), "relation"), relation) == 0;
    }
    return n;
}

/* ---- Types are policy ------------------------------------------------------------------------ */

static double norm_of(json_t *line, const char *name)
{
    json_t *terms = json_object_get(line, "terms");
    return json_real_value(json_object_get(json_object_get(terms, name), "norm"));
}

/* Every told op that reads a matrix is policy, most of it by its weights; no other op is. */
static void policy_check(json_t *root)
{
    json_t *ops = json_object_get(root, "ops");
    size_t n_policy = 0;
    for (size_t i = 0; i < json_array_size(ops); i++) {
        json_t *line = json_array_get(ops, i);
        assert_false(json_is_true(json_object_get(line, "is_fault")));
        if (!json_is_true(json_object_get(line, "is_policy"))) {
            continue;
        }
        n_policy++;
        const char *kind = text_at(line, "op");
        assert_true(!strcmp(kind, "matmul") || !strcmp(kind, "embed") ||
                    !strcmp(kind, "expert_matmul"));
        assert_string_equal(text_at(line, "bucket"), "P_precision_policy");
        assert_string_equal(text_at(line, "state"), "CONFIRMED");
        assert_non_null(strstr(text_at(line, "phrase"), "weights "));
        double all = norm_of(line, "policy"), rest = norm_of(line, "policy_contract");
        double weights = norm_of(line, "policy_weights");
        assert_true(weights > 0 && all > 0 && weights <= all + rest && all <= weights + rest);
        assert_true(norm_of(line, "introduced_a") == 0 && norm_of(line, "introduced_b") == 0);
    }
    assert_true(n_policy >= 8); /* embed, q, k, v, wo_out, gate, up, mlp_out; logits */
    assert_string_equal(text_at(json_array_get(ops, 0), "stage"), "embed");
    assert_true(json_is_true(json_object_get(json_array_get(ops, 0), "is_policy")));
}

static void types_are_policy(void **state)
{
    (void)state;
    static const char *const pairs[][SIDE_COUNT] = {
        {"--type Q4_0", "--type F16"},
        {"--type BF16", "--type Q5_1"},
        {"--type Q8_0", "--type F32"},
        {"--type Q4_1 --embd-type Q4_1", "--type Q5_0"},
        {"--type F32", "--type F16"},
        {"--arch gemma3 --type Q4_0", "--arch gemma3 --type F16"},
        {"--arch phi3 --type Q8_0", "--arch phi3 --type BF16"},
        {"--arch qwen2 --type Q5_0", "--arch qwen2 --type F16"},
        {"--arch qwen3moe --ff-expert 96 --type Q4_0", "--arch qwen3moe --ff-expert 96 --type F16"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i += volume_is_whole() ? 1 : 5) {
        two_models t;
        const traced_run run[SIDE_COUNT] = {healthy, healthy};
        models_open(&t, pairs[i][SIDE_A], pairs[i][SIDE_B]);
        run_both(&t, run);
        json_t *root = compared(&t, GRETA_OK), *judged = json_object_get(root, "judged");
        policy_check(root);
        assert_int_equal(weights_in(root, "other") + weights_in(root, "searched"), 0);
        assert_true(weights_in(root, "rounded") >= 22);
        assert_true(json_real_value(json_object_get(judged, "gap_max")) <= ldexp(1, -45));
        assert_true(json_real_value(json_object_get(judged, "forward_passes")) <= 4);
        assert_int_equal(whole_at(judged, "replayed"), whole_at(judged, "records"));
        assert_int_equal(whole_at(judged, "healthy"), whole_at(judged, "records"));
        assert_true(json_is_true(
            json_object_get(json_object_get(root, "op_canaries"), "all_found")));
        json_decref(root);
        models_close(&t);
    }
}

/* ---- Faults beside it ------------------------------------------------------------------------ */

static void faults_are_confirmed(void **state)
{
    (void)state;
    static const struct {
        const char *name, *stage, *bucket;
    } planted[] = {
        {"ffn_norm-eps-plus-1e-3-hidden", "ffn_norm", "B_norm_stats"},
        {"rope-base-500000", "k_rope", "E_position"},
        {"attention-keys-of-position-before", "attn_out", "F_kv_state"},
        {"weights-of-other-layer", "v", "C_weight_layout"},
        {"activation-relu", "act", "D_kernel_math"},
        {"mask-self-hidden", "attn_out", "G_mask"},
        {"ffn_norm-reads-previous-position", "ffn_norm", "A_input_selection"},
    };
    static const char *const pairs[][SIDE_COUNT] = {{"--type Q4_0", "--type F16"},
                                                    {"--type F32", "--type Q8_0"}};
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k += volume_is_whole() ? 1 : 2) {
        two_models t;
        models_open(&t, pairs[k][SIDE_A], pairs[k][SIDE_B]);
        for (size_t i = 0; i < sizeof planted / sizeof *planted; i += (size_t)volume_of(1, 3)) {
            for (side s = SIDE_A; s < SIDE_COUNT; s++) {
                if (!volume_is_whole() && s != (side)(i % 2)) {
                    continue;
                }
                traced_run run[SIDE_COUNT] = {healthy, healthy};
                run[s].fault = fault_find(planted[i].name);
                run[s].layer = 1;
                assert_non_null(run[s].fault);
                run_both(&t, run);
                json_t *root = compared(&t, GRETA_FAULT), *line = first_fault(root);
                json_t *sides = json_object_get(line, "wrong_sides");
                assert_string_equal(text_at(line, "stage"), planted[i].stage);
                assert_int_equal(whole_at(line, "layer"), 1);
                assert_int_equal(whole_at(line, "position"), 17);
                assert_string_equal(text_at(line, "bucket"), planted[i].bucket);
                assert_string_equal(text_at(line, "state"), "CONFIRMED");
                assert_int_equal(json_array_size(sides), 1);
                assert_string_equal(json_string_value(json_array_get(sides, 0)),
                                    s == SIDE_A ? "a" : "b");
                json_decref(root);
            }
        }
        models_close(&t);
    }
}

/* ---- Other weights --------------------------------------------------------------------------- */

/* Where a tensor's data lies in the file of a model. */
static long offset_of(const greta_model *m, const char *tensor)
{
    const weight *w = model_weight(m, tensor);
    assert_non_null(w);
    return (long)(w->data - (const uint8_t *)m->mapped[0].data);
}

static void file_alter(const char *path, long offset, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, offset, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* B is opened again with `n` of its bytes changed. */
static void model_alter(two_models *t, const char *tensor, long at, const void *bytes, size_t n)
{
    greta_error err = {0};
    long offset = offset_of(t->of[SIDE_B], tensor) + at;
    greta_model_release(t->of[SIDE_B]);
    file_alter(t->file[SIDE_B], offset, bytes, n);
    check(greta_model_open(t->file[SIDE_B], &t->of[SIDE_B], &err), &err);
}

static void another_model_is_told(void **state)
{
    (void)state;
    two_models t;
    const traced_run run[SIDE_COUNT] = {healthy, healthy};
    models_open(&t, "--type Q4_0", "--type F16 --seed 2");
    run_both(&t, run);
    json_t *root = compared(&t, GRETA_FAULT), *line = first_fault(root);
    assert_string_equal(text_at(line, "stage"), "embed");
    assert_string_equal(text_at(line, "bucket"), "V_weights_differ");
    assert_int_equal(json_array_size(json_object_get(line, "wrong_sides")), 0);
    assert_int_equal(weights_in(root, "other"), json_array_size(json_object_get(root, "weights")));
    assert_int_equal(whole_at(json_object_get(root, "judged"), "policy"), 0);
    json_decref(root);
    models_close(&t);
}

/* One row of one matrix in another's place, and behind it a fault of run A: both are named. */
static void one_other_tensor_is_named(void **state)
{
    (void)state;
    const char *name = "blk.1.attn_output.weight";
    two_models t;
    traced_run run[SIDE_COUNT] = {healthy, healthy};
    models_open(&t, "--type Q4_0", "--type F16");
    const weight *w = model_weight(t.of[SIDE_B], name);
    uint8_t row[4096];
    assert_true((size_t)w->row_bytes <= sizeof row);
    memcpy(row, weight_row(w, 3), (size_t)w->row_bytes);
    model_alter(&t, name, 0, row, (size_t)w->row_bytes);
    run[SIDE_A].fault = fault_find("activation-relu");
    run[SIDE_A].layer = 2;
    run_both(&t, run);
    json_t *root = compared(&t, GRETA_FAULT), *line = first_fault(root);
    assert_string_equal(text_at(line, "stage"), "wo_out");
    assert_int_equal(whole_at(line, "layer"), 1);
    assert_string_equal(text_at(line, "bucket"), "V_weights_differ");
    assert_string_equal(text_at(line, "state"), "CONFIRMED");
    assert_non_null(strstr(text_at(line, "phrase"), name));
    assert_int_equal(weights_in(root, "other"), 1);
    size_t n_fault = 0;
    json_t *ops = json_object_get(root, "ops");
    for (size_t i = 0; i < json_array_size(ops); i++) {
        json_t *at = json_array_get(ops, i);
        if (json_is_true(json_object_get(at, "is_fault"))) {
            assert_string_equal(text_at(at, "stage"), n_fault == 0 ? "wo_out" : "act");
            n_fault++;
        }
    }
    assert_int_equal(n_fault, 2); /* the tensor once, whatever the tokens */
    json_decref(root);
    models_close(&t);
}

/* A value a step away is what a search for scales may do, and is said; twenty steps are not. */
static void a_searched_scale_is_told(void **state)
{
    (void)state;
    const char *name = "blk.1.ffn_gate.weight";
    static const float steps[] = {1, 20};
    for (int i = 0; i < 2; i++) {
        two_models t;
        const traced_run run[SIDE_COUNT] = {healthy, healthy};
        models_open(&t, "--type Q4_0", "--type F32");
        const weight *a = model_weight(t.of[SIDE_A], name), *b = model_weight(t.of[SIDE_B], name);
        float row[128], value, scale;
        kernel_dequantize(DTYPE_Q4_0, weight_row(a, 0), row, 32);
        scale = fabsf(kernel_f32_from_f16((uint16_t)(a->data[0] | a->data[1] << 8)));
        memcpy(&value, b->data + 4 * 5, sizeof value);
        value = row[5] + (value > row[5] ? 1 : -1) * steps[i] * scale;
        model_alter(&t, name, 4 * 5, &value, sizeof value);
        run_both(&t, run);
        json_t *root = compared(&t, i == 0 ? GRETA_OK : GRETA_FAULT);
        assert_int_equal(weights_in(root, "searched"), i == 0);
        assert_int_equal(weights_in(root, "other"), i);
        assert_true(i == 1 || strstr(text_at(root, "why"), "not all rounded to nearest"));
        json_decref(root);
        models_close(&t);
    }
}

/* ---- No verdict ------------------------------------------------------------------------------ */

static void what_is_not_one_model_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *b, *why;
    } other[] = {{"--type F16 --eps 1e-6", "rms_eps is 1e-05 and 1e-06"},
                 {"--type F16 --rope-base 20000", "rope.freq_base is 10000 and 20000"},
                 {"--type F16 --untied", "another number"},
                 {"--type F16 --heads 6", "n_head is 3 and 6"}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        two_models t;
        const traced_run run[SIDE_COUNT] = {healthy, healthy};
        models_open(&t, "--type Q4_0", other[i].b);
        run_both(&t, run);
        if (i == 2) { /* a head of its own, with the values of no tensor of the other */
            json_t *root = compared(&t, GRETA_FAULT), *line = first_fault(root);
            assert_string_equal(text_at(line, "stage"), "logits");
            assert_string_equal(text_at(line, "bucket"), "V_weights_differ");
            json_decref(root);
        } else {
            json_t *root = compared(&t, GRETA_NO_VERDICT);
            assert_non_null(strstr(text_at(root, "why"), other[i].why));
            assert_int_equal(json_array_size(json_object_get(root, "ops")), 0);
            json_decref(root);
        }
        models_close(&t);
    }
}

static void models_of_other_traces_are_refused(void **state)
{
    (void)state;
    two_models t;
    const traced_run run[SIDE_COUNT] = {healthy, healthy};
    models_open(&t, "--type Q4_0", "--type F16");
    run_both(&t, run);
    two_models swapped = t;
    swapped.of[SIDE_A] = t.of[SIDE_B];
    swapped.of[SIDE_B] = t.of[SIDE_A];
    json_t *root = compared(&swapped, GRETA_NO_VERDICT);
    assert_non_null(strstr(text_at(root, "why"), "A is of another model"));
    json_decref(root);
    models_close(&t);
}

/* Rows whose values were not kept have no terms; that they differ is no contradiction. */
static void what_was_not_kept_is_no_verdict(void **state)
{
    (void)state;
    two_models t;
    traced_run run[SIDE_COUNT] = {healthy, healthy};
    run[SIDE_A].sample = run[SIDE_B].sample = 8;
    models_open(&t, "--type Q4_0", "--type F16");
    run_both(&t, run);
    json_t *root = compared(&t, GRETA_NO_VERDICT);
    assert_non_null(strstr(text_at(root, "why"), "could not be replayed"));
    json_decref(root);
    models_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_are_policy),
        cmocka_unit_test(faults_are_confirmed),
        cmocka_unit_test(another_model_is_told),
        cmocka_unit_test(one_other_tensor_is_named),
        cmocka_unit_test(a_searched_scale_is_told),
        cmocka_unit_test(what_is_not_one_model_is_refused),
        cmocka_unit_test(models_of_other_traces_are_refused),
        cmocka_unit_test(what_was_not_kept_is_no_verdict),
    };
    return cmocka_run_group_tests_name("two_models", tests, setup, teardown);
}
