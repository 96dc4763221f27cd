/* edit_read.c - faults that make an op read another row, edge, layer or token.
 *
 * Where there is nothing else of the same form to read, the site cannot carry the fault: a plant
 * never makes an op read out of bounds or what no pass has written.
 */
#include "fault/edit.h"

#include <stdlib.h>
#include <string.h>

/* Rows of the pass before are kept of edges that have one for every token. */
static greta_status read_delayed(const fault_site *site, const fault_planted *out, op *target,
                                 int32_t row, greta_error *err)
{
    op_read *read = &target->in[site->kind->edit->input];
    const edge *e = read->edge >= 0 ? &out->list.edge[read->edge] : NULL;
    if (!e || e->is_cache || e->is_packed) {
        return fault_refuse(site, target, "row of the pass before", err);
    }
    read->delay = READ_PREVIOUS_PASS;
    read->row = row;
    return GRETA_OK;
}

greta_status plant_previous_position(const fault_site *site, fault_planted *out, op *target,
                                     greta_error *err)
{
    if (site->previous_row >= 0) {
        return error_about(err, GRETA_BUG, site->kind->name,
                           "row %d of the previous pass (counted from its end: below 0)",
                           (int)site->previous_row);
    }
    return read_delayed(site, out, target, site->previous_row, err);
}

greta_status plant_chunk_row_0(const fault_site *site, fault_planted *out, op *target,
                               greta_error *err)
{
    return read_delayed(site, out, target, 0, err);
}

greta_status plant_shift(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    const fault_edit *edit = site->kind->edit;
    op_read *read = &target->in[edit->input];
    if (read->edge < 0 || (out->list.edge[read->edge].is_packed && edit->shift != 0)) {
        return fault_refuse(site, target, "row further on", err);
    }
    for (int i = 0; i < OP_IN_MAX; i++) { /* keys and values together */
        if (target->in[i].edge >= 0 && out->list.edge[target->in[i].edge].is_cache &&
            out->list.edge[read->edge].is_cache) {
            target->in[i].row = edit->shift;
        }
    }
    read->row = edit->shift;
    return GRETA_OK;
}

/* Another edge of this pass; refused if there is none, or if it is the one that is read anyway, or
 * is of another form. */
static greta_status read_edge(const fault_site *site, const fault_planted *out, op *target,
                              int32_t other, greta_error *err)
{
    op_read *read = &target->in[site->kind->edit->input];
    const edge *e = &out->list.edge[read->edge];
    const edge *to = other >= 0 ? &out->list.edge[other] : NULL;
    if (!to || other == read->edge || to->width != e->width || to->type != e->type ||
        to->is_cache != e->is_cache || (to->is_packed && !e->is_packed)) {
        return fault_refuse(site, target, "other row of that form to read", err);
    }
    read->edge = other;
    return GRETA_OK;
}

greta_status plant_layer_before(const fault_site *site, fault_planted *out, op *target,
                                greta_error *err)
{
    const edge *read = &out->list.edge[target->in[site->kind->edit->input].edge];
    int32_t before = read->layer < 1 ? -1 : op_list_edge(&out->list, read->name, read->layer - 1);
    return read_edge(site, out, target, before, err);
}

greta_status plant_attn_norm_input(const fault_site *site, fault_planted *out, op *target,
                                   greta_error *err)
{
    int32_t attn_norm = op_list_op(&out->list, STAGE_ATTN_NORM, target->layer);
    int32_t other = attn_norm < 0 ? -1 : out->list.op[attn_norm].in[0].edge;
    return read_edge(site, out, target, other, err);
}

/* What the op that wrote the input has read itself: that op might as well not be there. */
greta_status plant_bypass(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    op_read *read = &target->in[site->kind->edit->input];
    for (int i = 0; i < OP_IN_MAX && site->kind->where == WHERE_AFTER_NORM; i++) {
        const edge *e = target->in[i].edge >= 0 ? &out->list.edge[target->in[i].edge] : NULL;
        bool is_norm = e && e->producer >= 0 &&
                       (out->list.op[e->producer].kind == OP_RMS_NORM ||
                        out->list.op[e->producer].kind == OP_HEAD_NORM);
        if (is_norm) {
            read = &target->in[i];
        }
    }
    int32_t producer = read->edge < 0 ? -1 : out->list.edge[read->edge].producer;
    int32_t other = producer < 0 ? -1 : out->list.op[producer].in[0].edge;
    if (other < 0 || out->list.edge[other].width != out->list.edge[read->edge].width ||
        out->list.edge[other].type != out->list.edge[read->edge].type) {
        return fault_refuse(site, target, "op to leave out", err);
    }
    read->edge = other;
    return GRETA_OK;
}

greta_status plant_stage(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    int32_t other = op_list_edge(&out->list, site->kind->edit->other, target->layer);
    if (other >= 0 && out->list.edge[other].producer >= (int32_t)(target - out->list.op)) {
        other = -1; /* not yet written */
    }
    return read_edge(site, out, target, other, err);
}

/* The normed row in place of the one that the norm of it has read: post-norm for pre-norm. */
greta_status plant_normed(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    int32_t read = target->in[site->kind->edit->input].edge, other = -1;
    for (const op *o = out->list.op; o < target; o++) {
        if (o->kind == OP_RMS_NORM && o->in[0].edge == read && o->layer == target->layer) {
            other = o->out[0];
        }
    }
    return read_edge(site, out, target, other, err);
}

/* Keys or values from the slab of the layer `shift` further on. */
greta_status plant_cache_layer(const fault_site *site, fault_planted *out, op *target,
                               greta_error *err)
{
    const fault_edit *edit = site->kind->edit;
    const edge *read = &out->list.edge[target->in[edit->input].edge];
    int32_t layer = read->layer + edit->shift;
    return read_edge(site, out, target,
                     layer < 0 ? -1 : op_list_edge(&out->list, read->name, layer), err);
}

greta_status plant_tokens(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    (void)out, (void)target;
    return error_about(err, GRETA_USAGE, site->kind->name,
                       "it changes the tokens that are fed, not an op");
}
