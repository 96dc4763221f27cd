/* op_check.h - whether an op read what it should have read, and if not, what it read instead.
 *
 * What an op should read is given as data (op_expected), made from the model's op list: the op's
 * own record is never asked, because a faulty run names the wrong edge in good faith. The rows of
 * its producers are those that the same run wrote for the same logical token; for attention, the
 * cache rows of all positions up to it, each by itself. Needs no model and no engine.
 */
#ifndef GRETA_EXPLAIN_OP_CHECK_H
#define GRETA_EXPLAIN_OP_CHECK_H

#include "explain/catalog.h"

/* A row that an op should read: the output of this stage and layer, for the op's own token. */
typedef struct read_expected {
    stage name; /* STAGE_TOKENS: the token id */
    int32_t layer;
    bool is_cache; /* of all positions up to the token's */
    stage before;  /* what its producer reads, if that is one row; else STAGE_NONE */
    int32_t before_layer;
} read_expected;

/* An op of the model, as far as records speak of it. Strings are the caller's. */
typedef struct op_expected {
    stage name;
    int32_t layer;
    const char *kind; /* "matmul" */
    int32_t n_in, n_weight;
    read_expected in[TRACE_IN_MAX];
    const char *weight[TRACE_WEIGHT_MAX]; /* names of the tensors */
    bool has_numbers;                     /* a norm: of this eps, and this count of its mean */
    float eps;
    int64_t count;
    bool is_store; /* writes the cache */
    bool is_sum;   /* adds its inputs: the residual stream */
} op_expected;

/* One run at one token: its records, and the traces in which rows of its session are found. */
typedef struct run_site {
    const site *site;
    const catalog *own;
    const catalog *earlier; /* of the same session, before its own trace began; NULL: none */
    const catalog *other;   /* the other run's, where provenance is searched last; NULL: none */
} run_site;

typedef enum read_state { READ_INTACT, READ_BROKEN, READ_UNKNOWN } read_state;

/* One operand: a row, or the cache rows of n_row positions. */
typedef struct read_check {
    read_state state;
    bool has_should;
    row_hash should, read; /* of a cache: of the first broken row, or of row 0 */
    int32_t n_row, n_broken;
    int32_t first_broken; /* position; -1 */
} read_check;

typedef struct op_check {
    const trace_record *record; /* NULL: the op is not recorded */
    int32_t n_in, n_weight;
    read_check in[TRACE_IN_MAX];
    read_check weight[TRACE_WEIGHT_MAX];
    bool is_eps_broken, is_count_broken; /* the record shows another number than the model's */
} op_check;

/* Judges every operand of the op by its hash, and the numbers it was given. */
void op_check_reads(const run_site *run, const op_expected *op, op_check *out);
/* Whether any operand or number is broken. */
bool op_check_is_broken(const op_check *c);

/* What the cache row of a position held when the token of the site read it, by the records of its
 * session; false: no record says. */
bool run_cache_row(const run_site *run, stage name, int32_t layer, int32_t position,
                   row_hash *hash);
/* Row `position` of what attention says it read from a cache of rows of `width` values, if its
 * values were kept; NULL: not. */
const void *cache_row_read(const trace_tensor *read, int64_t width, int32_t position);

/* ---- Provenance ------------------------------------------------------------------------------
 */

/* The captured row with this content: in the run's own traces, else in the other run's; else one
 * with the same values in another order. `name` and `layer` are what should have been read:
 * of several rows that of the same stage comes first, else the one written last. */
void provenance_find(const run_site *run, const read_expected *should, row_hash content,
                     finding_source *out);
/* The tensor with this content among the weights of the model; "" if there is none. */
const char *provenance_tensor(const run_site *run, row_hash content, char name[TRACE_NAME_MAX]);

/* How two rows of n values are the same values, put otherwise. */
#define TRANSFORM_TEXT 64
/* "", or what turns `x` into `y`: "negated", "scaled by 0.125", "shifted by 1", "halves
 * interleaved", "heads 0 and 1 swapped", "transposed (8 x 12)". head_dim 0: unknown. */
const char *transform_find(const float *x, const float *y, int64_t n, int32_t head_dim,
                           char out[TRANSFORM_TEXT]);

#endif
