/* test_safetensors.c - the safetensors directory: what it refuses, in which words, what it accepts.
 *
 * The S-cases of the catalogue of bad inputs, each written as bytes; shards and their index in a
 * folder of their own; then damage: every cut and every bit of a small file, and seeded mutations
 * of its header's text. Every buffer handed to the parser is a heap block of its exact size.
 */
#include "base/limits.h"
#include "format/safetensors.h"
#include "splice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Bytes ----------------------------------------------------------------------------------- */

/* A file with this header, its length in front, and `bytes` bytes of data 0, 1, 2, ...; malloc'd.
 */
static uint8_t *file_new(const char *header, size_t length, size_t bytes, size_t *size)
{
    uint8_t *file = malloc(8 + length + bytes);
    assert_non_null(file);
    for (unsigned i = 0; i < 8; i++) {
        file[i] = (uint8_t)((uint64_t)length >> (8 * i));
    }
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < bytes; i++) {
        file[8 + length + i] = (uint8_t)i;
    }
    *size = 8 + length + bytes;
    return file;
}

static void refuse_bytes(const uint8_t *file, size_t size, const char *core)
{
    safetensors *s = (safetensors *)(uintptr_t)file;
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    greta_status status = safetensors_parse(file, size, &s, &err);
    greta_error_line(&err, line);
    if (status != GRETA_BAD_INPUT || strstr(line, core) == NULL || s != NULL) {
        fail_msg("expected \"%s\", got %d: %s", core, (int)status, line);
    }
}

static void refuse(const char *header, size_t bytes, const char *core)
{
    size_t size;
    uint8_t *file = file_new(header, strlen(header), bytes, &size);
    refuse_bytes(file, size, core);
    free(file);
}

static void accept(const char *header, size_t bytes, size_t n_tensor)
{
    size_t size;
    uint8_t *file = file_new(header, strlen(header), bytes, &size);
    safetensors *s;
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    if (safetensors_parse(file, size, &s, &err) != GRETA_OK) {
        fail_msg("refused: %s", greta_error_line(&err, line));
    }
    assert_int_equal(s->n_tensor, n_tensor);
    safetensors_close(s);
    free(file);
}

#define ENTRY(dtype, shape, begin, end)                                                            \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

/* ---- What opens ------------------------------------------------------------------------------ */

static const char sample[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"late\":" ENTRY("F16", "[3]", "24",
                      "30") ","
                            "\"caf\xc3\xa9\":" ENTRY(
                                "F32", "[2,3]", "0",
                                "24") ","
                                      "\"empty\":" ENTRY("BF16", "[0,7]", "30",
                                                         "30") ","
                                                               "\"scalar\":" ENTRY(
                                                                   "I64", "[]", "30", "38") "}   ";

static void test_sample(void **state)
{
    (void)state;
    size_t size;
    uint8_t *file = file_new(sample, sizeof sample - 1, 38, &size);
    safetensors *s;
    assert_int_equal(safetensors_parse(file, size, &s, NULL), GRETA_OK);
    assert_int_equal(s->n_tensor, 4);
    assert_int_equal(s->size, size);
    const safetensors_tensor *t = safetensors_find(s, "caf\xc3\xa9");
    assert_ptr_equal(t, &s->tensor[0]);
    assert_int_equal(t->n_dim, 2);
    assert_int_equal(t->dim[0], 2);
    assert_int_equal(t->dim[1], 3);
    assert_int_equal(t->dim[2], 1);
    assert_int_equal(t->n_element, 6);
    assert_int_equal(t->bytes, 24);
    assert_ptr_equal(t->data, file + t->offset);
    assert_int_equal(t->data[5], 5);
    assert_true(t->type->is_weight && t->type->type == DTYPE_F32);
    t = safetensors_find(s, "late");
    assert_int_equal(t->data[0], 24);
    assert_true(t->type->is_weight && t->type->type == DTYPE_F16);
    assert_int_equal(safetensors_find(s, "empty")->bytes, 0);
    assert_int_equal(safetensors_find(s, "scalar")->n_dim, 0);
    assert_false(safetensors_find(s, "scalar")->type->is_weight);
    assert_null(safetensors_find(s, "__metadata__"));
    assert_null(safetensors_find(s, "lat"));
    safetensors_close(s);
    safetensors_close(NULL);
    free(file);
}

static void test_types(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned bytes;
    } known[] = {{"F64", 8},  {"F32", 4},     {"F16", 2},     {"BF16", 2},   {"I64", 8}, {"I32", 4},
                 {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},    {"U16", 2}, {"U8", 1},
                 {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};
    static const char *const unknown[] = {"F4", "F6_E2M3", "f32", "", "C64", "F32 "};
    char header[200], core[80];
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        snprintf(header, sizeof header,
                 "{\"w\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":"
                 "[0,%u]}}",
                 known[i].name, 3 * known[i].bytes);
        accept(header, 3 * known[i].bytes, 1);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) { /* S06 */
        snprintf(header, sizeof header,
                 "{\"w\":{\"dtype\":\"%s\",\"shape\":[2],\"data_offsets\":"
                 "[0,1]}}",
                 unknown[i]);
        snprintf(core, sizeof core, "greta: \"w\": dtype \"%s\" is not supported", unknown[i]);
        refuse(header, 1, core);
    }
}

/* ---- The header: S01 to S04 ------------------------------------------------------------------ */

static void test_length(void **state)
{
    (void)state;
    size_t size;
    uint8_t *file = file_new("{}", 2, 0, &size);
    for (size_t cut = 0; cut < 8; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, file, cut);
        exact = realloc(exact, cut > 0 ? cut : 1);
        refuse_bytes(exact, cut, "byte 0: file ends inside the header length"); /* S01 */
        free(exact);
    }
    refuse_bytes(file, 8, "byte 0: header length 2 exceeds the file of 8 bytes"); /* S02 */
    refuse_bytes(file, 9, "byte 0: header length 2 exceeds the file of 9 bytes");
    file[7] = 0x80;
    refuse_bytes(file, size, "header length 9223372036854775810 exceeds the file");
    memset(file, 0xff, 8);
    refuse_bytes(file, size, "header length 18446744073709551615 exceeds the file");
    free(file);
    refuse("", 5, "byte 8: header does not begin with {");
    refuse(" {}", 0, "byte 8: header does not begin with {");
    refuse("[]", 0, "byte 8: header does not begin with {");
    accept("{}", 0, 0);
    refuse_bytes((const uint8_t *)"GGUF\3\0\0\0\0\0\0\0", 12, "looks like a GGUF file");
    refuse_bytes((const uint8_t *)"version https://git-lfs.github.com/spec/v1\n", 43,
                 "looks like a git-LFS pointer");
}

/* Both sides of the limit on the header, on memory that nobody has to fill. */
static void test_length_limit(void **state)
{
    (void)state;
    size_t size = (size_t)LIMIT_SAFETENSORS_HEADER_BYTES + 9;
    uint8_t *file = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(file != MAP_FAILED);
    for (uint64_t over = 0; over < 2; over++) {
        uint64_t length = LIMIT_SAFETENSORS_HEADER_BYTES + over;
        memcpy(file, &length, sizeof length);
        memset(file + 8, ' ', (size_t)length);
        memcpy(file + 8, "{}", 2);
        greta_error err = {0};
        safetensors *s;
        greta_status status = safetensors_parse(file, 8 + length, &s, &err);
        assert_int_equal(status, over ? GRETA_BAD_INPUT : GRETA_OK);
        if (over) {
            assert_string_equal(err.message, "header length 100000001 exceeds the limit of "
                                             "100000000");
        }
        safetensors_close(s);
    }
    munmap(file, size);
}

static void test_json(void **state)
{
    (void)state;
    static const char nul[] = "{\"a\0b\":1}";
    size_t size;
    refuse("{", 0, "header is not JSON (");
    refuse("{}}", 0, "header is not JSON (end of file expected");
    refuse("{} x", 0, "header is not JSON (");
    refuse("{\"\xff\":1}", 0, "header is not JSON (unable to decode byte 0xff");
    refuse("{\"\\ud800\":1}", 0, "header is not JSON (");
    refuse("{\"a\\u0000b\":1}", 0, "header is not JSON (");
    refuse("{\"w\":123456789012345678901234567890}", 0, "header is not JSON (");
    refuse("{\"w\":1e999}", 0, "header is not JSON (");
    uint8_t *file = file_new(nul, sizeof nul - 1, 0, &size);
    refuse_bytes(file, size, "header is not JSON (");
    free(file);
    refuse("{\"w\":" ENTRY("U8", "[1]", "0", "1") ",\"w\":" ENTRY("U8", "[1]", "1", "2") "}", 2,
           "header: \"w\" appears twice"); /* S04 */
    refuse("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "header: \"dtype\" appears twice");
    refuse("{\"__metadata__\":{\"k\":1}}", 0, "__metadata__.k is not a string"); /* S12 */
    refuse("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
}

/* Depth, number of values, number of tensors: both sides of each limit (S11). */
static void test_depth(void **state)
{
    (void)state;
    char text[2 * LIMIT_JSON_FILE_DEPTH + 16];
    for (size_t over = 0; over < 2; over++) {
        size_t depth = LIMIT_JSON_FILE_DEPTH - 1 + over; /* the object is a level too */
        memcpy(text, "{\"w\":", 5);
        memset(text + 5, '[', depth);
        memset(text + 5 + depth, ']', depth);
        memcpy(text + 5 + 2 * depth, "}", 2);
        refuse(text, 0,
               over ? "header is nested 65 levels deep (at most 64)" : "\"w\": is not an object");
    }
    char *deep = malloc(100002);
    memset(deep, '[', 100001);
    memcpy(deep, "{\"w\":", 5);
    deep[100001] = '\0';
    refuse(deep, 0, "header is nested 99997 levels deep (at most 64)");
    free(deep);
}

/* {"w":[0,0,...]}: the object, "w", the array and n - 1 commas are counted. */
static void test_values(void **state)
{
    (void)state;
    for (size_t over = 0; over < 2; over++) {
        size_t n_item = LIMIT_SAFETENSORS_VALUES - 3 + over, bytes = 6 + 2 * n_item - 1 + 2;
        char *text = malloc(bytes + 1);
        memcpy(text, "{\"w\":[", 6);
        for (size_t i = 0; i < n_item; i++) {
            memcpy(text + 6 + 2 * i, "0,", 2);
        }
        memcpy(text + bytes - 2, "]}", 3);
        refuse(text, 0,
               over ? "header holds some 2097153 values (at most 2097152)"
                    : "\"w\": is not an object");
        free(text);
    }
}

static void test_tensors_limit(void **state)
{
    (void)state;
    for (size_t over = 0; over < 2; over++) {
        size_t n = LIMIT_SAFETENSORS_TENSORS + over, at = 0;
        char *text = malloc(n * 80);
        for (size_t i = 0; i < n; i++) {
            at += (size_t)snprintf(text + at, 80, "%c\"%zu\":" ENTRY("U8", "[0]", "0", "0"),
                                   i == 0 ? '{' : ',', i);
        }
        memcpy(text + at, "}", 2);
        if (over) {
            refuse(text, 0, "declares 131073 tensors (at most 131072)");
        } else {
            accept(text, 0, n);
        }
        free(text);
    }
}

/* ---- Entries: S05 to S10 --------------------------------------------------------------------- */

static void test_fields(void **state)
{
    (void)state;
    refuse("{\"w\":3}", 0, "greta: \"w\": is not an object");
    refuse("{\"w\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "\"w\": no dtype"); /* S05 */
    refuse("{\"w\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
           "dtype is not a string");
    refuse("{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "\"w\": no shape");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1,
           "shape is not an ar");
    refuse("{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "\"w\": no data_offsets");
    refuse("{\"a\\u001b[0m\":3}", 0, "greta: \"a\\x1b[0m\": is not an object");
    char header[1200], name[LIMIT_SAFETENSORS_NAME_BYTES + 1];
    for (size_t over = 0; over < 2; over++) {
        size_t n = LIMIT_SAFETENSORS_NAME_BYTES - 1 + over;
        memset(name, 'n', n);
        name[n] = '\0';
        snprintf(header, sizeof header, "{\"%s\":" ENTRY("U8", "[1]", "0", "1") "}", name);
        if (over) {
            refuse(header, 1, "name of 1024 bytes (at most 1023)");
        } else {
            accept(header, 1, 1);
        }
    }
}

static void test_offsets(void **state)
{
    (void)state;
    static const char *const bad[] = {"[0]",       "[0,1,2]", "[-1,1]", "[0,1e0]", "[0,1.5]",
                                      "[\"0\",1]", "3",       "{}",     "null",    "[null,1]"};
    char header[200];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { /* S07 */
        snprintf(header, sizeof header,
                 "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":%s}}", bad[i]);
        refuse(header, 1, "\"w\": data_offsets must be two whole numbers");
    }
    refuse("{\"w\":" ENTRY("U8", "[1]", "1", "0") "}", 1,
           "data_offsets end before they begin (1, 0)");
    refuse("{\"w\":" ENTRY("U8", "[2]", "0", "2") "}", 1,
           "\"w\": ends at byte 2 of the data, which has 1; file truncated?");
    refuse("{\"w\":" ENTRY("U8", "[1]", "9223372036854775806", "9223372036854775807") "}", 1,
           "ends at byte 9223372036854775807 of the data");
    refuse("{\"w\":" ENTRY("U8", "[1]", "0", "99999999999999999999") "}", 1,
           "header is not JSON (");
    refuse("{\"w\":" ENTRY("F32", "[4,4]", "0", "60") "}", 60,
           "\"w\": shape needs 64 bytes, offsets give 60"); /* S09 */
}

static void test_shapes(void **state)
{
    (void)state;
    static const char *const wrap[] = {"[4194305,4194305,1048576]", "[4294967296,4294967296]",
                                       "[9223372036854775807,2]", "[9223372036854775807,3,0]"};
    char header[200];
    for (size_t i = 0; i < sizeof wrap / sizeof wrap[0]; i++) { /* S08 */
        snprintf(header, sizeof header, "{\"w\":" ENTRY("U8", "%s", "0", "4") "}", wrap[i]);
        refuse(header, 4, "\"w\": element count overflows");
    }
    refuse("{\"w\":" ENTRY("F64", "[4611686018427387904]", "0", "4") "}", 4, "size overflows");
    refuse("{\"w\":" ENTRY("U8", "[-1]", "0", "1") "}", 1, "shape must be whole numbers");
    refuse("{\"w\":" ENTRY("U8", "[1.0]", "0", "1") "}", 1, "shape must be whole numbers");
    accept("{\"w\":" ENTRY("U8", "[1,1,1,1,1,1,1,2]", "0", "2") "}", 2, 1);
    refuse("{\"w\":" ENTRY("U8", "[1,1,1,1,1,1,1,1,2]", "0", "2") "}", 2,
           "shape has 9 dimensions (at most 8)");
}

static void test_layout(void **state)
{
    (void)state;
    refuse("{\"a\":" ENTRY("U8", "[4]", "0", "4") ",\"b\":" ENTRY("U8", "[4]", "3", "7") "}", 7,
           "tensors \"a\" and \"b\" overlap"); /* S10 */
    refuse("{\"b\":" ENTRY("U8", "[4]", "0", "4") ",\"a\":" ENTRY("U8", "[4]", "0", "4") "}", 4,
           "tensors \"a\" and \"b\" overlap");
    refuse("{\"a\":" ENTRY("U8", "[4]", "0", "4") ",\"b\":" ENTRY("U8", "[4]", "5", "9") "}", 9,
           "\"b\": 1 bytes before it belong to no tensor");
    refuse("{\"a\":" ENTRY("U8", "[4]", "1", "5") "}", 5,
           "\"a\": 1 bytes before it belong to no tensor");
    refuse("{\"a\":" ENTRY("U8", "[4]", "0", "4") "}", 6, "2 bytes of data after the last tensor");
    refuse("{}", 6, "byte 10: 6 bytes of data after the last tensor");
    refuse("{\"e\":" ENTRY("U8", "[0]", "2", "2") ",\"b\":" ENTRY("U8", "[4]", "0", "4") "}", 4,
           "tensors \"b\" and \"e\" overlap");
    accept("{\"e\":" ENTRY("U8", "[0]", "4", "4") ",\"b\":" ENTRY("U8", "[4]", "0", "4") "}", 4, 2);
    accept("{\"e\":" ENTRY("U8", "[0]", "0", "0") ",\"b\":" ENTRY("U8", "[4]", "0", "4") "}", 4, 2);
}

/* ---- Folders --------------------------------------------------------------------------------- */

static char folder[] = "/tmp/greta-test-safetensors-XXXXXX";

static const char *path_in(const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

static void put_file(const char *name, const void *bytes, size_t n)
{
    char path[128];
    FILE *file = fopen(path_in(name, path), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* A shard of one-byte tensors, one for each letter. */
static void put_shard(const char *name, const char *letters)
{
    char header[512] = "{";
    size_t at = 1, size;
    for (size_t i = 0; letters[i] != '\0'; i++) {
        at +=
            (size_t)snprintf(header + at, sizeof header - at,
                             "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                             i ? "," : "", letters[i], i, i + 1);
    }
    header[at++] = '}';
    uint8_t *file = file_new(header, at, strlen(letters), &size);
    put_file(name, file, size);
    free(file);
}

static void put_index(const char *map)
{
    char text[512];
    int n = snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    put_file("model.safetensors.index.json", text, (size_t)n);
}

static void folder_empty(void)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "x.st",
                                        "y.st"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unlink(path_in(names[i], path));
    }
}

static void refuse_folder(greta_status code, const char *core)
{
    safetensors *s = (safetensors *)folder;
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    greta_status status = safetensors_open_folder(folder, &s, &err);
    greta_error_line(&err, line);
    if (status != code || strstr(line, core) == NULL || s != NULL) {
        fail_msg("expected %d \"%s\", got %d: %s", (int)code, core, (int)status, line);
    }
}

static void test_folder(void **state)
{
    (void)state;
    safetensors *s;
    folder_empty();
    refuse_folder(GRETA_IO,
                  "holds neither model.safetensors nor model.safetensors.index.json; che");
    put_shard("x.st", "ab");
    put_shard("y.st", "c");
    put_index("{\"c\":\"y.st\",\"b\":\"x.st\",\"a\":\"x.st\"}");
    assert_int_equal(safetensors_open_folder(folder, &s, NULL), GRETA_OK);
    assert_int_equal(s->n_file, 2);
    assert_int_equal(s->n_tensor, 3);
    assert_string_equal(s->tensor[0].name, "a");
    const safetensors_tensor *c = safetensors_find(s, "c");
    assert_int_equal(c->file, 1);
    assert_ptr_equal(c->data, s->file[1].data + c->offset);
    safetensors_close(s);
    put_shard("model.safetensors", "q"); /* wins */
    assert_int_equal(safetensors_open_folder(folder, &s, NULL), GRETA_OK);
    assert_int_equal(s->n_tensor, 1);
    assert_int_equal(s->n_file, 1);
    safetensors_close(s);
    folder_empty();
}

static void test_index(void **state)
{
    (void)state;
    static const char *const outside[] = {"../x.st", "/etc/passwd", "a/b", "", ".", "..", ".x"};
    char map[100], core[100];
    folder_empty();
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) { /* S13 */
        snprintf(map, sizeof map, "{\"a\":\"%s\"}", outside[i]);
        snprintf(core, sizeof core, "shard \"%s\" leaves the model folder", outside[i]);
        put_index(map);
        refuse_folder(GRETA_BAD_INPUT, core);
    }
    put_index("{\"a\":\"x.st\"}");
    refuse_folder(GRETA_IO,
                  "x.st: cannot read: no such file or folder; a shard that model.safeten");
    put_shard("x.st", "ab");
    refuse_folder(GRETA_BAD_INPUT, "x.st: \"b\" is not in the index; a shard of another model?");
    put_index("{\"a\":\"x.st\",\"b\":\"x.st\",\"z\":\"x.st\"}");
    refuse_folder(GRETA_BAD_INPUT, "index.json: \"z\" is not in its shard \"x.st\"");
    put_shard("y.st", "b"); /* in two shards */
    put_index("{\"a\":\"x.st\",\"b\":\"y.st\"}");
    refuse_folder(GRETA_BAD_INPUT, "x.st: \"b\" is in this shard, the index says \"y.st\"");
    put_index("{}");
    refuse_folder(GRETA_BAD_INPUT, "index.json: weight_map is empty");
    put_index("[\"x.st\"]");
    refuse_folder(GRETA_BAD_INPUT, "index.json: weight_map is not an object");
    put_index("{\"a\":1}");
    refuse_folder(GRETA_BAD_INPUT, "index.json: weight_map.a is not a string");
    put_file("model.safetensors.index.json", "{}", 2);
    refuse_folder(GRETA_BAD_INPUT, "index.json: weight_map is missing");
    put_file("model.safetensors.index.json", "", 0);
    refuse_folder(GRETA_BAD_INPUT, "index.json: byte 0: index is not JSON (");
    put_file("x.st", "version https://git-lfs", 23);
    put_index("{\"a\":\"x.st\"}");
    refuse_folder(GRETA_BAD_INPUT, "x.st: byte 0: header length");
    folder_empty();
}

static void test_shards_limit(void **state)
{
    (void)state;
    char *map = malloc(64u * (LIMIT_SAFETENSORS_SHARDS + 2));
    for (size_t over = 0; over < 2; over++) {
        size_t at = (size_t)snprintf(map, 64, "{\"weight_map\":");
        for (size_t i = 0; i < LIMIT_SAFETENSORS_SHARDS + over; i++) {
            at += (size_t)snprintf(map + at, 64, "%c\"%zu\":\"s%zu\"", i ? ',' : '{', i, i);
        }
        memcpy(map + at, "}}", 2);
        put_file("model.safetensors.index.json", map, at + 2);
        refuse_folder(over ? GRETA_BAD_INPUT : GRETA_IO,
                      over ? "weight_map names 513 files (at most 512)"
                           : "s0: cannot read: no such");
    }
    free(map);
    folder_empty();
}

/* ---- Damage ---------------------------------------------------------------------------------- */

/* Reads everything that an opened directory promises; an answer is fine, and so is a refusal. */
static uint64_t touch(const uint8_t *file, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    uint64_t sum = 0;
    safetensors *s;
    greta_error err = {0};
    assert_non_null(exact);
    memcpy(exact, file, size);
    greta_status status = safetensors_parse(exact, size, &s, &err);
    assert_true(status == GRETA_OK ? err.code == GRETA_OK : err.code == GRETA_BAD_INPUT);
    for (size_t i = 0; status == GRETA_OK && i < s->n_tensor; i++) {
        const safetensors_tensor *t = &s->tensor[i];
        for (uint64_t k = 0; k < t->bytes; k++) {
            sum += t->data[k];
        }
        assert_ptr_equal(safetensors_find(s, t->name), t);
        assert_int_equal(t->bytes, t->n_element * t->type->bytes);
    }
    safetensors_close(s);
    free(exact);
    return sum;
}

static void test_cuts_and_bits(void **state)
{
    (void)state;
    size_t size;
    uint8_t *file = file_new(sample, sizeof sample - 1, 38, &size);
    for (size_t cut = 0; cut < size; cut++) {
        touch(file, cut);
    }
    for (size_t bit = 0; bit < 8 * size; bit++) {
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        touch(file, size);
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(touch(file, size), 37 * 38 / 2);
    free(file);
}

/* Mutations that stay close to the grammar: pieces of headers put over, in and out of the sample.
 */
static void test_mutations(void **state)
{
    (void)state;
    static const char *const piece[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\"",
                                        "0",
                                        "-1",
                                        "9223372036854775807",
                                        "1e3",
                                        "null",
                                        "\"w\":" ENTRY("U8", "[1]", "0", "1") ",",
                                        "\"shape\":[0],",
                                        "\"F32\"",
                                        "\\u0000",
                                        "\xff",
                                        "\\",
                                        " ",
                                        "[[[[[[[[",
                                        "\"__metadata__\":{},",
                                        "24",
                                        "38"};
    const splice_source source = {
        sample, sizeof sample - 1, piece, sizeof piece / sizeof piece[0], 12, 3};
    for (uint64_t round = 0; round < splice_rounds(20000); round++) {
        char text[1024];
        size_t n = splice(&source, round, text), size;
        uint8_t *file = file_new(text, n, 38, &size);
        touch(file, size);
        free(file);
    }
}

static int folder_begin(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int folder_end(void **state)
{
    (void)state;
    folder_empty();
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),       cmocka_unit_test(test_types),
        cmocka_unit_test(test_length),       cmocka_unit_test(test_length_limit),
        cmocka_unit_test(test_json),         cmocka_unit_test(test_depth),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_tensors_limit),
        cmocka_unit_test(test_fields),       cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_shapes),       cmocka_unit_test(test_layout),
        cmocka_unit_test(test_folder),       cmocka_unit_test(test_index),
        cmocka_unit_test(test_shards_limit), cmocka_unit_test(test_cuts_and_bits),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
