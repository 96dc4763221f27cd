/* pretokenize.c - pre-tokenizers: those that `tokenizer.ggml.pre` names, and those that a
 * tokenizer.json spells out.
 *
 * A pre-tokenizer is a chain of steps, as the members of a Sequence in the `tokenizers` library:
 * the first cuts the text into pieces, the next cuts each piece as if it were a whole text, so that
 * a lookahead cannot see into the next piece. Words are pulled through the chain one by one; each
 * step keeps a place in its piece, so that a text of any length needs no list of pieces. A step may
 * also put a space in front of its piece (ByteLevel's add_prefix_space, Metaspace) or write spaces
 * as U+2581 (Metaspace); then it cuts a copy.
 *
 * Names: the meaning of a value is llama.cpp's (src/llama-vocab.cpp), several of which are further
 * spellings of one. The patterns are the published ones, of the tokenizer.json of Llama 3, Qwen2,
 * Mistral Nemo (tekken), GPT-4o (also Phi-4-mini) and GPT-2; dbrx (also Phi-4) has Llama 3's, but
 * merges words that are tokens. Anything else is refused: a guessed pre-tokenizer is a divergence.
 */
#include "model/pretokenize.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define REST         "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define MARK         "\xe2\x96\x81" /* U+2581 */

const char pretokenize_gpt2[] =
    CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char digit_pattern[] = "\\p{N}";

/* The pattern of Llama 3 and Qwen2, which differ in how many digits stand together. */
#define CL100K(numbers)                                                                            \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers                                 \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" REST
static const char llama3_pattern[] = CL100K("\\p{N}{1,3}");
static const char qwen2_pattern[] = CL100K("\\p{N}");

/* That of GPT-4o and tekken: a word is capitals, then small letters. */
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define O200K(ending, numbers)                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" ending "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER       \
    "]+[" LOWER "]*" ending "|" numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" REST
static const char tekken_pattern[] = O200K("", "\\p{N}");
static const char gpt4o_pattern[] = O200K("(?i:" CONTRACTIONS ")?", "\\p{N}{1,3}");

#define NAMED_STEPS_MAX 2

typedef struct family {
    const char *name;
    const char *pattern[NAMED_STEPS_MAX]; /* NULL: one step */
    bool ignores_merges, adds_bos;
} family;

static const family families[] = {
    {"smollm", {digit_pattern, pretokenize_gpt2}, false, false},
    {"llama-bpe", {llama3_pattern, NULL}, true, true},
    {"gpt-2", {pretokenize_gpt2, NULL}, false, false},
    {"qwen2", {qwen2_pattern, NULL}, false, false},
    {"tekken", {tekken_pattern, NULL}, true, true},
    {"gpt-4o", {gpt4o_pattern, NULL}, false, false},
    {"dbrx", {llama3_pattern, NULL}, false, false},
    {"starcoder", {digit_pattern, pretokenize_gpt2}, false, false},
    {"refact", {digit_pattern, pretokenize_gpt2}, false, false},
    {"command-r", {digit_pattern, pretokenize_gpt2}, false, false},
    {"llama3", {llama3_pattern, NULL}, true, true},
    {"llama-v3", {llama3_pattern, NULL}, true, true},
    {"phi-2", {pretokenize_gpt2, NULL}, false, false},
    {"deepseek-r1-qwen", {qwen2_pattern, NULL}, false, false},
    {"stablelm2", {qwen2_pattern, NULL}, false, false},
    {"smaug-bpe", {llama3_pattern, NULL}, false, false},
};
#define FAMILIES_SHOWN                                                                             \
    "smollm, llama-bpe, gpt-2, qwen2, tekken, gpt-4o, dbrx, starcoder, refact, command-r"

struct pretokenizer {
    bool ignores_merges, adds_bos;
    pretokenize_step step[LIMIT_TOKENIZER_STEPS];
    size_t n_step;
};

/* A stretch of a piece: one match of the pattern, or what lies between two. */
typedef struct part {
    const char *start, *end;
    bool is_match;
} part;

typedef struct level {
    const char *piece, *at, *end; /* `at`: behind what the pattern has looked at */
    bool is_first;                /* the piece begins the whole text */
    part ahead[2];                /* parts read but not taken */
    int n_ahead;
    char *copy; /* of a piece that the step changes */
    size_t capacity;
} level;

struct pretokenize_scan {
    const pretokenizer *p;
    regex_scan *scan;
    const char *text;
    size_t bytes;
    bool is_first, is_inner, is_given;
    level level[LIMIT_TOKENIZER_STEPS];
};

/* ---- Making one ------------------------------------------------------------------------------ */

greta_status pretokenizer_new(pretokenizer **out, greta_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out == NULL ? error_memory(err, "the pre-tokenizer", sizeof **out) : GRETA_OK;
}

greta_status pretokenizer_add(pretokenizer *p, pretokenize_step step, greta_error *err)
{
    if (p->n_step == LIMIT_TOKENIZER_STEPS) {
        regex_free(step.pattern);
        return error_set(err, GRETA_BAD_INPUT, "more than %u pre-tokenizers in a row",
                         LIMIT_TOKENIZER_STEPS);
    }
    p->step[p->n_step++] = step;
    return GRETA_OK;
}

static greta_status family_add(pretokenizer *p, const family *f, greta_error *err)
{
    for (int i = 0; i < NAMED_STEPS_MAX && f->pattern[i] != NULL; i++) {
        pretokenize_step step = {.behavior = SPLIT_ISOLATED};
        GRETA_TRY(regex_new(f->pattern[i], strlen(f->pattern[i]), &step.pattern, err));
        GRETA_TRY(pretokenizer_add(p, step, err));
    }
    p->ignores_merges = f->ignores_merges;
    p->adds_bos = f->adds_bos;
    return GRETA_OK;
}

greta_status pretokenizer_named(const char *name, size_t bytes, pretokenizer **out,
                                greta_error *err)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strlen(families[i].name) != bytes || memcmp(families[i].name, name, bytes) != 0) {
            continue;
        }
        GRETA_TRY(pretokenizer_new(out, err));
        greta_status status = family_add(*out, &families[i], err);
        if (status != GRETA_OK) {
            pretokenizer_free(*out);
            *out = NULL;
        }
        return status;
    }
    char input[ESCAPED_MAX];
    return error_set(err, GRETA_BAD_INPUT,
                     "tokenizer.ggml.pre \"%s\" is not supported (" FAMILIES_SHOWN
                     "): a guessed pre-tokenizer would be a divergence",
                     escape(name, bytes, input));
}

void pretokenizer_free(pretokenizer *p)
{
    for (size_t i = 0; p != NULL && i < p->n_step; i++) {
        regex_free(p->step[i].pattern);
    }
    free(p);
}

bool pretokenizer_ignores_merges(const pretokenizer *p)
{
    return p->ignores_merges;
}

bool pretokenizer_adds_bos(const pretokenizer *p)
{
    return p->adds_bos;
}

/* ---- Scratch --------------------------------------------------------------------------------- */

greta_status pretokenize_scan_new(const pretokenizer *p, pretokenize_scan **out, greta_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return error_memory(err, "the pre-tokenizer", sizeof **out);
    }
    (*out)->p = p;
    greta_status status = regex_scan_new(&(*out)->scan, err);
    if (status != GRETA_OK) {
        pretokenize_scan_free(*out);
        *out = NULL;
    }
    return status;
}

void pretokenize_scan_free(pretokenize_scan *scan)
{
    if (scan != NULL) {
        for (size_t i = 0; i < LIMIT_TOKENIZER_STEPS; i++) {
            free(scan->level[i].copy);
        }
        regex_scan_free(scan->scan);
        free(scan);
    }
}

void pretokenize_begin(pretokenize_scan *scan, const char *input, size_t bytes, bool is_first,
                       bool is_inner)
{
    scan->text = input;
    scan->bytes = bytes;
    scan->is_first = is_first;
    scan->is_inner = is_inner;
    scan->is_given = bytes == 0;
    for (size_t i = 0; i < scan->p->n_step; i++) {
        level *l = &scan->level[i];
        l->piece = l->at = l->end = NULL;
        l->n_ahead = 0;
    }
    regex_begin(scan->scan, bytes);
}

/* ---- A step enters a piece ------------------------------------------------------------------- */

/* The piece as the step cuts it: with its prefix, and spaces marked. */
static greta_status level_copy(level *l, const pretokenize_step *step, bool has_prefix,
                               const char *input, size_t bytes, greta_error *err)
{
    const char *blank = step->marks_spaces ? MARK : " ";
    size_t n = strlen(blank), needed = (bytes + 1) * n, length = 0;
    if (needed > l->capacity) {
        free(l->copy);
        l->capacity = 0;
        l->copy = malloc(needed);
        if (l->copy == NULL) {
            return error_memory(err, "a piece of the text", needed);
        }
        l->capacity = needed;
    }
    bool begins = bytes >= n && memcmp(input, blank, n) == 0;
    begins = begins || (bytes > 0 && input[0] == ' ');
    if (has_prefix && !begins) {
        memcpy(l->copy, blank, n);
        length = n;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (input[i] == ' ') {
            memcpy(l->copy + length, blank, n);
            length += n;
        } else {
            l->copy[length++] = input[i];
        }
    }
    l->piece = l->copy;
    l->end = l->copy + length;
    return GRETA_OK;
}

static greta_status level_enter(pretokenize_scan *scan, size_t k, const char *input, size_t bytes,
                                bool is_first, greta_error *err)
{
    level *l = &scan->level[k];
    const pretokenize_step *step = &scan->p->step[k];
    bool has_prefix =
        step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && is_first);
    has_prefix = has_prefix && !(scan->is_inner && input == scan->text);
    l->is_first = is_first;
    l->piece = input;
    l->end = input + bytes;
    if (has_prefix || step->marks_spaces) {
        GRETA_TRY(level_copy(l, step, has_prefix, input, bytes, err));
    }
    l->at = l->piece;
    return GRETA_OK;
}

/* ---- A step cuts its piece ------------------------------------------------------------------- */

/* Reads parts until `n` are ahead or the piece ends. */
static greta_status parts_read(pretokenize_scan *scan, size_t k, int n, greta_error *err)
{
    level *l = &scan->level[k];
    const pretokenize_step *step = &scan->p->step[k];
    while (l->n_ahead < n && l->at < l->end) {
        size_t bytes = (size_t)(l->end - l->at), start = bytes, stop = bytes;
        if (step->pattern != NULL) {
            GRETA_TRY(regex_find(scan->scan, step->pattern, l->at, bytes, &start, &stop, err));
        }
        if (start > 0) {
            l->ahead[l->n_ahead++] = (part){l->at, l->at + start, step->is_inverted};
            /* What follows is found again, or kept where there is room. */
            if (l->n_ahead == 2 || start == stop) {
                l->at += start;
                continue;
            }
        }
        l->ahead[l->n_ahead++] = (part){l->at + start, l->at + stop, !step->is_inverted};
        l->at += stop;
    }
    return GRETA_OK;
}

static part part_take(level *l)
{
    part first = l->ahead[0];
    l->ahead[0] = l->ahead[1];
    l->n_ahead--;
    return first;
}

/* The next word of the piece; its end is its start when there is none. */
static greta_status level_cut(pretokenize_scan *scan, size_t k, part *word, greta_error *err)
{
    level *l = &scan->level[k];
    split_behavior behavior = scan->p->step[k].behavior;
    *word = (part){l->end, l->end, false};
    for (bool has_word = false;;) {
        GRETA_TRY(parts_read(scan, k, 1, err));
        if (l->n_ahead == 0) {
            return GRETA_OK;
        }
        if (behavior == SPLIT_REMOVED && l->ahead[0].is_match) {
            part_take(l);
            continue;
        }
        if (!has_word) {
            *word = part_take(l);
            has_word = true;
            bool joins = behavior == SPLIT_CONTIGUOUS ||
                         (behavior == SPLIT_MERGED_WITH_NEXT && word->is_match) ||
                         (behavior == SPLIT_MERGED_WITH_PREVIOUS && !word->is_match);
            if (!joins) {
                return GRETA_OK;
            }
            continue;
        }
        if (behavior == SPLIT_CONTIGUOUS) {
            if (l->ahead[0].is_match != word->is_match) {
                return GRETA_OK;
            }
            word->end = part_take(l).end;
            continue;
        }
        if (l->ahead[0].is_match != word->is_match) {
            word->end = part_take(l).end;
        }
        return GRETA_OK;
    }
}

/* The next word of step k. The chain is as long as the file says, at most
 * LIMIT_TOKENIZER_STEPS. */
static greta_status next_of(pretokenize_scan *scan, size_t k, part *word, bool *is_first,
                            greta_error *err)
{
    level *l = &scan->level[k];
    for (;;) {
        if (l->piece != NULL) {
            GRETA_TRY(level_cut(scan, k, word, err));
            if (word->start != word->end) {
                *is_first = l->is_first && word->start == l->piece;
                return GRETA_OK;
            }
            l->piece = NULL;
        }
        part above = {scan->text, scan->text + (scan->is_given ? 0 : scan->bytes), false};
        bool first = scan->is_first;
        if (k > 0) {
            GRETA_TRY(next_of(scan, k - 1, &above, &first, err));
        } else {
            scan->is_given = true;
        }
        if (above.start == above.end) {
            *word = above;
            return GRETA_OK;
        }
        GRETA_TRY(level_enter(scan, k, above.start, (size_t)(above.end - above.start), first, err));
    }
}

greta_status pretokenize_next(pretokenize_scan *scan, const char **word, size_t *length,
                              greta_error *err)
{
    part found = {scan->text, scan->text + scan->bytes, false};
    bool is_first = false;
    if (scan->p->n_step == 0) {
        found.end = scan->is_given ? found.start : found.end;
        scan->is_given = true;
    } else {
        GRETA_TRY(next_of(scan, scan->p->n_step - 1, &found, &is_first, err));
    }
    *word = found.start;
    *length = (size_t)(found.end - found.start);
    return GRETA_OK;
}
