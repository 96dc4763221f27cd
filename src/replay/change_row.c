/* change_row.c - hypotheses about the rows an op read: another position's, layer's or stage's, not
 * at all, twice, in another precision.
 *
 * What an op should have read is known from the list; every other row of that width which was
 * recorded may have been read instead. Candidates are tried in the order of suspicion: the
 * neighbours in the sequence, the other layers, everything that the same layer wrote.
 */
#include "replay/change.h"

#include <string.h>

static const edge *input_edge(const change *e, int i)
{
    const op_place *at = e->around->at;
    int32_t index = at ? at->list->op[at->index].in[i].edge : -1;
    return index >= 0 ? &at->list->edge[index] : NULL;
}

static bool input_set(change *e, int i, stage name, int32_t layer, int64_t position)
{
    op_operand row = {0};
    const edge *own = input_edge(e, i);
    if (!own || own->is_cache || !change_find(e, name, layer, position, &row) ||
        row.type != e->healthy->in[i].type || row.n != e->healthy->in[i].n) {
        return false;
    }
    e->c.in[i] = row;
    return true;
}

static bool at_position(change *e, int i, int64_t position)
{
    const edge *own = input_edge(e, i);
    if (!own || position == e->healthy->position ||
        !input_set(e, i, own->name, own->layer, position)) {
        return false;
    }
    change_say(e, "row of %s at position %lld for that of %lld", stage_name(own->name),
               (long long)position, (long long)e->healthy->position);
    return true;
}

static bool first_input_shifted(change *e, double by)
{
    return at_position(e, 0, e->healthy->position + (int64_t)by);
}

static bool second_input_shifted(change *e, double by)
{
    return at_position(e, 1, e->healthy->position + (int64_t)by);
}

static bool input_of_position(change *e, double position)
{
    return e->healthy->position > 1 && at_position(e, 0, (int64_t)position);
}

/* Whether the stage was there to be read when the op ran. */
static bool is_written(const change *e, stage name, int32_t layer)
{
    const op_place *at = e->around->at;
    int32_t index = at ? op_list_op(at->list, name, layer) : -1;
    return index < 0 || index < at->index;
}

static bool at_layer(change *e, int i, int32_t by)
{
    const edge *own = input_edge(e, i);
    if (!own || own->layer < 0 || own->layer + by < 0 ||
        !is_written(e, own->name, own->layer + by) ||
        !input_set(e, i, own->name, own->layer + by, e->healthy->position)) {
        return false;
    }
    change_say(e, "row of %s in layer %d for that of layer %d", stage_name(own->name),
               (int)(own->layer + by), (int)own->layer);
    return true;
}

static bool first_input_of_layer(change *e, double by)
{
    return at_layer(e, 0, (int32_t)by);
}

static bool second_input_of_layer(change *e, double by)
{
    return at_layer(e, 1, (int32_t)by);
}

/* What the producer of input i has read; NULL: the op is the first. */
static const edge *read_by_producer(const change *e, int i)
{
    const edge *own = input_edge(e, i);
    const op_list *list = own ? e->around->at->list : NULL;
    int32_t read = own && own->producer >= 0 ? list->op[own->producer].in[0].edge : -1;
    return read >= 0 ? &list->edge[read] : NULL;
}

/* Another stage of this layer, or of what stands outside the layers. A residual that is added to
 * another row is another structure; what the producer read is bypassed's. */
static bool at_stage(change *e, int i, stage name)
{
    const edge *own = input_edge(e, i), *before = read_by_producer(e, i);
    int32_t layer = !own ? -1 : stage_is_per_layer(name) ? e->healthy->op.layer : -1;
    bool is_other = own && (name != own->name || layer != own->layer) &&
                    (name != e->healthy->op.name || layer != e->healthy->op.layer) &&
                    !(before && i == 0 && before->name == name && before->layer == layer);
    if (!is_other || !is_written(e, name, layer) ||
        !input_set(e, i, name, layer, e->healthy->position)) {
        return false;
    }
    change_say(e, "row of %s for that of %s", stage_name(name), stage_name(own->name));
    e->told.cause = e->healthy->op.kind == OP_ADD ? CAUSE_STRUCTURE : CAUSE_INPUT_SELECTION;
    return true;
}

static bool first_input_of_stage(change *e, double name)
{
    return at_stage(e, 0, (stage)name);
}

static bool second_input_of_stage(change *e, double name)
{
    return at_stage(e, 1, (stage)name);
}

/* Its producer might as well not be there. */
static bool bypassed(change *e, double unused)
{
    (void)unused;
    const edge *own = input_edge(e, 0), *before = read_by_producer(e, 0);
    if (!before || !input_set(e, 0, before->name, before->layer, e->healthy->position)) {
        return false;
    }
    bool is_store = e->healthy->op.kind == OP_KV_STORE;
    change_say(e, is_store ? "stored before %s" : "%s left out", stage_name(own->name));
    e->told.cause = is_store ? CAUSE_KV_STATE : CAUSE_STRUCTURE;
    return true;
}

static bool of_other_sequence(change *e, double which)
{
    op_operand row = {0};
    const edge *own = input_edge(e, 0);
    const op_rows *rows =
        (int32_t)which < e->around->n_other ? &e->around->others[(int)which] : NULL;
    if (!own || own->is_cache || !rows ||
        !rows->find(rows->user, own->name, own->layer, e->healthy->position, &row)) {
        return false;
    }
    e->c.in[0] = row;
    change_say(e, "row of %s of another sequence", stage_name(own->name));
    return true;
}

static bool passed_on(change *e, double unused)
{
    (void)unused;
    e->c.variant.is_copy = 1;
    return e->c.in[0].type == DTYPE_F32 && e->c.in[0].n == e->c.out.n && e->c.out.type == DTYPE_F32;
}

/* ---- Precision of rows ----------------------------------------------------------------------- */

static bool output_rounded(change *e, double p)
{
    e->c.variant.output = (precision)p;
    return e->c.out.type == DTYPE_F32;
}

static bool inputs_rounded(change *e, double p)
{
    bool has_floats = false;
    for (int i = 0; i < OP_IN_MAX; i++) {
        const op_operand *in = &e->healthy->in[i];
        if (!in->values || in->type != DTYPE_F32) {
            continue;
        }
        float *row = change_memory(e, op_row_bytes(DTYPE_F32, in->n));
        for (int64_t k = 0; k < in->n && row; k++) {
            row[k] = precision_round((precision)p, op_float_at(in, k));
        }
        e->c.in[i].values = row;
        has_floats = true;
    }
    return has_floats;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define ROW(edit, value)                                                                           \
    {                                                                                              \
        KINDS_ALL, CAUSE_INPUT_SELECTION, EVIDENCE_CHANGE, edit, value, NULL                       \
    }
#define STAGES(id, name, per_layer)                                                                \
    ROW(first_input_of_stage, STAGE_##id), ROW(second_input_of_stage, STAGE_##id),

static const hypothesis rows[] = {
    ROW(first_input_shifted, -1),
    ROW(first_input_shifted, 1),
    ROW(second_input_shifted, -1),
    ROW(second_input_shifted, 1),
    ROW(input_of_position, 0),
    ROW(first_input_shifted, -2),
    ROW(first_input_of_layer, -1),
    ROW(first_input_of_layer, 1),
    ROW(second_input_of_layer, -1),
    ROW(second_input_of_layer, 1),
    ROW(of_other_sequence, 0),
    ROW(of_other_sequence, 1),
    STAGE_LIST(STAGES){KINDS_ALL, CAUSE_STRUCTURE, EVIDENCE_CHANGE, bypassed, 0, NULL},
    {KINDS_NORM, CAUSE_STRUCTURE, EVIDENCE_CHANGE, passed_on, 0, "norm left out"},
    {KIND(OP_ROPE), CAUSE_POSITION, EVIDENCE_CHANGE, passed_on, 0, "not turned"},
    {KIND(OP_SCALE), CAUSE_SCALE, EVIDENCE_CHANGE, passed_on, 0, "scale left out"},
    {KIND(OP_SOFTCAP), CAUSE_SCALE, EVIDENCE_CHANGE, passed_on, 0, "cap left out"},
    {KINDS_FLOAT, CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, output_rounded, PRECISION_F16,
     "output in binary16"},
    {KINDS_FLOAT, CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, output_rounded, PRECISION_BF16,
     "output in bfloat16"},
    {KINDS_ALL, CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, inputs_rounded, PRECISION_F16,
     "input in binary16"},
    {KINDS_ALL, CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, inputs_rounded, PRECISION_BF16,
     "input in bfloat16"},
    {KIND(OP_KV_STORE), CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, inputs_rounded, PRECISION_E4M3,
     "input in 8 bits (e4m3)"},
};

const hypothesis_table changes_row = {rows, sizeof rows / sizeof *rows};
