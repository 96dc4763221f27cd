/* attention.c - softmax(q k^T * scale) v of one token against the positions of its sequence.
 *
 * Positions are cut into tiles of 64 absolute positions, so one query against the same keys gives the same
 * bits in prefill, in any chunking and in decode. In a tile of visible positions p:
 *     s[p] = rn(dot(q, k[p]) * scale)          one FMA chain over head_dim from +0
 *     m = max s;  e[p] = exp(rn(s[p] - m));    l = row sum of e, invisible positions as +0
 *     o[d] = FMA chain over p of e[p] * v[p][d] from +0
 * Tiles are merged in index order (Milakov & Gimelshein 2018 for the formula): the first tile starts
 * (M, L, O); then N = max(M, m), a = exp(rn(M - N)), b = exp(rn(m - N)),
 *     L = fma(L, a, rn(l * b)),  O[d] = fma(O[d], a, rn(o[d] * b)),  M = N;
 * the result is rn(O[d] / L). Invisible keys take no part in maximum, sum or chain.
 */
#include "kernel/ref/ref.h"

#include "kernel/half.h"

#define HEAD_DIM_MAX 1024 /* LIMIT_HEAD_DIM */
#define STRIP 16          /* positions whose dot products run as lanes */

typedef struct tile_state {
    float max, sum;
    float out[HEAD_DIM_MAX];
} tile_state;

/* Row of head `head` at `position`, widened exactly. */
static void kv_row(const attention_args *a, const void *cache, int64_t position, int32_t head,
                   float *row)
{
    int64_t at = (position * a->n_head_kv + head) * a->head_dim;
    if (a->kv_type == DTYPE_F32) {
        memcpy(row, (const float *)cache + at, (size_t)a->head_dim * sizeof *row);
        return;
    }
    const uint16_t *half = (const uint16_t *)cache + at;
    for (int32_t d = 0; d < a->head_dim; d++) {
        row[d] = half_to_float(half[d]);
    }
}

static void strip_scores(const attention_args *a, const float *q, int32_t kv_head, int64_t position,
                         int64_t n, float *score)
{
    float key[HEAD_DIM_MAX], turned[HEAD_DIM_MAX][STRIP];
    memset(turned, 0, (size_t)a->head_dim * sizeof turned[0]);
    for (int64_t p = 0; p < n; p++) {
        kv_row(a, a->k, position + p, kv_head, key);
        for (int32_t d = 0; d < a->head_dim; d++) {
            turned[d][p] = key[d];
        }
    }
    float acc[STRIP] = {0};
    for (int32_t d = 0; d < a->head_dim; d++) {
        for (int p = 0; p < STRIP; p++) {
            acc[p] = fmaf(q[d], turned[d][p], acc[p]);
        }
    }
    for (int64_t p = 0; p < n; p++) {
        score[p] = acc[p] * a->scale;
    }
}

static void tile_compute(const attention_args *a, const float *q, int32_t kv_head, int64_t position,
                         tile_state *tile)
{
    float score[ATTENTION_TILE] = {0};
    int64_t n = a->n_position - position < ATTENTION_TILE ? a->n_position - position : ATTENTION_TILE;
    for (int64_t p = 0; p < n; p += STRIP) {
        int64_t size = n - p < STRIP ? n - p : STRIP;
        strip_scores(a, q, kv_head, position + p, size, score + p);
    }
    float most = score[0];
    for (int64_t p = 1; p < n; p++) {
        most = ref_max(most, score[p]);
    }
    memset(tile->out, 0, (size_t)a->head_dim * sizeof tile->out[0]);
    for (int64_t p = 0; p < n; p++) {
        float value[HEAD_DIM_MAX];
        score[p] = kernel_exp(score[p] - most);
        kv_row(a, a->v, position + p, kv_head, value);
        for (int32_t d = 0; d < a->head_dim; d++) {
            tile->out[d] = fmaf(score[p], value[d], tile->out[d]);
        }
    }
    tile->max = most;
    tile->sum = REF(row_sum)(score, n);
}

static void tile_merge(tile_state *total, const tile_state *tile, int32_t head_dim)
{
    float most = ref_max(total->max, tile->max);
    float scale_total = kernel_exp(total->max - most), scale_tile = kernel_exp(tile->max - most);
    total->sum = fmaf(total->sum, scale_total, tile->sum * scale_tile);
    for (int32_t d = 0; d < head_dim; d++) {
        total->out[d] = fmaf(total->out[d], scale_total, tile->out[d] * scale_tile);
    }
    total->max = most;
}

void REF(attention)(const attention_args *a, int32_t head_first, int32_t head_last)
{
    tile_state total, tile;
    for (int32_t h = head_first; h < head_last; h++) {
        const float *q = a->q + (int64_t)h * a->head_dim;
        int32_t kv_head = h / (a->n_head / a->n_head_kv);
        tile_compute(a, q, kv_head, 0, &total);
        for (int64_t p = ATTENTION_TILE; p < a->n_position; p += ATTENTION_TILE) {
            tile_compute(a, q, kv_head, p, &tile);
            tile_merge(&total, &tile, a->head_dim);
        }
        float *y = a->y + (int64_t)h * a->head_dim;
        for (int32_t d = 0; d < a->head_dim; d++) {
            y[d] = total.out[d] / total.sum;
        }
    }
}
