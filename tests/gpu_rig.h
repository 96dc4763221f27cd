/* gpu_rig.h - a GPU plugin under test, and operands: in its memory, and in the host's for `ref`.
 *
 * GRETA_GPU_PLUGIN names the plugin, else it is the emulated one of the build (tests/gpu_emu):
 * the same source on the CPU. GRETA_SEED=N repeats a run; GRETA_GPU_LONG=1 has more shapes.
 */
#ifndef GRETA_TESTS_GPU_RIG_H
#define GRETA_TESTS_GPU_RIG_H

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hostile.h"
#include "kernel/gpu/gpu.h"

static const kernel_table *ref;
static const gpu_plugin *gpu;
static gpu_device *device;
static int64_t n_trial, n_value; /* compared */

/* ---- Memory ---------------------------------------------------------------------------------- */

enum { LENT_MAX = 512, POISON = 0xa5 };
static void *lent[LENT_MAX];
static int n_lent;

static void settle(void)
{
    char why[256] = "";
    gpu_status status = gpu->sync(device, why, sizeof why);
    if (status != GPU_OK) {
        fail_msg("the device failed: %s", why);
    }
    while (n_lent > 0) {
        gpu->free(device, lent[--n_lent]);
    }
}

/* Device memory until the next settle; NULL from: poisoned. */
static uint8_t *up(const void *from, size_t bytes)
{
    void *memory;
    assert_true(n_lent < LENT_MAX);
    assert_int_equal(gpu->alloc(device, bytes, &memory), GPU_OK);
    lent[n_lent++] = memory;
    uint8_t *poison = from ? NULL : malloc(bytes + 1);
    if (poison) {
        memset(poison, POISON, bytes);
    }
    char why[256];
    gpu->copy_in(device, memory, from ? from : poison, bytes);
    assert_int_equal(gpu->sync(device, why, sizeof why), GPU_OK);
    free(poison);
    return memory;
}

/* Rows on both sides: `host` is what the definition works on. */
typedef struct both {
    uint8_t *host;
    gpu_rows rows;
    int64_t n_row;
} both;

static both rows_up(void *host, int64_t n_row, int64_t stride)
{
    return (both){host, {up(host, (size_t)(n_row * stride)), stride, NULL}, n_row};
}

static void *filled(size_t bytes)
{
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes + 64), 0);
    memset(p, POISON, bytes);
    return p;
}

static float *numbers_new(int64_t n, data_kind kind)
{
    float *x = filled((size_t)n * sizeof *x);
    numbers_fill(x, n, kind);
    return x;
}

static void compare(const char *what, const both *b)
{
    size_t bytes = (size_t)(b->n_row * b->rows.stride);
    uint8_t *got = filled(bytes);
    gpu->copy_out(device, got, b->rows.base, bytes);
    for (size_t i = 0; i < bytes / 4; i++) {
        float a, e;
        memcpy(&a, got + 4 * i, 4);
        memcpy(&e, b->host + 4 * i, 4);
        if (hash_float_bits(a) != hash_float_bits(e)) {
            fail_msg("%s: word %zu is %a (%08x), expected %a (%08x); row %zu", what, i, (double)a,
                     hash_float_bits(a), (double)e, hash_float_bits(e),
                     4 * i / (size_t)b->rows.stride);
        }
    }
    n_trial++;
    n_value += (int64_t)bytes / 4;
    free(got);
}

/* Activations of n rows, as floats or quantised; rows lie `stride` apart. */
static both activations(int64_t n, int64_t k, int is_q8, data_kind kind)
{
    int64_t stride = ((is_q8 ? (int64_t)act_q8_bytes(k) : 4 * k) + 63) / 64 * 64;
    uint8_t *rows = filled((size_t)(n * stride));
    for (int64_t t = 0; t < n; t++) {
        float *x = numbers_new(k, kind);
        if (is_q8) {
            ref->quantize(x, rows + t * stride, k, 0, k);
        } else {
            memcpy(rows + t * stride, x, (size_t)k * sizeof *x);
        }
        free(x);
    }
    return rows_up(rows, n, stride);
}

static int is_long(void)
{
    return getenv("GRETA_GPU_LONG") != NULL;
}

/* ---- The plugin ------------------------------------------------------------------------------ */

static int rig_open(void **state)
{
    (void)state;
    const char *path = getenv("GRETA_GPU_PLUGIN"), *tools = getenv("GRETA_TOOLS");
    const char *given = getenv("GRETA_SEED");
    char beside[4096], why[256] = "";
    snprintf(beside, sizeof beside, "%s/../plugins/libgreta-emu.so", tools ? tools : "build/tools");
    void *library = dlopen(path ? path : beside, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        print_message("# %s\n", dlerror());
        return -1;
    }
    seed = given ? strtoull(given, NULL, 10) : seed;
    print_message("# seed %llu\n", (unsigned long long)seed);
    union {
        void *symbol;
        gpu_plugin_function *function;
    } entry = {dlsym(library, GPU_PLUGIN_SYMBOL)};
    gpu = entry.symbol ? entry.function() : NULL;
    ref = kernel_find("ref-avx2");
    ref = ref ? ref : kernel_find("ref");
    if (!gpu || gpu->version != GPU_PLUGIN_VERSION || gpu->arithmetic != ARITHMETIC_VERSION ||
        gpu->open(0, &device, why, sizeof why) != GPU_OK) {
        print_message("# %s\n", why);
        return -1;
    }
    return 0;
}

static int rig_close(void **state)
{
    (void)state;
    print_message("# compared %lld tensors, %lld values\n", (long long)n_trial, (long long)n_value);
    if (gpu) {
        gpu->close(device);
    }
    return 0;
}

#endif
