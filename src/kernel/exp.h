/* exp.h - e^x in binary32, the one exponential of the arithmetic.
 *
 * The same sequence of operations on every backend. Error against the exact value: see
 * docs/numerics.md, measured by test_kernel. exp(0) = 1, exp(-inf) = +0, exp(NaN) = NaN; results
 * below half of the smallest subnormal are +0, above the largest float inf.
 */
#ifndef GRETA_KERNEL_EXP_H
#define GRETA_KERNEL_EXP_H

#include <math.h>
#include <stdint.h>

/* e^x: reduction to |r| <= ln2/2, degree 6. Nearest-even rint by adding 1.5 * 2^23. See
 * numerics.md. */
static inline float kernel_exp(float x)
{
    if (x > 0x1.62e430p+6f) { /* above 88.722839: beyond the largest float */
        return INFINITY;
    }
    if (x < -0x1.9fe368p+6f) { /* below -103.97208: under half of the smallest subnormal */
        return 0.0f;
    }
    float n = fmaf(x, 0x1.715476p+0f, 0x1.8p23f) - 0x1.8p23f;
    float r = fmaf(n, -0x1.62e430p-1f, x);
    r = fmaf(n, 0x1.05c610p-29f, r);
    float q = fmaf(0x1.6a524ep-10f, r, 0x1.12396ep-7f);
    q = fmaf(q, r, 0x1.5558aap-5f);
    q = fmaf(q, r, 0x1.555492p-3f);
    q = fmaf(q, r, 0x1.fffffcp-2f);
    float p = fmaf(r * r, q, r) + 1.0f;
    /* 2^n in two exact steps, so that a subnormal result is rounded once. NaN takes n = 0 below. */
    int32_t whole = n == n ? (int32_t)n : 0;
    int32_t half = whole >> 1;
    union {
        uint32_t u;
        float f;
    } first = {.u = (uint32_t)(half + 127) << 23},
      second = {.u = (uint32_t)(whole - half + 127) << 23};
    return p * first.f * second.f;
}

#endif
