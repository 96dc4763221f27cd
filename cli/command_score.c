/* command_score.c - `greta score`: the exam, in several processes, and its table.
 *
 * Each process opens the models itself and sits its share of the cases; this one draws the bar,
 * from counts in shared memory, and prints the table of all lines at the end. A process that fails
 * ends the others; what they wrote stays, and the same command goes on from there.
 */
#include "commands.h"
#include "output.h"
#include "prompts.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX   64
#define MODELS_MAX 16
#define TOKENS_OWN 48 /* of the prompt that is drawn where none is given */

typedef struct score_args {
    const char *models, *prompts, *modes, *sorts, *faults, *layers, *foreign, *out;
    int64_t jobs, one_of, rounds;
    uint64_t seed;
    prompt_args prompt; /* how text becomes tokens */
    session_args session;
    bool json, table;
} score_args;

/* Of one process, seen by the first. */
typedef struct share {
    atomic_size_t done, total;
} share;

typedef struct worker {
    const score_args *args;
    share *share;
    size_t before; /* cases of the models that are done */
    int32_t part;
} worker;

static const flag score_flags[] = {
    {.name = "--models",
     .letter = "-m",
     .kind = FLAG_PATH,
     .value = "LIST",
     .offset = offsetof(score_args, models),
     .help = "NAME|FILE, with commas"},
    {.name = "--prompts",
     .kind = FLAG_PATH,
     .value = "DIR",
     .offset = offsetof(score_args, prompts),
     .help = "every *.txt of a folder is a prompt; default: tokens drawn by the seed"},
    {.name = "--modes",
     .kind = FLAG_PATH,
     .value = "LIST",
     .offset = offsetof(score_args, modes),
     .help = "fresh,warm,engine,batch,reuse,foreign; default all of these; device"},
    {.name = "--sorts",
     .kind = FLAG_PATH,
     .value = "LIST",
     .offset = offsetof(score_args, sorts),
     .help = "fault,stack,outside,benign,clean,real; default all"},
    {.name = "--faults",
     .kind = FLAG_PATH,
     .value = "PART",
     .offset = offsetof(score_args, faults),
     .help = "only faults with this in their names"},
    {.name = "--layers",
     .kind = FLAG_PATH,
     .value = "LIST",
     .offset = offsetof(score_args, layers),
     .help = "layers to plant in; default any"},
    {.name = "--foreign",
     .kind = FLAG_PATH,
     .value = "DIR",
     .offset = offsetof(score_args, foreign),
     .help = "traces of another engine: DIR/<model, less .gguf>/*.jsonl"},
    {.name = "--one-of",
     .kind = FLAG_WHOLE,
     .value = "N",
     .min = 1,
     .max = 1000,
     .offset = offsetof(score_args, one_of),
     .help = "every n-th fault only; default 1"},
    {.name = "--rounds",
     .kind = FLAG_WHOLE,
     .value = "N",
     .min = 1,
     .max = 1000,
     .offset = offsetof(score_args, rounds),
     .help = "draws of lengths, places and triggers; default 1"},
    {.name = "--seed",
     .kind = FLAG_SEED,
     .value = "N",
     .offset = offsetof(score_args, seed),
     .help = "default 0"},
    {.name = "--jobs",
     .letter = "-j",
     .kind = FLAG_WHOLE,
     .value = "N",
     .min = 1,
     .max = JOBS_MAX,
     .offset = offsetof(score_args, jobs),
     .help = "processes; default 1"},
    {.name = "--out",
     .letter = "-o",
     .kind = FLAG_PATH,
     .value = "DIR",
     .offset = offsetof(score_args, out),
     .help = "for the lines, cases*.jsonl; an exam that is there goes on; default greta-score"},
    {.name = "--table",
     .kind = FLAG_SWITCH,
     .offset = offsetof(score_args, table),
     .help = "print the table of what is there; sits nothing"},
    {.name = "--json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(score_args, json),
     .help = "the table as JSON"},
};

/* ---- One process ----------------------------------------------------------------------------- */

static int worker_progress(void *user, const char *what, size_t done, size_t total)
{
    worker *w = user;
    (void)what;
    atomic_store(&w->share->done, w->before + done);
    atomic_store(&w->share->total, w->before + total);
    return signals_seen();
}

static double seconds_now(void *user)
{
    struct timespec now;
    (void)user;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A prompt nobody wrote: ids from all over the vocabulary. */
static greta_status prompt_draw(prompt_list *list, const greta_model *model, uint64_t seed,
                                greta_error *err)
{
    int32_t *id = malloc(TOKENS_OWN * sizeof *id);
    list->prompt = malloc(sizeof *list->prompt);
    char *name = text_new("drawn-%llu", (unsigned long long)seed);
    if (!id || !list->prompt || !name) {
        free(id);
        free(name);
        return fail_memory(err);
    }
    int32_t n_vocab = greta_model_describe(model).n_vocab;
    for (int i = 0; i < TOKENS_OWN; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        id[i] = (int32_t)((seed >> 33) % (uint64_t)n_vocab);
    }
    list->prompt[0] = (greta_prompt){name, id, TOKENS_OWN};
    list->n = 1;
    return GRETA_OK;
}

static greta_status model_sit(worker *w, const char *name, greta_error *err)
{
    const score_args *args = w->args;
    model_args which = {name};
    greta_model *model = NULL;
    prompt_list list = {0};
    char *path = NULL;
    greta_score_options options = {.size = sizeof options,
                                   .out = args->out,
                                   .modes = args->modes,
                                   .sorts = args->sorts,
                                   .faults = args->faults,
                                   .layers = args->layers,
                                   .foreign = args->foreign,
                                   .one_of = (int32_t)args->one_of,
                                   .n_round = (int32_t)args->rounds,
                                   .seed = args->seed,
                                   .part = w->part,
                                   .n_part = (int32_t)args->jobs,
                                   .session = session_options(&args->session),
                                   .progress = worker_progress,
                                   .seconds = seconds_now,
                                   .user = w};
    greta_status status = model_load(&which, &model, &path, err);
    if (!status) {
        status = args->prompts ? prompts_add_folder(&list, model, args->prompts, &args->prompt, err)
                               : prompt_draw(&list, model, args->seed, err);
    }
    if (!status) {
        const char *slash = strrchr(name, '/');
        status =
            greta_score_run(model, slash ? slash + 1 : name, list.prompt, list.n, &options, err);
    }
    w->before = atomic_load(&w->share->total);
    prompts_free(&list);
    greta_model_release(model);
    free(path);
    return status;
}

static greta_status models_sit(worker *w, greta_error *err)
{
    char name[1024];
    greta_status status = GRETA_OK;
    for (const char *at = w->args->models; *at && !status && !signals_seen(); at += *at == ',') {
        size_t n = strcspn(at, ",");
        if (n == 0 || n >= sizeof name) {
            return fail(err, GRETA_USAGE, "--models lists names or files, with commas");
        }
        memcpy(name, at, n);
        name[n] = '\0';
        at += n;
        status = model_sit(w, name, err);
    }
    return status;
}

/* ---- All of them ----------------------------------------------------------------------------- */

static void bar_draw(const share *shares, int64_t n)
{
    size_t done = 0, total = 0;
    for (int64_t i = 0; i < n; i++) {
        done += atomic_load(&shares[i].done);
        total += atomic_load(&shares[i].total);
    }
    if (total > 0) {
        progress("cases", done, total);
    }
}

static _Noreturn void worker_become(const score_args *args, share *shares, int32_t part,
                                    pid_t parent)
{
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    worker w = {.args = args, .share = &shares[part], .part = part};
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    greta_status status = getppid() == parent ? models_sit(&w, &err) : GRETA_IO;
    if (status) {
        fprintf(stderr, "%s\n", greta_error_line(&err, line));
    }
    _exit((int)status);
}

/* Waits for all; the first failure ends the others. */
static greta_status workers_wait(pid_t *pid, int64_t n, const share *shares, greta_error *err)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    int64_t n_left = n;
    int failed = 0;
    while (n_left > 0) {
        for (int64_t i = 0; i < n; i++) {
            int how = 0;
            if (pid[i] == 0 || waitpid(pid[i], &how, WNOHANG) != pid[i]) {
                continue;
            }
            pid[i] = 0;
            n_left--;
            int code = WIFEXITED(how) ? WEXITSTATUS(how) : GRETA_BUG;
            for (int64_t k = 0; k < n && code && !failed; k++) {
                if (pid[k]) {
                    kill(pid[k], SIGTERM);
                }
            }
            failed = failed ? failed : code;
        }
        bar_draw(shares, n);
        nanosleep(&pause, NULL);
    }
    return failed ? fail(err, (greta_status)failed, "the exam stopped; what is done is kept")
                  : GRETA_OK;
}

static greta_status exam_sit(const score_args *args, greta_error *err)
{
    pid_t pid[JOBS_MAX] = {0}, parent = getpid();
    share *shares = mmap(NULL, JOBS_MAX * sizeof *shares, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shares == MAP_FAILED) {
        return fail_memory(err);
    }
    greta_status status = GRETA_OK;
    signals_catch();
    int64_t n = 0;
    for (; n < args->jobs && !status; n++) {
        fflush(NULL);
        pid[n] = fork();
        if (pid[n] == 0) {
            worker_become(args, shares, (int32_t)n, parent);
        }
        status = pid[n] < 0 ? fail_errno(err, "cannot start a process") : GRETA_OK;
    }
    for (int64_t i = 0; i < n && status; i++) {
        if (pid[i] > 0) {
            kill(pid[i], SIGTERM);
        }
    }
    greta_status ended = workers_wait(pid, status ? n - 1 : n, shares, err);
    munmap(shares, JOBS_MAX * sizeof *shares);
    return status ? status : ended;
}

static greta_status score_work(const score_args *args, greta_error *err)
{
    char *text = NULL;
    greta_status status = args->table ? GRETA_OK : exam_sit(args, err);
    int signal_number = signals_seen();
    if (!status && signal_number) {
        note("stopped; the same command goes on");
        return (greta_status)(128 + signal_number);
    }
    if (!status) {
        status = greta_score_table(args->out, args->json, &text, err);
    }
    return status ? status : output_take(text, err);
}

int command_score(int argc, char **argv, greta_error *err)
{
    score_args args = {.out = "greta-score", .jobs = 1, .one_of = 1, .rounds = 1};
    flag_group group[] = {
        {"Exam", score_flags, COUNT_OF(score_flags), &args},
        session_group(&args.session),
    };
    command_line line = {
        .name = "score",
        .usage = "-m MODEL[,MODEL] [--prompts DIR] [--jobs N]",
        .group = group,
        .n_group = COUNT_OF(group),
        .summary = "Plants the faults of the catalogue and benign variants by a seed, asks\n"
                   "isolate and compare, and prints how often they are right, beside simpler\n"
                   "methods on the same cases. One line of JSON a case; a stopped exam goes on.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    if (!args.models && !args.table) {
        return (int)fail(err, GRETA_USAGE, "no model is given (--models)");
    }
    return (int)score_work(&args, err);
}
