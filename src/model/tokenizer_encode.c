/* tokenizer_encode.c - bytes to token ids: the way of a text through the parts of a tokenizer.
 *
 * A byte-level vocabulary or a tokenizer.json cuts the text in this order:
 *   1. added tokens: at each place the longest one whose text stands there. Special ones (control
 *      tokens of GGUF) count only with options->special; without it their text is ordinary text,
 *      and no other added token is looked for inside it. (The `tokenizers` library with or without
 *      encode_special_tokens.)
 *   2. stretches of valid UTF-8. A byte that begins no valid sequence (continuation bytes, overlong
 *      forms, surrogates, a sequence that breaks off) is a word of its own and merges with nothing;
 *      the next byte is tried afresh. So any bytes have exactly one encoding.
 *   3. each stretch is normalised, and then searched for the added tokens that are to be found in
 *      normalised text.
 *   4. words of the pre-tokenizer (pretokenize.c), 5. the model within a word (tokenizer_bpe.c,
 *      tokenizer_unigram.c).
 * SentencePiece from GGUF knows no words: tokenizer_sentencepiece.c takes what lies between control
 * tokens as a whole.
 *
 * What has no token is refused by its place, or dropped before merging (as the `tokenizers` library
 * drops it: its neighbours may then join) and counted, or becomes the model's unknown token.
 */
#include "model/tokenizer_internal.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct fragment {
    const char *text;
    size_t bytes;
    bool is_first; /* nothing stands before it */
    bool is_inner; /* bytes that are no UTF-8 do, with no added token between */
} fragment;

/* ---- Output ---------------------------------------------------------------------------------- */

greta_status encoder_emit(encoder *e, int32_t id)
{
    greta_tokens *tokens = e->tokens;
    if (tokens->n == e->capacity) {
        size_t capacity = e->capacity < 64 ? 64 : e->capacity * 2;
        int32_t *grown = realloc(tokens->id, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_memory(e->err, "the token ids", capacity * sizeof *grown);
        }
        tokens->id = grown;
        e->capacity = capacity;
    }
    tokens->id[tokens->n++] = id;
    e->was_unknown = false;
    return GRETA_OK;
}

greta_status encoder_lacks(encoder *e, const char *input, size_t bytes)
{
    if (e->t->model_unknown >= 0) {
        return encoder_emit(e, e->t->model_unknown);
    }
    if (e->options->unknown_bytes_drop) {
        e->tokens->n_dropped += bytes;
        return GRETA_OK;
    }
    bool is_given = input >= e->text && input < e->text + e->bytes; /* else it was normalised */
    char shown[ESCAPED_MAX];
    greta_status status =
        is_given && bytes == 1
            ? error_set(e->err, GRETA_BAD_INPUT, "byte %zu (0x%02x) has no token",
                        (size_t)(input - e->text), (unsigned char)*input)
            : error_set(e->err, GRETA_BAD_INPUT, "the character \"%s\" has no token",
                        escape(input, bytes, shown));
    error_hint(e->err, "--unknown-bytes drop leaves such bytes out");
    return status;
}

size_t utf8_length(const char *input, size_t bytes)
{
    utf8proc_int32_t code = 0;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)input, (utf8proc_ssize_t)bytes, &code);
    return n > 0 ? (size_t)n : 0;
}

/* ---- Words ----------------------------------------------------------------------------------- */

static greta_status encode_word(encoder *e, const char *word, size_t bytes)
{
    const tokenizer *t = e->t;
    if (t->kind == TOKENIZER_UNIGRAM) {
        return encode_unigram(e, word, bytes);
    }
    if (t->ignore_merges) {
        int32_t whole = tokenizer_find(t, word, bytes);
        if (whole >= 0 && (t->ignores_always || t->token[whole].type == TOKEN_NORMAL)) {
            return encoder_emit(e, whole);
        }
    }
    return encode_bpe(e, word, bytes);
}

/* A byte that begins no valid sequence. */
static greta_status encode_invalid(encoder *e, const char *byte)
{
    int32_t id = e->t->byte_id[(unsigned char)*byte];
    return id >= 0 ? encoder_emit(e, id) : encoder_lacks(e, byte, 1);
}

static greta_status encode_words(encoder *e, fragment f)
{
    if (e->t->pre == NULL) {
        return f.bytes == 0 ? GRETA_OK : encode_word(e, f.text, f.bytes);
    }
    pretokenize_begin(e->scan, f.text, f.bytes, f.is_first, f.is_inner);
    for (;;) {
        const char *word = NULL;
        size_t length = 0;
        GRETA_TRY(pretokenize_next(e->scan, &word, &length, e->err));
        if (length == 0) {
            return GRETA_OK;
        }
        GRETA_TRY(encode_word(e, word, length));
    }
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

/* Unicode's White_Space, and what \w of the library's patterns takes. */
static bool is_space_code(int32_t code)
{
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static bool is_word_code(int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);
    bool is_letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME;
    return is_letter || category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_PC || code == 0x200c || code == 0x200d ||
           (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
}

/* The character at `at`, and how many bytes it has; 0: none. */
static size_t code_at(fragment f, size_t at, int32_t *code)
{
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)f.text + at,
                                          (utf8proc_ssize_t)(f.bytes - at), code);
    return at < f.bytes && n > 0 ? (size_t)n : 0;
}

/* The character that ends at `at`. */
static size_t code_before(fragment f, size_t at, int32_t *code)
{
    for (size_t n = 1; n <= 4 && n <= at; n++) {
        if (((unsigned char)f.text[at - n] & 0xc0) != 0x80) {
            return utf8_length(f.text + at - n, n) == n ? code_at(f, at - n, code) : 0;
        }
    }
    return 0;
}

/* Whether the key, found at [*start, *stop), counts there; takes the white space that it takes. */
static bool key_counts(fragment f, const lookup_key *key, size_t done, size_t *start, size_t *stop)
{
    int32_t code = 0;
    size_t n = 0;
    if (key->flags & KEY_SINGLE_WORD) {
        bool is_inside = (code_before(f, *start, &code) > 0 && is_word_code(code)) ||
                         (code_at(f, *stop, &code) > 0 && is_word_code(code));
        if (is_inside) {
            return false;
        }
    }
    while ((key->flags & KEY_LSTRIP) && *start > done && (n = code_before(f, *start, &code)) > 0 &&
           is_space_code(code)) {
        *start -= n;
    }
    while ((key->flags & KEY_RSTRIP) && (n = code_at(f, *stop, &code)) > 0 && is_space_code(code)) {
        *stop += n;
    }
    return true;
}

typedef greta_status fragment_encode(encoder *e, fragment f);

/* Cuts at the added tokens of a list; `next` takes what lies between. */
static greta_status encode_added(encoder *e, const lookup *added, fragment f, fragment_encode *next)
{
    size_t done = 0; /* everything before is encoded */
    for (size_t at = 0; at < f.bytes && added->n > 0;) {
        const lookup_key *key = lookup_longest(added, f.text + at, f.bytes - at);
        if (key == NULL) {
            at++;
            continue;
        }
        size_t start = at, stop = at + key->length;
        at = stop;
        bool is_hidden = (key->flags & KEY_SPECIAL) && !e->options->special;
        if (is_hidden || !key_counts(f, key, done, &start, &stop)) {
            continue;
        }
        if (done < start) {
            GRETA_TRY(next(e, (fragment){f.text + done, start - done, f.is_first && done == 0,
                                         f.is_inner && done == 0}));
        }
        GRETA_TRY(encoder_emit(e, key->id));
        done = stop;
    }
    return done >= f.bytes ? GRETA_OK
                           : next(e, (fragment){f.text + done, f.bytes - done,
                                                f.is_first && done == 0, f.is_inner && done == 0});
}

static greta_status encode_stretch(encoder *e, fragment f)
{
    if (e->t->norm != NULL) {
        GRETA_TRY(normalize(e->t->norm, &e->norm, f.text, f.bytes, f.is_inner, &f.text, &f.bytes,
                            e->err));
    }
    return encode_added(e, &e->t->added[1], f, encode_words);
}

static greta_status encode_stretches(encoder *e, fragment f)
{
    for (size_t at = 0; at < f.bytes;) {
        size_t valid = 0, n = 0;
        while (at + valid < f.bytes &&
               (n = utf8_length(f.text + at + valid, f.bytes - at - valid)) > 0) {
            valid += n;
        }
        if (valid > 0) {
            GRETA_TRY(encode_stretch(
                e, (fragment){f.text + at, valid, f.is_first && at == 0, f.is_inner || at > 0}));
        }
        at += valid;
        if (at < f.bytes) {
            GRETA_TRY(encode_invalid(e, f.text + at));
            at++;
        }
    }
    return GRETA_OK;
}

/* A space goes in front at the start and behind a control token. */
static greta_status encode_pieces(encoder *e, fragment f)
{
    return encode_sentencepiece(e, f.text, f.bytes, true);
}

/* ---- Entry ----------------------------------------------------------------------------------- */

static greta_status encode_all(encoder *e)
{
    const tokenizer *t = e->t;
    fragment all = {e->text, e->bytes, true, false};
    bool is_piece =
        t->kind == TOKENIZER_SENTENCEPIECE_BPE || t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM;
    if (t->pre != NULL) {
        GRETA_TRY(pretokenize_scan_new(t->pre, &e->scan, e->err));
    }
    for (int i = 0; i < t->n_begin && !e->options->no_bos; i++) {
        GRETA_TRY(encoder_emit(e, t->begin[i]));
    }
    GRETA_TRY(encode_added(e, &t->added[0], all, is_piece ? encode_pieces : encode_stretches));
    for (int i = 0; i < t->n_end && !e->options->no_bos; i++) {
        GRETA_TRY(encoder_emit(e, t->end[i]));
    }
    return GRETA_OK;
}

void encoder_free(encoder *e)
{
    pretokenize_scan_free(e->scan);
    normalize_scratch_free(&e->norm);
    text_free(&e->pieces);
    free(e->word.heap);
    free(e->node);
    free(e->split);
}

greta_status tokenizer_encode(const tokenizer *t, const char *input, size_t bytes,
                              const greta_tokenize_options *options, greta_tokens *tokens,
                              greta_error *err)
{
    static const greta_tokenize_options defaults = {.size = sizeof defaults};
    *tokens = (greta_tokens){0};
    if (bytes > LIMIT_PROMPT_BYTES) {
        return error_set(err, GRETA_BAD_INPUT, "the text has %zu bytes (at most %u)", bytes,
                         LIMIT_PROMPT_BYTES);
    }
    encoder e = {.t = t,
                 .options = options == NULL ? &defaults : options,
                 .text = bytes == 0 ? "" : input,
                 .bytes = bytes,
                 .tokens = tokens,
                 .err = err};
    greta_status status = encode_all(&e);
    encoder_free(&e);
    if (status != GRETA_OK) {
        free(tokens->id);
        *tokens = (greta_tokens){0};
    }
    return status;
}
