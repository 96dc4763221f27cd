/* reference_ops.c - weights and ops of the reference plugin: the kernels of `ref`, row by row.
 *
 * Every operand is looked up in the device's memory before it is touched. Matrices lie with their
 * rows in reverse, so that a matrix in the file's layout gives other numbers.
 */
#include "reference_device.h"

#include "base/dtype.h"

#include <stdlib.h>
#include <string.h>

#define OPS_OF_LOST 200

/* ---- Weights: the file's rows, the last one first -------------------------------------------- */

static int64_t bytes_of_row(dtype type, int64_t k)
{
    const dtype_traits *traits = dtype_find((uint32_t)type);
    return k / traits->block * traits->bytes;
}

static size_t reference_weight_bytes(dtype type, int64_t n_row, int64_t k)
{
    return (size_t)(n_row * bytes_of_row(type, k));
}

static uint8_t *weight_at(const gpu_weight *w, int64_t row)
{
    return (uint8_t *)(uintptr_t)w->data + (w->n_row - 1 - row) * bytes_of_row(w->type, w->k);
}

static void reference_weight_upload(gpu_device *d, const gpu_weight *w, const uint8_t *host_rows,
                                    int64_t row_bytes, int64_t first, int64_t n)
{
    size_t bytes = (size_t)bytes_of_row(w->type, w->k);
    flush(d);
    if (first % 32 != 0 || (n % 32 != 0 && first + n != w->n_row) || first + n > w->n_row) {
        device_fail(d, "rows of an upload are no multiple of 32");
        return;
    }
    for (int64_t r = 0; r < n && is_inside(d, weight_at(w, first + r), bytes); r++) {
        memcpy(weight_at(w, first + r), host_rows + r * row_bytes, bytes);
    }
}

/* ---- Ops ------------------------------------------------------------------------------------- */

const kernel_table *reference_kernels(void)
{
    const kernel_table *fast = kernel_find("ref-avx2");
    return fast ? fast : kernel_find("ref");
}

/* The row of token t; NULL: it is not the device's. */
static uint8_t *row_at(gpu_device *d, const gpu_rows *r, int64_t t, size_t bytes)
{
    if (r->index && !is_inside(d, r->index + t, sizeof *r->index)) {
        return NULL;
    }
    uint8_t *row = r->base + (r->index ? r->index[t] : t) * r->stride;
    return is_inside(d, row, bytes) ? row : NULL;
}

static float *floats_at(gpu_device *d, const gpu_rows *r, int64_t t, int64_t n)
{
    return (float *)(void *)row_at(d, r, t, (size_t)n * sizeof(float));
}

static const gpu_row *pass_row(gpu_device *d, const gpu_rows *r, int64_t t)
{
    return (const gpu_row *)(const void *)row_at(d, r, t, sizeof(gpu_row));
}

/* The same as ops see it that a stale graph misleads: all passes of one row are the first one. */
static const gpu_row *pass_row_of(gpu_device *d, const gpu_rows *r, int64_t t, int64_t n_token)
{
    const gpu_row *row = pass_row(d, r, t);
    if (!row || n_token > 1 || !d->is_stale) {
        return row;
    }
    d->first = d->has_first ? d->first : *row;
    d->has_first = true;
    return &d->first;
}

static void embed_run(gpu_device *d, const void *args)
{
    const gpu_embed *a = args;
    const gpu_weight *w = &a->w.weight;
    for (int64_t t = 0; t < a->n_token; t++) {
        const gpu_row *row = pass_row(d, &a->token, t);
        float *y = floats_at(d, &a->y, t, w->k);
        const uint8_t *at = row ? weight_at(w, a->w.first + row->token) : NULL;
        if (!row || !y || !is_inside(d, at, (size_t)bytes_of_row(w->type, w->k))) {
            return;
        }
        d->table.embed(&(embed_args){w->type, at, y, w->k});
    }
}

/* Floats, as act_q8; base NULL: not wanted. */
static bool quantised(gpu_device *d, const gpu_rows *to, int64_t t, const float *x, int64_t n)
{
    uint8_t *row = to->base ? row_at(d, to, t, act_q8_bytes(n)) : NULL;
    if (row) {
        d->table.quantize(x, row, n, 0, n);
    }
    return !to->base || row;
}

static bool summed(gpu_device *d, const gpu_norm *a, int64_t t, float *x)
{
    const float *first = a->a.base ? floats_at(d, &a->a, t, a->n) : NULL,
                *second = a->a.base ? floats_at(d, &a->b, t, a->n) : NULL;
    if (first && second) {
        d->table.add(first, second, x, a->n);
    }
    return !a->a.base || (first && second);
}

static void norm_run(gpu_device *d, const void *args)
{
    const gpu_norm *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        float *x = floats_at(d, &a->x, t, a->n_head * a->n);
        float *y = floats_at(d, &a->y, t, a->n_head * a->n);
        if (!x || !y || !is_inside(d, a->weight, (size_t)a->n * sizeof(float)) ||
            (a->inv_rms && !is_inside(d, a->inv_rms + t, sizeof(float))) || !summed(d, a, t, x)) {
            return;
        }
        d->token = t;
        for (int64_t h = 0; h < a->n_head; h++) {
            norm_args one = {.x = x + h * a->n,
                             .weight = a->weight,
                             .y = y + h * a->n,
                             .n = a->n,
                             .count = a->count,
                             .eps = a->eps};
            d->table.rms_norm(&one);
            if (a->inv_rms) {
                a->inv_rms[t] = one.inv_rms;
            }
        }
        if (!quantised(d, &a->q8, t, y, a->n)) {
            return;
        }
    }
}

static void quantize_run(gpu_device *d, const void *args)
{
    const gpu_quantize *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *x = floats_at(d, &a->x, t, a->k);
        uint8_t *y = row_at(d, &a->y, t, act_q8_bytes(a->k));
        if (!x || !y) {
            return;
        }
        d->table.quantize(x, y, a->k, 0, a->k);
    }
}

static size_t x_bytes(int64_t k, int is_q8)
{
    return is_q8 ? act_q8_bytes(k) : (size_t)k * sizeof(float);
}

typedef struct product_args {
    const kernel_table *table;
    const gpu_view *w;
    const float *bias;
    const void *x;
    int x_is_q8;
    float *y;
    int64_t n_out;
} product_args;

/* n_out rows of a matrix times one row of x. */
static void product(gpu_device *d, const product_args *a)
{
    const gpu_weight *w = &a->w->weight;
    int64_t row_bytes = bytes_of_row(w->type, w->k), last = a->w->first + a->n_out - 1;
    bool is_there = is_inside(d, weight_at(w, last), (size_t)(a->n_out * row_bytes)) &&
                    (!a->bias || is_inside(d, a->bias, (size_t)a->n_out * sizeof(float)));
    if (is_there && a->x && a->y) {
        matmul_args m = {.type = w->type,
                         .w = weight_at(w, a->w->first),
                         .row_bytes = -row_bytes,
                         .bias = a->bias,
                         .x = a->x,
                         .x_stride = (int64_t)x_bytes(w->k, a->x_is_q8),
                         .y = a->y,
                         .y_stride = a->n_out,
                         .k = w->k,
                         .n_token = 1,
                         .x_is_q8 = a->x_is_q8};
        a->table->matmul(&m, 0, a->n_out);
    }
}

static void matmul_run(gpu_device *d, const void *args)
{
    const gpu_matmul *a = args;
    for (int64_t t = 0; t < a->n_token && !d->why[0]; t++) {
        product(d, &(product_args){.table = &d->table,
                                   .w = &a->w,
                                   .bias = a->bias,
                                   .x = row_at(d, &a->x, t, x_bytes(a->w.weight.k, a->x_is_q8)),
                                   .x_is_q8 = a->x_is_q8,
                                   .y = floats_at(d, &a->y, t, a->n_out),
                                   .n_out = a->n_out});
    }
}

/* Bytes of the tiles that hold positions 0 .. position. */
static size_t cache_bytes(const kv_shape *s, int64_t position)
{
    int64_t n_tile = position / ATTENTION_TILE + 1;
    return (size_t)(n_tile * s->n_head_kv * kv_block_size(s)) * kv_value_bytes(s);
}

/* Into the cache, for the row of a pass; base NULL: not wanted. */
static bool stored(gpu_device *d, const gpu_cache *c, const gpu_row *row, const float *x)
{
    uint8_t *cache = c->base ? c->base + (size_t)row->sequence * c->sequence_bytes : NULL;
    if (cache && !is_inside(d, cache, cache_bytes(&c->shape, row->position))) {
        return false;
    }
    kv_store_args one = {x, cache, c->shape, c->side, row->position};
    if (cache) {
        d->table.kv_store(&one, 0, c->shape.n_head_kv);
    }
    return true;
}

/* y is x turned; 0: an operand is not there. */
static bool turned(gpu_device *d, const gpu_rope *a, const gpu_row *row, const float *x, float *y)
{
    const float *angles = a->cos_sin + (int64_t)row->position * a->rope_dim;
    if (!is_inside(d, angles, (size_t)a->rope_dim * sizeof(float))) {
        return false;
    }
    d->table.rope(&(rope_args){.x = x,
                               .y = y,
                               .cos_sin = angles,
                               .n_head = a->n_head,
                               .head_dim = a->head_dim,
                               .rope_dim = a->rope_dim,
                               .pairing = a->pairing});
    return true;
}

static void rope_run(gpu_device *d, const void *args)
{
    const gpu_rope *a = args;
    int64_t n = (int64_t)a->n_head * a->head_dim;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *x = floats_at(d, &a->x, t, n);
        float *y = a->y.base ? floats_at(d, &a->y, t, n) : NULL;
        const gpu_row *row = pass_row_of(d, &a->row, t, a->n_token);
        if (!x || (a->y.base && !y) || !row || (a->rope_dim > 0 && !y)) {
            return;
        }
        if (a->rope_dim > 0 && !turned(d, a, row, x, y)) {
            return;
        }
        if (!stored(d, &a->cache, row, a->rope_dim > 0 ? y : x)) {
            return;
        }
    }
}

/* The row of the cache that a row of a pass has written, gathered. */
static bool cache_row(gpu_device *d, const gpu_kv_load *a, int64_t t, void *y)
{
    const gpu_row *row = pass_row(d, &a->row, t);
    const gpu_cache *c = &a->cache;
    const uint8_t *cache = row ? c->base + (size_t)row->sequence * c->sequence_bytes : NULL;
    if (!row || !is_inside(d, cache, cache_bytes(&c->shape, row->position))) {
        return false;
    }
    kernel_kv_load(&(kv_load_args){cache, c->shape, c->side, row->position, y});
    return true;
}

static size_t cache_row_bytes(const kv_shape *s)
{
    return (size_t)s->n_head_kv * (size_t)s->head_dim * kv_value_bytes(s);
}

static void kv_load_run(gpu_device *d, const void *args)
{
    const gpu_kv_load *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        uint8_t *y = row_at(d, &a->y, t, cache_row_bytes(&a->cache.shape));
        if (!y || !cache_row(d, a, t, y)) {
            return;
        }
    }
}

static const uint8_t *cache_read(gpu_device *d, const gpu_attention *a, const uint8_t *cache,
                                 int64_t sequence, int64_t position)
{
    cache += sequence * (int64_t)a->sequence_bytes;
    return is_inside(d, cache, cache_bytes(&a->shape, position)) ? cache : NULL;
}

static void attention_run(gpu_device *d, const void *args)
{
    const gpu_attention *a = args;
    int64_t n = (int64_t)a->n_head * a->shape.head_dim;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *q = floats_at(d, &a->q, t, n);
        float *y = floats_at(d, &a->y, t, n);
        const gpu_row *row = pass_row_of(d, &a->row, t, a->n_token);
        if (!q || !y || !row) {
            return;
        }
        if (row->position >= a->n_position) {
            device_fail(d, "a row of attention stands behind its last position");
            return;
        }
        const uint8_t *k = cache_read(d, a, a->k, row->sequence + a->k_shift, row->position);
        const uint8_t *v = cache_read(d, a, a->v, row->sequence + a->v_shift, row->position);
        if (!k || !v) {
            return;
        }
        attention_args one = {.q = q,
                              .k = k,
                              .v = v,
                              .kv = a->shape,
                              .n_position = row->position + 1,
                              .n_token = 1,
                              .q_stride = n,
                              .y_stride = n,
                              .n_head = a->n_head,
                              .scale = a->scale,
                              .y = y,
                              .softcap = a->softcap,
                              .window = a->window};
        d->table.attention(&one, 0, a->shape.n_head_kv);
        if (!quantised(d, &a->q8, t, y, n)) {
            return;
        }
    }
}

static void columns_run(gpu_device *d, const void *args)
{
    const gpu_columns *a = args;
    bool has_two = a->kind == GPU_ADD || (a->kind == GPU_GLU && a->b.base);
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *x = floats_at(d, &a->a, t, a->n);
        const float *other = has_two ? floats_at(d, &a->b, t, a->n) : NULL;
        float *y = floats_at(d, &a->y, t, a->n);
        if (!x || !y || (has_two && !other)) {
            return;
        }
        switch (a->kind) {
        case GPU_ADD:
            d->table.add(x, other, y, a->n);
            break;
        case GPU_SCALE:
            d->table.scale(a->factor, x, y, a->n);
            break;
        case GPU_SOFTCAP:
            d->table.softcap(a->factor, x, y, a->n);
            break;
        case GPU_GLU:
            d->table.glu(a->f, x, other, y, a->n);
            break;
        }
        if (!quantised(d, &a->q8, t, y, a->n)) {
            return;
        }
    }
}

static int32_t *ids_at(gpu_device *d, const gpu_rows *r, int64_t t, int32_t n)
{
    return (int32_t *)(void *)row_at(d, r, t, (size_t)n * sizeof(int32_t));
}

static void top_k_run(gpu_device *d, const void *args)
{
    const gpu_top_k *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *x = floats_at(d, &a->x, t, a->n);
        int32_t *ids = ids_at(d, &a->ids, t, a->n_used);
        if (!x || !ids) {
            return;
        }
        d->table.top_k(x, a->n, ids, a->n_used);
    }
}

static void expert_weights_run(gpu_device *d, const void *args)
{
    const gpu_expert_weights *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        expert_weights_args one = {.router = floats_at(d, &a->router, t, a->n),
                                   .ids = ids_at(d, &a->ids, t, a->n_used),
                                   .y = floats_at(d, &a->y, t, a->n_used),
                                   .n = a->n,
                                   .n_used = a->n_used,
                                   .is_norm = a->is_norm};
        if (!one.router || !one.ids || !one.y) {
            return;
        }
        d->table.expert_weights(&one);
    }
}

/* The part of a rank of a quantised row, as a row of its own: codes, scales, sums. */
static void rank_of_q8(const uint8_t *row, int64_t k, int64_t n, int64_t rank, uint8_t *out)
{
    int64_t per = k / ACT_BLOCK * 4;
    memcpy(out, row + rank * k, (size_t)k);
    memcpy(out + k, row + n * k + rank * per, (size_t)per);
    memcpy(out + k + per, row + n * k + n * per + rank * per, (size_t)per);
}

static void expert_token(gpu_device *d, const gpu_expert_matmul *a, int64_t t, uint8_t *part)
{
    int64_t k = a->shape.k, n_x = a->x_is_ranked ? a->n_used : 1;
    const uint8_t *x = row_at(d, &a->x, t, x_bytes(k * n_x, a->x_is_q8));
    const int32_t *ids = ids_at(d, &a->ids, t, a->n_used);
    float *y = floats_at(d, &a->y, t, a->n_used * a->n_out);
    for (int32_t r = 0; r < a->n_used && x && ids && y; r++) {
        if (ids[r] < 0 || ids[r] >= a->n_expert) {
            device_fail(d, "there is no such expert");
            return;
        }
        if (a->x_is_ranked && a->x_is_q8) {
            rank_of_q8(x, k, a->n_used, r, part);
        } else {
            memcpy(part, x + (a->x_is_ranked ? (size_t)r * x_bytes(k, 0) : 0),
                   x_bytes(k, a->x_is_q8));
        }
        product(d, &(product_args){.table = reference_kernels(),
                                   .w = &a->expert[ids[r]],
                                   .x = part,
                                   .x_is_q8 = a->x_is_q8,
                                   .y = y + r * a->n_out,
                                   .n_out = a->n_out});
    }
}

static void expert_matmul_run(gpu_device *d, const void *args)
{
    const gpu_expert_matmul *a = args;
    uint8_t *part = malloc(x_bytes(a->shape.k, 0));
    if (!part || !is_inside(d, a->expert, (size_t)a->n_expert * sizeof *a->expert)) {
        device_fail(d, "experts");
        free(part);
        return;
    }
    for (int64_t t = 0; t < a->n_token; t++) {
        expert_token(d, a, t, part);
    }
    free(part);
}

static void expert_sum_run(gpu_device *d, const void *args)
{
    const gpu_expert_sum *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *weight = floats_at(d, &a->weight, t, a->n_used);
        const float *x = floats_at(d, &a->x, t, a->n_used * a->n);
        float *y = floats_at(d, &a->y, t, a->n);
        if (!weight || !x || !y) {
            return;
        }
        d->table.expert_sum(weight, x, y, a->n_used, a->n);
    }
}

static void stats_run(gpu_device *d, const void *args)
{
    const gpu_stats *a = args;
    gpu_kv_load load = {a->x, {0}, a->cache, a->n_token};
    void *gathered = a->cache.base ? malloc(cache_row_bytes(&a->cache.shape)) : NULL;
    for (int64_t t = 0; t < a->n_token; t++) {
        const void *x = gathered;
        if (a->cache.base ? !x || !cache_row(d, &load, t, gathered)
                          : (x = row_at(d, &a->x, t, 1)) == NULL) {
            break;
        }
        if (!is_inside(d, a->stats + t, sizeof *a->stats)) {
            break;
        }
        a->stats[t] = (row_stats){0};
        for (int64_t i = 0; i < a->n && a->type == DTYPE_I32; i++) {
            hash_word(&a->stats[t].hash, (uint64_t)i, ((const uint32_t *)x)[i]);
        }
        if (a->type != DTYPE_I32) {
            d->table.row_stats(a->type, x, a->n, &a->stats[t]);
        }
    }
    free(gathered);
}

static void argmax_run(gpu_device *d, const void *args)
{
    const gpu_argmax *a = args;
    for (int64_t t = 0; t < a->n_token; t++) {
        const float *x = floats_at(d, &a->x, t, a->n);
        if (!x || !is_inside(d, a->id + t, sizeof *a->id)) {
            return;
        }
        int32_t best = -1;
        for (int32_t i = 0; i < (int32_t)a->n; i++) {
            best = x[i] == x[i] && (best < 0 || x[i] > x[best]) ? i : best;
        }
        a->id[t] = best;
    }
}

/* An op is counted when it is enqueued: device 5 is lost at a place that a test can name. */
void op_count(gpu_device *d)
{
    if (++d->n_op >= OPS_OF_LOST && d->number == LOST) {
        device_fail(d, "fell off the bus");
    }
}

static void op_enqueue(gpu_device *d, run_function *run, const void *args, size_t bytes)
{
    enqueue(d, run, args, bytes);
    op_count(d);
}

#define OP(name, type)                                                                             \
    static void reference_##name(gpu_device *d, const type *a)                                     \
    {                                                                                              \
        _Static_assert(sizeof *a <= ARGS_MAX, "a command holds any op");                           \
        op_enqueue(d, name##_run, a, sizeof *a);                                                   \
    }

OP(embed, gpu_embed)
OP(norm, gpu_norm)
OP(quantize, gpu_quantize)
OP(matmul, gpu_matmul)
OP(rope, gpu_rope)
OP(attention, gpu_attention)
OP(columns, gpu_columns)
OP(top_k, gpu_top_k)
OP(expert_weights, gpu_expert_weights)
OP(expert_matmul, gpu_expert_matmul)
OP(expert_sum, gpu_expert_sum)
OP(stats, gpu_stats)
OP(kv_load, gpu_kv_load)
OP(argmax, gpu_argmax)

static void reference_matmuls(gpu_device *d, const gpu_matmul *a, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        reference_matmul(d, &a[i]);
    }
}

static void reference_ropes(gpu_device *d, const gpu_rope *a, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        reference_rope(d, &a[i]);
    }
}

static void reference_stats_all(gpu_device *d, const gpu_stats *a, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        reference_stats(d, &a[i]);
    }
}

void reference_ops(gpu_plugin *plugin)
{
    plugin->weight_bytes = reference_weight_bytes;
    plugin->weight_upload = reference_weight_upload;
    plugin->embed = reference_embed;
    plugin->rms_norm = reference_norm;
    plugin->quantize = reference_quantize;
    plugin->matmul = reference_matmuls;
    plugin->rope = reference_ropes;
    plugin->attention = reference_attention;
    plugin->columns = reference_columns;
    plugin->top_k = reference_top_k;
    plugin->expert_weights = reference_expert_weights;
    plugin->expert_matmul = reference_expert_matmul;
    plugin->expert_sum = reference_expert_sum;
    plugin->kv_load = reference_kv_load;
    plugin->stats = reference_stats_all;
    plugin->argmax = reference_argmax;
}
