/* threads.c - the pool: one generation counter out, one countdown back.
 *
 * A run publishes {work, user}, sets the countdown to the number of workers and raises the
 * generation. A worker waits until the generation differs from the one it last served, does its
 * share and counts down; the caller does share 0 and waits for the countdown to reach 0. Both waits
 * look at their word a bounded number of times and then sleep on it (futex(2)): a decode makes some
 * hundred runs per token, microseconds apart, and a system call for each would cost more than the
 * work; between tokens nobody must burn a CPU.
 *
 * No wake-up can be lost: who wants to sleep first announces it (n_asleep, caller_asleep), then
 * the kernel compares the word once more; who changes the word does so first and looks for sleepers
 * after. All four are sequentially consistent, so at least one of the two sees the other.
 *
 * With more threads than CPUs spinning steals time from the thread waited for, so there it is off.
 * Barriers of OpenMP or pthread were rejected: neither lets the caller choose spin against sleep,
 * and a runtime of its own is a global state that a library must not bring along.
 */
#include "base/threads.h"

#include "base/fpenv.h"
#include "base/limits.h"

#include <inttypes.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_MAX 4096 /* looks before sleeping, some 50 to 200 microseconds */
#define CACHE_LINE 64

typedef struct worker {
    thread_pool *pool;
    int32_t index;
    pthread_t thread;
} worker;

struct thread_pool {
    /* Written by the caller once per run, read by all workers. */
    _Alignas(CACHE_LINE) _Atomic uint32_t generation;
    thread_work work; /* NULL: end */
    void *user;
    int32_t n_thread; /* final before the first generation */
    int32_t n_spin;
    worker *workers; /* n_thread - 1 */
    /* Written by the workers. */
    _Alignas(CACHE_LINE) _Atomic uint32_t n_busy;
    _Atomic uint32_t n_asleep;
    _Atomic uint32_t caller_asleep;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    /* Returns at once if the word has changed, on a signal, or spuriously: callers look again. */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns the generation once it is no longer `seen`. */
static uint32_t wait_for_work(thread_pool *pool, uint32_t seen)
{
    for (int32_t i = 0; i < pool->n_spin; i++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen) {
            return seen + 1;
        }
        spin_pause();
    }
    atomic_fetch_add(&pool->n_asleep, 1);
    while (atomic_load(&pool->generation) == seen) {
        futex_wait(&pool->generation, seen);
    }
    atomic_fetch_sub(&pool->n_asleep, 1);
    return seen + 1; /* The next run waits for this thread, so it can not have missed one. */
}

static void *worker_main(void *argument)
{
    const worker *self = argument;
    thread_pool *pool = self->pool;
    uint32_t seen = 0;
    fpenv_enter();
    for (;;) {
        seen = wait_for_work(pool, seen);
        if (pool->work == NULL) {
            return NULL;
        }
        pool->work(pool->user, self->index, pool->n_thread);
        if (atomic_fetch_sub(&pool->n_busy, 1) == 1 && atomic_load(&pool->caller_asleep) != 0) {
            futex_wake(&pool->n_busy, 1);
        }
    }
}

/* Starts all workers on the next generation. */
static void publish(thread_pool *pool, thread_work work, void *user)
{
    pool->work = work;
    pool->user = user;
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->n_asleep) != 0) {
        futex_wake(&pool->generation, pool->n_thread);
    }
}

void thread_pool_run(thread_pool *pool, thread_work work, void *user)
{
    GRETA_ASSERT(work != NULL && atomic_load(&pool->n_busy) == 0);
    uint32_t n_worker = (uint32_t)pool->n_thread - 1;
    if (n_worker == 0) {
        work(user, 0, 1);
        return;
    }
    atomic_store_explicit(&pool->n_busy, n_worker, memory_order_relaxed);
    publish(pool, work, user);
    work(user, 0, pool->n_thread);
    for (int32_t i = 0; i < pool->n_spin; i++) {
        if (atomic_load_explicit(&pool->n_busy, memory_order_acquire) == 0) {
            return;
        }
        spin_pause();
    }
    atomic_store(&pool->caller_asleep, 1);
    for (uint32_t busy = atomic_load(&pool->n_busy); busy != 0;
         busy = atomic_load(&pool->n_busy)) {
        futex_wait(&pool->n_busy, busy);
    }
    atomic_store(&pool->caller_asleep, 0);
}

/* Signals are for the program's own threads, except those that a thread raises itself: a blocked
 * SIGBUS (the model's file was cut) would kill the process without the program's message. */
static void signals_for_workers(sigset_t *blocked)
{
    sigfillset(blocked);
    sigdelset(blocked, SIGBUS);
    sigdelset(blocked, SIGSEGV);
    sigdelset(blocked, SIGFPE);
    sigdelset(blocked, SIGILL);
}

/* Creates workers up to n_thread or a failure; returns the number of threads, caller included. */
static int32_t workers_start(thread_pool *pool, int32_t n_thread, thread_create create)
{
    sigset_t blocked, before;
    int32_t n = 1;
    signals_for_workers(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    for (; n < n_thread; n++) {
        worker *w = &pool->workers[n - 1];
        *w = (worker){.pool = pool, .index = n};
        if (create(&w->thread, NULL, worker_main, w) != 0) {
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return n;
}

greta_status thread_pool_new_with(int32_t n_thread, thread_create create, thread_pool **out,
                                  greta_error *err)
{
    *out = NULL;
    if (n_thread < 1 || n_thread > LIMIT_THREADS) {
        return error_set(err, GRETA_USAGE, "%" PRId32 " threads (1 to %d)", n_thread,
                         LIMIT_THREADS);
    }
    thread_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    worker *workers = calloc((size_t)n_thread, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        free(pool);
        free(workers);
        return error_memory(err, "a thread pool",
                            sizeof *pool + (size_t)n_thread * sizeof *workers);
    }
    *pool = (thread_pool){.workers = workers};
    /* Workers read n_spin at once, so it follows from what was asked for. */
    pool->n_spin = n_thread <= thread_online() ? SPIN_MAX : 0;
    pool->n_thread = workers_start(pool, n_thread, create);
    *out = pool;
    return GRETA_OK;
}

greta_status thread_pool_new(int32_t n_thread, thread_pool **pool, greta_error *err)
{
    return thread_pool_new_with(n_thread, pthread_create, pool, err);
}

void thread_pool_free(thread_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    publish(pool, NULL, NULL);
    for (int32_t i = 0; i < pool->n_thread - 1; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    free(pool->workers);
    free(pool);
}

int32_t thread_pool_size(const thread_pool *pool)
{
    return pool->n_thread;
}

int32_t thread_online(void)
{
    /* The kernel refuses masks narrower than its own, so the mask grows until it fits. */
    for (int bits = 1024; bits <= 1 << 20; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)bits);
        size_t bytes = CPU_ALLOC_SIZE((size_t)bits);
        if (set == NULL) {
            return 1;
        }
        int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0) {
            return n < LIMIT_THREADS ? n : LIMIT_THREADS;
        }
    }
    return 1;
}
