/* pack.c - weights in the layout of a kernel table, made once per model.
 *
 * Repacking interleaves output rows, so that lanes of a vector are rows and a matrix is read once,
 * front to back. It costs the memory of the weights a second time and one pass over them at the
 * first session; `no_pack` runs from the mapped file instead. Packed matrices belong to the model
 * and are shared by its sessions; a session whose table has another layout than the one already
 * packed reads the file.
 */
#include "engine/engine.h"

#include <stdlib.h>
#include <sys/mman.h>

/* Weights are read end to end for every token; large pages spare most of the address translation
 * and let the machine's own prefetching run on. Only whole ones: nothing is wasted. Where the
 * system grants none, nothing changes but the speed. */
#define PAGE_LARGE ((size_t)2 << 20)

static uint8_t *packed_memory(size_t bytes)
{
    void *memory = NULL;
    size_t whole = bytes / PAGE_LARGE * PAGE_LARGE;
    if (posix_memalign(&memory, whole > 0 ? PAGE_LARGE : 64, bytes) != 0) {
        return NULL;
    }
    if (whole > 0) {
        (void)madvise(memory, whole, MADV_HUGEPAGE);
    }
    return memory;
}

typedef struct pack_job {
    const kernel_table *table;
    pack_args args;
} pack_job;

static void pack_run(void *user, int32_t thread, int32_t n_thread)
{
    const pack_job *job = user;
    span tiles = share((job->args.n_row + PACK_ROWS - 1) / PACK_ROWS, thread, n_thread);
    job->table->pack(&job->args, tiles.first, tiles.last);
}

static greta_status pack_weight(greta_session *s, const weight *w, greta_error *err)
{
    struct greta_model *m = s->model;
    uint8_t **packed = &m->packed[w - m->weight];
    size_t bytes = s->table->packed_bytes(w->type, w->n_row, w->n_col);
    if (*packed || bytes == 0) {
        return GRETA_OK;
    }
    *packed = packed_memory(bytes);
    if (!*packed) {
        return error_memory(err, "packed weights", bytes);
    }
    pack_job job = {s->table, {w->type, w->data, w->row_bytes, w->n_row, w->n_col, *packed}};
    thread_pool_run(s->pool, pack_run, &job);
    return GRETA_OK;
}

/* The matrix of an op, or its experts one by one. */
static greta_status pack_all(greta_session *s, const weight *w, greta_error *err)
{
    for (int32_t e = 0; e < w->n_part; e++) {
        GRETA_TRY(pack_weight(s, w->part[e], err));
    }
    return w->part ? GRETA_OK : pack_weight(s, w, err);
}

static greta_status pack_locked(greta_session *s, greta_error *err)
{
    struct greta_model *m = s->model;
    if (!m->packed) {
        m->packed = calloc(m->n_weight + 1, sizeof *m->packed);
        if (!m->packed) {
            return error_memory(err, "the table of packed weights",
                                m->n_weight * sizeof *m->packed);
        }
        m->packed_layout = s->table->layout;
    }
    if (m->packed_layout != s->table->layout) {
        return GRETA_OK;
    }
    for (int32_t i = 0; i < s->healthy.n_op; i++) {
        const op *o = &s->healthy.op[i];
        if (o->kind == OP_MATMUL || o->kind == OP_EXPERT_MATMUL) {
            GRETA_TRY(pack_all(s, o->w[0].tensor, err));
        }
    }
    s->is_packed = 1;
    return GRETA_OK;
}

greta_status session_pack(greta_session *s, greta_error *err)
{
    if (s->options.no_pack || s->table->layout == 0) {
        return GRETA_OK;
    }
    pthread_mutex_lock(&s->model->weight_lock);
    greta_status status = pack_locked(s, err);
    pthread_mutex_unlock(&s->model->weight_lock);
    return status;
}

const uint8_t *packed_view(const greta_session *s, const kernel_table *table,
                           const weight_view *view)
{
    const struct greta_model *m = s->model;
    const weight *w = view->tensor;
    int is_own = w >= m->weight && w < m->weight + m->n_weight;
    if (!s->is_packed || !is_own || table->layout != m->packed_layout ||
        view->first % PACK_ROWS != 0) {
        return NULL;
    }
    const uint8_t *packed = m->packed[w - m->weight];
    return packed ? packed + s->table->packed_bytes(w->type, view->first, w->n_col) : NULL;
}
