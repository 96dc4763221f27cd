/* stats.c - what a trace says of a row: range, sum of squares, values that are not finite, hashes.
 *
 * Statistics are of the values a row stands for, hashes of its words as base/hash.h and
 * docs/trace-format.md have them: floats, halves zero-extended, or codes and then scales.
 */
#include "kernel/ref/ref.h"

#include "kernel/blocks.h"

#include <string.h>

static float value_of(dtype type, const void *row, int64_t n, int64_t i)
{
    if (type == DTYPE_F16) {
        return half_to_float(((const uint16_t *)row)[i]);
    }
    if (type == DTYPE_ACT_Q8) {
        const int8_t *code = row;
        return (float)code[i] * ((const float *)(const void *)(code + n))[i / ACT_BLOCK];
    }
    return ((const float *)row)[i];
}

static uint32_t word_of(dtype type, const void *row, int64_t i)
{
    if (type == DTYPE_F16) {
        uint16_t half = ((const uint16_t *)row)[i];
        return (half & 0x7fff) > 0x7c00 ? 0x7e00 : half;
    }
    return type == DTYPE_ACT_Q8 ? (uint32_t)((const int8_t *)row)[i]
                                : hash_float_bits(((const float *)row)[i]);
}

void REF(row_stats)(dtype type, const void *row, int64_t n, row_stats *stats)
{
    float least = INFINITY, most = -INFINITY, total = 0.0f;
    row_hash hash = {0, 0};
    uint64_t n_nonfinite = 0;
    for (int64_t start = 0; start < n; start += ROW_SUM_GROUP) {
        int64_t size = n - start < ROW_SUM_GROUP ? n - start : ROW_SUM_GROUP;
        float group[ROW_SUM_GROUP];
        for (int64_t i = 0; i < size; i++) {
            float x = value_of(type, row, n, start + i);
            int finite = fabsf(x) <= 0x1.fffffep+127f;
            n_nonfinite += !finite;
            least = finite && x < least ? x : least;
            most = finite && x > most ? x : most;
            hash_word(&hash, (uint64_t)(start + i), word_of(type, row, start + i));
            group[i] = x;
        }
        float sum = REF(row_sum_squares)(group, size);
        total = start == 0 ? sum : total + sum;
    }
    const int8_t *scales = (const int8_t *)row + n;
    for (int64_t b = 0; b < n / ACT_BLOCK && type == DTYPE_ACT_Q8; b++) {
        hash_word(&hash, (uint64_t)(n + b), word_of(DTYPE_F32, scales, b));
    }
    stats->min = n_nonfinite < (uint64_t)n ? least : 0.0f;
    stats->max = n_nonfinite < (uint64_t)n ? most : 0.0f;
    stats->sumsq = total;
    stats->n_nonfinite = n_nonfinite;
    stats->hash = hash;
}
