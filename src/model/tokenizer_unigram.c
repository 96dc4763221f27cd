/* tokenizer_unigram.c - the unigram model: of all ways to cut a text into pieces, the one with the
 * largest sum of scores (Viterbi).
 *
 * From each character that can be reached, every piece that starts there is tried; where none is
 * just that character, an unknown one is, at the lowest score less a penalty of 10. The first of
 * equal sums stays. A walk over the sorted pieces costs at most the longest piece a character, so
 * the whole is linear in the text.
 *
 * Which of nearly equal ways wins depends on rounding, so the sums are rounded as the model's own
 * library rounds them: `tokenizers` (src/models/unigram/model.rs) adds in double; SentencePiece
 * (src/unigram_model.cc) keeps sums in float and compares each candidate before rounding it. There
 * a user-defined piece gets a score that always wins.
 */
#include "model/tokenizer_internal.h"

#include <stdlib.h>

#define UNKNOWN_PENALTY 10.0
#define UNIGRAM_UNKNOWN (-1)

static greta_status nodes_reserve(encoder *e, size_t n)
{
    if (n > e->n_node) {
        size_t capacity = n < 1024 ? 1024 : n;
        free(e->node);
        e->n_node = 0;
        e->node = malloc(capacity * sizeof *e->node);
        if (e->node == NULL) {
            return error_memory(e->err, "a word of the text", capacity * sizeof *e->node);
        }
        e->n_node = capacity;
    }
    for (size_t i = 0; i < n; i++) {
        e->node[i] = (unigram_node){.start = -1};
    }
    return GRETA_OK;
}

static bool is_float(const tokenizer *t)
{
    return t->kind == TOKENIZER_SENTENCEPIECE_UNIGRAM;
}

/* The score of a piece of `length` bytes. */
static double piece_score(const tokenizer *t, int32_t id, size_t length)
{
    if (!is_float(t)) {
        return t->score_exact[id];
    }
    if (t->token[id].type == TOKEN_USER_DEFINED) {
        return (double)((float)(length - 1) * 0.1f);
    }
    return (double)t->score[id];
}

static void node_offer(const tokenizer *t, unigram_node *node, double score, size_t start,
                       int32_t id)
{
    score = is_float(t) ? (double)(float)score : score;
    if (node->start < 0 || score > node->score) {
        node->score = score;
        node->start = (int32_t)start;
        node->id = id;
    }
}

/* Every piece that starts at `at`, the character there having `length` bytes. */
static void pieces_offer(encoder *e, const char *word, size_t bytes, size_t at, size_t length)
{
    const tokenizer *t = e->t;
    double best = e->node[at].score;
    const lookup_key *ends = NULL;
    lookup_walk walk;
    bool has_character = false, goes_on = true;
    lookup_begin(&t->piece, &walk);
    for (size_t i = at; i < bytes && goes_on; i++) {
        goes_on = lookup_step(&t->piece, &walk, (unsigned char)word[i], &ends);
        if (ends != NULL) {
            double score = piece_score(t, ends->id, ends->length);
            node_offer(t, &e->node[i + 1], score + best, at, ends->id);
            has_character = has_character || ends->length == length;
        }
    }
    if (!has_character) {
        double score = t->score_min - UNKNOWN_PENALTY;
        score = is_float(t) ? (double)(float)((float)score + (float)best) : score + best;
        node_offer(t, &e->node[at + length], score, at, UNIGRAM_UNKNOWN);
    }
}

/* Unknown text: its bytes where each has a token, else the unknown token. */
static greta_status unknown_emit(encoder *e, const char *input, size_t bytes)
{
    const tokenizer *t = e->t;
    bool has_bytes = t->byte_fallback;
    if (is_float(t)) {
        return encode_unknown(e, input, bytes);
    }
    for (size_t i = 0; i < bytes && has_bytes; i++) {
        has_bytes = t->byte_id[(unsigned char)input[i]] >= 0;
    }
    if (!has_bytes) {
        return encoder_lacks(e, input, bytes);
    }
    for (size_t i = 0; i < bytes; i++) {
        GRETA_TRY(encoder_emit(e, t->byte_id[(unsigned char)input[i]]));
    }
    return GRETA_OK;
}

greta_status encode_unigram(encoder *e, const char *word, size_t bytes)
{
    const tokenizer *t = e->t;
    GRETA_TRY(nodes_reserve(e, bytes + 1));
    unigram_node *node = e->node;
    node[0].start = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        length = utf8_length(word + at, bytes - at);
        length = length == 0 ? 1 : length;
        if (node[at].start >= 0) {
            pieces_offer(e, word, bytes, at, length);
        }
    }
    for (size_t at = bytes; at > 0; at = (size_t)node[at].start) {
        GRETA_ASSERT(node[at].start >= 0);
        node[node[at].start].stop = (int32_t)at;
    }
    for (size_t at = 0; at < bytes;) {
        size_t stop = (size_t)node[at].stop;
        int32_t id = node[stop].id;
        while (id == UNIGRAM_UNKNOWN && t->fuse_unknown && stop < bytes &&
               node[node[stop].stop].id == UNIGRAM_UNKNOWN) {
            stop = (size_t)node[stop].stop;
        }
        GRETA_TRY(id == UNIGRAM_UNKNOWN ? unknown_emit(e, word + at, stop - at)
                                        : encoder_emit(e, id));
        at = stop;
    }
    return GRETA_OK;
}
