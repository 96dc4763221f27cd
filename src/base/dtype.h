/* dtype.h - how numbers are stored: GGUF's tensor types with their block layouts.
 *
 * The values are GGUF's (ggml.h, enum ggml_type; gguf specification, "Tensor types"). A block holds
 * `block` consecutive values of a row in `bytes` bytes, little-endian.
 */
#ifndef GRETA_BASE_DTYPE_H
#define GRETA_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_IQ4_NL = 20,
    DTYPE_IQ4_XS = 23,
    DTYPE_BF16 = 30,
    DTYPE_MXFP4 = 39,
    DTYPE_ACT_Q8 = 256, /* ours, never in a file: quantised activations, see kernel.h */
    DTYPE_I32 = 257,    /* ours: token ids in traces */
} dtype;

typedef struct dtype_traits {
    dtype type;
    const char *name;      /* "Q4_1", as GGUF tools spell it */
    uint32_t block, bytes; /* values per block, bytes per block */
    bool is_quantised;
} dtype_traits;

/* NULL: unknown or unsupported type number. */
const dtype_traits *dtype_find(uint32_t type);
/* "F32, F16, ..." the supported file types, for messages. */
const char *dtype_list(void);
const char *dtype_name(dtype type); /* "?" if unknown */

#endif
