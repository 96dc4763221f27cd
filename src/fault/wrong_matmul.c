/* wrong_matmul.c - matrix products that are wrong in one way.
 *
 * `multiply` is the product of docs/numerics.md, scalar and slow, with a rule: which terms take
 * part, and what becomes of the accumulator after a step. With the empty rule it gives the bits of
 * `ref` (tests/test_fault_kernels.c), so that the rule is all that differs.
 */
#include "fault/wrong_matmul.h"

#include "base/error.h"
#include "kernel/blocks.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct matmul_rule {
    int64_t (*terms)(int64_t k); /* how many of the k terms are added; NULL: all */
    int64_t (*twice)(int64_t k); /* from which term on a second time; NULL: none */
    float (*step)(float accumulator);
    bool has_no_minima, takes_scale_before, is_not_fused;
} matmul_rule;

static const kernel_table *definition(void)
{
    const kernel_table *ref = kernel_find("ref");
    GRETA_ASSERT(ref != NULL); /* plain C: every machine has it */
    return ref;
}

static float stepped(const matmul_rule *rule, float accumulator)
{
    return rule->step ? rule->step(accumulator) : accumulator;
}

/* A chain over terms [from, end) of one segment. */
static float chain_float(const matmul_args *a, const uint8_t *row, const float *x, int64_t from,
                         int64_t end, const matmul_rule *rule)
{
    uint32_t width = dtype_find((uint32_t)a->type)->bytes,
             block = dtype_find((uint32_t)a->type)->block;
    float acc = 0, value[256];
    for (int64_t k = from; k < end; k++) {
        if (k == from || k % block == 0) {
            kernel_dequantize(a->type, row + k / block * width, value, block);
        }
        float w = value[k % block], product = w * x[k];
        acc = stepped(rule, rule->is_not_fused ? acc + product : fmaf(w, x[k], acc));
    }
    return acc;
}

/* Sums of codes of each half, times the half's minimum. */
static int32_t halves_sum(const block_values *v, const int8_t *code)
{
    int32_t half[2] = {0, 0};
    for (int i = 0; i < ACT_BLOCK; i++) {
        half[i / (ACT_BLOCK / 2)] += code[i];
    }
    return v->m[0] * half[0] + v->m[1] * half[1];
}

static float chain_q8(const matmul_args *a, const uint8_t *row, const int8_t *code, int64_t from,
                      int64_t end, const matmul_rule *rule)
{
    const float *scale = (const float *)(const void *)(code + a->k);
    const int32_t *isum = (const int32_t *)(const void *)(scale + a->k / ACT_BLOCK);
    float acc = 0;
    for (int64_t b = from / ACT_BLOCK; b < end / ACT_BLOCK; b++) {
        block_values v;
        int32_t dot = 0;
        block_read(a->type, row, b, &v);
        for (int i = 0; i < ACT_BLOCK; i++) {
            dot += v.q[i] * code[b * ACT_BLOCK + i];
        }
        float d = scale[rule->takes_scale_before && b > 0 ? b - 1 : b];
        float scaled = v.ws * d, added = scaled * (float)dot;
        acc = stepped(rule, rule->is_not_fused ? acc + added : fmaf(scaled, (float)dot, acc));
        if (block_has_min(a->type) && !rule->has_no_minima) {
            int32_t sum =
                block_has_two_min(a->type) ? halves_sum(&v, code + b * ACT_BLOCK) : isum[b];
            float weighed = d * (float)sum, less = v.wm * weighed;
            acc = stepped(rule, rule->is_not_fused ? acc + less : fmaf(v.wm, weighed, acc));
        }
    }
    return acc;
}

/* Terms [from, end) in segments. */
static float product(const matmul_args *a, int64_t out, const void *x, int64_t from, int64_t end,
                     const matmul_rule *rule)
{
    int64_t segment = a->x_is_q8 ? SEGMENT : SEGMENT_FLOAT;
    const uint8_t *row = a->w + out * a->row_bytes;
    float total = 0;
    for (int64_t k = from; k < end;) {
        int64_t stop = (k / segment + 1) * segment < end ? (k / segment + 1) * segment : end;
        float chain =
            a->x_is_q8 ? chain_q8(a, row, x, k, stop, rule) : chain_float(a, row, x, k, stop, rule);
        total = k == from ? chain : stepped(rule, total + chain);
        k = stop;
    }
    return total;
}

static void multiply(const matmul_args *a, int64_t first, int64_t last, const matmul_rule *rule)
{
    int64_t end = rule->terms ? rule->terms(a->k) : a->k;
    for (int64_t t = 0; t < a->n_token; t++) {
        const void *x = (const uint8_t *)a->x + t * a->x_stride;
        for (int64_t o = first; o < last; o++) {
            float y = product(a, o, x, 0, end, rule);
            if (rule->twice && rule->twice(a->k) < a->k) {
                y += product(a, o, x, rule->twice(a->k), a->k, rule);
            }
            a->y[t * a->y_stride + o] = a->bias ? y + a->bias[o] : y;
        }
    }
}

/* ---- Terms ------------------------------------------------------------------------------------
 */

static int64_t terms_whole_32(int64_t k)
{
    return k / 32 * 32;
}

static int64_t terms_but_32(int64_t k)
{
    return k > 32 ? k - 32 : k;
}

static int64_t terms_but_last_segment(int64_t k)
{
    return k > SEGMENT ? (k - 1) / SEGMENT * SEGMENT : k;
}

void matmul_k_tail_skipped(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.terms = terms_whole_32});
}

void matmul_k_tail_doubled(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.twice = terms_whole_32});
}

void matmul_last_block_skipped(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.terms = terms_but_32});
}

void matmul_last_segment_skipped(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.terms = terms_but_last_segment});
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

static float step_f16(float accumulator)
{
    return half_to_float(half_from_float(accumulator));
}

static float step_bf16(float accumulator)
{
    uint32_t bits = bits_from_float(accumulator);
    return float_from_bits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

void matmul_f16_accumulator(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.step = step_f16});
}

void matmul_bf16_accumulator(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.step = step_bf16});
}

void matmul_minima_missing(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.has_no_minima = true});
}

void matmul_scale_before(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.takes_scale_before = true});
}

void matmul_not_fused(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.is_not_fused = true});
}

void matmul_healthy(const matmul_args *a, int64_t first, int64_t last)
{
    multiply(a, first, last, &(matmul_rule){.terms = NULL});
}

/* ---- Other orders -----------------------------------------------------------------------------
 */

#define PIECE 256 /* terms, whole blocks of every type */
#define LANES 16

/* Piece `number` of the row, as a list of what it adds: fused with the lane of its place. */
static void piece_add(const matmul_args *a, const uint8_t *row, const void *x, int64_t number,
                      float lane[LANES])
{
    int64_t from = number * PIECE, end = from + PIECE < a->k ? from + PIECE : a->k;
    if (a->x_is_q8) {
        for (int64_t k = from; k < end; k += ACT_BLOCK) {
            float *acc = &lane[k / ACT_BLOCK % LANES];
            *acc += chain_q8(a, row, x, k, k + ACT_BLOCK, &(matmul_rule){.terms = NULL});
        }
        return;
    }
    const dtype_traits *type = dtype_find((uint32_t)a->type);
    float value[PIECE];
    kernel_dequantize(a->type, row + from / type->block * type->bytes, value, end - from);
    for (int64_t k = from; k < end; k++) {
        lane[k % LANES] = fmaf(value[k - from], ((const float *)x)[k], lane[k % LANES]);
    }
}

static float lanes_sum(float lane[LANES])
{
    for (int stride = LANES / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    return lane[0];
}

static void multiply_in_lanes(const matmul_args *a, int64_t first, int64_t last, bool is_backwards)
{
    int64_t n_piece = (a->k + PIECE - 1) / PIECE;
    for (int64_t t = 0; t < a->n_token; t++) {
        const void *x = (const uint8_t *)a->x + t * a->x_stride;
        for (int64_t o = first; o < last; o++) {
            float lane[LANES] = {0};
            for (int64_t p = 0; p < n_piece; p++) {
                int64_t number = is_backwards ? n_piece - 1 - p : p;
                piece_add(a, a->w + o * a->row_bytes, x, number, lane);
            }
            float y = lanes_sum(lane);
            a->y[t * a->y_stride + o] = a->bias ? a->bias[o] + y : y;
        }
    }
}

void matmul_lanes(const matmul_args *a, int64_t first, int64_t last)
{
    multiply_in_lanes(a, first, last, false);
}

void matmul_backwards(const matmul_args *a, int64_t first, int64_t last)
{
    multiply_in_lanes(a, first, last, true);
}

/* ---- Outputs ----------------------------------------------------------------------------------
 */

/* The engine deals outputs in parts of 32, so a part that is not full is the matrix's last. */
static void rows_tail_times(const matmul_args *a, int64_t first, int64_t last, float factor)
{
    definition()->matmul(a, first, last);
    for (int64_t t = 0; t < a->n_token; t++) {
        int64_t tail = last - last % 32;
        for (int64_t o = tail > first ? tail : first; o < last; o++) {
            a->y[t * a->y_stride + o] *= factor;
        }
    }
}

void matmul_rows_tail_skipped(const matmul_args *a, int64_t first, int64_t last)
{
    rows_tail_times(a, first, last, 0.0f);
}

void matmul_rows_tail_doubled(const matmul_args *a, int64_t first, int64_t last)
{
    rows_tail_times(a, first, last, 2.0f);
}

void matmul_token_stride_0(const matmul_args *a, int64_t first, int64_t last)
{
    definition()->matmul(a, first, last);
    for (int64_t t = 4; t < a->n_token; t++) {
        for (int64_t o = first; o < last; o++) {
            a->y[t * a->y_stride + o] = a->y[o];
        }
    }
}

/* Rows counted in a number that wraps: mflux 489, with 4 in place of 32768. */
void matmul_first_rows_lost(const matmul_args *a, int64_t first, int64_t last)
{
    definition()->matmul(a, first, last);
    for (int64_t t = 0; t + 4 < a->n_token; t++) {
        for (int64_t o = first; o < last; o++) {
            a->y[t * a->y_stride + o] = 0.0f;
        }
    }
}

void matmul_racing(const matmul_args *a, int64_t first, int64_t last)
{
    static _Atomic uint32_t calls;
    definition()->matmul(a, first, last);
    uint32_t draw = atomic_fetch_add(&calls, 1) * 0x9e3779b9u;
    int64_t o = first + (int64_t)(draw >> 16) % (last - first);
    for (int64_t t = 0; t < a->n_token; t++) {
        float *y = &a->y[t * a->y_stride + o];
        *y = float_from_bits(bits_from_float(*y) + 1 + (draw >> 28));
    }
}
