/* threads.h - a pool per session: bounded spin, then sleep on a futex.
 *
 * The caller is thread 0. Work is split by the callee from (thread, n_thread): a pure function of
 * shape and thread count. If threads cannot be created the pool is smaller; results do not change.
 */
#ifndef GRETA_BASE_THREADS_H
#define GRETA_BASE_THREADS_H

#include "base/error.h"

#include <pthread.h>

typedef struct thread_pool thread_pool;
typedef void (*thread_work)(void *user, int32_t thread, int32_t n_thread);

greta_status thread_pool_new(int32_t n_thread, thread_pool **pool, greta_error *err);
/* The same with another pthread_create, for tests of its failure. */
typedef int (*thread_create)(pthread_t *thread, const pthread_attr_t *attributes,
                             void *(*start)(void *), void *argument);
greta_status thread_pool_new_with(int32_t n_thread, thread_create create, thread_pool **pool,
                                  greta_error *err);
void thread_pool_free(thread_pool *pool); /* NULL is fine */
int32_t thread_pool_size(const thread_pool *pool);
/* Runs work on every thread and returns when all are done. One caller at a time; `work` must not
 * call it again. Workers have the environment of fpenv.h; the caller sets its own. */
void thread_pool_run(thread_pool *pool, thread_work work, void *user);
int32_t thread_online(void); /* CPUs this process may use, 1 to LIMIT_THREADS */

#endif
