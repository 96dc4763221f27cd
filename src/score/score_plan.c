/* score_plan.c - the cases of the exam, drawn by a seed.
 *
 * For every mode and prompt a length is drawn, hence the position of the token that is judged. For
 * every kind of the catalogue then three cases: it is always on; it waits for rows that come; it
 * waits for rows that do not come. Place and trigger are drawn among those that are possible.
 * Pairs, real bugs, benign variants, clean runs, other engines' traces and devices that make
 * mistakes follow. A draw hangs on
 * the seed and on the names of what it is for, never on how many were made before, so that a part
 * of an exam is a part of the whole.
 */
#include "score/score.h"

#include "base/hash.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *score_mode_name(score_mode mode)
{
    static const char *const name[] = {"fresh", "warm",    "engine", "batch",
                                       "reuse", "foreign", "device"};
    return name[mode];
}

const char *score_sort_name(score_sort sort)
{
    static const char *const name[] = {"fault", "stack", "outside", "benign", "clean", "real"};
    return name[sort];
}

#define BENIGN_TOKENS 12 /* of a benign case at most; less 3 it is more than a tile of 8 */
#define SCORE_STACKS  4  /* modes that had pairs first: draws hang on it */

typedef struct planner {
    struct greta_model *model;
    const greta_prompt *prompts;
    const greta_score_options *options;
    const char *name; /* of the model */
    op_list list;
    score_plan *plan;
    size_t n_most;
} planner;

/* A number that hangs on the seed and the words only. */
static uint64_t draw(const planner *p, const char *what, const char *name, uint64_t number)
{
    uint64_t z = p->options->seed ^ (number + 1) * 0x9e3779b97f4a7c15u;
    for (const char *word = what; word; word = word == what ? name : NULL) {
        for (const char *at = word; *at; at++) {
            z = (z ^ (uint8_t)*at) * 0x100000001b3u;
        }
        z ^= z >> 29;
    }
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

int score_passes(const score_case *c, score_pass out[SCORE_PASSES])
{
    int n = 0;
    int32_t last = (int32_t)c->n_token - 1;
    if (c->mode == SCORE_FRESH || c->mode == SCORE_WARM) {
        out[n++] = (score_pass){GRETA_PHASE_DECODE, last, 1, false, c->mode == SCORE_WARM};
        return n;
    }
    if (c->mode == SCORE_DEVICE && c->sort == SCORE_OUTSIDE) { /* nothing is decoded */
        out[n++] = (score_pass){GRETA_PHASE_PREFILL, 0, last + 1, false, false};
        return n;
    }
    if (c->mode == SCORE_BATCH) {
        for (int32_t p = 0; p < (int32_t)c->n_token && n < SCORE_PASSES; p++) {
            out[n++] = (score_pass){GRETA_PHASE_DECODE, p, 3, true, false};
        }
        return n;
    }
    bool is_warm = c->mode == SCORE_REUSE;
    int32_t prefilled = last - 1, chunk = c->n_chunk > 0 ? c->n_chunk : prefilled;
    for (int32_t p = 0; p < prefilled && n + 2 < SCORE_PASSES; p += chunk) {
        int32_t left = prefilled - p;
        out[n++] =
            (score_pass){GRETA_PHASE_PREFILL, p, left < chunk ? left : chunk, false, is_warm};
    }
    for (int32_t p = prefilled; p <= last; p++) {
        out[n++] = (score_pass){GRETA_PHASE_DECODE, p, 1, false, is_warm};
    }
    return n;
}

static bool row_is_named(const op_trigger *t, const score_pass *p, int32_t row)
{
    int32_t position = p->is_batch ? p->first : p->first + row;
    bool is_tail = t->tail_of == 0 || row >= p->n_row - p->n_row % t->tail_of;
    bool is_length = t->length_of == 0 || p->n_row % t->length_of == t->length_rest;
    bool has_next = !p->is_batch && row + 1 < p->n_row;
    return (t->phases == 0 || t->phases & 1u << p->phase) && position >= t->position_min &&
           row >= t->row_min && is_tail && is_length && (!t->is_warm || p->is_warm) &&
           (!t->is_later_chunk || p->first > 0) && (!t->has_next || has_next);
}

/* Whether some row of the case is named by both triggers. */
static bool is_inside(const score_case *c, const op_trigger *own, const op_trigger *more)
{
    score_pass pass[SCORE_PASSES];
    int n = score_passes(c, pass);
    for (int i = 0; i < n; i++) {
        for (int32_t row = 0; row < pass[i].n_row; row++) {
            if (row_is_named(own, &pass[i], row) && row_is_named(more, &pass[i], row)) {
                return true;
            }
        }
    }
    return false;
}

/* ---- Places ---------------------------------------------------------------------------------- */

/* Whether the list of numbers holds this one; a missing list holds all. */
static bool layer_is_wanted(const char *list, int32_t layer)
{
    char *end;
    for (const char *at = list; at && *at; at = *end == ',' ? end + 1 : end) {
        if (strtol(at, &end, 10) == layer && end > at) {
            return true;
        }
        if (end == at) {
            return false;
        }
    }
    return !list;
}

static bool op_can_carry(const planner *p, const fault_kind *kind, int32_t i)
{
    const op *o = &p->list.op[i];
    return fault_where_is(kind->where, &p->list, o) &&
           (o->layer < 0 || layer_is_wanted(p->options->layers, o->layer)) &&
           (o->layer < 0 || o->layer >= kind->layer_min) &&
           (!kind->needs_two_layers || p->model->cfg.n_layer > 1);
}

/* An op that can carry the kind; -1: none. */
static int32_t op_draw(const planner *p, const fault_kind *kind, uint64_t number)
{
    int32_t n = 0, chosen = -1;
    for (int32_t i = 0; i < p->list.n_op; i++) {
        n += op_can_carry(p, kind, i);
    }
    uint64_t k = n > 0 ? number % (uint64_t)n : 0;
    for (int32_t i = 0; i < p->list.n_op && n > 0; i++) {
        if (op_can_carry(p, kind, i) && k-- == 0) {
            chosen = i;
            break;
        }
    }
    return chosen;
}

/* "NAME/STAGE:LAYER@TRIGGER" behind what stands there. */
static void order_add(const planner *p, score_case *c, const fault_kind *kind, int32_t op_index,
                      const fault_trigger *trigger)
{
    size_t n = strlen(c->order);
    const char *plus = n > 0 ? "+" : "";
    const char *at = trigger ? "@" : "", *name = trigger ? trigger->name : "";
    if (op_index < 0) {
        snprintf(c->order + n, sizeof c->order - n, "%s%s", plus, kind->name);
        return;
    }
    const op *o = &p->list.op[op_index];
    char layer[16] = "";
    if (o->layer >= 0) {
        snprintf(layer, sizeof layer, ":%d", (int)o->layer);
    }
    snprintf(c->order + n, sizeof c->order - n, "%s%s/%s%s%s%s", plus, kind->name,
             stage_name(o->name), layer, at, name);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

/* What a cache held before is asked of the faults that could read it. */
static bool mode_takes(score_mode mode, const fault_kind *kind)
{
    return mode == SCORE_REUSE           ? kind->cause == CAUSE_KV_STATE
           : kind->where == WHERE_TOKENS ? mode == SCORE_FRESH
                                         : true;
}

static bool is_wanted(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at && *at; at += *at == ',') {
        size_t length = strcspn(at, ",");
        if (length == n && memcmp(at, name, n) == 0) {
            return true;
        }
        at += length;
    }
    return !list;
}

static greta_status plan_add(planner *p, score_case *c, greta_error *err)
{
    score_plan *plan = p->plan;
    if (!is_wanted(p->options->sorts, score_sort_name(c->sort))) {
        return GRETA_OK;
    }
    const char *slash = strrchr(c->foreign, '/');
    snprintf(c->id, sizeof c->id, "%016llx/%s/%.128s:%zu/%s/%s%s%.64s/%d",
             (unsigned long long)model_file_hash(p->model), score_mode_name(c->mode),
             p->prompts[c->prompt].id, c->n_token, score_sort_name(c->sort), c->order,
             c->control ? c->control->name : "", slash ? slash + 1 : "", (int)c->n_chunk);
    for (size_t i = 0; i < plan->n; i++) {
        if (strcmp(plan->item[i].id, c->id) == 0) {
            return GRETA_OK; /* a later round has drawn the same */
        }
    }
    if (plan->n == p->n_most) {
        p->n_most = p->n_most ? 2 * p->n_most : 256;
        score_case *grown = realloc(plan->item, p->n_most * sizeof *grown);
        if (!grown) {
            return error_memory(err, "the cases", p->n_most * sizeof *grown);
        }
        plan->item = grown;
    }
    plan->item[plan->n++] = *c;
    return GRETA_OK;
}

/* A named trigger of which the rows come, or do not, beside those of the kind; NULL: none. */
static const fault_trigger *trigger_draw(const planner *p, const score_case *c,
                                         const fault_kind *kind, bool inside)
{
    size_t n;
    const fault_trigger *all = fault_triggers(&n);
    uint64_t first = draw(p, kind->name, c->id, (uint64_t)c->mode * 2 + inside) % n;
    for (size_t i = 0; i < n; i++) {
        const fault_trigger *t = &all[(first + i) % n];
        if (is_inside(c, &kind->trigger, &t->rows) == inside) {
            return t;
        }
    }
    return NULL;
}

/* Always on; for rows that come; for rows that do not. */
static greta_status plan_kind(planner *p, const score_case *base, const fault_kind *kind,
                              uint64_t number, greta_error *err)
{
    op_trigger none = {0};
    bool has_place = kind->where != WHERE_TOKENS;
    int32_t at = has_place ? op_draw(p, kind, draw(p, kind->name, "place", number)) : -1;
    if (has_place && at < 0) {
        return GRETA_OK;
    }
    for (int which = 0; which < (has_place ? 3 : 1); which++) {
        score_case c = *base;
        bool can_be = is_inside(&c, &kind->trigger, &none);
        snprintf(c.id, sizeof c.id, "%d", which);
        const fault_trigger *t = which == 0 ? NULL : trigger_draw(p, &c, kind, which == 1);
        if ((which == 1 && !can_be) || (which > 0 && !t)) {
            continue;
        }
        c.kind = kind;
        c.sort = (which == 0 && can_be) || which == 1 ? SCORE_FAULT : SCORE_OUTSIDE;
        c.place = at < 0 ? (score_place){STAGE_TOKENS, -1}
                         : (score_place){p->list.op[at].name, p->list.op[at].layer};
        order_add(p, &c, kind, at, t);
        GRETA_TRY(plan_add(p, &c, err));
    }
    return GRETA_OK;
}

/* Two faults that are always on, in different ops. */
static greta_status plan_stack(planner *p, const score_case *base, uint64_t number,
                               greta_error *err)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n), *chosen[2];
    int32_t at[2] = {-1, -1};
    op_trigger none = {0};
    for (uint64_t draws = 0, k = 0; k < 2 && draws < 64; draws++) {
        chosen[k] = &kind[draw(p, "stack", k ? "second" : "first", number * 64 + draws) % n];
        at[k] = chosen[k]->where == WHERE_TOKENS || !is_inside(base, &chosen[k]->trigger, &none)
                    ? -1
                    : op_draw(p, chosen[k], draw(p, chosen[k]->name, "stack", number));
        k += at[k] >= 0 && (k == 0 || at[1] != at[0]);
    }
    if (at[0] < 0 || at[1] < 0 || at[0] == at[1]) {
        return GRETA_OK;
    }
    score_case c = *base;
    int first = at[1] < at[0];
    c.sort = SCORE_STACK;
    c.kind = chosen[first];
    c.place = (score_place){p->list.op[at[first]].name, p->list.op[at[first]].layer};
    c.kind_next = chosen[!first];
    c.place_next = (score_place){p->list.op[at[!first]].name, p->list.op[at[!first]].layer};
    order_add(p, &c, chosen[first], at[first], NULL);
    order_add(p, &c, chosen[!first], at[!first], NULL);
    return plan_add(p, &c, err);
}

/* Other arithmetic, and the same cut otherwise. */
static greta_status plan_benign(planner *p, const score_case *base, uint64_t number,
                                greta_error *err)
{
    size_t n;
    const control_kind *control = control_kinds(&n);
    score_case c = *base;
    c.sort = SCORE_CLEAN;
    GRETA_TRY(plan_add(p, &c, err));
    c.sort = SCORE_BENIGN;
    size_t most =
        p->prompts[base->prompt].n < BENIGN_TOKENS ? p->prompts[base->prompt].n : BENIGN_TOKENS;
    for (size_t i = 0; i < n && c.mode == SCORE_ENGINE; i++) {
        if ((i + number) % (uint64_t)p->options->one_of != 0) {
            continue;
        }
        c.control = &control[i];
        c.n_token = most - draw(p, control[i].name, "length", number) % 4;
        GRETA_TRY(plan_add(p, &c, err));
    }
    return GRETA_OK;
}

/* Bugs that happened, once a model, in runs that show them. */
static greta_status plan_reals(planner *p, const score_case *base, greta_error *err)
{
    size_t n;
    const fault_real *real = fault_reals(&n);
    const greta_score_options *o = p->options;
    const char *arch = p->model->cfg.arch;
    for (size_t i = 0; i < n; i++) {
        const fault_real *r = &real[i];
        bool is_here = strcmp(r->mode, score_mode_name(base->mode)) == 0 &&
                       (!r->arch || strncmp(arch, r->arch, strlen(r->arch)) == 0) &&
                       (!o->faults || strstr(r->name, o->faults)) && i % (size_t)o->one_of == 0;
        if (!is_here || (size_t)r->n_token > p->prompts[base->prompt].n) {
            continue;
        }
        score_case c = *base;
        c.sort = SCORE_REAL;
        c.real = r;
        c.n_token = r->n_token > 0 ? (size_t)r->n_token : base->n_token;
        c.n_chunk = r->n_chunk > 0 ? r->n_chunk : r->n_token > 0 ? 0 : base->n_chunk;
        snprintf(c.order, sizeof c.order, "%s", r->name);
        GRETA_TRY(plan_add(p, &c, err));
    }
    return GRETA_OK;
}

static int is_trace(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 6 && strcmp(entry->d_name + n - 6, ".jsonl") == 0;
}

/* Every trace of <foreign>/<name of the model, less .gguf>/. */
static greta_status plan_foreign(planner *p, greta_error *err)
{
    struct dirent **entry = NULL;
    const char *end = strstr(p->name, ".gguf");
    text folder = {0};
    greta_status status = GRETA_OK;
    text_format(&folder, "%s/%.*s", p->options->foreign,
                (int)(end ? (size_t)(end - p->name) : strlen(p->name)), p->name);
    int n = folder.failed ? 0 : scandir(folder.data, &entry, is_trace, alphasort);
    for (int i = 0; i < n; i++) {
        score_case c = {.mode = SCORE_FOREIGN, .sort = SCORE_BENIGN, .place = {STAGE_NONE, -1}};
        int length = snprintf(c.foreign, sizeof c.foreign, "%s/%s", folder.data, entry[i]->d_name);
        if (status == GRETA_OK && length > 0 && (size_t)length < sizeof c.foreign) {
            status = plan_add(p, &c, err);
        }
        free(entry[i]);
    }
    free(entry);
    status = folder.failed ? error_memory(err, "a path", 0) : status;
    text_free(&folder);
    return status;
}

/* Every mistake of a device, where it concerns some op of the model; where it concerns none, or
 * waits for tokens that are not decoded, nothing may be said. And a device that makes none. */
static greta_status plan_defects(planner *p, const score_case *base, uint64_t round,
                                 greta_error *err)
{
    const greta_score_options *o = p->options;
    for (int n = 0; n < DEFECT_COUNT; n++) {
        score_case c = *base;
        c.defect = &defects()[n];
        c.kind = n > 0 ? &c.defect->kind : NULL;
        bool is_asked = n == 0 || ((!o->faults || strstr(c.kind->name, o->faults)) &&
                                   ((uint64_t)n + round) % (uint64_t)o->one_of == 0);
        for (int32_t i = 0; i < p->list.n_op && n > 0 && c.place.name == STAGE_NONE; i++) {
            const op *at = &p->list.op[i];
            c.place = defect_concerns(c.defect, &p->list, at) ? (score_place){at->name, at->layer}
                                                              : c.place;
        }
        c.sort = n == 0 ? SCORE_CLEAN : c.place.name == STAGE_NONE ? SCORE_OUTSIDE : SCORE_FAULT;
        snprintf(c.order, sizeof c.order, "%s", n > 0 ? c.kind->name : "");
        greta_status status = is_asked ? plan_add(p, &c, err) : GRETA_OK;
        if (status == GRETA_OK && is_asked && c.sort == SCORE_FAULT && c.defect->needs_decode) {
            c.sort = SCORE_OUTSIDE;
            status = plan_add(p, &c, err);
        }
        GRETA_TRY(status);
    }
    return GRETA_OK;
}

static greta_status plan_round(planner *p, score_mode mode, size_t prompt, uint64_t round,
                               greta_error *err)
{
    size_t n_kind, n = p->prompts[prompt].n;
    const fault_kind *kind = fault_kinds(&n_kind);
    const greta_score_options *o = p->options;
    uint64_t drawn = draw(p, score_mode_name(mode), p->prompts[prompt].id, round);
    /* Where every token is traced and judged, few make a case. */
    bool is_engine = mode == SCORE_ENGINE || mode == SCORE_REUSE || mode == SCORE_DEVICE;
    size_t limit = is_engine ? 16 : mode == SCORE_BATCH ? 8 : n;
    size_t most = n > limit ? limit : n, least = 2 * most / 3;
    score_case base = {.mode = mode, .prompt = prompt, .place = {STAGE_NONE, -1}};
    base.n_token = least + drawn % (most - least + 1);
    base.n_chunk = is_engine ? (int32_t)(2 + (drawn >> 20) % (base.n_token / 2)) : 0;
    if (mode == SCORE_DEVICE) {
        return plan_defects(p, &base, round, err);
    }
    for (size_t k = 0; k < n_kind; k++) {
        bool is_asked = !o->faults || strstr(kind[k].name, o->faults);
        if (is_asked && mode_takes(mode, &kind[k]) && (k + round) % (uint64_t)o->one_of == 0) {
            GRETA_TRY(plan_kind(p, &base, &kind[k], round * 1000 + mode * 100 + prompt, err));
        }
    }
    for (uint64_t i = 0; i < 16 / (uint64_t)o->one_of && !o->faults && mode != SCORE_REUSE; i++) {
        GRETA_TRY(plan_stack(p, &base, (round * SCORE_STACKS + mode) * 100 + prompt * 16 + i, err));
    }
    if (round == 0 && prompt == 0) {
        GRETA_TRY(plan_reals(p, &base, err));
    }
    return plan_benign(p, &base, round, err);
}

greta_status score_plan_new(struct greta_model *model, const char *name,
                            const greta_prompt *prompts, size_t n_prompt,
                            const greta_score_options *options, score_plan *out, greta_error *err)
{
    planner p = {.model = model, .name = name, .prompts = prompts, .options = options, .plan = out};
    act_contract act = options->session.act == GRETA_ACT_F32 ? ACT_CONTRACT_F32 : ACT_CONTRACT_Q8;
    *out = (score_plan){0};
    greta_status status = op_list_build(model, act, &p.list, err);
    for (int32_t round = 0; round < options->n_round && status == GRETA_OK; round++) {
        for (score_mode mode = 0; mode < SCORE_MODES && status == GRETA_OK; mode++) {
            /* Devices are the exam's own, and asked for by name. */
            bool is_asked = is_wanted(options->modes, score_mode_name(mode)) &&
                            (mode != SCORE_DEVICE || options->modes);
            for (size_t i = 0; i < n_prompt && status == GRETA_OK; i++) {
                if (is_asked && mode != SCORE_FOREIGN) {
                    status = plan_round(&p, mode, i, (uint64_t)round, err);
                }
            }
        }
    }
    if (status == GRETA_OK && options->foreign && is_wanted(options->modes, "foreign")) {
        status = plan_foreign(&p, err);
    }
    op_list_free(&p.list);
    if (status != GRETA_OK) {
        score_plan_free(out);
    }
    return status;
}

void score_plan_free(score_plan *plan)
{
    free(plan->item);
    *plan = (score_plan){0};
}
