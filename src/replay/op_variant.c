/* op_variant.c - ops with another arithmetic, but for products (op_variant_dot.c).
 *
 * Formulas come from bugs of real engines (EXPLAINING), orders and precisions from engines that
 * are right. Written apart from kernel/ and fault/: a shared mistake would hide itself.
 */
#include "replay/op_variant.h"

#include "replay/op_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The upper `keep` bits of the fraction, nearest even. */
static float fraction_round(float value, int keep)
{
    union {
        float f;
        uint32_t bits;
    } u = {.f = value};
    if (isnan(value) || isinf(value)) {
        return value;
    }
    uint32_t drop = 23u - (uint32_t)keep, half = (1u << (drop - 1)) - 1;
    u.bits += half + ((u.bits >> drop) & 1u);
    u.bits &= ~((1u << drop) - 1);
    return u.f;
}

float precision_round(precision p, float value)
{
    switch (p) {
    case PRECISION_TF32:
        return fraction_round(value, 10);
    case PRECISION_BF16:
        return fraction_round(value, 7);
    case PRECISION_F16:
        return kernel_f32_from_f16(kernel_f16_from_f32(value));
    case PRECISION_F32:
        break;
    }
    return value;
}

/* ---- Norms ----------------------------------------------------------------------------------- */

static bool variant_norm(const op_case *c, const float *x, op_output *out)
{
    int64_t width = c->op.kind == OP_HEAD_NORM ? c->op.head_dim : out->n;
    float *terms = op_memory((size_t)width * sizeof *terms);
    for (int64_t at = 0; at < out->n && terms; at += width) {
        norm_args a = {.x = x + at,
                       .weight = op_weight_floats(&c->op.w[0]),
                       .y = (float *)out->values + at,
                       .n = width,
                       .count = c->op.count,
                       .eps = c->op.eps};
        norm_variant_apply(c->variant.norm, &a, terms);
        out->inv_rms = a.inv_rms;
    }
    free(terms);
    return terms != NULL;
}

/* ---- The quantiser --------------------------------------------------------------------------- */

static int8_t code_of(const act_quantiser *q, float steps, float limit)
{
    float code = q->is_cut ? truncf(steps) : q->is_away ? roundf(steps) : rintf(steps);
    code = code > limit ? limit : code < -128.0f ? -128.0f : code;
    return (int8_t)code;
}

/* One scale for `width` values. */
static void quantize_group(const act_quantiser *q, const float *x, int64_t width, int8_t *code,
                           float *scale)
{
    float largest = 0.0f, steps = q->steps ? (float)q->steps : 127.0f;
    for (int64_t i = 0; i < width; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    bool is_finite = largest <= 0x1.fffffep+127f;
    bool is_zero = !is_finite || largest < 0x1p-100f;
    float d = !is_finite ? NAN : is_zero ? 0.0f : largest / steps;
    float inverse = steps / largest;
    for (int64_t i = 0; i < width; i++) {
        float step = is_zero ? 0.0f : q->is_divided ? x[i] / d : x[i] * inverse;
        code[i] = code_of(q, step, 127.0f);
    }
    d = q->is_half ? precision_round(PRECISION_F16, d) : d;
    for (int64_t b = 0; b < width / ACT_BLOCK; b++) {
        memcpy(scale + b, &d, sizeof d);
    }
}

static bool variant_quantize(const op_case *c, const float *x, op_output *out)
{
    const act_quantiser *q = &c->variant.quantiser;
    int64_t width = q->width ? q->width : ACT_BLOCK;
    int8_t *code = out->values;
    float *scale = (float *)(void *)(code + out->n);
    for (int64_t at = 0; at < out->n; at += width) {
        int64_t n = out->n - at < width ? out->n - at : width;
        quantize_group(q, x + at, n, code + at, scale + at / ACT_BLOCK);
    }
    return true;
}

/* ---- Activations ----------------------------------------------------------------------------- */

static double wrong_function(wrong_activation f, double x)
{
    switch (f) {
    case WRONG_ACTIVATION_GELU_ERF:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case WRONG_ACTIVATION_GELU_QUICK:
        return x / (1.0 + exp(-1.702 * x));
    case WRONG_ACTIVATION_RELU:
        return x > 0 ? x : 0.0;
    default:
        return x;
    }
}

static bool variant_glu(const op_case *c, const float *gate, const float *up, float *y)
{
    for (int64_t i = 0; i < c->out.n; i++) {
        y[i] = (float)wrong_function(c->variant.activation, (double)gate[i]) * up[i];
    }
    return true;
}

/* ---- Attention ------------------------------------------------------------------------------- */

typedef struct head_work {
    const op_case *c;
    const float *q;
    int64_t at;    /* of the kv head in a cache row */
    double *score; /* (end) */
    float *row;    /* (head_dim) of a key or value */
    double *sum;   /* (head_dim) */
} head_work;

static void head_row(const head_work *w, const void *cache_row)
{
    size_t size = w->c->kv_type == DTYPE_F16 ? 2 : 4;
    op_cache_floats(w->c->kv_type, (const uint8_t *)cache_row + (size_t)w->at * size,
                    w->c->op.head_dim, w->row);
}

/* Rounded after every operation but in binary64. */
static double settle(const head_work *w, double value)
{
    return w->c->variant.attention == ATTENTION_F64 ? value : (double)(float)value;
}

static double head_score(const head_work *w, int64_t p)
{
    const op *o = &w->c->op;
    double dot = 0.0;
    head_row(w, w->c->key[p]);
    for (int32_t d = 0; d < o->head_dim; d++) {
        dot = w->c->variant.attention == ATTENTION_F64
                  ? dot + (double)w->q[d] * (double)w->row[d]
                  : (double)fmaf(w->q[d], w->row[d], (float)dot);
    }
    double score = settle(w, dot * (double)o->scale);
    return o->softcap > 0 ? settle(w, (double)o->softcap * tanh(score / (double)o->softcap))
                          : score;
}

static void head_attend(const head_work *w, float *y)
{
    int64_t first = op_first_seen(w->c), end = w->c->end;
    double most = -INFINITY, total = 0.0;
    for (int64_t p = first; p < end; p++) {
        w->score[p] = head_score(w, p);
        most = w->score[p] > most ? w->score[p] : most;
    }
    most = w->c->variant.attention == ATTENTION_NO_MAX ? 0.0 : most;
    for (int32_t d = 0; d < w->c->op.head_dim; d++) {
        w->sum[d] = 0.0;
    }
    for (int64_t p = first; p < end; p++) {
        double e = settle(w, exp(settle(w, w->score[p] - most)));
        total = settle(w, total + e);
        head_row(w, w->c->value[p]);
        for (int32_t d = 0; d < w->c->op.head_dim; d++) {
            w->sum[d] = w->c->variant.attention == ATTENTION_F64
                            ? w->sum[d] + e * (double)w->row[d]
                            : (double)fmaf((float)e, w->row[d], (float)w->sum[d]);
        }
    }
    for (int32_t d = 0; d < w->c->op.head_dim; d++) {
        y[d] = (float)(w->sum[d] / total);
    }
}

static bool variant_attention(const op_case *c, const float *q, float *y)
{
    size_t n = (size_t)c->op.head_dim;
    double *room = op_memory(((size_t)c->end + 2 * n) * sizeof *room);
    for (int32_t h = 0; h < c->op.n_head && room; h++) {
        head_work w = {.c = c,
                       .q = q + (int64_t)h * c->op.head_dim,
                       .at = (int64_t)op_kv_head(c, h) * c->op.head_dim,
                       .score = room,
                       .sum = room + c->end,
                       .row = (float *)(void *)(room + (size_t)c->end + n)};
        head_attend(&w, y + (int64_t)h * c->op.head_dim);
    }
    free(room);
    return room != NULL;
}

/* ---- Which --------------------------------------------------------------------------------- */

bool op_variant_applies(const op_case *c)
{
    const op_variant *v = &c->variant;
    const act_quantiser *q = &v->quantiser;
    switch (c->op.kind) {
    case OP_RMS_NORM:
    case OP_HEAD_NORM:
        return v->norm != NULL;
    case OP_MATMUL:
        return v->order != DOT_CANONICAL || v->input != PRECISION_F32 ||
               v->accumulator != PRECISION_F32 || v->tail != TAIL_NONE || v->is_flushed;
    case OP_QUANTIZE:
        return q->width || q->steps || q->is_away || q->is_cut || q->is_divided || q->is_half;
    case OP_GLU:
        return v->activation != WRONG_ACTIVATION_NONE;
    case OP_ATTENTION:
        return v->attention != ATTENTION_CANONICAL;
    default:
        return false;
    }
}

bool op_variant_run(const op_case *c, const void *const x[OP_IN_MAX], op_output *out)
{
    switch (c->op.kind) {
    case OP_RMS_NORM:
    case OP_HEAD_NORM:
        return variant_norm(c, x[0], out);
    case OP_QUANTIZE:
        return variant_quantize(c, x[0], out);
    case OP_GLU:
        return variant_glu(c, x[0], x[1], out->values);
    case OP_ATTENTION:
        return variant_attention(c, x[0], out->values);
    default:
        return op_variant_matmul(c, x[0], out->values);
    }
}
