/* op_case.c - cases: built from a list and recorded rows, and checked before anything computes.
 *
 * A trace may hold anything. The check is what stands between it and kernels that trust their
 * operands: every length, type, id and shape that a kernel reads is compared here with what the op
 * and its weights ask for. One row of a table per op kind says how; a kind without a row cannot be
 * replayed, and test_op_replay fails.
 */
#include "replay/op_replay.h"

#include "base/limits.h"
#include "replay/op_exact.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t op_row_bytes(dtype type, int64_t n)
{
    switch (type) {
    case DTYPE_F16:
        return (size_t)n * 2;
    case DTYPE_ACT_Q8:
        return (size_t)n + (size_t)(n / ACT_BLOCK) * sizeof(float);
    default:
        return (size_t)n * 4;
    }
}

double op_work(const op *o, int64_t n, int64_t position)
{
    const weight_view *w = &o->w[0];
    double seen = (double)(o->window > 0 && position >= o->window ? o->window : position + 1);
    switch (o->kind) {
    case OP_MATMUL:
        return (double)w->n * (double)w->tensor->n_col;
    case OP_EXPERT_MATMUL:
        return (double)(w->n / o->n_expert * o->n_expert_used) * (double)w->tensor->n_col;
    case OP_ATTENTION:
        return 2 * seen * (double)o->n_head * (double)o->head_dim;
    default:
        return (double)n;
    }
}

/* ---- Building -------------------------------------------------------------------------------- */

/* The same numbers from which the session made its table. */
static rope_table_args rope_of(const op_place *at, const op *o)
{
    const struct greta_model *m = at->model;
    rope_source source = {&m->cfg.rope,  m->rope_factors,    m->rope_long,
                          m->rope_short, m->cfg.n_ctx_train, at->n_ctx};
    rope_table_args a = kernel_rope_args(&source, o->rope_table == 1);
    a.first_position = at->position;
    return a;
}

/* Rows of one side of the cache, of all positions up to this one. */
static void cache_rows(const op_place *at, const op_rows *rows, const edge *e, const void **row)
{
    for (int64_t p = 0; p <= at->position; p++) {
        op_operand found = {0};
        bool is_there = rows->find(rows->user, e->name, e->layer, p, &found) &&
                        found.type == at->kv_type && found.n == e->width;
        row[p] = is_there ? found.values : NULL;
    }
}

static greta_status case_cache(const op_place *at, const op_rows *rows, op_case *c,
                               greta_error *err)
{
    size_t n = (size_t)at->position + 1;
    c->key = calloc(n, sizeof *c->key);
    c->value = calloc(n, sizeof *c->value);
    if (!c->key || !c->value) {
        op_case_free(c);
        return error_memory(err, "the rows that attention read", 2 * n * sizeof *c->key);
    }
    c->n_key = c->end = at->position + 1;
    cache_rows(at, rows, &at->list->edge[c->op.in[1].edge], c->key);
    cache_rows(at, rows, &at->list->edge[c->op.in[2].edge], c->value);
    return GRETA_OK;
}

greta_status op_case_build(const op_place *at, const op_rows *rows, op_case *c, greta_error *err)
{
    const op_list *list = at->list;
    GRETA_ASSERT(at->index >= 0 && at->index < list->n_op && at->position >= 0);
    const op *o = &list->op[at->index];
    const edge *out = &list->edge[o->out[0]];
    *c = (op_case){.op = *o,
                   .position = at->position,
                   .kv_type = at->kv_type,
                   .out = {.type = out->is_cache ? at->kv_type : out->type, .n = out->width},
                   .rope = rope_of(at, o),
                   .work = at->work};
    for (int i = 0; i < OP_IN_MAX && o->in[i].edge >= 0; i++) {
        const edge *e = &list->edge[o->in[i].edge];
        op_operand *in = &c->in[i];
        if (e->is_cache) {
            continue;
        }
        if (!rows->find(rows->user, e->name, e->layer, at->position, in)) {
            *in = (op_operand){.type = e->type, .n = e->width};
        }
    }
    return o->kind == OP_ATTENTION ? case_cache(at, rows, c, err) : GRETA_OK;
}

void op_case_free(op_case *c)
{
    free(c->key);
    free(c->value);
    c->key = c->value = NULL;
    c->n_key = c->end = 0;
}

/* ---- Checking -------------------------------------------------------------------------------- */

typedef struct check {
    const op_case *c;
    char *missing;
} check;

static bool lacks(const check *k, const char *what)
{
    snprintf(k->missing, OP_MISSING_MAX, "%s", what);
    return false;
}

static bool has_row(const check *k, int i, dtype type, int64_t n)
{
    const op_operand *in = &k->c->in[i];
    if (in->values && in->type == type && in->n == n && n > 0) {
        return true;
    }
    snprintf(k->missing, OP_MISSING_MAX, "all %lld values (%s) of input %d", (long long)n,
             dtype_name(type), i);
    return false;
}

static bool writes(const check *k, dtype type, int64_t n)
{
    return k->c->out.type == type && k->c->out.n == n && n > 0
               ? true
               : lacks(k, "an output of that shape");
}

/* Rows of the view lie in the tensor. */
static bool has_view(const check *k, int i)
{
    const weight_view *v = &k->c->op.w[i];
    bool is_there = v->tensor && v->first >= 0 && v->n > 0 && v->tensor->n_row >= v->n &&
                    v->first <= v->tensor->n_row - v->n &&
                    (v->tensor->data || v->tensor->n_part > 0);
    return is_there || lacks(k, "its weights");
}

/* A vector that is read in place. */
static bool has_vector(const check *k, int i, int64_t n)
{
    const weight_view *v = &k->c->op.w[i];
    bool fits = has_view(k, i) && v->tensor->data && v->tensor->type == DTYPE_F32 &&
                v->n * v->tensor->n_col == n;
    return fits || lacks(k, "a vector of weights of its width");
}

static bool check_embed(const check *k)
{
    if (!has_view(k, 0) || !has_row(k, 0, DTYPE_I32, 1)) {
        return false;
    }
    int32_t token;
    memcpy(&token, k->c->in[0].values, sizeof token);
    const weight *w = k->c->op.w[0].tensor;
    return token >= 0 && token < w->n_row && w->data ? writes(k, DTYPE_F32, w->n_col)
                                                     : lacks(k, "a token of the vocabulary");
}

static bool check_norm(const check *k)
{
    int64_t n = k->c->out.n;
    return has_row(k, 0, DTYPE_F32, n) && has_vector(k, 0, n) && k->c->op.count > 0 &&
           writes(k, DTYPE_F32, n);
}

static bool heads_fit(const check *k, int32_t n_head, int64_t n)
{
    const op *o = &k->c->op;
    bool fit = n_head > 0 && n_head <= LIMIT_HEADS && o->head_dim > 0 &&
               o->head_dim <= LIMIT_HEAD_DIM && (int64_t)n_head * o->head_dim == n;
    return fit || lacks(k, "a row of whole heads");
}

static bool check_head_norm(const check *k)
{
    int64_t n = k->c->out.n;
    return heads_fit(k, k->c->op.n_head, n) && has_row(k, 0, DTYPE_F32, n) &&
           has_vector(k, 0, k->c->op.head_dim) && k->c->op.count > 0 && writes(k, DTYPE_F32, n);
}

static bool check_quantize(const check *k)
{
    int64_t n = k->c->out.n;
    return n % ACT_BLOCK == 0 && has_row(k, 0, DTYPE_F32, n) && writes(k, DTYPE_ACT_Q8, n);
}

/* The row of a matrix of n_col columns: floats, or codes where the weights are quantised. */
static bool has_activations(const check *k, int64_t n)
{
    const weight *w = k->c->op.w[0].tensor;
    const dtype_traits *traits = dtype_find((uint32_t)w->type);
    bool is_q8 = k->c->in[0].type == DTYPE_ACT_Q8;
    if (!traits || n % traits->block != 0 || (is_q8 && !traits->is_quantised)) {
        return lacks(k, "a row of the type that its weights want");
    }
    return has_row(k, 0, is_q8 ? DTYPE_ACT_Q8 : DTYPE_F32, n);
}

static bool check_matmul(const check *k)
{
    const op *o = &k->c->op;
    return has_view(k, 0) && o->w[0].tensor->data && has_activations(k, o->w[0].tensor->n_col) &&
           (!o->w[1].tensor || has_vector(k, 1, o->w[0].n)) && writes(k, DTYPE_F32, o->w[0].n);
}

static bool check_rope(const check *k)
{
    const op_case *c = k->c;
    bool turns = c->op.rope_dim > 0 && c->op.rope_dim % 2 == 0 &&
                 c->op.rope_dim <= c->op.head_dim && c->rope.rope_dim == c->op.rope_dim;
    return heads_fit(k, c->op.n_head, c->out.n) && has_row(k, 0, DTYPE_F32, c->out.n) &&
           writes(k, DTYPE_F32, c->out.n) && (turns || lacks(k, "rotary dimensions"));
}

static bool is_cache_type(dtype type)
{
    return type == DTYPE_F16 || type == DTYPE_F32;
}

static bool check_kv_store(const check *k)
{
    int64_t n = k->c->out.n;
    return is_cache_type(k->c->kv_type) && heads_fit(k, k->c->op.n_head_kv, n) &&
           has_row(k, 0, DTYPE_F32, n) && writes(k, k->c->kv_type, n);
}

static bool check_attention(const check *k)
{
    const op_case *c = k->c;
    const op *o = &c->op;
    if (!heads_fit(k, o->n_head, c->out.n) || o->n_head_kv < 1 || o->n_head % o->n_head_kv != 0 ||
        !is_cache_type(c->kv_type) || !has_row(k, 0, DTYPE_F32, c->out.n)) {
        return k->missing[0] ? false : lacks(k, "heads in whole groups");
    }
    for (int32_t h = 0; h < o->n_head && c->kv_head; h++) {
        if (c->kv_head[h] < 0 || c->kv_head[h] >= o->n_head_kv) {
            return lacks(k, "a kv head of each query head");
        }
    }
    if (c->end < 1 || c->end > c->n_key || o->window < 0) {
        return lacks(k, "a visible position");
    }
    for (int64_t p = op_first_seen(c); p < c->end; p++) {
        if (!c->key[p] || !c->value[p]) {
            snprintf(k->missing, OP_MISSING_MAX, "the %s row of position %lld",
                     c->key[p] ? "value" : "key", (long long)p);
            return false;
        }
    }
    return writes(k, DTYPE_F32, c->out.n);
}

/* Ids of experts by rank, one of each. */
static bool has_ids(const check *k, int i)
{
    const op *o = &k->c->op;
    bool is_fit = o->n_expert > 0 && o->n_expert <= LIMIT_EXPERTS && o->n_expert_used > 0 &&
                  o->n_expert_used <= o->n_expert;
    if (!is_fit || !has_row(k, i, DTYPE_I32, o->n_expert_used)) {
        return k->missing[0] ? false : lacks(k, "experts");
    }
    for (int32_t r = 0; r < o->n_expert_used; r++) {
        int32_t id = op_id_at(&k->c->in[i], r);
        if (id < 0 || id >= o->n_expert) {
            return lacks(k, "an expert that there is");
        }
    }
    return true;
}

static bool check_top_k(const check *k)
{
    const op *o = &k->c->op;
    return o->n_expert_used > 0 && o->n_expert_used <= o->n_expert &&
           o->n_expert <= LIMIT_EXPERTS && has_row(k, 0, DTYPE_F32, o->n_expert) &&
           writes(k, DTYPE_I32, o->n_expert_used);
}

static bool check_expert_weights(const check *k)
{
    return has_ids(k, 1) && has_row(k, 0, DTYPE_F32, k->c->op.n_expert) &&
           writes(k, DTYPE_F32, k->c->op.n_expert_used);
}

static bool check_expert_matmul(const check *k)
{
    const op *o = &k->c->op;
    const weight *w = o->w[0].tensor;
    if (!has_ids(k, 1) || !has_view(k, 0) || o->w[0].n % o->n_expert != 0) {
        return k->missing[0] ? false : lacks(k, "a matrix of each expert");
    }
    bool is_parted = w->n_part > 0;
    for (int32_t i = 0; i < w->n_part; i++) {
        is_parted &= w->part && w->part[i] && w->part[i]->data;
    }
    bool is_whole = is_parted ? w->n_part == o->n_expert : w->data != NULL;
    int64_t n = k->c->in[0].n == w->n_col ? w->n_col : w->n_col * o->n_expert_used;
    return (is_whole || lacks(k, "a matrix of each expert")) && has_activations(k, n) &&
           writes(k, DTYPE_F32, o->w[0].n / o->n_expert * o->n_expert_used);
}

static bool check_expert_sum(const check *k)
{
    const op *o = &k->c->op;
    bool is_fit = o->n_expert_used > 0 && o->n_expert_used <= LIMIT_EXPERTS_USED;
    return (is_fit || lacks(k, "experts")) &&
           has_row(k, 0, DTYPE_F32, k->c->out.n * o->n_expert_used) &&
           has_row(k, 1, DTYPE_F32, o->n_expert_used) && writes(k, DTYPE_F32, k->c->out.n);
}

static bool check_one(const check *k)
{
    return has_row(k, 0, DTYPE_F32, k->c->out.n) && writes(k, DTYPE_F32, k->c->out.n);
}

static bool check_two(const check *k)
{
    return check_one(k) && has_row(k, 1, DTYPE_F32, k->c->out.n);
}

static bool (*const checks[OP_KIND_COUNT])(const check *k) = {
    [OP_EMBED] = check_embed,
    [OP_SCALE] = check_one,
    [OP_RMS_NORM] = check_norm,
    [OP_HEAD_NORM] = check_head_norm,
    [OP_QUANTIZE] = check_quantize,
    [OP_MATMUL] = check_matmul,
    [OP_ROPE] = check_rope,
    [OP_KV_STORE] = check_kv_store,
    [OP_ATTENTION] = check_attention,
    [OP_ADD] = check_two,
    [OP_GLU] = check_two,
    [OP_SOFTCAP] = check_one,
    [OP_TOP_K] = check_top_k,
    [OP_EXPERT_WEIGHTS] = check_expert_weights,
    [OP_EXPERT_MATMUL] = check_expert_matmul,
    [OP_EXPERT_SUM] = check_expert_sum,
};

bool op_case_check(const op_case *c, char missing[OP_MISSING_MAX])
{
    missing[0] = '\0';
    if ((unsigned)c->op.kind >= OP_KIND_COUNT || !checks[c->op.kind]) {
        snprintf(missing, OP_MISSING_MAX, "a replay of %s", op_kind_name(c->op.kind));
        return false;
    }
    check k = {c, missing};
    bool fits = checks[c->op.kind](&k);
    if (!fits && missing[0] == '\0') {
        snprintf(missing, OP_MISSING_MAX, "numbers that the op can have");
    }
    return fits;
}

/* ---- Output ---------------------------------------------------------------------------------- */

greta_status op_output_new(const op_case *c, op_output *out, greta_error *err)
{
    *out = (op_output){.type = c->out.type, .n = c->out.n, .inv_rms = NAN};
    out->bytes = op_row_bytes(out->type, out->n);
    out->values = op_memory(out->bytes);
    return out->values ? GRETA_OK : error_memory(err, "a replayed row", out->bytes);
}

void op_output_free(op_output *out)
{
    free(out->values);
    *out = (op_output){0};
}
