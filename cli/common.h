/* common.h - what every command that runs a model shares: its flags, the model, the prompt, the
 * session, and the walk over a prompt in chunks.
 */
#ifndef GRETA_CLI_COMMON_H
#define GRETA_CLI_COMMON_H

#include "args.h"

#include <jansson.h>

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))
#define POSITIONS_MAX 16777216 /* --ctx, -n */

/* ---- Model ----------------------------------------------------------------------------------- */

typedef struct model_args {
    const char *model; /* NAME|FILE */
} model_args;

flag_group model_group(model_args *args);
/* The file of NAME|FILE: a pulled model or a file. *path is malloc'd. */
greta_status model_path(const char *name, char **path, greta_error *err);
greta_status model_load(const model_args *args, greta_model **model, char **path, greta_error *err);
/* <cache>/<name>.gguf, malloc'd. The cache is $GRETA_CACHE, else under $XDG_CACHE_HOME or ~. */
greta_status cache_path(const char *name, char **path, greta_error *err);
/* Whether `greta pull` knows the name (pull.c). */
bool pull_knows(const char *name);
/* printf into malloc'd memory; NULL: out of memory. */
char *text_new(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- Prompt ---------------------------------------------------------------------------------- */

typedef struct prompt_args {
    const char *text, *file, *tokens, *system, *date;
    bool chat, no_special, no_bos;
    int unknown_bytes; /* 0 refuse, 1 drop */
    bool may_be_empty; /* not a flag: a prompt without tokens is no error */
} prompt_args;

typedef struct buffer {
    char *data; /* malloc'd; a NUL follows the last byte */
    size_t n;
} buffer;

typedef struct prompt_text {
    greta_tokens tokens;
    char notes[128]; /* what a trace should know of the text: "contains CRLF"; "" */
} prompt_text;

flag_group prompt_group(prompt_args *args);
/* Whether none of -p, -f, --tokens is given. */
bool prompt_is_absent(const prompt_args *args);
/* The bytes of -p or -f; with --chat as the model's template renders them. */
greta_status prompt_bytes(const greta_model *model, const prompt_args *args, buffer *out,
                          greta_error *err);
/* Ids of the prompt. Free tokens.id with greta_free. */
greta_status prompt_load(const greta_model *model, const prompt_args *args, prompt_text *out,
                         greta_error *err);
/* The bytes of valid ids, joined. */
greta_status tokens_text(const greta_model *model, const int32_t *id, size_t n, buffer *out,
                         greta_error *err);

/* ---- Session --------------------------------------------------------------------------------- */

typedef struct session_args {
    int64_t ctx, chunk, threads; /* 0: the library's choice */
    int kv, act;
    const char *cpu, *device;
} session_args;

flag_group session_group(session_args *args);
greta_session_options session_options(const session_args *args);
/* The folder that GRETA_PLUGIN_DIR names; NULL: none. */
const char *plugin_folder(void);

/* A session with the model and prompt of the command line; what run, eval and trace work on. */
typedef struct runner {
    greta_model *model;
    char *model_path;
    greta_model_info info;
    greta_session *session;
    greta_session_options options; /* in force */
    greta_row *row;                /* (n_chunk) */
    const float *logits;           /* (n_vocab) of the last row that wanted them */
} runner;

/* Makes the session of an opened model. */
greta_status runner_open(runner *r, const session_args *args, greta_error *err);
void runner_close(runner *r);
/* What results depend on; and threads, chunk, kernels, on which they do not. NULL: no memory. */
json_t *runner_config(const runner *r);
/* A prompt is never cut: one that does not fit the context is refused. */
greta_status runner_fits(const runner *r, size_t n_prompt, greta_error *err);

/* Called with the logits of each wanted position, in order. */
typedef greta_status logits_sink(void *user, int32_t position, const float *logits,
                                 greta_error *err);

typedef struct feed_args {
    const int32_t *id;
    size_t n;
    int32_t from;           /* position of id[0] */
    greta_phase phase;
    const uint8_t *want;    /* by index into id; NULL: only the last */
    logits_sink *sink;      /* NULL: none */
    void *user;
    const char *progress;   /* NULL: show none */
} feed_args;

/* Feeds ids in chunks. *n_fed counts the ids that are in the cache: fewer than n after a signal. */
greta_status runner_feed(runner *r, const feed_args *args, size_t *n_fed, greta_error *err);

#endif
