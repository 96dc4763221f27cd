/* test_number.c - numbers as text, judged by the C library.
 *
 * strtof, strtod and snprintf are exact in the "C" locale and the default rounding mode; ours must
 * agree with them in every locale and rounding mode.
 */
#include "base/text.h"

#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_RANDOM 40000

static uint64_t random_state = 20;

/* splitmix64 */
static uint64_t random_u64(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float f32_from(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double f64_from(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The significant digits of a printed number as one integer, without leading or trailing zeros, and
 * the power of ten that goes with it. */
static unsigned long long digits_of(const char *string, int *n, int *exponent)
{
    unsigned long long digits = 0;
    int n_after = 0, is_after = 0, zeros = 0;
    *n = 0;
    *exponent = 0;
    for (; *string != '\0' && *string != 'e'; string++) {
        if (*string == '.') {
            is_after = 1;
        } else if (*string != '-') {
            digits = digits * 10 + (unsigned)(*string - '0');
            n_after += is_after;
        }
    }
    for (; digits != 0 && digits % 10 == 0; zeros++) {
        digits /= 10;
    }
    for (unsigned long long rest = digits; rest != 0; rest /= 10) {
        ++*n;
    }
    *exponent = zeros - n_after + (*string == 'e' ? (int)strtol(string + 1, NULL, 10) : 0);
    return digits;
}

static double read_back(unsigned long long digits, int exponent, int is_f32)
{
    char string[64];
    snprintf(string, sizeof string, "%llue%d", digits, exponent);
    return is_f32 ? (double)strtof(string, NULL) : strtod(string, NULL);
}

/* No decimal of fewer digits reads back, and no neighbour of the same length is nearer. */
static void check_shortest(double value, const char *printed, int is_f32)
{
    int n, exponent;
    char exact[64], digits_text[32];
    unsigned long long digits = digits_of(printed, &n, &exponent);
    double magnitude = fabs(value);
    assert_true(read_back(digits, exponent, is_f32) == magnitude);
    assert_in_range(n, 1, is_f32 ? 9 : 17);
    if (n > 1) {
        /* Both neighbours one digit shorter; a number still shorter is among them with zeros. */
        unsigned long long shorter = digits / 10;
        for (unsigned long long d = shorter > 0 ? shorter - 1 : 0; d <= shorter + 2; d++) {
            assert_true(read_back(d, exponent + 1, is_f32) != magnitude);
        }
    }
    /* The nearest of this length is the rounded one, if that reads back at all. */
    snprintf(exact, sizeof exact, "%.*e", n - 1, magnitude);
    if ((is_f32 ? (double)strtof(exact, NULL) : strtod(exact, NULL)) == magnitude) {
        int exact_n, exact_exponent;
        snprintf(digits_text, sizeof digits_text, "%llu", digits);
        assert_true(digits_of(exact, &exact_n, &exact_exponent) == digits);
        assert_int_equal(exact_exponent, exponent);
    }
}

static void check_f32(uint32_t bits)
{
    char out[NUMBER_MAX];
    float value = f32_from(bits);
    number_f32(value, out);
    assert_in_range(strlen(out), 1, NUMBER_MAX - 1);
    if (isnan(value)) {
        assert_string_equal(out, "nan");
        return;
    }
    float back = strtof(out, NULL);
    assert_memory_equal(&back, &value, sizeof value);
    if (value != 0.0f && !isinf(value)) {
        check_shortest((double)value, out, 1);
    }
}

static void check_f64(uint64_t bits)
{
    char out[NUMBER_MAX];
    double value = f64_from(bits);
    number_f64(value, out);
    assert_in_range(strlen(out), 1, NUMBER_MAX - 1);
    if (isnan(value)) {
        assert_string_equal(out, "nan");
        return;
    }
    double back = strtod(out, NULL);
    assert_memory_equal(&back, &value, sizeof value);
    if (value != 0.0 && !isinf(value)) {
        check_shortest(value, out, 0);
    }
}

static void test_f32(void **state)
{
    (void)state;
    for (uint32_t exponent = 0; exponent < 256; exponent++) {
        /* Powers of two, where the gaps differ, and their neighbours; denormals at 0. */
        for (uint32_t sign = 0; sign < 2; sign++) {
            uint32_t power = sign << 31 | exponent << 23;
            check_f32(power);
            check_f32(power + 1);
            check_f32(power + 2);
            check_f32(power | 0x7fffff);
            check_f32(power | 0x400000);
        }
    }
    for (int i = 0; i < N_RANDOM; i++) {
        check_f32((uint32_t)random_u64());
    }
    for (int i = 0; i < N_RANDOM / 4; i++) { /* numbers people write */
        float plain = (float)(random_u64() % 100000) / 1000.0f;
        uint32_t bits;
        memcpy(&bits, &plain, sizeof bits);
        check_f32(bits);
    }
}

static void test_f64(void **state)
{
    (void)state;
    for (uint64_t exponent = 0; exponent < 2048; exponent++) {
        uint64_t power = exponent << 52;
        check_f64(power);
        check_f64(power + 1);
        check_f64(power | 0xfffffffffffff);
    }
    for (int i = 0; i < N_RANDOM; i++) {
        check_f64(random_u64());
    }
    for (int i = 0; i < N_RANDOM / 4; i++) {
        double plain = (double)(random_u64() % 10000000) / 1000.0;
        uint64_t bits;
        memcpy(&bits, &plain, sizeof bits);
        check_f64(bits);
    }
}

static void test_shortest_forms(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } f32[] = {
        {0.1f, "0.1"}, {1e-5f, "1e-05"}, {0.0001f, "0.0001"}, {0.0f, "0"}, {-0.0f, "-0"},
        {1.0f, "1"}, {-1.5f, "-1.5"}, {100.0f, "100"}, {123456.7f, "123456.7"},
        {16777216.0f, "16777216"}, {1e15f, "1000000000000000"}, {1e16f, "1e+16"},
        {3.4028235e38f, "3.4028235e+38"}, {1e-45f, "1e-45"}, {1.17549435e-38f, "1.1754944e-38"},
        {INFINITY, "inf"}, {-INFINITY, "-inf"}, {NAN, "nan"}, {0.3333333333f, "0.33333334"},
        {9.999999e-5f, "9.999999e-05"}, {8388608.5f, "8388608"}, {33554432.0f, "33554432"},
        {5.4e-20f, "5.4e-20"},
    };
    static const struct {
        double value;
        const char *text;
    } f64[] = {
        {0.1, "0.1"}, {1e-5, "1e-05"}, {5e-324, "5e-324"}, {1e22, "1e+22"}, {1e23, "1e+23"},
        {1.7976931348623157e308, "1.7976931348623157e+308"}, {-0.0, "-0"}, {1e300, "1e+300"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {9007199254740993.0, "9007199254740992"},
        /* The nearest decimal of 16 digits does not read back, the next one does. */
        {0x1p-44, "5.684341886080802e-14"}, {INFINITY, "inf"}, {-NAN, "nan"},
    };
    char out[NUMBER_MAX];
    for (size_t i = 0; i < sizeof f32 / sizeof f32[0]; i++) {
        assert_string_equal(number_f32(f32[i].value, out), f32[i].text);
    }
    for (size_t i = 0; i < sizeof f64 / sizeof f64[0]; i++) {
        assert_string_equal(number_f64(f64[i].value, out), f64[i].text);
    }
}

static void check_places(double value, int places)
{
    char out[NUMBER_MAX], expected[512];
    snprintf(expected, sizeof expected, "%.*e", places, value);
    assert_string_equal(number_scientific(value, places, out), expected);
    if (fabs(value) < NUMBER_FIXED_BELOW) {
        snprintf(expected, sizeof expected, "%.*f", places, value);
    }
    assert_string_equal(number_fixed(value, places, out), expected);
}

static void test_places(void **state)
{
    (void)state;
    static const double values[] = {
        0.0, -0.0, 0.5, 1.5, 2.5, 0.25, 0.125, 0.375, -0.5, 0.05, 0.95, 9.5, 9.95, 99.5, 0.06, 0.04,
        0.999999999, 1e-10, 9.999e-5, 1e16, 9.9999999999999984e16, 1e17, 1.2e17, -1e17, 1e308,
        5e-324, 4.9e-300, 0x1p-1074, 0x1.fffffffffffffp1023, 1.0 / 3, 2.0 / 3, 123456789.123456789,
        1e22, 0.0124123, 45.0, 55.0, 65.0, 4503599627370496.5, 4503599627370497.5};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        for (int places = 0; places <= NUMBER_DIGITS_MAX; places++) {
            check_places(values[i], places);
        }
    }
    for (int i = 0; i < N_RANDOM; i++) {
        uint64_t bits = random_u64();
        double any = f64_from(bits), near = ldexp((double)(int64_t)bits, (int)(bits % 80) - 80);
        if (!isnan(any) && !isinf(any)) {
            check_places(any, (int)(bits % (NUMBER_DIGITS_MAX + 1)));
        }
        check_places(near, (int)(bits % (NUMBER_DIGITS_MAX + 1)));
        check_places((double)(bits % 4096) / 64, (int)(bits % 7)); /* ties */
    }
    char out[NUMBER_MAX];
    assert_string_equal(number_scientific(NAN, 3, out), "nan");
    assert_string_equal(number_scientific(-INFINITY, 3, out), "-inf");
    assert_string_equal(number_fixed(INFINITY, 3, out), "inf");
    assert_string_equal(number_fixed(NAN, 3, out), "nan");
    /* Out of range digit counts are clamped, never written past the buffer. */
    assert_string_equal(number_fixed(1.0, -5, out), "1");
    assert_string_equal(number_fixed(-9.9e16, 1000, out), "-99000000000000000.00000000000000000");
    assert_string_equal(number_scientific(-1e-300, 1000, out), "-1.00000000000000003e-300");
}

/* The host's rounding mode must not reach the text. (No locale can: nothing here asks it.) */
static void test_rounding_mode(void **state)
{
    (void)state;
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    static const double values[] = {0.1, 2.5, -2.5, 1.0 / 3, 1e23, 0x1p-44, 5e-324};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char expected[4][NUMBER_MAX], out[4][NUMBER_MAX];
        float narrow = (float)values[i];
        number_f32(narrow, expected[0]);
        number_f64(values[i], expected[1]);
        number_scientific(values[i], 2, expected[2]);
        number_fixed(values[i], 0, expected[3]);
        for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
            assert_int_equal(fesetround(modes[m]), 0);
            number_f32(narrow, out[0]);
            number_f64(values[i], out[1]);
            number_scientific(values[i], 2, out[2]);
            number_fixed(values[i], 0, out[3]);
            assert_int_equal(fesetround(FE_TONEAREST), 0);
            for (int k = 0; k < 4; k++) {
                assert_string_equal(out[k], expected[k]);
            }
        }
    }
}

static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"}, {1023, "1023 B"}, {1024, "1.0 KiB"}, {1536, "1.5 KiB"}, {1587, "1.5 KiB"},
        {1588, "1.6 KiB"}, {1048524, "1023.9 KiB"}, {1048525, "1.0 MiB"}, {1048576, "1.0 MiB"},
        {98362432, "93.8 MiB"}, {UINT64_C(4) << 30, "4.0 GiB"}, {UINT64_C(3) << 40, "3.0 TiB"},
        {UINT64_C(7) << 50, "7.0 PiB"}, {UINT64_MAX, "16.0 EiB"}, {UINT64_C(1) << 63, "8.0 EiB"},
    };
    char out[NUMBER_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(number_bytes(cases[i].bytes, out), cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_f64),
        cmocka_unit_test(test_shortest_forms),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_rounding_mode),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
