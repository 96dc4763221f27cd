/* edit_weight.c - faults of weights: other values, another order, another tensor.
 *
 * Rearranged weights are copies, in the file's own type: rows, blocks and bytes are moved, nothing
 * is quantised anew, so that the same numbers can be found again. A copy keeps the tensor's name.
 * A unit is what can be moved without rounding: a value of a float type, a block of a quantised
 * one.
 */
#include "fault/edit.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of the rows of a view; 0: they do not lie in one piece, or do not fit. */
static size_t view_bytes(const weight_view *view)
{
    uint64_t bytes = 0;
    bool fits = view->tensor && view->tensor->data && view->n > 0 &&
                checked_mul((uint64_t)view->n, (uint64_t)view->tensor->row_bytes, &bytes) &&
                bytes < SIZE_MAX;
    return fits ? (size_t)bytes : 0;
}

static const uint8_t *view_data(const weight_view *view)
{
    return view->tensor->data + view->first * view->tensor->row_bytes;
}

/* The view becomes one of a copy that holds these rows only; the caller fills data. */
static greta_status view_own(const fault_site *site, fault_planted *out, op *target, int index,
                             uint8_t **data, greta_error *err)
{
    weight_view *view = &target->w[index];
    size_t bytes = view_bytes(view);
    if (bytes == 0) {
        return fault_refuse(site, target, "tensor in one piece", err);
    }
    weight *w = planted_weight(out, view->tensor, bytes);
    if (!w) {
        return error_memory(err, "rearranged weights", bytes);
    }
    w->n_row = view->n;
    *data = (uint8_t *)(uintptr_t)w->data; /* our own copy */
    *view = (weight_view){w, 0, view->n};
    return GRETA_OK;
}

/* ---- Order ----------------------------------------------------------------------------------- */

greta_status plant_permutation(const fault_site *site, fault_planted *out, op *target,
                               greta_error *err)
{
    const float *value = (const float *)(const void *)view_data(&target->w[0]);
    int64_t n = target->w[0].tensor->n_col;
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 0, &data, err));
    for (int64_t i = 0; i < n; i++) {
        ((float *)(void *)data)[i] = value[site->kind->edit->source(i, n)];
    }
    return GRETA_OK;
}

/* Units in column order: what is W^T of a square matrix of floats. */
greta_status plant_column_order(const fault_site *site, fault_planted *out, op *target,
                                greta_error *err)
{
    weight_view view = target->w[0];
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 0, &data, err));
    const dtype_traits *type = dtype_find((uint32_t)view.tensor->type);
    int64_t n_unit = view.tensor->n_col / type->block, unit = type->bytes;
    const uint8_t *file = view_data(&view);
    for (int64_t r = 0; r < view.n; r++) {
        for (int64_t c = 0; c < n_unit; c++) {
            memcpy(data + (r * n_unit + c) * unit, file + (c * view.n + r) * unit, (size_t)unit);
        }
    }
    return GRETA_OK;
}

greta_status plant_rows(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    weight_view view = target->w[0];
    int32_t attention = op_list_op(&out->list, STAGE_ATTN_OUT, target->layer);
    int64_t head_dim = attention < 0 ? 0 : out->list.op[attention].head_dim;
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 0, &data, err));
    for (int64_t r = 0; r < view.n; r++) {
        int64_t from = site->kind->edit->row(r, view.n, head_dim);
        if (from < 0 || from >= view.n) {
            return fault_refuse(site, target, "row to read in its place", err);
        }
        memcpy(data + r * view.tensor->row_bytes, view_data(&view) + from * view.tensor->row_bytes,
               (size_t)view.tensor->row_bytes);
    }
    return GRETA_OK;
}

/* ---- Blocks -----------------------------------------------------------------------------------
 */

greta_status plant_blocks(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    weight_view view = target->w[0];
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 0, &data, err));
    const dtype_traits *type = dtype_find((uint32_t)view.tensor->type);
    size_t bytes = view_bytes(&view);
    memcpy(data, view_data(&view), bytes);
    /* From the end: an edit may take from the block before, which is healthy then. */
    for (size_t at = bytes; at >= type->bytes; at -= type->bytes) {
        bool is_first = at == type->bytes;
        if (!site->kind->edit->block(type->type, data + at - type->bytes, is_first)) {
            return fault_refuse(site, target, "such part of a block", err);
        }
    }
    return GRETA_OK;
}

greta_status plant_zero(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    size_t bytes = view_bytes(&target->w[0]);
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 0, &data, err));
    memset(data, 0, bytes);
    return GRETA_OK;
}

/* ---- Other tensors -----------------------------------------------------------------------------
 */

/* An op that reads the edge of a product by weights of this type; -1: the list has none. */
static int32_t edge_for(const fault_planted *out, const op *target, dtype type)
{
    const edge *e = &out->list.edge[target->in[0].edge];
    bool is_q8 = e->type == DTYPE_ACT_Q8, wants_q8 = dtype_find((uint32_t)type)->is_quantised;
    if (is_q8 && !wants_q8) {
        return out->list.op[e->producer].in[0].edge; /* what was quantised */
    }
    return is_q8 || !wants_q8 ? target->in[0].edge : -1;
}

/* The view of another op of the same kind and shape; its tensor keeps this one's name. */
static greta_status view_of(const fault_site *site, fault_planted *out, op *target,
                            const weight_view *other, greta_error *err)
{
    const weight_view *view = &target->w[0];
    bool fits = other && other->tensor && other->n == view->n &&
                other->tensor->n_col == view->tensor->n_col && !other->tensor->part;
    int32_t read = fits ? target->in[0].edge : -1;
    if (fits && target->kind == OP_MATMUL) {
        read = edge_for(out, target, other->tensor->type);
    }
    if (read < 0) {
        return fault_refuse(site, target, "other tensor of that form", err);
    }
    weight *w = &out->tensor[out->n_tensor++];
    *w = *other->tensor;
    w->name = view->tensor->name;
    target->in[0].edge = read;
    target->w[0] = (weight_view){w, other->first, other->n};
    return GRETA_OK;
}

/* The next layer's, or for the last layer the one before: the usual off-by-one of a layer loop. */
greta_status plant_other_layer(const fault_site *site, fault_planted *out, op *target,
                               greta_error *err)
{
    int32_t other = op_list_op(&out->list, target->name, target->layer + 1);
    if (other < 0 || target->layer < 0) {
        other = target->layer < 1 ? -1 : op_list_op(&out->list, target->name, target->layer - 1);
    }
    return view_of(site, out, target, other < 0 ? NULL : &out->list.op[other].w[0], err);
}

/* The nearest other norm of the same width in the layer. */
greta_status plant_other_norm(const fault_site *site, fault_planted *out, op *target,
                              greta_error *err)
{
    const op *other = NULL;
    for (const op *o = out->list.op; o < out->list.op + out->list.n_op && !other; o++) {
        bool is_other = o != target && o->kind == target->kind && o->layer == target->layer;
        other = is_other ? o : NULL;
    }
    return view_of(site, out, target, other ? &other->w[0] : NULL, err);
}

/* The product's sibling: keys by the weights of values, up by those of gate, and so on. */
greta_status plant_sibling(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    const op *other = NULL;
    for (const op *o = out->list.op; o < out->list.op + out->list.n_op; o++) {
        bool is_like = o != target && o->kind == target->kind && o->layer == target->layer &&
                       o->in[0].edge == target->in[0].edge && o->w[0].n == target->w[0].n;
        other = is_like ? o : other;
    }
    return view_of(site, out, target, other ? &other->w[0] : NULL, err);
}

/* Logits by the embedding, where the model has a head of its own. */
greta_status plant_embedding_as_head(const fault_site *site, fault_planted *out, op *target,
                                     greta_error *err)
{
    int32_t embed = op_list_op(&out->list, STAGE_EMBED, -1);
    const weight_view *other = embed < 0 ? NULL : &out->list.op[embed].w[0];
    if (other && other->tensor->data == target->w[0].tensor->data) {
        other = NULL; /* tied: it is the same tensor */
    }
    weight_view whole = other ? (weight_view){other->tensor, 0, other->tensor->n_row} : *target->w;
    return view_of(site, out, target, other ? &whole : NULL, err);
}

/* ---- Biases ------------------------------------------------------------------------------------
 */

greta_status plant_bias_missing(const fault_site *site, fault_planted *out, op *target,
                                greta_error *err)
{
    (void)site, (void)out, (void)err;
    target->w[1] = (weight_view){0};
    return GRETA_OK;
}

/* A vector is one row: the view counts rows, the bias has as many values as the product has. */
greta_status plant_bias_doubled(const fault_site *site, fault_planted *out, op *target,
                                greta_error *err)
{
    weight_view view = target->w[1];
    int64_t n = (int64_t)(view_bytes(&view) / sizeof(float));
    const float *bias = (const float *)(const void *)view_data(&view);
    uint8_t *data;
    GRETA_TRY(view_own(site, out, target, 1, &data, err));
    for (int64_t i = 0; i < n; i++) {
        ((float *)(void *)data)[i] = 2 * bias[i];
    }
    return GRETA_OK;
}
