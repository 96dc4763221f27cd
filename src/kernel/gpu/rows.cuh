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

/* N neighbouring floats. */
template <int N> __device__ inline void load_floats(const float *from, float to[N])
{
    if constexpr (N == 4) {
        float4 four = *(const float4 *)from;
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    } else {
        to[0] = from[0];
    }
}

/* Of n ops of one launch, the one that place `at` is of: each one's first place is told. */
__device__ inline int op_of(const uint32_t *first, int n, uint32_t at)
{
    int i = 0;
    while (i + 1 < n && first[i + 1] <= at) {
        i++;
    }
    return i;
}

/* ---- Embedding: blocks (x, token), a thread has a unit, or a vector -------------------------- */

template <int TYPE> __global__ void embed_units(gpu_embed a)
{
    let_next();
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
    let_next();
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

/* ---- Quantiser: a warp has a block of 32 ----------------------------------------------------- */

#define QUANTIZE_THREADS 128

/* Block b of a row of k: lane i has value i. */
__device__ inline void quantize_block(float x, uint8_t *row, int64_t k, int64_t b)
{
    float most = is_finite(x) ? fabsf(x) : GPU_INFINITY;
    most =
        float_from_bits(lanes_max(bits_from_float(most))); /* magnitudes order as their bits do */
    bool good = most >= 0x1p-100f && is_finite(most);
    float inverse = good ? 127.0f / most : 0.0f;
    int code = good ? (int)rintf(x * inverse) : 0, sum = lanes_sum(code);
    ((int8_t *)row)[b * UNIT + lane_id()] = (int8_t)code;
    if (lane_id() == 0) {
        float *scale = (float *)(row + k);
        scale[b] = good ? most / 127.0f : is_finite(most) ? 0.0f : NAN;
        ((int32_t *)(scale + k / UNIT))[b] = sum;
    }
}

__global__ void __launch_bounds__(QUANTIZE_THREADS) quantize_rows(gpu_quantize a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.y, b = (int64_t)blockIdx.x * (QUANTIZE_THREADS / GPU_WARP) + warp_id();
    if (b < a.k / UNIT) {
        quantize_block(floats_at(a.x, t)[b * UNIT + lane_id()], row_at(a.y, t), a.k, b);
    }
}

/* ---- RMS norm: blocks (head, token); with the sum before it and the quantiser after -----------
 */

#define NORM_THREADS 1024
#define NORM_GROUPS  1024 /* LIMIT_EMBD / 64 */
#define NORM_HELD    4    /* groups of 64 that a warp may hold in registers */

/* Group sums in index order, after `total`. */
__device__ inline float add_in_order(float total, const float *group, int64_t n)
{
#pragma unroll 16
    for (int64_t g = 0; g < n; g++) {
        total = total + group[g];
    }
    return total;
}

/* The sums of a row's groups in index order; `group` is aligned to 16 bytes. */
__device__ inline float fold_in_order(const float *group, int64_t n)
{
    float total = group[0];
    int64_t g = 1;
    if (n >= 4) {
        total = ((total + group[1]) + group[2]) + group[3];
        g = 4;
#pragma unroll 8
        for (; g + 4 <= n; g += 4) {
            float4 four = *(const float4 *)(group + g);
            total = (((total + four.x) + four.y) + four.z) + four.w;
        }
    }
    return add_in_order(total, group + g, n - g);
}

/* Groups first, first + step .. of a row of n, HELD of them: two values a lane. */
template <int HELD> struct held_row {
    float v[HELD][2];
};

/* Calls f(group of the warp, side, i) for each value of the row that this lane holds. */
template <int HELD, class F> __device__ inline void held_each(int64_t n, F f)
{
#pragma unroll
    for (int j = 0; j < HELD; j++) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
            int64_t g = warp_id() + (int64_t)j * (blockDim.x / GPU_WARP);
            int64_t i = g * 64 + side * GPU_WARP + lane_id();
            if (i < n) {
                f(j, side, i);
            }
        }
    }
}

/* The row sum of squares, in every thread; `group` has a place for each 64 values. */
template <int HELD>
__device__ inline float held_sum_squares(const held_row<HELD> &x, int64_t n, float *group)
{
    int64_t n_group = (n + 63) / 64;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int64_t g = warp_id() + (int64_t)j * (blockDim.x / GPU_WARP);
        float sum = group_sum(x.v[j][0] * x.v[j][0], x.v[j][1] * x.v[j][1]);
        if (lane_id() == 0 && g < n_group) {
            group[g] = sum;
        }
    }
    __syncthreads();
    return fold_in_order(group, n_group);
}

/* The same of a row that registers do not hold: its values are read where they are. */
__device__ inline float read_sum_squares(const float *x, int64_t n, float *group)
{
    int64_t n_group = (n + 63) / 64;
    for (int64_t g = warp_id(); g < n_group; g += blockDim.x / GPU_WARP) {
        int64_t i = g * 64 + lane_id(), j = i + GPU_WARP;
        float low = i < n ? x[i] : 0.0f, high = j < n ? x[j] : 0.0f;
        float sum = group_sum(low * low, high * high);
        if (lane_id() == 0) {
            group[g] = sum;
        }
    }
    __syncthreads();
    return fold_in_order(group, n_group);
}

__device__ inline float inverse_rms(const gpu_norm &a, float squares)
{
    float mean = squares / (float)a.count;
    return 1.0f / sqrtf(mean + a.eps);
}

/* Value i of the result. Where it is quantised, a warp has 32 of them: n is a multiple. */
__device__ inline void norm_out(const gpu_norm &a, float *y, uint8_t *q8, int64_t i, float value)
{
    y[i] = value;
    if (q8) {
        quantize_block(value, q8, a.n, i / UNIT);
    }
}

/* A row of up to HELD * 64 values for each warp of the block. */
template <int HELD> __global__ void __launch_bounds__(NORM_THREADS) norm_held(gpu_norm a)
{
    __shared__ __align__(16) float group[NORM_GROUPS];
    let_next();
    int64_t t = blockIdx.y, h = blockIdx.x;
    held_row<HELD> weight, x = {}, second = {};
    held_each<HELD>(a.n, [&](int j, int s, int64_t i) { weight.v[j][s] = a.weight[i]; });
    after_last();
    float *from = floats_at(a.x, t) + h * a.n, *y = floats_at(a.y, t) + h * a.n;
    if (a.a.base) {
        const float *one = floats_at(a.a, t), *other = floats_at(a.b, t);
        held_each<HELD>(a.n, [&](int j, int s, int64_t i) { x.v[j][s] = one[i]; });
        held_each<HELD>(a.n, [&](int j, int s, int64_t i) { second.v[j][s] = other[i]; });
        held_each<HELD>(a.n, [&](int j, int s, int64_t i) {
            x.v[j][s] = x.v[j][s] + second.v[j][s];
            from[i] = x.v[j][s];
        });
    } else {
        held_each<HELD>(a.n, [&](int j, int s, int64_t i) { x.v[j][s] = from[i]; });
    }
    float inv_rms = inverse_rms(a, held_sum_squares<HELD>(x, a.n, group));
    uint8_t *q8 = a.q8.base ? row_at(a.q8, t) : NULL;
    held_each<HELD>(a.n, [&](int j, int s, int64_t i) {
        float scaled = x.v[j][s] * inv_rms;
        norm_out(a, y, q8, i, scaled * weight.v[j][s]);
    });
    if (a.inv_rms && threadIdx.x == 0 && h == 0) {
        a.inv_rms[t] = inv_rms;
    }
}

/* A row of any length. */
__global__ void __launch_bounds__(NORM_THREADS) norm_rows(gpu_norm a)
{
    __shared__ __align__(16) float group[NORM_GROUPS];
    let_next();
    after_last();
    int64_t t = blockIdx.y, h = blockIdx.x;
    float *x = floats_at(a.x, t) + h * a.n, *y = floats_at(a.y, t) + h * a.n;
    if (a.a.base) {
        const float *first = floats_at(a.a, t), *second = floats_at(a.b, t);
        for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
            x[i] = first[i] + second[i];
        }
        __syncthreads();
    }
    float inv_rms = inverse_rms(a, read_sum_squares(x, a.n, group));
    uint8_t *q8 = a.q8.base ? row_at(a.q8, t) : NULL;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        float scaled = x[i] * inv_rms;
        norm_out(a, y, q8, i, scaled * a.weight[i]);
    }
    if (a.inv_rms && threadIdx.x == 0 && h == 0) {
        a.inv_rms[t] = inv_rms;
    }
}

/* ---- Rotation and cache: blocks (x of all ops, token), a thread has a pair or a value ----------
 */

/* Where value i of (n_head_kv, head_dim) of a position lies, in values: kv_at of kernel.h. */
__device__ inline int64_t kv_place(const gpu_cache &c, int64_t position, int64_t i)
{
    int64_t head = i / c.shape.head_dim, d = i % c.shape.head_dim, tile = ATTENTION_TILE;
    int64_t block = position / tile * c.shape.n_head_kv + head, p = position % tile;
    return block * tile * c.shape.head_dim +
           (c.side == KV_KEYS ? d * tile + p : p * c.shape.head_dim + d);
}

__device__ inline uint8_t *kv_of(const gpu_cache &c, const gpu_row *row)
{
    return c.base + (size_t)row->sequence * c.sequence_bytes;
}

struct turns {
    gpu_rope of[GPU_ROPE_MAX];
    uint32_t first[GPU_ROPE_MAX]; /* block of each */
    int32_t n;
};

/* Value i of a row goes where it is wanted. */
__device__ inline void turned(const gpu_rope &a, int64_t t, int64_t i, float value)
{
    if (a.y.base) {
        floats_at(a.y, t)[i] = value;
    }
    if (!a.cache.base) {
        return;
    }
    const gpu_row *row = pass_row(a.row, t);
    int64_t at = kv_place(a.cache, row->position, i);
    if (a.cache.shape.type == DTYPE_F32) {
        ((float *)kv_of(a.cache, row))[at] = value;
    } else {
        ((uint16_t *)kv_of(a.cache, row))[at] = half_from_float(value);
    }
}

__global__ void rope_rows(turns all)
{
    let_next();
    int op = op_of(all.first, all.n, blockIdx.x);
    const gpu_rope &a = all.of[op];
    int64_t t = blockIdx.y, i = (int64_t)(blockIdx.x - all.first[op]) * blockDim.x + threadIdx.x;
    int half = a.rope_dim / 2, per_head = half + (a.head_dim - a.rope_dim);
    if (i >= (int64_t)a.n_head * per_head) {
        return;
    }
    int64_t head = i / per_head * a.head_dim;
    int at = (int)(i % per_head);
    const float *x = floats_at(a.x, t) + head;
    if (at >= half) {
        after_last();
        turned(a, t, head + at + half, x[at + half]);
        return;
    }
    const float *angle = a.cos_sin + (int64_t)pass_row(a.row, t)->position * a.rope_dim + 2 * at;
    int first = a.pairing == ROPE_HALVES ? at : 2 * at;
    int second = a.pairing == ROPE_HALVES ? at + half : 2 * at + 1;
    float c = angle[0], s = angle[1];
    after_last();
    float x0 = x[first], x1 = x[second];
    turned(a, t, head + first, fmaf(x0, c, -(x1 * s)));
    turned(a, t, head + second, fmaf(x0, s, x1 * c));
}

__global__ void kv_load_rows(gpu_kv_load a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)a.cache.shape.n_head_kv * a.cache.shape.head_dim) {
        return;
    }
    const gpu_row *row = pass_row(a.row, t);
    int64_t at = kv_place(a.cache, row->position, i);
    const uint8_t *cache = kv_of(a.cache, row);
    uint8_t *y = row_at(a.y, t);
    if (a.cache.shape.type == DTYPE_F32) {
        ((uint32_t *)y)[i] = ((const uint32_t *)cache)[at];
    } else {
        ((uint16_t *)y)[i] = ((const uint16_t *)cache)[at];
    }
}

/* ---- Elementwise, and the quantiser after it: blocks (x, token) -------------------------------
 */

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

__device__ inline float column_value(const gpu_columns &a, int64_t t, int64_t i)
{
    float x = floats_at(a.a, t)[i];
    switch (a.kind) {
    case GPU_ADD:
        return x + floats_at(a.b, t)[i];
    case GPU_SCALE:
        return x * a.factor;
    case GPU_SOFTCAP:
        return elementary_softcap(a.factor, x);
    default:
        x = activate(a.f, x);
        return a.b.base ? x * floats_at(a.b, t)[i] : x;
    }
}

__global__ void column_rows(gpu_columns a)
{
    let_next();
    after_last();
    int64_t t = blockIdx.y, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.n) {
        return;
    }
    float value = column_value(a, t, i);
    floats_at(a.y, t)[i] = value;
    if (a.q8.base) { /* a warp has 32 values: a.n is a multiple of it */
        quantize_block(value, row_at(a.q8, t), a.n, i / UNIT);
    }
}

#endif
