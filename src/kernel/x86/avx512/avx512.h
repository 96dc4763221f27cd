/* avx512.h - kernels for AVX-512 F, BW, DQ, VL and VNNI. They obey kernel/ref/ to the last bit. */
#ifndef GRETA_KERNEL_X86_AVX512_AVX512_H
#define GRETA_KERNEL_X86_AVX512_AVX512_H

#include "kernel/kernel.h"

void avx512_rms_norm(norm_args *a);
void avx512_quantize(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
void avx512_matmul(const matmul_args *a, int64_t first, int64_t last);
void avx512_matmul_q8(const matmul_args *a, int64_t first, int64_t last);
void avx512_matmul_f32(const matmul_args *a, int64_t first, int64_t last);
void avx512_attention(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void avx512_softcap(float cap, const float *x, float *y, int64_t n);
void avx512_glu(activation f, const float *gate, const float *up, float *y, int64_t n);
void avx512_row_stats(dtype type, const void *row, int64_t n, row_stats *stats);

extern const kernel_table avx512_table;

#endif
