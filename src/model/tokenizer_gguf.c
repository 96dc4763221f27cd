/* tokenizer_gguf.c - reading a vocabulary out of a GGUF file, and checking all of it.
 *
 * tokenizer.ggml.model says what it is:
 *   gpt2   byte-level BPE. The file spells a token in GPT-2's byte alphabet; here it is turned into
 *          the bytes it stands for once, at load, and everything afterwards works on bytes and ids.
 *          Control and user-defined tokens are outside that alphabet: their text is taken as it
 *          stands, as the added tokens of the `tokenizers` library are. A merge is accepted only
 *          when both halves and the joined token are in the vocabulary; so bytes(joined) =
 *          bytes(left) + bytes(right), and decoding what was encoded gives the text back.
 *   llama  SentencePiece BPE: pieces with scores. U+2581 is a space.
 *   t5     SentencePiece unigram: likewise, and perhaps a precompiled charsmap.
 *
 * Of SentencePiece, normal, user-defined and unused pieces may come out of text; control tokens,
 * the unknown one and byte tokens may not. User-defined pieces may be spelt with a space or with
 * U+2581: both are the same to a SentencePiece model, since it reads the character U+2581 as a
 * space. Either all 256 byte tokens are there or none.
 *
 * Rejected: keeping the file's spelling and mapping at every use; trusting scores or the order of
 * tokens as ranks of gpt2. Repeated tokens and merges: the first wins.
 *
 * No normalisation is applied to gpt2: none is recorded in GGUF, and none of these families loses a
 * byte here. (Qwen2's own tokenizer.json asks for NFC, which is not carried into GGUF.)
 */
#include "model/tokenizer_internal.h"

#include "base/checked.h"
#include "base/limits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define KEY(name) "tokenizer.ggml." name

typedef struct loader {
    const gguf *g;
    tokenizer *t;
    char *scratch; /* of one merge, decoded */
    greta_error *err;
} loader;

static bool is_sentencepiece(const tokenizer *t)
{
    return t->kind == TOKENIZER_SENTENCEPIECE_BPE || t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

/* An array of this kind; *key is NULL when it is absent and not needed. */
static greta_status array_get(loader *l, const char *name, int needed, gguf_kind kind,
                              const gguf_key **key)
{
    *key = gguf_find_key(l->g, name);
    if (*key == NULL) {
        return needed ? error_set(l->err, GRETA_BAD_INPUT, "%s is missing", name) : GRETA_OK;
    }
    const gguf_key *found = *key;
    const char *expected = kind == GGUF_STRING ? "strings" : gguf_kind_name(kind);
    if (found->kind != GGUF_ARRAY) {
        return error_at(l->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, found->offset,
                        "%s is one %s (an array of %s)", name, gguf_kind_name(found->kind),
                        expected);
    }
    if (found->item_kind != kind) {
        return error_at(l->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, found->offset,
                        "%s is an array of %s (%s)", name, gguf_kind_name(found->item_kind),
                        expected);
    }
    return GRETA_OK;
}

/* A token id of the file; `absent` when there is none. */
static greta_status id_get(loader *l, const char *name, int32_t absent, int32_t *id)
{
    uint64_t value = 0;
    *id = absent < l->t->n_vocab ? absent : -1;
    if (gguf_find_key(l->g, name) == NULL) {
        return GRETA_OK;
    }
    GRETA_TRY(gguf_get_u64(l->g, name, 1, &value, l->err));
    if (value >= (uint64_t)l->t->n_vocab) {
        return error_set(l->err, GRETA_BAD_INPUT, "%s %llu is outside the vocabulary of %d", name,
                         (unsigned long long)value, l->t->n_vocab);
    }
    *id = (int32_t)value;
    return GRETA_OK;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* Checks sizes and takes the memory of all tokens. */
static greta_status tokens_reserve(loader *l, const gguf_key *tokens, uint64_t n_merge,
                                   uint64_t n_embd_rows)
{
    if (tokens->n == 0) {
        return error_set(l->err, GRETA_BAD_INPUT, KEY("tokens") " is empty");
    }
    if (tokens->n > LIMIT_VOCAB) {
        return error_set(l->err, GRETA_BAD_INPUT, KEY("tokens") " has %llu entries (at most %d)",
                         (unsigned long long)tokens->n, LIMIT_VOCAB);
    }
    if (tokens->n != n_embd_rows) {
        return error_set(l->err, GRETA_BAD_INPUT, "vocabulary %llu, embedding rows %llu",
                         (unsigned long long)tokens->n, (unsigned long long)n_embd_rows);
    }
    const uint8_t *cursor = tokens->data;
    size_t bytes = 0; /* Cannot wrap: the strings lie side by side in the file. */
    for (uint64_t i = 0; i < tokens->n; i++) {
        gguf_string input = gguf_next_string(&cursor);
        if (input.length > LIMIT_TOKEN_BYTES) {
            return error_set(l->err, GRETA_BAD_INPUT, "token %llu has %zu bytes (at most %u)",
                             (unsigned long long)i, input.length, LIMIT_TOKEN_BYTES);
        }
        /* Bytes, and for a piece its key, where a space may become three bytes. */
        bytes += is_sentencepiece(l->t) ? 4 * input.length : input.length;
    }
    return tokenizer_reserve(l->t, tokens->n, bytes, n_merge, l->err);
}

/* A token of a byte-level vocabulary; its bytes are its key. Returns behind what was written. */
static greta_status byte_level_read(loader *l, int32_t id, gguf_string input, char **out)
{
    token *entry = &l->t->token[id];
    size_t length = 0;
    bool spelt = alphabet_decode(input.data, input.length, *out, &length);
    bool is_text = entry->type != TOKEN_NORMAL || !spelt; /* it stands for its own text */
    if (is_text) {
        spelt = spelt && length == input.length && memcmp(*out, input.data, length) == 0;
        memcpy(*out, input.data, input.length);
        length = input.length;
    }
    entry->bytes = entry->key = *out;
    entry->length = entry->key_length = (uint32_t)length;
    *out += length;
    return spelt ? tokenizer_enter(l->t, id, l->err) : GRETA_OK;
}

/* Appends `text` with each space as U+2581; returns the length. */
static size_t space_mark_encode(gguf_string input, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < input.length; i++) {
        if (input.data[i] == ' ') {
            memcpy(out + n, SPACE_MARK, SPACE_MARK_BYTES);
            n += SPACE_MARK_BYTES;
        } else {
            out[n++] = input.data[i];
        }
    }
    return n;
}

/* A token of a SentencePiece vocabulary. */
static greta_status piece_read(loader *l, int32_t id, gguf_string input, char **out)
{
    tokenizer *t = l->t;
    token *entry = &t->token[id];
    entry->bytes = *out;
    if (entry->type == TOKEN_BYTE) {
        int value = byte_token_value(input.data, input.length);
        if (value < 0 || t->byte_id[value] >= 0) {
            char shown[ESCAPED_MAX];
            return error_set(l->err, GRETA_BAD_INPUT, "token %d \"%s\": %s", id,
                             escape(input.data, input.length, shown),
                             value < 0 ? "not a byte token" : "a second token for this byte");
        }
        t->byte_id[value] = id;
        t->byte_fallback = true;
        **out = (char)value;
        entry->length = 1;
        *out += 1;
        return GRETA_OK;
    }
    if (entry->type == TOKEN_CONTROL || entry->type == TOKEN_UNKNOWN) {
        memcpy(*out, input.data, input.length);
        entry->length = (uint32_t)input.length;
        *out += input.length;
        return GRETA_OK;
    }
    entry->length = (uint32_t)space_mark_decode(input.data, input.length, *out);
    *out += entry->length;
    entry->key = *out;
    entry->key_length = (uint32_t)space_mark_encode(input, *out);
    *out += entry->key_length;
    if (entry->type == TOKEN_UNUSED && entry->key_length > LIMIT_ADDED_TOKEN_BYTES) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         "token %d: an unused piece of %u bytes (at most %u)", id,
                         entry->key_length, LIMIT_ADDED_TOKEN_BYTES);
    }
    t->has_unused = t->has_unused || entry->type == TOKEN_UNUSED;
    return tokenizer_enter(t, id, l->err);
}

static greta_status token_read(loader *l, int32_t id, gguf_string input, char **out)
{
    tokenizer *t = l->t;
    token *entry = &t->token[id];
    bool is_control = entry->type == TOKEN_CONTROL, is_user = entry->type == TOKEN_USER_DEFINED;
    if ((is_control || is_user) && input.length > LIMIT_ADDED_TOKEN_BYTES) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         "token %d: a control or user-defined token of %zu bytes (at most %u)", id,
                         input.length, LIMIT_ADDED_TOKEN_BYTES);
    }
    bool is_piece = is_sentencepiece(t);
    GRETA_TRY(is_piece ? piece_read(l, id, input, out) : byte_level_read(l, id, input, out));
    if (is_control || is_user) {
        lookup *list = &t->added[is_piece && is_user];
        bool is_key = is_piece && is_user;
        list->item[list->n++] = (lookup_key){.text = is_key ? entry->key : entry->bytes,
                                             .length = is_key ? entry->key_length : entry->length,
                                             .id = id,
                                             .flags = is_control ? KEY_SPECIAL : 0};
    }
    return GRETA_OK;
}

static greta_status scores_read(loader *l)
{
    const gguf_key *scores = NULL;
    tokenizer *t = l->t;
    GRETA_TRY(array_get(l, KEY("scores"), is_sentencepiece(t), GGUF_F32, &scores));
    if (scores != NULL && scores->n != (uint64_t)t->n_vocab) {
        return error_set(l->err, GRETA_BAD_INPUT, "scores has %llu entries, tokens %d",
                         (unsigned long long)scores->n, t->n_vocab);
    }
    if (!is_sentencepiece(t)) {
        return GRETA_OK;
    }
    t->score = malloc((size_t)t->n_vocab * sizeof *t->score);
    if (t->score == NULL) {
        return error_memory(l->err, "the scores", (uint64_t)t->n_vocab * sizeof *t->score);
    }
    t->score_min = (double)HUGE_VALF;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        t->score[id] = (float)gguf_item_f64(scores, (uint64_t)id);
        if (t->token[id].type == TOKEN_NORMAL) {
            t->score_min = fmin(t->score_min, (double)t->score[id]);
        }
    }
    return tokenizer_rank(t, l->err);
}

static greta_status types_read(loader *l)
{
    const gguf_key *types = NULL;
    tokenizer *t = l->t;
    int last = is_sentencepiece(t) ? TOKEN_BYTE : TOKEN_UNUSED;
    GRETA_TRY(array_get(l, KEY("token_type"), is_sentencepiece(t), GGUF_I32, &types));
    if (types != NULL && types->n != (uint64_t)t->n_vocab) {
        return error_set(l->err, GRETA_BAD_INPUT, "token_type has %llu entries, tokens %d",
                         (unsigned long long)types->n, t->n_vocab);
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        int64_t type = types == NULL ? TOKEN_NORMAL : gguf_item_i64(types, (uint64_t)id);
        if (type < TOKEN_NORMAL || type > last) {
            return error_set(l->err, GRETA_BAD_INPUT,
                             "token_type of token %d is %lld (1 to %d in this vocabulary)", id,
                             (long long)type, last);
        }
        t->token[id].type = (uint8_t)type;
    }
    return GRETA_OK;
}

static greta_status bytes_find(loader *l)
{
    tokenizer *t = l->t;
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        if (!is_sentencepiece(t)) {
            t->byte_id[byte] = tokenizer_find(t, &one, 1);
        } else if (t->byte_fallback && t->byte_id[byte] < 0) {
            return error_set(l->err, GRETA_BAD_INPUT, "there is no token for byte 0x%02x", byte);
        }
    }
    return GRETA_OK;
}

static greta_status tokens_read(loader *l, uint64_t n_merge, uint64_t n_embd_rows)
{
    const gguf_key *tokens = NULL;
    tokenizer *t = l->t;
    GRETA_TRY(array_get(l, KEY("tokens"), 1, GGUF_STRING, &tokens));
    GRETA_TRY(tokens_reserve(l, tokens, n_merge, n_embd_rows));
    GRETA_TRY(types_read(l));
    GRETA_TRY(scores_read(l));
    const uint8_t *cursor = tokens->data;
    char *out = t->bytes;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        GRETA_TRY(token_read(l, id, gguf_next_string(&cursor), &out));
    }
    lookup_sort(&t->added[0]);
    lookup_sort(&t->added[1]);
    return bytes_find(l);
}

/* ---- Merges ---------------------------------------------------------------------------------- */

/* The id of one half, whose bytes are appended to the scratch at *length. */
static greta_status half_read(loader *l, uint64_t number, gguf_string half, size_t *length,
                              int32_t *id)
{
    size_t n = 0;
    bool spelt = alphabet_decode(half.data, half.length, l->scratch + *length, &n);
    *id = spelt && n > 0 ? tokenizer_find(l->t, l->scratch + *length, n) : -1;
    *length += n;
    if (*id < 0) {
        char shown[ESCAPED_MAX];
        return error_set(l->err, GRETA_BAD_INPUT, "merge %llu: \"%s\" is not in the vocabulary",
                         (unsigned long long)number, escape(half.data, half.length, shown));
    }
    return GRETA_OK;
}

static greta_status merge_read(loader *l, uint32_t rank, gguf_string input)
{
    char shown[ESCAPED_MAX];
    /* The separator is the first space that leaves a left half. */
    const char *space = input.length < 2 ? NULL : memchr(input.data + 1, ' ', input.length - 1);
    if (space == NULL || input.length > 2 * LIMIT_TOKEN_BYTES + 1) {
        return error_set(l->err, GRETA_BAD_INPUT, "merge %u: \"%s\" is not two tokens and a space",
                         rank, escape(input.data, input.length, shown));
    }
    gguf_string left = {input.data, (size_t)(space - input.data)};
    gguf_string right = {space + 1, input.length - left.length - 1};
    size_t length = 0;
    int32_t left_id, right_id;
    GRETA_TRY(half_read(l, rank, left, &length, &left_id));
    GRETA_TRY(half_read(l, rank, right, &length, &right_id));
    int32_t joined = tokenizer_find(l->t, l->scratch, length);
    if (joined < 0) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         "merge %u: \"%s\" joined is not in the vocabulary", rank,
                         escape(input.data, input.length, shown));
    }
    return tokenizer_enter_merge(l->t, rank, left_id, right_id, joined, l->err);
}

static greta_status merges_read(loader *l, const gguf_key *merges)
{
    l->scratch = malloc(2 * LIMIT_TOKEN_BYTES + 1);
    if (l->scratch == NULL) {
        return error_memory(l->err, "the merges", 2 * LIMIT_TOKEN_BYTES);
    }
    const uint8_t *cursor = merges->data;
    for (uint32_t rank = 0; rank < merges->n; rank++) {
        GRETA_TRY(merge_read(l, rank, gguf_next_string(&cursor)));
    }
    return GRETA_OK;
}

/* ---- Special ids ----------------------------------------------------------------------------- */

/* BOS and EOS are added when the file says so; when it does not say, as the family has it (Llama 3,
 * tekken and SentencePiece BPE add BOS, unigram EOS), given that there is one. */
static greta_status bos_eos_read(loader *l)
{
    tokenizer *t = l->t;
    bool has_bos = t->kind == TOKENIZER_SENTENCEPIECE_BPE ||
                   (t->kind == TOKENIZER_BPE && pretokenizer_adds_bos(t->pre));
    int adds_bos = has_bos && t->bos >= 0;
    int adds_eos = t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM && t->eos >= 0;
    GRETA_TRY(gguf_get_bool(l->g, KEY("add_bos_token"), 0, &adds_bos, l->err));
    GRETA_TRY(gguf_get_bool(l->g, KEY("add_eos_token"), 0, &adds_eos, l->err));
    if ((adds_bos && t->bos < 0) || (adds_eos && t->eos < 0)) {
        const char *name = adds_bos && t->bos < 0 ? "bos" : "eos";
        return error_set(l->err, GRETA_BAD_INPUT,
                         "add_%s_token is true, but %s_token_id is missing", name, name);
    }
    t->begin[0] = t->bos;
    t->n_begin = adds_bos != 0;
    t->end[0] = t->eos;
    t->n_end = adds_eos != 0;
    return GRETA_OK;
}

/* Absent ids are those that llama.cpp (src/llama-vocab.cpp) takes for such a vocabulary. */
static greta_status specials_read(loader *l)
{
    tokenizer *t = l->t;
    bool is_bpe = t->kind == TOKENIZER_SENTENCEPIECE_BPE;
    bool is_unigram = t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM;
    GRETA_TRY(id_get(l, KEY("bos_token_id"), is_bpe ? 1 : -1, &t->bos));
    GRETA_TRY(id_get(l, KEY("eos_token_id"), is_bpe ? 2 : is_unigram ? 1 : -1, &t->eos));
    GRETA_TRY(id_get(l, KEY("eot_token_id"), -1, &t->eot));
    GRETA_TRY(id_get(l, KEY("unknown_token_id"), is_bpe ? 0 : is_unigram ? 2 : -1, &t->unknown));
    GRETA_TRY(id_get(l, KEY("padding_token_id"), is_unigram ? 0 : -1, &t->pad));
    if (is_sentencepiece(t)) {
        t->model_unknown = t->unknown;
    }
    GRETA_TRY(bos_eos_read(l));
    tokenizer_mark_ends(t);
    return GRETA_OK;
}

/* ---- SentencePiece --------------------------------------------------------------------------- */

static greta_status charsmap_read(loader *l)
{
    static const char name[] = KEY("precompiled_charsmap");
    const gguf_key *map = gguf_find_key(l->g, name);
    if (map == NULL) {
        return GRETA_OK;
    }
    if (map->kind != GGUF_ARRAY || (map->item_kind != GGUF_U8 && map->item_kind != GGUF_I8)) {
        return error_set(l->err, GRETA_BAD_INPUT, "%s is not an array of bytes", name);
    }
    /* An empty one is the identity. */
    return map->n == 0 ? GRETA_OK : charsmap_new(map->data, (size_t)map->n, &l->t->map, l->err);
}

static greta_status sentencepiece_read(loader *l)
{
    tokenizer *t = l->t;
    int prefix = 1, removes = 0;
    GRETA_TRY(gguf_get_bool(l->g, KEY("add_space_prefix"), 0, &prefix, l->err));
    GRETA_TRY(gguf_get_bool(l->g, KEY("remove_extra_whitespaces"), 0, &removes, l->err));
    GRETA_TRY(charsmap_read(l));
    t->add_space_prefix = prefix != 0;
    t->remove_extra_spaces = removes != 0;
    t->start = removes ? DECODE_ALL_SPACES : prefix ? DECODE_FIRST_SPACE : DECODE_AS_IT_IS;
    return t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM ? tokenizer_pieces(t, l->err) : GRETA_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static greta_status model_read(loader *l)
{
    static const struct {
        const char *name;
        tokenizer_kind kind;
    } known[] = {{"gpt2", TOKENIZER_BPE},
                 {"llama", TOKENIZER_SENTENCEPIECE_BPE},
                 {"t5", TOKENIZER_SENTENCEPIECE_UNIGRAM}};
    gguf_string model = {0}, pre = {0};
    GRETA_TRY(gguf_get_string(l->g, KEY("model"), 1, &model, l->err));
    size_t k = 0;
    while (k < 3 && (strlen(known[k].name) != model.length ||
                     memcmp(known[k].name, model.data, model.length) != 0)) {
        k++;
    }
    if (k == 3) {
        char shown[ESCAPED_MAX];
        return error_set(l->err, GRETA_BAD_INPUT,
                         KEY("model") " \"%s\" is not supported (gpt2: byte-level BPE, llama: "
                                      "SentencePiece BPE, t5: SentencePiece unigram)",
                         escape(model.data, model.length, shown));
    }
    l->t->kind = known[k].kind;
    l->t->is_byte_level = known[k].kind == TOKENIZER_BPE;
    if (!l->t->is_byte_level) {
        return GRETA_OK;
    }
    if (gguf_find_key(l->g, KEY("pre")) == NULL) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         KEY("pre") " is missing (smollm, llama-bpe, gpt-2, qwen2, ...): a guessed "
                                    "pre-tokenizer would be a divergence");
    }
    GRETA_TRY(gguf_get_string(l->g, KEY("pre"), 1, &pre, l->err));
    GRETA_TRY(pretokenizer_named(pre.data, pre.length, &l->t->pre, l->err));
    l->t->ignore_merges = pretokenizer_ignores_merges(l->t->pre);
    return GRETA_OK;
}

static void hash_strings(XXH3_state_t *state, const gguf_key *key)
{
    const uint8_t *cursor = key ? key->data : NULL;
    for (uint64_t i = 0; key && i < key->n; i++) {
        gguf_string s = gguf_next_string(&cursor);
        uint64_t length = s.length;
        XXH3_64bits_update(state, &length, sizeof length);
        XXH3_64bits_update(state, s.data, s.length);
    }
}

static greta_status hash_make(loader *l, const gguf_key *merges)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        return error_memory(l->err, "the tokenizer", 256);
    }
    XXH3_64bits_reset(state);
    hash_strings(state, gguf_find_key(l->g, KEY("tokens")));
    hash_strings(state, merges);
    if (l->t->score != NULL) {
        XXH3_64bits_update(state, l->t->score, (size_t)l->t->n_vocab * sizeof *l->t->score);
    }
    l->t->hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return GRETA_OK;
}

static greta_status tokenizer_read(loader *l, uint64_t n_embd_rows)
{
    const gguf_key *merges = NULL, *tokens = NULL;
    gguf_string source = {0};
    static const char chat_template[] = "tokenizer.chat_template";
    GRETA_TRY(model_read(l));
    bool is_piece = is_sentencepiece(l->t);
    GRETA_TRY(array_get(l, KEY("tokens"), 1, GGUF_STRING, &tokens));
    if (!is_piece && tokens->n > 0) {
        GRETA_TRY(array_get(l, KEY("merges"), 1, GGUF_STRING, &merges));
        if (merges->n > LIMIT_MERGES) {
            return error_set(l->err, GRETA_BAD_INPUT,
                             KEY("merges") " has %llu entries (at most %u)",
                             (unsigned long long)merges->n, LIMIT_MERGES);
        }
    }
    GRETA_TRY(tokens_read(l, merges == NULL ? 0 : merges->n, n_embd_rows));
    GRETA_TRY(is_piece ? sentencepiece_read(l) : merges_read(l, merges));
    GRETA_TRY(specials_read(l));
    GRETA_TRY(hash_make(l, merges));
    if (gguf_find_key(l->g, chat_template) == NULL) {
        return GRETA_OK;
    }
    GRETA_TRY(gguf_get_string(l->g, chat_template, 1, &source, l->err));
    return tokenizer_keep_template(l->t, source.data, source.length, l->err);
}

greta_status tokenizer_new(const gguf *g, uint64_t n_embd_rows, tokenizer **out, greta_error *err)
{
    *out = NULL;
    tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return error_memory(err, "the tokenizer", sizeof *t);
    }
    loader l = {.g = g, .t = t, .err = err};
    greta_status status = tokenizer_read(&l, n_embd_rows);
    free(l.scratch);
    if (status != GRETA_OK) {
        tokenizer_free(t);
        return status;
    }
    *out = t;
    return GRETA_OK;
}
