/* test_verdict_state.c - the norm classifier where no cause may be named, and what never decides.
 *
 * Refused pairs, missing records and values, instruments that contradict themselves; addresses and
 * offsets; the numbers of the reference table. Causes: test_explain.c.
 */
#include "norm_judge.h"

/* ---- No verdict ----------------------------------------------------------------------------- */

static void test_not_comparable(void **state)
{
    (void)state;
    const char *field[] = {"stage", "layer", "position", "token", "prefix", "width", "op"};
    for (int which = 0; which < 7; which++) {
        rig_init(&run);
        trace_record *r = b_side()->norm;
        b_side()->norm->eps = 1e-4f; /* a fault is there, and must not be told */
        rig_compute(b_side());
        r->name = which == 0 ? STAGE_ATTN_NORM : r->name;
        r->layer += which == 1;
        r->position += which == 2;
        r->token += which == 3;
        r->prefix ^= which == 4;
        r->in[0].n -= which == 5;
        r->has_norm = which != 6;
        judge();
        expect(VERDICT_NOT_COMPARABLE, CAUSE_NONE, SIDES_NONE);
        assert_int_equal(run.f.n_mismatch, 1);
        assert_string_equal(run.f.mismatch[0].field, field[which]);
        assert_string_not_equal(run.f.mismatch[0].value[0], run.f.mismatch[0].value[1]);
        expect_phrase(field[which]);
    }
    rig_init(&run);
    b_side()->norm->position = RIG_LAST + 1; /* mode E0: the next token */
    b_side()->norm->token = 7;
    b_side()->norm->prefix = 0x999;
    judge();
    expect(VERDICT_NOT_COMPARABLE, CAUSE_NONE, SIDES_NONE);
    assert_int_equal(run.f.n_mismatch, 3);
    expect_phrase("position is 5 in run A and 6 in run B");
    rig_init(&run);
    run.c.record[SIDE_B] = run.c.record[SIDE_A];
    judge();
    expect(VERDICT_NOT_COMPARABLE, CAUSE_NONE, SIDES_NONE);
}

static void test_unmeasured(void **state)
{
    (void)state;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        rig_init(&run);
        run.c.record[s] = NULL;
        judge();
        expect(VERDICT_UNMEASURED, CAUSE_NONE, SIDES_NONE);
        expect_phrase(s == SIDE_A ? "no record of run A" : "no record of run B");
    }
    rig_init(&run); /* inputs differ, and no record says what should have been read */
    b_side()->x[3] += 0.01f;
    rig_compute(b_side());
    run.side[SIDE_A].trace.n_record = b_side()->trace.n_record = 0;
    judge();
    expect(VERDICT_UNMEASURED, CAUSE_NONE, SIDES_NONE);
    expect_phrase("x_after_attn layer 1");
    rig_init(&run); /* inputs differ with intact edges, values of one side are a sample */
    differ_upstream();
    b_side()->norm->out[0].n_kept = 8;
    judge();
    expect(VERDICT_UNMEASURED, CAUSE_NONE, SIDES_NONE);
    expect_phrase("all values of its output are not kept");
    assert_int_equal(run.f.numbers.n_compared, 8);
}

/* A row is taken from whatever record keeps all of it: a sample on one side does not stop the
 * other. */
static void test_values_found_elsewhere(void **state)
{
    (void)state;
    rig_init(&run);
    run.side[SIDE_A].norm->in[0].n_kept = run.side[SIDE_A].norm->weight[0].n_kept = 8;
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    assert_false(run.evidence[SIDE_A].is_measured);
    assert_true(run.evidence[SIDE_B].is_measured);
}

/* What hashes alone can tell when values were not kept. */
static void test_hashes_alone(void **state)
{
    (void)state;
    rig_init(&run);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 1, b_side()->x);
    rig_compute(b_side());
    b_side()->norm->in[0].n_kept = 8;
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_int_equal(run.f.source.position, 1);
    rig_init(&run);
    b_side()->y[0] *= 2;
    rig_refresh(b_side());
    run.side[SIDE_A].norm->out[0].n_kept = b_side()->norm->out[0].n_kept = 0;
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_KERNEL_MATH, SIDES_NONE);
    rig_init(&run); /* equal hashes everywhere, no values: equal */
    run.side[SIDE_A].norm->out[0].n_kept = b_side()->norm->out[0].n_kept = 0;
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    assert_true(isnan(run.f.numbers.output_mae));
}

static void test_instrument_suspect(void **state)
{
    (void)state;
    rig_init(&run); /* values that are not those the hash was taken of */
    b_side()->y[0] *= 2;
    judge();
    expect(VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE, SIDES_B);
    rig_init(&run); /* another row was recorded than the op read: its output is the healthy one */
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b_side()->x);
    rig_refresh(b_side());
    judge();
    expect(VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE, SIDES_B);
    rig_init(&run); /* the same, and the trace cannot say what it should have read */
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b_side()->x);
    rig_refresh(b_side());
    b_side()->trace.n_record = 0;
    judge();
    expect(VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE, SIDES_NONE);
    expect_phrase("replay tells them apart");
}

/* Equal operands, two outputs, and replay blames neither side: evidence that contradicts itself. */
static void test_instrument_two_outputs(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->y[0] *= 2;
    rig_refresh(b_side());
    replay_sides();
    run.evidence[SIDE_B].item[0].fits = run.evidence[SIDE_B].item[1].fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE, SIDES_NONE);
}

static void test_definition_on_trial(void **state)
{
    (void)state;
    rig_init(&run);
    replay_sides();
    run.evidence[SIDE_A].f64_agrees = run.evidence[SIDE_B].f64_agrees = false;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_KERNEL_MATH, SIDES_BOTH);
    expect_phrase("the definition itself");
}

/* ---- What must never decide ----------------------------------------------------------------- */

static void test_places_never_decide(void **state)
{
    (void)state;
    for (int same = 0; same < 2; same++) {
        for (int broken = 0; broken < 2; broken++) {
            rig_init(&run);
            if (broken) {
                rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b_side()->x);
                rig_compute(b_side());
            }
            trace_tensor *in = &b_side()->norm->in[0];
            snprintf(in->buffer, sizeof in->buffer, "%s", same ? "b0" : "b1");
            in->offset = same ? 0 : 512;
            judge();
            expect(broken ? VERDICT_CONFIRMED : VERDICT_EQUAL,
                   broken ? CAUSE_INPUT_SELECTION : CAUSE_NONE, broken ? SIDES_B : SIDES_NONE);
            assert_int_equal(run.f.numbers.input_ptr_match, same);
            assert_int_equal(run.f.numbers.input_offset_match, same);
        }
    }
    rig_init(&run); /* one address, reached through two buffers */
    snprintf(b_side()->norm->in[0].buffer, 32, "b1");
    run.side[SIDE_A].norm->in[0].offset = 0x8000;
    judge();
    assert_int_equal(run.f.numbers.input_ptr_match, 1);
    assert_int_equal(run.f.numbers.input_offset_match, 0);
    rig_init(&run);
    snprintf(b_side()->norm->in[0].buffer, 32, "no such");
    judge();
    assert_int_equal(run.f.numbers.input_ptr_match, -1);
}

/* ---- Numbers, names, tables ----------------------------------------------------------------- */

static void test_numbers(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->x[0] += 0.96f;
    b_side()->x[1] -= 0.96f;
    b_side()->w[4] += 9.6f;
    rig_compute(b_side());
    judge();
    assert_true(fabs(run.f.numbers.input_mae - 0.02) < 1e-6);
    assert_true(fabs(run.f.numbers.weight_mae - 0.1) < 1e-6);
    const trace_record *a = run.c.record[SIDE_A], *b = run.c.record[SIDE_B];
    double sum = 0;
    for (int i = 0; i < RIG_N; i++) {
        sum += fabs((double)run.side[SIDE_A].y[i] - (double)run.side[SIDE_B].y[i]);
    }
    assert_true(fabs(run.f.numbers.output_mae - sum / RIG_N) < 1e-12);
    assert_true(run.f.numbers.sumsq_delta == (double)b->in[0].sumsq - (double)a->in[0].sumsq);
    assert_true(run.f.numbers.inv_rms_delta == (double)a->inv_rms - (double)b->inv_rms);
}

static void test_norm_reads(void **state)
{
    (void)state;
    int32_t layer;
    assert_int_equal(norm_reads(STAGE_ATTN_NORM, 0, 3, false, &layer), STAGE_EMBED);
    assert_int_equal(layer, -1);
    assert_int_equal(norm_reads(STAGE_ATTN_NORM, 0, 3, true, &layer), STAGE_EMBED_SCALED);
    assert_int_equal(norm_reads(STAGE_ATTN_NORM, 2, 3, false, &layer), STAGE_X_AFTER_MLP);
    assert_int_equal(layer, 1);
    assert_int_equal(norm_reads(STAGE_FFN_NORM, 2, 3, false, &layer), STAGE_X_AFTER_ATTN);
    assert_int_equal(layer, 2);
    assert_int_equal(norm_reads(STAGE_FINAL_NORM, -1, 3, false, &layer), STAGE_X_AFTER_MLP);
    assert_int_equal(layer, 2);
    assert_int_equal(norm_reads(STAGE_GATE, 0, 3, false, &layer), STAGE_NONE);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(cause_name(CAUSE_INPUT_SELECTION), "A_input_selection");
    assert_string_equal(cause_name(CAUSE_NONFINITE_ORIGIN), "X_nonfinite_origin");
    assert_string_equal(cause_name(CAUSE_COUNT), "?");
    for (int i = 0; i < CAUSE_COUNT; i++) {
        assert_int_equal(cause_find(cause_name((cause)i)), i);
    }
    assert_int_equal(cause_find("A"), CAUSE_COUNT);
    assert_string_equal(verdict_state_name(VERDICT_NOT_COMPARABLE), "NOT_COMPARABLE");
    assert_string_equal(verdict_state_name(VERDICT_STATE_COUNT), "?");
    assert_int_equal(verdict_exit_code(VERDICT_EQUAL, CAUSE_NONE), 0);
    assert_int_equal(verdict_exit_code(VERDICT_INHERITED, CAUSE_NONE), 0);
    assert_int_equal(verdict_exit_code(VERDICT_CONFIRMED, CAUSE_NORM_STATS), 1);
    assert_int_equal(verdict_exit_code(VERDICT_CONFIRMED, CAUSE_ROUNDING), 0);
    assert_int_equal(verdict_exit_code(VERDICT_SUSPECTED, CAUSE_ROUNDING), 1);
    assert_int_equal(verdict_exit_code(VERDICT_UNMEASURED, CAUSE_NONE), 6);
    assert_int_equal(verdict_exit_code(VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE), 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_comparable),
        cmocka_unit_test(test_unmeasured),
        cmocka_unit_test(test_values_found_elsewhere),
        cmocka_unit_test(test_hashes_alone),
        cmocka_unit_test(test_instrument_suspect),
        cmocka_unit_test(test_instrument_two_outputs),
        cmocka_unit_test(test_definition_on_trial),
        cmocka_unit_test(test_places_never_decide),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_norm_reads),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("verdict_state", tests, NULL, NULL);
}
