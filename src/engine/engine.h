/* engine.h - what the files of engine/ share: the session and its plan. */
#ifndef GRETA_ENGINE_ENGINE_H
#define GRETA_ENGINE_ENGINE_H

#include "engine/session.h"

typedef struct buffer {
    uint8_t *base;
    size_t stride; /* bytes between rows, a multiple of 64 */
    int64_t n_row;
} buffer;

/* How the outputs of an op are dealt to threads. */
typedef enum split_kind {
    SPLIT_CALLER, /* not at all */
    SPLIT_TOKENS,
    SPLIT_PARTS,  /* n_part parts of every row: `unit` columns, the last perhaps fewer; kv heads */
    SPLIT_BLOCKS, /* attention: (block of tokens, kv head) pairs, in turn */
} split_kind;

typedef struct op_split {
    split_kind kind;
    int32_t n_part, unit;
} op_split;

/* Splits and groups of a list, for passes of one row or of many (schedule.c). */
typedef struct schedule {
    op_split *split; /* (n_op) */
    int32_t *end;    /* (n_op) index after the last op of the op's group */
    int is_single;
} schedule;

greta_status schedule_build(const greta_session *session, const op_list *list, int is_single,
                            schedule *out, greta_error *err);
void schedule_free(schedule *groups);

/* Where edges live and how ops are dealt to threads. One plan serves the healthy list and an
 * override: they have the same edges. */
typedef struct plan {
    schedule schedule[2][2]; /* [healthy, override][many rows, one row] */
    int32_t *
        slot; /* (n_edge, 2): buffer of an edge in even and in odd passes; -1: KV cache or tokens */
    int32_t n_edge;
    buffer *buffer;
    int32_t n_buffer;
    uint8_t *memory; /* `bytes` of it; of a device session the shadow (device.h) */
    size_t bytes;
} plan;

#define FUSED_MAX 4 /* ops that a device may take as one (device_launch.c) */

greta_status plan_build(const greta_session *session, const op_list *a, const op_list *b, plan *out,
                        greta_error *err);
void plan_free(plan *p);

typedef struct observer observer; /* observe.c: the trace of a session */

struct greta_session {
    struct greta_model *model;
    greta_session_options options; /* resolved */
    const kernel_table *table;
    struct device *device; /* where ops run (device.h); NULL: here, on `table` */
    int is_packed;         /* matmuls read the model's packed weights */
    thread_pool *pool;
    op_list healthy, override; /* override.op NULL: none */
    /* Of the override, not owned. */
    uint32_t override_phases;
    const kernel_table *alternate;
    const op_trigger *trigger;
    const float *const *alternate_cos_sin;
    plan plan;
    /* KV cache (cache.c) */
    kv_shape kv;
    size_t kv_row_bytes, kv_sequence_bytes; /* of one layer's keys, or values */
    uint8_t *kv_memory;                     /* (n_layer, keys and values, n_sequence) */
    int32_t *n_cached;                      /* (n_sequence) positions held */
    uint64_t *prefix;                       /* (n_slot) hash of the ids up to this position */
    uint64_t *generation;                   /* (n_slot) times the slot was written */
    float *cos_sin[2]; /* (n_ctx, rope_dim / 2, 2): of the model, and of layers with a window, if
                          they have their own (op.rope_table) */
    uint8_t *expert_scratch; /* (n_thread, expert_scratch_bytes) */
    size_t expert_scratch_bytes;
    /* The pass. */
    int64_t pass; /* number of the current one, from 0 */
    greta_phase phase;
    greta_row *row, *row_previous; /* (n_chunk) of the pass, of the one before */
    greta_row *feed;               /* (n_chunk) scratch of feed */
    int64_t n_row, n_row_previous;
    int32_t *want; /* rows whose logits are wanted, ascending */
    int64_t n_want;
    float *inv_rms;         /* (n_chunk) what the last norm op reported per row */
    const float *logits;    /* (n_want, n_vocab) of the last pass */
    size_t logits_stride;   /* floats */
    observer *trace;        /* NULL: off */
    greta_capture *capture; /* likewise */
};

const op_list *session_list(const greta_session *s, greta_phase phase);
const kernel_table *session_table(const greta_session *s, const op *o);
/* The name of what computes an op: of its table, or of the device's kernels. */
const char *session_kernel(const greta_session *s, const op *o);
/* The op that token t of an op of the pass's list really runs: itself, or the healthy one where its
 * trigger does not hold or there is no such row to read (override.c). */
const op *session_op(const greta_session *s, const op *o, int64_t t);
/* Every token runs the op itself. */
int op_is_uniform(const op *o);
/* Angles of a position, for a ROPE op: (rope_dim / 2, 2). */
const float *session_cos_sin(const greta_session *s, const op *o, int32_t position);
/* The row whose token an EMBED op reads for token t; the sequence whose cache an input reads. */
const greta_row *token_read(const greta_session *s, const op *o, int64_t t);
static inline int32_t sequence_read(const op *o, int input, const greta_row *row)
{
    return row->sequence + o->in[input].row;
}

/* Rows of an edge in this pass as an op reads or writes them. */
typedef struct rows {
    uint8_t *base;
    size_t stride;        /* 0: every token reads the same row (a delayed read) */
    const int32_t *index; /* row of token t is index[t]; NULL: t */
    int32_t buffer;       /* index into plan.buffer; -1: none */
    int64_t first;        /* row of the buffer that `base` is */
} rows;

rows rows_read(const greta_session *s, const op *o, int input);
rows rows_written(const greta_session *s, const op *o, int output);
static inline uint8_t *rows_at(const rows *r, int64_t token)
{
    return r->base + (size_t)(r->index ? r->index[token] : token) * r->stride;
}
/* Tokens an op works on: all of the pass, or those whose logits are wanted. */
int64_t op_tokens(const greta_session *s, const op *o);
/* Row of the pass of an op's token t. */
int64_t op_row(const greta_session *s, const op *o, int64_t t);
/* Contiguous share of [0, n). */
typedef struct span {
    int64_t first, last;
} span;

span share(int64_t n, int32_t thread, int32_t n_thread);

/* ---- KV cache ---- */
greta_status cache_new(greta_session *s, greta_error *err);
void cache_free(greta_session *s);
void cache_fork(greta_session *s, int32_t source, int32_t target);
int64_t row_slot(const greta_session *s, const greta_row *row);
kv_side cache_side(const edge *e);
/* All sequences of a layer's keys or values; one sequence of a cache edge. */
size_t cache_layer_bytes(const greta_session *s);
uint8_t *cache_layer(const greta_session *s, int32_t layer, kv_side side);
uint8_t *cache_of(const greta_session *s, const edge *e, int32_t sequence);
/* A row of a cache edge, gathered: (n_head_kv, head_dim), kv_row_bytes. */
void cache_row(const greta_session *s, const edge *e, const greta_row *at, void *row);

/* Packs what this session's table wants packed. */
greta_status session_pack(greta_session *s, greta_error *err);
/* The packed rows of a view; NULL: read the file's. */
const uint8_t *packed_view(const greta_session *s, const kernel_table *table,
                           const weight_view *view);

/* Scratch of OP_EXPERT_MATMUL, if the model has experts (walk_experts.c). */
greta_status experts_new(greta_session *s, greta_error *err);
/* Some rows of the matrices of all experts that some tokens of the pass have chosen. */
typedef struct expert_piece {
    span token, column;
    int32_t thread;
} expert_piece;
void walk_experts(greta_session *s, const op *o, const expert_piece *mine);

/* Statistics and hash of a row of an edge. */
void row_look(const greta_session *s, dtype type, const void *row, int64_t n, row_stats *stats);

/* Runs every op of the phase's list on the rows of the pass. */
void walk_list(greta_session *s);
void observe_op(greta_session *s, const op *o);
void observer_free(observer *o);
dtype edge_type(const greta_session *s,
                const edge *e); /* of its rows; a cache's is the session's */
/* The header of a trace without its buffer map; the part that says what was selected. */
void observer_header(greta_session *s, const greta_trace_options *options, trace_header *header);
void observer_selection(const greta_trace_options *options, trace_header *header);

/* ---- Capture (capture.c) ---- */
/* The session ends with its capture. */
void capture_abandon(greta_session *s);
/* Room for a batch that is about to become a pass; refuses it when there is none. */
greta_status capture_reserve(greta_session *s, const greta_batch *batch, greta_error *err);
/* The pass has begun. */
void capture_pass(greta_session *s);
/* Where what an op of the list has written is kept: statistics from `stats` on, values of a row
 * `stride` bytes after those of the row before; values NULL: not kept. */
typedef struct capture_room {
    row_stats *stats;
    uint8_t *values;
    size_t stride, bytes;
} capture_room;

capture_room capture_room_of(const greta_session *s, int32_t i);
/* Statistics of a pass: of op 0 first, n of them. */
row_stats *capture_stats(const greta_session *s, int64_t *n);
int capture_keeps_values(const greta_session *s);
/* This thread's share of the rows that ops [first, last) have written. */
void capture_look(const greta_session *s, span ops, int32_t thread, int32_t n_thread);
/* The plan again, after an override or a capture came or went. */
greta_status session_replan(greta_session *s, greta_error *err);

#endif
