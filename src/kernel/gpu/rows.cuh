/* rows.cuh - ops on rows of a pass: embedding, norms, quantiser, rotation, cache, elementwise.
 *
 * Definitions: kernel/ref/rows.c. A row sum is one shape everywhere: a warp folds 64 terms
 * (group_sum), groups are added in index order. Orders that no bit depends on, maxima and integer
 * sums, are whatever suits the lanes.
 */
#ifndef GRETA_KERNEL_GPU_ROWS_CUH
#define GRETA_KERNEL_GPU_ROWS_CUH

#include "kernel/gpu/layout.cuh"

__device__ inline uint8_t *row_at(const gpu_rows &r, int64_t t)
{
    return r.base + (r.index ? (int64_t)r.index[t] : t) * r.stride;
}

__device__ inline float *floats_at(const gpu_rows &r, int64_t t)
{
    return (float *)row_at(r, t);
}

__device__ inline const gpu_row *pass_row(const gpu_rows &r, int64_t t)
{
    return (const gpu_row *)row_at(r, t);
}

/* ---- Embedding: blocks (x, token), a thread has a unit, or a vector -------------------------- */

template <int TYPE> __global__ void embed_units(gpu_embed a)
{
    after_last();
    int64_t t = blockIdx.y, u = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t n_unit = a.w.weight.k / UNIT;
    if (u >= n_unit) {
        return;
    }
    planes p = planes_of(TYPE, a.w.weight.data, a.w.weight.n_row, a.w.weight.k);
    int64_t at = (a.w.first + pass_row(a.token, t)->token) * n_unit + u;
    int q[8];
    unit_codes<TYPE>(p, at, q);
    unit_scales s = unit_scales_of<TYPE>(p, at);
    float *y = floats_at(a.y, t) + u * UNIT;
    for (int i = 0; i < UNIT; i++) {
        y[i] = unit_value<TYPE>(s, q, i);
    }
}

template <int TYPE> __global__ void embed_floats(gpu_embed a)
{
    after_last();
    constexpr int V = 16 / float_bytes(TYPE);
    int64_t t = blockIdx.y, v = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, k = a.w.weight.k;
    int64_t n_vector = float_vectors(TYPE, k);
    if (v >= n_vector) {
        return;
    }
    int64_t row = a.w.first + pass_row(a.token, t)->token;
    float value[V], *y = floats_at(a.y, t);
    float_values<TYPE>(load<int4>(a.w.weight.data + float_at(n_vector, row, v)), value);
    for (int i = 0; i < V && v * V + i < k; i++) {
        y[v * V + i] = value[i];
    }
}

/* ---- RMS norm: blocks (head, token) ---------------------------------------------------------- */

#define NORM_THREADS 256
#define NORM_GROUPS  1024 /* LIMIT_EMBD / 64 */

/* The row sum of squares of value(0) .. value(n - 1), in every thread of a block of NORM_THREADS;
 * `group` has a place for each 64 of them, where all threads see it. */
template <class F> __device__ inline float block_sum_squares(int64_t n, float *group, F value)
{
    int64_t n_group = (n + 63) / 64;
    for (int64_t g = warp_id(); g < n_group; g += NORM_THREADS / GPU_WARP) {
        int64_t i = g * 64 + lane_id(), j = i + 32;
        float low = i < n ? value(i) : 0.0f, high = j < n ? value(j) : 0.0f;
        float sum = group_sum(low * low, high * high);
        if (lane_id() == 0) {
            group[g] = sum;
        }
    }
    __syncthreads();
    float total = group[0];
#pragma unroll 16
    for (int64_t g = 1; g < n_group; g++) {
        total = total + group[g];
    }
    return total;
}

__global__ void __launch_bounds__(NORM_THREADS) norm_rows(gpu_norm a)
{
    after_last();
    __shared__ float group[NORM_GROUPS];
    int64_t t = blockIdx.y, h = blockIdx.x;
    const float *x = floats_at(a.x, t) + h * a.n;
    float *y = floats_at(a.y, t) + h * a.n;
    float squares = block_sum_squares(a.n, group, [=](int64_t i) { return x[i]; });
    float mean = squares / (float)a.count;
    float inv_rms = 1.0f / sqrtf(mean + a.eps);
    for (int64_t i = threadIdx.x; i < a.n; i += NORM_THREADS) {
        float scaled = x[i] * inv_rms;
        y[i] = scaled * a.weight[i];
    }
    if (a.inv_rms && threadIdx.x == 0 && h == 0) {
        a.inv_rms[t] = inv_rms;
    }
}

/* ---- Quantiser: a warp has a block of 32 ----------------------------------------------------- */

#define QUANTIZE_THREADS 128

__global__ void __launch_bounds__(QUANTIZE_THREADS) quantize_rows(gpu_quantize a)
{
    after_last();
    int64_t n_block = a.k / UNIT, t = blockIdx.y;
    int64_t b = (int64_t)blockIdx.x * (QUANTIZE_THREADS / GPU_WARP) + warp_id();
    if (b >= n_block) {
        return;
    }
    float x = floats_at(a.x, t)[b * UNIT + lane_id()],
          most = is_finite(x) ? fabsf(x) : GPU_INFINITY;
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        most = fmaxf(most, lane_xor(most, stride));
    }
    bool good = most >= 0x1p-100f && is_finite(most);
    float inverse = good ? 127.0f / most : 0.0f;
    int code = good ? (int)rintf(x * inverse) : 0, sum = code;
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        sum += lane_xor(sum, stride);
    }
    int8_t *to = (int8_t *)row_at(a.y, t);
    to[b * UNIT + lane_id()] = (int8_t)code;
    if (lane_id() == 0) {
        float *scale = (float *)(to + a.k);
        scale[b] = good ? most / 127.0f : is_finite(most) ? 0.0f : NAN;
        ((int32_t *)(scale + n_block))[b] = sum;
    }
}

/* ---- Rotation: blocks (x, token), a thread has a pair or a value that passes ----------------- */

__global__ void rope_rows(gpu_rope a)
{
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int half = a.rope_dim / 2, per_head = half + (a.head_dim - a.rope_dim);
    if (i >= (int64_t)a.n_head * per_head) {
        return;
    }
    int64_t head = i / per_head * a.head_dim;
    int at = (int)(i % per_head);
    const float *x = floats_at(a.x, t) + head;
    float *y = floats_at(a.y, t) + head;
    if (at >= half) {
        y[at + half] = x[at + half];
        return;
    }
    const float *angle = a.cos_sin + (int64_t)pass_row(a.row, t)->position * a.rope_dim + 2 * at;
    int first = a.pairing == ROPE_HALVES ? at : 2 * at;
    int second = a.pairing == ROPE_HALVES ? at + half : 2 * at + 1;
    float c = angle[0], s = angle[1], x0 = x[first], x1 = x[second];
    y[first] = fmaf(x0, c, -(x1 * s));
    y[second] = fmaf(x0, s, x1 * c);
}

/* ---- Cache: blocks (x, token), a thread has a value ------------------------------------------ */

__global__ void kv_store_rows(gpu_kv_store a)
{
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)a.shape.n_head_kv * a.shape.head_dim) {
        return;
    }
    const gpu_row *row = pass_row(a.row, t);
    int64_t head = i / a.shape.head_dim, d = i % a.shape.head_dim, tile = ATTENTION_TILE;
    int64_t block = row->position / tile * a.shape.n_head_kv + head, p = row->position % tile;
    int64_t at = block * tile * a.shape.head_dim +
                 (a.side == KV_KEYS ? d * tile + p : p * a.shape.head_dim + d);
    uint8_t *cache = a.cache + (size_t)row->sequence * a.sequence_bytes;
    float x = floats_at(a.x, t)[i];
    if (a.shape.type == DTYPE_F32) {
        ((float *)cache)[at] = x;
    } else {
        ((uint16_t *)cache)[at] = half_from_float(x);
    }
}

/* ---- Elementwise: blocks (x, token) ---------------------------------------------------------- */

__device__ inline float activate(activation f, float x)
{
    switch (f) {
    case ACTIVATION_GELU_TANH:
        return elementary_gelu_tanh(x);
    case ACTIVATION_SIGMOID:
        return elementary_sigmoid(x);
    case ACTIVATION_TANH:
        return elementary_tanh(x);
    case ACTIVATION_EXP:
        return elementary_exp(x);
    default:
        return elementary_silu(x);
    }
}

__global__ void column_rows(gpu_columns a)
{
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.n) {
        return;
    }
    float x = floats_at(a.a, t)[i], *y = floats_at(a.y, t) + i, value;
    switch (a.kind) {
    case GPU_ADD:
        *y = x + floats_at(a.b, t)[i];
        break;
    case GPU_SCALE:
        *y = x * a.factor;
        break;
    case GPU_SOFTCAP:
        *y = elementary_softcap(a.factor, x);
        break;
    default:
        value = activate(a.f, x);
        *y = a.b.base ? value * floats_at(a.b, t)[i] : value;
        break;
    }
}

/* ---- Statistics and the highest logit: a block has a row ------------------------------------- */

#define STATS_THREADS NORM_THREADS

/* A candidate for the first of the largest; index -1: none. */
struct ranked {
    float value;
    int32_t index;
};

__device__ inline bool is_better(ranked a, ranked b)
{
    bool both = a.index >= 0 && b.index >= 0;
    return both ? a.value > b.value || (a.value == b.value && a.index < b.index) : a.index >= 0;
}

/* The best candidate of all threads, in all of them; `shared` has one place a warp. */
__device__ inline ranked block_best(ranked mine, ranked *shared)
{
    for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
        ranked other = {lane_xor(mine.value, stride), lane_xor(mine.index, stride)};
        mine = is_better(other, mine) ? other : mine;
    }
    __syncthreads();
    if (lane_id() == 0) {
        shared[warp_id()] = mine;
    }
    __syncthreads();
    for (int w = 0; w < STATS_THREADS / GPU_WARP; w++) {
        mine = is_better(shared[w], mine) ? shared[w] : mine;
    }
    return mine;
}

__global__ void __launch_bounds__(STATS_THREADS) argmax_rows(gpu_argmax a)
{
    after_last();
    __shared__ ranked best[STATS_THREADS / GPU_WARP];
    const float *x = floats_at(a.x, blockIdx.x);
    ranked mine = {0.0f, -1};
    for (int64_t i = threadIdx.x; i < a.n; i += STATS_THREADS) {
        ranked here = {x[i], x[i] == x[i] ? (int32_t)i : -1};
        mine = is_better(here, mine) ? here : mine;
    }
    mine = block_best(mine, best);
    if (threadIdx.x == 0) {
        a.id[blockIdx.x] = mine.index;
    }
}

__device__ inline float stats_value(dtype type, const uint8_t *row, int64_t n, int64_t i)
{
    if (type == DTYPE_F16) {
        return widen_half(((const uint16_t *)row)[i]);
    }
    if (type == DTYPE_ACT_Q8) {
        return (float)((const int8_t *)row)[i] * ((const float *)(row + n))[i / UNIT];
    }
    return ((const float *)row)[i];
}

__device__ inline uint32_t stats_word(dtype type, const uint8_t *row, int64_t i)
{
    if (type == DTYPE_F16) {
        uint16_t half = ((const uint16_t *)row)[i];
        return (half & 0x7fff) > 0x7c00 ? 0x7e00 : half;
    }
    return type == DTYPE_ACT_Q8 ? (uint32_t)((const int8_t *)row)[i]
           : type == DTYPE_I32  ? ((const uint32_t *)row)[i]
                                : hash_float_bits(((const float *)row)[i]);
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
    for (int w = 0; w < STATS_THREADS / GPU_WARP; w++) {
        v += shared[w];
    }
    return v;
}

__global__ void __launch_bounds__(STATS_THREADS) stats_rows(gpu_stats a, float *groups)
{
    after_last();
    __shared__ ranked best[STATS_THREADS / GPU_WARP];
    __shared__ uint64_t sums[STATS_THREADS / GPU_WARP];
    int64_t t = blockIdx.x, n_group = (a.n + 63) / 64;
    const uint8_t *row = row_at(a.x, t);
    ranked least = {0.0f, -1}, most = {0.0f, -1};
    row_hash hash = {0, 0};
    uint64_t n_nonfinite = 0;
    for (int64_t i = threadIdx.x; i < a.n; i += STATS_THREADS) {
        hash_word(&hash, (uint64_t)i, stats_word(a.type, row, i));
        if (a.type != DTYPE_I32) {
            float x = stats_value(a.type, row, a.n, i);
            int32_t at = is_finite(x) ? (int32_t)i : -1;
            n_nonfinite += at < 0;
            most = is_better({x, at}, most) ? ranked{x, at} : most;
            least = is_better({-x, at}, least) ? ranked{-x, at} : least;
        }
    }
    for (int64_t b = threadIdx.x; a.type == DTYPE_ACT_Q8 && b < a.n / UNIT; b += STATS_THREADS) {
        hash_word(&hash, (uint64_t)(a.n + b), stats_word(DTYPE_F32, row + a.n, b));
    }
    row_stats s = {};
    s.hash.ordered = block_add(hash.ordered, sums);
    s.hash.bag = block_add(hash.bag, sums);
    s.n_nonfinite = block_add(n_nonfinite, sums);
    most = block_best(most, best);
    least = block_best(least, best);
    if (a.type != DTYPE_I32) {
        s.sumsq = block_sum_squares(a.n, groups + t * n_group,
                                    [=](int64_t i) { return stats_value(a.type, row, a.n, i); });
        s.max = most.index < 0 ? 0.0f : most.value;
        s.min = least.index < 0 ? 0.0f : -least.value;
    }
    if (threadIdx.x == 0) {
        a.stats[t] = s;
    }
}

#endif
