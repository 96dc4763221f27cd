/* op_replay.h - recompute any op of the op list at one token from recorded operands.
 *
 *     op_place at = {model, list, index, position, kv_type, n_ctx};
 *     op_case_build(&at, &rows, &c, err);             // rows: where recorded rows are found
 *     if (op_case_check(&c, missing)) {
 *         op_output_new(&c, &y, err);
 *         op_replay(op_replay_table(record->kernel), &c, &y, err);      // bits
 *         op_replay_f64(&c, &contract, exact, err);                     // what they stand for
 *     }
 *     op_output_free(&y);  op_case_free(&c);
 *
 * A case is data: the op with its numbers, its weights as views, its rows as they were recorded,
 * the tables. To ask "what if" is to copy the struct and change one member; the replay
 * does not know what is healthy. It reads no engine state and never runs the kernels that made the
 * record. It costs what one op of one token costs at decode.
 */
#ifndef GRETA_REPLAY_OP_REPLAY_H
#define GRETA_REPLAY_OP_REPLAY_H

#include "kernel/kernel.h"
#include "model/model.h"
#include "replay/op_variant.h"

#include <stdbool.h>

/* A row as traces keep it: F32, F16 and I32 values, or ACT_Q8: codes int8[n], then float[n / 32].
 * values need not be aligned. */
typedef struct op_operand {
    dtype type;
    int64_t n;
    const void *values; /* NULL: not recorded */
} op_operand;

/* One op at one token. Plain data but for the two lists of rows, which op_case_free frees; copies
 * share them, and everything that pointers point at. */
typedef struct op_case {
    op op;                    /* edges are not looked at */
    op_operand in[OP_IN_MAX]; /* what it reads, in order; of ATTENTION only the query */
    op_operand out;           /* type and n of what it writes; values unused */
    int64_t position;
    /* ATTENTION: cache rows of positions 0 .. n_key of the sequence, (n_head_kv, head_dim) in
     * kv_type each. The op sees those in front of `end`, and of them the last op.window ones. */
    const void **key, **value;
    int64_t n_key, end;
    const int32_t *kv_head; /* ATTENTION: (n_head) kv head of each query head; NULL: h / group */
    dtype kv_type;          /* F16 or F32: KV_STORE writes it, ATTENTION reads it */
    rope_table_args rope;   /* ROPE: the angles of `position` */
    const float *cos_sin;   /* ROPE: (rope_dim / 2, 2) instead of them; NULL: none */
    op_variant variant;     /* another arithmetic than the definition's; all zero: none */
    double *work;           /* each replay adds op_work; NULL: nobody counts */
} op_case;

/* Where recorded rows are found: what the op of this stage and layer wrote at a position of the
 * logical sequence that is being looked at. STAGE_TOKENS gives token ids. */
typedef struct op_rows {
    bool (*find)(void *user, stage name, int32_t layer, int64_t position, op_operand *row);
    void *user;
} op_rows;

/* An op of a list at a position. The model and the list must outlive what is built. */
typedef struct op_place {
    const struct greta_model *model;
    const op_list *list;
    int32_t index;
    int64_t position;
    dtype kv_type;
    int32_t n_ctx; /* of the session: longrope chooses by it */
    double *work;  /* of its cases */
} op_place;

/* The case of what the op should have read: the rows that its producers wrote for this position,
 * and for attention the rows of all positions up to it. Rows that are not found stay NULL. */
greta_status op_case_build(const op_place *at, const op_rows *rows, op_case *c, greta_error *err);
void op_case_free(op_case *c);

#define OP_MISSING_MAX 96
/* Whether everything is there, and fits: types, lengths, token and expert ids, shapes of weights.
 * False: `missing` says what is not ("the row of attn_norm"). Whatever a trace holds, a case that
 * passes can be replayed. */
bool op_case_check(const op_case *c, char missing[OP_MISSING_MAX]);

/* What an op costs, in multiplications of a token at this position: products and attention by their
 * shapes, any other op by the `n` values it writes. */
double op_work(const op *o, int64_t n, int64_t position);

typedef struct op_output {
    dtype type;
    int64_t n;
    size_t bytes;
    void *values;  /* as in op_operand, 64-byte aligned; owned */
    float inv_rms; /* RMS_NORM, HEAD_NORM (of the last head); else NAN */
} op_output;

greta_status op_output_new(const op_case *c, op_output *out, greta_error *err);
void op_output_free(op_output *out);
/* Bytes of a row as op_operand has it. */
size_t op_row_bytes(dtype type, int64_t n);

/* The table that replays a record: `ref`; for a record of one build of ref, the other build, or
 * `ref` itself where the machine has no other. Never the table that made the record but then. */
const kernel_table *op_replay_table(const char *recorded_by);
/* The op's row, by this table's kernels on the file's layout of the weights (or, where the variant
 * says so, by op_variant.c's arithmetic). GRETA_BAD_INPUT: the case does not pass op_case_check.
 */
greta_status op_replay(const kernel_table *table, const op_case *c, op_output *out,
                       greta_error *err);

/* What a side says of itself. */
typedef struct op_contract {
    act_contract act; /* are rows quantised in front of quantised weights? */
    dtype kv;         /* type of the cache */
} op_contract;

/* The op in binary64 on the stored weights, ws q + wm unrounded: out.n values. Rows are quantised
 * and rounded to the cache type exactly where the contract says so, and nowhere else; a variant is
 * not looked at. QUANTIZE and KV_STORE give the values their rows stand for, TOP_K its ids. */
greta_status op_replay_f64(const op_case *c, const op_contract *contract, double *out,
                           greta_error *err);

#endif
