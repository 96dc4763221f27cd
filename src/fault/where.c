/* where.c - which ops can carry which kinds of faults.
 *
 * One predicate on an op and its list a kind of place, and its words for messages and lists. What
 * only the tensor or the numbers of an op can tell, the edit refuses itself.
 */
#include "fault/fault.h"

static const char *const text[WHERE_COUNT] = {
    [WHERE_NORM] = "a norm",
    [WHERE_ROW_NORM] = "a norm of whole rows",
    [WHERE_READER] = "an op that reads a row",
    [WHERE_AFTER_NORM] = "an op that reads what a norm of equal width wrote",
    [WHERE_EMBED] = "the embedding",
    [WHERE_MATMUL] = "a matrix product",
    [WHERE_MATRIX] = "a matrix product, not of experts",
    [WHERE_MATMUL_QUANTISED] = "a matrix product of quantised activations",
    [WHERE_BIAS] = "a matrix product with a bias",
    [WHERE_QK] = "the product of queries or keys",
    [WHERE_HEAD] = "the product of the logits",
    [WHERE_QUANTIZE] = "a quantiser of activations",
    [WHERE_ROPE] = "a rotation",
    [WHERE_STORE] = "a store into the KV cache",
    [WHERE_K_STORE] = "a store of keys",
    [WHERE_V_STORE] = "a store of values",
    [WHERE_ATTENTION] = "attention",
    [WHERE_ADD] = "a residual addition",
    [WHERE_GLU] = "the gated activation",
    [WHERE_SCALE] = "the scale of the embedding",
    [WHERE_SOFTCAP] = "the soft-cap of the logits",
    [WHERE_EXPERT_WEIGHTS] = "the weights of experts",
    [WHERE_EXPERT_IDS] = "the choice of experts",
    [WHERE_EXPERT_SUM] = "the sum of experts",
    [WHERE_TOKENS] = "the tokens that are fed",
};

const char *fault_where_text(fault_where where)
{
    return (unsigned)where < WHERE_COUNT ? text[where] : "?";
}

static bool is_norm(const op *o)
{
    return o->kind == OP_RMS_NORM || o->kind == OP_HEAD_NORM;
}

/* Some input was written by another op of this pass, as rows. */
static bool reads_row(const op_list *list, const op *o)
{
    bool reads = false;
    for (int i = 0; i < OP_IN_MAX; i++) {
        const edge *e = o->in[i].edge >= 0 ? &list->edge[o->in[i].edge] : NULL;
        reads |= e && e->producer >= 0 && !e->is_cache && !e->is_packed;
    }
    return reads;
}

static bool reads_norm(const op_list *list, const op *o)
{
    for (int i = 0; i < OP_IN_MAX && o->in[i].edge >= 0; i++) {
        const edge *e = &list->edge[o->in[i].edge];
        const op *by = e->producer >= 0 ? &list->op[e->producer] : NULL;
        if (by && is_norm(by) && list->edge[by->in[0].edge].width == e->width) {
            return true;
        }
    }
    return false;
}

bool fault_where_is(fault_where where, const op_list *list, const op *o)
{
    bool is_matmul = o->kind == OP_MATMUL || o->kind == OP_EXPERT_MATMUL;
    switch (where) {
    case WHERE_NORM:
        return is_norm(o);
    case WHERE_ROW_NORM:
        return o->kind == OP_RMS_NORM;
    case WHERE_READER:
        return reads_row(list, o);
    case WHERE_AFTER_NORM:
        return (o->kind == OP_ROPE || o->kind == OP_ADD) && reads_norm(list, o);
    case WHERE_EMBED:
        return o->kind == OP_EMBED;
    case WHERE_MATMUL:
        return is_matmul;
    case WHERE_MATRIX:
        return o->kind == OP_MATMUL;
    case WHERE_MATMUL_QUANTISED:
        return is_matmul && list->edge[o->in[0].edge].type == DTYPE_ACT_Q8;
    case WHERE_BIAS:
        return o->kind == OP_MATMUL && o->w[1].tensor != NULL;
    case WHERE_QK:
        return o->kind == OP_MATMUL && (o->name == STAGE_Q || o->name == STAGE_K);
    case WHERE_HEAD:
        return o->kind == OP_MATMUL && (o->name == STAGE_LOGITS || o->name == STAGE_LOGITS_RAW);
    case WHERE_QUANTIZE:
        return o->kind == OP_QUANTIZE;
    case WHERE_ROPE:
        return o->kind == OP_ROPE;
    case WHERE_STORE:
        return o->kind == OP_KV_STORE;
    case WHERE_K_STORE:
        return o->kind == OP_KV_STORE && o->name == STAGE_K_CACHE;
    case WHERE_V_STORE:
        return o->kind == OP_KV_STORE && o->name == STAGE_V_CACHE;
    case WHERE_ATTENTION:
        return o->kind == OP_ATTENTION;
    case WHERE_ADD:
        return o->kind == OP_ADD;
    case WHERE_GLU:
        return o->kind == OP_GLU;
    case WHERE_SCALE:
        return o->kind == OP_SCALE;
    case WHERE_SOFTCAP:
        return o->kind == OP_SOFTCAP;
    case WHERE_EXPERT_WEIGHTS:
        return o->kind == OP_EXPERT_WEIGHTS;
    case WHERE_EXPERT_IDS:
        return o->kind == OP_TOP_K;
    case WHERE_EXPERT_SUM:
        return o->kind == OP_EXPERT_SUM;
    default:
        return false;
    }
}
