/* command_tokenize.c - `greta tokenize`: bytes to token ids, and back.
 *
 * The prompt is taken as text unless --special is given (the other commands parse control tokens
 * unless told not to), because here the question is usually what the characters become.
 */
#include "commands.h"
#include "common.h"
#include "output.h"

#include <stdlib.h>
#include <string.h>

typedef struct tokenize_args {
    model_args model;
    prompt_args prompt;
    bool special, decode, json;
} tokenize_args;

static const flag tokenize_flags[] = {
    {.name = "--special",
     .kind = FLAG_SWITCH,
     .offset = offsetof(tokenize_args, special),
     .help = "text like <|im_start|> becomes the control token"},
    {.name = "--decode",
     .kind = FLAG_SWITCH,
     .offset = offsetof(tokenize_args, decode),
     .help = "write the bytes of --tokens LIST"},
    {.name = "--json",
     .kind = FLAG_SWITCH,
     .offset = offsetof(tokenize_args, json),
     .help = "a list of ids; an object with --decode and --chat"},
};

static greta_status decode_say(const tokenize_args *args, const greta_model *model,
                               const greta_tokens *tokens, greta_error *err)
{
    char *text = NULL;
    size_t n = 0;
    greta_status status = greta_detokenize(model, tokens->id, tokens->n, NULL, &text, &n, err);
    if (!status) {
        status = args->json ? output_json(json_pack("{s:o, s:o}", "text", json_text(text, n),
                                                    "text_bytes_hex", json_hex(text, n)),
                                          err)
                            : output_bytes(text, n, err);
    }
    greta_free(text);
    return status ? status : output_flush(err);
}

static greta_status chat_say(const tokenize_args *args, const greta_model *model,
                             const greta_tokens *tokens, greta_error *err)
{
    buffer text;
    greta_status status = prompt_bytes(model, &args->prompt, &text, err);
    if (!status) {
        status = args->json
                     ? output_json(json_pack("{s:o, s:o}", "text", json_text(text.data, text.n),
                                             "tokens", json_ids(tokens->id, tokens->n)),
                                   err)
                     : output_bytes(text.data, text.n, err);
    }
    free(text.data);
    return status ? status : output_flush(err);
}

static greta_status ids_say(const tokenize_args *args, const greta_model *model,
                            const greta_tokens *tokens, greta_error *err)
{
    if (args->json) {
        return output_json(json_ids(tokens->id, tokens->n), err);
    }
    for (size_t i = 0; i < tokens->n; i++) {
        size_t n;
        char q[QUOTED_MAX];
        const char *bytes = greta_token_bytes(model, tokens->id[i], &n);
        printf("%7d  \"%s\"\n", tokens->id[i], quoted(bytes, n, q));
    }
    return output_flush(err);
}

int command_tokenize(int argc, char **argv, greta_error *err)
{
    tokenize_args args = {.prompt.may_be_empty = true};
    greta_model *model = NULL;
    char *path = NULL;
    prompt_text text = {0};
    flag_group group[] = {
        model_group(&args.model),
        prompt_group(&args.prompt),
        {"Output", tokenize_flags, COUNT_OF(tokenize_flags), &args},
    };
    command_line line = {
        .name = "tokenize",
        .usage = "-m MODEL -p TEXT",
        .group = group,
        .n_group = COUNT_OF(group),
        .summary = "Prints the token ids of a text, one a line with its bytes. Control tokens are\n"
                   "parsed only with --special or --chat; --chat prints the rendered text.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    if (args.decode && !args.prompt.tokens) {
        return (int)fail(err, GRETA_USAGE, "--decode needs --tokens LIST");
    }
    if (args.special && args.prompt.no_special) {
        return (int)fail(err, GRETA_USAGE, "--special and --no-special exclude each other");
    }
    args.prompt.no_special = !args.special && !args.prompt.chat;
    status = model_load(&args.model, &model, &path, err);
    if (!status) {
        status = prompt_load(model, &args.prompt, &text, err);
    }
    if (!status) {
        status = args.decode        ? decode_say(&args, model, &text.tokens, err)
                 : args.prompt.chat ? chat_say(&args, model, &text.tokens, err)
                                    : ids_say(&args, model, &text.tokens, err);
    }
    greta_free(text.tokens.id);
    greta_model_release(model);
    free(path);
    return (int)status;
}
