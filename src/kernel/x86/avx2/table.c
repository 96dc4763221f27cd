/* table.c - the AVX2 kernels as a table. Ops without a kernel of their own here are the
 * definition's AVX2 build, which the compiler vectorises well enough for what they cost. */
#include "kernel/x86/avx2/avx2.h"

#define REF_AVX2
#include "kernel/ref/ref.h"
#include "kernel/x86/rows16.h"

/* Rows that were not packed, or a share that does not start at a tile, take the definition. */
void avx2_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    if (!a->packed || first % PACK_ROWS != 0) {
        ref_avx2_matmul(a, first, last);
    } else if (a->x_is_q8) {
        avx2_matmul_q8(a, first, last);
    } else {
        avx2_matmul_f32(a, first, last);
    }
}

const kernel_table avx2_table = {
    .name = "avx2",
    .embed = ref_avx2_embed,
    .rms_norm = avx2_rms_norm,
    .quantize = avx2_quantize,
    .matmul = avx2_matmul,
    .layout = ROWS16_LAYOUT,
    .packed_bytes = rows16_bytes,
    .pack = rows16_pack,
    .rope = ref_avx2_rope,
    .kv_store = ref_avx2_kv_store,
    .attention = avx2_attention,
    .add = ref_avx2_add,
    .scale = ref_avx2_scale,
    .softcap = avx2_softcap,
    .top_k = ref_avx2_top_k,
    .expert_weights = ref_avx2_expert_weights,
    .expert_sum = ref_avx2_expert_sum,
    .glu = avx2_glu,
    .row_stats = avx2_row_stats,
};
