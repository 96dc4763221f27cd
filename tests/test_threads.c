/* test_threads.c - the pool: every share is done exactly once.
 *
 * Whatever the number of threads, whether they spin or sleep, and however many of them could be
 * created. Time is never asserted.
 */
#include "base/limits.h"
#include "base/threads.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define N_INDEX 13
#define N_ROUND 10000
#define N_THREAD_MAX 8

/* Plain memory on purpose: that the pool orders it is what is tested (under TSan, too). */
typedef struct rounds {
    uint64_t done[N_INDEX];
    int32_t n_thread;
    uint64_t wrong;
} rounds;

/* Indexes i with i % n_thread == thread: a pure function of (thread, n_thread). */
static void count_indexes(void *user, int32_t thread, int32_t n_thread)
{
    rounds *r = user;
    for (int32_t i = thread; i < N_INDEX; i += n_thread) {
        r->done[i]++;
    }
    if (thread == 0) {
        r->n_thread = n_thread;
    }
}

/* Every round reads what the round before wrote from other threads. */
static void compare_indexes(void *user, int32_t thread, int32_t n_thread)
{
    rounds *r = user;
    (void)n_thread;
    if (thread == 0) {
        for (size_t i = 1; i < N_INDEX; i++) {
            r->wrong += r->done[i] != r->done[0];
        }
    }
}

static void test_every_index_once(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= N_THREAD_MAX; n++) {
        thread_pool *pool;
        rounds r = {0};
        assert_int_equal(thread_pool_new(n, &pool, NULL), GRETA_OK);
        assert_int_equal(thread_pool_size(pool), n);
        for (int round = 0; round < N_ROUND; round++) {
            thread_pool_run(pool, count_indexes, &r);
            if (round % 100 == 0) {
                thread_pool_run(pool, compare_indexes, &r);
            }
        }
        assert_int_equal(r.n_thread, n);
        assert_int_equal(r.wrong, 0);
        for (size_t i = 0; i < N_INDEX; i++) {
            assert_int_equal(r.done[i], N_ROUND);
        }
        thread_pool_free(pool);
    }
    thread_pool_free(NULL);
}

static void pause_ms(long ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000};
    nanosleep(&t, NULL);
}

/* One thread, another in each round, is late: the others go to sleep waiting for it. */
static void count_late(void *user, int32_t thread, int32_t n_thread)
{
    rounds *r = user;
    if (r->done[thread] % (uint64_t)n_thread == (uint64_t)thread) {
        pause_ms(3);
    }
    r->done[thread]++;
}

/* Sleeping workers are woken, and so is a sleeping caller. */
static void test_sleep(void **state)
{
    (void)state;
    for (int32_t n = 2; n <= 5; n++) {
        thread_pool *pool;
        rounds r = {0};
        assert_int_equal(thread_pool_new(n, &pool, NULL), GRETA_OK);
        for (int round = 0; round < 20; round++) {
            thread_pool_run(pool, count_late, &r);
            if (round % 4 == 0) {
                pause_ms(3); /* all workers sleep */
            }
        }
        for (int32_t i = 0; i < n; i++) {
            assert_int_equal(r.done[i], 20);
        }
        thread_pool_free(pool);
    }
    /* A pool that never ran, and one whose workers sleep, end as well. */
    thread_pool *pool;
    assert_int_equal(thread_pool_new(3, &pool, NULL), GRETA_OK);
    thread_pool_free(pool);
    assert_int_equal(thread_pool_new(3, &pool, NULL), GRETA_OK);
    pause_ms(5);
    thread_pool_free(pool);
}

/* Creation fails once n_created threads exist. */
static int32_t n_created, n_created_max;

static int create_some(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                       void *argument)
{
    if (n_created >= n_created_max) {
        return EAGAIN;
    }
    n_created++;
    return pthread_create(thread, attributes, start, argument);
}

static void test_creation_fails(void **state)
{
    (void)state;
    for (n_created_max = 0; n_created_max < N_THREAD_MAX; n_created_max++) {
        thread_pool *pool;
        rounds r = {0};
        n_created = 0;
        assert_int_equal(thread_pool_new_with(N_THREAD_MAX, create_some, &pool, NULL), GRETA_OK);
        assert_int_equal(thread_pool_size(pool), n_created_max + 1);
        for (int round = 0; round < 100; round++) {
            thread_pool_run(pool, count_indexes, &r);
        }
        assert_int_equal(r.n_thread, n_created_max + 1);
        for (size_t i = 0; i < N_INDEX; i++) {
            assert_int_equal(r.done[i], 100);
        }
        thread_pool_free(pool);
    }
}

static void test_limits(void **state)
{
    (void)state;
    static const int32_t bad[] = {0, -1, INT32_MIN, LIMIT_THREADS + 1, INT32_MAX};
    thread_pool *pool;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        greta_error err = {0};
        assert_int_equal(thread_pool_new(bad[i], &pool, &err), GRETA_USAGE);
        assert_null(pool);
        assert_non_null(strstr(err.message, "threads (1 to 512)"));
    }
    n_created = 0;
    n_created_max = 3;
    assert_int_equal(thread_pool_new_with(LIMIT_THREADS, create_some, &pool, NULL), GRETA_OK);
    assert_int_equal(thread_pool_size(pool), 4);
    thread_pool_free(pool);
}

/* What a worker finds in its thread. */
typedef struct surroundings {
    int32_t n_wrong;
} surroundings;

static void look_around(void *user, int32_t thread, int32_t n_thread)
{
    surroundings *s = user;
    (void)n_thread;
    if (thread != 1) {
        return;
    }
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    s->n_wrong += sigismember(&blocked, SIGINT) != 1;
    s->n_wrong += sigismember(&blocked, SIGTERM) != 1;
    s->n_wrong += sigismember(&blocked, SIGBUS) != 0;
    s->n_wrong += sigismember(&blocked, SIGSEGV) != 0;
#if defined(__SSE2__)
    s->n_wrong += (_mm_getcsr() & ~0x3fu) != 0x1f80u;
#endif
}

/* Workers compute in the canonical environment although the host set another one (threads inherit
 * it), and leave the program's signals to the program. */
static void test_surroundings(void **state)
{
    (void)state;
    thread_pool *pool;
    surroundings s = {0};
    sigset_t none, before, after;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, &before);
#if defined(__SSE2__)
    uint32_t host = _mm_getcsr();
    _mm_setcsr(0x1f80u | 0x8040u | 0x6000u); /* FTZ, DAZ, toward zero */
#endif
    assert_int_equal(thread_pool_new(2, &pool, NULL), GRETA_OK);
    thread_pool_run(pool, look_around, &s);
    thread_pool_free(pool);
#if defined(__SSE2__)
    _mm_setcsr(host);
#endif
    pthread_sigmask(SIG_SETMASK, &before, &after);
    assert_int_equal(sigismember(&after, SIGINT), 0);
    assert_int_equal(s.n_wrong, 0);
}

static void test_online(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(thread_online(), CPU_COUNT(&all) < LIMIT_THREADS ? CPU_COUNT(&all)
                                                                      : LIMIT_THREADS);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int32_t n = thread_online();
    /* A pool larger than the CPUs works as well. */
    thread_pool *pool;
    rounds r = {0};
    assert_int_equal(thread_pool_new(3, &pool, NULL), GRETA_OK);
    for (int round = 0; round < 100; round++) {
        thread_pool_run(pool, count_indexes, &r);
    }
    thread_pool_free(pool);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(n, 1);
    assert_int_equal(r.done[0], 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_index_once), cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_creation_fails),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_surroundings),     cmocka_unit_test(test_online),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
