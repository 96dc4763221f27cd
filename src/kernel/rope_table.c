/* rope_table.c - cos and sin of rotary angles, in binary64 with our own functions, rounded once.
 *
 * angle = (position / scale) * inv_freq[i], inv_freq[i] = base^(-2i / rope_dim) / factor[i], which
 * the methods for long contexts change
 * (Su et al. 2021, section 3.2.2). libm is not used, because its results differ between systems;
 * these functions are plain binary64 operations without contraction, hence the same everywhere.
 * Against MPFR (test_kernel): pow within 4e-15 relative on the bases and exponents in use, sin and
 * cos within 2^-52 absolute up to |angle| = 2^23.
 */
#include "kernel/rope_table.h"

#include "base/limits.h"

#include <math.h>
#include <string.h>

/* ln(m) for m in [sqrt(1/2), sqrt(2)): 2 atanh(s), s = (m - 1) / (m + 1). */
static double log_mantissa(double m)
{
    double s = (m - 1.0) / (m + 1.0), z = s * s, sum = 0.0;
    for (int k = 25; k >= 3; k -= 2) {
        sum = (sum + 1.0 / k) * z;
    }
    return 2.0 * s + 2.0 * s * sum;
}

static double log_natural(double x) /* finite x > 0, normal */
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m >= 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        exponent++;
    }
    return exponent * 0x1.62e42fefa3800p-1 + (exponent * 0x1.ef35793c76730p-45 + log_mantissa(m));
}

static double power_of_e(double x) /* |x| < 700 */
{
    double n = (x * 0x1.71547652b82fep+0 + 0x1.8p52) - 0x1.8p52;
    double r = (x - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
    double sum = 1.0;
    for (int k = 18; k >= 1; k--) {
        sum = 1.0 + sum * r / k;
    }
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* sin and cos: Cody-Waite reduction; two parts of pi/2 have 30 bits, so n * part is exact up to
 * |x| = 2^23, and off by 2^-27 at most up to the limit. Beyond it they are NaN: no model turns that
 * far, sessions refuse one that would, and what a trace claims must not pass for an angle. */
static void sine_cosine(double x, double *sine, double *cosine)
{
    if (!(fabs(x) <= LIMIT_ROPE_ANGLE)) {
        *sine = *cosine = (double)NAN;
        return;
    }
    double n = (x * 0x1.45f306dc9c883p-1 + 0x1.8p52) - 0x1.8p52;
    double r = x - n * 0x1.921fb54000000p+0;
    r -= n * 0x1.10b4611800000p-30;
    r -= n * 0x1.313198a2e0370p-61;
    double z = r * r, s = 1.0, c = 1.0;
    for (int k = 20; k >= 2; k -= 2) {
        s = 1.0 - s * z / (k * (k + 1));
        c = 1.0 - c * z / (k * (k - 1));
    }
    s *= r;
    int64_t quadrant = (int64_t)n & 3;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

/* ---- Longer contexts than the trained one ------------------------------------------------------
 */

#define PI 0x1.921fb54442d18p+1

static double inverse_frequency(float freq_base, int32_t i, int32_t rope_dim)
{
    return power_of_e(-2.0 * i / rope_dim * log_natural((double)freq_base));
}

/* 0.1 ln(factor) + 1 (Peng et al. 2023, section 3.4). */
static float yarn_attn_factor(float factor)
{
    return factor > 1.0f ? (float)(0.1 * log_natural((double)factor) + 1.0) : 1.0f;
}

/* sqrt(1 + ln(stretch) / ln(n_ctx_original)), as Phi-3's configuration has it. */
static float longrope_attn_factor(double stretch, int32_t n_ctx_original)
{
    if (stretch <= 1.0 || n_ctx_original <= 1) {
        return 1.0f;
    }
    double square = 1.0 + log_natural(stretch) / log_natural((double)n_ctx_original);
    return (float)power_of_e(0.5 * log_natural(square));
}

/* Llama 3.1's divisor of a pair's frequency, rounded once, as GGUF's rope_freqs.weight holds it. */
static float llama3_factor(const rope_table_args *a, double frequency)
{
    double low = (double)a->low_freq_factor, high = (double)a->high_freq_factor;
    double turns = a->n_ctx_original * frequency / (2.0 * PI); /* in the original context */
    double smooth = (turns - low) / (high - low), factor = (double)a->factor;
    return (float)(turns > high  ? 1.0
                   : turns < low ? factor
                                 : 1.0 / ((1.0 - smooth) / factor + smooth));
}

int kernel_rope_is_long(const rope_source *s)
{
    return s->config->scaling == ROPE_SCALING_LONGROPE && s->n_ctx > s->config->n_ctx_original;
}

rope_table_args kernel_rope_args(const rope_source *s, int is_local)
{
    const rope_config *r = s->config;
    rope_table_args a = {.rope_dim = r->dim, .n_position = 1};
    if (is_local && r->freq_base_local > 0) {
        a.freq_base = r->freq_base_local;
        return a;
    }
    a.freq_base = r->freq_base;
    a.factors = s->factors;
    a.scaling = r->scaling;
    a.factor = r->factor;
    a.beta_fast = r->beta_fast;
    a.beta_slow = r->beta_slow;
    a.ext_factor = r->ext_factor;
    a.low_freq_factor = r->low_freq_factor;
    a.high_freq_factor = r->high_freq_factor;
    a.n_ctx_original = r->n_ctx_original;
    if (r->scaling == ROPE_SCALING_YARN) {
        a.attn_factor = r->attn_factor > 0 ? r->attn_factor : yarn_attn_factor(r->factor);
    } else if (r->scaling == ROPE_SCALING_LONGROPE) {
        a.factors = kernel_rope_is_long(s) ? s->factors_long : s->factors_short;
        double stretch =
            r->factor > 1.0f ? (double)r->factor : (double)s->n_ctx_train / r->n_ctx_original;
        a.attn_factor =
            r->attn_factor > 0 ? r->attn_factor : longrope_attn_factor(stretch, r->n_ctx_original);
    }
    return a;
}

/* The pair that turns `turns` times in the original context, as a real number (Peng et al. 2023,
 * section 3.2; the clamp and the rounding outwards are those of the authors' program). */
static double yarn_pair(const rope_table_args *a, float turns)
{
    double context = a->n_ctx_original / ((double)turns * 2.0 * PI);
    return a->rope_dim * log_natural(context) / (2.0 * log_natural((double)a->freq_base));
}

/* 0 where a pair keeps its frequency, 1 where it is divided by the factor. */
static double yarn_ramp(const rope_table_args *a, int32_t i)
{
    double low = floor(yarn_pair(a, a->beta_fast)), high = ceil(yarn_pair(a, a->beta_slow));
    low = low < 0 ? 0 : low;
    high = high > a->rope_dim - 1 ? a->rope_dim - 1 : high;
    double width = high - low < 0.001 ? 0.001 : high - low;
    double ramp = (i - low) / width;
    return ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
}

double kernel_rope_frequency(const rope_table_args *a, int32_t i)
{
    double frequency = inverse_frequency(a->freq_base, i, a->rope_dim);
    if (a->factors) {
        frequency /= (double)a->factors[i];
    } else if (a->scaling == ROPE_SCALING_LLAMA3) {
        frequency /= (double)llama3_factor(a, frequency);
    }
    if (a->scaling == ROPE_SCALING_YARN) {
        double kept = (1.0 - yarn_ramp(a, i)) * (double)a->ext_factor;
        frequency = frequency / (double)a->factor * (1.0 - kept) + frequency * kept;
    }
    return frequency;
}

void kernel_rope_turn(const rope_table_args *a, double angle, float cos_sin[2])
{
    double size = a->attn_factor > 0 ? (double)a->attn_factor : 1.0, sine, cosine;
    sine_cosine(angle, &sine, &cosine);
    cos_sin[0] = (float)(size * cosine);
    cos_sin[1] = (float)(size * sine);
}

static double position_scale(const rope_table_args *a)
{
    return a->scaling == ROPE_SCALING_LINEAR ? (double)a->factor : 1.0;
}

int kernel_rope_is_in_range(const rope_table_args *a)
{
    double position = (double)(a->first_position + a->n_position - 1) / position_scale(a);
    for (int32_t i = 0; i < a->rope_dim / 2; i++) {
        if (!(fabs(position * kernel_rope_frequency(a, i)) <= LIMIT_ROPE_ANGLE)) {
            return 0;
        }
    }
    return 1;
}

void kernel_rope_table(const rope_table_args *a, float *cos_sin)
{
    int32_t half = a->rope_dim / 2;
    double scale = position_scale(a);
    for (int32_t i = 0; i < half; i++) {
        double inv_freq = kernel_rope_frequency(a, i);
        for (int64_t p = 0; p < a->n_position; p++) {
            double position = (double)(a->first_position + p) / scale;
            kernel_rope_turn(a, position * inv_freq, cos_sin + 2 * (p * half + i));
        }
    }
}
