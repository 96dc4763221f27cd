/* provenance.c - where a content was seen: rows, rows in another order, rows put otherwise.
 *
 * Content hashes find a row and, by the order-free one, its permutations. What no permutation can
 * express (a sign, a factor) and which permutation it was is settled on values: each way in which
 * engines put rows wrong is tried on them, and holds only if it gives every value bit for bit.
 */
#include "explain/op_check.h"

#include "base/text.h"
#include "explain/norm_side.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- By content ------------------------------------------------------------------------------ */

static int source_rank(const read_expected *should, const finding_source *s)
{
    return s->name == should->name ? 1 + (s->layer == should->layer) : 0;
}

static void source_offer(const trace *t, const read_expected *should, const sighting *s,
                         bool is_reordered, finding_source *best)
{
    const trace_head h = trace_head_of(t, s->record);
    finding_source found = {
        .is_found = !is_reordered,
        .is_permuted = is_reordered,
        .name = (stage)h.name,
        .layer = h.layer,
        .position = h.position + s->row,
        .row = h.row + s->row,
        .pass = h.pass,
        .phase = (greta_phase)h.phase,
        .n_match = best->n_match,
    };
    int rank = source_rank(should, &found), held = source_rank(should, best);
    if (best->n_match == 0 || rank > held || (rank == held && found.pass >= best->pass)) {
        bool is_same = best->n_match > 0 && found.name == best->name &&
                       found.layer == best->layer && found.position == best->position &&
                       found.pass == best->pass;
        found.n_match += !is_same; /* an index and a row speak of one place */
        *best = found;
    }
}

static void source_search(const catalog *c, const read_expected *should, row_hash content,
                          bool any_order, finding_source *best)
{
    size_t n;
    const sighting *s = catalog_find(c, content, any_order, &n);
    for (size_t i = 0; s && i < n; i++) {
        if (s[i].kind == SIGHTING_WRITTEN) {
            source_offer(c->trace, should, &s[i], any_order, best);
        }
    }
}

void provenance_find(const run_site *run, const read_expected *should, row_hash content,
                     finding_source *out)
{
    const catalog *in[3] = {run->own, run->earlier, run->other};
    *out = (finding_source){.name = STAGE_NONE, .layer = -1, .position = -1, .row = -1, .pass = -1};
    for (int i = 0; i < 6 && out->n_match == 0; i++) {
        bool is_repeated = i % 3 > 0 && in[i % 3] == run->own;
        if (in[i % 3] && !is_repeated) {
            source_search(in[i % 3], should, content, i >= 3, out);
            out->in_other_trace = out->n_match > 0 && i % 3 == 2;
        }
    }
}

const char *provenance_tensor(const run_site *run, row_hash content, char name[TRACE_NAME_MAX])
{
    size_t n;
    name[0] = '\0';
    const sighting *s = catalog_find(run->own, content, false, &n);
    for (size_t i = 0; s && i < n; i++) {
        if (s[i].kind == SIGHTING_WEIGHT) {
            trace_record room;
            const trace_record *r = trace_at(run->own->trace, s[i].record, &room);
            snprintf(name, TRACE_NAME_MAX, "%s", r->weight[0].tensor);
            break;
        }
    }
    return name;
}

/* ---- By values ------------------------------------------------------------------------------- */

/* Index of x that stands at i of y. */
typedef struct arrangement {
    int64_t n, a, b; /* of a row of n; two numbers of the way */
} arrangement;

static int64_t at_shifted(const arrangement *w, int64_t i)
{
    return (i + w->a + w->n) % w->n;
}

static int64_t at_transposed(const arrangement *w, int64_t i) /* a rows of b */
{
    return i % w->a * w->b + i / w->a;
}

static int64_t at_swapped(const arrangement *w, int64_t i) /* heads of a: b and b + 1 */
{
    int64_t head = i / w->a;
    return head == w->b ? i + w->a : head == w->b + 1 ? i - w->a : i;
}

/* Halves of each head become neighbours (b = 0), or neighbours halves (b = 1). */
static int64_t at_interleaved(const arrangement *w, int64_t i)
{
    int64_t head = i / w->a * w->a, at = i % w->a, half = w->a / 2;
    return head +
           (w->b ? (at < half ? 2 * at : 2 * (at - half) + 1) : (at % 2 ? half + at / 2 : at / 2));
}

static int64_t at_reversed(const arrangement *w, int64_t i)
{
    return w->n - 1 - i;
}

static bool is_arranged(const float *x, const float *y, const arrangement *w,
                        int64_t (*at)(const arrangement *, int64_t))
{
    for (int64_t i = 0; i < w->n; i++) {
        if (hash_float_bits(x[at(w, i)]) != hash_float_bits(y[i])) {
            return false;
        }
    }
    return true;
}

/* One factor for all values, exact or rounded once; NAN: there is none. */
static double factor_of(const float *x, const float *y, int64_t n)
{
    int64_t at = 0;
    for (int64_t i = 1; i < n; i++) {
        at = fabsf(x[i]) > fabsf(x[at]) ? i : at;
    }
    double factor = x[at] != 0 ? (double)y[at] / (double)x[at] : NAN;
    float rounded = (float)factor;
    for (int64_t i = 0; i < n && !isnan(factor); i++) {
        if (hash_float_bits(x[i] * rounded) != hash_float_bits(y[i])) {
            return NAN;
        }
    }
    return (double)rounded;
}

static bool heads_find(const float *x, const float *y, arrangement w, int32_t head_dim,
                       char out[TRANSFORM_TEXT])
{
    w.a = head_dim;
    for (w.b = 0; head_dim % 2 == 0 && w.b < 2; w.b++) {
        if (is_arranged(x, y, &w, at_interleaved)) {
            snprintf(out, TRANSFORM_TEXT,
                     w.b ? "neighbours of each head as halves" : "halves of each head interleaved");
            return true;
        }
    }
    for (w.b = 0; (w.b + 2) * head_dim <= w.n; w.b++) {
        if (is_arranged(x, y, &w, at_swapped)) {
            snprintf(out, TRANSFORM_TEXT, "heads %lld and %lld swapped", (long long)w.b,
                     (long long)w.b + 1);
            return true;
        }
    }
    return false;
}

const char *transform_find(const float *x, const float *y, int64_t n, int32_t head_dim,
                           char out[TRANSFORM_TEXT])
{
    arrangement w = {.n = n};
    double factor = factor_of(x, y, n);
    char number[NUMBER_MAX];
    out[0] = '\0';
    if (factor == -1.0) {
        snprintf(out, TRANSFORM_TEXT, "negated");
    } else if (!isnan(factor) && factor != 1.0) {
        snprintf(out, TRANSFORM_TEXT, "scaled by %s", number_f32((float)factor, number));
    } else if (is_arranged(x, y, &w, at_reversed)) {
        snprintf(out, TRANSFORM_TEXT, "reversed");
    } else if (head_dim > 0 && n % head_dim == 0 && heads_find(x, y, w, head_dim, out)) {
        return out;
    }
    for (w.a = 1 - n; w.a < n && !out[0]; w.a++) {
        bool is_start = w.a != 0 && hash_float_bits(x[at_shifted(&w, 0)]) == hash_float_bits(y[0]);
        if (is_start && is_arranged(x, y, &w, at_shifted)) {
            int64_t shift = w.a > n / 2 ? w.a - n : w.a < -n / 2 ? w.a + n : w.a;
            snprintf(out, TRANSFORM_TEXT, "shifted by %lld", (long long)shift);
        }
    }
    for (w.a = 2; w.a <= n / 2 && !out[0]; w.a++) {
        w.b = n / w.a;
        if (n % w.a == 0 && is_arranged(x, y, &w, at_transposed)) {
            snprintf(out, TRANSFORM_TEXT, "transposed (%lld x %lld)", (long long)w.a,
                     (long long)w.b);
        }
    }
    return out;
}
