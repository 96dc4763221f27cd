/* kernels.cuh - minimal CUDA kernels of each matmul kind and of decode attention.
 *
 * They exist to settle sizes of the arithmetic (docs/numerics.md), not to be the fastest: each
 * takes its segment length or tile as an argument and gives the bits of numerics.md for that
 * length. What they share: a chain is one lane's loop in K order; whatever is exact (integer dots,
 * widening, maxima) is made by any lanes or by tensor cores; partial results are joined in index
 * order.
 *
 * Layouts are free, as weights are packed at load. Float weights lie in vectors of 16 bytes of one
 * row, rows of a tile interleaved, so that lanes are rows and every load is coalesced. Memory is
 * read through rings of cp.async copies, because few chains in flight must not mean few bytes in
 * flight. A block of 32 codes may be permuted, if weights and activations agree: its dot is exact.
 *
 * Rounding is spelled out by intrinsics, so compiler flags do not matter.
 */
#ifndef BENCH_GPU_KERNELS_CUH
#define BENCH_GPU_KERNELS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define BLOCK 32 /* values of a quantised block */

/* A matrix (n rows of k values) and the segments its K is cut into; the last may be shorter. */
struct extent {
    int k, n, length, n_segment;
};

__device__ inline void copy_16(void *to, const void *from)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

__device__ inline void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of the thread's groups are under way. */
template <int N> __device__ inline void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* c = A (16 x 32, int8) B (32 x 8, int8) + c in one warp. Lane 4 g + t holds rows g and g + 8 of A,
 * column g of B, and of c rows g, g + 8 at columns 2 t, 2 t + 1. */
__device__ inline void mma_s8(int c[4], const int a[4], const int b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* An exact dot of a block: the sum is made above 1.5 * 2^23, where integers are floats. */
#define MAGIC_INT   0x4b400000
#define MAGIC_FLOAT 12582912.0f

__device__ inline void block_dots(float dot[4], const int a[4], const int b[2])
{
    int c[4] = {MAGIC_INT, MAGIC_INT, MAGIC_INT, MAGIC_INT};
    mma_s8(c, a, b);
    for (int i = 0; i < 4; i++) {
        dot[i] = __fadd_rn(__int_as_float(c[i]), -MAGIC_FLOAT);
    }
}

/* ---- Probes ---------------------------------------------------------------------------------- */

__global__ void read_probe(const int4 *from, size_t n, int *sink)
{
    size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int folded = 0;
    for (; i + 3 * step < n; i += 4 * step) {
        int4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            v[j] = __ldcs(from + i + j * step);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            folded ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
        }
    }
    for (; i < n; i += step) {
        int4 v = __ldcs(from + i);
        folded ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (folded == 0x12345678) { /* practically never, but the compiler cannot know */
        *sink = folded;
    }
}

#define PROBE_STEPS  4096
#define PROBE_CHAINS 8

__global__ void fma_probe(float *sink, float by)
{
    float acc[PROBE_CHAINS];
    for (int c = 0; c < PROBE_CHAINS; c++) {
        acc[c] = (float)(threadIdx.x + c);
    }
#pragma unroll 16
    for (int i = 0; i < PROBE_STEPS; i++) {
#pragma unroll
        for (int c = 0; c < PROBE_CHAINS; c++) {
            acc[c] = __fmaf_rn(acc[c], by, by);
        }
    }
    float sum = 0.0f;
    for (int c = 0; c < PROBE_CHAINS; c++) {
        sum = __fadd_rn(sum, acc[c]);
    }
    if (sum == 12345.0f) {
        *sink = sum;
    }
}

__global__ void mma_probe(int *sink, int seed)
{
    int c[PROBE_CHAINS][4] = {}, a[4] = {seed, seed + 1, seed + 2, seed + 3}, b[2] = {seed, ~seed};
#pragma unroll 4
    for (int i = 0; i < PROBE_STEPS; i++) {
#pragma unroll
        for (int j = 0; j < PROBE_CHAINS; j++) {
            mma_s8(c[j], a, b);
        }
    }
    int sum = 0;
    for (int j = 0; j < PROBE_CHAINS; j++) {
        sum ^= c[j][0] ^ c[j][1] ^ c[j][2] ^ c[j][3];
    }
    if (sum == 0x12345678) {
        *sink = sum;
    }
}

/* ---- Decode, Q8_0: one token ----------------------------------------------------------------- */

struct q8_operand {
    const int8_t *code;   /* weights (n, k); activations (token, k) */
    const __half *weight; /* scales of weights (n, k / 32), or (k / 32, n) for many tokens */
    const float *act;     /* scales of activations (k / 32, token) */
};

#define Q8_BATCH 4    /* loads of 16 codes a lane has in flight, per row */
#define Q8_K     2048 /* K is a multiple: 32 lanes x 16 codes x Q8_BATCH */

__device__ inline int dot_16(int4 w, int4 x)
{
    return __dp4a(w.w, x.w, __dp4a(w.z, x.z, __dp4a(w.y, x.y, __dp4a(w.x, x.x, 0))));
}

/* rn(ws * d) and idot of every block of ROWS rows, to shared memory. A pad of one after each
 * segment keeps the chains of a warp on different banks, and takes the segment's result. */
template <int ROWS>
__device__ inline void q8_stage(extent e, q8_operand w, q8_operand x, int row, float2 *staged)
{
    int lane = threadIdx.x % 32, per = e.length / BLOCK, n_block = e.k / BLOCK;
    int pitch = e.n_segment * (per + 1);
    for (int first = lane; first < 2 * n_block; first += 32 * Q8_BATCH) {
        int4 code[ROWS][Q8_BATCH];
        float scale[ROWS][Q8_BATCH];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int4 *from = (const int4 *)(w.code + (size_t)(row + r) * e.k);
            const __half *from_scale = w.weight + (size_t)(row + r) * n_block;
#pragma unroll
            for (int j = 0; j < Q8_BATCH; j++) {
                code[r][j] = __ldcs(from + first + 32 * j);
                scale[r][j] = __half2float(from_scale[(first + 32 * j) / 2]);
            }
        }
#pragma unroll
        for (int j = 0; j < Q8_BATCH; j++) {
            int half = first + 32 * j, block = half / 2;
            int4 act = __ldg((const int4 *)x.code + half);
            float d = __ldg(x.act + block);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int dot = dot_16(code[r][j], act);
                dot += __shfl_xor_sync(0xffffffffu, dot, 1);
                if (lane % 2 == 0) {
                    staged[r * pitch + block + block / per] =
                        make_float2(__fmul_rn(scale[r][j], d), (float)dot);
                }
            }
        }
    }
}

/* One warp has ROWS rows; one lane chains a segment of one row. */
template <int ROWS> __global__ void q8_matvec(extent e, q8_operand w, q8_operand x, float *y)
{
    extern __shared__ float2 q8_shared[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = (blockIdx.x * (blockDim.x / 32) + warp) * ROWS;
    int per = e.length / BLOCK, n_block = e.k / BLOCK;
    float2 *staged = q8_shared + warp * ROWS * e.n_segment * (per + 1);
    q8_stage<ROWS>(e, w, x, row, staged);
    __syncwarp();
    for (int c = lane; c < ROWS * e.n_segment; c += 32) {
        int left = n_block - c % e.n_segment * per, n = left < per ? left : per;
        float2 *segment = staged + c * (per + 1);
        float acc = 0.0f;
#pragma unroll 8
        for (int b = 0; b < n; b++) {
            acc = __fmaf_rn(segment[b].x, segment[b].y, acc);
        }
        segment[per].x = acc;
    }
    __syncwarp();
    if (lane < ROWS) {
        const float2 *result = staged + lane * e.n_segment * (per + 1) + per;
        float total = result[0].x;
        for (int s = 1; s < e.n_segment; s++) {
            total = __fadd_rn(total, result[s * (per + 1)].x);
        }
        y[row + lane] = total;
    }
}

/* ---- Decode, float weights: TOKENS tokens ---------------------------------------------------- */

struct f16_bits {
    uint16_t bits;
};
struct bf16_bits {
    uint16_t bits;
};
struct f32_bits {
    uint32_t bits;
};

__device__ inline float widen(f16_bits v)
{
    return __half2float(__ushort_as_half(v.bits));
}

__device__ inline float widen(bf16_bits v)
{
    return __uint_as_float((uint32_t)v.bits << 16);
}

__device__ inline float widen(f32_bits v)
{
    return __uint_as_float(v.bits);
}

template <class T> union vector16 {
    int4 all;
    T value[16 / sizeof(T)];
};

#define GROUP 4 /* vectors that arrive together */

/* The vectors of one lane: consecutive segments of one row, ROWS vectors apart. A ring of STAGES
 * groups is in flight; a lane reads only what it copied itself, so no barrier is needed. */
template <class T, int ROWS, int STAGES> struct stream {
    const int4 *from;
    int4 *ring; /* [STAGES][GROUP][32], of the warp */
    int n_group;

    __device__ inline void request(int group) const
    {
        if (group < n_group) {
            for (int i = 0; i < GROUP; i++) {
                copy_16(ring + (group % STAGES * GROUP + i) * 32 + threadIdx.x % 32,
                        from + (size_t)(group * GROUP + i) * ROWS);
            }
        }
        copy_commit();
    }

    __device__ inline void take(int group, vector16<T> v[GROUP]) const
    {
        for (int i = 0; i < GROUP; i++) {
            v[i].all = ring[(group % STAGES * GROUP + i) * 32 + threadIdx.x % 32];
        }
    }
};

/* N floats at x, a multiple of 16 bytes. */
template <int N> __device__ inline void load_floats(const float *x, float value[N])
{
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
        float4 four = __ldg((const float4 *)x + j);
        value[4 * j] = four.x;
        value[4 * j + 1] = four.y;
        value[4 * j + 2] = four.z;
        value[4 * j + 3] = four.w;
    }
}

/* One vector of TOKENS chains; x is (k, TOKENS). */
template <class T, int TOKENS>
__device__ inline void chain_vector(const vector16<T> *v, const float *x, float acc[TOKENS])
{
#pragma unroll
    for (int k = 0; k < (int)(16 / sizeof(T)); k++) {
        float weight = widen(v->value[k]);
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            acc[t] = __fmaf_rn(weight, x[k * TOKENS + t], acc[t]);
        }
    }
}

/* The segments [segment, last) of one row of a tile, results to total[segment][token][row]. */
template <class T, int ROWS, int TOKENS, int STAGES>
__device__ inline void float_run(extent e, stream<T, ROWS, STAGES> s, int segment, const float *x,
                                 float *total)
{
    const int vector_k = 16 / sizeof(T), group_k = GROUP * vector_k, per = e.length / group_k;
    float acc[TOKENS] = {};
    vector16<T> now[GROUP], next[GROUP];
    for (int g = 0; g < STAGES - 1; g++) {
        s.request(g);
    }
    copy_wait<STAGES - 2>();
    s.take(0, now);
    for (int g = 0, left = per; g < s.n_group; g++, x += group_k * TOKENS) {
        /* One token's x arrives while the next vectors are asked for; more would fill registers. */
        float early[TOKENS == 1 ? group_k : 1];
        if constexpr (TOKENS == 1) {
            load_floats<group_k>(x, early);
        }
        s.request(g + STAGES - 1);
        copy_wait<STAGES - 2>();
        if (g + 1 < s.n_group) {
            s.take(g + 1, next);
        }
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            if constexpr (TOKENS == 1) {
                chain_vector<T, TOKENS>(now + i, early + i * vector_k, acc);
            } else {
                float late[vector_k * TOKENS];
                load_floats<vector_k * TOKENS>(x + i * vector_k * TOKENS, late);
                chain_vector<T, TOKENS>(now + i, late, acc);
            }
        }
        if (--left == 0 || g + 1 == s.n_group) {
            for (int t = 0; t < TOKENS; t++) {
                total[(segment * TOKENS + t) * ROWS] = acc[t];
                acc[t] = 0.0f;
            }
            segment++;
            left = per;
        }
        for (int i = 0; i < GROUP; i++) {
            now[i] = next[i];
        }
    }
    copy_wait<0>();
}

/* Weights (n / ROWS, k / V, ROWS) vectors of V values. A block has one tile of ROWS rows; each
 * group of ROWS lanes has a run of consecutive segments. */
template <class T, int ROWS, int TOKENS, int STAGES>
__global__ void float_matvec(extent e, const int4 *w, const float *x, float *y)
{
    extern __shared__ int4 float_shared[];
    const int V = 16 / sizeof(T);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warp = blockDim.x / 32;
    int row = lane % ROWS, runs = n_warp * (32 / ROWS), run = threadIdx.x / ROWS;
    int per_run = (e.n_segment + runs - 1) / runs, segment = run * per_run;
    int k0 = segment * e.length, k1 = k0 + per_run * e.length;
    k1 = k1 < e.k ? k1 : e.k;
    float *total = (float *)(float_shared + n_warp * STAGES * GROUP * 32);
    if (k0 < k1) {
        stream<T, ROWS, STAGES> s = {w + ((size_t)blockIdx.x * (e.k / V) + k0 / V) * ROWS + row,
                                     float_shared + warp * STAGES * GROUP * 32,
                                     (k1 - k0) / (V * GROUP)};
        float_run<T, ROWS, TOKENS, STAGES>(e, s, segment, x + (size_t)k0 * TOKENS, total + row);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * TOKENS; i += blockDim.x) {
        float sum = total[i];
        for (int s = 1; s < e.n_segment; s++) {
            sum = __fadd_rn(sum, total[s * ROWS * TOKENS + i]);
        }
        y[(size_t)(i / ROWS) * e.n + blockIdx.x * ROWS + i % ROWS] = sum;
    }
}

/* ---- Decode, Q8_0: eight tokens -------------------------------------------------------------- */

#define BATCH_TOKENS 8
#define BATCH_ROWS   16
#define BATCH_BLOCKS 4                                         /* blocks of a record */
#define BATCH_RECORD (BATCH_BLOCKS * BATCH_ROWS * (BLOCK + 2)) /* bytes */
#define BATCH_STAGES 4
#define BATCH_RING   (BATCH_STAGES * BATCH_RECORD)

/* Where the tensor core wants code (row, i) of a block of 16 rows: lane, then byte of its 16. Lane
 * 4 g + t has bytes 8 t .. 8 t + 7 of rows g and g + 8: a permutation, the same for x. */
__host__ __device__ inline int fragment_row(int byte)
{
    return byte / 16 / 4 + (byte / 4 % 2) * 8;
}

__host__ __device__ inline int fragment_k(int byte)
{
    return byte / 16 % 4 * 8 + byte % 16 / 8 * 4 + byte % 4;
}

__device__ inline void batch_request(const uint8_t *from, uint8_t *ring, int record, int n)
{
    int lane = threadIdx.x % 32;
    if (record < n) {
        const uint8_t *source = from + (size_t)record * BATCH_RECORD;
        uint8_t *to = ring + record % BATCH_STAGES * BATCH_RECORD;
        for (int i = lane; i < BATCH_RECORD / 16; i += 32) {
            copy_16(to + 16 * i, source + 16 * i);
        }
    }
    copy_commit();
}

/* The four blocks of a record: codes (4, 32 lanes, 16), then scales (4, 16 rows). x holds the
 * activations (k / 32, 32 lanes, 8) and their scales (k / 32, 8). */
__device__ inline void batch_record(const uint8_t *record, const q8_operand *x, int block,
                                    float acc[4])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const __half *scale = (const __half *)(record + BATCH_BLOCKS * BATCH_ROWS * BLOCK);
#pragma unroll
    for (int i = 0; i < BATCH_BLOCKS; i++) {
        int4 w = ((const int4 *)record)[32 * i + lane];
        int2 v = __ldg((const int2 *)x->code + (size_t)(block + i) * 32 + lane);
        float2 d = __ldg((const float2 *)x->act + (size_t)(block + i) * 4 + t);
        float low = __half2float(scale[16 * i + g]), high = __half2float(scale[16 * i + g + 8]);
        int a[4] = {w.x, w.y, w.z, w.w}, b[2] = {v.x, v.y};
        float dot[4];
        block_dots(dot, a, b);
        acc[0] = __fmaf_rn(__fmul_rn(low, d.x), dot[0], acc[0]);
        acc[1] = __fmaf_rn(__fmul_rn(low, d.y), dot[1], acc[1]);
        acc[2] = __fmaf_rn(__fmul_rn(high, d.x), dot[2], acc[2]);
        acc[3] = __fmaf_rn(__fmul_rn(high, d.y), dot[3], acc[3]);
    }
}

/* A block has 16 rows, a warp a run of segments; records (n / 16, k / 128, BATCH_RECORD). */
__global__ void q8_batch(extent e, const uint8_t *w, q8_operand x, float *y)
{
    extern __shared__ int4 batch_shared[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warp = blockDim.x / 32;
    int per = e.length / (BLOCK * BATCH_BLOCKS), n_record = e.k / (BLOCK * BATCH_BLOCKS);
    int per_warp = (e.n_segment + n_warp - 1) / n_warp, segment = warp * per_warp;
    int first = segment * per, last = first + per_warp * per;
    last = last < n_record ? last : n_record;
    uint8_t *ring = (uint8_t *)batch_shared + warp * BATCH_RING;
    float4 *total = (float4 *)((uint8_t *)batch_shared + n_warp * BATCH_RING);
    const uint8_t *from = w + ((size_t)blockIdx.x * n_record + first) * BATCH_RECORD;
    for (int i = 0; i < BATCH_STAGES - 1; i++) {
        batch_request(from, ring, i, last - first);
    }
    float acc[4] = {};
    for (int i = 0; i < last - first; i++) {
        copy_wait<BATCH_STAGES - 2>();
        __syncwarp();
        batch_request(from, ring, i + BATCH_STAGES - 1, last - first);
        batch_record(ring + i % BATCH_STAGES * BATCH_RECORD, &x, (first + i) * BATCH_BLOCKS, acc);
        if ((i + 1) % per == 0 || first + i + 1 == last) {
            total[(segment + i / per) * 32 + lane] = make_float4(acc[0], acc[1], acc[2], acc[3]);
            acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
        }
    }
    copy_wait<0>();
    __syncthreads();
    if (threadIdx.x < 32) {
        float4 sum = total[lane];
        for (int s = 1; s < e.n_segment; s++) {
            float4 next = total[s * 32 + lane];
            sum = make_float4(__fadd_rn(sum.x, next.x), __fadd_rn(sum.y, next.y),
                              __fadd_rn(sum.z, next.z), __fadd_rn(sum.w, next.w));
        }
        float *out = y + (size_t)(lane % 4 * 2) * e.n + blockIdx.x * BATCH_ROWS + lane / 4;
        out[0] = sum.x;
        out[e.n] = sum.y;
        out[8] = sum.z;
        out[e.n + 8] = sum.w;
    }
}

#endif
