/* norm.c - two records of one norm: what is compared, who is wrong, what only follows from it.
 *
 * First the key: records of different logical tokens are refused, with the field that differs (the
 * reference report compared such a pair). Then each side is judged alone (norm_side.c), because
 * both can be wrong, and wrong alike. Only what is left without an accused is explained by
 * comparing: inputs that differ through intact edges are inherited, and differing outputs of equal
 * operands that replay cannot tell apart are the instrument's fault.
 *
 * The table's numbers are taken for the reader. No rule uses them: distances have no threshold
 * here, and addresses prove nothing.
 */
#include "explain/norm_side.h"

#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- Numbers of the reference table ------------------------------------------------------- */

typedef struct row_distance {
    double mae;          /* NAN: nothing was kept on both sides */
    int64_t n, n_nonfinite;
} row_distance;

static row_distance distance_of(const trace_tensor *a, const trace_tensor *b)
{
    row_distance d = {.mae = NAN};
    if (a->type != DTYPE_F32 || b->type != DTYPE_F32 || !a->data || !b->data) {
        return d;
    }
    const float *x = a->data, *y = b->data;
    double sum = 0;
    d.n = a->n_kept < b->n_kept ? a->n_kept : b->n_kept;
    for (int64_t i = 0; i < d.n; i++) {
        if (isfinite(x[i]) && isfinite(y[i])) {
            sum += fabs((double)x[i] - (double)y[i]);
        } else {
            d.n_nonfinite++;
        }
    }
    if (d.n > d.n_nonfinite) {
        d.mae = sum / (double)(d.n - d.n_nonfinite);
    }
    return d;
}

/* False: the buffer map does not know the place. */
static bool address_of(const trace *t, const trace_tensor *tensor, uint64_t *address)
{
    for (size_t i = 0; t && i < t->header.n_buffer; i++) {
        if (strcmp(t->header.buffer[i].name, tensor->buffer) == 0) {
            *address = t->header.buffer[i].address + tensor->offset;
            return true;
        }
    }
    return false;
}

static void numbers_take(const norm_case *c, norm_numbers *out)
{
    const trace_record *a = c->record[SIDE_A], *b = c->record[SIDE_B];
    *out = (norm_numbers){.input_mae = NAN, .weight_mae = NAN, .output_mae = NAN, .eps_match = -1,
                          .sumsq_delta = NAN, .inv_rms_delta = NAN, .input_ptr_match = -1,
                          .input_offset_match = -1, .weight_hash_match = -1};
    if (!a || !b) {
        return;
    }
    if (a->n_in > 0 && b->n_in > 0) {
        uint64_t address_a, address_b;
        out->input_mae = distance_of(&a->in[0], &b->in[0]).mae;
        out->sumsq_delta = fabs((double)a->in[0].sumsq - (double)b->in[0].sumsq);
        out->input_offset_match = a->in[0].offset == b->in[0].offset;
        if (address_of(c->trace[SIDE_A], &a->in[0], &address_a) &&
            address_of(c->trace[SIDE_B], &b->in[0], &address_b)) {
            out->input_ptr_match = address_a == address_b;
        }
    }
    if (a->n_weight > 0 && b->n_weight > 0) {
        out->weight_mae = distance_of(&a->weight[0], &b->weight[0]).mae;
        out->weight_hash_match = hash_equal(a->weight[0].hash, b->weight[0].hash);
    }
    if (a->n_out > 0 && b->n_out > 0) {
        row_distance d = distance_of(&a->out[0], &b->out[0]);
        out->output_mae = d.mae;
        out->n_compared = d.n;
        out->n_nonfinite = d.n_nonfinite;
    }
    if (a->has_norm && b->has_norm) {
        out->eps_match = a->eps == b->eps;
        out->inv_rms_delta = fabs((double)a->inv_rms - (double)b->inv_rms);
    }
}

/* ---- Pairing ------------------------------------------------------------------------------ */

static void mismatch_add(finding *f, const char *field, const char *a, const char *b)
{
    finding_mismatch *m = &f->mismatch[f->n_mismatch++];
    m->field = field;
    snprintf(m->value[SIDE_A], FINDING_TEXT, "%s", a);
    snprintf(m->value[SIDE_B], FINDING_TEXT, "%s", b);
}

static void mismatch_number(finding *f, const char *field, int64_t a, int64_t b)
{
    if (a != b) {
        char text_a[FINDING_TEXT], text_b[FINDING_TEXT];
        snprintf(text_a, sizeof text_a, "%" PRId64, a);
        snprintf(text_b, sizeof text_b, "%" PRId64, b);
        mismatch_add(f, field, text_a, text_b);
    }
}

static bool is_norm(const trace_record *r)
{
    return r->kind == TRACE_ROW && r->has_norm && r->n_in > 0 && r->n_weight > 0 && r->n_out > 0;
}

/* The first field that differs is the one the phrase names. */
static void mismatches_find(const norm_case *c, finding *f)
{
    const trace_record *a = c->record[SIDE_A], *b = c->record[SIDE_B];
    if (a->name != b->name) {
        mismatch_add(f, "stage", stage_name(a->name), stage_name(b->name));
    }
    mismatch_number(f, "layer", a->layer, b->layer);
    mismatch_number(f, "position", a->position, b->position);
    mismatch_number(f, "token", a->token, b->token);
    if (a->prefix != b->prefix) {
        char text_a[FINDING_TEXT], text_b[FINDING_TEXT];
        snprintf(text_a, sizeof text_a, "%016" PRIx64, a->prefix);
        snprintf(text_b, sizeof text_b, "%016" PRIx64, b->prefix);
        mismatch_add(f, "prefix", text_a, text_b);
    }
    if (!is_norm(a) || !is_norm(b)) {
        mismatch_add(f, "op", is_norm(a) ? "a norm" : "not a norm",
                     is_norm(b) ? "a norm" : "not a norm");
    } else {
        mismatch_number(f, "width", a->in[0].n, b->in[0].n);
    }
}

static void finding_set(finding *f, verdict_state state, cause bucket, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void finding_set(finding *f, verdict_state state, cause bucket, const char *format, ...)
{
    va_list arguments;
    f->state = state;
    f->cause = bucket;
    f->fit_causes = bucket == CAUSE_NONE ? 0 : 1u << bucket;
    va_start(arguments, format);
    vsnprintf(f->phrase, sizeof f->phrase, format, arguments);
    va_end(arguments);
}

/* Whether there is a pair to judge. */
static bool pair_check(const norm_case *c, finding *f)
{
    const trace_record *a = c->record[SIDE_A], *b = c->record[SIDE_B];
    if (!a || !b) {
        finding_set(f, VERDICT_UNMEASURED, CAUSE_NONE, "no record of %s",
                    a ? "run B" : b ? "run A" : "either run");
        return false;
    }
    if (a == b) {
        finding_set(f, VERDICT_NOT_COMPARABLE, CAUSE_NONE, "one record on both sides");
        return false;
    }
    mismatches_find(c, f);
    if (f->n_mismatch > 0) {
        const finding_mismatch *m = &f->mismatch[0];
        finding_set(f, VERDICT_NOT_COMPARABLE, CAUSE_NONE, "%s is %s in run A and %s in run B",
                    m->field, m->value[SIDE_A], m->value[SIDE_B]);
        return false;
    }
    return true;
}

/* ---- The pair ----------------------------------------------------------------------------- */

static bool is_accused(const finding *f)
{
    return f->state == VERDICT_CONFIRMED || f->state == VERDICT_SUSPECTED;
}

static bool inputs_differ(const norm_case *c)
{
    return !hash_equal(c->record[SIDE_A]->in[0].hash, c->record[SIDE_B]->in[0].hash);
}

static bool weights_differ(const norm_case *c)
{
    return !hash_equal(c->record[SIDE_A]->weight[0].hash, c->record[SIDE_B]->weight[0].hash);
}

static bool outputs_differ(const norm_case *c)
{
    return !hash_equal(c->record[SIDE_A]->out[0].hash, c->record[SIDE_B]->out[0].hash);
}

/* Bit-equal outputs of operands that differ, where replay reproduces only one side's: a tensor was
 * changed between the op and the record (DESIGN section 6). */
static bool outputs_contradict(const norm_case *c)
{
    const norm_evidence *a = c->evidence[SIDE_A], *b = c->evidence[SIDE_B];
    return !outputs_differ(c) && (inputs_differ(c) || weights_differ(c)) && a && b &&
           a->is_measured && b->is_measured && a->item[1].fits != b->item[1].fits;
}

static void judge_accused(const norm_case *c, const finding *judged, finding *out)
{
    bool a = is_accused(&judged[SIDE_A]), b = is_accused(&judged[SIDE_B]);
    *out = judged[a ? SIDE_A : SIDE_B];
    out->sides = (a ? SIDES_A : 0u) | (b ? SIDES_B : 0u);
    if (a && b) {
        const finding *other = &judged[SIDE_B];
        if (out->cause != other->cause || other->state != VERDICT_CONFIRMED) {
            out->state = VERDICT_SUSPECTED;
        }
        if (strcmp(out->phrase, other->phrase) != 0) {
            snprintf(out->phrase, sizeof out->phrase, "run A: %.80s; run B: %.80s",
                     judged[SIDE_A].phrase, other->phrase);
        }
        out->fit_causes |= other->fit_causes;
    }
    out->is_inherited_too = c->has_produced[SIDE_A] && c->has_produced[SIDE_B] &&
                            !hash_equal(c->produced[SIDE_A], c->produced[SIDE_B]);
}

static void judge_equal(const norm_case *c, const finding *judged, finding *out)
{
    bool is_measured =
        judged[SIDE_A].state == VERDICT_EQUAL && judged[SIDE_B].state == VERDICT_EQUAL;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (judged[s].changed_no_bit) {
            *out = judged[s];
            out->sides = 1u << s;
            return;
        }
    }
    if (!inputs_differ(c) && !weights_differ(c)) {
        finding_set(out, VERDICT_EQUAL, CAUSE_NONE, "no bit differs");
    } else if (is_measured) {
        finding_set(out, VERDICT_EQUAL, CAUSE_NONE, "operands differ, and no bit of the output");
    } else {
        finding_set(out, VERDICT_UNMEASURED, CAUSE_NONE, "operands differ, the output does not; %s",
                    judged[judged[SIDE_A].state == VERDICT_EQUAL ? SIDE_B : SIDE_A].phrase);
    }
}

static void judge_inherited(const norm_case *c, const finding *judged, finding *out)
{
    char place[FINDING_TEXT];
    norm_place(c->producer_stage, c->producer_layer, place);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (!c->has_produced[s]) {
            finding_set(out, VERDICT_UNMEASURED, CAUSE_NONE, "no record of what %s wrote in run %c",
                        place, "AB"[s]);
            return;
        }
        if (judged[s].state != VERDICT_EQUAL) {
            finding_set(out, VERDICT_UNMEASURED, CAUSE_NONE, "run %c: %s", "AB"[s],
                        judged[s].phrase);
            return;
        }
    }
    const trace_record *b = c->record[SIDE_B];
    finding_set(out, VERDICT_INHERITED, CAUSE_NONE, "%s differs already", place);
    out->source = (finding_source){.is_found = true, .name = c->producer_stage,
                                   .layer = c->producer_layer, .position = b->position,
                                   .row = b->row, .pass = b->pass, .phase = b->phase, .n_match = 1};
}

/* Neither side is wrong by itself, and their outputs differ. */
static void judge_difference(const norm_case *c, const finding *judged, finding *out)
{
    const trace_record *a = c->record[SIDE_A], *b = c->record[SIDE_B];
    bool is_measured =
        judged[SIDE_A].state == VERDICT_EQUAL && judged[SIDE_B].state == VERDICT_EQUAL;
    bool inherits = inputs_differ(c);
    if (a->eps != b->eps && isnan(c->eps)) {
        char eps_a[NUMBER_MAX], eps_b[NUMBER_MAX];
        finding_set(out, VERDICT_SUSPECTED, CAUSE_NORM_STATS,
                    "eps %s in run A and %s in run B, and nothing says which is right",
                    number_f32(a->eps, eps_a), number_f32(b->eps, eps_b));
        out->number = EVIDENCE_NUMBER_EPS;
    } else if (weights_differ(c) && c->has_file_weight[SIDE_A] && c->has_file_weight[SIDE_B]) {
        finding_set(out, is_measured ? VERDICT_CONFIRMED : VERDICT_SUSPECTED, CAUSE_WEIGHTS_DIFFER,
                    "%.70s differs between the model files", b->weight[0].tensor);
    } else if (weights_differ(c)) {
        finding_set(out, VERDICT_SUSPECTED, CAUSE_WEIGHT_LAYOUT,
                    "%.70s differs between the runs, and no record says what the file holds",
                    b->weight[0].tensor);
    } else if (inherits) {
        judge_inherited(c, judged, out);
        return;
    } else if (is_measured) {
        finding_set(out, VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE,
                    "equal operands replay to one output, and two were recorded");
    } else {
        finding_set(out, VERDICT_SUSPECTED, CAUSE_KERNEL_MATH,
                    "equal operands and numbers, two outputs");
    }
    out->is_inherited_too = inherits;
}

void norm_classify(const norm_case *c, finding *out)
{
    finding judged[SIDE_COUNT];
    memset(out, 0, sizeof *out);
    out->source = (finding_source){.name = STAGE_NONE, .layer = -1, .position = -1, .row = -1,
                                   .pass = -1};
    out->weight.name = STAGE_NONE;
    out->weight.layer = -1;
    out->number_healthy = out->number_given = out->number_used = NAN;
    out->eps_min = 1;
    if (pair_check(c, out)) {
        norm_side_judge(c, SIDE_A, &judged[SIDE_A]);
        norm_side_judge(c, SIDE_B, &judged[SIDE_B]);
        bool suspect_a = judged[SIDE_A].state == VERDICT_INSTRUMENT_SUSPECT;
        if (suspect_a || judged[SIDE_B].state == VERDICT_INSTRUMENT_SUSPECT) {
            *out = judged[suspect_a ? SIDE_A : SIDE_B];
            out->sides = suspect_a ? SIDES_A : SIDES_B;
        } else if (outputs_contradict(c)) {
            finding_set(out, VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE,
                        "operands differ, outputs do not, and replay tells them apart");
        } else if (is_accused(&judged[SIDE_A]) || is_accused(&judged[SIDE_B])) {
            judge_accused(c, judged, out);
        } else if (outputs_differ(c)) {
            judge_difference(c, judged, out);
        } else {
            judge_equal(c, judged, out);
        }
    }
    numbers_take(c, &out->numbers);
}
