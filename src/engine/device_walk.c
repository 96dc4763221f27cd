/* device_walk.c - the same walk over the same op list, each op one call of a plugin.
 *
 * An op is enqueued for all its tokens at once; where the rows of an override run different ops,
 * those of the same op together. Nothing waits between ops: rows, cache and angles are on the
 * device, and the host hears of a pass when its logits arrive. A trace is the exception: it looks
 * at an op's rows when the op is done, and so has them fetched.
 *
 * A small pass, as of decoding, would spend its time on enqueuing. The second one of a shape
 * becomes a graph, and those that follow launch it: nothing in it but what the memory holds depends
 * on the pass. Its one number that would, how far attention may have to look, is rounded up, so
 * that a graph serves many tokens.
 */
#include "engine/device.h"

#include <string.h>

#define GRAPH_ROWS 64 /* of a pass that is worth a graph */

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
} launch;

/* ---- Where rows lie -------------------------------------------------------------------------- */

/* Row `row` of an edge, which may be one before the first: then no token reads it. */
static uint8_t *plan_row(const greta_session *s, const rows *r, int32_t e, int64_t row)
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
    return (gpu_rows){plan_row(l->session, &r, e, r.first + step), (int64_t)r.stride, index};
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

static uint8_t *cache_on_device(const greta_session *s, const edge *e)
{
    return s->device->kv + (cache_layer(s, e->layer, cache_side(e)) - s->kv_memory);
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

/* ---- Ops ------------------------------------------------------------------------------------- */

static void launch_embed(const launch *l)
{
    gpu_embed a = {token_rows(l), l->with->matrix, written_rows(l), l->n};
    l->plugin->embed(l->gpu, &a);
}

static void launch_norm(const launch *l)
{
    const op *o = l->op;
    int is_of_heads = o->kind == OP_HEAD_NORM;
    int64_t n = is_of_heads ? o->head_dim : o->w[0].tensor->n_col;
    device *d = l->session->device;
    gpu_norm a = {
        .x = read_rows(l, 0),
        .y = written_rows(l),
        .weight = l->with->floats,
        .n_token = l->n,
        .n_head = is_of_heads ? edge_out(l)->width / n : 1,
        .n = n,
        .count = o->count,
        .eps = o->eps,
        .inv_rms = l->session->trace && !is_of_heads ? d->inv_rms + l->token.first : NULL,
    };
    l->plugin->rms_norm(l->gpu, &a);
}

static void launch_quantize(const launch *l)
{
    gpu_quantize a = {read_rows(l, 0), written_rows(l), l->n, edge_out(l)->width};
    l->plugin->quantize(l->gpu, &a);
}

static void launch_matmul(const launch *l)
{
    gpu_matmul a = {
        .w = l->with->matrix,
        .bias = l->with->floats,
        .x = read_rows(l, 0),
        .y = written_rows(l),
        .n_token = l->n,
        .n_out = edge_out(l)->width,
        .x_is_q8 = reads_q8(l),
    };
    l->plugin->matmul(l->gpu, &a);
}

static void launch_rope(const launch *l)
{
    const op *o = l->op;
    const device *d = l->session->device;
    int is_other = o->rope_table >= ROPE_TABLE_OTHER && d->override.n_cos_sin > 0;
    gpu_rope a = {
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
    l->plugin->rope(l->gpu, &a);
}

static void launch_kv_store(const launch *l)
{
    const greta_session *s = l->session;
    gpu_kv_store a = {
        .x = read_rows(l, 0),
        .row = pass_rows(l),
        .cache = cache_on_device(s, edge_out(l)),
        .sequence_bytes = s->kv_sequence_bytes,
        .shape = s->kv,
        .side = cache_side(edge_out(l)),
        .n_token = l->n,
    };
    l->plugin->kv_store(l->gpu, &a);
}

/* One more than the highest position of some rows. */
static int64_t positions_seen(const greta_session *s, span token)
{
    int64_t n = 0;
    for (int64_t t = token.first; t < token.last; t++) {
        n = s->row[t].position >= n ? (int64_t)s->row[t].position + 1 : n;
    }
    return n;
}

/* Up to an eighth more, and at least 256: the same for many passes. */
static int64_t positions_bound(int64_t n, int64_t n_ctx)
{
    int64_t step = 256;
    while (8 * step < n) {
        step *= 2;
    }
    int64_t bound = (n + step - 1) / step * step;
    return bound < n_ctx ? bound : n_ctx;
}

static void launch_attention(const launch *l)
{
    const greta_session *s = l->session;
    const op *o = l->op;
    gpu_attention a = {
        .q = read_rows(l, 0),
        .y = written_rows(l),
        .row = pass_rows(l),
        .k = cache_on_device(s, edge_in(l, 1)),
        .v = cache_on_device(s, edge_in(l, 2)),
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
    l->plugin->attention(l->gpu, &a);
}

static void launch_columns(const launch *l)
{
    const op *o = l->op;
    static const gpu_column_kind kind[OP_KIND_COUNT] = {
        [OP_ADD] = GPU_ADD, [OP_SCALE] = GPU_SCALE, [OP_SOFTCAP] = GPU_SOFTCAP, [OP_GLU] = GPU_GLU};
    int has_two = o->kind == OP_ADD || o->kind == OP_GLU;
    gpu_columns a = {
        .kind = kind[o->kind],
        .a = read_rows(l, 0),
        .b = has_two ? read_rows(l, 1) : (gpu_rows){0},
        .y = written_rows(l),
        .n_token = l->n,
        .n = edge_out(l)->width,
        .factor = o->kind == OP_SOFTCAP ? o->softcap : o->factor,
        .f = o->activation,
    };
    l->plugin->columns(l->gpu, &a);
}

static void launch_top_k(const launch *l)
{
    gpu_top_k a = {read_rows(l, 0), written_rows(l), l->n, l->op->n_expert, l->op->n_expert_used};
    l->plugin->top_k(l->gpu, &a);
}

static void launch_expert_weights(const launch *l)
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
}

static void launch_expert_matmul(const launch *l)
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
}

static void launch_expert_sum(const launch *l)
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
}

static void (*const launchers[OP_KIND_COUNT])(const launch *l) = {
    [OP_EMBED] = launch_embed,
    [OP_SCALE] = launch_columns,
    [OP_RMS_NORM] = launch_norm,
    [OP_HEAD_NORM] = launch_norm,
    [OP_QUANTIZE] = launch_quantize,
    [OP_MATMUL] = launch_matmul,
    [OP_ROPE] = launch_rope,
    [OP_KV_STORE] = launch_kv_store,
    [OP_ATTENTION] = launch_attention,
    [OP_ADD] = launch_columns,
    [OP_GLU] = launch_columns,
    [OP_SOFTCAP] = launch_columns,
    [OP_TOP_K] = launch_top_k,
    [OP_EXPERT_WEIGHTS] = launch_expert_weights,
    [OP_EXPERT_MATMUL] = launch_expert_matmul,
    [OP_EXPERT_SUM] = launch_expert_sum,
};

/* ---- The pass -------------------------------------------------------------------------------- */

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
    };
}

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

/* What a capture looks at when the op has run for all its tokens. */
static gpu_stats look_of(const launch *l)
{
    const greta_session *s = l->session;
    const edge *e = edge_out(l);
    gpu_stats a = {.type = edge_type(s, e), .n_token = l->n, .n = e->width};
    if (!e->is_cache) {
        a.x = written_rows(l);
        return a;
    }
    a.x = pass_rows(l);
    a.cache = cache_on_device(s, e);
    a.sequence_bytes = s->kv_sequence_bytes;
    a.shape = s->kv;
    a.side = cache_side(e);
    return a;
}

/* The rows of the pass go to the device; those of the one before stay, for delayed reads. */
static void rows_upload(const greta_session *s)
{
    const device *d = s->device;
    if (session_list(s, s->phase) == &s->override) {
        d->plugin->copy(d->gpu, d->row[1], d->row[0],
                        (size_t)s->n_row_previous * sizeof *d->row[0]);
    }
    d->plugin->copy_in(d->gpu, d->row[0], s->row, (size_t)s->n_row * sizeof *s->row);
    if (s->n_want > 0) {
        d->plugin->copy_in(d->gpu, d->want, s->want, (size_t)s->n_want * sizeof *s->want);
    }
}

/* Those that are pinned need no waiting for. */
static void logits_fetch(const greta_session *s)
{
    const device *d = s->device;
    int32_t e = op_list_edge(&s->healthy, STAGE_LOGITS, -1);
    const op *o = &s->healthy.op[s->healthy.edge[e].producer];
    int64_t n = s->n_want < d->n_logits_pinned ? s->n_want : d->n_logits_pinned;
    if (n > 0) {
        rows r = rows_written(s, o, 0);
        gpu_rows_out out = {r.base, r.stride, plan_row(s, &r, e, 0), r.stride, r.stride, (size_t)n};
        d->plugin->rows_out(d->gpu, &out);
    }
    if (n < s->n_want) {
        device_fetch_written(s, o, (span){n, s->n_want});
    }
}

/* The op for all its tokens, which may run different ones. */
static void op_launch(greta_session *s, const op *o, int64_t n_token)
{
    for (span run = {0, 0}; run.last < n_token;) {
        run = run_of(s, o, run.last, n_token);
        launch l = launch_of(s, session_op(s, o, run.first), run);
        launchers[l.op->kind](&l);
    }
}

static void ops_launch(greta_session *s)
{
    const op_list *list = session_list(s, s->phase);
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        int64_t n_token = op_tokens(s, o);
        int is_captured = s->capture && n_token > 0;
        gpu_stats look = {0};
        if (is_captured) {
            launch whole = launch_of(s, o, (span){0, n_token});
            look = look_of(&whole);
            device_look_before(s, look.x);
        }
        op_launch(s, o, n_token);
        if (is_captured) {
            device_look_after(s, i, look);
        }
        if (s->trace) {
            observe_op(s, o);
        }
    }
    if (s->capture) {
        device_look_rest(s);
    }
}

void device_graph_drop(device *d, device_graph *graph)
{
    if (graph->graph) {
        d->plugin->graph_free(d->gpu, graph->graph);
    }
    *graph = (device_graph){0};
}

/* Nothing goes to the host on the way, and where edges lie does not alternate between passes. */
static int is_graphable(const greta_session *s)
{
    int is_left = s->trace || (s->capture && capture_keeps_values(s));
    return s->device->plugin->graph_begin && s->n_row <= GRAPH_ROWS && !is_left && !s->override.op;
}

/* Launches the pass as a graph, which is made first if the pass before had the same shape; 0: it is
 * a new shape. */
static int graph_launch(greta_session *s)
{
    device *d = s->device;
    int64_t n_position = positions_seen(s, (span){0, s->n_row});
    device_graph shape = {s->n_row, s->n_want, positions_bound(n_position, s->options.n_ctx), NULL};
    device_graph *g = &d->graph[s->capture != NULL];
    if (g->n_row != shape.n_row || g->n_want != shape.n_want || g->n_position != shape.n_position) {
        device_graph_drop(d, g);
        *g = shape;
        return 0;
    }
    if (!g->graph) {
        d->plugin->graph_begin(d->gpu);
        ops_launch(s);
        if (d->plugin->graph_end(d->gpu, &g->graph) != GPU_OK) {
            g->graph = NULL;
            return 1; /* device_sync says why */
        }
    }
    d->plugin->graph_launch(d->gpu, g->graph);
    return 1;
}

greta_status device_walk(greta_session *s, greta_error *err)
{
    rows_upload(s);
    if (!is_graphable(s) || !graph_launch(s)) {
        ops_launch(s);
    }
    if (s->capture) {
        device_look_fetch(s);
    }
    logits_fetch(s);
    return device_sync(s->device, err);
}

/* ---- Rows for the host ----------------------------------------------------------------------- */

static void fetch(const greta_session *s, uint8_t *host, const uint8_t *from, size_t bytes)
{
    if (bytes > 0) {
        s->device->plugin->copy_out(s->device->gpu, host, from, bytes);
    }
}

/* Positions [first, last) of a sequence: whole tiles, which lie one behind the other. */
static void fetch_cache(const greta_session *s, const edge *e, int32_t sequence, span position)
{
    size_t tile = s->kv_row_bytes * ATTENTION_TILE;
    size_t first = (size_t)(position.first / ATTENTION_TILE) * tile;
    size_t end = (size_t)((position.last + ATTENTION_TILE - 1) / ATTENTION_TILE) * tile;
    uint8_t *host = cache_of(s, e, sequence) + first;
    fetch(s, host, s->device->kv + (host - s->kv_memory), end - first);
}

/* Rows of an edge as tokens see them. */
static void fetch_rows(const greta_session *s, const rows *r, int32_t e, span tokens)
{
    size_t stride = s->plan.buffer[r->buffer].stride;
    int64_t n = r->stride == 0 || r->index ? 1 : tokens.last - tokens.first;
    for (int64_t t = tokens.first; t < tokens.last; t += n) {
        int64_t row = r->first + (r->stride == 0 ? 0 : r->index ? r->index[t] : t);
        fetch(s, s->plan.buffer[r->buffer].base + (size_t)row * stride, plan_row(s, r, e, row),
              (size_t)n * stride);
        if (r->stride == 0) {
            return;
        }
    }
}

/* The end of the run of tokens of one sequence that begins at `first`. */
static int64_t sequence_end(const greta_session *s, int64_t first, int64_t last)
{
    int64_t next = first + 1;
    while (next < last && s->row[next].sequence == s->row[first].sequence) {
        next++;
    }
    return next;
}

void device_fetch_written(const greta_session *s, const op *o, span tokens)
{
    const edge *e = &session_list(s, s->phase)->edge[o->out[0]];
    const device *d = s->device;
    if (o->kind == OP_RMS_NORM && s->trace) {
        fetch(s, (uint8_t *)(s->inv_rms + tokens.first), (uint8_t *)(d->inv_rms + tokens.first),
              (size_t)(tokens.last - tokens.first) * sizeof *s->inv_rms);
    }
    if (!e->is_cache) {
        rows y = rows_written(s, o, 0);
        fetch_rows(s, &y, o->out[0], tokens);
        return;
    }
    for (int64_t t = tokens.first, next; t < tokens.last; t = next) {
        next = sequence_end(s, t, tokens.last);
        span position = {s->row[t].position, (int64_t)s->row[next - 1].position + 1};
        fetch_cache(s, e, s->row[t].sequence, position);
    }
}

void device_fetch_read(const greta_session *s, const op *o, span tokens)
{
    const op_list *list = session_list(s, s->phase);
    for (int i = 0; i < OP_IN_MAX && o->in[i].edge >= 0; i++) {
        const edge *e = &list->edge[o->in[i].edge];
        if (e->producer < 0) {
            continue; /* the tokens: the host has them */
        }
        if (!e->is_cache) {
            rows x = rows_read(s, o, i);
            fetch_rows(s, &x, o->in[i].edge, tokens);
            continue;
        }
        for (int64_t t = tokens.first, next; t < tokens.last; t = next) {
            next = sequence_end(s, t, tokens.last);
            span position = {0, (int64_t)s->row[next - 1].position + 1};
            fetch_cache(s, e, sequence_read(o, i, &s->row[t]), position);
        }
    }
}
