/* terms.h - a difference taken apart: what each run introduced, what policy makes, what was there.
 *
 * A, B: the recorded outputs. a, b: the operands that each op should have read. C_A, C_B: what the
 * declared contracts make of operands. For every element
 *     A - B = [A - C_A(a)] - [B - C_B(b)] + [C_A(a) - C_B(a)] + [C_B(a) - C_B(b)]
 *           = introduced by A - introduced by B + policy + inherited
 * and what a run introduced splits again, with r what it did read:
 *     A - C_A(a) = [A - C_A(r)] computed + [C_A(r) - C_A(a)] selected
 * Where A and B run two models, one's weights in another type, policy splits as well, by W_A and
 * W_B on one row in binary64:
 *     C_A(a) - C_B(a) = [W_A(a) - W_B(a)] weights + the rest, contract
 * Sums are taken in binary64; they close to 2^-45 of an element's largest term (`gap`). Elements
 * that are not finite in any of the rows are counted apart.
 */
#ifndef GRETA_EXPLAIN_TERMS_H
#define GRETA_EXPLAIN_TERMS_H

#include "explain/norm.h"

/* A row of values as a trace keeps it; values NULL: unknown. */
typedef struct term_row {
    dtype type;
    int64_t n;
    const void *values;
} term_row;

typedef struct term_rows {
    term_row recorded[SIDE_COUNT]; /* A, B */
    term_row healthy[SIDE_COUNT];  /* C_A(a), C_B(b) */
    term_row crossed;              /* C_B(a) */
    term_row as_read[SIDE_COUNT];  /* C_A(r_A), C_B(r_B); unknown: nothing was selected */
    const double *weights; /* what the weights of two models alone make of a; NULL: not taken */
} term_rows;

typedef enum term {
    TERM_DIFFERENCE, /* A - B */
    TERM_INTRODUCED_A,
    TERM_INTRODUCED_B,
    TERM_POLICY,
    TERM_INHERITED,
    TERM_COMPUTED_A,
    TERM_COMPUTED_B,
    TERM_SELECTED_A,
    TERM_SELECTED_B,
    TERM_POLICY_WEIGHTS, /* where has_weights */
    TERM_POLICY_CONTRACT,
    TERM_COUNT
} term;

const char *term_name(term t); /* "introduced_a" */

typedef struct op_terms {
    bool is_measured;
    bool has_weights; /* policy is split in two */
    int64_t n, n_nonfinite;
    double largest[TERM_COUNT]; /* largest magnitude of each term over the elements */
    double norm[TERM_COUNT];    /* Euclidean */
    int64_t at[TERM_COUNT];     /* element of the largest */
    double gap;                 /* largest |A - B - sum of terms| over the element's largest term */
    double scale;               /* Euclidean norm of C_B(b): what the others are held against */
} op_terms;

/* Rows of other lengths, or unknown ones: is_measured is false. */
void terms_take(const term_rows *rows, op_terms *out);
/* Value i of a row as a number. */
double term_value(const term_row *row, int64_t i);

#endif
