/* norm_replay.c - the hypotheses about one recorded RMS norm, tried on the operands it should have
 * had.
 *
 * item 0 is the healthy op, item 1 the op as read; every other item is the healthy op with exactly
 * one change. An item fits when its whole output equals the record's bit for bit. Nothing is
 * concluded here: what fits may fit by chance (a small eps deep in a network), and explain/ weighs
 * it.
 *
 * Numbers come from three places: the record (a wrong number it admits), the habits of engines
 * (eps 1e-5, 1e-6; counts off by one, padded, of one head), and the recorded inverse rms, which is
 * solved for them. The inverse rms falls monotonically in eps, also after rounding, so the floats
 * that give it are one interval, found by bisection over bit patterns. Its simplest decimal is
 * tried.
 *
 * The definition is itself on trial: its result is held against binary64, within its rounding
 * bound. With d roundings on the way to the sum of squares (one per square, 6 in a group of 64,
 * one per further group), sum / count + eps adds two, the root halves them all and adds one, and
 * the division and two products add three: (d + 2) / 2 + 4 units in the last place.
 */
#include "replay/norm_replay.h"

#include "base/fpenv.h"
#include "base/text.h"
#include "replay/norm_variant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct replay {
    const norm_operands *operands;
    const kernel_table *table;
    int64_t n;
    const float *x, *weight;            /* (n) as they should have been */
    const float *x_read, *weight_read;  /* (n) as they were */
    const float *recorded;              /* (n) the output */
    float eps;                          /* declared, or as given */
    int64_t count;
    float sumsq_read;                   /* canonical, of x_read */
    float *y, *arranged, *terms;        /* (n) scratch */
    norm_evidence *out;
} replay;

static const float *full_row(const trace_tensor *t, int64_t n)
{
    bool full = t && t->data && t->type == DTYPE_F32 && t->n == n && t->n_kept == n;
    return full ? t->data : NULL;
}

/* Points the replay at kept values; false and what is missing when a row was not kept in full. */
static bool replay_bind(replay *r)
{
    const norm_operands *o = r->operands;
    const trace_record *record = o->record;
    const char *missing = NULL;
    if (!record || !record->has_norm || record->n_in < 1 || record->n_weight < 1 ||
        record->n_out < 1 || record->in[0].n < 1) {
        missing = "a complete record of the norm";
    } else {
        r->n = record->in[0].n;
        r->x_read = full_row(&record->in[0], r->n);
        r->weight_read = full_row(&record->weight[0], r->n);
        r->recorded = full_row(&record->out[0], r->n);
        r->x = full_row(o->x, r->n);
        r->weight = full_row(o->weight, r->n);
        r->eps = isnan(o->eps) ? record->eps : o->eps;
        r->count = o->count;
        missing = !r->x_read        ? "all values of the row it read"
                  : !r->weight_read ? "all values of the weights it read"
                  : !r->recorded    ? "all values of its output"
                  : !r->x           ? "all values of the row it should have read"
                  : !r->weight      ? "all values of the weights in the model file"
                                    : NULL;
    }
    if (missing) {
        snprintf(r->out->missing, sizeof r->out->missing, "%s", missing);
    }
    return !missing;
}

/* ---- Trying one hypothesis -------------------------------------------------------------- */

static int64_t float_rank(float value)
{
    union {
        float f;
        int32_t i;
    } bits = {.f = value};
    return bits.i < 0 ? (int64_t)INT32_MIN - bits.i : bits.i;
}

static uint32_t ulp_distance(float a, float b)
{
    if (isnan(a) || isnan(b)) {
        return isnan(a) && isnan(b) ? 0 : UINT32_MAX;
    }
    int64_t distance = float_rank(a) - float_rank(b);
    return (uint32_t)(distance < 0 ? -distance : distance);
}

static bool same_bits(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (hash_float_bits(a[i]) != hash_float_bits(b[i])) {
            return false;
        }
    }
    return true;
}

static norm_args healthy_args(const replay *r)
{
    return (norm_args){.x = r->x, .weight = r->weight, .y = r->y, .n = r->n, .count = r->count,
                       .eps = r->eps};
}

/* Adds an item whose result stands in r->y. */
static void item_judge(replay *r, const evidence *hypothesis)
{
    GRETA_ASSERT(r->out->n < EVIDENCE_MAX);
    evidence *item = &r->out->item[r->out->n++];
    *item = *hypothesis;
    item->n = r->n;
    for (int64_t i = 0; i < r->n; i++) {
        uint32_t distance = ulp_distance(r->y[i], r->recorded[i]);
        item->n_equal += hash_float_bits(r->y[i]) == hash_float_bits(r->recorded[i]);
        item->ulp_max = distance > item->ulp_max ? distance : item->ulp_max;
    }
    item->fits = item->n_equal == item->n;
}

static void item_try(replay *r, const evidence *hypothesis, norm_args *a)
{
    r->table->rms_norm(a);
    item_judge(r, hypothesis);
}

static evidence change(cause c, const char *phrase)
{
    evidence e = {.role = EVIDENCE_CHANGE, .cause = c};
    snprintf(e.phrase, sizeof e.phrase, "%s", phrase);
    return e;
}

/* ---- Numbers ---------------------------------------------------------------------------- */

static bool is_tried(const replay *r, evidence_number number, double used)
{
    for (int32_t i = 0; i < r->out->n; i++) {
        const evidence *e = &r->out->item[i];
        if (e->number == number && e->number_used == used) {
            return true;
        }
    }
    return false;
}

static void try_eps(replay *r, float eps, bool is_given, bool is_solved)
{
    if (!(eps >= 0) || isinf(eps) || eps == r->eps ||
        is_tried(r, EVIDENCE_NUMBER_EPS, (double)eps)) {
        return;
    }
    char used[NUMBER_MAX], healthy[NUMBER_MAX];
    evidence e = change(CAUSE_NORM_STATS, "");
    snprintf(e.phrase, sizeof e.phrase, "eps %s for %s", number_f32(eps, used),
             number_f32(r->eps, healthy));
    e.number = EVIDENCE_NUMBER_EPS;
    e.number_healthy = (double)r->eps;
    e.number_used = (double)eps;
    e.is_operand = is_given;
    e.is_solved = is_solved;
    norm_args a = healthy_args(r);
    a.eps = eps;
    item_try(r, &e, &a);
}

/* A count of 1 is left to the formulas: it is the sum for the mean. */
static void try_count(replay *r, int64_t count, bool is_given, bool is_solved)
{
    if (count < 1 || (count == 1 && !is_given) || count == r->count ||
        is_tried(r, EVIDENCE_NUMBER_COUNT, (double)count)) {
        return;
    }
    evidence e = change(CAUSE_NORM_STATS, "");
    snprintf(e.phrase, sizeof e.phrase, "mean over %lld for %lld", (long long)count,
             (long long)r->count);
    e.number = EVIDENCE_NUMBER_COUNT;
    e.number_healthy = (double)r->count;
    e.number_used = (double)count;
    e.is_operand = is_given;
    e.is_solved = is_solved;
    norm_args a = healthy_args(r);
    a.count = count;
    item_try(r, &e, &a);
}

static float inverse_rms(float sumsq, int64_t count, float eps)
{
    return 1.0f / sqrtf(sumsq / (float)count + eps);
}

static float float_from_bits(uint32_t bits)
{
    union {
        uint32_t u;
        float f;
    } value = {.u = bits};
    return value.f;
}

/* Bits of the least float eps in [0, NORM_EPS_SOLVED_MAX] whose inverse rms is <= target, or
 * < target; those past the largest one if there is none. */
static uint32_t eps_bisect(const replay *r, float target, bool strictly)
{
    uint32_t low = 0, high = hash_float_bits((float)NORM_EPS_SOLVED_MAX) + 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        float inverse = inverse_rms(r->sumsq_read, r->operands->record->count,
                                    float_from_bits(middle));
        if (strictly ? inverse < target : inverse <= target) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* The number of fewest decimals in [low, high]. */
static float simplest_between(float low, float high)
{
    double scale = 1.0, middle = ((double)low + (double)high) / 2;
    for (int decimals = 0; decimals < 16; decimals++, scale *= 10.0) {
        float candidate = (float)(floor(middle * scale + 0.5) / scale);
        if (candidate >= low && candidate <= high) {
            return candidate;
        }
    }
    return (float)middle;
}

static void solve_eps(replay *r)
{
    float target = r->operands->record->inv_rms;
    r->out->eps_min = 1;
    r->out->eps_max = 0;
    uint32_t first = eps_bisect(r, target, false), end = eps_bisect(r, target, true);
    if (first >= end || isnan(target) || r->operands->record->count < 1) {
        return;
    }
    float low = float_from_bits(first), high = float_from_bits(end - 1);
    r->out->eps_min = (double)low;
    r->out->eps_max = (double)high;
    try_eps(r, simplest_between(low, high), false, true);
}

static void solve_count(replay *r)
{
    double inverse = (double)r->operands->record->inv_rms;
    double mean = 1.0 / (inverse * inverse) - (double)r->eps;
    double near = (double)r->sumsq_read / mean;
    if (!(mean > 0) || !(near >= 1) || near > 16777216.0) {
        return;
    }
    for (int64_t count = (int64_t)near - 1; count <= (int64_t)near + 2; count++) {
        float solved = inverse_rms(r->sumsq_read, count, r->eps);
        if (solved == r->operands->record->inv_rms) {
            try_count(r, count, false, true);
        }
    }
}

static void try_numbers(replay *r)
{
    static const float usual[] = {1e-5f, 1e-6f, 1e-12f, 1e-8f,  1e-7f, 1e-4f,
                                  1e-3f, 1e-9f, 1e-10f, 1e-11f, 0.0f};
    const trace_record *record = r->operands->record;
    try_eps(r, record->eps, true, false);
    try_count(r, record->count, true, false);
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        try_eps(r, usual[i], false, false);
    }
    const float near[] = {r->eps * 10.0f, r->eps / 10.0f, r->eps + 1e-3f, r->eps - 1e-3f};
    for (size_t i = 0; i < sizeof near / sizeof near[0]; i++) {
        try_eps(r, near[i], false, false);
    }
    const int64_t head_dim = r->operands->head_dim;
    const int64_t count[] = {r->count - 1, r->count + 1, r->count / 2, r->count * 2, head_dim,
                             head_dim > 0 ? r->count / head_dim : 0,
                             (r->count + 63) / 64 * 64, (r->count + 127) / 128 * 128,
                             (r->count + 255) / 256 * 256, (r->count + 1023) / 1024 * 1024};
    for (size_t i = 0; i < sizeof count / sizeof count[0]; i++) {
        try_count(r, count[i], false, false);
    }
    solve_count(r); /* a whole number that fits says more than a real one */
    solve_eps(r);
}

/* ---- Weights ---------------------------------------------------------------------------- */

/* Index whose weight stands at i, of n; `rows` is the first dimension of a transposed matrix. */
typedef int64_t arrangement(int64_t i, int64_t n, int64_t rows);

static int64_t at_reversed(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return n - 1 - i;
}

static int64_t at_halves(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return (i + n / 2) % n;
}

static int64_t at_stride_2(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return 2 * i % n;
}

static int64_t at_repeat_2(int64_t i, int64_t n, int64_t rows)
{
    (void)n;
    (void)rows;
    return i / 2;
}

static int64_t at_next(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return (i + 1) % n;
}

static int64_t at_previous(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return (i + n - 1) % n;
}

static int64_t at_pairs(int64_t i, int64_t n, int64_t rows)
{
    (void)rows;
    return (i ^ 1) < n ? i ^ 1 : i;
}

static int64_t at_first(int64_t i, int64_t n, int64_t rows)
{
    (void)i;
    (void)n;
    (void)rows;
    return 0;
}

/* (rows, n / rows) read column by column. */
static int64_t at_transposed(int64_t i, int64_t n, int64_t rows)
{
    return i % rows * (n / rows) + i / rows;
}

static void try_arrangement(replay *r, arrangement *source, int64_t rows, const char *phrase)
{
    for (int64_t i = 0; i < r->n; i++) {
        r->arranged[i] = r->weight[source(i, r->n, rows)];
    }
    evidence e = change(CAUSE_WEIGHT_LAYOUT, phrase);
    e.is_operand = same_bits(r->arranged, r->weight_read, r->n);
    norm_args a = healthy_args(r);
    a.weight = r->arranged;
    item_try(r, &e, &a);
}

static void try_weights(replay *r)
{
    static const struct {
        arrangement *source;
        const char *phrase;
    } known[] = {
        {at_reversed, "weights reversed"},
        {at_halves, "halves of the weights swapped"},
        {at_stride_2, "weights at index 2i mod n"},
        {at_repeat_2, "weights at index i/2"},
        {at_next, "weights rotated by 1"},
        {at_previous, "weights rotated by -1"},
        {at_pairs, "neighbours of the weights swapped"},
        {at_first, "first weight for all"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        try_arrangement(r, known[i].source, 1, known[i].phrase);
    }
    int n_transposed = 0;
    for (int64_t rows = 2; rows <= r->n / 2 && n_transposed < 24; rows++) {
        if (r->n % rows == 0) {
            char phrase[EVIDENCE_PHRASE];
            snprintf(phrase, sizeof phrase, "weights transposed from %lld x %lld", (long long)rows,
                     (long long)(r->n / rows));
            try_arrangement(r, at_transposed, rows, phrase);
            n_transposed++;
        }
    }
    if (!same_bits(r->weight_read, r->weight, r->n)) {
        evidence e = change(CAUSE_WEIGHT_LAYOUT, "other weights than the model file's");
        e.is_operand = e.is_as_read = true;
        norm_args a = healthy_args(r);
        a.weight = r->weight_read;
        item_try(r, &e, &a);
    }
}

/* ---- The rest --------------------------------------------------------------------------- */

static void try_input(replay *r)
{
    if (!same_bits(r->x_read, r->x, r->n)) {
        evidence e = change(CAUSE_INPUT_SELECTION, "another row than its producer wrote");
        e.is_operand = e.is_as_read = true;
        norm_args a = healthy_args(r);
        a.x = r->x_read;
        item_try(r, &e, &a);
    }
}

static void try_variants(replay *r)
{
    size_t n;
    const norm_variant *variant = norm_variants(&n);
    for (size_t i = 0; i < n; i++) {
        evidence e = change(variant[i].cause, variant[i].phrase);
        e.role = variant[i].cause == CAUSE_ROUNDING ? EVIDENCE_ORDER : EVIDENCE_CHANGE;
        norm_args a = healthy_args(r);
        norm_variant_apply(&variant[i], &a, r->terms);
        item_judge(r, &e);
    }
}

/* r->y holds the healthy result. Values whose products are subnormal are outside the bound's class,
 * as is a row whose sum of squares overflows or vanishes. */
static void judge_f64(replay *r, float sumsq)
{
    double total = 0, worst = 0;
    float mean = sumsq / (float)r->count + r->eps;
    r->out->f64_ulp_bound = ((double)(7 + (r->n - 1) / ROW_SUM_GROUP) + 2) / 2 + 4;
    r->out->f64_ulp_max = NAN;
    r->out->f64_agrees = true;
    if (!(mean > 1e-30f) || isinf(mean)) {
        return;
    }
    for (int64_t i = 0; i < r->n; i++) {
        total += (double)r->x[i] * (double)r->x[i];
    }
    double inverse = 1.0 / sqrt(total / (double)r->count + (double)r->eps);
    for (int64_t i = 0; i < r->n; i++) {
        double scaled = (double)r->x[i] * inverse, y = scaled * (double)r->weight[i];
        if (fabs(scaled) < 0x1p-125 || fabs(y) < 0x1p-125 || !(fabs(y) < 0x1p127)) {
            continue;
        }
        int exponent;
        frexp(y, &exponent);
        double ulps = fabs((double)r->y[i] - y) / ldexp(1.0, exponent - 24);
        worst = ulps > worst || isnan(ulps) ? ulps : worst;
    }
    r->out->f64_ulp_max = worst;
    r->out->f64_agrees = worst <= r->out->f64_ulp_bound;
}

static bool stats_match(const replay *r, const trace_tensor *t, bool with_sum)
{
    row_stats stats;
    r->table->row_stats(DTYPE_F32, t->data, r->n, &stats);
    return stats.hash.ordered == t->hash.ordered && stats.hash.bag == t->hash.bag &&
           (!with_sum || hash_float_bits(stats.sumsq) == hash_float_bits(t->sumsq));
}

static void replay_all(replay *r)
{
    const trace_record *record = r->operands->record;
    row_stats stats;
    r->table->row_stats(DTYPE_F32, r->x_read, r->n, &stats);
    r->sumsq_read = stats.sumsq;
    r->out->stats_agree = stats_match(r, &record->in[0], true) &&
                          stats_match(r, &record->out[0], true) &&
                          stats_match(r, &record->weight[0], false);

    evidence healthy = {.role = EVIDENCE_HEALTHY, .phrase = "healthy"};
    norm_args a = healthy_args(r);
    item_try(r, &healthy, &a);
    r->table->row_stats(DTYPE_F32, r->x, r->n, &stats);
    judge_f64(r, stats.sumsq);

    evidence as_read = {.role = EVIDENCE_AS_READ, .phrase = "as read"};
    norm_args read = {.x = r->x_read, .weight = r->weight_read, .y = r->y, .n = r->n,
                      .count = record->count, .eps = record->eps};
    item_try(r, &as_read, &read);

    try_input(r);
    try_numbers(r);
    try_weights(r);
    try_variants(r);
    r->out->is_measured = true;
}

/* The build of the definition that did not make the record, where this machine has one. */
static const kernel_table *other_build(const char *made_by, bool *is_other)
{
    bool is_ref = made_by && strcmp(made_by, "ref") == 0;
    const kernel_table *table = is_ref ? kernel_find("ref-avx2") : NULL;
    if (!table) {
        table = kernel_find("ref");
    }
    *is_other = table && !(made_by && strcmp(table->name, made_by) == 0);
    return table;
}

greta_status norm_replay(const norm_operands *operands, norm_evidence *out, greta_error *err)
{
    memset(out, 0, sizeof *out);
    out->f64_ulp_max = NAN;
    out->eps_min = 1;
    replay r = {.operands = operands, .out = out};
    if (!replay_bind(&r)) {
        return GRETA_OK;
    }
    r.table = other_build(operands->record->kernel, &out->is_other_build);
    if (!r.table) {
        return error_set(err, GRETA_BUG, "no build of the reference kernels (\"ref\" at least)");
    }
    snprintf(out->kernel, sizeof out->kernel, "%s", r.table->name);
    size_t n = (size_t)r.n;
    r.y = malloc(3 * n * sizeof *r.y);
    if (!r.y) {
        return error_memory(err, "replay of a norm", 3 * n * sizeof *r.y);
    }
    r.arranged = r.y + n;
    r.terms = r.arranged + n;
    uint32_t saved = fpenv_enter();
    replay_all(&r);
    fpenv_leave(saved);
    free(r.y);
    return GRETA_OK;
}
