/* rope_table.c - cos and sin of rotary angles, in binary64 with our own functions, rounded once.
 *
 * angle = (position / scale) * inv_freq[i], inv_freq[i] = base^(-2i / rope_dim) / factor[i]
 * (Su et al. 2021, section 3.2.2). libm is not used, because its results differ between systems;
 * these functions are plain binary64 operations without contraction, hence the same everywhere.
 * Against MPFR (test_kernel): pow within 4e-15 relative on the bases and exponents in use, sin and
 * cos within 2^-52 absolute up to |angle| = 2^23.
 */
#include "kernel/kernel.h"

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

/* sin and cos of |x| < 2^23: Cody-Waite reduction; two parts of pi/2 have 30 bits, so n * part is
 * exact. */
static void sine_cosine(double x, double *sine, double *cosine)
{
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

void kernel_rope_table(const rope_table_args *a, float *cos_sin)
{
    int32_t half = a->rope_dim / 2;
    double log_base = log_natural((double)a->freq_base);
    for (int32_t i = 0; i < half; i++) {
        double inv_freq = power_of_e(-2.0 * i / a->rope_dim * log_base);
        if (a->factors) {
            inv_freq /= (double)a->factors[i];
        }
        for (int64_t p = 0; p < a->n_position; p++) {
            double position = (double)(a->first_position + p) / (double)a->scale, sine, cosine;
            sine_cosine(position * inv_freq, &sine, &cosine);
            cos_sin[2 * (p * half + i)] = (float)cosine;
            cos_sin[2 * (p * half + i) + 1] = (float)sine;
        }
    }
}
