/* op_audit.c - replays every op of one run at one token on what it should have read.
 *
 * Operands come from the trace by content: the hash says what a producer wrote for this token, and
 * the values are wherever they were kept (its own record, a reader's record, the other run's
 * trace). Attention's record keeps the cache rows it read, so that each row of each position is
 * found by its own hash; a row that was read wrong is taken from the other run if it is there.
 *
 * An op whose operands, weights and output have the hashes of the other run's is replayed once.
 */
#include "verdict/op_audit.h"

#include "explain/norm_side.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The plan -------------------------------------------------------------------------------- */

static op_expected expected_of(const op_list *list, const op *o)
{
    op_expected e = {.name = o->name,
                     .layer = o->layer,
                     .kind = op_kind_name(o->kind),
                     .is_store = o->kind == OP_KV_STORE,
                     .is_sum = o->kind == OP_ADD,
                     .has_numbers = o->kind == OP_RMS_NORM || o->kind == OP_HEAD_NORM,
                     .eps = o->eps,
                     .count = o->count};
    for (; e.n_in < OP_IN_MAX && o->in[e.n_in].edge >= 0; e.n_in++) {
        const edge *from = &list->edge[o->in[e.n_in].edge];
        read_expected *read = &e.in[e.n_in];
        *read = (read_expected){from->name, from->layer, from->is_cache, STAGE_NONE, -1};
        const op *producer = from->producer >= 0 ? &list->op[from->producer] : NULL;
        if (producer && producer->in[0].edge >= 0 && producer->in[1].edge < 0) {
            read->before = list->edge[producer->in[0].edge].name;
            read->before_layer = list->edge[producer->in[0].edge].layer;
        }
    }
    for (; e.n_weight < OP_WEIGHT_MAX && o->w[e.n_weight].tensor; e.n_weight++) {
        e.weight[e.n_weight] = o->w[e.n_weight].tensor->name;
    }
    return e;
}

greta_status op_plan_new(const struct greta_model *model, const trace_header *header, op_plan *out,
                         greta_error *err)
{
    bool is_f32 = strcmp(header->act, "f32") == 0;
    *out = (op_plan){.model = model,
                     .contract = {is_f32 ? ACT_CONTRACT_F32 : ACT_CONTRACT_Q8,
                                  strcmp(header->kv, "f32") == 0 ? DTYPE_F32 : DTYPE_F16},
                     .n_ctx = header->n_ctx};
    greta_status status = op_list_build(model, out->contract.act, &out->list, err);
    if (status == GRETA_OK) {
        out->expected = calloc((size_t)out->list.n_op, sizeof *out->expected);
        status = out->expected ? GRETA_OK
                               : error_memory(err, "the plan",
                                              (uint64_t)out->list.n_op * sizeof *out->expected);
    }
    if (status != GRETA_OK) {
        op_plan_free(out);
        return status;
    }
    for (int32_t i = 0; i < out->list.n_op; i++) {
        out->expected[i] = expected_of(&out->list, &out->list.op[i]);
    }
    return GRETA_OK;
}

void op_plan_free(op_plan *plan)
{
    op_list_free(&plan->list);
    free(plan->expected);
    *plan = (op_plan){0};
}

/* ---- Operands -------------------------------------------------------------------------------- */

typedef struct row_finder {
    const audit_terms *terms;
    const op_expected *reader; /* the op that is replayed */
} row_finder;

static bool operand_of(const trace_tensor *t, op_operand *out)
{
    if (t && t->data && t->n_kept == t->n) {
        *out = (op_operand){t->type, t->n, t->data};
        return true;
    }
    return false;
}

static bool values_find(const audit_terms *terms, row_hash content, op_operand *out)
{
    const run_site *run = &terms->run;
    const catalog *in[3] = {run->own, run->earlier, run->other};
    bool is_found = false;
    for (int i = 0; i < 3 && !is_found; i++) {
        const row_values row = in[i] ? catalog_values(in[i], content) : (row_values){0};
        is_found = row.data != NULL;
        *out = is_found ? (op_operand){row.type, row.n, row.data} : *out;
    }
    return is_found;
}

/* A row of a cache among those that a record of its reader kept, if it has this content. */
static bool cache_find(const site *s, const op_expected *reader, stage name, int32_t position,
                       row_hash content, op_operand *out)
{
    const trace_record *r = s ? site_record(s, reader->name, reader->layer) : NULL;
    for (int32_t i = 0; r && i < reader->n_in && i < r->n_in; i++) {
        int32_t n = r->position + 1;
        int64_t width = r->in[i].n / n;
        const void *row = reader->in[i].name == name && r->in[i].n % n == 0
                              ? cache_row_read(&r->in[i], width, position)
                              : NULL;
        if (row && hash_equal(trace_values_hash(r->in[i].type, row, width), content)) {
            *out = (op_operand){r->in[i].type, width, row};
            return true;
        }
    }
    return false;
}

bool op_audit_row(const audit_terms *terms, const op_expected *reader, stage name, int32_t layer,
                  int64_t position, op_operand *out)
{
    const run_site *run = &terms->run;
    const trace_record *any = run->site->any;
    row_hash content;
    if (name == STAGE_TOKENS) {
        *out = (op_operand){DTYPE_I32, 1, &any->token};
        return position == any->position;
    }
    const trace_record *producer = site_record(run->site, name, layer);
    if (position == any->position && producer && operand_of(&producer->out[0], out)) {
        return true;
    }
    row_place at = {name, layer, any->sequence, (int32_t)position, any->pass};
    bool is_known = position == any->position
                        ? catalog_written(run->own, &at, &content)
                        : run_cache_row(run, name, layer, (int32_t)position, &content);
    return is_known && (cache_find(run->site, reader, name, (int32_t)position, content, out) ||
                        cache_find(terms->other, reader, name, (int32_t)position, content, out) ||
                        values_find(terms, content, out));
}

static bool row_find(void *user, stage name, int32_t layer, int64_t position, op_operand *out)
{
    const row_finder *finder = user;
    return op_audit_row(finder->terms, finder->reader, name, layer, position, out);
}

static op_place place_of(const audit_terms *terms, int32_t i)
{
    const op_plan *plan = terms->plan;
    return (op_place){.model = plan->model,
                      .list = &plan->list,
                      .index = i,
                      .position = terms->run.site->any->position,
                      .kv_type = plan->contract.kv,
                      .n_ctx = plan->n_ctx,
                      .work = terms->work};
}

greta_status op_audit_case(const audit_terms *terms, int32_t i, op_case *c, greta_error *err)
{
    row_finder finder = {terms, &terms->plan->expected[i]};
    op_place at = place_of(terms, i);
    op_rows rows = {row_find, &finder};
    return op_case_build(&at, &rows, c, err);
}

/* ---- As it was read -------------------------------------------------------------------------- */

/* Room for what a changed case points at. */
typedef struct as_read {
    op_case changed;
    const void **row[2]; /* keys, values: (n_key) */
    weight tensor;
} as_read;

static bool read_row(const audit_terms *terms, const trace_tensor *read, op_operand *out)
{
    return operand_of(read, out) || values_find(terms, read->hash, out);
}

static bool read_cache(const trace_tensor *read, const op_case *c, const void **row)
{
    for (int64_t p = 0; p < c->n_key; p++) {
        row[p] =
            read->n % c->n_key == 0 ? cache_row_read(read, read->n / c->n_key, (int32_t)p) : NULL;
        if (!row[p]) {
            return false;
        }
    }
    return true;
}

/* The rows of the model's weights with this content: of several ops that share a tensor, those of
 * the op that should read them. tensor NULL: none. */
static weight_view view_found(const audit_terms *terms, row_hash content)
{
    const op_list *list = &terms->plan->list;
    const catalog *c = terms->run.own;
    for (size_t i = 0; i < c->n_weight; i++) {
        trace_record room;
        const trace_head h = trace_head_of(c->trace, c->weight[i]);
        if (!hash_equal(h.content, content)) {
            continue;
        }
        const trace_record *r = trace_at(c->trace, c->weight[i], &room);
        int32_t at = op_list_op(list, r->name, r->layer);
        for (int k = 0; k < OP_WEIGHT_MAX && at >= 0 && r->n_weight > 0; k++) {
            weight_view view = list->op[at].w[k];
            if (view.tensor && strcmp(view.tensor->name, r->weight[0].tensor) == 0) {
                view.n = list->op[at].kind == OP_EMBED ? view.tensor->n_row : view.n;
                return view;
            }
        }
    }
    return (weight_view){0};
}

/* The weights that were read: a norm's from its record, a matrix if it is another of the model. */
static bool read_weight(const audit_terms *terms, const trace_tensor *read, as_read *r, int32_t i)
{
    weight_view *view = &r->changed.op.w[i];
    if (read->type == DTYPE_F32 && read->data && read->n_kept == read->n &&
        view->tensor->n_row == 1 && read->n == view->tensor->n_col) {
        r->tensor = (weight){.name = view->tensor->name,
                             .type = DTYPE_F32,
                             .n_row = 1,
                             .n_col = read->n,
                             .row_bytes = read->n * (int64_t)sizeof(float),
                             .data = read->data};
        view->tensor = &r->tensor;
        return true;
    }
    weight_view found = view_found(terms, read->hash);
    bool fits = found.tensor && found.n == view->n && found.tensor->n_col == view->tensor->n_col;
    *view = fits ? found : *view;
    return fits;
}

/* Every broken operand replaced by what was read, numbers by what was given; false: one of them is
 * not known. */
static bool as_read_fill(const audit_terms *terms, const op_expected *e, const op_check *check,
                         as_read *r)
{
    int32_t row = 0; /* attention: operands behind the query are caches */
    if (check->is_eps_broken || check->is_count_broken) {
        r->changed.op.eps = check->record->eps;
        r->changed.op.count = (int32_t)check->record->count;
    }
    for (int32_t i = 0; i < check->n_in; i++) {
        const trace_tensor *read = &check->record->in[i];
        bool is_broken = check->in[i].state == READ_BROKEN;
        if (e->in[i].is_cache) {
            const void ***list = row == 0 ? &r->changed.key : &r->changed.value;
            const void **rows = r->row[row++];
            if (is_broken && !read_cache(read, &r->changed, rows)) {
                return false;
            }
            *list = is_broken ? rows : *list;
        } else if (is_broken && !read_row(terms, read, &r->changed.in[i])) {
            return false;
        }
    }
    for (int32_t i = 0; i < check->n_weight; i++) {
        bool is_broken = check->weight[i].state == READ_BROKEN;
        if (is_broken && !read_weight(terms, &check->record->weight[i], r, i)) {
            return false;
        }
    }
    return true;
}

/* ---- One op ---------------------------------------------------------------------------------- */

static bool output_fits(const op_output *y, const trace_record *record)
{
    const trace_tensor *out = &record->out[0];
    return y->type == out->type && y->n == out->n &&
           hash_equal(trace_values_hash(y->type, y->values, y->n), out->hash);
}

/* The recorded row, if all of it was kept and it is of the op's type and length. */
static bool recorded_row(const op_audit *audit, const op_output *y, op_operand *row)
{
    return operand_of(&audit->check.record->out[0], row) && row->type == y->type && row->n == y->n;
}

static void missing_set(op_evidence *e, const char *what)
{
    e->is_measured = false;
    snprintf(e->missing, sizeof e->missing, "%s", what);
}

/* Whether the recorded row is what the case gives: its bits, or within its bounds. */
static greta_status case_fits(const audit_terms *terms, const op_case *c, const op_output *y,
                              op_audit *out, greta_error *err)
{
    const op_standard standard = op_standard_of(&terms->run.site->trace->header);
    op_arbiter a = {0};
    op_operand recorded;
    double ratio;
    out->evidence.as_read_fits = output_fits(y, out->check.record);
    if (out->evidence.as_read_fits || standard.is_bits || !recorded_row(out, y, &recorded)) {
        return GRETA_OK;
    }
    GRETA_TRY(op_arbiter_open(c, &terms->plan->contract, &a, err));
    greta_status status = op_arbiter_ratio(&a, standard.of, &recorded, &ratio, err);
    out->evidence.as_read_fits = status == GRETA_OK && ratio <= 1;
    op_arbiter_close(&a);
    return status;
}

/* The op on what it did read. */
static greta_status try_as_read(const audit_terms *terms, int32_t i, const op_case *healthy,
                                op_audit *out, greta_error *err)
{
    const op_expected *e = &terms->plan->expected[i];
    as_read r = {.changed = *healthy};
    char missing[OP_MISSING_MAX];
    op_output y = {0};
    size_t n = healthy->n_key > 0 ? (size_t)healthy->n_key : 1;
    r.row[0] = malloc(n * sizeof(void *));
    r.row[1] = malloc(n * sizeof(void *));
    greta_status status =
        r.row[0] && r.row[1] ? GRETA_OK : error_memory(err, "cache rows", 2 * n * sizeof(void *));
    if (status == GRETA_OK && as_read_fill(terms, e, &out->check, &r) &&
        op_case_check(&r.changed, missing)) {
        status = op_output_new(&r.changed, &y, err);
        if (status == GRETA_OK) {
            status = op_replay(op_replay_table(out->check.record->kernel), &r.changed, &y, err);
        }
        out->evidence.has_as_read = status == GRETA_OK;
        status = status == GRETA_OK ? case_fits(terms, &r.changed, &y, out, err) : status;
        op_output_free(&y);
    }
    free(r.row[0]);
    free(r.row[1]);
    return status;
}

/* Every hypothesis about the op, each a change of the healthy case, against the recorded row. */
static greta_status try_hypotheses(const audit_terms *terms, int32_t i, const op_case *c,
                                   op_audit *out, greta_error *err)
{
    row_finder finder = {terms, &terms->plan->expected[i]};
    op_rows rows = {row_find, &finder};
    op_place at = place_of(terms, i);
    op_around around = {.at = &at, .rows = &rows};
    op_operand recorded;
    if (!operand_of(&out->check.record->out[0], &recorded)) {
        return GRETA_OK;
    }
    op_trial_terms trial = {.recorded_by = out->check.record->kernel,
                            .recorded = &recorded,
                            .contract = out->evidence.is_bounded ? &terms->plan->contract : NULL};
    return op_try(c, &around, &trial, &out->evidence.item, &out->evidence.n, err);
}

/* Who is wrong, by binary64 from the stored weights, inside the run's own contract: the recorded
 * row, or the definition? */
static greta_status arbitrate(const op_audit *audit, op_arbiter *a, bound_class of, op_evidence *e,
                              greta_error *err)
{
    const op_output *y = &audit->healthy;
    const op_operand healthy = {y->type, y->n, y->values};
    op_operand recorded;
    GRETA_TRY(op_arbiter_ratio(a, BOUND_SOUND, &healthy, &e->f64_ratio, err));
    e->f64_agrees = e->f64_ratio <= 1;
    return recorded_row(audit, y, &recorded)
               ? op_arbiter_ratio(a, of, &recorded, &e->f64_ratio_recorded, err)
               : GRETA_OK;
}

static bool is_of_definition(const char *kernel)
{
    return kernel && strncmp(kernel, "ref", 3) == 0;
}

/* Held to the bits of the definition. */
static greta_status judge_bits(const audit_terms *terms, const op_case *c, op_audit *out,
                               greta_error *err)
{
    op_evidence *e = &out->evidence;
    op_arbiter a = {0};
    e->healthy_fits = output_fits(&out->healthy, out->check.record);
    if (e->healthy_fits && (terms->is_arbitrated || !is_of_definition(out->check.record->kernel))) {
        return GRETA_OK;
    }
    GRETA_TRY(op_arbiter_open(c, &terms->plan->contract, &a, err)); /* its other build may share a
                                                                       fault of the definition */
    greta_status status = arbitrate(out, &a, BOUND_SOUND, e, err);
    op_arbiter_close(&a);
    return status;
}

/* Held to the bounds of the class that the trace claims; where it claims none, a policy may
 * explain what the bounds of rounding do not. */
static greta_status judge_bounds(const audit_terms *terms, const op_standard *standard,
                                 const op_case *c, op_audit *out, greta_error *err)
{
    op_evidence *e = &out->evidence;
    op_arbiter a = {0};
    op_operand recorded;
    e->is_bounded = true;
    e->is_declared = standard->is_declared;
    if (!recorded_row(out, &out->healthy, &recorded)) {
        e->healthy_fits = output_fits(&out->healthy, out->check.record);
        if (!e->healthy_fits) {
            missing_set(e, "row of its own, with all values");
        }
        return GRETA_OK;
    }
    GRETA_TRY(op_arbiter_open(c, &terms->plan->contract, &a, err));
    greta_status status = arbitrate(out, &a, standard->of, e, err);
    e->healthy_fits = status == GRETA_OK && e->f64_ratio_recorded <= 1;
    e->within = e->healthy_fits ? bound_class_name(standard->of) : NULL;
    if (status == GRETA_OK && !e->healthy_fits && !standard->is_declared) {
        status = op_arbiter_policy(&a, &recorded, &e->within, err);
    }
    op_arbiter_close(&a);
    return status;
}

static greta_status case_replay(const audit_terms *terms, int32_t i, const op_case *c,
                                op_audit *out, greta_error *err)
{
    const op_standard standard = op_standard_of(&terms->run.site->trace->header);
    op_evidence *e = &out->evidence;
    char missing[OP_MISSING_MAX];
    const kernel_table *table = op_replay_table(out->check.record->kernel);
    if (!op_case_check(c, missing)) {
        missing_set(e, missing);
        return GRETA_OK;
    }
    e->is_measured = true;
    snprintf(e->kernel, sizeof e->kernel, "%s", table->name);
    GRETA_TRY(op_output_new(c, &out->healthy, err));
    GRETA_TRY(op_replay(table, c, &out->healthy, err));
    GRETA_TRY(standard.is_bits ? judge_bits(terms, c, out, err)
                               : judge_bounds(terms, &standard, c, out, err));
    if (!e->is_measured || terms->is_trial) {
        return GRETA_OK;
    }
    if (op_check_is_broken(&out->check)) {
        GRETA_TRY(try_as_read(terms, i, c, out, err));
    }
    return e->healthy_fits || e->has_as_read ? GRETA_OK : try_hypotheses(terms, i, c, out, err);
}

static bool same_tensors(const trace_tensor *a, const trace_tensor *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!hash_equal(a[i].hash, b[i].hash)) {
            return false;
        }
    }
    return true;
}

/* Whether two records of one op hold the same operands, weights and outputs, all intact. */
static bool is_twin(const op_check *a, const op_check *b)
{
    const trace_record *x = a->record, *y = b->record;
    bool is_whole = x && y && x->n_in == y->n_in && x->n_weight == y->n_weight &&
                    strcmp(x->kernel ? x->kernel : "", y->kernel ? y->kernel : "") == 0;
    if (!is_whole || op_check_is_broken(a) || op_check_is_broken(b)) {
        return false;
    }
    for (int32_t i = 0; i < a->n_in; i++) {
        if (a->in[i].state != READ_INTACT || b->in[i].state != READ_INTACT) {
            return false;
        }
    }
    return x->position == y->position && x->token == y->token &&
           same_tensors(x->in, y->in, x->n_in) && same_tensors(x->weight, y->weight, x->n_weight) &&
           hash_equal(x->out[0].hash, y->out[0].hash);
}

static greta_status twin_copy(const op_audit *twin, op_audit *out, greta_error *err)
{
    out->evidence = twin->evidence;
    out->evidence.item = NULL;
    out->evidence.n = 0;
    if (!twin->healthy.values) {
        return GRETA_OK;
    }
    out->healthy = twin->healthy;
    out->healthy.values = aligned_alloc(64, (twin->healthy.bytes + 63) / 64 * 64 + 64);
    if (!out->healthy.values) {
        return error_memory(err, "a row", twin->healthy.bytes);
    }
    memcpy(out->healthy.values, twin->healthy.values, twin->healthy.bytes);
    return GRETA_OK;
}

static greta_status audit_op(const audit_terms *terms, int32_t i, op_audit *out, greta_error *err)
{
    op_case c;
    op_check_reads(&terms->run, &terms->plan->expected[i], &out->check);
    out->evidence = (op_evidence){.f64_agrees = true, .f64_ratio = NAN, .f64_ratio_recorded = NAN};
    if (!out->check.record) {
        missing_set(&out->evidence, "record");
        return GRETA_OK;
    }
    const op_audit *twin = terms->twin ? &terms->twin[i] : NULL;
    if (twin && twin->evidence.healthy_fits && is_twin(&out->check, &twin->check)) {
        return twin_copy(twin, out, err);
    }
    GRETA_TRY(op_audit_case(terms, i, &c, err));
    greta_status status = case_replay(terms, i, &c, out, err);
    op_case_free(&c);
    return status;
}

greta_status op_audit_run(const audit_terms *terms, op_audit **out, greta_error *err)
{
    int32_t n = terms->plan->list.n_op;
    *out = calloc((size_t)n, sizeof **out);
    if (!*out) {
        return error_memory(err, "the audit", (uint64_t)n * sizeof **out);
    }
    for (int32_t i = 0; i < n; i++) {
        if (terms->is_trial && i != terms->trial_op) {
            continue;
        }
        greta_status status = audit_op(terms, i, &(*out)[i], err);
        if (status != GRETA_OK) {
            op_audits_free(*out, n);
            *out = NULL;
            return status;
        }
    }
    return GRETA_OK;
}

void op_audits_free(op_audit *list, int32_t n)
{
    for (int32_t i = 0; list && i < n; i++) {
        free(list[i].evidence.item);
        op_output_free(&list[i].healthy);
    }
    free(list);
}
