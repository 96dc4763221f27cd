/* op_canary.c - plants a wrong value in each stage and judges it as the run was judged.
 *
 * For every op of the model's list whose stage has no canary yet, in a drawn order of layers: copy
 * its record, change one value, put the copy in its place, and audit that op. An op that cannot be
 * replayed at this token proves nothing and leaves its stage without a canary; one whose record is
 * there and is not looked at, or is found healthy, is a canary missed.
 */
#include "verdict/op_canary.h"

#include "explain/terms.h"
#include "replay/op_bound.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t canary_draw(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return n > 0 ? (z ^ (z >> 31)) % n : 0;
}

/* ---- The value ------------------------------------------------------------------------------- */

/* One step away from zero: of floats 1 ulp, of codes and ids 1; false: there is none. */
static bool value_step(dtype type, uint8_t *values, int64_t i)
{
    uint16_t half;
    uint32_t word;
    switch (type) {
    case DTYPE_F16:
        memcpy(&half, values + 2 * i, sizeof half);
        half++;
        memcpy(values + 2 * i, &half, sizeof half);
        return (half & 0x7fff) < 0x7c00;
    case DTYPE_ACT_Q8:
        values[i] = (uint8_t)((int8_t)values[i] > 0 ? values[i] - 1 : values[i] + 1);
        return true;
    default:
        memcpy(&word, values + 4 * i, sizeof word);
        word++;
        memcpy(values + 4 * i, &word, sizeof word);
        return type == DTYPE_I32 || (word & 0x7fffffff) < 0x7f800000;
    }
}

greta_status altered_record_new(const trace_record *of, uint64_t seed, altered_record *out,
                                greta_error *err)
{
    trace_tensor *t = &out->record.out[0];
    *out = (altered_record){.record = *of};
    if (!t->data || t->n_kept != t->n) {
        t->hash.ordered ^= 1;
        out->is_altered = true;
        return GRETA_OK;
    }
    size_t bytes = op_row_bytes(t->type, t->n);
    out->values = malloc(bytes);
    if (!out->values) {
        return error_memory(err, "a canary", bytes);
    }
    memcpy(out->values, t->data, bytes);
    out->index = (int64_t)canary_draw(seed, (uint64_t)t->n);
    for (int64_t k = 0; k < t->n && !out->is_altered; k++) {
        out->is_altered = value_step(t->type, out->values, out->index);
        if (!out->is_altered) {
            memcpy(out->values, t->data, bytes); /* not finite: the next one */
            out->index = (out->index + 1) % t->n;
        }
    }
    t->data = out->values;
    t->hash = trace_values_hash(t->type, out->values, t->n);
    return GRETA_OK;
}

void altered_record_free(altered_record *a)
{
    free(a->values);
    *a = (altered_record){0};
}

/* ---- Twice the bound ------------------------------------------------------------------------- */

/* Steps value i away from zero until it lies outside; false: it cannot. */
static bool value_leave(const term_row *row, int64_t i, double exact, double bound)
{
    uint8_t *values = (uint8_t *)(uintptr_t)row->values;
    if (row->type == DTYPE_F32) {
        float far = (float)(exact + (exact < 0 ? -2 : 2) * bound);
        memcpy(values + 4 * i, &far, sizeof far);
    }
    for (int step = 0; step < 256 && fabs(term_value(row, i) - exact) <= bound; step++) {
        if (row->type == DTYPE_ACT_Q8) { /* towards the far end of the codes */
            int8_t code = (int8_t)values[i];
            code = (int8_t)(exact < 0 ? (code < 127 ? code + 1 : code)
                                      : (code > -127 ? code - 1 : code));
            values[i] = (uint8_t)code;
        } else if (!value_step(row->type, values, i)) {
            return false;
        }
    }
    return fabs(term_value(row, i) - exact) > bound;
}

/* Moves a value of the copy out of its bounds; false: every bound is too wide. */
static greta_status value_move(const audit_terms *terms, const op_case *c, altered_record *a,
                               bool *is_moved, greta_error *err)
{
    const op_standard standard = op_standard_of(&terms->run.site->trace->header);
    trace_tensor *t = &a->record.out[0];
    const op_operand recorded = {t->type, t->n, t->data};
    const term_row row = {t->type, t->n, a->values};
    op_arbiter arbiter;
    double ratio;
    *is_moved = false;
    if (t->type != c->out.type || t->n != c->out.n) {
        return GRETA_OK;
    }
    GRETA_TRY(op_arbiter_open(c, &terms->plan->contract, &arbiter, err));
    greta_status status = op_arbiter_ratio(&arbiter, standard.of, &recorded, &ratio, err);
    for (int64_t k = 0; k < t->n && status == GRETA_OK && !*is_moved; k++) {
        int64_t i = (a->index + k) % t->n;
        *is_moved = isfinite(arbiter.bound[i]) && isfinite(arbiter.exact[i]) &&
                    value_leave(&row, i, arbiter.exact[i], arbiter.bound[i]);
        a->index = *is_moved ? i : a->index;
    }
    t->hash = trace_values_hash(t->type, a->values, t->n);
    op_arbiter_close(&arbiter);
    return status;
}

/* ---- The trial ------------------------------------------------------------------------------- */

/* Audits op i of the site with the copy in its record's place, as every op is audited. */
static greta_status trial_run(const audit_terms *terms, int32_t i, const altered_record *a,
                              canary_state *out, greta_error *err)
{
    const op *o = &terms->plan->list.op[i];
    const size_t n = ((size_t)terms->run.site->trace->header.n_layer + 1) * STAGE_COUNT;
    site planted = *terms->run.site;
    audit_terms trial = *terms;
    op_audit *audit = NULL;
    planted.record = malloc(n * sizeof *planted.record);
    if (!planted.record) {
        return error_memory(err, "a canary", n * sizeof *planted.record);
    }
    memcpy(planted.record, terms->run.site->record, n * sizeof *planted.record);
    planted.record[(size_t)(o->layer + 1) * STAGE_COUNT + (size_t)o->name] = &a->record;
    trial.run.site = &planted;
    trial.twin = NULL;
    trial.is_trial = true;
    trial.trial_op = i;
    greta_status status = op_audit_run(&trial, &audit, err);
    if (status == GRETA_OK) {
        op_trial t = {.expected = {&terms->plan->expected[i]},
                      .run = {trial.run},
                      .check = {audit[i].check},
                      .evidence = {&audit[i].evidence}};
        finding found;
        op_judge_side(&t, SIDE_A, &found);
        /* A run that claims no class may be told a policy: seen, too. */
        bool is_seen = finding_is_accused(&found) || found.is_benign;
        *out = !audit[i].check.record           ? CANARY_MISSED
               : !audit[i].evidence.is_measured ? CANARY_ABSENT
               : is_seen                        ? CANARY_FOUND
                                                : CANARY_MISSED;
    }
    op_audits_free(audit, terms->plan->list.n_op);
    free(planted.record);
    return status;
}

static greta_status canary_plant(const audit_terms *terms, int32_t i, uint64_t seed, canary *out,
                                 greta_error *err)
{
    const op *o = &terms->plan->list.op[i];
    const trace_record *record = site_record(terms->run.site, o->name, o->layer);
    char missing[OP_MISSING_MAX];
    altered_record a;
    op_case c;
    if (!record || !record->out[0].data || record->out[0].n_kept != record->out[0].n) {
        return GRETA_OK;
    }
    GRETA_TRY(altered_record_new(record, seed, &a, err));
    bool is_bits = op_standard_of(&terms->run.site->trace->header).is_bits;
    bool is_moved = is_bits && a.is_altered;
    greta_status status = GRETA_OK;
    if (!is_bits && a.is_altered) {
        status = op_audit_case(terms, i, &c, err);
        if (status == GRETA_OK && op_case_check(&c, missing)) {
            status = value_move(terms, &c, &a, &is_moved, err);
        }
        op_case_free(&c);
    }
    if (status == GRETA_OK && is_moved) {
        status = trial_run(terms, i, &a, &out->state, err);
        out->name = o->name;
        out->layer = o->layer;
        out->position = record->position;
        out->index = a.index;
    }
    altered_record_free(&a);
    return status;
}

greta_status op_canaries_run(const audit_terms *terms, uint64_t seed, op_canaries *out,
                             greta_error *err)
{
    const op_list *list = &terms->plan->list;
    audit_terms uncounted = *terms; /* some ops, however long the trace: no part of its cost */
    uncounted.work = NULL;
    int32_t start = (int32_t)canary_draw(seed, (uint64_t)list->n_op);
    for (int32_t k = 0; k < list->n_op; k++) {
        int32_t i = (start + k) % list->n_op;
        stage name = list->op[i].name;
        out->is_recorded[name] =
            out->is_recorded[name] || site_record(terms->run.site, name, list->op[i].layer);
        if (out->of[name].state == CANARY_ABSENT) {
            GRETA_TRY(canary_plant(&uncounted, i, seed ^ (uint64_t)name, &out->of[name], err));
        }
    }
    return GRETA_OK;
}
