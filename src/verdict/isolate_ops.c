/* isolate_ops.c - every op of the model on both sides of a pair: who introduced what, in order.
 *
 *     plan -> audit each side -> judge each op -> four terms -> patch and go on -> effect
 *
 * The first visible difference is not asked for. An op is accused when its recorded output is not
 * what the model's op gives on what it should have read; what only follows from operands that
 * differ already is inherited. Faults come in execution order, each judged on its own operands, so
 * that one does not hide the next.
 *
 * The patch needs no second run of the engine: once both sides' op outputs are known to be what
 * the definition gives on their own operands, putting the healthy row on an edge makes everything
 * behind it the other side's, op by op, until an op that is itself at fault, or one that reads
 * something else that differs. What is counted is whether that covers every difference.
 */
#include "explain/norm_side.h"
#include "verdict/isolate.h"
#include "verdict/op_audit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ops_case {
    const isolate_side *sides;
    catalog catalog[SIDE_COUNT];
    op_plan plan;
    run_site run[SIDE_COUNT];
    op_audit *audit[SIDE_COUNT];
    op_line *line; /* (n_op) one per op; those with something to tell are kept */
} ops_case;

/* ---- Setting up ------------------------------------------------------------------------------ */

static uint64_t cache_address(const trace_header *h)
{
    for (size_t i = 0; i < h->n_buffer; i++) {
        if (strcmp(h->buffer[i].name, "kv.k.0") == 0) {
            return h->buffer[i].address;
        }
    }
    return 0;
}

/* Whether b's session went on from a's: then cache rows it read can be in a's trace. */
static bool is_same_session(const trace_header *a, const trace_header *b)
{
    return a->process == b->process && cache_address(a) != 0 &&
           cache_address(a) == cache_address(b);
}

static greta_status case_open(ops_case *c, const isolate_terms *terms, greta_error *err)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        GRETA_TRY(catalog_new(c->sides[s].trace, &c->catalog[s], err));
    }
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        side o = s == SIDE_A ? SIDE_B : SIDE_A;
        bool is_one = is_same_session(&c->sides[s].trace->header, &c->sides[o].trace->header);
        c->run[s] = (run_site){&c->sides[s], &c->catalog[s], is_one ? &c->catalog[o] : NULL,
                               &c->catalog[o]};
    }
    return op_plan_new(terms->model, &c->sides[SIDE_A].trace->header, &c->plan, err);
}

static void case_close(ops_case *c)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        op_audits_free(c->audit[s], c->plan.list.n_op);
        catalog_free(&c->catalog[s]);
    }
    free(c->line);
    op_plan_free(&c->plan);
}

static greta_status case_audit(ops_case *c, greta_error *err)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        audit_terms terms = {.plan = &c->plan,
                             .run = c->run[s],
                             .other = &c->sides[s == SIDE_A ? SIDE_B : SIDE_A],
                             .twin = s == SIDE_A ? NULL : c->audit[SIDE_A]};
        GRETA_TRY(op_audit_run(&terms, &c->audit[s], err));
    }
    size_t n = (size_t)c->plan.list.n_op;
    c->line = calloc(n, sizeof *c->line);
    return c->line ? GRETA_OK : error_memory(err, "the ops", n * sizeof *c->line);
}

/* ---- Judging --------------------------------------------------------------------------------- */

static const norm_line *norm_of(const analysis_prompt *p, stage name, int32_t layer)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        if (p->norm[i].name == name && p->norm[i].layer == layer) {
            return &p->norm[i];
        }
    }
    return NULL;
}

/* The classifier of norms knows more of a norm (its numbers, its weights): where it names a cause,
 * its finding stands. */
static void norm_take(const analysis_prompt *p, op_line *line)
{
    const norm_line *norm = norm_of(p, line->name, line->layer);
    bool is_named =
        norm && (norm->found.state == VERDICT_CONFIRMED || norm->found.state == VERDICT_SUSPECTED);
    if (line->is_accused && is_named) {
        line->found = norm->found;
    }
}

static void op_judge(ops_case *c, int32_t i, const analysis_prompt *p)
{
    op_line *line = &c->line[i];
    const op_expected *e = &c->plan.expected[i];
    finding judged[SIDE_COUNT];
    op_trial t = {.head_dim = c->plan.model->cfg.head_dim};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        t.expected[s] = e;
        t.run[s] = c->run[s];
        t.check[s] = c->audit[s][i].check;
        line->evidence[s] = c->audit[s][i].evidence; /* its items move here */
        c->audit[s][i].evidence.item = NULL;
        t.evidence[s] = &line->evidence[s];
    }
    line->name = e->name;
    line->layer = e->layer;
    snprintf(line->kind, sizeof line->kind, "%s", e->kind);
    op_judge_side(&t, SIDE_A, &judged[SIDE_A]);
    op_judge_side(&t, SIDE_B, &judged[SIDE_B]);
    op_judge_pair(&t, judged, &line->found);
    line->is_accused = finding_is_accused(&line->found);
    norm_take(p, line);
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

static bool outputs_differ(const ops_case *c, int32_t i)
{
    const trace_record *a = c->audit[SIDE_A][i].check.record;
    const trace_record *b = c->audit[SIDE_B][i].check.record;
    return a && b && !hash_equal(a->out[0].hash, b->out[0].hash);
}

/* One contract on both sides: C_B(a) is C_A(a), and no difference is policy. */
static void terms_fill(ops_case *c, int32_t i, analysis_prompt *p)
{
    op_line *line = &c->line[i];
    const op_audit *a = &c->audit[SIDE_A][i], *b = &c->audit[SIDE_B][i];
    if (!outputs_differ(c, i) && !line->is_accused) {
        return;
    }
    if (!a->check.record || !b->check.record) {
        return;
    }
    term_rows rows = {.recorded = {recorded_row(a->check.record), recorded_row(b->check.record)},
                      .healthy = {output_row(&a->healthy), output_row(&b->healthy)},
                      .crossed = output_row(&a->healthy)};
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        if (c->audit[s][i].evidence.as_read_fits) { /* what was read gives the record */
            rows.as_read[s] = rows.recorded[s];
        }
    }
    terms_take(&rows, &line->terms);
    p->judged.n_terms += line->terms.is_measured;
    p->judged.gap_max = fmax(p->judged.gap_max, line->terms.gap);
}

/* ---- Patch and go on ------------------------------------------------------------------------- */

typedef enum edge_now { EDGE_AGREES, EDGE_DIFFERS, EDGE_OF_NEXT } edge_now;

/* Rows of other positions that a cache holds, on both sides. */
static bool other_rows_agree(const ops_case *c, const edge *e)
{
    row_hash hash[SIDE_COUNT];
    for (int32_t p = 0; p < c->sides[SIDE_A].any->position; p++) {
        for (side s = SIDE_A; s < SIDE_COUNT; s++) {
            if (!run_cache_row(&c->run[s], e->name, e->layer, p, &hash[s])) {
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
static edge_now op_after_patch(const ops_case *c, int32_t i, int32_t last, const edge_now *now)
{
    const op *o = &c->plan.list.op[i];
    edge_now worst = EDGE_AGREES;
    for (int k = 0; k < OP_IN_MAX && o->in[k].edge >= 0; k++) {
        const edge *e = &c->plan.list.edge[o->in[k].edge];
        worst = now[o->in[k].edge] > worst ? now[o->in[k].edge] : worst;
        if (worst == EDGE_AGREES && e->is_cache && !other_rows_agree(c, e)) {
            worst = EDGE_DIFFERS;
        }
    }
    bool is_known =
        c->audit[SIDE_A][i].evidence.is_measured && c->audit[SIDE_B][i].evidence.is_measured;
    if (c->line[i].is_accused && i > last) {
        return EDGE_OF_NEXT;
    }
    return is_known ? worst : outputs_differ(c, i) ? EDGE_DIFFERS : worst;
}

static void patch_try(const ops_case *c, int32_t last, edge_now *now, patch *out)
{
    const op_list *list = &c->plan.list;
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

/* A cause whose patch leaves a difference behind it is not the whole cause. */
static greta_status patches_try(ops_case *c, greta_error *err)
{
    size_t n = (size_t)c->plan.list.n_edge;
    edge_now *now = calloc(n, sizeof *now);
    if (!now) {
        return error_memory(err, "the patch", n * sizeof *now);
    }
    for (int32_t i = 0; i < c->plan.list.n_op; i++) {
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

static int32_t top_of(const term_row *logits, double *gap)
{
    int64_t best = 0, next = -1;
    for (int64_t i = 1; i < logits->n; i++) {
        if (term_value(logits, i) > term_value(logits, best)) {
            next = best;
            best = i;
        } else if (next < 0 || term_value(logits, i) > term_value(logits, next)) {
            next = i;
        }
    }
    *gap = next < 0 ? INFINITY : term_value(logits, best) - term_value(logits, next);
    return (int32_t)best;
}

static double log_sum(const term_row *logits, double top)
{
    double sum = 0;
    for (int64_t i = 0; i < logits->n; i++) {
        sum += exp(term_value(logits, i) - top);
    }
    return top + log(sum);
}

static void effect_take(const ops_case *c, logit_effect *out)
{
    const trace_record *a = site_record(&c->sides[SIDE_A], STAGE_LOGITS, -1);
    const trace_record *b = site_record(&c->sides[SIDE_B], STAGE_LOGITS, -1);
    if (!a || !b || hash_equal(a->out[0].hash, b->out[0].hash)) {
        return;
    }
    term_row x = recorded_row(a), y = recorded_row(b);
    bool is_known = x.values && y.values && x.n == y.n && x.n > 0;
    if (!is_known || a->out[0].n_nonfinite + b->out[0].n_nonfinite > 0) {
        return;
    }
    out->is_measured = true;
    out->top[SIDE_A] = top_of(&x, &out->gap[SIDE_A]);
    out->top[SIDE_B] = top_of(&y, &out->gap[SIDE_B]);
    double of_a = log_sum(&x, term_value(&x, out->top[SIDE_A]));
    double of_b = log_sum(&y, term_value(&y, out->top[SIDE_B]));
    for (int64_t i = 0; i < x.n; i++) {
        double p = term_value(&x, i) - of_a, q = term_value(&y, i) - of_b;
        out->kl += exp(p) * (p - q);
        out->largest = fmax(out->largest, fabs(term_value(&x, i) - term_value(&y, i)));
    }
}

/* ---- The whole ------------------------------------------------------------------------------- */

static void coverage_add(const op_audit *a, op_coverage *out)
{
    out->n_op++;
    out->n_replayed += a->evidence.is_measured;
    out->n_healthy += a->evidence.is_measured && a->evidence.healthy_fits;
    out->n_broken += op_check_is_broken(&a->check);
    out->n_unmeasured += !a->evidence.is_measured;
}

static bool is_told(const ops_case *c, int32_t i, bool is_first)
{
    const finding *f = &c->line[i].found;
    return c->line[i].is_accused || f->changed_no_bit || f->state == VERDICT_INSTRUMENT_SUSPECT ||
           (is_first && outputs_differ(c, i));
}

/* Keeps the lines with something to tell: faults, suspicions, and the first difference. */
static greta_status lines_keep(ops_case *c, analysis_prompt *out, greta_error *err)
{
    bool is_first = true;
    size_t n = 0;
    out->op = calloc((size_t)c->plan.list.n_op, sizeof *out->op);
    if (!out->op) {
        return error_memory(err, "the ops", (uint64_t)c->plan.list.n_op * sizeof *out->op);
    }
    for (int32_t i = 0; i < c->plan.list.n_op; i++) {
        if (is_told(c, i, is_first)) {
            out->op[n++] = c->line[i];
        } else {
            free(c->line[i].evidence[SIDE_A].item);
            free(c->line[i].evidence[SIDE_B].item);
        }
        is_first = is_first && !outputs_differ(c, i);
    }
    out->n_op = n;
    return GRETA_OK;
}

static greta_status case_judge(ops_case *c, analysis_prompt *out, greta_error *err)
{
    out->judged.is_judged = true;
    for (int32_t i = 0; i < c->plan.list.n_op; i++) {
        coverage_add(&c->audit[SIDE_A][i], &out->judged);
        coverage_add(&c->audit[SIDE_B][i], &out->judged);
        op_judge(c, i, out);
        terms_fill(c, i, out);
    }
    GRETA_TRY(patches_try(c, err));
    effect_take(c, &out->effect);
    return lines_keep(c, out, err);
}

greta_status isolate_judge_ops(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                               analysis_prompt *out, greta_error *err)
{
    ops_case c = {.sides = sides};
    struct greta_model *model = terms->model;
    if (!model || model_file_hash(model) != sides[SIDE_A].trace->header.model_hash) {
        return GRETA_OK;
    }
    greta_status status = case_open(&c, terms, err);
    if (status == GRETA_OK) {
        status = case_audit(&c, err);
    }
    if (status == GRETA_OK) {
        status = case_judge(&c, out, err);
    }
    case_close(&c);
    return status;
}
