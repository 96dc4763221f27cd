/* attention.c - attention for AVX2, FMA and F16C: the common body, 8 lanes. */
#include "kernel/x86/avx2/avx2.h"
#include "kernel/x86/avx2/vec.h"

#include "kernel/x86/attention.inc"
