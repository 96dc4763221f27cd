/* test_catalogue.c - every fault of the catalogue, planted in tiny models of every architecture and
 * judged by the steps of `greta isolate`: the place, the cause, and how sure.
 *
 * A case is a kind of fault at a stage that can carry it, in a layer drawn by a seed. It is planted
 * in decode, against the healthy prefill of the same token; where that changes no bit and the kind
 * waits for rows of a prefill, once more in the prefill, against a healthy one, judged as
 * `greta compare` does. What is asked:
 *
 *     place       one op is accused, the planted one, of the planted run
 *     cause       the bucket of the catalogue
 *     confirmed   CONFIRMED; then the patch removes all that differs behind it
 *     wrong       CONFIRMED at another place, or with another cause: never
 *
 * A plant that changes no bit is an equivalent mutant, counted apart. The referee sees traces and
 * the model; the catalogue it never sees. Weights, prompts and layers come in two halves: rules are
 * tuned on `tune`, and `held` is what is told.
 *
 *     test_catalogue               every n-th case of the held half; pairs of faults
 *     test_catalogue tune | held   every case of a half
 *     test_catalogue MODEL N       N cases of every cause in this model
 */
#include "base/file.h"
#include "explain/pair.h"
#include "fault/edit.h"
#include "fault/wrong_matmul.h"
#include "plant_bench.h"
#include "tiny_model.h"
#include "verdict/op_sites.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { N_CTX = 300, N_TOKEN = 280 };

#ifdef __SANITIZE_ADDRESS__
enum { STEP = 331 }; /* of a sample every STEP-th case: sanitizers take their time */
#else
enum { STEP = 23 };
#endif

typedef struct half {
    const char *name;
    uint32_t seed;          /* of weights, tokens and layers */
    size_t n_short, n_long; /* tokens of the prompts */
} half;

static const half halves[] = {{"tune", 1, 75, 263}, {"held", 2, 83, 271}};

/* Every architecture, types with and without minima, super-blocks, float types with odd widths, and
 * rows longer than a segment. */
static const struct {
    const char *name, *options;
} models[] = {
    {"llama-f32", "--type F32 --layers 3 --vocab 301 --heads 6 --heads-kv 3"},
    {"llama-q8_0", "--type Q8_0 --layers 4 --vocab 301 --ff 1120 --rope-factors"},
    {"llama-q5_k", "--type Q5_K --layers 2 --bias --untied --heads 8 --heads-kv 2 --head-dim 32"},
    {"llama-experts", "--type Q8_0 --layers 3 --experts 5 --experts-used 3"},
    {"qwen2", "--arch qwen2 --type Q4_0 --layers 4 --rope-scaling yarn"},
    {"qwen3", "--arch qwen3 --type F16 --layers 3 --untied"},
    {"qwen3moe", "--arch qwen3moe --type Q4_K --ff 256 --layers 3"},
    {"gemma2", "--arch gemma2 --type Q5_1 --layers 4"},
    {"gemma3", "--arch gemma3 --type Q4_1 --layers 7 --rope-scaling linear"},
    {"phi3", "--arch phi3 --type Q6_K --layers 3 --ctx-original 40"},
};
#define MODELS (sizeof models / sizeof *models)

/* ---- Subjects -------------------------------------------------------------------------------- */

/* A model with its prompts, each prefilled once. */
typedef struct subject {
    const char *name;
    greta_model *model;
    plant_bench bench[2]; /* the short prompt; the long one, opened where it is asked for */
    bool is_open[2];
    op_list list; /* healthy */
} subject;

static const half *chosen = &halves[1];
static const char *model_path; /* NULL: tiny models */
static long wanted;            /* of each cause, in a given model */
static bool is_sample = true;
static int32_t tokens[2][N_TOKEN];

static void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

static uint32_t draw(uint32_t *random)
{
    *random = *random * 1664525u + 1013904223u;
    return *random >> 8;
}

static const char *folder(void)
{
    static char path[TINY_PATH];
    const char *tmp = getenv("GRETA_TMP");
    snprintf(path, sizeof path, "%s/catalogue-%d", tmp ? tmp : "/tmp", (int)getpid());
    return path;
}

static size_t prompt_length(int which)
{
    return which == 0 ? chosen->n_short : chosen->n_long;
}

/* Sequence 1 holds other tokens: what a read of it would find. */
static void neighbour_fill(greta_session *s, size_t n)
{
    greta_error err = {0};
    greta_row row = {0};
    greta_batch batch = {&row, 1, GRETA_PHASE_PREFILL};
    for (size_t i = 0; i < n; i++) {
        row = (greta_row){tokens[1][i], (int32_t)i, 1, 0};
        check(greta_session_eval(s, &batch, &err), &err);
    }
}

static plant_bench *bench_of(subject *u, int which)
{
    plant_bench *b = &u->bench[which];
    if (!u->is_open[which]) {
        greta_error err = {0};
        greta_isolate_options o = {.size = sizeof o,
                                   .session = {.size = sizeof(greta_session_options),
                                               .n_thread = 1,
                                               .n_ctx = N_CTX,
                                               .n_sequence = 2},
                                   .out = folder(),
                                   .fault_layer = -1,
                                   .overwrite = 1};
        greta_prompt prompt = {which ? "long" : "short", tokens[0], prompt_length(which)};
        check(folder_make(o.out, &err), &err);
        check(bench_open(b, u->model, &prompt, &o, &err), &err);
        b->run.options = &b->options;
        neighbour_fill(b->session, prompt.n);
        u->is_open[which] = true;
    }
    return b;
}

static void subject_open(subject *u, const char *name, const char *path)
{
    greta_error err = {0};
    *u = (subject){.name = name};
    check(greta_model_open(path, &u->model, &err), &err);
    uint32_t random = 77 * chosen->seed;
    int32_t n_vocab = greta_model_describe(u->model).n_vocab;
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < N_TOKEN; k++) {
            tokens[i][k] = (int32_t)(draw(&random) % (uint32_t)n_vocab);
        }
    }
    plant_bench *b = bench_of(u, 0);
    check(op_list_copy(session_ops(b->session, GRETA_PHASE_PREFILL), &u->list, &err), &err);
}

static void subject_close(subject *u)
{
    for (int i = 0; i < 2; i++) {
        if (u->is_open[i]) {
            bench_close(&u->bench[i]);
        }
    }
    op_list_free(&u->list);
    greta_model_release(u->model);
}

/* The i-th tiny model. */
static void subject_make(subject *u, size_t i)
{
    char path[TINY_PATH], options[200];
    snprintf(options, sizeof options, "%s --ctx 512 --seed %u", models[i].options,
             (unsigned)(chosen->seed * 100 + i));
    assert_true(tiny_model("catalogue", options, path));
    subject_open(u, models[i].name, path);
    remove(path);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

typedef enum outcome {
    OUTCOME_REFUSED,     /* the op cannot carry it */
    OUTCOME_EQUIVALENT,  /* no bit differs */
    OUTCOME_NAMED,       /* place, cause, CONFIRMED */
    OUTCOME_SUSPECTED,   /* the place; SUSPECTED, the planted cause among those that fit */
    OUTCOME_UNEXPLAINED, /* the place; no cause */
    OUTCOME_OTHER_CAUSE, /* the place; another cause, SUSPECTED */
    OUTCOME_ELSEWHERE,   /* another place, or several; not CONFIRMED */
    OUTCOME_WRONG,       /* CONFIRMED, and not what was planted */
    OUTCOME_COUNT
} outcome;

static const char *const outcome_names[OUTCOME_COUNT] = {"refused",   "equivalent",  "named",
                                                         "suspected", "unexplained", "other cause",
                                                         "elsewhere", "wrong"};

typedef struct plant_case {
    const fault_kind *kind;
    stage name;
    int32_t layer;
} plant_case;

typedef struct tally {
    size_t n[CAUSE_COUNT][OUTCOME_COUNT];
    size_t n_pair; /* planted in a prefill, of all */
} tally;

static void tell(const subject *u, const plant_case *p, outcome what, const op_line *line)
{
    print_message("%-11s %-13s %-38s %s:%d %s", outcome_names[what], u->name, p->kind->name,
                  stage_name(p->name), (int)p->layer, cause_name(p->kind->cause));
    if (line) {
        const finding *f = &line->found;
        print_message(" | %s:%d %s %s, sides %u, patch %d of %d | %s", stage_name(line->name),
                      (int)line->layer, cause_name(f->cause), verdict_state_name(f->state),
                      f->sides, (int)line->patch.n_removed, (int)line->patch.n_differ, f->phrase);
        for (int32_t i = 1; i < f->n_fit && i < 4; i++) {
            print_message(" | %s: %s", cause_name(f->fit[i]->cause), f->fit[i]->phrase);
        }
    }
    print_message("\n");
}

static outcome outcome_of(const plant_case *p, const op_findings *f)
{
    const op_line *first = op_findings_first(f);
    bool is_single = true, is_confirmed = false;
    for (size_t i = 0; i < f->n_op; i++) {
        const op_line *line = &f->op[i];
        bool is_there = line->name == p->name && line->layer == p->layer;
        is_single &= !line->is_accused || is_there;
        is_confirmed |= line->is_accused && !is_there && line->found.state == VERDICT_CONFIRMED;
    }
    if (!first || !is_single || first->found.sides != SIDES_B) {
        return is_confirmed ? OUTCOME_WRONG : OUTCOME_ELSEWHERE;
    }
    const finding *found = &first->found;
    bool is_cause = found->cause == p->kind->cause;
    switch (found->state) {
    case VERDICT_CONFIRMED:
        return is_cause && first->patch.state == PATCH_REMOVES ? OUTCOME_NAMED : OUTCOME_WRONG;
    case VERDICT_SUSPECTED:
        return is_cause || found->fit_causes & 1u << p->kind->cause ? OUTCOME_SUSPECTED
                                                                    : OUTCOME_OTHER_CAUSE;
    default:
        return OUTCOME_UNEXPLAINED;
    }
}

/* ---- In decode ------------------------------------------------------------------------------- */

/* The place of the last token holds another token's keys and values, as after an earlier request.
 */
static void cache_soil(plant_bench *b)
{
    greta_error err = {0};
    int32_t last = (int32_t)b->prompt.n - 1;
    greta_row row = {.token = tokens[1][0], .position = last, .want_logits = 1};
    greta_batch batch = {&row, 1, GRETA_PHASE_DECODE};
    check(greta_session_drop(b->session, 0, last, &err), &err);
    check(greta_session_eval(b->session, &batch, &err), &err);
}

/* Plants what b->run.order says and judges. False: an op cannot carry it. */
static bool decode_judge(plant_bench *b, analysis_prompt *out)
{
    greta_error err = {0};
    fault_planted *planted;
    *out = (analysis_prompt){0};
    cache_soil(b);
    if (isolate_plant(&b->run, b->session, -1, &planted, &err) != GRETA_OK) {
        assert_int_equal(err.code, GRETA_USAGE);
        return false;
    }
    isolate_decode decode = {b->session, &b->prompt, b->first, planted, b->path[1]};
    check(isolate_decode_trace(&b->run, &decode, &err), &err);
    check(session_override_set(b->session, NULL, &err), &err);
    fault_planted_free(planted);
    check(bench_judge(b, out, &err), &err);
    return true;
}

static fault_order order_of(const plant_case *p, int n)
{
    fault_order order = {.n = n};
    for (int i = 0; i < n; i++) {
        order.part[i] =
            (fault_order_part){.kind = p[i].kind, .stage = p[i].name, .layer = p[i].layer};
    }
    return order;
}

static outcome decode_case(subject *u, const plant_case *p)
{
    plant_bench *b = bench_of(u, p->kind->trigger.position_min >= (int32_t)chosen->n_short);
    analysis_prompt judged;
    b->run.order = order_of(p, 1);
    if (!decode_judge(b, &judged)) {
        return OUTCOME_REFUSED;
    }
    outcome what = judged.n_differ == 0 ? OUTCOME_EQUIVALENT : outcome_of(p, &judged.ops);
    if (what > OUTCOME_NAMED) {
        tell(u, p, what, op_findings_first(&judged.ops));
    }
    analysis_prompt_free(&judged);
    return what;
}

/* ---- In prefill ------------------------------------------------------------------------------ */

enum { PREFILLED = 11 };

/* A prefill of PREFILLED tokens in one pass, traced to `path`; planted if `p` is not NULL. */
static bool prefill_trace(subject *u, const plant_case *p, const char *path)
{
    greta_error err = {0};
    const plant_bench *b = &u->bench[0];
    fault_planted *planted = NULL;
    greta_session *s;
    greta_trace_options traced = {
        .size = sizeof traced, .path = path, .tokens = "all,cache", .sample = -1, .overwrite = 1};
    isolate_run run = b->run;
    check(greta_session_new(u->model, &b->options.session, &s, &err), &err);
    run.order = order_of(p, p ? 1 : 0);
    bool carries = isolate_plant(&run, s, -1, &planted, &err) == GRETA_OK;
    if (planted) {
        session_override override = {.list = &planted->list,
                                     .table = planted->table,
                                     .phases = 1u << GRETA_PHASE_PREFILL,
                                     .trigger = planted->trigger,
                                     .cos_sin = planted->cos_sin};
        check(session_override_set(s, &override, &err), &err);
    }
    check(greta_trace_begin(s, &traced, &err), &err);
    check(greta_session_feed(s, tokens[0], PREFILLED, 0, &err), &err);
    check(greta_trace_end(s, "complete", &err), &err);
    greta_session_free(s);
    fault_planted_free(planted);
    return carries;
}

static outcome prefill_case(subject *u, const plant_case *p)
{
    greta_error err = {0};
    char path[2][BENCH_PATH];
    trace *t[2];
    pairing pairs;
    op_findings found = {0};
    outcome what = OUTCOME_REFUSED;
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], BENCH_PATH, "%s/engine-%d.jsonl", folder(), i);
        if (!prefill_trace(u, i ? p : NULL, path[i])) {
            return what;
        }
    }
    for (int i = 0; i < 2; i++) {
        check(trace_open(path[i], &t[i], &err), &err);
    }
    const trace *const both[SIDE_COUNT] = {t[0], t[1]};
    check(pairing_new(t[0], t[1], &pairs, &err), &err);
    check(op_sites_compare(u->model, both, &pairs, &found, &err), &err);
    what = found.judged.n_site_judged == 0 ? OUTCOME_EQUIVALENT : outcome_of(p, &found);
    if (what > OUTCOME_NAMED) {
        tell(u, p, what, op_findings_first(&found));
    }
    op_findings_free(&found);
    pairing_free(&pairs);
    trace_close(t[0]);
    trace_close(t[1]);
    return what;
}

/* ---- All ------------------------------------------------------------------------------------- */

/* The layer, among those whose op of this stage can carry the kind; -1: none, or not in a layer. */
static bool case_draw(const subject *u, const fault_kind *kind, stage name, uint32_t *random,
                      plant_case *out)
{
    int32_t layer[64], n = 0;
    for (int32_t i = 0; i < u->list.n_op; i++) {
        const op *o = &u->list.op[i];
        bool fits = o->name == name && fault_where_is(kind->where, &u->list, o) &&
                    (o->layer < 0 || o->layer >= kind->layer_min);
        if (fits && n < 64) {
            layer[n++] = o->layer;
        }
    }
    uint32_t drawn = draw(random);
    *out = (plant_case){kind, name, n > 0 ? layer[drawn % (uint32_t)n] : -1};
    return n > 0;
}

/* A decode step is one row: it has no next position, no row before or after it, no fifth token. */
static bool needs_prefill(const plant_case *p, const subject *u)
{
    const fault_edit *edit = p->kind->edit;
    const op *o = &u->list.op[op_list_op(&u->list, p->name, p->layer)];
    int32_t read = o->in[edit->input].edge;
    bool is_shift = edit->plant == plant_shift && read >= 0 && !u->list.edge[read].is_cache;
    return p->kind->trigger.has_next || is_shift || edit->kernel.matmul == matmul_token_stride_0;
}

static void case_run(subject *u, const plant_case *p, tally *t)
{
    bool in_prefill = needs_prefill(p, u);
    outcome what = in_prefill ? prefill_case(u, p) : decode_case(u, p);
    if (what == OUTCOME_EQUIVALENT && !in_prefill && !is_sample) {
        outcome again = prefill_case(u, p); /* other tokens, other rows */
        in_prefill = again != OUTCOME_REFUSED;
        what = in_prefill ? again : what;
    }
    t->n_pair += in_prefill && what != OUTCOME_REFUSED;
    t->n[p->kind->cause][what]++;
}

/* Of a sample every STEP-th case; of a given model, `wanted` of each cause. */
static bool is_chosen(const plant_case *p, size_t at, const tally *t)
{
    if (model_path) {
        return t->n[p->kind->cause][OUTCOME_NAMED] < (size_t)wanted && p->name == p->kind->stage;
    }
    return !is_sample || at % STEP == 0;
}

static void subject_run(subject *u, size_t *at, tally *t)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    uint32_t random = 9 * chosen->seed;
    for (size_t k = 0; k < n; k++) {
        for (stage name = 0; name < STAGE_COUNT; name++) {
            plant_case p;
            bool is_there = case_draw(u, &kind[k], name, &random, &p);
            if (kind[k].where != WHERE_TOKENS && is_there && is_chosen(&p, (*at)++, t)) {
                case_run(u, &p, t);
            }
        }
    }
}

static void tally_print(const tally *t)
{
    size_t total[OUTCOME_COUNT] = {0};
    print_message("%-22s %7s %10s %5s %5s %9s %9s %11s %5s\n", "cause", "planted", "equivalent",
                  "place", "cause", "confirmed", "suspected", "unexplained", "wrong");
    for (int c = 0; c <= CAUSE_COUNT; c++) {
        const size_t *n = c < CAUSE_COUNT ? t->n[c] : total;
        size_t planted = 0;
        for (int o = OUTCOME_EQUIVALENT; o < OUTCOME_COUNT; o++) {
            planted += n[o];
            if (c < CAUSE_COUNT) {
                total[o] += n[o];
            }
        }
        if (planted > 0) {
            size_t place = n[OUTCOME_NAMED] + n[OUTCOME_SUSPECTED] + n[OUTCOME_UNEXPLAINED] +
                           n[OUTCOME_OTHER_CAUSE];
            print_message("%-22s %7zu %10zu %5zu %5zu %9zu %9zu %11zu %5zu\n",
                          c < CAUSE_COUNT ? cause_name((cause)c) : "all", planted,
                          n[OUTCOME_EQUIVALENT], place, n[OUTCOME_NAMED] + n[OUTCOME_SUSPECTED],
                          n[OUTCOME_NAMED], n[OUTCOME_SUSPECTED] + n[OUTCOME_OTHER_CAUSE],
                          n[OUTCOME_UNEXPLAINED], n[OUTCOME_WRONG] + n[OUTCOME_ELSEWHERE]);
        }
    }
}

static void every_fault_is_named(void **state)
{
    tally t = {{{0}}, 0};
    size_t at = 0;
    (void)state;
    for (size_t i = 0; i < (model_path ? 1 : MODELS); i++) {
        subject u;
        if (model_path) {
            subject_open(&u, "model", model_path);
        } else {
            subject_make(&u, i);
        }
        subject_run(&u, &at, &t);
        subject_close(&u);
    }
    print_message("half %s; %zu of these planted in a prefill\n", chosen->name, t.n_pair);
    tally_print(&t);
    for (int c = 0; c < CAUSE_COUNT; c++) {
        assert_int_equal(t.n[c][OUTCOME_WRONG], 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_is_named),
    };
    for (size_t i = 0; i < 2 && argc > 1; i++) {
        if (strcmp(argv[1], halves[i].name) == 0) {
            chosen = &halves[i];
            is_sample = false;
        }
    }
    if (argc > 2) {
        model_path = argv[1];
        wanted = strtol(argv[2], NULL, 10);
    }
    return cmocka_run_group_tests_name("catalogue", tests, NULL, NULL);
}
