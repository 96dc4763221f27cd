/* device.c - what a session owns on a device: memory of the plan, the KV cache, the rows of a pass.
 *
 * Everything is taken when the session is made, and again with a new plan; passes take nothing.
 * Whether it all fits is known before the first byte is copied: the sum is compared with what the
 * device says is free. There is no way back to the CPU: a session that asked for a device either
 * runs there or fails with a line that says why, and a device that was lost stays lost.
 */
#include "engine/device.h"

#include "base/checked.h"
#include "base/text.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOGITS_PINNED ((int64_t)16 << 20) /* bytes */

_Static_assert(sizeof(gpu_row) == sizeof(greta_row) &&
                   offsetof(gpu_row, position) == offsetof(greta_row, position) &&
                   offsetof(gpu_row, sequence) == offsetof(greta_row, sequence),
               "rows of a pass are copied as they are");

/* ---- Failures -------------------------------------------------------------------------------- */

greta_status device_check(const device *d, greta_error *err)
{
    if (d->lost.code != GRETA_OK && err && err->code == GRETA_OK) {
        *err = d->lost;
    }
    return d->lost.code;
}

greta_status device_sync(device *d, greta_error *err)
{
    char why[DEVICE_WHY_MAX] = "";
    gpu_status status = d->plugin->sync(d->gpu, why, sizeof why);
    if (status != GPU_OK && d->lost.code == GRETA_OK) {
        error_hint(&d->lost, "this session is over");
        device_error(&d->spec, status, why, &d->lost);
    }
    return device_check(d, err);
}

static uint64_t memory_free(const device *d)
{
    gpu_info info = {0};
    char why[DEVICE_WHY_MAX] = "";
    gpu_status status = d->plugin->describe(d->spec.number, &info, why, sizeof why);
    return status == GPU_OK ? info.memory_free : 0;
}

greta_status device_alloc(const device *d, const device_need *need, void **memory, greta_error *err)
{
    char needed[NUMBER_MAX], free_now[NUMBER_MAX];
    gpu_status status = need->bytes <= SIZE_MAX
                            ? d->plugin->alloc(need->gpu, (size_t)need->bytes, memory)
                            : GPU_NO_MEMORY;
    if (status == GPU_OK) {
        return GRETA_OK;
    }
    *memory = NULL;
    if (status != GPU_NO_MEMORY) {
        return device_error(&d->spec, status, need->what, err);
    }
    return error_about(err, GRETA_IO, d->name, "out of memory: %s needs %s, the device has %s free",
                       need->what, number_bytes(need->bytes, needed),
                       number_bytes(memory_free(d), free_now));
}

/* ---- Begin ----------------------------------------------------------------------------------- */

greta_status device_open(greta_session *s, greta_error *err)
{
    const greta_session_options *o = &s->options;
    device_spec spec;
    if (device_is_cpu(o->device)) {
        s->options.device = "cpu";
        return GRETA_OK;
    }
    GRETA_TRY(device_parse(o->device, &spec, err));
    device *d = calloc(1, sizeof *d);
    if (!d) {
        return error_memory(err, "the device", sizeof *d);
    }
    s->device = d;
    d->spec = spec;
    snprintf(d->name, sizeof d->name, "%s:%" PRId32, spec.plugin, spec.number);
    s->options.device = d->name;
    GRETA_TRY(plugin_load(spec.plugin, o->plugins, &d->plugin, err));
    char why[DEVICE_WHY_MAX] = "";
    gpu_status status = d->plugin->open(spec.number, &d->gpu, why, sizeof why);
    if (status == GPU_OK) {
        status = d->plugin->describe(spec.number, &d->info, why, sizeof why);
    }
    return status == GPU_OK ? GRETA_OK : device_error(&spec, status, why, err);
}

/* Bytes of a table of angles. */
static uint64_t angles_bytes(const greta_session *s, int32_t rope_dim)
{
    return (uint64_t)s->options.n_ctx * (uint64_t)rope_dim * sizeof(float);
}

static uint64_t cache_bytes(const greta_session *s)
{
    return cache_layer_bytes(s) * 2 * (uint64_t)s->model->cfg.n_layer;
}

/* Refuses a session that cannot fit, with what it needs and what there is. */
static greta_status fits(const greta_session *s, greta_error *err)
{
    const device *d = s->device;
    uint64_t weights, kv = cache_bytes(s), total;
    uint64_t rest = s->plan.bytes + 2 * angles_bytes(s, s->model->cfg.rope.dim) +
                    (uint64_t)s->options.n_chunk * (2 * sizeof(gpu_row) + 8);
    GRETA_TRY(device_missing(s, &s->healthy, &weights, err));
    uint64_t have = memory_free(d);
    if (checked_add(weights, kv, &total) && checked_add(total, rest, &total) && total <= have) {
        return GRETA_OK;
    }
    char said[5][NUMBER_MAX];
    error_hint(err, "a smaller context, fewer sequences, a smaller chunk or model needs less");
    return error_about(err, GRETA_IO, d->name,
                       "too little memory: needs %s (weights %s, KV cache %s, rows %s), and %s is "
                       "free",
                       number_bytes(total, said[0]), number_bytes(weights, said[1]),
                       number_bytes(kv, said[2]), number_bytes(rest, said[3]),
                       number_bytes(have, said[4]));
}

static greta_status angles_upload(const greta_session *s, const float *table, int32_t rope_dim,
                                  float **out, greta_error *err)
{
    const device *d = s->device;
    device_need need = {d->gpu, "the rotary table", angles_bytes(s, rope_dim)};
    void *memory = NULL;
    GRETA_TRY(device_alloc(d, &need, &memory, err));
    *out = memory;
    d->plugin->copy_in(d->gpu, memory, table, (size_t)need.bytes);
    return GRETA_OK;
}

greta_status device_plan_new(const greta_session *s, const plan *p, uint8_t **memory,
                             greta_error *err)
{
    void *at = NULL;
    device_need need = {s->device->gpu, "activations", p->bytes};
    greta_status status = device_alloc(s->device, &need, &at, err);
    *memory = at;
    return status;
}

/* The host's logits are pinned as far as that is worth its memory. */
void device_plan_take(greta_session *s, uint8_t *memory)
{
    device *d = s->device;
    int32_t e = op_list_edge(&s->healthy, STAGE_LOGITS, -1);
    const buffer *b = &s->plan.buffer[s->plan.slot[2 * e]];
    int64_t n = LOGITS_PINNED / (int64_t)b->stride;
    n = n < 1 ? 1 : n < b->n_row ? n : b->n_row;
    d->plan = memory;
    d->n_logits_pinned = device_pin(d, b->base, (size_t)n * b->stride) ? n : 0;
    d->logits_pinned = d->n_logits_pinned > 0 ? b->base : NULL;
}

void device_plan_drop(greta_session *s)
{
    device *d = s->device;
    device_graph_drop(d, &d->graph[0]);
    device_graph_drop(d, &d->graph[1]);
    if (d->logits_pinned) {
        device_unpin(d, d->logits_pinned);
    }
    d->logits_pinned = NULL;
    d->plugin->free(d->gpu, d->plan);
    d->plan = NULL;
}

/* Memory of the pass; the order is that of `fits`. */
static greta_status pass_alloc(const greta_session *s, device *d, greta_error *err)
{
    uint64_t n = (uint64_t)s->options.n_chunk;
    const struct {
        const char *what;
        uint64_t bytes;
    } need[] = {
        {"the KV cache", cache_bytes(s)}, {"rows", n * sizeof(gpu_row)},
        {"rows", n * sizeof(gpu_row)},    {"rows", n * sizeof *d->want},
        {"rows", n * sizeof *d->inv_rms},
    };
    void *memory[5];
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) {
        greta_status status =
            device_alloc(d, &(device_need){d->gpu, need[i].what, need[i].bytes}, &memory[i], err);
        while (status != GRETA_OK && i > 0) {
            d->plugin->free(d->gpu, memory[--i]);
        }
        GRETA_TRY(status);
    }
    d->kv = memory[0];
    d->row[0] = memory[1];
    d->row[1] = memory[2];
    d->want = memory[3];
    d->inv_rms = memory[4];
    return GRETA_OK;
}

greta_status device_fill(greta_session *s, greta_error *err)
{
    device *d = s->device;
    const config *c = &s->model->cfg;
    GRETA_TRY(device_store_open(s, err));
    GRETA_TRY(fits(s, err));
    uint8_t *memory = NULL;
    GRETA_TRY(device_plan_new(s, &s->plan, &memory, err));
    device_plan_take(s, memory);
    GRETA_TRY(pass_alloc(s, d, err));
    gpu_status status =
        d->plugin->reserve(d->gpu, s->options.n_chunk, s->options.n_ctx, c->n_head, c->head_dim);
    if (status != GPU_OK) {
        return device_error(&d->spec, status, "scratch of attention", err);
    }
    for (int i = 0; i < 2 && s->cos_sin[i]; i++) {
        GRETA_TRY(angles_upload(s, s->cos_sin[i], c->rope.dim, &d->cos_sin[i], err));
    }
    return device_ops_new(s, &s->healthy, &d->healthy, err);
}

void device_free(greta_session *s)
{
    device *d = s->device;
    if (!d) {
        return;
    }
    if (d->gpu) {
        char why[DEVICE_WHY_MAX];
        (void)d->plugin->sync(d->gpu, why, sizeof why); /* nothing reads the host's memory now */
        if (d->look.stats) {
            device_look_end(s);
        }
        device_plan_drop(s);
        device_ops_free(d, &d->healthy);
        device_ops_free(d, &d->override);
        void *memory[] = {d->kv,      d->row[0],     d->row[1],    d->want,
                          d->inv_rms, d->cos_sin[0], d->cos_sin[1]};
        for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
            d->plugin->free(d->gpu, memory[i]);
        }
        d->plugin->close(d->gpu);
    }
    free(d);
    s->device = NULL;
}

/* ---- Overrides, forks ------------------------------------------------------------------------ */

static int32_t angles_count(const op_list *list)
{
    int32_t n = 0;
    for (int32_t i = 0; i < list->n_op; i++) {
        int32_t other = list->op[i].rope_table - ROPE_TABLE_OTHER + 1;
        n = other > n ? other : n;
    }
    return n;
}

static greta_status override_angles(const greta_session *s, const session_override *override,
                                    device_ops *out, greta_error *err)
{
    int32_t n = override->cos_sin ? angles_count(override->list) : 0;
    out->cos_sin = calloc((size_t)n + 1, sizeof *out->cos_sin);
    if (!out->cos_sin) {
        return error_memory(err, "angles", (uint64_t)n * sizeof *out->cos_sin);
    }
    out->n_cos_sin = n;
    for (int32_t i = 0; i < override->list->n_op; i++) {
        const op *o = &override->list->op[i];
        int32_t at = o->rope_table - ROPE_TABLE_OTHER;
        if (at >= 0 && at < n && !out->cos_sin[at]) {
            GRETA_TRY(angles_upload(s, override->cos_sin[at], o->rope_dim, &out->cos_sin[at], err));
        }
    }
    return device_sync(s->device, err);
}

greta_status device_override_new(const greta_session *s, const session_override *override,
                                 device_ops *out, greta_error *err)
{
    *out = (device_ops){0};
    for (int32_t i = 0; i < override->list->n_op; i++) {
        const op *o = &override->list->op[i];
        if (o->table > 0) {
            error_hint(err, "plant it with device cpu");
            return error_about(err, GRETA_USAGE, stage_name(o->name),
                               "this fault puts another CPU kernel in place, and %s runs its own",
                               s->device->name);
        }
    }
    GRETA_TRY(device_ops_new(s, override->list, out, err));
    greta_status status = override_angles(s, override, out, err);
    if (status != GRETA_OK) {
        device_ops_free(s->device, out);
    }
    return status;
}

void device_fork(const greta_session *s, int32_t source, int32_t target, size_t bytes)
{
    const device *d = s->device;
    for (int32_t l = 0; l < 2 * s->model->cfg.n_layer; l++) {
        uint8_t *layer = d->kv + (size_t)l * cache_layer_bytes(s);
        d->plugin->copy(d->gpu, layer + (size_t)target * s->kv_sequence_bytes,
                        layer + (size_t)source * s->kv_sequence_bytes, bytes);
    }
}
