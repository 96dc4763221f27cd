/* op_variant_dot.c - matrix products in other orders and precisions, and with a broken tail.
 *
 * Orders are those of correct engines: one chain, SIMD lanes, a tree, binary64, the bias first.
 * For quantised rows the lanes are the way of SIMD code: an accumulator lane has its part of every
 * block's integer product. Scalar on purpose, and slow: it runs for an accused op only.
 */
#include "replay/op_internal.h"

#include "kernel/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES_MAX 32

typedef struct dot {
    const op_variant *v;
    float bias;        /* what the first chain starts at: 0, or the bias (DOT_BIAS_FIRST) */
    int64_t first;     /* value of K that the sum starts with */
    int64_t n, n_tail; /* values in whole groups; behind them */
    int64_t segment;
    float *terms; /* room for DOT_PAIRWISE */
} dot;

static float flushed(const op_variant *v, float value)
{
    return v->is_flushed && fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value;
}

static float settled(const op_variant *v, float value)
{
    return flushed(v, precision_round(v->accumulator, value));
}

/* acc + w x, with one rounding, or with two where the accumulator is narrower. */
static float step(const op_variant *v, float w, float x, float acc)
{
    if (v->order == DOT_CHAIN_PLAIN || v->order == DOT_PLAIN) {
        return settled(v, acc + settled(v, w * x));
    }
    return settled(v, fmaf(w, x, acc));
}

static int lanes_of(dot_order order)
{
    return order == DOT_LANES_8 ? 8 : order == DOT_LANES_16 ? 16 : order == DOT_LANES_32 ? 32 : 1;
}

static float lanes_join(float *lane, int n)
{
    for (int stride = n / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    return lane[0];
}

/* How often a value at k takes part. */
static int times(const dot *d, int64_t k)
{
    tail_fault tail = d->v->tail;
    bool is_skipped = tail == TAIL_K_SKIPPED || tail == TAIL_K_LAST_SKIPPED;
    return k < d->n || d->first > 0 ? 1 : tail == TAIL_K_TWICE ? 2 : is_skipped ? 0 : 1;
}

/* The end of the segment that holds value k. */
static int64_t segment_end(const dot *d, int64_t k)
{
    int64_t end = (k / d->segment + 1) * d->segment, n = d->n + d->n_tail;
    return end < n ? end : n;
}

/* ---- Float rows ------------------------------------------------------------------------------ */

static float float_segments(const dot *d, const float *w, const float *x)
{
    float total = 0.0f;
    for (int64_t start = d->first, end; start < d->n + d->n_tail; start = end) {
        float acc = start == 0 ? d->bias : 0.0f;
        end = segment_end(d, start);
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t k = start; k < end; k++) {
                acc = times(d, k) > pass ? step(d->v, w[k], x[k], acc) : acc;
            }
        }
        total = start == d->first ? acc : settled(d->v, total + acc);
    }
    return total;
}

static float float_lanes(const float *w, const float *x, int64_t n, int n_lane)
{
    float lane[LANES_MAX] = {0};
    for (int64_t k = 0; k < n; k++) {
        lane[k % n_lane] = fmaf(w[k], x[k], lane[k % n_lane]);
    }
    return lanes_join(lane, n_lane);
}

static float float_dot(const dot *d, const float *w, const float *x)
{
    int64_t n = d->n + d->n_tail;
    switch (d->v->order) {
    case DOT_LANES_8:
    case DOT_LANES_16:
    case DOT_LANES_32:
        return float_lanes(w, x, n, lanes_of(d->v->order));
    case DOT_PAIRWISE:
        for (int64_t k = 0; k < n; k++) {
            d->terms[k] = w[k] * x[k];
        }
        return sum_in_order(SUM_PAIRWISE, d->terms, n);
    case DOT_F64: {
        double sum = 0.0;
        for (int64_t k = 0; k < n; k++) {
            sum += (double)w[k] * (double)x[k];
        }
        return (float)sum;
    }
    default:
        return float_segments(d, w, x);
    }
}

/* ---- Quantised rows -------------------------------------------------------------------------- */

typedef struct q8_row {
    const int8_t *code;
    const float *scale;
    const int32_t *sum;
    const uint8_t *weight;
    dtype type;
} q8_row;

static float block_dot(const block_values *v, const int8_t *code, int first, int n)
{
    int32_t sum = 0;
    for (int i = first; i < first + n; i++) {
        sum += v->q[i] * code[i];
    }
    return (float)sum;
}

/* What the minimum of block b is multiplied by, besides the scale: the sum of the codes, by halves
 * where each has a minimum of its own. */
static float block_sum(const q8_row *r, const block_values *v, int64_t b)
{
    int32_t half[2] = {0, 0};
    for (int i = 0; i < BLOCK && block_has_two_min(r->type); i++) {
        half[i / 16] += r->code[b * BLOCK + i];
    }
    return (float)(block_has_two_min(r->type) ? v->m[0] * half[0] + v->m[1] * half[1] : r->sum[b]);
}

static float q8_block(const dot *d, const q8_row *r, int64_t b, float acc)
{
    block_values v;
    float scale = r->scale[d->v->takes_scale_before && b > 0 ? b - 1 : b];
    block_read(r->type, r->weight, b, &v);
    acc = step(d->v, v.ws * scale, block_dot(&v, r->code + b * BLOCK, 0, BLOCK), acc);
    if (block_has_min(r->type) && !d->v->has_no_minima) {
        acc = step(d->v, v.wm, scale * block_sum(r, &v, b), acc);
    }
    return acc;
}

static float q8_segments(const dot *d, const q8_row *r)
{
    float total = 0.0f;
    for (int64_t start = d->first, end; start < d->n + d->n_tail; start = end) {
        float acc = start == 0 ? d->bias : 0.0f;
        end = segment_end(d, start);
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t k = start; k < end; k += BLOCK) {
                acc = times(d, k) > pass ? q8_block(d, r, k / BLOCK, acc) : acc;
            }
        }
        total = start == d->first ? acc : settled(d->v, total + acc);
    }
    return total;
}

static float q8_lanes(const dot *d, const q8_row *r, int n_lane)
{
    float lane[LANES_MAX] = {0}, minima = 0.0f;
    for (int64_t b = 0; b < (d->n + d->n_tail) / BLOCK; b++) {
        block_values v;
        block_read(r->type, r->weight, b, &v);
        for (int l = 0; l < n_lane; l++) {
            int part = BLOCK / n_lane;
            float partial = block_dot(&v, r->code + b * BLOCK, l * part, part);
            lane[l] = fmaf(v.ws * r->scale[b], partial, lane[l]);
        }
        minima = fmaf(v.wm, r->scale[b] * block_sum(r, &v, b), minima);
    }
    return lanes_join(lane, n_lane) + minima;
}

/* Two terms a block: in a tree, or in binary64. */
static float q8_terms(const dot *d, const q8_row *r)
{
    int64_t n = (d->n + d->n_tail) / BLOCK;
    double sum = 0.0;
    for (int64_t b = 0; b < n; b++) {
        block_values v;
        block_read(r->type, r->weight, b, &v);
        float idot = block_dot(&v, r->code + b * BLOCK, 0, BLOCK), scale = r->scale[b];
        sum += (double)v.ws * (double)scale * (double)idot +
               (double)v.wm * (double)scale * (double)block_sum(r, &v, b);
        d->terms[2 * b] = v.ws * scale * idot;
        d->terms[2 * b + 1] = v.wm * (scale * block_sum(r, &v, b));
    }
    return d->v->order == DOT_F64 ? (float)sum : sum_in_order(SUM_PAIRWISE, d->terms, 2 * n);
}

static float q8_dot(const dot *d, const q8_row *r)
{
    int n_lane = lanes_of(d->v->order);
    bool is_terms = d->v->order == DOT_F64 || d->v->order == DOT_PAIRWISE;
    return n_lane > 1 ? q8_lanes(d, r, n_lane) : is_terms ? q8_terms(d, r) : q8_segments(d, r);
}

/* ---- The product ----------------------------------------------------------------------------- */

/* Values of K that the tail is about. */
static int64_t tail_of(const op_variant *v, int64_t n)
{
    switch (v->tail) {
    case TAIL_K_SKIPPED:
    case TAIL_K_TWICE:
    case TAIL_K_TWICE_APART:
        return n % v->tail_size;
    case TAIL_K_LAST_SKIPPED:
        return n > v->tail_size ? v->tail_size : 0;
    default:
        return 0;
    }
}

static dot dot_of(const op_case *c, bool is_q8, float *terms)
{
    const op_variant *v = &c->variant;
    int64_t n = c->in[0].n, usual = is_q8 ? SEGMENT : SEGMENT_FLOAT;
    int64_t other = is_q8 ? SEGMENT_FLOAT : SEGMENT, n_tail = tail_of(v, n);
    bool is_chain = v->order == DOT_CHAIN || v->order == DOT_CHAIN_PLAIN;
    return (dot){.v = v,
                 .n = n - n_tail,
                 .n_tail = n_tail,
                 .segment = is_chain                   ? n
                            : v->order == DOT_SEGMENTS ? other
                                                       : usual,
                 .terms = terms};
}

static void floats_narrow(const op_variant *v, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = flushed(v, precision_round(v->input, x[i]));
    }
}

/* x: a row as kernels read it; floats are narrowed already. */
static float row_dot(const op_case *c, const dot *d, const void *x, int64_t r, float *wide)
{
    const weight_view *view = &c->op.w[0];
    const weight *w = view->tensor;
    const uint8_t *row = w->data + (view->first + r) * w->row_bytes;
    if (c->in[0].type == DTYPE_ACT_Q8) {
        const float *scale = (const float *)(const void *)((const int8_t *)x + w->n_col);
        q8_row q = {.code = x,
                    .scale = scale,
                    .sum = (const int32_t *)(const void *)(scale + w->n_col / BLOCK),
                    .weight = row,
                    .type = w->type};
        return q8_dot(d, &q);
    }
    kernel_dequantize(w->type, row, wide, w->n_col);
    floats_narrow(d->v, wide, w->n_col);
    return float_dot(d, wide, x);
}

/* One output without its bias. */
static float output(const op_case *c, const dot *d, const void *x, int64_t r, float *wide)
{
    float y = row_dot(c, d, x, r, wide);
    if (d->v->tail == TAIL_K_TWICE_APART && d->n_tail > 0) {
        dot again = *d;
        again.first = d->n;
        y += row_dot(c, &again, x, r, wide);
    }
    return y;
}

/* The outputs from `n_whole` on are those of a tail. */
static float output_times(const op_variant *v, int64_t r, int64_t n_whole)
{
    return r < n_whole ? 1.0f : v->tail == TAIL_OUT_TWICE ? 2.0f : 0.0f;
}

bool op_variant_matmul(const op_case *c, const void *x, float *y)
{
    const op_variant *v = &c->variant;
    int64_t n = c->in[0].n, n_out = c->op.w[0].n;
    bool is_q8 = c->in[0].type == DTYPE_ACT_Q8;
    float *wide = op_memory((size_t)n * 3 * sizeof *wide); /* a row of weights, x, terms */
    if (!wide) {
        return false;
    }
    if (!is_q8) {
        memcpy(wide + n, x, (size_t)n * sizeof *wide);
        floats_narrow(v, wide + n, n);
    }
    dot d = dot_of(c, is_q8, wide + 2 * n);
    const float *bias = op_weight_floats(&c->op.w[1]);
    bool is_first = bias && v->order == DOT_BIAS_FIRST;
    bool has_tail = v->tail == TAIL_OUT_SKIPPED || v->tail == TAIL_OUT_TWICE;
    int64_t n_whole = has_tail ? n_out - n_out % v->tail_size : n_out;
    for (int64_t r = 0; r < n_out; r++) {
        d.bias = is_first ? bias[r] : 0.0f;
        float sum = output(c, &d, is_q8 ? x : wide + n, r, wide);
        y[r] = bias && !is_first ? flushed(v, sum + bias[r]) : sum;
        y[r] = r < n_whole ? y[r] : y[r] * output_times(v, r, n_whole);
    }
    free(wide);
    return true;
}
