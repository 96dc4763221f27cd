/* vec.h - 16 floats: what attention.inc and rows.inc need of AVX-512.
 *
 * avx2/vec.h gives the same names for 8 floats. Functions that take a count touch no byte past it,
 * so rows may end at the end of memory.
 */
#ifndef GRETA_KERNEL_X86_AVX512_VEC_H
#define GRETA_KERNEL_X86_AVX512_VEC_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#define ISA(name) avx512_##name
#define LANES     16
/* Vectors side by side in a block of q chains that fits the registers. */
#define CHAIN_VECS(q) 4

typedef __m512 vec;
typedef __m512i ivec;
typedef __mmask16 mask;

/* The first n lanes; n may be below 0 or above LANES. */
INLINE mask mask_first(int64_t n)
{
    return (mask)(n >= LANES ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

INLINE mask mask_and(mask a, mask b)
{
    return (mask)(a & b);
}

INLINE uint64_t mask_count(mask m)
{
    return (uint64_t)__builtin_popcount(m);
}

INLINE vec vec_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

/* Lanes from n on are +0. */
INLINE vec vec_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(mask_first(n), p);
}

INLINE vec vec_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE void vec_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}

INLINE void vec_store_n(float *p, vec x, int64_t n)
{
    _mm512_mask_storeu_ps(p, mask_first(n), x);
}

INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where one is NaN; so has vec_min. */
INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

INLINE vec vec_abs(vec x)
{
    return _mm512_abs_ps(x);
}

INLINE vec vec_negate(vec x)
{
    return -x;
}

INLINE mask vec_above(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}

INLINE mask vec_at_most(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}

INLINE mask vec_is_nan(vec x)
{
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
}

INLINE vec vec_pick(mask m, vec yes, vec no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}

INLINE vec vec_copysign(vec size, vec sign)
{
    return _mm512_or_ps(_mm512_abs_ps(size), _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}

/* exp_scale of elementary.h, x * 2^n rounded once. */
INLINE vec vec_scale(vec x, vec n)
{
    return _mm512_scalef_ps(x, n);
}

/* Lane 0 after adding at stride 8, 4, 2, 1. */
INLINE float vec_fold(vec x)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE float vec_most(vec x)
{
    return _mm512_reduce_max_ps(x);
}

INLINE float vec_least(vec x)
{
    return _mm512_reduce_min_ps(x);
}

/* ---- Integers ----------------------------------------------------------------------------------
 */

INLINE ivec ivec_set(uint32_t x)
{
    return _mm512_set1_epi32((int32_t)x);
}

INLINE ivec ivec_lane_numbers(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

INLINE ivec ivec_load_codes(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE ivec ivec_load_halves(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE vec vec_of_ints(ivec x)
{
    return _mm512_cvtepi32_ps(x);
}

INLINE ivec ivec_bits(vec x)
{
    return _mm512_castps_si512(x);
}

INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}

INLINE ivec ivec_add64(ivec a, ivec b)
{
    return _mm512_add_epi64(a, b);
}

INLINE ivec ivec_mul(ivec a, ivec b)
{
    return _mm512_mullo_epi32(a, b);
}

INLINE ivec ivec_xor(ivec a, ivec b)
{
    return _mm512_xor_si512(a, b);
}

INLINE ivec ivec_max(ivec a, ivec b)
{
    return _mm512_max_epi32(a, b);
}

INLINE int32_t ivec_most(ivec x)
{
    return _mm512_reduce_max_epi32(x);
}

INLINE ivec ivec_pick(mask m, ivec yes, ivec no)
{
    return _mm512_mask_blend_epi32(m, no, yes);
}

/* Halves of each 32-bit lane change places. */
INLINE ivec ivec_turn16(ivec x)
{
    return _mm512_rol_epi32(x, 16);
}

/* Sums of the 64-bit products of even and of odd lanes. */
INLINE ivec ivec_products(ivec a, ivec b)
{
    return _mm512_add_epi64(_mm512_mul_epu32(a, b),
                            _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)));
}

INLINE uint64_t ivec_sum64(ivec x)
{
    /* Not _mm512_reduce_add_epi64, which adds as signed numbers: overflow is meant here. */
    __m256i s4 = _mm256_add_epi64(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    __m128i s2 = _mm_add_epi64(_mm256_castsi256_si128(s4), _mm256_extracti128_si256(s4, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_add_epi64(s2, _mm_unpackhi_epi64(s2, s2)));
}

/* 32 values to the nearest whole numbers, at most 127 in size; returns their sum. */
INLINE int32_t vec_store_codes(const vec *x, int8_t *code)
{
    __m512i low = _mm512_cvtps_epi32(x[0]), high = _mm512_cvtps_epi32(x[1]);
    _mm_storeu_si128((__m128i *)(void *)code, _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128((__m128i *)(void *)(code + 16), _mm512_cvtepi32_epi8(high));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

#endif
