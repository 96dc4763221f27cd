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
    DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0,   DTYPE_Q4_1,   DTYPE_Q5_0,
    DTYPE_Q5_1, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4,
};
enum { N_WEIGHT_TYPE = sizeof weight_types / sizeof *weight_types };

/* Numbers that scale a block: d, and m or dmin where there are minima. Of a float, the value. */
static inline int weight_n_scale(dtype type)
{
    return type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K ? 2
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
    case DTYPE_Q6_K:
        memcpy(block + 208, &half, sizeof half);
        break;
    default:
        memcpy(block + 2 * i, &half, sizeof half);
        break;
    }
}

#endif
