/* test_isolate_from.c - isolate on traces that are there: of its own runs, of the environment
 * switches, without values, cut, damaged, and changed behind its back.
 */
#include "isolate_rig.h"

#include <sys/stat.h>

/* ---- Pairs -------------------------------------------------------------------------------------
 */

static void drop_run_fields(json_t *root)
{
    for (size_t i = 0; i < json_array_size(json_object_get(root, "prompts")); i++) {
        json_object_del(prompt_at(root, i), "tracing_keeps_logits");
        static const char *const of_model[] = {"judged", "ops", "effect", "canaries",
                                               "growth"}; /* need the model */
        for (size_t k = 0; k < sizeof of_model / sizeof *of_model; k++) {
            json_object_del(prompt_at(root, i), of_model[k]);
        }
        json_object_del(prompt_at(root, i), "n_token");
    }
}

/* The analysis of traces is that of the run which wrote them. */
static void from_traces_as_from_the_run(void **state)
{
    static const char *const faults[] = {NULL, "ffn_norm-reads-previous-position",
                                         "ffn_norm-eps-times-10-hidden"};
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        greta_isolate_options o = options_for(i == 0 ? "from-0" : i == 1 ? "from-1" : "from-2");
        greta_status expected = faults[i] ? GRETA_FAULT : GRETA_OK;
        o.fault = faults[i];
        o.fault_layer = faults[i] ? 1 : -1;
        json_t *ran = run(&o, prompts, N_PROMPT, expected);
        o.from = o.out;
        o.out = NULL;
        o.fault = NULL;
        json_t *read = run(&o, NULL, 0, expected);
        /* Files are read in the order of their names. */
        static const size_t place[N_PROMPT] = {2, 1, 0};
        drop_run_fields(ran);
        drop_run_fields(read);
        for (size_t k = 0; k < N_PROMPT; k++) {
            assert_true(json_equal(prompt_at(ran, k), prompt_at(read, place[k])));
        }
        json_decref(ran);
        json_decref(read);
    }
}

static void trace_pair_writes_what_from_reads(void **state)
{
    greta_error err = {0};
    greta_isolate_options o = options_for("pair");
    (void)state;
    o.fault = "ffn_norm-weights-reversed";
    o.fault_layer = 2;
    check(greta_trace_pair(model, &prompts[1], &o, &err), &err);
    greta_isolate_options from = {.size = sizeof from, .from = o.out};
    json_t *root = run(&from, NULL, 0, GRETA_FAULT);
    assert_string_equal(text_at(prompt_at(root, 0), "id"), "middle");
    assert_string_equal(text_at(prompt_at(root, 0), "bucket"), "C_weight_layout");
    json_decref(root);
}

/* An E1 pair and an E0 run of one prompt in one folder: the lowest decode position pairs. */
static void from_a_folder_of_both_modes(void **state)
{
    greta_isolate_options o = options_for("modes");
    (void)state;
    json_decref(run(&o, prompts, 1, GRETA_OK));
    o.mode = GRETA_E0;
    json_decref(run(&o, prompts, 1, GRETA_NO_VERDICT));
    o.from = o.out;
    json_t *root = run(&o, NULL, 0, GRETA_OK);
    json_t *sides = json_object_get(prompt_at(root, 0), "sides");
    assert_int_equal(whole_at(json_object_get(sides, "decode0"), "position"), 5);
    json_decref(root);
}

/* ---- Single traces -----------------------------------------------------------------------------
 */

/* A traced run over the tokens of the first prompt. */
typedef struct traced_run {
    const char *folder, *file, *prompt_id, *stages;
    int64_t sample;
    size_t n_prefill;
    int n_decode; /* times the next token is decoded, each time dropped again */
    int32_t chunk;
    greta_act act;
    const char *fault; /* in decode, layer 1 */
} traced_run;

static void trace_run(const traced_run *r)
{
    greta_error err = {0};
    greta_session *session;
    char path[TINY_PATH];
    greta_isolate_options o = options_for(r->folder);
    greta_trace_options t = {.size = sizeof t,
                             .path = path,
                             .stages = r->stages,
                             .tokens = "last",
                             .sample = r->sample,
                             .prompt_id = r->prompt_id,
                             .overwrite = 1};
    isolate_run planted = {.model = model,
                           .options = &o,
                           .order = fault_order_of(r->fault ? fault_find(r->fault) : NULL, 1)};
    fault_planted *plant;
    int32_t at = (int32_t)r->n_prefill;
    greta_row row = {.token = tokens[0][at], .position = at, .want_logits = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    check(folder_make(o.out, &err), &err);
    snprintf(path, sizeof path, "%s/%s.jsonl", o.out, r->file);
    o.session.n_chunk = r->chunk;
    o.session.act = r->act;
    check(greta_session_new(model, &o.session, &session, &err), &err);
    check(isolate_plant(&planted, session, -1, &plant, &err), &err);
    if (plant) {
        session_override override = {
            .list = &plant->list, .table = plant->table, .phases = 1u << GRETA_PHASE_DECODE};
        check(session_override_set(session, &override, &err), &err);
    }
    check(greta_trace_begin(session, &t, &err), &err);
    check(greta_session_feed(session, tokens[0], r->n_prefill, 0, &err), &err);
    for (int i = 0; i < r->n_decode; i++) {
        check(greta_session_drop(session, 0, at, &err), &err);
        check(greta_session_eval(session, &batch, &err), &err);
    }
    check(greta_trace_end(session, "complete", &err), &err);
    greta_session_free(session);
    fault_planted_free(plant);
}

static json_t *run_from(const char *name, greta_status expected)
{
    greta_isolate_options o = options_for(name);
    o.from = o.out;
    o.layers = "0";
    return run(&o, NULL, 0, expected);
}

/* One file with prefill and the next token, as GRETA_TRACE_RMSNORM writes it: no pair. */
static void from_the_switches(void **state)
{
    (void)state;
    trace_run(&(traced_run){.folder = "switches",
                            .file = "plain",
                            .stages = "norms",
                            .sample = 1024,
                            .n_prefill = 5,
                            .n_decode = 1});
    json_t *root = run_from("switches", GRETA_NO_VERDICT);
    assert_string_equal(text_at(prompt_at(root, 0), "state"), "NOT_COMPARABLE");
    assert_string_equal(text_at(prompt_at(root, 0), "id"), "plain.jsonl");
    json_decref(root);
    trace_run(&(traced_run){.folder = "switches",
                            .file = "named",
                            .prompt_id = "named",
                            .stages = "norms",
                            .sample = 1024,
                            .n_prefill = 5});
    root = run_from("switches", GRETA_NO_VERDICT);
    assert_int_equal(json_array_size(json_object_get(root, "prompts")), 2);
    assert_string_equal(text_at(prompt_at(root, 0), "id"), "named");
    assert_string_equal(text_at(prompt_at(root, 0), "reason"), "no decode");
    assert_string_equal(text_at(prompt_at(root, 0), "state"), "UNMEASURED");
    json_decref(root);
}

/* Two single traces with one prompt id make a pair. */
static traced_run side_prefill = {.file = "a", .prompt_id = "p", .n_prefill = 6};
static traced_run side_decode = {.file = "b", .prompt_id = "p", .n_prefill = 5, .n_decode = 1};

static json_t *run_pair(const char *name, const traced_run *decode, greta_status expected)
{
    traced_run a = side_prefill, b = *decode;
    a.folder = b.folder = name;
    a.sample = b.sample;
    trace_run(&a);
    trace_run(&b);
    return run_from(name, expected);
}

/* Without values the difference is found, and its cause is not. */
static void from_hashes_alone(void **state)
{
    traced_run decode = side_decode;
    (void)state;
    json_decref(run_pair("hashes", &decode, GRETA_OK));
    decode.fault = "ffn_norm-no-root";
    json_t *root = run_pair("hashes", &decode, GRETA_FAULT);
    json_t *norm = decisive(prompt_at(root, 0));
    assert_int_equal(whole_at(norm, "layer"), 1);
    assert_string_equal(text_at(prompt_at(root, 0), "bucket"), text_at(norm, "bucket"));
    assert_string_not_equal(text_at(norm, "state"), "CONFIRMED");
    json_decref(root);
}

/* The first of two decode passes of a token counts; two rows of one key in a pass would not pair.
 */
static void a_token_decoded_twice(void **state)
{
    traced_run decode = side_decode;
    (void)state;
    decode.n_decode = 2;
    decode.sample = -1;
    json_decref(run_pair("twice", &decode, GRETA_OK));
}

static void a_pair_of_two_configurations(void **state)
{
    traced_run decode = side_decode;
    (void)state;
    decode.act = GRETA_ACT_F32;
    json_t *root = run_pair("act", &decode, GRETA_NO_VERDICT);
    json_t *fields = json_object_get(prompt_at(root, 0), "mismatch");
    assert_int_equal(json_array_size(fields), 1);
    assert_string_equal(text_at(json_array_get(fields, 0), "field"), "act");
    json_decref(root);
}

static void a_prefill_pass_of_one_row(void **state)
{
    traced_run a = side_prefill, b = side_decode;
    (void)state;
    a.folder = b.folder = "rows";
    a.chunk = 5;
    trace_run(&a);
    trace_run(&b);
    json_t *root = run_from("rows", GRETA_NO_VERDICT);
    assert_string_equal(text_at(prompt_at(root, 0), "reason"), "chunk of one");
    json_decref(root);
}

/* A stage that one side never traced is unmeasured, not equal; a fault beside it is still a fault.
 */
static void a_stage_missing_on_one_side(void **state)
{
    traced_run decode = side_decode;
    (void)state;
    decode.stages = "norms,x_after_attn";
    json_t *root = run_pair("missing", &decode, GRETA_NO_VERDICT);
    assert_string_equal(text_at(prompt_at(root, 0), "reason"), "unmeasured");
    json_decref(root);
    decode.fault = "ffn_norm-no-root";
    json_decref(run_pair("missing", &decode, GRETA_FAULT));
}

/* ---- Broken traces -----------------------------------------------------------------------------
 */

static uint64_t file_size(const char *path)
{
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    return (uint64_t)s.st_size;
}

/* A trace cut by --max-bytes never makes equal what it does not hold. */
static void a_cut_trace_is_no_proof(void **state)
{
    greta_isolate_options o = options_for("cut");
    char path[TINY_PATH], blob[TINY_PATH + 8];
    (void)state;
    json_decref(run(&o, &prompts[1], 1, GRETA_OK));
    snprintf(path, sizeof path, "%s/middle.decode.jsonl", o.out);
    snprintf(blob, sizeof blob, "%s.blob", path);
    uint64_t whole = file_size(path) + file_size(blob);
    for (int percent = 55; percent < 100; percent += 20) {
        o.bytes_max = whole * (uint64_t)percent / 100;
        json_t *root = run(&o, &prompts[1], 1, GRETA_NO_VERDICT);
        assert_string_equal(text_at(prompt_at(root, 0), "state"), "UNMEASURED");
        json_decref(root);
    }
}

static void damaged_traces_are_refused(void **state)
{
    greta_error err = {0};
    greta_isolate_options o = options_for("damaged");
    char path[TINY_PATH], *printed;
    greta_status verdict;
    (void)state;
    check(greta_trace_pair(model, &prompts[0], &o, &err), &err);
    snprintf(path, sizeof path, "%s/short.decode.jsonl", o.out);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 20000, SEEK_SET);
    fputs("zzz", file);
    fclose(file);
    const char *const folders[] = {o.out, folder("empty"), folder("absent")};
    const greta_status expected[] = {GRETA_BAD_INPUT, GRETA_BAD_INPUT, GRETA_IO};
    check(folder_make(folders[1], &err), &err);
    for (size_t i = 0; i < 3; i++) {
        greta_isolate_options from = {.size = sizeof from, .from = folders[i]};
        err = (greta_error){0};
        assert_int_equal(greta_isolate(NULL, NULL, 0, &from, 0, &printed, &verdict, &err),
                         expected[i]);
        assert_null(printed);
        assert_int_equal(verdict, GRETA_NO_VERDICT);
    }
}

/* The records of a clean pair, for a test to change. */
static void clean_pair(const char *name, plant_bench *bench)
{
    greta_error err = {0};
    greta_isolate_options o = options_for(name);
    analysis_prompt judged;
    check(folder_make(o.out, &err), &err);
    check(bench_open(bench, model, &prompts[1], &o, &err), &err);
    check(bench_run(bench, NULL, -1, &judged, &err), &err);
    analysis_prompt_free(&judged);
}

/* Records that contradict themselves give no verdict, although a bit differs. */
static void a_record_against_itself(void **state)
{
    greta_error err = {0};
    plant_bench bench;
    analysis_prompt judged = {0};
    (void)state;
    clean_pair("against", &bench);
    for (size_t i = 0; i < bench.prefill->n_record; i++) {
        trace_record *r = &bench.prefill->record[i];
        if (r->kind == TRACE_ROW && r->name == STAGE_FFN_NORM && r->layer == 1) {
            r->out[0].sumsq *= 2;
        }
    }
    check(bench_judge(&bench, &judged, &err), &err);
    assert_int_equal(judged.state, VERDICT_INSTRUMENT_SUSPECT);
    assert_int_equal(judged.verdict, GRETA_NO_VERDICT);
    analysis_prompt_free(&judged);
    bench_close(&bench);
}

/* A difference that starts in an op which is no norm is located, and is a fault all the same. */
static void a_difference_outside_the_norms(void **state)
{
    greta_error err = {0};
    plant_bench bench;
    analysis_prompt judged = {0};
    (void)state;
    clean_pair("outside", &bench);
    for (size_t i = 0; i < bench.prefill->n_record; i++) {
        trace_record *r = &bench.prefill->record[i];
        if (r->kind == TRACE_ROW && r->name == STAGE_GATE && r->layer == 1) {
            r->out[0].hash.ordered ^= 1;
        }
    }
    check(bench_judge(&bench, &judged, &err), &err);
    assert_int_equal(judged.verdict, GRETA_NO_VERDICT); /* the values are not those of the hash */
    assert_int_equal(judged.state, VERDICT_INSTRUMENT_SUSPECT);
    assert_int_equal(judged.stage[judged.first].name, STAGE_GATE);
    assert_int_equal(judged.n_differ, 1);
    analysis_prompt_free(&judged);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_traces_as_from_the_run),
        cmocka_unit_test(trace_pair_writes_what_from_reads),
        cmocka_unit_test(from_a_folder_of_both_modes),
        cmocka_unit_test(from_the_switches),
        cmocka_unit_test(from_hashes_alone),
        cmocka_unit_test(a_token_decoded_twice),
        cmocka_unit_test(a_pair_of_two_configurations),
        cmocka_unit_test(a_prefill_pass_of_one_row),
        cmocka_unit_test(a_stage_missing_on_one_side),
        cmocka_unit_test(a_cut_trace_is_no_proof),
        cmocka_unit_test(damaged_traces_are_refused),
        cmocka_unit_test(a_record_against_itself),
        cmocka_unit_test(a_difference_outside_the_norms),
    };
    return cmocka_run_group_tests_name("isolate_from", tests, setup, teardown);
}
