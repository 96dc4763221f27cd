/* capture.c - what every op of a run wrote, recorded in memory at the speed of the run.
 *
 * A trace says what ops read as well and writes as it goes, which costs many times the run. A
 * capture looks at outputs only, and adds no waiting: before a thread starts on a group of ops, it
 * looks at its share of the rows that the groups before have written, which are still near. For
 * that plan.c lets every row live until the end of the next group that all threads take part in.
 * Statistics are those of a trace; with values the rows are copied as they are. Nothing that is
 * computed knows of it.
 *
 * Memory comes from slabs, on huge pages where the system has them; `bytes_ready` of it are taken
 * and touched at the begin, so that a short run pays for no page either.
 */
#include "engine/device.h"

#include "base/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT         64
#define SLAB_BYTES        ((uint64_t)32 << 20)
#define BYTES_MAX_DEFAULT (UINT64_C(4) << 30)

typedef struct slab {
    struct slab *next;
    uint8_t *data;
    uint64_t bytes, used;
    int is_pinned; /* for copies from the session's device */
} slab;

/* An op's rows in a pass: before them in the tables lie those of the ops before it. */
typedef struct captured_op {
    stage name;
    int32_t layer;
    op_kind kind;
    dtype type;
    int64_t width;
    uint64_t row_bytes;
    int is_packed, is_cache;
    int64_t rows_before[2];   /* ops before it: with a row per token, per wanted token */
    uint64_t bytes_before[2]; /* of their rows */
} captured_op;

typedef struct captured_pass {
    int64_t pass, n_row, n_want, before; /* rows of all passes before */
    greta_phase phase;
    const char **kernel; /* (n_op) tables that ran */
    greta_row *row;      /* (n_row) */
    uint64_t *prefix;    /* (n_row) */
    int32_t *want;       /* (n_want) */
    row_stats *stats;    /* one per row of an op */
    uint8_t *values;     /* NULL: not kept */
} captured_pass;

struct greta_capture {
    int has_values;
    uint64_t bytes, bytes_max;
    captured_op *op;
    int32_t n_op;
    int64_t rows[2]; /* ops with a row per token, per wanted token */
    uint64_t row_bytes[2];
    captured_pass *pass;
    size_t n_pass, n_pass_max;
    slab *slab;
    uint8_t *gathered; /* (n_thread, kv_row_bytes) */
    trace_header header;
};

/* ---- Memory ---------------------------------------------------------------------------------- */

static slab *slab_new(const greta_session *session, uint64_t bytes, int is_touched)
{
    slab *s = calloc(1, sizeof *s);
    void *data = s ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                   : MAP_FAILED;
    if (data == MAP_FAILED) {
        free(s);
        return NULL;
    }
    madvise(data, bytes, MADV_HUGEPAGE); /* only a wish */
    for (uint64_t at = 0; at < bytes && is_touched; at += 4096) {
        ((volatile uint8_t *)data)[at] = 0;
    }
    *s = (slab){.data = data, .bytes = bytes};
    s->is_pinned = session->device && device_pin(session->device, data, (size_t)bytes);
    return s;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* The last slab is filled; what is left of it is given up when a pass does not fit. */
static uint8_t *capture_take(greta_session *session, uint64_t bytes)
{
    greta_capture *c = session->capture;
    if (!c->slab || c->slab->bytes - c->slab->used < bytes) {
        slab *s = slab_new(session, bytes > SLAB_BYTES ? bytes : SLAB_BYTES, 0);
        if (!s) {
            return NULL;
        }
        s->next = c->slab;
        c->slab = s;
    }
    uint8_t *data = c->slab->data + c->slab->used;
    c->slab->used += bytes;
    c->bytes += bytes;
    return data;
}

void greta_capture_free(greta_capture *c)
{
    if (!c) {
        return;
    }
    while (c->slab) {
        slab *next = c->slab->next;
        munmap(c->slab->data, c->slab->bytes);
        free(c->slab);
        c->slab = next;
    }
    free(c->op);
    free(c->pass);
    free(c->gathered);
    free(c);
}

/* ---- Begin and end --------------------------------------------------------------------------- */

static void ops_describe(const greta_session *s, greta_capture *c)
{
    for (int32_t i = 0; i < s->healthy.n_op; i++) {
        const op *o = &s->healthy.op[i];
        const edge *e = &s->healthy.edge[o->out[0]];
        captured_op *to = &c->op[c->n_op++];
        *to = (captured_op){.name = o->name,
                            .layer = o->layer,
                            .kind = o->kind,
                            .type = edge_type(s, e),
                            .width = e->width,
                            .is_packed = e->is_packed,
                            .is_cache = e->is_cache,
                            .rows_before = {c->rows[0], c->rows[1]},
                            .bytes_before = {c->row_bytes[0], c->row_bytes[1]}};
        trace_values_bytes(to->type, to->width, &to->row_bytes);
        to->row_bytes = aligned(to->row_bytes);
        c->rows[to->is_packed]++;
        c->row_bytes[to->is_packed] += to->row_bytes;
    }
}

static greta_status capture_fill(greta_session *s, const greta_capture_options *options,
                                 greta_capture *c, greta_error *err)
{
    greta_trace_options everything = {.size = sizeof everything};
    c->has_values = options->values != 0;
    c->bytes_max = options->bytes_max ? options->bytes_max : BYTES_MAX_DEFAULT;
    c->op = calloc((size_t)s->healthy.n_op, sizeof *c->op);
    c->gathered = malloc((size_t)s->options.n_thread * s->kv_row_bytes);
    if (!c->op || !c->gathered) {
        return error_memory(err, "the capture", (uint64_t)s->healthy.n_op * sizeof *c->op);
    }
    ops_describe(s, c);
    observer_header(s, &everything, &c->header);
    if (options->bytes_ready > 0) {
        c->slab = slab_new(s, aligned(options->bytes_ready), 1);
        if (!c->slab) {
            return error_memory(err, "the capture", options->bytes_ready);
        }
    }
    return GRETA_OK;
}

/* The session has no capture any more; its device forgets the memory. */
static void capture_drop(greta_session *s)
{
    for (slab *b = s->capture ? s->capture->slab : NULL; b; b = b->next) {
        if (b->is_pinned) {
            device_unpin(s->device, b->data);
        }
        b->is_pinned = 0;
    }
    if (s->device && s->device->look.stats) {
        device_look_end(s);
    }
    s->capture = NULL;
}

void capture_abandon(greta_session *s)
{
    greta_capture *c = s->capture;
    capture_drop(s);
    greta_capture_free(c);
}

static int64_t rows_of_pass(const greta_capture *c, int64_t n_row, int64_t n_want)
{
    return c->rows[0] * n_row + c->rows[1] * n_want;
}

greta_status greta_capture_begin(greta_session *s, const greta_capture_options *options,
                                 greta_error *err)
{
    const greta_capture_options none = {.size = sizeof none};
    if (s->capture) {
        return error_set(err, GRETA_USAGE, "the session is being captured already");
    }
    greta_capture *c = calloc(1, sizeof *c);
    if (!c) {
        return error_memory(err, "the capture", sizeof *c);
    }
    greta_status status = capture_fill(s, options ? options : &none, c, err);
    if (status == GRETA_OK) {
        s->capture = c;
        status = session_replan(s, err);
    }
    if (status == GRETA_OK && s->device) {
        int64_t rows_max = rows_of_pass(c, s->options.n_chunk, s->options.n_chunk);
        status = device_look_begin(s, rows_max, err);
    }
    if (status != GRETA_OK) {
        capture_drop(s);
        greta_capture_free(c);
    }
    return status;
}

greta_status greta_capture_end(greta_session *s, greta_capture **capture, greta_error *err)
{
    *capture = s->capture;
    if (!s->capture) {
        return error_set(err, GRETA_USAGE, "the session is not being captured");
    }
    capture_drop(s);
    free((*capture)->gathered);
    (*capture)->gathered = NULL;
    return GRETA_OK;
}

/* ---- During a pass --------------------------------------------------------------------------- */

static greta_status pass_reserve(greta_capture *c, greta_error *err)
{
    if (c->n_pass < c->n_pass_max) {
        return GRETA_OK;
    }
    size_t n = c->n_pass_max ? 2 * c->n_pass_max : 64;
    captured_pass *grown = realloc(c->pass, n * sizeof *grown);
    if (!grown) {
        return error_memory(err, "the capture", n * sizeof *grown);
    }
    c->pass = grown;
    c->n_pass_max = n;
    return GRETA_OK;
}

greta_status capture_reserve(greta_session *s, const greta_batch *batch, greta_error *err)
{
    greta_capture *c = s->capture;
    captured_pass p = {.pass = s->pass, .n_row = (int64_t)batch->n, .phase = batch->phase};
    for (size_t i = 0; i < batch->n; i++) {
        p.n_want += batch->row[i].want_logits != 0;
    }
    uint64_t n = batch->n, n_stats = (uint64_t)rows_of_pass(c, p.n_row, p.n_want);
    uint64_t values =
        c->has_values ? c->row_bytes[0] * n + c->row_bytes[1] * (uint64_t)p.n_want : 0;
    uint64_t part[] = {aligned(n_stats * sizeof *p.stats),
                       aligned(values),
                       aligned(n * sizeof *p.row),
                       aligned(n * sizeof *p.prefix),
                       aligned((uint64_t)p.n_want * sizeof *p.want),
                       aligned((uint64_t)c->n_op * sizeof *p.kernel)};
    uint64_t bytes = part[0] + part[1] + part[2] + part[3] + part[4] + part[5];
    GRETA_TRY(pass_reserve(c, err));
    if (bytes > c->bytes_max - c->bytes) {
        error_hint(err, "raise bytes_max, capture fewer tokens, or capture no values");
        return error_set(err, GRETA_IO,
                         "the capture holds %" PRIu64
                         " bytes, and a pass of %zu rows takes %" PRIu64 " more than its %" PRIu64
                         " allow",
                         c->bytes, batch->n, bytes - (c->bytes_max - c->bytes), c->bytes_max);
    }
    uint8_t *at = capture_take(s, bytes);
    if (!at) {
        return error_memory(err, "the capture", bytes);
    }
    p.stats = (row_stats *)(void *)at;
    p.values = c->has_values ? at + part[0] : NULL;
    p.row = (greta_row *)(void *)(at + part[0] + part[1]);
    p.prefix = (uint64_t *)(void *)(at + part[0] + part[1] + part[2]);
    p.want = (int32_t *)(void *)(at + part[0] + part[1] + part[2] + part[3]);
    p.kernel = (const char **)(void *)(at + bytes - part[5]);
    if (c->n_pass > 0) {
        const captured_pass *last = &c->pass[c->n_pass - 1];
        p.before = last->before + rows_of_pass(c, last->n_row, last->n_want);
    }
    c->pass[c->n_pass] = p;
    return GRETA_OK;
}

void capture_pass(greta_session *s)
{
    captured_pass *p = &s->capture->pass[s->capture->n_pass++];
    for (int32_t i = 0; i < s->capture->n_op; i++) {
        p->kernel[i] = session_kernel(s, &session_list(s, s->phase)->op[i]);
    }
    memcpy(p->row, s->row, (size_t)s->n_row * sizeof *p->row);
    memcpy(p->want, s->want, (size_t)s->n_want * sizeof *p->want);
    for (int64_t t = 0; t < s->n_row; t++) {
        p->prefix[t] = s->prefix[row_slot(s, &s->row[t])];
    }
}

static int64_t stats_at(const captured_op *o, const captured_pass *p, int64_t t)
{
    return o->rows_before[0] * p->n_row + o->rows_before[1] * p->n_want + t;
}

static uint64_t values_at(const captured_op *o, const captured_pass *p, int64_t t)
{
    return o->bytes_before[0] * (uint64_t)p->n_row + o->bytes_before[1] * (uint64_t)p->n_want +
           o->row_bytes * (uint64_t)t;
}

capture_room capture_room_of(const greta_session *s, int32_t i)
{
    const greta_capture *c = s->capture;
    const captured_pass *p = &c->pass[c->n_pass - 1];
    const captured_op *o = &c->op[i];
    uint64_t bytes = 0;
    trace_values_bytes(o->type, o->width, &bytes);
    return (capture_room){
        .stats = p->stats + stats_at(o, p, 0),
        .values = p->values ? p->values + values_at(o, p, 0) : NULL,
        .stride = o->row_bytes,
        .bytes = bytes,
    };
}

row_stats *capture_stats(const greta_session *s, int64_t *n)
{
    const greta_capture *c = s->capture;
    const captured_pass *p = &c->pass[c->n_pass - 1];
    *n = rows_of_pass(c, p->n_row, p->n_want);
    return p->stats;
}

int capture_keeps_values(const greta_session *s)
{
    return s->capture->has_values;
}

static void look_at_row(const greta_session *s, int32_t i, int64_t t, uint8_t *scratch)
{
    const greta_capture *c = s->capture;
    const captured_pass *p = &c->pass[c->n_pass - 1];
    const captured_op *o = &c->op[i];
    const op *source = &session_list(s, s->phase)->op[i];
    uint8_t *kept = p->values ? p->values + values_at(o, p, t) : NULL;
    const uint8_t *row;
    if (o->is_cache) {
        uint8_t *into = kept ? kept : scratch;
        const edge *e = &session_list(s, s->phase)->edge[source->out[0]];
        cache_row(s, e, &s->row[op_row(s, source, t)], into);
        row = into;
    } else {
        rows y = rows_written(s, source, 0);
        row = rows_at(&y, t);
        if (kept) {
            uint64_t bytes = 0;
            trace_values_bytes(o->type, o->width, &bytes);
            memcpy(kept, row, bytes);
        }
    }
    row_look(s, o->type, row, o->width, &p->stats[stats_at(o, p, t)]);
}

void capture_look(const greta_session *s, span ops, int32_t thread, int32_t n_thread)
{
    const op_list *list = session_list(s, s->phase);
    int64_t n = 0, at = 0;
    uint8_t *scratch = s->capture->gathered + (size_t)thread * s->kv_row_bytes;
    for (int64_t i = ops.first; i < ops.last; i++) {
        n += op_tokens(s, &list->op[i]);
    }
    span mine = share(n, thread, n_thread);
    for (int64_t i = ops.first; i < ops.last && at < mine.last; i++) {
        int64_t n_token = op_tokens(s, &list->op[i]);
        int64_t from = mine.first > at ? mine.first - at : 0;
        for (int64_t t = from; t < n_token && at + t < mine.last; t++) {
            look_at_row(s, (int32_t)i, t, scratch);
        }
        at += n_token;
    }
}

/* ---- Afterwards ------------------------------------------------------------------------------ */

size_t greta_capture_count(const greta_capture *c)
{
    if (c->n_pass == 0) {
        return 0;
    }
    const captured_pass *last = &c->pass[c->n_pass - 1];
    return (size_t)(last->before + rows_of_pass(c, last->n_row, last->n_want));
}

uint64_t greta_capture_bytes(const greta_capture *c)
{
    return c->bytes;
}

static const captured_pass *pass_of(const greta_capture *c, int64_t i)
{
    size_t low = 0, high = c->n_pass;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (c->pass[middle].before <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &c->pass[low];
}

static const captured_op *op_of(const greta_capture *c, const captured_pass *p, int64_t i)
{
    int32_t low = 0, high = c->n_op;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (stats_at(&c->op[middle], p, 0) <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &c->op[low];
}

int greta_capture_row(const greta_capture *c, size_t index, greta_captured *out)
{
    if (index >= greta_capture_count(c)) {
        return 0;
    }
    const captured_pass *p = pass_of(c, (int64_t)index);
    int64_t i = (int64_t)index - p->before;
    const captured_op *o = op_of(c, p, i);
    int64_t t = i - stats_at(o, p, 0);
    const greta_row *row = &p->row[o->is_packed ? p->want[t] : t];
    const row_stats *stats = &p->stats[i];
    *out = (greta_captured){
        .stage = stage_name(o->name),
        .layer = o->layer,
        .token = row->token,
        .position = row->position,
        .sequence = row->sequence,
        .phase = p->phase,
        .pass = p->pass,
        .type = dtype_name(o->type),
        .n = o->width,
        .min = stats->min,
        .max = stats->max,
        .sumsq = stats->sumsq,
        .n_nonfinite = stats->n_nonfinite,
        .hash = stats->hash.ordered,
        .bag = stats->hash.bag,
        .values = p->values ? p->values + values_at(o, p, t) : NULL,
    };
    return 1;
}

/* ---- As a trace ------------------------------------------------------------------------------ */

typedef struct writing {
    const greta_capture *capture;
    const trace_selector *selector;
    trace_writer *writer;
    greta_error *err;
} writing;

static greta_status row_write(const writing *w, const captured_pass *p, const captured_op *o,
                              int64_t t)
{
    int64_t row = o->is_packed ? p->want[t] : t;
    const greta_row *r = &p->row[row];
    const row_stats *stats = &p->stats[stats_at(o, p, t)];
    int is_last = row + 1 == p->n_row || p->row[row + 1].sequence != r->sequence;
    if (!trace_selects_row(w->selector, r->position, is_last)) {
        return GRETA_OK;
    }
    trace_record record = {
        .kind = TRACE_ROW,
        .prefix = p->prefix[row],
        .token = r->token,
        .position = r->position,
        .layer = o->layer,
        .name = o->name,
        .phase = p->phase,
        .pass = p->pass,
        .chunk_rows = p->n_row,
        .sequence = r->sequence,
        .row = (int32_t)row,
        .first_position = p->row[0].position,
        .op = op_kind_name(o->kind),
        .kernel = p->kernel[o - w->capture->op],
        .n_out = 1,
        .out[0] = {.name = o->name,
                   .layer = o->layer,
                   .slot = -1,
                   .type = o->type,
                   .n = o->width,
                   .min = stats->min,
                   .max = stats->max,
                   .sumsq = stats->sumsq,
                   .n_nonfinite = stats->n_nonfinite,
                   .hash = stats->hash},
    };
    if (p->values) {
        record.out[0].data = p->values + values_at(o, p, t);
        record.out[0].n_kept = trace_selects_values(w->selector, o->width);
    }
    return trace_writer_add(w->writer, &record, w->err);
}

static greta_status pass_write(const writing *w, const captured_pass *p)
{
    for (int32_t i = 0; i < w->capture->n_op; i++) {
        const captured_op *o = &w->capture->op[i];
        if (!trace_selects_op(w->selector, o->name, o->layer, p->phase)) {
            continue;
        }
        for (int64_t t = 0; t < (o->is_packed ? p->n_want : p->n_row); t++) {
            GRETA_TRY(row_write(w, p, o, t));
        }
    }
    return GRETA_OK;
}

greta_status greta_capture_write(const greta_capture *c, const greta_trace_options *options,
                                 const char *why, greta_error *err)
{
    trace_selector *selector = NULL;
    trace_writer *writer = NULL;
    trace_header header = c->header;
    GRETA_TRY(trace_selector_new(options, header.n_layer, &selector, err));
    observer_selection(options, &header);
    greta_status status = trace_writer_new(options, &header, &writer, err);
    writing w = {c, selector, writer, err};
    for (size_t p = 0; p < c->n_pass && status == GRETA_OK; p++) {
        status = pass_write(&w, &c->pass[p]);
    }
    trace_selector_free(selector);
    if (writer) {
        greta_status ended = trace_writer_end(writer, status == GRETA_OK ? why : "interrupted",
                                              status == GRETA_OK ? err : NULL);
        status = status != GRETA_OK ? status : ended;
    }
    return status;
}
