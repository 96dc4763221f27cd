/* wrong_matmul.h - matrix products that are wrong in one way, to plant. */
#ifndef GRETA_FAULT_WRONG_MATMUL_H
#define GRETA_FAULT_WRONG_MATMUL_H

#include "kernel/kernel.h"

/* Outputs of the last part of 32 that is not full; the others are healthy. */
void matmul_rows_tail_skipped(const matmul_args *a, int64_t first, int64_t last);
void matmul_rows_tail_doubled(const matmul_args *a, int64_t first, int64_t last);
/* Terms: the last K mod 32, the last 32, the segments after the first. */
void matmul_k_tail_skipped(const matmul_args *a, int64_t first, int64_t last);
void matmul_k_tail_doubled(const matmul_args *a, int64_t first, int64_t last);
void matmul_last_block_skipped(const matmul_args *a, int64_t first, int64_t last);
void matmul_last_segment_skipped(const matmul_args *a, int64_t first, int64_t last);
/* The accumulator is rounded to binary16, or bfloat16, after every step. */
void matmul_f16_accumulator(const matmul_args *a, int64_t first, int64_t last);
void matmul_bf16_accumulator(const matmul_args *a, int64_t first, int64_t last);
/* The steps of a product of quantised numbers without minima, by the scale of the block before. */
void matmul_minima_missing(const matmul_args *a, int64_t first, int64_t last);
void matmul_scale_before(const matmul_args *a, int64_t first, int64_t last);
/* From the fifth token of a call on the first token's outputs are written. */
void matmul_token_stride_0(const matmul_args *a, int64_t first, int64_t last);
/* Of a call of n > 4 tokens the first n - 4 are left zero. */
void matmul_first_rows_lost(const matmul_args *a, int64_t first, int64_t last);
/* One output is off by a few units, other ones at every call: what a race looks like. */
void matmul_racing(const matmul_args *a, int64_t first, int64_t last);
/* Of a product of float numbers: multiplied and added with two roundings. */
void matmul_not_fused(const matmul_args *a, int64_t first, int64_t last);
/* Benign (control.h): sixteen accumulators and a tree; the same, from the last 256 terms to
 * the first. */
void matmul_lanes(const matmul_args *a, int64_t first, int64_t last);
void matmul_backwards(const matmul_args *a, int64_t first, int64_t last);
/* By the rule of numerics.md and nothing else: the same bits as the definition. */
void matmul_healthy(const matmul_args *a, int64_t first, int64_t last);

#endif
