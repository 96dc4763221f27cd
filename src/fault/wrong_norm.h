/* wrong_norm.h - RMS norms that are wrong in one way: numbers, kernels and index maps to plant. */
#ifndef GRETA_FAULT_WRONG_NORM_H
#define GRETA_FAULT_WRONG_NORM_H

#include "kernel/kernel.h"

/* The right formula with a wrong number. */
void wrong_eps_times_10(float *eps, int64_t *count);
void wrong_eps_over_10(float *eps, int64_t *count);
void wrong_eps_plus_1e_3(float *eps, int64_t *count);
void wrong_eps_1e_6(float *eps, int64_t *count);
void wrong_count_n_minus_1(float *eps, int64_t *count);
void wrong_count_n_plus_1(float *eps, int64_t *count);
/* The next multiple of 256 above it. */
void wrong_count_padded(float *eps, int64_t *count);

/* The same, inside the kernel: it is given the right numbers and uses the wrong ones. The reported
 * inverse rms is the one it used. */
void norm_eps_times_10(norm_args *a);
void norm_eps_over_10(norm_args *a);
void norm_eps_plus_1e_3(norm_args *a);
void norm_count_n_minus_1(norm_args *a);
void norm_count_n_plus_1(norm_args *a);

/* Another formula. The reported inverse rms is the factor it used. */
void norm_sum_for_mean(norm_args *a);
void norm_no_root(norm_args *a);
void norm_mean_subtracted(norm_args *a);
void norm_weight_plus_1(norm_args *a);
void norm_eps_outside(norm_args *a);
void norm_weight_missing(norm_args *a);
void norm_weight_minus_1(norm_args *a);
void norm_weight_squared(norm_args *a);
void norm_of_magnitudes(norm_args *a);
void norm_missing(norm_args *a);
void norm_f16_sum(norm_args *a);
void norm_weight_first(norm_args *a);

/* Index of the weight that is read in place of weight i of n. */
int64_t source_reversed(int64_t i, int64_t n);
int64_t source_halves_swapped(int64_t i, int64_t n);
int64_t source_shifted(int64_t i, int64_t n);
int64_t source_stride_2(int64_t i, int64_t n);

#endif
