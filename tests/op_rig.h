/* op_rig.h - a run of a tiny model with every value of every op, for tests of replay.
 *
 * The session is captured, so the rows are what the engine's own kernels wrote; a case is built
 * from them as a caller builds it from a trace.
 */
#ifndef GRETA_TESTS_OP_RIG_H
#define GRETA_TESTS_OP_RIG_H

#include "base/stage.h"
#include "engine/session.h"
#include "replay/op_replay.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { OP_RIG_TOKENS = 70, OP_RIG_PREFILL = 66 };

typedef struct op_rig {
    greta_model *model;
    greta_session *session;
    greta_capture *capture;
    greta_captured *row; /* (n_layer + 2, STAGE_COUNT, OP_RIG_TOKENS), values NULL: none */
    int32_t n_layer;
    int32_t token[OP_RIG_TOKENS];
    op_list list; /* the healthy list, our own */
    act_contract act;
    dtype kv;
    char path[TINY_PATH];
} op_rig;

typedef struct op_rig_options {
    const char *model; /* for mkmodel */
    const char *cpu;
    greta_kv kv;
    greta_act act;
} op_rig_options;

static inline void rig_check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

static inline size_t rig_index(const op_rig *r, stage name, int32_t layer, int64_t position)
{
    int32_t block = stage_is_per_layer(name) ? layer + 1 : 0;
    (void)r;
    return ((size_t)block * STAGE_COUNT + (size_t)name) * OP_RIG_TOKENS + (size_t)position;
}

static inline dtype rig_type(const char *name)
{
    return !strcmp(name, "ACT_Q8") ? DTYPE_ACT_Q8
           : !strcmp(name, "F16")  ? DTYPE_F16
           : !strcmp(name, "I32")  ? DTYPE_I32
                                   : DTYPE_F32;
}

/* An op_rows.find. */
static inline bool rig_find(void *user, stage name, int32_t layer, int64_t position,
                            op_operand *row)
{
    op_rig *r = user;
    if (position < 0 || position >= OP_RIG_TOKENS || layer >= r->n_layer) {
        return false;
    }
    if (name == STAGE_TOKENS) {
        *row = (op_operand){DTYPE_I32, 1, &r->token[position]};
        return true;
    }
    const greta_captured *c = &r->row[rig_index(r, name, layer, position)];
    if (c->values) {
        *row = (op_operand){rig_type(c->type), c->n, c->values};
    }
    return c->values != NULL;
}

static inline op_rows rig_rows(op_rig *r)
{
    return (op_rows){rig_find, r};
}

static inline op_place rig_place(const op_rig *r, int32_t index, int64_t position)
{
    return (op_place){r->model, &r->list, index, position, r->kv, OP_RIG_TOKENS, NULL};
}

static inline void rig_run(op_rig *r)
{
    greta_error err = {0};
    greta_row row[OP_RIG_TOKENS];
    for (int32_t i = 0; i < OP_RIG_TOKENS; i++) {
        r->token[i] = (i * i * 7 + 3 * i + 5) % r->model->cfg.n_vocab;
        row[i] = (greta_row){r->token[i], i, 0, 1};
    }
    greta_batch prefill = {row, OP_RIG_PREFILL, GRETA_PHASE_PREFILL};
    rig_check(greta_session_eval(r->session, &prefill, &err), &err);
    for (int32_t i = OP_RIG_PREFILL; i < OP_RIG_TOKENS; i++) {
        greta_batch decode = {&row[i], 1, GRETA_PHASE_DECODE};
        rig_check(greta_session_eval(r->session, &decode, &err), &err);
    }
}

static inline void rig_index_rows(op_rig *r)
{
    size_t n = (size_t)(r->n_layer + 2) * STAGE_COUNT * OP_RIG_TOKENS;
    r->row = calloc(n, sizeof *r->row);
    assert_non_null(r->row);
    for (size_t i = 0; i < greta_capture_count(r->capture); i++) {
        greta_captured c;
        assert_true(greta_capture_row(r->capture, i, &c));
        assert_non_null(c.values);
        r->row[rig_index(r, stage_find(c.stage), c.layer, c.position)] = c;
    }
}

static inline void op_rig_open(op_rig *r, const op_rig_options *o)
{
    greta_error err = {0};
    *r = (op_rig){.act = o->act == GRETA_ACT_F32 ? ACT_CONTRACT_F32 : ACT_CONTRACT_Q8,
                  .kv = o->kv == GRETA_KV_F32 ? DTYPE_F32 : DTYPE_F16};
    assert_true(tiny_model("op", o->model, r->path));
    rig_check(greta_model_open(r->path, &r->model, &err), &err);
    r->n_layer = r->model->cfg.n_layer;
    greta_session_options options = {.size = sizeof options,
                                     .n_ctx = 128,
                                     .n_chunk = 128,
                                     .n_thread = 1,
                                     .kv = o->kv,
                                     .act = o->act,
                                     .cpu = o->cpu};
    rig_check(greta_session_new(r->model, &options, &r->session, &err), &err);
    greta_capture_options keep = {.size = sizeof keep, .values = 1};
    rig_check(greta_capture_begin(r->session, &keep, &err), &err);
    rig_run(r);
    rig_check(greta_capture_end(r->session, &r->capture, &err), &err);
    rig_check(op_list_build(r->model, r->act, &r->list, &err), &err);
    rig_index_rows(r);
}

static inline void op_rig_close(op_rig *r)
{
    op_list_free(&r->list);
    free(r->row);
    greta_capture_free(r->capture);
    greta_session_free(r->session);
    greta_model_release(r->model);
    unlink(r->path);
}

/* What the op wrote. */
static inline op_operand rig_recorded(op_rig *r, int32_t index, int64_t position)
{
    const edge *e = &r->list.edge[r->list.op[index].out[0]];
    op_operand row = {0};
    if (!rig_find(r, e->name, e->layer, position, &row)) {
        fail_msg("no row of %s, layer %d, position %d", stage_name(e->name), e->layer,
                 (int)position);
    }
    return row;
}

#endif
