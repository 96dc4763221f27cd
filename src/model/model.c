/* model.c - opens a model: directory, configuration, weights, tokenizer.
 *
 * A model is a GGUF file, or its parts, or a Hugging Face folder (hf.h). What differs ends with
 * load_gguf and load_folder: both leave a configuration and weights under GGUF's names.
 *
 * Which tensors an architecture has, and their shapes, are rules of the architecture; arch.c binds
 * them through the index by name that is made here. A tensor that no rule asks for is left alone,
 * `inspect` lists it.
 */
#include "model/model.h"

#include "base/checked.h"
#include "model/arch.h"
#include "model/hf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* One weight for each tensor of a GGUF file. */
static greta_status weights_index(struct greta_model *m, greta_error *err)
{
    m->n_weight = m->file->n_tensor;
    m->weight = calloc(m->n_weight + 1, sizeof *m->weight);
    if (!m->weight) {
        return error_memory(err, "the weight table", m->n_weight * sizeof *m->weight);
    }
    for (size_t i = 0; i < m->n_weight; i++) {
        const gguf_tensor *t = &m->file->tensor[i];
        const dtype_traits *traits = dtype_find((uint32_t)t->type);
        uint64_t rows = t->dim[1] * t->dim[2] * t->dim[3]; /* the directory checked the product */
        m->weight[i] = (weight){
            .name = t->name,
            .type = t->type,
            .n_row = (int64_t)rows,
            .n_col = (int64_t)t->dim[0],
            .row_bytes = (int64_t)(t->dim[0] / traits->block * traits->bytes),
            .data = t->data,
        };
    }
    return GRETA_OK;
}

static int weight_compare(const void *a, const void *b)
{
    const weight *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Weights are found by name whatever file they came from. */
static greta_status weights_sort(struct greta_model *m, greta_error *err)
{
    m->weight_by_name = malloc((m->n_weight + 1) * sizeof *m->weight_by_name);
    m->weight_hash = calloc(m->n_weight + 1, sizeof *m->weight_hash);
    m->has_weight_hash = calloc(m->n_weight + 1, 1);
    if (!m->weight_by_name || !m->weight_hash || !m->has_weight_hash) {
        return error_memory(err, "the weight table", m->n_weight * sizeof *m->weight_by_name);
    }
    for (size_t i = 0; i < m->n_weight; i++) {
        m->weight_by_name[i] = &m->weight[i];
    }
    qsort(m->weight_by_name, m->n_weight, sizeof *m->weight_by_name, weight_compare);
    for (size_t i = 1; i < m->n_weight; i++) {
        const char *name = m->weight_by_name[i]->name;
        if (strcmp(m->weight_by_name[i - 1]->name, name) == 0) {
            return error_about(err, GRETA_BAD_INPUT, name, "two tensors are \"%s\"", name);
        }
    }
    return GRETA_OK;
}

const weight *model_weight(const struct greta_model *m, const char *name)
{
    const weight key = {.name = name}, *wanted = &key;
    const weight *const *found =
        bsearch(&wanted, m->weight_by_name, m->n_weight, sizeof *m->weight_by_name, weight_compare);
    return found ? *found : NULL;
}

struct weight_parts {
    struct weight_parts *next;
    weight whole;
    const weight *part[];
};

weight *model_weight_of_parts(struct greta_model *m, int32_t n, const weight ***part)
{
    struct weight_parts *p = calloc(1, sizeof *p + (size_t)n * sizeof p->part[0]);
    if (!p) {
        return NULL;
    }
    p->next = m->parts;
    p->whole.part = p->part;
    p->whole.n_part = n;
    m->parts = p;
    *part = p->part;
    return &p->whole;
}

static greta_status load_gguf(struct greta_model *m, const char *path, greta_error *err)
{
    GRETA_TRY(gguf_open(path, &m->file, err));
    GRETA_TRY(config_read(m->file, &m->cfg, err));
    m->mapped = m->file->file;
    m->n_mapped = m->file->n_file;
    return weights_index(m, err);
}

static greta_status load_folder(struct greta_model *m, const char *path, greta_error *err)
{
    GRETA_TRY(hf_open(path, &m->folder, err));
    GRETA_TRY(hf_config(m->folder, &m->cfg, err));
    m->mapped = m->folder->weights->file;
    m->n_mapped = m->folder->weights->n_file;
    return hf_weights(m->folder, &m->cfg, &m->weight, &m->n_weight, err);
}

static greta_status end_add(void *user, int64_t id, greta_error *err)
{
    return tokenizer_add_end(user, id, err);
}

static greta_status load_tokenizer(struct greta_model *m, greta_error *err)
{
    const hf_folder *f = m->folder;
    uint64_t rows = (uint64_t)m->cfg.n_vocab;
    if (!f) {
        return tokenizer_new(m->file, rows, &m->tok, err);
    }
    if (!f->tokenizer.is_open) {
        return error_set(err, GRETA_BAD_INPUT,
                         "holds no tokenizer.json (tokenizer.model alone is not read)");
    }
    tokenizer_files files = {
        .json = (const char *)f->tokenizer.data,
        .json_bytes = (size_t)f->tokenizer.size,
        .config = (const char *)f->tokenizer_config.data,
        .config_bytes = (size_t)f->tokenizer_config.size,
        .chat_template = (const char *)f->chat_template.data,
        .chat_template_bytes = (size_t)f->chat_template.size,
    };
    GRETA_TRY(tokenizer_from_hf(&files, rows, &m->tok, err));
    return hf_ends(f, end_add, m->tok, err);
}

static greta_status model_load(struct greta_model *m, const char *path, greta_error *err)
{
    GRETA_TRY(is_folder(path) ? load_folder(m, path, err) : load_gguf(m, path, err));
    GRETA_TRY(weights_sort(m, err));
    m->layer = calloc((size_t)m->cfg.n_layer, sizeof *m->layer);
    if (!m->layer) {
        return error_memory(err, "the layer table", (uint64_t)m->cfg.n_layer * sizeof *m->layer);
    }
    GRETA_TRY(arch_bind(m, err));
    return load_tokenizer(m, err);
}

greta_status greta_model_open(const char *path, greta_model **model, greta_error *err)
{
    *model = NULL;
    struct greta_model *m = calloc(1, sizeof *m);
    if (!m) {
        return error_memory(err, "the model", sizeof *m);
    }
    atomic_init(&m->references, 1);
    atomic_init(&m->has_file_hash, 0);
    pthread_mutex_init(&m->weight_lock, NULL);
    greta_status status = model_load(m, path, err);
    if (status != GRETA_OK) {
        error_file(err, path);
        greta_model_release(m);
        return status;
    }
    *model = m;
    return GRETA_OK;
}

greta_model *greta_model_retain(greta_model *model)
{
    atomic_fetch_add(&model->references, 1);
    return model;
}

void greta_model_release(greta_model *model)
{
    if (!model || atomic_fetch_sub(&model->references, 1) != 1) {
        return;
    }
    tokenizer_free(model->tok);
    free(model->layer);
    free(model->weight);
    free(model->weight_by_name);
    for (struct weight_parts *p = model->parts, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    free(model->weight_hash);
    free(model->has_weight_hash);
    for (size_t i = 0; model->packed && i < model->n_weight; i++) {
        free(model->packed[i]);
    }
    free(model->packed);
    if (model->device_store) {
        model->device_store_free(model->device_store);
    }
    pthread_mutex_destroy(&model->weight_lock);
    gguf_close(model->file);
    hf_close(model->folder);
    free(model);
}

greta_model_info greta_model_describe(const greta_model *m)
{
    greta_model_info info = {
        .arch = m->cfg.arch,
        .name = m->cfg.name,
        .n_layer = m->cfg.n_layer,
        .n_embd = m->cfg.n_embd,
        .n_head = m->cfg.n_head,
        .n_head_kv = m->cfg.n_head_kv,
        .head_dim = m->cfg.head_dim,
        .n_ff = m->cfg.n_ff,
        .n_vocab = m->cfg.n_vocab,
        .n_ctx_train = m->cfg.n_ctx_train,
        .bos_id = tokenizer_bos(m->tok),
        .eos_id = tokenizer_eos(m->tok),
    };
    for (size_t i = 0; i < m->n_weight; i++) {
        info.n_parameters += (uint64_t)(m->weight[i].n_row * m->weight[i].n_col);
        info.bytes_weights += (uint64_t)(m->weight[i].n_row * m->weight[i].row_bytes);
    }
    return info;
}

static void hash_file(XXH3_state_t *state, const mapped_file *file)
{
    XXH3_64bits_update(state, file->data, (size_t)file->size);
}

/* xxh3-64 of the files one behind the other, of a folder behind its config.json; 0: no memory. */
static uint64_t files_hash(const struct greta_model *m)
{
    XXH3_state_t *state = XXH3_createState();
    uint64_t hash = 0;
    if (state) {
        XXH3_64bits_reset(state);
        if (m->folder) {
            hash_file(state, &m->folder->config_file);
        }
        for (size_t i = 0; i < m->n_mapped; i++) {
            hash_file(state, &m->mapped[i]);
        }
        hash = XXH3_64bits_digest(state);
        XXH3_freeState(state);
    }
    return hash;
}

/* Two threads may both compute the hash; they store the same value. */
uint64_t model_file_hash(struct greta_model *model)
{
    if (!atomic_load(&model->has_file_hash)) {
        uint64_t hash = files_hash(model);
        atomic_store(&model->file_hash, hash);
        atomic_store(&model->has_file_hash, 1);
    }
    return atomic_load(&model->file_hash);
}

uint64_t model_tokenizer_hash(const struct greta_model *model)
{
    return tokenizer_hash(model->tok);
}
