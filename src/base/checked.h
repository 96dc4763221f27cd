/* checked.h - arithmetic on numbers that come from files: false on wrap, never a wrong result. */
#ifndef GRETA_BASE_CHECKED_H
#define GRETA_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    *sum = a + b;
    return *sum >= a;
}

static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    *product = a * b;
    return a == 0 || *product / a == b;
}

/* Rounds up to a multiple of `alignment`, a power of two. */
static inline bool checked_align(uint64_t a, uint64_t alignment, uint64_t *aligned)
{
    uint64_t padded;
    if (!checked_add(a, alignment - 1, &padded)) {
        return false;
    }
    *aligned = padded & ~(alignment - 1);
    return true;
}

/* Whether [offset, offset + bytes) lies inside [0, size). */
static inline bool checked_span(uint64_t offset, uint64_t bytes, uint64_t size)
{
    return offset <= size && bytes <= size - offset;
}

static inline bool checked_i32(uint64_t a, int32_t *narrow)
{
    *narrow = a <= INT32_MAX ? (int32_t)a : 0;
    return a <= INT32_MAX;
}

static inline bool checked_size(uint64_t a, size_t *narrow)
{
    *narrow = (size_t)a;
    return a <= SIZE_MAX;
}

#endif
