/* file.c - files as the library meets them: mapped read-only, or written whole.
 *
 * A model is mapped privately and never written. Opening does not block (a FIFO would) and refuses
 * everything but regular files: a device or a pipe has no size to check offsets against. The
 * descriptor stays open so that mapped_file_changed can ask the same inode again.
 *
 * What a mapping can not promise: pages past a new end of file raise SIGBUS, and pages inside it
 * read as 0 after the file was cut, without a signal. The program handles the first; whoever cares
 * about the second asks mapped_file_changed after the run. The kernel stamps mtime in steps of a
 * few milliseconds: a rewrite in the same step as the open keeps size and mtime and is not seen.
 *
 * Small results are written to "<path>.partial", synced and renamed, so that the final name never
 * holds half a file.
 */
#include "base/file.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTIAL ".partial"

/* "cannot <doing>: <reason>" about the file. */
static greta_status fail(greta_error *err, const char *path, const char *doing, const char *reason)
{
    error_set(err, GRETA_IO, "cannot %s: %s", doing, reason);
    error_file(err, path);
    return GRETA_IO;
}

static int open_retried(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "is a folder"
           : S_ISFIFO(mode) ? "is a pipe (a regular file is needed)"
           : S_ISSOCK(mode) ? "is a socket (a regular file is needed)"
                            : "is a device (a regular file is needed)";
}

static int64_t mtime_ns(const struct stat *status)
{
    return (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec;
}

/* Fills *file from the open descriptor; the reason on failure, NULL on success. */
static const char *map(int fd, mapped_file *file)
{
    struct stat status;
    size_t bytes;
    if (fstat(fd, &status) != 0) {
        return error_reason(errno);
    }
    if (!S_ISREG(status.st_mode)) {
        return kind_of(status.st_mode);
    }
    file->size = (uint64_t)status.st_size;
    file->mtime_ns = mtime_ns(&status);
    file->inode = status.st_ino;
    if (!checked_size(file->size, &bytes)) {
        return error_reason(EOVERFLOW);
    }
    if (bytes > 0) {
        void *data = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            return error_reason(errno);
        }
        file->data = data;
    }
    return NULL;
}

greta_status mapped_file_open(const char *path, mapped_file *file, greta_error *err)
{
    *file = (mapped_file){0};
    int fd = open_retried(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) {
        return fail(err, path, "read", error_reason(errno));
    }
    const char *reason = map(fd, file);
    if (reason != NULL) {
        close(fd);
        *file = (mapped_file){0};
        return fail(err, path, "read", reason);
    }
    file->fd = fd;
    file->is_open = true;
    path_cut(path, file->path);
    return GRETA_OK;
}

void mapped_file_close(mapped_file *file)
{
    if (file->data != NULL) {
        munmap((void *)(uintptr_t)file->data, (size_t)file->size);
    }
    if (file->is_open) {
        close(file->fd);
    }
    *file = (mapped_file){0};
}

int mapped_file_changed(const mapped_file *file)
{
    struct stat status;
    if (!file->is_open) {
        return 0;
    }
    return fstat(file->fd, &status) != 0 || (uint64_t)status.st_size != file->size ||
           mtime_ns(&status) != file->mtime_ns || status.st_ino != file->inode;
}

void mapped_file_forget(const mapped_file *file, uint64_t from, uint64_t to)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    from = (from + page - 1) / page * page;
    to = to < file->size ? to / page * page : file->size;
    if (file->data != NULL && from < to) {
        (void)madvise((void *)(uintptr_t)(file->data + from), (size_t)(to - from), MADV_DONTNEED);
    }
}

/* ---- Writing --------------------------------------------------------------------------------- */

bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

greta_status folder_make(const char *path, greta_error *err)
{
    size_t length = strlen(path);
    char *part = malloc(length + 1);
    if (part == NULL) {
        return error_memory(err, "a path", length + 1);
    }
    memcpy(part, path, length + 1);
    greta_status status = GRETA_OK;
    for (size_t i = 1; i <= length && status == GRETA_OK; i++) {
        bool is_last = i == length;
        if (!is_last && (path[i] != '/' || path[i - 1] == '/')) {
            continue;
        }
        part[i] = '\0';
        if (mkdir(part, 0777) != 0) {
            int reason = errno;
            /* Existing parents are fine, also where making one would not be allowed. */
            if (!is_folder(part)) {
                status = fail(err, path, "make the folder", error_reason(reason));
            }
        }
        part[i] = path[i];
    }
    if (length == 0) {
        status = fail(err, path, "make the folder", "its name is empty");
    }
    free(part);
    return status;
}

/* Writes, syncs and closes; 0 or an errno value. */
static int write_and_close(int fd, const char *text, size_t bytes)
{
    int reason = 0;
    while (bytes > 0 && reason == 0) {
        ssize_t written = write(fd, text, bytes);
        if (written < 0) {
            reason = errno == EINTR ? 0 : errno;
        } else {
            text += written;
            bytes -= (size_t)written;
        }
    }
    if (reason == 0 && fsync(fd) != 0) {
        reason = errno;
    }
    if (close(fd) != 0 && reason == 0) {
        reason = errno;
    }
    return reason;
}

greta_status file_write(const char *path, const char *text, size_t bytes, greta_error *err)
{
    struct stat status;
    /* The rename would replace a device or pipe of that name by a file. */
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) {
        return fail(err, path, "write", kind_of(status.st_mode));
    }
    size_t length = strlen(path);
    char *partial = malloc(length + sizeof PARTIAL);
    if (partial == NULL) {
        return error_memory(err, "a path", length + sizeof PARTIAL);
    }
    memcpy(partial, path, length);
    memcpy(partial + length, PARTIAL, sizeof PARTIAL);
    int reason;
    int fd = open_retried(partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666);
    if (fd < 0) {
        reason = errno;
    } else {
        reason = write_and_close(fd, text, bytes);
        if (reason == 0 && rename(partial, path) != 0) {
            reason = errno;
        }
        if (reason != 0) {
            unlink(partial);
        }
    }
    free(partial);
    return reason == 0 ? GRETA_OK : fail(err, path, "write", error_reason(reason));
}
