/* isolate_record.c - one prompt on two paths through the engine, each traced.
 *
 * E1, the same logical token twice. Fresh: a session prefills tokens 0..n-1; another one prefills
 * 0..n-2 and decodes token n-1. Truncate: one session prefills all, drops the last row and
 * decodes it again. E0, as engines go on: the token after the prompt is decoded; this is no pair,
 * and the judge must say so.
 *
 * A fault is planted in the decode phase only. It has to be set before the last prefill pass: a
 * plant may read rows that this pass left behind. For the same reason the check that tracing
 * changes no bit, a second decode without a trace, first repeats what of that pass the plant
 * reads.
 *
 * That second decode finds its row of the cache written, and the traced one in a fresh session did
 * not: an engine with a fault of warm caches gives other logits then, and tracing has nothing to do
 * with it. So where they differ, a third decode is asked, reached as the traced one was, in a
 * session of its own and without a trace.
 */
#include "base/text.h"
#include "verdict/isolate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The layer that was asked for, or one drawn from the seed; none for an op that is in no layer. */
static greta_status layer_resolve(const isolate_run *run, fault_order_part *part, greta_error *err)
{
    int32_t n_layer = run->model->cfg.n_layer;
    if (!stage_is_per_layer(part->stage == STAGE_NONE ? part->kind->stage : part->stage)) {
        part->layer = -1;
        return GRETA_OK;
    }
    if (part->layer == FAULT_EVERY_LAYER) {
        return GRETA_OK;
    }
    if (part->layer < 0) {
        part->layer = fault_layer_draw(part->kind, n_layer, run->options->seed);
    }
    if (part->layer < part->kind->layer_min || part->layer >= n_layer) {
        return error_about(err, GRETA_USAGE, part->kind->name,
                           "no layer %" PRId32 " to plant it in (%" PRId32 " to %" PRId32 ")",
                           part->layer, part->kind->layer_min, n_layer - 1);
    }
    return GRETA_OK;
}

greta_status isolate_run_init(greta_model *model, const greta_isolate_options *options,
                              isolate_run *run, greta_error *err)
{
    *run = (isolate_run){.model = model, .options = options};
    if (!options->fault) {
        return GRETA_OK;
    }
    stage wanted = options->fault_stage ? stage_find(options->fault_stage) : STAGE_NONE;
    if (options->fault_stage && wanted == STAGE_NONE) {
        char name[ESCAPED_MAX];
        return error_set(err, GRETA_USAGE, "there is no stage \"%s\"",
                         escape(options->fault_stage, strlen(options->fault_stage), name));
    }
    GRETA_TRY(fault_order_parse(options->fault, &run->order, err));
    for (int32_t i = 0; i < run->order.n; i++) {
        fault_order_part *part = &run->order.part[i];
        part->stage = part->stage == STAGE_NONE ? wanted : part->stage;
        part->layer = part->layer == -1 ? options->fault_layer : part->layer;
        GRETA_TRY(layer_resolve(run, part, err));
    }
    return GRETA_OK;
}

void isolate_files_free(isolate_files *files)
{
    for (size_t i = 0; i < files->n; i++) {
        free(files->path[i]);
    }
    *files = (isolate_files){0};
}

static greta_status files_add(const isolate_run *run, const greta_prompt *prompt, const char *kind,
                              isolate_files *files, greta_error *err)
{
    text path = {0};
    text_format(&path, "%s/%s.%s.jsonl", run->options->out, prompt->id, kind);
    GRETA_TRY(text_take(&path, &files->path[files->n], err));
    files->n++;
    return GRETA_OK;
}

/* ---- Passes ---------------------------------------------------------------------------------- */

static greta_status decode(greta_session *session, int32_t token, int32_t position,
                           greta_error *err)
{
    greta_row row = {.token = token, .position = position, .want_logits = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    return greta_session_eval(session, &batch, err);
}

static greta_trace_options trace_options(const isolate_run *run, const greta_prompt *prompt,
                                         const char *path)
{
    return (greta_trace_options){
        .size = sizeof(greta_trace_options),
        .path = path,
        .tokens = "last,cache",
        .sample = -1,
        .bytes_max = run->options->bytes_max,
        .prompt_id = prompt->id,
        .overwrite = run->options->overwrite,
    };
}

/* Says what comes and how large its trace can grow, and starts the trace. */
typedef struct traced_part {
    const char *path, *what;
    size_t n_prefill, n_decode;
} traced_part;

static greta_status trace_start(const isolate_run *run, greta_session *session,
                                const greta_prompt *prompt, const traced_part *part,
                                greta_error *err)
{
    greta_trace_options options = trace_options(run, prompt, part->path);
    const greta_isolate_options *o = run->options;
    if (o->progress) {
        uint64_t bytes;
        char size[NUMBER_MAX], *said;
        text t = {0};
        GRETA_TRY(
            greta_trace_plan(session, &options, part->n_prefill, part->n_decode, &bytes, err));
        text_format(&t, "%s: %s (trace of at most %s)", prompt->id, part->what,
                    number_bytes(bytes, size));
        GRETA_TRY(text_take(&t, &said, err));
        o->progress(o->user, said, 0, part->n_prefill + part->n_decode);
        free(said);
    }
    return greta_trace_begin(session, &options, err);
}

/* Ends the trace whatever came before; the first error counts. */
static greta_status trace_stop(greta_session *session, greta_status status, greta_error *err)
{
    greta_status ended =
        greta_trace_end(session, status == GRETA_OK ? "complete" : "interrupted", err);
    return status == GRETA_OK ? ended : status;
}

/* How many of the last n prefilled rows have to be prefilled again so that delayed reads of the
 * plant find the same rows: those counted from the end, or the whole pass for a row counted from
 * its start. */
static size_t rows_read_again(const fault_planted *planted, size_t n, size_t chunk)
{
    size_t rows = 0;
    for (int32_t i = 0; planted && i < planted->list.n_op; i++) {
        for (int k = 0; k < OP_IN_MAX; k++) {
            const op_read *read = &planted->list.op[i].in[k];
            if (read->edge >= 0 && read->delay == READ_PREVIOUS_PASS) {
                size_t needed = read->row < 0 ? (size_t)-read->row : (n - 1) % chunk + 1;
                rows = needed > rows ? needed : rows;
            }
        }
    }
    return rows;
}

/* ---- Plants ---------------------------------------------------------------------------------- */

greta_status isolate_plant(const isolate_run *run, const greta_session *session,
                           int32_t previous_row, fault_planted **out, greta_error *err)
{
    greta_status status = GRETA_OK;
    rope_table_args angles[2] = {session_angles(session, 0), session_angles(session, 1)};
    *out = NULL;
    for (int32_t i = 0; i < run->order.n && status == GRETA_OK; i++) {
        const fault_order_part *part = &run->order.part[i];
        fault_site at = {
            .kind = part->kind,
            .list = session_ops(session, GRETA_PHASE_PREFILL),
            .table = kernel_find(greta_session_describe(session).cpu),
            .angles = angles,
            .stage = part->stage,
            .layer = part->layer,
            .previous_row = previous_row,
            .trigger = part->trigger,
        };
        if (part->layer == FAULT_EVERY_LAYER) {
            status = fault_plant_layers(&at, run->model->cfg.n_layer, out, err);
        } else if (part->kind->where != WHERE_TOKENS) {
            status = *out ? fault_plant_add(&at, *out, err) : fault_plant(&at, out, err);
        }
    }
    if (status != GRETA_OK) {
        fault_planted_free(*out);
        *out = NULL;
    }
    return status;
}

static const fault_kind *tokens_kind(const isolate_run *run)
{
    const fault_kind *found = NULL;
    for (int32_t i = 0; i < run->order.n; i++) {
        found = run->order.part[i].kind->where == WHERE_TOKENS ? run->order.part[i].kind : found;
    }
    return found;
}

static bool needs_chunk(const isolate_run *run)
{
    bool needs = false;
    for (int32_t i = 0; i < run->order.n; i++) {
        needs |= run->order.part[i].kind->needs_chunk;
    }
    return needs;
}

static greta_status plant_set(greta_session *session, const fault_planted *planted,
                              greta_error *err)
{
    if (!planted) {
        return GRETA_OK;
    }
    session_override override = {.list = &planted->list,
                                 .table = planted->table,
                                 .phases = 1u << GRETA_PHASE_DECODE,
                                 .trigger = planted->trigger,
                                 .cos_sin = planted->cos_sin};
    return session_override_set(session, &override, err);
}

/* ---- Does tracing change a bit? -------------------------------------------------------------- */

void isolate_recording_free(isolate_recording *d)
{
    greta_session_free(d->session);
    fault_planted_free(d->planted);
    free(d->tokens.id);
    *d = (isolate_recording){0};
}

/* Decodes the token again without a trace. */
static greta_status decode_again(const isolate_recording *d, greta_error *err)
{
    greta_session *session = d->session;
    size_t again =
        rows_read_again(d->planted, d->n_prefill, (size_t)greta_session_describe(session).n_chunk);
    if (again > 0) {
        size_t first = d->n_prefill - again;
        GRETA_TRY(
            greta_session_feed(session, d->prompt->token + first, again, (int32_t)first, err));
    }
    GRETA_TRY(greta_session_drop(session, 0, d->position, err));
    return decode(session, d->token, d->position, err);
}

greta_status isolate_decode_again(const isolate_recording *d, greta_capture **out, greta_error *err)
{
    GRETA_TRY(greta_capture_begin(d->session, NULL, err));
    greta_status status = decode_again(d, err);
    greta_status ended = greta_capture_end(d->session, out, err);
    return status == GRETA_OK ? ended : status;
}

/* The first row, in execution order, that two runs do not agree in. */
static void unrepeated_find(const greta_capture *a, const greta_capture *b, unrepeated *out)
{
    greta_captured x, y;
    for (size_t i = 0; greta_capture_row(a, i, &x) && greta_capture_row(b, i, &y); i++) {
        if (x.hash != y.hash || x.bag != y.bag) {
            *out = (unrepeated){true, stage_find(x.stage), x.layer};
            return;
        }
    }
}

/* Two more runs, what every op wrote held side by side. */
static greta_status repeat_check(const isolate_recording *d, unrepeated *out, greta_error *err)
{
    greta_capture *run[2] = {NULL, NULL};
    greta_status status = isolate_decode_again(d, &run[0], err);
    status = status == GRETA_OK ? isolate_decode_again(d, &run[1], err) : status;
    if (status == GRETA_OK) {
        unrepeated_find(run[0], run[1], out);
    }
    greta_capture_free(run[0]);
    greta_capture_free(run[1]);
    return status;
}

static greta_session_options session_options_decode(const isolate_run *run)
{
    greta_session_options options = run->options->session;
    const char *other = run->options->device_decode;
    options.device = other ? other : options.device;
    return options;
}

/* The decode in a session of its own, over rows that nothing was written to before, without a
 * trace. It takes the place of d->session: two of them may not fit. */
static greta_status decode_cold(const isolate_run *run, isolate_recording *d, greta_error *err)
{
    greta_session_options options = session_options_decode(run);
    greta_session_free(d->session);
    d->session = NULL;
    GRETA_TRY(greta_session_new(run->model, &options, &d->session, err));
    GRETA_TRY(plant_set(d->session, d->planted, err));
    GRETA_TRY(greta_session_feed(d->session, d->prompt->token, d->n_prefill, 0, err));
    return decode(d->session, d->token, d->position, err);
}

/* Compares the logits as integers. Where they differ it need not be tracing's fault: a decode that
 * does not repeat differs from itself, and one may depend on what the cache held before. */
static greta_status tracing_check(const isolate_run *run, isolate_recording *d,
                                  analysis_prompt *out, greta_error *err)
{
    size_t bytes = (size_t)run->model->cfg.n_vocab * sizeof(float);
    bool is_cold = run->options->mode != GRETA_E1_TRUNCATE, is_same = false;
    float *traced = malloc(bytes);
    if (!traced) {
        return error_memory(err, "logits", bytes);
    }
    memcpy(traced, greta_session_logits(d->session, 0), bytes);
    greta_status status = decode_again(d, err);
    if (status == GRETA_OK) {
        is_same = memcmp(traced, greta_session_logits(d->session, 0), bytes) == 0;
        d->repeats = is_same;
        status = repeat_check(d, &out->unrepeated, err);
    }
    if (status == GRETA_OK && !is_same && is_cold) {
        status = decode_cold(run, d, err);
        is_same =
            status == GRETA_OK && memcmp(traced, greta_session_logits(d->session, 0), bytes) == 0;
        if (is_same) { /* what did not repeat is what the cache holds from one to the next */
            out->unrepeated = (unrepeated){0};
        }
    }
    out->tracing = is_same                    ? TRACING_SAME_LOGITS
                   : out->unrepeated.is_found ? TRACING_NOT_REPEATED
                                              : TRACING_OTHER_LOGITS;
    free(traced);
    return status;
}

/* ---- The modes ------------------------------------------------------------------------------- */

greta_status isolate_decode_trace(const isolate_run *run, const isolate_decode *d, greta_error *err)
{
    const greta_prompt *prompt = d->prompt;
    int32_t last = (int32_t)prompt->n - 1;
    traced_part part = {d->path, "decode0", (size_t)(last - d->first), 1};
    GRETA_TRY(greta_session_drop(d->session, 0, d->first, err));
    GRETA_TRY(plant_set(d->session, d->planted, err));
    GRETA_TRY(trace_start(run, d->session, prompt, &part, err));
    greta_status status =
        greta_session_feed(d->session, prompt->token + d->first, part.n_prefill, d->first, err);
    if (status == GRETA_OK) {
        status = decode(d->session, prompt->token[last], last, err);
    }
    return trace_stop(d->session, status, err);
}

static greta_status prefill_trace(const isolate_run *run, greta_session *session,
                                  const greta_prompt *prompt, const char *path, greta_error *err)
{
    traced_part part = {path, "prefill_last", prompt->n, 0};
    GRETA_TRY(trace_start(run, session, prompt, &part, err));
    return trace_stop(session, greta_session_feed(session, prompt->token, prompt->n, 0, err), err);
}

/* The decode side is fed other tokens. */
static greta_status tokens_plant(const isolate_run *run, isolate_recording *d, greta_error *err)
{
    const fault_kind *kind = tokens_kind(run);
    if (!kind) {
        return GRETA_OK;
    }
    GRETA_TRY(fault_tokens_edit(kind, d->prompt->token, d->prompt->n, &d->tokens, err));
    if (d->tokens.n < 2 || d->tokens.n > (size_t)greta_session_describe(d->session).n_ctx) {
        return error_about(err, GRETA_BAD_INPUT, kind->name, "%zu tokens are left of the prompt",
                           d->tokens.n);
    }
    d->edited = (greta_prompt){d->prompt->id, d->tokens.id, d->tokens.n};
    d->prompt = &d->edited;
    d->n_prefill = d->tokens.n - 1;
    d->position = (int32_t)d->n_prefill;
    d->token = d->tokens.id[d->n_prefill];
    return GRETA_OK;
}

/* The session that prefilled is replaced by a fresh one, perhaps on another device. */
static greta_status record_fresh(const isolate_run *run, const greta_prompt *prompt,
                                 const isolate_files *files, isolate_recording *d, greta_error *err)
{
    greta_session_options options = session_options_decode(run);
    GRETA_TRY(prefill_trace(run, d->session, prompt, files->path[0], err));
    greta_session_free(d->session);
    GRETA_TRY(greta_session_new(run->model, &options, &d->session, err));
    GRETA_TRY(isolate_plant(run, d->session, -1, &d->planted, err));
    GRETA_TRY(tokens_plant(run, d, err));
    isolate_decode part = {d->session, d->prompt, 0, d->planted, files->path[1]};
    return isolate_decode_trace(run, &part, err);
}

static greta_status record_truncate(const isolate_run *run, const greta_prompt *prompt,
                                    const isolate_files *files, isolate_recording *d,
                                    greta_error *err)
{
    traced_part part = {files->path[1], "decode0", 0, 1};
    GRETA_TRY(isolate_plant(run, d->session, -2, &d->planted, err));
    GRETA_TRY(plant_set(d->session, d->planted, err));
    GRETA_TRY(prefill_trace(run, d->session, prompt, files->path[0], err));
    GRETA_TRY(greta_session_drop(d->session, 0, d->position, err));
    GRETA_TRY(trace_start(run, d->session, prompt, &part, err));
    return trace_stop(d->session, decode(d->session, d->token, d->position, err), err);
}

static greta_status record_e0(const isolate_run *run, const greta_prompt *prompt,
                              const isolate_files *files, isolate_recording *d, greta_error *err)
{
    traced_part part = {files->path[0], "prefill_last and the next token", prompt->n, 1};
    greta_sampler greedy = {.top_p = 1};
    GRETA_TRY(isolate_plant(run, d->session, -1, &d->planted, err));
    GRETA_TRY(plant_set(d->session, d->planted, err));
    GRETA_TRY(trace_start(run, d->session, prompt, &part, err));
    greta_status status = greta_session_feed(d->session, prompt->token, prompt->n, 0, err);
    if (status == GRETA_OK) {
        d->token = greta_sample(&greedy, greta_session_logits(d->session, 0),
                                run->model->cfg.n_vocab, err);
        status = d->token < 0 ? GRETA_BUG : decode(d->session, d->token, d->position, err);
    }
    return trace_stop(d->session, status, err);
}

/* ---- Before anything runs -------------------------------------------------------------------- */

static int64_t rows_of_last_pass(int64_t n, int64_t chunk)
{
    return n < 1 ? 0 : (n - 1) % chunk + 1;
}

/* Whether the two paths would be two, and the plant possible; a prompt that does not fit is
 * refused. */
static greta_status prompt_check(const isolate_run *run, const greta_session_options *in_force,
                                 analysis_prompt *out, greta_error *err)
{
    bool is_e0 = run->options->mode == GRETA_E0;
    int64_t n = out->n_token;
    int64_t before = run->options->mode == GRETA_E1_FRESH ? n - 1 : n;
    if (n + is_e0 > in_force->n_ctx) {
        error_about(err, GRETA_BAD_INPUT, out->id,
                    "the prompt is %" PRId64 " tokens%s, the context %" PRId32, n,
                    is_e0 ? " and one is decoded" : "", in_force->n_ctx);
        error_hint(err, "raise the context or shorten the prompt");
        return GRETA_BAD_INPUT;
    }
    if (!is_e0 && n < 2) {
        out->why = REASON_ONE_TOKEN;
    } else if (!is_e0 && rows_of_last_pass(n, in_force->n_chunk) < 2) {
        out->why = REASON_CHUNK_OF_ONE;
    } else if (needs_chunk(run) && rows_of_last_pass(before, in_force->n_chunk) < 2) {
        out->why = REASON_PLANT_ROWS;
    }
    return GRETA_OK;
}

static greta_status record_mode(const isolate_run *run, const greta_prompt *prompt,
                                isolate_files *files, isolate_recording *d, greta_error *err)
{
    if (run->options->mode == GRETA_E0) {
        GRETA_TRY(files_add(run, prompt, "e0", files, err));
        return record_e0(run, prompt, files, d, err);
    }
    GRETA_TRY(files_add(run, prompt, "prefill", files, err));
    GRETA_TRY(files_add(run, prompt, "decode", files, err));
    return run->options->mode == GRETA_E1_FRESH ? record_fresh(run, prompt, files, d, err)
                                                : record_truncate(run, prompt, files, d, err);
}

greta_status isolate_record(const isolate_run *run, const greta_prompt *prompt,
                            isolate_files *files, isolate_recording *d, analysis_prompt *out,
                            greta_error *err)
{
    *files = (isolate_files){0};
    bool is_e0 = run->options->mode == GRETA_E0;
    *d = (isolate_recording){.prompt = prompt,
                             .token = prompt->token[prompt->n - 1],
                             .position = (int32_t)prompt->n - !is_e0,
                             .n_prefill = prompt->n - (run->options->mode == GRETA_E1_FRESH)};
    if (tokens_kind(run) && run->options->mode != GRETA_E1_FRESH) {
        return error_about(err, GRETA_USAGE, tokens_kind(run)->name,
                           "other tokens need a session of their own: E1, fresh");
    }
    GRETA_TRY(greta_session_new(run->model, &run->options->session, &d->session, err));
    greta_session_options in_force = greta_session_describe(d->session);
    out->n_token = (int64_t)prompt->n;
    out->n_chunk = in_force.n_chunk;
    greta_status status = prompt_check(run, &in_force, out, err);
    if (status == GRETA_OK && out->why == REASON_NONE) {
        status = record_mode(run, prompt, files, d, err);
        if (status == GRETA_OK) {
            status = tracing_check(run, d, out, err);
        }
    }
    if (status != GRETA_OK) {
        isolate_recording_free(d);
        isolate_files_free(files);
    }
    return status;
}
