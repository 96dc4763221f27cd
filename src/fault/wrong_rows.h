/* wrong_rows.h - kernels of one row that are wrong in one way, to plant. */
#ifndef GRETA_FAULT_WRONG_ROWS_H
#define GRETA_FAULT_WRONG_ROWS_H

#include "kernel/kernel.h"

void rope_not_fused(const rope_args *a);
void rope_twice(const rope_args *a);
void rope_not_at_all(const rope_args *a);
void rope_first_head_only(const rope_args *a);

void store_nothing(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void store_bf16(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void store_truncated(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void store_flushed(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void store_8_bits(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void store_heads_reversed(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);

void store_head_0(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);

void add_residual_missing(const float *a, const float *b, float *y, int64_t n);
void add_block_missing(const float *a, const float *b, float *y, int64_t n);
void add_residual_twice(const float *a, const float *b, float *y, int64_t n);
void add_block_twice(const float *a, const float *b, float *y, int64_t n);
void add_subtracts(const float *a, const float *b, float *y, int64_t n);
void add_bf16(const float *a, const float *b, float *y, int64_t n);

void glu_relu(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_gelu_erf(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_gelu_quick(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_of_up(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_gate_missing(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_up_missing(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_tanh(activation f, const float *gate, const float *up, float *y, int64_t n);
void glu_clamped(activation f, const float *gate, const float *up, float *y, int64_t n);

void quantize_per_256(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
void quantize_per_row(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
void quantize_truncates(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);

void softcap_missing(float cap, const float *x, float *y, int64_t n);
void softcap_clips(float cap, const float *x, float *y, int64_t n);

void top_k_least(const float *x, int64_t n, int32_t *ids, int64_t n_used);
void top_k_next(const float *x, int64_t n, int32_t *ids, int64_t n_used);
void expert_weights_raw(const expert_weights_args *a);
void expert_weights_equal(const expert_weights_args *a);
void expert_weights_sigmoid(const expert_weights_args *a);
void expert_sum_last_missing(const float *weight, const float *x, float *y, int64_t n_used,
                             int64_t n);
void expert_sum_unweighted(const float *weight, const float *x, float *y, int64_t n_used,
                           int64_t n);

#endif
