/* test_isolate.c - the main job on tiny models: clean runs agree, planted faults are named, and
 * what is no pair is refused.
 *
 * Runs go through greta_isolate and are read back from its JSON; the matrix of plants goes
 * through the steps of verdict/isolate.h (plant_bench.h). What a plant must be called comes from
 * the catalogue, what it must be seen to read from the description of the plant.
 */
#include "isolate_rig.h"
#include "replay/norm_variant.h"
#include "report/report.h"

/* ---- Clean runs ------------------------------------------------------------------------------ */

static void assert_aligned(json_t *p)
{
    json_t *coverage = json_object_get(p, "coverage");
    assert_string_equal(text_at(p, "state"), "EQUAL");
    assert_string_equal(text_at(p, "bucket"), "NONE");
    assert_true(whole_at(coverage, "stages") >= N_LAYER * 16);
    assert_int_equal(whole_at(coverage, "equal"), whole_at(coverage, "stages"));
    assert_true(json_is_true(json_object_get(p, "tracing_keeps_logits")));
    assert_true(json_is_true(json_object_get(json_object_get(p, "canary"), "found")));
    json_t *norms = json_object_get(p, "norms");
    assert_int_equal(json_array_size(norms), N_LAYER);
    for (size_t i = 0; i < N_LAYER; i++) {
        json_t *numbers = json_object_get(json_array_get(norms, i), "numbers");
        assert_string_equal(text_at(json_array_get(norms, i), "bucket"), "NONE");
        assert_true(json_real_value(json_object_get(numbers, "output_mae")) == 0.0);
        assert_true(json_is_true(json_object_get(numbers, "eps_match")));
    }
}

static void clean_runs_are_aligned(void **state)
{
    static const struct {
        int32_t chunk;
        greta_kv kv;
        greta_act act;
        greta_e1 mode;
    } cases[] = {
        {0, GRETA_KV_F16, GRETA_ACT_Q8, GRETA_E1_FRESH},
        {2, GRETA_KV_F32, GRETA_ACT_F32, GRETA_E1_FRESH},
        {3, GRETA_KV_F16, GRETA_ACT_F32, GRETA_E1_TRUNCATE},
        {4, GRETA_KV_F32, GRETA_ACT_Q8, GRETA_E1_FRESH},
        {5, GRETA_KV_F16, GRETA_ACT_Q8, GRETA_E1_TRUNCATE},
        {0, GRETA_KV_F32, GRETA_ACT_F32, GRETA_E1_TRUNCATE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        greta_isolate_options o = options_for("clean");
        o.session.n_chunk = cases[i].chunk;
        o.session.kv = cases[i].kv;
        o.session.act = cases[i].act;
        o.mode = cases[i].mode;
        /* 6 tokens in chunks of 5 end on one row: then only the other two prompts. */
        size_t skip = cases[i].chunk == 5;
        json_t *root = run(&o, prompts + skip, N_PROMPT - skip, GRETA_OK);
        for (size_t k = 0; k < N_PROMPT - skip; k++) {
            assert_aligned(prompt_at(root, k));
        }
        json_decref(root);
    }
}

static void tracing_changes_no_bit(void **state)
{
    greta_error err = {0};
    greta_session *plain, *traced;
    greta_trace_options t = {
        .size = sizeof t, .path = NULL, .tokens = "last", .sample = -1, .overwrite = 1};
    char path[TINY_PATH];
    (void)state;
    snprintf(path, sizeof path, "%s.jsonl", folder("bits"));
    t.path = path;
    size_t bytes = (size_t)greta_model_describe(model).n_vocab * sizeof(float);
    check(greta_session_new(model, NULL, &plain, &err), &err);
    check(greta_session_new(model, NULL, &traced, &err), &err);
    check(greta_trace_begin(traced, &t, &err), &err);
    check(greta_session_feed(plain, tokens[2], N_TOKEN, 0, &err), &err);
    check(greta_session_feed(traced, tokens[2], N_TOKEN, 0, &err), &err);
    check(greta_trace_end(traced, "complete", &err), &err);
    assert_memory_equal(greta_session_logits(plain, 0), greta_session_logits(traced, 0), bytes);
    greta_session_free(plain);
    greta_session_free(traced);
}

/* ---- Plants ---------------------------------------------------------------------------------- */

/* Under sanitizers `make check` plants on the first prompt, `make check-long` on all. */
static int prompts_planted(void)
{
#ifdef SANITIZED
    return getenv("GRETA_WHOLE") ? N_PROMPT : 1;
#else
    return N_PROMPT;
#endif
}

/* Every fault of a norm, in every layer, on every prompt; what changes nothing is counted apart and
 * told. */
static void every_plant_is_named(void **state)
{
    const int n_prompt = prompts_planted();
    size_t n_kind, count[PLANT_MISSED + 1] = {0};
    const fault_kind *kind = fault_kinds(&n_kind);
    (void)state;
    for (int i = 0; i < n_prompt; i++) {
        greta_error err = {0};
        greta_isolate_options o = options_for("plants");
        plant_bench bench;
        analysis_prompt judged;
        check(folder_make(o.out, &err), &err);
        check(bench_open(&bench, model, &prompts[i], &o, &err), &err);
        check(bench_run(&bench, NULL, -1, &judged, &err), &err);
        assert_int_equal(judged.verdict, GRETA_OK);
        analysis_prompt_free(&judged);
        for (size_t k = 0; k < n_kind; k++) {
            if (!bench_takes(&kind[k])) {
                continue;
            }
            size_t n_named = 0;
            for (int32_t layer = kind[k].layer_min; layer < N_LAYER; layer++) {
                check(bench_run(&bench, &kind[k], layer, &judged, &err), &err);
                plant_outcome outcome = bench_outcome(&bench, &kind[k], layer, &judged);
                count[outcome]++;
                n_named += outcome == PLANT_NAMED;
                if (outcome == PLANT_MISSED) {
                    const norm_line *norm = analysis_decisive(&judged);
                    fail_msg("%s, layer %d, %s: %s %s (%s)", kind[k].name, (int)layer,
                             prompts[i].id, analysis_bucket(judged.state, judged.cause),
                             verdict_state_name(judged.state), norm ? norm->found.phrase : "-");
                }
                analysis_prompt_free(&judged);
            }
            if (n_named == 0) {
                fail_msg("%s is named in no layer on %s", kind[k].name, prompts[i].id);
            }
        }
        bench_close(&bench);
    }
    print_message("plants: %zu named; apart: %zu change no bit, %zu are another order of a sum\n",
                  count[PLANT_NAMED], count[PLANT_NO_BIT], count[PLANT_ROUNDING]);
}

/* An instrument that changes what it measures gives no verdict, whatever it measured. */
static void tracing_that_changes_logits_is_suspect(void **state)
{
    greta_error err = {0};
    greta_isolate_options o = options_for("suspect");
    plant_bench bench;
    analysis_prompt judged;
    (void)state;
    check(folder_make(o.out, &err), &err);
    check(bench_open(&bench, model, &prompts[1], &o, &err), &err);
    check(bench_run(&bench, fault_find("ffn_norm-no-root"), 1, &judged, &err), &err);
    assert_int_equal(judged.verdict, GRETA_FAULT);
    analysis_prompt_free(&judged);
    judged.tracing = TRACING_OTHER_LOGITS;
    check(bench_judge(&bench, &judged, &err), &err);
    assert_int_equal(judged.verdict, GRETA_NO_VERDICT);
    assert_int_equal(judged.state, VERDICT_INSTRUMENT_SUSPECT);
    analysis_prompt_free(&judged);
    bench_close(&bench);
}

/* A race is located where it happened, and never confirmed: the next run shows something else. */
static void a_run_that_does_not_repeat_is_told(void **state)
{
    greta_isolate_options o = options_for("race");
    (void)state;
    o.fault = "matmul-racing";
    o.fault_layer = 1;
    json_t *root = run(&o, &prompts[1], 1, GRETA_FAULT), *p = prompt_at(root, 0);
    json_t *line = json_array_get(json_object_get(p, "ops"), 0);
    assert_string_equal(text_at(p, "state"), "SUSPECTED");
    assert_string_equal(text_at(p, "bucket"), "D_kernel_math");
    assert_string_equal(text_at(line, "stage"), "up");
    assert_int_equal(whole_at(line, "layer"), 1);
    assert_non_null(strstr(text_at(line, "phrase"), "does not repeat"));
    json_decref(root);
}

/* The same through the command, in both modes of E1, with the source read from the JSON. */
static void plants_through_the_command(void **state)
{
    static const struct {
        const char *fault, *bucket, *source;
        int32_t layer, source_layer, source_position, chunk;
        greta_e1 mode;
    } cases[] = {
        {"ffn_norm-reads-previous-position", "A_input_selection", "x_after_attn", 1, 1, 16, 0,
         GRETA_E1_FRESH},
        {"ffn_norm-reads-previous-position", "A_input_selection", "x_after_attn", 1, 1, 16, 4,
         GRETA_E1_TRUNCATE},
        {"ffn_norm-reads-chunk-row-0", "A_input_selection", "x_after_attn", 2, 2, 12, 6,
         GRETA_E1_FRESH},
        {"ffn_norm-reads-chunk-row-0", "A_input_selection", "x_after_attn", 0, 0, 12, 6,
         GRETA_E1_TRUNCATE},
        {"ffn_norm-reads-layer-before", "A_input_selection", "x_after_attn", 2, 1, 17, 0,
         GRETA_E1_TRUNCATE},
        {"ffn_norm-reads-attn_norm-input", "A_input_selection", "embed", 0, -1, 17, 0,
         GRETA_E1_FRESH},
        {"ffn_norm-eps-times-10-hidden", "B_norm_stats", NULL, 0, 0, 0, 0, GRETA_E1_TRUNCATE},
        {"ffn_norm-mean-over-n-minus-1", "B_norm_stats", NULL, 1, 0, 0, 0, GRETA_E1_FRESH},
        {"ffn_norm-weights-stride-2", "C_weight_layout", NULL, 1, 0, 0, 0, GRETA_E1_TRUNCATE},
        {"ffn_norm-weights-other-layer", "C_weight_layout", NULL, 2, 0, 0, 0, GRETA_E1_FRESH},
        {"ffn_norm-weight-plus-1", "D_kernel_math", NULL, 2, 0, 0, 0, GRETA_E1_TRUNCATE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        greta_isolate_options o = options_for("command");
        o.fault = cases[i].fault;
        o.fault_layer = cases[i].layer;
        o.mode = cases[i].mode;
        o.session.n_chunk = cases[i].chunk;
        json_t *root = run(&o, &prompts[1], 1, GRETA_FAULT);
        json_t *p = prompt_at(root, 0), *norm = decisive(p);
        assert_non_null(norm);
        assert_string_equal(text_at(p, "state"), "CONFIRMED");
        assert_string_equal(text_at(p, "bucket"), cases[i].bucket);
        assert_string_equal(text_at(norm, "stage"), "ffn_norm");
        assert_int_equal(whole_at(norm, "layer"), cases[i].layer);
        assert_true(json_is_true(json_object_get(p, "tracing_keeps_logits")));
        if (cases[i].source) {
            json_t *source = json_object_get(norm, "source");
            assert_string_equal(text_at(source, "stage"), cases[i].source);
            assert_int_equal(whole_at(source, "layer"), cases[i].source_layer);
            assert_int_equal(whole_at(source, "position"), cases[i].source_position);
        }
        json_decref(root);
    }
}

/* The layer is drawn from the seed, and the first table need not hold it: it is found all the
 * same. */
static void the_seed_draws_the_layer(void **state)
{
    int seen[N_LAYER] = {0};
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        greta_isolate_options o = options_for("seed");
        o.fault = "ffn_norm-no-root";
        o.seed = seed;
        o.layers = NULL;
        json_t *root = run(&o, prompts, 1, GRETA_FAULT);
        json_t *norm = decisive(prompt_at(root, 0));
        assert_non_null(norm);
        assert_string_equal(text_at(norm, "bucket"), "D_kernel_math");
        seen[whole_at(norm, "layer")] = 1;
        json_decref(root);
    }
    assert_true(seen[0] + seen[1] + seen[2] >= 2);
}

/* ---- No verdict ------------------------------------------------------------------------------ */

static void e0_is_not_comparable(void **state)
{
    (void)state;
    for (int faulty = 0; faulty < 2; faulty++) {
        greta_isolate_options o = options_for("e0");
        o.mode = GRETA_E0;
        o.fault = faulty ? "ffn_norm-reads-previous-position" : NULL;
        json_t *root = run(&o, prompts, N_PROMPT, GRETA_NO_VERDICT);
        for (size_t i = 0; i < N_PROMPT; i++) {
            json_t *p = prompt_at(root, i), *fields = json_object_get(p, "mismatch");
            assert_string_equal(text_at(p, "state"), "NOT_COMPARABLE");
            assert_string_equal(text_at(p, "bucket"), "NOT_COMPARABLE");
            assert_true(json_array_size(fields) >= 2); /* the next token can be the same one */
            assert_string_equal(text_at(json_array_get(fields, 0), "field"), "position");
            char next[32];
            snprintf(next, sizeof next, "%zu", lengths[i]);
            assert_string_equal(text_at(json_array_get(fields, 0), "decode0"), next);
            json_t *norms = json_object_get(p, "norms");
            assert_int_equal(json_array_size(norms), N_LAYER);
            for (size_t k = 0; k < N_LAYER; k++) {
                json_t *norm = json_array_get(norms, k);
                assert_string_equal(text_at(norm, "bucket"), "NOT_COMPARABLE");
                assert_true(
                    json_is_null(json_object_get(json_object_get(norm, "numbers"), "input_mae")));
            }
        }
        json_decref(root);
    }
}

static void one_path_is_no_comparison(void **state)
{
    static const struct {
        size_t n;
        int32_t chunk;
        const char *fault, *reason;
        greta_e1 mode;
    } cases[] = {
        {1, 0, NULL, "one token", GRETA_E1_FRESH},
        {1, 0, NULL, "one token", GRETA_E1_TRUNCATE},
        {2, 1, NULL, "chunk of one", GRETA_E1_FRESH},
        {5, 4, NULL, "chunk of one", GRETA_E1_FRESH},
        {5, 2, NULL, "chunk of one", GRETA_E1_TRUNCATE},
        {6, 4, "ffn_norm-reads-chunk-row-0", "plant rows", GRETA_E1_FRESH},
        {2, 0, "ffn_norm-reads-chunk-row-0", "plant rows", GRETA_E1_FRESH},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        greta_isolate_options o = options_for("one");
        greta_prompt p = {"p", tokens[0], cases[i].n};
        o.session.n_chunk = cases[i].chunk;
        o.mode = cases[i].mode;
        o.fault = cases[i].fault;
        json_t *root = run(&o, &p, 1, GRETA_NO_VERDICT);
        assert_string_equal(text_at(prompt_at(root, 0), "reason"), cases[i].reason);
        assert_string_equal(text_at(prompt_at(root, 0), "state"), "UNMEASURED");
        json_decref(root);
        greta_error err = {0};
        assert_int_equal(greta_trace_pair(model, &p, &o, &err), GRETA_NO_VERDICT);
        assert_int_equal(err.code, GRETA_NO_VERDICT);
    }
}

/* Two tokens and chunks of two: the smallest pair there is. */
static void the_smallest_pair(void **state)
{
    greta_isolate_options o = options_for("smallest");
    greta_prompt p = {"p", tokens[0], 2};
    (void)state;
    o.session.n_chunk = 2;
    json_decref(run(&o, &p, 1, GRETA_OK));
    o.fault = "ffn_norm-reads-previous-position";
    json_t *root = run(&o, &p, 1, GRETA_FAULT);
    assert_string_equal(text_at(prompt_at(root, 0), "bucket"), "A_input_selection");
    json_decref(root);
}

static void the_worst_prompt_decides(void **state)
{
    greta_isolate_options o = options_for("worst");
    greta_prompt mixed[2] = {prompts[0], {"one", tokens[0], 1}};
    (void)state;
    json_decref(run(&o, mixed, 2, GRETA_NO_VERDICT)); /* aligned, and no verdict */
    o.fault = "ffn_norm-no-root";
    json_t *root = run(&o, mixed, 2, GRETA_FAULT); /* a fault, and no verdict */
    assert_string_equal(text_at(prompt_at(root, 1), "verdict"), "no verdict");
    json_decref(root);
}

/* ---- Usage ----------------------------------------------------------------------------------- */

static void assert_refused(const greta_isolate_options *o, const greta_prompt *p, size_t n,
                           greta_status expected)
{
    greta_error err = {0};
    greta_status verdict;
    char *printed;
    greta_status status = greta_isolate(model, p, n, o, 0, &printed, &verdict, &err);
    if (status != expected || err.code != expected) {
        fail_msg("status %d, expected %d: %s", (int)status, (int)expected, err.message);
    }
    assert_true(err.message[0] != '\0');
    assert_null(printed);
}

static void usage_is_checked_before_the_run(void **state)
{
    greta_isolate_options good = options_for("usage"), o = good;
    greta_prompt twice[2] = {prompts[0], prompts[0]};
    static const char *const bad_id[] = {"", "sub/a", ".hidden", "tab\there", "\xff"};
    (void)state;
    char path[TINY_PATH];
    greta_error err = {0};
    snprintf(path, sizeof path, "%s/sub", o.out);
    check(folder_make(path, &err), &err);
    assert_refused(&o, NULL, 0, GRETA_USAGE);
    assert_refused(&o, twice, 2, GRETA_USAGE);
    for (size_t i = 0; i < sizeof bad_id / sizeof *bad_id; i++) {
        greta_prompt p = {bad_id[i], tokens[0], 6};
        assert_refused(&o, &p, 1, GRETA_USAGE);
    }
    greta_prompt empty = {"empty", tokens[0], 0};
    assert_refused(&o, &empty, 1, GRETA_BAD_INPUT);
    o.session.n_ctx = 17; /* one less than the prompt */
    assert_refused(&o, &prompts[1], 1, GRETA_BAD_INPUT);
    o = good;
    o.layers = "0,3";
    assert_refused(&o, prompts, 1, GRETA_USAGE);
    snprintf(path, sizeof path, "%s/short.prefill.jsonl", o.out);
    assert_int_not_equal(access(path, F_OK), 0); /* before anything ran */
    o = good;
    o.fault = "no-such-fault";
    assert_refused(&o, prompts, 1, GRETA_USAGE);
    o.fault = "ffn_norm-reads-layer-before";
    o.fault_layer = 0;
    assert_refused(&o, prompts, 1, GRETA_USAGE);
    o.fault_layer = N_LAYER;
    assert_refused(&o, prompts, 1, GRETA_USAGE);
    o.from = o.out;
    assert_refused(&o, NULL, 0, GRETA_USAGE); /* a fault in traces */
    o = good;
    o.out = NULL;
    assert_refused(&o, prompts, 1, GRETA_USAGE);
}

static void reports_are_not_overwritten(void **state)
{
    greta_isolate_options o = options_for("kept");
    (void)state;
    json_decref(run(&o, prompts, 1, GRETA_OK));
    o.overwrite = 0;
    assert_refused(&o, prompts, 1, GRETA_USAGE);
    o.from = o.out; /* here only the reports are in the way */
    assert_refused(&o, NULL, 0, GRETA_USAGE);
}

static void exact_context_fits(void **state)
{
    greta_isolate_options o = options_for("context");
    (void)state;
    o.session.n_ctx = 18;
    json_decref(run(&o, &prompts[1], 1, GRETA_OK));
    o.mode = GRETA_E0; /* decodes one more */
    assert_refused(&o, &prompts[1], 1, GRETA_BAD_INPUT);
}

/* ---- Reports --------------------------------------------------------------------------------- */

static char *read_file(const char *name, const char *path_of)
{
    char path[TINY_PATH];
    snprintf(path, sizeof path, "%s/%s", path_of, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *content = calloc(1, 1 << 20);
    assert_non_null(content);
    assert_true(fread(content, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return content;
}

static void assert_has(const char *content, const char *part)
{
    if (!strstr(content, part)) {
        fail_msg("no \"%s\" in:\n%.2000s", part, content);
    }
}

static void reports_follow_the_data(void **state)
{
    greta_isolate_options o = options_for("reports");
    (void)state;
    o.fault = "ffn_norm-reads-previous-position";
    o.fault_layer = 1;
    json_decref(run(&o, &prompts[1], 1, GRETA_FAULT));
    char *tsv = read_file("analysis.tsv", o.out), *report = read_file("report.md", o.out);
    assert_has(tsv,
               "\nprompt\tlayer\tinput_mae\tweight_mae\toutput_mae\teps_match\tsumsq_delta\t"
               "inv_rms_delta\tinput_ptr_match\tinput_offset_match\tweight_hash_match\tbucket\n");
    assert_has(tsv, "\nmiddle\t0\t0.0\t0.0\t0.0\ttrue\t0.0\t0.0\t");
    assert_has(tsv, "\tA_input_selection\n");
    assert_has(tsv, "\nmiddle\t1\tffn_norm\tdiffers\t96\t96\t96\t");
    static const char *const titles[] = {
        "Resumen Ejecutivo (ES)", "Executive Summary (EN)", "Metodología (ES)", "Method (EN)",
        "Resultados (ES)",        "Results (EN)",           "Interpretación",   "Interpretation",
        "Comandos (ES)",          "Conclusión (ES)",        "Conclusion (EN)",  "Próximo paso (ES)",
        "Next step (EN)"};
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++) {
        assert_has(report, titles[i]);
    }
    assert_has(report, "decode0 reads ffn_norm's input from x_after_attn of position 16 "
                       "(the previous token): layer 1, position 17; A_input_selection, CONFIRMED");
    assert_has(report, "decode0 lee la entrada de ffn_norm de x_after_attn de la posición 16 "
                       "(el token anterior): capa 1, posición 17; A_input_selection, CONFIRMED");
    assert_has(report, "--fault ffn_norm-reads-previous-position --fault-layer 1");
    free(tsv);
    free(report);
}

/* Every phrase of the replay has a Spanish one. */
static void phrases_are_translated(void **state)
{
    size_t n;
    const norm_variant *variant = norm_variants(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        norm_line norm = {.name = STAGE_FFN_NORM, .layer = 0};
        text t = {0};
        norm.found.state = VERDICT_CONFIRMED;
        norm.found.cause = variant[i].cause;
        norm.found.sides = SIDES_B;
        snprintf(norm.found.phrase, sizeof norm.found.phrase, "%s", variant[i].phrase);
        say_norm(&t, LANG_ES, &norm);
        assert_false(t.failed);
        if (strstr(t.data, variant[i].phrase)) {
            fail_msg("\"%s\" has no Spanish phrase", variant[i].phrase);
        }
        text_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_runs_are_aligned),
        cmocka_unit_test(tracing_changes_no_bit),
        cmocka_unit_test(every_plant_is_named),
        cmocka_unit_test(tracing_that_changes_logits_is_suspect),
        cmocka_unit_test(a_run_that_does_not_repeat_is_told),
        cmocka_unit_test(plants_through_the_command),
        cmocka_unit_test(the_seed_draws_the_layer),
        cmocka_unit_test(e0_is_not_comparable),
        cmocka_unit_test(one_path_is_no_comparison),
        cmocka_unit_test(the_smallest_pair),
        cmocka_unit_test(the_worst_prompt_decides),
        cmocka_unit_test(usage_is_checked_before_the_run),
        cmocka_unit_test(reports_are_not_overwritten),
        cmocka_unit_test(exact_context_fits),
        cmocka_unit_test(reports_follow_the_data),
        cmocka_unit_test(phrases_are_translated),
    };
    return cmocka_run_group_tests_name("isolate", tests, setup, teardown);
}
