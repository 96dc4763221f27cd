/* command_run.c - `greta run`: generate text.
 *
 * Bytes go out as soon as their token is chosen: a character may be spread over two tokens, and the
 * terminal joins it. A signal is looked at between passes, so that the token in work is finished, a
 * trace gets its footer and --json its object. The last token that is sampled is not evaluated,
 * hence a run of n tokens reaches the positions 0 .. prompt + n - 2.
 */
#include "commands.h"
#include "logits.h"
#include "tracing.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOP_DEFAULT 10
#define N_DEFAULT 128

typedef struct run_args {
    model_args model;
    prompt_args prompt;
    session_args session;
    int64_t n;
    double temp, top_p, min_p;
    int64_t top_k, top;
    uint64_t seed;
    bool ignore_eos, json, force;
    const char *logits, *logits_out;
} run_args;

typedef struct run {
    const run_args *args;
    runner r;
    tracing trace;
    prompt_text text;
    const greta_tokens *prompt; /* of text */
    int32_t *token;      /* generated */
    size_t n_token;
    const char *stop;    /* "eos", "length", "context", "interrupted" */
    uint8_t *chosen;     /* by position: --logits; NULL: none chosen */
    size_t n_position;   /* most positions the run can reach */
    logits_keeper keeper;
} run;

static const flag generate_flags[] = {
    {.name = "--n-predict", .letter = "-n", .kind = FLAG_WHOLE, .value = "N", .max = POSITIONS_MAX,
     .offset = offsetof(run_args, n), .help = "most tokens to generate; default 128"},
    {.name = "--temp", .kind = FLAG_REAL, .value = "T", .max = 100,
     .offset = offsetof(run_args, temp), .help = "temperature; default 0, greedy"},
    {.name = "--top-k", .kind = FLAG_WHOLE, .value = "K", .max = POSITIONS_MAX,
     .offset = offsetof(run_args, top_k), .help = "sample from the K likeliest; default 0, all"},
    {.name = "--top-p", .kind = FLAG_REAL, .value = "P", .max = 1,
     .offset = offsetof(run_args, top_p), .help = "from the likeliest that make up P; default 1"},
    {.name = "--min-p", .kind = FLAG_REAL, .value = "P", .max = 1,
     .offset = offsetof(run_args, min_p), .help = "at least P times the likeliest; default 0"},
    {.name = "--seed", .kind = FLAG_SEED, .value = "N", .offset = offsetof(run_args, seed),
     .help = "of the sampler, splitmix64-1; default 0"},
    {.name = "--ignore-eos", .kind = FLAG_SWITCH, .offset = offsetof(run_args, ignore_eos),
     .help = "go on after an end token"},
};

static const flag output_flags[] = {
    {.name = "--json", .kind = FLAG_SWITCH, .offset = offsetof(run_args, json),
     .help = "one JSON object instead of the text"},
    {.name = "--top", .kind = FLAG_WHOLE, .value = "K", .max = 1000,
     .offset = offsetof(run_args, top), .help = "--json: list the K highest logits; default 10"},
    {.name = "--logits", .kind = FLAG_TEXT, .value = "POSITIONS",
     .offset = offsetof(run_args, logits), .help = "keep the logits of 0,5-9 or all positions"},
    {.name = "--logits-out", .kind = FLAG_PATH, .value = "FILE",
     .offset = offsetof(run_args, logits_out),
     .help = "write them as little-endian f32 (positions, vocabulary)"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = offsetof(run_args, force),
     .help = "replace files that exist"},
};

/* What is to be kept, and the file it goes to. */
static greta_status run_choose(run *self, greta_error *err)
{
    const run_args *args = self->args;
    logits_keeper *keeper = &self->keeper;
    size_t n_generated = args->n > 0 ? (size_t)args->n - 1 : 0;
    size_t n_ctx = (size_t)self->r.options.n_ctx;
    greta_status status = GRETA_OK;
    self->n_position = self->prompt->n + n_generated;
    self->n_position = self->n_position < n_ctx ? self->n_position : n_ctx;
    keeper->n_vocab = self->r.info.n_vocab;
    keeper->n_top = (int32_t)args->top;
    keeper->bits = args->logits != NULL;
    if (args->json) {
        keeper->list = json_array();
        keeper->top = json_array();
        status = keeper->list && keeper->top ? GRETA_OK : fail_memory(err);
    }
    if (!status && (args->logits || args->logits_out)) {
        self->chosen = malloc(self->n_position);
        status = self->chosen ? args_ranges("--logits", args->logits ? args->logits : "all",
                                            self->chosen, self->n_position, err)
                              : fail_memory(err);
        keeper->chosen = self->chosen;
    }
    if (!status && args->logits_out) {
        output_target target = {args->logits_out, args->force,
                                {self->r.model_path, args->prompt.file}};
        status = output_file_open(&keeper->file, &target, err);
    }
    return status;
}

/* Evaluates the prompt; its last logits are always wanted. */
static greta_status run_prefill(run *self, size_t *n_fed, greta_error *err)
{
    uint8_t *want = calloc(self->prompt->n, 1);
    if (!want) {
        return fail_memory(err);
    }
    if (self->chosen) {
        memcpy(want, self->chosen, self->prompt->n);
    }
    want[self->prompt->n - 1] = 1;
    feed_args feed = {.id = self->prompt->id, .n = self->prompt->n, .phase = GRETA_PHASE_PREFILL,
                      .want = want, .sink = logits_keep, .user = &self->keeper,
                      .progress = "prompt"};
    greta_status status = runner_feed(&self->r, &feed, n_fed, err);
    free(want);
    return status;
}

static greta_status run_stream(const run *self, int32_t id, greta_error *err)
{
    size_t n;
    const char *bytes = greta_token_bytes(self->r.model, id, &n);
    if (self->args->json || !bytes) {
        return GRETA_OK;
    }
    greta_status status = output_bytes(bytes, n, err);
    return status ? status : output_flush(err);
}

static greta_status run_generate(run *self, greta_error *err)
{
    const run_args *args = self->args;
    greta_sampler sampler = {(float)args->temp, (int32_t)args->top_k, (float)args->top_p,
                             (float)args->min_p, args->seed};
    greta_status status = GRETA_OK;
    self->stop = "length";
    while (!status && self->n_token < (size_t)args->n) {
        int32_t position = (int32_t)(self->prompt->n + self->n_token);
        int32_t id = greta_sample(&sampler, self->r.logits, self->r.info.n_vocab, err);
        size_t n_fed;
        if (id < 0) {
            return err->code;
        }
        self->token[self->n_token++] = id;
        if (greta_token_is_end(self->r.model, id) && !args->ignore_eos) {
            self->stop = "eos";
            break;
        }
        status = run_stream(self, id, err);
        if (status || self->n_token == (size_t)args->n) {
            break;
        }
        if (signals_seen() || position >= self->r.options.n_ctx) {
            self->stop = signals_seen() ? "interrupted" : "context";
            break;
        }
        feed_args feed = {.id = &id, .n = 1, .from = position, .phase = GRETA_PHASE_DECODE,
                          .sink = logits_keep, .user = &self->keeper};
        status = runner_feed(&self->r, &feed, &n_fed, err);
        if (!status && n_fed == 0) { /* a signal came first: there are no new logits to draw from */
            self->stop = "interrupted";
            break;
        }
    }
    return status;
}

static json_t *run_config(const run *self)
{
    const run_args *args = self->args;
    json_t *config = runner_config(&self->r);
    json_t *sampler = json_pack(
        "{s:s, s:o, s:I, s:o, s:o, s:o}", "name", "splitmix64-1", "temperature",
        json_number(args->temp), "top_k", (json_int_t)args->top_k, "top_p",
        json_number(args->top_p), "min_p", json_number(args->min_p), "seed",
        json_sprintf("%llu", (unsigned long long)args->seed));
    if (!config || !sampler || json_object_set_new(config, "sampler", sampler)) {
        json_decref(config);
        return NULL;
    }
    return config;
}

static greta_status run_json(run *self, greta_error *err)
{
    buffer text;
    size_t n_text = self->n_token - (strcmp(self->stop, "eos") == 0); /* without the end token */
    greta_status status = tokens_text(self->r.model, self->token, n_text, &text, err);
    if (status) {
        return status;
    }
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:s, s:O, s:O, s:o}", "model",
        json_text(self->r.info.name, strlen(self->r.info.name)), "prompt_tokens",
        json_ids(self->prompt->id, self->prompt->n), "tokens", json_ids(self->token, self->n_token),
        "text", json_text(text.data, text.n), "text_bytes_hex", json_hex(text.data, text.n), "stop",
        self->stop, "logits", self->keeper.list, "top", self->keeper.top, "config",
        run_config(self));
    free(text.data);
    return output_json(object, err);
}

static greta_status run_work(run *self, greta_error *err)
{
    size_t n_fed = 0;
    greta_status status = run_choose(self, err);
    if (!status) {
        status = tracing_begin(&self->trace, &self->r, self->prompt->n,
                               self->n_position - self->prompt->n, err);
    }
    if (status) {
        return status;
    }
    signals_catch();
    self->stop = "interrupted";
    status = run_prefill(self, &n_fed, err);
    if (!status && n_fed == self->prompt->n) {
        status = run_generate(self, err);
    }
    greta_status end = tracing_end(&self->trace, &self->r, !status && !signals_seen(), err);
    status = status ? status : end;
    if (!self->args->json && isatty(STDOUT_FILENO)) {
        output_text("\n", err);
        output_flush(err);
    }
    end = output_file_close(&self->keeper.file, !status, err);
    if (!status && !end && self->args->json) {
        end = run_json(self, err);
    }
    return status ? status : end;
}

static greta_status run_open(run *self, greta_error *err)
{
    const run_args *args = self->args;
    greta_status status = tracing_variables(&self->trace, err);
    self->trace.options.overwrite = args->force;
    self->trace.options.notes = self->text.notes;
    if (!status && args->logits && !args->json && !args->logits_out) {
        status = fail(err, GRETA_USAGE, "--logits needs --json or --logits-out FILE");
    }
    if (!status) {
        status = model_load(&args->model, &self->r.model, &self->r.model_path, err);
    }
    if (!status) {
        status = prompt_load(self->r.model, &args->prompt, &self->text, err);
    }
    if (!status) {
        status = runner_open(&self->r, &args->session, err);
    }
    if (!status) {
        status = runner_fits(&self->r, self->prompt->n, err);
    }
    if (!status) {
        self->token = malloc(((size_t)args->n + 1) * sizeof *self->token);
        status = self->token ? GRETA_OK : fail_memory(err);
    }
    return status;
}

int command_run(int argc, char **argv, greta_error *err)
{
    run_args args = {.n = N_DEFAULT, .top_p = 1, .top = TOP_DEFAULT};
    run self = {.args = &args};
    self.prompt = &self.text.tokens;
    flag_group group[] = {
        model_group(&args.model),
        prompt_group(&args.prompt),
        {"Generation", generate_flags, COUNT_OF(generate_flags), &args},
        session_group(&args.session),
        {"Output", output_flags, COUNT_OF(output_flags), &args},
    };
    command_line line = {
        .name = "run", .usage = "-m MODEL -p TEXT", .group = group, .n_group = COUNT_OF(group),
        .summary = "Generates text: greedy unless --temp is given. stdout carries the text alone,\n"
                   "byte for byte.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = run_open(&self, err);
    if (!status) {
        status = run_work(&self, err);
    }
    output_file_close(&self.keeper.file, false, err);
    json_decref(self.keeper.list);
    json_decref(self.keeper.top);
    greta_free(self.text.tokens.id);
    free(self.token);
    free(self.chosen);
    runner_close(&self.r);
    return status ? (int)status : signals_seen() ? 128 + signals_seen() : GRETA_OK;
}
