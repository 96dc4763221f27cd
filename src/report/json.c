/* json.c - analysis.json: the whole analysis for programs. docs/isolate.md describes it.
 *
 * Numbers are whole here, where tables round them; what is unknown is null. Sentences are
 * included in both languages, so that a program can show what a person would have read.
 */
#include "report/op_json.h"
#include "report/report.h"

#include <jansson.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *string_of(const char *raw)
{
    char out[ESCAPED_MAX];
    return json_string(escape(raw, strlen(raw), out));
}

static json_t *real_of(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *match_of(int match)
{
    return match < 0 ? json_null() : json_boolean(match);
}

static json_t *hash_of(uint64_t hash)
{
    return json_sprintf("%016" PRIx64, hash);
}

static json_t *layer_of(int32_t layer)
{
    return layer < 0 ? json_null() : json_integer(layer);
}

/* A sentence in both languages. */
static json_t *said(void (*say)(text *, lang, const analysis_prompt *), const analysis_prompt *p)
{
    text t[LANG_COUNT] = {{0}, {0}};
    say(&t[LANG_EN], LANG_EN, p);
    say(&t[LANG_ES], LANG_ES, p);
    json_t *out = t[LANG_EN].failed || t[LANG_ES].failed
                      ? NULL
                      : json_pack("{s:s, s:s}", "en", t[LANG_EN].data, "es", t[LANG_ES].data);
    text_free(&t[LANG_EN]);
    text_free(&t[LANG_ES]);
    return out;
}

static json_t *headline_of(const analysis *a)
{
    text t[LANG_COUNT] = {{0}, {0}};
    say_headline(&t[LANG_EN], LANG_EN, a);
    say_headline(&t[LANG_ES], LANG_ES, a);
    json_t *out = t[LANG_EN].failed || t[LANG_ES].failed
                      ? NULL
                      : json_pack("{s:s, s:s}", "en", t[LANG_EN].data, "es", t[LANG_ES].data);
    text_free(&t[LANG_EN]);
    text_free(&t[LANG_ES]);
    return out;
}

static const char *verdict_of(greta_status verdict)
{
    return verdict == GRETA_OK ? "aligned" : verdict == GRETA_FAULT ? "fault" : "no verdict";
}

static json_t *reason_of(reason why)
{
    static const char *const name[] = {"",           "one token", "chunk of one", "plant rows",
                                       "no prefill", "no decode", "mismatch",     "incomplete",
                                       "unmeasured", "tracing",   "canary"};
    return why == REASON_NONE ? json_null() : json_string(name[why]);
}

static json_t *side_of(const analysis_side *s)
{
    const trace_header *h = &s->header;
    if (!s->is_present) {
        return json_null();
    }
    return json_pack(
        "{s:o, s:s, s:i, s:i, s:I, s:I, s:i, s:o, s:o, s:i, s:o, s:o, s:o, s:i, s:i, s:i}", "file",
        string_of(s->file), "status", s->status, "token", (int)s->token, "position",
        (int)s->position, "pass", (json_int_t)s->pass, "chunk_rows", (json_int_t)s->chunk_rows,
        "row", (int)s->row, "model", string_of(h->model_name), "model_hash", hash_of(h->model_hash),
        "arithmetic", h->arithmetic, "kernel", string_of(h->kernel), "kv", string_of(h->kv), "act",
        string_of(h->act), "n_ctx", (int)h->n_ctx, "n_chunk", (int)h->n_chunk, "n_thread",
        (int)h->n_thread);
}

static json_t *mismatches_of(const analysis_prompt *p)
{
    json_t *list = json_array();
    for (int i = 0; list && i < p->n_mismatch; i++) {
        const finding_mismatch *m = &p->mismatch[i];
        json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "field", m->field, "prefill_last",
                                              string_of(m->value[SIDE_A]), "decode0",
                                              string_of(m->value[SIDE_B])));
    }
    return list;
}

/* ---- Norms ----------------------------------------------------------------------------------- */

static json_t *numbers_of(const norm_numbers *n)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "input_mae",
                     real_of(n->input_mae), "weight_mae", real_of(n->weight_mae), "output_mae",
                     real_of(n->output_mae), "eps_match", match_of(n->eps_match), "sumsq_delta",
                     real_of(n->sumsq_delta), "inv_rms_delta", real_of(n->inv_rms_delta),
                     "input_ptr_match", match_of(n->input_ptr_match), "input_offset_match",
                     match_of(n->input_offset_match), "weight_hash_match",
                     match_of(n->weight_hash_match));
}

static json_t *source_of(const finding_source *s)
{
    if (!s->is_found) {
        return json_null();
    }
    return json_pack("{s:s, s:o, s:i, s:i, s:I, s:s, s:b, s:i}", "stage", stage_name(s->name),
                     "layer", layer_of(s->layer), "position", (int)s->position, "row", (int)s->row,
                     "pass", (json_int_t)s->pass, "phase",
                     s->phase == GRETA_PHASE_DECODE ? "decode" : "prefill", "in_other_trace",
                     (int)s->in_other_trace, "n_match", (int)s->n_match);
}

static json_t *weights_of(const finding *f)
{
    const finding_weight *w = &f->weight;
    if (f->cause != CAUSE_WEIGHT_LAYOUT) {
        return json_null();
    }
    return json_pack("{s:b, s:o, s:o}", "is_permutation", (int)w->is_permutation, "kind",
                     w->kind[0] ? string_of(w->kind) : json_null(), "tensor",
                     w->is_other_tensor ? string_of(w->tensor) : json_null());
}

static json_t *number_of(const finding *f)
{
    if (f->number == EVIDENCE_NUMBER_NONE) {
        return json_null();
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "name",
                     f->number == EVIDENCE_NUMBER_EPS ? "eps" : "count", "healthy",
                     real_of(f->number_healthy), "given", real_of(f->number_given), "used",
                     real_of(f->number_used));
}

static json_t *fits_of(const finding *f)
{
    json_t *list = json_array();
    for (int32_t i = 0; list && i < f->n_fit; i++) {
        json_array_append_new(list, json_pack("{s:s, s:o}", "cause", cause_name(f->fit[i]->cause),
                                              "phrase", string_of(f->fit[i]->phrase)));
    }
    return list;
}

static json_t *sides_of(unsigned sides)
{
    json_t *list = json_array();
    if (list && sides & SIDES_A) {
        json_array_append_new(list, json_string("prefill_last"));
    }
    if (list && sides & SIDES_B) {
        json_array_append_new(list, json_string("decode0"));
    }
    return list;
}

static json_t *norm_of(const norm_line *norm)
{
    const finding *f = &norm->found;
    bool has_eps = f->eps_min <= f->eps_max;
    return json_pack(
        "{s:s, s:o, s:b, s:b, s:s, s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:b, s:o, s:b, s:b, "
        "s:o, s:s}",
        "stage", stage_name(norm->name), "layer", layer_of(norm->layer), "is_chosen",
        (int)norm->is_chosen, "is_decisive", (int)norm->is_decisive, "bucket",
        analysis_bucket(f->state, f->cause), "state", verdict_state_name(f->state), "phrase",
        string_of(f->phrase), "cause", cause_name(f->cause), "wrong_sides", sides_of(f->sides),
        "source", source_of(&f->source), "weights", weights_of(f), "number", number_of(f),
        "is_hidden", (int)f->is_hidden, "eps_solved",
        has_eps ? json_pack("[f, f]", f->eps_min, f->eps_max) : json_null(), "changed_no_bit",
        (int)f->changed_no_bit, "is_inherited_too", (int)f->is_inherited_too, "fits", fits_of(f),
        "replay_kernel", f->replay_kernel);
}

static json_t *norms_of(const analysis_prompt *p)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->n_norm; i++) {
        json_t *norm = norm_of(&p->norm[i]), *numbers = numbers_of(&p->norm[i].found.numbers);
        if (!norm || json_object_set_new(norm, "numbers", numbers) ||
            json_array_append_new(list, norm)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* ---- The rest -------------------------------------------------------------------------------- */

static json_t *stages_of(const analysis_prompt *p)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->n_stage; i++) {
        const stage_line *s = &p->stage[i];
        bool is_known = s->state != STAGE_STATE_UNMEASURED;
        json_t *line = json_pack("{s:s, s:o, s:s}", "stage", stage_name(s->name), "layer",
                                 layer_of(s->layer), "state", stage_state_name(s->state));
        if (line && is_known) {
            json_t *more =
                json_pack("{s:I, s:I, s:I, s:o, s:o}", "values", (json_int_t)s->n, "compared",
                          (json_int_t)s->n_compared, "differing", (json_int_t)s->n_differ,
                          "max_abs", real_of(s->abs_max), "max_ulp",
                          s->has_ulp ? json_integer((json_int_t)s->ulp_max) : json_null());
            json_object_update(line, more);
            json_decref(more);
        }
        if (json_array_append_new(list, line)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *canary_of(const canary *c)
{
    if (c->state == CANARY_ABSENT) {
        return json_null();
    }
    return json_pack("{s:b, s:s, s:o, s:I}", "found", c->state == CANARY_FOUND, "stage",
                     stage_name(c->name), "layer", layer_of(c->layer), "value",
                     (json_int_t)c->index);
}

static json_t *prompt_of(const analysis_prompt *p)
{
    bool has_first = p->first < p->n_stage;
    json_t *coverage = json_pack("{s:I, s:I, s:I, s:I}", "stages", (json_int_t)p->n_stage, "equal",
                                 (json_int_t)p->n_equal, "differ", (json_int_t)p->n_differ,
                                 "unmeasured", (json_int_t)p->n_unmeasured);
    json_t *logits = p->tracing == TRACING_UNCHECKED || p->tracing == TRACING_NOT_REPEATED
                         ? json_null()
                         : json_boolean(p->tracing == TRACING_SAME_LOGITS);
    return json_pack(
        "{s:s, s:o, s:s, s:i, s:s, s:s, s:o, s:o, s:{s:o, s:o}, s:o, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "id", p->id, "n_token", p->n_token ? json_integer(p->n_token) : json_null(), "verdict",
        verdict_of(p->verdict), "exit_code", (int)p->verdict, "state", verdict_state_name(p->state),
        "bucket", analysis_bucket(p->state, p->cause), "reason", reason_of(p->why), "answer",
        said(say_prompt, p), "sides", "prefill_last", side_of(&p->side[SIDE_A]), "decode0",
        side_of(&p->side[SIDE_B]), "mismatch", mismatches_of(p), "coverage", coverage,
        "first_divergence", has_first ? json_integer((json_int_t)p->first) : json_null(), "norms",
        norms_of(p), "stages", stages_of(p), "tracing_keeps_logits", logits, "canary",
        canary_of(&p->canary), "canaries",
        p->ops.judged.is_judged ? json_canaries(&p->ops.canaries) : json_null(), "ops",
        json_ops(&p->ops), "judged", json_judged(&p->ops.judged), "effect",
        json_effect(&p->ops.effect), "growth", json_growth(&p->ops));
}

static json_t *prompts_of(const analysis *a)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < a->n_prompt; i++) {
        if (json_array_append_new(list, prompt_of(&a->prompt[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *commands_of(const analysis *a)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < a->n_command; i++) {
        json_array_append_new(list, json_string(a->command[i]));
    }
    return list;
}

greta_status report_json(text *t, const analysis *a, greta_error *err)
{
    json_t *root = json_pack("{s:i, s:s, s:s, s:s, s:i, s:o, s:o, s:o}", "format", ANALYSIS_FORMAT,
                             "mode", analysis_mode_name(a->mode), "layers", a->layers, "verdict",
                             verdict_of(a->verdict), "exit_code", (int)a->verdict, "headline",
                             headline_of(a), "commands", commands_of(a), "prompts", prompts_of(a));
    char *dump = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!dump) {
        return error_memory(err, "analysis.json", 0);
    }
    text_string(t, dump);
    text_string(t, "\n");
    free(dump);
    return GRETA_OK;
}
