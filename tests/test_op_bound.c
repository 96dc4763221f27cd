/* test_op_bound.c - bounds of rounding: sound in any order, reached where they say so.
 *
 * Each op is computed here in its own plain code, in a random order, fused or not, on random and on
 * hostile operands, thousands of times: no result may lie farther from the arbiter's value than the
 * bound of its class. A bound that is too wide proves nothing, so the largest ratio of error to
 * bound that an adversary reached must come near 1: a bound wrong by a factor of two fails one test
 * or the other.
 */
#include "bound_rig.h"

/* ---- Sums in any order ----------------------------------------------------------------------- */

/* Terms are joined two at a time, drawn anywhere: every binary tree can come out. `way` 0: that;
 * 1: from left to right; 2: from right to left; 3: neighbours. */
static float any_sum(float *term, int n, int way, precision p)
{
    for (int left = n; left > 1;) {
        int i = way == 0 ? (int)draw((uint32_t)left) : 0,
            j = way == 0 ? (int)draw((uint32_t)left) : 1;
        if (i == j) {
            continue;
        }
        term[i] = precision_round(p, term[i] + term[j]);
        if (way == 1) {
            memmove(term + 1, term + 2, (size_t)(left - 2) * sizeof *term);
        } else {
            term[j] = term[left - 1];
        }
        left--;
    }
    return n ? term[0] : 0;
}

static void reverse(float *x, int n)
{
    for (int i = 0; i < n / 2; i++) {
        float keep = x[i];
        x[i] = x[n - 1 - i];
        x[n - 1 - i] = keep;
    }
}

static float any_dot(const float *w, const float *x, int n, int way, precision p)
{
    float term[K_MAX], acc = 0;
    if (way == 4) { /* a fused chain */
        for (int i = 0; i < n; i++) {
            acc = precision_round(p, fmaf(w[i], x[i], acc));
        }
        return acc;
    }
    for (int i = 0; i < n; i++) {
        term[i] = precision_round(p, w[i] * x[i]);
    }
    if (way == 2) {
        reverse(term, n);
    }
    return any_sum(term, n, way == 2 ? 1 : way, p);
}

typedef struct product_rig {
    op_case c;
    weight tensor, bias_tensor;
    float w[OUT_MAX * K_MAX], x[K_MAX], bias[OUT_MAX];
    double exact[OUT_MAX], bound[OUT_MAX];
} product_rig;

static void product_of(product_rig *r, int k, int n_out)
{
    r->tensor = (weight){.type = DTYPE_F32,
                         .n_row = n_out,
                         .n_col = k,
                         .row_bytes = 4 * k,
                         .data = (const uint8_t *)r->w};
    r->c = (op_case){.op = {.kind = OP_MATMUL, .w = {{&r->tensor, 0, n_out}}},
                     .in = {{DTYPE_F32, k, r->x}},
                     .out = {DTYPE_F32, n_out, NULL}};
}

static void sums_stay_within_their_bounds_in_any_order(void **state)
{
    (void)state;
    static product_rig r;
    static const struct {
        bound_class of;
        precision p;
        float vanishing;
        double claim;
    } cases[] = {{BOUND_SOUND, PRECISION_F32, 0x1p-24f, 0.9},
                 {BOUND_SUM_BF16, PRECISION_BF16, 0x1p-8f, 0.5},
                 {BOUND_SUM_F16, PRECISION_F16, 0x1p-11f, 0.5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double reached = 0;
        for (int trial = 0; trial < 4000; trial++) {
            hostile h = (hostile)draw(HOSTILE_COUNT);
            int k = 1 + (int)draw(trial % 10 == 0 ? 1000 : 100);
            fill(h, r.w, r.x, k, cases[i].vanishing);
            product_of(&r, k, 1);
            judge(&r.c, cases[i].of, r.exact, r.bound);
            float y = any_dot(r.w, r.x, k, h == LOSES_ALL ? 1 : (int)draw(5), cases[i].p);
            hold(&reached, (double)y, r.exact[0], r.bound[0], "a sum");
        }
        reaches(reached, cases[i].claim, bound_class_text(cases[i].of));
    }
}

/* Random data stay far below what an adversary can do; the calibrated bound is close above them. */
static void random_sums_stay_within_the_calibrated_bound(void **state)
{
    (void)state;
    static product_rig r;
    double reached = 0, one_sign = 0;
    for (int trial = 0; trial < 6000; trial++) {
        hostile h = trial % 3 == 0 ? ONE_SIGN : trial % 3 == 1 ? WIDE : RANDOM;
        int k = 2 + (int)draw(1000);
        fill(h, r.w, r.x, k, 0);
        product_of(&r, k, 1);
        judge(&r.c, BOUND_CALIBRATED, r.exact, r.bound);
        float y = any_dot(r.w, r.x, k, (int)draw(5), PRECISION_F32);
        hold(h == ONE_SIGN ? &one_sign : &reached, (double)y, r.exact[0], r.bound[0],
             "a random sum");
    }
    reaches(reached, 0.25, "calibrated, both signs");
    reaches(one_sign, 0.25, "calibrated, one sign");
}

/* ---- Policies of products -------------------------------------------------------------------- */

/* Values in the middle of two of the narrower type, signs such that nothing cancels. */
static void fill_ties(float *w, float *x, int k, float half_ulp)
{
    for (int i = 0; i < k; i++) {
        w[i] = 1 + half_ulp;
        x[i] = ldexpf(1 + half_ulp, (int)draw(3));
    }
}

static void factors_of_products_may_be_narrow(void **state)
{
    (void)state;
    static product_rig r;
    static const struct {
        bound_class of;
        precision p;
        float half_ulp;
    } cases[] = {{BOUND_INPUT_TF32, PRECISION_TF32, 0x1p-11f},
                 {BOUND_INPUT_F16, PRECISION_F16, 0x1p-11f},
                 {BOUND_INPUT_BF16, PRECISION_BF16, 0x1p-8f}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double reached = 0;
        for (int trial = 0; trial < 2000; trial++) {
            float w[K_MAX], x[K_MAX];
            int k = 1 + (int)draw(200);
            fill((hostile)(trial % LOSES_ALL), r.w, r.x, k, 0);
            if (trial % 3 == 0) {
                fill_ties(r.w, r.x, k, cases[i].half_ulp);
            }
            product_of(&r, k, 1);
            judge(&r.c, cases[i].of, r.exact, r.bound);
            for (int j = 0; j < k; j++) {
                w[j] = precision_round(cases[i].p, r.w[j]);
                x[j] = precision_round(cases[i].p, r.x[j]);
            }
            float y = any_dot(w, x, k, (int)draw(5), PRECISION_F32);
            hold(&reached, (double)y, r.exact[0], r.bound[0], "narrow factors");
        }
        reaches(reached, 0.9, bound_class_text(cases[i].of));
    }
}

/* Q8_0 rows: d = 1/64, codes drawn; returns the values. */
static void fill_q8_0(uint8_t *row, float *w, int k, bool is_positive)
{
    for (int b = 0; b < k / 32; b++) {
        uint16_t d = kernel_f16_from_f32(0x1p-6f);
        memcpy(row + 34 * b, &d, sizeof d);
        for (int i = 0; i < 32; i++) {
            int code = is_positive ? 64 : (int)draw(255) - 127;
            row[34 * b + 2 + i] = (uint8_t)code;
            w[32 * b + i] = (float)code * 0x1p-6f;
        }
    }
}

/* What an engine with 8-bit activations reads: a scale per `width`, in binary16 or binary32. */
static void code_row(const float *x, float *out, int k, int width, bool is_half)
{
    for (int at = 0; at < k; at += width) {
        int end = at + width < k ? at + width : k;
        float most = 0;
        for (int i = at; i < end; i++) {
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        }
        float d = most / 127.0f, kept = is_half ? kernel_f32_from_f16(kernel_f16_from_f32(d)) : d;
        for (int i = at; i < end; i++) {
            out[i] = rintf(x[i] * (127.0f / most)) * kept;
        }
    }
}

static void activations_may_be_codes(void **state)
{
    (void)state;
    static product_rig r;
    static uint8_t rows[K_MAX / 32 * 34];
    double reached[2] = {0, 0};
    for (int trial = 0; trial < 3000; trial++) {
        float w[K_MAX], x[K_MAX];
        int k = 256 * (1 + (int)draw(3)), is_wide = trial % 2, is_hostile = trial % 3 == 0;
        fill_q8_0(rows, w, k, is_hostile);
        for (int i = 0; i < k; i++) { /* half steps, all rounded the same way */
            r.x[i] = is_hostile ? ((float)(2 * draw(60)) + 0.5f - 0x1p-10f) : normal();
            r.x[i] = is_hostile && i % 32 == 0 ? 127.0f : r.x[i];
        }
        product_of(&r, k, 1);
        r.tensor.type = DTYPE_Q8_0;
        r.tensor.row_bytes = k / 32 * 34;
        r.tensor.data = rows;
        judge(&r.c, is_wide ? BOUND_ACT_Q8_256 : BOUND_ACT_Q8, r.exact, r.bound);
        code_row(r.x, x, k, is_wide ? 256 : 32, trial % 5 == 0);
        float y = any_dot(w, x, k, (int)draw(5), PRECISION_F32);
        hold(&reached[is_wide], (double)y, r.exact[0], r.bound[0], "coded activations");
    }
    reaches(reached[0], 0.75, "a scale per 32");
    reaches(reached[1], 0.75, "a scale per 256");
}

/* One crushed block: a scale per 256 values is no excuse for an error that one per 32 has not. */
static void an_outlier_tells_the_widths_apart(void **state)
{
    (void)state;
    static product_rig r;
    static uint8_t rows[K_MAX / 32 * 34];
    float w[K_MAX], x[K_MAX];
    fill_q8_0(rows, w, 256, true);
    for (int i = 0; i < 256; i++) {
        r.x[i] = i == 200 ? 100.0f : 0.39f; /* below half a step of the outlier's */
    }
    product_of(&r, 256, 1);
    r.tensor.type = DTYPE_Q8_0;
    r.tensor.row_bytes = 8 * 34;
    r.tensor.data = rows;
    code_row(r.x, x, 256, 256, false);
    float y = any_dot(w, x, 256, 1, PRECISION_F32);
    judge(&r.c, BOUND_ACT_Q8, r.exact, r.bound);
    assert_true(fabs((double)y - r.exact[0]) > r.bound[0]);
    judge(&r.c, BOUND_ACT_Q8_256, r.exact, r.bound);
    assert_true(fabs((double)y - r.exact[0]) <= r.bound[0]);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void norms_stay_within_their_bounds(void **state)
{
    (void)state;
    static row_rig r;
    double reached = 0, calibrated = 0;
    for (int trial = 0; trial < 3000; trial++) {
        int n = 1 + (int)draw(500), way = (int)draw(5);
        fill((hostile)draw(2), r.w, r.x, n, 0);
        bool is_lost = trial % 4 == 0;
        for (int i = 0; i < n && is_lost; i++) {
            r.x[i] = i == 0 ? 1 : 0x1p-12f;
        }
        row_of(&r, OP_RMS_NORM, n);
        judge(&r.c, BOUND_SOUND, r.exact, r.bound);
        float sum = any_dot(r.x, r.x, n, is_lost ? 4 : way, PRECISION_F32);
        float inverse = 1.0f / sqrtf(sum / (float)n + 1e-5f);
        for (int i = 0; i < n; i++) {
            float y = trial % 2 ? r.x[i] * inverse * r.w[i] : r.x[i] * (inverse * r.w[i]);
            hold(&reached, (double)y, r.exact[i], r.bound[i], "a norm");
        }
        judge(&r.c, BOUND_CALIBRATED, r.exact, r.bound);
        for (int i = 0; i < n && !is_lost; i++) {
            hold(&calibrated, (double)(r.x[i] * inverse * r.w[i]), r.exact[i], r.bound[i],
                 "a norm of random data");
        }
    }
    reaches(reached, 0.9, "norm, sound");
    reaches(calibrated, 0.25, "norm, calibrated");
}

/* A wrong eps is a constant factor of the row, and far outside. */
static void a_wrong_eps_is_no_rounding(void **state)
{
    (void)state;
    static row_rig r;
    fill(RANDOM, r.w, r.x, 64, 0);
    for (int i = 0; i < 64; i++) {
        r.x[i] *= 0.05f;
    }
    row_of(&r, OP_RMS_NORM, 64);
    judge(&r.c, BOUND_SOUND, r.exact, r.bound);
    row_rig other = r;
    other.c.op.eps = 1e-6f;
    other.c.op.w[0].tensor = &other.tensor;
    judge(&other.c, BOUND_SOUND, other.exact, other.bound);
    for (int i = 0; i < 64; i++) {
        assert_true(fabs(other.exact[i] - r.exact[i]) > r.bound[i]);
    }
}

static void functions_stay_within_their_bounds(void **state)
{
    (void)state;
    static row_rig r;
    /* Where docs/numerics.md found the largest errors. */
    static const struct {
        activation f;
        float worst;
        double claim;
    } cases[] = {{ACTIVATION_SILU, -0x1.0b24p+4f, 0.5},
                 {ACTIVATION_GELU_TANH, 3.5f, 0.3},
                 {ACTIVATION_SIGMOID, -0x1.1a4b14p+0f, 0.5},
                 {ACTIVATION_TANH, -0x1.cd2c0ep-4f, 0.5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double reached = 0;
        for (int trial = 0; trial < 100; trial++) {
            float y[256];
            fill(RANDOM, r.z, r.x, 256, 0);
            for (int j = 0; j < 256; j++) {
                r.x[j] *= (float)(1 + trial);
                r.z[j] = trial % 2 ? 1.0f : r.z[j];
            }
            r.x[0] = cases[i].worst;
            row_of(&r, OP_GLU, 256);
            r.c.op.activation = cases[i].f;
            judge(&r.c, BOUND_SOUND, r.exact, r.bound);
            kernel_find("ref")->glu(cases[i].f, r.x, r.z, y, 256);
            for (int j = 0; j < 256; j++) {
                hold(&reached, (double)y[j], r.exact[j], r.bound[j], "a function");
            }
        }
        reaches(reached, cases[i].claim, cases[i].f == ACTIVATION_SILU ? "silu" : "a function");
    }
}

/* gelu as Hendrycks & Gimpel wrote it cancels for negative x; the class allows for it. */
/* An engine's own exponential, off by up to 2^-16 of itself, in every function made of it. */
static void exponentials_may_be_fast(void **state)
{
    (void)state;
    static row_rig r;
    static const activation all[] = {ACTIVATION_SILU, ACTIVATION_SIGMOID, ACTIVATION_TANH,
                                     ACTIVATION_GELU_TANH};
    double reached = 0, beyond = 0;
    for (int trial = 0; trial < 400; trial++) {
        activation f = all[trial % 4];
        fill(RANDOM, r.z, r.x, 256, 0);
        row_of(&r, OP_GLU, 256);
        r.c.op.activation = f;
        judge(&r.c, BOUND_FUNCTIONS, r.exact, r.bound);
        for (int j = 0; j < 256; j++) {
            double x = (double)r.x[j], off = 1 + 0x1p-16 * (double)uniform(), y;
            double u = f == ACTIVATION_GELU_TANH ? 0.7978845608 * (x + 0.044715 * x * x * x) : x;
            double e = exp(f == ACTIVATION_SILU || f == ACTIVATION_SIGMOID ? -u : 2 * u) * off;
            double t = 1 - 2 / (e + 1);
            y = f == ACTIVATION_SILU      ? x / (1 + e)
                : f == ACTIVATION_SIGMOID ? 1 / (1 + e)
                : f == ACTIVATION_TANH    ? t
                                          : 0.5 * x * (1 + t);
            y = (double)((float)y * r.z[j]);
            hold(&reached, y, r.exact[j], r.bound[j], "a function of a fast exponential");
        }
        judge(&r.c, BOUND_SOUND, r.exact, r.bound);
        for (int j = 0; j < 256; j++) { /* and far outside of what claims no such thing */
            double x = (double)r.x[j], silu = x / (1 + exp(-x) * (1 + 0x1p-16));
            bool is_silu = f == ACTIVATION_SILU && fabs(x) < 1 && fabs(x) > 0.1;
            double distance = fabs((double)((float)silu * r.z[j]) - r.exact[j]);
            beyond = is_silu ? fmax(beyond, distance / r.bound[j]) : beyond;
        }
    }
    reaches(reached, 0.2, "fast exponentials");
    assert_true(beyond > 8);
}

static void gelu_by_its_formula_is_no_fault(void **state)
{
    (void)state;
    static row_rig r;
    double reached = 0;
    for (int trial = 0; trial < 200; trial++) {
        fill(RANDOM, r.z, r.x, 256, 0);
        row_of(&r, OP_GLU, 256);
        r.c.op.activation = ACTIVATION_GELU_TANH;
        judge(&r.c, BOUND_SOUND, r.exact, r.bound);
        for (int j = 0; j < 256; j++) {
            float x = r.x[j] * 1.0f, u = 0.79788456f * (x + 0.044715f * x * x * x);
            float y = 0.5f * x * (1.0f + tanhf(u)) * r.z[j];
            hold(&reached, (double)y, r.exact[j], r.bound[j], "gelu by its formula");
        }
    }
    reaches(reached, 0.3, "gelu by its formula");
}

static void single_roundings_are_tight(void **state)
{
    (void)state;
    static row_rig r;
    static const op_kind kinds[] = {OP_ADD, OP_SCALE, OP_SOFTCAP, OP_KV_STORE};
    static const double claim[] = {0.9, 0.9, 0.5, 0.9};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        double reached = 0;
        for (int trial = 0; trial < 200; trial++) {
            greta_error err = {0};
            op_output y;
            fill(trial % 2 ? WIDE : RANDOM, r.z, r.x, 128, 0);
            r.x[0] = 1 + 0x1p-11f;
            r.z[0] = 0x1p-24f;
            row_of(&r, kinds[i], 128);
            r.c.op.factor = 1 + 0x1p-12f;
            r.c.op.softcap = 30;
            bool is_store = kinds[i] == OP_KV_STORE;
            r.c.op.n_head_kv = 4;
            r.c.op.head_dim = 32;
            r.c.kv_type = DTYPE_F16;
            r.c.out.type = is_store ? DTYPE_F16 : DTYPE_F32;
            judge(&r.c, is_store ? BOUND_KV_F16 : BOUND_SOUND, r.exact, r.bound);
            rig_check(op_output_new(&r.c, &y, &err), &err);
            rig_check(op_replay(kernel_find("ref"), &r.c, &y, &err), &err);
            for (int j = 0; j < 128; j++) {
                float got = is_store ? kernel_f32_from_f16(((uint16_t *)y.values)[j])
                                     : ((float *)y.values)[j];
                hold(&reached, (double)got, r.exact[j], r.bound[j], op_kind_name(kinds[i]));
            }
            op_output_free(&y);
        }
        reaches(reached, claim[i], op_kind_name(kinds[i]));
    }
}

/* Rows held in 16 bits: what is read and what is written. */
static void rows_may_be_stored_narrow(void **state)
{
    (void)state;
    static row_rig r;
    static const struct {
        bound_class of;
        precision p;
        float half_ulp;
    } cases[] = {{BOUND_STORE_F16, PRECISION_F16, 0x1p-11f},
                 {BOUND_STORE_BF16, PRECISION_BF16, 0x1p-8f}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double reached = 0;
        precision p = cases[i].p;
        for (int trial = 0; trial < 500; trial++) {
            fill(RANDOM, r.z, r.x, 64, 0);
            r.x[0] = 1 + cases[i].half_ulp;
            r.z[0] = 1 + cases[i].half_ulp;
            row_of(&r, OP_ADD, 64);
            judge(&r.c, cases[i].of, r.exact, r.bound);
            for (int j = 0; j < 64; j++) {
                float sum = precision_round(p, r.x[j]) + precision_round(p, r.z[j]);
                hold(&reached, (double)precision_round(p, sum), r.exact[j], r.bound[j],
                     "rows in 16 bits");
            }
            row_of(&r, OP_RMS_NORM, 64);
            judge(&r.c, cases[i].of, r.exact, r.bound);
            float x[64];
            for (int j = 0; j < 64; j++) {
                x[j] = precision_round(p, r.x[j]);
            }
            float inverse = 1.0f / sqrtf(any_dot(x, x, 64, 0, PRECISION_F32) / 64.0f + 1e-5f);
            for (int j = 0; j < 64; j++) {
                hold(&reached, (double)precision_round(p, x[j] * inverse * r.w[j]), r.exact[j],
                     r.bound[j], "a norm of rows in 16 bits");
            }
        }
        reaches(reached, 0.5, bound_class_text(cases[i].of));
    }
}

/* Codes flip only where a value lies in the middle of two. */
static void codes_flip_in_the_middle_only(void **state)
{
    (void)state;
    static row_rig r;
    double reached = 0;
    int n_flip = 0;
    for (int trial = 0; trial < 4000; trial++) {
        fill(RANDOM, r.w, r.x, 32, 0);
        float most = 0;
        for (int i = 0; i < 32; i++) {
            most = fabsf(r.x[i]) > most ? fabsf(r.x[i]) : most;
        }
        float d = most / 127.0f;
        for (int i = 0; i < 16; i++) { /* the middle, as near as floats come */
            float middle = ((float)draw(126) + 0.5f) * d;
            r.x[i] = fabsf(r.x[i]) == most ? r.x[i] : middle;
        }
        row_of(&r, OP_QUANTIZE, 32);
        r.c.out.type = DTYPE_ACT_Q8;
        op_contract coded = {ACT_CONTRACT_Q8, DTYPE_F32};
        rig_check(op_replay_f64(&r.c, &coded, r.exact, NULL), NULL);
        rig_check(op_bound(&r.c, &coded, BOUND_SOUND, r.bound, NULL), NULL);
        for (int i = 0; i < 32; i++) {
            float y = rintf(r.x[i] / d) * d; /* a division for the product with the inverse */
            n_flip += fabs((double)y - r.exact[i]) > 0.5 * (double)d;
            hold(&reached, (double)y, r.exact[i], r.bound[i], "a code");
        }
    }
    assert_true(n_flip > 0);
    reaches(reached, 0.9, "codes");
}

/* ---- Attention ------------------------------------------------------------------------------- */

enum { N_KEY = 40, DIM = 64 };

typedef struct attention_rig {
    op_case c;
    float q[DIM], k[N_KEY][DIM], v[N_KEY][DIM];
    const void *key[N_KEY], *value[N_KEY];
    double exact[DIM], bound[DIM];
} attention_rig;

static void attention_of(attention_rig *a, int n_key, float scale)
{
    for (int p = 0; p < n_key; p++) {
        a->key[p] = a->k[p];
        a->value[p] = a->v[p];
    }
    a->c = (op_case){
        .op = {.kind = OP_ATTENTION, .n_head = 1, .n_head_kv = 1, .head_dim = DIM, .scale = scale},
        .in = {{DTYPE_F32, DIM, a->q}},
        .out = {DTYPE_F32, DIM, NULL},
        .key = a->key,
        .value = a->value,
        .n_key = n_key,
        .end = n_key,
        .kv_type = DTYPE_F32};
}

/* Two passes in any order; `p` is what cache rows are rounded to. */
static void any_attention(const attention_rig *a, int n_key, int way, precision p, float *y)
{
    float score[N_KEY], term[N_KEY], row[DIM], most = -INFINITY;
    for (int j = 0; j < n_key; j++) {
        for (int d = 0; d < DIM; d++) {
            row[d] = precision_round(p, a->k[j][d]);
        }
        score[j] = any_dot(a->q, row, DIM, way, PRECISION_F32) * a->c.op.scale;
        most = score[j] > most ? score[j] : most;
    }
    for (int j = 0; j < n_key; j++) {
        score[j] = expf(score[j] - most);
        term[j] = score[j];
    }
    float total = any_sum(term, n_key, way < 4 ? way : 0, PRECISION_F32);
    for (int d = 0; d < DIM; d++) {
        for (int j = 0; j < n_key; j++) {
            term[j] = score[j] * precision_round(p, a->v[j][d]);
        }
        y[d] = any_sum(term, n_key, way < 4 ? way : 0, PRECISION_F32) / total;
    }
}

static void attention_fill(attention_rig *a, int trial, float half_ulp)
{
    for (int d = 0; d < DIM; d++) {
        a->q[d] = normal() * (trial % 3 ? 1 : 4);
        for (int p = 0; p < N_KEY; p++) {
            a->k[p][d] = normal();
            a->v[p][d] = normal();
        }
    }
    for (int d = 0; d < DIM && trial % 4 == 0; d++) { /* one logit loses all it can, one gains it */
        a->q[d] = 1;
        a->k[0][d] = d == 0 ? 1 : half_ulp;
        a->k[1][d] = d == 0 ? 1 : half_ulp * (1 + 0x1p-20f);
        a->v[0][d] = 1;
        a->v[1][d] = -1;
    }
}

static void attention_stays_within_its_bounds(void **state)
{
    (void)state;
    static attention_rig a;
    double reached = 0, calibrated = 0, half = 0;
    for (int trial = 0; trial < 3000; trial++) {
        float y[DIM];
        int n_key = trial % 4 == 0 ? 2 : 1 + (int)draw(N_KEY);
        attention_fill(&a, trial, 0x1p-24f);
        attention_of(&a, n_key, trial % 4 == 0 ? 1.0f : 0.125f);
        any_attention(&a, n_key, trial % 4 == 0 ? 1 : (int)draw(5), PRECISION_F32, y);
        judge(&a.c, BOUND_SOUND, a.exact, a.bound);
        for (int d = 0; d < DIM; d++) {
            hold(&reached, (double)y[d], a.exact[d], a.bound[d], "attention");
        }
        judge(&a.c, BOUND_CALIBRATED, a.exact, a.bound);
        for (int d = 0; d < DIM && trial % 4; d++) {
            hold(&calibrated, (double)y[d], a.exact[d], a.bound[d], "attention on random data");
        }
        attention_fill(&a, trial, 0x1p-11f);
        if (trial % 4 == 0) {
            for (int d = 0; d < DIM; d++) {
                a.k[0][d] = 1 + 0x1p-11f;
                a.k[1][d] = -1 - 0x1p-11f;
            }
            a.c.op.scale = 0x1p-6f;
        }
        any_attention(&a, n_key, 0, PRECISION_F16, y);
        judge(&a.c, BOUND_KV_F16, a.exact, a.bound);
        for (int d = 0; d < DIM; d++) {
            hold(&half, (double)y[d], a.exact[d], a.bound[d], "attention on a cache of halves");
        }
    }
    reaches(reached, 0.5, "attention, sound");
    reaches(calibrated, 0.25, "attention, calibrated");
    reaches(half, 0.5, "attention, cache in binary16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_stay_within_their_bounds_in_any_order),
        cmocka_unit_test(random_sums_stay_within_the_calibrated_bound),
        cmocka_unit_test(factors_of_products_may_be_narrow),
        cmocka_unit_test(activations_may_be_codes),
        cmocka_unit_test(an_outlier_tells_the_widths_apart),
        cmocka_unit_test(norms_stay_within_their_bounds),
        cmocka_unit_test(a_wrong_eps_is_no_rounding),
        cmocka_unit_test(functions_stay_within_their_bounds),
        cmocka_unit_test(exponentials_may_be_fast),
        cmocka_unit_test(gelu_by_its_formula_is_no_fault),
        cmocka_unit_test(single_roundings_are_tight),
        cmocka_unit_test(rows_may_be_stored_narrow),
        cmocka_unit_test(codes_flip_in_the_middle_only),
        cmocka_unit_test(attention_stays_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
