/* trace.h - writing and reading traces, and choosing what goes in. Format: docs/trace-format.md. */
#ifndef GRETA_TRACE_TRACE_H
#define GRETA_TRACE_TRACE_H

#include "base/error.h"
#include "trace/record.h"

#include <stdbool.h>

/* ---- Selection ------------------------------------------------------------------------------- */

typedef struct trace_selector trace_selector;

/* Parses the options once. Errors name the field ("stages", "layers", ...). `options` is copied. */
greta_status trace_selector_new(const greta_trace_options *options, int32_t n_layer,
                                trace_selector **out, greta_error *err);
void trace_selector_free(trace_selector *selector);
/* Whether any row of a (stage, layer) can be selected in this phase: one lookup per op. */
bool trace_selects_op(const trace_selector *s, stage name, int32_t layer, greta_phase phase);
/* Whether this token is: `is_last` = last row of its sequence in the pass. */
bool trace_selects_row(const trace_selector *s, int32_t position, bool is_last);
/* Whether attention's records keep the rows of the cache that they read. */
bool trace_selects_cache(const trace_selector *s);
/* Values to keep of a row of n: n, 0 or the sample. */
int64_t trace_selects_values(const trace_selector *s, int64_t n);

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct trace_writer trace_writer;

/* Creates <path>.partial and <path>.blob.partial, locked; writes the header. Refuses an existing
 * trace unless options->overwrite, and one that another process is writing. */
greta_status trace_writer_new(const greta_trace_options *options, const trace_header *header,
                              trace_writer **out, greta_error *err);
/* Blob bytes first, then the record line, checksum chained. record->n, blob_offset and blob_bytes
 * are filled in by the writer; data of out/in/weight tensors with n_kept > 0 is written.
 * At bytes_max the writer stops: this and later calls return GRETA_OK and write nothing more. */
greta_status trace_writer_add(trace_writer *writer, trace_record *record, greta_error *err);
/* Whether bytes_max was reached. */
bool trace_writer_is_full(const trace_writer *writer);
/* Footer {status, count, digest}, fsync, rename to the final names. Frees the writer, on error too.
 * status: "complete", "interrupted"; becomes "truncated" when bytes_max was reached. */
greta_status trace_writer_end(trace_writer *writer, const char *status, greta_error *err);

/* ---- Reading --------------------------------------------------------------------------------- */

/* What of a record orders, pairs and finds it. */
typedef struct trace_head {
    uint64_t line;       /* where its line begins in the file */
    uint64_t prefix;
    int64_t pass;
    row_hash content;    /* of the first output; WEIGHT: of the weight; INDEX: none */
    uint64_t body;       /* ROW: equal in two records whose tensors and numbers are; 0: a tensor has
                            no hash, so that nobody knows */
    const void *values;  /* of that tensor, if all were kept, else NULL; INDEX: its hashes */
    int64_t n;           /* of its values; INDEX: of its hashes */
    int32_t sequence, position, row, layer; /* INDEX: position and row of the first hash */
    uint8_t name, kind, phase;              /* stage, trace_kind, greta_phase */
    dtype type;
} trace_head;

typedef struct trace {
    trace_header header;
    trace_record *record;    /* (n_record), file order; NULL: opened by trace_open_heads */
    const trace_head *head;  /* (n_record); NULL in a trace that was put together by hand */
    size_t n_record;
    char status[16];         /* of the footer; "torn": there is none */
    /* Checksums: of the header, which names the writing process, and of the last body line, hence
     * of the body: equal body sums mean equal bodies. */
    uint64_t header_sum, body_sum;
    char path[256];
    struct trace_impl *impl; /* owns strings, buffers and the blob map */
} trace;

/* Reads and checks the whole file: chained checksums, ordinals, footer digest, blob spans and the
 * hashes of kept rows. A torn tail is a warning (status "torn", records up to it);
 * damage in the middle is GRETA_BAD_INPUT with the line. */
greta_status trace_open(const char *path, trace **out, greta_error *err);
/* The same, all of it checked once, but of records only the heads stay in memory: about 100 bytes
 * each, whatever their rows hold. `watch` may be NULL. */
greta_status trace_open_heads(const char *path, const greta_watch *watch, trace **out,
                              greta_error *err);
void trace_close(trace *t);

/* Record i: the trace's own, or read once more from its line into *room. Values lie in the blob's
 * map either way. If the file was changed meanwhile the record may be empty: ask trace_check. */
const trace_record *trace_at(const trace *t, size_t i, trace_record *room);
trace_head trace_head_of(const trace *t, size_t i);
trace_head trace_head_new(const trace_record *record); /* line: 0 */
/* Gives back the memory in which pages of the two files were mapped; they stay readable. */
void trace_forget(const trace *t);
/* GRETA_IO if one of the files was rewritten since it was opened. */
greta_status trace_check(const trace *t, greta_error *err);
/* First record of kind ROW with this key; NULL: none, or records are not held. Use position -1 for
 * any. */
const trace_record *trace_find(const trace *t, stage name, int32_t layer, int32_t position,
                               greta_phase phase);

#endif
