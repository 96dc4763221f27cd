/* isolate_patch.c - the faults of decode0, put right in the engine one after the other.
 *
 * The judge reasons from traces: behind a patched edge everything must agree, up to the next fault.
 * Here the engine is asked. decode0 is run again as it was recorded, with whatever made it wrong,
 * but the op that was accused first is the model's own, run by a build of the definition that did
 * not make the record; then the second one too, and so on. What every op writes is held against
 * prefill_last's record. The first row that differs must be of the next accused op: a stack is
 * found in order because each run has the faults before removed. Where it is another op, a fault
 * was hidden that the judge did not see, and nothing here is CONFIRMED.
 *
 * The last run of all says what the faults did to the next token, each by itself.
 */
#include "explain/norm_side.h"
#include "replay/op_replay.h"
#include "verdict/isolate.h"

#include <stdlib.h>
#include <string.h>

typedef struct patching {
    const isolate_recording *d;
    const site *prefill;
    op_list list;                           /* decode0's, with ops put right */
    kernel_table table[FAULT_OPS_MAX + 1]; /* what was planted, then the definition */
    int32_t definition;                     /* number of its table, as ops count them */
} patching;

static int32_t most_likely(const float *logits, int32_t n)
{
    int32_t top = 0;
    for (int32_t i = 1; i < n; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    return top;
}

/* The judge's name for this row, among the faults from line `from` on. */
static bool is_accused_from(const op_findings *f, size_t from, stage name, int32_t layer)
{
    for (size_t i = from; i < f->n_op; i++) {
        if (f->op[i].is_accused && f->op[i].name == name && f->op[i].layer == layer) {
            return true;
        }
    }
    return false;
}

/* Holds what was decoded against prefill_last. */
static void rows_compare(const patching *p, const greta_capture *capture, patch_run *out)
{
    greta_captured row;
    for (size_t i = 0; greta_capture_row(capture, i, &row); i++) {
        stage name = stage_find(row.stage);
        const trace_record *r = site_record(p->prefill, name, row.layer);
        row_hash hash = {row.hash, row.bag};
        if (row.phase != GRETA_PHASE_DECODE || !r || hash_equal(r->out[0].hash, hash)) {
            continue;
        }
        if (out->n_differ++ == 0) {
            out->first = name;
            out->first_layer = row.layer;
        }
    }
}

/* The token once more, by the list as it is now. */
static greta_status run_patched(const patching *p, patch_run *out, greta_error *err)
{
    const isolate_recording *d = p->d;
    const int32_t n_vocab = session_model(d->session)->cfg.n_vocab;
    session_override override = {.list = &p->list,
                                 .table = p->table,
                                 .phases = 1u << GRETA_PHASE_DECODE,
                                 .trigger = d->planted ? d->planted->trigger : NULL,
                                 .cos_sin = d->planted ? d->planted->cos_sin : NULL};
    greta_capture *capture = NULL;
    GRETA_TRY(session_override_set(d->session, &override, err));
    GRETA_TRY(isolate_decode_again(d, &capture, err));
    const float *logits = greta_session_logits(d->session, 0);
    const trace_record *r = site_record(p->prefill, STAGE_LOGITS, -1);
    const trace_tensor *expected = r ? &r->out[0] : NULL;
    *out = (patch_run){.is_run = true, .first = STAGE_NONE, .first_layer = -1};
    out->top = most_likely(logits, n_vocab);
    out->is_same = expected && expected->n == n_vocab &&
                   hash_equal(expected->hash, trace_values_hash(DTYPE_F32, logits, n_vocab));
    rows_compare(p, capture, out);
    greta_capture_free(capture);
    return GRETA_OK;
}

static greta_status patching_open(patching *p, greta_error *err)
{
    const fault_planted *planted = p->d->planted;
    const greta_session *s = p->d->session;
    int32_t n = planted ? planted->n_table : 0;
    for (int32_t i = 0; i < n; i++) {
        p->table[i] = planted->table[i];
    }
    p->table[n] = *op_replay_table(greta_session_describe(s).cpu);
    p->definition = n + 1;
    return op_list_copy(planted ? &planted->list : session_ops(s, GRETA_PHASE_PREFILL), &p->list,
                        err);
}

/* The op of a line as the model has it. */
static void op_put_right(patching *p, const op_line *line)
{
    const op_list *healthy = session_ops(p->d->session, GRETA_PHASE_PREFILL);
    int32_t i = op_list_op(healthy, line->name, line->layer);
    if (i >= 0) {
        p->list.op[i] = healthy->op[i];
        p->list.op[i].table = p->definition;
    }
}

static greta_status faults_patch(patching *p, analysis_prompt *out, greta_error *err)
{
    op_findings *f = &out->ops;
    for (size_t i = 0; i < f->n_op; i++) {
        op_line *line = &f->op[i];
        patch_run *run = &line->patch.run;
        if (!line->is_accused) {
            continue;
        }
        if (line->found.sides != SIDES_B) {
            break; /* decode0's faults can be put right here, prefill's not */
        }
        op_put_right(p, line);
        GRETA_TRY(run_patched(p, run, err));
        run->before = f->effect.top[SIDE_B];
        run->is_next =
            run->first != STAGE_NONE && is_accused_from(f, i + 1, run->first, run->first_layer);
        if (run->first != STAGE_NONE && !run->is_next && line->found.state == VERDICT_CONFIRMED) {
            line->found.state = VERDICT_SUSPECTED;
            out->state = line->is_decisive ? VERDICT_SUSPECTED : out->state;
        }
    }
    return GRETA_OK;
}

/* Another device's session runs no kernels of this one. */
static bool is_possible(const isolate_recording *d, const analysis_prompt *out)
{
    const char *device = greta_session_describe(d->session).device;
    bool is_cpu = !device || strcmp(device, "cpu") == 0;
    return is_cpu && d->repeats && out->ops.effect.is_measured && !d->tokens.id;
}

greta_status isolate_patch(const isolate_recording *d, const site *prefill, analysis_prompt *out,
                           greta_error *err)
{
    patching p = {.d = d, .prefill = prefill};
    if (!prefill->trace || !is_possible(d, out)) {
        return GRETA_OK;
    }
    greta_status status = patching_open(&p, err);
    if (status == GRETA_OK) {
        status = faults_patch(&p, out, err);
        greta_status ended = session_override_set(d->session, NULL, err);
        status = status == GRETA_OK ? ended : status;
    }
    op_list_free(&p.list);
    return status;
}
