/* matmul_q8.c - quantised weights times quantised activations on VNNI.
 *
 * A tile is 16 output rows (lanes) by T tokens (registers). Per block of 32:
 *     idot = -offset * isum + sum over 8 groups of vpdpbusd(codes, broadcast of 4 activation codes)
 *     acc = fma(rn(ws * d), float(idot), acc);  with minima then acc = fma(wm, rn(d * isum), acc)
 * which is numerics.md's chain, one lane a row; integer sums are exact in any order. What belongs
 * to the activations alone (-offset * isum, d * isum) is made once per token tile and segment.
 * Weights are read front to back (rows16.h); a token tile of 12 keeps the multiplier, not the load
 * ports, busy.
 */
#include "kernel/x86/avx512/avx512.h"

#include "kernel/x86/avx512/unit.h"

#define TOKENS_MAX     12

/* What was added to a code, as far as the product does not take it back itself. */
INLINE int32_t code_offset(dtype type)
{
    return unit_offset(type);
}

#include "kernel/x86/act_tile.inc"

INLINE __m512i broadcast4(const int8_t *code)
{
    int32_t four;
    memcpy(&four, code, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Adds groups [first, last) of a unit to the sums of T tokens. */
INLINE void unit_dot(dtype type, int T, const unit_view *u, int first, int last,
                     const act_tile *act, int64_t b, __m512i *idot)
{
    for (int g = first; g < last; g++) {
        __m512i codes = unit_group(type, u->codes, g);
        for (int t = 0; t < T; t++) {
            idot[t] =
                _mm512_dpbusd_epi32(idot[t], codes, broadcast4(act->code[t] + 32 * b + 4 * g));
        }
    }
}

/* sum q * code of a block: two sub-scales for Q6_K. */
INLINE void block_dot(dtype type, int T, const unit_view *u, const act_tile *act, int64_t b,
                      __m512i *idot)
{
    if (type != DTYPE_Q6_K) {
        for (int t = 0; t < T; t++) {
            idot[t] = _mm512_set1_epi32(act->start[t][b]);
        }
        unit_dot(type, T, u, 0, 8, act, b, idot);
        return;
    }
    __m512i half[TOKENS_MAX];
    for (int t = 0; t < T; t++) {
        idot[t] = _mm512_set1_epi32(act->half[t][b][0]);
        half[t] = _mm512_set1_epi32(act->half[t][b][1]);
    }
    unit_dot(type, T, u, 0, 4, act, b, idot);
    unit_dot(type, T, u, 4, 8, act, b, half);
    for (int t = 0; t < T; t++) {
        idot[t] = _mm512_add_epi32(_mm512_mullo_epi32(idot[t], u->scale[0]),
                                   _mm512_mullo_epi32(half[t], u->scale[1]));
    }
}

/* One segment of one tile of rows for T tokens. */
INLINE void tile_chain(dtype type, int T, const uint8_t *tile, int64_t block, int64_t n_block,
                       const act_tile *act, __m512 *acc)
{
    for (int t = 0; t < T; t++) {
        acc[t] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < n_block; b++) {
        unit_view u = unit_read(type, tile, block + b);
        __m512i idot[TOKENS_MAX];
        block_dot(type, T, &u, act, b, idot);
        for (int t = 0; t < T; t++) {
            __m512 scale = _mm512_mul_ps(u.ws, _mm512_set1_ps(act->d[t][b]));
            acc[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(idot[t]), acc[t]);
            if (block_has_min(type)) {
                acc[t] = _mm512_fmadd_ps(u.wm, _mm512_set1_ps(act->d_sum[t][b]), acc[t]);
            }
        }
    }
}

INLINE void tile_store(const matmul_args *a, int T, int64_t token, int64_t row, __mmask16 rows,
                       int64_t segment, int is_last, const __m512 *acc)
{
    for (int t = 0; t < T; t++) {
        float *y = a->y + (token + t) * a->y_stride + row;
        __m512 total = segment ? _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), acc[t]) : acc[t];
        if (is_last && a->bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, a->bias + row));
        }
        _mm512_mask_storeu_ps(y, rows, total);
    }
}

/* Rows [first, last) for T tokens from `token`; first is a multiple of 16. */
INLINE void token_tile(const matmul_args *a, dtype type, int T, int64_t token, int64_t first,
                       int64_t last)
{
    int64_t tile_bytes = a->k / rows16_unit(type) * rows16_unit_bytes(type),
            n_block = a->k / ACT_BLOCK;
    for (int64_t block = 0; block < n_block; block += SEGMENT_BLOCKS) {
        int64_t n = n_block - block < SEGMENT_BLOCKS ? n_block - block : SEGMENT_BLOCKS;
        act_tile act;
        act_tile_read(a, type, T, token, block, n, &act);
        for (int64_t row = first; row < last; row += PACK_ROWS) {
            __m512 acc[TOKENS_MAX];
            __mmask16 rows = (__mmask16)(last - row >= 16 ? 0xffff : (1u << (last - row)) - 1);
            tile_chain(type, T, a->packed + row / PACK_ROWS * tile_bytes, block, n, &act, acc);
            tile_store(a, T, token, row, rows, block, block + n == n_block, acc);
        }
    }
}

#define TILE_TALL 12
#define TILE_SHORT 4
#define MATMUL_Q8 avx512_matmul_q8
#include "kernel/x86/types.inc"
