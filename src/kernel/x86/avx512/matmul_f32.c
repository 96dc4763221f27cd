/* matmul_f32.c - weights as floats times float activations.
 *
 * Each lane is one output row and one FMA chain in K order, segments joined as in numerics.md; a
 * chain waits four cycles for itself, so several run side by side: R tiles of 16 rows by T tokens.
 * F32, F16 and BF16 are widened as they are read, quantised weights (under `--act f32`) become the
 * floats they stand for in registers.
 */
#include "kernel/x86/avx512/avx512.h"

#include "kernel/x86/avx512/unit.h"

#define TILE_MAX     8
#define TILE_LOW     4
#define PANEL_TOKENS 64
#define PANEL_WORDS  SEGMENT /* values side by side, (K, T) */
#define CHAIN        SEGMENT_FLOAT
#define TILES_MAX    4 /* of rows side by side */

#include "kernel/x86/panel.inc"

INLINE int64_t act_words(dtype type, int64_t n)
{
    (void)type;
    return n;
}

INLINE void act_token(const matmul_args *a, dtype type, const act_span *s, int T, int32_t *word)
{
    (void)type;
    const uint8_t *x = (const uint8_t *)a->x + s->token * a->x_stride + 4 * s->k;
    for (int64_t k = 0; k < s->n_k; k++) {
        memcpy(&word[k * T], x + 4 * k, sizeof *word);
    }
}

INLINE int is_float(dtype type)
{
    return rows16_unit(type) == 1;
}

/* Widening is shared by tokens: the more there are, the fewer tiles hide the chain's latency. */
INLINE int tiles_abreast(dtype type, int T)
{
    return is_float(type) ? 2 : T > 1 ? 1 : TILES_MAX;
}

INLINE int64_t rows_step(dtype type)
{
    return PACK_ROWS * (is_float(type) ? 2 : TILES_MAX);
}

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

/* Codes come as sc * code (unit_operand). */
INLINE int has_products(dtype type)
{
    return type == DTYPE_Q2_K || type == DTYPE_Q3_K;
}

INLINE __m512 codebook_floats(dtype type)
{
    const uint8_t *table = (const uint8_t *)block_codebook(type);
    return _mm512_cvtepi32_ps(load_i8(table));
}

/* Value 4g + i of a unit, of 16 rows; ws * q is exact. */
INLINE __m512 unit_column(dtype type, const unit_view *u, __m512i codes, int g, int i)
{
    const __m512 count = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 low = block_is_codebook(type)
                           ? codebook_floats(type)
                           : _mm512_sub_ps(count, _mm512_set1_ps((float)unit_offset(type)));
    const __m512 high = _mm512_add_ps(low, _mm512_set1_ps(16));
    codes = _mm512_srli_epi32(codes, (unsigned)(8 * i));
    __m512 q;
    if (type == DTYPE_Q8_0 || type == DTYPE_Q6_K || has_products(type)) {
        __m512i offset = _mm512_set1_epi32(type == DTYPE_Q6_K ? 32 : unit_offset(type));
        codes = _mm512_sub_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(255)), offset);
        if (type == DTYPE_Q6_K) {
            codes = _mm512_mullo_epi32(codes, u->scale[g / 4]);
        }
        q = _mm512_cvtepi32_ps(codes);
    } else { /* a table: the permutation sees the low 4 or 5 bits of a lane */
        int is_5 = type == DTYPE_Q5_0 || type == DTYPE_Q5_1 || type == DTYPE_Q5_K;
        q = is_5 ? _mm512_permutex2var_ps(low, codes, high) : _mm512_permutexvar_ps(codes, low);
    }
    if (!block_has_min(type)) {
        return _mm512_mul_ps(u->ws, q);
    }
    __m512 minimum = u->wm;
    if (block_has_two_min(type)) { /* 16 bits of a lane, exact */
        __m512i m = g < 4 ? _mm512_and_si512(u->minimum, _mm512_set1_epi32(15))
                          : _mm512_srli_epi32(u->minimum, 16);
        minimum = _mm512_mul_ps(u->wm, _mm512_cvtepi32_ps(m));
    }
    return _mm512_fmadd_ps(u->ws, q, minimum);
}

typedef __m512 sums[TILES_MAX][TILE_MAX];

/* One column of R tiles by T tokens. */
INLINE void column_add(int R, int T, const __m512 *w, const int32_t *act, sums acc)
{
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        __m512 x = _mm512_castsi512_ps(_mm512_set1_epi32(act[t]));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            acc[r][t] = _mm512_fmadd_ps(w[r], x, acc[r][t]);
        }
    }
}

INLINE void float_chain(dtype type, int R, int T, const uint8_t *const *tile, const tile_place *p,
                        const int32_t *act, sums acc)
{
    for (int64_t k = p->k; k < p->k + p->n_k; k++) {
        __m512 w[TILES_MAX];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            w[r] = float_column(type, tile[r], k);
        }
        column_add(R, T, w, act, acc);
        act += T;
    }
}

/* Group g of R units, four columns. */
INLINE void group_add(dtype type, int R, int T, const unit_view *u, int g, const int32_t *act,
                      sums acc)
{
    __m512i codes[TILES_MAX];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        codes[r] =
            has_products(type) ? unit_operand(type, &u[r], g) : unit_group(type, u[r].codes, g);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 w[TILES_MAX];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            w[r] = unit_column(type, &u[r], codes[r], g, i);
        }
        column_add(R, T, w, act + i * T, acc);
    }
}

INLINE void unit_chain(dtype type, int R, int T, const uint8_t *const *tile, const tile_place *p,
                       const int32_t *act, sums acc)
{
    for (int64_t b = p->k / BLOCK; b < (p->k + p->n_k) / BLOCK; b++) {
        unit_view u[TILES_MAX];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            u[r] = unit_read(type, tile[r], b);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            group_add(type, R, T, u, g, act + 4 * g * T, acc);
        }
        act += BLOCK * T;
    }
}

INLINE void store(const matmul_args *a, int T, const tile_place *p, int64_t row, const __m512 *acc)
{
    int64_t left = p->last - row;
    __mmask16 rows = (__mmask16)(left >= PACK_ROWS ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        if (t >= p->n_token) {
            break;
        }
        float *y = a->y + (p->token + t) * a->y_stride + row;
        __m512 total = p->k ? _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), acc[t]) : acc[t];
        if (is_last_segment(a, p) && a->bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, a->bias + row));
        }
        _mm512_mask_storeu_ps(y, rows, total);
    }
}

INLINE void tile_run(const matmul_args *a, dtype type, int T, const tile_place *p,
                     const int32_t *act)
{
    const int R = tiles_abreast(type, T);
    for (int64_t row = p->row; row < p->last && row < p->row + rows_step(type);
         row += R * PACK_ROWS) {
        const uint8_t *tile[TILES_MAX];
        sums acc;
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            /* Past the end the first tile is computed again, and not stored. */
            int64_t at = row + r * PACK_ROWS < p->last ? row + r * PACK_ROWS : row;
            tile[r] = p->tile + (at - p->row) / PACK_ROWS * p->tile_bytes;
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                acc[r][t] = _mm512_setzero_ps();
            }
        }
        if (is_float(type)) {
            float_chain(type, R, T, tile, p, act, acc);
        } else {
            unit_chain(type, R, T, tile, p, act, acc);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            store(a, T, p, row + r * PACK_ROWS, acc[r]);
        }
    }
}

#define TYPE_LIST(X)                                                                               \
    X(F32) X(F16) X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K)  \
    X(Q6_K) X(IQ4_NL) X(IQ4_XS) X(MXFP4)

#define TYPE_FUNCTION(name)                                                                        \
    static __attribute__((noinline)) void matmul_##name(const matmul_args *a, int64_t first,       \
                                                        int64_t last)                              \
    {                                                                                              \
        matmul_type(a, DTYPE_##name, first, last);                                                 \
    }
TYPE_LIST(TYPE_FUNCTION)

void avx512_matmul_f32(const matmul_args *a, int64_t first, int64_t last)
{
    switch (a->type) {
#define TYPE_CASE(name)                                                                            \
    case DTYPE_##name:                                                                             \
        matmul_##name(a, first, last);                                                             \
        break;
        TYPE_LIST(TYPE_CASE)
    default:
        break; /* there is no other weight type */
    }
}
