/* chat_filter.c - the filters and tests of Jinja that chat templates use.
 *
 * Each is a row of a table: its name, how many arguments it takes at most, and a function. What is
 * not in the table is refused by its name where it is reached; jinja2 itself would refuse a name
 * that it does not know before it renders anything.
 */
#include "model/chat_internal.h"

#include <string.h>

typedef struct filter_call {
    chat *c;
    const node *n;
    value v;
    const arguments *a;
    value *result;
} filter_call;

const value *argument(const arguments *a, size_t i, const char *name)
{
    for (size_t k = 0; k < a->n; k++) {
        bool is_it = a->name[k] == NULL ? k == i
                                        : a->name_length[k] == strlen(name) &&
                                              memcmp(a->name[k], name, a->name_length[k]) == 0;
        if (is_it) {
            return &a->item[k];
        }
    }
    return NULL;
}

static greta_status text_of(filter_call *f, value *string)
{
    return value_text(f->c, f->n, f->v, string);
}

/* ---- Strings --------------------------------------------------------------------------------- */

static greta_status filter_trim(filter_call *f)
{
    const value *characters = argument(f->a, 0, "chars");
    value string;
    GRETA_TRY(text_of(f, &string));
    bool has = characters != NULL && characters->kind == VALUE_STRING;
    *f->result =
        chat_trim(string, has ? characters->text : NULL, has ? characters->length : 0, true, true);
    return GRETA_OK;
}

static greta_status filter_string(filter_call *f)
{
    return text_of(f, f->result);
}

static greta_status filter_method(filter_call *f, const char *name)
{
    value string, method;
    GRETA_TRY(text_of(f, &string));
    GRETA_TRY(chat_attribute(f->c, f->n, string, value_string(name, strlen(name)), &method));
    return chat_call(f->c, f->n, method, f->a, f->result);
}

static greta_status filter_upper(filter_call *f)
{
    return filter_method(f, "upper");
}

static greta_status filter_lower(filter_call *f)
{
    return filter_method(f, "lower");
}

static greta_status filter_capitalize(filter_call *f)
{
    return filter_method(f, "capitalize");
}

static greta_status filter_replace(filter_call *f)
{
    return filter_method(f, "replace");
}

static greta_status filter_tojson(filter_call *f)
{
    const value *indent = argument(f->a, 2, "indent");
    for (size_t i = 0; i < f->a->n; i++) {
        /* tojson(x, ensure_ascii, indent, separators, sort_keys) of transformers. */
        bool is_known = f->a->name[i] != NULL && f->a->name_length[i] == 6 &&
                        memcmp(f->a->name[i], "indent", 6) == 0;
        bool is_default = f->a->item[i].kind == VALUE_BOOL && f->a->item[i].number == 0;
        if (!is_known && !is_default) {
            return chat_fail(f->c, f->n->line, "gives tojson something but indent");
        }
    }
    bool has_indent = indent != NULL && indent->kind == VALUE_INT;
    return value_json(f->c, f->n, f->v, has_indent ? indent->number : -1, f->result);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static greta_status filter_length(filter_call *f)
{
    value v = f->v;
    switch (v.kind) {
    case VALUE_UNDEFINED:
        *f->result = value_int(0);
        return GRETA_OK;
    case VALUE_STRING:
        *f->result = value_int((int64_t)value_characters(v));
        return chat_work(f->c, v.length / 16);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        *f->result = value_int((int64_t)v.list->n);
        return GRETA_OK;
    case VALUE_DICT:
        *f->result = value_int((int64_t)v.dict->n);
        return GRETA_OK;
    default:
        return chat_fail(f->c, f->n->line, "asks for the length of %s", value_kind_name(v));
    }
}

static greta_status filter_edge(filter_call *f, bool is_last)
{
    value_list *items = NULL;
    bool is_reversible = f->v.kind != VALUE_ITERATOR || !is_last;
    if (!is_reversible) {
        return chat_fail(f->c, f->n->line, "asks for the last of an iterator");
    }
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    *f->result =
        items->n == 0 ? value_of(VALUE_UNDEFINED) : items->item[is_last ? items->n - 1 : 0];
    return GRETA_OK;
}

static greta_status filter_first(filter_call *f)
{
    return filter_edge(f, false);
}

static greta_status filter_last(filter_call *f)
{
    return filter_edge(f, true);
}

static greta_status filter_list(filter_call *f)
{
    value_list *items = NULL;
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    GRETA_TRY(value_list_new(f->c, VALUE_LIST, f->result));
    for (size_t i = 0; i < items->n; i++) {
        GRETA_TRY(value_append(f->c, f->result->list, items->item[i]));
    }
    return GRETA_OK;
}

static greta_status filter_reverse(filter_call *f)
{
    value_list *items = NULL;
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    GRETA_TRY(value_list_new(f->c, VALUE_ITERATOR, f->result));
    for (size_t i = items->n; i > 0; i--) {
        GRETA_TRY(value_append(f->c, f->result->list, items->item[i - 1]));
    }
    if (f->v.kind != VALUE_STRING) {
        return GRETA_OK;
    }
    arguments none = {.n = 0};
    filter_call joined = {f->c, f->n, *f->result, &none, f->result};
    value separator = value_string("", 0), method;
    GRETA_TRY(chat_attribute(f->c, f->n, separator, value_string("join", 4), &method));
    none.item[0] = joined.v;
    none.name[0] = NULL;
    none.n = 1;
    return chat_call(f->c, f->n, method, &none, f->result);
}

/* item.attribute, or item[attribute]: as the filters that name one look it up. */
static greta_status attribute_of(filter_call *f, value item, value name, value *v)
{
    if (item.kind == VALUE_DICT) {
        const value *found = value_dict_get(item.dict, name.text, name.length);
        *v = found == NULL ? value_of(VALUE_UNDEFINED) : *found;
        return GRETA_OK;
    }
    return chat_attribute(f->c, f->n, item, name, v);
}

static greta_status filter_join(filter_call *f)
{
    const value *given = argument(f->a, 0, "d"), *attribute = argument(f->a, 1, "attribute");
    value separator = value_string("", 0), all, method;
    value_list *items = NULL;
    arguments one = {.n = 1};
    if (given != NULL) {
        GRETA_TRY(value_text(f->c, f->n, *given, &separator));
    }
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    GRETA_TRY(value_list_new(f->c, VALUE_LIST, &all));
    for (size_t i = 0; i < items->n; i++) {
        value item = items->item[i];
        if (attribute != NULL) {
            GRETA_TRY(attribute->kind == VALUE_STRING ? attribute_of(f, item, *attribute, &item)
                                                      : chat_fail(f->c, f->n->line, "joins by %s",
                                                                  value_kind_name(*attribute)));
        }
        GRETA_TRY(value_text(f->c, f->n, item, &item));
        GRETA_TRY(value_append(f->c, all.list, item));
    }
    one.item[0] = all;
    GRETA_TRY(chat_attribute(f->c, f->n, separator, value_string("join", 4), &method));
    return chat_call(f->c, f->n, method, &one, f->result);
}

/* The arguments behind the first `n`. */
static void arguments_rest(const arguments *a, size_t n, arguments *rest)
{
    rest->n = 0;
    for (size_t i = n; i < a->n; i++, rest->n++) {
        rest->item[rest->n] = a->item[i];
        rest->name[rest->n] = a->name[i];
        rest->name_length[rest->n] = a->name_length[i];
    }
}

/* map("filter", ..) and map(attribute="name", default=..) */
static greta_status filter_map(filter_call *f)
{
    const value *attribute = argument(f->a, ARGUMENTS_MAX, "attribute");
    const value *otherwise = argument(f->a, ARGUMENTS_MAX, "default");
    bool has_filter = f->a->n > 0 && f->a->name[0] == NULL;
    value_list *items = NULL;
    arguments rest;
    arguments_rest(f->a, 1, &rest);
    bool is_good = has_filter ? f->a->item[0].kind == VALUE_STRING
                              : attribute != NULL && attribute->kind == VALUE_STRING;
    if (!is_good) {
        return chat_fail(f->c, f->n->line, "uses map without a filter or an attribute");
    }
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    GRETA_TRY(value_list_new(f->c, VALUE_ITERATOR, f->result));
    for (size_t i = 0; i < items->n; i++) {
        value made;
        GRETA_TRY(has_filter ? chat_filter(f->c, f->n, items->item[i], f->a->item[0], &rest, &made)
                             : attribute_of(f, items->item[i], *attribute, &made));
        made = made.kind == VALUE_UNDEFINED && otherwise != NULL ? *otherwise : made;
        GRETA_TRY(value_append(f->c, f->result->list, made));
    }
    return GRETA_OK;
}

/* select, reject, selectattr, rejectattr: the items for which a test holds, or a value is true. */
static greta_status filter_choose(filter_call *f, bool wanted, bool has_attribute)
{
    size_t first = has_attribute;
    value_list *items = NULL;
    arguments rest;
    bool has_test = f->a->n > first;
    arguments_rest(f->a, first + 1, &rest);
    if ((has_attribute && (f->a->n == 0 || f->a->item[0].kind != VALUE_STRING)) ||
        (has_test && f->a->item[first].kind != VALUE_STRING)) {
        return chat_fail(f->c, f->n->line,
                         "chooses items without the name of an attribute or test");
    }
    GRETA_TRY(value_items(f->c, f->n, f->v, &items));
    GRETA_TRY(value_list_new(f->c, VALUE_ITERATOR, f->result));
    for (size_t i = 0; i < items->n; i++) {
        value of = items->item[i];
        bool holds = false;
        if (has_attribute) {
            GRETA_TRY(attribute_of(f, items->item[i], f->a->item[0], &of));
        }
        if (has_test) {
            GRETA_TRY(chat_test(f->c, f->n, of, f->a->item[first], &rest, &holds));
        } else {
            holds = value_is_true(of);
        }
        if (holds == wanted) {
            GRETA_TRY(value_append(f->c, f->result->list, items->item[i]));
        }
    }
    return GRETA_OK;
}

static greta_status filter_select(filter_call *f)
{
    return filter_choose(f, true, false);
}

static greta_status filter_reject(filter_call *f)
{
    return filter_choose(f, false, false);
}

static greta_status filter_selectattr(filter_call *f)
{
    return filter_choose(f, true, true);
}

static greta_status filter_rejectattr(filter_call *f)
{
    return filter_choose(f, false, true);
}

/* ---- Others ---------------------------------------------------------------------------------- */

static greta_status filter_default(filter_call *f)
{
    const value *otherwise = argument(f->a, 0, "default_value");
    const value *is_loose = argument(f->a, 1, "boolean");
    bool takes_it = f->v.kind == VALUE_UNDEFINED ||
                    (is_loose != NULL && value_is_true(*is_loose) && !value_is_true(f->v));
    *f->result = !takes_it ? f->v : otherwise == NULL ? value_string("", 0) : *otherwise;
    return GRETA_OK;
}

static greta_status filter_items(filter_call *f)
{
    value method;
    arguments none = {.n = 0};
    if (f->v.kind == VALUE_UNDEFINED) {
        return value_list_new(f->c, VALUE_ITERATOR, f->result);
    }
    if (f->v.kind != VALUE_DICT) {
        return chat_fail(f->c, f->n->line, "asks for the items of %s", value_kind_name(f->v));
    }
    GRETA_TRY(chat_attribute(f->c, f->n, f->v, value_string("items", 5), &method));
    GRETA_TRY(chat_call(f->c, f->n, method, &none, f->result));
    f->result->kind = VALUE_ITERATOR;
    return GRETA_OK;
}

static greta_status filter_abs(filter_call *f)
{
    *f->result = value_int(f->v.number < 0 ? -f->v.number : f->v.number);
    return value_is_number(f->v) ? GRETA_OK
                                 : chat_fail(f->c, f->n->line, "asks for the absolute value of %s",
                                             value_kind_name(f->v));
}

static greta_status filter_int(filter_call *f)
{
    int64_t number = 0;
    size_t i = 0;
    value v = f->v.kind == VALUE_STRING ? chat_trim(f->v, NULL, 0, true, true) : f->v;
    bool is_digits = v.kind == VALUE_STRING && v.length > 0 && v.length <= 15;
    for (; is_digits && i < v.length; i++) {
        is_digits = v.text[i] >= '0' && v.text[i] <= '9';
        number = number * 10 + (v.text[i] - '0');
    }
    if (!value_is_number(v) && !is_digits) {
        return chat_fail(f->c, f->n->line, "makes a number of %s, which is not supported",
                         value_kind_name(v));
    }
    *f->result = value_int(is_digits ? number : v.number);
    return GRETA_OK;
}

static greta_status filter_safe(filter_call *f)
{
    *f->result = f->v; /* Nothing is escaped. */
    return f->v.kind == VALUE_STRING
               ? GRETA_OK
               : chat_fail(f->c, f->n->line, "uses safe on %s", value_kind_name(f->v));
}

static const struct {
    const char *name;
    size_t arguments_max;
    greta_status (*run)(filter_call *f);
} filters[] = {
    {"trim", 1, filter_trim},
    {"length", 0, filter_length},
    {"count", 0, filter_length},
    {"string", 0, filter_string},
    {"first", 0, filter_first},
    {"last", 0, filter_last},
    {"list", 0, filter_list},
    {"join", 2, filter_join},
    {"tojson", ARGUMENTS_MAX, filter_tojson},
    {"default", 2, filter_default},
    {"d", 2, filter_default},
    {"upper", 0, filter_upper},
    {"lower", 0, filter_lower},
    {"capitalize", 0, filter_capitalize},
    {"replace", 3, filter_replace},
    {"map", ARGUMENTS_MAX, filter_map},
    {"select", ARGUMENTS_MAX, filter_select},
    {"reject", ARGUMENTS_MAX, filter_reject},
    {"selectattr", ARGUMENTS_MAX, filter_selectattr},
    {"rejectattr", ARGUMENTS_MAX, filter_rejectattr},
    {"reverse", 0, filter_reverse},
    {"items", 0, filter_items},
    {"abs", 0, filter_abs},
    {"int", 0, filter_int},
    {"safe", 0, filter_safe},
};

greta_status chat_filter(chat *c, const node *n, value v, value name, const arguments *a,
                         value *result)
{
    filter_call f = {c, n, v, a, result};
    GRETA_TRY(chat_work(c, 1));
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        if (value_is(name, filters[i].name)) {
            return a->n <= filters[i].arguments_max
                       ? filters[i].run(&f)
                       : chat_fail(c, n->line, "gives %s too many arguments", filters[i].name);
        }
    }
    return chat_unsupported(c, n, "the filter", name.text, name.length);
}

/* ---- Tests ----------------------------------------------------------------------------------- */

typedef enum test_kind {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_TRUE,
    TEST_FALSE,
    TEST_BOOLEAN,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_ODD,
    TEST_EVEN,
    TEST_DIVISIBLE,
    TEST_EQUAL,
    TEST_UNEQUAL,
    TEST_LESS,
    TEST_LESS_EQUAL,
    TEST_GREATER,
    TEST_GREATER_EQUAL,
    TEST_IN,
    TEST_SAME
} test_kind;

static const struct {
    const char *name;
    test_kind kind;
} tests[] = {
    {"defined", TEST_DEFINED},
    {"undefined", TEST_UNDEFINED},
    {"none", TEST_NONE},
    {"true", TEST_TRUE},
    {"false", TEST_FALSE},
    {"boolean", TEST_BOOLEAN},
    {"string", TEST_STRING},
    {"number", TEST_NUMBER},
    {"integer", TEST_INTEGER},
    {"float", TEST_FLOAT},
    {"mapping", TEST_MAPPING},
    {"iterable", TEST_ITERABLE},
    {"sequence", TEST_SEQUENCE},
    {"callable", TEST_CALLABLE},
    {"odd", TEST_ODD},
    {"even", TEST_EVEN},
    {"divisibleby", TEST_DIVISIBLE},
    {"equalto", TEST_EQUAL},
    {"eq", TEST_EQUAL},
    {"==", TEST_EQUAL},
    {"ne", TEST_UNEQUAL},
    {"!=", TEST_UNEQUAL},
    {"lt", TEST_LESS},
    {"lessthan", TEST_LESS},
    {"<", TEST_LESS},
    {"le", TEST_LESS_EQUAL},
    {"<=", TEST_LESS_EQUAL},
    {"gt", TEST_GREATER},
    {"greaterthan", TEST_GREATER},
    {">", TEST_GREATER},
    {"ge", TEST_GREATER_EQUAL},
    {">=", TEST_GREATER_EQUAL},
    {"in", TEST_IN},
    {"sameas", TEST_SAME},
};

/* Tests of what a value is. */
static bool test_of_kind(test_kind test, value v)
{
    value_kind kind = v.kind;
    bool has_length = kind == VALUE_STRING || kind == VALUE_LIST || kind == VALUE_TUPLE ||
                      kind == VALUE_DICT || kind == VALUE_UNDEFINED;
    switch (test) {
    case TEST_DEFINED:
        return kind != VALUE_UNDEFINED;
    case TEST_UNDEFINED:
        return kind == VALUE_UNDEFINED;
    case TEST_NONE:
        return kind == VALUE_NONE;
    case TEST_TRUE:
        return kind == VALUE_BOOL && v.number;
    case TEST_FALSE:
        return kind == VALUE_BOOL && !v.number;
    case TEST_BOOLEAN:
        return kind == VALUE_BOOL;
    case TEST_STRING:
        return kind == VALUE_STRING;
    case TEST_NUMBER:
        return value_is_number(v);
    case TEST_INTEGER:
        return kind == VALUE_INT;
    case TEST_MAPPING:
        return kind == VALUE_DICT;
    case TEST_ITERABLE:
        return has_length || value_is_sequence(v) || kind == VALUE_LOOP;
    case TEST_SEQUENCE:
        return has_length;
    case TEST_CALLABLE:
        return kind == VALUE_MACRO || kind == VALUE_FUNCTION || kind == VALUE_METHOD;
    default:
        return false;
    }
}

static greta_status test_number(chat *c, const node *n, test_kind test, value v, const value *other,
                                bool *holds)
{
    int64_t by = test == TEST_DIVISIBLE && other != NULL ? other->number : 2;
    if (!value_is_number(v) || by == 0 || (other != NULL && !value_is_number(*other))) {
        return chat_fail(c, n->line, "divides %s", value_kind_name(v));
    }
    *holds = (v.number % by != 0) == (test == TEST_ODD);
    return GRETA_OK;
}

/* Tests against another value. */
static greta_status test_against(chat *c, const node *n, test_kind test, value v, value other,
                                 bool *holds)
{
    int order = 0;
    switch (test) {
    case TEST_EQUAL:
    case TEST_UNEQUAL:
        GRETA_TRY(value_equal(c, n, v, other, holds));
        *holds = *holds == (test == TEST_EQUAL);
        return GRETA_OK;
    case TEST_SAME: {
        bool is_single = v.kind == VALUE_NONE || v.kind == VALUE_BOOL;
        *holds = v.kind == other.kind && v.number == other.number;
        return is_single || v.kind != other.kind
                   ? GRETA_OK
                   : chat_fail(c, n->line, "asks whether values are one, which is not supported");
    }
    case TEST_IN: {
        value_list *items = NULL;
        *holds = false;
        if (other.kind == VALUE_STRING && v.kind == VALUE_STRING) {
            *holds = v.length == 0 || memmem(other.text, other.length, v.text, v.length) != NULL;
            return chat_work(c, other.length / 64);
        }
        if (other.kind == VALUE_STRING) {
            return chat_fail(c, n->line, "looks for %s in a string", value_kind_name(v));
        }
        GRETA_TRY(value_items(c, n, other, &items));
        for (size_t i = 0; i < items->n && !*holds; i++) {
            GRETA_TRY(value_equal(c, n, v, items->item[i], holds));
        }
        return GRETA_OK;
    }
    default:
        GRETA_TRY(value_order(c, n, v, other, &order));
        *holds = test == TEST_LESS         ? order < 0
                 : test == TEST_LESS_EQUAL ? order <= 0
                 : test == TEST_GREATER    ? order > 0
                                           : order >= 0;
        return GRETA_OK;
    }
}

greta_status chat_test(chat *c, const node *n, value v, value name, const arguments *a, bool *holds)
{
    GRETA_TRY(chat_work(c, 1));
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        test_kind kind = tests[i].kind;
        if (!value_is(name, tests[i].name)) {
            continue;
        }
        if (a->n != (kind >= TEST_DIVISIBLE)) {
            return chat_fail(c, n->line, "gives the test %s %zu arguments", tests[i].name, a->n);
        }
        if (kind >= TEST_EQUAL) {
            return test_against(c, n, kind, v, a->item[0], holds);
        }
        if (kind >= TEST_ODD) {
            return test_number(c, n, kind, v, a->n > 0 ? &a->item[0] : NULL, holds);
        }
        *holds = test_of_kind(kind, v);
        return GRETA_OK;
    }
    return chat_unsupported(c, n, "the test", name.text, name.length);
}
