/* chat_expression.c - the expressions of a chat template, evaluated as Jinja evaluates them.
 *
 * What is implemented is exact; what is not becomes VALUE_REFUSED (chat_value.c). Evaluation has no
 * side effects, so both sides of and, or and the conditional are evaluated and one is thrown away:
 * `tools and tools | tojson` is false without tools, whatever tojson is, and `tools | tojson` by
 * itself is refused. What cannot even be stepped over (list and dict literals, powers) is refused
 * at once.
 *
 * Operators wait on a stack until one that binds less comes (operator precedence parsing), because
 * a template is input and must not drive recursion. From loose to tight, as in jinja2's parser.py:
 * conditional, or, and, not, comparisons, + and -, ~, %, then filters and tests, which belong to a
 * single operand: in 'a' + b | trim only b is trimmed.
 */
#include "model/chat_internal.h"

#include <string.h>

typedef struct expression {
    chat_operation item[LIMIT_CHAT_DEPTH];
    size_t n;
} expression;

enum { BIND_PAREN, BIND_TERNARY, BIND_OR, BIND_AND, BIND_NOT, BIND_COMPARE, BIND_ADD, BIND_CONCAT,
       BIND_MULTIPLY };

static const uint8_t binding[] = {
    [EXPR_PAREN] = BIND_PAREN,         [EXPR_IF] = BIND_TERNARY,
    [EXPR_ELSE] = BIND_TERNARY,        [EXPR_OR] = BIND_OR,
    [EXPR_AND] = BIND_AND,             [EXPR_NOT] = BIND_NOT,
    [EXPR_EQUAL] = BIND_COMPARE,       [EXPR_UNEQUAL] = BIND_COMPARE,
    [EXPR_LESS] = BIND_COMPARE,        [EXPR_GREATER] = BIND_COMPARE,
    [EXPR_LESS_EQUAL] = BIND_COMPARE,  [EXPR_GREATER_EQUAL] = BIND_COMPARE,
    [EXPR_IN] = BIND_COMPARE,          [EXPR_NOT_IN] = BIND_COMPARE,
    [EXPR_ADD] = BIND_ADD,             [EXPR_SUBTRACT] = BIND_ADD,
    [EXPR_CONCAT] = BIND_CONCAT,       [EXPR_MODULO] = BIND_MULTIPLY,
};

static const value undefined = {.kind = VALUE_UNDEFINED};

/* ---- Operands -------------------------------------------------------------------------------- */

static const lexeme *here(const chat *c)
{
    return &c->template.item[c->at];
}

static bool take(chat *c, lexeme_kind kind, const char *word)
{
    bool is_it = lexeme_is(here(c), kind, word);
    c->at += is_it;
    return is_it;
}

/* The refusal of something by its name, the lexeme just read. */
static value refused_name(const chat *c, const char *why)
{
    value v = chat_refused(why);
    v.number = (int64_t)c->at - 1;
    return v;
}

static bool take_operator(chat *c, const char *word)
{
    return take(c, LEXEME_OPERATOR, word);
}

/* Steps over arguments or a subscript that we do not read; c->at is behind its first bracket. */
static void brackets_skip(chat *c)
{
    for (size_t depth = 1; depth > 0; c->at++) { /* The lexer has seen that they are balanced. */
        const lexeme *l = here(c);
        if (l->kind == LEXEME_OPERATOR && l->length == 1) {
            depth += strchr("([{", *l->text) != NULL;
            depth -= strchr(")]}", *l->text) != NULL;
        }
    }
}

/* A value of the rendering itself, as transformers passes it to a template. */
static value name_of_context(const chat *c, const lexeme *name)
{
    static const char *const globals[] = {
        "range", "dict", "lipsum", "cycler", "joiner", "namespace", "strftime_now", "self", "super",
        "caller", "varargs", "kwargs", "if", "else", "in", "is", "and", "or", "not"};
    const struct {
        const char *name;
        int32_t id;
    } tokens[] = {{"bos_token", c->tok->bos},
                  {"eos_token", c->tok->eos},
                  {"unk_token", c->tok->unknown},
                  {"pad_token", c->tok->pad}};
    if (lexeme_is(name, LEXEME_NAME, "messages")) {
        return (value){.kind = VALUE_MESSAGES, .length = c->n_messages};
    }
    if (lexeme_is(name, LEXEME_NAME, "add_generation_prompt")) {
        return chat_bool(c->add_generation_prompt);
    }
    if (lexeme_is(name, LEXEME_NAME, "tools") || lexeme_is(name, LEXEME_NAME, "documents")) {
        return (value){.kind = VALUE_NONE};
    }
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        size_t length = 0;
        const char *bytes = tokenizer_bytes(c->tok, tokens[i].id, &length);
        if (bytes != NULL && lexeme_is(name, LEXEME_NAME, tokens[i].name)) {
            return chat_string_of(bytes, length);
        }
    }
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
        if (lexeme_is(name, LEXEME_NAME, globals[i])) {
            return refused_name(c, "the name");
        }
    }
    return undefined;
}

/* The name just read: a constant, a variable (innermost first), or part of the context. */
static value name_value(chat *c, const lexeme *name)
{
    static const struct {
        const char *name;
        value value;
    } constants[] = {
        {"true", {.kind = VALUE_BOOL, .number = 1}},  {"True", {.kind = VALUE_BOOL, .number = 1}},
        {"false", {.kind = VALUE_BOOL, .number = 0}}, {"False", {.kind = VALUE_BOOL, .number = 0}},
        {"none", {.kind = VALUE_NONE}},               {"None", {.kind = VALUE_NONE}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (lexeme_is(name, LEXEME_NAME, constants[i].name)) {
            return constants[i].value;
        }
    }
    for (size_t i = c->n_variable; i > 0; i--) {
        const variable *known = &c->variable[i - 1];
        bool is_it = known->name == NULL ? lexeme_is(name, LEXEME_NAME, "loop")
                                         : known->name->length == name->length &&
                                               memcmp(known->name->text, name->text,
                                                      name->length) == 0;
        if (is_it) {
            return known->value;
        }
    }
    if (lexeme_is(name, LEXEME_NAME, "raise_exception") && take_operator(c, "(")) {
        bool is_plain = here(c)->kind == LEXEME_STRING &&
                        lexeme_is(here(c) + 1, LEXEME_OPERATOR, ")");
        value raised = chat_refused(NULL);
        raised.number = is_plain ? (int64_t)c->at : -1;
        brackets_skip(c);
        return raised;
    }
    return name_of_context(c, name);
}

/* A whole number; false: another kind of number, or too large for a subscript. */
static bool number_read(const lexeme *l, int64_t *number)
{
    *number = 0;
    if (l->kind != LEXEME_NUMBER || l->length > 9) {
        return false;
    }
    for (size_t i = 0; i < l->length; i++) {
        if (l->text[i] < '0' || l->text[i] > '9') {
            return false;
        }
        *number = *number * 10 + (l->text[i] - '0');
    }
    return true;
}

static greta_status operand_read(chat *c, value *v)
{
    const lexeme *l = here(c);
    int64_t number = 0;
    c->at++;
    switch (l->kind) {
    case LEXEME_STRING:
        *v = chat_string_of(l->text, l->length);
        while (here(c)->kind == LEXEME_STRING && v->kind == VALUE_STRING) {
            *v = chat_join(c, *v, chat_string_of(here(c)->text, here(c)->length));
            c->at++;
        }
        return GRETA_OK;
    case LEXEME_NUMBER:
        *v = number_read(l, &number) ? chat_int((uint64_t)number)
                                     : refused_name(c, "the number");
        return GRETA_OK;
    case LEXEME_NAME:
        *v = name_value(c, l);
        return GRETA_OK;
    default:
        return chat_refuse(c, "an expression with", l);
    }
}

/* ---- Attributes, subscripts, filters, tests -------------------------------------------------- */

static value loop_attribute(const chat *c, value v, value name)
{
    const chat_loop *loop = &c->loop[v.number];
    return value_is(name, "index0")   ? chat_int(loop->i)
           : value_is(name, "index")  ? chat_int(loop->i + 1)
           : value_is(name, "length") ? chat_int(loop->n)
           : value_is(name, "first")  ? chat_bool(loop->i == 0)
           : value_is(name, "last")   ? chat_bool(loop->i + 1 == loop->n)
                                     : refused_name(c, "the loop's attribute");
}

/* v.name and v['name']: the name is the lexeme just read. */
static value attribute(const chat *c, value v, value name)
{
    static const char *const methods[] = {"clear", "copy",    "fromkeys",   "get",    "items",
                                          "keys",  "pop",     "popitem",    "update", "values",
                                          "setdefault"};
    if (v.kind == VALUE_REFUSED) {
        return v;
    }
    if (v.kind == VALUE_LOOP) {
        return loop_attribute(c, v, name);
    }
    if (v.kind != VALUE_MESSAGE) {
        return refused_name(c, v.kind == VALUE_UNDEFINED ? "an undefined value's attribute"
                                                         : "the attribute");
    }
    const greta_message *message = &c->messages[v.number];
    if (value_is(name, "role") || value_is(name, "content")) {
        const char *bytes = name.text[0] == 'r' ? message->role : message->content;
        return chat_string_of(bytes, strlen(bytes));
    }
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (value_is(name, methods[i])) {
            return refused_name(c, "the method");
        }
    }
    bool is_dunder = name.length > 0 && name.text[0] == '_';
    return is_dunder ? refused_name(c, "the attribute") : undefined;
}

/* Python's index or slice bound: negative numbers count from the end. False: not a plain number. */
static bool bound_read(chat *c, size_t n, int64_t *bound)
{
    bool is_negative = take_operator(c, "-");
    if (!number_read(here(c), bound)) {
        return false;
    }
    c->at++;
    *bound = is_negative ? (int64_t)n - *bound : *bound;
    return true;
}

static int64_t bound_clamp(int64_t bound, size_t n)
{
    return bound < 0 ? 0 : bound > (int64_t)n ? (int64_t)n : bound;
}

static value element(value v, int64_t i)
{
    bool is_in = i >= 0 && i < (int64_t)v.length;
    return is_in ? (value){.kind = VALUE_MESSAGE, .number = v.number + i} : undefined;
}

/* v[...]; c->at is behind the bracket. */
static value subscript(chat *c, value v)
{
    const lexeme *l = here(c);
    size_t start = c->at;
    int64_t low = 0, high = (int64_t)v.length;
    if (l->kind == LEXEME_STRING && lexeme_is(l + 1, LEXEME_OPERATOR, "]")) {
        c->at++;
        value found = v.kind == VALUE_LOOP ? chat_refused("a subscript of loop")
                                           : attribute(c, v, chat_string_of(l->text, l->length));
        c->at++;
        return found;
    }
    if (v.kind == VALUE_MESSAGES) {
        bool has_low = bound_read(c, v.length, &low);
        if (has_low && take_operator(c, "]")) {
            return element(v, low);
        }
        if (take_operator(c, ":")) {
            bool has_high = bound_read(c, v.length, &high);
            if (take_operator(c, "]")) {
                low = has_low ? bound_clamp(low, v.length) : 0;
                high = has_high ? bound_clamp(high, v.length) : (int64_t)v.length;
                v.number += low;
                v.length = high > low ? (size_t)(high - low) : 0;
                return v;
            }
        }
    }
    c->at = start;
    brackets_skip(c);
    return v.kind == VALUE_REFUSED ? v : chat_refused("such a subscript");
}

/* v | name; the name is the lexeme just read. */
static value filter(chat *c, value v, const lexeme *name)
{
    bool is_length = lexeme_is(name, LEXEME_NAME, "length") ||
                     lexeme_is(name, LEXEME_NAME, "count");
    value refused = refused_name(c, "the filter");
    if (take_operator(c, "(")) {
        brackets_skip(c);
        return v.kind == VALUE_REFUSED ? v : refused;
    }
    if (v.kind == VALUE_REFUSED) {
        return v;
    }
    if (lexeme_is(name, LEXEME_NAME, "trim")) {
        return chat_trim(chat_to_string(c, v));
    }
    if (lexeme_is(name, LEXEME_NAME, "string")) {
        return chat_to_string(c, v);
    }
    if (v.kind != VALUE_MESSAGES) {
        return refused;
    }
    return is_length                                ? chat_int(v.length)
           : lexeme_is(name, LEXEME_NAME, "first") ? element(v, 0)
           : lexeme_is(name, LEXEME_NAME, "last")  ? element(v, (int64_t)v.length - 1)
                                                    : refused;
}

/* v is name */
static greta_status test(chat *c, value *v)
{
    bool is_not = take(c, LEXEME_NAME, "not");
    const lexeme *name = here(c);
    value_kind kind = v->kind;
    bool holds;
    if (lexeme_is(name, LEXEME_NAME, "defined")) {
        holds = kind != VALUE_UNDEFINED;
    } else if (lexeme_is(name, LEXEME_NAME, "undefined")) {
        holds = kind == VALUE_UNDEFINED;
    } else if (lexeme_is(name, LEXEME_NAME, "none")) {
        holds = kind == VALUE_NONE;
    } else if (lexeme_is(name, LEXEME_NAME, "string")) {
        holds = kind == VALUE_STRING;
    } else if (lexeme_is(name, LEXEME_NAME, "mapping")) {
        holds = kind == VALUE_MESSAGE;
    } else if (lexeme_is(name, LEXEME_NAME, "true")) {
        holds = kind == VALUE_BOOL && v->number;
    } else if (lexeme_is(name, LEXEME_NAME, "false")) {
        holds = kind == VALUE_BOOL && !v->number;
    } else if (lexeme_is(name, LEXEME_NAME, "iterable")) {
        holds = kind != VALUE_NONE && kind != VALUE_BOOL && kind != VALUE_INT;
    } else {
        return chat_refuse(c, "the test", name);
    }
    c->at++;
    *v = kind == VALUE_REFUSED ? *v : chat_bool(holds != is_not);
    /* Jinja takes an operand that follows for the test's argument, even an `if`. */
    const lexeme *next = here(c);
    bool is_word = next->kind == LEXEME_NAME && !lexeme_is(next, LEXEME_NAME, "else") &&
                   !lexeme_is(next, LEXEME_NAME, "and") && !lexeme_is(next, LEXEME_NAME, "or");
    bool is_bracket = next->kind == LEXEME_OPERATOR && strchr("([{", next->text[0]) != NULL;
    bool is_constant = next->kind == LEXEME_STRING || next->kind == LEXEME_NUMBER;
    return is_word || is_bracket || is_constant ? chat_refuse(c, "a test with", next) : GRETA_OK;
}

/* Everything that belongs to the operand before it. */
static greta_status postfix_read(chat *c, value *v)
{
    bool is_filtered = false; /* Jinja reads a dot behind a filter as part of the filter's name. */
    for (;;) {
        const lexeme *l = here(c);
        if (!is_filtered && take_operator(c, ".")) {
            const lexeme *name = here(c);
            if (name->kind != LEXEME_NAME) {
                return chat_refuse(c, "the attribute", name);
            }
            c->at++;
            if (v->kind == VALUE_STRING && lexeme_is(name, LEXEME_NAME, "strip") &&
                lexeme_is(name + 1, LEXEME_OPERATOR, "(") &&
                lexeme_is(name + 2, LEXEME_OPERATOR, ")")) {
                c->at += 2;
                *v = chat_trim(*v);
            } else {
                *v = attribute(c, *v, chat_string_of(name->text, name->length));
            }
        } else if (!is_filtered && take_operator(c, "[")) {
            *v = subscript(c, *v);
        } else if (take_operator(c, "(")) {
            brackets_skip(c);
            *v = v->kind == VALUE_REFUSED ? *v : chat_refused("a call");
        } else if (take_operator(c, "|")) {
            if (here(c)->kind != LEXEME_NAME) {
                return chat_refuse(c, "the filter", here(c));
            }
            is_filtered = true;
            c->at++;
            *v = filter(c, *v, l + 1);
        } else if (take(c, LEXEME_NAME, "is")) {
            is_filtered = true;
            GRETA_TRY(test(c, v));
        } else {
            return GRETA_OK;
        }
    }
}

/* ---- Expressions ----------------------------------------------------------------------------- */

static greta_status push(chat *c, expression *s, operator_kind op, value left)
{
    if (s->n == LIMIT_CHAT_DEPTH) {
        return chat_refuse(c, "an expression nested that deep", NULL);
    }
    s->item[s->n++] = (chat_operation){.op = op, .left = left};
    return GRETA_OK;
}

/* Applies what binds tighter than `bind`; says whether a comparison was among it. */
static bool reduce(chat *c, expression *s, int bind, value *v)
{
    bool compared = false;
    while (s->n > 0 && binding[s->item[s->n - 1].op] > bind) {
        const chat_operation *top = &s->item[--s->n];
        compared = compared || binding[top->op] == BIND_COMPARE;
        *v = chat_apply(c, top, *v);
    }
    return compared;
}

/* The operator that stands here, read; EXPR_END: the expression ends here. */
static operator_kind operator_read(chat *c)
{
    static const struct {
        const char *text;
        operator_kind op;
    } known[] = {
        {"==", EXPR_EQUAL},      {"!=", EXPR_UNEQUAL},       {"<", EXPR_LESS},
        {">", EXPR_GREATER},     {"<=", EXPR_LESS_EQUAL},    {">=", EXPR_GREATER_EQUAL},
        {"+", EXPR_ADD},         {"-", EXPR_SUBTRACT},       {"~", EXPR_CONCAT},
        {"%", EXPR_MODULO},      {"or", EXPR_OR},            {"and", EXPR_AND},
        {"in", EXPR_IN},         {"if", EXPR_IF},            {"else", EXPR_ELSE},
    };
    const lexeme *l = here(c);
    if (lexeme_is(l, LEXEME_NAME, "not") && lexeme_is(l + 1, LEXEME_NAME, "in")) {
        c->at += 2;
        return EXPR_NOT_IN;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (take(c, l->kind == LEXEME_NAME ? LEXEME_NAME : LEXEME_OPERATOR, known[i].text)) {
            return known[i].op;
        }
    }
    return EXPR_END;
}

/* Puts the operator just read on the stack; *v is its left side. */
static greta_status operator_push(chat *c, expression *s, operator_kind op, value *v)
{
    bool is_ternary = op == EXPR_IF || op == EXPR_ELSE;
    bool compared = reduce(c, s, is_ternary ? BIND_TERNARY : binding[op] - 1, v);
    chat_operation *top = s->n > 0 ? &s->item[s->n - 1] : NULL;
    bool is_in_if = top != NULL && top->op == EXPR_IF;
    bool is_chain = compared && binding[op] == BIND_COMPARE;
    if (is_chain || (is_ternary && is_in_if != (op == EXPR_ELSE))) {
        return chat_refuse(c, "a chain with", here(c) - 1);
    }
    if (op == EXPR_ELSE) {
        top->op = EXPR_ELSE;
        top->condition = *v;
        return GRETA_OK;
    }
    return push(c, s, op, *v);
}

greta_status chat_evaluate(chat *c, bool is_iterable, value *v)
{
    expression s = {.n = 0};
    for (;;) {
        for (bool more = true; more;) {
            operator_kind op = take(c, LEXEME_NAME, "not") ? EXPR_NOT
                               : take_operator(c, "(")     ? EXPR_PAREN
                                                           : EXPR_END;
            more = op != EXPR_END;
            if (more) {
                GRETA_TRY(push(c, &s, op, undefined));
            }
        }
        GRETA_TRY(operand_read(c, v));
        GRETA_TRY(postfix_read(c, v));
        while (s.n > 0 && lexeme_is(here(c), LEXEME_OPERATOR, ")")) {
            reduce(c, &s, BIND_PAREN, v);
            if (s.n == 0) {
                break;
            }
            s.n--;
            c->at++;
            GRETA_TRY(postfix_read(c, v));
        }
        if (is_iterable && lexeme_is(here(c), LEXEME_NAME, "if")) {
            break;
        }
        operator_kind op = operator_read(c);
        if (op == EXPR_END) {
            break;
        }
        GRETA_TRY(operator_push(c, &s, op, v));
    }
    reduce(c, &s, BIND_PAREN, v);
    return s.n == 0 ? GRETA_OK : chat_refuse(c, "an expression with", here(c));
}
