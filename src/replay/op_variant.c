/* op_variant.c - ops with another arithmetic, but for products (op_variant_dot.c).
 *
 * Formulas come from bugs of real engines (EXPLAINING), orders and precisions from engines that
 * are right. Written apart from kernel/ and fault/: a shared mistake would hide itself.
 */
#include "replay/op_variant.h"

#include "replay/op_exact.h"

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

/* The lowest `drop` bits of the fraction are zero. */
static float fraction_cut(float value, int drop)
{
    union {
        float f;
        uint32_t bits;
    } u = {.f = value};
    if (isnan(value)) {
        return value;
    }
    u.bits &= ~((1u << drop) - 1);
    return u.f;
}

/* Steps of 2^-9 below 2^-6, else of an eighth of the power of two; nearest even. */
static float e4m3_round(float value)
{
    float size = fabsf(value), step;
    int exponent;
    if (isnan(value)) {
        return value;
    }
    frexpf(size, &exponent);
    step = size < 0x1p-6f ? 0x1p-9f : ldexpf(1.0f, exponent - 4);
    float rounded = size >= 448.0f ? 448.0f : rintf(size / step) * step;
    return copysignf(rounded > 448.0f ? 448.0f : rounded, value);
}

float precision_round(precision p, float value)
{
    switch (p) {
    case PRECISION_TF32:
        return fraction_round(value, 10);
    case PRECISION_TF32_CUT:
        return fraction_cut(value, 13);
    case PRECISION_BF16:
        return fraction_round(value, 7);
    case PRECISION_F16:
        return kernel_f32_from_f16(kernel_f16_from_f32(value));
    case PRECISION_E4M3:
        return e4m3_round(value);
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
    case WRONG_ACTIVATION_GELU_ERF_SUM:
        return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
    case WRONG_ACTIVATION_GELU_QUICK:
        return x / (1.0 + exp(-1.702 * x));
    case WRONG_ACTIVATION_RELU:
        return x > 0 ? x : 0.0;
    default:
        return x;
    }
}

static float flushed(const op_case *c, float value)
{
    return c->variant.is_flushed && fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;
}

static bool variant_glu(const op_case *c, const float *gate, const float *up, float *y)
{
    const kernel_table *ref = kernel_find("ref");
    for (int64_t i = 0; i < c->out.n; i++) {
        float value = (float)wrong_function(c->variant.activation, (double)gate[i]), g = gate[i];
        if (c->variant.activation == WRONG_ACTIVATION_NONE) {
            g = flushed(c, g);
            ref->glu(c->op.activation, &g, NULL, &value, 1);
        } else if (c->variant.activation == WRONG_ACTIVATION_GELU_QUICK_F32) {
            g = 1.702f * g;
            ref->glu(ACTIVATION_SIGMOID, &g, NULL, &value, 1);
            value = gate[i] * value;
        }
        y[i] = flushed(c, flushed(c, value) * flushed(c, up[i]));
    }
    return true;
}

/* ---- Experts --------------------------------------------------------------------------------- */

static bool variant_expert_weights(const op_case *c, const float *router, const int32_t *ids,
                                   float *y)
{
    for (int64_t r = 0; r < c->out.n; r++) {
        y[r] = c->variant.expert_weights == WRONG_WEIGHTS_EQUAL ? 1.0f / (float)c->out.n
                                                                : router[ids[r]];
        if (c->variant.expert_weights == WRONG_WEIGHTS_SIGMOID) {
            kernel_find("ref")->glu(ACTIVATION_SIGMOID, &router[ids[r]], NULL, &y[r], 1);
        }
    }
    return true;
}

static bool variant_top_k(const op_case *c, const float *router, int32_t *ids)
{
    int32_t n = c->op.n_expert;
    kernel_find("ref")->top_k(router, n, ids, c->op.n_expert_used);
    for (int64_t r = 0; r < c->out.n; r++) {
        ids[r] = (ids[r] + c->variant.id_shift % n + n) % n;
    }
    return true;
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* Every product rounded. */
static bool variant_rope(const op_case *c, const float *x, float *y)
{
    float *cos_sin = op_memory((size_t)c->op.rope_dim * sizeof *cos_sin);
    if (!cos_sin) {
        return false;
    }
    op_angles(c, cos_sin);
    memcpy(y, x, (size_t)c->out.n * sizeof *y);
    for (int64_t at = 0; at < c->out.n; at += c->op.head_dim) {
        for (int32_t i = 0; i < c->op.rope_dim / 2; i++) {
            int64_t one, other;
            op_pair(&c->op, i, &one, &other);
            float x0 = x[at + one], x1 = x[at + other];
            float straight = x0 * cos_sin[2 * i], across = x1 * cos_sin[2 * i + 1];
            float back = x0 * cos_sin[2 * i + 1], on = x1 * cos_sin[2 * i];
            y[at + one] = straight - across;
            y[at + other] = back + on;
        }
    }
    free(cos_sin);
    return true;
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
               v->accumulator != PRECISION_F32 || v->tail != TAIL_NONE || v->is_flushed ||
               v->has_no_minima || v->takes_scale_before;
    case OP_QUANTIZE:
        return q->width || q->steps || q->is_away || q->is_cut || q->is_divided || q->is_half;
    case OP_GLU:
        return v->activation != WRONG_ACTIVATION_NONE || v->is_flushed;
    case OP_EXPERT_WEIGHTS:
        return v->expert_weights != WRONG_WEIGHTS_NONE;
    case OP_TOP_K:
        return v->id_shift != 0;
    case OP_ROPE:
        return v->is_plain;
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
    case OP_EXPERT_WEIGHTS:
        return variant_expert_weights(c, x[0], x[1], out->values);
    case OP_TOP_K:
        return variant_top_k(c, x[0], out->values);
    case OP_ROPE:
        return variant_rope(c, x[0], out->values);
    case OP_ATTENTION:
        return op_variant_attention(c, x[0], out->values);
    default:
        return op_variant_matmul(c, x[0], out->values);
    }
}
