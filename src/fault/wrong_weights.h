/* wrong_weights.h - rows and blocks of weights read wrongly, for plant_rows and plant_blocks. */
#ifndef GRETA_FAULT_WRONG_WEIGHTS_H
#define GRETA_FAULT_WRONG_WEIGHTS_H

#include "fault/fault.h"

/* The row that is read in place of row i of n, heads of head_dim; -1: there is no such order. */
int64_t row_other_pairing(int64_t i, int64_t n, int64_t head_dim);
int64_t row_other_pairing_back(int64_t i, int64_t n, int64_t head_dim);
int64_t row_heads_reversed(int64_t i, int64_t n, int64_t head_dim);
int64_t row_before(int64_t i, int64_t n, int64_t head_dim);
int64_t row_reversed(int64_t i, int64_t n, int64_t head_dim);
int64_t row_first_for_late(int64_t i, int64_t n, int64_t head_dim);

/* Edits a block in place; false: the type has no such part. */
bool block_nibbles_swapped(dtype type, uint8_t *block, bool is_first);
bool block_codes_reversed(dtype type, uint8_t *block, bool is_first);
bool block_scale_min_swapped(dtype type, uint8_t *block, bool is_first);
bool block_scale_of_before(dtype type, uint8_t *block, bool is_first);
bool block_sub_scales_shifted(dtype type, uint8_t *block, bool is_first);
bool block_fifth_bits_missing(dtype type, uint8_t *block, bool is_first);

#endif
