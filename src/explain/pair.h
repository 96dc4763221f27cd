/* pair.h - which records of two traces speak of the same thing, and in which bits they differ.
 *
 * The key of a row is (hash of token ids 0..position, position, layer, stage). Pass, phase,
 * sequence and row of the batch are attributes: a row of a batch pairs with the same token of a
 * single run, prefill with decode. Needs no model and no engine.
 */
#ifndef GRETA_EXPLAIN_PAIR_H
#define GRETA_EXPLAIN_PAIR_H

#include "trace/trace.h"

/* Why a row is not paired: the first of these in which the other trace has nothing like it. */
typedef enum pair_field {
    PAIR_STAGE,    /* it never has this stage */
    PAIR_LAYER,    /* it has the stage, not in this layer */
    PAIR_POSITION, /* nor at this position */
    PAIR_PREFIX,   /* it has the place, for other tokens */
    PAIR_PASS,     /* one of the traces has the key twice in one pass: not comparable */
    PAIR_FIELD_COUNT
} pair_field;

const char *pair_field_name(pair_field field); /* "stage", ... */

/* Two records that are looked at. */
typedef struct pair {
    const trace_record *record[2];
} pair;

/* A pair, by the numbers of its records in their traces. */
typedef struct pair_rows {
    uint32_t row[2];
} pair_rows;

typedef struct pair_alone {
    uint32_t row;
    pair_field field;
} pair_alone;

typedef struct pairing {
    const trace *trace[2];
    size_t n_row[2];      /* rows in each trace */
    pair_rows *pair;      /* in execution order of trace a: pass, then stage, then row */
    size_t n_pair;
    pair_alone *alone[2]; /* in order of the key */
    size_t n_alone[2];
} pairing;

/* Where a key stands in several passes of a trace, equal phases meet first; a row that is left
 * pairs with the last of the other side, so every row of a key with a partner is in a pair. */
greta_status pairing_new(const trace *a, const trace *b, pairing *out, greta_error *err);
void pairing_free(pairing *p);

/* Room for the records of a pair whose traces do not hold them. */
typedef struct pair_room {
    trace_record record[2];
} pair_room;

pair pair_open(const pairing *p, size_t i, pair_room *room);
/* Whether pair_compare would find outputs, operands, weights and numbers equal and measured, from
 * what stays in memory of both; false: it has to be asked. */
bool pair_is_equal(const trace_head *a, const trace_head *b);

typedef enum pair_state { PAIR_EQUAL, PAIR_DIFFERS, PAIR_UNMEASURED } pair_state;

/* Two rows that should hold the same values. Equal: the same type, length, content hashes and
 * statistics. The numbers are over the values that both sides kept. */
typedef struct row_difference {
    pair_state state;
    bool is_shape;               /* type or length differ: no values are compared */
    int64_t n_compared, n_differ; /* values kept on both sides; of them, with other bits */
    int64_t n_nonfinite;         /* of n_differ, not finite on a side: not in the numbers below */
    int64_t largest;             /* index of the largest difference; -1: none */
    double abs_max;              /* that difference ... */
    double value[2];             /* ... and its two values */
    bool has_ulp;                /* F32 and F16 */
    uint64_t ulp_max;
} row_difference;

void row_compare(const trace_tensor *a, const trace_tensor *b, row_difference *out);

typedef struct pair_difference {
    pair_state state;            /* of the outputs, and of eps, inverse rms and count */
    int32_t out;                 /* the first output that differs; -1: none */
    const char *number;          /* else "eps", "inv_rms" or "count"; NULL: an output */
    row_difference row;          /* of that output */
    pair_state in, weight;       /* all operands together; UNMEASURED: one has no hash on a side */
} pair_difference;

void pair_compare(const pair *p, pair_difference *out);

#endif
