/* file.h - read-only mapped files, and whole small files. */
#ifndef GRETA_BASE_FILE_H
#define GRETA_BASE_FILE_H

#include "base/error.h"

#include <stdbool.h>

typedef struct mapped_file {
    const uint8_t *data; /* NULL when the file is empty */
    uint64_t size;
    int64_t mtime_ns;    /* size, mtime and inode at open: see mapped_file_changed */
    uint64_t inode;
    int fd;              /* valid if is_open */
    bool is_open;        /* false: zeroed or closed, fd 0 is not ours */
    char path[256];      /* as given, cut, for messages */
} mapped_file;

/* Maps a regular file privately and read-only. GRETA_IO with the reason otherwise. */
greta_status mapped_file_open(const char *path, mapped_file *file, greta_error *err);
void mapped_file_close(mapped_file *file); /* zeroed struct is fine */
/* Whether the file behind the mapping was shrunk, grown or rewritten since the open. */
int mapped_file_changed(const mapped_file *file);

/* Gives back the memory of the pages that lie in bytes from..to: what is read there again comes
 * from the system's cache or the disk. */
void mapped_file_forget(const mapped_file *file, uint64_t from, uint64_t to);

bool is_folder(const char *path);
/* Creates the folder and its parents. */
greta_status folder_make(const char *path, greta_error *err);
/* Writes `text` to path.partial, syncs, renames. */
greta_status file_write(const char *path, const char *text, size_t bytes, greta_error *err);

#endif
