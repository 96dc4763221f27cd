/* analysis.c - the life of an analysis, and the few questions that every writer asks of it.
 *
 * An analysis owns what it says and points nowhere else, so that it outlives the traces it is
 * about.
 */
#include "report/analysis.h"

#include <stdlib.h>

const char *stage_state_name(stage_state state)
{
    static const char *const name[] = {"equal", "differs", "unmeasured"};
    return name[state];
}

const char *analysis_mode_name(analysis_mode mode)
{
    static const char *const name[] = {"E1 fresh", "E1 truncate", "E0", "from"};
    return name[mode];
}

bool effect_is_tie(const logit_effect *e)
{
    return e->gap[SIDE_A] <= 0 || e->gap[SIDE_B] <= 0 || e->gap_in_bounds[SIDE_A] <= 1 ||
           e->gap_in_bounds[SIDE_B] <= 1;
}

stage canaries_missed(const op_canaries *c)
{
    for (stage s = 0; s < STAGE_COUNT; s++) {
        if (c->of[s].state == CANARY_MISSED) {
            return s;
        }
    }
    return STAGE_NONE;
}

void op_findings_free(op_findings *f)
{
    for (size_t i = 0; i < f->n_op; i++) {
        free(f->op[i].evidence[SIDE_A].item);
        free(f->op[i].evidence[SIDE_B].item);
    }
    free(f->op);
    *f = (op_findings){0};
}

void analysis_prompt_free(analysis_prompt *p)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        free(p->norm[i].evidence[SIDE_A]);
        free(p->norm[i].evidence[SIDE_B]);
    }
    op_findings_free(&p->ops);
    free(p->norm);
    free(p->stage);
    *p = (analysis_prompt){0};
}

void analysis_free(analysis *a)
{
    for (size_t i = 0; i < a->n_prompt; i++) {
        analysis_prompt_free(&a->prompt[i]);
    }
    for (size_t i = 0; i < a->n_command; i++) {
        free(a->command[i]);
    }
    free(a->out);
    free(a->traces);
    free(a->prompt);
    free(a->command);
    *a = (analysis){0};
}

static int badness(greta_status verdict)
{
    return verdict == GRETA_FAULT ? 2 : verdict == GRETA_NO_VERDICT;
}

const analysis_prompt *analysis_worst(const analysis *a)
{
    const analysis_prompt *worst = NULL;
    for (size_t i = 0; i < a->n_prompt; i++) {
        if (!worst || badness(a->prompt[i].verdict) > badness(worst->verdict)) {
            worst = &a->prompt[i];
        }
    }
    return worst;
}

void analysis_conclude(analysis *a)
{
    const analysis_prompt *worst = analysis_worst(a);
    a->verdict = worst ? worst->verdict : GRETA_NO_VERDICT;
}

bool analysis_has_traces(const analysis *a)
{
    for (size_t i = 0; i < a->n_prompt; i++) {
        if (a->prompt[i].side[SIDE_A].is_present || a->prompt[i].side[SIDE_B].is_present) {
            return true;
        }
    }
    return false;
}

const norm_line *analysis_decisive(const analysis_prompt *p)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        if (p->norm[i].is_decisive) {
            return &p->norm[i];
        }
    }
    return NULL;
}

const op_line *analysis_decisive_op(const analysis_prompt *p)
{
    for (size_t i = 0; i < p->ops.n_op; i++) {
        if (p->ops.op[i].is_decisive) {
            return &p->ops.op[i];
        }
    }
    return NULL;
}

const char *analysis_bucket(verdict_state state, cause c)
{
    switch (state) {
    case VERDICT_EQUAL:
        return cause_name(CAUSE_NONE);
    case VERDICT_CONFIRMED:
    case VERDICT_SUSPECTED:
        return cause_name(c);
    default:
        return verdict_state_name(state);
    }
}
