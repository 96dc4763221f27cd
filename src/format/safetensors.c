/* safetensors.c - reads a safetensors directory and trusts nothing in it.
 *
 * The format is the README of huggingface/safetensors, and its rules are kept to the letter: the
 * header begins with '{', offsets count from its end, tensors fill the data from its first byte to
 * its last, without overlap and without holes. A file that breaks one of them was not written by
 * the format's own writer, and what its bytes mean is then a matter of opinion.
 *
 * The JSON is json_strict's; numbers from it meet arithmetic only through checked.h. A tensor of a
 * type that no weight has (I64, U8, F8_E4M3 ...) is listed with its bytes; types of less than a
 * byte and unknown ones are refused, as their size is not known here. Order, overlap and holes are
 * found by sorting by offset.
 */
#include "format/safetensors.h"

#include "base/checked.h"
#include "base/json_strict.h"
#include "format/gguf_guess.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8u

static const safetensors_type types[] = {
    {"F32", 4, true, DTYPE_F32},      {"F16", 2, true, DTYPE_F16},
    {"BF16", 2, true, DTYPE_BF16},    {"F64", 8, false, DTYPE_F32},
    {"F8_E4M3", 1, false, DTYPE_F32}, {"F8_E5M2", 1, false, DTYPE_F32},
    {"F8_E8M0", 1, false, DTYPE_F32}, {"I64", 8, false, DTYPE_F32},
    {"I32", 4, false, DTYPE_F32},     {"I16", 2, false, DTYPE_F32},
    {"I8", 1, false, DTYPE_F32},      {"U64", 8, false, DTYPE_F32},
    {"U32", 4, false, DTYPE_F32},     {"U16", 2, false, DTYPE_F32},
    {"U8", 1, false, DTYPE_F32},      {"BOOL", 1, false, DTYPE_F32},
};

const safetensors_type *safetensors_type_at(size_t i)
{
    return i < sizeof types / sizeof types[0] ? &types[i] : NULL;
}

typedef struct reader {
    const uint8_t *data; /* behind the header */
    uint64_t size;       /* of it */
    uint64_t start;      /* of it in the file */
    greta_error *err;
} reader;

/* A refusal that names the tensor. */
#define FAIL(r, name, ...)                                                                         \
    (error_set((r)->err, GRETA_BAD_INPUT, __VA_ARGS__), subject_set((r)->err, (name)))

static greta_status subject_set(greta_error *err, const char *name)
{
    char shown[ESCAPED_MAX];
    error_subject(err, "\"%s\"", escape(name, strlen(name), shown));
    return GRETA_BAD_INPUT;
}

/* ---- One entry ------------------------------------------------------------------------------- */

static greta_status read_type(const reader *r, const json_t *entry, safetensors_tensor *t)
{
    const json_t *value = json_object_get(entry, "dtype");
    char shown[ESCAPED_MAX];
    if (!json_is_string(value)) {
        return FAIL(r, t->name, value == NULL ? "no dtype" : "dtype is not a string");
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, json_string_value(value)) == 0) {
            t->type = &types[i];
            return GRETA_OK;
        }
    }
    return FAIL(r, t->name, "dtype \"%s\" is not supported",
                escape(json_string_value(value), json_string_length(value), shown));
}

/* A whole number of at least 0. */
static bool whole_number(const json_t *value, uint64_t *number)
{
    bool is_whole = json_is_integer(value) && json_integer_value(value) >= 0;
    *number = is_whole ? (uint64_t)json_integer_value(value) : 0;
    return is_whole;
}

static greta_status read_shape(const reader *r, const json_t *entry, safetensors_tensor *t)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) {
        return FAIL(r, t->name, shape == NULL ? "no shape" : "shape is not an array");
    }
    if (json_array_size(shape) > LIMIT_SAFETENSORS_DIMS) {
        return FAIL(r, t->name, "shape has %zu dimensions (at most %u)", json_array_size(shape),
                    LIMIT_SAFETENSORS_DIMS);
    }
    t->n_dim = (uint32_t)json_array_size(shape);
    t->n_element = 1;
    for (uint32_t i = 0; i < LIMIT_SAFETENSORS_DIMS; i++) {
        t->dim[i] = 1;
        if (i < t->n_dim && !whole_number(json_array_get(shape, i), &t->dim[i])) {
            return FAIL(r, t->name, "shape must be whole numbers");
        }
        if (!checked_mul(t->n_element, t->dim[i], &t->n_element) || t->n_element > INT64_MAX) {
            return FAIL(r, t->name, "element count overflows");
        }
    }
    return checked_mul(t->n_element, t->type->bytes, &t->bytes)
               ? GRETA_OK
               : FAIL(r, t->name, "size overflows");
}

static greta_status read_offsets(const reader *r, const json_t *entry, safetensors_tensor *t)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    uint64_t begin = 0, end = 0;
    if (offsets == NULL) {
        return FAIL(r, t->name, "no data_offsets");
    }
    if (json_array_size(offsets) != 2 || !whole_number(json_array_get(offsets, 0), &begin) ||
        !whole_number(json_array_get(offsets, 1), &end)) {
        return FAIL(r, t->name, "data_offsets must be two whole numbers");
    }
    if (begin > end) {
        return FAIL(r, t->name, "data_offsets end before they begin (%" PRIu64 ", %" PRIu64 ")",
                    begin, end);
    }
    if (end > r->size) {
        FAIL(r, t->name, "ends at byte %" PRIu64 " of the data, which has %" PRIu64, end, r->size);
        error_hint(r->err, "file truncated?");
        return GRETA_BAD_INPUT;
    }
    if (end - begin != t->bytes) {
        return FAIL(r, t->name, "shape needs %" PRIu64 " bytes, offsets give %" PRIu64, t->bytes,
                    end - begin);
    }
    t->offset = r->start + begin; /* inside the file */
    t->data = r->data + begin;
    return GRETA_OK;
}

static greta_status read_entry(const reader *r, const char *name, const json_t *entry,
                               safetensors_tensor *t)
{
    size_t bytes = strlen(name) + 1;
    if (bytes > LIMIT_SAFETENSORS_NAME_BYTES) {
        return FAIL(r, name, "name of %zu bytes (at most %u)", bytes - 1,
                    LIMIT_SAFETENSORS_NAME_BYTES - 1);
    }
    t->name = malloc(bytes);
    if (t->name == NULL) {
        return error_memory(r->err, "a name", bytes);
    }
    memcpy(t->name, name, bytes);
    if (!json_is_object(entry)) {
        return FAIL(r, name, "is not an object");
    }
    GRETA_TRY(read_type(r, entry, t));
    GRETA_TRY(read_shape(r, entry, t));
    return read_offsets(r, entry, t);
}

/* ---- The header ------------------------------------------------------------------------------ */

static greta_status read_metadata(const reader *r, const json_t *metadata)
{
    const char *key;
    json_t *value;
    char shown[ESCAPED_MAX];
    if (!json_is_object(metadata)) {
        return error_set(r->err, GRETA_BAD_INPUT, "__metadata__ is not an object");
    }
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value)) {
            return error_set(r->err, GRETA_BAD_INPUT, "__metadata__.%s is not a string",
                             escape(key, strlen(key), shown));
        }
    }
    return GRETA_OK;
}

static greta_status read_entries(const reader *r, const json_t *header, safetensors *s)
{
    const char *key;
    json_t *value;
    if (json_object_size(header) > LIMIT_SAFETENSORS_TENSORS) {
        return error_set(r->err, GRETA_BAD_INPUT, "declares %zu tensors (at most %u)",
                         json_object_size(header), LIMIT_SAFETENSORS_TENSORS);
    }
    s->tensor = calloc(json_object_size(header) + 1, sizeof *s->tensor);
    if (s->tensor == NULL) {
        return error_memory(r->err, "the directory", json_object_size(header) * sizeof *s->tensor);
    }
    json_object_foreach((json_t *)(uintptr_t)header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            GRETA_TRY(read_metadata(r, value));
        } else {
            /* counted first: close frees the name of an entry that failed */
            GRETA_TRY(read_entry(r, key, value, &s->tensor[s->n_tensor++]));
        }
    }
    return GRETA_OK;
}

static int compare_places(const void *a, const void *b)
{
    const safetensors_tensor *x = a, *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

/* Sorts by place and follows the data from its first byte to its last. */
static greta_status check_layout(const reader *r, safetensors *s)
{
    uint64_t end = r->start;
    char a[ESCAPED_MAX], b[ESCAPED_MAX];
    qsort(s->tensor, s->n_tensor, sizeof *s->tensor, compare_places);
    for (size_t i = 0; i < s->n_tensor; i++) {
        const safetensors_tensor *t = &s->tensor[i];
        if (t->offset < end) {
            const char *before = s->tensor[i - 1].name;
            return error_set(r->err, GRETA_BAD_INPUT, "tensors \"%.80s\" and \"%.80s\" overlap",
                             escape(before, strlen(before), a),
                             escape(t->name, strlen(t->name), b));
        }
        if (t->offset > end) {
            return FAIL(r, t->name, "%" PRIu64 " bytes before it belong to no tensor",
                        t->offset - end);
        }
        end = t->offset + t->bytes;
    }
    return end == r->start + r->size ? GRETA_OK
                                     : error_at(r->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, end,
                                                "%" PRIu64 " bytes of data after the last tensor",
                                                r->start + r->size - end);
}

static greta_status fail_header(const uint8_t *data, uint64_t size, greta_error *err)
{
    const char *kind =
        size >= 4 && memcmp(data, "GGUF", 4) == 0 ? "GGUF file" : gguf_guess(data, size);
    if (kind != NULL && strncmp(kind, "safetensors file", 16) != 0) {
        error_hint(err, "looks like a %s", kind);
    }
    return GRETA_BAD_INPUT;
}

/* The number of header bytes, which lie in the file. */
static greta_status read_length(const uint8_t *data, uint64_t size, uint64_t *length,
                                greta_error *err)
{
    *length = 0;
    if (size < LENGTH_BYTES) {
        error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, 0, "file ends inside the header length");
        return fail_header(data, size, err);
    }
    for (unsigned i = 0; i < LENGTH_BYTES; i++) {
        *length |= (uint64_t)data[i] << (8 * i);
    }
    if (*length > size - LENGTH_BYTES) {
        error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, 0,
                 "header length %" PRIu64 " exceeds the file of %" PRIu64 " bytes", *length, size);
        return fail_header(data, size, err);
    }
    if (*length > LIMIT_SAFETENSORS_HEADER_BYTES) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, 0,
                        "header length %" PRIu64 " exceeds the limit of %u", *length,
                        LIMIT_SAFETENSORS_HEADER_BYTES);
    }
    if (*length == 0 || data[LENGTH_BYTES] != '{') {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, LENGTH_BYTES,
                        "header does not begin with {");
    }
    return GRETA_OK;
}

static greta_status parse(const uint8_t *data, uint64_t size, safetensors *s, greta_error *err)
{
    uint64_t length;
    json_t *header = NULL;
    GRETA_TRY(read_length(data, size, &length, err));
    reader r = {data + LENGTH_BYTES + length, size - LENGTH_BYTES - length, LENGTH_BYTES + length,
                err};
    json_source source = {(const char *)data + LENGTH_BYTES, (size_t)length, LENGTH_BYTES,
                          LIMIT_SAFETENSORS_VALUES, "header"};
    GRETA_TRY(json_strict(&source, &header, err));
    greta_status status = read_entries(&r, header, s);
    json_decref(header);
    GRETA_TRY(status);
    GRETA_TRY(check_layout(&r, s));
    return safetensors_index(s, err);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    const safetensors_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

greta_status safetensors_index(safetensors *s, greta_error *err)
{
    free(s->tensor_by_name);
    s->tensor_by_name = calloc(s->n_tensor + 1, sizeof *s->tensor_by_name);
    if (s->tensor_by_name == NULL) {
        return error_memory(err, "the directory", s->n_tensor * sizeof *s->tensor_by_name);
    }
    for (size_t i = 0; i < s->n_tensor; i++) {
        s->tensor_by_name[i] = &s->tensor[i];
    }
    qsort(s->tensor_by_name, s->n_tensor, sizeof *s->tensor_by_name, compare_names);
    for (size_t i = 1; i < s->n_tensor; i++) {
        const char *name = s->tensor_by_name[i]->name;
        if (strcmp(s->tensor_by_name[i - 1]->name, name) == 0) {
            char shown[ESCAPED_MAX];
            return error_set(err, GRETA_BAD_INPUT, "\"%s\" appears twice",
                             escape(name, strlen(name), shown));
        }
    }
    return GRETA_OK;
}

const safetensors_tensor *safetensors_find(const safetensors *s, const char *name)
{
    safetensors_tensor key = {.name = (char *)(uintptr_t)name};
    const safetensors_tensor *wanted = &key;
    const safetensors_tensor *const *found =
        bsearch(&wanted, s->tensor_by_name, s->n_tensor, sizeof *s->tensor_by_name, compare_names);
    return found != NULL ? *found : NULL;
}

/* ---- Opening --------------------------------------------------------------------------------- */

greta_status safetensors_parse(const uint8_t *data, uint64_t size, safetensors **out,
                               greta_error *err)
{
    *out = NULL;
    safetensors *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return error_memory(err, "the directory", sizeof *s);
    }
    s->size = size;
    greta_status status = parse(data, size, s, err);
    if (status != GRETA_OK) {
        safetensors_close(s);
        return status;
    }
    *out = s;
    return GRETA_OK;
}

greta_status safetensors_open(const char *path, safetensors **out, greta_error *err)
{
    mapped_file file;
    *out = NULL;
    GRETA_TRY(mapped_file_open(path, &file, err));
    greta_status status = safetensors_parse(file.data, file.size, out, err);
    if (status == GRETA_OK) {
        (*out)->file = malloc(sizeof file);
        if ((*out)->file == NULL) {
            safetensors_close(*out);
            *out = NULL;
            status = error_memory(err, "the directory", sizeof file);
        }
    }
    if (status != GRETA_OK) {
        mapped_file_close(&file);
        error_file(err, path);
        return status;
    }
    (*out)->file[0] = file;
    (*out)->n_file = 1;
    return GRETA_OK;
}

void safetensors_close(safetensors *s)
{
    if (s == NULL) {
        return;
    }
    for (size_t i = 0; i < s->n_tensor; i++) {
        free(s->tensor[i].name);
    }
    for (size_t i = 0; i < s->n_file; i++) {
        mapped_file_close(&s->file[i]);
    }
    free(s->tensor);
    free(s->tensor_by_name);
    free(s->file);
    free(s);
}
