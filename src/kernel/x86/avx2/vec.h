/* vec.h - 8 floats: what attention.inc and rows.inc need of AVX2, FMA and F16C.
 *
 * avx512/vec.h gives the same names for 16 floats. Functions that take a count touch no byte past
 * it, so rows may end at the end of memory.
 */
#ifndef GRETA_KERNEL_X86_AVX2_VEC_H
#define GRETA_KERNEL_X86_AVX2_VEC_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#define ISA(name) avx2_##name
#define LANES     8
/* Vectors side by side in a block of q chains that fits the registers. */
#define CHAIN_VECS(q) ((q) <= 2 ? 4 : 2)

typedef __m256 vec;
typedef __m256i ivec;
typedef __m256 mask; /* lanes of ones or zeros */

/* The first n lanes; n may be below 0 or above LANES. */
INLINE mask mask_first(int64_t n)
{
    __m256i count = _mm256_set1_epi32((int32_t)(n > LANES ? LANES : n < 0 ? 0 : n));
    return _mm256_castsi256_ps(
        _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}

INLINE mask mask_and(mask a, mask b)
{
    return _mm256_and_ps(a, b);
}

INLINE uint64_t mask_count(mask m)
{
    return (uint64_t)__builtin_popcount((unsigned)_mm256_movemask_ps(m));
}

INLINE vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

/* Lanes from n on are +0. */
INLINE vec vec_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, _mm256_castps_si256(mask_first(n)));
}

INLINE vec vec_load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE void vec_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}

INLINE void vec_store_n(float *p, vec x, int64_t n)
{
    _mm256_maskstore_ps(p, _mm256_castps_si256(mask_first(n)), x);
}

INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

INLINE vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* b where one is NaN; so has vec_min. */
INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

INLINE vec vec_abs(vec x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

INLINE vec vec_negate(vec x)
{
    return -x;
}

INLINE mask vec_above(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}

INLINE mask vec_at_most(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}

INLINE mask vec_is_nan(vec x)
{
    return _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
}

INLINE vec vec_pick(mask m, vec yes, vec no)
{
    return _mm256_blendv_ps(no, yes, m);
}

INLINE vec vec_copysign(vec size, vec sign)
{
    const vec bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, size), _mm256_and_ps(bit, sign));
}

/* exp_scale of elementary.h. */
INLINE vec vec_scale(vec x, vec n)
{
    __m256i sum = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(0x1.8p23f + 254.0f)));
    __m256i half = _mm256_srli_epi32(sum, 1);
    __m256i first = _mm256_slli_epi32(half, 23);
    __m256i second = _mm256_slli_epi32(_mm256_sub_epi32(sum, half), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

/* Lane 0 after adding at stride 4, 2, 1. */
INLINE float vec_fold(vec x)
{
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE float vec_most(vec x)
{
    __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
    return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}

INLINE float vec_least(vec x)
{
    __m128 m4 = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 m2 = _mm_min_ps(m4, _mm_movehl_ps(m4, m4));
    return _mm_cvtss_f32(_mm_min_ss(m2, _mm_movehdup_ps(m2)));
}

/* ---- Integers ----------------------------------------------------------------------------------
 */

INLINE ivec ivec_set(uint32_t x)
{
    return _mm256_set1_epi32((int32_t)x);
}

INLINE ivec ivec_lane_numbers(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

INLINE ivec ivec_load_codes(const int8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

INLINE ivec ivec_load_halves(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE vec vec_of_ints(ivec x)
{
    return _mm256_cvtepi32_ps(x);
}

INLINE ivec ivec_bits(vec x)
{
    return _mm256_castps_si256(x);
}

INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm256_add_epi32(a, b);
}

INLINE ivec ivec_add64(ivec a, ivec b)
{
    return _mm256_add_epi64(a, b);
}

INLINE ivec ivec_mul(ivec a, ivec b)
{
    return _mm256_mullo_epi32(a, b);
}

INLINE ivec ivec_xor(ivec a, ivec b)
{
    return _mm256_xor_si256(a, b);
}

INLINE ivec ivec_max(ivec a, ivec b)
{
    return _mm256_max_epi32(a, b);
}

INLINE int32_t ivec_most(ivec x)
{
    __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    __m128i m2 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m2, _mm_shuffle_epi32(m2, 0xb1)));
}

INLINE ivec ivec_pick(mask m, ivec yes, ivec no)
{
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(m));
}

/* Halves of each 32-bit lane change places. */
INLINE ivec ivec_turn16(ivec x)
{
    return _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(x, 0xb1), 0xb1);
}

/* Sums of the 64-bit products of even and of odd lanes. */
INLINE ivec ivec_products(ivec a, ivec b)
{
    return _mm256_add_epi64(_mm256_mul_epu32(a, b),
                            _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)));
}

INLINE uint64_t ivec_sum64(ivec x)
{
    __m128i s2 = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_add_epi64(s2, _mm_unpackhi_epi64(s2, s2)));
}

/* 32 values to the nearest whole numbers, at most 127 in size; returns their sum. */
INLINE int32_t vec_store_codes(const vec *x, int8_t *code)
{
    __m256i q[4], sum = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(x[i]);
        sum = _mm256_add_epi32(sum, q[i]);
    }
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)code, bytes);
    __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    __m128i s2 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 0xb1)));
}

#endif
