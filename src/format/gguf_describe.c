/* gguf_describe.c - the directory as text for people and as JSON for programs.
 *
 * Text: aligned columns, every name and string escaped to printable ASCII and cut, the first few
 * items of an array. JSON, one object:
 *   format "gguf", version, n_part, bytes (of all files), alignment, n_parameters, bytes_weights,
 *   data_offset, hole_bytes,
 *   metadata [{name, kind, value}] in file order; an array has {kind "array", item_kind, n, first}
 *   tensors  [{name, shape, type, bytes, offset}] in file order; shape as in the file, shape[0] is
 *            the length of a row; of a split model also part, from 1, whose file offset counts in
 *   types    {"Q4_1": number of tensors, ...}, warnings [text]
 * Numbers that JSON can not hold are strings: "nan", "inf", "-inf", and a u64 above 2^63 - 1 in
 * decimal. A string that is not UTF-8 is escaped (\xNN) and its entry has "escaped": true. Floats
 * are the exact value of the f32 as a double.
 */
#include "format/gguf.h"

#include "base/text.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS_SHOWN 6u /* of an array */

/* What is said about the tensors as a whole. */
typedef struct totals {
    uint64_t n_parameter, bytes;
} totals;

static uint64_t n_element(const gguf_tensor *t)
{
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]; /* checked at open */
}

static totals totals_of(const gguf *g)
{
    totals sum = {0};
    for (size_t i = 0; i < g->n_tensor; i++) {
        /* The data lies in the file without overlap, so neither sum can wrap. */
        sum.n_parameter += n_element(&g->tensor[i]);
        sum.bytes += g->tensor[i].bytes;
    }
    return sum;
}

static size_t n_of_type(const gguf *g, dtype type)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n_tensor; i++) {
        n += g->tensor[i].type == type;
    }
    return n;
}

static uint64_t n_shown(const gguf_key *key)
{
    return key->n < ITEMS_SHOWN ? key->n : ITEMS_SHOWN;
}

/* A u64 keeps the values that gguf_item_i64 would saturate. */
static uint64_t item_u64(const gguf_key *key, uint64_t i)
{
    uint64_t value = 0;
    for (unsigned b = 0; b < 8; b++) {
        value |= (uint64_t)key->data[i * 8 + b] << (8 * b);
    }
    return value;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void text_escaped(text *t, const char *bytes, size_t n)
{
    char shown[ESCAPED_MAX];
    text_string(t, escape(bytes, n, shown));
}

/* Item i; strings are taken from *cursor, which moves on. */
static void text_item(text *t, const gguf_key *key, uint64_t i, const uint8_t **cursor)
{
    char number[NUMBER_MAX];
    gguf_string string;
    switch (key->item_kind) {
    case GGUF_STRING:
        string = gguf_next_string(cursor);
        text_string(t, "\"");
        text_escaped(t, string.data, string.length);
        text_string(t, "\"");
        break;
    case GGUF_BOOL:
        text_string(t, gguf_item_i64(key, i) ? "true" : "false");
        break;
    case GGUF_F32:
        text_string(t, number_f32((float)gguf_item_f64(key, i), number));
        break;
    case GGUF_F64:
        text_string(t, number_f64(gguf_item_f64(key, i), number));
        break;
    case GGUF_U64:
        text_format(t, "%" PRIu64, item_u64(key, i));
        break;
    default:
        text_format(t, "%" PRId64, gguf_item_i64(key, i));
        break;
    }
}

/* Columns that `name` takes when escaped, for alignment. */
static int columns(const char *name)
{
    char shown[ESCAPED_MAX];
    return (int)strlen(escape(name, strlen(name), shown));
}

static void text_keys(text *t, const gguf *g)
{
    int width = 0;
    for (size_t i = 0; i < g->n_key; i++) {
        int w = columns(g->key[i].name);
        width = w > width && w <= 60 ? w : width;
    }
    text_format(t, "\nmetadata: %zu keys\n", g->n_key);
    for (size_t i = 0; i < g->n_key; i++) {
        const gguf_key *key = &g->key[i];
        const uint8_t *cursor = key->data;
        char shown[ESCAPED_MAX], kind[48];
        snprintf(kind, sizeof kind, "%s", gguf_kind_name(key->kind));
        if (key->kind == GGUF_ARRAY) {
            snprintf(kind, sizeof kind, "%s[%" PRIu64 "]", gguf_kind_name(key->item_kind), key->n);
        }
        text_format(t, "  %-*s  %-13s  ", width, escape(key->name, strlen(key->name), shown), kind);
        for (uint64_t item = 0; item < n_shown(key); item++) {
            text_string(t, item > 0 ? ", " : "");
            text_item(t, key, item, &cursor);
        }
        text_string(t, n_shown(key) < key->n ? ", ...\n" : "\n");
    }
}

/* "576 x 49152" */
static const char *shape_text(const gguf_tensor *tensor, char out[96])
{
    int used = 0;
    for (uint32_t i = 0; i < tensor->n_dim; i++) {
        used += snprintf(out + used, 96 - (size_t)used, "%s%" PRIu64, i > 0 ? " x " : "",
                         tensor->dim[i]);
    }
    return out;
}

static void text_tensors(text *t, const gguf *g)
{
    int width = 4, shape_width = 5;
    char shape[96], shown[ESCAPED_MAX];
    for (size_t i = 0; i < g->n_tensor; i++) {
        int w = columns(g->tensor[i].name);
        int s = (int)strlen(shape_text(&g->tensor[i], shape));
        width = w > width ? w : width;
        shape_width = s > shape_width ? s : shape_width;
    }
    text_format(t, "\ntensors: %zu\n", g->n_tensor);
    if (g->n_tensor == 0) {
        return;
    }
    text_format(t, "  %-*s  %-*s  %-5s  %12s  %12s%s\n", width, "name", shape_width, "shape",
                "type", "bytes", "offset", g->n_part > 1 ? "  part" : "");
    for (size_t i = 0; i < g->n_tensor; i++) {
        const gguf_tensor *tensor = &g->tensor[i];
        text_format(t, "  %-*s  %-*s  %-5s  %12" PRIu64 "  %12" PRIu64, width,
                    escape(tensor->name, strlen(tensor->name), shown), shape_width,
                    shape_text(tensor, shape), dtype_name(tensor->type), tensor->bytes,
                    tensor->offset);
        if (g->n_part > 1) {
            text_format(t, "  %4" PRIu32, tensor->part + 1);
        }
        text_string(t, "\n");
    }
}

/* The file types in use, ": 210 Q4_1, 61 F32"; nothing where there are none. */
static void text_types(text *t, const gguf *g)
{
    const char *separator = ": ";
    for (uint32_t type = 0; type < DTYPE_ACT_Q8; type++) {
        size_t n = n_of_type(g, (dtype)type);
        if (n > 0) {
            text_format(t, "%s%zu %s", separator, n, dtype_name((dtype)type));
            separator = ", ";
        }
    }
}

/* The one warning that the format itself can give; "" if none. */
static const char *hole_warning(const gguf *g, char out[96])
{
    out[0] = '\0';
    if (g->n_hole > 0) {
        snprintf(out, 96, "%" PRIu64 " bytes of the data belong to no tensor", g->n_hole);
    }
    return out;
}

static greta_status describe_text(const gguf *g, char **out, greta_error *err)
{
    text t = {0};
    totals sum = totals_of(g);
    char bytes[NUMBER_MAX], warning[96];
    text_format(&t, "GGUF version %" PRIu32 ", alignment %" PRIu64 ", %s (%" PRIu64 " bytes)",
                g->version, g->alignment, number_bytes(g->size, bytes), g->size);
    if (g->n_part > 1) {
        text_format(&t, " in %" PRIu64 " parts", g->n_part);
    }
    text_string(&t, "\n");
    text_keys(&t, g);
    text_tensors(&t, g);
    text_format(&t, "\nparameters: %" PRIu64 "\nweights: %s (%" PRIu64 " bytes)",
                sum.n_parameter, number_bytes(sum.bytes, bytes), sum.bytes);
    text_types(&t, g);
    text_string(&t, "\n");
    if (hole_warning(g, warning)[0] != '\0') {
        text_format(&t, "warning: %s\n", warning);
    }
    return text_take(&t, out, err);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* jansson refuses NULL values, so one failed allocation makes every enclosing call fail; `failed`
 * collects the outcome and is looked at once. */
typedef struct json_writer {
    bool failed;
} json_writer;

static void json_put(json_writer *w, json_t *object, const char *name, json_t *value)
{
    w->failed |= json_object_set_new(object, name, value) != 0;
}

static void json_add(json_writer *w, json_t *array, json_t *value)
{
    w->failed |= json_array_append_new(array, value) != 0;
}

static json_t *json_u64(uint64_t value)
{
    char text_value[NUMBER_MAX];
    if (value <= INT64_MAX) {
        return json_integer((json_int_t)value);
    }
    snprintf(text_value, sizeof text_value, "%" PRIu64, value);
    return json_string(text_value);
}

static json_t *json_f64(double value)
{
    char special[NUMBER_MAX];
    json_t *number = json_real(value); /* NULL for what JSON lacks */
    return number != NULL ? number : json_string(number_f64(value, special));
}

/* The whole string; *escaped is set where it is not UTF-8. */
static json_t *json_text(gguf_string string, bool *escaped)
{
    if (utf8_is_valid(string.data, string.length)) {
        return json_stringn(string.data, string.length);
    }
    text t = {0};
    for (size_t i = 0; i < string.length; i += 64) {
        size_t n = string.length - i < 64 ? string.length - i : 64;
        text_escaped(&t, string.data + i, n);
    }
    char *whole;
    json_t *value = NULL;
    if (text_take(&t, &whole, NULL) == GRETA_OK) {
        value = json_string(whole);
        free(whole);
    }
    *escaped = true;
    return value;
}

static json_t *json_item(const gguf_key *key, uint64_t i, const uint8_t **cursor, bool *escaped)
{
    switch (key->item_kind) {
    case GGUF_STRING:
        return json_text(gguf_next_string(cursor), escaped);
    case GGUF_BOOL:
        return json_boolean(gguf_item_i64(key, i) != 0);
    case GGUF_F32:
    case GGUF_F64:
        return json_f64(gguf_item_f64(key, i));
    case GGUF_U64:
        return json_u64(item_u64(key, i));
    default:
        return json_integer((json_int_t)gguf_item_i64(key, i));
    }
}

static json_t *json_key(json_writer *w, const gguf_key *key)
{
    json_t *object = json_object();
    const uint8_t *cursor = key->data;
    bool escaped = false;
    json_put(w, object, "name", json_string(key->name));
    json_put(w, object, "kind", json_string(gguf_kind_name(key->kind)));
    if (key->kind != GGUF_ARRAY) {
        json_put(w, object, "value", json_item(key, 0, &cursor, &escaped));
    } else {
        json_t *first = json_array();
        for (uint64_t i = 0; i < n_shown(key); i++) {
            json_add(w, first, json_item(key, i, &cursor, &escaped));
        }
        json_put(w, object, "item_kind", json_string(gguf_kind_name(key->item_kind)));
        json_put(w, object, "n", json_u64(key->n));
        json_put(w, object, "first", first);
    }
    if (escaped) {
        json_put(w, object, "escaped", json_true());
    }
    return object;
}

static json_t *json_tensor(json_writer *w, const gguf *g, const gguf_tensor *t)
{
    json_t *object = json_object();
    json_t *shape = json_array();
    for (uint32_t i = 0; i < t->n_dim; i++) {
        json_add(w, shape, json_u64(t->dim[i]));
    }
    json_put(w, object, "name", json_string(t->name));
    json_put(w, object, "shape", shape);
    json_put(w, object, "type", json_string(dtype_name(t->type)));
    json_put(w, object, "bytes", json_u64(t->bytes));
    json_put(w, object, "offset", json_u64(t->offset));
    if (g->n_part > 1) {
        json_put(w, object, "part", json_u64(t->part + 1));
    }
    return object;
}

static json_t *json_types(json_writer *w, const gguf *g)
{
    json_t *object = json_object();
    for (uint32_t type = 0; type < DTYPE_ACT_Q8; type++) {
        size_t n = n_of_type(g, (dtype)type);
        if (n > 0) {
            json_put(w, object, dtype_name((dtype)type), json_u64(n));
        }
    }
    return object;
}

static json_t *json_directory(json_writer *w, const gguf *g)
{
    json_t *root = json_object();
    json_t *metadata = json_array(), *tensors = json_array(), *warnings = json_array();
    totals sum = totals_of(g);
    char warning[96];
    for (size_t i = 0; i < g->n_key; i++) {
        json_add(w, metadata, json_key(w, &g->key[i]));
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        json_add(w, tensors, json_tensor(w, g, &g->tensor[i]));
    }
    if (hole_warning(g, warning)[0] != '\0') {
        json_add(w, warnings, json_string(warning));
    }
    json_put(w, root, "format", json_string("gguf"));
    json_put(w, root, "version", json_u64(g->version));
    json_put(w, root, "n_part", json_u64(g->n_part));
    json_put(w, root, "bytes", json_u64(g->size));
    json_put(w, root, "alignment", json_u64(g->alignment));
    json_put(w, root, "n_parameters", json_u64(sum.n_parameter));
    json_put(w, root, "bytes_weights", json_u64(sum.bytes));
    json_put(w, root, "data_offset", json_u64(g->data_offset));
    json_put(w, root, "hole_bytes", json_u64(g->n_hole));
    json_put(w, root, "metadata", metadata);
    json_put(w, root, "tensors", tensors);
    json_put(w, root, "types", json_types(w, g));
    json_put(w, root, "warnings", warnings);
    return root;
}

static greta_status describe_json(const gguf *g, char **out, greta_error *err)
{
    json_writer w = {false};
    json_t *root = json_directory(&w, g);
    *out = w.failed ? NULL : json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    return *out != NULL ? GRETA_OK : error_memory(err, "the description", g->size);
}

greta_status gguf_describe(const gguf *g, int json, char **text_out, greta_error *err)
{
    *text_out = NULL;
    return json ? describe_json(g, text_out, err) : describe_text(g, text_out, err);
}
