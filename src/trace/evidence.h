/* evidence.h - what replay tells explain: which hypotheses reproduce a recorded output.
 *
 * The rooms do not see each other. explain/ names the operands an op should have had
 * (norm_operands); replay/ computes the op on them, once healthy and once with exactly one change
 * per hypothesis, and compares each result with the recorded output value by value
 * (norm_evidence). Plain structs without ownership: copy them freely; pointers point into open
 * traces.
 */
#ifndef GRETA_TRACE_EVIDENCE_H
#define GRETA_TRACE_EVIDENCE_H

#include "base/causes.h"
#include "trace/record.h"

#include <stdbool.h>

#define EVIDENCE_MAX 128
#define EVIDENCE_PHRASE 96

typedef enum evidence_role {
    EVIDENCE_HEALTHY, /* the op as the contract defines it, on what it should have had */
    EVIDENCE_AS_READ, /* operands it did read, numbers it was given */
    EVIDENCE_CHANGE,  /* healthy but for one change that would be a fault */
    EVIDENCE_ORDER,   /* healthy but for the order of a sum: benign (CAUSE_ROUNDING) */
} evidence_role;

typedef enum evidence_number {
    EVIDENCE_NUMBER_NONE,
    EVIDENCE_NUMBER_EPS,
    EVIDENCE_NUMBER_COUNT,
    EVIDENCE_NUMBER_POSITION,
    EVIDENCE_NUMBER_BASE,       /* of rotary frequencies */
    EVIDENCE_NUMBER_SCALE,      /* of scores, positions, embeddings, rotary pairs */
    EVIDENCE_NUMBER_CAP,
    EVIDENCE_NUMBER_WINDOW,
    EVIDENCE_NUMBER_DIMENSIONS, /* rotary ones */
} evidence_number;

/* One hypothesis, tried. */
typedef struct evidence {
    evidence_role role;
    cause cause;                  /* CAUSE_NONE: HEALTHY and AS_READ */
    char phrase[EVIDENCE_PHRASE]; /* "eps 0.0001 for 1e-05", "weights reversed", "sum for mean" */
    bool fits;                    /* every value equals the recorded output bit for bit */
    bool is_solved;               /* the number was solved from the record: a free parameter, so it
                                     yields to a hypothesis that has none */
    bool is_operand;              /* the change is one the record admits: the number it was given,
                                     the row it read, weights that equal the weights it read */
    bool is_as_read;              /* of those, the row or weights as they stand in the record, with
                                     no theory of how they came about */
    evidence_number number;       /* the number that was changed, if one was */
    double number_healthy, number_used;
    int64_t n, n_equal;           /* values compared, bit-equal ones */
    uint32_t ulp_max;             /* largest distance in units of the last place; UINT32_MAX: NaN
                                     against a number */
    /* By op_try only (replay/op_hypothesis.h). */
    bool is_within;               /* every value lies within its bound of the recorded one */
    double worst;                 /* largest distance, in bounds if there are any, of finite values;
                                     INFINITY where one of the two is not finite */
    int64_t worst_at;             /* its index; -1: no value differs */
    int32_t same_as;              /* first item of the list with this very result: hypotheses that
                                     this op at this token cannot tell apart; 0: no bit changes */
} evidence;

/* What one RMS norm op should have had, beside what it did read. */
typedef struct norm_operands {
    const trace_record *record;   /* the op: operands as read, numbers given, output */
    const trace_tensor *x;        /* row it should have read, kept in full; NULL: kept nowhere */
    const trace_tensor *weight;   /* weights as the model file holds them; NULL: kept nowhere */
    float eps;                    /* declared; NAN: unknown, the given one stands */
    int64_t count;                /* declared: the width of the row */
    int32_t head_dim;             /* 0: unknown. A usual wrong count */
} norm_operands;

/* All that replay found out about one recorded norm. */
typedef struct norm_evidence {
    bool is_measured;             /* false: `missing` says what was not there; the rest is empty */
    char missing[EVIDENCE_PHRASE];
    char kernel[32];              /* the build of the definition that replayed: "ref", "ref-avx2" */
    bool is_other_build;          /* not the build that made the record; false: there is no other */
    /* The healthy result against binary64: the definition itself on trial. */
    double f64_ulp_max, f64_ulp_bound;
    bool f64_agrees;              /* f64_ulp_max <= f64_ulp_bound */
    bool stats_agree;             /* recorded sums and hashes are those of the kept values */
    /* Least and largest eps (f32, within 0..1e-2) that give the recorded inverse rms, to the bit,
     * from the row that was read and the count that was given; empty when eps_min > eps_max. */
    double eps_min, eps_max;
    int32_t n;
    evidence item[EVIDENCE_MAX];  /* item[0] is HEALTHY, item[1] AS_READ */
} norm_evidence;

/* All that replay found out about any recorded op. */
typedef struct op_evidence {
    bool is_measured;             /* false: `missing` says what was not there */
    char missing[EVIDENCE_PHRASE];
    char kernel[32];              /* the build of the definition that replayed */
    bool healthy_fits;            /* on what it should have read: every bit as recorded */
    bool has_as_read;             /* operands are broken, and what was read is known */
    bool as_read_fits;
    bool f64_agrees;              /* the healthy result is within its bound of binary64 */
    double f64_ratio;             /* its largest distance over the bound; NAN: not asked */
    double f64_ratio_recorded;    /* the same of the recorded row */
    /* A run that does not claim this build's bits (op_standard.h) is held to bounds: whatever
     * `fits` here lies within them. */
    bool is_bounded;
    bool is_declared;             /* the trace says which class its rounding is of */
    const char *within;           /* the class in whose bounds the row lies, a claimed one or the
                                     first policy that explains it; NULL: none */
    int32_t n;
    evidence *item;               /* (n) hypotheses that were tried, malloc'd by replay's caller */
} op_evidence;

#endif
