/* avx512.h - kernels for AVX-512 F, BW, DQ, VL and VNNI. They obey kernel/ref/ to the last bit. */
#ifndef GRETA_KERNEL_X86_AVX512_AVX512_H
#define GRETA_KERNEL_X86_AVX512_AVX512_H

#include "kernel/kernel.h"

void avx512_matmul(const matmul_args *a, int64_t first, int64_t last);
void avx512_matmul_q8(const matmul_args *a, int64_t first, int64_t last);
void avx512_matmul_f32(const matmul_args *a, int64_t first, int64_t last);

extern const kernel_table avx512_table;

#endif
