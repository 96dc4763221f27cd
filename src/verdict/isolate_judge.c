/* isolate_judge.c - two rows of records in, one judged prompt out.
 *
 * First whether they are a pair at all: the same logical token, one configuration, and two paths.
 * Then every stage by its bits, in execution order. Then every norm by the classifier: it needs
 * the replay of a norm only where something differs or the records contradict themselves. Last
 * the instrument: a difference of one ulp, planted in a copy of a recorded row, must be seen by
 * the same comparison.
 *
 * The verdict stands on the first stage that differs. A stage without a record on a side is
 * unmeasured, never equal.
 */
#include "explain/pair.h"
#include "replay/norm_replay.h"
#include "verdict/isolate.h"
#include "verdict/op_canary.h"

#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

isolate_terms isolate_terms_of(greta_model *model, const greta_isolate_options *options)
{
    return (isolate_terms){.model = model,
                           .layers = options->layers ? options->layers : "0",
                           .eps = model ? model->cfg.rms_eps : NAN,
                           .head_dim = model ? model->cfg.head_dim : 0};
}

/* ---- Are they a pair? ------------------------------------------------------------------------ */

static void side_describe(const isolate_side *s, analysis_side *out)
{
    if (!s->trace) {
        return;
    }
    const char *slash = strrchr(s->trace->path, '/');
    out->is_present = true;
    snprintf(out->file, sizeof out->file, "%s", slash ? slash + 1 : s->trace->path);
    snprintf(out->status, sizeof out->status, "%s", s->trace->status);
    out->token = s->any->token;
    out->position = s->any->position;
    out->row = s->any->row;
    out->pass = s->any->pass;
    out->chunk_rows = s->any->chunk_rows;
    out->header = s->trace->header;
    out->header.buffer = NULL;
    out->header.n_buffer = 0;
}

static void mismatch_text(analysis_prompt *out, const char *field, const char *a, const char *b)
{
    if (strcmp(a, b) != 0) {
        GRETA_ASSERT(out->n_mismatch < FINDING_MISMATCH_MAX);
        finding_mismatch *m = &out->mismatch[out->n_mismatch++];
        m->field = field;
        snprintf(m->value[SIDE_A], FINDING_TEXT, "%s", a);
        snprintf(m->value[SIDE_B], FINDING_TEXT, "%s", b);
    }
}

static void mismatch_whole(analysis_prompt *out, const char *field, int64_t a, int64_t b)
{
    char text_a[FINDING_TEXT], text_b[FINDING_TEXT];
    snprintf(text_a, sizeof text_a, "%" PRId64, a);
    snprintf(text_b, sizeof text_b, "%" PRId64, b);
    mismatch_text(out, field, text_a, text_b);
}

static void mismatch_hash(analysis_prompt *out, const char *field, uint64_t a, uint64_t b)
{
    char text_a[FINDING_TEXT], text_b[FINDING_TEXT];
    snprintf(text_a, sizeof text_a, "%016" PRIx64, a);
    snprintf(text_b, sizeof text_b, "%016" PRIx64, b);
    mismatch_text(out, field, text_a, text_b);
}

/* The kernel table and the threads may differ: results do not depend on them, by contract. */
static void mismatches_find(const isolate_side sides[SIDE_COUNT], analysis_prompt *out)
{
    const trace_record *a = sides[SIDE_A].any, *b = sides[SIDE_B].any;
    const trace_header *x = &sides[SIDE_A].trace->header, *y = &sides[SIDE_B].trace->header;
    mismatch_whole(out, "position", a->position, b->position);
    mismatch_whole(out, "token", a->token, b->token);
    mismatch_hash(out, "prefix", a->prefix, b->prefix);
    mismatch_hash(out, "model", x->model_hash, y->model_hash);
    mismatch_whole(out, "arithmetic", x->arithmetic, y->arithmetic);
    mismatch_text(out, "rounding", x->rounding, y->rounding);
    mismatch_text(out, "kv", x->kv, y->kv);
    mismatch_text(out, "act", x->act, y->act);
    mismatch_text(out, "rows of one stage and layer in a pass", sides[SIDE_A].twice ? "2" : "1",
                  sides[SIDE_B].twice ? "2" : "1");
}

/* Sets out->why where there is nothing to compare. */
static void pair_check(const isolate_side sides[SIDE_COUNT], analysis_prompt *out)
{
    if (!sides[SIDE_A].trace || !sides[SIDE_B].trace) {
        out->why = sides[SIDE_A].trace ? REASON_NO_DECODE : REASON_NO_PREFILL;
        out->state = VERDICT_UNMEASURED;
        return;
    }
    mismatches_find(sides, out);
    if (out->n_mismatch > 0) {
        out->why = REASON_MISMATCH;
        out->state = VERDICT_NOT_COMPARABLE;
    } else if (sides[SIDE_A].any->chunk_rows < 2) {
        out->why = REASON_CHUNK_OF_ONE;
        out->state = VERDICT_UNMEASURED;
        out->n_token = out->n_token ? out->n_token : sides[SIDE_A].any->position + 1;
        out->n_chunk = sides[SIDE_A].trace->header.n_chunk;
    }
}

/* ---- Stages ---------------------------------------------------------------------------------- */

static void stage_compare(const trace_record *a, const trace_record *b, stage_line *out)
{
    if (!a || !b) {
        out->state = STAGE_STATE_UNMEASURED;
        return;
    }
    row_difference d;
    row_compare(&a->out[0], &b->out[0], &d);
    out->state = d.state == PAIR_EQUAL        ? STAGE_STATE_EQUAL
                 : d.state == PAIR_UNMEASURED ? STAGE_STATE_UNMEASURED
                                              : STAGE_STATE_DIFFERS;
    out->n = a->out[0].n;
    out->n_compared = a->out[0].n_kept < b->out[0].n_kept ? a->out[0].n_kept : b->out[0].n_kept;
    out->n_differ = d.n_differ;
    out->abs_max = d.abs_max;
    out->has_ulp = d.has_ulp;
    out->ulp_max = d.ulp_max;
}

static void stage_add(const isolate_side sides[SIDE_COUNT], stage name, int32_t layer,
                      analysis_prompt *out)
{
    stage_line *line = &out->stage[out->n_stage];
    *line = (stage_line){.name = name, .layer = layer};
    stage_compare(site_record(&sides[SIDE_A], name, layer),
                  site_record(&sides[SIDE_B], name, layer), line);
    out->n_equal += line->state == STAGE_STATE_EQUAL;
    out->n_differ += line->state == STAGE_STATE_DIFFERS;
    out->n_unmeasured += line->state == STAGE_STATE_UNMEASURED;
    out->n_stage++;
}

static bool has_record(const isolate_side sides[SIDE_COUNT], stage name, int32_t layer)
{
    return site_record(&sides[SIDE_A], name, layer) || site_record(&sides[SIDE_B], name, layer);
}

/* Which stages and which layers occur: a stage that one traced layer has is expected in all of
 * them. */
typedef struct expected {
    bool stage[STAGE_COUNT]; /* in the layers */
    uint8_t *layer;          /* (n_layer) */
    int32_t n_layer;
} expected;

static void expected_find(const isolate_side sides[SIDE_COUNT], expected *e)
{
    for (int32_t layer = 0; layer < e->n_layer; layer++) {
        for (stage s = 0; s < STAGE_COUNT; s++) {
            if (has_record(sides, s, layer)) {
                e->stage[s] = true;
                e->layer[layer] = 1;
            }
        }
    }
}

static void stages_fill(const isolate_side sides[SIDE_COUNT], const expected *e,
                        analysis_prompt *out)
{
    for (stage s = 0; s < STAGE_ATTN_NORM; s++) {
        if (has_record(sides, s, -1)) {
            stage_add(sides, s, -1, out);
        }
    }
    for (int32_t layer = 0; layer < e->n_layer; layer++) {
        for (stage s = 0; s < STAGE_COUNT && e->layer[layer]; s++) {
            if (e->stage[s]) {
                stage_add(sides, s, layer, out);
            }
        }
    }
    for (stage s = STAGE_ATTN_NORM; s < STAGE_COUNT; s++) {
        if (has_record(sides, s, -1)) {
            stage_add(sides, s, -1, out);
        }
    }
}

static greta_status stages_judge(const isolate_side sides[SIDE_COUNT], analysis_prompt *out,
                                 greta_error *err)
{
    int32_t n_layer = sides[SIDE_A].trace->header.n_layer;
    size_t n = ((size_t)n_layer + 1) * STAGE_COUNT;
    expected e = {.n_layer = n_layer, .layer = calloc((size_t)n_layer, 1)};
    out->stage = calloc(n, sizeof *out->stage);
    if (!e.layer || !out->stage) {
        free(e.layer);
        return error_memory(err, "the stages", n * sizeof *out->stage);
    }
    expected_find(sides, &e);
    stages_fill(sides, &e, out);
    free(e.layer);
    for (out->first = 0; out->first < out->n_stage; out->first++) {
        if (out->stage[out->first].state == STAGE_STATE_DIFFERS) {
            break;
        }
    }
    return GRETA_OK;
}

/* ---- Norms ----------------------------------------------------------------------------------- */

static bool is_notable(const finding *f)
{
    switch (f->state) {
    case VERDICT_EQUAL:
        return f->changed_no_bit;
    case VERDICT_INHERITED:
    case VERDICT_UNMEASURED:
    case VERDICT_NOT_COMPARABLE:
        return false;
    default:
        return true;
    }
}

static greta_status norm_replay_sides(norm_case *c, norm_line *line, greta_error *err)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        line->evidence[s] = malloc(sizeof *line->evidence[s]);
        if (!line->evidence[s]) {
            return error_memory(err, "evidence", sizeof *line->evidence[s]);
        }
        GRETA_TRY(norm_replay(&c->operands[s], line->evidence[s], err));
        c->evidence[s] = line->evidence[s];
    }
    return GRETA_OK;
}

/* Judges one norm: without replay where all its bits agree and its records admit nothing wrong. */
static greta_status norm_judge(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                               norm_line *line, greta_error *err)
{
    norm_case c = {.eps = terms->eps, .head_dim = terms->head_dim};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        c.trace[s] = sides[s].trace;
        c.record[s] = site_record(&sides[s], line->name, line->layer);
    }
    norm_case_complete(&c);
    norm_classify(&c, &line->found);
    if (!c.record[SIDE_A] || !c.record[SIDE_B] ||
        (line->found.state == VERDICT_EQUAL && !line->is_chosen)) {
        return GRETA_OK;
    }
    GRETA_TRY(norm_replay_sides(&c, line, err));
    norm_classify(&c, &line->found);
    return GRETA_OK;
}

static void norm_drop(norm_line *line)
{
    free(line->evidence[SIDE_A]);
    free(line->evidence[SIDE_B]);
    *line = (norm_line){0};
}

static bool sides_claim_bits(const trace_header *a, const trace_header *b)
{
    return op_standard_of(a).is_bits && op_standard_of(b).is_bits;
}

/* The classifier of norms asks for bits. Of runs that claim none it gives its numbers; what is to
 * be said of the norm is said by the judge of ops. */
static void norm_leave(norm_line *line)
{
    finding *f = &line->found;
    const norm_numbers numbers = f->numbers;
    bool is_measured = f->state != VERDICT_UNMEASURED && f->state != VERDICT_NOT_COMPARABLE;
    memset(f, 0, sizeof *f);
    f->numbers = numbers;
    f->eps_min = 1;
    f->state = !is_measured              ? VERDICT_UNMEASURED
               : numbers.output_mae == 0 ? VERDICT_EQUAL
                                         : VERDICT_INHERITED;
    snprintf(f->phrase, sizeof f->phrase, "no bits are promised");
}

static bool is_norm(const isolate_side sides[SIDE_COUNT], const stage_line *line)
{
    const trace_record *a = site_record(&sides[SIDE_A], line->name, line->layer);
    const trace_record *b = site_record(&sides[SIDE_B], line->name, line->layer);
    return (a && a->has_norm) || (b && b->has_norm);
}

/* Keeps the chosen norms, the one at the first divergence, and every one with something to tell. */
static greta_status norms_judge(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                                const uint8_t *chosen, analysis_prompt *out, greta_error *err)
{
    size_t n_norm = 1;
    for (size_t i = 0; i < out->n_stage; i++) {
        n_norm += is_norm(sides, &out->stage[i]);
    }
    out->norm = calloc(n_norm, sizeof *out->norm);
    if (!out->norm) {
        return error_memory(err, "the norms", n_norm * sizeof *out->norm);
    }
    for (size_t i = 0; i < out->n_stage; i++) {
        const stage_line *at = &out->stage[i];
        if (!is_norm(sides, at)) {
            continue;
        }
        norm_line *line =
            &out->norm[out->n_norm++]; /* counted at once: then it is freed for sure */
        line->name = at->name;
        line->layer = at->layer;
        line->is_chosen = at->name == STAGE_FFN_NORM && chosen[at->layer];
        GRETA_TRY(norm_judge(sides, terms, line, err));
        if (!sides_claim_bits(&sides[SIDE_A].trace->header, &sides[SIDE_B].trace->header)) {
            norm_leave(line);
        }
        line->is_decisive = i == out->first;
        if (!line->is_decisive && !line->is_chosen && !is_notable(&line->found)) {
            norm_drop(line);
            out->n_norm--;
        }
    }
    return GRETA_OK;
}

static norm_line norm_empty(int32_t layer, verdict_state state)
{
    norm_numbers unknown = {.input_mae = NAN,
                            .weight_mae = NAN,
                            .output_mae = NAN,
                            .eps_match = -1,
                            .sumsq_delta = NAN,
                            .inv_rms_delta = NAN,
                            .input_ptr_match = -1,
                            .input_offset_match = -1,
                            .weight_hash_match = -1};
    return (norm_line){.name = STAGE_FFN_NORM,
                       .layer = layer,
                       .is_chosen = true,
                       .found = {.state = state, .numbers = unknown, .eps_min = 1}};
}

static int by_execution(const void *a, const void *b)
{
    const norm_line *x = a, *y = b;
    int32_t layer_x = x->layer < 0 ? INT32_MAX : x->layer;
    int32_t layer_y = y->layer < 0 ? INT32_MAX : y->layer;
    return layer_x != layer_y ? (layer_x > layer_y) - (layer_x < layer_y)
                              : (x->name > y->name) - (x->name < y->name);
}

static bool has_row(const analysis_prompt *p, int32_t layer)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        if (p->norm[i].is_chosen && p->norm[i].layer == layer) {
            return true;
        }
    }
    return false;
}

/* Compared traces that kept every stage hold no ffn_norm: the model has none (OLMo 2's kind). */
static bool lacks_ffn_norm(const trace *any, const analysis_prompt *p)
{
    for (size_t i = 0; i < p->n_stage; i++) {
        if (p->stage[i].name == STAGE_FFN_NORM) {
            return false;
        }
    }
    return p->n_stage > 0 && strcmp(any->header.selection_stages, "all") == 0;
}

/* An empty row of the first table for each chosen layer that has none: numbers of what is no pair
 * would be read as if it were one. */
static greta_status norms_complete(const uint8_t *chosen, int32_t n_layer, analysis_prompt *out,
                                   greta_error *err)
{
    size_t n = out->n_norm + (size_t)n_layer + 1;
    norm_line *all = realloc(out->norm, n * sizeof *all);
    if (!all) {
        return error_memory(err, "the norms", n * sizeof *all);
    }
    out->norm = all;
    for (int32_t layer = 0; layer < n_layer; layer++) {
        if (chosen[layer] && !has_row(out, layer)) {
            bool is_pair = out->why == REASON_NONE;
            all[out->n_norm++] = norm_empty(layer, is_pair ? VERDICT_UNMEASURED : out->state);
        }
    }
    qsort(all, out->n_norm, sizeof *all, by_execution);
    return GRETA_OK;
}

/* ---- The instrument -------------------------------------------------------------------------- */

/* A stage that is equal and kept as floats on both sides, from a drawn place on; NULL: none. */
static const stage_line *canary_stage(const isolate_side sides[SIDE_COUNT], uint64_t seed,
                                      const analysis_prompt *p)
{
    size_t start = p->n_stage ? (size_t)canary_draw(seed, p->n_stage) : 0;
    for (size_t i = 0; i < p->n_stage; i++) {
        const stage_line *line = &p->stage[(start + i) % p->n_stage];
        const trace_record *b = site_record(&sides[SIDE_B], line->name, line->layer);
        if (line->state == STAGE_STATE_EQUAL && line->n_compared == line->n && line->n > 0 &&
            b->out[0].type == DTYPE_F32 && b->out[0].n_nonfinite == 0) {
            return line;
        }
    }
    return NULL;
}

/* Compares the row with a copy of itself in which one value is 1 ulp larger in magnitude. */
static greta_status canary_run(const isolate_side sides[SIDE_COUNT], analysis_prompt *out,
                               greta_error *err)
{
    uint64_t seed = sides[SIDE_B].any->prefix ^ sides[SIDE_B].trace->header.model_hash;
    const stage_line *line = canary_stage(sides, seed, out);
    if (!line) {
        return GRETA_OK;
    }
    const trace_record *a = site_record(&sides[SIDE_A], line->name, line->layer);
    trace_record b = *site_record(&sides[SIDE_B], line->name, line->layer);
    size_t n = (size_t)line->n, at = (size_t)canary_draw(seed ^ line->name, line->n > 0 ? n : 1);
    uint32_t *values = malloc(n * sizeof *values);
    if (!values) {
        return error_memory(err, "the canary", n * sizeof *values);
    }
    memcpy(values, b.out[0].data, n * sizeof *values);
    values[at]++;
    b.out[0].data = values;
    b.out[0].hash = trace_values_hash(DTYPE_F32, values, line->n);
    stage_line seen = {.name = line->name, .layer = line->layer};
    stage_compare(a, &b, &seen);
    free(values);
    bool is_found = seen.state == STAGE_STATE_DIFFERS && seen.n_differ == 1 && seen.ulp_max <= 1;
    out->canary = (canary){is_found ? CANARY_FOUND : CANARY_MISSED, line->name, line->layer,
                           a->position, (int64_t)at};
    return GRETA_OK;
}

/* ---- The verdict ----------------------------------------------------------------------------- */

static bool is_complete(const analysis_prompt *p)
{
    return strcmp(p->side[SIDE_A].status, "complete") == 0 &&
           strcmp(p->side[SIDE_B].status, "complete") == 0;
}

static void conclude_from(analysis_prompt *p, verdict_state state, cause c)
{
    p->state = state;
    p->cause = c;
}

/* The first op that introduced something decides; without a model, the first norm that differs. */
static void decide(analysis_prompt *p)
{
    size_t first = 0;
    while (first < p->ops.n_op && !p->ops.op[first].is_accused) {
        first++;
    }
    first = first < p->ops.n_op ? first : 0; /* else the first that has something to tell */
    if (p->ops.n_op == 0) {
        return;
    }
    p->ops.op[first].is_decisive = true;
    for (size_t i = 0; i < p->n_norm; i++) {
        p->norm[i].is_decisive =
            p->norm[i].name == p->ops.op[first].name && p->norm[i].layer == p->ops.op[first].layer;
    }
}

/* The bits say whether; the finding at the first fault says why. Where the traces do not claim our
 * bits, only an op that introduced something is a fault. */
static void conclude_measured(analysis_prompt *p)
{
    decide(p);
    const norm_line *norm = analysis_decisive(p);
    const op_line *line = analysis_decisive_op(p);
    bool is_bounded = !sides_claim_bits(&p->side[SIDE_A].header, &p->side[SIDE_B].header);
    bool is_told = line && (line->is_policy || line->is_rounding);
    p->verdict = !is_bounded || (line && line->is_accused) ? GRETA_FAULT
                 : is_told                                 ? GRETA_OK
                                                           : GRETA_NO_VERDICT;
    if (line) {
        conclude_from(p, line->found.state, line->found.cause);
    } else if (norm) {
        conclude_from(p, norm->found.state, norm->found.cause);
    } else {
        conclude_from(p, VERDICT_INCONCLUSIVE, CAUSE_NONE);
    }
    if (p->state == VERDICT_INSTRUMENT_SUSPECT) {
        p->verdict = GRETA_NO_VERDICT;
    }
}

/* All measured stages are equal: a norm can still be wrong on both sides, or contradict itself. */
static void conclude_equal(analysis_prompt *p)
{
    p->verdict = GRETA_OK;
    conclude_from(p, VERDICT_EQUAL, CAUSE_NONE);
    for (size_t i = 0; i < p->ops.n_op && p->verdict == GRETA_OK; i++) {
        const finding *f = &p->ops.op[i].found;
        if (p->ops.op[i].is_accused || f->state == VERDICT_INSTRUMENT_SUSPECT) {
            p->verdict = (greta_status)verdict_exit_code(f->state, f->cause);
            conclude_from(p, f->state, f->cause);
            p->ops.op[i].is_decisive = true;
        }
    }
    for (size_t i = 0; i < p->n_norm && p->verdict == GRETA_OK; i++) {
        const finding *f = &p->norm[i].found;
        if (is_notable(f) && f->state != VERDICT_EQUAL) {
            p->verdict = (greta_status)verdict_exit_code(f->state, f->cause);
            conclude_from(p, f->state, f->cause);
            p->norm[i].is_decisive = true;
        }
    }
    if (p->verdict != GRETA_FAULT && (p->n_unmeasured > 0 || !is_complete(p))) {
        p->verdict = GRETA_NO_VERDICT;
        p->why = p->n_unmeasured > 0 ? REASON_UNMEASURED : REASON_INCOMPLETE;
        conclude_from(p, VERDICT_UNMEASURED, CAUSE_NONE);
    }
}

/* An op that gives another row when it is run again: a race, or memory that was not set. What one
 * run shows of it confirms no cause: the next run shows something else. */
static void conclude_unrepeated(analysis_prompt *p)
{
    for (size_t i = 0; i < p->ops.n_op; i++) {
        op_line *line = &p->ops.op[i];
        finding *f = &line->found;
        if (line->is_accused && line->name == p->unrepeated.name &&
            line->layer == p->unrepeated.layer) {
            f->state = VERDICT_SUSPECTED;
            f->cause = CAUSE_KERNEL_MATH;
            f->fit_causes = 1u << CAUSE_KERNEL_MATH;
            snprintf(f->phrase, sizeof f->phrase, "%s",
                     "it does not repeat: a race, or memory that was not set");
        }
    }
}

static void conclude(analysis_prompt *p)
{
    p->verdict = GRETA_NO_VERDICT;
    if (p->why != REASON_NONE) {
        return;
    }
    bool is_untold = p->unrepeated.is_found && p->first == p->n_stage;
    bool is_missed =
        p->canary.state == CANARY_MISSED || canaries_missed(&p->ops.canaries) != STAGE_NONE;
    if (p->tracing == TRACING_OTHER_LOGITS || is_untold || is_missed) {
        p->why = is_missed ? REASON_CANARY : REASON_TRACING;
        conclude_from(p, VERDICT_INSTRUMENT_SUSPECT, CAUSE_NONE);
    } else if (p->first < p->n_stage) {
        if (p->unrepeated.is_found) {
            conclude_unrepeated(p);
        }
        conclude_measured(p);
    } else {
        conclude_equal(p);
    }
}

static greta_status judge_pair(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                               const uint8_t *chosen, analysis_prompt *out, greta_error *err)
{
    pair_check(sides, out);
    if (out->why == REASON_NONE) {
        GRETA_TRY(stages_judge(sides, out, err));
        GRETA_TRY(norms_judge(sides, terms, chosen, out, err));
        GRETA_TRY(isolate_judge_ops(sides, terms, out, err));
        GRETA_TRY(canary_run(sides, out, err));
    }
    conclude(out);
    return GRETA_OK;
}

static greta_status layers_parse(const isolate_terms *terms, int32_t n_layer, uint8_t **chosen,
                                 greta_error *err)
{
    *chosen = calloc((size_t)n_layer + 1, 1);
    if (!*chosen) {
        return error_memory(err, "layers", (uint64_t)n_layer);
    }
    return ranges_parse("--layers", terms->layers, *chosen, (size_t)n_layer, err);
}

greta_status isolate_judge(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                           analysis_prompt *out, greta_error *err)
{
    uint8_t *chosen = NULL;
    const trace *any = sides[SIDE_A].trace ? sides[SIDE_A].trace : sides[SIDE_B].trace;
    int32_t n_layer = any ? any->header.n_layer : 0;
    greta_status status = any ? layers_parse(terms, n_layer, &chosen, err) : GRETA_OK;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        side_describe(&sides[s], &out->side[s]);
    }
    if (status == GRETA_OK) {
        status = judge_pair(sides, terms, chosen, out, err);
    }
    if (status == GRETA_OK && chosen && !lacks_ffn_norm(any, out)) {
        status = norms_complete(chosen, n_layer, out, err);
    }
    free(chosen);
    return status;
}

greta_status isolate_judge_none(const isolate_terms *terms, int32_t n_layer, analysis_prompt *out,
                                greta_error *err)
{
    uint8_t *chosen;
    out->state = VERDICT_UNMEASURED;
    out->verdict = GRETA_NO_VERDICT;
    greta_status status = layers_parse(terms, n_layer, &chosen, err);
    if (status == GRETA_OK) {
        status = norms_complete(chosen, n_layer, out, err);
    }
    free(chosen);
    return status;
}
