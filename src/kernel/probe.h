/* probe.h - loops that only one part of a machine limits, one set per instruction set.
 *
 * They are the other side of every share that greta bench prints, so each must come as near to the
 * machine's peak as any program can. A round is PROBE_STEPS steps of every accumulator.
 */
#ifndef GRETA_KERNEL_PROBE_H
#define GRETA_KERNEL_PROBE_H

#include <stddef.h>
#include <stdint.h>

#define PROBE_STEPS 1024 /* of every accumulator in a round */

typedef struct probe_loops {
    const char *name_int8, *name_fma;
    double ops_int8, ops_fma; /* operations in a round */
    /* The result depends on all that was done. */
    uint64_t (*read)(const uint8_t *data, size_t bytes); /* 64-byte aligned, a multiple of 1024 */
    uint64_t (*int8)(int64_t n_round);
    uint64_t (*fma)(int64_t n_round);
} probe_loops;

#if defined(__x86_64__)
extern const probe_loops avx2_probe, avx512_probe;
#endif

#endif
