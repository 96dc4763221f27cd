/* gguf.c - reads a GGUF directory and trusts nothing in it.
 *
 *   header   magic "GGUF" | u32 version | u64 n_tensor | u64 n_key
 *   keys     n_key times:    name | u32 kind | value
 *   infos    n_tensor times: name | u32 n_dim | u64 dim[n_dim] | u32 type | u64 offset
 *   data     from the next multiple of general.alignment on; offsets count from here
 *   a name or string is a u64 length and as many bytes; an array is a u32 kind, a u64 count, items
 *
 * The specification is docs/gguf.md of ggml. Versions 2 and 3 differ only in that 3 may be
 * big-endian, which is refused here.
 *
 * One cursor walks the bytes; its only comparison is "n > size - pos", which can not wrap. Numbers
 * from the file meet arithmetic only through checked.h. A count is refused before anything is
 * allocated for it unless that many of the smallest possible items fit into what is left, so memory
 * stays proportional to the file. Nothing recurses: arrays of arrays are refused. Duplicates and
 * overlaps are found by sorting.
 *
 * Checks that need the whole directory (overlap, end of file) come after all entries are read.
 * Opening files, and joining the parts of a split model, is gguf_open.c's.
 * Numbers in messages count from 0, as the file does: key 0, tensor 0, dimension 0.
 */
#include "format/gguf.h"

#include "base/checked.h"
#include "base/limits.h"
#include "base/text.h"
#include "format/gguf_guess.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 24u
#define KEY_BYTES_MIN (8u + 1u + 4u + 1u)              /* name of 1 byte, kind, u8 */
#define TENSOR_BYTES_MIN (8u + 1u + 4u + 8u + 4u + 8u) /* name of 1 byte, 1 dimension */
#define ALIGNMENT_DEFAULT 32u

typedef struct cursor {
    const uint8_t *data;
    uint64_t size, pos; /* pos <= size */
    greta_error *err;
} cursor;

/* ---- Cursor ---------------------------------------------------------------------------------- */

static uint64_t bytes_left(const cursor *c)
{
    return c->size - c->pos;
}

#define FAIL_AT(c, position, ...)                                                                  \
    error_at((c)->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, (position), __VA_ARGS__)

/* Reads an unsigned little-endian number of `bytes` bytes. */
static greta_status read_number(cursor *c, const char *what, unsigned bytes, uint64_t *value)
{
    *value = 0;
    if (bytes > bytes_left(c)) {
        return FAIL_AT(c, c->pos, "file ends inside the %s", what);
    }
    for (unsigned i = 0; i < bytes; i++) {
        *value |= (uint64_t)c->data[c->pos + i] << (8 * i);
    }
    c->pos += bytes;
    return GRETA_OK;
}

static greta_status read_u32(cursor *c, const char *what, uint32_t *value)
{
    uint64_t wide;
    greta_status status = read_number(c, what, 4, &wide);
    *value = (uint32_t)wide;
    return status;
}

static greta_status read_u64(cursor *c, const char *what, uint64_t *value)
{
    return read_number(c, what, 8, value);
}

/* Reads a length and steps over as many bytes, which *string then names. */
static greta_status read_string(cursor *c, const char *what, uint64_t length_max,
                                gguf_string *string)
{
    uint64_t start = c->pos, length;
    *string = (gguf_string){0};
    GRETA_TRY(read_u64(c, what, &length));
    if (length > bytes_left(c)) {
        return FAIL_AT(c, start, "length %" PRIu64 " exceeds the %" PRIu64 " bytes left", length,
                       bytes_left(c));
    }
    if (length > length_max) {
        return FAIL_AT(c, start, "%s of %" PRIu64 " bytes (at most %" PRIu64 ")", what, length,
                       length_max);
    }
    *string = (gguf_string){(const char *)c->data + c->pos, (size_t)length};
    c->pos += length;
    return GRETA_OK;
}

/* Reads a name into a NUL-terminated copy. */
static greta_status read_name(cursor *c, uint64_t length_max, char **name)
{
    uint64_t start = c->pos;
    gguf_string string;
    *name = NULL;
    GRETA_TRY(read_string(c, "name", length_max, &string));
    if (string.length == 0) {
        return FAIL_AT(c, start, "name is empty");
    }
    if (!utf8_is_valid(string.data, string.length) ||
        memchr(string.data, '\0', string.length) != NULL) {
        char shown[ESCAPED_MAX];
        return FAIL_AT(c, start, "name \"%s\" is not valid UTF-8 without NUL",
                       escape(string.data, string.length, shown));
    }
    *name = malloc(string.length + 1);
    if (*name == NULL) {
        return error_memory(c->err, "a name", string.length + 1);
    }
    memcpy(*name, string.data, string.length);
    (*name)[string.length] = '\0';
    return GRETA_OK;
}

/* ---- Header ---------------------------------------------------------------------------------- */

static greta_status read_magic(cursor *c)
{
    static const char magic[4] = {'G', 'G', 'U', 'F'};
    uint64_t shown = c->size < sizeof magic ? c->size : sizeof magic;
    if (c->size == 0) {
        return error_set(c->err, GRETA_BAD_INPUT,
                         "empty file (a GGUF file starts with %u header bytes)", HEADER_BYTES);
    }
    if (memcmp(c->data, magic, (size_t)shown) != 0) {
        char start[ESCAPED_MAX];
        const char *kind = gguf_guess(c->data, c->size);
        error_set(c->err, GRETA_BAD_INPUT, "not a GGUF file (starts with \"%s\")",
                  escape((const char *)c->data, (size_t)(c->size < 8 ? c->size : 8), start));
        if (kind != NULL) {
            error_hint(c->err, "looks like a %s", kind);
        }
        return GRETA_BAD_INPUT;
    }
    if (c->size < sizeof magic) {
        return FAIL_AT(c, 0, "file ends inside the magic");
    }
    c->pos = sizeof magic;
    return GRETA_OK;
}

typedef struct count_rule {
    const char *what;
    uint64_t position, bytes_min, n_max;
} count_rule;

/* Refuses a count if not even the smallest entries would fit into what is left. */
static greta_status check_count(const cursor *c, uint64_t n, const count_rule *rule)
{
    if (n > bytes_left(c) / rule->bytes_min) {
        return FAIL_AT(c, rule->position,
                       "declares %" PRIu64 " %s but only %" PRIu64 " bytes follow", n, rule->what,
                       bytes_left(c));
    }
    if (n > rule->n_max) {
        return FAIL_AT(c, rule->position, "declares %" PRIu64 " %s (at most %" PRIu64 ")", n,
                       rule->what, rule->n_max);
    }
    return GRETA_OK;
}

/* Zeroed; never NULL for being empty. n was checked against the size of the file. */
static void *table_new(uint64_t n, size_t bytes)
{
    return calloc(n > 0 ? (size_t)n : 1, bytes);
}

static greta_status read_header(cursor *c, gguf *g)
{
    static const count_rule tensors = {"tensors", 8, TENSOR_BYTES_MIN, LIMIT_GGUF_TENSORS};
    static const count_rule keys = {"keys", 16, KEY_BYTES_MIN, LIMIT_GGUF_KEYS};
    uint64_t n_tensor, n_key;
    GRETA_TRY(read_magic(c));
    GRETA_TRY(read_u32(c, "version", &g->version));
    if (g->version != 0 && (g->version & 0xffff) == 0) {
        return FAIL_AT(c, 4, "byte order is big-endian (little-endian only)");
    }
    if (g->version != 2 && g->version != 3) {
        return FAIL_AT(c, 4, "GGUF version %" PRIu32 " is not supported (2 and 3 are)", g->version);
    }
    GRETA_TRY(read_u64(c, "number of tensors", &n_tensor));
    GRETA_TRY(read_u64(c, "number of keys", &n_key));
    GRETA_TRY(check_count(c, n_tensor, &tensors));
    GRETA_TRY(check_count(c, n_key, &keys));
    g->n_tensor = (size_t)n_tensor;
    g->n_key = (size_t)n_key;
    g->tensor = table_new(n_tensor, sizeof *g->tensor);
    g->key = table_new(n_key, sizeof *g->key);
    g->tensor_by_name = table_new(n_tensor, sizeof *g->tensor_by_name);
    g->key_by_name = table_new(n_key, sizeof *g->key_by_name);
    if (g->tensor == NULL || g->key == NULL || g->tensor_by_name == NULL ||
        g->key_by_name == NULL) {
        return error_memory(c->err, "the directory",
                            n_tensor * sizeof *g->tensor + n_key * sizeof *g->key);
    }
    return GRETA_OK;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

static greta_status read_kind(cursor *c, gguf_kind *kind)
{
    uint64_t start = c->pos;
    uint32_t number;
    GRETA_TRY(read_u32(c, "value type", &number));
    if (number > GGUF_F64) {
        return FAIL_AT(c, start, "unknown value type %" PRIu32, number);
    }
    *kind = (gguf_kind)number;
    return GRETA_OK;
}

/* Steps over n values of one kind at the cursor. */
static greta_status skip_values(cursor *c, gguf_kind kind, uint64_t n)
{
    uint64_t bytes = n * gguf_kind_bytes(kind); /* n was checked against the bytes left */
    if (kind == GGUF_STRING) {
        gguf_string ignored;
        for (uint64_t i = 0; i < n; i++) {
            GRETA_TRY(read_string(c, "string", LIMIT_GGUF_STRING_BYTES, &ignored));
        }
        return GRETA_OK;
    }
    for (uint64_t i = 0; kind == GGUF_BOOL && i < n; i++) {
        if (c->data[c->pos + i] > 1) {
            return FAIL_AT(c, c->pos + i, "bool must be 0 or 1, is %u", c->data[c->pos + i]);
        }
    }
    c->pos += bytes;
    return GRETA_OK;
}

static greta_status read_array_head(cursor *c, gguf_key *key)
{
    uint64_t start = c->pos;
    GRETA_TRY(read_kind(c, &key->item_kind));
    if (key->item_kind == GGUF_ARRAY) {
        return FAIL_AT(c, start, "nested arrays are not supported");
    }
    start = c->pos;
    GRETA_TRY(read_u64(c, "array length", &key->n));
    uint64_t bytes_min = key->item_kind == GGUF_STRING ? 8 : gguf_kind_bytes(key->item_kind);
    if (key->n > bytes_left(c) / bytes_min) {
        return FAIL_AT(c, start,
                       "array of %" PRIu64 " %s needs more bytes than the %" PRIu64 " left",
                       key->n, gguf_kind_name(key->item_kind), bytes_left(c));
    }
    if (key->n > LIMIT_GGUF_ITEMS) {
        return FAIL_AT(c, start, "array of %" PRIu64 " items (at most %u)", key->n,
                       LIMIT_GGUF_ITEMS);
    }
    return GRETA_OK;
}

static greta_status read_value(cursor *c, gguf_key *key)
{
    GRETA_TRY(read_kind(c, &key->kind));
    key->item_kind = key->kind;
    key->n = 1;
    if (key->kind == GGUF_ARRAY) {
        GRETA_TRY(read_array_head(c, key));
    } else if (gguf_kind_bytes(key->kind) > bytes_left(c)) {
        return FAIL_AT(c, c->pos, "file ends inside the value");
    }
    key->offset = c->pos;
    key->data = c->data + c->pos;
    return skip_values(c, key->item_kind, key->n);
}

/* Orders by name, then by place in the file: both arrays hold pointers into one array. */
static int compare_keys(const void *a, const void *b)
{
    const gguf_key *x = *(const gguf_key *const *)a, *y = *(const gguf_key *const *)b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x > y) - (x < y);
}

/* Sorts the keys by name and refuses a name that stands twice: the first such one in the file. */
static greta_status index_keys(gguf *g, greta_error *err)
{
    const gguf_key *first = NULL, *second = NULL;
    for (size_t i = 0; i < g->n_key; i++) {
        g->key_by_name[i] = &g->key[i];
    }
    qsort(g->key_by_name, g->n_key, sizeof *g->key_by_name, compare_keys);
    for (size_t i = 1; i < g->n_key; i++) {
        const gguf_key *a = g->key_by_name[i - 1], *b = g->key_by_name[i];
        if (strcmp(a->name, b->name) == 0 && (second == NULL || b < second)) {
            first = a;
            second = b;
        }
    }
    if (second != NULL) {
        char shown[ESCAPED_MAX];
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, second->offset,
                        "key \"%s\" appears twice (keys %zu and %zu)",
                        escape(first->name, strlen(first->name), shown), (size_t)(first - g->key),
                        (size_t)(second - g->key));
    }
    return GRETA_OK;
}

static greta_status read_keys(cursor *c, gguf *g)
{
    for (size_t i = 0; i < g->n_key; i++) {
        gguf_key *key = &g->key[i];
        greta_status status = read_name(c, LIMIT_GGUF_KEY_BYTES, &key->name);
        if (status != GRETA_OK) {
            error_subject(c->err, "key %zu", i);
            return status;
        }
        status = read_value(c, key);
        if (status != GRETA_OK) {
            char shown[ESCAPED_MAX];
            error_subject(c->err, "key \"%s\"", escape(key->name, strlen(key->name), shown));
            return status;
        }
    }
    return index_keys(g, c->err);
}

/* Which part of a split model this is; the others are gguf_open.c's. */
static greta_status read_split(gguf *g, greta_error *err)
{
    const gguf_key *count = gguf_find_key(g, "split.count");
    g->n_part = 1;
    GRETA_TRY(gguf_get_u64(g, "split.count", 0, &g->n_part, err));
    if (g->n_part <= 1) {
        g->n_part = 1;
        return GRETA_OK;
    }
    if (g->n_part > LIMIT_GGUF_PARTS) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, count->offset,
                        "split.count is %" PRIu64 " (at most %u)", g->n_part, LIMIT_GGUF_PARTS);
    }
    GRETA_TRY(gguf_get_u64(g, "split.no", 1, &g->part, err));
    if (g->part >= g->n_part) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE,
                        gguf_find_key(g, "split.no")->offset,
                        "split.no is %" PRIu64 " (below split.count, %" PRIu64 ")", g->part,
                        g->n_part);
    }
    return gguf_get_u64(g, "split.tensors.count", 1, &g->n_tensor_split, err);
}

/* The keys that decide how the rest of the file is read. */
static greta_status apply_keys(gguf *g, greta_error *err)
{
    const gguf_key *alignment = gguf_find_key(g, "general.alignment");
    g->alignment = ALIGNMENT_DEFAULT;
    if (alignment != NULL) {
        int64_t value = alignment->kind == GGUF_U32 ? gguf_item_i64(alignment, 0) : 0;
        if (alignment->kind != GGUF_U32) {
            return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, alignment->offset,
                            "general.alignment is of type %s (u32)",
                            gguf_kind_name(alignment->kind));
        }
        if (value < 1 || value > LIMIT_GGUF_ALIGNMENT || (value & (value - 1)) != 0) {
            return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, alignment->offset,
                            "general.alignment is %" PRId64 " (a power of two from 1 to %u)", value,
                            LIMIT_GGUF_ALIGNMENT);
        }
        g->alignment = (uint64_t)value;
    }
    return read_split(g, err);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static greta_status read_shape(cursor *c, gguf_tensor *t, uint64_t *n_element)
{
    uint64_t start = c->pos;
    *n_element = 0;
    GRETA_TRY(read_u32(c, "number of dimensions", &t->n_dim));
    if (t->n_dim < 1 || t->n_dim > LIMIT_GGUF_DIMS) {
        return FAIL_AT(c, start, "%" PRIu32 " dimensions (1 to %u)", t->n_dim, LIMIT_GGUF_DIMS);
    }
    *n_element = 1;
    for (uint32_t i = 0; i < LIMIT_GGUF_DIMS; i++) {
        t->dim[i] = 1;
    }
    for (uint32_t i = 0; i < t->n_dim; i++) {
        start = c->pos;
        GRETA_TRY(read_u64(c, "shape", &t->dim[i]));
        if (t->dim[i] == 0) {
            return FAIL_AT(c, start, "dimension %" PRIu32 " is 0", i);
        }
        if (!checked_mul(*n_element, t->dim[i], n_element) || *n_element > INT64_MAX) {
            return FAIL_AT(c, start, "element count overflows at dimension %" PRIu32 " of %" PRIu64,
                           i, t->dim[i]);
        }
    }
    return GRETA_OK;
}

/* Reads the type and computes the size, which must also fit when rounded up to the alignment. */
static greta_status read_type(cursor *c, gguf_tensor *t, uint64_t n_element, uint64_t alignment)
{
    uint64_t start = c->pos, aligned;
    uint32_t number;
    GRETA_TRY(read_u32(c, "tensor type", &number));
    const dtype_traits *traits = number < DTYPE_ACT_Q8 ? dtype_find(number) : NULL;
    if (traits == NULL) {
        const char *known = gguf_guess_type(number);
        return known == NULL
                   ? FAIL_AT(c, start, "unknown type %" PRIu32 " (supported: %s)", number,
                             dtype_list())
                   : FAIL_AT(c, start, "type %" PRIu32 " (%s) is not supported (supported: %s)",
                             number, known, dtype_list());
    }
    t->type = traits->type;
    if (t->dim[0] % traits->block != 0) {
        return FAIL_AT(c, start,
                       "row of %" PRIu64 " is not a multiple of the block size %" PRIu32,
                       t->dim[0], traits->block);
    }
    if (!checked_mul(n_element / traits->block, traits->bytes, &t->bytes)) {
        return FAIL_AT(c, start, "size overflows");
    }
    if (!checked_align(t->bytes, alignment, &aligned)) {
        return FAIL_AT(c, start, "size overflows when aligned");
    }
    return GRETA_OK;
}

/* Reads the entry behind the name; t->offset counts from the start of the data until placed. */
static greta_status read_info(cursor *c, gguf_tensor *t, uint64_t alignment)
{
    uint64_t n_element = 0, start;
    GRETA_TRY(read_shape(c, t, &n_element));
    GRETA_TRY(read_type(c, t, n_element, alignment));
    start = c->pos;
    GRETA_TRY(read_u64(c, "offset", &t->offset));
    if (t->offset % alignment != 0) {
        return FAIL_AT(c, start,
                       "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64,
                       t->offset, alignment);
    }
    return GRETA_OK;
}

static int compare_tensors(const void *a, const void *b)
{
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x > y) - (x < y);
}

/* As index_keys. */
greta_status gguf_index_tensors(gguf *g, greta_error *err)
{
    const gguf_tensor *twice = NULL;
    for (size_t i = 0; i < g->n_tensor; i++) {
        g->tensor_by_name[i] = &g->tensor[i];
    }
    qsort(g->tensor_by_name, g->n_tensor, sizeof *g->tensor_by_name, compare_tensors);
    for (size_t i = 1; i < g->n_tensor; i++) {
        const gguf_tensor *a = g->tensor_by_name[i - 1], *b = g->tensor_by_name[i];
        if (strcmp(a->name, b->name) == 0 && (twice == NULL || b < twice)) {
            twice = b;
        }
    }
    if (twice != NULL) {
        char shown[ESCAPED_MAX];
        error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, twice->info_offset,
                 "tensor name \"%s\" appears twice",
                 escape(twice->name, strlen(twice->name), shown));
        error_file(err, twice->part < g->n_file ? g->file[twice->part].path : NULL);
        return GRETA_BAD_INPUT;
    }
    return GRETA_OK;
}

static greta_status read_tensors(cursor *c, gguf *g)
{
    for (size_t i = 0; i < g->n_tensor; i++) {
        gguf_tensor *t = &g->tensor[i];
        t->info_offset = c->pos;
        greta_status status = read_name(c, LIMIT_GGUF_NAME_BYTES - 1, &t->name);
        if (status != GRETA_OK) {
            error_subject(c->err, "tensor %zu", i);
            return status;
        }
        status = read_info(c, t, g->alignment);
        if (status != GRETA_OK) {
            char shown[ESCAPED_MAX];
            error_subject(c->err, "tensor \"%s\"", escape(t->name, strlen(t->name), shown));
            return status;
        }
    }
    return gguf_index_tensors(g, c->err);
}

/* ---- Data ------------------------------------------------------------------------------------ */

/* Turns offsets into places in the file; every tensor must end inside it, used or not. */
static greta_status place_tensors(const cursor *c, gguf *g)
{
    char shown[ESCAPED_MAX];
    uint64_t total = 0;
    if (!checked_align(c->pos, g->alignment, &g->data_offset)) {
        return FAIL_AT(c, c->pos, "start of the tensor data overflows");
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        gguf_tensor *t = &g->tensor[i];
        uint64_t aligned, end;
        /* Both sums: what a writer adds up, and where this file says the tensor ends. */
        if (!checked_align(t->bytes, g->alignment, &aligned) ||
            !checked_add(total, aligned, &total) ||
            !checked_add(t->offset, g->data_offset, &t->offset) ||
            !checked_add(t->offset, t->bytes, &end)) {
            return FAIL_AT(c, t->info_offset, "tensor data overflows 64 bits at \"%s\"",
                           escape(t->name, strlen(t->name), shown));
        }
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        gguf_tensor *t = &g->tensor[i];
        if (!checked_span(t->offset, t->bytes, c->size)) {
            FAIL_AT(c, t->info_offset,
                    "tensor \"%s\" ends at byte %" PRIu64 " but the file has %" PRIu64,
                    escape(t->name, strlen(t->name), shown), t->offset + t->bytes, c->size);
            error_hint(c->err, "file truncated?");
            return GRETA_BAD_INPUT;
        }
        t->data = c->data + t->offset;
    }
    return GRETA_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    return x->offset != y->offset ? (x->offset > y->offset) - (x->offset < y->offset)
                                  : (x > y) - (x < y);
}

/* Refuses overlaps and counts holes. No tensor is empty, so if any two overlap then two neighbours
 * in the order of offsets do. */
static greta_status check_layout(const cursor *c, gguf *g)
{
    greta_status status = GRETA_OK;
    uint64_t end = g->data_offset; /* aligned end of what has been seen */
    const gguf_tensor *previous = NULL;
    const gguf_tensor **order = table_new(g->n_tensor, sizeof *order);
    if (order == NULL) {
        return error_memory(c->err, "the directory", g->n_tensor * sizeof *order);
    }
    memcpy(order, g->tensor_by_name, g->n_tensor * sizeof *order);
    qsort(order, g->n_tensor, sizeof *order, compare_offsets);
    for (size_t i = 0; i < g->n_tensor && status == GRETA_OK; i++) {
        const gguf_tensor *t = order[i];
        if (previous != NULL && t->offset < previous->offset + previous->bytes) {
            /* Names are at most 63 bytes: both fit the message when they are plain. */
            char a[ESCAPED_MAX], b[ESCAPED_MAX];
            status = FAIL_AT(c, t->info_offset, "tensors \"%s\" and \"%s\" overlap",
                             escape(previous->name, strlen(previous->name), a),
                             escape(t->name, strlen(t->name), b));
        } else {
            g->n_hole += t->offset - end;
            previous = t;
            end = t->offset + t->bytes;
            end += (0 - end) & (g->alignment - 1);
        }
    }
    if (end < c->size) {
        g->n_hole += c->size - end;
    }
    free(order);
    return status;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static greta_status parse(const uint8_t *data, uint64_t size, gguf *g, greta_error *err)
{
    cursor c = {.data = data, .size = size, .err = err};
    GRETA_TRY(read_header(&c, g));
    GRETA_TRY(read_keys(&c, g));
    GRETA_TRY(apply_keys(g, err));
    GRETA_TRY(read_tensors(&c, g));
    GRETA_TRY(place_tensors(&c, g));
    return check_layout(&c, g);
}

greta_status gguf_parse(const uint8_t *data, uint64_t size, gguf **out, greta_error *err)
{
    *out = NULL;
    gguf *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return error_memory(err, "the directory", sizeof *g);
    }
    greta_status status = parse(data, size, g, err);
    if (status != GRETA_OK) {
        gguf_close(g);
        return status;
    }
    g->size = size;
    *out = g;
    return GRETA_OK;
}

void gguf_close(gguf *g)
{
    if (g == NULL) {
        return;
    }
    for (size_t i = 0; g->key != NULL && i < g->n_key; i++) {
        free(g->key[i].name);
    }
    for (size_t i = 0; g->tensor != NULL && i < g->n_tensor; i++) {
        free(g->tensor[i].name);
    }
    free(g->key);
    free(g->tensor);
    free(g->key_by_name);
    free(g->tensor_by_name);
    for (size_t i = 0; i < g->n_file; i++) {
        mapped_file_close(&g->file[i]);
    }
    free(g->file);
    free(g);
}
