/* field.c - structs as JSON objects, written by hand and read through jansson.
 *
 * A trace has some hundred bytes per tensor and many tensors, so writing appends to one text that
 * is used again for every line, without a tree and without printf. Reading builds jansson's tree of
 * one line, because a reader meets bytes that others wrote: a JSON parser of our own was rejected.
 * Lines in this writer's own spelling are recognised before (scan.h).
 *
 * A float stands twice, as bits and as a decimal. The bits count; the decimal is for people, and a
 * reader refuses a line where the two disagree.
 */
#include "trace/field.h"

#include "base/hash.h"
#include "base/limits.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- Names ----------------------------------------------------------------------------------- */

void name_pool_free(name_pool *pool)
{
    for (size_t i = 0; i < pool->n; i++) {
        free(pool->name[i]);
    }
    free(pool->name);
    *pool = (name_pool){0};
}

/* The pool stays small, because a model has few ops and kernels. */
greta_status name_pool_keep(const field_source *source, const char *name, const char **kept)
{
    name_pool *pool = source->names;
    for (size_t i = 0; i < pool->n; i++) {
        if (strcmp(pool->name[i], name) == 0) {
            *kept = pool->name[i];
            return GRETA_OK;
        }
    }
    if (pool->n == LIMIT_TRACE_NAMES) {
        return field_error(source, "more than %u different names of ops and kernels",
                           LIMIT_TRACE_NAMES);
    }
    if (pool->name == NULL) {
        pool->name = calloc(LIMIT_TRACE_NAMES, sizeof pool->name[0]);
    }
    char *copy = strdup(name);
    if (pool->name == NULL || copy == NULL) {
        free(copy);
        return error_memory(source->err, "name", strlen(name) + 1);
    }
    *kept = pool->name[pool->n++] = copy;
    return GRETA_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

void json_put_key(text *json, const char *key)
{
    bool is_first = json->length > 0 && json->data[json->length - 1] == '{';
    text_append(json, ",\"", is_first ? 0 : 1);
    text_append(json, "\"", 1);
    text_string(json, key);
    text_append(json, "\":", 2);
}

/* Bytes of the character at `string` if it is UTF-8 beyond ASCII, else 0. */
static size_t utf8_bytes(const char *string, size_t n)
{
    utf8proc_int32_t character;
    utf8proc_ssize_t used =
        utf8proc_iterate((const utf8proc_uint8_t *)string, (utf8proc_ssize_t)n, &character);
    return used > 1 ? (size_t)used : 0;
}

void json_put_string(text *json, const char *string, size_t n)
{
    text_append(json, "\"", 1);
    for (size_t i = 0; i < n;) {
        unsigned char byte = (unsigned char)string[i];
        size_t wide = byte >= 0x80 ? utf8_bytes(string + i, n - i) : 0;
        if (wide > 0) {
            text_append(json, string + i, wide);
        } else if (byte >= 0x80) {
            text_append(json, "?", 1);
        } else if (byte < 0x20 || byte == 0x7f) {
            text_format(json, "\\u%04x", byte);
        } else {
            text_append(json, "\\", byte == '"' || byte == '\\' ? 1 : 0);
            text_append(json, string + i, 1);
        }
        i += wide > 0 ? wide : 1;
    }
    text_append(json, "\"", 1);
}

void json_put_whole(text *json, int64_t value)
{
    char digits[24];
    size_t start = sizeof digits;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do {
        digits[--start] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (value < 0) {
        digits[--start] = '-';
    }
    text_append(json, digits + start, sizeof digits - start);
}

void json_put_hex(text *json, uint64_t value, size_t digits)
{
    char quoted[18] = "\"";
    for (size_t i = 0; i < digits; i++) {
        quoted[1 + i] = "0123456789abcdef"[value >> (4 * (digits - 1 - i)) & 15];
    }
    quoted[1 + digits] = '"';
    text_append(json, quoted, digits + 2);
}

void json_put_f32(text *json, float value)
{
    char decimal[NUMBER_MAX];
    bool is_finite = value >= -FLT_MAX && value <= FLT_MAX;
    number_f32(value, decimal);
    text_append(json, "\"", is_finite ? 0 : 1);
    text_string(json, decimal);
    text_append(json, "\"", is_finite ? 0 : 1);
}

static int64_t member_whole(const field *f, const uint8_t *member)
{
    int32_t narrow;
    int64_t wide;
    uint64_t natural;
    if (f->kind == FIELD_I32 || f->kind == FIELD_ENUM) {
        memcpy(&narrow, member, sizeof narrow);
        return narrow;
    }
    if (f->kind == FIELD_I64) {
        memcpy(&wide, member, sizeof wide);
        return wide;
    }
    memcpy(&natural, member, sizeof natural);
    return natural > INT64_MAX ? INT64_MAX : (int64_t)natural;
}

static uint64_t member_bits(const field *f, const uint8_t *member)
{
    uint32_t narrow;
    uint64_t wide;
    if (f->kind == FIELD_HEX64) {
        memcpy(&wide, member, sizeof wide);
        return wide;
    }
    memcpy(&narrow, member, sizeof narrow);
    return narrow;
}

static const char *member_text(const field *f, const uint8_t *member, size_t *n)
{
    const char *string = (const char *)member;
    if (f->kind == FIELD_NAME) {
        memcpy(&string, member, sizeof string);
        *n = string == NULL ? 0 : strlen(string);
    } else {
        *n = strnlen(string, f->size);
    }
    return string;
}

static bool is_absent(const field *f, const uint8_t *member)
{
    size_t n;
    switch (f->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
        member_text(f, member, &n);
        return n == 0;
    case FIELD_HEX32:
    case FIELD_HEX64:
    case FIELD_F32:
        return member_bits(f, member) == 0;
    default:
        return member_whole(f, member) == f->absent;
    }
}

static void member_write(text *json, const field *f, const uint8_t *member)
{
    const char *string;
    size_t n;
    float value;
    switch (f->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
        string = member_text(f, member, &n);
        json_put_string(json, string, n);
        break;
    case FIELD_ENUM:
        string = f->names->name((int)member_whole(f, member));
        json_put_string(json, string, strlen(string));
        break;
    case FIELD_HEX32:
    case FIELD_HEX64:
        json_put_hex(json, member_bits(f, member), f->kind == FIELD_HEX32 ? 8 : 16);
        break;
    case FIELD_F32:
        memcpy(&value, member, sizeof value);
        text_append(json, "[", 1);
        json_put_hex(json, hash_float_bits(value), 8);
        text_append(json, ",", 1);
        json_put_f32(json, value);
        text_append(json, "]", 1);
        break;
    default:
        json_put_whole(json, member_whole(f, member));
    }
}

void fields_write(text *json, field_table table, unsigned when, const void *base)
{
    for (size_t i = 0; i < table.n; i++) {
        const field *f = &table.field[i];
        const uint8_t *member = (const uint8_t *)base + f->offset;
        if ((f->when & when) != 0 && !(f->is_optional && is_absent(f, member))) {
            json_put_key(json, f->key);
            member_write(json, f, member);
        }
    }
}

/* ---- Reading --------------------------------------------------------------------------------- */

greta_status field_error(const field_source *source, const char *format, ...)
{
    char message[sizeof source->err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return error_at(source->err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, source->line, "%s", message);
}

greta_status field_whole(const field_source *source, const char *key, const json_t *value,
                         int64_t min, int64_t max, int64_t *out)
{
    *out = 0;
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max) {
        return field_error(source, "\"%s\" is not a whole number from %lld to %lld", key,
                           (long long)min, (long long)max);
    }
    *out = json_integer_value(value);
    return GRETA_OK;
}

greta_status field_hex(const field_source *source, const char *key, const json_t *value,
                       size_t digits, uint64_t *out)
{
    const char *string = json_string_value(value);
    bool is_hex = string != NULL && json_string_length(value) == digits;
    *out = 0;
    for (size_t i = 0; is_hex && i < digits; i++) {
        char c = string[i];
        is_hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
        *out = *out << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (!is_hex) {
        return field_error(source, "\"%s\" is not %zu hex digits", key, digits);
    }
    return GRETA_OK;
}

/* It lies between the middles to the value's neighbours. These are exact in a double, so that
 * reading the decimal as a double first cannot spoil the answer. */
bool field_is_decimal(double decimal, float value)
{
    uint32_t bits, up_bits, down_bits;
    float up, down;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) == 0) {
        return decimal == 0;
    }
    up_bits = bits + 1;   /* away from zero */
    down_bits = bits - 1; /* towards zero */
    memcpy(&up, &up_bits, sizeof up);
    memcpy(&down, &down_bits, sizeof down);
    double inner = ((double)value + (double)down) / 2;
    double outer = (double)value + ((double)value - inner);
    if (up >= -FLT_MAX && up <= FLT_MAX) {
        outer = ((double)value + (double)up) / 2;
    }
    return value > 0 ? decimal >= inner && decimal <= outer : decimal <= inner && decimal >= outer;
}

static greta_status read_f32(const field_source *source, const char *key, const json_t *value,
                             float *out)
{
    uint64_t bits;
    char expected[NUMBER_MAX];
    const json_t *decimal = json_array_get(value, 1);
    if (json_array_size(value) != 2) {
        return field_error(source, "\"%s\" is not a number", key);
    }
    GRETA_TRY(field_hex(source, key, json_array_get(value, 0), 8, &bits));
    uint32_t narrow = (uint32_t)bits;
    memcpy(out, &narrow, sizeof narrow);
    bool is_finite = *out >= -FLT_MAX && *out <= FLT_MAX;
    if (is_finite ? !json_is_number(decimal) : !json_is_string(decimal)) {
        return field_error(source, "\"%s\" is not a number", key);
    }
    bool fits = is_finite ? field_is_decimal(json_number_value(decimal), *out)
                          : strcmp(json_string_value(decimal), number_f32(*out, expected)) == 0;
    if (!fits || narrow != hash_float_bits(*out)) {
        return field_error(source, "\"%s\" is not a number: its bits are %08x, which is %s", key,
                           (unsigned)narrow, number_f32(*out, expected));
    }
    return GRETA_OK;
}

static greta_status read_text(const field_source *source, const field *f, const json_t *value,
                              uint8_t *member)
{
    const char *string = json_string_value(value);
    if (string == NULL) {
        return field_error(source, "\"%s\" is not a string", f->key);
    }
    if (f->kind == FIELD_NAME) {
        const char *kept = NULL;
        GRETA_TRY(name_pool_keep(source, string, &kept));
        memcpy(member, &kept, sizeof kept);
    } else if (f->kind == FIELD_ENUM) {
        char shown[ESCAPED_MAX];
        int32_t found = f->names->find(string);
        if (found < 0) {
            return field_error(source, "\"%s\" is unknown: \"%s\"", f->key,
                               escape(string, strlen(string), shown));
        }
        memcpy(member, &found, sizeof found);
    } else if (strlen(string) >= f->size) {
        return field_error(source, "\"%s\" is longer than %zu bytes", f->key, f->size - 1);
    } else {
        memcpy(member, string, strlen(string) + 1);
    }
    return GRETA_OK;
}

static greta_status member_read(const field_source *source, const field *f, const json_t *value,
                                uint8_t *member)
{
    int64_t whole;
    uint64_t bits;
    float number;
    switch (f->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
    case FIELD_ENUM:
        return read_text(source, f, value, member);
    case FIELD_HEX32:
    case FIELD_HEX64:
        GRETA_TRY(field_hex(source, f->key, value, f->kind == FIELD_HEX32 ? 8 : 16, &bits));
        uint32_t low = (uint32_t)bits;
        memcpy(member, f->kind == FIELD_HEX32 ? (void *)&low : (void *)&bits,
               f->kind == FIELD_HEX32 ? sizeof low : sizeof bits);
        return GRETA_OK;
    case FIELD_F32:
        GRETA_TRY(read_f32(source, f->key, value, &number));
        memcpy(member, &number, sizeof number);
        return GRETA_OK;
    default:
        GRETA_TRY(field_whole(source, f->key, value, f->kind == FIELD_U64 ? 0 : f->min,
                              f->kind == FIELD_I32 ? INT32_MAX : INT64_MAX, &whole));
        int32_t narrow = (int32_t)whole;
        memcpy(member, f->kind == FIELD_I32 ? (void *)&narrow : (void *)&whole,
               f->kind == FIELD_I32 ? sizeof narrow : sizeof whole);
        return GRETA_OK;
    }
}

void field_clear(const field *f, uint8_t *member)
{
    int32_t narrow = (int32_t)f->absent;
    const char *none = NULL;
    switch (f->kind) {
    case FIELD_TEXT:
        memset(member, 0, f->size);
        break;
    case FIELD_NAME:
        memcpy(member, &none, sizeof none);
        break;
    case FIELD_HEX32:
    case FIELD_F32:
        memset(member, 0, 4);
        break;
    case FIELD_I32:
    case FIELD_ENUM:
        memcpy(member, &narrow, sizeof narrow);
        break;
    default:
        memcpy(member, &f->absent, sizeof f->absent);
    }
}

greta_status fields_read(const field_source *source, field_table table, unsigned when,
                         const json_t *object, void *base)
{
    for (size_t i = 0; i < table.n; i++) {
        const field *f = &table.field[i];
        uint8_t *member = (uint8_t *)base + f->offset;
        if ((f->when & when) == 0) {
            continue;
        }
        const json_t *value = json_object_get(object, f->key);
        if (value != NULL) {
            GRETA_TRY(member_read(source, f, value, member));
        } else if (f->is_optional) {
            field_clear(f, member);
        } else {
            return field_error(source, "\"%s\" is missing", f->key);
        }
    }
    return GRETA_OK;
}
