/* writer.c - a trace on its way to disk: two files that are never worse than a whole prefix.
 *
 * Names. x.jsonl.partial and x.jsonl.blob.partial while it is written; at the end both are synced
 * and renamed, the blob first, so that whoever sees x.jsonl sees all of it. One writer: the lock is
 * flock on x.jsonl.partial, held until the rename, so a killed writer leaves no stale lock; the
 * header says which process it was. A lock file of its own was rejected: it would outlive a crash.
 *
 * Order. A record's values go to the blob, then its line to the file in one write. A reader of the
 * unfinished files, or of those that a kill or a full disk leaves, finds whole records and at most
 * one torn line behind them. On a failed or short write both files are cut back to the last whole
 * record and the writer stays failed: everything later answers with the first error.
 *
 * Size. bytes_max counts both files, and keeps room for the footer. The record that does not fit
 * any more ends the trace; none after it is written even if it is smaller, so that what is there is
 * a prefix of what an unlimited run would have written.
 */
#include "base/limits.h"
#include "trace/record_json.h"
#include "trace/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define BYTES_MAX_DEFAULT (UINT64_C(4) << 30)
#define TENSORS_MAX       (TRACE_IN_MAX + TRACE_WEIGHT_MAX + TRACE_OUT_MAX)
#define PIECES_MAX        (TENSORS_MAX * 3) /* codes, scales, padding */
#define OWNER_TRIES       5000 /* 2 ms apart, for the header of a writer that just began */

struct trace_writer {
    int fd, blob_fd;        /* -1: not open */
    char *path, *blob_path; /* final names */
    char *partial, *blob_partial;
    bool overwrite;
    trace_header header;        /* what record_check needs; the buffer map is not kept */
    uint64_t bytes, blob_bytes; /* whole records on disk */
    uint64_t bytes_max;
    uint64_t n_record, sum;
    XXH64_state_t *digest, *span; /* of the file so far; of one record's values */
    text line;
    bool is_full;
    greta_error failure; /* of writing; sticks */
};

/* ---- Files ----------------------------------------------------------------------------------- */

static greta_status io_error(greta_error *err, const char *path, const char *what, int number)
{
    error_set(err, GRETA_IO, "cannot %s: %s", what, error_reason(number));
    error_file(err, path);
    return GRETA_IO;
}

static char *path_with(const char *path, const char *suffix)
{
    size_t n = strlen(path), suffix_n = strlen(suffix);
    char *joined = malloc(n + suffix_n + 1);
    if (joined != NULL) {
        memcpy(joined, path, n);
        memcpy(joined + n, suffix, suffix_n + 1);
    }
    return joined;
}

static greta_status paths_set(trace_writer *writer, const char *path, greta_error *err)
{
    static const char suffix[] = ".partial";
    size_t n = path == NULL ? 0 : strlen(path), tail = sizeof suffix - 1;
    if (n == 0) {
        return error_about(err, GRETA_USAGE, "trace", "no file is named");
    }
    if (n >= tail && strcmp(path + n - tail, suffix) == 0) {
        return error_about(err, GRETA_USAGE, "trace",
                           "the name ends in %s (a name for a whole trace)", suffix);
    }
    writer->path = path_with(path, "");
    writer->blob_path = path_with(path, ".blob");
    writer->partial = path_with(path, suffix);
    writer->blob_partial = path_with(path, ".blob.partial");
    if (writer->path == NULL || writer->blob_path == NULL || writer->partial == NULL ||
        writer->blob_partial == NULL) {
        return error_memory(err, "paths of the trace", 4 * n);
    }
    return GRETA_OK;
}

/* Opens for writing; a folder that is not there is the caller's mistake, the rest the system's. */
static greta_status file_create(const char *path, int flags, int *fd, greta_error *err)
{
    do {
        *fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | flags, 0666);
    } while (*fd < 0 && errno == EINTR);
    if (*fd >= 0) {
        return GRETA_OK;
    }
    bool is_usage = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG;
    error_set(err, is_usage ? GRETA_USAGE : GRETA_IO, "cannot create the trace: %s",
              error_reason(errno));
    error_file(err, path);
    return is_usage ? GRETA_USAGE : GRETA_IO;
}

/* The process that the header of an unfinished trace names; 0: none yet. */
static int64_t owner_read(int fd)
{
    static const char key[] = "\"process\":";
    char head[96];
    int64_t process = 0;
    ssize_t n = pread(fd, head, sizeof head - 1, 0);
    head[n > 0 ? n : 0] = '\0';
    const char *digit = strstr(head, key);
    for (digit = digit == NULL ? "" : digit + sizeof key - 1; *digit >= '0' && *digit <= '9';
         digit++) {
        process = process > INT32_MAX ? process : process * 10 + (*digit - '0');
    }
    return process;
}

static greta_status owner_error(const trace_writer *writer, greta_error *err)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    int64_t process = owner_read(writer->fd);
    for (int i = 0; i < OWNER_TRIES && process == 0; i++) {
        nanosleep(&pause, NULL);
        process = owner_read(writer->fd);
    }
    if (process == 0) {
        error_set(err, GRETA_IO, "is being written by another process");
    } else {
        error_set(err, GRETA_IO, "is being written by process %" PRId64, process);
    }
    error_file(err, writer->path);
    return GRETA_IO;
}

static void close_file(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* Opens and locks the partial file. The lock may come after its last owner renamed or removed the
 * file: then the name is another file's, or nobody's, and it starts again. */
static greta_status partial_lock(trace_writer *writer, greta_error *err)
{
    struct stat named, opened = {0};
    for (;;) {
        GRETA_TRY(file_create(writer->partial, 0, &writer->fd, err));
        if (flock(writer->fd, LOCK_EX | LOCK_NB) != 0) {
            greta_status status = errno == EWOULDBLOCK
                                      ? owner_error(writer, err)
                                      : io_error(err, writer->partial, "lock the trace", errno);
            close_file(&writer->fd);
            return status;
        }
        if (fstat(writer->fd, &opened) == 0 && lstat(writer->partial, &named) == 0 &&
            opened.st_ino == named.st_ino && opened.st_dev == named.st_dev) {
            break;
        }
        close_file(&writer->fd);
    }
    if (opened.st_size > 0 && !writer->overwrite) {
        error_set(err, GRETA_USAGE, "exists already, left by a run that did not end");
        error_file(err, writer->partial);
        error_hint(err, "read it, remove it, or overwrite it");
        close_file(&writer->fd); /* It stays as it is. */
        return GRETA_USAGE;
    }
    if (ftruncate(writer->fd, 0) != 0) {
        return io_error(err, writer->partial, "empty the old trace", errno);
    }
    return GRETA_OK;
}

/* An existing trace is refused; an existing folder or device of that name always. */
static greta_status final_check(const trace_writer *writer, const char *path, greta_error *err)
{
    struct stat named;
    if (lstat(path, &named) != 0 || (writer->overwrite && S_ISREG(named.st_mode))) {
        return GRETA_OK;
    }
    error_set(err, GRETA_USAGE, S_ISREG(named.st_mode) ? "exists already" : "is not a plain file");
    error_file(err, path);
    error_hint(err, "choose another name%s", S_ISREG(named.st_mode) ? " or overwrite it" : "");
    return GRETA_USAGE;
}

/* Writes all pieces, in one call unless the system takes less. Returns 0 or an errno value. */
static int pieces_write(int fd, struct iovec *piece, int n)
{
    while (n > 0) {
        ssize_t done = writev(fd, piece, n);
        if (done < 0 && errno != EINTR) {
            return errno;
        }
        for (size_t left = done > 0 ? (size_t)done : 0; n > 0; piece++, n--) {
            if (left < piece->iov_len) {
                piece->iov_base = (uint8_t *)piece->iov_base + left;
                piece->iov_len -= left;
                break;
            }
            left -= piece->iov_len;
        }
    }
    return 0;
}

/* ---- Beginning ------------------------------------------------------------------------------- */

static void writer_free(trace_writer *writer)
{
    close_file(&writer->fd);
    close_file(&writer->blob_fd);
    XXH64_freeState(writer->digest);
    XXH64_freeState(writer->span);
    text_free(&writer->line);
    free(writer->path);
    free(writer->blob_path);
    free(writer->partial);
    free(writer->blob_partial);
    free(writer);
}

/* Writes the sealed line and counts it. */
static greta_status line_write(trace_writer *writer, const char *what, uint64_t needed)
{
    greta_error *err = &writer->failure;
    struct iovec piece = {writer->line.data, writer->line.length};
    int number = pieces_write(writer->fd, &piece, 1);
    if (number != 0) {
        error_set(err, GRETA_IO, "cannot write %s: %s (it needs %" PRIu64 " bytes)", what,
                  error_reason(number), needed);
        return GRETA_IO;
    }
    writer->bytes += writer->line.length;
    return GRETA_OK;
}

static greta_status begin(trace_writer *writer, const trace_header *header, greta_error *err)
{
    uint64_t sum = 0;
    writer->header = *header;
    writer->header.format = TRACE_FORMAT_VERSION;
    writer->header.process = getpid();
    writer->header.bytes_max = writer->bytes_max;
    header_write(&writer->line, &writer->header);
    line_seal(&writer->line, &sum);
    writer->header.buffer = NULL;
    writer->header.n_buffer = 0;
    if (writer->line.failed) {
        return error_memory(err, "header of the trace", writer->line.length);
    }
    if (writer->line.length > LIMIT_TRACE_LINE_BYTES) {
        return error_set(err, GRETA_BUG, "the trace's header takes %zu bytes (at most %u)",
                         writer->line.length, LIMIT_TRACE_LINE_BYTES);
    }
    if (writer->line.length + TRACE_FOOTER_BYTES_MAX > writer->bytes_max) {
        return error_about(err, GRETA_USAGE, "bytes_max",
                           "%" PRIu64 " bytes do not hold a trace (at least %zu)",
                           writer->bytes_max, writer->line.length + TRACE_FOOTER_BYTES_MAX);
    }
    GRETA_TRY(partial_lock(writer, err));
    greta_status status = final_check(writer, writer->path, err);
    status = status != GRETA_OK ? status : final_check(writer, writer->blob_path, err);
    status = status != GRETA_OK ? status
                                : file_create(writer->blob_partial, O_TRUNC, &writer->blob_fd, err);
    if (status == GRETA_OK) {
        XXH64_update(writer->digest, writer->line.data, writer->line.length);
        status = line_write(writer, "the header", writer->line.length);
        if (status != GRETA_OK) {
            unlink(writer->blob_partial);
            *err = err->code == GRETA_OK ? writer->failure : *err;
        }
    }
    if (status != GRETA_OK) {
        unlink(writer->partial); /* Under the lock: it is ours. */
    }
    return status;
}

greta_status trace_writer_new(const greta_trace_options *options, const trace_header *header,
                              trace_writer **out, greta_error *err)
{
    greta_error ignored = {0};
    trace_writer *writer = calloc(1, sizeof *writer);
    *out = NULL;
    err = err == NULL ? &ignored : err;
    if (writer == NULL) {
        return error_memory(err, "trace writer", sizeof *writer);
    }
    writer->fd = writer->blob_fd = -1;
    writer->overwrite = options->overwrite != 0;
    writer->bytes_max = options->bytes_max == 0 ? BYTES_MAX_DEFAULT : options->bytes_max;
    writer->digest = XXH64_createState();
    writer->span = XXH64_createState();
    greta_status status = GRETA_OK;
    if (writer->digest == NULL || writer->span == NULL) {
        status = error_memory(err, "checksums", 2 * sizeof(XXH64_hash_t));
    } else {
        XXH64_reset(writer->digest, 0);
        status = paths_set(writer, options->path, err);
    }
    status = status == GRETA_OK ? begin(writer, header, err) : status;
    if (status != GRETA_OK) {
        error_file(err, options->path);
        writer_free(writer);
        return status;
    }
    *out = writer;
    return GRETA_OK;
}

/* ---- Records --------------------------------------------------------------------------------- */

typedef struct pieces {
    struct iovec piece[PIECES_MAX];
    int n;
    uint64_t bytes;
} pieces;

static void piece_add(pieces *p, const void *data, uint64_t bytes)
{
    if (bytes > 0) {
        GRETA_ASSERT(p->n < PIECES_MAX && data != NULL);
        p->piece[p->n].iov_base = (void *)(uintptr_t)data; /* writev does not write to it */
        p->piece[p->n++].iov_len = (size_t)bytes;
        p->bytes += bytes;
    }
}

/* Gives a tensor its place in the blob, at the end of the pieces. */
static void tensor_place(const trace_record *record, trace_tensor *tensor, uint64_t blob_bytes,
                         pieces *p)
{
    static const uint8_t padding[TRACE_BLOB_ALIGNMENT];
    const uint8_t *data = tensor->data;
    uint64_t before = p->bytes;
    tensor->blob_offset = tensor->blob_bytes = 0;
    if (record->kind == TRACE_INDEX) {
        piece_add(p, data, (uint64_t)record->chunk_rows * sizeof(row_hash));
    } else if (tensor->n_kept > 0 && tensor->type == DTYPE_ACT_Q8) {
        int64_t blocks = tensor->n_kept / 32 + (tensor->n_kept % 32 != 0);
        tensor->n_kept = blocks * 32;
        piece_add(p, data, (uint64_t)tensor->n_kept);
        piece_add(p, data + tensor->n, (uint64_t)blocks * 4);
    } else if (tensor->n_kept > 0) {
        uint64_t bytes = 0; /* 0: record_check refuses the type */
        trace_values_bytes(tensor->type, tensor->n_kept, &bytes);
        piece_add(p, data, bytes);
    }
    if (p->bytes > before) {
        tensor->blob_offset = blob_bytes + before;
        tensor->blob_bytes = p->bytes - before;
        piece_add(p, padding, (0 - p->bytes) % TRACE_BLOB_ALIGNMENT);
    }
}

static void span_set(trace_writer *writer, const pieces *p, trace_span *span)
{
    XXH64_reset(writer->span, 0);
    for (int i = 0; i < p->n; i++) {
        XXH64_update(writer->span, p->piece[i].iov_base, p->piece[i].iov_len);
    }
    span->offset = writer->blob_bytes;
    span->bytes = p->bytes;
    span->hash = XXH64_digest(writer->span);
}

/* The same answer to everything after the first failure. */
static greta_status writer_failed(const trace_writer *writer, greta_error *err)
{
    if (err != NULL && err->code == GRETA_OK) {
        *err = writer->failure;
    }
    return writer->failure.code;
}

/* Cuts both files back to the last whole record after a failed write. What cannot be cut is a torn
 * tail, which readers know. */
static greta_status writer_cut(trace_writer *writer, greta_error *err)
{
    bool is_cut = ftruncate(writer->fd, (off_t)writer->bytes) == 0 &&
                  ftruncate(writer->blob_fd, (off_t)writer->blob_bytes) == 0;
    error_file(&writer->failure, writer->partial);
    error_hint(&writer->failure, "free space and run again; the records before it are there%s",
               is_cut ? "" : ", and a torn one");
    return writer_failed(writer, err);
}

static greta_status record_put(trace_writer *writer, pieces *p)
{
    char what[40];
    uint64_t needed = p->bytes + writer->line.length;
    snprintf(what, sizeof what, "record %" PRIu64, writer->n_record);
    int number = pieces_write(writer->blob_fd, p->piece, p->n);
    if (number != 0) {
        return error_set(&writer->failure, GRETA_IO,
                         "cannot write %s: %s (it needs %" PRIu64 " bytes)", what,
                         error_reason(number), needed);
    }
    return line_write(writer, what, needed);
}

greta_status trace_writer_add(trace_writer *writer, trace_record *record, greta_error *err)
{
    char why[TRACE_WHY_MAX];
    pieces p = {.n = 0};
    trace_span span;
    if (writer->failure.code != GRETA_OK) {
        return writer_failed(writer, err);
    }
    if (writer->is_full) {
        return GRETA_OK;
    }
    GRETA_ASSERT(record->n_in >= 0 && record->n_in <= TRACE_IN_MAX && record->n_weight >= 0 &&
                 record->n_weight <= TRACE_WEIGHT_MAX && record->n_out >= 0 &&
                 record->n_out <= TRACE_OUT_MAX);
    for (int32_t i = 0; i < record->n_in; i++) {
        tensor_place(record, &record->in[i], writer->blob_bytes, &p);
    }
    for (int32_t i = 0; i < record->n_weight; i++) {
        tensor_place(record, &record->weight[i], writer->blob_bytes, &p);
    }
    for (int32_t i = 0; i < record->n_out; i++) {
        tensor_place(record, &record->out[i], writer->blob_bytes, &p);
    }
    record->n = writer->n_record;
    if (!record_check(record, &writer->header, why)) {
        error_set(&writer->failure, GRETA_BUG, "record %" PRIu64 " of the trace: %s",
                  writer->n_record, why);
        return writer_failed(writer, err);
    }
    span_set(writer, &p, &span);
    uint64_t sum = writer->sum;
    writer->line.length = 0;
    record_write(&writer->line, record, &span);
    line_seal(&writer->line, &sum);
    if (writer->line.failed) {
        error_memory(&writer->failure, "a line of the trace", writer->line.length);
        return writer_failed(writer, err);
    }
    uint64_t used = writer->bytes + writer->blob_bytes + TRACE_FOOTER_BYTES_MAX;
    if (used + writer->line.length + p.bytes > writer->bytes_max ||
        writer->n_record == LIMIT_TRACE_RECORDS) {
        writer->is_full = true;
        return GRETA_OK;
    }
    if (record_put(writer, &p) != GRETA_OK) {
        return writer_cut(writer, err);
    }
    XXH64_update(writer->digest, writer->line.data, writer->line.length);
    writer->blob_bytes += p.bytes;
    writer->sum = sum;
    writer->n_record++;
    return GRETA_OK;
}

bool trace_writer_is_full(const trace_writer *writer)
{
    return writer->is_full;
}

/* ---- End ------------------------------------------------------------------------------------- */

/* Makes the renames last. A file system that cannot sync a folder has no more to offer. */
static void folder_sync(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL ? path_with(".", "") : path_with(path, "");
    if (folder != NULL && slash != NULL) {
        folder[slash == path ? 1 : slash - path] = '\0';
    }
    int fd = folder == NULL ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

/* An old trace goes first: it must never stand beside the new blob. */
static greta_status names_set(const trace_writer *writer, greta_error *err)
{
    if (fsync(writer->blob_fd) != 0 || fsync(writer->fd) != 0) {
        return io_error(err, writer->partial, "sync the trace", errno);
    }
    GRETA_TRY(final_check(writer, writer->path, err));
    GRETA_TRY(final_check(writer, writer->blob_path, err));
    if (unlink(writer->path) != 0 && errno != ENOENT) {
        return io_error(err, writer->path, "replace the old trace", errno);
    }
    if (rename(writer->blob_partial, writer->blob_path) != 0 ||
        rename(writer->partial, writer->path) != 0) {
        return io_error(err, writer->partial, "give the trace its name", errno);
    }
    folder_sync(writer->path);
    return GRETA_OK;
}

greta_status trace_writer_end(trace_writer *writer, const char *status, greta_error *err)
{
    trace_footer footer = {.n_record = writer->n_record, .blob_bytes = writer->blob_bytes};
    greta_status result = writer->failure.code;
    if (!footer_status_is_known(status)) {
        result = error_about(err, GRETA_USAGE, status, "no way for a trace to end");
    } else if (result == GRETA_OK) {
        snprintf(footer.status, sizeof footer.status, "%s", writer->is_full ? "truncated" : status);
        footer.digest = XXH64_digest(writer->digest);
        writer->line.length = 0;
        footer_write(&writer->line, &footer);
        line_seal(&writer->line, &writer->sum);
        GRETA_ASSERT(writer->line.length <= TRACE_FOOTER_BYTES_MAX);
        result = line_write(writer, "the footer", writer->line.length);
        result = result == GRETA_OK ? names_set(writer, err) : writer_cut(writer, err);
    } else {
        writer_failed(writer, err);
    }
    writer_free(writer);
    return result;
}
