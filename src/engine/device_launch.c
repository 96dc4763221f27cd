/* device_launch.c - ops of the list as calls of a plugin, for all their tokens at once.
 *
 * Where the rows of an override run different ops, those of the same op go together. Without an
 * override some ops that follow each other are one call, hence one launch: a sum, the norm of it
 * and its quantised form; products of the same rows; queries and keys turned and stored; an
 * activation and its quantised form. Each still writes its own edge, with the same bits: what a
 * trace sees does not depend on it. The plan of a device lets edges live long enough for that
 * (plan.c).
 */
#include "engine/device.h"

/* One op for some tokens that all run it. */
typedef struct launch {
    const greta_session *session;
    const gpu_plugin *plugin;
    gpu_device *gpu;
    const op *op;
    const device_op *with; /* what it reads beside rows */
    const edge *edge;      /* of the list */
    span token;
    int64_t n;
    int32_t n_behind; /* ops behind it that may be part of its call */
} launch;

static launch launch_of(const greta_session *s, const op *o, span token)
{
    const device *d = s->device;
    int is_override =
        s->override.op && o >= s->override.op && o < s->override.op + s->override.n_op;
    const op_list *list = is_override ? &s->override : &s->healthy;
    const device_ops *ops = is_override ? &d->override : &d->healthy;
    return (launch){
        .session = s,
        .plugin = d->plugin,
        .gpu = d->gpu,
        .op = o,
        .with = &ops->op[o - list->op],
        .edge = list->edge,
        .token = token,
        .n = token.last - token.first,
        .n_behind = s->override.op ? 0 : (int32_t)(list->op + list->n_op - 1 - o),
    };
}

/* ---- Where rows lie -------------------------------------------------------------------------- */

/* Row `row` of an edge, which may be one before the first: then no token reads it. */
uint8_t *device_row(const greta_session *s, const rows *r, int32_t e, int64_t row)
{
    const buffer *b = &s->plan.buffer[r->buffer];
    ptrdiff_t offset = b->base - s->plan.memory;
    row += edge_turn(s, e);
    return s->device->plan + offset + (ptrdiff_t)row * (ptrdiff_t)b->stride;
}

/* Token 0 of the call is the launch's first. */
static gpu_rows rows_of(const launch *l, rows r, int32_t e)
{
    int64_t first = r.index ? 0 : l->token.first;
    const int32_t *index = r.index ? l->session->device->want + l->token.first : NULL;
    int64_t step = r.stride == 0 ? 0 : first;
    return (gpu_rows){device_row(l->session, &r, e, r.first + step), (int64_t)r.stride, index};
}

static gpu_rows read_rows(const launch *l, int input)
{
    int32_t e = l->op->in[input].edge;
    return e < 0 ? (gpu_rows){0} : rows_of(l, rows_read(l->session, l->op, input), e);
}

static gpu_rows written_rows(const launch *l)
{
    return rows_of(l, rows_written(l->session, l->op, 0), l->op->out[0]);
}

/* The rows of the pass, as the caller gave them. */
static gpu_rows pass_rows(const launch *l)
{
    gpu_row *row = l->session->device->row[0] + l->token.first;
    return (gpu_rows){(uint8_t *)row, sizeof *row, NULL};
}

/* Those whose tokens an EMBED op reads. */
static gpu_rows token_rows(const launch *l)
{
    const greta_session *s = l->session;
    const op_read *read = &l->op->in[0];
    if (read->delay == READ_PREVIOUS_PASS) {
        int64_t at = read->row < 0 ? s->n_row_previous + read->row : read->row;
        return (gpu_rows){(uint8_t *)(s->device->row[1] + at), 0, NULL};
    }
    gpu_rows r = pass_rows(l);
    r.base += (ptrdiff_t)read->row * (ptrdiff_t)sizeof(gpu_row);
    return r;
}

static gpu_cache cache_on_device(const greta_session *s, const edge *e)
{
    uint8_t *base = s->device->kv + (cache_layer(s, e->layer, cache_side(e)) - s->kv_memory);
    return (gpu_cache){base, s->kv_sequence_bytes, s->kv, cache_side(e)};
}

static const edge *edge_in(const launch *l, int input)
{
    return &l->edge[l->op->in[input].edge];
}

static const edge *edge_out(const launch *l)
{
    return &l->edge[l->op->out[0]];
}

static int reads_q8(const launch *l)
{
    return edge_in(l, 0)->type == DTYPE_ACT_Q8;
}

/* ---- Ops behind ------------------------------------------------------------------------------ */

/* The op k places on, if it works on the same tokens and may be part of this call. */
static int behind(const launch *l, int32_t k, op_kind kind, launch *next)
{
    if (k > l->n_behind || l->op[k].kind != kind) {
        return 0;
    }
    *next = launch_of(l->session, l->op + k, l->token);
    return edge_out(l)->is_packed == edge_out(next)->is_packed;
}

/* The row of an edge that the token itself wrote, in this pass. */
static int reads(const launch *l, int32_t e)
{
    const op_read *read = &l->op->in[0];
    return read->edge == e && read->delay == READ_THIS_PASS && read->row == 0;
}

/* Where the quantised form of what op k of the call has written goes; 1: there is such an op. */
static int quantised_behind(const launch *l, int32_t k, gpu_rows *q8)
{
    launch next;
    if (!behind(l, k + 1, OP_QUANTIZE, &next) || !reads(&next, l->op[k].out[0])) {
        return 0;
    }
    *q8 = written_rows(&next);
    return 1;
}

/* ---- Ops; how many of them a call has taken -------------------------------------------------- */

static int32_t launch_embed(const launch *l)
{
    gpu_embed a = {token_rows(l), l->with->matrix, written_rows(l), l->n};
    l->plugin->embed(l->gpu, &a);
    return 1;
}

/* The norm at op k of the call, with what comes before and behind it. */
static int32_t norm_from(const launch *l, int32_t k, gpu_norm a)
{
    launch of = launch_of(l->session, l->op + k, l->token);
    const op *o = of.op;
    int is_of_heads = o->kind == OP_HEAD_NORM;
    device *d = l->session->device;
    a.x = read_rows(&of, 0);
    a.y = written_rows(&of);
    a.weight = of.with->floats;
    a.n_token = l->n;
    a.n = is_of_heads ? o->head_dim : o->w[0].tensor->n_col;
    a.n_head = is_of_heads ? edge_out(&of)->width / a.n : 1;
    a.count = o->count;
    a.eps = o->eps;
    a.inv_rms = l->session->trace && !is_of_heads ? d->inv_rms + l->token.first : NULL;
    int32_t n = 1 + (!is_of_heads && quantised_behind(l, k, &a.q8));
    l->plugin->rms_norm(l->gpu, &a);
    return k + n;
}

static int32_t launch_norm(const launch *l)
{
    return norm_from(l, 0, (gpu_norm){0});
}

static int32_t launch_quantize(const launch *l)
{
    gpu_quantize a = {read_rows(l, 0), written_rows(l), l->n, edge_out(l)->width};
    l->plugin->quantize(l->gpu, &a);
    return 1;
}

static gpu_matmul matmul_of(const launch *l)
{
    return (gpu_matmul){
        .w = l->with->matrix,
        .bias = l->with->floats,
        .x = read_rows(l, 0),
        .y = written_rows(l),
        .n_token = l->n,
        .n_out = edge_out(l)->width,
        .x_is_q8 = reads_q8(l),
    };
}

static int32_t launch_matmul(const launch *l)
{
    const op_read *x = &l->op->in[0];
    gpu_matmul a[GPU_MATMUL_MAX] = {matmul_of(l)};
    int32_t n = 1;
    for (launch next; n < GPU_MATMUL_MAX && behind(l, n, OP_MATMUL, &next); n++) {
        const op_read *also = &next.op->in[0];
        if (also->edge != x->edge || also->row != x->row || also->delay != x->delay) {
            break;
        }
        a[n] = matmul_of(&next);
    }
    l->plugin->matmul(l->gpu, a, n);
    return n;
}

static gpu_rope rope_of(const launch *l)
{
    const op *o = l->op;
    const device *d = l->session->device;
    int is_other = o->rope_table >= ROPE_TABLE_OTHER && d->override.n_cos_sin > 0;
    return (gpu_rope){
        .x = read_rows(l, 0),
        .y = written_rows(l),
        .row = pass_rows(l),
        .cos_sin = is_other ? d->override.cos_sin[o->rope_table - ROPE_TABLE_OTHER]
                            : d->cos_sin[o->rope_table],
        .n_token = l->n,
        .n_head = edge_out(l)->width / o->head_dim,
        .head_dim = o->head_dim,
        .rope_dim = o->rope_dim,
        .pairing = o->pairing,
    };
}

static gpu_rope store_of(const launch *l)
{
    const kv_shape *kv = &l->session->kv;
    return (gpu_rope){
        .x = read_rows(l, 0),
        .row = pass_rows(l),
        .cache = cache_on_device(l->session, edge_out(l)),
        .n_token = l->n,
        .n_head = kv->n_head_kv,
        .head_dim = kv->head_dim,
    };
}

/* Rotations and stores one behind the other: a store of what was turned belongs to its rotation. */
static int32_t launch_rope(const launch *l)
{
    gpu_rope a[GPU_ROPE_MAX];
    int32_t n = 0, n_op = 0, written[GPU_ROPE_MAX];
    for (launch next; n_op < FUSED_MAX; n_op++) {
        int is_rope = behind(l, n_op, OP_ROPE, &next);
        if (!is_rope && !behind(l, n_op, OP_KV_STORE, &next)) {
            break;
        }
        int32_t of = 0;
        while (of < n && next.op->in[0].edge != written[of]) {
            of++;
        }
        if (of < n && !is_rope && reads(&next, written[of]) && !a[of].cache.base) {
            a[of].cache = cache_on_device(l->session, edge_out(&next));
            continue;
        }
        if (of < n || n == GPU_ROPE_MAX) {
            break;
        }
        written[n] = next.op->out[0];
        a[n++] = is_rope ? rope_of(&next) : store_of(&next);
    }
    l->plugin->rope(l->gpu, a, n);
    return n_op;
}

/* One more than the highest position of some rows. */
int64_t positions_seen(const greta_session *s, span token)
{
    int64_t n = 0;
    for (int64_t t = token.first; t < token.last; t++) {
        n = s->row[t].position >= n ? (int64_t)s->row[t].position + 1 : n;
    }
    return n;
}

/* Up to an eighth more, and at least 256: the same for many passes. */
int64_t positions_bound(int64_t n, int64_t n_ctx)
{
    int64_t step = 256;
    while (8 * step < n) {
        step *= 2;
    }
    int64_t bound = (n + step - 1) / step * step;
    return bound < n_ctx ? bound : n_ctx;
}

static int32_t launch_attention(const launch *l)
{
    const greta_session *s = l->session;
    const op *o = l->op;
    gpu_attention a = {
        .q = read_rows(l, 0),
        .y = written_rows(l),
        .row = pass_rows(l),
        .k = cache_on_device(s, edge_in(l, 1)).base,
        .v = cache_on_device(s, edge_in(l, 2)).base,
        .sequence_bytes = s->kv_sequence_bytes,
        .k_shift = o->in[1].row,
        .v_shift = o->in[2].row,
        .shape = s->kv,
        .n_token = l->n,
        .n_head = o->n_head,
        .scale = o->scale,
        .softcap = o->softcap,
        .window = o->window,
    };
    a.n_position = positions_bound(positions_seen(s, l->token), s->options.n_ctx);
    int32_t n = 1 + (s->kv.head_dim % ACT_BLOCK == 0 && quantised_behind(l, 0, &a.q8));
    l->plugin->attention(l->gpu, &a);
    return n;
}

static int32_t launch_columns(const launch *l)
{
    const op *o = l->op;
    static const gpu_column_kind kind[OP_KIND_COUNT] = {
        [OP_ADD] = GPU_ADD, [OP_SCALE] = GPU_SCALE, [OP_SOFTCAP] = GPU_SOFTCAP, [OP_GLU] = GPU_GLU};
    int has_two = o->kind == OP_ADD || o->kind == OP_GLU;
    gpu_rows first = read_rows(l, 0), second = has_two ? read_rows(l, 1) : (gpu_rows){0};
    launch next;
    if (o->kind == OP_ADD && behind(l, 1, OP_RMS_NORM, &next) && reads(&next, o->out[0])) {
        return norm_from(l, 1, (gpu_norm){.a = first, .b = second});
    }
    gpu_columns a = {
        .kind = kind[o->kind],
        .a = first,
        .b = second,
        .y = written_rows(l),
        .n_token = l->n,
        .n = edge_out(l)->width,
        .factor = o->kind == OP_SOFTCAP ? o->softcap : o->factor,
        .f = o->activation,
    };
    int32_t n = 1 + quantised_behind(l, 0, &a.q8);
    l->plugin->columns(l->gpu, &a);
    return n;
}

static int32_t launch_top_k(const launch *l)
{
    gpu_top_k a = {read_rows(l, 0), written_rows(l), l->n, l->op->n_expert, l->op->n_expert_used};
    l->plugin->top_k(l->gpu, &a);
    return 1;
}

static int32_t launch_expert_weights(const launch *l)
{
    const op *o = l->op;
    gpu_expert_weights a = {
        .router = read_rows(l, 0),
        .ids = read_rows(l, 1),
        .y = written_rows(l),
        .n_token = l->n,
        .n = o->n_expert,
        .n_used = o->n_expert_used,
        .is_norm = o->is_norm,
    };
    l->plugin->expert_weights(l->gpu, &a);
    return 1;
}

static int32_t launch_expert_matmul(const launch *l)
{
    const op *o = l->op;
    gpu_expert_matmul a = {
        .expert = l->with->expert,
        .shape = l->with->matrix.weight,
        .x = read_rows(l, 0),
        .ids = read_rows(l, 1),
        .y = written_rows(l),
        .n_token = l->n,
        .n_out = o->w[0].n / o->n_expert,
        .n_expert = o->n_expert,
        .n_used = o->n_expert_used,
        .x_is_q8 = reads_q8(l),
        .x_is_ranked = edge_in(l, 0)->width != o->w[0].tensor->n_col,
    };
    l->plugin->expert_matmul(l->gpu, &a);
    return 1;
}

static int32_t launch_expert_sum(const launch *l)
{
    gpu_expert_sum a = {
        .weight = read_rows(l, 1),
        .x = read_rows(l, 0),
        .y = written_rows(l),
        .n_token = l->n,
        .n = edge_out(l)->width,
        .n_used = l->op->n_expert_used,
    };
    l->plugin->expert_sum(l->gpu, &a);
    return 1;
}

static int32_t (*const launchers[OP_KIND_COUNT])(const launch *l) = {
    [OP_EMBED] = launch_embed,
    [OP_SCALE] = launch_columns,
    [OP_RMS_NORM] = launch_norm,
    [OP_HEAD_NORM] = launch_norm,
    [OP_QUANTIZE] = launch_quantize,
    [OP_MATMUL] = launch_matmul,
    [OP_ROPE] = launch_rope,
    [OP_KV_STORE] = launch_rope,
    [OP_ATTENTION] = launch_attention,
    [OP_ADD] = launch_columns,
    [OP_GLU] = launch_columns,
    [OP_SOFTCAP] = launch_columns,
    [OP_TOP_K] = launch_top_k,
    [OP_EXPERT_WEIGHTS] = launch_expert_weights,
    [OP_EXPERT_MATMUL] = launch_expert_matmul,
    [OP_EXPERT_SUM] = launch_expert_sum,
};

/* ---- Calls ----------------------------------------------------------------------------------- */

/* The tokens from `first` on that run the same op. */
static span run_of(const greta_session *s, const op *o, int64_t first, int64_t n_token)
{
    const op *chosen = session_op(s, o, first);
    int64_t next = op_is_uniform(o) ? n_token : first + 1;
    while (next < n_token && session_op(s, o, next) == chosen) {
        next++;
    }
    return (span){first, next};
}

int32_t device_launch(const greta_session *s, const op *o)
{
    int64_t n_token = op_tokens(s, o);
    int32_t n = 1;
    for (span one = {0, 0}; one.last < n_token;) {
        one = run_of(s, o, one.last, n_token);
        launch l = launch_of(s, session_op(s, o, one.first), one);
        n = launchers[l.op->kind](&l);
    }
    return n;
}

/* What a capture looks at when the op has run for all its tokens. */
gpu_stats device_look_of(const greta_session *s, const op *o)
{
    launch l = launch_of(s, o, (span){0, op_tokens(s, o)});
    const edge *e = edge_out(&l);
    gpu_stats a = {.type = edge_type(s, e), .n_token = l.n, .n = e->width};
    a.x = e->is_cache ? pass_rows(&l) : written_rows(&l);
    a.cache = e->is_cache ? cache_on_device(s, e) : (gpu_cache){0};
    return a;
}
