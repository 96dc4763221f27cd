/* weight_kin.c - the distance of two stored tensors, in what their types may have rounded away.
 *
 * Blocks are read as kernels read them (kernel/blocks.h), values in binary64, where they are exact.
 * The step of a value is that of its code: the scale of its part of the block, or the wider gap
 * beside an entry of a codebook. Work is cut into a fixed number of pieces, added in order.
 */
#include "replay/weight_kin.h"

#include "base/threads.h"
#include "kernel/blocks.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECES     16
#define HALF_ULP   0x1p-11 /* of a scale in binary16, relative */
#define HALF_LEAST 0x1p-25 /* of a subnormal one */

const char *weight_relation_name(weight_relation r)
{
    static const char *const name[] = {"equal", "rounded", "searched", "other"};
    return name[r];
}

/* 32 values of a row, and how far each may lie from what it was made of. */
typedef struct unit {
    double value[BLOCK], reach[BLOCK];
} unit;

/* Codes of a type, and whether its blocks have scales in a super-block. */
typedef struct code_range {
    dtype type;
    int16_t least, most;
    bool is_super;
} code_range;

static const code_range ranges[] = {
    {DTYPE_Q4_0, -8, 7, false},  {DTYPE_Q4_1, 0, 15, false},     {DTYPE_Q5_0, -16, 15, false},
    {DTYPE_Q5_1, 0, 31, false},  {DTYPE_Q8_0, -127, 127, false}, {DTYPE_Q2_K, 0, 3, true},
    {DTYPE_Q3_K, -4, 3, true},   {DTYPE_Q4_K, 0, 15, true},      {DTYPE_Q5_K, 0, 31, true},
    {DTYPE_Q6_K, -32, 31, true},
};

static const code_range *range_of(dtype type)
{
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        if (ranges[i].type == type) {
            return &ranges[i];
        }
    }
    return NULL;
}

/* The scale of a half of the unit as an integer factor of v->ws, and the scale and the minimum of
 * the super-block. */
typedef struct sub_scale {
    int factor;
    double d, least;
} sub_scale;

static sub_scale sub_scale_of(dtype type, const uint8_t *row, int64_t index, int half,
                              const block_values *v)
{
    const int j = (int)(index & 7), i = 2 * j + half;
    const uint8_t *super = row + (index >> 3) * dtype_find((uint32_t)type)->bytes;
    const double d = fabs((double)v->ws);
    switch (type) {
    case DTYPE_Q2_K:
        return (sub_scale){super[i] & 15, d, fabs((double)v->wm)};
    case DTYPE_Q3_K:
        return (sub_scale){block_q3_k_scale(super + 96, i), d, 0};
    case DTYPE_Q6_K: {
        const int8_t *scale = (const int8_t *)super + 192;
        return (sub_scale){scale[8 * (j / 4) + 2 * (j % 4) + half], d, 0};
    }
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        return (sub_scale){1, fabs((double)half_to_float(load_u16(super))),
                           fabs((double)half_to_float(load_u16(super + 2)))};
    case DTYPE_IQ4_XS:
        return (sub_scale){1, fabs((double)half_to_float(load_u16(super))), 0};
    default:
        return (sub_scale){1, 0, 0};
    }
}

/* Half the wider gap beside an entry of a codebook. */
static double codebook_half_gap(const int8_t *table, int16_t code, bool *is_end)
{
    int below = INT32_MIN, above = INT32_MAX;
    for (int i = 0; i < 16; i++) {
        below = table[i] < code && table[i] > below ? table[i] : below;
        above = table[i] > code && table[i] < above ? table[i] : above;
    }
    *is_end = below == INT32_MIN || above == INT32_MAX;
    int gap_below = below == INT32_MIN ? 0 : code - below;
    int gap_above = above == INT32_MAX ? 0 : above - code;
    return (gap_below > gap_above ? gap_below : gap_above) / 2.0;
}

static double reach_of(dtype type, const block_values *v, int i, const sub_scale *s)
{
    const code_range *range = range_of(type);
    const double ws = fabs((double)v->ws) * (1 + 2 * HALF_ULP); /* codes were found by another */
    const double wm = fabs((double)v->wm) * (block_has_two_min(type) ? v->m[i / 16] : 1);
    const double slack = HALF_ULP * (ws * abs(v->q[i]) + wm);
    bool is_end;
    if (!range) {
        double half = ws * codebook_half_gap(block_codebook(type), v->q[i], &is_end);
        double most = type == DTYPE_MXFP4 ? 12 : 127;
        return half + slack + HALF_LEAST * (type == DTYPE_MXFP4 ? 0 : most) +
               (is_end ? half + most * s->d / 2 : 0);
    }
    double half = ws * abs(s->factor) / 2, most = fmax(range->most, -range->least);
    int code = s->factor != 0 ? v->q[i] / s->factor : range->most;
    is_end = code <= range->least || code >= range->most;
    double out = is_end ? half + (range->is_super ? most * s->d / 2 + s->least / 2 : 0) : 0;
    return half + slack + HALF_LEAST * (most + 1) + out;
}

static void unit_of_blocks(const weight *w, const uint8_t *row, int64_t index, unit *out)
{
    block_values v;
    block_read(w->type, row, index, &v);
    for (int half = 0; half < 2; half++) {
        sub_scale s = sub_scale_of(w->type, row, index, half, &v);
        for (int i = 16 * half; i < 16 * half + 16; i++) {
            double least = (double)v.wm * (block_has_two_min(w->type) ? v.m[half] : 1);
            out->value[i] = (double)v.ws * v.q[i] + least;
            out->reach[i] = reach_of(w->type, &v, i, &s);
        }
    }
}

/* Half a unit in the last place of a float type. */
static double half_unit(dtype type, double value)
{
    if (type == DTYPE_F32) {
        return 0;
    }
    int bits = type == DTYPE_F16 ? 11 : 8, least = type == DTYPE_F16 ? -14 : -126, exponent;
    (void)frexp(value, &exponent); /* |value| in [2^(exponent - 1), 2^exponent) */
    exponent = value != 0 && exponent - 1 > least ? exponent - 1 : least;
    return ldexp(1, exponent - bits);
}

static void unit_of_floats(const weight *w, const uint8_t *row, int64_t first, int n, unit *out)
{
    float wide[BLOCK];
    kernel_dequantize(w->type, row + (w->type == DTYPE_F32 ? 4 : 2) * first, wide, n);
    for (int i = 0; i < n; i++) {
        out->value[i] = (double)wide[i];
        out->reach[i] = half_unit(w->type, out->value[i]);
    }
}

static void unit_read(const weight_view *view, int64_t r, int64_t first, int n, unit *out)
{
    const weight *w = view->tensor;
    const uint8_t *row = weight_row(w, view->first + r);
    if (dtype_find((uint32_t)w->type)->is_quantised) {
        unit_of_blocks(w, row, first / BLOCK, out);
    } else {
        unit_of_floats(w, row, first, n, out);
    }
}

typedef struct piece {
    weight_match match;
    double difference, size_a, size_b; /* sums of squares */
} piece;

typedef struct matching {
    const weight_view *a, *b;
    piece piece[PIECES];
} matching;

static void unit_match(const unit *a, const unit *b, int64_t r, int64_t first, int n, piece *out)
{
    for (int i = 0; i < n; i++) {
        double x = a->value[i], y = b->value[i], reach = a->reach[i] + b->reach[i];
        bool is_same = x == y || (isnan(x) && isnan(y));
        double ratio = is_same ? 0 : fabs(x - y) / reach; /* Inf where nothing may differ */
        ratio = isnan(ratio) ? INFINITY : ratio;
        out->match.n_outside += ratio > 1;
        if (ratio > out->match.largest) {
            out->match.largest = ratio;
            out->match.row = r;
            out->match.at = first + i;
        }
        out->difference += is_same ? 0 : (x - y) * (x - y);
        out->size_a += x * x;
        out->size_b += y * y;
    }
}

static void pieces_match(void *user, int32_t thread, int32_t n_thread)
{
    matching *m = user;
    const int64_t n_col = m->a->tensor->n_col;
    for (int32_t k = thread; k < PIECES; k += n_thread) {
        const int64_t end = m->a->n * (k + 1) / PIECES;
        for (int64_t r = m->a->n * k / PIECES; r < end; r++) {
            weight_match *match = &m->piece[k].match;
            const int64_t before = match->n_outside;
            for (int64_t first = 0; first < n_col; first += BLOCK) {
                int n = n_col - first < BLOCK ? (int)(n_col - first) : BLOCK;
                unit x, y;
                unit_read(m->a, r, first, n, &x);
                unit_read(m->b, r, first, n, &y);
                unit_match(&x, &y, r, first, n, &m->piece[k]);
            }
            const int64_t outside = match->n_outside - before;
            match->row_share = fmax(match->row_share, (double)outside / (double)n_col);
        }
    }
}

static weight_relation relation_of(const matching *m, const weight_match *match)
{
    const dtype a = m->a->tensor->type, b = m->b->tensor->type;
    bool is_searched =
        dtype_find((uint32_t)a)->is_quantised || dtype_find((uint32_t)b)->is_quantised;
    bool is_float = a == b && !is_searched; /* rounding to one float type has one result */
    if (!(match->largest > 0)) {
        return WEIGHTS_EQUAL;
    }
    if (match->n_outside == 0) {
        return is_float ? WEIGHTS_OTHER : WEIGHTS_ROUNDED;
    }
    bool is_near = match->largest <= WEIGHTS_FAR_MAX && match->row_share <= WEIGHTS_ROW_MAX &&
                   (double)match->n_outside <= WEIGHTS_SHARE_MAX * (double)match->n;
    return is_searched && is_near ? WEIGHTS_SEARCHED : WEIGHTS_OTHER;
}

void weights_match(const weight_view *a, const weight_view *b, thread_pool *pool, weight_match *out)
{
    matching m = {.a = a, .b = b};
    double difference = 0, size_a = 0, size_b = 0;
    thread_pool_run(pool, pieces_match, &m);
    *out = (weight_match){.n = a->n * a->tensor->n_col};
    for (int k = 0; k < PIECES; k++) {
        const piece *p = &m.piece[k];
        out->n_outside += p->match.n_outside;
        out->row_share = fmax(out->row_share, p->match.row_share);
        if (p->match.largest > out->largest) {
            out->largest = p->match.largest;
            out->row = p->match.row;
            out->at = p->match.at;
        }
        difference += p->difference;
        size_a += p->size_a;
        size_b += p->size_b;
    }
    out->relative = difference > 0 ? sqrt(difference / fmax(size_a, size_b)) : 0;
    out->relation = relation_of(&m, out);
}
