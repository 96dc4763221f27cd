/* walk.c - the forward pass: one walk over the op list (walk_list, at the end).
 *
 * A pass takes the rows of a batch (tokens of any sequences) through every op in order; after each
 * op the trace may look at its edges. Prefill, chunked prefill, decode and batches are the same
 * walk with other rows. Every op is split over threads by its outputs, and kernels compute each
 * output in one fixed order, so neither the rows that happen to share a pass nor the threads change
 * a bit.
 */
#include "engine/engine.h"

typedef struct op_job {
    greta_session *session;
    const op *op;
} op_job;

typedef struct span {
    int64_t first, last;
} span;

void share(int64_t n, int64_t unit, int32_t thread, int32_t n_thread, int64_t *first, int64_t *last)
{
    int64_t units = (n + unit - 1) / unit;
    int64_t from = units * thread / n_thread * unit, to = units * (thread + 1) / n_thread * unit;
    *first = from < n ? from : n;
    *last = to < n ? to : n;
}

int64_t op_tokens(const greta_session *s, const op *o)
{
    return session_list(s, s->phase)->edge[o->out[0]].is_packed ? s->n_want : s->n_row;
}

int64_t op_row(const greta_session *s, const op *o, int64_t t)
{
    return session_list(s, s->phase)->edge[o->out[0]].is_packed ? s->want[t] : t;
}

int64_t row_slot(const greta_session *s, const greta_row *row)
{
    return (int64_t)row->sequence * s->options.n_ctx + row->position;
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
    } else if (list->edge[o->out[0]].is_packed && !list->edge[read->edge].is_packed) {
        r.index = s->want;
    }
    return r;
}

static const float *weight_floats(const weight_view *view)
{
    const weight *w = view->tensor;
    return w ? (const float *)(const void *)(w->data + view->first * w->row_bytes) : NULL;
}

/* ---- One op, one thread's share -------------------------------------------------------------- */

static void walk_embed(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    const weight *w = job->op->w[0].tensor;
    rows y = rows_written(s, job->op, 0);
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        embed_args a = {w->type, w->data + s->row[t].token * w->row_bytes,
                        (float *)(void *)rows_at(&y, t), w->n_col};
        session_table(s, job->op)->embed(&a);
    }
}

static void walk_rms_norm(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        norm_args a = {
            .x = (const float *)(void *)rows_at(&x, t),
            .weight = weight_floats(&o->w[0]),
            .y = (float *)(void *)rows_at(&y, t),
            .n = o->w[0].tensor->n_col,
            .count = o->count,
            .eps = o->eps,
        };
        session_table(s, o)->rms_norm(&a);
        s->inv_rms[t] = a.inv_rms;
    }
}

static void walk_quantize(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    rows x = rows_read(s, job->op, 0), y = rows_written(s, job->op, 0);
    int64_t k = session_list(s, s->phase)->edge[job->op->out[0]].width;
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        session_table(s, job->op)
            ->quantize((const float *)(void *)rows_at(&x, t), rows_at(&y, t), k, 0, k);
    }
}

static void walk_matmul(const op_job *job, span outputs)
{
    greta_session *s = job->session;
    const op *o = job->op;
    const weight *w = o->w[0].tensor;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    matmul_args a = {
        .type = w->type,
        .w = w->data + o->w[0].first * w->row_bytes,
        .row_bytes = w->row_bytes,
        .bias = weight_floats(&o->w[1]),
        .x = x.base,
        .x_stride = (int64_t)x.stride,
        .y = (float *)(void *)y.base,
        .y_stride = (int64_t)(y.stride / sizeof(float)),
        .k = w->n_col,
        .n_token = op_tokens(s, o),
        .x_is_q8 = session_list(s, s->phase)->edge[o->in[0].edge].type == DTYPE_ACT_Q8,
        .packed = packed_view(s, session_table(s, o), &o->w[0]),
    };
    session_table(s, o)->matmul(&a, outputs.first, outputs.last);
}

static void walk_rope(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        rope_args a = {
            .x = (const float *)(void *)rows_at(&x, t),
            .y = (float *)(void *)rows_at(&y, t),
            .cos_sin = s->cos_sin + (int64_t)s->row[t].position * o->rope_dim,
            .n_head = o->n_head,
            .head_dim = o->head_dim,
            .rope_dim = o->rope_dim,
        };
        session_table(s, o)->rope(&a);
    }
}

static void walk_kv_store(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    const op *o = job->op;
    const edge *cache = &session_list(s, s->phase)->edge[o->out[0]];
    uint8_t *base = cache->name == STAGE_K_CACHE ? s->k[cache->layer] : s->v[cache->layer];
    rows x = rows_read(s, o, 0);
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        uint8_t *row = base + (size_t)row_slot(s, &s->row[t]) * s->kv_row_bytes;
        session_table(s, o)->kv_store((const float *)(void *)rows_at(&x, t), row, s->kv_type,
                                      cache->width);
    }
}

/* Outputs are (block of tokens, kv head) pairs: queries of a block share what they read. */
static void attend_run(const op_job *job, int64_t first, int64_t n, int32_t kv_head)
{
    greta_session *s = job->session;
    const op *o = job->op;
    const op_list *list = session_list(s, s->phase);
    rows q = rows_read(s, o, 0), y = rows_written(s, o, 0);
    const greta_row *row = &s->row[first];
    size_t start = (size_t)row->sequence * (size_t)s->options.n_ctx * s->kv_row_bytes;
    attention_args a = {
        .q = (const float *)(void *)rows_at(&q, first),
        .k = s->k[list->edge[o->in[1].edge].layer] + start,
        .v = s->v[list->edge[o->in[2].edge].layer] + start,
        .kv_type = s->kv_type,
        .n_position = row->position + 1,
        .n_token = n,
        .q_stride = (int64_t)(q.stride / sizeof(float)),
        .y_stride = (int64_t)(y.stride / sizeof(float)),
        .n_head = o->n_head,
        .n_head_kv = o->n_head_kv,
        .head_dim = o->head_dim,
        .scale = o->scale,
        .y = (float *)(void *)rows_at(&y, first),
    };
    session_table(s, o)->attention(&a, kv_head, kv_head + 1);
}

static void walk_attention(const op_job *job, span pairs)
{
    const greta_session *s = job->session;
    for (int64_t p = pairs.first; p < pairs.last; p++) {
        int64_t first = p / job->op->n_head_kv * ATTENTION_TOKENS;
        int64_t end = first + ATTENTION_TOKENS < s->n_row ? first + ATTENTION_TOKENS : s->n_row;
        for (int64_t t = first, next; t < end; t = next) {
            next = t + 1;
            while (next < end && s->row[next].sequence == s->row[t].sequence) {
                next++;
            }
            attend_run(job, t, next - t, (int32_t)(p % job->op->n_head_kv));
        }
    }
}

static void walk_pairwise(const op_job *job, span rows_of)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows a = rows_read(s, o, 0), b = rows_read(s, o, 1), y = rows_written(s, o, 0);
    int64_t n = session_list(s, s->phase)->edge[o->out[0]].width;
    const kernel_table *table = session_table(s, o);
    void (*kernel)(const float *, const float *, float *, int64_t) =
        o->kind == OP_ADD ? table->add : table->swiglu;
    for (int64_t t = rows_of.first; t < rows_of.last; t++) {
        kernel((const float *)(void *)rows_at(&a, t), (const float *)(void *)rows_at(&b, t),
               (float *)(void *)rows_at(&y, t), n);
    }
}

typedef struct walker {
    void (*run)(const op_job *job, span outputs);
    enum { BY_ROW, BY_OUTPUT, BY_HEAD } split;
} walker;

static const walker walkers[OP_KIND_COUNT] = {
    [OP_EMBED] = {walk_embed, BY_ROW},
    [OP_RMS_NORM] = {walk_rms_norm, BY_ROW},
    [OP_QUANTIZE] = {walk_quantize, BY_ROW},
    [OP_MATMUL] = {walk_matmul, BY_OUTPUT},
    [OP_ROPE] = {walk_rope, BY_ROW},
    [OP_KV_STORE] = {walk_kv_store, BY_ROW},
    [OP_ATTENTION] = {walk_attention, BY_HEAD},
    [OP_ADD] = {walk_pairwise, BY_ROW},
    [OP_SWIGLU] = {walk_pairwise, BY_ROW},
};

static void op_run(void *user, int32_t thread, int32_t n_thread)
{
    const op_job *job = user;
    const op *o = job->op;
    int64_t n = op_tokens(job->session, o), unit = 1;
    if (walkers[o->kind].split == BY_HEAD) {
        /* Later tokens see more: blocks are dealt in turn. */
        int64_t pairs = (n + ATTENTION_TOKENS - 1) / ATTENTION_TOKENS * o->n_head_kv;
        for (int64_t p = thread; p < pairs; p += n_thread) {
            walkers[o->kind].run(job, (span){p, p + 1});
        }
        return;
    }
    if (walkers[o->kind].split == BY_OUTPUT) {
        n = o->w[0].n;
        unit = 16; /* the lanes of a tile: a split tile is unpacked twice */
    }
    span mine;
    share(n, unit, thread, n_thread, &mine.first, &mine.last);
    if (mine.first < mine.last) {
        walkers[o->kind].run(job, mine);
    }
}

/* ---- The pass -------------------------------------------------------------------------------- */

void walk_list(greta_session *s)
{
    const op_list *list = session_list(s, s->phase);
    for (int32_t i = 0; i < list->n_op; i++) {
        op_job job = {s, &list->op[i]};
        int64_t n = op_tokens(s, job.op);
        if (n == 0) {
            continue;
        }
        if (n == 1 && walkers[job.op->kind].split == BY_ROW) {
            op_run(&job, 0, 1); /* waking the other threads for one row would only cost */
        } else {
            thread_pool_run(s->pool, op_run, &job);
        }
        if (s->trace) {
            observe_op(s, job.op);
        }
    }
}
