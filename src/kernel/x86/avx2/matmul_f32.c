/* matmul_f32.c - weights as floats times float activations on AVX2 and FMA.
 *
 * A tile is 16 output rows (two registers of lanes) by T tokens; each lane is one FMA chain in K
 * order, segments joined as in numerics.md. F32, F16 and BF16 are widened as they are read;
 * quantised weights (under `--act f32`) are first unpacked, a segment of a tile at a time, to the
 * floats they stand for. Six tokens are twelve chains in sixteen registers.
 */
#include "kernel/x86/avx2/avx2.h"

#include "kernel/x86/avx2/unit.h"

#define TOKENS_MAX 6

/* 8 values (rows of one half) at position k of a tile of a float type. */
INLINE __m256 float_column(dtype type, const uint8_t *tile, int64_t k, int half)
{
    if (type == DTYPE_F32) {
        return _mm256_loadu_ps((const float *)(const void *)(tile + 64 * k + 32 * half));
    }
    const __m128i *at = (const __m128i *)(const void *)(tile + 32 * k + 16 * half);
    __m128i bits = _mm_loadu_si128(at);
    return type == DTYPE_F16
               ? _mm256_cvtph_ps(bits)
               : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* One segment of a tile: n values from k0 on, columns at `columns`. */
typedef struct segment {
    const uint8_t *columns;
    int64_t k0, n;
    unit_place place;
} segment;

INLINE void segment_tokens(const matmul_args *a, dtype type, int T, int64_t token, const segment *s)
{
    __m256 acc[2][TOKENS_MAX];
    const float *x[TOKENS_MAX];
    for (int t = 0; t < T; t++) {
        const uint8_t *row = (const uint8_t *)a->x + (token + t) * a->x_stride;
        x[t] = (const float *)(const void *)row + s->k0;
        acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < s->n; k++) {
        __m256 low = float_column(type, s->columns, k, 0);
        __m256 high = float_column(type, s->columns, k, 1);
        for (int t = 0; t < T; t++) {
            __m256 value = _mm256_set1_ps(x[t][k]);
            acc[0][t] = _mm256_fmadd_ps(low, value, acc[0][t]);
            acc[1][t] = _mm256_fmadd_ps(high, value, acc[1][t]);
        }
    }
    for (int t = 0; t < T; t++) {
        float *y = a->y + (token + t) * a->y_stride;
        chain_store(&s->place, 0, a->bias, acc[0][t], y);
        chain_store(&s->place, 1, a->bias, acc[1][t], y);
    }
}

INLINE void segment_run(const matmul_args *a, dtype type, const segment *s)
{
    int64_t t = 0;
    for (; t + 6 <= a->n_token; t += 6) {
        segment_tokens(a, type, 6, t, s);
    }
    for (; t + 3 <= a->n_token; t += 3) {
        segment_tokens(a, type, 3, t, s);
    }
    for (; t < a->n_token; t++) {
        segment_tokens(a, type, 1, t, s);
    }
}

/* 32 values of 16 rows as floats, (32, 16). */
INLINE void unit_floats(dtype type, const uint8_t *tile, int64_t block, float *out)
{
    __m256i offset = _mm256_set1_epi32(type == DTYPE_Q6_K ? 32 : unit_offset(type));
    for (int half = 0; half < 2; half++) {
        unit_view u = unit_read(type, tile, block, half);
        __m256 minimum[2] = {u.wm, u.wm}; /* of the halves of the unit; exact */
        for (int h = 0; h < 2 && block_has_two_min(type); h++) {
            __m256i m = _mm256_srli_epi32(_mm256_slli_epi32(u.minimum, 16 - 16 * h), 16);
            minimum[h] = _mm256_mul_ps(u.wm, _mm256_cvtepi32_ps(m));
        }
        for (int g = 0; g < 8; g++) {
            __m256i codes = unit_operand(type, &u, g, half);
            for (int i = 0; i < 4; i++) {
                __m256i q = _mm256_and_si256(codes, _mm256_set1_epi32(255));
                q = _mm256_sub_epi32(q, offset);
                if (type == DTYPE_Q6_K) {
                    q = _mm256_mullo_epi32(q, u.scale[g / 4]);
                }
                __m256 value = _mm256_mul_ps(u.ws, _mm256_cvtepi32_ps(q)); /* exact */
                if (block_has_min(type)) {
                    value = _mm256_add_ps(value, minimum[g / 4]);
                }
                _mm256_storeu_ps(out + (4 * g + i) * PACK_ROWS + HALF_ROWS * half, value);
                codes = _mm256_srli_epi32(codes, 8);
            }
        }
    }
}

INLINE void rows_run(const matmul_args *a, dtype type, int64_t first, int64_t last)
{
    float unpacked[SEGMENT_FLOAT * PACK_ROWS];
    int64_t unit = rows16_unit_bytes(type), tile_bytes = a->k / rows16_unit(type) * unit;
    int is_float = rows16_unit(type) == 1;
    for (int64_t row = first; row < last; row += PACK_ROWS) {
        const uint8_t *tile = a->packed + row / PACK_ROWS * tile_bytes;
        for (int64_t k0 = 0; k0 < a->k; k0 += SEGMENT_FLOAT) {
            segment s = {.k0 = k0, .n = a->k - k0 < SEGMENT_FLOAT ? a->k - k0 : SEGMENT_FLOAT};
            s.place = (unit_place){row, last, k0 == 0, k0 + s.n == a->k};
            s.columns = is_float ? tile + k0 * unit : (const uint8_t *)unpacked;
            for (int64_t b = 0; b < s.n / BLOCK && !is_float; b++) {
                unit_floats(type, tile, k0 / BLOCK + b, unpacked + b * BLOCK * PACK_ROWS);
            }
            segment_run(a, is_float ? type : DTYPE_F32, &s);
        }
    }
}

void avx2_matmul_f32(const matmul_args *a, int64_t first, int64_t last)
{
    switch (a->type) {
    case DTYPE_F32:
        rows_run(a, DTYPE_F32, first, last);
        break;
    case DTYPE_F16:
        rows_run(a, DTYPE_F16, first, last);
        break;
    case DTYPE_BF16:
        rows_run(a, DTYPE_BF16, first, last);
        break;
    case DTYPE_Q4_0:
        rows_run(a, DTYPE_Q4_0, first, last);
        break;
    case DTYPE_Q4_1:
        rows_run(a, DTYPE_Q4_1, first, last);
        break;
    case DTYPE_Q5_0:
        rows_run(a, DTYPE_Q5_0, first, last);
        break;
    case DTYPE_Q5_1:
        rows_run(a, DTYPE_Q5_1, first, last);
        break;
    case DTYPE_Q8_0:
        rows_run(a, DTYPE_Q8_0, first, last);
        break;
    case DTYPE_Q2_K:
        rows_run(a, DTYPE_Q2_K, first, last);
        break;
    case DTYPE_Q3_K:
        rows_run(a, DTYPE_Q3_K, first, last);
        break;
    case DTYPE_Q4_K:
        rows_run(a, DTYPE_Q4_K, first, last);
        break;
    case DTYPE_Q5_K:
        rows_run(a, DTYPE_Q5_K, first, last);
        break;
    case DTYPE_Q6_K:
        rows_run(a, DTYPE_Q6_K, first, last);
        break;
    case DTYPE_IQ4_NL:
        rows_run(a, DTYPE_IQ4_NL, first, last);
        break;
    case DTYPE_IQ4_XS:
        rows_run(a, DTYPE_IQ4_XS, first, last);
        break;
    case DTYPE_MXFP4:
        rows_run(a, DTYPE_MXFP4, first, last);
        break;
    default:
        break; /* there is no other weight type */
    }
}
