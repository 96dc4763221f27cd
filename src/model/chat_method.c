/* chat_method.c - what a template finds in its context, and the attributes and methods of values.
 *
 * The context is the one that transformers gives a chat template: messages, add_generation_prompt,
 * tools and documents (none here), the special tokens, and the functions raise_exception,
 * strftime_now, range, dict and namespace. Methods are those of Python's strings and dicts;
 * a sandboxed environment as transformers' refuses those that change a list or a dict, and so does
 * this one.
 *
 * strftime_now is the one thing in a template that is not a function of the chat. The caller gives
 * the date; without one the function is refused where it is called.
 */
#include "model/chat_internal.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

typedef struct method_call {
    chat *c;
    const node *n;
    value v;
    const arguments *a;
    value *result;
} method_call;

static greta_status refuse(method_call *m, const char *what)
{
    return chat_fail(m->c, m->n->line, "calls %s", what);
}

/* Argument i, which must be a string; NULL: not given, or none. */
static greta_status string_argument(method_call *m, size_t i, const char *name, const value **v)
{
    *v = argument(m->a, i, name);
    *v = *v != NULL && (*v)->kind == VALUE_NONE ? NULL : *v;
    return *v == NULL || (*v)->kind == VALUE_STRING
               ? GRETA_OK
               : refuse(m, "a method of a string with something else");
}

/* ---- Strings --------------------------------------------------------------------------------- */

/* Whether the character of `n` bytes at s is to be trimmed. */
static bool is_trimmed(const char *s, size_t n, const char *characters, size_t length)
{
    if (characters == NULL) {
        return chat_space(s, n) == n;
    }
    for (size_t at = 0; at + n <= length; at++) {
        if (memcmp(characters + at, s, n) == 0) {
            return true;
        }
    }
    return false;
}

static size_t character_bytes(const char *s, size_t bytes)
{
    size_t n = utf8_length(s, bytes);
    return n == 0 ? 1 : n;
}

value chat_trim(value v, const char *characters, size_t length, bool left, bool right)
{
    size_t n = 0;
    while (left && v.length > 0) {
        n = character_bytes(v.text, v.length);
        if (!is_trimmed(v.text, n, characters, length)) {
            break;
        }
        v.text += n;
        v.length -= n;
    }
    while (right && v.length > 0) {
        n = 1;
        while (n < v.length && n < 4 && ((unsigned char)v.text[v.length - n] & 0xc0) == 0x80) {
            n++;
        }
        if (!is_trimmed(v.text + v.length - n, n, characters, length)) {
            break;
        }
        v.length -= n;
    }
    return v;
}

static greta_status string_strip(method_call *m, bool left, bool right)
{
    const value *characters = NULL;
    GRETA_TRY(string_argument(m, 0, "", &characters));
    *m->result = chat_trim(m->v, characters == NULL ? NULL : characters->text,
                           characters == NULL ? 0 : characters->length, left, right);
    return chat_work(m->c, m->v.length / 16);
}

static bool has_affix(value v, value affix, bool is_start)
{
    return affix.kind == VALUE_STRING && affix.length <= v.length &&
           memcmp(is_start ? v.text : v.text + v.length - affix.length, affix.text, affix.length) ==
               0;
}

/* startswith and endswith of a string or a tuple of them */
static greta_status string_affix(method_call *m, bool is_start)
{
    const value *affix = argument(m->a, 0, "");
    bool holds = false;
    if (m->a->n != 1 || (affix->kind != VALUE_STRING && affix->kind != VALUE_TUPLE)) {
        return refuse(m, "startswith or endswith without a string");
    }
    holds = has_affix(m->v, *affix, is_start);
    for (size_t i = 0; affix->kind == VALUE_TUPLE && i < affix->list->n; i++) {
        holds = holds || has_affix(m->v, affix->list->item[i], is_start);
    }
    *m->result = value_bool(holds);
    return GRETA_OK;
}

static greta_status string_remove(method_call *m, bool is_start)
{
    const value *affix = NULL;
    GRETA_TRY(string_argument(m, 0, "", &affix));
    if (affix == NULL) {
        return refuse(m, "a method of a string without an argument");
    }
    *m->result = m->v;
    if (has_affix(m->v, *affix, is_start)) {
        m->result->text += is_start ? affix->length : 0;
        m->result->length -= affix->length;
    }
    return GRETA_OK;
}

static greta_status whole_argument(method_call *m, size_t i, const char *name, int64_t absent,
                                   int64_t *number)
{
    const value *given = argument(m->a, i, name);
    *number = given == NULL ? absent : given->number;
    return given == NULL || value_is_number(*given)
               ? GRETA_OK
               : refuse(m, "a method of a string with something else than a number");
}

/* split() at white space, split(separator, maxsplit) */
static greta_status string_split(method_call *m)
{
    const value *separator = NULL;
    int64_t most = -1;
    value rest = m->v;
    GRETA_TRY(string_argument(m, 0, "sep", &separator));
    GRETA_TRY(whole_argument(m, 1, "maxsplit", -1, &most));
    if (separator != NULL && separator->length == 0) {
        return refuse(m, "split with an empty separator");
    }
    GRETA_TRY(value_list_new(m->c, VALUE_LIST, m->result));
    GRETA_TRY(chat_work(m->c, rest.length / 16));
    for (;;) {
        size_t n = 0, skip = separator == NULL ? 0 : separator->length;
        rest = separator == NULL ? chat_trim(rest, NULL, 0, true, false) : rest;
        if (separator == NULL && rest.length == 0) {
            return GRETA_OK;
        }
        bool is_last = most >= 0 && (int64_t)m->result->list->n >= most;
        const char *found = separator == NULL || is_last
                                ? NULL
                                : memmem(rest.text, rest.length, separator->text, skip);
        if (separator == NULL && !is_last) {
            while (n < rest.length && chat_space(rest.text + n, rest.length - n) == 0) {
                n++;
            }
        } else {
            n = found == NULL ? rest.length : (size_t)(found - rest.text);
        }
        value part = value_string(rest.text, n);
        if (separator == NULL && is_last) {
            part = chat_trim(part, NULL, 0, false, true);
        }
        GRETA_TRY(value_append(m->c, m->result->list, part));
        if (n + skip > rest.length || (separator != NULL && found == NULL)) {
            return GRETA_OK;
        }
        rest.text += n + skip;
        rest.length -= n + skip;
    }
}

static greta_status string_rsplit(method_call *m)
{
    const value *separator = NULL;
    int64_t most = -1;
    GRETA_TRY(string_argument(m, 0, "sep", &separator));
    GRETA_TRY(whole_argument(m, 1, "maxsplit", -1, &most));
    if (separator == NULL || separator->length == 0) {
        return refuse(m, "rsplit without a separator, which is not supported");
    }
    GRETA_TRY(string_split(
        &(method_call){m->c, m->n, m->v, &(arguments){.item = {*separator}, .n = 1}, m->result}));
    value_list *parts = m->result->list;
    if (most < 0 || (size_t)most + 1 >= parts->n) {
        return GRETA_OK;
    }
    /* The first of them, with what stood between, stay together. */
    size_t joined = parts->n - (size_t)most;
    const char *end = parts->item[joined - 1].text + parts->item[joined - 1].length;
    value first = value_string(m->v.text, (size_t)(end - m->v.text));
    if (parts->item[joined - 1].length == 0) {
        first.length = 0;
        for (size_t i = 0; i < joined; i++) {
            first.length += parts->item[i].length + (i > 0 ? separator->length : 0);
        }
        first = value_string(m->v.text, first.length);
    }
    parts->item[joined - 1] = first;
    parts->item += joined - 1;
    parts->n -= joined - 1;
    parts->capacity = parts->n;
    return GRETA_OK;
}

static greta_status string_splitlines(method_call *m)
{
    size_t start = 0;
    if (m->a->n > 0) {
        return refuse(m, "splitlines with an argument, which is not supported");
    }
    GRETA_TRY(value_list_new(m->c, VALUE_LIST, m->result));
    for (size_t i = 0; i < m->v.length; i++) {
        unsigned char byte = (unsigned char)m->v.text[i];
        if (byte >= 0x80 || (byte >= 0x1c && byte <= 0x1e) || byte == 0x0b || byte == 0x0c) {
            return refuse(m, "splitlines of text with other line ends, which is not supported");
        }
        if (byte != '\n' && byte != '\r') {
            continue;
        }
        GRETA_TRY(value_append(m->c, m->result->list, value_string(m->v.text + start, i - start)));
        i += byte == '\r' && i + 1 < m->v.length && m->v.text[i + 1] == '\n';
        start = i + 1;
    }
    return start == m->v.length
               ? GRETA_OK
               : value_append(m->c, m->result->list,
                              value_string(m->v.text + start, m->v.length - start));
}

/* replace(old, new, count) */
static greta_status string_replace(method_call *m)
{
    const value *old = NULL, *new = NULL;
    int64_t most = -1;
    text made = {0};
    GRETA_TRY(string_argument(m, 0, "old", &old));
    GRETA_TRY(string_argument(m, 1, "new", &new));
    GRETA_TRY(whole_argument(m, 2, "count", -1, &most));
    if (old == NULL || new == NULL || old->length == 0) {
        return refuse(m, "replace without two strings, the first of them not empty");
    }
    value rest = m->v;
    GRETA_TRY(chat_work(m->c, rest.length / 16));
    const char *found;
    while (most != 0 && (found = memmem(rest.text, rest.length, old->text, old->length)) != NULL &&
           made.length <= LIMIT_CHAT_BYTES) {
        size_t n = (size_t)(found - rest.text);
        text_append(&made, rest.text, n);
        text_append(&made, new->text, new->length);
        rest.text += n + old->length;
        rest.length -= n + old->length;
        most -= most > 0;
    }
    text_append(&made, rest.text, rest.length);
    greta_status status = made.failed ? error_memory(m->c->err, "the chat template", made.length)
                                      : value_copy_string(m->c, made.data, made.length, m->result);
    text_free(&made);
    return status;
}

static greta_status string_join(method_call *m)
{
    value_list *items = NULL;
    text made = {0};
    greta_status status = GRETA_OK;
    if (m->a->n != 1) {
        return refuse(m, "join without a list");
    }
    GRETA_TRY(value_items(m->c, m->n, m->a->item[0], &items));
    for (size_t i = 0; i < items->n && status == GRETA_OK; i++) {
        value item = items->item[i];
        text_append(&made, m->v.text, i > 0 ? m->v.length : 0);
        status = item.kind == VALUE_STRING ? chat_work(m->c, 1)
                                           : refuse(m, "join of something else than strings");
        text_append(&made, item.text, item.kind == VALUE_STRING ? item.length : 0);
        if (made.length > LIMIT_CHAT_BYTES) {
            break; /* refused by the copy */
        }
    }
    if (status == GRETA_OK) {
        status = made.failed ? error_memory(m->c->err, "the chat template", made.length)
                             : value_copy_string(m->c, made.data, made.length, m->result);
    }
    text_free(&made);
    return status;
}

/* Characters have one other case each here; those that become several are refused. */
static greta_status string_case(method_call *m, bool upper_first, bool upper_rest)
{
    text made = {0};
    GRETA_TRY(chat_work(m->c, m->v.length / 8));
    for (size_t at = 0, n = 0; at < m->v.length; at += n) {
        utf8proc_int32_t code = 0;
        utf8proc_uint8_t encoded[4];
        n = character_bytes(m->v.text + at, m->v.length - at);
        (void)utf8proc_iterate((const utf8proc_uint8_t *)m->v.text + at, (utf8proc_ssize_t)n,
                               &code);
        bool is_upper = at == 0 ? upper_first : upper_rest;
        if (code >= 0x80) {
            text_free(&made);
            return refuse(m, "upper, lower or capitalize of text beyond ASCII, which is not "
                             "supported");
        }
        utf8proc_ssize_t length = utf8proc_encode_char(
            is_upper ? utf8proc_toupper(code) : utf8proc_tolower(code), encoded);
        text_append(&made, (const char *)encoded, (size_t)length);
    }
    greta_status status = made.failed ? error_memory(m->c->err, "the chat template", made.length)
                                      : value_copy_string(m->c, made.data, made.length, m->result);
    text_free(&made);
    return status;
}

/* find, count and index of a string */
static greta_status string_search(method_call *m, bool counts)
{
    const value *part = NULL;
    GRETA_TRY(string_argument(m, 0, "", &part));
    if (part == NULL || m->a->n != 1 || part->length == 0) {
        return refuse(m, "find or count without one string that is not empty");
    }
    GRETA_TRY(chat_work(m->c, m->v.length / 16));
    value rest = m->v;
    int64_t n = 0;
    const char *found = memmem(rest.text, rest.length, part->text, part->length);
    if (!counts) {
        value before = value_string(m->v.text, found == NULL ? 0 : (size_t)(found - m->v.text));
        *m->result = value_int(found == NULL ? -1 : (int64_t)value_characters(before));
        return GRETA_OK;
    }
    while (found != NULL) {
        n++;
        rest.length -= (size_t)(found - rest.text) + part->length;
        rest.text = found + part->length;
        found = memmem(rest.text, rest.length, part->text, part->length);
    }
    *m->result = value_int(n);
    return GRETA_OK;
}

static greta_status string_method(method_call *m, value name)
{
    return value_is(name, "strip")          ? string_strip(m, true, true)
           : value_is(name, "lstrip")       ? string_strip(m, true, false)
           : value_is(name, "rstrip")       ? string_strip(m, false, true)
           : value_is(name, "startswith")   ? string_affix(m, true)
           : value_is(name, "endswith")     ? string_affix(m, false)
           : value_is(name, "removeprefix") ? string_remove(m, true)
           : value_is(name, "removesuffix") ? string_remove(m, false)
           : value_is(name, "split")        ? string_split(m)
           : value_is(name, "rsplit")       ? string_rsplit(m)
           : value_is(name, "splitlines")   ? string_splitlines(m)
           : value_is(name, "replace")      ? string_replace(m)
           : value_is(name, "join")         ? string_join(m)
           : value_is(name, "upper")        ? string_case(m, true, true)
           : value_is(name, "lower")        ? string_case(m, false, false)
           : value_is(name, "capitalize")   ? string_case(m, true, false)
           : value_is(name, "find")         ? string_search(m, false)
                                            : string_search(m, true);
}

/* ---- Dicts ----------------------------------------------------------------------------------- */

static greta_status dict_get(method_call *m)
{
    const value *key = argument(m->a, 0, ""), *otherwise = argument(m->a, 1, "");
    if (m->a->n < 1 || m->a->n > 2 || key->kind != VALUE_STRING) {
        return refuse(m, "get of a mapping without the name of a key");
    }
    const value *found = value_dict_get(m->v.dict, key->text, key->length);
    *m->result = found != NULL ? *found : otherwise != NULL ? *otherwise : value_of(VALUE_NONE);
    return chat_work(m->c, 1 + m->v.dict->n / 8);
}

/* items, keys and values, as a list */
static greta_status dict_view(method_call *m, value name)
{
    const value_dict *dict = m->v.dict;
    if (m->a->n > 0) {
        return refuse(m, "a method of a mapping with arguments");
    }
    GRETA_TRY(value_list_new(m->c, VALUE_VIEW, m->result));
    for (size_t i = 0; i < dict->n; i++) {
        value item = value_is(name, "keys") ? dict->key[i] : dict->item[i];
        if (value_is(name, "items")) {
            GRETA_TRY(value_list_new(m->c, VALUE_TUPLE, &item));
            GRETA_TRY(value_append(m->c, item.list, dict->key[i]));
            GRETA_TRY(value_append(m->c, item.list, dict->item[i]));
        }
        GRETA_TRY(value_append(m->c, m->result->list, item));
    }
    return GRETA_OK;
}

/* ---- Attributes ------------------------------------------------------------------------------ */

static bool is_one_of(value name, const char *const *known, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (value_is(name, known[i])) {
            return true;
        }
    }
    return false;
}

static greta_status method(chat *c, value v, value name, value *result)
{
    value *self = chat_alloc(c, sizeof *self);
    if (self == NULL) {
        return GRETA_BAD_INPUT;
    }
    *self = v;
    *result = (value){.kind = VALUE_METHOD, .text = name.text, .length = name.length};
    result->self = self;
    return GRETA_OK;
}

static greta_status loop_attribute(chat *c, const node *n, const chat_loop *loop, value name,
                                   value *v)
{
    static const char *const methods[] = {"cycle"};
    int64_t i = (int64_t)loop->i, all = (int64_t)loop->list->n;
    value undefined = value_of(VALUE_UNDEFINED);
    *v = value_is(name, "index0")      ? value_int(i)
         : value_is(name, "index")     ? value_int(i + 1)
         : value_is(name, "revindex")  ? value_int(all - i)
         : value_is(name, "revindex0") ? value_int(all - i - 1)
         : value_is(name, "length")    ? value_int(all)
         : value_is(name, "depth")     ? value_int(loop->depth)
         : value_is(name, "depth0")    ? value_int(loop->depth - 1)
         : value_is(name, "first")     ? value_bool(i == 0)
         : value_is(name, "last")      ? value_bool(i + 1 == all)
         : value_is(name, "previtem")  ? (i == 0 ? undefined : loop->list->item[i - 1])
         : value_is(name, "nextitem")  ? (i + 1 == all ? undefined : loop->list->item[i + 1])
                                       : undefined;
    if (is_one_of(name, methods, 1)) {
        value self = {.kind = VALUE_LOOP};
        self.loop = (chat_loop *)loop;
        return method(c, self, name, v);
    }
    static const char *const known[] = {"previtem", "nextitem"};
    return v->kind != VALUE_UNDEFINED || is_one_of(name, known, 2)
               ? GRETA_OK
               : chat_unsupported(c, n, "the loop's attribute", name.text, name.length);
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

greta_status chat_attribute(chat *c, const node *n, value v, value name, value *result)
{
    static const char *const string_methods[] = {
        "strip",        "lstrip", "rstrip",     "startswith", "endswith",   "removeprefix",
        "removesuffix", "split",  "rsplit",     "replace",    "splitlines", "join",
        "upper",        "lower",  "capitalize", "find",       "count"};
    static const char *const dict_methods[] = {"get", "items", "keys", "values"};
    static const char *const refused[] = {
        "append",   "extend",    "insert",     "remove",       "pop",        "clear",
        "sort",     "reverse",   "index",      "count",        "copy",       "update",
        "format",   "title",     "popitem",    "encode",       "fromkeys",   "setdefault",
        "zfill",    "isdigit",   "isalpha",    "isspace",      "isupper",    "islower",
        "swapcase", "partition", "rpartition", "ljust",        "rjust",      "center",
        "rfind",    "rindex",    "translate",  "casefold",     "expandtabs", "format_map",
        "isalnum",  "isascii",   "isdecimal",  "isidentifier", "isnumeric",  "isprintable",
        "istitle",  "maketrans"};
    bool is_hidden = name.length > 0 && name.text[0] == '_';
    *result = value_of(VALUE_UNDEFINED);
    GRETA_TRY(chat_work(c, 1));
    if (v.kind == VALUE_UNDEFINED) {
        char shown[ESCAPED_MAX];
        return chat_fail(c, n->line, "asks an undefined value for \"%s\"",
                         escape(name.text, name.length, shown));
    }
    if (v.kind == VALUE_LOOP) {
        return loop_attribute(c, n, v.loop, name, result);
    }
    if (v.kind == VALUE_STRING && is_one_of(name, string_methods, COUNT(string_methods))) {
        return method(c, v, name, result);
    }
    if (v.kind == VALUE_DICT && n->kind != NODE_ITEM &&
        is_one_of(name, dict_methods, COUNT(dict_methods))) {
        return method(c, v, name, result);
    }
    bool is_plain = v.kind == VALUE_NONE || value_is_number(v) || v.kind == VALUE_NAMESPACE;
    if (is_hidden || (!is_plain && is_one_of(name, refused, COUNT(refused))) ||
        (!is_plain && v.kind != VALUE_STRING && v.kind != VALUE_DICT && !value_is_sequence(v))) {
        return chat_unsupported(c, n, "the attribute", name.text, name.length);
    }
    if (v.kind == VALUE_DICT || v.kind == VALUE_NAMESPACE) {
        const value *found = value_dict_get(v.dict, name.text, name.length);
        GRETA_TRY(chat_work(c, v.dict->n / 8));
        *result = found == NULL ? *result : *found;
    }
    return GRETA_OK;
}

/* ---- Functions ------------------------------------------------------------------------------- */

static greta_status call_range(method_call *m)
{
    int64_t bound[3] = {0, 0, 1};
    for (size_t i = 0; i < m->a->n; i++) {
        if (i == 3 || m->a->name[i] != NULL || !value_is_number(m->a->item[i])) {
            return refuse(m, "range with something else than numbers");
        }
        bound[i] = m->a->item[i].number;
    }
    if (m->a->n == 0 || bound[2] == 0) {
        return refuse(m, "range without an end or a step");
    }
    if (m->a->n == 1) {
        bound[1] = bound[0];
        bound[0] = 0;
    }
    GRETA_TRY(value_list_new(m->c, VALUE_VIEW, m->result));
    for (int64_t i = bound[0]; bound[2] > 0 ? i < bound[1] : i > bound[1]; i += bound[2]) {
        if (m->result->list->n == 100000) {
            return refuse(m, "range of more than 100000 numbers"); /* as jinja2's sandbox */
        }
        GRETA_TRY(value_append(m->c, m->result->list, value_int(i)));
    }
    return GRETA_OK;
}

/* namespace(a=1) and dict(a=1), also of a dict */
static greta_status call_dict(method_call *m, value_kind kind)
{
    GRETA_TRY(value_dict_new(m->c, kind, m->result));
    for (size_t i = 0; i < m->a->n; i++) {
        const value *item = &m->a->item[i];
        if (m->a->name[i] != NULL) {
            GRETA_TRY(value_dict_set(m->c, m->result->dict,
                                     value_string(m->a->name[i], m->a->name_length[i]), *item));
            continue;
        }
        if (i > 0 || item->kind != VALUE_DICT) {
            return refuse(m, "namespace or dict with something else than names or a mapping");
        }
        for (size_t k = 0; k < item->dict->n; k++) {
            GRETA_TRY(
                value_dict_set(m->c, m->result->dict, item->dict->key[k], item->dict->item[k]));
        }
    }
    return GRETA_OK;
}

static greta_status call_raise(method_call *m)
{
    char shown[ESCAPED_MAX];
    value why = value_string("", 0);
    if (m->a->n > 0) {
        GRETA_TRY(value_text(m->c, m->n, m->a->item[0], &why));
    }
    return chat_fail(m->c, m->n->line, "refuses the conversation: %s",
                     escape(why.text, why.length, shown));
}

/* The calendar date of days since 1970-01-01 (proleptic Gregorian; the year begins in March, so
 * that the leap day is its last). */
static void date_of(int64_t days, int64_t *year, int *month, int *day, int *day_of_year)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t shifted = days + 719468; /* since 0000-03-01 */
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t of_era = shifted - era * 146097;
    int64_t of_year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t rest = of_era - (365 * of_year + of_year / 4 - of_year / 100);
    int march = (int)((5 * rest + 2) / 153);
    *day = (int)(rest - (153 * march + 2) / 5) + 1;
    *month = march < 10 ? march + 3 : march - 9;
    *year = of_year + era * 400 + (*month <= 2);
    bool is_leap = (*year % 4 == 0 && *year % 100 != 0) || *year % 400 == 0;
    *day_of_year = before[*month - 1] + *day + (is_leap && *month > 2);
}

/* One conversion of strftime in the C locale; false: not one of ours. */
static bool date_format(char letter, bool is_plain, int64_t now, char out[64])
{
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    static const char *const weekdays[] = {"Thursday", "Friday",  "Saturday", "Sunday",
                                           "Monday",   "Tuesday", "Wednesday"};
    int64_t days = now >= 0 ? now / 86400 : -((86399 - now) / 86400), year = 0;
    int seconds = (int)(now - days * 86400), month = 0, day = 0, of_year = 0;
    date_of(days, &year, &month, &day, &of_year);
    const char *name =
        letter == 'B' || letter == 'b' ? months[month - 1] : weekdays[((days % 7) + 7) % 7];
    int hour = seconds / 3600, twelve = hour % 12 == 0 ? 12 : hour % 12;
    int number = letter == 'd'   ? day
                 : letter == 'm' ? month
                 : letter == 'y' ? (int)(year % 100)
                 : letter == 'H' ? hour
                 : letter == 'I' ? twelve
                 : letter == 'M' ? seconds / 60 % 60
                 : letter == 'S' ? seconds % 60
                                 : of_year;
    switch (letter) {
    case 'Y':
        snprintf(out, 64, "%lld", (long long)year);
        return !is_plain;
    case 'B':
    case 'A':
    case 'b':
    case 'a':
        snprintf(out, 64, letter == 'B' || letter == 'A' ? "%s" : "%.3s", name);
        return !is_plain;
    case 'p':
        snprintf(out, 64, "%s", hour < 12 ? "AM" : "PM");
        return !is_plain;
    case '%':
        snprintf(out, 64, "%%");
        return !is_plain;
    case 'j':
        snprintf(out, 64, is_plain ? "%d" : "%03d", number);
        return true;
    default:
        snprintf(out, 64, is_plain ? "%d" : "%02d", number);
        return strchr("dmyHIMS", letter) != NULL;
    }
}

static greta_status call_strftime(method_call *m)
{
    const value *format = argument(m->a, 0, "format");
    text made = {0};
    if (m->a->n != 1 || format == NULL || format->kind != VALUE_STRING) {
        return refuse(m, "strftime_now without a format");
    }
    if (!m->c->options->has_now) {
        error_hint(m->c->err, "--date YYYY-MM-DD gives one");
        return refuse(m, "strftime_now, and no date was given");
    }
    for (size_t i = 0; i < format->length; i++) {
        char one[64] = {format->text[i], '\0'};
        if (format->text[i] == '%') {
            bool is_plain = i + 1 < format->length && format->text[i + 1] == '-';
            i += is_plain ? 2 : 1;
            char letter = i < format->length ? format->text[i] : '\0';
            if (letter == '\0' || !date_format(letter, is_plain, m->c->options->now, one)) {
                text_free(&made);
                return refuse(m, "strftime_now with something else than %d %m %Y %y %b %B %a %A "
                                 "%H %I %M %S %p %j");
            }
        }
        text_string(&made, one);
    }
    greta_status status = made.failed ? error_memory(m->c->err, "the chat template", made.length)
                                      : value_copy_string(m->c, made.data, made.length, m->result);
    text_free(&made);
    return status;
}

greta_status chat_call(chat *c, const node *n, value callee, const arguments *a, value *result)
{
    method_call m = {c, n, callee, a, result};
    value name = value_string(callee.text, callee.length);
    GRETA_TRY(chat_work(c, 1));
    if (callee.kind == VALUE_METHOD) {
        m.v = *callee.self;
        if (m.v.kind == VALUE_LOOP) {
            if (a->n == 0) {
                return refuse(&m, "cycle without values");
            }
            *result = a->item[m.v.loop->i % a->n];
            return GRETA_OK;
        }
        return m.v.kind == VALUE_STRING ? string_method(&m, name)
               : value_is(name, "get")  ? dict_get(&m)
                                        : dict_view(&m, name);
    }
    if (callee.kind != VALUE_FUNCTION) {
        return chat_fail(c, n->line, "calls %s", value_kind_name(callee));
    }
    return value_is(name, "raise_exception") ? call_raise(&m)
           : value_is(name, "strftime_now")  ? call_strftime(&m)
           : value_is(name, "range")         ? call_range(&m)
           : value_is(name, "namespace")     ? call_dict(&m, VALUE_NAMESPACE)
           : value_is(name, "dict")
               ? call_dict(&m, VALUE_DICT)
               : chat_unsupported(c, n, "the function", name.text, name.length);
}

/* ---- Context --------------------------------------------------------------------------------- */

greta_status chat_name(chat *c, const node *n, value *v)
{
    static const char *const functions[] = {"raise_exception", "strftime_now", "range",
                                            "namespace",       "dict",         "lipsum",
                                            "cycler",          "joiner"};
    static const char *const refused[] = {"self", "super", "caller", "varargs", "kwargs"};
    const struct {
        const char *name;
        int32_t id;
    } tokens[] = {{"bos_token", c->tok->bos},
                  {"eos_token", c->tok->eos},
                  {"unk_token", c->tok->unknown},
                  {"pad_token", c->tok->pad}};
    value name = value_string(n->text, n->length);
    *v = (value){.kind = VALUE_UNDEFINED, .text = n->text, .length = n->length};
    if (value_is(name, "messages")) {
        *v = c->messages;
    } else if (value_is(name, "add_generation_prompt")) {
        *v = value_bool(c->options->add_generation_prompt);
    } else if (value_is(name, "tools") || value_is(name, "documents")) {
        *v = value_of(VALUE_NONE);
    } else if (is_one_of(name, functions, COUNT(functions))) {
        v->kind = VALUE_FUNCTION;
    } else if (is_one_of(name, refused, COUNT(refused))) {
        return chat_unsupported(c, n, "the name", n->text, n->length);
    }
    for (size_t i = 0; i < COUNT(tokens); i++) {
        size_t bytes = 0;
        const char *bytes_of = tokenizer_bytes(c->tok, tokens[i].id, &bytes);
        if (bytes_of != NULL && value_is(name, tokens[i].name)) {
            *v = value_string(bytes_of, bytes);
        }
    }
    return GRETA_OK;
}
