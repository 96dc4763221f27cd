/* bench_report.c - what `greta bench` says: a table, or one JSON object with every run in it.
 *
 * The table has medians with the least and the greatest run. The object has the times of all runs,
 * and every figure that a share is computed from, so that a reader can compute it again.
 */
#include "bench.h"

#include <string.h>

/* Tokens per second, or any work over its seconds: the least of one is the most of the other. */
static summary rate_of(double amount, const series *seconds)
{
    summary s = series_summary(seconds);
    return (summary){amount / s.median, amount / s.max, amount / s.min};
}

static double prefill_share(const bench *b, const uint64_t ops[2], const series *peak)
{
    double rate = prefill_ops(b, ops) / series_summary(&b->prefill.seconds).median;
    return rate / series_summary(peak).median;
}

static double decode_tokens(const bench *b, const decode_case *d)
{
    return (double)b->args->gen * d->batch;
}

/* Tokens per second of all sequences over those of one at the same depth; 0: one was not run. */
static double over_one(const bench *b, const decode_case *d)
{
    for (size_t i = 0; i < b->n_decode; i++) {
        const decode_case *one = &b->decode[i];
        if (one->depth == d->depth && one->batch == 1 && d->batch > 1) {
            return rate_of(decode_tokens(b, d), &d->time.seconds).median /
                   rate_of(decode_tokens(b, one), &one->time.seconds).median;
        }
    }
    return 0;
}

/* The brand alone: what greta_cpu_describe says before the list of kernels. */
static const char *cpu_brand(char text[512])
{
    greta_cpu_describe(text, 512);
    char *end = strrchr(text, ';');
    if (end) {
        *end = '\0';
    }
    return text;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *json_summary(summary s)
{
    return json_pack("{s:o, s:o, s:o}", "median", json_number(s.median), "min", json_number(s.min),
                     "max", json_number(s.max));
}

static json_t *json_series(const series *s)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < s->n; i++) {
        if (json_array_append_new(list, json_number(s->value[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *json_trace(const bench *b, const timing *t)
{
    return b->args->trace == TRACE_OFF ? json_null()
                                       : json_pack("{s:s, s:o, s:o, s:I}", "kind",
                                                   b->args->trace == TRACE_FULL ? "full" : "stats",
                                                   "seconds", json_series(&t->traced), "slower",
                                                   json_summary(series_summary(&t->slower)),
                                                   "bytes", (json_int_t)t->bytes_traced);
}

static json_t *json_peak(const bench *b, greta_probe_kind kind, const series *rates)
{
    return rates->n == 0 ? json_null()
                         : json_pack("{s:s, s:o}", "name", greta_probe_name(b->probe, kind),
                                     "per_second", json_summary(series_summary(rates)));
}

static json_t *json_share(const series *share)
{
    return share->n == 0 ? json_null() : json_summary(series_summary(share));
}

/* null: a device's work, of which this machine's probes say nothing. */
static json_t *json_machine(const bench *b)
{
    return !b->probe
               ? json_null()
               : json_pack("{s:s, s:o, s:o}", "read", greta_probe_name(b->probe, GRETA_PROBE_READ),
                           "int8", json_peak(b, GRETA_PROBE_INT8, &b->peak_int8), "fma",
                           json_peak(b, GRETA_PROBE_FMA, &b->peak_fma));
}

static json_t *json_prefill(const bench *b)
{
    const greta_cost *cost = &b->cost;
    double int8 = prefill_ops(b, cost->ops_int8), other = prefill_ops(b, cost->ops_float);
    if (b->prefill.seconds.n == 0) {
        return json_null();
    }
    return json_pack(
        "{s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "n", (json_int_t)b->args->prompt, "seconds",
        json_series(&b->prefill.seconds), "tokens_per_second",
        json_summary(rate_of((double)b->args->prompt, &b->prefill.seconds)), "ops_int8",
        json_number(int8), "ops_fma", json_number(other), "share_int8",
        int8 > 0 && b->probe ? json_number(prefill_share(b, cost->ops_int8, &b->peak_int8))
                             : json_null(),
        "share_fma",
        other > 0 && b->probe ? json_number(prefill_share(b, cost->ops_float, &b->peak_fma))
                              : json_null(),
        "trace", json_trace(b, &b->prefill));
}

static json_t *json_decode_case(const bench *b, const decode_case *d)
{
    decode_bytes bytes = decode_bytes_of(b, d);
    double ratio = over_one(b, d);
    return json_pack("{s:i, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "depth", d->depth, "batch", d->batch, "n", (json_int_t)b->args->gen, "seconds",
                     json_series(&d->time.seconds), "tokens_per_second",
                     json_summary(rate_of(decode_tokens(b, d), &d->time.seconds)), "over_one",
                     ratio > 0 ? json_number(ratio) : json_null(), "bytes_weights",
                     json_number(bytes.weights + bytes.embedding), "bytes_read",
                     json_number(bytes.read + bytes.embedding), "bytes_kv", json_number(bytes.kv),
                     "read_before", json_series(&d->before), "read_after", json_series(&d->after),
                     "share", json_share(&d->share), "share_packed", json_share(&d->share_packed),
                     "trace", json_trace(b, &d->time));
}

static json_t *json_decode(const bench *b)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < b->n_decode; i++) {
        if (json_array_append_new(list, json_decode_case(b, &b->decode[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *json_model(const bench *b)
{
    const greta_cost *c = &b->cost;
    return json_pack(
        "{s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "file",
        json_text(b->path, strlen(b->path)), "name", json_text(b->info.name, strlen(b->info.name)),
        "arch", b->info.arch, "n_parameters", (json_int_t)b->info.n_parameters, "bytes",
        (json_int_t)b->info.bytes_weights, "bytes_weights_per_token",
        (json_int_t)(c->bytes_weights + c->bytes_embedding), "bytes_read_per_token",
        (json_int_t)(c->bytes_read + c->bytes_embedding), "bytes_kv_per_position",
        (json_int_t)c->bytes_kv, "ops_per_token", (json_int_t)(c->ops_int8[1] + c->ops_float[1]));
}

json_t *bench_json(const bench *b)
{
    const greta_session_options *o = &b->options;
    char cpu[512];
    cpu_brand(cpu);
    return json_pack(
        "{s:s, s:i, s:o, s:s, s:s, s:i, s:s, s:s, s:b, s:i, s:i, s:I, s:o, s:o, s:o, s:o, "
        "s:{s:I, s:I, s:I, s:I}, s:o, s:o, s:o}",
        "greta", greta_version().library, "arithmetic", greta_version().arithmetic, "cpu",
        json_text(cpu, strlen(cpu)), "kernels", o->cpu, "device", o->device, "threads", o->n_thread,
        "kv", o->kv == GRETA_KV_F32 ? "f32" : "f16", "act", o->act == GRETA_ACT_F32 ? "f32" : "q8",
        "packed", b->cost.memory_packed > 0, "n_ctx", o->n_ctx, "n_chunk", o->n_chunk, "repeat",
        (json_int_t)b->args->repeat, "seed",
        json_sprintf("%llu", (unsigned long long)b->args->seed), "model", json_model(b),
        "seconds_load", json_number(b->seconds_load), "seconds_session",
        json_number(b->seconds_session), "memory", "resident", (json_int_t)b->bytes_resident,
        "packed", (json_int_t)b->cost.memory_packed, "kv", (json_int_t)b->cost.memory_kv, "buffers",
        (json_int_t)b->cost.memory_buffers, "machine", json_machine(b), "prefill", json_prefill(b),
        "decode", json_decode(b));
}

json_t *probe_json(const bench *b)
{
    char cpu[512];
    cpu_brand(cpu);
    return json_pack("{s:s, s:o, s:i, s:{s:o, s:o, s:o}}", "greta", greta_version().library, "cpu",
                     json_text(cpu, strlen(cpu)), "threads", greta_probe_threads(b->probe),
                     "machine", "read", json_peak(b, GRETA_PROBE_READ, &b->read), "int8",
                     json_peak(b, GRETA_PROBE_INT8, &b->peak_int8), "fma",
                     json_peak(b, GRETA_PROBE_FMA, &b->peak_fma));
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_machine(const bench *b)
{
    const greta_session_options *o = &b->options;
    char text[512], q[QUOTED_MAX], size[5][32];
    printf("greta %s, %s, kernels %s, device %s, threads %d, act %s, kv %s\n",
           greta_version().library, cpu_brand(text), o->cpu, o->device, o->n_thread,
           o->act == GRETA_ACT_F32 ? "f32" : "q8", o->kv == GRETA_KV_F32 ? "f32" : "f16");
    printf("model    %s: %.1f M parameters, weights %s\n",
           quoted(b->info.name, strlen(b->info.name), q), (double)b->info.n_parameters / 1e6,
           bytes_text(b->info.bytes_weights, size[0]));
    printf("load     %.3f s; session with packing %.3f s\n", b->seconds_load, b->seconds_session);
    printf("memory   %s resident; packed weights %s, KV %s, buffers %s\n",
           bytes_text(b->bytes_resident, size[0]), bytes_text(b->cost.memory_packed, size[1]),
           bytes_text(b->cost.memory_kv, size[2]), bytes_text(b->cost.memory_buffers, size[3]));
    printf("a token  reads %s of weights (%s as packed) and %s of KV per position seen\n",
           bytes_text(b->cost.bytes_weights + b->cost.bytes_embedding, size[0]),
           bytes_text(b->cost.bytes_read + b->cost.bytes_embedding, size[1]),
           bytes_text(b->cost.bytes_kv, size[2]));
    if (b->prefill.seconds.n > 0 && b->probe) {
        printf("peaks    %.1f int8 Gop/s (%s), %.1f f32 Gflop/s (%s)\n",
               series_summary(&b->peak_int8).median / 1e9,
               greta_probe_name(b->probe, GRETA_PROBE_INT8),
               series_summary(&b->peak_fma).median / 1e9,
               greta_probe_name(b->probe, GRETA_PROBE_FMA));
    }
}

static void print_rate(const char *what, summary rate)
{
    printf("%-26s %9.2f tokens/s  (%.2f to %.2f)", what, rate.median, rate.min, rate.max);
}

static void print_traced(const bench *b, const timing *t)
{
    if (b->args->trace != TRACE_OFF) {
        summary s = series_summary(&t->slower);
        char size[32];
        printf("  %-24s %9.3f times the untraced  (%.3f to %.3f), %s\n",
               b->args->trace == TRACE_FULL ? "every value kept" : "statistics, hashes", s.median,
               s.min, s.max, bytes_text(t->bytes_traced, size));
    }
}

static void print_prefill(const bench *b)
{
    const greta_cost *c = &b->cost;
    char what[64];
    snprintf(what, sizeof what, "prefill %lld", (long long)b->args->prompt);
    print_rate(what, rate_of((double)b->args->prompt, &b->prefill.seconds));
    if (c->ops_int8[1] > 0 && b->probe) {
        printf("  %.1f %% of int8 peak", 100 * prefill_share(b, c->ops_int8, &b->peak_int8));
    }
    if (c->ops_float[1] > 0 && b->probe) {
        printf("  %.1f %% of FMA peak", 100 * prefill_share(b, c->ops_float, &b->peak_fma));
    }
    printf("\n");
    print_traced(b, &b->prefill);
}

/* Of what memory could have given, and what that was. */
static void print_share(const decode_case *d, const decode_bytes *bytes)
{
    summary share = series_summary(&d->share);
    printf("; share of read %.3f (%.3f to %.3f)", share.median, share.min, share.max);
    if (bytes->read > bytes->weights || bytes->read < bytes->weights) {
        printf(", %.3f as packed", series_summary(&d->share_packed).median);
    }
    printf("\n  %-24s %9.2f GB/s before, %.2f after", "read of memory",
           series_summary(&d->before).median / 1e9, series_summary(&d->after).median / 1e9);
}

static void print_decode(const bench *b, const decode_case *d)
{
    decode_bytes bytes = decode_bytes_of(b, d);
    double seconds = series_summary(&d->time.seconds).median, ratio = over_one(b, d);
    char what[64];
    snprintf(what, sizeof what, "decode %lld at %d%s", (long long)b->args->gen, d->depth,
             d->batch > 1 ? "" : " ");
    if (d->batch > 1) {
        snprintf(what, sizeof what, "decode %lld at %d, batch %d", (long long)b->args->gen,
                 d->depth, d->batch);
    }
    print_rate(what, rate_of(decode_tokens(b, d), &d->time.seconds));
    if (ratio > 0) {
        printf("  %.2f times one", ratio);
    }
    printf("\n  %-24s %9.2f GB/s weights, %.2f KV", "",
           (bytes.weights + bytes.embedding) / seconds / 1e9, bytes.kv / seconds / 1e9);
    if (b->probe) {
        print_share(d, &bytes);
    }
    printf("\n");
    print_traced(b, &d->time);
}

greta_status bench_print(const bench *b, greta_error *err)
{
    print_machine(b);
    if (b->prefill.seconds.n > 0) {
        print_prefill(b);
    }
    for (size_t i = 0; i < b->n_decode; i++) {
        print_decode(b, &b->decode[i]);
    }
    return output_flush(err);
}

static void print_probe(const bench *b, greta_probe_kind kind, const series *rates)
{
    static const char *const what[] = {"GB/s read", "int8 Gop/s", "f32 Gflop/s"};
    summary s = series_summary(rates);
    printf("%9.1f %-11s  (%.1f to %.1f)  %s\n", s.median / 1e9, what[kind], s.min / 1e9,
           s.max / 1e9, greta_probe_name(b->probe, kind));
}

greta_status probe_print(const bench *b, greta_error *err)
{
    char text[512];
    printf("%s, threads %d\n", cpu_brand(text), greta_probe_threads(b->probe));
    print_probe(b, GRETA_PROBE_READ, &b->read);
    print_probe(b, GRETA_PROBE_INT8, &b->peak_int8);
    print_probe(b, GRETA_PROBE_FMA, &b->peak_fma);
    return output_flush(err);
}
