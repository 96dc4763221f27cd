/* test_trace_writer.c - what stays on disk when writing goes wrong, and what is chosen to be
 * written.
 *
 * A full disk is a limit on the size of files in a child process; a crash is SIGKILL after record
 * n. Whatever happens, what is left must be a prefix of the full run's records, byte for byte.
 */
#include "base/error.h"
#include "base/limits.h"
#include "trace/record_json.h"
#include "trace_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* Writes n records and asks `each` after every one; returns the first failure. */
static greta_status write_until(const greta_trace_options *options, int n, int kill_after,
                                greta_error *err)
{
    trace_header header = sample_header();
    trace_writer *writer;
    sample s;
    GRETA_TRY(trace_writer_new(options, &header, &writer, err));
    greta_status status = GRETA_OK;
    for (int k = 0; k < n; k++) {
        if (k == kill_after) {
            raise(SIGKILL);
        }
        sample_record(&s, k);
        greta_status added = trace_writer_add(writer, &s.record, err);
        if (status != GRETA_OK && added != status) {
            return GRETA_BUG; /* the first failure sticks */
        }
        status = added;
    }
    greta_status ended = trace_writer_end(writer, "complete", err);
    return status != GRETA_OK && ended != status ? GRETA_BUG : ended;
}

/* The body of `name` must be the first lines of the body of full.jsonl, its blob the first bytes of
 * full.jsonl.blob; both may lack a footer. Returns the number of records. */
static size_t check_prefix(const char *name, const char *blob_name, const char *status)
{
    greta_error err = {0};
    trace *t;
    bytes full = load("full.jsonl"), part = load(name);
    bytes full_blob = load("full.jsonl.blob"), part_blob = load(blob_name);
    assert_int_equal(trace_open(path_of(name), &t, &err), GRETA_OK);
    assert_string_equal(t->status, status);
    const char *a = strchr(full.data, '\n') + 1, *b = strchr(part.data, '\n') + 1;
    const char *end = b;
    for (size_t i = 0; i < t->n_record; i++) {
        end = strchr(end, '\n') + 1;
    }
    assert_memory_equal(a, b, (size_t)(end - b));
    assert_true(part_blob.n <= full_blob.n);
    assert_memory_equal(full_blob.data, part_blob.data, part_blob.n);
    if (strcmp(status, "torn") == 0) {
        assert_string_equal(end, ""); /* cut back to whole records */
    }
    size_t n = t->n_record;
    trace_close(t);
    free(full.data);
    free(part.data);
    free(full_blob.data);
    free(part_blob.data);
    return n;
}

static int child_status(pid_t child)
{
    int status = 0;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* ---- Full disks, crashes --------------------------------------------------------------------- */

/* In a child: writes under a limit on file sizes. 0: the failure was reported as it should be. */
static int write_limited(const char *name, rlim_t size)
{
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    struct rlimit limit = {size, size};
    greta_trace_options options = options_for(name);
    if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return 2;
    }
    greta_status status = write_until(&options, SAMPLE_RECORDS, -1, &err);
    greta_error_line(&err, line);
    return status == GRETA_IO && err.code == GRETA_IO && strstr(line, "file too large") != NULL &&
                   strstr(line, "(it needs ") != NULL && strstr(line, name) != NULL
               ? 0
               : 1;
}

static void test_disk_full(void **state)
{
    (void)state;
    size_t seen = 0;
    write_sample("full.jsonl", SAMPLE_RECORDS);
    bytes full = load("full.jsonl");
    size_t header = (size_t)(strchr(full.data, '\n') - full.data) + 1;
    for (size_t size = header - 1; size < full.n; size += 83) {
        remove_trace("limited.jsonl");
        pid_t child = fork();
        if (child == 0) {
            _exit(write_limited("limited.jsonl", size));
        }
        assert_int_equal(child_status(child), 0);
        assert_false(exists("limited.jsonl"));
        if (size < header) {
            assert_false(exists("limited.jsonl.partial") || exists("limited.jsonl.blob.partial"));
        } else {
            size_t n = check_prefix("limited.jsonl.partial", "limited.jsonl.blob.partial", "torn");
            assert_true(n >= seen);
            seen = n;
        }
    }
    assert_int_equal(seen, SAMPLE_RECORDS); /* the last time only the footer had no room */
    free(full.data);
}

/* In a child: rows of 32 KiB, so that the blob is what grows too large. */
static int write_wide(const char *name, rlim_t size, int n)
{
    static float wide[8192];
    greta_error err = {0};
    struct rlimit limit = {size, RLIM_INFINITY};
    greta_trace_options options = options_for(name);
    trace_header header = sample_header();
    trace_writer *writer;
    if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &limit) != 0 ||
        trace_writer_new(&options, &header, &writer, &err) != GRETA_OK) {
        return 2;
    }
    for (int k = 0; k <= n + 1; k++) {
        sample s;
        wide[k] = 1.0f;
        sample_record(&s, 0);
        s.record.in[0] = sample_tensor(DTYPE_F32, wide, 8192, 8192);
        greta_status status = trace_writer_add(writer, &s.record, &err);
        if (status != (k < n ? GRETA_OK : GRETA_IO)) {
            return 3;
        }
        limit.rlim_cur = k < n ? size : RLIM_INFINITY; /* room again: the failure sticks */
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
            return 2;
        }
    }
    return trace_writer_end(writer, "complete", &err) == GRETA_IO ? 0 : 4;
}

static void test_disk_full_for_values(void **state)
{
    (void)state;
    for (int n = 0; n < 4; n++) {
        greta_error err = {0};
        struct stat blob;
        trace *t;
        rlim_t size = (rlim_t)(n + 1) * 33216; /* of n + 1 rows' values with padding; less 1 */
        pid_t child = fork();
        if (child == 0) {
            _exit(write_wide("wide.jsonl", size - 1, n));
        }
        assert_int_equal(child_status(child), 0);
        assert_int_equal(trace_open(path_of("wide.jsonl.partial"), &t, &err), GRETA_OK);
        assert_string_equal(t->status, "torn");
        assert_int_equal(t->n_record, n);
        trace_close(t);
        assert_int_equal(stat(path_of("wide.jsonl.blob.partial"), &blob), 0);
        assert_int_equal(blob.st_size, n * 33216); /* cut back too */
        remove_trace("wide.jsonl");
    }
}

static void test_killed(void **state)
{
    (void)state;
    write_sample("full.jsonl", SAMPLE_RECORDS);
    for (int n = 0; n < SAMPLE_RECORDS; n++) {
        greta_error err = {0};
        greta_trace_options options = options_for("killed.jsonl");
        options.overwrite = 1;
        pid_t child = fork();
        if (child == 0) {
            _exit(write_until(&options, SAMPLE_RECORDS, n, NULL) != GRETA_OK);
        }
        assert_true(WIFSIGNALED(child_status(child)));
        assert_false(exists("killed.jsonl"));
        assert_int_equal(check_prefix("killed.jsonl.partial", "killed.jsonl.blob.partial", "torn"),
                         n);
        /* The lock died with its owner, but what it left is not thrown away unasked. */
        options.overwrite = 0;
        assert_int_equal(sample_write(&options, 2, &err), GRETA_USAGE);
        expect(&err, GRETA_USAGE, "killed.jsonl.partial: exists already, left by a run that did");
        assert_true(exists("killed.jsonl.partial") && !exists("killed.jsonl"));
    }
    write_sample("killed.jsonl", SAMPLE_RECORDS);
    assert_int_equal(check_prefix("killed.jsonl", "killed.jsonl.blob", "complete"), SAMPLE_RECORDS);
}

static void test_bytes_max(void **state)
{
    (void)state;
    write_sample("full.jsonl", SAMPLE_RECORDS);
    bytes full = load("full.jsonl"), blob = load("full.jsonl.blob");
    uint64_t total = full.n + blob.n + TRACE_FOOTER_BYTES_MAX;
    size_t header = (size_t)(strchr(full.data, '\n') - full.data) + 1, n_before = 0;
    for (uint64_t max = header + TRACE_FOOTER_BYTES_MAX - 16; max < total; max += 397) {
        greta_error err = {0};
        struct stat file, values;
        greta_trace_options options = options_for("capped.jsonl");
        options.overwrite = 1;
        options.bytes_max = max;
        greta_status status = sample_write(&options, SAMPLE_RECORDS, &err);
        if (status != GRETA_OK) {
            expect(&err, GRETA_USAGE, "bytes_max: ");
            assert_int_equal(n_before, 0);
            continue;
        }
        assert_int_equal(stat(path_of("capped.jsonl"), &file), 0);
        assert_int_equal(stat(path_of("capped.jsonl.blob"), &values), 0);
        assert_true((uint64_t)(file.st_size + values.st_size) <= max);
        bool is_whole = max >= total - 256;
        size_t n = 0;
        if (!is_whole) {
            n = check_prefix("capped.jsonl", "capped.jsonl.blob", "truncated");
            assert_true(n >= n_before && n < SAMPLE_RECORDS);
        }
        n_before = n > n_before ? n : n_before;
    }
    assert_true(n_before > SAMPLE_RECORDS / 2);
    free(full.data);
    free(blob.data);
}

/* At the cap everything later is refused, small records too, and asking says so. */
static void test_full_stays_full(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_trace_options options = options_for("capped2.jsonl");
    trace_header header = sample_header();
    trace_writer *writer;
    trace *t;
    sample s;
    options.bytes_max = 3000;
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    for (int k = 0; k < 8; k++) {
        sample_record(&s, k < 4 ? 0 : 3); /* big ones, then small ones that would fit */
        assert_false(k == 0 && trace_writer_is_full(writer));
        assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_OK);
    }
    assert_true(trace_writer_is_full(writer));
    assert_int_equal(trace_writer_end(writer, "interrupted", &err), GRETA_OK);
    assert_int_equal(trace_open(path_of("capped2.jsonl"), &t, &err), GRETA_OK);
    assert_string_equal(t->status, "truncated");
    assert_int_equal(t->header.bytes_max, 3000);
    for (size_t i = 0; i < t->n_record; i++) {
        assert_int_equal(t->record[i].kind, TRACE_ROW);
    }
    trace_close(t);
}

/* ---- One writer ------------------------------------------------------------------------------ */

static void test_second_writer(void **state)
{
    (void)state;
    greta_error err = {0};
    char expected[80];
    greta_trace_options options = options_for("shared.jsonl");
    trace_header header = sample_header();
    trace_writer *writer, *second;
    sample s;
    options.overwrite = 1; /* does not help: the first one lives */
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    assert_int_equal(trace_writer_new(&options, &header, &second, &err), GRETA_IO);
    assert_null(second);
    snprintf(expected, sizeof expected, "shared.jsonl: is being written by process %d",
             (int)getpid());
    expect(&err, GRETA_IO, expected);
    err = (greta_error){0};
    sample_record(&s, 0);
    assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_OK);
    assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_OK);
    assert_int_equal(try_open("shared.jsonl", &err), GRETA_OK);
}

/* In a child: tries to become the writer, tells how that went, holds on until `go` is closed. */
static int race(int result, int go)
{
    greta_error err = {0};
    char byte, line[GRETA_ERROR_LINE];
    greta_trace_options options = options_for("race.jsonl");
    trace_header header = sample_header();
    trace_writer *writer;
    options.overwrite = 1;
    byte = (char)trace_writer_new(&options, &header, &writer, &err);
    greta_error_line(&err, line);
    if (byte != GRETA_OK && strstr(line, "is being written by process ") == NULL) {
        byte = GRETA_BUG;
    }
    if (write(result, &byte, 1) != 1 || read(go, &byte, 1) != 0) {
        return 1;
    }
    return 0; /* the lock goes with the process */
}

static void test_race(void **state)
{
    (void)state;
    for (int round = 0; round < 100; round++) {
        int result[2], go[2], n_won = 0;
        pid_t child[2];
        assert_true(pipe(result) == 0 && pipe(go) == 0);
        for (int i = 0; i < 2; i++) {
            child[i] = fork();
            if (child[i] == 0) {
                close(go[1]);
                _exit(race(result[1], go[0]));
            }
        }
        for (int i = 0; i < 2; i++) {
            char byte = GRETA_BUG;
            assert_int_equal(read(result[0], &byte, 1), 1);
            assert_true(byte == GRETA_OK || byte == GRETA_IO);
            n_won += byte == GRETA_OK;
        }
        close(go[1]);
        assert_int_equal(child_status(child[0]), 0);
        assert_int_equal(child_status(child[1]), 0);
        assert_int_equal(n_won, 1);
        close(go[0]);
        close(result[0]);
        close(result[1]);
    }
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void refused(const char *path, bool overwrite, greta_status code, const char *part)
{
    greta_error err = {0};
    greta_trace_options options = options_for("");
    options.path = path;
    options.overwrite = overwrite;
    assert_int_equal(sample_write(&options, 2, &err), code);
    expect(&err, code, part);
}

static void test_refused_names(void **state)
{
    (void)state;
    char long_name[300];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    write_sample("there.jsonl", 4);
    bytes before = load("there.jsonl");

    refused(NULL, true, GRETA_USAGE, "no file is named");
    refused("", true, GRETA_USAGE, "no file is named");
    refused(path_of("x.partial"), true, GRETA_USAGE, "the name ends in .partial");
    refused(path_of("no/x.jsonl"), true, GRETA_USAGE, "cannot create the trace: no such file");
    refused(path_of("there.jsonl/x.jsonl"), true, GRETA_USAGE, "is not a folder");
    refused(path_of(long_name), true, GRETA_USAGE, "name too long");
    refused(path_of("there.jsonl"), false, GRETA_USAGE, "there.jsonl: exists already");
    refused("/proc/self/x.jsonl", true, GRETA_USAGE, "/proc/self/x.jsonl");
    assert_int_equal(mkdir(path_of("folder.jsonl"), 0777), 0);
    refused(path_of("folder.jsonl"), true, GRETA_USAGE, "folder.jsonl: is not a plain file");
    assert_int_equal(rmdir(path_of("folder.jsonl")), 0);
    assert_int_equal(symlink("there.jsonl", path_of("link.jsonl.partial")), 0);
    refused(path_of("link.jsonl"), true, GRETA_IO, "too many symbolic links");
    unlink(path_of("link.jsonl.partial"));

    /* A blob without its trace is an output too. */
    assert_int_equal(rename(path_of("there.jsonl"), path_of("aside.jsonl")), 0);
    refused(path_of("there.jsonl"), false, GRETA_USAGE, "there.jsonl.blob: exists already");
    assert_int_equal(rename(path_of("aside.jsonl"), path_of("there.jsonl")), 0);

    /* A refusal leaves what was there, and nothing else. */
    bytes after = load("there.jsonl");
    assert_int_equal(before.n, after.n);
    assert_memory_equal(before.data, after.data, before.n);
    assert_false(exists("there.jsonl.partial") || exists("folder.jsonl.partial"));
    free(before.data);
    free(after.data);

    write_sample("there.jsonl", 2); /* asked to overwrite */
    greta_error err = {0};
    trace *t;
    assert_int_equal(trace_open(path_of("there.jsonl"), &t, &err), GRETA_OK);
    assert_int_equal(t->n_record, 2);
    trace_close(t);
}

/* A folder that forbids writing is refused at the start. As root nothing is forbidden, so the test
 * becomes another user in a child. */
static void test_unwritable_folder(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path_of("locked"), 0555), 0);
    pid_t child = fork();
    if (child == 0) {
        greta_error err = {0};
        greta_trace_options options = options_for("locked/x.jsonl");
        if (getuid() == 0 && (chmod(folder, 0755) != 0 || setuid(65534) != 0)) {
            _exit(2);
        }
        greta_status status = sample_write(&options, 2, &err);
        _exit(status == GRETA_IO && strstr(err.message, "permission denied") != NULL ? 0 : 1);
    }
    int status = child_status(child);
    assert_int_equal(rmdir(path_of("locked")), 0);
    assert_int_equal(status, 0);
}

/* The folder vanishes during the run: said at the end, and no crash. */
static void test_vanished_folder(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_trace_options options = options_for("gone/x.jsonl");
    trace_header header = sample_header();
    trace_writer *writer;
    assert_int_equal(mkdir(path_of("gone"), 0777), 0);
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    unlink(path_of("gone/x.jsonl.partial"));
    unlink(path_of("gone/x.jsonl.blob.partial"));
    assert_int_equal(rmdir(path_of("gone")), 0);
    assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_IO);
    expect(&err, GRETA_IO, "x.jsonl.partial: cannot give the trace its name: no such file");
}

/* ---- Content --------------------------------------------------------------------------------- */

/* The body holds nothing of the process, the machine or the number of threads. */
static void test_body_is_reproducible(void **state)
{
    (void)state;
    bytes b[2];
    for (int i = 0; i < 2; i++) {
        greta_error err = {0};
        greta_trace_options options = options_for("body.jsonl");
        trace_header header = sample_header();
        trace_writer *writer;
        sample s;
        options.overwrite = 1;
        header.n_thread = 1 + 7 * i;
        header.n_buffer = (size_t)(2 - i);
        assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
        for (int k = 0; k < SAMPLE_RECORDS; k++) {
            sample_record(&s, k);
            assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_OK);
        }
        assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_OK);
        b[i] = load("body.jsonl");
    }
    const char *body[2] = {strchr(b[0].data, '\n'), strchr(b[1].data, '\n')};
    size_t n = (size_t)((char *)memrchr(b[0].data, '\n', b[0].n - 1) - body[0]);
    assert_memory_equal(body[0], body[1], n);
    assert_string_not_equal(b[0].data, b[1].data);
    free(b[0].data);
    free(b[1].data);
}

/* Records that no reader would accept are our bug, and are not written. */
static void test_own_mistakes(void **state)
{
    (void)state;
    for (int what = 0; what < 5; what++) {
        greta_error err = {0};
        greta_trace_options options = options_for("mistake.jsonl");
        trace_header header = sample_header();
        trace_writer *writer;
        sample s;
        options.overwrite = 1;
        assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
        sample_record(&s, 0);
        assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_OK);
        sample_record(&s, 0);
        s.record.layer = what == 0 ? 3 : s.record.layer;
        s.record.token = what == 1 ? 49152 : s.record.token;
        s.record.in[0].n_kept = what == 2 ? SAMPLE_WIDTH + 1 : s.record.in[0].n_kept;
        s.record.in[0].type = what == 3 ? DTYPE_Q4_1 : s.record.in[0].type;
        s.record.n_out = what == 4 ? 0 : s.record.n_out;
        assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_BUG);
        expect(&err, GRETA_BUG, "record 1 of the trace: ");
        assert_int_equal(trace_writer_end(writer, "complete", NULL), GRETA_BUG);
    }
    greta_error err = {0};
    trace_header header = sample_header();
    trace_writer *writer;
    greta_trace_options options = options_for("ending.jsonl");
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    assert_int_equal(trace_writer_end(writer, "torn", &err), GRETA_USAGE);
}

/* ---- Selection ------------------------------------------------------------------------------- */

static trace_selector *select_by(const greta_trace_options *options)
{
    greta_error err = {0};
    trace_selector *s;
    assert_int_equal(trace_selector_new(options, 6, &s, &err), GRETA_OK);
    return s;
}

static void test_selector(void **state)
{
    (void)state;
    greta_trace_options options = {.sample = -1};
    trace_selector *s = select_by(&options);
    for (int name = 0; name < STAGE_COUNT; name++) {
        int layer = stage_is_per_layer((stage)name) ? 5 : -1;
        assert_true(trace_selects_op(s, (stage)name, layer, GRETA_PHASE_PREFILL));
        assert_true(trace_selects_op(s, (stage)name, layer, GRETA_PHASE_DECODE));
    }
    assert_false(trace_selects_op(s, STAGE_Q, 6, GRETA_PHASE_DECODE));
    assert_false(trace_selects_op(s, STAGE_Q, -1, GRETA_PHASE_DECODE));
    assert_false(trace_selects_op(s, STAGE_NONE, 0, GRETA_PHASE_DECODE));
    assert_true(trace_selects_row(s, 0, false) && trace_selects_row(s, 99, true));
    assert_int_equal(trace_selects_values(s, 576), 576);
    trace_selector_free(s);

    options = (greta_trace_options){.stages = "norms,k",
                                    .layers = "0,3-4",
                                    .phases = "decode",
                                    .tokens = "last,0,5-9",
                                    .sample = 16};
    s = select_by(&options);
    static const stage chosen[] = {
        STAGE_ATTN_NORM,      STAGE_K,        STAGE_Q_NORM,        STAGE_K_NORM,
        STAGE_ATTN_POST_NORM, STAGE_FFN_NORM, STAGE_FFN_POST_NORM, STAGE_FINAL_NORM};
    for (int name = 0; name < STAGE_COUNT; name++) {
        bool is_chosen = false;
        for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
            is_chosen = is_chosen || (int)chosen[i] == name;
        }
        for (int layer = 0; layer < 6; layer++) {
            int place = stage_is_per_layer((stage)name) ? layer : -1;
            bool in_layer = place < 0 || layer == 0 || layer == 3 || layer == 4;
            assert_int_equal(trace_selects_op(s, (stage)name, place, GRETA_PHASE_DECODE),
                             is_chosen && in_layer);
            assert_false(trace_selects_op(s, (stage)name, place, GRETA_PHASE_PREFILL));
        }
    }
    for (int position = 0; position < 12; position++) {
        bool is_listed = position == 0 || (position >= 5 && position <= 9);
        assert_int_equal(trace_selects_row(s, position, false), is_listed);
        assert_true(trace_selects_row(s, position, true));
    }
    assert_int_equal(trace_selects_values(s, 576), 16);
    assert_int_equal(trace_selects_values(s, 9), 9);
    trace_selector_free(s);

    options = (greta_trace_options){.tokens = "16777215", .phases = "prefill,decode"};
    s = select_by(&options);
    assert_true(trace_selects_row(s, LIMIT_CONTEXT - 1, false));
    assert_false(trace_selects_row(s, 0, true));
    assert_int_equal(trace_selects_values(s, 576), 0);
    trace_selector_free(s);
}

static void test_selector_refuses(void **state)
{
    (void)state;
    static const struct {
        greta_trace_options options;
        const char *expected;
    } wrong[] = {
        {{.stages = "q,fnn_norm"}, "stages: \"fnn_norm\" is unknown"},
        {{.stages = "q,"}, "stages: \"\" is unknown"},
        {{.stages = "Q"}, "stages: \"Q\" is unknown"},
        {{.stages = "q k"}, "stages: \"q k\" is unknown"},
        {{.stages = ""}, "stages: \"\" is unknown"},
        {{.layers = "6"}, "layers: \"6\" is too large"},
        {{.layers = "x"}, "layers: \"x\""},
        {{.phases = "all"}, "phases: \"all\" is unknown"},
        {{.tokens = "last,,0"}, "tokens: \"\" is not a position"},
        {{.tokens = "-1"}, "tokens: \"-1\" is not a position"},
        {{.tokens = "9-5"}, "tokens: \"9-5\" is not a position"},
        {{.tokens = "5-"}, "tokens: \"5-\" is not a position"},
        {{.tokens = "5x"}, "tokens: \"5x\" is not a position"},
        {{.tokens = "16777216"}, "tokens: \"16777216\" is not a position"},
        {{.tokens = "99999999999999999999999"}, "is not a position"},
        {{.sample = -2}, "sample: -2 values"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        greta_error err = {0};
        trace_selector *s;
        assert_int_equal(trace_selector_new(&wrong[i].options, 6, &s, &err), GRETA_USAGE);
        assert_null(s);
        expect(&err, GRETA_USAGE, wrong[i].expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_disk_full_for_values),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_bytes_max),
        cmocka_unit_test(test_full_stays_full),
        cmocka_unit_test(test_second_writer),
        cmocka_unit_test(test_race),
        cmocka_unit_test(test_refused_names),
        cmocka_unit_test(test_unwritable_folder),
        cmocka_unit_test(test_vanished_folder),
        cmocka_unit_test(test_body_is_reproducible),
        cmocka_unit_test(test_own_mistakes),
        cmocka_unit_test(test_selector),
        cmocka_unit_test(test_selector_refuses),
    };
    return cmocka_run_group_tests_name("trace_writer", tests, files_begin, files_end);
}
