/* stats.cuh - statistics and hashes of the rows of many ops at once, and the highest logit.
 *
 * Looking must not cost what is looked at. A row is cut into parts of PART values; a launch has a
 * block for each part of each row of up to GPU_STATS_MAX ops, which leaves what needs no order
 * (hash, extremes, count) and the sums of its groups of 64. A second launch has a block for a row:
 * it adds up the parts, and the group sums in index order. So a traced token costs two short
 * launches, not one for every op.
 */
#ifndef GRETA_KERNEL_GPU_STATS_CUH
#define GRETA_KERNEL_GPU_STATS_CUH

#include "kernel/gpu/rows.cuh"

#define STATS_THREADS 256
#define STATS_WARPS   (STATS_THREADS / GPU_WARP)
#define GROUP         64
#define PART          4096 /* values; a multiple of GROUP */
#define FOLD_GROUPS   2048 /* group sums that shared memory holds at a time */

/* A candidate for the first of the largest; index -1: none. */
struct ranked {
    float value;
    int32_t index;
};

/* What a block found in its part of a row. */
struct part_stats {
    row_hash hash;
    uint64_t n_nonfinite;
    ranked least, most; /* the least one's value negated */
};

struct stats_args {
    gpu_stats of[GPU_STATS_MAX];
    uint32_t first_part[GPU_STATS_MAX + 1], first_row[GPU_STATS_MAX + 1];
    uint32_t first_group[GPU_STATS_MAX + 1];
    int32_t n;
    part_stats *part;
    float *group;
};

__host__ __device__ inline int64_t groups_of(int64_t n)
{
    return (n + GROUP - 1) / GROUP;
}

__host__ __device__ inline int64_t parts_of(int64_t n)
{
    return (n + PART - 1) / PART;
}

__device__ inline bool is_better(ranked a, ranked b)
{
    bool both = a.index >= 0 && b.index >= 0;
    return both ? a.value > b.value || (a.value == b.value && a.index < b.index) : a.index >= 0;
}

__device__ inline ranked better_of(ranked a, ranked b)
{
    return is_better(b, a) ? b : a;
}

/* The best candidate of all threads, in all of them; `shared` has one place a warp. */
__device__ inline ranked block_best(ranked mine, ranked *shared)
{
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        mine = better_of(mine, {lane_xor(mine.value, stride), lane_xor(mine.index, stride)});
    }
    __syncthreads();
    if (lane_id() == 0) {
        shared[warp_id()] = mine;
    }
    __syncthreads();
    for (int w = 0; w < STATS_WARPS; w++) {
        mine = better_of(mine, shared[w]);
    }
    return mine;
}

__global__ void __launch_bounds__(STATS_THREADS) argmax_rows(gpu_argmax a)
{
    let_next();
    after_last();
    __shared__ ranked best[STATS_WARPS];
    const float *x = floats_at(a.x, blockIdx.x);
    ranked mine = {0.0f, -1};
    for (int64_t i = threadIdx.x; i < a.n; i += STATS_THREADS) {
        mine = better_of(mine, {x[i], x[i] == x[i] ? (int32_t)i : -1});
    }
    mine = block_best(mine, best);
    if (threadIdx.x == 0) {
        a.id[blockIdx.x] = mine.index;
    }
}

/* ---- Values and words of a row --------------------------------------------------------------- */

/* The row, or its sequence's keys or values in the cache. */
__device__ inline const uint8_t *stats_base(const gpu_stats &a, int64_t t, int64_t *position)
{
    if (!a.cache.base) {
        return row_at(a.x, t);
    }
    const gpu_row *row = pass_row(a.x, t);
    *position = row->position;
    return kv_of(a.cache, row);
}

struct stats_value {
    float value;
    uint32_t word;
};

__device__ inline stats_value value_of_half(uint16_t half)
{
    return {widen_half(half), (half & 0x7fffu) > 0x7c00u ? 0x7e00u : half};
}

__device__ inline stats_value value_at(const gpu_stats &a, const uint8_t *base, int64_t position,
                                       int64_t i)
{
    int64_t at = a.cache.base ? kv_place(a.cache, position, i) : i;
    if (a.type == DTYPE_F16) {
        return value_of_half(((const uint16_t *)base)[at]);
    }
    if (a.type == DTYPE_ACT_Q8) {
        int code = ((const int8_t *)base)[at];
        return {(float)code * ((const float *)(base + a.n))[at / UNIT], (uint32_t)code};
    }
    if (a.type == DTYPE_I32) {
        return {0.0f, ((const uint32_t *)base)[at]};
    }
    float x = ((const float *)base)[at];
    return {x, hash_float_bits(x)};
}

/* ---- Parts ----------------------------------------------------------------------------------- */

/* One group of 64 values, two a lane. */
__device__ inline float group_look(const gpu_stats &a, const uint8_t *base, int64_t position,
                                   int64_t g, part_stats *mine)
{
    float square[2] = {0.0f, 0.0f};
    for (int side = 0; side < 2; side++) {
        int64_t i = g * GROUP + side * GPU_WARP + lane_id();
        if (i >= a.n) {
            continue;
        }
        stats_value v = value_at(a, base, position, i);
        hash_word(&mine->hash, (uint64_t)i, v.word);
        if (a.type != DTYPE_I32) {
            int32_t at = is_finite(v.value) ? (int32_t)i : -1;
            square[side] = v.value * v.value;
            mine->n_nonfinite += at < 0;
            mine->most = better_of(mine->most, {v.value, at});
            mine->least = better_of(mine->least, {-v.value, at});
        }
    }
    int64_t b = g * (GROUP / UNIT) + lane_id();
    if (a.type == DTYPE_ACT_Q8 && lane_id() < GROUP / UNIT && b < a.n / UNIT) {
        float scale = ((const float *)(base + a.n))[b];
        hash_word(&mine->hash, (uint64_t)(a.n + b), hash_float_bits(scale));
    }
    return group_sum(square[0], square[1]);
}

__device__ inline uint64_t block_add(uint64_t v, uint64_t *shared)
{
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        v += lane_xor((unsigned long long)v, stride);
    }
    __syncthreads();
    if (lane_id() == 0) {
        shared[warp_id()] = v;
    }
    __syncthreads();
    v = 0;
    for (int w = 0; w < STATS_WARPS; w++) {
        v += shared[w];
    }
    return v;
}

/* In every thread, what all of them found. */
__device__ inline part_stats block_stats(const part_stats &mine, ranked *best, uint64_t *sums)
{
    part_stats s;
    s.hash.ordered = block_add(mine.hash.ordered, sums);
    s.hash.bag = block_add(mine.hash.bag, sums);
    s.n_nonfinite = block_add(mine.n_nonfinite, sums);
    s.least = block_best(mine.least, best);
    s.most = block_best(mine.most, best);
    return s;
}

__global__ void __launch_bounds__(STATS_THREADS) stats_parts(stats_args s)
{
    let_next();
    after_last();
    __shared__ ranked best[STATS_WARPS];
    __shared__ uint64_t sums[STATS_WARPS];
    int op = op_of_block(s.first_part, s.n);
    const gpu_stats &a = s.of[op];
    int64_t n_part = parts_of(a.n), n_group = groups_of(a.n), position = 0;
    int64_t t = (blockIdx.x - s.first_part[op]) / n_part;
    int64_t part = (blockIdx.x - s.first_part[op]) % n_part;
    const uint8_t *base = stats_base(a, t, &position);
    float *group = s.group + s.first_group[op] + t * n_group;
    part_stats mine = {{0, 0}, 0, {0.0f, -1}, {0.0f, -1}};
    int64_t end = (part + 1) * (PART / GROUP);
    end = end < n_group ? end : n_group;
    for (int64_t g = part * (PART / GROUP) + warp_id(); g < end; g += STATS_WARPS) {
        float sum = group_look(a, base, position, g, &mine);
        if (lane_id() == 0) {
            group[g] = sum;
        }
    }
    mine = block_stats(mine, best, sums);
    if (threadIdx.x == 0) {
        s.part[blockIdx.x] = mine;
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* The row sum of groups, in every thread of a block. */
__device__ inline float fold_groups(const float *group, int64_t n_group, float *shared)
{
    float total = 0.0f;
    for (int64_t first = 0; first < n_group; first += FOLD_GROUPS) {
        int n = (int)(n_group - first < FOLD_GROUPS ? n_group - first : FOLD_GROUPS);
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += STATS_THREADS) {
            shared[i] = group[first + i];
        }
        __syncthreads();
        total = first == 0 ? add_in_order(shared[0], shared + 1, n - 1)
                           : add_in_order(total, shared, n);
    }
    return total;
}

__global__ void __launch_bounds__(STATS_THREADS) stats_rows(stats_args s)
{
    let_next();
    after_last();
    __shared__ ranked best[STATS_WARPS];
    __shared__ uint64_t sums[STATS_WARPS];
    __shared__ float groups[FOLD_GROUPS];
    int op = op_of_block(s.first_row, s.n);
    const gpu_stats &a = s.of[op];
    int64_t n_part = parts_of(a.n), n_group = groups_of(a.n), t = blockIdx.x - s.first_row[op];
    const part_stats *part = s.part + s.first_part[op] + t * n_part;
    part_stats mine = {{0, 0}, 0, {0.0f, -1}, {0.0f, -1}};
    for (int64_t p = threadIdx.x; p < n_part; p += STATS_THREADS) {
        mine.hash.ordered += part[p].hash.ordered;
        mine.hash.bag += part[p].hash.bag;
        mine.n_nonfinite += part[p].n_nonfinite;
        mine.least = better_of(mine.least, part[p].least);
        mine.most = better_of(mine.most, part[p].most);
    }
    mine = block_stats(mine, best, sums);
    row_stats out = {};
    out.hash = mine.hash;
    if (a.type != DTYPE_I32) {
        out.n_nonfinite = mine.n_nonfinite;
        out.sumsq = fold_groups(s.group + s.first_group[op] + t * n_group, n_group, groups);
        out.max = mine.most.index < 0 ? 0.0f : mine.most.value;
        out.min = mine.least.index < 0 ? 0.0f : -mine.least.value;
    }
    if (threadIdx.x == 0) {
        a.stats[t] = out;
    }
}

#endif
