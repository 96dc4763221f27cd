/* compare.c - any two traces, record by record: are they bit-equal, and if not, where first.
 *
 * What this can say without a model is narrow, and it says no more. Equal bits need no explanation.
 * Differing bits are a fault where both headers promise the same arithmetic on the same weights;
 * where they do not, they are shown without a verdict. Which side is wrong, and why, is isolate's
 * question.
 *
 * A comparison can be empty without looking so. Refused as "nothing was compared": a trace against
 * itself, two runs of one configuration with equal bodies (nothing but chance could have differed),
 * other architectures, no common key. Rows of other tokens and keys that stand twice in a pass are
 * not comparable, so traces that hold some are at most NO_VERDICT. Rows that only one side selected
 * are shown as not measured and spoil nothing.
 *
 * Each trace may have a model of its own: one set of weights in two types. Then they must agree in
 * every number of their configurations, every pair of tensors is looked at (op_kin.h), and what the
 * types make of an op is policy. Weights that no rounding explains are a finding of their own.
 *
 * All findings are collected in one struct (compare.h), which compare_print.c prints.
 */
#include "verdict/compare.h"
#include "base/threads.h"
#include "report/report.h"
#include "verdict/op_canary.h"
#include "verdict/op_sites.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Counting -------------------------------------------------------------------------------- */

/* A record that stands for another one in a pair: a canary. */
typedef struct planted_pair {
    size_t pair;
    altered_record copy; /* of the record of B */
} planted_pair;

static void count_one(comparison *c, const pair *p, const pair_difference *d)
{
    stage_count *count = &c->stage[p->record[0]->name];
    if (d->state == PAIR_DIFFERS) {
        count->differ++;
        c->n_differ++;
    } else if (d->state == PAIR_UNMEASURED) {
        count->unmeasured++;
        c->n_unmeasured++;
    } else {
        c->n_equal++;
        c->n_input_only += d->in == PAIR_DIFFERS || d->weight == PAIR_DIFFERS;
    }
}

/* The canary that was planted in pair i; NULL: none. */
static const planted_pair *planted_at(const planted_pair planted[STAGE_COUNT], size_t i)
{
    for (int s = 0; planted && s < STAGE_COUNT; s++) {
        if (planted[s].copy.record.n_out > 0 && planted[s].pair == i) {
            return &planted[s];
        }
    }
    return NULL;
}

/* `planted` NULL: the traces as they are. */
static void count_pairs(comparison *c, const planted_pair *planted)
{
    for (size_t i = 0; i < c->pairs.n_pair; i++) {
        const planted_pair *wrong = planted_at(planted, i);
        pair_difference difference;
        pair_room room;
        const trace_head a = trace_head_of(c->t[0], c->pairs.pair[i].row[0]);
        const trace_head b = wrong ? trace_head_new(&wrong->copy.record)
                                   : trace_head_of(c->t[1], c->pairs.pair[i].row[1]);
        c->stage[a.name].paired++;
        if (pair_is_equal(&a, &b)) {
            c->n_equal++;
            continue;
        }
        pair p = pair_open(&c->pairs, i, &room);
        p.record[1] = wrong ? &wrong->copy.record : p.record[1];
        pair_compare(&p, &difference);
        count_one(c, &p, &difference);
        if (difference.state == PAIR_DIFFERS && !c->has_first) {
            c->has_first = true;
            c->first = pair_open(&c->pairs, i, &c->first_room);
            c->difference = difference;
        }
    }
}

static void count_rows(comparison *c)
{
    for (int which = 0; which < 2; which++) {
        for (size_t i = 0; i < c->t[which]->n_record; i++) {
            const trace_head head = trace_head_of(c->t[which], i);
            c->stage[head.name].row[which] += head.kind == TRACE_ROW;
        }
        for (size_t i = 0; i < c->pairs.n_alone[which]; i++) {
            c->n_alone[which][c->pairs.alone[which][i].field]++;
        }
    }
}

/* ---- Canaries -------------------------------------------------------------------------------- */

/* One wrong value in a copy of one equal record of each stage. */
static greta_status canaries_plant(comparison *c, planted_pair planted[STAGE_COUNT],
                                   greta_error *err)
{
    const uint64_t seed = c->t[1]->body_sum ^ c->t[1]->header.model_hash;
    const size_t n = c->pairs.n_pair, start = (size_t)canary_draw(seed, n);
    for (size_t k = 0; k < n; k++) {
        const size_t i = (start + k) % n;
        const stage name = (stage)trace_head_of(c->t[1], c->pairs.pair[i].row[1]).name;
        canary *at = &c->canaries.of[name];
        pair_difference difference;
        pair_room room;
        c->canaries.is_recorded[name] = true;
        if (at->state != CANARY_ABSENT) {
            continue;
        }
        pair p = pair_open(&c->pairs, i, &room);
        pair_compare(&p, &difference);
        if (difference.state == PAIR_EQUAL) {
            const trace_record *of = p.record[1];
            altered_record *copy = &planted[name].copy;
            GRETA_TRY(altered_record_new(of, seed ^ (uint64_t)name, copy, err));
            if (!copy->is_altered) {
                altered_record_free(copy);
                continue;
            }
            planted[name].pair = i;
            *at = (canary){CANARY_MISSED, name, of->layer, of->position, copy->index};
        }
    }
    return GRETA_OK;
}

/* The comparison is run once more, over the planted pairs: each stage with a canary must count one
 * difference more. */
static greta_status canaries_run(comparison *c, greta_error *err)
{
    planted_pair *planted = calloc(STAGE_COUNT, sizeof *planted);
    comparison *trial = calloc(1, sizeof *trial);
    greta_status status =
        planted && trial ? GRETA_OK : error_memory(err, "canaries", sizeof *trial);
    if (status == GRETA_OK) {
        status = canaries_plant(c, planted, err);
    }
    if (status == GRETA_OK) {
        trial->t[0] = c->t[0];
        trial->t[1] = c->t[1];
        trial->pairs = c->pairs;
        count_pairs(trial, planted);
    }
    for (stage s = 0; s < STAGE_COUNT; s++) {
        canary *at = &c->canaries.of[s];
        if (status == GRETA_OK && trial->stage[s].differ == c->stage[s].differ + 1) {
            at->state = CANARY_FOUND;
        }
        if (planted) {
            altered_record_free(&planted[s].copy);
        }
    }
    free(planted);
    free(trial);
    return status;
}

/* ---- Verdict --------------------------------------------------------------------------------- */

static void decide(comparison *c, greta_status verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void decide(comparison *c, greta_status verdict, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->why, sizeof c->why, format, args);
    va_end(args);
    c->verdict = verdict;
}

/* The field that most rows without a partner differ in. */
static pair_field field_of_most(const comparison *c)
{
    pair_field most = PAIR_STAGE;
    for (int f = 0; f < PAIR_FIELD_COUNT; f++) {
        if (c->n_alone[0][f] + c->n_alone[1][f] > c->n_alone[0][most] + c->n_alone[1][most]) {
            most = (pair_field)f;
        }
    }
    return most;
}

/* Whether the comparison is empty, and why. */
static bool judge_empty(comparison *c)
{
    const trace *a = c->t[0], *b = c->t[1];
    const setting *shape = setting_differs(c, IS_SHAPE);
    bool is_same_body = a->n_record == b->n_record && a->body_sum == b->body_sum;
    if (is_same_body && a->header_sum == b->header_sum) {
        decide(c, GRETA_NO_VERDICT, "nothing was compared: both are the same trace");
    } else if (shape != NULL) {
        char value[2][ESCAPED_MAX];
        decide(c, GRETA_NO_VERDICT, "nothing was compared: %s is %.60s and %.60s",
               setting_name(shape), setting_value(shape, &a->header, value[0]),
               setting_value(shape, &b->header, value[1]));
    } else if (c->pairs.n_row[0] == 0 || c->pairs.n_row[1] == 0) {
        decide(c, GRETA_NO_VERDICT, "nothing was compared: %s has no rows",
               c->pairs.n_row[0] == 0 ? "A" : "B");
    } else if (c->pairs.n_pair == 0) {
        pair_field most = field_of_most(c);
        decide(c, GRETA_NO_VERDICT,
               "nothing was compared: no row has a partner, most for their %s%s",
               pair_field_name(most), most == PAIR_PREFIX ? " (the prompts are other tokens)" : "");
    } else if (is_same_body && setting_differs(c, IS_RUN) == NULL) {
        decide(c, GRETA_NO_VERDICT,
               "nothing was compared: two runs of one configuration, equal to the last bit");
    } else {
        return false;
    }
    return true;
}

/* False: nothing was compared. */
static bool judge(comparison *c)
{
    const setting *broken = setting_differs(c, IS_PROMISE);
    size_t n_prefix = c->n_alone[0][PAIR_PREFIX] + c->n_alone[1][PAIR_PREFIX];
    size_t n_twice = c->n_alone[0][PAIR_PASS] + c->n_alone[1][PAIR_PASS];
    if (judge_empty(c)) {
        return false;
    }
    if (c->n_differ > 0 && broken == NULL && c->t[0]->header.model_hash != 0) {
        decide(c, GRETA_FAULT, "%zu of %zu pairs differ where equal bits are promised", c->n_differ,
               c->pairs.n_pair);
    } else if (c->n_differ > 0) {
        decide(c, GRETA_NO_VERDICT,
               "%zu of %zu pairs differ, and nothing promises equal bits (%s differs)", c->n_differ,
               c->pairs.n_pair, broken == NULL ? "an unknown model" : setting_name(broken));
    } else if (c->n_unmeasured > 0) {
        decide(c, GRETA_NO_VERDICT, "%zu of %zu pairs were not measured on both sides",
               c->n_unmeasured, c->pairs.n_pair);
    } else if (n_prefix > 0) {
        decide(c, GRETA_NO_VERDICT,
               "the %zu pairs are equal, but %zu rows are of other tokens (prefix)",
               c->pairs.n_pair, n_prefix);
    } else if (n_twice > 0) {
        decide(c, GRETA_NO_VERDICT,
               "the %zu pairs are equal, but %zu rows have a key that stands twice in a pass",
               c->pairs.n_pair, n_twice);
    } else {
        decide(c, GRETA_OK, "all %zu pairs are equal, bit for bit", c->pairs.n_pair);
    }
    return true;
}

/* ---- The call -------------------------------------------------------------------------------- */

/* The stages that either trace has rows of: of others no weights are read. */
static greta_status kin_take(comparison *c, const greta_watch *watch, greta_error *err)
{
    const struct greta_model *const model[SIDE_COUNT] = {c->model[0], c->model[1]};
    const trace_header *const header[SIDE_COUNT] = {&c->t[0]->header, &c->t[1]->header};
    bool wanted[STAGE_COUNT];
    for (int s = 0; s < STAGE_COUNT; s++) {
        wanted[s] = c->stage[s].row[0] + c->stage[s].row[1] > 0;
    }
    return op_kin_new(model, header, wanted, watch, &c->kin, err);
}

/* Whether the models are those of the traces, and one model; of two the weights are compared. */
static greta_status judge_models(comparison *c, const greta_watch *watch, bool *is_fit,
                                 greta_error *err)
{
    char what[MODEL_DIFFERENCE_MAX];
    *is_fit = false;
    for (int s = 0; s < 2; s++) {
        if (c->t[s]->header.model_hash != model_file_hash(c->model[s])) {
            decide(c, GRETA_NO_VERDICT, "%c is of another model than the one that was given",
                   s == 0 ? 'A' : 'B');
            return GRETA_OK;
        }
    }
    if (c->model[0] != c->model[1] && model_differs(c->model[0], c->model[1], what)) {
        decide(c, GRETA_NO_VERDICT, "the two are not one model: %s", what);
        return GRETA_OK;
    }
    if (c->model[0] != c->model[1]) {
        GRETA_TRY(kin_take(c, watch, err));
    }
    *is_fit = c->kin.mismatch[0] == '\0';
    if (!*is_fit) {
        decide(c, GRETA_NO_VERDICT, "the two are not one model: %s", c->kin.mismatch);
    }
    return GRETA_OK;
}

/* The first op whose difference is policy; NULL: none is. */
static const op_line *first_policy(const op_findings *f)
{
    for (size_t i = 0; i < f->n_op; i++) {
        if (f->op[i].is_policy) {
            return &f->op[i];
        }
    }
    return NULL;
}

/* No run introduced anything, and what differs is policy, rounding, or both. */
static void decide_benign(comparison *c)
{
    const op_coverage *judged = &c->found.judged;
    const op_line *policy = first_policy(&c->found);
    const char *of = judged->n_rounding == 0 ? "policy"
                     : judged->n_policy == 0 ? "rounding"
                                             : "policy and rounding";
    char phrase[PHRASE_MAX], searched[80] = "";
    if (c->model[0] == c->model[1] || !policy) {
        decide(c, GRETA_OK,
               "no run introduced anything: what %zu pairs differ in is %s, and inherited",
               c->n_differ, of);
        return;
    }
    if (c->kin.n_of[WEIGHTS_SEARCHED] > 0) {
        snprintf(searched, sizeof searched, "; %zu tensors are not all rounded to nearest",
                 c->kin.n_of[WEIGHTS_SEARCHED]);
    }
    decide(c, GRETA_OK,
           "no run introduced anything: what %zu pairs differ in is %s, and inherited, first in "
           "%s (%.100s)%s",
           c->n_differ, of, stage_name(policy->name),
           say_phrase_of(LANG_EN, NAMES_COMPARE, policy->found.phrase, phrase), searched);
}

/* With the model the ops are judged, and the verdict stands on them. */
static greta_status judge_ops(comparison *c, const greta_watch *watch, greta_error *err)
{
    bool is_fit;
    GRETA_TRY(judge_models(c, watch, &is_fit, err));
    if (!is_fit) {
        return GRETA_OK;
    }
    const sites_sides sides = {.model = {c->model[0], c->model[1]},
                               .t = {c->t[0], c->t[1]},
                               .pairs = &c->pairs,
                               .kin = c->model[0] != c->model[1] ? &c->kin : NULL};
    GRETA_TRY(op_sites_compare(&sides, watch, &c->found, err));
    const op_line *first = op_findings_first(&c->found);
    const op_coverage *judged = &c->found.judged;
    if (op_findings_suspect(&c->found) && !first) {
        decide(c, GRETA_NO_VERDICT, "records contradict themselves");
    } else if (first) {
        text said = {0};
        say_op(&said, LANG_EN, first);
        char layer[24] = "";
        if (first->layer >= 0) {
            snprintf(layer, sizeof layer, "layer %d, ", (int)first->layer);
        }
        decide(c, GRETA_FAULT, "%.200s: %sposition %d; %s, %s", said.failed ? "" : said.data, layer,
               first->position, cause_name(first->found.cause),
               verdict_state_name(first->found.state));
        text_free(&said);
    } else if (judged->n_unmeasured > 0 || c->n_unmeasured > 0) {
        decide(c, GRETA_NO_VERDICT, "%d recorded ops could not be replayed", judged->n_unmeasured);
    } else if (c->n_differ > 0 && judged->n_policy + judged->n_rounding > 0) {
        decide_benign(c);
    } else if (c->n_differ > 0) {
        decide(c, GRETA_NO_VERDICT,
               "%zu pairs differ, and no recorded op introduced it: it comes from what was not "
               "recorded",
               c->n_differ);
    }
    return GRETA_OK;
}

/* A comparison that misses what was planted says nothing, whatever it found. */
static void judge_canaries(comparison *c)
{
    const stage rows = canaries_missed(&c->canaries), ops = canaries_missed(&c->found.canaries);
    if (rows != STAGE_NONE || ops != STAGE_NONE) {
        decide(c, GRETA_NO_VERDICT, "%s missed its canary in %s",
               rows != STAGE_NONE ? "the comparison" : "the judge of ops",
               stage_name(rows != STAGE_NONE ? rows : ops));
    }
}

typedef struct opening {
    const char *const *path;
    comparison *c;
    const greta_watch *watch;
    greta_status status[2];
    greta_error err[2];
} opening;

static void open_one(void *user, int32_t thread, int32_t n_thread)
{
    opening *o = user;
    for (int32_t i = thread; i < 2; i += n_thread) {
        o->status[i] =
            trace_open_heads(o->path[i], i == 0 ? o->watch : NULL, &o->c->t[i], &o->err[i]);
    }
}

/* Each trace is read by a thread of its own. */
static greta_status both_open(const char *const path[2], comparison *c, const greta_watch *watch,
                              greta_error *err)
{
    opening o = {.path = path, .c = c, .watch = watch};
    thread_pool *pool = NULL;
    GRETA_TRY(thread_pool_new(2, &pool, err));
    thread_pool_run(pool, open_one, &o);
    thread_pool_free(pool);
    for (int i = 0; i < 2; i++) {
        if (o.status[i] != GRETA_OK) {
            *err = o.err[i];
            return o.status[i];
        }
    }
    return GRETA_OK;
}

static greta_status compare(comparison *c, const char *const path[2], const greta_watch *watch,
                            greta_error *err)
{
    GRETA_TRY(both_open(path, c, watch, err));
    GRETA_TRY(pairing_new(c->t[0], c->t[1], &c->pairs, err));
    count_rows(c);
    count_pairs(c, NULL);
    GRETA_TRY(canaries_run(c, err));
    if (judge(c) && c->model[0] && c->model[1]) {
        GRETA_TRY(judge_ops(c, watch, err));
    }
    judge_canaries(c);
    GRETA_TRY(trace_check(c->t[0], err));
    return trace_check(c->t[1], err);
}

greta_status greta_compare(greta_model *model, const char *path_a, const char *path_b,
                           const greta_watch *watch, int json, char **out, greta_status *verdict,
                           greta_error *err)
{
    const greta_traced traced[2] = {{path_a, model}, {path_b, model}};
    return greta_compare_models(traced, watch, json, out, verdict, err);
}

greta_status greta_compare_models(const greta_traced traced[2], const greta_watch *watch, int json,
                                  char **out, greta_status *verdict, greta_error *err)
{
    const char *const path[2] = {traced[0].path, traced[1].path};
    text printed = {0};
    *out = NULL;
    *verdict = GRETA_OK;
    comparison *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return error_memory(err, "comparison", sizeof *c);
    }
    c->model[0] = traced[0].model;
    c->model[1] = traced[1].model;
    greta_status status = compare(c, path, watch, err);
    if (status == GRETA_OK) {
        (json ? comparison_print_json : comparison_print)(&printed, c);
        status = text_take(&printed, out, err);
        *verdict = status == GRETA_OK ? c->verdict : GRETA_OK;
    }
    op_findings_free(&c->found);
    op_kin_free(&c->kin);
    pairing_free(&c->pairs);
    trace_close(c->t[0]);
    trace_close(c->t[1]);
    free(c);
    return status;
}
