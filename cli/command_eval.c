/* command_eval.c - `greta eval`: perplexity of a text.
 *
 * The tokens are cut into windows that do not overlap, each evaluated in an empty context and begun
 * with BOS where the model adds one; every position after the first of a window is scored:
 *     nll = log(sum_j exp(l_j - max)) - (l_target - max),  in f64, j in id order
 *     perplexity = exp(sum of nll / number of scored positions)
 * Scores are added in text order, so the figure is the same for any chunk and thread count.
 */
#include "commands.h"
#include "exp_log.h"
#include "logits.h"
#include "tracing.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW_DEFAULT 512

typedef struct eval_args {
    model_args model;
    prompt_args prompt;
    session_args session;
    int64_t window;
    bool json, force;
    const char *logits_out;
} eval_args;

typedef struct eval {
    const eval_args *args;
    runner r;
    tracing trace;
    prompt_text text;      /* without BOS where windows begin with one */
    int32_t bos;           /* -1: windows begin with the text's own tokens */
    int32_t *window;       /* ids of the window in work, (window) */
    size_t n_window;       /* ids in it */
    logits_keeper keeper;
    size_t n_scored, n_windows;
    double nll_sum;
} eval;

static const flag eval_flags[] = {
    {.name = "--window", .kind = FLAG_WHOLE, .value = "N", .min = 2, .max = POSITIONS_MAX,
     .offset = offsetof(eval_args, window), .help = "tokens in a window; default 512"},
    {.name = "--json", .kind = FLAG_SWITCH, .offset = offsetof(eval_args, json),
     .help = "as a JSON object"},
    {.name = "--logits-out", .kind = FLAG_PATH, .value = "FILE",
     .offset = offsetof(eval_args, logits_out),
     .help = "write all logits as little-endian f32 (tokens of all windows, vocabulary)"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = offsetof(eval_args, force),
     .help = "replace files that exist"},
};

static double score(const float *logits, int32_t n_vocab, int32_t target)
{
    double max = (double)logits[0], sum = 0.0;
    for (int32_t id = 1; id < n_vocab; id++) {
        max = (double)logits[id] > max ? (double)logits[id] : max;
    }
    for (int32_t id = 0; id < n_vocab; id++) {
        sum += exp_f64((double)logits[id] - max);
    }
    return log_f64(sum) - ((double)logits[target] - max);
}

static greta_status eval_row(void *user, int32_t position, const float *logits, greta_error *err)
{
    eval *self = user;
    if ((size_t)position + 1 < self->n_window) {
        double nll = score(logits, self->keeper.n_vocab, self->window[position + 1]);
        if (!(nll >= 0.0)) { /* at the smallest 0: one logit holds all */
            return fail(err, GRETA_BAD_INPUT,
                        "logits that are no numbers, window %zu, position %d", self->n_windows,
                        position);
        }
        self->nll_sum += nll;
        self->n_scored++;
    }
    return logits_keep(&self->keeper, position, logits, err);
}

/* Finds out whether the model asks for BOS: what an empty text becomes. */
static greta_status eval_bos(eval *self, greta_error *err)
{
    greta_tokens empty = {0};
    greta_status status = greta_tokenize(self->r.model, "", 0, NULL, &empty, err);
    bool is_added = !status && empty.n > 0 && empty.id[0] == self->r.info.bos_id;
    self->bos = is_added && !self->args->prompt.no_bos ? self->r.info.bos_id : -1;
    greta_free(empty.id);
    return status;
}

static greta_status eval_open(eval *self, greta_error *err)
{
    prompt_args text = self->args->prompt;
    session_args session = self->args->session;
    int64_t window = self->args->window;
    greta_status status = tracing_variables(&self->trace, err);
    self->trace.options.overwrite = self->args->force;
    self->trace.options.notes = self->text.notes;
    text.no_bos = true;
    session.ctx = session.ctx ? session.ctx : window;
    session.chunk = session.chunk || window >= 512 ? session.chunk : window;
    if (!status && window > session.ctx) {
        status = fail(err, GRETA_USAGE, "--window %lld is longer than --ctx %lld",
                      (long long)window, (long long)session.ctx);
    }
    if (!status) {
        status = model_load(&self->args->model, &self->r.model, &self->r.model_path, err);
    }
    if (!status) {
        status = prompt_load(self->r.model, &text, &self->text, err);
    }
    if (!status) {
        status = runner_open(&self->r, &session, err);
    }
    if (!status) {
        status = eval_bos(self, err);
    }
    if (!status && self->text.tokens.n + (self->bos >= 0) < 2) {
        status = fail(err, GRETA_BAD_INPUT, "nothing to score: the text has %zu token",
                      self->text.tokens.n);
    }
    if (!status) {
        self->window = malloc((size_t)window * sizeof *self->window);
        status = self->window ? GRETA_OK : fail_memory(err);
    }
    return status;
}

/* Evaluates the window that begins at text token `first`; *n_taken tokens of the text are in it. */
static greta_status eval_window(eval *self, size_t first, size_t *n_taken, greta_error *err)
{
    size_t n_bos = self->bos >= 0, room = (size_t)self->args->window - n_bos, n_fed;
    size_t left = self->text.tokens.n - first;
    *n_taken = left < room ? left : room;
    self->n_window = n_bos + *n_taken;
    self->window[0] = self->bos;
    memcpy(self->window + n_bos, self->text.tokens.id + first, *n_taken * sizeof *self->window);
    if (self->n_window < 2) {
        return GRETA_OK; /* one token left over, and nothing before it */
    }
    greta_status status = first ? greta_session_drop(self->r.session, 0, 0, err) : GRETA_OK;
    if (status) {
        return status;
    }
    uint8_t *want = malloc(self->n_window);
    if (!want) {
        return fail_memory(err);
    }
    memset(want, 1, self->n_window);
    feed_args feed = {.id = self->window, .n = self->n_window, .phase = GRETA_PHASE_PREFILL,
                      .want = want, .sink = eval_row, .user = self};
    status = runner_feed(&self->r, &feed, &n_fed, err);
    free(want);
    self->n_windows++;
    return status;
}

static greta_status eval_say(const eval *self, greta_error *err)
{
    double nll = self->nll_sum / (double)self->n_scored;
    double perplexity = exp_f64(nll);
    if (self->args->json) {
        return output_json(
            json_pack("{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:o}", "model",
                      json_text(self->r.info.name, strlen(self->r.info.name)), "perplexity",
                      json_number(perplexity), "nll", json_number(nll), "n",
                      (json_int_t)self->n_scored, "n_tokens", (json_int_t)self->text.tokens.n,
                      "windows", (json_int_t)self->n_windows, "window",
                      (json_int_t)self->args->window, "bos", self->bos >= 0, "config",
                      runner_config(&self->r)),
            err);
    }
    printf("perplexity %.6f\nnll %.9f\nn %zu\n", perplexity, nll, self->n_scored);
    return output_flush(err);
}

static greta_status eval_work(eval *self, greta_error *err)
{
    const eval_args *args = self->args;
    output_target target = {args->logits_out, args->force,
                            {self->r.model_path, args->prompt.file}};
    self->keeper.n_vocab = self->r.info.n_vocab;
    greta_status status =
        args->logits_out ? output_file_open(&self->keeper.file, &target, err) : GRETA_OK;
    if (!status) {
        size_t windows = self->text.tokens.n / ((size_t)args->window - (self->bos >= 0)) + 1;
        status = tracing_begin(&self->trace, &self->r, self->text.tokens.n + windows, 0, err);
    }
    if (status) {
        return status;
    }
    signals_catch();
    for (size_t first = 0, n_taken; first < self->text.tokens.n && !status && !signals_seen();
         first += n_taken) {
        status = eval_window(self, first, &n_taken, err);
        progress("eval", first + n_taken, self->text.tokens.n);
    }
    greta_status end = tracing_end(&self->trace, &self->r, !status && !signals_seen(), err);
    status = status ? status : end;
    end = output_file_close(&self->keeper.file, !status && !signals_seen(), err);
    status = status ? status : end;
    return status || signals_seen() ? status : eval_say(self, err);
}

int command_eval(int argc, char **argv, greta_error *err)
{
    eval_args args = {.window = WINDOW_DEFAULT};
    eval self = {.args = &args};
    flag_group group[] = {
        model_group(&args.model),
        prompt_group(&args.prompt),
        {"Evaluation", eval_flags, COUNT_OF(eval_flags), &args},
        session_group(&args.session),
    };
    command_line line = {
        .name = "eval", .usage = "-m MODEL -f FILE", .group = group, .n_group = COUNT_OF(group),
        .summary = "Perplexity of a text, in windows that do not overlap; every position after\n"
                   "the first of a window is scored.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = eval_open(&self, err);
    if (!status) {
        status = eval_work(&self, err);
    }
    output_file_close(&self.keeper.file, false, err);
    greta_free(self.text.tokens.id);
    free(self.window);
    runner_close(&self.r);
    return status ? (int)status : signals_seen() ? 128 + signals_seen() : GRETA_OK;
}
