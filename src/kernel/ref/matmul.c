/* matmul.c - y = W x + bias, for float and for quantised weights.
 *
 * Order of accumulation, for every output (K = 2500 as an example, segments of 1024):
 *
 *     k:  0 ........ 1023 | 1024 ..... 2047 | 2048 ... 2499
 *         chain 0 from +0 | chain 1 from +0 | chain 2 from +0
 *     y = ((chain 0 + chain 1) + chain 2) + bias
 *
 * A float chain is acc = fma(w[k], x[k], acc). A quantised chain steps by blocks of 32:
 *     acc = fma(rn(ws * d), idot, acc); with minima then acc = fma(wm, rn(d * isum), acc)
 * where d and isum belong to the activation block and idot = sum q * code is exact; Q2_K, with two
 * minima in a block, has isum = m0 * (sum of the first half) + m1 * (sum of the second). Lanes are
 * output rows: a tile of rows is unpacked once per segment and used for all tokens, so prefill and
 * decode share the code. Bounds: float |err| <= gamma(min(K, 1024) + K / 1024 + 1) * sum |w x|;
 * quantised gamma(2 * min(K, 1024) / 32 + K / 1024 + 3) * sum |x| (|ws q| + |wm|), x the quantised
 * activations.
 */
#include "kernel/ref/ref.h"

#include "kernel/blocks.h"

#define LANES          16 /* output rows of a tile */
#define TOKENS         4  /* tokens that share a pass over the tile */
#define SEGMENT_BLOCKS (SEGMENT / ACT_BLOCK)

/* The first segment starts the total, the others are added in index order; the bias comes last. */
static void segment_join(const matmul_args *a, int64_t token, int64_t first, int64_t n,
                         int is_first, const float *chain)
{
    float *y = a->y + token * a->y_stride + first;
    for (int64_t r = 0; r < n; r++) {
        y[r] = is_first ? chain[r] : y[r] + chain[r];
    }
}

static void add_bias(const matmul_args *a, int64_t first, int64_t last)
{
    for (int64_t t = 0; a->bias && t < a->n_token; t++) {
        float *y = a->y + t * a->y_stride;
        for (int64_t o = first; o < last; o++) {
            y[o] += a->bias[o];
        }
    }
}

/* ---- Quantised weights, quantised activations -------------------------------------------------
 */

typedef struct q8_tile {
    int16_t q[LANES][SEGMENT];
    float ws[SEGMENT_BLOCKS][LANES], wm[SEGMENT_BLOCKS][LANES];
    int32_t m[SEGMENT_BLOCKS][2][LANES];
} q8_tile;

static void q8_tile_read(const matmul_args *a, int64_t first, int64_t n, int64_t block,
                         int64_t n_block, q8_tile *tile)
{
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *row = a->w + (first + r) * a->row_bytes;
        for (int64_t b = 0; b < n_block; b++) {
            block_values v;
            block_read(a->type, row, block + b, &v);
            memcpy(tile->q[r] + b * BLOCK, v.q, sizeof v.q);
            tile->ws[b][r] = v.ws;
            tile->wm[b][r] = v.wm;
            if (block_has_two_min(a->type)) {
                tile->m[b][0][r] = v.m[0];
                tile->m[b][1][r] = v.m[1];
            }
        }
    }
}

static inline int32_t dot_block(const int16_t *q, const int16_t *code)
{
    int32_t sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        sum += (int32_t)q[i] * code[i];
    }
    return sum;
}

/* rn(d * isum) of every row, with a minimum for each half of the block. */
static inline void two_min_sums(const int32_t m[2][LANES], const int16_t *code, float d,
                                float d_sum[LANES])
{
    int32_t sum[2] = {0, 0};
    for (int i = 0; i < BLOCK; i++) {
        sum[i / (BLOCK / 2)] += code[i];
    }
    for (int r = 0; r < LANES; r++) {
        d_sum[r] = d * (float)(m[0][r] * sum[0] + m[1][r] * sum[1]);
    }
}

static void q8_token(const matmul_args *a, const q8_tile *tile, int64_t token, int64_t block,
                     int64_t n_block, float chain[LANES])
{
    const int8_t *code = (const int8_t *)a->x + token * a->x_stride;
    const float *scale = (const float *)(const void *)(code + a->k) + block;
    const int32_t *isum = (const int32_t *)(const void *)(scale - block + a->k / ACT_BLOCK) + block;
    int has_min = block_has_min(a->type);
    float acc[LANES] = {0};
    for (int64_t b = 0; b < n_block; b++) {
        int16_t wide[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            wide[i] = code[(block + b) * BLOCK + i];
        }
        float idot[LANES];
        for (int r = 0; r < LANES; r++) {
            idot[r] = (float)dot_block(tile->q[r] + b * BLOCK, wide);
        }
        float d = scale[b];
        for (int r = 0; r < LANES; r++) {
            acc[r] = fmaf(tile->ws[b][r] * d, idot[r], acc[r]);
        }
        if (block_has_two_min(a->type)) {
            float d_sum[LANES];
            two_min_sums(tile->m[b], wide, d, d_sum);
            for (int r = 0; r < LANES; r++) {
                acc[r] = fmaf(tile->wm[b][r], d_sum[r], acc[r]);
            }
        } else if (has_min) {
            float d_sum = d * (float)isum[b];
            for (int r = 0; r < LANES; r++) {
                acc[r] = fmaf(tile->wm[b][r], d_sum, acc[r]);
            }
        }
    }
    memcpy(chain, acc, sizeof acc);
}

void REF(matmul_q8)(const matmul_args *a, int64_t first, int64_t last)
{
    q8_tile tile;
    memset(&tile, 0, sizeof tile); /* lanes past the last row compute zeros */
    for (int64_t row = first; row < last; row += LANES) {
        int64_t n = last - row < LANES ? last - row : LANES;
        for (int64_t start = 0; start < a->k; start += SEGMENT) {
            int64_t size = a->k - start < SEGMENT ? a->k - start : SEGMENT;
            q8_tile_read(a, row, n, start / BLOCK, size / BLOCK, &tile);
            for (int64_t t = 0; t < a->n_token; t++) {
                float chain[LANES];
                q8_token(a, &tile, t, start / BLOCK, size / BLOCK, chain);
                segment_join(a, t, row, n, start == 0, chain);
            }
        }
    }
    add_bias(a, first, last);
}

/* ---- Float activations -------------------------------------------------------------------------
 */

/* Values k0 .. k0+n of a row, n <= SEGMENT_FLOAT; K is a multiple of 32 for quantised types. */
static void row_values(dtype type, const uint8_t *row, int64_t k0, int64_t n, float *y)
{
    if (type == DTYPE_F32) {
        memcpy(y, row + 4 * k0, (size_t)n * sizeof *y);
    } else if (type == DTYPE_F16 || type == DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t bits = load_u16(row + 2 * (k0 + i));
            y[i] = type == DTYPE_F16 ? half_to_float(bits) : bfloat_to_float(bits);
        }
    } else {
        for (int64_t i = 0; i < n; i += BLOCK) {
            block_values v;
            block_read(type, row, (k0 + i) / BLOCK, &v);
            block_to_floats(type, &v, y + i);
        }
    }
}

typedef float f32_tile[SEGMENT_FLOAT][LANES];

/* Piece by piece along K, so that the lines being filled stay in the first cache level. */
static void f32_tile_read(const matmul_args *a, int64_t first, int64_t n, int64_t k0, int64_t size,
                          f32_tile tile)
{
    float piece[LANES][BLOCK] = {{0}};
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t n_k = size - start < BLOCK ? size - start : BLOCK;
        for (int64_t r = 0; r < n; r++) {
            row_values(a->type, a->w + (first + r) * a->row_bytes, k0 + start, n_k, piece[r]);
        }
        for (int64_t k = 0; k < n_k; k++) {
            for (int r = 0; r < LANES; r++) {
                tile[start + k][r] = piece[r][k];
            }
        }
    }
}

static void f32_chain_1(const float *x, f32_tile tile, int64_t size, float chain[LANES])
{
    float acc[LANES] = {0};
    for (int64_t k = 0; k < size; k++) {
        for (int r = 0; r < LANES; r++) {
            acc[r] = fmaf(tile[k][r], x[k], acc[r]);
        }
    }
    memcpy(chain, acc, sizeof acc);
}

/* Four tokens at once keep eight chains in flight, which hides the latency of the multiply-add. */
static void f32_chain_4(const float *const x[TOKENS], f32_tile tile, int64_t size,
                        float chain[TOKENS][LANES])
{
    float acc0[LANES] = {0}, acc1[LANES] = {0}, acc2[LANES] = {0}, acc3[LANES] = {0};
    for (int64_t k = 0; k < size; k++) {
        float x0 = x[0][k], x1 = x[1][k], x2 = x[2][k], x3 = x[3][k];
        for (int r = 0; r < LANES; r++) {
            acc0[r] = fmaf(tile[k][r], x0, acc0[r]);
            acc1[r] = fmaf(tile[k][r], x1, acc1[r]);
            acc2[r] = fmaf(tile[k][r], x2, acc2[r]);
            acc3[r] = fmaf(tile[k][r], x3, acc3[r]);
        }
    }
    memcpy(chain[0], acc0, sizeof acc0);
    memcpy(chain[1], acc1, sizeof acc1);
    memcpy(chain[2], acc2, sizeof acc2);
    memcpy(chain[3], acc3, sizeof acc3);
}

static const float *x_row(const matmul_args *a, int64_t token, int64_t k0)
{
    return (const float *)(const void *)((const uint8_t *)a->x + token * a->x_stride) + k0;
}

void REF(matmul_f32)(const matmul_args *a, int64_t first, int64_t last)
{
    f32_tile tile;
    for (int64_t row = first; row < last; row += LANES) {
        int64_t n = last - row < LANES ? last - row : LANES;
        for (int64_t start = 0; start < a->k; start += SEGMENT_FLOAT) {
            int64_t size = a->k - start < SEGMENT_FLOAT ? a->k - start : SEGMENT_FLOAT;
            f32_tile_read(a, row, n, start, size, tile);
            int64_t t = 0;
            float chain[TOKENS][LANES];
            for (; t + TOKENS <= a->n_token; t += TOKENS) {
                const float *x[TOKENS];
                for (int i = 0; i < TOKENS; i++) {
                    x[i] = x_row(a, t + i, start);
                }
                f32_chain_4(x, tile, size, chain);
                for (int i = 0; i < TOKENS; i++) {
                    segment_join(a, t + i, row, n, start == 0, chain[i]);
                }
            }
            for (; t < a->n_token; t++) {
                f32_chain_1(x_row(a, t, start), tile, size, chain[0]);
                segment_join(a, t, row, n, start == 0, chain[0]);
            }
        }
    }
    add_bias(a, first, last);
}

void REF(matmul)(const matmul_args *a, int64_t first, int64_t last)
{
    if (a->x_is_q8) {
        REF(matmul_q8)(a, first, last);
    } else {
        REF(matmul_f32)(a, first, last);
    }
}
