/* avx2.h - kernels for AVX2, FMA and F16C. They obey kernel/ref/ to the last bit. */
#ifndef GRETA_KERNEL_X86_AVX2_AVX2_H
#define GRETA_KERNEL_X86_AVX2_AVX2_H

#include "kernel/kernel.h"

void avx2_rms_norm(norm_args *a);
void avx2_quantize(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
void avx2_matmul(const matmul_args *a, int64_t first, int64_t last);
void avx2_matmul_q8(const matmul_args *a, int64_t first, int64_t last);
void avx2_matmul_f32(const matmul_args *a, int64_t first, int64_t last);
void avx2_attention(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void avx2_softcap(float cap, const float *x, float *y, int64_t n);
void avx2_glu(activation f, const float *gate, const float *up, float *y, int64_t n);
void avx2_row_stats(dtype type, const void *row, int64_t n, row_stats *stats);

extern const kernel_table avx2_table;

#endif
