/* order.c - what a user writes to name faults and the places and rows to plant them at:
 *
 *     NAME[/STAGE][:LAYER][@TRIGGER][+NAME...]        "residual-twice:3@warm+rope-twice/q_rope"
 *     real/PROJECT-NUMBER-WHAT                        an order that real.c has under that name
 */
#include "fault/real.h"

#include "base/limits.h"

#include <string.h>

#define PART_MAX 128

/* The text up to one of `ends`, copied; the rest begins at the end. False: too long or empty. */
static bool part_take(const char **rest, const char *ends, char out[PART_MAX])
{
    size_t n = strcspn(*rest, ends);
    if (n == 0 || n >= PART_MAX) {
        return false;
    }
    memcpy(out, *rest, n);
    out[n] = '\0';
    *rest += n;
    return true;
}

static greta_status unknown(const char *what, const char *name, const char *hint, greta_error *err)
{
    char shown[ESCAPED_MAX];
    error_set(err, GRETA_USAGE, "there is no %s \"%s\"", what, escape(name, strlen(name), shown));
    error_hint(err, "%s", hint);
    return GRETA_USAGE;
}

/* Whole, below LIMIT_LAYERS; -1 otherwise. */
static int32_t layer_read(const char *word)
{
    int32_t layer = 0;
    for (const char *at = word; *at; at++) {
        if (*at < '0' || *at > '9' || layer >= LIMIT_LAYERS) {
            return -1;
        }
        layer = 10 * layer + (*at - '0');
    }
    return layer < LIMIT_LAYERS ? layer : -1;
}

static greta_status detail_read(const char **rest, fault_order_part *part, greta_error *err)
{
    char mark = *(*rest)++, word[PART_MAX];
    const fault_trigger *trigger;
    if (!part_take(rest, "/:@+", word)) {
        return error_set(err, GRETA_USAGE, "nothing after '%c' in a fault", mark);
    }
    switch (mark) {
    case '/':
        part->stage = stage_find(word);
        return part->stage != STAGE_NONE
                   ? GRETA_OK
                   : unknown("stage", word, "docs/trace-format.md lists them", err);
    case ':':
        part->layer = strcmp(word, "*") == 0 ? FAULT_EVERY_LAYER : layer_read(word);
        return part->layer != -1
                   ? GRETA_OK
                   : unknown("layer", word, "layers are whole numbers, or * for all", err);
    default:
        trigger = fault_trigger_find(word);
        part->trigger = trigger ? trigger->rows : (op_trigger){0};
        return trigger ? GRETA_OK : unknown("trigger", word, "greta faults lists them", err);
    }
}

fault_order fault_order_of(const fault_kind *kind, int32_t layer)
{
    fault_order order = {.n = kind != NULL};
    order.part[0] = (fault_order_part){.kind = kind, .stage = STAGE_NONE, .layer = layer};
    return order;
}

greta_status fault_order_parse(const char *text, fault_order *out, greta_error *err)
{
    char name[PART_MAX];
    *out = (fault_order){0};
    if (strncmp(text, FAULT_REAL_PREFIX, strlen(FAULT_REAL_PREFIX)) == 0) {
        const fault_real *real = fault_real_find(text);
        if (!real) {
            return unknown("real bug", text, "greta faults lists them", err);
        }
        text = real->order;
    }
    for (const char *rest = text;; rest++) {
        if (out->n == FAULTS_STACKED) {
            return error_set(err, GRETA_USAGE, "more than %d faults at once", FAULTS_STACKED);
        }
        fault_order_part *part = &out->part[out->n++];
        *part = (fault_order_part){.stage = STAGE_NONE, .layer = -1};
        if (!part_take(&rest, "/:@+", name) || !(part->kind = fault_find(name))) {
            return unknown("fault", text, "greta faults lists them", err);
        }
        while (*rest == '/' || *rest == ':' || *rest == '@') {
            GRETA_TRY(detail_read(&rest, part, err));
        }
        if (*rest == '\0') {
            return GRETA_OK;
        }
    }
}
