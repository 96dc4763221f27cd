/* mkmodel_round.c - one set of weights in several types (--rounded): the values that F32 gets,
 * rounded to the nearest code of each block.
 *
 * Formulas: quantize_row_q4_0_ref and its neighbours in ggml-quants.c of
 * https://github.com/ggml-org/ggml. Where a block has no minimum, the value of the largest
 * magnitude takes the code at the negative end, so that the scale has the other sign. All of it in
 * binary32, as there: the gguf package gives the same bytes (tests/py/test_mkmodel.py).
 */
#include "mkmodel.h"

#include <math.h>
#include <string.h>

#define BLOCK 32

bool type_is_rounded(const type_traits *type)
{
    static const char *const names[] = {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"};
    bool is_known = type->block == 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        is_known = is_known || strcmp(type->name, names[i]) == 0;
    }
    return is_known;
}

/* Low nibbles are values 0 .. 15, high ones 16 .. 31. */
static void put_nibbles(const int *code, uint8_t *out)
{
    for (int i = 0; i < BLOCK / 2; i++) {
        out[i] = (uint8_t)((code[i] & 15) | (code[i + BLOCK / 2] & 15) << 4);
    }
}

static void put_fifth_bits(const int *code, uint8_t *out)
{
    uint32_t bits = 0;
    for (int i = 0; i < BLOCK; i++) {
        bits |= (uint32_t)(code[i] >> 4 & 1) << i;
    }
    memcpy(out, &bits, sizeof bits);
}

static void put_half(float value, uint8_t *out)
{
    uint16_t half = half_from_float(value);
    memcpy(out, &half, sizeof half);
}

/* Codes 0 .. 2 half - 1 of x / d + half, cut. */
static float codes_signed(const float *x, int half, int *code)
{
    float largest = 0;
    for (int i = 0; i < BLOCK; i++) {
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    }
    float d = largest / (float)-half, inverse = d < 0 || d > 0 ? 1 / d : 0;
    for (int i = 0; i < BLOCK; i++) {
        int c = (int)(x[i] * inverse + ((float)half + 0.5f));
        code[i] = c < 2 * half - 1 ? c : 2 * half - 1;
    }
    return d;
}

/* Codes 0 .. most of (x - least) / d. */
static float codes_above(const float *x, int most, float *least, int *code)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < BLOCK; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / (float)most, inverse = d > 0 ? 1 / d : 0;
    for (int i = 0; i < BLOCK; i++) {
        int c = (int)((x[i] - low) * inverse + 0.5f);
        code[i] = c < most ? c : most;
    }
    *least = low;
    return d;
}

static float codes_bytes(const float *x, uint8_t *out)
{
    float largest = 0;
    for (int i = 0; i < BLOCK; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    float d = largest / 127, inverse = d > 0 ? 1 / d : 0;
    for (int i = 0; i < BLOCK; i++) {
        out[i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
    }
    return d;
}

void round_block(const type_traits *type, const float *x, uint8_t *out)
{
    const bool has_minimum = type->minimum >= 0, is_five = type->name[1] == '5';
    int code[BLOCK];
    float least;
    if (type->name[1] == '8') {
        put_half(codes_bytes(x, out + 2), out);
        return;
    }
    if (has_minimum) {
        put_half(codes_above(x, is_five ? 31 : 15, &least, code), out);
        put_half(least, out + 2);
    } else {
        put_half(codes_signed(x, is_five ? 16 : 8, code), out);
    }
    out += has_minimum ? 4 : 2;
    if (is_five) {
        put_fifth_bits(code, out);
        out += 4;
    }
    put_nibbles(code, out);
}
