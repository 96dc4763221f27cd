/* norm_rig.h - two runs of a tiny model's norms, as traces in memory, without an engine.
 *
 * Run A is a prefill of all positions (pass 0); run B prefills all but the last (pass 0) and
 * decodes it (pass 1). Rows are a pure function of (stage, layer, position), so both runs hold the
 * same bits until a test changes a record. The norm here is scalar code of its own, written from
 * the text of the arithmetic, and shares nothing with kernels, faults or replay.
 */
#ifndef GRETA_TESTS_NORM_RIG_H
#define GRETA_TESTS_NORM_RIG_H

#include "explain/norm.h"
#include "replay/norm_replay.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define RIG_N 96
#define RIG_LAYERS 3
#define RIG_POSITIONS 6
#define RIG_LAST (RIG_POSITIONS - 1)
#define RIG_LAYER 1
#define RIG_EPS 1e-5f
#define RIG_RECORDS 32

/* Uniform in [-1, 1), a function of its arguments. */
static inline float rig_uniform(uint32_t a, uint32_t b)
{
    uint64_t z = ((uint64_t)a << 32 | b) + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(int32_t)(z >> 32) * 0x1p-31f;
}

static inline uint32_t rig_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc00000u : bits;
}

static inline row_hash rig_hash(const float *x, int64_t n)
{
    row_hash hash = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        hash_word(&hash, (uint64_t)i, rig_bits(x[i]));
    }
    return hash;
}

/* The row that (stage, layer) writes at a position: rms about 0.06, so that eps 1e-5 counts. */
static inline void rig_row(stage name, int32_t layer, int32_t position, float *x)
{
    for (uint32_t i = 0; i < RIG_N; i++) {
        uint32_t key = (uint32_t)name * 1000u + (uint32_t)(layer + 1) * 100u + (uint32_t)position;
        x[i] = 0.1f * rig_uniform(key, i) + 0.01f;
    }
}

static inline void rig_weight(stage name, int32_t layer, float *w)
{
    for (uint32_t i = 0; i < RIG_N; i++) {
        w[i] = 1.0f + 0.5f * rig_uniform((uint32_t)name * 7919u + (uint32_t)(layer + 1), i);
    }
}

/* Rounded squares, groups of 64 halved by stride, groups in index order. */
static inline float rig_sumsq(const float *x, int64_t n)
{
    float total = 0;
    for (int64_t first = 0; first < n; first += 64) {
        float s[64] = {0};
        for (int64_t i = first; i < n && i < first + 64; i++) {
            s[i - first] = x[i] * x[i];
        }
        for (int stride = 32; stride > 0; stride /= 2) {
            for (int i = 0; i < stride; i++) {
                s[i] += s[i + stride];
            }
        }
        total = first == 0 ? s[0] : total + s[0];
    }
    return total;
}

static inline float rig_inverse(float sumsq, int64_t count, float eps)
{
    float mean = sumsq / (float)count;
    float root = sqrtf(mean + eps);
    return 1.0f / root;
}

static inline void rig_scale(const float *x, float inverse, const float *w, float *y)
{
    for (int i = 0; i < RIG_N; i++) {
        float scaled = x[i] * inverse;
        y[i] = scaled * w[i];
    }
}

typedef struct rig_side {
    trace trace;
    trace_record record[RIG_RECORDS];
    row_hash index[RIG_RECORDS][RIG_POSITIONS];
    float x[RIG_N], w[RIG_N], y[RIG_N]; /* of the judged norm, as recorded */
    trace_record *norm;
} rig_side;

typedef struct rig {
    rig_side side[SIDE_COUNT];
    trace_buffer buffer[2];
    norm_case c;
    norm_evidence evidence[SIDE_COUNT];
    finding f;
} rig;

static inline trace_tensor rig_tensor(stage name, int32_t layer, const float *values)
{
    trace_tensor t = {.name = name, .layer = layer, .buffer = "b0", .slot = -1, .type = DTYPE_F32,
                      .n = RIG_N, .n_kept = RIG_N, .data = values};
    t.sumsq = rig_sumsq(values, RIG_N);
    t.hash = rig_hash(values, RIG_N);
    for (int i = 0; i < RIG_N; i++) {
        t.n_nonfinite += isfinite(values[i]) ? 0 : 1;
    }
    return t;
}

/* Takes the record's hashes, sums and counts from the values again, after a test changed them. */
static inline void rig_refresh(rig_side *s)
{
    trace_record *r = s->norm;
    r->in[0] = rig_tensor(r->in[0].name, r->in[0].layer, s->x);
    r->out[0] = rig_tensor(r->name, r->layer, s->y);
    r->weight[0] = rig_tensor(STAGE_NONE, -1, s->w);
    snprintf(r->weight[0].tensor, TRACE_NAME_MAX, "blk.%d.ffn_norm.weight", (int)r->layer);
}

/* The norm as it stands: healthy formula on what the record says was read and given. */
static inline void rig_compute(rig_side *s)
{
    trace_record *r = s->norm;
    r->inv_rms = rig_inverse(rig_sumsq(s->x, RIG_N), r->count, r->eps);
    rig_scale(s->x, r->inv_rms, s->w, s->y);
    rig_refresh(s);
}

static inline trace_record *rig_add(rig_side *s, trace_record record)
{
    trace_record *r = &s->record[s->trace.n_record++];
    *r = record;
    return r;
}

static inline void rig_add_index(rig_side *s, stage name, int32_t layer, int64_t pass,
                                 int32_t first, int32_t n)
{
    row_hash *hash = s->index[s->trace.n_record];
    for (int32_t i = 0; i < n; i++) {
        float x[RIG_N];
        rig_row(name, layer, first + i, x);
        hash[i] = rig_hash(x, RIG_N);
    }
    trace_record r = {.kind = TRACE_INDEX, .name = name, .layer = layer, .pass = pass,
                      .chunk_rows = n, .first_position = first, .position = first, .n_out = 1,
                      .phase = pass == 0 ? GRETA_PHASE_PREFILL : GRETA_PHASE_DECODE};
    r.out[0] = (trace_tensor){.name = name, .layer = layer, .type = DTYPE_F32, .n = RIG_N,
                              .data = hash, .blob_bytes = (uint64_t)n * sizeof *hash};
    rig_add(s, r);
}

static inline void rig_side_init(rig *r, side which)
{
    rig_side *s = &r->side[which];
    int32_t prefilled = which == SIDE_A ? RIG_POSITIONS : RIG_LAST;
    s->trace.header.n_layer = RIG_LAYERS;
    s->trace.header.buffer = r->buffer;
    s->trace.header.n_buffer = 2;
    s->trace.record = s->record;
    for (int32_t layer = 0; layer < RIG_LAYERS; layer++) {
        float w[RIG_N];
        rig_weight(STAGE_FFN_NORM, layer, w);
        trace_record weight = {.kind = TRACE_WEIGHT, .name = STAGE_FFN_NORM, .layer = layer,
                               .n_weight = 1};
        weight.weight[0] = rig_tensor(STAGE_NONE, -1, w);
        weight.weight[0].data = NULL;
        weight.weight[0].n_kept = 0;
        snprintf(weight.weight[0].tensor, TRACE_NAME_MAX, "blk.%d.ffn_norm.weight", (int)layer);
        rig_add(s, weight);
        for (int64_t pass = 0; pass <= (which == SIDE_B); pass++) {
            int32_t first = pass ? RIG_LAST : 0, n = pass ? 1 : prefilled;
            rig_add_index(s, STAGE_X_AFTER_ATTN, layer, pass, first, n);
            rig_add_index(s, STAGE_X_AFTER_MLP, layer, pass, first, n);
        }
    }
    trace_record norm = {.kind = TRACE_ROW, .prefix = 0x1234, .token = 42, .position = RIG_LAST,
                         .layer = RIG_LAYER, .name = STAGE_FFN_NORM, .op = "rms_norm",
                         .kernel = "ref-avx2", .has_norm = 1, .eps = RIG_EPS, .count = RIG_N,
                         .n_in = 1, .n_weight = 1, .n_out = 1};
    norm.phase = which == SIDE_A ? GRETA_PHASE_PREFILL : GRETA_PHASE_DECODE;
    norm.pass = which == SIDE_A ? 0 : 1;
    norm.row = which == SIDE_A ? RIG_LAST : 0;
    norm.chunk_rows = which == SIDE_A ? RIG_POSITIONS : 1;
    norm.in[0].name = STAGE_X_AFTER_ATTN;
    norm.in[0].layer = RIG_LAYER;
    s->norm = rig_add(s, norm);
    rig_row(STAGE_X_AFTER_ATTN, RIG_LAYER, RIG_LAST, s->x);
    rig_weight(STAGE_FFN_NORM, RIG_LAYER, s->w);
    rig_compute(s);
}

/* Two healthy runs. */
static inline void rig_init(rig *r)
{
    memset(r, 0, sizeof *r);
    r->buffer[0] = (trace_buffer){"b0", 0x1000, 4096};
    r->buffer[1] = (trace_buffer){"b1", 0x9000, 4096};
    rig_side_init(r, SIDE_A);
    rig_side_init(r, SIDE_B);
    r->c = (norm_case){.trace = {&r->side[SIDE_A].trace, &r->side[SIDE_B].trace},
                       .record = {r->side[SIDE_A].norm, r->side[SIDE_B].norm},
                       .eps = RIG_EPS, .head_dim = 32};
}

#endif
