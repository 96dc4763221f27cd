/* record.h - what a trace says: one header, records, one footer. docs/trace-format.md is the text.
 *
 * A `row` record is one op at one token: what it was given, what it read (values as read, with
 * place and hash), the weights as read, and what it wrote. An `index` record holds the hashes of
 * the rows that one op wrote in one pass for one sequence, so that provenance can be searched over
 * rows that were not selected. A `weight` record holds the hash of a weight as the model file
 * holds it.
 * This room knows no model and no engine.
 */
#ifndef GRETA_TRACE_RECORD_H
#define GRETA_TRACE_RECORD_H

#include "base/dtype.h"
#include "base/hash.h"
#include "base/stage.h"
#include "greta.h"

#include <stdbool.h>

#define TRACE_FORMAT_VERSION 1
#define TRACE_IN_MAX 4
#define TRACE_WEIGHT_MAX 3
#define TRACE_OUT_MAX 3
#define TRACE_NAME_MAX 128

typedef enum trace_kind { TRACE_ROW, TRACE_INDEX, TRACE_WEIGHT } trace_kind;

/* A row of values somewhere: symbolic place, statistics, content hashes, kept values. */
typedef struct trace_tensor {
    stage name;               /* whose output this is: the edge's stage; weights: STAGE_NONE */
    int32_t layer;
    char tensor[TRACE_NAME_MAX]; /* weights: the tensor's name; else "" */
    int64_t first_row;        /* weights: first row of the view */
    char buffer[32];          /* "x0", "kv.k.3"; header's buffer map gives its address */
    int64_t row;              /* row of the buffer */
    uint64_t offset, stride;  /* bytes: of the row in the buffer, between rows */
    int64_t slot;             /* KV slot; -1: not in the cache */
    uint64_t generation;      /* times the slot was written before this op ended */
    dtype type;
    int64_t n;                /* values of the whole row */
    float min, max, sumsq;
    uint64_t n_nonfinite;
    row_hash hash;            /* of the whole row */
    /* kept values: the first n_kept of the row. f32: floats; ACT_Q8: codes int8[n_kept] then
     * scales float[ceil(n_kept / 32)]; KV f16: uint16; I32: int32. Other types keep nothing. The
     * writer rounds n_kept of an ACT_Q8 row up to whole blocks of 32. */
    int64_t n_kept;
    uint64_t blob_offset, blob_bytes;
    const void *data;         /* writer: the row as it lies in memory; reader: in the blob's map */
} trace_tensor;

typedef struct trace_record {
    trace_kind kind;
    uint64_t line;            /* reader: line in the file, from 1 */
    uint64_t n;               /* ordinal, strictly rising from 0 */
    /* pairing key */
    uint64_t prefix;          /* hash of token ids 0..position */
    int32_t token, position, layer;
    stage name;
    /* attributes */
    greta_phase phase;
    int64_t pass, chunk_rows; /* pass number in the session; rows in the pass. INDEX: hashes */
    int32_t sequence, row;    /* row in the pass. INDEX: of the first hash */
    int32_t first_position;   /* position of row 0 of the pass. INDEX: of the first hash */
    const char *op;           /* "rms_norm"; reader: owned by the trace */
    const char *kernel;       /* "ref-avx2" */
    /* parameters the kernel was given, and what it reports */
    int has_norm;
    float eps, inv_rms;
    int64_t count;
    int32_t n_in, n_weight, n_out;
    trace_tensor in[TRACE_IN_MAX];
    trace_tensor weight[TRACE_WEIGHT_MAX];
    /* INDEX: out[0] alone, data = row_hash[chunk_rows] in the blob, n_kept 0, n values in each row.
     * WEIGHT: weight[0] alone. */
    trace_tensor out[TRACE_OUT_MAX];
} trace_record;

typedef struct trace_buffer { /* header's buffer map: shown, proves nothing */
    char name[32];
    uint64_t address, bytes;
} trace_buffer;

typedef struct trace_header {
    int format, stage_list;
    int arithmetic;           /* version of docs/numerics.md; 0: other than any of them */
    char greta[32];           /* library version */
    char model_name[TRACE_NAME_MAX], arch[32];
    uint64_t model_hash, tokenizer_hash;
    char prompt_id[TRACE_NAME_MAX]; /* "" */
    int32_t n_layer, n_embd, n_vocab;
    int32_t n_ctx, n_sequence, n_chunk, n_thread;
    char rounding[32];        /* class of op_bound.h that the rows claim ("f32"); "": with this
                                 build's arithmetic they are its bits, else nothing is claimed */
    char kv[8], act[8], kernel[32], cpu[128], compiler[64];
    char device[128]; /* that computed it, as its vendor spells it; "": the CPU */
    uint32_t mxcsr;
    char selection_stages[512], selection_layers[128], selection_phases[32], selection_tokens[128];
    int64_t sample;
    uint64_t bytes_max;
    char notes[256];          /* "unknown bytes dropped: 3"; "" */
    uint64_t dropped;         /* reader: 0 */
    const trace_buffer *buffer;
    size_t n_buffer;
    int64_t process;          /* that wrote the trace; filled in by the writer */
} trace_header;

/* ---- Kept values (values.c) --------------------------------------------------------------------
 * The words that base/hash.h hashes: F32 as bits (every NaN 7fc00000), F16 as zero-extended bits
 * (every NaN 7e00), I32 as it is, ACT_Q8 as sign-extended codes, then the scales as F32. A hash of
 * {0, 0} says that none was taken. */

/* Bytes of n kept values; false: the type cannot be kept, or n is no whole number of blocks. */
bool trace_values_bytes(dtype type, int64_t n, uint64_t *bytes);
/* The hash of a row of a type that can be kept; `values` need not be aligned. */
row_hash trace_values_hash(dtype type, const void *values, int64_t n);
/* Adjacent values, F16 or F32, which are values first, first + step .. of a longer row. */
typedef struct trace_piece {
    const void *values;
    int64_t n, first, step;
} trace_piece;
/* Adds them to the row's hash. */
void trace_values_hash_add(row_hash *hash, dtype type, const trace_piece *piece);

#endif
