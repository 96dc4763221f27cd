/* repack.cuh - rows of a file into the planes and tiles of layout.cuh; blocks: ggml-common.h. */
#ifndef GRETA_KERNEL_GPU_REPACK_CUH
#define GRETA_KERNEL_GPU_REPACK_CUH

#include "kernel/gpu/layout.cuh"

/* A unit as the file has it: codes before bias and sub-scale, and the bytes of its planes. */
struct raw_unit {
    uint8_t code[UNIT], scale[4], super[4];
};

__device__ inline void raw_bytes(uint8_t *to, const uint8_t *from, int n)
{
    for (int i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

__device__ inline void raw_nibbles(raw_unit *u, const uint8_t *packed)
{
    for (int i = 0; i < 16; i++) {
        u->code[i] = packed[i] & 15;
        u->code[i + 16] = packed[i] >> 4;
    }
}

/* Bit i of four bytes is the fifth of code i. */
__device__ inline void raw_fifth(raw_unit *u, const uint8_t *bits)
{
    for (int i = 0; i < UNIT; i++) {
        u->code[i] |= (bits[i / 8] >> (i % 8) & 1) << 4;
    }
}

/* Legacy blocks: scales (b.scale bytes), fifth bits, codes. */
__device__ inline void raw_legacy(raw_unit *u, int type, const uint8_t *block)
{
    unit_bytes b = unit_bytes_of(type);
    raw_bytes(u->scale, block, b.scale);
    if (type == DTYPE_Q8_0) {
        raw_bytes(u->code, block + 2, UNIT);
        return;
    }
    raw_nibbles(u, block + b.scale + b.high);
    if (b.high) {
        raw_fifth(u, block + b.scale);
    }
}

/* Six bits of scale and of minimum j of 8, in 12 bytes (Q4_K, Q5_K). */
__device__ inline void raw_k_scales(raw_unit *u, const uint8_t *s, int j)
{
    if (j < 4) {
        u->scale[0] = s[j] & 63;
        u->scale[1] = s[j + 4] & 63;
    } else {
        u->scale[0] = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        u->scale[1] = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* {d, dmin, scales[12], [qh[32],] qs[128]} */
__device__ inline void raw_q45_k(raw_unit *u, int type, const uint8_t *b, int j)
{
    const uint8_t *packed = b + (type == DTYPE_Q5_K ? 48 : 16) + 32 * (j / 2);
    raw_bytes(u->super, b, 4);
    raw_k_scales(u, b + 4, j);
    for (int i = 0; i < UNIT; i++) {
        u->code[i] = packed[i] >> (4 * (j & 1)) & 15;
        if (type == DTYPE_Q5_K) {
            u->code[i] |= (b[16 + i] >> j & 1) << 4;
        }
    }
}

/* {ql[128], qh[64], scales int8[16], d} */
__device__ inline void raw_q6_k(raw_unit *u, const uint8_t *b, int j)
{
    int half = j / 4, quarter = j % 4;
    const uint8_t *low = b + 64 * half + 32 * (quarter & 1), *high = b + 128 + 32 * half;
    raw_bytes(u->super, b + 208, 2);
    raw_bytes(u->scale, b + 192 + 2 * j, 2);
    for (int i = 0; i < UNIT; i++) {
        u->code[i] = (low[i] >> (quarter < 2 ? 0 : 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
    }
}

/* {scales[16], qs[64], d, dmin} */
__device__ inline void raw_q2_k(raw_unit *u, const uint8_t *b, int j)
{
    raw_bytes(u->super, b + 80, 4);
    raw_bytes(u->scale, b + 2 * j, 2);
    for (int i = 0; i < UNIT; i++) {
        u->code[i] = b[16 + 32 * (j / 4) + i] >> (2 * (j % 4)) & 3;
    }
}

/* {hmask[32], qs[64], scales[12], d} */
__device__ inline void raw_q3_k(raw_unit *u, const uint8_t *b, int j)
{
    const uint8_t *s = b + 96;
    raw_bytes(u->super, b + 108, 2);
    for (int h = 0; h < 2; h++) {
        int i = 2 * j + h, low = s[i % 8] >> (4 * (i / 8)) & 15;
        int high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        u->scale[h] = (uint8_t)((low | high << 4) - 32);
    }
    for (int i = 0; i < UNIT; i++) {
        u->code[i] = (b[32 + 32 * (j / 4) + i] >> (2 * (j % 4)) & 3) | (b[i] >> j & 1) << 2;
    }
}

/* {d, scales_h, scales_l[4], qs[128]} */
__device__ inline void raw_iq4_xs(raw_unit *u, const uint8_t *b, int j)
{
    int low = b[4 + j / 2] >> (4 * (j & 1)) & 15, high = load_u16(b + 2) >> (2 * j) & 3;
    raw_bytes(u->super, b, 2);
    u->scale[0] = (uint8_t)((low | high << 4) - 32);
    raw_nibbles(u, b + 8 + 16 * j);
}

__device__ inline void raw_read(raw_unit *u, int type, const uint8_t *row, int64_t index)
{
    int64_t super = index / 8;
    int j = (int)(index % 8);
    unit_bytes b = unit_bytes_of(type);
    switch (type) {
    case DTYPE_Q2_K:
        raw_q2_k(u, row + 84 * super, j);
        break;
    case DTYPE_Q3_K:
        raw_q3_k(u, row + 110 * super, j);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        raw_q45_k(u, type, row + (type == DTYPE_Q4_K ? 144 : 176) * super, j);
        break;
    case DTYPE_Q6_K:
        raw_q6_k(u, row + 210 * super, j);
        break;
    case DTYPE_IQ4_XS:
        raw_iq4_xs(u, row + 136 * super, j);
        break;
    default:
        raw_legacy(u, type, row + (b.code + b.high + b.scale) * index);
        break;
    }
}

/* ---- Writing --------------------------------------------------------------------------------- */

__device__ inline void pack_codes(const raw_unit *u, int type, uint8_t *code)
{
    bool is_book = type == DTYPE_IQ4_NL || type == DTYPE_IQ4_XS || type == DTYPE_MXFP4;
    int n = unit_bytes_of(type).code;
    for (int i = 0; i < n; i++) {
        const uint8_t *c = u->code;
        if (n == 32) {
            code[i] = c[i];
        } else if (n == 16) {
            code[i] = is_book ? c[2 * i] | c[2 * i + 1] << 4 : (c[i] & 15) | (c[i + 16] & 15) << 4;
        } else {
            c += i / 4 * 16 + i % 4;
            code[i] = (c[0] & 3) | (c[4] & 3) << 2 | (c[8] & 3) << 4 | (c[12] & 3) << 6;
        }
    }
}

__device__ inline void pack_high(const raw_unit *u, int type, uint8_t *high)
{
    int n = unit_bytes_of(type).high, low = unit_bytes_of(type).code == 8 ? 2 : 4;
    for (int i = 0; i < n; i++) {
        high[i] = 0;
        if (n == 4) {
            for (int bit = 0; bit < 8; bit++) {
                high[i] |= (u->code[8 * i + bit] >> low & 1) << bit;
            }
        } else {
            const uint8_t *c = u->code + i / 4 * 16 + i % 4;
            for (int j = 0; j < 4; j++) {
                high[i] |= (c[4 * j] >> low & 3) << (2 * j);
            }
        }
    }
}

struct repack_args {
    int type;
    const uint8_t *raw;
    int64_t row_bytes, first, n; /* rows of raw, which are rows `first` .. of the matrix */
    uint8_t *data;
    int64_t n_row, k;
};

/* A thread has a unit. */
__global__ void repack_units(repack_args a)
{
    let_next();
    after_last();
    int64_t n_unit = a.k / UNIT, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.n * n_unit) {
        return;
    }
    raw_unit u;
    raw_read(&u, a.type, a.raw + i / n_unit * a.row_bytes, i % n_unit);
    planes p = planes_of(a.type, a.data, a.n_row, a.k);
    unit_bytes b = unit_bytes_of(a.type);
    int64_t at = a.first * n_unit + i;
    pack_codes(&u, a.type, (uint8_t *)p.code + at * b.code);
    pack_high(&u, a.type, (uint8_t *)p.high + at * b.high);
    raw_bytes((uint8_t *)p.scale + at * b.scale, u.scale, b.scale);
    if (at % 8 == 0) {
        raw_bytes((uint8_t *)p.super + at / 8 * b.super, u.super, b.super);
    }
}

/* A thread has a vector of 16 bytes; what is beyond the last value or row is zero. */
__global__ void repack_floats(repack_args a)
{
    let_next();
    after_last();
    int64_t n_vector = float_vectors(a.type, a.k), rows = (a.n + TILE_ROWS - 1) / TILE_ROWS;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, r = i / n_vector, v = i % n_vector;
    if (r >= rows * TILE_ROWS) {
        return;
    }
    int64_t row_bytes = a.k * float_bytes(a.type), from = v * 16;
    uint8_t *to = a.data + float_at(n_vector, a.first + r, v);
    for (int b = 0; b < 16; b++) {
        bool is_there = r < a.n && from + b < row_bytes;
        to[b] = is_there ? a.raw[r * a.row_bytes + from + b] : 0;
    }
}

#endif
