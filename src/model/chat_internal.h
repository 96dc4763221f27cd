/* chat_internal.h - the parts of the chat template interpreter: lexemes, tree, values, state. See
 * chat.c. */
#ifndef GRETA_MODEL_CHAT_INTERNAL_H
#define GRETA_MODEL_CHAT_INTERNAL_H

#include "base/limits.h"
#include "base/text.h"
#include "model/tokenizer_internal.h"

/* ---- Lexemes (chat_lexer.c) ------------------------------------------------------------------ */

typedef enum lexeme_kind {
    LEXEME_DATA,      /* text outside tags, whitespace control applied */
    LEXEME_PRINT,     /* {{ */
    LEXEME_PRINT_END, /* }} */
    LEXEME_TAG,       /* {% */
    LEXEME_TAG_END,   /* %} */
    LEXEME_NAME,
    LEXEME_STRING,    /* its value: quotes gone, escapes resolved */
    LEXEME_NUMBER,
    LEXEME_OPERATOR,
    LEXEME_END        /* of the template; always the last */
} lexeme_kind;

typedef struct lexeme {
    lexeme_kind kind;
    uint32_t line;    /* from 1 */
    const char *text; /* into lexemes.source */
    size_t length;
} lexeme;

typedef struct lexemes {
    lexeme *item;
    size_t n, capacity;
    char *source;     /* our copy of the template; strings are resolved in place */
} lexemes;

greta_status chat_lex(const char *source, size_t bytes, lexemes *list, greta_error *err);
void lexemes_free(lexemes *list);
bool lexeme_is(const lexeme *l, lexeme_kind kind, const char *word);

/* Python's str.isspace: the bytes of the white space character that starts here; 0: none does. */
size_t chat_space(const char *s, size_t bytes);
/* str.rstrip: the length without trailing white space. */
size_t chat_trim_end(const char *s, size_t bytes);

/* ---- Tree (chat_parse.c) --------------------------------------------------------------------- */

typedef enum node_kind {
    NODE_CONSTANT, /* value */
    NODE_NAME,     /* text */
    NODE_LIST,     /* a: first item; items are linked by next */
    NODE_TUPLE,
    NODE_DICT,     /* a: first key, its `b` the value's node */
    NODE_PAIR,     /* of a dict: a key, b value */
    NODE_ATTRIBUTE, /* a.text */
    NODE_ITEM,     /* a[b] */
    NODE_SLICE,    /* a[b:c:d] */
    NODE_CALL,     /* a(b ...) */
    NODE_ARGUMENT, /* text = a; text NULL: by place */
    NODE_FILTER,   /* a | text(b ...) */
    NODE_TEST,     /* a is text(b ...); is_not */
    NODE_NOT,
    NODE_NEGATE,
    NODE_POSITIVE,
    NODE_AND,      /* a and b */
    NODE_OR,
    NODE_IF_ELSE,  /* a if b else c */
    NODE_COMPARE,  /* a, then b: a list of NODE_OPERAND */
    NODE_OPERAND,  /* op text, a */
    NODE_CONCAT,   /* a: list of what ~ joins */
    NODE_ADD,
    NODE_SUBTRACT,
    NODE_MULTIPLY,
    NODE_DIVIDE,
    NODE_FLOOR_DIVIDE,
    NODE_MODULO,
    NODE_POWER,
    /* Statements; a body is a list linked by next. */
    NODE_DATA,     /* text */
    NODE_PRINT,    /* a */
    NODE_IF,       /* a: condition, b: body, c: else body */
    NODE_FOR,      /* a: target, b: iterable, c: body, d: else body, e: condition */
    NODE_SET,      /* a: target, b: expression */
    NODE_SET_BLOCK, /* a: target, b: filters around NODE_INPUT, c: body */
    NODE_INPUT,    /* what a set block has captured */
    NODE_MACRO,    /* text: name, a: parameters (NODE_ARGUMENT, a: default), b: body */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_SCOPE,    /* a: body */
    NODE_UNKNOWN,  /* text: the statement that is not supported */
} node_kind;

typedef struct node node;
struct node {
    node_kind kind;
    bool is_not;
    uint16_t depth;   /* of the expression below */
    uint32_t line;
    const char *text; /* NULL: none */
    size_t length;
    node *a, *b, *c, *d, *e, *next;
    struct value *value;
};

/* ---- Values (chat_value.c) ------------------------------------------------------------------- */

typedef enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,      /* number */
    VALUE_INT,       /* number */
    VALUE_STRING,    /* text, length */
    VALUE_LIST,      /* list */
    VALUE_TUPLE,
    VALUE_VIEW,      /* list: has a length and is iterated, but not shown: range, items() */
    VALUE_ITERATOR,  /* list: what may only be iterated */
    VALUE_DICT,      /* dict */
    VALUE_NAMESPACE, /* dict */
    VALUE_LOOP,      /* loop */
    VALUE_MACRO,     /* node */
    VALUE_FUNCTION,  /* text: a name of the context */
    VALUE_METHOD,    /* text: its name; self */
} value_kind;

typedef struct value {
    value_kind kind;
    int64_t number;
    const char *text; /* of VALUE_UNDEFINED: what is undefined */
    size_t length;
    union {
        struct value_list *list;
        struct value_dict *dict;
        struct chat_loop *loop;
        const node *macro;
        const struct value *self;
    };
} value;

typedef struct value_list {
    value *item;
    size_t n, capacity;
} value_list;

/* In order of insertion. */
typedef struct value_dict {
    value *key, *item;
    size_t n, capacity;
} value_dict;

typedef struct chat_loop {
    const value_list *list;
    size_t i;
    int64_t depth; /* from 1 */
} chat_loop;

/* What a call, filter or test was given. */
#define ARGUMENTS_MAX 16
typedef struct arguments {
    value item[ARGUMENTS_MAX];
    const char *name[ARGUMENTS_MAX]; /* NULL: by place; those come first */
    size_t name_length[ARGUMENTS_MAX];
    size_t n;
} arguments;

/* ---- State ----------------------------------------------------------------------------------- */

typedef struct variable {
    const char *name;
    size_t length;
    value value;
} variable;

typedef enum chat_flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } chat_flow;

typedef struct chat {
    const tokenizer *tok;
    const greta_chat_options *options;
    lexemes template;
    size_t at;               /* lexeme, while parsing */
    size_t depth;            /* blocks or brackets, while parsing */
    value messages;
    variable variable[LIMIT_CHAT_VARIABLES];
    size_t n_variable;
    size_t n_global;         /* of them: those of the template itself */
    size_t base;             /* first variable of the macro that runs; 0: none does */
    size_t scope;            /* first variable of the innermost scope */
    size_t n_call;           /* macros that run */
    struct chat_loop *loop;  /* the innermost, for its depth */
    bool is_in_scope;        /* in a loop, block or macro: sets are not global */
    chat_flow flow;
    value input;             /* of NODE_INPUT */
    text *out;
    struct chat_block *blocks; /* everything allocated on the way */
    size_t bytes;
    uint64_t steps;
    greta_error *err;
} chat;

/* Memory that lives as long as the rendering; NULL: refused, and the error is set. */
void *chat_alloc(chat *c, size_t bytes);
void chat_free_all(chat *c);
/* Counts work; GRETA_BAD_INPUT when it is too much. */
greta_status chat_work(chat *c, size_t n);

/* The template does what jinja2 refuses, or what we do; `line` from 1. */
greta_status chat_fail(chat *c, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for something that has a name. */
greta_status chat_unsupported(chat *c, const node *n, const char *what, const char *name,
                              size_t length);

greta_status chat_parse(chat *c, node **body);
greta_status chat_evaluate(chat *c, const node *n, value *v);
greta_status chat_run(chat *c, const node *body);
/* Calls a macro. */
greta_status chat_call_macro(chat *c, const node *n, const node *macro, const arguments *a,
                             value *v);

/* Values. */
value value_of(value_kind kind);
value value_bool(bool holds);
value value_int(int64_t number);
value value_string(const char *bytes, size_t length);
bool value_is(value v, const char *word); /* a string of this text */
bool value_is_true(value v);
bool value_is_number(value v);
bool value_is_sequence(value v); /* has a list */
const char *value_kind_name(value v);
greta_status value_list_new(chat *c, value_kind kind, value *v);
greta_status value_append(chat *c, value_list *list, value item);
greta_status value_dict_new(chat *c, value_kind kind, value *v);
greta_status value_dict_set(chat *c, value_dict *dict, value key, value item);
const value *value_dict_get(const value_dict *dict, const char *key, size_t length);
greta_status value_equal(chat *c, const node *n, value a, value b, bool *equal);
/* a < b: negative, ... of numbers and strings. */
greta_status value_order(chat *c, const node *n, value a, value b, int *order);
greta_status value_copy_string(chat *c, const char *bytes, size_t length, value *v);
/* str(v) */
greta_status value_text(chat *c, const node *n, value v, value *string);
/* json.dumps(v), indent < 0: on one line. */
greta_status value_json(chat *c, const node *n, value v, int64_t indent, value *string);
/* list(v): the items of anything that can be iterated. */
greta_status value_items(chat *c, const node *n, value v, value_list **list);
/* Characters of a string, and where one begins. */
size_t value_characters(value string);
size_t value_character_at(value string, size_t i);

/* Filters, tests, methods and functions (chat_filter.c, chat_method.c). */
greta_status chat_filter(chat *c, const node *n, value v, value name, const arguments *a,
                         value *result);
greta_status chat_test(chat *c, const node *n, value v, value name, const arguments *a,
                       bool *holds);
greta_status chat_attribute(chat *c, const node *n, value v, value name, value *result);
greta_status chat_call(chat *c, const node *n, value callee, const arguments *a, value *result);
greta_status chat_name(chat *c, const node *n, value *v);
/* Argument `i` or the one called `name`; NULL: not given. */
const value *argument(const arguments *a, size_t i, const char *name);
value chat_trim(value v, const char *characters, size_t length, bool left, bool right);

#endif
