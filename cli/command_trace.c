/* command_trace.c - `greta trace`: prefill and greedy decode steps, traced; or the pair of runs
 * that `greta isolate --from` reads (--e1).
 *
 * --tokens is the prompt, as everywhere; the positions to trace are --positions.
 */
#include "commands.h"
#include "output.h"
#include "tracing.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct trace_args {
    model_args model;
    prompt_args prompt;
    session_args session;
    const char *out, *fault, *fault_stage;
    greta_trace_options trace;
    int64_t n, fault_layer;
    uint64_t seed;
    int e1; /* -1: a single trace; 0 fresh, 1 truncate */
    bool json, force, capture;
} trace_args;

#define TRACE_FIELD(field) (offsetof(trace_args, trace) + offsetof(greta_trace_options, field))

static const flag trace_flags[] = {
    {.name = "--out", .letter = "-o", .kind = FLAG_PATH, .value = "PATH",
     .offset = offsetof(trace_args, out), .help = "a .jsonl to write; with --e1 a folder"},
    {.name = "--n-decode", .letter = "-n", .kind = FLAG_WHOLE, .value = "N", .max = POSITIONS_MAX,
     .offset = offsetof(trace_args, n), .help = "greedy decode steps after the prompt; default 1"},
    {.name = "--stages", .kind = FLAG_PATH, .value = "LIST", .offset = TRACE_FIELD(stages),
     .help = "q,k,... or norms or all; default all"},
    {.name = "--layers", .kind = FLAG_PATH, .value = "LIST", .offset = TRACE_FIELD(layers),
     .help = "0,3-5 or all; default all"},
    {.name = "--phases", .kind = FLAG_PATH, .value = "LIST", .offset = TRACE_FIELD(phases),
     .help = "prefill,decode; default both"},
    {.name = "--positions", .kind = FLAG_PATH, .value = "LIST", .offset = TRACE_FIELD(tokens),
     .help = "0,5-9, last (of a pass) or all; with cache: what attention read"},
    {.name = "--sample", .kind = FLAG_COUNT, .value = "N|all", .offset = TRACE_FIELD(sample),
     .help = "values kept of each row, from its first; default 1024"},
    {.name = "--max-bytes", .kind = FLAG_BYTES, .value = "SIZE", .offset = TRACE_FIELD(bytes_max),
     .help = "stop cleanly before this size; default 4G"},
    {.name = "--prompt-id", .kind = FLAG_TEXT, .value = "ID", .offset = TRACE_FIELD(prompt_id),
     .help = "name of the prompt, recorded in the trace"},
    {.name = "--capture", .kind = FLAG_SWITCH, .offset = offsetof(trace_args, capture),
     .help = "outputs only, held in memory during the run and written after it"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = offsetof(trace_args, force),
     .help = "replace a trace that exists"},
    {.name = "--json", .kind = FLAG_SWITCH, .offset = offsetof(trace_args, json),
     .help = "say what was written as JSON"},
};

static const flag pair_flags[] = {
    {.name = "--e1", .kind = FLAG_OPTIONAL, .value = "fresh|truncate",
     .offset = offsetof(trace_args, e1), .help = "trace the two runs into the folder -o"},
    {.name = "--fault", .kind = FLAG_PATH, .value = "NAME", .offset = offsetof(trace_args, fault),
     .help = "plant faults in decode; greta faults lists them"},
    {.name = "--fault-stage", .kind = FLAG_PATH, .value = "STAGE",
     .offset = offsetof(trace_args, fault_stage), .help = "the op; default the fault's own"},
    {.name = "--fault-layer", .kind = FLAG_WHOLE, .value = "N", .max = 1023,
     .offset = offsetof(trace_args, fault_layer), .help = "its layer; default drawn from --seed"},
    {.name = "--seed", .kind = FLAG_SEED, .value = "N", .offset = offsetof(trace_args, seed),
     .help = "default 0"},
};

static const char *const trace_names[TRACING_FIELDS] = {"--stages", "--layers", "--phases",
                                                        "--positions", "--sample"};

static greta_status trace_check(const trace_args *args, greta_error *err)
{
    const char *variable;
    bool is_pair = args->e1 >= 0;
    if (!args->out) {
        return fail(err, GRETA_USAGE, "no output is given (-o PATH)");
    }
    if (tracing_is_switched_on(&variable)) {
        fail(err, GRETA_USAGE, "%s is set, but greta trace takes flags", variable);
        fail_hint(err, "unset it, or use greta run");
        return GRETA_USAGE;
    }
    if (!is_pair && (args->fault || args->fault_stage || args->fault_layer >= 0)) {
        return fail(err, GRETA_USAGE, "--fault needs --e1");
    }
    if (is_pair && args->capture) {
        return fail(err, GRETA_USAGE, "--e1 needs what ops read, which --capture leaves out");
    }
    if (is_pair && (args->trace.stages || args->trace.layers || args->trace.phases ||
                    args->trace.tokens)) {
        return fail(err, GRETA_USAGE, "--e1 chooses stages, layers, phases and positions itself");
    }
    return GRETA_OK;
}

static greta_status trace_pair(const trace_args *args, greta_model *model,
                               const greta_tokens *tokens, greta_error *err)
{
    greta_prompt prompt = {args->trace.prompt_id ? args->trace.prompt_id : "prompt", tokens->id,
                           tokens->n};
    greta_isolate_options options = {
        .size = sizeof options,
        .session = session_options(&args->session),
        .mode = args->e1 ? GRETA_E1_TRUNCATE : GRETA_E1_FRESH,
        .fault = args->fault,
        .fault_stage = args->fault_stage,
        .fault_layer = (int32_t)args->fault_layer,
        .seed = args->seed,
        .out = args->out,
        .bytes_max = args->trace.bytes_max,
        .overwrite = args->force,
        .progress = progress_parts,
    };
    return greta_trace_pair(model, &prompt, &options, err);
}

/* Decodes greedily, end tokens too: what is traced does not depend on what the model says. */
static greta_status trace_decode(const trace_args *args, runner *r, int32_t position,
                                 greta_error *err)
{
    greta_sampler greedy = {.top_p = 1};
    greta_status status = GRETA_OK;
    for (int64_t i = 0; i < args->n && !status && !signals_seen(); i++) {
        size_t n_fed;
        int32_t id = greta_sample(&greedy, r->logits, r->info.n_vocab, err);
        if (id < 0) {
            return err->code;
        }
        feed_args feed = {.id = &id, .n = 1, .from = position++, .phase = GRETA_PHASE_DECODE};
        status = runner_feed(r, &feed, &n_fed, err);
    }
    return status;
}

static greta_status trace_run(const trace_args *args, runner *r, const prompt_text *text,
                              greta_error *err)
{
    const greta_tokens *tokens = &text->tokens;
    tracing trace = {.options = args->trace, .name = trace_names, .is_asked = true,
                     .is_captured = args->capture};
    size_t n_fed = 0;
    trace.options.path = args->out;
    trace.options.notes = text->notes;
    trace.options.overwrite = args->force;
    greta_status status = runner_open(r, &args->session, err);
    if (!status) {
        status = runner_fits(r, tokens->n, err);
    }
    if (!status && args->n > r->options.n_ctx - (int64_t)tokens->n) {
        status = fail(err, GRETA_USAGE, "-n %lld: the context of %d has room for %lld after the "
                                        "prompt",
                      (long long)args->n, r->options.n_ctx,
                      (long long)(r->options.n_ctx - (int64_t)tokens->n));
    }
    if (!status) {
        status = tracing_begin(&trace, r, tokens->n, (size_t)args->n, err);
    }
    if (status) {
        return status;
    }
    signals_catch();
    feed_args feed = {.id = tokens->id, .n = tokens->n, .phase = GRETA_PHASE_PREFILL,
                      .progress = "prompt"};
    status = runner_feed(r, &feed, &n_fed, err);
    if (!status) {
        status = trace_decode(args, r, (int32_t)tokens->n, err);
    }
    greta_status end = tracing_end(&trace, r, !status && !signals_seen(), err);
    return status ? status : end;
}

static greta_status trace_say(const trace_args *args, const greta_tokens *tokens, greta_error *err)
{
    struct stat records = {0}, blob = {0};
    char size[32], q[QUOTED_MAX];
    bool is_pair = args->e1 >= 0;
    const char *stop = signals_seen() ? "interrupted" : "complete";
    char *blob_path = text_new("%s.blob", args->out);
    quoted(args->out, strlen(args->out), q);
    if (!is_pair && (stat(args->out, &records) || !blob_path || stat(blob_path, &blob))) {
        blob.st_size = 0; /* nothing but records */
    }
    free(blob_path);
    if (args->json) {
        return output_json(json_pack("{s:o, s:s, s:I, s:I}", "out",
                                     json_text(args->out, strlen(args->out)), "status", stop,
                                     "n_prompt", (json_int_t)tokens->n, "bytes",
                                     (json_int_t)(records.st_size + blob.st_size)),
                           err);
    }
    if (is_pair) {
        printf("%s: the traces of prefill and decode, for greta isolate --from\n", q);
    } else {
        printf("%s: %s, %zu prompt tokens, %s\n", q, stop, tokens->n,
               bytes_text((uint64_t)(records.st_size + blob.st_size), size));
    }
    return output_flush(err);
}

int command_trace(int argc, char **argv, greta_error *err)
{
    trace_args args = {.trace = {.size = sizeof args.trace, .sample = 1024},
                       .n = 1, .fault_layer = -1, .e1 = -1};
    runner r = {0};
    prompt_text text = {0};
    flag_group group[] = {
        model_group(&args.model),
        prompt_group(&args.prompt),
        {"Trace", trace_flags, COUNT_OF(trace_flags), &args},
        {"A pair of runs", pair_flags, COUNT_OF(pair_flags), &args},
        session_group(&args.session),
    };
    command_line line = {
        .name = "trace", .usage = "-m MODEL -p TEXT -o PATH", .group = group,
        .n_group = COUNT_OF(group),
        .summary = "Evaluates the prompt and N decode steps with the chosen stages written to a\n"
                   "trace (docs/trace-format.md).",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = trace_check(&args, err);
    if (!status) {
        status = model_load(&args.model, &r.model, &r.model_path, err);
    }
    if (!status) {
        status = prompt_load(r.model, &args.prompt, &text, err);
    }
    if (!status) {
        status = args.e1 >= 0 ? trace_pair(&args, r.model, &text.tokens, err)
                              : trace_run(&args, &r, &text, err);
    }
    if (!status) {
        status = trace_say(&args, &text.tokens, err);
    }
    greta_free(text.tokens.id);
    runner_close(&r);
    return status ? (int)status : signals_seen() ? 128 + signals_seen() : GRETA_OK;
}
