/* gguf_builder.h - writes GGUF bytes for tests, right or wrong as told. Shares nothing with
 * src/format/: it follows the specification, with no check at all. */
#ifndef TESTS_GGUF_BUILDER_H
#define TESTS_GGUF_BUILDER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct builder {
    uint8_t *data;
    size_t size, capacity;
} builder;

static inline void put(builder *b, const void *bytes, size_t n)
{
    if (b->size + n > b->capacity) {
        b->capacity = (b->size + n) * 2;
        b->data = realloc(b->data, b->capacity);
        if (b->data == NULL) {
            abort();
        }
    }
    if (n > 0) {
        memcpy(b->data + b->size, bytes, n);
    }
    b->size += n;
}

static inline void put_number(builder *b, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        put(b, &byte, 1);
    }
}

static inline void put_u32(builder *b, uint32_t value)
{
    put_number(b, value, 4);
}

static inline void put_u64(builder *b, uint64_t value)
{
    put_number(b, value, 8);
}

static inline void put_bytes(builder *b, const char *bytes, size_t n)
{
    put_u64(b, n);
    put(b, bytes, n);
}

static inline void put_string(builder *b, const char *string)
{
    put_bytes(b, string, strlen(string));
}

static inline void put_header(builder *b, uint64_t n_tensor, uint64_t n_key)
{
    b->size = 0;
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, n_tensor);
    put_u64(b, n_key);
}

/* The head of a key: name and kind; the value follows. */
static inline void put_key(builder *b, const char *name, uint32_t kind)
{
    put_string(b, name);
    put_u32(b, kind);
}

static inline void put_key_u32(builder *b, const char *name, uint32_t value)
{
    put_key(b, name, 4);
    put_u32(b, value);
}

static inline void put_array(builder *b, const char *name, uint32_t item_kind, uint64_t n)
{
    put_key(b, name, 9);
    put_u32(b, item_kind);
    put_u64(b, n);
}

typedef struct tensor_info {
    const char *name;
    uint32_t type;
    uint64_t offset;
    uint32_t n_dim;
    uint64_t dim[5];
} tensor_info;

static inline void put_tensor(builder *b, const tensor_info *t)
{
    put_string(b, t->name);
    put_u32(b, t->n_dim);
    for (uint32_t i = 0; i < t->n_dim && i < 5; i++) {
        put_u64(b, t->dim[i]);
    }
    put_u32(b, t->type);
    put_u64(b, t->offset);
}

/* Zeros up to a multiple of `alignment`, then `bytes` more. */
static inline void put_data(builder *b, size_t alignment, size_t bytes)
{
    static const uint8_t zero;
    while (b->size % alignment != 0) {
        put(b, &zero, 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        put(b, &zero, 1);
    }
}

#endif
