/* child.c - see child.h.
 *
 * A failed exec is told through a pipe that closes on success, so that "no python3" is known from
 * "python3 failed with 127". The parent polls instead of handling SIGCHLD: it wants to draw a
 * progress bar meanwhile, and nothing here is in a hurry.
 */
#include "child.h"

#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_TAIL_BYTES 8192
#define LOG_TAIL_LINES 12

/* In the child: never returns. */
static void child_become(const child_args *args, int log, int failure, pid_t parent)
{
    int input = open("/dev/null", O_RDONLY);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    if (getppid() == parent && input >= 0 && dup2(input, 0) == 0 && dup2(log, 1) == 1 &&
        dup2(log, 2) == 2 && setenv("TMPDIR", args->folder_tmp, 1) == 0) {
        execvp(args->argument[0], (char *const *)args->argument);
    }
    int why = errno;
    if (write(failure, &why, sizeof why) != (ssize_t)sizeof why) {
        _exit(126);
    }
    _exit(127);
}

static void child_wait(const child_args *args, pid_t pid, int *code)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    int how = 0;
    for (;;) {
        pid_t ended = waitpid(pid, &how, WNOHANG);
        if (ended == pid || (ended < 0 && errno != EINTR)) {
            break;
        }
        if (args->tick) {
            args->tick(args->user);
        }
        nanosleep(&pause, NULL);
    }
    *code = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

greta_status child_run(const child_args *args, int *code, greta_error *err)
{
    int pipe_fd[2], why = 0;
    *code = -1;
    int log = open(args->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (log < 0) {
        return fail_errno(err, "cannot create %s", args->log);
    }
    if (pipe2(pipe_fd, O_CLOEXEC)) {
        close(log);
        return fail_errno(err, "cannot run %s", args->argument[0]);
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        child_become(args, log, pipe_fd[1], parent);
    }
    close(log);
    close(pipe_fd[1]);
    greta_status status = GRETA_OK;
    if (pid < 0) {
        status = fail_errno(err, "cannot run %s", args->argument[0]);
    } else if (read(pipe_fd[0], &why, sizeof why) == (ssize_t)sizeof why) {
        waitpid(pid, NULL, 0);
        errno = why;
        status = why == ENOENT ? GRETA_OK : fail_errno(err, "cannot run %s", args->argument[0]);
    } else {
        child_wait(args, pid, code);
    }
    close(pipe_fd[0]);
    return status;
}

const char *child_log_show(const char *log, char *last, size_t bytes)
{
    char tail[LOG_TAIL_BYTES + 1], q[QUOTED_MAX];
    FILE *stream = fopen(log, "re");
    size_t n = 0, n_line = 0;
    snprintf(last, bytes, "%s", "it said nothing");
    if (!stream) {
        return last;
    }
    if (fseek(stream, -LOG_TAIL_BYTES, SEEK_END)) {
        rewind(stream);
    }
    n = fread(tail, 1, LOG_TAIL_BYTES, stream);
    fclose(stream);
    while (n > 0 && (tail[n - 1] == '\n' || tail[n - 1] == ' ')) {
        n--;
    }
    size_t first = n;
    while (first > 0 && (tail[first - 1] != '\n' || ++n_line < LOG_TAIL_LINES)) {
        first--;
    }
    for (size_t end; first < n; first = end + 1) {
        for (end = first; end < n && tail[end] != '\n'; end++) {
        }
        fprintf(stderr, "  | %s\n", quoted(tail + first, end - first, q));
        if (end > first) {
            snprintf(last, bytes, "%s", strncmp(q, "ERROR: ", 7) == 0 ? q + 7 : q);
        }
    }
    return last;
}
