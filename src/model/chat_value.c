/* chat_value.c - the values of a chat template: what Python makes of them.
 *
 * Values are copied freely; what they point to lives until the rendering ends, under one limit on
 * bytes. Work that depends on the size of a value is counted, so that a template cannot make a
 * small number of steps that each take for ever. Lists and dicts may hold each other only as deep
 * as LIMIT_CHAT_DEPTH where they are compared or written out.
 */
#include "model/chat_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct chat_block {
    struct chat_block *next;
    max_align_t bytes[];
} chat_block;

/* ---- Memory and errors ----------------------------------------------------------------------- */

void *chat_alloc(chat *c, size_t bytes)
{
    if (bytes > LIMIT_CHAT_BYTES || c->bytes + bytes > LIMIT_CHAT_BYTES) {
        error_set(c->err, GRETA_BAD_INPUT, "the chat template makes more than %u bytes of strings",
                  LIMIT_CHAT_BYTES);
        return NULL;
    }
    chat_block *made = malloc(sizeof *made + bytes);
    if (made == NULL) {
        error_memory(c->err, "the chat template", bytes);
        return NULL;
    }
    c->bytes += bytes + sizeof *made;
    made->next = c->blocks;
    c->blocks = made;
    return made->bytes;
}

void chat_free_all(chat *c)
{
    while (c->blocks != NULL) {
        chat_block *next = c->blocks->next;
        free(c->blocks);
        c->blocks = next;
    }
}

greta_status chat_work(chat *c, size_t n)
{
    c->steps += n;
    return c->steps <= LIMIT_CHAT_STEPS
               ? GRETA_OK
               : error_set(c->err, GRETA_BAD_INPUT, "the chat template takes more than %u steps",
                           LIMIT_CHAT_STEPS);
}

greta_status chat_fail(chat *c, uint32_t line, const char *format, ...)
{
    char what[600];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    greta_status status =
        error_at(c->err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, line, "the chat template %s", what);
    error_hint(c->err, "without --chat the prompt is taken as it is");
    return status;
}

greta_status chat_unsupported(chat *c, const node *n, const char *what, const char *name,
                              size_t length)
{
    char shown[ESCAPED_MAX];
    return chat_fail(c, n->line, "uses %s \"%s\", which is not supported", what,
                     escape(name, length, shown));
}

/* ---- Making values --------------------------------------------------------------------------- */

value value_of(value_kind kind)
{
    return (value){.kind = kind};
}

value value_bool(bool holds)
{
    return (value){.kind = VALUE_BOOL, .number = holds};
}

value value_int(int64_t number)
{
    return (value){.kind = VALUE_INT, .number = number};
}

value value_string(const char *bytes, size_t length)
{
    return (value){.kind = VALUE_STRING, .text = length == 0 ? "" : bytes, .length = length};
}

greta_status value_copy_string(chat *c, const char *bytes, size_t length, value *v)
{
    char *copy = chat_alloc(c, length);
    if (copy == NULL) {
        return GRETA_BAD_INPUT;
    }
    if (length > 0) {
        memcpy(copy, bytes, length);
    }
    *v = value_string(copy, length);
    return chat_work(c, length / 64);
}

greta_status value_list_new(chat *c, value_kind kind, value *v)
{
    *v = value_of(kind);
    v->list = chat_alloc(c, sizeof *v->list);
    if (v->list == NULL) {
        return GRETA_BAD_INPUT;
    }
    *v->list = (value_list){0};
    return GRETA_OK;
}

/* Arrays double; what they leave behind lives on. */
static greta_status grow(chat *c, value **items, size_t n, size_t capacity)
{
    value *grown = chat_alloc(c, capacity * sizeof *grown);
    if (grown == NULL) {
        return GRETA_BAD_INPUT;
    }
    if (n > 0) {
        memcpy(grown, *items, n * sizeof *grown);
    }
    *items = grown;
    return GRETA_OK;
}

greta_status value_append(chat *c, value_list *list, value item)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 4 : list->capacity * 2;
        GRETA_TRY(grow(c, &list->item, list->n, capacity));
        list->capacity = capacity;
    }
    list->item[list->n++] = item;
    return chat_work(c, 1);
}

greta_status value_dict_new(chat *c, value_kind kind, value *v)
{
    *v = value_of(kind);
    v->dict = chat_alloc(c, sizeof *v->dict);
    if (v->dict == NULL) {
        return GRETA_BAD_INPUT;
    }
    *v->dict = (value_dict){0};
    return GRETA_OK;
}

const value *value_dict_get(const value_dict *dict, const char *key, size_t length)
{
    for (size_t i = 0; i < dict->n; i++) {
        const value *known = &dict->key[i];
        if (known->kind == VALUE_STRING && known->length == length &&
            memcmp(known->text, key, length) == 0) {
            return &dict->item[i];
        }
    }
    return NULL;
}

/* Keys are strings; the caller has seen to it. */
greta_status value_dict_set(chat *c, value_dict *dict, value key, value item)
{
    GRETA_TRY(chat_work(c, 1 + dict->n / 8));
    const value *known = value_dict_get(dict, key.text, key.length);
    if (known != NULL) {
        dict->item[known - dict->item] = item;
        return GRETA_OK;
    }
    if (dict->n == dict->capacity) {
        size_t capacity = dict->capacity == 0 ? 4 : dict->capacity * 2;
        GRETA_TRY(grow(c, &dict->key, dict->n, capacity));
        GRETA_TRY(grow(c, &dict->item, dict->n, capacity));
        dict->capacity = capacity;
    }
    dict->key[dict->n] = key;
    dict->item[dict->n++] = item;
    return GRETA_OK;
}

/* ---- Questions ------------------------------------------------------------------------------- */

bool value_is(value v, const char *word)
{
    return v.kind == VALUE_STRING && v.length == strlen(word) &&
           memcmp(v.text, word, v.length) == 0;
}

bool value_is_number(value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT;
}

bool value_is_sequence(value v)
{
    return v.kind == VALUE_LIST || v.kind == VALUE_TUPLE || v.kind == VALUE_VIEW ||
           v.kind == VALUE_ITERATOR;
}

bool value_is_true(value v)
{
    switch (v.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
    case VALUE_INT:
        return v.number != 0;
    case VALUE_STRING:
        return v.length > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        return v.list->n > 0;
    case VALUE_DICT:
        return v.dict->n > 0;
    default:
        return true;
    }
}

const char *value_kind_name(value v)
{
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "an undefined value",
        [VALUE_NONE] = "none",
        [VALUE_BOOL] = "a boolean",
        [VALUE_INT] = "a number",
        [VALUE_STRING] = "a string",
        [VALUE_LIST] = "a list",
        [VALUE_TUPLE] = "a tuple",
        [VALUE_VIEW] = "a view",
        [VALUE_ITERATOR] = "an iterator",
        [VALUE_DICT] = "a mapping",
        [VALUE_NAMESPACE] = "a namespace",
        [VALUE_LOOP] = "loop",
        [VALUE_MACRO] = "a macro",
        [VALUE_FUNCTION] = "a function",
        [VALUE_METHOD] = "a method",
    };
    return names[v.kind];
}

size_t value_characters(value string)
{
    size_t n = 0;
    for (size_t i = 0; i < string.length; i++) {
        n += ((unsigned char)string.text[i] & 0xc0) != 0x80;
    }
    return n;
}

size_t value_character_at(value string, size_t i)
{
    size_t at = 0;
    while (at < string.length) {
        bool begins = ((unsigned char)string.text[at] & 0xc0) != 0x80;
        if (begins && i-- == 0) {
            break;
        }
        at++;
    }
    return at;
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static greta_status equal_at(chat *c, const node *n, value a, value b, unsigned depth, bool *equal);

static greta_status lists_equal(chat *c, const node *n, const value_list *a, const value_list *b,
                                unsigned depth, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; i < a->n && *equal; i++) {
        GRETA_TRY(equal_at(c, n, a->item[i], b->item[i], depth + 1, equal));
    }
    return GRETA_OK;
}

static greta_status dicts_equal(chat *c, const node *n, const value_dict *a, const value_dict *b,
                                unsigned depth, bool *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; i < a->n && *equal; i++) {
        const value *other = value_dict_get(b, a->key[i].text, a->key[i].length);
        GRETA_TRY(chat_work(c, 1 + b->n / 8));
        *equal = other != NULL;
        if (*equal) {
            GRETA_TRY(equal_at(c, n, a->item[i], *other, depth + 1, equal));
        }
    }
    return GRETA_OK;
}

static greta_status equal_at(chat *c, const node *n, value a, value b, unsigned depth, bool *equal)
{
    GRETA_TRY(chat_work(c, 1));
    if (depth > LIMIT_CHAT_DEPTH) {
        return chat_fail(c, n->line, "compares values nested too deep");
    }
    if (value_is_number(a) && value_is_number(b)) {
        *equal = a.number == b.number;
        return GRETA_OK;
    }
    if (a.kind != b.kind) {
        *equal = false;
        return GRETA_OK;
    }
    switch (a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        *equal = true;
        return GRETA_OK;
    case VALUE_STRING:
        *equal = a.length == b.length && memcmp(a.text, b.text, a.length) == 0;
        return chat_work(c, a.length / 64);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return lists_equal(c, n, a.list, b.list, depth, equal);
    case VALUE_DICT:
        return dicts_equal(c, n, a.dict, b.dict, depth, equal);
    default:
        return chat_fail(c, n->line, "compares %s, which is not supported", value_kind_name(a));
    }
}

greta_status value_equal(chat *c, const node *n, value a, value b, bool *equal)
{
    return equal_at(c, n, a, b, 0, equal);
}

greta_status value_order(chat *c, const node *n, value a, value b, int *order)
{
    if (value_is_number(a) && value_is_number(b)) {
        *order = a.number < b.number ? -1 : a.number > b.number;
        return GRETA_OK;
    }
    if (a.kind != VALUE_STRING || b.kind != VALUE_STRING) {
        return chat_fail(c, n->line, "orders %s and %s", value_kind_name(a), value_kind_name(b));
    }
    size_t common = a.length < b.length ? a.length : b.length;
    *order = memcmp(a.text, b.text, common);
    *order = *order != 0 ? *order : a.length < b.length ? -1 : a.length > b.length;
    return chat_work(c, common / 64);
}

/* ---- Writing out ----------------------------------------------------------------------------- */

/* How a value inside a list is written: Python's repr, or JSON. */
typedef struct writer {
    chat *c;
    const node *n;
    text out;
    bool is_json;
    int64_t indent; /* of JSON; < 0: one line */
} writer;

/* The character at `s`, which the caller's string holds; -1: not UTF-8. */
static int32_t character(const char *s, size_t bytes, size_t *length)
{
    utf8proc_int32_t code = 0;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)bytes, &code);
    *length = n > 0 ? (size_t)n : 1;
    return n > 0 ? code : -1;
}

/* Python's str.isprintable, for one character. */
static bool is_printable(int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);
    bool is_other = category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_ZS;
    return code == ' ' || !is_other;
}

static void write_repr(writer *w, value v)
{
    bool has_single = memchr(v.text, '\'', v.length) != NULL;
    char quote = has_single && memchr(v.text, '"', v.length) == NULL ? '"' : '\'';
    text_append(&w->out, &quote, 1);
    for (size_t at = 0, n = 0; at < v.length; at += n) {
        int32_t code = character(v.text + at, v.length - at, &n);
        if (code == quote || code == '\\') {
            text_format(&w->out, "\\%c", (int)code);
        } else if (code == '\n' || code == '\r' || code == '\t') {
            text_string(&w->out, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
        } else if (code >= 0 && !is_printable(code)) {
            const char *format = code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x";
            char shown[16];
            snprintf(shown, sizeof shown, format, (unsigned)code);
            text_string(&w->out, shown);
        } else {
            text_append(&w->out, v.text + at, n);
        }
    }
    text_append(&w->out, &quote, 1);
}

static void write_json_string(writer *w, value v)
{
    static const char letters[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    text_string(&w->out, "\"");
    for (size_t i = 0; i < v.length; i++) {
        const char *known = v.text[i] == '\0' ? NULL : strchr(letters, v.text[i]);
        if (known != NULL) {
            text_format(&w->out, "\\%c", names[known - letters]);
        } else if ((unsigned char)v.text[i] < 0x20) {
            text_format(&w->out, "\\u%04x", (unsigned)(unsigned char)v.text[i]);
        } else {
            text_append(&w->out, v.text + i, 1);
        }
    }
    text_string(&w->out, "\"");
}

static void write_break(writer *w, unsigned depth)
{
    if (w->is_json && w->indent >= 0) {
        text_string(&w->out, "\n");
        for (int64_t i = 0; i < w->indent * (int64_t)depth; i++) {
            text_string(&w->out, " ");
        }
    }
}

static greta_status write_value(writer *w, value v, unsigned depth);

static greta_status write_items(writer *w, value v, unsigned depth)
{
    bool is_dict = v.kind == VALUE_DICT, is_tuple = v.kind == VALUE_TUPLE && !w->is_json;
    size_t n = is_dict ? v.dict->n : v.list->n;
    bool breaks = w->is_json && w->indent >= 0;
    text_string(&w->out, is_dict ? "{" : is_tuple ? "(" : "[");
    for (size_t i = 0; i < n; i++) {
        text_string(&w->out, i == 0 ? "" : breaks ? "," : ", ");
        write_break(w, depth + 1);
        if (is_dict) {
            GRETA_TRY(write_value(w, v.dict->key[i], depth + 1));
            text_string(&w->out, ": ");
        }
        GRETA_TRY(write_value(w, is_dict ? v.dict->item[i] : v.list->item[i], depth + 1));
    }
    if (n > 0) {
        write_break(w, depth);
    }
    text_string(&w->out, is_dict ? "}" : is_tuple ? (n == 1 ? ",)" : ")") : "]");
    return GRETA_OK;
}

static greta_status write_value(writer *w, value v, unsigned depth)
{
    GRETA_TRY(chat_work(w->c, 1 + v.length / 16));
    if (depth > LIMIT_CHAT_DEPTH || w->out.length > LIMIT_PROMPT_BYTES) {
        return chat_fail(w->c, w->n->line, "writes out a value that is too large");
    }
    switch (v.kind) {
    case VALUE_NONE:
        text_string(&w->out, w->is_json ? "null" : "None");
        return GRETA_OK;
    case VALUE_BOOL:
        text_string(&w->out,
                    w->is_json ? (v.number ? "true" : "false") : (v.number ? "True" : "False"));
        return GRETA_OK;
    case VALUE_INT:
        text_format(&w->out, "%lld", (long long)v.number);
        return GRETA_OK;
    case VALUE_STRING:
        w->is_json ? write_json_string(w, v) : write_repr(w, v);
        return GRETA_OK;
    case VALUE_UNDEFINED:
        if (w->is_json) {
            break;
        }
        text_string(&w->out, "Undefined");
        return GRETA_OK;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        return write_items(w, v, depth);
    default:
        break;
    }
    return chat_fail(w->c, w->n->line, "writes out %s, which is not supported", value_kind_name(v));
}

static greta_status write_out(writer *w, value v, value *string)
{
    greta_status status = write_value(w, v, 0);
    if (status == GRETA_OK && w->out.failed) {
        status = error_memory(w->c->err, "the chat template", w->out.length);
    }
    if (status == GRETA_OK) {
        status = value_copy_string(w->c, w->out.data, w->out.length, string);
    }
    text_free(&w->out);
    return status;
}

greta_status value_text(chat *c, const node *n, value v, value *string)
{
    writer w = {.c = c, .n = n};
    if (v.kind == VALUE_STRING || v.kind == VALUE_UNDEFINED) {
        *string = v.kind == VALUE_STRING ? v : value_string("", 0);
        return GRETA_OK;
    }
    return write_out(&w, v, string);
}

greta_status value_json(chat *c, const node *n, value v, int64_t indent, value *string)
{
    writer w = {.c = c, .n = n, .is_json = true, .indent = indent > 100 ? 100 : indent};
    return write_out(&w, v, string);
}

/* ---- Iterating ------------------------------------------------------------------------------- */

greta_status value_items(chat *c, const node *n, value v, value_list **list)
{
    value made;
    if (value_is_sequence(v)) {
        *list = v.list;
        return GRETA_OK;
    }
    GRETA_TRY(value_list_new(c, VALUE_LIST, &made));
    *list = made.list;
    switch (v.kind) {
    case VALUE_UNDEFINED:
        return GRETA_OK;
    case VALUE_STRING:
        for (size_t at = 0, length = 0; at < v.length; at += length) {
            (void)character(v.text + at, v.length - at, &length);
            GRETA_TRY(value_append(c, *list, value_string(v.text + at, length)));
        }
        return GRETA_OK;
    case VALUE_DICT:
        for (size_t i = 0; i < v.dict->n; i++) {
            GRETA_TRY(value_append(c, *list, v.dict->key[i]));
        }
        return GRETA_OK;
    default:
        return chat_fail(c, n->line, "goes through %s", value_kind_name(v));
    }
}
