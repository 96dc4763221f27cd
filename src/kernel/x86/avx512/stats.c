/* stats.c - statistics of a row for AVX-512: the common body, 16 lanes. */
#include "kernel/x86/avx512/avx512.h"
#include "kernel/x86/avx512/vec.h"

#include "kernel/x86/stats.inc"
