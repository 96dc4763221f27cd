/* gemm.cuh - products of many tokens, bound by arithmetic.
 *
 * A block of 256 threads has 128 rows times 32 * NT tokens. A thread has, for each of its outputs,
 * the chain of the segment at hand in a register and the total of the segments before it in shared
 * memory at a place of its own, so that the end of a segment costs one addition and no barrier.
 *
 * Quantised: exact dots of 16 rows x 8 tokens x 32 come from integer tensor cores. The sum is made
 * above 1.5 * 2^23, where integers are floats with the same last bit, so that one subtraction turns
 * it into a float; types with two sub-scales, whose sums may exceed that, convert it instead. Then
 * one lane makes the step of numerics.md: acc = fma(rn(ws * d), dot, acc).
 *
 * Floats, and quantised weights times float activations: values and activations of 32 places of K
 * in shared memory, a thread's chains in registers.
 */
#ifndef GRETA_KERNEL_GPU_GEMM_CUH
#define GRETA_KERNEL_GPU_GEMM_CUH

#include "kernel/gpu/matvec.cuh"

#define GEMM_THREADS 256
#define GEMM_ROWS    128
#define GEMM_UNITS   2  /* units of K of a chunk */
#define GEMM_PITCH   96 /* bytes of a row of a chunk: lanes of a load meet on no bank */

/* Outputs of a thread: 64 rows x 8 NT tokens a warp. */
template <int NT> struct gemm_shape {
    static const int tokens = 32 * NT, outputs = 16 * NT;
};

/* Adds a finished segment to the thread's totals; the last one leaves the sums in acc. */
template <int N>
__device__ inline void segment_end(float *acc, float *total, bool is_first, bool is_last)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        float *at = total + i * GEMM_THREADS + threadIdx.x;
        float sum = is_first ? acc[i] : *at + acc[i];
        if (!is_last) {
            *at = sum;
        }
        acc[i] = is_last ? sum : 0.0f;
    }
}

/* ---- Integer tensor cores -------------------------------------------------------------------- */

#if defined __HIP__ && !defined GPU_EMULATED
/* c + A B by dots of four bytes, operands exchanged between lanes; `words` of each: 1 or 2. */
__device__ inline void mma_by_dots(int c[4], int2 low, int2 high, int2 x, int words)
{
    int g = lane_id() / 4, t = lane_id() % 4;
    for (int i = 0; i < 4; i++) {
        for (int w = 0; w < words; w++) {
            int a0 = lane_from(w ? low.y : low.x, 4 * g + i);
            int a1 = lane_from(w ? high.y : high.x, 4 * g + i);
            int b0 = lane_from(w ? x.y : x.x, 8 * t + i);
            int b1 = lane_from(w ? x.y : x.x, 8 * t + 4 + i);
            c[0] = dot_4(a0, b0, c[0]);
            c[1] = dot_4(a0, b1, c[1]);
            c[2] = dot_4(a1, b0, c[2]);
            c[3] = dot_4(a1, b1, c[3]);
        }
    }
}
#endif

/* c = A (16 x 32) B (32 x 8) + c of signed bytes, in a warp. Lane 4 g + t has of c rows g, g + 8 at
 * columns 2 t, 2 t + 1; of A and B it gives bytes 8 t .. of rows g, g + 8 and of column g: K in an
 * order of its own, which an exact sum does not see. */
__device__ inline void mma_32(int c[4], int2 low, int2 high, int2 x)
{
#if defined GPU_EMULATED
    emulated_mma_32(c, low, high, x);
#elif defined __HIP__
    mma_by_dots(c, low, high, x, 2);
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(low.x), "r"(high.x), "r"(low.y), "r"(high.y), "r"(x.x), "r"(x.y));
#endif
}

/* The same of 16 places: bytes 4 t .. of a half. */
__device__ inline void mma_16(int c[4], int low, int high, int x)
{
#if defined GPU_EMULATED
    emulated_mma_16(c, low, high, x);
#elif defined __HIP__
    mma_by_dots(c, {low, 0}, {high, 0}, {x, 0}, 1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(low), "r"(high), "r"(x));
#endif
}

#define MAGIC_INT   0x4b400000
#define MAGIC_FLOAT 12582912.0f

/* ---- Quantised ------------------------------------------------------------------------------- */

template <int TYPE, int NT> struct __align__(16) gemm_chunk
{
    int8_t w[GEMM_ROWS][GEMM_PITCH], x[gemm_shape<NT>::tokens][GEMM_PITCH];
    float ws[GEMM_UNITS][GEMM_ROWS], d[GEMM_UNITS][gemm_shape<NT>::tokens];
    float wm[has_min(TYPE) ? GEMM_UNITS : 1][has_min(TYPE) ? GEMM_ROWS : 1];
    /* rn(d * isum); with two minima the sums of the halves, 16 bits each */
    float sum[has_min(TYPE) ? GEMM_UNITS : 1][has_min(TYPE) ? gemm_shape<NT>::tokens : 1];
    int sub[has_two_scales(TYPE) ? GEMM_UNITS : 1][has_two_scales(TYPE) ? GEMM_ROWS : 1];
    int min[has_two_min(TYPE) ? GEMM_UNITS : 1][has_two_min(TYPE) ? GEMM_ROWS : 1];
};

template <int TYPE, int NT> struct gemm_shared {
    gemm_chunk<TYPE, NT> ring[2];
    float total[gemm_shape<NT>::outputs * GEMM_THREADS];
};

__device__ inline int halves(int low, int high)
{
    return (low & 0xffff) | (int)((uint32_t)high << 16);
}

__device__ inline int half_low(int packed)
{
    return (int)(int16_t)(packed & 0xffff);
}

__device__ inline int half_high(int packed)
{
    return packed >> 16;
}

/* What a thread fetches of a chunk: one unit of a row, and NT / 4 (at least one) of a token. */
template <int TYPE, int NT> struct gemm_fetch {
    static const int n = (gemm_shape<NT>::tokens * GEMM_UNITS + GEMM_THREADS - 1) / GEMM_THREADS;
    int q[8];
    unit_scales s;
    act_unit x[n];
};

template <int TYPE, int NT>
__device__ inline void gemm_request(const matvec_args &a, const planes &p, int64_t unit,
                                    gemm_fetch<TYPE, NT> *f)
{
    int64_t n_unit = a.m.w.weight.k / UNIT;
    int64_t row = (int64_t)a.block * GEMM_ROWS + threadIdx.x / GEMM_UNITS;
    int64_t u = unit + threadIdx.x % GEMM_UNITS;
    u = u < n_unit ? u : n_unit - 1; /* what lies beyond is never chained */
    row = row < a.m.n_out ? row : a.m.n_out - 1;
    unit_codes<TYPE>(p, (a.m.w.first + row) * n_unit + u, f->q);
    f->s = unit_scales_of<TYPE>(p, (a.m.w.first + row) * n_unit + u);
#pragma unroll
    for (int i = 0; i < gemm_fetch<TYPE, NT>::n; i++) {
        int64_t token = (int64_t)blockIdx.y * gemm_shape<NT>::tokens +
                        (i * GEMM_THREADS + threadIdx.x) / GEMM_UNITS;
        token = token < a.m.n_token ? token : a.m.n_token - 1;
        f->x[i] = act_unit_of(act_part(row_at(a.m.x, token), a.m.w.weight.k, 0, 1), u);
    }
}

template <int TYPE, int NT>
__device__ inline void gemm_store(const gemm_fetch<TYPE, NT> *f, gemm_chunk<TYPE, NT> *c)
{
    int r = threadIdx.x / GEMM_UNITS, u = threadIdx.x % GEMM_UNITS;
    int4 *w = (int4 *)&c->w[r][u * UNIT];
    w[0] = {f->q[0], f->q[1], f->q[2], f->q[3]};
    w[1] = {f->q[4], f->q[5], f->q[6], f->q[7]};
    c->ws[u][r] = f->s.ws;
    if constexpr (has_min(TYPE)) {
        c->wm[u][r] = f->s.wm;
    }
    if constexpr (has_two_scales(TYPE)) {
        c->sub[u][r] = halves(f->s.sub[0], f->s.sub[1]);
    }
    if constexpr (has_two_min(TYPE)) {
        c->min[u][r] = halves(f->s.min[0], f->s.min[1]);
    }
#pragma unroll
    for (int i = 0; i < gemm_fetch<TYPE, NT>::n; i++) {
        int t = (i * GEMM_THREADS + threadIdx.x) / GEMM_UNITS;
        if (t >= gemm_shape<NT>::tokens) {
            return;
        }
        int4 *x = (int4 *)&c->x[t][u * UNIT];
        x[0] = f->x[i].low;
        x[1] = f->x[i].high;
        c->d[u][t] = f->x[i].d;
        if constexpr (has_two_min(TYPE)) {
            const int ones[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};
            int packed = halves(dot_half(ones, f->x[i].low), dot_half(ones, f->x[i].high));
            c->sum[u][t] = float_from_bits((uint32_t)packed);
        } else if constexpr (has_min(TYPE)) {
            c->sum[u][t] = f->x[i].d * (float)f->x[i].isum;
        }
    }
}

/* The exact dots of 16 x 8 outputs of a warp as floats: row is the lane's first row, token the
 * first of eight. */
template <int TYPE, int NT>
__device__ inline void gemm_dots(const gemm_chunk<TYPE, NT> *c, int u, int row, int token,
                                 float dot[4])
{
    int g = lane_id() / 4, t = lane_id() % 4;
    if constexpr (has_two_scales(TYPE)) {
        const int8_t *low = &c->w[row][u * UNIT + 4 * t], *high = &c->w[row + 8][u * UNIT + 4 * t];
        const int8_t *x = &c->x[token + g][u * UNIT + 4 * t];
        int a[4] = {}, b[4] = {}, s0 = c->sub[u][row], s1 = c->sub[u][row + 8];
        mma_16(a, *(const int *)low, *(const int *)high, *(const int *)x);
        mma_16(b, *(const int *)(low + 16), *(const int *)(high + 16), *(const int *)(x + 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int s = i < 2 ? s0 : s1;
            dot[i] = (float)(half_low(s) * a[i] + half_high(s) * b[i]);
        }
    } else {
        int at = u * UNIT + 8 * t, sum[4] = {MAGIC_INT, MAGIC_INT, MAGIC_INT, MAGIC_INT};
        mma_32(sum, *(const int2 *)&c->w[row][at], *(const int2 *)&c->w[row + 8][at],
               *(const int2 *)&c->x[token + g][at]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot[i] = float_from_bits((uint32_t)sum[i]) - MAGIC_FLOAT;
        }
    }
}

/* One unit of K for a warp's 64 rows (4 m) x 8 NT tokens (NT n). acc is [m][n][4]. */
template <int TYPE, int NT>
__device__ inline void gemm_unit(const gemm_chunk<TYPE, NT> *c, int u, float *acc)
{
    int g = lane_id() / 4, t = lane_id() % 4, row0 = warp_id() % 2 * 64 + g;
    int token0 = warp_id() / 2 * 8 * NT;
#pragma unroll
    for (int m = 0; m < 4; m++) {
        int row = row0 + 16 * m;
        float ws[2] = {c->ws[u][row], c->ws[u][row + 8]};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            int token = token0 + 8 * n;
            float *out = acc + (m * NT + n) * 4, dot[4];
            float2 d = *(const float2 *)&c->d[u][token + 2 * t];
            gemm_dots<TYPE, NT>(c, u, row, token, dot);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                out[i] = fmaf(ws[i / 2] * (i % 2 ? d.y : d.x), dot[i], out[i]);
            }
            if constexpr (has_min(TYPE)) {
                float2 sum = *(const float2 *)&c->sum[u][token + 2 * t];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float s = i % 2 ? sum.y : sum.x;
                    if constexpr (has_two_min(TYPE)) {
                        int min = c->min[u][row + i / 2 * 8], half = (int)bits_from_float(s);
                        s = (i % 2 ? d.y : d.x) * (float)(half_low(min) * half_low(half) +
                                                          half_high(min) * half_high(half));
                    }
                    out[i] = fmaf(c->wm[u][row + i / 2 * 8], s, out[i]);
                }
            }
        }
    }
}

template <int NT> __device__ inline void gemm_write(const matvec_args &a, const float *acc)
{
    const gpu_matmul &m = a.m;
    int64_t row0 = (int64_t)a.block * GEMM_ROWS + warp_id() % 2 * 64 + lane_id() / 4;
    int64_t token0 =
        (int64_t)blockIdx.y * gemm_shape<NT>::tokens + warp_id() / 2 * 8 * NT + lane_id() % 4 * 2;
#pragma unroll
    for (int i = 0; i < gemm_shape<NT>::outputs; i++) {
        int64_t row = row0 + i / (4 * NT) * 16 + i % 4 / 2 * 8;
        int64_t token = token0 + i / 4 % NT * 8 + i % 2;
        if (row < m.n_out && token < m.n_token) {
            floats_at(m.y, token)[row] = m.bias ? acc[i] + m.bias[row] : acc[i];
        }
    }
}

template <int TYPE, int NT>
__global__ void __launch_bounds__(GEMM_THREADS, 1) gemm_units(matvec_args a)
{
    GPU_SHARED(raw);
    let_next();
    after_last();
    product_take(&a, blockIdx.x);
    gemm_shared<TYPE, NT> *s = (gemm_shared<TYPE, NT> *)raw;
    constexpr int per = SEGMENT_UNITS / GEMM_UNITS, outputs = gemm_shape<NT>::outputs;
    int64_t n_unit = a.m.w.weight.k / UNIT, n_chunk = (n_unit + GEMM_UNITS - 1) / GEMM_UNITS;
    planes p = planes_of(TYPE, a.m.w.weight.data, a.m.w.weight.n_row, a.m.w.weight.k);
    gemm_fetch<TYPE, NT> fetch;
    gemm_request<TYPE, NT>(a, p, 0, &fetch);
    gemm_store<TYPE, NT>(&fetch, &s->ring[0]);
    __syncthreads();
    float acc[outputs] = {};
    for (int64_t c = 0; c < n_chunk; c++) {
        bool is_last = c + 1 == n_chunk;
        if (!is_last) {
            gemm_request<TYPE, NT>(a, p, (c + 1) * GEMM_UNITS, &fetch);
        }
#pragma unroll
        for (int u = 0; u < GEMM_UNITS; u++) {
            if (c * GEMM_UNITS + u < n_unit) {
                gemm_unit<TYPE, NT>(&s->ring[c % 2], u, acc);
            }
        }
        if (!is_last) {
            gemm_store<TYPE, NT>(&fetch, &s->ring[(c + 1) % 2]);
        }
        __syncthreads();
        if ((c + 1) % per == 0 || is_last) {
            segment_end<outputs>(acc, s->total, c < per, is_last);
        }
    }
    gemm_write<NT>(a, acc);
}

/* ---- Floats ---------------------------------------------------------------------------------- */

#define STEP_PITCH 132

struct __align__(16) float_step
{
    float w[UNIT][STEP_PITCH], x[UNIT][STEP_PITCH];
};

struct float_shared {
    float_step step;
    float total[64 * GEMM_THREADS];
};

/* 32 values of a row of weights, zeros beyond its end. */
template <int TYPE>
__device__ inline void row_values(const matvec_args &a, int64_t row, int64_t k0, float *value)
{
    int64_t k = a.m.w.weight.k;
    if constexpr (is_quantised(TYPE)) {
        planes p = planes_of(TYPE, a.m.w.weight.data, a.m.w.weight.n_row, k);
        int64_t at = row * (k / UNIT) + k0 / UNIT;
        int q[8];
        unit_codes<TYPE>(p, at, q);
        unit_scales s = unit_scales_of<TYPE>(p, at);
#pragma unroll
        for (int i = 0; i < UNIT; i++) {
            value[i] = unit_value<TYPE>(s, q, i);
        }
    } else {
        constexpr int V = 16 / float_bytes(TYPE);
        int64_t n_vector = float_vectors(TYPE, k);
#pragma unroll
        for (int v = 0; v < UNIT / V; v++) {
            int4 packed = {0, 0, 0, 0};
            if (k0 / V + v < n_vector) {
                packed = load<int4>(a.m.w.weight.data + float_at(n_vector, row, k0 / V + v));
            }
            float_values<TYPE>(packed, value + v * V);
        }
    }
}

/* Half of the threads bring a row's 32 weights, half a token's 32 activations. */
template <int TYPE>
__device__ inline void step_fetch(const matvec_args &a, int64_t k0, float *value)
{
    int r = threadIdx.x % GEMM_ROWS;
    int64_t row = (int64_t)a.block * GEMM_ROWS + r, token = (int64_t)blockIdx.y * GEMM_ROWS + r;
    if (threadIdx.x < GEMM_ROWS) {
        row_values<TYPE>(a, a.m.w.first + (row < a.m.n_out ? row : 0), k0, value);
        return;
    }
    const float *x = floats_at(a.m.x, token < a.m.n_token ? token : 0);
#pragma unroll
    for (int i = 0; i < UNIT; i++) {
        value[i] = k0 + i < a.m.w.weight.k ? x[k0 + i] : 0.0f;
    }
}

__device__ inline void step_store(const float *value, float_step *to)
{
    int r = threadIdx.x % GEMM_ROWS;
#pragma unroll
    for (int i = 0; i < UNIT; i++) {
        (threadIdx.x < GEMM_ROWS ? to->w : to->x)[i][r] = value[i];
    }
}

/* 8 rows x 8 tokens of a thread, each as two fours 64 apart; acc is [token][row]. */
__device__ inline void step_chain(const float_step *s, int n, float acc[64])
{
    int row = threadIdx.x % 16 * 4, token = threadIdx.x / 16 * 4;
#pragma unroll 8
    for (int k = 0; k < n; k++) {
        float w[8], x[8];
        *(float4 *)w = *(const float4 *)&s->w[k][row];
        *(float4 *)(w + 4) = *(const float4 *)&s->w[k][row + 64];
        *(float4 *)x = *(const float4 *)&s->x[k][token];
        *(float4 *)(x + 4) = *(const float4 *)&s->x[k][token + 64];
#pragma unroll
        for (int i = 0; i < 64; i++) {
            acc[i] = fmaf(w[i % 8], x[i / 8], acc[i]);
        }
    }
}

template <int TYPE> __global__ void __launch_bounds__(GEMM_THREADS, 1) gemm_floats(matvec_args a)
{
    GPU_SHARED(raw);
    let_next();
    after_last();
    product_take(&a, blockIdx.x);
    float_shared *s = (float_shared *)raw;
    int64_t k = a.m.w.weight.k;
    float acc[64] = {}, value[UNIT];
    step_fetch<TYPE>(a, 0, value);
    for (int64_t k0 = 0; k0 < k; k0 += UNIT) {
        step_store(value, &s->step);
        __syncthreads();
        if (k0 + UNIT < k) {
            step_fetch<TYPE>(a, k0 + UNIT, value);
        }
        bool is_last = k0 + UNIT >= k;
        step_chain(&s->step, k - k0 < UNIT ? (int)(k - k0) : UNIT, acc);
        if ((k0 + UNIT) % SEGMENT_FLOAT == 0 || is_last) {
            segment_end<64>(acc, s->total, k0 < SEGMENT_FLOAT, is_last);
        }
        __syncthreads();
    }
    int64_t row = (int64_t)a.block * GEMM_ROWS + threadIdx.x % 16 * 4;
    int64_t token = (int64_t)blockIdx.y * GEMM_ROWS + threadIdx.x / 16 * 4;
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int64_t t = token + i / 32 * 64 + i / 8 % 4, r = row + i % 8 / 4 * 64 + i % 4;
        if (t < a.m.n_token && r < a.m.n_out) {
            floats_at(a.m.y, t)[r] = a.m.bias ? acc[i] + a.m.bias[r] : acc[i];
        }
    }
}

#endif
