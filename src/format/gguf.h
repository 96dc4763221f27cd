/* gguf.h - GGUF v2 and v3, little-endian: bytes -> validated directory.
 *
 * File: header {magic "GGUF", u32 version, u64 n_tensor, u64 n_key}, keys, tensor infos, padding to
 * general.alignment, tensor data (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
 * Everything is checked at open (BAD_INPUTS rules R1-R8): a gguf that opened has tensors whose
 * bytes lie inside the file, are aligned, do not overlap, and have unique names; keys are unique
 * UTF-8 without NUL.
 * Strings point into the mapping and are NOT NUL-terminated unless said. No model knowledge here.
 *
 * A model may be split over files, NAME-00001-of-00003.gguf and so on (keys split.no, split.count,
 * split.tensors.count). gguf_open is given any of them and opens all as one directory: the keys of
 * part 1, the tensors of all parts in order.
 */
#ifndef GRETA_FORMAT_GGUF_H
#define GRETA_FORMAT_GGUF_H

#include "base/dtype.h"
#include "base/error.h"
#include "base/file.h"

typedef enum gguf_kind {
    GGUF_U8 = 0, GGUF_I8 = 1, GGUF_U16 = 2, GGUF_I16 = 3, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6,
    GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_I64 = 11, GGUF_F64 = 12,
} gguf_kind;

typedef struct gguf_string {
    const char *data;
    size_t length;
} gguf_string;

typedef struct gguf_key {
    char *name;          /* NUL-terminated copy */
    gguf_kind kind;      /* of the value; GGUF_ARRAY for arrays */
    gguf_kind item_kind; /* of the items of an array */
    uint64_t n;          /* items; 1 for scalars */
    const uint8_t *data; /* first value byte; strings: {u64 length, bytes} in a row */
    uint64_t offset;     /* of the value in the file */
} gguf_key;

typedef struct gguf_tensor {
    char *name;          /* NUL-terminated copy */
    uint32_t n_dim;
    uint64_t dim[4];     /* GGUF order: dim[0] is the row length K; absent dimensions are 1 */
    dtype type;
    uint64_t offset;     /* from the start of its file */
    uint64_t bytes;
    const uint8_t *data;
    uint64_t info_offset; /* of its entry in the file, for messages */
    uint32_t part;        /* the file it lies in: 0, or counted as split.no does */
} gguf_tensor;

typedef struct gguf {
    mapped_file *file;   /* (n_file): one, or all parts in order; none of a parsed buffer */
    size_t n_file;
    uint64_t part, n_part, n_tensor_split; /* the split.* keys: of n_part > 1 it is part `part` */
    uint32_t version;
    uint64_t alignment;
    gguf_key *key;       /* in file order */
    size_t n_key;
    gguf_tensor *tensor; /* in file order */
    size_t n_tensor;
    uint64_t n_hole;     /* data bytes that are neither tensor nor padding: a warning */
    uint64_t data_offset; /* of the tensor data in the (first) file */
    uint64_t size;       /* of all files */
    const gguf_key **key_by_name; /* (n_key), sorted; likewise the tensors */
    const gguf_tensor **tensor_by_name;
} gguf;

/* `path` may be any part of a split model; the others are sought beside it. Parts that are missing,
 * repeated, in another order or of another model are refused (gguf_open.c). */
greta_status gguf_open(const char *path, gguf **out, greta_error *err);
/* Fuzz and test entry: parses a buffer that outlives the gguf; tensors point into it. A part is
 * given as it is: n_part says so. */
greta_status gguf_parse(const uint8_t *data, uint64_t size, gguf **out, greta_error *err);
void gguf_close(gguf *g);
/* Sorts the tensors by name into tensor_by_name (n_tensor); a name that stands twice is refused. */
greta_status gguf_index_tensors(gguf *g, greta_error *err);

const gguf_key *gguf_find_key(const gguf *g, const char *name);          /* NULL: absent */
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);    /* NULL: absent */
/* 0 when absent and `needed` is 0 (then *value is untouched); GRETA_BAD_INPUT when needed and
 * absent or of another kind, naming both kinds. Any unsigned or non-negative integer kind reads as
 * u64. */
greta_status gguf_get_u64(const gguf *g, const char *name, int needed, uint64_t *value,
                          greta_error *err);
greta_status gguf_get_f32(const gguf *g, const char *name, int needed, float *value,
                          greta_error *err);
greta_status gguf_get_bool(const gguf *g, const char *name, int needed, int *value,
                           greta_error *err);
greta_status gguf_get_string(const gguf *g, const char *name, int needed, gguf_string *value,
                             greta_error *err);
/* Walks an array of strings: *cursor starts at key->data; the caller loops key->n times. */
gguf_string gguf_next_string(const uint8_t **cursor);
/* Item i < n of an array, or the value of a scalar (i = 0), widened. i64: integers and bool, a u64
 * above INT64_MAX saturates. f64: these and floats. Asking for another kind is the caller's bug. */
int64_t gguf_item_i64(const gguf_key *key, uint64_t i);
double gguf_item_f64(const gguf_key *key, uint64_t i);

/* "u32", "string", "array": as GGUF names them; "?" for a number that is none. */
const char *gguf_kind_name(gguf_kind kind);
/* Bytes of a value of a fixed-size kind; 0: string, array, or no kind. */
uint64_t gguf_kind_bytes(gguf_kind kind);

/* Human text or JSON of the whole directory, malloc'd. */
greta_status gguf_describe(const gguf *g, int json, char **text, greta_error *err);

#endif
