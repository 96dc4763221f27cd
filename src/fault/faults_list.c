/* faults_list.c - the catalogue as text and as JSON: what `greta faults` prints. */
#include "base/text.h"
#include "fault/fault.h"

#include <jansson.h>

#include <stdlib.h>

static greta_status list_text(char **out, greta_error *err)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    text t = {0};
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || kind[i].cause != kind[i - 1].cause) {
            text_format(&t, "%s%s\n", i ? "\n" : "", cause_name(kind[i].cause));
        }
        text_format(&t, "  %-38s  %s", kind[i].name, kind[i].description);
        if (kind[i].layer_min > 0) {
            text_format(&t, " (layer %d or later)", (int)kind[i].layer_min);
        }
        text_string(&t, kind[i].needs_chunk ? " (of 2 rows or more)\n" : "\n");
    }
    return text_take(&t, out, err);
}

static json_t *kind_json(const fault_kind *kind)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:b, s:b}", "name", kind->name, "cause",
                     cause_name(kind->cause), "description", kind->description, "stage",
                     stage_name(kind->stage), "layer_min", (int)kind->layer_min, "needs_chunk",
                     (int)kind->needs_chunk, "needs_two_layers", (int)kind->needs_two_layers,
                     "is_hidden", (int)kind->is_hidden);
}

static greta_status list_json(char **out, greta_error *err)
{
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    text t = {0};
    json_t *list = json_array();
    int failed = list == NULL;
    for (size_t i = 0; i < n && !failed; i++) {
        failed = json_array_append_new(list, kind_json(&kind[i])) != 0;
    }
    json_t *root = failed ? NULL : json_pack("{s:O}", "faults", list);
    char *dump = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(list);
    json_decref(root);
    if (!dump) {
        return error_memory(err, "the list of faults", n * sizeof *kind);
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
