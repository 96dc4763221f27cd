/* launch.cuh - which kernel an op becomes, with what grid. Host code. */
#ifndef GRETA_KERNEL_GPU_LAUNCH_CUH
#define GRETA_KERNEL_GPU_LAUNCH_CUH

#include "kernel/gpu/attention.cuh"
#include "kernel/gpu/experts.cuh"
#include "kernel/gpu/gemm.cuh"
#include "kernel/gpu/repack.cuh"
#include "kernel/gpu/stats.cuh"

#define GRID_Y_MAX  65535 /* blocks in y, and in z, of both vendors */
#define FEW_WARPS   8     /* of a multiprocessor, of four rows each: then two rows each */
#define ARRIVED_MAX 4096
#define FLAT        256 /* threads of kernels that have a value each */

struct gpu_device {
    int number;
    int n_processor;
    GPU(Stream_t) stream;
    bool can_overlap;   /* kernels, at their edges: after_last */
    bool overlaps;      /* those of the op at hand */
    GPU(Error_t) first; /* error; success: none yet */
    uint8_t *staging;   /* device memory for rows as the file has them */
    uint8_t *host_staging;
    size_t staging_half; /* bytes of a half of either */
    float *scratch;      /* partial results of attention, group sums of statistics */
    size_t scratch_bytes;
    uint32_t *arrived; /* (ARRIVED_MAX) counters of arrives_last, all 0 between kernels */
};

static inline void keep_error(gpu_device *d, GPU(Error_t) e)
{
    if (d->first == GPU(Success)) {
        d->first = e;
    }
}

static inline void keep_launch(gpu_device *d)
{
    keep_error(d, GPU(GetLastError)());
}

/* What follows goes to this device. */
static inline void device_take(const gpu_device *d)
{
    (void)GPU(SetDevice)(d->number);
}

/* Overlapping pays where kernels are short and wait for each other: on an H100 decode is 1.00 to
 * 1.16 times faster so, but a batch of 32 1.16 to 1.24 times slower. */
#define OVERLAP_TOKENS 8

static inline void op_begin(gpu_device *d, int64_t n_token)
{
    device_take(d);
    d->overlaps = d->can_overlap && n_token <= OVERLAP_TOKENS;
}

static inline unsigned blocks(int64_t n, int64_t per)
{
    return (unsigned)((n + per - 1) / per);
}

static inline gpu_rows rows_from(gpu_rows r, int64_t t)
{
    if (r.index) {
        r.index += t;
    } else if (r.base) {
        r.base += t * r.stride;
    }
    return r;
}

/* More shared memory than a kernel may have unasked. */
template <class K> static void allow_shared(gpu_device *d, K kernel, size_t bytes)
{
    if (bytes > 48 * 1024) {
        keep_error(d,
                   GPU(FuncSetAttribute)((const void *)kernel,
                                         GPU(FuncAttributeMaxDynamicSharedMemorySize), (int)bytes));
    }
}

/* ---- Products -------------------------------------------------------------------------------- */

/* Blocks of x of all products, `rows` rows to a block. */
static unsigned product_blocks(matvec_args *a, int64_t rows)
{
    unsigned n = blocks(a->m.n_out, rows);
    for (int i = 0; i < GPU_MATMUL_MAX - 1; i++) {
        bool is_there = a->other[i].n_out > 0;
        a->other_first[i] = is_there ? n : UINT32_MAX;
        n += is_there ? blocks(a->other[i].n_out, rows) : 0;
    }
    return n;
}

static int64_t rows_of_products(const matvec_args &a)
{
    int64_t n = a.m.n_out;
    for (int i = 0; i < GPU_MATMUL_MAX - 1; i++) {
        n += a.other[i].n_out;
    }
    return n;
}

template <int TYPE, int ROWS, int TOKENS>
static void launch_units(gpu_device *d, matvec_args a, int n_rank)
{
    int64_t rows = MATVEC_WARPS / a.n_warp * ROWS;
    dim3 grid(product_blocks(&a, rows), blocks(a.m.n_token, TOKENS), n_rank);
    GPU_LAUNCH((matvec_units<TYPE, ROWS, TOKENS>), grid, MATVEC_THREADS, 0, d, a);
    keep_launch(d);
}

/* Few rows to a block where there are few in all, so that every multiprocessor has some; threads
 * for all segments, up to a limit. */
template <int TYPE, int TOKENS, int ROWS>
static void launch_floats_by(gpu_device *d, matvec_args a, int n_rank)
{
    dim3 grid(product_blocks(&a, ROWS), blocks(a.m.n_token, TOKENS), n_rank);
    int64_t threads = (a.m.w.weight.k + SEGMENT_FLOAT - 1) / SEGMENT_FLOAT * ROWS;
    threads = (threads + GPU_WARP - 1) / GPU_WARP * GPU_WARP;
    threads = threads < FLOAT_THREADS ? threads : FLOAT_THREADS;
    GPU_LAUNCH((matvec_floats<TYPE, TOKENS, ROWS>), grid, (unsigned)threads, 0, d, a);
    keep_launch(d);
}

template <int TYPE, int TOKENS>
static void launch_floats(gpu_device *d, const matvec_args &a, int n_rank)
{
    int64_t n = rows_of_products(a) * (int64_t)blocks(a.m.n_token, TOKENS) * n_rank;
    if (n < (int64_t)64 * d->n_processor) {
        launch_floats_by<TYPE, TOKENS, 8>(d, a, n_rank);
    } else {
        launch_floats_by<TYPE, TOKENS, TILE_ROWS>(d, a, n_rank);
    }
}

template <int TYPE, int NT> static void launch_gemm(gpu_device *d, matvec_args a)
{
    size_t bytes = sizeof(gemm_shared<TYPE, NT>);
    allow_shared(d, gemm_units<TYPE, NT>, bytes);
    dim3 grid(product_blocks(&a, GEMM_ROWS), blocks(a.m.n_token, gemm_shape<NT>::tokens));
    GPU_LAUNCH((gemm_units<TYPE, NT>), grid, GEMM_THREADS, bytes, d, a);
    keep_launch(d);
}

/* So many that each has a chunk of a row or two. */
static int32_t warps_of_row(int64_t k)
{
    int64_t n_chunk = (k + CHUNK * SEGMENT - 1) / (CHUNK * SEGMENT);
    return n_chunk >= 4 ? 4 : n_chunk >= 2 ? 2 : 1;
}

template <int TYPE> static void launch_quantised(gpu_device *d, matvec_args a, int n_rank)
{
    a.n_warp = warps_of_row(a.m.w.weight.k);
    if (a.expert || a.m.n_token == 1) {
        int64_t n_row = rows_of_products(a) * n_rank * (a.expert ? a.m.n_token : 1);
        if (n_row * a.n_warp < (int64_t)FEW_WARPS * 4 * d->n_processor) {
            launch_units<TYPE, 2, 1>(d, a, n_rank);
        } else {
            launch_units<TYPE, 4, 1>(d, a, n_rank);
        }
    } else if (a.m.n_token == 2) {
        launch_units<TYPE, 2, 2>(d, a, 1);
    } else if (a.m.n_token <= 4) {
        launch_units<TYPE, 1, 4>(d, a, 1);
    } else if (a.m.n_token <= 8) {
        launch_units<TYPE, 1, 8>(d, a, 1);
    } else if (a.m.n_token <= gemm_shape<1>::tokens) {
        launch_gemm<TYPE, 1>(d, a);
    } else if (a.m.n_token <= gemm_shape<2>::tokens ||
               blocks(rows_of_products(a), GEMM_ROWS) *
                       (int64_t)blocks(a.m.n_token, gemm_shape<4>::tokens) <
                   2 * d->n_processor) {
        launch_gemm<TYPE, 2>(d, a);
    } else {
        launch_gemm<TYPE, 4>(d, a);
    }
}

template <int TYPE> static void launch_float(gpu_device *d, const matvec_args &a, int n_rank)
{
    if (a.expert || a.m.n_token == 1) {
        launch_floats<TYPE, 1>(d, a, n_rank);
    } else if (a.m.n_token <= 8) {
        launch_floats<TYPE, 4>(d, a, 1);
    } else {
        allow_shared(d, gemm_floats<TYPE>, sizeof(float_shared));
        matvec_args all = a;
        dim3 grid(product_blocks(&all, GEMM_ROWS), blocks(a.m.n_token, GEMM_ROWS));
        GPU_LAUNCH(gemm_floats<TYPE>, grid, TILE_THREADS, sizeof(float_shared), d, all);
        keep_launch(d);
    }
}

static void product_run(gpu_device *d, const matvec_args &a, int n_rank)
{
#define CASE_QUANTISED(type)                                                                       \
    case type:                                                                                     \
        if (a.m.x_is_q8) {                                                                         \
            launch_quantised<type>(d, a, n_rank);                                                  \
        } else {                                                                                   \
            launch_float<type>(d, a, n_rank);                                                      \
        }                                                                                          \
        break;
#define CASE_FLOAT(type)                                                                           \
    case type:                                                                                     \
        launch_float<type>(d, a, n_rank);                                                          \
        break;
    FOR_QUANTISED(a.m.w.weight.type, CASE_QUANTISED)
    FOR_FLOAT(a.m.w.weight.type, CASE_FLOAT)
#undef CASE_QUANTISED
#undef CASE_FLOAT
}

/* Tokens [t, t + n). */
static gpu_matmul matmul_part(const gpu_matmul &m, int64_t t, int64_t n)
{
    gpu_matmul part = m;
    part.x = rows_from(m.x, t);
    part.y = rows_from(m.y, t);
    part.n_token = n;
    return part;
}

/* One kernel serves products of matrices of one type. Grids have a limit in y: many tokens go in
 * parts. */
static void matmul_run(gpu_device *d, const gpu_matmul *m, int32_t n)
{
    op_begin(d, m->n_token);
    int32_t some = 1;
    while (some < n && some < GPU_MATMUL_MAX && m[some].w.weight.type == m->w.weight.type) {
        some++;
    }
    for (int64_t t = 0; t < m->n_token; t += GRID_Y_MAX) {
        int64_t n_token = m->n_token - t < GRID_Y_MAX ? m->n_token - t : GRID_Y_MAX;
        matvec_args a = {};
        a.m = matmul_part(m[0], t, n_token);
        for (int32_t i = 1; i < some; i++) {
            a.other[i - 1] = matmul_part(m[i], t, n_token);
        }
        product_run(d, a, 1);
    }
    if (some < n) {
        matmul_run(d, m + some, n - some);
    }
}

static void expert_matmul_run(gpu_device *d, const gpu_expert_matmul *e)
{
    op_begin(d, e->n_token);
    for (int64_t t = 0; t < e->n_token; t += GRID_Y_MAX) {
        matvec_args a = {};
        a.m.w.weight = e->shape;
        a.m.x = rows_from(e->x, t);
        a.m.y = rows_from(e->y, t);
        a.m.n_token = e->n_token - t < GRID_Y_MAX ? e->n_token - t : GRID_Y_MAX;
        a.m.n_out = e->n_out;
        a.m.x_is_q8 = e->x_is_q8;
        a.expert = e->expert;
        a.ids = rows_from(e->ids, t);
        a.n_used = e->n_used;
        a.x_is_ranked = e->x_is_ranked;
        product_run(d, a, e->n_used);
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

#define STAGED_MOST (112 * 1024) /* two blocks of a multiprocessor */

static size_t attend_bytes(const gpu_attention &a, bool is_staged)
{
    size_t n = (size_t)a.shape.head_dim, tile = 2 * TILE * n * kv_value_bytes(&a.shape);
    return sizeof(attend_state) + 2 * ATTEND_QUERIES * n * sizeof(float) + (is_staged ? tile : 0);
}

static size_t part_bytes(int64_t n_tile, int n_head, int head_dim)
{
    return (size_t)n_tile * (size_t)n_head * (size_t)(2 + head_dim) * sizeof(float);
}

/* Tiles that a row may see, wherever it stands. */
static int64_t tiles_seen(int64_t n_position, int64_t window)
{
    int64_t all = (n_position + TILE - 1) / TILE, of_window = window / TILE + 2;
    return window > 0 && of_window < all ? of_window : all;
}

template <class T> static void attend_launch(gpu_device *d, attend_args g)
{
    g.is_staged = attend_bytes(g.a, true) <= STAGED_MOST && g.a.shape.head_dim % 8 == 0;
    size_t bytes = attend_bytes(g.a, g.is_staged);
    unsigned parts = blocks(g.n_group, g.n_head) * (unsigned)g.a.shape.n_head_kv;
    size_t row_bytes = part_bytes(g.n_tile, g.a.n_head, g.a.shape.head_dim);
    bool is_split = g.n_tile > 1 && g.n_tile <= GRID_Y_MAX &&
                    (size_t)g.a.n_token * row_bytes <= d->scratch_bytes;
    int64_t n_row = (int64_t)parts * g.a.n_token;
    if (is_split && n_row < 2 * d->n_processor && n_row <= ARRIVED_MAX) {
        allow_shared(d, attend_split<T>, bytes);
        g.n_row = 1;
        g.part = d->scratch;
        g.arrived = d->arrived;
        GPU_LAUNCH(attend_split<T>, dim3((unsigned)g.a.n_token, parts, (unsigned)g.n_tile),
                   ATTEND_THREADS, bytes, d, g);
    } else {
        allow_shared(d, attend_whole<T>, bytes);
        GPU_LAUNCH(attend_whole<T>, dim3(blocks(g.a.n_token, g.n_row), parts), ATTEND_THREADS,
                   bytes, d, g);
    }
    keep_launch(d);
}

static void attention_run(gpu_device *d, const gpu_attention *a)
{
    op_begin(d, a->n_token);
    attend_args g = {};
    g.a = *a;
    g.n_group = a->n_head / a->shape.n_head_kv;
    g.n_head = g.n_group < ATTEND_QUERIES ? g.n_group : ATTEND_QUERIES;
    g.n_row = ATTEND_QUERIES / g.n_head;
    g.n_tile = (int32_t)tiles_seen(a->n_position, a->window);
    if (a->shape.type == DTYPE_F32) {
        attend_launch<float>(d, g);
    } else {
        attend_launch<uint16_t>(d, g);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Calls f(first token, tokens) for parts that fit a grid's y. */
template <class F> static void for_tokens(gpu_device *d, int64_t n_token, F f)
{
    for (int64_t t = 0; t < n_token; t += GRID_Y_MAX) {
        f(t, (unsigned)(n_token - t < GRID_Y_MAX ? n_token - t : GRID_Y_MAX));
        keep_launch(d);
    }
}

static void embed_run(gpu_device *d, const gpu_embed *a)
{
    op_begin(d, a->n_token);
    int64_t k = a->w.weight.k;
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_embed e = *a;
        e.token = rows_from(a->token, t);
        e.y = rows_from(a->y, t);
#define CASE_UNITS(type)                                                                           \
    case type:                                                                                     \
        GPU_LAUNCH(embed_units<type>, dim3(blocks(k / UNIT, 64), n), 64, 0, d, e);                 \
        break;
#define CASE_VECTORS(type)                                                                         \
    case type:                                                                                     \
        GPU_LAUNCH(embed_floats<type>, dim3(blocks(float_vectors(type, k), FLAT), n), FLAT, 0, d,  \
                   e);                                                                             \
        break;
        FOR_QUANTISED(a->w.weight.type, CASE_UNITS)
        FOR_FLOAT(a->w.weight.type, CASE_VECTORS)
#undef CASE_UNITS
#undef CASE_VECTORS
    });
}

static void norm_run(gpu_device *d, const gpu_norm *a)
{
    op_begin(d, a->n_token);
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_norm e = *a;
        e.x = rows_from(a->x, t);
        e.y = rows_from(a->y, t);
        e.a = rows_from(a->a, t);
        e.b = rows_from(a->b, t);
        e.q8 = rows_from(a->q8, t);
        e.inv_rms = a->inv_rms ? a->inv_rms + t : NULL;
        dim3 grid((unsigned)a->n_head, n);
        unsigned groups = blocks(a->n, 64), threads = groups * GPU_WARP;
        threads = threads < NORM_THREADS ? threads : NORM_THREADS;
        if (groups <= NORM_THREADS / GPU_WARP) {
            GPU_LAUNCH(norm_held<1>, grid, threads, 0, d, e);
        } else if (groups <= NORM_HELD * NORM_THREADS / GPU_WARP) {
            GPU_LAUNCH(norm_held<NORM_HELD>, grid, threads, 0, d, e);
        } else {
            GPU_LAUNCH(norm_rows, grid, threads, 0, d, e);
        }
    });
}

static void quantize_run(gpu_device *d, const gpu_quantize *a)
{
    op_begin(d, a->n_token);
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_quantize e = *a;
        e.x = rows_from(a->x, t);
        e.y = rows_from(a->y, t);
        dim3 grid(blocks(a->k / UNIT, QUANTIZE_THREADS / GPU_WARP), n);
        GPU_LAUNCH(quantize_rows, grid, QUANTIZE_THREADS, 0, d, e);
    });
}

static void rope_run(gpu_device *d, const gpu_rope *a, int32_t n)
{
    op_begin(d, a->n_token);
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n_token) {
        turns all = {};
        unsigned n_block = 0;
        for (all.n = 0; all.n < n; all.n++) {
            gpu_rope *e = &all.of[all.n];
            *e = a[all.n];
            e->x = rows_from(e->x, t);
            e->y = rows_from(e->y, t);
            e->row = rows_from(e->row, t);
            all.first[all.n] = n_block;
            n_block += blocks((int64_t)e->n_head * (e->head_dim - e->rope_dim / 2), FLAT);
        }
        GPU_LAUNCH(rope_rows, dim3(n_block, n_token), FLAT, 0, d, all);
    });
}

static void kv_load_run(gpu_device *d, const gpu_kv_load *a)
{
    op_begin(d, a->n_token);
    int64_t per_token = (int64_t)a->cache.shape.n_head_kv * a->cache.shape.head_dim;
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_kv_load e = *a;
        e.row = rows_from(a->row, t);
        e.y = rows_from(a->y, t);
        GPU_LAUNCH(kv_load_rows, dim3(blocks(per_token, FLAT), n), FLAT, 0, d, e);
    });
}

static void columns_run(gpu_device *d, const gpu_columns *a)
{
    op_begin(d, a->n_token);
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_columns e = *a;
        e.a = rows_from(a->a, t);
        e.b = rows_from(a->b, t);
        e.y = rows_from(a->y, t);
        e.q8 = rows_from(a->q8, t);
        GPU_LAUNCH(column_rows, dim3(blocks(a->n, FLAT), n), FLAT, 0, d, e);
    });
}

static void top_k_run(gpu_device *d, const gpu_top_k *a)
{
    op_begin(d, a->n_token);
    GPU_LAUNCH(top_k_rows, (unsigned)a->n_token, GPU_WARP, 0, d, *a);
    keep_launch(d);
}

static void expert_weights_run(gpu_device *d, const gpu_expert_weights *a)
{
    op_begin(d, a->n_token);
    GPU_LAUNCH(expert_weights_rows, (unsigned)a->n_token, GPU_WARP, 0, d, *a);
    keep_launch(d);
}

static void expert_sum_run(gpu_device *d, const gpu_expert_sum *a)
{
    op_begin(d, a->n_token);
    for_tokens(d, a->n_token, [&](int64_t t, unsigned n) {
        gpu_expert_sum e = *a;
        e.weight = rows_from(a->weight, t);
        e.x = rows_from(a->x, t);
        e.y = rows_from(a->y, t);
        GPU_LAUNCH(expert_sum_rows, dim3(blocks(a->n, FLAT), n), FLAT, 0, d, e);
    });
}

static void argmax_run(gpu_device *d, const gpu_argmax *a)
{
    op_begin(d, a->n_token);
    GPU_LAUNCH(argmax_rows, (unsigned)a->n_token, STATS_THREADS, 0, d, *a);
    keep_launch(d);
}

/* ---- Statistics ------------------------------------------------------------------------------ */

/* Rows of an op are looked at in parts if they are so few, or so long. */
#define WHOLE_ROWS   16
#define WHOLE_VALUES 16384

static void stats_whole_launch(gpu_device *d, stats_args *s)
{
    if (s->n > 0) {
        GPU_LAUNCH(stats_whole, blocks(s->first_row[s->n], STATS_WARPS), STATS_THREADS, 0, d, *s);
        keep_launch(d);
    }
    *s = {};
}

static void stats_parts_launch(gpu_device *d, stats_args *s)
{
    if (s->n > 0) {
        s->part = (look *)(void *)d->scratch;
        s->group = (float *)(void *)(s->part + s->first_part[s->n]);
        s->arrived = d->arrived;
        GPU_LAUNCH(stats_parts, s->first_part[s->n], STATS_THREADS, 0, d, *s);
        keep_launch(d);
    }
    *s = {};
}

/* Adds rows [t, t + n) of an op. */
static void stats_add(stats_args *s, const gpu_stats *a, int64_t t, int64_t n)
{
    gpu_stats *e = &s->of[s->n];
    *e = *a;
    e->x = rows_from(a->x, t);
    e->stats = a->stats + t;
    e->n_token = n;
    s->first_row[s->n + 1] = s->first_row[s->n] + (uint32_t)n;
    s->first_part[s->n + 1] = s->first_part[s->n] + (uint32_t)(n * parts_of(a->n));
    s->first_group[s->n + 1] = s->first_group[s->n] + (uint32_t)(n * groups_of(a->n));
    s->n++;
}

/* As many rows of an op from `t` on as the scratch has place for beside what is there; 0: none. */
static int64_t stats_room(const gpu_device *d, const stats_args *s, const gpu_stats *a, int64_t t)
{
    size_t row = (size_t)parts_of(a->n) * sizeof(look) + (size_t)groups_of(a->n) * sizeof(float);
    size_t used = s->first_part[s->n] * sizeof(look) + s->first_group[s->n] * sizeof(float);
    int64_t room = s->n == STATS_OPS ? 0 : (int64_t)((d->scratch_bytes - used) / row);
    int64_t counters = ARRIVED_MAX - (int64_t)s->first_row[s->n], left = a->n_token - t;
    room = room < counters ? room : counters;
    return room < left ? room : left;
}

static void stats_run(gpu_device *d, const gpu_stats *a, int32_t n)
{
    stats_args whole = {}, parts = {};
    op_begin(d, n > 0 ? a[0].n_token : 0);
    for (int32_t i = 0; i < n; i++) {
        if (a[i].n_token > WHOLE_ROWS && a[i].n <= WHOLE_VALUES) {
            if (whole.n == STATS_OPS) {
                stats_whole_launch(d, &whole);
            }
            stats_add(&whole, &a[i], 0, a[i].n_token);
            continue;
        }
        for (int64_t t = 0, some; t < a[i].n_token; t += some) {
            some = stats_room(d, &parts, &a[i], t);
            if (some == 0) {
                stats_parts_launch(d, &parts);
                some = stats_room(d, &parts, &a[i], t);
            }
            stats_add(&parts, &a[i], t, some);
        }
    }
    stats_whole_launch(d, &whole);
    stats_parts_launch(d, &parts);
}

#endif
