/* test_simd.c - every op of every table against the definition, on hostile operands.
 *
 * In the spirit of checkasm (FFmpeg, dav1d): the kernel under test and `ref` get the same data;
 * results are compared as integers, one NaN. Operands lie against an unreadable page, first before
 * them and then behind them, so a kernel that touches one byte too many dies, and the death is
 * counted; what is left of an output's page holds a pattern that must stay. Data is random, exact
 * (small powers of two: any error of logic shows and no error of rounding does) or pathological
 * (NaN, Inf, subnormals, -0, cut-offs of exp, extreme codes and scales). Where a call takes several
 * tokens, the definition computes them one by one. Kernels broken on purpose, one mistake each,
 * must all be seen. GRETA_SEED=N repeats a run.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hostile.h"
#include "kernel/half.h"
#include "kernel/kernel.h"

/* ---- Trials ---------------------------------------------------------------------------------- */

/* A table, how often it differed from the definition, and where first. */
typedef struct judge {
    const kernel_table *t;
    int is_broken;     /* on purpose: nothing more is tried once that was seen */
    const dtype *only; /* products of this weight type; NULL: of all */
    int64_t n_trial, n_bad;
    char first[160];
} judge;

static const kernel_table *ref;
static sigjmp_buf escape;
static volatile sig_atomic_t is_inside;

static void on_death(int signal_number)
{
    if (is_inside) {
        siglongjmp(escape, signal_number);
    }
    signal(signal_number, SIG_DFL);
}

/* Calls the kernel under test; a forbidden access comes back as false. */
#define SURVIVES(call)                                                                             \
    (sigsetjmp(escape, 1) == 0 ? (is_inside = 1, (call), is_inside = 0, 1) : (is_inside = 0))

/* Within a test: cmocka sets its own handlers around each. */
static void deaths_are_caught(void)
{
    struct sigaction action = {.sa_handler = on_death, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGILL, &action, NULL);
}

static void judge_note(judge *j, int is_good, const char *op, int64_t n, data_kind kind)
{
    j->n_trial++;
    if (is_good && canaries_are_intact()) {
        return;
    }
    if (j->n_bad++ == 0) {
        snprintf(j->first, sizeof j->first, "%s: %s of %d, %s, %s", j->t->name, op, (int)n,
                 kind_names[kind], at_end ? "page behind" : "page before");
    }
}

static int is_seen(const judge *j)
{
    return j->is_broken && j->n_bad > 0;
}

static int floats_are_equal(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (hash_float_bits(a[i]) != hash_float_bits(b[i])) {
            return 0;
        }
    }
    return 1;
}

/* One call per shape, kind of data and side of the page. */
static void each_setting(judge *j, void (*trial)(judge *, int64_t, data_kind), int64_t n)
{
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        for (at_end = 0; at_end < 2; at_end++) {
            n_slot = 0;
            trial(j, n, (data_kind)kind);
        }
    }
}

/* ---- Row ops -----------------------------------------------------------------------------------
 */

static float expected[16 * 8192];

/* Not inlined: its locals must not share a frame with sigsetjmp. */
static __attribute__((noinline)) float *numbers(int64_t n, data_kind kind)
{
    float *x = operand((size_t)n * sizeof *x, sizeof *x);
    numbers_fill(x, n, kind);
    return x;
}

static float *results(int64_t n)
{
    return operand((size_t)n * sizeof(float), sizeof(float));
}

static void norm_trial(judge *j, int64_t n, data_kind kind)
{
    norm_args a = {numbers(n, kind), numbers(n, DATA_RANDOM), results(n), n, n, 1e-5f, 0}, b = a;
    b.y = expected;
    ref->rms_norm(&b);
    int good = SURVIVES(j->t->rms_norm(&a)) && floats_are_equal(a.y, expected, n) &&
               floats_are_equal(&a.inv_rms, &b.inv_rms, 1);
    judge_note(j, good, "rms_norm", n, kind);
}

static void quantize_trial(judge *j, int64_t n, data_kind kind)
{
    static union {
        uint8_t bytes[16384];
        float align;
    } by_ref;
    int64_t k = n * ACT_BLOCK, n_block = n;
    const float *x = numbers(k, kind);
    uint8_t *act = operand(act_q8_bytes(k), sizeof(float));
    ref->quantize(x, by_ref.bytes, k, 0, k);
    const float *scale = (const float *)(const void *)(act + k);
    const float *scale_ref = (const float *)(const void *)(by_ref.bytes + k);
    int64_t part = n / 3 * ACT_BLOCK; /* threads share a row: each writes its blocks only */
    int good = SURVIVES((j->t->quantize(x, act, k, 0, part), j->t->quantize(x, act, k, part, k))) &&
               memcmp(act, by_ref.bytes, (size_t)k) == 0 &&
               memcmp(scale + n_block, scale_ref + n_block, (size_t)n_block * 4) == 0 &&
               floats_are_equal(scale, scale_ref, n_block);
    judge_note(j, good, "quantize", k, kind);
}

static const char *const function_names[ACTIVATION_COUNT] = {"silu", "gelu_tanh", "sigmoid", "tanh",
                                                             "exp"};
static activation function;

static void glu_trial(judge *j, int64_t n, data_kind kind)
{
    const float *gate = numbers(n, kind), *up = numbers(n, kind == DATA_HARD ? DATA_RARE : kind);
    float *y = results(n);
    up = random_bits() % 4 ? up : NULL;
    ref->glu(function, gate, up, expected, n);
    int good = SURVIVES(j->t->glu(function, gate, up, y, n)) && floats_are_equal(y, expected, n);
    judge_note(j, good, function_names[function], n, kind);
}

static void add_trial(judge *j, int64_t n, data_kind kind)
{
    const float *a = numbers(n, kind), *b = numbers(n, kind);
    float *y = results(n);
    ref->add(a, b, expected, n);
    int good = SURVIVES(j->t->add(a, b, y, n)) && floats_are_equal(y, expected, n);
    judge_note(j, good, "add", n, kind);
}

static void stats_judge(judge *j, dtype type, const void *row, int64_t n, data_kind kind)
{
    row_stats a, b;
    ref->row_stats(type, row, n, &b);
    int good = SURVIVES(j->t->row_stats(type, row, n, &a)) &&
               floats_are_equal(&a.sumsq, &b.sumsq, 1) && floats_are_equal(&a.min, &b.min, 1) &&
               floats_are_equal(&a.max, &b.max, 1) && a.n_nonfinite == b.n_nonfinite &&
               a.hash.ordered == b.hash.ordered && a.hash.bag == b.hash.bag;
    judge_note(j, good, "row_stats", n, kind);
}

static void stats_trial(judge *j, int64_t n, data_kind kind)
{
    float *x = numbers(n, kind);
    int64_t from = random_bits() % 2 ? n : 0; /* the least is a zero of either sign */
    for (int64_t i = from; i < n; i++) {
        x[i] = random_bits() % 4 ? fabsf(x[i]) : random_bits() % 2 ? 0.0f : -0.0f;
    }
    stats_judge(j, DTYPE_F32, x, n, kind);
    uint16_t *half = operand((size_t)n * 2, 2);
    for (int64_t i = 0; i < n; i++) {
        half[i] = random_bits() % 9 ? kernel_f16_from_f32(x[i]) : (uint16_t)random_bits();
    }
    stats_judge(j, DTYPE_F16, half, n, kind);
    int64_t k = (n % 40 + 1) * ACT_BLOCK;
    int8_t *code =
        operand((size_t)(k + k / 8), sizeof(float)); /* no block sums behind the scales */
    float *scale = (float *)(void *)(code + k);
    for (int64_t i = 0; i < k; i++) {
        code[i] = (int8_t)random_bits();
    }
    for (int64_t b = 0; b < k / ACT_BLOCK; b++) {
        scale[b] = fabsf(x[b % n]);
        if (scale[b] == 0.0f) { /* as the quantiser has it */
            memset(code + b * ACT_BLOCK, 0, ACT_BLOCK);
        }
    }
    stats_judge(j, DTYPE_ACT_Q8, code, k, kind);
}

/* Bytes of the whole tiles that hold n positions. */
static size_t cache_bytes(const kv_shape *shape, int64_t n)
{
    int64_t n_tile = (n + ATTENTION_TILE - 1) / ATTENTION_TILE;
    return (size_t)(n_tile * shape->n_head_kv * kv_block_size(shape)) * kv_value_bytes(shape);
}

/* Any position of up to two tiles, of one side of a cache of one type; nothing else is touched. */
static void kv_store_trial(judge *j, int64_t n, data_kind kind)
{
    int32_t n_head_kv = n % 3 == 0 ? 3 : 1;
    kv_store_args a = {
        .x = numbers(n, kind),
        .shape = {random_bits() % 2 ? DTYPE_F16 : DTYPE_F32, n_head_kv, (int32_t)n / n_head_kv},
        .side = random_bits() % 2 ? KV_KEYS : KV_VALUES,
        .position = random_below(2 * ATTENTION_TILE)};
    size_t bytes = cache_bytes(&a.shape, 2 * ATTENTION_TILE);
    kv_store_args by_ref = a;
    a.cache = operand(bytes, 64);
    by_ref.cache = operand(bytes, 64);
    ref->kv_store(&by_ref, 0, n_head_kv);
    int32_t middle = n_head_kv / 2;
    int good = SURVIVES((j->t->kv_store(&a, middle, n_head_kv), j->t->kv_store(&a, 0, middle))) &&
               memcmp(a.cache, by_ref.cache, bytes) == 0;
    judge_note(j, good, "kv_store", n, kind);
}

static void rope_trial(judge *j, int64_t n, data_kind kind)
{
    int32_t dim = (int32_t)n, turned = dim / 2 * 2 - (dim > 8 ? 4 : 0);
    rope_args a = {
        numbers(3 * n, kind),      results(3 * n), numbers(n, DATA_RANDOM), 3, dim, turned,
        (rope_pairing)(n % 3 != 0)};
    rope_args b = a;
    b.y = expected;
    ref->rope(&b);
    int good = SURVIVES(j->t->rope(&a)) && floats_are_equal(a.y, expected, 3 * n);
    judge_note(j, good, "rope", n, kind);
}

static void rows_judge(judge *j)
{
    static const int64_t more[] = {191, 192, 193, 577, 1000, 4095, 4096};
    for (int64_t i = 1; i <= 130 + (int64_t)(sizeof more / sizeof *more) && !is_seen(j); i++) {
        int64_t n = i <= 130 ? i : more[i - 131];
        each_setting(j, norm_trial, n);
        for (int f = 0; f < ACTIVATION_COUNT; f++) {
            function = (activation)f;
            each_setting(j, glu_trial, n);
        }
        each_setting(j, add_trial, n);
        each_setting(j, stats_trial, n);
        each_setting(j, kv_store_trial, n);
        each_setting(j, quantize_trial, n > 130 ? n / ACT_BLOCK : n);
        if (n <= 130) {
            each_setting(j, rope_trial, n);
        }
    }
}

/* ---- Products ----------------------------------------------------------------------------------
 */

typedef struct shape {
    dtype type;
    int64_t k, n_out, n_token, first, last; /* rows asked for */
    int x_is_q8;
} shape;

/* Arguments on guarded memory; the table's own layout comes last. */
static matmul_args product_new(const shape *s, data_kind kind)
{
    const dtype_traits *traits = dtype_find((uint32_t)s->type);
    matmul_args a = {.type = s->type, .k = s->k, .n_token = s->n_token, .x_is_q8 = s->x_is_q8};
    a.row_bytes = s->k / traits->block * traits->bytes;
    size_t align = traits->is_quantised ? 1 : 4;
    data_kind x_kind = kind >= DATA_RARE && random_bits() % 2 ? DATA_RANDOM : kind;
    uint8_t *w = operand((size_t)(a.row_bytes * s->n_out), align);
    int is_tiny = weights_fill(s->type, w, s->n_out * s->k / traits->block, kind);
    float *x = numbers(s->k * s->n_token, x_kind);
    a.w = w;
    a.x = x;
    a.x_stride = s->k * 4;
    if (s->x_is_q8) {
        a.x_stride = (int64_t)act_q8_bytes(s->k);
        uint8_t *act = operand((size_t)(a.x_stride * s->n_token), 4);
        for (int64_t t = 0; t < s->n_token; t++) {
            ref->quantize(x + t * s->k, act + t * a.x_stride, s->k, 0, s->k);
        }
        a.x = act;
    }
    a.bias = random_bits() % 4 && !is_tiny ? numbers(s->n_out, DATA_RANDOM) : NULL;
    a.y_stride = s->n_out;
    a.y = results(s->n_out * s->n_token);
    return a;
}

static void product_trial(judge *j, const shape *s, data_kind kind)
{
    n_slot = 0;
    matmul_args a = product_new(s, kind), one = a;
    int64_t n_value = s->n_out * s->n_token;
    memset(expected, 0xcc, (size_t)n_value * sizeof(float));
    one.n_token = 1;
    for (int64_t t = 0; t < s->n_token; t++) {
        one.x = (const uint8_t *)a.x + t * a.x_stride;
        one.y = expected + t * a.y_stride;
        ref->matmul(&one, s->first, s->last);
    }
    size_t bytes = j->t->packed_bytes ? j->t->packed_bytes(s->type, s->n_out, s->k) : 0;
    if (bytes > 0) {
        pack_args pack = {s->type, a.w, a.row_bytes, s->n_out, s->k, operand(bytes, 64)};
        j->t->pack(&pack, 0, (s->n_out + PACK_ROWS - 1) / PACK_ROWS);
        a.packed = pack.packed;
    }
    int good = SURVIVES(j->t->matmul(&a, s->first, s->last)) &&
               floats_are_equal(a.y, expected, n_value); /* rows not asked for stay */
    judge_note(j, good, dtype_name(s->type), s->k, kind);
}

static void products_judge(judge *j)
{
    for (int i = 0; i < 2 * N_WEIGHT_TYPE; i++) {
        const dtype_traits *traits = dtype_find((uint32_t)weight_types[i / 2]);
        shape s = {.type = weight_types[i / 2], .x_is_q8 = i % 2};
        if ((s.x_is_q8 && !traits->is_quantised) || (j->only && *j->only != s.type)) {
            continue;
        }
        for (int round = 0; round < 40 && !is_seen(j); round++) {
            at_end = round % 2;
            int64_t unit = traits->block > 1 ? traits->block : 1;
            s.k = unit * (1 + random_below(unit == 1 ? 130 : 288 / unit + 1));
            s.k = round == 7 ? (unit == 1 ? 1029 : 1280) : round == 20 ? 4096 : s.k;
            s.n_out = round == 20 ? 5 : 1 + random_below(round % 5 ? 70 : 16);
            s.n_token = round == 20 ? 2 : 1 + random_below(round % 3 ? 15 : 2);
            s.first = round % 4 == 0 ? random_below(s.n_out) : 16 * random_below(s.n_out / 16 + 1);
            s.first = s.first < s.n_out ? s.first : 0;
            s.last = s.first + 1 + random_below(s.n_out - s.first);
            product_trial(j, &s, (data_kind)(round / 2 % DATA_KINDS));
        }
    }
}

/* ---- Attention ---------------------------------------------------------------------------------
 */

typedef struct scene {
    kv_shape kv;
    int32_t n_group;
    int64_t n_position, n_token;
} scene;

/* Whole tiles of numbers; positions that were not stored are sometimes NaN. */
static const void *cache_new(const scene *s, kv_side side, data_kind kind)
{
    int64_t n = s->n_position + s->n_token - 1;
    size_t bytes = cache_bytes(&s->kv, n), size = kv_value_bytes(&s->kv);
    uint8_t *cache = operand(bytes, 64);
    int is_poisoned = random_bits() % 2 != 0;
    for (int64_t p = 0; p < (n + ATTENTION_TILE - 1) / ATTENTION_TILE * ATTENTION_TILE; p++) {
        for (int32_t h = 0; h < s->kv.n_head_kv; h++) {
            int64_t at = kv_at(&s->kv, side, p, h);
            for (int32_t d = 0; d < s->kv.head_dim; d++, at += kv_step(side)) {
                float x = p >= n && is_poisoned ? NAN : number_new(kind);
                uint16_t half = half_from_float(x);
                memcpy(cache + (size_t)at * size, size == 2 ? (void *)&half : (void *)&x, size);
            }
        }
    }
    return cache;
}

static void attention_trial(judge *j, const scene *s, data_kind kind)
{
    n_slot = 0;
    int32_t n_head = s->kv.n_head_kv * s->n_group;
    int64_t width = n_head * s->kv.head_dim;
    /* One hard number among keys spoils a query's outputs: few, so that others tell of errors. */
    data_kind soft = kind == DATA_HARD && random_bits() % 4 ? DATA_RANDOM : kind;
    attention_args a = {.q = numbers(width * s->n_token, soft),
                        .k = cache_new(s, KV_KEYS, soft == DATA_RARE ? DATA_RANDOM : soft),
                        .v = cache_new(s, KV_VALUES, kind == DATA_HARD ? DATA_RARE : kind),
                        .kv = s->kv,
                        .n_position = s->n_position,
                        .n_token = s->n_token,
                        .q_stride = width,
                        .y_stride = width,
                        .n_head = n_head,
                        .scale = random_bits() % 3 ? 0.125f : 9.0f,
                        .y = results(width * s->n_token),
                        .softcap = random_bits() % 3 ? 0.0f : 2.5f,
                        .window = random_bits() % 2 ? 0 : 1 + random_below(150)};
    attention_args one = a;
    one.n_token = 1;
    for (int64_t t = 0; t < s->n_token; t++) {
        one.q = a.q + t * width;
        one.y = expected + t * width;
        one.n_position = a.n_position + t;
        ref->attention(&one, 0, s->kv.n_head_kv);
    }
    int32_t middle = s->kv.n_head_kv / 2; /* heads in two calls, the later ones first */
    int good =
        SURVIVES((j->t->attention(&a, middle, s->kv.n_head_kv), j->t->attention(&a, 0, middle))) &&
        floats_are_equal(a.y, expected, width * s->n_token);
    judge_note(j, good, s->kv.type == DTYPE_F16 ? "attention f16" : "attention f32", s->n_position,
               kind);
}

static void attention_judge(judge *j)
{
    static const int32_t dims[] = {1, 2, 8, 15, 16, 20, 33, 64, 65, 80, 128, 130};
    static const int32_t groups[] = {1, 3, 4, 7};
    for (int round = 0; round < 220 && !is_seen(j); round++) {
        at_end = round % 2;
        scene s = {.kv = {round / 2 % 2 ? DTYPE_F16 : DTYPE_F32, 1 + (int32_t)random_below(3),
                          dims[round % 12]},
                   .n_group = groups[random_below(4)],
                   .n_position = 1 + random_below(round % 4 ? 70 : 260),
                   .n_token = round % 3 ? 1 : 1 + random_below(ATTENTION_TOKENS)};
        if (round % 5 == 0) { /* at the edge of a tile */
            s.n_position = 64 * (1 + random_below(3)) + random_below(3) - 1;
        }
        attention_trial(j, &s, (data_kind)(round / 4 % DATA_KINDS));
    }
}

/* ---- The tables --------------------------------------------------------------------------------
 */

static void tables_judge(void (*all)(judge *))
{
    deaths_are_caught();
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        judge j = {.t = *t};
        uint64_t from = seed;
        all(&j);
        print_message("%s: %d trials from seed %llu\n", (*t)->name, (int)j.n_trial,
                      (unsigned long long)from);
        if (j.n_bad > 0) {
            fail_msg("%d of %d trials differ; the first: %s", (int)j.n_bad, (int)j.n_trial,
                     j.first);
        }
    }
}

static void row_ops_are_those_of_the_definition(void **state)
{
    (void)state;
    tables_judge(rows_judge);
}

static void products_are_those_of_the_definition(void **state)
{
    (void)state;
    tables_judge(products_judge);
}

static void attention_is_that_of_the_definition(void **state)
{
    (void)state;
    tables_judge(attention_judge);
}

/* ---- Kernels broken on purpose, one mistake each -----------------------------------------------
 */

static void norm_without_tail(norm_args *a)
{
    float last = a->y[a->n - 1];
    ref->rms_norm(a);
    if (a->n % 8 != 0) {
        a->y[a->n - 1] = last;
    }
}

static void norm_in_index_order(norm_args *a)
{
    float sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        sum += a->x[i] * a->x[i];
    }
    a->inv_rms = 1.0f / sqrtf(sum / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        a->y[i] = a->x[i] * a->inv_rms * a->weight[i];
    }
}

static void norm_of_one_more(norm_args *a)
{
    volatile float next = a->x[a->n];
    (void)next;
    ref->rms_norm(a);
}

static void glu_with_lanes_swapped(activation f, const float *gate, const float *up, float *y,
                                   int64_t n)
{
    ref->glu(f, gate, up, y, n);
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        float swapped = y[i + 3];
        y[i + 3] = y[i + 4];
        y[i + 4] = swapped;
    }
}

static void glu_without_subnormals(activation f, const float *gate, const float *up, float *y,
                                   int64_t n)
{
    ref->glu(f, gate, up, y, n);
    for (int64_t i = 0; i < n; i++) {
        y[i] = fabsf(y[i]) < 0x1p-126f ? 0.0f : y[i];
    }
}

/* As a clamp by the other order of operands would have it. */
static void glu_without_nan(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    ref->glu(f, gate, up, y, n);
    for (int64_t i = 0; i < n; i++) {
        y[i] = isnan(gate[i]) ? 0.0f : y[i];
    }
}

/* One function an ulp off where its argument is large. */
static void glu_with_one_ulp(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    ref->glu(f, gate, up, y, n);
    for (int64_t i = 0; i < n && f == ACTIVATION_TANH; i++) {
        y[i] = fabsf(gate[i]) > 5.0f ? nextafterf(y[i], 0.0f) : y[i];
    }
}

static void add_one_too_many(const float *a, const float *b, float *y, int64_t n)
{
    ref->add(a, b, y, n);
    y[n] = 0;
}

static void quantize_without_nan_rule(const float *x, void *act, int64_t k, int64_t first,
                                      int64_t last)
{
    ref->quantize(x, act, k, first, last);
    float *scale = (float *)(void *)((uint8_t *)act + k);
    for (int64_t b = first / ACT_BLOCK; b < last / ACT_BLOCK; b++) {
        scale[b] = isnan(scale[b]) ? 0.0f : scale[b];
    }
}

static void quantize_with_halves_up(const float *x, void *act, int64_t k, int64_t first,
                                    int64_t last)
{
    ref->quantize(x, act, k, first, last);
    int8_t *code = act;
    for (int64_t i = first; i < last; i++) {
        float most = 0;
        for (int64_t m = i / 32 * 32; m < i / 32 * 32 + 32; m++) {
            most = fabsf(x[m]) > most ? fabsf(x[m]) : most;
        }
        float steps = x[i] * (127.0f / most);
        code[i] = code[i] == 0 ? 0 : (int8_t)floorf(steps + 0.5f);
    }
}

/* Blind to where its share starts: it writes the blocks of the other threads too. */
static void quantize_all_of_the_row(const float *x, void *act, int64_t k, int64_t first,
                                    int64_t last)
{
    ref->quantize(x, act, k, 0, first == 0 ? last : k);
    if (first > 0) {
        memset(act, 1, (size_t)first);
    }
}

static void stats_with_nan_payload(dtype type, const void *row, int64_t n, row_stats *stats)
{
    const float *x = row;
    ref->row_stats(type, row, n, stats);
    for (int64_t i = 0; i < n && type == DTYPE_F32; i++) {
        if (isnan(x[i])) {
            stats->hash.bag += hash_mix64(bits_from_float(x[i]), 0) - hash_mix64(0x7fc00000u, 0);
        }
    }
}

static void stats_with_any_zero(dtype type, const void *row, int64_t n, row_stats *stats)
{
    ref->row_stats(type, row, n, stats);
    stats->min = stats->min == 0.0f ? 0.0f : stats->min;
}

static void kv_store_cut_off(const kv_store_args *a, int32_t first, int32_t last)
{
    float cut[8192];
    for (int64_t i = 0; i < a->shape.n_head_kv * a->shape.head_dim; i++) {
        uint32_t bits = bits_from_float(a->x[i]);
        int is_half = a->shape.type == DTYPE_F16 && !isnan(a->x[i]);
        cut[i] = float_from_bits(is_half ? bits & 0xffffe000u : bits);
    }
    kv_store_args with = *a;
    with.x = cut;
    ref->kv_store(&with, first, last);
}

static void kv_store_of_next_tile(const kv_store_args *a, int32_t first, int32_t last)
{
    kv_store_args next = *a;
    next.position += a->position == ATTENTION_TILE - 1;
    ref->kv_store(&next, first, last);
}

static void rope_contracted(const rope_args *a)
{
    ref->rope(a);
    for (int32_t h = 0; h < a->n_head * a->head_dim; h += a->head_dim) {
        for (int32_t i = 0; i < a->rope_dim; i += 2) {
            float x0 = a->x[h + i], x1 = a->x[h + i + 1];
            a->y[h + i] = fmaf(-x1, a->cos_sin[i + 1], x0 * a->cos_sin[i]);
        }
    }
}

static void matmul_with_bias_first(const matmul_args *a, int64_t first, int64_t last)
{
    matmul_args plain = *a;
    plain.bias = NULL;
    ref->matmul(&plain, first, last);
    for (int64_t t = 0; t < a->n_token; t++) {
        for (int64_t o = first; o < last && a->bias; o++) {
            float *y = &a->y[t * a->y_stride + o];
            *y = (*y + 2 * a->bias[o]) - a->bias[o];
        }
    }
}

static void matmul_past_its_rows(const matmul_args *a, int64_t first, int64_t last)
{
    ref->matmul(a, first, last < a->y_stride ? last + 1 : last);
}

static void matmul_of_last_token(const matmul_args *a, int64_t first, int64_t last)
{
    ref->matmul(a, first, last);
    matmul_args again = *a;
    again.n_token = 1;
    again.y += a->n_token > 12 ? 12 * a->y_stride : 0;
    ref->matmul(&again, first, last);
}

static void attention_one_position_ahead(const attention_args *a, int32_t first, int32_t last)
{
    attention_args ahead = *a;
    ahead.n_position += a->n_position % 64 == 0;
    ref->attention(&ahead, first, last);
}

/* Positions behind the last one come in with weight zero: a NaN among them shows. */
static void attention_times_zero(const attention_args *a, int32_t first, int32_t last)
{
    ref->attention(a, first, last);
    int64_t p = a->n_position + a->n_token - 1;
    for (int32_t h = first; h < last && p % ATTENTION_TILE != 0; h++) {
        int64_t at = kv_at(&a->kv, KV_VALUES, p, h);
        float v = a->kv.type == DTYPE_F32 ? ((const float *)a->v)[at]
                                          : half_to_float(((const uint16_t *)a->v)[at]);
        float *y = a->y + h * (a->n_head / a->kv.n_head_kv) * a->kv.head_dim;
        *y = fmaf(0.0f, v, *y);
    }
}

static void attention_without_first_tile(const attention_args *a, int32_t first, int32_t last)
{
    attention_args late = *a;
    size_t tile = cache_bytes(&a->kv, ATTENTION_TILE);
    if (a->n_position > ATTENTION_TILE) {
        late.k = (const uint8_t *)a->k + tile;
        late.v = (const uint8_t *)a->v + tile;
        late.n_position -= ATTENTION_TILE;
    }
    ref->attention(&late, first, last);
}

static void broken_kernels_are_seen(void **state)
{
    (void)state;
    deaths_are_caught();
    static const struct {
        const char *mistake;
        void (*all)(judge *);
        kernel_table with; /* the functions that differ from the definition's */
    } broken[] = {
        {"tail left out", rows_judge, {.rms_norm = norm_without_tail}},
        {"sum in index order", rows_judge, {.rms_norm = norm_in_index_order}},
        {"reads one too many", rows_judge, {.rms_norm = norm_of_one_more}},
        {"two lanes swapped", rows_judge, {.glu = glu_with_lanes_swapped}},
        {"subnormals flushed", rows_judge, {.glu = glu_without_subnormals}},
        {"NaN clamped", rows_judge, {.glu = glu_without_nan}},
        {"one function an ulp off", rows_judge, {.glu = glu_with_one_ulp}},
        {"writes one too many", rows_judge, {.add = add_one_too_many}},
        {"no NaN rule", rows_judge, {.quantize = quantize_without_nan_rule}},
        {"halves rounded up", rows_judge, {.quantize = quantize_with_halves_up}},
        {"blocks of others written", rows_judge, {.quantize = quantize_all_of_the_row}},
        {"NaN hashed as it is", rows_judge, {.row_stats = stats_with_nan_payload}},
        {"any zero for the least", rows_judge, {.row_stats = stats_with_any_zero}},
        {"halves cut off", rows_judge, {.kv_store = kv_store_cut_off}},
        {"stored a tile late", rows_judge, {.kv_store = kv_store_of_next_tile}},
        {"other product rounded", rows_judge, {.rope = rope_contracted}},
        {"bias not last", products_judge, {.matmul = matmul_with_bias_first}},
        {"one row too many", products_judge, {.matmul = matmul_past_its_rows}},
        {"token 12 is token 0", products_judge, {.matmul = matmul_of_last_token}},
        {"sees the next position", attention_judge, {.attention = attention_one_position_ahead}},
        {"unseen times zero", attention_judge, {.attention = attention_times_zero}},
        {"first tile lost", attention_judge, {.attention = attention_without_first_tile}},
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        kernel_table t = *ref;
        const kernel_table *with = &broken[i].with;
        t.name = broken[i].mistake;
        t.rms_norm = with->rms_norm ? with->rms_norm : t.rms_norm;
        t.glu = with->glu ? with->glu : t.glu;
        t.add = with->add ? with->add : t.add;
        t.quantize = with->quantize ? with->quantize : t.quantize;
        t.row_stats = with->row_stats ? with->row_stats : t.row_stats;
        t.kv_store = with->kv_store ? with->kv_store : t.kv_store;
        t.rope = with->rope ? with->rope : t.rope;
        t.matmul = with->matmul ? with->matmul : t.matmul;
        t.attention = with->attention ? with->attention : t.attention;
        judge j = {.t = &t, .is_broken = 1};
        broken[i].all(&j);
        if (j.n_bad == 0) {
            fail_msg("nobody saw: %s", broken[i].mistake);
        }
    }
}

static const weight_misread *misread;

/* The definition on other blocks than it was given. */
static void matmul_misread(const matmul_args *a, int64_t first, int64_t last)
{
    size_t bytes = (size_t)(a->row_bytes * last), step = dtype_find((uint32_t)a->type)->bytes;
    uint8_t *w = malloc(bytes);
    memcpy(w, a->w, bytes);
    for (size_t at = 0; at < bytes && a->type == misread->type; at += step) {
        misread->change(w + at);
    }
    matmul_args other = *a;
    other.w = w;
    ref->matmul(&other, first, last);
    free(w);
}

static void misread_weights_are_seen(void **state)
{
    (void)state;
    deaths_are_caught();
    for (size_t i = 0; i < sizeof weight_misreads / sizeof *weight_misreads; i++) {
        kernel_table t = *ref;
        judge j = {.t = &t, .is_broken = 1, .only = &weight_misreads[i].type};
        misread = &weight_misreads[i];
        t.matmul = matmul_misread;
        products_judge(&j);
        if (j.n_bad == 0) {
            fail_msg("nobody saw: %s", misread->mistake);
        }
    }
}

static int setup(void **state)
{
    (void)state;
    const char *asked = getenv("GRETA_SEED");
    seed = asked ? strtoull(asked, NULL, 0) : seed;
    ref = kernel_find("ref");
    slots_open();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_ops_are_those_of_the_definition),
        cmocka_unit_test(products_are_those_of_the_definition),
        cmocka_unit_test(attention_is_that_of_the_definition),
        cmocka_unit_test(broken_kernels_are_seen),
        cmocka_unit_test(misread_weights_are_seen),
    };
    return cmocka_run_group_tests_name("simd", tests, setup, NULL);
}
