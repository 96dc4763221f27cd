/* half_bits.h - binary16 and bfloat16 to binary32 and back, in integer arithmetic that
 * vectorises. */
#ifndef GRETA_BASE_HALF_BITS_H
#define GRETA_BASE_HALF_BITS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact. Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals. */
static inline float half_to_float(uint16_t half)
{
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t finite = bits_from_float(float_from_bits(magnitude) * 0x1p112f);
    uint32_t bits = (half & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000u : finite;
    return float_from_bits(bits | sign);
}

/* Nearest even; overflow to Inf; every NaN to 7e00. */
static inline uint16_t half_from_float(float value)
{
    uint32_t bits = bits_from_float(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t a = bits & 0x7fffffffu;
    if (a > 0x7f800000u) {
        return 0x7e00;
    }
    if (a < 0x38800000u) { /* below 2^-14: adding 0.5 rounds at 2^-24, the subnormal step */
        return (uint16_t)(sign | (bits_from_float(float_from_bits(a) + 0.5f) - 0x3f000000u));
    }
    uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | (rounded >= 0x47800000u ? 0x7c00u : (rounded - 0x38000000u) >> 13));
}

static inline float bfloat_to_float(uint16_t bfloat)
{
    return float_from_bits((uint32_t)bfloat << 16);
}

static inline uint16_t load_u16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

#endif
