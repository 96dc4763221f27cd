/* test_replay.c - replay of a norm: who replays, what is tried, what is solved, and its trial.
 *
 * The classifier's use of it is tested in test_explain.c; here are the parts that could be wrong
 * without a verdict changing: the other build, orders of summation against sums worked out by hand,
 * the interval of eps against brute force, the bound of binary64 against a definition made wrong.
 */
#include "norm_rig.h"

#include "kernel/kernel.h"
#include "replay/norm_variant.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static rig run;
static norm_evidence e;

static norm_operands operands_of(side s)
{
    norm_case_complete(&run.c);
    return run.c.operands[s];
}

static void replay(void)
{
    norm_operands o = operands_of(SIDE_B);
    assert_int_equal(norm_replay(&o, &e, NULL), GRETA_OK);
}

static const evidence *item(const char *phrase)
{
    for (int i = 0; i < e.n; i++) {
        if (strcmp(e.item[i].phrase, phrase) == 0) {
            return &e.item[i];
        }
    }
    return NULL;
}

static void test_healthy(void **state)
{
    (void)state;
    rig_init(&run);
    replay();
    assert_true(e.is_measured);
    assert_true(e.stats_agree);
    assert_true(e.f64_agrees);
    assert_int_equal(e.item[0].role, EVIDENCE_HEALTHY);
    assert_int_equal(e.item[1].role, EVIDENCE_AS_READ);
    assert_true(e.item[0].fits && e.item[1].fits);
    assert_int_equal(e.item[0].n_equal, RIG_N);
    assert_int_equal(e.item[0].ulp_max, 0);
    for (int i = 2; i < e.n; i++) {
        assert_true(e.item[i].cause != CAUSE_NONE && e.item[i].phrase[0] != '\0');
        assert_true(e.item[i].n == RIG_N && e.item[i].n_equal <= RIG_N);
        assert_int_equal(e.item[i].fits, e.item[i].n_equal == RIG_N);
        bool is_order = e.item[i].role == EVIDENCE_ORDER;
        assert_int_equal(e.item[i].cause == CAUSE_ROUNDING, is_order);
        bool is_flush = strstr(e.item[i].phrase, "subnormals") != NULL; /* this row has none */
        assert_int_equal(e.item[i].fits && !is_order, is_flush); /* every change of it shows */
        assert_false(e.item[i].is_as_read);       /* nothing but what was proper was read */
    }
    assert_true(e.eps_min <= (double)RIG_EPS && (double)RIG_EPS <= e.eps_max);
}

/* A record is never replayed by the build that made it, where the machine has the other. */
static void test_other_build(void **state)
{
    (void)state;
    bool has_avx2 = kernel_find("ref-avx2") != NULL;
    const struct {
        const char *made_by, *replayed_by;
        bool is_other;
    } cases[] = {
        {"ref-avx2", "ref", true},
        {"ref", has_avx2 ? "ref-avx2" : "ref", has_avx2},
        {"another engine", "ref", true},
        {NULL, "ref", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig_init(&run);
        run.side[SIDE_B].norm->kernel = cases[i].made_by;
        replay();
        assert_string_equal(e.kernel, cases[i].replayed_by);
        assert_int_equal(e.is_other_build, cases[i].is_other);
    }
}

static void test_missing(void **state)
{
    (void)state;
    for (int which = 0; which < 6; which++) {
        rig_init(&run);
        norm_operands o = operands_of(SIDE_B);
        trace_record *r = run.side[SIDE_B].norm;
        trace_tensor sample = *o.x;
        sample.n_kept = RIG_N - 1;
        const char *missing[] = {"the row it read", "the weights it read", "its output",
                                 "the row it should have read", "the weights in the model file",
                                 "a complete record"};
        r->in[0].n_kept -= which == 0;
        r->weight[0].data = which == 1 ? NULL : r->weight[0].data;
        r->out[0].type = which == 2 ? DTYPE_F16 : DTYPE_F32;
        o.x = which == 3 ? &sample : run.side[SIDE_A].norm->in;
        o.weight = which == 4 ? NULL : run.side[SIDE_A].norm->weight;
        r->has_norm = which != 5;
        assert_int_equal(norm_replay(&o, &e, NULL), GRETA_OK);
        assert_false(e.is_measured);
        assert_int_equal(e.n, 0);
        assert_non_null(strstr(e.missing, missing[which]));
    }
}

static void test_orders(void **state)
{
    (void)state;
    /* 2^24 swallows a lone 1 added to it and keeps a pair: each order ends in its own sum. */
    const float big = 0x1p24f;
    const float terms[] = {1, big, 1, 1, 1, 1, 1, 1};
    assert_true(sum_in_order(SUM_SEQUENTIAL, terms, 8) == big);
    assert_true(sum_in_order(SUM_REVERSED, terms, 8) == big + 8); /* 6, 2^24 + 6, tie to even */
    assert_true(sum_in_order(SUM_PAIRWISE, terms, 8) == big + 6);
    assert_true(sum_in_order(SUM_F64, terms, 8) == big + 8); /* 2^24 + 7 to even */
    /* lanes 0..3: 1+1, 2^24+1, 1+1, 1+1; then (0,2), (1,3); then both */
    assert_true(sum_in_order(SUM_LANES_4, terms, 8) == big + 6);
    const float squares[] = {1, 0x1p12f, 1, 1};
    assert_true(sum_in_order(SUM_FUSED, squares, 4) == big);
    assert_true(sum_in_order(SUM_FUSED_8, squares, 4) == big + 2);
    float counted[200];
    for (int i = 0; i < 200; i++) {
        counted[i] = (float)(i + 1);
    }
    for (int order = SUM_CANONICAL; order <= SUM_F64; order++) { /* exact: every term once */
        for (int n = 1; n <= 200; n++) {
            assert_true(sum_in_order((sum_order)order, counted, n) == (float)(n * (n + 1) / 2));
        }
    }
}

/* The table's formulas start from the definition: with nothing changed they give its bits. */
static void test_variant_base(void **state)
{
    (void)state;
    const kernel_table *table = kernel_find("ref");
    for (int n = 1; n <= 200; n++) {
        float x[200], w[200], y[200], z[200], terms[200];
        for (uint32_t i = 0; i < (uint32_t)n; i++) {
            x[i] = 3 * rig_uniform(1, i);
            w[i] = rig_uniform(2, i);
        }
        norm_args a = {.x = x, .weight = w, .y = y, .n = n, .count = n, .eps = RIG_EPS};
        norm_args b = a;
        b.y = z;
        table->rms_norm(&a);
        norm_variant_apply(&(norm_variant){.cause = CAUSE_KERNEL_MATH}, &b, terms);
        assert_memory_equal(y, z, (size_t)n * sizeof *y);
        assert_true(a.inv_rms == b.inv_rms);
    }
}

/* What each variant computes, against binary64 from its formula. */
static void test_variants(void **state)
{
    (void)state;
    float x[RIG_N], w[RIG_N], y[RIG_N], terms[RIG_N];
    double sum = 0, sumsq = 0, var = 0;
    rig_row(STAGE_EMBED, 0, 3, x);
    rig_weight(STAGE_FFN_NORM, 0, w);
    for (int i = 0; i < RIG_N; i++) {
        sum += (double)x[i];
        sumsq += (double)x[i] * (double)x[i];
    }
    for (int i = 0; i < RIG_N; i++) {
        var += ((double)x[i] - sum / RIG_N) * ((double)x[i] - sum / RIG_N) / RIG_N;
    }
    const double eps = (double)RIG_EPS, mean = sumsq / RIG_N, average = sum / RIG_N;
    double before_last = 0;
    for (int i = 0; i < (RIG_N - 1) / 64 * 64; i++) {
        before_last += (double)x[i] * (double)x[i];
    }
    size_t n_variant;
    const norm_variant *v = norm_variants(&n_variant);
    for (size_t k = 0; k < n_variant; k++) {
        double inverse = v[k].inverse == INVERSE_ROOT_SUM      ? 1 / sqrt(sumsq + eps)
                         : v[k].inverse == INVERSE_NO_ROOT     ? 1 / (mean + eps)
                         : v[k].inverse == INVERSE_EPS_OUTSIDE ? 1 / (sqrt(mean) + eps)
                         : v[k].inverse == INVERSE_ONE         ? 1
                         : v[k].order == SUM_LAST_LEFT ? 1 / sqrt(before_last / RIG_N + eps)
                         : v[k].centre == CENTRE_MEAN          ? 1 / sqrt(var + eps)
                                                               : 1 / sqrt(mean + eps);
        norm_args a = {.x = x, .weight = w, .y = y, .n = RIG_N, .count = RIG_N, .eps = RIG_EPS};
        norm_variant_apply(&v[k], &a, terms);
        bool is_narrow = v[k].order == SUM_F16 || v[k].order == SUM_BF16;
        double u = v[k].order == SUM_F16 ? 0x1p-11 : v[k].order == SUM_BF16 ? 0x1p-8 : 0;
        double slack = 4e-6 + RIG_N * u; /* of one rounding a square, halved by the root */
        assert_int_equal(v[k].cause == CAUSE_PRECISION_POLICY, is_narrow);
        assert_int_equal(v[k].cause == CAUSE_ROUNDING,
                         !is_narrow && v[k].order != SUM_LAST_LEFT &&
                             (v[k].order != SUM_CANONICAL || v[k].gain > GAIN_SQUARED));
        for (int i = 0; i < RIG_N; i++) {
            double centred = (double)x[i] - (v[k].centre == CENTRE_NONE ? 0 : average);
            double gain = v[k].gain == GAIN_WEIGHT_PLUS_1 ? (double)w[i] + 1
                          : v[k].gain == GAIN_NONE        ? 1
                          : v[k].gain == GAIN_SQUARED     ? (double)w[i] * (double)w[i]
                                                          : (double)w[i];
            double expected = centred * inverse * gain;
            assert_true(fabs((double)y[i] - expected) <= slack * fabs(expected) + 1e-7);
        }
    }
}

/* The floats just outside the interval give another inverse rms; those inside give it. */
static void test_eps_interval(void **state)
{
    (void)state;
    const float eps[] = {0.0f, 1e-12f, 1e-9f, 1e-6f, 1e-5f, 3.3e-4f, 9.9e-3f};
    for (size_t k = 0; k < sizeof eps / sizeof eps[0]; k++) {
        rig_init(&run);
        rig_side *b = &run.side[SIDE_B];
        b->norm->eps = eps[k];
        rig_compute(b);
        replay();
        float sumsq = rig_sumsq(b->x, RIG_N), target = b->norm->inv_rms;
        float low = (float)e.eps_min, high = (float)e.eps_max;
        assert_true(low <= eps[k] && eps[k] <= high);
        assert_true(rig_inverse(sumsq, RIG_N, low) == target);
        assert_true(rig_inverse(sumsq, RIG_N, high) == target);
        if (low > 0) {
            assert_true(rig_inverse(sumsq, RIG_N, nextafterf(low, 0)) != target);
        }
        if (high < (float)NORM_EPS_SOLVED_MAX) {
            assert_true(rig_inverse(sumsq, RIG_N, nextafterf(high, 1)) != target);
        }
    }
    const float target[] = {NAN, INFINITY, 0.0f, -1.0f, 1e30f};
    for (size_t k = 0; k < sizeof target / sizeof target[0]; k++) {
        rig_init(&run);
        run.side[SIDE_B].norm->inv_rms = target[k];
        replay();
        assert_true(e.eps_min > e.eps_max);
    }
}

/* What was read besides shows as hypotheses of its own, marked as read. */
static void test_as_read(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = &run.side[SIDE_B];
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b->x);
    rig_compute(b);
    replay();
    assert_false(e.item[0].fits);
    assert_true(e.item[1].fits);
    const evidence *input = item("another row than its producer wrote");
    assert_non_null(input);
    assert_true(input->fits && input->is_operand && input->is_as_read);
    assert_int_equal(input->cause, CAUSE_INPUT_SELECTION);
    assert_null(item("other weights than the model file's"));

    rig_init(&run);
    for (int i = 0; i < RIG_N; i++) {
        b->w[i] = run.side[SIDE_A].w[RIG_N - 1 - i];
    }
    rig_compute(b);
    replay();
    const evidence *reversed = item("weights reversed");
    assert_true(reversed->fits && reversed->is_operand && !reversed->is_as_read);
    const evidence *weights = item("other weights than the model file's");
    assert_true(weights->fits && weights->is_operand && weights->is_as_read);
    assert_false(item("weights rotated by 1")->is_operand);

    rig_init(&run);
    b->norm->eps = 1e-4f;
    rig_compute(b);
    replay();
    assert_true(item("eps 0.0001 for 1e-05")->is_operand);
    assert_false(item("eps 1e-06 for 1e-05")->is_operand);
}

static void test_distance(void **state)
{
    (void)state;
    for (int which = 0; which < 5; which++) {
        rig_init(&run);
        float *y = &run.side[SIDE_B].y[5], healthy = *y;
        *y = which == 0   ? nextafterf(healthy, INFINITY)
             : which == 1 ? nextafterf(healthy, -INFINITY)
             : which == 2 ? -healthy
             : which == 3 ? nextafterf(nextafterf(healthy, INFINITY), INFINITY)
                          : NAN;
        const uint32_t ulps[] = {1, 1, 2 * (rig_bits(healthy) & 0x7fffffff), 2, UINT32_MAX};
        rig_refresh(&run.side[SIDE_B]);
        replay();
        assert_int_equal(e.item[0].n_equal, RIG_N - 1);
        assert_false(e.item[0].fits);
        assert_int_equal(e.item[0].ulp_max, ulps[which]);
    }
}

static void test_stats(void **state)
{
    (void)state;
    for (int which = 0; which < 4; which++) {
        rig_init(&run);
        trace_record *r = run.side[SIDE_B].norm;
        norm_operands o = operands_of(SIDE_B);
        r->in[0].sumsq *= which == 0 ? 1.0000002f : 1;
        r->in[0].hash.bag += which == 1;
        r->weight[0].hash.ordered += which == 2;
        r->out[0].hash.ordered += which == 3;
        assert_int_equal(norm_replay(&o, &e, NULL), GRETA_OK);
        assert_false(e.stats_agree);
    }
}

/* The bound is its formula's, and holds over widths and scales. */
static void test_f64_bound(void **state)
{
    (void)state;
    static float x[8192], w[8192], y[8192];
    double worst = 0;
    for (int n = 1; n <= 8192; n = n < 130 ? n + 1 : 2 * n) {
        for (uint32_t i = 0; i < (uint32_t)n; i++) {
            x[i] = ldexpf(rig_uniform((uint32_t)n, i), (int)(i % 7) - 3);
            w[i] = 1 + rig_uniform((uint32_t)n + 1, i);
        }
        norm_args a = {.x = x, .weight = w, .y = y, .n = n, .count = n, .eps = RIG_EPS};
        kernel_find("ref")->rms_norm(&a);
        trace_record r = {.has_norm = 1, .n_in = 1, .n_weight = 1, .n_out = 1, .eps = RIG_EPS,
                          .count = n, .inv_rms = a.inv_rms, .kernel = "ref-avx2"};
        const float *values[] = {x, w, y};
        trace_tensor *tensor[] = {&r.in[0], &r.weight[0], &r.out[0]};
        for (int k = 0; k < 3; k++) {
            *tensor[k] = (trace_tensor){.type = DTYPE_F32, .n = n, .n_kept = n, .data = values[k]};
        }
        norm_operands o = {.record = &r, .x = &r.in[0], .weight = &r.weight[0], .eps = RIG_EPS,
                           .count = n};
        assert_int_equal(norm_replay(&o, &e, NULL), GRETA_OK);
        assert_true(e.item[0].fits);
        assert_true(e.f64_agrees);
        double bound = (7.0 + (n - 1) / 64 + 2) / 2 + 4;
        assert_true(e.f64_ulp_bound == bound);
        worst = e.f64_ulp_max > worst ? e.f64_ulp_max : worst;
    }
    assert_true(worst > 0.5); /* binary64 was compared with something */
}

/* Widths with the most divisors, and one value: the list of hypotheses holds them. */
static void test_widths(void **state)
{
    (void)state;
    const int64_t width[] = {1, 2, 3, 55440, 65536};
    float *values = malloc(3 * 65536 * sizeof *values);
    assert_non_null(values);
    for (size_t k = 0; k < sizeof width / sizeof width[0]; k++) {
        int64_t n = width[k];
        for (int64_t i = 0; i < 3 * n; i++) {
            values[i] = 1 + rig_uniform(9, (uint32_t)i);
        }
        trace_record r = {.has_norm = 1, .n_in = 1, .n_weight = 1, .n_out = 1, .eps = 2e-4f,
                          .count = n, .inv_rms = 0.5f, .kernel = "ref"};
        trace_tensor full = {.type = DTYPE_F32, .n = n, .n_kept = n, .data = values};
        trace_tensor weight = full;
        weight.data = values + n;
        r.in[0] = r.out[0] = full;
        r.weight[0] = full;
        norm_operands o = {.record = &r, .x = &r.out[0], .weight = &weight, .eps = RIG_EPS,
                           .count = n + 1, .head_dim = 2};
        assert_int_equal(norm_replay(&o, &e, NULL), GRETA_OK);
        assert_true(e.is_measured);
        assert_in_range(e.n, 40, EVIDENCE_MAX);
    }
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_healthy),
        cmocka_unit_test(test_other_build),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_variant_base),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_eps_interval),
        cmocka_unit_test(test_as_read),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_f64_bound),
        cmocka_unit_test(test_widths),
    };
    return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
