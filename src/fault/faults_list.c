/* faults_list.c - the catalogue as text and as JSON: what `greta faults` prints.
 *
 * Grouped by cause, in the order of the catalogue; then the named triggers, bugs that happened, and
 * devices with one mistake.
 */
#include "base/text.h"
#include "fault/defect.h"
#include "fault/real.h"

#include <jansson.h>

#include <stdlib.h>

/* Sentences read after the op's name: "ffn_norm  uses ten times its eps". */
static void kind_text(text *t, const fault_kind *kind)
{
    text_format(t, "  %-37s %-14s %s (%s", kind->name, stage_name(kind->stage), kind->description,
                fault_where_text(kind->where));
    if (kind->layer_min > 0) {
        text_format(t, "; layer %d or later", (int)kind->layer_min);
    }
    text_string(t, kind->needs_two_layers ? "; two layers or more" : "");
    text_string(t, kind->needs_chunk ? "; a chunk of 2 rows or more" : "");
    text_string(t, kind->trigger.is_warm ? "; a warm cache" : "");
    text_string(t, kind->trigger.has_next ? "; not the last row of a pass" : "");
    if (kind->trigger.position_min > 0) {
        text_format(t, "; from position %d on", (int)kind->trigger.position_min);
    }
    text_string(t, kind->is_random ? "; does not repeat)\n" : ")\n");
}

static greta_status list_text(char **out, greta_error *err)
{
    size_t n, n_trigger, n_real;
    const fault_real *real = fault_reals(&n_real);
    const fault_kind *kind = fault_kinds(&n);
    const fault_trigger *trigger = fault_triggers(&n_trigger);
    text t = {0};
    text_format(
        &t,
        "%zu faults: name, op it is planted at, what that op does in the faulty run (which "
        "ops can carry it).\nNAME/STAGE plants at another op, NAME:LAYER in a layer, NAME:* "
        "in all, NAME@TRIGGER for some rows, NAME+NAME several.\n\n",
        n);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || kind[i].cause != kind[i - 1].cause) {
            text_format(&t, "%s%s\n", i ? "\n" : "", cause_name(kind[i].cause));
        }
        kind_text(&t, &kind[i]);
    }
    text_string(&t, "\nTriggers\n");
    for (size_t i = 0; i < n_trigger; i++) {
        text_format(&t, "  %-37s %s\n", trigger[i].name, trigger[i].description);
    }
    text_string(&t, "\nBugs that happened, in every layer that they were in\n");
    for (size_t i = 0; i < n_real; i++) {
        text_format(&t, "  %-45s %s (%s)\n", real[i].name, real[i].description, real[i].source);
    }
    text_string(&t, "\nDevices with one mistake: --device faulty:N, of a build's own plugin\n");
    for (int i = 0; i < DEFECT_COUNT; i++) {
        const fault_kind *k = &defects()[i].kind;
        text_format(&t, "  faulty:%-2d %-28s %-20s %s\n", i, k->name, i ? cause_name(k->cause) : "",
                    k->description);
    }
    return text_take(&t, out, err);
}

static json_t *kind_json(const fault_kind *kind)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "name",
        kind->name, "cause", cause_name(kind->cause), "description", kind->description, "stage",
        stage_name(kind->stage), "where", fault_where_text(kind->where), "layer_min",
        (int)kind->layer_min, "position_min", (int)kind->trigger.position_min, "needs_chunk",
        (int)kind->needs_chunk, "needs_two_layers", (int)kind->needs_two_layers, "needs_warm_cache",
        kind->trigger.is_warm, "needs_next_row", kind->trigger.has_next, "is_hidden",
        (int)kind->is_hidden, "is_random", (int)kind->is_random, "is_late", (int)kind->is_late);
}

static json_t *faults_json(void)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    json_t *list = json_array();
    for (size_t i = 0; i < n && list; i++) {
        if (json_array_append_new(list, kind_json(&kind[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *reals_json(void)
{
    size_t n;
    const fault_real *real = fault_reals(&n);
    json_t *list = json_array();
    for (size_t i = 0; i < n && list; i++) {
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "name",
                                              real[i].name, "source", real[i].source, "description",
                                              real[i].description, "order", real[i].order, "mode",
                                              real[i].mode, "stage", stage_name(real[i].stage),
                                              "cause", cause_name(real[i].cause)));
    }
    return list;
}

static json_t *devices_json(void)
{
    json_t *list = json_array();
    for (int i = 0; i < DEFECT_COUNT && list; i++) {
        const fault_kind *k = &defects()[i].kind;
        json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:s}", "number", i, "name", k->name,
                                              "cause", cause_name(k->cause), "description",
                                              k->description));
    }
    return list;
}

static json_t *triggers_json(void)
{
    size_t n;
    const fault_trigger *trigger = fault_triggers(&n);
    json_t *list = json_array();
    for (size_t i = 0; i < n && list; i++) {
        json_t *row =
            json_pack("{s:s, s:s}", "name", trigger[i].name, "description", trigger[i].description);
        if (json_array_append_new(list, row) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static greta_status list_json(char **out, greta_error *err)
{
    text t = {0};
    json_t *root = json_pack("{s:o, s:o, s:o, s:o}", "faults", faults_json(), "triggers",
                             triggers_json(), "real", reals_json(), "devices", devices_json());
    char *dump = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!dump) {
        return error_memory(err, "the list of faults", 0);
    }
    text_format(&t, "%s\n", dump);
    free(dump);
    return text_take(&t, out, err);
}

greta_status greta_faults(int json, char **out, greta_error *err)
{
    *out = NULL;
    return json ? list_json(out, err) : list_text(out, err);
}
