/* test_isolate_ops.c - faults in ops that are no norms, planted by editing the op list of decode
 * here, so that nothing hangs on the catalogue: each is named at its op, with its cause, and
 * patched; two of them come out as two, in order; what adds up, adds up.
 */
#include "isolate_rig.h"

static op_list healthy;

static int ops_setup(void **state)
{
    greta_error err = {0};
    int failed = setup(state);
    if (!failed) {
        check(op_list_build(model, ACT_CONTRACT_Q8, &healthy, &err), &err);
    }
    return failed;
}

static int ops_teardown(void **state)
{
    op_list_free(&healthy);
    return teardown(state);
}

static op *op_at(const op_list *list, stage name, int32_t layer)
{
    int32_t i = op_list_op(list, name, layer);
    assert_true(i >= 0);
    return &list->op[i];
}

/* ---- Edits ----------------------------------------------------------------------------------- */

/* Input `input` of the op is the edge of another stage. */
static void read_other(op_list *l, stage name, int32_t layer, int input, stage other, int32_t from)
{
    int32_t edge_of = op_list_edge(l, other, from);
    assert_true(edge_of >= 0);
    op_at(l, name, layer)->in[input].edge = edge_of;
}

static void gate_reads_attn_norm(op_list *l, int32_t layer)
{
    read_other(l, STAGE_GATE, layer, 0, STAGE_ATTN_NORM_Q8, layer);
}

static void wo_reads_layer_before(op_list *l, int32_t layer)
{
    read_other(l, STAGE_WO_OUT, layer, 0, STAGE_ATTN_OUT_Q8, layer - 1);
}

static void q_previous_position(op_list *l, int32_t layer)
{
    op *o = op_at(l, STAGE_Q_ROPE, layer);
    o->in[0].delay = READ_PREVIOUS_PASS;
    o->in[0].row = -1;
}

static void residual_missing(op_list *l, int32_t layer)
{
    op *o = op_at(l, STAGE_X_AFTER_ATTN, layer);
    o->in[0] = o->in[1];
}

static void residual_twice(op_list *l, int32_t layer)
{
    op *o = op_at(l, STAGE_X_AFTER_MLP, layer);
    o->in[1] = o->in[0];
}

static void key_before_rotary(op_list *l, int32_t layer)
{
    read_other(l, STAGE_K_CACHE, layer, 0, STAGE_K, layer);
}

static void value_is_key(op_list *l, int32_t layer)
{
    read_other(l, STAGE_V_CACHE, layer, 0, STAGE_K, layer);
}

static void keys_of_layer_before(op_list *l, int32_t layer)
{
    read_other(l, STAGE_ATTN_OUT, layer, 1, STAGE_K_CACHE, layer - 1);
}

static void q_weights_of_layer_before(op_list *l, int32_t layer)
{
    op_at(l, STAGE_Q, layer)->w[0] = op_at(l, STAGE_Q, layer - 1)->w[0];
}

static void gate_and_up_swapped(op_list *l, int32_t layer)
{
    op *gate = op_at(l, STAGE_GATE, layer), *up = op_at(l, STAGE_UP, layer);
    gate->w[0] = up->w[0];
}

static void norm_eps(op_list *l, int32_t layer)
{
    op_at(l, STAGE_ATTN_NORM, layer)->eps = 1e-2f;
}

static void scale_of_width(op_list *l, int32_t layer)
{
    op *o = op_at(l, STAGE_ATTN_OUT, layer);
    o->scale = 1.0f / (float)o->head_dim;
}

static void window_of_16(op_list *l, int32_t layer)
{
    op_at(l, STAGE_ATTN_OUT, layer)->window = 16;
}

static void other_activation(op_list *l, int32_t layer)
{
    op *o = op_at(l, STAGE_ACT, layer);
    o->activation = o->activation == ACTIVATION_SILU ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
}

typedef struct edit_case {
    const char *name;
    void (*edit)(op_list *l, int32_t layer);
    stage name_at;
    int32_t layer;
    cause cause;
} edit_case;

static const edit_case edits[] = {
    {"gate reads attn_norm", gate_reads_attn_norm, STAGE_GATE, 1, CAUSE_INPUT_SELECTION},
    {"wo reads the layer before", wo_reads_layer_before, STAGE_WO_OUT, 2, CAUSE_INPUT_SELECTION},
    {"q of the previous position", q_previous_position, STAGE_Q_ROPE, 1, CAUSE_INPUT_SELECTION},
    {"residual missing", residual_missing, STAGE_X_AFTER_ATTN, 1, CAUSE_STRUCTURE},
    {"residual twice", residual_twice, STAGE_X_AFTER_MLP, 0, CAUSE_STRUCTURE},
    {"key before rotary", key_before_rotary, STAGE_K_CACHE, 1, CAUSE_KV_STATE},
    {"value is key", value_is_key, STAGE_V_CACHE, 2, CAUSE_INPUT_SELECTION},
    {"keys of the layer before", keys_of_layer_before, STAGE_ATTN_OUT, 1, CAUSE_KV_STATE},
    {"q weights of the layer before", q_weights_of_layer_before, STAGE_Q, 2, CAUSE_WEIGHT_LAYOUT},
    {"up's weights for gate", gate_and_up_swapped, STAGE_GATE, 0, CAUSE_WEIGHT_LAYOUT},
    {"scale 1/d", scale_of_width, STAGE_ATTN_OUT, 1, CAUSE_SCALE},
    {"window", window_of_16, STAGE_ATTN_OUT, 2, CAUSE_MASK},
    {"activation", other_activation, STAGE_ACT, 0, CAUSE_KERNEL_MATH},
    {"eps", norm_eps, STAGE_ATTN_NORM, 1, CAUSE_NORM_STATS},
};
#define N_EDIT (sizeof edits / sizeof *edits)

/* ---- Running one ----------------------------------------------------------------------------- */

/* Decodes with the edited list, and judges. */
static void edited_run(plant_bench *b, op_list *edited, analysis_prompt *out)
{
    greta_error err = {0};
    fault_planted planted = {.list = *edited};
    isolate_decode decode = {b->session, &b->prompt, b->first, &planted, b->path[1]};
    *out = (analysis_prompt){0};
    check(isolate_decode_trace(&b->run, &decode, &err), &err);
    check(session_override_set(b->session, NULL, &err), &err);
    check(bench_judge(b, out, &err), &err);
    op_list_free(edited);
}

static void bench_start(plant_bench *b, int prompt, const char *name, analysis_prompt *clean)
{
    greta_error err = {0};
    greta_isolate_options o = options_for(name);
    check(folder_make(o.out, &err), &err);
    check(bench_open(b, model, &prompts[prompt], &o, &err), &err);
    check(bench_run(b, NULL, -1, clean, &err), &err);
    assert_int_equal(clean->verdict, GRETA_OK);
}

static size_t faults_of(const analysis_prompt *p, const op_line *fault[4])
{
    size_t n = 0;
    for (size_t i = 0; i < p->ops.n_op; i++) {
        if (p->ops.op[i].is_accused && n < 4) {
            fault[n++] = &p->ops.op[i];
        }
    }
    return n;
}

static void assert_named(const edit_case *e, const op_line *line)
{
    bool is_right = line->name == e->name_at && line->layer == e->layer &&
                    line->found.sides == SIDES_B && line->found.cause == e->cause &&
                    line->found.state == VERDICT_CONFIRMED && line->patch.state == PATCH_REMOVES;
    if (!is_right) {
        fail_msg("%s: %s layer %d, %s %s, sides %u, patch %d of %d (%s)", e->name,
                 stage_name(line->name), (int)line->layer, cause_name(line->found.cause),
                 verdict_state_name(line->found.state), line->found.sides,
                 (int)line->patch.n_removed, (int)line->patch.n_differ, line->found.phrase);
    }
}

/* ---- Tests ----------------------------------------------------------------------------------- */

/* Every op of a clean run is replayed, on both sides, and gives the recorded bits. */
static void clean_runs_are_replayed(void **state)
{
    (void)state;
    for (int i = 0; i < N_PROMPT; i++) {
        plant_bench bench;
        analysis_prompt p;
        bench_start(&bench, i, "ops-clean", &p);
        assert_true(p.ops.judged.is_judged);
        assert_int_equal(p.ops.judged.n_op, 2 * healthy.n_op);
        assert_int_equal(p.ops.judged.n_replayed, p.ops.judged.n_op);
        assert_int_equal(p.ops.judged.n_healthy, p.ops.judged.n_op);
        assert_int_equal(p.ops.judged.n_broken, 0);
        assert_int_equal(p.ops.n_op, 0);
        analysis_prompt_free(&p);
        bench_close(&bench);
    }
}

static void every_edit_is_named(void **state)
{
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    bench_start(&bench, 1, "ops-edits", &p);
    analysis_prompt_free(&p);
    for (size_t i = 0; i < N_EDIT; i++) {
        greta_error err = {0};
        op_list list;
        const op_line *fault[4] = {NULL};
        check(op_list_copy(&healthy, &list, &err), &err);
        edits[i].edit(&list, edits[i].layer);
        edited_run(&bench, &list, &p);
        assert_int_equal(p.verdict, GRETA_FAULT);
        size_t n = faults_of(&p, fault);
        if (n != 1) {
            fail_msg("%s: %zu faults", edits[i].name, n);
        }
        assert_named(&edits[i], fault[0]);
        assert_true(fault[0]->is_decisive);
        assert_true(p.ops.judged.n_terms > 0);
        assert_true(p.ops.judged.gap_max <= ldexp(1, -45)); /* the four terms add up */
        assert_true(fault[0]->terms.norm[TERM_INTRODUCED_A] == 0);
        assert_true(fault[0]->terms.norm[TERM_INTRODUCED_B] > 0);
        assert_true(fault[0]->terms.norm[TERM_POLICY] == 0);
        analysis_prompt_free(&p);
    }
    bench_close(&bench);
}

/* Any two of them at once, the second in a later layer or stage: both, in order. */
static void stacked_faults_come_in_order(void **state)
{
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    bench_start(&bench, 2, "ops-stacked", &p);
    analysis_prompt_free(&p);
    for (size_t i = 0; i < N_EDIT; i++) {
        for (size_t k = 0; k < N_EDIT; k += 3) {
            greta_error err = {0};
            op_list list;
            const op_line *fault[4] = {NULL};
            int32_t first = op_list_op(&healthy, edits[i].name_at, edits[i].layer);
            int32_t second = op_list_op(&healthy, edits[k].name_at, edits[k].layer);
            if (first >= second) {
                continue;
            }
            check(op_list_copy(&healthy, &list, &err), &err);
            edits[i].edit(&list, edits[i].layer);
            edits[k].edit(&list, edits[k].layer);
            edited_run(&bench, &list, &p);
            if (faults_of(&p, fault) != 2) {
                fail_msg("%s, then %s: %zu faults", edits[i].name, edits[k].name,
                         faults_of(&p, fault));
            }
            assert_named(&edits[i], fault[0]);
            assert_named(&edits[k], fault[1]);
            assert_true(fault[0]->is_decisive && !fault[1]->is_decisive);
            assert_true(fault[0]->patch.n_next > 0 && fault[1]->patch.n_next == 0);
            assert_true(p.ops.judged.gap_max <= ldexp(1, -45));
            analysis_prompt_free(&p);
        }
    }
    bench_close(&bench);
}

/* Matrices that were read otherwise are not kept in a trace: which way is found by replay. */
static void rearranged_matrices_are_named(void **state)
{
    static const struct {
        const char *fault;
        stage name;
        cause cause;
    } cases[] = {{"weights-rows-reversed", STAGE_UP, CAUSE_WEIGHT_LAYOUT},
                 {"weights-row-before", STAGE_GATE, CAUSE_WEIGHT_LAYOUT},
                 {"weights-zero", STAGE_MLP_OUT, CAUSE_WEIGHT_LAYOUT},
                 {"norm-missing", STAGE_FFN_NORM, CAUSE_STRUCTURE},
                 {"norm-f16-sum", STAGE_ATTN_NORM, CAUSE_PRECISION_POLICY}};
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    bench_start(&bench, 1, "ops-matrices", &p);
    analysis_prompt_free(&p);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        greta_error err = {0};
        const op_line *fault[4] = {NULL};
        const edit_case expected = {cases[i].fault, NULL, cases[i].name, 1, cases[i].cause};
        check(bench_run(&bench, fault_find(cases[i].fault), 1, &p, &err), &err);
        assert_int_equal(faults_of(&p, fault), 1);
        assert_named(&expected, fault[0]);
        assert_int_equal(p.state, VERDICT_CONFIRMED);
        analysis_prompt_free(&p);
    }
    bench_close(&bench);
}

/* An eps that is no usual one, and too large to be solved: the record admits it. The audit of the
 * run alone says so too. */
static void a_number_that_was_given_is_admitted(void **state)
{
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    greta_error err = {0};
    greta_status verdict;
    op_list list;
    char *text;
    bench_start(&bench, 1, "ops-number", &p);
    analysis_prompt_free(&p);
    check(op_list_copy(&healthy, &list, &err), &err);
    op_at(&list, STAGE_FFN_NORM, 1)->eps = 0.0317f;
    edited_run(&bench, &list, &p);
    assert_int_equal(p.state, VERDICT_CONFIRMED);
    assert_int_equal(p.cause, CAUSE_NORM_STATS);
    analysis_prompt_free(&p);
    check(greta_audit(model, bench.path[1], NULL, 1, &text, &verdict, &err), &err);
    assert_int_equal(verdict, GRETA_FAULT);
    json_t *root = json_loads(text, 0, NULL), *ops = json_object_get(root, "ops"), *line = NULL;
    for (size_t i = 0; i < json_array_size(ops) && !line; i++) {
        json_t *o = json_array_get(ops, i);
        line = json_is_true(json_object_get(o, "is_fault")) ? o : NULL;
    }
    assert_string_equal(text_at(line, "state"), "CONFIRMED");
    assert_string_equal(text_at(line, "bucket"), "B_norm_stats");
    assert_non_null(strstr(text_at(line, "phrase"), "eps 0.0317 for "));
    json_decref(root);
    greta_free(text);
    bench_close(&bench);
}

/* What no hypothesis explains is located all the same, and is no confirmed cause. */
static void the_unexplained_is_located(void **state)
{
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    greta_error err = {0};
    op_list list;
    const op_line *fault[4] = {NULL};
    bench_start(&bench, 1, "ops-unexplained", &p);
    analysis_prompt_free(&p);
    check(op_list_copy(&healthy, &list, &err), &err);
    op_at(&list, STAGE_ATTN_OUT, 1)->scale *= 1.0625f;
    op_at(&list, STAGE_ATTN_OUT, 1)->window = 7;
    edited_run(&bench, &list, &p);
    assert_int_equal(faults_of(&p, fault), 1);
    assert_int_equal(fault[0]->name, STAGE_ATTN_OUT);
    assert_int_equal(fault[0]->layer, 1);
    assert_int_equal(fault[0]->found.state, VERDICT_INCONCLUSIVE);
    assert_int_equal(fault[0]->patch.state, PATCH_REMOVES);
    assert_int_equal(p.verdict, GRETA_FAULT); /* a bit differs where bits are promised */
    assert_int_equal(p.state, VERDICT_INCONCLUSIVE);
    analysis_prompt_free(&p);
    bench_close(&bench);
}

/* What was read instead is told: stage, layer, position. */
static void provenance_is_told(void **state)
{
    (void)state;
    plant_bench bench;
    analysis_prompt p;
    bench_start(&bench, 1, "ops-source", &p);
    analysis_prompt_free(&p);
    static const struct {
        size_t edit;
        stage name;
        int32_t layer, back;
    } cases[] = {{0, STAGE_ATTN_NORM_Q8, 1, 0},
                 {1, STAGE_ATTN_OUT_Q8, 1, 0},
                 {2, STAGE_Q, 1, 1},
                 {5, STAGE_K, 1, 0},
                 {7, STAGE_K_CACHE, 0, 17}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        greta_error err = {0};
        op_list list;
        const op_line *fault[4] = {NULL};
        const edit_case *e = &edits[cases[i].edit];
        check(op_list_copy(&healthy, &list, &err), &err);
        e->edit(&list, e->layer);
        edited_run(&bench, &list, &p);
        assert_int_equal(faults_of(&p, fault), 1);
        const finding_source *s = &fault[0]->found.source;
        if (!s->is_found || s->name != cases[i].name || s->layer != cases[i].layer ||
            s->position != 17 - cases[i].back) {
            fail_msg("%s: %s", e->name, fault[0]->found.phrase);
        }
        analysis_prompt_free(&p);
    }
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_runs_are_replayed),
        cmocka_unit_test(every_edit_is_named),
        cmocka_unit_test(stacked_faults_come_in_order),
        cmocka_unit_test(rearranged_matrices_are_named),
        cmocka_unit_test(a_number_that_was_given_is_admitted),
        cmocka_unit_test(the_unexplained_is_located),
        cmocka_unit_test(provenance_is_told),
    };
    return cmocka_run_group_tests_name("isolate_ops", tests, ops_setup, ops_teardown);
}
