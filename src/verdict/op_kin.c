/* op_kin.c - matches the weight views of two op lists, each pair of rows once.
 *
 * The lists differ where types ask for it: in front of quantised weights stands a QUANTIZE op. All
 * other ops must be there on both sides, with weights of the same shapes, or the models are not
 * one.
 */
#include "verdict/op_kin.h"

#include "base/threads.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

static bool view_is(const weight_view *a, const weight_view *b)
{
    return a->tensor == b->tensor && a->first == b->first && a->n == b->n;
}

/* NULL: these rows were not compared. */
static const kin_entry *entry_find(const op_kin *kin, const weight_view *a, const weight_view *b)
{
    for (size_t i = 0; i < kin->n; i++) {
        const kin_entry *e = &kin->entry[i];
        if (view_is(&e->of[SIDE_A], a) && view_is(&e->of[SIDE_B], b)) {
            return e;
        }
    }
    return NULL;
}

const kin_entry *op_kin_first(const op_kin *kin, weight_relation relation)
{
    for (size_t i = 0; i < kin->n; i++) {
        if (kin->entry[i].match.relation == relation) {
            return &kin->entry[i];
        }
    }
    return NULL;
}

/* EMBED reads any row of its table, whatever the view says. */
static weight_view view_of(const op *o, int k)
{
    weight_view view = o->w[k];
    view.n = o->kind == OP_EMBED && view.tensor ? view.tensor->n_row : view.n;
    return view;
}

const kin_entry *op_kin_of(const op_kin *kin, const op *a, const op *b)
{
    const kin_entry *least = NULL;
    for (int k = 0; k < OP_WEIGHT_MAX && a->w[k].tensor; k++) {
        weight_view x = view_of(a, k), y = view_of(b, k);
        const kin_entry *e = entry_find(kin, &x, &y);
        least = e && (!least || e->match.relation > least->match.relation) ? e : least;
    }
    return least;
}

static bool shapes_agree(const op *a, const op *b)
{
    bool agree = a->kind == b->kind;
    for (int k = 0; k < OP_WEIGHT_MAX && agree; k++) {
        weight_view x = view_of(a, k), y = view_of(b, k);
        agree = x.tensor && y.tensor ? x.n == y.n && x.tensor->n_col == y.tensor->n_col
                                     : !x.tensor && !y.tensor;
    }
    return agree;
}

/* The op of the other list; NULL: there is none, or one of other weights. */
static const op *partner_of(const op *o, const op_list *other)
{
    int32_t at = op_list_op(other, o->name, o->layer);
    return at >= 0 && shapes_agree(o, &other->op[at]) ? &other->op[at] : NULL;
}

static bool lists_agree(const op_plan plan[SIDE_COUNT], op_kin *kin)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        const op_list *own = &plan[s].list, *other = &plan[s == SIDE_A ? SIDE_B : SIDE_A].list;
        for (int32_t i = 0; i < own->n_op; i++) {
            const op *o = &own->op[i];
            if (o->kind != OP_QUANTIZE && !partner_of(o, other)) {
                snprintf(kin->mismatch, sizeof kin->mismatch,
                         "%s of layer %d has no op of the same shape in the other",
                         stage_name(o->name), (int)o->layer);
                return false;
            }
        }
    }
    return true;
}

/* Every pair of views, each once, in execution order. */
static greta_status entries_list(const op_plan plan[SIDE_COUNT], const bool *wanted, op_kin *out,
                                 greta_error *err)
{
    const op_list *list = &plan[SIDE_A].list;
    out->entry = calloc((size_t)list->n_op * OP_WEIGHT_MAX, sizeof *out->entry);
    if (!out->entry) {
        return error_memory(err, "pairs of weights", (uint64_t)list->n_op * sizeof *out->entry);
    }
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i], *other = partner_of(o, &plan[SIDE_B].list);
        for (int k = 0; k < OP_WEIGHT_MAX && other && o->w[k].tensor && wanted[o->name]; k++) {
            weight_view a = view_of(o, k), b = view_of(other, k);
            if (!entry_find(out, &a, &b)) {
                out->entry[out->n++] = (kin_entry){{a, b}, o->name, o->layer, {0}};
            }
        }
    }
    return GRETA_OK;
}

static greta_status entries_match(op_kin *kin, const greta_watch *watch, greta_error *err)
{
    thread_pool *pool = NULL;
    GRETA_TRY(thread_pool_new(thread_online(), &pool, err));
    for (size_t i = 0; i < kin->n; i++) {
        kin_entry *e = &kin->entry[i];
        if (watch && watch->progress) {
            watch->progress(watch->user, "weights", i, kin->n);
        }
        weights_match(&e->of[SIDE_A], &e->of[SIDE_B], pool, &e->match);
        kin->n_of[e->match.relation]++;
    }
    thread_pool_free(pool);
    return GRETA_OK;
}

greta_status op_kin_new(const struct greta_model *const model[SIDE_COUNT],
                        const trace_header *const header[SIDE_COUNT], const bool *wanted,
                        const greta_watch *watch, op_kin *out, greta_error *err)
{
    op_plan plan[SIDE_COUNT] = {{0}, {0}};
    *out = (op_kin){0};
    greta_status status = GRETA_OK;
    for (side s = SIDE_A; s < SIDE_COUNT && status == GRETA_OK; s++) {
        status = op_plan_new(model[s], header[s], &plan[s], err);
    }
    if (status == GRETA_OK && lists_agree(plan, out)) {
        status = entries_list(plan, wanted, out, err);
        status = status == GRETA_OK ? entries_match(out, watch, err) : status;
    }
    op_plan_free(&plan[SIDE_A]);
    op_plan_free(&plan[SIDE_B]);
    return status;
}

void op_kin_free(op_kin *kin)
{
    free(kin->entry);
    *kin = (op_kin){0};
}
