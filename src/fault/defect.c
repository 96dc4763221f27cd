/* defect.c - the mistakes of the exam's devices, one row each.
 *
 * Causes are those of the catalogue's rules: another formula, or results that are not there, D;
 * rows of a matrix that are not the output's own C; a position that is not the token's E; an order
 * of summation R; a format that is narrower than the contract P.
 */
#include "fault/defect.h"

#include "kernel/blocks.h"

static bool is_float_product(const op *o, const op_list *list)
{
    return list->edge[o->in[0].edge].type == DTYPE_F32;
}

/* Reads or makes floats by products or sums: binary16 is widened by a product. */
static bool rounds_floats(const op_list *list, const op *o)
{
    (void)list;
    return o->kind == OP_EMBED || o->kind == OP_RMS_NORM || o->kind == OP_HEAD_NORM ||
           o->kind == OP_MATMUL || o->kind == OP_EXPERT_MATMUL || o->kind == OP_ADD ||
           o->kind == OP_GLU || o->kind == OP_SCALE || o->kind == OP_SOFTCAP ||
           o->kind == OP_ATTENTION || o->kind == OP_ROPE;
}

static bool has_groups(const op_list *list, const op *o)
{
    return list->edge[o->out[0]].width > ROW_SUM_GROUP;
}

static bool has_segments(const op_list *list, const op *o)
{
    int64_t segment = is_float_product(o, list) ? SEGMENT_FLOAT : SEGMENT;
    return o->w[0].tensor->n_col > segment;
}

static bool has_rows_8(const op_list *list, const op *o)
{
    (void)list;
    return o->w[0].n > DEFECT_INDEX_SMALL;
}

static bool has_rows_16(const op_list *list, const op *o)
{
    (void)list;
    return o->w[0].n > DEFECT_INDEX_LARGE;
}

static bool has_tail_rows(const op_list *list, const op *o)
{
    (void)list;
    return o->w[0].n > DEFECT_TILE_ROWS && o->w[0].n % DEFECT_TILE_ROWS != 0;
}

static bool has_tail_columns(const op_list *list, const op *o)
{
    int32_t n = list->edge[o->out[0]].width;
    return n > DEFECT_TILE_COLUMNS && n % DEFECT_TILE_COLUMNS != 0;
}

static bool reads_position(const op_list *list, const op *o)
{
    (void)list;
    return o->kind == OP_ROPE || o->kind == OP_KV_STORE || o->kind == OP_ATTENTION;
}

static bool has_float_weights(const op_list *list, const op *o)
{
    return is_float_product(o, list);
}

#define KIND(name, cause, where, description)                                                      \
    {                                                                                              \
        name, CAUSE_##cause, description, STAGE_NONE, where, .is_late = true                       \
    }

static const defect list[DEFECT_COUNT] = {
    [DEFECT_NONE] = {KIND("gpu-healthy", NONE, WHERE_READER, "makes no mistake"), NULL, false},
    [DEFECT_FLUSH] = {KIND("gpu-flush-to-zero", KERNEL_MATH, WHERE_READER,
                           "takes subnormal operands and results for zero (-ftz=true)"),
                      rounds_floats, false},
    [DEFECT_CONTRACTION] = {KIND("gpu-contraction", ROUNDING, WHERE_NORM,
                                 "fuses squares into their sum (-fmad=true)"),
                            NULL, false},
    [DEFECT_BARRIER_NORM] = {KIND("gpu-barrier-missing-norm", KERNEL_MATH, WHERE_ROW_NORM,
                                  "adds what the norm before left in shared memory for the sum of "
                                  "the last 64 squares: no __syncthreads"),
                             has_groups, false},
    [DEFECT_BARRIER_MATMUL] = {KIND("gpu-barrier-missing-product", KERNEL_MATH, WHERE_MATRIX,
                                    "misses the sum of the last segment: no __syncthreads"),
                               has_segments, false},
    [DEFECT_INDEX_8] = {KIND("gpu-row-index-8-bits", WEIGHT_LAYOUT, WHERE_MATRIX,
                             "reads row r mod 256 of a matrix: an index of 8 bits"),
                        has_rows_8, false},
    [DEFECT_INDEX_16] = {KIND("gpu-row-index-16-bits", WEIGHT_LAYOUT, WHERE_MATRIX,
                              "reads row r mod 65536 of a matrix: an index of 16 bits"),
                         has_rows_16, false},
    [DEFECT_TAIL_MATMUL] = {KIND("gpu-grid-tail-product", KERNEL_MATH, WHERE_MATRIX,
                                 "leaves the last n mod 32 outputs as they were: a grid of whole "
                                 "tiles"),
                            has_tail_rows, false},
    [DEFECT_TAIL_GLU] = {KIND("gpu-grid-tail-columns", KERNEL_MATH, WHERE_GLU,
                              "leaves the last n mod 64 columns as they were: a grid of whole "
                              "blocks"),
                         has_tail_columns, false},
    [DEFECT_STALE_GRAPH] = {KIND(
                                "gpu-graph-stale", POSITION, WHERE_READER,
                                "turns, stores and attends at the position of the first token that "
                                "came alone: parameters of a captured graph"),
                            reads_position, true},
    [DEFECT_ORDER_NORM] = {KIND("gpu-order-norm", ROUNDING, WHERE_NORM,
                                "sums squares in 32 lanes, halved by shuffles"),
                           NULL, false},
    [DEFECT_ORDER_MATMUL] = {KIND("gpu-order-product", ROUNDING, WHERE_MATRIX,
                                  "sums products in the lanes of a warp, halved by shuffles"),
                             NULL, false},
    [DEFECT_TF32] = {KIND("gpu-tf32", PRECISION_POLICY, WHERE_MATRIX,
                          "cuts factors of float products to TF32"),
                     has_float_weights, false},
    [DEFECT_SUM_F16] = {KIND("gpu-f16-accumulator", PRECISION_POLICY, WHERE_MATRIX,
                             "sums products in binary16"),
                        NULL, false},
};

const defect *defects(void)
{
    return list;
}

bool defect_concerns(const defect *d, const op_list *ops, const op *o)
{
    bool reads_rows = d->kind.where == WHERE_READER;
    bool is_place = reads_rows ? d->concerns != NULL : fault_where_is(d->kind.where, ops, o);
    return is_place && (!d->concerns || d->concerns(ops, o));
}
