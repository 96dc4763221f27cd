/* faulty_ops.c - devices with one mistake each: number n makes mistake n of src/fault/defect.h.
 *
 * Linked with the reference plugin, whose kernels some of these replace. What a mistake does is
 * what it does on a GPU, made repeatable: flush to zero is the processor's own; memory that was
 * never written is zero, as a driver hands it out; shared memory keeps what the block before it
 * left in it; a grid of whole tiles leaves the rest of a row as it lay in its buffer; a captured
 * graph has the position of its first token. A graph is not needed for that: traced passes have
 * none, and the position that a graph would keep is kept all the same.
 */
#include "reference_device.h"

#include "base/fpenv.h"
#include "fault/defect.h"
#include "fault/wrong_matmul.h"
#include "kernel/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Flush to zero --------------------------------------------------------------------------- */

#define FLUSHED(call)                                                                              \
    do {                                                                                           \
        uint32_t saved;                                                                            \
        bool is_flushing = fpenv_flush(&saved);                                                    \
        reference_kernels()->call;                                                                 \
        if (is_flushing) {                                                                         \
            fpenv_leave(saved);                                                                    \
        }                                                                                          \
    } while (0)

static void flushed_embed(const embed_args *a)
{
    FLUSHED(embed(a));
}

static void flushed_norm(norm_args *a)
{
    FLUSHED(rms_norm(a));
}

static void flushed_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    FLUSHED(matmul(a, first, last));
}

static void flushed_rope(const rope_args *a)
{
    FLUSHED(rope(a));
}

static void flushed_attention(const attention_args *a, int32_t first, int32_t last)
{
    FLUSHED(attention(a, first, last));
}

static void flushed_add(const float *a, const float *b, float *y, int64_t n)
{
    FLUSHED(add(a, b, y, n));
}

static void flushed_scale(float factor, const float *x, float *y, int64_t n)
{
    FLUSHED(scale(factor, x, y, n));
}

static void flushed_softcap(float cap, const float *x, float *y, int64_t n)
{
    FLUSHED(softcap(cap, x, y, n));
}

static void flushed_glu(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    FLUSHED(glu(f, gate, up, y, n));
}

/* ---- Norms ----------------------------------------------------------------------------------- */

static void norm_finish(norm_args *a, float sum)
{
    a->inv_rms = 1.0f / sqrtf(sum / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

/* Squares of one group, halved by stride; fused: the first step is a multiply-add of the squares
 * themselves, which is what a compiler makes of x[i] * x[i] + x[i + 32] * x[i + 32]. */
static float group_sum(const norm_args *a, int64_t start, bool is_fused)
{
    float x[ROW_SUM_GROUP] = {0}, term[ROW_SUM_GROUP];
    int64_t n = a->n - start < ROW_SUM_GROUP ? a->n - start : ROW_SUM_GROUP;
    memcpy(x, a->x + start, (size_t)n * sizeof *x);
    for (int i = 0; i < ROW_SUM_GROUP; i++) {
        term[i] = x[i] * x[i];
    }
    for (int i = 0, half = ROW_SUM_GROUP / 2; i < half; i++) {
        term[i] = is_fused ? fmaf(x[i], x[i], term[i + half]) : term[i] + term[i + half];
    }
    for (int stride = ROW_SUM_GROUP / 4; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            term[i] += term[i + stride];
        }
    }
    return term[0];
}

static void contracted_norm(norm_args *a)
{
    float sum = group_sum(a, 0, true);
    for (int64_t start = ROW_SUM_GROUP; start < a->n; start += ROW_SUM_GROUP) {
        sum += group_sum(a, start, true);
    }
    norm_finish(a, sum);
}

/* A warp has a group, and the first one adds them up before the last one has written: it reads what
 * the norm before left there. One group needs no shared memory. */
static void racing_norm(norm_args *a)
{
    float *left = &device_at_work->left[device_at_work->token % SLOTS];
    float sum = group_sum(a, 0, false);
    for (int64_t start = ROW_SUM_GROUP; start < a->n; start += ROW_SUM_GROUP) {
        bool is_last = start + ROW_SUM_GROUP >= a->n;
        float own = group_sum(a, start, false);
        sum += is_last ? *left : own;
        *left = is_last ? own : *left;
    }
    norm_finish(a, sum);
}

static void lanes_norm(norm_args *a)
{
    float lane[32] = {0};
    for (int64_t i = 0; i < a->n; i++) {
        float square = a->x[i] * a->x[i];
        lane[i % 32] += square;
    }
    for (int stride = 16; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    norm_finish(a, lane[0]);
}

/* ---- Products: calls are for all outputs of one row ------------------------------------------ */

/* Output r of rows [at, at + n) is that of matrix row r mod n. */
static void wrapped_matmul(const matmul_args *a, int64_t last, int64_t n)
{
    for (int64_t at = 0; at < last; at += n) {
        matmul_args part = *a;
        part.y = a->y + at;
        part.bias = a->bias ? a->bias + at : NULL;
        reference_kernels()->matmul(&part, 0, last - at < n ? last - at : n);
    }
}

static void wrapped_matmul_8(const matmul_args *a, int64_t first, int64_t last)
{
    (void)first;
    wrapped_matmul(a, last, DEFECT_INDEX_SMALL);
}

static void wrapped_matmul_16(const matmul_args *a, int64_t first, int64_t last)
{
    (void)first;
    wrapped_matmul(a, last, DEFECT_INDEX_LARGE);
}

static void whole_tiles_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    int64_t tail = last > DEFECT_TILE_ROWS ? last % DEFECT_TILE_ROWS : 0;
    reference_kernels()->matmul(a, first, last - tail);
}

static void whole_tiles_glu(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    int64_t tail = n > DEFECT_TILE_COLUMNS ? n % DEFECT_TILE_COLUMNS : 0;
    reference_kernels()->glu(f, gate, up, y, n - tail);
}

/* Its segments are added up before the last one is there. */
static void unwaited_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    matmul_args before = *a;
    if (a->x_is_q8) {
        matmul_last_segment_skipped(a, first, last);
        return;
    }
    before.k = a->k > SEGMENT_FLOAT ? (a->k - 1) / SEGMENT_FLOAT * SEGMENT_FLOAT : a->k;
    reference_kernels()->matmul(&before, first, last);
}

static float tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= ~0x1fffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void tf32_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    float *x = malloc(2 * (size_t)a->k * sizeof *x), *w = x ? x + a->k : NULL;
    if (a->x_is_q8 || !x) {
        reference_kernels()->matmul(a, first, last);
        free(x);
        return;
    }
    for (int64_t k = 0; k < a->k; k++) {
        x[k] = tf32(((const float *)a->x)[k]);
    }
    for (int64_t r = first; r < last; r++) {
        matmul_args one = *a;
        kernel_dequantize(a->type, a->w + r * a->row_bytes, w, a->k);
        for (int64_t k = 0; k < a->k; k++) {
            w[k] = tf32(w[k]);
        }
        one.type = DTYPE_F32;
        one.w = (const uint8_t *)w;
        one.x = x;
        one.y = a->y + r;
        one.bias = a->bias ? a->bias + r : NULL;
        reference_kernels()->matmul(&one, 0, 1);
    }
    free(x);
}

/* Lanes of a warp, then a tree. Floats: lane k mod 32. Codes: eight lanes have four of each block
 * (dp4a), a ninth chain its minima. */
static float lanes_join(float *lane, int n)
{
    for (int stride = n / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    return lane[0];
}

static float lanes_of_codes(const matmul_args *a, const uint8_t *row)
{
    const int8_t *code = a->x;
    const float *scale = (const float *)(const void *)(code + a->k);
    float lane[8] = {0}, minima = 0.0f;
    for (int64_t b = 0; b < a->k / ACT_BLOCK; b++, code += ACT_BLOCK) {
        block_values v;
        int32_t half[2] = {0, 0};
        block_read(a->type, row, b, &v);
        for (int l = 0; l < 8; l++) {
            int32_t dot = 0;
            for (int i = 4 * l; i < 4 * l + 4; i++) {
                dot += v.q[i] * code[i];
                half[i / 16] += code[i];
            }
            float factor = v.ws * scale[b];
            lane[l] = fmaf(factor, (float)dot, lane[l]);
        }
        int32_t sum =
            block_has_two_min(a->type) ? v.m[0] * half[0] + v.m[1] * half[1] : half[0] + half[1];
        float weighed = scale[b] * (float)sum;
        minima = fmaf(v.wm, weighed, minima);
    }
    return lanes_join(lane, 8) + minima;
}

static void lanes_matmul(const matmul_args *a, int64_t first, int64_t last)
{
    float *w = a->x_is_q8 ? NULL : malloc((size_t)a->k * sizeof *w);
    for (int64_t r = first; r < last && (w || a->x_is_q8); r++) {
        const uint8_t *row = a->w + r * a->row_bytes;
        float lane[32] = {0};
        if (w) {
            kernel_dequantize(a->type, row, w, a->k);
        }
        for (int64_t k = 0; k < a->k && w; k++) {
            lane[k % 32] = fmaf(w[k], ((const float *)a->x)[k], lane[k % 32]);
        }
        float sum = w ? lanes_join(lane, 32) : lanes_of_codes(a, row);
        a->y[r] = a->bias ? sum + a->bias[r] : sum;
    }
    free(w);
}

/* ---- Which ----------------------------------------------------------------------------------- */

void device_make(gpu_device *d)
{
    kernel_table *t = &d->table;
    switch ((defect_number)d->number) {
    case DEFECT_FLUSH:
        t->embed = flushed_embed;
        t->rms_norm = flushed_norm;
        t->matmul = flushed_matmul;
        t->rope = flushed_rope;
        t->attention = flushed_attention;
        t->add = flushed_add;
        t->scale = flushed_scale;
        t->softcap = flushed_softcap;
        t->glu = flushed_glu;
        break;
    case DEFECT_CONTRACTION:
        t->rms_norm = contracted_norm;
        break;
    case DEFECT_BARRIER_NORM:
        t->rms_norm = racing_norm;
        break;
    case DEFECT_BARRIER_MATMUL:
        t->matmul = unwaited_matmul;
        break;
    case DEFECT_INDEX_8:
        t->matmul = wrapped_matmul_8;
        break;
    case DEFECT_INDEX_16:
        t->matmul = wrapped_matmul_16;
        break;
    case DEFECT_TAIL_MATMUL:
        t->matmul = whole_tiles_matmul;
        break;
    case DEFECT_TAIL_GLU:
        t->glu = whole_tiles_glu;
        break;
    case DEFECT_STALE_GRAPH:
        d->is_stale = true;
        break;
    case DEFECT_ORDER_NORM:
        t->rms_norm = lanes_norm;
        break;
    case DEFECT_ORDER_MATMUL:
        t->matmul = lanes_matmul;
        break;
    case DEFECT_TF32:
        t->matmul = tf32_matmul;
        break;
    case DEFECT_SUM_F16:
        t->matmul = matmul_f16_accumulator;
        break;
    case DEFECT_NONE:
    case DEFECT_COUNT:
        break;
    }
}

int32_t device_count(void)
{
    return DEFECT_COUNT;
}

const char *device_title(int32_t number)
{
    return defects()[number].kind.name;
}
