/* chat_parse.h - what the two halves of the parser share: reading lexemes, making nodes. */
#ifndef GRETA_MODEL_CHAT_PARSE_H
#define GRETA_MODEL_CHAT_PARSE_H

#include "model/chat_internal.h"

const lexeme *parse_here(const chat *c);
bool parse_is_operator(const chat *c, const char *word);
bool parse_is_name(const chat *c, const char *word);
bool parse_take_operator(chat *c, const char *word); /* whether it stood here; then it is read */
bool parse_take_name(chat *c, const char *word);
greta_status parse_unexpected(chat *c, const char *where);
greta_status parse_expect(chat *c, const char *word, const char *where); /* an operator */
void parse_text(node *n, const lexeme *l);

greta_status parse_new(chat *c, node_kind kind, node **n);
greta_status parse_two(chat *c, node_kind kind, node *a, node *b, node **n);
/* The children are set: counts how deep the evaluation goes. */
greta_status parse_finish(chat *c, node *n);
/* One bracket or block deeper; the caller takes it back from c->depth. */
greta_status parse_enter(chat *c);

greta_status parse_name(chat *c, node **n);
greta_status parse_filters(chat *c, node **n);           /* what follows *n behind | and is */
greta_status parse_logic(chat *c, bool is_or, node **n); /* without `if` */
greta_status parse_expression(chat *c, node **n);

#endif
