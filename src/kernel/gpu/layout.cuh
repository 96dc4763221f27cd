/* layout.cuh - how matrices lie on the device, and their values in units of 32.
 *
 * Quantised types. A matrix is four planes, one after another, each aligned to 256 bytes:
 *
 *     code   (n_row, k / 32)    low bits of a unit's 32 codes: 32, 16 or 8 bytes
 *     high   (n_row, k / 32)    the bits above them: 8, 4 or 0 bytes
 *     scale  (n_row, k / 32)    what belongs to one unit: 1, 2 or 4 bytes
 *     super  (n_row, k / 256)   what eight units share: 4, 2 or 0 bytes
 *
 * so that lanes which have neighbouring units read neighbouring words. Rows keep their order, and
 * any row may be a view's first. Codes of 16 bytes: byte i has code i below and code i + 16 above,
 * but in types with a codebook nibble i of the 16 bytes is code i, as pick_bytes wants it. Codes of
 * 8 bytes: byte i has codes i, i + 4, i + 8 and i + 12 from its lowest bits up, the second four
 * bytes 16 more. Three planes of bits cost at most 3.6 % more bytes than the file (Q3_K), mostly
 * because six-bit scales get a byte each.
 *
 * Float types. Tiles of 32 rows: (n_row / 32, k / V, 32, V), V values in 16 bytes; the last ones
 * are filled up with zeros that no chain reads.
 *
 * A unit is what blocks.h says: value = ws * q + wm, with ws for each half in types of two
 * sub-scales (q = sub * code).
 */
#ifndef GRETA_KERNEL_GPU_LAYOUT_CUH
#define GRETA_KERNEL_GPU_LAYOUT_CUH

#include "kernel/gpu/runtime.cuh"

#include "kernel/gpu/gpu.h"

#define UNIT       32
#define TILE_ROWS  32
#define PLANE_STEP 256

struct unit_bytes {
    int code, high, scale, super;
};

__host__ __device__ constexpr unit_bytes unit_bytes_of(int type)
{
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        return {16, 0, 2, 0};
    case DTYPE_Q4_1:
        return {16, 0, 4, 0};
    case DTYPE_Q5_0:
        return {16, 4, 2, 0};
    case DTYPE_Q5_1:
        return {16, 4, 4, 0};
    case DTYPE_Q8_0:
        return {32, 0, 2, 0};
    case DTYPE_Q2_K:
        return {8, 0, 2, 4};
    case DTYPE_Q3_K:
        return {8, 4, 2, 2};
    case DTYPE_Q4_K:
        return {16, 0, 2, 4};
    case DTYPE_Q5_K:
        return {16, 4, 2, 4};
    case DTYPE_Q6_K:
        return {16, 8, 2, 2};
    case DTYPE_IQ4_XS:
        return {16, 0, 1, 2};
    case DTYPE_MXFP4:
        return {16, 0, 1, 0};
    default:
        return {0, 0, 0, 0};
    }
}

__host__ __device__ constexpr bool is_quantised(int type)
{
    return unit_bytes_of(type).code > 0;
}

__host__ __device__ constexpr bool has_two_scales(int type)
{
    return type == DTYPE_Q2_K || type == DTYPE_Q3_K || type == DTYPE_Q6_K;
}

__host__ __device__ constexpr bool has_two_min(int type)
{
    return type == DTYPE_Q2_K;
}

__host__ __device__ constexpr bool has_min(int type)
{
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K ||
           has_two_min(type);
}

/* Where the planes of a matrix begin, and where it ends. */
struct planes {
    const uint8_t *code, *high, *scale, *super, *end;
};

__host__ __device__ inline planes planes_of(int type, const uint8_t *data, int64_t n_row, int64_t k)
{
    unit_bytes b = unit_bytes_of(type);
    int64_t n_unit = n_row * (k / UNIT);
    auto next = [](const uint8_t *from, int64_t bytes) {
        return from + (bytes + PLANE_STEP - 1) / PLANE_STEP * PLANE_STEP;
    };
    planes p;
    p.code = data;
    p.high = next(p.code, n_unit * b.code);
    p.scale = next(p.high, n_unit * b.high);
    p.super = next(p.scale, n_unit * b.scale);
    p.end = next(p.super, n_unit / 8 * b.super);
    return p;
}

template <class T> __device__ inline T load(const uint8_t *at)
{
    return *(const T *)at;
}

/* ---- Codes of a unit ------------------------------------------------------------------------- */

/* Four bytes, each in [0, 128 - bias + 127], less `bias`: no byte borrows from the next. */
__device__ inline int less(uint32_t bytes, uint32_t bias)
{
    return (int)((bytes + (0x80808080u - bias * 0x01010101u)) ^ 0x80808080u);
}

/* Bits 4 j .. 4 j + 3 of a word, one in the lowest place of each byte. */
__device__ inline uint32_t spread_bits(uint32_t bits, int j)
{
    return ((bits >> (4 * j) & 0xfu) * 0x00204081u) & 0x01010101u;
}

/* Four codes of a codebook by the nibbles of the low half of `word`. */
__device__ inline int look_up(const uint32_t table[4], uint32_t word)
{
    uint32_t pick = word & 0x7777u, above = (word & 0x8888u) >> 1;
    uint32_t low = pick_bytes(table[0], table[1], pick),
             high = pick_bytes(table[2], table[3], pick);
    return (int)pick_bytes(low, high, 0x3210u | above);
}

template <int TYPE> __device__ inline void nibbles(const planes &p, int64_t u, int q[8])
{
    int4 packed = load<int4>(p.code + u * 16);
    uint32_t word[4] = {(uint32_t)packed.x, (uint32_t)packed.y, (uint32_t)packed.z,
                        (uint32_t)packed.w};
    constexpr bool is_mx = TYPE == DTYPE_MXFP4;
    constexpr bool is_book = is_mx || TYPE == DTYPE_IQ4_NL || TYPE == DTYPE_IQ4_XS;
    if constexpr (is_book) {
        /* block_iq4 and block_e2m1 of blocks.h, four to a word */
        const uint32_t table[4] = {
            is_mx ? 0x03020100u : 0xbfad9881u, is_mx ? 0x0c080604u : 0xf6eaddcfu,
            is_mx ? 0xfdfeff00u : 0x26190d01u, is_mx ? 0xf4f8fafcu : 0x71594535u};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            q[2 * j] = look_up(table, word[j]);
            q[2 * j + 1] = look_up(table, word[j] >> 16);
        }
        return;
    }
    uint32_t fifth = unit_bytes_of(TYPE).high == 4 ? load<uint32_t>(p.high + u * 4) : 0;
    uint2 upper = {0, 0};
    if constexpr (TYPE == DTYPE_Q6_K) {
        upper = load<uint2>(p.high + u * 8);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        uint32_t v = word[j % 4] >> (j / 4 * 4) & 0x0f0f0f0fu;
        if constexpr (unit_bytes_of(TYPE).high == 4) {
            v |= spread_bits(fifth, j) << 4;
        }
        if constexpr (TYPE == DTYPE_Q6_K) {
            v |= ((j < 4 ? upper.x : upper.y) >> (2 * (j % 4)) & 0x03030303u) << 4;
        }
        constexpr uint32_t bias = TYPE == DTYPE_Q4_0   ? 8
                                  : TYPE == DTYPE_Q5_0 ? 16
                                  : TYPE == DTYPE_Q6_K ? 32
                                                       : 0;
        q[j] = bias ? less(v, bias) : (int)v;
    }
}

/* The 32 codes in order, a byte each, before sub-scales. */
template <int TYPE> __device__ inline void unit_codes(const planes &p, int64_t u, int q[8])
{
    if constexpr (TYPE == DTYPE_Q8_0) {
        int4 a = load<int4>(p.code + u * 32), b = load<int4>(p.code + u * 32 + 16);
        q[0] = a.x, q[1] = a.y, q[2] = a.z, q[3] = a.w;
        q[4] = b.x, q[5] = b.y, q[6] = b.z, q[7] = b.w;
    } else if constexpr (unit_bytes_of(TYPE).code == 8) {
        uint2 low = load<uint2>(p.code + u * 8);
        uint32_t third = TYPE == DTYPE_Q3_K ? load<uint32_t>(p.high + u * 4) : 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t v = (j < 4 ? low.x : low.y) >> (2 * (j % 4)) & 0x03030303u;
            q[j] = TYPE == DTYPE_Q3_K ? less(v | spread_bits(third, j) << 2, 4) : (int)v;
        }
    } else {
        nibbles<TYPE>(p, u, q);
    }
}

/* ---- Scales of a unit ------------------------------------------------------------------------ */

struct unit_scales {
    float ws, wm;
    int sub[2]; /* 1, 1 in types with one scale */
    int min[2]; /* Q2_K */
};

/* 2^(e - 128), subnormal for e < 2; 255 is NaN. */
__device__ inline float e8m0_half(uint32_t e)
{
    return float_from_bits(e == 255 ? 0x7fc00000u : e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

template <int TYPE> __device__ inline unit_scales unit_scales_of(const planes &p, int64_t u)
{
    unit_scales s = {0.0f, 0.0f, {1, 1}, {0, 0}};
    constexpr unit_bytes b = unit_bytes_of(TYPE);
    const uint8_t *own = p.scale + u * b.scale, *super = p.super + u / 8 * b.super;
    if constexpr (TYPE == DTYPE_MXFP4) {
        s.ws = e8m0_half(own[0]);
    } else if constexpr (TYPE == DTYPE_IQ4_XS) {
        s.ws = widen_half(load<uint16_t>(super)) * (float)load<int8_t>(own);
    } else if constexpr (b.super == 0) {
        s.ws = widen_half(load<uint16_t>(own));
        s.wm = b.scale == 4 ? widen_half(load<uint16_t>(own + 2)) : 0.0f;
    } else if constexpr (TYPE == DTYPE_Q4_K || TYPE == DTYPE_Q5_K) {
        s.ws = widen_half(load<uint16_t>(super)) * (float)own[0];
        s.wm = -(widen_half(load<uint16_t>(super + 2)) * (float)own[1]);
    } else {
        s.ws = widen_half(load<uint16_t>(super));
        if constexpr (TYPE == DTYPE_Q2_K) {
            s.wm = -widen_half(load<uint16_t>(super + 2));
            s.sub[0] = own[0] & 15, s.sub[1] = own[1] & 15;
            s.min[0] = own[0] >> 4, s.min[1] = own[1] >> 4;
        } else {
            s.sub[0] = load<int8_t>(own), s.sub[1] = load<int8_t>(own + 1);
        }
    }
    return s;
}

/* Value i of a unit, rounded once. */
template <int TYPE> __device__ inline float unit_value(const unit_scales &s, const int q[8], int i)
{
    int code = (int)(int8_t)(q[i / 4] >> (8 * (i % 4)));
    float product = s.ws * (float)(code * s.sub[i / 16]);
    if constexpr (has_two_min(TYPE)) {
        return product + s.wm * (float)s.min[i / 16];
    } else {
        return has_min(TYPE) ? product + s.wm : product;
    }
}

/* ---- Float types ----------------------------------------------------------------------------- */

__host__ __device__ constexpr int float_bytes(int type)
{
    return type == DTYPE_F32 ? 4 : type == DTYPE_F16 || type == DTYPE_BF16 ? 2 : 0;
}

/* Vectors of 16 bytes in a row, and where vector v of row r lies. */
__host__ __device__ inline int64_t float_vectors(int type, int64_t k)
{
    int per = 16 / float_bytes(type);
    return (k + per - 1) / per;
}

__host__ __device__ inline int64_t float_at(int64_t n_vector, int64_t row, int64_t v)
{
    return ((row / TILE_ROWS * n_vector + v) * TILE_ROWS + row % TILE_ROWS) * 16;
}

template <int TYPE> __device__ inline void float_values(int4 packed, float *value)
{
    uint32_t word[4] = {(uint32_t)packed.x, (uint32_t)packed.y, (uint32_t)packed.z,
                        (uint32_t)packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (TYPE == DTYPE_F32) {
            value[i] = float_from_bits(word[i]);
        } else if constexpr (TYPE == DTYPE_F16) {
            value[2 * i] = widen_half((uint16_t)word[i]);
            value[2 * i + 1] = widen_half((uint16_t)(word[i] >> 16));
        } else {
            value[2 * i] = float_from_bits(word[i] << 16);
            value[2 * i + 1] = float_from_bits(word[i] & 0xffff0000u);
        }
    }
}

/* A switch over the types that kernels are made for: CASE(type) for each. */
#define FOR_QUANTISED(type, CASE)                                                                  \
    switch (type) {                                                                                \
        CASE(DTYPE_Q8_0)                                                                           \
        CASE(DTYPE_Q4_0)                                                                           \
        CASE(DTYPE_Q4_1)                                                                           \
        CASE(DTYPE_Q5_0)                                                                           \
        CASE(DTYPE_Q5_1)                                                                           \
        CASE(DTYPE_Q2_K)                                                                           \
        CASE(DTYPE_Q3_K)                                                                           \
        CASE(DTYPE_Q4_K)                                                                           \
        CASE(DTYPE_Q5_K)                                                                           \
        CASE(DTYPE_Q6_K)                                                                           \
        CASE(DTYPE_IQ4_NL)                                                                         \
        CASE(DTYPE_IQ4_XS)                                                                         \
        CASE(DTYPE_MXFP4)                                                                          \
    default:                                                                                       \
        break;                                                                                     \
    }
#define FOR_FLOAT(type, CASE)                                                                      \
    switch (type) {                                                                                \
        CASE(DTYPE_F32)                                                                            \
        CASE(DTYPE_F16)                                                                            \
        CASE(DTYPE_BF16)                                                                           \
    default:                                                                                       \
        break;                                                                                     \
    }

#endif
