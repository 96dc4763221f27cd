/* field.h - structs as JSON objects: one table per struct says how each member is written and read.
 *
 * Because both directions walk the same table, what is written is what is read. A table row may
 * belong to some objects only (`when`), and may be left out when it holds its `absent` value.
 */
#ifndef GRETA_TRACE_FIELD_H
#define GRETA_TRACE_FIELD_H

#include "base/error.h"
#include "base/text.h"

#include <jansson.h>

typedef enum field_kind {
    FIELD_I32, FIELD_I64,      /* numbers from `min` on */
    FIELD_U64,                 /* from 0 on; JSON stops at 2^63-1, and so does what is written */
    FIELD_HEX32, FIELD_HEX64,  /* uint32_t, uint64_t: "00001f80", 8 or 16 digits */
    FIELD_F32,                 /* ["3dcccccd",0.1]: bits, and the shortest decimal; "nan", "inf" and
                                  "-inf" are strings there, and every NaN is 7fc00000 */
    FIELD_TEXT,                /* char[size]; bytes that are not UTF-8 are written as ? */
    FIELD_NAME,                /* const char *; read into the name pool */
    FIELD_ENUM,                /* an enum of int's size, by name */
} field_kind;

typedef struct field_enum {
    const char *(*name)(int value);
    int (*find)(const char *name); /* -1: unknown */
} field_enum;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset, size;     /* size: FIELD_TEXT */
    unsigned when;           /* bits of the caller: which objects have this field */
    bool is_optional;
    int64_t absent;          /* what an optional number stands for when it is left out */
    int64_t min;             /* of whole numbers */
    const field_enum *names; /* FIELD_ENUM */
} field;

typedef struct field_table {
    const field *field;
    size_t n;
} field_table;

/* Strings that many records share, each kept once. */
typedef struct name_pool {
    char **name;
    size_t n;
} name_pool;

void name_pool_free(name_pool *pool);

/* Appends the members of *base that belong to `when`, each led by a comma, but none after a {. */
void fields_write(text *json, field_table table, unsigned when, const void *base);

typedef struct field_source {
    uint64_t line;           /* in the file, for messages */
    name_pool *names;
    greta_error *err;
} field_source;

/* Fills the members that belong to `when`; a missing, malformed or out-of-range one is
 * GRETA_BAD_INPUT naming line and key. Members of other objects are left alone. */
greta_status fields_read(const field_source *source, field_table table, unsigned when,
                         const json_t *object, void *base);

/* The pool's copy of `name`. */
greta_status name_pool_keep(const field_source *source, const char *name, const char **kept);
/* Whether `decimal` reads back as `value`. */
bool field_is_decimal(double decimal, float value);
/* Gives an optional member what its absence stands for. */
void field_clear(const field *f, uint8_t *member);

/* GRETA_BAD_INPUT at the line of the source. */
greta_status field_error(const field_source *source, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A whole number from `min` to `max`. */
greta_status field_whole(const field_source *source, const char *key, const json_t *value,
                         int64_t min, int64_t max, int64_t *out);
/* `digits` hex digits, at most 16. */
greta_status field_hex(const field_source *source, const char *key, const json_t *value,
                       size_t digits, uint64_t *out);

/* Pieces of JSON. */
void json_put_key(text *json, const char *key); /* ,"key": */
void json_put_string(text *json, const char *string, size_t n);
void json_put_whole(text *json, int64_t value);
void json_put_hex(text *json, uint64_t value, size_t digits); /* with quotes */
void json_put_f32(text *json, float value);     /* the decimal of FIELD_F32 */

#endif
