/* chat_value.c - the values of a chat template and what its operators make of them.
 *
 * What is implemented is exactly what Python and Jinja do with undefined, None, booleans, integers,
 * strings, the list of messages and a message; every other combination becomes VALUE_REFUSED, which
 * says why and stays harmless until its value is needed. Strings made on the way are kept until the
 * rendering ends, under a limit, so that values can be copied freely.
 */
#include "model/chat_internal.h"

#include <stdlib.h>
#include <string.h>

/* Jinja's integers have no end; ours stop far above anything that counts messages. */
#define INT_END ((int64_t)1 << 48)

typedef struct chat_string {
    struct chat_string *next;
    char bytes[];
} chat_string;

/* ---- Values ---------------------------------------------------------------------------------- */

value chat_refused(const char *what)
{
    return (value){.kind = VALUE_REFUSED, .text = what, .number = -1};
}

value chat_bool(bool holds)
{
    return (value){.kind = VALUE_BOOL, .number = holds};
}

value chat_int(uint64_t number)
{
    return (value){.kind = VALUE_INT, .number = (int64_t)number};
}

value chat_string_of(const char *bytes, size_t length)
{
    return (value){.kind = VALUE_STRING, .text = bytes, .length = length};
}

bool value_is(value v, const char *word)
{
    return v.length == strlen(word) && memcmp(v.text, word, v.length) == 0;
}

static bool is_number(value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT;
}

bool value_is_true(value v)
{
    switch (v.kind) {
    case VALUE_BOOL:
    case VALUE_INT:
        return v.number != 0;
    case VALUE_STRING:
    case VALUE_MESSAGES:
        return v.length > 0;
    case VALUE_MESSAGE:
    case VALUE_LOOP:
        return true;
    default:
        return false;
    }
}

/* Room for a string that lives as long as the rendering; NULL: none, and c->failure says why. */
static char *string_new(chat *c, size_t length)
{
    size_t bytes = sizeof(chat_string) + length;
    if (bytes > LIMIT_CHAT_BYTES - c->string_bytes) {
        c->failure = error_set(c->err, GRETA_BAD_INPUT,
                               "the chat template makes more than %u bytes of strings",
                               LIMIT_CHAT_BYTES);
        return NULL;
    }
    chat_string *made = malloc(bytes);
    if (made == NULL) {
        c->failure = error_memory(c->err, "the chat text", bytes);
        return NULL;
    }
    c->string_bytes += bytes;
    made->next = c->strings;
    c->strings = made;
    return made->bytes;
}

void chat_strings_free(chat *c)
{
    while (c->strings != NULL) {
        chat_string *next = c->strings->next;
        free(c->strings);
        c->strings = next;
    }
}

value chat_join(chat *c, value left, value right)
{
    char *bytes = string_new(c, left.length + right.length);
    if (bytes == NULL) {
        return chat_refused("too many strings");
    }
    memcpy(bytes, left.text, left.length);
    memcpy(bytes + left.length, right.text, right.length);
    return chat_string_of(bytes, left.length + right.length);
}

value chat_to_string(chat *c, value v)
{
    switch (v.kind) {
    case VALUE_STRING:
    case VALUE_REFUSED:
        return v;
    case VALUE_UNDEFINED:
        return chat_string_of("", 0);
    case VALUE_NONE:
        return chat_string_of("None", 4);
    case VALUE_BOOL:
        return v.number ? chat_string_of("True", 4) : chat_string_of("False", 5);
    case VALUE_INT: {
        char digits[24], *bytes = digits + sizeof digits;
        uint64_t rest = v.number < 0 ? 0 - (uint64_t)v.number : (uint64_t)v.number;
        do {
            *--bytes = (char)('0' + rest % 10);
            rest /= 10;
        } while (rest > 0);
        if (v.number < 0) {
            *--bytes = '-';
        }
        size_t length = (size_t)(digits + sizeof digits - bytes);
        return chat_join(c, chat_string_of(bytes, length), chat_string_of("", 0));
    }
    default:
        return chat_refused("a list or mapping as text");
    }
}

value chat_trim(value v)
{
    size_t n = 0;
    while (v.kind == VALUE_STRING && (n = chat_space(v.text, v.length)) > 0) {
        v.text += n;
        v.length -= n;
    }
    if (v.kind == VALUE_STRING) {
        v.length = chat_trim_end(v.text, v.length);
    }
    return v;
}

/* ---- Operators ------------------------------------------------------------------------------- */

static value equal(value a, value b)
{
    if (is_number(a) && is_number(b)) {
        return chat_bool(a.number == b.number);
    }
    if (a.kind != b.kind) {
        return chat_bool(false);
    }
    switch (a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return chat_bool(true);
    case VALUE_STRING:
        return chat_bool(a.length == b.length && memcmp(a.text, b.text, a.length) == 0);
    default:
        return chat_refused("a comparison of lists or mappings");
    }
}

static value contains(value item, value all)
{
    if (item.kind == VALUE_STRING && all.kind == VALUE_STRING) {
        return chat_bool(item.length == 0 ||
                         memmem(all.text, all.length, item.text, item.length) != NULL);
    }
    if (item.kind == VALUE_STRING && all.kind == VALUE_MESSAGE) {
        return chat_bool(value_is(item, "role") || value_is(item, "content"));
    }
    return chat_refused("`in` with these values");
}

static value arithmetic(chat *c, operator_kind op, value a, value b)
{
    if (op == EXPR_CONCAT) {
        a = chat_to_string(c, a);
        b = chat_to_string(c, b);
    }
    if (a.kind == VALUE_REFUSED || b.kind == VALUE_REFUSED) {
        return a.kind == VALUE_REFUSED ? a : b;
    }
    if ((op == EXPR_ADD || op == EXPR_CONCAT) && a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        return chat_join(c, a, b);
    }
    bool is_modulo = op == EXPR_MODULO;
    if (!is_number(a) || !is_number(b) || (is_modulo && b.number <= 0)) {
        return chat_refused("arithmetic with these values");
    }
    int64_t number = op == EXPR_ADD ? a.number + b.number
                     : is_modulo    ? (a.number % b.number + b.number) % b.number
                                    : a.number - b.number;
    if (number <= -INT_END || number >= INT_END) {
        return chat_refused("a number that large");
    }
    return (value){.kind = VALUE_INT, .number = number};
}

static value compare(operator_kind op, value a, value b)
{
    value v = op == EXPR_EQUAL || op == EXPR_UNEQUAL ? equal(a, b)
              : op == EXPR_IN || op == EXPR_NOT_IN   ? contains(a, b)
              : is_number(a) && is_number(b)         ? chat_bool(false)
                                                     : chat_refused("an order of these values");
    if (v.kind == VALUE_REFUSED) {
        return v;
    }
    switch (op) {
    case EXPR_UNEQUAL:
    case EXPR_NOT_IN:
        return chat_bool(!v.number);
    case EXPR_LESS:
        return chat_bool(a.number < b.number);
    case EXPR_GREATER:
        return chat_bool(a.number > b.number);
    case EXPR_LESS_EQUAL:
        return chat_bool(a.number <= b.number);
    case EXPR_GREATER_EQUAL:
        return chat_bool(a.number >= b.number);
    default:
        return v;
    }
}

value chat_apply(chat *c, const chat_operation *o, value right)
{
    const value *decides = o->op == EXPR_ELSE                      ? &o->condition
                           : o->op == EXPR_OR || o->op == EXPR_AND ? &o->left
                                                                   : &right;
    if (o->op <= EXPR_NOT && decides->kind == VALUE_REFUSED) {
        return *decides;
    }
    switch (o->op) {
    case EXPR_IF: /* Without else; the condition is on the right. */
        return value_is_true(right) ? o->left : (value){.kind = VALUE_UNDEFINED};
    case EXPR_ELSE:
        return value_is_true(o->condition) ? o->left : right;
    case EXPR_OR:
        return value_is_true(o->left) ? o->left : right;
    case EXPR_AND:
        return value_is_true(o->left) ? right : o->left;
    case EXPR_NOT:
        return chat_bool(!value_is_true(right));
    default:
        break;
    }
    if (o->op >= EXPR_ADD) {
        return arithmetic(c, o->op, o->left, right);
    }
    if (o->left.kind == VALUE_REFUSED || right.kind == VALUE_REFUSED) {
        return o->left.kind == VALUE_REFUSED ? o->left : right;
    }
    return compare(o->op, o->left, right);
}
