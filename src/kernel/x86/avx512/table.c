/* table.c - the AVX-512 kernels as a table. Ops without a kernel of their own here are the
 * definition's AVX2 build, which the compiler vectorises well enough for what they cost. */
#include "kernel/x86/avx512/avx512.h"

#define REF_AVX2
#include "kernel/ref/ref.h"
#include "kernel/x86/rows16.h"

/* Rows that were not packed, or a share that does not start at a tile, take the definition. */
void avx512_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    if (!a->packed || first % PACK_ROWS != 0) {
        ref_avx2_matmul(a, first, last);
    } else if (a->x_is_q8) {
        avx512_matmul_q8(a, first, last);
    } else {
        avx512_matmul_f32(a, first, last);
    }
}

const kernel_table avx512_table = {
    .name = "avx512",
    .embed = ref_avx2_embed,
    .rms_norm = avx512_rms_norm,
    .quantize = avx512_quantize,
    .matmul = avx512_matmul,
    .layout = ROWS16_LAYOUT,
    .packed_bytes = rows16_bytes,
    .pack = rows16_pack,
    .rope = ref_avx2_rope,
    .kv_store = ref_avx2_kv_store,
    .attention = avx512_attention,
    .add = ref_avx2_add,
    .scale = ref_avx2_scale,
    .softcap = avx512_softcap,
    .top_k = ref_avx2_top_k,
    .expert_weights = ref_avx2_expert_weights,
    .expert_sum = ref_avx2_expert_sum,
    .glu = avx512_glu,
    .row_stats = avx512_row_stats,
};
