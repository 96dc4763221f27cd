/* hash.h - content hashes of tensor rows, mergeable in any order.
 *
 * For a row of 32-bit words b_0 .. b_{n-1} (floats by bit pattern, every NaN as 7fc00000):
 *     hash   = sum over i of mix64(b_i, k(i))   mod 2^64    tells the row
 *     bag    = sum over i of mix64(b_i, 0)      mod 2^64    the same for every permutation
 *     k(i)   = i * 0x9e3779b9 + 0x7f4a7c15      mod 2^32
 *     mix64(b, k) = (uint64)(b + k) * (uint64)(rotl16(b) ^ k ^ 0x85ebca6b), 32-bit sums
 * so lanes, threads and devices can sum any parts in any order. Codes of quantised rows are
 * hashed as one word per value (sign-extended), then scales continue the index.
 */
#ifndef GRETA_BASE_HASH_H
#define GRETA_BASE_HASH_H

#include <stdint.h>

typedef struct row_hash {
    uint64_t ordered; /* `hash` above */
    uint64_t bag;
} row_hash;

static inline uint64_t hash_mix64(uint32_t bits, uint32_t key)
{
    uint32_t turned = (bits << 16) | (bits >> 16);
    return (uint64_t)(bits + key) * (uint64_t)(turned ^ key ^ 0x85ebca6bu);
}

static inline uint32_t hash_key(uint64_t index)
{
    return (uint32_t)index * 0x9e3779b9u + 0x7f4a7c15u;
}

static inline void hash_word(row_hash *hash, uint64_t index, uint32_t bits)
{
    hash->ordered += hash_mix64(bits, hash_key(index));
    hash->bag += hash_mix64(bits, 0);
}

/* Bits of a float as they are hashed, compared and written: one NaN. */
static inline uint32_t hash_float_bits(float value)
{
    union {
        float f;
        uint32_t u;
    } bits = {.f = value};
    return value != value ? 0x7fc00000u : bits.u;
}

/* Hash of the token ids 0..pos: prefix_hash(prefix of pos-1, token at pos); start from 0. */
static inline uint64_t hash_prefix(uint64_t previous, int32_t token)
{
    uint64_t h = previous ^ ((uint64_t)(uint32_t)token + 0x9e3779b97f4a7c15u);
    h *= 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 32)) * 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 29);
}

#endif
