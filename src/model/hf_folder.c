/* hf_folder.c - opens the files of a Hugging Face folder, and makes weights of its tensors.
 *
 * config.json, the weights and tokenizer.json must be there; generation_config.json,
 * tokenizer_config.json and chat_template.jinja may. All are mapped for as long as the model lives.
 *
 * Weights stay where they are in the mapped files, in the type they have, with two exceptions that
 * the model owns in one block: norms and biases, which ops read as f32 (widened exactly; the
 * Gemmas' checkpoints store w of a norm that multiplies by 1 + w, so 1 is added, in f32, as
 * transformers and GGUF's converter do), and tensors that begin at an odd multiple of their values'
 * size, which the format allows. One tensor for all experts becomes one weight for each, in place.
 *
 * A tensor that no rule of the architecture reads is refused: ignoring, say, a bias would give a
 * model that runs and is another one.
 */
#include "model/hf.h"

#include "base/checked.h"
#include "base/fpenv.h"
#include "base/half_bits.h"
#include "base/json_strict.h"
#include "model/arch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_BYTES 48u /* "blk.1023.post_attention_norm.weight" */

/* ---- Files ----------------------------------------------------------------------------------- */

static char *path_in(const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n);
    if (path != NULL) {
        snprintf(path, n, "%s/%s", folder, name);
    }
    return path;
}

/* Maps a file of the folder; one that may be absent and is leaves *file zeroed. */
static greta_status file_map(const char *folder, const char *name, int needed, mapped_file *file,
                             greta_error *err)
{
    char *path = path_in(folder, name);
    greta_status status = GRETA_OK;
    if (path == NULL) {
        return error_memory(err, "a path", strlen(folder));
    }
    if (needed || access(path, F_OK) == 0) {
        status = mapped_file_open(path, file, err);
        if (status != GRETA_OK && needed) {
            error_hint(err, "a Hugging Face folder has it");
        }
    }
    free(path);
    return status;
}

static greta_status json_read(const mapped_file *file, const char *what, json_t **out,
                              greta_error *err)
{
    greta_status status;
    if (file->size > LIMIT_JSON_FILE_BYTES) {
        status = error_set(err, GRETA_BAD_INPUT, "%s of %" PRIu64 " bytes (at most %u)", what,
                           file->size, LIMIT_JSON_FILE_BYTES);
    } else {
        json_source source = {(const char *)file->data, (size_t)file->size, 0,
                              LIMIT_JSON_FILE_VALUES, what};
        status = json_strict(&source, out, err);
    }
    error_file(status == GRETA_OK ? NULL : err, file->path);
    return status;
}

/* The part of config.json that is the language model's, completed by what its class implies. */
static greta_status text_find(hf_folder *f, greta_error *err)
{
    const json_t *inner = json_object_get(f->config, "text_config");
    inner = json_is_object(inner) ? inner : f->config;
    f->text = json_deep_copy(inner);
    json_t *defaults = json_object();
    if (f->class != NULL && f->class->defaults != NULL) {
        json_decref(defaults);
        defaults = json_loads(f->class->defaults, 0, NULL); /* NULL: no memory */
    }
    /* without memory, a deep copy may lack a value and say nothing */
    int failed = f->text == NULL || !json_equal((json_t *)(uintptr_t)inner, f->text) ||
                 json_object_update_missing(f->text, defaults) != 0;
    json_decref(defaults);
    return failed ? error_memory(err, "config.json", f->config_file.size) : GRETA_OK;
}

static void name_copy(const char *path, char name[128])
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    snprintf(name, 128, "%.*s", (int)(end - start), path + start);
}

static greta_status open_files(hf_folder *f, const char *path, greta_error *err)
{
    mapped_file generation = {0};
    GRETA_TRY(file_map(path, "config.json", 1, &f->config_file, err));
    GRETA_TRY(json_read(&f->config_file, "config.json", &f->config, err));
    (void)hf_class_find(f->config, &f->class, NULL);
    GRETA_TRY(text_find(f, err));
    GRETA_TRY(file_map(path, "tokenizer.json", 0, &f->tokenizer, err));
    GRETA_TRY(file_map(path, "tokenizer_config.json", 0, &f->tokenizer_config, err));
    GRETA_TRY(file_map(path, "chat_template.jinja", 0, &f->chat_template, err));
    GRETA_TRY(file_map(path, "generation_config.json", 0, &generation, err));
    greta_status status = GRETA_OK;
    if (generation.is_open) {
        status = json_read(&generation, "generation_config.json", &f->generation, err);
    }
    mapped_file_close(&generation);
    GRETA_TRY(status);
    return safetensors_open_folder(path, &f->weights, err);
}

greta_status hf_open(const char *path, hf_folder **out, greta_error *err)
{
    *out = NULL;
    hf_folder *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return error_memory(err, "the model", sizeof *f);
    }
    name_copy(path, f->name);
    greta_status status = open_files(f, path, err);
    if (status != GRETA_OK) {
        hf_close(f);
        return status;
    }
    *out = f;
    return GRETA_OK;
}

void hf_close(hf_folder *f)
{
    if (f == NULL) {
        return;
    }
    safetensors_close(f->weights);
    json_decref(f->config);
    json_decref(f->text);
    json_decref(f->generation);
    mapped_file_close(&f->config_file);
    mapped_file_close(&f->tokenizer);
    mapped_file_close(&f->tokenizer_config);
    mapped_file_close(&f->chat_template);
    free(f->names);
    free(f->owned);
    free(f);
}

/* ---- Weights --------------------------------------------------------------------------------- */

typedef struct maker {
    const hf_folder *f;
    const config *cfg;
    const architecture *arch;
    int is_tied;
    weight *weight; /* NULL while counting */
    size_t n;
    uint64_t owned; /* bytes taken so far */
    greta_error *err;
} maker;

/* Whether the architecture reads a tensor of a layer: the name behind "blk.3.", experts as '*'. */
static int is_read(const maker *m, const char *suffix)
{
    const char *star = strchr(suffix, '*');
    size_t stem = star != NULL ? (size_t)(star - suffix) - 1 : 0; /* "ffn_up" of ffn_up.* */
    unsigned unfit = m->cfg->n_expert > 0 ? TENSOR_DENSE : TENSOR_MOE;
    for (int i = 0; i < TENSOR_LISTS_MAX && m->arch->tensor[i] != NULL; i++) {
        for (const tensor_rule *rule = m->arch->tensor[i]; rule->suffix != NULL; rule++) {
            int same = star == NULL ? strcmp(rule->suffix, suffix) == 0
                                    : (rule->flags & TENSOR_EXPERTS) != 0 &&
                                          strncmp(rule->suffix, suffix, stem) == 0 &&
                                          strncmp(rule->suffix + stem, "_exps", 5) == 0;
            if (same && !(rule->flags & unfit)) {
                return 1;
            }
        }
    }
    return 0;
}

static greta_status fail_tensor(const maker *m, const safetensors_tensor *t, const char *what)
{
    char shown[ESCAPED_MAX];
    error_set(m->err, GRETA_BAD_INPUT, "tensor \"%.120s\" %s",
              escape(t->name, strlen(t->name), shown), what);
    error_file(m->err, t->file < m->f->weights->n_file ? m->f->weights->file[t->file].path : NULL);
    return GRETA_BAD_INPUT;
}

/* Bytes of the model's own block, from an aligned place on. */
static uint8_t *owned_take(maker *m, uint64_t bytes)
{
    uint8_t *place = m->f->owned != NULL ? m->f->owned + m->owned : NULL;
    m->owned += (bytes + 63) / 64 * 64; /* what is copied lies in mapped files: cannot wrap */
    return place;
}

/* Exact: both halves are subsets of f32. `add` is 0 or 1. */
static void widen(const safetensors_tensor *t, float add, float *out)
{
    for (uint64_t i = 0; i < t->n_element; i++) {
        const uint8_t *at = t->data + i * t->type->bytes;
        float value;
        if (t->type->type == DTYPE_F32) {
            memcpy(&value, at, sizeof value);
        } else {
            value = t->type->type == DTYPE_F16 ? half_to_float(load_u16(at))
                                               : bfloat_to_float(load_u16(at));
        }
        out[i] = add != 0 ? value + add : value; /* -0 and NaN stay where nothing is added */
    }
}

static void weight_name(const maker *m, const hf_name *entry, int32_t layer, int32_t expert,
                        char name[NAME_BYTES])
{
    const char *star = strchr(entry->gguf, '*');
    int n = layer < 0 ? 0 : snprintf(name, NAME_BYTES, "blk.%d.", (int)layer);
    if (star == NULL) {
        n = snprintf(name + n, NAME_BYTES - (size_t)n, "%s", entry->gguf);
    } else {
        n = snprintf(name + n, NAME_BYTES - (size_t)n, "%.*s%d%s", (int)(star - entry->gguf),
                     entry->gguf, (int)expert, star + 1);
    }
    (void)m;
    GRETA_ASSERT(n > 0 && n < (int)NAME_BYTES);
}

/* Adds one weight of `n_row` rows from `data` on; NULL while counting. */
static void weight_add(maker *m, const char *name, const safetensors_tensor *t, weight w)
{
    if (m->weight != NULL) {
        char *copy = m->f->names + m->n * NAME_BYTES;
        memcpy(copy, name, strlen(name) + 1);
        w.name = copy;
        w.row_bytes = w.n_col * (w.type == DTYPE_F32 ? 4 : (int64_t)t->type->bytes);
        m->weight[m->n] = w;
    }
    m->n++;
}

/* (n_expert, rows, columns), gate and up halves one behind the other in each expert's rows. */
static greta_status experts_add(maker *m, const hf_name *entry, const safetensors_tensor *t,
                                int32_t layer, const uint8_t *data)
{
    char name[NAME_BYTES];
    hf_name up = {entry->hf, "ffn_up.*.weight", entry->flags};
    int64_t n_part = entry->flags & HF_GATE_UP ? 2 : 1;
    if (t->n_dim != 3 || t->dim[0] != (uint64_t)m->cfg->n_expert ||
        t->dim[1] % (uint64_t)n_part != 0) {
        return fail_tensor(m, t, "does not have the shape (experts, rows, columns)");
    }
    int64_t n_row = (int64_t)t->dim[1] / n_part, n_col = (int64_t)t->dim[2];
    for (int32_t e = 0; e < m->cfg->n_expert; e++) {
        for (int64_t part = 0; part < n_part; part++) {
            uint64_t first = (uint64_t)((e * n_part + part) * n_row * n_col) * t->type->bytes;
            weight w = {.type = t->type->type,
                        .n_row = n_row,
                        .n_col = n_col,
                        .data = data != NULL ? data + first : NULL};
            weight_name(m, part == 0 ? entry : &up, layer, e, name);
            weight_add(m, name, t, w);
        }
    }
    return GRETA_OK;
}

static greta_status vector_add(maker *m, const hf_name *entry, const safetensors_tensor *t,
                               int32_t layer)
{
    char name[NAME_BYTES];
    weight w = {.type = DTYPE_F32, .n_row = 1, .n_col = (int64_t)t->n_element};
    if (t->n_dim != 1 || t->n_element == 0) {
        return fail_tensor(m, t, "is not a vector");
    }
    uint8_t *place = owned_take(m, t->n_element * sizeof(float));
    if (m->weight != NULL) {
        widen(t, entry->flags & HF_NORM ? m->arch->hf_norm_add : 0.0f, (float *)(void *)place);
        w.data = place;
    }
    weight_name(m, entry, layer, -1, name);
    weight_add(m, name, t, w);
    return GRETA_OK;
}

static greta_status matrix_add(maker *m, const hf_name *entry, const safetensors_tensor *t,
                               int32_t layer, int32_t expert)
{
    char name[NAME_BYTES];
    const uint8_t *data = t->data;
    if (t->n_element == 0) {
        return fail_tensor(m, t, "is empty");
    }
    if ((uintptr_t)data % t->type->bytes != 0) {
        uint8_t *place = owned_take(m, t->bytes);
        if (m->weight != NULL) {
            memcpy(place, data, (size_t)t->bytes);
        }
        data = place;
    }
    if (entry->flags & HF_EXPERTS) {
        return experts_add(m, entry, t, layer, data);
    }
    if (t->n_dim != 2) {
        return fail_tensor(m, t, "is not a matrix");
    }
    weight w = {.type = t->type->type,
                .n_row = (int64_t)t->dim[0],
                .n_col = (int64_t)t->dim[1],
                .data = data};
    weight_name(m, entry, layer, expert, name);
    weight_add(m, name, t, w);
    return GRETA_OK;
}

static greta_status tensor_add(maker *m, const safetensors_tensor *t)
{
    int32_t layer, expert;
    const hf_name *entry = hf_name_find(m->f->class, t->name, &layer, &expert);
    if (entry != NULL &&
        ((entry->flags & HF_IGNORED) || ((entry->flags & HF_HEAD) && m->is_tied))) {
        return GRETA_OK;
    }
    if (entry == NULL || layer >= m->cfg->n_layer || expert >= m->cfg->n_expert ||
        (layer >= 0 && !is_read(m, entry->gguf))) {
        fail_tensor(m, t, "has no place in the model that config.json describes");
        error_hint(m->err, "class %s, architecture %s", m->f->class->name, m->cfg->arch);
        return GRETA_BAD_INPUT;
    }
    if (!t->type->is_weight) {
        char what[64];
        snprintf(what, sizeof what, "is %s (F32, F16, BF16)", t->type->name);
        return fail_tensor(m, t, what);
    }
    return entry->flags & (HF_F32 | HF_NORM) ? vector_add(m, entry, t, layer)
                                             : matrix_add(m, entry, t, layer, expert);
}

/* Longrope's factors stand in config.json; architectures bind them as GGUF's tensors. */
static greta_status factors_add(maker *m, const char *key, const char *name)
{
    const json_t *scaling = json_object_get(m->f->text, "rope_parameters");
    scaling = json_is_object(scaling) ? scaling : json_object_get(m->f->text, "rope_scaling");
    const json_t *list = json_object_get(scaling, key);
    size_t n = json_array_size(list);
    if (n != (size_t)m->cfg->rope.dim / 2) {
        error_about(m->err, GRETA_BAD_INPUT, key, "%s has %zu numbers (%d)", key, n,
                    (int)m->cfg->rope.dim / 2);
        error_file(m->err, m->f->config_file.path);
        return GRETA_BAD_INPUT;
    }
    float *out = (float *)(void *)owned_take(m, n * sizeof(float));
    for (size_t i = 0; i < n && m->weight != NULL; i++) {
        out[i] = (float)json_number_value(json_array_get(list, i)); /* 0, if none: refused later */
    }
    safetensors_type f32 = {"F32", 4, true, DTYPE_F32};
    safetensors_tensor t = {.type = &f32};
    weight w = {.type = DTYPE_F32, .n_row = 1, .n_col = (int64_t)n, .data = (uint8_t *)out};
    weight_add(m, name, &t, w);
    return GRETA_OK;
}

/* Run twice: to count, and to fill. */
static greta_status weights_walk(maker *m)
{
    const safetensors *s = m->f->weights;
    m->n = 0;
    m->owned = 0;
    for (size_t i = 0; i < s->n_tensor; i++) {
        GRETA_TRY(tensor_add(m, &s->tensor[i]));
    }
    if (m->cfg->rope.scaling == ROPE_SCALING_LONGROPE) {
        GRETA_TRY(factors_add(m, "long_factor", "rope_factors_long.weight"));
        GRETA_TRY(factors_add(m, "short_factor", "rope_factors_short.weight"));
    }
    return GRETA_OK;
}

/* tie_word_embeddings, wherever it stands; NULL: nowhere. */
static const json_t *tied_key(const hf_folder *f)
{
    const json_t *said = json_object_get(f->text, "tie_word_embeddings");
    said = json_is_boolean(said) ? said : json_object_get(f->config, "tie_word_embeddings");
    return json_is_boolean(said) ? said : NULL;
}

static int has_head(const maker *m)
{
    for (size_t i = 0; i < m->n; i++) {
        if (strcmp(m->weight[i].name, "output.weight") == 0) {
            return 1;
        }
    }
    return 0;
}

greta_status hf_weights(hf_folder *f, const config *cfg, weight **out, size_t *n, greta_error *err)
{
    const json_t *tied = tied_key(f);
    maker m = {.f = f,
               .cfg = cfg,
               .arch = arch_find(cfg->arch),
               .is_tied = tied != NULL ? json_is_true(tied) : f->class->ties,
               .err = err};
    *out = NULL;
    *n = 0;
    GRETA_TRY(weights_walk(&m));
    f->names = calloc(m.n + 1, NAME_BYTES);
    f->owned = aligned_alloc(64, (size_t)m.owned + 64);
    f->owned_bytes = m.owned;
    m.weight = calloc(m.n + 1, sizeof *m.weight);
    if (f->names == NULL || f->owned == NULL || m.weight == NULL) {
        free(m.weight);
        return error_memory(err, "the weight table", m.n * sizeof *m.weight + m.owned);
    }
    uint32_t saved = fpenv_enter();
    greta_status status = weights_walk(&m);
    fpenv_leave(saved);
    GRETA_ASSERT(status == GRETA_OK); /* as the first time */
    if (json_is_false(tied) && !has_head(&m)) {
        free(m.weight);
        return error_set(err, GRETA_BAD_INPUT,
                         "tensor \"lm_head.weight\" is missing (tie_word_embeddings is false)");
    }
    *out = m.weight;
    *n = m.n;
    return GRETA_OK;
}
