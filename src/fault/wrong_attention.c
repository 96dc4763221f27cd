/* wrong_attention.c - attention that is wrong in one way.
 *
 * `attend` is attention as docs/numerics.md has it, one query after the other, with a rule: which
 * positions are seen, which row stands for a position, which kv head for a head, and what becomes
 * of a score. With the empty rule it gives the bits of `ref` (tests/test_fault_kernels.c), so that
 * the rule is all that differs.
 */
#include "fault/wrong_attention.h"

#include "base/limits.h"
#include "kernel/elementary.h"
#include "kernel/half.h"

#include <math.h>
#include <string.h>

typedef struct visible {
    int64_t first, end; /* positions */
} visible;

typedef struct attention_rule {
    visible (*see)(visible v);
    int64_t (*key_row)(int64_t p, int64_t own), (*value_row)(int64_t p, int64_t own);
    int32_t (*kv_head)(int32_t head, int32_t n_head_kv);
    float (*dot)(float dot);
    float (*value)(float chain); /* after a step of a value's chain */
    float (*exp)(float x);       /* NULL: elementary_exp */
    int64_t tile;                /* positions of a tile, at most ATTENTION_TILE; 0: that */
    bool is_not_divided, adds_one, keeps_scale, is_not_fused, is_plain;
} attention_rule;

static float cached(const attention_args *a, const void *cache, int64_t at)
{
    return a->kv.type == DTYPE_F32 ? ((const float *)cache)[at]
                                   : half_to_float(((const uint16_t *)cache)[at]);
}

/* IEEE 754-2019 maximum. */
static float maximum(float a, float b)
{
    if (a != a || b != b) {
        return NAN;
    }
    return a == b ? (signbit(a) ? b : a) : a > b ? a : b;
}

static float fold(float term[ATTENTION_TILE])
{
    for (int stride = ATTENTION_TILE / 2; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            term[i] += term[i + stride];
        }
    }
    return term[0];
}

typedef struct query {
    const attention_args *a;
    const attention_rule *rule;
    const float *q;
    int64_t own; /* position */
    int32_t kv_head;
} query;

static float score_at(const query *u, int64_t p)
{
    const attention_args *a = u->a;
    int64_t row = u->rule->key_row ? u->rule->key_row(p, u->own) : p;
    int64_t at = kv_at(&a->kv, KV_KEYS, row, u->kv_head);
    float dot = 0;
    for (int32_t d = 0; d < a->kv.head_dim; d++, at += kv_step(KV_KEYS)) {
        float key = cached(a, a->k, at), product = u->q[d] * key;
        dot = u->rule->is_not_fused ? dot + product : fmaf(u->q[d], key, dot);
    }
    dot = u->rule->dot ? u->rule->dot(dot) : dot;
    float score = dot * a->scale;
    return a->softcap > 0 ? elementary_softcap(a->softcap, score) : score;
}

static float exp_by(const attention_rule *rule, float x)
{
    return rule->exp ? rule->exp(x) : elementary_exp(x);
}

typedef struct attended {
    float max, sum;
    float out[LIMIT_HEAD_DIM];
} attended;

/* One tile, over the positions v of it. */
static void tile_attend(const query *u, visible v, attended *tile)
{
    const attention_args *a = u->a;
    const attention_rule *rule = u->rule;
    float term[ATTENTION_TILE] = {0};
    int64_t size = rule->tile ? rule->tile : ATTENTION_TILE, start = v.first / size * size;
    for (int64_t p = v.first; p < v.end; p++) {
        term[p - start] = score_at(u, p);
        tile->max = p == v.first ? term[p - start] : maximum(tile->max, term[p - start]);
    }
    memset(tile->out, 0, sizeof tile->out);
    for (int64_t p = v.first; p < v.end; p++) {
        float e = exp_by(rule, term[p - start] - tile->max);
        term[p - start] = e;
        int64_t row = rule->value_row ? rule->value_row(p, u->own) : p;
        int64_t at = kv_at(&a->kv, KV_VALUES, row, u->kv_head);
        for (int32_t d = 0; d < a->kv.head_dim; d++) {
            float value = cached(a, a->v, at + d), product = e * value;
            float chain =
                rule->is_not_fused ? tile->out[d] + product : fmaf(e, value, tile->out[d]);
            tile->out[d] = rule->value ? rule->value(chain) : chain;
        }
    }
    tile->sum = fold(term);
}

static void tile_merge(const query *u, attended *total, const attended *tile)
{
    float most = maximum(total->max, tile->max);
    float old = exp_by(u->rule, total->max - most), new = exp_by(u->rule, tile->max - most);
    old = u->rule->keeps_scale ? 1.0f : old;
    total->sum = fmaf(total->sum, old, tile->sum * new);
    for (int32_t d = 0; d < u->a->kv.head_dim; d++) {
        float scaled = tile->out[d] * new;
        total->out[d] = fmaf(total->out[d], old, scaled);
    }
    total->max = most;
}

static void query_attend(const query *u, float *y)
{
    visible v = {attention_first(u->a, u->own), u->own + 1};
    int64_t size = u->rule->tile ? u->rule->tile : ATTENTION_TILE;
    attended total = {.max = 0}, tile;
    v = u->rule->see ? u->rule->see(v) : v;
    for (int64_t p = v.first, end; p < v.end; p = end) {
        end = (p / size + 1) * size;
        end = end < v.end ? end : v.end;
        tile_attend(u, (visible){p, end}, &tile);
        if (p == v.first) {
            total = tile;
        } else {
            tile_merge(u, &total, &tile);
        }
    }
    /* A key with score 0 and value 0 more: what a sink or an added zero column does. */
    float sum = u->rule->adds_one ? total.sum + elementary_exp(0.0f - total.max) : total.sum;
    for (int32_t d = 0; d < u->a->kv.head_dim; d++) {
        y[d] = u->rule->is_not_divided ? total.out[d] : total.out[d] / sum;
    }
}

static void query_plain(const query *u, float *y);

static void attend(const attention_args *a, int32_t first, int32_t last, const attention_rule *rule)
{
    int32_t n_group = a->n_head / a->kv.n_head_kv;
    for (int64_t t = 0; t < a->n_token; t++) {
        for (int32_t h = first * n_group; h < last * n_group; h++) {
            int64_t at = (int64_t)h * a->kv.head_dim;
            query u = {a, rule, a->q + t * a->q_stride + at, a->n_position - 1 + t,
                       rule->kv_head ? rule->kv_head(h, a->kv.n_head_kv) : h / n_group};
            (rule->is_plain ? query_plain : query_attend)(&u, a->y + t * a->y_stride + at);
        }
    }
}

/* ---- Rules ------------------------------------------------------------------------------------
 */

static visible see_next(visible v)
{
    return (visible){v.first, v.end + 1};
}

static visible see_not_self(visible v)
{
    return (visible){v.first, v.end - 1 > v.first ? v.end - 1 : v.end};
}

static visible see_not_first(visible v)
{
    return (visible){v.first == 0 && v.end > 1 ? 1 : v.first, v.end};
}

static visible see_32(visible v)
{
    return (visible){v.end - v.first > 32 ? v.end - 32 : v.first, v.end};
}

static visible see_8(visible v)
{
    return (visible){v.end - v.first > 8 ? v.end - 8 : v.first, v.end};
}

/* Launched with the geometry of the first chunk: imp 981. */
static visible see_as_first_chunk(visible v)
{
    int64_t end = (v.end - 1) % 8 + 1;
    return (visible){v.first < end ? v.first : 0, end};
}

static float score_0(float dot)
{
    return dot * 0.0f;
}

static float score_nan(float dot)
{
    (void)dot;
    return NAN;
}

static int32_t kv_head_tiled(int32_t head, int32_t n_head_kv)
{
    return head % n_head_kv;
}

static int32_t kv_head_0(int32_t head, int32_t n_head_kv)
{
    (void)head, (void)n_head_kv;
    return 0;
}

static int64_t row_before(int64_t p, int64_t own)
{
    (void)own;
    return p > 0 ? p - 1 : 0;
}

static int64_t row_own_stale(int64_t p, int64_t own)
{
    return p == own && p > 0 ? p - 1 : p;
}

static float rounded_f16(float value)
{
    return half_to_float(half_from_float(value));
}

#define ATTENTION(name, ...)                                                                       \
    void name(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last)                \
    {                                                                                              \
        attend(a, kv_head_first, kv_head_last, &(const attention_rule){__VA_ARGS__});              \
    }

ATTENTION(attention_healthy, .see = NULL)
ATTENTION(attention_next_visible, .see = see_next)
ATTENTION(attention_self_hidden, .see = see_not_self)
ATTENTION(attention_first_hidden, .see = see_not_first)
ATTENTION(attention_last_32_only, .see = see_32)
ATTENTION(attention_last_8_only, .see = see_8)
ATTENTION(attention_as_first_chunk_of_8, .see = see_as_first_chunk)
ATTENTION(attention_all_alike, .dot = score_0)
ATTENTION(attention_nan, .dot = score_nan)
ATTENTION(attention_heads_tiled, .kv_head = kv_head_tiled)
ATTENTION(attention_head_0, .kv_head = kv_head_0)
ATTENTION(attention_keys_shifted, .key_row = row_before)
ATTENTION(attention_values_shifted, .value_row = row_before)
ATTENTION(attention_own_row_stale, .key_row = row_own_stale, .value_row = row_own_stale)
ATTENTION(attention_f16_scores, .dot = rounded_f16)
ATTENTION(attention_f16_values, .value = rounded_f16)
ATTENTION(attention_not_divided, .is_not_divided = true)
ATTENTION(attention_one_more_key, .adds_one = true)
ATTENTION(attention_tiles_not_rescaled, .keeps_scale = true)

static float exp_libm(float x)
{
    return expf(x);
}

ATTENTION(attention_not_fused, .is_not_fused = true)
ATTENTION(attention_libm_exp, .exp = exp_libm)
ATTENTION(attention_tiles_8, .tile = 8)

/* All positions at once: the largest score first, then one chain for the sum and each value. */
static void query_plain(const query *u, float *y)
{
    int64_t first = attention_first(u->a, u->own);
    float max = score_at(u, first), sum = 0;
    for (int64_t p = first; p <= u->own; p++) {
        max = maximum(max, score_at(u, p));
    }
    memset(y, 0, (size_t)u->a->kv.head_dim * sizeof *y);
    for (int64_t p = first; p <= u->own; p++) {
        float e = elementary_exp(score_at(u, p) - max);
        int64_t at = kv_at(&u->a->kv, KV_VALUES, p, u->kv_head);
        sum += e;
        for (int32_t d = 0; d < u->a->kv.head_dim; d++) {
            y[d] = fmaf(e, cached(u->a, u->a->v, at + d), y[d]);
        }
    }
    for (int32_t d = 0; d < u->a->kv.head_dim; d++) {
        y[d] /= sum;
    }
}

ATTENTION(attention_plain, .is_plain = true)

void attention_scale_1_over_d(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last)
{
    attention_args wrong = *a;
    wrong.scale = 1.0f / (float)a->kv.head_dim;
    attend(&wrong, kv_head_first, kv_head_last, &(const attention_rule){0});
}
