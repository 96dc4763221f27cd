/* rows.c - ops on one row: sums, RMS norm, quantiser, rotation, addition, scale, soft-cap, gated
 * activation.
 *
 * Each function is the definition of its op; docs/numerics.md says the same in words. Row sums have
 * one order for every machine: terms are rounded first, a group of 64 is folded by stride 32, 16,
 * 8, 4, 2, 1, group totals are added in index order. The fold suits SIMD lanes and GPU warps alike,
 * and any split of a row at a multiple of 64 can be joined later. Error bound of a sum of n terms:
 * (6 + n/64) u * sum |term|.
 */
#include "kernel/ref/ref.h"

#include "kernel/blocks.h"

static float fold_group(float *s)
{
    for (int stride = ROW_SUM_GROUP / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            s[i] += s[i + stride];
        }
    }
    return s[0];
}

float REF(row_sum)(const float *terms, int64_t n)
{
    float total = 0.0f;
    for (int64_t start = 0; start < n; start += ROW_SUM_GROUP) {
        float group[ROW_SUM_GROUP] = {0};
        int64_t size = n - start < ROW_SUM_GROUP ? n - start : ROW_SUM_GROUP;
        for (int64_t i = 0; i < size; i++) {
            group[i] = terms[start + i];
        }
        float sum = fold_group(group);
        total = start == 0 ? sum : total + sum;
    }
    return total;
}

float REF(row_sum_squares)(const float *x, int64_t n)
{
    float total = 0.0f;
    for (int64_t start = 0; start < n; start += ROW_SUM_GROUP) {
        float group[ROW_SUM_GROUP] = {0};
        int64_t size = n - start < ROW_SUM_GROUP ? n - start : ROW_SUM_GROUP;
        for (int64_t i = 0; i < size; i++) {
            group[i] = x[start + i] * x[start + i];
        }
        float sum = fold_group(group);
        total = start == 0 ? sum : total + sum;
    }
    return total;
}

void REF(embed)(const embed_args *a)
{
    kernel_dequantize(a->type, a->row, a->y, a->n);
}

/* y = (x * r) * w, r = 1 / sqrt(sum(x^2) / count + eps); every operation rounds (Zhang & Sennrich
 * 2019, equation 4, with eps inside the root). */
void REF(rms_norm)(norm_args *a)
{
    float mean = REF(row_sum_squares)(a->x, a->n) / (float)a->count;
    float inv_rms = 1.0f / sqrtf(mean + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
    a->inv_rms = inv_rms;
}

static void quantize_block(const float *x, int8_t *code, float *scale, int32_t *sum)
{
    float largest = 0.0f;
    int finite = 1;
    for (int i = 0; i < ACT_BLOCK; i++) {
        float magnitude = fabsf(x[i]);
        finite &= magnitude <= 0x1.fffffep+127f;
        largest = magnitude > largest ? magnitude : largest;
    }
    *sum = 0;
    if (!finite || largest < 0x1p-100f) {
        *scale = finite ? 0.0f : NAN;
        memset(code, 0, ACT_BLOCK);
        return;
    }
    float inverse = 127.0f / largest;
    int32_t total = 0;
    for (int i = 0; i < ACT_BLOCK; i++) {
        float steps = x[i] * inverse;
        int32_t q = (int32_t)((steps + 0x1.8p23f) - 0x1.8p23f); /* nearest even */
        code[i] = (int8_t)q;
        total += q;
    }
    *scale = largest / 127.0f;
    *sum = total;
}

void REF(quantize)(const float *x, void *act_q8, int64_t k, int64_t first, int64_t last)
{
    int8_t *code = act_q8;
    float *scale = (float *)(void *)(code + k);
    int32_t *sum = (int32_t *)(void *)(scale + k / ACT_BLOCK);
    for (int64_t b = first / ACT_BLOCK; b < last / ACT_BLOCK; b++) {
        quantize_block(x + b * ACT_BLOCK, code + b * ACT_BLOCK, scale + b, sum + b);
    }
}

/* Pairs of the first rope_dim values of each head turn by position * inv_freq[i] (Su et al. 2021,
 * equation 34); the others pass. Pair i is (2i, 2i + 1), or (i, i + rope_dim / 2). */
void REF(rope)(const rope_args *a)
{
    int32_t half = a->rope_dim / 2, next = a->pairing == ROPE_HALVES ? half : 1;
    int32_t step = a->pairing == ROPE_HALVES ? 1 : 2;
    for (int32_t h = 0; h < a->n_head; h++) {
        const float *x = a->x + (int64_t)h * a->head_dim;
        float *y = a->y + (int64_t)h * a->head_dim;
        for (int32_t i = 0; i < half; i++) {
            float cosine = a->cos_sin[2 * i], sine = a->cos_sin[2 * i + 1];
            float x0 = x[step * i], x1 = x[step * i + next];
            y[step * i] = fmaf(x0, cosine, -(x1 * sine));
            y[step * i + next] = fmaf(x0, sine, x1 * cosine);
        }
        for (int32_t i = a->rope_dim; i < a->head_dim; i++) {
            y[i] = x[i];
        }
    }
}

void REF(kv_store)(const kv_store_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    int64_t step = kv_step(a->side), n = a->shape.head_dim;
    for (int32_t h = kv_head_first; h < kv_head_last; h++) {
        const float *x = a->x + h * n;
        int64_t at = kv_at(&a->shape, a->side, a->position, h);
        if (a->shape.type == DTYPE_F32) {
            float *out = (float *)a->cache + at;
            for (int64_t d = 0; d < n; d++) {
                out[d * step] = x[d];
            }
        } else {
            uint16_t *out = (uint16_t *)a->cache + at;
            for (int64_t d = 0; d < n; d++) {
                out[d * step] = half_from_float(x[d]);
            }
        }
    }
}

void REF(add)(const float *a, const float *b, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}

void REF(scale)(float factor, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * factor;
    }
}

void REF(softcap)(float cap, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = elementary_softcap(cap, x[i]);
    }
}

static inline void glu_row(float (*f)(float), const float *gate, const float *up, float *y,
                           int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float value = f(gate[i]);
        y[i] = up ? value * up[i] : value;
    }
}

void REF(glu)(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    switch (f) {
    case ACTIVATION_GELU_TANH:
        glu_row(elementary_gelu_tanh, gate, up, y, n);
        break;
    case ACTIVATION_SIGMOID:
        glu_row(elementary_sigmoid, gate, up, y, n);
        break;
    case ACTIVATION_TANH:
        glu_row(elementary_tanh, gate, up, y, n);
        break;
    case ACTIVATION_EXP:
        glu_row(elementary_exp, gate, up, y, n);
        break;
    default:
        glu_row(elementary_silu, gate, up, y, n);
        break;
    }
}
