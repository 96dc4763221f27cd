/* chat.c - rendering the model's own chat template.
 *
 * A template is a small Jinja program in the model's files. Matching its text against known
 * templates was rejected: the families come in dozens of spellings, and one that looks known but
 * differs in a condition would be rendered wrong. So the template is run, by an interpreter for the
 * part of Jinja that chat templates use. What it knows it does exactly as jinja2 does with
 * transformers' settings (trim_blocks, lstrip_blocks, loop controls, its tojson, raise_exception,
 * strftime_now); what it does not know is refused where it is reached, by name and line. All
 * literals, the default system message too, come out of the template.
 *
 * The steps: chat_lexer.c cuts the text, chat_parse.c and chat_expression.c make a tree, chat_run.c
 * walks it; chat_value.c are the values, chat_filter.c and chat_method.c what can be done to them.
 * Steps, bytes and depths are limited: a template is input.
 *
 * A message is a mapping of role and content. A message without the one that a template asks for
 * cannot be: roles and contents are strings here.
 */
#include "model/chat_internal.h"

#include <stdlib.h>
#include <string.h>

#define TEMPLATE "tokenizer.chat_template"

static greta_status messages_make(chat *c, const greta_message *messages, size_t n)
{
    GRETA_TRY(value_list_new(c, VALUE_LIST, &c->messages));
    for (size_t i = 0; i < n; i++) {
        value one;
        const char *role = messages[i].role, *content = messages[i].content;
        GRETA_TRY(value_dict_new(c, VALUE_DICT, &one));
        GRETA_TRY(
            value_dict_set(c, one.dict, value_string("role", 4), value_string(role, strlen(role))));
        GRETA_TRY(value_dict_set(c, one.dict, value_string("content", 7),
                                 value_string(content, strlen(content))));
        GRETA_TRY(value_append(c, c->messages.list, one));
    }
    return GRETA_OK;
}

static greta_status render(chat *c, const greta_message *messages, size_t n)
{
    node *body = NULL;
    const tokenizer *t = c->tok;
    if (t->chat_template == NULL) {
        return error_set(c->err, GRETA_BAD_INPUT, TEMPLATE " is missing: no chat format is known");
    }
    if (t->chat_template_bytes > LIMIT_CHAT_TEMPLATE_BYTES) {
        return error_set(c->err, GRETA_BAD_INPUT, TEMPLATE " has %zu bytes (at most %u)",
                         t->chat_template_bytes, LIMIT_CHAT_TEMPLATE_BYTES);
    }
    GRETA_TRY(messages_make(c, messages, n));
    GRETA_TRY(chat_lex(t->chat_template, t->chat_template_bytes, &c->template, c->err));
    GRETA_TRY(chat_parse(c, &body));
    return chat_run(c, body);
}

greta_status chat_render(const tokenizer *t, const greta_message *messages, size_t n,
                         const greta_chat_options *options, char **rendered, greta_error *err)
{
    *rendered = NULL;
    for (size_t i = 0; i < n; i++) {
        if (messages[i].role == NULL || messages[i].content == NULL) {
            return error_set(err, GRETA_USAGE, "message %zu has no %s", i,
                             messages[i].role == NULL ? "role" : "content");
        }
    }
    chat *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return error_memory(err, "the chat template", sizeof *c);
    }
    text out = {0};
    greta_error local = {0};
    c->tok = t;
    c->options = options;
    c->out = &out;
    c->err = err == NULL ? &local : err;
    greta_status status = render(c, messages, n);
    if (status != GRETA_OK) {
        status = c->err->code; /* also where memory ran out */
    } else {
        status = text_take(&out, rendered, err);
    }
    text_free(&out);
    lexemes_free(&c->template);
    chat_free_all(c);
    free(c);
    return status;
}
