/* peak.c - what AVX-512 can do at most: reading, VPDPBUSD, VFMADD on 512-bit registers.
 *
 * 16 independent accumulators: two units with a latency of four or five steps each need ten.
 * Nothing is loaded inside the loops of arithmetic: accumulators start apart and operands are
 * opaque, so that the compiler can neither join nor foresee them. The loops over accumulators must
 * be unrolled, or gcc keeps them in memory. Reading is one stream in order, which measured at or
 * above several streams and every distance of software prefetch.
 */
#include "kernel/probe.h"

#include <immintrin.h>

#define N      16 /* accumulators */
#define UNROLL _Pragma("GCC unroll 16")

static uint64_t read_avx512(const uint8_t *data, size_t bytes)
{
    __m512i sum[N];
    UNROLL
    for (int i = 0; i < N; i++) {
        sum[i] = _mm512_setzero_si512();
    }
    for (size_t at = 0; at < bytes; at += 64 * N) {
        UNROLL
        for (int i = 0; i < N; i++) {
            sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(data + at + 64 * i));
        }
    }
    UNROLL
    for (int i = 1; i < N; i++) {
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

static uint64_t int8_avx512(int64_t n_round)
{
    __m512i sum[N], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    UNROLL
    for (int i = 0; i < N; i++) {
        sum[i] = _mm512_set1_epi32(i);
    }
    __asm__ volatile("" : "+v"(a), "+v"(b));
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        UNROLL
        for (int i = 0; i < N; i++) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
        }
    }
    UNROLL
    for (int i = 1; i < N; i++) {
        sum[0] = _mm512_xor_si512(sum[0], sum[i]);
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

static uint64_t fma_avx512(int64_t n_round)
{
    __m512 sum[N], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
    UNROLL
    for (int i = 0; i < N; i++) {
        sum[i] = _mm512_set1_ps((float)i);
    }
    __asm__ volatile("" : "+v"(a), "+v"(b));
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        UNROLL
        for (int i = 0; i < N; i++) {
            sum[i] = _mm512_fmadd_ps(sum[i], a, b);
        }
    }
    UNROLL
    for (int i = 1; i < N; i++) {
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    }
    return (uint64_t)_mm512_cvtss_f32(sum[0]);
}

const probe_loops avx512_probe = {
    .name_int8 = "AVX-512 VNNI",
    .name_fma = "AVX-512 FMA",
    .ops_int8 = 2.0 * 64 * N * PROBE_STEPS,
    .ops_fma = 2.0 * 16 * N * PROBE_STEPS,
    .read = read_avx512,
    .int8 = int8_avx512,
    .fma = fma_avx512,
};
