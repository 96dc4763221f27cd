/* blocks.h - the quantised weight blocks of GGUF as integers and scales.
 *
 * Every quantised type is read in units of 32 consecutive values of a row:
 *     value[i] = ws * q[i]        or        value[i] = ws * q[i] + wm      (has_min)
 * where ws * q[i] is exact in binary32 for every type, so a value is rounded once, by the addition.
 * Types with one sub-scale per 32 (Q4_K, Q5_K) have ws = d * sc and wm = -(dmin * m), exact; those
 * with two per 32 (Q2_K, Q3_K, Q6_K) have ws = d and q[i] = sc * code. Q2_K has two minima as well:
 * wm = -dmin, and the minimum of a half is wm * m[half], exact. Codes of IQ4_NL, IQ4_XS and MXFP4
 * are places in a table of 16 integers. Layouts: ggml-common.h (block_q4_0 ... block_mxfp4).
 */
#ifndef GRETA_KERNEL_BLOCKS_H
#define GRETA_KERNEL_BLOCKS_H

#include "base/dtype.h"
#include "kernel/half.h"

#define BLOCK 32

typedef struct block_values {
    int16_t q[BLOCK];
    float ws, wm; /* wm 0 without minima */
    int16_t m[2]; /* Q2_K: of each half */
} block_values;

/* One minimum per half of a unit. */
static inline int block_has_two_min(dtype type)
{
    return type == DTYPE_Q2_K;
}

static inline int block_has_min(dtype type)
{
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K ||
           block_has_two_min(type);
}

/* Low nibbles are values 0..15, high nibbles 16..31. */
static inline void block_nibbles(const uint8_t *packed, int16_t bias, int16_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = (int16_t)((packed[i] & 15) - bias);
        q[i + 16] = (int16_t)((packed[i] >> 4) - bias);
    }
}

/* The fifth bits: bit i of a 32-bit word belongs to value i. */
static inline void block_fifth_bits(const uint8_t *packed, int16_t *q)
{
    uint32_t high;
    memcpy(&high, packed, sizeof high);
    for (int i = 0; i < 32; i++) {
        q[i] = (int16_t)(q[i] + (int16_t)(((high >> i) & 1u) << 4));
    }
}

static inline void block_q4_0(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = 0;
    block_nibbles(b + 2, 8, v->q);
}

static inline void block_q4_1(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = half_to_float(load_u16(b + 2));
    block_nibbles(b + 4, 0, v->q);
}

static inline void block_q5_0(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = 0;
    block_nibbles(b + 6, 16, v->q);
    block_fifth_bits(b + 2, v->q);
}

static inline void block_q5_1(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = half_to_float(load_u16(b + 2));
    block_nibbles(b + 8, 0, v->q);
    block_fifth_bits(b + 4, v->q);
}

static inline void block_q8_0(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = 0;
    for (int i = 0; i < 32; i++) {
        v->q[i] = (int8_t)b[2 + i];
    }
}

/* Scale and minimum j of 8, six bits each, packed in 12 bytes (Q4_K and Q5_K). */
static inline void block_k_scale(const uint8_t *s, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
        *minimum = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
    }
}

/* Unit j of 8 of a 256-value super-block: {d, dmin, scales[12], [qh[32],] qs[128]}. */
static inline void block_q4_k(const uint8_t *b, int j, block_values *v)
{
    int scale, minimum;
    block_k_scale(b + 4, j, &scale, &minimum);
    v->ws = half_to_float(load_u16(b)) * (float)scale;
    v->wm = -(half_to_float(load_u16(b + 2)) * (float)minimum);
    const uint8_t *packed = b + 16 + 32 * (j / 2);
    int shift = 4 * (j & 1);
    for (int i = 0; i < 32; i++) {
        v->q[i] = (int16_t)((packed[i] >> shift) & 15);
    }
}

static inline void block_q5_k(const uint8_t *b, int j, block_values *v)
{
    int scale, minimum;
    block_k_scale(b + 4, j, &scale, &minimum);
    v->ws = half_to_float(load_u16(b)) * (float)scale;
    v->wm = -(half_to_float(load_u16(b + 2)) * (float)minimum);
    const uint8_t *fifth = b + 16;
    const uint8_t *packed = b + 48 + 32 * (j / 2);
    int shift = 4 * (j & 1);
    for (int i = 0; i < 32; i++) {
        v->q[i] = (int16_t)(((packed[i] >> shift) & 15) | (((fifth[i] >> j) & 1) << 4));
    }
}

/* The low two bits of the codes of unit j, 32 bytes for four units (Q2_K and Q3_K). */
static inline int block_two_bits(const uint8_t *packed, int j, int i)
{
    return packed[32 * (j / 4) + i] >> (2 * (j % 4)) & 3;
}

/* {scales[16], qs[64], d, dmin}: a scale is sc | m << 4. */
static inline void block_q2_k(const uint8_t *b, int j, block_values *v)
{
    v->ws = half_to_float(load_u16(b + 80));
    v->wm = -half_to_float(load_u16(b + 82));
    for (int half = 0; half < 2; half++) {
        v->m[half] = b[2 * j + half] >> 4;
    }
    for (int i = 0; i < 32; i++) {
        v->q[i] = (int16_t)((b[2 * j + i / 16] & 15) * block_two_bits(b + 16, j, i));
    }
}

/* Scale i of 16 of Q3_K, -32..31: low four bits in s[i % 8], high two in s[8 + i % 4]. */
static inline int block_q3_k_scale(const uint8_t *s, int i)
{
    int low = s[i % 8] >> (4 * (i / 8)) & 15, high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    return (low | high << 4) - 32;
}

/* Code i of unit j, 0..7: {hmask[32], qs[64], ..}, bit j of a byte of hmask is the third bit. */
static inline int block_q3_k_code(const uint8_t *b, int j, int i)
{
    return block_two_bits(b + 32, j, i) | (b[i] >> j & 1) << 2;
}

/* {hmask[32], qs[64], scales[12], d} */
static inline void block_q3_k(const uint8_t *b, int j, block_values *v)
{
    v->ws = half_to_float(load_u16(b + 108));
    v->wm = 0;
    for (int i = 0; i < 32; i++) {
        int scale = block_q3_k_scale(b + 96, 2 * j + i / 16);
        v->q[i] = (int16_t)(scale * (block_q3_k_code(b, j, i) - 4));
    }
}

/* {ql[128], qh[64], scales int8[16], d}. Unit j lies in half j / 4, quarter j % 4. */
static inline void block_q6_k(const uint8_t *b, int j, block_values *v)
{
    int half = j / 4, quarter = j % 4;
    const uint8_t *low = b + 64 * half + 32 * (quarter & 1);
    const uint8_t *high = b + 128 + 32 * half;
    const int8_t *scale = (const int8_t *)b + 192 + 8 * half + 2 * quarter;
    int low_shift = quarter < 2 ? 0 : 4, high_shift = 2 * quarter;
    v->ws = half_to_float(load_u16(b + 208));
    v->wm = 0;
    for (int i = 0; i < 32; i++) {
        int code = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
        v->q[i] = (int16_t)((code - 32) * scale[i / 16]);
    }
}

/* The tables of the codebook types: ggml-common.h, kvalues_iq4nl; and twice the values of E2M1 (OCP
 * Microscaling Formats 1.0, 5.3.3), so that they are integers. Code 8, E2M1's -0, is +0 here. */
static const int8_t block_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t block_e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static inline int block_is_codebook(dtype type)
{
    return type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS || type == DTYPE_MXFP4;
}

static inline const int8_t *block_codebook(dtype type)
{
    return type == DTYPE_MXFP4 ? block_e2m1 : block_iq4;
}

/* Half of an E8M0 scale, 2^(e - 128), subnormal for e < 2; 255 is NaN (OCP Microscaling Formats
 * 1.0, 5.4.1). */
static inline float block_e8m0_half(uint8_t e)
{
    uint32_t bits = e < 2 ? (uint32_t)0x00200000 << e : (uint32_t)(e - 1) << 23;
    return float_from_bits(e == 255 ? 0x7fc00000u : bits);
}

/* 32 codes in 16 bytes, low nibbles first, looked up. */
static inline void block_look_up(const uint8_t *packed, const int8_t *table, int16_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = table[packed[i] & 15];
        q[i + 16] = table[packed[i] >> 4];
    }
}

static inline void block_iq4_nl(const uint8_t *b, block_values *v)
{
    v->ws = half_to_float(load_u16(b));
    v->wm = 0;
    block_look_up(b + 2, block_iq4, v->q);
}

/* Scale j of 8 of IQ4_XS, -32..31: low four bits in b[4 + j / 2], high two in the word at b + 2. */
static inline int block_iq4_xs_scale(const uint8_t *b, int j)
{
    int low = b[4 + j / 2] >> (4 * (j & 1)) & 15, high = load_u16(b + 2) >> (2 * j) & 3;
    return (low | high << 4) - 32;
}

/* {d, scales_h, scales_l[4], qs[128]} */
static inline void block_iq4_xs(const uint8_t *b, int j, block_values *v)
{
    v->ws = half_to_float(load_u16(b)) * (float)block_iq4_xs_scale(b, j);
    v->wm = 0;
    block_look_up(b + 8 + 16 * j, block_iq4, v->q);
}

static inline void block_mxfp4(const uint8_t *b, block_values *v)
{
    v->ws = block_e8m0_half(b[0]);
    v->wm = 0;
    block_look_up(b + 1, block_e2m1, v->q);
}

/* Unit `index` (values 32*index ..) of a row of a quantised type. */
static inline void block_read(dtype type, const uint8_t *row, int64_t index, block_values *v)
{
    int unit = (int)(index & 7);
    int64_t super = index >> 3;
    switch (type) {
    case DTYPE_Q4_0:
        block_q4_0(row + 18 * index, v);
        break;
    case DTYPE_Q4_1:
        block_q4_1(row + 20 * index, v);
        break;
    case DTYPE_Q5_0:
        block_q5_0(row + 22 * index, v);
        break;
    case DTYPE_Q5_1:
        block_q5_1(row + 24 * index, v);
        break;
    case DTYPE_Q8_0:
        block_q8_0(row + 34 * index, v);
        break;
    case DTYPE_Q2_K:
        block_q2_k(row + 84 * super, unit, v);
        break;
    case DTYPE_Q3_K:
        block_q3_k(row + 110 * super, unit, v);
        break;
    case DTYPE_Q4_K:
        block_q4_k(row + 144 * super, unit, v);
        break;
    case DTYPE_Q5_K:
        block_q5_k(row + 176 * super, unit, v);
        break;
    case DTYPE_Q6_K:
        block_q6_k(row + 210 * super, unit, v);
        break;
    case DTYPE_IQ4_NL:
        block_iq4_nl(row + 18 * index, v);
        break;
    case DTYPE_IQ4_XS:
        block_iq4_xs(row + 136 * super, unit, v);
        break;
    case DTYPE_MXFP4:
        block_mxfp4(row + 17 * index, v);
        break;
    default:
        memset(v, 0, sizeof *v);
        break; /* float types have no blocks: callers dispatch before */
    }
}

/* Rounded once to binary32: the products are exact. */
static inline void block_to_floats(dtype type, const block_values *v, float *y)
{
    if (block_has_two_min(type)) {
        for (int i = 0; i < BLOCK; i++) {
            y[i] = v->ws * (float)v->q[i] + v->wm * (float)v->m[i / 16];
        }
    } else if (block_has_min(type)) {
        for (int i = 0; i < BLOCK; i++) {
            y[i] = v->ws * (float)v->q[i] + v->wm;
        }
    } else {
        for (int i = 0; i < BLOCK; i++) {
            y[i] = v->ws * (float)v->q[i];
        }
    }
}

#endif
