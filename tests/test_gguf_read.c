/* test_gguf_read.c - what a GGUF directory gives back: values, tensors, descriptions; and that
 * damage of any kind gives an answer or a refusal.
 *
 * One small valid file holds every kind of value and every tensor type. It is read back against the
 * numbers it was built from, then cut at every byte and turned at every bit. The reads that follow
 * a successful open touch everything that the directory promises, so that the address sanitizer
 * sees a promise that does not hold.
 */
#include "format/gguf.h"

#include "gguf_builder.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static builder b;

static const uint32_t types[] = {0, 1, 30, 8, 2, 3, 6, 7, 12, 13, 14};
static const uint64_t row_bytes[] = {1024, 512, 512, 272, 144, 160, 176, 192, 144, 176, 210};
#define N_TYPE (sizeof types / sizeof types[0])

static void put_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_u32(&b, bits);
}

static void put_scalars(void)
{
    double f64 = -0.1;
    uint64_t bits;
    memcpy(&bits, &f64, sizeof bits);
    put_key(&b, "v.u8", 0), put_number(&b, 200, 1);
    put_key(&b, "v.i8", 1), put_number(&b, 0x80, 1);
    put_key(&b, "v.u16", 2), put_number(&b, 60000, 2);
    put_key(&b, "v.i16", 3), put_number(&b, 0xfffe, 2);
    put_key(&b, "v.u32", 4), put_u32(&b, 4000000000u);
    put_key(&b, "v.i32", 5), put_u32(&b, 7);
    put_key(&b, "v.f32", 6), put_f32(1e-5f);
    put_key(&b, "v.bool", 7), put_number(&b, 1, 1);
    put_key(&b, "v.string", 8), put_string(&b, "caf\xc3\xa9 \x1b[0m");
    put_key(&b, "v.u64", 10), put_u64(&b, UINT64_MAX);
    put_key(&b, "v.i64", 11), put_u64(&b, (uint64_t)INT64_MIN);
    put_key(&b, "v.f64", 12), put_u64(&b, bits);
    put_key(&b, "v.nan", 6), put_u32(&b, 0x7fc00000u);
    put_key(&b, "v.zero", 5), put_u32(&b, 0);
    put_key(&b, "v.raw", 8), put_bytes(&b, "a\xff", 2);
}

#define N_SCALAR 15
#define N_ARRAY 4

static void put_arrays(void)
{
    put_array(&b, "a.i16", 3, 8);
    for (uint64_t i = 0; i < 8; i++) {
        put_number(&b, i % 2 ? 0u - i : i, 2);
    }
    put_array(&b, "a.string", 8, 3);
    put_string(&b, "one"), put_string(&b, ""), put_string(&b, "three");
    put_array(&b, "a.f32", 6, 2);
    put_f32(0.1f), put_f32(-INFINITY);
    put_array(&b, "a.bool", 7, 0);
}

/* Every kind, every type; a 2-row tensor of each; a hole of 64 bytes before the last. */
static void put_sample(void)
{
    char name[32];
    uint64_t offset = 0;
    put_header(&b, N_TYPE, N_SCALAR + N_ARRAY + 1);
    put_scalars();
    put_arrays();
    put_key_u32(&b, "general.alignment", 64);
    for (size_t i = 0; i < N_TYPE; i++) {
        snprintf(name, sizeof name, "t%zu.weight", i);
        offset += i + 1 == N_TYPE ? 64 : 0;
        put_tensor(&b, &(tensor_info){name, types[i], offset, 2, {256, 2}});
        offset += (row_bytes[i] * 2 + 63) / 64 * 64;
    }
    put_data(&b, 64, offset);
}

static gguf *open_sample(uint8_t **copy)
{
    gguf *g;
    put_sample();
    *copy = malloc(b.size);
    assert_non_null(*copy);
    memcpy(*copy, b.data, b.size);
    assert_int_equal(gguf_parse(*copy, b.size, &g, NULL), GRETA_OK);
    return g;
}

/* ---- Getters --------------------------------------------------------------------------------- */

static void check_u64(const gguf *g, const char *name, uint64_t expected)
{
    uint64_t value = 1;
    assert_int_equal(gguf_get_u64(g, name, 1, &value, NULL), GRETA_OK);
    assert_true(value == expected);
}

static void check_line(const greta_error *err, const char *core)
{
    char line[GRETA_ERROR_LINE];
    if (err->code != GRETA_BAD_INPUT || strstr(greta_error_line(err, line), core) == NULL) {
        fail_msg("expected \"%s\", got %s", core, line);
    }
}

static void test_integers(void **state)
{
    (void)state;
    uint8_t *copy;
    gguf *g = open_sample(&copy);
    check_u64(g, "v.u8", 200);
    check_u64(g, "v.u16", 60000);
    check_u64(g, "v.u32", 4000000000u);
    check_u64(g, "v.i32", 7);
    check_u64(g, "v.u64", UINT64_MAX);
    static const struct {
        const char *name, *core;
    } bad[] = {
        {"v.i8", "key \"v.i8\": is -128 (0 or more)"},
        {"v.i16", "key \"v.i16\": is -2 (0 or more)"},
        {"v.i64", "key \"v.i64\": is -9223372036854775808 (0 or more)"},
        {"v.f32", "key \"v.f32\": is of type f32 (an integer)"},
        {"v.bool", "key \"v.bool\": is of type bool (an integer)"},
        {"v.string", "key \"v.string\": is of type string (an integer)"},
        {"a.i16", "key \"a.i16\": is of type array of i16 (an integer)"},
        {"v.none", "greta: key \"v.none\" is missing"},
        {"\n", "greta: key \"\\x0a\" is missing"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t value = 77;
        greta_error err = {0};
        assert_int_equal(gguf_get_u64(g, bad[i].name, 1, &value, &err), GRETA_BAD_INPUT);
        check_line(&err, bad[i].core);
        assert_int_equal(value, 77);
    }
    uint64_t value = 77;
    assert_int_equal(gguf_get_u64(g, "v.none", 0, &value, NULL), GRETA_OK);
    assert_int_equal(value, 77);
    check_u64(g, "v.zero", 0);
    /* Present and of another kind is wrong also when it is not needed. */
    assert_int_equal(gguf_get_u64(g, "v.string", 0, &value, NULL), GRETA_BAD_INPUT);
    gguf_close(g);
    free(copy);
}

static void test_other_scalars(void **state)
{
    (void)state;
    uint8_t *copy;
    gguf *g = open_sample(&copy);
    float f32 = 2.0f;
    int flag = 7;
    gguf_string string = {0};
    greta_error err = {0};
    assert_int_equal(gguf_get_f32(g, "v.f32", 1, &f32, NULL), GRETA_OK);
    assert_true(f32 == 1e-5f);
    assert_int_equal(gguf_get_f32(g, "v.none", 0, &f32, NULL), GRETA_OK);
    assert_true(f32 == 1e-5f);
    assert_int_equal(gguf_get_f32(g, "v.f64", 1, &f32, &err), GRETA_BAD_INPUT);
    check_line(&err, "key \"v.f64\": is of type f64 (f32)");
    err = (greta_error){0};
    assert_int_equal(gguf_get_f32(g, "v.none", 1, &f32, &err), GRETA_BAD_INPUT);
    check_line(&err, "key \"v.none\" is missing");
    assert_int_equal(gguf_get_bool(g, "v.bool", 1, &flag, NULL), GRETA_OK);
    assert_int_equal(flag, 1);
    assert_int_equal(gguf_get_bool(g, "v.none", 0, &flag, NULL), GRETA_OK);
    assert_int_equal(flag, 1);
    err = (greta_error){0};
    assert_int_equal(gguf_get_bool(g, "v.u8", 1, &flag, &err), GRETA_BAD_INPUT);
    check_line(&err, "key \"v.u8\": is of type u8 (bool)");
    assert_int_equal(gguf_get_bool(g, "v.none", 1, &flag, NULL), GRETA_BAD_INPUT);
    assert_int_equal(gguf_get_string(g, "v.string", 1, &string, NULL), GRETA_OK);
    assert_int_equal(string.length, 10);
    assert_memory_equal(string.data, "caf\xc3\xa9 \x1b[0m", 10);
    err = (greta_error){0};
    assert_int_equal(gguf_get_string(g, "a.string", 1, &string, &err), GRETA_BAD_INPUT);
    check_line(&err, "key \"a.string\": is of type array of string (string)");
    assert_int_equal(gguf_get_string(g, "v.none", 0, &string, NULL), GRETA_OK);
    assert_int_equal(gguf_get_string(g, "v.none", 1, &string, NULL), GRETA_BAD_INPUT);
    gguf_close(g);
    free(copy);
}

static void test_items(void **state)
{
    (void)state;
    uint8_t *copy;
    gguf *g = open_sample(&copy);
    const gguf_key *key = gguf_find_key(g, "a.i16");
    assert_int_equal(key->kind, GGUF_ARRAY);
    assert_int_equal(key->item_kind, GGUF_I16);
    assert_int_equal(key->n, 8);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(gguf_item_i64(key, (uint64_t)i), i % 2 ? -i : i);
        assert_true(gguf_item_f64(key, (uint64_t)i) == (i % 2 ? -i : i));
    }
    key = gguf_find_key(g, "a.f32");
    assert_true(gguf_item_f64(key, 0) == (double)0.1f && gguf_item_f64(key, 1) == -INFINITY);
    assert_true(gguf_item_f64(gguf_find_key(g, "v.f64"), 0) == -0.1);
    assert_true(gguf_item_f64(gguf_find_key(g, "v.u64"), 0) == 0x1p64);
    assert_true(gguf_item_i64(gguf_find_key(g, "v.u64"), 0) == INT64_MAX);
    assert_true(gguf_item_i64(gguf_find_key(g, "v.i64"), 0) == INT64_MIN);
    assert_int_equal(gguf_item_i64(gguf_find_key(g, "v.i8"), 0), -128);
    assert_int_equal(gguf_item_i64(gguf_find_key(g, "v.bool"), 0), 1);
    key = gguf_find_key(g, "a.string");
    static const char *const strings[] = {"one", "", "three"};
    const uint8_t *cursor = key->data;
    for (size_t i = 0; i < key->n; i++) {
        gguf_string string = gguf_next_string(&cursor);
        assert_int_equal(string.length, strlen(strings[i]));
        assert_memory_equal(string.data, strings[i], string.length);
    }
    assert_int_equal(gguf_find_key(g, "a.bool")->n, 0);
    assert_string_equal(gguf_kind_name(GGUF_I64), "i64");
    assert_string_equal(gguf_kind_name((gguf_kind)13), "?");
    assert_int_equal(gguf_kind_bytes(GGUF_STRING), 0);
    assert_int_equal(gguf_kind_bytes((gguf_kind)-1), 0);
    gguf_close(g);
    free(copy);
}

static void test_tensors(void **state)
{
    (void)state;
    uint8_t *copy;
    gguf *g = open_sample(&copy);
    assert_int_equal(g->version, 3);
    assert_int_equal(g->alignment, 64);
    assert_int_equal(g->n_tensor, N_TYPE);
    assert_int_equal(g->n_hole, 64);
    assert_int_equal(g->size, b.size);
    assert_int_equal(g->data_offset % 64, 0);
    for (size_t i = 0; i < N_TYPE; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%zu.weight", i);
        const gguf_tensor *t = gguf_find_tensor(g, name);
        assert_ptr_equal(t, &g->tensor[i]);
        assert_string_equal(t->name, name);
        assert_int_equal(t->type, types[i]);
        assert_int_equal(t->bytes, row_bytes[i] * 2);
        assert_int_equal(t->n_dim, 2);
        assert_true(t->dim[0] == 256 && t->dim[1] == 2 && t->dim[2] == 1 && t->dim[3] == 1);
        assert_ptr_equal(t->data, copy + t->offset);
    }
    assert_null(gguf_find_tensor(g, "t0"));
    assert_null(gguf_find_tensor(g, "t0.weight2"));
    assert_null(gguf_find_key(g, ""));
    gguf_close(g);
    free(copy);
    gguf_close(NULL);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void test_open(void **state)
{
    (void)state;
    char path[] = "/tmp/greta-test-gguf-XXXXXX", core[96];
    gguf *g = (gguf *)path;
    greta_error err = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    put_sample();
    assert_int_equal(write(fd, b.data, b.size), b.size);
    assert_int_equal(gguf_open(path, &g, &err), GRETA_OK);
    assert_int_equal(g->n_tensor, N_TYPE);
    assert_string_equal(g->file[0].path, path);
    assert_false(mapped_file_changed(&g->file[0]));
    gguf_close(g);
    assert_int_equal(ftruncate(fd, 6), 0);
    assert_int_equal(gguf_open(path, &g, &err), GRETA_BAD_INPUT);
    assert_null(g);
    snprintf(core, sizeof core, "greta: %s: byte 4: file ends inside the version", path);
    check_line(&err, core);
    assert_int_equal(ftruncate(fd, 0), 0);
    err = (greta_error){0};
    assert_int_equal(gguf_open(path, &g, &err), GRETA_BAD_INPUT);
    check_line(&err, "empty file (a GGUF file starts with 24 header bytes)");
    close(fd);
    unlink(path);
    assert_int_equal(gguf_open(path, &g, NULL), GRETA_IO);
    assert_null(g);
}

/* ---- Descriptions ---------------------------------------------------------------------------- */

static void test_describe_text(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "GGUF version 3, alignment 64, ", "\nmetadata: 20 keys\n",
        "\n  v.u8               u8             200\n",
        "\n  v.i8               i8             -128\n",
        "u64            18446744073709551615\n", "i64            -9223372036854775808\n",
        "\n  v.f32              f32            1e-05\n", "f64            -0.1\n",
        "bool           true\n", "string         \"caf\\xc3\\xa9 \\x1b[0m\"\n",
        "f32            nan\n", "string         \"a\\xff\"\n",
        "i16[8]         0, -1, 2, -3, 4, -5, ...\n",
        "string[3]      \"one\", \"\", \"three\"\n", "f32[2]         0.1, -inf\n",
        "bool[0]        \n",
        "\ntensors: 11\n  name        shape    type          bytes        offset\n",
        "\n  t10.weight  256 x 2  Q6_K            420  ", "\nparameters: 5632\n",
        "\nweights: 6.9 KiB (7044 bytes): 1 F32, 1 F16, 1 Q4_0, ",
        "\nwarning: 64 bytes of the data belong to no tensor\n",
    };
    uint8_t *copy;
    char *text;
    gguf *g = open_sample(&copy);
    assert_int_equal(gguf_describe(g, 0, &text, NULL), GRETA_OK);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (strstr(text, lines[i]) == NULL) {
            fail_msg("no \"%s\" in\n%s", lines[i], text);
        }
    }
    for (const char *c = text; *c != '\0'; c++) { /* a terminal sees nothing else */
        assert_true(*c == '\n' || (*c >= ' ' && *c <= '~'));
    }
    free(text);
    gguf_close(g);
    free(copy);
}

static json_t *metadata(const json_t *root, const char *name)
{
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(root, "metadata"), i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), name) == 0) {
            return entry;
        }
    }
    fail_msg("no key %s", name);
    return NULL;
}

static void check_json_metadata(const json_t *root)
{
    json_t *value = json_object_get(metadata(root, "v.u64"), "value");
    assert_string_equal(json_string_value(value), "18446744073709551615");
    value = json_object_get(metadata(root, "v.i64"), "value");
    assert_true(json_integer_value(value) == INT64_MIN);
    value = json_object_get(metadata(root, "v.f32"), "value");
    assert_true(json_real_value(value) == (double)1e-5f);
    value = json_object_get(metadata(root, "v.nan"), "value");
    assert_string_equal(json_string_value(value), "nan");
    assert_true(json_is_true(json_object_get(metadata(root, "v.bool"), "value")));
    value = json_object_get(metadata(root, "v.string"), "value");
    assert_string_equal(json_string_value(value), "caf\xc3\xa9 \x1b[0m");
    assert_null(json_object_get(metadata(root, "v.string"), "escaped"));
    value = json_object_get(metadata(root, "v.raw"), "value");
    assert_string_equal(json_string_value(value), "a\\xff");
    assert_true(json_is_true(json_object_get(metadata(root, "v.raw"), "escaped")));
    json_t *array = metadata(root, "a.i16");
    assert_string_equal(json_string_value(json_object_get(array, "kind")), "array");
    assert_string_equal(json_string_value(json_object_get(array, "item_kind")), "i16");
    assert_int_equal(json_integer_value(json_object_get(array, "n")), 8);
    assert_int_equal(json_array_size(json_object_get(array, "first")), 6);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(array, "first"), 5)), -5);
    array = json_object_get(metadata(root, "a.f32"), "first");
    assert_string_equal(json_string_value(json_array_get(array, 1)), "-inf");
}

static void test_describe_json(void **state)
{
    (void)state;
    uint8_t *copy;
    char *text;
    json_error_t problem;
    gguf *g = open_sample(&copy);
    assert_int_equal(gguf_describe(g, 1, &text, NULL), GRETA_OK);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &problem);
    assert_non_null(root);
    check_json_metadata(root);
    assert_string_equal(json_string_value(json_object_get(root, "format")), "gguf");
    assert_int_equal(json_integer_value(json_object_get(root, "version")), 3);
    assert_int_equal(json_integer_value(json_object_get(root, "bytes")), b.size);
    assert_int_equal(json_integer_value(json_object_get(root, "n_parameters")), 5632);
    assert_int_equal(json_integer_value(json_object_get(root, "bytes_weights")), 7044);
    assert_int_equal(json_integer_value(json_object_get(root, "hole_bytes")), 64);
    assert_int_equal(json_array_size(json_object_get(root, "metadata")), 20);
    assert_int_equal(json_array_size(json_object_get(root, "warnings")), 1);
    assert_int_equal(json_object_size(json_object_get(root, "types")), N_TYPE);
    json_t *tensor = json_array_get(json_object_get(root, "tensors"), 10);
    assert_string_equal(json_string_value(json_object_get(tensor, "name")), "t10.weight");
    assert_string_equal(json_string_value(json_object_get(tensor, "type")), "Q6_K");
    assert_int_equal(json_integer_value(json_object_get(tensor, "bytes")), 420);
    assert_int_equal(json_integer_value(json_object_get(tensor, "offset")), g->tensor[10].offset);
    assert_int_equal(json_array_size(json_object_get(tensor, "shape")), 2);
    json_decref(root);
    free(text);
    gguf_close(g);
    free(copy);
}

static char *describe(int json)
{
    gguf *g;
    char *text;
    assert_int_equal(gguf_parse(b.data, b.size, &g, NULL), GRETA_OK);
    assert_int_equal(gguf_describe(g, json, &text, NULL), GRETA_OK);
    gguf_close(g);
    return text;
}

static void test_describe_empty(void **state)
{
    (void)state;
    put_header(&b, 0, 0);
    char *text = describe(0);
    assert_string_equal(text, "GGUF version 3, alignment 32, 24 B (24 bytes)\n\nmetadata: 0 keys\n"
                              "\ntensors: 0\n\nparameters: 0\nweights: 0 B (0 bytes)\n");
    free(text);
    text = describe(1);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_array_size(json_object_get(root, "metadata")), 0);
    assert_int_equal(json_array_size(json_object_get(root, "tensors")), 0);
    assert_int_equal(json_array_size(json_object_get(root, "warnings")), 0);
    assert_int_equal(json_object_size(json_object_get(root, "types")), 0);
    json_decref(root);
    free(text);
}

/* Columns follow the widest name, the first one here; a name over 60 columns does not count. */
static void test_describe_columns(void **state)
{
    (void)state;
    char name[80];
    memset(name, 'n', sizeof name);
    put_header(&b, 1, 4);
    put_key_u32(&b, "first.and.widest", 1);
    put_key_u32(&b, "k", 2);
    name[61] = '\0';
    put_key_u32(&b, name, 3);
    put_key_u32(&b, "general.alignment", 4);
    put_tensor(&b, &(tensor_info){"one", 0, 4, 2, {1, 1}}); /* a hole of 4 bytes before it */
    put_data(&b, 4, 8);
    char *text = describe(0);
    assert_non_null(strstr(text, "\n  k                  u32            2\n"));
    assert_non_null(strstr(text, "\n  name  shape  type          bytes        offset\n"));
    assert_non_null(strstr(text, "\n  one   1 x 1  F32               4  "));
    assert_non_null(strstr(text, "\nwarning: 4 bytes of the data belong to no tensor\n"));
    free(text);
    name[60] = '\0';
    put_header(&b, 0, 2);
    put_key_u32(&b, name, 1);
    put_key_u32(&b, "k", 2);
    text = describe(0);
    char *row = strstr(text, "\n  k ");
    assert_int_equal(strspn(row + 4, " "), 59 + 2);
    free(text);
}

/* Long strings are whole in JSON, also those that are not UTF-8; the largest i64 is a number. */
static void test_describe_json_strings(void **state)
{
    (void)state;
    char raw[200], expected[4 * 200 + 1];
    for (size_t length = 126; length <= 131; length++) {
        for (size_t i = 0; i < length; i++) {
            raw[i] = (char)(i % 3 ? 'a' + (int)(i % 26) : 0xf0);
        }
        size_t used = 0;
        for (size_t i = 0; i < length; i++) {
            used += (size_t)snprintf(expected + used, 5, i % 3 ? "%c" : "\\xf0", raw[i]);
        }
        put_header(&b, 0, 2);
        put_key(&b, "raw", 8);
        put_bytes(&b, raw, length);
        put_key(&b, "big", 10);
        put_u64(&b, INT64_MAX);
        char *text = describe(1);
        json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        json_t *value = json_object_get(metadata(root, "raw"), "value");
        assert_string_equal(json_string_value(value), expected);
        value = json_object_get(metadata(root, "big"), "value");
        assert_true(json_is_integer(value) && json_integer_value(value) == INT64_MAX);
        json_decref(root);
        free(text);
    }
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static uint64_t sink; /* keeps the reads below */

/* Reads all that an open directory promises: names, values, every byte of every tensor. */
static void read_everything(const gguf *g, int describe)
{
    for (size_t i = 0; i < g->n_key; i++) {
        const gguf_key *key = &g->key[i];
        const uint8_t *cursor = key->data;
        assert_ptr_equal(gguf_find_key(g, key->name), key);
        for (uint64_t item = 0; item < key->n; item++) {
            if (key->item_kind == GGUF_STRING) {
                gguf_string string = gguf_next_string(&cursor);
                sink += string.length > 0 ? (uint8_t)string.data[string.length - 1] : 0u;
            } else {
                sink += (uint64_t)isnan(gguf_item_f64(key, item));
            }
        }
    }
    for (size_t i = 0; i < g->n_tensor; i++) {
        const gguf_tensor *t = &g->tensor[i];
        assert_ptr_equal(gguf_find_tensor(g, t->name), t);
        sink += t->data[0] + (uint64_t)t->data[t->bytes - 1];
    }
    for (int json = 0; describe && json < 2; json++) {
        char *text;
        assert_int_equal(gguf_describe(g, json, &text, NULL), GRETA_OK);
        free(text);
    }
}

/* Parses an exact copy; 0 or 3, and an error line for 3. Returns whether it opened. */
static int parse_damaged(size_t size, int describe)
{
    gguf *g = NULL;
    greta_error err = {0};
    uint8_t *copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, b.data, size);
    greta_status status = gguf_parse(copy, size, &g, &err);
    if (status == GRETA_OK) {
        read_everything(g, describe);
    } else {
        assert_int_equal(status, GRETA_BAD_INPUT);
        assert_int_equal(err.code, GRETA_BAD_INPUT);
        assert_true(err.message[0] != '\0');
        assert_null(g);
    }
    gguf_close(g);
    free(copy);
    return status == GRETA_OK;
}

/* The sample with tensors of one row of 32 Q4_0 values, so that most bytes are directory. */
static void put_small(void)
{
    put_header(&b, 2, N_SCALAR + N_ARRAY + 1);
    put_scalars();
    put_arrays();
    put_key_u32(&b, "general.alignment", 8);
    put_tensor(&b, &(tensor_info){"a", 2, 0, 1, {32}});
    put_tensor(&b, &(tensor_info){"b", 0, 24, 4, {1, 1, 1, 2}});
    put_data(&b, 8, 32);
}

static void test_cut_everywhere(void **state)
{
    (void)state;
    put_small();
    assert_true(parse_damaged(b.size, 1));
    for (size_t size = 0; size < b.size; size++) {
        assert_false(parse_damaged(size, 0)); /* every byte of it is needed */
    }
}

static void test_bits_turned(void **state)
{
    (void)state;
    int n_opened = 0, n_refused = 0;
    put_small();
    size_t size = b.size;
    for (size_t i = 0; i < size; i++) {
        uint8_t kept = b.data[i];
        for (int change = 0; change < 11; change++) {
            static const uint8_t whole[] = {0x00, 0x7f, 0xff};
            uint8_t turned = (uint8_t)(kept ^ (1u << (change % 8)));
            b.data[i] = change < 8 ? turned : whole[change - 8];
            int opened = parse_damaged(size, change % 4 == 0);
            n_opened += opened;
            n_refused += !opened;
        }
        b.data[i] = kept;
    }
    /* Both happen: values may be anything, lengths and offsets may not. */
    assert_true(n_opened > 1000 && n_refused > 1000);
}

/* Two places at once, at random: what single changes can not reach. */
static void test_random_damage(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    put_small();
    builder kept = {0};
    put(&kept, b.data, b.size);
    for (int i = 0; i < 20000; i++) {
        memcpy(b.data, kept.data, kept.size);
        for (int k = 0; k < 2 + i % 3; k++) {
            random ^= random << 13; /* xorshift64 */
            random ^= random >> 7;
            random ^= random << 17;
            b.data[random % kept.size] = (uint8_t)(random >> 32);
        }
        parse_damaged(kept.size, i % 16 == 0);
    }
    free(kept.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),      cmocka_unit_test(test_other_scalars),
        cmocka_unit_test(test_items),         cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_open),          cmocka_unit_test(test_describe_text),
        cmocka_unit_test(test_describe_json), cmocka_unit_test(test_describe_empty),
        cmocka_unit_test(test_describe_columns), cmocka_unit_test(test_describe_json_strings),
        cmocka_unit_test(test_cut_everywhere), cmocka_unit_test(test_bits_turned),
        cmocka_unit_test(test_random_damage),
    };
    int failed = cmocka_run_group_tests_name("gguf_read", tests, NULL, NULL);
    free(b.data);
    return failed;
}
