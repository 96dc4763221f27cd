/* wrong_angles.c - rotary angles that are wrong: numbers of the formula, positions, values.
 *
 * Each function changes one thing of a table that the healthy formula of kernel/rope_table.c makes.
 */
#include "fault/wrong_angles.h"

#include "kernel/half.h"

#include <math.h>

/* ---- The formula ----------------------------------------------------------------------------- */

static bool base_set(rope_table_args *a, float base)
{
    bool differs = a->freq_base != base;
    a->freq_base = base;
    return differs;
}

bool angles_base_10000(const fault_site *site, rope_table_args *a)
{
    (void)site;
    return base_set(a, 1e4f);
}

bool angles_base_500000(const fault_site *site, rope_table_args *a)
{
    (void)site;
    return base_set(a, 5e5f);
}

bool angles_base_1000000(const fault_site *site, rope_table_args *a)
{
    (void)site;
    return base_set(a, 1e6f);
}

/* The base of the layers of the other kind. */
bool angles_base_other(const fault_site *site, rope_table_args *a)
{
    for (int i = 0; i < 2; i++) {
        float base = site->angles[i].freq_base;
        if (base > 0 && base != a->freq_base) {
            return base_set(a, base);
        }
    }
    return false;
}

/* Layers with a window by the base of those without: candle 2891. */
bool angles_base_global(const fault_site *site, rope_table_args *a)
{
    float base = site->angles[0].freq_base;
    return base > 0 && base_set(a, base);
}

bool angles_unscaled(const fault_site *site, rope_table_args *a)
{
    (void)site;
    bool is_scaled = a->factors != NULL || a->scaling != ROPE_SCALING_NONE;
    a->factors = NULL;
    a->scaling = ROPE_SCALING_NONE;
    a->attn_factor = 0;
    return is_scaled;
}

/* Linear scaling (Chen et al. 2023) where the model has none of it. */
bool angles_linear_2(const fault_site *site, rope_table_args *a)
{
    (void)site;
    bool is_linear = a->scaling == ROPE_SCALING_LINEAR;
    a->factor = is_linear ? 2 * a->factor : 2;
    a->scaling = ROPE_SCALING_LINEAR;
    return true;
}

bool angles_position_minus_1(const fault_site *site, rope_table_args *a)
{
    (void)site;
    a->first_position -= 1;
    return true;
}

bool angles_position_plus_1(const fault_site *site, rope_table_args *a)
{
    (void)site;
    a->first_position += 1;
    return true;
}

bool angles_half_dims(const fault_site *site, rope_table_args *a)
{
    (void)site;
    bool is_long = a->rope_dim >= 4;
    a->rope_dim = a->rope_dim / 4 * 2;
    return is_long;
}

double angle_rounded_bf16(double inv_freq)
{
    return (double)angle_bf16((float)inv_freq, 0);
}

static double rounded_f16(double value)
{
    return (double)half_to_float(half_from_float((float)value));
}

/* gpt-neox 1003: an angle of 1044 has a step of 0.5 in binary16. */
double phase_f16(double position, double inv_freq)
{
    return rounded_f16(rounded_f16(position) * rounded_f16(inv_freq));
}

static double rounded_bf16(double value)
{
    return (double)angle_bf16((float)value, 0);
}

double phase_bf16(double position, double inv_freq)
{
    return rounded_bf16(rounded_bf16(position) * rounded_bf16(inv_freq));
}

/* ---- Positions --------------------------------------------------------------------------------
 */

int64_t position_0(int64_t p)
{
    (void)p;
    return 0;
}

int64_t position_mod_16(int64_t p)
{
    return p % 16;
}

/* Positions kept in bfloat16, whose 8 bits hold every whole number up to 256; cut off above. */
int64_t position_bf16(int64_t p)
{
    int64_t step = 1;
    while (p / step >= 256) {
        step *= 2;
    }
    return p / step * step;
}

/* ---- Values ------------------------------------------------------------------------------------
 */

float angle_backwards(float value, int is_sine)
{
    return is_sine ? -value : value;
}

float angle_swapped_sign(float value, int is_sine)
{
    return is_sine ? value : -value;
}

float angle_larger(float value, int is_sine)
{
    (void)is_sine;
    return value * 1.1f;
}

float angle_larger_261(float value, int is_sine) /* imp 880 */
{
    (void)is_sine;
    return value * 1.261f;
}

/* YaRN's attention factor for a context stretched 16 times, 0.1 ln(16) + 1 (vllm 48623). */
float angle_yarn_16(float value, int is_sine)
{
    (void)is_sine;
    return value * 1.2772589f;
}

float angle_f16(float value, int is_sine)
{
    (void)is_sine;
    return half_to_float(half_from_float(value));
}

float angle_bf16(float value, int is_sine)
{
    (void)is_sine;
    uint32_t bits = bits_from_float(value);
    return float_from_bits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}
