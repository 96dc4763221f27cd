/* gemm.cuh - products of many tokens, bound by arithmetic.
 *
 * A block has 128 rows times 32 * NT tokens, or 128 in floats. A thread has, for each of its
 * outputs, the chain of the segment at hand in a register and the total of the segments before it
 * in shared memory at a place of its own, so that the end of a segment costs one addition and no
 * barrier.
 *
 * Quantised: sixteen warps, 32 rows times 8 NT tokens each, so that four of them are there to issue
 * while others wait for tensor cores; a lane's scales lie side by side. Exact dots of 16 rows x 8
 * tokens x 32 come from integer tensor cores. The sum is made above 1.5 * 2^23, where integers are
 * floats with the same last bit, so that one subtraction turns it into a float; types with two
 * sub-scales, whose sums may exceed that, convert it instead. Then one lane makes the step of
 * numerics.md: acc = fma(rn(ws * d), dot, acc).
 *
 * Floats, and quantised weights times float activations: values and activations of 32 places of K
 * in shared memory, a thread's chains in registers.
 */
#ifndef GRETA_KERNEL_GPU_GEMM_CUH
#define GRETA_KERNEL_GPU_GEMM_CUH

#include "kernel/gpu/matvec.cuh"

#define GEMM_THREADS 512
#define GEMM_ROWS    128
#define GEMM_UNITS   4   /* units of K of a chunk */
#define GEMM_PITCH   160 /* bytes of a row of a chunk: lanes of a load meet on no bank */
#define WARP_ROWS    32

/* Outputs of a thread: 32 rows x 8 NT tokens a warp, two and NT of the tensor cores' each way. */
template <int NT> struct gemm_shape {
    static const int tokens = 32 * NT, warp_tokens = 8 * NT, outputs = 8 * NT;
};

/* Adds a finished segment to the totals of a thread of THREADS; the last one leaves the sums in
 * acc. */
template <int N, int THREADS>
__device__ inline void segment_end(float *acc, float *total, bool is_first, bool is_last)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        float *at = total + i * THREADS + threadIdx.x;
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
    /* of rows in the order of row_place, of tokens in that of token_place */
    __align__(16) float ws[GEMM_UNITS][GEMM_ROWS];
    __align__(16) float d[GEMM_UNITS][gemm_shape<NT>::tokens];
    __align__(16) float wm[has_min(TYPE) ? GEMM_UNITS : 1][has_min(TYPE) ? GEMM_ROWS : 1];
    /* rn(d * isum); with two minima the sums of the halves, 16 bits each */
    __align__(
        16) float sum[has_min(TYPE) ? GEMM_UNITS : 1][has_min(TYPE) ? gemm_shape<NT>::tokens : 1];
    __align__(
        16) int sub[has_two_scales(TYPE) ? GEMM_UNITS : 1][has_two_scales(TYPE) ? GEMM_ROWS : 1];
    __align__(16) int min[has_two_min(TYPE) ? GEMM_UNITS : 1][has_two_min(TYPE) ? GEMM_ROWS : 1];
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

/* Where the numbers of a row, and of a token, lie: those that a lane needs, one after another. Lane
 * 4 g + t has rows g + 8 j of its warp's and tokens 2 t, 2 t + 1 of every eight. */
__device__ inline int row_place(int r)
{
    return r / WARP_ROWS * WARP_ROWS + r % 8 * 4 + r % WARP_ROWS / 8;
}

template <int NT> __device__ inline int token_place(int t)
{
    constexpr int n = gemm_shape<NT>::warp_tokens;
    return t / n * n + t % 8 / 2 * (2 * NT) + t % n / 8 * 2 + t % 2;
}

/* What a thread fetches of a chunk: one unit of a row, and one of a token. */
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

/* Odd rows begin with the second half: so the lanes of a store meet on no bank. */
__device__ inline void store_unit(int8_t *to, bool is_odd, int4 low, int4 high)
{
    int4 *at = (int4 *)to;
    at[is_odd] = is_odd ? high : low;
    at[!is_odd] = is_odd ? low : high;
}

template <int TYPE, int NT>
__device__ inline void gemm_store(const gemm_fetch<TYPE, NT> *f, gemm_chunk<TYPE, NT> *c)
{
    int r = threadIdx.x / GEMM_UNITS, u = threadIdx.x % GEMM_UNITS;
    int4 low = {f->q[0], f->q[1], f->q[2], f->q[3]}, high = {f->q[4], f->q[5], f->q[6], f->q[7]};
    store_unit(&c->w[r][u * UNIT], r % 2, low, high);
    r = row_place(r);
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
        store_unit(&c->x[t][u * UNIT], t % 2, f->x[i].low, f->x[i].high);
        t = token_place<NT>(t);
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

/* What a lane gives to products of 16 rows, or of 8 tokens, with a unit of K. */
struct gemm_rows_of {
    int2 low, high;
};

/* Of row `r` and the one 8 below, and of token r: bytes 8 t .. of the unit; of types with two
 * sub-scales bytes 4 t .. of either half. */
template <int TYPE> __device__ inline int2 gemm_bytes(const int8_t *row, int u)
{
    int t = lane_id() % 4;
    if constexpr (has_two_scales(TYPE)) {
        const int8_t *at = row + u * UNIT + 4 * t;
        return {*(const int *)at, *(const int *)(at + 16)};
    } else {
        return *(const int2 *)(row + u * UNIT + 8 * t);
    }
}

/* The exact dots of 16 x 8 outputs of a warp as floats; sub: of the lane's two rows, if the type
 * has such. */
template <int TYPE>
__device__ inline void gemm_dots(const gemm_rows_of &w, int2 x, const int sub[2], float dot[4])
{
    if constexpr (has_two_scales(TYPE)) {
        int a[4] = {}, b[4] = {};
        mma_16(a, w.low.x, w.high.x, x.x);
        mma_16(b, w.low.y, w.high.y, x.y);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int s = sub[i / 2];
            dot[i] = (float)(half_low(s) * a[i] + half_high(s) * b[i]);
        }
    } else {
        int sum[4] = {MAGIC_INT, MAGIC_INT, MAGIC_INT, MAGIC_INT};
        mma_32(sum, w.low, w.high, x);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot[i] = float_from_bits((uint32_t)sum[i]) - MAGIC_FLOAT;
        }
    }
}

/* N neighbouring words of shared memory; both ends are aligned to 16 bytes, or to 8 if N is 2. */
template <int N, class T> __device__ inline void load_words(const T *from, T to[N])
{
    static_assert(sizeof(T) == 4, "words");
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        if constexpr (N % 4 == 0) {
            *(int4 *)(to + i) = *(const int4 *)(from + i);
        } else {
            *(int2 *)to = *(const int2 *)from;
        }
    }
}

/* The minima's part of four outputs. */
template <int TYPE>
__device__ inline void gemm_minima(const float *wm, const int *min, const float *sum,
                                   const float *d, float out[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float s = sum[i % 2];
        if constexpr (has_two_min(TYPE)) {
            int half = (int)bits_from_float(s), m = min[i / 2];
            s = d[i % 2] * (float)(half_low(m) * half_low(half) + half_high(m) * half_high(half));
        }
        out[i] = fmaf(wm[i / 2], s, out[i]);
    }
}

/* One unit of K for a warp's 32 rows (2 m) x 8 NT tokens (NT n). acc is [m][n][4]. */
template <int TYPE, int NT>
__device__ inline void gemm_unit(const gemm_chunk<TYPE, NT> *c, int u, float *acc)
{
    constexpr bool has_sub = has_two_scales(TYPE), has_minima = has_min(TYPE);
    int g = lane_id() / 4, t = lane_id() % 4, row0 = warp_id() % 4 * WARP_ROWS;
    int token0 = warp_id() / 4 * gemm_shape<NT>::warp_tokens;
    int rows_at = row0 + 4 * g, tokens_at = token0 + 2 * NT * t;
    __align__(16) float ws[4], d[2 * NT], wm[4] = {}, sum[2 * NT] = {};
    __align__(16) int sub[4] = {}, min[4] = {};
    int2 x[NT];
    load_words<4>(&c->ws[u][rows_at], ws);
    load_words<2 * NT>(&c->d[u][tokens_at], d);
    if constexpr (has_sub) {
        load_words<4>(&c->sub[u][rows_at], sub);
    }
    if constexpr (has_minima) {
        load_words<4>(&c->wm[u][rows_at], wm);
        load_words<2 * NT>(&c->sum[u][tokens_at], sum);
    }
    if constexpr (has_two_min(TYPE)) {
        load_words<4>(&c->min[u][rows_at], min);
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        x[n] = gemm_bytes<TYPE>(c->x[token0 + 8 * n + g], u);
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
        int row = row0 + 16 * m + g;
        gemm_rows_of w = {gemm_bytes<TYPE>(c->w[row], u), gemm_bytes<TYPE>(c->w[row + 8], u)};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float *out = acc + (m * NT + n) * 4, dot[4];
            gemm_dots<TYPE>(w, x[n], sub + 2 * m, dot);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                out[i] = fmaf(ws[2 * m + i / 2] * d[2 * n + i % 2], dot[i], out[i]);
            }
            if constexpr (has_minima) {
                gemm_minima<TYPE>(wm + 2 * m, min + 2 * m, sum + 2 * n, d + 2 * n, out);
            }
        }
    }
}

template <int NT> __device__ inline void gemm_write(const matvec_args &a, const float *acc)
{
    const gpu_matmul &m = a.m;
    int64_t row0 = (int64_t)a.block * GEMM_ROWS + warp_id() % 4 * WARP_ROWS + lane_id() / 4;
    int64_t token0 = (int64_t)blockIdx.y * gemm_shape<NT>::tokens +
                     warp_id() / 4 * gemm_shape<NT>::warp_tokens + lane_id() % 4 * 2;
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
__global__ void __launch_bounds__(GEMM_THREADS, NT < 2 ? 2 : 1) gemm_units(matvec_args a)
{
    GPU_SHARED(raw);
    let_next();
    after_last();
    product_take(&a);
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
            segment_end<outputs, GEMM_THREADS>(acc, s->total, c < per, is_last);
        }
    }
    gemm_write<NT>(a, acc);
}

/* ---- Floats ---------------------------------------------------------------------------------- */

#define TILE_THREADS 256
#define STEP_PITCH   132

struct __align__(16) float_step
{
    float w[UNIT][STEP_PITCH], x[UNIT][STEP_PITCH];
};

struct float_shared {
    float_step step;
    float total[64 * TILE_THREADS];
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

template <int TYPE> __global__ void __launch_bounds__(TILE_THREADS, 1) gemm_floats(matvec_args a)
{
    GPU_SHARED(raw);
    let_next();
    after_last();
    product_take(&a);
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
            segment_end<64, TILE_THREADS>(acc, s->total, k0 < SEGMENT_FLOAT, is_last);
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
