/* stats.cuh - statistics and hashes of the rows of many ops at once, and the highest logit.
 *
 * Looking must not cost what is looked at. A warp looks at 128 values at a time, four a lane: what
 * needs no order (hash, extremes, count) stays in registers, and the sums of the two groups of 64
 * come from one tree that keeps fewer values a lane at every step. Two ways:
 *
 *     whole     a warp has a row, and adds its groups in index order as it goes: many rows
 *     parts     a block has a part of a row; the last one of a row adds up the parts, and the group
 *               sums in index order: few rows, or long ones
 */
#ifndef GRETA_KERNEL_GPU_STATS_CUH
#define GRETA_KERNEL_GPU_STATS_CUH

#include "kernel/gpu/rows.cuh"

#define STATS_THREADS 256
/* Ops of a launch: their descriptions are its arguments, of which CUDA takes 32764 bytes
 * since 12.1, HIP 4096. */
#if defined __HIP__ && !defined GPU_EMULATED
#define STATS_OPS 32
#else
#define STATS_OPS GPU_STATS_MAX
#endif
#define STATS_WARPS (STATS_THREADS / GPU_WARP)
#define GROUP       64
#define SPAN        128  /* values that a warp looks at at a time */
#define PART        4096 /* values; a multiple of SPAN */
#define FOLD_GROUPS 2048 /* group sums that shared memory holds at a time */

/* A candidate for the first of the largest; index -1: none. */
struct ranked {
    float value;
    int32_t index;
};

/* What was found in some of a row's values. */
struct look {
    row_hash hash;
    uint64_t n_nonfinite;
    float least, most; /* infinities: no value was finite */
};

struct stats_args {
    gpu_stats of[STATS_OPS];
    uint32_t first_part[STATS_OPS + 1], first_row[STATS_OPS + 1];
    uint32_t first_group[STATS_OPS + 1];
    int32_t n;
    look *part;
    float *group;
    uint32_t *arrived; /* parts of each row that are done, 0 before and after */
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

/* ---- A span of a row ------------------------------------------------------------------------- */

enum look_kind { LOOK_FLOATS, LOOK_Q8, LOOK_ANY }; /* rows of them, four loaded at once; the rest */

__device__ inline look_kind look_kind_of(const gpu_stats &a, const uint8_t *base)
{
    if (a.cache.base || (uintptr_t)base % 16 != 0) {
        return LOOK_ANY;
    }
    return a.type == DTYPE_F32 ? LOOK_FLOATS : a.type == DTYPE_ACT_Q8 ? LOOK_Q8 : LOOK_ANY;
}

/* Values i .. i + 3 and the words they are hashed as. */
template <int KIND>
__device__ inline void four_at(const gpu_stats &a, const uint8_t *base, int64_t i, float v[4],
                               uint32_t word[4])
{
    if constexpr (KIND == LOOK_FLOATS) {
        load_floats<4>((const float *)base + i, v);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            word[c] = bits_from_float(v[c]);
        }
    } else {
        uint32_t codes = *(const uint32_t *)(base + i);
        float d = ((const float *)(base + a.n))[i / UNIT];
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int code = (int8_t)(codes >> (8 * c));
            word[c] = (uint32_t)code;
            v[c] = (float)code * d;
        }
    }
}

/* The same of values one by one, of which some are not there or not finite. */
__device__ inline void look_slowly(const gpu_stats &a, const uint8_t *base, int64_t position,
                                   int64_t i, float square[4], look *mine)
{
    for (int c = 0; c < 4 && i + c < a.n; c++) {
        stats_value x = value_at(a, base, position, i + c);
        hash_word(&mine->hash, (uint64_t)(i + c), x.word);
        if (a.type != DTYPE_I32) {
            square[c] = x.value * x.value;
            mine->n_nonfinite += !is_finite(x.value);
            mine->most = is_finite(x.value) ? fmaxf(mine->most, x.value) : mine->most;
            mine->least = is_finite(x.value) ? fminf(mine->least, x.value) : mine->least;
        }
    }
}

/* Four terms of each lane, those of a group in 16 lanes: the sum of the lane's group. The tree of
 * numerics.md adds terms 32, 16, 8, 4, 2 and 1 apart, that is, lanes 8, 4, 2 and 1 apart, then
 * terms of a lane; after the first two steps a lane goes on with one term of its four. */
__device__ inline float half_sum(const float term[4])
{
    bool high = lane_id() & 8, odd = lane_id() & 4;
    float x = (high ? term[2] : term[0]) + lane_xor(high ? term[0] : term[2], 8);
    float y = (high ? term[3] : term[1]) + lane_xor(high ? term[1] : term[3], 8);
    float sum = (odd ? y : x) + lane_xor(odd ? x : y, 4);
    sum = sum + lane_xor(sum, 2);
    sum = sum + lane_xor(sum, 1);
    sum = sum + lane_xor(sum, 8);
    return sum + lane_xor(sum, 4);
}

/* Values first .. first + 127 of a row, as many as it has; returns the sum of the lane's group,
 * lanes 0 .. 15 having the first. */
template <int KIND>
__device__ inline float span_look(const gpu_stats &a, const uint8_t *base, int64_t position,
                                  int64_t first, look *mine)
{
    int64_t i = first + 4 * lane_id();
    float square[4] = {}, v[4];
    uint32_t word[4], most = 0x7f800000u;
    if constexpr (KIND != LOOK_ANY) {
        if (i + 4 <= a.n) {
            four_at<KIND>(a, base, i, v, word);
            most = 0;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                uint32_t bits = bits_from_float(v[c]) & 0x7fffffffu;
                most = bits > most ? bits : most;
            }
        }
    }
    if (KIND != LOOK_ANY && most < 0x7f800000u) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            hash_word(&mine->hash, (uint64_t)(i + c), word[c]);
            square[c] = v[c] * v[c];
            mine->most = fmaxf(mine->most, v[c]);
            mine->least = fminf(mine->least, v[c]);
        }
    } else {
        look_slowly(a, base, position, i, square, mine);
    }
    int64_t b = first / UNIT + lane_id();
    if (a.type == DTYPE_ACT_Q8 && lane_id() < SPAN / UNIT && b < a.n / UNIT) {
        float scale = ((const float *)(base + a.n))[b];
        hash_word(&mine->hash, (uint64_t)(a.n + b), hash_float_bits(scale));
    }
    return half_sum(square);
}

/* Calls f(first, sum of the lane's group) for every span from `first` on, `step` apart. */
template <int KIND, class F>
__device__ inline void spans_of_kind(const gpu_stats &a, const uint8_t *base, int64_t position,
                                     int64_t first, int64_t end, int64_t step, look *mine, F f)
{
#pragma unroll 2
    for (; first < end; first += step) {
        f(first, span_look<KIND>(a, base, position, first, mine));
    }
}

template <class F>
__device__ inline void spans_look(const gpu_stats &a, const uint8_t *base, int64_t position,
                                  int64_t first, int64_t end, int64_t step, look *mine, F f)
{
    switch (look_kind_of(a, base)) {
    case LOOK_FLOATS:
        spans_of_kind<LOOK_FLOATS>(a, base, position, first, end, step, mine, f);
        break;
    case LOOK_Q8:
        spans_of_kind<LOOK_Q8>(a, base, position, first, end, step, mine, f);
        break;
    default:
        spans_of_kind<LOOK_ANY>(a, base, position, first, end, step, mine, f);
    }
}

/* ---- What was found -------------------------------------------------------------------------- */

__device__ inline look look_nothing()
{
    return {{0, 0}, 0, GPU_INFINITY, -GPU_INFINITY};
}

__device__ inline look look_both(look a, const look &b)
{
    a.hash.ordered += b.hash.ordered;
    a.hash.bag += b.hash.bag;
    a.n_nonfinite += b.n_nonfinite;
    a.least = fminf(a.least, b.least);
    a.most = fmaxf(a.most, b.most);
    return a;
}

__device__ inline uint64_t lane_xor_wide(uint64_t v, int mask)
{
    return lane_xor((unsigned long long)v, mask);
}

/* In every lane, what all of them found. */
__device__ inline look lanes_look(look mine)
{
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        look other;
        other.hash.ordered = lane_xor_wide(mine.hash.ordered, stride);
        other.hash.bag = lane_xor_wide(mine.hash.bag, stride);
        other.n_nonfinite = lane_xor_wide(mine.n_nonfinite, stride);
        other.least = lane_xor(mine.least, stride);
        other.most = lane_xor(mine.most, stride);
        mine = look_both(mine, other);
    }
    return mine;
}

/* An extreme: if it is zero, the first zero of the row, which has the sign; 0 if no value was
 * finite. A warp together. */
__device__ inline float extreme_of(const gpu_stats &a, const uint8_t *base, int64_t position,
                                   float found)
{
    if (found != 0.0f) {
        return is_finite(found) ? found : 0.0f;
    }
    for (int64_t first = 0; first < a.n; first += GPU_WARP) {
        int64_t i = first + lane_id();
        bool is_zero = i < a.n && value_at(a, base, position, i).value == 0.0f;
        uint32_t place = lanes_max(is_zero ? (uint32_t)(GPU_WARP - lane_id()) : 0);
        if (place > 0) {
            return value_at(a, base, position, first + GPU_WARP - place).value;
        }
    }
    return found;
}

/* A warp together. */
__device__ inline row_stats stats_of(const gpu_stats &a, const uint8_t *base, int64_t position,
                                     const look &found, float sumsq)
{
    row_stats out = {};
    out.hash = found.hash;
    if (a.type != DTYPE_I32) {
        out.n_nonfinite = found.n_nonfinite;
        out.sumsq = sumsq;
        out.max = extreme_of(a, base, position, found.most);
        out.min = extreme_of(a, base, position, found.least);
    }
    return out;
}

/* ---- A warp has a row ------------------------------------------------------------------------ */

__global__ void __launch_bounds__(STATS_THREADS) stats_whole(stats_args s)
{
    let_next();
    after_last();
    uint32_t row = blockIdx.x * STATS_WARPS + (uint32_t)warp_id();
    if (row >= s.first_row[s.n]) {
        return;
    }
    int op = op_of(s.first_row, s.n, row);
    const gpu_stats &a = s.of[op];
    int64_t t = row - s.first_row[op], position = 0;
    const uint8_t *base = stats_base(a, t, &position);
    look mine = look_nothing();
    float total = 0.0f; /* sums of squares are not -0: nothing changes when the first is added */
    bool has_second = lane_id() >= GPU_WARP / 2;
    spans_look(a, base, position, 0, a.n, SPAN, &mine, [&](int64_t, float sum) {
        float other = lane_xor(sum, GPU_WARP / 2);
        total = total + (has_second ? other : sum);
        total = total + (has_second ? sum : other);
    });
    row_stats out = stats_of(a, base, position, lanes_look(mine), total);
    if (lane_id() == 0) {
        a.stats[t] = out;
    }
}

/* ---- A block has a part of a row ------------------------------------------------------------- */

/* In every thread, what all of the block found. */
__device__ inline look block_look(look mine, look *shared)
{
    mine = lanes_look(mine);
    __syncthreads();
    if (lane_id() == 0) {
        shared[warp_id()] = mine;
    }
    __syncthreads();
    mine = shared[0];
    for (int w = 1; w < STATS_WARPS; w++) {
        mine = look_both(mine, shared[w]);
    }
    return mine;
}

/* The row sum of groups, in every thread of a block. */
__device__ inline float fold_groups(const float *group, int64_t n_group, float *shared)
{
    float total = 0.0f;
    for (int64_t first = 0; first < n_group; first += FOLD_GROUPS) {
        int n = (int)(n_group - first < FOLD_GROUPS ? n_group - first : FOLD_GROUPS);
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += STATS_THREADS) {
            shared[i] = fresh(&group[first + i]);
        }
        __syncthreads();
        total = first == 0 ? fold_in_order(shared, n) : add_in_order(total, shared, n);
    }
    return total;
}

__device__ inline look fresh_look(const look *at)
{
    look l;
    float *to = (float *)&l;
    static_assert(sizeof l % sizeof *to == 0, "words");
    for (size_t i = 0; i < sizeof l / sizeof *to; i++) {
        to[i] = fresh((const float *)at + i);
    }
    return l;
}

__global__ void __launch_bounds__(STATS_THREADS) stats_parts(stats_args s)
{
    __shared__ look found[STATS_WARPS];
    __shared__ __align__(16) float groups[FOLD_GROUPS];
    let_next();
    after_last();
    int op = op_of(s.first_part, s.n, blockIdx.x);
    const gpu_stats &a = s.of[op];
    int64_t n_part = parts_of(a.n), n_group = groups_of(a.n), position = 0;
    int64_t t = (blockIdx.x - s.first_part[op]) / n_part;
    int64_t part = (blockIdx.x - s.first_part[op]) % n_part;
    const uint8_t *base = stats_base(a, t, &position);
    float *group = s.group + s.first_group[op] + t * n_group;
    look mine = look_nothing();
    int64_t end = (part + 1) * PART < a.n ? (part + 1) * PART : a.n;
    spans_look(a, base, position, part * PART + warp_id() * SPAN, end, STATS_WARPS * SPAN, &mine,
               [&](int64_t first, float sum) {
                   int64_t g = first / GROUP + lane_id() / (GPU_WARP / 2);
                   if (lane_id() % (GPU_WARP / 2) == 0 && g < n_group) {
                       group[g] = sum;
                   }
               });
    mine = block_look(mine, found);
    if (threadIdx.x == 0) {
        s.part[blockIdx.x] = mine;
    }
    if (!arrives_last(&s.arrived[s.first_row[op] + t], (uint32_t)n_part)) {
        return;
    }
    const look *of_row = s.part + s.first_part[op] + t * n_part;
    mine = look_nothing();
    for (int64_t p = threadIdx.x; p < n_part; p += STATS_THREADS) {
        mine = look_both(mine, fresh_look(&of_row[p]));
    }
    mine = block_look(mine, found);
    float sumsq = a.type == DTYPE_I32 ? 0.0f : fold_groups(group, n_group, groups);
    if (warp_id() == 0) {
        row_stats out = stats_of(a, base, position, mine, sumsq);
        if (lane_id() == 0) {
            a.stats[t] = out;
        }
    }
}

#endif
