/* matmul_q8.c - quantised weights times quantised activations on AVX2.
 *
 * A tile is 16 output rows (two registers of lanes) by T tokens. Per block of 32 and half of rows:
 *     idot = -offset * isum + sum over 8 groups of four products, vpmaddubsw then vpmaddwd by ones
 *     acc = fma(rn(ws * d), float(idot), acc);  with minima then acc = fma(wm, rn(d * isum), acc)
 * which is numerics.md's chain, one lane a row; integer sums are exact in any order.
 *
 * vpmaddubsw adds two products u8 * s8 in 16 bits and saturates, so codes must be small: with
 * |activation| <= 127 a pair reaches 254 * code. Codes below 16 leave room for 8 such sums in 16
 * bits (30480), below 32 for 4 (31496), below 64 for 2 (32004): that many groups are added before
 * they are widened. Codes of Q8_0 reach 255: they become signed, and the sign goes over to the
 * activation (128 * 127 * 2 = 32512; |-128| is 128 as an unsigned byte).
 */
#include "kernel/x86/avx2/avx2.h"

#include "kernel/x86/avx2/unit.h"

#define TOKENS_MAX     6

/* What was added to a code, as far as the product does not take it back itself. */
INLINE int32_t code_offset(dtype type)
{
    return type == DTYPE_Q8_0 ? 0 : unit_offset(type);
}

#include "kernel/x86/act_tile.inc"

INLINE __m256i broadcast4(const int8_t *code)
{
    int32_t four;
    memcpy(&four, code, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Groups whose pair sums fit 16 bits together. */
INLINE int groups_together(dtype type)
{
    return type == DTYPE_Q8_0                                               ? 1
           : type == DTYPE_Q6_K                                             ? 2
           : type == DTYPE_Q5_0 || type == DTYPE_Q5_1 || type == DTYPE_Q5_K ? 4
                                                                            : 8;
}

/* Adds groups [first, last) of half a unit to the sums of T tokens. */
INLINE void unit_dot(dtype type, int T, const unit_view *u, const int group[2], int half,
                     const int8_t *const *code, __m256i *idot)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int step = groups_together(type);
#pragma GCC unroll 8
    for (int from = group[0]; from < group[1]; from += step) {
        __m256i pairs[TOKENS_MAX];
#pragma GCC unroll 8
        for (int g = from; g < from + step; g++) {
            __m256i w = unit_group(type, u->codes, g, half), size = w;
            if (type == DTYPE_Q8_0) {
                w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                size = _mm256_abs_epi8(w);
            }
            for (int t = 0; t < T; t++) {
                __m256i x = broadcast4(code[t] + 4 * g);
                x = _mm256_maddubs_epi16(size, type == DTYPE_Q8_0 ? _mm256_sign_epi8(x, w) : x);
                pairs[t] = g == from ? x : _mm256_add_epi16(pairs[t], x);
            }
        }
        for (int t = 0; t < T; t++) {
            idot[t] = _mm256_add_epi32(idot[t], _mm256_madd_epi16(pairs[t], ones));
        }
    }
}

/* sum q * code of a block: two sub-scales for Q6_K. */
INLINE void block_dot(dtype type, int T, const unit_view *u, int half, const act_tile *act,
                      int64_t b, __m256i *idot)
{
    const int8_t *code[TOKENS_MAX];
    for (int t = 0; t < T; t++) {
        code[t] = act->code[t] + 32 * b;
    }
    if (type != DTYPE_Q6_K) {
        for (int t = 0; t < T; t++) {
            idot[t] = _mm256_set1_epi32(act->start[t][b]);
        }
        unit_dot(type, T, u, (const int[2]){0, 8}, half, code, idot);
        return;
    }
    __m256i other[TOKENS_MAX];
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_set1_epi32(act->half[t][b][0]);
        other[t] = _mm256_set1_epi32(act->half[t][b][1]);
    }
    unit_dot(type, T, u, (const int[2]){0, 4}, half, code, idot);
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_mullo_epi32(idot[t], u->scale[0]);
    }
    unit_dot(type, T, u, (const int[2]){4, 8}, half, code, other);
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_add_epi32(idot[t], _mm256_mullo_epi32(other[t], u->scale[1]));
    }
}

/* One segment of one tile of rows for T tokens. */
INLINE void tile_chain(dtype type, int T, const uint8_t *tile, int64_t block, int64_t n_block,
                       const act_tile *act, __m256 acc[2][TOKENS_MAX])
{
    for (int t = 0; t < T; t++) {
        acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    }
    for (int64_t b = 0; b < n_block; b++) {
        for (int half = 0; half < 2; half++) {
            unit_view u = unit_read(type, tile, block + b, half);
            __m256i idot[TOKENS_MAX];
            block_dot(type, T, &u, half, act, b, idot);
            for (int t = 0; t < T; t++) {
                __m256 *sum = &acc[half][t];
                __m256 scale = _mm256_mul_ps(u.ws, _mm256_set1_ps(act->d[t][b]));
                *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(idot[t]), *sum);
                if (block_has_min(type)) {
                    *sum = _mm256_fmadd_ps(u.wm, _mm256_set1_ps(act->d_sum[t][b]), *sum);
                }
            }
        }
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
            __m256 acc[2][TOKENS_MAX];
            unit_place p = {row, last, block == 0, block + n == n_block};
            tile_chain(type, T, a->packed + row / PACK_ROWS * tile_bytes, block, n, &act, acc);
            for (int t = 0; t < T; t++) {
                float *y = a->y + (token + t) * a->y_stride;
                chain_store(&p, 0, a->bias, acc[0][t], y);
                chain_store(&p, 1, a->bias, acc[1][t], y);
            }
        }
    }
}

#define TILE_TALL 6
#define TILE_SHORT 3
#define MATMUL_Q8 avx2_matmul_q8
#include "kernel/x86/types.inc"
