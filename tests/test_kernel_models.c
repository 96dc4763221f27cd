/* test_kernel_models.c - the ops that only some models have, on every kernel table.
 *
 * Windows and soft-caps of attention, rotation of halves, soft-cap, scale, routing of experts, and
 * the rotary methods for long contexts. What the bits should be comes from scalar code that follows
 * docs/numerics.md, or from the papers' formulas in long double. That a position outside of a
 * window takes no part is shown by filling it with NaN.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hostile.h"
#include "kernel/elementary.h"
#include "kernel/half.h"
#include "kernel/kernel.h"
#include "volume.h"

#define FOR_TABLES(t)                                                                              \
    for (const kernel_table *const *t##_at = kernel_tables(), *t = *t##_at; t; t = *++t##_at)

static void assert_bits(const float *a, const float *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (hash_float_bits(a[i]) != hash_float_bits(b[i])) {
            fail_msg("%s: value %d is %a, expected %a", what, (int)i, (double)a[i], (double)b[i]);
        }
    }
}

/* ---- Rows --------------------------------------------------------------------------------------
 */

static void scale_and_softcap_follow_the_text(void **state)
{
    (void)state;
    static const float caps[] = {50.0f, 30.0f, 0.7f, 1e-3f};
    for (int round = 0; round < 400; round++) {
        int64_t n = 1 + random_below(150);
        float cap = caps[round % 4], factor = number_new(DATA_RANDOM);
        at_end = round % 2;
        n_slot = 0;
        float *x = operand((size_t)n * 4, 4), *y = operand((size_t)n * 4, 4);
        float *z = operand((size_t)n * 4, 4);
        numbers_fill(x, n, (data_kind)(round / 4 % DATA_KINDS));
        FOR_TABLES(t)
        {
            t->softcap(cap, x, y, n);
            t->scale(factor, x, z, n);
            for (int64_t i = 0; i < n; i++) {
                volatile float quotient = x[i] / cap;
                float capped = cap * elementary_tanh(quotient), scaled = x[i] * factor;
                assert_bits(&y[i], &capped, 1, "softcap");
                assert_bits(&z[i], &scaled, 1, "scale");
                if (fabsf(x[i]) < 8 * cap) {
                    double exact = (double)cap * tanh((double)x[i] / (double)cap);
                    assert_true(fabs((double)y[i] - exact) <=
                                4e-7 * fabs(exact) + (1 + (double)cap) * 0x1p-149);
                }
                assert_false(fabsf(y[i]) > cap);
            }
            assert_true(canaries_are_intact());
        }
    }
}

static void halves_turn_as_neighbours_of_permuted_rows_do(void **state)
{
    (void)state;
    enum { DIM = 22, TURNED = 14, HEADS = 3 };
    float x[HEADS * DIM], mixed[HEADS * DIM], y[HEADS * DIM], z[HEADS * DIM], table[TURNED];
    numbers_fill(x, HEADS * DIM, DATA_RANDOM);
    numbers_fill(table, TURNED, DATA_RANDOM);
    for (int i = 0; i < HEADS * DIM; i++) { /* value i of a head goes where its partner is next */
        int at = i % DIM, half = TURNED / 2;
        int to = at >= TURNED ? at : at < half ? 2 * at : 2 * (at - half) + 1;
        mixed[i - at + to] = x[i];
    }
    FOR_TABLES(t)
    {
        rope_args a = {x, y, table, HEADS, DIM, TURNED, ROPE_HALVES};
        rope_args b = {mixed, z, table, HEADS, DIM, TURNED, ROPE_NEIGHBOURS};
        t->rope(&a);
        t->rope(&b);
        for (int i = 0; i < HEADS * DIM; i++) {
            int at = i % DIM, half = TURNED / 2;
            int to = at >= TURNED ? at : at < half ? 2 * at : 2 * (at - half) + 1;
            assert_bits(&y[i], &z[i - at + to], 1, "rope");
        }
        volatile float product = x[TURNED / 2] * table[1];
        float first = fmaf(x[0], table[0], -product);
        assert_bits(&y[0], &first, 1, "pair (0, dim / 2)");
    }
}

/* ---- Attention ---------------------------------------------------------------------------------
 */

enum { POSITIONS = 330, KV_HEADS = 2, HEADS = 6, DIM = 21, TOKENS = 16 };
#define CACHE ((POSITIONS + 63) / 64 * 64 * KV_HEADS * DIM)

typedef struct scene {
    float q[POSITIONS][HEADS * DIM], k[POSITIONS][KV_HEADS * DIM], v[POSITIONS][KV_HEADS * DIM];
    _Alignas(64) float k_wide[CACHE], v_wide[CACHE];
    _Alignas(64) uint16_t k_half[CACHE], v_half[CACHE];
} scene;

static scene *scene_new(void)
{
    scene *s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64);
    numbers_fill(s->q[0], POSITIONS * HEADS * DIM, DATA_RANDOM);
    numbers_fill(s->k[0], POSITIONS * KV_HEADS * DIM, DATA_RANDOM);
    numbers_fill(s->v[0], POSITIONS * KV_HEADS * DIM, DATA_RANDOM);
    return s;
}

/* Stores all positions, those below `lost` as NaN. */
static void scene_store(scene *s, int64_t lost)
{
    const kernel_table *t = kernel_find("ref");
    float nothing[KV_HEADS * DIM];
    for (int i = 0; i < KV_HEADS * DIM; i++) {
        nothing[i] = NAN;
    }
    for (int64_t p = 0; p < POSITIONS; p++) {
        const float *k = p < lost ? nothing : s->k[p], *v = p < lost ? nothing : s->v[p];
        const kv_store_args all[] = {
            {k, s->k_wide, {DTYPE_F32, KV_HEADS, DIM}, KV_KEYS, p},
            {v, s->v_wide, {DTYPE_F32, KV_HEADS, DIM}, KV_VALUES, p},
            {k, s->k_half, {DTYPE_F16, KV_HEADS, DIM}, KV_KEYS, p},
            {v, s->v_half, {DTYPE_F16, KV_HEADS, DIM}, KV_VALUES, p},
        };
        for (int i = 0; i < 4; i++) {
            t->kv_store(&all[i], 0, KV_HEADS);
        }
    }
}

static float sum_by_the_text(const float *terms, int64_t n)
{
    float s[64];
    for (int64_t i = 0; i < 64; i++) {
        s[i] = i < n ? terms[i] : 0.0f;
    }
    for (int stride = 32; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            s[i] += s[i + stride];
        }
    }
    return s[0];
}

typedef struct query {
    int64_t position, window;
    float cap;
    int head;
} query;

/* One head by the text: tiles of absolute positions, of each what the window shows. */
static void attend_by_the_text(const scene *s, query at, float *y)
{
    int64_t first = at.window && at.position >= at.window ? at.position - at.window + 1 : 0;
    float most = 0, sum = 0, out[DIM] = {0};
    int has_any = 0;
    for (int64_t start = 0; start <= at.position; start += 64) {
        float e[64] = {0}, m = -INFINITY, o[DIM] = {0};
        int64_t from = first > start ? first - start : 0;
        int64_t to = at.position + 1 - start < 64 ? at.position + 1 - start : 64;
        for (int64_t p = from; p < to; p++) {
            for (int d = 0; d < DIM; d++) {
                e[p] = fmaf(s->q[at.position][at.head * DIM + d],
                            s->k[start + p][at.head / 3 * DIM + d], e[p]);
            }
            e[p] *= 0.25f;
            e[p] = at.cap > 0 ? at.cap * elementary_tanh(e[p] / at.cap) : e[p];
            m = fmaxf(m, e[p]);
        }
        for (int64_t p = from; p < to; p++) {
            e[p] = elementary_exp(e[p] - m);
            for (int d = 0; d < DIM; d++) {
                o[d] = fmaf(e[p], s->v[start + p][at.head / 3 * DIM + d], o[d]);
            }
        }
        if (from >= to) {
            continue;
        }
        float l = sum_by_the_text(e, to), next = has_any ? fmaxf(most, m) : m;
        float a = has_any ? elementary_exp(most - next) : 0, b = elementary_exp(m - next);
        volatile float lb = l * b;
        sum = has_any ? fmaf(sum, a, lb) : l;
        for (int d = 0; d < DIM; d++) {
            volatile float ob = o[d] * b;
            out[d] = has_any ? fmaf(out[d], a, ob) : o[d];
        }
        most = next;
        has_any = 1;
    }
    for (int d = 0; d < DIM; d++) {
        y[d] = out[d] / sum;
    }
}

static attention_args attention_of(const scene *s, query at, int64_t n_token, float *y)
{
    return (attention_args){.q = s->q[at.position],
                            .k = s->k_wide,
                            .v = s->v_wide,
                            .kv = {DTYPE_F32, KV_HEADS, DIM},
                            .n_position = at.position + 1,
                            .n_token = n_token,
                            .q_stride = HEADS * DIM,
                            .y_stride = HEADS * DIM,
                            .n_head = HEADS,
                            .scale = 0.25f,
                            .y = y,
                            .softcap = at.cap,
                            .window = at.window};
}

static const int64_t windows[] = {0, 1, 2, 37, 63, 64, 65, 100, 128, 129, 329, 330, 400};
enum { N_WINDOW = sizeof windows / sizeof *windows };

/* Every position from window - 2 on over window and window + 1, and some of all others. */
static int is_checked(int64_t position, int64_t window)
{
    return position % 23 == 0 || (position >= window - 2 && position <= window + 1) ||
           position % 64 >= 62 || position % 64 < 2;
}

static void attention_sees_the_window_and_no_more(void **state)
{
    (void)state;
    scene *s = scene_new();
    scene_store(s, 0);
    FOR_TABLES(t)
    {
        for (int w = 0; w < N_WINDOW; w++) {
            for (int64_t p = 0; p < POSITIONS; p++) {
                query at = {p, windows[w], w % 2 ? 1.5f : 0.0f, 0};
                float y[HEADS * DIM], text[DIM];
                if (!is_checked(p, windows[w])) {
                    continue;
                }
                attention_args a = attention_of(s, at, 1, y);
                t->attention(&a, 0, KV_HEADS);
                for (at.head = 0; at.head < HEADS; at.head++) {
                    attend_by_the_text(s, at, text);
                    assert_bits(y + at.head * DIM, text, DIM, t->name);
                }
            }
        }
    }
    free(s);
}

/* NaN in every position that the first token of a block does not see changes no bit of any. */
static void positions_behind_the_window_may_hold_anything(void **state)
{
    (void)state;
    scene *s = scene_new();
    float y[TOKENS * HEADS * DIM], whole[TOKENS * HEADS * DIM];
    for (int w = 1; w < N_WINDOW; w++) {
        for (int64_t p = windows[w]; p + TOKENS < POSITIONS; p += volume_of(31, 93)) {
            query at = {p, windows[w], 0, 0};
            scene_store(s, 0);
            attention_args a = attention_of(s, at, TOKENS, whole);
            kernel_find("ref")->attention(&a, 0, KV_HEADS);
            scene_store(s, attention_first(&a, p));
            FOR_TABLES(t)
            {
                a.y = y;
                t->attention(&a, 0, KV_HEADS);
                assert_bits(y, whole, TOKENS * HEADS * DIM, t->name);
            }
            scene_store(s, attention_first(&a, p) + 1);
            kernel_find("ref")->attention(&a, 0, KV_HEADS);
            assert_true(isnan(y[0])); /* the first token does see its first position */
        }
    }
    free(s);
}

/* A block of tokens, some with parts of the first tile outside, against one token at a time. */
static void windows_do_not_depend_on_company(void **state)
{
    (void)state;
    scene *s = scene_new();
    scene_store(s, 0);
    float y[TOKENS][HEADS * DIM], one[TOKENS][HEADS * DIM];
    for (int half = 0; half < 2; half++) {
        for (int w = 0; w < N_WINDOW; w++) {
            for (int64_t p = 0; p + TOKENS < POSITIONS; p += volume_of(9, 37)) {
                query at = {p, windows[w], w % 3 ? 0.0f : 2.0f, 0};
                attention_args a = attention_of(s, at, TOKENS, y[0]), b = a;
                if (half) {
                    a.kv.type = b.kv.type = DTYPE_F16;
                    a.k = b.k = s->k_half;
                    a.v = b.v = s->v_half;
                }
                b.n_token = 1;
                for (int i = 0; i < TOKENS; i++) {
                    b.q = s->q[p + i];
                    b.y = one[i];
                    b.n_position = a.n_position + i;
                    kernel_find("ref")->attention(&b, 0, KV_HEADS);
                }
                FOR_TABLES(t)
                {
                    t->attention(&a, 1, 2);
                    t->attention(&a, 0, 1);
                    assert_bits(y[0], one[0], TOKENS * HEADS * DIM, t->name);
                }
            }
        }
    }
    free(s);
}

/* ---- Experts -----------------------------------------------------------------------------------
 */

/* Rank of value i by counting who stands before it. */
static int64_t rank_of(const float *x, int64_t n, int64_t i)
{
    int64_t rank = 0;
    for (int64_t j = 0; j < n; j++) {
        int is_above = isnan(x[i]) ? !isnan(x[j]) : x[j] > x[i];
        int is_equal = isnan(x[i]) ? isnan(x[j]) : x[j] == x[i];
        rank += is_above || (is_equal && j < i);
    }
    return rank;
}

static void the_largest_experts_are_chosen_lower_ids_first(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        int64_t n = 1 + random_below(round % 5 ? 20 : 200),
                n_used = 1 + random_below(n < 9 ? n : 9);
        at_end = round % 2;
        n_slot = 0;
        float *x = operand((size_t)n * 4, 4);
        int32_t *ids = operand((size_t)n_used * 4, 4);
        numbers_fill(x, n, (data_kind)(round % DATA_KINDS));
        FOR_TABLES(t)
        {
            memset(ids, 0xff, (size_t)n_used * 4);
            t->top_k(x, n, ids, n_used);
            for (int64_t r = 0; r < n_used; r++) {
                assert_in_range(ids[r], 0, n - 1);
                assert_int_equal(rank_of(x, n, ids[r]), r);
            }
            assert_true(canaries_are_intact());
        }
    }
}

static void experts_are_weighed_and_added_by_rank(void **state)
{
    (void)state;
    for (int round = 0; round < 600; round++) {
        int64_t n = 2 + random_below(130), n_used = 1 + random_below(n < 8 ? n : 8), width = 77;
        int is_norm = round % 2;
        float x[132], w[8], y[8 * 77], sum[77];
        int32_t ids[8];
        numbers_fill(x, n, DATA_RANDOM);
        numbers_fill(y, n_used * width, DATA_RANDOM);
        FOR_TABLES(t)
        {
            expert_weights_args a = {x, ids, w, n, n_used, is_norm};
            t->top_k(x, n, ids, n_used);
            t->expert_weights(&a);
            double total = 0;
            for (int64_t i = 0; i < (is_norm ? n_used : n); i++) {
                total += exp((double)x[is_norm ? ids[i] : i] - (double)x[ids[0]]);
            }
            for (int64_t r = 0; r < n_used; r++) {
                double exact = exp((double)x[ids[r]] - (double)x[ids[0]]) / total;
                assert_true(fabs((double)w[r] - exact) <= 4e-6 * exact);
            }
            t->expert_sum(w, y, sum, n_used, width);
            for (int64_t i = 0; i < width; i++) {
                float chain = 0;
                for (int64_t r = 0; r < n_used; r++) {
                    chain = fmaf(w[r], y[r * width + i], chain);
                }
                assert_bits(&sum[i], &chain, 1, "sum of experts");
            }
        }
    }
}

/* ---- Rotary angles beyond the trained context --------------------------------------------------
 */

/* The angle that cos and sin of a pair stand for, in (-pi, pi]. */
static double angle_of(const float *cos_sin)
{
    return atan2((double)cos_sin[1], (double)cos_sin[0]);
}

static const long double two_pi = 6.28318530717958647692528676655900577L;

/* Position 1 of a table: its angles are the frequencies. */
static void frequencies(const rope_source *source, int is_local, float *table)
{
    rope_table_args a = kernel_rope_args(source, is_local);
    a.first_position = 1;
    kernel_rope_table(&a, table);
}

static void yarn_keeps_fast_pairs_and_divides_slow_ones(void **state)
{
    (void)state;
    enum { YARN_DIM = 64 };
    float table[YARN_DIM], local[YARN_DIM];
    rope_config r = {.dim = YARN_DIM,
                     .freq_base = 10000,
                     .freq_base_local = 100,
                     .scaling = ROPE_SCALING_YARN,
                     .factor = 16,
                     .beta_fast = 32,
                     .beta_slow = 1,
                     .ext_factor = 1,
                     .n_ctx_original = 4096};
    const rope_source source = {.config = &r, .n_ctx_train = 65536, .n_ctx = 512};
    frequencies(&source, 0, table);
    long double low = floorl(YARN_DIM * logl(4096 / (32 * two_pi)) / (2 * logl(10000)));
    long double high = ceill(YARN_DIM * logl(4096 / two_pi) / (2 * logl(10000)));
    double size = 0.1 * log(16) + 1;
    int n_mixed = 0;
    for (int i = 0; i < YARN_DIM / 2; i++) {
        long double frequency = powl(10000, -2.0L * i / YARN_DIM);
        long double ramp = fminl(1, fmaxl(0, (i - low) / (high - low)));
        long double wanted = frequency * (1 - ramp) + frequency / 16 * ramp;
        n_mixed += ramp > 0 && ramp < 1;
        assert_true(fabs(angle_of(table + 2 * i) - (double)wanted) < 1e-7);
        assert_true(fabs(hypot((double)table[2 * i], (double)table[2 * i + 1]) - size) < 3e-7);
    }
    assert_true(n_mixed > 5);
    r.attn_factor = 1.25f; /* what a file says replaces the method's own */
    frequencies(&source, 0, table);
    assert_true(fabs(hypot((double)table[0], (double)table[1]) - 1.25) < 3e-7);
    frequencies(&source, 1, local); /* layers with a window: their base, and no scaling */
    for (int i = 0; i < YARN_DIM / 2; i++) {
        assert_true(fabs(angle_of(local + 2 * i) - pow(100, -2.0 * i / YARN_DIM)) < 1e-7);
        assert_true(fabs(hypot((double)local[2 * i], (double)local[2 * i + 1]) - 1) < 3e-7);
    }
}

static void llama3_divides_as_its_formula(void **state)
{
    (void)state;
    enum { LLAMA_DIM = 128 };
    const rope_config r = {.dim = LLAMA_DIM,
                           .freq_base = 500000,
                           .scaling = ROPE_SCALING_LLAMA3,
                           .factor = 8,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .n_ctx_original = 8192};
    const rope_source source = {.config = &r, .n_ctx_train = 131072, .n_ctx = 512};
    float table[LLAMA_DIM];
    int n_kept = 0, n_full = 0;
    frequencies(&source, 0, table);
    for (int i = 0; i < LLAMA_DIM / 2; i++) {
        long double frequency = powl(500000, -2.0L * i / LLAMA_DIM), scaled = frequency;
        long double wave = two_pi / frequency, smooth = (8192 / wave - 1) / 3;
        n_full += wave > 8192;
        n_kept += wave < 8192.0L / 4;
        if (wave > 8192) {
            scaled = frequency / 8;
        } else if (wave >= 8192.0L / 4) {
            scaled = (1 - smooth) * frequency / 8 + smooth * frequency;
        }
        assert_true(fabs(angle_of(table + 2 * i) - (double)scaled) <= 3e-7 * (double)scaled);
    }
    assert_true(n_kept > 20 && n_full > 20 && n_kept + n_full < LLAMA_DIM / 2);
}

/* The session's context chooses the factors: above the original one, not at it. */
static void longrope_chooses_by_the_context(void **state)
{
    (void)state;
    const float longer[2] = {2, 64}, shorter[2] = {1, 3};
    const rope_config r = {
        .dim = 4, .freq_base = 10000, .scaling = ROPE_SCALING_LONGROPE, .n_ctx_original = 4096};
    double size = sqrt(1 + log(131072.0 / 4096) / log(4096));
    for (int32_t n_ctx = 4095; n_ctx <= 4097; n_ctx++) {
        rope_source source = {&r, NULL, longer, shorter, 131072, n_ctx};
        const float *factors = n_ctx > 4096 ? longer : shorter;
        float table[4];
        frequencies(&source, 0, table);
        assert_int_equal(kernel_rope_is_long(&source), n_ctx > 4096);
        for (int i = 0; i < 2; i++) {
            double wanted = pow(10000, -0.5 * i) / (double)factors[i];
            assert_true(fabs(angle_of(table + 2 * i) - wanted) < 3e-7 * wanted);
            assert_true(fabs(hypot((double)table[2 * i], (double)table[2 * i + 1]) - size) < 3e-7);
        }
    }
}

static int setup(void **state)
{
    (void)state;
    slots_open();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scale_and_softcap_follow_the_text),
        cmocka_unit_test(halves_turn_as_neighbours_of_permuted_rows_do),
        cmocka_unit_test(attention_sees_the_window_and_no_more),
        cmocka_unit_test(positions_behind_the_window_may_hold_anything),
        cmocka_unit_test(windows_do_not_depend_on_company),
        cmocka_unit_test(the_largest_experts_are_chosen_lower_ids_first),
        cmocka_unit_test(experts_are_weighed_and_added_by_rank),
        cmocka_unit_test(yarn_keeps_fast_pairs_and_divides_slow_ones),
        cmocka_unit_test(llama3_divides_as_its_formula),
        cmocka_unit_test(longrope_chooses_by_the_context),
    };
    return cmocka_run_group_tests_name("kernel_models", tests, setup, NULL);
}
