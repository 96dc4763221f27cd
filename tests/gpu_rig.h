/* gpu_rig.h - operands of a GPU plugin under test: in its memory, and in the host's for `ref`. */
#ifndef GRETA_TESTS_GPU_RIG_H
#define GRETA_TESTS_GPU_RIG_H

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

enum { LENT_MAX = 64, POISON = 0xa5 };
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

#endif
