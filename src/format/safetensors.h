/* safetensors.h - safetensors files, one or several shards: bytes -> validated directory.
 *
 * File: u64 length n of the header, little-endian; n bytes of JSON, {"name": {"dtype": "BF16",
 * "shape": [rows, columns], "data_offsets": [begin, end]}, ..., "__metadata__": {"k": "v"}}; the
 * data, from which offsets count (https://github.com/huggingface/safetensors, README "Format").
 * Everything is checked at open: tensors fill the data without overlap or hole, their bytes are
 * those of dtype and shape, names are unique UTF-8 without NUL. No model knowledge here.
 *
 * A model in shards has an index, model.safetensors.index.json: {"weight_map": {"name": "file"}}.
 * It is opened as one directory, and index and shards must say the same.
 */
#ifndef GRETA_FORMAT_SAFETENSORS_H
#define GRETA_FORMAT_SAFETENSORS_H

#include "base/dtype.h"
#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"

typedef struct safetensors_type {
    const char *name; /* "BF16" */
    uint32_t bytes;   /* of a value */
    bool is_weight;   /* F32, F16, BF16: `type` says which */
    dtype type;
} safetensors_type;

typedef struct safetensors_tensor {
    char *name; /* NUL-terminated copy */
    const safetensors_type *type;
    uint32_t n_dim;                       /* 0: a scalar */
    uint64_t dim[LIMIT_SAFETENSORS_DIMS]; /* as in the file: the last is the row length; absent
                                             dimensions are 1; a tensor may be empty */
    uint64_t n_element;
    uint64_t offset; /* from the start of its file */
    uint64_t bytes;
    const uint8_t *data;
    uint32_t file; /* index of its file */
} safetensors_tensor;

typedef struct safetensors {
    mapped_file *file; /* (n_file), in order of their names; none of a parsed buffer */
    size_t n_file;
    safetensors_tensor *tensor; /* by file, then by place */
    size_t n_tensor;
    const safetensors_tensor **tensor_by_name; /* (n_tensor), sorted */
    uint64_t size;                             /* of all files */
} safetensors;

greta_status safetensors_open(const char *path, safetensors **out, greta_error *err);
/* The weights of a folder: model.safetensors, else the shards that model.safetensors.index.json
 * names. Shards lie in the folder itself. */
greta_status safetensors_open_folder(const char *folder, safetensors **out, greta_error *err);
/* Fuzz and test entry: parses a buffer that outlives the result; tensors point into it. */
greta_status safetensors_parse(const uint8_t *data, uint64_t size, safetensors **out,
                               greta_error *err);
void safetensors_close(safetensors *s);

/* The i-th type that files may have; NULL: there are fewer. */
const safetensors_type *safetensors_type_at(size_t i);
/* NULL: absent. */
const safetensors_tensor *safetensors_find(const safetensors *s, const char *name);
/* Sorts tensors by name into tensor_by_name; a name that stands twice is refused. */
greta_status safetensors_index(safetensors *s, greta_error *err);

#endif
