/* unit.h - a unit of 32 values of 16 packed rows (rows16.h) in AVX2 registers: half 0 is rows 0 to
 * 7, half 1 rows 8 to 15. */
#ifndef GRETA_KERNEL_X86_AVX2_UNIT_H
#define GRETA_KERNEL_X86_AVX2_UNIT_H

#include "kernel/blocks.h"
#include "kernel/x86/rows16.h"

#include <immintrin.h>
#include <string.h>

/* Types and tile heights are constants of the caller: everything folds. */
#define INLINE static inline __attribute__((always_inline))

#define HALF_ROWS (PACK_ROWS / 2)

/* What makes q unsigned in unit_group (Q6_K: the code, by halves of a block). */
INLINE int unit_offset(dtype type)
{
    return type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS ? 128
           : type == DTYPE_Q4_0                                               ? 8
           : type == DTYPE_Q5_0                                               ? 16
           : type == DTYPE_MXFP4                                              ? 12
           : type == DTYPE_Q3_K                                               ? 127
                                                                              : 0;
}

INLINE __m256i load_bytes(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* 16 in every byte whose bit is set in the 32 bits at p. */
INLINE __m256i fifth_bits(const uint8_t *p)
{
    const __m256i spread =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    int32_t word;
    memcpy(&word, p, sizeof word);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(word), spread);
    bytes = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    return _mm256_and_si256(bytes, _mm256_set1_epi8(16));
}

/* The table of a codebook type, with its offset, in both halves of a register. */
INLINE __m256i codebook(dtype type)
{
    __m128i table = _mm_loadu_si128((const __m128i *)(const void *)block_codebook(type));
    table = _mm_add_epi8(table, _mm_set1_epi8((char)unit_offset(type)));
    return _mm256_broadcastsi128_si256(table);
}

/* Group g (0..7) of a unit of 32: 8 rows x 4 codes, as unsigned numbers q + unit_offset (Q2_K,
 * Q3_K: codes). */
INLINE __m256i unit_group(dtype type, const uint8_t *unit, int g, int half)
{
    const __m256i low4 = _mm256_set1_epi8(15);
    int is_5 = type == DTYPE_Q5_0 || type == DTYPE_Q5_1 || type == DTYPE_Q5_K;
    if (type == DTYPE_Q8_0) {
        return load_bytes(unit + 64 * g + 32 * half);
    }
    if (type == DTYPE_Q2_K || type == DTYPE_Q3_K) {
        const uint8_t *two = unit + 64 * (g / 4) + (type == DTYPE_Q3_K ? 64 : 0);
        __m256i bits = _mm256_srli_epi16(load_bytes(two + 32 * half), 2 * (g % 4));
        bits = _mm256_and_si256(bits, _mm256_set1_epi8(3));
        if (type == DTYPE_Q2_K) {
            return bits;
        }
        __m256i third = load_bytes(unit + 32 * half);
        third = g < 2 ? _mm256_slli_epi16(third, 2 - g) : _mm256_srli_epi16(third, g - 2);
        return _mm256_or_si256(bits, _mm256_and_si256(third, _mm256_set1_epi8(4)));
    }
    int64_t at = 64 * (g / 2) + (type == DTYPE_Q6_K ? 64 * (1 + g / 4) : 64 * is_5);
    __m256i packed = load_bytes(unit + at + 32 * half);
    __m256i codes = _mm256_and_si256(g % 2 ? _mm256_srli_epi16(packed, 4) : packed, low4);
    if (is_5) {
        return _mm256_or_si256(codes, fifth_bits(unit + 8 * g + 4 * half));
    }
    if (type == DTYPE_Q6_K) {
        __m256i top = load_bytes(unit + 192 * (g / 4) + 32 * half);
        top = g % 4 == 0   ? _mm256_slli_epi16(top, 4) /* bits 2j, 2j+1 to bits 4, 5 */
              : g % 4 == 1 ? _mm256_slli_epi16(top, 2)
              : g % 4 == 3 ? _mm256_srli_epi16(top, 2)
                           : top;
        return _mm256_or_si256(codes, _mm256_and_si256(top, _mm256_set1_epi8(48)));
    }
    return block_is_codebook(type) ? _mm256_shuffle_epi8(codebook(type), codes) : codes;
}

/* Numbers of one half at p, where those of 16 rows stand. */
INLINE __m256 load_halves(const uint8_t *p, int half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * half)));
}

INLINE __m256 load_u8(const uint8_t *p, int half)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * half));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

INLINE __m256i load_i8(const uint8_t *p, int half)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * half)));
}

/* Half of E8M0 scales (block_e8m0_half), from their exponents. */
INLINE __m256 e8m0_half(__m256i e)
{
    __m256i bits = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    bits = _mm256_blendv_epi8(bits, subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
    __m256i is_nan = _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255));
    return _mm256_castsi256_ps(_mm256_or_si256(bits, is_nan));
}

/* Scales of 8 rows of unit `b` (of 32) of a tile, and where the unit's codes lie. */
typedef struct unit_view {
    const uint8_t *codes;
    __m256 ws, wm;
    __m256i scale[2]; /* of the halves of the block: Q6_K 32 bits, Q2_K and Q3_K twice 16 bits */
    __m256i bias[2];  /* Q3_K, of the halves: what makes a product q + unit_offset */
    __m256i minimum;  /* Q2_K: m of both halves, 16 bits each */
} unit_view;

/* Bytes `from` and `to` of every lane as two numbers of 16 bits. */
INLINE __m256i two_bytes(__m256i lanes, int from, int to)
{
    const __m256i step =
        _mm256_setr_epi32(0, 0x40004, 0x80008, 0xc000c, 0, 0x40004, 0x80008, 0xc000c);
    __m256i place = _mm256_add_epi32(step, _mm256_set1_epi32(from | to << 16));
    return _mm256_shuffle_epi8(lanes, _mm256_or_si256(place, _mm256_set1_epi32((int)0x80008000)));
}

/* Scales of both halves of a unit of Q2_K or Q3_K. */
INLINE void low_k_scales(dtype type, const uint8_t *p, unit_view *u)
{
    __m256i lanes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    u->minimum = _mm256_srli_epi16(two_bytes(lanes, 0, 1), 4);
    for (int h = 0; h < 2; h++) {
        __m256i scale = two_bytes(lanes, h, h);
        if (type == DTYPE_Q2_K) {
            u->scale[h] = _mm256_and_si256(scale, _mm256_set1_epi16(15));
            continue;
        }
        u->scale[h] = _mm256_srai_epi16(_mm256_slli_epi16(scale, 8), 8);
        u->bias[h] = _mm256_mullo_epi16(u->scale[h], _mm256_set1_epi16(0x0404));
        u->bias[h] = _mm256_sub_epi16(_mm256_set1_epi16(0x7f7f), u->bias[h]);
    }
}

/* Group g of a unit as unsigned numbers q + unit_offset (Q6_K: codes). Two codes of Q2_K or Q3_K,
 * c0 + 256 c1, are multiplied by sc in 16 bits. Q2_K: sc c0 <= 45 carries nothing into the other
 * byte. Q3_K: with the bias both bytes are sc (c - 4) + 127, which is 3 to 255, so again there is
 * nothing to carry or to borrow. */
INLINE __m256i unit_operand(dtype type, const unit_view *u, int g, int half)
{
    __m256i codes = unit_group(type, u->codes, g, half);
    if (type == DTYPE_Q2_K) {
        return _mm256_mullo_epi16(codes, u->scale[g / 4]);
    }
    if (type == DTYPE_Q3_K) {
        return _mm256_add_epi16(_mm256_mullo_epi16(codes, u->scale[g / 4]), u->bias[g / 4]);
    }
    return codes;
}

INLINE unit_view unit_read(dtype type, const uint8_t *tile, int64_t b, int half)
{
    unit_view u;
    u.wm = _mm256_setzero_ps();
    u.scale[0] = u.scale[1] = u.bias[0] = u.bias[1] = u.minimum = _mm256_setzero_si256();
    if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type),
                      *scale = super + 64 + 32 * (b % 8);
        u.codes = super + 320 + (type == DTYPE_Q5_K ? 320 : 256) * (b % 8);
        u.ws = _mm256_mul_ps(load_halves(super, half), load_u8(scale, half));
        u.wm = _mm256_mul_ps(load_halves(super + 32, half), load_u8(scale + 16, half));
        u.wm = _mm256_xor_ps(u.wm, _mm256_set1_ps(-0.0f));
    } else if (type == DTYPE_Q6_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type),
                      *scale = super + 32 + 32 * (b % 8);
        u.codes = super + 288 + 384 * (b % 8);
        u.ws = load_halves(super, half);
        u.scale[0] = load_i8(scale, half);
        u.scale[1] = load_i8(scale + 16, half);
    } else if (type == DTYPE_Q2_K || type == DTYPE_Q3_K) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type);
        const uint8_t *scale = super + (type == DTYPE_Q2_K ? 64 : 32);
        u.codes = scale + 256 + (type == DTYPE_Q2_K ? 128 : 192) * (b % 8);
        u.ws = load_halves(super, half);
        if (type == DTYPE_Q2_K) {
            u.wm = _mm256_xor_ps(load_halves(super + 32, half), _mm256_set1_ps(-0.0f));
        }
        low_k_scales(type, scale + 32 * (b % 8) + 16 * half, &u);
    } else if (type == DTYPE_IQ4_XS) {
        const uint8_t *super = tile + b / 8 * rows16_unit_bytes(type);
        u.codes = super + 160 + 256 * (b % 8);
        u.ws = _mm256_cvtepi32_ps(load_i8(super + 32 + 16 * (b % 8), half));
        u.ws = _mm256_mul_ps(load_halves(super, half), u.ws);
    } else if (type == DTYPE_MXFP4) {
        const uint8_t *unit = tile + b * rows16_unit_bytes(type);
        __m128i e = _mm_loadl_epi64((const __m128i *)(const void *)(unit + 8 * half));
        u.codes = unit + 16;
        u.ws = e8m0_half(_mm256_cvtepu8_epi32(e));
    } else {
        const uint8_t *unit = tile + b * rows16_unit_bytes(type);
        u.ws = load_halves(unit, half);
        u.codes = unit + 32;
        if (block_has_min(type)) {
            u.wm = load_halves(unit + 32, half);
            u.codes = unit + 64;
        }
    }
    return u;
}

/* Rows of this half below `last`, as lanes of ones: `row` is the tile's first. */
INLINE __m256i rows_mask(int64_t row, int half, int64_t last)
{
    int64_t left = last - row - HALF_ROWS * half;
    __m256i count = _mm256_set1_epi32((int32_t)(left > HALF_ROWS ? HALF_ROWS
                                                : left < 0       ? 0
                                                                 : left));
    return _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* y = total so far + chain, and the bias where the last segment ends. */
typedef struct unit_place {
    int64_t row, last; /* the tile's first row; rows end at `last` */
    int is_first, is_last;
} unit_place;

INLINE void chain_store(const unit_place *p, int half, const float *bias, __m256 chain, float *y)
{
    __m256i rows = rows_mask(p->row, half, p->last);
    int64_t at = p->row + HALF_ROWS * half;
    __m256 total = p->is_first ? chain : _mm256_add_ps(_mm256_maskload_ps(y + at, rows), chain);
    if (p->is_last && bias) {
        total = _mm256_add_ps(total, _mm256_maskload_ps(bias + at, rows));
    }
    _mm256_maskstore_ps(y + at, rows, total);
}

#endif
