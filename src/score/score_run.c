/* score_run.c - the public functions of the exam: sit the cases that are not there yet, read them
 * all.
 *
 * A folder holds the lines of every process that worked in it: cases.jsonl, or cases-<part>.jsonl.
 * A line is written when its case is judged, in one piece; what a killed process left of one is cut
 * off by the next, so that an exam goes on where it was stopped.
 */
#include "score/score_table.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Files ----------------------------------------------------------------------------------- */

static int is_cases(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 6 && strncmp(entry->d_name, "cases", 5) == 0 &&
           strcmp(entry->d_name + n - 6, ".jsonl") == 0;
}

greta_status score_files_read(const char *folder, score_lines *out, greta_error *err)
{
    struct dirent **entry = NULL;
    *out = (score_lines){0};
    int n = scandir(folder, &entry, is_cases, alphasort);
    greta_status status = GRETA_OK;
    for (int i = 0; i < n; i++) {
        text path = {0};
        text_format(&path, "%s/%s", folder, entry[i]->d_name);
        status = status ? status : path.failed ? error_memory(err, "a path", 0) : GRETA_OK;
        status = status ? status : score_lines_read(path.data, out, err);
        text_free(&path);
        free(entry[i]);
    }
    free(entry);
    if (status != GRETA_OK) {
        score_lines_free(out);
    }
    return status;
}

/* Opens a file of lines for appending; what stands behind the last newline is cut off. */
static greta_status lines_open(const char *path, int *fd, greta_error *err)
{
    char byte = '\n';
    *fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    off_t end = *fd < 0 ? -1 : lseek(*fd, 0, SEEK_END);
    while (end > 0 && pread(*fd, &byte, 1, end - 1) == 1 && byte != '\n') {
        end--;
    }
    if (end < 0 || ftruncate(*fd, end) != 0) {
        error_file(err, path);
        error_set(err, GRETA_IO, "cannot be written: %s", error_reason(errno));
        if (*fd >= 0) {
            close(*fd);
        }
        return GRETA_IO;
    }
    return GRETA_OK;
}

static greta_status line_write(int fd, const char *path, const text *line, greta_error *err)
{
    size_t done = 0;
    while (!line->failed && done < line->length) {
        ssize_t n = write(fd, line->data + done, line->length - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            error_file(err, path);
            return error_set(err, GRETA_IO, "cannot be written: %s", error_reason(errno));
        }
        done += (size_t)n;
    }
    return line->failed ? error_memory(err, "a line of the exam", 0) : GRETA_OK;
}

/* ---- Sitting --------------------------------------------------------------------------------- */

typedef struct sitting {
    score_room room;
    score_plan plan;
    score_lines done;
    const char *model;
    int fd;
    char *path;
} sitting;

static bool is_mine(const greta_score_options *o, size_t i)
{
    return o->n_part <= 1 || i % (size_t)o->n_part == (size_t)o->part;
}

static greta_status case_sit(sitting *s, score_case *c, greta_error *err)
{
    score_answer answer;
    text line = {0};
    GRETA_TRY(score_sit(&s->room, c, &answer, err));
    greta_status status =
        score_line(c, s->model, s->room.prompts[c->prompt].id, &answer, &line, err);
    status = status ? status : line_write(s->fd, s->path, &line, err);
    text_free(&line);
    return status;
}

static greta_status cases_sit(sitting *s, const greta_score_options *o, greta_error *err)
{
    size_t n = 0, total = 0;
    for (size_t i = 0; i < s->plan.n; i++) {
        total += is_mine(o, i);
    }
    for (size_t i = 0; i < s->plan.n; i++) {
        if (!is_mine(o, i)) {
            continue;
        }
        if (o->progress && o->progress(o->user, "cases", n, total)) {
            return GRETA_OK; /* asked to stop: the lines that are there stay */
        }
        if (!score_lines_has(&s->done, s->plan.item[i].id)) {
            GRETA_TRY(case_sit(s, &s->plan.item[i], err));
        }
        n++;
    }
    if (o->progress) {
        o->progress(o->user, "cases", total, total);
    }
    return GRETA_OK;
}

static greta_status options_check(const greta_score_options *given, size_t n_prompt,
                                  greta_score_options *out, greta_error *err)
{
    *out = *given;
    out->one_of = out->one_of < 1 ? 1 : out->one_of;
    out->n_round = out->n_round < 1 ? 1 : out->n_round;
    if (given->size != sizeof *given) {
        return error_set(err, GRETA_USAGE, "greta_score_options of %zu bytes (%zu)", given->size,
                         sizeof *given);
    }
    if (!given->out || n_prompt == 0) {
        return error_set(err, GRETA_USAGE, "%s",
                         given->out ? "no prompt (1 or more)" : "no folder");
    }
    if (given->part < 0 || (given->n_part > 0 && given->part >= given->n_part)) {
        return error_set(err, GRETA_USAGE, "part %d of %d", (int)given->part, (int)given->n_part);
    }
    GRETA_TRY(score_modes_check(given->modes, err));
    return score_sorts_check(given->sorts, err);
}

static greta_status prompts_check(const greta_model *model, const greta_prompt *prompts, size_t n,
                                  greta_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (prompts[i].n < 8) {
            return error_about(err, GRETA_BAD_INPUT, prompts[i].id,
                               "%zu tokens (at least 8 for the exam)", prompts[i].n);
        }
        for (size_t k = 0; k < prompts[i].n; k++) {
            if (prompts[i].token[k] < 0 || prompts[i].token[k] >= model->cfg.n_vocab) {
                return error_about(err, GRETA_BAD_INPUT, prompts[i].id, "there is no token %d",
                                   (int)prompts[i].token[k]);
            }
        }
    }
    return GRETA_OK;
}

greta_status greta_score_run(greta_model *model, const char *name, const greta_prompt *prompts,
                             size_t n_prompt, const greta_score_options *options, greta_error *err)
{
    sitting s = {.model = name, .fd = -1};
    greta_score_options o;
    text path = {0};
    GRETA_TRY(options_check(options, n_prompt, &o, err));
    GRETA_TRY(prompts_check(model, prompts, n_prompt, err));
    GRETA_TRY(folder_make(o.out, err));
    text_format(&path, o.n_part > 1 ? "%s/cases-%d.jsonl" : "%s/cases.jsonl", o.out, (int)o.part);
    greta_status status = text_take(&path, &s.path, err);
    status = status ? status : lines_open(s.path, &s.fd, err);
    status = status ? status : score_files_read(o.out, &s.done, err);
    status = status ? status : score_plan_new(model, name, prompts, n_prompt, &o, &s.plan, err);
    status = status ? status : score_room_open(model, prompts, &o, &s.room, err);
    if (status == GRETA_OK) {
        status = cases_sit(&s, &o, err);
        score_room_close(&s.room);
    }
    score_plan_free(&s.plan);
    score_lines_free(&s.done);
    if (s.fd >= 0) {
        close(s.fd);
    }
    free(s.path);
    return status;
}
