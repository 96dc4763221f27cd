/* change_expert.c - hypotheses about experts: which are chosen, with what weights, and their sum.
 *
 * Real ones are EXPLAINING's row X2: the softmax over all experts or over the chosen ones, the
 * router's values as weights, an expert that is left out, the matrices of another expert.
 */
#include "replay/change.h"

#include <string.h>

/* ---- Weights --------------------------------------------------------------------------------- */

static bool other_rule(change *e, double unused)
{
    (void)unused;
    e->c.op.is_norm = !e->healthy->op.is_norm;
    change_say(e, e->healthy->op.is_norm ? "softmax over all experts for the chosen ones"
                                         : "softmax over the chosen experts for all");
    return true;
}

static bool wrong_rule(change *e, double which)
{
    e->c.variant.expert_weights = (wrong_expert_weights)which;
    return true;
}

/* ---- Ids ------------------------------------------------------------------------------------- */

static bool least_chosen(change *e, double unused)
{
    (void)unused;
    const op_operand *in = &e->healthy->in[0];
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, in->n));
    for (int64_t i = 0; i < in->n && row; i++) {
        row[i] = -op_float_at(in, i);
    }
    e->c.in[0].values = row;
    return row != NULL;
}

static bool ids_shifted(change *e, double by)
{
    e->c.variant.id_shift = (int32_t)by;
    return e->c.op.n_expert > 1;
}

typedef enum other_ids { IDS_NEXT, IDS_REVERSED, IDS_FIRST } other_ids;

/* The ids that a product of experts reads. */
static bool ids_read(change *e, double how)
{
    const op_operand *in = &e->healthy->in[1];
    int32_t *ids = change_memory(e, op_row_bytes(DTYPE_I32, in->n));
    for (int64_t r = 0; r < in->n && ids; r++) {
        ids[r] = (other_ids)how == IDS_NEXT       ? (op_id_at(in, r) + 1) % e->c.op.n_expert
                 : (other_ids)how == IDS_REVERSED ? op_id_at(in, in->n - 1 - r)
                                                  : 0;
    }
    e->c.in[1].values = ids;
    return ids != NULL;
}

/* ---- The sum --------------------------------------------------------------------------------- */

static bool last_missing(change *e, double unused)
{
    (void)unused;
    e->c.op.n_expert_used--;
    e->c.in[0].n -= e->c.out.n;
    e->c.in[1].n--;
    return e->c.op.n_expert_used > 0;
}

static bool weights_read(change *e, double is_reversed)
{
    const op_operand *in = &e->healthy->in[1];
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, in->n));
    for (int64_t r = 0; r < in->n && row; r++) {
        row[r] = is_reversed > 0 ? op_float_at(in, in->n - 1 - r) : 1.0f;
    }
    e->c.in[1].values = row;
    return row != NULL;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define PART(kind, edit, value, phrase)                                                            \
    {                                                                                              \
        KIND(kind), CAUSE_STRUCTURE, EVIDENCE_CHANGE, edit, value, phrase                          \
    }

static const hypothesis rows[] = {
    PART(OP_EXPERT_WEIGHTS, other_rule, 0, NULL),
    PART(OP_EXPERT_WEIGHTS, wrong_rule, WRONG_WEIGHTS_RAW, "the router's values as weights"),
    PART(OP_EXPERT_WEIGHTS, wrong_rule, WRONG_WEIGHTS_SIGMOID, "sigmoid for softmax"),
    PART(OP_EXPERT_WEIGHTS, wrong_rule, WRONG_WEIGHTS_EQUAL, "equal weights"),
    PART(OP_TOP_K, least_chosen, 0, "experts of the smallest values"),
    PART(OP_TOP_K, ids_shifted, 1, "expert behind each chosen one"),
    PART(OP_TOP_K, ids_shifted, -1, "expert before each chosen one"),
    PART(OP_EXPERT_SUM, last_missing, 0, "last expert left out"),
    PART(OP_EXPERT_SUM, weights_read, 0, "experts added without weights"),
    PART(OP_EXPERT_SUM, weights_read, 1, "weights in reverse order"),
    {KIND(OP_EXPERT_MATMUL), CAUSE_WEIGHT_LAYOUT, EVIDENCE_CHANGE, ids_read, IDS_NEXT,
     "matrix of the expert behind"},
    {KIND(OP_EXPERT_MATMUL), CAUSE_WEIGHT_LAYOUT, EVIDENCE_CHANGE, ids_read, IDS_REVERSED,
     "matrices in reverse order of ranks"},
    {KIND(OP_EXPERT_MATMUL), CAUSE_WEIGHT_LAYOUT, EVIDENCE_CHANGE, ids_read, IDS_FIRST,
     "matrix of expert 0"},
};

const hypothesis_table changes_expert = {rows, sizeof rows / sizeof *rows};
