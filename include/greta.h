/* greta.h - run a language model and explain its numbers. Link with -lgreta.
 *
 *     greta_error err = {0};
 *     greta_model *model = NULL;
 *     greta_session *session = NULL;
 *     greta_tokens ids = {0};
 *     if (greta_model_open("model.gguf", &model, &err) ||
 *         greta_tokenize(model, "Hello", 5, NULL, &ids, &err) ||
 *         greta_session_new(model, NULL, &session, &err) ||
 *         greta_session_feed(session, ids.id, ids.n, 0, &err)) {
 *         char line[GRETA_ERROR_LINE];
 *         fprintf(stderr, "%s\n", greta_error_line(&err, line));
 *     } else {
 *         const float *logits = greta_session_logits(session, 0); // (n_vocab)
 *     }
 *
 * Every function that can fail returns a status (0 is success) and fills *err once: the first error
 * wins. Pass a zeroed greta_error, or NULL. Out-parameters are set to NULL or 0 on failure.
 * The library never prints, exits, aborts on input or reads the environment.
 */
#ifndef GRETA_H
#define GRETA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GRETA_API __attribute__((visibility("default")))

/* ---- Errors ------------------------------------------------------------------------------- */

/* The values are the exit codes of the command line. */
typedef enum greta_status {
    GRETA_OK = 0,
    GRETA_FAULT = 1, /* a comparison found a fault, or a differing bit where bits are promised */
    GRETA_USAGE = 2, /* the caller asked for something impossible */
    GRETA_BAD_INPUT = 3,  /* a model, prompt or trace is damaged or not supported */
    GRETA_IO = 4,         /* the system failed: file, disk, memory, threads */
    GRETA_BUG = 5,        /* a broken promise of ours */
    GRETA_NO_VERDICT = 6, /* nothing could be compared, or the evidence does not decide */
} greta_status;

typedef enum greta_place { GRETA_PLACE_NONE, GRETA_PLACE_BYTE, GRETA_PLACE_LINE } greta_place;

#define GRETA_ERROR_LINE 1280

typedef struct greta_error {
    greta_status code;
    greta_place place; /* what `position` counts */
    uint64_t position; /* byte offset, or line from 1 */
    char file[256];
    char subject[160]; /* key, tensor, token or flag */
    char message[320]; /* what is wrong (what was expected) */
    char hint[160];    /* what to do */
} greta_error;

/* Formats `greta: <file>: <place>: <subject>: <message>; <hint>`, absent parts left out, names
 * escaped to printable ASCII. Returns `line`. */
GRETA_API const char *greta_error_line(const greta_error *err, char line[GRETA_ERROR_LINE]);

/* ---- Version ------------------------------------------------------------------------------ */

typedef struct greta_versions {
    const char *library; /* "0.1.0" */
    int api;             /* changes when this header breaks */
    int arithmetic;      /* docs/numerics.md; changes when any result bit changes */
    int trace_format;    /* docs/trace-format.md */
    int stage_list;      /* changes when a stage is added */
} greta_versions;

GRETA_API greta_versions greta_version(void);
/* "AMD EPYC ...; kernels: avx2, ref-avx2, ref": this CPU and the kernel tables it can run. */
GRETA_API const char *greta_cpu_describe(char *buffer, size_t bytes);

/* Every device a session can run on: this CPU, and what the plugins found drive (`plugins` as in
 * session options; NULL: none). A plugin or a device that does not work says why. *text is
 * malloc'd. */
GRETA_API greta_status greta_devices(const char *plugins, int json, char **text, greta_error *err);

/* Frees what a function below says is malloc'd. NULL is fine. */
GRETA_API void greta_free(void *memory);

/* ---- Model: immutable, shared between threads, reference-counted --------------------------- */

typedef struct greta_model greta_model;

/* `path`: a GGUF file, any part of a split one (the others lie beside it), or a Hugging Face folder
 * (config.json, *.safetensors, tokenizer.json). */
GRETA_API greta_status greta_model_open(const char *path, greta_model **model, greta_error *err);
GRETA_API greta_model *greta_model_retain(greta_model *model);
GRETA_API void greta_model_release(greta_model *model); /* NULL is fine */

typedef struct greta_model_info {
    const char *arch, *name; /* owned by the model */
    int32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
    int32_t n_ctx_train;    /* context length in the file */
    int32_t bos_id, eos_id; /* -1: the model has none */
    uint64_t n_parameters, bytes_weights;
} greta_model_info;

GRETA_API greta_model_info greta_model_describe(const greta_model *model);
/* Metadata, tensors, parameters, memory needed. *text is malloc'd. The file need not be a supported
 * architecture: inspect reads what the format allows. */
GRETA_API greta_status greta_inspect(const char *path, int json, char **text, greta_error *err);

/* ---- Tokens ------------------------------------------------------------------------------- */

typedef struct greta_tokens {
    int32_t *id; /* malloc'd; free with greta_free */
    size_t n;
    size_t n_dropped; /* bytes dropped under unknown_bytes_drop */
} greta_tokens;

typedef struct greta_tokenize_options {
    size_t size;            /* sizeof(greta_tokenize_options) */
    int no_bos;             /* do not add BOS/EOS although the model asks for it */
    int special;            /* text like <|im_end|> becomes the control token, not characters */
    int unknown_bytes_drop; /* drop bytes the vocabulary lacks instead of refusing */
} greta_tokenize_options;

/* options may be NULL: all fields 0. `text` is bytes, not necessarily UTF-8, NUL allowed. */
GRETA_API greta_status greta_tokenize(const greta_model *model, const char *text, size_t bytes,
                                      const greta_tokenize_options *options, greta_tokens *tokens,
                                      greta_error *err);
/* The bytes of one token, owned by the model; control tokens give their text. NULL: no such id. */
GRETA_API const char *greta_token_bytes(const greta_model *model, int32_t id, size_t *bytes);

typedef struct greta_detokenize_options {
    size_t size;         /* sizeof(greta_detokenize_options) */
    int is_continuation; /* text stands before: keep the space that begins the first word */
    int skip_control;    /* leave control tokens out */
} greta_detokenize_options;

/* The text of tokens, malloc'd, NUL-terminated; it may hold NUL and bytes that are no UTF-8.
 * Encoding may put a space in front of a text (SentencePiece): it is taken off again. But for that
 * space it is the bytes of the tokens, one after another. options may be NULL. */
GRETA_API greta_status greta_detokenize(const greta_model *model, const int32_t *id, size_t n,
                                        const greta_detokenize_options *options, char **text,
                                        size_t *bytes, greta_error *err);
GRETA_API int greta_token_is_end(const greta_model *model, int32_t id); /* EOS, EOT: stop here */
GRETA_API int greta_token_is_control(const greta_model *model, int32_t id);

typedef struct greta_message {
    const char *role, *content; /* "system" | "user" | "assistant"; UTF-8 */
} greta_message;

typedef struct greta_chat_options {
    size_t size;               /* sizeof(greta_chat_options) */
    int add_generation_prompt; /* end on the opening of the assistant's turn */
    int has_now;
    int64_t now; /* seconds since 1970 on the wall clock, for templates that ask for the date */
} greta_chat_options;

/* Renders the model's chat template as jinja2 does. options may be NULL. *text is malloc'd,
 * NUL-terminated. What is not supported in a template is refused by name and line. */
GRETA_API greta_status greta_chat(const greta_model *model, const greta_message *messages, size_t n,
                                  const greta_chat_options *options, char **text,
                                  greta_error *err);

/* ---- Session: one caller at a time; owns its KV cache and its threads ----------------------- */

typedef struct greta_session greta_session;

typedef enum greta_kv { GRETA_KV_F16, GRETA_KV_F32 } greta_kv;
typedef enum greta_act { GRETA_ACT_Q8, GRETA_ACT_F32 } greta_act; /* docs/numerics.md */

typedef struct greta_session_options {
    size_t size;
    int32_t n_ctx;      /* positions per sequence; 0: the model's, at most 4096 */
    int32_t n_sequence; /* 0: 1 */
    int32_t n_chunk;    /* most rows in one pass; 0: 512 */
    int32_t n_thread;   /* 0: one per online CPU */
    greta_kv kv;
    greta_act act;
    const char *cpu; /* kernel table: "ref", "ref-avx2", "avx2", "avx512"; NULL: the best here */
    int no_pack;     /* run from the mapped file: no second copy of the weights, slower */
    /* Where ops run: "cpu" or NULL; "cuda", "cuda:1", "hip:0". A session on a device never falls
     * back to the CPU. The model keeps what it uploaded until it is freed. */
    const char *device;
    const char *plugins; /* a folder to look in first for libgreta-NAME.so; NULL: none */
    void (*progress)(void *user, const char *what, uint64_t done, uint64_t total); /* of an upload,
                                                                      in bytes; may be NULL */
    void *progress_user;
} greta_session_options;

/* options may be NULL. Retains the model. All memory is allocated here: evaluation allocates none.
 */
GRETA_API greta_status greta_session_new(greta_model *model, const greta_session_options *options,
                                         greta_session **session, greta_error *err);
GRETA_API void greta_session_free(greta_session *session);
/* The options in force, zeros resolved. */
GRETA_API greta_session_options greta_session_describe(const greta_session *session);

typedef enum greta_phase { GRETA_PHASE_PREFILL, GRETA_PHASE_DECODE } greta_phase;

typedef struct greta_row {
    int32_t token, position, sequence;
    int32_t want_logits;
} greta_row;

typedef struct greta_batch {
    const greta_row *row; /* within a sequence: consecutive positions that extend what is cached */
    size_t n;             /* 1 to n_chunk */
    greta_phase phase;    /* recorded in traces; the numbers do not depend on it */
} greta_batch;

/* One pass over the op list. On failure the cache is as before. */
GRETA_API greta_status greta_session_eval(greta_session *session, const greta_batch *batch,
                                          greta_error *err);
/* Prefills ids at positions `from`.. of sequence 0 in chunks; logits of the last token are kept. */
GRETA_API greta_status greta_session_feed(greta_session *session, const int32_t *id, size_t n,
                                          int32_t from, greta_error *err);
/* (n_vocab) logits of the k-th row of the last pass that wanted them; NULL: there is none. */
GRETA_API const float *greta_session_logits(const greta_session *session, size_t k);
/* Forgets positions >= from. */
GRETA_API greta_status greta_session_drop(greta_session *session, int32_t sequence, int32_t from,
                                          greta_error *err);
/* Makes `target` a copy of `source`. */
GRETA_API greta_status greta_session_fork(greta_session *session, int32_t source, int32_t target,
                                          greta_error *err);

/* ---- Measurement (docs/benchmarks.md): the caller holds the clock ---------------------------- */

/* What passes must read and compute (a multiply-add is two operations), and the memory taken. */
typedef struct greta_cost {
    uint64_t bytes_weights; /* of all matmuls, read once a pass: as the file holds them */
    uint64_t bytes_read;    /* the same as the kernels read them */
    uint64_t bytes_embedding, bytes_kv; /* of a token; of a position that a token sees */
    uint64_t ops_int8[2], ops_float[2]; /* matmuls of a row; [1]: with its logits */
    uint64_t memory_packed, memory_kv, memory_buffers;
} greta_cost;
GRETA_API greta_cost greta_session_cost(const greta_session *session);

/* READ: memory in order, far beyond the caches. INT8, FMA: multiply-adds on registers. */
typedef enum greta_probe_kind {
    GRETA_PROBE_READ,
    GRETA_PROBE_INT8,
    GRETA_PROBE_FMA
} greta_probe_kind;
typedef struct greta_probe greta_probe; /* one caller at a time; owns its threads */

/* `cpu` as in session options: the instruction set; n_thread 0: one per online CPU. */
GRETA_API greta_status greta_probe_new(int32_t n_thread, const char *cpu, greta_probe **probe,
                                       greta_error *err);
GRETA_API void greta_probe_free(greta_probe *probe);
/* Does 20 to 200 ms of work that only `kind` limits; returns the bytes or operations done. */
GRETA_API double greta_probe_run(greta_probe *probe, greta_probe_kind kind);
/* The instructions, "AVX-512 VNNI"; of READ the memory, "512 MiB". */
GRETA_API const char *greta_probe_name(const greta_probe *probe, greta_probe_kind kind);
GRETA_API int32_t greta_probe_threads(const greta_probe *probe);

/* ---- Sampler: splitmix64-1 (named and versioned in docs/numerics.md) ------------------------- */

typedef struct greta_sampler {
    float temperature;  /* 0: greedy, lowest id among equals */
    int32_t top_k;      /* 0: off */
    float top_p, min_p; /* 1 and 0: off */
    uint64_t state;     /* the seed; advanced by each sample */
} greta_sampler;

GRETA_API int32_t greta_sample(greta_sampler *sampler, const float *logits, int32_t n_vocab,
                               greta_error *err); /* -1 on failure */

/* ---- Trace ---------------------------------------------------------------------------------- */

typedef struct greta_trace_options {
    size_t size;
    const char *path;   /* a .jsonl; the tensors lie beside it in <path>.blob */
    const char *stages; /* "q,k", "norms", "all"; NULL: all */
    const char *layers; /* "0,3-5", "all"; NULL: all */
    const char *phases; /* "prefill,decode"; NULL: both */
    const char *tokens; /* positions "0,5-9", "last" (of a pass), "all"; NULL: all. "cache": what is
                           recorded of attention holds the cache rows it read */
    int64_t sample;     /* values kept of each row: n first; -1 all; 0 none (statistics, hashes) */
    uint64_t bytes_max; /* stop cleanly before this size; 0: 4 GiB */
    const char *prompt_id; /* recorded in the header; may be NULL */
    const char *notes;     /* likewise: what was done to the prompt ("dropped 3 unknown bytes") */
    int overwrite;         /* replace an existing trace */
} greta_trace_options;

/* Most bytes a trace of n_prefill and n_decode rows can take. */
GRETA_API greta_status greta_trace_plan(const greta_session *session,
                                        const greta_trace_options *options, size_t n_prefill,
                                        size_t n_decode, uint64_t *bytes, greta_error *err);
/* From here on every pass of the session is traced. */
GRETA_API greta_status greta_trace_begin(greta_session *session, const greta_trace_options *options,
                                         greta_error *err);
/* Footer, checksums, rename to the final name. `why` is "complete" or "interrupted". */
GRETA_API greta_status greta_trace_end(greta_session *session, const char *why, greta_error *err);

/* ---- Capture: what every op of a run wrote, in memory, at the speed of the run --------------- */

typedef struct greta_capture greta_capture;

typedef struct greta_capture_options {
    size_t size;
    int values;           /* keep every value; 0: statistics and hashes only */
    uint64_t bytes_max;   /* a pass that would take more is refused (GRETA_IO); 0: 4 GiB */
    uint64_t bytes_ready; /* memory to have ready before the first pass */
} greta_capture_options;

/* One row that an op wrote. Statistics and hashes as in a trace (docs/trace-format.md). */
typedef struct greta_captured {
    const char *stage; /* "ffn_norm" */
    int32_t layer;     /* -1: not in a layer */
    int32_t token, position, sequence;
    greta_phase phase;
    int64_t pass;
    const char *type; /* "F32", "F16" or "ACT_Q8": codes int8[n], then scales float[n / 32] */
    int64_t n;
    float min, max, sumsq;
    uint64_t n_nonfinite, hash, bag;
    const void *values; /* (n), 64-byte aligned, owned by the capture; NULL: not kept */
} greta_captured;

/* From here on every pass of the session is captured; options may be NULL. What ops read is not
 * looked at: that is what a trace is for. The two go together. */
GRETA_API greta_status greta_capture_begin(greta_session *session,
                                           const greta_capture_options *options, greta_error *err);
/* *capture is the caller's, and outlives the session. */
GRETA_API greta_status greta_capture_end(greta_session *session, greta_capture **capture,
                                         greta_error *err);
GRETA_API void greta_capture_free(greta_capture *capture); /* NULL is fine */
/* Rows, ordered by pass, op and token. */
GRETA_API size_t greta_capture_count(const greta_capture *capture);
GRETA_API uint64_t greta_capture_bytes(const greta_capture *capture);
GRETA_API int greta_capture_row(const greta_capture *capture, size_t i, greta_captured *row);
/* As a trace whose records have outputs only; it keeps no more values than the capture has. `why`
 * as in greta_trace_end. */
GRETA_API greta_status greta_capture_write(const greta_capture *capture,
                                           const greta_trace_options *options, const char *why,
                                           greta_error *err);

/* ---- Explanation ---------------------------------------------------------------------------- */

typedef enum greta_e1 {
    GRETA_E1_FRESH,    /* default: prefill 0..n-1; fresh session: prefill 0..n-2, decode n-1 */
    GRETA_E1_TRUNCATE, /* prefill 0..n-1, drop the last row, decode it again */
    GRETA_E0,          /* as the engine goes on: decode0 is the next, generated token */
} greta_e1;

typedef struct greta_prompt {
    const char *id;
    const int32_t *token;
    size_t n;
} greta_prompt;

typedef struct greta_isolate_options {
    size_t size;
    greta_session_options session;
    greta_e1 mode;
    const char *layers;  /* of the table; NULL: "0" */
    const char *fault;   /* NULL, or "NAME[/STAGE][:LAYER][@TRIGGER]" of greta_faults(), several
                            with "+": planted in decode only */
    const char *fault_stage; /* NULL: where its name says, else the fault's own stage */
    int32_t fault_layer; /* -1: drawn from the seed */
    uint64_t seed;
    const char *out;  /* folder for traces, analysis.tsv, analysis.json, report.md */
    const char *from; /* analyse the traces in this folder instead of running */
    uint64_t bytes_max;
    int overwrite;
    void (*progress)(void *user, const char *what, size_t done, size_t total); /* may be NULL */
    void *user;
    const char *device_decode; /* decode0 runs there, prefill_last on session.device; fresh only.
                                  NULL: both on session.device */
} greta_isolate_options;

/* Pairs prefill_last with decode0 of each prompt and names the bucket. `model` may be NULL with
 * `from`. *text is the human report (or JSON), malloc'd. *verdict is the exit code: GRETA_OK,
 * GRETA_FAULT or GRETA_NO_VERDICT. */
GRETA_API greta_status greta_isolate(greta_model *model, const greta_prompt *prompts, size_t n,
                                     const greta_isolate_options *options, int json, char **text,
                                     greta_status *verdict, greta_error *err);
/* Writes only the traces that `isolate --from` reads. */
GRETA_API greta_status greta_trace_pair(greta_model *model, const greta_prompt *prompt,
                                        const greta_isolate_options *options, greta_error *err);
/* How a long look at traces is watched. */
typedef struct greta_watch {
    size_t size;
    /* "reading", in bytes; "weights", in tensors; "replay", in tokens. May be NULL. */
    void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
} greta_watch;

/* Pairs two traces record by record: bit equality, first difference; with the model of both
 * (else NULL) also the first op that introduced something, on which side, and why. Traces may be
 * of any size: of a record some hundred bytes stay in memory. `watch` may be NULL. */
GRETA_API greta_status greta_compare(greta_model *model, const char *path_a, const char *path_b,
                                     const greta_watch *watch, int json, char **text,
                                     greta_status *verdict, greta_error *err);
/* A trace, and the model it was made with. */
typedef struct greta_traced {
    const char *path;
    greta_model *model; /* NULL: none */
} greta_traced;

/* The same of traces A and B of two models: one set of weights in two types (Q4_0 and F16). They
 * must agree in every number of their configurations; what the types make of each op is policy, and
 * weights that rounding to their types does not explain are a fault, by tensor. */
GRETA_API greta_status greta_compare_models(const greta_traced traced[2], const greta_watch *watch,
                                            int json, char **text, greta_status *verdict,
                                            greta_error *err);
/* Every op of one trace against the model it was made with; no second run. */
GRETA_API greta_status greta_audit(greta_model *model, const char *path, const greta_watch *watch,
                                   int json, char **text, greta_status *verdict,
                                   greta_error *err);
/* The plantable faults, with bucket and description. */
GRETA_API greta_status greta_faults(int json, char **text, greta_error *err);

/* ---- The exam: planted faults and benign variants with known answers ------------------------- */

typedef struct greta_score_options {
    size_t size;
    const char *out;    /* folder of the lines, cases*.jsonl; one that has some goes on */
    const char *modes;  /* "fresh,warm,engine,batch,reuse,foreign"; NULL: these; "device" */
    const char *sorts;  /* "fault,stack,outside,benign,clean,real"; NULL: all */
    const char *faults; /* part of their names; NULL: all, and pairs of them */
    const char *layers; /* to plant in: "0,15,29"; NULL: any */
    const char *foreign; /* folder with a folder of another engine's traces for each model, under
                            its name; NULL: none */
    int32_t one_of;     /* every n-th kind of fault only; 0: 1 */
    int32_t n_round;    /* draws of lengths, places and triggers; 0: 1 */
    uint64_t seed;
    int32_t part, n_part; /* of several processes in one folder; 0, 0: the only one */
    greta_session_options session;
    /* Called before each case and at the end; not 0: stop, what is done is kept. May be NULL. */
    int (*progress)(void *user, const char *what, size_t done, size_t total);
    double (*seconds)(void *user); /* the caller's clock; NULL: no cost is told */
    void *user;
} greta_score_options;

/* Draws the cases of a model and prompts (8 tokens or more), and sits those that have no line yet:
 * both runs are recorded, greta_isolate or greta_compare is asked, the answer is a line. `name` is
 * what lines call the model. */
GRETA_API greta_status greta_score_run(greta_model *model, const char *name,
                                       const greta_prompt *prompts, size_t n,
                                       const greta_score_options *options, greta_error *err);
/* What all lines of a folder say, beside simpler methods on the same cases; *text is malloc'd. */
GRETA_API greta_status greta_score_table(const char *folder, int json, char **text,
                                         greta_error *err);

#ifdef __cplusplus
}
#endif
#endif
