/* test_vocabulary.c - SentencePiece vocabularies of GGUF and tokenizer.json that nobody wrote: cut
 * anywhere, changed anywhere, they end in a tokenizer or in a refusal; and texts of a megabyte that
 * are one word, under every kind of model and under patterns made to be slow.
 *
 * That ids and text are right is tests/py/test_sentencepiece.py and test_tokenizer_json.py.
 */
#include "base/limits.h"
#include "model/tokenizer.h"

#include "gguf_builder.h"
#include "splice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define MARK         "\xe2\x96\x81"

/* ---- Making tokenizers ----------------------------------------------------------------------- */

static const struct {
    const char *text;
    float score;
    int32_t type;
} pieces[] = {
    {"<unk>", 0, 2}, {"<s>", 0, 3},     {"</s>", 0, 3},       {MARK, -2, 1},       {"a", -3, 1},
    {"b", -4, 1},    {"ab", -1, 1},     {MARK "a", -1.5f, 1}, {"aa", -2.5f, 1},    {"aaaa", -2, 1},
    {"<t>", 0, 4},   {MARK MARK, 0, 4}, {"aab", -5, 5},       {"\xc3\xa9", -6, 1},
};

/* A vocabulary of SentencePiece: with byte tokens where `has_bytes`. */
static void build(builder *b, const char *model, bool has_bytes)
{
    uint64_t n = COUNT(pieces) + (has_bytes ? 256 : 0);
    put_header(b, 0, 6);
    put_key(b, "tokenizer.ggml.model", 8);
    put_string(b, model);
    put_array(b, "tokenizer.ggml.tokens", 8, n);
    for (size_t i = 0; i < COUNT(pieces); i++) {
        put_string(b, pieces[i].text);
    }
    for (unsigned byte = 0; has_bytes && byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        put_string(b, name);
    }
    put_array(b, "tokenizer.ggml.scores", 6, n);
    for (uint64_t i = 0; i < n; i++) {
        float score = i < COUNT(pieces) ? pieces[i].score : 0;
        put(b, &score, sizeof score);
    }
    put_array(b, "tokenizer.ggml.token_type", 5, n);
    for (uint64_t i = 0; i < n; i++) {
        put_u32(b, (uint32_t)(i < COUNT(pieces) ? pieces[i].type : 6));
    }
    put_key(b, "tokenizer.ggml.remove_extra_whitespaces", 7);
    put_number(b, 0, 1);
    put_key_u32(b, "tokenizer.ggml.unknown_token_id", 0);
}

/* Opens, encodes a text of all kinds and decodes what came out; NULL: refused. */
static void use(tokenizer *t, greta_status status, const greta_error *err)
{
    static const char sample[] = "aab  <t> \xff" MARK "\xc3\xa9 \xf0\x9f\x98\x80</s>e\xcc\x81\r\n";
    greta_tokens tokens = {0};
    char *decoded = NULL;
    size_t bytes = 0;
    assert_true(status == GRETA_OK ? t != NULL : t == NULL);
    assert_true(status == GRETA_OK || status == GRETA_BAD_INPUT);
    assert_true(status == GRETA_OK || err->message[0] != '\0');
    if (t == NULL) {
        return;
    }
    greta_detokenize_options how = {.size = sizeof how};
    greta_tokenize_options special = {
        .size = sizeof special, .special = 1, .unknown_bytes_drop = 1};
    greta_error local = {0};
    if (tokenizer_encode(t, sample, sizeof sample - 1, &special, &tokens, &local) == GRETA_OK) {
        assert_int_equal(tokenizer_decode(t, tokens.id, tokens.n, &how, &decoded, &bytes, &local),
                         GRETA_OK);
    }
    greta_free(tokens.id);
    greta_free(decoded);
    tokenizer_free(t);
}

static void try_gguf(const uint8_t *data, size_t bytes)
{
    gguf *g = NULL;
    tokenizer *t = NULL;
    greta_error err = {0};
    uint8_t *copy = malloc(bytes + 1); /* of exactly these bytes: sanitizers see the end */
    memcpy(copy, data, bytes);
    if (gguf_parse(copy, bytes, &g, &err) == GRETA_OK) {
        const gguf_key *tokens = gguf_find_key(g, "tokenizer.ggml.tokens");
        greta_status status = tokenizer_new(g, tokens == NULL ? 1 : tokens->n, &t, &err);
        gguf_close(g); /* A tokenizer outlives its file. */
        g = NULL;
        use(t, status, &err);
    }
    gguf_close(g);
    free(copy);
}

static greta_status open_json(const char *json, size_t bytes, tokenizer **t, greta_error *err)
{
    tokenizer_files files = {.json = json, .json_bytes = bytes};
    return tokenizer_from_hf(&files, 0, t, err);
}

static void try_json(const char *json, size_t bytes)
{
    tokenizer *t = NULL;
    greta_error err = {0};
    char *copy = malloc(bytes + 1);
    memcpy(copy, json, bytes);
    greta_status status = open_json(copy, bytes, &t, &err);
    free(copy);
    use(t, status, &err);
}

static const char bpe_json[] =
    "{\"added_tokens\":[{\"id\":7,\"content\":\"<t>\",\"special\":true,\"normalized\":false,"
    "\"lstrip\":true,\"rstrip\":true},{\"id\":8,\"content\":\"a b\",\"single_word\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{"
    "\"String\":\" \"},"
    "\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"a+b|\\\\p{L}{1,3}\"},\"behavior\":\"MergedWithNext\"},\"post_processor\":{\"type\":"
    "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<t>\"}},{\"Sequence\":{\"id\":"
    "\"A\"}}],\"special_tokens\":{\"<t>\":{\"ids\":[7]}}},\"decoder\":{\"type\":\"Sequence\","
    "\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
    "\"content\":\" \"},"
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
    "\",\"start\":1,"
    "\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"fuse_unk\":true,"
    "\"byte_fallback\":true,\"vocab\":{\"u\":0,\"\xe2\x96\x81\":1,\"a\":2,\"b\":3,\"ab\":4,"
    "\"<0xFF>\":5,\"\xe2\x96\x81"
    "a\":6},\"merges\":[\"a b\",[\"\xe2\x96\x81\",\"a\"]]}}";
static const char unigram_json[] =
    "{\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":"
    "\"\xe2\x96\x81\",\"prepend_scheme\":\"first\"},\"decoder\":{\"type\":\"Metaspace\","
    "\"replacement\":\"\xe2\x96\x81\"},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":["
    "[\"u\",0],[\"\xe2\x96\x81\",-1.5],[\"a\",-2],[\"aa\",-2.5],[\"aaaaaaaa\",-3],[\"b\",-1e0]]}}";

/* ---- Damage ---------------------------------------------------------------------------------- */

/* In `make check-long` every place of a file is damaged; in `make check` one of 5, of 29 in files
 * with byte tokens, most of which are alike. */
static size_t step_of(size_t bytes)
{
    return getenv("GRETA_WHOLE") ? 1 : bytes > 2000 ? 29 : 5;
}

static void test_damaged_gguf(void **state)
{
    (void)state;
    builder b = {0};
    for (int kind = 0; kind < 4; kind++) {
        build(&b, kind % 2 == 0 ? "llama" : "t5", kind >= 2);
        try_gguf(b.data, b.size);
        for (size_t i = (size_t)kind; i < b.size; i += step_of(b.size)) {
            try_gguf(b.data, i);
            for (int bit = 0; bit < 8; bit++) {
                b.data[i] ^= (uint8_t)(1 << bit);
                try_gguf(b.data, b.size);
                b.data[i] ^= (uint8_t)(1 << bit);
            }
        }
    }
    free(b.data);
}

static void test_damaged_json(void **state)
{
    (void)state;
    static const char other[] = "{}[]\":,0-9ax\\ \xe2\0";
    const char *all[] = {bpe_json, unigram_json};
    for (size_t k = 0; k < COUNT(all); k++) {
        size_t bytes = strlen(all[k]);
        char *changed = malloc(bytes);
        tokenizer *t = NULL;
        greta_error err = {0};
        if (open_json(all[k], bytes, &t, &err) != GRETA_OK) {
            fail_msg("refused: %s", err.message);
        }
        tokenizer_free(t);
        for (size_t i = k; i < bytes; i += step_of(bytes)) {
            try_json(all[k], i);
            memcpy(changed, all[k], bytes);
            for (size_t c = 0; c < sizeof other - 1; c++) {
                changed[i] = other[c];
                try_json(changed, bytes);
            }
        }
        free(changed);
    }
}

/* What tokenizer.json is made of. */
static const char *const piece[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "0",
    "-1",
    "1e999",
    "9223372036854775807",
    "null",
    "true",
    "\"a\"",
    "\"\"",
    "[\"a\",\"b\"],",
    "\"a b\",",
    "\"ab\":4,",
    "\"<0x00>\":9,",
    "{\"type\":\"NFKC\"},",
    "{\"type\":\"Lowercase\"},",
    "{\"type\":\"StripAccents\"},",
    "{\"type\":\"Sequence\",\"normalizers\":[",
    "{\"type\":\"ByteLevel\"},",
    "{\"type\":\"Digits\",\"individual_digits\":true},",
    "{\"type\":\"Punctuation\"},",
    "\"Regex\":\"(a|aa)+$\"",
    "\"Regex\":\"\"",
    "\"String\":\"\"",
    "\"Removed\"",
    "\"Isolated\"",
    "\"invert\":true,",
    "\"special\":true,",
    "\"id\":1,",
    "\"id\":2147483647,",
    "\"content\":\"\",",
    "\"content\":\"a\",",
    "\"normalized\":true,",
    "\"byte_fallback\":true,",
    "\"unk_id\":99,",
    "\"unk_token\":null,",
    "\"ignore_merges\":true,",
    "\"dropout\":0.5,",
    "\"WordPiece\"",
    "\"Unigram\"",
    "\"BPE\"",
    "\"precompiled_charsmap\":\"AAAA\",",
    "\\u0000",
    "\\ud800",
    "\xff",
    "\"prepend_scheme\":\"never\",",
    "\"add_prefix_space\":true,",
    "\"ids\":[7,-1]",
    "[[[[[[[[",
};

static void test_spliced_json(void **state)
{
    (void)state;
    const char *sample[] = {bpe_json, unigram_json};
    for (uint64_t round = 0; round < splice_rounds(3000); round++) {
        const char *json = sample[round % 2];
        const splice_source source = {json, strlen(json), piece, COUNT(piece), 16, 3};
        char text[2048];
        try_json(text, splice(&source, round, text));
    }
}

static void test_limits(void **state)
{
    (void)state;
    tokenizer_files files = {.json = "{}", .json_bytes = (size_t)LIMIT_TOKENIZER_BYTES + 1};
    tokenizer *t = NULL;
    greta_error err = {0};
    assert_int_equal(tokenizer_from_hf(&files, 0, &t, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "268435457 bytes (at most 268435456)");
    assert_string_equal(err.file, "tokenizer.json");
    /* Rows of the embedding: as many as ids or more, not fewer. */
    files = (tokenizer_files){.json = unigram_json, .json_bytes = strlen(unigram_json)};
    err = (greta_error){0};
    assert_int_equal(tokenizer_from_hf(&files, 5, &t, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "vocabulary 6, embedding rows 5");
    assert_int_equal(tokenizer_from_hf(&files, 8, &t, NULL), GRETA_OK);
    size_t n = 1;
    assert_int_equal(tokenizer_n_vocab(t), 8);
    assert_non_null(tokenizer_bytes(t, 7, &n));
    assert_int_equal(n, 0);
    assert_int_equal(tokenizer_add_end(t, 8, &err), GRETA_BAD_INPUT);
    assert_int_equal(tokenizer_add_end(t, 3, NULL), GRETA_OK);
    assert_true(tokenizer_is_end(t, 3));
    tokenizer_free(t);
}

/* ---- Long texts ------------------------------------------------------------------------------ */

/* What is quadratic shows under sanitizers in an eighth of a megabyte. */
#ifdef SANITIZED
#define LONG (1u << 17)
#else
#define LONG (1u << 20)
#endif

/* Seconds of this thread that LONG bytes of `unit`, over and over, takes; its tokens must give the
 * text back where `is_exact`. */
static double seconds_of(const tokenizer *t, const char *unit, greta_status *status)
{
    size_t n = strlen(unit), bytes = LONG / n * n;
    char *long_text = malloc(bytes);
    greta_tokens tokens = {0};
    greta_error err = {0};
    struct timespec start, stop;
    for (size_t i = 0; i < bytes; i++) {
        long_text[i] = unit[i % n];
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    *status = tokenizer_encode(t, long_text, bytes, NULL, &tokens, &err);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &stop);
    assert_true(*status == GRETA_OK || err.message[0] != '\0');
    greta_free(tokens.id);
    free(long_text);
    return (double)(stop.tv_sec - start.tv_sec) + 1e-9 * (double)(stop.tv_nsec - start.tv_nsec);
}

/* What is quadratic takes hours; what is linear takes less than this, also under sanitizers. */
#define SECONDS_MAX 60.0

static const char *const units[] = {"a",
                                    " ",
                                    "\n",
                                    "ab",
                                    "A",
                                    "\xcc\x81",
                                    "\xe4\xb8\xad",
                                    "\xcc\x81\xcc\xa3\xcc\xb4",
                                    "9",
                                    "\t ",
                                    "-",
                                    "\xf0\x9f\x91\xa9\xe2\x80\x8d",
                                    "\xff",
                                    "\xd7\xa9",
                                    "'",
                                    "<t",
                                    MARK};

static void all_units(const tokenizer *t)
{
    for (size_t i = 0; i < COUNT(units); i++) {
        greta_status status;
        double seconds = seconds_of(t, units[i], &status);
        if (seconds > SECONDS_MAX) {
            fail_msg("a long text of unit %zu took %d seconds", i, (int)seconds);
        }
    }
}

static void test_long_sentencepiece(void **state)
{
    (void)state;
    builder b = {0};
    for (int kind = 0; kind < 2; kind++) {
        gguf *g = NULL;
        tokenizer *t = NULL;
        greta_error err = {0};
        build(&b, kind == 0 ? "llama" : "t5", true);
        assert_int_equal(gguf_parse(b.data, b.size, &g, &err), GRETA_OK);
        assert_int_equal(tokenizer_new(g, COUNT(pieces) + 256, &t, &err), GRETA_OK);
        all_units(t);
        tokenizer_free(t);
        gguf_close(g);
    }
    free(b.data);
}

static void test_long_json(void **state)
{
    (void)state;
    const char *all[] = {bpe_json, unigram_json};
    for (size_t k = 0; k < COUNT(all); k++) {
        tokenizer *t = NULL;
        greta_error err = {0};
        assert_int_equal(open_json(all[k], strlen(all[k]), &t, &err), GRETA_OK);
        all_units(t);
        tokenizer_free(t);
    }
}

/* Published patterns on texts that make them go back, and patterns that look at everything that
 * follows for every word: these are refused before they take for ever. */
static void test_long_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *unit;
        greta_status status;
    } cases[] = {
        {"[\\\\p{Lu}\\\\p{M}]*[\\\\p{Ll}\\\\p{M}]+|[\\\\p{Lu}\\\\p{M}]+[\\\\p{Ll}\\\\p{M}]*|.", "A",
         GRETA_OK},
        {"\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+|\\\\S", " ", GRETA_OK},
        {"a|b", "x", GRETA_OK},
        {"a+b|a", "a", GRETA_BAD_INPUT},
        {"a*a*a*a*b|a", "a", GRETA_BAD_INPUT},
        {"(?:a|aa)(?:a|aa)(?:a|aa)(?:a|aa)[^x]*y|a", "a", GRETA_BAD_INPUT},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char json[2000];
        tokenizer *t = NULL;
        greta_error err = {0};
        greta_status status;
        int n = snprintf(json, sizeof json,
                         "{\"decoder\":{\"type\":\"ByteFallback\"},\"pre_tokenizer\":{\"type\":"
                         "\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\"},"
                         "\"model\":{\"type\":\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0},"
                         "\"merges\":[]}}",
                         cases[i].pattern);
        if (open_json(json, (size_t)n, &t, &err) != GRETA_OK) {
            fail_msg("pattern %zu: %s", i, err.message);
        }
        double seconds = seconds_of(t, cases[i].unit, &status);
        if (seconds > SECONDS_MAX || status != cases[i].status) {
            fail_msg("pattern %zu: status %d after %d seconds", i, (int)status, (int)seconds);
        }
        tokenizer_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damaged_gguf),       cmocka_unit_test(test_damaged_json),
        cmocka_unit_test(test_spliced_json),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_long_sentencepiece), cmocka_unit_test(test_long_json),
        cmocka_unit_test(test_long_patterns),
    };
    return cmocka_run_group_tests_name("vocabulary", tests, NULL, NULL);
}
