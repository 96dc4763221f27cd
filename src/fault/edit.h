/* edit.h - what the files of fault/ share: the edit of a kind, and the functions that make it.
 *
 * A row of the catalogue says which function plants it, and what that function takes. A fault of a
 * known shape is a new row; a new shape is one more function of the type fault_plant_op.
 */
#ifndef GRETA_FAULT_EDIT_H
#define GRETA_FAULT_EDIT_H

#include "fault/fault.h"

/* Edits `target`, an op of out->list. GRETA_USAGE: the site cannot carry the kind. */
typedef greta_status fault_plant_op(const fault_site *site, fault_planted *out, op *target,
                                    greta_error *err);

typedef struct fault_edit {
    fault_plant_op *plant;
    int32_t input, shift;                          /* reads: which input; rows further on */
    stage other;                                   /* plant_stage */
    void (*number)(float *eps, int64_t *count);    /* plant_number */
    bool (*change)(const fault_site *site, op *o); /* plant_change; false: it changes nothing */
    kernel_table kernel;                           /* plant_kernel: entries that are not NULL */
    int64_t (*source)(int64_t i, int64_t n);       /* plant_permutation */
    /* plant_blocks: edits a block in place; `is_first`: no block lies before it. False: the type
     * has no such part. */
    bool (*block)(dtype type, uint8_t *block, bool is_first);
    /* plant_rows: the row read in place of row i of n; head_dim 0: not in a layer */
    int64_t (*row)(int64_t i, int64_t n, int64_t head_dim);
    /* plant_angles: the formula's numbers (false: it has none to change), frequencies,
     * angles of a position, positions, values. */
    bool (*formula)(const fault_site *site, rope_table_args *a);
    double (*phase)(double position, double inv_freq);
    double (*frequency)(double inv_freq);
    int64_t (*position)(int64_t p);
    float (*angle)(float value, int is_sine);
    greta_status (*tokens)(const int32_t *id, size_t n, fault_tokens *out, greta_error *err);
} fault_edit;

fault_plant_op
    /* edit_read.c */
    plant_previous_position,
    plant_chunk_row_0, plant_layer_before, plant_attn_norm_input, plant_shift, plant_bypass,
    plant_stage, plant_normed, plant_cache_layer, plant_tokens,
    /* edit_number.c */
    plant_number, plant_change, plant_kernel, plant_angles,
    /* edit_weight.c */
    plant_permutation, plant_other_layer, plant_other_norm, plant_sibling, plant_column_order,
    plant_rows, plant_blocks, plant_zero, plant_embedding_as_head, plant_bias_missing,
    plant_bias_doubled;

/* "there is no ... for STAGE in layer L", about the kind. */
greta_status fault_refuse(const fault_site *site, const op *target, const char *what,
                          greta_error *err);
/* A copy of a tensor under its own name, with `bytes` of its own; NULL: no memory. */
weight *planted_weight(fault_planted *out, const weight *healthy, size_t bytes);
/* Entries of `wrong` that are not NULL, in place of those of the table. */
void kernels_replace(kernel_table *table, const kernel_table *wrong);
void *planted_memory(fault_planted *out, size_t bytes);

#endif
