/* main.c - the program `greta`: finds the command, and turns its result into an exit code.
 *
 * Everything a command says about failure arrives here as one greta_error and leaves as one line on
 * stderr. Environment variables that start with GRETA_ but are not known are named in a warning: a
 * misspelt switch must not look like a run without findings. Exit codes: DESIGN section 6.
 */
#include "args.h"
#include "commands.h"
#include "output.h"

#include <signal.h>
#include <string.h>

extern char **environ;

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv, greta_error *err);
} command;

static const command table[] = {
    {"run", "generate text", command_run},
    {"trace", "run with every chosen stage written to a trace", command_trace},
    {"isolate", "find why prefill and decode differ, on a set of prompts", command_isolate},
    {"compare", "compare two traces record by record", command_compare},
    {"audit", "hold every op of a trace against the model", command_audit},
    {"faults", "list the faults that isolate can plant", command_faults},
    {"score", "put the referee to an exam of planted faults", command_score},
    {"inspect", "show what a model file holds", command_inspect},
    {"tokenize", "text to token ids and back", command_tokenize},
    {"eval", "perplexity of a text", command_eval},
    {"bench", "measure speed, as shares of what the machine can do", command_bench},
    {"pull", "fetch a model", command_pull},
    {"doctor", "list the devices that models can run on", command_doctor},
};

#define COMMANDS (sizeof table / sizeof *table)

/* The last six belong to the tests. */
static const char *const variables[] = {
    "GRETA_CPU", "GRETA_DEVICE", "GRETA_PLUGIN_DIR", "GRETA_THREADS", "GRETA_CACHE",
    "GRETA_TRACE_RMSNORM", "GRETA_TRACE_RMSNORM_OUT",
    "GRETA_TRACE_RMSNORM_LAYERS", "GRETA_TRACE_RMSNORM_SAMPLE", "GRETA_TRACE_PROMPT_ID",
    "GRETA_TRACE_STAGES", "GRETA_TRACE_OUT", "GRETA_TRACE_LAYERS", "GRETA_TRACE_SAMPLE",
    "GRETA_TRACE_PHASES", "GRETA_TRACE_TOKENS", "GRETA_OFFLINE", "GRETA_BIN", "GRETA_TOOLS",
    "GRETA_TMP", "GRETA_SMOLLM2", "GRETA_WHOLE", NULL,
};

static void variables_check(void)
{
    for (char **variable = environ; *variable; variable++) {
        char name[64], q[QUOTED_MAX];
        size_t n = strcspn(*variable, "=");
        bool is_known = strncmp(*variable, "GRETA_", 6) != 0;
        for (size_t i = 0; variables[i] && !is_known; i++) {
            is_known = strlen(variables[i]) == n && memcmp(variables[i], *variable, n) == 0;
        }
        if (!is_known) {
            snprintf(name, sizeof name, "%.*s", (int)n, *variable);
            const char *nearest = args_nearest(name, variables);
            fprintf(stderr, "greta: warning: unknown variable %s%s%s%s\n",
                    quoted(*variable, n, q), nearest ? "; did you mean " : "",
                    nearest ? nearest : "", nearest ? "?" : "");
        }
    }
}

static void help_print(FILE *stream)
{
    fprintf(stream, "usage: greta COMMAND ...\n\n"
                    "Runs a language model and explains its numbers.\n\n");
    for (size_t i = 0; i < COMMANDS; i++) {
        fprintf(stream, "  %-10s %s\n", table[i].name, table[i].summary);
    }
    fprintf(stream, "\n  greta COMMAND --help   the command's flags\n"
                    "  greta --version        versions of all parts; --json\n");
}

static int version_print(bool json, greta_error *err)
{
    char cpu[512];
    greta_versions v = greta_version();
    greta_cpu_describe(cpu, sizeof cpu);
    if (json) {
        return (int)output_json(
            json_pack("{s:s, s:i, s:i, s:i, s:i, s:o}", "library", v.library, "api", v.api,
                      "arithmetic", v.arithmetic, "trace_format", v.trace_format, "stage_list",
                      v.stage_list, "cpu", json_text(cpu, strlen(cpu))),
            err);
    }
    printf("greta %s\napi %d\narithmetic %d\ntrace format %d\nstage list %d\ncpu %s\n", v.library,
           v.api, v.arithmetic, v.trace_format, v.stage_list, cpu);
    return (int)output_flush(err);
}

static int command_unknown(const char *word, greta_error *err)
{
    const char *known[COMMANDS + 1] = {NULL};
    char q[QUOTED_MAX];
    for (size_t i = 0; i < COMMANDS; i++) {
        known[i] = table[i].name;
    }
    const char *nearest = args_nearest(quoted(word, strlen(word), q), known);
    fail(err, GRETA_USAGE, "unknown %s %s", word[0] == '-' ? "flag" : "command", q);
    if (nearest) {
        fail_hint(err, "did you mean greta %s?", nearest);
    } else {
        fail_hint(err, "see greta --help");
    }
    return GRETA_USAGE;
}

static int dispatch(int argc, char **argv, greta_error *err)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    bool is_help = word && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
                            strcmp(word, "help") == 0);
    if (!word) {
        help_print(stderr);
        return GRETA_USAGE;
    }
    if (is_help) {
        help_print(stdout);
        return (int)output_flush(err);
    }
    if (strcmp(word, "--version") == 0) {
        return version_print(argc > 2 && strcmp(argv[2], "--json") == 0, err);
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(word, table[i].name) == 0) {
            return table[i].run(argc - 2, argv + 2, err);
        }
    }
    return command_unknown(word, err);
}

int main(int argc, char **argv)
{
    greta_error err = {0};
    output_start();
    variables_check();
    int code = dispatch(argc, argv, &err);
    if (output_end(&err)) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    return code ? code : (int)err.code;
}
