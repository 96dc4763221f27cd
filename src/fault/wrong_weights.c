/* wrong_weights.c - rows and blocks of weights read wrongly.
 *
 * Blocks are edited as bytes, by the layouts of ggml-common.h (block_q4_0 ... block_q6_K): scales
 * first in most types, last in Q2_K, Q3_K and Q6_K.
 */
#include "fault/wrong_weights.h"

#include <string.h>

/* ---- Rows -------------------------------------------------------------------------------------
 */

/* Rows of a head in the order of the other rotary pairing: neighbours for halves (Llama's converter
 * makes the one of the other; llama.cpp 7481 left it out). */
int64_t row_other_pairing(int64_t i, int64_t n, int64_t dim)
{
    int64_t at = dim > 0 ? i % dim : 0;
    if (dim < 4 || dim % 2 != 0 || n % dim != 0) {
        return -1;
    }
    return i - at + (at % 2 == 0 ? at / 2 : dim / 2 + at / 2);
}

/* The other way round: halves for neighbours. */
int64_t row_other_pairing_back(int64_t i, int64_t n, int64_t dim)
{
    int64_t at = dim > 0 ? i % dim : 0;
    if (dim < 4 || dim % 2 != 0 || n % dim != 0) {
        return -1;
    }
    return i - at + (at < dim / 2 ? 2 * at : 2 * (at - dim / 2) + 1);
}

int64_t row_heads_reversed(int64_t i, int64_t n, int64_t dim)
{
    return dim < 1 || n % dim != 0 ? -1 : (n / dim - 1 - i / dim) * dim + i % dim;
}

int64_t row_before(int64_t i, int64_t n, int64_t dim)
{
    (void)dim;
    return (i + n - 1) % n;
}

int64_t row_reversed(int64_t i, int64_t n, int64_t dim)
{
    (void)dim;
    return n - 1 - i;
}

/* An index that wraps at half of the rows. */
int64_t row_first_for_late(int64_t i, int64_t n, int64_t dim)
{
    (void)dim;
    return i % (n / 2 + 1);
}

/* ---- Blocks -----------------------------------------------------------------------------------
 */

/* Bytes of codes in a block: where they start and how many. */
typedef struct block_part {
    int at, n;
} block_part;

static block_part nibbles_of(dtype type)
{
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        return (block_part){2, 16};
    case DTYPE_Q4_1:
        return (block_part){4, 16};
    case DTYPE_Q5_0:
        return (block_part){6, 16};
    case DTYPE_Q5_1:
        return (block_part){8, 16};
    case DTYPE_Q4_K:
        return (block_part){16, 128};
    case DTYPE_Q5_K:
        return (block_part){48, 128};
    case DTYPE_Q6_K:
        return (block_part){0, 128};
    case DTYPE_IQ4_XS:
        return (block_part){8, 128};
    case DTYPE_MXFP4:
        return (block_part){1, 16};
    default:
        return (block_part){0, 0};
    }
}

bool block_nibbles_swapped(dtype type, uint8_t *block, bool is_first)
{
    (void)is_first;
    block_part part = nibbles_of(type);
    for (int i = part.at; i < part.at + part.n; i++) {
        block[i] = (uint8_t)(block[i] << 4 | block[i] >> 4);
    }
    return part.n > 0;
}

bool block_codes_reversed(dtype type, uint8_t *block, bool is_first)
{
    (void)is_first;
    block_part part = type == DTYPE_Q8_0 ? (block_part){2, 32} : nibbles_of(type);
    for (int i = 0; i < part.n / 2; i++) {
        uint8_t *low = block + part.at + i, *high = block + part.at + part.n - 1 - i, kept = *low;
        *low = *high;
        *high = kept;
    }
    return part.n > 0;
}

/* Where the scale of a block lies. */
static int scale_of(dtype type)
{
    return type == DTYPE_Q6_K ? 208 : type == DTYPE_Q3_K ? 108 : type == DTYPE_Q2_K ? 80 : 0;
}

bool block_scale_min_swapped(dtype type, uint8_t *block, bool is_first)
{
    (void)is_first;
    bool has_min = type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q2_K ||
                   type == DTYPE_Q4_K || type == DTYPE_Q5_K;
    uint8_t kept[2], *scale = block + scale_of(type);
    if (has_min) {
        memcpy(kept, scale, 2);
        memcpy(scale, scale + 2, 2);
        memcpy(scale + 2, kept, 2);
    }
    return has_min;
}

bool block_scale_of_before(dtype type, uint8_t *block, bool is_first)
{
    const dtype_traits *traits = dtype_find((uint32_t)type);
    uint8_t *scale = block + scale_of(type);
    if (traits->is_quantised && !is_first) {
        memcpy(scale, scale - traits->bytes, type == DTYPE_MXFP4 ? 1 : 2);
    }
    return traits->is_quantised;
}

/* The scales of the parts of a block of 256, one part further on. */
bool block_sub_scales_shifted(dtype type, uint8_t *block, bool is_first)
{
    (void)is_first;
    block_part part = {0, 0};
    if (type == DTYPE_Q6_K) {
        part = (block_part){192, 16};
    } else if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
        part = (block_part){4, 4}; /* low six bits: scales of parts 0..3 */
    }
    if (part.n > 0) {
        uint8_t first = block[part.at];
        memmove(block + part.at, block + part.at + 1, (size_t)(part.n - 1));
        block[part.at + part.n - 1] = first;
    }
    return part.n > 0;
}

bool block_fifth_bits_missing(dtype type, uint8_t *block, bool is_first)
{
    (void)is_first;
    block_part part = {0, 0};
    if (type == DTYPE_Q5_0 || type == DTYPE_Q5_1) {
        part = (block_part){type == DTYPE_Q5_0 ? 2 : 4, 4};
    } else if (type == DTYPE_Q5_K) {
        part = (block_part){16, 32};
    }
    memset(block + part.at, 0, (size_t)part.n);
    return part.n > 0;
}
