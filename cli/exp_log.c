/* exp_log.c - see exp_log.h.
 *
 * A printed perplexity must not depend on the libm of the machine, and the public header offers no
 * transcendental functions; so these two are here, as short as f64 allows:
 *     exp x = 2^n * exp r,  n = x / ln 2 rounded, |r| <= 0.347, Taylor to r^13 (next term < 5e-18)
 *     log x = e ln 2 + 2 atanh s,  x = 2^e m, m in [0.707, 1.414), s = (m - 1) / (m + 1),
 *             |s| <= 0.172, odd powers to s^21 (next term < 2e-19)
 * ln 2 is split so that n * high is exact. Both are within 2 ULP (against 80-bit expl and logl on
 * 10^7 random arguments: 1.16 and 1.88 at most).
 */
#include "exp_log.h"

#include <stdint.h>
#include <string.h>

#define LN2_HIGH 0x1.62e42feep-1           /* 33 bits */
#define LN2_LOW 0x1.a39ef35793c76p-33
#define LOG2_E 0x1.71547652b82fep+0

static double power_of_two(int n) /* -1022 <= n <= 1023 */
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double exp_f64(double x)
{
    if (!(x >= -745.0)) {
        return x == x ? 0.0 : x;
    }
    if (x > 709.0) {
        return power_of_two(1023) * 2.0;
    }
    int n = (int)(x * LOG2_E + (x < 0.0 ? -0.5 : 0.5));
    double r = (x - n * LN2_HIGH) - n * LN2_LOW;
    double sum = 1.0;
    for (int k = 13; k >= 1; k--) {
        sum = 1.0 + r * sum / k;
    }
    int half = n / 2; /* 2^n itself may lie below the normal numbers */
    return sum * power_of_two(half) * power_of_two(n - half);
}

double log_f64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    double m = x * power_of_two(-e / 2) * power_of_two(-e - -e / 2);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    double s = (m - 1.0) / (m + 1.0);
    double square = s * s, sum = 0.0;
    for (int k = 21; k >= 3; k -= 2) {
        sum = square * (sum + 1.0 / k);
    }
    return e * LN2_HIGH + (2.0 * s + (2.0 * s * sum + e * LN2_LOW));
}
