/* test_trace_scan.c - the two ways to a record: its line scanned, or parsed; held, or read again.
 *
 * The scan knows one spelling and leaves everything else to the JSON parser. What it takes it must
 * take as the parser does: every line of the sample is spoilt at every byte, in three ways.
 */
#include "base/error.h"
#include "trace/record_json.h"
#include "trace_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void check_text(const char *a, const char *b)
{
    assert_true((a == NULL) == (b == NULL));
    if (a != NULL) {
        assert_string_equal(a, b);
    }
}

/* ---- Two readers of a line ------------------------------------------------------------------- */

/* Whether the JSON parser takes the line as a record. */
static bool parsed(const char *line, size_t n, name_pool *names, trace_record *record,
                   trace_span *span)
{
    greta_error err = {0};
    field_source source = {.line = 2, .names = names, .err = &err};
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    bool is_read = object != NULL && record_read(&source, object, record, span) == GRETA_OK;
    json_decref(object);
    return is_read;
}

/* The scan may leave a line to the parser, but never read it otherwise, nor take what the parser
 * refuses. True: it took the line. */
static bool check_scan(const char *line, size_t n, name_pool *names)
{
    static trace_record by_scan, by_parser;
    greta_error err = {0};
    field_source source = {.line = 2, .names = names, .err = &err};
    trace_span span[2];
    if (!record_scan(&source, line, n, &by_scan, &span[0])) {
        return false;
    }
    if (!parsed(line, n, names, &by_parser, &span[1])) {
        fail_msg("the parser refuses what was scanned: %.*s", (int)n, line);
    }
    assert_memory_equal(&span[0], &span[1], sizeof span[0]);
    assert_memory_equal(&by_scan, &by_parser, sizeof by_scan);
    return true;
}

/* Every line of the sample, then the same with one byte put otherwise, left out, or twice. The
 * checksum at the end belongs to neither reader. */
static void test_scan_as_parsed(void **state)
{
    (void)state;
    static const char bytes_put[] = "0123456789-+.eE,:[]{}\"\\ anNI\n\x01\x7f\xc3";
    name_pool names = {0};
    size_t n_line = 0, n_taken = 0, n_changed = 0;
    write_sample("scan.jsonl", SAMPLE_RECORDS);
    bytes whole = load("scan.jsonl");
    char *line = strchr(whole.data, '\n') + 1;
    for (char *end; (end = strchr(line, '\n')) != NULL && strncmp(line, "{\"end\":", 7) != 0;
         line = end + 1) {
        size_t n = (size_t)(end - line);
        char *copy = malloc(n + 2);
        n_taken += check_scan(line, n, &names);
        n_line++;
        for (size_t i = 0; i < n - TRACE_SUM_BYTES; i++) {
            memcpy(copy, line, n);
            copy[i] = bytes_put[(i + n_line) % (sizeof bytes_put - 1)];
            n_changed += check_scan(copy, n, &names);
            memcpy(copy + i, line + i + 1, n - i - 1);
            n_changed += check_scan(copy, n - 1, &names);
            memcpy(copy, line, i + 1);
            memcpy(copy + i + 1, line + i, n - i);
            n_changed += check_scan(copy, n + 1, &names);
        }
        free(copy);
    }
    /* Hard values (denormals, the largest float) are the parser's; some lines have none. */
    assert_true(n_line == SAMPLE_RECORDS && n_taken >= 4 && n_changed > 100);
    name_pool_free(&names);
    free(whole.data);
}

/* Takes the values of a tensor off, for a comparison of the rest. */
static void values_equal(trace_tensor *a, trace_tensor *b)
{
    assert_true((a->data == NULL) == (b->data == NULL) && a->blob_bytes == b->blob_bytes);
    if (a->data != NULL) {
        assert_memory_equal(a->data, b->data, a->blob_bytes);
    }
    a->data = b->data = NULL;
}

/* The same record of two openings of a trace. */
static void same_record(const trace_record *x, const trace_record *y)
{
    static trace_record a, b;
    a = *x;
    b = *y;
    check_text(a.op, b.op);
    check_text(a.kernel, b.kernel);
    a.op = b.op = a.kernel = b.kernel = NULL;
    for (int i = 0; i < TRACE_IN_MAX; i++) {
        values_equal(&a.in[i], &b.in[i]);
    }
    for (int i = 0; i < TRACE_OUT_MAX; i++) {
        values_equal(&a.out[i], &b.out[i]);
        values_equal(&a.weight[i], &b.weight[i]);
    }
    assert_memory_equal(&a, &b, sizeof a);
}

/* Records that are read again from their lines are those that a trace holds. */
static void test_heads(void **state)
{
    (void)state;
    greta_error err = {0};
    trace *held, *heads;
    static trace_record room;
    write_sample("heads.jsonl", SAMPLE_RECORDS);
    assert_int_equal(trace_open(path_of("heads.jsonl"), &held, &err), GRETA_OK);
    assert_int_equal(trace_open_heads(path_of("heads.jsonl"), NULL, &heads, &err), GRETA_OK);
    assert_null(heads->record);
    assert_int_equal(heads->n_record, held->n_record);
    assert_int_equal(heads->body_sum, held->body_sum);
    for (size_t i = 0; i < held->n_record; i++) {
        assert_ptr_equal(trace_at(held, i, &room), &held->record[i]);
        trace_forget(heads);
        same_record(&held->record[i], trace_at(heads, i, &room));
        trace_head a = trace_head_of(held, i), b = trace_head_of(heads, i);
        trace_head c = trace_head_new(&held->record[i]);
        a.values = b.values = c.values = NULL;
        assert_int_equal(a.line, b.line);
        a.line = b.line = 0;
        assert_true(a.body == b.body && a.body == c.body && a.prefix == c.prefix);
        assert_true(a.name == c.name && a.position == c.position && a.n == c.n);
    }
    assert_int_equal(trace_check(heads, &err), GRETA_OK);
    FILE *f = fopen(path_of("heads.jsonl"), "r+");
    assert_non_null(f);
    fputs("{\"greta_trace\":1,\"changed\":1}\n", f); /* what was there before is overwritten */
    fseek(f, (long)heads->head[3].line, SEEK_SET);
    fputs("{\"n\":7", f);
    fclose(f);
    assert_int_equal(trace_at(heads, 3, &room)->n_out, 0); /* empty, and said to be changed: */
    assert_int_equal(trace_check(heads, &err), GRETA_IO);
    trace_close(heads);
    trace_close(held);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

#define WIDE_VALUES (1 << 18) /* 1 MiB a row */

/* A trace of n rows of 1 MiB, and of as many small ones. */
static void write_wide(const char *name, int n)
{
    static float values[WIDE_VALUES];
    greta_error err = {0};
    greta_trace_options options = options_for(name);
    trace_header header = sample_header();
    trace_writer *writer;
    options.overwrite = 1;
    header.sample = -1;
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    for (int k = 0; k < 2 * n; k++) {
        trace_record r = {.kind = TRACE_ROW, .name = STAGE_EMBED, .layer = -1, .chunk_rows = 2 * n};
        int64_t width = k % 2 ? 1 : WIDE_VALUES;
        r.row = r.position = k;
        r.n_out = 1;
        values[0] = (float)k;
        r.out[0] = sample_tensor(DTYPE_F32, values, width, width);
        assert_int_equal(trace_writer_add(writer, &r, &err), GRETA_OK);
    }
    assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_OK);
}

/* What is resident, mapped pages included; KiB. */
static long resident(void)
{
    char line[128], *end;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_true(f != NULL && fgets(line, sizeof line, f) != NULL);
    fclose(f);
    (void)strtol(line, &end, 10); /* all that is mapped */
    return strtol(end, NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024);
}

/* The most that is resident while a trace is opened: asked whenever it says how far it is. */
static void resident_note(void *user, const char *what, uint64_t done, uint64_t total)
{
    long *most = user, now = resident();
    assert_string_equal(what, "reading");
    assert_true(done <= total);
    *most = now > *most ? now : *most;
}

static long opened_with(const char *name, size_t n)
{
    greta_error err = {0};
    long before = resident(), most = before;
    greta_watch watch = {sizeof watch, resident_note, &most};
    trace_record room;
    trace *t;
    assert_int_equal(trace_open_heads(path_of(name), &watch, &t, &err), GRETA_OK);
    assert_int_equal(t->n_record, n);
    assert_true(most > before); /* progress was told */
    assert_float_equal(*(const float *)trace_at(t, n - 2, &room)->out[0].data, (double)(n - 2), 0);
    trace_close(t);
    return most - before;
}

/* Memory follows neither the size of the rows nor that of the file. */
static void test_memory(void **state)
{
    (void)state;
    write_wide("narrow.jsonl", 16);
    write_wide("wide.jsonl", 96);
    long small = opened_with("narrow.jsonl", 32), large = opened_with("wide.jsonl", 192);
    if (small > 20000 || large > small + 4096) {
        fail_msg("%ld KiB for 16 MiB of values, %ld KiB for 96 MiB", small, large);
    }
    assert_true(sizeof(trace_head) <= 104); /* what stays of a record */
    remove_trace("wide.jsonl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scan_as_parsed),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("trace scan", tests, files_begin, files_end);
}
