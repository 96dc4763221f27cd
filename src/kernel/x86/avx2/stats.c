/* stats.c - statistics of a row for AVX2: the common body, 8 lanes. */
#include "kernel/x86/avx2/avx2.h"
#include "kernel/x86/avx2/vec.h"

#include "kernel/x86/stats.inc"
