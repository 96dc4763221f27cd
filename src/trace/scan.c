/* scan.c - members of a line, recognised in the one spelling that the writer has.
 *
 * This is no parser of JSON: it knows one spelling of each line and gives up at the first byte that
 * is another one. So it can only be wrong by taking a value that the parser would not take, and
 * every range and every float is checked as there (test_trace.c holds the two against each other).
 * What it saves is jansson's tree: of a trace whose rows were kept, nearly all of the time.
 *
 * A decimal of up to 15 digits with an exponent of up to 22 is one exact product or quotient of two
 * doubles; others are left to the parser.
 */
#include "trace/scan.h"

#include "base/hash.h"

#include <float.h>
#include <string.h>

#define TEXT_MAX       512 /* of a text that is scanned */
#define DECIMAL_DIGITS 15  /* below 2^53 */
#define DECIMAL_POWER  22  /* 10^22 is a double */

bool scan_text(line_scan *s, const char *expected)
{
    size_t n = strlen(expected);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, expected, n) != 0) {
        return false;
    }
    s->at += n;
    return true;
}

static bool is_digit(const line_scan *s)
{
    return s->at < s->end && *s->at >= '0' && *s->at <= '9';
}

static bool scan_char(line_scan *s, char c)
{
    if (s->at < s->end && *s->at == c) {
        s->at++;
        return true;
    }
    return false;
}

bool scan_whole(line_scan *s, int64_t min, int64_t max, int64_t *out)
{
    bool is_negative = scan_char(s, '-');
    const char *start = s->at;
    int64_t value = 0;
    while (is_digit(s) && s->at - start < 18) {
        value = value * 10 + (*s->at++ - '0');
    }
    bool is_spelled = s->at > start && (*start != '0' || (s->at == start + 1 && !is_negative));
    *out = is_negative ? -value : value;
    return is_spelled && *out >= min && *out <= max;
}

/* A hex digit's value and 1; 0: it is none. */
static const uint8_t digit_more[256] = {
    ['0'] = 1, ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

bool scan_hex(line_scan *s, size_t digits, uint64_t *out)
{
    *out = 0;
    if ((size_t)(s->end - s->at) < digits + 2 || s->at[0] != '"' || s->at[digits + 1] != '"') {
        return false;
    }
    for (size_t i = 1; i <= digits; i++) {
        uint64_t digit = digit_more[(unsigned char)s->at[i]];
        if (digit == 0) {
            return false;
        }
        *out = *out << 4 | (digit - 1);
    }
    s->at += digits + 2;
    return true;
}

/* A text without escapes, into out[size]. */
static bool scan_string(line_scan *s, char *out, size_t size)
{
    if (!scan_char(s, '"')) {
        return false;
    }
    size_t n = 0;
    while (s->at < s->end && *s->at != '"') {
        if (n + 1 >= size || *s->at < 0x20 || *s->at > 0x7e || *s->at == '\\') {
            return false;
        }
        out[n++] = *s->at++;
    }
    out[n] = '\0';
    return scan_char(s, '"');
}

/* ---- Floats ---------------------------------------------------------------------------------- */

/* Digits, appended to *mantissa; counts them. */
static int32_t scan_digits(line_scan *s, uint64_t *mantissa)
{
    int32_t n = 0;
    for (; is_digit(s) && n <= DECIMAL_DIGITS; n++) {
        *mantissa = *mantissa * 10 + (uint64_t)(*s->at++ - '0');
    }
    return n;
}

/* Of a decimal: e+05, e-7. */
static bool scan_exponent(line_scan *s, int32_t *out)
{
    uint64_t size = 0;
    bool is_negative = scan_char(s, '-');
    if (!is_negative) {
        scan_char(s, '+');
    }
    int32_t n = scan_digits(s, &size);
    *out = is_negative ? -(int32_t)size : (int32_t)size;
    return n > 0 && n <= 3;
}

static bool scan_decimal(line_scan *s, double *out)
{
    static const double power[DECIMAL_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    bool is_negative = scan_char(s, '-');
    uint64_t mantissa = 0;
    int32_t exponent = 0;
    bool is_zero = s->at < s->end && *s->at == '0';
    int32_t whole = scan_digits(s, &mantissa);
    bool has_point = scan_char(s, '.');
    int32_t part = has_point ? scan_digits(s, &mantissa) : 0;
    if (whole == 0 || (is_zero && whole > 1) || (has_point && part == 0) ||
        whole + part > DECIMAL_DIGITS) {
        return false;
    }
    if (scan_char(s, 'e') && !scan_exponent(s, &exponent)) {
        return false;
    }
    exponent -= part;
    if (exponent < -DECIMAL_POWER || exponent > DECIMAL_POWER) {
        return false;
    }
    double size =
        exponent < 0 ? (double)mantissa / power[-exponent] : (double)mantissa * power[exponent];
    *out = is_negative ? -size : size;
    return true;
}

/* ["3dcccccd",0.1]; the others ("nan") are left to the parser. */
static bool scan_f32(line_scan *s, float *out)
{
    uint64_t bits;
    double decimal;
    if (!scan_char(s, '[') || !scan_hex(s, 8, &bits) || !scan_char(s, ',')) {
        return false;
    }
    uint32_t narrow = (uint32_t)bits;
    memcpy(out, &narrow, sizeof narrow);
    bool is_finite = *out >= -FLT_MAX && *out <= FLT_MAX;
    return is_finite && scan_decimal(s, &decimal) && field_is_decimal(decimal, *out) &&
           scan_char(s, ']');
}

/* ---- Members --------------------------------------------------------------------------------- */

static bool scan_named(line_scan *s, const field *f, uint8_t *member)
{
    char string[TEXT_MAX];
    const char *kept;
    if (f->kind == FIELD_TEXT) {
        return scan_string(s, (char *)member, f->size);
    }
    if (!scan_string(s, string, sizeof string)) {
        return false;
    }
    if (f->kind == FIELD_NAME) {
        bool is_kept = name_pool_keep(s->source, string, &kept) == GRETA_OK;
        memcpy(member, &kept, is_kept ? sizeof kept : 0);
        return is_kept;
    }
    int32_t found = f->names->find(string);
    memcpy(member, &found, sizeof found);
    return found >= 0;
}

static bool member_scan(line_scan *s, const field *f, uint8_t *member)
{
    int64_t whole;
    uint64_t bits;
    float number;
    bool is_narrow = f->kind == FIELD_I32;
    switch (f->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
    case FIELD_ENUM:
        return scan_named(s, f, member);
    case FIELD_HEX32:
        return false; /* of the header only */
    case FIELD_HEX64:
        if (!scan_hex(s, 16, &bits)) {
            return false;
        }
        memcpy(member, &bits, sizeof bits);
        return true;
    case FIELD_F32:
        if (!scan_f32(s, &number)) {
            return false;
        }
        memcpy(member, &number, sizeof number);
        return true;
    default:
        if (!scan_whole(s, f->kind == FIELD_U64 ? 0 : f->min, is_narrow ? INT32_MAX : INT64_MAX,
                        &whole)) {
            return false;
        }
        int32_t narrow = (int32_t)whole;
        memcpy(member, is_narrow ? (void *)&narrow : (void *)&whole,
               is_narrow ? sizeof narrow : sizeof whole);
        return true;
    }
}

/* Passes ,"key": (behind the brace, which was passed, without the comma) if it comes next. */
static bool scan_key(line_scan *s, const char *key)
{
    const char *at = s->at, *end = s->end;
    bool is_first = at[-1] == '{';
    if (end - at < 2 || (!is_first && *at++ != ',') || *at++ != '"') {
        return false;
    }
    for (; *key != '\0'; key++, at++) {
        if (at >= end || *at != *key) {
            return false;
        }
    }
    if (end - at < 2 || at[0] != '"' || at[1] != ':') {
        return false;
    }
    s->at = at + 2;
    return true;
}

bool fields_scan(line_scan *s, field_table table, unsigned when, void *base)
{
    for (size_t i = 0; i < table.n; i++) {
        const field *f = &table.field[i];
        uint8_t *member = (uint8_t *)base + f->offset;
        if ((f->when & when) == 0) {
            continue;
        }
        if (scan_key(s, f->key)) {
            if (!member_scan(s, f, member)) {
                return false;
            }
        } else if (f->is_optional) {
            field_clear(f, member);
        } else {
            return false;
        }
    }
    return true;
}
