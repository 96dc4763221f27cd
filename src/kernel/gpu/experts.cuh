/* experts.cuh - which experts a token takes, with what weights, and their sum: a warp has a token.
 *
 * Definitions: kernel/ref/experts.c. The order of ranks is total (value, then id, NaN last), so
 * rank r + 1 is the first of all that stand behind rank r: nothing has to be marked as taken.
 */
#ifndef GRETA_KERNEL_GPU_EXPERTS_CUH
#define GRETA_KERNEL_GPU_EXPERTS_CUH

#include "kernel/gpu/rows.cuh"

struct expert_rank {
    float value;
    int32_t id; /* -1: none */
};

__device__ inline bool stands_before(expert_rank a, expert_rank b)
{
    if (a.id < 0 || b.id < 0) {
        return b.id < 0 && a.id >= 0;
    }
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) {
        return b_nan;
    }
    return !a_nan && a.value != b.value ? a.value > b.value : a.id < b.id;
}

__global__ void __launch_bounds__(GPU_WARP) top_k_rows(gpu_top_k a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.x;
    const float *x = floats_at(a.x, t);
    int32_t *ids = (int32_t *)row_at(a.ids, t);
    expert_rank last = {0.0f, -1};
    for (int r = 0; r < a.n_used; r++) {
        expert_rank best = {0.0f, -1};
        for (int i = lane_id(); i < a.n; i += GPU_WARP) {
            expert_rank here = {x[i], i};
            bool is_behind = last.id < 0 || stands_before(last, here);
            best = is_behind && stands_before(here, best) ? here : best;
        }
        for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
            expert_rank other = {lane_xor(best.value, stride), lane_xor(best.id, stride)};
            best = stands_before(other, best) ? other : best;
        }
        if (lane_id() == 0) {
            ids[r] = best.id;
        }
        last = best;
    }
}

__global__ void __launch_bounds__(GPU_WARP) expert_weights_rows(gpu_expert_weights a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.x;
    const float *router = floats_at(a.router, t);
    const int32_t *ids = (const int32_t *)row_at(a.ids, t);
    float *y = floats_at(a.y, t), most = router[ids[0]], total = 0.0f;
    int n = a.is_norm ? a.n_used : a.n;
    for (int g = 0; g < n; g += 64) {
        int i = g + lane_id(), j = i + 32;
        float low = i < n ? elementary_exp(router[a.is_norm ? ids[i] : i] - most) : 0.0f;
        float high = j < n ? elementary_exp(router[a.is_norm ? ids[j] : j] - most) : 0.0f;
        float sum = group_sum(low, high);
        total = g == 0 ? sum : total + sum;
    }
    total = lane_from(total, 0);
    for (int r = lane_id(); r < a.n_used; r += GPU_WARP) {
        y[r] = elementary_exp(router[ids[r]] - most) / total;
    }
}

__global__ void expert_sum_rows(gpu_expert_sum a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.n) {
        return;
    }
    const float *weight = floats_at(a.weight, t), *x = floats_at(a.x, t);
    float sum = 0.0f;
    for (int r = 0; r < a.n_used; r++) {
        sum = fmaf(weight[r], x[r * a.n + i], sum);
    }
    floats_at(a.y, t)[i] = sum;
}

#endif
