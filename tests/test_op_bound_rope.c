/* test_op_bound_rope.c - bounds of rotations: tables rounded otherwise, angles in binary32, with
 * every scaling of frequencies that models ask for.
 */
#include "bound_rig.h"

static void rotations_stay_within_their_bounds(void **state)
{
    (void)state;
    static row_rig r;
    double reached = 0;
    for (int trial = 0; trial < 20000; trial++) {
        float c = uniform(), s = sqrtf(1 - c * c), cos_sin[2] = {c, s};
        r.x[0] = normal();
        r.x[1] = trial % 2 ? normal() : r.x[0] * c / s * (1 + 0x1p-10f * uniform());
        row_of(&r, OP_ROPE, 2);
        r.c.op.n_head = 1;
        r.c.op.head_dim = r.c.op.rope_dim = r.c.rope.rope_dim = 2;
        r.c.cos_sin = cos_sin;
        judge(&r.c, BOUND_SOUND, r.exact, r.bound);
        /* Another engine's table is another correct rounding: half an ulp on the other side. */
        float other = nextafterf(c, trial % 4 < 2 ? 2 : -2);
        bool moves = trial % 8 == 0;
        float y0 = moves ? r.x[0] * other - r.x[1] * s : r.x[0] * c - r.x[1] * s;
        float y1 = trial % 3 ? fmaf(r.x[0], s, r.x[1] * c) : r.x[0] * s + r.x[1] * c;
        hold(&reached, (double)y0, r.exact[0], r.bound[0], "a rotation");
        hold(&reached, (double)y1, r.exact[1], r.bound[1], "a rotation");
    }
    reaches(reached, 0.5, "rotation");
}

/* The frequency of a pair, scaled in binary32 as engines do it. */
static float scaled_in_binary32(const rope_table_args *a, float f, int i)
{
    float turns = (float)a->n_ctx_original / (6.2831855f / f), ramp;
    switch (a->scaling) {
    case ROPE_SCALING_LINEAR:
        return f / a->factor;
    case ROPE_SCALING_LLAMA3:
        ramp = (turns - a->low_freq_factor) / (a->high_freq_factor - a->low_freq_factor);
        return ramp > 1 ? f : ramp < 0 ? f / a->factor : (1 - ramp) * f / a->factor + ramp * f;
    case ROPE_SCALING_YARN: /* of dim 64, base 10000, 4096 positions, 32 turns and 1 */
        ramp = ((float)i - 10) / (23 - 10);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        return f / a->factor * ramp + f * (1 - ramp);
    default:
        return a->factors ? f / a->factors[i] : f;
    }
}

/* Every scaling: the bound is of the angles that are turned by, not of the plain ones. */
static void scaled_angles_may_be_binary32(void **state)
{
    (void)state;
    static row_rig r;
    static float factors[2][32];
    double reached = 0;
    const rope_table_args kinds[] = {
        {.scaling = ROPE_SCALING_LINEAR, .factor = 3.3f},
        {.scaling = ROPE_SCALING_LLAMA3,
         .factor = 8,
         .low_freq_factor = 1,
         .high_freq_factor = 4,
         .n_ctx_original = 8192},
        {.scaling = ROPE_SCALING_YARN,
         .factor = 4,
         .beta_fast = 32,
         .beta_slow = 1,
         .ext_factor = 1,
         .n_ctx_original = 4096,
         .attn_factor = 1.5f},
        {.factors = factors[0], .attn_factor = 1.2f},
        {.factors = factors[1]},
    };
    for (int i = 0; i < 32; i++) {
        factors[0][i] = 1.0f + (float)i * 0.77f;
        factors[1][i] = 0.11f; /* turned faster than without */
    }
    for (int trial = 0; trial < 2000; trial++) {
        const rope_table_args *kind = &kinds[trial % 5];
        int64_t position = (int64_t)draw(trial % 2 ? 100000 : 64);
        float recurrent = 1, step = powf(10000.0f, -2.0f / 64);
        fill(RANDOM, r.z, r.x, 64, 0);
        row_of(&r, OP_ROPE, 64);
        r.c.op.n_head = 1;
        r.c.op.head_dim = r.c.op.rope_dim = 64;
        r.c.position = position;
        r.c.rope = *kind;
        r.c.rope.freq_base = 10000;
        r.c.rope.rope_dim = 64;
        r.c.rope.first_position = position;
        r.c.rope.n_position = 1;
        judge(&r.c, BOUND_ANGLES_F32, r.exact, r.bound);
        for (int i = 0; i < 32; i++, recurrent *= step) {
            float unscaled = trial % 3 ? recurrent : powf(10000.0f, -2.0f * (float)i / 64);
            float a = (float)position * scaled_in_binary32(kind, unscaled, i);
            float size = kind->attn_factor > 0 ? kind->attn_factor : 1;
            float c = cosf(a) * size, s = sinf(a) * size;
            hold(&reached, (double)(r.x[2 * i] * c - r.x[2 * i + 1] * s), r.exact[2 * i],
                 r.bound[2 * i], "a scaled angle in binary32");
            hold(&reached, (double)(r.x[2 * i] * s + r.x[2 * i + 1] * c), r.exact[2 * i + 1],
                 r.bound[2 * i + 1], "a scaled angle in binary32");
        }
    }
    reaches(reached, 0.3, "scaled angles in binary32");
}

/* Angles as engines have them: a power in binary32 times the position, or a recurrence. */
static void angles_may_be_binary32(void **state)
{
    (void)state;
    static row_rig r;
    double reached = 0;
    for (int trial = 0; trial < 2000; trial++) {
        int64_t position = (int64_t)draw(trial % 2 ? 100000 : 64);
        float angle = (float)position, step = powf(10000.0f, -2.0f / 64);
        fill(RANDOM, r.z, r.x, 64, 0);
        row_of(&r, OP_ROPE, 64);
        r.c.op.n_head = 1;
        r.c.op.head_dim = r.c.op.rope_dim = 64;
        r.c.position = position;
        r.c.rope = (rope_table_args){
            .freq_base = 10000, .rope_dim = 64, .first_position = position, .n_position = 1};
        judge(&r.c, BOUND_ANGLES_F32, r.exact, r.bound);
        for (int i = 0; i < 32; i++, angle *= step) {
            float power = (float)position * powf(10000.0f, -2.0f * (float)i / 64);
            float a = trial % 3 ? angle : power, c = cosf(a), s = sinf(a);
            hold(&reached, (double)(r.x[2 * i] * c - r.x[2 * i + 1] * s), r.exact[2 * i],
                 r.bound[2 * i], "an angle in binary32");
            hold(&reached, (double)(r.x[2 * i] * s + r.x[2 * i + 1] * c), r.exact[2 * i + 1],
                 r.bound[2 * i + 1], "an angle in binary32");
        }
    }
    reaches(reached, 0.3, "angles in binary32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotations_stay_within_their_bounds),
        cmocka_unit_test(scaled_angles_may_be_binary32),
        cmocka_unit_test(angles_may_be_binary32),
    };
    return cmocka_run_group_tests_name("bounds of rotations", tests, NULL, NULL);
}
