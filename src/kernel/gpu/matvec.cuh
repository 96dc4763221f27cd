/* matvec.cuh - products of few tokens, bound by reading the matrix once.
 *
 * Definitions: kernel/ref/matmul.c. What is exact is made by any lane, what is rounded by one lane
 * in order of K:
 *
 *     quantised   a lane has a unit of 32: its exact dots and the scales rn(ws * d) go to shared
 *                 memory; then a lane has a chain, (row, token, segment of 1024), and walks its 32
 *                 units; warps that share rows have segments each, joined in index order
 *     floats      a lane has a row and a warp a segment of 256: the chain is the lane's loop
 *
 * A kernel asks for the first of its weights before it waits for the one before it: weights depend
 * on nothing that a pass writes. In decoding the memory so works while the short ops between two
 * products do not need it.
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
    int32_t n_warp; /* quantised: that share the segments of a row */
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
#define CHUNK          2                   /* segments of a row that a warp has under way */
#define CHUNK_UNITS    (CHUNK * SEGMENT_UNITS)
/* Of a multiprocessor: 128 registers a thread, and 168 where a unit has more numbers. HIP counts
 * wavefronts here, and is left to choose. */
#if defined __HIP__ && !defined GPU_EMULATED
#define MATVEC_BLOCKS(type) 1
#else
#define MATVEC_BLOCKS(type) (has_min(type) || has_two_scales(type) ? 3 : 4)
#endif

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

/* Units of ROWS rows, one of each segment a lane. */
template <int TYPE, int ROWS> struct chunk {
    int q[CHUNK][ROWS][8];
    unit_scales scale[CHUNK][ROWS];
};

/* From unit `first` on. Past the last unit, and past the last row, what is there is loaded again,
 * and no chain reads it. */
template <int TYPE, int ROWS>
__device__ inline void chunk_load(const planes &p, int64_t row, int64_t n_row, int64_t n_unit,
                                  int64_t first, chunk<TYPE, ROWS> *c)
{
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
        int64_t u = first + s * SEGMENT_UNITS + lane_id();
        u = u < n_unit ? u : n_unit - 1;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t at = (r < n_row ? row + r : row) * n_unit + u;
            unit_codes<TYPE>(p, at, c->q[s][r]);
            c->scale[s][r] = unit_scales_of<TYPE>(p, at);
        }
    }
}

/* Its steps to shared memory: chains (segment, row, token). */
template <int TYPE, int ROWS, int TOKENS>
__device__ inline void chunk_stage(const chunk<TYPE, ROWS> &c, const act_row *x, int64_t n_unit,
                                   int64_t first, step<TYPE> *staged)
{
#pragma unroll
    for (int s = 0; s < CHUNK; s++) {
        int64_t u = first + s * SEGMENT_UNITS + lane_id();
        u = u < n_unit ? u : n_unit - 1;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            act_unit a = act_unit_of(x[t], u);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                staged[((s * ROWS + r) * TOKENS + t) * MATVEC_PITCH + lane_id()] =
                    step_of<TYPE>(c.q[s][r], c.scale[s][r], a);
            }
        }
    }
}

/* Waits for the warps that share rows. */
__device__ inline void sharers_sync(int n_warp)
{
    if (n_warp > 1) {
        __syncthreads();
    } else {
        warp_sync();
    }
}

/* What a warp works on: a.n_warp of them share ROWS rows, and this one has chunk `mine` of each
 * round. */
struct matvec_place {
    int64_t row, n_row; /* of the product; rows left */
    int group, mine;
};

template <int ROWS> __device__ inline matvec_place matvec_place_of(const matvec_args &a)
{
    matvec_place at;
    at.group = warp_id() / a.n_warp;
    at.mine = warp_id() % a.n_warp;
    at.row = ((int64_t)a.block * (MATVEC_WARPS / a.n_warp) + at.group) * ROWS;
    at.n_row = a.m.n_out - at.row;
    return at;
}

/* Adds the segments of a round, from unit `base` on, to `total` in index order. */
template <int PER>
__device__ inline float segments_add(float total, const float (*part)[PER], int n_segment,
                                     int64_t base, int64_t n_unit)
{
    for (int i = 0; i < n_segment && base + i * SEGMENT_UNITS < n_unit; i++) {
        float next = part[i][lane_id() % PER];
        total = base + i == 0 ? next : total + next;
    }
    return total;
}

/* The rounds of a row, the first chunk loaded: lane r * TOKENS + t of each group's first warp
 * returns y[r][t], without bias. The next chunk is asked for while a chain is walked. */
template <int TYPE, int ROWS, int TOKENS>
__device__ inline float matvec_rounds(const planes &p, int64_t row, int64_t n_row, int64_t n_unit,
                                      const matvec_place &at, int n_warp, const act_row *x,
                                      chunk<TYPE, ROWS> *c, step<TYPE> *staged,
                                      float (*part)[ROWS * TOKENS])
{
    constexpr int per = ROWS * TOKENS;
    int s = lane_id() / per, n_segment = n_warp * CHUNK;
    float total = 0.0f;
    for (int64_t base = 0; base < n_unit; base += n_segment * SEGMENT_UNITS) {
        int64_t first = base + at.mine * CHUNK_UNITS, next = first + n_segment * SEGMENT_UNITS;
        int64_t left = n_unit - first - s * SEGMENT_UNITS;
        chunk_stage<TYPE, ROWS, TOKENS>(*c, x, n_unit, first, staged);
        if (base + n_segment * SEGMENT_UNITS < n_unit) {
            chunk_load<TYPE, ROWS>(p, row, n_row, n_unit, next, c);
        }
        warp_sync();
        if (s < CHUNK && left > 0) {
            int n = left < SEGMENT_UNITS ? (int)left : SEGMENT_UNITS;
            part[at.mine * CHUNK + s][lane_id() % per] =
                chain<TYPE>(staged + lane_id() * MATVEC_PITCH, n);
        }
        sharers_sync(n_warp);
        total = segments_add<per>(total, part, n_segment, base, n_unit);
        sharers_sync(n_warp);
    }
    return total;
}

/* Grid: (rows / (ROWS * warps / a.n_warp), tokens / TOKENS, ranks). */
template <int TYPE, int ROWS, int TOKENS>
__global__ void __launch_bounds__(MATVEC_THREADS, MATVEC_BLOCKS(TYPE)) matvec_units(matvec_args a)
{
    constexpr int per = ROWS * TOKENS;
    static_assert(CHUNK * per <= GPU_WARP, "a lane has a chain");
    __shared__ __align__(16) step<TYPE> staged[MATVEC_WARPS][CHUNK * per * MATVEC_PITCH];
    __shared__ float part[MATVEC_WARPS * CHUNK][per];
    let_next();
    product_take(&a);
    matvec_place at = matvec_place_of<ROWS>(a);
    int64_t token = (int64_t)blockIdx.y * TOKENS, k = a.m.w.weight.k, n_unit = k / UNIT;
    int64_t row = at.n_row > 0 ? at.row : 0, n_row = at.n_row > 0 ? at.n_row : 1;
    int rank = blockIdx.z;
    chunk<TYPE, ROWS> c;
    gpu_view w = a.m.w;
    planes p = planes_of(TYPE, w.weight.data, w.weight.n_row, k);
    if (!a.expert) {
        chunk_load<TYPE, ROWS>(p, w.first + row, n_row, n_unit, at.mine * CHUNK_UNITS, &c);
    }
    after_last();
    if (a.expert) { /* which one is known only now */
        w = view_of(a, token, rank);
        p = planes_of(TYPE, w.weight.data, w.weight.n_row, k);
        chunk_load<TYPE, ROWS>(p, w.first + row, n_row, n_unit, at.mine * CHUNK_UNITS, &c);
    }
    act_row x[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        int64_t of = token + t < a.m.n_token ? token + t : token;
        x[t] =
            act_part(row_at(a.m.x, of), k, a.x_is_ranked ? rank : 0, a.x_is_ranked ? a.n_used : 1);
    }
    float y =
        matvec_rounds<TYPE, ROWS, TOKENS>(p, w.first + row, n_row, n_unit, at, a.n_warp, x, &c,
                                          staged[warp_id()], part + at.group * a.n_warp * CHUNK);
    int64_t r = lane_id() / TOKENS, t = token + lane_id() % TOKENS;
    if (at.mine == 0 && lane_id() < per && r < at.n_row && t < a.m.n_token) {
        r += at.row;
        y_of(a, t, rank)[r] = a.m.bias ? y + a.m.bias[r] : y;
    }
}

/* ---- Floats ---------------------------------------------------------------------------------- */

#define FLOAT_WARPS   8
#define FLOAT_THREADS (FLOAT_WARPS * GPU_WARP)
#define FLOAT_VECTORS 8 /* of a lane under way at once */

__device__ inline int64_t segment_end(int64_t k0, int64_t k)
{
    return k0 + SEGMENT_FLOAT < k ? k0 + SEGMENT_FLOAT : k;
}

/* FLOAT_VECTORS of a row from value k0 of a segment on, which ends at k1, if it has as many. */
template <int TYPE>
__device__ inline void float_request(const uint8_t *data, int64_t k, int64_t row, int64_t k0,
                                     int64_t k1, int4 *next)
{
    constexpr int V = 16 / float_bytes(TYPE);
    int64_t n_vector = float_vectors(TYPE, k), v = k0 / V;
    if (v + FLOAT_VECTORS <= k1 / V) {
#pragma unroll
        for (int i = 0; i < FLOAT_VECTORS; i++) {
            next[i] = load<int4>(data + float_at(n_vector, row, v + i));
        }
    }
}

/* Chains of a row over values [k0, k1) of a segment, TOKENS tokens at once; `next` is what
 * float_request brought. */
template <int TYPE, int TOKENS>
__device__ inline void float_chain(const uint8_t *data, int64_t k, int64_t row, int64_t k0,
                                   int64_t k1, const float *const *x, int4 *next, float *acc)
{
    constexpr int V = 16 / float_bytes(TYPE);
    int64_t n_vector = float_vectors(TYPE, k), v = k0 / V, last = k1 / V;
    bool is_aligned = true;
    for (int t = 0; t < TOKENS; t++) {
        is_aligned = is_aligned && (uintptr_t)x[t] % 16 == 0;
    }
    while (is_aligned && v + FLOAT_VECTORS <= last) {
        int4 packed[FLOAT_VECTORS];
        int64_t at = v;
#pragma unroll
        for (int i = 0; i < FLOAT_VECTORS; i++) {
            packed[i] = next[i];
        }
        v += FLOAT_VECTORS;
        float_request<TYPE>(data, k, row, v * V, k1, next); /* under way while these are chained */
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
    let_next();
    int segments = blockDim.x / ROWS, segment = threadIdx.x / ROWS, lane = threadIdx.x % ROWS;
    int64_t token = (int64_t)blockIdx.y * TOKENS;
    int rank = blockIdx.z;
    product_take(&a);
    int64_t row = (int64_t)a.block * ROWS + lane, k = a.m.w.weight.k;
    int64_t k0 = (int64_t)segment * SEGMENT_FLOAT, k1 = segment_end(k0, k);
    gpu_view w = a.m.w;
    int64_t at = w.first + (row < a.m.n_out ? row : 0);
    int4 next[FLOAT_VECTORS];
    if constexpr (!is_quantised(TYPE)) {
        if (!a.expert) {
            float_request<TYPE>(w.weight.data, k, at, k0, k1, next);
        }
    }
    after_last();
    if (a.expert) {
        w = view_of(a, token, rank);
        at = w.first + (row < a.m.n_out ? row : 0);
    }
    const float *x[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        x[t] = floats_at(a.m.x, token + t < a.m.n_token ? token + t : token) +
               (a.x_is_ranked ? rank * k : 0);
    }
    float total[TOKENS] = {};
    for (int64_t first = 0; first < k; first += segments * SEGMENT_FLOAT) {
        k0 = first + segment * SEGMENT_FLOAT, k1 = segment_end(k0, k);
        float acc[TOKENS] = {};
        if constexpr (is_quantised(TYPE)) {
            planes p = planes_of(TYPE, w.weight.data, w.weight.n_row, k);
            unit_chain<TYPE, TOKENS>(p, k, at, k0, k1, x, acc);
        } else {
            if (first > 0 || a.expert) {
                float_request<TYPE>(w.weight.data, k, at, k0, k1, next);
            }
            float_chain<TYPE, TOKENS>(w.weight.data, k, at, k0, k1, x, next, acc);
        }
        for (int t = 0; t < TOKENS; t++) {
            part[segment][t][lane] = acc[t];
        }
        __syncthreads();
        for (int s = 0; s < segments && segment == 0; s++) {
            bool is_there = first + s * SEGMENT_FLOAT < k;
            for (int t = 0; t < TOKENS && is_there; t++) {
                float one = part[s][t][lane];
                total[t] = first + s == 0 ? one : total[t] + one;
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
