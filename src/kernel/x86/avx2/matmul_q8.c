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
 * they are widened. Q8_0, IQ4_NL and IQ4_XS reach 255: they become signed, and the sign goes over
 * to the activation (128 * 127 * 2 = 32512; |-128| is 128 as an unsigned byte). So does Q3_K, whose
 * sc * code is -124 to 128: a signed byte holds its negative, and sums are subtracted.
 */
#include "kernel/x86/avx2/avx2.h"

#include "kernel/x86/avx2/unit.h"

#define TILE_MAX     4
#define TILE_LOW     2
#define PANEL_TOKENS 96

/* Codes that are multiplied as signed numbers: unsigned ones would overflow pair sums. */
INLINE int is_signed(dtype type)
{
    return type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS || type == DTYPE_Q3_K;
}

/* What was added to a code, as far as the product does not take it back itself. */
INLINE int32_t code_offset(dtype type)
{
    return is_signed(type) ? 0 : unit_offset(type);
}

#define MATMUL_Q8 avx2_matmul_q8
#include "kernel/x86/act_tile.inc"

/* Groups whose pair sums fit 16 bits together. */
INLINE int groups_together(dtype type)
{
    switch (type) {
    case DTYPE_Q8_0:
    case DTYPE_IQ4_NL:
    case DTYPE_IQ4_XS:
    case DTYPE_Q3_K:
        return 1;
    case DTYPE_Q2_K:
    case DTYPE_Q6_K:
        return 2;
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
    case DTYPE_Q5_K:
    case DTYPE_MXFP4:
        return 4;
    default:
        return 8;
    }
}

/* Adds groups [first, last) of half a unit to the sums of T tokens. */
INLINE void unit_dot(dtype type, int T, const unit_view *u, const int group[2], int half,
                     const int32_t *act, __m256i *idot)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int step = groups_together(type);
#pragma GCC unroll 8
    for (int from = group[0]; from < group[1]; from += step) {
        __m256i pairs[TILE_MAX];
#pragma GCC unroll 8
        for (int g = from; g < from + step; g++) {
            __m256i w = unit_operand(type, u, g, half), size = w;
            if (is_signed(type)) {
                w = type == DTYPE_Q3_K ? _mm256_sub_epi8(_mm256_set1_epi8(127), w)
                                       : _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                size = _mm256_abs_epi8(w);
            }
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                __m256i x = _mm256_set1_epi32(act[g * T + t]);
                x = _mm256_maddubs_epi16(size, is_signed(type) ? _mm256_sign_epi8(x, w) : x);
                pairs[t] = g == from ? x : _mm256_add_epi16(pairs[t], x);
            }
        }
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            __m256i sums = _mm256_madd_epi16(pairs[t], ones);
            idot[t] = type == DTYPE_Q3_K ? _mm256_sub_epi32(idot[t], sums)
                                         : _mm256_add_epi32(idot[t], sums);
        }
    }
}

/* sum q * code of a block: two sub-scales for Q6_K. */
INLINE void block_dot(dtype type, int T, const unit_view *u, int half, const int32_t *act,
                      __m256i *idot)
{
    int is_q6 = type == DTYPE_Q6_K;
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_set1_epi32(block_has_min(type) ? 0 : act[9 * T + t]);
    }
    unit_dot(type, T, u, (const int[2]){0, is_q6 ? 4 : 8}, half, act, idot);
    if (!is_q6) {
        return;
    }
    __m256i other[TILE_MAX];
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_mullo_epi32(idot[t], u->scale[0]);
        other[t] = _mm256_set1_epi32(act[10 * T + t]);
    }
    unit_dot(type, T, u, (const int[2]){4, 8}, half, act, other);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        idot[t] = _mm256_add_epi32(idot[t], _mm256_mullo_epi32(other[t], u->scale[1]));
    }
}

INLINE __m256 act_float(const int32_t *word)
{
    return _mm256_castsi256_ps(_mm256_set1_epi32(*word));
}

/* rn(d * isum) of one token whose scale is *d; the sums of halves are T words behind. */
INLINE __m256 min_factor(dtype type, const unit_view *u, const int32_t *d, int T)
{
    if (!block_has_two_min(type)) {
        return act_float(&d[T]);
    }
    __m256i isum = _mm256_madd_epi16(u->minimum, _mm256_set1_epi32(d[T]));
    return _mm256_mul_ps(act_float(d), _mm256_cvtepi32_ps(isum));
}

/* One segment of half a tile of rows for T tokens. */
INLINE void tile_chain(dtype type, int T, int half, const tile_place *p, const int32_t *act,
                       __m256 *acc)
{
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) {
        acc[t] = _mm256_setzero_ps();
    }
    for (int64_t b = p->k / BLOCK; b < (p->k + p->n_k) / BLOCK; b++) {
        unit_view u = unit_read(type, p->tile, b, half);
        __m256i idot[TILE_MAX];
        block_dot(type, T, &u, half, act, idot);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            __m256 scale = _mm256_mul_ps(u.ws, act_float(&act[8 * T + t]));
            acc[t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(idot[t]), acc[t]);
            if (block_has_min(type)) {
                acc[t] = _mm256_fmadd_ps(u.wm, min_factor(type, &u, &act[8 * T + t], T), acc[t]);
            }
        }
        act += block_words(type) * T;
    }
}

/* The halves one after the other: four tokens of one fill the registers. */
INLINE void tile_run(const matmul_args *a, dtype type, int T, const tile_place *p,
                     const int32_t *act)
{
    unit_place place = {p->row, p->last, p->k == 0, is_last_segment(a, p)};
    for (int half = 0; half < 2; half++) {
        __m256 acc[TILE_MAX];
        tile_chain(type, T, half, p, act, acc);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            if (t >= p->n_token) {
                break;
            }
            chain_store(&place, half, a->bias, acc[t], a->y + (p->token + t) * a->y_stride);
        }
    }
}
