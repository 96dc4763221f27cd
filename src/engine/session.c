/* session.c - what a session owns: op lists, plan, KV cache (cache.c), rotary table, threads.
 *
 * Everything is allocated by greta_session_new (and replanned by session_override_set, override.c),
 * so evaluation allocates nothing.
 */
#include "engine/device.h"

#include "base/fpenv.h"
#include "base/limits.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CTX_DEFAULT   4096
#define CHUNK_DEFAULT 512

typedef struct option_range {
    const char *name;
    int32_t value, high;
} option_range;

/* Of a caller who was compiled with an older header, the fields it knows; size 0: with this one. */
static greta_session_options options_given(const greta_session_options *given)
{
    greta_session_options o = {0};
    size_t size = given ? given->size : 0;
    if (given) {
        memcpy(&o, given, size > 0 && size < sizeof o ? size : sizeof o);
    }
    return o;
}

static greta_status options_resolve(greta_session *s, const greta_session_options *given,
                                    greta_error *err)
{
    greta_session_options o = options_given(given);
    int32_t n_train = s->model->cfg.n_ctx_train;
    o.size = sizeof o;
    o.n_ctx = o.n_ctx ? o.n_ctx : n_train > 0 && n_train < CTX_DEFAULT ? n_train : CTX_DEFAULT;
    o.n_sequence = o.n_sequence ? o.n_sequence : 1;
    o.n_chunk = o.n_chunk ? o.n_chunk : CHUNK_DEFAULT;
    o.n_thread = o.n_thread ? o.n_thread : thread_online();
    const option_range range[] = {
        {"context", o.n_ctx, LIMIT_CONTEXT},
        {"sequences", o.n_sequence, LIMIT_SEQUENCES},
        {"chunk", o.n_chunk, LIMIT_CHUNK},
        {"threads", o.n_thread, LIMIT_THREADS},
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        if (range[i].value < 1 || range[i].value > range[i].high) {
            return error_about(err, GRETA_USAGE, range[i].name, "%" PRId32 " (1 to %" PRId32 ")",
                               range[i].value, range[i].high);
        }
    }
    o.n_chunk = o.n_chunk < o.n_ctx * (int64_t)o.n_sequence ? o.n_chunk : o.n_ctx * o.n_sequence;
    s->table = kernel_find(o.cpu);
    if (!s->table) {
        char shown[ESCAPED_MAX], cpu[128];
        return error_set(err, GRETA_USAGE, "this machine has no kernels \"%s\" (%s)",
                         escape(o.cpu, strlen(o.cpu), shown), greta_cpu_describe(cpu, sizeof cpu));
    }
    o.cpu = s->table->name;
    s->options = o;
    return GRETA_OK;
}

static rope_source rope_source_of(const greta_session *s)
{
    const struct greta_model *m = s->model;
    return (rope_source){&m->cfg.rope,  m->rope_factors,    m->rope_long,
                         m->rope_short, m->cfg.n_ctx_train, s->options.n_ctx};
}

int session_rope_is_long(const greta_session *s)
{
    rope_source source = rope_source_of(s);
    return kernel_rope_is_long(&source);
}

rope_table_args session_angles(const greta_session *s, int is_local)
{
    rope_source source = rope_source_of(s);
    rope_table_args a = kernel_rope_args(&source, is_local);
    a.n_position = s->options.n_ctx;
    if (is_local && !s->cos_sin[1]) {
        a.freq_base = 0;
    }
    return a;
}

/* One table for the model, one more for its layers with a window if they turn otherwise. */
static greta_status rope_new(greta_session *s, greta_error *err)
{
    const config *c = &s->model->cfg;
    int n_table = c->window > 0 && c->rope.freq_base_local > 0 ? 2 : 1;
    size_t n = (size_t)s->options.n_ctx * (size_t)c->rope.dim;
    rope_source source = rope_source_of(s);
    for (int i = 0; i < n_table; i++) {
        s->cos_sin[i] = malloc(n * sizeof *s->cos_sin[i]);
        if (!s->cos_sin[i]) {
            return error_memory(err, "the rotary table", n * sizeof *s->cos_sin[i]);
        }
        rope_table_args a = kernel_rope_args(&source, i);
        a.n_position = s->options.n_ctx;
        uint32_t saved = fpenv_enter();
        int is_in_range = kernel_rope_is_in_range(&a);
        if (is_in_range) {
            kernel_rope_table(&a, s->cos_sin[i]);
        }
        fpenv_leave(saved);
        if (!is_in_range) {
            return error_about(err, GRETA_BAD_INPUT, "rope",
                               "rotary angles of %" PRId32 " positions go beyond 2^25 radians "
                               "(base, factors and scaling of the model that keep them below)",
                               s->options.n_ctx);
        }
    }
    return GRETA_OK;
}

static greta_status pass_new(greta_session *s, greta_error *err)
{
    size_t n = (size_t)s->options.n_chunk;
    s->row = calloc(n, sizeof *s->row);
    s->row_previous = calloc(n, sizeof *s->row_previous);
    s->feed = calloc(n, sizeof *s->feed);
    s->want = calloc(n, sizeof *s->want);
    s->inv_rms = calloc(n, sizeof *s->inv_rms);
    if (!s->row || !s->row_previous || !s->feed || !s->want || !s->inv_rms) {
        return error_memory(err, "the session", n * sizeof *s->row);
    }
    GRETA_TRY(experts_new(s, err));
    return rope_new(s, err);
}

static greta_status session_fill(greta_session *s, const greta_session_options *options,
                                 greta_error *err)
{
    GRETA_TRY(options_resolve(s, options, err));
    GRETA_TRY(device_open(s, err));
    act_contract act = s->options.act == GRETA_ACT_F32 ? ACT_CONTRACT_F32 : ACT_CONTRACT_Q8;
    GRETA_TRY(op_list_build(s->model, act, &s->healthy, err));
    GRETA_TRY(plan_build(s, &s->healthy, &s->override, &s->plan, err));
    GRETA_TRY(cache_new(s, err));
    GRETA_TRY(pass_new(s, err));
    GRETA_TRY(thread_pool_new(s->options.n_thread, &s->pool, err));
    return s->device ? device_fill(s, err) : session_pack(s, err);
}

greta_status greta_session_new(greta_model *model, const greta_session_options *options,
                               greta_session **session, greta_error *err)
{
    *session = NULL;
    greta_session *s = calloc(1, sizeof *s);
    if (!s) {
        return error_memory(err, "the session", sizeof *s);
    }
    s->model = greta_model_retain(model);
    greta_status status = session_fill(s, options, err);
    if (status != GRETA_OK) {
        greta_session_free(s);
        return status;
    }
    *session = s;
    return GRETA_OK;
}

void greta_session_free(greta_session *s)
{
    if (!s) {
        return;
    }
    observer_free(s->trace);
    capture_abandon(s);
    device_free(s);
    thread_pool_free(s->pool);
    op_list_free(&s->healthy);
    op_list_free(&s->override);
    plan_free(&s->plan);
    cache_free(s);
    free(s->cos_sin[0]);
    free(s->cos_sin[1]);
    free(s->expert_scratch);
    free(s->row);
    free(s->row_previous);
    free(s->feed);
    free(s->want);
    free(s->inv_rms);
    greta_model_release(s->model);
    free(s);
}

greta_session_options greta_session_describe(const greta_session *s)
{
    return s->options;
}

static greta_status sequence_check(const greta_session *s, int32_t sequence, greta_error *err)
{
    if (sequence < 0 || sequence >= s->options.n_sequence) {
        return error_set(err, GRETA_USAGE, "sequence %" PRId32 " (0 to %" PRId32 ")", sequence,
                         s->options.n_sequence - 1);
    }
    return GRETA_OK;
}

greta_status greta_session_drop(greta_session *s, int32_t sequence, int32_t from, greta_error *err)
{
    GRETA_TRY(sequence_check(s, sequence, err));
    if (from < 0 || from > s->n_cached[sequence]) {
        return error_set(err, GRETA_USAGE, "position %" PRId32 " (0 to %" PRId32 ")", from,
                         s->n_cached[sequence]);
    }
    s->n_cached[sequence] = from;
    return GRETA_OK;
}

greta_status greta_session_fork(greta_session *s, int32_t source, int32_t target, greta_error *err)
{
    GRETA_TRY(sequence_check(s, source, err));
    GRETA_TRY(sequence_check(s, target, err));
    if (source != target) {
        cache_fork(s, source, target);
    }
    return s->device ? device_sync(s->device, err) : GRETA_OK;
}
