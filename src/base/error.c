/* error.c - how a failure travels: a code, a place, a subject, a message, a hint.
 *
 * The first error wins because it is the cause; what callers learn later is context, and context
 * fills only fields that are still empty. Every field has a fixed size so that reporting a failure
 * can not fail itself; text that does not fit ends in "...".
 *
 * Names that come from files are escaped before they enter a message (escape below), and the line
 * is escaped once more as a whole: a message can not carry a terminal escape, a newline or a
 * right-to-left mark, whoever wrote it. A backslash stays one backslash, so that escaping twice
 * gives the same text as escaping once.
 *
 * System errors are worded here and not by strerror: the text then follows no locale, needs no
 * static buffer, and reads like the rest of our messages.
 */
#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ESCAPED_BYTES 120u   /* input bytes that escape() shows */
#define LINE_FILE_COLUMNS 400u /* of the line, so that a long path leaves room for the message */

static void print_to(char *out, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

static void print_to(char *out, size_t size, const char *format, va_list args)
{
    int length = vsnprintf(out, size, format, args);
    if (length >= 0 && (size_t)length >= size) {
        memcpy(out + size - 4, "...", 4);
    }
}

/* Whether this error is the first one; if so its code is set. */
static bool error_begin(greta_error *err, greta_status code)
{
    GRETA_ASSERT(code != GRETA_OK);
    if (err == NULL || err->code != GRETA_OK) {
        return false;
    }
    err->code = code;
    return true;
}

greta_status error_set(greta_error *err, greta_status code, const char *format, ...)
{
    if (error_begin(err, code)) {
        va_list args;
        va_start(args, format);
        print_to(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return code;
}

greta_status error_at(greta_error *err, greta_status code, greta_place place, uint64_t position,
                      const char *format, ...)
{
    if (error_begin(err, code)) {
        va_list args;
        va_start(args, format);
        print_to(err->message, sizeof err->message, format, args);
        va_end(args);
        err->place = place;
        err->position = position;
    }
    return code;
}

greta_status error_about(greta_error *err, greta_status code, const char *subject,
                         const char *format, ...)
{
    if (error_begin(err, code)) {
        va_list args;
        va_start(args, format);
        print_to(err->message, sizeof err->message, format, args);
        va_end(args);
        error_subject(err, "%s", subject);
    }
    return code;
}

const char *path_cut(const char *path, char out[PATH_CUT_MAX])
{
    size_t length = strlen(path);
    if (length < PATH_CUT_MAX) {
        memcpy(out, path, length + 1);
    } else {
        /* The end of a path says more than its beginning. */
        memcpy(out, "...", 3);
        memcpy(out + 3, path + length - (PATH_CUT_MAX - 4), PATH_CUT_MAX - 3);
    }
    return out;
}

void error_file(greta_error *err, const char *file)
{
    static_assert(sizeof err->file == PATH_CUT_MAX, "path_cut fills the field");
    if (err != NULL && err->file[0] == '\0' && file != NULL) {
        path_cut(file, err->file);
    }
}

void error_subject(greta_error *err, const char *format, ...)
{
    if (err != NULL && err->subject[0] == '\0') {
        va_list args;
        va_start(args, format);
        print_to(err->subject, sizeof err->subject, format, args);
        va_end(args);
    }
}

void error_hint(greta_error *err, const char *format, ...)
{
    if (err != NULL && err->hint[0] == '\0') {
        va_list args;
        va_start(args, format);
        print_to(err->hint, sizeof err->hint, format, args);
        va_end(args);
    }
}

greta_status error_memory(greta_error *err, const char *what, uint64_t bytes)
{
    return error_set(err, GRETA_IO, "out of memory: %s needs %" PRIu64 " bytes", what, bytes);
}

const char *error_reason(int number)
{
    static const struct {
        int number;
        const char *text;
    } reasons[] = {
        {EACCES, "permission denied"},
        {EAGAIN, "resource temporarily unavailable"},
        {EBADF, "the file is not open for this"},
        {EBUSY, "in use"},
        {EDQUOT, "disk quota exceeded"},
        {EEXIST, "exists already"},
        {EFBIG, "file too large"},
        {EINTR, "interrupted"},
        {EINVAL, "not possible for this file"},
        {EIO, "input or output error of the device"},
        {EISDIR, "is a folder"},
        {ELOOP, "too many symbolic links"},
        {EMFILE, "too many open files in this process"},
        {ENAMETOOLONG, "name too long"},
        {ENFILE, "too many open files in this system"},
        {ENODEV, "the device does not support this"},
        {ENOENT, "no such file or folder"},
        {ENOMEM, "out of memory"},
        {ENOSPC, "no space left"},
        {ENOTDIR, "a part of the path is not a folder"},
        {ENOTEMPTY, "folder not empty"},
        {ENXIO, "no such device"},
        {EOVERFLOW, "file too large for this system"},
        {EPERM, "operation not permitted"},
        {EPIPE, "the reader has gone"},
        {EROFS, "read-only file system"},
        {ETXTBSY, "is a running program"},
        {EXDEV, "on another file system"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (reasons[i].number == number) {
            return reasons[i].text;
        }
    }
    return "system error";
}

void assert_failed(const char *expression, const char *file, int line)
{
    /* Nothing can be trusted any more, so this is the one line that the library writes itself. */
    char text[512];
    int length = snprintf(text, sizeof text,
                          "greta: bug: \"%s\" does not hold at %s:%d; please report this line\n",
                          expression, file, line);
    size_t bytes = length < 0 ? 0 : (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    if (write(STDERR_FILENO, text, bytes) < 0) {
        abort(); /* The same end without the line. */
    }
    abort();
}

/* ---- Escaping -------------------------------------------------------------------------------- */

static size_t escaped_columns(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f ? 1 : 4;
}

/* Writes one byte as it is shown at `out`; returns the columns taken. */
static size_t escape_byte(unsigned char byte, char *out)
{
    static const char hex[] = "0123456789abcdef";
    if (escaped_columns(byte) == 1) {
        out[0] = (char)byte;
        return 1;
    }
    out[0] = '\\';
    out[1] = 'x';
    out[2] = hex[byte >> 4];
    out[3] = hex[byte & 15];
    return 4;
}

const char *escape(const char *bytes, size_t n, char out[ESCAPED_MAX])
{
    static_assert(ESCAPED_BYTES * 4 + 4 <= ESCAPED_MAX, "the worst name must fit");
    size_t shown = n < ESCAPED_BYTES ? n : ESCAPED_BYTES;
    size_t used = 0;
    for (size_t i = 0; i < shown; i++) {
        used += escape_byte((unsigned char)bytes[i], out + used);
    }
    memcpy(out + used, shown < n ? "..." : "", shown < n ? 4 : 1);
    return out;
}

/* ---- The line -------------------------------------------------------------------------------- */

typedef struct line_writer {
    char *out;
    size_t used;
} line_writer;

/* Adds `string` escaped, as far as it fits. */
static void line_add(line_writer *line, const char *string)
{
    for (; *string != '\0'; string++) {
        unsigned char byte = (unsigned char)*string;
        if (line->used + escaped_columns(byte) >= GRETA_ERROR_LINE) {
            return;
        }
        line->used += escape_byte(byte, line->out + line->used);
    }
}

/* The path in at most LINE_FILE_COLUMNS columns, cut at the front. */
static void line_add_file(line_writer *line, const char *file)
{
    size_t start = strlen(file);
    size_t columns = 0;
    while (start > 0 && columns + escaped_columns((unsigned char)file[start - 1]) <=
                            LINE_FILE_COLUMNS) {
        start--;
        columns += escaped_columns((unsigned char)file[start]);
    }
    line_add(line, start > 0 ? "..." : "");
    line_add(line, file + start);
}

const char *greta_error_line(const greta_error *err, char out[GRETA_ERROR_LINE])
{
    line_writer line = {.out = out};
    line_add(&line, "greta");
    if (err->file[0] != '\0') {
        line_add(&line, ": ");
        line_add_file(&line, err->file);
    }
    if (err->place != GRETA_PLACE_NONE) {
        char place[40];
        snprintf(place, sizeof place, ": %s %" PRIu64,
                 err->place == GRETA_PLACE_BYTE ? "byte" : "line", err->position);
        line_add(&line, place);
    }
    if (err->subject[0] != '\0') {
        line_add(&line, ": ");
        line_add(&line, err->subject);
    }
    line_add(&line, ": ");
    line_add(&line, err->message);
    if (err->hint[0] != '\0') {
        line_add(&line, "; ");
        line_add(&line, err->hint);
    }
    out[line.used] = '\0';
    return out;
}
