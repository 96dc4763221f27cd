/* wrong_norm.c - the wrong numbers, kernels and index maps of the norm faults.
 *
 * Healthy: y = (x * inv) * weight, inv = 1 / sqrt(sumsq / count + eps), each operation rounded
 * once to f32, sumsq a canonical row sum (docs/numerics.md). A hidden number runs exactly that
 * through `ref` with the number exchanged, so the only difference is the number, bit for bit,
 * whichever table is healthy. The other formulas are written out here, on sums of squares from
 * `ref`. The classifier's counterfactuals (replay/) are written apart from these: sharing them
 * would let a mistake in one vouch for itself in the other.
 */
#include "fault/wrong_norm.h"

#include "base/error.h"
#include "kernel/half.h"

#include <math.h>

void wrong_eps_times_10(float *eps, int64_t *count)
{
    (void)count;
    *eps *= 10.0f;
}

void wrong_eps_over_10(float *eps, int64_t *count)
{
    (void)count;
    *eps /= 10.0f;
}

void wrong_eps_plus_1e_3(float *eps, int64_t *count)
{
    (void)count;
    *eps += 1e-3f;
}

/* Whatever the file says: llama.cpp 2374. */
void wrong_eps_1e_6(float *eps, int64_t *count)
{
    (void)count;
    *eps = 1e-6f;
}

void wrong_count_n_minus_1(float *eps, int64_t *count)
{
    (void)eps;
    *count -= 1;
}

void wrong_count_n_plus_1(float *eps, int64_t *count)
{
    (void)eps;
    *count += 1;
}

void wrong_count_padded(float *eps, int64_t *count)
{
    (void)eps;
    *count = (*count / 256 + 1) * 256;
}

static const kernel_table *definition(void)
{
    const kernel_table *ref = kernel_find("ref");
    GRETA_ASSERT(ref != NULL); /* plain C: every machine has it */
    return ref;
}

static void norm_with(norm_args *a, void (*wrong)(float *eps, int64_t *count))
{
    norm_args used = *a;
    wrong(&used.eps, &used.count);
    definition()->rms_norm(&used);
    a->inv_rms = used.inv_rms;
}

void norm_eps_times_10(norm_args *a)
{
    norm_with(a, wrong_eps_times_10);
}

void norm_eps_over_10(norm_args *a)
{
    norm_with(a, wrong_eps_over_10);
}

void norm_eps_plus_1e_3(norm_args *a)
{
    norm_with(a, wrong_eps_plus_1e_3);
}

void norm_count_n_minus_1(norm_args *a)
{
    norm_with(a, wrong_count_n_minus_1);
}

void norm_count_n_plus_1(norm_args *a)
{
    norm_with(a, wrong_count_n_plus_1);
}

static void count_1(float *eps, int64_t *count)
{
    (void)eps;
    *count = 1;
}

void norm_sum_for_mean(norm_args *a)
{
    norm_with(a, count_1);
}

static float sum_of_squares(const float *x, int64_t n)
{
    row_stats stats;
    definition()->row_stats(DTYPE_F32, x, n, &stats);
    return stats.sumsq;
}

void norm_no_root(norm_args *a)
{
    a->inv_rms = 1.0f / (sum_of_squares(a->x, a->n) / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

void norm_mean_subtracted(norm_args *a)
{
    double sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        sum += (double)a->x[i];
    }
    float mean = (float)(sum / (double)a->count);
    for (int64_t i = 0; i < a->n; i++) {
        a->y[i] = a->x[i] - mean;
    }
    a->inv_rms = 1.0f / sqrtf(sum_of_squares(a->y, a->n) / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->y[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

void norm_weight_plus_1(norm_args *a)
{
    norm_args same = *a;
    definition()->rms_norm(&same);
    a->inv_rms = same.inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * (a->weight[i] + 1.0f);
    }
}

/* eps beside the root in place of inside it. */
void norm_eps_outside(norm_args *a)
{
    a->inv_rms = 1.0f / (sqrtf(sum_of_squares(a->x, a->n) / (float)a->count) + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

void norm_weight_missing(norm_args *a)
{
    norm_args same = *a;
    definition()->rms_norm(&same);
    a->inv_rms = same.inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        a->y[i] = a->x[i] * a->inv_rms;
    }
}

/* Weights that are stored as they are, read as if 1 more were stored, or the other way round. */
void norm_weight_minus_1(norm_args *a)
{
    norm_args same = *a;
    definition()->rms_norm(&same);
    a->inv_rms = same.inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * (a->weight[i] - 1.0f);
    }
}

void norm_weight_squared(norm_args *a)
{
    norm_args same = *a;
    definition()->rms_norm(&same);
    a->inv_rms = same.inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms, once = scaled * a->weight[i];
        a->y[i] = once * a->weight[i];
    }
}

/* Divides by the mean of magnitudes. */
void norm_of_magnitudes(norm_args *a)
{
    float sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        sum += fabsf(a->x[i]);
    }
    a->inv_rms = 1.0f / (sum / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

void norm_missing(norm_args *a)
{
    a->inv_rms = 1.0f;
    for (int64_t i = 0; i < a->n; i++) {
        a->y[i] = a->x[i];
    }
}

/* The sum of squares in binary16, as a kernel with half-precision statistics has it: Inf above
 * 65504. */
void norm_f16_sum(norm_args *a)
{
    float sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        sum = half_to_float(half_from_float(sum + a->x[i] * a->x[i]));
    }
    a->inv_rms = 1.0f / sqrtf(sum / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

/* Weight and factor multiplied first: two roundings, in another order. */
void norm_weight_first(norm_args *a)
{
    norm_args same = *a;
    definition()->rms_norm(&same);
    a->inv_rms = same.inv_rms;
    for (int64_t i = 0; i < a->n; i++) {
        float scale = a->weight[i] * a->inv_rms;
        a->y[i] = a->x[i] * scale;
    }
}

int64_t source_reversed(int64_t i, int64_t n)
{
    return n - 1 - i;
}

int64_t source_halves_swapped(int64_t i, int64_t n)
{
    return (i + n / 2) % n;
}

int64_t source_shifted(int64_t i, int64_t n)
{
    return (i + 1) % n;
}

int64_t source_stride_2(int64_t i, int64_t n)
{
    return 2 * i % n;
}
