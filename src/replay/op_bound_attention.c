/* op_bound_attention.c - bounds of attention.
 *
 * An engine computes weights w'[j] = w[j] (1 + e[j]) for the softmax weights w[j], then their mean
 * of values. Exactly, the mean moves by
 *
 *     sum w[j] e[j] (v[j] - o) / (1 + sum w[j] e[j])
 *
 * so |change| <= sum w |e| |v - o| / (1 - sum w |e|): errors common to all keys cancel, and keys
 * whose value lies at the mean do not count. e[j] comes from the logit, off by d[j], as
 * exp(d[j]) - 1, and from what exponentials, rescalings and sums round. Then the weighted sum of
 * values rounds like any sum. A logit error d changes a weight by a factor within exp(+-2 d): this
 * is the same with the keys told apart.
 */
#include "replay/op_bound_noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct head_sums {
    double *mean;   /* (head_dim) o */
    double *moved;  /* (head_dim) sum w |e| |v - o|, then the bound */
    double *size;   /* (head_dim) sum w |v| */
    double *policy; /* (head_dim) sum w dv */
    double *most;   /* (head_dim) largest |v - o| */
} head_sums;

static double row_error(const noise *s, double x)
{
    double half = s->u_kv > 0 && fabs(x) > 65504.0 ? INFINITY : s->u_kv * fabs(x) + s->tiny_kv;
    double factor = s->u_factor * fabs(x) + s->tiny_factor;
    return half + factor + noise_row(s, x);
}

/* How far the logit of position p may be off: its sum, its cap, its distance to the maximum. */
static double logit_error(const bounding *b, const exact_head *h, int64_t p, double most)
{
    const op *o = &b->c->op;
    const noise *s = &b->noise;
    int64_t first = op_first_seen(b->c), at = (int64_t)h->head * o->head_dim;
    double policy = 0.0, scale = fabs((double)o->scale), n = (double)o->head_dim;
    if (s->u_kv > 0 || s->u_factor > 0 || s->u_row > 0) {
        op_key_row(h, p, h->row);
        for (int32_t d = 0; d < o->head_dim; d++) {
            double q = op_value_at(&b->c->in[0], at + d), k = h->row[d];
            double dq = noise_row(s, q) + s->u_factor * fabs(q) + s->tiny_factor;
            double dk = row_error(s, k);
            policy += fabs(q) * dk + fabs(k) * dq + dq * dk;
        }
    }
    double score = h->score[p - first], size = h->size[p - first] + policy * scale;
    double sum =
        noise_sum(s, n + 2, size / (scale > 0 ? scale : 1), score / (scale > 0 ? scale : 1));
    double out = sum * scale + policy * scale + U * fabs(score);
    if (o->softcap > 0) {
        out += noise_gamma(6, U) * fabs((double)o->softcap);
    }
    return out + 2 * U * fabs(score - most);
}

static void add_key(const bounding *b, const exact_head *h, int64_t p, double e, head_sums *sums)
{
    double share = h->weight[p - op_first_seen(b->c)];
    op_value_row(h, p, h->row);
    for (int32_t d = 0; d < b->c->op.head_dim; d++) {
        double v = h->row[d], away = fabs(v - sums->mean[d]), dv = row_error(&b->noise, v);
        sums->moved[d] += share * e * (away + dv);
        sums->size[d] += share * (fabs(v) + dv);
        sums->policy[d] += share * dv;
        sums->most[d] = away > sums->most[d] ? away : sums->most[d];
    }
}

static void mean_of_values(const bounding *b, const exact_head *h, double *mean)
{
    int64_t first = op_first_seen(b->c);
    memset(mean, 0, (size_t)b->c->op.head_dim * sizeof *mean);
    for (int64_t p = first; p < b->c->end; p++) {
        op_value_row(h, p, h->row);
        for (int32_t d = 0; d < b->c->op.head_dim; d++) {
            mean[d] += h->weight[p - first] * h->row[d];
        }
    }
}

static double highest_score(const exact_head *h, int64_t n)
{
    double most = h->score[0];
    for (int64_t i = 1; i < n; i++) {
        most = h->score[i] > most ? h->score[i] : most;
    }
    return most;
}

/* Roundings of exponentials (an ulp is 2 u), of rescaling after every key, of the sum of weights.
 */
static double weight_roundings(const noise *s, double n)
{
    double sound = noise_gamma(6 * n + 8, U) + noise_gamma(n + 1, s->u_function);
    double wander = U * (16.0 + 4.0 * sqrt(n));
    return s->is_calibrated && wander < sound ? wander : sound;
}

static void head_bound(const bounding *b, const exact_head *h, head_sums *sums, double *out)
{
    const noise *s = &b->noise;
    int64_t first = op_first_seen(b->c);
    double n = (double)(b->c->end - first), total = 0.0;
    double most = highest_score(h, b->c->end - first), rounded = weight_roundings(s, n);
    size_t bytes = (size_t)b->c->op.head_dim * sizeof *sums->moved;
    mean_of_values(b, h, sums->mean);
    memset(sums->moved, 0, bytes);
    memset(sums->size, 0, bytes);
    memset(sums->policy, 0, bytes);
    memset(sums->most, 0, bytes);
    for (int64_t p = first; p < b->c->end; p++) {
        double e = expm1(logit_error(b, h, p, most)) * (1.0 + rounded) + rounded;
        e += n > 1 ? s->u_factor : 0.0; /* a factor of the product with v */
        total += h->weight[p - first] * e;
        add_key(b, h, p, n > 1 ? e : 0.0, sums);
    }
    for (int32_t d = 0; d < b->c->op.head_dim; d++) {
        double moved = n == 1 ? 0.0 : total < 1.0 ? sums->moved[d] / (1.0 - total) : INFINITY;
        double sum = noise_sum(s, n + 4, sums->size[d], sums->mean[d]);
        out[d] = moved + sums->policy[d] + sum * (1.0 + U) + n * 0x1p-148 * sums->most[d];
        out[d] += s->is_stored ? noise_row(s, fabs(sums->mean[d]) + out[d]) : 0.0;
    }
}

greta_status bound_attention(const bounding *b)
{
    const op_case *c = b->c;
    size_t n = (size_t)c->op.head_dim;
    exact_head h;
    double *room = op_memory(5 * n * sizeof *room);
    if (!room) {
        return error_memory(b->err, "a bound", 5 * n * sizeof *room);
    }
    head_sums sums = {room, room + n, room + 2 * n, room + 3 * n, room + 4 * n};
    greta_status status = op_head_new(c, b->contract->kv, &h, b->err);
    for (h.head = 0; status == GRETA_OK && h.head < c->op.n_head; h.head++) {
        op_head_weights(&h);
        head_bound(b, &h, &sums, b->out + (int64_t)h.head * c->op.head_dim);
    }
    op_head_free(&h);
    free(room);
    return status;
}
