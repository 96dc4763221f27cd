/* rows16.c - file layout to rows16 (rows16.h says what it is), in plain C.
 *
 * Run once per matrix, at load, by all threads over tiles. It reads blocks through block_read, as
 * the definition does, so the two cannot disagree about the file's layout.
 */
#include "kernel/x86/rows16.h"

#include "kernel/blocks.h"

#include <string.h>

#define ROWS PACK_ROWS

size_t rows16_bytes(dtype type, int64_t n_row, int64_t k)
{
    int64_t n_tile = (n_row + ROWS - 1) / ROWS;
    return (size_t)(n_tile * (k / rows16_unit(type)) * rows16_unit_bytes(type));
}

/* Codes of 32 values of 16 rows, as unsigned numbers below 256. */
typedef uint8_t codes[ROWS][BLOCK];

static void put_codes(uint8_t *out, codes c)
{
    for (int g = 0; g < 8; g++) {
        for (int r = 0; r < ROWS; r++) {
            memcpy(out + 64 * g + 4 * r, &c[r][4 * g], 4);
        }
    }
}

/* Values 8v .. 8v + 7 of a unit. */
static void put_nibbles(uint8_t *out, codes c, int v)
{
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < 4; i++) {
            uint8_t low = c[r][8 * v + i] & 15, high = c[r][8 * v + 4 + i] & 15;
            out[4 * r + i] = (uint8_t)(low | high << 4);
        }
    }
}

static void put_fifth_bits(uint8_t *out, codes c)
{
    for (int g = 0; g < 8; g++) {
        uint64_t word = 0;
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < 4; i++) {
                word |= (uint64_t)(c[r][4 * g + i] >> 4 & 1) << (4 * r + i);
            }
        }
        memcpy(out + 8 * g, &word, 8);
    }
}

/* Bits `shift` and the next one of half a unit: values 16h .. 16h + 15. */
static void put_two_bits(uint8_t *out, codes c, int h, int shift)
{
    memset(out, 0, 64);
    for (int j = 0; j < 4; j++) {
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < 4; i++) {
                uint8_t *byte = &out[4 * r + i];
                *byte = (uint8_t)(*byte | (c[r][16 * h + 4 * j + i] >> shift & 3) << (2 * j));
            }
        }
    }
}

static void put_third_bits(uint8_t *out, codes c)
{
    memset(out, 0, 64);
    for (int i = 0; i < BLOCK; i++) {
        for (int r = 0; r < ROWS; r++) {
            uint8_t *byte = &out[4 * r + i % 4];
            *byte = (uint8_t)(*byte | (c[r][i] >> 2 & 1) << (i / 4));
        }
    }
}

/* The unsigned codes of a unit of 32: what block_read gives plus the offset; scales apart. */
static void read_codes(const pack_args *a, int64_t tile, int64_t block, int offset, codes c)
{
    for (int r = 0; r < ROWS; r++) {
        int64_t row = tile * ROWS + r;
        if (row >= a->n_row) {
            memset(c[r], offset, BLOCK);
            continue;
        }
        block_values v;
        block_read(a->type, a->w + row * a->row_bytes, block, &v);
        for (int i = 0; i < BLOCK; i++) {
            c[r][i] = (uint8_t)(v.q[i] + offset);
        }
    }
}

/* Half-precision number at byte `at` of a block of every row; zero for rows past the end. */
static void put_halves(const pack_args *a, int64_t tile, int64_t block_at, uint8_t *out)
{
    for (int r = 0; r < ROWS; r++) {
        int64_t row = tile * ROWS + r;
        uint16_t half = row < a->n_row ? load_u16(a->w + row * a->row_bytes + block_at) : 0;
        memcpy(out + 2 * r, &half, 2);
    }
}

/* Nibbles of a unit, and the fifth bits before them where there are any. */
static void put_unit(dtype type, uint8_t *out, codes c)
{
    if (type == DTYPE_Q5_0 || type == DTYPE_Q5_1 || type == DTYPE_Q5_K) {
        put_fifth_bits(out, c);
        out += 64;
    }
    for (int v = 0; v < 4; v++) {
        put_nibbles(out + 64 * v, c, v);
    }
}

static void pack_small(const pack_args *a, int64_t tile, int64_t block, uint8_t *out)
{
    codes c;
    dtype t = a->type;
    int64_t at = block * dtype_find((uint32_t)t)->bytes;
    int offset = t == DTYPE_Q8_0 ? 128 : t == DTYPE_Q4_0 ? 8 : t == DTYPE_Q5_0 ? 16 : 0;
    read_codes(a, tile, block, offset, c);
    put_halves(a, tile, at, out);
    out += 32;
    if (block_has_min(t)) {
        put_halves(a, tile, at + 2, out);
        out += 32;
    }
    if (t == DTYPE_Q8_0) {
        put_codes(out, c);
    } else {
        put_unit(t, out, c);
    }
}

static void pack_k_super(const pack_args *a, int64_t tile, int64_t super, uint8_t *out)
{
    int64_t at = super * dtype_find((uint32_t)a->type)->bytes;
    put_halves(a, tile, at, out);
    put_halves(a, tile, at + 2, out + 32);
    for (int j = 0; j < 8; j++) {
        for (int r = 0; r < ROWS; r++) {
            int64_t row = tile * ROWS + r;
            int scale = 0, minimum = 0;
            if (row < a->n_row) {
                block_k_scale(a->w + row * a->row_bytes + at + 4, j, &scale, &minimum);
            }
            out[64 + 32 * j + r] = (uint8_t)scale;
            out[64 + 32 * j + 16 + r] = (uint8_t)minimum;
        }
        codes c;
        read_codes(a, tile, 8 * super + j, 0, c);
        put_unit(a->type, out + 320 + (a->type == DTYPE_Q5_K ? 320 : 256) * j, c);
    }
}

static void q6_k_codes(const uint8_t *block, int j, uint8_t *code)
{
    const uint8_t *low = block + 64 * (j / 4) + 32 * (j % 2), *high = block + 128 + 32 * (j / 4);
    for (int i = 0; i < BLOCK; i++) {
        int nibble = low[i] >> (j % 4 < 2 ? 0 : 4) & 15;
        code[i] = (uint8_t)(nibble | (high[i] >> (2 * (j % 4)) & 3) << 4);
    }
}

static void pack_q6_k(const pack_args *a, int64_t tile, int64_t super, uint8_t *out)
{
    int64_t at = super * 210;
    put_halves(a, tile, at + 208, out);
    for (int j = 0; j < 8; j++) {
        codes c;
        for (int r = 0; r < ROWS; r++) {
            int64_t row = tile * ROWS + r;
            const uint8_t *block = a->w + row * a->row_bytes + at;
            int is_row = row < a->n_row;
            out[32 + 32 * j + r] = is_row ? block[192 + 2 * j] : 0;
            out[32 + 32 * j + 16 + r] = is_row ? block[192 + 2 * j + 1] : 0;
            memset(c[r], 32, BLOCK);
            if (is_row) {
                q6_k_codes(block, j, c[r]);
            }
        }
        for (int h = 0; h < 2; h++) {
            uint8_t *half = out + 288 + 384 * j + 192 * h;
            put_two_bits(half, c, h, 4);
            put_nibbles(half + 64, c, 2 * h);
            put_nibbles(half + 128, c, 2 * h + 1);
        }
    }
}

/* Unit j of a row: its two scales as they are packed, and its codes. */
static void low_k_unit(dtype type, const uint8_t *block, int j, uint8_t scale[2], uint8_t *code)
{
    for (int h = 0; h < 2; h++) {
        scale[h] = type == DTYPE_Q2_K ? block[2 * j + h]
                                      : (uint8_t)block_q3_k_scale(block + 96, 2 * j + h);
    }
    for (int i = 0; i < BLOCK; i++) {
        code[i] = (uint8_t)(type == DTYPE_Q2_K ? block_two_bits(block + 16, j, i)
                                               : block_q3_k_code(block, j, i));
    }
}

/* Q2_K and Q3_K. */
static void pack_low_k(const pack_args *a, int64_t tile, int64_t super, uint8_t *out)
{
    int is_q2 = a->type == DTYPE_Q2_K;
    int64_t at = super * dtype_find((uint32_t)a->type)->bytes;
    uint8_t *scales = out + (is_q2 ? 64 : 32), *bits = scales + 256;
    put_halves(a, tile, at + (is_q2 ? 80 : 108), out);
    if (is_q2) {
        put_halves(a, tile, at + 82, out + 32);
    }
    for (int j = 0; j < 8; j++) {
        codes c;
        memset(c, 0, sizeof c);
        memset(scales + 32 * j, 0, 32);
        for (int r = 0; r < ROWS && tile * ROWS + r < a->n_row; r++) {
            const uint8_t *block = a->w + (tile * ROWS + r) * a->row_bytes + at;
            low_k_unit(a->type, block, j, scales + 32 * j + 2 * r, c[r]);
        }
        if (!is_q2) {
            put_third_bits(bits, c);
            bits += 64;
        }
        put_two_bits(bits, c, 0, 0);
        put_two_bits(bits + 64, c, 1, 0);
        bits += 128;
    }
}

/* 32 places in a codebook per row, from byte `at` of it. */
static void put_places(const pack_args *a, int64_t tile, int64_t at, uint8_t *out)
{
    codes c;
    memset(c, 0, sizeof c);
    for (int r = 0; r < ROWS && tile * ROWS + r < a->n_row; r++) {
        const uint8_t *packed = a->w + (tile * ROWS + r) * a->row_bytes + at;
        for (int i = 0; i < 16; i++) {
            c[r][i] = packed[i] & 15;
            c[r][i + 16] = packed[i] >> 4;
        }
    }
    put_unit(a->type, out, c);
}

/* A unit of a codebook type: IQ4_NL, MXFP4 or IQ4_XS. */
static void pack_codebook(const pack_args *a, int64_t tile, int64_t unit, uint8_t *out)
{
    int64_t at = unit * dtype_find((uint32_t)a->type)->bytes;
    if (a->type == DTYPE_MXFP4) {
        for (int r = 0; r < ROWS; r++) {
            int64_t row = tile * ROWS + r;
            out[r] = row < a->n_row ? a->w[row * a->row_bytes + at] : 0;
        }
        put_places(a, tile, at + 1, out + 16);
        return;
    }
    put_halves(a, tile, at, out);
    if (a->type == DTYPE_IQ4_NL) {
        put_places(a, tile, at + 2, out + 32);
        return;
    }
    for (int j = 0; j < 8; j++) {
        for (int r = 0; r < ROWS; r++) {
            int64_t row = tile * ROWS + r;
            const uint8_t *block = a->w + row * a->row_bytes + at;
            out[32 + 16 * j + r] = row < a->n_row ? (uint8_t)block_iq4_xs_scale(block, j) : 0;
        }
        put_places(a, tile, at + 8 + 16 * j, out + 160 + 256 * j);
    }
}

static void pack_float(const pack_args *a, int64_t tile, uint8_t *out)
{
    int64_t size = a->type == DTYPE_F32 ? 4 : 2;
    memset(out, 0, (size_t)(ROWS * size * a->k));
    for (int64_t r = 0; r < ROWS && tile * ROWS + r < a->n_row; r++) {
        const uint8_t *row = a->w + (tile * ROWS + r) * a->row_bytes;
        for (int64_t k = 0; k < a->k; k++) {
            memcpy(out + (k * ROWS + r) * size, row + k * size, (size_t)size);
        }
    }
}

void rows16_pack(const pack_args *a, int64_t tile_first, int64_t tile_last)
{
    int64_t n_unit = a->k / rows16_unit(a->type), unit_bytes = rows16_unit_bytes(a->type);
    for (int64_t tile = tile_first; tile < tile_last; tile++) {
        uint8_t *out = a->packed + tile * n_unit * unit_bytes;
        if (rows16_unit(a->type) == 1) {
            pack_float(a, tile, out);
            continue;
        }
        for (int64_t u = 0; u < n_unit; u++) {
            uint8_t *unit = out + u * unit_bytes;
            if (block_is_codebook(a->type)) {
                pack_codebook(a, tile, u, unit);
            } else if (rows16_unit(a->type) == 32) {
                pack_small(a, tile, u, unit);
            } else if (a->type == DTYPE_Q2_K || a->type == DTYPE_Q3_K) {
                pack_low_k(a, tile, u, unit);
            } else if (a->type == DTYPE_Q6_K) {
                pack_q6_k(a, tile, u, unit);
            } else {
                pack_k_super(a, tile, u, unit);
            }
        }
    }
}
