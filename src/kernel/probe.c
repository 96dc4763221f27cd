/* probe.c - the machine's own speed: memory, integer and float peaks, with a number of threads.
 *
 * A share of peak means something only against a peak that was measured on the same machine, with
 * the same threads, at nearly the same moment: bandwidth of shared machines moves by a factor of
 * two within seconds. Work is dealt in fixed amounts and the caller takes the time, so the library
 * needs no clock. The memory is in huge pages where the system gives them, because the question is
 * what the machine can do, and it was written once: pages that were never written share one page of
 * zeros, which lies in the cache.
 */
#include "kernel/probe.h"

#include "base/threads.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define READ_BYTES    ((size_t)512 << 20) /* at least */
#define THREAD_BYTES  ((size_t)128 << 20) /* and for each thread: it may have a cache of its own */
#define BYTES_THREADS 32                  /* but for no more threads than that */
#define READ_PASSES   4
#define HUGE_PAGE     ((size_t)2 << 20)
#define LINE_GROUP    1024 /* what a thread's share is a multiple of */
#define ROUNDS_INT8   2048
#define ROUNDS_FMA    2048
#define ROUNDS_PLAIN  32 /* plain C is that much slower */
#define PLAIN_N       256

struct greta_probe {
    const probe_loops *loops;
    thread_pool *pool;
    uint8_t *data; /* (bytes) */
    size_t bytes;
    int64_t n_round[2]; /* of int8, fma */
    uint64_t *result;   /* (n_thread) keeps the work from being dead code */
    char name_read[32];
};

/* ---- Plain C, for the reference kernels ------------------------------------------------------ */

static uint64_t read_plain(const uint8_t *data, size_t bytes)
{
    uint64_t sum[8] = {0}, word[8];
    for (size_t at = 0; at < bytes; at += sizeof word) {
        memcpy(word, data + at, sizeof word);
        for (int i = 0; i < 8; i++) {
            sum[i] ^= word[i];
        }
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

/* Arrays in the first cache, which compilers turn into vectors. */
static uint64_t int8_plain(int64_t n_round)
{
    int8_t a[PLAIN_N], b[PLAIN_N];
    uint32_t total = 0;
    memset(b, -2, sizeof b);
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        int32_t sum = 0;
        memset(a, (int)(step & 63), sizeof a);
        for (int i = 0; i < PLAIN_N; i++) {
            sum += a[i] * b[i];
        }
        total += (uint32_t)sum;
    }
    return total;
}

static uint64_t fma_plain(int64_t n_round)
{
    float sum[PLAIN_N] = {0}, total = 0;
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        for (int i = 0; i < PLAIN_N; i++) {
            sum[i] = sum[i] * 0.5f + 1.0f;
        }
    }
    for (int i = 0; i < PLAIN_N; i++) {
        total += sum[i];
    }
    return (uint64_t)total;
}

static const probe_loops plain_probe = {
    .name_int8 = "plain C multiply, add",
    .name_fma = "plain C multiply, add",
    .ops_int8 = 2.0 * PLAIN_N * PROBE_STEPS,
    .ops_fma = 2.0 * PLAIN_N * PROBE_STEPS,
    .read = read_plain,
    .int8 = int8_plain,
    .fma = fma_plain,
};

/* ---- The probe ------------------------------------------------------------------------------- */

static const probe_loops *loops_of(const kernel_table *table)
{
#if defined(__x86_64__)
    if (strcmp(table->name, "avx512") == 0) {
        return &avx512_probe;
    }
    if (strcmp(table->name, "avx2") == 0 || strcmp(table->name, "ref-avx2") == 0) {
        return &avx2_probe;
    }
#endif
    (void)table;
    return &plain_probe;
}

static greta_status data_map(greta_probe *p, greta_error *err)
{
    size_t n_thread = (size_t)thread_pool_size(p->pool), group = LINE_GROUP * n_thread;
    p->bytes = THREAD_BYTES * (n_thread < BYTES_THREADS ? n_thread : BYTES_THREADS);
    p->bytes = p->bytes > READ_BYTES ? p->bytes : READ_BYTES;
    void *data = NULL;
    if (posix_memalign(&data, HUGE_PAGE, p->bytes) != 0) {
        return error_memory(err, "the memory that is read to measure bandwidth", p->bytes);
    }
    p->data = data;
    madvise(data, p->bytes, MADV_HUGEPAGE); /* where it fails, small pages must do */
    memset(data, 1, p->bytes);
    snprintf(p->name_read, sizeof p->name_read, "%zu MiB", p->bytes >> 20);
    p->bytes = p->bytes / group * group;
    return GRETA_OK;
}

greta_status greta_probe_new(int32_t n_thread, const char *cpu, greta_probe **probe,
                             greta_error *err)
{
    *probe = NULL;
    const kernel_table *table = kernel_find(cpu);
    if (!table) {
        return error_set(err, GRETA_USAGE, "this machine has no such kernels");
    }
    greta_probe *p = calloc(1, sizeof *p);
    if (!p) {
        return error_memory(err, "a probe", sizeof *p);
    }
    p->loops = loops_of(table);
    p->n_round[0] = p->loops == &plain_probe ? ROUNDS_PLAIN : ROUNDS_INT8;
    p->n_round[1] = p->loops == &plain_probe ? ROUNDS_PLAIN : ROUNDS_FMA;
    greta_status status = thread_pool_new(n_thread ? n_thread : thread_online(), &p->pool, err);
    if (!status) {
        p->result = calloc((size_t)thread_pool_size(p->pool), sizeof *p->result);
        status = p->result ? data_map(p, err) : error_memory(err, "a probe", sizeof *p->result);
    }
    if (status) {
        greta_probe_free(p);
        return status;
    }
    *probe = p;
    return GRETA_OK;
}

void greta_probe_free(greta_probe *probe)
{
    if (probe) {
        thread_pool_free(probe->pool);
        free(probe->data);
        free(probe->result);
        free(probe);
    }
}

typedef struct probe_job {
    greta_probe *probe;
    greta_probe_kind kind;
} probe_job;

static void probe_work(void *user, int32_t thread, int32_t n_thread)
{
    const probe_job *job = user;
    greta_probe *p = job->probe;
    size_t bytes = p->bytes / (size_t)n_thread;
    uint64_t result = 0;
    switch (job->kind) {
    case GRETA_PROBE_READ:
        for (int pass = 0; pass < READ_PASSES; pass++) {
            result ^= p->loops->read(p->data + (size_t)thread * bytes, bytes) + (uint64_t)pass;
        }
        break;
    case GRETA_PROBE_INT8:
        result = p->loops->int8(p->n_round[0]);
        break;
    case GRETA_PROBE_FMA:
        result = p->loops->fma(p->n_round[1]);
        break;
    }
    p->result[thread] ^= result;
}

double greta_probe_run(greta_probe *probe, greta_probe_kind kind)
{
    probe_job job = {probe, kind};
    double n_thread = thread_pool_size(probe->pool);
    thread_pool_run(probe->pool, probe_work, &job);
    return kind == GRETA_PROBE_READ ? (double)probe->bytes * READ_PASSES
           : kind == GRETA_PROBE_INT8
               ? probe->loops->ops_int8 * (double)probe->n_round[0] * n_thread
               : probe->loops->ops_fma * (double)probe->n_round[1] * n_thread;
}

const char *greta_probe_name(const greta_probe *probe, greta_probe_kind kind)
{
    return kind == GRETA_PROBE_READ   ? probe->name_read
           : kind == GRETA_PROBE_INT8 ? probe->loops->name_int8
                                      : probe->loops->name_fma;
}

int32_t greta_probe_threads(const greta_probe *probe)
{
    return thread_pool_size(probe->pool);
}
