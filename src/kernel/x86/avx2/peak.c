/* peak.c - what AVX2 can do at most: reading, VPMADDUBSW chains, VFMADD on 256-bit registers.
 *
 * The integer step is the one that a dot product of bytes takes without VNNI: VPMADDUBSW, VPMADDWD
 * with ones, VPADDD; three instructions for 32 multiply-adds. The first is an asm statement, so
 * that the compiler does not compute it once for all steps. The loops over accumulators must be
 * unrolled, or gcc keeps them in memory.
 */
#include "kernel/probe.h"

#include <immintrin.h>

#define N      12 /* accumulators: two units with a latency of five steps, and two operands */
#define N_INT8 8  /* their chains are single additions; more would not fit the registers */
#define UNROLL _Pragma("GCC unroll 16")

static inline __attribute__((always_inline)) uint64_t fold(const __m256i *sum, int n)
{
    uint64_t part[4], total = 0;
    UNROLL
    for (int i = 0; i < n; i++) {
        _mm256_storeu_si256((__m256i *)(void *)part, sum[i]);
        total ^= part[0] ^ part[1] ^ part[2] ^ part[3];
    }
    return total;
}

static uint64_t read_avx2(const uint8_t *data, size_t bytes)
{
    __m256i sum[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    for (size_t at = 0; at < bytes; at += 256) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            const void *from = data + at + 32 * i;
            sum[i] = _mm256_xor_si256(sum[i], _mm256_load_si256(from));
        }
    }
    return fold(sum, 8);
}

static uint64_t int8_avx2(int64_t n_round)
{
    __m256i sum[N_INT8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2),
                         ones = _mm256_set1_epi16(1);
    UNROLL
    for (int i = 0; i < N_INT8; i++) {
        sum[i] = _mm256_setzero_si256();
    }
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        UNROLL
        for (int i = 0; i < N_INT8; i++) {
            __m256i pairs;
            __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(a), "x"(b));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
        }
    }
    return fold(sum, N_INT8);
}

static uint64_t fma_avx2(int64_t n_round)
{
    __m256 sum[N], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.0f);
    __m256i bits[N];
    UNROLL
    for (int i = 0; i < N; i++) {
        sum[i] = _mm256_set1_ps((float)i);
    }
    __asm__ volatile("" : "+x"(a), "+x"(b));
    for (int64_t step = 0; step < n_round * PROBE_STEPS; step++) {
        UNROLL
        for (int i = 0; i < N; i++) {
            sum[i] = _mm256_fmadd_ps(sum[i], a, b);
        }
    }
    UNROLL
    for (int i = 0; i < N; i++) {
        bits[i] = _mm256_castps_si256(sum[i]);
    }
    return fold(bits, N);
}

const probe_loops avx2_probe = {
    .name_int8 = "AVX2 VPMADDUBSW",
    .name_fma = "AVX2 FMA",
    .ops_int8 = 2.0 * 32 * N_INT8 * PROBE_STEPS,
    .ops_fma = 2.0 * 8 * N * PROBE_STEPS,
    .read = read_avx2,
    .int8 = int8_avx2,
    .fma = fma_avx2,
};
