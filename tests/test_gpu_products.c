/* test_gpu_products.c - products of a GPU plugin against the definition, as test_gpu.c: of few and
 * of many tokens, several of one call, of experts; and rows of an embedding.
 */
#include "gpu_rig.h"

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

typedef struct product_shape {
    int64_t n_out, k, n_token;
} product_shape;

/* One of the products of a call: its matrix, and what comes out. */
typedef struct product {
    weights w;
    both y;
    float *bias;
} product;

static product product_new(dtype type, product_shape s, const both *x, int is_q8, data_kind kind,
                           gpu_matmul *a)
{
    int64_t first = random_below(3), y_stride = 4 * ((s.n_out + 15) / 16 * 16);
    product p = {.w = weights_new(type, s.n_out + 5, s.k, kind),
                 .y = rows_up(filled((size_t)(s.n_token * y_stride)), s.n_token, y_stride),
                 .bias = random_below(2) ? numbers_new(s.n_out, kind) : NULL};
    matmul_args r = {.type = type,
                     .w = p.w.w + first * p.w.row_bytes,
                     .row_bytes = p.w.row_bytes,
                     .bias = p.bias,
                     .x = x->host,
                     .x_stride = x->rows.stride,
                     .y = (float *)(void *)p.y.host,
                     .y_stride = y_stride / 4,
                     .k = s.k,
                     .n_token = s.n_token,
                     .x_is_q8 = is_q8};
    ref->matmul(&r, 0, s.n_out);
    *a = (gpu_matmul){.w = {p.w.device, first},
                      .bias = p.bias ? (float *)(void *)up(p.bias, (size_t)s.n_out * 4) : NULL,
                      .x = x->rows,
                      .y = p.y.rows,
                      .n_token = s.n_token,
                      .n_out = s.n_out,
                      .x_is_q8 = is_q8};
    return p;
}

/* Up to three products of the same rows; the last one's matrix may be of another type. */
static void product_trial(dtype type, product_shape s, int is_q8, data_kind kind)
{
    both x = activations(s.n_token, s.k, is_q8, kind);
    product p[GPU_MATMUL_MAX];
    gpu_matmul a[GPU_MATMUL_MAX];
    int32_t n = s.n_out > 1000 ? 1 : 1 + (int32_t)random_below(GPU_MATMUL_MAX);
    for (int32_t i = 0; i < n; i++) {
        product_shape one = {i == 0 ? s.n_out : 1 + random_below(90), s.k, s.n_token};
        p[i] =
            product_new(i == 2 && random_below(2) ? DTYPE_Q8_0 : type, one, &x, is_q8, kind, &a[i]);
        n = i == 1 && s.k % 32 ? 2 : n;
    }
    gpu->matmul(device, a, n);
    for (int32_t i = 0; i < n; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s %dx%dx%d act %s, %s, product %d of %d",
                 dtype_name(p[i].w.type), (int)a[i].n_out, (int)s.k, (int)s.n_token,
                 is_q8 ? "q8" : "f32", kind_names[kind], (int)i + 1, (int)n);
        compare(what, &p[i].y);
    }
    settle();
    for (int32_t i = 0; i < n; i++) {
        free(p[i].bias);
        free(p[i].y.host);
        free(p[i].w.w);
    }
    free(x.host);
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

/* ---- Embedding ------------------------------------------------------------------------------- */

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

/* n floats of each row quantised, or no rows. */
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_products_q8),
        cmocka_unit_test(test_products_f32),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
