/* bench_measure.c - the runs of `greta bench` and their times.
 *
 * A case is prepared once (positions cached, sequences forked) and run `repeat` times, each time
 * from the same state and with other tokens, after one run that is not counted. What the clock
 * sees is greta_session_eval alone: drawing tokens, dropping positions and making room for a trace
 * stand outside. Within a repetition the traced run comes before the untraced one every other time,
 * so that a machine that gets slower or faster favours neither.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t resident_bytes(void)
{
    unsigned char text[128];
    uint64_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "re"); /* size resident ... */
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    text[n] = '\0';
    const char *second = strchr((const char *)text, ' ');
    if (second && args_whole(second + 1, strcspn(second + 1, " "), &pages)) {
        return pages * (uint64_t)sysconf(_SC_PAGESIZE);
    }
    return 0;
}

static int value_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

summary series_summary(const series *s)
{
    double sorted[REPEAT_MAX];
    size_t n = s->n;
    if (n == 0) {
        return (summary){0};
    }
    memcpy(sorted, s->value, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, value_order);
    return (summary){(sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0], sorted[n - 1]};
}

static void series_add(series *s, double value)
{
    s->value[s->n++] = value;
}

/* splitmix64: any token may follow any other. */
static int32_t token_draw(bench *b)
{
    uint64_t z = (b->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (int32_t)((z ^ (z >> 31)) % (uint64_t)b->info.n_vocab);
}

static double probe_rate(bench *b, greta_probe_kind kind)
{
    double start = seconds_now();
    double work = greta_probe_run(b->probe, kind);
    return work / (seconds_now() - start);
}

/* ---- Work that is timed ---------------------------------------------------------------------- */

typedef struct work {
    bench *b;
    const decode_case *decode; /* NULL: prefill */
} work;

static void tokens_draw(bench *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        b->id[i] = token_draw(b);
    }
}

static greta_status prefill_time(bench *b, double *seconds, greta_error *err)
{
    tokens_draw(b, b->args->prompt);
    greta_status status = greta_session_drop(b->session, 0, 0, err);
    double start = seconds_now();
    if (!status) {
        status = greta_session_feed(b->session, b->id, (size_t)b->args->prompt, 0, err);
    }
    *seconds = seconds_now() - start;
    return status;
}

static greta_status decode_time(bench *b, const decode_case *d, double *seconds, greta_error *err)
{
    greta_status status = GRETA_OK;
    greta_batch batch = {.row = b->row, .n = (size_t)d->batch, .phase = GRETA_PHASE_DECODE};
    for (int32_t s = 0; s < d->batch && !status; s++) {
        status = greta_session_drop(b->session, s, d->depth, err);
    }
    *seconds = 0;
    for (int64_t i = 0; i < b->args->gen && !status && !signals_seen(); i++) {
        for (int32_t s = 0; s < d->batch; s++) {
            b->row[s] = (greta_row){.token = token_draw(b),
                                    .position = d->depth + (int32_t)i,
                                    .sequence = s,
                                    .want_logits = 1};
        }
        double start = seconds_now();
        status = greta_session_eval(b->session, &batch, err);
        *seconds += seconds_now() - start;
    }
    return status;
}

static greta_status work_time(const work *w, double *seconds, greta_error *err)
{
    return w->decode ? decode_time(w->b, w->decode, seconds, err)
                     : prefill_time(w->b, seconds, err);
}

/* ---- The same with every tensor looked at ---------------------------------------------------- */

/* The memory of a capture is there before the clock runs, as much as the run before it took. */
static greta_status traced_time(const work *w, double *seconds, greta_error *err)
{
    bench *b = w->b;
    greta_capture *capture = NULL;
    greta_capture_options options = {.size = sizeof options,
                                     .values = b->args->trace == TRACE_FULL,
                                     .bytes_ready = b->bytes_traced};
    greta_status status = greta_capture_begin(b->session, &options, err);
    if (status) {
        return status;
    }
    status = work_time(w, seconds, err);
    greta_status end = greta_capture_end(b->session, &capture, err);
    if (!status && !end) {
        b->bytes_traced = greta_capture_bytes(capture);
    }
    greta_capture_free(capture);
    return status ? status : end;
}

/* One repetition; `is_odd` turns the order of the two runs. */
static greta_status pair_time(const work *w, timing *t, bool is_odd, greta_error *err)
{
    double seconds[2] = {0, 0};
    bool is_traced = w->b->args->trace != TRACE_OFF;
    greta_status status = GRETA_OK;
    for (int i = 0; i < 2 && !status; i++) {
        bool is_trace_turn = (i == 0) == is_odd;
        if (!is_trace_turn) {
            status = work_time(w, &seconds[0], err);
        } else if (is_traced) {
            status = traced_time(w, &seconds[1], err);
        }
    }
    if (!status && !signals_seen()) {
        series_add(&t->seconds, seconds[0]);
        if (is_traced) {
            series_add(&t->traced, seconds[1]);
            series_add(&t->slower, seconds[1] / seconds[0]);
        }
    }
    return status;
}

/* The run that is not counted. */
static greta_status work_warm(const work *w, greta_error *err)
{
    double seconds;
    w->b->bytes_traced = 0;
    greta_status status = work_time(w, &seconds, err);
    return status || w->b->args->trace == TRACE_OFF ? status : traced_time(w, &seconds, err);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

double prefill_ops(const bench *b, const uint64_t ops[2])
{
    return (double)ops[0] * (double)(b->args->prompt - 1) + (double)ops[1];
}

decode_bytes decode_bytes_of(const bench *b, const decode_case *d)
{
    double steps = (double)b->args->gen, batch = d->batch;
    /* The token at position p sees p + 1. */
    double seen = steps * d->depth + steps * (steps + 1) / 2;
    return (decode_bytes){
        .weights = steps * (double)b->cost.bytes_weights,
        .read = steps * (double)b->cost.bytes_read,
        .embedding = steps * batch * (double)b->cost.bytes_embedding,
        .kv = batch * seen * (double)b->cost.bytes_kv,
    };
}

static greta_status prefill_measure(bench *b, greta_error *err)
{
    work w = {b, NULL};
    greta_status status = work_warm(&w, err);
    for (int64_t i = 0; i < b->args->repeat && !status && !signals_seen(); i++) {
        if (b->probe) {
            series_add(&b->peak_int8, probe_rate(b, GRETA_PROBE_INT8));
            series_add(&b->peak_fma, probe_rate(b, GRETA_PROBE_FMA));
        }
        status = pair_time(&w, &b->prefill, i & 1, err);
        progress("prefill", (uint64_t)i + 1, (uint64_t)b->args->repeat);
    }
    b->prefill.bytes_traced = b->bytes_traced;
    return status;
}

/* Caches `depth` positions in every sequence of the case. */
static greta_status decode_prepare(bench *b, const decode_case *d, greta_error *err)
{
    greta_status status = GRETA_OK;
    for (int32_t s = 0; s < b->options.n_sequence && !status; s++) {
        status = greta_session_drop(b->session, s, 0, err);
    }
    tokens_draw(b, d->depth);
    if (!status && d->depth > 0) {
        status = greta_session_feed(b->session, b->id, (size_t)d->depth, 0, err);
    }
    for (int32_t s = 1; s < d->batch && d->depth > 0 && !status; s++) {
        status = greta_session_fork(b->session, 0, s, err);
    }
    return status;
}

static greta_status decode_measure(bench *b, decode_case *d, greta_error *err)
{
    work w = {b, d};
    char what[64];
    snprintf(what, sizeof what, "decode, depth %d, batch %d", d->depth, d->batch);
    progress(what, 0, (uint64_t)b->args->repeat);
    greta_status status = decode_prepare(b, d, err);
    if (!status) {
        status = work_warm(&w, err);
    }
    for (int64_t i = 0; i < b->args->repeat && !status && !signals_seen(); i++) {
        double before = b->probe ? probe_rate(b, GRETA_PROBE_READ) : 0;
        status = pair_time(&w, &d->time, i & 1, err);
        double after = b->probe ? probe_rate(b, GRETA_PROBE_READ) : 0;
        if (b->probe && !status && d->time.seconds.n > d->before.n) {
            decode_bytes bytes = decode_bytes_of(b, d);
            double possible = (before + after) / 2 * d->time.seconds.value[d->before.n];
            series_add(&d->before, before);
            series_add(&d->after, after);
            series_add(&d->share, (bytes.weights + bytes.embedding + bytes.kv) / possible);
            series_add(&d->share_packed, (bytes.read + bytes.embedding + bytes.kv) / possible);
        }
        progress(what, (uint64_t)i + 1, (uint64_t)b->args->repeat);
    }
    d->time.bytes_traced = b->bytes_traced;
    return status;
}

greta_status bench_measure(bench *b, greta_error *err)
{
    greta_status status = GRETA_OK;
    b->state = b->args->seed;
    if (b->args->prompt > 0) {
        status = prefill_measure(b, err);
    }
    if (!status && b->args->gen > 0) {
        b->decode = calloc(b->depth.n * b->batch.n, sizeof *b->decode);
        status = b->decode ? GRETA_OK : fail_memory(err);
    }
    for (size_t d = 0; d < b->depth.n && b->decode; d++) {
        for (size_t s = 0; s < b->batch.n && !status && !signals_seen(); s++) {
            decode_case *one = &b->decode[b->n_decode++];
            one->depth = b->depth.value[d];
            one->batch = b->batch.value[s];
            status = decode_measure(b, one, err);
        }
    }
    return status;
}

void probe_measure(bench *b)
{
    for (int64_t i = 0; i < b->args->repeat && !signals_seen(); i++) {
        series_add(&b->read, probe_rate(b, GRETA_PROBE_READ));
        series_add(&b->peak_int8, probe_rate(b, GRETA_PROBE_INT8));
        series_add(&b->peak_fma, probe_rate(b, GRETA_PROBE_FMA));
    }
}
