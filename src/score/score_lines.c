/* score_lines.c - the lines of an exam read back: each is checked before anything is counted.
 *
 * A case that stands twice (two processes were killed and started over) counts once, as it was
 * first written.
 */
#include "score/score_table.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

void score_lines_free(score_lines *lines)
{
    for (size_t i = 0; i < lines->n; i++) {
        json_decref(lines->item[i]);
    }
    free(lines->item);
    *lines = (score_lines){0};
}

static const char *id_of(const json_t *line)
{
    const char *id = json_string_value(json_object_get(line, "case"));
    return id ? id : "";
}

static int by_id(const void *a, const void *b)
{
    return strcmp(id_of(*(json_t *const *)a), id_of(*(json_t *const *)b));
}

bool score_lines_has(const score_lines *lines, const char *id)
{
    size_t low = 0, high = lines->n_sorted;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(id_of(lines->item[middle]), id);
        if (order == 0) {
            return true;
        }
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    return false;
}

/* What sums are taken from is there, and of the right type. */
static bool line_is_valid(const json_t *line)
{
    const json_t *planted = json_object_get(line, "planted");
    const json_t *referee = json_object_get(line, "referee");
    const json_t *methods = json_object_get(line, "methods");
    static const char *const whole[] = {"tokens", "half", "places", "bytes"};
    static const char *const words[] = {"case", "model", "prompt", "mode", "sort"};
    static const char *const said[] = {"verdict", "state", "bucket", "why"};
    bool is_valid = json_is_boolean(json_object_get(line, "refused")) &&
                    json_is_boolean(json_object_get(line, "differs")) &&
                    json_is_number(json_object_get(line, "seconds")) &&
                    json_is_string(json_object_get(planted, "cause")) &&
                    json_is_integer(json_object_get(referee, "accused"));
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        is_valid = is_valid && json_is_integer(json_object_get(line, whole[i]));
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        is_valid = is_valid && json_is_string(json_object_get(line, words[i]));
    }
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        is_valid = is_valid && json_is_string(json_object_get(referee, said[i]));
    }
    for (score_method m = 0; m < SCORE_METHODS; m++) {
        const json_t *one = json_object_get(methods, score_method_name(m));
        is_valid = is_valid && json_is_boolean(json_object_get(one, "alarm")) &&
                   json_is_string(json_object_get(one, "cause"));
    }
    return is_valid;
}

static greta_status line_add(score_lines *lines, const char *path, uint64_t number,
                             const char *bytes, size_t n, greta_error *err)
{
    json_error_t parse;
    json_t *line = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &parse);
    if (!line || !line_is_valid(line)) {
        json_decref(line);
        error_file(err, path);
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, number, "is no line of an exam");
    }
    if (lines->n == lines->n_most) {
        size_t more = lines->n_most ? 2 * lines->n_most : 256;
        json_t **grown = realloc(lines->item, more * sizeof *grown);
        if (!grown) {
            json_decref(line);
            return error_memory(err, "lines of an exam", more * sizeof *grown);
        }
        lines->item = grown;
        lines->n_most = more;
    }
    lines->item[lines->n++] = line;
    return GRETA_OK;
}

static void lines_sort(score_lines *lines)
{
    size_t n = 0;
    if (lines->n > 0) {
        qsort(lines->item, lines->n, sizeof(json_t *), by_id);
    }
    for (size_t i = 0; i < lines->n; i++) {
        if (n > 0 && by_id(&lines->item[n - 1], &lines->item[i]) == 0) {
            json_decref(lines->item[i]);
        } else {
            lines->item[n++] = lines->item[i];
        }
    }
    lines->n = lines->n_sorted = n;
}

greta_status score_lines_read(const char *path, score_lines *out, greta_error *err)
{
    mapped_file file;
    uint64_t number = 0;
    GRETA_TRY(mapped_file_open(path, &file, err));
    const char *at = (const char *)file.data, *end = at + file.size, *stop;
    greta_status status = GRETA_OK;
    while (status == GRETA_OK && at < end && (stop = memchr(at, '\n', (size_t)(end - at)))) {
        status = line_add(out, path, ++number, at, (size_t)(stop - at), err);
        at = stop + 1;
    }
    mapped_file_close(&file);
    if (status == GRETA_OK) {
        lines_sort(out);
    }
    return status;
}

static greta_status names_check(const char *list, const char *(*name_of)(int i), int n_name,
                                const char *what, greta_error *err)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t n = strcspn(at, ",");
        bool is_known = false;
        for (int i = 0; i < n_name; i++) {
            is_known = is_known || (strlen(name_of(i)) == n && memcmp(name_of(i), at, n) == 0);
        }
        if (!is_known) {
            text names = {0};
            for (int i = 0; i < n_name; i++) {
                text_format(&names, "%s%s", i ? ", " : "", name_of(i));
            }
            error_hint(err, "%s, with commas", names.failed ? "names" : names.data);
            text_free(&names);
            return error_set(err, GRETA_USAGE, "there is no %s \"%.*s\"", what,
                             (int)(n < 64 ? n : 64), at);
        }
    }
    return GRETA_OK;
}

static const char *mode_at(int i)
{
    return score_mode_name((score_mode)i);
}

static const char *sort_at(int i)
{
    return score_sort_name((score_sort)i);
}

greta_status score_modes_check(const char *modes, greta_error *err)
{
    return names_check(modes, mode_at, SCORE_MODES, "mode", err);
}

greta_status score_sorts_check(const char *sorts, greta_error *err)
{
    return names_check(sorts, sort_at, SCORE_SORTS, "sort of cases", err);
}
