/* chat_internal.h - the parts of the chat template reader: lexemes, values, state. See chat.c. */
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
    LEXEME_TAG,       /* {%; `jump` is set for if, elif, else and for */
    LEXEME_TAG_END,   /* %} */
    LEXEME_NAME,
    LEXEME_STRING,    /* its value: quotes gone, escapes resolved */
    LEXEME_NUMBER,
    LEXEME_OPERATOR,
    LEXEME_END        /* of the template; always the last */
} lexeme_kind;

typedef struct lexeme {
    lexeme_kind kind;
    uint32_t jump;    /* of a tag: the lexeme of the next clause or the end of the same block */
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

/* ---- Values and state (chat_expression.c, chat.c) -------------------------------------------- */

typedef enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,     /* number */
    VALUE_INT,      /* number */
    VALUE_STRING,   /* text, length */
    VALUE_MESSAGES, /* messages [number, number + length) */
    VALUE_MESSAGE,  /* message number */
    VALUE_LOOP,     /* of block number */
    VALUE_REFUSED   /* text says what we cannot do, number is the lexeme that names it or -1; text
                       NULL: the template raises an exception. An error only where it is needed. */
} value_kind;

typedef struct value {
    value_kind kind;
    int64_t number;
    const char *text;
    size_t length;
} value;

typedef struct variable {
    const lexeme *name; /* NULL: `loop` */
    value value;
} variable;

typedef struct chat_loop {
    const lexeme *target;
    size_t body;        /* first lexeme of the body */
    int64_t first;      /* message */
    size_t n, i;
    size_t n_variable;  /* when the loop began: its own scope starts there */
} chat_loop;

typedef struct chat {
    lexemes template;
    size_t at;          /* lexeme */
    const tokenizer *tok;
    const greta_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    chat_loop loop[LIMIT_CHAT_DEPTH];
    size_t n_loop;
    variable variable[LIMIT_CHAT_VARIABLES];
    size_t n_variable;
    text out;
    struct chat_string *strings; /* every string made on the way */
    size_t string_bytes;
    greta_status failure;        /* of making a string; not of the template */
    greta_error *err;
} chat;

/* The refusal of a template: `what` it uses that we do not render, and its name or NULL. */
greta_status chat_refuse(chat *c, const char *what, const lexeme *name);
greta_status chat_refuse_value(chat *c, value v);

/* Values (chat_value.c). Strings made here live until chat_strings_free. */
value chat_refused(const char *what); /* static; without a name */
value chat_bool(bool holds);
value chat_int(uint64_t number);
value chat_string_of(const char *bytes, size_t length);
value chat_join(chat *c, value left, value right); /* of two strings */
value chat_to_string(chat *c, value v);            /* str(v) */
value chat_trim(value v);                          /* v.strip() */
bool value_is(value v, const char *word);          /* of a string */
bool value_is_true(value v); /* as Python has it; ask for VALUE_REFUSED first */
void chat_strings_free(chat *c);

/* An operator that waits for its right side. */
typedef enum operator_kind {
    EXPR_END,   /* no operator */
    EXPR_PAREN,
    EXPR_IF,    /* left `if` right: the condition is being read */
    EXPR_ELSE,  /* left `if` condition `else` right */
    EXPR_OR,
    EXPR_AND,
    EXPR_NOT,
    EXPR_EQUAL, /* from here to EXPR_NOT_IN: comparisons */
    EXPR_UNEQUAL,
    EXPR_LESS,
    EXPR_GREATER,
    EXPR_LESS_EQUAL,
    EXPR_GREATER_EQUAL,
    EXPR_IN,
    EXPR_NOT_IN,
    EXPR_ADD,   /* from here: arithmetic */
    EXPR_SUBTRACT,
    EXPR_CONCAT,
    EXPR_MODULO,
} operator_kind;

typedef struct chat_operation {
    operator_kind op;
    value left, condition;
} chat_operation;

value chat_apply(chat *c, const chat_operation *o, value right);

/* Evaluates the expression at c->at and stops behind it (chat_expression.c). With `is_iterable` an
 * `if` ends it. */
greta_status chat_evaluate(chat *c, bool is_iterable, value *v);

#endif
