/* test_engine.c - one forward pass, however it is cut: the same bits.
 *
 * The reference of every case is one pass over all tokens with one thread. Chunks, decode steps,
 * threads, company in a batch, forks, kernel tables and tracing must not change a bit of any
 * position's logits. Models are tiny ones of every weight type, and SmolLM2 where GRETA_SMOLLM2
 * names it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "greta.h"
#include "tiny_model.h"
#include "trace/trace.h"

/* ---- Counting allocations, where no sanitizer owns malloc ------------------------------------ */

#if !defined(SANITIZED) && !defined(__clang__)
#define COUNTS_ALLOCATIONS 1
static long n_allocation;
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
void *malloc(size_t n)
{
    n_allocation++;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    n_allocation++;
    return __libc_calloc(n, size);
}
void *realloc(void *old, size_t n)
{
    n_allocation++;
    return __libc_realloc(old, n);
}
#endif

/* Sanitizers look for other mistakes than wrong bits: two tiny models show them. */
#ifdef SANITIZED
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

/* `make check` takes one model of five: tests/matrix_tool.c cuts all types in more ways. */
static size_t model_step(void)
{
    return IS_SANITIZED ? 8 : getenv("GRETA_WHOLE") ? 1 : 5;
}

enum { N_TOKEN = 75 };

typedef struct world {
    greta_model *model;
    int32_t id[N_TOKEN], n, n_vocab;
    float *expected; /* (n, n_vocab) */
    greta_session_options options;
} world;

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

static greta_session *open_session(const world *w, int32_t chunk, int32_t threads, const char *cpu)
{
    greta_error err = {0};
    greta_session *s = NULL;
    greta_session_options o = w->options;
    o.n_ctx = 100; /* no whole number of tiles */
    o.n_chunk = chunk;
    o.n_thread = threads;
    o.cpu = cpu;
    check(greta_session_new(w->model, &o, &s, &err), &err);
    return s;
}

static void same_logits(const world *w, const float *logits, int32_t position, const char *what)
{
    const float *expected = w->expected + (size_t)position * (size_t)w->n_vocab;
    assert_non_null(logits);
    for (int32_t i = 0; i < w->n_vocab; i++) {
        if (hash_float_bits(logits[i]) != hash_float_bits(expected[i])) {
            fail_msg("%s: position %d, token %d: %a, expected %a", what, position, i,
                     (double)logits[i], (double)expected[i]);
        }
    }
}

/* Feeds sequence `sequence` in chunks, every row's logits wanted, each compared or stored. */
static void feed(const world *w, greta_session *s, int32_t from, int32_t chunk, int32_t sequence,
                 const char *what)
{
    greta_error err = {0};
    greta_row row[N_TOKEN];
    for (int32_t start = from; start < w->n; start += chunk) {
        int32_t size = w->n - start < chunk ? w->n - start : chunk;
        for (int32_t i = 0; i < size; i++) {
            row[i] = (greta_row){w->id[start + i], start + i, sequence, 1};
        }
        greta_batch batch = {row, (size_t)size,
                             size == 1 ? GRETA_PHASE_DECODE : GRETA_PHASE_PREFILL};
        check(greta_session_eval(s, &batch, &err), &err);
        for (int32_t i = 0; i < size; i++) {
            const float *logits = greta_session_logits(s, (size_t)i);
            if (what) {
                same_logits(w, logits, start + i, what);
            } else {
                memcpy(w->expected + (size_t)(start + i) * (size_t)w->n_vocab, logits,
                       (size_t)w->n_vocab * sizeof *logits);
            }
        }
    }
}

static void world_open(world *w, const char *path, int32_t n)
{
    greta_error err = {0};
    *w = (world){.n = n, .options = {.size = sizeof w->options}};
    check(greta_model_open(path, &w->model, &err), &err);
    w->n_vocab = greta_model_describe(w->model).n_vocab;
    w->expected = malloc((size_t)n * (size_t)w->n_vocab * sizeof *w->expected);
    uint32_t x = 12345;
    for (int32_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        w->id[i] = (int32_t)((x >> 8) % (uint32_t)w->n_vocab);
    }
}

static void world_close(world *w)
{
    free(w->expected);
    greta_model_release(w->model);
}

/* The reference, and then every way to cut the same work. */
static void cuts_agree(world *w, int is_thorough)
{
    const int32_t chunk[] = {1, 7, 16, 33};
    greta_session *s = open_session(w, N_TOKEN, 1, NULL);
    feed(w, s, 0, w->n, 0, NULL);
    greta_session_free(s);
    for (size_t i = 0; i < 4; i++) {
        s = open_session(w, chunk[i], 1 + (int32_t)i % 3, NULL);
        feed(w, s, 0, chunk[i], 0, "chunks");
        greta_session_free(s);
    }
    s = open_session(w, N_TOKEN, 3, is_thorough ? "ref" : NULL);
    feed(w, s, 0, w->n, 0, "ref, 3 threads");
    greta_error err = {0};
    check(greta_session_drop(s, 0, w->n - 9, &err), &err);
    feed(w, s, w->n - 9, 4, 0, "after a drop");
    greta_session_free(s);
}

/* Three sequences in one batch, at different positions; one is forked half-way. */
static void batches_agree(world *w)
{
    greta_error err = {0};
    w->options.n_sequence = 3;
    greta_session *s = open_session(w, N_TOKEN, 2, NULL);
    w->options.n_sequence = 0;
    greta_row row[N_TOKEN];
    int32_t at[3] = {0, 0, 0};
    for (int round = 0; at[0] < w->n; round++) {
        size_t n = 0;
        for (int32_t q = 0; q < (round < 6 ? 2 : 3); q++) {
            for (int32_t i = 0; i <= (round + q) % 4 && at[q] < w->n; i++) {
                row[n++] = (greta_row){w->id[at[q]], at[q], q, 1};
                at[q]++;
            }
        }
        greta_batch batch = {row, n, GRETA_PHASE_DECODE};
        check(greta_session_eval(s, &batch, &err), &err);
        for (size_t i = 0; i < n; i++) {
            same_logits(w, greta_session_logits(s, i), row[i].position, "batch");
        }
        if (round == 5) {
            check(greta_session_fork(s, 1, 2, &err), &err);
            at[2] = at[1];
        }
    }
    check(greta_session_drop(s, 0, 0, &err), &err);
    check(greta_session_fork(s, 1, 0, &err), &err);
    check(greta_session_drop(s, 0, w->n - 5, &err), &err);
    feed(w, s, w->n - 5, 2, 0, "after a fork of more than a tile");
    greta_session_free(s);
}

static void every_cut_of_tiny_models_gives_the_same_bits(void **state)
{
    (void)state;
    const char *const model[] = {
        "--type F32",           "--type F16 --embd-type F16",
        "--type BF16 --untied", "--type Q8_0 --bias",
        "--type Q4_0",          "--type Q4_1 --rope-factors",
        "--type Q5_0",          "--type Q5_1 --untied",
        "--type Q4_K",          "--type Q5_K --bias --untied",
        "--type Q6_K",          "--type IQ4_NL",
        "--type IQ4_XS",        "--type MXFP4",
        "--type Q2_K --untied", "--type Q3_K",
    };
    for (size_t i = 0; i < sizeof model / sizeof *model; i += model_step()) {
        char path[TINY_PATH];
        world w;
        assert_true(tiny_model("engine", model[i], path));
        world_open(&w, path, N_TOKEN);
        for (int kv = 0; kv < 2; kv++) {
            for (int act = 0; act < 2; act++) {
                w.options.kv = kv ? GRETA_KV_F32 : GRETA_KV_F16;
                w.options.act = act ? GRETA_ACT_F32 : GRETA_ACT_Q8;
                cuts_agree(&w, kv == act);
                batches_agree(&w);
            }
        }
        world_close(&w);
        unlink(path);
    }
}

#if !IS_SANITIZED
static void every_cut_of_smollm2_gives_the_same_bits(void **state)
{
    (void)state;
    const char *path = getenv("GRETA_SMOLLM2");
    if (!path) {
        print_message("offline: the real model is not here\n");
        skip();
    }
    world w;
    world_open(&w, path, 24);
    for (int act = 0; act < 2; act++) {
        w.options.act = act ? GRETA_ACT_F32 : GRETA_ACT_Q8;
        w.options.kv = act ? GRETA_KV_F32 : GRETA_KV_F16;
        cuts_agree(&w, !act);
        batches_agree(&w);
    }
    world_close(&w);
}
#endif

static void contracts_and_cache_types_differ(void **state)
{
    (void)state;
    char path[TINY_PATH];
    world w;
    assert_true(tiny_model("engine", "--type Q8_0", path));
    world_open(&w, path, N_TOKEN);
    greta_session *s = open_session(&w, N_TOKEN, 1, NULL);
    feed(&w, s, 0, w.n, 0, NULL);
    greta_session_free(s);
    for (int i = 0; i < 2; i++) {
        w.options.act = i == 0 ? GRETA_ACT_F32 : GRETA_ACT_Q8;
        w.options.kv = i == 1 ? GRETA_KV_F32 : GRETA_KV_F16;
        s = open_session(&w, N_TOKEN, 1, NULL);
        greta_error err = {0};
        check(greta_session_feed(s, w.id, (size_t)w.n, 0, &err), &err);
        const float *last = w.expected + (size_t)(w.n - 1) * (size_t)w.n_vocab;
        assert_memory_not_equal(greta_session_logits(s, 0), last, (size_t)w.n_vocab * 4);
        greta_session_free(s);
    }
    world_close(&w);
    unlink(path);
}

static void tracing_changes_no_bit(void **state)
{
    (void)state;
    char path[TINY_PATH], out[TINY_PATH + 16];
    world w;
    assert_true(tiny_model("engine", "--type Q4_1", path));
    world_open(&w, path, N_TOKEN);
    greta_session *s = open_session(&w, N_TOKEN, 1, NULL);
    feed(&w, s, 0, w.n, 0, NULL);
    greta_session_free(s);
    s = open_session(&w, 16, 2, NULL);
    greta_error err = {0};
    snprintf(out, sizeof out, "%s.jsonl", path);
    greta_trace_options options = {
        .size = sizeof options, .path = out, .sample = -1, .overwrite = 1};
    uint64_t planned = 0;
    check(greta_trace_plan(s, &options, (size_t)w.n, 0, &planned, &err), &err);
    check(greta_trace_begin(s, &options, &err), &err);
    assert_int_equal(greta_trace_begin(s, &options, NULL), GRETA_USAGE);
    feed(&w, s, 0, 16, 0, "traced");
    check(greta_trace_end(s, "complete", &err), &err);
    FILE *file = fopen(out, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    assert_true(bytes > 10000 && (uint64_t)bytes < planned);
    fclose(file);
    unlink(out);
    snprintf(out, sizeof out, "%s.jsonl.blob", path);
    unlink(out);
    greta_session_free(s);
    world_close(&w);
    unlink(path);
}

/* What attention says it read is what was stored at positions 0 .. its own, in that order. */
static void cache_read_is_what_was_stored(const trace *t, int32_t layer, stage name)
{
    const trace_record *stored = trace_find(t, name, layer, 0, GRETA_PHASE_PREFILL);
    assert_non_null(stored);
    size_t bytes = (size_t)stored->out[0].n * (stored->out[0].type == DTYPE_F16 ? 2 : 4);
    uint8_t *rows = malloc(N_TOKEN * bytes);
    for (int32_t p = 0; p < N_TOKEN; p++) {
        stored = trace_find(t, name, layer, p, GRETA_PHASE_PREFILL);
        const trace_record *read = trace_find(t, STAGE_ATTN_OUT, layer, p, GRETA_PHASE_PREFILL);
        assert_true(stored && read && stored->out[0].slot == p);
        memcpy(rows + (size_t)p * bytes, stored->out[0].data, bytes);
        const trace_tensor *in = read->in[1].name == name ? &read->in[1] : &read->in[2];
        row_hash hash = trace_values_hash(in->type, rows, in->n);
        assert_true(in->name == name && in->slot == 0 && in->n == (p + 1) * stored->out[0].n);
        assert_true(in->hash.ordered == hash.ordered && in->hash.bag == hash.bag);
    }
    free(rows);
}

static void traces_hold_the_cache(void **state)
{
    (void)state;
    char path[TINY_PATH], out[TINY_PATH + 16];
    world w;
    assert_true(tiny_model("engine", "--type Q8_0", path));
    world_open(&w, path, N_TOKEN);
    snprintf(out, sizeof out, "%s.jsonl", path);
    for (int kv = 0; kv < 2; kv++) {
        greta_error err = {0};
        w.options.kv = kv ? GRETA_KV_F32 : GRETA_KV_F16;
        greta_session *s = open_session(&w, 40, 2, NULL);
        greta_trace_options options = {.size = sizeof options,
                                       .path = out,
                                       .stages = "k_cache,v_cache,attn_out",
                                       .sample = -1,
                                       .overwrite = 1};
        check(greta_trace_begin(s, &options, &err), &err);
        check(greta_session_feed(s, w.id, N_TOKEN, 0, &err), &err);
        check(greta_trace_end(s, "complete", &err), &err);
        trace *t = NULL;
        check(trace_open(out, &t, &err), &err);
        for (int32_t layer = 0; layer < t->header.n_layer; layer++) {
            cache_read_is_what_was_stored(t, layer, STAGE_K_CACHE);
            cache_read_is_what_was_stored(t, layer, STAGE_V_CACHE);
        }
        trace_close(t);
        greta_session_free(s);
    }
    unlink(out);
    snprintf(out, sizeof out, "%s.jsonl.blob", path);
    unlink(out);
    world_close(&w);
    unlink(path);
}

#ifdef COUNTS_ALLOCATIONS
static void evaluation_allocates_nothing(void **state)
{
    (void)state;
    char path[TINY_PATH];
    world w;
    assert_true(tiny_model("engine", "--type Q8_0", path));
    world_open(&w, path, N_TOKEN);
    greta_session *s = open_session(&w, 32, 2, NULL);
    greta_error err = {0};
    long before = n_allocation;
    greta_status fed = greta_session_feed(s, w.id, (size_t)w.n, 0, &err);
    greta_row row = {w.id[0], w.n, 0, 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    greta_status decoded = greta_session_eval(s, &batch, &err);
    assert_int_equal(n_allocation - before, 0);
    assert_true(fed == GRETA_OK && decoded == GRETA_OK);
    greta_session_free(s);
    world_close(&w);
    unlink(path);
}
#endif

/* Refused batches leave the cache as it was. */
static void bad_batches_are_refused(void **state)
{
    (void)state;
    char path[TINY_PATH];
    world w;
    assert_true(tiny_model("engine", "--type F32", path));
    world_open(&w, path, N_TOKEN);
    w.options.n_sequence = 2;
    greta_session *s = open_session(&w, 8, 1, NULL);
    greta_error err = {0};
    check(greta_session_feed(s, w.id, 5, 0, &err), &err);
    const greta_row bad[][2] = {
        {{w.n_vocab, 5, 0, 0}, {1, 6, 0, 0}}, {{-1, 5, 0, 0}, {1, 6, 0, 0}},
        {{1, 6, 0, 0}, {1, 7, 0, 0}},         {{1, 4, 0, 0}, {1, 5, 0, 0}},
        {{1, 5, 0, 0}, {1, 7, 0, 0}},         {{1, 5, 2, 0}, {1, 6, 0, 0}},
        {{1, 5, 0, 0}, {1, 1, 1, 0}},         {{1, -1, 1, 0}, {1, 0, 1, 0}},
        {{1, 5, 0, 0}, {1, 5, 0, 0}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        greta_batch batch = {bad[i], 2, GRETA_PHASE_PREFILL};
        assert_int_equal(greta_session_eval(s, &batch, NULL), GRETA_USAGE);
    }
    greta_row many[9] = {{0}};
    greta_batch none = {many, 0, GRETA_PHASE_PREFILL}, nine = {many, 9, GRETA_PHASE_PREFILL};
    assert_int_equal(greta_session_eval(s, &none, NULL), GRETA_USAGE);
    assert_int_equal(greta_session_eval(s, &nine, NULL), GRETA_USAGE);
    assert_int_equal(greta_session_drop(s, 0, 6, NULL), GRETA_USAGE);
    assert_int_equal(greta_session_drop(s, 2, 0, NULL), GRETA_USAGE);
    greta_row good = {w.id[5], 5, 0, 1};
    greta_batch batch = {&good, 1, GRETA_PHASE_DECODE};
    check(greta_session_eval(s, &batch, &err), &err);
    assert_null(greta_session_logits(s, 1));
    float *kept = malloc((size_t)w.n_vocab * 4);
    memcpy(kept, greta_session_logits(s, 0), (size_t)w.n_vocab * 4);
    check(greta_session_feed(s, w.id, 6, 0, &err), &err);
    assert_memory_equal(kept, greta_session_logits(s, 0), (size_t)w.n_vocab * 4);
    free(kept);
    greta_session_free(s);
    world_close(&w);
    unlink(path);
}

/* A context of n takes n tokens and not one more. */
static void context_ends_where_it_says(void **state)
{
    (void)state;
    char path[TINY_PATH];
    world w;
    assert_true(tiny_model("engine", "--type F32", path));
    world_open(&w, path, N_TOKEN);
    greta_session_options o = {.size = sizeof o, .n_ctx = 20, .n_thread = 1, .n_chunk = 8};
    greta_session *s = NULL;
    greta_error err = {0};
    check(greta_session_new(w.model, &o, &s, &err), &err);
    assert_int_equal(greta_session_feed(s, w.id, 21, 0, NULL), GRETA_USAGE);
    check(greta_session_feed(s, w.id, 20, 0, &err), &err);
    greta_row row = {1, 20, 0, 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    assert_int_equal(greta_session_eval(s, &batch, NULL), GRETA_USAGE);
    greta_session_free(s);
    const greta_session_options bad[] = {
        {.n_ctx = -1}, {.n_chunk = -1}, {.n_thread = 513}, {.n_sequence = -2}, {.cpu = "foo"}};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(greta_session_new(w.model, &bad[i], &s, NULL), GRETA_USAGE);
        assert_null(s);
    }
    world_close(&w);
    unlink(path);
}

static void sampler_obeys_its_cuts(void **state)
{
    (void)state;
    const float logits[6] = {1.0f, 3.0f, NAN, 3.0f, -INFINITY, 2.0f};
    greta_sampler greedy = {0};
    assert_int_equal(greta_sample(&greedy, logits, 6, NULL), 1);
    const float nothing[2] = {NAN, NAN};
    assert_int_equal(greta_sample(&greedy, nothing, 2, NULL), -1);
    int seen[6] = {0}, n = 20000;
    greta_sampler s = {.temperature = 1.0f, .top_p = 1.0f, .state = 7};
    for (int i = 0; i < n; i++) {
        seen[greta_sample(&s, logits, 6, NULL)]++;
    }
    double total = 2 * exp(3) + exp(2) + exp(1);
    const double p[6] = {exp(1) / total, exp(3) / total, 0, exp(3) / total, 0, exp(2) / total};
    for (int i = 0; i < 6; i++) {
        double sigma = sqrt(n * p[i] * (1 - p[i]));
        assert_true(fabs(seen[i] - n * p[i]) <= 5 * sigma);
    }
    greta_sampler top = {.temperature = 1.0f, .top_p = 1.0f, .top_k = 2, .state = 7};
    greta_sampler nucleus = {.temperature = 1.0f, .top_p = 0.7f, .state = 7};
    greta_sampler floor = {.temperature = 1.0f, .top_p = 1.0f, .min_p = 0.3f, .state = 7};
    int has_five = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(greta_sample(&top, logits, 6, NULL) % 2 == 1);
        int32_t id = greta_sample(&nucleus, logits, 6, NULL);
        assert_true(id == 1 || id == 3);
        id = greta_sample(&floor, logits, 6, NULL);
        has_five |= id == 5;
        assert_true(id == 1 || id == 3 || id == 5);
    }
    assert_true(has_five);
    greta_sampler bad = {.temperature = NAN, .top_p = 1.0f};
    assert_int_equal(greta_sample(&bad, logits, 6, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cut_of_tiny_models_gives_the_same_bits),
#if !IS_SANITIZED
        cmocka_unit_test(every_cut_of_smollm2_gives_the_same_bits),
#endif
        cmocka_unit_test(contracts_and_cache_types_differ),
        cmocka_unit_test(tracing_changes_no_bit),
        cmocka_unit_test(traces_hold_the_cache),
#ifdef COUNTS_ALLOCATIONS
        cmocka_unit_test(evaluation_allocates_nothing),
#endif
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(context_ends_where_it_says),
        cmocka_unit_test(sampler_obeys_its_cuts),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
