/* reference_device.h - what the two files of the reference plugin share. */
#ifndef GRETA_TESTS_REFERENCE_DEVICE_H
#define GRETA_TESTS_REFERENCE_DEVICE_H

#include "kernel/gpu/gpu.h"

#include <stdbool.h>

#define ARGS_MAX 256 /* of a command, which holds any op */

enum { SMALL = 2, EXHAUSTED = 3, OLD = 4, LOST = 5 };

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
};

/* Keeps the first error. */
void device_fail(gpu_device *d, const char *why);
/* Whether the bytes lie in one allocation; the device fails if not. */
bool is_inside(gpu_device *d, const void *memory, size_t bytes);
/* Runs what is waiting; puts one more behind it. */
void flush(gpu_device *d);
void enqueue(gpu_device *d, run_function *run, const void *args, size_t bytes);
void op_count(gpu_device *d);
/* Fills in weights and ops. */
void reference_ops(gpu_plugin *plugin);

#endif
