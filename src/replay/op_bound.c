/* op_bound.c - bounds of rounding and of precision policies, per element, from operands.
 *
 * u = 2^-24, gamma(n) = n u / (1 - n u) (Higham 2002, section 3.1). In any order a sum of T terms
 * rounds no term more than T - 1 times, whatever the tree; a term that took m roundings of its own
 * is off by gamma(T + m - 1) of its size, so |error| <= gamma(T + m) * sum of |terms|. That is
 * reached: 1 + u + u + .. from left to right loses every u. Beside it stand what subnormals lose
 * (2^-150 an operation) and what the arbiter's binary64 loses.
 *
 * The calibrated size of a sum is u (8 S + 2 sqrt(T) |y|): terms of both signs wander (measured:
 * 0.25 u S in the median, 3.5 at most, whatever T), terms of one sign drift. It is never more than
 * the sound one.
 *
 * A policy is an error of the operands: dx for each value that is read, dw relative for weights.
 * It goes through the op by the op's own derivatives, bounded and not linearised.
 */
#include "replay/op_bound.h"

#include "base/fpenv.h"
#include "kernel/rope_table.h"
#include "replay/op_bound_noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FLOAT_MOST 0x1.fffffep+127
#define HALF_MOST  65504.0

/* ---- The classes ----------------------------------------------------------------------------- */

static const struct {
    const char *name, *text;
    noise noise;
} classes[BOUND_CLASS_COUNT] = {
    [BOUND_SOUND] = {"f32",
                     "operands as recorded, sums in binary32 or wider in any order, fused or not, "
                     "functions as exact as docs/numerics.md says, no flush to zero",
                     {.u_sum = U}},
    [BOUND_CALIBRATED] = {"calibrated",
                          "as sound, with errors that wander: 8 u S, and 2 sqrt(n) u |y| more",
                          {.u_sum = U, .is_calibrated = true}},
    [BOUND_ACT_Q8] = {"act_q8",
                      "as sound, and 8-bit activations, a scale per 32 values in f32 or f16",
                      {.u_sum = U, .width = 32}},
    [BOUND_ACT_Q8_256] = {"act_q8_256",
                          "as sound, and 8-bit activations, a scale per 256 values in f32 or f16",
                          {.u_sum = U, .width = 256}},
    [BOUND_STORE_F16] =
        {"store_f16",
         "as sound, and rows kept in binary16",
         {.u_sum = U, .u_row = U_F16, .tiny_row = TINY_F16, .is_stored = true, .most = HALF_MOST}},
    [BOUND_STORE_BF16] = {"store_bf16",
                          "as sound, and rows kept in bfloat16",
                          {.u_sum = U, .u_row = U_BF16, .tiny_row = TINY_BF16, .is_stored = true}},
    [BOUND_KV_F16] = {"kv_f16",
                      "as sound, and the cache in binary16",
                      {.u_sum = U, .u_kv = U_F16, .tiny_kv = TINY_F16}},
    [BOUND_INPUT_TF32] = {"input_tf32",
                          "as sound, and factors of products rounded to TF32",
                          {.u_sum = U, .u_factor = U_TF32, .tiny_factor = TINY_TF32}},
    [BOUND_INPUT_F16] =
        {"input_f16",
         "as sound, and factors of products rounded to binary16",
         {.u_sum = U, .u_factor = U_F16, .tiny_factor = TINY_F16, .most = HALF_MOST}},
    [BOUND_INPUT_BF16] = {"input_bf16",
                          "as sound, and factors of products rounded to bfloat16",
                          {.u_sum = U, .u_factor = U_BF16, .tiny_factor = TINY_BF16}},
    [BOUND_SUM_F16] = {"sum_f16",
                       "as sound, but sums of products in binary16",
                       {.u_sum = U_F16, .tiny_sum = TINY_F16, .most = HALF_MOST}},
    [BOUND_SUM_BF16] = {"sum_bf16",
                        "as sound, but sums of products in bfloat16",
                        {.u_sum = U_BF16, .tiny_sum = TINY_BF16}},
    [BOUND_ANGLES_F32] = {"angles_f32",
                          "as sound, and rotary angles in binary32, by products or by powers",
                          {.u_sum = U, .u_angle = U}},
    [BOUND_FUNCTIONS] = {"functions_fast",
                         "as sound, and exponentials off by up to 2^-16 of themselves",
                         {.u_sum = U, .u_function = 0x1p-16}},
};

const char *bound_class_text(bound_class of)
{
    return (unsigned)of < BOUND_CLASS_COUNT ? classes[of].text : "?";
}

const char *bound_class_name(bound_class of)
{
    return (unsigned)of < BOUND_CLASS_COUNT ? classes[of].name : "?";
}

bound_class bound_class_find(const char *name)
{
    int of = 0;
    while (of < BOUND_CLASS_COUNT &&
           (of == BOUND_CALIBRATED || strcmp(classes[of].name, name) != 0)) {
        of++;
    }
    return (bound_class)of;
}

double noise_gamma(double n, double u)
{
    return n * u < 1.0 ? n * u / (1.0 - n * u) : INFINITY;
}

double noise_sum(const noise *s, double n_term, double size, double y)
{
    double most = s->most > 0 ? s->most : FLOAT_MOST, u = s->u_sum;
    double lost = n_term * ((s->tiny_sum > 0 ? s->tiny_sum : 0) + 0x1p-149);
    double sound = noise_gamma(n_term, u) * size;
    double wander = u * (8.0 * size + 2.0 * sqrt(n_term) * fabs(y));
    if (!(size <= most)) {
        return INFINITY;
    }
    return lost + n_term * 0x1p-53 * size + (s->is_calibrated && wander < sound ? wander : sound);
}

double noise_row(const noise *s, double x)
{
    return s->most > 0 && s->is_stored && fabs(x) > s->most ? INFINITY
                                                            : s->u_row * fabs(x) + s->tiny_row;
}

/* ---- Products -------------------------------------------------------------------------------- */

static bool is_weight_quantised(const op_case *c)
{
    return c->op.w[0].tensor && dtype_find((uint32_t)c->op.w[0].tensor->type)->is_quantised;
}

/* What the class does to each value of the row that a product reads. */
static void factor_errors(const noise *s, const op_case *c, const double *x, double *dx)
{
    int64_t n = c->in[0].n;
    bool is_coded = s->width > 0 && c->in[0].type == DTYPE_F32 && is_weight_quantised(c);
    for (int64_t i = 0; i < n; i++) {
        double factor = s->u_factor * fabs(x[i]) + s->tiny_factor;
        dx[i] = noise_row(s, x[i]);
        dx[i] += factor + s->u_factor * dx[i];
    }
    for (int64_t at = 0; is_coded && at < n; at += s->width) {
        int64_t end = at + s->width < n ? at + s->width : n;
        double most = 0.0;
        for (int64_t i = at; i < end; i++) {
            most = fabs(x[i]) > most ? fabs(x[i]) : most;
        }
        /* Half a step; the scale's own rounding shifts code * scale by 127 * 2^-11 steps at most.
         */
        for (int64_t i = at; i < end; i++) {
            dx[i] = most < 0x1p-100 ? most : most / 127.0 * (0.5 + 127.0 * (U_F16 + 4 * U));
        }
    }
}

typedef struct product {
    const noise *s;
    const op_case *c;
    const double *x, *dx; /* (k) */
    double *w, *size;     /* (k) room for a row of weights */
} product;

/* Scales of a block and of activations multiply to a subnormal that an integer enlarges. */
static double product_underflow(const op_case *c)
{
    double k = (double)c->in[0].n;
    return c->in[0].type == DTYPE_ACT_Q8 || is_weight_quantised(c) ? k * 0x1p-131 : k * 0x1p-149;
}

static double product_bound(const product *p, const weight_view *view, int64_t r, double bias)
{
    const noise *s = p->s;
    int64_t k = view->tensor->n_col;
    double size = fabs(bias), sum = bias, policy = 0.0;
    op_weight_exact(view->tensor, view->first + r, p->w, p->size);
    for (int64_t i = 0; i < k; i++) {
        double dw = s->u_factor * fabs(p->w[i]) + s->tiny_factor * (s->u_factor > 0);
        double x = fabs(p->x[i]);
        size += (x + p->dx[i]) * (p->size[i] + dw);
        sum += p->x[i] * p->w[i];
        policy += fabs(p->w[i]) * p->dx[i] + x * dw + dw * p->dx[i];
    }
    /* One addition a term, a minimum a block; four roundings within a term; the bias. */
    double n_term = (double)k + (double)(k / 32) + 5.0;
    double out = noise_sum(s, n_term, size, sum) + product_underflow(p->c) + policy;
    return s->is_stored ? out + noise_row(s, fabs(sum) + out) : out;
}

static greta_status bound_matmul(const bounding *b)
{
    const op_case *c = b->c;
    const weight_view *view = &c->op.w[0];
    const float *bias = op_weight_floats(&c->op.w[1]);
    int64_t k = view->tensor->n_col;
    double *room = op_memory((size_t)k * 4 * sizeof *room);
    if (!room) {
        return error_memory(b->err, "a bound", (uint64_t)k * 4 * sizeof *room);
    }
    product p = {&b->noise, c, room, room + k, room + 2 * k, room + 3 * k};
    greta_status status = op_activations(c, b->contract, room, b->err);
    factor_errors(&b->noise, c, room, room + k);
    for (int64_t r = 0; r < view->n && status == GRETA_OK; r++) {
        b->out[r] = product_bound(&p, view, r, bias ? (double)bias[r] : 0.0);
    }
    free(room);
    return status;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static greta_status bound_embed(const bounding *b)
{
    const op_case *c = b->c;
    const weight *w = c->op.w[0].tensor;
    double *room = op_memory((size_t)w->n_col * sizeof *room);
    int32_t token = op_id_at(&c->in[0], 0);
    if (!room) {
        return error_memory(b->err, "a bound", (uint64_t)w->n_col * sizeof *room);
    }
    op_weight_exact(w, token, room, b->out);
    for (int64_t i = 0; i < w->n_col; i++) {
        double size = b->out[i];
        b->out[i] = is_weight_quantised(c) ? noise_gamma(3, U) * size + 0x1p-148 : 0.0;
        b->out[i] += b->noise.is_stored ? noise_row(&b->noise, size + b->out[i]) : 0.0;
    }
    free(room);
    return GRETA_OK;
}

/* y = x r w: r has half the relative error of the sum, and three roundings; two more products. */
static void bound_norm_row(const bounding *b, int64_t at, int64_t n)
{
    const noise *s = &b->noise;
    const op *o = &b->c->op;
    const float *w = op_weight_floats(&o->w[0]);
    double sum = 0.0, moved = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double x = op_value_at(&b->c->in[0], at + i), dx = noise_row(s, x);
        sum += x * x;
        moved += 2 * fabs(x) * dx + dx * dx;
    }
    double mean = sum / o->count + (double)o->eps, shift = moved / o->count / mean;
    double relative = noise_sum(s, (double)n + 1, sum, sum) / o->count / mean + noise_gamma(2, U);
    double in_root = relative + shift;
    double r = in_root < 1.0 ? 1.0 / sqrt(1.0 - in_root) - 1.0 : INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double x = op_value_at(&b->c->in[0], at + i), gain = fabs((double)w[i]);
        double scaled = fabs(x) / sqrt(mean), moved_x = noise_row(s, x) / sqrt(mean);
        double out = scaled * (r + noise_gamma(4, U) * (1.0 + r)) + moved_x * (1.0 + r) * 1.0001;
        out = out * gain + 0x1p-149 * (gain + 1.0);
        b->out[at + i] = s->is_stored ? out + noise_row(s, scaled * gain + out) : out;
    }
}

static greta_status bound_norm(const bounding *b)
{
    int64_t width = b->c->op.kind == OP_HEAD_NORM ? b->c->op.head_dim : b->c->out.n;
    for (int64_t at = 0; at < b->c->out.n; at += width) {
        bound_norm_row(b, at, width);
    }
    return GRETA_OK;
}

/* Another width or precision of scales: both codes are at most half a step from the value. */
static double requantized(const bounding *b, int64_t at, double step)
{
    int64_t width = b->noise.width, first = width > 0 ? at / width * width : 0;
    double most = 0.0;
    for (int64_t i = first; i < first + width && i < b->c->out.n; i++) {
        double x = fabs(op_value_at(&b->c->in[0], i));
        most = x > most ? x : most;
    }
    return width > 0 ? most / 127.0 * (0.5 + 127.0 * (U_F16 + 4 * U)) + step / 2 : 0.0;
}

/* Codes are exact but where a value lies so near the middle of two that roundings decide. */
static greta_status bound_quantize(const bounding *b)
{
    for (int64_t at = 0; at < b->c->out.n; at += ACT_BLOCK) {
        double most = 0.0;
        for (int64_t i = at; i < at + ACT_BLOCK; i++) {
            double x = fabs(op_value_at(&b->c->in[0], i));
            most = x > most ? x : most;
        }
        double step = most / 127.0, other = requantized(b, at, step);
        for (int64_t i = at; i < at + ACT_BLOCK; i++) {
            double x = fabs(op_value_at(&b->c->in[0], i)), codes = step > 0 ? x / step : 0.0;
            double to_middle = fabs(codes - floor(codes) - 0.5);
            double flip = to_middle <= 127.0 * 4 * U ? step : 0.0;
            b->out[i] = flip * (1.0 + 2 * U) + noise_gamma(2, U) * (x + step) + 0x1p-140 + other;
        }
    }
    return GRETA_OK;
}

static greta_status bound_store(const bounding *b)
{
    for (int64_t i = 0; i < b->c->out.n; i++) {
        double x = fabs(op_value_at(&b->c->in[0], i));
        double kv =
            x > HALF_MOST && b->noise.u_kv > 0 ? INFINITY : b->noise.u_kv * x + b->noise.tiny_kv;
        b->out[i] = noise_row(&b->noise, x) + kv;
    }
    return GRETA_OK;
}

/* The attention factor, by which cos and sin are multiplied. */
static double rope_size(const op_case *c)
{
    return c->rope.attn_factor > 0 && !c->cos_sin ? (double)c->rope.attn_factor : 1.0;
}

/* The pair's values by |cos| and |sin|, their roundings (with an attention factor, of the product
 * too), two roundings of sums. */
static double turned(const bounding *b, int32_t i, const double x[2], const double part[2])
{
    const noise *s = &b->noise;
    double angle = b->angle ? b->angle[i] : 0.0; /* how far a point of radius 1 is moved */
    double dx = noise_row(s, x[0]) * part[0] + noise_row(s, x[1]) * part[1];
    double size = fabs(x[0]) * part[0] + fabs(x[1]) * part[1];
    double radius = hypot(x[0], x[1]), size_of = rope_size(b->c);
    double table = U * (size_of == 1.0 ? 1.0 : 2.0 * size_of);
    double out = noise_gamma(2, U) * size + table * (fabs(x[0]) + fabs(x[1])) + angle * radius +
                 dx + 0x1p-148;
    return s->is_stored ? out + noise_row(s, size + out) : out;
}

static void bound_rope_head(const bounding *b, const float *cos_sin, int64_t at)
{
    const op *o = &b->c->op;
    for (int32_t i = 0; i < o->head_dim; i++) {
        b->out[at + i] = b->noise.is_stored
                             ? 2.01 * noise_row(&b->noise, op_value_at(&b->c->in[0], at + i))
                             : 0.0;
    }
    for (int32_t i = 0; i < o->rope_dim / 2; i++) {
        int64_t first, second;
        op_pair(o, i, &first, &second);
        double x[2] = {op_value_at(&b->c->in[0], at + first),
                       op_value_at(&b->c->in[0], at + second)};
        double cosine = fabs((double)cos_sin[2 * i]), sine = fabs((double)cos_sin[2 * i + 1]);
        b->out[at + first] = turned(b, i, x, (double[2]){cosine, sine});
        b->out[at + second] = turned(b, i, x, (double[2]){sine, cosine});
    }
}

/* What blending two frequencies loses, in u of the unscaled one: the weights of the blend are
 * differences of numbers that were rounded, of which Llama 3's reaches high / (high - low). */
static double blend_error(const rope_table_args *a)
{
    double high = (double)a->high_freq_factor, low = (double)a->low_freq_factor;
    return a->scaling == ROPE_SCALING_YARN                    ? 6.0
           : a->scaling == ROPE_SCALING_LLAMA3 && !a->factors ? 6.0 + 4.0 * high / (high - low)
                                                              : 0.0;
}

/* An angle in binary32 is off by (4 + 2 i) u of itself: powers take a few roundings, recurrences
 * two a step; scaling takes two more, and what its blend loses. As cos and sin are, it is times the
 * attention factor. */
static void angle_errors(const bounding *b, double *angle)
{
    const rope_table_args *a = &b->c->rope;
    double scale = a->scaling == ROPE_SCALING_LINEAR ? (double)a->factor : 1.0;
    for (int32_t i = 0; i < a->rope_dim / 2; i++) {
        double unscaled = pow((double)a->freq_base, -2.0 * i / a->rope_dim);
        double error =
            kernel_rope_frequency(a, i) / scale * (6.0 + 2.0 * i) + unscaled * blend_error(a);
        double moved = (double)b->c->position * error * b->noise.u_angle;
        angle[i] = rope_size(b->c) * (moved < 2.0 ? moved : 2.0);
    }
}

static greta_status bound_rope(const bounding *b)
{
    size_t n = (size_t)b->c->op.rope_dim;
    double *angle = op_memory(n * (sizeof *angle + sizeof(float)));
    if (!angle) {
        return error_memory(b->err, "a bound", n * (sizeof *angle + sizeof(float)));
    }
    float *cos_sin = (float *)(void *)(angle + n);
    bounding turn = *b;
    op_angles(b->c, cos_sin);
    angle_errors(b, angle);
    turn.angle = angle;
    for (int64_t at = 0; at < b->c->out.n; at += b->c->op.head_dim) {
        bound_rope_head(&turn, cos_sin, at);
    }
    free(angle);
    return GRETA_OK;
}

/* ---- Elementwise ----------------------------------------------------------------------------- */

/* ulps of the kernels (docs/numerics.md), rounded up; the largest slope; what the formula as
 * written loses where it cancels, in u |x|. */
static const struct {
    double ulps, slope, cancels;
} functions[ACTIVATION_COUNT] = {
    [ACTIVATION_SILU] = {2.5, 1.1, 0},     [ACTIVATION_GELU_TANH] = {1.6, 1.13, 2.5},
    [ACTIVATION_SIGMOID] = {1.6, 0.25, 0}, [ACTIVATION_TANH] = {1.75, 1, 0},
    [ACTIVATION_EXP] = {0.8, INFINITY, 0},
};

/* What an exponential that is off by e of itself does: a quotient with it moves by e of itself, and
 * 1 minus such a quotient (tanh) by e. */
static double function_error(activation f, double x, double value, double e)
{
    return f == ACTIVATION_GELU_TANH ? e * fabs(x)
           : f == ACTIVATION_TANH    ? 2 * e
                                     : 2 * e * fabs(value);
}

static double bound_glu_one(const bounding *b, int64_t i)
{
    const noise *s = &b->noise;
    activation f = b->c->op.activation;
    double x = op_value_at(&b->c->in[0], i), up = op_value_at(&b->c->in[1], i);
    double value = op_activation_exact(f, x);
    double df =
        functions[f].ulps * (2 * U * fabs(value) + 0x1p-149) + functions[f].cancels * U * fabs(x);
    df += function_error(f, x, value, s->u_function);
    df += noise_row(s, x) > 0 ? functions[f].slope * noise_row(s, x) : 0.0;
    double du = noise_row(s, up), size = (fabs(value) + df) * (fabs(up) + du);
    return df * fabs(up) + fabs(value) * du + df * du + U * size + 0x1p-149;
}

static double bound_one(const bounding *b, int64_t i)
{
    const noise *s = &b->noise;
    const op *o = &b->c->op;
    double x = op_value_at(&b->c->in[0], i), cap = fabs((double)o->softcap);
    double dx = noise_row(s, x), factor = fabs((double)o->factor);
    switch (o->kind) {
    case OP_ADD: {
        double y = op_value_at(&b->c->in[1], i), dy = noise_row(s, y);
        return U * (fabs(x + y) + dx + dy) + dx + dy;
    }
    case OP_GLU:
        return bound_glu_one(b, i);
    case OP_SOFTCAP: /* the quotient and the product round, tanh has slope 1 */
        return dx +
               noise_gamma(2 * functions[ACTIVATION_TANH].ulps + 2, U) * cap *
                   fabs(tanh(x / (double)o->softcap)) +
               2 * s->u_function * cap + 0x1p-148 * (1.0 + cap);
    default:
        return U * (fabs(x) + dx) * factor + factor * dx + 0x1p-149;
    }
}

static double exact_one(const bounding *b, int64_t i)
{
    const op *o = &b->c->op;
    double x = op_value_at(&b->c->in[0], i);
    switch (o->kind) {
    case OP_ADD:
        return x + op_value_at(&b->c->in[1], i);
    case OP_GLU:
        return op_activation_exact(o->activation, x) * op_value_at(&b->c->in[1], i);
    case OP_SOFTCAP:
        return x;
    default:
        return x * (double)o->factor;
    }
}

static greta_status bound_elementwise(const bounding *b)
{
    for (int64_t i = 0; i < b->c->out.n; i++) {
        double out = bound_one(b, i);
        b->out[i] =
            b->noise.is_stored ? out + noise_row(&b->noise, fabs(exact_one(b, i)) + out) : out;
    }
    return GRETA_OK;
}

/* ---- Experts --------------------------------------------------------------------------------- */

/* Ranks are exact, unless rows are held so narrowly that neighbours may change places. */
static greta_status bound_top_k(const bounding *b)
{
    int64_t n = b->c->in[0].n;
    bool is_sure = true;
    for (int64_t i = 0; i < n; i++) {
        double x = op_value_at(&b->c->in[0], i);
        for (int64_t j = 0; j < i; j++) {
            double y = op_value_at(&b->c->in[0], j);
            double moved = noise_row(&b->noise, x) + noise_row(&b->noise, y);
            is_sure &= moved == 0 || fabs(x - y) > moved;
        }
    }
    for (int64_t r = 0; r < b->c->out.n; r++) {
        b->out[r] = is_sure ? 0.0 : INFINITY;
    }
    return GRETA_OK;
}

/* As attention's weights (op_bound_attention.c): exponentials, their sum, a division. */
static greta_status bound_expert_weights(const bounding *b)
{
    const op_case *c = b->c;
    double n = (double)c->op.n_expert, most = -INFINITY, e = 0.0;
    for (int64_t i = 0; i < c->in[0].n; i++) {
        most = fmax(most, op_value_at(&c->in[0], i));
    }
    for (int64_t i = 0; i < c->in[0].n; i++) {
        double x = op_value_at(&c->in[0], i), moved = 2 * noise_row(&b->noise, x);
        e = fmax(e,
                 expm1(2 * U * fabs(x - most) + moved) + noise_gamma(8, U) + b->noise.u_function);
    }
    GRETA_TRY(op_replay_f64(c, b->contract, b->out, b->err));
    for (int64_t r = 0; r < c->out.n; r++) {
        double share = b->out[r], relative = 2 * e + noise_gamma(n + 2, U);
        double out = relative < 1 ? share * relative / (1 - relative) + 0x1p-147 : INFINITY;
        b->out[r] = b->noise.is_stored ? out + noise_row(&b->noise, share + out) : out;
    }
    return GRETA_OK;
}

static greta_status bound_expert_matmul(const bounding *b)
{
    const op_case *c = b->c;
    void *room = op_memory(op_row_bytes(c->in[0].type, c->in[0].n));
    greta_status status =
        room ? GRETA_OK : error_memory(b->err, "a bound", (uint64_t)c->in[0].n * 4);
    for (int32_t r = 0; r < c->op.n_expert_used && status == GRETA_OK; r++) {
        op_case one = op_expert_case(c, r, room);
        bounding part = *b;
        part.c = &one;
        part.out = b->out + r * one.out.n;
        status = bound_matmul(&part);
    }
    free(room);
    return status;
}

static greta_status bound_expert_sum(const bounding *b)
{
    const noise *s = &b->noise;
    for (int64_t i = 0; i < b->c->out.n; i++) {
        double size = 0.0, sum = 0.0, policy = 0.0;
        for (int32_t r = 0; r < b->c->op.n_expert_used; r++) {
            double w = op_value_at(&b->c->in[1], r), dw = noise_row(s, w);
            double x = op_value_at(&b->c->in[0], r * b->c->out.n + i), dx = noise_row(s, x);
            sum += w * x;
            size += (fabs(w) + dw) * (fabs(x) + dx);
            policy += fabs(w) * dx + fabs(x) * dw + dw * dx;
        }
        double out = noise_sum(s, (double)b->c->op.n_expert_used + 1, size, sum) + policy;
        b->out[i] = s->is_stored ? out + noise_row(s, fabs(sum) + out) : out;
    }
    return GRETA_OK;
}

/* ---- The table of kinds ---------------------------------------------------------------------- */

static greta_status (*const bounds[OP_KIND_COUNT])(const bounding *b) = {
    [OP_EMBED] = bound_embed,
    [OP_SCALE] = bound_elementwise,
    [OP_RMS_NORM] = bound_norm,
    [OP_HEAD_NORM] = bound_norm,
    [OP_QUANTIZE] = bound_quantize,
    [OP_MATMUL] = bound_matmul,
    [OP_ROPE] = bound_rope,
    [OP_KV_STORE] = bound_store,
    [OP_ATTENTION] = bound_attention,
    [OP_ADD] = bound_elementwise,
    [OP_GLU] = bound_elementwise,
    [OP_SOFTCAP] = bound_elementwise,
    [OP_TOP_K] = bound_top_k,
    [OP_EXPERT_WEIGHTS] = bound_expert_weights,
    [OP_EXPERT_MATMUL] = bound_expert_matmul,
    [OP_EXPERT_SUM] = bound_expert_sum,
};

greta_status op_bound(const op_case *c, const op_contract *contract, bound_class of, double *bound,
                      greta_error *err)
{
    char missing[OP_MISSING_MAX];
    GRETA_ASSERT((unsigned)of < BOUND_CLASS_COUNT);
    if (!op_case_check(c, missing)) {
        return error_set(err, GRETA_BAD_INPUT, "a %s has no bound without %s",
                         op_kind_name(c->op.kind), missing);
    }
    bounding b = {c, contract, classes[of].noise, bound, NULL, err};
    uint32_t saved = fpenv_enter();
    greta_status status = bounds[c->op.kind](&b);
    for (int64_t i = 0; i < c->out.n && status == GRETA_OK; i++) {
        bound[i] = bound[i] >= 0 ? bound[i] : INFINITY; /* NaN among the operands */
    }
    fpenv_leave(saved);
    return status;
}
