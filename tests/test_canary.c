/* test_canary.c - the judge proves that it sees: a canary in every stage, and a judge that leaves
 * a stage out, or is blind for one, loses it.
 */
#include "isolate_rig.h"

#include "verdict/op_canary.h"
#include "verdict/op_pair.h"

static trace *traced;
static catalog rows;
static site_list sites;

/* A prefill of one prompt, every token with its values. */
static int open_trace(void **state)
{
    greta_error err = {0};
    greta_session *s;
    greta_session_options o = {.size = sizeof o, .n_thread = 1};
    char path[TINY_PATH];
    if (setup(state) != 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s.jsonl", folder("canary"));
    greta_trace_options t = {
        .size = sizeof t, .path = path, .tokens = "all,cache", .sample = -1, .overwrite = 1};
    check(greta_session_new(model, &o, &s, &err), &err);
    check(greta_trace_begin(s, &t, &err), &err);
    check(greta_session_feed(s, prompts[0].token, prompts[0].n, 0, &err), &err);
    check(greta_trace_end(s, "complete", &err), &err);
    greta_session_free(s);
    check(trace_open(path, &traced, &err), &err);
    check(catalog_new(traced, &rows, &err), &err);
    check(site_list_new(traced, &sites, &err), &err);
    return 0;
}

static int close_trace(void **state)
{
    site_list_free(&sites);
    catalog_free(&rows);
    trace_close(traced);
    return teardown(state);
}

static op_findings judged(const op_plan *plan)
{
    greta_error err = {0};
    site at = {0};
    op_findings found = {0};
    check(site_list_open(&sites, sites.n - 1, &at, &err), &err);
    op_single single = {&at, &rows, plan, true};
    check(op_single_judge(&single, &found, &err), &err);
    site_free(&at);
    return found;
}

/* Every stage that the model has is recorded, has a canary, and it is found. */
static void expect_all_found(const op_plan *plan)
{
    op_findings found = judged(plan);
    for (int32_t i = 0; i < plan->list.n_op; i++) {
        stage name = plan->list.op[i].name;
        if (found.canaries.of[name].state != CANARY_FOUND) {
            fail_msg("the canary of %s was not found", stage_name(name));
        }
    }
    assert_int_equal(canaries_missed(&found.canaries), STAGE_NONE);
    op_findings_free(&found);
}

static void every_stage_has_a_canary(void **state)
{
    greta_error err = {0};
    op_plan plan;
    (void)state;
    check(op_plan_new(model, &traced->header, &plan, &err), &err);
    expect_all_found(&plan);
    op_plan_free(&plan);
}

/* The same under bounds: twice the bound is seen. The header is what decides. */
static void every_stage_has_one_within_bounds(void **state)
{
    greta_error err = {0};
    op_plan plan;
    (void)state;
    traced->header.arithmetic = 0;
    snprintf(traced->header.rounding, sizeof traced->header.rounding, "f32");
    check(op_plan_new(model, &traced->header, &plan, &err), &err);
    expect_all_found(&plan);
    traced->header.arithmetic = ARITHMETIC_VERSION;
    traced->header.rounding[0] = '\0';
    op_plan_free(&plan);
}

/* A judge whose list lacks the ops of one stage. */
static void a_stage_left_out_is_missed(void **state)
{
    greta_error err = {0};
    op_plan plan;
    bool is_tried[STAGE_COUNT] = {false};
    int n = 0;
    (void)state;
    check(op_plan_new(model, &traced->header, &plan, &err), &err);
    for (int32_t i = 0; i < plan.list.n_op; i++) {
        stage left_out = plan.list.op[i].name;
        if (is_tried[left_out]) {
            continue;
        }
        is_tried[left_out] = true;
        for (int32_t k = 0; k < plan.list.n_op; k++) {
            bool is_left = plan.list.op[k].name == left_out;
            plan.expected[k].layer = is_left ? INT32_MAX : plan.list.op[k].layer;
        }
        op_findings found = judged(&plan);
        assert_int_equal(found.canaries.of[left_out].state, CANARY_MISSED);
        assert_int_equal(canaries_missed(&found.canaries), left_out);
        op_findings_free(&found);
        n++;
    }
    assert_true(n >= 20);
    op_plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stage_has_a_canary),
        cmocka_unit_test(every_stage_has_one_within_bounds),
        cmocka_unit_test(a_stage_left_out_is_missed),
    };
    return cmocka_run_group_tests(tests, open_trace, close_trace);
}
