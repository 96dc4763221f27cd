/* device_weight.c - weights on a device: uploaded once per model, shared by its sessions.
 *
 * Matrices go into the layout that the device's kernels want, in pieces, so that the host needs no
 * second copy and a progress bar has something to show; vectors of norms and biases go as they are.
 * They belong to the model (greta_model.device_store), which keeps them until it is freed: sessions
 * come and go. The store has an opening of the device of its own, for no session may outlive it.
 *
 * A fault may put a tensor of its own in the place of one of the model's: that is uploaded for the
 * session alone, and freed with the override. One that only renames the model's bytes is not.
 */
#include "base/checked.h"
#include "engine/device.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES ((int64_t)32 << 20)
#define PIECE_ROWS  32 /* weight_upload takes multiples of it */

struct device_store {
    struct device_store *next;
    const gpu_plugin *plugin;
    int32_t number;
    gpu_device *gpu;
    size_t n_weight;
    void **data[2]; /* (n_weight) vectors, matrices; NULL: not uploaded */
};

static void stores_free(device_store *store)
{
    for (device_store *next; store; store = next) {
        next = store->next;
        for (int kind = 0; kind < 2; kind++) {
            for (size_t i = 0; store->data[kind] && i < store->n_weight; i++) {
                store->plugin->free(store->gpu, store->data[kind][i]);
            }
            free(store->data[kind]);
        }
        store->plugin->close(store->gpu);
        free(store);
    }
}

static greta_status store_new(const device *d, struct greta_model *m, greta_error *err)
{
    device_store *store = calloc(1, sizeof *store);
    if (!store) {
        return error_memory(err, "the weights of a device", sizeof *store);
    }
    *store = (device_store){.plugin = d->plugin, .number = d->spec.number, .n_weight = m->n_weight};
    for (int kind = 0; kind < 2; kind++) {
        store->data[kind] = calloc(m->n_weight + 1, sizeof *store->data[kind]);
    }
    char why[DEVICE_WHY_MAX] = "";
    greta_status status = GRETA_OK;
    if (!store->data[0] || !store->data[1]) {
        status = error_memory(err, "the weights of a device", 2 * m->n_weight * sizeof(void *));
    } else {
        gpu_status opened = d->plugin->open(d->spec.number, &store->gpu, why, sizeof why);
        status = opened == GPU_OK ? GRETA_OK : device_error(&d->spec, opened, why, err);
    }
    if (status != GRETA_OK) {
        stores_free(store);
        return status;
    }
    store->next = m->device_store;
    m->device_store = store;
    m->device_store_free = stores_free;
    return GRETA_OK;
}

greta_status device_store_open(greta_session *s, greta_error *err)
{
    struct greta_model *m = s->model;
    device *d = s->device;
    pthread_mutex_lock(&m->weight_lock);
    greta_status status = GRETA_OK;
    for (int is_new = 0; !d->store && status == GRETA_OK; is_new = 1) {
        for (device_store *i = m->device_store; i && !d->store; i = i->next) {
            int is_it = i->plugin == d->plugin && i->number == d->spec.number;
            d->store = is_it ? i : NULL;
        }
        status = d->store || is_new ? GRETA_OK : store_new(d, m, err);
    }
    pthread_mutex_unlock(&m->weight_lock);
    return status;
}

/* ---- The tensors of a list ------------------------------------------------------------------- */

static int is_matrix_op(const op *o)
{
    return o->kind == OP_MATMUL || o->kind == OP_EMBED || o->kind == OP_EXPERT_MATMUL;
}

/* A weight of the model: this one, or the one whose bytes this one renames; NULL: a fault's. */
static const weight *model_own(const struct greta_model *m, const weight *w)
{
    if (w >= m->weight && w < m->weight + m->n_weight) {
        return w;
    }
    for (const weight *own = m->weight; own < m->weight + m->n_weight; own++) {
        if (own->data == w->data && own->type == w->type && own->n_row == w->n_row &&
            own->n_col == w->n_col && own->row_bytes == w->row_bytes) {
            return own;
        }
    }
    return NULL;
}

/* What the uploads of a list share. */
typedef struct upload {
    const greta_session *session;
    device_ops *ops;
    uint64_t done, total; /* bytes on the device */
    uint8_t *is_counted;  /* (2, n_weight) while `total` is added up; NULL: upload */
} upload;

/* Where a tensor's device memory is noted; NULL: out of memory. */
static void **slot_of(upload *u, const weight *w, int is_matrix)
{
    const struct greta_model *m = u->session->model;
    const weight *own = model_own(m, w);
    if (own) {
        return &u->session->device->store->data[is_matrix][own - m->weight];
    }
    for (device_piece *p = u->ops->piece; p; p = p->next) {
        if (p->key == w && p->is_matrix == is_matrix) {
            return &p->data;
        }
    }
    device_piece *p = malloc(sizeof *p);
    if (!p) {
        return NULL;
    }
    *p = (device_piece){u->ops->piece, w, is_matrix, NULL};
    u->ops->piece = p;
    return &p->data;
}

static greta_status tensor_bytes(const device *d, const weight *w, int is_matrix, uint64_t *bytes,
                                 greta_error *err)
{
    *bytes = is_matrix ? d->plugin->weight_bytes(w->type, w->n_row, w->n_col)
                       : (uint64_t)w->n_row * (uint64_t)w->row_bytes;
    if (*bytes == 0) {
        error_hint(err, "run this model with device cpu");
        return error_about(err, GRETA_USAGE, w->name, "%s has no kernels for weights of %s",
                           d->name, dtype_name(w->type));
    }
    return GRETA_OK;
}

static void upload_progress(upload *u, uint64_t bytes)
{
    const greta_session_options *o = &u->session->options;
    u->done += bytes;
    if (o->progress) {
        o->progress(o->progress_user, "upload", u->done < u->total ? u->done : u->total, u->total);
    }
}

static void matrix_upload(upload *u, gpu_device *gpu, const weight *w, uint8_t *data,
                          uint64_t bytes)
{
    const gpu_plugin *plugin = u->session->device->plugin;
    gpu_weight to = {w->type, w->n_row, w->n_col, data};
    int64_t n_piece = PIECE_BYTES / w->row_bytes / PIECE_ROWS * PIECE_ROWS;
    n_piece = n_piece > 0 ? n_piece : PIECE_ROWS;
    for (int64_t first = 0; first < w->n_row; first += n_piece) {
        int64_t n = w->n_row - first < n_piece ? w->n_row - first : n_piece;
        plugin->weight_upload(gpu, &to, w->data + first * w->row_bytes, w->row_bytes, first, n);
        upload_progress(u, bytes * (uint64_t)n / (uint64_t)w->n_row);
    }
}

static greta_status tensor_upload(upload *u, const weight *w, int is_matrix, void **slot,
                                  greta_error *err)
{
    const device *d = u->session->device;
    gpu_device *gpu = model_own(u->session->model, w) ? d->store->gpu : d->gpu;
    uint64_t bytes;
    GRETA_TRY(tensor_bytes(d, w, is_matrix, &bytes, err));
    GRETA_TRY(device_alloc(d, &(device_need){gpu, w->name, bytes}, slot, err));
    if (is_matrix) {
        matrix_upload(u, gpu, w, *slot, bytes);
    } else {
        d->plugin->copy_in(gpu, *slot, w->data, (size_t)bytes);
        upload_progress(u, bytes);
    }
    return GRETA_OK;
}

/* Counts or uploads a tensor that is not on the device. */
static greta_status tensor_need(upload *u, const weight *w, int is_matrix, greta_error *err)
{
    const struct greta_model *m = u->session->model;
    const weight *own = model_own(m, w);
    if (!u->is_counted) {
        void **slot = slot_of(u, w, is_matrix);
        if (!slot) {
            return error_memory(err, "weights of a device", sizeof(device_piece));
        }
        return *slot ? GRETA_OK : tensor_upload(u, w, is_matrix, slot, err);
    }
    size_t at = own ? (size_t)(own - m->weight) : 0;
    uint8_t *counted = &u->is_counted[(size_t)is_matrix * m->n_weight + at];
    uint64_t bytes;
    if (own && (*counted || u->session->device->store->data[is_matrix][at])) {
        return GRETA_OK;
    }
    *counted |= own != NULL;
    GRETA_TRY(tensor_bytes(u->session->device, w, is_matrix, &bytes, err));
    if (!checked_add(u->total, bytes, &u->total)) {
        return error_set(err, GRETA_IO, "the weights do not fit 64 bits");
    }
    return GRETA_OK;
}

static greta_status list_need(upload *u, const op_list *list, greta_error *err)
{
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        for (int k = 0; k < OP_WEIGHT_MAX && (k == 0 || o->w[k].tensor); k++) {
            const weight *w = o->w[k].tensor;
            int is_matrix = k == 0 && is_matrix_op(o);
            for (int32_t e = 0; w && e < w->n_part; e++) {
                GRETA_TRY(tensor_need(u, w->part[e], is_matrix, err));
            }
            GRETA_TRY(w && !w->part ? tensor_need(u, w, is_matrix, err) : GRETA_OK);
        }
    }
    return GRETA_OK;
}

static greta_status list_count(upload *u, const op_list *list, greta_error *err)
{
    size_t n = 2 * u->session->model->n_weight + 2;
    u->is_counted = calloc(n, 1);
    greta_status status =
        u->is_counted ? list_need(u, list, err) : error_memory(err, "weights of a device", n);
    free(u->is_counted);
    u->is_counted = NULL;
    return status;
}

greta_status device_missing(const greta_session *s, const op_list *list, uint64_t *bytes,
                            greta_error *err)
{
    upload u = {.session = s};
    pthread_mutex_lock(&s->model->weight_lock);
    greta_status status = list_count(&u, list, err);
    pthread_mutex_unlock(&s->model->weight_lock);
    *bytes = u.total;
    return status;
}

/* ---- What ops read --------------------------------------------------------------------------- */

static gpu_view matrix_of(upload *u, const weight_view *view)
{
    const weight *w = view->tensor;
    const void *data = *slot_of(u, w, 1); /* it is there */
    return (gpu_view){{w->type, w->n_row, w->n_col, data}, view->first};
}

static const float *floats_of(upload *u, const weight_view *view)
{
    const weight *w = view->tensor;
    const uint8_t *data = w ? *slot_of(u, w, 0) : NULL;
    return w ? (const float *)(const void *)(data + view->first * w->row_bytes) : NULL;
}

static int64_t experts_of(const op *o)
{
    return o->kind == OP_EXPERT_MATMUL ? o->n_expert : 0;
}

/* Fills the ops, and `expert`, whose twin on the device is ops->expert. */
static void ops_fill(upload *u, const op_list *list, gpu_view *expert)
{
    int64_t at = 0;
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        device_op *to = &u->ops->op[i];
        for (int32_t e = 0; e < experts_of(o); e++) {
            weight_view view = weight_view_expert(&o->w[0], o->n_expert, e);
            expert[at + e] = matrix_of(u, &view);
        }
        if (o->kind == OP_EXPERT_MATMUL) {
            to->matrix = expert[at];
            to->expert = u->ops->expert + at;
            at += o->n_expert;
        } else if (is_matrix_op(o)) {
            to->matrix = matrix_of(u, &o->w[0]);
        }
        to->floats = floats_of(u, &o->w[is_matrix_op(o)]);
    }
}

static greta_status ops_make(upload *u, const op_list *list, greta_error *err)
{
    device *d = u->session->device;
    size_t n_expert = 0, n_op = (size_t)list->n_op;
    for (int32_t i = 0; i < list->n_op; i++) {
        n_expert += (size_t)experts_of(&list->op[i]);
    }
    gpu_view *expert = malloc((n_expert + 1) * sizeof *expert);
    void *memory = NULL;
    u->ops->op = calloc(n_op, sizeof *u->ops->op);
    greta_status status = GRETA_OK;
    if (!expert || !u->ops->op) {
        status = error_memory(err, "ops of a device", n_op * sizeof *u->ops->op);
    } else if (n_expert > 0) {
        device_need need = {d->gpu, "experts", n_expert * sizeof *expert};
        status = device_alloc(d, &need, &memory, err);
        u->ops->expert = memory;
    }
    if (status == GRETA_OK) {
        ops_fill(u, list, expert);
    }
    if (status == GRETA_OK && n_expert > 0) {
        d->plugin->copy_in(d->gpu, u->ops->expert, expert, n_expert * sizeof *expert);
    }
    if (status == GRETA_OK) { /* of what was uploaded for the session, and of the experts */
        status = device_sync(d, err);
    }
    free(expert);
    return status;
}

greta_status device_ops_new(const greta_session *s, const op_list *list, device_ops *out,
                            greta_error *err)
{
    device *d = s->device;
    upload u = {.session = s, .ops = out};
    char why[DEVICE_WHY_MAX] = "";
    *out = (device_ops){0};
    pthread_mutex_lock(&s->model->weight_lock);
    greta_status status = list_count(&u, list, err);
    if (status == GRETA_OK) {
        status = list_need(&u, list, err);
    }
    gpu_status arrived = d->plugin->sync(d->store->gpu, why, sizeof why);
    if (status == GRETA_OK && arrived != GPU_OK) {
        status = device_error(&d->spec, arrived, why, err);
    }
    if (status == GRETA_OK) {
        status = ops_make(&u, list, err);
    }
    pthread_mutex_unlock(&s->model->weight_lock);
    if (status != GRETA_OK) {
        device_ops_free(d, out);
    }
    return status;
}

void device_ops_free(const device *d, device_ops *ops)
{
    for (device_piece *p = ops->piece, *next; p; p = next) {
        next = p->next;
        d->plugin->free(d->gpu, p->data);
        free(p);
    }
    for (int32_t i = 0; i < ops->n_cos_sin; i++) {
        d->plugin->free(d->gpu, ops->cos_sin[i]);
    }
    d->plugin->free(d->gpu, ops->expert);
    free(ops->cos_sin);
    free(ops->op);
    *ops = (device_ops){0};
}
