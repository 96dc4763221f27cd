/* isolate_load.c - traces back from disk, and which of their rows are prefill_last and decode0.
 *
 * Traces of one prompt are told by the prompt id in their headers, not by file names. Among them
 * prefill_last is the prefill row of the highest position: the session that decodes has prefilled
 * too, but one token less. decode0 is the decode row of the lowest position. Nothing else is
 * assumed, so that traces of the environment switches, of E0 runs, and pairs are all read by the
 * same rules, and what does not pair is found out by the judge.
 */
#include "base/limits.h"
#include "base/text.h"
#include "verdict/isolate.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Traces ---------------------------------------------------------------------------------- */

void trace_set_close(trace_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        trace_close(set->item[i]);
    }
    free(set->item);
    *set = (trace_set){0};
}

static greta_status set_open(char *const *path, size_t n, trace_set *set, greta_error *err)
{
    *set = (trace_set){0};
    set->item = calloc(n ? n : 1, sizeof *set->item);
    if (!set->item) {
        return error_memory(err, "traces", n * sizeof *set->item);
    }
    for (size_t i = 0; i < n; i++) {
        greta_status status = trace_open(path[i], &set->item[i], err);
        if (status != GRETA_OK) {
            trace_set_close(set);
            return status;
        }
        set->n++;
    }
    return GRETA_OK;
}

greta_status trace_set_open(const isolate_files *files, trace_set *set, greta_error *err)
{
    return set_open(files->path, files->n, set, err);
}

static bool is_trace_name(const char *name)
{
    size_t n = strlen(name);
    return name[0] != '.' && n > 6 && strcmp(name + n - 6, ".jsonl") == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Paths of the traces of an open folder, in order of their names. */
static greta_status folder_list(DIR *folder, const char *name, char **path, size_t *n,
                                greta_error *err)
{
    const struct dirent *entry;
    for (*n = 0; (entry = readdir(folder)) != NULL;) {
        text joined = {0};
        if (!is_trace_name(entry->d_name)) {
            continue;
        }
        if (*n == LIMIT_ISOLATE_TRACES) {
            error_file(err, name);
            return error_set(err, GRETA_BAD_INPUT, "more than %u traces in one folder",
                             LIMIT_ISOLATE_TRACES);
        }
        text_format(&joined, "%s/%s", name, entry->d_name);
        GRETA_TRY(text_take(&joined, &path[*n], err));
        ++*n;
    }
    qsort(path, *n, sizeof *path, by_name);
    return GRETA_OK;
}

greta_status trace_set_open_folder(const char *name, trace_set *set, greta_error *err)
{
    *set = (trace_set){0};
    DIR *folder = opendir(name);
    if (!folder) {
        greta_status status =
            error_set(err, GRETA_IO, "cannot read the folder: %s", error_reason(errno));
        error_file(err, name);
        return status;
    }
    char **path = calloc(LIMIT_ISOLATE_TRACES, sizeof *path);
    size_t n = 0;
    greta_status status = path ? folder_list(folder, name, path, &n, err)
                               : error_memory(err, "paths", LIMIT_ISOLATE_TRACES * sizeof *path);
    closedir(folder);
    if (status == GRETA_OK && n == 0) {
        status = error_set(err, GRETA_BAD_INPUT, "no trace in this folder (*.jsonl)");
        error_file(err, name);
    }
    if (status == GRETA_OK) {
        status = set_open(path, n, set, err);
    }
    for (size_t i = 0; path && i < n; i++) {
        free(path[i]);
    }
    free(path);
    return status;
}

greta_status trace_set_of_prompt(const trace_set *all, size_t first, uint8_t *taken, trace_set *out,
                                 greta_error *err)
{
    const char *id = all->item[first]->header.prompt_id;
    *out = (trace_set){0};
    out->item = calloc(all->n, sizeof *out->item);
    if (!out->item) {
        return error_memory(err, "traces", all->n * sizeof *out->item);
    }
    for (size_t i = first; i < all->n; i++) {
        bool is_alike = id[0] != '\0' && strcmp(all->item[i]->header.prompt_id, id) == 0;
        if (!taken[i] && (i == first || is_alike)) {
            taken[i] = 1;
            out->item[out->n++] = all->item[i];
        }
    }
    return GRETA_OK;
}

/* ---- Sides ----------------------------------------------------------------------------------- */

/* Whether `r` is a better prefill_last, or decode0, than what was seen so far. */
static bool is_better(side s, const trace_record *r, const trace_record *best)
{
    greta_phase wanted = s == SIDE_A ? GRETA_PHASE_PREFILL : GRETA_PHASE_DECODE;
    if (r->kind != TRACE_ROW || r->phase != wanted) {
        return false;
    }
    return !best || (s == SIDE_A ? r->position > best->position : r->position < best->position);
}

greta_status isolate_sides_choose(const trace_set *set, isolate_side sides[SIDE_COUNT],
                                  greta_error *err)
{
    memset(sides, 0, SIDE_COUNT * sizeof *sides);
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        for (size_t i = 0; i < set->n; i++) {
            const trace *t = set->item[i];
            for (size_t k = 0; k < t->n_record; k++) {
                if (is_better(s, &t->record[k], sides[s].any)) {
                    sides[s].any = &t->record[k];
                    sides[s].trace = t;
                }
            }
        }
        if (sides[s].trace) {
            greta_status status = site_new(sides[s].trace, sides[s].any, &sides[s], err);
            if (status != GRETA_OK) {
                isolate_sides_free(sides);
                return status;
            }
        }
    }
    return GRETA_OK;
}

void isolate_sides_free(isolate_side sides[SIDE_COUNT])
{
    for (int s = 0; s < SIDE_COUNT; s++) {
        site_free(&sides[s]);
    }
}
