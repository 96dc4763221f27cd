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
 * Kinds that were written after the rules were frozen are asked by the exam alone (`greta score`),
 * which counts them apart. A plant that changes no bit is an equivalent mutant, counted apart. The
 * referee sees traces and the model; the catalogue it never sees. Weights, prompts and layers come
 * in two halves: rules are tuned on `tune`, and `held` is what is told.
 *
 * Pairs of cases that were named alone are then planted together: both must be named, in order.
 *
 *     test_catalogue                       every n-th case of the held half; three in SmolLM2
 *     test_catalogue tune|held [MODEL]     every case of a half, or of one of the tiny models
 *     test_catalogue FILE N                in this model: kinds until N of every cause are named
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

#ifdef SANITIZED
enum { STEP = 499 }; /* of a sample every STEP-th case: sanitizers take their time */
#else
enum { STEP = 61 };
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
static const char *only;       /* of them; NULL: all */
static size_t wanted, n_most;  /* in a given model: of each cause; in all, 0: no limit */
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

enum { NAMED_MAX = 512 };

typedef struct tally {
    size_t n[CAUSE_COUNT][OUTCOME_COUNT];
    size_t n_prefill; /* planted in a prefill, of all */
    size_t n_random;  /* faults that do not repeat: located, not explained */
    size_t n_pair, n_pair_named, n_pair_hidden;
    plant_case named[NAMED_MAX]; /* (n_named) in decode, in the model at hand */
    size_t n_named;
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
    if (what > OUTCOME_NAMED && !p->kind->is_random) {
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
    check(pairing_new(t[0], t[1], &pairs, &err), &err);
    const sites_sides sides = {{u->model, u->model}, {t[0], t[1]}, &pairs, NULL};
    check(op_sites_compare(&sides, NULL, &found, &err), &err);
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
    t->n_prefill += in_prefill && what != OUTCOME_REFUSED;
    t->n[p->kind->cause][what]++;
    t->n_random += p->kind->is_random && what == OUTCOME_UNEXPLAINED;
    if (what == OUTCOME_NAMED && !in_prefill && t->n_named < NAMED_MAX) {
        t->named[t->n_named++] = *p;
    }
}

/* ---- Two at once ----------------------------------------------------------------------------- */

static bool is_named(const plant_case *p, const op_line *line)
{
    return line->name == p->name && line->layer == p->layer && line->found.sides == SIDES_B &&
           line->found.cause == p->kind->cause && line->found.state == VERDICT_CONFIRMED &&
           line->patch.state == PATCH_REMOVES;
}

/* Both in order; or the first alone, where the second changes no bit of what the first has left. */
static void pair_run(subject *u, const plant_case two[2], tally *t)
{
    plant_bench *b = bench_of(u, 0);
    analysis_prompt judged;
    const op_line *line[3] = {NULL};
    size_t n = 0;
    b->run.order = order_of(two, 2);
    if (!decode_judge(b, &judged)) {
        return;
    }
    for (size_t i = 0; i < judged.ops.n_op && n < 3; i++) {
        if (judged.ops.op[i].is_accused) {
            line[n++] = &judged.ops.op[i];
        }
    }
    bool has_both = n == 2 && is_named(&two[0], line[0]) && is_named(&two[1], line[1]);
    bool is_hidden = n == 1 && is_named(&two[0], line[0]);
    t->n_pair++;
    t->n_pair_named += has_both;
    t->n_pair_hidden += is_hidden;
    for (size_t i = 0; i < 2 && !has_both; i++) {
        print_message("pair of %zu: ", n);
        tell(u, &two[i], is_hidden ? OUTCOME_EQUIVALENT : OUTCOME_ELSEWHERE, line[i]);
    }
    analysis_prompt_free(&judged);
}

static void pairs_run(subject *u, uint32_t *random, tally *t)
{
    size_t wanted_pairs = !is_sample ? 40 : model_path && n_most == 0 ? 12 : 1;
    for (size_t i = 0, n = 0; i < 50 * wanted_pairs && n < wanted_pairs && t->n_named > 1; i++) {
        plant_case two[2] = {t->named[draw(random) % t->n_named],
                             t->named[draw(random) % t->n_named]};
        bool is_short = two[0].kind->trigger.position_min < (int32_t)chosen->n_short &&
                        two[1].kind->trigger.position_min < (int32_t)chosen->n_short;
        if (is_short && two[0].kind->cause != two[1].kind->cause &&
            op_list_op(&u->list, two[0].name, two[0].layer) <
                op_list_op(&u->list, two[1].name, two[1].layer)) {
            pair_run(u, two, t);
            n++;
        }
    }
    t->n_named = 0;
}

/* ---- All ------------------------------------------------------------------------------------- */

/* Of a sample every STEP-th case; of a given model, `wanted` of each cause. */
static bool is_chosen(const plant_case *p, size_t at, const tally *t)
{
    if (model_path) {
        return t->n[p->kind->cause][OUTCOME_NAMED] < wanted && p->name == p->kind->stage &&
               (n_most == 0 || t->n_named < n_most);
    }
    return !is_sample || at % STEP == 0;
}

static void subject_run(subject *u, size_t *at, tally *t)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    uint32_t random = 9 * chosen->seed;
    for (size_t k = 0; k < n; k++) {
        for (stage name = 0; name < STAGE_COUNT && !kind[k].is_late; name++) {
            plant_case p;
            bool is_there = case_draw(u, &kind[k], name, &random, &p);
            if (kind[k].where != WHERE_TOKENS && is_there && is_chosen(&p, (*at)++, t)) {
                case_run(u, &p, t);
            }
        }
    }
    pairs_run(u, &random, t);
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

static void tally_check(const tally *t, const char *what)
{
    size_t n_wrong = 0;
    print_message("%s: %zu of these planted in a prefill, %zu do not repeat\n", what, t->n_prefill,
                  t->n_random);
    print_message("two at once: %zu, both named in order %zu, the second without a bit %zu\n",
                  t->n_pair, t->n_pair_named, t->n_pair_hidden);
    tally_print(t);
    for (int c = 0; c < CAUSE_COUNT; c++) {
        n_wrong +=
            t->n[c][OUTCOME_WRONG] + t->n[c][OUTCOME_ELSEWHERE] + t->n[c][OUTCOME_OTHER_CAUSE];
    }
    assert_int_equal(n_wrong, 0);
    assert_int_equal(t->n_pair_named + t->n_pair_hidden, t->n_pair);
}

static void every_fault_is_named(void **state)
{
    static tally t;
    size_t at = 0;
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        subject u;
        if (!only || strcmp(only, models[i].name) == 0) {
            subject_make(&u, i);
            subject_run(&u, &at, &t);
            subject_close(&u);
        }
    }
    tally_check(&t, chosen->name);
}

/* Other tokens are no other computation: the pair is refused, by the field that differs. */
static void other_tokens_are_no_pair(void **state)
{
    size_t n, n_kind = 0;
    const fault_kind *kind = fault_kinds(&n);
    subject u;
    (void)state;
    subject_make(&u, 0);
    for (size_t k = 0; k < n; k++) {
        greta_error err = {0};
        greta_status verdict;
        greta_isolate_options o = u.bench[0].options;
        char *printed;
        if (kind[k].where != WHERE_TOKENS) {
            continue;
        }
        o.fault = kind[k].name;
        greta_prompt prompt = {"tokens", tokens[0], 12};
        check(greta_isolate(u.model, &prompt, 1, &o, 1, &printed, &verdict, &err), &err);
        assert_int_equal(verdict, GRETA_NO_VERDICT);
        assert_non_null(strstr(printed, "\"NOT_COMPARABLE\""));
        assert_non_null(strstr(printed, "\"prefix\""));
        greta_free(printed);
        n_kind++;
    }
    assert_int_equal(n_kind, 4);
    subject_close(&u);
}

/* At the kinds' own stages, in layers that are drawn. */
static void a_real_model(void **state)
{
    static tally t;
    subject u;
    size_t at = 0, n = 0;
    (void)state;
    model_path = model_path ? model_path : getenv("GRETA_SMOLLM2");
    if (!model_path) {
        skip();
    }
    subject_open(&u, "model", model_path);
    subject_run(&u, &at, &t);
    subject_close(&u);
    tally_check(&t, model_path);
    for (int c = 0; c < CAUSE_COUNT; c++) {
        n += t.n[c][OUTCOME_NAMED];
    }
    assert_true(n >= (n_most ? n_most : 24));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest sample[] = {cmocka_unit_test(every_fault_is_named),
                                        cmocka_unit_test(other_tokens_are_no_pair),
                                        cmocka_unit_test(a_real_model)};
    const struct CMUnitTest half_only[] = {cmocka_unit_test(every_fault_is_named)};
    const struct CMUnitTest model_only[] = {cmocka_unit_test(a_real_model)};
    wanted = 1;
    n_most = 3;
    if (argc > 1 && (strcmp(argv[1], "tune") == 0 || strcmp(argv[1], "held") == 0)) {
        chosen = &halves[strcmp(argv[1], "held") == 0];
        is_sample = false;
        only = argc > 2 ? argv[2] : NULL;
        return cmocka_run_group_tests_name("catalogue", half_only, NULL, NULL);
    }
    if (argc > 2) {
        model_path = argv[1];
        wanted = (size_t)strtol(argv[2], NULL, 10);
        n_most = 0;
        return cmocka_run_group_tests_name("catalogue", model_only, NULL, NULL);
    }
    return cmocka_run_group_tests_name("catalogue", sample, NULL, NULL);
}
