/* score_table.h - lines of an exam read back, and what they add up to. */
#ifndef GRETA_SCORE_TABLE_H
#define GRETA_SCORE_TABLE_H

#include "score/score.h"

#include <jansson.h>

typedef struct score_lines {
    json_t **item; /* (n) one object a case, each case once */
    size_t n, n_most;
    size_t n_sorted; /* of item, by case */
} score_lines;

/* Adds the lines of a file; a torn last line is left out. Damage elsewhere: GRETA_BAD_INPUT. */
greta_status score_lines_read(const char *path, score_lines *out, greta_error *err);
/* All files of a folder; none: no lines. */
greta_status score_files_read(const char *folder, score_lines *out, greta_error *err);
bool score_lines_has(const score_lines *lines, const char *id);
void score_lines_free(score_lines *lines);
/* Lists of names, with commas; NULL is fine. */
greta_status score_modes_check(const char *modes, greta_error *err);
greta_status score_sorts_check(const char *sorts, greta_error *err);

#define SCORE_CAUSES 32

/* Counts over cases; a method of its own or the referee. */
typedef struct score_tally {
    int32_t n_fault, n_detected;              /* planted cases that change bits; alarms */
    int32_t n_quiet, n_false;                 /* benign, clean, outside; alarms */
    int32_t n_quiet_differs, n_false_differs; /* of them, those that differ in bits */
    int32_t n_place, n_top1, n_top3, n_exact; /* cases with a planted op; at rank 1; within 3;
                                                 rank 1 at the right position */
    double rank_sum, exam_sum;                /* of n_place */
    int32_t n_cause, n_cause_right;
    int32_t seen[SCORE_CAUSES][SCORE_CAUSES]; /* (expected, told) */
} score_tally;

typedef struct score_sum {
    score_tally referee, method[SCORE_METHODS];
    int32_t n_line, n_refused, n_equal; /* equal: planted, and no bit changed */
    int32_t n_right, n_right_confirmed; /* place and cause; CONFIRMED among them */
    int32_t n_confirmed, n_confirmed_right, n_abstained;
    double seconds;
    uint64_t bytes;
} score_sum;

/* Which cases: those of the catalogue as it stood when the rules were frozen, and the two halves
 * of them; those of faults that were written later; bugs that happened. Benign and clean cases are
 * of the first. */
typedef enum score_set {
    SET_PLANTED,
    SET_TUNE,
    SET_HELD,
    SET_LATE,
    SET_REAL,
    SET_DEVICE, /* of the mode of that name, which are in no other set */
    SCORE_SETS
} score_set;
const char *score_set_name(score_set set);  /* "held" */
const char *score_set_title(score_set set); /* "the held half" */

void score_sum_take(const score_lines *lines, score_set set, score_sum *out);
/* Unweighted mean of the F1 of every cause that is expected or told; NAN: none is. */
double score_macro_f1(const score_tally *t);

/* Of one line. */
typedef struct score_mark {
    bool is_refused, is_planted, differs, is_alarm, is_place, is_cause, is_confirmed;
    const char *miss; /* what falls short; NULL: nothing, or not counted */
} score_mark;
score_mark score_mark_of(const json_t *line);

/* Counts by a word of the lines: modes, variants, causes, real bugs (score_groups.c). */
json_t *score_groups_json(const score_lines *lines);
void score_groups_text(const score_lines *lines, text *out);

#endif
