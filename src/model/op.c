/* op.c - building, copying and searching op lists.
 *
 * Architectures append ops through op_add and op_add_matmul; the edge an op writes is made with it,
 * so an edge always has one producer, and edge 0 is the input tokens. A quantiser is one op per
 * edge, however many products read it.
 */
#include "model/op.h"

#include "model/arch.h"

#include <stdlib.h>
#include <string.h>

const char *op_kind_name(op_kind kind)
{
    static const char *const name[OP_KIND_COUNT] = {
        [OP_EMBED] = "embed",
        [OP_SCALE] = "scale",
        [OP_RMS_NORM] = "rms_norm",
        [OP_HEAD_NORM] = "head_norm",
        [OP_QUANTIZE] = "quantize",
        [OP_MATMUL] = "matmul",
        [OP_ROPE] = "rope",
        [OP_KV_STORE] = "kv_store",
        [OP_ATTENTION] = "attention",
        [OP_ADD] = "add",
        [OP_GLU] = "glu",
        [OP_SOFTCAP] = "softcap",
        [OP_TOP_K] = "top_k",
        [OP_EXPERT_WEIGHTS] = "expert_weights",
        [OP_EXPERT_MATMUL] = "expert_matmul",
        [OP_EXPERT_SUM] = "expert_sum",
    };
    return (unsigned)kind < OP_KIND_COUNT ? name[kind] : "?";
}

/* Room for one more op and one more edge. */
static int builder_reserve(op_builder *b)
{
    op_list *list = b->list;
    if (list->n_op == b->capacity_op) {
        int32_t capacity = b->capacity_op ? 2 * b->capacity_op : 64;
        op *grown = realloc(list->op, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return 0;
        }
        list->op = grown;
        b->capacity_op = capacity;
    }
    if (list->n_edge == b->capacity_edge) {
        int32_t capacity = b->capacity_edge ? 2 * b->capacity_edge : 64;
        edge *grown = realloc(list->edge, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return 0;
        }
        list->edge = grown;
        b->capacity_edge = capacity;
    }
    return 1;
}

weight_view weight_view_expert(const weight_view *view, int32_t n_expert, int32_t e)
{
    int64_t n = view->n / n_expert;
    const weight *w = view->tensor;
    if (w->part) {
        return (weight_view){w->part[e], 0, n};
    }
    return (weight_view){w, view->first + e * n, n};
}

/* The numbers of an op come from the configuration, and from nowhere else. */
static void op_fill(op *o, const op_builder *b, const op_spec *spec)
{
    const config *c = &b->model->cfg;
    int is_local = b->layer >= 0 && c->window > 0 && c->is_local[b->layer];
    *o = (op){
        .kind = spec->kind, .name = spec->name, .layer = b->layer, .activation = spec->activation};
    for (int i = 0; i < OP_IN_MAX; i++) {
        o->in[i].edge = spec->in[i] - 1;
    }
    for (int i = 0; i < OP_OUT_MAX; i++) {
        o->out[i] = -1;
    }
    for (int i = 0; i < OP_WEIGHT_MAX && spec->w[i].tensor; i++) {
        o->w[i] = spec->w[i];
    }
    if (spec->kind == OP_RMS_NORM || spec->kind == OP_HEAD_NORM) {
        o->eps = c->rms_eps;
        o->count = spec->kind == OP_HEAD_NORM ? c->head_dim : spec->width;
    }
    if (spec->n_head > 0) {
        o->n_head = spec->n_head;
        o->n_head_kv = c->n_head_kv;
        o->head_dim = c->head_dim;
        o->rope_dim = c->rope.dim;
        o->scale = c->attn_scale;
    }
    if (spec->kind == OP_ROPE) {
        o->pairing = c->rope.pairing;
        o->rope_table = is_local && c->rope.freq_base_local > 0;
    }
    if (spec->kind == OP_ATTENTION) {
        o->softcap = c->attn_softcap;
        o->window = is_local ? c->window : 0;
    }
    if (spec->kind >= OP_TOP_K && spec->kind <= OP_EXPERT_SUM) {
        o->n_expert = c->n_expert;
        o->n_expert_used = c->n_expert_used;
        o->is_norm = c->expert_weights_norm;
    }
    o->factor = spec->kind == OP_SCALE ? spec->factor : 0;
    o->softcap = spec->kind == OP_SOFTCAP ? spec->factor : o->softcap;
}

int32_t op_add(op_builder *b, const op_spec *spec)
{
    op_list *list = b->list;
    if (b->status != GRETA_OK) {
        return 0;
    }
    if (!builder_reserve(b)) {
        b->status = error_memory(b->err, "the op list", (uint64_t)list->n_op * 2 * sizeof(op));
        return 0;
    }
    op *o = &list->op[list->n_op];
    op_fill(o, b, spec);
    o->out[0] = list->n_edge;
    list->edge[list->n_edge] = (edge){
        .name = spec->name,
        .layer = b->layer,
        .width = spec->width,
        .type = spec->type,
        .producer = list->n_op++,
        .is_cache = spec->is_cache,
        .is_packed = b->is_packed,
    };
    return list->n_edge++;
}

int32_t op_add_matmul(op_builder *b, const matmul_spec *spec)
{
    int32_t x = spec->x, n_used = b->model->cfg.n_expert_used;
    if (b->status != GRETA_OK) {
        return 0;
    }
    if (b->act == ACT_CONTRACT_Q8 && dtype_find((uint32_t)spec->w.tensor->type)->is_quantised) {
        if (*spec->x_q8 < 0) {
            op_spec quantize = {.kind = OP_QUANTIZE,
                                .name = spec->q8,
                                .in = {x + 1},
                                .width = b->list->edge[x].width,
                                .type = DTYPE_ACT_Q8};
            *spec->x_q8 = op_add(b, &quantize);
        }
        x = *spec->x_q8;
    }
    op_spec matmul = {.kind = OP_MATMUL,
                      .name = spec->name,
                      .in = {x + 1},
                      .w = {spec->w, spec->bias},
                      .width = (int32_t)spec->w.n};
    if (spec->ids) {
        matmul.kind = OP_EXPERT_MATMUL;
        matmul.in[1] = spec->ids;
        matmul.width = (int32_t)(spec->w.n / b->model->cfg.n_expert) * n_used;
    }
    return op_add(b, &matmul);
}

greta_status op_list_build(const struct greta_model *model, act_contract act, op_list *list,
                           greta_error *err)
{
    *list = (op_list){0};
    op_builder b = {.list = list, .model = model, .act = act, .layer = -1, .err = err};
    if (!builder_reserve(&b)) {
        op_list_free(list);
        return error_memory(err, "the op list", 64 * sizeof(op));
    }
    list->edge[list->n_edge++] =
        (edge){.name = STAGE_TOKENS, .layer = -1, .width = 1, .type = DTYPE_I32, .producer = -1};
    arch_find(model->cfg.arch)->ops(&b);
    if (b.status != GRETA_OK) {
        op_list_free(list);
    }
    return b.status;
}

greta_status op_list_copy(const op_list *source, op_list *target, greta_error *err)
{
    size_t op_bytes = (size_t)source->n_op * sizeof(op);
    size_t edge_bytes = (size_t)source->n_edge * sizeof(edge);
    *target = (op_list){malloc(op_bytes), source->n_op, malloc(edge_bytes), source->n_edge};
    if (!target->op || !target->edge) {
        op_list_free(target);
        return error_memory(err, "a copy of the op list", op_bytes + edge_bytes);
    }
    memcpy(target->op, source->op, op_bytes);
    memcpy(target->edge, source->edge, edge_bytes);
    return GRETA_OK;
}

void op_list_free(op_list *list)
{
    free(list->op);
    free(list->edge);
    *list = (op_list){0};
}

int32_t op_list_edge(const op_list *list, stage name, int32_t layer)
{
    for (int32_t e = 0; e < list->n_edge; e++) {
        if (list->edge[e].name == name && list->edge[e].layer == layer) {
            return e;
        }
    }
    return -1;
}

int32_t op_list_op(const op_list *list, stage name, int32_t layer)
{
    int32_t e = op_list_edge(list, name, layer);
    return e < 0 ? -1 : list->edge[e].producer;
}
