/* matmul_q8.c - quantised weights times quantised activations on VNNI.
 *
 * A tile is 16 output rows (lanes) by T tokens (registers). Per block of 32:
 *     idot = -offset * isum + sum over 8 groups of vpdpbusd(codes, broadcast of 4 activation codes)
 *     acc = fma(rn(ws * d), float(idot), acc);  with minima then acc = fma(wm, rn(d * isum), acc)
 * which is numerics.md's chain, one lane a row; integer sums are exact in any order. What belongs
 * to the activations alone is made once per panel (act_tile.inc).
 *
 * Per block and token 8 products share their pipes with 2 or 3 multiplications of floats, which
 * bounds the share of the integer peak at 8/10 or 8/11. Eight tokens hold 16 of the 32 registers
 * and are within a few percent of taller and wider tiles (2 x 6, 12, 2 x 8), so that batches of up
 * to eight sequences and prefill are one body.
 */
#include "kernel/x86/avx512/avx512.h"

#include "kernel/x86/avx512/unit.h"

#define TILE_MAX     8
#define TILE_LOW     2
#define PANEL_TOKENS 96
#define AHEAD        4096 /* bytes of weights asked for before they are wanted */

/* What was added to a code, as far as the product does not take it back itself. */
INLINE int32_t code_offset(dtype type)
{
    return unit_offset(type);
}

#define MATMUL_Q8 avx512_matmul_q8
#include "kernel/x86/act_tile.inc"

/* Adds groups [first, last) of a unit to the sums of T tokens. */
INLINE void unit_dot(dtype type, int T, const unit_view *u, const int group[2], const int32_t *act,
                     __m512i *idot)
{
#pragma GCC unroll 8
    for (int g = group[0]; g < group[1]; g++) {
        __m512i codes = unit_operand(type, u, g);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            idot[t] = _mm512_dpbusd_epi32(idot[t], codes, _mm512_set1_epi32(act[g * T + t]));
        }
    }
}

/* sum q * code of a block: two sub-scales for Q6_K. */
INLINE void block_dot(dtype type, int T, const unit_view *u, const int32_t *act, __m512i *idot)
{
    int is_q6 = type == DTYPE_Q6_K;
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        idot[t] = _mm512_set1_epi32(block_has_min(type) ? 0 : act[9 * T + t]);
    }
    unit_dot(type, T, u, (const int[2]){0, is_q6 ? 4 : 8}, act, idot);
    if (!is_q6) {
        return;
    }
    __m512i half[TILE_MAX];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        idot[t] = _mm512_mullo_epi32(idot[t], u->scale[0]);
        half[t] = _mm512_set1_epi32(act[10 * T + t]);
    }
    unit_dot(type, T, u, (const int[2]){4, 8}, act, half);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        idot[t] = _mm512_add_epi32(idot[t], _mm512_mullo_epi32(half[t], u->scale[1]));
    }
}

INLINE __m512 act_float(const int32_t *word)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32(*word));
}

/* rn(d * isum) of one token whose scale is *d; the sums of halves are T words behind. */
INLINE __m512 min_factor(dtype type, const unit_view *u, const int32_t *d, int T)
{
    if (!block_has_two_min(type)) {
        return act_float(&d[T]);
    }
    __m512i isum = _mm512_madd_epi16(u->minimum, _mm512_set1_epi32(d[T]));
    return _mm512_mul_ps(act_float(d), _mm512_cvtepi32_ps(isum));
}

/* Asks for weights AHEAD bytes after unit b. With few tokens the products of a unit take about as
 * long as its way from memory, which the processor's own prefetcher does not hide: 8 tokens ran
 * 1.1 to 1.3 times faster with it (Zen 4, 1B, Q8_0 and Q4_0), 96 as fast, one token does not ask.
 * Past the end of a matrix nothing is read: a prefetch has no effect but on caches. */
INLINE void unit_ahead(dtype type, const uint8_t *tile, int64_t b)
{
    int64_t bytes = rows16_unit_bytes(type) * BLOCK / rows16_unit(type);
    uintptr_t at = (uintptr_t)tile + (uintptr_t)(b * bytes) + AHEAD;
#pragma GCC unroll 16
    for (int64_t i = 0; i < bytes; i += 64) {
        _mm_prefetch((const char *)(at + (uintptr_t)i), _MM_HINT_T1);
    }
}

/* One segment of one tile of rows for T tokens. */
INLINE void tile_chain(dtype type, int T, const tile_place *p, const int32_t *act, __m512 *acc)
{
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        acc[t] = _mm512_setzero_ps();
    }
    for (int64_t b = p->k / BLOCK; b < (p->k + p->n_k) / BLOCK; b++) {
        unit_view u = unit_read(type, p->tile, b);
        __m512i idot[TILE_MAX];
        if (T > 1) {
            unit_ahead(type, p->tile, b);
        }
        block_dot(type, T, &u, act, idot);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            __m512 scale = _mm512_mul_ps(u.ws, act_float(&act[8 * T + t]));
            acc[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(idot[t]), acc[t]);
            if (block_has_min(type)) {
                acc[t] = _mm512_fmadd_ps(u.wm, min_factor(type, &u, &act[8 * T + t], T), acc[t]);
            }
        }
        act += block_words(type) * T;
    }
}

INLINE void tile_run(const matmul_args *a, dtype type, int T, const tile_place *p,
                     const int32_t *act)
{
    __m512 acc[TILE_MAX];
    int64_t left = p->last - p->row;
    __mmask16 rows = (__mmask16)(left >= PACK_ROWS ? 0xffff : (1u << left) - 1);
    tile_chain(type, T, p, act, acc);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        if (t >= p->n_token) {
            break;
        }
        float *y = a->y + (p->token + t) * a->y_stride + p->row;
        __m512 total = p->k ? _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), acc[t]) : acc[t];
        if (is_last_segment(a, p) && a->bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, a->bias + p->row));
        }
        _mm512_mask_storeu_ps(y, rows, total);
    }
}
