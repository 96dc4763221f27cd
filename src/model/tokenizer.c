/* tokenizer.c - reading a byte-level BPE vocabulary out of a GGUF file, and checking all of it.
 *
 * The file spells a token in GPT-2's byte alphabet: 256 printable characters, one for each byte
 * value (bytes that print stand for themselves, the others are U+0100 and up, in byte order). Here
 * a token is turned into the bytes it stands for once, at load, and everything afterwards works on
 * bytes and ids. Control and user-defined tokens are outside that alphabet: their text is taken as
 * it stands, as the added tokens of the `tokenizers` library are.
 *
 * The vocabulary is one hash table from bytes to id, the merges another from (left, right) to
 * (rank, joined). A merge is accepted only when both halves and the joined token are in the first
 * table; so bytes(joined) = bytes(left) + bytes(right), and decoding what was encoded gives the
 * text back whatever the file says.
 *
 * Rejected: keeping the file's spelling and mapping at every use (twice the bytes, and a second
 * notion of equality); trusting scores or the order of tokens as ranks. Repeated tokens and merges:
 * the first wins. Both tables refuse a vocabulary made to collide instead of slowing down.
 *
 * No normalisation is applied: none is recorded in GGUF, and none of these families loses a byte
 * here. (Qwen2's own tokenizer.json asks for NFC, which is not carried into GGUF.)
 */
#include "model/tokenizer_internal.h"

#include "base/checked.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#define PROBES_MAX 512u    /* in a table at most half full: only made-up names reach it */
#define ALPHABET_END 0x144 /* one past the last character of the byte alphabet */
#define KEY(name) "tokenizer.ggml." name

typedef struct loader {
    const gguf *g;
    tokenizer *t;
    int16_t byte_of[ALPHABET_END]; /* by code point; -1: not in the alphabet */
    char *scratch;                 /* of one merge, decoded */
    greta_error *err;
} loader;

/* ---- Tables ---------------------------------------------------------------------------------- */

static uint32_t table_size(uint64_t n)
{
    uint32_t size = 2;
    while (size < 2 * n) {
        size *= 2;
    }
    return size;
}

/* The slot of these bytes: the one that holds them, or a free one, or NULL when there is neither
 * within the probes. */
static int32_t *word_slot(const tokenizer *t, const char *bytes, size_t length)
{
    uint32_t hash = (uint32_t)XXH3_64bits(bytes, length);
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++) {
        int32_t *slot = &t->word[(hash + probe) & t->word_mask];
        if (*slot < 0) {
            return slot;
        }
        const token *other = &t->token[*slot];
        if (other->length == length && memcmp(other->bytes, bytes, length) == 0) {
            return slot;
        }
    }
    return NULL;
}

int32_t tokenizer_find(const tokenizer *t, const char *bytes, size_t length)
{
    const int32_t *slot = word_slot(t, bytes, length);
    return slot == NULL ? -1 : *slot;
}

static merge *merge_slot(const tokenizer *t, uint64_t pair)
{
    uint32_t hash = (uint32_t)XXH3_64bits(&pair, sizeof pair);
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++) {
        merge *slot = &t->merge[(hash + probe) & t->merge_mask];
        if (slot->pair == pair || slot->pair == MERGE_NONE) {
            return slot;
        }
    }
    return NULL;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

const merge *tokenizer_merge(const tokenizer *t, int32_t left, int32_t right)
{
    const merge *slot = merge_slot(t, pair_key(left, right));
    return slot == NULL || slot->pair == MERGE_NONE ? NULL : slot;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

static const char *kind_name(gguf_kind kind)
{
    static const char *const names[] = {"u8",  "i8",   "u16",    "i16",   "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return (size_t)kind < sizeof names / sizeof names[0] ? names[kind] : "?";
}

/* An array of this kind; *key is NULL when it is absent and not needed. */
static greta_status array_get(loader *l, const char *name, int needed, gguf_kind kind,
                              const gguf_key **key)
{
    *key = gguf_find_key(l->g, name);
    if (*key == NULL) {
        return needed ? error_set(l->err, GRETA_BAD_INPUT, "%s is missing", name) : GRETA_OK;
    }
    const gguf_key *found = *key;
    const char *expected = kind == GGUF_STRING ? "strings" : kind_name(kind);
    if (found->kind != GGUF_ARRAY) {
        return error_at(l->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, found->offset,
                        "%s is one %s (an array of %s)", name, kind_name(found->kind), expected);
    }
    if (found->item_kind != kind) {
        return error_at(l->err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, found->offset,
                        "%s is an array of %s (%s)", name, kind_name(found->item_kind), expected);
    }
    return GRETA_OK;
}

/* A token id of the file; -1 when absent. */
static greta_status id_get(loader *l, const char *name, int32_t *id)
{
    uint64_t value = 0;
    *id = -1;
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

/* ---- The byte alphabet ----------------------------------------------------------------------- */

static void alphabet_fill(loader *l)
{
    int next = 0x100;
    memset(l->byte_of, 0xff, sizeof l->byte_of);
    for (int byte = 0; byte < 256; byte++) {
        bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        l->byte_of[prints ? byte : next++] = (int16_t)byte;
    }
    GRETA_ASSERT(next == ALPHABET_END);
}

/* Writes the bytes that `text` spells (never more than it is long); false: not in the alphabet. */
static bool alphabet_decode(const loader *l, gguf_string text, char *out, size_t *length)
{
    size_t at = 0;
    *length = 0;
    while (at < text.length) {
        utf8proc_int32_t code = 0;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text.data + at,
                                              (utf8proc_ssize_t)(text.length - at), &code);
        if (n <= 0 || code >= ALPHABET_END || l->byte_of[code] < 0) {
            return false;
        }
        out[(*length)++] = (char)l->byte_of[code];
        at += (size_t)n;
    }
    return true;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* Checks sizes and takes the memory of all tokens. */
static greta_status tokens_reserve(loader *l, const gguf_key *tokens, uint64_t n_embd_rows)
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
        gguf_string text = gguf_next_string(&cursor);
        if (text.length > LIMIT_TOKEN_BYTES) {
            return error_set(l->err, GRETA_BAD_INPUT, "token %llu has %zu bytes (at most %u)",
                             (unsigned long long)i, text.length, LIMIT_TOKEN_BYTES);
        }
        bytes += text.length;
    }
    tokenizer *t = l->t;
    uint32_t slots = table_size(tokens->n);
    t->n_vocab = (int32_t)tokens->n;
    t->token = calloc((size_t)tokens->n, sizeof *t->token);
    t->is_end = calloc((size_t)tokens->n, 1);
    t->bytes = malloc(bytes + 1);
    t->word = malloc(slots * sizeof *t->word);
    t->added = calloc((size_t)tokens->n, sizeof *t->added);
    if (!t->token || !t->is_end || !t->bytes || !t->word || !t->added) {
        return error_memory(l->err, "the vocabulary",
                            bytes + slots * sizeof *t->word + tokens->n * sizeof *t->token);
    }
    t->word_mask = slots - 1;
    memset(t->word, 0xff, slots * sizeof *t->word);
    return GRETA_OK;
}

/* Enters a token that merges may speak of. */
static greta_status token_enter(loader *l, int32_t id)
{
    const token *entry = &l->t->token[id];
    int32_t *slot = entry->length == 0 ? NULL : word_slot(l->t, entry->bytes, entry->length);
    if (entry->length > 0 && slot == NULL) {
        return error_set(l->err, GRETA_BAD_INPUT, "token %d: too many tokens share one hash", id);
    }
    if (slot == NULL || *slot >= 0) {
        l->t->n_shadowed++;
    } else {
        *slot = id;
    }
    return GRETA_OK;
}

static greta_status token_read(loader *l, int32_t id, gguf_string text, char *out)
{
    token *entry = &l->t->token[id];
    bool is_added = entry->type == TOKEN_CONTROL || entry->type == TOKEN_USER_DEFINED;
    if (is_added && text.length > LIMIT_ADDED_TOKEN_BYTES) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         "token %d: a control or user-defined token of %zu bytes (at most %u)", id,
                         text.length, LIMIT_ADDED_TOKEN_BYTES);
    }
    size_t length = 0;
    bool spelt = alphabet_decode(l, text, out, &length);
    bool is_text = entry->type != TOKEN_NORMAL || !spelt; /* it stands for its own text */
    if (is_text) {
        spelt = spelt && length == text.length && memcmp(out, text.data, length) == 0;
        memcpy(out, text.data, text.length);
        length = text.length;
    }
    entry->bytes = out;
    entry->length = (uint32_t)length;
    if (is_added && length > 0) {
        l->t->added[l->t->n_added++] = id;
    }
    return spelt ? token_enter(l, id) : GRETA_OK;
}

static greta_status types_read(loader *l)
{
    const gguf_key *types = NULL, *scores = NULL;
    tokenizer *t = l->t;
    GRETA_TRY(array_get(l, KEY("scores"), 0, GGUF_F32, &scores));
    GRETA_TRY(array_get(l, KEY("token_type"), 0, GGUF_I32, &types));
    if (scores != NULL && scores->n != (uint64_t)t->n_vocab) {
        return error_set(l->err, GRETA_BAD_INPUT, "scores has %llu entries, tokens %d",
                         (unsigned long long)scores->n, t->n_vocab);
    }
    if (types != NULL && types->n != (uint64_t)t->n_vocab) {
        return error_set(l->err, GRETA_BAD_INPUT, "token_type has %llu entries, tokens %d",
                         (unsigned long long)types->n, t->n_vocab);
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        int64_t type = types == NULL ? TOKEN_NORMAL : gguf_item_i64(types, (uint64_t)id);
        if (type < TOKEN_NORMAL || type > TOKEN_UNUSED) {
            return error_set(l->err, GRETA_BAD_INPUT,
                             "token_type of token %d is %lld (1 to 5 in a byte-level vocabulary)",
                             id, (long long)type);
        }
        t->token[id].type = (uint8_t)type;
    }
    return GRETA_OK;
}

static greta_status tokens_read(loader *l, uint64_t n_embd_rows)
{
    const gguf_key *tokens = NULL;
    tokenizer *t = l->t;
    GRETA_TRY(array_get(l, KEY("tokens"), 1, GGUF_STRING, &tokens));
    GRETA_TRY(tokens_reserve(l, tokens, n_embd_rows));
    GRETA_TRY(types_read(l));
    const uint8_t *cursor = tokens->data;
    char *out = t->bytes;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        GRETA_TRY(token_read(l, id, gguf_next_string(&cursor), out));
        out += t->token[id].length;
    }
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        t->byte_id[byte] = tokenizer_find(t, &one, 1);
    }
    return GRETA_OK;
}

/* ---- Added tokens ---------------------------------------------------------------------------- */

static int added_compare(const void *left, const void *right, void *user)
{
    const tokenizer *t = user;
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    const token *x = &t->token[a], *y = &t->token[b];
    size_t common = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->bytes, y->bytes, common);
    if (order != 0) {
        return order;
    }
    if (x->length != y->length) {
        return x->length < y->length ? -1 : 1;
    }
    return a < b ? -1 : a > b;
}

/* Sorts them by bytes and drops repeats, so that a search narrows a range byte by byte. */
static void added_sort(tokenizer *t)
{
    int32_t n = 0;
    qsort_r(t->added, (size_t)t->n_added, sizeof *t->added, added_compare, t);
    for (int32_t i = 0; i < t->n_added; i++) {
        const token *last = n == 0 ? NULL : &t->token[t->added[n - 1]];
        const token *next = &t->token[t->added[i]];
        if (last == NULL || last->length != next->length ||
            memcmp(last->bytes, next->bytes, next->length) != 0) {
            t->added[n++] = t->added[i];
        }
    }
    t->n_added = n;
}

/* ---- Merges ---------------------------------------------------------------------------------- */

/* The id of one half, whose bytes are appended to the scratch at *length. */
static greta_status half_read(loader *l, uint64_t number, gguf_string half, size_t *length,
                              int32_t *id)
{
    size_t n = 0;
    bool spelt = alphabet_decode(l, half, l->scratch + *length, &n);
    *id = spelt && n > 0 ? tokenizer_find(l->t, l->scratch + *length, n) : -1;
    *length += n;
    if (*id < 0) {
        char shown[ESCAPED_MAX];
        return error_set(l->err, GRETA_BAD_INPUT, "merge %llu: \"%s\" is not in the vocabulary",
                         (unsigned long long)number, escape(half.data, half.length, shown));
    }
    return GRETA_OK;
}

static greta_status merge_read(loader *l, uint32_t rank, gguf_string text)
{
    tokenizer *t = l->t;
    char shown[ESCAPED_MAX];
    /* The separator is the first space that leaves a left half. */
    const char *space = text.length < 2 ? NULL : memchr(text.data + 1, ' ', text.length - 1);
    if (space == NULL || text.length > 2 * LIMIT_TOKEN_BYTES + 1) {
        return error_set(l->err, GRETA_BAD_INPUT, "merge %u: \"%s\" is not two tokens and a space",
                         rank, escape(text.data, text.length, shown));
    }
    gguf_string left = {text.data, (size_t)(space - text.data)};
    gguf_string right = {space + 1, text.length - left.length - 1};
    size_t length = 0;
    int32_t left_id, right_id;
    GRETA_TRY(half_read(l, rank, left, &length, &left_id));
    GRETA_TRY(half_read(l, rank, right, &length, &right_id));
    int32_t joined = tokenizer_find(t, l->scratch, length);
    if (joined < 0) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         "merge %u: \"%s\" joined is not in the vocabulary", rank,
                         escape(text.data, text.length, shown));
    }
    merge *slot = merge_slot(t, pair_key(left_id, right_id));
    if (slot == NULL) {
        return error_set(l->err, GRETA_BAD_INPUT, "merge %u: too many share one hash", rank);
    }
    if (slot->pair != MERGE_NONE) {
        t->n_shadowed++;
    } else {
        *slot = (merge){pair_key(left_id, right_id), rank, joined};
    }
    return GRETA_OK;
}

static greta_status merges_read(loader *l)
{
    const gguf_key *merges = NULL;
    tokenizer *t = l->t;
    GRETA_TRY(array_get(l, KEY("merges"), 1, GGUF_STRING, &merges));
    if (merges->n > LIMIT_MERGES) {
        return error_set(l->err, GRETA_BAD_INPUT, KEY("merges") " has %llu entries (at most %u)",
                         (unsigned long long)merges->n, LIMIT_MERGES);
    }
    uint32_t slots = table_size(merges->n);
    t->merge = malloc(slots * sizeof *t->merge);
    l->scratch = malloc(2 * LIMIT_TOKEN_BYTES + 1);
    if (t->merge == NULL || l->scratch == NULL) {
        return error_memory(l->err, "the merges", slots * sizeof *t->merge);
    }
    t->merge_mask = slots - 1;
    memset(t->merge, 0xff, slots * sizeof *t->merge);
    const uint8_t *cursor = merges->data;
    for (uint32_t rank = 0; rank < merges->n; rank++) {
        GRETA_TRY(merge_read(l, rank, gguf_next_string(&cursor)));
    }
    return GRETA_OK;
}

/* ---- Special ids ----------------------------------------------------------------------------- */

/* BOS is added when the file says so; when it does not say, as the family has it (Llama 3 adds it),
 * given that there is one. EOS is added only when the file says so. */
static greta_status bos_eos_read(loader *l)
{
    tokenizer *t = l->t;
    int adds_bos = pretokenizer_adds_bos(t->pre) && t->bos >= 0, adds_eos = 0;
    GRETA_TRY(gguf_get_bool(l->g, KEY("add_bos_token"), 0, &adds_bos, l->err));
    GRETA_TRY(gguf_get_bool(l->g, KEY("add_eos_token"), 0, &adds_eos, l->err));
    if ((adds_bos && t->bos < 0) || (adds_eos && t->eos < 0)) {
        const char *name = adds_bos && t->bos < 0 ? "bos" : "eos";
        return error_set(l->err, GRETA_BAD_INPUT,
                         "add_%s_token is true, but %s_token_id is missing", name, name);
    }
    t->adds_bos = adds_bos != 0;
    t->adds_eos = adds_eos != 0;
    return GRETA_OK;
}

static void ends_mark(tokenizer *t)
{
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>",
                                       "<|endoftext|>"};
    for (int32_t i = 0; i < t->n_added; i++) {
        const token *entry = &t->token[t->added[i]];
        for (size_t k = 0; k < sizeof ends / sizeof ends[0]; k++) {
            if (entry->type == TOKEN_CONTROL && entry->length == strlen(ends[k]) &&
                memcmp(entry->bytes, ends[k], entry->length) == 0) {
                t->is_end[t->added[i]] = 1;
            }
        }
    }
    if (t->eos >= 0) {
        t->is_end[t->eos] = 1;
    }
    if (t->eot >= 0) {
        t->is_end[t->eot] = 1;
    }
}

static greta_status specials_read(loader *l)
{
    tokenizer *t = l->t;
    GRETA_TRY(id_get(l, KEY("bos_token_id"), &t->bos));
    GRETA_TRY(id_get(l, KEY("eos_token_id"), &t->eos));
    GRETA_TRY(id_get(l, KEY("eot_token_id"), &t->eot));
    GRETA_TRY(id_get(l, KEY("unknown_token_id"), &t->unknown));
    GRETA_TRY(id_get(l, KEY("padding_token_id"), &t->pad));
    GRETA_TRY(bos_eos_read(l));
    ends_mark(t);
    return GRETA_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static greta_status tokenizer_read(loader *l, uint64_t n_embd_rows)
{
    gguf_string model = {0}, pre = {0};
    GRETA_TRY(gguf_get_string(l->g, KEY("model"), 1, &model, l->err));
    if (model.length != 4 || memcmp(model.data, "gpt2", 4) != 0) {
        char shown[ESCAPED_MAX];
        return error_set(l->err, GRETA_BAD_INPUT,
                         KEY("model") " \"%s\" is not supported (gpt2, which is byte-level BPE)",
                         escape(model.data, model.length, shown));
    }
    if (gguf_find_key(l->g, KEY("pre")) == NULL) {
        return error_set(l->err, GRETA_BAD_INPUT,
                         KEY("pre") " is missing (smollm, llama-bpe, gpt-2, qwen2): a guessed "
                                    "pre-tokenizer would be a divergence");
    }
    GRETA_TRY(gguf_get_string(l->g, KEY("pre"), 1, &pre, l->err));
    GRETA_TRY(pretokenizer_new(pre.data, pre.length, &l->t->pre, l->err));
    alphabet_fill(l);
    GRETA_TRY(tokens_read(l, n_embd_rows));
    added_sort(l->t);
    GRETA_TRY(merges_read(l));
    return specials_read(l);
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

void tokenizer_free(tokenizer *t)
{
    if (t != NULL) {
        free(t->token);
        free(t->bytes);
        free(t->is_end);
        free(t->word);
        free(t->merge);
        free(t->added);
        pretokenizer_free(t->pre);
        free(t);
    }
}

/* ---- Questions ------------------------------------------------------------------------------- */

static bool has_id(const tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab;
}

int32_t tokenizer_n_vocab(const tokenizer *t)
{
    return t->n_vocab;
}

int32_t tokenizer_bos(const tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const tokenizer *t)
{
    return t->eos;
}

size_t tokenizer_n_shadowed(const tokenizer *t)
{
    return t->n_shadowed;
}

int tokenizer_is_end(const tokenizer *t, int32_t id)
{
    return has_id(t, id) && t->is_end[id];
}

int tokenizer_is_control(const tokenizer *t, int32_t id)
{
    return has_id(t, id) && t->token[id].type == TOKEN_CONTROL;
}

const char *tokenizer_bytes(const tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = has_id(t, id) ? t->token[id].length : 0;
    return has_id(t, id) ? t->token[id].bytes : NULL;
}
