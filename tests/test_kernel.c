/* test_kernel.c - the definition of the arithmetic, held against independent arithmetic.
 *
 * Every table this machine has is run on the same data and must give the same bits. What the bits
 * should be comes from elsewhere: scalar code below that follows docs/numerics.md line by line,
 * binary64, or MPFR. Shapes are odd on purpose; the seed is fixed and printed on failure by
 * cmocka's messages.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <mpfr.h>

#include "kernel/elementary.h"
#include "kernel/half.h"
#include "kernel/kernel.h"
#include "weights.h"

static uint64_t seed = 0x5eed;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    uint32_t x = (uint32_t)(seed >> 33) ^ (uint32_t)(seed >> 17);
    return x * 0x9e3779b1u;
}

static float random_float(float size)
{
    return ((float)(random_bits() >> 8) * 0x1p-23f - 1.0f) * size;
}

static void fill(float *x, int64_t n, float size)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = random_float(size);
    }
}

static void assert_bits(const float *a, const float *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (hash_float_bits(a[i]) != hash_float_bits(b[i])) {
            fail_msg("%s: value %d is %a, expected %a", what, (int)i, (double)a[i], (double)b[i]);
        }
    }
}

#define FOR_TABLES(t)                                                                              \
    for (const kernel_table *const *t##_at = kernel_tables(), *t = *t##_at; t; t = *++t##_at)

/* ---- Functions of one number ----------------------------------------------------------------- */

static double ulp_of(double exact)
{
    int exponent;
    frexp(exact, &exponent);
    return ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

static void half_is_rounded_once(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = half_to_float((uint16_t)h);
        int is_nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0;
        double exact = (h & 0x7c00) == 0
                           ? ldexp((double)(h & 0x3ff), -24)
                           : ldexp((double)((h & 0x3ff) | 0x400), (int)(h >> 10 & 31) - 25);
        exact = (h & 0x7c00) == 0x7c00 ? (double)INFINITY : exact;
        assert_true(is_nan ? isnan(f) : (double)f == ((h & 0x8000) ? -exact : exact));
        assert_int_equal(half_from_float(f), is_nan ? 0x7e00 : h);
    }
    for (int i = 0; i < 300000; i++) {
        float f = float_from_bits(random_bits());
        if (i % 3 == 0) {
            f = random_float(70000.0f);
        }
        if (isnan(f)) {
            continue;
        }
        /* Nearest even on the grid of f's binade, in binary64. */
        int exponent = ilogb((double)f == 0 ? 1e-30 : (double)f);
        double step = ldexp(1.0, (exponent < -14 ? -14 : exponent) - 10);
        double rounded = nearbyint((double)f / step) * step;
        rounded = fabs(rounded) >= 65520.0 ? copysign((double)INFINITY, rounded) : rounded;
        assert_true((double)half_to_float(half_from_float(f)) == rounded);
    }
}

static void rope_table_is_right_to_the_last_bit_but_one(void **state)
{
    (void)state;
    const struct {
        float base;
        int32_t dim;
        int64_t position;
    } c[] = {{10000, 64, 0},
             {10000, 128, 4095},
             {100000, 64, 8191},
             {500000, 128, 131071},
             {1e6f, 6, 16777215}};
    mpfr_t angle, value;
    mpfr_inits2(200, angle, value, (mpfr_ptr)0);
    float cos_sin[128];
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        rope_table_args a = {.freq_base = c[i].base,
                             .rope_dim = c[i].dim,
                             .first_position = c[i].position,
                             .n_position = 1};
        kernel_rope_table(&a, cos_sin);
        for (int32_t j = 0; j < c[i].dim / 2; j++) {
            mpfr_set_d(angle, (double)c[i].base, MPFR_RNDN);
            mpfr_set_d(value, -2.0 * j / c[i].dim, MPFR_RNDN);
            mpfr_set_si(value, -2 * j, MPFR_RNDN);
            mpfr_div_si(value, value, c[i].dim, MPFR_RNDN);
            mpfr_pow(angle, angle, value, MPFR_RNDN);
            mpfr_mul_si(angle, angle, (long)c[i].position, MPFR_RNDN);
            double relative = (double)c[i].position * 0x1p-50; /* error of the binary64 angle */
            mpfr_cos(value, angle, MPFR_RNDN);
            double exact = mpfr_get_d(value, MPFR_RNDN);
            assert_true(fabs((double)cos_sin[2 * j] - exact) <= 0.5 * ulp_of(exact) + relative);
            mpfr_sin(value, angle, MPFR_RNDN);
            exact = mpfr_get_d(value, MPFR_RNDN);
            assert_true(fabs((double)cos_sin[2 * j + 1] - exact) <= 0.5 * ulp_of(exact) + relative);
        }
    }
    float factors[3] = {1, 2, 8}, scaled[6], plain[6];
    rope_table_args with = {.freq_base = 10000,
                            .factors = factors,
                            .rope_dim = 6,
                            .first_position = 100,
                            .n_position = 1,
                            .scaling = ROPE_SCALING_LINEAR,
                            .factor = 4.0f};
    rope_table_args without = {
        .freq_base = 10000, .rope_dim = 6, .first_position = 25, .n_position = 1};
    kernel_rope_table(&with, scaled);
    kernel_rope_table(&without, plain);
    assert_bits(scaled, plain, 2, "linear scaling divides the position");
    assert_true(scaled[2] != plain[2]);
    mpfr_clears(angle, value, (mpfr_ptr)0);
}

/* The limit on both sides, and numbers of a hostile file or trace: NaN, never a wild cast. */
static void rotary_angles_end_where_they_say(void **state)
{
    (void)state;
    const float tiny[3] = {0x1p-149f, 1, 1}, huge = 0x1.fffffep127f;
    rope_table_args last = {
        .freq_base = 10000, .rope_dim = 6, .first_position = 1 << 25, .n_position = 1};
    float cos_sin[6];
    kernel_rope_table(&last, cos_sin);
    assert_true(kernel_rope_is_in_range(&last));
    assert_true(fabs((double)cos_sin[0] - cos(0x1p25)) < 0x1p-24);
    assert_true(fabs((double)cos_sin[1] - sin(0x1p25)) < 0x1p-24);
    rope_table_args beyond[6] = {last, last, last, last, last, last};
    beyond[0].n_position = 2;
    beyond[1].freq_base = 0x1p-100f;
    beyond[2].factors = tiny;
    beyond[3].scaling = ROPE_SCALING_LINEAR;
    beyond[3].factor = 0x1p-100f;
    beyond[4].first_position = INT64_MAX / 2;
    beyond[5].scaling = ROPE_SCALING_YARN;
    beyond[5].factor = beyond[5].beta_fast = beyond[5].beta_slow = 0x1p-100f;
    beyond[5].ext_factor = huge;
    beyond[5].n_ctx_original = 2;
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        float table[12];
        int is_finite = 1;
        kernel_rope_table(&beyond[i], table);
        for (int64_t k = 0; k < 6 * beyond[i].n_position; k++) {
            is_finite &= isfinite(table[k]) != 0;
        }
        assert_false(is_finite);
        assert_false(kernel_rope_is_in_range(&beyond[i]));
    }
}

/* ---- Row ops, against scalar code that follows the text -------------------------------------- */

static float sum_by_the_text(const float *terms, int64_t n)
{
    float total = 0;
    for (int64_t start = 0; start < n; start += 64) {
        float s[64];
        for (int64_t i = 0; i < 64; i++) {
            s[i] = start + i < n ? terms[start + i] : 0.0f;
        }
        for (int stride = 32; stride >= 1; stride /= 2) {
            for (int i = 0; i < stride; i++) {
                volatile float sum = s[i] + s[i + stride];
                s[i] = sum;
            }
        }
        total = start == 0 ? s[0] : total + s[0];
    }
    return total;
}

static void rms_norm_follows_the_text(void **state)
{
    (void)state;
    float x[700], w[700], y[700], expected[700], squares[700];
    for (int64_t n = 1; n <= 700; n += n < 140 ? 1 : 97) {
        fill(x, n, n % 2 ? 1.0f : 0.01f);
        fill(w, n, 2.0f);
        for (int64_t i = 0; i < n; i++) {
            squares[i] = x[i] * x[i];
        }
        float mean = sum_by_the_text(squares, n) / (float)n;
        float inv = 1.0f / sqrtf(mean + 1e-5f);
        double f64 = 0;
        for (int64_t i = 0; i < n; i++) {
            volatile float scaled = x[i] * inv;
            expected[i] = scaled * w[i];
            f64 += (double)x[i] * (double)x[i];
        }
        double exact_inv = 1.0 / sqrt(f64 / (double)n + (double)1e-5f);
        assert_true(fabs((double)inv - exact_inv) <=
                    exact_inv * (6 + (double)n / 64 + 4) * 0x1p-24);
        FOR_TABLES(t)
        {
            norm_args a = {x, w, y, n, n, 1e-5f, 0};
            t->rms_norm(&a);
            assert_true(a.inv_rms == inv);
            assert_bits(y, expected, n, "rms_norm");
        }
    }
}

static void quantiser_follows_the_text(void **state)
{
    (void)state;
    float x[96];
    _Alignas(64) uint8_t q[128], again[128];
    for (int round = 0; round < 2000; round++) {
        fill(x, 96, ldexpf(1.0f, (int)(random_bits() % 200) - 120));
        if (round % 7 == 0) {
            x[33] = round % 14 ? INFINITY : NAN;
        }
        FOR_TABLES(t)
        {
            memset(q, 0xee, sizeof q);
            t->quantize(x, q, 96, 0, 96);
            const float *d = (const float *)(const void *)(q + 96);
            const int32_t *isum = (const int32_t *)(const void *)(q + 96 + 12);
            for (int b = 0; b < 3; b++) {
                float most = 0;
                int finite = 1, sum = 0;
                for (int i = 0; i < 32; i++) {
                    most = fmaxf(most, fabsf(x[32 * b + i]));
                    finite &= isfinite(x[32 * b + i]) != 0;
                }
                int is_zero = !finite || most < 0x1p-100f;
                assert_true(finite ? d[b] == (is_zero ? 0.0f : most / 127.0f) : isnan(d[b]));
                for (int i = 0; i < 32; i++) {
                    volatile float steps = is_zero ? 0.0f : x[32 * b + i] * (127.0f / most);
                    assert_int_equal((int8_t)q[32 * b + i], (int)nearbyintf(steps));
                    sum += (int8_t)q[32 * b + i];
                }
                assert_int_equal(isum[b], sum);
            }
            if (t != kernel_tables()[0]) {
                assert_memory_equal(q, again, 96);
            }
            memcpy(again, q, sizeof q);
        }
    }
}

static void rotation_addition_and_gate_follow_the_text(void **state)
{
    (void)state;
    float x[3 * 10], y[30], up[1000], gate[1000], out[1000], cos_sin[8];
    fill(x, 30, 3.0f);
    fill(cos_sin, 8, 1.0f);
    fill(gate, 1000, 20.0f);
    fill(up, 1000, 4.0f);
    FOR_TABLES(t)
    {
        rope_args a = {x, y, cos_sin, 3, 10, 8, ROPE_NEIGHBOURS};
        t->rope(&a);
        for (int h = 0; h < 3; h++) {
            for (int i = 0; i < 4; i++) {
                float x0 = x[10 * h + 2 * i], x1 = x[10 * h + 2 * i + 1];
                float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
                volatile float x1s = x1 * s, x1c = x1 * c;
                assert_true(y[10 * h + 2 * i] == fmaf(x0, c, -x1s));
                assert_true(y[10 * h + 2 * i + 1] == fmaf(x0, s, x1c));
            }
            assert_bits(y + 10 * h + 8, x + 10 * h + 8, 2, "rope leaves the rest");
        }
        t->add(gate, up, out, 1000);
        for (int i = 0; i < 1000; i++) {
            assert_true(out[i] == gate[i] + up[i]);
        }
        t->glu(ACTIVATION_SILU, gate, up, out, 1000);
        for (int i = 0; i < 1000; i++) {
            volatile float silu = elementary_silu(gate[i]);
            assert_true(out[i] == silu * up[i]);
        }
    }
}

static void statistics_are_those_of_the_row(void **state)
{
    (void)state;
    float x[200], squares[200];
    fill(x, 200, 5.0f);
    x[7] = NAN;
    x[9] = -INFINITY;
    for (int64_t n = 1; n <= 200; n++) {
        row_hash hash = {0};
        uint64_t n_bad = 0;
        float least = 0, most = 0;
        int any = 0;
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = isnan(x[i]) ? 0x7fc00000u : bits_from_float(x[i]);
            hash.ordered += hash_mix64(bits, hash_key((uint64_t)i));
            hash.bag += hash_mix64(bits, 0);
            squares[i] = x[i] * x[i];
            n_bad += isfinite(x[i]) ? 0 : 1;
            if (isfinite(x[i])) {
                least = !any || x[i] < least ? x[i] : least;
                most = !any || x[i] > most ? x[i] : most;
                any = 1;
            }
        }
        FOR_TABLES(t)
        {
            row_stats stats;
            t->row_stats(DTYPE_F32, x, n, &stats);
            assert_true(stats.hash.ordered == hash.ordered && stats.hash.bag == hash.bag);
            assert_true(stats.n_nonfinite == n_bad && stats.min == least && stats.max == most);
            float sum = sum_by_the_text(squares, n);
            assert_true(hash_float_bits(sum) == hash_float_bits(stats.sumsq));
        }
    }
}

/* ---- Matrix products ------------------------------------------------------------------------- */

/* Random blocks with small and finite scales. */
static void random_row(dtype type, uint8_t *row, int64_t n)
{
    const dtype_traits *traits = dtype_find((uint32_t)type);
    for (int64_t b = 0; b < n / traits->block; b++) {
        uint8_t *block = row + b * traits->bytes;
        for (uint32_t i = 0; i < traits->bytes; i++) {
            block[i] = (uint8_t)random_bits();
        }
        for (int i = 0; i < weight_n_scale(type); i++) {
            weight_scale_put(type, block, i, random_float(traits->is_quantised ? 0.05f : 1.0f));
        }
    }
}

typedef struct product {
    dtype type;
    int64_t k, n_out, n_token, x_stride;
    uint8_t *w;
    int64_t row_bytes;
    float *x, *bias, *values; /* values: weights as floats, one row at a time */
    uint8_t *q8;
} product;

static product product_new(dtype type, int64_t k, int64_t n_out, int64_t n_token)
{
    const dtype_traits *traits = dtype_find((uint32_t)type);
    product p = {.type = type, .k = k, .n_out = n_out, .n_token = n_token};
    p.row_bytes = k / traits->block * traits->bytes;
    p.w = malloc((size_t)(p.row_bytes * n_out));
    p.x = malloc((size_t)(k * n_token) * 4);
    p.bias = malloc((size_t)n_out * 4);
    p.values = malloc((size_t)k * 4);
    p.x_stride = (int64_t)(act_q8_bytes(k) + 63) / 64 * 64;
    p.q8 = calloc(1, (size_t)(p.x_stride * n_token));
    for (int64_t r = 0; r < n_out; r++) {
        random_row(type, p.w + r * p.row_bytes, k);
    }
    fill(p.x, k * n_token, 2.0f);
    fill(p.bias, n_out, 1.0f);
    for (int64_t t = 0; t < n_token && k % 32 == 0; t++) {
        kernel_tables()[0]->quantize(p.x + t * k, p.q8 + t * p.x_stride, k, 0, k);
    }
    return p;
}

static void product_free(product *p)
{
    free(p->w);
    free(p->x);
    free(p->bias);
    free(p->values);
    free(p->q8);
}

static matmul_args product_args(const product *p, int x_is_q8, float *y)
{
    return (matmul_args){.type = p->type,
                         .w = p->w,
                         .row_bytes = p->row_bytes,
                         .bias = p->bias,
                         .x = x_is_q8 ? (const void *)p->q8 : p->x,
                         .x_stride = x_is_q8 ? p->x_stride : p->k * 4,
                         .y = y,
                         .y_stride = p->n_out,
                         .k = p->k,
                         .n_token = p->n_token,
                         .x_is_q8 = x_is_q8};
}

/* The product's arguments for a table, with the weights in its own layout where it has one. */
static matmul_args table_args(const kernel_table *t, const product *p, int x_is_q8, float *y)
{
    matmul_args a = product_args(p, x_is_q8, y);
    size_t bytes = t->packed_bytes ? t->packed_bytes(p->type, p->n_out, p->k) : 0;
    void *packed = NULL;
    if (bytes > 0) {
        assert_int_equal(posix_memalign(&packed, 64, bytes), 0);
        pack_args pack = {p->type, p->w, p->row_bytes, p->n_out, p->k, packed};
        t->pack(&pack, 0, (p->n_out + PACK_ROWS - 1) / PACK_ROWS);
        a.packed = packed;
    }
    return a;
}

static void table_args_free(const matmul_args *a)
{
    union {
        const uint8_t *read;
        void *owned;
    } packed = {a->packed};
    free(packed.owned);
}

/* One output by the text: chains over segments of 256 in K order. */
static float float_output(const product *p, int64_t token)
{
    float total = 0;
    for (int64_t start = 0; start < p->k; start += 256) {
        float acc = 0;
        for (int64_t k = start; k < p->k && k < start + 256; k++) {
            acc = fmaf(p->values[k], p->x[token * p->k + k], acc);
        }
        total = start == 0 ? acc : total + acc;
    }
    return total;
}

/* What a quantised product means, in binary64: the values of weights times code * scale; *size gets
 * sum |x| (|ws q| + |wm|) up to the split of |w| into its two parts, which |w| and a slack replace.
 */
static double q8_output(const product *p, int64_t token, double *size)
{
    const int8_t *code = (const int8_t *)p->q8 + token * p->x_stride;
    const float *d = (const float *)(const void *)(code + p->k);
    double sum = 0;
    *size = 0;
    for (int64_t k = 0; k < p->k; k++) {
        double x = (double)code[k] * (double)d[k / 32];
        sum += x * (double)p->values[k];
        *size += fabs(x) * (fabs((double)p->values[k]) + 6.5);
    }
    return sum;
}

static void products_follow_the_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_WEIGHT_TYPE; i++) {
        const dtype_traits *traits = dtype_find((uint32_t)weight_types[i]);
        int64_t k_list[] = {traits->block == 1 ? 33 : traits->block, 768, 2304};
        for (int j = 0; j < 3; j++) {
            product p = product_new(weight_types[i], k_list[j], 37, 6);
            float *y = malloc(37 * 6 * 4), *expected = malloc(37 * 6 * 4);
            for (int64_t o = 0; o < p.n_out; o++) {
                kernel_dequantize(p.type, p.w + o * p.row_bytes, p.values, p.k);
                for (int64_t t = 0; t < p.n_token; t++) {
                    expected[t * p.n_out + o] = float_output(&p, t) + p.bias[o];
                }
            }
            FOR_TABLES(t)
            {
                matmul_args a = table_args(t, &p, 0, y);
                t->matmul(&a, 0, p.n_out);
                assert_bits(y, expected, p.n_out * p.n_token, traits->name);
                table_args_free(&a);
            }
            free(y);
            free(expected);
            product_free(&p);
        }
    }
}

static void quantised_products_are_within_their_bound(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_WEIGHT_TYPE; i++) {
        const dtype_traits *traits = dtype_find((uint32_t)weight_types[i]);
        if (!traits->is_quantised) {
            continue;
        }
        product p = product_new(weight_types[i], 2304, 37, 5);
        float *y = malloc(37 * 5 * 4), *first = malloc(37 * 5 * 4);
        const kernel_table *ref = kernel_find("ref");
        matmul_args by_ref = product_args(&p, 1, first);
        ref->matmul(&by_ref, 0, p.n_out);
        FOR_TABLES(t)
        {
            matmul_args a = table_args(t, &p, 1, y);
            t->matmul(&a, 0, p.n_out);
            assert_bits(y, first, p.n_out * p.n_token, traits->name);
            table_args_free(&a);
        }
        for (int64_t o = 0; o < p.n_out; o++) {
            kernel_dequantize(p.type, p.w + o * p.row_bytes, p.values, p.k);
            for (int64_t t = 0; t < p.n_token; t++) {
                double size, exact = q8_output(&p, t, &size) + (double)p.bias[o];
                assert_true(fabs((double)y[t * p.n_out + o] - exact) <= 70 * 0x1p-24 * (size + 1));
            }
        }
        free(y);
        free(first);
        product_free(&p);
    }
}

/* Tokens together or alone, rows together or split anywhere: the same bits. */
static void products_do_not_depend_on_company(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * N_WEIGHT_TYPE; i++) {
        int q8 = i % 2 == 0;
        dtype type = weight_types[i / 2];
        if (q8 && !dtype_find((uint32_t)type)->is_quantised) {
            continue;
        }
        product p = product_new(type, 1280, 53, 27);
        float *whole = malloc(53 * 27 * 4), *parts = malloc(53 * 27 * 4);
        matmul_args by_ref = product_args(&p, q8, whole);
        kernel_find("ref")->matmul(&by_ref, 0, p.n_out);
        FOR_TABLES(t)
        {
            matmul_args a = table_args(t, &p, q8, parts);
            for (int64_t token = 0, n; token < p.n_token; token += n) {
                matmul_args some = a;
                n = 1 + (int64_t)(random_bits() % 15);
                n = token + n < p.n_token ? n : p.n_token - token;
                some.x = (const uint8_t *)a.x + token * a.x_stride;
                some.y = parts + token * p.n_out;
                some.n_token = n;
                for (int64_t o = 0, end; o < p.n_out; o = end) {
                    end = o + 1 + (int64_t)(random_bits() % 40);
                    end = end < p.n_out ? end : p.n_out;
                    t->matmul(&some, o, end);
                }
            }
            assert_bits(parts, whole, p.n_out * p.n_token, dtype_name(type));
            memset(parts, 0xff, 53 * 27 * 4);
            t->matmul(&a, 0, p.n_out);
            assert_bits(parts, whole, p.n_out * p.n_token, dtype_name(type));
            table_args_free(&a);
        }
        free(whole);
        free(parts);
        product_free(&p);
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

enum { HEADS = 6, KV_HEADS = 2, DIM = 20, POSITIONS = 150 };

enum { CACHE = (POSITIONS + 63) / 64 * 64 * KV_HEADS * DIM };

/* Keys and values by position, and as the cache of each type has them. */
typedef struct scene {
    float q[16][HEADS * DIM], k[POSITIONS * KV_HEADS * DIM], v[POSITIONS * KV_HEADS * DIM];
    _Alignas(64) float k_wide[CACHE], v_wide[CACHE];
    _Alignas(64) uint16_t k_half[CACHE], v_half[CACHE];
} scene;

/* Blocks of 64 positions of a head: keys (head_dim, 64), values (64, head_dim). What was never
 * stored is NaN. */
static scene *scene_new(void)
{
    scene *s = aligned_alloc(64, sizeof *s);
    memset(s, 0xff, sizeof *s);
    fill(&s->q[0][0], 16 * HEADS * DIM, 3.0f);
    fill(s->k, POSITIONS * KV_HEADS * DIM, 2.0f);
    fill(s->v, POSITIONS * KV_HEADS * DIM, 1.0f);
    for (int p = 0; p < POSITIONS; p++) {
        for (int i = 0; i < KV_HEADS * DIM; i++) {
            int head = i / DIM, d = i % DIM, block = (p / 64 * KV_HEADS + head) * 64 * DIM;
            int k_at = block + d * 64 + p % 64, v_at = block + p % 64 * DIM + d;
            s->k_wide[k_at] = s->k[p * KV_HEADS * DIM + i];
            s->v_wide[v_at] = s->v[p * KV_HEADS * DIM + i];
            s->k_half[k_at] = half_from_float(s->k_wide[k_at]);
            s->v_half[v_at] = half_from_float(s->v_wide[v_at]);
        }
    }
    return s;
}

/* Stored in any order and by heads, a cache is the picture above; its rows come back. */
static void cache_follows_the_text(void **state)
{
    (void)state;
    scene *s = scene_new();
    for (int i = 0; i < 4; i++) {
        const void *picture[] = {s->k_wide, s->v_wide, s->k_half, s->v_half};
        size_t size = i < 2 ? 4 : 2, bytes = CACHE * size;
        kv_shape shape = {i < 2 ? DTYPE_F32 : DTYPE_F16, KV_HEADS, DIM};
        kv_side side = i % 2 ? KV_VALUES : KV_KEYS;
        const float *x = i % 2 ? s->v : s->k;
        void *cache = aligned_alloc(64, bytes);
        FOR_TABLES(t)
        {
            memset(cache, 0xff, bytes);
            for (int64_t n = 0; n < 2 * POSITIONS; n++) {
                int64_t p = n * 7 % POSITIONS;
                kv_store_args a = {x + p * KV_HEADS * DIM, cache, shape, side, p};
                int32_t head = (int32_t)(n % 2) ^ (n < POSITIONS);
                t->kv_store(&a, head, head + 1);
            }
            assert_memory_equal(cache, picture[i], bytes);
        }
        for (int64_t p = 0; p < POSITIONS; p++) {
            uint8_t row[KV_HEADS * DIM * 4];
            kernel_kv_load(&(kv_load_args){cache, shape, side, p, row});
            for (int d = 0; d < KV_HEADS * DIM; d++) {
                float value = x[p * KV_HEADS * DIM + d];
                uint16_t half = half_from_float(value);
                assert_memory_equal(row + (size_t)d * size, i < 2 ? (void *)&value : (void *)&half,
                                    size);
            }
        }
        free(cache);
    }
    free(s);
}

/* One head by the text: tiles of 64 positions, each with its maximum, sum and chain, then merged.
 */
static void attend_by_the_text(const scene *s, int h, int64_t n, float *y)
{
    float most = 0, sum = 0, out[DIM] = {0};
    for (int64_t start = 0; start < n; start += 64) {
        float e[64], m = -INFINITY, o[DIM] = {0};
        int64_t size = n - start < 64 ? n - start : 64;
        for (int64_t p = 0; p < size; p++) {
            e[p] = 0;
            for (int d = 0; d < DIM; d++) {
                e[p] = fmaf(s->q[0][h * DIM + d], s->k[((start + p) * KV_HEADS + h / 3) * DIM + d],
                            e[p]);
            }
            e[p] *= 0.25f;
            m = fmaxf(m, e[p]);
        }
        for (int64_t p = 0; p < size; p++) {
            e[p] = elementary_exp(e[p] - m);
            for (int d = 0; d < DIM; d++) {
                o[d] = fmaf(e[p], s->v[((start + p) * KV_HEADS + h / 3) * DIM + d], o[d]);
            }
        }
        float l = sum_by_the_text(e, size), next = start ? fmaxf(most, m) : m;
        float a = start ? elementary_exp(most - next) : 0, b = elementary_exp(m - next);
        volatile float lb = l * b;
        sum = start ? fmaf(sum, a, lb) : l;
        for (int d = 0; d < DIM; d++) {
            volatile float ob = o[d] * b;
            out[d] = start ? fmaf(out[d], a, ob) : o[d];
        }
        most = next;
    }
    for (int d = 0; d < DIM; d++) {
        y[d] = out[d] / sum;
    }
}

static void attention_is_softmax_of_what_is_visible(void **state)
{
    (void)state;
    scene *s = scene_new();
    FOR_TABLES(t)
    {
        for (int64_t n = 1; n <= POSITIONS; n += n < 70 ? 1 : 13) {
            float y[HEADS * DIM];
            attention_args a = {.q = s->q[0],
                                .k = s->k_wide,
                                .v = s->v_wide,
                                .kv = {DTYPE_F32, KV_HEADS, DIM},
                                .n_position = n,
                                .n_token = 1,
                                .q_stride = HEADS * DIM,
                                .y_stride = HEADS * DIM,
                                .n_head = HEADS,
                                .scale = 0.25f,
                                .y = y};
            t->attention(&a, 0, KV_HEADS);
            for (int h = 0; h < HEADS; h++) {
                float text[DIM];
                attend_by_the_text(s, h, n, text);
                assert_bits(y + h * DIM, text, DIM, "attention");
                double p[POSITIONS], most = -1e30, sum = 0;
                for (int64_t i = 0; i < n; i++) {
                    p[i] = 0;
                    for (int d = 0; d < DIM; d++) {
                        p[i] += 0.25 * (double)s->q[0][h * DIM + d] *
                                (double)s->k[(i * KV_HEADS + h / 3) * DIM + d];
                    }
                    most = p[i] > most ? p[i] : most;
                }
                for (int64_t i = 0; i < n; i++) {
                    p[i] = exp(p[i] - most);
                    sum += p[i];
                }
                for (int d = 0; d < DIM; d++) {
                    double exact = 0;
                    for (int64_t i = 0; i < n; i++) {
                        exact += p[i] / sum * (double)s->v[(i * KV_HEADS + h / 3) * DIM + d];
                    }
                    assert_true(fabs((double)y[h * DIM + d] - exact) < 2e-5);
                }
            }
        }
    }
    free(s);
}

/* A block of tokens, any split of heads, and one token at a time; both cache types. */
static void attention_does_not_depend_on_company(void **state)
{
    (void)state;
    scene *s = scene_new();
    float first[2][16][HEADS * DIM], y[16][HEADS * DIM];
    for (int half = 0; half < 2; half++) {
        for (int64_t start = 1; start < POSITIONS - 16; start += 11) {
            attention_args a = {.q = s->q[0],
                                .k = half ? (void *)s->k_half : (void *)s->k_wide,
                                .v = half ? (void *)s->v_half : (void *)s->v_wide,
                                .kv = {half ? DTYPE_F16 : DTYPE_F32, KV_HEADS, DIM},
                                .n_position = start,
                                .n_token = 16,
                                .q_stride = HEADS * DIM,
                                .y_stride = HEADS * DIM,
                                .n_head = HEADS,
                                .scale = 0.25f,
                                .y = first[0][0]};
            kernel_tables()[0]->attention(&a, 0, KV_HEADS);
            FOR_TABLES(t)
            {
                a.y = y[0];
                t->attention(&a, 1, 2);
                t->attention(&a, 0, 1);
                assert_bits(y[0], first[0][0], 16 * HEADS * DIM, "attention, block");
                for (int i = 0; i < 16; i++) {
                    attention_args one = a;
                    one.q = s->q[i];
                    one.y = first[1][i];
                    one.n_position = start + i;
                    one.n_token = 1;
                    t->attention(&one, 0, KV_HEADS);
                }
                assert_bits(first[1][0], first[0][0], 16 * HEADS * DIM, "attention, one by one");
            }
        }
    }
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_is_rounded_once),
        cmocka_unit_test(rope_table_is_right_to_the_last_bit_but_one),
        cmocka_unit_test(rotary_angles_end_where_they_say),
        cmocka_unit_test(rms_norm_follows_the_text),
        cmocka_unit_test(quantiser_follows_the_text),
        cmocka_unit_test(rotation_addition_and_gate_follow_the_text),
        cmocka_unit_test(statistics_are_those_of_the_row),
        cmocka_unit_test(products_follow_the_text),
        cmocka_unit_test(quantised_products_are_within_their_bound),
        cmocka_unit_test(products_do_not_depend_on_company),
        cmocka_unit_test(cache_follows_the_text),
        cmocka_unit_test(attention_is_softmax_of_what_is_visible),
        cmocka_unit_test(attention_does_not_depend_on_company),
    };
    return cmocka_run_group_tests_name("kernel", tests, NULL, NULL);
}
