/* walk.c - the forward pass: one walk over the op list (walk_list, at the end).
 *
 * A pass takes the rows of a batch (tokens of any sequences) through every op in order, group by
 * group (schedule.c); after each group the trace may look at its edges. Prefill, chunked prefill,
 * decode and batches are the same walk with other rows. Every op is split over threads by its
 * outputs, and kernels compute each output in one fixed order, so neither the rows that happen to
 * share a pass nor the threads change a bit.
 */
#include "engine/engine.h"

typedef struct op_job {
    greta_session *session;
    const op *op;
    int32_t thread;
} op_job;

/* What one thread computes of an op: columns of the output rows of some tokens. */
typedef struct piece {
    span token, column;
} piece;

static const float *weight_floats(const weight_view *view)
{
    const weight *w = view->tensor;
    return w ? (const float *)(const void *)(w->data + view->first * w->row_bytes) : NULL;
}

/* ---- One op, one thread's share -------------------------------------------------------------- */

static const float *floats_at(const rows *r, int64_t token, int64_t column)
{
    return (const float *)(const void *)rows_at(r, token) + column;
}

static float *floats_to(const rows *r, int64_t token, int64_t column)
{
    return (float *)(void *)rows_at(r, token) + column;
}

static void walk_embed(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const weight *w = job->op->w[0].tensor;
    rows y = rows_written(s, job->op, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        int64_t token = token_read(s, job->op, t)->token;
        embed_args a = {w->type, w->data + token * w->row_bytes, floats_to(&y, t, 0), w->n_col};
        session_table(s, job->op)->embed(&a);
    }
}

static void walk_rms_norm(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        norm_args a = {
            .x = floats_at(&x, t, 0),
            .weight = weight_floats(&o->w[0]),
            .y = floats_to(&y, t, 0),
            .n = o->w[0].tensor->n_col,
            .count = o->count,
            .eps = o->eps,
        };
        session_table(s, o)->rms_norm(&a);
        s->inv_rms[t] = a.inv_rms;
    }
}

static void walk_head_norm(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        for (int64_t at = mine.column.first; at < mine.column.last; at += o->head_dim) {
            norm_args a = {
                .x = floats_at(&x, t, at),
                .weight = weight_floats(&o->w[0]),
                .y = floats_to(&y, t, at),
                .n = o->head_dim,
                .count = o->count,
                .eps = o->eps,
            };
            session_table(s, o)->rms_norm(&a);
        }
    }
}

static void walk_quantize(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    rows x = rows_read(s, job->op, 0), y = rows_written(s, job->op, 0);
    int64_t k = session_list(s, s->phase)->edge[job->op->out[0]].width;
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        session_table(s, job->op)
            ->quantize(floats_at(&x, t, 0), rows_at(&y, t), k, mine.column.first, mine.column.last);
    }
}

static void walk_matmul(const op_job *job, piece mine)
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
        .x = rows_at(&x, mine.token.first),
        .x_stride = (int64_t)x.stride,
        .y = floats_to(&y, mine.token.first, 0),
        .y_stride = (int64_t)(y.stride / sizeof(float)),
        .k = w->n_col,
        .n_token = mine.token.last - mine.token.first,
        .x_is_q8 = session_list(s, s->phase)->edge[o->in[0].edge].type == DTYPE_ACT_Q8,
        .packed = packed_view(s, session_table(s, o), &o->w[0]),
    };
    session_table(s, o)->matmul(&a, mine.column.first, mine.column.last);
}

static void walk_rope(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        rope_args a = {
            .x = floats_at(&x, t, mine.column.first),
            .y = floats_to(&y, t, mine.column.first),
            .cos_sin = session_cos_sin(s, o, s->row[t].position),
            .n_head = (int32_t)(mine.column.last - mine.column.first) / o->head_dim,
            .head_dim = o->head_dim,
            .rope_dim = o->rope_dim,
            .pairing = o->pairing,
        };
        session_table(s, o)->rope(&a);
    }
}

static void walk_kv_store(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    const edge *cache = &session_list(s, s->phase)->edge[o->out[0]];
    int32_t head_dim = s->kv.head_dim;
    rows x = rows_read(s, o, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        kv_store_args a = {
            .x = floats_at(&x, t, 0),
            .cache = cache_of(s, cache, s->row[t].sequence),
            .shape = s->kv,
            .side = cache_side(cache),
            .position = s->row[t].position,
        };
        session_table(s, o)->kv_store(&a, (int32_t)(mine.column.first / head_dim),
                                      (int32_t)(mine.column.last / head_dim));
    }
}

/* Queries of consecutive tokens of one sequence share what they read. */
static void attend_run(const op_job *job, span tokens, span kv_heads)
{
    int64_t first = tokens.first;
    greta_session *s = job->session;
    const op *o = job->op;
    const op_list *list = session_list(s, s->phase);
    rows q = rows_read(s, o, 0), y = rows_written(s, o, 0);
    const greta_row *row = &s->row[first];
    attention_args a = {
        .q = floats_at(&q, first, 0),
        .k = cache_of(s, &list->edge[o->in[1].edge], sequence_read(o, 1, row)),
        .v = cache_of(s, &list->edge[o->in[2].edge], sequence_read(o, 2, row)),
        .kv = s->kv,
        .n_position = row->position + 1,
        .n_token = tokens.last - first,
        .q_stride = (int64_t)(q.stride / sizeof(float)),
        .y_stride = (int64_t)(y.stride / sizeof(float)),
        .n_head = o->n_head,
        .scale = o->scale,
        .y = floats_to(&y, first, 0),
        .softcap = o->softcap,
        .window = o->window,
    };
    session_table(s, o)->attention(&a, (int32_t)kv_heads.first, (int32_t)kv_heads.last);
}

/* Columns that the queries of one kv head write. */
static int64_t group_width(const op *o)
{
    return (int64_t)o->n_head / o->n_head_kv * o->head_dim;
}

/* The kv heads whose queries write these columns, for tokens of one block, sequence by sequence. */
static void walk_attention(const op_job *job, piece mine)
{
    const greta_session *s = job->session;
    int64_t width = group_width(job->op), end = mine.token.last;
    for (int64_t t = mine.token.first, next; t < end; t = next) {
        next = t + 1;
        while (next < end && s->row[next].sequence == s->row[t].sequence) {
            next++;
        }
        attend_run(job, (span){t, next},
                   (span){mine.column.first / width, mine.column.last / width});
    }
}

/* Ops on columns of one row, or of two. */
static void walk_columns(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    int has_two = o->kind == OP_ADD || o->kind == OP_GLU;
    rows a = rows_read(s, o, 0), b = has_two ? rows_read(s, o, 1) : a, y = rows_written(s, o, 0);
    const kernel_table *table = session_table(s, o);
    int64_t at = mine.column.first, n = mine.column.last - at;
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        const float *one = floats_at(&a, t, at), *other = floats_at(&b, t, at);
        float *out = floats_to(&y, t, at);
        switch (o->kind) {
        case OP_ADD:
            table->add(one, other, out, n);
            break;
        case OP_SCALE:
            table->scale(o->factor, one, out, n);
            break;
        case OP_SOFTCAP:
            table->softcap(o->softcap, one, out, n);
            break;
        default:
            table->glu(o->activation, one, other, out, n);
            break;
        }
    }
}

static void walk_route(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    const kernel_table *table = session_table(s, o);
    rows x = rows_read(s, o, 0), y = rows_written(s, o, 0);
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        if (o->kind == OP_TOP_K) {
            int32_t *ids = (int32_t *)(void *)rows_at(&y, t);
            table->top_k(floats_at(&x, t, 0), o->n_expert, ids, o->n_expert_used);
        } else {
            rows ids = rows_read(s, o, 1);
            expert_weights_args a = {
                .router = floats_at(&x, t, 0),
                .ids = (const int32_t *)(const void *)rows_at(&ids, t),
                .y = floats_to(&y, t, 0),
                .n = o->n_expert,
                .n_used = o->n_expert_used,
                .is_norm = o->is_norm,
            };
            table->expert_weights(&a);
        }
    }
}

static void walk_expert_matmul(const op_job *job, piece mine)
{
    expert_piece piece_of = {mine.token, mine.column, job->thread};
    walk_experts(job->session, job->op, &piece_of);
}

static void walk_expert_sum(const op_job *job, piece mine)
{
    greta_session *s = job->session;
    const op *o = job->op;
    rows x = rows_read(s, o, 0), w = rows_read(s, o, 1), y = rows_written(s, o, 0);
    int64_t n = session_list(s, s->phase)->edge[o->out[0]].width;
    for (int64_t t = mine.token.first; t < mine.token.last; t++) {
        session_table(s, o)->expert_sum(floats_at(&w, t, 0), floats_at(&x, t, 0),
                                        floats_to(&y, t, 0), o->n_expert_used, n);
    }
}

static void (*const walkers[OP_KIND_COUNT])(const op_job *job, piece mine) = {
    [OP_EMBED] = walk_embed,
    [OP_SCALE] = walk_columns,
    [OP_RMS_NORM] = walk_rms_norm,
    [OP_HEAD_NORM] = walk_head_norm,
    [OP_QUANTIZE] = walk_quantize,
    [OP_MATMUL] = walk_matmul,
    [OP_ROPE] = walk_rope,
    [OP_KV_STORE] = walk_kv_store,
    [OP_ATTENTION] = walk_attention,
    [OP_ADD] = walk_columns,
    [OP_GLU] = walk_columns,
    [OP_SOFTCAP] = walk_columns,
    [OP_TOP_K] = walk_route,
    [OP_EXPERT_WEIGHTS] = walk_route,
    [OP_EXPERT_MATMUL] = walk_expert_matmul,
    [OP_EXPERT_SUM] = walk_expert_sum,
};

/* Tokens of one op in one go; of an override whose rows differ, those of the same op together. */
static void piece_run(const op_job *job, piece mine)
{
    piece part = mine;
    for (int64_t t = mine.token.first, next; t < mine.token.last; t = next) {
        op_job chosen = {job->session, session_op(job->session, job->op, t), job->thread};
        next = op_is_uniform(job->op) ? mine.token.last : t + 1;
        while (next < mine.token.last && session_op(job->session, job->op, next) == chosen.op) {
            next++;
        }
        part.token = (span){t, next};
        walkers[chosen.op->kind](&chosen, part);
    }
}

/* Later blocks of tokens see more: (block, kv head) pairs are dealt in turn. */
static void walk_blocks(const op_job *job, int32_t thread, int32_t n_thread)
{
    int64_t n = job->session->n_row, width = group_width(job->op);
    int32_t n_head_kv = job->op->n_head_kv;
    int64_t n_block = (n + ATTENTION_TOKENS - 1) / ATTENTION_TOKENS;
    for (int64_t p = thread; p < n_block * n_head_kv; p += n_thread) {
        int64_t first = p / n_head_kv * ATTENTION_TOKENS, column = p % n_head_kv * width;
        int64_t end = first + ATTENTION_TOKENS < n ? first + ATTENTION_TOKENS : n;
        piece_run(job, (piece){{first, end}, {column, column + width}});
    }
}

static void op_run(const op_job *job, op_split split, int32_t thread, int32_t n_thread)
{
    int64_t n_token = op_tokens(job->session, job->op);
    int64_t width = session_list(job->session, job->session->phase)->edge[job->op->out[0]].width;
    width = job->op->kind == OP_EXPERT_MATMUL ? width / job->op->n_expert_used : width;
    piece mine = {{0, n_token}, {0, width}};
    if (split.kind == SPLIT_BLOCKS) {
        walk_blocks(job, thread, n_thread);
        return;
    }
    if (split.kind == SPLIT_TOKENS) {
        mine.token = share(n_token, thread, n_thread);
    }
    if (split.kind == SPLIT_PARTS) {
        span parts = share(split.n_part, thread, n_thread);
        int64_t end = parts.last * split.unit;
        mine.column = (span){parts.first * split.unit, end < width ? end : width};
    }
    if (mine.token.first < mine.token.last && mine.column.first < mine.column.last) {
        piece_run(job, mine);
    }
}

/* ---- The pass -------------------------------------------------------------------------------- */

typedef struct group_job {
    greta_session *session;
    const op_list *list;
    const op_split *split;
    int32_t first, end;
    span unseen; /* ops whose rows the capture has not looked at */
} group_job;

static void group_run(void *user, int32_t thread, int32_t n_thread)
{
    const group_job *group = user;
    if (group->session->capture && group->unseen.first < group->unseen.last) {
        capture_look(group->session, group->unseen, thread, n_thread);
    }
    for (int32_t i = group->first; i < group->end; i++) {
        op_job job = {group->session, &group->list->op[i], thread};
        op_run(&job, group->split[i], thread, n_thread);
    }
}

void walk_list(greta_session *s)
{
    const op_list *list = session_list(s, s->phase);
    const schedule *groups = &s->plan.schedule[list == &s->override][s->n_row == 1];
    group_job group = {.session = s, .list = list, .split = groups->split};
    span unseen = {0, 0};
    for (int32_t i = 0; i < list->n_op; i = groups->end[i]) {
        group.first = i;
        group.end = groups->end[i];
        group.unseen = (span){0, 0};
        if (groups->split[i].kind == SPLIT_CALLER) {
            group_run(&group, 0, 1); /* waking the others would only cost */
        } else {
            group.unseen = unseen;
            thread_pool_run(s->pool, group_run, &group);
            unseen.first = i;
        }
        unseen.last = groups->end[i];
        for (int32_t member = i; member < groups->end[i] && s->trace; member++) {
            observe_op(s, &list->op[member]);
        }
    }
    if (s->capture) {
        group_job rest = {.session = s, .list = list, .split = groups->split, .unseen = unseen};
        thread_pool_run(s->pool, group_run, &rest);
    }
}
