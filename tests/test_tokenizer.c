/* test_tokenizer.c - the tokenizer on vocabularies made here: what it refuses and in which words,
 * and that it encodes as the definition of byte pair encoding says.
 *
 * The comparison with the `tokenizers` library is tests/py/test_tokenizer.py. Here the reference is
 * a naive twin: scan the whole word for the best pair after every join.
 */
#include "base/limits.h"
#include "model/tokenizer.h"

#include "gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include <cmocka.h>

#define KEY(name) "tokenizer.ggml." name
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { KIND_U8 = 0, KIND_I8 = 1, KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_STRING = 8 };
enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4 };

/* A vocabulary: the 256 bytes (but `lacking`), then `token` with `type`; `merge` as strings. Keys
 * are overridden by the fields that are set. */
typedef struct spec {
    const char *token[40];
    int32_t type[40];       /* 0: normal */
    const char *merge[20];
    const char *model, *pre;          /* NULL: "gpt2", "gpt-2"; "": no key */
    const char *lacking;              /* bytes without a token */
    int64_t bos, eos, eot;            /* 0: none */
    int add_bos, add_eos;             /* 0: no key, 1: true, -1: false */
    int64_t n_scores, n_types;        /* 0: as many as tokens */
    uint32_t scores_kind, types_kind; /* 0: f32, i32 */
    uint32_t tokens_kind;             /* 0: strings */
    uint64_t n_embd_rows;             /* 0: as many as tokens */
} spec;

typedef struct opened {
    gguf *g;
    tokenizer *t;
    uint8_t *data;
} opened;

/* GPT-2's character for a byte, as UTF-8. */
static const char *byte_text(int byte, char out[3])
{
    int code = byte, next = 0x100;
    for (int i = 0; i <= byte; i++) {
        bool prints = (i > ' ' && i < 0x7f) || (i > 0xa0 && i != 0xad);
        code = prints ? i : next++;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        out[1] = '\0';
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        out[2] = '\0';
    }
    return out;
}

static bool has_byte(const spec *s, int byte)
{
    return s->lacking == NULL || strchr(s->lacking, byte) == NULL || byte == 0;
}

static int32_t token_count(const spec *s)
{
    int32_t n = 0;
    for (int byte = 0; byte < 256; byte++) {
        n += has_byte(s, byte);
    }
    for (size_t i = 0; i < COUNT(s->token) && s->token[i] != NULL; i++) {
        n++;
    }
    return n;
}

static void put_tokens(builder *b, const spec *s)
{
    char out[3];
    put_array(b, KEY("tokens"), s->tokens_kind ? s->tokens_kind - 1 : KIND_STRING,
              (uint64_t)token_count(s));
    if (s->tokens_kind) {
        for (int32_t i = 0; i < token_count(s); i++) {
            put_number(b, 1, 1);
        }
        return;
    }
    for (int byte = 0; byte < 256; byte++) {
        if (has_byte(s, byte)) {
            put_string(b, byte_text(byte, out));
        }
    }
    for (size_t i = 0; i < COUNT(s->token) && s->token[i] != NULL; i++) {
        put_string(b, s->token[i]);
    }
}

static void put_types(builder *b, const spec *s)
{
    int64_t n = s->n_types ? s->n_types : token_count(s);
    size_t bytes = s->types_kind == KIND_I8 ? 1 : 4;
    int32_t n_byte = token_count(s);
    for (size_t i = 0; i < COUNT(s->token) && s->token[i] != NULL; i++) {
        n_byte--;
    }
    put_array(b, KEY("token_type"), s->types_kind ? s->types_kind : KIND_I32, (uint64_t)n);
    for (int64_t i = 0; i < n; i++) {
        int32_t type = i < n_byte || i - n_byte >= 40 ? 0 : s->type[i - n_byte];
        put_number(b, (uint64_t)(uint32_t)(type == 0 ? NORMAL : type), bytes);
    }
}

static uint64_t put_optional(builder *b, const spec *s)
{
    uint64_t n = 0;
    const struct {
        const char *name;
        int64_t value;
    } ids[] = {{KEY("bos_token_id"), s->bos}, {KEY("eos_token_id"), s->eos},
               {KEY("eot_token_id"), s->eot}};
    const struct {
        const char *name;
        int value;
    } flags[] = {{KEY("add_bos_token"), s->add_bos}, {KEY("add_eos_token"), s->add_eos}};
    for (size_t i = 0; i < COUNT(ids); i++) {
        if (ids[i].value < 0) { /* as i32 */
            put_key(b, ids[i].name, KIND_I32);
            put_u32(b, (uint32_t)ids[i].value);
            n++;
        } else if (ids[i].value > 0) {
            put_key_u32(b, ids[i].name, (uint32_t)ids[i].value);
            n++;
        }
    }
    for (size_t i = 0; i < COUNT(flags); i++) {
        if (flags[i].value != 0) {
            put_key(b, flags[i].name, 7);
            put_number(b, flags[i].value > 0, 1);
            n++;
        }
    }
    if (s->n_scores || s->scores_kind) {
        int64_t n_scores = s->n_scores ? s->n_scores : token_count(s);
        uint32_t kind = s->scores_kind ? s->scores_kind : KIND_F32;
        put_array(b, KEY("scores"), kind, (uint64_t)n_scores);
        for (int64_t i = 0; i < n_scores; i++) {
            put_number(b, 0, kind == KIND_F32 ? 4 : 1);
        }
        n++;
    }
    return n;
}

/* The GGUF bytes of a vocabulary. */
static void build(builder *b, const spec *s)
{
    size_t n_merge = 0;
    uint64_t n_key = 3;
    const char *model = s->model ? s->model : "gpt2", *pre = s->pre ? s->pre : "gpt-2";
    while (n_merge < COUNT(s->merge) && s->merge[n_merge] != NULL) {
        n_merge++;
    }
    put_header(b, 0, 0);
    put_tokens(b, s);
    put_types(b, s);
    put_array(b, KEY("merges"), KIND_STRING, n_merge);
    for (size_t i = 0; i < n_merge; i++) {
        put_string(b, s->merge[i]);
    }
    if (model[0] != '\0') {
        put_key(b, KEY("model"), KIND_STRING);
        put_string(b, model);
        n_key++;
    }
    if (pre[0] != '\0') {
        put_key(b, KEY("pre"), KIND_STRING);
        put_string(b, pre);
        n_key++;
    }
    n_key += put_optional(b, s);
    memcpy(b->data + 16, &n_key, sizeof n_key);
}

static void shut(opened *o)
{
    tokenizer_free(o->t);
    gguf_close(o->g);
    free(o->data);
    *o = (opened){0};
}

static greta_status open_bytes(const builder *b, uint64_t n_embd_rows, opened *o, greta_error *err)
{
    *o = (opened){.data = malloc(b->size)};
    memcpy(o->data, b->data, b->size);
    greta_status status = gguf_parse(o->data, b->size, &o->g, err);
    if (status == GRETA_OK) {
        const gguf_key *tokens = gguf_find_key(o->g, KEY("tokens"));
        uint64_t n = n_embd_rows ? n_embd_rows : tokens == NULL ? 0 : tokens->n;
        status = tokenizer_new(o->g, n, &o->t, err);
    }
    return status;
}

static opened accept(const spec *s)
{
    builder b = {0};
    opened o;
    greta_error err = {0};
    build(&b, s);
    if (open_bytes(&b, s->n_embd_rows, &o, &err) != GRETA_OK) {
        fail_msg("refused: %s", err.message);
    }
    free(b.data);
    return o;
}

static void refuse(const spec *s, const char *core)
{
    builder b = {0};
    opened o;
    greta_error err = {0};
    build(&b, s);
    char line[GRETA_ERROR_LINE];
    greta_status status = open_bytes(&b, s->n_embd_rows, &o, &err);
    if (status != GRETA_BAD_INPUT || strstr(greta_error_line(&err, line), core) == NULL) {
        fail_msg("expected \"%s\", got %d: %s", core, (int)status, err.message);
    }
    assert_null(o.t);
    shut(&o);
    free(b.data);
}

/* Encodes; the ids must be these, and decode to the text. */
static void expect_with(const opened *o, const greta_tokenize_options *options, const char *data,
                        const char *expected)
{
    greta_tokens tokens;
    greta_error err = {0};
    char got[1024] = "";
    size_t length = 0, at = 0, n = strlen(data);
    if (tokenizer_encode(o->t, data, n, options, &tokens, &err) != GRETA_OK) {
        fail_msg("\"%s\" refused: %s", data, err.message);
    }
    for (size_t i = 0; i < tokens.n; i++) {
        size_t bytes;
        const char *token = tokenizer_bytes(o->t, tokens.id[i], &bytes);
        bool is_end = tokens.id[i] == tokenizer_bos(o->t) || tokens.id[i] == tokenizer_eos(o->t);
        length += (size_t)snprintf(got + length, sizeof got - length, "%s%.*s", i > 0 ? "," : "",
                                   (int)bytes, token);
        if (!is_end) {
            assert_true(at + bytes <= n && memcmp(data + at, token, bytes) == 0);
            at += bytes;
        }
    }
    assert_string_equal(got, expected);
    assert_int_equal(at, n);
    greta_free(tokens.id);
}

static void expect(const opened *o, const char *data, const char *expected)
{
    expect_with(o, NULL, data, expected);
}

/* ---- Bad vocabularies ------------------------------------------------------------------------ */

static void test_arrays(void **state)
{
    (void)state;
    spec s = {.tokens_kind = KIND_U8 + 1};
    refuse(&s, "tokenizer.ggml.tokens is an array of u8 (strings)");
    s = (spec){.scores_kind = KIND_I8};
    refuse(&s, "tokenizer.ggml.scores is an array of i8 (f32)");
    s = (spec){.types_kind = KIND_I8};
    refuse(&s, "tokenizer.ggml.token_type is an array of i8 (i32)");
    s = (spec){.n_scores = 255};
    refuse(&s, "scores has 255 entries, tokens 256");
    s = (spec){.n_types = 257};
    refuse(&s, "token_type has 257 entries, tokens 256");
    s = (spec){.token = {"ab"}, .n_embd_rows = 250};
    refuse(&s, "vocabulary 257, embedding rows 250");
    s = (spec){.n_embd_rows = 258};
    refuse(&s, "vocabulary 256, embedding rows 258");
    s = (spec){.token = {"ab"}, .type = {7}};
    refuse(&s, "token_type of token 256 is 7");
    s = (spec){.token = {"<0x41>"}, .type = {6}};
    refuse(&s, "token_type of token 256 is 6");
}

static void test_empty_vocabulary(void **state)
{
    (void)state;
    builder b = {0};
    opened o;
    greta_error err = {0};
    put_header(&b, 0, 3);
    put_key(&b, KEY("model"), KIND_STRING);
    put_string(&b, "gpt2");
    put_key(&b, KEY("pre"), KIND_STRING);
    put_string(&b, "gpt-2");
    put_array(&b, KEY("tokens"), KIND_STRING, 0);
    assert_int_equal(open_bytes(&b, 0, &o, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "tokenizer.ggml.tokens is empty");
    shut(&o);
    put_header(&b, 0, 2);
    put_key(&b, KEY("model"), KIND_STRING);
    put_string(&b, "gpt2");
    put_key(&b, KEY("pre"), KIND_STRING);
    put_string(&b, "gpt-2");
    err = (greta_error){0};
    assert_int_equal(open_bytes(&b, 1, &o, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "tokenizer.ggml.tokens is missing");
    shut(&o);
    free(b.data);
}

static void test_ids(void **state)
{
    (void)state;
    spec s = {.bos = 256};
    refuse(&s, "tokenizer.ggml.bos_token_id 256 is outside the vocabulary of 256");
    s = (spec){.eos = UINT32_MAX};
    refuse(&s, "tokenizer.ggml.eos_token_id 4294967295 is outside the vocabulary of 256");
    s = (spec){.eot = -1};
    refuse(&s, "tokenizer.ggml.eot_token_id\": is -1 (0 or more)");
    s = (spec){.add_bos = 1};
    refuse(&s, "add_bos_token is true, but bos_token_id is missing");
    s = (spec){.add_eos = 1};
    refuse(&s, "add_eos_token is true, but eos_token_id is missing");
    s = (spec){.bos = 255};
    opened o = accept(&s);
    assert_int_equal(tokenizer_bos(o.t), 255);
    assert_int_equal(tokenizer_eos(o.t), -1);
    shut(&o);
}

static void test_merges(void **state)
{
    (void)state;
    spec s = {.token = {"ab"}, .merge = {"a b", "ab"}};
    refuse(&s, "merge 1: \"ab\" is not two tokens and a space");
    s.merge[1] = " b";
    refuse(&s, "merge 1: \" b\" is not two tokens");
    s.merge[1] = "a ";
    refuse(&s, "merge 1: \"\" is not in the vocabulary");
    s.merge[1] = "";
    refuse(&s, "merge 1: \"\" is not two tokens");
    s.merge[1] = "foo b";
    refuse(&s, "merge 1: \"foo\" is not in the vocabulary");
    s.merge[1] = "a b c";
    refuse(&s, "merge 1: \"b c\" is not in the vocabulary");
    s.merge[1] = "b a";
    refuse(&s, "merge 1: \"b a\" joined is not in the vocabulary");
    s.merge[1] = "a \xe2\x96\x81";
    refuse(&s, "merge 1: \"\\xe2\\x96\\x81\" is not in the vocabulary");
    s.merge[1] = "a b"; /* a repeat: the first wins, and it is counted */
    opened o = accept(&s);
    assert_int_equal(tokenizer_n_shadowed(o.t), 1);
    shut(&o);
}

static void test_odd_tokens(void **state)
{
    (void)state;
    static char huge[LIMIT_TOKEN_BYTES + 2];
    memset(huge, 'x', sizeof huge - 1);
    spec s = {.token = {huge}};
    refuse(&s, "token 256 has 65537 bytes (at most 65536)");
    huge[LIMIT_TOKEN_BYTES] = '\0';
    opened o = accept(&s);
    shut(&o);
    static char added[LIMIT_ADDED_TOKEN_BYTES + 2];
    memset(added, 'x', sizeof added - 1);
    s = (spec){.token = {added}, .type = {CONTROL}};
    refuse(&s, "token 256: a control or user-defined token of 257 bytes (at most 256)");
    added[LIMIT_ADDED_TOKEN_BYTES] = '\0';
    o = accept(&s);
    shut(&o);
    /* Repeats and an empty token stay in the vocabulary, unused; the first wins. */
    s = (spec){.token = {"ab", "", "ab", "a"}, .merge = {"a b"}};
    o = accept(&s);
    assert_int_equal(tokenizer_n_shadowed(o.t), 3);
    greta_tokens tokens;
    assert_int_equal(tokenizer_encode(o.t, "aba", 3, NULL, &tokens, NULL), GRETA_OK);
    assert_int_equal(tokens.n, 2);
    assert_int_equal(tokens.id[0], 256);
    assert_true(tokens.id[1] < 256);
    greta_free(tokens.id);
    shut(&o);
}

static void test_unknown_families(void **state)
{
    (void)state;
    spec s = {.model = "rwkv"};
    refuse(&s, "tokenizer.ggml.model \"rwkv\" is not supported (gpt2: byte-level BPE, llama:");
    s = (spec){.model = ""};
    refuse(&s, "tokenizer.ggml.model");
    s = (spec){.pre = "bloom"};
    refuse(&s, "tokenizer.ggml.pre \"bloom\" is not supported (smollm, llama-bpe, gpt-2, qwen2, ");
    s = (spec){.pre = "gpt-2x"};
    refuse(&s, "guessed pre-tokenizer would be a divergence");
    s = (spec){.pre = ""};
    refuse(&s, "tokenizer.ggml.pre is missing");
    static const char *const known[] = {"smollm", "llama-bpe", "llama3", "llama-v3", "gpt-2",
                                        "qwen2",  "tekken", "gpt-4o", "dbrx", "starcoder",
                                        "refact", "command-r", "phi-2", "deepseek-r1-qwen",
                                        "stablelm2", "smaug-bpe"};
    for (size_t i = 0; i < COUNT(known); i++) {
        s.pre = known[i];
        opened o = accept(&s);
        shut(&o);
    }
}

/* A file with any bit of it turned gives an answer or a refusal; what opens is still byte-exact. */
static void test_turned_bits(void **state)
{
    (void)state;
    static const char sample[] = "abc <x>\xe4\xb8\xad\xff 12";
    builder b = {0};
    spec s = {.token = {"ab", "<x>", "bc"}, .type = {0, CONTROL}, .merge = {"a b", "b c"},
              .bos = 257, .add_bos = 1};
    build(&b, &s);
    for (size_t bit = 0; bit < 8 * b.size; bit += bit % 8 == 4 ? 4 : 1) {
        opened o;
        greta_tokens tokens;
        greta_error err = {0};
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        greta_status status = open_bytes(&b, 0, &o, &err);
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(status == GRETA_OK || status == GRETA_BAD_INPUT);
        greta_tokenize_options options = {.size = sizeof options, .no_bos = 1};
        if (status == GRETA_OK &&
            tokenizer_encode(o.t, sample, sizeof sample, &options, &tokens, &err) == GRETA_OK) {
            size_t at = 0;
            for (size_t i = 0; i < tokens.n; i++) {
                size_t n;
                const char *bytes = tokenizer_bytes(o.t, tokens.id[i], &n);
                assert_true(at + n <= sizeof sample && memcmp(sample + at, bytes, n) == 0);
                at += n;
            }
            assert_int_equal(at, sizeof sample);
            greta_free(tokens.id);
        }
        shut(&o);
    }
    free(b.data);
}

/* ---- Byte pair encoding ---------------------------------------------------------------------- */

static void test_order_of_merges(void **state)
{
    (void)state;
    spec s = {.token = {"ab", "bc", "abc", "aa", "aaa", "aaaa"},
              .merge = {"b c", "a b", "a bc", "a a", "aa a", "aa aa"}};
    opened o = accept(&s);
    expect(&o, "", "");
    expect(&o, "abc", "abc");       /* bc first, then a + bc */
    expect(&o, "ab", "ab");
    expect(&o, "abb", "ab,b");
    expect(&o, "aaa", "aaa");       /* leftmost pair first, then aa + a */
    expect(&o, "aaaaa", "aa,aaa");  /* aa aa a: then aa + a, of the lower rank */
    shut(&o);
    s.merge[4] = "aa aa";
    s.merge[5] = "aa a";
    o = accept(&s);
    expect(&o, "aaaaa", "aaaa,a");
    shut(&o);
}

/* The definition: join the leftmost pair of the lowest rank until there is none. */
static size_t naive_encode(const spec *s, char word[][64], size_t n)
{
    for (;;) {
        size_t best = COUNT(s->merge), place = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char pair[130];
            snprintf(pair, sizeof pair, "%.63s %.63s", word[i], word[i + 1]);
            for (size_t rank = 0; rank < best && s->merge[rank] != NULL; rank++) {
                if (strcmp(pair, s->merge[rank]) == 0) {
                    best = rank;
                    place = i;
                }
            }
        }
        if (best == COUNT(s->merge)) {
            return n;
        }
        size_t length = strlen(word[place]);
        memcpy(word[place] + length, word[place + 1], strlen(word[place + 1]) + 1);
        memmove(word[place + 1], word[place + 2], (n - place - 2) * sizeof word[0]);
        n--;
    }
}

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

static void test_naive_twin(void **state)
{
    (void)state;
    spec s = {.token = {"ab", "ba", "aa", "bb", "aab", "aba", "bab", "abab", "aabb", "bbb", "cab",
                        "abc", "abca"},
              .merge = {"b a", "a ab", "a a", "ab ab", "b b", "a b", "ba b", "b ab", "c ab",
                        "aab b", "bb b", "ab c", "a ba", "aa b", "abc a"}};
    opened o = accept(&s);
    uint32_t seed = 3;
    for (int round = 0; round < 4000; round++) {
        static char word[40][64];
        char data[41], expected[1024] = "";
        size_t n = next_random(&seed) % 40 + 1, length = 0;
        for (size_t i = 0; i < n; i++) {
            data[i] = "aaabbbc"[next_random(&seed) % 7];
            word[i][0] = data[i];
            word[i][1] = '\0';
        }
        data[n] = '\0';
        n = naive_encode(&s, word, n);
        for (size_t i = 0; i < n; i++) {
            length += (size_t)snprintf(expected + length, sizeof expected - length, "%s%s",
                                       i > 0 ? "," : "", word[i]);
        }
        expect(&o, data, expected);
    }
    shut(&o);
}

/* A megabyte of one thing must come back; a quadratic encoder would take hours. */
static void test_long_words(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    static char data[BYTES];
    static const char *const unit[] = {"A", " ", "\n", "\xcc\x81", "\xe4\xb8\xad", "\xff", "1", "<",
                                       " \n", "<|x"};
    static const char *const families[] = {"smollm", "llama-bpe", "gpt-2", "qwen2"};
    for (size_t f = 0; f < COUNT(families); f++) {
        spec s = {.token = {"AA", "AAAA", "\xc4\xa0\xc4\xa0", "<|x|>"}, .type = {0, 0, 0, CONTROL},
                  .merge = {"A A", "AA AA", "\xc4\xa0 \xc4\xa0"}, .pre = families[f]};
        opened o = accept(&s);
        for (size_t u = 0; u < COUNT(unit); u++) {
            greta_tokens tokens;
            greta_error err = {0};
            for (size_t i = 0; i < BYTES; i++) {
                data[i] = unit[u][i % strlen(unit[u])];
            }
            assert_int_equal(tokenizer_encode(o.t, data, BYTES, NULL, &tokens, &err), GRETA_OK);
            size_t expected = u == 0 ? BYTES / 4 : u == 1 ? BYTES / 2 : BYTES;
            assert_int_equal(tokens.n, expected);
            greta_free(tokens.id);
        }
        shut(&o);
    }
}

/* ---- Words ----------------------------------------------------------------------------------- */

static void test_families_differ(void **state)
{
    (void)state;
    /* G-dot is the blank in the byte alphabet. */
    spec s = {.token = {"12", "123", "xy", "\xc4\xa0\xc4\xa0", "'S", "zz"},
              .merge = {"1 2", "12 3", "x y", "\xc4\xa0 \xc4\xa0", "' S"}};
    s.pre = "gpt-2"; /* digits together; 'S is not a contraction, but punctuation before a letter */
    opened o = accept(&s);
    expect(&o, "1234", "123,4");
    expect(&o, "1  x", "1, , ,x"); /* of two blanks the last belongs to the x */
    expect(&o, "it'S", "i,t,',S");
    expect(&o, "zz", "z,z");
    shut(&o);
    s.pre = "smollm"; /* each digit alone, and what stands before it ends there */
    o = accept(&s);
    expect(&o, "1234", "1,2,3,4");
    expect(&o, "x  1", "x,  ,1");
    shut(&o);
    s.pre = "qwen2"; /* each digit alone; contractions in any case */
    o = accept(&s);
    expect(&o, "1234", "1,2,3,4");
    expect(&o, "x  1", "x, , ,1");
    expect(&o, "it'S", "i,t,'S");
    shut(&o);
    s.pre = "llama-bpe"; /* digits by three; a word in the vocabulary is one token */
    o = accept(&s);
    expect(&o, "1234", "123,4");
    expect(&o, "12345", "123,4,5");
    expect(&o, "zz", "zz");
    expect(&o, "zzz", "z,z,z");
    shut(&o);
}

/* ---- Added tokens and ends ------------------------------------------------------------------- */

static void test_added_tokens(void **state)
{
    (void)state;
    spec s = {.token = {"<|a|>", "<|a|><|b|>", "<tool>", "|a|", "\xe2\x86\x92", "ol", "o>"},
              .type = {CONTROL, CONTROL, USER_DEFINED, USER_DEFINED, USER_DEFINED, 0, 0},
              .merge = {"o l", "o >"}};
    greta_tokenize_options special = {.size = sizeof special, .special = 1};
    opened o = accept(&s);
    expect_with(&o, &special, "x<|a|>y", "x,<|a|>,y");
    expect_with(&o, &special, "<|a|><|b|>", "<|a|><|b|>"); /* the longest */
    expect_with(&o, &special, "<|a|><|b", "<|a|>,<,|,b");
    expect_with(&o, &special, "<<|a|>|a|", "<,<|a|>,|a|");
    expect(&o, "x<|a|>y", "x,<,|,a,|,>,y"); /* nothing is looked for inside a control token */
    expect(&o, "|a|", "|a|");
    expect(&o, "<tool>", "<tool>");
    expect(&o, "<tool", "<,t,o,ol");
    expect(&o, "tool>", "t,o,ol,>");
    expect(&o, "o>\xe2\x86\x92" "ol", "o,>,\xe2\x86\x92,ol"); /* words end at an added token */
    assert_true(tokenizer_is_control(o.t, 256));
    assert_false(tokenizer_is_control(o.t, 258));
    assert_false(tokenizer_is_control(o.t, -1));
    assert_false(tokenizer_is_control(o.t, 263));
    size_t bytes;
    assert_null(tokenizer_bytes(o.t, 263, &bytes));
    assert_int_equal(bytes, 0);
    shut(&o);
}

static void test_bos_and_eos(void **state)
{
    (void)state;
    greta_tokenize_options none = {.size = sizeof none, .no_bos = 1};
    spec s = {.token = {"<s>", "</s>"}, .type = {CONTROL, CONTROL}, .bos = 256, .eos = 257};
    opened o = accept(&s);
    expect(&o, "x", "x"); /* gpt-2 does not say: none */
    shut(&o);
    s.add_bos = 1;
    s.add_eos = 1;
    o = accept(&s);
    expect(&o, "x", "<s>,x,</s>");
    expect(&o, "", "<s>,</s>");
    expect_with(&o, &none, "x", "x");
    shut(&o);
    s = (spec){.token = {"<s>"}, .type = {CONTROL}, .bos = 256, .pre = "llama-bpe"};
    o = accept(&s);
    expect(&o, "x", "<s>,x"); /* llama-bpe does not say: BOS */
    shut(&o);
    s.add_bos = -1;
    o = accept(&s);
    expect(&o, "x", "x");
    shut(&o);
    s = (spec){.pre = "llama-bpe"};
    o = accept(&s);
    expect(&o, "x", "x"); /* there is none to add */
    shut(&o);
}

static void test_ends(void **state)
{
    (void)state;
    spec s = {.token = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "eos",
                        "eot", "<|im_start|>"},
              .type = {CONTROL, CONTROL, 0, CONTROL, 0, 0, CONTROL},
              .eos = 260, .eot = 261};
    static const bool expected[] = {true, true, false, true, true, true, false};
    opened o = accept(&s);
    for (int32_t i = 0; i < (int32_t)COUNT(expected); i++) {
        assert_int_equal(tokenizer_is_end(o.t, 256 + i), expected[i]);
    }
    assert_false(tokenizer_is_end(o.t, -1));
    assert_false(tokenizer_is_end(o.t, 'a'));
    shut(&o);
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void test_invalid_utf8(void **state)
{
    (void)state;
    /* "\xe4\xb8" as a token: it may come out of valid text only. */
    spec s = {.token = {"\xc3\xa4\xc2\xb8", "\xc4\xa0" "a"},
              .merge = {"\xc3\xa4 \xc2\xb8", "\xc4\xa0 a"}};
    opened o = accept(&s);
    expect(&o, "\xe4\xb8\xad", "\xe4\xb8,\xad");
    expect(&o, "\xe4\xb8", "\xe4,\xb8");          /* breaks off: two words of one byte */
    expect(&o, "\xe4\xb8 a", "\xe4,\xb8, a");
    expect(&o, "\xed\xa0\x80", "\xed,\xa0,\x80"); /* a surrogate */
    expect(&o, "\xc0\x80", "\xc0,\x80");          /* overlong */
    expect(&o, "\xf4\x90\x80\x80", "\xf4,\x90,\x80,\x80");
    expect(&o, "\xff\xe4\xb8\xad", "\xff,\xe4\xb8,\xad");
    shut(&o);
}

static void test_unknown_bytes(void **state)
{
    (void)state;
    greta_tokens tokens;
    greta_error err = {0};
    greta_tokenize_options drop = {.size = sizeof drop, .unknown_bytes_drop = 1};
    spec s = {.lacking = "\x04\xc0", .token = {"ab"}, .merge = {"a b"}};
    opened o = accept(&s);
    assert_int_equal(tokenizer_encode(o.t, "hello world,\x04\xc0", 14, NULL, &tokens, &err),
                     GRETA_BAD_INPUT);
    assert_string_equal(err.message, "byte 12 (0x04) has no token");
    assert_null(tokens.id);
    assert_int_equal(tokens.n, 0);
    /* Dropped before merging, as the reference does: what stood around it may join. */
    assert_int_equal(tokenizer_encode(o.t, "\xc0!\x04!\xc0\x04", 6, &drop, &tokens, &err),
                     GRETA_OK);
    assert_int_equal(tokens.n, 2);
    assert_int_equal(tokens.n_dropped, 4);
    greta_free(tokens.id);
    s.pre = "llama-bpe";
    shut(&o);
    o = accept(&s);
    assert_int_equal(tokenizer_encode(o.t, "a\x04" "b", 3, &drop, &tokens, &err), GRETA_OK);
    assert_int_equal(tokens.n, 2); /* two words */
    assert_int_equal(tokens.n_dropped, 1);
    greta_free(tokens.id);
    shut(&o);
}

static void test_limits(void **state)
{
    (void)state;
    spec s = {.token = {"ab"}};
    opened o = accept(&s);
    greta_tokens tokens = {.n = 7};
    greta_error err = {0};
    /* The length is looked at before the text is. */
    assert_int_equal(
        tokenizer_encode(o.t, "x", (size_t)LIMIT_PROMPT_BYTES + 1, NULL, &tokens, &err),
        GRETA_BAD_INPUT);
    assert_int_equal(tokens.n, 0);
    assert_int_equal(tokenizer_encode(o.t, NULL, 0, NULL, &tokens, NULL), GRETA_OK);
    assert_int_equal(tokens.n, 0);
    greta_free(tokens.id);
    shut(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_empty_vocabulary),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_odd_tokens),
        cmocka_unit_test(test_unknown_families),
        cmocka_unit_test(test_turned_bits),
        cmocka_unit_test(test_order_of_merges),
        cmocka_unit_test(test_naive_twin),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_families_differ),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_bos_and_eos),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_unknown_bytes),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
