/* tokenize_tool.c - the tokenizer and the chat template of one GGUF file, for the tests in Python.
 *
 *     tokenize_tool FILE < requests > answers
 *
 * Only the directory and the tokenizer are opened, so a file without weights serves. A request is
 *     'E' flags length bytes              encode; flags: 1 special, 2 drop unknown bytes, 4 BOS/EOS
 *     'C' prompt count {length bytes} x 2 render messages {role, content}; prompt: 0 or 1
 * with flags and prompt of one byte and lengths and counts of four (little-endian). An answer is a
 * line: "ok <bytes dropped> <bytes decoded, hex> <id> ..." or "ok <text, hex>", else
 * "error <message>".
 */
#include "base/error.h"
#include "format/gguf.h"
#include "model/tokenizer.h"

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

static void answer_chat(const gguf *g, const tokenizer *t)
{
    static greta_message message[MESSAGES_MAX];
    greta_error err = {0};
    uint8_t prompt;
    size_t bytes;
    char *rendered = NULL;
    read_exactly(&prompt, 1);
    uint32_t n = read_u32();
    if (n > MESSAGES_MAX) {
        exit(2);
    }
    for (uint32_t i = 0; i < n; i++) {
        message[i].role = read_bytes(&bytes, 1);
        message[i].content = read_bytes(&bytes, 1);
    }
    if (chat_render(g, t, message, n, prompt, &rendered, &err) != GRETA_OK) {
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

int main(int argc, char **argv)
{
    greta_error err = {0};
    gguf *g = NULL;
    tokenizer *t = NULL;
    if (argc != 2) {
        fputs("usage: tokenize_tool FILE < requests\n", stderr);
        return 2;
    }
    greta_status status = gguf_open(argv[1], &g, &err);
    if (status == GRETA_OK) {
        const gguf_key *tokens = gguf_find_key(g, "tokenizer.ggml.tokens");
        status = tokenizer_new(g, tokens == NULL ? 0 : tokens->n, &t, &err);
    }
    if (status != GRETA_OK) {
        char line[GRETA_ERROR_LINE];
        fprintf(stderr, "%s\n", greta_error_line(&err, line));
    }
    for (int request; status == GRETA_OK && (request = getchar()) != EOF;) {
        if (request == 'E') {
            answer_encode(t);
        } else if (request == 'C') {
            answer_chat(g, t);
        } else {
            status = GRETA_USAGE;
        }
    }
    tokenizer_free(t);
    gguf_close(g);
    return (int)status;
}
