/* blocks_tool.c - what the kernels make of any weight blocks and activations, for an oracle.
 *
 *     blocks_tool TYPE K N_ROW N_TOKEN <IN >OUT
 *
 * IN is N_ROW rows of K weights as they lie in a file, then N_TOKEN rows of K activations in
 * binary32. OUT has, in order:
 *     values    (N_ROW, K)         f32   the weights, dequantised
 *     codes     (N_TOKEN, K)       i8    quantised activations
 *     scales    (N_TOKEN, K / 32)  f32   and their scales
 *     products  (N_TOKEN, N_ROW)   f32   weights times quantised activations
 *     products  (N_TOKEN, N_ROW)   f32   weights times activations as they are
 * Every table of the machine, with weights packed and as they are, must agree on every bit; where
 * one does not, its name goes to stderr and the exit code is 1.
 */
#include "base/dtype.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct operands {
    dtype type;
    int64_t k, n_row, n_token, row_bytes, act_bytes;
    uint8_t *w, *act; /* act: (n_token) quantised rows */
    float *x;         /* (n_token, k) */
} operands;

static _Noreturn void stop(const char *what)
{
    fprintf(stderr, "blocks_tool: %s\n", what);
    exit(1);
}

static void *memory(int64_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, (size_t)bytes) != 0) {
        stop("out of memory");
    }
    memset(p, 0, (size_t)bytes);
    return p;
}

/* As integers, one NaN. */
static int is_same(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (hash_float_bits(a[i]) != hash_float_bits(b[i])) {
            return 0;
        }
    }
    return 1;
}

static int64_t count_of(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > 1 << 20) {
        stop("counts are 1 to 1048576");
    }
    return n;
}

static dtype type_of(const char *name)
{
    for (uint32_t type = 0; type < DTYPE_ACT_Q8; type++) {
        if (dtype_find(type) && strcmp(dtype_find(type)->name, name) == 0) {
            return (dtype)type;
        }
    }
    stop("no such type");
}

static operands operands_read(char **argv)
{
    operands o = {.type = type_of(argv[1]),
                  .k = count_of(argv[2]),
                  .n_row = count_of(argv[3]),
                  .n_token = count_of(argv[4])};
    const dtype_traits *traits = dtype_find((uint32_t)o.type);
    if (o.k % traits->block || o.k % ACT_BLOCK) {
        stop("K is no multiple of the block");
    }
    o.row_bytes = o.k / traits->block * traits->bytes;
    o.act_bytes = (int64_t)act_q8_bytes(o.k);
    o.w = memory(o.n_row * o.row_bytes);
    o.x = memory(o.n_token * o.k * 4);
    o.act = memory(o.n_token * o.act_bytes);
    if (fread(o.w, (size_t)o.row_bytes, (size_t)o.n_row, stdin) != (size_t)o.n_row ||
        fread(o.x, 4, (size_t)(o.n_token * o.k), stdin) != (size_t)(o.n_token * o.k)) {
        stop("the input is too short");
    }
    for (int64_t t = 0; t < o.n_token; t++) {
        kernel_find("ref")->quantize(o.x + t * o.k, o.act + t * o.act_bytes, o.k, 0, o.k);
    }
    return o;
}

static void product(const operands *o, const kernel_table *t, int x_is_q8, const uint8_t *packed,
                    float *y)
{
    matmul_args a = {.type = o->type,
                     .w = o->w,
                     .row_bytes = o->row_bytes,
                     .x = x_is_q8 ? (const void *)o->act : o->x,
                     .x_stride = x_is_q8 ? o->act_bytes : o->k * 4,
                     .y = y,
                     .y_stride = o->n_row,
                     .k = o->k,
                     .n_token = o->n_token,
                     .x_is_q8 = x_is_q8,
                     .packed = packed};
    t->matmul(&a, 0, o->n_row);
}

/* By ref into y; all tables must say the same. */
static void products(const operands *o, int x_is_q8, float *y)
{
    float *other = memory(o->n_token * o->n_row * 4);
    product(o, kernel_find("ref"), x_is_q8, NULL, y);
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        size_t bytes = (*t)->packed_bytes ? (*t)->packed_bytes(o->type, o->n_row, o->k) : 0;
        uint8_t *packed = bytes ? memory((int64_t)bytes) : NULL;
        for (int is_packed = 0; is_packed < 1 + (packed != NULL); is_packed++) {
            pack_args p = {o->type, o->w, o->row_bytes, o->n_row, o->k, packed};
            if (is_packed) {
                (*t)->pack(&p, 0, (o->n_row + PACK_ROWS - 1) / PACK_ROWS);
            }
            product(o, *t, x_is_q8, is_packed ? packed : NULL, other);
            if (!is_same(y, other, o->n_token * o->n_row)) {
                stop((*t)->name);
            }
        }
        free(packed);
    }
    free(other);
}

/* As kernel_dequantize has it; embeddings of all tables must say the same. */
static void values(const operands *o, int64_t row, float *y)
{
    float *other = memory(o->k * 4);
    kernel_dequantize(o->type, o->w + row * o->row_bytes, y, o->k);
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        embed_args a = {o->type, o->w + row * o->row_bytes, other, o->k};
        (*t)->embed(&a);
        if (!is_same(y, other, o->k)) {
            stop((*t)->name);
        }
    }
    free(other);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        stop("usage: blocks_tool TYPE K N_ROW N_TOKEN <IN >OUT");
    }
    operands o = operands_read(argv);
    float *y = memory(o.k * 4), *out = memory(o.n_token * o.n_row * 4);
    for (int64_t r = 0; r < o.n_row; r++) {
        values(&o, r, y);
        fwrite(y, 4, (size_t)o.k, stdout);
    }
    for (int64_t t = 0; t < o.n_token; t++) {
        fwrite(o.act + t * o.act_bytes, 1, (size_t)o.k, stdout);
    }
    for (int64_t t = 0; t < o.n_token; t++) {
        fwrite(o.act + t * o.act_bytes + o.k, 4, (size_t)(o.k / ACT_BLOCK), stdout);
    }
    for (int is_q8 = 1; is_q8 >= 0; is_q8--) {
        if (!is_q8 || dtype_find((uint32_t)o.type)->is_quantised) {
            products(&o, is_q8, out);
        }
        fwrite(out, 4, (size_t)(o.n_token * o.n_row), stdout);
    }
    free(out);
    free(y);
    free(o.w);
    free(o.x);
    free(o.act);
    return fflush(stdout) == 0 ? 0 : 1;
}
