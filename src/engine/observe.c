/* observe.c - the trace of a session: what each op was given, read and wrote, as records.
 *
 * After an op has run, its rows lie where it left them. Statistics and hashes of every row are
 * taken there, split over the session's threads; selected rows become records, all rows become one
 * index of hashes, so that provenance can be searched later. Looking changes nothing: the kernels,
 * buffers and thread splits are those of an untraced pass. A write error stops the trace, not the
 * run; greta_trace_end returns it.
 */
#include "engine/device.h"

#include "base/fpenv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The hash of positions 0 .. n of a sequence: rows of one pass share what they saw. */
typedef struct cache_read {
    const op *op;
    int64_t pass;
    int32_t sequence;
    int64_t n;
    row_hash hash;
} cache_read;

/* The hash of some rows of a weight of the model. */
typedef struct viewed {
    struct viewed *next;
    weight_view view;
    row_hash hash;
} viewed;

struct observer {
    trace_selector *selector;
    trace_writer *writer;
    greta_status status; /* of the first failed write */
    greta_error error;
    row_stats *stats;   /* (n_chunk) of the op's output rows */
    row_hash *hash;     /* (n_chunk) the same hashes, as an index record holds them */
    float *wide;        /* a row of a weight as floats */
    viewed *viewed;     /* what was hashed of it, newest first */
    uint8_t *gathered;  /* (n_thread + 1, kv_row_bytes): rows of the cache */
    cache_read read[2]; /* what attention read of keys and of values */
    uint8_t *seen[2];   /* (n_ctx, kv_row_bytes) the rows themselves, gathered; NULL: not kept */
    trace_record record;
};

/* ---- Rows as numbers ------------------------------------------------------------------------- */

void row_look(const greta_session *s, dtype type, const void *row, int64_t n, row_stats *stats)
{
    if (type == DTYPE_I32) {
        *stats = (row_stats){.hash = trace_values_hash(type, row, n)};
    } else {
        s->table->row_stats(type, row, n, stats);
    }
}

dtype edge_type(const greta_session *s, const edge *e)
{
    return e->is_cache ? s->kv.type : e->type;
}

/* Rows of the cache are gathered into this thread's scratch. */
static const uint8_t *written_row(const greta_session *s, const op *o, int64_t t, int32_t thread)
{
    const edge *e = &session_list(s, s->phase)->edge[o->out[0]];
    if (e->is_cache) {
        uint8_t *row = s->trace->gathered + (size_t)thread * s->kv_row_bytes;
        cache_row(s, e, &s->row[op_row(s, o, t)], row);
        return row;
    }
    rows y = rows_written(s, o, 0);
    return rows_at(&y, t);
}

typedef struct stats_job {
    const greta_session *session;
    const op *op;
} stats_job;

static void stats_run(void *user, int32_t thread, int32_t n_thread)
{
    const stats_job *job = user;
    const greta_session *s = job->session;
    observer *o = s->trace;
    const edge *e = &session_list(s, s->phase)->edge[job->op->out[0]];
    span mine = share(op_tokens(s, job->op), thread, n_thread);
    for (int64_t t = mine.first; t < mine.last; t++) {
        row_look(s, edge_type(s, e), written_row(s, job->op, t, thread), e->width, &o->stats[t]);
        o->hash[t] = o->stats[t].hash;
    }
}

/* ---- Records --------------------------------------------------------------------------------- */

static void tensor_stats(trace_tensor *out, const row_stats *stats)
{
    out->min = stats->min;
    out->max = stats->max;
    out->sumsq = stats->sumsq;
    out->n_nonfinite = stats->n_nonfinite;
    out->hash = stats->hash;
}

static void tensor_keep(trace_tensor *out, const trace_selector *selector, const void *data)
{
    out->data = data;
    out->n_kept = trace_selects_values(selector, out->n);
}

/* A row of the cache does not lie in one piece: its place is that of its first value. */
static void place_cache(const greta_session *s, const edge *e, const greta_row *at,
                        trace_tensor *out)
{
    kv_side side = cache_side(e);
    size_t size = kv_value_bytes(&s->kv);
    snprintf(out->buffer, sizeof out->buffer, "kv.%c.%d", side == KV_KEYS ? 'k' : 'v', e->layer);
    out->row = out->slot = row_slot(s, at);
    out->stride = size * (size_t)(side == KV_KEYS ? 1 : s->kv.head_dim);
    out->offset = (uint64_t)at->sequence * s->kv_sequence_bytes +
                  size * (uint64_t)kv_at(&s->kv, side, at->position, 0);
    out->generation = s->generation[out->slot];
}

static void place_buffer(const greta_session *s, const rows *r, int64_t t, trace_tensor *out)
{
    int64_t row = r->first + (r->stride == 0 ? 0 : r->index ? r->index[t] : t);
    snprintf(out->buffer, sizeof out->buffer, "b%d", r->buffer);
    out->row = row;
    out->slot = -1;
    out->stride = s->plan.buffer[r->buffer].stride;
    out->offset = (uint64_t)row * out->stride;
}

static trace_tensor tensor_of_edge(const greta_session *s, const edge *e)
{
    return (trace_tensor){
        .name = e->name, .layer = e->layer, .type = edge_type(s, e), .n = e->width, .slot = -1};
}

/* Adds positions read->n .. end, all of one tile, as they lie in memory: the sum has no order. */
static void cache_read_add(const greta_session *s, const edge *e, cache_read *read, int64_t end)
{
    int is_keys = cache_side(e) == KV_KEYS;
    int64_t head_dim = s->kv.head_dim, n_position = end - read->n;
    const uint8_t *cache = cache_of(s, e, read->sequence);
    for (int32_t h = 0; h < s->kv.n_head_kv; h++) {
        int64_t at = kv_at(&s->kv, cache_side(e), read->n, h);
        trace_piece piece = {.n = is_keys ? n_position : head_dim,
                             .first = read->n * e->width + h * head_dim,
                             .step = is_keys ? e->width : 1};
        for (int64_t i = 0; i < (is_keys ? head_dim : n_position); i++) {
            piece.values = cache + (size_t)at * kv_value_bytes(&s->kv);
            trace_values_hash_add(&read->hash, s->kv.type, &piece);
            piece.first += is_keys ? 1 : e->width;
            at += is_keys ? ATTENTION_TILE : head_dim;
        }
    }
    read->n = end;
}

/* What attention read: all visible rows of the sequence, from its first slot. */
static trace_tensor input_cache(const greta_session *s, const op *o, int input,
                                const greta_row *row)
{
    const edge *e = &session_list(s, s->phase)->edge[o->in[input].edge];
    int32_t sequence = sequence_read(o, input, row);
    trace_tensor in = tensor_of_edge(s, e);
    cache_read *read = &s->trace->read[cache_side(e)];
    int is_continued = read->op == o && read->pass == s->pass && read->sequence == sequence &&
                       read->n <= row->position;
    if (!is_continued) {
        *read = (cache_read){.op = o, .pass = s->pass, .sequence = sequence};
    }
    for (int64_t n = (int64_t)row->position + 1, end; read->n < n;) {
        end = (read->n / ATTENTION_TILE + 1) * ATTENTION_TILE;
        cache_read_add(s, e, read, end < n ? end : n);
    }
    place_cache(s, e, &(greta_row){.sequence = sequence}, &in);
    in.n = (int64_t)e->width * (row->position + 1);
    in.hash = read->hash;
    uint8_t *seen = s->trace->seen[cache_side(e)];
    for (greta_row at = {.sequence = sequence}; seen && at.position <= row->position;
         at.position++) {
        cache_row(s, e, &at, seen + (size_t)at.position * s->kv_row_bytes);
    }
    if (seen) {
        tensor_keep(&in, s->trace->selector, seen);
    }
    return in;
}

/* Values as read are kept for norms, and where no record of the producer holds them. */
static trace_tensor input_buffer(const greta_session *s, const op *o, int input, int64_t t)
{
    observer *obs = s->trace;
    const edge *e = &session_list(s, s->phase)->edge[o->in[input].edge];
    rows x = rows_read(s, o, input);
    const uint8_t *row = rows_at(&x, t);
    trace_tensor in = tensor_of_edge(s, e);
    row_stats stats;
    place_buffer(s, &x, t, &in);
    row_look(s, in.type, row, in.n, &stats);
    tensor_stats(&in, &stats);
    int is_recorded = o->in[input].delay == READ_THIS_PASS && o->in[input].row == 0 &&
                      trace_selects_op(obs->selector, e->name, e->layer, s->phase);
    if (o->kind == OP_RMS_NORM || !is_recorded) {
        tensor_keep(&in, obs->selector, row);
    }
    return in;
}

static trace_tensor input_token(const greta_session *s, const op *o, const edge *e, int64_t t)
{
    trace_tensor in = tensor_of_edge(s, e);
    const greta_row *from = token_read(s, o, t);
    int is_delayed = o->in[0].delay == READ_PREVIOUS_PASS;
    int64_t row = from - (is_delayed ? s->row_previous : s->row);
    snprintf(in.buffer, sizeof in.buffer, "tokens");
    in.row = row;
    in.offset = (uint64_t)row * sizeof s->row[0];
    in.stride = sizeof s->row[0];
    in.data = &from->token;
    in.n_kept = 1;
    in.hash = trace_values_hash(DTYPE_I32, in.data, 1);
    return in;
}

static row_hash view_hash(const greta_session *s, const weight_view *view)
{
    const weight *w = view->tensor;
    row_hash hash = {0, 0};
    float *wide = s->trace->wide;
    for (int64_t r = 0; r < view->n; r++) {
        kernel_dequantize(w->type, weight_row(w, view->first + r), wide, w->n_col);
        for (int64_t i = 0; i < w->n_col; i++) {
            hash_word(&hash, (uint64_t)(r * w->n_col + i), hash_float_bits(wide[i]));
        }
    }
    return hash;
}

/* What was hashed of the model's weights in parts: rows of fused tensors, experts stored one by
 * one. NULL: not yet. */
static const viewed *viewed_find(const observer *o, const weight_view *view)
{
    for (const viewed *v = o->viewed; v; v = v->next) {
        if (v->view.tensor == view->tensor && v->view.first == view->first &&
            v->view.n == view->n) {
            return v;
        }
    }
    return NULL;
}

static row_hash viewed_hash(const greta_session *s, const weight_view *view)
{
    const viewed *known = viewed_find(s->trace, view);
    row_hash hash = known ? known->hash : view_hash(s, view);
    viewed *v = known ? NULL : malloc(sizeof *v);
    if (v) { /* without memory it is hashed again next time */
        *v = (viewed){s->trace->viewed, *view, hash};
        s->trace->viewed = v;
    }
    return hash;
}

/* Weights of the model are hashed once: whole ones once a process, parts once a trace. Others,
 * which faults put in their place, when they are read. */
static row_hash weight_hash(const greta_session *s, const weight_view *view)
{
    struct greta_model *m = s->model;
    const weight *w = view->tensor;
    ptrdiff_t index = w >= m->weight && w < m->weight + m->n_weight ? w - m->weight : -1;
    if (index < 0 && !w->part) {
        return view_hash(s, view);
    }
    if (index < 0 || view->first != 0 || view->n != w->n_row) {
        return viewed_hash(s, view);
    }
    pthread_mutex_lock(&m->weight_lock);
    if (!m->has_weight_hash[index]) {
        m->weight_hash[index] = view_hash(s, view);
        m->has_weight_hash[index] = 1;
    }
    row_hash hash = m->weight_hash[index];
    pthread_mutex_unlock(&m->weight_lock);
    return hash;
}

/* "model", and from the second file of a model on "model.2" */
static void buffer_of_file(size_t i, char name[32])
{
    snprintf(name, 32, i == 0 ? "model" : "model.%zu", i + 1);
}

static trace_tensor tensor_of_weight(const greta_session *s, const weight_view *view)
{
    const weight *w = view->tensor;
    trace_tensor out = {.name = STAGE_NONE,
                        .layer = -1,
                        .type = w->type,
                        .n = view->n * w->n_col,
                        .first_row = view->first,
                        .row = view->first,
                        .slot = -1,
                        .stride = (uint64_t)w->row_bytes};
    snprintf(out.tensor, sizeof out.tensor, "%s", w->name);
    snprintf(out.buffer, sizeof out.buffer, "weights");
    for (size_t i = 0; i < s->model->n_mapped; i++) {
        const mapped_file *file = &s->model->mapped[i];
        if (w->data >= file->data && w->data < file->data + file->size) {
            buffer_of_file(i, out.buffer);
            out.offset = (uint64_t)(w->data - file->data) + (uint64_t)(view->first * w->row_bytes);
        }
    }
    if (w->n_row == 1 && w->type == DTYPE_F32) {
        row_stats stats;
        row_look(s, w->type, w->data, w->n_col, &stats);
        tensor_stats(&out, &stats);
        tensor_keep(&out, s->trace->selector, w->data);
    } else {
        out.hash = weight_hash(s, view);
    }
    return out;
}

static void observer_add(observer *o, trace_record *record)
{
    if (o->status == GRETA_OK) {
        o->status = trace_writer_add(o->writer, record, &o->error);
    }
}

/* A ROW record of what an op did for row `row` of the pass, operands still to be filled in. */
static trace_record *record_start(greta_session *s, const op *o, int64_t row)
{
    const greta_row *r = &s->row[row];
    trace_record *rec = &s->trace->record;
    *rec = (trace_record){
        .kind = TRACE_ROW,
        .prefix = s->prefix[row_slot(s, r)],
        .token = r->token,
        .position = r->position,
        .layer = o->layer,
        .name = o->name,
        .phase = s->phase,
        .pass = s->pass,
        .sequence = r->sequence,
        .row = (int32_t)row,
        .op = op_kind_name(o->kind),
        .kernel = session_kernel(s, o),
    };
    return rec;
}

static void record_row(greta_session *s, const op *o, int64_t t)
{
    observer *obs = s->trace;
    const op_list *list = session_list(s, s->phase);
    int64_t row = op_row(s, o, t);
    const greta_row *r = &s->row[row];
    trace_record *rec = record_start(s, o, row);
    rec->chunk_rows = s->n_row;
    rec->first_position = s->row[0].position;
    if (o->kind == OP_RMS_NORM) {
        rec->has_norm = 1;
        rec->eps = o->eps;
        rec->count = o->count;
        rec->inv_rms = s->inv_rms[t];
    }
    for (int i = 0; i < OP_IN_MAX && o->in[i].edge >= 0; i++) {
        const edge *e = &list->edge[o->in[i].edge];
        rec->in[rec->n_in++] = e->is_cache               ? input_cache(s, o, i, r)
                               : e->name == STAGE_TOKENS ? input_token(s, o, e, t)
                                                         : input_buffer(s, o, i, t);
    }
    for (int i = 0; i < OP_WEIGHT_MAX && o->w[i].tensor; i++) {
        rec->weight[rec->n_weight++] = tensor_of_weight(s, &o->w[i]);
    }
    const edge *e = &list->edge[o->out[0]];
    trace_tensor *out = &rec->out[rec->n_out++];
    *out = tensor_of_edge(s, e);
    if (e->is_cache) {
        place_cache(s, e, r, out);
    } else {
        rows y = rows_written(s, o, 0);
        place_buffer(s, &y, t, out);
    }
    tensor_stats(out, &obs->stats[t]);
    tensor_keep(out, obs->selector, written_row(s, o, t, s->options.n_thread));
    observer_add(obs, rec);
}

/* One index per run of consecutive positions of a sequence. */
static void record_index(greta_session *s, const op *o)
{
    observer *obs = s->trace;
    const edge *e = &session_list(s, s->phase)->edge[o->out[0]];
    for (int64_t first = 0, next; first < s->n_row && !e->is_packed; first = next) {
        const greta_row *r = &s->row[first];
        next = first + 1;
        while (next < s->n_row && s->row[next].sequence == r->sequence) {
            next++;
        }
        trace_record *rec = record_start(s, o, first);
        rec->kind = TRACE_INDEX;
        rec->chunk_rows = next - first;
        rec->first_position = r->position;
        rec->n_out = 1;
        rec->out[0] = tensor_of_edge(s, e);
        rec->out[0].data = obs->hash + first;
        if (e->is_cache) {
            place_cache(s, e, r, &rec->out[0]);
        } else {
            rows y = rows_written(s, o, 0);
            place_buffer(s, &y, first, &rec->out[0]);
        }
        observer_add(obs, rec);
    }
}

static int row_is_last(const greta_session *s, int64_t row)
{
    return row + 1 == s->n_row || s->row[row + 1].sequence != s->row[row].sequence;
}

static int row_is_recorded(const greta_session *s, const op *o, int64_t t)
{
    int64_t row = op_row(s, o, t);
    return trace_selects_row(s->trace->selector, s->row[row].position, row_is_last(s, row));
}

/* Brings what is about to be looked at from the device: all rows the op wrote, and what the
 * recorded ones read, those of one op together. */
static void rows_fetch(const greta_session *s, const op *o, int64_t n)
{
    device_fetch_written(s, o, (span){0, n});
    for (int64_t t = 0, next; t < n; t = next) {
        const op *one = session_op(s, o, t);
        int is_recorded = row_is_recorded(s, o, t);
        next = t + 1;
        while (next < n && session_op(s, o, next) == one &&
               row_is_recorded(s, o, next) == is_recorded) {
            next++;
        }
        if (is_recorded) {
            device_fetch_read(s, one, (span){t, next});
        }
    }
}

void observe_op(greta_session *s, const op *o)
{
    observer *obs = s->trace;
    if (obs->status != GRETA_OK || trace_writer_is_full(obs->writer) ||
        !trace_selects_op(obs->selector, o->name, o->layer, s->phase)) {
        return;
    }
    stats_job job = {s, o};
    int64_t n = op_tokens(s, o);
    if (s->device) {
        rows_fetch(s, o, n);
    }
    if (n == 1) {
        stats_run(&job, 0, 1);
    } else {
        thread_pool_run(s->pool, stats_run, &job);
    }
    for (int64_t t = 0; t < n; t++) {
        if (row_is_recorded(s, o, t)) {
            record_row(s, session_op(s, o, t), t);
        }
    }
    record_index(s, o);
}

/* ---- Begin and end --------------------------------------------------------------------------- */

void observer_free(observer *o)
{
    if (!o) {
        return;
    }
    if (o->writer) {
        trace_writer_end(o->writer, "interrupted", NULL);
    }
    trace_selector_free(o->selector);
    free(o->stats);
    free(o->hash);
    free(o->wide);
    free(o->gathered);
    free(o->seen[0]);
    free(o->seen[1]);
    for (viewed *v = o->viewed, *next; v; v = next) {
        next = v->next;
        free(v);
    }
    free(o);
}

static greta_status buffers_list(const greta_session *s, trace_buffer **out, size_t *n,
                                 greta_error *err)
{
    size_t n_layer = (size_t)s->model->cfg.n_layer, n_file = s->model->n_mapped,
           count = (size_t)s->plan.n_buffer + 2 * n_layer + 1 + n_file;
    trace_buffer *b = calloc(count, sizeof *b);
    if (!b) {
        return error_memory(err, "the buffer map", count * sizeof *b);
    }
    *out = b;
    *n = count;
    for (int32_t i = 0; i < s->plan.n_buffer; i++, b++) {
        const buffer *p = &s->plan.buffer[i];
        snprintf(b->name, sizeof b->name, "b%d", i);
        b->address = (uint64_t)(uintptr_t)p->base;
        b->bytes = p->stride * (uint64_t)p->n_row;
    }
    for (size_t l = 0; l < n_layer; l++, b += 2) {
        snprintf(b[0].name, sizeof b[0].name, "kv.k.%zu", l);
        snprintf(b[1].name, sizeof b[1].name, "kv.v.%zu", l);
        b[0].address = (uint64_t)(uintptr_t)cache_layer(s, (int32_t)l, KV_KEYS);
        b[1].address = (uint64_t)(uintptr_t)cache_layer(s, (int32_t)l, KV_VALUES);
        b[0].bytes = b[1].bytes = cache_layer_bytes(s);
    }
    b[0] = (trace_buffer){"tokens", (uint64_t)(uintptr_t)s->row,
                          (uint64_t)s->options.n_chunk * sizeof *s->row};
    for (size_t i = 0; i < n_file; i++) {
        const mapped_file *file = &s->model->mapped[i];
        b[1 + i] = (trace_buffer){"", (uint64_t)(uintptr_t)file->data, file->size};
        buffer_of_file(i, b[1 + i].name);
    }
    return GRETA_OK;
}

static void copy_text(char *out, size_t bytes, const char *text, const char *absent)
{
    snprintf(out, bytes, "%s", text ? text : absent);
}

void observer_selection(const greta_trace_options *o, trace_header *h)
{
    h->sample = o->sample;
    h->bytes_max = o->bytes_max;
    copy_text(h->prompt_id, sizeof h->prompt_id, o->prompt_id, "");
    copy_text(h->notes, sizeof h->notes, o->notes, "");
    copy_text(h->selection_stages, sizeof h->selection_stages, o->stages, "all");
    copy_text(h->selection_layers, sizeof h->selection_layers, o->layers, "all");
    copy_text(h->selection_phases, sizeof h->selection_phases, o->phases, "prefill,decode");
    copy_text(h->selection_tokens, sizeof h->selection_tokens, o->tokens, "all");
}

/* What the kernels of the session claim, those of an override included: one whose results are only
 * near to the definition makes the whole trace one of another arithmetic. */
static void header_arithmetic(const greta_session *s, trace_header *h)
{
    const char *rounding = s->table->rounding;
    for (int32_t i = 0; i < s->override.n_op; i++) {
        const char *of_op = session_table(s, &s->override.op[i])->rounding;
        rounding = of_op ? of_op : rounding;
    }
    h->arithmetic = rounding ? 0 : ARITHMETIC_VERSION;
    copy_text(h->rounding, sizeof h->rounding, rounding, "");
}

void observer_header(greta_session *s, const greta_trace_options *o, trace_header *h)
{
    const config *c = &s->model->cfg;
    *h = (trace_header){
        .format = TRACE_FORMAT_VERSION,
        .stage_list = STAGE_LIST_VERSION,
        .model_hash = model_file_hash(s->model),
        .tokenizer_hash = model_tokenizer_hash(s->model),
        .n_layer = c->n_layer,
        .n_embd = c->n_embd,
        .n_vocab = c->n_vocab,
        .n_ctx = s->options.n_ctx,
        .n_sequence = s->options.n_sequence,
        .n_chunk = s->options.n_chunk,
        .n_thread = thread_pool_size(s->pool),
    };
    uint32_t saved = fpenv_enter();
    h->mxcsr = fpenv_enter();
    fpenv_leave(saved);
    greta_cpu_describe(h->cpu, sizeof h->cpu);
    copy_text(h->greta, sizeof h->greta, greta_version().library, "");
    copy_text(h->model_name, sizeof h->model_name, c->name, "");
    copy_text(h->arch, sizeof h->arch, c->arch, "");
    copy_text(h->kv, sizeof h->kv, s->kv.type == DTYPE_F32 ? "f32" : "f16", "");
    copy_text(h->act, sizeof h->act, s->options.act == GRETA_ACT_F32 ? "f32" : "q8", "");
    copy_text(h->kernel, sizeof h->kernel, s->device ? s->device->plugin->name : s->table->name,
              "");
    copy_text(h->device, sizeof h->device, s->device ? s->device->info.name : NULL, "");
    copy_text(h->compiler, sizeof h->compiler, __VERSION__, "");
    header_arithmetic(s, h);
    observer_selection(o, h);
}

static int64_t widest_weight(const greta_session *s)
{
    int64_t width = 1;
    for (size_t i = 0; i < s->model->n_weight; i++) {
        width = s->model->weight[i].n_col > width ? s->model->weight[i].n_col : width;
    }
    return width;
}

/* The weights as the model file holds them, of every selected op. */
static void record_weights(greta_session *s)
{
    observer *obs = s->trace;
    for (int32_t i = 0; i < s->healthy.n_op; i++) {
        const op *o = &s->healthy.op[i];
        int is_selected = trace_selects_op(obs->selector, o->name, o->layer, GRETA_PHASE_PREFILL) ||
                          trace_selects_op(obs->selector, o->name, o->layer, GRETA_PHASE_DECODE);
        for (int w = 0; w < OP_WEIGHT_MAX && o->w[w].tensor && is_selected; w++) {
            trace_record *rec = &obs->record;
            *rec = (trace_record){.kind = TRACE_WEIGHT,
                                  .name = o->name,
                                  .layer = o->layer,
                                  .op = op_kind_name(o->kind),
                                  .kernel = session_kernel(s, o),
                                  .n_weight = 1};
            rec->weight[0] = tensor_of_weight(s, &o->w[w]);
            observer_add(obs, rec);
        }
    }
}

static greta_status observer_fill(greta_session *s, const greta_trace_options *options, observer *o,
                                  greta_error *err)
{
    size_t n_chunk = (size_t)s->options.n_chunk;
    o->stats = malloc(n_chunk * sizeof *o->stats);
    o->hash = malloc(n_chunk * sizeof *o->hash);
    o->wide = malloc((size_t)widest_weight(s) * sizeof *o->wide);
    o->gathered = malloc((size_t)(s->options.n_thread + 1) * s->kv_row_bytes);
    if (!o->stats || !o->hash || !o->wide || !o->gathered) {
        return error_memory(err, "the trace", n_chunk * sizeof *o->stats);
    }
    GRETA_TRY(trace_selector_new(options, s->model->cfg.n_layer, &o->selector, err));
    for (int i = 0; i < 2 && trace_selects_cache(o->selector); i++) {
        size_t bytes = (size_t)s->options.n_ctx * s->kv_row_bytes;
        o->seen[i] = malloc(bytes);
        if (!o->seen[i]) {
            return error_memory(err, "the trace", bytes);
        }
    }
    trace_header header;
    trace_buffer *map = NULL;
    observer_header(s, options, &header);
    GRETA_TRY(buffers_list(s, &map, &header.n_buffer, err));
    header.buffer = map;
    greta_status status = trace_writer_new(options, &header, &o->writer, err);
    free(map);
    return status;
}

greta_status greta_trace_begin(greta_session *s, const greta_trace_options *options,
                               greta_error *err)
{
    if (s->trace) {
        return error_set(err, GRETA_USAGE, "the session is being traced already");
    }
    observer *o = calloc(1, sizeof *o);
    if (!o) {
        return error_memory(err, "the trace", sizeof *o);
    }
    greta_status status = observer_fill(s, options, o, err);
    if (status != GRETA_OK) {
        observer_free(o);
        return status;
    }
    s->trace = o;
    record_weights(s);
    return GRETA_OK;
}

greta_status greta_trace_end(greta_session *s, const char *why, greta_error *err)
{
    observer *o = s->trace;
    if (!o) {
        return GRETA_OK;
    }
    s->trace = NULL;
    greta_status status = o->status;
    if (status != GRETA_OK && err && err->code == GRETA_OK) {
        *err = o->error;
    }
    greta_status ended = trace_writer_end(o->writer, status == GRETA_OK ? why : "interrupted", err);
    o->writer = NULL;
    observer_free(o);
    return status != GRETA_OK ? status : ended;
}

/* ---- Size said before the run ---------------------------------------------------------------- */

#define LINE_BYTES        640 /* of a record without its tensors, at most */
#define LINE_TENSOR_BYTES 640 /* of one tensor in it */
#define BLOB_ALIGNMENT    64

static uint64_t kept_bytes(const trace_selector *selector, dtype type, int64_t n)
{
    uint64_t bytes = 0;
    trace_values_bytes(type, trace_selects_values(selector, n), &bytes);
    return bytes + 2 * BLOB_ALIGNMENT;
}

static uint64_t op_bytes(const greta_session *s, const trace_selector *selector, const op *o)
{
    const op_list *list = &s->healthy;
    uint64_t bytes = LINE_BYTES + LINE_TENSOR_BYTES;
    const edge *out = &list->edge[o->out[0]];
    bytes += kept_bytes(selector, edge_type(s, out), out->width);
    for (int i = 0; i < OP_IN_MAX && o->in[i].edge >= 0; i++) {
        const edge *in = &list->edge[o->in[i].edge];
        bytes += LINE_TENSOR_BYTES;
        bytes += in->is_cache ? 0 : kept_bytes(selector, edge_type(s, in), in->width);
    }
    for (int i = 0; i < OP_WEIGHT_MAX && o->w[i].tensor; i++) {
        int is_kept = o->w[i].tensor->n_row == 1;
        bytes += LINE_TENSOR_BYTES;
        bytes += is_kept ? kept_bytes(selector, DTYPE_F32, o->w[i].tensor->n_col) : 0;
    }
    return bytes;
}

typedef struct phase_rows {
    greta_phase phase;
    size_t first, n, chunk; /* positions first .. first+n in passes of chunk rows */
} phase_rows;

/* The cache rows that attention read, of keys and values, at n positions. */
static uint64_t seen_bytes(const greta_session *s, const trace_selector *selector, size_t n)
{
    int64_t width = (int64_t)s->kv.n_head_kv * s->kv.head_dim * (int64_t)n;
    return trace_selects_cache(selector) ? 2 * kept_bytes(selector, s->kv.type, width) : 0;
}

static uint64_t phase_bytes(const greta_session *s, const trace_selector *selector, phase_rows p)
{
    uint64_t n_selected = 0, n_pass = (p.n + p.chunk - 1) / p.chunk, total = 0, seen = 0;
    for (size_t i = 0; i < p.n; i++) {
        bool is_last = i + 1 == p.n || (i + 1) % p.chunk == 0;
        if (trace_selects_row(selector, (int32_t)(p.first + i), is_last)) {
            n_selected++;
            seen += seen_bytes(s, selector, p.first + i + 1);
        }
    }
    for (int32_t i = 0; i < s->healthy.n_op; i++) {
        const op *o = &s->healthy.op[i];
        if (trace_selects_op(selector, o->name, o->layer, p.phase)) {
            total += n_selected * op_bytes(s, selector, o);
            total += o->kind == OP_ATTENTION ? seen : 0;
            total +=
                n_pass * (LINE_BYTES + LINE_TENSOR_BYTES + BLOB_ALIGNMENT) + p.n * sizeof(row_hash);
        }
    }
    return total;
}

greta_status greta_trace_plan(const greta_session *s, const greta_trace_options *options,
                              size_t n_prefill, size_t n_decode, uint64_t *bytes, greta_error *err)
{
    trace_selector *selector = NULL;
    *bytes = 0;
    GRETA_TRY(trace_selector_new(options, s->model->cfg.n_layer, &selector, err));
    phase_rows prefill = {GRETA_PHASE_PREFILL, 0, n_prefill, (size_t)s->options.n_chunk};
    phase_rows decode = {GRETA_PHASE_DECODE, n_prefill, n_decode, 1};
    *bytes = 65536 + 256 * (2 * (uint64_t)s->model->cfg.n_layer + (uint64_t)s->plan.n_buffer);
    *bytes += phase_bytes(s, selector, prefill) + phase_bytes(s, selector, decode);
    for (int32_t i = 0; i < s->healthy.n_op; i++) { /* the weights as the file holds them */
        *bytes += s->healthy.op[i].w[0].tensor ? op_bytes(s, selector, &s->healthy.op[i]) : 0;
    }
    trace_selector_free(selector);
    return GRETA_OK;
}
