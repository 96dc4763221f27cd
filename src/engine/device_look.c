/* device_look.c - what a capture keeps of a pass, gathered without leaving the device.
 *
 * Statistics of what an op wrote need not be taken at once, only before its rows are written over.
 * So they wait, and are taken for many ops in one launch: when GPU_STATS_MAX wait, when an op is
 * about to write where one that waits lies, and at the end. In a pass of few rows an edge uses
 * other rows of its buffer than the edge before it (edge_turn), so that nothing is written over and
 * a whole token is looked at together. All of it becomes part of the pass's graph. Values, if they
 * are wanted, are copied behind their op into the capture's memory, which is pinned.
 */
#include "engine/device.h"

#include <stdlib.h>
#include <string.h>

/* ---- Begin and end --------------------------------------------------------------------------- */

int device_pin(const device *d, void *host, size_t bytes)
{
    return d->plugin->host_pin(d->gpu, host, bytes) == GPU_OK;
}

void device_unpin(const device *d, void *host)
{
    d->plugin->host_unpin(d->gpu, host);
}

void device_look_end(greta_session *s)
{
    device *d = s->device;
    device_graph_drop(d, &d->graph[1]);
    d->plugin->free(d->gpu, d->look.stats);
    d->plugin->free(d->gpu, d->look.gathered);
    free(d->look.turn);
    d->look = (device_look){0};
}

greta_status device_look_begin(greta_session *s, int64_t rows_max, greta_error *err)
{
    device *d = s->device;
    size_t n_edge = (size_t)s->healthy.n_edge, n_chunk = (size_t)s->options.n_chunk;
    void *stats = NULL, *gathered = NULL;
    device_need need = {d->gpu, "statistics", (uint64_t)rows_max * sizeof(row_stats)};
    GRETA_TRY(device_alloc(d, &need, &stats, err));
    d->look.stats = stats;
    need = (device_need){d->gpu, "rows of the cache", n_chunk * s->kv_row_bytes};
    greta_status status = device_alloc(d, &need, &gathered, err);
    d->look.gathered = gathered;
    d->look.turn = calloc(n_edge, sizeof *d->look.turn);
    if (status == GRETA_OK && !d->look.turn) {
        status = error_memory(err, "the capture", n_edge * sizeof *d->look.turn);
    }
    if (status != GRETA_OK) {
        device_look_end(s);
        return status;
    }
    for (size_t e = 0; e < n_edge; e++) {
        for (size_t before = 0; before < e; before++) {
            d->look.turn[e] += s->plan.slot[2 * before] == s->plan.slot[2 * e];
        }
    }
    return GRETA_OK;
}

/* ---- During a pass --------------------------------------------------------------------------- */

int64_t edge_turn(const greta_session *s, int32_t e)
{
    if (!s->capture || s->override.op || s->plan.slot[2 * e] < 0) {
        return 0;
    }
    int64_t n_turn = s->options.n_chunk / s->n_row;
    return s->device->look.turn[e] % n_turn * s->n_row;
}

static void look_now(const greta_session *s)
{
    device *d = s->device;
    if (d->look.n > 0) {
        d->plugin->stats(d->gpu, d->look.wanted, d->look.n);
        d->look.n = 0;
    }
}

void device_look_before(const greta_session *s, gpu_rows written)
{
    const device_look *l = &s->device->look;
    for (int32_t i = 0; i < l->n; i++) {
        if (!l->wanted[i].cache.base && l->wanted[i].x.base == written.base) {
            look_now(s);
            return;
        }
    }
}

static void values_out(const greta_session *s, const gpu_stats *a, const capture_room *room)
{
    const device *d = s->device;
    gpu_rows_out out = {room->values,        room->stride, a->x.base,
                        (size_t)a->x.stride, room->bytes,  (size_t)a->n_token};
    if (a->cache.base) {
        gpu_rows to = {d->look.gathered, (int64_t)s->kv_row_bytes, NULL};
        gpu_kv_load load = {a->x, to, a->cache, a->n_token};
        d->plugin->kv_load(d->gpu, &load);
        out.from = d->look.gathered;
        out.stride = s->kv_row_bytes;
    }
    d->plugin->rows_out(d->gpu, &out);
}

void device_look_after(const greta_session *s, int32_t i, gpu_stats a)
{
    device_look *l = &s->device->look;
    capture_room room = capture_room_of(s, i);
    int64_t n_stats;
    if (room.values) {
        values_out(s, &a, &room);
    }
    a.stats = l->stats + (room.stats - capture_stats(s, &n_stats));
    l->wanted[l->n++] = a;
    if (l->n == GPU_STATS_MAX) {
        look_now(s);
    }
}

void device_look_rest(const greta_session *s)
{
    look_now(s);
}

void device_look_fetch(const greta_session *s)
{
    const device *d = s->device;
    int64_t n;
    row_stats *to = capture_stats(s, &n);
    size_t bytes = (size_t)n * sizeof *to;
    d->plugin->rows_out(d->gpu, &(gpu_rows_out){to, bytes, d->look.stats, bytes, bytes, 1});
}
