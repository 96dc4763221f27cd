/* test_gguf_split.c - split models: what joins, and every way in which parts do not belong
 * together.
 *
 * Three parts are written into a folder of their own, right or wrong as each case tells, and opened
 * by the name of each part in turn: the answer must not depend on which one was given.
 */
#include "base/limits.h"
#include "format/gguf.h"

#include "gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define N_PART 3u

/* What one part says of itself. */
typedef struct part {
    uint32_t no, count, n_tensor_split;
    const char *arch;      /* general.architecture; NULL: absent */
    const char *tensor[2]; /* of 8 floats each, filled with `fill`; NULL: absent */
    uint8_t fill;
} part;

static const part healthy[N_PART] = {
    {0, 3, 4, "llama", {"a", NULL}, 1},
    {1, 3, 4, NULL, {"c", "b"}, 2},
    {2, 3, 4, NULL, {"d", NULL}, 3},
};

static char folder[] = "/tmp/greta-test-split-XXXXXX";
static builder b;

static const char *part_path(unsigned number, char path[96])
{
    snprintf(path, 96, "%s/m-%05u-of-%05u.gguf", folder, number + 1, N_PART);
    return path;
}

static void write_file(const char *path)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(b.data, 1, b.size, file), b.size);
    assert_int_equal(fclose(file), 0);
}

static void write_part(const char *path, const part *p)
{
    unsigned n = (p->tensor[0] != NULL ? 1u : 0u) + (p->tensor[1] != NULL ? 1u : 0u);
    put_header(&b, n, p->arch != NULL ? 4 : 3);
    if (p->arch != NULL) {
        put_key(&b, "general.architecture", 8), put_string(&b, p->arch);
    }
    put_key(&b, "split.no", 2), put_number(&b, p->no, 2);
    put_key(&b, "split.count", 2), put_number(&b, p->count, 2);
    put_key(&b, "split.tensors.count", 5), put_u32(&b, p->n_tensor_split);
    for (unsigned i = 0; i < n; i++) {
        put_tensor(&b, &(tensor_info){p->tensor[i], 0, 32 * i, 1, {8}});
    }
    put_data(&b, 32, 0);
    size_t data = b.size;
    put_data(&b, 1, (size_t)32 * n);
    memset(b.data + data, p->fill, (size_t)32 * n);
    write_file(path);
}

static void write_parts(const part parts[N_PART])
{
    char path[96];
    for (unsigned i = 0; i < N_PART; i++) {
        write_part(part_path(i, path), &parts[i]);
    }
}

/* Opening part `number` must be refused, with exactly this code and a line that holds `core`. */
static void refuse(unsigned number, greta_status code, const char *core)
{
    char path[96], line[GRETA_ERROR_LINE];
    gguf *g = (gguf *)&b;
    greta_error err = {0};
    greta_status status = gguf_open(part_path(number, path), &g, &err);
    greta_error_line(&err, line);
    if (status != code || err.code != code || strstr(line, core) == NULL || g != NULL) {
        fail_msg("expected %d \"%s\", got %d: %s", (int)code, core, (int)status, line);
    }
}

static void refuse_all(greta_status code, const char *core)
{
    for (unsigned i = 0; i < N_PART; i++) {
        refuse(i, code, core);
    }
}

/* ---- What joins ------------------------------------------------------------------------------ */

static void check_joined(const gguf *g)
{
    static const char *const names[] = {"a", "c", "b", "d"};
    static const uint8_t fills[] = {1, 2, 2, 3};
    static const uint32_t parts[] = {0, 1, 1, 2};
    struct stat there;
    uint64_t bytes = 0;
    char path[96];
    assert_int_equal(g->n_file, 3);
    assert_int_equal(g->n_tensor, 4);
    assert_int_equal(g->n_hole, 0);
    for (size_t i = 0; i < 4; i++) {
        const gguf_tensor *t = gguf_find_tensor(g, names[i]);
        assert_ptr_equal(t, &g->tensor[i]);
        assert_string_equal(t->name, names[i]);
        assert_int_equal(t->part, parts[i]);
        assert_ptr_equal(t->data, g->file[t->part].data + t->offset);
        for (uint64_t k = 0; k < t->bytes; k++) {
            assert_int_equal(t->data[k], fills[i]);
        }
    }
    for (unsigned i = 0; i < N_PART; i++) {
        assert_int_equal(stat(part_path(i, path), &there), 0);
        assert_string_equal(g->file[i].path, path);
        bytes += (uint64_t)there.st_size;
    }
    assert_int_equal(g->size, bytes);
    assert_non_null(gguf_find_key(g, "general.architecture"));
}

static void test_joined(void **state)
{
    (void)state;
    char path[96];
    write_parts(healthy);
    for (unsigned i = 0; i < N_PART; i++) {
        gguf *g;
        assert_int_equal(gguf_open(part_path(i, path), &g, NULL), GRETA_OK);
        check_joined(g);
        gguf_close(g);
    }
}

/* Writers may leave the first part without tensors, and repeat a key that says the same. */
static void test_first_without_tensors(void **state)
{
    (void)state;
    static const part parts[N_PART] = {
        {0, 3, 2, "llama", {NULL, NULL}, 0},
        {1, 3, 2, "llama", {"x", NULL}, 0},
        {2, 3, 2, "llama", {"y", NULL}, 0},
    };
    char path[96];
    gguf *g;
    write_parts(parts);
    assert_int_equal(gguf_open(part_path(1, path), &g, NULL), GRETA_OK);
    assert_int_equal(g->n_tensor, 2);
    gguf_close(g);
}

static void test_described(void **state)
{
    (void)state;
    char path[96], *text;
    gguf *g;
    write_parts(healthy);
    assert_int_equal(gguf_open(part_path(0, path), &g, NULL), GRETA_OK);
    assert_int_equal(gguf_describe(g, 0, &text, NULL), GRETA_OK);
    assert_non_null(strstr(text, " in 3 parts\n"));
    assert_non_null(strstr(text, "  part\n"));
    greta_free(text);
    assert_int_equal(gguf_describe(g, 1, &text, NULL), GRETA_OK);
    assert_non_null(strstr(text, "\"n_part\": 3"));
    assert_non_null(strstr(text, "\"part\": 2"));
    greta_free(text);
    gguf_close(g);
}

/* ---- What does not --------------------------------------------------------------------------- */

static void test_missing(void **state)
{
    (void)state;
    char path[96], core[256];
    write_parts(healthy);
    unlink(part_path(1, path));
    snprintf(core, sizeof core,
             "greta: %s: part 2 of 3: cannot read: no such file or folder; give all parts or the "
             "merged file",
             path);
    refuse(0, GRETA_IO, core);
    refuse(2, GRETA_IO, core);
    write_parts(healthy);
    unlink(part_path(0, path));
    refuse(1, GRETA_IO, "m-00001-of-00003.gguf: part 1 of 3: cannot read: no such file");
}

static void test_renamed(void **state)
{
    (void)state;
    char path[96], other[128];
    greta_error err = {0};
    gguf *g;
    write_parts(healthy);
    snprintf(other, sizeof other, "%s/whole.gguf", folder);
    assert_int_equal(rename(part_path(2, path), other), 0);
    assert_int_equal(gguf_open(other, &g, &err), GRETA_BAD_INPUT);
    assert_null(g);
    assert_string_equal(err.message, "is part 3 of 3 by its keys, so its name must end in "
                                     "-00003-of-00003.gguf");
    unlink(other);
}

/* A part under another's name: a copy, two that changed places, or one of another split. */
static void test_places(void **state)
{
    (void)state;
    part parts[N_PART];
    memcpy(parts, healthy, sizeof parts);
    parts[2] = healthy[1];
    write_parts(parts);
    refuse(0, GRETA_BAD_INPUT,
           "m-00003-of-00003.gguf: is part 2 by split.no, part 3 by its name; renamed, or a copy");
    refuse(1, GRETA_BAD_INPUT, "is part 2 by split.no, part 3 by its name");
    refuse(2, GRETA_BAD_INPUT, "is part 2 of 3 by its keys, so its name must end in -00002-of-000");
    parts[1] = healthy[2];
    write_parts(parts);
    refuse(0, GRETA_BAD_INPUT, "m-00002-of-00003.gguf: is part 3 by split.no, part 2 by its name");
    parts[0] = healthy[1];
    parts[1] = healthy[1];
    write_parts(parts);
    refuse(1, GRETA_BAD_INPUT, "m-00001-of-00003.gguf: is part 2 of 3 by its keys, m-00002-of");
}

static void test_foreign(void **state)
{
    (void)state;
    part parts[N_PART];
    memcpy(parts, healthy, sizeof parts);
    parts[1].count = 4;
    write_parts(parts);
    refuse(0, GRETA_BAD_INPUT,
           "m-00002-of-00003.gguf: is one of 4 by split.count, the others of 3; a part of another");
    parts[1] = healthy[1];
    parts[2].n_tensor_split = 5;
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "m-00003-of-00003.gguf: declares 5 tensors in all parts, part 1 "
                                "declares 4; a part of another model?");
    parts[2] = healthy[2];
    parts[2].arch = "qwen2";
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "key \"general.architecture\" differs from part 1; a part of an");
    parts[0].arch = NULL;
    parts[2].arch = "llama";
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "key \"general.architecture\" is not in part 1; a part of another");
}

static void test_tensors(void **state)
{
    (void)state;
    part parts[N_PART];
    memcpy(parts, healthy, sizeof parts);
    parts[2].tensor[0] = "b";
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "m-00003-of-00003.gguf: byte 106: tensor name \"b\" appears twice");
    parts[2].tensor[0] = NULL;
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "the 3 parts hold 3 tensors, split.tensors.count is 4; a part of");
    parts[2].tensor[0] = "d";
    parts[2].tensor[1] = "e";
    write_parts(parts);
    refuse_all(GRETA_BAD_INPUT, "the 3 parts hold 5 tensors, split.tensors.count is 4; a part of");
}

/* Damage in any part is said of that part. */
static void test_damaged(void **state)
{
    (void)state;
    char path[96];
    write_parts(healthy);
    write_part(part_path(1, path), &healthy[1]);
    assert_int_equal(truncate(path, (off_t)b.size - 1), 0);
    refuse(0, GRETA_BAD_INPUT, "m-00002-of-00003.gguf: byte ");
    refuse(2, GRETA_BAD_INPUT, "file truncated?");
    assert_int_equal(truncate(path, 0), 0);
    refuse_all(GRETA_BAD_INPUT, "m-00002-of-00003.gguf: empty file");
}

/* ---- Folder ---------------------------------------------------------------------------------- */

static int folder_make_once(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int folder_drop(void **state)
{
    char path[96];
    (void)state;
    for (unsigned i = 0; i < N_PART; i++) {
        unlink(part_path(i, path));
    }
    free(b.data);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joined),    cmocka_unit_test(test_first_without_tensors),
        cmocka_unit_test(test_described), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_renamed),   cmocka_unit_test(test_places),
        cmocka_unit_test(test_foreign),   cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, folder_make_once, folder_drop);
}
