/* cache.c - the KV cache of a session: its memory, where things lie in it, forks.
 *
 * One allocation holds, for each layer, the keys and the values of each sequence, laid out as
 * kernel.h says. Contexts are rounded up to whole tiles. A position is called by its slot,
 * sequence * n_ctx + position, in traces and in the two arrays that remember a slot's history.
 *
 * The memory is not cleared: pages that no position reached are never touched, and what lies beyond
 * the last position of a tile takes no part. It asks for huge pages, where the system has them:
 * attention walks through all of it for every token.
 */
#include "engine/device.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE  ((size_t)2 << 20)
#define CACHE_LINE 64

greta_status cache_new(greta_session *s, greta_error *err)
{
    const config *c = &s->model->cfg;
    uint64_t n_ctx = (uint64_t)s->options.n_ctx, n_sequence = (uint64_t)s->options.n_sequence;
    uint64_t n_tile = (n_ctx + ATTENTION_TILE - 1) / ATTENTION_TILE, bytes = 0, total = 0;
    s->kv = (kv_shape){s->options.kv == GRETA_KV_F32 ? DTYPE_F32 : DTYPE_F16, c->n_head_kv,
                       c->head_dim};
    uint64_t tile_bytes =
        (uint64_t)kv_block_size(&s->kv) * (uint64_t)c->n_head_kv * kv_value_bytes(&s->kv);
    if (!checked_mul(n_tile, tile_bytes, &bytes) || !checked_mul(bytes, n_sequence, &total) ||
        !checked_mul(total, 2 * (uint64_t)c->n_layer, &total)) {
        return error_set(err, GRETA_IO, "the KV cache does not fit 64 bits");
    }
    s->kv_row_bytes = (size_t)tile_bytes / ATTENTION_TILE;
    s->kv_sequence_bytes = (size_t)bytes;
    void *memory = NULL;
    if (posix_memalign(&memory, total < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE, (size_t)total) != 0) {
        return error_memory(err, "the KV cache", total);
    }
    s->kv_memory = memory;
    if (total >= HUGE_PAGE) {
        madvise(memory, (size_t)total, MADV_HUGEPAGE); /* only a wish */
    }
    s->n_cached = calloc((size_t)n_sequence, sizeof *s->n_cached);
    s->prefix = calloc((size_t)(n_ctx * n_sequence), sizeof *s->prefix);
    s->generation = calloc((size_t)(n_ctx * n_sequence), sizeof *s->generation);
    if (!s->n_cached || !s->prefix || !s->generation) {
        return error_memory(err, "the KV cache", n_ctx * n_sequence * sizeof *s->prefix);
    }
    return GRETA_OK;
}

void cache_free(greta_session *s)
{
    free(s->kv_memory);
    free(s->n_cached);
    free(s->prefix);
    free(s->generation);
}

int64_t row_slot(const greta_session *s, const greta_row *row)
{
    return (int64_t)row->sequence * s->options.n_ctx + row->position;
}

kv_side cache_side(const edge *e)
{
    return e->name == STAGE_K_CACHE ? KV_KEYS : KV_VALUES;
}

size_t cache_layer_bytes(const greta_session *s)
{
    return s->kv_sequence_bytes * (size_t)s->options.n_sequence;
}

uint8_t *cache_layer(const greta_session *s, int32_t layer, kv_side side)
{
    size_t number = 2 * (size_t)layer + (side == KV_VALUES);
    return s->kv_memory + number * cache_layer_bytes(s);
}

uint8_t *cache_of(const greta_session *s, const edge *e, int32_t sequence)
{
    return cache_layer(s, e->layer, cache_side(e)) + (size_t)sequence * s->kv_sequence_bytes;
}

void cache_row(const greta_session *s, const edge *e, const greta_row *at, void *row)
{
    kernel_kv_load(&(kv_load_args){.cache = cache_of(s, e, at->sequence),
                                   .shape = s->kv,
                                   .side = cache_side(e),
                                   .position = at->position,
                                   .row = row});
}

/* Whole tiles are copied: what lies behind the last position does not matter. */
void cache_fork(greta_session *s, int32_t source, int32_t target)
{
    size_t n_ctx = (size_t)s->options.n_ctx, n = (size_t)s->n_cached[source];
    size_t from = (size_t)source * n_ctx, to = (size_t)target * n_ctx;
    size_t bytes = (n + ATTENTION_TILE - 1) / ATTENTION_TILE * ATTENTION_TILE * s->kv_row_bytes;
    if (s->device) {
        device_fork(s, source, target, bytes);
    }
    for (int32_t l = 0; l < 2 * s->model->cfg.n_layer && !s->device; l++) {
        uint8_t *layer = s->kv_memory + (size_t)l * cache_layer_bytes(s);
        memcpy(layer + (size_t)target * s->kv_sequence_bytes,
               layer + (size_t)source * s->kv_sequence_bytes, bytes);
    }
    memcpy(s->prefix + to, s->prefix + from, n * sizeof *s->prefix);
    for (size_t p = 0; p < n; p++) {
        s->generation[to + p]++;
    }
    s->n_cached[target] = s->n_cached[source];
}
