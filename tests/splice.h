/* splice.h - mutations of a text that stay close to its grammar: pieces put over, in and out of it.
 *
 * A round is a number: the same round makes the same text everywhere, so that a failure names what
 * to run again. `make check` takes the first rounds, `make check-long` (GRETA_WHOLE) a hundred
 * times as many, in programs built with sanitizers.
 */
#ifndef GRETA_TESTS_SPLICE_H
#define GRETA_TESTS_SPLICE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t splice_state;

/* Rounds to take where `make check` takes n. */
static inline uint64_t splice_rounds(uint64_t n)
{
    return getenv("GRETA_WHOLE") ? 100 * n : n;
}

static inline size_t splice_below(size_t n)
{
    splice_state = splice_state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(splice_state >> 33) % n;
}

typedef struct splice_source {
    const char *sample;
    size_t bytes;
    const char *const *piece;
    size_t n_piece;
    size_t cut_max; /* bytes that a piece replaces at most */
    size_t most;    /* pieces at most */
} splice_source;

/* The text of a round in `text`, which has room for the sample and `most` pieces; its bytes. */
static inline size_t splice(const splice_source *s, uint64_t round, char *text)
{
    size_t n = s->bytes;
    memcpy(text, s->sample, n);
    splice_state = (round + 1) * 0x9e3779b97f4a7c15u;
    for (size_t times = 1 + splice_below(s->most); times > 0; times--) {
        const char *p = s->piece[splice_below(s->n_piece)];
        size_t at = splice_below(n + 1), cut = splice_below(s->cut_max), bytes = strlen(p);
        cut = cut > n - at ? n - at : cut;
        memmove(text + at + bytes, text + at + cut, n - at - cut);
        memcpy(text + at, p, bytes);
        n = n - cut + bytes;
    }
    return n;
}

#endif
