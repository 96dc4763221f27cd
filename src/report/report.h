/* report.h - the writers: one analysis as text for people, TSV, JSON, and a bilingual Markdown
 * report.
 *
 * All are pure functions of the analysis: the same analysis gives the same bytes, without time,
 * host or path (but folders that the caller named). Failure is the text's: see base/text.h.
 */
#ifndef GRETA_REPORT_REPORT_H
#define GRETA_REPORT_REPORT_H

#include "base/text.h"
#include "report/analysis.h"

typedef enum lang { LANG_EN, LANG_ES, LANG_COUNT } lang;

void report_human(text *t, const analysis *a);
void report_tsv(text *t, const analysis *a);
void report_markdown(text *t, const analysis *a);
/* GRETA_IO when memory runs out. */
greta_status report_json(text *t, const analysis *a, greta_error *err);

/* ---- Sentences, in either language; none ends in a full stop unless said --------------------- */

/* The answer, in one line, with a full stop. */
void say_headline(text *t, lang l, const analysis *a);
/* What one prompt's verdict is, why, and where. */
void say_prompt(text *t, lang l, const analysis_prompt *p);
/* What a judged norm did: "decode0 reads ffn_norm's input from ..." */
void say_norm(text *t, lang l, const norm_line *norm);
/* What else is known about it; full sentences, each led by a space; may be none. */
void say_norm_details(text *t, lang l, const norm_line *norm);
/* What an op did: "decode0 lets attn_out see other positions (window 4 for 3)". */
void say_op(text *t, lang l, const op_line *op);
/* What that stands on: replays that fit, and the details; full sentences, each led by a space. */
void say_op_evidence(text *t, lang l, const op_line *op);
/* Its four terms, and what patching it does. */
void say_op_details(text *t, lang l, const op_line *op);
/* What the difference does to the next token; a full sentence, or none. */
void say_effect(text *t, lang l, const op_findings *f);
/* Where differences grow, and which sums cancel. Empty if none do. */
void say_growth(text *t, lang l, const op_findings *f);
/* How many ops were replayed. A full sentence. */
void say_judged(text *t, lang l, const analysis_prompt *p);
/* Judged norms beside the one that decides: later faults, and wrong operands that changed nothing;
 * each a line led by `lead`; may be none. */
void say_others(text *t, lang l, const analysis_prompt *p, const char *lead);
/* How many stages were measured, and how many differ. */
void say_coverage(text *t, lang l, const analysis_prompt *p);
/* Whether tracing changed the logits and the canary was found. Full sentences. */
void say_instrument(text *t, lang l, const analysis_prompt *p);
/* What this analysis did not look at. Full sentences. */
void say_not_seen(text *t, lang l, const analysis_prompt *p);
/* What to do next. Full sentences. */
void say_next_step(text *t, lang l, const analysis_prompt *p);
/* Canaries of every stage: how many were found, which were missed, which stages have none. Those of
 * the comparison of rows need a pair that is equal, those of the judge of ops one that replays. */
void say_canaries(text *t, lang l, const op_canaries *c, bool is_of_rows);
/* "model NAME (hash), kernel ref-avx2, arithmetic 1, kv f16, act q8, chunk 512, threads 2" */
void say_configuration(text *t, const trace_header *h);
/* "token 198 at position 12, pass 0, row 12 of 13, p0_short.prefill.jsonl" */
void say_side(text *t, lang l, const analysis_side *s);

/* A phrase of a finding or of evidence, escaped. Returns `out`. */
#define PHRASE_MAX (2 * ESCAPED_MAX)
const char *say_phrase(lang l, const char *english, char out[PHRASE_MAX]);
/* The same where the runs have other names. */
const char *say_phrase_of(lang l, side_naming naming, const char *english, char out[PHRASE_MAX]);
/* "prefill_last", "run A", "the run" ... */
const char *side_names(lang l, side_naming naming, unsigned sides);
/* The layer as a cell: "3"; "-" outside the layers. */
#define LAYER_MAX 16
const char *layer_text(int32_t layer, char out[LAYER_MAX]);

#endif
