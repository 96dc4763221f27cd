/* op_json.c - the judged ops of a prompt as JSON: docs/isolate.md describes the members.
 *
 * As in json.c, numbers are whole, what is unknown is null, and sentences stand in both languages.
 */
#include "report/op_json.h"

#include "report/report.h"

#include <math.h>
#include <string.h>

static json_t *real_of(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *string_of(const char *raw)
{
    char out[ESCAPED_MAX];
    return json_string(escape(raw, strlen(raw), out));
}

static json_t *layer_of(int32_t layer)
{
    return layer < 0 ? json_null() : json_integer(layer);
}

static json_t *sentence_of(const op_line *op)
{
    text t[LANG_COUNT] = {{0}, {0}};
    for (lang l = LANG_EN; l < LANG_COUNT; l++) {
        say_op(&t[l], l, op);
        say_op_evidence(&t[l], l, op);
    }
    bool failed = t[LANG_EN].failed || t[LANG_ES].failed;
    json_t *out =
        failed ? NULL : json_pack("{s:s, s:s}", "en", t[LANG_EN].data, "es", t[LANG_ES].data);
    text_free(&t[LANG_EN]);
    text_free(&t[LANG_ES]);
    return out;
}

static json_t *terms_of(const op_terms *terms)
{
    json_t *out = terms->is_measured ? json_object() : json_null();
    const int n = terms->has_weights ? TERM_COUNT : TERM_POLICY_WEIGHTS;
    for (int k = 0; terms->is_measured && k < n; k++) {
        json_t *one = json_pack("{s:o, s:o, s:I}", "max", real_of(terms->largest[k]), "norm",
                                real_of(terms->norm[k]), "value", (json_int_t)terms->at[k]);
        json_object_set_new(out, term_name((term)k), one);
    }
    if (terms->is_measured) {
        json_object_set_new(out, "scale", real_of(terms->scale));
        json_object_set_new(out, "gap", real_of(terms->gap));
        json_object_set_new(out, "nonfinite", json_integer((json_int_t)terms->n_nonfinite));
    }
    return out;
}

static json_t *patch_run_of(const patch_run *r)
{
    if (!r->is_run) {
        return json_null();
    }
    json_t *first =
        r->first == STAGE_NONE
            ? json_null()
            : json_pack("{s:s, s:o}", "stage", stage_name(r->first), "layer",
                        r->first_layer < 0 ? json_null() : json_integer(r->first_layer));
    return json_pack("{s:i, s:o, s:b, s:b, s:[i, i]}", "differ", (int)r->n_differ, "first", first,
                     "is_next_fault", r->is_next, "logits_equal", r->is_same, "top", (int)r->before,
                     (int)r->top);
}

static json_t *patch_of(const patch *p)
{
    return p->state == PATCH_UNKNOWN
               ? json_null()
               : json_pack("{s:b, s:i, s:i, s:i, s:o}", "removes", p->state == PATCH_REMOVES,
                           "differ", (int)p->n_differ, "removed", (int)p->n_removed,
                           "of_later_faults", (int)p->n_next, "engine", patch_run_of(&p->run));
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

static json_t *source_of(const finding_source *s)
{
    if (!s->is_found && !s->is_permuted) {
        return json_null();
    }
    return json_pack("{s:s, s:o, s:i, s:I, s:s, s:b, s:b}", "stage", stage_name(s->name), "layer",
                     layer_of(s->layer), "position", (int)s->position, "pass", (json_int_t)s->pass,
                     "phase", s->phase == GRETA_PHASE_DECODE ? "decode" : "prefill",
                     "in_other_trace", (int)s->in_other_trace, "is_permuted", (int)s->is_permuted);
}

static json_t *sides_of(const op_line *op)
{
    static const char *const name[3][SIDE_COUNT] = {
        {"prefill_last", "decode0"}, {"a", "b"}, {"run", "run"}};
    json_t *list = json_array();
    for (int s = 0; list && s < SIDE_COUNT; s++) {
        if (op->found.sides & 1u << s) {
            json_array_append_new(list, json_string(name[op->naming][s]));
        }
    }
    return list;
}

static json_t *op_of(const op_line *op)
{
    const finding *f = &op->found;
    return json_pack(
        "{s:s, s:o, s:i, s:I, s:s, s:b, s:b, s:b, s:b, s:s, s:s, s:s, s:o, s:o, s:b, s:b, "
        "s:o, s:o, s:o, "
        "s:o, s:s}",
        "stage", stage_name(op->name), "layer", layer_of(op->layer), "position", (int)op->position,
        "pass", (json_int_t)op->pass, "op", op->kind, "is_decisive", (int)op->is_decisive,
        "is_fault", (int)op->is_accused, "is_policy", (int)op->is_policy, "is_rounding",
        (int)op->is_rounding, "state", verdict_state_name(f->state), "bucket",
        analysis_bucket(f->state, f->cause), "cause", cause_name(f->cause), "wrong_sides",
        sides_of(op), "phrase", string_of(f->phrase), "is_hidden", (int)f->is_hidden,
        "changed_no_bit", (int)f->changed_no_bit, "source", source_of(&f->source), "fits",
        fits_of(f), "terms", terms_of(&op->terms), "patch", patch_of(&op->patch), "replay_kernel",
        f->replay_kernel);
}

json_t *json_ops(const op_findings *p)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->n_op; i++) {
        json_t *op = op_of(&p->op[i]), *said = sentence_of(&p->op[i]);
        json_t *f64 = json_array();
        for (int s = 0; f64 && s < SIDE_COUNT; s++) {
            const op_evidence *e = &p->op[i].evidence[s];
            json_array_append_new(f64, json_pack("{s:o, s:o}", "recorded",
                                                 real_of(e->f64_ratio_recorded), "healthy",
                                                 real_of(e->f64_ratio)));
        }
        if (!op || !said || json_object_set_new(op, "bounds_from_f64", f64) ||
            json_object_set_new(op, "answer", said) || json_array_append_new(list, op)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

json_t *json_judged(const op_coverage *c)
{
    const struct {
        const char *key;
        int32_t value;
    } count[] = {{"tokens", c->n_site},
                 {"tokens_judged", c->n_site_judged},
                 {"records", c->n_op},
                 {"replayed", c->n_replayed},
                 {"healthy", c->n_healthy},
                 {"misread", c->n_broken},
                 {"unmeasured", c->n_unmeasured},
                 {"unrecorded", c->n_unrecorded},
                 {"with_terms", c->n_terms},
                 {"policy", c->n_policy},
                 {"rounding", c->n_rounding},
                 {"bounded", c->n_bounded}};
    json_t *out = c->is_judged ? json_object() : json_null();
    for (size_t i = 0; c->is_judged && i < sizeof count / sizeof *count; i++) {
        json_object_set_new(out, count[i].key, json_integer(count[i].value));
    }
    if (c->is_judged) {
        json_object_set_new(out, "gap_max", real_of(c->gap_max));
        json_object_set_new(out, "forward_passes",
                            real_of(c->work_once > 0 ? c->work / c->work_once : 0));
    }
    return out;
}

/* Where each was, and whether it was seen; recorded stages without one. */
json_t *json_canaries(const op_canaries *c)
{
    json_t *planted = json_array(), *none = json_array();
    bool is_seen = true;
    for (stage s = 0; s < STAGE_COUNT; s++) {
        const canary *at = &c->of[s];
        if (at->state != CANARY_ABSENT) {
            json_array_append_new(
                planted, json_pack("{s:s, s:o, s:i, s:I, s:b}", "stage", stage_name(s), "layer",
                                   layer_of(at->layer), "position", (int)at->position, "value",
                                   (json_int_t)at->index, "found", at->state == CANARY_FOUND));
            is_seen = is_seen && at->state == CANARY_FOUND;
        } else if (c->is_recorded[s]) {
            json_array_append_new(none, json_string(stage_name(s)));
        }
    }
    return json_pack("{s:b, s:o, s:o}", "all_found", (int)(is_seen && json_array_size(planted) > 0),
                     "planted", planted, "not_planted", none);
}

/* Where the way back from the logits ends; null: at no op of this token. */
static json_t *origin_of(const logit_effect *e)
{
    return e->has_origin ? json_pack("{s:s, s:o, s:i}", "stage", stage_name(e->origin), "layer",
                                     layer_of(e->origin_layer), "ops_on_way", (int)e->n_on_way)
                         : json_null();
}

json_t *json_effect(const logit_effect *e)
{
    if (!e->is_measured) {
        return json_null();
    }
    return json_pack(
        "{s:i, s:b, s:b, s:[i, i], s:[o, o], s:[o, o], s:o, s:o, s:i, s:i, s:o, s:o, s:b}",
        "position", (int)e->position, "flips", e->top[SIDE_A] != e->top[SIDE_B], "is_tie",
        (int)effect_is_tie(e), "top", (int)e->top[SIDE_A], (int)e->top[SIDE_B], "gap",
        real_of(e->gap[SIDE_A]), real_of(e->gap[SIDE_B]), "gap_in_bounds",
        real_of(e->gap_in_bounds[SIDE_A]), real_of(e->gap_in_bounds[SIDE_B]), "logits_max",
        real_of(e->largest), "kl", real_of(e->kl), "tokens", (int)e->n, "tokens_changed",
        (int)e->n_changed, "first_changed",
        e->changed_position < 0 ? json_null() : json_integer(e->changed_position), "origin",
        origin_of(e), "through_earlier_tokens", (int)e->has_earlier);
}

json_t *json_growth(const op_findings *f)
{
    json_t *list = json_array();
    for (int i = 0; list && i < f->n_growth; i++) {
        const op_growth *g = &f->growth[i];
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:i, s:o, s:o, s:o, s:I, s:o, s:i, s:i}", "stage",
                            stage_name(g->name), "layer", layer_of(g->layer), "position",
                            (int)g->position, "before", real_of(g->before), "after",
                            real_of(g->after), "condition", real_of(g->condition), "channel",
                            (json_int_t)g->channel, "channel_share", real_of(g->channel_share),
                            "heads", (int)g->n_head, "heads_hit", (int)g->n_head_hit));
    }
    return list;
}
