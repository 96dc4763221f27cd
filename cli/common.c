/* common.c - see common.h.
 *
 * The order of work is that of the user's patience: flags and variables first, then the model, the
 * prompt, the session; so that what can be refused is refused before anything slow begins. Prompts
 * are bytes: nothing is stripped, converted or cut. A prompt file must be a regular file (a FIFO or
 * a terminal would hang); `-f -` reads a stream.
 */
#include "common.h"

#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROMPT_BYTES_MAX (256u << 20)

char *text_new(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int n = vasprintf(&text, format, arguments);
    va_end(arguments);
    return n < 0 ? NULL : text;
}

/* ---- Model ----------------------------------------------------------------------------------- */

flag_group model_group(model_args *args)
{
    static const flag table[] = {
        {.name = "--model", .letter = "-m", .kind = FLAG_PATH, .value = "NAME|FILE",
         .offset = offsetof(model_args, model),
         .help = "a pulled model, a GGUF file, or a Hugging Face folder"},
    };
    return (flag_group){"Model", table, COUNT_OF(table), args};
}

greta_status cache_path(const char *name, char **path, greta_error *err)
{
    const char *cache = getenv("GRETA_CACHE");
    const char *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    *path = NULL;
    if (cache && !*cache) {
        return fail(err, GRETA_USAGE, "GRETA_CACHE \"\" is not the name of a folder");
    }
    if (cache) {
        *path = text_new("%s/%s.gguf", cache, name);
    } else if (xdg && *xdg == '/') { /* a relative one is to be ignored, says its specification */
        *path = text_new("%s/greta/%s.gguf", xdg, name);
    } else if (home && *home) {
        *path = text_new("%s/.cache/greta/%s.gguf", home, name);
    } else {
        fail(err, GRETA_USAGE, "no cache folder: HOME is not set");
        fail_hint(err, "set GRETA_CACHE to a folder");
        return GRETA_USAGE;
    }
    return *path ? GRETA_OK : fail_memory(err);
}

greta_status model_path(const char *name, char **path, greta_error *err)
{
    char q[QUOTED_MAX];
    *path = NULL;
    if (!name) {
        fail(err, GRETA_USAGE, "no model is given");
        fail_hint(err, "-m NAME|FILE; greta pull lists the names");
        return GRETA_USAGE;
    }
    bool is_pullable = pull_knows(name);
    if (!is_pullable && (strchr(name, '/') || access(name, F_OK) == 0)) {
        *path = text_new("%s", name);
        return *path ? GRETA_OK : fail_memory(err);
    }
    greta_status status = cache_path(name, path, err);
    if (!status && access(*path, F_OK) != 0) {
        if (is_pullable) {
            status = fail(err, GRETA_IO, "model %s has not been pulled", name);
            fail_hint(err, "run: greta pull %s", name);
        } else {
            status = fail(err, GRETA_IO, "%s: no such file or model",
                          quoted(name, strlen(name), q));
            fail_hint(err, "greta pull lists the models");
        }
        free(*path);
        *path = NULL;
    }
    return status;
}

greta_status model_load(const model_args *args, greta_model **model, char **path, greta_error *err)
{
    *model = NULL;
    greta_status status = model_path(args->model, path, err);
    if (!status) {
        status = greta_model_open(*path, model, err);
    }
    if (status) {
        free(*path);
        *path = NULL;
    }
    return status;
}

/* ---- Prompt ---------------------------------------------------------------------------------- */

flag_group prompt_group(prompt_args *args)
{
    static const flag table[] = {
        {.name = "--prompt", .letter = "-p", .kind = FLAG_TEXT, .value = "TEXT",
         .offset = offsetof(prompt_args, text), .help = "the prompt"},
        {.name = "--file", .letter = "-f", .kind = FLAG_PATH, .value = "FILE",
         .offset = offsetof(prompt_args, file), .help = "the prompt from a file; - is stdin"},
        {.name = "--tokens", .kind = FLAG_TEXT, .value = "LIST",
         .offset = offsetof(prompt_args, tokens), .help = "the prompt as token ids: 1,2,3"},
        {.name = "--chat", .kind = FLAG_SWITCH, .offset = offsetof(prompt_args, chat),
         .help = "the prompt is a user's message in the model's chat template"},
        {.name = "--system", .kind = FLAG_TEXT, .value = "TEXT",
         .offset = offsetof(prompt_args, system), .help = "system message before it (--chat)"},
        {.name = "--date", .kind = FLAG_TEXT, .value = "YYYY-MM-DD",
         .offset = offsetof(prompt_args, date),
         .help = "today, for a template that asks (--chat)"},
        {.name = "--no-special", .kind = FLAG_SWITCH, .offset = offsetof(prompt_args, no_special),
         .help = "text like <|im_start|> is text, not a control token"},
        {.name = "--no-bos", .kind = FLAG_SWITCH, .offset = offsetof(prompt_args, no_bos),
         .help = "add no BOS although the model asks for it"},
        {.name = "--unknown-bytes", .kind = FLAG_CHOICE, .value = "refuse|drop",
         .offset = offsetof(prompt_args, unknown_bytes),
         .help = "bytes that the vocabulary lacks; default refuse"},
    };
    return (flag_group){"Prompt: one of -p, -f, --tokens", table, COUNT_OF(table), args};
}

bool prompt_is_absent(const prompt_args *args)
{
    return !args->text && !args->file && !args->tokens;
}

/* "2024-07-26" as seconds since 1970; -1: no such day. */
static int64_t date_seconds(const char *date)
{
    struct tm day = {0};
    int part[3] = {0, 0, 0};
    for (size_t i = 0; i < 10; i++) {
        bool is_digit = date[i] >= '0' && date[i] <= '9';
        if ((i == 4 || i == 7) ? date[i] != '-' : !is_digit) {
            return -1;
        }
        int *number = &part[i < 4 ? 0 : i < 7 ? 1 : 2];
        *number = is_digit ? *number * 10 + (date[i] - '0') : *number;
    }
    day.tm_year = part[0] - 1900;
    day.tm_mon = part[1] - 1;
    day.tm_mday = part[2];
    int64_t seconds = (int64_t)timegm(&day); /* makes another day of one that is none */
    bool is_day = day.tm_mon == part[1] - 1 && day.tm_mday == part[2] && date[10] == '\0';
    return is_day && part[0] >= 1970 ? seconds : -1;
}

static greta_status prompt_check(const prompt_args *args, greta_error *err)
{
    int n = (args->text != NULL) + (args->file != NULL) + (args->tokens != NULL);
    if (n != 1) {
        return fail(err, GRETA_USAGE, n ? "only one of -p, -f and --tokens can be the prompt"
                                        : "no prompt is given (one of -p, -f and --tokens)");
    }
    if (args->date && (!args->chat || date_seconds(args->date) < 0)) {
        char q[QUOTED_MAX];
        return args->chat ? fail(err, GRETA_USAGE, "--date \"%s\" is not a day (YYYY-MM-DD)",
                                 quoted(args->date, strlen(args->date), q))
                          : fail(err, GRETA_USAGE, "--date needs --chat");
    }
    if (args->chat && args->tokens) {
        return fail(err, GRETA_USAGE, "--chat needs text (-p or -f), not --tokens");
    }
    if (args->chat && args->no_special) {
        return fail(err, GRETA_USAGE, "--chat needs control tokens, --no-special forbids them");
    }
    if (args->system && !args->chat) {
        return fail(err, GRETA_USAGE, "--system has a meaning only with --chat");
    }
    return GRETA_OK;
}

static greta_status prompt_too_long(greta_error *err)
{
    return fail(err, GRETA_BAD_INPUT, "the prompt is longer than %u MiB", PROMPT_BYTES_MAX >> 20);
}

static greta_status descriptor_read(int fd, buffer *out, greta_error *err)
{
    size_t capacity = 0;
    for (;;) {
        if (out->n + 1 >= capacity) {
            capacity = capacity ? 2 * capacity : 65536;
            char *grown = realloc(out->data, capacity);
            if (!grown) {
                return fail_memory(err);
            }
            out->data = grown;
        }
        ssize_t got = read(fd, out->data + out->n, capacity - out->n - 1);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(err, "cannot read prompt");
        }
        out->n += (size_t)got;
        if (out->n > PROMPT_BYTES_MAX) {
            return prompt_too_long(err);
        }
        if (got == 0) {
            out->data[out->n] = '\0';
            return GRETA_OK;
        }
    }
}

static greta_status file_read(const char *path, buffer *out, greta_error *err)
{
    struct stat there;
    greta_status status;
    if (strcmp(path, "-") == 0) {
        return descriptor_read(STDIN_FILENO, out, err);
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &there)) {
        status = fail_errno(err, "cannot read prompt");
    } else if (!S_ISREG(there.st_mode)) {
        status = fail(err, GRETA_IO, "cannot read prompt: is %s (a regular file is expected)",
                      S_ISDIR(there.st_mode)    ? "a directory"
                      : S_ISFIFO(there.st_mode) ? "a FIFO"
                                                : "a device");
        fail_hint(err, "-f - reads standard input");
    } else {
        status = there.st_size > PROMPT_BYTES_MAX ? prompt_too_long(err)
                                                  : descriptor_read(fd, out, err);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (status) {
        quoted(path, strlen(path), err->file);
    }
    return status;
}

static greta_status chat_wrap(const greta_model *model, const prompt_args *args, buffer *text,
                              greta_error *err)
{
    greta_message message[2];
    size_t n = 0;
    char *rendered = NULL;
    const char *nul = memchr(text->data, '\0', text->n);
    if (nul) {
        err->place = GRETA_PLACE_BYTE;
        err->position = (uint64_t)(nul - text->data);
        return fail(err, GRETA_BAD_INPUT, "a message of a chat cannot hold a NUL byte");
    }
    if (args->system) {
        message[n++] = (greta_message){"system", args->system};
    }
    message[n++] = (greta_message){"user", text->data};
    greta_chat_options options = {.size = sizeof options, .add_generation_prompt = 1};
    if (args->date) {
        options.has_now = 1;
        options.now = date_seconds(args->date);
    }
    greta_status status = greta_chat(model, message, n, &options, &rendered, err);
    if (!status) {
        free(text->data);
        text->n = strlen(rendered);
        text->data = malloc(text->n + 1);
        status = text->data ? GRETA_OK : fail_memory(err);
        if (text->data) {
            memcpy(text->data, rendered, text->n + 1);
        }
    }
    greta_free(rendered);
    return status;
}

greta_status prompt_bytes(const greta_model *model, const prompt_args *args, buffer *out,
                          greta_error *err)
{
    *out = (buffer){0};
    greta_status status = prompt_check(args, err);
    if (!status && args->file) {
        status = file_read(args->file, out, err);
    } else if (!status) {
        out->data = text_new("%s", args->text);
        out->n = out->data ? strlen(out->data) : 0;
        status = out->data ? GRETA_OK : fail_memory(err);
    }
    if (!status && args->chat) {
        status = chat_wrap(model, args, out, err);
    }
    if (status) {
        free(out->data);
        *out = (buffer){0};
    }
    return status;
}

static greta_status ids_parse(const char *list, int32_t n_vocab, greta_tokens *tokens,
                              greta_error *err)
{
    size_t n = 1;
    char q[QUOTED_MAX];
    for (const char *c = list; *c; c++) {
        n += *c == ',';
    }
    tokens->id = malloc(n * sizeof *tokens->id);
    if (!tokens->id) {
        return fail_memory(err);
    }
    for (const char *part = list; tokens->n < n; tokens->n++) {
        size_t bytes = strcspn(part, ",");
        size_t sign = bytes > 1 && part[0] == '-';
        uint64_t id;
        if (!args_whole(part + sign, bytes - sign, &id)) {
            return fail(err, GRETA_BAD_INPUT, "--tokens: token %zu: \"%s\" is not a number",
                        tokens->n + 1, quoted(part, bytes, q));
        }
        if (sign || id >= (uint64_t)n_vocab) {
            return fail(err, GRETA_BAD_INPUT,
                        "--tokens: token %zu: %s is outside the vocabulary (0 to %d)",
                        tokens->n + 1, quoted(part, bytes, q), n_vocab - 1);
        }
        tokens->id[tokens->n] = (int32_t)id;
        part += bytes + 1;
    }
    return GRETA_OK;
}

/* Two texts that look alike on a screen and differ here give different tokens. */
static void prompt_note(prompt_text *out, const buffer *text)
{
    char dropped[64] = "";
    bool has_bom = text->n >= 3 && memcmp(text->data, "\xef\xbb\xbf", 3) == 0;
    bool has_nul = text->n > 0 && memchr(text->data, '\0', text->n);
    bool has_crlf = text->n > 0 && memmem(text->data, text->n, "\r\n", 2);
    if (out->tokens.n_dropped) {
        snprintf(dropped, sizeof dropped, "%zu bytes without a token dropped; ",
                 out->tokens.n_dropped);
        note("%zu bytes of the prompt have no token and were dropped", out->tokens.n_dropped);
    }
    int n = snprintf(out->notes, sizeof out->notes, "%s%s%s%s", dropped,
                     has_bom ? "begins with BOM; " : "", has_nul ? "contains NUL; " : "",
                     has_crlf ? "contains CRLF; " : "");
    if (n > 2) {
        out->notes[n - 2] = '\0';
    }
}

greta_status prompt_load(const greta_model *model, const prompt_args *args, prompt_text *out,
                         greta_error *err)
{
    buffer text = {0};
    /* A chat template writes its own BOS. */
    greta_tokenize_options options = {
        .size = sizeof options,
        .no_bos = args->no_bos || args->chat,
        .special = !args->no_special,
        .unknown_bytes_drop = args->unknown_bytes,
    };
    *out = (prompt_text){0};
    greta_status status = prompt_check(args, err);
    if (!status && args->tokens) {
        status = ids_parse(args->tokens, greta_model_describe(model).n_vocab, &out->tokens, err);
    } else if (!status) {
        status = prompt_bytes(model, args, &text, err);
        if (!status) {
            status = greta_tokenize(model, text.data, text.n, &options, &out->tokens, err);
        }
    }
    if (!status && out->tokens.n == 0 && !args->may_be_empty) {
        status = fail(err, GRETA_BAD_INPUT, "the prompt has no tokens");
    }
    if (!status) {
        prompt_note(out, &text);
    } else {
        greta_free(out->tokens.id);
        out->tokens = (greta_tokens){0};
    }
    free(text.data);
    return status;
}

greta_status tokens_text(const greta_model *model, const int32_t *id, size_t n, buffer *out,
                         greta_error *err)
{
    size_t bytes;
    *out = (buffer){0};
    for (size_t i = 0; i < n; i++) {
        greta_token_bytes(model, id[i], &bytes);
        out->n += bytes;
    }
    out->data = malloc(out->n + 1);
    if (!out->data) {
        return fail_memory(err);
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++, at += bytes) {
        const char *token = greta_token_bytes(model, id[i], &bytes);
        memcpy(out->data + at, token, bytes);
    }
    out->data[at] = '\0';
    return GRETA_OK;
}

/* ---- Session --------------------------------------------------------------------------------- */

flag_group session_group(session_args *args)
{
    static const flag table[] = {
        {.name = "--ctx", .kind = FLAG_WHOLE, .value = "N", .min = 1, .max = POSITIONS_MAX,
         .offset = offsetof(session_args, ctx),
         .help = "positions in the context; default the model's, at most 4096"},
        {.name = "--chunk", .kind = FLAG_WHOLE, .value = "N", .min = 1, .max = 65536,
         .offset = offsetof(session_args, chunk), .help = "tokens in one pass; default 512"},
        {.name = "--kv", .kind = FLAG_CHOICE, .value = "f16|f32",
         .offset = offsetof(session_args, kv), .help = "type of the KV cache; default f16"},
        {.name = "--act", .kind = FLAG_CHOICE, .value = "q8|f32",
         .offset = offsetof(session_args, act),
         .help = "activations that meet quantised weights; default q8"},
        {.name = "--threads", .kind = FLAG_WHOLE, .value = "N", .min = 1, .max = 512,
         .offset = offsetof(session_args, threads), .variable = "GRETA_THREADS",
         .help = "default one per CPU"},
        {.name = "--cpu", .kind = FLAG_CPU, .value = "NAME", .offset = offsetof(session_args, cpu),
         .variable = "GRETA_CPU", .help = "kernel table; greta --version lists them"},
        {.name = "--device", .kind = FLAG_PATH, .value = "NAME",
         .offset = offsetof(session_args, device), .variable = "GRETA_DEVICE",
         .help = "cpu, cuda, cuda:1, hip ..; default cpu; greta doctor lists them"},
    };
    return (flag_group){"Session: none of --chunk, --threads, --cpu, --device changes a bit",
                        table, COUNT_OF(table), args};
}

const char *plugin_folder(void)
{
    const char *folder = getenv("GRETA_PLUGIN_DIR");
    return folder && folder[0] ? folder : NULL;
}

greta_session_options session_options(const session_args *args)
{
    return (greta_session_options){
        .size = sizeof(greta_session_options),
        .n_ctx = (int32_t)args->ctx,
        .n_sequence = 1,
        .n_chunk = (int32_t)args->chunk,
        .n_thread = (int32_t)args->threads,
        .kv = args->kv ? GRETA_KV_F32 : GRETA_KV_F16,
        .act = args->act ? GRETA_ACT_F32 : GRETA_ACT_Q8,
        .cpu = args->cpu,
        .device = args->device,
        .plugins = plugin_folder(),
        .progress = progress_watch,
    };
}

greta_status runner_open(runner *r, const session_args *args, greta_error *err)
{
    greta_session_options wanted = session_options(args);
    r->info = greta_model_describe(r->model);
    greta_status status = greta_session_new(r->model, &wanted, &r->session, err);
    if (status) {
        return status;
    }
    r->options = greta_session_describe(r->session);
    r->row = malloc((size_t)r->options.n_chunk * sizeof *r->row);
    return r->row ? GRETA_OK : fail_memory(err);
}

void runner_close(runner *r)
{
    greta_session_free(r->session);
    greta_model_release(r->model);
    free(r->model_path);
    free(r->row);
    *r = (runner){0};
}

json_t *runner_config(const runner *r)
{
    const greta_session_options *o = &r->options;
    return json_pack("{s:o, s:s, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:s}", "model_file",
                     json_text(r->model_path, strlen(r->model_path)), "greta",
                     greta_version().library, "arithmetic", greta_version().arithmetic, "n_ctx",
                     o->n_ctx, "n_chunk", o->n_chunk, "n_thread", o->n_thread, "kv",
                     o->kv == GRETA_KV_F32 ? "f32" : "f16", "act",
                     o->act == GRETA_ACT_F32 ? "f32" : "q8", "cpu", o->cpu, "device",
                     o->device);
}

greta_status runner_fits(const runner *r, size_t n_prompt, greta_error *err)
{
    if (n_prompt <= (size_t)r->options.n_ctx) {
        return GRETA_OK;
    }
    fail(err, GRETA_BAD_INPUT, "prompt is %zu tokens, context %d", n_prompt, r->options.n_ctx);
    fail_hint(err, "raise --ctx or shorten the prompt");
    return GRETA_BAD_INPUT;
}

greta_status runner_feed(runner *r, const feed_args *args, size_t *n_fed, greta_error *err)
{
    greta_status status = GRETA_OK;
    *n_fed = 0;
    while (*n_fed < args->n && !status && !signals_seen()) {
        size_t first = *n_fed, left = args->n - first, n_wanted = 0;
        size_t n = left < (size_t)r->options.n_chunk ? left : (size_t)r->options.n_chunk;
        for (size_t i = 0; i < n; i++) {
            bool want = args->want ? args->want[first + i] : first + i + 1 == args->n;
            r->row[i] = (greta_row){.token = args->id[first + i],
                                    .position = args->from + (int32_t)(first + i),
                                    .want_logits = want};
        }
        greta_batch batch = {.row = r->row, .n = n, .phase = args->phase};
        status = greta_session_eval(r->session, &batch, err);
        for (size_t i = 0; i < n && !status; i++) {
            if (r->row[i].want_logits) {
                r->logits = greta_session_logits(r->session, n_wanted++);
                if (args->sink) {
                    status = args->sink(args->user, r->row[i].position, r->logits, err);
                }
            }
        }
        *n_fed += status ? 0 : n;
        if (args->progress) {
            progress(args->progress, *n_fed, args->n);
        }
    }
    return status;
}
