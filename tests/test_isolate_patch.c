/* test_isolate_patch.c - faults of decode0, put right in the engine one after the other.
 *
 * What the judge reasons from traces the engine must confirm: with the first fault put right the
 * next one is the first to differ, with all of them put right the bits are prefill_last's. And the
 * other way round: a fault that the judge did not name must take CONFIRMED from the one before.
 */
#include "isolate_rig.h"

/* Two or three at once, of which the engine runs kernels, edges, weights, numbers and angles. */
static const struct {
    const char *order;
    greta_e1 mode;
    int n;
} stacks[] = {
    {"ffn_norm-no-root:0", GRETA_E1_FRESH, 1},
    {"ffn_norm-reads-previous-position:1", GRETA_E1_FRESH, 1},
    {"ffn_norm-reads-previous-position:1", GRETA_E1_TRUNCATE, 1},
    {"ffn_norm-no-root:0+attention-not-divided:2", GRETA_E1_FRESH, 2},
    {"rope-base-1000000/q_rope:0+ffn_norm-weights-reversed:1", GRETA_E1_TRUNCATE, 2},
    {"ffn_norm-reads-previous-position:0+rope-position-minus-1:1+ffn_norm-eps-plus-1e-3-hidden:2",
     GRETA_E1_FRESH, 3},
    {"real/tt-mlir-8798-sum-for-mean", GRETA_E1_FRESH, 7}, /* every norm: more than can be named */
};

static json_t *engine_of(json_t *line)
{
    return json_object_get(json_object_get(line, "patch"), "engine");
}

/* The next accused op of the list behind i; NULL: none. */
static json_t *next_fault(json_t *ops, size_t i)
{
    for (i++; i < json_array_size(ops); i++) {
        if (json_is_true(json_object_get(json_array_get(ops, i), "is_fault"))) {
            return json_array_get(ops, i);
        }
    }
    return NULL;
}

static void check_fault(json_t *prompt, json_t *ops, size_t i)
{
    json_t *line = json_array_get(ops, i), *engine = engine_of(line), *next = next_fault(ops, i);
    json_t *first = json_object_get(engine, "first"), *told = json_object_get(line, "patch");
    assert_true(json_is_object(engine));
    assert_int_equal(whole_at(engine, "differ"), whole_at(told, "of_later_faults"));
    assert_int_equal(json_is_true(json_object_get(engine, "is_next_fault")), next != NULL);
    if (next) {
        assert_string_equal(text_at(first, "stage"), text_at(next, "stage"));
        assert_int_equal(whole_at(first, "layer"), whole_at(next, "layer"));
        return;
    }
    assert_true(json_is_null(first));
    assert_true(json_is_true(json_object_get(engine, "logits_equal")));
    json_t *effect = json_object_get(json_object_get(prompt, "effect"), "top");
    json_t *top = json_object_get(engine, "top"); /* decode0's, then prefill_last's */
    assert_int_equal(json_integer_value(json_array_get(top, 0)),
                     json_integer_value(json_array_get(effect, 1)));
    assert_int_equal(json_integer_value(json_array_get(top, 1)),
                     json_integer_value(json_array_get(effect, 0)));
}

static void engine_confirms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++) {
        greta_isolate_options o = options_for("patch");
        int n = 0;
        o.fault = stacks[i].order;
        o.mode = stacks[i].mode;
        json_t *root = run(&o, prompts + 1, 1, GRETA_FAULT);
        json_t *prompt = prompt_at(root, 0), *ops = json_object_get(prompt, "ops");
        for (size_t k = 0; k < json_array_size(ops); k++) {
            if (json_is_true(json_object_get(json_array_get(ops, k), "is_fault"))) {
                check_fault(prompt, ops, k);
                n++;
            }
        }
        assert_int_equal(n, stacks[i].n);
        json_decref(root);
    }
}

/* The steps of greta_isolate, with a judge that misses the second of two faults. */
static void a_missed_fault_is_seen(void **state)
{
    (void)state;
    for (int missed = 0; missed < 2; missed++) {
        greta_error err = {0};
        greta_isolate_options o = options_for("missed");
        isolate_run run;
        isolate_recording d;
        isolate_files files;
        isolate_side sides[SIDE_COUNT];
        analysis_prompt out = {0};
        trace_set set;
        o.fault = "ffn_norm-no-root:0+attention-not-divided:2";
        check(folder_make(o.out, &err), &err);
        check(isolate_run_init(model, &o, &run, &err), &err);
        isolate_terms terms = isolate_terms_of(model, &o);
        check(isolate_record(&run, &prompts[1], &files, &d, &out, &err), &err);
        check(trace_set_open(&files, &set, &err), &err);
        check(isolate_sides_choose(&set, sides, &err), &err);
        check(isolate_judge(sides, &terms, &out, &err), &err);
        op_line *second = NULL;
        for (size_t i = 0; i < out.ops.n_op; i++) {
            second = out.ops.op[i].is_accused ? &out.ops.op[i] : second;
        }
        assert_non_null(second);
        assert_int_equal(second->name, STAGE_ATTN_OUT);
        second->is_accused = !missed;
        check(isolate_patch(&d, &sides[SIDE_A], &out, &err), &err);
        const op_line *first = analysis_decisive_op(&out);
        assert_int_equal(first->name, STAGE_FFN_NORM);
        assert_int_equal(first->patch.run.first, STAGE_ATTN_OUT);
        assert_int_equal(first->patch.run.is_next, !missed);
        assert_int_equal(out.state, missed ? VERDICT_SUSPECTED : VERDICT_CONFIRMED);
        isolate_sides_free(sides);
        trace_set_close(&set);
        isolate_files_free(&files);
        isolate_recording_free(&d);
        analysis_prompt_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_confirms),
        cmocka_unit_test(a_missed_fault_is_seen),
    };
    return cmocka_run_group_tests_name("isolate patch", tests, setup, teardown);
}
