/* version.c - what this library is and what this machine can run. */
#include "engine/session.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

greta_versions greta_version(void)
{
    return (greta_versions){
        .library = "0.1.0",
        .api = 4,
        .arithmetic = ARITHMETIC_VERSION,
        .trace_format = TRACE_FORMAT_VERSION,
        .stage_list = STAGE_LIST_VERSION,
    };
}

/* The brand string of CPUID leaves 80000002 to 80000004, trimmed; "unknown CPU" elsewhere. */
static void cpu_brand(char brand[64])
{
    snprintf(brand, 64, "unknown CPU");
#if defined(__x86_64__)
    uint32_t leaf[12];
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t *r = leaf + 4 * i;
        if (!__get_cpuid(0x80000002u + i, &r[0], &r[1], &r[2], &r[3])) {
            return;
        }
    }
    char raw[sizeof leaf + 1] = {0};
    memcpy(raw, leaf, sizeof leaf);
    const char *start = raw + strspn(raw, " ");
    size_t n = strlen(start);
    while (n > 0 && start[n - 1] == ' ') {
        n--;
    }
    if (n > 0) {
        snprintf(brand, 64, "%.*s", (int)n, start);
    }
#endif
}

const char *greta_cpu_describe(char *text, size_t bytes)
{
    char brand[64];
    cpu_brand(brand);
    int used = snprintf(text, bytes, "%s; kernels:", brand);
    for (const kernel_table *const *t = kernel_tables(); *t && used > 0 && (size_t)used < bytes;
         t++) {
        used += snprintf(text + used, bytes - (size_t)used, "%s %s",
                         t == kernel_tables() ? "" : ",", (*t)->name);
    }
    return text;
}
