/* walk_experts.c - products with the matrices of the experts that each token has chosen.
 *
 * In a pass of many tokens those of one expert are brought together, so that its matrix is read
 * once: each thread sorts (token, rank) by expert, copies up to EXPERT_ROWS rows of x side by side,
 * lets the table multiply them by its share of the expert's rows, and puts the results where they
 * belong. A product's result depends on its operands alone, so neither the order nor the company
 * changes a bit; decode is the same with one row. Copying a row costs a part in n_row of the
 * product it spares from reading the matrix alone.
 */
#include "engine/engine.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

#define EXPERT_ROWS 32
#define ALIGNMENT   64

static size_t align_up(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Scratch of a thread: order (n_chunk, n_expert_used), start (n_expert + 1), then rows of x and of
 * y, of the widest product. */
typedef struct scratch {
    int32_t *order, *start;
    uint8_t *x, *y;
} scratch;

typedef struct scratch_bytes {
    size_t order, start, row;
} scratch_bytes;

static scratch_bytes scratch_size(const greta_session *s)
{
    const config *c = &s->model->cfg;
    size_t wide = (size_t)(c->n_embd > c->n_ff_expert ? c->n_embd : c->n_ff_expert);
    return (scratch_bytes){
        .order = align_up((size_t)s->options.n_chunk * (size_t)c->n_expert_used * 4),
        .start = align_up(((size_t)c->n_expert + 1) * 4),
        .row = align_up(wide * 4),
    };
}

greta_status experts_new(greta_session *s, greta_error *err)
{
    if (s->model->cfg.n_expert == 0) {
        return GRETA_OK;
    }
    scratch_bytes size = scratch_size(s);
    uint64_t total = 0;
    void *memory = NULL;
    s->expert_scratch_bytes = size.order + size.start + 2 * EXPERT_ROWS * size.row;
    if (!checked_mul(s->expert_scratch_bytes, (uint64_t)s->options.n_thread, &total) ||
        posix_memalign(&memory, ALIGNMENT, (size_t)total) != 0) {
        return error_memory(err, "rows of experts", s->expert_scratch_bytes);
    }
    s->expert_scratch = memory;
    return GRETA_OK;
}

static scratch scratch_of(const greta_session *s, int32_t thread)
{
    scratch_bytes size = scratch_size(s);
    uint8_t *at = s->expert_scratch + (size_t)thread * s->expert_scratch_bytes;
    return (scratch){.order = (int32_t *)(void *)at,
                     .start = (int32_t *)(void *)(at + size.order),
                     .x = at + size.order + size.start,
                     .y = at + size.order + size.start + EXPERT_ROWS * size.row};
}

typedef struct expert_job {
    greta_session *session;
    const op *op;
    rows x, ids, y;
    int64_t k, n_row; /* of one expert's matrix */
    int is_ranked;    /* each rank has its own part of x */
    int is_q8;
    span token, column;
    scratch scratch;
} expert_job;

static const int32_t *ids_of(const expert_job *job, int64_t token)
{
    return (const int32_t *)(const void *)rows_at(&job->ids, token);
}

/* order[start[e] .. start[e + 1]) are the numbers token * n_used + rank of expert e, ascending. */
static void sort_by_expert(const expert_job *job)
{
    int32_t *start = job->scratch.start, n_used = job->op->n_expert_used;
    int32_t n_expert = job->op->n_expert;
    memset(start, 0, ((size_t)n_expert + 1) * sizeof *start);
    for (int64_t t = job->token.first; t < job->token.last; t++) {
        for (int32_t r = 0; r < n_used; r++) {
            start[ids_of(job, t)[r] + 1]++;
        }
    }
    for (int32_t e = 0; e < n_expert; e++) {
        start[e + 1] += start[e];
    }
    for (int64_t t = job->token.first; t < job->token.last;
         t++) { /* start[e] runs up to where e ends, and goes back */
        for (int32_t r = 0; r < n_used; r++) {
            job->scratch.order[start[ids_of(job, t)[r]]++] = (int32_t)(t * n_used + r);
        }
    }
    for (int32_t e = n_expert; e > 0; e--) {
        start[e] = start[e - 1];
    }
    start[0] = 0;
}

/* Bytes of a row of x for one expert. */
static size_t x_bytes(const expert_job *job)
{
    return job->is_q8 ? act_q8_bytes(job->k) : (size_t)job->k * sizeof(float);
}

/* The part of a rank of a quantised row, as a row of its own: codes, scales, sums. */
static void part_of_q8(const expert_job *job, const uint8_t *row, int64_t rank, uint8_t *out)
{
    size_t k = (size_t)job->k, n = (size_t)job->op->n_expert_used, at = (size_t)rank;
    size_t per = k / ACT_BLOCK * 4; /* bytes of the scales of one rank; likewise of the sums */
    memcpy(out, row + at * k, k);
    memcpy(out + k, row + n * k + at * per, per);
    memcpy(out + k + per, row + n * k + n * per + at * per, per);
}

static void gather(const expert_job *job, int32_t number, uint8_t *out)
{
    int64_t token = number / job->op->n_expert_used, rank = number % job->op->n_expert_used;
    const uint8_t *row = rows_at(&job->x, token);
    if (job->is_ranked && job->is_q8) {
        part_of_q8(job, row, rank, out);
    } else {
        memcpy(out, job->is_ranked ? row + (size_t)rank * x_bytes(job) : row, x_bytes(job));
    }
}

static void scatter(const expert_job *job, int32_t number, const float *from)
{
    int64_t token = number / job->op->n_expert_used, rank = number % job->op->n_expert_used;
    float *to = (float *)(void *)rows_at(&job->y, token) + rank * job->n_row;
    memcpy(to + job->column.first, from + job->column.first,
           (size_t)(job->column.last - job->column.first) * sizeof *to);
}

/* Up to EXPERT_ROWS rows that chose one expert. */
static void multiply(const expert_job *job, const weight_view *expert, const int32_t *number,
                     int64_t n)
{
    const weight *w = expert->tensor;
    const kernel_table *table = session_table(job->session, job->op);
    size_t x_stride = align_up(x_bytes(job));
    int64_t y_stride = (int64_t)(align_up((size_t)job->n_row * sizeof(float)) / sizeof(float));
    float *y = (float *)(void *)job->scratch.y;
    for (int64_t i = 0; i < n; i++) {
        gather(job, number[i], job->scratch.x + (size_t)i * x_stride);
    }
    matmul_args a = {
        .type = w->type,
        .w = weight_row(w, expert->first),
        .row_bytes = w->row_bytes,
        .x = job->scratch.x,
        .x_stride = (int64_t)x_stride,
        .y = y,
        .y_stride = y_stride,
        .k = job->k,
        .n_token = n,
        .x_is_q8 = job->is_q8,
        .packed = packed_view(job->session, table, expert),
    };
    table->matmul(&a, job->column.first, job->column.last);
    for (int64_t i = 0; i < n; i++) {
        scatter(job, number[i], y + i * y_stride);
    }
}

void walk_experts(greta_session *s, const op *o, const expert_piece *mine)
{
    const edge *x = &session_list(s, s->phase)->edge[o->in[0].edge];
    const weight *w = o->w[0].tensor;
    expert_job job = {
        .session = s,
        .op = o,
        .x = rows_read(s, o, 0),
        .ids = rows_read(s, o, 1),
        .y = rows_written(s, o, 0),
        .k = w->n_col,
        .n_row = o->w[0].n / o->n_expert,
        .is_ranked = x->width != w->n_col,
        .is_q8 = x->type == DTYPE_ACT_Q8,
        .token = mine->token,
        .column = mine->column,
        .scratch = scratch_of(s, mine->thread),
    };
    sort_by_expert(&job);
    for (int32_t e = 0; e < o->n_expert; e++) {
        weight_view expert = weight_view_expert(&o->w[0], o->n_expert, e);
        for (int32_t i = job.scratch.start[e], end = job.scratch.start[e + 1]; i < end;
             i += EXPERT_ROWS) {
            int64_t n = end - i < EXPERT_ROWS ? end - i : EXPERT_ROWS;
            multiply(&job, &expert, job.scratch.order + i, n);
        }
    }
}
