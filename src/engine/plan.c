/* plan.c - gives every edge a buffer by liveness.
 *
 * An edge lives from the op that writes it to the end of the last group (schedule.c) that reads it,
 * in either list and either schedule: threads of a group do not wait for each other, and a trace
 * looks when the group is done. Going through the ops in order, a written edge takes the smallest
 * free buffer that is wide enough, or a new one, and gives it back at its end. On a device it lives
 * as many ops longer as one call may take. Edges that are read with a delay must outlive the pass:
 * they own two buffers, used in turn. The logits outlive the pass too, for the caller.
 */
#include "base/checked.h"
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64

typedef struct life {
    int32_t last; /* op at whose end the edge dies; INT32_MAX: outlives the pass */
    int is_delayed;
} life;

static void life_extend(life *l, const schedule *groups, int32_t i)
{
    int32_t last = groups->end[i] - 1;
    l->last = l->last > last ? l->last : last;
}

/* The op at whose end a capture has looked at what op i wrote: of the next group of all threads. */
static int32_t seen_by(const op_list *list, const schedule *groups, int32_t i)
{
    int32_t next = groups->end[i];
    while (next < list->n_op && groups->split[next].kind == SPLIT_CALLER) {
        next = groups->end[next];
    }
    return next < list->n_op ? next : list->n_op - 1;
}

static void life_read(const op_list *list, const schedule *groups, int is_captured, life *lives)
{
    for (int32_t i = 0; i < list->n_op; i++) {
        for (int out = 0; out < OP_OUT_MAX; out++) {
            if (list->op[i].out[out] >= 0) {
                int32_t last = is_captured ? seen_by(list, groups, i) : i;
                life_extend(&lives[list->op[i].out[out]], groups, last);
            }
        }
        for (int in = 0; in < OP_IN_MAX; in++) {
            const op_read *read = &list->op[i].in[in];
            if (read->edge >= 0) {
                life_extend(&lives[read->edge], groups, i);
                lives[read->edge].is_delayed |= read->delay == READ_PREVIOUS_PASS;
            }
        }
    }
}

static size_t edge_stride(const edge *e)
{
    size_t bytes = e->type == DTYPE_ACT_Q8 ? act_q8_bytes(e->width) : (size_t)e->width * 4;
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int32_t buffer_new(plan *p, uint8_t *is_free, size_t stride)
{
    p->buffer[p->n_buffer] = (buffer){.stride = stride};
    is_free[p->n_buffer] = 0;
    return p->n_buffer++;
}

/* The narrowest free buffer that is wide enough; failing that the widest free one is widened. */
static int32_t buffer_take(plan *p, uint8_t *is_free, size_t stride)
{
    int32_t best = -1;
    for (int32_t i = 0; i < p->n_buffer; i++) {
        if (!is_free[i]) {
            continue;
        }
        size_t have = p->buffer[i].stride, best_have = best < 0 ? 0 : p->buffer[best].stride;
        int is_better = best_have < stride ? have > best_have : have >= stride && have < best_have;
        if (best < 0 || is_better) {
            best = i;
        }
    }
    if (best < 0) {
        return buffer_new(p, is_free, stride);
    }
    if (p->buffer[best].stride < stride) {
        p->buffer[best].stride = stride;
    }
    is_free[best] = 0;
    return best;
}

static void plan_assign(const op_list *list, const life *lives, plan *p, uint8_t *is_free)
{
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        for (int out = 0; out < OP_OUT_MAX; out++) {
            int32_t e = o->out[out];
            if (e < 0 || list->edge[e].is_cache) {
                continue;
            }
            size_t stride = edge_stride(&list->edge[e]);
            int outlives = lives[e].is_delayed || lives[e].last == INT32_MAX;
            p->slot[2 * e] =
                outlives ? buffer_new(p, is_free, stride) : buffer_take(p, is_free, stride);
            p->slot[2 * e + 1] =
                lives[e].is_delayed ? buffer_new(p, is_free, stride) : p->slot[2 * e];
        }
        for (int32_t e = 0; e < list->n_edge; e++) {
            if (p->slot[2 * e] >= 0 && !lives[e].is_delayed && lives[e].last == i) {
                is_free[p->slot[2 * e]] = 1;
            }
        }
    }
}

static greta_status plan_allocate(plan *p, int64_t n_row, greta_error *err)
{
    uint64_t total = ALIGNMENT, bytes;
    for (int32_t i = 0; i < p->n_buffer; i++) {
        if (!checked_mul(p->buffer[i].stride, (uint64_t)n_row, &bytes) ||
            !checked_add(total, bytes, &total)) {
            return error_set(err, GRETA_IO, "activation buffers of a pass do not fit 64 bits");
        }
    }
    /* Not cleared: pages of rows that no pass uses are never touched. */
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT, total) != 0) {
        return error_memory(err, "activations", total);
    }
    p->memory = memory;
    p->bytes = (size_t)total;
    uint8_t *at = p->memory;
    for (int32_t i = 0; i < p->n_buffer; i++) {
        p->buffer[i].base = at;
        p->buffer[i].n_row = n_row;
        at += p->buffer[i].stride * (size_t)n_row;
    }
    return GRETA_OK;
}

static greta_status plan_schedule(const greta_session *session, const op_list *const *list,
                                  plan *out, life *lives, greta_error *err)
{
    for (int l = 0; l < 2 && list[l]->op; l++) {
        for (int is_single = 0; is_single < 2; is_single++) {
            schedule *groups = &out->schedule[l][is_single];
            GRETA_TRY(schedule_build(session, list[l], is_single, groups, err));
            life_read(list[l], groups, session->capture != NULL, lives);
        }
    }
    for (int32_t e = 0; e < list[0]->n_edge && session->device; e++) {
        int32_t last = lives[e].last + FUSED_MAX - 1;
        lives[e].last = last < list[0]->n_op ? last : list[0]->n_op - 1;
    }
    int32_t logits = op_list_edge(list[0], STAGE_LOGITS, -1);
    GRETA_ASSERT(logits >= 0);
    lives[logits].last = INT32_MAX;
    return GRETA_OK;
}

greta_status plan_build(const greta_session *session, const op_list *a, const op_list *b, plan *out,
                        greta_error *err)
{
    size_t n = (size_t)a->n_edge;
    *out = (plan){.slot = malloc(2 * n * sizeof *out->slot),
                  .n_edge = a->n_edge,
                  .buffer = calloc(2 * n + 1, sizeof *out->buffer)};
    life *lives = calloc(n, sizeof *lives);
    uint8_t *is_free = calloc(2 * n + 1, 1);
    greta_status status;
    if (!out->slot || !out->buffer || !lives || !is_free) {
        status = error_memory(err, "the plan", n * 64);
    } else {
        memset(out->slot, 0xff, 2 * n * sizeof *out->slot);
        status = plan_schedule(session, (const op_list *const[]){a, b}, out, lives, err);
    }
    if (status == GRETA_OK) {
        plan_assign(a, lives, out, is_free);
        status = plan_allocate(out, session->options.n_chunk, err);
    }
    free(lives);
    free(is_free);
    if (status != GRETA_OK) {
        plan_free(out);
    }
    return status;
}

void plan_free(plan *p)
{
    for (int l = 0; l < 2; l++) {
        schedule_free(&p->schedule[l][0]);
        schedule_free(&p->schedule[l][1]);
    }
    free(p->slot);
    free(p->buffer);
    free(p->memory);
    *p = (plan){0};
}

/* ---- Rows of a pass -------------------------------------------------------------------------- */

int64_t op_tokens(const greta_session *s, const op *o)
{
    return session_list(s, s->phase)->edge[o->out[0]].is_packed ? s->n_want : s->n_row;
}

int64_t op_row(const greta_session *s, const op *o, int64_t t)
{
    return session_list(s, s->phase)->edge[o->out[0]].is_packed ? s->want[t] : t;
}

rows rows_written(const greta_session *s, const op *o, int output)
{
    int32_t slot = s->plan.slot[2 * o->out[output] + (s->pass & 1)];
    const buffer *b = &s->plan.buffer[slot];
    return (rows){.base = b->base, .stride = b->stride, .buffer = slot};
}

rows rows_read(const greta_session *s, const op *o, int input)
{
    const op_read *read = &o->in[input];
    const op_list *list = session_list(s, s->phase);
    int is_delayed = read->delay == READ_PREVIOUS_PASS;
    int32_t slot = s->plan.slot[2 * read->edge + ((s->pass ^ is_delayed) & 1)];
    const buffer *b = &s->plan.buffer[slot];
    rows r = {.base = b->base, .stride = b->stride, .buffer = slot};
    if (is_delayed) {
        r.first = read->row < 0 ? s->n_row_previous + read->row : read->row;
        r.base += (size_t)r.first * b->stride;
        r.stride = 0;
        return r;
    }
    r.first = read->row;
    r.base += (ptrdiff_t)read->row * (ptrdiff_t)b->stride;
    if (list->edge[o->out[0]].is_packed && !list->edge[read->edge].is_packed) {
        r.index = s->want;
    }
    return r;
}
