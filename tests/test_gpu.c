/* test_gpu.c - the ops of a GPU plugin on rows against the definition, bit for bit, on hostile
 * operands; those that multiply by matrices are in test_gpu_products.c.
 *
 * Each trial uploads its operands, runs one call on all rows, and compares what comes back as
 * integers, one NaN, with `ref` called row by row. Outputs are poisoned before, and what an op must
 * not write is compared as well.
 */
#include <math.h>

#include "gpu_rig.h"

/* ---- Rows ------------------------------------------------------------------------------------ */

static both quantised_rows(const both *y, int64_t n, int is_wanted)
{
    int64_t stride = ((int64_t)act_q8_bytes(n) + 63) / 64 * 64;
    if (!is_wanted || n % ACT_BLOCK != 0) {
        return (both){0};
    }
    uint8_t *rows = filled((size_t)(y->n_row * stride));
    for (int64_t t = 0; t < y->n_row; t++) {
        ref->quantize((float *)(void *)(y->host + t * y->rows.stride), rows + t * stride, n, 0, n);
    }
    return (both){rows, {up(NULL, (size_t)(y->n_row * stride)), stride, NULL}, y->n_row};
}

/* By itself, or with the sum before it and the quantiser behind. */
static void norm_trial(int64_t n, int64_t n_head, data_kind kind, int is_chain)
{
    enum { TOKENS = 3 };
    int64_t width = n * n_head;
    float *weight = numbers_new(n, DATA_RANDOM), *inv = filled(4 * TOKENS);
    both a = rows_up(numbers_new(TOKENS * width, kind), TOKENS, 4 * width);
    both b = rows_up(numbers_new(TOKENS * width, kind), TOKENS, 4 * width);
    both x = rows_up(numbers_new(TOKENS * width, kind), TOKENS, 4 * width);
    for (int64_t t = 0; t < TOKENS && is_chain; t++) {
        ref->add((float *)(void *)a.host + t * n, (float *)(void *)b.host + t * n,
                 (float *)(void *)x.host + t * n, n);
    }
    both y = rows_up(filled((size_t)(TOKENS * 4 * width)), TOKENS, 4 * width);
    both inv_rows = rows_up(inv, 1, 4 * TOKENS);
    for (int64_t t = 0; t < TOKENS; t++) {
        for (int64_t h = 0; h < n_head; h++) {
            int64_t at = t * width + h * n;
            norm_args r = {(float *)(void *)x.host + at,
                           weight,
                           (float *)(void *)y.host + at,
                           n,
                           n + 1,
                           1e-5f,
                           0};
            ref->rms_norm(&r);
            if (h == 0) {
                inv[t] = r.inv_rms;
            }
        }
    }
    both q8 = quantised_rows(&y, n, is_chain);
    gpu_norm c = {.x = x.rows,
                  .y = y.rows,
                  .a = is_chain ? a.rows : (gpu_rows){0},
                  .b = is_chain ? b.rows : (gpu_rows){0},
                  .q8 = q8.rows,
                  .weight = (float *)(void *)up(weight, 4 * (size_t)n),
                  .n_token = TOKENS,
                  .n_head = n_head,
                  .n = n,
                  .count = n + 1,
                  .eps = 1e-5f,
                  .inv_rms = (float *)(void *)inv_rows.rows.base};
    gpu->rms_norm(device, &c);
    compare("sum", &x);
    compare("norm", &y);
    compare("inv_rms", &inv_rows);
    if (q8.host) {
        compare("norm, quantised", &q8);
    }
    settle();
    free(a.host), free(b.host), free(x.host), free(y.host), free(q8.host);
    free(inv), free(weight);
}

static void quantize_trial(int64_t k, data_kind kind)
{
    int64_t stride = ((int64_t)act_q8_bytes(k) + 63) / 64 * 64;
    both x = rows_up(numbers_new(2 * k, kind), 2, 4 * k);
    both y = rows_up(filled((size_t)(2 * stride)), 2, stride);
    for (int t = 0; t < 2; t++) {
        ref->quantize((float *)(void *)x.host + t * k, y.host + t * stride, k, 0, k);
    }
    gpu->quantize(device, &(gpu_quantize){x.rows, y.rows, 2, k});
    compare("quantize", &y);
    settle();
    free(x.host), free(y.host);
}

static void columns_trial(gpu_column_kind kind, activation f, int64_t n, data_kind data, int has_b)
{
    both a = rows_up(numbers_new(2 * n, data), 2, 4 * n);
    both b = rows_up(numbers_new(2 * n, data), 2, 4 * n);
    both y = rows_up(filled((size_t)(2 * 4 * n)), 2, 4 * n);
    for (int t = 0; t < 2; t++) {
        const float *p = (float *)(void *)a.host + t * n, *q = (float *)(void *)b.host + t * n;
        float *to = (float *)(void *)y.host + t * n;
        if (kind == GPU_ADD) {
            ref->add(p, q, to, n);
        } else if (kind == GPU_SCALE) {
            ref->scale(1.7f, p, to, n);
        } else if (kind == GPU_SOFTCAP) {
            ref->softcap(1.7f, p, to, n);
        } else {
            ref->glu(f, p, has_b ? q : NULL, to, n);
        }
    }
    both q8 = quantised_rows(&y, n, (int)random_below(2));
    gpu_columns c = {kind, a.rows, b.rows, y.rows, 2, n, 1.7f, f, q8.rows};
    c.b.base = has_b ? c.b.base : NULL;
    gpu->columns(device, &c);
    compare("columns", &y);
    if (q8.host) {
        compare("columns, quantised", &q8);
    }
    settle();
    free(a.host), free(b.host), free(y.host), free(q8.host);
}

static void test_rows(void **state)
{
    (void)state;
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        static const int64_t widths[] = {1, 31, 64, 65, 576, 4100};
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            norm_trial(widths[i], 1, (data_kind)kind, 0);
            norm_trial(widths[i], 1, (data_kind)kind, 1);
            columns_trial(GPU_ADD, 0, widths[i], (data_kind)kind, 1);
            columns_trial(GPU_SCALE, 0, widths[i], (data_kind)kind, 0);
            columns_trial(GPU_SOFTCAP, 0, widths[i], (data_kind)kind, 0);
            for (int f = 0; f < ACTIVATION_COUNT; f++) {
                columns_trial(GPU_GLU, (activation)f, widths[i], (data_kind)kind, f % 2);
            }
        }
        norm_trial(64, 5, (data_kind)kind, 0);
        norm_trial(80, 3, (data_kind)kind, 0);
        quantize_trial(32, (data_kind)kind);
        quantize_trial(1056, (data_kind)kind);
    }
}

#define LOOKS     (GPU_STATS_MAX + 8) /* ops looked at in one call: more than a launch takes */
#define LOOK_ROWS 20 /* of an op at most: some have many, which go another way */

/* Rows whose highest value is a zero, of either sign: the first one counts. */
static both look_below_zero(int64_t n_row, int64_t n, data_kind kind)
{
    int64_t stride = (4 * n + 63) / 64 * 64;
    float *x = filled((size_t)(n_row * stride));
    for (int64_t i = 0; i < n_row * stride / 4; i++) {
        float v = number_new(kind);
        x[i] = !(v > 0) ? v : random_below(2) ? 0.0f : -0.0f;
    }
    return rows_up(x, n_row, stride);
}

static both look_rows(dtype type, int64_t n_row, int64_t n, data_kind kind)
{
    int64_t stride = (2 * n + 63) / 64 * 64;
    if (type == DTYPE_F32 && random_below(3) == 0) {
        return look_below_zero(n_row, n, kind);
    }
    if (type != DTYPE_F16) {
        both x = activations(n_row, n, type == DTYPE_ACT_Q8, kind);
        return x;
    }
    uint16_t *half = filled((size_t)(n_row * stride));
    for (int64_t i = 0; i < n_row * stride / 2; i++) {
        half[i] = half_from_float(number_new(kind));
    }
    return rows_up(half, n_row, stride);
}

static void stats_expect(const row_stats *got, dtype type, const void *row, int64_t n)
{
    row_stats want = {0};
    if (type == DTYPE_I32) {
        for (int64_t i = 0; i < n; i++) {
            hash_word(&want.hash, (uint64_t)i, ((const uint32_t *)row)[i]);
        }
    } else {
        ref->row_stats(type, row, n, &want);
    }
    if (got->hash.ordered != want.hash.ordered || got->hash.bag != want.hash.bag ||
        got->n_nonfinite != want.n_nonfinite ||
        hash_float_bits(got->sumsq) != hash_float_bits(want.sumsq) ||
        hash_float_bits(got->min) != hash_float_bits(want.min) ||
        hash_float_bits(got->max) != hash_float_bits(want.max)) {
        fail_msg("statistics of %s, %d values: %a %a %a", type == DTYPE_I32 ? "ids" : "numbers",
                 (int)n, (double)got->min, (double)got->max, (double)got->sumsq);
    }
    n_trial++;
}

static void looks_trial(data_kind kind)
{
    static const dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_ACT_Q8, DTYPE_I32};
    static const int64_t widths[] = {32, 64, 576, 1120, 4096, 4128, 9024};
    both x[LOOKS];
    gpu_stats look[LOOKS];
    int64_t n_row = 0;
    row_stats *out = (row_stats *)(void *)up(NULL, LOOKS * LOOK_ROWS * sizeof *out),
              *got = filled(LOOKS * LOOK_ROWS * sizeof *got);
    for (int i = 0; i < LOOKS; i++) {
        dtype type = types[random_below(4)];
        int64_t n = widths[random_below(7)], n_token = 1 + random_below(i % 5 ? 4 : LOOK_ROWS);
        n += type == DTYPE_ACT_Q8 ? 0 : random_below(3) - 1;
        x[i] = look_rows(type, n_token, n, kind);
        look[i] = (gpu_stats){
            .type = type, .x = x[i].rows, .n_token = n_token, .n = n, .stats = out + n_row};
        n_row += n_token;
    }
    gpu->stats(device, look, LOOKS);
    gpu->copy_out(device, got, out, (size_t)n_row * sizeof *got);
    for (int i = 0; i < LOOKS; i++) {
        for (int64_t t = 0; t < look[i].n_token; t++) {
            stats_expect(&got[look[i].stats - out + t], look[i].type,
                         x[i].host + t * x[i].rows.stride, look[i].n);
        }
        free(x[i].host);
    }
    free(got);
    settle();
}

static void argmax_trial(data_kind kind)
{
    float *x = numbers_new(1000, kind);
    int32_t best = -1, got;
    for (int32_t i = 0; i < 1000; i++) {
        best = x[i] == x[i] && (best < 0 || x[i] > x[best]) ? i : best;
    }
    int32_t *id = (int32_t *)(void *)up(NULL, 4);
    gpu_argmax a = {{up(x, 4000), 4000, NULL}, 1, 1000, id};
    gpu->argmax(device, &a);
    gpu->copy_out(device, &got, id, 4);
    assert_int_equal(got, best);
    settle();
    free(x);
}

static void test_stats(void **state)
{
    (void)state;
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        looks_trial((data_kind)kind);
        argmax_trial((data_kind)kind);
    }
}

/* ---- Positions ------------------------------------------------------------------------------- */

typedef struct rope_shape {
    int32_t n_head, head_dim, dim;
    rope_pairing pairing;
} rope_shape;

enum { ROPE_CTX = 70, ROPE_ROWS = 2 };

/* One of the ops of a call: rows turned to y, stored, or both. */
typedef struct turn {
    both x, y, cache; /* host NULL: none */
} turn;

static turn turn_new(rope_shape s, const float *table, const gpu_row *row, dtype kv, gpu_rope *a)
{
    int64_t width = (int64_t)s.n_head * s.head_dim;
    turn r = {.x = rows_up(numbers_new(ROPE_ROWS * width, DATA_RARE), ROPE_ROWS, 4 * width)};
    *a = (gpu_rope){.x = r.x.rows,
                    .n_token = ROPE_ROWS,
                    .n_head = s.n_head,
                    .head_dim = s.head_dim,
                    .rope_dim = s.dim,
                    .pairing = s.pairing};
    float *y = (float *)(void *)r.x.host;
    if (s.dim > 0) {
        r.y = rows_up(filled((size_t)(ROPE_ROWS * 4 * width)), ROPE_ROWS, 4 * width);
        a->y = r.y.rows;
        y = (float *)(void *)r.y.host;
    }
    if (kv != DTYPE_ACT_Q8) {
        kv_shape shape = {kv, s.n_head, s.head_dim};
        int64_t bytes = (ROPE_CTX + 63) / 64 * 64 * width * (int64_t)kv_value_bytes(&shape);
        r.cache = rows_up(filled((size_t)(2 * bytes)), 1, 2 * bytes);
        a->cache =
            (gpu_cache){r.cache.rows.base, (size_t)bytes, shape, s.dim > 0 ? KV_KEYS : KV_VALUES};
    }
    for (int t = 0; t < ROPE_ROWS; t++) {
        rope_args turned = {(float *)(void *)r.x.host + t * width,
                            y + t * width,
                            table + (int64_t)row[t].position * s.dim,
                            s.n_head,
                            s.head_dim,
                            s.dim,
                            s.pairing};
        if (s.dim > 0) {
            ref->rope(&turned);
        }
        kv_store_args stored = {y + t * width,
                                r.cache.host + (size_t)row[t].sequence * a->cache.sequence_bytes,
                                a->cache.shape, a->cache.side, row[t].position};
        if (r.cache.host) {
            ref->kv_store(&stored, 0, s.n_head);
        }
    }
    return r;
}

/* Queries turned, keys turned and stored, values stored. */
static void rope_trial(rope_shape s, dtype kv)
{
    float *table = numbers_new(ROPE_CTX * s.dim, DATA_RANDOM);
    gpu_row row[ROPE_ROWS] = {{.position = 0, .sequence = 1}, {.position = ROPE_CTX - 1}};
    rope_shape keys = s, values = s;
    keys.n_head = values.n_head = 1 + s.n_head / 2;
    values.dim = 0;
    gpu_rope a[GPU_ROPE_MAX];
    turn r[GPU_ROPE_MAX] = {turn_new(s, table, row, DTYPE_ACT_Q8, &a[0]),
                            turn_new(keys, table, row, kv, &a[1]),
                            turn_new(values, table, row, kv, &a[2])};
    uint8_t *rows = up(row, sizeof row);
    float *angles = (float *)(void *)up(table, (size_t)(ROPE_CTX * s.dim) * 4);
    for (int i = 0; i < GPU_ROPE_MAX; i++) {
        a[i].row = (gpu_rows){rows, sizeof row[0], NULL};
        a[i].cos_sin = angles;
    }
    gpu->rope(device, a, GPU_ROPE_MAX);
    for (int i = 0; i < GPU_ROPE_MAX; i++) {
        if (r[i].y.host) {
            compare("rope", &r[i].y);
        }
        if (r[i].cache.host) {
            compare("cache", &r[i].cache);
        }
    }
    settle();
    for (int i = 0; i < GPU_ROPE_MAX; i++) {
        free(r[i].x.host), free(r[i].y.host), free(r[i].cache.host);
    }
    free(table);
}

typedef struct attend_shape {
    int32_t n_head, n_head_kv, head_dim;
    int64_t first, n_token; /* of sequence 0; one row of sequence 1 in front */
    int64_t window;
    float softcap;
    dtype type;
} attend_shape;

/* Caches of two sequences, keys and values, on both sides. */
typedef struct caches {
    kv_shape shape;
    int64_t n_ctx;
    size_t sequence; /* bytes */
    uint8_t *host[2], *device[2];
} caches;

/* Positions 0 .. n of a sequence, stored. */
static void cache_fill(const caches *c, int64_t sequence, int64_t n, data_kind kind)
{
    int64_t width = (int64_t)c->shape.n_head_kv * c->shape.head_dim;
    gpu_row *row = filled((size_t)n * sizeof *row);
    for (int64_t p = 0; p < n; p++) {
        row[p] = (gpu_row){.position = (int32_t)p, .sequence = (int32_t)sequence};
    }
    gpu_rows rows = {up(row, (size_t)n * sizeof *row), sizeof *row, NULL};
    for (int side = 0; side < 2; side++) {
        float *x = numbers_new(n * width, kind);
        uint8_t *host = c->host[side] + (size_t)sequence * c->sequence;
        for (int64_t p = 0; p < n; p++) {
            kv_store_args r = {x + p * width, host, c->shape, (kv_side)side, p};
            ref->kv_store(&r, 0, c->shape.n_head_kv);
        }
        gpu_rope a = {.x = {up(x, (size_t)(n * width) * 4), 4 * width, NULL},
                      .row = rows,
                      .cache = {c->device[side], c->sequence, c->shape, (kv_side)side},
                      .n_token = n,
                      .n_head = c->shape.n_head_kv,
                      .head_dim = c->shape.head_dim};
        gpu->rope(device, &a, 1);
        free(x);
    }
    free(row);
}

static caches caches_new(attend_shape s, data_kind kind)
{
    caches c = {.shape = {s.type, s.n_head_kv, s.head_dim},
                .n_ctx = 64 * ((s.first + s.n_token + 63) / 64)};
    c.sequence = (size_t)(c.n_ctx * s.n_head_kv * s.head_dim) * kv_value_bytes(&c.shape);
    for (int side = 0; side < 2; side++) {
        c.host[side] = filled(2 * c.sequence);
        c.device[side] = up(NULL, 2 * c.sequence);
    }
    cache_fill(&c, 0, s.first + s.n_token, kind);
    cache_fill(&c, 1, s.first + 1, kind);
    for (int side = 0; side < 2; side++) {
        both b = {c.host[side], {c.device[side], (int64_t)(2 * c.sequence), NULL}, 1};
        compare("cache", &b);
    }
    return c;
}

/* Rows of the cache, looked at in place and gathered. */
static void cache_trial(const caches *c, const gpu_row *row, int64_t n)
{
    gpu_rows rows = {up(row, (size_t)n * sizeof *row), sizeof *row, NULL};
    int64_t width = (int64_t)c->shape.n_head_kv * c->shape.head_dim;
    int64_t bytes = width * (int64_t)kv_value_bytes(&c->shape);
    row_stats *out = (row_stats *)(void *)up(NULL, (size_t)n * sizeof *out),
              *got = filled((size_t)n * sizeof *got);
    for (int side = 0; side < 2; side++) {
        gpu_cache cache = {c->device[side], c->sequence, c->shape, (kv_side)side};
        gpu_stats look = {c->shape.type, rows, n, width, out, cache};
        both y = rows_up(filled((size_t)(n * bytes)), n, bytes);
        gpu_kv_load load = {rows, y.rows, cache, n};
        gpu->stats(device, &look, 1);
        gpu->kv_load(device, &load);
        gpu->copy_out(device, got, out, (size_t)n * sizeof *got);
        for (int64_t t = 0; t < n; t++) {
            uint8_t *host = c->host[side] + (size_t)row[t].sequence * c->sequence;
            kv_load_args one = {host, c->shape, (kv_side)side, row[t].position, y.host + t * bytes};
            kernel_kv_load(&one);
            stats_expect(&got[t], c->shape.type, one.row, width);
        }
        compare("kv_load", &y);
        free(y.host);
    }
    free(got);
}

static void attention_trial(attend_shape s, data_kind kind)
{
    int64_t n = s.n_token + 1, width = (int64_t)s.n_head * s.head_dim;
    caches c = caches_new(s, kind);
    gpu_row *row = filled((size_t)n * sizeof *row);
    both q = rows_up(numbers_new(n * width, kind), n, 4 * width);
    both y = rows_up(filled((size_t)(n * 4 * width)), n, 4 * width);
    for (int64_t t = 0; t < n; t++) {
        row[t] = (gpu_row){0, (int32_t)(s.first + (t ? t - 1 : 0)), t == 0, 0};
        attention_args r = {.q = (float *)(void *)q.host + t * width,
                            .k = c.host[0] + (size_t)row[t].sequence * c.sequence,
                            .v = c.host[1] + (size_t)row[t].sequence * c.sequence,
                            .kv = c.shape,
                            .n_position = row[t].position + 1,
                            .n_token = 1,
                            .q_stride = width,
                            .y_stride = width,
                            .n_head = s.n_head,
                            .scale = 0.37f,
                            .y = (float *)(void *)y.host + t * width,
                            .softcap = s.softcap,
                            .window = s.window};
        ref->attention(&r, 0, s.n_head_kv);
    }
    cache_trial(&c, row, n);
    both q8 = quantised_rows(&y, width, s.head_dim % ACT_BLOCK == 0);
    gpu_attention a = {.q = q.rows,
                       .y = y.rows,
                       .row = {up(row, (size_t)n * sizeof *row), sizeof *row, NULL},
                       .k = c.device[0],
                       .v = c.device[1],
                       .sequence_bytes = c.sequence,
                       .shape = c.shape,
                       .n_token = n,
                       .n_position = s.first + s.n_token,
                       .n_head = s.n_head,
                       .scale = 0.37f,
                       .softcap = s.softcap,
                       .window = s.window,
                       .q8 = q8.rows};
    assert_int_equal(gpu->reserve(device, n, c.n_ctx, s.n_head, s.head_dim), GPU_OK);
    gpu->attention(device, &a);
    char what[128];
    snprintf(what, sizeof what, "attention %d/%d heads of %d, %d rows from %d, window %d, %s",
             s.n_head, s.n_head_kv, s.head_dim, (int)n, (int)s.first, (int)s.window,
             kind_names[kind]);
    compare(what, &y);
    if (q8.host) {
        compare("attention, quantised", &q8);
    }
    settle();
    free(q.host), free(y.host), free(q8.host), free(c.host[0]), free(c.host[1]), free(row);
}

static void test_positions(void **state)
{
    (void)state;
    rope_trial((rope_shape){3, 64, 64, ROPE_HALVES}, DTYPE_F16);
    rope_trial((rope_shape){5, 64, 64, ROPE_NEIGHBOURS}, DTYPE_F32);
    rope_trial((rope_shape){2, 96, 32, ROPE_HALVES}, DTYPE_F16);
    rope_trial((rope_shape){2, 80, 48, ROPE_NEIGHBOURS}, DTYPE_F32);
    static const attend_shape shapes[] = {
        {4, 2, 64, 0, 1, 0, 0, DTYPE_F16},       {4, 4, 32, 62, 5, 0, 0, DTYPE_F32},
        {9, 3, 64, 200, 1, 0, 0, DTYPE_F16},     {8, 1, 40, 130, 40, 70, 0, DTYPE_F16},
        {20, 1, 16, 66, 3, 0, 5.0f, DTYPE_F32},  {6, 2, 128, 0, 70, 0, 0, DTYPE_F16},
        {4, 2, 256, 127, 2, 64, 0, DTYPE_F16},   {34, 2, 16, 3, 20, 1, 0, DTYPE_F16},
        {4, 1, 80, 300, 2, 65, 2.0f, DTYPE_F32}, {4, 2, 32, 8300, 1, 0, 0, DTYPE_F16}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        attention_trial(shapes[i], (data_kind)(i % DATA_KINDS));
        for (int kind = 0; kind < DATA_KINDS && is_long(); kind++) {
            attention_trial(shapes[i], (data_kind)kind);
        }
    }
}

/* ---- The plugin ------------------------------------------------------------------------------ */

static void test_manners(void **state)
{
    (void)state;
    char why[256] = "";
    int32_t n = 0;
    gpu_info info;
    gpu_device *none;
    void *memory;
    assert_int_equal(gpu->count(&n, why, sizeof why), GPU_OK);
    assert_true(n >= 1);
    assert_int_equal(gpu->describe(0, &info, why, sizeof why), GPU_OK);
    print_message("# %s, %s, %d processors, %.1f GB, %.1f GB free\n", info.name, info.arch,
                  (int)info.n_processor, (double)info.memory * 1e-9,
                  (double)info.memory_free * 1e-9);
    assert_int_not_equal(gpu->open(n, &none, why, sizeof why), GPU_OK);
    assert_null(none);
    assert_true(strlen(why) > 0);
    assert_int_equal(gpu->alloc(device, (size_t)1 << 45, &memory), GPU_NO_MEMORY);
    assert_null(memory);
    assert_int_equal(gpu->sync(device, why, sizeof why), GPU_OK); /* a refusal is no failure */
    assert_int_equal(gpu->weight_bytes(DTYPE_I32, 1, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manners),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_positions),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
