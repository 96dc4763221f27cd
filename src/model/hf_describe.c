/* hf_describe.c - a Hugging Face folder as text for people and as JSON for programs.
 *
 * Text: the files, the keys of config.json with their values cut, the tensors of all files. JSON,
 * one object, with the names of gguf_describe where the things are the same:
 *   format "safetensors", files [name], bytes (of them), n_parameters, bytes_weights,
 *   config (config.json as it stands), generation_config (likewise, or null),
 *   tensors [{name, shape, type, bytes, offset, file}] by file and place; shape as in the file, the
 *            last is the length of a row; file counts from 0 in files
 *   types    {"BF16": number of tensors, ...}, warnings [text]
 */
#include "model/hf.h"

#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_SHOWN 72

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

typedef struct totals {
    uint64_t n_parameter, bytes;
} totals;

static totals totals_of(const safetensors *s)
{
    totals sum = {0};
    for (size_t i = 0; i < s->n_tensor; i++) {
        sum.n_parameter += s->tensor[i].n_element; /* of data in mapped files: cannot wrap */
        sum.bytes += s->tensor[i].bytes;
    }
    return sum;
}

static size_t n_of_type(const safetensors *s, const safetensors_type *type)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_tensor; i++) {
        n += s->tensor[i].type == type;
    }
    return n;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void text_keys(text *t, const json_t *root)
{
    const char *key;
    json_t *value;
    char shown[ESCAPED_MAX];
    text_format(t, "\nmetadata: %zu keys of config.json\n", json_object_size(root));
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        size_t n = dump != NULL ? strlen(dump) : 0;
        t->failed |= dump == NULL;
        text_format(t, "  %-28s  ", escape(key, strlen(key), shown));
        text_format(t, "%s%s\n", escape(dump, n > VALUE_SHOWN ? VALUE_SHOWN : n, shown),
                    n > VALUE_SHOWN ? " ..." : "");
        free(dump);
    }
}

/* "49152 x 576"; a scalar has no dimension */
static const char *shape_text(const safetensors_tensor *tensor, char out[200])
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < tensor->n_dim; i++) {
        used += (size_t)snprintf(out + used, 200 - used, "%s%" PRIu64, i > 0 ? " x " : "",
                                 tensor->dim[i]);
    }
    return out;
}

static void text_tensors(text *t, const safetensors *s)
{
    char shape[200], shown[ESCAPED_MAX];
    int width = 4, shape_width = 5;
    for (size_t i = 0; i < s->n_tensor; i++) {
        const char *name = s->tensor[i].name;
        int w = (int)strlen(escape(name, strlen(name), shown));
        int x = (int)strlen(shape_text(&s->tensor[i], shape));
        width = w > width ? w : width;
        shape_width = x > shape_width ? x : shape_width;
    }
    text_format(t, "\ntensors: %zu\n  %-*s  %-*s  %-7s  %12s  %12s  file\n", s->n_tensor, width,
                "name", shape_width, "shape", "type", "bytes", "offset");
    for (size_t i = 0; i < s->n_tensor; i++) {
        const safetensors_tensor *x = &s->tensor[i];
        text_format(t, "  %-*s  %-*s  %-7s  %12" PRIu64 "  %12" PRIu64 "  %4" PRIu32 "\n", width,
                    escape(x->name, strlen(x->name), shown), shape_width, shape_text(x, shape),
                    x->type->name, x->bytes, x->offset, x->file);
    }
}

static greta_status describe_text(const hf_folder *f, char **out, greta_error *err)
{
    text t = {0};
    const safetensors *s = f->weights;
    totals sum = totals_of(s);
    char bytes[NUMBER_MAX], shown[ESCAPED_MAX];
    const char *separator = ": ";
    text_format(&t, "Hugging Face folder, %s (%" PRIu64 " bytes) of safetensors\n",
                number_bytes(s->size, bytes), s->size);
    for (size_t i = 0; i < s->n_file; i++) {
        const char *name = base_name(s->file[i].path);
        text_format(&t, "  file %zu: %s\n", i, escape(name, strlen(name), shown));
    }
    text_keys(&t, f->config);
    text_tensors(&t, s);
    text_format(&t, "\nparameters: %" PRIu64 "\nweights: %s (%" PRIu64 " bytes)", sum.n_parameter,
                number_bytes(sum.bytes, bytes), sum.bytes);
    for (size_t i = 0; safetensors_type_at(i) != NULL; i++) {
        size_t n = n_of_type(s, safetensors_type_at(i));
        if (n > 0) {
            text_format(&t, "%s%zu %s", separator, n, safetensors_type_at(i)->name);
            separator = ", ";
        }
    }
    text_string(&t, "\n");
    return text_take(&t, out, err);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* jansson refuses NULL values, so one failed allocation makes an enclosing call fail; `failed`
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

/* Of numbers that lie in files: below 2^63. */
static json_t *json_u64(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *json_tensor(json_writer *w, const safetensors_tensor *x)
{
    json_t *object = json_object(), *shape = json_array();
    for (uint32_t i = 0; i < x->n_dim; i++) {
        json_add(w, shape, json_u64(x->dim[i]));
    }
    json_put(w, object, "name", json_string(x->name));
    json_put(w, object, "shape", shape);
    json_put(w, object, "type", json_string(x->type->name));
    json_put(w, object, "bytes", json_u64(x->bytes));
    json_put(w, object, "offset", json_u64(x->offset));
    json_put(w, object, "file", json_u64(x->file));
    return object;
}

static json_t *json_files(json_writer *w, const safetensors *s)
{
    json_t *files = json_array();
    for (size_t i = 0; i < s->n_file; i++) {
        char shown[ESCAPED_MAX];
        const char *name = base_name(s->file[i].path);
        json_add(w, files, json_string(escape(name, strlen(name), shown)));
    }
    return files;
}

static json_t *json_types(json_writer *w, const safetensors *s)
{
    json_t *types = json_object();
    for (size_t i = 0; safetensors_type_at(i) != NULL; i++) {
        size_t n = n_of_type(s, safetensors_type_at(i));
        if (n > 0) {
            json_put(w, types, safetensors_type_at(i)->name, json_u64(n));
        }
    }
    return types;
}

static greta_status describe_json(const hf_folder *f, char **out, greta_error *err)
{
    json_writer w = {false};
    const safetensors *s = f->weights;
    totals sum = totals_of(s);
    json_t *root = json_object(), *tensors = json_array();
    for (size_t i = 0; i < s->n_tensor; i++) {
        json_add(&w, tensors, json_tensor(&w, &s->tensor[i]));
    }
    json_put(&w, root, "format", json_string("safetensors"));
    json_put(&w, root, "files", json_files(&w, s));
    json_put(&w, root, "bytes", json_u64(s->size));
    json_put(&w, root, "n_parameters", json_u64(sum.n_parameter));
    json_put(&w, root, "bytes_weights", json_u64(sum.bytes));
    json_put(&w, root, "config", json_incref(f->config));
    json_put(&w, root, "generation_config",
             f->generation != NULL ? json_incref(f->generation) : json_null());
    json_put(&w, root, "tensors", tensors);
    json_put(&w, root, "types", json_types(&w, s));
    json_put(&w, root, "warnings", json_array());
    *out = w.failed ? NULL : json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    return *out != NULL ? GRETA_OK : error_memory(err, "the description", s->size);
}

greta_status hf_describe(const hf_folder *f, int json, char **text_out, greta_error *err)
{
    *text_out = NULL;
    return json ? describe_json(f, text_out, err) : describe_text(f, text_out, err);
}
