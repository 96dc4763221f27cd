/* tokenizer_decode.c - token ids to text.
 *
 * The text is the bytes of the tokens, one after another: tokens can be shown as they come, and
 * what is cut within a character completes itself. Only the start of a text is special: the space
 * that encoding puts in front of it goes again, by the rule of the model (decode_start).
 */
#include "model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static bool is_shown(const tokenizer *t, int32_t id, const greta_detokenize_options *options)
{
    return !(options->skip_control && t->token[id].type == TOKEN_CONTROL);
}

/* How many of the first bytes of a token go, when `has_text` says what stands before it. */
static size_t start_skip(const tokenizer *t, const token *entry, bool is_first, bool *is_done)
{
    size_t n = 0;
    bool is_piece = entry->type != TOKEN_CONTROL && entry->type != TOKEN_BYTE;
    switch (t->start) {
    case DECODE_FIRST_SPACE:
    case DECODE_ALL_SPACES:
        if (!is_piece && entry->type == TOKEN_CONTROL) {
            return 0; /* SentencePiece shows no control tokens: the text has not begun. */
        }
        n = is_piece && entry->length > 0 && entry->bytes[0] == ' ';
        *is_done = t->start == DECODE_FIRST_SPACE || n < entry->length;
        return n;
    case DECODE_STRIP:
        while (n < entry->length && n < t->n_strip && entry->bytes[n] == ' ') {
            n++;
        }
        *is_done = true;
        return n;
    default:
        *is_done = is_first;
        return 0;
    }
}

/* Appends a token without any space: the first one of a Metaspace decoder. */
static size_t without_spaces(const token *entry, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < entry->length; i++) {
        out[n] = entry->bytes[i];
        n += entry->bytes[i] != ' ';
    }
    return n;
}

greta_status tokenizer_decode(const tokenizer *t, const int32_t *id, size_t n,
                              const greta_detokenize_options *options, char **input, size_t *bytes,
                              greta_error *err)
{
    size_t total = 0, at = 0;
    bool is_done = options->is_continuation != 0, is_first = !is_done;
    for (size_t i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= t->n_vocab) {
            return error_set(err, GRETA_USAGE, "token %d is outside the vocabulary of %d", id[i],
                             t->n_vocab);
        }
        total += t->token[id[i]].length;
    }
    char *out = malloc(total + 1);
    if (out == NULL) {
        return error_memory(err, "the text", total + 1);
    }
    for (size_t i = 0; i < n; i++) {
        const token *entry = &t->token[id[i]];
        if (!is_shown(t, id[i], options)) {
            continue;
        }
        if (is_first && t->start == DECODE_FIRST_TOKEN) {
            at += without_spaces(entry, out + at);
        } else {
            size_t skip = is_done ? 0 : start_skip(t, entry, is_first, &is_done);
            memcpy(out + at, entry->bytes == NULL ? "" : entry->bytes + skip, entry->length - skip);
            at += entry->length - skip;
        }
        is_first = false;
    }
    out[at] = '\0';
    *input = out;
    *bytes = at;
    return GRETA_OK;
}
