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

/* The same as unsigned numbers q + unit_offset. */
INLINE __m512i unit_operand(dtype type, const uint8_t *unit, int g)
{
    __m512i codes = unit_group(type, unit, g);
    return block_is_codebook(type) ? _mm512_shuffle_epi8(codebook(type), codes) : codes;
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
    __m512i scale[2]; /* Q6_K: of the halves */
} unit_view;

INLINE unit_view unit_read(dtype type, const uint8_t *tile, int64_t b)
{
    unit_view u;
    u.wm = _mm512_setzero_ps();
    u.scale[0] = u.scale[1] = _mm512_setzero_si512();
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
