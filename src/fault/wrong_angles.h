/* wrong_angles.h - rotary angles that are wrong in one way, for plant_angles. */
#ifndef GRETA_FAULT_WRONG_ANGLES_H
#define GRETA_FAULT_WRONG_ANGLES_H

#include "fault/fault.h"

/* Numbers of the formula; false: the model's are these already. */
bool angles_base_10000(const fault_site *site, rope_table_args *a);
bool angles_base_500000(const fault_site *site, rope_table_args *a);
bool angles_base_1000000(const fault_site *site, rope_table_args *a);
bool angles_base_other(const fault_site *site, rope_table_args *a);
bool angles_base_global(const fault_site *site, rope_table_args *a);
bool angles_unscaled(const fault_site *site, rope_table_args *a);
bool angles_linear_2(const fault_site *site, rope_table_args *a);
bool angles_position_minus_1(const fault_site *site, rope_table_args *a);
bool angles_position_plus_1(const fault_site *site, rope_table_args *a);
bool angles_half_dims(const fault_site *site, rope_table_args *a);

double angle_rounded_bf16(double inv_freq);

/* Radians of a position, every factor and the product in a narrow format. */
double phase_f16(double position, double inv_freq);
double phase_bf16(double position, double inv_freq);

/* The position whose angles position p gets: p or one before it. */
int64_t position_0(int64_t p);
int64_t position_mod_16(int64_t p);
int64_t position_bf16(int64_t p);

/* What becomes of a cosine or sine. */
float angle_backwards(float value, int is_sine);
float angle_swapped_sign(float value, int is_sine);
float angle_larger(float value, int is_sine);
float angle_larger_261(float value, int is_sine);
float angle_yarn_16(float value, int is_sine);
float angle_f16(float value, int is_sine);
float angle_bf16(float value, int is_sine);

#endif
