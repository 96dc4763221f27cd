/* ops.c - how fast the ops of a GPU plugin are, one kind at a time, on the shapes of real models.
 *
 *     ops PLUGIN [PATTERN]
 *
 * Products run as graphs over as many matrices as the layers of a model have, so that nothing is
 * read from a cache twice; a figure is the median of the times of REPEAT launches. Bytes are those
 * of the file's format. Rates: GB/s of weights for few tokens, 10^12 operations (multiplications
 * and additions) a second for many. Weights and activations are whatever the memory holds: only
 * speed is looked at (tests/test_gpu.c is for bits).
 */
#include "kernel/gpu/gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPEAT   15
#define LAYERS   16
#define MEASURED 8 /* launches of one time */

static const gpu_plugin *gpu;
static gpu_device *device;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(gpu_status status, const char *what)
{
    if (status != GPU_OK) {
        fprintf(stderr, "ops: %s failed\n", what);
        exit(1);
    }
}

static void settle(void)
{
    char why[256] = "";
    if (gpu->sync(device, why, sizeof why) != GPU_OK) {
        fprintf(stderr, "ops: %s\n", why);
        exit(1);
    }
}

static void *memory(size_t bytes)
{
    void *p;
    check(gpu->alloc(device, bytes, &p), "allocation");
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of what was enqueued since graph_begin. */
static double graph_time(void)
{
    void *graph;
    double seconds[REPEAT];
    check(gpu->graph_end(device, &graph), "the graph");
    for (int i = -2; i < REPEAT; i++) {
        settle();
        double start = now();
        for (int j = 0; j < MEASURED; j++) {
            gpu->graph_launch(device, graph);
        }
        settle();
        seconds[i < 0 ? 0 : i] = (now() - start) / MEASURED;
    }
    gpu->graph_free(device, graph);
    qsort(seconds, REPEAT, sizeof *seconds, by_value);
    return seconds[REPEAT / 2];
}

typedef struct shape {
    const char *name;
    int64_t n_out, k;
} shape;

static void products(const char *pattern, dtype type, int is_q8, const shape *s, int64_t n_token)
{
    char name[128];
    snprintf(name, sizeof name, "%s %s %dx%d tokens %d", dtype_name(type), s->name, (int)s->n_out,
             (int)s->k, (int)n_token);
    if (pattern && !strstr(name, pattern)) {
        return;
    }
    size_t bytes = gpu->weight_bytes(type, s->n_out, s->k);
    int64_t x_stride = ((int64_t)act_q8_bytes(s->k) + 4 * s->k + 63) / 64 * 64;
    void *x = memory((size_t)(n_token * x_stride)), *y = memory((size_t)(4 * n_token * s->n_out));
    void *w[LAYERS];
    for (int l = 0; l < LAYERS; l++) {
        w[l] = memory(bytes);
    }
    gpu->graph_begin(device);
    for (int l = 0; l < LAYERS; l++) {
        gpu_matmul a = {.w = {{type, s->n_out, s->k, w[l]}, 0},
                        .x = {x, x_stride, NULL},
                        .y = {y, 4 * s->n_out, NULL},
                        .n_token = n_token,
                        .n_out = s->n_out,
                        .x_is_q8 = is_q8};
        gpu->matmul(device, &a, 1);
    }
    double seconds = graph_time() / LAYERS;
    const dtype_traits *t = dtype_find((uint32_t)type);
    double read = (double)s->n_out * (double)(s->k / t->block) * t->bytes;
    printf("%-44s %9.2f us %8.0f GB/s %8.1f TOP/s\n", name, seconds * 1e6, read / seconds * 1e-9,
           2e-12 * (double)(s->n_out * s->k * n_token) / seconds);
    fflush(stdout);
    for (int l = 0; l < LAYERS; l++) {
        gpu->free(device, w[l]);
    }
    gpu->free(device, x);
    gpu->free(device, y);
}

typedef struct attend {
    int64_t n_token, n_position, head_dim;
} attend;

static void attentions(const char *pattern, const attend *c)
{
    char name[128];
    snprintf(name, sizeof name, "attention of %d, %d rows to %d", (int)c->head_dim, (int)c->n_token,
             (int)c->n_position);
    if (pattern && !strstr(name, pattern)) {
        return;
    }
    int64_t width = 32 * c->head_dim, n = c->n_token;
    kv_shape shape = {DTYPE_F16, 8, (int32_t)c->head_dim};
    size_t bytes = (size_t)(c->n_position + 64) * 8 * (size_t)c->head_dim * 2;
    void *q = memory((size_t)(4 * n * width)), *y = memory((size_t)(4 * n * width));
    uint8_t *k = memory(bytes), *v = memory(bytes);
    gpu_row *row = calloc((size_t)n, sizeof *row), *rows = memory((size_t)n * sizeof *row);
    for (int64_t t = 0; t < n; t++) {
        row[t].position = (int32_t)(c->n_position - n + t);
    }
    gpu->copy_in(device, rows, row, (size_t)n * sizeof *row);
    settle();
    check(gpu->reserve(device, n, c->n_position, 32, (int32_t)c->head_dim), "scratch");
    gpu->graph_begin(device);
    gpu_attention a = {.q = {q, 4 * width, NULL},
                       .y = {y, 4 * width, NULL},
                       .row = {(uint8_t *)rows, sizeof *row, NULL},
                       .k = k,
                       .v = v,
                       .sequence_bytes = bytes,
                       .shape = shape,
                       .n_token = n,
                       .n_position = c->n_position,
                       .n_head = 32,
                       .scale = 0.1f};
    gpu->attention(device, &a);
    double seconds = graph_time();
    double seen = (double)n * ((double)c->n_position - 0.5 * (double)(n - 1));
    printf("%-44s %9.2f us %8.0f GB/s %8.2f TFLOP/s\n", name, seconds * 1e6,
           2e-9 * (double)c->n_position * 8 * (double)c->head_dim * 2 / seconds,
           4e-12 * seen * (double)width / seconds);
    fflush(stdout);
    free(row);
    gpu->free(device, q), gpu->free(device, y), gpu->free(device, k), gpu->free(device, v);
    gpu->free(device, rows);
}

static void rows_of(const char *pattern, int64_t n_token, int64_t n)
{
    char name[64];
    snprintf(name, sizeof name, "norm and quantise %d rows of %d", (int)n_token, (int)n);
    if (pattern && !strstr(name, pattern)) {
        return;
    }
    int64_t stride = 4 * n;
    gpu_rows x = {memory((size_t)(n_token * stride)), stride, NULL};
    gpu_rows y = {memory((size_t)(n_token * stride)), stride, NULL};
    gpu_rows z = {memory((size_t)(n_token * stride)), stride, NULL};
    float *weight = memory((size_t)stride);
    gpu_norm norm = {x, y, weight, n_token, 1, n, n, 1e-5f, NULL};
    gpu_quantize quantize = {y, z, n_token, n};
    for (int part = 0; part < 2; part++) {
        gpu->graph_begin(device);
        for (int i = 0; i < LAYERS; i++) {
            if (part == 0) {
                gpu->rms_norm(device, &norm);
            } else {
                gpu->quantize(device, &quantize);
            }
        }
        printf("%-40s %s %9.2f us\n", name, part ? "(q8)" : "norm", graph_time() / LAYERS * 1e6);
    }
    gpu->free(device, x.base), gpu->free(device, y.base), gpu->free(device, z.base);
    gpu->free(device, weight);
}

static void all(const char *pattern)
{
    static const shape decode[] = {{"1b wo", 2048, 2048},       {"1b gate+up", 16384, 2048},
                                   {"1b down", 2048, 8192},     {"8b qkv", 6144, 4096},
                                   {"8b gate+up", 28672, 4096}, {"8b down", 4096, 14336}};
    static const dtype quantised[] = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K};
    static const dtype floats[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F32};
    static const int64_t tokens[] = {1, 8, 32, 512};
    for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
        for (size_t s = 0; s < sizeof decode / sizeof *decode; s++) {
            for (size_t i = 0; i < sizeof quantised / sizeof *quantised; i++) {
                products(pattern, quantised[i], 1, &decode[s], tokens[t]);
            }
            for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
                products(pattern, floats[i], 0, &decode[s], tokens[t]);
            }
        }
    }
    static const attend attends[] = {{1, 64, 64},       {1, 512, 64},   {1, 8192, 128},
                                     {8, 512, 128},     {512, 512, 64}, {512, 512, 128},
                                     {2048, 10240, 128}};
    for (size_t i = 0; i < sizeof attends / sizeof *attends; i++) {
        attentions(pattern, &attends[i]);
    }
    rows_of(pattern, 1, 2048);
    rows_of(pattern, 1, 4096);
    rows_of(pattern, 512, 4096);
}

int main(int argc, char **argv)
{
    char why[256] = "";
    gpu_info info;
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    union {
        void *symbol;
        gpu_plugin_function *function;
    } entry = {library ? dlsym(library, GPU_PLUGIN_SYMBOL) : NULL};
    if (!entry.symbol) {
        fprintf(stderr, "usage: ops PLUGIN [PATTERN]\n");
        return 2;
    }
    gpu = entry.function();
    if (gpu->describe(0, &info, why, sizeof why) != GPU_OK ||
        gpu->open(0, &device, why, sizeof why) != GPU_OK) {
        fprintf(stderr, "ops: %s\n", why);
        return 4;
    }
    printf("# %s, %s, %s, %d processors\n", gpu->name, info.name, info.arch, info.n_processor);
    all(argc > 2 ? argv[2] : NULL);
    gpu->close(device);
    return 0;
}
