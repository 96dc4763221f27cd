/* op_sites.c - which tokens are judged, and their findings in execution order.
 *
 * A pass runs op by op over all its tokens, so a fault of a later token in an earlier op comes
 * first: lines are sorted by pass, op, position once all tokens are judged. Policy and the first
 * inherited difference are told once for each stage; counts keep the rest.
 */
#include "verdict/op_sites.h"

#include "verdict/op_canary.h"

#include <stdlib.h>
#include <string.h>

#define LINES_THIN 256

/* ---- Order ----------------------------------------------------------------------------------- */

static int64_t execution_rank(const op_line *line)
{
    bool is_after = !stage_is_per_layer(line->name) && line->name > STAGE_ATTN_NORM;
    int64_t layer = is_after ? INT32_MAX : line->layer;
    return layer * STAGE_COUNT + (int64_t)line->name;
}

static int order_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int by_execution(const void *a, const void *b)
{
    const op_line *x = a, *y = b;
    int by = order_of(x->pass, y->pass);
    by = by != 0 ? by : order_of(execution_rank(x), execution_rank(y));
    return by != 0 ? by : order_of(x->position, y->position);
}

static void line_drop(op_line *line)
{
    free(line->evidence[SIDE_A].item);
    free(line->evidence[SIDE_B].item);
}

/* The causes that every wrong row of an op admits, by run and op. */
typedef struct common_causes {
    unsigned *of; /* (SIDE_COUNT, n_layer + 1, STAGE_COUNT) */
    size_t n;     /* of one run */
} common_causes;

static unsigned *causes_of(const common_causes *all, side s, const op_line *line)
{
    return &all->of[(size_t)s * all->n + (size_t)(line->layer + 1) * STAGE_COUNT +
                    (size_t)line->name];
}

static unsigned causes_admitted(const finding *f)
{
    return f->state == VERDICT_INCONCLUSIVE ? 0
           : f->state == VERDICT_CONFIRMED  ? f->fit_causes
                                            : ~0u;
}

static bool is_wrong_side(const finding *f, side s)
{
    return (f->sides & (s == SIDE_A ? SIDES_A : SIDES_B)) != 0;
}

/* One op has one fault: what explains its output at one token, and not at another, is not it. So
 * where all keys weigh alike, the second token alone looks as if both keys were the first. */
static greta_status findings_reconcile(op_findings *f, greta_error *err)
{
    int32_t n_layer = 0;
    for (size_t i = 0; i < f->n_op; i++) {
        n_layer = f->op[i].layer >= n_layer ? f->op[i].layer + 1 : n_layer;
    }
    common_causes all = {.n = ((size_t)n_layer + 1) * STAGE_COUNT};
    all.of = malloc(SIDE_COUNT * all.n * sizeof *all.of);
    if (!all.of) {
        return error_memory(err, "causes of ops", SIDE_COUNT * all.n * sizeof *all.of);
    }
    memset(all.of, 0xff, SIDE_COUNT * all.n * sizeof *all.of);
    for (size_t i = 0; i < f->n_op; i++) {
        const finding *found = &f->op[i].found;
        for (side s = SIDE_A; s < SIDE_COUNT && f->op[i].is_accused; s++) {
            if (is_wrong_side(found, s)) {
                *causes_of(&all, s, &f->op[i]) &= causes_admitted(found);
            }
        }
    }
    for (size_t i = 0; i < f->n_op; i++) {
        finding *found = &f->op[i].found;
        bool is_sure = f->op[i].is_accused && found->state == VERDICT_CONFIRMED;
        for (side s = SIDE_A; s < SIDE_COUNT && is_sure; s++) {
            bool is_common = *causes_of(&all, s, &f->op[i]) & 1u << found->cause;
            found->state = is_wrong_side(found, s) && !is_common ? VERDICT_SUSPECTED : found->state;
        }
    }
    free(all.of);
    return GRETA_OK;
}

/* What is no fault is told once a stage; faults are all kept. Nothing is lost by asking more than
 * once on the way: what was first among some is first among all, or something else is. */
static void findings_order(op_findings *f)
{
    bool is_told[STAGE_COUNT] = {false};
    size_t n = 0;
    if (f->n_op > 0) {
        qsort(f->op, f->n_op, sizeof *f->op, by_execution);
    }
    for (size_t i = 0; i < f->n_op; i++) {
        bool is_fault = f->op[i].is_accused || f->op[i].found.state == VERDICT_INSTRUMENT_SUSPECT;
        if (!is_fault && is_told[f->op[i].name]) {
            line_drop(&f->op[i]);
            continue;
        }
        is_told[f->op[i].name] = is_told[f->op[i].name] || !is_fault;
        f->op[n++] = f->op[i];
    }
    f->n_op = n;
    bool has_decisive = false;
    for (size_t i = 0; i < n; i++) {
        f->op[i].is_decisive = f->op[i].is_accused && !has_decisive;
        has_decisive = has_decisive || f->op[i].is_accused;
    }
}

/* Between two tokens: only what will be told stays. */
static void findings_thin(op_findings *f, size_t *n_told)
{
    if (f->n_op > 2 * *n_told + LINES_THIN) {
        findings_order(f);
        *n_told = f->n_op;
    }
}

static greta_status findings_end(op_findings *f, greta_error *err)
{
    findings_order(f);
    return findings_reconcile(f, err);
}

const op_line *op_findings_first(const op_findings *f)
{
    for (size_t i = 0; i < f->n_op; i++) {
        if (f->op[i].is_accused) {
            return &f->op[i];
        }
    }
    return NULL;
}

bool op_findings_suspect(const op_findings *f)
{
    for (size_t i = 0; i < f->n_op; i++) {
        if (f->op[i].found.state == VERDICT_INSTRUMENT_SUSPECT) {
            return true;
        }
    }
    return false;
}

/* ---- Two traces ------------------------------------------------------------------------------ */

typedef struct site_pair {
    size_t site[SIDE_COUNT];
    bool differs;
} site_pair;

static int by_site(const void *a, const void *b)
{
    const site_pair *x = a, *y = b;
    int by = order_of((int64_t)x->site[SIDE_A], (int64_t)y->site[SIDE_A]);
    return by != 0 ? by : order_of((int64_t)x->site[SIDE_B], (int64_t)y->site[SIDE_B]);
}

static bool is_different(const pairing *pairs, size_t i)
{
    const trace_head a = trace_head_of(pairs->trace[SIDE_A], pairs->pair[i].row[SIDE_A]),
                     b = trace_head_of(pairs->trace[SIDE_B], pairs->pair[i].row[SIDE_B]);
    pair_difference d;
    pair_room room;
    if (pair_is_equal(&a, &b)) {
        return false;
    }
    pair p = pair_open(pairs, i, &room);
    pair_compare(&p, &d);
    return d.state == PAIR_DIFFERS || d.in == PAIR_DIFFERS || d.weight == PAIR_DIFFERS;
}

/* The pairs of tokens that the pairs of rows make, each once. */
static greta_status sites_pair(const site_list list[SIDE_COUNT], const pairing *pairs,
                               site_pair **out, size_t *n, greta_error *err)
{
    site_pair *all = malloc((pairs->n_pair + 1) * sizeof *all);
    *n = 0;
    if (!all) {
        return error_memory(err, "pairs of tokens", pairs->n_pair * sizeof *all);
    }
    for (size_t i = 0; i < pairs->n_pair; i++) {
        const pair_rows *p = &pairs->pair[i];
        all[i] = (site_pair){{site_list_of(&list[SIDE_A], p->row[SIDE_A]),
                              site_list_of(&list[SIDE_B], p->row[SIDE_B])},
                             is_different(pairs, i)};
    }
    qsort(all, pairs->n_pair, sizeof *all, by_site);
    for (size_t i = 0; i < pairs->n_pair; i++) {
        if (*n > 0 && by_site(&all[*n - 1], &all[i]) == 0) {
            all[*n - 1].differs = all[*n - 1].differs || all[i].differs;
        } else {
            all[(*n)++] = all[i];
        }
    }
    *out = all;
    return GRETA_OK;
}

static void watched(const greta_watch *watch, size_t done, size_t n)
{
    if (watch && watch->progress) {
        watch->progress(watch->user, "replay", done, n);
    }
}

typedef struct sites_case {
    site_list list[SIDE_COUNT];
    catalog catalog[SIDE_COUNT];
    op_plan plan[SIDE_COUNT];
    const op_kin *kin;
} sites_case;

static void case_close(sites_case *c)
{
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        site_list_free(&c->list[s]);
        catalog_free(&c->catalog[s]);
        op_plan_free(&c->plan[s]);
    }
}

/* t[SIDE_B] NULL: there is only one. */
static greta_status case_open(const sites_sides *sides, sites_case *c, greta_error *err)
{
    c->kin = sides->kin;
    for (side s = SIDE_A; s < SIDE_COUNT && sides->t[s]; s++) {
        const trace *t = sides->t[s];
        GRETA_TRY(site_list_new(t, &c->list[s], err));
        GRETA_TRY(catalog_new(t, &c->catalog[s], err));
        GRETA_TRY(op_plan_new(sides->model[s], &t->header, &c->plan[s], err));
    }
    return GRETA_OK;
}

static greta_status pair_judge(const sites_case *c, const site_pair *p, bool has_canaries,
                               op_findings *out, greta_error *err)
{
    bool is_one_contract = !c->kin &&
                           c->plan[SIDE_A].contract.act == c->plan[SIDE_B].contract.act &&
                           c->plan[SIDE_A].contract.kv == c->plan[SIDE_B].contract.kv;
    site at[SIDE_COUNT] = {{0}, {0}};
    greta_status status = GRETA_OK;
    for (side s = SIDE_A; s < SIDE_COUNT && status == GRETA_OK; s++) {
        status = site_list_open(&c->list[s], p->site[s], &at[s], err);
    }
    if (status == GRETA_OK) {
        op_pair both = {
            .side = {&at[SIDE_A], &at[SIDE_B]},
            .catalog = {&c->catalog[SIDE_A], &c->catalog[SIDE_B]},
            .plan = {&c->plan[SIDE_A], &c->plan[is_one_contract ? SIDE_A : SIDE_B]},
            .kin = c->kin,
            .naming = NAMES_COMPARE,
            .has_canaries = has_canaries,
        };
        status = op_pair_judge(&both, out, err);
    }
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        site_free(&at[s]);
        trace_forget(c->list[s].trace);
    }
    return status;
}

/* From which of the tokens that are judged on canaries are planted: a drawn one, and where that
 * leaves stages without any, those behind it. */
static int64_t canary_site(const trace *t, const site_pair *tokens, size_t n)
{
    uint64_t n_judged = 0;
    for (size_t i = 0; i < n; i++) {
        n_judged += tokens[i].differs;
    }
    return (int64_t)canary_draw(t->body_sum, n_judged);
}

greta_status op_sites_compare(const sites_sides *sides, const greta_watch *watch, op_findings *out,
                              greta_error *err)
{
    sites_case c = {0};
    site_pair *tokens = NULL;
    size_t n = 0, n_told = 0;
    greta_status status = case_open(sides, &c, err);
    if (status == GRETA_OK) {
        status = sites_pair(c.list, sides->pairs, &tokens, &n, err);
    }
    int64_t first = status == GRETA_OK ? canary_site(sides->t[SIDE_B], tokens, n) : 0;
    out->judged.is_judged = status == GRETA_OK;
    for (size_t i = 0; i < n && status == GRETA_OK; i++) {
        out->judged.n_site++;
        watched(watch, i, n);
        if (tokens[i].differs) {
            out->judged.n_site_judged++;
            status = pair_judge(&c, &tokens[i], out->judged.n_site_judged > first, out, err);
            findings_thin(out, &n_told);
        }
    }
    watched(watch, n, n);
    status = status == GRETA_OK ? findings_end(out, err) : status;
    free(tokens);
    case_close(&c);
    return status;
}

/* ---- One trace ------------------------------------------------------------------------------- */

greta_status op_sites_audit(const struct greta_model *model, const trace *t,
                            const greta_watch *watch, op_findings *out, greta_error *err)
{
    sites_case c = {0};
    const sites_sides one = {.model = {model, NULL}, .t = {t, NULL}};
    greta_status status = case_open(&one, &c, err);
    size_t first = (size_t)canary_draw(t->body_sum, c.list[SIDE_A].n), n_told = 0;
    out->judged.is_judged = status == GRETA_OK;
    for (size_t i = 0; i < c.list[SIDE_A].n && status == GRETA_OK; i++) {
        site at = {0};
        watched(watch, i, c.list[SIDE_A].n);
        status = site_list_open(&c.list[SIDE_A], i, &at, err);
        if (status == GRETA_OK) {
            op_single single = {&at, &c.catalog[SIDE_A], &c.plan[SIDE_A], i >= first};
            out->judged.n_site++;
            out->judged.n_site_judged++;
            status = op_single_judge(&single, out, err);
            findings_thin(out, &n_told);
        }
        site_free(&at);
        trace_forget(t);
    }
    watched(watch, c.list[SIDE_A].n, c.list[SIDE_A].n);
    status = status == GRETA_OK ? findings_end(out, err) : status;
    case_close(&c);
    return status;
}
