/* tracing.c - see tracing.h.
 *
 * Two families of variables choose a trace on any command that runs a model: GRETA_TRACE_RMSNORM
 * (all norms; the switches of the reference report) and GRETA_TRACE_STAGES (any stage). They are
 * read here and nowhere else, with the checks of flags, so that GRETA_TRACE_SAMPLE=x fails like
 * --sample x.
 */
#include "tracing.h"

#include "output.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SAMPLE_DEFAULT 1024

typedef struct variable_values {
    int rmsnorm; /* index into "0|1" */
    greta_trace_options trace;
} variable_values;

#define TRACE_FIELD(field) (offsetof(variable_values, trace) + offsetof(greta_trace_options, field))

static const flag norm_variables[] = {
    {.name = "GRETA_TRACE_RMSNORM_OUT", .kind = FLAG_PATH, .offset = TRACE_FIELD(path)},
    {.name = "GRETA_TRACE_RMSNORM_LAYERS", .kind = FLAG_TEXT, .offset = TRACE_FIELD(layers)},
    {.name = "GRETA_TRACE_RMSNORM_SAMPLE", .kind = FLAG_COUNT, .offset = TRACE_FIELD(sample)},
    {.name = "GRETA_TRACE_PROMPT_ID", .kind = FLAG_TEXT, .offset = TRACE_FIELD(prompt_id)},
};

static const flag stage_variables[] = {
    {.name = "GRETA_TRACE_STAGES", .kind = FLAG_PATH, .offset = TRACE_FIELD(stages)},
    {.name = "GRETA_TRACE_OUT", .kind = FLAG_PATH, .offset = TRACE_FIELD(path)},
    {.name = "GRETA_TRACE_LAYERS", .kind = FLAG_TEXT, .offset = TRACE_FIELD(layers)},
    {.name = "GRETA_TRACE_SAMPLE", .kind = FLAG_COUNT, .offset = TRACE_FIELD(sample)},
    {.name = "GRETA_TRACE_PHASES", .kind = FLAG_TEXT, .offset = TRACE_FIELD(phases)},
    {.name = "GRETA_TRACE_TOKENS", .kind = FLAG_TEXT, .offset = TRACE_FIELD(tokens)},
    {.name = "GRETA_TRACE_PROMPT_ID", .kind = FLAG_TEXT, .offset = TRACE_FIELD(prompt_id)},
};

static const char *const norm_names[TRACING_FIELDS] = {
    "GRETA_TRACE_RMSNORM", "GRETA_TRACE_RMSNORM_LAYERS", "GRETA_TRACE_RMSNORM",
    "GRETA_TRACE_RMSNORM", "GRETA_TRACE_RMSNORM_SAMPLE",
};

static const char *const stage_names[TRACING_FIELDS] = {
    "GRETA_TRACE_STAGES", "GRETA_TRACE_LAYERS", "GRETA_TRACE_PHASES", "GRETA_TRACE_TOKENS",
    "GRETA_TRACE_SAMPLE",
};

static greta_status variables_read(const flag *variable, size_t n, variable_values *values,
                                   greta_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const char *text = getenv(variable[i].name);
        greta_status status =
            text ? args_value(&variable[i], variable[i].name, text,
                              (char *)values + variable[i].offset, err)
                 : GRETA_OK;
        if (status) {
            return status;
        }
    }
    return GRETA_OK;
}

static void idle_note(const char *out, const char *family)
{
    if (getenv(out)) {
        note("%s is set but %s is not: nothing is traced", out, family);
    }
}

bool tracing_is_switched_on(const char **name)
{
    const char *norms = getenv("GRETA_TRACE_RMSNORM");
    *name = norms && strcmp(norms, "0") != 0 ? "GRETA_TRACE_RMSNORM" : "GRETA_TRACE_STAGES";
    return getenv(*name) != NULL;
}

greta_status tracing_variables(tracing *t, greta_error *err)
{
    static const flag norm_switch = {.kind = FLAG_CHOICE, .value = "0|1"};
    variable_values values = {.trace = {.size = sizeof values.trace, .sample = SAMPLE_DEFAULT}};
    const char *norms = getenv("GRETA_TRACE_RMSNORM"), *stages = getenv("GRETA_TRACE_STAGES");
    const char *out = stages ? "GRETA_TRACE_OUT" : "GRETA_TRACE_RMSNORM_OUT";
    greta_status status = GRETA_OK;
    *t = (tracing){0};
    if (norms) {
        status = args_value(&norm_switch, "GRETA_TRACE_RMSNORM", norms, &values.rmsnorm, err);
    }
    if (!status && values.rmsnorm && stages) {
        status = fail(err, GRETA_USAGE, "GRETA_TRACE_RMSNORM and GRETA_TRACE_STAGES are both set "
                                        "(a session has one trace)");
        fail_hint(err, "GRETA_TRACE_STAGES=norms,... traces both");
    }
    if (status) {
        return status;
    }
    if (values.rmsnorm) {
        values.trace.stages = "norms";
        status = variables_read(norm_variables, COUNT_OF(norm_variables), &values, err);
    } else if (stages) {
        status = variables_read(stage_variables, COUNT_OF(stage_variables), &values, err);
    } else {
        idle_note("GRETA_TRACE_RMSNORM_OUT", "GRETA_TRACE_RMSNORM");
        idle_note("GRETA_TRACE_OUT", "GRETA_TRACE_STAGES");
        return GRETA_OK;
    }
    if (!status && !values.trace.path) {
        status = fail(err, GRETA_USAGE, "%s is not set (a .jsonl to write)", out);
    }
    t->options = values.trace;
    t->name = stages ? stage_names : norm_names;
    t->is_asked = !status;
    return status;
}

static void plan_note(const greta_trace_options *o, uint64_t bytes)
{
    char planned[32], cap[32], sample[32], q[QUOTED_MAX];
    uint64_t bytes_max = o->bytes_max ? o->bytes_max : UINT64_C(4) << 30;
    snprintf(sample, sizeof sample, "%lld", (long long)o->sample);
    note("tracing to %s: at most %s (stages %s, layers %s, %s values a row)%s%s",
         quoted(o->path, strlen(o->path), q), bytes_text(bytes, planned),
         o->stages ? o->stages : "all", o->layers ? o->layers : "all",
         o->sample < 0 ? "all" : sample, bytes > bytes_max ? "; stops cleanly at " : "",
         bytes > bytes_max ? bytes_text(bytes_max, cap) : "");
}

/* The library names the option, the user wrote a flag or a variable. */
static void subject_rename(const tracing *t, greta_error *err)
{
    static const char *const field[TRACING_FIELDS] = {"stages", "layers", "phases", "tokens",
                                                      "sample"};
    for (size_t i = 0; i < TRACING_FIELDS; i++) {
        if (strcmp(err->subject, field[i]) == 0) {
            snprintf(err->subject, sizeof err->subject, "%s", t->name[i]);
            return;
        }
    }
}

/* The file is made when the run is over; what can be known of it now is said now. */
static greta_status capture_begin(const tracing *t, runner *r, greta_error *err)
{
    struct stat found;
    char q[QUOTED_MAX];
    if (!t->options.overwrite && lstat(t->options.path, &found) == 0) {
        fail(err, GRETA_USAGE, "%s exists already",
             quoted(t->options.path, strlen(t->options.path), q));
        fail_hint(err, "choose another name or overwrite it");
        return GRETA_USAGE;
    }
    greta_capture_options options = {.size = sizeof options, .values = t->options.sample != 0,
                                     .bytes_max = t->options.bytes_max};
    return greta_capture_begin(r->session, &options, err);
}

/* What was captured is written however the run ended. */
static greta_status capture_end(const tracing *t, runner *r, bool is_complete, greta_error *err)
{
    greta_capture *capture = NULL;
    greta_status status = greta_capture_end(r->session, &capture, err);
    if (!status) {
        status = greta_capture_write(capture, &t->options,
                                     is_complete ? "complete" : "interrupted", err);
    }
    greta_capture_free(capture);
    return status;
}

greta_status tracing_begin(tracing *t, runner *r, size_t n_prefill, size_t n_decode,
                           greta_error *err)
{
    uint64_t bytes = 0;
    if (!t->is_asked) {
        return GRETA_OK;
    }
    if (same_file(t->options.path, r->model_path)) {
        return fail(err, GRETA_USAGE, "the trace cannot replace the model that is run");
    }
    greta_status status =
        greta_trace_plan(r->session, &t->options, n_prefill, n_decode, &bytes, err);
    if (!status) {
        plan_note(&t->options, bytes);
        status = t->is_captured ? capture_begin(t, r, err)
                                : greta_trace_begin(r->session, &t->options, err);
    }
    if (status) {
        subject_rename(t, err);
    }
    t->is_running = !status;
    return status;
}

greta_status tracing_end(tracing *t, runner *r, bool is_complete, greta_error *err)
{
    if (!t->is_running) {
        return GRETA_OK;
    }
    t->is_running = false;
    if (t->is_captured) {
        return capture_end(t, r, is_complete, err);
    }
    return greta_trace_end(r->session, is_complete ? "complete" : "interrupted", err);
}
