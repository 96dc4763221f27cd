/* test_gguf.c - the GGUF directory: what it refuses, in which words, and what it accepts.
 *
 * Each G-case of the catalogue of bad inputs is built byte by byte and must give exit code 3 and
 * its message. Every buffer handed to the parser is a heap block of its exact size, so that the
 * address sanitizer sees the first byte read too many. Damage at random: test_gguf_read.c.
 */
#include "base/limits.h"
#include "format/gguf.h"

#include "gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static builder b; /* one buffer for all tests */

/* Parses an exact copy of the first `size` bytes. */
static greta_status parse_copy(size_t size, gguf **g, uint8_t **copy, greta_error *err)
{
    *copy = malloc(size > 0 ? size : 1);
    assert_non_null(*copy);
    if (size > 0) {
        memcpy(*copy, b.data, size);
    }
    *err = (greta_error){0};
    return gguf_parse(*copy, size, g, err);
}

static greta_error refusal; /* of the last refuse() */

/* The builder's bytes must be refused with a line that holds `core`. */
static void refuse(const char *core)
{
    gguf *g = (gguf *)&b;
    uint8_t *copy;
    greta_error err;
    char line[GRETA_ERROR_LINE];
    greta_status status = parse_copy(b.size, &g, &copy, &err);
    greta_error_line(&err, line);
    if (status != GRETA_BAD_INPUT || strstr(line, core) == NULL) {
        fail_msg("expected \"%s\", got %d: %s", core, (int)status, line);
    }
    assert_int_equal(err.code, GRETA_BAD_INPUT);
    assert_null(g);
    refusal = err;
    free(copy);
}

/* The builder's bytes must open; the caller closes and frees. */
static gguf *accept(uint8_t **copy)
{
    gguf *g;
    greta_error err;
    char line[GRETA_ERROR_LINE];
    if (parse_copy(b.size, &g, copy, &err) != GRETA_OK) {
        fail_msg("refused: %s", greta_error_line(&err, line));
    }
    return g;
}

static void accept_and_close(void)
{
    uint8_t *copy;
    gguf_close(accept(&copy));
    free(copy);
}

/* ---- Header: G01 to G07 ---------------------------------------------------------------------- */

static void test_magic(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *core;
    } others[] = {
        {"FUGG....", 8,
         "(starts with \"FUGG....\"); looks like a GGUF file with its bytes swapped"},
        {"\x40\0\0\0\0\0\0\0{\"a\":1}", 15,
         "(starts with \"@\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"); looks like a safetensors file"},
        {"PK\003\004\024\0\0\0", 8, "looks like a ZIP archive"},
        {"<!DOCTYPE html>\n", 16, "looks like a web page (HTML"},
        {"\n  <HTML lang=en>", 17, "looks like a web page (HTML"},
        {"<?xml version", 13, "looks like a XML text"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, "looks like a git-LFS pointer"},
        {"lmgg\1\0\0\0", 8, "looks like a GGML file from before GGUF"},
        {"tjgg\1\0\0\0", 8, "looks like a GGML file from before GGUF"},
        {"\x80\x02}q", 4, "looks like a Python pickle"},
        {"{\"error\":", 9, "looks like a JSON text"},
        {"\x1f\x8b\x08\0", 4, "looks like a gzip archive"},
        {"GGUE", 4, "not a GGUF file (starts with \"GGUE\")"},
        {"gguf\3\0\0\0", 8, "not a GGUF file (starts with \"gguf\\x03\\x00\\x00\\x00\")"},
        {" ", 1, "not a GGUF file (starts with \" \")"},
        {"<htm", 4, "not a GGUF file (starts with \"<htm\")"},
        {"x!DOCTYPE html", 14, "not a GGUF file"},
        {"\x40\0\0\0\0\0\0\0", 8, "not a GGUF file"},
        {"\x40\0\0\0\0\0\1\0{", 9, "not a GGUF file"}, /* 2^48 bytes of JSON */
        {"\x40\0\0\0\0\0\0\1{", 9, "not a GGUF file"},
        {"\x40\0\0\0\0\0\0\0{", 9, "looks like a safetensors file"},
        {"PK\003\004", 4, "looks like a ZIP archive"},
        {"PK\003", 3, "not a GGUF file"},
        {"\t\r<html", 7, "looks like a web page"},
        {"{", 1, "looks like a JSON text"},
        {"\t\r\n ", 4, "not a GGUF file"},
    };
    b.size = 0;
    refuse("greta: empty file (a GGUF file starts with 24 header bytes)"); /* G01 */
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {        /* G03 */
        b.size = 0;
        put(&b, others[i].bytes, others[i].n);
        refuse("greta: not a GGUF file (starts with ");
        refuse(others[i].core);
        assert_int_equal(refusal.hint[0] != '\0', strstr(others[i].core, "looks like") != NULL);
    }
}

static void test_header_short(void **state)
{
    (void)state;
    static const struct {
        size_t size;
        const char *core;
    } cases[] = {
        {1, "byte 0: file ends inside the magic"},   {3, "byte 0: file ends inside the magic"},
        {4, "byte 4: file ends inside the version"}, {6, "byte 4: file ends inside the version"},
        {8, "byte 8: file ends inside the number of tensors"},
        {15, "byte 8: file ends inside the number of tensors"},
        {16, "byte 16: file ends inside the number of keys"},
        {23, "byte 16: file ends inside the number of keys"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { /* G02 */
        put_header(&b, 0, 0);
        b.size = cases[i].size;
        refuse(cases[i].core);
    }
    put_header(&b, 0, 0);
    accept_and_close();
}

static void test_version(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1, 4, 65535, 0x10003};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { /* G04 */
        char core[96];
        put_header(&b, 0, 0);
        b.size = 4;
        put_u32(&b, bad[i]);
        put_u64(&b, 0);
        put_u64(&b, 0);
        snprintf(core, sizeof core, "byte 4: GGUF version %u is not supported (2 and 3 are)",
                 bad[i]);
        refuse(core);
    }
    for (uint32_t version = 2; version <= 3; version++) {
        put_header(&b, 0, 0);
        b.data[4] = (uint8_t)version;
        accept_and_close();
    }
    put_header(&b, 0, 0); /* G05 */
    memcpy(b.data + 4, "\0\0\0\3", 4);
    refuse("byte 4: byte order is big-endian (little-endian only)");
}

static void test_counts(void **state)
{
    (void)state;
    put_header(&b, UINT64_MAX, 0); /* G06 */
    refuse("byte 8: declares 18446744073709551615 tensors but only 0 bytes follow");
    put_header(&b, UINT64_C(1) << 40, 0);
    refuse("byte 8: declares 1099511627776 tensors but only 0 bytes follow");
    put_header(&b, 0, UINT64_MAX); /* G07 */
    refuse("byte 16: declares 18446744073709551615 keys but only 0 bytes follow");
    put_header(&b, 0, 1);
    put_data(&b, 1, 13);
    refuse("byte 16: declares 1 keys but only 13 bytes follow");
    put_header(&b, 1, 0);
    put_data(&b, 1, 32);
    refuse("byte 8: declares 1 tensors but only 32 bytes follow");
    /* The smallest key and the smallest tensor fit exactly. */
    put_header(&b, 0, 1);
    put_key(&b, "k", 0);
    put_number(&b, 7, 1);
    assert_int_equal(b.size, 24 + 14);
    accept_and_close();
    put_header(&b, 1, 0);
    put_tensor(&b, &(tensor_info){"t", 0, 0, 1, {1}});
    assert_int_equal(b.size, 24 + 33);
    refuse("tensor \"t\" ends at byte 68 but the file has 57; file truncated?");
}

static void put_many(uint64_t n_tensor, uint64_t n_key)
{
    char name[32];
    put_header(&b, n_tensor, n_key + (n_tensor > 0));
    for (uint64_t i = 0; i < n_key; i++) {
        snprintf(name, sizeof name, "k%u", (unsigned)(i * 40503 % 65599)); /* not in order */
        put_key(&b, name, 0);
        put_number(&b, 1, 1);
    }
    if (n_tensor > 0) {
        put_key_u32(&b, "general.alignment", 4);
    }
    for (uint64_t i = 0; i < n_tensor; i++) {
        snprintf(name, sizeof name, "t%u", (unsigned)(i * 40503 % 65599));
        put_tensor(&b, &(tensor_info){name, 0, 4 * i, 1, {1}});
    }
    put_data(&b, 4, 4 * n_tensor);
}

static void test_count_limits(void **state)
{
    (void)state;
    uint8_t *copy;
    put_many(0, LIMIT_GGUF_KEYS);
    gguf *g = accept(&copy);
    assert_int_equal(g->n_key, LIMIT_GGUF_KEYS);
    assert_non_null(gguf_find_key(g, "k40503"));
    gguf_close(g);
    free(copy);
    put_many(0, LIMIT_GGUF_KEYS + 1);
    refuse("declares 65537 keys (at most 65536)");
    put_many(LIMIT_GGUF_TENSORS, 0);
    g = accept(&copy);
    assert_int_equal(g->n_tensor, LIMIT_GGUF_TENSORS);
    assert_int_equal(gguf_find_tensor(g, "t40503")->offset, g->data_offset + 4);
    gguf_close(g);
    free(copy);
    put_many(LIMIT_GGUF_TENSORS + 1, 0);
    refuse("declares 65537 tensors (at most 65536)");
}

/* ---- Keys: G08 to G16 ------------------------------------------------------------------------ */

static void test_key_names(void **state)
{
    (void)state;
    put_header(&b, 0, 1); /* G08 */
    put_u64(&b, UINT64_MAX);
    put_data(&b, 1, 37);
    refuse("byte 24: key 0: length 18446744073709551615 exceeds the 37 bytes left");
    put_header(&b, 0, 1);
    put_u64(&b, 38);
    put_data(&b, 1, 37);
    refuse("byte 24: key 0: length 38 exceeds the 37 bytes left");
    put_header(&b, 0, 2); /* G09 */
    put_key_u32(&b, "a", 1);
    put_key_u32(&b, "", 1);
    refuse("byte 41: key 1: name is empty");
    static const struct {
        const char *bytes;
        size_t n;
        const char *core;
    } names[] = {
        {"a\0b", 3, "key 0: name \"a\\x00b\" is not valid UTF-8"},
        {"\xff", 1, "key 0: name \"\\xff\" is not valid UTF-8"},
        {"a\xc3", 2, "key 0: name \"a\\xc3\" is not valid UTF-8"},
        {"\xed\xa0\x80", 3, "is not valid UTF-8"},
        {"\xc0\x80", 2, "is not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        put_header(&b, 0, 1);
        put_bytes(&b, names[i].bytes, names[i].n);
        put_u32(&b, 4);
        put_u32(&b, 1);
        refuse(names[i].core);
    }
    put_header(&b, 0, 1);
    put_key_u32(&b, "gr\xc3\xb6\xc3\x9f" "e", 1);
    accept_and_close();
}

static void test_key_name_limit(void **state)
{
    (void)state;
    static char name[LIMIT_GGUF_KEY_BYTES + 2];
    memset(name, 'n', LIMIT_GGUF_KEY_BYTES);
    put_header(&b, 0, 1);
    put_key_u32(&b, name, 1);
    accept_and_close();
    name[LIMIT_GGUF_KEY_BYTES] = 'n';
    put_header(&b, 0, 1);
    put_key_u32(&b, name, 1);
    refuse("byte 24: key 0: name of 65536 bytes (at most 65535)");
}

static void test_key_twice(void **state)
{
    (void)state;
    static const char *const names[] = {"z", "b", "a", "x", "llama.block_count", "q", "c",
                                        "b2", "d", "llama.block_count", "z"};
    for (uint32_t value = 4; value <= 5; value++) { /* G10: the same value, another value */
        put_header(&b, 0, 10);
        for (size_t i = 0; i < 10; i++) {
            put_key_u32(&b, names[i], i == 9 ? value : 4);
        }
        refuse("key \"llama.block_count\" appears twice (keys 4 and 9)");
    }
    put_header(&b, 0, 11); /* of several, the first in the file */
    for (size_t i = 0; i < 11; i++) {
        put_key_u32(&b, names[i], 4);
    }
    refuse("key \"llama.block_count\" appears twice (keys 4 and 9)");
    put_header(&b, 0, 2);
    put_key_u32(&b, "general.alignment", 32);
    put_key_u32(&b, "general.alignment", 32);
    refuse("key \"general.alignment\" appears twice (keys 0 and 1)");
}

static void test_value_kinds(void **state)
{
    (void)state;
    static const struct {
        uint32_t kind;
        const char *core;
    } bad[] = {
        {13, "byte 33: key \"x\": unknown value type 13"},
        {UINT32_MAX, "byte 33: key \"x\": unknown value type 4294967295"},
        {0x7fffffff, "byte 33: key \"x\": unknown value type 2147483647"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { /* G11 */
        put_header(&b, 0, 1);
        put_key(&b, "x", bad[i].kind);
        put_u64(&b, 0);
        refuse(bad[i].core);
        put_header(&b, 0, 1);
        put_array(&b, "x", bad[i].kind, 0);
        refuse(bad[i].core + strlen("byte 33: "));
    }
    put_header(&b, 0, 1); /* G12 */
    put_key(&b, "x", 7);
    put_number(&b, 5, 1);
    refuse("byte 37: key \"x\": bool must be 0 or 1, is 5");
    put_header(&b, 0, 1);
    put_array(&b, "x", 7, 3);
    put_number(&b, 0x020100, 3);
    refuse("byte 51: key \"x\": bool must be 0 or 1, is 2");
    for (uint32_t kind = 0; kind <= 12; kind++) { /* every kind cut one byte short */
        static const size_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        if (bytes[kind] > 1) {
            put_header(&b, 0, 1);
            put_key(&b, "x", kind);
            put_data(&b, 1, bytes[kind] - 1);
            refuse("byte 37: key \"x\": file ends inside the value");
        }
    }
}

static void test_arrays(void **state)
{
    (void)state;
    put_header(&b, 0, 1); /* G13 */
    put_array(&b, "x", 9, 1);
    put_u32(&b, 4);
    put_u64(&b, 0);
    refuse("byte 37: key \"x\": nested arrays are not supported");
    put_header(&b, 0, 1);
    put_key(&b, "x", 9);
    for (int i = 0; i < 100000; i++) {
        put_u32(&b, 9);
        put_u64(&b, 1);
    }
    refuse("byte 37: key \"x\": nested arrays are not supported");
    put_header(&b, 0, 1); /* G14 */
    put_array(&b, "x", 10, UINT64_C(1) << 61);
    put_data(&b, 1, 100);
    refuse("byte 41: key \"x\": "
           "array of 2305843009213693952 u64 needs more bytes than the 100 left");
    put_header(&b, 0, 1);
    put_array(&b, "x", 0, UINT64_C(1) << 30);
    put_data(&b, 1, 1024);
    refuse("key \"x\": array of 1073741824 u8 needs more bytes than the 1024 left");
    put_header(&b, 0, 1);
    put_array(&b, "x", 8, 3);
    put_data(&b, 1, 23);
    refuse("key \"x\": array of 3 string needs more bytes than the 23 left");
    put_header(&b, 0, 1);
    put_array(&b, "x", 8, 3);
    put_string(&b, "abc");
    put_u64(&b, 9);
    put_data(&b, 1, 8);
    refuse("byte 60: key \"x\": length 9 exceeds the 8 bytes left");
    put_header(&b, 0, 1);
    put_array(&b, "x", 8, 2);
    put_string(&b, "abcdefgh");
    refuse("byte 65: key \"x\": file ends inside the string");
    put_header(&b, 0, 1); /* empty arrays are fine */
    put_array(&b, "x", 8, 0);
    accept_and_close();
}

static void test_strings(void **state)
{
    (void)state;
    put_header(&b, 0, 1); /* G15 */
    put_key(&b, "x", 8);
    put_u64(&b, 1u << 30);
    put_data(&b, 1, 10);
    refuse("byte 37: key \"x\": length 1073741824 exceeds the 10 bytes left");
    put_header(&b, 0, 1);
    put_key(&b, "x", 8);
    put_data(&b, 1, 7);
    refuse("byte 37: key \"x\": file ends inside the string");
}

/* Parses `size` bytes of which all behind the builder's are zero pages that nobody touches. */
static greta_status parse_sparse(size_t size, greta_error *err)
{
    gguf *g;
    uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(data != MAP_FAILED);
    memcpy(data, b.data, b.size);
    *err = (greta_error){0};
    greta_status status = gguf_parse(data, size, &g, err);
    gguf_close(g);
    munmap(data, size);
    return status;
}

static void test_value_limits(void **state)
{
    (void)state;
    greta_error err;
    put_header(&b, 0, 1);
    put_key(&b, "x", 8);
    put_u64(&b, LIMIT_GGUF_STRING_BYTES);
    assert_int_equal(parse_sparse(b.size + LIMIT_GGUF_STRING_BYTES, &err), GRETA_OK);
    put_header(&b, 0, 1);
    put_key(&b, "x", 8);
    put_u64(&b, LIMIT_GGUF_STRING_BYTES + 1);
    assert_int_equal(parse_sparse(b.size + LIMIT_GGUF_STRING_BYTES + 1, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "string of 67108865 bytes (at most 67108864)");
    put_header(&b, 0, 1);
    put_array(&b, "x", 0, LIMIT_GGUF_ITEMS);
    assert_int_equal(parse_sparse(b.size + LIMIT_GGUF_ITEMS, &err), GRETA_OK);
    put_header(&b, 0, 1);
    put_array(&b, "x", 0, LIMIT_GGUF_ITEMS + 1);
    assert_int_equal(parse_sparse(b.size + LIMIT_GGUF_ITEMS + 1, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "array of 67108865 items (at most 67108864)");
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 13, 3, 65535, 131072, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { /* G16 */
        char core[128];
        put_header(&b, 0, 1);
        put_key_u32(&b, "general.alignment", bad[i]);
        snprintf(core, sizeof core,
                 "byte 53: general.alignment is %u (a power of two from 1 to 65536)", bad[i]);
        refuse(core);
    }
    put_header(&b, 0, 1);
    put_key(&b, "general.alignment", 5);
    put_u32(&b, 32);
    refuse("byte 53: general.alignment is of type i32 (u32)");
    for (uint32_t alignment = 1; alignment <= 65536; alignment *= 2) {
        uint8_t *copy;
        put_header(&b, 1, 1);
        put_key_u32(&b, "general.alignment", alignment);
        put_tensor(&b, &(tensor_info){"t", 0, 0, 1, {1}});
        put_data(&b, alignment, 4);
        gguf *g = accept(&copy);
        assert_int_equal(g->alignment, alignment);
        assert_int_equal(g->tensor[0].offset, b.size - 4);
        gguf_close(g);
        free(copy);
    }
}

/* What the split.* keys may say of one part; joining parts is test_gguf_split.c's. */
static void test_split(void **state)
{
    (void)state;
    uint8_t *copy;
    put_header(&b, 0, 3);
    put_key(&b, "split.no", 2), put_number(&b, 511, 2);
    put_key(&b, "split.count", 2), put_number(&b, LIMIT_GGUF_PARTS, 2);
    put_key(&b, "split.tensors.count", 5), put_u32(&b, 100);
    gguf *g = accept(&copy);
    assert_int_equal(g->part, 511);
    assert_int_equal(g->n_part, 512);
    assert_int_equal(g->n_tensor_split, 100);
    gguf_close(g);
    free(copy);
    put_header(&b, 0, 1);
    put_key_u32(&b, "split.count", 2);
    refuse("key \"split.no\" is missing");
    put_header(&b, 0, 2);
    put_key_u32(&b, "split.count", 2);
    put_key_u32(&b, "split.no", 2);
    refuse("split.no is 2 (below split.count, 2)");
    put_header(&b, 0, 2);
    put_key_u32(&b, "split.count", 2);
    put_key_u32(&b, "split.no", 1);
    refuse("key \"split.tensors.count\" is missing");
    put_header(&b, 0, 2);
    put_key_u32(&b, "split.count", LIMIT_GGUF_PARTS + 1);
    put_key_u32(&b, "split.no", 1);
    refuse("split.count is 513 (at most 512)");
    put_header(&b, 0, 1);
    put_key(&b, "split.count", 5), put_u32(&b, UINT32_MAX);
    refuse("key \"split.count\": is -1 (0 or more)");
    put_header(&b, 0, 1);
    put_key_u32(&b, "split.count", 1);
    accept_and_close();
}

/* ---- Tensors: G17 to G26 --------------------------------------------------------------------- */

/* One tensor, with `bytes` bytes of data behind. */
static void put_one(const tensor_info *t, size_t bytes)
{
    put_header(&b, 1, 0);
    put_tensor(&b, t);
    put_data(&b, 32, bytes);
}

static void refuse_one(const tensor_info *t, size_t bytes, const char *core)
{
    put_one(t, bytes);
    refuse(core);
}

static void test_shapes(void **state)
{
    (void)state;
    const uint64_t two32 = UINT64_C(1) << 32, two62 = UINT64_C(1) << 62;
    refuse_one(&(tensor_info){"t", 0, 0, 0, {0}}, 64, /* G17 */
               "byte 33: tensor \"t\": 0 dimensions (1 to 4)");
    refuse_one(&(tensor_info){"t", 0, 0, 5, {1, 1, 1, 1, 1}}, 64,
               "tensor \"t\": 5 dimensions (1 to 4)");
    refuse_one(&(tensor_info){"t", 0, 0, UINT32_MAX, {1, 1, 1, 1, 1}}, 64,
               "tensor \"t\": 4294967295 dimensions (1 to 4)");
    put_one(&(tensor_info){"t", 0, 0, 4, {2, 3, 1, 2}}, 48);
    accept_and_close();
    refuse_one(&(tensor_info){"t", 0, 0, 2, {4, 0}}, 64, /* G18 */
               "byte 45: tensor \"t\": dimension 1 is 0");
    refuse_one(&(tensor_info){"t", 0, 0, 1, {0}}, 64, "tensor \"t\": dimension 0 is 0");
    refuse_one(&(tensor_info){"t", 0, 0, 2, {0, two62}}, 64, "tensor \"t\": dimension 0 is 0");
    refuse_one(&(tensor_info){"t", 0, 0, 1, {UINT64_MAX}}, 64,
               "tensor \"t\": element count overflows");
    refuse_one(&(tensor_info){"t", 0, 0, 2, {two32, two32}}, 64, /* G19 */
               "tensor \"t\": element count overflows");
    refuse_one(&(tensor_info){"t", 0, 0, 3, {1 << 21, 1 << 21, 1 << 22}}, 64,
               "tensor \"t\": element count overflows");
    refuse_one(&(tensor_info){"t", 0, 0, 2, {two62, 2}}, 64, "element count overflows");
    refuse_one(&(tensor_info){"t", 0, 0, 1, {INT64_MAX}}, 64, "tensor \"t\": size overflows");
    refuse_one(&(tensor_info){"t", 0, 0, 1, {two62 - 1}}, 64, /* G20 */
               "tensor \"t\": size overflows when aligned");
    refuse_one(&(tensor_info){"t", 0, 0, 1, {two62}}, 64, "tensor \"t\": size overflows");
    refuse_one(&(tensor_info){"t", 12, 0, 1, {100}}, 64, /* G22 */
               "tensor \"t\": row of 100 is not a multiple of the block size 256");
    refuse_one(&(tensor_info){"t", 8, 0, 2, {31, 32}}, 64,
               "tensor \"t\": row of 31 is not a multiple of the block size 32");
}

static void test_types(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        const char *core;
    } bad[] = {
        {4, "tensor \"t\": unknown type 4 (supported: F32, F16, BF16, Q8_0, Q4_0"}, /* G23 */
        {5, "tensor \"t\": unknown type 5 (supported: "},
        {99, "tensor \"t\": unknown type 99 (supported: "},
        {256, "tensor \"t\": unknown type 256 (supported: "}, /* ours, never in a file */
        {257, "tensor \"t\": unknown type 257 (supported: "},
        {UINT32_MAX, "tensor \"t\": unknown type 4294967295 (supported: "},
        {36, "tensor \"t\": unknown type 36 (supported: "},
        {42, "tensor \"t\": unknown type 42 (supported: "},
    };
    /* Types of ggml.h that are not ours: refused by name. */
    static const struct {
        uint32_t type;
        const char *name;
    } known[] = {
        {9, "Q8_1"}, {15, "Q8_K"}, {16, "IQ2_XXS"},
        {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},
        {24, "I8"}, {25, "I16"}, {26, "I32"}, {27, "I64"}, {28, "F64"},
        {29, "IQ1_M"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {40, "NVFP4"}, {41, "Q1_0"},
    };
    /* type number, row of 256 elements in bytes (ggml: 256 / block * block bytes) */
    static const uint32_t good[][2] = {{0, 1024}, {1, 512},  {30, 512}, {2, 144},  {3, 160},
                                       {6, 176},  {7, 192},  {8, 272},  {12, 144}, {13, 176},
                                       {14, 210}, {10, 84},  {11, 110}, {20, 144}, {23, 136},
                                       {39, 136}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        refuse_one(&(tensor_info){"t", bad[i].type, 0, 1, {256}}, 4096, bad[i].core);
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        char core[160];
        snprintf(core, sizeof core, "tensor \"t\": type %u (%s) is not supported (supported: F32, ",
                 (unsigned)known[i].type, known[i].name);
        refuse_one(&(tensor_info){"t", known[i].type, 0, 1, {256}}, 4096, core);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint8_t *copy;
        put_one(&(tensor_info){"t", good[i][0], 0, 2, {256, 3}}, good[i][1] * 3);
        gguf *g = accept(&copy);
        assert_int_equal(g->tensor[0].bytes, good[i][1] * 3);
        assert_int_equal(g->tensor[0].type, good[i][0]);
        gguf_close(g);
        free(copy);
        b.size--;
        refuse("file truncated?");
    }
}

static void test_offsets(void **state)
{
    (void)state;
    tensor_info t = {"t", 0, 0, 1, {16}};
    put_one(&t, 64); /* G24 */
    accept_and_close();
    put_one(&t, 63);
    refuse("byte 24: tensor \"t\" ends at byte 128 but the file has 127; file truncated?");
    t.offset = 33;
    refuse_one(&t, 256, "byte 49: tensor \"t\": offset 33 is not a multiple of the alignment 32");
    t.offset = UINT64_MAX;
    refuse_one(&t, 256, "is not a multiple of the alignment 32");
    t.offset = UINT64_MAX - 31;
    refuse_one(&t, 256, "byte 24: tensor data overflows 64 bits at \"t\"");
    t.offset = UINT64_C(1) << 63;
    refuse_one(&t, 256, "ends at byte 9223372036854775936 but the file has 320; file truncated?");
    put_header(&b, 1, 1); /* alignment 1: every offset is aligned */
    put_key_u32(&b, "general.alignment", 1);
    t.offset = UINT64_MAX;
    put_tensor(&b, &t);
    put_data(&b, 1, 64);
    refuse("tensor data overflows 64 bits at \"t\"");
}

static void test_sum_overflow(void **state)
{
    (void)state;
    const uint64_t half = UINT64_C(1) << 61; /* elements of 2^63 bytes */
    put_header(&b, 2, 0);                    /* G21 */
    put_tensor(&b, &(tensor_info){"t1", 0, 0, 1, {half}});
    put_tensor(&b, &(tensor_info){"t2", 0, half * 4, 1, {half}});
    put_data(&b, 32, 64);
    refuse("tensor data overflows 64 bits at \"t2\"");
    put_header(&b, 2, 0); /* the sum as a writer with the same overflow would have stored it */
    put_tensor(&b, &(tensor_info){"t1", 0, 0, 1, {half}});
    put_tensor(&b, &(tensor_info){"t2", 0, 0, 1, {half}});
    put_data(&b, 32, 64);
    refuse("tensor data overflows 64 bits at \"t2\"");
}

static void test_layout(void **state)
{
    (void)state;
    uint8_t *copy;
    tensor_info a = {"a", 0, 0, 1, {16}}, middle = {"m", 0, 64, 1, {9}},
                z = {"z", 0, 128, 1, {8}};
    /* In another order than they lie; m is 36 bytes, so 28 bytes of padding follow: no hole. */
    put_header(&b, 3, 0);
    put_tensor(&b, &z);
    put_tensor(&b, &a);
    put_tensor(&b, &middle);
    put_data(&b, 32, 160);
    gguf *g = accept(&copy);
    assert_int_equal(g->n_hole, 0);
    assert_ptr_equal(g->tensor[0].data, copy + g->data_offset + 128);
    gguf_close(g);
    free(copy);
    put_data(&b, 32, 1); /* behind the last one */
    g = accept(&copy);
    assert_int_equal(g->n_hole, 1);
    gguf_close(g);
    free(copy);
    /* G25: the last 4 bytes of m are those of z. */
    middle.dim[0] = 17;
    put_header(&b, 3, 0);
    put_tensor(&b, &z);
    put_tensor(&b, &a);
    put_tensor(&b, &middle);
    put_data(&b, 32, 160);
    refuse("tensors \"m\" and \"z\" overlap");
    put_header(&b, 2, 0); /* one inside the other, and the very same place */
    put_tensor(&b, &(tensor_info){"in", 0, 32, 1, {1}});
    put_tensor(&b, &(tensor_info){"out", 0, 0, 1, {32}});
    put_data(&b, 32, 128);
    refuse("tensors \"out\" and \"in\" overlap");
    put_header(&b, 2, 0);
    put_tensor(&b, &(tensor_info){"one", 0, 0, 1, {1}});
    put_tensor(&b, &(tensor_info){"two", 0, 0, 1, {1}});
    put_data(&b, 32, 128);
    refuse("tensors \"one\" and \"two\" overlap");
    put_header(&b, 2, 0); /* holes: 32 in front, 64 between */
    put_tensor(&b, &(tensor_info){"a", 0, 32, 1, {1}});
    put_tensor(&b, &(tensor_info){"b", 0, 128, 1, {1}});
    put_data(&b, 32, 132);
    g = accept(&copy);
    assert_int_equal(g->n_hole, 96);
    gguf_close(g);
    free(copy);
}

static void test_tensor_names(void **state)
{
    (void)state;
    char name[80];
    memset(name, 'n', sizeof name);
    put_header(&b, 3, 0); /* G26 */
    put_tensor(&b, &(tensor_info){"blk.0.q", 0, 0, 1, {1}});
    put_tensor(&b, &(tensor_info){"a", 0, 32, 1, {1}});
    put_tensor(&b, &(tensor_info){"blk.0.q", 0, 64, 1, {1}});
    put_data(&b, 32, 96);
    refuse("byte 96: tensor name \"blk.0.q\" appears twice");
    name[63] = '\0';
    put_one(&(tensor_info){name, 0, 0, 1, {1}}, 4);
    accept_and_close();
    name[63] = 'n';
    name[64] = '\0';
    refuse_one(&(tensor_info){name, 0, 0, 1, {1}}, 4,
               "byte 24: tensor 0: name of 64 bytes (at most 63)");
    refuse_one(&(tensor_info){"", 0, 0, 1, {1}}, 4, "byte 24: tensor 0: name is empty");
    refuse_one(&(tensor_info){"\xe2\x82", 0, 0, 1, {1}}, 4,
               "byte 24: tensor 0: name \"\\xe2\\x82\" is not valid UTF-8");
    /* Names reach messages only escaped. */
    refuse_one(&(tensor_info){"a\x1b[2J\xe2\x80\xae", 0, 0, 1, {0}}, 4,
               "tensor \"a\\x1b[2J\\xe2\\x80\\xae\": dimension 0 is 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_magic),          cmocka_unit_test(test_header_short),
        cmocka_unit_test(test_version),        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_count_limits),   cmocka_unit_test(test_key_names),
        cmocka_unit_test(test_key_name_limit), cmocka_unit_test(test_key_twice),
        cmocka_unit_test(test_value_kinds),    cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_strings),        cmocka_unit_test(test_value_limits),
        cmocka_unit_test(test_alignment),      cmocka_unit_test(test_split),
        cmocka_unit_test(test_shapes),         cmocka_unit_test(test_types),
        cmocka_unit_test(test_offsets),        cmocka_unit_test(test_sum_overflow),
        cmocka_unit_test(test_layout),         cmocka_unit_test(test_tensor_names),
    };
    int failed = cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
    free(b.data);
    return failed;
}
