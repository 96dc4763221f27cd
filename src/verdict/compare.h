/* compare.h - what a comparison of two traces found, between who counts and who prints. */
#ifndef GRETA_VERDICT_COMPARE_H
#define GRETA_VERDICT_COMPARE_H

#include "explain/pair.h"
#include "report/analysis.h"
#include "trace/field.h"
#include "verdict/op_kin.h"

typedef struct stage_count {
    size_t row[2], paired, differ, unmeasured;
} stage_count;

typedef struct comparison {
    trace *t[2];
    pairing pairs;
    size_t n_equal, n_differ, n_unmeasured;
    size_t n_input_only; /* outputs equal although an operand differs */
    size_t n_alone[2][PAIR_FIELD_COUNT];
    stage_count stage[STAGE_COUNT];
    bool has_first; /* a pair that differs: */
    pair first;
    pair_room first_room;
    pair_difference difference; /* of it */
    greta_model *model[2];      /* NULL: not given; the same one twice, or two */
    op_kin kin;                 /* of two models' weights */
    op_findings found;          /* with a model */
    op_canaries canaries;       /* of the comparison of rows */
    greta_status verdict;
    char why[320];
} comparison;

/* What a setting of two headers is to a comparison. */
enum {
    IS_SHAPE = 1,   /* other: rows mean other things */
    IS_PROMISE = 2, /* equal in all of these: equal bits are promised */
    IS_RUN = 4,     /* equal in all of these: one configuration */
};

typedef struct setting setting;

/* The first setting of this role that differs; NULL: none does. */
const setting *setting_differs(const comparison *c, unsigned role);
const char *setting_name(const setting *s);
/* The setting in a header, as text that is safe to print. */
const char *setting_value(const setting *s, const trace_header *header, char out[ESCAPED_MAX]);

void comparison_print(text *out, const comparison *c);
void comparison_print_json(text *json, const comparison *c);

#endif
