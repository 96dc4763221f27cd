/* safetensors_folder.c - the weights of a Hugging Face folder: one file, or shards with an index.
 *
 * `model.safetensors` wins when both are there, as in transformers. The index maps every tensor to
 * the shard that holds it; the sorted set of its files is what is opened, so an index can name
 * nothing outside the folder: a shard is a plain name, and one with a slash in it, or that begins
 * with a dot, is refused. (The file may still be a symbolic link: the cache of huggingface_hub is
 * made of them. Links are the doing of whoever owns the folder, names are the file's.)
 *
 * Index and shards say the same or are refused: a tensor that its shard lacks, one that lies in
 * another shard than the index says, one in two shards, one that the index does not know.
 */
#include "format/safetensors.h"

#include "base/json_strict.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

/* "folder/name", malloc'd. */
static char *path_join(const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path != NULL) {
        snprintf(path, n, "%s/%s", folder, name);
    }
    return path;
}

/* ---- The index ------------------------------------------------------------------------------- */

typedef struct shard_list {
    const char **name; /* (n), sorted, each once; owned by the JSON */
    size_t n;
} shard_list;

static greta_status shard_check(const char *name, greta_error *err)
{
    char shown[ESCAPED_MAX];
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL) {
        return error_set(err, GRETA_BAD_INPUT, "shard \"%s\" leaves the model folder",
                         escape(name, strlen(name), shown));
    }
    return GRETA_OK;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the map names. */
static greta_status shards_list(const json_t *map, shard_list *shards, greta_error *err)
{
    const char *key;
    json_t *value;
    char shown[ESCAPED_MAX];
    size_t n = 0;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return error_set(err, GRETA_BAD_INPUT, "weight_map is %s",
                         map == NULL            ? "missing"
                         : !json_is_object(map) ? "not an object"
                                                : "empty");
    }
    shards->name = malloc(json_object_size(map) * sizeof *shards->name);
    if (shards->name == NULL) {
        return error_memory(err, "the index", json_object_size(map) * sizeof *shards->name);
    }
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!json_is_string(value)) {
            return error_set(err, GRETA_BAD_INPUT, "weight_map.%s is not a string",
                             escape(key, strlen(key), shown));
        }
        GRETA_TRY(shard_check(json_string_value(value), err));
        shards->name[n++] = json_string_value(value);
    }
    qsort(shards->name, n, sizeof *shards->name, compare_strings);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(shards->name[i], shards->name[i - 1]) != 0) {
            shards->name[shards->n++] = shards->name[i];
        }
    }
    return shards->n <= LIMIT_SAFETENSORS_SHARDS
               ? GRETA_OK
               : error_set(err, GRETA_BAD_INPUT, "weight_map names %zu files (at most %u)",
                           shards->n, LIMIT_SAFETENSORS_SHARDS);
}

/* ---- Shards ---------------------------------------------------------------------------------- */

/* Every tensor of a shard must be one that the index puts there. */
static greta_status shard_agrees(const safetensors *shard, const char *file, const json_t *map,
                                 greta_error *err)
{
    char name[ESCAPED_MAX], other[ESCAPED_MAX];
    for (size_t i = 0; i < shard->n_tensor; i++) {
        const char *tensor = shard->tensor[i].name;
        const char *said = json_string_value(json_object_get(map, tensor));
        if (said == NULL) {
            error_set(err, GRETA_BAD_INPUT, "\"%s\" is not in the index",
                      escape(tensor, strlen(tensor), name));
        } else if (strcmp(said, file) != 0) {
            error_set(err, GRETA_BAD_INPUT,
                      "\"%.100s\" is in this shard, the index says \"%.100s\"",
                      escape(tensor, strlen(tensor), name), escape(said, strlen(said), other));
        } else {
            continue;
        }
        error_hint(err, "a shard of another model?");
        return GRETA_BAD_INPUT;
    }
    return GRETA_OK;
}

static greta_status shard_take(safetensors *s, safetensors *shard, greta_error *err)
{
    size_t n = s->n_tensor + shard->n_tensor;
    safetensors_tensor *tensor = realloc(s->tensor, (n > 0 ? n : 1) * sizeof *tensor);
    if (tensor == NULL) {
        return error_memory(err, "the directory", n * sizeof *tensor);
    }
    s->tensor = tensor;
    for (size_t i = 0; i < shard->n_tensor; i++) {
        tensor[s->n_tensor + i] = shard->tensor[i];
        tensor[s->n_tensor + i].file = (uint32_t)s->n_file;
    }
    s->n_tensor = n;
    shard->n_tensor = 0;
    s->file[s->n_file++] = shard->file[0];
    shard->n_file = 0;
    s->size += shard->size;
    return GRETA_OK;
}

static greta_status shard_join(safetensors *s, const char *folder, const char *name,
                               const json_t *map, greta_error *err)
{
    safetensors *shard = NULL;
    char *path = path_join(folder, name);
    if (path == NULL) {
        return error_memory(err, "a path", strlen(folder) + strlen(name));
    }
    greta_status status = safetensors_open(path, &shard, err);
    if (status == GRETA_IO) {
        error_hint(err, "a shard that " INDEX " names");
    }
    if (status == GRETA_OK) {
        status = shard_agrees(shard, name, map, err);
    }
    if (status == GRETA_OK) {
        status = shard_take(s, shard, err);
    }
    error_file(status == GRETA_OK ? NULL : err, path);
    safetensors_close(shard);
    free(path);
    return status;
}

/* Every shard's tensors are in the map; so the map promises more only when it is longer. */
static greta_status map_is_filled(const safetensors *s, const json_t *map, greta_error *err)
{
    const char *key;
    json_t *value;
    char name[ESCAPED_MAX], file[ESCAPED_MAX];
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (safetensors_find(s, key) == NULL) {
            const char *shard = json_string_value(value);
            return error_set(err, GRETA_BAD_INPUT, "\"%.100s\" is not in its shard \"%.100s\"",
                             escape(key, strlen(key), name), escape(shard, strlen(shard), file));
        }
    }
    return GRETA_OK;
}

static greta_status shards_open(const char *folder, const json_t *map, safetensors *s,
                                greta_error *err)
{
    shard_list shards = {0};
    greta_status status = shards_list(map, &shards, err);
    if (status == GRETA_OK) {
        s->file = calloc(shards.n, sizeof *s->file);
        status =
            s->file ? GRETA_OK : error_memory(err, "the directory", shards.n * sizeof *s->file);
    }
    for (size_t i = 0; i < shards.n && status == GRETA_OK; i++) {
        status = shard_join(s, folder, shards.name[i], map, err);
    }
    free(shards.name);
    GRETA_TRY(status);
    if (s->n_tensor > LIMIT_SAFETENSORS_TENSORS) {
        return error_set(err, GRETA_BAD_INPUT, "the shards hold %zu tensors (at most %u)",
                         s->n_tensor, LIMIT_SAFETENSORS_TENSORS);
    }
    GRETA_TRY(safetensors_index(s, err));
    return map_is_filled(s, map, err);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static greta_status index_read(const mapped_file *file, json_t **index, greta_error *err)
{
    *index = NULL;
    if (file->size > LIMIT_JSON_FILE_BYTES) {
        return error_set(err, GRETA_BAD_INPUT, "index of %llu bytes (at most %u)",
                         (unsigned long long)file->size, LIMIT_JSON_FILE_BYTES);
    }
    json_source source = {(const char *)file->data, (size_t)file->size, 0, LIMIT_JSON_FILE_VALUES,
                          "index"};
    return json_strict(&source, index, err);
}

static greta_status index_open(const char *folder, const char *path, safetensors **out,
                               greta_error *err)
{
    mapped_file file;
    json_t *index = NULL;
    GRETA_TRY(mapped_file_open(path, &file, err));
    safetensors *s = calloc(1, sizeof *s);
    greta_status status =
        s ? index_read(&file, &index, err) : error_memory(err, "the directory", sizeof *s);
    if (status == GRETA_OK) {
        status = shards_open(folder, json_object_get(index, "weight_map"), s, err);
    }
    error_file(status == GRETA_OK ? NULL : err, path);
    json_decref(index);
    mapped_file_close(&file);
    if (status != GRETA_OK) {
        safetensors_close(s);
        return status;
    }
    *out = s;
    return GRETA_OK;
}

greta_status safetensors_open_folder(const char *folder, safetensors **out, greta_error *err)
{
    char *single = path_join(folder, SINGLE), *index = path_join(folder, INDEX);
    greta_status status;
    *out = NULL;
    if (single == NULL || index == NULL) {
        status = error_memory(err, "a path", strlen(folder));
    } else if (access(single, F_OK) == 0) {
        status = safetensors_open(single, out, err);
    } else if (access(index, F_OK) == 0) {
        status = index_open(folder, index, out, err);
    } else {
        status = error_set(err, GRETA_IO, "holds neither " SINGLE " nor " INDEX);
        error_hint(err, "checkpoints in other formats (.bin, .pt) are not read");
        error_file(err, folder);
    }
    free(single);
    free(index);
    return status;
}
