/* weights.h - blocks of every weight type for kernel tests: where their scales lie.
 *
 * Any bytes are codes of some value; scales must be chosen, so that values are of a known size, or
 * hostile in a known way. What lies where is told here once more, apart from the kernels.
 */
#ifndef GRETA_TESTS_WEIGHTS_H
#define GRETA_TESTS_WEIGHTS_H

#include "base/dtype.h"
#include "kernel/half.h"

#include <string.h>

static const dtype weight_types[] = {
    DTYPE_F32,  DTYPE_F16,    DTYPE_BF16,   DTYPE_Q8_0,  DTYPE_Q4_0, DTYPE_Q4_1,
    DTYPE_Q5_0, DTYPE_Q5_1,   DTYPE_Q2_K,   DTYPE_Q3_K,  DTYPE_Q4_K, DTYPE_Q5_K,
    DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4,
};
enum { N_WEIGHT_TYPE = sizeof weight_types / sizeof *weight_types };

/* Numbers that scale a block: d, and m or dmin where there are minima. Of a float, the value. */
static inline int weight_n_scale(dtype type)
{
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q2_K || type == DTYPE_Q4_K ||
                   type == DTYPE_Q5_K
               ? 2
               : 1;
}

/* Writes scale i of a block: rounded to binary16; of MXFP4 only the number's exponent is kept. */
static inline void weight_scale_put(dtype type, uint8_t *block, int i, float number)
{
    uint32_t bits = bits_from_float(number);
    uint16_t half = half_from_float(number), top = (uint16_t)(bits >> 16);
    uint8_t exponent = (uint8_t)(bits >> 23);
    switch (type) {
    case DTYPE_F32:
        memcpy(block, &number, sizeof number);
        break;
    case DTYPE_BF16:
        memcpy(block, &top, sizeof top);
        break;
    case DTYPE_MXFP4:
        *block = exponent;
        break;
    case DTYPE_Q2_K:
        memcpy(block + 80 + 2 * i, &half, sizeof half);
        break;
    case DTYPE_Q3_K:
        memcpy(block + 108, &half, sizeof half);
        break;
    case DTYPE_Q6_K:
        memcpy(block + 208, &half, sizeof half);
        break;
    default:
        memcpy(block + 2 * i, &half, sizeof half);
        break;
    }
}

/* ---- Mistakes a kernel can make in a corner of one type: bytes it would take for others --------
 */

static void exponent_255_is_a_number(uint8_t *b)
{
    b[0] = b[0] == 255 ? 254 : b[0];
}

static void subnormal_scales_are_zero(uint8_t *b)
{
    if (b[0] < 2) {
        memset(b + 1, 0, 16);
    }
}

static void first_place_is_the_second(uint8_t *b)
{
    b[2] = (b[2] & 15) == 0 ? (uint8_t)(b[2] | 1) : b[2];
}

static void last_scale_lacks_high_bits(uint8_t *b)
{
    b[3] &= 0x3f;
}

static void last_minimum_is_its_neighbour(uint8_t *b)
{
    b[15] = (uint8_t)((b[15] & 15) | (b[14] & 0xf0));
}

static void last_third_bit_is_lost(uint8_t *b)
{
    b[31] &= 0x7f;
}

typedef struct weight_misread {
    const char *mistake;
    dtype type;
    void (*change)(uint8_t *block);
} weight_misread;

static const weight_misread weight_misreads[] = {
    {"E8M0 255 is a number", DTYPE_MXFP4, exponent_255_is_a_number},
    {"subnormal E8M0 is zero", DTYPE_MXFP4, subnormal_scales_are_zero},
    {"a place in the table", DTYPE_IQ4_NL, first_place_is_the_second},
    {"high bits of a scale", DTYPE_IQ4_XS, last_scale_lacks_high_bits},
    {"the other half's minimum", DTYPE_Q2_K, last_minimum_is_its_neighbour},
    {"a third bit", DTYPE_Q3_K, last_third_bit_is_lost},
};

#endif
