/* chat_parse.c - the lexemes of a template as a tree: blocks and statements.
 *
 * A statement that is not supported is kept with its name, and refused where it is reached; what
 * does not fit together (blocks without an end, clauses without a block) is refused at once. Blocks
 * are counted (LIMIT_CHAT_DEPTH) and may then recurse, here and when they are run. Expressions:
 * chat_expression.c.
 */
#include "model/chat_parse.h"

#include <string.h>

static greta_status parse_body(chat *c, const char *const *ends, node **body);

/* ---- Statements ------------------------------------------------------------------------------ */

static greta_status tag_end(chat *c)
{
    if (parse_here(c)->kind != LEXEME_TAG_END) {
        return parse_unexpected(c, "a tag");
    }
    c->at++;
    return GRETA_OK;
}

/* A name, ns.name, or several names. */
static greta_status parse_target(chat *c, node **n)
{
    node *first = NULL, **last;
    GRETA_TRY(parse_here(c)->kind == LEXEME_NAME ? parse_name(c, &first)
                                                 : parse_unexpected(c, "a target"));
    if (first->kind != NODE_NAME) {
        return parse_unexpected(c, "a target");
    }
    *n = first;
    if (parse_take_operator(c, ".")) {
        GRETA_TRY(parse_here(c)->kind == LEXEME_NAME ? GRETA_OK : parse_unexpected(c, "a target"));
        GRETA_TRY(parse_two(c, NODE_ATTRIBUTE, first, NULL, n));
        parse_text(*n, parse_here(c));
        c->at++;
        return GRETA_OK;
    }
    if (!parse_is_operator(c, ",")) {
        return GRETA_OK;
    }
    GRETA_TRY(parse_new(c, NODE_TUPLE, n));
    (*n)->a = first;
    last = &first->next;
    while (parse_take_operator(c, ",")) {
        GRETA_TRY(parse_here(c)->kind == LEXEME_NAME ? parse_name(c, last)
                                                     : parse_unexpected(c, "a target"));
        last = &(*last)->next;
    }
    return GRETA_OK;
}

/* Items with commas between, without brackets, are a tuple. */
static greta_status parse_tuple(chat *c, bool with_condition, node **n)
{
    GRETA_TRY(with_condition ? parse_expression(c, n) : parse_logic(c, true, n));
    return parse_is_operator(c, ",") ? parse_unexpected(c, "a tuple without brackets") : GRETA_OK;
}

static greta_status parse_for(chat *c, node *n)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    GRETA_TRY(parse_target(c, &n->a));
    if (n->a->kind == NODE_ATTRIBUTE || !parse_take_name(c, "in")) {
        return parse_unexpected(c, "for");
    }
    GRETA_TRY(parse_tuple(c, false, &n->b));
    if (parse_take_name(c, "if")) {
        GRETA_TRY(parse_expression(c, &n->e));
    }
    GRETA_TRY(tag_end(c));
    GRETA_TRY(parse_body(c, ends, &n->c));
    if (parse_take_name(c, "else")) {
        GRETA_TRY(tag_end(c));
        GRETA_TRY(parse_body(c, last, &n->d));
    }
    c->at++;
    return tag_end(c);
}

static greta_status parse_if(chat *c, node *n)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    for (;;) { /* elif is an if in the else body */
        GRETA_TRY(parse_tuple(c, true, &n->a));
        GRETA_TRY(tag_end(c));
        GRETA_TRY(parse_body(c, ends, &n->b));
        if (!parse_take_name(c, "elif")) {
            break;
        }
        GRETA_TRY(parse_new(c, NODE_IF, &n->c));
        n->c->is_not = true; /* an elif: runs without recursion */
        n = n->c;
    }
    if (parse_take_name(c, "else")) {
        GRETA_TRY(tag_end(c));
        GRETA_TRY(parse_body(c, last, &n->c));
    }
    c->at++;
    return tag_end(c);
}

static greta_status parse_set(chat *c, node *n)
{
    static const char *const ends[] = {"endset", NULL};
    GRETA_TRY(parse_target(c, &n->a));
    if (parse_take_operator(c, "=")) {
        GRETA_TRY(parse_tuple(c, true, &n->b));
        return tag_end(c);
    }
    n->kind = NODE_SET_BLOCK;
    GRETA_TRY(parse_new(c, NODE_INPUT, &n->b));
    GRETA_TRY(parse_filters(c, &n->b));
    GRETA_TRY(tag_end(c));
    GRETA_TRY(parse_body(c, ends, &n->c));
    c->at++;
    return tag_end(c);
}

static greta_status parse_macro(chat *c, node *n)
{
    static const char *const ends[] = {"endmacro", NULL};
    node **last = &n->a;
    if (parse_here(c)->kind != LEXEME_NAME || !lexeme_is(parse_here(c) + 1, LEXEME_OPERATOR, "(")) {
        return parse_unexpected(c, "macro");
    }
    parse_text(n, parse_here(c));
    c->at += 2;
    while (!parse_take_operator(c, ")")) {
        node *parameter = NULL;
        GRETA_TRY(parse_here(c)->kind == LEXEME_NAME ? GRETA_OK : parse_unexpected(c, "macro"));
        GRETA_TRY(parse_new(c, NODE_ARGUMENT, &parameter));
        parse_text(parameter, parse_here(c));
        c->at++;
        if (parse_take_operator(c, "=")) {
            GRETA_TRY(parse_expression(c, &parameter->a));
        }
        *last = parameter;
        last = &parameter->next;
        if (!parse_is_operator(c, ")")) {
            GRETA_TRY(parse_expect(c, ",", "macro"));
        }
    }
    GRETA_TRY(tag_end(c));
    GRETA_TRY(parse_body(c, ends, &n->b));
    c->at++;
    return tag_end(c);
}

/* Statements that are not supported, kept until they are reached. Those with a body are skipped
 * with it. */
static greta_status parse_unknown(chat *c, node *n)
{
    static const char *const blocks[][2] = {{"call", "endcall"},   {"filter", "endfilter"},
                                            {"with", "endwith"},   {"block", "endblock"},
                                            {"trans", "endtrans"}, {"autoescape", "endautoescape"}};
    n->kind = NODE_UNKNOWN;
    const char *ends[] = {NULL, NULL};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        bool is_it =
            n->length == strlen(blocks[i][0]) && memcmp(n->text, blocks[i][0], n->length) == 0;
        ends[0] = is_it ? blocks[i][1] : ends[0];
    }
    while (parse_here(c)->kind != LEXEME_TAG_END && parse_here(c)->kind != LEXEME_END) {
        c->at++;
    }
    GRETA_TRY(tag_end(c));
    if (ends[0] == NULL) {
        return GRETA_OK;
    }
    GRETA_TRY(parse_body(c, ends, &n->b));
    while (parse_here(c)->kind != LEXEME_TAG_END && parse_here(c)->kind != LEXEME_END) {
        c->at++;
    }
    return tag_end(c);
}

static greta_status parse_statement(chat *c, node **n)
{
    static const char *const generation[] = {"endgeneration", NULL};
    const lexeme *name = parse_here(c);
    if (name->kind != LEXEME_NAME) {
        return parse_unexpected(c, "a tag");
    }
    if (name->length > 3 && memcmp(name->text, "end", 3) == 0) {
        return chat_fail(c, name->line, "has a clause without its block");
    }
    GRETA_TRY(parse_new(c, NODE_UNKNOWN, n));
    parse_text(*n, name);
    c->at++;
    if (lexeme_is(name, LEXEME_NAME, "if")) {
        (*n)->kind = NODE_IF;
        return parse_if(c, *n);
    }
    if (lexeme_is(name, LEXEME_NAME, "for")) {
        (*n)->kind = NODE_FOR;
        return parse_for(c, *n);
    }
    if (lexeme_is(name, LEXEME_NAME, "set")) {
        (*n)->kind = NODE_SET;
        return parse_set(c, *n);
    }
    if (lexeme_is(name, LEXEME_NAME, "macro")) {
        (*n)->kind = NODE_MACRO;
        return parse_macro(c, *n);
    }
    if (lexeme_is(name, LEXEME_NAME, "generation")) {
        (*n)->kind = NODE_SCOPE;
        GRETA_TRY(tag_end(c));
        GRETA_TRY(parse_body(c, generation, &(*n)->a));
        c->at++;
        return tag_end(c);
    }
    if (lexeme_is(name, LEXEME_NAME, "break") || lexeme_is(name, LEXEME_NAME, "continue")) {
        (*n)->kind = name->text[0] == 'b' ? NODE_BREAK : NODE_CONTINUE;
        return tag_end(c);
    }
    if (lexeme_is(name, LEXEME_NAME, "elif") || lexeme_is(name, LEXEME_NAME, "else")) {
        return chat_fail(c, name->line, "has a clause without its block");
    }
    return parse_unknown(c, *n);
}

/* Whether one of these words stands here; behind the opening of a tag. */
static bool is_end(const chat *c, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++) {
        if (lexeme_is(parse_here(c) + 1, LEXEME_NAME, *ends)) {
            return true;
        }
    }
    return false;
}

/* Everything up to a tag that ends it, of which the opening is read; `ends` NULL: up to the end of
 * the template. */
static greta_status parse_body(chat *c, const char *const *ends, node **body)
{
    node **last = body;
    uint32_t line = parse_here(c)->line;
    GRETA_TRY(parse_enter(c));
    for (;;) {
        const lexeme *l = parse_here(c);
        if (l->kind == LEXEME_END) {
            c->depth--;
            return ends == NULL ? GRETA_OK : chat_fail(c, line, "has a block without an end");
        }
        if (l->kind == LEXEME_TAG && is_end(c, ends)) {
            c->at++;
            c->depth--;
            return GRETA_OK;
        }
        c->at++;
        if (l->kind == LEXEME_DATA) {
            GRETA_TRY(parse_new(c, NODE_DATA, last));
            parse_text(*last, l);
        } else if (l->kind == LEXEME_PRINT) {
            GRETA_TRY(parse_new(c, NODE_PRINT, last));
            GRETA_TRY(parse_tuple(c, true, &(*last)->a));
            GRETA_TRY(parse_here(c)->kind == LEXEME_PRINT_END ? GRETA_OK
                                                              : parse_unexpected(c, "{{ }}"));
            c->at++;
        } else {
            GRETA_TRY(parse_statement(c, last));
        }
        last = &(*last)->next;
    }
}

greta_status chat_parse(chat *c, node **body)
{
    c->at = 0;
    c->depth = 0;
    return parse_body(c, NULL, body);
}
