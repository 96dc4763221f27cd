/* chat.c - rendering the model's own chat template.
 *
 * A template is a small Jinja program in the file (tokenizer.chat_template). Matching its text
 * against known templates was rejected: the families come in dozens of spellings, and one that
 * looks known but differs in a condition would be rendered wrong. So the template is run, by an
 * interpreter for the part of Jinja that ChatML-like and Llama-3-like templates use (Qwen's and
 * Llama 3.1's tool branches included, which stay untaken here). What it knows it does exactly as
 * jinja2 does with transformers' settings; what it does not know is refused when it is reached, by
 * name. All literals, the default system message too, come out of the template.
 *
 * A template that shows neither family's markers is refused even if it could be run: the end of a
 * turn could then not be told from text (tokenizer_is_end).
 *
 * The three steps: chat_lexer.c cuts and links, this file walks the tags, chat_expression.c and
 * chat_value.c evaluate. Nothing recurses; blocks, loops and operators have fixed stacks; tags
 * executed and bytes made are limited.
 *
 * Scopes, as in Jinja: a loop body has its own variables, new in every round, and what it sets is
 * gone behind it; if opens no scope.
 */
#include "model/chat_internal.h"

#include <stdlib.h>
#include <string.h>

#define TEMPLATE "tokenizer.chat_template"

static const lexeme *here(const chat *c)
{
    return &c->template.item[c->at];
}

/* ---- Refusals -------------------------------------------------------------------------------- */

greta_status chat_refuse(chat *c, const char *what, const lexeme *name)
{
    char shown[ESCAPED_MAX];
    greta_status status;
    if (name == NULL) {
        status = error_set(c->err, GRETA_BAD_INPUT,
                           "the chat template uses %s, which is not supported", what);
    } else {
        status = error_set(c->err, GRETA_BAD_INPUT,
                           "the chat template uses %s \"%s\", which is not supported", what,
                           escape(name->text, name->length, shown));
    }
    error_hint(c->err, "without --chat the prompt is taken as it is");
    return status;
}

greta_status chat_refuse_value(chat *c, value v)
{
    char shown[ESCAPED_MAX];
    const lexeme *name = v.number < 0 ? NULL : &c->template.item[v.number];
    if (v.text != NULL) {
        return chat_refuse(c, v.text, name);
    }
    return error_set(c->err, GRETA_BAD_INPUT, "the chat template refuses the conversation%s%s",
                     name == NULL ? "" : ": ",
                     name == NULL ? "" : escape(name->text, name->length, shown));
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* An expression whose value is needed. */
static greta_status needed(chat *c, bool is_iterable, value *v)
{
    GRETA_TRY(chat_evaluate(c, is_iterable, v));
    GRETA_TRY(c->failure);
    return v->kind == VALUE_REFUSED ? chat_refuse_value(c, *v) : GRETA_OK;
}

/* The end of the tag behind its expression. */
static greta_status tag_end(chat *c, lexeme_kind kind)
{
    if (here(c)->kind != kind) {
        return chat_refuse(c, "a tag with", here(c));
    }
    c->at++;
    return GRETA_OK;
}

static greta_status print(chat *c)
{
    value v;
    c->at++;
    GRETA_TRY(needed(c, false, &v));
    GRETA_TRY(tag_end(c, LEXEME_PRINT_END));
    v = chat_to_string(c, v);
    GRETA_TRY(c->failure);
    if (v.kind == VALUE_REFUSED) {
        return chat_refuse_value(c, v);
    }
    text_append(&c->out, v.text, v.length);
    return GRETA_OK;
}

/* Sets a variable of the innermost scope. */
static greta_status variable_set(chat *c, const lexeme *name, value v)
{
    size_t scope = c->n_loop == 0 ? 0 : c->loop[c->n_loop - 1].n_variable;
    for (size_t i = scope; i < c->n_variable; i++) {
        const lexeme *known = c->variable[i].name;
        if (known != NULL && known->length == name->length &&
            memcmp(known->text, name->text, name->length) == 0) {
            c->variable[i].value = v;
            return GRETA_OK;
        }
    }
    if (c->n_variable == LIMIT_CHAT_VARIABLES) {
        return chat_refuse(c, "too many variables:", name);
    }
    c->variable[c->n_variable++] = (variable){name, v};
    return GRETA_OK;
}

/* set name = expression */
static greta_status set(chat *c)
{
    value v;
    const lexeme *name = &c->template.item[c->at];
    if (name->kind != LEXEME_NAME || !lexeme_is(name + 1, LEXEME_OPERATOR, "=")) {
        return chat_refuse(c, "a form of set with", name);
    }
    c->at += 2;
    GRETA_TRY(needed(c, false, &v));
    GRETA_TRY(variable_set(c, name, v));
    return tag_end(c, LEXEME_TAG_END);
}

/* Goes to the first clause that holds, or behind the endif. `tag` is the if. */
static greta_status branch(chat *c, const lexeme *tag)
{
    for (;;) {
        value v = chat_bool(true);
        if (lexeme_is(&tag[1], LEXEME_NAME, "if") || lexeme_is(&tag[1], LEXEME_NAME, "elif")) {
            GRETA_TRY(needed(c, false, &v));
        }
        GRETA_TRY(tag_end(c, LEXEME_TAG_END));
        if (value_is_true(v)) {
            return GRETA_OK;
        }
        tag = &c->template.item[tag->jump];
        c->at = (size_t)(tag - c->template.item) + 2;
    }
}

/* The next round of the innermost loop, or the end of it; c->at is behind its endfor. */
static greta_status loop_round(chat *c)
{
    chat_loop *l = &c->loop[c->n_loop - 1];
    c->n_variable = l->n_variable;
    if (l->i == l->n) {
        c->n_loop--;
        return GRETA_OK;
    }
    c->at = l->body;
    GRETA_TRY(variable_set(c, l->target,
                           (value){.kind = VALUE_MESSAGE, .number = l->first + (int64_t)l->i}));
    if (c->n_variable == LIMIT_CHAT_VARIABLES) {
        return chat_refuse(c, "too many variables:", l->target);
    }
    c->variable[c->n_variable++] =
        (variable){NULL, {.kind = VALUE_LOOP, .number = (int64_t)c->n_loop - 1}};
    return GRETA_OK;
}

/* for name in messages */
static greta_status loop_begin(chat *c, const lexeme *tag)
{
    value v;
    const lexeme *target = here(c);
    if (target->kind != LEXEME_NAME || !lexeme_is(target + 1, LEXEME_NAME, "in")) {
        return chat_refuse(c, "a form of for with", target);
    }
    c->at += 2;
    GRETA_TRY(needed(c, true, &v));
    GRETA_TRY(tag_end(c, LEXEME_TAG_END));
    if (v.kind != VALUE_MESSAGES && v.kind != VALUE_UNDEFINED) {
        return chat_refuse(c, "a loop over something other than messages, with", target);
    }
    const lexeme *end = &c->template.item[tag->jump];
    if (!lexeme_is(end + 1, LEXEME_NAME, "endfor")) {
        return chat_refuse(c, "for with", end + 1);
    }
    GRETA_ASSERT(c->n_loop < LIMIT_CHAT_DEPTH); /* The lexer has counted the blocks. */
    c->loop[c->n_loop++] = (chat_loop){.target = target,
                                       .body = c->at,
                                       .first = v.number,
                                       .n = v.length,
                                       .n_variable = c->n_variable};
    c->at = tag->jump + 2;
    GRETA_TRY(tag_end(c, LEXEME_TAG_END));
    return loop_round(c);
}

static greta_status statement(chat *c)
{
    const lexeme *tag = here(c), *name = tag + 1;
    c->at += 2;
    if (lexeme_is(name, LEXEME_NAME, "set")) {
        return set(c);
    }
    if (lexeme_is(name, LEXEME_NAME, "for")) {
        return loop_begin(c, tag);
    }
    if (lexeme_is(name, LEXEME_NAME, "if")) {
        return branch(c, tag);
    }
    if (lexeme_is(name, LEXEME_NAME, "elif") || lexeme_is(name, LEXEME_NAME, "else")) {
        /* The end of the clause that was taken: over the others. */
        while (tag->jump != 0) {
            tag = &c->template.item[tag->jump];
        }
        c->at = (size_t)(tag - c->template.item) + 2;
        return tag_end(c, LEXEME_TAG_END);
    }
    if (lexeme_is(name, LEXEME_NAME, "endif")) {
        return tag_end(c, LEXEME_TAG_END);
    }
    if (lexeme_is(name, LEXEME_NAME, "endfor")) {
        GRETA_TRY(tag_end(c, LEXEME_TAG_END));
        c->loop[c->n_loop - 1].i++;
        return loop_round(c);
    }
    return chat_refuse(c, "the statement", name);
}

static greta_status run(chat *c)
{
    for (uint32_t steps = 0; here(c)->kind != LEXEME_END; steps++) {
        if (steps == LIMIT_CHAT_STEPS) {
            return error_set(c->err, GRETA_BAD_INPUT, "the chat template takes more than %u steps",
                             LIMIT_CHAT_STEPS);
        }
        if (here(c)->kind == LEXEME_DATA) {
            text_append(&c->out, here(c)->text, here(c)->length);
            c->at++;
        } else if (here(c)->kind == LEXEME_PRINT) {
            GRETA_TRY(print(c));
        } else {
            GRETA_ASSERT(here(c)->kind == LEXEME_TAG);
            GRETA_TRY(statement(c));
        }
        if (c->out.length > LIMIT_PROMPT_BYTES) {
            return error_set(c->err, GRETA_BAD_INPUT, "the chat text has more than %u bytes",
                             LIMIT_PROMPT_BYTES);
        }
    }
    return GRETA_OK;
}

/* ---- Entry ----------------------------------------------------------------------------------- */

static bool has_text(const tokenizer *t, const char *part)
{
    return memmem(t->chat_template, t->chat_template_bytes, part, strlen(part)) != NULL;
}

static greta_status template_check(const tokenizer *t, greta_error *err)
{
    if (t->chat_template == NULL) {
        return error_set(err, GRETA_BAD_INPUT, TEMPLATE " is missing: no chat format is known");
    }
    if (t->chat_template_bytes > LIMIT_CHAT_TEMPLATE_BYTES) {
        return error_set(err, GRETA_BAD_INPUT, TEMPLATE " has %zu bytes (at most %u)",
                         t->chat_template_bytes, LIMIT_CHAT_TEMPLATE_BYTES);
    }
    bool is_chatml = has_text(t, "<|im_start|>") && has_text(t, "<|im_end|>");
    bool is_llama3 = has_text(t, "<|start_header_id|>") && has_text(t, "<|eot_id|>");
    if (!is_chatml && !is_llama3) {
        return error_set(err, GRETA_BAD_INPUT,
                         TEMPLATE " is neither ChatML-like (<|im_start|>, <|im_end|>) nor "
                                  "Llama-3-like (<|start_header_id|>, <|eot_id|>)");
    }
    return GRETA_OK;
}

greta_status chat_render(const tokenizer *t, const greta_message *messages, size_t n,
                         int add_generation_prompt, char **rendered, greta_error *err)
{
    *rendered = NULL;
    for (size_t i = 0; i < n; i++) {
        if (messages[i].role == NULL || messages[i].content == NULL) {
            return error_set(err, GRETA_USAGE, "message %zu has no %s", i,
                             messages[i].role == NULL ? "role" : "content");
        }
    }
    GRETA_TRY(template_check(t, err));
    chat *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return error_memory(err, "the chat template", sizeof *c);
    }
    c->tok = t;
    c->messages = messages;
    c->n_messages = n;
    c->add_generation_prompt = add_generation_prompt != 0;
    c->err = err;
    greta_status status = chat_lex(t->chat_template, t->chat_template_bytes, &c->template, err);
    if (status == GRETA_OK) {
        status = run(c);
    }
    if (status == GRETA_OK) {
        status = text_take(&c->out, rendered, err);
    }
    text_free(&c->out);
    lexemes_free(&c->template);
    chat_strings_free(c);
    free(c);
    return status;
}
