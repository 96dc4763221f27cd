/* test_fault_kernels.c - the kernels that faults and benign variants are made of.
 *
 * Without a rule the scalar products and attention of fault/ give the bits of `ref`, for every
 * weight type, either contract and either cache type, so a rule is all that a wrong kernel differs
 * by. A benign variant, run by all ops of a model, changes bits, and logits by little: in a model
 * of floats that only rounds otherwise, by 1e-4 of the largest.
 */
#include "engine/session.h"
#include "fault/control.h"
#include "fault/wrong_attention.h"
#include "fault/wrong_matmul.h"
#include "kernel/half.h"
#include "stage_bits.h"
#include "tiny_model.h"
#include "volume.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

static uint64_t state_of_random = 1;

static uint32_t random_bits(void)
{
    uint64_t z = state_of_random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(z >> 32);
}

static float random_float(void)
{
    return (float)(int32_t)random_bits() * 0x1p-31f;
}

/* ---- Products -------------------------------------------------------------------------------- */

enum { K = 2304, ROWS = 37, TOKENS = 6 };

static int n_row, n_token; /* of these, what is computed */

/* Blocks of random bytes, with scales that are small numbers: d is the two bytes that are set. */
static void weights_fill(dtype type, uint8_t *w, size_t bytes)
{
    const dtype_traits *t = dtype_find((uint32_t)type);
    for (size_t i = 0; i < bytes; i++) {
        w[i] = (uint8_t)random_bits();
    }
    for (size_t at = 0; at < bytes; at += t->bytes) {
        if (!t->is_quantised) {
            uint16_t half = type == DTYPE_F16 ? half_from_float(random_float())
                                              : (uint16_t)(bits_from_float(random_float()) >> 16);
            float value = random_float();
            memcpy(w + at, type == DTYPE_F32 ? (void *)&value : (void *)&half, t->bytes);
        } else if (type == DTYPE_MXFP4) {
            w[at] = (uint8_t)(120 + random_bits() % 8);
        } else { /* every pair of bytes that may be a scale */
            static const size_t place[] = {0, 2, 80, 82, 108, 208};
            for (size_t p = 0; p < sizeof place / sizeof *place; p++) {
                uint16_t half = half_from_float(random_float() * 0.01f);
                if (place[p] + 2 <= t->bytes) {
                    memcpy(w + at + place[p], &half, 2);
                }
            }
        }
    }
}

static void product_case(dtype type, int is_q8)
{
    static float x[TOKENS * K], y[TOKENS * ROWS], expected[TOKENS * ROWS], bias[ROWS];
    static uint8_t w[ROWS * K * 4], q8[TOKENS][K * 2];
    const dtype_traits *t = dtype_find((uint32_t)type);
    const kernel_table *ref = kernel_find("ref");
    int64_t row_bytes = K / t->block * t->bytes;
    weights_fill(type, w, (size_t)(ROWS * row_bytes));
    for (int i = 0; i < TOKENS * K; i++) {
        x[i] = random_float();
    }
    for (int i = 0; i < ROWS; i++) {
        bias[i] = random_float();
    }
    for (int i = 0; i < TOKENS; i++) {
        ref->quantize(x + (ptrdiff_t)i * K, q8[i], K, 0, K);
    }
    matmul_args a = {.type = type,
                     .w = w,
                     .row_bytes = row_bytes,
                     .bias = bias,
                     .x = is_q8 ? (const void *)q8 : x,
                     .x_stride = is_q8 ? (int64_t)sizeof q8[0] : K * 4,
                     .y = expected,
                     .y_stride = n_row,
                     .k = K,
                     .n_token = n_token,
                     .x_is_q8 = is_q8};
    ref->matmul(&a, 0, n_row);
    a.y = y;
    matmul_healthy(&a, 0, n_row);
    for (int i = 0; i < n_token * n_row; i++) {
        if (hash_float_bits(y[i]) != hash_float_bits(expected[i])) {
            fail_msg("%s, %s: output %d", t->name, is_q8 ? "q8" : "f32", i);
        }
    }
    matmul_lanes(&a, 0, n_row); /* another order: near, and not the same */
    double worst = 0;
    for (int i = 0; i < n_token * n_row; i++) {
        worst = fmax(worst, fabs((double)y[i] - (double)expected[i]));
    }
    assert_true(worst > 0 && worst < 1e-2);
}

static void products_without_a_rule_are_the_definition(void **state)
{
    (void)state;
    n_row = volume_of(ROWS, 19);
    n_token = volume_of(TOKENS, 2);
    for (uint32_t type = 0; type < 64; type++) {
        const dtype_traits *t = dtype_find(type);
        if (t) {
            product_case((dtype)type, 0);
            if (t->is_quantised) {
                product_case((dtype)type, 1);
            }
        }
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

static void attention_case(dtype kv, int64_t window, float softcap)
{
    enum { HEADS = 6, KV = 2, DIM = 20, POSITIONS = 150, N = 5, VALUES = 3 * 64 * KV * DIM };
    static float q[N * HEADS * DIM], y[N * HEADS * DIM], expected[N * HEADS * DIM];
    static _Alignas(64) float cache[2][VALUES];
    const kernel_table *ref = kernel_find("ref");
    kv_shape shape = {kv, KV, DIM};
    for (int i = 0; i < N * HEADS * DIM; i++) {
        q[i] = 4 * random_float();
    }
    for (int64_t p = 0; p < POSITIONS; p++) {
        float row[KV * DIM];
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < KV * DIM; i++) {
                row[i] = random_float();
            }
            kv_store_args s = {row, cache[side], shape, side ? KV_VALUES : KV_KEYS, p};
            ref->kv_store(&s, 0, KV);
        }
    }
    attention_args a = {.q = q,
                        .k = cache[0],
                        .v = cache[1],
                        .kv = shape,
                        .n_position = POSITIONS - N + 1,
                        .n_token = N,
                        .q_stride = HEADS * DIM,
                        .y_stride = HEADS * DIM,
                        .n_head = HEADS,
                        .scale = 0.3f,
                        .y = expected,
                        .softcap = softcap,
                        .window = window};
    ref->attention(&a, 0, KV);
    a.y = y;
    attention_healthy(&a, 0, KV);
    assert_memory_equal(y, expected, sizeof y);
    attention_plain(&a, 0, KV);
    double worst = 0;
    for (int i = 0; i < N * HEADS * DIM; i++) {
        worst = fmax(worst, fabs((double)y[i] - (double)expected[i]));
    }
    assert_true(worst > 0 && worst < 1e-5);
}

static void attention_without_a_rule_is_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        attention_case(i & 1 ? DTYPE_F32 : DTYPE_F16, i & 2 ? 70 : 0, i & 4 ? 5.0f : 0.0f);
    }
}

/* ---- Variants -------------------------------------------------------------------------------- */

enum { VOCAB = 301 };

static void logits_of(greta_model *model, const session_override *override, float *logits)
{
    greta_error err = {0};
    greta_session *s;
    greta_session_options o = {.size = sizeof o, .n_ctx = 96, .n_thread = 2};
    int32_t id[80];
    for (int32_t i = 0; i < 80; i++) {
        id[i] = (7 * i + 3) % VOCAB;
    }
    check(greta_session_new(model, &o, &s, &err), &err);
    if (override) {
        check(session_override_set(s, override, &err), &err);
    }
    check(greta_session_feed(s, id, 80, 0, &err), &err);
    memcpy(logits, greta_session_logits(s, 0), VOCAB * sizeof *logits);
    greta_session_free(s);
}

static void variants_change_bits_and_little_else(void **state)
{
    static const char *const models[] = {"--type Q4_K --vocab 301", "--type F32 --vocab 301",
                                         "--type Q8_0 --arch gemma2 --vocab 301"};
    const size_t step = (size_t)volume_of(1, 3);
    size_t n, n_changed = 0;
    const control_kind *kind = control_kinds(&n);
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        greta_error err = {0};
        greta_model *model;
        char path[TINY_PATH];
        float healthy[VOCAB], varied[VOCAB];
        assert_true(tiny_model("controls", models[m], path));
        check(greta_model_open(path, &model, &err), &err);
        logits_of(model, NULL, healthy);
        for (size_t i = 0; i < n; i++) {
            greta_session *s;
            op_list list;
            if (!control_has_kernels(&kind[i]) || i % step != m % step) {
                continue;
            }
            double worst = 0, largest = 0;
            check(greta_session_new(model, NULL, &s, &err), &err);
            kernel_table table = control_table(&kind[i], kernel_find(NULL));
            check(control_list(session_ops(s, GRETA_PHASE_PREFILL), &list, &err), &err);
            session_override override = {.list = &list, .table = &table, .phases = 3};
            logits_of(model, &override, varied);
            for (int v = 0; v < VOCAB; v++) {
                worst = fmax(worst, fabs((double)varied[v] - (double)healthy[v]));
                largest = fmax(largest, fabs((double)healthy[v]));
            }
            print_message("%-20s %-36s differs by %.1e of %.1e\n", kind[i].name, models[m], worst,
                          largest);
            /* Where activations are quantised, a last bit can move a code, and that is 1 / 254. */
            bool is_float = strstr(models[m], "F32") != NULL;
            double share = kind[i].cause != CAUSE_ROUNDING ? 0.25 : is_float ? 1e-4 : 0.1;
            assert_true(worst <= share * largest);
            n_changed += worst > 0;
            op_list_free(&list);
            greta_session_free(s);
        }
        greta_model_release(model);
        remove(path);
    }
    assert_true(n_changed * step >= 2 * n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_without_a_rule_are_the_definition),
        cmocka_unit_test(attention_without_a_rule_is_the_definition),
        cmocka_unit_test(variants_change_bits_and_little_else),
    };
    return cmocka_run_group_tests_name("fault_kernels", tests, NULL, NULL);
}
