/* selector.c - which stages, layers, phases and tokens a trace keeps.
 *
 * The options are parsed once into tables, so that asking costs one look-up per op and the whole
 * mechanism costs nothing measurable when it is off. Layers limit the stages that repeat per layer;
 * a stage of the whole model (embed, logits ...) is chosen by its name alone.
 *
 * Positions go up to LIMIT_CONTEXT and are few, so they are kept as ranges, not as a set of flags.
 */
#include "base/limits.h"
#include "base/text.h"
#include "trace/trace.h"

#include <stdlib.h>
#include <string.h>

typedef struct position_range {
    int32_t first, last;
} position_range;

struct trace_selector {
    bool stage[STAGE_COUNT];
    bool phase[2];
    uint8_t *layer; /* (n_layer) */
    int32_t n_layer;
    bool tokens_all, tokens_last;
    bool cache; /* attention keeps the cache rows it read */
    position_range *range; /* (n_range) */
    size_t n_range;
    int64_t sample;
};

static const stage norm_stages[] = {STAGE_ATTN_NORM,      STAGE_Q_NORM,   STAGE_K_NORM,
                                    STAGE_ATTN_POST_NORM, STAGE_FFN_NORM, STAGE_FFN_POST_NORM,
                                    STAGE_FINAL_NORM};

/* ---- Lists ----------------------------------------------------------------------------------- */

/* One name of a comma-separated list; the list is its caller's place in the text. */
typedef struct list_item {
    const char *start;
    size_t n;
} list_item;

/* Moves to the next item; false: there is none. */
static bool list_next(const char **list, list_item *item)
{
    if (*list == NULL) {
        return false;
    }
    item->start = *list;
    item->n = strcspn(*list, ",");
    *list = (*list)[item->n] == ',' ? *list + item->n + 1 : NULL;
    return true;
}

static bool item_is(const list_item *item, const char *name)
{
    return strlen(name) == item->n && memcmp(item->start, name, item->n) == 0;
}

static greta_status item_error(const list_item *item, const char *flag, const char *expected,
                               greta_error *err)
{
    char shown[ESCAPED_MAX];
    return error_about(err, GRETA_USAGE, flag, "\"%s\" is unknown (%s)",
                       escape(item->start, item->n, shown), expected);
}

/* ---- Fields ---------------------------------------------------------------------------------- */

static greta_status stages_parse(const char *list, trace_selector *s, greta_error *err)
{
    list_item item;
    list = list == NULL ? "all" : list;
    while (list_next(&list, &item)) {
        bool is_known = false;
        for (int i = 0; i < STAGE_COUNT; i++) {
            if (item_is(&item, "all") || item_is(&item, stage_name((stage)i))) {
                s->stage[i] = is_known = true;
            }
        }
        for (size_t i = 0; item_is(&item, "norms") && i < sizeof norm_stages / sizeof(stage); i++) {
            s->stage[norm_stages[i]] = is_known = true;
        }
        if (!is_known) {
            return item_error(&item, "stages", "a stage name such as ffn_norm, or norms, or all",
                              err);
        }
    }
    return GRETA_OK;
}

static greta_status phases_parse(const char *list, trace_selector *s, greta_error *err)
{
    list_item item;
    list = list == NULL ? "prefill,decode" : list;
    while (list_next(&list, &item)) {
        if (item_is(&item, "prefill")) {
            s->phase[GRETA_PHASE_PREFILL] = true;
        } else if (item_is(&item, "decode")) {
            s->phase[GRETA_PHASE_DECODE] = true;
        } else {
            return item_error(&item, "phases", "prefill or decode", err);
        }
    }
    return GRETA_OK;
}

/* Digits at *start, moving past them; -1: there are none, or the number is no position. */
static int64_t position_parse(const char **start, const char *end)
{
    int64_t position = *start < end && **start >= '0' && **start <= '9' ? 0 : -1;
    for (; *start < end && **start >= '0' && **start <= '9'; (*start)++) {
        position = position * 10 + (**start - '0');
        if (position >= LIMIT_CONTEXT) {
            return -1;
        }
    }
    return position;
}

static greta_status tokens_parse(const char *list, trace_selector *s, greta_error *err)
{
    list_item item;
    size_t n_max = 1;
    list = list == NULL ? "all" : list;
    for (const char *comma = strchr(list, ','); comma != NULL; comma = strchr(comma + 1, ',')) {
        n_max++;
    }
    s->range = calloc(n_max, sizeof s->range[0]);
    if (s->range == NULL) {
        return error_memory(err, "token positions", n_max * sizeof s->range[0]);
    }
    while (list_next(&list, &item)) {
        if (item_is(&item, "all") || item_is(&item, "last")) {
            s->tokens_all = s->tokens_all || item_is(&item, "all");
            s->tokens_last = s->tokens_last || item_is(&item, "last");
            continue;
        }
        if (item_is(&item, "cache")) {
            s->cache = true;
            continue;
        }
        const char *cursor = item.start, *end = item.start + item.n;
        int64_t first = position_parse(&cursor, end), last = first;
        if (cursor < end && *cursor == '-') {
            cursor++;
            last = position_parse(&cursor, end);
        }
        if (first < 0 || last < first || cursor != end) {
            char shown[ESCAPED_MAX];
            return error_about(
                err, GRETA_USAGE, "tokens",
                "\"%s\" is not a position, a range, last, all or cache (positions below %d)",
                escape(item.start, item.n, shown), LIMIT_CONTEXT);
        }
        s->range[s->n_range++] = (position_range){(int32_t)first, (int32_t)last};
    }
    return GRETA_OK;
}

greta_status trace_selector_new(const greta_trace_options *options, int32_t n_layer,
                                trace_selector **out, greta_error *err)
{
    size_t layers = n_layer > 0 ? (size_t)n_layer : 0;
    trace_selector *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s != NULL) {
        s->layer = calloc(layers + 1, 1);
    }
    if (s == NULL || s->layer == NULL) {
        free(s);
        return error_memory(err, "trace selection", sizeof *s + layers);
    }
    s->n_layer = n_layer;
    s->sample = options->sample;
    greta_status status = stages_parse(options->stages, s, err);
    status = status ? status : ranges_parse("layers", options->layers, s->layer, layers, err);
    status = status ? status : phases_parse(options->phases, s, err);
    status = status ? status : tokens_parse(options->tokens, s, err);
    if (status == GRETA_OK && options->sample < -1) {
        status = error_about(err, GRETA_USAGE, "sample",
                             "%lld values (a whole number, 0 for none, -1 for all)",
                             (long long)options->sample);
    }
    if (status != GRETA_OK) {
        trace_selector_free(s);
        return status;
    }
    *out = s;
    return GRETA_OK;
}

void trace_selector_free(trace_selector *selector)
{
    if (selector != NULL) {
        free(selector->layer);
        free(selector->range);
        free(selector);
    }
}

/* ---- Questions ------------------------------------------------------------------------------- */

bool trace_selects_op(const trace_selector *s, stage name, int32_t layer, greta_phase phase)
{
    if ((int)name < 0 || name >= STAGE_COUNT || !s->stage[name] ||
        !s->phase[phase == GRETA_PHASE_DECODE]) {
        return false;
    }
    return !stage_is_per_layer(name) || (layer >= 0 && layer < s->n_layer && s->layer[layer]);
}

bool trace_selects_row(const trace_selector *s, int32_t position, bool is_last)
{
    bool is_selected = s->tokens_all || (s->tokens_last && is_last);
    for (size_t i = 0; i < s->n_range && !is_selected; i++) {
        is_selected = position >= s->range[i].first && position <= s->range[i].last;
    }
    return is_selected;
}

bool trace_selects_cache(const trace_selector *s)
{
    return s->cache;
}

int64_t trace_selects_values(const trace_selector *s, int64_t n)
{
    return s->sample < 0 || s->sample > n ? n : s->sample;
}
