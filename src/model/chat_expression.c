/* chat_expression.c - the lexemes of an expression as a tree.
 *
 * The grammar is that of jinja2's parser.py, function for function, so that what binds how is not a
 * matter of taste: from loose to tight conditional, or, and, not, comparisons (chained), + and -,
 * ~, * / // %, **, signs, then attributes, subscripts and calls, then filters and tests. A test
 * takes an operand that follows as its argument, even an `if`; a dot after a filter's name is part
 * of it.
 *
 * The parser recurses, but not as deep as the input likes: brackets and blocks are counted
 * (LIMIT_CHAT_DEPTH), and so are operators that wait for each other (LIMIT_CHAT_TREE), on which the
 * evaluation recurses. Names of filters, tests and functions are not looked at: what is not
 * supported is refused where it is reached, for branches that a plain chat does not take hold many
 * of them.
 */
#include "model/chat_parse.h"

#include <string.h>

static greta_status parse_unary(chat *c, bool with_filters, node **n);

/* ---- Lexemes --------------------------------------------------------------------------------- */

const lexeme *parse_here(const chat *c)
{
    return &c->template.item[c->at];
}

bool parse_is_operator(const chat *c, const char *word)
{
    return lexeme_is(parse_here(c), LEXEME_OPERATOR, word);
}

bool parse_is_name(const chat *c, const char *word)
{
    return lexeme_is(parse_here(c), LEXEME_NAME, word);
}

bool parse_take_operator(chat *c, const char *word)
{
    bool is_it = parse_is_operator(c, word);
    c->at += is_it;
    return is_it;
}

bool parse_take_name(chat *c, const char *word)
{
    bool is_it = parse_is_name(c, word);
    c->at += is_it;
    return is_it;
}

greta_status parse_unexpected(chat *c, const char *where)
{
    char shown[ESCAPED_MAX];
    const lexeme *l = parse_here(c);
    const char *what = l->kind == LEXEME_PRINT_END ? "}}"
                       : l->kind == LEXEME_TAG_END ? "%}"
                       : l->kind == LEXEME_END     ? "its end"
                                                   : escape(l->text, l->length, shown);
    return chat_fail(c, l->line, "has %s where it does not belong, in %s", what, where);
}

greta_status parse_expect(chat *c, const char *word, const char *where)
{
    return parse_take_operator(c, word) ? GRETA_OK : parse_unexpected(c, where);
}

greta_status parse_new(chat *c, node_kind kind, node **n)
{
    *n = chat_alloc(c, sizeof **n);
    if (*n == NULL) {
        return GRETA_BAD_INPUT;
    }
    memset(*n, 0, sizeof **n);
    (*n)->kind = kind;
    (*n)->line = parse_here(c)->line;
    return GRETA_OK;
}

static uint16_t deeper(uint16_t depth, const node *child)
{
    return child != NULL && child->depth >= depth ? (uint16_t)(child->depth + 1) : depth;
}

/* The expression is complete: counts how deep its evaluation goes. */
greta_status parse_finish(chat *c, node *n)
{
    n->depth = deeper(deeper(deeper(deeper(1, n->a), n->b), n->c), n->d);
    for (const node *item = n->a; item != NULL; item = item->next) {
        n->depth = deeper(n->depth, item);
    }
    for (const node *item = n->b; item != NULL; item = item->next) {
        n->depth = deeper(n->depth, item);
    }
    return n->depth <= LIMIT_CHAT_TREE
               ? GRETA_OK
               : chat_fail(c, n->line, "has an expression nested that deep");
}

greta_status parse_two(chat *c, node_kind kind, node *a, node *b, node **n)
{
    GRETA_TRY(parse_new(c, kind, n));
    (*n)->a = a;
    (*n)->b = b;
    return parse_finish(c, *n);
}

greta_status parse_enter(chat *c)
{
    return c->depth++ < LIMIT_CHAT_DEPTH ? GRETA_OK
                                         : chat_fail(c, parse_here(c)->line, "is nested too deep");
}

void parse_text(node *n, const lexeme *l)
{
    n->text = l->text;
    n->length = l->length;
}

/* ---- Operands -------------------------------------------------------------------------------- */

static greta_status constant(chat *c, value v, node **n)
{
    GRETA_TRY(parse_new(c, NODE_CONSTANT, n));
    (*n)->value = chat_alloc(c, sizeof v);
    if ((*n)->value == NULL) {
        return GRETA_BAD_INPUT;
    }
    *(*n)->value = v;
    return parse_finish(c, *n);
}

static greta_status parse_number(chat *c, node **n)
{
    const lexeme *l = parse_here(c);
    int64_t number = 0;
    for (size_t i = 0; i < l->length; i++) {
        if (l->text[i] < '0' || l->text[i] > '9' || l->length > 15) {
            return parse_unexpected(c, "a number (whole, of at most 15 digits)");
        }
        number = number * 10 + (l->text[i] - '0');
    }
    GRETA_TRY(constant(c, value_int(number), n));
    c->at++;
    return GRETA_OK;
}

/* Strings side by side are one. */
static greta_status parse_string(chat *c, node **n)
{
    size_t first = c->at, total = 0;
    while (parse_here(c)->kind == LEXEME_STRING) {
        total += parse_here(c)->length;
        c->at++;
    }
    const lexeme *l = &c->template.item[first];
    if (c->at == first + 1) {
        return constant(c, value_string(l->text, l->length), n);
    }
    char *joined = chat_alloc(c, total);
    if (joined == NULL) {
        return GRETA_BAD_INPUT;
    }
    size_t n_joined = 0;
    for (size_t i = first; i < c->at; i++) {
        memcpy(joined + n_joined, c->template.item[i].text, c->template.item[i].length);
        n_joined += c->template.item[i].length;
    }
    return constant(c, value_string(joined, total), n);
}

greta_status parse_name(chat *c, node **n)
{
    static const struct {
        const char *name;
        value value;
    } known[] = {
        {"true", {.kind = VALUE_BOOL, .number = 1}},
        {"True", {.kind = VALUE_BOOL, .number = 1}},
        {"false", {.kind = VALUE_BOOL, .number = 0}},
        {"False", {.kind = VALUE_BOOL, .number = 0}},
        {"none", {.kind = VALUE_NONE}},
        {"None", {.kind = VALUE_NONE}},
    };
    static const char *const reserved[] = {"if", "else", "in", "is", "and", "or", "not"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (parse_is_name(c, known[i].name)) {
            GRETA_TRY(constant(c, known[i].value, n));
            c->at++;
            return GRETA_OK;
        }
    }
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        if (parse_is_name(c, reserved[i])) {
            return parse_unexpected(c, "an expression");
        }
    }
    GRETA_TRY(parse_new(c, NODE_NAME, n));
    parse_text(*n, parse_here(c));
    c->at++;
    return parse_finish(c, *n);
}

/* Items up to the bracket that closes; a comma may stand at the end. */
static greta_status parse_items(chat *c, node_kind kind, const char *close, node **n)
{
    node **last;
    GRETA_TRY(parse_new(c, kind, n));
    last = &(*n)->a;
    c->at++;
    GRETA_TRY(parse_enter(c));
    while (!parse_take_operator(c, close)) {
        node *item = NULL, *found = NULL;
        GRETA_TRY(parse_expression(c, &found));
        if (kind == NODE_DICT) {
            node *second = NULL;
            GRETA_TRY(parse_expect(c, ":", "a dict"));
            GRETA_TRY(parse_expression(c, &second));
            GRETA_TRY(parse_two(c, NODE_PAIR, found, second, &item));
        } else {
            GRETA_TRY(parse_two(c, NODE_ARGUMENT, found, NULL, &item));
        }
        *last = item;
        last = &item->next;
        if (!parse_is_operator(c, close)) {
            GRETA_TRY(parse_expect(c, ",", "a list"));
        }
    }
    c->depth--;
    return parse_finish(c, *n);
}

/* Brackets: an expression, or with a comma a tuple. */
static greta_status parse_brackets(chat *c, node **n)
{
    size_t start = c->at++;
    if (parse_is_operator(c, ")")) {
        c->at = start;
        return parse_items(c, NODE_TUPLE, ")", n);
    }
    GRETA_TRY(parse_enter(c));
    GRETA_TRY(parse_expression(c, n));
    c->depth--;
    if (parse_take_operator(c, ")")) {
        return GRETA_OK;
    }
    if (!parse_is_operator(c, ",")) {
        return parse_unexpected(c, "brackets");
    }
    c->at = start;
    return parse_items(c, NODE_TUPLE, ")", n);
}

static greta_status parse_primary(chat *c, node **n)
{
    const lexeme *l = parse_here(c);
    switch (l->kind) {
    case LEXEME_NAME:
        return parse_name(c, n);
    case LEXEME_STRING:
        return parse_string(c, n);
    case LEXEME_NUMBER:
        return parse_number(c, n);
    default:
        return parse_is_operator(c, "(")   ? parse_brackets(c, n)
               : parse_is_operator(c, "[") ? parse_items(c, NODE_LIST, "]", n)
               : parse_is_operator(c, "{") ? parse_items(c, NODE_DICT, "}", n)
                                           : parse_unexpected(c, "an expression");
    }
}

/* ---- What follows an operand ----------------------------------------------------------------- */

/* Arguments behind the bracket, up to its end: by place, then by name. */
static greta_status parse_arguments(chat *c, node **first)
{
    node **last = first;
    bool has_names = false;
    c->at++;
    GRETA_TRY(parse_enter(c));
    while (!parse_take_operator(c, ")")) {
        node *item = NULL;
        GRETA_TRY(parse_new(c, NODE_ARGUMENT, &item));
        if (parse_here(c)->kind == LEXEME_NAME &&
            lexeme_is(parse_here(c) + 1, LEXEME_OPERATOR, "=")) {
            parse_text(item, parse_here(c));
            c->at += 2;
            has_names = true;
        } else if (has_names || parse_is_operator(c, "*") || parse_is_operator(c, "**")) {
            return parse_unexpected(c, "arguments");
        }
        GRETA_TRY(parse_expression(c, &item->a));
        GRETA_TRY(parse_finish(c, item));
        *last = item;
        last = &item->next;
        if (!parse_is_operator(c, ")")) {
            GRETA_TRY(parse_expect(c, ",", "arguments"));
        }
    }
    c->depth--;
    return GRETA_OK;
}

/* [i], [low:high:step] */
static greta_status parse_subscript(chat *c, node *of, node **n)
{
    node *part[3] = {NULL, NULL, NULL};
    int n_colon = 0;
    c->at++;
    GRETA_TRY(parse_enter(c));
    while (!parse_take_operator(c, "]")) {
        if (parse_take_operator(c, ":")) {
            if (++n_colon > 2) {
                return parse_unexpected(c, "a subscript");
            }
        } else if (part[n_colon] != NULL) {
            return parse_unexpected(c, "a subscript");
        } else {
            GRETA_TRY(parse_expression(c, &part[n_colon]));
        }
    }
    c->depth--;
    if (n_colon == 0 && part[0] == NULL) {
        return parse_unexpected(c, "a subscript");
    }
    GRETA_TRY(parse_new(c, n_colon == 0 ? NODE_ITEM : NODE_SLICE, n));
    (*n)->a = of;
    (*n)->b = part[0];
    (*n)->c = part[1];
    (*n)->d = part[2];
    return parse_finish(c, *n);
}

static greta_status parse_call(chat *c, node *of, node **n)
{
    GRETA_TRY(parse_new(c, NODE_CALL, n));
    (*n)->a = of;
    GRETA_TRY(parse_arguments(c, &(*n)->b));
    return parse_finish(c, *n);
}

static greta_status parse_postfix(chat *c, node **n)
{
    for (;;) {
        node *made = NULL;
        if (parse_is_operator(c, "(")) {
            GRETA_TRY(parse_call(c, *n, &made));
        } else if (parse_is_operator(c, "[")) {
            GRETA_TRY(parse_subscript(c, *n, &made));
        } else if (parse_take_operator(c, ".")) {
            bool is_index = parse_here(c)->kind == LEXEME_NUMBER;
            GRETA_TRY(parse_new(c, is_index ? NODE_ITEM : NODE_ATTRIBUTE, &made));
            made->a = *n;
            if (is_index) {
                GRETA_TRY(parse_number(c, &made->b));
            } else if (parse_here(c)->kind == LEXEME_NAME) {
                parse_text(made, parse_here(c));
                c->at++;
            } else {
                return parse_unexpected(c, "an attribute");
            }
            GRETA_TRY(parse_finish(c, made));
        } else {
            return GRETA_OK;
        }
        *n = made;
    }
}

/* The name of a filter or test, and what is given to it. */
static greta_status parse_named(chat *c, node_kind kind, node *of, node **n)
{
    GRETA_TRY(parse_new(c, kind, n));
    (*n)->a = of;
    if (kind == NODE_TEST) {
        (*n)->is_not = parse_take_name(c, "not");
    }
    if (parse_here(c)->kind != LEXEME_NAME) {
        return parse_unexpected(c, kind == NODE_TEST ? "a test" : "a filter");
    }
    parse_text(*n, parse_here(c));
    c->at++;
    if (parse_is_operator(c, ".")) {
        return parse_unexpected(c, "the name of a filter or test");
    }
    if (parse_is_operator(c, "(")) {
        GRETA_TRY(parse_arguments(c, &(*n)->b));
    } else if (kind == NODE_TEST) {
        const lexeme *l = parse_here(c);
        bool is_word = l->kind == LEXEME_NAME && !parse_is_name(c, "else") &&
                       !parse_is_name(c, "or") && !parse_is_name(c, "and");
        if (parse_is_name(c, "is")) {
            return parse_unexpected(c, "a test");
        }
        if (is_word || l->kind == LEXEME_STRING || l->kind == LEXEME_NUMBER ||
            parse_is_operator(c, "[") || parse_is_operator(c, "{")) {
            GRETA_TRY(parse_new(c, NODE_ARGUMENT, &(*n)->b));
            GRETA_TRY(parse_primary(c, &(*n)->b->a));
            GRETA_TRY(parse_postfix(c, &(*n)->b->a));
            GRETA_TRY(parse_finish(c, (*n)->b));
        }
    }
    return parse_finish(c, *n);
}

greta_status parse_filters(chat *c, node **n)
{
    for (;;) {
        node *made = NULL;
        if (parse_take_operator(c, "|")) {
            GRETA_TRY(parse_named(c, NODE_FILTER, *n, &made));
        } else if (parse_take_name(c, "is")) {
            GRETA_TRY(parse_named(c, NODE_TEST, *n, &made));
        } else if (parse_is_operator(c, "(")) {
            GRETA_TRY(parse_call(c, *n, &made));
        } else {
            return GRETA_OK;
        }
        *n = made;
    }
}

/* ---- Operators ------------------------------------------------------------------------------- */

static greta_status parse_unary(chat *c, bool with_filters, node **n)
{
    bool is_negative = parse_is_operator(c, "-");
    if (is_negative || parse_is_operator(c, "+")) {
        node *inner = NULL;
        c->at++;
        GRETA_TRY(parse_enter(c));
        GRETA_TRY(parse_unary(c, false, &inner));
        c->depth--;
        GRETA_TRY(parse_two(c, is_negative ? NODE_NEGATE : NODE_POSITIVE, inner, NULL, n));
    } else {
        GRETA_TRY(parse_primary(c, n));
    }
    GRETA_TRY(parse_postfix(c, n));
    return with_filters ? parse_filters(c, n) : GRETA_OK;
}

typedef struct operator_kind {
    const char *text;
    node_kind kind;
} operator_kind;

typedef greta_status parse_level(chat *c, node **n);

/* a op b op c, from the left. */
static greta_status parse_left(chat *c, const operator_kind *known, size_t n_known,
                               parse_level *below, node **n)
{
    GRETA_TRY(below(c, n));
    for (;;) {
        size_t i = 0;
        while (i < n_known && !parse_is_operator(c, known[i].text)) {
            i++;
        }
        if (i == n_known) {
            return GRETA_OK;
        }
        node *right = NULL, *left = *n;
        c->at++;
        GRETA_TRY(below(c, &right));
        GRETA_TRY(parse_two(c, known[i].kind, left, right, n));
    }
}

static greta_status parse_signed(chat *c, node **n)
{
    return parse_unary(c, true, n);
}

static greta_status parse_power(chat *c, node **n)
{
    static const operator_kind known[] = {{"**", NODE_POWER}};
    return parse_left(c, known, 1, parse_signed, n);
}

static greta_status parse_product(chat *c, node **n)
{
    static const operator_kind known[] = {
        {"*", NODE_MULTIPLY}, {"/", NODE_DIVIDE}, {"//", NODE_FLOOR_DIVIDE}, {"%", NODE_MODULO}};
    return parse_left(c, known, 4, parse_power, n);
}

static greta_status parse_concat(chat *c, node **n)
{
    static const operator_kind known[] = {{"~", NODE_CONCAT}};
    return parse_left(c, known, 1, parse_product, n);
}

static greta_status parse_sum(chat *c, node **n)
{
    static const operator_kind known[] = {{"+", NODE_ADD}, {"-", NODE_SUBTRACT}};
    return parse_left(c, known, 2, parse_concat, n);
}

/* The comparison that stands here, read; NULL: none. */
static const char *comparison(chat *c)
{
    static const char *const known[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (parse_take_operator(c, known[i])) {
            return known[i];
        }
    }
    if (parse_take_name(c, "in")) {
        return "in";
    }
    if (parse_is_name(c, "not") && lexeme_is(parse_here(c) + 1, LEXEME_NAME, "in")) {
        c->at += 2;
        return "not in";
    }
    return NULL;
}

static greta_status parse_compare(chat *c, node **n)
{
    node **last = NULL;
    const char *op;
    GRETA_TRY(parse_sum(c, n));
    while ((op = comparison(c)) != NULL) {
        node *operand = NULL, *right = NULL;
        GRETA_TRY(parse_sum(c, &right));
        GRETA_TRY(parse_two(c, NODE_OPERAND, right, NULL, &operand));
        operand->text = op;
        operand->length = strlen(op);
        if (last == NULL) {
            node *left = *n;
            GRETA_TRY(parse_two(c, NODE_COMPARE, left, operand, n));
        } else {
            *last = operand;
        }
        last = &operand->next;
    }
    return last == NULL ? GRETA_OK : parse_finish(c, *n);
}

static greta_status parse_not(chat *c, node **n)
{
    if (!parse_take_name(c, "not")) {
        return parse_compare(c, n);
    }
    node *inner = NULL;
    GRETA_TRY(parse_enter(c));
    GRETA_TRY(parse_not(c, &inner));
    c->depth--;
    return parse_two(c, NODE_NOT, inner, NULL, n);
}

greta_status parse_logic(chat *c, bool is_or, node **n)
{
    GRETA_TRY(is_or ? parse_logic(c, false, n) : parse_not(c, n));
    while (parse_take_name(c, is_or ? "or" : "and")) {
        node *left = *n, *right = NULL;
        GRETA_TRY(is_or ? parse_logic(c, false, &right) : parse_not(c, &right));
        GRETA_TRY(parse_two(c, is_or ? NODE_OR : NODE_AND, left, right, n));
    }
    return GRETA_OK;
}

greta_status parse_expression(chat *c, node **n)
{
    GRETA_TRY(parse_logic(c, true, n));
    while (parse_take_name(c, "if")) {
        node *made = NULL;
        GRETA_TRY(parse_new(c, NODE_IF_ELSE, &made));
        made->a = *n;
        GRETA_TRY(parse_logic(c, true, &made->b));
        if (parse_take_name(c, "else")) {
            GRETA_TRY(parse_enter(c));
            GRETA_TRY(parse_expression(c, &made->c));
            c->depth--;
        }
        GRETA_TRY(parse_finish(c, made));
        *n = made;
    }
    return GRETA_OK;
}
