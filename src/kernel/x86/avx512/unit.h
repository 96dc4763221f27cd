/* unit.h - a unit of 32 values of 16 packed rows (rows16.h) in AVX-512 registers. */
#ifndef GRETA_KERNEL_X86_AVX512_UNIT_H
#define GRETA_KERNEL_X86_AVX512_UNIT_H

#include "kernel/blocks.h"
#include "kernel/x86/rows16.h"

#include <immintrin.h>
#include <string.h>

/* Types and tile heights are constants of the caller: everything folds. */
#define INLINE static inline __attribute__((always_inline))

/* What makes q unsigned in unit_group (Q6_K: the code, by halves). */
INLINE int unit_offset(dtype type)
{
    return type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS ? 128
           : type == DTYPE_Q4_0                                               ? 8
           : type == DTYPE_Q5_0                                               ? 16
           : type == DTYPE_MXFP4                                              ? 12
           : type == DTYPE_Q3_K                                               ? 127
                                                                              : 0;
}

/* The table of a codebook type, with its offset, in each quarter of a register. */
INLINE __m512i codebook(dtype type)
{
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)block_codebook(type));
    table = _mm_add_epi8(table, _mm_set1_epi8((char)unit_offset(type)));
    return _mm512_broadcast_i32x4(table);
}

/* Group g (0..7) of a unit of 32: 16 rows x 4 codes as they are packed. */
INLINE __m512i unit_group(dtype type, const uint8_t *unit, int g)
{
    const __m512i low4 = _mm512_set1_epi8(15);
    if (type == DTYPE_Q8_0) {
        return _mm512_loadu_si512(unit + 64 * g);
    }
    if (type == DTYPE_Q2_K || type == DTYPE_Q3_K) {
        const uint8_t *two = unit + 64 * (g / 4) + (type == DTYPE_Q3_K ? 64 : 0);
        __m512i bits = _mm512_srli_epi32(_mm512_loadu_si512(two), (unsigned)(2 * (g % 4)));
        bits = _mm512_and_si512(bits, _mm512_set1_epi8(3));
        if (type == DTYPE_Q2_K) {
            return bits;
        }
        __m512i third = _mm512_loadu_si512(unit);
        third = g < 2 ? _mm512_slli_epi32(third, (unsigned)(2 - g))
                      : _mm512_srli_epi32(third, (unsigned)(g - 2));
        /* bits | (third & 4) */
        return _mm512_ternarylogic_epi32(bits, third, _mm512_set1_epi8(4), 0xf8);
    }
    int is_5 = type == DTYPE_Q5_0 || type == DTYPE_Q5_1 || type == DTYPE_Q5_K;
    const uint8_t *at = unit + 64 * (g / 2) + (type == DTYPE_Q6_K ? 64 * (1 + g / 4) : 64 * is_5);
    __m512i packed = _mm512_loadu_si512(at);
    __m512i codes = _mm512_and_si512(g % 2 ? _mm512_srli_epi16(packed, 4) : packed, low4);
    if (is_5) {
        uint64_t fifth;
        memcpy(&fifth, unit + 8 * g, sizeof fifth);
        return _mm512_mask_add_epi8(codes, fifth, codes, _mm512_set1_epi8(16));
    }
    if (type == DTYPE_Q6_K) {
        __m512i top = _mm512_loadu_si512(unit + 192 * (g / 4));
        top = g % 4 == 0   ? _mm512_slli_epi16(top, 4) /* bits 2j, 2j+1 to bits 4, 5 */
              : g % 4 == 1 ? _mm512_slli_epi16(top, 2)
              : g % 4 == 3 ? _mm512_srli_epi16(top, 2)
                           : top;
        /* codes | (top & 48) */
        return _mm512_ternarylogic_epi32(codes, top, _mm512_set1_epi8(48), 0xf8);
    }
    return codes;
}

INLINE __m512 load_halves(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE __m512i load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE __m512i load_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Half of E8M0 scales (block_e8m0_half), from their exponents. */
INLINE __m512 e8m0_half(__m512i e)
{
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    bits = _mm512_mask_sllv_epi32(bits, is_subnormal, _mm512_set1_epi32(0x00200000), e);
    __mmask16 is_nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, is_nan, _mm512_set1_epi32(0x7fc00000)));
}

/* Where the scales and codes of unit `b` (of 32) of a tile lie. */
typedef struct unit_view {
    const uint8_t *codes;
    __m512 ws, wm;
    __m512i scale[2]; /* of the halves: Q6_K 32 bits, Q2_K and Q3_K twice 16 bits */
    __m512i bias[2];  /* Q3_K, of the halves: what makes a product q + unit_offset */
    __m512i minimum;  /* Q2_K: m of both halves, 16 bits each */
} unit_view;

/* Bytes `from` and `to` of every lane as two numbers of 16 bits. */
INLINE __m512i two_bytes(__m512i lanes, int from, int to)
{
    const __m512i step = _mm512_set_epi32(12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0, 12, 8, 4, 0);
    __m512i place = _mm512_mullo_epi32(step, _mm512_set1_epi32(0x00010001));
    place = _mm512_add_epi32(place, _mm512_set1_epi32(from | to << 16));
    return _mm512_shuffle_epi8(lanes, _mm512_or_si512(place, _mm512_set1_epi32((int)0x80008000)));
}

/* Scales of both halves of a unit of Q2_K or Q3_K. */
INLINE void low_k_scales(dtype type, const uint8_t *p, unit_view *u)
{
    __m512i lanes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    u->minimum = _mm512_srli_epi16(two_bytes(lanes, 0, 1), 4);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        __m512i scale = two_bytes(lanes, h, h);
        if (type == DTYPE_Q2_K) {
            u->scale[h] = _mm512_and_si512(scale, _mm512_set1_epi16(15));
            continue;
        }
        u->scale[h] = _mm512_srai_epi16(_mm512_slli_epi16(scale, 8), 8);
        u->bias[h] = _mm512_mullo_epi16(u->scale[h], _mm512_set1_epi16(0x0404));
        u->bias[h] = _mm512_sub_epi16(_mm512_set1_epi16(0x7f7f), u->bias[h]);
    }
}

/* Group g of a unit as unsigned numbers q + unit_offset (Q6_K: codes). Two codes of Q2_K or Q3_K,
 * c0 + 256 c1, are multiplied by sc in 16 bits. Q2_K: sc c0 <= 45 carries nothing into the other
 * byte. Q3_K: with the bias both bytes are sc (c - 4) + 127, which is 3 to 255, so again there is
 * nothing to carry or to borrow. */
INLINE __m512i unit_operand(dtype type, const unit_view *u, int g)
{
    __m512i codes = unit_group(type, u->codes, g);
    if (type == DTYPE_Q2_K) {
        return _mm512_mullo_epi16(codes, u->scale[g / 4]);
    }
    if (type == DTYPE_Q3_K) {
        return _mm512_add_epi16(_mm512_mullo_epi16(codes, u->scale[g / 4]), u->bias[g / 4]);
    }
    return block_is_codebook(type) ? _mm512_shuffle_epi8(codebook(type), codes) : codes;
}

INLINE unit_view unit_read(dtype type, const uint8_t *tile, int64_t b)
{
    unit_view u;
    u.wm = _mm512_setzero_ps();
    u.scale[0] = u.scale[1] = u.bias[0] = u.bias[1] = u.minimum = _mm512_setzero_si512();
    if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type),
                      *scale = super + 64 + 32 * (b % 8);
        __m512 sc = _mm512_cvtepi32_ps(load_u8(scale)),
               mn = _mm512_cvtepi32_ps(load_u8(scale + 16));
        u.codes = super + 320 + (type == DTYPE_Q5_K ? 320 : 256) * (b % 8);
        u.ws = _mm512_mul_ps(load_halves(super), sc);
        u.wm = _mm512_mul_ps(load_halves(super + 32), mn);
        u.wm = _mm512_xor_ps(u.wm, _mm512_set1_ps(-0.0f));
    } else if (type == DTYPE_Q6_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type),
                      *scale = super + 32 + 32 * (b % 8);
        u.codes = super + 288 + 384 * (b % 8);
        u.ws = load_halves(super);
        u.scale[0] = load_i8(scale);
        u.scale[1] = load_i8(scale + 16);
    } else if (type == DTYPE_Q2_K || type == DTYPE_Q3_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type);
        const uint8_t *scale = super + (type == DTYPE_Q2_K ? 64 : 32);
        u.codes = scale + 256 + (type == DTYPE_Q2_K ? 128 : 192) * (b % 8);
        u.ws = load_halves(super);
        if (type == DTYPE_Q2_K) {
            u.wm = _mm512_xor_ps(load_halves(super + 32), _mm512_set1_ps(-0.0f));
        }
        low_k_scales(type, scale + 32 * (b % 8), &u);
    } else if (type == DTYPE_IQ4_XS) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type);
        u.codes = super + 160 + 256 * (b % 8);
        u.ws = _mm512_cvtepi32_ps(load_i8(super + 32 + 16 * (b % 8)));
        u.ws = _mm512_mul_ps(load_halves(super), u.ws);
    } else if (type == DTYPE_MXFP4) {
        const uint8_t *unit = tile + b * rows16_unit_bytes(type);
        u.codes = unit + 16;
        u.ws = e8m0_half(load_u8(unit));
    } else {
        const uint8_t *unit = tile + b * rows16_unit_bytes(type);
        u.ws = load_halves(unit);
        u.codes = unit + 32;
        if (block_has_min(type)) {
            u.wm = load_halves(unit + 32);
            u.codes = unit + 64;
        }
    }
    return u;
}

#endif
