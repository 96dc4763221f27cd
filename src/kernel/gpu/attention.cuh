/* attention.cuh - softmax(q k^T * scale) v of up to 16 queries that read one kv head.
 *
 * Definition: kernel/ref/attention.c. The queries of a block are the heads of a group for some rows
 * of the pass that follow each other; keys and values of a tile are read once for all of them. A
 * lane has a position in the chains over head_dim, and a dimension in the chains over positions, as
 * the cache lies. Two ways through the tiles:
 *
 *     whole     a block walks all tiles of its rows and merges as it goes: many rows
 *     split     a block has one tile and writes (m, l, o); the last one of a row's tiles merges
 *               them in order: few rows, many tiles
 *
 * Rows of a block may belong to different sequences: each run of one sequence is walked by itself.
 */
#ifndef GRETA_KERNEL_GPU_ATTENTION_CUH
#define GRETA_KERNEL_GPU_ATTENTION_CUH

#include "kernel/gpu/rows.cuh"

#define ATTEND_THREADS 256
#define ATTEND_WARPS   (ATTEND_THREADS / GPU_WARP)
#define ATTEND_QUERIES 16
#define TILE           ATTENTION_TILE

struct attend_args {
    gpu_attention a;
    int32_t n_group;   /* heads that read one kv head */
    int32_t n_head;    /* of them in a block */
    int32_t n_row;     /* rows in a block */
    int is_staged;     /* a tile's keys and values fit shared memory */
    int32_t n_tile;    /* of the split way: tiles that a row may see */
    float *part;       /* of the split way: (n_token, n_head, n_tile, 2 + head_dim) m, l, o */
    uint32_t *arrived; /* of the split way: (n_token, blocks of y) tiles that are done, 0 before and
                        * after */
};

#define SCORE_PITCH 20 /* floats from a position to the next: 16 queries, on shifting banks */

/* Shared memory: this, queries (head_dim, QUERIES), results (QUERIES, head_dim), and the tile's
 * keys and values as they lie in the cache, if they fit. */
struct __align__(16) attend_state
{
    float score[TILE][SCORE_PITCH];
    float max[ATTEND_QUERIES], sum[ATTEND_QUERIES];   /* running */
    float keep[ATTEND_QUERIES], take[ATTEND_QUERIES]; /* of the tile at hand */
    float tile_max[ATTEND_QUERIES], tile_sum[ATTEND_QUERIES];
    int first[ATTEND_QUERIES], end[ATTEND_QUERIES]; /* visible positions of the tile */
};

struct attend_block {
    float *q, *out;
    uint8_t *tile; /* room for keys and values; NULL: none */
    attend_state *s;
    int64_t row0; /* of the pass */
    int n_query, head0, kv_head, head_dim;
};

__device__ inline int64_t attend_least(const gpu_attention &a, int64_t position)
{
    return a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
}

__device__ inline int64_t query_position(const attend_args &g, const attend_block &b, int i)
{
    return pass_row(g.a.row, b.row0 + i / g.n_head)->position;
}

template <class T> __device__ inline float cache_value(const T *at)
{
    return *at;
}
template <> __device__ inline float cache_value(const uint16_t *at)
{
    return widen_half(*at);
}

/* Block h of tile t of a sequence: head_dim x TILE keys, or TILE x head_dim values. */
template <class T>
__device__ inline const T *tile_at(const gpu_attention &a, const uint8_t *cache, int64_t sequence,
                                   int64_t tile, int kv_head)
{
    int64_t block = tile * a.shape.n_head_kv + kv_head;
    return (const T *)(cache + (size_t)sequence * a.sequence_bytes) +
           block * TILE * a.shape.head_dim;
}

/* ---- One tile -------------------------------------------------------------------------------- */

/* Scores of all queries at all positions of a tile; a thread has one position, N queries. */
template <class T, int N>
__device__ inline void tile_scores(const attend_args &g, const attend_block &b, const T *key)
{
    int p = threadIdx.x % TILE, i0 = threadIdx.x / TILE * N;
    if (i0 >= b.n_query) {
        return;
    }
    float acc[N] = {};
#pragma unroll 8
    for (int d = 0; d < b.head_dim; d++) {
        float k = cache_value(key + d * TILE + p), q[N];
        load_floats<N>(b.q + d * ATTEND_QUERIES + i0, q);
#pragma unroll
        for (int j = 0; j < N; j++) {
            acc[j] = fmaf(q[j], k, acc[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        float score = acc[j] * g.a.scale;
        b.s->score[p][i0 + j] = g.a.softcap > 0 ? elementary_softcap(g.a.softcap, score) : score;
    }
}

/* Maximum, exponentials and row sum of each query's visible positions; a warp has two queries. */
__device__ inline void tile_softmax(const attend_block &b)
{
    attend_state *s = b.s;
    for (int i = warp_id(); i < b.n_query; i += ATTEND_WARPS) {
        int first = s->first[i], end = s->end[i], low = lane_id(), high = low + 32;
        if (first >= end) {
            continue;
        }
        bool has_low = low >= first && low < end, has_high = high >= first && high < end;
        float x = s->score[low][i], y = s->score[high][i];
        float most = has_low && has_high ? max_nan(x, y) : has_low ? x : y;
        bool has = has_low || has_high;
        for (int stride = GPU_WARP / 2; stride > 0; stride /= 2) {
            float other = lane_xor(most, stride);
            bool other_has = lane_xor((int)has, stride);
            most = has && other_has ? max_nan(most, other) : has ? most : other;
            has = has || other_has;
        }
        x = has_low ? elementary_exp(x - most) : 0.0f;
        y = has_high ? elementary_exp(y - most) : 0.0f;
        s->score[low][i] = x;
        s->score[high][i] = y;
        float sum = group_sum(x, y);
        if (lane_id() == 0) {
            s->tile_max[i] = most;
            s->tile_sum[i] = sum;
        }
    }
}

/* The running state takes the tile in: a lane has a query. `is_start`: the tile is its first. */
__device__ inline void tile_factors(const attend_block &b)
{
    attend_state *s = b.s;
    int i = threadIdx.x;
    if (i >= b.n_query || s->first[i] >= s->end[i]) {
        return;
    }
    bool is_start = s->sum[i] < 0.0f;
    float most = is_start ? s->tile_max[i] : max_nan(s->max[i], s->tile_max[i]);
    s->keep[i] = is_start ? -1.0f : elementary_exp(s->max[i] - most);
    s->take[i] = is_start ? -1.0f : elementary_exp(s->tile_max[i] - most);
    float scaled = s->tile_sum[i] * s->take[i];
    s->sum[i] = is_start ? s->tile_sum[i] : fmaf(s->sum[i], s->keep[i], scaled);
    s->max[i] = most;
}

/* Chains over the visible positions of N queries in one dimension. */
template <class T, int N>
__device__ inline void value_chains(const attend_block &b, const T *value, int i0, int d,
                                    float acc[N])
{
    const attend_state *s = b.s;
    int first = TILE, end = 0, whole = 0;
    for (int j = 0; j < N; j++) {
        first = s->first[i0 + j] < first ? s->first[i0 + j] : first;
        end = s->end[i0 + j] > end ? s->end[i0 + j] : end;
        whole += s->first[i0 + j] == 0 && s->end[i0 + j] == TILE;
    }
    if (whole == N) {
#pragma unroll 8
        for (int p = 0; p < TILE; p++) {
            float v = cache_value(value + p * b.head_dim + d), e[N];
            load_floats<N>(&s->score[p][i0], e);
#pragma unroll
            for (int j = 0; j < N; j++) {
                acc[j] = fmaf(e[j], v, acc[j]);
            }
        }
        return;
    }
#pragma unroll 4
    for (int p = first; p < end; p++) {
        float v = cache_value(value + p * b.head_dim + d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            bool sees = p >= s->first[i0 + j] && p < s->end[i0 + j];
            acc[j] = sees ? fmaf(s->score[p][i0 + j], v, acc[j]) : acc[j];
        }
    }
}

/* A thread has one dimension, N queries, in turn. With `merge` the results join the running ones,
 * else they replace them. */
template <class T, int N>
__device__ inline void tile_values(const attend_block &b, const T *value, bool merge)
{
    const attend_state *s = b.s;
    int n_part = (b.n_query + N - 1) / N;
    for (int at = threadIdx.x; at < n_part * b.head_dim; at += ATTEND_THREADS) {
        int d = at % b.head_dim, i0 = at / b.head_dim * N;
        float acc[N] = {};
        value_chains<T, N>(b, value, i0, d, acc);
#pragma unroll
        for (int j = 0; j < N; j++) {
            int i = i0 + j;
            float *out = b.out + i * b.head_dim + d;
            if (i < b.n_query && s->first[i] < s->end[i]) {
                bool joins = merge && !(s->keep[i] < 0.0f);
                float scaled = acc[j] * s->take[i];
                *out = joins ? fmaf(*out, s->keep[i], scaled) : acc[j];
            }
        }
    }
}

/* What each query sees of a tile, and nothing where its row is of another sequence. */
__device__ inline void tile_visible(const attend_args &g, const attend_block &b, int64_t tile,
                                    int sequence)
{
    int i = threadIdx.x;
    if (i < ATTEND_QUERIES) {
        int64_t first = 0, end = 0;
        if (i < b.n_query && pass_row(g.a.row, b.row0 + i / g.n_head)->sequence == sequence) {
            int64_t position = query_position(g, b, i);
            first = attend_least(g.a, position) - tile * TILE;
            end = position + 1 - tile * TILE;
        }
        b.s->first[i] = (int)(first < 0 ? 0 : first < TILE ? first : TILE);
        b.s->end[i] = (int)(end < 0 ? 0 : end < TILE ? end : TILE);
    }
}

/* A tile's keys, or values, into shared memory; where there is no room, where they are. */
template <class T>
__device__ inline const T *tile_bring(const attend_block &b, const T *from, int side)
{
    if (!b.tile) {
        return from;
    }
    int n = TILE * b.head_dim * (int)sizeof(T) / 16;
    int4 *to = (int4 *)b.tile + side * n;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += ATTEND_THREADS) {
        to[i] = ((const int4 *)from)[i];
    }
    return (const T *)to;
}

template <class T>
__device__ inline void tile_attend(const attend_args &g, const attend_block &b, int64_t tile,
                                   int sequence, bool merge)
{
    const T *key = tile_at<T>(g.a, g.a.k, sequence + g.a.k_shift, tile, b.kv_head);
    const T *value = tile_at<T>(g.a, g.a.v, sequence + g.a.v_shift, tile, b.kv_head);
    bool is_few = b.n_query <= ATTEND_THREADS / TILE; /* a thread for each query and position */
    key = tile_bring(b, key, 0);
    value = tile_bring(b, value, 1);
    tile_visible(g, b, tile, sequence);
    __syncthreads();
    if (is_few) {
        tile_scores<T, 1>(g, b, key);
    } else {
        tile_scores<T, 4>(g, b, key);
    }
    __syncthreads();
    tile_softmax(b);
    __syncthreads();
    if (merge) {
        tile_factors(b);
        __syncthreads();
    }
    if (is_few) {
        tile_values<T, 1>(b, value, merge);
    } else {
        tile_values<T, 4>(b, value, merge);
    }
    __syncthreads();
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* blockIdx.y counts (kv head, part of its group). */
__device__ inline attend_block block_of(const attend_args &g, uint8_t *shared)
{
    attend_block b;
    int parts = (g.n_group + g.n_head - 1) / g.n_head, part = blockIdx.y % parts;
    int64_t left = g.a.n_token - (int64_t)blockIdx.x * g.n_row;
    int n_head = g.n_group - part * g.n_head < g.n_head ? g.n_group - part * g.n_head : g.n_head;
    b.head_dim = g.a.shape.head_dim;
    b.s = (attend_state *)shared;
    b.q = (float *)(b.s + 1);
    b.out = b.q + ATTEND_QUERIES * b.head_dim;
    b.tile = g.is_staged ? (uint8_t *)(b.out + ATTEND_QUERIES * b.head_dim) : NULL;
    b.row0 = (int64_t)blockIdx.x * g.n_row;
    b.n_query = (int)(left < g.n_row ? left : g.n_row) * g.n_head;
    b.kv_head = blockIdx.y / parts;
    b.head0 = b.kv_head * g.n_group + part * g.n_head;
    if (n_head < g.n_head) { /* the last part of a group that n_head does not divide: one row */
        b.n_query = n_head;
    }
    for (int at = threadIdx.x; at < ATTEND_QUERIES * b.head_dim; at += ATTEND_THREADS) {
        int i = at / b.head_dim, d = at % b.head_dim;
        const float *q = floats_at(g.a.q, b.row0 + (i < b.n_query ? i / g.n_head : 0));
        b.q[d * ATTEND_QUERIES + i] =
            i < b.n_query ? q[(b.head0 + i % g.n_head) * b.head_dim + d] : 0.0f;
    }
    if (threadIdx.x < ATTEND_QUERIES) {
        b.s->sum[threadIdx.x] = -1.0f;
    }
    __syncthreads();
    return b;
}

/* Rows [row, end) of the block are the run of one sequence that begins at `row`. */
__device__ inline int64_t run_end(const attend_args &g, const attend_block &b, int64_t row)
{
    int64_t last = b.row0 + (b.n_query + g.n_head - 1) / g.n_head, end = row + 1;
    int sequence = pass_row(g.a.row, row)->sequence;
    while (end < last && pass_row(g.a.row, end)->sequence == sequence) {
        end++;
    }
    return end;
}

/* Value i of a row. Where it is quantised, a warp has 32 of a head: head_dim is a multiple. */
__device__ inline void attend_out(const attend_args &g, int64_t token, int64_t i, float value)
{
    floats_at(g.a.y, token)[i] = value;
    if (g.a.q8.base) {
        int64_t k = (int64_t)g.a.n_head * g.a.shape.head_dim;
        quantize_block(value, row_at(g.a.q8, token), k, i / UNIT);
    }
}

/* Asks for a tile of the row's sequence while the kernel before is at work. */
template <class T>
__device__ inline void attend_ask(const attend_args &g, const gpu_row *row, int64_t tile)
{
    int parts = (g.n_group + g.n_head - 1) / g.n_head, kv_head = blockIdx.y / parts;
    int64_t bytes = (int64_t)TILE * g.a.shape.head_dim * (int64_t)sizeof(T);
    ask_ahead(tile_at<T>(g.a, g.a.k, row->sequence + g.a.k_shift, tile, kv_head), bytes);
    ask_ahead(tile_at<T>(g.a, g.a.v, row->sequence + g.a.v_shift, tile, kv_head), bytes);
}

template <class T> __global__ void __launch_bounds__(ATTEND_THREADS) attend_whole(attend_args g)
{
    GPU_SHARED(raw);
    let_next();
    const gpu_row *start = pass_row(g.a.row, (int64_t)blockIdx.x * g.n_row);
    attend_ask<T>(g, start, attend_least(g.a, start->position) / TILE);
    after_last();
    attend_block b = block_of(g, raw);
    int64_t n_row = (b.n_query + g.n_head - 1) / g.n_head;
    for (int64_t row = b.row0, end; row < b.row0 + n_row; row = end) {
        end = run_end(g, b, row);
        const gpu_row *low = pass_row(g.a.row, row), *high = pass_row(g.a.row, end - 1);
        int64_t tile = attend_least(g.a, low->position) / TILE;
        for (; tile * TILE <= high->position; tile++) {
            tile_attend<T>(g, b, tile, low->sequence, true);
        }
    }
    for (int at = threadIdx.x; at < b.n_query * b.head_dim; at += ATTEND_THREADS) {
        int i = at / b.head_dim, d = at % b.head_dim;
        attend_out(g, b.row0 + i / g.n_head, (b.head0 + i % g.n_head) * b.head_dim + d,
                   b.out[at] / b.s->sum[i]);
    }
}

__device__ inline float *part_at(const attend_args &g, int64_t token, int64_t head, int64_t tile)
{
    int64_t at = (token * g.a.n_head + head) * g.n_tile + tile;
    return g.part + at * (2 + g.a.shape.head_dim);
}

/* ---- Merging tiles --------------------------------------------------------------------------- */

/* The maximum of some tiles: which order they are compared in does not matter. has: there is any.
 */
struct fold_max {
    float value;
    bool has;
};

__device__ inline fold_max larger(fold_max a, fold_max b)
{
    return {a.has && b.has ? max_nan(a.value, b.value) : a.has ? a.value : b.value, a.has || b.has};
}

/* A lane's tile joins the running state as fma(state, keep, taken * take). */
struct fold_weight {
    float keep, take, sum; /* sum: of the tile, times take */
};

/* Weighs the n tiles from `part` on, one a lane; `before` becomes the maximum of all so far. */
__device__ inline fold_weight fold_weigh(const float *part, int64_t pitch, int n, fold_max *before)
{
    const float *mine = part + (lane_id() < n ? lane_id() : n - 1) * pitch; /* again: no change */
    float most = fresh(mine), sum = fresh(mine + 1);
    fold_max with = {most, true};
    for (int by = 1; by < GPU_WARP; by *= 2) {
        fold_max other = {lane_from(with.value, lane_id() < by ? lane_id() : lane_id() - by), true};
        with = lane_id() < by ? with : larger(other, with);
    }
    fold_max left = {lane_from(with.value, lane_id() > 0 ? lane_id() - 1 : 0), lane_id() > 0};
    fold_max without = larger(*before, left);
    with = larger(*before, with);
    *before = {lane_from(with.value, GPU_WARP - 1), true};
    fold_weight w = {0.0f, 1.0f, sum};
    if (without.has) {
        w.keep = elementary_exp(without.value - with.value);
        w.take = elementary_exp(most - with.value);
        w.sum = sum * w.take;
    }
    return w;
}

/* Dimensions d0 .. d0 + 31 of a head, one a lane. What depends on the tiles before is a maximum,
 * which 32 tiles find at once; only two fma are in a row. */
__device__ inline void fold_slice(const attend_args &g, int64_t token, int64_t head, int d0,
                                  int n_tile)
{
    int head_dim = g.a.shape.head_dim, d = d0 + lane_id();
    int64_t pitch = 2 + head_dim;
    const float *part = part_at(g, token, head, 0);
    const float *value = part + 2 + (d < head_dim ? d : head_dim - 1);
    float sum = 0.0f, out = 0.0f;
    fold_max most = {0.0f, false};
    for (int first = 0; first < n_tile; first += GPU_WARP) {
        int n = n_tile - first < GPU_WARP ? n_tile - first : GPU_WARP;
        fold_weight w = fold_weigh(part + first * pitch, pitch, n, &most);
#pragma unroll 8
        for (int t = 0; t < n; t++) {
            float keep = lane_from(w.keep, t), take = lane_from(w.take, t);
            float taken = lane_from(w.sum, t), v = fresh(value + (first + t) * pitch);
            bool is_start = first + t == 0;
            sum = is_start ? taken : fmaf(sum, keep, taken);
            out = is_start ? v : fmaf(out, keep, v * take);
        }
    }
    if (d < head_dim) {
        attend_out(g, token, head * head_dim + d, out / sum);
    }
}

/* The heads of a block: a warp has 32 dimensions of one at a time. */
__device__ inline void fold_heads(const attend_args &g, const attend_block &b, int n_tile)
{
    int n_slice = (b.head_dim + GPU_WARP - 1) / GPU_WARP;
    for (int at = warp_id(); at < b.n_query * n_slice; at += ATTEND_WARPS) {
        fold_slice(g, b.row0, b.head0 + at / n_slice, at % n_slice * GPU_WARP, n_tile);
    }
}

/* blockIdx.z is a tile of the row, from its first visible one. One row a block. */
template <class T> __global__ void __launch_bounds__(ATTEND_THREADS) attend_split(attend_args g)
{
    GPU_SHARED(raw);
    let_next();
    const gpu_row *row = pass_row(g.a.row, (int64_t)blockIdx.x);
    int64_t first = attend_least(g.a, row->position) / TILE, tile = first + blockIdx.z;
    if (tile * TILE > row->position) {
        return;
    }
    attend_ask<T>(g, row, tile);
    after_last();
    attend_block b = block_of(g, raw);
    tile_attend<T>(g, b, tile, row->sequence, false);
    for (int at = threadIdx.x; at < b.n_query * b.head_dim; at += ATTEND_THREADS) {
        int i = at / b.head_dim, d = at % b.head_dim;
        float *part = part_at(g, b.row0, b.head0 + i, blockIdx.z);
        part[2 + d] = b.out[at];
        if (d == 0) {
            part[0] = b.s->tile_max[i];
            part[1] = b.s->tile_sum[i];
        }
    }
    int n_tile = (int)(row->position / TILE - first + 1);
    if (arrives_last(&g.arrived[blockIdx.x * gridDim.y + blockIdx.y], (uint32_t)n_tile)) {
        fold_heads(g, b, n_tile);
    }
}

#endif
