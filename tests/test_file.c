/* test_file.c - files read and written.
 *
 * What is refused and why, what is seen of a change, and that a failed write leaves the old file.
 * All of it happens in one folder of its own, never in a system path.
 */
#include "base/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/greta-test-file-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[2][512];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_plain(const char *path, const char *string)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(string, f);
    assert_int_equal(fclose(f), 0);
}

static void check_refused(const char *path, const char *message)
{
    greta_error err = {0};
    mapped_file file;
    memset(&file, 0xaa, sizeof file);
    assert_int_equal(mapped_file_open(path, &file, &err), GRETA_IO);
    assert_string_equal(err.message, message);
    assert_string_equal(err.file, path);
    assert_null(file.data);
    assert_int_equal(file.size, 0);
    mapped_file_close(&file); /* must not close descriptor 0 */
    assert_int_not_equal(fcntl(STDIN_FILENO, F_GETFD), -1);
}

static void test_file_refused(void **state)
{
    (void)state;
    check_refused(in_folder("missing"), "cannot read: no such file or folder");
    check_refused(folder, "cannot read: is a folder");
    check_refused("", "cannot read: no such file or folder");
    check_refused("/dev/null", "cannot read: is a device (a regular file is needed)");
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
    check_refused(in_folder("fifo"), "cannot read: is a pipe (a regular file is needed)");
    write_plain(in_folder("plain"), "x");
    check_refused(in_folder("plain/below"), "cannot read: a part of the path is not a folder");
}

static void test_file_mapped(void **state)
{
    (void)state;
    mapped_file file;
    const char *path = in_folder("mapped");
    write_plain(path, "eight by");
    assert_int_equal(mapped_file_open(path, &file, NULL), GRETA_OK);
    assert_int_equal(file.size, 8);
    assert_memory_equal(file.data, "eight by", 8);
    assert_string_equal(file.path, path);
    assert_false(mapped_file_changed(&file));
    mapped_file_close(&file);
    assert_null(file.data);
    mapped_file_close(&file);
    assert_false(mapped_file_changed(&file));

    write_plain(path, "1");
    assert_int_equal(mapped_file_open(path, &file, NULL), GRETA_OK);
    assert_memory_equal(file.data, "1", 1);
    mapped_file_close(&file);

    write_plain(path, "");
    assert_int_equal(mapped_file_open(path, &file, NULL), GRETA_OK);
    assert_null(file.data);
    assert_int_equal(file.size, 0);
    assert_false(mapped_file_changed(&file));
    mapped_file_close(&file);
}

/* An old mtime, so that a write now is seen whatever the kernel's clock step is. */
static void open_aged(const char *path, mapped_file *file)
{
    struct timespec old[2] = {{.tv_sec = 1000000000, .tv_nsec = 5}, {.tv_sec = 1000000000}};
    write_plain(path, "eight by");
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_int_equal(mapped_file_open(path, file, NULL), GRETA_OK);
    assert_false(mapped_file_changed(file));
}

static void test_file_changed(void **state)
{
    (void)state;
    mapped_file file;
    const char *path = in_folder("changing");
    struct timespec old[2] = {{.tv_sec = 1000000000, .tv_nsec = 5}, {.tv_sec = 1000000000}};

    open_aged(path, &file);
    write_plain(path, "EIGHT BY"); /* same size, other bytes */
    assert_true(mapped_file_changed(&file));
    mapped_file_close(&file);

    open_aged(path, &file);
    assert_int_equal(truncate(path, 7), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0); /* the size alone tells */
    assert_true(mapped_file_changed(&file));
    mapped_file_close(&file);

    open_aged(path, &file);
    assert_int_equal(truncate(path, 9000), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_true(mapped_file_changed(&file));
    mapped_file_close(&file);

    /* Replaced by rename: the mapping still shows the old file, which nobody touched. */
    open_aged(path, &file);
    assert_int_equal(file_write(path, "other", 5, NULL), GRETA_OK);
    assert_false(mapped_file_changed(&file));
    assert_memory_equal(file.data, "eight by", 8);
    mapped_file_close(&file);
}

static void check_content(const char *path, const char *expected)
{
    mapped_file file;
    assert_int_equal(mapped_file_open(path, &file, NULL), GRETA_OK);
    assert_int_equal(file.size, strlen(expected));
    assert_memory_equal(file.data, expected, file.size);
    mapped_file_close(&file);
}

static void test_file_write(void **state)
{
    (void)state;
    char path[300], partial[320];
    greta_error err = {0};
    snprintf(path, sizeof path, "%s/report.md", folder);
    snprintf(partial, sizeof partial, "%s.partial", path);
    assert_int_equal(file_write(path, "one", 3, NULL), GRETA_OK);
    check_content(path, "one");
    write_plain(partial, "left over by a crash, longer than the new text");
    assert_int_equal(file_write(path, "second", 6, NULL), GRETA_OK);
    check_content(path, "second");
    assert_int_equal(access(partial, F_OK), -1);

    assert_int_equal(file_write(in_folder("no/such"), "x", 1, &err), GRETA_IO);
    assert_string_equal(err.message, "cannot write: no such file or folder");
    assert_string_equal(err.file, in_folder("no/such"));
    /* Never replaces a pipe, device or folder by a file. (The test keeps to its own folder: when
     * this check breaks, only the pipe is lost.) */
    err = (greta_error){0};
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(file_write(in_folder("pipe"), "x", 1, &err), GRETA_IO);
    assert_string_equal(err.message, "cannot write: is a pipe (a regular file is needed)");
    err = (greta_error){0};
    assert_int_equal(file_write(in_folder("."), "x", 1, &err), GRETA_IO);
    assert_string_equal(err.message, "cannot write: is a folder");
}

/* A full disk: the old file stays, no partial one is left. */
static void test_file_write_no_space(void **state)
{
    (void)state;
    char path[300], partial[320];
    greta_error err = {0};
    snprintf(path, sizeof path, "%s/kept", folder);
    snprintf(partial, sizeof partial, "%s.partial", path);
    assert_int_equal(file_write(path, "old", 3, NULL), GRETA_OK);
    /* A link in the partial's place is not followed. */
    write_plain(in_folder("target"), "untouched");
    assert_int_equal(symlink(in_folder("target"), partial), 0);
    assert_int_equal(file_write(path, "new", 3, &err), GRETA_IO);
    assert_string_equal(err.message, "cannot write: too many symbolic links");
    check_content(path, "old");
    check_content(in_folder("target"), "untouched");
    assert_int_equal(unlink(partial), 0);
    /* A size limit of 2 bytes stands in for the full disk. */
    pid_t child = fork();
    if (child == 0) {
        struct rlimit two = {2, 2};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &two);
        err = (greta_error){0};
        int failed = file_write(path, "new", 3, &err) == GRETA_IO &&
                     strcmp(err.message, "cannot write: file too large") == 0 &&
                     access(partial, F_OK) != 0;
        _exit(failed ? 0 : 1);
    }
    int outcome;
    assert_int_equal(waitpid(child, &outcome, 0), child);
    assert_true(WIFEXITED(outcome) && WEXITSTATUS(outcome) == 0);
    check_content(path, "old");
}

/* Relative paths, from inside the test's folder: nothing can be made outside it. */
static void test_folder_make(void **state)
{
    (void)state;
    greta_error err = {0};
    struct stat status;
    int here = open(".", O_RDONLY | O_DIRECTORY);
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(folder_make("long/b//c/", &err), GRETA_OK);
    assert_int_equal(stat("long/b/c", &status), 0);
    assert_true(S_ISDIR(status.st_mode));
    assert_int_equal(access("lon", F_OK), -1);
    assert_int_equal(folder_make("long/b", &err), GRETA_OK);
    assert_int_equal(folder_make(".", &err), GRETA_OK);
    write_plain("long/file", "x");
    assert_int_equal(folder_make("long/file", &err), GRETA_IO);
    assert_string_equal(err.message, "cannot make the folder: exists already");
    err = (greta_error){0};
    assert_int_equal(folder_make("long/file/below", &err), GRETA_IO);
    assert_string_equal(err.file, "long/file/below");
    err = (greta_error){0};
    assert_int_equal(folder_make("", &err), GRETA_IO);
    assert_string_equal(err.message, "cannot make the folder: its name is empty");
    assert_int_equal(fchdir(here), 0);
    close(here);
    /* Absolute, where the parents exist and may not be made. */
    assert_int_equal(folder_make(in_folder("long/d"), NULL), GRETA_OK);
    assert_int_equal(access(in_folder("long/d"), F_OK), 0);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const files[] = {"fifo",   "plain",    "mapped", "changing",
                                        "report.md", "kept", "pipe", "target", "long/file"};
    static const char *const folders[] = {"long/b/c", "long/b", "long/d", "long"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        unlink(in_folder(files[i]));
    }
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        rmdir(in_folder(folders[i]));
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_refused),
        cmocka_unit_test(test_file_mapped),
        cmocka_unit_test(test_file_changed),
        cmocka_unit_test(test_file_write),
        cmocka_unit_test(test_file_write_no_space),
        cmocka_unit_test(test_folder_make),
    };
    return cmocka_run_group_tests_name("file", tests, make_folder, remove_folder);
}
