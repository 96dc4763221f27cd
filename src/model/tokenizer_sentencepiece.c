/* tokenizer_sentencepiece.c - a text as SentencePiece prepares it, for models from GGUF.
 *
 * From left to right: a user-defined piece is left as it is; else the longest rule of the charsmap
 * replaces what it fits; else a character stays. Then every space becomes U+2581. With
 * remove_extra_spaces a row of spaces is one, and none stands at the start or the end; with
 * add_space_prefix one is put in front of what is not empty. What U+2581 was in the text cannot be
 * told from a space afterwards. (https://github.com/google/sentencepiece, src/normalizer.cc.)
 *
 * One difference, on purpose: SentencePiece reads a byte that is no UTF-8 as U+FFFD. Here it stays,
 * and becomes its byte token, so that what was encoded can be decoded.
 */
#include "model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* What the text begins with, prepared; returns the bytes taken. */
static size_t prefix_read(const tokenizer *t, const char *input, size_t bytes, const char **made,
                          size_t *made_bytes)
{
    const lookup_key *user = lookup_longest(&t->added[1], input, bytes);
    size_t taken = user == NULL ? 0 : user->length;
    if (taken == 0 && t->map != NULL) {
        taken = charsmap_match(t->map, input, bytes, false, made, made_bytes);
        if (taken > 0) {
            return taken;
        }
    }
    if (taken == 0) {
        taken = utf8_length(input, bytes);
    }
    taken = taken == 0 ? 1 : taken;
    *made = input;
    *made_bytes = taken;
    return taken;
}

static bool ends_with(const text *t, const char *end, size_t bytes)
{
    return t->length >= bytes && memcmp(t->data + t->length - bytes, end, bytes) == 0;
}

static void prepare(const tokenizer *t, const char *input, size_t bytes, bool is_start, text *out)
{
    bool removes = t->remove_extra_spaces, was_space = removes, is_empty = true;
    out->length = 0;
    for (size_t at = 0; at < bytes;) {
        const char *made = NULL;
        size_t n = 0;
        at += prefix_read(t, input + at, bytes - at, &made, &n);
        while (was_space && n > 0 && *made == ' ') {
            made++;
            n--;
        }
        if (is_empty && (n > 0 || !removes)) {
            if (t->add_space_prefix && is_start) {
                text_append(out, SPACE_MARK, SPACE_MARK_BYTES);
            }
            is_empty = false;
        }
        for (size_t i = 0; i < n; i++) {
            bool is_space = made[i] == ' ';
            text_append(out, is_space ? SPACE_MARK : made + i, is_space ? SPACE_MARK_BYTES : 1);
        }
        was_space = removes && (n > 0 ? made[n - 1] == ' ' : was_space);
    }
    while (removes && ends_with(out, SPACE_MARK, SPACE_MARK_BYTES)) {
        out->length -= SPACE_MARK_BYTES;
    }
}

greta_status encode_unknown(encoder *e, const char *unknown, size_t bytes)
{
    const tokenizer *t = e->t;
    for (size_t i = 0; t->byte_fallback && i < bytes; i++) {
        GRETA_TRY(encoder_emit(e, t->byte_id[(unsigned char)unknown[i]]));
    }
    if (t->byte_fallback || e->was_unknown) {
        return GRETA_OK;
    }
    GRETA_TRY(encoder_lacks(e, unknown, bytes));
    e->was_unknown = t->model_unknown >= 0;
    return GRETA_OK;
}

greta_status encode_sentencepiece(encoder *e, const char *input, size_t bytes, bool is_start)
{
    const tokenizer *t = e->t;
    prepare(t, input, bytes, is_start, &e->pieces);
    if (e->pieces.failed) {
        return error_memory(e->err, "the normalised text", bytes);
    }
    const char *made = e->pieces.length == 0 ? "" : e->pieces.data;
    size_t n = e->pieces.length;
    if (n > INT32_MAX / 2) {
        return error_set(e->err, GRETA_BAD_INPUT, "the normalised text has %zu bytes", n);
    }
    e->was_unknown = false;
    if (t->kind == TOKENIZER_SENTENCEPIECE_BPE) {
        if (t->has_unused && e->split == NULL) {
            e->split = calloc((size_t)t->n_vocab, sizeof *e->split);
            if (e->split == NULL) {
                return error_memory(e->err, "unused pieces", (uint64_t)t->n_vocab * 4);
            }
        }
        return encode_by_score(e, made, n);
    }
    for (size_t at = 0; at < n;) {
        size_t valid = 0, length = 0;
        while (at + valid < n && (length = utf8_length(made + at + valid, n - at - valid)) > 0) {
            valid += length;
        }
        GRETA_TRY(encode_unigram(e, made + at, valid));
        at += valid;
        if (at < n) {
            GRETA_TRY(encode_unknown(e, made + at, 1));
            at++;
        }
    }
    return GRETA_OK;
}
