/* cpu_segment.c - what the segment length of float weights costs on a CPU with AVX-512.
 *
 * The loop of src/kernel/x86/avx512/matmul_f32.c with the length as an argument: tiles of 32 rows,
 * packed 16 rows interleaved, one FMA chain per lane, chains joined in index order through y. A
 * segment's end writes and re-adds the accumulators; a segment's length also decides how much of a
 * tile stays in cache while the tokens pass over it. Lengths take turns within one repeat and
 * ratios to 1024 are what is printed, so that a machine shared with others decides less.
 *
 * Build: cc -O3 -std=c11 -D_GNU_SOURCE -mavx512f -mfma -mf16c bench/cpu_segment.c -o cpu_segment
 * Run: cpu_segment [repeats]. One thread.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INLINE       static inline __attribute__((always_inline))
#define TOKENS_MAX   12
#define TOKENS       48 /* of a matrix product: four passes over a tile */
#define PREFILL_ROWS 1024
#define REPEATS_MAX  99
#define N_LENGTH     6

static const int64_t lengths[N_LENGTH] = {256, 512, 1024, 2048, 4096, INT64_MAX};
#define REFERENCE 2 /* index of 1024 */

typedef struct matrix {
    int64_t k, n, length;
    const uint8_t *w; /* (n / 16, k, 16) */
    const float *x;   /* (token, k) */
    float *y;         /* (token, n) */
} matrix;

INLINE __m512 column(int is_half, const uint8_t *tile, int64_t k)
{
    return is_half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)tile + k))
                   : _mm512_loadu_ps(tile + 64 * k);
}

/* One segment of 32 rows and T tokens. */
INLINE void segment(const matrix *m, int is_half, int T, int64_t row, int64_t token, int64_t k0)
{
    __m512 acc[2][TOKENS_MAX];
    int64_t unit = is_half ? 32 : 64, n = m->k - k0 < m->length ? m->k - k0 : m->length;
    const uint8_t *low = m->w + (row / 16 * m->k + k0) * unit, *high = low + m->k * unit;
    const float *x = m->x + token * m->k + k0;
    for (int t = 0; t < T; t++) {
        acc[0][t] = acc[1][t] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < n; k++) {
        __m512 w0 = column(is_half, low, k), w1 = column(is_half, high, k);
        for (int t = 0; t < T; t++) {
            __m512 value = _mm512_set1_ps(x[t * m->k + k]);
            acc[0][t] = _mm512_fmadd_ps(w0, value, acc[0][t]);
            acc[1][t] = _mm512_fmadd_ps(w1, value, acc[1][t]);
        }
    }
    for (int t = 0; t < T; t++) {
        float *y = m->y + (token + t) * m->n + row;
        for (int r = 0; r < 2; r++) {
            __m512 sum = k0 ? _mm512_add_ps(_mm512_loadu_ps(y + 16 * r), acc[r][t]) : acc[r][t];
            _mm512_storeu_ps(y + 16 * r, sum);
        }
    }
}

INLINE void multiply(const matrix *m, int is_half, int T, int64_t n_token)
{
    for (int64_t row = 0; row < m->n; row += 32) {
        int64_t step = m->length < m->k ? m->length : m->k;
        for (int64_t k0 = 0; k0 < m->k; k0 += step) {
            for (int64_t token = 0; token < n_token; token += T) {
                segment(m, is_half, T, row, token, k0);
            }
        }
    }
}

static __attribute__((noinline)) void run(const matrix *m, int is_half, int64_t n_token)
{
    if (n_token == 1) {
        is_half ? multiply(m, 1, 1, 1) : multiply(m, 0, 1, 1);
    } else {
        is_half ? multiply(m, 1, TOKENS_MAX, n_token) : multiply(m, 0, TOKENS_MAX, n_token);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "cpu_segment: out of memory (%zu bytes)\n", bytes);
        exit(1);
    }
    return memory;
}

/* Ratios of the time of every length to that of 1024 in the same repeat: median, least, most. */
static void measure(matrix m, int is_half, int64_t n_token, int repeats)
{
    double seconds[N_LENGTH][REPEATS_MAX] = {{0}};
    m.n = n_token > 1 && m.n > PREFILL_ROWS ? PREFILL_ROWS : m.n;
    for (int i = -1; i < repeats; i++) { /* once to warm up */
        for (int l = 0; l < N_LENGTH; l++) {
            int turn = (l + (i < 0 ? 0 : i)) % N_LENGTH;
            m.length = lengths[turn];
            double start = now();
            run(&m, is_half, n_token);
            seconds[turn][i < 0 ? 0 : i] = now() - start;
        }
    }
    for (int l = 0; l < N_LENGTH; l++) {
        double ratio[REPEATS_MAX];
        if (lengths[l] != INT64_MAX && lengths[l] >= m.k) {
            continue;
        }
        for (int i = 0; i < repeats; i++) {
            ratio[i] = seconds[l][i] / seconds[REFERENCE][i];
        }
        qsort(ratio, (size_t)repeats, sizeof *ratio, by_value);
        char name[24] = "whole";
        if (lengths[l] != INT64_MAX) {
            snprintf(name, sizeof name, "%lld", (long long)lengths[l]);
        }
        printf("%s_%s\t%lldx%lld\t%s\t%.3f\t%.3f\t%.3f\n", n_token == 1 ? "decode" : "prefill",
               is_half ? "f16" : "f32", (long long)m.k, (long long)m.n, name, ratio[repeats / 2],
               ratio[0], ratio[repeats - 1]);
    }
    fflush(stdout);
}

static void print_cpu(void)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "model name", 10) == 0) {
            printf("# %s", strchr(line, ':') + 2);
            break;
        }
    }
    if (file) {
        fclose(file);
    }
}

/* Exact small integers, so that any length gives the same y: a check of the loops. */
static int lengths_agree(matrix m, int is_half, int64_t n_token, float *other)
{
    size_t bytes = (size_t)(m.n * n_token) * sizeof(float);
    float *y = m.y;
    m.length = lengths[REFERENCE];
    run(&m, is_half, n_token);
    for (int l = 0; l < N_LENGTH; l++) {
        m.length = lengths[l];
        m.y = other;
        run(&m, is_half, n_token);
        if (memcmp(other, y, bytes) != 0) {
            return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    static const int64_t shape[][2] = {{2048, 8192}, {8192, 2048}, {4096, 4096}, {14336, 4096}};
    int repeats = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 15;
    if (repeats < 1 || repeats > REPEATS_MAX) {
        fprintf(stderr, "usage: cpu_segment [repeats, 1 to %d]\n", REPEATS_MAX);
        return 2;
    }
    print_cpu();
    printf("kind\tshape\tlength\tratio_to_1024\tmin\tmax\n");
    int agree = 1;
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        matrix m = {.k = shape[s][0], .n = shape[s][1]};
        size_t n_weight = (size_t)(m.k * m.n), n_x = (size_t)(m.k * TOKENS);
        size_t n_y = (size_t)(m.n * TOKENS);
        float *w = allocate(4 * n_weight), *x = allocate(4 * n_x), *y = allocate(4 * n_y);
        float *other = allocate(4 * n_y);
        uint16_t *half = allocate(2 * n_weight);
        for (size_t i = 0; i < n_weight; i++) {
            int value = (int)(i * 2654435761u >> 13 & 7) - 3;
            w[i] = (float)value;
            half[i] = (uint16_t)_cvtss_sh(w[i], 0);
        }
        for (size_t i = 0; i < n_x; i++) {
            x[i] = (float)((int)(i * 2654435761u >> 11 & 7) - 3);
        }
        m.x = x;
        m.y = y;
        for (int is_half = 0; is_half < 2; is_half++) {
            m.w = is_half ? (const uint8_t *)half : (const uint8_t *)w;
            agree &= lengths_agree(m, is_half, 1, other);
            agree &= lengths_agree(m, is_half, TOKENS, other);
            measure(m, is_half, 1, repeats);
            measure(m, is_half, TOKENS, repeats);
        }
        free(w);
        free(x);
        free(y);
        free(other);
        free(half);
    }
    if (!agree) {
        fprintf(stderr, "cpu_segment: lengths disagree on exact operands\n");
    }
    return agree ? 0 : 1;
}
