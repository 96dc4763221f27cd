/* gguf_open.c - opens a GGUF file, or all parts of a split one as one directory.
 *
 * A split model lies in NAME-00001-of-00003.gguf and so on. Each part is a whole GGUF file with
 * three keys more: split.no counts parts from 0, split.count says how many there are, and
 * split.tensors.count how many tensors they hold together (the tools/gguf-split of llama.cpp and
 * the writer of gguf-py agree on this). The metadata stands in part 1.
 *
 * Any part may be given. Its siblings are found by their names, and a name is believed only as far
 * as the keys agree with it: count and number of every part, and the sum of the tensors. What can
 * be wrong then has one message each: a part that is missing, that is a copy of another or stands
 * in its place, or that belongs to another model - it declares other parts, repeats a tensor, or
 * holds a key whose value differs from that of part 1. Keys that part 1 lacks are refused: nothing
 * would read them.
 *
 * Part 1's directory takes over the tensors and mappings of the others, so that everything behind
 * the open sees one gguf.
 */
#include "format/gguf.h"

#include "base/checked.h"
#include "base/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX_FORMAT "-%05" PRIu64 "-of-%05" PRIu64 ".gguf"
#define SUFFIX_BYTES  20u /* "-00001-of-00003.gguf" */

/* ---- One file -------------------------------------------------------------------------------- */

static greta_status open_one(const char *path, gguf **out, greta_error *err)
{
    mapped_file file;
    *out = NULL;
    GRETA_TRY(mapped_file_open(path, &file, err));
    greta_status status = gguf_parse(file.data, file.size, out, err);
    if (status == GRETA_OK) {
        (*out)->file = malloc(sizeof file);
        if ((*out)->file == NULL) {
            gguf_close(*out);
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

/* ---- Names ----------------------------------------------------------------------------------- */

typedef struct part_name {
    const char *path; /* of the part that was given */
    size_t stem;      /* bytes before the suffix */
    uint64_t n_part;
} part_name;

/* The path of part `part` (from 0), malloc'd. */
static char *name_of(const part_name *name, uint64_t part)
{
    char *path = malloc(name->stem + SUFFIX_BYTES + 1);
    if (path != NULL) {
        memcpy(path, name->path, name->stem);
        snprintf(path + name->stem, SUFFIX_BYTES + 1, SUFFIX_FORMAT, part + 1, name->n_part);
    }
    return path;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Takes the name apart; it must be the one that the part's keys ask for. */
static greta_status name_check(const gguf *g, const char *path, part_name *name, greta_error *err)
{
    char expected[SUFFIX_BYTES + 1];
    size_t length = strlen(path);
    snprintf(expected, sizeof expected, SUFFIX_FORMAT, g->part + 1, g->n_part);
    if (length >= SUFFIX_BYTES && strcmp(path + length - SUFFIX_BYTES, expected) == 0) {
        *name = (part_name){path, length - SUFFIX_BYTES, g->n_part};
        return GRETA_OK;
    }
    error_set(err, GRETA_BAD_INPUT,
              "is part %" PRIu64 " of %" PRIu64 " by its keys, so its name must end in %s",
              g->part + 1, g->n_part, expected);
    error_hint(err, "renamed, or a part in another's place? give all parts or the merged file");
    return GRETA_BAD_INPUT;
}

/* ---- Joining --------------------------------------------------------------------------------- */

/* The value bytes of a key: fixed sizes, or strings with their lengths. */
static uint64_t value_bytes(const gguf_key *key)
{
    const uint8_t *cursor = key->data;
    if (key->item_kind != GGUF_STRING) {
        return key->n * gguf_kind_bytes(key->item_kind);
    }
    for (uint64_t i = 0; i < key->n; i++) {
        gguf_next_string(&cursor);
    }
    return (uint64_t)(cursor - key->data);
}

static bool is_own_key(const char *name)
{
    return strncmp(name, "split.", 6) == 0 || strcmp(name, "general.alignment") == 0;
}

/* Refuses a part whose keys say something that part 1 does not. */
static greta_status keys_check(const gguf *first, const gguf *part, greta_error *err)
{
    char shown[ESCAPED_MAX];
    for (size_t i = 0; i < part->n_key; i++) {
        const gguf_key *key = &part->key[i];
        const gguf_key *known = gguf_find_key(first, key->name);
        if (is_own_key(key->name)) {
            continue;
        }
        if (known == NULL || known->kind != key->kind || known->item_kind != key->item_kind ||
            known->n != key->n || value_bytes(known) != value_bytes(key) ||
            memcmp(known->data, key->data, (size_t)value_bytes(key)) != 0) {
            error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, key->offset, "key \"%s\" %s part 1",
                     escape(key->name, strlen(key->name), shown),
                     known == NULL ? "is not in" : "differs from");
            error_hint(err, "a part of another model?");
            return GRETA_BAD_INPUT;
        }
    }
    return GRETA_OK;
}

static greta_status part_check(const gguf *first, const gguf *part, uint64_t number,
                               greta_error *err)
{
    if (part->n_part != first->n_part) {
        error_set(err, GRETA_BAD_INPUT,
                  "is one of %" PRIu64 " by split.count, the others of %" PRIu64, part->n_part,
                  first->n_part);
        error_hint(err, "a part of another model?");
        return GRETA_BAD_INPUT;
    }
    if (part->part != number) {
        error_set(err, GRETA_BAD_INPUT,
                  "is part %" PRIu64 " by split.no, part %" PRIu64 " by its name", part->part + 1,
                  number + 1);
        error_hint(err, "renamed, or a copy of another part?");
        return GRETA_BAD_INPUT;
    }
    if (part->n_tensor_split != first->n_tensor_split) {
        error_set(err, GRETA_BAD_INPUT,
                  "declares %" PRIu64 " tensors in all parts, part 1 declares %" PRIu64,
                  part->n_tensor_split, first->n_tensor_split);
        error_hint(err, "a part of another model?");
        return GRETA_BAD_INPUT;
    }
    return keys_check(first, part, err);
}

/* Moves the tensors and the mapping of `part` to the end of `g`. */
static greta_status part_take(gguf *g, gguf *part, greta_error *err)
{
    size_t n = g->n_tensor + part->n_tensor;
    gguf_tensor *tensor = realloc(g->tensor, (n > 0 ? n : 1) * sizeof *tensor);
    if (tensor == NULL) {
        return error_memory(err, "the directory", n * sizeof *tensor);
    }
    g->tensor = tensor;
    for (size_t i = 0; i < part->n_tensor; i++) {
        tensor[g->n_tensor + i] = part->tensor[i];
        tensor[g->n_tensor + i].part = (uint32_t)g->n_file;
    }
    g->n_tensor = n;
    part->n_tensor = 0;
    g->file[g->n_file++] = part->file[0];
    part->n_file = 0;
    g->n_hole += part->n_hole;
    g->size += part->size; /* of mapped files: cannot wrap */
    return GRETA_OK;
}

/* Opens part `number` and joins it to those before it. */
static greta_status part_join(gguf *g, const part_name *name, uint64_t number, greta_error *err)
{
    gguf *part = NULL;
    char *path = name_of(name, number);
    if (path == NULL) {
        return error_memory(err, "a path", name->stem + SUFFIX_BYTES + 1);
    }
    greta_status status = open_one(path, &part, err);
    if (status == GRETA_IO) {
        error_subject(err, "part %" PRIu64 " of %" PRIu64, number + 1, name->n_part);
        error_hint(err, "give all parts or the merged file");
    }
    if (status == GRETA_OK) {
        status = part_check(g, part, number, err);
    }
    if (status == GRETA_OK) {
        status = part_take(g, part, err);
    }
    error_file(status == GRETA_OK ? NULL : err, path);
    gguf_close(part);
    free(path);
    return status;
}

/* Sorts the tensors of all parts and counts them. */
static greta_status parts_finish(gguf *g, greta_error *err)
{
    if (g->n_tensor != g->n_tensor_split) {
        error_set(err, GRETA_BAD_INPUT,
                  "the %zu parts hold %zu tensors, split.tensors.count is %" PRIu64, g->n_file,
                  g->n_tensor, g->n_tensor_split);
        error_hint(err, "a part of another model?");
        return GRETA_BAD_INPUT;
    }
    if (g->n_tensor > LIMIT_GGUF_TENSORS) {
        return error_set(err, GRETA_BAD_INPUT, "the parts hold %zu tensors (at most %u)",
                         g->n_tensor, LIMIT_GGUF_TENSORS);
    }
    free(g->tensor_by_name);
    g->tensor_by_name = calloc(g->n_tensor + 1, sizeof *g->tensor_by_name);
    if (g->tensor_by_name == NULL) {
        return error_memory(err, "the directory", g->n_tensor * sizeof *g->tensor_by_name);
    }
    return gguf_index_tensors(g, err);
}

/* The parts in order; the one that was given is opened anew in its turn. */
static greta_status parts_open(const part_name *name, gguf **out, greta_error *err)
{
    char *path = name_of(name, 0);
    gguf *g = NULL;
    if (path == NULL) {
        return error_memory(err, "a path", name->stem + SUFFIX_BYTES + 1);
    }
    greta_status status = open_one(path, &g, err);
    if (status == GRETA_IO) {
        error_subject(err, "part 1 of %" PRIu64, name->n_part);
        error_hint(err, "give all parts or the merged file");
    }
    if (status == GRETA_OK && (g->n_part != name->n_part || g->part != 0)) {
        error_set(err, GRETA_BAD_INPUT,
                  "is part %" PRIu64 " of %" PRIu64 " by its keys, %s is of %" PRIu64, g->part + 1,
                  g->n_part, base_name(name->path), name->n_part);
        error_hint(err, "renamed, or a part of another model?");
        status = GRETA_BAD_INPUT;
    }
    if (status == GRETA_OK) {
        mapped_file *file = realloc(g->file, (size_t)name->n_part * sizeof *file);
        g->file = file != NULL ? file : g->file;
        status = file != NULL ? GRETA_OK : error_memory(err, "the directory", sizeof *file);
    }
    for (uint64_t i = 1; i < name->n_part && status == GRETA_OK; i++) {
        status = part_join(g, name, i, err);
    }
    if (status == GRETA_OK) {
        status = parts_finish(g, err);
    }
    error_file(status == GRETA_OK ? NULL : err, path);
    free(path);
    if (status != GRETA_OK) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return GRETA_OK;
}

greta_status gguf_open(const char *path, gguf **out, greta_error *err)
{
    gguf *g = NULL;
    part_name name;
    *out = NULL;
    GRETA_TRY(open_one(path, &g, err));
    if (g->n_part == 1) {
        *out = g;
        return GRETA_OK;
    }
    greta_status status = name_check(g, path, &name, err);
    error_file(status == GRETA_OK ? NULL : err, path);
    gguf_close(g);
    return status == GRETA_OK ? parts_open(&name, out, err) : status;
}
