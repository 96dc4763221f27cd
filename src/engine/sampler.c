/* sampler.c - the next token from logits: splitmix64-1.
 *
 * Greedy takes the highest logit, the lowest id among equals; NaN never wins. Otherwise tokens are
 * sorted by logit (ids ascending among equals), cut to top_k, turned into probabilities at the
 * temperature in binary64 with the kernel's own exponential in binary32 (no libm: the same draw
 * everywhere), cut to the smallest set reaching top_p and to those of at least min_p times the
 * best, and drawn by one splitmix64 number (Steele et al. 2014, figure 7), 53 bits.
 */
#include "engine/session.h"

#include "kernel/elementary.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int32_t greedy(const float *logits, int32_t n_vocab)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n_vocab; i++) {
        if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best])) {
            best = i;
        }
    }
    return best;
}

static int candidate_order(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit < y->logit ? 1 : -1;
    }
    return x->id < y->id ? -1 : 1;
}

/* Draws from sorted candidates; weights are relative to the best, hence at most 1. */
static int32_t draw(greta_sampler *sampler, const candidate *c, size_t n)
{
    double total = 0.0, kept = 0.0;
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        total += (double)elementary_exp((c[i].logit - c[0].logit) / sampler->temperature);
    }
    while (n_kept < n) {
        double w = (double)elementary_exp((c[n_kept].logit - c[0].logit) / sampler->temperature);
        if (n_kept > 0 && (w < (double)sampler->min_p || kept >= (double)sampler->top_p * total)) {
            break;
        }
        kept += w;
        n_kept++;
    }
    double target = (double)(splitmix64(&sampler->state) >> 11) * 0x1p-53 * kept, sum = 0.0;
    for (size_t i = 0; i < n_kept; i++) {
        sum += (double)elementary_exp((c[i].logit - c[0].logit) / sampler->temperature);
        if (target < sum) {
            return c[i].id;
        }
    }
    return c[n_kept - 1].id;
}

static greta_status sampler_check(const greta_sampler *s, greta_error *err)
{
    if (!(s->temperature >= 0.0f) || s->temperature > 1e6f) {
        return error_about(err, GRETA_USAGE, "temperature", "not a number from 0 to 1000000");
    }
    if (!(s->top_p > 0.0f) || s->top_p > 1.0f) {
        return error_about(err, GRETA_USAGE, "top_p", "not a number above 0, at most 1");
    }
    if (!(s->min_p >= 0.0f) || s->min_p > 1.0f) {
        return error_about(err, GRETA_USAGE, "min_p", "not a number from 0 to 1");
    }
    if (s->top_k < 0) {
        return error_about(err, GRETA_USAGE, "top_k", "is %" PRId32 " (0 or more)", s->top_k);
    }
    return GRETA_OK;
}

int32_t greta_sample(greta_sampler *sampler, const float *logits, int32_t n_vocab, greta_error *err)
{
    int32_t best = greedy(logits, n_vocab);
    if (best < 0) {
        error_set(err, GRETA_FAULT, "every logit is NaN");
        return -1;
    }
    if (sampler->temperature == 0.0f) {
        return best;
    }
    if (sampler_check(sampler, err) != GRETA_OK) {
        return -1;
    }
    candidate *c = malloc((size_t)n_vocab * sizeof *c);
    if (!c) {
        error_memory(err, "the sampler", (uint64_t)n_vocab * sizeof *c);
        return -1;
    }
    size_t n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        if (logits[i] == logits[i]) {
            c[n++] = (candidate){logits[i], i};
        }
    }
    qsort(c, n, sizeof *c, candidate_order);
    n = sampler->top_k > 0 && (size_t)sampler->top_k < n ? (size_t)sampler->top_k : n;
    int32_t id = isinf(c[0].logit) ? c[0].id : draw(sampler, c, n);
    free(c);
    return id;
}
