/* test_elementary.c - exp, sigmoid, silu, tanh and gelu of every table against MPFR.
 *
 * Each result is held to the largest error over all floats that docs/numerics.md states (`make ulp`
 * measures it; it takes minutes), on the points where such functions break and on floats of every
 * size drawn at random. Special values are stated one by one.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "elementary_exact.h"
#include "kernel/half.h"
#include "kernel/kernel.h"

enum { N = 12000 };

/* Of docs/numerics.md, in the order of exact_functions: normal results, subnormal results. */
static const double bounds[N_EXACT][2] = {
    {0.68323, 0.77911}, {1.54009, 1.21171}, {2.39905, 1.26119}, {1.70827, 0.5}, {1.54771, 1.11598}};

static uint64_t seed = 0xe1e;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((uint32_t)(seed >> 33) ^ (uint32_t)(seed >> 17)) * 0x9e3779b1u;
}

/* Where a function overflows, underflows, saturates, changes its n, or is worst; each with its
 * neighbours and of both signs. */
static const float hard[] = {
    0.0f,           0x1p-149f,    0x1p-126f,       0x1p-24f,       0x1p-12f,       0.17328f,
    0.34657f,       0.5f,         0.519860f,       1.0397f,        5.0f,           6.0f,
    8.31777f,       8.66433f,     9.010913f,       9.35f,          10.0f,          10.7f,
    11.0f,          16.2885f,     16.6355f,        16.9821f,       17.3287f,       30.0f,
    86.64f,         87.33654f,    88.02969f,       88.72283f,      88.72284f,      91.8f,
    103.2789f,      103.97208f,   104.0f,          108.0f,         108.7f,         110.0f,
    0x1p64f,        0x1p126f,     0x1.fffffep127f, 0x1.4ed43p+2f,  0x1.5ed742p+6f, 0x1.1a4b14p+0f,
    0x1.5d5ef8p+6f, 0x1.0b24p+4f, 0x1.6f837p+6f,   0x1.cd2c0ep-4f, 0x1.473258p+2f, 0x1.43483cp+3f,
};

static void arguments(float *x)
{
    int n = 0;
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) {
        for (uint32_t k = 0; k < 9; k++) {
            uint32_t bits = bits_from_float(hard[i]);
            float near = float_from_bits(bits + k < 4 ? bits : bits + k - 4);
            near = isfinite(near) ? near : hard[i];
            x[n++] = near;
            x[n++] = -near;
        }
    }
    for (; n < N; n++) {
        float any = float_from_bits(random_bits() & 0xff7fffffu);
        float usual = ((float)(random_bits() >> 8) * 0x1p-23f - 1.0f) * (n % 4 ? 112.0f : 12.0f);
        x[n] = n % 3 == 0 && isfinite(any) ? any : usual;
    }
}

static void functions_are_within_their_bounds(void **state)
{
    (void)state;
    static float x[N], y[N], first[N];
    arguments(x);
    for (int i = 0; i < N_EXACT; i++) {
        const exact_function *f = &exact_functions[i];
        double worst[2] = {0, 0};
        kernel_tables()[0]->glu(f->kind, x, NULL, first, N);
        for (int k = 0; k < N; k++) {
            double about = fabs(f->approximate((double)x[k]));
            int is_subnormal = about < 0x1p-126;
            double error =
                error_in_ulp(f, x[k], first[k], ulp_at(about > 0x1p128 ? 0x1p127 : about));
            worst[is_subnormal] = error > worst[is_subnormal] ? error : worst[is_subnormal];
            if (!(error <= bounds[i][is_subnormal])) {
                fail_msg("%s(%a) = %a is %.4f ulp off", f->name, (double)x[k], (double)first[k],
                         error);
            }
        }
        print_message("%s: worst errors seen %.4f, %.4f ulp\n", f->name, worst[0], worst[1]);
        for (const kernel_table *const *t = kernel_tables(); *t; t++) {
            (*t)->glu(f->kind, x, NULL, y, N);
            for (int k = 0; k < N; k++) {
                assert_int_equal(hash_float_bits(y[k]), hash_float_bits(first[k]));
            }
        }
    }
}

static void special_values_are_the_limits(void **state)
{
    (void)state;
    static const struct {
        activation f;
        float at, is;
    } c[] = {
        {ACTIVATION_EXP, INFINITY, INFINITY},
        {ACTIVATION_EXP, -INFINITY, 0.0f},
        {ACTIVATION_EXP, 0.0f, 1.0f},
        {ACTIVATION_EXP, -0.0f, 1.0f},
        {ACTIVATION_EXP, 0x1.62e430p+6f, INFINITY}, /* the least x with e^x >= 2^128 (1 - 2^-25) */
        {ACTIVATION_EXP, 0x1.62e42ep+6f, 0x1.ffff08p+127f},
        {ACTIVATION_EXP, -0x1.9fe368p+6f, 0x1p-149f}, /* the last above 2^-150 */
        {ACTIVATION_EXP, -0x1.9fe36ap+6f, 0.0f},
        {ACTIVATION_SIGMOID, INFINITY, 1.0f},
        {ACTIVATION_SIGMOID, -INFINITY, 0.0f},
        {ACTIVATION_SIGMOID, -0.0f, 0.5f},
        {ACTIVATION_SIGMOID, -200.0f, 0.0f},
        {ACTIVATION_SILU, INFINITY, INFINITY},
        {ACTIVATION_SILU, -INFINITY, -0.0f},
        {ACTIVATION_SILU, 0.0f, 0.0f},
        {ACTIVATION_SILU, -0.0f, -0.0f},
        {ACTIVATION_SILU, 0x1.fffffep127f, 0x1.fffffep127f},
        {ACTIVATION_SILU, -0x1.fffffep127f, -0.0f},
        {ACTIVATION_SILU, 0x1p-148f, 0x1p-149f},
        {ACTIVATION_TANH, INFINITY, 1.0f},
        {ACTIVATION_TANH, -INFINITY, -1.0f},
        {ACTIVATION_TANH, 0.0f, 0.0f},
        {ACTIVATION_TANH, -0.0f, -0.0f},
        {ACTIVATION_TANH, -0x1p-149f, -0x1p-149f},
        {ACTIVATION_GELU_TANH, INFINITY, INFINITY},
        {ACTIVATION_GELU_TANH, -INFINITY, -0.0f},
        {ACTIVATION_GELU_TANH, 0.0f, 0.0f},
        {ACTIVATION_GELU_TANH, -0.0f, -0.0f},
        {ACTIVATION_GELU_TANH, 0x1.fffffep127f, 0x1.fffffep127f},
        {ACTIVATION_GELU_TANH, -0x1.fffffep127f, -0.0f},
    };
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        float y;
        for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
            (*t)->glu(c[i].f, &c[i].at, NULL, &y, 1);
            if (bits_from_float(y) != bits_from_float(c[i].is)) {
                fail_msg("%s: f%d(%a) = %a, not %a", (*t)->name, (int)c[i].f, (double)c[i].at,
                         (double)y, (double)c[i].is);
            }
        }
        for (int f = 0; f < ACTIVATION_COUNT; f++) {
            for (uint32_t nan = 0x7f800001u; nan != 0; nan = nan == 0xffffffffu ? 0 : 0xffffffffu) {
                float x = float_from_bits(nan);
                (*t)->glu((activation)f, &x, NULL, &y, 1);
                assert_true(isnan(y));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_within_their_bounds),
        cmocka_unit_test(special_values_are_the_limits),
    };
    return cmocka_run_group_tests_name("elementary", tests, NULL, NULL);
}
