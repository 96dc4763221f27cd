/* sites_rig.h - what tests of traces of many tokens share: a traced run of `model`, healthy or with
 * a planted fault, and the first fault of a verdict.
 */
#ifndef GRETA_TESTS_SITES_RIG_H
#define GRETA_TESTS_SITES_RIG_H

#include "isolate_rig.h"

#include "fault/fault.h"
#include "volume.h"

typedef struct traced_run {
    greta_kv kv;
    greta_act act;
    const char *cpu; /* NULL: the best */
    int32_t n_chunk;
    const char *tokens;
    int64_t sample;
    const fault_kind *fault; /* in decode; NULL: none */
    int32_t layer;
} traced_run;

/* Prefills all but the last token, decodes it, traced. The fault is planted at `name` (STAGE_NONE:
 * where its kind says), in these phases. */
static inline void run_planted(const traced_run *r, stage name, uint32_t phases, const char *path)
{
    greta_error err = {0};
    greta_session *session;
    greta_session_options options = {.size = sizeof options,
                                     .n_thread = 1,
                                     .kv = r->kv,
                                     .act = r->act,
                                     .cpu = r->cpu,
                                     .n_chunk = r->n_chunk};
    greta_trace_options traced = {.size = sizeof traced,
                                  .path = path,
                                  .tokens = r->tokens,
                                  .sample = r->sample,
                                  .overwrite = 1};
    greta_isolate_options isolate = {.size = sizeof isolate, .session = options};
    isolate_run plant = {model, &isolate, fault_order_of(r->fault, r->layer)};
    if (r->fault && name != STAGE_NONE) {
        plant.order.part[0].stage = name;
    }
    fault_planted *planted = NULL;
    const greta_prompt *p = &prompts[1];
    int32_t last = (int32_t)p->n - 1;
    check(greta_session_new(model, &options, &session, &err), &err);
    check(isolate_plant(&plant, session, -1, &planted, &err), &err);
    if (planted) {
        session_override override = {.list = &planted->list,
                                     .phases = phases,
                                     .table = planted->table,
                                     .trigger = planted->trigger,
                                     .cos_sin = planted->cos_sin};
        check(session_override_set(session, &override, &err), &err);
    }
    check(greta_trace_begin(session, &traced, &err), &err);
    check(greta_session_feed(session, p->token, p->n - 1, 0, &err), &err);
    greta_row row = {.token = p->token[last], .position = last, .want_logits = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    check(greta_session_eval(session, &batch, &err), &err);
    check(greta_trace_end(session, "complete", &err), &err);
    greta_session_free(session);
    fault_planted_free(planted);
}

static inline void run_traced(const traced_run *r, const char *path)
{
    run_planted(r, STAGE_NONE, 1u << GRETA_PHASE_DECODE, path);
}

static inline json_t *parsed(char *text)
{
    json_error_t parse;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &parse);
    assert_non_null(root);
    greta_free(text);
    return root;
}

static inline const char *path_of(const char *name)
{
    static char path[8][TINY_PATH];
    static int next;
    char *out = path[next++ % 8];
    snprintf(out, TINY_PATH, "%s.jsonl", folder(name));
    return out;
}

/* The first line of `ops` that is a fault; there must be one. */
static inline json_t *first_fault(json_t *root)
{
    json_t *ops = json_object_get(root, "ops");
    for (size_t i = 0; i < json_array_size(ops); i++) {
        if (json_is_true(json_object_get(json_array_get(ops, i), "is_fault"))) {
            return json_array_get(ops, i);
        }
    }
    fail_msg("no fault");
    return NULL;
}

#endif
