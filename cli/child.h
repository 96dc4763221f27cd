/* child.h - running another program: argument vector, no shell, its words kept in a file. */
#ifndef GRETA_CLI_CHILD_H
#define GRETA_CLI_CHILD_H

#include "greta.h"

typedef struct child_args {
    const char *const *argument; /* NULL ends it; the first is looked up in PATH */
    const char *log;             /* file for what it says on stdout and stderr */
    const char *folder_tmp;      /* its TMPDIR */
    void (*tick)(void *user);    /* called ten times a second while it runs */
    void *user;
} child_args;

/* Runs to the end. *code is the exit code, 128 + the signal that ended it, or -1 when the program
 * is not there. The child dies when this process dies. */
greta_status child_run(const child_args *args, int *code, greta_error *err);
/* Shows the tail of a log on stderr and returns its last line that says something, escaped. */
const char *child_log_show(const char *log, char *last, size_t bytes);

#endif
