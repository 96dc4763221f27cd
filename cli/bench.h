/* bench.h - what the parts of `greta bench` share: command_bench.c reads flags and opens the
 * model, bench_measure.c runs and takes the time, bench_report.c says what came out.
 */
#ifndef GRETA_CLI_BENCH_H
#define GRETA_CLI_BENCH_H

#include "common.h"
#include "output.h"

#define REPEAT_MAX 1000
#define CASES_MAX  8

enum { TRACE_OFF, TRACE_STATS, TRACE_FULL }; /* indices into "off|stats|full" */

typedef struct bench_args {
    session_args session;
    int64_t prompt, gen, repeat;
    const char *depth, *batch;
    int trace; /* TRACE_OFF ... */
    uint64_t seed;
    bool no_pack, probe, json;
} bench_args;

typedef struct case_range {
    int32_t min, max;
} case_range;

typedef struct case_list {
    int32_t value[CASES_MAX];
    size_t n;
} case_list;

/* One figure per run. */
typedef struct series {
    double value[REPEAT_MAX];
    size_t n;
} series;

typedef struct summary {
    double median, min, max;
} summary;

summary series_summary(const series *s);

/* Every member has one value per run. */
typedef struct timing {
    series seconds;
    series traced;         /* seconds of the same work under a trace; empty: none */
    series slower;         /* traced over untraced, of the two that stood side by side */
    uint64_t bytes_traced; /* memory that a traced run took */
} timing;

typedef struct decode_case {
    int32_t depth, batch;
    timing time;
    series before, after; /* bytes per second of the read probe */
    series share;         /* bytes of the file's weights and of KV, over time and mean probe */
    series share_packed;  /* the same with the weights as the kernels read them */
} decode_case;

typedef struct bench {
    const bench_args *args;
    case_list depth, batch;
    greta_model *model;
    char *path;
    greta_model_info info;
    greta_session *session;
    greta_session_options options;
    greta_cost cost;
    greta_probe *probe;    /* NULL: the work is a device's, and no share is taken */
    greta_row *row;        /* (n_chunk) */
    int32_t *id;           /* (n_ctx) */
    uint64_t state;        /* of the token ids */
    uint64_t bytes_traced; /* memory that the last traced run took */
    double seconds_load, seconds_session;
    uint64_t bytes_resident;
    timing prefill;
    series peak_int8, peak_fma; /* operations per second, one per prefill */
    series read;                /* bytes per second: of --probe alone */
    decode_case *decode;        /* (n_decode) */
    size_t n_decode;
} bench;

double seconds_now(void);      /* of a monotonic clock */
uint64_t resident_bytes(void); /* of this process; 0: the system does not say */

greta_status bench_measure(bench *b, greta_error *err);
void probe_measure(bench *b);
/* Bytes that the `gen` steps of a case read: the file's weights, those as read, embedding and KV.
 */
typedef struct decode_bytes {
    double weights, read, embedding, kv;
} decode_bytes;
decode_bytes decode_bytes_of(const bench *b, const decode_case *d);
/* Operations of the prefill, of 8-bit integers and of floats. */
double prefill_ops(const bench *b, const uint64_t ops[2]);

json_t *bench_json(const bench *b);
greta_status bench_print(const bench *b, greta_error *err);
json_t *probe_json(const bench *b);
greta_status probe_print(const bench *b, greta_error *err);

#endif
