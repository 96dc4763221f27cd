/* score.h - the exam: faults and benign variants with known answers, put to the referee.
 *
 *     plan      which cases: drawn by a seed from the catalogue and the model       score_plan.c
 *     sit       record one, ask greta_isolate or greta_compare, note the answer     score_sit.c
 *     baseline  what simpler methods say of the same two traces score_baseline.c line      a case
 * and its answers as one line of JSON, and back                score_line.c table     all lines of
 * a folder: recall, places, causes, false alarms, cost   score_table.c
 *
 * This room knows what was planted, and the referee does not: it is asked through the functions of
 * greta.h, and no other room includes this one.
 */
#ifndef GRETA_SCORE_SCORE_H
#define GRETA_SCORE_SCORE_H

#include "base/text.h"
#include "fault/control.h"
#include "fault/defect.h"
#include "fault/real.h"
#include "model/model.h"

#define SCORE_TEXT   256
#define SCORE_ROWS   64 /* most rows of a pass of the second run */
#define SCORE_RANKED 64 /* places of an answer that are kept, best first */

/* Which two runs stand side by side. */
typedef enum score_mode {
    SCORE_FRESH,   /* prefill against decode, in a fresh session */
    SCORE_WARM,    /* the same over a cache that held the token before */
    SCORE_ENGINE,  /* a run against another engine's: other chunks, and the fault in all of them */
    SCORE_BATCH,   /* single sequences against the same ones as rows of one batch */
    SCORE_REUSE,   /* a fresh session against one whose cache held another request */
    SCORE_FOREIGN, /* a run against a trace that another engine wrote */
    SCORE_DEVICE,  /* a run on the CPU against one on a device that makes one mistake */
    SCORE_MODES
} score_mode;
const char *score_mode_name(score_mode mode); /* "fresh" */

typedef enum score_sort {
    SCORE_FAULT,   /* one fault, and rows that it concerns */
    SCORE_STACK,   /* two of them */
    SCORE_OUTSIDE, /* a fault that waits for rows that do not come: nothing may be said */
    SCORE_BENIGN,  /* other arithmetic, as good as ours */
    SCORE_CLEAN,   /* the same arithmetic, cut otherwise */
    SCORE_REAL,    /* a bug that happened, in all the layers that it was in */
    SCORE_SORTS
} score_sort;
const char *score_sort_name(score_sort sort);

/* An op of the list. */
typedef struct score_place {
    stage name;    /* STAGE_NONE: none */
    int32_t layer; /* -1: not in a layer */
} score_place;

typedef struct score_case {
    char id[2 * SCORE_TEXT]; /* unique, and the same whenever it is drawn again */
    score_mode mode;
    score_sort sort;
    char order[SCORE_TEXT];      /* as --fault takes it; "": nothing */
    const fault_real *real;      /* NULL: none */
    const fault_kind *kind;      /* that of `place`; NULL: none */
    const control_kind *control; /* NULL: none */
    const defect *defect;        /* of the device of the second run; NULL: not SCORE_DEVICE */
    score_place place;           /* of the planted op; of two the first in execution order */
    const fault_kind *kind_next; /* of two the second, which is asked for where the first changes */
    score_place place_next;      /* no bit of its op; NULL: one */
    size_t prompt, n_token;      /* which prompt, and how many of its tokens */
    int32_t n_chunk;             /* of the second run; 0: one */
    char foreign[SCORE_TEXT];    /* the trace that stands for the second run; "": none */
} score_case;

typedef struct score_plan {
    score_case *item; /* (n), those of one mode and prompt together */
    size_t n;
} score_plan;

/* The cases of one model, which lines call `name`. */
greta_status score_plan_new(struct greta_model *model, const char *name,
                            const greta_prompt *prompts, size_t n_prompt,
                            const greta_score_options *options, score_plan *out, greta_error *err);
void score_plan_free(score_plan *plan);

/* One pass of the second run, for triggers: rows of one sequence, or one row of each of several. */
typedef struct score_pass {
    greta_phase phase;
    int32_t first, n_row; /* position of row 0; rows */
    bool is_batch;        /* row r is sequence r, at position `first` */
    bool is_warm;
} score_pass;
#define SCORE_PASSES 64
/* The passes in which a case's fault is live. */
int score_passes(const score_case *c, score_pass out[SCORE_PASSES]);

/* ---- Answers --------------------------------------------------------------------------------- */

typedef enum score_method {
    METHOD_FIRST,    /* first tensor with a difference over 1e-3 */
    METHOD_COSINE,   /* first tensor with a cosine below 0.99 */
    METHOD_GROWTH,   /* tensors by growth of their distance over that of their inputs */
    METHOD_ALLCLOSE, /* first tensor outside of constant tolerances */
    METHOD_REPORT,   /* the rules of the reference report: ffn_norm of layer 0 */
    SCORE_METHODS
} score_method;
const char *score_method_name(score_method method);

typedef struct score_opinion {
    bool alarm;
    score_place place; /* of the first rank, where it raises an alarm */
    int32_t rank;      /* of the planted op, from 1; 0: not asked */
    cause cause;       /* METHOD_REPORT; CAUSE_NONE: it names none */
} score_opinion;

typedef struct score_answer {
    bool is_refused;      /* no op of the model can carry it: `why` says so */
    char why[SCORE_TEXT]; /* of that, or of the referee's verdict */
    greta_status verdict; /* of the referee */
    char state[32];       /* "CONFIRMED" */
    char bucket[32];      /* "A_input_selection", "NONE", or a state without a verdict */
    score_place ranked[SCORE_RANKED];
    int32_t n_ranked, n_accused; /* accused ones stand first */
    int32_t position;            /* of the first; -1: none */
    int32_t rank;                /* of the planted op, from 1; 0: not asked */
    int32_t n_place;             /* ops in the traces */
    bool differs;                /* some recorded bit does */
    int32_t position_true;       /* of the first row of the planted op that differs; -1: none */
    score_opinion opinion[SCORE_METHODS];
    double seconds;
    uint64_t bytes; /* of the traces */
} score_answer;

/* What the sittings of one model share. */
typedef struct score_room {
    greta_model *model;
    const greta_prompt *prompts;
    const greta_score_options *options;
    char *folder, *path[2];   /* traces of the case in work */
    char healthy[SCORE_TEXT]; /* which run path[0] holds; "": none */
    op_list list;             /* of the model, in the contract of the exam */
} score_room;

greta_status score_room_open(greta_model *model, const greta_prompt *prompts,
                             const greta_score_options *options, score_room *out, greta_error *err);
void score_room_close(score_room *room); /* removes the traces */
greta_status score_sit(score_room *room, score_case *c, score_answer *out, greta_error *err);

/* Fills the opinions, n_place, differs, position_true and ranks of *out from two traces. Of two
 * faults of which the first changed nothing, *c keeps the second; of the ops that a device's
 * mistake concerns, the first to show it. */
greta_status score_baselines(const char *const path[2], const op_list *list, score_case *c,
                             score_answer *out, greta_error *err);

/* ---- Lines ----------------------------------------------------------------------------------- */

greta_status score_line(const score_case *c, const char *model, const char *prompt,
                        const score_answer *a, text *out, greta_error *err);

#endif
