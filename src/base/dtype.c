/* dtype.c - the block layouts, as data.
 *
 * Sizes are those of ggml-common.h. Checked here once more from their parts (scales, minima, high
 * bits, codes), so that a typing error in the table does not compile.
 */
#include "base/dtype.h"

#include <assert.h>
#include <stddef.h>

enum { HALF = 2 }; /* bytes of an f16 scale */

static_assert(HALF + 32 / 2 == 18, "Q4_0: d, 4-bit codes");
static_assert(2 * HALF + 32 / 2 == 20, "Q4_1: d, m, 4-bit codes");
static_assert(HALF + 32 / 8 + 32 / 2 == 22, "Q5_0: d, fifth bits, 4-bit codes");
static_assert(2 * HALF + 32 / 8 + 32 / 2 == 24, "Q5_1: d, m, fifth bits, 4-bit codes");
static_assert(HALF + 32 == 34, "Q8_0: d, 8-bit codes");
static_assert(16 + 256 / 4 + 2 * HALF == 84, "Q2_K: 4-bit scales and minima, 2-bit codes, d, dmin");
static_assert(256 / 8 + 256 / 4 + 12 + HALF == 110, "Q3_K: third bits, low 2, 6-bit scales, d");
static_assert(2 * HALF + 8 * 2 * 6 / 8 + 256 / 2 == 144, "Q4_K: d, dmin, 6-bit scales and minima");
static_assert(144 + 256 / 8 == 176, "Q5_K: as Q4_K, fifth bits");
static_assert(256 / 2 + 256 / 4 + 16 + HALF == 210, "Q6_K: low 4, high 2 bits, 8-bit scales, d");
static_assert(HALF + 32 / 2 == 18, "IQ4_NL: d, 4-bit codes");
static_assert(HALF + 8 * 6 / 8 + 256 / 2 == 136, "IQ4_XS: d, 6-bit scales, 4-bit codes");
static_assert(1 + 32 / 2 == 17, "MXFP4: exponent, 4-bit codes");

static const dtype_traits traits[] = {
    {DTYPE_F32, "F32", 1, 4, false},
    {DTYPE_F16, "F16", 1, 2, false},
    {DTYPE_BF16, "BF16", 1, 2, false},
    {DTYPE_Q8_0, "Q8_0", 32, 34, true},
    {DTYPE_Q4_0, "Q4_0", 32, 18, true},
    {DTYPE_Q4_1, "Q4_1", 32, 20, true},
    {DTYPE_Q5_0, "Q5_0", 32, 22, true},
    {DTYPE_Q5_1, "Q5_1", 32, 24, true},
    {DTYPE_Q2_K, "Q2_K", 256, 84, true},
    {DTYPE_Q3_K, "Q3_K", 256, 110, true},
    {DTYPE_Q4_K, "Q4_K", 256, 144, true},
    {DTYPE_Q5_K, "Q5_K", 256, 176, true},
    {DTYPE_Q6_K, "Q6_K", 256, 210, true},
    {DTYPE_IQ4_NL, "IQ4_NL", 32, 18, true},
    {DTYPE_IQ4_XS, "IQ4_XS", 256, 136, true},
    {DTYPE_MXFP4, "MXFP4", 32, 17, true},
    /* 32 codes, their scale and their sum: 40 bytes for each block, in three planes per row. */
    {DTYPE_ACT_Q8, "ACT_Q8", 32, 40, true},
    {DTYPE_I32, "I32", 1, 4, false},
};

const dtype_traits *dtype_find(uint32_t type)
{
    for (size_t i = 0; i < sizeof traits / sizeof traits[0]; i++) {
        if ((uint32_t)traits[i].type == type) {
            return &traits[i];
        }
    }
    return NULL;
}

const char *dtype_list(void)
{
    return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, "
           "Q6_K, IQ4_NL, IQ4_XS, MXFP4";
}

const char *dtype_name(dtype type)
{
    const dtype_traits *found = dtype_find((uint32_t)type);
    return found != NULL ? found->name : "?";
}
