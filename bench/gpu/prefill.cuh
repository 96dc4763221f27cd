/* prefill.cuh - minimal CUDA kernels of many-token matmuls and of decode attention.
 *
 * A second page of kernels.cuh, with the same rules. In a matmul of many tokens a thread has two
 * values per output: the chain of the segment at hand, in a register, and the total of the segments
 * before it, in shared memory, at a place of its own; so a segment's end costs one addition and two
 * accesses per output and no barrier. Attention writes every tile's (m, l, o) to global memory: the
 * merge is a left fold with rounding, so a run of tiles cannot be merged before the tiles ahead of
 * it, and a second kernel folds all tiles of a head in index order.
 */
#ifndef BENCH_GPU_PREFILL_CUH
#define BENCH_GPU_PREFILL_CUH

#include "kernels.cuh"

#define TILE_ROWS    128
#define TILE_TOKENS  128
#define TILE_THREADS 256
#define TILE_OUTPUTS 64 /* of a thread */
#define TOTAL_BYTES  (TILE_OUTPUTS * TILE_THREADS * 4)

/* Adds a finished segment to the thread's totals; the last one leaves the sums in acc. */
__device__ inline void segment_end(float *acc, float *total, bool is_first, bool is_last)
{
#pragma unroll
    for (int i = 0; i < TILE_OUTPUTS; i++) {
        float *at = total + i * TILE_THREADS + threadIdx.x;
        float sum = is_first ? acc[i] : __fadd_rn(*at, acc[i]);
        if (!is_last) {
            *at = sum;
        }
        acc[i] = is_last ? sum : 0.0f;
    }
}

/* ---- Q8_0 on tensor cores -------------------------------------------------------------------- */

#define CHUNK_BLOCKS 4   /* blocks of K that arrive together */
#define CHUNK_PITCH  160 /* bytes of a row in shared memory: 8-byte fragments without conflicts */
#define CHUNK_STAGES 3

struct q8_chunk {
    int8_t w[TILE_ROWS][CHUNK_PITCH], x[TILE_TOKENS][CHUNK_PITCH];
    __half ws[CHUNK_BLOCKS][TILE_ROWS];
    float d[CHUNK_BLOCKS][TILE_TOKENS];
};

struct q8_gemm_operands {
    q8_operand w, x;
    int n_token;
};

__device__ inline void chunk_request(extent e, const q8_gemm_operands *o, int chunk, q8_chunk *to)
{
    int row0 = blockIdx.y * TILE_ROWS, token0 = blockIdx.x * TILE_TOKENS;
    const int bytes = CHUNK_BLOCKS * BLOCK, n_copy = TILE_ROWS * bytes / 16;
    for (int i = threadIdx.x; i < n_copy; i += TILE_THREADS) {
        int r = i / (bytes / 16), at = i % (bytes / 16) * 16;
        size_t k = (size_t)chunk * bytes + at;
        copy_16(&to->w[r][at], o->w.code + (size_t)(row0 + r) * e.k + k);
        copy_16(&to->x[r][at], o->x.code + (size_t)(token0 + r) * e.k + k);
    }
    for (int i = threadIdx.x; i < CHUNK_BLOCKS * TILE_ROWS / 8; i += TILE_THREADS) {
        int b = i / (TILE_ROWS / 8), at = i % (TILE_ROWS / 8) * 8;
        copy_16(&to->ws[b][at], o->w.weight + (size_t)(chunk * CHUNK_BLOCKS + b) * e.n + row0 + at);
    }
    for (int i = threadIdx.x; i < CHUNK_BLOCKS * TILE_TOKENS / 4; i += TILE_THREADS) {
        int b = i / (TILE_TOKENS / 4), at = i % (TILE_TOKENS / 4) * 4;
        copy_16(&to->d[b][at],
                o->x.act + (size_t)(chunk * CHUNK_BLOCKS + b) * o->n_token + token0 + at);
    }
}

/* One block of K for a warp's 64 rows (4 m) x 32 tokens (4 n); lane 4 g + t takes bytes 8 t .. of
 * its rows and tokens. acc is [m][n][4]. */
__device__ inline void chunk_block(const q8_chunk *c, int b, float acc[TILE_OUTPUTS])
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    int row = warp % 2 * 64 + g, token = warp / 2 * 32, at = b * BLOCK + 8 * t;
    int2 v[4];
    float2 d[4];
#pragma unroll
    for (int n = 0; n < 4; n++) {
        v[n] = *(const int2 *)&c->x[token + 8 * n + g][at];
        d[n] = *(const float2 *)&c->d[b][token + 8 * n + 2 * t];
    }
#pragma unroll
    for (int m = 0; m < 4; m++) {
        int2 low = *(const int2 *)&c->w[row + 16 * m][at];
        int2 high = *(const int2 *)&c->w[row + 16 * m + 8][at];
        float ws_low = __half2float(c->ws[b][row + 16 * m]);
        float ws_high = __half2float(c->ws[b][row + 16 * m + 8]);
        int a[4] = {low.x, high.x, low.y, high.y};
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float *out = acc + (m * 4 + n) * 4, dot[4];
            int code[2] = {v[n].x, v[n].y};
            block_dots(dot, a, code);
            out[0] = __fmaf_rn(__fmul_rn(ws_low, d[n].x), dot[0], out[0]);
            out[1] = __fmaf_rn(__fmul_rn(ws_low, d[n].y), dot[1], out[1]);
            out[2] = __fmaf_rn(__fmul_rn(ws_high, d[n].x), dot[2], out[2]);
            out[3] = __fmaf_rn(__fmul_rn(ws_high, d[n].y), dot[3], out[3]);
        }
    }
}

__global__ void __launch_bounds__(TILE_THREADS, 1) q8_gemm(extent e, q8_gemm_operands o, float *y)
{
    extern __shared__ int4 gemm_shared[];
    q8_chunk *ring = (q8_chunk *)gemm_shared;
    float *total = (float *)(ring + CHUNK_STAGES);
    int n_chunk = e.k / (CHUNK_BLOCKS * BLOCK), per = e.length / (CHUNK_BLOCKS * BLOCK);
    for (int c = 0; c < CHUNK_STAGES - 1; c++) {
        chunk_request(e, &o, c, ring + c);
        copy_commit();
    }
    float acc[TILE_OUTPUTS] = {};
    for (int c = 0, left = per; c < n_chunk; c++) {
        copy_wait<CHUNK_STAGES - 2>();
        __syncthreads();
        if (c + CHUNK_STAGES - 1 < n_chunk) {
            int next = c + CHUNK_STAGES - 1;
            chunk_request(e, &o, next, ring + next % CHUNK_STAGES);
        }
        copy_commit();
#pragma unroll
        for (int b = 0; b < CHUNK_BLOCKS; b++) {
            chunk_block(ring + c % CHUNK_STAGES, b, acc);
        }
        if (--left == 0 || c + 1 == n_chunk) {
            segment_end(acc, total, c < per, c + 1 == n_chunk);
            left = per;
        }
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = blockIdx.y * TILE_ROWS + warp % 2 * 64 + lane / 4;
    int token = blockIdx.x * TILE_TOKENS + warp / 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILE_OUTPUTS; i++) {
        int m = i / 16, n = i / 4 % 4;
        y[(size_t)(token + 8 * n + i % 2) * e.n + row + 16 * m + i % 4 / 2 * 8] = acc[i];
    }
}

/* ---- Float weights on CUDA cores ------------------------------------------------------------- */

#define STEP_K     16
#define STEP_PITCH 132

struct float_step {
    float w[STEP_K][STEP_PITCH], x[STEP_K][STEP_PITCH];
};

/* What a thread fetches of a step, in registers until the step before is done. */
template <class T> struct step_fetch {
    int4 w[TILE_ROWS * STEP_K * sizeof(T) / 16 / TILE_THREADS];
    float4 x[2];
};

/* Weights in the layout of float_matvec with 32 rows; activations (token, k). */
template <class T>
__device__ inline void step_request(extent e, const int4 *w, const float *x, int k0,
                                    step_fetch<T> *to)
{
    const int V = 16 / sizeof(T), n = sizeof(to->w) / 16, per_tile = 32 * STEP_K / V;
#pragma unroll
    for (int i = 0; i < n; i++) {
        int at = i * TILE_THREADS + threadIdx.x, tile = blockIdx.y * 4 + at / per_tile;
        to->w[i] = __ldg(w + ((size_t)tile * (e.k / V) + k0 / V) * 32 + at % per_tile);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = i * TILE_THREADS + threadIdx.x, token = blockIdx.x * TILE_TOKENS + at / 4;
        to->x[i] = __ldg((const float4 *)(x + (size_t)token * e.k + k0) + at % 4);
    }
}

template <class T> __device__ inline void step_store(const step_fetch<T> *from, float_step *to)
{
    const int V = 16 / sizeof(T), n = sizeof(from->w) / 16, per_tile = 32 * STEP_K / V;
#pragma unroll
    for (int i = 0; i < n; i++) {
        int at = i * TILE_THREADS + threadIdx.x, row = at / per_tile * 32 + at % 32;
        vector16<T> v;
        v.all = from->w[i];
#pragma unroll
        for (int j = 0; j < V; j++) {
            to->w[at % per_tile / 32 * V + j][row] = widen(v.value[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = i * TILE_THREADS + threadIdx.x, token = at / 4, k = at % 4 * 4;
        to->x[k][token] = from->x[i].x;
        to->x[k + 1][token] = from->x[i].y;
        to->x[k + 2][token] = from->x[i].z;
        to->x[k + 3][token] = from->x[i].w;
    }
}

/* 8 rows x 8 tokens of a thread, each as two fours 64 apart; acc is [token][row]. */
__device__ inline void step_chain(const float_step *s, float acc[TILE_OUTPUTS])
{
    int row = threadIdx.x % 16 * 4, token = threadIdx.x / 16 * 4;
#pragma unroll
    for (int k = 0; k < STEP_K; k++) {
        float w[8], x[8];
        *(float4 *)w = *(const float4 *)&s->w[k][row];
        *(float4 *)(w + 4) = *(const float4 *)&s->w[k][row + 64];
        *(float4 *)x = *(const float4 *)&s->x[k][token];
        *(float4 *)(x + 4) = *(const float4 *)&s->x[k][token + 64];
#pragma unroll
        for (int i = 0; i < TILE_OUTPUTS; i++) {
            acc[i] = __fmaf_rn(w[i % 8], x[i / 8], acc[i]);
        }
    }
}

template <class T>
__global__ void __launch_bounds__(TILE_THREADS, 2)
    float_gemm(extent e, const int4 *w, const float *x, float *y)
{
    extern __shared__ int4 gemm_shared[];
    float_step *step = (float_step *)gemm_shared; /* two in turn */
    float *total = (float *)(step + 2);
    step_fetch<T> fetch;
    step_request<T>(e, w, x, 0, &fetch);
    step_store<T>(&fetch, step);
    __syncthreads();
    float acc[TILE_OUTPUTS] = {};
    int n_step = e.k / STEP_K, per = e.length / STEP_K;
    for (int s = 0, left = per; s < n_step; s++) {
        if (s + 1 < n_step) {
            step_request<T>(e, w, x, (s + 1) * STEP_K, &fetch);
        }
        step_chain(step + s % 2, acc);
        if (s + 1 < n_step) {
            step_store<T>(&fetch, step + (s + 1) % 2);
        }
        __syncthreads();
        if (--left == 0 || s + 1 == n_step) {
            segment_end(acc, total, s < per, s + 1 == n_step);
            left = per;
        }
    }
    int row = blockIdx.y * TILE_ROWS + threadIdx.x % 16 * 4;
    int token = blockIdx.x * TILE_TOKENS + threadIdx.x / 16 * 4;
#pragma unroll
    for (int i = 0; i < TILE_OUTPUTS; i++) {
        int t = i / 8, r = i % 8;
        y[(size_t)(token + t / 4 * 64 + t % 4) * e.n + row + r / 4 * 64 + r % 4] = acc[i];
    }
}

/* ---- Decode attention ------------------------------------------------------------------------ */

#define N_HEAD         32
#define N_HEAD_KV      8
#define N_GROUP        (N_HEAD / N_HEAD_KV) /* a warp each, in the softmax */
#define ATTEND_THREADS 128
#define ATTEND_RING    4

struct attend_args {
    const uint16_t *k, *v; /* binary16 (position, N_HEAD_KV, head_dim) */
    const float *q;        /* (N_HEAD, head_dim) */
    float scale;
    int n_tile, run;        /* tiles of the sequence, all full; tiles of a thread block */
    float *max, *sum, *out; /* of tiles: (N_HEAD, n_tile), the same, (N_HEAD, n_tile, head_dim) */
};

/* exp of arithmetic 1; any other of its kind costs about the same. */
__device__ inline float device_exp(float x)
{
    if (x > 0x1.62e430p+6f) {
        return __int_as_float(0x7f800000);
    }
    if (x < -0x1.9fe368p+6f) {
        return 0.0f;
    }
    float n = __fadd_rn(__fmaf_rn(x, 0x1.715476p+0f, 0x1.8p23f), -0x1.8p23f);
    float r = __fmaf_rn(n, -0x1.62e430p-1f, x);
    r = __fmaf_rn(n, 0x1.05c610p-29f, r);
    float q = __fmaf_rn(0x1.6a524ep-10f, r, 0x1.12396ep-7f);
    q = __fmaf_rn(q, r, 0x1.5558aap-5f);
    q = __fmaf_rn(q, r, 0x1.555492p-3f);
    q = __fmaf_rn(q, r, 0x1.fffffcp-2f);
    float p = __fadd_rn(__fmaf_rn(__fmul_rn(r, r), q, r), 1.0f);
    int whole = n == n ? (int)n : 0, half = whole >> 1;
    p = __fmul_rn(p, __int_as_float((half + 127) << 23));
    return __fmul_rn(p, __int_as_float((whole - half + 127) << 23));
}

/* A tile is read in chunks of positions, its keys first, then its values. */
template <int D, int TILE> struct attend_sizes {
    static const int chunk = TILE < 64 ? TILE : 64, n_chunk = TILE / chunk;
    static const int pitch = 2 * D + 16; /* bytes of a position in shared memory: no conflicts */
    static const int bytes = chunk * pitch;
    static const int score_heads = N_GROUP * chunk / ATTEND_THREADS; /* of a thread */
    static const int value_heads = N_GROUP * (D / 2) / ATTEND_THREADS;
};

template <int D, int TILE> struct attend_shared {
    float q[N_GROUP][D];
    float score[N_GROUP][TILE], weight[TILE][N_GROUP];
};

template <int D, int TILE>
__device__ inline void attend_request(const attend_args *a, int first, int step, uint8_t *ring)
{
    typedef attend_sizes<D, TILE> z;
    int tile = first + step / (2 * z::n_chunk), chunk = step % (2 * z::n_chunk);
    const uint16_t *cache = chunk < z::n_chunk ? a->k : a->v;
    int position = tile * TILE + chunk % z::n_chunk * z::chunk;
    for (int i = threadIdx.x; i < z::chunk * D / 8; i += ATTEND_THREADS) {
        int p = i / (D / 8), at = i % (D / 8);
        copy_16(ring + step % ATTEND_RING * z::bytes + p * z::pitch + 16 * at,
                cache + ((size_t)(position + p) * N_HEAD_KV + blockIdx.y) * D + 8 * at);
    }
}

/* A lane has one position and score_heads heads. */
template <int D, int TILE>
__device__ inline void attend_scores(const uint8_t *keys, float scale, int chunk,
                                     attend_shared<D, TILE> *s)
{
    typedef attend_sizes<D, TILE> z;
    int p = threadIdx.x % z::chunk, head = threadIdx.x / z::chunk * z::score_heads;
    float acc[z::score_heads] = {};
#pragma unroll 4
    for (int d = 0; d < D; d += 8) {
        vector16<f16_bits> key;
        key.all = *(const int4 *)(keys + p * z::pitch + 2 * d);
#pragma unroll
        for (int h = 0; h < z::score_heads; h++) {
            float q[8];
            *(float4 *)q = *(const float4 *)&s->q[head + h][d];
            *(float4 *)(q + 4) = *(const float4 *)&s->q[head + h][d + 4];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                acc[h] = __fmaf_rn(q[i], widen(key.value[i]), acc[h]);
            }
        }
    }
    for (int h = 0; h < z::score_heads; h++) {
        s->score[head + h][chunk * z::chunk + p] = __fmul_rn(acc[h], scale);
    }
}

/* Maximum, exponentials and row sum of one tile; a warp has a head. */
template <int D, int TILE>
__device__ inline void attend_softmax(const attend_args *a, int tile, attend_shared<D, TILE> *s)
{
    int lane = threadIdx.x % 32, head = threadIdx.x / 32;
    float e[TILE / 32], most = s->score[head][lane];
    for (int i = 1; i < TILE / 32; i++) {
        most = fmaxf(most, s->score[head][32 * i + lane]);
    }
    for (int stride = 16; stride > 0; stride /= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, stride));
    }
    for (int i = 0; i < TILE / 32; i++) {
        e[i] = device_exp(__fadd_rn(s->score[head][32 * i + lane], -most));
        s->weight[32 * i + lane][head] = e[i];
    }
    float total = 0.0f;
    for (int i = 0; i < TILE / 32; i += 2) { /* a group of 64; what is missing counts as +0 */
        float sum = __fadd_rn(e[i], i + 1 < TILE / 32 ? e[i + 1] : 0.0f);
        for (int stride = 16; stride > 0; stride /= 2) {
            sum = __fadd_rn(sum, __shfl_down_sync(0xffffffffu, sum, stride));
        }
        total = i == 0 ? sum : __fadd_rn(total, sum);
    }
    if (lane == 0) {
        int at = (blockIdx.y * N_GROUP + head) * a->n_tile + tile;
        a->max[at] = most;
        a->sum[at] = total;
    }
}

/* A lane has two dimensions of value_heads heads. */
template <int D, int TILE>
__device__ inline void attend_values(const uint8_t *values, int chunk,
                                     const attend_shared<D, TILE> *s, float acc[][2])
{
    typedef attend_sizes<D, TILE> z;
    int pair = threadIdx.x % (D / 2), head = threadIdx.x / (D / 2) * z::value_heads;
#pragma unroll 8
    for (int p = 0; p < z::chunk; p++) {
        __half2 value = *(const __half2 *)(values + p * z::pitch + 4 * pair);
        float low = __low2float(value), high = __high2float(value);
#pragma unroll
        for (int h = 0; h < z::value_heads; h++) {
            float weight = s->weight[chunk * z::chunk + p][head + h];
            acc[h][0] = __fmaf_rn(weight, low, acc[h][0]);
            acc[h][1] = __fmaf_rn(weight, high, acc[h][1]);
        }
    }
}

template <int D, int TILE>
__device__ inline void attend_store(const attend_args *a, int tile, float acc[][2])
{
    typedef attend_sizes<D, TILE> z;
    int pair = threadIdx.x % (D / 2), head = threadIdx.x / (D / 2) * z::value_heads;
    for (int h = 0; h < z::value_heads; h++) {
        size_t row = (size_t)(blockIdx.y * N_GROUP + head + h) * a->n_tile + tile;
        *(float2 *)(a->out + row * D + 2 * pair) = make_float2(acc[h][0], acc[h][1]);
        acc[h][0] = acc[h][1] = 0.0f;
    }
}

/* Tiles [run * x, run * (x + 1)) of kv head y. */
template <int D, int TILE>
__global__ void __launch_bounds__(ATTEND_THREADS) attend_tiles(attend_args a)
{
    typedef attend_sizes<D, TILE> z;
    extern __shared__ int4 attend_ring[];
    __shared__ __align__(16) attend_shared<D, TILE> s;
    uint8_t *ring = (uint8_t *)attend_ring;
    int first = blockIdx.x * a.run, last = first + a.run < a.n_tile ? first + a.run : a.n_tile;
    int n_step = (last - first) * 2 * z::n_chunk;
    for (int i = threadIdx.x; i < N_GROUP * D; i += ATTEND_THREADS) {
        s.q[i / D][i % D] = a.q[blockIdx.y * N_GROUP * D + i];
    }
    for (int i = 0; i < ATTEND_RING - 1; i++) {
        if (i < n_step) {
            attend_request<D, TILE>(&a, first, i, ring);
        }
        copy_commit();
    }
    float acc[z::value_heads][2] = {};
    for (int step = 0; step < n_step; step++) {
        copy_wait<ATTEND_RING - 2>();
        __syncthreads();
        if (step + ATTEND_RING - 1 < n_step) {
            attend_request<D, TILE>(&a, first, step + ATTEND_RING - 1, ring);
        }
        copy_commit();
        const uint8_t *now = ring + step % ATTEND_RING * z::bytes;
        int tile = first + step / (2 * z::n_chunk), chunk = step % (2 * z::n_chunk);
        if (chunk < z::n_chunk) {
            attend_scores<D, TILE>(now, a.scale, chunk, &s);
            if (chunk + 1 == z::n_chunk) {
                __syncthreads();
                attend_softmax<D, TILE>(&a, tile, &s);
            }
        } else {
            attend_values<D, TILE>(now, chunk - z::n_chunk, &s, acc);
            if (chunk + 1 == 2 * z::n_chunk) {
                attend_store<D, TILE>(&a, tile, acc);
            }
        }
    }
}

#define FOLD_TILES 128 /* tiles, and threads, of a round */

/* Running maxima of a round of n tiles, then the factors of the running result and of each tile. */
__device__ inline float fold_factors(const float *max, int n, float before, float *running,
                                     float *keep, float *take)
{
    int i = threadIdx.x;
    float own = i < n ? max[i] : before;
    running[i] = fmaxf(before, own);
    for (int stride = 1; stride < FOLD_TILES; stride *= 2) {
        __syncthreads();
        float lower = i >= stride ? running[i - stride] : before;
        __syncthreads();
        running[i] = fmaxf(running[i], lower);
    }
    __syncthreads();
    float now = running[i], last = i ? running[i - 1] : before;
    keep[i] = device_exp(__fadd_rn(last, -now));
    take[i] = device_exp(__fadd_rn(own, -now));
    float after = running[FOLD_TILES - 1];
    __syncthreads();
    return after;
}

/* The left fold over tiles of head y, dimensions 32 x .. 32 x + 31; warp 0 chains. */
template <int D> __global__ void __launch_bounds__(FOLD_TILES) attend_fold(attend_args a, float *y)
{
    __shared__ float running[FOLD_TILES], keep[FOLD_TILES], take[FOLD_TILES], part[FOLD_TILES];
    __shared__ float term[FOLD_TILES][32];
    int lane = threadIdx.x % 32, head = blockIdx.y, d = blockIdx.x * 32 + lane;
    const float *max = a.max + head * a.n_tile, *sum = a.sum + head * a.n_tile;
    const float *out = a.out + (size_t)head * a.n_tile * D + d;
    float most = max[0], L = 0.0f, O = 0.0f;
    for (int start = 0; start < a.n_tile; start += FOLD_TILES) {
        int n = a.n_tile - start < FOLD_TILES ? a.n_tile - start : FOLD_TILES;
        most = fold_factors(max + start, n, most, running, keep, take);
        if (threadIdx.x < n) {
            part[threadIdx.x] = __fmul_rn(sum[start + threadIdx.x], take[threadIdx.x]);
        }
#pragma unroll 8
        for (int i = threadIdx.x / 32; i < n; i += FOLD_TILES / 32) {
            term[i][lane] = __fmul_rn(out[(size_t)(start + i) * D], take[i]);
        }
        __syncthreads();
        if (threadIdx.x < 32) {
#pragma unroll 8
            for (int i = 0; i < n; i++) {
                bool is_first = start + i == 0;
                L = is_first ? part[0] : __fmaf_rn(L, keep[i], part[i]);
                O = is_first ? term[0][lane] : __fmaf_rn(O, keep[i], term[i][lane]);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        y[head * D + d] = __fdiv_rn(O, L);
    }
}

#endif
