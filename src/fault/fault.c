/* fault.c - the catalogue and the planting.
 *
 * A row of the catalogue names the fault and holds its edit: a function that changes the copied op
 * list, and what that function takes. New faults of a known shape are new rows; a new shape is
 * one more function of the type fault_plant_op.
 *
 * The edited run does what a real engine with that bug would do, and its trace is honest: it shows
 * the row that was read, the numbers the kernel was given, the hash of the weights it saw.
 * It says nothing of the plant. In the `hidden` kinds the kernel itself is wrong (wrong_norm.h), so
 * the record shows the right number and only the output betrays the other one.
 *
 * Rejected: flags inside the kernels (the healthy path would carry them), and faults applied to
 * traces after the run (they would skip everything downstream).
 */
#include "fault/fault.h"

#include "fault/wrong_norm.h"

#include <stdlib.h>
#include <string.h>

typedef struct fault_edit fault_edit;
typedef greta_status fault_plant_op(const fault_site *site, fault_planted *out, op *target,
                                    greta_error *err);

struct fault_edit {
    fault_plant_op *plant;
    void (*number)(float *eps, int64_t *count); /* plant_number */
    void (*rms_norm)(norm_args *a);             /* plant_kernel */
    int64_t (*source)(int64_t i, int64_t n);    /* plant_permutation */
};

static fault_plant_op plant_previous_position, plant_chunk_row_0, plant_layer_before,
    plant_attn_norm_input, plant_number, plant_kernel, plant_permutation, plant_other_layer;

#define READ(plant_function) .edit = &(const fault_edit){.plant = plant_function}
#define NUMBER(function) .edit = &(const fault_edit){.plant = plant_number, .number = function}
#define KERNEL(function) .edit = &(const fault_edit){.plant = plant_kernel, .rms_norm = function}
#define SOURCE(function) .edit = &(const fault_edit){.plant = plant_permutation, .source = function}

static const fault_kind catalogue[] = {
    {"ffn_norm-reads-previous-position", CAUSE_INPUT_SELECTION,
     "ffn_norm reads x_after_attn of the position before",
     STAGE_FFN_NORM, READ(plant_previous_position)},
    {"ffn_norm-reads-chunk-row-0", CAUSE_INPUT_SELECTION,
     "ffn_norm reads row 0 of the last prefill chunk",
     STAGE_FFN_NORM, .needs_chunk = true, READ(plant_chunk_row_0)},
    {"ffn_norm-reads-layer-before", CAUSE_INPUT_SELECTION,
     "ffn_norm reads x_after_attn of the layer before",
     STAGE_FFN_NORM, .layer_min = 1, READ(plant_layer_before)},
    {"ffn_norm-reads-attn_norm-input", CAUSE_INPUT_SELECTION,
     "ffn_norm reads what attn_norm of its layer reads",
     STAGE_FFN_NORM, READ(plant_attn_norm_input)},
    {"ffn_norm-eps-times-10", CAUSE_NORM_STATS,
     "ffn_norm is given ten times its eps",
     STAGE_FFN_NORM, NUMBER(wrong_eps_times_10)},
    {"ffn_norm-eps-over-10", CAUSE_NORM_STATS,
     "ffn_norm is given a tenth of its eps",
     STAGE_FFN_NORM, NUMBER(wrong_eps_over_10)},
    {"ffn_norm-eps-plus-1e-3", CAUSE_NORM_STATS,
     "ffn_norm is given its eps + 1e-3",
     STAGE_FFN_NORM, NUMBER(wrong_eps_plus_1e_3)},
    {"ffn_norm-mean-over-n-minus-1", CAUSE_NORM_STATS,
     "ffn_norm is given n-1 as the count of its mean",
     STAGE_FFN_NORM, NUMBER(wrong_count_n_minus_1)},
    {"ffn_norm-mean-over-n-plus-1", CAUSE_NORM_STATS,
     "ffn_norm is given n+1 as the count of its mean",
     STAGE_FFN_NORM, NUMBER(wrong_count_n_plus_1)},
    {"ffn_norm-eps-times-10-hidden", CAUSE_NORM_STATS,
     "ffn_norm is given the right numbers and uses ten times its eps",
     STAGE_FFN_NORM, .is_hidden = true, KERNEL(norm_eps_times_10)},
    {"ffn_norm-eps-over-10-hidden", CAUSE_NORM_STATS,
     "ffn_norm is given the right numbers and uses a tenth of its eps",
     STAGE_FFN_NORM, .is_hidden = true, KERNEL(norm_eps_over_10)},
    {"ffn_norm-eps-plus-1e-3-hidden", CAUSE_NORM_STATS,
     "ffn_norm is given the right numbers and uses its eps + 1e-3",
     STAGE_FFN_NORM, .is_hidden = true, KERNEL(norm_eps_plus_1e_3)},
    {"ffn_norm-mean-over-n-minus-1-hidden", CAUSE_NORM_STATS,
     "ffn_norm is given the right numbers and uses n-1 as the count of its mean",
     STAGE_FFN_NORM, .is_hidden = true, KERNEL(norm_count_n_minus_1)},
    {"ffn_norm-mean-over-n-plus-1-hidden", CAUSE_NORM_STATS,
     "ffn_norm is given the right numbers and uses n+1 as the count of its mean",
     STAGE_FFN_NORM, .is_hidden = true, KERNEL(norm_count_n_plus_1)},
    {"ffn_norm-weights-reversed", CAUSE_WEIGHT_LAYOUT,
     "ffn_norm reads its weights in reverse order",
     STAGE_FFN_NORM, SOURCE(source_reversed)},
    {"ffn_norm-weights-halves-swapped", CAUSE_WEIGHT_LAYOUT,
     "ffn_norm reads its weights with the halves swapped",
     STAGE_FFN_NORM, SOURCE(source_halves_swapped)},
    {"ffn_norm-weights-stride-2", CAUSE_WEIGHT_LAYOUT,
     "ffn_norm reads its weights at index 2i mod n",
     STAGE_FFN_NORM, SOURCE(source_stride_2)},
    {"ffn_norm-weights-other-layer", CAUSE_WEIGHT_LAYOUT,
     "ffn_norm reads the ffn_norm weights of another layer",
     STAGE_FFN_NORM, .needs_two_layers = true, READ(plant_other_layer)},
    {"ffn_norm-sum-for-mean", CAUSE_KERNEL_MATH,
     "ffn_norm divides by the root of the sum of squares, not of their mean",
     STAGE_FFN_NORM, KERNEL(norm_sum_for_mean)},
    {"ffn_norm-no-root", CAUSE_KERNEL_MATH,
     "ffn_norm divides by the mean of squares, without the root",
     STAGE_FFN_NORM, KERNEL(norm_no_root)},
    {"ffn_norm-mean-subtracted", CAUSE_KERNEL_MATH,
     "ffn_norm subtracts the mean first, as LayerNorm does",
     STAGE_FFN_NORM, KERNEL(norm_mean_subtracted)},
    {"ffn_norm-weight-plus-1", CAUSE_KERNEL_MATH,
     "ffn_norm scales by 1 + weight",
     STAGE_FFN_NORM, KERNEL(norm_weight_plus_1)},
};

const fault_kind *fault_kinds(size_t *n)
{
    *n = sizeof catalogue / sizeof catalogue[0];
    return catalogue;
}

const fault_kind *fault_find(const char *name)
{
    for (size_t i = 0; i < sizeof catalogue / sizeof catalogue[0]; i++) {
        if (strcmp(name, catalogue[i].name) == 0) {
            return &catalogue[i];
        }
    }
    return NULL;
}

int32_t fault_layer_draw(const fault_kind *kind, int32_t n_layer, uint64_t seed)
{
    int32_t n = n_layer - kind->layer_min;
    if (n < 1 || (kind->needs_two_layers && n_layer < 2)) {
        return -1;
    }
    uint64_t z = seed + 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return kind->layer_min + (int32_t)(z % (uint64_t)n);
}

static stage site_stage(const fault_site *site)
{
    return site->stage == STAGE_NONE ? site->kind->stage : site->stage;
}

greta_status fault_plant(const fault_site *site, fault_planted **out, greta_error *err)
{
    const fault_kind *kind = site->kind;
    *out = NULL;
    int32_t at = op_list_op(site->list, site_stage(site), site->layer);
    if (at < 0 || site->list->op[at].kind != OP_RMS_NORM) {
        return error_about(err, GRETA_USAGE, kind->name, "no %s in layer %d (a norm of the model)",
                           stage_name(site_stage(site)), (int)site->layer);
    }
    fault_planted *planted = calloc(1, sizeof *planted);
    if (!planted) {
        return error_memory(err, "a planted fault", sizeof *planted);
    }
    greta_status status = op_list_copy(site->list, &planted->list, err);
    if (status == GRETA_OK) {
        planted->table = *site->table;
        status = kind->edit->plant(site, planted, &planted->list.op[at], err);
    }
    if (status != GRETA_OK) {
        fault_planted_free(planted);
        return status;
    }
    *out = planted;
    return GRETA_OK;
}

void fault_planted_free(fault_planted *planted)
{
    if (planted) {
        op_list_free(&planted->list);
        free(planted->values);
        free(planted);
    }
}

static greta_status plant_previous_position(const fault_site *site, fault_planted *out, op *target,
                                            greta_error *err)
{
    (void)out;
    if (site->previous_row >= 0) {
        return error_about(err, GRETA_BUG, site->kind->name,
                           "row %d of the previous pass (counted from its end: below 0)",
                           (int)site->previous_row);
    }
    target->in[0].delay = READ_PREVIOUS_PASS;
    target->in[0].row = site->previous_row;
    return GRETA_OK;
}

static greta_status plant_chunk_row_0(const fault_site *site, fault_planted *out, op *target,
                                      greta_error *err)
{
    (void)site;
    (void)out;
    (void)err;
    target->in[0].delay = READ_PREVIOUS_PASS;
    target->in[0].row = 0;
    return GRETA_OK;
}

/* Another edge of this pass; refused if there is none, or if it is the one that is read anyway. */
static greta_status read_edge(const fault_site *site, op *target, int32_t other, greta_error *err)
{
    if (other < 0 || other == target->in[0].edge) {
        return error_about(err, GRETA_USAGE, site->kind->name,
                           "there is no such other row to read for %s in layer %d",
                           stage_name(target->name), (int)target->layer);
    }
    target->in[0].edge = other;
    return GRETA_OK;
}

static greta_status plant_layer_before(const fault_site *site, fault_planted *out, op *target,
                                       greta_error *err)
{
    const edge *read = &out->list.edge[target->in[0].edge];
    int32_t before = read->layer < 1 ? -1 : op_list_edge(&out->list, read->name, read->layer - 1);
    return read_edge(site, target, before, err);
}

static greta_status plant_attn_norm_input(const fault_site *site, fault_planted *out, op *target,
                                          greta_error *err)
{
    int32_t attn_norm = op_list_op(&out->list, STAGE_ATTN_NORM, site->layer);
    int32_t other = attn_norm < 0 ? -1 : out->list.op[attn_norm].in[0].edge;
    return read_edge(site, target, other, err);
}

static greta_status plant_number(const fault_site *site, fault_planted *out, op *target,
                                 greta_error *err)
{
    (void)out;
    int64_t count = target->count;
    site->kind->edit->number(&target->eps, &count);
    if (count < 1 || count > INT32_MAX) {
        return error_about(err, GRETA_USAGE, site->kind->name, "the norm has only %d values",
                           (int)target->count);
    }
    target->count = (int32_t)count;
    return GRETA_OK;
}

static greta_status plant_kernel(const fault_site *site, fault_planted *out, op *target,
                                 greta_error *err)
{
    (void)err;
    out->table.rms_norm = site->kind->edit->rms_norm;
    out->has_table = true;
    target->table = 1;
    return GRETA_OK;
}

static greta_status plant_permutation(const fault_site *site, fault_planted *out, op *target,
                                      greta_error *err)
{
    const weight *healthy = target->w[0].tensor;
    const float *value = (const float *)(const void *)healthy->data;
    int64_t n = healthy->n_col;
    out->values = malloc((size_t)n * sizeof *out->values);
    if (!out->values) {
        return error_memory(err, "rearranged weights", (uint64_t)n * sizeof *out->values);
    }
    for (int64_t i = 0; i < n; i++) {
        out->values[i] = value[site->kind->edit->source(i, n)];
    }
    out->tensor = *healthy;
    out->tensor.data = (const uint8_t *)out->values;
    target->w[0].tensor = &out->tensor;
    return GRETA_OK;
}

/* The next layer's, or for the last layer the one before: the usual off-by-one of a layer loop. */
static greta_status plant_other_layer(const fault_site *site, fault_planted *out, op *target,
                                      greta_error *err)
{
    int32_t other = op_list_op(&out->list, target->name, site->layer + 1);
    if (other < 0) {
        other = op_list_op(&out->list, target->name, site->layer - 1);
    }
    if (other < 0) {
        return error_about(err, GRETA_USAGE, site->kind->name, "%s has no other layer",
                           stage_name(target->name));
    }
    const weight *healthy = target->w[0].tensor;
    out->tensor = *out->list.op[other].w[0].tensor;
    out->tensor.name = healthy->name;
    target->w[0].tensor = &out->tensor;
    return GRETA_OK;
}
