/* test_real.c - bugs that happened, as data: each can be planted, and begins where it says.
 *
 * That the referee names them is the exam's to say (`greta score --sorts real`). Here: every order
 * is one, some model of these carries it, the first of its ops is of the stage that is told, `*`
 * plants in every layer that can carry the fault, and leaves the others as they are.
 */
#include "fault/real.h"
#include "tiny_model.h"
#include "verdict/isolate.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

static const char *const models[] = {
    "--type Q8_0 --layers 3 --heads 6 --heads-kv 3 --rope-factors",
    "--arch gemma2 --type Q5_1 --layers 4 --window 9 --heads 6 --heads-kv 3",
    "--arch gemma3 --type F16 --layers 7 --window 9",
    "--arch qwen2 --type Q4_0 --layers 3",
    "--arch qwen3moe --type Q8_0 --layers 3",
};
#define MODELS (sizeof models / sizeof *models)

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

typedef struct subject {
    greta_model *model;
    greta_session *session;
} subject;

static subject subject_open(const char *options)
{
    greta_error err = {0};
    subject s = {0};
    char path[TINY_PATH];
    greta_session_options session = {.size = sizeof session, .n_thread = 1, .n_ctx = 64};
    assert_true(tiny_model("real", options, path));
    check(greta_model_open(path, &s.model, &err), &err);
    check(greta_session_new(s.model, &session, &s.session, &err), &err);
    unlink(path);
    return s;
}

static void subject_close(subject *s)
{
    greta_session_free(s->session);
    greta_model_release(s->model);
}

/* NULL: no op of the model carries it. */
static fault_planted *plant(const subject *s, const char *order)
{
    greta_error err = {0};
    greta_isolate_options o = {.size = sizeof o, .fault = order, .fault_layer = -1};
    isolate_run run;
    fault_planted *planted;
    check(isolate_run_init(s->model, &o, &run, &err), &err);
    if (isolate_plant(&run, s->session, -1, &planted, &err) != GRETA_OK) {
        assert_int_equal(err.code, GRETA_USAGE);
        assert_null(planted);
        return NULL;
    }
    return planted;
}

static const op *first_of(const fault_planted *planted)
{
    int32_t first = planted->op[0];
    for (int32_t i = 1; i < planted->n_op; i++) {
        first = planted->op[i] < first ? planted->op[i] : first;
    }
    return &planted->list.op[first];
}

static void every_bug_can_be_planted(void **state)
{
    size_t n;
    const fault_real *real = fault_reals(&n);
    int carried[64] = {0};
    (void)state;
    assert_in_range(n, 15, 64);
    for (size_t m = 0; m < MODELS; m++) {
        subject s = subject_open(models[m]);
        for (size_t i = 0; i < n; i++) {
            fault_planted *planted = plant(&s, real[i].name);
            if (planted) {
                stage at = first_of(planted)->name;
                bool is_raw = real[i].stage == STAGE_LOGITS && at == STAGE_LOGITS_RAW;
                if (at != real[i].stage && !is_raw) {
                    fail_msg("%s begins at %s", real[i].name, stage_name(at));
                }
                carried[i]++;
            }
            fault_planted_free(planted);
        }
        subject_close(&s);
    }
    for (size_t i = 0; i < n; i++) {
        if (carried[i] == 0) {
            fail_msg("no model carries %s", real[i].name);
        }
        assert_true(strlen(real[i].source) > 0 && real[i].cause != CAUSE_NONE);
    }
}

static bool same_op(const op *a, const op *b)
{
    return a->eps == b->eps && a->window == b->window && a->table == b->table &&
           a->trigger == b->trigger && a->in[0].edge == b->in[0].edge &&
           a->w[0].tensor == b->w[0].tensor && a->rope_table == b->rope_table;
}

static void a_star_is_every_layer_that_can(void **state)
{
    subject s = subject_open(models[0]);
    fault_planted *eps = plant(&s, "real/llama.cpp-2374-rms-eps");
    (void)state;
    assert_non_null(eps);
    assert_int_equal(eps->n_op, 2 * 3 + 1);
    for (int32_t i = 0; i < eps->list.n_op; i++) {
        const op *o = &eps->list.op[i];
        assert_true(o->kind != OP_RMS_NORM || o->eps == 1e-6f);
    }
    assert_null(plant(&s, "window-plus-1/attn_out:*")); /* no layer has a window */
    fault_planted_free(eps);
    subject_close(&s);

    s = subject_open(models[1]);
    fault_planted *window = plant(&s, "window-plus-1/attn_out:*@decode");
    const op_list *healthy = session_ops(s.session, GRETA_PHASE_PREFILL);
    int32_t n_wider = 0;
    assert_non_null(window);
    for (int32_t i = 0; i < healthy->n_op; i++) {
        const op *o = &window->list.op[i], *was = &healthy->op[i];
        bool is_wider = o->window == was->window + 1;
        assert_true(is_wider || same_op(o, was));
        assert_true(!is_wider || o->trigger > 0);
        n_wider += is_wider;
    }
    assert_int_equal(n_wider, 2);
    assert_int_equal(window->n_op, 2);
    assert_int_equal(window->n_trigger, 2);
    fault_planted_free(window);
    subject_close(&s);
}

static void an_unknown_bug_is_refused(void **state)
{
    greta_error err = {0};
    fault_order order;
    (void)state;
    assert_int_equal(fault_order_parse("real/none-1-such", &order, &err), GRETA_USAGE);
    assert_non_null(strstr(err.message, "real bug"));
    assert_null(fault_real_find("real/"));
    assert_non_null(fault_real_find("real/llama.cpp-2374-rms-eps"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bug_can_be_planted),
        cmocka_unit_test(a_star_is_every_layer_that_can),
        cmocka_unit_test(an_unknown_bug_is_refused),
    };
    return cmocka_run_group_tests_name("real", tests, NULL, NULL);
}
