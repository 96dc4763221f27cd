/* trace_sample.h - a small trace that uses every member of every struct, with hard values.
 *
 * For test_trace.c, and for trace_tool.c, which writes it where a reader in another language can
 * find it. All content is a function of the record number; sample_header and sample_record fill
 * what an engine would.
 */
#ifndef GRETA_TESTS_TRACE_SAMPLE_H
#define GRETA_TESTS_TRACE_SAMPLE_H

#include "base/hash.h"
#include "trace/trace.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SAMPLE_RECORDS 24
#define SAMPLE_WIDTH 96
#define SAMPLE_CHUNK 6

typedef struct sample {
    trace_record record;
    float x[SAMPLE_WIDTH], weight[SAMPLE_WIDTH], y[SAMPLE_WIDTH];
    uint16_t half[SAMPLE_WIDTH];
    int32_t token[1];
    row_hash rows[SAMPLE_CHUNK];
    struct {
        int8_t code[SAMPLE_WIDTH];
        float scale[SAMPLE_WIDTH / 32];
        int32_t sum[SAMPLE_WIDTH / 32]; /* never kept */
    } q8;
} sample;

static const trace_buffer sample_buffers[] = {{"x0", 0x7f12345678ab, 4096},
                                              {"kv.k.1", UINT64_MAX, 1u << 20}};

static inline trace_header sample_header(void)
{
    trace_header h = {.format = TRACE_FORMAT_VERSION,
                      .arithmetic = 1,
                      .stage_list = STAGE_LIST_VERSION,
                      .greta = "0.1.0",
                      .model_name = "a \"quoted\\\" name\twith \x01, \xc3\xa9, \xf0\x9f\x99\x82",
                      .arch = "llama",
                      .model_hash = 0xfedcba9876543210u,
                      .tokenizer_hash = 1,
                      .prompt_id = "p0_short",
                      .n_layer = 3,
                      .n_embd = SAMPLE_WIDTH,
                      .n_vocab = 49152,
                      .n_ctx = 128,
                      .n_sequence = 2,
                      .n_chunk = 64,
                      .n_thread = 3,
                      .rounding = "f32",
                      .device = "GPU 0",
                      .kv = "f16",
                      .act = "q8",
                      .kernel = "ref-avx2",
                      .cpu = "a CPU; ref, ref-avx2",
                      .compiler = "gcc 12.2.0",
                      .mxcsr = 0x1f80,
                      .selection_stages = "all",
                      .selection_layers = "0,1-2",
                      .selection_phases = "prefill,decode",
                      .selection_tokens = "last,0",
                      .sample = -1,
                      .bytes_max = 1u << 30,
                      .notes = "unknown bytes dropped: 3",
                      .buffer = sample_buffers,
                      .n_buffer = 2};
    return h;
}

static inline float sample_float(int k, int i)
{
    static const float hard[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 3.4028235e38f, 0.1f, 16777216.0f};
    return i < 7 ? hard[(i + k) % 7] : sinf((float)(k * SAMPLE_WIDTH + i)) * (float)(1 + k);
}

/* Statistics as an engine takes them; the canonical order of sums is not this test's business. */
static inline void sample_statistics(trace_tensor *t, const float *x)
{
    for (int64_t i = 0; i < t->n; i++) {
        if (isfinite(x[i])) {
            t->min = x[i] < t->min ? x[i] : t->min;
            t->max = x[i] > t->max ? x[i] : t->max;
            t->sumsq += x[i] * x[i];
        } else {
            t->n_nonfinite++;
        }
    }
}

static inline trace_tensor sample_tensor(dtype type, const void *data, int64_t n, int64_t n_kept)
{
    trace_tensor t = {.name = STAGE_NONE, .layer = -1, .slot = -1, .type = type, .n = n};
    t.hash = trace_values_hash(type, data, n);
    t.n_kept = n_kept;
    t.data = data;
    return t;
}

static inline void sample_fill(sample *s, int k)
{
    for (int i = 0; i < SAMPLE_WIDTH; i++) {
        s->x[i] = sample_float(k, i);
        s->weight[i] = 1.0f / (float)(i + 1);
        s->y[i] = s->x[i] * 0.5f;
        s->half[i] = (uint16_t)(i * 683 + k);
        s->q8.code[i] = (int8_t)(i * 7 + k);
    }
    for (int i = 0; i < SAMPLE_WIDTH / 32; i++) {
        s->q8.scale[i] = 0.01f * (float)(i + 1 + k);
        s->q8.sum[i] = 12345;
    }
    for (int i = 0; i < SAMPLE_CHUNK; i++) {
        s->rows[i] = (row_hash){(uint64_t)(i + k) << 60 | 5, UINT64_MAX - (uint64_t)i};
    }
    if (k % 5 == 4) {
        s->y[10] = NAN;
        s->y[11] = -INFINITY;
        s->half[3] = 0x7c01; /* a NaN that is not 7e00 */
    }
    s->token[0] = 100 + k;
}

static inline void sample_norm(sample *s, int k)
{
    trace_record *r = &s->record;
    r->name = STAGE_FFN_NORM;
    r->layer = k % 3;
    r->op = "rms_norm";
    r->has_norm = 1;
    r->eps = 1e-5f;
    r->inv_rms = k % 2 ? INFINITY : 0.75f;
    r->count = SAMPLE_WIDTH;
    r->n_in = r->n_weight = r->n_out = 1;
    r->in[0] = sample_tensor(DTYPE_F32, s->x, SAMPLE_WIDTH, SAMPLE_WIDTH);
    r->in[0].name = STAGE_X_AFTER_ATTN;
    r->in[0].layer = k % 3;
    memcpy(r->in[0].buffer, "x0", 3);
    r->in[0].row = k;
    r->in[0].offset = (uint64_t)k * 384;
    r->in[0].stride = 384;
    sample_statistics(&r->in[0], s->x);
    r->weight[0] = sample_tensor(DTYPE_F32, s->weight, SAMPLE_WIDTH, 5);
    snprintf(r->weight[0].tensor, TRACE_NAME_MAX, "blk.%d.ffn_norm.weight", k % 3);
    r->weight[0].first_row = 7;
    sample_statistics(&r->weight[0], s->weight);
    r->out[0] = sample_tensor(DTYPE_F32, s->y, SAMPLE_WIDTH, SAMPLE_WIDTH);
    r->out[0].name = STAGE_FFN_NORM;
    r->out[0].layer = k % 3;
    sample_statistics(&r->out[0], s->y);
}

static inline void sample_attention(sample *s, int k)
{
    trace_record *r = &s->record;
    r->name = STAGE_ATTN_OUT;
    r->layer = k % 3;
    r->op = "attention";
    r->n_in = 3;
    r->n_out = 2;
    r->in[0] = sample_tensor(DTYPE_F16, s->half, SAMPLE_WIDTH, SAMPLE_WIDTH);
    r->in[0].name = STAGE_K_CACHE;
    r->in[0].layer = k % 3;
    r->in[0].slot = k;
    r->in[0].generation = (uint64_t)k + 1;
    r->in[1] = sample_tensor(DTYPE_F32, s->x, SAMPLE_WIDTH, 0);
    r->in[2] = sample_tensor(DTYPE_I32, s->token, 1, 1);
    r->in[2].name = STAGE_TOKENS;
    r->out[0] = sample_tensor(DTYPE_ACT_Q8, &s->q8, SAMPLE_WIDTH, SAMPLE_WIDTH);
    r->out[1] = sample_tensor(DTYPE_ACT_Q8, &s->q8, SAMPLE_WIDTH, 33); /* rounded up to 64 */
    r->out[1].name = STAGE_LOGITS;
}

/* Fills s->record for record k; its data point into s. */
static inline void sample_record(sample *s, int k)
{
    trace_record *r = &s->record;
    memset(s, 0, sizeof *s);
    sample_fill(s, k);
    r->kernel = k % 2 ? "ref" : "ref-avx2";
    r->prefix = hash_prefix((uint64_t)k, 100 + k);
    r->token = 100 + k;
    r->position = k;
    r->phase = k < SAMPLE_RECORDS / 2 ? GRETA_PHASE_PREFILL : GRETA_PHASE_DECODE;
    r->pass = k / SAMPLE_CHUNK;
    r->chunk_rows = SAMPLE_CHUNK;
    r->sequence = k % 2;
    r->row = k % SAMPLE_CHUNK;
    r->first_position = k - r->row;
    if (k % 4 == 2) {
        r->kind = TRACE_INDEX;
        r->name = STAGE_LOGITS;
        r->layer = -1;
        r->prefix = 0;
        r->token = r->position = -1;
        r->n_out = 1;
        r->out[0] = sample_tensor(DTYPE_F32, s->x, SAMPLE_WIDTH, 0);
        r->out[0].data = s->rows;
    } else if (k % 4 == 3) {
        memset(r, 0, sizeof *r);
        r->kind = TRACE_WEIGHT;
        r->name = STAGE_FINAL_NORM;
        r->layer = -1;
        r->pass = r->token = r->position = r->row = -1;
        r->n_weight = 1;
        r->weight[0] = sample_tensor(DTYPE_F32, s->weight, SAMPLE_WIDTH, 0);
        memcpy(r->weight[0].tensor, "output_norm.weight", 19);
    } else if (k % 4 == 1) {
        sample_attention(s, k);
    } else {
        sample_norm(s, k);
    }
}

/* Writes n records of the sample to options->path. */
static inline greta_status sample_write(const greta_trace_options *options, int n, greta_error *err)
{
    trace_header header = sample_header();
    trace_writer *writer;
    sample s;
    GRETA_TRY(trace_writer_new(options, &header, &writer, err));
    greta_status status = GRETA_OK;
    for (int k = 0; k < n && status == GRETA_OK; k++) {
        sample_record(&s, k);
        status = trace_writer_add(writer, &s.record, err);
    }
    greta_status ended = trace_writer_end(writer, "complete", err);
    return status != GRETA_OK ? status : ended;
}

#endif
