/* test_gpu.c - every op of a GPU plugin against the definition, bit for bit, on hostile operands.
 *
 * GRETA_GPU_PLUGIN names the plugin, else it is the emulated one of the build (tests/gpu_emu):
 * the same source on the CPU. Each trial uploads its operands, runs one op on all rows, and
 * compares what comes back as integers, one NaN, with `ref` called row by row. Outputs are poisoned
 * before, and what an op must not write is compared as well. GRETA_SEED=N repeats a run;
 * GRETA_GPU_LONG=1 has more shapes.
 */
#include <dlfcn.h>
#include <math.h>

#include "gpu_rig.h"

static int is_long(void)
{
    return getenv("GRETA_GPU_LONG") != NULL;
}

/* ---- Products -------------------------------------------------------------------------------- */

typedef struct weights {
    dtype type;
    int64_t n_row, k, row_bytes;
    uint8_t *w;
    gpu_weight device;
} weights;

static weights weights_new(dtype type, int64_t n_row, int64_t k, data_kind kind)
{
    const dtype_traits *t = dtype_find((uint32_t)type);
    weights w = {.type = type, .n_row = n_row, .k = k, .row_bytes = k / t->block * t->bytes};
    w.w = filled((size_t)(n_row * w.row_bytes));
    weights_fill(type, w.w, n_row * (k / t->block), kind);
    size_t bytes = gpu->weight_bytes(type, n_row, k);
    assert_true(bytes > 0);
    w.device = (gpu_weight){type, n_row, k, up(NULL, bytes)};
    int64_t half = n_row / 64 * 32; /* in two parts */
    gpu->weight_upload(device, &w.device, w.w, w.row_bytes, 0, half);
    gpu->weight_upload(device, &w.device, w.w + half * w.row_bytes, w.row_bytes, half,
                       n_row - half);
    return w;
}

/* Activations of n rows, as floats or quantised; rows lie `stride` apart. */
static both activations(int64_t n, int64_t k, int is_q8, data_kind kind)
{
    int64_t stride = ((is_q8 ? (int64_t)act_q8_bytes(k) : 4 * k) + 63) / 64 * 64;
    uint8_t *rows = filled((size_t)(n * stride));
    for (int64_t t = 0; t < n; t++) {
        float *x = numbers_new(k, kind);
        if (is_q8) {
            ref->quantize(x, rows + t * stride, k, 0, k);
        } else {
            memcpy(rows + t * stride, x, (size_t)k * sizeof *x);
        }
        free(x);
    }
    return rows_up(rows, n, stride);
}

typedef struct product_shape {
    int64_t n_out, k, n_token;
} product_shape;

static void product_trial(dtype type, product_shape s, int is_q8, data_kind kind)
{
    int64_t first = random_below(3), y_stride = 4 * ((s.n_out + 15) / 16 * 16);
    weights w = weights_new(type, s.n_out + 5, s.k, kind);
    both x = activations(s.n_token, s.k, is_q8, kind);
    both y = rows_up(filled((size_t)(s.n_token * y_stride)), s.n_token, y_stride);
    float *bias = random_below(2) ? numbers_new(s.n_out, kind) : NULL;
    matmul_args r = {.type = type,
                     .w = w.w + first * w.row_bytes,
                     .row_bytes = w.row_bytes,
                     .bias = bias,
                     .x = x.host,
                     .x_stride = x.rows.stride,
                     .y = (float *)(void *)y.host,
                     .y_stride = y_stride / 4,
                     .k = s.k,
                     .n_token = s.n_token,
                     .x_is_q8 = is_q8};
    ref->matmul(&r, 0, s.n_out);
    gpu_matmul a = {.w = {w.device, first},
                    .bias = bias ? (float *)(void *)up(bias, (size_t)s.n_out * 4) : NULL,
                    .x = x.rows,
                    .y = y.rows,
                    .n_token = s.n_token,
                    .n_out = s.n_out,
                    .x_is_q8 = is_q8};
    gpu->matmul(device, &a);
    char what[128];
    snprintf(what, sizeof what, "%s %dx%dx%d act %s, %s", dtype_name(type), (int)s.n_out, (int)s.k,
             (int)s.n_token, is_q8 ? "q8" : "f32", kind_names[kind]);
    compare(what, &y);
    settle();
    free(bias);
    free(x.host);
    free(y.host);
    free(w.w);
}

static void products(int is_q8)
{
    static const product_shape few[] = {{1, 1, 1},    {37, 3, 2},  {5, 9, 5},    {130, 5, 9},
                                        {150, 2, 70}, {3, 17, 40}, {64, 33, 8},  {33, 66, 1},
                                        {20, 66, 12}, {9, 40, 66}, {520, 1, 150}};
    for (int i = 0; i < N_WEIGHT_TYPE; i++) {
        dtype type = weight_types[i];
        const dtype_traits *t = dtype_find((uint32_t)type);
        for (size_t s = 0; s < sizeof few / sizeof *few && (t->is_quantised || !is_q8); s++) {
            product_shape shape = few[s];
            shape.k = t->is_quantised ? (shape.k * 32 + (t->block - 1)) / t->block * t->block
                                      : shape.k * 31 + 1;
            product_trial(type, shape, is_q8, (data_kind)(s % DATA_KINDS));
            if (is_long()) {
                shape.n_token = 1 + random_below(200);
                shape.n_out = 1 + random_below(300);
                for (int kind = 0; kind < DATA_KINDS; kind++) {
                    product_trial(type, shape, is_q8, (data_kind)kind);
                }
            }
        }
    }
}

static void test_products_q8(void **state)
{
    (void)state;
    products(1);
    for (int i = 0; i < N_WEIGHT_TYPE && is_long(); i++) { /* enough for every tile of a device */
        if (dtype_find((uint32_t)weight_types[i])->is_quantised) {
            product_trial(weight_types[i], (product_shape){4000, 2304, 1100}, 1, DATA_RANDOM);
        }
    }
}

static void test_products_f32(void **state)
{
    (void)state;
    products(0);
}

static void expert_trial(dtype type, int is_q8, int is_ranked, int64_t k)
{
    const int32_t n_expert = 5, n_used = 3;
    int64_t n_out = 40, n_token = 4, n_x = is_ranked ? n_used : 1, y_stride = 4 * n_used * n_out;
    weights w = weights_new(type, n_expert * n_out, k, DATA_RANDOM);
    gpu_view views[5];
    int32_t ids[4][3];
    for (int e = 0; e < n_expert; e++) {
        views[e] = (gpu_view){w.device, e * n_out};
    }
    for (int t = 0; t < n_token; t++) {
        int first = (int)random_below(n_expert);
        for (int r = 0; r < n_used; r++) {
            ids[t][r] = (first + 2 * r) % n_expert;
        }
    }
    both x = activations(n_token, n_x * k, is_q8, DATA_RANDOM);
    both y = rows_up(filled((size_t)(n_token * y_stride)), n_token, y_stride);
    for (int64_t t = 0; t < n_token; t++) {
        for (int32_t r = 0; r < n_used; r++) {
            uint8_t *row = x.host + t * x.rows.stride,
                    *part = filled(act_q8_bytes(k) + 4 * (size_t)k);
            int64_t at = is_ranked ? r : 0, per = k / ACT_BLOCK * 4, n = n_x * k;
            if (is_q8) {
                memcpy(part, row + at * k, (size_t)k);
                memcpy(part + k, row + n + at * per, (size_t)per);
                memcpy(part + k + per, row + n + n / ACT_BLOCK * 4 + at * per, (size_t)per);
            } else {
                memcpy(part, row + at * k * 4, (size_t)k * 4);
            }
            matmul_args one = {.type = type,
                               .w = w.w + ids[t][r] * n_out * w.row_bytes,
                               .row_bytes = w.row_bytes,
                               .x = part,
                               .y = (float *)(void *)(y.host + t * y_stride) + r * n_out,
                               .y_stride = n_out,
                               .k = k,
                               .n_token = 1,
                               .x_is_q8 = is_q8};
            ref->matmul(&one, 0, n_out);
            free(part);
        }
    }
    gpu_expert_matmul a = {.expert = (gpu_view *)(void *)up(views, sizeof views),
                           .shape = w.device,
                           .x = x.rows,
                           .ids = {up(ids, sizeof ids), sizeof ids[0], NULL},
                           .y = y.rows,
                           .n_token = n_token,
                           .n_out = n_out,
                           .n_expert = n_expert,
                           .n_used = n_used,
                           .x_is_q8 = is_q8,
                           .x_is_ranked = is_ranked};
    gpu->expert_matmul(device, &a);
    compare(dtype_name(type), &y);
    settle();
    free(x.host);
    free(y.host);
    free(w.w);
}

static void test_experts(void **state)
{
    (void)state;
    for (int is_ranked = 0; is_ranked < 2; is_ranked++) {
        expert_trial(DTYPE_F32, 0, is_ranked, 37);
        expert_trial(DTYPE_Q4_0, 1, is_ranked, 96);
        expert_trial(DTYPE_Q6_K, 1, is_ranked, 256);
        expert_trial(DTYPE_Q2_K, 1, is_ranked, 1280);
        expert_trial(DTYPE_MXFP4, 0, is_ranked, 288);
    }
    static const int32_t sizes[][2] = {{4, 2}, {8, 8}, {60, 4}, {128, 8}, {300, 64}};
    for (size_t i = 0; i < 5 * DATA_KINDS; i++) {
        int32_t n = sizes[i / DATA_KINDS][0], n_used = sizes[i / DATA_KINDS][1];
        float *router = numbers_new(n, (data_kind)(i % DATA_KINDS));
        int32_t *ids = filled(4 * (size_t)n_used);
        float *weight = filled(4 * (size_t)n_used), *out = filled(4 * 70);
        float *x = numbers_new(70 * n_used, (data_kind)(i % DATA_KINDS));
        both id_rows = rows_up(ids, 1, 4 * n_used), w_rows = rows_up(weight, 1, 4 * n_used);
        both y = rows_up(out, 1, 4 * 70);
        gpu_rows router_rows = {up(router, 4 * (size_t)n), 4 * n, NULL};
        expert_weights_args e = {router, ids, weight, n, n_used, (int)i % 2};
        ref->top_k(router, n, ids, n_used);
        ref->expert_weights(&e);
        ref->expert_sum(weight, x, out, n_used, 70);
        gpu->top_k(device, &(gpu_top_k){router_rows, id_rows.rows, 1, n, n_used});
        gpu->expert_weights(device, &(gpu_expert_weights){router_rows, id_rows.rows, w_rows.rows, 1,
                                                          n, n_used, (int)i % 2});
        gpu_rows x_rows = {up(x, 4 * 70 * (size_t)n_used), 4 * 70 * n_used, NULL};
        gpu->expert_sum(device, &(gpu_expert_sum){w_rows.rows, x_rows, y.rows, 1, 70, n_used});
        compare("top_k", &id_rows);
        compare("expert_weights", &w_rows);
        compare("expert_sum", &y);
        settle();
        free(router), free(ids), free(weight), free(out), free(x);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void test_embed(void **state)
{
    (void)state;
    enum { N_ROW = 70 };
    for (int i = 0; i < N_WEIGHT_TYPE; i++) {
        const dtype_traits *t = dtype_find((uint32_t)weight_types[i]);
        int64_t k = t->is_quantised ? t->block * 3 : 77;
        weights w = weights_new(weight_types[i], N_ROW, k, DATA_RARE);
        gpu_row row[3] = {{.token = 0}, {.token = N_ROW - 1}, {.token = 33}};
        both y = rows_up(filled((size_t)(3 * 4 * k)), 3, 4 * k);
        for (int r = 0; r < 3; r++) {
            ref->embed(&(embed_args){w.type, w.w + row[r].token * w.row_bytes,
                                     (float *)(void *)(y.host + r * 4 * k), k});
        }
        gpu_embed a = {{up(row, sizeof row), sizeof row[0], NULL}, {w.device, 0}, y.rows, 3};
        gpu->embed(device, &a);
        compare(t->name, &y);
        settle();
        free(y.host);
        free(w.w);
    }
}

static void norm_trial(int64_t n, int64_t n_head, data_kind kind)
{
    enum { TOKENS = 3 };
    int64_t width = n * n_head;
    float *weight = numbers_new(n, DATA_RANDOM), *inv = filled(4 * TOKENS);
    both x = rows_up(numbers_new(TOKENS * width, kind), TOKENS, 4 * width);
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
    gpu_norm a = {.x = x.rows,
                  .y = y.rows,
                  .weight = (float *)(void *)up(weight, 4 * (size_t)n),
                  .n_token = TOKENS,
                  .n_head = n_head,
                  .n = n,
                  .count = n + 1,
                  .eps = 1e-5f,
                  .inv_rms = (float *)(void *)inv_rows.rows.base};
    gpu->rms_norm(device, &a);
    compare("rms_norm", &y);
    compare("inv_rms", &inv_rows);
    settle();
    free(x.host), free(y.host), free(weight), free(inv);
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
    gpu_columns c = {kind, a.rows, b.rows, y.rows, 2, n, 1.7f, f};
    c.b.base = has_b ? c.b.base : NULL;
    gpu->columns(device, &c);
    compare("columns", &y);
    settle();
    free(a.host), free(b.host), free(y.host);
}

static void test_rows(void **state)
{
    (void)state;
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        static const int64_t widths[] = {1, 31, 64, 65, 576, 4100};
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            norm_trial(widths[i], 1, (data_kind)kind);
            columns_trial(GPU_ADD, 0, widths[i], (data_kind)kind, 1);
            columns_trial(GPU_SCALE, 0, widths[i], (data_kind)kind, 0);
            columns_trial(GPU_SOFTCAP, 0, widths[i], (data_kind)kind, 0);
            for (int f = 0; f < ACTIVATION_COUNT; f++) {
                columns_trial(GPU_GLU, (activation)f, widths[i], (data_kind)kind, f % 2);
            }
        }
        norm_trial(64, 5, (data_kind)kind);
        norm_trial(80, 3, (data_kind)kind);
        quantize_trial(32, (data_kind)kind);
        quantize_trial(1056, (data_kind)kind);
    }
}

#define LOOKS 40 /* ops looked at in one call: more than a launch takes */

static both look_rows(dtype type, int64_t n_row, int64_t n, data_kind kind)
{
    int64_t stride = (2 * n + 63) / 64 * 64;
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
    row_stats *out = (row_stats *)(void *)up(NULL, LOOKS * 4 * sizeof *out), got[LOOKS * 4];
    for (int i = 0; i < LOOKS; i++) {
        dtype type = types[random_below(4)];
        int64_t n = widths[random_below(7)], n_token = 1 + random_below(4);
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

static void rope_trial(int32_t n_head, int32_t head_dim, int32_t dim, rope_pairing pairing)
{
    enum { N_CTX = 9 };
    int64_t width = (int64_t)n_head * head_dim;
    float *table = numbers_new(N_CTX * dim, DATA_RANDOM);
    gpu_row row[2] = {{.position = 0}, {.position = N_CTX - 1}};
    both x = rows_up(numbers_new(2 * width, DATA_RARE), 2, 4 * width);
    both y = rows_up(filled((size_t)(2 * 4 * width)), 2, 4 * width);
    for (int t = 0; t < 2; t++) {
        rope_args r = {(float *)(void *)x.host + t * width,
                       (float *)(void *)y.host + t * width,
                       table + (int64_t)row[t].position * dim,
                       n_head,
                       head_dim,
                       dim,
                       pairing};
        ref->rope(&r);
    }
    gpu_rope a = {.x = x.rows,
                  .y = y.rows,
                  .row = {up(row, sizeof row), sizeof row[0], NULL},
                  .cos_sin = (float *)(void *)up(table, (size_t)(N_CTX * dim) * 4),
                  .n_token = 2,
                  .n_head = n_head,
                  .head_dim = head_dim,
                  .rope_dim = dim,
                  .pairing = pairing};
    gpu->rope(device, &a);
    compare("rope", &y);
    settle();
    free(x.host), free(y.host), free(table);
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

/* Positions 0 .. n of a sequence, through kv_store. */
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
        gpu_kv_store a = {.x = {up(x, (size_t)(n * width) * 4), 4 * width, NULL},
                          .row = rows,
                          .cache = c->device[side],
                          .sequence_bytes = c->sequence,
                          .shape = c->shape,
                          .side = (kv_side)side,
                          .n_token = n};
        gpu->kv_store(device, &a);
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
        compare("kv_store", &b);
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
        gpu_stats look = {c->shape.type,   rows,        n,        width,        out,
                          c->device[side], c->sequence, c->shape, (kv_side)side};
        both y = rows_up(filled((size_t)(n * bytes)), n, bytes);
        gpu_kv_load load = {rows, y.rows, c->device[side], c->sequence, c->shape, (kv_side)side, n};
        gpu->stats(device, &look, 1);
        gpu->kv_load(device, &load);
        gpu->copy_out(device, got, out, (size_t)n * sizeof *got);
        for (int64_t t = 0; t < n; t++) {
            uint8_t *cache = c->host[side] + (size_t)row[t].sequence * c->sequence;
            kv_load_args one = {cache, c->shape, (kv_side)side, row[t].position,
                                y.host + t * bytes};
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
                       .window = s.window};
    assert_int_equal(gpu->reserve(device, n, c.n_ctx, s.n_head, s.head_dim), GPU_OK);
    gpu->attention(device, &a);
    char what[128];
    snprintf(what, sizeof what, "attention %d/%d heads of %d, %d rows from %d, window %d, %s",
             s.n_head, s.n_head_kv, s.head_dim, (int)n, (int)s.first, (int)s.window,
             kind_names[kind]);
    compare(what, &y);
    settle();
    free(q.host), free(y.host), free(c.host[0]), free(c.host[1]), free(row);
}

static void test_positions(void **state)
{
    (void)state;
    rope_trial(3, 64, 64, ROPE_HALVES);
    rope_trial(5, 64, 64, ROPE_NEIGHBOURS);
    rope_trial(2, 96, 32, ROPE_HALVES);
    rope_trial(2, 80, 48, ROPE_NEIGHBOURS);
    static const attend_shape shapes[] = {
        {4, 2, 64, 0, 1, 0, 0, DTYPE_F16},      {4, 4, 32, 62, 5, 0, 0, DTYPE_F32},
        {9, 3, 64, 200, 1, 0, 0, DTYPE_F16},    {8, 1, 40, 130, 40, 70, 0, DTYPE_F16},
        {20, 1, 16, 66, 3, 0, 5.0f, DTYPE_F32}, {6, 2, 128, 0, 70, 0, 0, DTYPE_F16},
        {4, 2, 256, 127, 2, 64, 0, DTYPE_F16},  {34, 2, 16, 3, 20, 1, 0, DTYPE_F16},
        {4, 1, 80, 300, 2, 65, 2.0f, DTYPE_F32}};
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

static int open_plugin(void **state)
{
    (void)state;
    const char *path = getenv("GRETA_GPU_PLUGIN"), *tools = getenv("GRETA_TOOLS");
    const char *given = getenv("GRETA_SEED");
    char beside[4096], why[256] = "";
    snprintf(beside, sizeof beside, "%s/../plugins/libgreta-emu.so", tools ? tools : "build/tools");
    void *library = dlopen(path ? path : beside, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        print_message("# %s\n", dlerror());
        return -1;
    }
    seed = given ? strtoull(given, NULL, 10) : seed;
    print_message("# seed %llu\n", (unsigned long long)seed);
    union {
        void *symbol;
        gpu_plugin_function *function;
    } entry = {dlsym(library, GPU_PLUGIN_SYMBOL)};
    gpu = entry.symbol ? entry.function() : NULL;
    ref = kernel_find("ref-avx2");
    ref = ref ? ref : kernel_find("ref");
    if (!gpu || gpu->version != GPU_PLUGIN_VERSION || gpu->arithmetic != ARITHMETIC_VERSION ||
        gpu->open(0, &device, why, sizeof why) != GPU_OK) {
        print_message("# %s\n", why);
        return -1;
    }
    return 0;
}

static int close_plugin(void **state)
{
    (void)state;
    print_message("# compared %lld tensors, %lld values\n", (long long)n_trial, (long long)n_value);
    if (gpu) {
        gpu->close(device);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manners),     cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rows),        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_positions),   cmocka_unit_test(test_experts),
        cmocka_unit_test(test_products_q8), cmocka_unit_test(test_products_f32),
    };
    return cmocka_run_group_tests(tests, open_plugin, close_plugin);
}
