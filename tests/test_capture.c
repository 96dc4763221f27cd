/* test_capture.c - a capture says what a trace says, and changes nothing.
 *
 * The same passes are traced and captured at once: every output that the trace holds must be in the
 * capture, value by value. Prefill, chunks, decode and a batch of two sequences are cut for one,
 * two and three threads, so that every kind of group hands its rows on to every other.
 */
#include "kernel/kernel.h"
#include "tiny_model.h"
#include "trace_files.h"

enum { N_TOKEN = 41, N_ROW_MAX = 64 };

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

static greta_session *session_open(const char *options, int32_t n_thread, greta_act act)
{
    greta_error err = {0};
    greta_model *model = NULL;
    greta_session *s = NULL;
    char path[TINY_PATH];
    assert_true(tiny_model("capture", options, path));
    check(greta_model_open(path, &model, &err), &err);
    greta_session_options o = {.size = sizeof o,
                               .n_ctx = 64,
                               .n_sequence = 2,
                               .n_chunk = 32,
                               .n_thread = n_thread,
                               .act = act};
    check(greta_session_new(model, &o, &s, &err), &err);
    greta_model_release(model);
    return s;
}

/* A prompt of 23 in chunks of 16, a pass of both sequences, and decode steps; logits of each pass
 * go to `logits`, if there is room for them. */
static void work(greta_session *s, float *logits, int32_t n_vocab)
{
    greta_error err = {0};
    greta_row row[N_ROW_MAX];
    int32_t n = 0, n_pass = 0;
    const int32_t size[] = {16, 7, 5, 1, 1, 1};
    for (size_t p = 0; p < sizeof size / sizeof *size; p++, n_pass++) {
        int32_t count = size[p];
        for (int32_t i = 0; i < count; i++) {
            row[i] = (greta_row){(n + i) * 7 % n_vocab, n + i, 0, p != 1 && i >= count - 2};
        }
        if (p == 2) { /* and two rows of the other sequence */
            row[count] = (greta_row){3, 0, 1, 1};
            row[count + 1] = (greta_row){5, 1, 1, 0};
        }
        greta_batch batch = {row, (size_t)count + (p == 2 ? 2 : 0),
                             count == 1 ? GRETA_PHASE_DECODE : GRETA_PHASE_PREFILL};
        check(greta_session_eval(s, &batch, &err), &err);
        const float *got = greta_session_logits(s, 0);
        for (int32_t i = 0; i < n_vocab && got && logits; i++) {
            logits[n_pass * n_vocab + i] = got[i];
        }
        n += count;
    }
}

static void rewind_session(greta_session *s)
{
    greta_error err = {0};
    check(greta_session_drop(s, 0, 0, &err), &err);
    check(greta_session_drop(s, 1, 0, &err), &err);
}

static void same_row(const trace_record *r, const greta_captured *c)
{
    const trace_tensor *out = &r->out[0];
    int same = !strcmp(stage_name(r->name), c->stage) && r->layer == c->layer &&
               r->position == c->position && r->sequence == c->sequence && r->token == c->token &&
               r->phase == c->phase && !strcmp(dtype_name(out->type), c->type) && out->n == c->n;
    uint64_t size = 0;
    trace_values_bytes(out->type, out->n, &size);
    if (!same || out->hash.ordered != c->hash || out->hash.bag != c->bag || out->min != c->min ||
        out->max != c->max || out->sumsq != c->sumsq || out->n_nonfinite != c->n_nonfinite ||
        memcmp(out->data, c->values, size) != 0) {
        fail_msg("%s of layer %d, position %d, sequence %d: captured as %s of layer %d, position "
                 "%d with other %s",
                 stage_name(r->name), r->layer, r->position, r->sequence, c->stage, c->layer,
                 c->position, same ? "values" : "places");
    }
}

/* Trace rows are in the order of a capture: pass, op, token. */
static void same_rows(const trace *t, const greta_capture *c)
{
    size_t n = 0;
    greta_captured row;
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].kind == TRACE_ROW) {
            assert_true(greta_capture_row(c, n++, &row));
            same_row(&t->record[i], &row);
        }
    }
    assert_int_equal(n, greta_capture_count(c));
    assert_false(greta_capture_row(c, n, &row));
}

static void captured_as_traced(const char *options, int32_t n_thread, greta_act act)
{
    greta_error err = {0};
    greta_session *s = session_open(options, n_thread, act);
    trace *t = NULL;
    greta_capture *c = NULL;
    greta_trace_options to = {
        .size = sizeof to, .path = path_of("both.jsonl"), .sample = -1, .overwrite = 1};
    greta_capture_options co = {.size = sizeof co, .values = 1};
    check(greta_trace_begin(s, &to, &err), &err);
    check(greta_capture_begin(s, &co, &err), &err);
    work(s, NULL, 100);
    check(greta_capture_end(s, &c, &err), &err);
    check(greta_trace_end(s, "complete", &err), &err);
    greta_session_free(s); /* the capture stands by itself */
    check(trace_open(to.path, &t, &err), &err);
    same_rows(t, c);
    trace_close(t);
    greta_capture_free(c);
}

static void a_capture_is_what_a_trace_holds(void **state)
{
    (void)state;
    for (int32_t n_thread = 1; n_thread <= 3; n_thread++) {
        captured_as_traced("--type Q4_0", n_thread, GRETA_ACT_Q8);
        captured_as_traced("--type F16 --bias", n_thread, GRETA_ACT_F32);
        captured_as_traced("--type Q6_K --heads 4 --heads-kv 1", n_thread, GRETA_ACT_Q8);
    }
}

/* Whether another looks on may change no bit, nor may having been looked at. */
static void looking_changes_no_bit(void **state)
{
    (void)state;
    greta_error err = {0};
    enum { N_VOCAB = 100, N_PASS = 6 };
    static float plain[N_PASS * N_VOCAB], seen[N_PASS * N_VOCAB], after[N_PASS * N_VOCAB];
    greta_session *s = session_open("--type Q8_0", 3, GRETA_ACT_Q8);
    greta_capture *c = NULL;
    work(s, plain, N_VOCAB);
    rewind_session(s);
    check(greta_capture_begin(s, NULL, &err), &err);
    work(s, seen, N_VOCAB);
    check(greta_capture_end(s, &c, &err), &err);
    rewind_session(s);
    work(s, after, N_VOCAB);
    assert_memory_equal(plain, seen, sizeof plain);
    assert_memory_equal(plain, after, sizeof plain);
    greta_captured row;
    assert_true(greta_capture_row(c, 0, &row));
    assert_null(row.values); /* they were not asked for */
    greta_capture_free(c);
    greta_session_free(s);
}

static void a_full_capture_refuses_the_pass(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_session *s = session_open("--type Q8_0", 2, GRETA_ACT_Q8);
    greta_capture *c = NULL;
    greta_capture_options co = {.size = sizeof co, .values = 1, .bytes_max = 200000};
    check(greta_capture_begin(s, &co, &err), &err);
    size_t held = 0;
    greta_row row = {.token = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_PREFILL};
    greta_status status;
    while ((status = greta_session_eval(s, &batch, &err)) == GRETA_OK && held < 40) {
        row.position = (int32_t)++held;
    }
    assert_int_equal(status, GRETA_IO);
    assert_true(held > 0);
    check(greta_capture_end(s, &c, &err), &err);
    assert_true(greta_capture_bytes(c) <= co.bytes_max);
    greta_captured last;
    assert_true(greta_capture_row(c, greta_capture_count(c) - 1, &last));
    assert_int_equal(last.position, held - 1);
    err = (greta_error){0};
    check(greta_session_eval(s, &batch, &err), &err); /* the cache is as before the refusal */
    greta_capture_free(c);
    greta_session_free(s);
}

static void begin_and_end_in_the_wrong_order_are_refused(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_session *s = session_open("--type Q8_0", 1, GRETA_ACT_Q8);
    greta_capture *c = NULL;
    assert_int_equal(greta_capture_end(s, &c, &err), GRETA_USAGE);
    check(greta_capture_begin(s, NULL, &err), &err);
    assert_int_equal(greta_capture_begin(s, NULL, &err), GRETA_USAGE);
    greta_session_free(s); /* with its capture */
    greta_capture_free(NULL);
}

static void a_capture_is_written_as_a_trace(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_session *s = session_open("--type Q5_K", 2, GRETA_ACT_Q8);
    greta_capture *c = NULL;
    trace *t = NULL;
    greta_capture_options co = {.size = sizeof co, .values = 1, .bytes_ready = 1 << 20};
    check(greta_capture_begin(s, &co, &err), &err);
    work(s, NULL, 100);
    check(greta_capture_end(s, &c, &err), &err);
    greta_trace_options to = {.size = sizeof to,
                              .path = path_of("capture.jsonl"),
                              .sample = -1,
                              .overwrite = 1,
                              .prompt_id = "p"};
    check(greta_capture_write(c, &to, "complete", &err), &err);
    check(trace_open(to.path, &t, &err), &err);
    assert_string_equal(t->status, "complete");
    assert_string_equal(t->header.prompt_id, "p");
    same_rows(t, c);
    trace_close(t);
    to.stages = "q,logits";
    to.tokens = "last";
    to.sample = 3;
    check(greta_capture_write(c, &to, "complete", &err), &err);
    check(trace_open(to.path, &t, &err), &err);
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        assert_true(r->name == STAGE_Q || r->name == STAGE_LOGITS);
        assert_int_equal(r->out[0].n_kept, 3);
        assert_string_equal(r->kernel, greta_session_describe(s).cpu);
    }
    assert_true(t->n_record > 0 && t->n_record < greta_capture_count(c));
    trace_close(t);
    greta_capture_free(c);
    greta_session_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_capture_is_what_a_trace_holds),
        cmocka_unit_test(looking_changes_no_bit),
        cmocka_unit_test(a_full_capture_refuses_the_pass),
        cmocka_unit_test(begin_and_end_in_the_wrong_order_are_refused),
        cmocka_unit_test(a_capture_is_written_as_a_trace),
    };
    return cmocka_run_group_tests_name("capture", tests, files_begin, files_end);
}
