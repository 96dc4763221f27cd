/* fault.c - finding a kind and its op, and planting it.
 *
 * The edited run does what a real engine with that bug would do, and its trace is honest: it shows
 * the row that was read, the numbers the kernel was given, the hash of the weights it saw.
 * It says nothing of the plant. In the `hidden` kinds the kernel itself is wrong, so the record
 * shows the right number and only the output betrays the other one.
 *
 * Rejected: flags inside the kernels (the healthy path would carry them), and faults applied to
 * traces after the run (they would skip everything downstream).
 */
#include "fault/fault.h"

#include "fault/edit.h"

#include <stdlib.h>
#include <string.h>

const fault_kind *fault_find(const char *name)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, kind[i].name) == 0) {
            return &kind[i];
        }
    }
    return NULL;
}

int32_t fault_layer_draw(const fault_kind *kind, int32_t n_layer, uint64_t seed)
{
    int32_t n = n_layer - kind->layer_min;
    if (n < 1 || (kind->needs_two_layers && n_layer < 2)) {
        return -1;
    }
    uint64_t z = seed + 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return kind->layer_min + (int32_t)(z % (uint64_t)n);
}

/* ---- Triggers -------------------------------------------------------------------------------- */

enum { PREFILL = 1u << 0, DECODE = 1u << 1 }; /* of greta_phase */

static const fault_trigger triggers[] = {
    {"prefill", "passes of a prefill", {.phases = PREFILL}},
    {"decode", "decode steps", {.phases = DECODE}},
    {"from-position-8", "positions from 8 on", {.position_min = 8}},
    {"from-position-64",
     "positions from 64 on: the second tile of attention",
     {.position_min = 64}},
    {"from-position-8192", "positions from 8192 on", {.position_min = 8192}},
    {"later-chunk", "rows of a sequence that began in an earlier pass", {.is_later_chunk = 1}},
    {"batch-row-1", "all rows of a pass but its first", {.row_min = 1}},
    {"tail-4", "the last rows of a pass, those that do not fill four", {.tail_of = 4}},
    {"tail-32", "the last rows of a pass, those that do not fill 32", {.tail_of = 32}},
    {"length-1-mod-4",
     "passes of one row more than a multiple of 4",
     {.length_of = 4, .length_rest = 1}},
    {"length-1-mod-32",
     "passes of one row more than a multiple of 32",
     {.length_of = 32, .length_rest = 1}},
    {"warm", "rows whose place in the KV cache was written before", {.is_warm = 1}},
};

const fault_trigger *fault_triggers(size_t *n)
{
    *n = sizeof triggers / sizeof *triggers;
    return triggers;
}

const fault_trigger *fault_trigger_find(const char *name)
{
    for (size_t i = 0; i < sizeof triggers / sizeof *triggers; i++) {
        if (strcmp(triggers[i].name, name) == 0) {
            return &triggers[i];
        }
    }
    return NULL;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

#define NO_PHASE (1u << 31)

/* Phases of both; 0 is no condition. */
static uint32_t phases_join(uint32_t a, uint32_t b)
{
    uint32_t both = a != 0 && b != 0 ? a & b : a | b;
    return both == 0 && (a | b) != 0 ? NO_PHASE : both;
}

/* Both must hold. Of two lengths the longer one implies the other: all are 1 more than a multiple
 * of a power of two. */
static op_trigger trigger_join(const op_trigger *a, const op_trigger *b)
{
    return (op_trigger){.phases = phases_join(a->phases, b->phases),
                        .position_min = larger(a->position_min, b->position_min),
                        .row_min = larger(a->row_min, b->row_min),
                        .tail_of = larger(a->tail_of, b->tail_of),
                        .length_of = larger(a->length_of, b->length_of),
                        .length_rest = larger(a->length_rest, b->length_rest),
                        .is_warm = a->is_warm | b->is_warm,
                        .is_later_chunk = a->is_later_chunk | b->is_later_chunk,
                        .has_next = a->has_next | b->has_next};
}

static int trigger_is_none(const op_trigger *t)
{
    return !(t->phases | (uint32_t)t->position_min | (uint32_t)t->row_min | (uint32_t)t->tail_of |
             (uint32_t)t->length_of | (uint32_t)t->is_warm | (uint32_t)t->is_later_chunk |
             (uint32_t)t->has_next);
}

/* ---- Planting -------------------------------------------------------------------------------- */

int32_t fault_site_op(const fault_site *site)
{
    const op_list *list = site->list;
    const fault_kind *kind = site->kind;
    stage wanted = site->stage == STAGE_NONE ? kind->stage : site->stage;
    int32_t at = op_list_op(list, wanted, stage_is_per_layer(wanted) ? site->layer : -1);
    if (at >= 0 && fault_where_is(kind->where, list, &list->op[at])) {
        return at;
    }
    int32_t layer = stage_is_per_layer(kind->stage) ? site->layer : -1;
    bool is_layer = layer >= 0 || !stage_is_per_layer(kind->stage);
    for (int32_t i = 0; i < list->n_op && site->stage == STAGE_NONE && is_layer; i++) {
        if (list->op[i].layer == layer && fault_where_is(kind->where, list, &list->op[i])) {
            return i;
        }
    }
    return -1;
}

greta_status fault_refuse(const fault_site *site, const op *target, const char *what,
                          greta_error *err)
{
    return error_about(err, GRETA_USAGE, site->kind->name, "there is no %s for %s in layer %d",
                       what, stage_name(target->name), (int)target->layer);
}

void *planted_memory(fault_planted *out, size_t bytes)
{
    GRETA_ASSERT(out->n_owned < (int32_t)(sizeof out->owned / sizeof *out->owned));
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes > 0 ? bytes : 1) != 0) {
        return NULL;
    }
    return out->owned[out->n_owned++] = memory;
}

weight *planted_weight(fault_planted *out, const weight *healthy, size_t bytes)
{
    uint8_t *data = planted_memory(out, bytes);
    weight *w = &out->tensor[out->n_tensor];
    if (!data) {
        return NULL;
    }
    out->n_tensor++;
    *w = *healthy;
    w->data = data;
    w->part = NULL;
    w->n_part = 0;
    return w;
}

/* The op runs the fault for the rows of both triggers; one op has one trigger. */
static greta_status trigger_bind(const fault_site *site, fault_planted *out, int32_t at,
                                 greta_error *err)
{
    op_trigger rows = trigger_join(&site->kind->trigger, &site->trigger);
    op *target = &out->list.op[at];
    bool is_edited = false;
    for (int32_t i = 0; i < out->n_op; i++) {
        is_edited |= out->op[i] == at;
    }
    if (is_edited) {
        op_trigger none = {0};
        const op_trigger *bound = target->trigger ? &out->trigger[target->trigger - 1] : &none;
        return memcmp(bound, &rows, sizeof rows) == 0
                   ? GRETA_OK
                   : error_about(err, GRETA_USAGE, site->kind->name,
                                 "%s in layer %d carries a fault for other rows",
                                 stage_name(target->name), (int)target->layer);
    }
    if (!trigger_is_none(&rows)) {
        out->trigger[out->n_trigger++] = rows;
        target->trigger = out->n_trigger;
    }
    return GRETA_OK;
}

greta_status fault_plant_add(const fault_site *site, fault_planted *out, greta_error *err)
{
    const fault_kind *kind = site->kind;
    int32_t at = fault_site_op(site);
    if (at < 0) {
        stage wanted = site->stage == STAGE_NONE ? kind->stage : site->stage;
        return error_about(err, GRETA_USAGE, kind->name,
                           "no %s in layer %d that can carry it (it is planted at %s)",
                           stage_name(wanted), (int)site->layer, fault_where_text(kind->where));
    }
    if (out->n_op == FAULT_OPS_MAX) {
        return error_about(err, GRETA_USAGE, kind->name, "a list holds at most %d faulty ops",
                           FAULT_OPS_MAX);
    }
    GRETA_TRY(trigger_bind(site, out, at, err));
    GRETA_TRY(kind->edit->plant(site, out, &out->list.op[at], err));
    out->op[out->n_op++] = at;
    return GRETA_OK;
}

greta_status fault_plant(const fault_site *site, fault_planted **out, greta_error *err)
{
    *out = NULL;
    fault_planted *planted = calloc(1, sizeof *planted);
    if (!planted) {
        return error_memory(err, "a planted fault", sizeof *planted);
    }
    greta_status status = op_list_copy(site->list, &planted->list, err);
    if (status == GRETA_OK) {
        status = fault_plant_add(site, planted, err);
    }
    if (status != GRETA_OK) {
        fault_planted_free(planted);
        return status;
    }
    *out = planted;
    return GRETA_OK;
}

/* As fault_plant_add, and where the op refuses, nothing is left of it. */
static greta_status plant_or_undo(const fault_site *site, fault_planted *planted, greta_error *err)
{
    int32_t at = fault_site_op(site), n_table = planted->n_table, n_trigger = planted->n_trigger;
    int32_t n_cos_sin = planted->n_cos_sin, n_tensor = planted->n_tensor;
    int32_t n_owned = planted->n_owned;
    op before = at < 0 ? (op){0} : planted->list.op[at];
    greta_status status = fault_plant_add(site, planted, err);
    if (status == GRETA_USAGE && at >= 0) {
        planted->list.op[at] = before;
        planted->n_table = n_table;
        planted->n_trigger = n_trigger;
        planted->n_cos_sin = n_cos_sin;
        planted->n_tensor = n_tensor;
        while (planted->n_owned > n_owned) {
            free(planted->owned[--planted->n_owned]);
        }
    }
    return status;
}

greta_status fault_plant_layers(const fault_site *site, int32_t n_layer, fault_planted **planted,
                                greta_error *err)
{
    fault_site at = *site;
    greta_error refused = {0};
    int32_t n = 0;
    bool is_new = !*planted;
    greta_status status = GRETA_OK;
    if (is_new && !(*planted = calloc(1, sizeof **planted))) {
        return error_memory(err, "a planted fault", sizeof **planted);
    }
    status = is_new ? op_list_copy(site->list, &(*planted)->list, err) : GRETA_OK;
    for (at.layer = site->kind->layer_min; at.layer < n_layer && status == GRETA_OK; at.layer++) {
        refused = (greta_error){0};
        status = plant_or_undo(&at, *planted, &refused);
        n += status == GRETA_OK;
        if (status == GRETA_USAGE && (*planted)->n_op < FAULT_OPS_MAX) {
            status = GRETA_OK;
        }
    }
    if (status == GRETA_OK && n == 0) {
        status = refused.code == GRETA_OK
                     ? error_about(err, GRETA_USAGE, site->kind->name, "no layer can carry it")
                     : (*err = refused, refused.code);
    } else if (status != GRETA_OK && refused.code != GRETA_OK) {
        *err = refused;
    }
    if (status != GRETA_OK && is_new) {
        fault_planted_free(*planted);
        *planted = NULL;
    }
    return status;
}

void fault_planted_free(fault_planted *planted)
{
    if (planted) {
        op_list_free(&planted->list);
        for (int32_t i = 0; i < planted->n_owned; i++) {
            free(planted->owned[i]);
        }
        free(planted);
    }
}

greta_status fault_tokens_edit(const fault_kind *kind, const int32_t *id, size_t n,
                               fault_tokens *out, greta_error *err)
{
    *out = (fault_tokens){0};
    GRETA_ASSERT(kind->where == WHERE_TOKENS);
    return kind->edit->tokens(id, n, out, err);
}
