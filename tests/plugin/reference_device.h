/* reference_device.h - what the two files of the reference plugin share. */
#ifndef GRETA_TESTS_REFERENCE_DEVICE_H
#define GRETA_TESTS_REFERENCE_DEVICE_H

#include "kernel/gpu/gpu.h"

#include <stdbool.h>

#define ARGS_MAX 256 /* of a command, which holds any op */

/* Devices with manners to be tested; a plugin without them moves their numbers out of the way. */
#ifndef REFERENCE_SPECIAL
#define REFERENCE_SPECIAL 0
#endif
enum {
    SMALL = REFERENCE_SPECIAL + 2,
    EXHAUSTED = REFERENCE_SPECIAL + 3,
    OLD = REFERENCE_SPECIAL + 4,
    LOST = REFERENCE_SPECIAL + 5
};

#define SLOTS                                                                                      \
    128 /* of shared memory that outlives a launch: row t of a pass has slot t mod SLOTS */

typedef void run_function(gpu_device *device, const void *args);

typedef struct command {
    run_function *run;
    uint8_t args[ARGS_MAX];
} command;

typedef struct queue {
    command *item;
    size_t n, capacity;
} queue;

struct gpu_device {
    int32_t number;
    int64_t n_op;
    char why[160]; /* the first error; "": none */
    queue waiting;
    queue *graph; /* being made; NULL: none */
    kernel_table table;
    int64_t token; /* row of the pass that a norm is at */
    /* Of a device that makes mistakes (faulty_ops.c). */
    bool is_stale, has_first;
    gpu_row first;     /* of a pass that had one row */
    float left[SLOTS]; /* in shared memory, by the norm before */
};

/* The device whose op this thread runs. */
extern _Thread_local gpu_device *device_at_work;

/* What sets a plugin apart; faulty_ops.c has others of its own. */
void device_make(gpu_device *d); /* healthy: nothing is left to do */
int32_t device_count(void);
const char *device_title(int32_t number); /* "reference device" */

/* Keeps the first error. */
void device_fail(gpu_device *d, const char *why);
/* Whether the bytes lie in one allocation; the device fails if not. */
bool is_inside(gpu_device *d, const void *memory, size_t bytes);
/* Runs what is waiting; puts one more behind it. */
void flush(gpu_device *d);
void enqueue(gpu_device *d, run_function *run, const void *args, size_t bytes);
void op_count(gpu_device *d);
/* The kernels of a device without mistakes. */
const kernel_table *reference_kernels(void);
/* Fills in weights and ops. */
void reference_ops(gpu_plugin *plugin);

#endif
