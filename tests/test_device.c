/* test_device.c - a session on a device computes what one on the CPU does, or says why it cannot.
 *
 * The device is the reference plugin (tests/plugin): memory of its own that is poisoned, matrices
 * in another layout, work that waits until somebody asks for it. What is compared are captures with
 * every value, taken on the CPU and there: prefill in chunks, a batch, a fork, a drop, decoding;
 * the same with faults of the catalogue planted ("all": with every one). Volume is the matter of
 * matrix_tool --device.
 */
#include "isolate_rig.h"

#include "kernel/gpu/gpu.h"
#include "trace/trace.h"

#include <dlfcn.h>
#include <inttypes.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MODEL_STEP 5
#else
#define MODEL_STEP 1
#endif
#define FAULT_STEP 5 /* without "all" */

static int is_all; /* every fault, not a sample */

#define N_CTX 140

/* GRETA_TEST_DEVICE: a device to compare instead, "cuda"; what only the reference device does is
 * left out then. */
static const char *device_name(void)
{
    const char *other = getenv("GRETA_TEST_DEVICE");
    return other ? other : "reference";
}

static int is_reference(void)
{
    return strcmp(device_name(), "reference") == 0;
}

static const char *plugins(void)
{
    static char path[TINY_PATH];
    const char *tools = getenv("GRETA_TOOLS");
    snprintf(path, sizeof path, "%s/../plugins", tools ? tools : "build/tools");
    return path;
}

/* A symbol of the reference plugin, which stays loaded. */
static void *symbol_of(const char *name)
{
    char path[TINY_PATH + 32];
    snprintf(path, sizeof path, "%s/libgreta-reference.so", plugins());
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    assert_non_null(library);
    void *found = dlsym(library, name);
    assert_non_null(found);
    dlclose(library);
    return found;
}

/* Bytes in use on all of the plugin's devices. */
static uint64_t memory_used(void)
{
    char why[200];
    gpu_plugin_function *entry;
    void *symbol = symbol_of(GPU_PLUGIN_SYMBOL);
    memcpy(&entry, &symbol, sizeof entry);
    uint64_t used = 0;
    int32_t n = 0;
    assert_int_equal(entry()->count(&n, why, sizeof why), GPU_OK);
    for (int32_t i = 0; i < n; i++) {
        gpu_info info;
        if (entry()->describe(i, &info, why, sizeof why) == GPU_OK) {
            used += info.memory - info.memory_free;
        }
    }
    return used;
}

static greta_session_options options_on(const char *device)
{
    return (greta_session_options){.size = sizeof(greta_session_options),
                                   .n_ctx = N_CTX,
                                   .n_sequence = 3,
                                   .n_chunk = 30,
                                   .n_thread = 2,
                                   .device = device,
                                   .plugins = plugins()};
}

static greta_session *session_on(greta_model *m, const greta_session_options *o)
{
    greta_error err = {0};
    greta_session *s = NULL;
    check(greta_session_new(m, o, &s, &err), &err);
    return s;
}

/* ---- The same run on both -------------------------------------------------------------------- */

static int32_t token_at(int32_t sequence, int32_t position)
{
    return (int32_t)(((uint32_t)position * 2654435761u + (uint32_t)sequence * 40503u) >> 7) % 300;
}

/* Rows that continue sequences at `position`, n of each. */
static void eval_rows(greta_session *s, int32_t n_sequence, const int32_t *position, int32_t n,
                      greta_phase phase)
{
    greta_error err = {0};
    greta_row row[30];
    size_t n_row = 0;
    for (int32_t q = 0; q < n_sequence; q++) {
        for (int32_t i = 0; i < n; i++) {
            int32_t at = position[q] + i;
            row[n_row++] = (greta_row){token_at(q, at), at, q, at % 3 != 1 || i + 1 == n};
        }
    }
    greta_batch batch = {row, n_row, phase};
    check(greta_session_eval(s, &batch, &err), &err);
}

/* Chunks, a batch, a fork, a drop, decoding with and without company; past a tile of positions. */
static void work(greta_session *s)
{
    greta_error err = {0};
    eval_rows(s, 1, (int32_t[]){0}, 30, GRETA_PHASE_PREFILL);
    eval_rows(s, 1, (int32_t[]){30}, 29, GRETA_PHASE_PREFILL);
    eval_rows(s, 1, (int32_t[]){59}, 7, GRETA_PHASE_PREFILL);
    check(greta_session_fork(s, 0, 1, &err), &err);
    check(greta_session_fork(s, 0, 2, &err), &err);
    check(greta_session_drop(s, 1, 61, &err), &err);
    eval_rows(s, 2, (int32_t[]){66, 61}, 4, GRETA_PHASE_PREFILL);
    eval_rows(s, 3, (int32_t[]){70, 65, 66}, 1, GRETA_PHASE_DECODE);
    eval_rows(s, 1, (int32_t[]){71}, 1, GRETA_PHASE_DECODE);
    check(greta_session_drop(s, 0, 71, &err), &err);
    eval_rows(s, 1, (int32_t[]){71}, 1, GRETA_PHASE_DECODE);
}

static greta_capture *captured(greta_session *s, int has_values)
{
    greta_error err = {0};
    greta_capture *c = NULL;
    greta_capture_options co = {.size = sizeof co, .values = has_values};
    check(greta_capture_begin(s, &co, &err), &err);
    work(s);
    check(greta_capture_end(s, &c, &err), &err);
    return c;
}

static size_t same_captures(const greta_capture *a, const greta_capture *b, const char *what)
{
    size_t n = greta_capture_count(a);
    assert_true(n > 0);
    assert_int_equal(n, greta_capture_count(b));
    for (size_t i = 0; i < n; i++) {
        greta_captured x, y;
        uint64_t bytes = 0;
        assert_true(greta_capture_row(a, i, &x) && greta_capture_row(b, i, &y));
        dtype type = strcmp(x.type, "F32") == 0   ? DTYPE_F32
                     : strcmp(x.type, "F16") == 0 ? DTYPE_F16
                     : strcmp(x.type, "I32") == 0 ? DTYPE_I32
                                                  : DTYPE_ACT_Q8;
        assert_true(trace_values_bytes(type, x.n, &bytes) && x.n == y.n);
        if (x.hash != y.hash || x.bag != y.bag || memcmp(&x.sumsq, &y.sumsq, 4) != 0 ||
            memcmp(&x.min, &y.min, 4) != 0 || memcmp(&x.max, &y.max, 4) != 0 ||
            x.n_nonfinite != y.n_nonfinite || !x.values != !y.values ||
            (x.values && memcmp(x.values, y.values, bytes) != 0)) {
            fail_msg("%s: %s of layer %d differs at pass %d, sequence %d, position %d", what,
                     x.stage, x.layer, (int)x.pass, x.sequence, x.position);
        }
    }
    return n;
}

/* ---- Models ---------------------------------------------------------------------------------- */

static const char *const models[] = {
    "--type Q8_0 --bias",
    "--type Q4_K --embd 256",
    "--type F32 --window 20 --rope-scaling linear",
    "--type BF16 --arch qwen3 --untied",
    "--type Q8_0 --experts 5 --experts-used 3 --split-experts",
    "--type Q4_0 --arch qwen3moe --window 63 --window-period 2",
    "--type Q5_1 --arch gemma2 --window 64 --attn-scale 0.3",
    "--type F16 --arch gemma3 --layers 3 --window-period 2 --window 65",
    "--type Q5_0 --arch phi3 --ctx-original 4 --window 127",
};

static void every_stage_has_the_same_bits(void **state)
{
    (void)state;
    size_t n_row = 0;
    uint64_t before = memory_used();
    for (size_t i = 0; i < sizeof models / sizeof *models; i += MODEL_STEP) {
        greta_error err = {0};
        greta_model *m = NULL;
        char path[TINY_PATH];
        assert_true(tiny_model("device", models[i], path));
        check(greta_model_open(path, &m, &err), &err);
        for (int other = 0; other < 2; other++) {
            greta_session_options here = options_on(NULL);
            here.kv = other ? GRETA_KV_F32 : GRETA_KV_F16;
            here.act = other ? GRETA_ACT_F32 : GRETA_ACT_Q8;
            greta_session_options there = here;
            there.device = device_name();
            greta_session *s = session_on(m, &here), *d = session_on(m, &there);
            assert_string_equal(greta_session_describe(s).device, "cpu");
            assert_non_null(strchr(greta_session_describe(d).device, ':'));
            greta_capture *expected = captured(s, other), *found = captured(d, other);
            n_row += same_captures(expected, found, models[i]);
            greta_capture_free(expected);
            greta_capture_free(found);
            greta_session_free(s);
            greta_session_free(d);
        }
        greta_model_release(m);
        unlink(path);
        assert_int_equal(memory_used(), before);
    }
    assert_true(n_row > 1000);
}

/* Steps of decoding as graphs: over the bounds at which one is made anew, alone and in company,
 * with an override that comes and goes between. */
static void decode_steps(greta_session *s, int32_t from, int32_t to, float *logits, size_t n)
{
    for (int32_t p = from; p < to; p++) {
        int32_t n_sequence = p < 270 ? 1 : 2;
        eval_rows(s, n_sequence, (int32_t[]){p, p}, 1, GRETA_PHASE_DECODE);
        for (int32_t q = 0; q < n_sequence; q++, logits += n) {
            memcpy(logits, greta_session_logits(s, (size_t)q), n * sizeof *logits);
        }
    }
}

static void graphs_compute_the_same(void **state)
{
    (void)state;
    greta_error err = {0};
    enum { FROM = 240, TO = 300, ROWS = 2 * (TO - FROM) };
    const int64_t *n_launch = symbol_of("reference_n_launch");
    size_t n = (size_t)greta_model_describe(model).n_vocab;
    float *logits[2] = {calloc(ROWS * n, sizeof(float)), calloc(ROWS * n, sizeof(float))};
    int64_t before = *n_launch;
    for (int there = 0; there < 2; there++) {
        greta_session_options o = options_on(there ? device_name() : "cpu");
        o.n_ctx = 320;
        greta_session *s = session_on(model, &o);
        for (int32_t p = 0; p < FROM; p += 30) {
            eval_rows(s, 1, &p, 30, GRETA_PHASE_PREFILL);
        }
        decode_steps(s, FROM, 270, logits[there], n);
        check(greta_session_fork(s, 0, 1, &err), &err);
        check(session_override_set(s, NULL, &err), &err); /* other buffers */
        decode_steps(s, 270, TO, logits[there] + 30 * n, n);
        greta_session_free(s);
    }
    assert_true(!is_reference() || *n_launch - before > 45); /* but for the first of a shape */
    assert_memory_equal(logits[0], logits[1], ROWS * n * sizeof(float));
    free(logits[0]);
    free(logits[1]);
}

/* Statistics are part of the graph: a decoded token is launched whole, looked at or not. */
static void a_captured_token_is_a_graph(void **state)
{
    (void)state;
    enum { STEPS = 12 };
    greta_error err = {0};
    greta_capture *capture[2] = {NULL, NULL};
    const int64_t *n_launch = symbol_of("reference_n_launch");
    int64_t before = *n_launch;
    for (int there = 0; there < 2; there++) {
        greta_session_options o = options_on(there ? device_name() : "cpu");
        greta_capture_options co = {.size = sizeof co};
        float logits[STEPS * 512];
        size_t n = (size_t)greta_model_describe(model).n_vocab;
        assert_true(n <= 512);
        greta_session *s = session_on(model, &o);
        eval_rows(s, 1, (int32_t[]){0}, 30, GRETA_PHASE_PREFILL);
        check(greta_capture_begin(s, &co, &err), &err);
        decode_steps(s, 30, 30 + STEPS, logits, n);
        check(greta_capture_end(s, &capture[there], &err), &err);
        decode_steps(s, 30 + STEPS, 33 + STEPS, logits, n);
        greta_session_free(s);
    }
    assert_true(!is_reference() || *n_launch - before == STEPS - 1 + 2);
    same_captures(capture[0], capture[1], "decoding");
    greta_capture_free(capture[0]);
    greta_capture_free(capture[1]);
}

/* ---- Traces ---------------------------------------------------------------------------------- */

static void traced(const greta_session_options *o, const char *path, trace **t)
{
    greta_error err = {0};
    greta_session *s = session_on(model, o);
    greta_trace_options to = {
        .size = sizeof to, .path = path, .tokens = "0-3,60-71,cache", .sample = -1, .overwrite = 1};
    check(greta_trace_begin(s, &to, &err), &err);
    work(s);
    check(greta_trace_end(s, "complete", &err), &err);
    greta_session_free(s);
    check(trace_open(path, t, &err), &err);
}

static void same_tensors(const trace_tensor *a, const trace_tensor *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        uint64_t bytes = 0;
        assert_memory_equal(&a[i].hash, &b[i].hash, sizeof a[i].hash);
        assert_memory_equal(&a[i].sumsq, &b[i].sumsq, sizeof a[i].sumsq);
        if (a[i].buffer[0] != 'b') { /* edges live longer in the plan of a device */
            assert_string_equal(a[i].buffer, b[i].buffer);
            assert_int_equal(a[i].offset, b[i].offset);
        }
        assert_int_equal(a[i].n_kept, b[i].n_kept);
        if (a[i].n_kept > 0) {
            assert_true(trace_values_bytes(a[i].type, a[i].n_kept, &bytes));
            assert_memory_equal(a[i].data, b[i].data, bytes);
        }
    }
}

/* What ops read as well, with the rows of the cache that attention saw. */
static void a_trace_says_the_same_but_for_who_computed(void **state)
{
    (void)state;
    trace *here = NULL, *there = NULL;
    greta_session_options cpu = options_on("cpu"), device = options_on(device_name());
    traced(&cpu, folder("cpu.jsonl"), &here);
    traced(&device, folder("device.jsonl"), &there);
    assert_string_equal(here->header.device, "");
    assert_true(strlen(there->header.device) > 0);
    const char *kernel = there->header.kernel;
    assert_memory_equal(kernel, device_name(), strlen(kernel));
    assert_int_equal(here->n_record, there->n_record);
    size_t n_norm = 0;
    for (size_t i = 0; i < here->n_record; i++) {
        const trace_record *a = &here->record[i], *b = &there->record[i];
        assert_int_equal(a->kind, b->kind);
        assert_int_equal(a->name, b->name);
        assert_int_equal(a->n_in, b->n_in);
        assert_string_equal(b->kernel, kernel);
        assert_memory_equal(&a->inv_rms, &b->inv_rms, sizeof a->inv_rms);
        same_tensors(a->in, b->in, a->n_in);
        same_tensors(a->weight, b->weight, a->n_weight);
        if (a->kind == TRACE_ROW) {
            same_tensors(a->out, b->out, a->n_out);
        }
        n_norm += a->has_norm != 0;
    }
    assert_true(n_norm > 0);
    trace_close(here);
    trace_close(there);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static rope_table_args angles[2];

static greta_status plant(greta_session *s, const fault_kind *kind, fault_planted **p,
                          greta_error *err)
{
    angles[0] = session_angles(s, 0);
    angles[1] = session_angles(s, 1);
    fault_site place = {.kind = kind,
                        .list = session_ops(s, GRETA_PHASE_PREFILL),
                        .table = kernel_find(NULL),
                        .angles = angles,
                        .stage = STAGE_NONE,
                        .layer = kind->layer_min > 1 ? kind->layer_min : 1,
                        .previous_row = -1};
    return fault_plant(&place, p, err);
}

static int swaps_kernels(const fault_planted *p)
{
    int found = 0;
    for (int32_t i = 0; i < p->list.n_op; i++) {
        found |= p->list.op[i].table > 0;
    }
    return found;
}

static session_override override_of(const fault_planted *p)
{
    uint32_t phases = 1u << GRETA_PHASE_DECODE | 1u << GRETA_PHASE_PREFILL;
    for (int32_t i = 0; i < p->list.n_op; i++) {
        for (int k = 0; k < OP_IN_MAX; k++) {
            if (p->list.op[i].in[k].delay == READ_PREVIOUS_PASS) {
                phases = 1u << GRETA_PHASE_DECODE;
            }
        }
    }
    return (session_override){&p->list, p->table, phases, p->trigger, p->cos_sin};
}

/* Both sessions run the fault; 1: it was planted, 0: it swaps a kernel, and the device refused. */
static int fault_runs(greta_session *s, greta_session *d, const fault_planted *p, const char *name)
{
    greta_error err = {0};
    session_override override = override_of(p);
    greta_status status = session_override_set(d, &override, &err);
    if (swaps_kernels(p)) {
        assert_int_equal(status, GRETA_USAGE);
        return 0;
    }
    check(status, &err);
    check(session_override_set(s, &override, &err), &err);
    for (int32_t q = 0; q < 3; q++) {
        check(greta_session_drop(s, q, 0, &err), &err);
        check(greta_session_drop(d, q, 0, &err), &err);
    }
    greta_capture *expected = captured(s, 0), *found = captured(d, 0);
    same_captures(expected, found, name);
    greta_capture_free(expected);
    greta_capture_free(found);
    return 1;
}

/* Delayed and shifted reads, triggers, weights, angles and numbers of others. */
static void faults_do_the_same(void **state)
{
    (void)state;
    size_t n, n_run = 0, n_refused = 0;
    const fault_kind *kind = fault_kinds(&n);
    greta_session_options here = options_on(NULL), there = options_on(device_name());
    greta_session *s = session_on(model, &here), *d = session_on(model, &there);
    for (size_t i = 0; i < n; i += is_all ? 1 : FAULT_STEP) {
        greta_error err = {0};
        fault_planted *p = NULL;
        if (kind[i].where == WHERE_TOKENS || plant(s, &kind[i], &p, &err) != GRETA_OK) {
            continue;
        }
        int ran = fault_runs(s, d, p, kind[i].name);
        n_run += ran != 0;
        n_refused += ran == 0;
        check(session_override_set(s, NULL, &err), &err);
        check(session_override_set(d, NULL, &err), &err);
        fault_planted_free(p);
    }
    greta_session_free(s);
    greta_session_free(d);
    print_message("%zu faults ran, %zu swap a kernel\n", n_run, n_refused);
    assert_true(n_run > (is_all ? 60 : 8) && n_refused > (is_all ? 60 : 8));
}

static greta_status isolated(const char *fault, const char *decode, greta_status *verdict,
                             greta_error *err)
{
    char *text = NULL;
    greta_isolate_options o = {.size = sizeof o,
                               .session = options_on(device_name()),
                               .fault = fault,
                               .fault_layer = 1,
                               .out = folder("out"),
                               .overwrite = 1,
                               .device_decode = decode};
    o.session.n_sequence = 1;
    o.session.device = decode ? "cpu" : o.session.device;
    greta_status status = greta_isolate(model, prompts, 1, &o, 1, &text, verdict, err);
    greta_free(text);
    return status;
}

static void isolate_works_there(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_status verdict;
    for (int is_pair = 0; is_pair < 2; is_pair++) { /* there, or here and there */
        const char *decode = is_pair ? device_name() : NULL;
        check(isolated(NULL, decode, &verdict, &err), &err);
        assert_int_equal(verdict, GRETA_OK);
        check(isolated("ffn_norm-reads-previous-position", decode, &verdict, &err), &err);
        assert_int_equal(verdict, GRETA_FAULT);
    }
    const char *const name[] = {"prefill", "decode"};
    for (int i = 0; i < 2; i++) {
        char path[TINY_PATH + 32];
        trace *t = NULL;
        snprintf(path, sizeof path, "%s/short.%s.jsonl", folder("out"), name[i]);
        check(trace_open(path, &t, &err), &err);
        assert_int_equal(strlen(t->header.device) > 0, i);
        trace_close(t);
    }
    greta_isolate_options o = options_for("out");
    o.device_decode = device_name();
    o.mode = GRETA_E1_TRUNCATE;
    char *text = NULL;
    assert_int_equal(greta_isolate(model, prompts, 1, &o, 1, &text, &verdict, &err), GRETA_USAGE);
}

/* ---- Manners --------------------------------------------------------------------------------- */

static void refused(const char *device, greta_status code, const char *words)
{
    greta_error err = {0};
    greta_session *s = NULL;
    greta_session_options o = options_on(device);
    o.n_chunk = 200; /* over what device 2 has */
    o.n_ctx = 1000;
    assert_int_equal(greta_session_new(model, &o, &s, &err), code);
    assert_null(s);
    char line[GRETA_ERROR_LINE];
    if (!strstr(greta_error_line(&err, line), words)) {
        fail_msg("\"%s\" is not in: %s", words, line);
    }
}

static void what_does_not_work_says_why(void **state)
{
    (void)state;
    uint64_t before = memory_used();
    refused("nosuch", GRETA_IO, "there is no plugin libgreta-nosuch.so (here: ");
    refused("nosuch", GRETA_IO, "reference");
    refused("reference:9", GRETA_IO, "reference:9: there is no such device (devices are 0 to 5)");
    refused("reference:4", GRETA_IO, "the driver is absent or too old (driver 1.0, 2.0 is needed)");
    refused("reference:2", GRETA_IO, "reference:2: too little memory: needs ");
    refused("reference:2", GRETA_IO, "and 1.0 MiB is free");
    refused("reference:3", GRETA_IO, "reference:3: out of memory: ");
    refused("oldinterface", GRETA_IO, "the plugin has interface 0 (this greta has 2)");
    refused("otherarithmetic", GRETA_IO, "the plugin computes arithmetic 999 (this greta ");
    refused("misnamed", GRETA_IO, "the plugin of this name is another one");
    refused("", GRETA_USAGE, "is not cpu, NAME or NAME:NUMBER");
    refused("../reference", GRETA_USAGE, "is not cpu");
    refused("reference:", GRETA_USAGE, "is not cpu");
    refused("reference:0x", GRETA_USAGE, "is not cpu");
    refused("reference:99999999999999999999", GRETA_USAGE, "is not cpu");
    refused("a_name_that_is_longer_than_any", GRETA_USAGE, "is not cpu");
    assert_int_equal(memory_used(), before);
}

static void a_lost_device_ends_its_session_alone(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_session_options lost = options_on("reference:5"), good = options_on("reference:0");
    greta_session *s = session_on(model, &lost), *other = session_on(model, &good);
    greta_row row = {.token = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_PREFILL};
    greta_status status;
    while ((status = greta_session_eval(s, &batch, &err)) == GRETA_OK && row.position < 100) {
        row.position++;
    }
    assert_int_equal(status, GRETA_IO);
    assert_non_null(strstr(err.message, "fell off the bus"));
    assert_null(greta_session_logits(s, 0));
    err = (greta_error){0};
    check(greta_session_drop(s, 0, 0, &err), &err);
    row.position = 0;
    assert_int_equal(greta_session_eval(s, &batch, &err), GRETA_IO);
    assert_non_null(strstr(err.message, "fell off the bus"));
    err = (greta_error){0};
    check(greta_session_eval(other, &batch, &err), &err);
    greta_session_free(s);
    greta_session_free(other);
}

typedef struct uploads {
    uint64_t n, last, total;
} uploads;

static void upload_seen(void *user, const char *what, uint64_t done, uint64_t total)
{
    uploads *u = user;
    assert_string_equal(what, "upload");
    assert_true(done >= u->last && done <= total && (u->total == 0 || u->total == total));
    *u = (uploads){u->n + 1, done, total};
}

static void weights_are_uploaded_once_per_model(void **state)
{
    (void)state;
    char path[TINY_PATH];
    greta_error err = {0};
    greta_model *m = NULL;
    uploads first = {0}, second = {0};
    greta_session_options o = options_on("reference");
    assert_true(tiny_model("upload", "--type Q4_0", path));
    check(greta_model_open(path, &m, &err), &err);
    o.progress = upload_seen;
    o.progress_user = &first;
    uint64_t before = memory_used();
    greta_session *s = session_on(m, &o);
    assert_true(first.n > 1 && first.last == first.total);
    uint64_t one = memory_used() - before;
    o.progress_user = &second;
    greta_session *again = session_on(m, &o);
    assert_int_equal(second.n, 0);
    assert_true(memory_used() - before > one && memory_used() - before < 2 * one);
    greta_session_free(s);
    greta_session_free(again);
    assert_true(memory_used() > before); /* the model keeps them */
    greta_model_release(m);
    assert_int_equal(memory_used(), before);
    unlink(path);
}

/* A program compiled before there were devices hands over a shorter struct. */
static void older_options_have_no_device(void **state)
{
    (void)state;
    greta_session_options o = options_on("nothing");
    o.size = offsetof(greta_session_options, device);
    greta_session *s = session_on(model, &o);
    assert_string_equal(greta_session_describe(s).device, "cpu");
    assert_int_equal(greta_session_describe(s).n_ctx, N_CTX);
    greta_session_free(s);
}

static void the_list_of_devices_has_what_works_and_what_does_not(void **state)
{
    (void)state;
    greta_error err = {0};
    char *text = NULL;
    check(greta_devices(plugins(), 0, &text, &err), &err);
    assert_non_null(strstr(text, "\nreference:0  reference device 0, ref, "));
    assert_non_null(strstr(text, "\nreference:4  the driver is absent or too old"));
    assert_non_null(strstr(text, "libgreta-oldinterface.so: the plugin has interface 0"));
    greta_free(text);
    check(greta_devices(plugins(), 1, &text, &err), &err);
    json_t *all = json_loads(text, 0, NULL);
    assert_true(json_array_size(json_object_get(all, "plugins")) >= 4);
    assert_non_null(json_object_get(all, "searched"));
    json_decref(all);
    greta_free(text);
}

int main(int argc, char **argv)
{
    is_all = argc > 1 && strcmp(argv[1], "all") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stage_has_the_same_bits),
        cmocka_unit_test(graphs_compute_the_same),
        cmocka_unit_test(a_captured_token_is_a_graph),
        cmocka_unit_test(a_trace_says_the_same_but_for_who_computed),
        cmocka_unit_test(faults_do_the_same),
        cmocka_unit_test(isolate_works_there),
    };
    const struct CMUnitTest manners[] = {
        cmocka_unit_test(what_does_not_work_says_why),
        cmocka_unit_test(a_lost_device_ends_its_session_alone),
        cmocka_unit_test(weights_are_uploaded_once_per_model),
        cmocka_unit_test(older_options_have_no_device),
        cmocka_unit_test(the_list_of_devices_has_what_works_and_what_does_not),
    };
    int failed = cmocka_run_group_tests_name("device", tests, setup, teardown);
    return is_reference()
               ? failed + cmocka_run_group_tests_name("manners", manners, setup, teardown)
               : failed;
}
