/* compare_print.c - a comparison as text and as JSON: one struct, printed twice.
 *
 * The settings of both headers stand here too: what is compared of them is what is shown.
 */
#include "report/op_json.h"
#include "report/report.h"
#include "verdict/compare.h"
#include "verdict/op_sites.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Configuration --------------------------------------------------------------------------- */

typedef enum setting_kind { SETTING_TEXT, SETTING_I32, SETTING_I64, SETTING_HASH } setting_kind;

struct setting {
    const char *name;
    setting_kind kind;
    size_t offset;
    unsigned role;
};

#define AT(member) offsetof(trace_header, member)
static const setting settings[] = {
    {"model", SETTING_TEXT, AT(model_name), 0},
    {"architecture", SETTING_TEXT, AT(arch), IS_SHAPE},
    {"n_layer", SETTING_I32, AT(n_layer), IS_SHAPE},
    {"n_embd", SETTING_I32, AT(n_embd), IS_SHAPE},
    {"n_vocab", SETTING_I32, AT(n_vocab), IS_SHAPE},
    {"model_hash", SETTING_HASH, AT(model_hash), IS_PROMISE | IS_RUN},
    {"tokenizer_hash", SETTING_HASH, AT(tokenizer_hash), IS_RUN},
    {"arithmetic", SETTING_I32, AT(arithmetic), IS_PROMISE | IS_RUN},
    {"rounding", SETTING_TEXT, AT(rounding), IS_PROMISE | IS_RUN},
    {"kv", SETTING_TEXT, AT(kv), IS_PROMISE | IS_RUN},
    {"act", SETTING_TEXT, AT(act), IS_PROMISE | IS_RUN},
    {"kernel", SETTING_TEXT, AT(kernel), IS_RUN},
    {"cpu", SETTING_TEXT, AT(cpu), IS_RUN},
    {"device", SETTING_TEXT, AT(device), IS_RUN},
    {"compiler", SETTING_TEXT, AT(compiler), IS_RUN},
    {"greta", SETTING_TEXT, AT(greta), IS_RUN},
    {"n_thread", SETTING_I32, AT(n_thread), IS_RUN},
    {"n_chunk", SETTING_I32, AT(n_chunk), IS_RUN},
    {"n_ctx", SETTING_I32, AT(n_ctx), IS_RUN},
    {"n_sequence", SETTING_I32, AT(n_sequence), IS_RUN},
    {"prompt_id", SETTING_TEXT, AT(prompt_id), 0},
    {"stages", SETTING_TEXT, AT(selection_stages), 0},
    {"layers", SETTING_TEXT, AT(selection_layers), 0},
    {"phases", SETTING_TEXT, AT(selection_phases), 0},
    {"tokens", SETTING_TEXT, AT(selection_tokens), 0},
    {"sample", SETTING_I64, AT(sample), 0},
    {"notes", SETTING_TEXT, AT(notes), 0},
};
#define N_SETTING (sizeof settings / sizeof settings[0])

const char *setting_value(const setting *s, const trace_header *header, char out[ESCAPED_MAX])
{
    const uint8_t *member = (const uint8_t *)header + s->offset;
    int32_t narrow;
    int64_t wide;
    uint64_t hash;
    switch (s->kind) {
    case SETTING_TEXT:
        escape((const char *)member, strlen((const char *)member), out);
        break;
    case SETTING_I32:
        memcpy(&narrow, member, sizeof narrow);
        snprintf(out, ESCAPED_MAX, "%" PRId32, narrow);
        break;
    case SETTING_I64:
        memcpy(&wide, member, sizeof wide);
        snprintf(out, ESCAPED_MAX, "%" PRId64, wide);
        break;
    case SETTING_HASH:
        memcpy(&hash, member, sizeof hash);
        snprintf(out, ESCAPED_MAX, "%016" PRIx64, hash);
        break;
    }
    return out;
}

static bool setting_is_equal(const comparison *c, const setting *s)
{
    char value[2][ESCAPED_MAX];
    return strcmp(setting_value(s, &c->t[0]->header, value[0]),
                  setting_value(s, &c->t[1]->header, value[1])) == 0;
}

const setting *setting_differs(const comparison *c, unsigned role)
{
    for (size_t i = 0; i < N_SETTING; i++) {
        if ((settings[i].role & role) != 0 && !setting_is_equal(c, &settings[i])) {
            return &settings[i];
        }
    }
    return NULL;
}

const char *setting_name(const setting *s)
{
    return s->name;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static const char *state_name(pair_state state)
{
    return state == PAIR_EQUAL ? "equal" : state == PAIR_DIFFERS ? "differ" : "not measured";
}

static void text_side(text *out, const comparison *c, int which)
{
    const trace *t = c->t[which];
    char shown[ESCAPED_MAX];
    text_format(out, "%c  %s: %s, %zu rows", which == 0 ? 'A' : 'B',
                escape(t->path, strlen(t->path), shown), t->status, c->pairs.n_row[which]);
    if (strcmp(t->status, "complete") != 0 && t->n_record > 0) {
        const trace_head last = trace_head_of(t, t->n_record - 1);
        text_string(out, "; incomplete after ");
        if (last.layer >= 0) {
            text_format(out, "layer %d, ", last.layer);
        }
        text_string(out, stage_name((stage)last.name));
    }
    text_string(out, "\n");
}

static void text_settings(text *out, const comparison *c)
{
    char value[2][ESCAPED_MAX];
    text_string(out, "\nconfiguration\n");
    for (size_t i = 0; i < N_SETTING; i++) {
        setting_value(&settings[i], &c->t[0]->header, value[0]);
        setting_value(&settings[i], &c->t[1]->header, value[1]);
        bool is_equal = setting_is_equal(c, &settings[i]);
        if (!is_equal) {
            text_format(out, "  %-16s %s  |  %s\n", settings[i].name, value[0], value[1]);
        } else if (value[0][0] != '\0') {
            text_format(out, "  %-16s %s\n", settings[i].name, value[0]);
        }
    }
}

static void text_counts(text *out, const comparison *c)
{
    text_format(out, "\npaired %zu: %zu equal, %zu differ, %zu not measured\n", c->pairs.n_pair,
                c->n_equal, c->n_differ, c->n_unmeasured);
    if (c->n_input_only > 0) {
        text_format(out, "  of the equal ones, %zu read operands that differ\n", c->n_input_only);
    }
    for (int which = 0; which < 2; which++) {
        const size_t *n = c->n_alone[which];
        text_format(out, "only in %c: %zu", which == 0 ? 'A' : 'B',
                    c->pairs.n_alone[which] - n[PAIR_PASS]);
        for (int f = 0; f < PAIR_PASS; f++) {
            if (n[f] > 0) {
                text_format(out, ", %zu for their %s", n[f], pair_field_name((pair_field)f));
            }
        }
        if (n[PAIR_PASS] > 0) {
            text_format(out, "; %zu NOT COMPARABLE, their key stands twice in a pass",
                        n[PAIR_PASS]);
        }
        text_string(out, "\n");
    }
}

static void text_row_difference(text *out, const pair_difference *d, const pair *p)
{
    char number[3][NUMBER_MAX];
    const trace_tensor *a = &p->record[0]->out[d->out], *b = &p->record[1]->out[d->out];
    const row_difference *row = &d->row;
    if (row->is_shape) {
        text_format(out, "  %" PRId64 " values of %s  |  %" PRId64 " of %s\n", a->n,
                    dtype_name(a->type), b->n, dtype_name(b->type));
        return;
    }
    if (row->n_compared > 0) {
        text_format(out, "  %" PRId64 " of %" PRId64 " kept values differ (%" PRId64 " in the row)",
                    row->n_differ, row->n_compared, a->n);
    }
    if (row->largest >= 0) {
        text_format(out, ", at most by %s (value %" PRId64 ": %s  |  %s)",
                    number_scientific(row->abs_max, 3, number[0]), row->largest,
                    number_f32((float)row->value[0], number[1]),
                    number_f32((float)row->value[1], number[2]));
    }
    if (row->largest >= 0 && row->has_ulp) {
        text_format(out, ", %" PRIu64 " ulp", row->ulp_max);
    }
    text_string(out, row->n_compared > 0 ? "\n" : "");
    if (row->n_nonfinite > 0) {
        text_format(out, "  %" PRId64 " of them are not finite on a side\n", row->n_nonfinite);
    }
    text_format(out, "  hash %016" PRIx64 "  |  %016" PRIx64 "\n", a->hash.ordered,
                b->hash.ordered);
    if (a->hash.bag == b->hash.bag && a->hash.ordered != b->hash.ordered) {
        text_string(out, "  the same values in another order, by the order-free hash\n");
    }
    text_format(out, "  sum of squares %s  |  %s\n", number_f32(a->sumsq, number[0]),
                number_f32(b->sumsq, number[1]));
}

static void text_place(text *out, const trace_record *r)
{
    if (r->layer >= 0) {
        text_format(out, "layer %d, ", r->layer);
    }
    text_format(out, "%s, position %d (token %d)", stage_name(r->name), r->position, r->token);
}

static void text_first(text *out, const comparison *c)
{
    const pair_difference *d = &c->difference;
    const trace_record *a, *b;
    if (!c->has_first) {
        text_string(out, "\nno difference\n");
        return;
    }
    a = c->first.record[0];
    b = c->first.record[1];
    text_string(out, "\nfirst difference: ");
    text_place(out, a);
    text_format(out, "\n  %s pass %" PRId64 " row %d  |  %s pass %" PRId64 " row %d\n",
                a->phase == GRETA_PHASE_DECODE ? "decode" : "prefill", a->pass, a->row,
                b->phase == GRETA_PHASE_DECODE ? "decode" : "prefill", b->pass, b->row);
    if (d->out >= 0) {
        text_row_difference(out, d, &c->first);
    } else if (d->number == NULL) {
        text_format(out, "  %d outputs  |  %d\n", a->n_out, b->n_out);
    }
    if (a->has_norm && b->has_norm) {
        char number[4][NUMBER_MAX];
        text_format(out, "  eps %s, count %" PRId64 ", inv_rms %s  |  %s, %" PRId64 ", %s\n",
                    number_f32(a->eps, number[0]), a->count, number_f32(a->inv_rms, number[1]),
                    number_f32(b->eps, number[2]), b->count, number_f32(b->inv_rms, number[3]));
    }
    text_format(out, "  its inputs: %s; its weights: %s\n", state_name(d->in),
                state_name(d->weight));
}

static void text_coverage(text *out, const comparison *c)
{
    const char *separator = "";
    text_string(out, "\ncoverage                 A        B    pairs   differ  not measured\n");
    for (int s = 0; s < STAGE_COUNT; s++) {
        const stage_count *n = &c->stage[s];
        if (n->row[0] + n->row[1] > 0) {
            text_format(out, "  %-14s %9zu%9zu%9zu%9zu%14zu\n", stage_name((stage)s), n->row[0],
                        n->row[1], n->paired, n->differ, n->unmeasured);
        }
    }
    text_string(out, "not looked at: ");
    for (int s = 0; s < STAGE_COUNT; s++) {
        if (c->stage[s].paired == 0) {
            text_format(out, "%s%s", separator, stage_name((stage)s));
            separator = ", ";
        }
    }
    text_string(out, separator[0] == '\0' ? "no stage\n" : "\n");
}

static void text_canaries(text *out, const comparison *c)
{
    text_string(out, "rows: ");
    say_canaries(out, LANG_EN, &c->canaries, true);
    text_string(out, "\n");
    if (c->found.judged.n_site_judged > 0) {
        text_string(out, "ops: ");
        say_canaries(out, LANG_EN, &c->found.canaries, false);
        text_string(out, "\n");
    }
}

static void text_ops(text *out, const comparison *c)
{
    const op_coverage *judged = &c->found.judged;
    if (!judged->is_judged) {
        return;
    }
    text_format(out,
                "\nops: %d of %d tokens differ and were judged; %d op records, %d replayed, %d as "
                "recorded; %d differences are policy, %d rounding; replay cost %.1f forward "
                "passes\n",
                judged->n_site_judged, judged->n_site, judged->n_op, judged->n_replayed,
                judged->n_healthy, judged->n_policy, judged->n_rounding,
                judged->work_once > 0 ? judged->work / judged->work_once : 0);
    for (int s = 0; s < 2; s++) {
        text_format(out, "%c: ", s == 0 ? 'A' : 'B');
        op_standard_say(out, &c->t[s]->header);
    }
    for (size_t i = 0; i < c->found.n_op && i < 8; i++) {
        const op_line *at = &c->found.op[i];
        text_string(out, "  ");
        say_op(out, LANG_EN, at);
        text_string(out, ": ");
        if (at->layer >= 0) {
            text_format(out, "layer %d, ", at->layer);
        }
        text_format(out, "position %d; %s\n   ", at->position,
                    analysis_bucket(at->found.state, at->found.cause));
        say_op_evidence(out, LANG_EN, at);
        text_string(out, "\n");
    }
}

/* What two models hold: counts, and every tensor that is not the same in another type. */
static void text_weights(text *out, const comparison *c)
{
    const op_kin *kin = &c->kin;
    if (kin->n == 0) {
        return;
    }
    text_string(out, "\nweights of the two models:");
    for (int r = 0; r <= WEIGHTS_OTHER; r++) {
        text_format(out, "%s %zu %s", r == 0 ? "" : ",", kin->n_of[r],
                    weight_relation_name((weight_relation)r));
    }
    text_string(out, "\n");
    for (size_t i = 0; i < kin->n; i++) {
        const kin_entry *e = &kin->entry[i];
        char far[NUMBER_MAX], apart[NUMBER_MAX], name[ESCAPED_MAX];
        const char *b = e->of[1].tensor->name;
        if (e->match.relation >= WEIGHTS_SEARCHED) {
            text_format(out, "  %s, %s | %s: %s apart", escape(b, strlen(b), name),
                        dtype_name(e->of[0].tensor->type), dtype_name(e->of[1].tensor->type),
                        number_scientific(e->match.relative, 2, apart));
            text_format(
                out,
                isfinite(e->match.largest) ? ", at most %s times what rounding may do\n" : "%s\n",
                isfinite(e->match.largest) ? number_scientific(e->match.largest, 2, far) : "");
        }
    }
}

void comparison_print(text *out, const comparison *c)
{
    text_side(out, c, 0);
    text_side(out, c, 1);
    text_settings(out, c);
    text_counts(out, c);
    text_first(out, c);
    text_coverage(out, c);
    text_weights(out, c);
    text_ops(out, c);
    if (c->found.effect.is_measured || c->found.n_growth > 0) {
        text_string(out, "effect: ");
        say_effect(out, LANG_EN, &c->found);
        text_string(out, "\n");
    }
    text_canaries(out, c);
    text_format(out, "\n%s: %s\n",
                c->verdict == GRETA_OK      ? (c->n_differ > 0 ? "aligned" : "equal")
                : c->verdict == GRETA_FAULT ? "fault"
                                            : "no verdict",
                c->why);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void put_text(text *json, const char *key, const char *value)
{
    json_put_key(json, key);
    json_put_string(json, value, strlen(value));
}

static void put_count(text *json, const char *key, uint64_t value)
{
    json_put_key(json, key);
    json_put_whole(json, (int64_t)value);
}

static void put_open(text *json, const char *key)
{
    json_put_key(json, key);
    text_string(json, "{");
}

static void json_side(text *json, const comparison *c, int which)
{
    const trace *t = c->t[which];
    put_open(json, which == 0 ? "a" : "b");
    put_text(json, "path", t->path);
    put_text(json, "status", t->status);
    put_count(json, "rows", c->pairs.n_row[which]);
    put_open(json, "alone");
    for (int f = 0; f < PAIR_FIELD_COUNT; f++) {
        put_count(json, pair_field_name((pair_field)f), c->n_alone[which][f]);
    }
    text_string(json, "}");
    put_open(json, "configuration");
    for (size_t i = 0; i < N_SETTING; i++) {
        char value[ESCAPED_MAX];
        put_text(json, settings[i].name, setting_value(&settings[i], &t->header, value));
    }
    text_string(json, "}}");
}

static void json_first(text *json, const comparison *c)
{
    const pair_difference *d = &c->difference;
    const row_difference *row = &d->row;
    char number[NUMBER_MAX];
    json_put_key(json, "first_difference");
    if (!c->has_first) {
        text_string(json, "null");
        return;
    }
    text_string(json, "{");
    for (int which = 0; which < 2; which++) {
        const trace_record *r = c->first.record[which];
        put_open(json, which == 0 ? "a" : "b");
        put_count(json, "record", r->n);
        put_text(json, "phase", r->phase == GRETA_PHASE_DECODE ? "decode" : "prefill");
        put_count(json, "pass", (uint64_t)r->pass);
        put_count(json, "row", (uint64_t)r->row);
        text_string(json, "}");
    }
    put_text(json, "stage", stage_name(c->first.record[0]->name));
    json_put_key(json, "layer");
    json_put_whole(json, c->first.record[0]->layer);
    put_count(json, "position", (uint64_t)c->first.record[0]->position);
    put_count(json, "token", (uint64_t)c->first.record[0]->token);
    put_text(json, "what", d->number != NULL ? d->number : d->out < 0 ? "outputs" : "values");
    put_text(json, "inputs", state_name(d->in));
    put_text(json, "weights", state_name(d->weight));
    if (d->out >= 0 && !row->is_shape) {
        put_count(json, "n_compared", (uint64_t)row->n_compared);
        put_count(json, "n_differ", (uint64_t)row->n_differ);
        put_count(json, "n_nonfinite", (uint64_t)row->n_nonfinite);
    }
    if (d->out >= 0 && row->largest >= 0) {
        put_count(json, "largest", (uint64_t)row->largest);
        json_put_key(json, "abs_max");
        text_string(json, number_f64(row->abs_max, number));
    }
    if (d->out >= 0 && row->largest >= 0 && row->has_ulp) {
        put_count(json, "ulp_max", row->ulp_max);
    }
    text_string(json, "}");
}

static void json_ops_put(text *json, const char *key, json_t *value)
{
    char *dump = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_put_key(json, key);
    text_string(json, dump ? dump : "null");
    json->failed = json->failed || !dump;
    free(dump);
    json_decref(value);
}

static void json_view(text *json, const char *key, const weight_view *view)
{
    put_open(json, key);
    put_text(json, "tensor", view->tensor->name);
    put_text(json, "type", dtype_name(view->tensor->type));
    put_count(json, "first_row", (uint64_t)view->first);
    put_count(json, "rows", (uint64_t)view->n);
    text_string(json, "}");
}

static void put_real(text *json, const char *key, double value)
{
    char number[NUMBER_MAX];
    json_put_key(json, key);
    text_string(json, isfinite(value) ? number_f64(value, number) : "null");
}

static void json_weights(text *json, const comparison *c)
{
    json_put_key(json, "weights");
    if (c->model[0] == c->model[1]) {
        text_string(json, "null");
        return;
    }
    text_string(json, "[");
    for (size_t i = 0; i < c->kin.n; i++) {
        const kin_entry *e = &c->kin.entry[i];
        text_string(json, i == 0 ? "{" : ", {");
        put_text(json, "stage", stage_name(e->name));
        json_put_key(json, "layer");
        json_put_whole(json, e->layer);
        json_view(json, "a", &e->of[0]);
        json_view(json, "b", &e->of[1]);
        put_text(json, "relation", weight_relation_name(e->match.relation));
        put_real(json, "largest", e->match.largest);
        put_count(json, "values", (uint64_t)e->match.n);
        put_count(json, "outside", (uint64_t)e->match.n_outside);
        put_real(json, "outside_in_row", e->match.row_share);
        put_count(json, "row", (uint64_t)e->match.row);
        put_count(json, "value", (uint64_t)e->match.at);
        put_real(json, "relative", e->match.relative);
        text_string(json, "}");
    }
    text_string(json, "]");
}

void comparison_print_json(text *json, const comparison *c)
{
    text_string(json, "{");
    put_text(json, "verdict",
             c->verdict == GRETA_OK      ? (c->n_differ > 0 ? "aligned" : "equal")
             : c->verdict == GRETA_FAULT ? "fault"
                                         : "no_verdict");
    put_text(json, "why", c->why);
    put_count(json, "paired", c->pairs.n_pair);
    put_count(json, "equal", c->n_equal);
    put_count(json, "differ", c->n_differ);
    put_count(json, "unmeasured", c->n_unmeasured);
    put_count(json, "operands_differ", c->n_input_only);
    json_first(json, c);
    put_open(json, "stages");
    for (int s = 0; s < STAGE_COUNT; s++) {
        const stage_count *n = &c->stage[s];
        put_open(json, stage_name((stage)s));
        put_count(json, "a", n->row[0]);
        put_count(json, "b", n->row[1]);
        put_count(json, "paired", n->paired);
        put_count(json, "differ", n->differ);
        put_count(json, "unmeasured", n->unmeasured);
        text_string(json, "}");
    }
    text_string(json, "}");
    json_side(json, c, 0);
    json_side(json, c, 1);
    json_weights(json, c);
    json_ops_put(json, "ops", json_ops(&c->found));
    json_ops_put(json, "canaries", json_canaries(&c->canaries));
    json_ops_put(json, "op_canaries",
                 c->found.judged.n_site_judged > 0 ? json_canaries(&c->found.canaries)
                                                   : json_null());
    json_ops_put(json, "judged", json_judged(&c->found.judged));
    json_ops_put(json, "effect", json_effect(&c->found.effect));
    json_ops_put(json, "growth", json_growth(&c->found));
    text_string(json, "}\n");
}
