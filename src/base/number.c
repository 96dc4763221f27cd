/* number.c - floating-point numbers as text: exact, shortest, the same in every locale.
 *
 * All four formats come from one exact representation: value = R / S * 10^k with big integers R and
 * S, from which decimal digits fall out one by one. The shortest form is the free-format algorithm
 * of Steele and White (1990) as improved by Burger and Dybvig (1996): digits are made until what is
 * left is inside the interval that reads back as the same number. Fixed forms stop at a digit count
 * and round to nearest, ties to even, on the exact remainder.
 *
 * printf was rejected: it takes the decimal separator from the locale and the direction from the
 * rounding mode, and a host program may set both. Trying %.1e, %.2e ... until the number reads back
 * was rejected too: at a power of two the gap below is half the gap above, and the shortest
 * decimal can be the one that is not the nearest of its length. Faster ways (Ryu, Grisu) need
 * tables longer than this file; a trace writes a few numbers per record, not its tensors.
 *
 * Bounds: the widest operand is 2^53 * 4 * 10^308 or 2^1076 * 10, below 2^1120; a big holds 2^1280.
 */
#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BIG_WORDS 40
#define DIGITS_MAX 40 /* longest digit string; NUMBER_MAX bounds what callers can ask for */

typedef struct big {
    int n; /* words in use; the highest one is not 0 */
    uint32_t word[BIG_WORDS];
} big;

/* A number taken apart: (-1)^negative * mantissa * 2^exponent. */
typedef struct binary {
    bool negative;
    const char *special; /* "nan", "inf", "0" or NULL */
    uint64_t mantissa;
    int exponent;
    bool closer_below; /* the next smaller number is only half as far away as the next larger one */
} binary;

/* 0.d1 d2 d3 ... * 10^point. */
typedef struct decimal {
    char digit[DIGITS_MAX]; /* '0'..'9' */
    int n, point;
} decimal;

/* ---- Big integers ---------------------------------------------------------------------------- */

static void big_set(big *b, uint64_t value)
{
    b->n = 0;
    for (; value != 0; value >>= 32) {
        b->word[b->n++] = (uint32_t)value;
    }
}

static void big_multiply(big *b, uint32_t factor)
{
    uint64_t carry = 0;
    for (int i = 0; i < b->n; i++) {
        carry += (uint64_t)b->word[i] * factor;
        b->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) {
        GRETA_ASSERT(b->n < BIG_WORDS);
        b->word[b->n++] = (uint32_t)carry;
    }
}

static void big_multiply_pow10(big *b, int power)
{
    for (; power >= 9; power -= 9) {
        big_multiply(b, 1000000000u);
    }
    for (; power > 0; power--) {
        big_multiply(b, 10);
    }
}

static void big_shift_left(big *b, int bits)
{
    int words = bits / 32;
    GRETA_ASSERT(b->n + words <= BIG_WORDS);
    if (b->n > 0) {
        memmove(b->word + words, b->word, (size_t)b->n * sizeof b->word[0]);
        memset(b->word, 0, (size_t)words * sizeof b->word[0]);
        b->n += words;
        big_multiply(b, 1u << (bits % 32));
    }
}

static int big_compare(const big *a, const big *b)
{
    if (a->n != b->n) {
        return a->n < b->n ? -1 : 1;
    }
    for (int i = a->n - 1; i >= 0; i--) {
        if (a->word[i] != b->word[i]) {
            return a->word[i] < b->word[i] ? -1 : 1;
        }
    }
    return 0;
}

/* a + b compared with c. */
static int big_compare_sum(const big *a, const big *b, const big *c)
{
    big sum = a->n >= b->n ? *a : *b;
    const big *other = a->n >= b->n ? b : a;
    uint64_t carry = 0;
    for (int i = 0; i < sum.n; i++) {
        carry += (uint64_t)sum.word[i] + (i < other->n ? other->word[i] : 0);
        sum.word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) {
        GRETA_ASSERT(sum.n < BIG_WORDS);
        sum.word[sum.n++] = (uint32_t)carry;
    }
    return big_compare(&sum, c);
}

/* a -= b, where a >= b. */
static void big_subtract(big *a, const big *b)
{
    uint64_t borrow = 0;
    for (int i = 0; i < a->n; i++) {
        uint64_t taken = (i < b->n ? b->word[i] : 0) + borrow;
        borrow = a->word[i] < taken;
        a->word[i] = (uint32_t)(a->word[i] - taken);
    }
    GRETA_ASSERT(borrow == 0);
    while (a->n > 0 && a->word[a->n - 1] == 0) {
        a->n--;
    }
}

/* ---- Digits ---------------------------------------------------------------------------------- */

/* value = r / s * 10^point, and the half-gaps below and above in units of the same fraction. */
typedef struct fraction {
    big r, s, below, above;
    int point;
} fraction;

/* Scales so that 0.1 <= value < 1 in units of 10^point; with `shortest`, the end of the interval
 * above the value is what must be below (or, if it reads back, not above) 1. */
static void fraction_set(fraction *f, const binary *b, bool shortest)
{
    int shift = b->closer_below ? 2 : 1;
    int up = b->exponent > 0 ? b->exponent : 0;
    int down = b->exponent < 0 ? -b->exponent : 0;
    big_set(&f->r, b->mantissa);
    big_shift_left(&f->r, up + shift);
    big_set(&f->s, 1);
    big_shift_left(&f->s, down + shift);
    big_set(&f->below, shortest);
    big_shift_left(&f->below, up);
    big_set(&f->above, shortest);
    big_shift_left(&f->above, up + shift - 1);

    int top = b->exponent; /* value >= 2^top */
    for (uint64_t m = b->mantissa >> 1; m != 0; m >>= 1) {
        top++;
    }
    /* floor(top * log10(2)), 0.30103 > log10(2) by 4e-9: at most the wanted point, then raised. */
    f->point = top >= 0 ? top * 30102 / 100000 : -((-top * 30103 + 99999) / 100000);
    big_multiply_pow10(&f->s, f->point);
    big_multiply_pow10(&f->r, -f->point);
    big_multiply_pow10(&f->below, -f->point);
    big_multiply_pow10(&f->above, -f->point);
    int limit = shortest && b->mantissa % 2 != 0 ? 1 : 0; /* an even mantissa owns its ends */
    while (big_compare_sum(&f->r, &f->above, &f->s) >= limit) {
        big_multiply(&f->s, 10);
        f->point++;
    }
}

/* The next digit: floor(10 r / s), 0 to 9. */
static int fraction_digit(fraction *f)
{
    int digit = 0;
    big_multiply(&f->r, 10);
    for (; big_compare(&f->r, &f->s) >= 0; digit++) {
        big_subtract(&f->r, &f->s);
    }
    GRETA_ASSERT(digit <= 9);
    return digit;
}

/* The fewest digits that read back as b; among those the nearest, of two equally near the even. */
static void decimal_shortest(decimal *d, const binary *b)
{
    fraction f;
    fraction_set(&f, b, true);
    bool is_even = b->mantissa % 2 == 0;
    d->n = 0;
    d->point = f.point;
    for (;;) {
        int digit = fraction_digit(&f);
        big_multiply(&f.below, 10);
        big_multiply(&f.above, 10);
        bool low_is_in = big_compare(&f.r, &f.below) < (is_even ? 1 : 0);
        bool high_is_in = big_compare_sum(&f.r, &f.above, &f.s) > (is_even ? -1 : 0);
        if (low_is_in || high_is_in) {
            int half = big_compare_sum(&f.r, &f.r, &f.s);
            bool is_nearer = half > 0 || (half == 0 && digit % 2 != 0);
            digit += high_is_in && (!low_is_in || is_nearer);
            d->digit[d->n++] = (char)('0' + digit);
            return;
        }
        d->digit[d->n++] = (char)('0' + digit);
        GRETA_ASSERT(d->n < DIGITS_MAX);
    }
}

/* Adds one unit in the last place; 99 becomes 100, one digit longer. */
static void decimal_increment(decimal *d)
{
    int i = d->n - 1;
    for (; i >= 0 && d->digit[i] == '9'; i--) {
        d->digit[i] = '0';
    }
    if (i >= 0) {
        d->digit[i]++;
        return;
    }
    GRETA_ASSERT(d->n < DIGITS_MAX);
    d->n++;
    d->point++;
    memset(d->digit, '0', (size_t)d->n);
    d->digit[0] = '1';
}

/* Digits down to 10^-places (`from_point`), or `places` digits in all; to nearest, ties to even. */
static void decimal_rounded(decimal *d, const binary *b, int places, bool from_point)
{
    fraction f;
    fraction_set(&f, b, false);
    int n = from_point ? f.point + places : places;
    d->n = 0;
    d->point = f.point;
    if (n < 0) {
        return; /* Below half a unit: no digits, which reads as 0. */
    }
    while (d->n < n) {
        d->digit[d->n++] = (char)('0' + fraction_digit(&f));
    }
    int half = big_compare_sum(&f.r, &f.r, &f.s);
    bool is_odd = n > 0 && (d->digit[n - 1] - '0') % 2 != 0;
    if (half > 0 || (half == 0 && is_odd)) {
        decimal_increment(d);
        if (!from_point) {
            d->n = n; /* 9.99 became 10.0: the extra digit is a 0. */
        }
    }
}

/* ---- Text ------------------------------------------------------------------------------------ */

static binary binary_from_bits(uint64_t bits, int mantissa_bits, int exponent_bits)
{
    int biased_max = (1 << exponent_bits) - 1;
    int bias = biased_max / 2 + mantissa_bits;
    uint64_t hidden = UINT64_C(1) << mantissa_bits;
    int biased = (int)(bits >> mantissa_bits) & biased_max;
    binary b = {.mantissa = bits & (hidden - 1)};
    b.negative = (bits >> (mantissa_bits + exponent_bits)) != 0;
    if (biased == biased_max) {
        b.special = b.mantissa != 0 ? "nan" : "inf";
        b.negative = b.negative && b.mantissa == 0;
    } else if (biased == 0) {
        b.special = b.mantissa == 0 ? "0" : NULL;
        b.exponent = 1 - bias;
    } else {
        b.closer_below = b.mantissa == 0 && biased > 1;
        b.mantissa |= hidden;
        b.exponent = biased - bias;
    }
    return b;
}

static binary binary_from_f64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return binary_from_bits(bits, 52, 11);
}

/* Digit i counted from the point's left side on; what was not made is 0. */
static char decimal_at(const decimal *d, int i)
{
    return i >= 0 && i < d->n ? d->digit[i] : '0';
}

/* [-]ddd.ddd with `places` digits after the point. */
static const char *write_positional(const decimal *d, bool negative, int places,
                                    char out[NUMBER_MAX])
{
    int whole = d->point > 0 ? d->point : 1;
    int used = 0;
    GRETA_ASSERT(negative + whole + 1 + places < NUMBER_MAX);
    if (negative) {
        out[used++] = '-';
    }
    for (int i = 0; i < whole; i++) {
        out[used++] = decimal_at(d, d->point > 0 ? i : -1);
    }
    if (places > 0) {
        out[used++] = '.';
    }
    for (int i = 0; i < places; i++) {
        out[used++] = decimal_at(d, d->point + i);
    }
    out[used] = '\0';
    return out;
}

/* [-]d.ddde[+-]xx with `places` digits after the point. */
static const char *write_scientific(const decimal *d, bool negative, int places,
                                    char out[NUMBER_MAX])
{
    int used = 0;
    GRETA_ASSERT(negative + 2 + places + 5 < NUMBER_MAX);
    if (negative) {
        out[used++] = '-';
    }
    out[used++] = decimal_at(d, 0);
    if (places > 0) {
        out[used++] = '.';
    }
    for (int i = 1; i <= places; i++) {
        out[used++] = decimal_at(d, i);
    }
    int exponent = d->n > 0 ? d->point - 1 : 0;
    snprintf(out + used, (size_t)(NUMBER_MAX - used), "e%c%02d", exponent < 0 ? '-' : '+',
             exponent < 0 ? -exponent : exponent);
    return out;
}

static const char *write_special(const binary *b, char out[NUMBER_MAX])
{
    snprintf(out, NUMBER_MAX, "%s%s", b->negative ? "-" : "", b->special);
    return out;
}

static const char *write_shortest(const binary *b, char out[NUMBER_MAX])
{
    decimal d;
    if (b->special != NULL) {
        return write_special(b, out);
    }
    decimal_shortest(&d, b);
    if (d.point > -4 && d.point <= 16) { /* 1e-04 to below 1e+16, as Python writes them */
        return write_positional(&d, b->negative, d.n > d.point ? d.n - d.point : 0, out);
    }
    return write_scientific(&d, b->negative, d.n - 1, out);
}

const char *number_f32(float value, char out[NUMBER_MAX])
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    binary b = binary_from_bits(bits, 23, 8);
    return write_shortest(&b, out);
}

const char *number_f64(double value, char out[NUMBER_MAX])
{
    binary b = binary_from_f64(value);
    return write_shortest(&b, out);
}

static int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

const char *number_scientific(double value, int digits, char out[NUMBER_MAX])
{
    binary b = binary_from_f64(value);
    decimal d = {0};
    digits = clamp(digits, 0, NUMBER_DIGITS_MAX);
    if (b.special != NULL && b.special[0] != '0') {
        return write_special(&b, out);
    }
    if (b.special == NULL) {
        decimal_rounded(&d, &b, digits + 1, false);
    }
    return write_scientific(&d, b.negative, digits, out);
}

const char *number_fixed(double value, int digits, char out[NUMBER_MAX])
{
    binary b = binary_from_f64(value);
    decimal d = {0};
    digits = clamp(digits, 0, NUMBER_DIGITS_MAX);
    if (b.special != NULL && b.special[0] != '0') {
        return write_special(&b, out);
    }
    if (value >= NUMBER_FIXED_BELOW || value <= -NUMBER_FIXED_BELOW) {
        return number_scientific(value, digits, out);
    }
    if (b.special == NULL) {
        decimal_rounded(&d, &b, digits, true);
    }
    return write_positional(&d, b.negative, digits, out);
}

const char *number_bytes(uint64_t bytes, char out[NUMBER_MAX])
{
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, NUMBER_MAX, "%" PRIu64 " B", bytes);
        return out;
    }
    uint64_t tenths = 0;
    size_t u = 0;
    for (;; u++) {
        int shift = 10 * ((int)u + 1);
        uint64_t whole = bytes >> shift;
        uint64_t rest = bytes & ((UINT64_C(1) << shift) - 1);
        /* rest * 10 would wrap for EiB, so its low bits, worth less than a tenth, go first. */
        uint64_t rest_tenths = ((rest >> (shift - 10)) * 10 + 512) >> 10;
        tenths = whole * 10 + rest_tenths;
        if (tenths < 10240 || u == 5) {
            break;
        }
    }
    snprintf(out, NUMBER_MAX, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10, tenths % 10, unit[u]);
    return out;
}
