/* test_op_sites.c - audit of one trace, and compare with the model, on tiny models: what is benign
 * is policy or nothing at all, what is planted is named without a second run, and what was not
 * kept is no verdict.
 */
#include "sites_rig.h"

#define N_KV  2
#define N_ACT 2
/* Of pairs of contracts and tables `make check` takes every third, `make check-long` all. */
static int step(void)
{
    return volume_is_whole() ? 1 : volume_of(3, 6);
}

/* The same for the text of a verdict, which costs as much as the verdict. */
static int wants_text(void)
{
    static int n;
    return n++ % step() == 0;
}

static const greta_kv kvs[N_KV] = {GRETA_KV_F16, GRETA_KV_F32};
static const greta_act acts[N_ACT] = {GRETA_ACT_Q8, GRETA_ACT_F32};

static json_t *audited(const char *path, greta_status expected)
{
    greta_error err = {0};
    greta_status verdict;
    char *text, *human;
    check(greta_audit(model, path, NULL, 1, &text, &verdict, &err), &err);
    if (verdict != expected) {
        fail_msg("verdict %d, expected %d: %.1500s", (int)verdict, (int)expected, text);
    }
    if (wants_text()) {
        check(greta_audit(model, path, NULL, 0, &human, &verdict, &err), &err);
        greta_free(human);
        assert_int_equal(verdict, expected);
    }
    return parsed(text);
}

static json_t *compared(const char *a, const char *b, greta_status expected)
{
    greta_error err = {0};
    greta_status verdict;
    char *text, *human;
    check(greta_compare(model, a, b, NULL, 1, &text, &verdict, &err), &err);
    if (verdict != expected) {
        fail_msg("verdict %d, expected %d: %.1500s", (int)verdict, (int)expected, text);
    }
    if (wants_text()) {
        check(greta_compare(model, a, b, NULL, 0, &human, &verdict, &err), &err);
        greta_free(human);
        assert_int_equal(verdict, expected);
    }
    return parsed(text);
}

/* ---- Benign ---------------------------------------------------------------------------------- */

/* Every contract, kernel table and chunk is what the model says, with all tokens or the last. */
static void clean_traces_pass_the_audit(void **state)
{
    (void)state;
    const char *path = path_of("audit");
    const kernel_table *const *table = kernel_tables();
    for (int i = 0; i < N_KV * N_ACT; i++) {
        for (int k = 0; table[k]; k++) {
            if (k % step() != i % step()) {
                continue;
            }
            traced_run r = {kvs[i % N_KV],
                            acts[i / N_KV],
                            table[k]->name,
                            5 + k,
                            (i + k) % 2 ? "last,cache" : "all,cache",
                            -1,
                            NULL,
                            -1};
            run_traced(&r, path);
            json_t *root = audited(path, GRETA_OK), *judged = json_object_get(root, "judged");
            assert_int_equal(whole_at(judged, "healthy"), whole_at(judged, "records"));
            assert_true(whole_at(judged, "records") > 0);
            json_decref(root);
        }
    }
}

/* Runs of two contracts differ nearly everywhere, and no run is accused. */
static void policies_are_no_faults(void **state)
{
    (void)state;
    const char *a = path_of("policy-a"), *b = path_of("policy-b");
    for (int i = 0; i < N_KV * N_ACT; i++) {
        for (int k = 0; k < N_KV * N_ACT; k++) {
            traced_run x = {kvs[i % N_KV], acts[i / N_KV], NULL, 7, "all,cache", -1, NULL, -1};
            traced_run y = {kvs[k % N_KV], acts[k / N_KV], "ref", 6, "all,cache", -1, NULL, -1};
            if (i == k || (i + k) % step() != step() - 1) {
                continue;
            }
            run_traced(&x, a);
            run_traced(&y, b);
            json_t *root = compared(a, b, GRETA_OK), *ops = json_object_get(root, "ops");
            json_t *judged = json_object_get(root, "judged");
            assert_true(whole_at(judged, "policy") > 0);
            assert_true(json_real_value(json_object_get(judged, "gap_max")) <= ldexp(1, -45));
            double passes = json_real_value(json_object_get(judged, "forward_passes"));
            assert_true(passes > 2 && passes <= 4); /* both runs, binary64 beside one, C_B(a) */
            for (size_t n = 0; n < json_array_size(ops); n++) {
                json_t *line = json_array_get(ops, n);
                assert_false(json_is_true(json_object_get(line, "is_fault")));
                if (n == 0) {
                    assert_string_equal(text_at(line, "bucket"), "P_precision_policy");
                    bool is_kv = x.kv != y.kv && x.act == y.act;
                    assert_string_equal(text_at(line, "stage"), is_kv ? "k_cache" : "q");
                }
            }
            json_decref(root);
        }
    }
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* One run is enough to see a fault, and with another contract on the other side it still shows. */
static void faults_are_found(void **state)
{
    (void)state;
    const char *a = path_of("fault-a"), *b = path_of("fault-b");
    static const char *const names[] = {"ffn_norm-reads-previous-position",
                                        "ffn_norm-weights-other-layer", "ffn_norm-no-root",
                                        "ffn_norm-mean-over-n-minus-1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        traced_run x = {GRETA_KV_F32, acts[i % N_ACT], NULL, 7, "all,cache", -1, NULL, -1};
        traced_run y = {GRETA_KV_F16, GRETA_ACT_Q8,         NULL, 7, "all,cache",
                        -1,           fault_find(names[i]), 1};
        assert_non_null(y.fault);
        run_traced(&x, a);
        run_traced(&y, b);
        json_t *alone = audited(b, GRETA_FAULT), *both = compared(a, b, GRETA_FAULT);
        for (int k = 0; k < 2; k++) {
            json_t *line = first_fault(k == 0 ? alone : both);
            assert_string_equal(text_at(line, "stage"), "ffn_norm");
            assert_int_equal(whole_at(line, "layer"), 1);
            assert_int_equal(whole_at(line, "position"), 17);
            json_t *sides = json_object_get(line, "wrong_sides");
            assert_int_equal(json_array_size(sides), 1);
            assert_string_equal(json_string_value(json_array_get(sides, 0)), k == 0 ? "run" : "b");
        }
        json_decref(alone);
        json_decref(both);
    }
}

/* From the logits back to the fault, and what it does to the next token. */
static void effects_are_told(void **state)
{
    (void)state;
    const char *a = path_of("effect-a"), *b = path_of("effect-b");
    traced_run x = {GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "all,cache", -1, NULL, -1};
    traced_run y = {
        GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "all,cache", -1, fault_find("ffn_norm-no-root"), 1};
    run_traced(&x, a);
    run_traced(&y, b);
    json_t *root = compared(a, b, GRETA_FAULT), *effect = json_object_get(root, "effect");
    json_t *origin = json_object_get(effect, "origin"), *top = json_object_get(effect, "top");
    assert_int_equal(whole_at(effect, "position"), 17);
    assert_true(json_real_value(json_object_get(effect, "kl")) > 0);
    bool flips =
        json_integer_value(json_array_get(top, 0)) != json_integer_value(json_array_get(top, 1));
    assert_int_equal(json_is_true(json_object_get(effect, "flips")), flips);
    assert_int_equal(whole_at(effect, "tokens"), 1);
    assert_int_equal(whole_at(effect, "tokens_changed"), flips);
    assert_int_equal(whole_at(effect, "first_changed"), flips ? 17 : -1);
    double gap = json_real_value(json_array_get(json_object_get(effect, "gap_in_bounds"), 0));
    assert_true(gap > 1 && !json_is_true(json_object_get(effect, "is_tie")));
    assert_string_equal(text_at(origin, "stage"), "ffn_norm");
    assert_int_equal(whole_at(origin, "layer"), 1);
    assert_true(json_array_size(json_object_get(root, "growth")) > 0);
    json_decref(root);
}

/* A kernel that is wrong in every run: both runs agree to the last bit, in prefill and in decode,
 * by the same table. Replay by another build sees it; the same table would not. */
static void a_wrong_kernel_is_not_replayed_away(void **state)
{
    (void)state;
    const char *a = path_of("kernel");
    static const struct {
        const char *fault;
        stage at; /* 500 rows of logits: a tail of 20 */
        int32_t layer;
    } wrong[] = {{"matmul-rows-tail-skipped", STAGE_LOGITS, -1},
                 {"matmul-rows-tail-doubled", STAGE_LOGITS, -1},
                 {"matmul-last-block-skipped", STAGE_MLP_OUT, 1}};
    const kernel_table *const *table = kernel_tables();
    for (int k = 0; table[k]; k++) {
        for (size_t i = (size_t)(k % step()); i < sizeof wrong / sizeof *wrong;
             i += (size_t)step()) {
            traced_run r = {GRETA_KV_F16,
                            GRETA_ACT_Q8,
                            table[k]->name,
                            7,
                            "all,cache",
                            -1,
                            fault_find(wrong[i].fault),
                            wrong[i].layer};
            assert_non_null(r.fault);
            run_planted(&r, wrong[i].at, 3, a);
            json_t *root = audited(a, GRETA_FAULT), *line = first_fault(root);
            assert_string_equal(text_at(line, "stage"), stage_name(wrong[i].at));
            assert_int_equal(whole_at(line, "layer"), wrong[i].layer);
            assert_string_equal(text_at(line, "bucket"), "D_kernel_math");
            assert_true(strcmp(text_at(line, "replay_kernel"), table[k]->name) != 0);
            json_decref(root);
        }
    }
}

/* ---- No verdict ------------------------------------------------------------------------------ */

static void what_was_not_kept_is_no_verdict(void **state)
{
    (void)state;
    const char *path = path_of("part");
    traced_run sampled = {GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "last,cache", 8, NULL, -1};
    traced_run no_cache = {GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "last", -1, NULL, -1};
    run_traced(&sampled, path);
    json_decref(audited(path, GRETA_NO_VERDICT));
    run_traced(&no_cache, path); /* attention's rows of other tokens */
    json_decref(audited(path, GRETA_NO_VERDICT));
}

static void another_model_is_refused(void **state)
{
    (void)state;
    char other_path[TINY_PATH], *text;
    greta_error err = {0};
    greta_model *other;
    greta_status verdict;
    const char *path = path_of("other");
    traced_run r = {GRETA_KV_F16, GRETA_ACT_Q8, NULL, 7, "last,cache", -1, NULL, -1};
    run_traced(&r, path);
    assert_true(tiny_model("other", "--layers 3 --vocab 500 --ff 128 --seed 9", other_path));
    check(greta_model_open(other_path, &other, &err), &err);
    assert_int_equal(greta_audit(other, path, NULL, 0, &text, &verdict, &err), GRETA_NO_VERDICT);
    assert_null(text);
    greta_model_release(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_traces_pass_the_audit),
        cmocka_unit_test(policies_are_no_faults),
        cmocka_unit_test(faults_are_found),
        cmocka_unit_test(effects_are_told),
        cmocka_unit_test(a_wrong_kernel_is_not_replayed_away),
        cmocka_unit_test(what_was_not_kept_is_no_verdict),
        cmocka_unit_test(another_model_is_refused),
    };
    return cmocka_run_group_tests_name("op_sites", tests, setup, teardown);
}
