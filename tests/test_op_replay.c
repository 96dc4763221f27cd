/* test_op_replay.c - any op of a run, recomputed from its recorded operands.
 *
 * Every op at every position of tiny models of all weight types, recorded by one kernel table, is
 * replayed through all others and must give the recorded bits; cases that a trace could hold and
 * that do not fit must be refused before a kernel sees them; the arbiter is held against sums in
 * long double.
 */
#include "op_rig.h"

#include "replay/op_bound.h"

#include <math.h>

static const char *const models[] = {
    "--type F32",
    "--type F16 --embd-type F16 --untied",
    "--type BF16 --untied --bias",
    "--type Q8_0 --bias --vocab 301",
    "--type Q4_0 --heads 16 --heads-kv 4 --head-dim 10 --untied",
    "--type Q4_1 --rope-factors",
    "--type Q5_0 --heads 2 --heads-kv 2 --head-dim 48",
    "--type Q5_1 --untied",
    "--type Q4_K --heads 8 --heads-kv 2 --head-dim 32 --untied",
    "--type Q5_K --bias --untied",
    "--type Q6_K --heads 4 --heads-kv 1 --head-dim 64 --embd-type F16",
    "--arch qwen2 --type Q8_0 --rope-scaling yarn --window 64",
    "--arch gemma2 --type F32 --window 63",
    "--arch gemma3 --type Q4_0 --layers 3 --window-period 2 --window 20",
    "--arch phi3 --type Q5_1 --ctx-original 20 --window 65",
    "--type IQ4_NL",
    "--type IQ4_XS",
    "--type MXFP4",
    "--type Q2_K",
    "--type Q3_K --untied",
    "--arch llama --type Q8_0 --experts 4 --experts-used 2",
    "--arch qwen3moe --type Q4_1 --experts 5 --experts-used 3",
    "--arch qwen3 --type F16",
    "--arch llama --type F32 --experts 4 --experts-used 2 --split-experts",
};
#define MODELS (sizeof models / sizeof *models)

/* Bit by bit, but every NaN is one. */
static bool same_values(dtype type, const void *a, const void *b, int64_t n)
{
    row_hash x = trace_values_hash(type, a, n), y = trace_values_hash(type, b, n);
    return x.ordered == y.ordered && x.bag == y.bag;
}

/* Recorded values lie within both bounds of the arbiter's. */
static void arbitrate(const op_rig *r, const op_case *c, const op_operand *recorded)
{
    greta_error err = {0};
    op_contract contract = {r->act, r->kv};
    size_t bytes = (size_t)c->out.n * sizeof(double);
    double *exact = malloc(bytes), *bound = malloc(bytes);
    assert_true(exact && bound);
    rig_check(op_replay_f64(c, &contract, exact, &err), &err);
    for (int of = BOUND_SOUND; of <= BOUND_CALIBRATED; of++) {
        rig_check(op_bound(c, &contract, (bound_class)of, bound, &err), &err);
        for (int64_t i = 0; i < c->out.n; i++) {
            float f = 0;
            const uint8_t *at = recorded->values;
            if (recorded->type == DTYPE_ACT_Q8) {
                memcpy(&f, at + recorded->n + i / 32 * 4, sizeof f);
                f *= (float)(int8_t)at[i];
            } else if (recorded->type == DTYPE_F16) {
                f = kernel_f32_from_f16((uint16_t)(at[2 * i] | at[2 * i + 1] << 8));
            } else if (recorded->type == DTYPE_I32) {
                int32_t id;
                memcpy(&id, at + 4 * i, sizeof id);
                f = (float)id;
            } else {
                memcpy(&f, at + 4 * i, sizeof f);
            }
            if (!(fabs((double)f - exact[i]) <= bound[i])) {
                fail_msg("%s, layer %d, position %d, value %d: %a is not within %a of %a (%s)",
                         stage_name(c->op.name), c->op.layer, (int)c->position, (int)i, (double)f,
                         bound[i], exact[i], of == BOUND_SOUND ? "sound" : "calibrated");
            }
        }
    }
    free(exact);
    free(bound);
}

static void replay_one(op_rig *r, int32_t index, int64_t position, const char *made_by)
{
    greta_error err = {0};
    char missing[OP_MISSING_MAX];
    op_case c;
    op_output y;
    op_place at = rig_place(r, index, position);
    op_rows rows = rig_rows(r);
    rig_check(op_case_build(&at, &rows, &c, &err), &err);
    if (!op_case_check(&c, missing)) {
        fail_msg("%s of %s: no %s", op_kind_name(c.op.kind), stage_name(c.op.name), missing);
    }
    op_operand recorded = rig_recorded(r, index, position);
    assert_int_equal(recorded.n, c.out.n);
    assert_int_equal(recorded.type, c.out.type);
    rig_check(op_output_new(&c, &y, &err), &err);
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        if (strcmp((*t)->name, made_by) != 0) {
            memset(y.values, 0x5a, y.bytes);
            rig_check(op_replay(*t, &c, &y, &err), &err);
            if (!same_values(y.type, y.values, recorded.values, y.n)) {
                fail_msg("%s, layer %d, position %d: %s does not give the bits of %s",
                         stage_name(c.op.name), c.op.layer, (int)position, (*t)->name, made_by);
            }
        }
    }
    if (position % 21 == 0) {
        arbitrate(r, &c, &recorded);
    }
    op_output_free(&y);
    op_case_free(&c);
}

static void every_op_of_every_model_is_replayed_bit_for_bit(void **state)
{
    (void)state;
    unsigned seen = 0;
    for (size_t m = 0; m < MODELS; m++) {
        op_rig r;
        const kernel_table *const *table = kernel_tables();
        size_t n_table = 0;
        for (; table[n_table]; n_table++) {
        }
        const char *made_by = table[m % n_table]->name;
        op_rig_open(&r, &(op_rig_options){models[m], made_by, m % 2 ? GRETA_KV_F16 : GRETA_KV_F32,
                                          m % 3 == 1 ? GRETA_ACT_F32 : GRETA_ACT_Q8});
        for (int32_t i = 0; i < r.list.n_op; i++) {
            seen |= 1u << r.list.op[i].kind;
            for (int64_t p = i % 3; p < OP_RIG_TOKENS; p += 3) {
                replay_one(&r, i, p, made_by);
            }
            replay_one(&r, i, 63, made_by);
            replay_one(&r, i, 64, made_by);
        }
        op_rig_close(&r);
    }
    for (op_kind k = 0; k < OP_KIND_COUNT; k++) {
        if (!(seen & 1u << k)) {
            fail_msg("no model has a %s", op_kind_name(k));
        }
    }
}

static void the_table_is_never_the_one_that_made_the_record(void **state)
{
    (void)state;
    bool has_avx2 = kernel_find("ref-avx2") != NULL;
    assert_string_equal(op_replay_table("ref-avx2")->name, "ref");
    assert_string_equal(op_replay_table("avx512")->name, "ref");
    assert_string_equal(op_replay_table("another engine")->name, "ref");
    assert_string_equal(op_replay_table(NULL)->name, "ref");
    assert_string_equal(op_replay_table("ref")->name, has_avx2 ? "ref-avx2" : "ref");
}

/* The arbiter against sums in long double, of weights as the specification's formula has them. */
static void the_arbiter_is_exact_to_binary64(void **state)
{
    (void)state;
    op_rig r;
    op_rig_open(&r, &(op_rig_options){.model = "--type Q4_1", .cpu = "ref"});
    op_case c;
    double y[4096];
    op_place at = rig_place(&r, op_list_op(&r.list, STAGE_GATE, 0), 11);
    op_rows rows = rig_rows(&r);
    rig_check(op_case_build(&at, &rows, &c, NULL), NULL);
    rig_check(op_replay_f64(&c, &(op_contract){r.act, r.kv}, y, NULL), NULL);
    const weight *w = c.op.w[0].tensor;
    const int8_t *code = c.in[0].values;
    for (int64_t o = 0; o < c.out.n; o++) {
        long double sum = 0, size = 0;
        for (int64_t i = 0; i < w->n_col; i++) {
            const uint8_t *block = w->data + o * w->row_bytes + i / 32 * 20;
            float d = kernel_f32_from_f16((uint16_t)(block[0] | block[1] << 8)), scale;
            float m = kernel_f32_from_f16((uint16_t)(block[2] | block[3] << 8));
            int64_t j = i % 32;
            int nibble = j < 16 ? block[4 + j] & 15 : block[4 + j - 16] >> 4;
            memcpy(&scale, code + w->n_col + i / 32 * 4, sizeof scale);
            long double term =
                ((long double)d * nibble + (long double)m) * code[i] * (long double)scale;
            sum += term;
            size += fabsl(term);
        }
        assert_true(fabsl(sum - (long double)y[o]) <= 0x1p-53L * (long double)w->n_col * size);
    }
    op_case_free(&c);
    op_rig_close(&r);
}

/* ---- What does not fit ----------------------------------------------------------------------- */

static void refused(op_case *c, const char *why)
{
    greta_error err = {0};
    char missing[OP_MISSING_MAX];
    op_output y = {.type = c->out.type, .n = c->out.n};
    if (op_case_check(c, missing)) {
        fail_msg("%s of %s passes", why, op_kind_name(c->op.kind));
    }
    assert_int_not_equal(missing[0], 0);
    assert_int_equal(op_replay(kernel_find("ref"), c, &y, &err), GRETA_BAD_INPUT);
    assert_int_equal(op_replay_f64(c, &(op_contract){0}, NULL, &err), GRETA_BAD_INPUT);
}

static void damage_rows(const op_case *good)
{
    for (int i = 0; i < OP_IN_MAX && good->in[i].n > 0; i++) {
        op_case c = *good;
        if (!c.in[i].values) {
            continue;
        }
        c.in[i].values = NULL;
        refused(&c, "a missing row");
        c.in[i] = good->in[i];
        c.in[i].n--;
        refused(&c, "a short row");
        c.in[i].n = -1;
        refused(&c, "a row of negative length");
        c.in[i] = good->in[i];
        c.in[i].type = DTYPE_F16;
        refused(&c, "a row of another type");
    }
}

static void damage_numbers(const op_case *good)
{
    op_case c = *good;
    c.out.n++;
    refused(&c, "another width");
    c = *good;
    c.out.type = DTYPE_BF16;
    refused(&c, "another type of output");
    c = *good;
    c.op.kind = OP_KIND_COUNT;
    refused(&c, "an unknown kind");
    if (good->op.w[0].tensor) {
        c = *good;
        c.op.w[0].first = c.op.w[0].tensor->n_row;
        refused(&c, "rows behind the tensor");
        c = *good;
        c.op.w[0].tensor = NULL;
        refused(&c, "no weights");
    }
    if (good->op.head_dim > 0) {
        c = *good;
        c.op.head_dim = 0;
        refused(&c, "heads of nothing");
    }
}

static void damage_token(const op_case *good)
{
    const int32_t bad[] = {-1, (int32_t)good->op.w[0].tensor->n_row, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        op_case c = *good;
        c.in[0].values = &bad[i];
        refused(&c, "a token outside the vocabulary");
    }
}

static void damage_cache(const op_case *good)
{
    const void *key = good->key[3];
    int32_t map[64] = {0};
    op_case c = *good;
    good->key[3] = NULL;
    refused(&c, "a key that is not there");
    good->key[3] = key;
    c.end = c.n_key + 1;
    refused(&c, "positions behind the last");
    c.end = 0;
    refused(&c, "no position");
    c = *good;
    c.kv_type = DTYPE_BF16;
    refused(&c, "a cache of another type");
    c = *good;
    c.kv_head = map;
    map[1] = c.op.n_head_kv;
    refused(&c, "a kv head that is not there");
    c = *good;
    c.op.n_head_kv = 0;
    refused(&c, "no kv heads");
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    op_rig r;
    op_rig_open(&r, &(op_rig_options){.model = "--type Q4_1", .cpu = "ref"});
    for (int32_t i = 0; i < r.list.n_op; i++) {
        op_case c;
        op_place at = rig_place(&r, i, 5);
        op_rows rows = rig_rows(&r);
        rig_check(op_case_build(&at, &rows, &c, NULL), NULL);
        damage_rows(&c);
        damage_numbers(&c);
        if (c.op.kind == OP_EMBED) {
            damage_token(&c);
        }
        if (c.op.kind == OP_ATTENTION) {
            damage_cache(&c);
        }
        op_case_free(&c);
    }
    op_rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_never_the_one_that_made_the_record),
        cmocka_unit_test(the_arbiter_is_exact_to_binary64),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(every_op_of_every_model_is_replayed_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
