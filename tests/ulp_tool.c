/* ulp_tool.c - the error of exp, sigmoid, silu, tanh and gelu over all floats (`make ulp`):
 *
 *     ulp_tool [FILE]      FILE must have the lines that are printed: docs/numerics.md
 *
 * The functions are called as kernels do, through every table of this machine. Results of the first
 * table are judged one by one; those of the others must have the same digest (of `ref`, which is
 * slow, one block of 32), the XXH3 of the XXH3
 * of blocks of 2^22 results in order of the arguments' bits, one NaN. A judgement is made in
 * binary64 first; wherever that is within 2^-40, relative, of a decision (a midpoint between two
 * floats, a new largest error), MPFR makes it. The libm of the machine is trusted for 2^-42.
 *
 * One line a function, as docs/numerics.md has it: largest error in ulp where the exact result is a
 * normal number and where it is, with the arguments; the number of results that are not the
 * nearest float; steps against the order of the function; digest. Below it, for the eye: special
 * values, and where results become 0, subnormal and infinite. An ulp of y is the distance of floats
 * at y, 2^-149 below 2^-126; infinity stands for 2^128.
 */
#include "elementary_exact.h"
#include "kernel/half.h"
#include "kernel/kernel.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define BLOCK    ((uint32_t)1 << 22)
#define N_BLOCK  1024
#define CLOSE    0x1p-40 /* what binary64 may decide */
#define REF_STEP 32 /* without vectors, "ref" would take most of the time: one block of these */
#define TABLES   8
#define N_THREAD 64
#define LINE     256

/* ---- One result --------------------------------------------------------------------------------
 */

typedef struct worst {
    double ulp;
    float at;
} worst;

typedef struct findings {
    worst normal, subnormal;
    uint64_t n_not_nearest, n_against_order, n_exact; /* n_exact: asked of MPFR */
    float least_inf;                                  /* least argument whose result is inf */
    float most_zero, most_subnormal; /* below -1: greatest whose result is 0, is subnormal */
} findings;

/* The float above or below. */
static float neighbour(float y, int is_above)
{
    if (y == 0.0f) {
        return is_above ? 0x1p-149f : -0x1p-149f;
    }
    int is_outward = is_above == (y > 0.0f);
    return float_from_bits(bits_from_float(y) + (is_outward ? 1u : UINT32_MAX));
}

/* Whether the exact value lies on y's side of the midpoint to the float beyond it. */
static int is_nearest(const exact_function *f, float x, float y, double about, findings *found)
{
    int is_above = about > value_of(y);
    double middle = (value_of(y) + value_of(neighbour(y, is_above))) / 2;
    double past = is_above ? about - middle : middle - about;
    if (fabs(past) > CLOSE * fabs(about)) {
        return past < 0;
    }
    if (fabsf(x) < TINY) { /* what the series leaves out is positive */
        return past < 0 || (past == 0 && !is_above);
    }
    mpfr_t exact;
    mpfr_init2(exact, EXACT_BITS);
    f->exact(exact, x);
    int order = mpfr_cmp_d(exact, middle);
    mpfr_clear(exact);
    found->n_exact++;
    return is_above ? order < 0 : order > 0;
}

static void judge(const exact_function *f, float x, float y, findings *found)
{
    int is_tiny = fabsf(x) < TINY;
    double about = is_tiny ? f->at_zero + f->slope * (double)x : f->approximate((double)x);
    about = about > 0x1p128 ? 0x1p128 : about;
    if (about == value_of(y)) {
        return;
    }
    if (isnan(y)) {
        found->normal = (worst){(double)INFINITY, x};
        return;
    }
    found->n_not_nearest += !is_nearest(f, x, y, about, found);
    double ulp = ulp_at(about), error = fabs(value_of(y) - about) / ulp;
    worst *w = fabs(about) < 0x1p-126 ? &found->subnormal : &found->normal;
    if (error <= w->ulp - 2 * CLOSE / 0x1p-24) {
        return;
    }
    if (!is_tiny) {
        error = error_in_ulp(f, x, y, ulp);
        found->n_exact++;
    }
    if (error > w->ulp || (error == w->ulp && x < w->at)) { /* whichever thread came first */
        *w = (worst){error, x};
    }
}

static void note_range(float x, float y, findings *found)
{
    if (isinf(y) && x < found->least_inf) {
        found->least_inf = x;
    }
    if (x < -1.0f && y == 0.0f && x > found->most_zero) {
        found->most_zero = x;
    }
    if (x < -1.0f && y != 0.0f && fabsf(y) < 0x1p-126f && x > found->most_subnormal) {
        found->most_subnormal = x;
    }
}

/* ---- All of them -------------------------------------------------------------------------------
 */

typedef struct sweep {
    const exact_function *f;
    atomic_uint next;
    pthread_mutex_t lock;
    findings found;
    uint64_t digest[TABLES][N_BLOCK];
} sweep;

static void merge_worst(worst *all, const worst *one)
{
    if (one->ulp > all->ulp || (one->ulp == all->ulp && one->at < all->at)) {
        *all = *one;
    }
}

static void merge(findings *all, const findings *one)
{
    merge_worst(&all->normal, &one->normal);
    merge_worst(&all->subnormal, &one->subnormal);
    all->n_not_nearest += one->n_not_nearest;
    all->n_against_order += one->n_against_order;
    all->n_exact += one->n_exact;
    all->least_inf = fminf(all->least_inf, one->least_inf);
    all->most_zero = fmaxf(all->most_zero, one->most_zero);
    all->most_subnormal = fmaxf(all->most_subnormal, one->most_subnormal);
}

/* Errors are noted from half an ulp on. */
static const findings nothing = {.normal = {0.5, NAN},
                                 .subnormal = {0.5, NAN},
                                 .least_inf = INFINITY,
                                 .most_zero = -INFINITY,
                                 .most_subnormal = -INFINITY};

/* Arguments of one sign, growing in size, and the next one for the order. */
static void judge_block(const exact_function *f, const float *x, const float *y, findings *found)
{
    for (uint32_t i = 0; i < BLOCK; i++) {
        if (isfinite(x[i])) {
            judge(f, x[i], y[i], found);
            note_range(x[i], y[i], found);
        }
        found->n_against_order += signbit(x[i]) ? y[i + 1] > y[i] : y[i + 1] < y[i];
    }
}

static void *sweep_run(void *user)
{
    sweep *s = user;
    float *x = malloc((BLOCK + 1) * sizeof *x), *y = malloc((BLOCK + 1) * sizeof *y);
    findings found = nothing;
    for (uint32_t b; x && y && (b = atomic_fetch_add(&s->next, 1)) < N_BLOCK;) {
        for (uint32_t i = 0; i <= BLOCK; i++) { /* one more: blocks overlap for the order */
            x[i] = float_from_bits(b * BLOCK + i);
        }
        const kernel_table *const *t = kernel_tables();
        for (int k = 0; t[k]; k++) {
            if (strcmp(t[k]->name, "ref") == 0 && b % REF_STEP != 0) {
                s->digest[k][b] = s->digest[0][b];
                continue;
            }
            t[k]->glu(s->f->kind, x, NULL, y, BLOCK + 1);
            for (uint32_t i = 0; i <= BLOCK; i++) {
                y[i] = float_from_bits(hash_float_bits(y[i]));
            }
            s->digest[k][b] = XXH3_64bits(y, BLOCK * sizeof *y);
            if (k == 0) {
                judge_block(s->f, x, y, &found);
            }
        }
    }
    free(x);
    free(y);
    pthread_mutex_lock(&s->lock);
    merge(&s->found, &found);
    pthread_mutex_unlock(&s->lock);
    mpfr_free_cache();
    return NULL;
}

/* The line of docs/numerics.md. */
static void sweep_line(const sweep *s, char line[LINE])
{
    const findings *found = &s->found;
    char order[32] = "-", subnormal[64] = "-";
    if (s->f->is_rising) {
        snprintf(order, sizeof order, "%" PRIu64, found->n_against_order);
    }
    if (!isnan(found->subnormal.at)) {
        snprintf(subnormal, sizeof subnormal, "%.5f at %a", found->subnormal.ulp,
                 (double)found->subnormal.at);
    }
    snprintf(line, LINE, "| %s | %.5f at %a | %s | %" PRIu64 " | %s | %016" PRIx64 " |", s->f->name,
             found->normal.ulp, (double)found->normal.at, subnormal, found->n_not_nearest, order,
             (uint64_t)XXH3_64bits(s->digest[0], sizeof s->digest[0]));
}

static int table_agrees(const sweep *s, int k)
{
    return memcmp(s->digest[k], s->digest[0], sizeof s->digest[0]) == 0;
}

/* Whether all tables agree. */
static int sweep_function(sweep *s, long n_thread)
{
    pthread_t thread[N_THREAD];
    atomic_store(&s->next, 0);
    s->found = nothing;
    memset(s->digest, 0, sizeof s->digest);
    long n = 0;
    while (n < n_thread && pthread_create(&thread[n], NULL, sweep_run, s) == 0) {
        n++;
    }
    for (long i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
    }
    int all_agree = atomic_load(&s->next) >= N_BLOCK; /* memory for one thread at least */
    for (int k = 0; kernel_tables()[k]; k++) {
        all_agree &= table_agrees(s, k);
    }
    return all_agree;
}

static void print_specials(const sweep *s)
{
    static const float special[] = {NAN,        INFINITY,        -INFINITY,
                                    0.0f,       -0.0f,           0x1p-149f,
                                    -0x1p-149f, 0x1.fffffep127f, -0x1.fffffep127f};
    enum { N = sizeof special / sizeof *special };
    const findings *found = &s->found;
    float y[N];
    kernel_tables()[0]->glu(s->f->kind, special, NULL, y, N);
    printf("  the same digest:");
    for (int k = 0; kernel_tables()[k]; k++) {
        printf(" %s%s", kernel_tables()[k]->name, table_agrees(s, k) ? "" : " (NO)");
    }
    printf("\n  ");
    for (int i = 0; i < N; i++) {
        double shown = isnan(y[i]) ? (double)NAN : (double)y[i];
        printf("f(%a) = %a%s", (double)special[i], shown, i + 1 < N ? ", " : "\n");
    }
    printf("  inf from %a; below -1: 0 up to %a, subnormal up to %a; MPFR asked %" PRIu64
           " times\n",
           (double)found->least_inf, (double)found->most_zero, (double)found->most_subnormal,
           found->n_exact);
    fflush(stdout);
}

/* Whether the text has the line. */
static int has_line(const char *text, const char *line)
{
    size_t n = strlen(line);
    for (const char *at = text; (at = strstr(at, line)) != NULL; at++) {
        if ((at == text || at[-1] == '\n') && (at[n] == '\n' || at[n] == '\0')) {
            return 1;
        }
    }
    return 0;
}

static char *read_text(const char *path)
{
    enum { MOST = 1 << 20 };
    FILE *file = fopen(path, "r");
    char *text = calloc(MOST, 1);
    size_t n = file && text ? fread(text, 1, MOST - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    if (n == 0) {
        fprintf(stderr, "ulp_tool: %s: cannot be read\n", path);
        exit(2);
    }
    return text;
}

int main(int n_arg, char **arg)
{
    static sweep s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char *text = n_arg > 1 ? read_text(arg[1]) : NULL;
    long n_thread = sysconf(_SC_NPROCESSORS_ONLN);
    n_thread = n_thread < 1 ? 1 : n_thread > N_THREAD ? N_THREAD : n_thread;
    int is_good = 1;
    for (size_t i = 0; i < N_EXACT; i++) {
        s.f = &exact_functions[i];
        is_good &= sweep_function(&s, n_thread);
        char line[LINE];
        sweep_line(&s, line);
        printf("%s\n", line);
        if (text && !has_line(text, line)) {
            printf("  NOT what %s says\n", arg[1]);
            is_good = 0;
        }
        print_specials(&s);
    }
    free(text);
    return is_good ? 0 : 1;
}
