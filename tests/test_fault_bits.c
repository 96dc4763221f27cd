/* test_fault_bits.c - every kind of fault, planted in tiny models of every weight type and
 * architecture: what it changes, bit by bit, and what it does not.
 *
 * Two sequences go through passes that reach every trigger: two prefill passes each, decode of
 * both and of one, a prefill over positions that were dropped (a warm cache), decode of one of
 * those. Every row that every op wrote is captured in the healthy and in the planted run. Which
 * rows the fault names is worked out here from the passes, apart from the engine. It must hold:
 *
 *     ops before the planted one      not a bit differs, in any pass
 *     the planted op                  differs first; only in rows that the fault names
 *     later ops                       only in rows at or after a named row of the sequence
 *
 * A plant that changes no bit of any op in any row is an equivalent mutant of that model: it is
 * counted apart, and the comparison is the proof. A kind must change bits in some model.
 *
 *     test_fault_bits          each kind in models taken in turn until two were changed
 *     test_fault_bits all      each kind in every model, at every op of a layer that can carry it
 *     test_fault_bits MODEL    each kind in this model; may be one that changes no bit there
 */
#include "engine/session.h"
#include "fault/fault.h"
#include "stage_bits.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { N_CTX = 80, N_CHUNK = 48, WARM_FROM = 60, MODELS_MAX = 64 };

enum { EFFECTIVE = 1 }; /* models that a kind must have changed, unless all are asked for */

/* One pass: rows of sequence 1 and of sequence 0, each from where it stands. */
typedef struct step {
    greta_phase phase;
    int32_t n[2];
    int32_t drop_to; /* sequence 0 before the pass; 0: not at all */
} step;

static const step steps[] = {
    {GRETA_PHASE_PREFILL, {0, 37}, 0},        {GRETA_PHASE_PREFILL, {0, 36}, 0},
    {GRETA_PHASE_PREFILL, {33, 0}, 0},        {GRETA_PHASE_PREFILL, {36, 2}, 0},
    {GRETA_PHASE_DECODE, {1, 1}, 0},          {GRETA_PHASE_DECODE, {1, 0}, 0},
    {GRETA_PHASE_PREFILL, {7, 0}, WARM_FROM}, {GRETA_PHASE_DECODE, {1, 0}, 0},
};
#define STEPS (sizeof steps / sizeof *steps)

/* What a trigger can ask of a row. */
typedef struct row_facts {
    greta_phase phase;
    int32_t position, sequence, row, n_row;
    bool is_warm, is_later_chunk, has_next, has_before, has_previous_pass;
    bool is_named; /* by the fault under test */
} row_facts;

enum { ROWS_MAX = 256 };
static row_facts facts[ROWS_MAX];
static int32_t first_row[STEPS + 1]; /* of a pass in facts */

typedef struct subject {
    char name[160];
    greta_model *model;
    greta_session *session;
    greta_capture *healthy;
    op_list list;   /* a copy of the healthy list */
    int32_t *op_at; /* (n_layer + 1, STAGE_COUNT) index of the op */
} subject;

static subject subjects[MODELS_MAX];
static size_t n_subject;
static bool is_all;
static const char *model_path; /* NULL: tiny models */

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

/* ---- The passes ------------------------------------------------------------------------------ */

static int32_t token_at(int32_t sequence, int32_t position, bool is_warm, int32_t n_vocab)
{
    return (int32_t)((position * 37 + sequence * 11 + is_warm * 5 + 3) % n_vocab);
}

/* Rows of a pass; also fills facts. */
static size_t pass_rows(size_t p, int32_t at[2], int32_t n_vocab, greta_row *row)
{
    static const int order[2] = {1, 0};
    size_t n = 0;
    int32_t total = steps[p].n[0] + steps[p].n[1];
    bool is_warm = p + 2 >= STEPS;
    for (int k = 0; k < 2; k++) {
        int32_t q = order[k], from = at[q];
        for (int32_t i = 0; i < steps[p].n[q]; i++, n++, at[q]++) {
            row[n] = (greta_row){token_at(q, at[q], is_warm && q == 0, n_vocab), at[q], q,
                                 i + 2 >= steps[p].n[q]};
            facts[first_row[p] + (int32_t)n] =
                (row_facts){.phase = steps[p].phase,
                            .position = at[q],
                            .sequence = q,
                            .row = (int32_t)n,
                            .n_row = total,
                            .is_warm = is_warm && at[q] < 71 && q == 0,
                            .is_later_chunk = from > 0,
                            .has_next = i + 1 < steps[p].n[q],
                            .has_before = n > 0,
                            .has_previous_pass = p > 0};
        }
    }
    first_row[p + 1] = first_row[p] + (int32_t)n;
    return n;
}

static void passes_run(greta_session *s, int32_t n_vocab)
{
    greta_error err = {0};
    greta_row row[N_CHUNK];
    int32_t at[2] = {0, 0};
    check(greta_session_drop(s, 0, 0, &err), &err);
    check(greta_session_drop(s, 1, 0, &err), &err);
    for (size_t p = 0; p < STEPS; p++) {
        if (steps[p].drop_to > 0) {
            check(greta_session_drop(s, 0, steps[p].drop_to, &err), &err);
            at[0] = steps[p].drop_to;
        }
        greta_batch batch = {row, pass_rows(p, at, n_vocab, row), steps[p].phase};
        check(greta_session_eval(s, &batch, &err), &err);
    }
}

static greta_session *session_open(greta_model *model, size_t i)
{
    greta_error err = {0};
    greta_session *s = NULL;
    greta_session_options o = {.size = sizeof o,
                               .n_ctx = N_CTX,
                               .n_sequence = 2,
                               .n_chunk = N_CHUNK,
                               .n_thread = 1 + (int32_t)(i % 3),
                               .kv = i % 4 == 3 ? GRETA_KV_F32 : GRETA_KV_F16,
                               .act = i % 5 == 4 ? GRETA_ACT_F32 : GRETA_ACT_Q8};
    check(greta_session_new(model, &o, &s, &err), &err);
    return s;
}

/* A session's cache remembers that it was written: every run has a session of its own. */
static greta_capture *run(const subject *u, const session_override *override)
{
    greta_error err = {0};
    greta_capture *c = NULL;
    greta_session *s = session_open(u->model, (size_t)(u - subjects));
    if (override) {
        check(session_override_set(s, override, &err), &err);
    }
    check(greta_capture_begin(s, NULL, &err), &err);
    passes_run(s, session_model(s)->cfg.n_vocab);
    check(greta_capture_end(s, &c, &err), &err);
    greta_session_free(s);
    return c;
}

static void subject_open(const char *name, const char *options)
{
    greta_error err = {0};
    char path[TINY_PATH];
    subject *u = &subjects[n_subject];
    snprintf(u->name, sizeof u->name, "%s", name);
    if (options) {
        assert_true(tiny_model("faults", options, path));
    } else {
        snprintf(path, sizeof path, "%s", name);
    }
    check(greta_model_open(path, &u->model, &err), &err);
    if (options) {
        remove(path);
    }
    u->session = session_open(u->model, n_subject++);
    const op_list *list = session_ops(u->session, GRETA_PHASE_PREFILL);
    check(op_list_copy(list, &u->list, &err), &err);
    int32_t n_layer = session_model(u->session)->cfg.n_layer;
    u->op_at = calloc((size_t)(n_layer + 1) * STAGE_COUNT, sizeof *u->op_at);
    assert_non_null(u->op_at);
    for (int32_t i = 0; i < list->n_op; i++) {
        u->op_at[(list->op[i].layer + 1) * STAGE_COUNT + (int32_t)list->op[i].name] = i;
    }
    u->healthy = run(u, NULL);
}

static int subjects_open(void **state)
{
    char options[160];
    (void)state;
    if (model_path) {
        subject_open(model_path, NULL);
        return 0;
    }
    for (size_t i = 0; i < BITS_MODELS + BITS_ARCHS; i++) {
        const bits_model *m = i < BITS_MODELS ? &bits_models[i] : &bits_archs[i - BITS_MODELS];
        snprintf(options, sizeof options, "--type %s %s", m->type, m->extras);
        subject_open(options, options);
    }
    return 0;
}

static int subjects_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_subject; i++) {
        greta_capture_free(subjects[i].healthy);
        op_list_free(&subjects[i].list);
        free(subjects[i].op_at);
        greta_session_free(subjects[i].session);
        greta_model_release(subjects[i].model);
    }
    return 0;
}

/* ---- Which rows a fault names ---------------------------------------------------------------- */

static bool trigger_names(const op_trigger *g, const row_facts *f)
{
    bool is_phase = g->phases == 0 || (g->phases >> (int)f->phase & 1u) != 0;
    bool is_tail = g->tail_of == 0 || f->row >= f->n_row / g->tail_of * g->tail_of;
    bool is_length = g->length_of == 0 || (f->n_row - g->length_rest) % g->length_of == 0;
    return is_phase && f->position >= g->position_min && f->row >= g->row_min && is_tail &&
           is_length && (f->is_warm || !g->is_warm) && (f->is_later_chunk || !g->is_later_chunk) &&
           (f->has_next || !g->has_next);
}

/* A row that a shifted read leaves the pass for runs the healthy op. */
static bool reads_name(const op_list *list, const op *o, const row_facts *f)
{
    bool names = true;
    for (int i = 0; i < OP_IN_MAX; i++) {
        const op_read *read = &o->in[i];
        if (read->edge < 0 || read->row == 0) {
            continue;
        }
        if (read->delay == READ_PREVIOUS_PASS) {
            names = names && f->has_previous_pass;
        } else if (list->edge[read->edge].is_cache) {
            names = names && f->sequence + read->row >= 0 && f->sequence + read->row < 2;
        } else {
            names = names && f->row + read->row >= 0 && f->row + read->row < f->n_row;
        }
    }
    return names;
}

static void facts_name(const fault_planted *p, int32_t which, uint32_t phases)
{
    const op *o = &p->list.op[p->op[which]];
    const op_trigger always = {0}, *g = o->trigger ? &p->trigger[o->trigger - 1] : &always;
    for (int32_t i = 0; i < first_row[STEPS]; i++) {
        facts[i].is_named = (phases >> (int)facts[i].phase & 1u) != 0 &&
                            trigger_names(g, &facts[i]) && reads_name(&p->list, o, &facts[i]);
    }
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static int32_t op_of(const subject *u, const greta_captured *row)
{
    return u->op_at[(row->layer + 1) * STAGE_COUNT + (int32_t)stage_find(row->stage)];
}

static const row_facts *facts_of(const greta_captured *row)
{
    for (int32_t i = first_row[row->pass]; i < first_row[row->pass + 1]; i++) {
        if (facts[i].position == row->position && facts[i].sequence == row->sequence) {
            return &facts[i];
        }
    }
    fail_msg("no such row");
    return NULL;
}

/* Some row of the sequence up to this one, in this pass or an earlier one, was named. Of a warm
 * cache the positions after a drop are new ones. */
static bool is_downstream(const row_facts *f)
{
    for (const row_facts *at = facts; at < facts + ROWS_MAX && at <= f; at++) {
        if (at->is_named && at->sequence == f->sequence && at->position <= f->position) {
            return true;
        }
    }
    return false;
}

typedef struct outcome {
    size_t n_row, n_differ, n_at_op;
} outcome;

static outcome compare(const subject *u, const greta_capture *healthy, const greta_capture *faulty,
                       int32_t planted, const char *what)
{
    outcome out = {greta_capture_count(healthy), 0, 0};
    assert_int_equal(greta_capture_count(faulty), out.n_row);
    for (size_t i = 0; i < out.n_row; i++) {
        greta_captured a, b;
        assert_true(greta_capture_row(healthy, i, &a) && greta_capture_row(faulty, i, &b));
        assert_true(a.pass == b.pass && a.position == b.position && a.layer == b.layer);
        if (a.hash == b.hash && a.bag == b.bag && a.n_nonfinite == b.n_nonfinite) {
            continue;
        }
        int32_t at = op_of(u, &a);
        const row_facts *f = facts_of(&a);
        if (at < planted || (out.n_differ == 0 && at != planted) ||
            !(at == planted ? f->is_named : is_downstream(f))) {
            fail_msg("%s, %s: %s of layer %d differs at position %d of sequence %d (pass %d)", what,
                     u->name, a.stage, (int)a.layer, (int)a.position, (int)a.sequence, (int)a.pass);
        }
        out.n_differ++;
        out.n_at_op += at == planted;
    }
    return out;
}

/* ---- Planting -------------------------------------------------------------------------------- */

static bool is_delayed(const fault_planted *p)
{
    bool found = false;
    for (int32_t i = 0; i < p->list.n_op; i++) {
        for (int k = 0; k < OP_IN_MAX; k++) {
            found |= p->list.op[i].in[k].delay == READ_PREVIOUS_PASS;
        }
    }
    return found;
}

static session_override override_of(const fault_planted *p)
{
    uint32_t decode = 1u << GRETA_PHASE_DECODE, prefill = 1u << GRETA_PHASE_PREFILL;
    return (session_override){.list = &p->list,
                              .table = p->table,
                              .phases = is_delayed(p) ? decode : decode | prefill,
                              .trigger = p->trigger,
                              .cos_sin = p->cos_sin};
}

static rope_table_args angles[2];

static fault_site site_of(const subject *u, const fault_kind *kind)
{
    int32_t n_layer = session_model(u->session)->cfg.n_layer;
    angles[0] = session_angles(u->session, 0);
    angles[1] = session_angles(u->session, 1);
    return (fault_site){.kind = kind,
                        .list = &u->list,
                        .table = kernel_find(greta_session_describe(u->session).cpu),
                        .angles = angles,
                        .stage = STAGE_NONE,
                        .layer = n_layer / 2 < kind->layer_min ? kind->layer_min : n_layer / 2,
                        .previous_row = -1};
}

/* What became of a kind over all models. */
typedef struct tally {
    size_t n_changed, n_equivalent, n_refused;
} tally;

static void plant_at(const subject *u, const fault_site *site, tally *t)
{
    greta_error err = {0};
    fault_planted *p = NULL;
    char what[160];
    if (fault_plant(site, &p, &err) != GRETA_OK) {
        assert_int_equal(err.code, GRETA_USAGE);
        assert_string_equal(err.subject, site->kind->name);
        t->n_refused++;
        return;
    }
    session_override override = override_of(p);
    snprintf(what, sizeof what, "%s at %s", site->kind->name,
             stage_name(p->list.op[p->op[0]].name));
    greta_capture *faulty = run(u, &override);
    facts_name(p, 0, override.phases);
    outcome o = compare(u, u->healthy, faulty, p->op[0], what);
    greta_capture_free(faulty);
    fault_planted_free(p);
    t->n_changed += o.n_differ > 0;
    t->n_equivalent += o.n_differ == 0;
}

/* At every op of the layer, and of no layer, that can carry the kind. */
static void plant_everywhere(const subject *u, const fault_kind *kind, tally *t)
{
    fault_site site = site_of(u, kind);
    for (int32_t i = 0; i < u->list.n_op; i++) {
        const op *o = &u->list.op[i];
        if ((o->layer == site.layer || o->layer < 0) && fault_where_is(kind->where, &u->list, o)) {
            site.stage = o->name;
            plant_at(u, &site, t);
        }
    }
}

static void every_kind_differs_first_where_it_is_planted(void **state)
{
    size_t n, n_kind_model = 0, n_idle = 0;
    const fault_kind *kind = fault_kinds(&n);
    (void)state;
    for (size_t k = 0; k < n; k++) {
        tally t = {0};
        for (size_t i = 0; i < n_subject && (is_all || t.n_changed < EFFECTIVE); i++) {
            const subject *u = &subjects[(k * 5 + i) % n_subject]; /* all of them, in turn */
            if (kind[k].where == WHERE_TOKENS) {
                continue;
            }
            if (is_all) {
                plant_everywhere(u, &kind[k], &t);
            } else {
                fault_site site = site_of(u, &kind[k]);
                plant_at(u, &site, &t);
            }
        }
        print_message("%-38s changed %zu, equivalent %zu, cannot carry it %zu\n", kind[k].name,
                      t.n_changed, t.n_equivalent, t.n_refused);
        n_kind_model += t.n_changed;
        bool can_be_seen = kind[k].where != WHERE_TOKENS && kind[k].trigger.position_min < N_CTX;
        n_idle += can_be_seen ? t.n_changed == 0 : t.n_changed != 0;
    }
    print_message("%zu kinds, %zu plants that changed bits\n", n, n_kind_model);
    assert_true(model_path || n_idle == 0);
}

/* ---- Triggers -------------------------------------------------------------------------------- */

/* What the planted op reads is healthy in any case, so each of its rows is that of the run with the
 * fault in all rows, or the healthy one. */
static void rows_are_named_exactly(const subject *u, const fault_site *site)
{
    greta_error err = {0};
    fault_planted *p = NULL;
    fault_site always = *site;
    always.trigger = (op_trigger){0};
    check(fault_plant(&always, &p, &err), &err);
    session_override override = override_of(p);
    greta_capture *all = run(u, &override);
    fault_planted_free(p);
    check(fault_plant(site, &p, &err), &err);
    override = override_of(p);
    greta_capture *some = run(u, &override);
    facts_name(p, 0, override.phases);
    for (size_t i = 0; i < greta_capture_count(some); i++) {
        greta_captured row, expected;
        assert_true(greta_capture_row(some, i, &row));
        const greta_capture *source = facts_of(&row)->is_named ? all : u->healthy;
        assert_true(greta_capture_row(source, i, &expected));
        if (op_of(u, &row) == p->op[0] && row.hash != expected.hash) {
            fail_msg("%s: position %d of sequence %d, pass %d", site->kind->name, (int)row.position,
                     (int)row.sequence, (int)row.pass);
        }
    }
    greta_capture_free(all);
    greta_capture_free(some);
    fault_planted_free(p);
}

static void a_trigger_spares_all_other_rows(void **state)
{
    static const char *const kinds[] = {
        "residual-twice", "matmul-last-block-skipped", "attention-scale-1", "kv-store-8-bits",
        "rope-backwards", "activation-relu",           "reads-row-before",  "norm-missing"};
    size_t n, n_fired = 0;
    const fault_trigger *trigger = fault_triggers(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        tally t = {0};
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            const subject *u = &subjects[(i * 3 + k * 5) % n_subject];
            fault_site site = site_of(u, fault_find(kinds[k]));
            assert_non_null(site.kind);
            site.trigger = trigger[i].rows;
            size_t n_refused = t.n_refused;
            plant_at(u, &site, &t);
            if (t.n_refused == n_refused) {
                rows_are_named_exactly(u, &site);
            }
        }
        bool never = trigger[i].rows.position_min > N_CTX;
        assert_true(never ? t.n_changed == 0 : t.n_changed >= 4);
        n_fired += !never;
    }
    assert_int_equal(n_fired, n - 1);
}

/* ---- Stacked --------------------------------------------------------------------------------- */

/* Two faults: against the healthy run the first op differs first, against the run with the first
 * fault only the second. */
static void stacked_faults_are_both_there(void **state)
{
    static const char *const pairs[][2] = {
        {"residual-twice/x_after_attn", "rope-position-plus-1/k_rope:1"},
        {"attention-scale-1:0@from-position-8", "activation-gelu-quick:1@later-chunk"},
        {"ffn_norm-eps-times-10:0", "ffn_norm-weight-plus-1/attn_norm:1"},
        {"weights-rows-reversed:0", "head-zero"},
        {"rope-base-500000/q_rope:0", "rope-base-500000/k_rope:0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const subject *u = &subjects[i * 3 % n_subject];
        greta_error err = {0};
        greta_capture *captured[2];
        fault_planted *p = NULL;
        char text[200];
        fault_order order;
        snprintf(text, sizeof text, "%s+%s", pairs[i][0], pairs[i][1]);
        check(fault_order_parse(text, &order, &err), &err);
        assert_int_equal(order.n, 2);
        for (int k = 0; k < 2; k++) {
            fault_site site = site_of(u, order.part[k].kind);
            site.stage = order.part[k].stage;
            site.trigger = order.part[k].trigger;
            site.layer = order.part[k].layer >= 0 ? order.part[k].layer : 0;
            check(k ? fault_plant_add(&site, p, &err) : fault_plant(&site, &p, &err), &err);
            session_override override = override_of(p);
            captured[k] = run(u, &override);
            facts_name(p, k, override.phases);
            outcome o = compare(u, k ? captured[0] : u->healthy, captured[k], p->op[k], text);
            assert_true(o.n_at_op > 0);
        }
        greta_capture_free(captured[0]);
        greta_capture_free(captured[1]);
        fault_planted_free(p);
    }
}

static void a_race_does_not_repeat(void **state)
{
    const subject *u = &subjects[0];
    greta_error err = {0};
    fault_planted *p;
    fault_site site = site_of(u, fault_find("matmul-racing"));
    (void)state;
    assert_true(site.kind->is_random);
    check(fault_plant(&site, &p, &err), &err);
    session_override override = override_of(p);
    greta_capture *one = run(u, &override), *two = run(u, &override);
    facts_name(p, 0, override.phases);
    assert_true(compare(u, one, two, p->op[0], "a race").n_at_op > 0);
    greta_capture_free(one);
    greta_capture_free(two);
    fault_planted_free(p);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_differs_first_where_it_is_planted),
        cmocka_unit_test(a_trigger_spares_all_other_rows),
        cmocka_unit_test(stacked_faults_are_both_there),
        cmocka_unit_test(a_race_does_not_repeat),
    };
    is_all = argc > 1 && strcmp(argv[1], "all") == 0; /* in `make check-long` */
    model_path = argc > 1 && !is_all ? argv[1] : NULL;
    if (model_path) {
        const struct CMUnitTest every[] = {
            cmocka_unit_test(every_kind_differs_first_where_it_is_planted),
        };
        return cmocka_run_group_tests_name("fault_bits", every, subjects_open, subjects_close);
    }
    return cmocka_run_group_tests_name("fault_bits", tests, subjects_open, subjects_close);
}
