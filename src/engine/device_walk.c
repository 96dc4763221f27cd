/* device_walk.c - the same walk over the same op list, its ops calls of a plugin (device_launch.c).
 *
 * Nothing waits between ops: rows, cache and angles are on the device, and the host hears of a pass
 * when its logits arrive. A trace is the exception: it looks at an op's rows when the op is done,
 * and so has them fetched.
 *
 * A small pass, as of decoding, would spend its time on enqueuing. The second one of a shape
 * becomes a graph, and those that follow launch it: nothing in it but what the memory holds depends
 * on the pass. Its one number that would, how far attention may have to look, is rounded up, so
 * that a graph serves many tokens.
 */
#include "engine/device.h"

#include <string.h>

#define GRAPH_ROWS 64 /* of a pass that is worth a graph */

/* ---- The pass -------------------------------------------------------------------------------- */

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
        gpu_rows_out out = {r.base,   r.stride, device_row(s, &r, e, 0),
                            r.stride, r.stride, (size_t)n};
        d->plugin->rows_out(d->gpu, &out);
    }
    if (n < s->n_want) {
        device_fetch_written(s, o, (span){n, s->n_want});
    }
}

/* Before one of the next ops writes over what was not looked at yet. */
static void look_ahead(const greta_session *s, const op_list *list, int32_t i)
{
    for (int32_t k = i; k < i + FUSED_MAX && k < list->n_op; k++) {
        device_look_before(s, device_look_of(s, &list->op[k]).x);
    }
}

static void ops_launch(greta_session *s)
{
    const op_list *list = session_list(s, s->phase);
    for (int32_t i = 0, end; i < list->n_op; i = end) {
        if (s->capture) {
            look_ahead(s, list, i);
        }
        end = i + device_launch(s, &list->op[i]);
        for (int32_t k = i; k < end; k++) {
            gpu_stats look = s->capture ? device_look_of(s, &list->op[k]) : (gpu_stats){0};
            if (look.n_token > 0) {
                device_look_after(s, k, look);
            }
            if (s->trace) {
                observe_op(s, &list->op[k]);
            }
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
        fetch(s, s->plan.buffer[r->buffer].base + (size_t)row * stride, device_row(s, r, e, row),
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
