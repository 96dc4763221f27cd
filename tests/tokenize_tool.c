/* tokenize_tool.c - the tokenizer and the chat template of one model, for the tests in Python.
 *
 *     tokenize_tool FILE.gguf|tokenizer.json [tokenizer_config.json] < requests > answers
 *
 * Only the directory and the tokenizer are opened, so a file without weights serves. A request is
 *     'E' flags length bytes              encode; flags: 1 special, 2 drop unknown bytes, 4 BOS/EOS
 *     'D' flags count {id}                decode; flags: 1 continuation, 2 skip control tokens
 *     'C' prompt count {length bytes} x 2 render messages {role, content}; prompt: 0 or 1, and
 *                                         2 for a date, 2024-07-26 13:05:09
 * with flags and prompt of one byte and lengths and counts of four (little-endian). An answer is a
 * line: "ok <bytes dropped> <bytes decoded, hex> <id> ..." or "ok <text, hex>", else
 * "error <message>".
 */
#include "base/error.h"
#include "format/gguf.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 4096

static void read_exactly(void *out, size_t bytes)
{
    if (fread(out, 1, bytes, stdin) != bytes) {
        fputs("tokenize_tool: the request breaks off\n", stderr);
        exit(2);
    }
}

static uint32_t read_u32(void)
{
    uint8_t b[4];
    read_exactly(b, sizeof b);
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* malloc'd with exactly these bytes and, for chat, a terminator. */
static char *read_bytes(size_t *bytes, int is_terminated)
{
    *bytes = read_u32();
    char *data = malloc(*bytes + (size_t)is_terminated + (*bytes == 0));
    if (data == NULL) {
        exit(2);
    }
    read_exactly(data, *bytes);
    if (is_terminated) {
        data[*bytes] = '\0';
    }
    return data;
}

static void print_hex(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        printf("%02x", (unsigned char)bytes[i]);
    }
}

static void print_error(const greta_error *err)
{
    printf("error %s\n", err->message);
}

static void answer_encode(const tokenizer *t)
{
    greta_error err = {0};
    greta_tokens tokens = {0};
    uint8_t flags;
    size_t bytes;
    read_exactly(&flags, 1);
    greta_tokenize_options options = {.size = sizeof options,
                                      .special = flags & 1,
                                      .unknown_bytes_drop = flags & 2,
                                      .no_bos = !(flags & 4)};
    char *data = read_bytes(&bytes, 0);
    if (tokenizer_encode(t, data, bytes, &options, &tokens, &err) != GRETA_OK) {
        print_error(&err);
    } else {
        printf("ok %zu x", tokens.n_dropped);
        for (size_t i = 0; i < tokens.n; i++) {
            size_t n = 0;
            const char *decoded = tokenizer_bytes(t, tokens.id[i], &n);
            print_hex(decoded, n);
        }
        for (size_t i = 0; i < tokens.n; i++) {
            printf(" %d", tokens.id[i]);
        }
        putchar('\n');
    }
    free(tokens.id);
    free(data);
}

static void answer_decode(const tokenizer *t)
{
    greta_error err = {0};
    uint8_t flags;
    char *decoded = NULL;
    size_t bytes = 0;
    read_exactly(&flags, 1);
    greta_detokenize_options options = {
        .size = sizeof options, .is_continuation = flags & 1, .skip_control = flags & 2};
    uint32_t n = read_u32();
    int32_t *id = malloc(((size_t)n + 1) * sizeof *id);
    for (uint32_t i = 0; id != NULL && i < n; i++) {
        id[i] = (int32_t)read_u32();
    }
    if (id == NULL || tokenizer_decode(t, id, n, &options, &decoded, &bytes, &err) != GRETA_OK) {
        print_error(&err);
    } else {
        printf("ok x");
        print_hex(decoded, bytes);
        putchar('\n');
    }
    free(decoded);
    free(id);
}

static void answer_chat(const tokenizer *t)
{
    static greta_message message[MESSAGES_MAX];
    greta_error err = {0};
    uint8_t prompt;
    size_t bytes;
    char *rendered = NULL;
    read_exactly(&prompt, 1);
    greta_chat_options options = {.size = sizeof options,
                                  .add_generation_prompt = prompt & 1,
                                  .has_now = prompt & 2,
                                  .now = 1721999109};
    uint32_t n = read_u32();
    if (n > MESSAGES_MAX) {
        exit(2);
    }
    for (uint32_t i = 0; i < n; i++) {
        message[i].role = read_bytes(&bytes, 1);
        message[i].content = read_bytes(&bytes, 1);
    }
    if (chat_render(t, message, n, &options, &rendered, &err) != GRETA_OK) {
        print_error(&err);
    } else {
        printf("ok x");
        print_hex(rendered, strlen(rendered));
        putchar('\n');
    }
    greta_free(rendered);
    for (uint32_t i = 0; i < n; i++) {
        free((void *)message[i].role);
        free((void *)message[i].content);
    }
}

/* The whole file, malloc'd. */
static char *file_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    size_t capacity = 0;
    *bytes = 0;
    while (file != NULL && !feof(file) && !ferror(file)) {
        capacity = capacity * 2 + 65536;
        data = realloc(data, capacity);
        if (data == NULL) {
            exit(2);
        }
        *bytes += fread(data + *bytes, 1, capacity - *bytes, file);
    }
    if (file == NULL || ferror(file)) {
        fprintf(stderr, "tokenize_tool: cannot read %s\n", path);
        exit(2);
    }
    fclose(file);
    return data;
}

static greta_status open_json(const char *path, const char *config, tokenizer **t, greta_error *err)
{
    tokenizer_files files = {0};
    char *json = file_read(path, &files.json_bytes);
    char *second = config == NULL ? NULL : file_read(config, &files.config_bytes);
    files.json = json;
    files.config = second;
    greta_status status = tokenizer_from_hf(&files, 0, t, err);
    free(json);
    free(second);
    return status;
}

static greta_status open_gguf(const char *path, tokenizer **t, greta_error *err)
{
    gguf *g = NULL;
    greta_status status = gguf_open(path, &g, err);
    if (status == GRETA_OK) {
        const gguf_key *tokens = gguf_find_key(g, "tokenizer.ggml.tokens");
        status = tokenizer_new(g, tokens == NULL ? 0 : tokens->n, t, err);
    }
    gguf_close(g);
    return status;
}

int main(int argc, char **argv)
{
    greta_error err = {0};
    tokenizer *t = NULL;
    if (argc < 2 || argc > 3) {
        fputs("usage: tokenize_tool FILE [CONFIG] < requests\n", stderr);
        return 2;
    }
    size_t n = strlen(argv[1]);
    bool is_json = n > 5 && strcmp(argv[1] + n - 5, ".json") == 0;
    greta_status status = is_json ? open_json(argv[1], argc > 2 ? argv[2] : NULL, &t, &err)
                                  : open_gguf(argv[1], &t, &err);
    if (status != GRETA_OK) {
        char line[GRETA_ERROR_LINE];
        fprintf(stderr, "%s\n", greta_error_line(&err, line));
    }
    for (int request; status == GRETA_OK && (request = getchar()) != EOF;) {
        if (request == 'E') {
            answer_encode(t);
        } else if (request == 'D') {
            answer_decode(t);
        } else if (request == 'C') {
            answer_chat(t);
        } else {
            status = GRETA_USAGE;
        }
    }
    tokenizer_free(t);
    return (int)status;
}
