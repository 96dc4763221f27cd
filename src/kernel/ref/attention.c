/* attention.c - softmax(q k^T * scale) v of one token against the positions of its sequence.
 *
 * Positions are cut into tiles of 64 absolute positions, so one query against the same keys gives
 * the same bits in prefill, in any chunking and in decode. In a tile of visible positions p:
 *
 *     s[p] = rn(dot(q, k[p]) * scale)      one FMA chain over head_dim from +0
 *     s[p] = rn(cap * tanh(rn(s[p] / cap)))          where scores have a cap
 *     m = max s;  e[p] = exp(rn(s[p] - m));  l = row sum of e, invisible positions as +0
 *     o[d] = FMA chain over p of e[p] * v[p][d] from +0
 *
 * Tiles are merged in index order (Milakov & Gimelshein 2018 for the formula): the first tile with
 * a visible position starts (M, L, O); then N = max(M, m), a = exp(rn(M - N)), b = exp(rn(m - N)),
 * L = fma(L, a, rn(l * b)),  O[d] = fma(O[d], a, rn(o[d] * b)),  M = N; the result is rn(O[d] / L).
 * Invisible keys take no part in maximum, sum or chain, and a tile without a visible key none at
 * all.
 */
#include "kernel/ref/ref.h"

#include "base/limits.h"
#include "kernel/half.h"

#include <string.h>

#define STRIP        16 /* positions whose dot products run as lanes */
#define STRIPS       (ATTENTION_TILE / STRIP)
#define HEAD_DIM_MAX LIMIT_HEAD_DIM

/* A strip of keys (head_dim, STRIP) and of values (STRIP, head_dim), widened exactly. */
typedef struct kv_strip {
    float key[HEAD_DIM_MAX][STRIP];
    float value[STRIP][HEAD_DIM_MAX];
} kv_strip;

typedef struct state {
    float max, sum;
    float *out; /* (head_dim) */
} state;

static float value_at(const attention_args *a, const void *cache, int64_t at)
{
    return a->kv.type == DTYPE_F32 ? ((const float *)cache)[at]
                                   : half_to_float(((const uint16_t *)cache)[at]);
}

/* Keys of positions position .. position + n; the strip's other positions are zero. */
static void strip_keys(const attention_args *a, int32_t kv_head, int64_t position, int64_t n,
                       float key[][STRIP])
{
    int64_t at = kv_at(&a->kv, KV_KEYS, position, kv_head);
    for (int32_t d = 0; d < a->kv.head_dim; d++, at += kv_step(KV_KEYS)) {
        for (int64_t p = 0; p < STRIP; p++) {
            key[d][p] = p < n ? value_at(a, a->k, at + p) : 0.0f;
        }
    }
}

static void strip_scores(const attention_args *a, const float *q, const float key[][STRIP],
                         float *score)
{
    float acc[STRIP] = {0};
    for (int32_t d = 0; d < a->kv.head_dim; d++) {
        for (int p = 0; p < STRIP; p++) {
            acc[p] = fmaf(q[d], key[d][p], acc[p]);
        }
    }
    for (int p = 0; p < STRIP; p++) {
        score[p] = acc[p] * a->scale;
        if (a->softcap > 0) {
            score[p] = elementary_softcap(a->softcap, score[p]);
        }
    }
}

/* Keys and values of positions position .. position + n. */
static void tile_read(const attention_args *a, int32_t kv_head, int64_t position, int64_t n,
                      kv_strip *strip)
{
    for (int64_t p = 0; p < n; p += STRIP) {
        strip_keys(a, kv_head, position + p, n - p, strip[p / STRIP].key);
    }
    for (int64_t p = 0; p < n; p++) {
        int64_t at = kv_at(&a->kv, KV_VALUES, position + p, kv_head);
        float *value = strip[p / STRIP].value[p % STRIP];
        for (int32_t d = 0; d < a->kv.head_dim; d++) {
            value[d] = value_at(a, a->v, at + d);
        }
    }
}

static void state_merge(state *total, const state *tile, int32_t head_dim)
{
    float most = ref_max(total->max, tile->max);
    float scale_total = elementary_exp(total->max - most),
          scale_tile = elementary_exp(tile->max - most);
    total->sum = fmaf(total->sum, scale_total, tile->sum * scale_tile);
    for (int32_t d = 0; d < head_dim; d++) {
        total->out[d] = fmaf(total->out[d], scale_total, tile->out[d] * scale_tile);
    }
    total->max = most;
}

/* Positions of a tile that a query sees: first .. end. */
typedef struct visible {
    int64_t first, end;
} visible;

static void tile_compute(const attention_args *a, const float *q, const kv_strip *strip, visible v,
                         state *tile)
{
    float score[ATTENTION_TILE] = {0};
    for (int64_t p = v.first / STRIP * STRIP; p < v.end; p += STRIP) {
        strip_scores(a, q, strip[p / STRIP].key, score + p);
    }
    for (int64_t p = 0; p < v.first; p++) {
        score[p] = 0.0f;
    }
    float most = score[v.first];
    for (int64_t p = v.first + 1; p < v.end; p++) {
        most = ref_max(most, score[p]);
    }
    for (int64_t p = v.first; p < v.end; p++) {
        score[p] = elementary_exp(score[p] - most);
    }
    memset(tile->out, 0, (size_t)a->kv.head_dim * sizeof tile->out[0]);
    for (int64_t p = v.first; p < v.end; p++) {
        const float *value = strip[p / STRIP].value[p % STRIP];
        float weight = score[p];
        for (int32_t d = 0; d < a->kv.head_dim; d++) {
            tile->out[d] = fmaf(weight, value[d], tile->out[d]);
        }
    }
    tile->max = most;
    tile->sum = REF(row_sum)(score, v.end);
}

/* All queries that read this kv head: the heads of its group, for each token. A tile is widened
 * once for all of them; the running result of a query lies in its row of y. */
static void kv_head_attend(const attention_args *a, int32_t kv_head)
{
    kv_strip strip[STRIPS];
    float max[ATTENTION_TOKENS][LIMIT_HEADS], sum[ATTENTION_TOKENS][LIMIT_HEADS];
    float tile_out[HEAD_DIM_MAX];
    int32_t n_group = a->n_head / a->kv.n_head_kv, head = kv_head * n_group;
    int64_t n_all = a->n_position + a->n_token - 1;
    int64_t least = attention_first(a, a->n_position - 1) / ATTENTION_TILE * ATTENTION_TILE;
    for (int64_t start = least; start < n_all; start += ATTENTION_TILE) {
        int64_t n_tile = n_all - start < ATTENTION_TILE ? n_all - start : ATTENTION_TILE;
        tile_read(a, kv_head, start, n_tile, strip);
        for (int64_t t = 0; t < a->n_token; t++) {
            int64_t first = attention_first(a, a->n_position + t - 1) - start;
            int64_t end = a->n_position + t - start;
            visible v = {first > 0 ? first : 0, end < n_tile ? end : n_tile};
            int is_first = first >= 0 && first < ATTENTION_TILE;
            for (int32_t g = 0; g < n_group && v.first < v.end; g++) {
                int64_t at = (int64_t)(head + g) * a->kv.head_dim;
                const float *q = a->q + t * a->q_stride + at;
                state total = {max[t][g], sum[t][g], a->y + t * a->y_stride + at};
                state tile = {0, 0, is_first ? total.out : tile_out};
                tile_compute(a, q, strip, v, &tile);
                if (is_first) {
                    total = tile;
                } else {
                    state_merge(&total, &tile, a->kv.head_dim);
                }
                max[t][g] = total.max;
                sum[t][g] = total.sum;
            }
        }
    }
    for (int64_t t = 0; t < a->n_token; t++) {
        for (int32_t g = 0; g < n_group; g++) {
            float *y = a->y + t * a->y_stride + (int64_t)(head + g) * a->kv.head_dim;
            for (int32_t d = 0; d < a->kv.head_dim; d++) {
                y[d] /= sum[t][g];
            }
        }
    }
}

void REF(attention)(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    for (int32_t h = kv_head_first; h < kv_head_last; h++) {
        kv_head_attend(a, h);
    }
}
