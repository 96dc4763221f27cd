/* stage_bits.h - what a session computed, kept in memory as integers, for tests that compare runs.
 *
 * A program that includes this has its own trace writer: it takes the records that the library's
 * real observer makes and keeps the hash and the statistics of every row that every op wrote, by
 * (position, layer, stage), and nothing else. No trace is written, so that ten thousand traced runs
 * take minutes; what is compared is what a trace would have said. The functions of trace.h's writer
 * are defined here, and the linker then leaves the library's own writer out: include this in one
 * file of a program that does not write traces.
 */
#ifndef GRETA_TESTS_STAGE_BITS_H
#define GRETA_TESTS_STAGE_BITS_H

#include "base/stage.h"
#include "engine/session.h"
#include "greta.h"
#include "trace/trace.h"

#include <stdlib.h>
#include <string.h>

#define BITS_SEQUENCES_MAX 8

/* What one op left at one position. n 0: nothing was recorded. */
typedef struct bits_cell {
    row_hash hash;
    uint32_t stat[4]; /* where the row was selected: min, max, sumsq, inv_rms (norms) as bits */
    int32_t n;        /* values of the row */
    int32_t is_selected;
} bits_cell;

/* Token ids, and the positions whose logits are wanted: all, or one of 32 and the last four. */
typedef struct bits_sequence {
    const int32_t *id;
    int32_t n;
    int wants_all;
} bits_sequence;

/* Everything that a run computed for one sequence. */
typedef struct stage_bits {
    int32_t n_layer, n_position, n_vocab;
    int32_t n_op, n_op_wanted; /* of the list that was run; those that run for wanted rows only */
    bits_cell *cell;           /* (n_position, bits_width) in the order of execution */
    uint32_t *logits;          /* (n_position, n_vocab) bits; rows that were not wanted stay 0 */
    int n_twice;               /* rows recorded a second time: our bug */
} stage_bits;

/* Rows of a stage per position: before the layers, in each layer, after them. */
static inline int32_t bits_width(const stage_bits *b)
{
    return (b->n_layer + 2) * STAGE_COUNT;
}

static inline int32_t bits_index(const stage_bits *b, stage name, int32_t layer)
{
    int32_t block = stage_is_per_layer(name) ? layer + 1
                    : name < STAGE_ATTN_NORM ? 0
                                             : b->n_layer + 1;
    return block * STAGE_COUNT + (int32_t)name;
}

/* The layer of an index; -1: not in a layer. */
static inline int32_t bits_layer(const stage_bits *b, int32_t index)
{
    int32_t block = index / STAGE_COUNT;
    return block == 0 || block == b->n_layer + 1 ? -1 : block - 1;
}

static inline int bits_wants(const bits_sequence *s, int32_t position)
{
    return s->wants_all || position % 32 == 31 || position >= s->n - 4;
}

static inline uint32_t bits_word(float value)
{
    return hash_float_bits(value);
}

static inline int bits_new(stage_bits *b, const bits_sequence *s, const greta_model_info *info)
{
    *b = (stage_bits){.n_layer = info->n_layer, .n_position = s->n, .n_vocab = info->n_vocab};
    b->cell = calloc((size_t)s->n * (size_t)bits_width(b), sizeof *b->cell);
    b->logits = calloc((size_t)s->n * (size_t)info->n_vocab, sizeof *b->logits);
    return b->cell && b->logits;
}

static inline void bits_free(stage_bits *b)
{
    free(b->cell);
    free(b->logits);
    *b = (stage_bits){0};
}

/* A model for mkmodel. */
typedef struct bits_model {
    const char *type, *extras;
    const char *name; /* NULL: the type says it */
} bits_model;

/* One per weight type, each with other extras. */
static const bits_model bits_models[] = {
    {"F32", "", NULL},
    {"F16", "--embd-type F16 --untied", NULL},
    {"BF16", "--untied --bias", NULL},
    {"Q8_0", "--bias --vocab 301", NULL},
    {"Q4_0", "--heads 16 --heads-kv 4 --head-dim 10 --untied", NULL},
    {"Q4_1", "--rope-factors", NULL},
    {"Q5_0", "--heads 2 --heads-kv 2 --head-dim 48", NULL},
    {"Q5_1", "--untied", NULL},
    {"Q4_K", "--heads 8 --heads-kv 2 --head-dim 32 --untied", NULL},
    {"Q5_K", "--bias --untied", NULL},
    {"Q6_K", "--heads 4 --heads-kv 1 --head-dim 64 --embd-type F16", NULL},
    {"IQ4_NL", "--heads 4 --heads-kv 2 --head-dim 24", NULL},
    {"IQ4_XS", "--untied --embd-type IQ4_XS", NULL},
    {"MXFP4", "--bias --untied", NULL},
    {"Q2_K", "--untied --embd-type Q2_K", NULL},
    {"Q3_K", "--heads 4 --heads-kv 2 --head-dim 64 --embd-type Q3_K", NULL},
};
#define BITS_MODELS (sizeof bits_models / sizeof *bits_models)

/* Architectures, with windows at and around the tile of 64 positions and far below a prompt, and
 * rotary scaling. Longrope chooses its factors by the session's context, of which a run has as much
 * as its longest sequence: an original context of 4 is below all of them, 1000 above. */
static const bits_model bits_archs[] = {
    {"F32", "--window 100 --rope-scaling linear", "llama, window 100"},
    {"Q8_0", "--experts 5 --experts-used 3 --split-experts", "llama, experts one by one"},
    {"Q4_0", "--arch qwen2 --rope-scaling yarn --window 1", "qwen2, yarn, window 1"},
    {"F16", "--arch qwen3 --untied", "qwen3"},
    {"Q4_K", "--arch qwen3moe --ff 256 --window 63 --window-period 2", "qwen3moe, window 63"},
    {"Q5_1", "--arch gemma2 --window 64 --attn-scale 0.3", "gemma2, window 64"},
    {"Q4_1", "--arch gemma3 --layers 3 --window-period 2 --window 65", "gemma3, window 65"},
    {"BF16", "--arch gemma3 --layers 7", "gemma3, window 37"},
    {"Q8_0", "--arch olmo2 --heads 4 --heads-kv 2", "olmo2"},
    {"IQ4_NL", "--arch olmo2 --layers 5 --window 99 --rope-scaling yarn", "olmo3, window 99"},
    {"Q8_0", "--arch phi3 --ctx-original 4 --window 127", "phi3, long factors, window 127"},
    {"Q5_0", "--arch phi3 --ctx-original 1000 --window 128", "phi3, short factors, window 128"},
};

#define BITS_ARCHS (sizeof bits_archs / sizeof *bits_archs)

/* ---- The writer ------------------------------------------------------------------------------ */

/* Where the records of the traced session go: one entry per sequence of the session. */
static stage_bits *bits_target[BITS_SEQUENCES_MAX];

struct trace_writer {
    int is_open;
};

greta_status trace_writer_new(const greta_trace_options *options, const trace_header *header,
                              trace_writer **out, greta_error *err)
{
    static trace_writer only;
    (void)options, (void)header, (void)err;
    only.is_open = 1;
    *out = &only;
    return GRETA_OK;
}

static inline bits_cell *bits_at(const trace_record *record, int32_t position)
{
    stage_bits *b = bits_target[record->sequence];
    return b->cell + (size_t)position * (size_t)bits_width(b) +
           bits_index(b, record->name, record->layer);
}

/* A ROW record holds everything about one row; an INDEX record the hashes of all rows that an op
 * wrote, selected or not, and comes after the ROW records of the same op. */
greta_status trace_writer_add(trace_writer *writer, trace_record *record, greta_error *err)
{
    const trace_tensor *out = &record->out[0];
    (void)writer, (void)err;
    if (record->kind == TRACE_ROW) {
        bits_cell *cell = bits_at(record, record->position);
        bits_target[record->sequence]->n_twice += cell->n != 0;
        *cell =
            (bits_cell){.hash = out->hash,
                        .stat = {bits_word(out->min), bits_word(out->max), bits_word(out->sumsq),
                                 record->has_norm ? bits_word(record->inv_rms) : 0},
                        .n = (int32_t)out->n,
                        .is_selected = 1};
    }
    const row_hash *hash = out->data;
    for (int64_t i = 0; record->kind == TRACE_INDEX && i < record->chunk_rows; i++) {
        bits_cell *cell = bits_at(record, record->first_position + (int32_t)i);
        bits_target[record->sequence]->n_twice += cell->n != 0 && !cell->is_selected;
        cell->hash = hash[i];
        cell->n = (int32_t)out->n;
    }
    return GRETA_OK;
}

bool trace_writer_is_full(const trace_writer *writer)
{
    return !writer->is_open;
}

greta_status trace_writer_end(trace_writer *writer, const char *status, greta_error *err)
{
    (void)status, (void)err;
    writer->is_open = 0;
    return GRETA_OK;
}

/* ---- A run ----------------------------------------------------------------------------------- */

/* Sequences taken through the same passes: the prefill in chunks of up to `chunk` rows of each,
 * then the last n_decode tokens of all of them, one row of each in a pass. `selected` names the
 * positions whose rows get statistics beside their hash, as greta_trace_options.tokens does. */
typedef struct bits_run {
    const greta_session_options *options; /* n_ctx, n_chunk and n_sequence are set here */
    const bits_sequence *const *sequence;
    int32_t n_sequence, chunk, n_decode;
    const char *selected;
} bits_run;

static inline int32_t bits_prefill(const bits_run *run, int32_t q)
{
    return run->sequence[q]->n - run->n_decode;
}

static inline int32_t bits_chunk(const bits_run *run, int32_t q, int32_t at)
{
    int32_t left = bits_prefill(run, q) - at;
    return left < run->chunk ? left : run->chunk;
}

static inline greta_status bits_pass(greta_session *session, const greta_batch *batch,
                                     greta_error *err)
{
    GRETA_TRY(greta_session_eval(session, batch, err));
    size_t k = 0;
    for (size_t i = 0; i < batch->n; i++) {
        if (batch->row[i].want_logits) {
            stage_bits *b = bits_target[batch->row[i].sequence];
            const float *logits = greta_session_logits(session, k++);
            uint32_t *to = b->logits + (size_t)batch->row[i].position * (size_t)b->n_vocab;
            for (int32_t v = 0; v < b->n_vocab; v++) {
                to[v] = bits_word(logits[v]);
            }
        }
    }
    return GRETA_OK;
}

static inline greta_status bits_passes(greta_session *session, const bits_run *run, greta_row *row,
                                       greta_error *err)
{
    int32_t at[BITS_SEQUENCES_MAX] = {0}, n_decoded = 0;
    for (;;) {
        greta_batch batch = {.row = row, .phase = GRETA_PHASE_PREFILL};
        for (int32_t q = 0; q < run->n_sequence; q++) {
            for (int32_t i = bits_chunk(run, q, at[q]); i > 0; i--, at[q]++) {
                row[batch.n++] = (greta_row){run->sequence[q]->id[at[q]], at[q], q,
                                             bits_wants(run->sequence[q], at[q])};
            }
        }
        if (batch.n == 0 && n_decoded++ < run->n_decode) {
            batch.phase = GRETA_PHASE_DECODE;
            for (int32_t q = 0; q < run->n_sequence; q++, batch.n++) {
                row[batch.n] = (greta_row){run->sequence[q]->id[at[q]], at[q], q,
                                           bits_wants(run->sequence[q], at[q])};
                at[q]++;
            }
        }
        if (batch.n == 0) {
            return GRETA_OK;
        }
        GRETA_TRY(bits_pass(session, &batch, err));
    }
}

/* Runs the sequences and fills out[q] for each, made by bits_new. */
static inline greta_status bits_take(greta_model *model, const bits_run *run, stage_bits *out,
                                     greta_error *err)
{
    greta_session_options options = *run->options;
    options.n_sequence = run->n_sequence;
    options.n_ctx = options.n_chunk = 0;
    for (int32_t q = 0; q < run->n_sequence; q++) {
        int32_t n = run->sequence[q]->n;
        options.n_ctx = n > options.n_ctx ? n : options.n_ctx;
        options.n_chunk += run->chunk < n ? run->chunk : n;
        bits_target[q] = &out[q];
    }
    greta_session *session = NULL;
    greta_row *row = calloc((size_t)options.n_chunk, sizeof *row);
    if (!row) {
        return error_memory(err, "the rows of a pass", (size_t)options.n_chunk * sizeof *row);
    }
    greta_trace_options selected = {
        .size = sizeof selected, .path = "in memory", .tokens = run->selected};
    greta_status status = greta_session_new(model, &options, &session, err);
    for (int32_t q = 0; q < run->n_sequence && !status; q++) {
        const op_list *list = session_ops(session, GRETA_PHASE_PREFILL);
        out[q].n_op = list->n_op;
        for (int32_t i = 0; i < list->n_op; i++) {
            out[q].n_op_wanted += list->edge[list->op[i].out[0]].is_packed;
        }
    }
    status = status ? status : greta_trace_begin(session, &selected, err);
    status = status ? status : bits_passes(session, run, row, err);
    status = status ? status : greta_trace_end(session, "complete", err);
    greta_session_free(session);
    free(row);
    return status;
}

#endif
