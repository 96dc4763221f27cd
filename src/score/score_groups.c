/* score_groups.c - the lines of an exam counted by a word that they share.
 *
 *     modes     how the two runs were made          causes    of planted faults, not of late ones
 *     variants  benign ones, those that differ      real      bugs that happened, by name
 *     models    which were asked                    devices   mistakes of the exam's devices
 *
 * A group is in the order of its first line. A case that no op can carry, and a planted one that
 * changes no bit, stand apart in each.
 */
#include "score/score_table.h"

#include <string.h>

typedef struct group {
    const char *name;
    int32_t n, n_refused, n_equal; /* lines; of them, not counted */
    int32_t n_fault, n_detected, n_place, n_cause, n_confirmed;
    int32_t n_quiet, n_differs, n_false;
} group;

typedef enum group_by {
    BY_MODE,
    BY_MODEL,
    BY_CAUSE,
    BY_VARIANT,
    BY_REAL,
    BY_DEVICE,
    GROUP_BYS
} group_by;

static const char *const by_name[GROUP_BYS] = {"modes",    "models", "causes",
                                               "variants", "real",   "devices"};

#define GROUPS_MAX 128

typedef struct groups {
    group item[GROUPS_MAX];
    size_t n;
} groups;

static const char *word(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

/* The word that a line is counted under; NULL: it is not. */
static const char *key_of(const json_t *line, group_by by)
{
    const json_t *planted = json_object_get(line, "planted");
    const char *sort = word(line, "sort");
    bool is_real = strcmp(sort, "real") == 0;
    bool is_late = json_is_true(json_object_get(planted, "is_late"));
    switch (by) {
    case BY_MODE:
        return is_real ? NULL : word(line, "mode");
    case BY_MODEL:
        return word(line, "model");
    case BY_CAUSE:
        return strcmp(sort, "fault") == 0 && !is_late ? word(planted, "cause") : NULL;
    case BY_VARIANT:
        return strcmp(sort, "benign") == 0 ? word(planted, "variant") : NULL;
    case BY_DEVICE:
        return strcmp(word(line, "mode"), "device") == 0 ? word(planted, "order") : NULL;
    default:
        return is_real ? word(planted, "order") : NULL;
    }
}

static group *group_of(groups *all, const char *name)
{
    for (size_t i = 0; i < all->n; i++) {
        if (strcmp(all->item[i].name, name) == 0) {
            return &all->item[i];
        }
    }
    if (all->n == GROUPS_MAX) {
        return NULL; /* an exam has fewer models and bugs; what is beyond is not told */
    }
    all->item[all->n] = (group){.name = name};
    return &all->item[all->n++];
}

static void group_count(group *g, const json_t *line)
{
    score_mark m = score_mark_of(line);
    g->n++;
    g->n_refused += m.is_refused;
    if (m.is_refused) {
        return;
    }
    if (!m.is_planted) {
        g->n_quiet++;
        g->n_differs += m.differs;
        g->n_false += m.is_alarm;
        return;
    }
    g->n_equal += !m.differs;
    if (m.differs) {
        g->n_fault++;
        g->n_detected += m.is_alarm;
        g->n_place += m.is_alarm && m.is_place;
        g->n_cause += m.is_alarm && m.is_place && m.is_cause;
        g->n_confirmed += m.is_place && m.is_cause && m.is_confirmed;
    }
}

static void groups_take(const score_lines *lines, group_by by, groups *out)
{
    out->n = 0;
    for (size_t i = 0; i < lines->n; i++) {
        const char *name = key_of(lines->item[i], by);
        group *g = name ? group_of(out, name) : NULL;
        if (g) {
            group_count(g, lines->item[i]);
        }
    }
}

json_t *score_groups_json(const score_lines *lines)
{
    json_t *root = json_object();
    groups all;
    for (group_by by = 0; by < GROUP_BYS && root; by++) {
        json_t *list = json_object();
        groups_take(lines, by, &all);
        for (size_t i = 0; i < all.n && list; i++) {
            const group *g = &all.item[i];
            json_object_set_new(
                list, g->name,
                json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "cases",
                          (int)g->n, "refused", (int)g->n_refused, "equal", (int)g->n_equal,
                          "faults", (int)g->n_fault, "detected", (int)g->n_detected, "placed",
                          (int)g->n_place, "cause_right", (int)g->n_cause, "confirmed",
                          (int)g->n_confirmed, "quiet", (int)g->n_quiet, "quiet_differing",
                          (int)g->n_differs, "false_alarms", (int)g->n_false));
        }
        json_object_set_new(root, by_name[by], list);
    }
    return root;
}

/* Of what was planted. */
static void planted_text(const groups *all, const char *title, text *out)
{
    text_format(out, "\n%-42s %7s %7s %7s %7s %9s %7s\n", title, "differ", "seen", "place", "cause",
                "confirmed", "equal");
    for (size_t i = 0; i < all->n; i++) {
        const group *g = &all->item[i];
        text_format(out, "%-42s %7d %7d %7d %7d %9d %7d\n", g->name[0] ? g->name : "no mistake",
                    (int)g->n_fault, (int)g->n_detected, (int)g->n_place, (int)g->n_cause,
                    (int)g->n_confirmed, (int)g->n_equal);
    }
}

void score_groups_text(const score_lines *lines, text *out)
{
    groups all;
    groups_take(lines, BY_VARIANT, &all);
    text_format(out, "%-42s %7s %7s %12s\n", "benign variants", "differ", "equal", "false alarms");
    for (size_t i = 0; i < all.n; i++) {
        const group *g = &all.item[i];
        text_format(out, "%-42s %7d %7d %12d\n", g->name, (int)g->n_differs,
                    (int)(g->n_quiet - g->n_differs), (int)g->n_false);
    }
    groups_take(lines, BY_REAL, &all);
    planted_text(&all, "bugs that happened: in models", out);
    groups_take(lines, BY_DEVICE, &all);
    if (all.n > 0) {
        planted_text(&all, "devices with one mistake: runs", out);
    }
    text_string(out, "\n");
}
