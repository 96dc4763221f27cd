/* op_variant_attention.c - attention in other orders and precisions, and with broken parts.
 *
 * In tiles it is docs/numerics.md said again in scalar code, and gives the definition's bits where
 * nothing is changed: what scores are rounded to, and what becomes of the sum, are then the only
 * difference. The other orders are those of engines that keep all scores of a row.
 */
#include "replay/op_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct head_work {
    const op_case *c;
    const float *q;
    int64_t at;    /* of the kv head in a cache row */
    double *score; /* (end) */
    float *row;    /* (head_dim) of a key or value */
    double *sum;   /* (head_dim), and (head_dim) of a tile */
} head_work;

static void head_row(const head_work *w, const void *cache_row)
{
    size_t size = w->c->kv_type == DTYPE_F16 ? 2 : 4;
    op_cache_floats(w->c->kv_type, (const uint8_t *)cache_row + (size_t)w->at * size,
                    w->c->op.head_dim, w->row);
}

/* ---- In tiles -------------------------------------------------------------------------------- */

static float tile_exp(float x)
{
    float y;
    kernel_find("ref")->glu(ACTIVATION_EXP, &x, NULL, &y, 1);
    return y;
}

/* NaN if either is. */
static float larger(float a, float b)
{
    return isnan(a) || isnan(b) ? NAN : a > b ? a : b;
}

typedef struct running {
    float most, sum;
    double *out; /* (head_dim), floats */
} running;

static float tile_score(const head_work *w, int64_t p)
{
    const op *o = &w->c->op;
    float dot = 0.0f;
    head_row(w, w->c->key[p]);
    for (int32_t d = 0; d < o->head_dim; d++) {
        dot = fmaf(w->q[d], w->row[d], dot);
    }
    float score = precision_round(w->c->variant.scores, dot) * o->scale;
    if (o->softcap > 0) {
        float capped;
        kernel_find("ref")->softcap(o->softcap, &score, &capped, 1);
        score = capped;
    }
    return score;
}

/* Positions first .. end, all of one tile. */
static void tile_sum(const head_work *w, int64_t first, int64_t end, running *tile)
{
    const op_variant *v = &w->c->variant;
    float term[ATTENTION_TILE] = {0};
    int64_t start = first / ATTENTION_TILE * ATTENTION_TILE;
    memset(tile->out, 0, (size_t)w->c->op.head_dim * sizeof *tile->out);
    for (int64_t p = first; p < end; p++) {
        term[p - start] = tile_score(w, p);
        tile->most = p == first ? term[p - start] : larger(tile->most, term[p - start]);
    }
    for (int64_t p = first; p < end; p++) {
        float e = tile_exp(term[p - start] - tile->most);
        e = v->is_flushed && e < 0x1p-126f ? 0.0f : e;
        term[p - start] = e;
        head_row(w, w->c->value[p]);
        for (int32_t d = 0; d < w->c->op.head_dim; d++) {
            float chain = fmaf(e, w->row[d], (float)tile->out[d]);
            tile->out[d] = (double)precision_round(v->values, chain);
        }
    }
    tile->sum = sum_in_order(SUM_CANONICAL, term, ATTENTION_TILE);
}

static void tile_merge(const head_work *w, running *total, const running *tile)
{
    float most = larger(total->most, tile->most), old = tile_exp(total->most - most);
    float fresh = tile_exp(tile->most - most);
    old = w->c->variant.keeps_scale ? 1.0f : old;
    total->sum = fmaf(total->sum, old, tile->sum * fresh);
    for (int32_t d = 0; d < w->c->op.head_dim; d++) {
        float scaled = (float)tile->out[d] * fresh;
        total->out[d] = (double)fmaf((float)total->out[d], old, scaled);
    }
    total->most = most;
}

static void head_tiles(const head_work *w, float *y)
{
    int64_t first = op_first_seen(w->c), end = w->c->end;
    running total = {.out = w->sum}, tile = {.out = w->sum + w->c->op.head_dim};
    for (int64_t p = first, stop; p < end; p = stop) {
        stop = (p / ATTENTION_TILE + 1) * ATTENTION_TILE;
        stop = stop < end ? stop : end;
        if (p == first) {
            tile_sum(w, p, stop, &total);
        } else {
            tile_sum(w, p, stop, &tile);
            tile_merge(w, &total, &tile);
        }
    }
    const op_variant *v = &w->c->variant;
    float sum = v->adds_one ? total.sum + tile_exp(0.0f - total.most) : total.sum;
    for (int32_t d = 0; d < w->c->op.head_dim; d++) {
        y[d] = v->is_not_divided ? (float)total.out[d] : (float)total.out[d] / sum;
    }
}

/* ---- All scores first ------------------------------------------------------------------------ */

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

bool op_variant_attention(const op_case *c, const float *q, float *y)
{
    size_t n = (size_t)c->op.head_dim;
    double *room = op_memory(((size_t)c->end + 3 * n) * sizeof *room);
    for (int32_t h = 0; h < c->op.n_head && room; h++) {
        head_work w = {.c = c,
                       .q = q + (int64_t)h * c->op.head_dim,
                       .at = (int64_t)op_kv_head(c, h) * c->op.head_dim,
                       .score = room,
                       .sum = room + c->end,
                       .row = (float *)(void *)(room + (size_t)c->end + 2 * n)};
        float *out = y + (int64_t)h * c->op.head_dim;
        if (c->variant.attention == ATTENTION_TILES) {
            head_tiles(&w, out);
        } else {
            head_attend(&w, out);
        }
    }
    free(room);
    return room != NULL;
}
