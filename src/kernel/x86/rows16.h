/* rows16.h - packed weights: 16 output rows interleaved, so that lanes of a vector are rows.
 *
 * A matrix is a sequence of tiles of 16 rows (the last padded with zero rows); a tile is a sequence
 * of units along K, so a matrix-vector product reads memory once, front to back. Bytes of a unit:
 *
 *   F32          1 value:   16 x f32
 *   F16, BF16    1 value:   16 x u16
 *   Q8_0         32 values: d 16 x f16, codes 512
 *   Q4_0         32 values: d, nibbles 256
 *   Q4_1         32 values: d, m, nibbles 256
 *   Q5_0         32 values: d, fifth bits 64, nibbles 256
 *   Q5_1         32 values: d, m, fifth bits 64, nibbles 256
 *   Q2_K         256 values: d, dmin; 8 x {16 x sc | m << 4 of both halves}; 16 x {two bits 64}
 *   Q3_K         256 values: d; 8 x {16 x sc i8 of both halves}; 8 x {third bits 64, two bits 128}
 *   Q4_K         256 values: d, dmin; 8 x {sc 16 x u8, mn 16 x u8}; 8 x nibbles 256
 *   Q5_K         256 values: the same; 8 x {fifth bits 64, nibbles 256}
 *   Q6_K         256 values: d; 8 x {sc 2 x 16 x i8}; 16 x {top bits 64, nibbles 128}
 *   IQ4_NL       32 values: d, nibbles 256
 *   IQ4_XS       256 values: d; 8 x {sc 16 x i8}; 8 x nibbles 256
 *   MXFP4        32 values: exponents 16 x u8, nibbles 256
 *
 * Everything stands where it is wanted first: a stream read in its own order comes from memory a
 * sixth faster than one with steps back (and two streams come slower than one).
 *
 * Codes are unsigned (code + offset: 128 for Q8_0, 8, 16, 32; 0 with minima; places in the table of
 * IQ4_NL, IQ4_XS and MXFP4 as they are), four consecutive values of a row to a 32-bit lane: group
 * g of a unit of 32 is values 4g .. 4g+3.
 *   codes        vector g, byte 4r + i: value 4g + i of row r
 *   nibbles      vector v, byte 4r + i: low nibble value 8v + i, high nibble value 8v + 4 + i
 *   fifth bits   word g, bit 4r + i: bit 4 of value 4g + i
 *   third bits   byte 4r + i, bit g: bit 2 of value 4g + i
 *   two bits     of half h of a unit, byte 4r + i, bits 2j, 2j + 1: bits 0, 1 of value 16h + 4j + i
 *   top bits     likewise bits 4, 5
 */
#ifndef GRETA_KERNEL_X86_ROWS16_H
#define GRETA_KERNEL_X86_ROWS16_H

#include "kernel/kernel.h"

#define ROWS16_LAYOUT 1

size_t rows16_bytes(dtype type, int64_t n_row, int64_t k);
void rows16_pack(const pack_args *a, int64_t tile_first, int64_t tile_last);

/* Values and bytes of a unit. */
static inline int64_t rows16_unit(dtype type)
{
    switch (type) {
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
        return 1;
    case DTYPE_Q2_K:
    case DTYPE_Q3_K:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
    case DTYPE_Q6_K:
    case DTYPE_IQ4_XS:
        return 256;
    default:
        return 32;
    }
}

static inline int64_t rows16_unit_bytes(dtype type)
{
    switch (type) {
    case DTYPE_F32:
        return 64;
    case DTYPE_F16:
    case DTYPE_BF16:
        return 32;
    case DTYPE_Q8_0:
        return 512 + 32;
    case DTYPE_Q4_0:
        return 256 + 32;
    case DTYPE_Q4_1:
        return 256 + 64;
    case DTYPE_Q5_0:
        return 256 + 64 + 32;
    case DTYPE_Q5_1:
        return 256 + 64 + 64;
    case DTYPE_Q2_K:
        return 64 + 256 + 8 * 128;
    case DTYPE_Q3_K:
        return 32 + 256 + 8 * (64 + 128);
    case DTYPE_Q4_K:
        return 64 + 256 + 8 * 256;
    case DTYPE_Q5_K:
        return 64 + 256 + 8 * (256 + 64);
    case DTYPE_Q6_K:
        return 32 + 256 + 8 * (256 + 128);
    case DTYPE_IQ4_NL:
        return 256 + 32;
    case DTYPE_IQ4_XS:
        return 32 + 128 + 8 * 256;
    case DTYPE_MXFP4:
        return 256 + 16;
    default:
        return 0;
    }
}

#endif
