/* gguf_get.c - typed access to a directory that gguf.c has validated.
 *
 * A value is read as what it is or not at all: asking a number of a string, or u64 of a negative
 * value, is an error that names both types, because a silent conversion is a wrong model. Integer
 * kinds are one family: writers disagree on u32 or u64 or i32 for the same key, and a value that is
 * not negative means the same in all of them. f64 is not read as f32: that would round.
 */
#include "format/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint64_t bytes; /* 0: the length follows from the value */
} kinds[] = {
    [GGUF_U8] = {"u8", 1},         [GGUF_I8] = {"i8", 1},       [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},       [GGUF_U32] = {"u32", 4},     [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},       [GGUF_BOOL] = {"bool", 1},   [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0},   [GGUF_U64] = {"u64", 8},     [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

static bool is_kind(gguf_kind kind)
{
    return (size_t)kind < sizeof kinds / sizeof kinds[0];
}

const char *gguf_kind_name(gguf_kind kind)
{
    return is_kind(kind) ? kinds[kind].name : "?";
}

uint64_t gguf_kind_bytes(gguf_kind kind)
{
    return is_kind(kind) ? kinds[kind].bytes : 0;
}

/* ---- Finding --------------------------------------------------------------------------------- */

static int compare_key_name(const void *name, const void *element)
{
    return strcmp(name, (*(const gguf_key *const *)element)->name);
}

const gguf_key *gguf_find_key(const gguf *g, const char *name)
{
    const gguf_key *const *found =
        bsearch(name, g->key_by_name, g->n_key, sizeof *g->key_by_name, compare_key_name);
    return found != NULL ? *found : NULL;
}

static int compare_tensor_name(const void *name, const void *element)
{
    return strcmp(name, (*(const gguf_tensor *const *)element)->name);
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name)
{
    const gguf_tensor *const *found = bsearch(name, g->tensor_by_name, g->n_tensor,
                                              sizeof *g->tensor_by_name, compare_tensor_name);
    return found != NULL ? *found : NULL;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static uint64_t load(const uint8_t *bytes, uint64_t n)
{
    uint64_t value = 0;
    for (uint64_t i = 0; i < n; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

/* The bits of item i, zero-extended. */
static uint64_t item_bits(const gguf_key *key, uint64_t i)
{
    uint64_t bytes = gguf_kind_bytes(key->item_kind);
    GRETA_ASSERT(bytes > 0 && i < key->n);
    return load(key->data + i * bytes, bytes);
}

static float f32_from_bits(uint64_t bits)
{
    uint32_t narrow = (uint32_t)bits;
    float value;
    memcpy(&value, &narrow, sizeof value);
    return value;
}

static double f64_from_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int64_t gguf_item_i64(const gguf_key *key, uint64_t i)
{
    uint64_t bits = item_bits(key, i);
    switch (key->item_kind) {
    case GGUF_I8:
        return (int8_t)bits;
    case GGUF_I16:
        return (int16_t)bits;
    case GGUF_I32:
        return (int32_t)bits;
    case GGUF_I64:
        return (int64_t)bits;
    default:
        GRETA_ASSERT(key->item_kind != GGUF_F32 && key->item_kind != GGUF_F64);
        return bits <= INT64_MAX ? (int64_t)bits : INT64_MAX;
    }
}

double gguf_item_f64(const gguf_key *key, uint64_t i)
{
    switch (key->item_kind) {
    case GGUF_F32:
        return (double)f32_from_bits(item_bits(key, i));
    case GGUF_F64:
        return f64_from_bits(item_bits(key, i));
    case GGUF_U64:
        return (double)item_bits(key, i);
    default:
        return (double)gguf_item_i64(key, i);
    }
}

gguf_string gguf_next_string(const uint8_t **cursor)
{
    gguf_string string = {(const char *)*cursor + 8, (size_t)load(*cursor, 8)};
    *cursor += 8 + string.length;
    return string;
}

/* ---- Typed getters --------------------------------------------------------------------------- */

static greta_status fail(const gguf_key *key, const char *message, greta_error *err)
{
    char shown[ESCAPED_MAX];
    greta_status status = error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, key->offset, "%s",
                                   message);
    error_subject(err, "key \"%s\"", escape(key->name, strlen(key->name), shown));
    return status;
}

static greta_status fail_kind(const gguf_key *key, const char *expected, greta_error *err)
{
    char message[96];
    snprintf(message, sizeof message, "is of type %s%s%s (%s)", gguf_kind_name(key->kind),
             key->kind == GGUF_ARRAY ? " of " : "",
             key->kind == GGUF_ARRAY ? gguf_kind_name(key->item_kind) : "", expected);
    return fail(key, message, err);
}

/* *key is NULL without an error when the key is absent and not needed. */
static greta_status find(const gguf *g, const char *name, int needed, const gguf_key **key,
                         greta_error *err)
{
    char shown[ESCAPED_MAX];
    *key = gguf_find_key(g, name);
    if (*key == NULL && needed) {
        return error_set(err, GRETA_BAD_INPUT, "key \"%s\" is missing",
                         escape(name, strlen(name), shown));
    }
    return GRETA_OK;
}

greta_status gguf_get_u64(const gguf *g, const char *name, int needed, uint64_t *value,
                          greta_error *err)
{
    const gguf_key *key;
    GRETA_TRY(find(g, name, needed, &key, err));
    if (key == NULL) {
        return GRETA_OK;
    }
    switch (key->kind) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *value = item_bits(key, 0);
        return GRETA_OK;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64: {
        int64_t number = gguf_item_i64(key, 0);
        if (number < 0) {
            char message[64];
            snprintf(message, sizeof message, "is %" PRId64 " (0 or more)", number);
            return fail(key, message, err);
        }
        *value = (uint64_t)number;
        return GRETA_OK;
    }
    default:
        return fail_kind(key, "an integer", err);
    }
}

greta_status gguf_get_f32(const gguf *g, const char *name, int needed, float *value,
                          greta_error *err)
{
    const gguf_key *key;
    GRETA_TRY(find(g, name, needed, &key, err));
    if (key != NULL && key->kind != GGUF_F32) {
        return fail_kind(key, "f32", err);
    }
    if (key != NULL) {
        *value = f32_from_bits(item_bits(key, 0));
    }
    return GRETA_OK;
}

greta_status gguf_get_bool(const gguf *g, const char *name, int needed, int *value,
                           greta_error *err)
{
    const gguf_key *key;
    GRETA_TRY(find(g, name, needed, &key, err));
    if (key != NULL && key->kind != GGUF_BOOL) {
        return fail_kind(key, "bool", err);
    }
    if (key != NULL) {
        *value = item_bits(key, 0) != 0;
    }
    return GRETA_OK;
}

greta_status gguf_get_string(const gguf *g, const char *name, int needed, gguf_string *value,
                             greta_error *err)
{
    const gguf_key *key;
    GRETA_TRY(find(g, name, needed, &key, err));
    if (key != NULL && key->kind != GGUF_STRING) {
        return fail_kind(key, "string", err);
    }
    if (key != NULL) {
        const uint8_t *cursor = key->data;
        *value = gguf_next_string(&cursor);
    }
    return GRETA_OK;
}
