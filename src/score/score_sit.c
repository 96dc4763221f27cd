/* score_sit.c - one case: two runs are recorded, the referee is asked, its answer is noted.
 *
 * In the modes fresh and warm greta_isolate records and judges. In the modes engine and batch the
 * runs are recorded here, with the fault live in prefill and decode, and greta_compare judges; in
 * the mode device the second run is on a device of the exam's plugin. Both are asked for JSON, as
 * any program would: the referee gets traces and the model, and nothing else.
 */
#include "score/score.h"

#include "base/file.h"
#include "trace/trace.h"
#include "verdict/isolate.h"

#include <jansson.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_ROWS 3

/* ---- Where traces lie ------------------------------------------------------------------------ */

greta_status score_room_open(greta_model *model, const greta_prompt *prompts,
                             const greta_score_options *options, score_room *out, greta_error *err)
{
    static const char *const name[2] = {"case.prefill.jsonl", "case.decode.jsonl"};
    text t = {0};
    *out = (score_room){.model = model, .prompts = prompts, .options = options};
    text_format(&t, "%s/traces-%d", options->out, (int)options->part);
    greta_status status = text_take(&t, &out->folder, err);
    for (int i = 0; i < 2 && status == GRETA_OK; i++) {
        t = (text){0};
        text_format(&t, "%s/%s", out->folder, name[i]);
        status = text_take(&t, &out->path[i], err);
    }
    act_contract act = options->session.act == GRETA_ACT_F32 ? ACT_CONTRACT_F32 : ACT_CONTRACT_Q8;
    status = status ? status : op_list_build(model, act, &out->list, err);
    status = status ? status : folder_make(out->folder, err);
    if (status != GRETA_OK) {
        score_room_close(out);
    }
    return status;
}

void score_room_close(score_room *room)
{
    static const char *const report[] = {"analysis.tsv", "analysis.json", "report.md"};
    for (size_t i = 0; i < 3 && room->folder; i++) {
        text t = {0};
        text_format(&t, "%s/%s", room->folder, report[i]);
        if (!t.failed) {
            unlink(t.data);
        }
        text_free(&t);
    }
    for (int i = 0; i < 2 && room->path[i]; i++) {
        text t = {0};
        text_format(&t, "%s.blob", room->path[i]);
        if (!t.failed) {
            unlink(t.data);
        }
        text_free(&t);
        unlink(room->path[i]);
    }
    if (room->folder) {
        rmdir(room->folder);
    }
    op_list_free(&room->list);
    free(room->folder);
    free(room->path[0]);
    free(room->path[1]);
    *room = (score_room){0};
}

/* ---- Recording ------------------------------------------------------------------------------- */

/* What a run executes instead of the healthy list; it must outlive the session. */
typedef struct variant {
    fault_planted *planted;
    op_list list;
    kernel_table table;
} variant;

static void variant_free(variant *v)
{
    fault_planted_free(v->planted);
    op_list_free(&v->list);
}

/* A row of the pass before: there is none in the first pass of a prefill. */
static bool reads_pass_before(const fault_planted *p)
{
    bool found = false;
    for (int32_t i = 0; i < p->list.n_op; i++) {
        for (int k = 0; k < OP_IN_MAX; k++) {
            found |= p->list.op[i].in[k].delay == READ_PREVIOUS_PASS;
        }
    }
    return found;
}

static greta_status variant_set(const score_room *room, const score_case *c, greta_session *session,
                                variant *v, greta_error *err)
{
    uint32_t decode = 1u << GRETA_PHASE_DECODE, both = decode | 1u << GRETA_PHASE_PREFILL;
    session_override override = {.phases = both};
    if (c->control && !control_has_kernels(c->control)) {
        return GRETA_OK;
    }
    if (c->control) {
        const kernel_table *table = kernel_find(greta_session_describe(session).cpu);
        GRETA_TRY(control_list(session_ops(session, GRETA_PHASE_PREFILL), &v->list, err));
        v->table = control_table(c->control, table);
        override.list = &v->list;
        override.table = &v->table;
        return session_override_set(session, &override, err);
    }
    if (c->order[0] == '\0' || c->defect) {
        return GRETA_OK;
    }
    greta_isolate_options options = {.size = sizeof options,
                                     .session = room->options->session,
                                     .fault = c->order,
                                     .fault_layer = -1};
    isolate_run run;
    GRETA_TRY(isolate_run_init(room->model, &options, &run, err));
    GRETA_TRY(isolate_plant(&run, session, -1, &v->planted, err));
    override = (session_override){.list = &v->planted->list,
                                  .table = v->planted->table,
                                  .phases = reads_pass_before(v->planted) ? decode : both,
                                  .trigger = v->planted->trigger,
                                  .cos_sin = v->planted->cos_sin};
    return session_override_set(session, &override, err);
}

/* Sequence 0 is the prompt; the others have other tokens from the first on. */
static greta_row row_of(const score_room *room, const score_case *c, int32_t sequence,
                        int32_t position)
{
    int64_t token = room->prompts[c->prompt].token[position];
    token = (token + 97 * sequence) % room->model->cfg.n_vocab;
    return (greta_row){(int32_t)token, position, sequence, position + 1 == (int32_t)c->n_token};
}

static greta_status pass_run(const score_room *room, const score_case *c, const score_pass *p,
                             greta_session *session, greta_error *err)
{
    greta_row row[SCORE_ROWS];
    for (int32_t r = 0; r < p->n_row; r++) {
        row[r] = p->is_batch ? row_of(room, c, r, p->first) : row_of(room, c, 0, p->first + r);
    }
    greta_batch batch = {row, (size_t)p->n_row, p->phase};
    return greta_session_eval(session, &batch, err);
}

/* The first run of a batch: every sequence alone, token by token. */
static greta_status singles_run(const score_room *room, const score_case *c, greta_session *session,
                                greta_error *err)
{
    for (int32_t q = 0; q < BATCH_ROWS; q++) {
        for (int32_t p = 0; p < (int32_t)c->n_token; p++) {
            greta_row row = row_of(room, c, q, p);
            greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
            GRETA_TRY(greta_session_eval(session, &batch, err));
        }
    }
    return GRETA_OK;
}

static greta_status passes_run(const score_room *room, const score_case *c, greta_session *session,
                               greta_error *err)
{
    score_pass pass[SCORE_PASSES];
    int n = score_passes(c, pass);
    for (int i = 0; i < n; i++) {
        GRETA_TRY(pass_run(room, c, &pass[i], session, err));
    }
    return GRETA_OK;
}

/* What the cache holds before a request that reuses it: other tokens, in one pass, dropped. */
static greta_status cache_use(const score_room *room, const score_case *c, greta_session *session,
                              greta_error *err)
{
    greta_row row[SCORE_ROWS];
    for (int32_t p = 0; p < (int32_t)c->n_token; p++) {
        row[p] = row_of(room, c, 1, p);
        row[p].sequence = 0;
    }
    greta_batch batch = {row, c->n_token, GRETA_PHASE_PREFILL};
    GRETA_TRY(greta_session_eval(session, &batch, err));
    return greta_session_drop(session, 0, 0, err);
}

/* The second run, with what is planted; or the first, healthy and in one chunk. */
static greta_status run_traced(const score_room *room, const score_case *c, bool is_second,
                               greta_error *err)
{
    greta_session *session = NULL;
    variant v = {0};
    score_case first = *c;
    greta_session_options options = room->options->session;
    greta_trace_options traced = {.size = sizeof traced,
                                  .path = room->path[is_second],
                                  .tokens = "all,cache",
                                  .sample = -1,
                                  .prompt_id = room->prompts[c->prompt].id,
                                  .overwrite = 1};
    options.n_sequence = c->mode == SCORE_BATCH ? BATCH_ROWS : 0;
    options.n_chunk = SCORE_ROWS; /* passes are cut by score_passes */
    if (is_second && c->control) {
        options.kv = c->control->is_kv_f32 ? GRETA_KV_F32 : options.kv;
        options.act = c->control->is_act_f32 ? GRETA_ACT_F32 : options.act;
    }
    first.n_chunk = 0;
    char device[32];
    if (is_second && c->defect) {
        snprintf(device, sizeof device, DEFECT_PLUGIN ":%d", (int)(c->defect - defects()));
        options.device = device;
    }
    greta_status status = greta_session_new(room->model, &options, &session, err);
    if (status == GRETA_OK && is_second && c->mode == SCORE_REUSE) {
        status = cache_use(room, c, session, err);
    }
    if (status == GRETA_OK && is_second) {
        status = variant_set(room, c, session, &v, err);
    }
    status = status ? status : greta_trace_begin(session, &traced, err);
    if (status == GRETA_OK) {
        status = !is_second && c->mode == SCORE_BATCH
                     ? singles_run(room, c, session, err)
                     : passes_run(room, is_second ? c : &first, session, err);
        greta_status ended =
            greta_trace_end(session, status == GRETA_OK ? "complete" : "interrupted", err);
        status = status ? status : ended;
    }
    greta_session_free(session);
    variant_free(&v);
    return status;
}

/* The healthy run is recorded once for the cases that share it. */
static greta_status healthy_run(score_room *room, const score_case *c, greta_error *err)
{
    char wanted[SCORE_TEXT];
    snprintf(wanted, sizeof wanted, "%s/%zu:%zu", score_mode_name(c->mode), c->prompt, c->n_token);
    if (strcmp(room->healthy, wanted) == 0) {
        return GRETA_OK;
    }
    room->healthy[0] = '\0';
    GRETA_TRY(run_traced(room, c, false, err));
    memcpy(room->healthy, wanted, sizeof wanted);
    return GRETA_OK;
}

/* ---- Another engine's run -------------------------------------------------------------------- */

/* The tokens of a trace of one sequence, from position 0 on; 0: it does not hold them all. */
static size_t foreign_tokens(const trace *t, int32_t token[SCORE_ROWS])
{
    bool is_there[SCORE_ROWS] = {false};
    size_t n = 0;
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        if (r->kind != TRACE_ROW || r->name != STAGE_EMBED) {
            continue;
        }
        if (r->position < 0 || r->position >= SCORE_ROWS || r->sequence != 0) {
            return 0;
        }
        token[r->position] = r->token;
        is_there[r->position] = true;
        n = (size_t)r->position + 1 > n ? (size_t)r->position + 1 : n;
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_there[i] || token[i] < 0) {
            return 0;
        }
    }
    return n;
}

/* Ours of the same tokens, under the contracts that the trace says it has. */
static greta_status foreign_run(score_room *room, score_case *c, greta_error *err)
{
    trace *theirs = NULL;
    greta_session *session = NULL;
    int32_t token[SCORE_ROWS];
    greta_session_options options = room->options->session;
    greta_trace_options traced = {.size = sizeof traced,
                                  .path = room->path[0],
                                  .tokens = "all,cache",
                                  .sample = -1,
                                  .overwrite = 1};
    GRETA_TRY(trace_open(c->foreign, &theirs, err));
    c->n_token = foreign_tokens(theirs, token);
    options.kv = strcmp(theirs->header.kv, "f32") == 0 ? GRETA_KV_F32 : GRETA_KV_F16;
    options.act = strcmp(theirs->header.act, "f32") == 0 ? GRETA_ACT_F32 : GRETA_ACT_Q8;
    trace_close(theirs);
    if (c->n_token == 0) {
        return error_set(err, GRETA_BAD_INPUT,
                         "the trace does not hold every token of one sequence "
                         "of at most %d",
                         SCORE_ROWS);
    }
    options.n_chunk = SCORE_ROWS;
    GRETA_TRY(greta_session_new(room->model, &options, &session, err));
    greta_status status = greta_trace_begin(session, &traced, err);
    if (status == GRETA_OK) {
        status = greta_session_feed(session, token, c->n_token, 0, err);
        greta_status ended = greta_trace_end(session, "complete", err);
        status = status ? status : ended;
    }
    greta_session_free(session);
    return status;
}

/* Where a real bug is: the first op, in execution order, of those that carry it. */
static greta_status real_place(const score_room *room, score_case *c, greta_error *err)
{
    greta_session *session = NULL;
    fault_planted *planted = NULL;
    isolate_run run;
    greta_isolate_options options = {.size = sizeof options,
                                     .session = room->options->session,
                                     .fault = c->order,
                                     .fault_layer = -1};
    GRETA_TRY(isolate_run_init(room->model, &options, &run, err));
    GRETA_TRY(greta_session_new(room->model, &options.session, &session, err));
    greta_status status = isolate_plant(&run, session, -1, &planted, err);
    if (status == GRETA_OK) {
        int32_t first = planted->op[0];
        for (int32_t i = 1; i < planted->n_op; i++) {
            first = planted->op[i] < first ? planted->op[i] : first;
        }
        c->place = (score_place){planted->list.op[first].name, planted->list.op[first].layer};
    }
    fault_planted_free(planted);
    greta_session_free(session);
    return status;
}

/* ---- Asking ---------------------------------------------------------------------------------- */

static greta_status ask(score_room *room, score_case *c, char **json, greta_status *verdict,
                        greta_error *err)
{
    const greta_prompt *whole = &room->prompts[c->prompt];
    greta_prompt prompt = {"case", whole->token, c->n_token};
    if (c->mode == SCORE_FOREIGN) {
        room->healthy[0] = '\0';
        GRETA_TRY(foreign_run(room, c, err));
        return greta_compare(room->model, room->path[0], c->foreign, NULL, 1, json, verdict, err);
    }
    if (c->mode != SCORE_FRESH && c->mode != SCORE_WARM) {
        GRETA_TRY(healthy_run(room, c, err));
        GRETA_TRY(run_traced(room, c, true, err));
        return greta_compare(room->model, room->path[0], room->path[1], NULL, 1, json, verdict,
                             err);
    }
    room->healthy[0] = '\0';
    greta_isolate_options options = {.size = sizeof options,
                                     .session = room->options->session,
                                     .mode = c->mode == SCORE_FRESH ? GRETA_E1_FRESH
                                                                    : GRETA_E1_TRUNCATE,
                                     .fault = c->order[0] ? c->order : NULL,
                                     .fault_layer = -1,
                                     .out = room->folder,
                                     .overwrite = 1};
    return greta_isolate(room->model, &prompt, 1, &options, 1, json, verdict, err);
}

/* ---- The answer ------------------------------------------------------------------------------ */

static const char *string_at(json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static void rank_add(score_answer *a, json_t *line, bool is_accused)
{
    json_t *layer = json_object_get(line, "layer");
    score_place place = {stage_find(string_at(line, "stage")),
                         json_is_integer(layer) ? (int32_t)json_integer_value(layer) : -1};
    for (int32_t i = 0; i < a->n_ranked; i++) {
        if (a->ranked[i].name == place.name && a->ranked[i].layer == place.layer) {
            return;
        }
    }
    if (a->n_ranked < SCORE_RANKED && place.name != STAGE_NONE) {
        a->n_accused += is_accused;
        a->ranked[a->n_ranked++] = place;
    }
}

/* Accused ops as they stand, the decisive one first; then what else is told; then what differs. */
static void places_rank(json_t *root, score_answer *a)
{
    json_t *ops = json_object_get(root, "ops"), *stages = json_object_get(root, "stages"), *line;
    size_t i;
    for (int round = 0; round < 3; round++) {
        json_array_foreach(ops, i, line)
        {
            bool is_first = json_is_true(json_object_get(line, "is_decisive"));
            bool is_fault = json_is_true(json_object_get(line, "is_fault"));
            if (round == 0 && is_first) {
                json_t *at = json_object_get(line, "position");
                a->position = json_is_integer(at) ? (int32_t)json_integer_value(at) : -1;
                snprintf(a->state, sizeof a->state, "%s", string_at(line, "state"));
                snprintf(a->bucket, sizeof a->bucket, "%s", string_at(line, "bucket"));
            }
            if (round == 0 ? is_first : round == 1 ? is_fault : true) {
                rank_add(a, line, is_fault || is_first);
            }
        }
    }
    json_array_foreach(stages, i, line)
    {
        if (strcmp(string_at(line, "state"), "differs") == 0) {
            rank_add(a, line, false);
        }
    }
}

static greta_status answer_read(const score_case *c, const char *json, score_answer *a,
                                greta_error *err)
{
    json_error_t parse;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &parse), *at = root;
    bool is_pair = c->mode == SCORE_FRESH || c->mode == SCORE_WARM;
    if (is_pair) {
        at = json_array_get(json_object_get(root, "prompts"), 0);
    }
    if (!json_is_object(at)) {
        json_decref(root);
        return error_set(err, GRETA_BUG, "the referee's answer is no JSON object");
    }
    a->position = -1;
    snprintf(a->state, sizeof a->state, "%s", is_pair ? string_at(at, "state") : "");
    snprintf(a->bucket, sizeof a->bucket, "%s", is_pair ? string_at(at, "bucket") : "");
    json_t *answer = json_object_get(at, "answer");
    snprintf(a->why, sizeof a->why, "%s", is_pair ? string_at(answer, "en") : string_at(at, "why"));
    places_rank(at, a);
    json_decref(root);
    return GRETA_OK;
}

greta_status score_sit(score_room *room, score_case *c, score_answer *out, greta_error *err)
{
    char *json = NULL;
    greta_error refused = {0};
    *out = (score_answer){.position = -1, .position_true = -1};
    const greta_score_options *o = room->options;
    double start = o->seconds ? o->seconds(o->user) : 0;
    greta_status status = c->real ? real_place(room, c, &refused) : GRETA_OK;
    status = status ? status : ask(room, c, &json, &out->verdict, &refused);
    out->seconds = o->seconds ? o->seconds(o->user) - start : 0;
    if (status == GRETA_USAGE || status == GRETA_BAD_INPUT) {
        out->is_refused = true;
        snprintf(out->why, sizeof out->why, "%.250s", refused.message);
        return GRETA_OK;
    }
    if (status != GRETA_OK) {
        *err = refused;
        return status;
    }
    status = answer_read(c, json, out, err);
    greta_free(json);
    const char *const path[2] = {room->path[0], c->foreign[0] ? c->foreign : room->path[1]};
    return status == GRETA_OK ? score_baselines(path, &room->list, c, out, err) : status;
}
