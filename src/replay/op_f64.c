/* op_f64.c - the arbiter: one op in binary64 on the stored weights.
 *
 * Written apart from the kernels: plain sums in index order, libm's functions, weights as the real
 * numbers ws q + wm, which binary64 holds exactly (multiples of 2^-24 below 2^27). What a contract
 * rounds is rounded (codes of activations, cache rows), nothing else is. Its own error, K 2^-53 of
 * the sum of absolute terms, is part of op_bound.
 *
 * Cosines and sines are operands: kernel_rope_table's floats, which have a test of their own
 * against MPFR; the bound of a rotation knows that they are rounded.
 */
#include "replay/op_replay.h"

#include "base/fpenv.h"
#include "kernel/blocks.h"
#include "replay/op_exact.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Operands -------------------------------------------------------------------------------- */

float op_float_at(const op_operand *in, int64_t i)
{
    float value;
    memcpy(&value, (const uint8_t *)in->values + 4 * i, sizeof value);
    return value;
}

int32_t op_id_at(const op_operand *in, int64_t i)
{
    int32_t value;
    memcpy(&value, (const uint8_t *)in->values + 4 * i, sizeof value);
    return value;
}

static double q8_at(const op_operand *in, int64_t i)
{
    float scale;
    memcpy(&scale, (const uint8_t *)in->values + in->n + i / ACT_BLOCK * 4, sizeof scale);
    return (double)((const int8_t *)in->values)[i] * (double)scale;
}

double op_value_at(const op_operand *in, int64_t i)
{
    return in->type == DTYPE_ACT_Q8 ? q8_at(in, i) : (double)op_float_at(in, i);
}

static void float_row_exact(const weight *w, const uint8_t *at, double *value, double *size)
{
    enum { PART = 256 };
    const int64_t bytes = w->type == DTYPE_F32 ? 4 : 2;
    float wide[PART];
    for (int64_t i = 0; i < w->n_col; i += PART) {
        int64_t n = w->n_col - i < PART ? w->n_col - i : PART;
        kernel_dequantize(w->type, at + bytes * i, wide, n);
        for (int64_t j = 0; j < n; j++) {
            value[i + j] = (double)wide[j];
            size[i + j] = fabs(value[i + j]);
        }
    }
}

void op_weight_exact(const weight *w, int64_t row, double *value, double *size)
{
    const uint8_t *at = w->data + row * w->row_bytes;
    if (!dtype_find((uint32_t)w->type)->is_quantised) {
        float_row_exact(w, at, value, size);
        return;
    }
    for (int64_t i = 0; i < w->n_col; i += BLOCK) {
        block_values v;
        block_read(w->type, at, i / BLOCK, &v);
        const double ws = (double)v.ws, wm = (double)v.wm;
        for (int64_t half = 0; half < 2; half++) { /* of a block: each may have its own minimum */
            const double least = wm * (block_has_two_min(w->type) ? v.m[half] : 1);
            for (int64_t j = 16 * half; j < 16 * half + 16; j++) {
                double product = ws * (double)v.q[j];
                value[i + j] = product + least;
                size[i + j] = fabs(product) + fabs(least);
            }
        }
    }
}

double op_round_kv(dtype type, double value)
{
    return type == DTYPE_F16 ? (double)kernel_f32_from_f16(kernel_f16_from_f32((float)value))
                             : value;
}

greta_status op_activations(const op_case *c, const op_contract *contract, double *x,
                            greta_error *err)
{
    const op_operand *in = &c->in[0];
    bool is_quantised = contract->act == ACT_CONTRACT_Q8 && in->type == DTYPE_F32 &&
                        c->op.w[0].tensor &&
                        dtype_find((uint32_t)c->op.w[0].tensor->type)->is_quantised;
    if (!is_quantised) {
        for (int64_t i = 0; i < in->n; i++) {
            x[i] = op_value_at(in, i);
        }
        return GRETA_OK;
    }
    op_case quantise = {
        .op = {.kind = OP_QUANTIZE}, .in = {*in}, .out = {.type = DTYPE_ACT_Q8, .n = in->n}};
    op_output row;
    GRETA_TRY(op_output_new(&quantise, &row, err));
    greta_status status = op_replay(kernel_find("ref"), &quantise, &row, err);
    op_operand codes = {DTYPE_ACT_Q8, in->n, row.values};
    for (int64_t i = 0; i < in->n && status == GRETA_OK; i++) {
        x[i] = q8_at(&codes, i);
    }
    op_output_free(&row);
    return status;
}

/* ---- Functions of one number ----------------------------------------------------------------- */

double op_activation_exact(activation f, double x)
{
    switch (f) {
    case ACTIVATION_SILU:
        return x / (1.0 + exp(-x));
    case ACTIVATION_GELU_TANH: /* x/2 (1 + tanh u) = x / (1 + e^-2u) */
        return x / (1.0 + exp(-1.5957691216057307117597 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case ACTIVATION_TANH:
        return tanh(x);
    case ACTIVATION_EXP:
        return exp(x);
    case ACTIVATION_COUNT:
        break;
    }
    return NAN;
}

/* ---- One op ---------------------------------------------------------------------------------- */

typedef struct exact {
    const op_case *c;
    const op_contract *contract;
    double *y;
    greta_error *err;
} exact;

static greta_status exact_embed(const exact *e)
{
    const weight *w = e->c->op.w[0].tensor;
    double *size = op_memory((size_t)w->n_col * sizeof *size);
    if (!size) {
        return error_memory(e->err, "the arbiter", (uint64_t)w->n_col * sizeof *size);
    }
    op_weight_exact(w, op_id_at(&e->c->in[0], 0), e->y, size);
    free(size);
    return GRETA_OK;
}

static greta_status exact_norm(const exact *e)
{
    const op *o = &e->c->op;
    const float *w = op_weight_floats(&o->w[0]);
    int64_t width = o->kind == OP_HEAD_NORM ? o->head_dim : e->c->out.n;
    for (int64_t at = 0; at < e->c->out.n; at += width) {
        double sum = 0.0;
        for (int64_t i = 0; i < width; i++) {
            double x = op_value_at(&e->c->in[0], at + i);
            sum += x * x;
        }
        double root = sqrt(sum / o->count + (double)o->eps);
        for (int64_t i = 0; i < width; i++) {
            e->y[at + i] = op_value_at(&e->c->in[0], at + i) / root * (double)w[i];
        }
    }
    return GRETA_OK;
}

static greta_status exact_quantize(const exact *e)
{
    op_case as_weights_want = *e->c;
    static const weight quantised = {.type = DTYPE_Q8_0};
    as_weights_want.op.w[0].tensor = &quantised;
    return op_activations(&as_weights_want, e->contract, e->y, e->err);
}

static greta_status exact_matmul(const exact *e)
{
    const op_case *c = e->c;
    const weight_view *view = &c->op.w[0];
    const float *bias = op_weight_floats(&c->op.w[1]);
    int64_t k = view->tensor->n_col;
    double *x = op_memory((size_t)k * 3 * sizeof *x), *w = x ? x + k : NULL;
    if (!x) {
        return error_memory(e->err, "the arbiter", (uint64_t)k * 3 * sizeof *x);
    }
    greta_status status = op_activations(c, e->contract, x, e->err);
    for (int64_t r = 0; r < view->n && status == GRETA_OK; r++) {
        double sum = 0.0;
        op_weight_exact(view->tensor, view->first + r, w, w + k);
        for (int64_t i = 0; i < k; i++) {
            sum += w[i] * x[i];
        }
        e->y[r] = sum + (bias ? (double)bias[r] : 0.0);
    }
    free(x);
    return status;
}

/* Places of pair i of a head. */
void op_pair(const op *o, int32_t i, int64_t *first, int64_t *second)
{
    bool is_halves = o->pairing == ROPE_HALVES;
    *first = is_halves ? i : 2 * i;
    *second = is_halves ? i + o->rope_dim / 2 : 2 * i + 1;
}

static greta_status exact_rope(const exact *e)
{
    const op_case *c = e->c;
    float *cos_sin = op_memory((size_t)c->op.rope_dim * sizeof *cos_sin);
    if (!cos_sin) {
        return error_memory(e->err, "the arbiter", (uint64_t)c->op.rope_dim * sizeof *cos_sin);
    }
    op_angles(c, cos_sin);
    for (int64_t i = 0; i < c->out.n; i++) {
        e->y[i] = op_value_at(&c->in[0], i);
    }
    for (int64_t at = 0; at < c->out.n; at += c->op.head_dim) {
        for (int32_t i = 0; i < c->op.rope_dim / 2; i++) {
            int64_t a, b;
            op_pair(&c->op, i, &a, &b);
            double x0 = e->y[at + a], x1 = e->y[at + b];
            double cosine = (double)cos_sin[2 * i], sine = (double)cos_sin[2 * i + 1];
            e->y[at + a] = x0 * cosine - x1 * sine;
            e->y[at + b] = x0 * sine + x1 * cosine;
        }
    }
    free(cos_sin);
    return GRETA_OK;
}

static greta_status exact_store(const exact *e)
{
    for (int64_t i = 0; i < e->c->out.n; i++) {
        e->y[i] = op_round_kv(e->contract->kv, op_value_at(&e->c->in[0], i));
    }
    return GRETA_OK;
}

static greta_status exact_rows(const exact *e)
{
    const op *o = &e->c->op;
    for (int64_t i = 0; i < e->c->out.n; i++) {
        double x = op_value_at(&e->c->in[0], i), cap = (double)o->softcap;
        switch (o->kind) {
        case OP_ADD:
            e->y[i] = x + op_value_at(&e->c->in[1], i);
            break;
        case OP_GLU:
            e->y[i] = op_activation_exact(o->activation, x) * op_value_at(&e->c->in[1], i);
            break;
        case OP_SOFTCAP:
            e->y[i] = cap * tanh(x / cap);
            break;
        default:
            e->y[i] = x * (double)o->factor;
            break;
        }
    }
    return GRETA_OK;
}

/* ---- Attention ------------------------------------------------------------------------------- */

static void head_row(const exact_head *h, const void *row, double *out)
{
    const op_case *c = h->c;
    size_t size = c->kv_type == DTYPE_F16 ? 2 : 4;
    const uint8_t *at =
        (const uint8_t *)row + (size_t)op_kv_head(c, h->head) * (size_t)c->op.head_dim * size;
    for (int32_t d = 0; d < c->op.head_dim; d++) {
        float wide;
        op_cache_floats(c->kv_type, at + (size_t)d * size, 1, &wide);
        out[d] = op_round_kv(h->kv, (double)wide);
    }
}

void op_value_row(const exact_head *h, int64_t p, double *out)
{
    head_row(h, h->c->value[p], out);
}

void op_key_row(const exact_head *h, int64_t p, double *out)
{
    head_row(h, h->c->key[p], out);
}

void op_head_weights(const exact_head *h)
{
    const op *o = &h->c->op;
    int64_t first = op_first_seen(h->c), end = h->c->end, at = (int64_t)h->head * o->head_dim;
    double most = -INFINITY, total = 0.0;
    for (int64_t p = first; p < end; p++) {
        double dot = 0.0, size = 0.0;
        head_row(h, h->c->key[p], h->row);
        for (int32_t d = 0; d < o->head_dim; d++) {
            double term = op_value_at(&h->c->in[0], at + d) * h->row[d];
            dot += term;
            size += fabs(term);
        }
        double score = dot * (double)o->scale, cap = (double)o->softcap;
        h->score[p - first] = cap > 0 ? cap * tanh(score / cap) : score;
        h->size[p - first] = size * fabs((double)o->scale);
        most = h->score[p - first] > most ? h->score[p - first] : most;
    }
    for (int64_t p = first; p < end; p++) {
        h->weight[p - first] = exp(h->score[p - first] - most);
        total += h->weight[p - first];
    }
    for (int64_t p = first; p < end; p++) {
        h->weight[p - first] /= total;
    }
}

greta_status op_head_new(const op_case *c, dtype kv, exact_head *h, greta_error *err)
{
    size_t n = (size_t)(c->end - op_first_seen(c)), dim = (size_t)c->op.head_dim;
    double *room = op_memory((3 * n + dim) * sizeof *room);
    *h = (exact_head){.c = c, .kv = kv};
    if (!room) {
        return error_memory(err, "the arbiter", (3 * n + dim) * sizeof *room);
    }
    h->score = room;
    h->size = room + n;
    h->weight = room + 2 * n;
    h->row = room + 3 * n;
    return GRETA_OK;
}

void op_head_free(exact_head *h)
{
    free(h->score);
}

static greta_status exact_attention(const exact *e)
{
    const op_case *c = e->c;
    int64_t first = op_first_seen(c);
    exact_head h;
    GRETA_TRY(op_head_new(c, e->contract->kv, &h, e->err));
    for (h.head = 0; h.head < c->op.n_head; h.head++) {
        double *y = e->y + (int64_t)h.head * c->op.head_dim;
        op_head_weights(&h);
        memset(y, 0, (size_t)c->op.head_dim * sizeof *y);
        for (int64_t p = first; p < c->end; p++) {
            op_value_row(&h, p, h.row);
            for (int32_t d = 0; d < c->op.head_dim; d++) {
                y[d] += h.weight[p - first] * h.row[d];
            }
        }
    }
    op_head_free(&h);
    return GRETA_OK;
}

/* ---- Experts --------------------------------------------------------------------------------- */

static greta_status exact_top_k(const exact *e)
{
    const op *o = &e->c->op;
    op_output ids;
    GRETA_TRY(op_output_new(e->c, &ids, e->err));
    greta_status status = op_replay(kernel_find("ref"), e->c, &ids, e->err);
    op_operand row = {DTYPE_I32, o->n_expert_used, ids.values};
    for (int32_t r = 0; r < o->n_expert_used && status == GRETA_OK; r++) {
        e->y[r] = (double)op_id_at(&row, r);
    }
    op_output_free(&ids);
    return status;
}

/* Of all experts, or of the chosen ones: the softmax of the row in the order that is summed. */
static greta_status exact_expert_weights(const exact *e)
{
    const op *o = &e->c->op;
    double total = 0.0, most = -INFINITY;
    int32_t n = o->is_norm ? o->n_expert_used : o->n_expert;
    for (int32_t i = 0; i < n; i++) {
        double x = op_value_at(&e->c->in[0], o->is_norm ? op_id_at(&e->c->in[1], i) : i);
        most = x > most ? x : most;
    }
    for (int32_t i = 0; i < n; i++) {
        total += exp(op_value_at(&e->c->in[0], o->is_norm ? op_id_at(&e->c->in[1], i) : i) - most);
    }
    for (int32_t r = 0; r < o->n_expert_used; r++) {
        e->y[r] = exp(op_value_at(&e->c->in[0], op_id_at(&e->c->in[1], r)) - most) / total;
    }
    return GRETA_OK;
}

static greta_status exact_expert_matmul(const exact *e)
{
    const op_case *c = e->c;
    void *room = op_memory(op_row_bytes(c->in[0].type, c->in[0].n));
    greta_status status =
        room ? GRETA_OK : error_memory(e->err, "the arbiter", (uint64_t)c->in[0].n * 4);
    for (int32_t r = 0; r < c->op.n_expert_used && status == GRETA_OK; r++) {
        op_case one = op_expert_case(c, r, room);
        status = exact_matmul(&(exact){&one, e->contract, e->y + r * one.out.n, e->err});
    }
    free(room);
    return status;
}

static greta_status exact_expert_sum(const exact *e)
{
    for (int64_t i = 0; i < e->c->out.n; i++) {
        e->y[i] = 0.0;
        for (int32_t r = 0; r < e->c->op.n_expert_used; r++) {
            e->y[i] +=
                op_value_at(&e->c->in[1], r) * op_value_at(&e->c->in[0], r * e->c->out.n + i);
        }
    }
    return GRETA_OK;
}

/* ---- The table of kinds ---------------------------------------------------------------------- */

static greta_status (*const exacts[OP_KIND_COUNT])(const exact *e) = {
    [OP_EMBED] = exact_embed,
    [OP_SCALE] = exact_rows,
    [OP_RMS_NORM] = exact_norm,
    [OP_HEAD_NORM] = exact_norm,
    [OP_QUANTIZE] = exact_quantize,
    [OP_MATMUL] = exact_matmul,
    [OP_ROPE] = exact_rope,
    [OP_KV_STORE] = exact_store,
    [OP_ATTENTION] = exact_attention,
    [OP_ADD] = exact_rows,
    [OP_GLU] = exact_rows,
    [OP_SOFTCAP] = exact_rows,
    [OP_TOP_K] = exact_top_k,
    [OP_EXPERT_WEIGHTS] = exact_expert_weights,
    [OP_EXPERT_MATMUL] = exact_expert_matmul,
    [OP_EXPERT_SUM] = exact_expert_sum,
};

greta_status op_replay_f64(const op_case *c, const op_contract *contract, double *out,
                           greta_error *err)
{
    char missing[OP_MISSING_MAX];
    if (!op_case_check(c, missing)) {
        return error_set(err, GRETA_BAD_INPUT, "a %s has no exact value without %s",
                         op_kind_name(c->op.kind), missing);
    }
    op_count(c);
    exact e = {c, contract, out, err};
    uint32_t saved = fpenv_enter();
    greta_status status = exacts[c->op.kind](&e);
    fpenv_leave(saved);
    return status;
}
