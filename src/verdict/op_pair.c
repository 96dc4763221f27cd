/* op_pair.c - who introduced what, in order: every op of a token, on two runs or on one.
 *
 *     audit each side -> judge each op -> four terms -> patch and go on -> effect
 *
 * The first visible difference is not asked for. An op is accused when its recorded output is not
 * what the model's op gives on what it should have read; what only follows from operands that
 * differ already is inherited, and what the declared contracts make of equal operands is policy.
 * Faults come in execution order, each judged on its own operands, so that none hides the next.
 *
 * The patch needs no second run of the engine: once both sides' op outputs are known to be what
 * the definition gives on their own operands, putting the healthy row on an edge makes everything
 * behind it the other side's, op by op, until an op that is itself at fault, or one that reads
 * something else that differs. What is counted is whether that covers every difference.
 */
#include "verdict/op_pair.h"

#include "explain/norm_side.h"
#include "verdict/op_canary.h"
#include "verdict/op_effect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pair_case {
    const op_pair *p;
    audit_terms terms[SIDE_COUNT];
    op_audit *audit[SIDE_COUNT]; /* by op of the side's own list */
    op_output *crossed;          /* (n_op of B) C_B(a), where the contracts differ */
    op_line *line;               /* (n_line) one per op of A's list, then those of B's own */
    int32_t n_line;
    int32_t *of[SIDE_COUNT]; /* (n_line) op of the side's list; -1: it has none */
} pair_case;

static side other_side(side s)
{
    return s == SIDE_A ? SIDE_B : SIDE_A;
}

static bool is_one_contract(const op_pair *p)
{
    return p->plan[SIDE_A] == p->plan[SIDE_B];
}

/* Whether both runs claim our bits, on one contract: then what differs behind a patch is a fault.
 */
static bool is_bits(const op_pair *p)
{
    return is_one_contract(p) && op_standard_of(&p->side[SIDE_A]->trace->header).is_bits &&
           op_standard_of(&p->side[SIDE_B]->trace->header).is_bits;
}

/* ---- Setting up ------------------------------------------------------------------------------ */

static greta_status lines_match(pair_case *c, greta_error *err)
{
    const op_plan *a = c->p->plan[SIDE_A], *b = c->p->plan[SIDE_B];
    size_t n = (size_t)a->list.n_op + (size_t)b->list.n_op;
    c->line = calloc(n, sizeof *c->line);
    c->of[SIDE_A] = calloc(n, sizeof(int32_t));
    c->of[SIDE_B] = calloc(n, sizeof(int32_t));
    c->crossed = calloc(n, sizeof *c->crossed);
    if (!c->line || !c->of[SIDE_A] || !c->of[SIDE_B] || !c->crossed) {
        return error_memory(err, "the ops", n * sizeof *c->line);
    }
    for (int32_t i = 0; i < a->list.n_op; i++) {
        c->of[SIDE_A][i] = i;
        c->of[SIDE_B][i] =
            a == b ? i : op_list_op(&b->list, a->expected[i].name, a->expected[i].layer);
    }
    c->n_line = a->list.n_op;
    for (int32_t i = 0; i < b->list.n_op && a != b; i++) {
        if (op_list_op(&a->list, b->expected[i].name, b->expected[i].layer) < 0) {
            c->of[SIDE_A][c->n_line] = -1;
            c->of[SIDE_B][c->n_line++] = i;
        }
    }
    return GRETA_OK;
}

static greta_status case_open(const op_pair *p, double *work, pair_case *c, greta_error *err)
{
    *c = (pair_case){.p = p};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        side o = other_side(s);
        run_site run = {p->side[s], p->catalog[s], p->is_one_session ? p->catalog[o] : NULL,
                        p->catalog[o]};
        c->terms[s] =
            (audit_terms){.plan = p->plan[s], .run = run, .other = p->side[o], .work = work};
    }
    GRETA_TRY(lines_match(c, err));
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        c->terms[s].twin = s == SIDE_B && is_one_contract(p) ? c->audit[SIDE_A] : NULL;
        c->terms[s].is_arbitrated =
            s == SIDE_B && strncmp(p->side[SIDE_A]->trace->header.kernel, "ref", 3) == 0;
        GRETA_TRY(op_audit_run(&c->terms[s], &c->audit[s], err));
    }
    return GRETA_OK;
}

static void case_close(pair_case *c)
{
    for (int32_t i = 0; c->crossed && i < c->n_line; i++) {
        op_output_free(&c->crossed[i]);
    }
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        op_audits_free(c->audit[s], c->p->plan[s]->list.n_op);
        free(c->of[s]);
    }
    free(c->crossed);
    free(c->line);
}

static op_audit *audit_of(const pair_case *c, side s, int32_t i)
{
    return c->of[s][i] >= 0 ? &c->audit[s][c->of[s][i]] : NULL;
}

static const trace_record *record_of(const pair_case *c, side s, int32_t i)
{
    const op_audit *a = audit_of(c, s, i);
    return a ? a->check.record : NULL;
}

static bool outputs_differ(const pair_case *c, int32_t i)
{
    const trace_record *a = record_of(c, SIDE_A, i), *b = record_of(c, SIDE_B, i);
    return a && b && !hash_equal(a->out[0].hash, b->out[0].hash);
}

/* ---- Judging --------------------------------------------------------------------------------- */

/* The classifier of norms asks for bits, and knows more of a norm (its numbers, its weights): where
 * it names a cause, its finding stands. But a number that was solved for fits whatever scales a row
 * by one factor: alone it confirms nothing, and it and several causes yield to a hypothesis that
 * alone gives the bits. */
static void norm_take(const op_pair *p, op_line *line)
{
    for (size_t i = 0; i < p->n_norm && line->is_accused && is_bits(p); i++) {
        const norm_line *norm = &p->norm[i];
        const finding *f = &norm->found;
        bool is_named = f->state == VERDICT_CONFIRMED || f->state == VERDICT_SUSPECTED;
        bool is_solved = f->n_fit > 0 && f->fit[0]->is_solved;
        bool is_better = line->found.state == VERDICT_CONFIRMED && line->found.n_fit > 0 &&
                         !line->found.fit[0]->is_solved;
        bool is_weak = is_solved || f->state == VERDICT_SUSPECTED;
        if (norm->name != line->name || norm->layer != line->layer || !is_named ||
            (is_weak && is_better)) {
            continue;
        }
        line->found = *f;
    }
}

static void line_start(op_line *line, const op_expected *e, const site *at, side_naming naming)
{
    line->name = e->name;
    line->layer = e->layer;
    line->position = at->any->position;
    line->token = at->any->token;
    line->pass = at->any->pass;
    line->naming = naming;
    snprintf(line->kind, sizeof line->kind, "%s", e->kind);
}

/* What is known of the weights that two models give to the op; NULL: one model, or no weights. */
static const kin_entry *weights_of(const pair_case *c, int32_t i)
{
    int32_t a = c->of[SIDE_A][i], b = c->of[SIDE_B][i];
    return c->p->kin && a >= 0 && b >= 0 ? op_kin_of(c->p->kin, &c->p->plan[SIDE_A]->list.op[a],
                                                     &c->p->plan[SIDE_B]->list.op[b])
                                         : NULL;
}

static bool has_two_weights(const pair_case *c, int32_t i)
{
    const kin_entry *weights = weights_of(c, i);
    return weights && weights->match.relation != WEIGHTS_EQUAL;
}

/* One side's op; its evidence moves into the line. */
static void side_judge(op_trial *t, side s, op_audit *audit, op_line *line, finding *out)
{
    t->check[s] = audit->check;
    line->evidence[s] = audit->evidence;
    audit->evidence.item = NULL;
    t->evidence[s] = &line->evidence[s];
    op_judge_side(t, s, out);
}

static void line_judge(pair_case *c, int32_t i)
{
    op_line *line = &c->line[i];
    finding judged[SIDE_COUNT];
    op_trial t = {.head_dim = c->p->plan[SIDE_A]->model->cfg.head_dim,
                  .has_two_weights = has_two_weights(c, i)};
    int n = 0;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (c->of[s][i] < 0) {
            continue;
        }
        t.expected[s] = &c->p->plan[s]->expected[c->of[s][i]];
        t.run[s] = c->terms[s].run;
        line_start(line, t.expected[s], c->p->side[s], c->p->naming);
        side_judge(&t, s, audit_of(c, s, i), line, &judged[s]);
        line->found = judged[s];
        n++;
    }
    if (n == SIDE_COUNT) {
        op_judge_pair(&t, judged, &line->found);
    }
    line->is_accused = finding_is_accused(&line->found);
    norm_take(c->p, line);
}

/* ---- Terms ----------------------------------------------------------------------------------- */

static term_row recorded_row(const trace_record *r)
{
    const trace_tensor *t = &r->out[0];
    return (term_row){t->type, t->n, t->data && t->n_kept == t->n ? t->data : NULL};
}

static term_row output_row(const op_output *y)
{
    return (term_row){y->type, y->n, y->values};
}

/* Of the row that the op reads, or of the cache row that it writes. */
static const char *precision_of(const op_plan *plan, const op *o)
{
    return o->kind == OP_KV_STORE
               ? (plan->contract.kv == DTYPE_F32 ? "f32" : "f16")
               : (plan->list.edge[o->in[0].edge].type == DTYPE_ACT_Q8 ? "q8" : "f32");
}

/* "weights Q4_0 in run A, F16 in run B: 7.9e-02 of the row; act q8 in run A, f32 in run B" */
static void policy_describe(const pair_case *c, int32_t i, finding *f)
{
    const op_plan *a = c->p->plan[SIDE_A], *b = c->p->plan[SIDE_B];
    const op *x = &a->list.op[c->of[SIDE_A][i]], *y = &b->list.op[c->of[SIDE_B][i]];
    const kin_entry *weights = has_two_weights(c, i) ? weights_of(c, i) : NULL;
    const op_terms *terms = &c->line[i].terms;
    const char *of_a = precision_of(a, x), *of_b = precision_of(b, y);
    text t = {0};
    if (weights) {
        char share[NUMBER_MAX];
        text_format(&t, "weights %s in run A, %s in run B",
                    dtype_name(weights->of[SIDE_A].tensor->type),
                    dtype_name(weights->of[SIDE_B].tensor->type));
        if (terms->has_weights && terms->scale > 0) {
            text_format(
                &t, ": %s of the row",
                number_scientific(terms->norm[TERM_POLICY_WEIGHTS] / terms->scale, 2, share));
        }
    }
    if (!weights || strcmp(of_a, of_b) != 0) {
        text_format(&t, "%s%s %s in run A, %s in run B", weights ? "; " : "",
                    x->kind == OP_KV_STORE ? "kv" : "act", of_a, of_b);
    }
    snprintf(f->phrase, sizeof f->phrase, "%s", t.failed ? "another contract" : t.data);
    text_free(&t);
}

/* Neither run did anything wrong, and their contracts make two rows of one: policy. */
static void policy_judge(const pair_case *c, int32_t i)
{
    op_line *line = &c->line[i];
    bool is_declared =
        !line->is_accused && line->terms.is_measured && line->terms.norm[TERM_POLICY] > 0;
    line->is_policy = is_declared || (line->found.is_benign && line->found.cause != CAUSE_ROUNDING);
    line->is_rounding = !line->is_policy && line->found.is_benign;
    if (is_declared) {
        line->found.state = VERDICT_CONFIRMED;
        line->found.cause = CAUSE_PRECISION_POLICY;
        line->found.sides = SIDES_NONE;
        policy_describe(c, i, &line->found);
    }
}

/* Whether a line of this op, at an earlier token, told of its weights. */
static bool is_told_before(const op_findings *out, const op_line *line)
{
    bool is_told = false;
    for (size_t i = 0; i < out->n_op && !is_told; i++) {
        const op_line *at = &out->op[i];
        is_told = at->name == line->name && at->layer == line->layer && at->is_accused &&
                  at->found.cause == CAUSE_WEIGHTS_DIFFER;
    }
    return is_told;
}

/* Neither run did anything wrong, and the weights of one are not those of the other in another
 * type: proved by the files. Told once for each op, at whatever token; false: they are. */
static bool weights_judge(const pair_case *c, int32_t i, const op_findings *out)
{
    const kin_entry *weights = weights_of(c, i);
    op_line *line = &c->line[i];
    finding *f = &line->found;
    if (!weights || weights->match.relation != WEIGHTS_OTHER || line->is_accused ||
        !outputs_differ(c, i)) {
        return false;
    }
    const weight_match *match = &weights->match;
    const weight *a = weights->of[SIDE_A].tensor, *b = weights->of[SIDE_B].tensor;
    char far[NUMBER_MAX], share[NUMBER_MAX], limit[96] = "";
    if (a->type != b->type && isfinite(match->largest)) {
        snprintf(limit, sizeof limit, " by %s times what rounding to %s and %s may do",
                 number_scientific(match->largest, 2, far), dtype_name(a->type),
                 dtype_name(b->type));
    }
    f->state = VERDICT_CONFIRMED;
    f->cause = CAUSE_WEIGHTS_DIFFER;
    f->fit_causes = 1u << CAUSE_WEIGHTS_DIFFER;
    f->sides = SIDES_NONE;
    f->is_benign = false;
    snprintf(f->phrase, sizeof f->phrase, "%.60s: %s apart, most in value %lld of row %lld%s",
             b->name, number_scientific(match->relative, 2, share), (long long)match->at,
             (long long)(weights->of[SIDE_B].first + match->row), limit);
    line->is_accused = !is_told_before(out, line);
    return true;
}

/* What the weights alone do, in binary64: told once for each stage, so not asked for more. */
static greta_status weights_cross(const pair_case *c, int32_t i, const op_findings *out,
                                  double **made, greta_error *err)
{
    const op_line *line = &c->line[i];
    bool is_wanted = has_two_weights(c, i);
    for (size_t k = 0; k < out->n_op && is_wanted && !line->is_accused; k++) {
        is_wanted = out->op[k].name != line->name || !out->op[k].terms.has_weights;
    }
    return is_wanted ? op_cross_weights(&c->terms[SIDE_A], c->of[SIDE_A][i], c->p->plan[SIDE_B],
                                        c->of[SIDE_B][i], made, err)
                     : GRETA_OK;
}

/* Whether the two contracts, and models, make the same row of the same operands: then C_B(a) is
 * C_A(a), and nothing needs to be replayed for it. */
static bool is_one_op(const pair_case *c, int32_t i)
{
    const op_list *a = &c->p->plan[SIDE_A]->list, *b = &c->p->plan[SIDE_B]->list;
    const op *x = &a->op[c->of[SIDE_A][i]], *y = &b->op[c->of[SIDE_B][i]];
    bool is_one = is_one_contract(c->p) ||
                  (x->kind == y->kind && !has_two_weights(c, i) &&
                   (x->kind != OP_KV_STORE ||
                    c->p->plan[SIDE_A]->contract.kv == c->p->plan[SIDE_B]->contract.kv));
    for (int k = 0; k < OP_IN_MAX && is_one && !is_one_contract(c->p); k++) {
        bool has_both = x->in[k].edge >= 0 && y->in[k].edge >= 0;
        is_one = has_both ? a->edge[x->in[k].edge].type == b->edge[y->in[k].edge].type
                          : x->in[k].edge < 0 && y->in[k].edge < 0;
    }
    return is_one;
}

static greta_status terms_fill(pair_case *c, int32_t i, op_findings *out, greta_error *err)
{
    op_line *line = &c->line[i];
    const trace_record *a = record_of(c, SIDE_A, i), *b = record_of(c, SIDE_B, i);
    if (!a || !b || (!outputs_differ(c, i) && !line->is_accused && !line->found.is_benign)) {
        return GRETA_OK;
    }
    const op_audit *x = audit_of(c, SIDE_A, i), *y = audit_of(c, SIDE_B, i);
    term_rows rows = {.recorded = {recorded_row(a), recorded_row(b)},
                      .healthy = {output_row(&x->healthy), output_row(&y->healthy)},
                      .crossed = output_row(&x->healthy)};
    if (!is_one_op(c, i)) {
        GRETA_TRY(
            op_cross(&c->terms[SIDE_A], c->p->plan[SIDE_B], c->of[SIDE_B][i], &c->crossed[i], err));
        rows.crossed = output_row(&c->crossed[i]);
    }
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (audit_of(c, s, i)->evidence.as_read_fits) { /* what was read gives the record */
            rows.as_read[s] = rows.recorded[s];
        }
    }
    double *weights = NULL;
    GRETA_TRY(weights_cross(c, i, out, &weights, err));
    rows.weights = weights;
    terms_take(&rows, &line->terms);
    free(weights);
    if (!weights_judge(c, i, out)) {
        policy_judge(c, i);
    }
    out->judged.n_terms += line->terms.is_measured;
    out->judged.n_policy += line->is_policy;
    out->judged.n_rounding += line->is_rounding;
    out->judged.gap_max = fmax(out->judged.gap_max, line->terms.gap);
    return GRETA_OK;
}

/* ---- Patch and go on ------------------------------------------------------------------------- */

typedef enum edge_now { EDGE_AGREES, EDGE_DIFFERS, EDGE_OF_NEXT } edge_now;

/* Rows of other positions that a cache holds, on both sides. */
static bool other_rows_agree(const pair_case *c, const edge *e)
{
    row_hash hash[SIDE_COUNT];
    for (int32_t p = 0; p < c->p->side[SIDE_A]->any->position; p++) {
        for (side s = SIDE_A; s < SIDE_COUNT; s++) {
            if (!run_cache_row(&c->terms[s].run, e->name, e->layer, p, &hash[s])) {
                return false;
            }
        }
        if (!hash_equal(hash[SIDE_A], hash[SIDE_B])) {
            return false;
        }
    }
    return true;
}

/* What the op's output is when the inputs are as `now` says and faults up to op `last` are
 * patched. */
static edge_now op_after_patch(const pair_case *c, int32_t i, int32_t last, const edge_now *now)
{
    const op_list *list = &c->p->plan[SIDE_A]->list;
    const op *o = &list->op[i];
    edge_now worst = EDGE_AGREES;
    if (c->line[i].is_accused && i > last) {
        return EDGE_OF_NEXT;
    }
    for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0; k++) {
        const edge *e = &list->edge[o->in[k].edge];
        worst = now[o->in[k].edge] > worst ? now[o->in[k].edge] : worst;
        if (worst == EDGE_AGREES && e->is_cache && !other_rows_agree(c, e)) {
            worst = EDGE_DIFFERS;
        }
    }
    bool is_known =
        c->line[i].evidence[SIDE_A].is_measured && c->line[i].evidence[SIDE_B].is_measured;
    return is_known ? worst : outputs_differ(c, i) ? EDGE_DIFFERS : worst;
}

static void patch_try(const pair_case *c, int32_t last, edge_now *now, patch *out)
{
    const op_list *list = &c->p->plan[SIDE_A]->list;
    *out = (patch){0};
    memset(now, 0, (size_t)list->n_edge * sizeof *now);
    for (int32_t i = 0; i < list->n_op; i++) {
        edge_now after = op_after_patch(c, i, last, now);
        for (int k = 0; k < OP_OUT_MAX && list->op[i].out[k] >= 0; k++) {
            now[list->op[i].out[k]] = after;
        }
        if (outputs_differ(c, i)) {
            out->n_next += after == EDGE_OF_NEXT;
            out->n_differ += after != EDGE_OF_NEXT;
            out->n_removed += after == EDGE_AGREES;
        }
    }
    out->state = out->n_differ == out->n_removed ? PATCH_REMOVES : PATCH_DOES_NOT;
}

/* A cause whose patch leaves a difference behind it is not the whole cause. Runs of two contracts
 * differ behind a patch by design, as do runs that promise no bits: nothing is tried there. */
static greta_status patches_try(pair_case *c, greta_error *err)
{
    size_t n = (size_t)c->p->plan[SIDE_A]->list.n_edge;
    edge_now *now = calloc(n, sizeof *now);
    if (!now) {
        return error_memory(err, "the patch", n * sizeof *now);
    }
    for (int32_t i = 0; i < c->n_line && is_bits(c->p); i++) {
        op_line *line = &c->line[i];
        if (line->is_accused) {
            patch_try(c, i, now, &line->patch);
            bool is_left = line->patch.state == PATCH_DOES_NOT;
            line->found.state = is_left && line->found.state == VERDICT_CONFIRMED
                                    ? VERDICT_SUSPECTED
                                    : line->found.state;
        }
    }
    free(now);
    return GRETA_OK;
}

/* ---- Effect ---------------------------------------------------------------------------------- */

static greta_status effect_take(const pair_case *c, op_findings *out, greta_error *err)
{
    const op_list *list = &c->p->plan[SIDE_A]->list;
    effect_op *ops = calloc((size_t)list->n_op, sizeof *ops);
    if (!ops) {
        return error_memory(err, "the effect", (uint64_t)list->n_op * sizeof *ops);
    }
    for (int32_t i = 0; i < list->n_op; i++) {
        const op *o = &list->op[i];
        ops[i] =
            (effect_op){{record_of(c, SIDE_A, i), record_of(c, SIDE_B, i)},
                        c->line[i].is_accused || c->line[i].is_policy || c->line[i].is_rounding ||
                            c->line[i].found.cause == CAUSE_WEIGHTS_DIFFER,
                        false};
        for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0 && outputs_differ(c, i); k++) {
            const edge *e = &list->edge[o->in[k].edge];
            ops[i].has_earlier = ops[i].has_earlier || (e->is_cache && !other_rows_agree(c, e));
        }
    }
    greta_status status = op_effect_take(c->terms, ops, out, err);
    free(ops);
    return status;
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* What evaluating the recorded ops of a token once costs. */
static double work_once(const op_plan *plan, const op_audit *audit)
{
    double sum = 0;
    for (int32_t i = 0; i < plan->list.n_op; i++) {
        const trace_record *r = audit[i].check.record;
        sum += r ? op_work(&plan->list.op[i], r->out[0].n, r->position) : 0;
    }
    return sum;
}

static void coverage_add(const op_audit *a, op_coverage *out)
{
    if (!a || !a->check.record) {
        out->n_unrecorded += a != NULL;
        return;
    }
    out->n_op++;
    out->n_replayed += a->evidence.is_measured;
    out->n_healthy += a->evidence.is_measured && a->evidence.healthy_fits;
    out->n_bounded += a->evidence.is_measured && a->evidence.is_bounded;
    out->n_broken += op_check_is_broken(&a->check);
    out->n_unmeasured += !a->evidence.is_measured;
}

static bool is_told(const op_line *line)
{
    const finding *f = &line->found;
    return line->is_accused || line->is_policy || line->is_rounding || f->changed_no_bit ||
           f->state == VERDICT_INSTRUMENT_SUSPECT;
}

/* Moves a line to the findings; the rest is freed where it is. */
static greta_status line_keep(op_line *line, bool is_kept, op_findings *out, greta_error *err)
{
    op_line *grown = is_kept ? realloc(out->op, (out->n_op + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(line->evidence[SIDE_A].item);
        free(line->evidence[SIDE_B].item);
        line->evidence[SIDE_A].item = line->evidence[SIDE_B].item = NULL;
        return is_kept ? error_memory(err, "the ops", sizeof *line) : GRETA_OK;
    }
    out->op = grown;
    out->op[out->n_op++] = *line;
    return GRETA_OK;
}

static uint64_t canary_seed(const site *s)
{
    return s->trace->body_sum ^ s->trace->header.model_hash;
}

static greta_status case_judge(pair_case *c, op_findings *out, greta_error *err)
{
    bool is_first = out->n_op == 0;
    out->judged.is_judged = true;
    out->judged.work_once += work_once(c->p->plan[SIDE_A], c->audit[SIDE_A]);
    for (int32_t i = 0; i < c->n_line; i++) {
        coverage_add(audit_of(c, SIDE_A, i), &out->judged);
        coverage_add(audit_of(c, SIDE_B, i), &out->judged);
        line_judge(c, i);
        GRETA_TRY(terms_fill(c, i, out, err));
    }
    GRETA_TRY(patches_try(c, err));
    GRETA_TRY(effect_take(c, out, err));
    for (int32_t i = 0; i < c->n_line; i++) {
        bool is_kept = is_told(&c->line[i]) || (is_first && outputs_differ(c, i));
        GRETA_TRY(line_keep(&c->line[i], is_kept, out, err));
        is_first = is_first && !outputs_differ(c, i);
    }
    return c->p->has_canaries ? op_canaries_run(&c->terms[SIDE_B], canary_seed(c->p->side[SIDE_B]),
                                                &out->canaries, err)
                              : GRETA_OK;
}

greta_status op_pair_judge(const op_pair *p, op_findings *out, greta_error *err)
{
    pair_case c;
    greta_status status = case_open(p, &out->judged.work, &c, err);
    if (status == GRETA_OK) {
        status = case_judge(&c, out, err);
    }
    case_close(&c);
    return status;
}

/* ---- One run --------------------------------------------------------------------------------- */

greta_status op_single_judge(const op_single *s, op_findings *out, greta_error *err)
{
    const int32_t n = s->plan->list.n_op;
    audit_terms terms = {
        .plan = s->plan, .run = {s->site, s->catalog, NULL, NULL}, .work = &out->judged.work};
    op_audit *audit = NULL;
    GRETA_TRY(op_audit_run(&terms, &audit, err));
    greta_status status = GRETA_OK;
    out->judged.is_judged = true;
    out->judged.work_once += work_once(s->plan, audit);
    for (int32_t i = 0; i < n && status == GRETA_OK; i++) {
        op_line line = {0};
        op_trial t = {.expected = {&s->plan->expected[i]},
                      .run = {terms.run},
                      .head_dim = s->plan->model->cfg.head_dim};
        coverage_add(&audit[i], &out->judged);
        if (!audit[i].check.record) {
            continue;
        }
        line_start(&line, t.expected[SIDE_A], s->site, NAMES_AUDIT);
        side_judge(&t, SIDE_A, &audit[i], &line, &line.found);
        line.is_accused = finding_is_accused(&line.found);
        line.is_policy = line.found.is_benign;
        out->judged.n_policy += line.is_policy;
        status = line_keep(&line, is_told(&line), out, err);
    }
    op_audits_free(audit, n);
    return status == GRETA_OK && s->has_canaries
               ? op_canaries_run(&terms, canary_seed(s->site), &out->canaries, err)
               : status;
}
