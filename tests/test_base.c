/* test_base.c - the ground everything stands on: errors, text, hashes, tables.
 *
 * Numbers as text, files and the thread pool have programs of their own: test_number.c,
 * test_file.c, test_threads.c.
 */
#include "base/checked.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/fpenv.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/stage.h"
#include "base/text.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_u64(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void test_error_first_wins(void **state)
{
    (void)state;
    greta_error err = {0};
    assert_int_equal(error_at(&err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, 16, "first %d", 1),
                     GRETA_BAD_INPUT);
    assert_int_equal(error_set(&err, GRETA_IO, "second"), GRETA_IO);
    assert_int_equal(error_about(&err, GRETA_USAGE, "--threads", "third"), GRETA_USAGE);
    assert_int_equal(error_memory(&err, "a cache", 12), GRETA_IO);
    assert_int_equal(err.code, GRETA_BAD_INPUT);
    assert_string_equal(err.message, "first 1");
    assert_string_equal(err.subject, "");
    assert_int_equal(err.position, 16);
    error_subject(&err, "%d", 3);
    error_subject(&err, "%d", 4);
    error_file(&err, "a");
    error_file(&err, "b");
    error_hint(&err, "%s", "m");
    error_hint(&err, "%s", "n");
    char line[GRETA_ERROR_LINE];
    assert_string_equal(greta_error_line(&err, line), "greta: a: byte 16: 3: first 1; m");
    /* NULL is allowed everywhere. */
    assert_int_equal(error_set(NULL, GRETA_IO, "x"), GRETA_IO);
    assert_int_equal(error_at(NULL, GRETA_IO, GRETA_PLACE_LINE, 1, "x"), GRETA_IO);
    assert_int_equal(error_about(NULL, GRETA_IO, "s", "x"), GRETA_IO);
    error_file(NULL, "x");
    error_subject(NULL, "x");
    error_hint(NULL, "x");
}

static void test_error_line_parts(void **state)
{
    (void)state;
    char line[GRETA_ERROR_LINE];
    greta_error err = {0};
    error_set(&err, GRETA_USAGE, "what");
    assert_string_equal(greta_error_line(&err, line), "greta: what");
    err = (greta_error){0};
    error_about(&err, GRETA_USAGE, "--threads", "\"%s\" is not a number", "3x");
    assert_string_equal(greta_error_line(&err, line),
                        "greta: --threads: \"3x\" is not a number");
    err = (greta_error){0};
    error_at(&err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, 812, "checksum does not match");
    error_hint(&err, "file damaged");
    assert_string_equal(greta_error_line(&err, line),
                        "greta: line 812: checksum does not match; file damaged");
    err = (greta_error){0};
    error_memory(&err, "the cache", 4096);
    assert_int_equal(err.code, GRETA_IO);
    assert_string_equal(greta_error_line(&err, line),
                        "greta: out of memory: the cache needs 4096 bytes");
}

/* Nothing in any field can put a control byte or a non-ASCII byte on the terminal. */
static void test_error_line_escapes(void **state)
{
    (void)state;
    char line[GRETA_ERROR_LINE];
    greta_error err = {0};
    error_set(&err, GRETA_BAD_INPUT, "m\n\x1b[31m");
    error_file(&err, "caf\xc3\xa9");
    error_subject(&err, "s\x7f");
    error_hint(&err, "h\xe2\x80\xae");
    assert_string_equal(greta_error_line(&err, line),
                        "greta: caf\\xc3\\xa9: s\\x7f: m\\x0a\\x1b[31m; h\\xe2\\x80\\xae");
    err = (greta_error){0}; /* of a long path the end, in 400 columns */
    error_set(&err, GRETA_IO, "x");
    memset(err.file, 0xff, sizeof err.file - 1);
    greta_error_line(&err, line);
    assert_int_equal(strlen(line), strlen("greta: ...") + 400 + strlen(": x"));
    assert_memory_equal(line, "greta: ...\\xff\\xff", 18);
    assert_string_equal(line + strlen(line) - 7, "\\xff: x");
    memset(err.file + 100, 0, sizeof err.file - 100);
    greta_error_line(&err, line);
    assert_memory_equal(line, "greta: \\xff\\xff", 15);
    /* The worst case in every field stays inside the line and is terminated. */
    memset(&err, 0xff, sizeof err);
    err.code = GRETA_BAD_INPUT;
    err.place = GRETA_PLACE_BYTE;
    err.file[sizeof err.file - 1] = '\0';
    err.subject[sizeof err.subject - 1] = '\0';
    err.message[sizeof err.message - 1] = '\0';
    err.hint[sizeof err.hint - 1] = '\0';
    greta_error_line(&err, line);
    assert_in_range(strlen(line), 1200, GRETA_ERROR_LINE - 1);
    size_t longest = 0;
    for (size_t i = 0; i < 8; i++) { /* every remainder, so that one fills the line exactly */
        err.message[i] = 'm';
        size_t length = strlen(greta_error_line(&err, line));
        assert_in_range(length, 1200, GRETA_ERROR_LINE - 1);
        longest = length > longest ? length : longest;
    }
    assert_int_equal(longest, GRETA_ERROR_LINE - 1);
    for (const char *c = line; *c != '\0'; c++) {
        assert_in_range(*c, 0x20, 0x7e);
    }
}

static void test_error_fields_cut(void **state)
{
    (void)state;
    char line[GRETA_ERROR_LINE], wide[1000];
    memset(wide, 'w', sizeof wide);
    wide[sizeof wide - 1] = '\0';
    greta_error err = {0};
    error_about(&err, GRETA_USAGE, wide, "%s", wide);
    memcpy(wide + 990, "/end.gguf", 10);
    error_file(&err, wide);
    error_hint(&err, "%s", wide);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + sizeof err.message - 5, "w...");
    assert_string_equal(err.subject + sizeof err.subject - 5, "w...");
    assert_string_equal(err.hint + sizeof err.hint - 5, "w...");
    /* Of a path the end is kept. */
    assert_int_equal(strlen(err.file), sizeof err.file - 1);
    assert_memory_equal(err.file, "...w", 4);
    assert_string_equal(err.file + sizeof err.file - 10, "/end.gguf");
    assert_in_range(strlen(greta_error_line(&err, line)), 1, GRETA_ERROR_LINE - 1);
    assert_non_null(strstr(line, "/end.gguf: www"));
    /* Both sides of the limits. */
    char cut[PATH_CUT_MAX], path[PATH_CUT_MAX + 1];
    memset(path, 'p', sizeof path);
    path[PATH_CUT_MAX] = '\0';
    assert_int_equal(strlen(path_cut(path, cut)), PATH_CUT_MAX - 1);
    assert_memory_equal(cut, "...pp", 5);
    path[PATH_CUT_MAX - 1] = '\0';
    assert_string_equal(path_cut(path, cut), path);
    for (size_t n = sizeof err.message - 1; n <= sizeof err.message; n++) {
        err = (greta_error){0};
        error_set(&err, GRETA_IO, "%.*s", (int)n, wide);
        assert_int_equal(strlen(err.message), sizeof err.message - 1);
        assert_int_equal(err.message[sizeof err.message - 2], n < sizeof err.message ? 'w' : '.');
    }
}

static void test_escape(void **state)
{
    (void)state;
    char out[ESCAPED_MAX], bytes[200];
    assert_string_equal(escape("a\0b", 3, out), "a\\x00b");
    assert_string_equal(escape("", 0, out), "");
    assert_string_equal(escape(" ~\x1f\x7f\x80\xff", 6, out), " ~\\x1f\\x7f\\x80\\xff");
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(strlen(escape(bytes, 120, out)), 120);
    assert_int_equal(strlen(escape(bytes, 121, out)), 123);
    assert_string_equal(out + 119, "x...");
    memset(bytes, 0xee, sizeof bytes);
    assert_int_equal(strlen(escape(bytes, sizeof bytes, out)), 483);
    /* Escaping what is escaped changes nothing. */
    char again[ESCAPED_MAX];
    escape("\\x00 \xff", 6, out);
    assert_string_equal(escape(out, strlen(out), again), out);
}

static void test_error_reason(void **state)
{
    (void)state;
    assert_string_equal(error_reason(ENOSPC), "no space left");
    assert_string_equal(error_reason(EACCES), "permission denied");
    assert_string_equal(error_reason(EXDEV), "on another file system");
    assert_string_equal(error_reason(ENOENT), "no such file or folder");
    assert_string_equal(error_reason(INT_MAX), "system error");
}

/* An assertion of ours that fails ends the process with a line, also in release builds. */
static void test_assert(void **state)
{
    (void)state;
    int pipe_fd[2], outcome;
    char line[512] = {0};
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_fd[1], STDERR_FILENO);
        GRETA_ASSERT(1 + 1 == 2);
        GRETA_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    close(pipe_fd[1]);
    assert_true(read(pipe_fd[0], line, sizeof line - 1) > 0);
    close(pipe_fd[0]);
    assert_int_equal(waitpid(child, &outcome, 0), child);
    assert_true(WIFSIGNALED(outcome));
    assert_memory_equal(line, "greta: bug: \"1 + 1 == 3\" does not hold at ", 42);
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void test_text(void **state)
{
    (void)state;
    text t = {0};
    char *taken;
    assert_int_equal(text_take(&t, &taken, NULL), GRETA_OK);
    assert_string_equal(taken, "");
    greta_free(taken);
    /* Many small pieces across every growth step, against one plain buffer. */
    static char plain[70000];
    size_t used = 0;
    for (int i = 0; used < 60000; i++) {
        int n = snprintf(plain + used, sizeof plain - used, "%d:%s;", i, i % 3 ? "odd" : "");
        text_format(&t, "%d:%s;", i, i % 3 ? "odd" : "");
        used += (size_t)n;
        assert_int_equal(t.length, used);
        text_format(&t, "%s", "");
        text_string(&t, "s");
        text_append(&t, "a\0b", 3);
        memcpy(plain + used, "sa\0b", 5);
        used += 4;
    }
    assert_int_equal(text_take(&t, &taken, NULL), GRETA_OK);
    assert_memory_equal(taken, plain, used + 1);
    assert_null(t.data);
    greta_free(taken);
    greta_free(NULL);
}

static void test_text_failure_is_sticky(void **state)
{
    (void)state;
    text t = {0};
    greta_error err = {0};
    char placeholder, *taken = &placeholder;
    text_string(&t, "before");
    text_append(&t, "x", SIZE_MAX); /* can not be had */
    text_string(&t, "after");
    assert_true(t.failed);
    assert_int_equal(t.length, 6);
    assert_int_equal(text_take(&t, &taken, &err), GRETA_IO);
    assert_null(taken);
    assert_memory_equal(err.message, "out of memory", 13);
    assert_null(t.data);
    text_string(&t, "x");
    text_free(&t);
    text_free(&t);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const valid[] = {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
                                        "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
                                        "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xc3\xa9z"};
    static const char *const invalid[] = {"\x80", "\xc3", "\xc0\xaf", "\xc1\xbf", "\xe0\x9f\xbf",
                                          "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf",
                                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                                          "a\xe2\x82", "\xc3(", "\xe2\x82("};
    for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++) {
        assert_true(utf8_is_valid(valid[i], strlen(valid[i])));
    }
    for (size_t i = 0; i < sizeof invalid / sizeof invalid[0]; i++) {
        assert_false(utf8_is_valid(invalid[i], strlen(invalid[i])));
    }
    assert_true(utf8_is_valid("a\0b", 3));
}

static void check_ranges(const char *ranges, const char *expected)
{
    uint8_t selected[8];
    size_t n = strlen(expected);
    greta_error err = {0};
    memset(selected, 7, sizeof selected);
    assert_int_equal(ranges_parse("--layers", ranges, selected, n, &err), GRETA_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(selected[i], expected[i] - '0');
    }
}

static void test_ranges(void **state)
{
    (void)state;
    check_ranges(NULL, "11111");
    check_ranges("all", "11111");
    check_ranges("0", "10000");
    check_ranges("4", "00001");
    check_ranges("0,2-3", "10110");
    check_ranges("3-3,1", "01010");
    check_ranges("0-4", "11111");
    check_ranges("1-3,2-4", "01111");
    check_ranges("2,all", "11111");
    check_ranges("all", "");
    static const char *const bad[] = {"",    ",",   "1,",   ",1",  "1,,2", "a",     "3-",  "-3",
                                      "3-1", "1 2", " 1",   "1 ",  "+1",   "0x1",   "1-2-3",
                                      "ALL", "al",  "1;2",  "--",  "1.5",  "\xc2\xb2"};
    static const char *const outside[] = {"5", "0-5", "18446744073709551615",
                                          "18446744073709551616", "99999999999999999999999"};
    uint8_t selected[5];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        greta_error err = {0};
        assert_int_equal(ranges_parse("--layers", bad[i], selected, 5, &err), GRETA_USAGE);
        assert_string_equal(err.subject, "--layers");
        assert_non_null(strstr(err.message, "is not a number or a range"));
    }
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        greta_error err = {0};
        assert_int_equal(ranges_parse("--layers", outside[i], selected, 5, &err), GRETA_USAGE);
        assert_non_null(strstr(err.message, "is too large (there are 5, from 0)"));
    }
    greta_error err = {0};
    assert_int_equal(ranges_parse("--layers", "0", selected, 0, &err), GRETA_USAGE);
}

/* ---- Arithmetic on input --------------------------------------------------------------------- */

static void test_checked(void **state)
{
    (void)state;
    uint64_t r;
    int32_t narrow;
    assert_true(checked_add(UINT64_MAX - 1, 1, &r) && r == UINT64_MAX);
    assert_false(checked_add(UINT64_MAX, 1, &r));
    assert_true(checked_mul(0xffffffffu, 0x100000001u, &r) && r == UINT64_MAX);
    assert_false(checked_mul(1u << 31, UINT64_C(1) << 33, &r));
    assert_true(checked_mul(0, UINT64_MAX, &r) && r == 0);
    assert_true(checked_align(33, 32, &r) && r == 64);
    assert_true(checked_align(64, 32, &r) && r == 64);
    assert_true(checked_align(UINT64_MAX - 31, 32, &r) && r == UINT64_MAX - 31);
    assert_false(checked_align(UINT64_MAX - 30, 32, &r));
    assert_true(checked_span(3, 4, 7) && checked_span(7, 0, 7));
    assert_false(checked_span(3, 5, 7) || checked_span(8, 0, 7));
    assert_false(checked_span(1, UINT64_MAX, 7) || checked_span(UINT64_MAX, 2, 7));
    assert_true(checked_i32(INT32_MAX, &narrow) && narrow == INT32_MAX);
    assert_false(checked_i32((uint64_t)INT32_MAX + 1, &narrow));
}

/* ---- Hashes ---------------------------------------------------------------------------------- */

static row_hash hash_row(const uint32_t *word, size_t first, size_t last)
{
    row_hash hash = {0};
    for (size_t i = first; i < last; i++) {
        hash_word(&hash, i, word[i]);
    }
    return hash;
}

static void test_hash(void **state)
{
    (void)state;
    uint32_t word[257], turned[257];
    random_state = 1;
    for (size_t i = 0; i < 257; i++) {
        word[i] = (uint32_t)random_u64();
        turned[256 - i] = word[i];
    }
    row_hash whole = hash_row(word, 0, 257);
    /* Mergeable: any cut, summed in any order. */
    for (size_t cut = 0; cut <= 257; cut++) {
        row_hash a = hash_row(word, 0, cut), b = hash_row(word, cut, 257);
        assert_true(b.ordered + a.ordered == whole.ordered && b.bag + a.bag == whole.bag);
    }
    /* A permutation keeps the bag and changes the ordered hash. */
    row_hash reversed = hash_row(turned, 0, 257);
    assert_true(reversed.bag == whole.bag);
    assert_true(reversed.ordered != whole.ordered);
    /* Every single bit of every word counts in both. */
    for (size_t i = 0; i < 257; i++) {
        for (int bit = 0; bit < 32; bit++) {
            word[i] ^= UINT32_C(1) << bit;
            row_hash other = hash_row(word, 0, 257);
            assert_true(other.ordered != whole.ordered && other.bag != whole.bag);
            word[i] ^= UINT32_C(1) << bit;
        }
    }
    /* So does every swap of neighbours, in the ordered one. */
    for (size_t i = 0; i + 1 < 257; i++) {
        uint32_t kept = word[i];
        word[i] = word[i + 1];
        word[i + 1] = kept;
        assert_true(hash_row(word, 0, 257).ordered != whole.ordered);
        word[i + 1] = word[i];
        word[i] = kept;
    }
    /* By hand from the formula: mix64(1, k(0)), k(0) = 7f4a7c15. */
    row_hash one = {0};
    hash_word(&one, 0, 1);
    assert_true(one.ordered == UINT64_C(0x7f4a7c16) * (0x00010000u ^ 0x7f4a7c15u ^ 0x85ebca6bu));
    assert_true(one.bag == UINT64_C(1) * (0x00010000u ^ 0x85ebca6bu));
}

static void test_hash_float_bits(void **state)
{
    (void)state;
    union {
        uint32_t u;
        float f;
    } nan = {.u = 0xffc12345u}, signalling = {.u = 0x7f800001u}, zero = {.u = 0x80000000u};
    assert_int_equal(hash_float_bits(nan.f), 0x7fc00000u);
    assert_int_equal(hash_float_bits(signalling.f), 0x7fc00000u);
    assert_int_equal(hash_float_bits(zero.f), 0x80000000u);
    assert_int_equal(hash_float_bits(1.0f), 0x3f800000u);
    /* Prefixes: order and every token matter. */
    uint64_t ab = hash_prefix(hash_prefix(0, 1), 2), ba = hash_prefix(hash_prefix(0, 2), 1);
    assert_true(ab != ba && ab != hash_prefix(0, 2) && hash_prefix(0, 0) != 0);
    assert_true(hash_prefix(0, -1) != hash_prefix(0, INT32_MAX));
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void test_dtype(void **state)
{
    (void)state;
    /* From ggml.h and ggml-common.h: number, name, values and bytes per block. */
    static const struct {
        uint32_t type;
        const char *name;
        uint32_t block, bytes;
        bool is_quantised;
    } expected[] = {
        {0, "F32", 1, 4, false},   {1, "F16", 1, 2, false},    {30, "BF16", 1, 2, false},
        {2, "Q4_0", 32, 18, true}, {3, "Q4_1", 32, 20, true},  {6, "Q5_0", 32, 22, true},
        {7, "Q5_1", 32, 24, true}, {8, "Q8_0", 32, 34, true},  {12, "Q4_K", 256, 144, true},
        {13, "Q5_K", 256, 176, true}, {14, "Q6_K", 256, 210, true},
        {10, "Q2_K", 256, 84, true}, {11, "Q3_K", 256, 110, true},
        {20, "IQ4_NL", 32, 18, true}, {23, "IQ4_XS", 256, 136, true}, {39, "MXFP4", 32, 17, true},
    };
    size_t n = sizeof expected / sizeof expected[0], n_file = 0;
    for (size_t i = 0; i < n; i++) {
        const dtype_traits *t = dtype_find(expected[i].type);
        assert_non_null(t);
        assert_int_equal(t->type, expected[i].type);
        assert_string_equal(t->name, expected[i].name);
        assert_int_equal(t->block, expected[i].block);
        assert_int_equal(t->bytes, expected[i].bytes);
        assert_int_equal(t->is_quantised, expected[i].is_quantised);
        assert_string_equal(dtype_name((dtype)expected[i].type), expected[i].name);
        /* Listed as a whole word. */
        const char *listed = strstr(dtype_list(), expected[i].name);
        assert_non_null(listed);
        assert_true(listed == dtype_list() || listed[-1] == ' ');
        assert_true(strchr(",", listed[strlen(expected[i].name)]) != NULL);
    }
    for (uint32_t type = 0; type < 256; type++) {
        n_file += dtype_find(type) != NULL;
    }
    assert_int_equal(n_file, n);
    assert_null(dtype_find(UINT32_MAX));
    assert_string_equal(dtype_name((dtype)99), "?");
    assert_string_equal(dtype_name(DTYPE_ACT_Q8), "ACT_Q8");
    assert_int_equal(dtype_find(DTYPE_I32)->bytes, 4);
}

static void test_stage(void **state)
{
    (void)state;
    /* The list of DESIGN section 7, written out once more. */
    static const char *const before[] = {"tokens", "embed", "embed_scaled"};
    static const char *const after[] = {"final_norm", "final_norm_q8", "logits_raw", "logits"};
    static const char *const layer[] = {
        "attn_norm", "attn_norm_q8", "q", "k", "v", "q_norm", "k_norm", "q_rope", "k_rope",
        "k_cache", "v_cache", "scores", "probs", "attn_out", "attn_out_q8", "wo_out",
        "attn_post_norm", "x_after_attn", "ffn_norm", "ffn_norm_q8", "router", "expert_ids",
        "expert_weights", "gate", "up", "act", "act_q8", "expert_out", "mlp_out",
        "ffn_post_norm", "x_after_mlp"};
    int s = 0;
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++, s++) {
        assert_string_equal(stage_name((stage)s), before[i]);
        assert_false(stage_is_per_layer((stage)s));
    }
    for (size_t i = 0; i < sizeof layer / sizeof layer[0]; i++, s++) {
        assert_string_equal(stage_name((stage)s), layer[i]);
        assert_true(stage_is_per_layer((stage)s));
    }
    for (size_t i = 0; i < sizeof after / sizeof after[0]; i++, s++) {
        assert_string_equal(stage_name((stage)s), after[i]);
        assert_false(stage_is_per_layer((stage)s));
    }
    assert_int_equal(s, STAGE_COUNT);
    for (s = 0; s < STAGE_COUNT; s++) {
        assert_int_equal(stage_find(stage_name((stage)s)), s);
    }
    assert_int_equal(stage_find("Q"), STAGE_NONE);
    assert_int_equal(stage_find(""), STAGE_NONE);
    assert_string_equal(stage_name(STAGE_NONE), "?");
    assert_false(stage_is_per_layer(STAGE_NONE));
}

/* ---- Floating-point environment -------------------------------------------------------------- */

static void test_fpenv(void **state)
{
    (void)state;
#if defined(__SSE2__)
    volatile float tiny = 0x1p-149f, one = 1.0f, three = 3.0f;
    uint32_t host = _mm_getcsr();
    uint32_t odd = 0x1f80u | 0x8040u | 0x6000u; /* FTZ, DAZ, toward zero */
    _mm_setcsr(odd);
    volatile float lost = tiny * one, cut = 2.0f * one / three;
    uint32_t saved = fpenv_enter();
    volatile float kept = tiny * one, rounded = 2.0f * one / three;
    uint32_t inside = _mm_getcsr() & ~0x3fu; /* the low bits are raised flags */
    fpenv_leave(saved);
    uint32_t outside = _mm_getcsr() & ~0x3fu;
    _mm_setcsr(host);
    assert_int_equal(saved & ~0x3fu, odd);
    assert_int_equal(inside, 0x1f80u);
    assert_int_equal(outside, odd);
    assert_true(lost == 0.0f && kept == 0x1p-149f);
    assert_true(cut == 0x1.555554p-1f && rounded == 0x1.555556p-1f);
#else
    fpenv_leave(fpenv_enter());
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_first_wins),
        cmocka_unit_test(test_error_line_parts),
        cmocka_unit_test(test_error_line_escapes),
        cmocka_unit_test(test_error_fields_cut),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_error_reason),
        cmocka_unit_test(test_assert),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_failure_is_sticky),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_checked),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_hash_float_bits),
        cmocka_unit_test(test_dtype),
        cmocka_unit_test(test_stage),
        cmocka_unit_test(test_fpenv),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
