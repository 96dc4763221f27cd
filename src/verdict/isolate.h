/* isolate.h - the steps of `greta isolate`, each usable alone (tests/plants_tool.c runs hundreds of
 * pairs with them):
 *
 *     record   run a prompt twice and write its two traces      isolate_record.c
 *     load     read traces, choose prefill_last and decode0     isolate_load.c
 *     judge    compare, replay, classify: an analysis_prompt    isolate_judge.c
 *     report   sentences, tables, files                         report/, isolate.c
 *
 * What was planted is known to the first step alone. The others see traces.
 */
#ifndef GRETA_VERDICT_ISOLATE_H
#define GRETA_VERDICT_ISOLATE_H

#include "engine/session.h"
#include "explain/catalog.h"
#include "fault/fault.h"
#include "report/analysis.h"

/* ---- Record ---------------------------------------------------------------------------------- */

/* What all prompts of one command share. */
typedef struct isolate_run {
    greta_model *model;
    const greta_isolate_options *options;
    fault_order order; /* n 0: no fault; stages and layers resolved */
} isolate_run;

/* Resolves faults and layers. GRETA_USAGE for what is not in the catalogue or does not fit the
 * model. */
greta_status isolate_run_init(greta_model *model, const greta_isolate_options *options,
                              isolate_run *run, greta_error *err);

#define ISOLATE_TRACES_MAX 2

/* The trace files of a prompt: <out>/<id>.prefill.jsonl and .decode.jsonl, or .e0.jsonl.
 * malloc'd. */
typedef struct isolate_files {
    char *path[ISOLATE_TRACES_MAX];
    size_t n;
} isolate_files;

void isolate_files_free(isolate_files *files);

/* How decode0 was reached, so that it can be reached again. */
typedef struct isolate_recording {
    greta_session *session;
    const greta_prompt *prompt;
    fault_planted *planted; /* NULL: none */
    fault_tokens tokens;
    greta_prompt edited;    /* of them */
    size_t n_prefill;       /* tokens prefilled before it */
    int32_t token, position;
    bool repeats;           /* decoded again in this session it gives the same logits */
} isolate_recording;

void isolate_recording_free(isolate_recording *d); /* a zeroed one is fine */

/* Runs the prompt on both paths. out->why is set, and nothing is recorded, where the two paths
 * would be one; else files says what was written, and out->tracing whether tracing changed the
 * logits. *decoded is what decode0 can be run with again; `prompt` must outlive it. */
greta_status isolate_record(const isolate_run *run, const greta_prompt *prompt,
                            isolate_files *files, isolate_recording *decoded,
                            analysis_prompt *out, greta_error *err);
/* Decodes the token again, without a trace; what every op wrote. */
greta_status isolate_decode_again(const isolate_recording *d, greta_capture **out,
                                  greta_error *err);

/* ---- Patch ----------------------------------------------------------------------------------- */

/* Every fault of decode0 that was found is put right in the engine (isolate_patch.c), one after the
 * other, and the token decoded again: line->patch.run. A difference that no fault explains takes
 * CONFIRMED away. */
greta_status isolate_patch(const isolate_recording *d, const site *prefill, analysis_prompt *out,
                           greta_error *err);

/* The second half of E1, for callers that keep a session: `session` holds tokens 0..first-1;
 * prefills first..n-2 and decodes token n-1, traced to `path`. `planted` may be NULL. */
typedef struct isolate_decode {
    greta_session *session;
    const greta_prompt *prompt;
    int32_t first;
    const fault_planted *planted;
    const char *path;
} isolate_decode;

greta_status isolate_decode_trace(const isolate_run *run, const isolate_decode *decode,
                                  greta_error *err);
/* Plants run->order for a session; `previous_row` as in fault_site. *out is NULL without a fault,
 * and where tokens are all it changes. */
greta_status isolate_plant(const isolate_run *run, const greta_session *session,
                           int32_t previous_row, fault_planted **out, greta_error *err);

/* ---- Load ------------------------------------------------------------------------------------ */

typedef struct trace_set {
    trace **item; /* (n) in order of their names */
    size_t n;
} trace_set;

greta_status trace_set_open(const isolate_files *files, trace_set *set, greta_error *err);
/* Every *.jsonl of a folder. */
greta_status trace_set_open_folder(const char *folder, trace_set *set, greta_error *err);
void trace_set_close(trace_set *set);
/* Traces of one prompt, taken from `all` (which still owns them): those with the prompt id of
 * all->item[first]. A trace without one stands alone. Marks them in taken[all->n]. */
greta_status trace_set_of_prompt(const trace_set *all, size_t first, uint8_t *taken, trace_set *out,
                                 greta_error *err);

typedef site isolate_side;

/* Chooses prefill_last, the prefill row of the highest position, and decode0, the decode row of the
 * lowest, over the traces of one prompt. */
greta_status isolate_sides_choose(const trace_set *set, isolate_side side[SIDE_COUNT],
                                  greta_error *err);
void isolate_sides_free(isolate_side side[SIDE_COUNT]);
/* ---- Judge ----------------------------------------------------------------------------------- */

typedef struct isolate_terms {
    struct greta_model *model; /* NULL: only norms are judged */
    const char *layers;        /* of the first table: "0,3-5" */
    float eps;                 /* the model's; NAN: unknown */
    int32_t head_dim;          /* 0: unknown */
} isolate_terms;

isolate_terms isolate_terms_of(greta_model *model, const greta_isolate_options *options);
/* Fills *out from the two sides; keeps out->id, and a verdict on tracing that is there already. */
greta_status isolate_judge(const isolate_side side[SIDE_COUNT], const isolate_terms *terms,
                           analysis_prompt *out, greta_error *err);
/* A prompt of which nothing could be compared (out->why): the rows of the first table, empty. */
greta_status isolate_judge_none(const isolate_terms *terms, int32_t n_layer, analysis_prompt *out,
                                greta_error *err);

/* Every op of the model on both sides, against the model (isolate_ops.c): fills out->op,
 * out->judged and out->effect. Without a model, or with another model than the traces', nothing. */
greta_status isolate_judge_ops(const isolate_side side[SIDE_COUNT], const isolate_terms *terms,
                               analysis_prompt *out, greta_error *err);

#endif
