/* test_explain.c - the norm classifier on runs made by hand: causes, ties, faults on faults.
 *
 * The runs of norm_rig.h are healthy; a test breaks one thing, as a faulty engine would, and says
 * what must be found. Replay is the real one. Where a rule cannot be reached through arithmetic (a
 * tie between causes), the evidence itself is edited. States without a cause: test_verdict_state.c.
 */
#include "norm_judge.h"

/* ---- Nothing wrong -------------------------------------------------------------------------- */

static void test_equal(void **state)
{
    (void)state;
    rig_init(&run);
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    assert_int_equal(run.f.n_fit, 0);
    assert_true(run.f.numbers.input_mae == 0 && run.f.numbers.output_mae == 0);
    assert_int_equal(run.f.numbers.n_compared, RIG_N);
    assert_int_equal(run.f.numbers.weight_hash_match, 1);
    assert_int_equal(run.f.numbers.eps_match, 1);
    assert_int_equal(run.f.numbers.input_ptr_match, 1);
}

static void test_inherited(void **state)
{
    (void)state;
    rig_init(&run);
    differ_upstream();
    judge();
    expect(VERDICT_INHERITED, CAUSE_NONE, SIDES_NONE);
    assert_int_equal(run.f.source.name, STAGE_X_AFTER_ATTN);
    assert_int_equal(run.f.source.layer, RIG_LAYER);
    assert_int_equal(run.f.source.position, RIG_LAST);
    assert_true(run.f.numbers.input_mae > 0 && run.f.numbers.output_mae > 0);
}

static void test_changed_no_bit(void **state)
{
    (void)state;
    rig_init(&run);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) { /* a row so large that eps is rounded away */
        for (int i = 0; i < RIG_N; i++) {
            run.side[s].x[i] *= 1e4f;
        }
        run.side[s].norm->eps = s == SIDE_B ? 10 * RIG_EPS : RIG_EPS;
        rig_compute(&run.side[s]);
        run.side[s].trace.n_record = 0; /* producers unknown: the row as read stands */
    }
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_B);
    assert_true(run.f.changed_no_bit);
    expect_phrase("eps 0.0001 for 1e-05");
    assert_int_equal(run.f.numbers.eps_match, 0);
}

/* Rows differ where nothing reaches the output: two of them change places in the sum, unweighted.
 * */
static void test_absorbed(void **state)
{
    (void)state;
    rig_init(&run);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        rig_side *r = &run.side[s];
        r->x[3] = s == SIDE_A ? 0.05f : 0.07f;
        r->x[35] = s == SIDE_A ? 0.07f : 0.05f; /* the first fold adds 3 and 35 */
        r->w[3] = r->w[35] = 0;
        rig_compute(r);
        r->trace.n_record = 0;
    }
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    expect_phrase("operands differ");
    assert_true(run.f.numbers.input_mae > 0 && run.f.numbers.output_mae == 0);
}

/* A wrong number that changes no bit does not hide what the row inherits. */
static void test_inherited_past_a_number(void **state)
{
    (void)state;
    rig_init(&run);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        rig_side *r = &run.side[s];
        for (int i = 0; i < RIG_N; i++) {
            r->x[i] *= s == SIDE_B && i == 3 ? 2e4f : 1e4f;
        }
        r->norm->eps = s == SIDE_B ? 10 * RIG_EPS : RIG_EPS;
        rig_compute(r);
        produced_set(s);
    }
    judge();
    expect(VERDICT_INHERITED, CAUSE_NONE, SIDES_NONE);
}

/* ---- A -------------------------------------------------------------------------------------- */

typedef struct source_case {
    stage name;
    int32_t layer, position;
    int64_t pass;
    int32_t row;
} source_case;

static void test_input_selection(void **state)
{
    (void)state;
    const source_case cases[] = {
        {STAGE_X_AFTER_ATTN, RIG_LAYER, RIG_LAST - 1, 0, RIG_LAST - 1}, /* position before */
        {STAGE_X_AFTER_ATTN, RIG_LAYER, 0, 0, 0},                       /* row 0 of the chunk */
        {STAGE_X_AFTER_ATTN, RIG_LAYER - 1, RIG_LAST, 1, 0},            /* layer before */
        {STAGE_X_AFTER_MLP, RIG_LAYER - 1, RIG_LAST, 1, 0},             /* input of attn_norm */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig_init(&run);
        rig_row(cases[i].name, cases[i].layer, cases[i].position, b_side()->x);
        rig_compute(b_side());
        judge();
        expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
        assert_true(run.f.source.is_found);
        assert_false(run.f.source.in_other_trace);
        assert_int_equal(run.f.source.name, cases[i].name);
        assert_int_equal(run.f.source.layer, cases[i].layer);
        assert_int_equal(run.f.source.position, cases[i].position);
        assert_int_equal(run.f.source.pass, cases[i].pass);
        assert_int_equal(run.f.source.row, cases[i].row);
        assert_int_equal(run.f.source.n_match, 1);
        assert_int_equal(run.f.fit_causes, 1u << CAUSE_INPUT_SELECTION);
        assert_false(run.f.is_inherited_too);
    }
    expect_phrase("row of x_after_mlp layer 0, position 5, for that of x_after_attn layer 1");
}

static void test_input_selection_of_run_a(void **state)
{
    (void)state;
    rig_init(&run);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 2, run.side[SIDE_A].x);
    rig_compute(&run.side[SIDE_A]);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_A);
    assert_int_equal(run.f.source.position, 2);
}

static void test_input_unknown(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->x[7] = 0.5f;
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_false(run.f.source.is_found || run.f.source.is_permuted);
    assert_false(run.f.source.in_other_trace);
    expect_phrase("no record shows");
}

static void test_input_reordered(void **state)
{
    (void)state;
    rig_init(&run);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, RIG_LAST - 1, run.side[SIDE_B].x);
    for (int i = 0; i < RIG_N / 2; i++) {
        float first = b_side()->x[i];
        b_side()->x[i] = b_side()->x[RIG_N - 1 - i];
        b_side()->x[RIG_N - 1 - i] = first;
    }
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_true(!run.f.source.is_found && run.f.source.is_permuted);
    assert_int_equal(run.f.source.position, RIG_LAST - 1);
    expect_phrase("reordered row of x_after_attn layer 1, position 4");
}

/* Only run A has position 5 of layer 2 in pass 0: found there, and said so. */
static void test_input_of_other_run(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *a = &run.side[SIDE_A];
    for (size_t i = 0; i < a->trace.n_record; i++) {
        if (a->record[i].kind == TRACE_INDEX && a->record[i].layer == 2) {
            a->index[i][1] = rig_hash((const float[RIG_N]){3.0f}, RIG_N);
        }
    }
    memset(b_side()->x, 0, sizeof b_side()->x);
    b_side()->x[0] = 3.0f;
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_true(run.f.source.is_found && run.f.source.in_other_trace);
    assert_int_equal(run.f.source.position, 1);
    assert_int_equal(run.f.source.n_match, 2);
}

/* Equal content at two places: the one the record names is told. */
static void test_source_prefers_named_place(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    rig_row(STAGE_X_AFTER_MLP, 0, RIG_LAST, b->x);
    for (size_t i = 0; i < b->trace.n_record; i++) {
        if (b->record[i].kind == TRACE_INDEX && b->record[i].pass == 1) {
            if (b->record[i].name == STAGE_X_AFTER_ATTN && b->record[i].layer == 2) {
                b->index[i][0] = rig_hash(b->x, RIG_N);
            }
        }
    }
    b->norm->in[0].name = STAGE_X_AFTER_MLP;
    b->norm->in[0].layer = 0;
    rig_compute(b);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_int_equal(run.f.source.name, STAGE_X_AFTER_MLP);
    assert_int_equal(run.f.source.n_match, 2);
}

/* Of equal rows at equally likely places, the one of the latest pass is told. */
static void test_source_prefers_latest(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    rig_row(STAGE_X_AFTER_ATTN, 2, RIG_LAST, b->x);
    for (size_t i = 0; i < b->trace.n_record; i++) {
        if (b->record[i].kind == TRACE_INDEX && b->record[i].pass == 0) {
            b->index[i][0] = rig_hash(b->x, RIG_N);
        }
    }
    rig_compute(b);
    snprintf(b->norm->in[0].buffer, 32, "b0");
    b->norm->in[0].name = STAGE_NONE; /* names no place */
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_int_equal(run.f.source.pass, 1);
    assert_int_equal(run.f.source.layer, 2);
    assert_int_equal(run.f.source.n_match, 1 + 2 * RIG_LAYERS);
}

/* A stage without an index is known by its selected rows. */
static void test_source_without_index(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    rig_row(STAGE_FINAL_NORM, -1, 3, b->x);
    trace_record row = {.kind = TRACE_ROW, .name = STAGE_FINAL_NORM, .layer = -1, .position = 3,
                        .row = 3, .n_out = 1};
    row.out[0].hash = rig_hash(b->x, RIG_N);
    rig_add(b, row);
    rig_compute(b);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_int_equal(run.f.source.name, STAGE_FINAL_NORM);
    assert_int_equal(run.f.source.row, 3);
}

/* The producer's row is the one of this pass, sequence and row; others lie before it in the file.
 * */
static void test_producer(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    rig decoy = run;
    b->trace.n_record = 0;
    for (int which = 0; which < 4; which++) { /* sequence, row, pass, then the right one */
        trace_record row = {.kind = TRACE_ROW, .name = STAGE_X_AFTER_ATTN, .layer = RIG_LAYER,
                            .position = RIG_LAST, .pass = which == 2 ? 0 : 1,
                            .sequence = which == 0, .row = which == 1, .n_out = 1};
        row.out[0].hash = which == 3 ? rig_hash(b->x, RIG_N) : (row_hash){1, 2};
        decoy.side[SIDE_B].record[which] = row;
    }
    memcpy(&decoy.side[SIDE_B].record[4], b->norm, sizeof *b->norm);
    memcpy(b->record, decoy.side[SIDE_B].record, sizeof b->record);
    b->trace.n_record = 5;
    run.c.record[SIDE_B] = b->norm = &b->record[4];
    rig_refresh(b);
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    assert_true(run.c.has_produced[SIDE_B]);
}

/* ---- B -------------------------------------------------------------------------------------- */

static void test_number_given(void **state)
{
    (void)state;
    const float eps[] = {1e-4f, 1e-6f, RIG_EPS + 1e-3f, 3.3e-5f};
    for (size_t i = 0; i < sizeof eps / sizeof eps[0]; i++) {
        rig_init(&run);
        b_side()->norm->eps = eps[i];
        rig_compute(b_side());
        judge();
        expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_B);
        assert_int_equal(run.f.number, EVIDENCE_NUMBER_EPS);
        assert_false(run.f.is_hidden);
        assert_true(run.f.number_given == (double)eps[i] && run.f.number_used == (double)eps[i]);
        assert_true(run.f.number_healthy == (double)RIG_EPS);
        assert_true(run.f.eps_min <= (double)eps[i] && (double)eps[i] <= run.f.eps_max);
        assert_int_equal(run.f.numbers.eps_match, 0);
    }
    const int64_t count[] = {RIG_N - 1, RIG_N + 1, 7};
    for (size_t i = 0; i < sizeof count / sizeof count[0]; i++) {
        rig_init(&run);
        b_side()->norm->count = count[i];
        rig_compute(b_side());
        judge();
        expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_B);
        assert_int_equal(run.f.number, EVIDENCE_NUMBER_COUNT);
        assert_true(run.f.number_used == (double)count[i]);
        assert_true(run.f.number_healthy == (double)RIG_N);
    }
}

static void hide(int64_t count, float eps)
{
    trace_record *r = b_side()->norm;
    r->count = count;
    r->eps = eps;
    rig_compute(b_side());
    r->count = RIG_N;
    r->eps = RIG_EPS;
}

static void test_number_hidden(void **state)
{
    (void)state;
    const float eps[] = {1e-4f, 1e-6f, RIG_EPS + 1e-3f, 2e-5f};
    for (size_t i = 0; i < sizeof eps / sizeof eps[0]; i++) {
        rig_init(&run);
        bool is_usual = i + 1 < sizeof eps / sizeof eps[0];
        hide(RIG_N, eps[i]);
        judge();
        expect(is_usual ? VERDICT_CONFIRMED : VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_B);
        assert_true(run.f.is_hidden);
        assert_int_equal(run.f.number, EVIDENCE_NUMBER_EPS);
        assert_true(run.f.number_given == (double)RIG_EPS);
        assert_true(fabs(run.f.number_used - (double)eps[i]) < 1e-3 * (double)eps[i]);
        assert_true(run.f.eps_min <= (double)eps[i] && (double)eps[i] <= run.f.eps_max);
        assert_int_equal(run.f.numbers.eps_match, 1);
    }
    expect_phrase("eps 2e-05 for 1e-05"); /* solved, and told as its simplest decimal */
    rig_init(&run);
    hide(RIG_N - 1, RIG_EPS);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_B);
    expect_phrase("mean over 95 for 96");
    rig_init(&run);
    hide(89, RIG_EPS); /* in no list: solved from the inverse rms, and certain of nothing */
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_B);
    expect_phrase("mean over 89 for 96");
}

/* Beyond 1e-2 a solved eps does not count. */
static void test_number_out_of_range(void **state)
{
    (void)state;
    rig_init(&run);
    hide(RIG_N, 0.0123f);
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_KERNEL_MATH, SIDES_B);
    assert_true(run.f.eps_min > run.f.eps_max);
}

/* Without the model, the other norms say which eps is right; if they do not, nothing does. */
static void test_eps_from_other_norms(void **state)
{
    (void)state;
    rig_init(&run);
    run.c.eps = NAN;
    trace_record other = {.kind = TRACE_ROW, .name = STAGE_ATTN_NORM, .layer = 0, .has_norm = 1,
                          .eps = RIG_EPS, .pass = 0};
    rig_add(&run.side[SIDE_A], other);
    run.side[SIDE_A].norm->eps = 1e-4f;
    rig_compute(&run.side[SIDE_A]);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_A);

    rig_init(&run);
    run.c.eps = NAN;
    b_side()->norm->eps = 1e-4f;
    rig_compute(b_side());
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_NONE);
    expect_phrase("nothing says which is right");
    rig_add(&run.side[SIDE_A], other);
    other.layer = 1;
    other.eps = 1e-4f;
    rig_add(&run.side[SIDE_A], other); /* they disagree */
    run.c.eps = NAN;
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_NONE);

    rig_init(&run);
    run.c.eps = NAN;
    judge();
    expect(VERDICT_EQUAL, CAUSE_NONE, SIDES_NONE);
    assert_false(run.f.changed_no_bit);
}

/* ---- C -------------------------------------------------------------------------------------- */

static void test_weight_arrangements(void **state)
{
    (void)state;
    const char *kind[] = {"weights reversed", "halves of the weights swapped",
                          "weights at index 2i mod n", "weights transposed from 8 x 12"};
    for (int k = 0; k < 4; k++) {
        rig_init(&run);
        for (int i = 0; i < RIG_N; i++) {
            int at[] = {RIG_N - 1 - i, (i + RIG_N / 2) % RIG_N, 2 * i % RIG_N, i % 8 * 12 + i / 8};
            b_side()->w[i] = run.side[SIDE_A].w[at[k]];
        }
        rig_compute(b_side());
        judge();
        expect(VERDICT_CONFIRMED, CAUSE_WEIGHT_LAYOUT, SIDES_B);
        assert_string_equal(run.f.weight.kind, kind[k]);
        assert_int_equal(run.f.weight.is_permutation, k != 2); /* 2i mod 96 repeats even ones */
        assert_false(run.f.weight.is_other_tensor);
        assert_int_equal(run.f.numbers.weight_hash_match, 0);
        assert_true(run.f.numbers.weight_mae > 0);
    }
}

static void test_weight_unknown_order(void **state)
{
    (void)state;
    rig_init(&run);
    float first = b_side()->w[0];
    b_side()->w[0] = b_side()->w[5];
    b_side()->w[5] = first;
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_WEIGHT_LAYOUT, SIDES_B);
    assert_true(run.f.weight.is_permutation);
    assert_string_equal(run.f.weight.kind, "");
    expect_phrase("in another order");
}

static void test_weight_of_other_layer(void **state)
{
    (void)state;
    rig_init(&run);
    rig_weight(STAGE_FFN_NORM, 2, b_side()->w);
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_WEIGHT_LAYOUT, SIDES_B);
    assert_true(run.f.weight.is_other_tensor);
    assert_string_equal(run.f.weight.tensor, "blk.2.ffn_norm.weight");
    assert_int_equal(run.f.weight.layer, 2);
    expect_phrase("blk.2.ffn_norm.weight for blk.1.ffn_norm.weight");
}

/* The kernel rearranges weights that it was handed in order. */
static void test_weight_hidden(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    for (int i = 0; i < RIG_N; i++) {
        float scaled = b->x[i] * b->norm->inv_rms;
        b->y[i] = scaled * b->w[RIG_N - 1 - i];
    }
    rig_refresh(b);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_WEIGHT_LAYOUT, SIDES_B);
    assert_true(run.f.is_hidden);
    expect_phrase("weights reversed");
}

/* The two sides ran different files, each as its file says. */
static void test_weights_differ(void **state)
{
    (void)state;
    rig_init(&run);
    rig_side *b = b_side();
    b->w[9] += 0.25f;
    rig_compute(b);
    for (size_t i = 0; i < b->trace.n_record; i++) {
        if (b->record[i].kind == TRACE_WEIGHT && b->record[i].layer == RIG_LAYER) {
            b->record[i].weight[0].hash = rig_hash(b->w, RIG_N);
        }
    }
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_WEIGHTS_DIFFER, SIDES_NONE);
}

/* ---- D -------------------------------------------------------------------------------------- */

static void formula(int which, rig_side *b)
{
    float sumsq = rig_sumsq(b->x, RIG_N), mean = sumsq / (float)RIG_N, inverse = b->norm->inv_rms;
    float w[RIG_N], x[RIG_N];
    double total = 0;
    memcpy(w, b->w, sizeof w);
    memcpy(x, b->x, sizeof x);
    for (int i = 0; i < RIG_N; i++) {
        total += (double)x[i];
    }
    switch (which) {
    case 0:
        inverse = 1.0f / sqrtf(sumsq + RIG_EPS);
        break;
    case 1:
        inverse = 1.0f / (mean + RIG_EPS);
        break;
    case 2:
        inverse = 1.0f / (sqrtf(mean) + RIG_EPS);
        break;
    case 3:
        for (int i = 0; i < RIG_N; i++) {
            x[i] -= (float)(total / RIG_N);
        }
        inverse = rig_inverse(rig_sumsq(x, RIG_N), RIG_N, RIG_EPS);
        break;
    case 4:
        for (int i = 0; i < RIG_N; i++) {
            w[i] += 1.0f;
        }
        break;
    default:
        for (int i = 0; i < RIG_N; i++) {
            w[i] = 1.0f;
        }
        break;
    }
    b->norm->inv_rms = inverse;
    rig_scale(x, inverse, w, b->y);
    rig_refresh(b);
}

static void test_formulas(void **state)
{
    (void)state;
    const char *phrase[] = {"sum of squares for their mean", "no root",  "eps outside the root",
                            "mean subtracted", "1 + weight for weight", "weight missing"};
    for (int which = 0; which < 6; which++) {
        rig_init(&run);
        run.c.head_dim = RIG_N; /* one head: a count of 1 is the sum for the mean, and no number */
        formula(which, b_side());
        judge();
        expect(VERDICT_CONFIRMED, CAUSE_KERNEL_MATH, SIDES_B);
        assert_true(run.f.is_hidden);
        expect_phrase(phrase[which]);
    }
}

static void test_formula_unknown(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->y[11] *= 1.5f;
    rig_refresh(b_side());
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_KERNEL_MATH, SIDES_B);
    assert_int_equal(run.f.n_fit, 0);
    expect_phrase("no formula tried");
}

static void test_nonfinite_origin(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->y[11] = NAN;
    b_side()->y[12] = INFINITY;
    rig_refresh(b_side());
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_NONFINITE_ORIGIN, SIDES_B);
    expect_phrase("2 values");
    assert_int_equal(run.f.numbers.n_nonfinite, 2);
}

/* ---- R and ties ----------------------------------------------------------------------------- */

/* A sum in index order that ends in other bits than the canonical one. */
static void test_rounding(void **state)
{
    (void)state;
    for (int32_t seed = 0; seed < 64; seed++) {
        rig_init(&run);
        for (side s = SIDE_A; s < SIDE_COUNT; s++) {
            rig_side *r = &run.side[s];
            rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 1000 + seed, r->x);
            rig_compute(r);
            r->trace.n_record = 0;
        }
        rig_side *b = b_side();
        float sum = 0;
        for (int i = 0; i < RIG_N; i++) {
            sum += b->x[i] * b->x[i];
        }
        float inverse = rig_inverse(sum, RIG_N, RIG_EPS);
        if (inverse == b->norm->inv_rms) {
            continue;
        }
        b->norm->inv_rms = inverse;
        rig_scale(b->x, inverse, b->w, b->y);
        rig_refresh(b);
        judge();
        assert_int_equal(run.f.cause, CAUSE_ROUNDING); /* an eps may fit as well: then suspected */
        assert_true(run.f.fit_causes & 1u << CAUSE_ROUNDING);
        bool is_alone = run.f.fit_causes == 1u << CAUSE_ROUNDING;
        expect(is_alone ? VERDICT_CONFIRMED : VERDICT_SUSPECTED, CAUSE_ROUNDING, SIDES_B);
        return;
    }
    fail_msg("no row tells the orders apart");
}

/* Which hypotheses also fit, by decree, beside what a hidden eps leaves: state, bucket. */
static void test_ties(void **state)
{
    (void)state;
    rig_init(&run);
    hide(RIG_N, 1e-4f);
    replay_sides();
    item_find(SIDE_B, "squares summed pairwise")->fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_ROUNDING, SIDES_B);
    assert_int_equal(run.f.fit_causes, 1u << CAUSE_ROUNDING | 1u << CAUSE_NORM_STATS);
    item_find(SIDE_B, "squares summed pairwise")->fits = false;
    item_find(SIDE_B, "no root")->fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_B);
    assert_int_equal(run.f.fit_causes, 1u << CAUSE_KERNEL_MATH | 1u << CAUSE_NORM_STATS);
    assert_true(run.f.n_fit >= 2);

    /* A number the record admits, which an order of summation would explain too. */
    rig_init(&run);
    b_side()->norm->eps = 1e-4f;
    rig_compute(b_side());
    replay_sides();
    item_find(SIDE_B, "squares summed pairwise")->fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_B);
    assert_true(run.f.fit_causes & 1u << CAUSE_ROUNDING);
}

/* A solved number yields to a formula, never to rounding, and alone confirms nothing. */
static void test_solved_yields(void **state)
{
    (void)state;
    rig_init(&run);
    hide(RIG_N, 2e-5f);
    replay_sides();
    for (int i = 0; i < run.evidence[SIDE_B].n; i++) { /* counts that happen to fit */
        evidence *e = &run.evidence[SIDE_B].item[i];
        e->fits = e->fits && e->is_solved;
    }
    item_find(SIDE_B, "no root")->fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_CONFIRMED, CAUSE_KERNEL_MATH, SIDES_B);
    item_find(SIDE_B, "no root")->fits = false;
    item_find(SIDE_B, "squares summed in 8 lanes")->fits = true;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_ROUNDING, SIDES_B);
    item_find(SIDE_B, "squares summed in 8 lanes")->fits = false;
    norm_classify(&run.c, &run.f);
    expect(VERDICT_SUSPECTED, CAUSE_NORM_STATS, SIDES_B);
}

/* ---- Several faults ------------------------------------------------------------------------- */

static void test_two_causes(void **state)
{
    (void)state;
    rig_init(&run);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b_side()->x);
    rig_weight(STAGE_FFN_NORM, 2, b_side()->w);
    rig_compute(b_side());
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_INPUT_SELECTION, SIDES_B);
    assert_int_equal(run.f.fit_causes, 1u << CAUSE_INPUT_SELECTION | 1u << CAUSE_WEIGHT_LAYOUT);
    expect_phrase("position 0");
    expect_phrase("blk.2.ffn_norm.weight");
}

static void test_fault_behind_fault(void **state)
{
    (void)state;
    rig_init(&run);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, 0, b_side()->x);
    hide(RIG_N, 1e-4f);
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_INPUT_SELECTION, SIDES_B);
    expect_phrase("alone does not give its output");
}

static void test_two_numbers(void **state)
{
    (void)state;
    rig_init(&run);
    b_side()->norm->eps = 1e-4f;
    b_side()->norm->count = RIG_N + 1;
    rig_compute(b_side());
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_B);
    expect_phrase("mean over 97 for 96; eps 0.0001 for 1e-05");
}

static void test_both_sides(void **state)
{
    (void)state;
    rig_init(&run);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) { /* equal bits, and both wrong */
        run.side[s].norm->eps = 1e-4f;
        rig_compute(&run.side[s]);
    }
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_BOTH);
    run.side[SIDE_A].norm->eps = RIG_EPS; /* each proven, of two causes */
    formula(1, &run.side[SIDE_A]);
    judge();
    expect(VERDICT_SUSPECTED, CAUSE_KERNEL_MATH, SIDES_BOTH);
    expect_phrase("run A: no root; run B: eps 0.0001");
    assert_int_equal(run.f.fit_causes, 1u << CAUSE_KERNEL_MATH | 1u << CAUSE_NORM_STATS);
}

static void test_fault_beside_inheritance(void **state)
{
    (void)state;
    rig_init(&run);
    differ_upstream();
    hide(RIG_N, 1e-4f);
    judge();
    expect(VERDICT_CONFIRMED, CAUSE_NORM_STATS, SIDES_B);
    assert_true(run.f.is_inherited_too);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_inherited),
        cmocka_unit_test(test_inherited_past_a_number),
        cmocka_unit_test(test_absorbed),
        cmocka_unit_test(test_changed_no_bit),
        cmocka_unit_test(test_input_selection),
        cmocka_unit_test(test_input_selection_of_run_a),
        cmocka_unit_test(test_input_unknown),
        cmocka_unit_test(test_input_reordered),
        cmocka_unit_test(test_input_of_other_run),
        cmocka_unit_test(test_source_prefers_named_place),
        cmocka_unit_test(test_source_prefers_latest),
        cmocka_unit_test(test_source_without_index),
        cmocka_unit_test(test_producer),
        cmocka_unit_test(test_number_given),
        cmocka_unit_test(test_number_hidden),
        cmocka_unit_test(test_number_out_of_range),
        cmocka_unit_test(test_eps_from_other_norms),
        cmocka_unit_test(test_weight_arrangements),
        cmocka_unit_test(test_weight_unknown_order),
        cmocka_unit_test(test_weight_of_other_layer),
        cmocka_unit_test(test_weight_hidden),
        cmocka_unit_test(test_weights_differ),
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_formula_unknown),
        cmocka_unit_test(test_nonfinite_origin),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_solved_yields),
        cmocka_unit_test(test_two_causes),
        cmocka_unit_test(test_fault_behind_fault),
        cmocka_unit_test(test_two_numbers),
        cmocka_unit_test(test_both_sides),
        cmocka_unit_test(test_fault_beside_inheritance),
    };
    return cmocka_run_group_tests_name("explain", tests, NULL, NULL);
}
