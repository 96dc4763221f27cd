/* cpu.c - which kernel tables this machine can run.
 *
 * Compiled without instruction-set flags, so that asking never executes what it asks about. A table
 * with AVX2 needs the instructions in CPUID and the YMM state enabled by the system in XCR0;
 * __builtin_cpu_supports checks both. Not every compiler's list has F16C, which lives in the same
 * state: its bit is read here.
 */
#include "kernel/kernel.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern const kernel_table ref_base_table;
#if defined(__x86_64__)
extern const kernel_table ref_avx2_table, avx2_table, avx512_table;

static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

static const kernel_table *const *tables_find(void)
{
    static const kernel_table *const base[] = {&ref_base_table, NULL};
#if defined(__x86_64__)
    static const kernel_table *const avx2[] = {&avx2_table, &ref_avx2_table, &ref_base_table, NULL};
    static const kernel_table *const avx512[] = {&avx512_table, &avx2_table, &ref_avx2_table,
                                                 &ref_base_table, NULL};
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) {
        return base;
    }
    int has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512vnni");
    return has_avx512 ? avx512 : avx2;
#else
    return base;
#endif
}

/* The answer is kept: CPUID is slow in a virtual machine, where each one leaves it. */
const kernel_table *const *kernel_tables(void)
{
    static const kernel_table *const *_Atomic found;
    const kernel_table *const *tables = found;
    if (!tables) {
        found = tables = tables_find();
    }
    return tables;
}

const kernel_table *kernel_find(const char *name)
{
    const kernel_table *const *table = kernel_tables();
    while (name && *table && strcmp((*table)->name, name) != 0) {
        table++;
    }
    return *table;
}
