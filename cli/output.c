/* output.c - see output.h.
 *
 * A closed pipe ends the program quietly, but not at once: SIGPIPE is ignored so that a trace that
 * is being written gets its footer first; main then dies of the signal, as the shell expects.
 * Closed standard streams are filled with /dev/null opened the wrong way round, so that a model or
 * a trace can never become descriptor 1 and be written to by printf.
 */
#include "output.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_broken;
static int bar_percent = -1; /* of the progress bar on the screen; -1: there is none */
static volatile sig_atomic_t signal_seen;

/* ---- Errors ---------------------------------------------------------------------------------- */

greta_status fail(greta_error *err, greta_status code, const char *format, ...)
{
    if (!err->code) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(err->message, sizeof err->message, format, arguments);
        va_end(arguments);
        err->code = code;
    }
    return code;
}

void fail_hint(greta_error *err, const char *format, ...)
{
    if (!err->hint[0]) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(err->hint, sizeof err->hint, format, arguments);
        va_end(arguments);
    }
}

/* In lower case: "no space left on device". */
static const char *reason(int error_number, char out[96])
{
    snprintf(out, 96, "%s", strerror(error_number));
    out[0] = (char)tolower((unsigned char)out[0]);
    return out;
}

greta_status fail_errno(greta_error *err, const char *format, ...)
{
    int error_number = errno;
    char what[200], why[96];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return fail(err, GRETA_IO, "%s: %s", what, reason(error_number, why));
}

greta_status fail_memory(greta_error *err)
{
    return fail(err, GRETA_IO, "out of memory");
}

const char *quoted(const char *bytes, size_t n, char out[QUOTED_MAX])
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (length + 4 > 120) {
            snprintf(out + length, QUOTED_MAX - length, "...");
            return out;
        }
        if (byte >= 0x20 && byte < 0x7f) {
            out[length++] = (char)byte;
        } else {
            length += (size_t)snprintf(out + length, QUOTED_MAX - length, "\\x%02x", byte);
        }
    }
    out[length] = '\0';
    return out;
}

/* ---- stdout ---------------------------------------------------------------------------------- */

static void signal_bus(int number)
{
    static const char line[] = "greta: a file became shorter while it was read (the model?)\n";
    (void)number;
    _exit(write(STDERR_FILENO, line, sizeof line - 1) < 0 ? GRETA_BUG : GRETA_IO);
}

void output_start(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            /* open takes the lowest free number, which is fd. Reading stdin and writing stdout must
             * fail; what goes to stderr is lost. */
            int opened = open("/dev/null", fd == 1 ? O_RDONLY : O_WRONLY);
            if (opened > 2) {
                close(opened);
            }
        }
    }
    signal(SIGBUS, signal_bus);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then an error of write, with its reason */
}

static void bar_clear(void);

static greta_status output_failed(greta_error *err)
{
    is_broken = is_broken || errno == EPIPE;
    return fail_errno(err, "cannot write output");
}

greta_status output_flush(greta_error *err)
{
    return fflush(stdout) || ferror(stdout) ? output_failed(err) : GRETA_OK;
}

greta_status output_bytes(const void *bytes, size_t n, greta_error *err)
{
    bar_clear();
    return n && fwrite(bytes, 1, n, stdout) != n ? output_failed(err) : GRETA_OK;
}

greta_status output_text(const char *text, greta_error *err)
{
    return output_bytes(text, strlen(text), err);
}

greta_status output_take(char *text, greta_error *err)
{
    greta_status status = output_text(text ? text : "", err);
    greta_free(text);
    return status ? status : output_flush(err);
}

static int json_chunk(const char *bytes, size_t n, void *user)
{
    return output_bytes(bytes, n, user) ? -1 : 0;
}

greta_status output_json(json_t *value, greta_error *err)
{
    if (!value) {
        return fail_memory(err);
    }
    int failed = json_dump_callback(value, json_chunk, err, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(value);
    if (failed) {
        return err->code ? err->code : fail_memory(err);
    }
    greta_status status = output_text("\n", err);
    return status ? status : output_flush(err);
}

bool output_end(const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    bar_clear();
    if (err->code && !is_broken) {
        fprintf(stderr, "%s\n", greta_error_line(err, line));
    }
    return is_broken;
}

/* Bytes of the well-formed UTF-8 sequence at `s` (RFC 3629); 0: none starts here. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    static const struct {
        unsigned char lead_min, lead_max, next_min, next_max, bytes;
    } form[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t f = 0; f < sizeof form / sizeof *form; f++) {
        if (s[0] < form[f].lead_min || s[0] > form[f].lead_max) {
            continue;
        }
        if (n < form[f].bytes) {
            return 0;
        }
        for (size_t i = 1; i < form[f].bytes; i++) {
            unsigned char low = i == 1 ? form[f].next_min : 0x80;
            unsigned char high = i == 1 ? form[f].next_max : 0xbf;
            if (s[i] < low || s[i] > high) {
                return 0;
            }
        }
        return form[f].bytes;
    }
    return 0;
}

json_t *json_text(const char *bytes, size_t n)
{
    char *clean = malloc(3 * n + 1); /* a bad byte becomes the three of U+FFFD */
    size_t length = 0;
    if (!clean) {
        return NULL;
    }
    for (size_t i = 0; i < n;) {
        size_t good = utf8_length((const unsigned char *)bytes + i, n - i);
        memcpy(clean + length, good ? bytes + i : "\xef\xbf\xbd", good ? good : 3);
        length += good ? good : 3;
        i += good ? good : 1;
    }
    json_t *value = json_stringn(clean, length);
    free(clean);
    return value;
}

json_t *json_hex(const void *bytes, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    const unsigned char *from = bytes;
    char *hex = malloc(2 * n + 1);
    if (!hex) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digit[from[i] >> 4];
        hex[2 * i + 1] = digit[from[i] & 15];
    }
    json_t *value = json_stringn_nocheck(hex, 2 * n);
    free(hex);
    return value;
}

json_t *json_number(double value)
{
    json_t *number = json_real(value); /* NULL when not finite */
    return number ? number : json_null();
}

json_t *json_ids(const int32_t *id, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        if (json_array_append_new(list, json_integer(id[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* ---- stderr ---------------------------------------------------------------------------------- */

void note(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    bar_clear();
    fprintf(stderr, "greta: note: %s\n", text);
}

static void bar_clear(void)
{
    if (bar_percent >= 0) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
        bar_percent = -1;
    }
}

void progress(const char *what, uint64_t done, uint64_t total)
{
    static const char full[] = "##############################";
    static char shown[48];
    int width = (int)sizeof full - 1;
    int percent = total ? (int)((done < total ? done : total) * 100 / total) : 0;
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    if (percent == 100) {
        bar_clear();
    } else if (percent != bar_percent || strncmp(what, shown, sizeof shown - 1) != 0) {
        snprintf(shown, sizeof shown, "%s", what);
        fprintf(stderr, "\r\033[K[%-*.*s] %3d %% %s", width, width * percent / 100, full, percent,
                shown);
        fflush(stderr);
        bar_percent = percent;
    }
}

void progress_watch(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    progress(what, done, total);
}

void progress_parts(void *user, const char *what, size_t done, size_t total)
{
    char q[QUOTED_MAX];
    (void)user;
    quoted(what, strlen(what), q);
    if (done == 0) {
        note("%s", q);
    } else {
        progress(q, done, total);
    }
}

const char *bytes_text(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    size_t u = 0;
    double value = (double)bytes;
    while (value >= 1024 && u + 1 < sizeof unit / sizeof *unit) {
        value /= 1024;
        u++;
    }
    snprintf(out, 32, "%.*f %s", u ? 1 : 0, value, unit[u]);
    return out;
}

/* ---- Files ----------------------------------------------------------------------------------- */

bool same_file(const char *a, const char *b)
{
    struct stat stat_a, stat_b;
    return a && b && stat(a, &stat_a) == 0 && stat(b, &stat_b) == 0 &&
           stat_a.st_dev == stat_b.st_dev && stat_a.st_ino == stat_b.st_ino;
}

greta_status output_file_open(output_file *file, const output_target *target, greta_error *err)
{
    char q[QUOTED_MAX];
    struct stat there;
    *file = (output_file){.path = target->path};
    quoted(target->path, strlen(target->path), q);
    for (size_t i = 0; i < 2; i++) {
        if (same_file(target->path, target->input[i])) {
            return fail(err, GRETA_USAGE, "%s is read by this run; it cannot be its output", q);
        }
    }
    if (stat(target->path, &there) == 0 && (!target->force || !S_ISREG(there.st_mode))) {
        fail(err, GRETA_USAGE, "%s %s", q,
             S_ISREG(there.st_mode) ? "exists" : "is there and no regular file");
        fail_hint(err, S_ISREG(there.st_mode) ? "--force replaces it" : "choose another name");
        return GRETA_USAGE;
    }
    file->partial = malloc(strlen(target->path) + sizeof ".partial");
    if (!file->partial) {
        return fail_memory(err);
    }
    memcpy(file->partial, target->path, strlen(target->path));
    memcpy(file->partial + strlen(target->path), ".partial", sizeof ".partial");
    file->stream = fopen(file->partial, "wbe");
    if (!file->stream) {
        bool is_misplaced = errno == ENOENT || errno == ENOTDIR;
        free(file->partial);
        file->partial = NULL;
        return is_misplaced ? fail(err, GRETA_USAGE, "%s: its folder is not there", q)
                            : fail_errno(err, "cannot create %s", q);
    }
    return GRETA_OK;
}

greta_status output_file_write(output_file *file, const void *bytes, size_t n, greta_error *err)
{
    char q[QUOTED_MAX];
    return fwrite(bytes, 1, n, file->stream) == n
               ? GRETA_OK
               : fail_errno(err, "cannot write %s", quoted(file->path, strlen(file->path), q));
}

greta_status output_file_close(output_file *file, bool keep, greta_error *err)
{
    char q[QUOTED_MAX];
    greta_status status = GRETA_OK;
    if (!file->stream) {
        return GRETA_OK;
    }
    bool is_written = fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
    is_written = (fclose(file->stream) == 0) && is_written;
    file->stream = NULL;
    if (keep && (!is_written || rename(file->partial, file->path))) {
        status = fail_errno(err, "cannot write %s", quoted(file->path, strlen(file->path), q));
        keep = false;
    }
    if (!keep) {
        unlink(file->partial);
    }
    free(file->partial);
    file->partial = NULL;
    return status;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static void signal_note(int number)
{
    signal_seen = number;
}

void signals_catch(void)
{
    struct sigaction action = {.sa_handler = signal_note, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int signals_seen(void)
{
    return signal_seen;
}
