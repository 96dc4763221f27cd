/* threads.h - a pool per session: bounded spin, then sleep on a futex.
 *
 * The caller is thread 0. Work is split by the callee from (thread, n_thread): a pure function of
 * shape and thread count. If threads cannot be created the pool is smaller; results do not change.
 */
#ifndef GRETA_BASE_THREADS_H
#define GRETA_BASE_THREADS_H

#include "base/error.h"

typedef struct thread_pool thread_pool;
typedef void (*thread_work)(void *user, int32_t thread, int32_t n_thread);

greta_status thread_pool_new(int32_t n_thread, thread_pool **pool, greta_error *err);
void thread_pool_free(thread_pool *pool);
int32_t thread_pool_size(const thread_pool *pool);
/* Runs work on every thread and returns when all are done. */
void thread_pool_run(thread_pool *pool, thread_work work, void *user);
int32_t thread_online(void); /* CPUs this process may use, at least 1 */

#endif
