/* tiny_model.h - models for tests, written by mkmodel into the scratch folder.
 *
 * GRETA_TOOLS names the folder of mkmodel, GRETA_TMP the scratch folder; the runner sets both.
 */
#ifndef GRETA_TESTS_TINY_MODEL_H
#define GRETA_TESTS_TINY_MODEL_H

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TINY_PATH 512
#define TINY_ARGS 32

extern char **environ;

/* Runs mkmodel with `options` ("--type Q4_1 --bias"); 1 on success, `path` is the file. */
static inline int tiny_model(const char *name, const char *options, char path[TINY_PATH])
{
    const char *tools = getenv("GRETA_TOOLS"), *tmp = getenv("GRETA_TMP");
    char program[TINY_PATH], words[TINY_PATH];
    char *argument[TINY_ARGS] = {program, (char *)"--out", path};
    int n = 3, status = -1;
    pid_t child;
    snprintf(program, sizeof program, "%s/mkmodel", tools ? tools : "build/tools");
    snprintf(path, TINY_PATH, "%s/%s-%d.gguf", tmp ? tmp : "/tmp", name, (int)getpid());
    snprintf(words, sizeof words, "%s", options);
    for (char *save = NULL, *word = strtok_r(words, " ", &save); word && n < TINY_ARGS - 1;
         word = strtok_r(NULL, " ", &save)) {
        argument[n++] = word;
    }
    if (posix_spawn(&child, program, NULL, NULL, argument, environ) != 0) {
        return 0;
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#endif
