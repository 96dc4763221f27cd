/* norm_side.c - one side of a norm on trial, against what it should have had.
 *
 * Two kinds of evidence meet. The record can admit a fault: the row it read is not the one its
 * producer wrote, its weights are not the file's, it was given another number. Such a break names
 * its cause, and replay must then show that this change, alone, turns the healthy output into the
 * recorded one. Or the record admits nothing and the output is still not what it gives: then the
 * fault is hidden in the kernel, and only the hypotheses that reproduce the output can name it.
 *
 *     breaks   healthy fits   the change fits        verdict
 *     none     yes                                   EQUAL: this side is healthy
 *     none     no             of one cause           CONFIRMED (SUSPECTED by a solved number)
 *                             of several             SUSPECTED, all listed; rounding first
 *                             none                   SUSPECTED D (X where values turn non-finite)
 *     one      no             of its cause only      CONFIRMED
 *                             others too, or none    SUSPECTED
 *     several  no                                    SUSPECTED, the most direct first: A, C, B
 *     any      yes            as read fits too       EQUAL, changed_no_bit
 *                             as read does not       INSTRUMENT_SUSPECT
 *
 * A solved number is a free parameter: it fits whatever scales a row by one factor. So it yields to
 * every fault that fits without one, but not to rounding, lest a small eps be acquitted. Alone it
 * confirms nothing: a number is certain if the record admits it, or if it is a usual one.
 */
#include "explain/norm_side.h"

#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BIT(c) (1u << (c))

static bool is_single(unsigned bits)
{
    return bits != 0 && (bits & (bits - 1)) == 0;
}

/* Appends to the phrase, after "; " if there is something. */
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

/* ---- What the record admits --------------------------------------------------------------- */

typedef struct breaks {
    bool eps, count;
    unsigned causes; /* A, B, C */
} breaks;

static breaks breaks_find(const norm_case *c, side s)
{
    const trace_record *r = c->record[s];
    const norm_operands *o = &c->operands[s];
    breaks b = {.eps = !isnan(o->eps) && r->eps != o->eps, .count = r->count != o->count};
    if (c->has_produced[s] && !hash_equal(r->in[0].hash, c->produced[s])) {
        b.causes |= BIT(CAUSE_INPUT_SELECTION);
    }
    if (c->has_file_weight[s] && !hash_equal(r->weight[0].hash, c->file_weight[s])) {
        b.causes |= BIT(CAUSE_WEIGHT_LAYOUT);
    }
    if (b.eps || b.count) {
        b.causes |= BIT(CAUSE_NORM_STATS);
    }
    return b;
}

static void describe_input(const norm_case *c, side s, finding *f)
{
    const trace_record *r = c->record[s];
    char read[FINDING_TEXT], proper[FINDING_TEXT];
    norm_source_find(c, s, r->in[0].hash, &f->source);
    norm_place(c->producer_stage, c->producer_layer, proper);
    if (f->source.is_found || f->source.is_permuted) {
        phrase_add(f, "%s of %s, position %d%s, for that of %s, position %d",
                   f->source.is_permuted ? "reordered row" : "row",
                   norm_place(f->source.name, f->source.layer, read), (int)f->source.position,
                   f->source.in_other_trace ? " of the other run" : "", proper, (int)r->position);
    } else {
        phrase_add(f, "a row that no record shows for that of %s, position %d", proper,
                   (int)r->position);
    }
}

static void describe_weight(const norm_case *c, side s, finding *f)
{
    const trace_tensor *read = &c->record[s]->weight[0];
    const norm_evidence *e = c->evidence[s];
    finding_weight *w = &f->weight;
    w->is_permutation = c->has_file_weight[s] && read->hash.bag == c->file_weight[s].bag;
    norm_tensor_find(c, s, w);
    for (int32_t i = 0; e && e->is_measured && i < e->n && !w->kind[0]; i++) {
        const evidence *item = &e->item[i];
        if (item->cause == CAUSE_WEIGHT_LAYOUT && item->is_operand && !item->is_as_read) {
            snprintf(w->kind, sizeof w->kind, "%s", item->phrase);
        }
    }
    if (w->kind[0]) {
        phrase_add(f, "%s", w->kind);
    } else if (w->is_other_tensor) {
        phrase_add(f, "%.70s for %.70s", w->tensor, read->tensor);
    } else {
        phrase_add(f, "%s", w->is_permutation ? "the weights of the model file in another order"
                                              : "other weights than the model file's");
    }
}

static void describe_numbers(const norm_case *c, side s, breaks b, finding *f)
{
    const trace_record *r = c->record[s];
    const norm_operands *o = &c->operands[s];
    char given[NUMBER_MAX], healthy[NUMBER_MAX];
    f->number_used = NAN;
    if (b.count) {
        f->number = EVIDENCE_NUMBER_COUNT;
        f->number_healthy = (double)o->count;
        f->number_given = (double)r->count;
        phrase_add(f, "mean over %lld for %lld", (long long)r->count, (long long)o->count);
    }
    if (b.eps) {
        f->number = EVIDENCE_NUMBER_EPS;
        f->number_healthy = (double)o->eps;
        f->number_given = (double)r->eps;
        phrase_add(f, "eps %s for %s", number_f32(r->eps, given), number_f32(o->eps, healthy));
    }
}

/* Fills the parts of all causes the record admits; the bucket is the most direct. */
static void describe_breaks(const norm_case *c, side s, breaks b, finding *f)
{
    f->phrase[0] = '\0';
    f->cause = CAUSE_NONE;
    if (b.causes & BIT(CAUSE_NORM_STATS)) {
        f->cause = CAUSE_NORM_STATS;
    }
    if (b.causes & BIT(CAUSE_WEIGHT_LAYOUT)) {
        f->cause = CAUSE_WEIGHT_LAYOUT;
    }
    if (b.causes & BIT(CAUSE_INPUT_SELECTION)) {
        f->cause = CAUSE_INPUT_SELECTION;
        describe_input(c, s, f);
    }
    if (b.causes & BIT(CAUSE_WEIGHT_LAYOUT)) {
        describe_weight(c, s, f);
    }
    if (b.causes & BIT(CAUSE_NORM_STATS)) {
        describe_numbers(c, s, b, f);
    }
}

/* ---- What replay says --------------------------------------------------------------------- */

static void fits_collect(const norm_evidence *e, finding *f)
{
    unsigned exact = 0, solved = 0;
    for (int32_t i = 0; i < e->n; i++) {
        const evidence *item = &e->item[i];
        if (item->fits && (item->role == EVIDENCE_CHANGE || item->role == EVIDENCE_ORDER)) {
            f->fit[f->n_fit++] = item;
            *(item->is_solved ? &solved : &exact) |= BIT(item->cause);
        }
    }
    f->fit_causes = exact & ~BIT(CAUSE_ROUNDING) ? exact : exact | solved;
}

/* Moves the first hypothesis of the cause to the front; NULL: none fits. Replay tries what the
 * record admits before what is usual, and what is solved last. */
static const evidence *fit_lead(finding *f, cause wanted)
{
    for (int32_t i = 0; i < f->n_fit; i++) {
        const evidence *lead = f->fit[i];
        if (lead->cause == wanted) {
            memmove(&f->fit[1], &f->fit[0], (size_t)i * sizeof f->fit[0]);
            f->fit[0] = lead;
            return lead;
        }
    }
    return NULL;
}

/* The first cause, in the order of the hypotheses, that counts; rounding before all. */
static cause fit_first_cause(const finding *f)
{
    if (f->fit_causes & BIT(CAUSE_ROUNDING)) {
        return CAUSE_ROUNDING;
    }
    for (int32_t i = 0; i < f->n_fit; i++) {
        if (f->fit_causes & BIT(f->fit[i]->cause)) {
            return f->fit[i]->cause;
        }
    }
    return CAUSE_NONE;
}

static void judge_hidden(const norm_case *c, side s, finding *f)
{
    const trace_record *r = c->record[s];
    fits_collect(c->evidence[s], f);
    f->cause = fit_first_cause(f);
    f->is_hidden = true;
    if (f->cause == CAUSE_NONE) {
        uint64_t n = r->out[0].n_nonfinite;
        bool is_origin = n > 0 && r->in[0].n_nonfinite == 0 && r->weight[0].n_nonfinite == 0;
        f->state = VERDICT_SUSPECTED;
        f->cause = is_origin ? CAUSE_NONFINITE_ORIGIN : CAUSE_KERNEL_MATH;
        f->fit_causes = BIT(f->cause);
        if (is_origin) {
            phrase_add(f, "finite operands give %llu values that are not", (unsigned long long)n);
        } else {
            phrase_add(f, "an output that no formula tried gives from its operands");
        }
        return;
    }
    const evidence *lead = fit_lead(f, f->cause);
    bool is_certain = is_single(f->fit_causes) && !lead->is_solved;
    f->state = is_certain ? VERDICT_CONFIRMED : VERDICT_SUSPECTED;
    f->number = lead->number;
    f->number_healthy = lead->number_healthy;
    f->number_used = lead->number_used;
    if (lead->number != EVIDENCE_NUMBER_NONE) {
        f->number_given =
            lead->number == EVIDENCE_NUMBER_EPS ? (double)r->eps : (double)r->count;
    }
    if (lead->cause == CAUSE_WEIGHT_LAYOUT) {
        snprintf(f->weight.kind, sizeof f->weight.kind, "%s", lead->phrase);
    }
    phrase_add(f, "%s", lead->phrase);
}

static void judge_admitted(const norm_case *c, side s, breaks b, finding *f)
{
    const norm_evidence *e = c->evidence[s];
    bool as_read_fits = e->item[1].fits;
    describe_breaks(c, s, b, f);
    fits_collect(e, f);
    f->state = VERDICT_SUSPECTED;
    if (!is_single(b.causes)) {
        f->fit_causes |= b.causes;
        return;
    }
    const evidence *lead = fit_lead(f, f->cause);
    if (lead || as_read_fits) { /* as read: two numbers wrong at once, still one cause */
        f->fit_causes |= b.causes;
        f->state = f->fit_causes == b.causes ? VERDICT_CONFIRMED : VERDICT_SUSPECTED;
    }
    if (!as_read_fits) {
        f->state = VERDICT_SUSPECTED;
        f->fit_causes |= b.causes;
        phrase_add(f, "which alone does not give its output");
    }
    if (as_read_fits && f->number != EVIDENCE_NUMBER_NONE) {
        f->number_used = f->number_given;
    }
}

static void judge_harmless(const norm_case *c, side s, breaks b, finding *f)
{
    if (!b.causes) {
        phrase_add(f, "the output that its operands give");
        return;
    }
    describe_breaks(c, s, b, f);
    f->cause = CAUSE_NONE;
    if (c->evidence[s]->item[1].fits) {
        f->changed_no_bit = true;
        phrase_add(f, "which changes no bit");
    } else {
        f->state = VERDICT_INSTRUMENT_SUSPECT;
        phrase_add(f, "yet the output is the healthy one");
    }
}

static void judge_unreplayed(const norm_case *c, side s, breaks b, finding *f)
{
    const norm_evidence *e = c->evidence[s];
    if (b.causes) {
        f->state = VERDICT_SUSPECTED;
        f->fit_causes = b.causes;
        describe_breaks(c, s, b, f);
    } else {
        f->state = VERDICT_UNMEASURED;
    }
    if (e) {
        phrase_add(f, "not replayed: %s %s not kept", e->missing,
                   strncmp(e->missing, "all ", 4) == 0 ? "are" : "is");
    } else {
        phrase_add(f, "not replayed");
    }
}

void norm_side_judge(const norm_case *c, side s, finding *f)
{
    const norm_evidence *e = c->evidence[s];
    memset(f, 0, sizeof *f);
    f->state = VERDICT_EQUAL;
    f->source = (finding_source){.name = STAGE_NONE, .layer = -1, .position = -1, .row = -1,
                                 .pass = -1};
    f->weight.name = STAGE_NONE;
    f->weight.layer = -1;
    f->number_healthy = f->number_given = f->number_used = NAN;
    f->eps_min = 1;
    breaks b = breaks_find(c, s);
    if (!e || !e->is_measured) {
        judge_unreplayed(c, s, b, f);
        return;
    }
    snprintf(f->replay_kernel, sizeof f->replay_kernel, "%s", e->kernel);
    f->eps_min = e->eps_min;
    f->eps_max = e->eps_max;
    if (!e->stats_agree) {
        f->state = VERDICT_INSTRUMENT_SUSPECT;
        phrase_add(f, "recorded sums and hashes that are not those of the recorded values");
    } else if (!e->f64_agrees) {
        char ulps[NUMBER_MAX], bound[NUMBER_MAX];
        f->state = VERDICT_SUSPECTED;
        f->cause = CAUSE_KERNEL_MATH;
        f->fit_causes = BIT(CAUSE_KERNEL_MATH);
        phrase_add(f, "the definition itself: %s is %s ulp from binary64 (bound %s)", e->kernel,
                   number_fixed(e->f64_ulp_max, 1, ulps), number_fixed(e->f64_ulp_bound, 1, bound));
    } else if (e->item[0].fits) {
        judge_harmless(c, s, b, f);
    } else if (b.causes) {
        judge_admitted(c, s, b, f);
    } else {
        judge_hidden(c, s, f);
    }
}
