/* tokenizer_hf.c - reading a vocabulary out of a Hugging Face tokenizer.json, and checking it.
 *
 * The file is what the `tokenizers` library writes; the meaning of each part is the library's. The
 * parts around the model are read in tokenizer_hf_steps.c. Models: BPE, over bytes (with ByteLevel)
 * or over characters with byte fallback, and Unigram. Truncation and padding, which a file may ask
 * for, are a matter of batches and not read.
 *
 * tokenizer_config.json names the special tokens and may hold the chat template. Its add_bos_token
 * and add_eos_token are obeyed for the tokenizer classes of transformers that build their
 * post-processor from them (Llama, Gemma and their kin); for all others the post_processor of
 * tokenizer.json decides.
 *
 * Hostile files: jansson refuses duplicate keys and bounds the depth; ids, sizes and references are
 * checked here. An id that no token has (checkpoints pad their embedding) has no text.
 */
#include "model/tokenizer_hf.h"

#include "base/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The text of a token in the file, before it has a place. */
typedef struct named {
    const char *text; /* NULL: no token has this id */
    size_t bytes;
    bool is_added, is_special;
} named;

typedef struct reader {
    hf h;
    json_t *vocab; /* of the model */
    named *token;  /* (n) */
    uint64_t n;
    uint64_t n_merge;
} reader;

static greta_status refuse(reader *r, const char *what)
{
    return error_set(r->h.err, GRETA_BAD_INPUT, "%s", what);
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* An id of the file; false: not one. */
static bool id_of(const json_t *value, uint64_t *id)
{
    json_int_t number = json_integer_value(value);
    *id = (uint64_t)number;
    return json_is_integer(value) && number >= 0 && number < LIMIT_VOCAB;
}

static greta_status name_put(reader *r, uint64_t id, const char *given, size_t bytes)
{
    char shown[ESCAPED_MAX];
    if (bytes > LIMIT_TOKEN_BYTES) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "token %llu has %zu bytes (at most %u)",
                         (unsigned long long)id, bytes, LIMIT_TOKEN_BYTES);
    }
    if (r->token[id].text != NULL) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "two tokens have id %llu; one is \"%s\"",
                         (unsigned long long)id, escape(given, bytes, shown));
    }
    r->token[id].text = given;
    r->token[id].bytes = bytes;
    r->n = id >= r->n ? id + 1 : r->n;
    return GRETA_OK;
}

static greta_status vocab_read_bpe(reader *r)
{
    const char *name;
    json_t *value;
    uint64_t id = 0;
    json_object_foreach(r->vocab, name, value)
    {
        if (!id_of(value, &id)) {
            char shown[ESCAPED_MAX];
            return error_set(r->h.err, GRETA_BAD_INPUT, "token \"%s\" has no id from 0 to %d",
                             escape(name, strlen(name), shown), LIMIT_VOCAB - 1);
        }
        GRETA_TRY(name_put(r, id, name, strlen(name)));
    }
    return GRETA_OK;
}

static greta_status vocab_read_unigram(reader *r)
{
    if (json_array_size(r->vocab) > LIMIT_VOCAB) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "the vocabulary has %zu entries (at most %d)",
                         json_array_size(r->vocab), LIMIT_VOCAB);
    }
    for (size_t i = 0; i < json_array_size(r->vocab); i++) {
        const json_t *entry = json_array_get(r->vocab, i), *name = json_array_get(entry, 0);
        if (!json_is_string(name) || !json_is_number(json_array_get(entry, 1))) {
            return error_set(r->h.err, GRETA_BAD_INPUT, "token %zu is not a text and a score", i);
        }
        GRETA_TRY(name_put(r, i, json_string_value(name), json_string_length(name)));
    }
    return GRETA_OK;
}

/* The id that the model gives a text; -1: none. */
static int64_t model_id(const reader *r, const char *given, size_t bytes)
{
    uint64_t id = 0;
    if (r->h.t->kind == TOKENIZER_BPE) {
        return id_of(json_object_getn(r->vocab, given, bytes), &id) ? (int64_t)id : -1;
    }
    return -1;
}

static greta_status added_name(reader *r, size_t i, const json_t *entry)
{
    size_t bytes = 0;
    uint64_t id = 0;
    const char *content = hf_text(entry, "content", &bytes);
    if (content == NULL || bytes == 0 || bytes > LIMIT_ADDED_TOKEN_BYTES ||
        !id_of(json_object_get(entry, "id"), &id)) {
        return error_set(r->h.err, GRETA_BAD_INPUT,
                         "added token %zu has no id, or no content of 1 to %u bytes", i,
                         LIMIT_ADDED_TOKEN_BYTES);
    }
    int64_t known = model_id(r, content, bytes);
    const named *at = &r->token[id];
    bool is_same = at->text != NULL && at->bytes == bytes && memcmp(at->text, content, bytes) == 0;
    if ((known >= 0 && (uint64_t)known != id) || (at->text != NULL && !is_same)) {
        char shown[ESCAPED_MAX];
        return error_set(r->h.err, GRETA_BAD_INPUT,
                         "added token \"%s\" has id %llu, the vocabulary says otherwise",
                         escape(content, bytes, shown), (unsigned long long)id);
    }
    if (at->is_added) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "two added tokens have id %llu",
                         (unsigned long long)id);
    }
    if (!is_same) {
        GRETA_TRY(name_put(r, id, content, bytes));
    }
    r->token[id].is_added = true;
    return hf_bool(&r->h, entry, "special", false, &r->token[id].is_special);
}

static greta_status names_read(reader *r)
{
    const json_t *added = json_object_get(r->h.root, "added_tokens");
    r->token = calloc(LIMIT_VOCAB, sizeof *r->token);
    if (r->token == NULL) {
        return error_memory(r->h.err, "the vocabulary", LIMIT_VOCAB * sizeof *r->token);
    }
    bool is_bpe = r->h.t->kind == TOKENIZER_BPE;
    if (is_bpe ? !json_is_object(r->vocab) : !json_is_array(r->vocab)) {
        return refuse(r, is_bpe ? "model.vocab is not an object" : "model.vocab is not an array");
    }
    GRETA_TRY(is_bpe ? vocab_read_bpe(r) : vocab_read_unigram(r));
    for (size_t i = 0; i < json_array_size(added); i++) {
        GRETA_TRY(added_name(r, i, json_array_get(added, i)));
    }
    return r->n > 0 ? GRETA_OK : refuse(r, "the vocabulary is empty");
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* What a token of this text stands for, as the decoder has it; at most as long. */
static size_t token_decode(const reader *r, const named *n, char *out)
{
    size_t length = 0;
    int value = r->h.decodes_bytes ? byte_token_value(n->text, n->bytes) : -1;
    if (value >= 0) {
        *out = (char)value;
        return 1;
    }
    if (r->h.decodes_byte_level && !n->is_added &&
        alphabet_decode(n->text, n->bytes, out, &length)) {
        return length;
    }
    if (r->h.decodes_marks) {
        return space_mark_decode(n->text, n->bytes, out);
    }
    memcpy(out, n->text, n->bytes);
    return n->bytes;
}

static bool is_model_token(const reader *r, int32_t id)
{
    const named *n = &r->token[id];
    return r->h.t->kind == TOKENIZER_BPE ? json_object_getn(r->vocab, n->text, n->bytes) != NULL
                                         : (size_t)id < json_array_size(r->vocab);
}

static greta_status token_place(reader *r, int32_t id, char **out)
{
    tokenizer *t = r->h.t;
    const named *n = &r->token[id];
    token *entry = &t->token[id];
    entry->type = TOKEN_UNUSED;
    if (n->text == NULL) {
        return GRETA_OK;
    }
    entry->type = n->is_special ? TOKEN_CONTROL : n->is_added ? TOKEN_USER_DEFINED : TOKEN_NORMAL;
    entry->bytes = *out;
    entry->length = (uint32_t)token_decode(r, n, *out);
    *out += entry->length;
    if (!is_model_token(r, id)) {
        return GRETA_OK;
    }
    size_t length = n->bytes;
    bool is_spelt = true;
    entry->key = *out;
    if (t->is_byte_level) {
        is_spelt = alphabet_decode(n->text, n->bytes, *out, &length);
    } else {
        memcpy(*out, n->text, n->bytes);
    }
    entry->key_length = is_spelt ? (uint32_t)length : 0;
    *out += entry->key_length;
    /* What the alphabet does not spell, text cannot become. */
    return is_spelt ? tokenizer_enter(t, id, r->h.err) : GRETA_OK;
}

static greta_status tokens_place(reader *r, uint64_t n_embd_rows)
{
    tokenizer *t = r->h.t;
    size_t bytes = 0;
    uint64_t n = n_embd_rows > r->n ? n_embd_rows : r->n;
    if (n_embd_rows > 0 && n_embd_rows < r->n) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "vocabulary %llu, embedding rows %llu",
                         (unsigned long long)r->n, (unsigned long long)n_embd_rows);
    }
    if (n > LIMIT_VOCAB) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "%llu embedding rows (at most %d)",
                         (unsigned long long)n, LIMIT_VOCAB);
    }
    for (uint64_t id = 0; id < r->n; id++) {
        bytes += 2 * r->token[id].bytes;
    }
    GRETA_TRY(tokenizer_reserve(t, n, bytes, r->n_merge, r->h.err));
    char *out = t->bytes;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        GRETA_TRY(token_place(r, id, &out));
    }
    return GRETA_OK;
}

/* The byte tokens, named as the library looks for them; of a byte-level vocabulary the bytes. */
static void bytes_find(reader *r)
{
    tokenizer *t = r->h.t;
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte, name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        t->byte_id[byte] = t->is_byte_level   ? tokenizer_find(t, &one, 1)
                           : t->byte_fallback ? tokenizer_find(t, name, (size_t)n)
                                              : -1;
    }
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

/* What a normalised token stands for is its normalised text, as the library decodes it: appended to
 * the keys. */
static greta_status normalized_decode(reader *r, int32_t id, const char *key, size_t bytes,
                                      text *keys)
{
    named n = {.text = key, .bytes = bytes, .is_added = true};
    char *decoded = malloc(bytes + 1);
    if (decoded == NULL) {
        return error_memory(r->h.err, "an added token", bytes);
    }
    r->h.t->token[id].length = (uint32_t)token_decode(r, &n, decoded);
    text_append(keys, decoded, r->h.t->token[id].length);
    free(decoded);
    return GRETA_OK;
}

/* Enters those that are looked for in the text as given (is_normalized: in normalised text, and
 * normalised themselves; their keys go to `keys`, and lookup_key.text is set later). */
static greta_status added_enter(reader *r, bool is_normalized, text *keys)
{
    static const struct {
        const char *name;
        uint32_t flag;
    } flags[] = {{"special", KEY_SPECIAL},
                 {"lstrip", KEY_LSTRIP},
                 {"rstrip", KEY_RSTRIP},
                 {"single_word", KEY_SINGLE_WORD}};
    tokenizer *t = r->h.t;
    normalize_scratch scratch = {0};
    greta_status status = GRETA_OK;
    const json_t *added = json_object_get(r->h.root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added) && status == GRETA_OK; i++) {
        const json_t *entry = json_array_get(added, i);
        bool normalized = true, is_set = false;
        lookup_key key = {0};
        size_t bytes = 0;
        key.id = (int32_t)json_integer_value(json_object_get(entry, "id"));
        status = hf_bool(&r->h, entry, "normalized", true, &normalized);
        for (size_t k = 0; k < 4 && status == GRETA_OK; k++) {
            status = hf_bool(&r->h, entry, flags[k].name, false, &is_set);
            key.flags |= is_set ? flags[k].flag : 0;
        }
        if (status != GRETA_OK || normalized != is_normalized) {
            continue;
        }
        key.text = hf_text(entry, "content", &bytes);
        if (is_normalized && t->norm != NULL) {
            status =
                normalize(t->norm, &scratch, key.text, bytes, false, &key.text, &bytes, r->h.err);
        }
        key.length = (uint32_t)bytes;
        text_append(keys, key.text, bytes);
        if (is_normalized && t->norm != NULL && status == GRETA_OK) {
            status = normalized_decode(r, key.id, key.text, bytes, keys);
        }
        t->added[is_normalized].item[t->added[is_normalized].n++] = key;
    }
    normalize_scratch_free(&scratch);
    return status;
}

/* Keys lie in one block, in the order in which they were entered. */
static greta_status added_read(reader *r)
{
    tokenizer *t = r->h.t;
    text keys = {0};
    greta_status status = added_enter(r, false, &keys);
    if (status == GRETA_OK) {
        status = added_enter(r, true, &keys);
    }
    if (status == GRETA_OK) {
        status = text_take(&keys, &t->added_text, r->h.err);
    }
    text_free(&keys);
    GRETA_TRY(status);
    const char *at = t->added_text;
    for (int list = 0; list < 2; list++) {
        for (int32_t i = 0; i < t->added[list].n; i++) {
            t->added[list].item[i].text = at;
            at += t->added[list].item[i].length;
            if (list == 1 && t->norm != NULL) {
                token *entry = &t->token[t->added[list].item[i].id];
                entry->bytes = at;
                at += entry->length;
            }
        }
        lookup_sort(&t->added[list]);
    }
    return GRETA_OK;
}

/* ---- BPE ------------------------------------------------------------------------------------- */

/* "left right" or ["left", "right"] */
static bool merge_halves(const json_t *entry, named half[2])
{
    if (json_is_string(entry)) {
        const char *both = json_string_value(entry);
        size_t bytes = json_string_length(entry);
        const char *space = memchr(both, ' ', bytes);
        if (space == NULL) {
            return false;
        }
        half[0] = (named){.text = both, .bytes = (size_t)(space - both)};
        half[1] = (named){.text = space + 1, .bytes = bytes - half[0].bytes - 1};
        return memchr(half[1].text, ' ', half[1].bytes) == NULL;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *part = json_array_get(entry, i);
        half[i] = (named){.text = json_string_value(part), .bytes = json_string_length(part)};
    }
    return json_array_size(entry) == 2 && half[0].text != NULL && half[1].text != NULL;
}

static greta_status merge_read(reader *r, uint32_t rank, const json_t *entry, char *joined)
{
    named half[2];
    char shown[ESCAPED_MAX];
    int64_t id[3];
    if (!merge_halves(entry, half)) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "merge %u is not two tokens", rank);
    }
    size_t length = half[0].bytes + half[1].bytes;
    for (int i = 0; i < 2; i++) {
        id[i] = model_id(r, half[i].text, half[i].bytes);
        if (id[i] < 0 || length > 2 * LIMIT_TOKEN_BYTES) {
            return error_set(r->h.err, GRETA_BAD_INPUT, "merge %u: \"%s\" is not in the vocabulary",
                             rank, escape(half[i].text, half[i].bytes, shown));
        }
    }
    memcpy(joined, half[0].text, half[0].bytes);
    memcpy(joined + half[0].bytes, half[1].text, half[1].bytes);
    id[2] = model_id(r, joined, length);
    if (id[2] < 0) {
        return error_set(r->h.err, GRETA_BAD_INPUT,
                         "merge %u: \"%s\" joined is not in the vocabulary", rank,
                         escape(joined, length, shown));
    }
    return tokenizer_enter_merge(r->h.t, rank, (int32_t)id[0], (int32_t)id[1], (int32_t)id[2],
                                 r->h.err);
}

static greta_status merges_read(reader *r, const json_t *merges)
{
    char *joined = malloc(2 * LIMIT_TOKEN_BYTES + 1);
    if (joined == NULL) {
        return error_memory(r->h.err, "the merges", 2 * LIMIT_TOKEN_BYTES);
    }
    greta_status status = GRETA_OK;
    for (uint32_t rank = 0; rank < r->n_merge && status == GRETA_OK; rank++) {
        status = merge_read(r, rank, json_array_get(merges, rank), joined);
    }
    free(joined);
    return status;
}

/* The options of a BPE model that change ids. */
static greta_status bpe_options(reader *r, const json_t *model)
{
    tokenizer *t = r->h.t;
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        size_t bytes = 0;
        const char *affix = hf_text(model, affixes[i], &bytes);
        if (affix != NULL && bytes > 0) {
            return error_set(r->h.err, GRETA_BAD_INPUT, "model.%s is not supported", affixes[i]);
        }
    }
    if (json_number_value(json_object_get(model, "dropout")) != 0.0) {
        return refuse(r, "model.dropout is not supported: ids would be random");
    }
    GRETA_TRY(hf_bool(&r->h, model, "byte_fallback", false, &t->byte_fallback));
    GRETA_TRY(hf_bool(&r->h, model, "fuse_unk", false, &t->fuse_unknown));
    GRETA_TRY(hf_bool(&r->h, model, "ignore_merges", false, &t->ignore_merges));
    t->ignores_always = t->ignore_merges;
    return t->byte_fallback && t->is_byte_level
               ? refuse(r, "model.byte_fallback with ByteLevel is not supported")
               : GRETA_OK;
}

static greta_status bpe_read(reader *r, const json_t *model, uint64_t n_embd_rows)
{
    const json_t *merges = json_object_get(model, "merges");
    size_t bytes = 0;
    const char *unknown = hf_text(model, "unk_token", &bytes);
    GRETA_TRY(bpe_options(r, model));
    r->n_merge = json_array_size(merges);
    if (!json_is_array(merges) || r->n_merge > LIMIT_MERGES) {
        return error_set(r->h.err, GRETA_BAD_INPUT, "model.merges is not an array of at most %u",
                         LIMIT_MERGES);
    }
    GRETA_TRY(names_read(r));
    GRETA_TRY(tokens_place(r, n_embd_rows));
    GRETA_TRY(merges_read(r, merges));
    if (unknown != NULL) {
        int64_t id = model_id(r, unknown, bytes);
        if (id < 0) {
            return refuse(r, "model.unk_token is not in the vocabulary");
        }
        r->h.t->model_unknown = (int32_t)id;
    }
    return GRETA_OK;
}

/* ---- Unigram --------------------------------------------------------------------------------- */

static greta_status unigram_read(reader *r, const json_t *model, uint64_t n_embd_rows)
{
    tokenizer *t = r->h.t;
    const json_t *unknown = json_object_get(model, "unk_id");
    GRETA_TRY(hf_bool(&r->h, model, "byte_fallback", false, &t->byte_fallback));
    if (t->is_byte_level) {
        return refuse(r, "a Unigram model with ByteLevel is not supported");
    }
    GRETA_TRY(names_read(r));
    GRETA_TRY(tokens_place(r, n_embd_rows));
    if (t->n_shadowed > 0) {
        return refuse(r, "two tokens of a Unigram model are equal, or one is empty");
    }
    t->fuse_unknown = true;
    t->score_exact = calloc((size_t)t->n_vocab, sizeof *t->score_exact);
    if (t->score_exact == NULL) {
        return error_memory(r->h.err, "the scores", (uint64_t)t->n_vocab * 8);
    }
    t->score_min = HUGE_VAL;
    for (size_t id = 0; id < json_array_size(r->vocab); id++) {
        double score = json_number_value(json_array_get(json_array_get(r->vocab, id), 1));
        if (!isfinite(score)) {
            return error_set(r->h.err, GRETA_BAD_INPUT, "the score of token %zu is not finite", id);
        }
        t->score_exact[id] = score;
        t->score_min = fmin(t->score_min, score);
    }
    if (unknown != NULL && !json_is_null(unknown)) {
        uint64_t id = 0;
        if (!id_of(unknown, &id) || id >= json_array_size(r->vocab)) {
            return refuse(r, "model.unk_id is not in the vocabulary");
        }
        t->model_unknown = (int32_t)id;
    }
    return tokenizer_pieces(t, r->h.err);
}

static greta_status model_read(reader *r, uint64_t n_embd_rows)
{
    const json_t *model = json_object_get(r->h.root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type == NULL && json_object_get(model, "merges") != NULL) {
        type = "BPE"; /* Older files do not say. */
    }
    r->vocab = json_object_get(model, "vocab");
    if (type != NULL && strcmp(type, "BPE") == 0) {
        r->h.t->kind = TOKENIZER_BPE;
        return bpe_read(r, model, n_embd_rows);
    }
    if (type != NULL && strcmp(type, "Unigram") == 0) {
        r->h.t->kind = TOKENIZER_UNIGRAM;
        return unigram_read(r, model, n_embd_rows);
    }
    return hf_refuse(&r->h, "model", type, "BPE, Unigram");
}

/* ---- Configuration --------------------------------------------------------------------------- */

/* A special token by its text: "<s>" or {"content": "<s>", ...}. */
static greta_status special_read(reader *r, const char *name, int32_t *id)
{
    const json_t *given = json_object_get(r->h.config, name);
    given = json_is_object(given) ? json_object_get(given, "content") : given;
    if (given == NULL || json_is_null(given)) {
        return GRETA_OK;
    }
    const char *content = json_string_value(given);
    size_t bytes = json_string_length(given);
    for (uint64_t i = 0; content != NULL && i < r->n; i++) {
        const named *n = &r->token[i];
        if (n->text != NULL && n->bytes == bytes && memcmp(n->text, content, bytes) == 0) {
            *id = (int32_t)i;
            return GRETA_OK;
        }
    }
    error_file(r->h.err, "tokenizer_config.json");
    return error_set(r->h.err, GRETA_BAD_INPUT, "%s is no token of tokenizer.json", name);
}

/* See the head of this file. */
static greta_status ends_configure(reader *r)
{
    static const char *const classes[] = {
        "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
        "GemmaTokenizer", "GemmaTokenizerFast", "CohereTokenizer",    "CohereTokenizerFast"};
    tokenizer *t = r->h.t;
    const char *class = json_string_value(json_object_get(r->h.config, "tokenizer_class"));
    bool is_listed = false, adds_bos = t->n_begin > 0, adds_eos = t->n_end > 0;
    for (size_t i = 0; class != NULL && i < sizeof classes / sizeof classes[0]; i++) {
        is_listed = is_listed || strcmp(class, classes[i]) == 0;
    }
    if (!is_listed) {
        return GRETA_OK;
    }
    GRETA_TRY(hf_bool(&r->h, r->h.config, "add_bos_token", adds_bos, &adds_bos));
    GRETA_TRY(hf_bool(&r->h, r->h.config, "add_eos_token", adds_eos, &adds_eos));
    if ((adds_bos && t->n_begin == 0 && t->bos < 0) || (adds_eos && t->n_end == 0 && t->eos < 0)) {
        return refuse(r, "add_bos_token or add_eos_token without that token");
    }
    if (adds_bos && t->n_begin == 0) {
        t->begin[t->n_begin++] = t->bos;
    }
    if (adds_eos && t->n_end == 0) {
        t->end[t->n_end++] = t->eos;
    }
    t->n_begin = adds_bos ? t->n_begin : 0;
    t->n_end = adds_eos ? t->n_end : 0;
    return GRETA_OK;
}

/* A string, or a list of {"name": .., "template": ..}, of which "default" counts. */
static greta_status template_read(reader *r, const tokenizer_files *files)
{
    json_t *given = json_object_get(r->h.config, "chat_template");
    if (files->chat_template != NULL) {
        return tokenizer_keep_template(r->h.t, files->chat_template, files->chat_template_bytes,
                                       r->h.err);
    }
    for (size_t i = 0; json_is_array(given) && i < json_array_size(given); i++) {
        const json_t *entry = json_array_get(given, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            given = json_object_get(entry, "template");
        }
    }
    return json_is_string(given) ? tokenizer_keep_template(r->h.t, json_string_value(given),
                                                           json_string_length(given), r->h.err)
                                 : GRETA_OK;
}

static greta_status config_read(reader *r, const tokenizer_files *files)
{
    tokenizer *t = r->h.t;
    GRETA_TRY(special_read(r, "bos_token", &t->bos));
    GRETA_TRY(special_read(r, "eos_token", &t->eos));
    GRETA_TRY(special_read(r, "unk_token", &t->unknown));
    GRETA_TRY(special_read(r, "pad_token", &t->pad));
    GRETA_TRY(ends_configure(r));
    tokenizer_mark_ends(t);
    return template_read(r, files);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static greta_status json_read(const char *name, const char *data, size_t bytes, json_t **root,
                              greta_error *err)
{
    json_error_t problem = {0};
    if (bytes > LIMIT_TOKENIZER_BYTES) {
        error_file(err, name);
        return error_set(err, GRETA_BAD_INPUT, "%zu bytes (at most %u)", bytes,
                         LIMIT_TOKENIZER_BYTES);
    }
    *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (json_is_object(*root)) {
        return GRETA_OK;
    }
    char shown[ESCAPED_MAX];
    error_file(err, name);
    return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_LINE,
                    problem.line > 0 ? (uint64_t)problem.line : 1, "not a JSON object (%s)",
                    *root == NULL ? escape(problem.text, strlen(problem.text), shown)
                                  : "another "
                                    "value");
}

static greta_status hash_make(reader *r)
{
    XXH3_state_t *state = XXH3_createState();
    tokenizer *t = r->h.t;
    if (state == NULL) {
        return error_memory(r->h.err, "the tokenizer", 256);
    }
    XXH3_64bits_reset(state);
    for (uint64_t id = 0; id < r->n; id++) {
        uint64_t length = r->token[id].bytes;
        XXH3_64bits_update(state, &length, sizeof length);
        XXH3_64bits_update(state, length == 0 ? "" : r->token[id].text, (size_t)length);
    }
    const json_t *merges = json_object_get(json_object_get(r->h.root, "model"), "merges");
    named half[2];
    for (size_t i = 0; i < r->n_merge; i++) {
        (void)merge_halves(json_array_get(merges, i), half);
        for (int k = 0; k < 2; k++) {
            uint64_t length = half[k].bytes;
            XXH3_64bits_update(state, &length, sizeof length);
            XXH3_64bits_update(state, half[k].text, half[k].bytes);
        }
    }
    if (t->score_exact != NULL) {
        XXH3_64bits_update(state, t->score_exact, (size_t)t->n_vocab * sizeof *t->score_exact);
    }
    t->hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return GRETA_OK;
}

static greta_status files_read(reader *r, const tokenizer_files *files, uint64_t n_embd_rows)
{
    GRETA_TRY(json_read("tokenizer.json", files->json, files->json_bytes, &r->h.root, r->h.err));
    if (files->config != NULL) {
        GRETA_TRY(json_read("tokenizer_config.json", files->config, files->config_bytes,
                            &r->h.config, r->h.err));
    }
    GRETA_TRY(hf_read_normalizer(&r->h));
    GRETA_TRY(hf_read_pre_tokenizer(&r->h));
    GRETA_TRY(hf_read_decoder(&r->h));
    GRETA_TRY(model_read(r, n_embd_rows));
    bytes_find(r);
    GRETA_TRY(added_read(r));
    GRETA_TRY(hf_read_post_processor(&r->h));
    GRETA_TRY(config_read(r, files));
    return hash_make(r);
}

greta_status tokenizer_from_hf(const tokenizer_files *files, uint64_t n_embd_rows, tokenizer **out,
                               greta_error *err)
{
    greta_error local = {0};
    *out = NULL;
    tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return error_memory(err, "the tokenizer", sizeof *t);
    }
    reader r = {.h = {.t = t, .err = err == NULL ? &local : err}};
    greta_status status = files_read(&r, files, n_embd_rows);
    json_decref(r.h.root);
    json_decref(r.h.config);
    free(r.token);
    if (status != GRETA_OK) {
        error_file(r.h.err, "tokenizer.json");
        tokenizer_free(t);
        return status;
    }
    *out = t;
    return GRETA_OK;
}
