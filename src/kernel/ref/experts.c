/* experts.c - which experts a token takes, with what weights, and their sum.
 *
 * Shazeer et al. 2017, as Mixtral (Jiang et al. 2024) and Qwen3 have it: the router's values choose
 * the n_used largest; their weights are a softmax, over all experts or over the chosen ones.
 *
 *     e[i] = exp(rn(x[i] - m)),  m the value of the first chosen expert, the largest
 *     w[r] = rn(e[ids[r]] / l),  l the row sum of e: over all experts in order of their ids, or
 * over the chosen ones in order of their ranks y[d] = chain over r of fma(w[r], x[r][d]) from +0
 *
 * Ranks fall by value; among equal values (+0 and -0 are equal) the lower id comes first; NaN comes
 * last of all, so the ids are always n_used different experts.
 */
#include "kernel/ref/ref.h"

#include "base/limits.h"

/* Does a stand before b? Of equal ones the lower id does: the caller keeps their order. */
static int is_before(float a, float b)
{
    return a > b || (a == a && b != b);
}

void REF(top_k)(const float *x, int64_t n, int32_t *ids, int64_t n_used)
{
    int64_t n_kept = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = n_kept;
        while (at > 0 && is_before(x[i], x[ids[at - 1]])) {
            at--;
        }
        if (at == n_used) {
            continue;
        }
        n_kept += n_kept < n_used;
        for (int64_t r = n_kept - 1; r > at; r--) {
            ids[r] = ids[r - 1];
        }
        ids[at] = (int32_t)i;
    }
}

void REF(expert_weights)(const expert_weights_args *a)
{
    float terms[LIMIT_EXPERTS], most = a->router[a->ids[0]];
    int64_t n = a->is_norm ? a->n_used : a->n;
    for (int64_t i = 0; i < n; i++) {
        terms[i] = elementary_exp(a->router[a->is_norm ? a->ids[i] : i] - most);
    }
    float sum = REF(row_sum)(terms, n);
    for (int64_t r = 0; r < a->n_used; r++) {
        a->y[r] = terms[a->is_norm ? r : a->ids[r]] / sum;
    }
}

void REF(expert_sum)(const float *weight, const float *x, float *y, int64_t n_used, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] = fmaf(weight[0], x[i], 0.0f);
    }
    for (int64_t r = 1; r < n_used; r++) {
        for (int64_t i = 0; i < n; i++) {
            y[i] = fmaf(weight[r], x[r * n + i], y[i]);
        }
    }
}
