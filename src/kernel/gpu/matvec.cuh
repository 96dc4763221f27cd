/* matvec.cuh - products of few tokens, bound by reading the matrix once.
 *
 * Definitions: kernel/ref/matmul.c. What is exact is made by any lane, what is rounded by one lane
 * in order of K:
 *
 *     quantised   a lane has a unit of 32: its exact dots and the scales rn(ws * d) go to shared
 *                 memory; then a lane has a chain, (row, token, segment of 1024), and walks its 32
 *                 units; the first lanes join segments in index order
 *     floats      a lane has a row and a warp a segment of 256: the chain is the lane's loop
 */
#ifndef GRETA_KERNEL_GPU_MATVEC_CUH
#define GRETA_KERNEL_GPU_MATVEC_CUH

#include "kernel/gpu/rows.cuh"

/* ---- Operands -------------------------------------------------------------------------------- */

/* A row of activations: codes, scales and sums of units, or floats. */
struct act_row {
    const int8_t *code;
    const float *d;
    const int32_t *isum;
};

/* Part `rank` of n_part of a quantised row of n_part * k. */
__device__ inline act_row act_part(const uint8_t *row, int64_t k, int64_t rank, int64_t n_part)
{
    const float *d = (const float *)(row + n_part * k);
    const int32_t *isum = (const int32_t *)(d + n_part * k / UNIT);
    return {(const int8_t *)row + rank * k, d + rank * k / UNIT, isum + rank * k / UNIT};
}

/* One product: rows first .. first + n_out of a matrix times tokens. Experts are products of their
 * own (of one token each), numbered by blockIdx.z. */
struct product {
    planes p;            /* quantised */
    const uint8_t *data; /* floats */
    int64_t k, first, n_out;
};

struct matvec_args {
    gpu_matmul m;
    /* More products of the same x, their blocks of x beside the first one's. */
    gpu_matmul other[GPU_MATMUL_MAX - 1];
    uint32_t other_first[GPU_MATMUL_MAX - 1]; /* UINT32_MAX: there is none */
    uint32_t block;                           /* of x, within its product */
    const gpu_view *expert;                   /* NULL: none */
    gpu_rows ids;
    int32_t n_used;
    int x_is_ranked;
    unsigned n_ahead; /* blocks that ask for their weights before the last kernel is done */
};

/* Which product this block is of. */
__device__ inline void product_take(matvec_args *a)
{
    a->block = blockIdx.x;
#pragma unroll
    for (int i = 0; i < GPU_MATMUL_MAX - 1; i++) {
        if (blockIdx.x >= a->other_first[i]) {
            a->m = a->other[i];
            a->block = blockIdx.x - a->other_first[i];
        }
    }
}

__device__ inline gpu_view view_of(const matvec_args &a, int64_t token, int rank)
{
    if (!a.expert) {
        return a.m.w;
    }
    return a.expert[((const int32_t *)row_at(a.ids, token))[rank]];
}

__device__ inline float *y_of(const matvec_args &a, int64_t token, int rank)
{
    return floats_at(a.m.y, token) + rank * a.m.n_out;
}

/* ---- Quantised ------------------------------------------------------------------------------- */

#define MATVEC_WARPS   4
#define MATVEC_THREADS (MATVEC_WARPS * GPU_WARP)
#define SEGMENT_UNITS  (SEGMENT / UNIT)
#define MATVEC_PITCH   (SEGMENT_UNITS + 1) /* chains of a warp on different banks */
#define MATVEC_BYTES   (32 * MATVEC_PITCH * 8)

/* Two factors of a step of a chain: acc = fma(x, y, acc). With minima a second pair. */
template <int TYPE> struct step {
    float scale, dot;
};
template <> struct step<DTYPE_Q4_1> {
    float scale, dot, min, sum;
};
template <> struct step<DTYPE_Q5_1> : step<DTYPE_Q4_1> {
};
template <> struct step<DTYPE_Q4_K> : step<DTYPE_Q4_1> {
};
template <> struct step<DTYPE_Q5_K> : step<DTYPE_Q4_1> {
};
template <> struct step<DTYPE_Q2_K> : step<DTYPE_Q4_1> {
};

struct act_unit {
    int4 low, high; /* codes */
    float d;
    int isum;
};

__device__ inline act_unit act_unit_of(const act_row &x, int64_t u)
{
    const int4 *code = (const int4 *)(x.code + u * UNIT);
    return {code[0], code[1], x.d[u], x.isum[u]};
}

__device__ inline int dot_half(const int q[4], int4 x)
{
    return dot_4(q[3], x.w, dot_4(q[2], x.z, dot_4(q[1], x.y, dot_4(q[0], x.x, 0))));
}

template <int TYPE>
__device__ inline step<TYPE> step_of(const int q[8], const unit_scales &s, const act_unit &x)
{
    step<TYPE> out;
    out.scale = s.ws * x.d;
    int low = dot_half(q, x.low), high = dot_half(q + 4, x.high);
    if constexpr (has_two_scales(TYPE)) {
        low *= s.sub[0];
        high *= s.sub[1];
    }
    out.dot = (float)(low + high);
    if constexpr (has_two_min(TYPE)) {
        const int ones[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};
        int sum = s.min[0] * dot_half(ones, x.low) + s.min[1] * dot_half(ones, x.high);
        out.min = s.wm;
        out.sum = x.d * (float)sum;
    } else if constexpr (has_min(TYPE)) {
        out.min = s.wm;
        out.sum = x.d * (float)x.isum;
    }
    return out;
}

template <int TYPE> __device__ inline float chain(const step<TYPE> *at, int n)
{
    float acc = 0.0f;
#pragma unroll 8
    for (int i = 0; i < n; i++) {
        acc = fmaf(at[i].scale, at[i].dot, acc);
        if constexpr (has_min(TYPE)) {
            acc = fmaf(at[i].min, at[i].sum, acc);
        }
    }
    return acc;
}

/* ROWS x TOKENS x SEGMENTS chains fit the lanes and the shared memory of a warp. */
template <int TYPE, int ROWS, int TOKENS> struct matvec_shape {
    static const int per = ROWS * TOKENS, chains = has_min(TYPE) ? 16 : 32;
    static const int segments = chains / per < 8 ? chains / per : 8;
};

/* The units `lane` of each segment of a round, to shared memory. */
template <int TYPE, int ROWS, int TOKENS>
__device__ inline void matvec_stage(const planes &p, int64_t row, int64_t n_row, int64_t n_unit,
                                    int64_t first, const act_row *x, step<TYPE> *staged)
{
    constexpr int segments = matvec_shape<TYPE, ROWS, TOKENS>::segments;
#pragma unroll
    for (int s = 0; s < segments; s++) {
        int64_t u = first + s * SEGMENT_UNITS + lane_id();
        if (u >= n_unit) {
            return;
        }
        int q[ROWS][8];
        unit_scales scale[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t at = (r < n_row ? row + r : row) * n_unit + u;
            unit_codes<TYPE>(p, at, q[r]);
            scale[r] = unit_scales_of<TYPE>(p, at);
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            act_unit a = act_unit_of(x[t], u);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                staged[((s * ROWS + r) * TOKENS + t) * MATVEC_PITCH + lane_id()] =
                    step_of<TYPE>(q[r], scale[r], a);
            }
        }
    }
}

/* ROWS rows of a warp times TOKENS tokens: lane r * TOKENS + t returns y[r][t], without bias. */
template <int TYPE, int ROWS, int TOKENS>
__device__ inline float matvec_warp(const planes &p, int64_t row, int64_t n_row, int64_t k,
                                    const act_row *x, step<TYPE> *staged)
{
    constexpr int segments = matvec_shape<TYPE, ROWS, TOKENS>::segments, per = ROWS * TOKENS;
    int64_t n_unit = k / UNIT;
    float total = 0.0f;
    for (int64_t first = 0; first < n_unit; first += segments * SEGMENT_UNITS) {
        matvec_stage<TYPE, ROWS, TOKENS>(p, row, n_row, n_unit, first, x, staged);
        warp_sync();
        int s = lane_id() / per;
        int64_t left = n_unit - first - s * SEGMENT_UNITS;
        int n = left < SEGMENT_UNITS ? (int)left : SEGMENT_UNITS;
        float result =
            s < segments && n > 0 ? chain<TYPE>(staged + lane_id() * MATVEC_PITCH, n) : 0.0f;
#pragma unroll
        for (int i = 0; i < segments; i++) {
            float next = lane_from(result, (i * per + lane_id()) % GPU_WARP);
            bool is_there = first + i * SEGMENT_UNITS < n_unit;
            total = first + i == 0 ? next : is_there ? total + next : total;
        }
        warp_sync();
    }
    return total;
}

/* Weights depend on nothing that this pass writes. */
template <int TYPE> __device__ inline void ask_for_rows(const gpu_view &w, int64_t row, int64_t n)
{
    planes p = planes_of(TYPE, w.weight.data, w.weight.n_row, w.weight.k);
    constexpr unit_bytes b = unit_bytes_of(TYPE);
    int64_t n_unit = w.weight.k / UNIT, at = (w.first + row) * n_unit;
    ask_ahead(p.code + at * b.code, n * n_unit * b.code);
    ask_ahead(p.high + at * b.high, n * n_unit * b.high);
    ask_ahead(p.scale + at * b.scale, n * n_unit * b.scale);
}

/* Grid: (rows / (ROWS * warps), tokens / TOKENS, ranks). */
template <int TYPE, int ROWS, int TOKENS>
__global__ void __launch_bounds__(MATVEC_THREADS) matvec_units(matvec_args a)
{
    __shared__ __align__(16) uint8_t shared[MATVEC_WARPS][MATVEC_BYTES];
    product_take(&a);
    int64_t row = ((int64_t)a.block * MATVEC_WARPS + warp_id()) * ROWS;
    int64_t token = (int64_t)blockIdx.y * TOKENS;
    int rank = blockIdx.z;
    if (blockIdx.x < a.n_ahead && row < a.m.n_out) {
        ask_for_rows<TYPE>(a.m.w, row, a.m.n_out - row < ROWS ? a.m.n_out - row : ROWS);
    }
    after_last();
    if (row >= a.m.n_out) {
        return;
    }
    gpu_view w = view_of(a, token, rank);
    int64_t k = w.weight.k;
    act_row x[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        int64_t at = token + t < a.m.n_token ? token + t : token;
        x[t] =
            act_part(row_at(a.m.x, at), k, a.x_is_ranked ? rank : 0, a.x_is_ranked ? a.n_used : 1);
    }
    planes p = planes_of(TYPE, w.weight.data, w.weight.n_row, k);
    float y = matvec_warp<TYPE, ROWS, TOKENS>(p, w.first + row, a.m.n_out - row, k, x,
                                              (step<TYPE> *)shared[warp_id()]);
    int64_t r = row + lane_id() / TOKENS, t = token + lane_id() % TOKENS;
    if (lane_id() < ROWS * TOKENS && r < a.m.n_out && t < a.m.n_token) {
        y_of(a, t, rank)[r] = a.m.bias ? y + a.m.bias[r] : y;
    }
}

/* ---- Floats ---------------------------------------------------------------------------------- */

#define FLOAT_WARPS   8
#define FLOAT_THREADS (FLOAT_WARPS * GPU_WARP)
#define FLOAT_VECTORS 8 /* of a lane under way at once */

/* Chains of a row over values [k0, k1) of a segment, TOKENS tokens at once. */
template <int TYPE, int TOKENS>
__device__ inline void float_chain(const uint8_t *data, int64_t k, int64_t row, int64_t k0,
                                   int64_t k1, const float *const *x, float acc[TOKENS])
{
    constexpr int V = 16 / float_bytes(TYPE);
    int64_t n_vector = float_vectors(TYPE, k), v = k0 / V, last = k1 / V;
    bool is_aligned = true;
    for (int t = 0; t < TOKENS; t++) {
        is_aligned = is_aligned && (uintptr_t)x[t] % 16 == 0;
    }
    int4 next[FLOAT_VECTORS]; /* under way while the ones before are chained */
    auto request = [&]() {
#pragma unroll
        for (int i = 0; i < FLOAT_VECTORS; i++) {
            next[i] = load<int4>(data + float_at(n_vector, row, v + i));
        }
    };
    if (is_aligned && v + FLOAT_VECTORS <= last) {
        request();
    }
    while (is_aligned && v + FLOAT_VECTORS <= last) {
        int4 packed[FLOAT_VECTORS];
        int64_t at = v;
#pragma unroll
        for (int i = 0; i < FLOAT_VECTORS; i++) {
            packed[i] = next[i];
        }
        v += FLOAT_VECTORS;
        if (v + FLOAT_VECTORS <= last) {
            request();
        }
#pragma unroll
        for (int i = 0; i < FLOAT_VECTORS; i++) {
            float w[V];
            float_values<TYPE>(packed[i], w);
#pragma unroll
            for (int j = 0; j < V; j += 4) {
#pragma unroll
                for (int t = 0; t < TOKENS; t++) {
                    float4 four = *(const float4 *)(x[t] + (at + i) * V + j);
                    acc[t] = fmaf(w[j], four.x, acc[t]);
                    acc[t] = fmaf(w[j + 1], four.y, acc[t]);
                    acc[t] = fmaf(w[j + 2], four.z, acc[t]);
                    acc[t] = fmaf(w[j + 3], four.w, acc[t]);
                }
            }
        }
    }
    for (; v * V < k1; v++) {
        float w[V];
        float_values<TYPE>(load<int4>(data + float_at(n_vector, row, v)), w);
        for (int j = 0; j < V && v * V + j < k1; j++) {
            for (int t = 0; t < TOKENS; t++) {
                acc[t] = fmaf(w[j], x[t][v * V + j], acc[t]);
            }
        }
    }
}

/* The same of a quantised row: a unit at a time. */
template <int TYPE, int TOKENS>
__device__ inline void unit_chain(const planes &p, int64_t k, int64_t row, int64_t k0, int64_t k1,
                                  const float *const *x, float acc[TOKENS])
{
    for (int64_t u = k0 / UNIT; u < k1 / UNIT; u++) {
        int q[8];
        int64_t at = row * (k / UNIT) + u;
        unit_codes<TYPE>(p, at, q);
        unit_scales s = unit_scales_of<TYPE>(p, at);
#pragma unroll
        for (int i = 0; i < UNIT; i++) {
            float w = unit_value<TYPE>(s, q, i);
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                acc[t] = fmaf(w, x[t][u * UNIT + i], acc[t]);
            }
        }
    }
}

/* A block has ROWS rows; ROWS threads have a segment of a round, as many segments as the block has
 * threads for. Grid: (rows / ROWS, tokens / TOKENS, ranks). */
template <int TYPE, int TOKENS, int ROWS>
__global__ void __launch_bounds__(FLOAT_THREADS) matvec_floats(matvec_args a)
{
    __shared__ float part[FLOAT_THREADS / ROWS][TOKENS][ROWS];
    int segments = blockDim.x / ROWS;
    int64_t token = (int64_t)blockIdx.y * TOKENS;
    int segment = threadIdx.x / ROWS, lane = threadIdx.x % ROWS, rank = blockIdx.z;
    product_take(&a);
    int64_t row = (int64_t)a.block * ROWS + lane;
    after_last();
    gpu_view w = view_of(a, token, rank);
    int64_t k = w.weight.k, at = w.first + (row < a.m.n_out ? row : 0);
    const float *x[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        x[t] = floats_at(a.m.x, token + t < a.m.n_token ? token + t : token) +
               (a.x_is_ranked ? rank * k : 0);
    }
    float total[TOKENS] = {};
    for (int64_t first = 0; first < k; first += segments * SEGMENT_FLOAT) {
        int64_t k0 = first + segment * SEGMENT_FLOAT, k1 = k0 + SEGMENT_FLOAT;
        k1 = k1 < k ? k1 : k;
        float acc[TOKENS] = {};
        if constexpr (is_quantised(TYPE)) {
            planes p = planes_of(TYPE, w.weight.data, w.weight.n_row, k);
            unit_chain<TYPE, TOKENS>(p, k, at, k0, k1, x, acc);
        } else {
            float_chain<TYPE, TOKENS>(w.weight.data, k, at, k0, k1, x, acc);
        }
        for (int t = 0; t < TOKENS; t++) {
            part[segment][t][lane] = acc[t];
        }
        __syncthreads();
        for (int s = 0; s < segments && segment == 0; s++) {
            bool is_there = first + s * SEGMENT_FLOAT < k;
            for (int t = 0; t < TOKENS && is_there; t++) {
                float next = part[s][t][lane];
                total[t] = first + s == 0 ? next : total[t] + next;
            }
        }
        __syncthreads();
    }
    for (int t = 0; t < TOKENS && segment == 0 && row < a.m.n_out; t++) {
        if (token + t < a.m.n_token) {
            float y = total[t];
            y_of(a, token + t, rank)[row] = a.m.bias ? y + a.m.bias[row] : y;
        }
    }
}

#endif
