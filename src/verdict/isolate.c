/* isolate.c - `greta isolate`, the main job: does the decode step of a token have the bits that
 * prefill gave it, and if not, which operation parted first, and why?
 *
 *     for each prompt:  record -> load -> judge        (or only load -> judge, with `from`)
 *     then:             conclude -> report
 *
 * The judge works on traces that were read back from disk, also when they were written a moment
 * ago: there is one path of analysis, and it cannot see what was planted. The worst prompt
 * decides the verdict: a fault beats no verdict, no verdict beats aligned.
 */
#include "verdict/isolate.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "report/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const report_names[] = {"analysis.tsv", "analysis.json", "report.md"};
#define N_REPORT (sizeof report_names / sizeof *report_names)

/* ---- Before anything runs -------------------------------------------------------------------- */

/* A prompt's id becomes the name of files. */
static greta_status prompt_check(const greta_prompt *prompt, greta_error *err)
{
    size_t n = prompt->id ? strlen(prompt->id) : 0;
    char shown[ESCAPED_MAX];
    bool is_name =
        n > 0 && n < TRACE_NAME_MAX && prompt->id[0] != '.' && utf8_is_valid(prompt->id, n);
    for (size_t i = 0; i < n && is_name; i++) {
        unsigned char c = (unsigned char)prompt->id[i];
        is_name = c >= 0x20 && c != 0x7f && c != '/';
    }
    if (!is_name) {
        return error_set(err, GRETA_USAGE,
                         "prompt id \"%s\" (a file name of 1 to %d bytes, not hidden)",
                         prompt->id ? escape(prompt->id, n, shown) : "", TRACE_NAME_MAX - 1);
    }
    if (prompt->n == 0) {
        return error_about(err, GRETA_BAD_INPUT, prompt->id, "the prompt has no tokens");
    }
    if (prompt->n > LIMIT_CONTEXT) {
        return error_about(err, GRETA_BAD_INPUT, prompt->id,
                           "the prompt has %zu tokens (at most %d)", prompt->n, LIMIT_CONTEXT);
    }
    return GRETA_OK;
}

static greta_status prompts_check(const greta_prompt *prompts, size_t n, greta_error *err)
{
    if (n == 0) {
        return error_set(err, GRETA_USAGE, "no prompt (1 or more)");
    }
    for (size_t i = 0; i < n; i++) {
        GRETA_TRY(prompt_check(&prompts[i], err));
        for (size_t k = 0; k < i; k++) {
            if (strcmp(prompts[i].id, prompts[k].id) == 0) {
                return error_about(err, GRETA_USAGE, prompts[i].id, "two prompts have this id");
            }
        }
    }
    return GRETA_OK;
}

static greta_status path_join(const char *folder, const char *name, char **path, greta_error *err)
{
    text t = {0};
    text_format(&t, "%s/%s", folder, name);
    return text_take(&t, path, err);
}

/* The folder is made, and no report of an earlier run is in the way. */
static greta_status out_check(const greta_isolate_options *options, greta_error *err)
{
    if (!options->out) {
        return GRETA_OK;
    }
    GRETA_TRY(folder_make(options->out, err));
    for (size_t i = 0; i < N_REPORT && !options->overwrite; i++) {
        char *path;
        GRETA_TRY(path_join(options->out, report_names[i], &path, err));
        bool is_there = access(path, F_OK) == 0;
        if (is_there) {
            error_set(err, GRETA_USAGE, "exists already");
            error_file(err, path);
            error_hint(err, "choose another folder, or overwrite");
        }
        free(path);
        if (is_there) {
            return GRETA_USAGE;
        }
    }
    return GRETA_OK;
}

/* The first table's layers, before minutes of work depend on them. */
static greta_status layers_check(const char *layers, int32_t n_layer, greta_error *err)
{
    uint8_t *selected = calloc((size_t)n_layer, 1);
    if (!selected) {
        return error_memory(err, "layers", (uint64_t)n_layer);
    }
    greta_status status = ranges_parse("--layers", layers, selected, (size_t)n_layer, err);
    free(selected);
    return status;
}

/* ---- From prompts ---------------------------------------------------------------------------- */

static void prompt_name(const char *id, analysis_prompt *out)
{
    escape(id, strlen(id), out->id);
}

/* With the session that recorded decode0, its faults are put right there; NULL: only traces. */
static greta_status judge_set(const trace_set *set, const isolate_terms *terms,
                              const isolate_recording *decoded, analysis_prompt *out,
                              greta_error *err)
{
    isolate_side sides[SIDE_COUNT];
    GRETA_TRY(isolate_sides_choose(set, sides, err));
    greta_status status = isolate_judge(sides, terms, out, err);
    if (status == GRETA_OK && decoded) {
        status = isolate_patch(decoded, &sides[SIDE_A], out, err);
    }
    isolate_sides_free(sides);
    return status;
}

static greta_status isolate_prompt(const isolate_run *run, const greta_prompt *prompt,
                                   analysis_prompt *out, greta_error *err)
{
    isolate_terms terms = isolate_terms_of(run->model, run->options);
    isolate_files files;
    isolate_recording decoded;
    trace_set set;
    prompt_name(prompt->id, out);
    GRETA_TRY(isolate_record(run, prompt, &files, &decoded, out, err));
    if (out->why != REASON_NONE) {
        isolate_recording_free(&decoded);
        return isolate_judge_none(&terms, run->model->cfg.n_layer, out, err);
    }
    greta_status status = trace_set_open(&files, &set, err);
    if (status == GRETA_OK) {
        status = judge_set(&set, &terms, &decoded, out, err);
        trace_set_close(&set);
    }
    isolate_recording_free(&decoded);
    isolate_files_free(&files);
    return status;
}

static greta_status isolate_prompts(const isolate_run *run, const greta_prompt *prompts, size_t n,
                                    analysis *a, greta_error *err)
{
    a->prompt = calloc(n, sizeof *a->prompt);
    if (!a->prompt) {
        return error_memory(err, "prompts", n * sizeof *a->prompt);
    }
    for (size_t i = 0; i < n; i++) {
        a->n_prompt++;
        GRETA_TRY(isolate_prompt(run, &prompts[i], &a->prompt[i], err));
    }
    return GRETA_OK;
}

/* ---- From traces ----------------------------------------------------------------------------- */

/* Without a prompt id a trace is called by its file. */
static void trace_name(const trace *t, analysis_prompt *out)
{
    const char *slash = strrchr(t->path, '/');
    prompt_name(t->header.prompt_id[0] ? t->header.prompt_id : slash ? slash + 1 : t->path, out);
}

static greta_status isolate_traces(const trace_set *all, const isolate_terms *terms, analysis *a,
                                   greta_error *err)
{
    uint8_t *taken = calloc(all->n, 1);
    a->prompt = calloc(all->n, sizeof *a->prompt);
    greta_status status = taken && a->prompt ? GRETA_OK : error_memory(err, "prompts", all->n);
    for (size_t i = 0; i < all->n && status == GRETA_OK; i++) {
        trace_set set;
        if (taken[i]) {
            continue;
        }
        status = trace_set_of_prompt(all, i, taken, &set, err);
        if (status == GRETA_OK) {
            analysis_prompt *out = &a->prompt[a->n_prompt++];
            trace_name(all->item[i], out);
            status = judge_set(&set, terms, NULL, out, err);
            free(set.item);
        }
    }
    free(taken);
    return status;
}

static greta_status isolate_folder(greta_model *model, const greta_isolate_options *options,
                                   analysis *a, greta_error *err)
{
    isolate_terms terms = isolate_terms_of(model, options);
    trace_set all;
    GRETA_TRY(trace_set_open_folder(options->from, &all, err));
    for (size_t i = 0; i < all.n && model; i++) {
        /* Another model's numbers would accuse the wrong side. */
        if (all.item[i]->header.model_hash != model_file_hash(model)) {
            terms = isolate_terms_of(NULL, options);
        }
    }
    greta_status status = isolate_traces(&all, &terms, a, err);
    trace_set_close(&all);
    return status;
}

/* ---- What reproduces it ---------------------------------------------------------------------- */

/* The whole path; bytes that no terminal should see as \xNN. */
static void say_path(text *t, const char *path)
{
    bool is_valid = utf8_is_valid(path, strlen(path));
    for (const char *at = path; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c < 0x20 || c == 0x7f || (c >= 0x80 && !is_valid)) {
            text_format(t, "\\x%02x", c);
        } else {
            text_append(t, at, 1);
        }
    }
}

/* As a shell reads it. */
static void say_argument(text *t, const char *argument)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-,";
    text shown = {0};
    say_path(&shown, argument);
    bool is_plain = shown.length > 0 && strspn(shown.data, plain) == shown.length;
    text_string(t, is_plain ? "" : "'");
    for (size_t i = 0; i < shown.length; i++) {
        const char *c = &shown.data[i];
        text_append(t, *c == '\'' ? "'\\''" : c, *c == '\'' ? 4 : 1);
    }
    text_string(t, is_plain ? "" : "'");
    t->failed = t->failed || shown.failed;
    text_free(&shown);
}

static void say_number(text *t, const char *flag, int32_t value)
{
    if (value != 0) {
        text_format(t, " %s %" PRId32, flag, value);
    }
}

static void say_run(text *t, const isolate_run *run)
{
    const greta_isolate_options *o = run->options;
    text_string(t, "greta isolate -m MODEL --prompts PROMPTS");
    text_string(t, o->mode == GRETA_E0            ? " --mode E0"
                   : o->mode == GRETA_E1_TRUNCATE ? " --e1 truncate"
                                                  : "");
    say_number(t, "--ctx", o->session.n_ctx);
    say_number(t, "--chunk", o->session.n_chunk);
    say_number(t, "--threads", o->session.n_thread);
    text_string(t, o->session.kv == GRETA_KV_F32 ? " --kv f32" : "");
    text_string(t, o->session.act == GRETA_ACT_F32 ? " --act f32" : "");
    if (o->session.cpu) {
        text_string(t, " --cpu ");
        say_argument(t, o->session.cpu);
    }
    if (o->device_decode) {
        text_string(t, " --devices ");
        say_argument(t, o->session.device ? o->session.device : "cpu");
        text_string(t, ",");
        say_argument(t, o->device_decode);
    } else if (o->session.device) {
        text_string(t, " --device ");
        say_argument(t, o->session.device);
    }
    if (run->order.n > 0) {
        text_format(t, " --fault %s", run->options->fault);
        if (run->options->fault_stage) {
            text_format(t, " --fault-stage %s", run->options->fault_stage);
        }
        if (run->order.part[0].layer >= 0) {
            text_format(t, " --fault-layer %" PRId32, run->order.part[0].layer);
        }
    }
}

static void say_layers(text *t, const greta_isolate_options *o)
{
    if (o->layers) {
        text_string(t, " --layers ");
        say_argument(t, o->layers);
    }
}

static greta_status command_add(analysis *a, text *t, greta_error *err)
{
    GRETA_TRY(text_take(t, &a->command[a->n_command], err));
    a->n_command++;
    return GRETA_OK;
}

static greta_status commands_fill(const isolate_run *run, analysis *a, greta_error *err)
{
    const greta_isolate_options *o = run->options;
    text t = {0};
    a->command = calloc(2, sizeof *a->command);
    if (!a->command) {
        return error_memory(err, "commands", 2 * sizeof *a->command);
    }
    if (!o->from) {
        say_run(&t, run);
        say_layers(&t, o);
        text_string(&t, " --out ");
        say_argument(&t, o->out);
        GRETA_TRY(command_add(a, &t, err));
    }
    if (!analysis_has_traces(a)) {
        return GRETA_OK;
    }
    text_string(&t, "greta isolate --from ");
    say_argument(&t, o->from ? o->from : o->out);
    say_layers(&t, o);
    if (o->from && o->out) {
        text_string(&t, " --out ");
        say_argument(&t, o->out);
    }
    return command_add(a, &t, err);
}

/* ---- Reports --------------------------------------------------------------------------------- */

static greta_status analysis_begin(const greta_isolate_options *o, analysis *a, greta_error *err)
{
    const char *layers = o->layers ? o->layers : "0", *traces = o->from ? o->from : o->out;
    static const analysis_mode mode_of[] = {ANALYSIS_MODE_FRESH, ANALYSIS_MODE_TRUNCATE,
                                            ANALYSIS_MODE_E0};
    *a = (analysis){.mode = o->from ? ANALYSIS_MODE_FROM : mode_of[o->mode], .has_out = o->out};
    if (strlen(layers) >= sizeof a->layers) {
        return error_about(err, GRETA_USAGE, "--layers", "%zu characters (at most %zu)",
                           strlen(layers), sizeof a->layers - 1);
    }
    memcpy(a->layers, layers, strlen(layers) + 1);
    text t = {0};
    say_path(&t, traces);
    GRETA_TRY(text_take(&t, &a->traces, err));
    say_path(&t, o->out ? o->out : "");
    return text_take(&t, &a->out, err);
}

static greta_status report_write(const greta_isolate_options *o, const char *name, text *t,
                                 greta_error *err)
{
    char *path, *content;
    GRETA_TRY(text_take(t, &content, err));
    greta_status status = path_join(o->out, name, &path, err);
    if (status == GRETA_OK) {
        status = file_write(path, content, strlen(content), err);
        free(path);
    }
    free(content);
    return status;
}

static greta_status reports_write(const greta_isolate_options *o, const analysis *a,
                                  greta_error *err)
{
    text t = {0};
    if (!o->out) {
        return GRETA_OK;
    }
    report_tsv(&t, a);
    GRETA_TRY(report_write(o, report_names[0], &t, err));
    GRETA_TRY(report_json(&t, a, err));
    GRETA_TRY(report_write(o, report_names[1], &t, err));
    report_markdown(&t, a);
    return report_write(o, report_names[2], &t, err);
}

/* All that can be refused is refused here. */
static greta_status run_check(isolate_run *run, const greta_prompt *prompts, size_t n,
                              const analysis *a, greta_error *err)
{
    if (!run->options->from) {
        GRETA_TRY(prompts_check(prompts, n, err));
        GRETA_TRY(layers_check(a->layers, run->model->cfg.n_layer, err));
        GRETA_TRY(isolate_run_init(run->model, run->options, run, err));
    }
    return out_check(run->options, err);
}

static greta_status isolate_all(isolate_run *run, const greta_prompt *prompts, size_t n,
                                analysis *a, greta_error *err)
{
    GRETA_TRY(analysis_begin(run->options, a, err));
    GRETA_TRY(run_check(run, prompts, n, a, err));
    GRETA_TRY(run->options->from ? isolate_folder(run->model, run->options, a, err)
                                 : isolate_prompts(run, prompts, n, a, err));
    analysis_conclude(a);
    GRETA_TRY(commands_fill(run, a, err));
    return reports_write(run->options, a, err);
}

/* ---- The public calls ------------------------------------------------------------------------ */

static greta_status options_check(const greta_model *model, const greta_isolate_options *o,
                                  greta_error *err)
{
    if (o->from && o->fault) {
        return error_set(err, GRETA_USAGE, "a fault is planted in a run, not in traces");
    }
    if (!o->from && !model) {
        return error_set(err, GRETA_USAGE, "no model to run (only traces need none)");
    }
    if (!o->from && !o->out) {
        return error_set(err, GRETA_USAGE, "no folder for the traces");
    }
    if (o->device_decode && o->mode != GRETA_E1_FRESH) {
        return error_set(err, GRETA_USAGE, "two devices need a fresh session each: E1, fresh");
    }
    if ((unsigned)o->mode > GRETA_E0) {
        return error_set(err, GRETA_USAGE, "no such mode (E1 fresh, E1 truncate, E0)");
    }
    return GRETA_OK;
}

greta_status greta_isolate(greta_model *model, const greta_prompt *prompts, size_t n,
                           const greta_isolate_options *options, int json, char **out,
                           greta_status *verdict, greta_error *err)
{
    isolate_run run = {.model = model, .options = options};
    analysis a = {0};
    text t = {0};
    *out = NULL;
    *verdict = GRETA_NO_VERDICT;
    GRETA_TRY(options_check(model, options, err));
    greta_status status = isolate_all(&run, prompts, n, &a, err);
    if (status == GRETA_OK && json) {
        status = report_json(&t, &a, err);
    } else if (status == GRETA_OK) {
        report_human(&t, &a);
    }
    if (status == GRETA_OK) {
        status = text_take(&t, out, err);
        *verdict = a.verdict;
    }
    text_free(&t);
    analysis_free(&a);
    return status;
}

greta_status greta_trace_pair(greta_model *model, const greta_prompt *prompt,
                              const greta_isolate_options *options, greta_error *err)
{
    isolate_run run;
    isolate_files files;
    isolate_recording decoded;
    analysis_prompt recorded = {0};
    GRETA_TRY(options_check(model, options, err));
    if (options->from) {
        return error_set(err, GRETA_USAGE, "traces are written from a run, not from traces");
    }
    GRETA_TRY(prompts_check(prompt, 1, err));
    GRETA_TRY(isolate_run_init(model, options, &run, err));
    GRETA_TRY(folder_make(options->out, err));
    prompt_name(prompt->id, &recorded);
    GRETA_TRY(isolate_record(&run, prompt, &files, &decoded, &recorded, err));
    isolate_recording_free(&decoded);
    isolate_files_free(&files);
    if (recorded.tracing == TRACING_OTHER_LOGITS) {
        return error_about(err, GRETA_BUG, recorded.id, "tracing changed the logits of decode0");
    }
    if (recorded.why != REASON_NONE) {
        text why = {0};
        char *said;
        recorded.state = VERDICT_UNMEASURED;
        say_prompt(&why, LANG_EN, &recorded);
        GRETA_TRY(text_take(&why, &said, err));
        error_about(err, GRETA_NO_VERDICT, recorded.id, "%s", said);
        free(said);
        return GRETA_NO_VERDICT;
    }
    return GRETA_OK;
}
