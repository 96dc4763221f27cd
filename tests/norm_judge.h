/* norm_judge.h - judging the runs of norm_rig.h, and saying what must come out.
 *
 * For the programs that test the classifier; includes cmocka.
 */
#ifndef GRETA_TESTS_NORM_JUDGE_H
#define GRETA_TESTS_NORM_JUDGE_H

#include "norm_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static rig run; /* large; every test begins with rig_init */

static inline void replay_sides(void)
{
    norm_case_complete(&run.c);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        assert_int_equal(norm_replay(&run.c.operands[s], &run.evidence[s], NULL), GRETA_OK);
        run.c.evidence[s] = &run.evidence[s];
    }
}

static inline void judge(void)
{
    replay_sides();
    norm_classify(&run.c, &run.f);
}

static inline void expect(verdict_state state, cause bucket, unsigned sides)
{
    if (run.f.state != state || run.f.cause != bucket || run.f.sides != sides) {
        print_error("expected %s %s of sides %u, found %s %s of %u: %s\n",
                    verdict_state_name(state), cause_name(bucket), sides,
                    verdict_state_name(run.f.state), cause_name(run.f.cause), run.f.sides,
                    run.f.phrase);
        for (int i = 0; i < run.f.n_fit; i++) {
            print_error("  fits: %s %s\n", cause_name(run.f.fit[i]->cause), run.f.fit[i]->phrase);
        }
        fail();
    }
    assert_true(run.f.phrase[0] != '\0');
}

static inline void expect_phrase(const char *part)
{
    if (!strstr(run.f.phrase, part)) {
        print_error("no \"%s\" in: %s\n", part, run.f.phrase);
        fail();
    }
}

static inline rig_side *b_side(void)
{
    return &run.side[SIDE_B];
}

/* What the side's norm reads is what its producer wrote. */
static inline void produced_set(side which)
{
    rig_side *s = &run.side[which];
    for (size_t i = 0; i < s->trace.n_record; i++) {
        trace_record *r = &s->record[i];
        if (r->kind == TRACE_INDEX && r->name == STAGE_X_AFTER_ATTN && r->layer == RIG_LAYER &&
            r->pass == s->norm->pass) {
            s->index[i][RIG_LAST - r->first_position] = rig_hash(s->x, RIG_N);
        }
    }
}

/* The proper row differs between the runs: another layer is to blame. */
static inline void differ_upstream(void)
{
    b_side()->x[3] += 0.01f;
    rig_compute(b_side());
    produced_set(SIDE_B);
}

static inline evidence *item_find(side s, const char *phrase)
{
    for (int i = 0; i < run.evidence[s].n; i++) {
        if (strcmp(run.evidence[s].item[i].phrase, phrase) == 0) {
            return &run.evidence[s].item[i];
        }
    }
    fail_msg("no hypothesis \"%s\"", phrase);
    return NULL;
}

#endif
