/* pretokenize.c - the pre-tokenizers of GGUF's `tokenizer.ggml.pre`, as PCRE2 patterns.
 *
 * A pre-tokenizer is one or two patterns applied in sequence, as the `tokenizers` library applies
 * the members of a Sequence: the first cuts the text into pieces, the next cuts each piece as if it
 * were a whole text, so that a lookahead cannot see into the next piece. `smollm` is Digits
 * (every numeric character alone) and then GPT-2's pattern; the others are one pattern.
 *
 * The patterns are the published ones with one change. PCRE2's \s and the engine's of `tokenizers`
 * differ (U+180E), so the class is spelt out as Unicode's White_Space: WS below. Case is folded by
 * Unicode in (?i:...), as there: 's also takes U+017F. Both hold for code points up to Unicode 14,
 * the version of PCRE2 10.42's tables.
 *
 * In each pattern every character begins some alternative, so a word always starts where the last
 * one ended: the patterns are compiled anchored, and no match is a broken promise of ours. Each
 * match costs time linear in what it consumes. The match limit is proportional to the text and
 * bounds it even so; without JIT (a system that forbids it) the same patterns are interpreted.
 *
 * Names: the meaning of a value is llama.cpp's (src/llama-vocab.cpp), where "llama3" and "llama-v3"
 * are further spellings of "llama-bpe". Anything else is refused: a guessed pre-tokenizer is a
 * divergence.
 */
#include "model/pretokenize.h"

#include "base/limits.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#define WS "\\x09-\\x0d\\x{85}\\p{Z}"
#define SPACE "[" WS "]"
#define SPACE_END SPACE "+(?![^" WS "])"
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

static const char gpt2_pattern[] =
    CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACE_END "|" SPACE "+";
static const char digit_pattern[] = "\\p{N}|\\P{N}+";

/* The pattern of Llama 3 and Qwen2, which differ in how many digits stand together. */
#define CL100K(numbers)                                                                            \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" WS                      \
    "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE_END "|" SPACE "+"
static const char llama3_pattern[] = CL100K("\\p{N}{1,3}");
static const char qwen2_pattern[] = CL100K("\\p{N}");

#define STEPS_MAX 2

typedef struct family {
    const char *name;
    const char *pattern[STEPS_MAX]; /* NULL: one step */
    bool ignores_merges, adds_bos;
} family;

static const family families[] = {
    {"smollm", {digit_pattern, gpt2_pattern}, false, false},
    {"llama-bpe", {llama3_pattern, NULL}, true, true},
    {"llama3", {llama3_pattern, NULL}, true, true},
    {"llama-v3", {llama3_pattern, NULL}, true, true},
    {"gpt-2", {gpt2_pattern, NULL}, false, false},
    {"qwen2", {qwen2_pattern, NULL}, false, false},
};

struct pretokenizer {
    const family *family;
    pcre2_code *step[STEPS_MAX];
    int n_step;
};

struct pretokenize_scan {
    const pretokenizer *p;
    pcre2_match_data *match;
    pcre2_match_context *context;
    const char *at, *piece_end, *end; /* the word starts at `at`, inside a piece, inside the text */
};

static greta_status pattern_compile(const char *pattern, pcre2_code **code, greta_error *err)
{
    int number = 0;
    PCRE2_SIZE place = 0;
    *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, &number,
                          &place, NULL);
    if (*code == NULL) {
        return number == PCRE2_ERROR_HEAP_FAILED
                   ? error_memory(err, "the pre-tokenizer", strlen(pattern))
                   : error_set(err, GRETA_BUG, "pattern refused at %zu (error %d)", place, number);
    }
    /* A failure leaves the code interpreted, with the same result. */
    (void)pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
    return GRETA_OK;
}

greta_status pretokenizer_new(const char *name, size_t bytes, pretokenizer **out, greta_error *err)
{
    *out = NULL;
    const family *found = NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strlen(families[i].name) == bytes && memcmp(families[i].name, name, bytes) == 0) {
            found = &families[i];
        }
    }
    if (found == NULL) {
        char text[ESCAPED_MAX];
        return error_set(err, GRETA_BAD_INPUT,
                         "tokenizer.ggml.pre \"%s\" is not supported (smollm, llama-bpe, gpt-2, "
                         "qwen2): a guessed pre-tokenizer would be a divergence",
                         escape(name, bytes, text));
    }
    pretokenizer *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return error_memory(err, "the pre-tokenizer", sizeof *p);
    }
    p->family = found;
    for (int i = 0; i < STEPS_MAX && found->pattern[i] != NULL; i++) {
        greta_status status = pattern_compile(found->pattern[i], &p->step[i], err);
        if (status != GRETA_OK) {
            pretokenizer_free(p);
            return status;
        }
        p->n_step++;
    }
    *out = p;
    return GRETA_OK;
}

void pretokenizer_free(pretokenizer *p)
{
    if (p != NULL) {
        for (int i = 0; i < STEPS_MAX; i++) {
            pcre2_code_free(p->step[i]);
        }
        free(p);
    }
}

bool pretokenizer_ignores_merges(const pretokenizer *p)
{
    return p->family->ignores_merges;
}

bool pretokenizer_adds_bos(const pretokenizer *p)
{
    return p->family->adds_bos;
}

greta_status pretokenize_scan_new(const pretokenizer *p, pretokenize_scan **out, greta_error *err)
{
    *out = NULL;
    pretokenize_scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL) {
        return error_memory(err, "the pre-tokenizer", sizeof *scan);
    }
    scan->p = p;
    scan->match = pcre2_match_data_create(1, NULL);
    scan->context = pcre2_match_context_create(NULL);
    if (scan->match == NULL || scan->context == NULL) {
        pretokenize_scan_free(scan);
        return error_memory(err, "the pre-tokenizer", sizeof *scan);
    }
    *out = scan;
    return GRETA_OK;
}

void pretokenize_scan_free(pretokenize_scan *scan)
{
    if (scan != NULL) {
        pcre2_match_data_free(scan->match);
        pcre2_match_context_free(scan->context);
        free(scan);
    }
}

/* No alternative takes more than a few steps a character, and none nests. */
static void limits_set(pretokenize_scan *scan, size_t bytes)
{
    _Static_assert(LIMIT_PROMPT_BYTES <= (UINT32_MAX - 1024) / 8, "the match limit is 32 bits");
    size_t steps = bytes < LIMIT_PROMPT_BYTES ? bytes : LIMIT_PROMPT_BYTES;
    pcre2_set_match_limit(scan->context, (uint32_t)steps * 8 + 1024);
    pcre2_set_depth_limit(scan->context, 64);
}

void pretokenize_begin(pretokenize_scan *scan, const char *text, size_t bytes)
{
    scan->at = text;
    scan->end = text + bytes;
    scan->piece_end = scan->p->n_step == 1 ? scan->end : text;
    limits_set(scan, bytes);
}

static greta_status match_length(pretokenize_scan *scan, const pcre2_code *code, const char *end,
                                 size_t *length, greta_error *err)
{
    size_t bytes = (size_t)(end - scan->at);
    int rc = pcre2_match(code, (PCRE2_SPTR)scan->at, bytes, 0, PCRE2_NO_UTF_CHECK, scan->match,
                         scan->context);
    *length = rc < 0 ? 0 : pcre2_get_ovector_pointer(scan->match)[1];
    if (rc == PCRE2_ERROR_NOMEMORY) {
        return error_memory(err, "the pre-tokenizer", bytes);
    }
    if (*length == 0) {
        return error_set(err, GRETA_BUG, "the pre-tokenizer stopped %zu bytes before the end (%d)",
                         bytes, rc);
    }
    return GRETA_OK;
}

greta_status pretokenize_next(pretokenize_scan *scan, const char **word, size_t *length,
                              greta_error *err)
{
    *word = scan->at;
    *length = 0;
    if (scan->at == scan->end) {
        return GRETA_OK;
    }
    const pretokenizer *p = scan->p;
    if (scan->at == scan->piece_end) {
        size_t piece = 0;
        GRETA_TRY(match_length(scan, p->step[0], scan->end, &piece, err));
        scan->piece_end = scan->at + piece;
    }
    GRETA_TRY(match_length(scan, p->step[p->n_step - 1], scan->piece_end, length, err));
    scan->at += *length;
    return GRETA_OK;
}
