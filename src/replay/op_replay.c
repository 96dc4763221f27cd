/* op_replay.c - one op at one token through a kernel table.
 *
 * Each kind is one function that hands the case to the kernel as the walk over the op list would
 * (engine/walk.c), and one row of a table. Rows of traces are copied to where a kernel may read
 * them; the sums of a quantised row, which traces do not keep, follow from its codes; cache rows
 * are put back into tiles at their absolute positions, because attention's order of summation
 * depends on them. Weights are read in the file's layout: what packing did is on trial.
 */
#include "replay/op_replay.h"

#include "base/fpenv.h"
#include "replay/op_exact.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    const kernel_table *table;
    const op_case *c;
    const void *x[OP_IN_MAX]; /* rows as kernels read them; NULL: absent */
    op_output *out;
} job;

void *op_memory(size_t bytes)
{
    void *memory = NULL;
    size_t whole = (bytes + 127) / 64 * 64; /* never 0, and a line behind the end */
    if (posix_memalign(&memory, 64, whole) != 0) {
        return NULL;
    }
    return memset(memory, 0, whole);
}

/* ---- Rows without memory of their own -------------------------------------------------------- */

static bool run_embed(const job *j)
{
    const weight *w = j->c->op.w[0].tensor;
    embed_args a = {w->type, w->data + *(const int32_t *)j->x[0] * w->row_bytes, j->out->values,
                    w->n_col};
    j->table->embed(&a);
    return true;
}

static bool run_norm(const job *j)
{
    const op *o = &j->c->op;
    int64_t width = o->kind == OP_HEAD_NORM ? o->head_dim : j->out->n;
    for (int64_t at = 0; at < j->out->n; at += width) {
        norm_args a = {.x = (const float *)j->x[0] + at,
                       .weight = op_weight_floats(&o->w[0]),
                       .y = (float *)j->out->values + at,
                       .n = width,
                       .count = o->count,
                       .eps = o->eps};
        j->table->rms_norm(&a);
        j->out->inv_rms = a.inv_rms;
    }
    return true;
}

static bool run_quantize(const job *j)
{
    int64_t n = j->out->n;
    uint8_t *row = op_memory(act_q8_bytes(n));
    if (row) {
        j->table->quantize(j->x[0], row, n, 0, n);
        memcpy(j->out->values, row, j->out->bytes);
    }
    free(row);
    return row != NULL;
}

static bool run_matmul(const job *j)
{
    const op *o = &j->c->op;
    const weight *w = o->w[0].tensor;
    matmul_args a = {.type = w->type,
                     .w = w->data + o->w[0].first * w->row_bytes,
                     .row_bytes = w->row_bytes,
                     .bias = op_weight_floats(&o->w[1]),
                     .x = j->x[0],
                     .x_stride = 0,
                     .y = j->out->values,
                     .y_stride = 0,
                     .k = w->n_col,
                     .n_token = 1,
                     .x_is_q8 = j->c->in[0].type == DTYPE_ACT_Q8};
    j->table->matmul(&a, 0, o->w[0].n);
    return true;
}

static bool run_kv_store(const job *j)
{
    const op_case *c = j->c;
    kv_shape shape = {c->kv_type, c->op.n_head_kv, c->op.head_dim};
    size_t tile = (size_t)kv_block_size(&shape) * (size_t)shape.n_head_kv * kv_value_bytes(&shape);
    void *cache = op_memory(tile);
    if (cache) {
        int64_t position = c->position % ATTENTION_TILE;
        kv_side side = c->op.name == STAGE_K_CACHE ? KV_KEYS : KV_VALUES;
        kv_store_args a = {j->x[0], cache, shape, side, position};
        j->table->kv_store(&a, 0, shape.n_head_kv);
        kernel_kv_load(&(kv_load_args){cache, shape, side, position, j->out->values});
    }
    free(cache);
    return cache != NULL;
}

static bool run_columns(const job *j)
{
    const op *o = &j->c->op;
    int64_t n = j->out->n;
    switch (o->kind) {
    case OP_ADD:
        j->table->add(j->x[0], j->x[1], j->out->values, n);
        break;
    case OP_GLU:
        j->table->glu(o->activation, j->x[0], j->x[1], j->out->values, n);
        break;
    case OP_SCALE:
        j->table->scale(o->factor, j->x[0], j->out->values, n);
        break;
    default:
        j->table->softcap(o->softcap, j->x[0], j->out->values, n);
        break;
    }
    return true;
}

/* ---- Experts --------------------------------------------------------------------------------- */

static bool run_top_k(const job *j)
{
    const op *o = &j->c->op;
    j->table->top_k(j->x[0], o->n_expert, j->out->values, o->n_expert_used);
    return true;
}

static bool run_expert_weights(const job *j)
{
    const op *o = &j->c->op;
    expert_weights_args a = {.router = j->x[0],
                             .ids = j->x[1],
                             .y = j->out->values,
                             .n = o->n_expert,
                             .n_used = o->n_expert_used,
                             .is_norm = o->is_norm};
    j->table->expert_weights(&a);
    return true;
}

static bool run_expert_sum(const job *j)
{
    j->table->expert_sum(j->x[1], j->x[0], j->out->values, j->c->op.n_expert_used, j->out->n);
    return true;
}

op_case op_expert_case(const op_case *c, int32_t r, void *room)
{
    op_case one = *c;
    const op_operand *in = &c->in[0];
    int64_t k = c->op.w[0].tensor->n_col, at = in->n == k ? 0 : r * k;
    one.op.kind = OP_MATMUL;
    one.work = NULL; /* counted as a whole */
    one.op.w[0] = weight_view_expert(&c->op.w[0], c->op.n_expert, op_id_at(&c->in[1], r));
    one.in[0].n = k;
    one.in[0].values = room;
    one.in[1] = (op_operand){0};
    one.out.n = one.op.w[0].n;
    if (in->type == DTYPE_ACT_Q8) {
        memcpy(room, (const uint8_t *)in->values + at, (size_t)k);
        memcpy((uint8_t *)room + k, (const uint8_t *)in->values + in->n + at / ACT_BLOCK * 4,
               (size_t)(k / ACT_BLOCK) * 4);
    } else {
        memcpy(room, (const uint8_t *)in->values + 4 * at, (size_t)k * 4);
    }
    return one;
}

/* One product a rank, by whatever the case's variant says. */
static bool run_expert_matmul(const job *j)
{
    const op_case *c = j->c;
    void *room = op_memory(op_row_bytes(c->in[0].type, c->in[0].n));
    bool done = room != NULL;
    for (int32_t r = 0; r < c->op.n_expert_used && done; r++) {
        op_case one = op_expert_case(c, r, room);
        op_output y;
        done = op_output_new(&one, &y, NULL) == GRETA_OK;
        done = done && op_replay(j->table, &one, &y, NULL) == GRETA_OK;
        if (done) {
            memcpy((uint8_t *)j->out->values + (size_t)r * y.bytes, y.values, y.bytes);
        }
        op_output_free(&y);
    }
    free(room);
    return done;
}

/* ---- Rotation -------------------------------------------------------------------------------- */

void op_angles(const op_case *c, float *cos_sin)
{
    if (c->cos_sin) {
        memcpy(cos_sin, c->cos_sin, (size_t)c->op.rope_dim * sizeof *cos_sin);
    } else {
        kernel_rope_table(&c->rope, cos_sin);
    }
    for (int32_t i = 0; i < c->op.rope_dim; i++) {
        cos_sin[i] = precision_round(c->variant.angles, cos_sin[i]);
    }
}

static bool run_rope(const job *j)
{
    const op_case *c = j->c;
    float *cos_sin = op_memory((size_t)c->op.rope_dim * sizeof *cos_sin);
    if (cos_sin) {
        op_angles(c, cos_sin);
        rope_args a = {.x = j->x[0],
                       .y = j->out->values,
                       .cos_sin = cos_sin,
                       .n_head = c->op.n_head,
                       .head_dim = c->op.head_dim,
                       .rope_dim = c->op.rope_dim,
                       .pairing = c->op.pairing};
        j->table->rope(&a);
    }
    free(cos_sin);
    return cos_sin != NULL;
}

/* ---- Attention ------------------------------------------------------------------------------- */

void op_cache_floats(dtype type, const void *row, int64_t n, float *out)
{
    if (type == DTYPE_F32) {
        memcpy(out, row, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)row + 2 * i, sizeof half);
        out[i] = kernel_f32_from_f16(half);
    }
}

/* One head of a gathered row to its place in a tile. */
static void head_place(const kv_shape *shape, kv_side side, const uint8_t *head, void *cache,
                       int64_t at)
{
    size_t size = kv_value_bytes(shape);
    for (int64_t d = 0; d < shape->head_dim; d++, at += kv_step(side)) {
        memcpy((uint8_t *)cache + (size_t)at * size, head + (size_t)d * size, size);
    }
}

/* The rows that are seen, at their absolute positions. With a map of heads every query head has a
 * kv head of its own. */
static void cache_fill(const op_case *c, const kv_shape *shape, kv_side side, void *cache)
{
    const void **row = side == KV_KEYS ? c->key : c->value;
    size_t head_bytes = (size_t)shape->head_dim * kv_value_bytes(shape);
    for (int64_t p = op_first_seen(c); p < c->end; p++) {
        for (int32_t h = 0; h < shape->n_head_kv; h++) {
            int32_t from = c->kv_head ? c->kv_head[h] : h;
            head_place(shape, side, (const uint8_t *)row[p] + (size_t)from * head_bytes, cache,
                       kv_at(shape, side, p, h));
        }
    }
}

static bool run_attention(const job *j)
{
    const op_case *c = j->c;
    kv_shape shape = {c->kv_type, c->kv_head ? c->op.n_head : c->op.n_head_kv, c->op.head_dim};
    size_t n_tile = (size_t)((c->end + ATTENTION_TILE - 1) / ATTENTION_TILE);
    size_t bytes =
        n_tile * (size_t)kv_block_size(&shape) * (size_t)shape.n_head_kv * kv_value_bytes(&shape);
    void *k = op_memory(bytes), *v = op_memory(bytes);
    if (k && v) {
        cache_fill(c, &shape, KV_KEYS, k);
        cache_fill(c, &shape, KV_VALUES, v);
        attention_args a = {.q = j->x[0],
                            .k = k,
                            .v = v,
                            .kv = shape,
                            .n_position = c->end,
                            .n_token = 1,
                            .n_head = c->op.n_head,
                            .scale = c->op.scale,
                            .y = j->out->values,
                            .softcap = c->op.softcap,
                            .window = c->end - op_first_seen(c)};
        j->table->attention(&a, 0, shape.n_head_kv);
    }
    free(k);
    free(v);
    return k && v;
}

/* ---- The table of kinds ---------------------------------------------------------------------- */

static bool (*const runs[OP_KIND_COUNT])(const job *j) = {
    [OP_EMBED] = run_embed,
    [OP_SCALE] = run_columns,
    [OP_RMS_NORM] = run_norm,
    [OP_HEAD_NORM] = run_norm,
    [OP_QUANTIZE] = run_quantize,
    [OP_MATMUL] = run_matmul,
    [OP_ROPE] = run_rope,
    [OP_KV_STORE] = run_kv_store,
    [OP_ATTENTION] = run_attention,
    [OP_ADD] = run_columns,
    [OP_GLU] = run_columns,
    [OP_SOFTCAP] = run_columns,
    [OP_TOP_K] = run_top_k,
    [OP_EXPERT_WEIGHTS] = run_expert_weights,
    [OP_EXPERT_MATMUL] = run_expert_matmul,
    [OP_EXPERT_SUM] = run_expert_sum,
};

const kernel_table *op_replay_table(const char *recorded_by)
{
    bool made_by_ref = recorded_by && strcmp(recorded_by, "ref") == 0;
    const kernel_table *other = made_by_ref ? kernel_find("ref-avx2") : NULL;
    return other ? other : kernel_find("ref");
}

/* A recorded row as kernels read it: aligned, and a quantised one with the sums of its blocks. */
static void *row_copy(const op_operand *in)
{
    size_t kept = op_row_bytes(in->type, in->n);
    size_t sums = in->type == DTYPE_ACT_Q8 ? (size_t)(in->n / ACT_BLOCK) * sizeof(int32_t) : 0;
    uint8_t *row = op_memory(kept + sums);
    if (!row) {
        return NULL;
    }
    memcpy(row, in->values, kept);
    for (size_t b = 0; b < sums / sizeof(int32_t); b++) {
        int32_t sum = 0;
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            sum += (int8_t)row[b * ACT_BLOCK + i];
        }
        memcpy(row + kept + b * sizeof sum, &sum, sizeof sum);
    }
    return row;
}

/* What the variant leaves to the table, or does to any op. */
static bool replay_run(const job *j)
{
    const op_case *c = j->c;
    const op_variant *v = &c->variant;
    float *y = j->out->values;
    bool has_floats = j->out->type == DTYPE_F32, done = true;
    if (v->is_copy && has_floats && c->in[0].type == DTYPE_F32 && c->in[0].n == c->out.n) {
        memcpy(y, j->x[0], j->out->bytes);
    } else {
        uint32_t saved = 0;
        bool is_flushing = v->is_flushing && fpenv_flush(&saved);
        done = op_variant_applies(c) ? op_variant_run(c, j->x, j->out) : runs[c->op.kind](j);
        if (is_flushing) {
            fpenv_leave(saved);
        }
    }
    for (int64_t i = (int64_t)v->heads_only * c->op.head_dim;
         i < c->out.n && v->heads_only > 0 && c->op.kind == OP_ROPE; i++) {
        y[i] = ((const float *)j->x[0])[i];
    }
    for (int64_t i = 0; i < c->out.n && has_floats && done; i++) {
        y[i] = v->clamp > 0 && fabsf(y[i]) > v->clamp ? copysignf(v->clamp, y[i]) : y[i];
        y[i] = precision_round(v->output, y[i]);
        y[i] = v->left && i >= v->left_from ? v->left[i] : y[i];
    }
    return done;
}

greta_status op_replay(const kernel_table *table, const op_case *c, op_output *out,
                       greta_error *err)
{
    char missing[OP_MISSING_MAX];
    if (!op_case_check(c, missing) || out->n != c->out.n || out->type != c->out.type) {
        return error_set(err, GRETA_BAD_INPUT, "a %s cannot be replayed without %s",
                         op_kind_name(c->op.kind), missing[0] ? missing : "room for its row");
    }
    op_count(c);
    job j = {.table = table, .c = c, .out = out};
    void *copy[OP_IN_MAX] = {0};
    bool done = true;
    for (int i = 0; i < OP_IN_MAX && done; i++) {
        if (c->in[i].values) {
            j.x[i] = copy[i] = row_copy(&c->in[i]);
            done = copy[i] != NULL;
        }
    }
    if (done) {
        uint32_t saved = fpenv_enter();
        done = replay_run(&j);
        fpenv_leave(saved);
    }
    for (int i = 0; i < OP_IN_MAX; i++) {
        free(copy[i]);
    }
    return done ? GRETA_OK : error_memory(err, "a replay", out->bytes);
}
