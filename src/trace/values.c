/* values.c - kept values: how many bytes a row takes in the blob, and the hash of its content.
 *
 * Four types can be kept: F32, F16 (KV rows), I32 (token ids) and ACT_Q8 (codes int8[n], then one
 * float scale per block of 32; the block sums that lie behind them in memory follow from the codes
 * and are not kept). A row in the blob has the layout it has in memory, so one function hashes
 * both.
 *
 * base/hash.h defines the hash over 32-bit words; here is what the words of each type are:
 *     F32     the bit pattern, every NaN as 7fc00000
 *     F16     the 16-bit pattern, zero-extended, every NaN as 7e00
 *     I32     the number
 *     ACT_Q8  word i < n: code i, sign-extended; word n + b: the bit pattern of scale b, as F32
 */
#include "base/checked.h"
#include "trace/record.h"

#include <string.h>

#define SCALE_BLOCK 32 /* values per scale of ACT_Q8; kernel.h: ACT_BLOCK */

bool trace_values_bytes(dtype type, int64_t n, uint64_t *bytes)
{
    uint64_t count = n < 0 ? 0 : (uint64_t)n;
    uint64_t scales;
    *bytes = 0;
    if (n < 0) {
        return false;
    }
    switch (type) {
    case DTYPE_F32:
    case DTYPE_I32:
        return checked_mul(count, 4, bytes);
    case DTYPE_F16:
        return checked_mul(count, 2, bytes);
    case DTYPE_ACT_Q8:
        return count % SCALE_BLOCK == 0 && checked_mul(count / SCALE_BLOCK, 4, &scales) &&
               checked_add(count, scales, bytes);
    default:
        return false;
    }
}

/* Words first .. first + n - 1 of a row. Two sums that the compiler makes with vectors: readers
 * hash every kept row. */
static void hash_words(row_hash *hash, const uint8_t *words, int64_t n, int64_t first)
{
    uint64_t ordered = 0, bag = 0;
    uint32_t key = hash_key((uint64_t)first);
    for (int64_t i = 0; i < n; i++, key += 0x9e3779b9u) {
        uint32_t bits;
        memcpy(&bits, words + 4 * i, sizeof bits);
        bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
        ordered += hash_mix64(bits, key);
        bag += hash_mix64(bits, 0);
    }
    hash->ordered += ordered;
    hash->bag += bag;
}

static void hash_floats(row_hash *hash, const trace_piece *piece)
{
    if (piece->step == 1) {
        hash_words(hash, piece->values, piece->n, piece->first);
        return;
    }
    for (int64_t i = 0; i < piece->n; i++) {
        float value;
        memcpy(&value, (const uint8_t *)piece->values + 4 * i, sizeof value);
        hash_word(hash, (uint64_t)(piece->first + i * piece->step), hash_float_bits(value));
    }
}

static void hash_halves(row_hash *hash, const trace_piece *piece)
{
    for (int64_t i = 0; i < piece->n; i++) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)piece->values + 2 * i, sizeof half);
        hash_word(hash, (uint64_t)(piece->first + i * piece->step),
                  (half & 0x7fff) > 0x7c00 ? 0x7e00 : half);
    }
}

void trace_values_hash_add(row_hash *hash, dtype type, const trace_piece *piece)
{
    if (type == DTYPE_F16) {
        hash_halves(hash, piece);
    } else {
        hash_floats(hash, piece);
    }
}

row_hash trace_values_hash(dtype type, const void *values, int64_t n)
{
    const uint8_t *bytes = values;
    row_hash hash = {0, 0};
    if (type == DTYPE_F32) {
        hash_floats(&hash, &(trace_piece){bytes, n, 0, 1});
    } else if (type == DTYPE_I32) {
        for (int64_t i = 0; i < n; i++) {
            uint32_t word;
            memcpy(&word, bytes + 4 * i, sizeof word);
            hash_word(&hash, (uint64_t)i, word);
        }
    } else if (type == DTYPE_F16) {
        hash_halves(&hash, &(trace_piece){bytes, n, 0, 1});
    } else if (type == DTYPE_ACT_Q8) {
        for (int64_t i = 0; i < n; i++) {
            hash_word(&hash, (uint64_t)i, (uint32_t)(int32_t)(int8_t)bytes[i]);
        }
        hash_floats(&hash, &(trace_piece){bytes + n, n / SCALE_BLOCK, n, 1});
    }
    return hash;
}
