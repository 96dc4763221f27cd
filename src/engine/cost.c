/* cost.c - what a pass must read and compute, from the op list alone.
 *
 * greta bench divides these figures by time and by the machine's peaks. They are the least that any
 * engine must do with the same file, so that shares of peak can be compared between engines: each
 * weight once a pass, each visible key and value once a token, two operations a product. What an
 * implementation adds (scales, corrections, a layout with padding, attention's own arithmetic) is
 * not counted, except in bytes_read.
 */
#include "engine/device.h"

static void cost_matmul(const greta_session *s, const op *o, greta_cost *cost)
{
    const op_list *list = &s->healthy;
    const weight_view *view = &o->w[0];
    const weight *w = view->tensor;
    /* Of experts, those that one token takes. */
    int64_t n_row =
        o->kind == OP_EXPERT_MATMUL ? view->n / o->n_expert * o->n_expert_used : view->n;
    uint64_t bytes = (uint64_t)n_row * (uint64_t)w->row_bytes;
    uint64_t ops = 2 * (uint64_t)n_row * (uint64_t)w->n_col;
    int is_int8 = list->edge[o->in[0].edge].type == DTYPE_ACT_Q8;
    int is_of_logits = list->edge[o->out[0]].is_packed;
    cost->bytes_weights += bytes;
    weight_view one =
        o->kind == OP_EXPERT_MATMUL ? weight_view_expert(view, o->n_expert, 0) : *view;
    const device *d = s->device;
    cost->bytes_read += d ? d->plugin->weight_bytes(w->type, n_row, w->n_col)
                        : packed_view(s, session_table(s, o), &one)
                            ? s->table->packed_bytes(w->type, n_row, w->n_col)
                            : bytes;
    for (int with_logits = is_of_logits; with_logits < 2; with_logits++) {
        cost->ops_int8[with_logits] += is_int8 ? ops : 0;
        cost->ops_float[with_logits] += is_int8 ? 0 : ops;
    }
}

greta_cost greta_session_cost(const greta_session *s)
{
    greta_cost cost = {0};
    const struct greta_model *m = s->model;
    for (int32_t i = 0; i < s->healthy.n_op; i++) {
        op_kind kind = s->healthy.op[i].kind;
        if (kind == OP_MATMUL || kind == OP_EXPERT_MATMUL) {
            cost_matmul(s, &s->healthy.op[i], &cost);
        } else if (kind == OP_EMBED) {
            cost.bytes_embedding += (uint64_t)s->healthy.op[i].w[0].tensor->row_bytes;
        }
    }
    cost.bytes_kv = 2 * (uint64_t)s->kv_row_bytes * (uint64_t)m->cfg.n_layer;
    cost.memory_kv = 2 * (uint64_t)s->kv_sequence_bytes * (uint64_t)m->cfg.n_layer *
                     (uint64_t)s->options.n_sequence;
    for (size_t i = 0; m->packed && i < m->n_weight; i++) {
        const weight *w = &m->weight[i];
        cost.memory_packed +=
            m->packed[i] ? s->table->packed_bytes(w->type, w->n_row, w->n_col) : 0;
    }
    for (int32_t i = 0; i < s->plan.n_buffer; i++) {
        cost.memory_buffers += (uint64_t)s->plan.buffer[i].n_row * s->plan.buffer[i].stride;
    }
    return cost;
}
