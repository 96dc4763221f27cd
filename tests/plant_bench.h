/* plant_bench.h - many planted faults against one prompt, cheaply.
 *
 * One session prefills the prompt once, traced: prefill_last. For each plant the last rows are
 * dropped, prefilled again (a pass of BENCH_ROWS rows, for plants that read what it left behind),
 * and the last token is decoded, traced. The pair then goes through the steps of `greta isolate`:
 * load, judge.
 */
#ifndef GRETA_TESTS_PLANT_BENCH_H
#define GRETA_TESTS_PLANT_BENCH_H

#include "verdict/isolate.h"

#include <stdio.h>
#include <string.h>

#define BENCH_ROWS 2
#define BENCH_PATH 600

typedef struct plant_bench {
    isolate_run run;
    greta_isolate_options options;
    greta_prompt prompt;
    greta_session *session;
    trace *prefill;
    int32_t first; /* of the rows that are prefilled again */
    char path[2][BENCH_PATH];
} plant_bench;

/* Is it one that the classifier of norms is asked about? */
static inline bool bench_takes(const fault_kind *kind)
{
    return strncmp(kind->name, "ffn_norm-", strlen("ffn_norm-")) == 0;
}

/* `options` needs session and out; the prompt has BENCH_ROWS + 2 tokens or more. */
static inline greta_status bench_open(plant_bench *b, greta_model *model,
                                      const greta_prompt *prompt,
                                      const greta_isolate_options *options, greta_error *err)
{
    *b = (plant_bench){
        .options = *options, .prompt = *prompt, .first = (int32_t)prompt->n - 1 - BENCH_ROWS};
    b->options.overwrite = 1;
    b->run = (isolate_run){.model = model, .options = &b->options};
    snprintf(b->path[0], BENCH_PATH, "%s/%s.prefill.jsonl", options->out, prompt->id);
    snprintf(b->path[1], BENCH_PATH, "%s/%s.decode.jsonl", options->out, prompt->id);
    greta_trace_options traced = {.size = sizeof traced,
                                  .path = b->path[0],
                                  .tokens = "last,cache",
                                  .sample = -1,
                                  .prompt_id = prompt->id,
                                  .overwrite = 1};
    GRETA_TRY(greta_session_new(model, &options->session, &b->session, err));
    GRETA_TRY(greta_trace_begin(b->session, &traced, err));
    GRETA_TRY(greta_session_feed(b->session, prompt->token, prompt->n, 0, err));
    GRETA_TRY(greta_trace_end(b->session, "complete", err));
    return trace_open(b->path[0], &b->prefill, err);
}

static inline void bench_close(plant_bench *b)
{
    trace_close(b->prefill);
    greta_session_free(b->session);
}

static inline greta_status bench_judge(plant_bench *b, analysis_prompt *out, greta_error *err)
{
    isolate_terms terms = isolate_terms_of(b->run.model, &b->options);
    isolate_side sides[SIDE_COUNT];
    trace *both[2] = {b->prefill, NULL};
    trace_set set = {both, 2};
    GRETA_TRY(trace_open(b->path[1], &both[1], err));
    greta_status status = isolate_sides_choose(&set, sides, err);
    if (status == GRETA_OK) {
        status = isolate_judge(sides, &terms, out, err);
        isolate_sides_free(sides);
    }
    trace_close(both[1]);
    return status;
}

/* Plants `kind` in `layer` (NULL: nothing; then this must come before any plant) and judges the
 * pair. *out is zeroed first; free it with analysis_prompt_free. */
static inline greta_status bench_run(plant_bench *b, const fault_kind *kind, int32_t layer,
                                     analysis_prompt *out, greta_error *err)
{
    fault_planted *planted;
    *out = (analysis_prompt){0};
    b->run.order = fault_order_of(kind, layer);
    GRETA_TRY(isolate_plant(&b->run, b->session, -1, &planted, err));
    isolate_decode decode = {b->session, &b->prompt, b->first, planted, b->path[1]};
    greta_status status = isolate_decode_trace(&b->run, &decode, err);
    if (planted && session_override_set(b->session, NULL, err) != GRETA_OK) {
        status = GRETA_BUG;
    }
    fault_planted_free(planted);
    return status == GRETA_OK ? bench_judge(b, out, err) : status;
}

/* ---- What came of a plant -------------------------------------------------------------------- */

typedef enum plant_outcome {
    PLANT_NAMED,    /* CONFIRMED, the right bucket, at the right op */
    PLANT_NO_BIT,   /* the op's output has the healthy bits: apart */
    PLANT_ROUNDING, /* another order of summation gives the same bits: apart */
    PLANT_MISSED,
} plant_outcome;

static inline const char *plant_outcome_name(plant_outcome outcome)
{
    static const char *const name[] = {"named", "no bit", "rounding", "missed"};
    return name[outcome];
}

/* Where a plant of bucket A makes ffn_norm read. */
static inline bool bench_source_is_right(const plant_bench *b, const fault_kind *kind,
                                         int32_t layer, const finding_source *s)
{
    int32_t last = (int32_t)b->prompt.n - 1, position = last, from = layer;
    stage name = STAGE_X_AFTER_ATTN;
    if (strstr(kind->name, "previous-position")) {
        position = last - 1;
    } else if (strstr(kind->name, "chunk-row-0")) {
        position = b->first;
    } else if (strstr(kind->name, "layer-before")) {
        from = layer - 1;
    } else {
        name = layer > 0 ? STAGE_X_AFTER_MLP : STAGE_EMBED;
        from = layer - 1;
    }
    return s->is_found && s->name == name && s->layer == from && s->position == position;
}

static inline plant_outcome bench_outcome(const plant_bench *b, const fault_kind *kind,
                                          int32_t layer, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    if (p->n_differ == 0 && p->verdict == GRETA_OK) {
        return PLANT_NO_BIT;
    }
    if (!norm || norm->name != kind->stage || norm->layer != layer || p->verdict != GRETA_FAULT) {
        return PLANT_MISSED;
    }
    const finding *f = &norm->found;
    if (f->fit_causes & (1u << CAUSE_ROUNDING)) {
        return PLANT_ROUNDING;
    }
    bool is_right =
        f->state == VERDICT_CONFIRMED && f->cause == kind->cause && f->sides == SIDES_B &&
        (kind->cause != CAUSE_NORM_STATS || f->is_hidden == kind->is_hidden) &&
        (kind->cause != CAUSE_INPUT_SELECTION || bench_source_is_right(b, kind, layer, &f->source));
    return is_right ? PLANT_NAMED : PLANT_MISSED;
}

#endif
