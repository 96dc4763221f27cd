/* op_judge.c - one op on trial: what its record admits, and what replay says of it.
 *
 * As with norms (norm_side.c) two kinds of evidence meet. The record can admit a fault: an operand
 * that is not what its producer wrote. Then the op replayed on what it did read must give the
 * recorded bits, and nothing else may. Or it admits nothing, and the output is still not what the
 * operands give: then only hypotheses that reproduce the output can name the cause.
 *
 *     broken   healthy fits   what fits              verdict
 *     none     yes                                   EQUAL: healthy
 *     none     no             one cause              CONFIRMED
 *                             several                SUSPECTED, all listed; rounding first
 *                             none                   INCONCLUSIVE (X where values turn non-finite)
 *     one      no             as read, its cause     CONFIRMED
 *                             others too, or none    SUSPECTED
 *     any      yes            as read                EQUAL, changed_no_bit
 *                             not as read            INSTRUMENT_SUSPECT
 *
 * Where a run does not claim our bits, to fit is to lie within bounds. Then a precision policy that
 * explains the row is no fault (benign), and a hidden fault of a run that does not say its class of
 * rounding is SUSPECTED at most.
 */
#include "explain/op_judge.h"

#include "base/text.h"
#include "explain/norm_side.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BIT(c) (1u << (c))

static bool is_single(unsigned bits)
{
    return bits != 0 && (bits & (bits - 1)) == 0;
}

static void phrase_add(finding *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void phrase_add(finding *f, const char *format, ...)
{
    size_t length = strlen(f->phrase);
    if (length > 0 && length + 2 < sizeof f->phrase) {
        memcpy(f->phrase + length, "; ", 3);
        length += 2;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->phrase + length, sizeof f->phrase - length, format, arguments);
    va_end(arguments);
}

static void finding_init(finding *f)
{
    memset(f, 0, sizeof *f);
    f->state = VERDICT_EQUAL;
    f->source =
        (finding_source){.name = STAGE_NONE, .layer = -1, .position = -1, .row = -1, .pass = -1};
    f->weight.name = STAGE_NONE;
    f->weight.layer = -1;
    f->number_healthy = f->number_given = f->number_used = NAN;
    f->eps_min = 1;
}

/* ---- What the record admits ------------------------------------------------------------------ */

/* The values of a row, in whatever trace they were kept. */
static row_values values_of(const run_site *run, row_hash content)
{
    const catalog *in[3] = {run->own, run->earlier, run->other};
    row_values found = {0};
    for (int i = 0; i < 3 && !found.data; i++) {
        found = in[i] ? catalog_values(in[i], content) : found;
    }
    return found;
}

/* "the same values, shifted by 1": how the row that was read is the proper one put otherwise. */
static bool describe_transform(const op_trial *t, side s, const read_check *c, finding *f)
{
    const run_site *run = &t->run[s];
    const row_values x = values_of(run, c->should), y = values_of(run, c->read);
    char how[TRANSFORM_TEXT];
    bool is_known = x.data && y.data && x.type == DTYPE_F32 && y.type == DTYPE_F32 && x.n == y.n;
    if (!is_known || !transform_find(x.data, y.data, x.n, t->head_dim, how)[0]) {
        return false;
    }
    phrase_add(f, "its proper row %s", how);
    return true;
}

static void describe_row(const op_trial *t, side s, int32_t i, finding *f)
{
    const read_expected *should = &t->expected[s]->in[i];
    const read_check *c = &t->check[s].in[i];
    const int32_t position = t->check[s].record->position;
    char read[FINDING_TEXT], proper[FINDING_TEXT];
    finding_source source;
    provenance_find(&t->run[s], should, c->read, &source);
    norm_place(should->name, should->layer, proper);
    f->source = source.is_found || !f->source.is_found ? source : f->source;
    if (should->is_cache && c->first_broken < 0) {
        phrase_add(f, "rows of %s are not what was stored", proper);
        return;
    }
    if (should->is_cache) {
        phrase_add(f, "%d of %d rows of %s are not what was stored, the first at position %d",
                   (int)c->n_broken, (int)c->n_row, proper, (int)c->first_broken);
    }
    if (!source.is_found && describe_transform(t, s, c, f)) {
        return;
    }
    int32_t of = should->is_cache ? c->first_broken : position;
    if (source.is_found || source.is_permuted) {
        phrase_add(f, "%s of %s, position %d%s, for that of %s, position %d",
                   source.is_permuted ? "reordered row" : "row",
                   norm_place(source.name, source.layer, read), (int)source.position,
                   source.in_other_trace ? " of the other run" : "", proper, (int)of);
    } else {
        phrase_add(f, "a row that no record shows for that of %s, position %d", proper, (int)of);
    }
}

static void describe_weight(const op_trial *t, side s, int32_t i, finding *f)
{
    const read_check *c = &t->check[s].weight[i];
    const char *own = t->expected[s]->weight[i];
    char found[TRACE_NAME_MAX];
    const char *name = provenance_tensor(&t->run[s], c->read, found);
    finding_weight *w = &f->weight;
    w->is_permutation = c->has_should && c->read.bag == c->should.bag;
    w->is_other_tensor = name[0] != '\0';
    snprintf(w->tensor, sizeof w->tensor, "%s", name);
    if (w->is_other_tensor && strcmp(name, own) == 0) {
        phrase_add(f, "other rows of %.70s", own);
    } else if (w->is_other_tensor) {
        phrase_add(f, "%.70s for %.70s", name, own);
    } else {
        phrase_add(f, "%s",
                   w->is_permutation ? "the weights of the model file in another order"
                                     : "other weights than the model file's");
    }
}

/* The cause that a broken row stands for. Of the cache: its state. What the producer has read, for
 * this token: the producer might as well not be there, which is structure, and for keys and values
 * the state that is stored. A row of another stage and this token in a residual: structure. Any
 * other row, the same stage's of another layer too, is a wrong selection. */
static cause cause_of_row(const op_trial *t, side s, int32_t i, const finding_source *source)
{
    const op_expected *e = t->expected[s];
    const trace_record *r = t->check[s].record;
    bool is_own_token = source->is_found && source->position == r->position;
    bool is_bypass = is_own_token && e->in[i].before != STAGE_NONE &&
                     source->name == e->in[i].before && source->layer == e->in[i].before_layer;
    if (e->in[i].is_cache || (e->is_store && is_bypass)) {
        return CAUSE_KV_STATE;
    }
    bool is_other_stage = is_own_token && source->name != e->in[i].name;
    return is_bypass || (e->is_sum && is_other_stage) ? CAUSE_STRUCTURE : CAUSE_INPUT_SELECTION;
}

/* The cause that broken weights stand for. A bias with other values than any of the file's is one
 * that was left out, or added more than once: structure. */
static cause cause_of_weight(int32_t i, const finding_weight *w)
{
    bool is_elsewhere = w->is_other_tensor || w->is_permutation;
    return i > 0 && !is_elsewhere ? CAUSE_STRUCTURE : CAUSE_WEIGHT_LAYOUT;
}

/* Numbers of a norm that the record shows to be other ones than the model's. */
static void describe_numbers(const op_trial *t, side s, finding *f)
{
    const trace_record *r = t->check[s].record;
    const op_expected *e = t->expected[s];
    char given[NUMBER_MAX], proper[NUMBER_MAX];
    if (t->check[s].is_count_broken) {
        f->number = EVIDENCE_NUMBER_COUNT;
        f->number_healthy = (double)e->count;
        f->number_given = (double)r->count;
        phrase_add(f, "mean over %lld for %lld", (long long)r->count, (long long)e->count);
    }
    if (t->check[s].is_eps_broken) {
        f->number = EVIDENCE_NUMBER_EPS;
        f->number_healthy = (double)e->eps;
        f->number_given = (double)r->eps;
        phrase_add(f, "eps %s for %s", number_f32(r->eps, given), number_f32(e->eps, proper));
    }
}

/* Describes every broken operand and number; returns the causes they stand for. The most direct
 * one leads: a row, then weights, then numbers. */
static unsigned describe_breaks(const op_trial *t, side s, finding *f)
{
    unsigned causes = 0;
    for (int32_t i = 0; i < t->check[s].n_in; i++) {
        if (t->check[s].in[i].state == READ_BROKEN) {
            describe_row(t, s, i, f);
            f->cause = cause_of_row(t, s, i, &f->source);
            causes |= BIT(f->cause);
        }
    }
    for (int32_t i = 0; i < t->check[s].n_weight; i++) {
        if (t->check[s].weight[i].state == READ_BROKEN) {
            describe_weight(t, s, i, f);
            cause of = cause_of_weight(i, &f->weight);
            f->cause = causes ? f->cause : of;
            causes |= BIT(of);
        }
    }
    if (t->check[s].is_eps_broken || t->check[s].is_count_broken) {
        describe_numbers(t, s, f);
        f->cause = causes ? f->cause : CAUSE_NORM_STATS;
        causes |= BIT(CAUSE_NORM_STATS);
    }
    return causes;
}

/* ---- What replay says ------------------------------------------------------------------------ */

/* The cause a hypothesis stands for at this op. Where the record shows that every row it was given
 * is the proper one, an output that another row gives was computed so by the kernel: a stride of
 * its own, not a selection. */
static cause cause_of_fit(const op_trial *t, side s, const evidence *item)
{
    bool is_intact = item->cause == CAUSE_INPUT_SELECTION;
    for (int32_t i = 0; i < t->check[s].n_in; i++) {
        is_intact = is_intact && t->check[s].in[i].state == READ_INTACT;
    }
    return is_intact ? CAUSE_KERNEL_MATH : item->cause;
}

/* Whether a hypothesis gives the record: its bits, or for a run held to bounds a row within them,
 * which leaves no other order to be thought of. */
static bool is_fit(const op_evidence *e, const evidence *item)
{
    return e->is_bounded
               ? item->is_within && item->role == EVIDENCE_CHANGE
               : item->fits && (item->role == EVIDENCE_CHANGE || item->role == EVIDENCE_ORDER);
}

/* A number that was solved from the record fits whatever changes a row by one factor: such
 * hypotheses stand behind those without a free number, and count where none of these is a fault. */
static void fits_collect(const op_trial *t, side s, finding *f)
{
    const op_evidence *e = t->evidence[s];
    unsigned causes[2] = {0, 0};
    for (int solved = 0; solved < 2; solved++) {
        for (int32_t i = 0; i < e->n && f->n_fit < EVIDENCE_MAX; i++) {
            const evidence *item = &e->item[i];
            if (is_fit(e, item) && item->is_solved == (solved > 0)) {
                f->fit[f->n_fit++] = item;
                causes[solved] |= BIT(cause_of_fit(t, s, item));
            }
        }
    }
    f->fit_causes = causes[0] & ~BIT(CAUSE_ROUNDING) ? causes[0] : causes[0] | causes[1];
}

/* The first hypothesis of this cause, moved to the front; NULL: none. */
static const evidence *fit_lead(const op_trial *t, side s, finding *f, cause wanted)
{
    for (int32_t i = 0; i < f->n_fit; i++) {
        const evidence *lead = f->fit[i];
        if (cause_of_fit(t, s, lead) == wanted) {
            memmove(&f->fit[1], &f->fit[0], (size_t)i * sizeof f->fit[0]);
            f->fit[0] = lead;
            return lead;
        }
    }
    return NULL;
}

/* Whether the recorded values are the healthy ones, although the recorded hash is not theirs. */
static bool is_contradicted(const op_evidence *e)
{
    for (int32_t i = 0; i < e->n; i++) {
        if (e->item[i].role == EVIDENCE_HEALTHY && e->item[i].fits) {
            return true;
        }
    }
    return false;
}

/* Zeros are what is left where nothing was written. */
static bool is_blank(const trace_record *r)
{
    const trace_tensor *y = &r->out[0];
    return y->type == DTYPE_F32 && y->n_nonfinite == 0 && y->sumsq == 0 && y->min == 0 &&
           y->max == 0;
}

/* Hypotheses give the output. Rounding and policy are asked before any fault. */
static void judge_fits(const op_trial *t, side s, finding *f)
{
    const op_evidence *e = t->evidence[s];
    bool is_rounding = f->fit_causes & BIT(CAUSE_ROUNDING);
    bool is_policy = e->is_bounded && (f->fit_causes & BIT(CAUSE_PRECISION_POLICY));
    f->cause = is_rounding ? CAUSE_ROUNDING
               : is_policy ? CAUSE_PRECISION_POLICY
                           : cause_of_fit(t, s, f->fit[0]);
    const evidence *lead = fit_lead(t, s, f, f->cause);
    bool is_proof = is_single(f->fit_causes) && !lead->is_solved &&
                    (!e->is_bounded || e->is_declared || is_policy);
    f->state = is_proof ? VERDICT_CONFIRMED : VERDICT_SUSPECTED;
    f->is_benign = is_policy && !e->is_declared;
    phrase_add(f, "%s", lead->phrase);
    /* The record shows the file's weights: that they were zero is one of two explanations. */
    if (f->cause == CAUSE_WEIGHT_LAYOUT && is_blank(t->check[s].record)) {
        f->state = VERDICT_SUSPECTED;
        f->cause = CAUSE_KERNEL_MATH;
        f->fit_causes |= BIT(CAUSE_KERNEL_MATH);
        phrase_add(f, "or nothing was written");
    }
}

static void judge_hidden(const op_trial *t, side s, finding *f)
{
    const trace_record *r = t->check[s].record;
    if (is_contradicted(t->evidence[s])) {
        f->state = VERDICT_INSTRUMENT_SUSPECT;
        phrase_add(f, "recorded sums and hashes that are not those of the recorded values");
        return;
    }
    fits_collect(t, s, f);
    f->is_hidden = true;
    if (f->n_fit > 0) {
        judge_fits(t, s, f);
        return;
    }
    if (t->evidence[s]->is_bounded && t->evidence[s]->within) {
        f->state = VERDICT_SUSPECTED;
        f->cause = CAUSE_PRECISION_POLICY;
        f->fit_causes = BIT(f->cause);
        f->is_benign = true;
        phrase_add(f, "within the bounds of %s", t->evidence[s]->within);
        return;
    }
    uint64_t n_in = 0;
    for (int32_t i = 0; i < r->n_in; i++) {
        n_in += r->in[i].n_nonfinite;
    }
    f->state = VERDICT_SUSPECTED;
    if (r->out[0].n_nonfinite > 0 && n_in == 0) {
        f->cause = CAUSE_NONFINITE_ORIGIN;
        phrase_add(f, "finite operands give %llu values that are not",
                   (unsigned long long)r->out[0].n_nonfinite);
    } else if (t->expected[s]->is_store) { /* what was to be stored is not what lies there */
        f->cause = CAUSE_KV_STATE;
        phrase_add(f, "the cache holds a row that nothing tried makes of the one to store");
    } else {
        f->state = VERDICT_INCONCLUSIVE;
        f->cause = CAUSE_NONE;
        phrase_add(f, "an output that no hypothesis tried gives from its operands");
    }
    f->fit_causes = f->cause == CAUSE_NONE ? 0 : BIT(f->cause);
}

static void judge_admitted(const op_trial *t, side s, finding *f)
{
    const op_evidence *e = t->evidence[s];
    unsigned causes = describe_breaks(t, s, f);
    fits_collect(t, s, f);
    f->state = VERDICT_SUSPECTED;
    const evidence *lead = fit_lead(t, s, f, f->cause);
    bool has_fit = lead != NULL;
    f->fit_causes |= causes;
    if (lead && !e->has_as_read) { /* how the operand came to be what it was */
        phrase_add(f, "%s", lead->phrase);
    }
    if (e->has_as_read && !e->as_read_fits) {
        phrase_add(f, "which alone does not give its output");
    } else if (is_single(f->fit_causes) && (e->as_read_fits || has_fit)) {
        f->state = VERDICT_CONFIRMED;
        f->number_used = f->number_given;
    }
}

static void judge_harmless(const op_trial *t, side s, finding *f)
{
    if (!op_check_is_broken(&t->check[s])) {
        phrase_add(f, "the output that its operands give");
        return;
    }
    describe_breaks(t, s, f);
    f->cause = CAUSE_NONE;
    if (!t->evidence[s]->has_as_read || t->evidence[s]->as_read_fits) {
        f->changed_no_bit = true;
        phrase_add(f, "which changes no bit");
    } else {
        f->state = VERDICT_INSTRUMENT_SUSPECT;
        phrase_add(f, "yet the output is the healthy one");
    }
}

static void judge_unreplayed(const op_trial *t, side s, finding *f)
{
    const op_evidence *e = t->evidence[s];
    f->state = VERDICT_UNMEASURED;
    if (!t->check[s].record) {
        phrase_add(f, "no record");
        return;
    }
    if (op_check_is_broken(&t->check[s])) {
        f->state = VERDICT_SUSPECTED;
        f->fit_causes = describe_breaks(t, s, f);
    }
    if (e) {
        phrase_add(f, "not replayed: no %s", e->missing);
    } else {
        phrase_add(f, "not replayed");
    }
}

void op_judge_side(const op_trial *t, side s, finding *f)
{
    const op_evidence *e = t->evidence[s];
    finding_init(f);
    f->sides = 1u << s;
    if (!t->check[s].record || !e || !e->is_measured) {
        judge_unreplayed(t, s, f);
        return;
    }
    snprintf(f->replay_kernel, sizeof f->replay_kernel, "%s", e->kernel);
    if (!e->f64_agrees) {
        char ratio[NUMBER_MAX];
        f->state = VERDICT_SUSPECTED;
        f->cause = CAUSE_KERNEL_MATH;
        f->fit_causes = BIT(CAUSE_KERNEL_MATH);
        phrase_add(f, "the definition itself: %s is %s times its bound from binary64", e->kernel,
                   number_fixed(e->f64_ratio, 1, ratio));
    } else if (e->healthy_fits) {
        judge_harmless(t, s, f);
    } else if (op_check_is_broken(&t->check[s])) {
        judge_admitted(t, s, f);
    } else {
        judge_hidden(t, s, f);
    }
}

/* ---- Two runs -------------------------------------------------------------------------------- */

static bool operands_differ(const op_trial *t)
{
    const trace_record *a = t->check[SIDE_A].record, *b = t->check[SIDE_B].record;
    bool differ = a->n_in != b->n_in || t->has_two_weights;
    for (int32_t i = 0; i < a->n_in && i < b->n_in && !differ; i++) {
        differ = !hash_equal(a->in[i].hash, b->in[i].hash);
    }
    return differ;
}

/* Whether a side is held to bounds. */
static bool is_bounded(const op_trial *t)
{
    return (t->evidence[SIDE_A] && t->evidence[SIDE_A]->is_bounded) ||
           (t->evidence[SIDE_B] && t->evidence[SIDE_B]->is_bounded);
}

/* Whether the sides claim nothing wider than roundings to binary32. */
static bool is_only_rounding(const op_trial *t)
{
    bool is_only = true;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        const char *within = t->evidence[s]->within;
        is_only = is_only && (!within || strcmp(within, "f32") == 0);
    }
    return is_only;
}

static void describe_bounds(const op_trial *t, finding *f)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        const op_evidence *e = t->evidence[s];
        char ratio[NUMBER_MAX];
        if (e->is_bounded && !isnan(e->f64_ratio_recorded)) {
            phrase_add(f, "run %c within %s of the bounds of %s", s == SIDE_A ? 'A' : 'B',
                       number_scientific(e->f64_ratio_recorded, 2, ratio),
                       e->within ? e->within : "bits");
        }
    }
}

static void judge_accused(const finding *judged, finding *out)
{
    bool a = finding_is_accused(&judged[SIDE_A]), b = finding_is_accused(&judged[SIDE_B]);
    *out = judged[a ? SIDE_A : SIDE_B];
    if (a && b) {
        const finding *other = &judged[SIDE_B];
        out->sides = SIDES_BOTH;
        if (out->cause != other->cause || out->state != other->state) {
            out->state = VERDICT_SUSPECTED;
        }
        if (strcmp(out->phrase, other->phrase) != 0) {
            snprintf(out->phrase, sizeof out->phrase, "run A: %.80s; run B: %.80s",
                     judged[SIDE_A].phrase, other->phrase);
        }
        out->fit_causes |= other->fit_causes;
    }
}

void op_judge_pair(const op_trial *t, const finding judged[SIDE_COUNT], finding *out)
{
    const trace_record *a = t->check[SIDE_A].record, *b = t->check[SIDE_B].record;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (judged[s].state == VERDICT_INSTRUMENT_SUSPECT) {
            *out = judged[s];
            return;
        }
    }
    if (finding_is_accused(&judged[SIDE_A]) || finding_is_accused(&judged[SIDE_B])) {
        judge_accused(judged, out);
        return;
    }
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (judged[s].state == VERDICT_UNMEASURED || judged[s].changed_no_bit ||
            judged[s].is_benign) {
            *out = judged[s];
            return;
        }
    }
    finding_init(out);
    bool is_equal = hash_equal(a->out[0].hash, b->out[0].hash);
    if (!is_equal && !operands_differ(t) && is_bounded(t)) {
        out->state = VERDICT_CONFIRMED;
        out->cause = is_only_rounding(t) ? CAUSE_ROUNDING : CAUSE_PRECISION_POLICY;
        out->is_benign = true;
        describe_bounds(t, out);
    } else if (is_equal) {
        phrase_add(out, operands_differ(t) ? "operands differ, and no bit of the output"
                                           : "no bit differs");
    } else if (operands_differ(t)) {
        out->state = VERDICT_INHERITED;
        phrase_add(out, "its operands differ already");
    } else {
        out->state = VERDICT_INSTRUMENT_SUSPECT;
        phrase_add(out, "equal operands replay to one output, and two were recorded");
    }
}
