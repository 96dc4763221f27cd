/* wrong_rows.c - kernels of one row that are wrong: rotation, cache, addition, activation,
 * quantiser, experts.
 *
 * Where a kernel is right but for one thing, the rest is the definition's (`ref`), so that the one
 * thing is all that differs, to the bit.
 */
#include "fault/wrong_rows.h"

#include "base/error.h"
#include "base/limits.h"
#include "kernel/elementary.h"
#include "kernel/half.h"

#include <math.h>
#include <string.h>

static const kernel_table *definition(void)
{
    const kernel_table *ref = kernel_find("ref");
    GRETA_ASSERT(ref != NULL); /* plain C: every machine has it */
    return ref;
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* Products rounded before they are added, in place of one fused operation. */
void rope_not_fused(const rope_args *a)
{
    definition()->rope(a); /* the values that do not turn */
    int32_t half = a->rope_dim / 2;
    int is_halves = a->pairing == ROPE_HALVES;
    for (int32_t h = 0; h < a->n_head; h++) {
        const float *x = a->x + (int64_t)h * a->head_dim;
        float *y = a->y + (int64_t)h * a->head_dim;
        for (int32_t i = 0; i < half; i++) {
            int32_t one = is_halves ? i : 2 * i, other = is_halves ? i + half : 2 * i + 1;
            float cosine = a->cos_sin[2 * i], sine = a->cos_sin[2 * i + 1];
            float straight = x[one] * cosine, across = x[other] * sine;
            float back = x[one] * sine, on = x[other] * cosine;
            y[one] = straight - across;
            y[other] = back + on;
        }
    }
}

void rope_twice(const rope_args *a)
{
    float once[LIMIT_HEAD_DIM];
    for (int32_t h = 0; h < a->n_head; h++) {
        rope_args one = *a;
        one.n_head = 1;
        one.x = a->x + (int64_t)h * a->head_dim;
        one.y = once;
        definition()->rope(&one);
        one.x = once;
        one.y = a->y + (int64_t)h * a->head_dim;
        definition()->rope(&one);
    }
}

void rope_not_at_all(const rope_args *a)
{
    memcpy(a->y, a->x, (size_t)a->n_head * (size_t)a->head_dim * sizeof *a->y);
}

/* Every head but the first is left as it is. */
void rope_first_head_only(const rope_args *a)
{
    rope_not_at_all(a);
    rope_args first = *a;
    first.n_head = 1;
    definition()->rope(&first);
}

/* ---- KV cache -------------------------------------------------------------------------------- */

/* What the row held before stays. */
void store_nothing(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    (void)a, (void)kv_head_first, (void)kv_head_last;
}

static float cut_bf16(float value)
{
    uint32_t bits = bits_from_float(value);
    return float_from_bits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

static float cut_f16_down(float value) /* towards zero */
{
    float rounded = half_to_float(half_from_float(value));
    return fabsf(rounded) > fabsf(value) ? float_from_bits(bits_from_float(rounded) - 0x2000u)
                                         : rounded;
}

static float cut_8_bits(float value) /* sign, 4 of exponent, 3 of fraction: e4m3, saturating */
{
    if (!(fabsf(value) < 448.0f)) {
        return value != value ? value : copysignf(448.0f, value);
    }
    float step = fabsf(value) < 0x1p-6f ? 0x1p-9f : ldexpf(1.0f, ilogbf(value) - 3);
    return rintf(value / step) * step;
}

/* Head h of the row gets what `cut` makes of x, (head_dim). */
static void store_head(const kv_store_args *a, int32_t h, const float *x, float (*cut)(float))
{
    int64_t at = kv_at(&a->shape, a->side, a->position, h), step = kv_step(a->side);
    for (int32_t d = 0; d < a->shape.head_dim; d++, at += step) {
        float value = cut ? cut(x[d]) : x[d];
        if (a->shape.type == DTYPE_F32) {
            ((float *)a->cache)[at] = value;
        } else {
            ((uint16_t *)a->cache)[at] = half_from_float(value);
        }
    }
}

static void store_cut(const kv_store_args *a, int32_t first, int32_t last, float (*cut)(float))
{
    for (int32_t h = first; h < last; h++) {
        store_head(a, h, a->x + (int64_t)h * a->shape.head_dim, cut);
    }
}

void store_bf16(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    store_cut(a, kv_head_first, kv_head_last, cut_bf16);
}

void store_truncated(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    store_cut(a, kv_head_first, kv_head_last, cut_f16_down);
}

void store_8_bits(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    store_cut(a, kv_head_first, kv_head_last, cut_8_bits);
}

static float cut_subnormal_f16(float value)
{
    return fabsf(value) < 0x1p-14f ? copysignf(0.0f, value) : value;
}

void store_flushed(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    store_cut(a, kv_head_first, kv_head_last, cut_subnormal_f16);
}

/* Heads in falling order. */
void store_heads_reversed(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    for (int32_t h = kv_head_first; h < kv_head_last; h++) {
        int64_t from = (int64_t)(a->shape.n_head_kv - 1 - h) * a->shape.head_dim;
        store_head(a, h, a->x + from, NULL);
    }
}

/* Every head gets the values of the first. */
void store_head_0(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    for (int32_t h = kv_head_first; h < kv_head_last; h++) {
        store_head(a, h, a->x, NULL);
    }
}

/* ---- Addition -------------------------------------------------------------------------------- */

void add_residual_missing(const float *a, const float *b, float *y, int64_t n)
{
    (void)a;
    memcpy(y, b, (size_t)n * sizeof *y);
}

void add_block_missing(const float *a, const float *b, float *y, int64_t n)
{
    (void)b;
    memcpy(y, a, (size_t)n * sizeof *y);
}

void add_residual_twice(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = a[i] + b[i];
        y[i] = sum + a[i];
    }
}

void add_block_twice(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = a[i] + b[i];
        y[i] = sum + b[i];
    }
}

void add_subtracts(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = a[i] - b[i];
    }
}

void add_bf16(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = cut_bf16(a[i] + b[i]);
    }
}

/* ---- Gated activation ------------------------------------------------------------------------ */

static float relu(float x)
{
    return x < 0 ? 0.0f : x;
}

static float gelu_erf(float x) /* the exact form of Hendrycks & Gimpel 2016 */
{
    return (float)(0.5 * (double)x * (1 + erf((double)x * 0.70710678118654752440)));
}

static float gelu_quick(float x) /* x sigmoid(1.702 x) of the same paper */
{
    return x * elementary_sigmoid(1.702f * x);
}

static void glu_by(float (*f)(float), const float *gate, const float *up, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float value = f(gate[i]);
        y[i] = up ? value * up[i] : value;
    }
}

void glu_relu(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)f;
    glu_by(relu, gate, up, y, n);
}

void glu_gelu_erf(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)f;
    glu_by(gelu_erf, gate, up, y, n);
}

void glu_gelu_quick(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)f;
    glu_by(gelu_quick, gate, up, y, n);
}

void glu_of_up(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    definition()->glu(f, up ? up : gate, up ? gate : NULL, y, n);
}

void glu_gate_missing(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)f;
    for (int64_t i = 0; i < n; i++) {
        y[i] = up ? gate[i] * up[i] : gate[i];
    }
}

void glu_up_missing(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)up;
    definition()->glu(f, gate, NULL, y, n);
}

void glu_clamped(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    definition()->glu(f, gate, up, y, n);
    for (int64_t i = 0; i < n; i++) {
        y[i] = y[i] > 0.25f ? 0.25f : y[i] < -0.25f ? -0.25f : y[i];
    }
}

void glu_tanh(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    (void)f;
    definition()->glu(ACTIVATION_TANH, gate, up, y, n);
}

/* ---- Quantiser --------------------------------------------------------------------------------
 */

typedef struct span_blocks {
    int64_t first, last;
} span_blocks;

/* One block by a scale, each value rounded as `nearest` says. */
static void quantize_block(const float *x, int8_t *code, float *scale, int32_t *sum,
                           float (*nearest)(float))
{
    *sum = 0;
    for (int i = 0; i<ACT_BLOCK && * scale> 0; i++) {
        float q = nearest(x[i] / *scale);
        q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
        code[i] = (int8_t)q;
        *sum += code[i];
    }
}

static void requantize(const float *x, void *act_q8, int64_t k, span_blocks blocks,
                       float (*nearest)(float), int64_t blocks_per_scale)
{
    int8_t *code = act_q8;
    float *scale = (float *)(void *)(code + k);
    int32_t *sum = (int32_t *)(void *)(scale + k / ACT_BLOCK);
    for (int64_t b = blocks.first; b < blocks.last; b++) {
        int64_t group = b / blocks_per_scale * blocks_per_scale * ACT_BLOCK;
        int64_t end = group + blocks_per_scale * ACT_BLOCK;
        float largest = 0;
        for (int64_t i = group; i < end && i < k; i++) {
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        }
        int is_finite = scale[b] == scale[b]; /* the healthy one says */
        if (is_finite && largest >= 0x1p-100f) {
            scale[b] = largest / 127.0f;
            quantize_block(x + b * ACT_BLOCK, code + b * ACT_BLOCK, scale + b, sum + b, nearest);
        }
    }
}

static float nearest_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static float towards_zero(float x)
{
    return (float)(int32_t)x;
}

void quantize_per_256(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last)
{
    definition()->quantize(x, act_q8, k, first, last);
    requantize(x, act_q8, k, (span_blocks){first / ACT_BLOCK, last / ACT_BLOCK}, nearest_even, 8);
}

void quantize_per_row(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last)
{
    definition()->quantize(x, act_q8, k, first, last);
    requantize(x, act_q8, k, (span_blocks){first / ACT_BLOCK, last / ACT_BLOCK}, nearest_even,
               k / ACT_BLOCK);
}

void quantize_truncates(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last)
{
    definition()->quantize(x, act_q8, k, first, last);
    requantize(x, act_q8, k, (span_blocks){first / ACT_BLOCK, last / ACT_BLOCK}, towards_zero, 1);
}

/* ---- Ops of one number ----------------------------------------------------------------------- */

void softcap_missing(float cap, const float *x, float *y, int64_t n)
{
    (void)cap;
    memcpy(y, x, (size_t)n * sizeof *y);
}

void softcap_clips(float cap, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] > cap ? cap : x[i] < -cap ? -cap : x[i];
    }
}

/* ---- Experts ----------------------------------------------------------------------------------
 */

void top_k_least(const float *x, int64_t n, int32_t *ids, int64_t n_used)
{
    float turned[LIMIT_EXPERTS];
    for (int64_t i = 0; i < n; i++) {
        turned[i] = -x[i];
    }
    definition()->top_k(turned, n, ids, n_used);
}

void top_k_next(const float *x, int64_t n, int32_t *ids, int64_t n_used)
{
    definition()->top_k(x, n, ids, n_used);
    for (int64_t r = 0; r < n_used; r++) {
        ids[r] = (int32_t)((ids[r] + 1) % n);
    }
}

void expert_weights_raw(const expert_weights_args *a)
{
    for (int64_t r = 0; r < a->n_used; r++) {
        a->y[r] = a->router[a->ids[r]];
    }
}

void expert_weights_equal(const expert_weights_args *a)
{
    for (int64_t r = 0; r < a->n_used; r++) {
        a->y[r] = 1.0f / (float)a->n_used;
    }
}

void expert_weights_sigmoid(const expert_weights_args *a)
{
    for (int64_t r = 0; r < a->n_used; r++) {
        a->y[r] = elementary_sigmoid(a->router[a->ids[r]]);
    }
}

void expert_sum_last_missing(const float *weight, const float *x, float *y, int64_t n_used,
                             int64_t n)
{
    definition()->expert_sum(weight, x, y, n_used > 1 ? n_used - 1 : 1, n);
}

void expert_sum_unweighted(const float *weight, const float *x, float *y, int64_t n_used, int64_t n)
{
    float one[LIMIT_EXPERTS];
    for (int64_t r = 0; r < n_used; r++) {
        one[r] = 1.0f + 0 * weight[r];
    }
    definition()->expert_sum(one, x, y, n_used, n);
}
