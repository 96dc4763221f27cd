/* tokenizer_table.c - the tables of a tokenizer: tokens by key, merges by pair, sorted keys; and
 * the questions that only read them.
 *
 * Both hash tables refuse a vocabulary made to collide instead of slowing down. Sorted keys serve
 * where the question is which of them start a text: each byte narrows the range of those that agree
 * so far, and of a range the key that ends here comes first, so the list is a tree without nodes.
 */
#include "model/tokenizer_internal.h"

#include "base/checked.h"
#include "base/limits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#define PROBES_MAX   512u  /* in a table at most half full: only made-up names reach it */
#define ALPHABET_END 0x144 /* one past the last character of the byte alphabet */

/* ---- Hash tables ----------------------------------------------------------------------------- */

static uint32_t table_size(uint64_t n)
{
    uint32_t size = 2;
    while (size < 2 * n) {
        size *= 2;
    }
    return size;
}

/* The slot of this key: the one that holds it, or a free one, or NULL when there is neither within
 * the probes. */
static int32_t *word_slot(const tokenizer *t, const char *key, size_t length)
{
    uint32_t hash = (uint32_t)XXH3_64bits(key, length);
    for (uint32_t probe = 0; probe < PROBES_MAX; probe++) {
        int32_t *slot = &t->word[(hash + probe) & t->word_mask];
        if (*slot < 0) {
            return slot;
        }
        const token *other = &t->token[*slot];
        if (other->key_length == length && memcmp(other->key, key, length) == 0) {
            return slot;
        }
    }
    return NULL;
}

int32_t tokenizer_find(const tokenizer *t, const char *key, size_t length)
{
    const int32_t *slot = length > t->key_bytes_max ? NULL : word_slot(t, key, length);
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

greta_status tokenizer_reserve(tokenizer *t, uint64_t n, size_t bytes, uint64_t n_merge,
                               greta_error *err)
{
    GRETA_ASSERT(n > 0 && n <= LIMIT_VOCAB && n_merge <= LIMIT_MERGES);
    uint32_t words = table_size(n), merges = table_size(n_merge);
    t->n_vocab = (int32_t)n;
    t->token = calloc((size_t)n, sizeof *t->token);
    t->is_end = calloc((size_t)n, 1);
    t->bytes = malloc(bytes + 1);
    t->word = malloc(words * sizeof *t->word);
    t->merge = malloc(merges * sizeof *t->merge);
    t->added[0].item = calloc((size_t)n, sizeof *t->added[0].item);
    t->added[1].item = calloc((size_t)n, sizeof *t->added[1].item);
    if (!t->token || !t->is_end || !t->bytes || !t->word || !t->merge || !t->added[0].item ||
        !t->added[1].item) {
        return error_memory(err, "the vocabulary",
                            bytes + words * sizeof *t->word + merges * sizeof *t->merge +
                                n * sizeof *t->token);
    }
    t->word_mask = words - 1;
    t->merge_mask = merges - 1;
    memset(t->word, 0xff, words * sizeof *t->word);
    memset(t->merge, 0xff, merges * sizeof *t->merge);
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    t->bos = t->eos = t->eot = t->pad = t->unknown = t->model_unknown = -1;
    return GRETA_OK;
}

greta_status tokenizer_enter(tokenizer *t, int32_t id, greta_error *err)
{
    token *entry = &t->token[id];
    int32_t *slot = entry->key_length == 0 ? NULL : word_slot(t, entry->key, entry->key_length);
    if (entry->key_length > 0 && slot == NULL) {
        return error_set(err, GRETA_BAD_INPUT, "token %d: too many tokens share one hash", id);
    }
    if (slot == NULL || *slot >= 0) {
        t->n_shadowed++;
        return GRETA_OK;
    }
    *slot = id;
    entry->is_word = true;
    t->key_bytes_max = entry->key_length > t->key_bytes_max ? entry->key_length : t->key_bytes_max;
    return GRETA_OK;
}

greta_status tokenizer_enter_merge(tokenizer *t, uint32_t rank, int32_t left, int32_t right,
                                   int32_t joined, greta_error *err)
{
    merge *slot = merge_slot(t, pair_key(left, right));
    if (slot == NULL) {
        return error_set(err, GRETA_BAD_INPUT, "merge %u: too many share one hash", rank);
    }
    if (slot->pair != MERGE_NONE) {
        t->n_shadowed++;
    } else {
        *slot = (merge){pair_key(left, right), rank, joined};
    }
    return GRETA_OK;
}

/* ---- Scores ---------------------------------------------------------------------------------- */

static int score_compare(const void *left, const void *right, void *user)
{
    const float *score = user;
    float a = score[*(const int32_t *)left], b = score[*(const int32_t *)right];
    return a > b ? -1 : a < b;
}

/* Equal scores are one rank. */
greta_status tokenizer_rank(tokenizer *t, greta_error *err)
{
    size_t n = (size_t)t->n_vocab;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (!isfinite(t->score[id])) {
            return error_set(err, GRETA_BAD_INPUT, "the score of token %d is not finite", id);
        }
    }
    int32_t *order = malloc(n * sizeof *order);
    t->rank = malloc(n * sizeof *t->rank);
    if (order == NULL || t->rank == NULL) {
        free(order);
        return error_memory(err, "the scores", n * sizeof *order);
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        order[id] = id;
    }
    qsort_r(order, n, sizeof *order, score_compare, t->score);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += i > 0 && t->score[order[i]] < t->score[order[i - 1]];
        t->rank[order[i]] = rank;
    }
    free(order);
    return GRETA_OK;
}

greta_status tokenizer_pieces(tokenizer *t, greta_error *err)
{
    t->piece.item = malloc((size_t)t->n_vocab * sizeof *t->piece.item);
    if (t->piece.item == NULL) {
        return error_memory(err, "the pieces", (uint64_t)t->n_vocab * sizeof *t->piece.item);
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const token *entry = &t->token[id];
        if (!entry->is_word || entry->type == TOKEN_UNUSED) {
            continue;
        }
        if (entry->key_length > LIMIT_PIECE_BYTES) {
            return error_set(err, GRETA_BAD_INPUT,
                             "token %d: a unigram piece of %u bytes (at most %u)", id,
                             entry->key_length, LIMIT_PIECE_BYTES);
        }
        t->piece.item[t->piece.n++] =
            (lookup_key){.text = entry->key, .length = entry->key_length, .id = id};
    }
    lookup_sort(&t->piece);
    return GRETA_OK;
}

/* ---- Sorted keys ----------------------------------------------------------------------------- */

static int key_compare(const void *left, const void *right)
{
    const lookup_key *a = left, *b = right;
    size_t common = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->text, b->text, common);
    if (order != 0) {
        return order;
    }
    if (a->length != b->length) {
        return a->length < b->length ? -1 : 1;
    }
    return a->id < b->id ? -1 : a->id > b->id;
}

void lookup_sort(lookup *l)
{
    int32_t n = 0;
    if (l->n > 0) {
        qsort(l->item, (size_t)l->n, sizeof *l->item, key_compare);
    }
    for (int32_t i = 0; i < l->n; i++) {
        const lookup_key *last = n == 0 ? NULL : &l->item[n - 1], *next = &l->item[i];
        bool is_repeat = last != NULL && last->length == next->length &&
                         memcmp(last->text, next->text, next->length) == 0;
        if (!is_repeat && next->length > 0) {
            l->item[n++] = *next;
        }
    }
    l->n = n;
    for (int32_t i = 0, byte = 0; byte <= 256; byte++) {
        while (i < n && (unsigned char)l->item[i].text[0] < byte) {
            i++;
        }
        l->first[byte] = i;
    }
}

void lookup_begin(const lookup *l, lookup_walk *walk)
{
    *walk = (lookup_walk){.low = 0, .high = l->n};
}

/* Byte `depth` of the i-th key; -1: it ends there. */
static int key_byte(const lookup *l, int32_t i, size_t depth)
{
    const lookup_key *key = &l->item[i];
    return depth < key->length ? (unsigned char)key->text[depth] : -1;
}

/* The first of [low, high), which agree up to `depth`, whose byte there is at least `byte`. */
static int32_t key_bound(const lookup *l, int32_t low, int32_t high, size_t depth, int byte)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (key_byte(l, middle, depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool lookup_step(const lookup *l, lookup_walk *walk, unsigned char byte, const lookup_key **ends)
{
    *ends = NULL;
    if (walk->depth == 0) {
        walk->low = l->first[byte];
        walk->high = l->first[byte + 1];
    } else {
        size_t depth = walk->depth;
        if (key_byte(l, walk->low, depth) != byte || key_byte(l, walk->high - 1, depth) != byte) {
            walk->low = key_bound(l, walk->low, walk->high, depth, byte);
            walk->high = key_bound(l, walk->low, walk->high, depth, byte + 1);
        }
    }
    walk->depth++;
    if (walk->low < walk->high && l->item[walk->low].length == walk->depth) {
        *ends = &l->item[walk->low++];
    }
    return walk->low < walk->high;
}

const lookup_key *lookup_longest(const lookup *l, const char *input, size_t bytes)
{
    const lookup_key *longest = NULL, *ends = NULL;
    lookup_walk walk;
    lookup_begin(l, &walk);
    bool goes_on = walk.low < walk.high;
    for (size_t i = 0; i < bytes && goes_on; i++) {
        goes_on = lookup_step(l, &walk, (unsigned char)input[i], &ends);
        longest = ends == NULL ? longest : ends;
    }
    return longest;
}

/* ---- Spelling -------------------------------------------------------------------------------- */

/* The byte that a character of GPT-2's alphabet stands for: bytes that print stand for themselves,
 * the others are U+0100 and up, in byte order. -1: none. */
static int alphabet_byte(int32_t code)
{
    bool prints = (code >= '!' && code <= '~') || (code >= 0xa1 && code <= 0xff && code != 0xad);
    if (prints) {
        return code;
    }
    if (code < 0x100 || code >= ALPHABET_END) {
        return -1;
    }
    int32_t number = code - 0x100;
    return number <= 0x20 ? number : number <= 0x42 ? number - 0x21 + 0x7f : 0xad;
}

bool alphabet_decode(const char *input, size_t bytes, char *out, size_t *length)
{
    *length = 0;
    for (size_t at = 0; at < bytes;) {
        utf8proc_int32_t code = 0;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)input + at,
                                              (utf8proc_ssize_t)(bytes - at), &code);
        int byte = n <= 0 ? -1 : alphabet_byte(code);
        if (byte < 0) {
            return false;
        }
        out[(*length)++] = (char)byte;
        at += (size_t)n;
    }
    return true;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int byte_token_value(const char *input, size_t bytes)
{
    if (bytes != 6 || memcmp(input, "<0x", 3) != 0 || input[5] != '>') {
        return -1;
    }
    int high = hex_value(input[3]), low = hex_value(input[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

size_t space_mark_decode(const char *input, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        bool is_mark =
            bytes - i >= SPACE_MARK_BYTES && memcmp(input + i, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        out[n++] = is_mark ? ' ' : input[i];
        i += is_mark ? SPACE_MARK_BYTES : 1;
    }
    return n;
}

/* ---- Ends and template ----------------------------------------------------------------------- */

/* Control tokens by which a family ends a turn or a text: ChatML and Qwen, Llama 3, Phi-3 and 4,
 * Gemma. */
void tokenizer_mark_ends(tokenizer *t)
{
    static const char *const ends[] = {"<|im_end|>",    "<|eot_id|>", "<|end_of_text|>",
                                       "<|endoftext|>", "<|end|>",    "<end_of_turn>",
                                       "<|eom_id|>"};
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const token *entry = &t->token[id];
        for (size_t k = 0; entry->type == TOKEN_CONTROL && k < sizeof ends / sizeof ends[0]; k++) {
            if (entry->length == strlen(ends[k]) &&
                memcmp(entry->bytes, ends[k], entry->length) == 0) {
                t->is_end[id] = 1;
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

greta_status tokenizer_keep_template(tokenizer *t, const char *source, size_t bytes,
                                     greta_error *err)
{
    t->chat_template = malloc(bytes + 1);
    if (t->chat_template == NULL) {
        return error_memory(err, "the chat template", bytes);
    }
    memcpy(t->chat_template, source, bytes);
    t->chat_template[bytes] = '\0';
    t->chat_template_bytes = bytes;
    return GRETA_OK;
}

/* ---- Questions ------------------------------------------------------------------------------- */

void tokenizer_free(tokenizer *t)
{
    if (t != NULL) {
        free(t->token);
        free(t->bytes);
        free(t->score);
        free(t->score_exact);
        free(t->rank);
        free(t->is_end);
        free(t->word);
        free(t->merge);
        free(t->added[0].item);
        free(t->added[1].item);
        free(t->added_text);
        free(t->piece.item);
        free(t->chat_template);
        normalizer_free(t->norm);
        charsmap_free(t->map);
        pretokenizer_free(t->pre);
        free(t);
    }
}

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

uint64_t tokenizer_hash(const tokenizer *t)
{
    return t->hash;
}

size_t tokenizer_n_shadowed(const tokenizer *t)
{
    return t->n_shadowed;
}

int tokenizer_is_end(const tokenizer *t, int32_t id)
{
    return has_id(t, id) && t->is_end[id];
}

greta_status tokenizer_add_end(tokenizer *t, int64_t id, greta_error *err)
{
    if (id < 0 || id >= t->n_vocab) {
        return error_set(err, GRETA_BAD_INPUT, "eos_token_id %lld is outside the vocabulary of %d",
                         (long long)id, t->n_vocab);
    }
    t->is_end[id] = 1;
    return GRETA_OK;
}

int tokenizer_is_control(const tokenizer *t, int32_t id)
{
    return has_id(t, id) && t->token[id].type == TOKEN_CONTROL;
}

const char *tokenizer_bytes(const tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = has_id(t, id) ? t->token[id].length : 0;
    return !has_id(t, id) ? NULL : t->token[id].bytes == NULL ? "" : t->token[id].bytes;
}
