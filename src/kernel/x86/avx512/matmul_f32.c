/* matmul_f32.c - weights as floats times float activations.
 *
 * A tile is 32 output rows (two registers of lanes) by T tokens; each lane is one FMA chain in K
 * order, segments joined as in numerics.md. F32, F16 and BF16 are widened as they are read;
 * quantised weights (under
 * `--act f32`) are first unpacked, a segment of a tile at a time, to the floats they stand for.
 */
#include "kernel/x86/avx512/avx512.h"

#include "kernel/x86/avx512/unit.h"

#define TOKENS_MAX 12

/* 16 values (rows) at position k of a tile of a float type. */
INLINE __m512 float_column(dtype type, const uint8_t *tile, int64_t k)
{
    if (type == DTYPE_F32) {
        return _mm512_loadu_ps(tile + 64 * k);
    }
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(tile + 32 * k));
    return type == DTYPE_F16
               ? _mm512_cvtph_ps(half)
               : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

typedef struct x_tile {
    const float *row[TOKENS_MAX];
} x_tile;

/* R tiles of rows, T tokens, one segment; column k of tile r is at tile[r] + k units. */
INLINE void chain(dtype type, int R, int T, const uint8_t *const *tile, int64_t n, const x_tile *x,
                  __m512 acc[2][TOKENS_MAX])
{
    for (int r = 0; r < R; r++) {
        for (int t = 0; t < T; t++) {
            acc[r][t] = _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < n; k++) {
        __m512 w[2];
        for (int r = 0; r < R; r++) {
            w[r] = float_column(type, tile[r], k);
        }
        for (int t = 0; t < T; t++) {
            __m512 value = _mm512_set1_ps(x->row[t][k]);
            for (int r = 0; r < R; r++) {
                acc[r][t] = _mm512_fmadd_ps(w[r], value, acc[r][t]);
            }
        }
    }
}

typedef struct place {
    int64_t token, row, last; /* rows end at `last` */
    int64_t segment, is_last;
} place;

INLINE void store(const matmul_args *a, int T, const place *p, const __m512 *acc)
{
    int64_t left = p->last - p->row;
    __mmask16 rows = (__mmask16)(left >= PACK_ROWS ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
    for (int t = 0; t < T; t++) {
        float *y = a->y + (p->token + t) * a->y_stride + p->row;
        __m512 total = p->segment ? _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), acc[t]) : acc[t];
        if (p->is_last && a->bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, a->bias + p->row));
        }
        _mm512_mask_storeu_ps(y, rows, total);
    }
}

/* All tokens over R tiles of one segment. */
INLINE void segment_tokens(const matmul_args *a, dtype type, int R, int T,
                           const uint8_t *const *tile, place p, int64_t k0, int64_t n)
{
    __m512 acc[2][TOKENS_MAX];
    x_tile x;
    for (int t = 0; t < T; t++) {
        const uint8_t *row = (const uint8_t *)a->x + (p.token + t) * a->x_stride;
        x.row[t] = (const float *)(const void *)row + k0;
    }
    chain(type, R, T, tile, n, &x, acc);
    for (int r = 0; r < R; r++) {
        store(a, T, &p, acc[r]);
        p.row += PACK_ROWS;
    }
}

INLINE void segment_run(const matmul_args *a, dtype type, int R, const uint8_t *const *tile,
                        place p, int64_t k0, int64_t n)
{
    for (; p.token + 12 <= a->n_token; p.token += 12) {
        segment_tokens(a, type, R, 12, tile, p, k0, n);
    }
    for (; p.token + 4 <= a->n_token; p.token += 4) {
        segment_tokens(a, type, R, 4, tile, p, k0, n);
    }
    for (; p.token < a->n_token; p.token++) {
        segment_tokens(a, type, R, 1, tile, p, k0, n);
    }
}

INLINE void float_rows(const matmul_args *a, dtype type, int64_t first, int64_t last)
{
    int64_t unit = rows16_unit_bytes(type), tile_bytes = a->k * unit;
    for (int64_t row = first; row < last; row += 2 * PACK_ROWS) {
        const uint8_t *base = a->packed + row / PACK_ROWS * tile_bytes;
        for (int64_t k0 = 0; k0 < a->k; k0 += SEGMENT) {
            int64_t n = a->k - k0 < SEGMENT ? a->k - k0 : SEGMENT;
            const uint8_t *tile[2] = {base + k0 * unit, base + tile_bytes + k0 * unit};
            place p = {0, row, last, k0, k0 + n == a->k};
            if (last - row > PACK_ROWS) {
                segment_run(a, type, 2, tile, p, k0, n);
            } else {
                segment_run(a, type, 1, tile, p, k0, n);
            }
        }
    }
}

/* 32 values of 16 rows as floats, (32, 16). */
INLINE void unit_floats(dtype type, const uint8_t *tile, int64_t block, float *out)
{
    unit_view u = unit_read(type, tile, block);
    __m512i offset = _mm512_set1_epi32(type == DTYPE_Q6_K ? 32 : unit_offset(type));
    for (int g = 0; g < 8; g++) {
        __m512i codes = unit_group(type, u.codes, g);
        for (int i = 0; i < 4; i++) {
            __m512i q = _mm512_and_si512(codes, _mm512_set1_epi32(255));
            q = _mm512_sub_epi32(q, offset);
            if (type == DTYPE_Q6_K) {
                q = _mm512_mullo_epi32(q, u.scale[g / 4]);
            }
            __m512 value = _mm512_mul_ps(u.ws, _mm512_cvtepi32_ps(q)); /* exact */
            if (block_has_min(type)) {
                value = _mm512_add_ps(value, u.wm);
            }
            _mm512_storeu_ps(out + (4 * g + i) * PACK_ROWS, value);
            codes = _mm512_srli_epi32(codes, 8);
        }
    }
}

INLINE void quantised_rows(const matmul_args *a, dtype type, int64_t first, int64_t last)
{
    float unpacked[2][SEGMENT * PACK_ROWS];
    int64_t tile_bytes = a->k / rows16_unit(type) * rows16_unit_bytes(type);
    for (int64_t row = first; row < last; row += 2 * PACK_ROWS) {
        int R = last - row > PACK_ROWS ? 2 : 1;
        for (int64_t k0 = 0; k0 < a->k; k0 += SEGMENT) {
            int64_t n = a->k - k0 < SEGMENT ? a->k - k0 : SEGMENT;
            for (int r = 0; r < R; r++) {
                const uint8_t *packed = a->packed + (row / PACK_ROWS + r) * tile_bytes;
                for (int64_t b = 0; b < n / BLOCK; b++) {
                    unit_floats(type, packed, k0 / BLOCK + b, unpacked[r] + b * BLOCK * PACK_ROWS);
                }
            }
            const uint8_t *tile[2] = {(const uint8_t *)unpacked[0], (const uint8_t *)unpacked[1]};
            place p = {0, row, last, k0, k0 + n == a->k};
            if (R == 2) {
                segment_run(a, DTYPE_F32, 2, tile, p, k0, n);
            } else {
                segment_run(a, DTYPE_F32, 1, tile, p, k0, n);
            }
        }
    }
}

void avx512_matmul_f32(const matmul_args *a, int64_t first, int64_t last)
{
    switch (a->type) {
    case DTYPE_F32:
        float_rows(a, DTYPE_F32, first, last);
        break;
    case DTYPE_F16:
        float_rows(a, DTYPE_F16, first, last);
        break;
    case DTYPE_BF16:
        float_rows(a, DTYPE_BF16, first, last);
        break;
    case DTYPE_Q4_0:
        quantised_rows(a, DTYPE_Q4_0, first, last);
        break;
    case DTYPE_Q4_1:
        quantised_rows(a, DTYPE_Q4_1, first, last);
        break;
    case DTYPE_Q5_0:
        quantised_rows(a, DTYPE_Q5_0, first, last);
        break;
    case DTYPE_Q5_1:
        quantised_rows(a, DTYPE_Q5_1, first, last);
        break;
    case DTYPE_Q8_0:
        quantised_rows(a, DTYPE_Q8_0, first, last);
        break;
    case DTYPE_Q4_K:
        quantised_rows(a, DTYPE_Q4_K, first, last);
        break;
    case DTYPE_Q5_K:
        quantised_rows(a, DTYPE_Q5_K, first, last);
        break;
    case DTYPE_Q6_K:
        quantised_rows(a, DTYPE_Q6_K, first, last);
        break;
    default:
        break; /* there is no other weight type */
    }
}
