/* analysis.h - what `greta isolate` found out, as data: every sentence and table follows from it.
 *
 * The verdict room fills it; the writers of this room (report.h) only read. Nothing in it points
 * into a trace, so traces can be closed before a report is written. Texts that came from outside
 * are kept escaped (printable ASCII). What was planted is not here: it stands in the commands only.
 */
#ifndef GRETA_REPORT_ANALYSIS_H
#define GRETA_REPORT_ANALYSIS_H

#include "base/error.h"
#include "explain/norm.h"
#include "explain/terms.h"

#define ANALYSIS_FORMAT 1 /* of analysis.json and analysis.tsv */

/* Why a prompt has no verdict, or less of one. */
typedef enum reason {
    REASON_NONE,
    REASON_ONE_TOKEN,    /* no token stands before the one to decode */
    REASON_CHUNK_OF_ONE, /* prefill computed the token alone, as decode does */
    REASON_PLANT_ROWS,   /* the planted fault needs a prefill pass of two rows or more */
    REASON_NO_PREFILL,   /* no prefill record in the traces */
    REASON_NO_DECODE,
    REASON_MISMATCH,   /* a field of the pairing key or of the configuration differs */
    REASON_INCOMPLETE, /* a trace ended early */
    REASON_UNMEASURED, /* stages without a record on a side */
    REASON_TRACING,    /* logits with tracing on differ from those with tracing off */
    REASON_CANARY,     /* a planted difference of 1 ulp was not found */
} reason;

/* prefill_last or decode0: which row of which trace it is, and what it was computed with. */
typedef struct analysis_side {
    bool is_present;
    char file[PATH_CUT_MAX]; /* in the folder of the traces */
    char status[16];         /* of the trace */
    int32_t token, position, row;
    int64_t pass, chunk_rows;
    trace_header header; /* without its buffers */
} analysis_side;

typedef enum stage_state {
    STAGE_STATE_EQUAL,
    STAGE_STATE_DIFFERS,
    STAGE_STATE_UNMEASURED
} stage_state;

const char *stage_state_name(stage_state state); /* "equal" */

/* One op's output on both sides. */
typedef struct stage_line {
    stage name;
    int32_t layer; /* -1: not in a layer */
    stage_state state;
    int64_t n, n_compared; /* values of the row; those kept on both sides */
    int64_t n_differ;      /* of the compared ones */
    double abs_max;        /* largest finite difference */
    bool has_ulp;
    uint64_t ulp_max;
} stage_line;

/* One norm, judged. */
typedef struct norm_line {
    stage name;
    int32_t layer;
    bool is_chosen;                      /* a row of the first table: ffn_norm of a chosen layer */
    bool is_decisive;                    /* the prompt's verdict stands on it */
    finding found;                       /* its `fit` points into `evidence` */
    norm_evidence *evidence[SIDE_COUNT]; /* malloc'd; NULL: not replayed */
} norm_line;

/* Whether putting the healthy row on the op's edge, here and at every fault before it, makes all
 * that differs behind it agree, up to the next fault. */
typedef enum patch_state { PATCH_UNKNOWN, PATCH_REMOVES, PATCH_DOES_NOT } patch_state;

/* The decode run once more, this op and the faults before it put right. */
typedef struct patch_run {
    bool is_run;
    int32_t n_differ;    /* ops whose row is not prefill_last's */
    stage first;         /* the first of them; STAGE_NONE: none */
    int32_t first_layer;
    bool is_next;        /* the judge had named it */
    bool is_same;        /* the logits are prefill_last's, bit for bit */
    int32_t before, top; /* most likely token of decode0, and now */
} patch_run;

typedef struct patch {
    patch_state state;
    int32_t n_differ, n_removed; /* ops behind it that differ; that agree when it is patched */
    int32_t n_next;              /* that differ because of a later fault: not counted above */
    patch_run run;
} patch;

/* What the runs are called: prefill_last and decode0; A and B; the run. */
typedef enum side_naming { NAMES_ISOLATE, NAMES_COMPARE, NAMES_AUDIT } side_naming;

/* One op of the model that has something to tell: a fault, in order, or a suspicion. */
typedef struct op_line {
    stage name;
    int32_t layer, position, token;
    int64_t pass; /* of run A, or of the run */
    side_naming naming;
    char kind[16];
    bool is_decisive; /* the prompt's verdict stands on it */
    bool is_accused;  /* a run introduced something here */
    bool is_policy;   /* nothing was introduced: the contracts differ, and do this */
    bool is_rounding; /* nothing was introduced: both rows are within bounds of one operands' */
    finding found;    /* its `fit` points into items, or evidence of norm_line */
    op_evidence evidence[SIDE_COUNT]; /* items are owned */
    op_terms terms;
    patch patch;
} op_line;

/* What replay looked at. */
typedef struct op_coverage {
    int32_t n_site, n_site_judged; /* compare, audit: tokens; those whose ops were replayed */
    bool is_judged;                /* there was a model to judge with */
    int32_t n_op;                  /* op records of both sides */
    int32_t n_replayed, n_healthy; /* those replayed; with the recorded bits, or within bounds */
    int32_t n_broken;              /* with a broken operand */
    int32_t n_unmeasured,
        n_unrecorded;              /* recorded, not replayed; ops of the model without a record */
    int32_t n_policy;              /* ops whose difference has a policy term */
    int32_t n_rounding, n_bounded; /* differences that are rounding; records held to bounds */
    double work, work_once;        /* op_work of all replays; of evaluating these ops once */
    double gap_max;                /* of the four terms, over all ops that differ */
    int32_t n_terms;               /* ops whose difference was taken apart */
} op_coverage;

/* What differs does to the next token: at the first position where the most likely one changes, or
 * if none does at the first whose logits differ. */
typedef struct logit_effect {
    bool is_measured;
    int32_t position;
    int32_t top[SIDE_COUNT];          /* most likely token */
    double gap[SIDE_COUNT];           /* between its logit and the next one's */
    double gap_in_bounds[SIDE_COUNT]; /* over what rounding of these two logits may do; NAN */
    double largest;                   /* difference of logits */
    double kl;                        /* KL(A || B) of the next token, nats */
    int32_t n, n_changed;     /* tokens whose logits differ; whose most likely one changes */
    int32_t changed_position; /* of the first of them; -1: none */
    /* Backwards from these logits along differing edges. */
    bool has_origin;  /* to an op of this token that introduced something, the first one */
    bool has_earlier; /* through cache rows of earlier tokens */
    stage origin;
    int32_t origin_layer, n_on_way; /* ops on the way */
} logit_effect;

#define GROWTH_MAX 3

/* An op that introduced nothing and behind which more differs than in front of it. */
typedef struct op_growth {
    stage name;
    int32_t layer, position;
    double before,
        after;        /* relative differences, Euclidean: of its operands (the largest), its row */
    double condition; /* of a sum: sizes of its parts over its own; NAN: no sum */
    int64_t channel;  /* of the largest difference */
    double channel_share;       /* of the squared difference */
    int32_t n_head, n_head_hit; /* heads; those with more than half of an equal share of it */
} op_growth;

typedef enum canary_state { CANARY_ABSENT, CANARY_FOUND, CANARY_MISSED } canary_state;

/* A wrong value planted in a copy of one record, judged through the same code path. */
typedef struct canary {
    canary_state state;
    stage name;
    int32_t layer, position;
    int64_t index;
} canary;

/* One for each stage (verdict/op_canary.h). */
typedef struct op_canaries {
    canary of[STAGE_COUNT];
    bool is_recorded[STAGE_COUNT];
} op_canaries;

/* The first stage whose canary was missed; STAGE_NONE: none was. */
stage canaries_missed(const op_canaries *c);

/* Whether the lead of a most likely token is within what rounding of two logits may do. */
bool effect_is_tie(const logit_effect *e);

/* What came of judging the ops of one token, or of many. */
typedef struct op_findings {
    op_line *op; /* (n_op) with something to tell, in execution order */
    size_t n_op;
    op_coverage judged;
    logit_effect effect;
    op_growth growth[GROWTH_MAX]; /* (n_growth) that grow most, in that order */
    int n_growth;
    op_canaries canaries;
} op_findings;

void op_findings_free(op_findings *f); /* what it owns; a zeroed one is fine */

typedef enum tracing_state {
    TRACING_UNCHECKED,
    TRACING_SAME_LOGITS,
    TRACING_OTHER_LOGITS,
    TRACING_NOT_REPEATED /* runs of it differ without a trace: nothing is known of tracing */
} tracing_state;

/* The first op of decode0 that gave another row when the same was run again. */
typedef struct unrepeated {
    bool is_found;
    stage name;
    int32_t layer;
} unrepeated;

typedef struct analysis_prompt {
    char id[ESCAPED_MAX];
    int64_t n_token;                /* of the prompt; 0: unknown */
    int64_t n_chunk;                /* REASON_CHUNK_OF_ONE, REASON_PLANT_ROWS */
    analysis_side side[SIDE_COUNT]; /* SIDE_A prefill_last, SIDE_B decode0 */
    reason why;
    greta_status verdict; /* GRETA_OK, GRETA_FAULT or GRETA_NO_VERDICT */
    verdict_state state;  /* of the first divergence, or of the whole prompt */
    cause cause;
    int n_mismatch;
    finding_mismatch mismatch[FINDING_MISMATCH_MAX];
    stage_line *stage; /* (n_stage), execution order */
    size_t n_stage, n_equal, n_differ, n_unmeasured;
    size_t first;    /* index of the first divergence; n_stage: there is none */
    norm_line *norm; /* (n_norm), execution order: chosen ones, and any with a fault */
    size_t n_norm;
    op_findings ops;       /* against the model; empty without one */
    tracing_state tracing; /* decode0's logits with tracing on against off */
    unrepeated unrepeated;
    canary canary;
} analysis_prompt;

typedef enum analysis_mode {
    ANALYSIS_MODE_FRESH,
    ANALYSIS_MODE_TRUNCATE,
    ANALYSIS_MODE_E0,
    ANALYSIS_MODE_FROM, /* traces written before */
} analysis_mode;

const char *analysis_mode_name(analysis_mode mode); /* "E1 fresh", "E1 truncate", "E0", "from" */

typedef struct analysis {
    analysis_mode mode;
    char layers[TRACE_NAME_MAX]; /* of the first table, as chosen */
    bool has_out;                /* reports were written */
    char *out, *traces;          /* folders, as the caller named them; printable, malloc'd */
    char **command;              /* (n_command) what reproduces this, malloc'd */
    size_t n_command;
    analysis_prompt *prompt; /* (n_prompt) */
    size_t n_prompt;
    greta_status verdict; /* of the worst prompt */
} analysis;

void analysis_prompt_free(analysis_prompt *p); /* what it owns; a zeroed one is fine */
void analysis_free(analysis *a);
/* Sets the verdict: fault beats no verdict beats aligned. No prompt: no verdict. */
void analysis_conclude(analysis *a);
/* The prompt the headline is about: the first with the worst verdict. */
const analysis_prompt *analysis_worst(const analysis *a);
/* Whether a row of any prompt was recorded. */
bool analysis_has_traces(const analysis *a);
/* The norm a prompt's verdict stands on; NULL: the first divergence is no norm, or there is none.
 */
const norm_line *analysis_decisive(const analysis_prompt *p);
/* The op a prompt's verdict stands on, norm or not; NULL: none, or there was no model. */
const op_line *analysis_decisive_op(const analysis_prompt *p);
/* "A_input_selection", "NONE"; for no verdict the state, "NOT_COMPARABLE". */
const char *analysis_bucket(verdict_state state, cause c);

#endif
