/* ref.h - what the files of kernel/ref/ share.
 *
 * This folder is the definition of the arithmetic (docs/numerics.md) in plain C. It is compiled
 * twice, for the baseline machine and with AVX2, FMA and F16C (-DREF_AVX2); REF() keeps the two
 * apart. Both must give the same bits, because no result depends on the compiler: contraction is
 * off, fmaf stands exactly where the text says, and loops that a compiler may vectorise have
 * independent lanes.
 */
#ifndef GRETA_KERNEL_REF_REF_H
#define GRETA_KERNEL_REF_REF_H

#include "kernel/elementary.h"
#include "kernel/kernel.h"

#ifdef REF_AVX2
#define REF(name) ref_avx2_##name
#else
#define REF(name) ref_base_##name
#endif

/* IEEE 754-2019 maximum: NaN if either is NaN; +0 above -0. */
static inline float ref_max(float a, float b)
{
    if (a != a || b != b) {
        return NAN;
    }
    if (a == b) {
        return signbit(a) ? b : a;
    }
    return a > b ? a : b;
}

/* The sum of terms[0..n): groups of 64 halved by stride, groups added in index order. */
float REF(row_sum)(const float *terms, int64_t n);
/* The same over rn(x * x). */
float REF(row_sum_squares)(const float *x, int64_t n);

void REF(embed)(const embed_args *a);
void REF(rms_norm)(norm_args *a);
void REF(quantize)(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last);
void REF(matmul)(const matmul_args *a, int64_t first, int64_t last);
void REF(matmul_q8)(const matmul_args *a, int64_t first, int64_t last);
void REF(matmul_f32)(const matmul_args *a, int64_t first, int64_t last);
void REF(rope)(const rope_args *a);
void REF(kv_store)(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last);
void REF(attention)(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void REF(add)(const float *a, const float *b, float *y, int64_t n);
void REF(scale)(float factor, const float *x, float *y, int64_t n);
void REF(softcap)(float cap, const float *x, float *y, int64_t n);
void REF(top_k)(const float *x, int64_t n, int32_t *ids, int64_t n_used);
void REF(expert_weights)(const expert_weights_args *a);
void REF(expert_sum)(const float *weight, const float *x, float *y, int64_t n_used, int64_t n);
void REF(glu)(activation f, const float *gate, const float *up, float *y, int64_t n);
void REF(row_stats)(dtype type, const void *row, int64_t n, row_stats *stats);

extern const kernel_table REF(table);

#endif
