/* charsmap.h - SentencePiece's precompiled normalisation: the longest of its rules that starts a
 * text. See charsmap.c. */
#ifndef GRETA_MODEL_CHARSMAP_H
#define GRETA_MODEL_CHARSMAP_H

#include "base/error.h"

#include <stdbool.h>

typedef struct charsmap charsmap;

/* Copies the bytes: u32 size of the trie in bytes, the trie, then the replacements, each ending on
 * a NUL. */
greta_status charsmap_new(const uint8_t *data, size_t bytes, charsmap **out, greta_error *err);
void charsmap_free(charsmap *m); /* NULL is fine */
/* The bytes of `text` that the longest rule replaces (is_shortest: the shortest), and what by,
 * which is valid UTF-8; 0: no rule starts here. */
size_t charsmap_match(const charsmap *m, const char *text, size_t bytes, bool is_shortest,
                      const char **replacement, size_t *replacement_bytes);

#endif
