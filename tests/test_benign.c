/* test_benign.c - what is no fault is called none: other precisions, other orders, another exp.
 *
 * Each case is a pair of runs of one prompt on one tiny model: ours, and one with another KV type,
 * another activation contract, or the kernels of a benign variant (fault/control.h). Both are
 * traced, every token or the last, and `greta compare -m` judges every op. A case counts only if an
 * op with equal operands wrote other bits; pairs without such an op prove nothing and are counted
 * apart. No op may be accused, and the first that differs must be told by its right name, at an op
 * that the variant changes.
 *
 *     test_benign          a few cases of each kind
 *     test_benign all      fifty and more (make check-long)
 */
#include "engine/session.h"
#include "fault/control.h"
#include "report/report.h"
#include "tiny_model.h"

#include <jansson.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#define N_TOKEN_MAX 40

static bool runs_all;

static const char *const models[] = {
    "--type Q8_0",
    "--type F32",
    "--type Q4_K --ff 256",
    "--arch qwen2 --type Q4_0",
    "--arch gemma2 --window 9 --type Q5_1",
    "--arch phi3 --type Q5_0",
    "--arch qwen3 --type F16",
    "--arch gemma3 --window 9 --layers 7 --type Q6_K",
    "--type Q3_K --ff 256",
    "--arch qwen3moe --type Q4_1",
    "--type BF16",
    "--arch qwen2 --type IQ4_NL",
};
#define N_MODEL (sizeof models / sizeof *models)

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

/* ---- Kinds ----------------------------------------------------------------------------------- */

typedef struct benign_kind {
    const char *name;
    cause cause;
    const control_kind *control; /* NULL: the contract differs */
    greta_kv kv[2];
    greta_act act[2];
} benign_kind;

#define KINDS_MAX 24

static size_t kinds_list(benign_kind *out)
{
    size_t n_control, n = 0;
    const control_kind *control = control_kinds(&n_control);
    static const greta_kv kv[2] = {GRETA_KV_F16, GRETA_KV_F32};
    static const greta_act act[2] = {GRETA_ACT_Q8, GRETA_ACT_F32};
    for (size_t i = 0; i < n_control; i++) {
        const control_kind *c = &control[i];
        out[n++] = (benign_kind){c->name,
                                 c->cause,
                                 control_has_kernels(c) ? c : NULL,
                                 {kv[0], kv[c->is_kv_f32]},
                                 {act[0], act[c->is_act_f32]}};
    }
    assert_true(n <= KINDS_MAX);
    return n;
}

/* Whether the variant has a kernel of its own for ops of this kind ("matmul"). */
static bool control_changes(const control_kind *control, const char *name)
{
    const kernel_table *k = &control->kernel;
    const struct {
        const char *name;
        bool is_changed;
    } of[] = {{"rms_norm", k->rms_norm != NULL}, {"head_norm", k->rms_norm != NULL},
              {"matmul", k->matmul != NULL},     {"expert_matmul", k->matmul != NULL},
              {"rope", k->rope != NULL},         {"attention", k->attention != NULL},
              {"glu", k->glu != NULL},           {"quantize", k->quantize != NULL},
              {"kv_store", k->kv_store != NULL}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        if (strcmp(of[i].name, name) == 0) {
            return of[i].is_changed;
        }
    }
    return false;
}

static bool is_right_place(const benign_kind *kind, const char *name)
{
    return kind->control                ? control_changes(kind->control, name)
           : kind->kv[0] != kind->kv[1] ? strcmp(name, "kv_store") == 0
                                        : strcmp(name, "matmul") == 0;
}

/* ---- Runs ------------------------------------------------------------------------------------ */

typedef struct run {
    greta_model *model;
    int32_t token[N_TOKEN_MAX];
    size_t n;
    bool is_whole; /* every token is traced, or the last */
} run;

static void run_draw(greta_model *model, uint32_t seed, run *r)
{
    uint32_t random = seed * 2654435761u + 1;
    int32_t n_vocab = greta_model_describe(model).n_vocab;
    *r = (run){.model = model, .n = 18 + seed % 19};
    for (size_t i = 0; i < r->n; i++) {
        random = random * 1664525u + 1013904223u;
        r->token[i] = (int32_t)((random >> 8) % (uint32_t)n_vocab);
    }
}

static void run_trace(const run *r, const benign_kind *kind, int which, const char *path)
{
    greta_error err = {0};
    greta_session *s;
    op_list list = {0};
    greta_session_options o = {.size = sizeof o,
                               .n_ctx = 64,
                               .n_thread = 1,
                               .kv = kind->kv[which],
                               .act = kind->act[which]};
    greta_trace_options traced = {.size = sizeof traced,
                                  .path = path,
                                  .tokens = r->is_whole ? "all,cache" : "last,cache",
                                  .sample = -1,
                                  .overwrite = 1};
    check(greta_session_new(r->model, &o, &s, &err), &err);
    kernel_table table = *kernel_find(NULL);
    if (which == 1 && kind->control) {
        table = control_table(kind->control, kernel_find(NULL));
        check(control_list(session_ops(s, GRETA_PHASE_PREFILL), &list, &err), &err);
        session_override override = {.list = &list, .table = &table, .phases = 3};
        check(session_override_set(s, &override, &err), &err);
    }
    check(greta_trace_begin(s, &traced, &err), &err);
    check(greta_session_feed(s, r->token, r->n, 0, &err), &err);
    check(greta_trace_end(s, "complete", &err), &err);
    greta_session_free(s);
    op_list_free(&list);
}

/* ---- One case -------------------------------------------------------------------------------- */

static const char *text_at(json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "(null)";
}

static int64_t whole_at(json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* The first op that rounding or policy is told of; NULL: no op with equal operands differs. */
static json_t *first_introduced(json_t *root)
{
    json_t *ops = json_object_get(root, "ops");
    for (size_t i = 0; i < json_array_size(ops); i++) {
        json_t *line = json_array_get(ops, i);
        if (json_is_true(json_object_get(line, "is_rounding")) ||
            json_is_true(json_object_get(line, "is_policy"))) {
            return line;
        }
    }
    return NULL;
}

typedef struct tally {
    int n, n_equal, n_alarm, n_wrong;
} tally;

static void case_judge(const benign_kind *kind, const char *name, const run *r, json_t *root,
                       greta_status verdict, tally *t)
{
    json_t *line = first_introduced(root), *judged = json_object_get(root, "judged");
    if (verdict == GRETA_NO_VERDICT && !r->is_whole && !line) {
        t->n_equal++; /* it began at a token that was not traced */
        return;
    }
    if (whole_at(root, "differ") > 0 && verdict != GRETA_OK) {
        t->n_alarm++;
        print_message("ALARM %s, %s: %s\n", kind->name, name, text_at(root, "why"));
        return;
    }
    if (!line) {
        assert_int_equal(whole_at(root, "differ"), 0);
        t->n_equal++;
        return;
    }
    t->n++;
    bool is_told = strcmp(text_at(line, "bucket"), cause_name(kind->cause)) == 0 &&
                   is_right_place(kind, text_at(line, "op"));
    bool adds_up = json_real_value(json_object_get(judged, "gap_max")) <= 0x1p-45;
    if (!is_told || !adds_up) {
        t->n_wrong++;
        print_message("WRONG %s, %s: %s at %s (%s), gap %g\n", kind->name, name,
                      text_at(line, "bucket"), text_at(line, "stage"), text_at(line, "op"),
                      json_real_value(json_object_get(judged, "gap_max")));
    }
}

static void case_run(const benign_kind *kind, const char *name, const run *r, tally *t)
{
    greta_error err = {0};
    greta_status verdict;
    char path[2][TINY_PATH], *printed;
    json_error_t parse;
    const char *tmp = getenv("GRETA_TMP");
    for (int which = 0; which < 2; which++) {
        snprintf(path[which], TINY_PATH, "%s/benign-%d-%d.jsonl", tmp ? tmp : "/tmp", (int)getpid(),
                 which);
        run_trace(r, kind, which, path[which]);
    }
    check(greta_compare(r->model, path[0], path[1], NULL, 1, &printed, &verdict, &err), &err);
    json_t *root = json_loads(printed, 0, &parse);
    assert_non_null(root);
    case_judge(kind, name, r, root, verdict, t);
    json_decref(root);
    greta_free(printed);
}

/* ---- The matrix ------------------------------------------------------------------------------ */

/* Sample: two of five models for each kind, others for the next. */
static bool is_chosen(size_t kind, size_t model, uint32_t seed)
{
    return runs_all || (seed == 0 && (model + 3 * kind) % 5 < 2);
}

static void model_run(const benign_kind *kinds, size_t n_kind, size_t m, tally *t)
{
    greta_error err = {0};
    greta_model *model;
    char path[TINY_PATH];
    assert_true(tiny_model("benign", models[m], path));
    check(greta_model_open(path, &model, &err), &err);
    for (uint32_t seed = 0; seed < (runs_all ? 6u : 1u); seed++) {
        run r;
        run_draw(model, seed * (uint32_t)N_MODEL + (uint32_t)m, &r);
        for (size_t k = 0; k < n_kind; k++) {
            r.is_whole = runs_all && seed == 0;
            if (is_chosen(k, m, seed)) {
                case_run(&kinds[k], models[m], &r, &t[k]);
            }
        }
    }
    greta_model_release(model);
    unlink(path);
}

static void benign_differences_are_no_faults(void **state)
{
    benign_kind kinds[KINDS_MAX];
    tally t[KINDS_MAX] = {{0}};
    size_t n_kind = kinds_list(kinds);
    int n_bad = 0;
    (void)state;
    for (size_t m = 0; m < N_MODEL; m++) {
        model_run(kinds, n_kind, m, t);
    }
    for (size_t k = 0; k < n_kind; k++) {
        print_message(
            "%-20s %3d differ, %3d without an op of equal operands, %d false alarms, %d misnamed\n",
            kinds[k].name, t[k].n, t[k].n_equal, t[k].n_alarm, t[k].n_wrong);
        n_bad += t[k].n_alarm + t[k].n_wrong;
        assert_true(t[k].n >= (runs_all ? 50 : 1));
    }
    assert_int_equal(n_bad, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(benign_differences_are_no_faults)};
    runs_all = argc > 1 && strcmp(argv[1], "all") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
