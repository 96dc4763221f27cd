/* command_bench.c - `greta bench`: how fast, and what share of what this machine can do.
 *
 * A figure without its machine says little, and bandwidth of shared machines moves by a factor of
 * two within seconds. So each decode run stands between two reads of memory, right before and right
 * after, and is judged against their mean; integer and float peaks are taken before each prefill.
 * Every case is repeated; medians are printed with the least and the greatest. A traced run of the
 * same work stands beside each untraced one, not after all of them. Bytes and operations are those
 * that the model asks for (greta_session_cost), whoever computes them.
 */
#include "bench.h"
#include "commands.h"

#include <stdlib.h>
#include <string.h>

static const flag bench_flags[] = {
    {.name = "--prompt",
     .kind = FLAG_WHOLE,
     .value = "N",
     .max = POSITIONS_MAX,
     .offset = offsetof(bench_args, prompt),
     .help = "tokens to prefill; default 512, 0: none"},
    {.name = "--gen",
     .kind = FLAG_WHOLE,
     .value = "N",
     .max = POSITIONS_MAX,
     .offset = offsetof(bench_args, gen),
     .help = "tokens to decode; default 64, 0: none"},
    {.name = "--depth",
     .kind = FLAG_TEXT,
     .value = "LIST",
     .offset = offsetof(bench_args, depth),
     .help = "positions cached before decode, 0,2048; default 0"},
    {.name = "--batch",
     .kind = FLAG_TEXT,
     .value = "LIST",
     .offset = offsetof(bench_args, batch),
     .help = "sequences decoded together, 1,8; default 1"},
    {.name = "--repeat",
     .kind = FLAG_WHOLE,
     .value = "N",
     .min = 1,
     .max = REPEAT_MAX,
     .offset = offsetof(bench_args, repeat),
     .help = "runs of each case; default 5"},
    {.name = "--trace",
     .kind = FLAG_CHOICE,
     .value = "off|stats|full",
     .offset = offsetof(bench_args, trace),
     .help = "time the same work with statistics and hash, or all values, of every tensor kept"},
    {.name = "--no-pack",
     .kind = FLAG_SWITCH,
     .offset = offsetof(bench_args, no_pack),
     .help = "run from the mapped file, without a second copy of the weights"},
    {.name = "--probe",
     .kind = FLAG_SWITCH,
     .offset = offsetof(bench_args, probe),
     .help = "no model: only what this machine can do"},
    {.name = "--seed",
     .kind = FLAG_SEED,
     .value = "N",
     .offset = offsetof(bench_args, seed),
     .help = "of the token ids; default 0"},
    {.name = "--json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(bench_args, json),
     .help = "as a JSON object"},
};

/* "0,2048" as numbers. */
static greta_status list_parse(const char *name, const char *text, const case_range *range,
                               case_list *out, greta_error *err)
{
    char q[QUOTED_MAX];
    out->n = 0;
    for (const char *part = text;; part++) {
        size_t bytes = strcspn(part, ",");
        uint64_t value;
        if (!args_whole(part, bytes, &value) || value < (uint64_t)range->min ||
            value > (uint64_t)range->max) {
            return fail(err, GRETA_USAGE, "%s \"%s\" is not a whole number from %d to %d", name,
                        quoted(part, bytes, q), range->min, range->max);
        }
        if (out->n == CASES_MAX) {
            return fail(err, GRETA_USAGE, "%s lists more than %d cases", name, CASES_MAX);
        }
        out->value[out->n++] = (int32_t)value;
        part += bytes;
        if (!*part) {
            return GRETA_OK;
        }
    }
}

static int32_t list_max(const case_list *list)
{
    int32_t max = 0;
    for (size_t i = 0; i < list->n; i++) {
        max = list->value[i] > max ? list->value[i] : max;
    }
    return max;
}

/* The session holds the longest case of the most sequences. */
static greta_status bench_open(bench *b, const char *model, greta_error *err)
{
    const bench_args *args = b->args;
    int64_t positions = list_max(&b->depth) + args->gen;
    model_args name = {model};
    positions = positions > args->prompt ? positions : args->prompt;
    greta_session_options wanted = session_options(&args->session);
    if (args->session.ctx && args->session.ctx < positions) {
        return fail(err, GRETA_USAGE, "--ctx %lld is shorter than the longest case, %lld",
                    (long long)args->session.ctx, (long long)positions);
    }
    if (positions > POSITIONS_MAX) {
        return fail(err, GRETA_USAGE, "--depth and --gen reach beyond %d positions", POSITIONS_MAX);
    }
    wanted.n_ctx = args->session.ctx ? wanted.n_ctx : (int32_t)positions;
    wanted.n_sequence = list_max(&b->batch);
    wanted.no_pack = args->no_pack;
    double start = seconds_now();
    greta_status status = model_load(&name, &b->model, &b->path, err);
    b->seconds_load = seconds_now() - start;
    if (status) {
        return status;
    }
    b->info = greta_model_describe(b->model);
    start = seconds_now();
    status = greta_session_new(b->model, &wanted, &b->session, err);
    b->seconds_session = seconds_now() - start;
    if (status) {
        return status;
    }
    b->options = greta_session_describe(b->session);
    b->cost = greta_session_cost(b->session);
    b->bytes_resident = resident_bytes();
    if (list_max(&b->batch) > b->options.n_chunk) {
        return fail(err, GRETA_USAGE, "--batch %d is more than --chunk %d", list_max(&b->batch),
                    b->options.n_chunk);
    }
    b->row = malloc((size_t)b->options.n_chunk * sizeof *b->row);
    b->id = malloc((size_t)b->options.n_ctx * sizeof *b->id);
    if (!b->row || !b->id) {
        return fail_memory(err);
    }
    if (strcmp(b->options.device, "cpu") != 0) {
        return GRETA_OK; /* the probes are of this CPU, and say nothing of the device */
    }
    return greta_probe_new(b->options.n_thread, b->options.cpu, &b->probe, err);
}

static void bench_close(bench *b)
{
    greta_probe_free(b->probe);
    greta_session_free(b->session);
    greta_model_release(b->model);
    free(b->path);
    free(b->row);
    free(b->id);
    free(b->decode);
}

static greta_status bench_model(bench *b, const command_line *line, greta_error *err)
{
    static const case_range depths = {0, POSITIONS_MAX}, batches = {1, 1024};
    const bench_args *args = b->args;
    greta_status status = list_parse("--depth", args->depth, &depths, &b->depth, err);
    if (!status) {
        status = list_parse("--batch", args->batch, &batches, &b->batch, err);
    }
    if (!status && line->n_operand == 0) {
        status = fail(err, GRETA_USAGE, "bench needs NAME|FILE, or --probe");
        fail_hint(err, "see greta bench --help");
    }
    if (!status && args->prompt == 0 && args->gen == 0) {
        status = fail(err, GRETA_USAGE, "--prompt 0 and --gen 0 leave nothing to measure");
    }
    if (!status) {
        status = bench_open(b, line->operand[0], err);
    }
    if (!status) {
        status = bench_measure(b, err);
    }
    if (!status && !signals_seen()) {
        status = args->json ? output_json(bench_json(b), err) : bench_print(b, err);
    }
    return status;
}

static greta_status probe_alone(bench *b, const command_line *line, greta_error *err)
{
    const session_args *args = &b->args->session;
    if (line->n_operand > 0) {
        return fail(err, GRETA_USAGE, "--probe measures the machine and takes no model");
    }
    greta_status status = greta_probe_new((int32_t)args->threads, args->cpu, &b->probe, err);
    if (!status) {
        probe_measure(b);
    }
    if (!status && !signals_seen()) {
        status = b->args->json ? output_json(probe_json(b), err) : probe_print(b, err);
    }
    return status;
}

int command_bench(int argc, char **argv, greta_error *err)
{
    bench_args args = {.prompt = 512, .gen = 64, .depth = "0", .batch = "1", .repeat = 5};
    bench b = {.args = &args};
    flag_group group[] = {
        {"Measurement", bench_flags, COUNT_OF(bench_flags), &args},
        session_group(&args.session),
    };
    command_line line = {
        .name = "bench",
        .usage = "NAME|FILE | --probe",
        .group = group,
        .n_group = COUNT_OF(group),
        .n_operand_min = 0,
        .n_operand_max = 1,
        .summary =
            "Measures prefill and decode with random tokens, and what share they are of the\n"
            "machine's read bandwidth and arithmetic peaks, measured in the same run\n"
            "(docs/benchmarks.md).",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    signals_catch();
    status = args.probe ? probe_alone(&b, &line, err) : bench_model(&b, &line, err);
    bench_close(&b);
    return status ? (int)status : signals_seen() ? 128 + signals_seen() : GRETA_OK;
}
