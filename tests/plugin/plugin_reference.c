/* plugin_reference.c - a device without a GPU: what the engine asks of a plugin, by `ref` kernels.
 *
 * It proves the engine's side alone. Its memory is the host's, but none that the host gave: every
 * operand must lie in an allocation of its own, new memory is poisoned, matrices are stored with
 * their rows in reverse, and nothing runs before somebody waits, as on a real device. So a host
 * pointer, a row that was never uploaded, a matrix in the file's layout or a buffer that was freed
 * too early cannot go unseen.
 *
 * Devices: 0 and 1 work; 2 has no more than 1 MiB; 3 says it has much, and runs out; 4 has an old
 * driver; 5 is lost during its 200th op; others do not exist.
 */
#include "reference_device.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef REFERENCE_NAME
#define REFERENCE_NAME "reference"
#endif
#ifndef REFERENCE_VERSION
#define REFERENCE_VERSION GPU_PLUGIN_VERSION
#endif
#ifndef REFERENCE_ARITHMETIC
#define REFERENCE_ARITHMETIC ARITHMETIC_VERSION
#endif

#ifndef REFERENCE_POISON
#define REFERENCE_POISON 0xff /* floats of it are NaN */
#endif

#define ALIGNMENT 256
#define MEMORY    ((uint64_t)4 << 30)

typedef struct block {
    struct block *next;
    int32_t number;
    uint8_t *data;
    size_t bytes;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *blocks; /* of all devices and openings */
_Thread_local gpu_device *device_at_work;

__attribute__((weak)) void device_make(gpu_device *d)
{
    (void)d;
}

__attribute__((weak)) int32_t device_count(void)
{
    return 6;
}

__attribute__((weak)) const char *device_title(int32_t number)
{
    (void)number;
    return REFERENCE_NAME " device";
}

void device_fail(gpu_device *d, const char *why)
{
    if (!d->why[0]) {
        snprintf(d->why, sizeof d->why, "%s", why);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static uint64_t memory_of(int32_t number)
{
    return number == SMALL ? (uint64_t)1 << 20 : MEMORY;
}

static uint64_t memory_used(int32_t number)
{
    uint64_t used = 0;
    for (const block *b = blocks; b; b = b->next) {
        used += b->number == number ? b->bytes : 0;
    }
    return used;
}

static gpu_status reference_alloc(gpu_device *d, size_t bytes, void **memory)
{
    size_t n_block = 0, whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *memory = NULL;
    pthread_mutex_lock(&lock);
    for (const block *b = blocks; b; b = b->next) {
        n_block += b->number == d->number;
    }
    bool fits = whole <= memory_of(d->number) - memory_used(d->number) &&
                (d->number != EXHAUSTED || n_block < 4);
    block *b = fits ? malloc(sizeof *b) : NULL;
    void *data = NULL;
    if (b && posix_memalign(&data, ALIGNMENT, whole + ALIGNMENT) == 0) {
        memset(data, REFERENCE_POISON, whole);
        *b = (block){blocks, d->number, data, bytes};
        blocks = b;
        *memory = data;
    } else {
        free(b);
    }
    pthread_mutex_unlock(&lock);
    return *memory ? GPU_OK : GPU_NO_MEMORY;
}

bool is_inside(gpu_device *d, const void *memory, size_t bytes)
{
    const uint8_t *at = memory;
    pthread_mutex_lock(&lock);
    const block *b = blocks;
    while (b && !(b->number == d->number && at >= b->data && at <= b->data + b->bytes &&
                  bytes <= (size_t)(b->data + b->bytes - at))) {
        b = b->next;
    }
    pthread_mutex_unlock(&lock);
    if (!b) {
        device_fail(d, "an operand lies outside of the device's memory");
    }
    return b != NULL;
}

/* ---- The queue ------------------------------------------------------------------------------- */

static void queue_add(gpu_device *d, queue *q, const command *c)
{
    if (q->n == q->capacity) {
        size_t capacity = q->capacity ? 2 * q->capacity : 256;
        command *grown = realloc(q->item, capacity * sizeof *grown);
        if (!grown) {
            device_fail(d, "the queue is out of memory");
            return;
        }
        q->item = grown;
        q->capacity = capacity;
    }
    q->item[q->n++] = *c;
}

void enqueue(gpu_device *d, run_function *run, const void *args, size_t bytes)
{
    command c = {.run = run};
    memcpy(c.args, args, bytes);
    queue_add(d, d->graph ? d->graph : &d->waiting, &c);
}

void flush(gpu_device *d)
{
    device_at_work = d;
    for (size_t i = 0; i < d->waiting.n && !d->why[0]; i++) {
        command c = d->waiting.item[i];
        c.run(d, c.args);
    }
    d->waiting.n = 0;
}

static void reference_free(gpu_device *d, void *memory)
{
    if (!memory) {
        return;
    }
    flush(d);
    pthread_mutex_lock(&lock);
    block **at = &blocks;
    while (*at && (*at)->data != memory) {
        at = &(*at)->next;
    }
    block *b = *at;
    if (b) {
        *at = b->next;
    }
    pthread_mutex_unlock(&lock);
    if (!b) {
        device_fail(d, "what is freed was not allocated");
        return;
    }
    free(b->data);
    free(b);
}

/* ---- Devices --------------------------------------------------------------------------------- */

static gpu_status reference_count(int32_t *n, char *why, size_t why_bytes)
{
    snprintf(why, why_bytes, "%s", "");
    *n = device_count();
    return GPU_OK;
}

static gpu_status number_check(int32_t number, char *why, size_t why_bytes)
{
    if (number < 0 || number >= device_count()) {
        snprintf(why, why_bytes, "devices are 0 to %" PRId32, device_count() - 1);
        return GPU_NO_DEVICE;
    }
    if (number == OLD) {
        snprintf(why, why_bytes, "driver 1.0, 2.0 is needed");
        return GPU_NO_DRIVER;
    }
    return GPU_OK;
}

static gpu_status reference_describe(int32_t number, gpu_info *info, char *why, size_t why_bytes)
{
    gpu_status status = number_check(number, why, why_bytes);
    *info = (gpu_info){.arch = "ref", .n_processor = 1};
    if (status != GPU_OK) {
        return status;
    }
    snprintf(info->name, sizeof info->name, "%s %" PRId32, device_title(number), number);
    pthread_mutex_lock(&lock);
    info->memory = memory_of(number);
    info->memory_free = info->memory - memory_used(number);
    pthread_mutex_unlock(&lock);
    return GPU_OK;
}

static gpu_status reference_open(int32_t number, gpu_device **device, char *why, size_t why_bytes)
{
    gpu_status status = number_check(number, why, why_bytes);
    *device = status == GPU_OK ? calloc(1, sizeof **device) : NULL;
    if (*device) {
        (*device)->number = number;
        (*device)->table = *reference_kernels();
        device_make(*device);
    }
    return status == GPU_OK && !*device ? GPU_NO_MEMORY : status;
}

static void reference_close(gpu_device *d)
{
    if (d) {
        flush(d);
        free(d->waiting.item);
        free(d);
    }
}

static gpu_status reference_sync(gpu_device *d, char *why, size_t why_bytes)
{
    flush(d);
    snprintf(why, why_bytes, "%s", d->why);
    return d->why[0] ? GPU_FAILED : GPU_OK;
}

/* ---- Copies ---------------------------------------------------------------------------------- */

typedef struct copy_args {
    void *to;
    const void *from;
    size_t bytes;
    bool is_within;
} copy_args;

static void copy_run(gpu_device *d, const void *args)
{
    copy_args a;
    memcpy(&a, args, sizeof a);
    if (is_inside(d, a.to, a.bytes) && (!a.is_within || is_inside(d, a.from, a.bytes))) {
        memcpy(a.to, a.from, a.bytes);
    }
}

static void reference_copy_in(gpu_device *d, void *to, const void *host_from, size_t bytes)
{
    enqueue(d, copy_run, &(copy_args){to, host_from, bytes, false}, sizeof(copy_args));
}

static void reference_copy(gpu_device *d, void *to, const void *from, size_t bytes)
{
    enqueue(d, copy_run, &(copy_args){to, from, bytes, true}, sizeof(copy_args));
}

static void reference_copy_out(gpu_device *d, void *host_to, const void *from, size_t bytes)
{
    flush(d);
    if (is_inside(d, from, bytes)) {
        memcpy(host_to, from, bytes);
    }
}

static void rows_out_run(gpu_device *d, const void *args)
{
    const gpu_rows_out *a = args;
    for (size_t i = 0; i < a->n; i++) {
        const uint8_t *from = (const uint8_t *)a->from + i * a->stride;
        if (!is_inside(d, from, a->bytes)) {
            return;
        }
        memcpy((uint8_t *)a->host_to + i * a->host_stride, from, a->bytes);
    }
}

static void reference_rows_out(gpu_device *d, const gpu_rows_out *a)
{
    enqueue(d, rows_out_run, a, sizeof *a);
}

static gpu_status reference_host_pin(gpu_device *d, void *host, size_t bytes)
{
    (void)d;
    return host && bytes > 0 ? GPU_OK : GPU_FAILED;
}

static void reference_host_unpin(gpu_device *d, void *host)
{
    if (!host) {
        device_fail(d, "nothing is unpinned");
    }
}

static gpu_status reference_reserve(gpu_device *d, int64_t n_token, int64_t n_position,
                                    int32_t n_head, int32_t head_dim)
{
    (void)d;
    return n_token > 0 && n_position > 0 && n_head > 0 && head_dim > 0 ? GPU_OK : GPU_FAILED;
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

static void reference_graph_begin(gpu_device *d)
{
    d->graph = calloc(1, sizeof *d->graph);
    if (!d->graph) {
        device_fail(d, "a graph is out of memory");
    }
}

static gpu_status reference_graph_end(gpu_device *d, void **graph)
{
    *graph = d->graph;
    d->graph = NULL;
    return *graph ? GPU_OK : GPU_FAILED;
}

/* For tests: how often, over all devices. */
__attribute__((visibility("default"))) int64_t reference_n_launch;

static void reference_graph_launch(gpu_device *d, void *graph)
{
    const queue *q = graph;
    pthread_mutex_lock(&lock);
    reference_n_launch++;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < q->n; i++) {
        op_count(d);
    }
    for (size_t i = 0; i < q->n; i++) {
        queue_add(d, &d->waiting, &q->item[i]);
    }
}

static void reference_graph_free(gpu_device *d, void *graph)
{
    queue *q = graph;
    (void)d;
    if (q) {
        free(q->item);
        free(q);
    }
}

/* ---- The plugin ------------------------------------------------------------------------------ */

__attribute__((visibility("default"))) const gpu_plugin *greta_gpu_plugin(void);

const gpu_plugin *greta_gpu_plugin(void)
{
    static gpu_plugin plugin = {
        .version = REFERENCE_VERSION,
        .arithmetic = REFERENCE_ARITHMETIC,
        .name = REFERENCE_NAME,
        .count = reference_count,
        .describe = reference_describe,
        .open = reference_open,
        .close = reference_close,
        .sync = reference_sync,
        .alloc = reference_alloc,
        .free = reference_free,
        .copy_in = reference_copy_in,
        .copy_out = reference_copy_out,
        .copy = reference_copy,
        .rows_out = reference_rows_out,
        .host_pin = reference_host_pin,
        .host_unpin = reference_host_unpin,
        .reserve = reference_reserve,
        .graph_begin = reference_graph_begin,
        .graph_end = reference_graph_end,
        .graph_launch = reference_graph_launch,
        .graph_free = reference_graph_free,
    };
    reference_ops(&plugin);
    return &plugin;
}
