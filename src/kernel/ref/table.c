/* table.c - the reference kernels as a table. */
#include "kernel/ref/ref.h"

const kernel_table REF(table) = {
#ifdef REF_AVX2
    .name = "ref-avx2",
#else
    .name = "ref",
#endif
    .embed = REF(embed),
    .rms_norm = REF(rms_norm),
    .quantize = REF(quantize),
    .matmul = REF(matmul),
    .rope = REF(rope),
    .kv_store = REF(kv_store),
    .attention = REF(attention),
    .add = REF(add),
    .scale = REF(scale),
    .softcap = REF(softcap),
    .top_k = REF(top_k),
    .expert_weights = REF(expert_weights),
    .expert_sum = REF(expert_sum),
    .glu = REF(glu),
    .row_stats = REF(row_stats),
};
