/* golden_tool.c - digests of what tiny models compute, per arithmetic version.
 *
 *     golden_tool write FOLDER [force]      by `ref`, into FOLDER/arithmetic-<version>.tsv
 *     golden_tool check FOLDER [KERNELS]    by every kernel table of this machine, or one; TAP
 *     golden_tool check FOLDER quick        without `ref`, where its other build is there
 *
 * For every weight type, cache type and activation contract, a seeded model is written by mkmodel
 * and runs 70 tokens: two chunks and four decode steps. Each stage of each layer gives one digest
 * over the hashes of its rows in all positions; statistics of rows and all logits give one each,
 * and so does the model's file, so that a change of mkmodel is not taken for one of the arithmetic.
 *
 * Digests detect change and never prove correctness: `write` only adds lines to the file of a
 * version, those of new weight types, and refuses where one that it has would go or change.
 * The program needs mkmodel beside it (GRETA_TOOLS) and nothing else, so that a static build can be
 * carried to other machines; see `make golden-kit`.
 */
#include "kernel/kernel.h"
#include "stage_bits.h"
#include "tiny_model.h"

#include <inttypes.h>
#include <xxhash.h>

#define N_TOKEN      70
#define N_DECODE     4
#define CHUNK        40
#define SELECTED     "0-8,38-41,60-69"
#define DETAILS_MAX  6 /* lines told of one table */
#define GOLDEN_BYTES (1 << 20)

typedef struct golden {
    const kernel_table *table;
    FILE *out;
    const char *weights, *kv, *act;
} golden;

static _Noreturn void stop(const char *what, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    printf("Bail out! %s: %s\n", what, err ? greta_error_line(err, line) : "failed");
    exit(1);
}

static void print_digest(const golden *g, int32_t layer, const char *what, uint64_t digest)
{
    char number[16];
    snprintf(number, sizeof number, "%" PRId32, layer);
    fprintf(g->out, "%s\t%s\t%s\t%s\t%s\t%016" PRIx64 "\n", g->weights, g->kv, g->act,
            layer < 0 ? "-" : number, what, digest);
}

/* Each place of the pass where an op left rows, in the order of computation: one digest over all
 * positions. */
static void print_stages(const golden *g, const stage_bits *b)
{
    for (int32_t i = 0; i < bits_width(b); i++) {
        uint64_t digest = 0;
        int32_t n_row = 0;
        for (int32_t p = 0; p < b->n_position; p++) {
            const bits_cell *cell = &b->cell[p * bits_width(b) + i];
            uint64_t row[3] = {cell->hash.ordered, cell->hash.bag, (uint64_t)cell->n};
            digest = XXH64(row, sizeof row, digest);
            n_row += cell->n != 0;
        }
        if (n_row > 0) {
            print_digest(g, bits_layer(b, i), stage_name((stage)(i % STAGE_COUNT)), digest);
        }
    }
}

static uint64_t digest_statistics(const stage_bits *b)
{
    uint64_t digest = 0;
    for (int32_t i = 0; i < b->n_position * bits_width(b); i++) {
        if (b->cell[i].is_selected) {
            digest = XXH64(b->cell[i].stat, sizeof b->cell[i].stat, digest);
        }
    }
    return digest;
}

static void print_run(const golden *g, greta_model *model, const greta_session_options *options)
{
    greta_error err = {0};
    greta_model_info info = greta_model_describe(model);
    int32_t id[N_TOKEN];
    for (int32_t i = 0; i < N_TOKEN; i++) {
        id[i] = (i * i * 31 + 7 * i) % info.n_vocab;
    }
    bits_sequence sequence = {id, N_TOKEN, 1};
    const bits_sequence *only = &sequence;
    bits_run run = {options, &only, 1, CHUNK, N_DECODE, SELECTED};
    stage_bits b;
    if (!bits_new(&b, &sequence, &info)) {
        stop("memory", NULL);
    }
    if (bits_take(model, &run, &b, &err) != GRETA_OK) {
        stop(g->weights, &err);
    }
    print_stages(g, &b);
    print_digest(g, -1, "statistics of rows", digest_statistics(&b));
    print_digest(g, -1, "logits as integers",
                 XXH64(b.logits, (size_t)N_TOKEN * (size_t)info.n_vocab * sizeof *b.logits, 0));
    bits_free(&b);
}

static uint64_t digest_file(const char *path)
{
    static char bytes[1 << 16];
    uint64_t digest = 0;
    FILE *file = fopen(path, "rb");
    if (!file) {
        stop(path, NULL);
    }
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, file)) > 0;) {
        digest = XXH64(bytes, n, digest);
    }
    fclose(file);
    return digest;
}

static void print_model(golden *g, const char *type, const char *extras)
{
    char path[TINY_PATH], options[TINY_PATH];
    greta_error err = {0};
    greta_model *model = NULL;
    snprintf(options, sizeof options, "--seed 1 --type %s %s", type, extras);
    if (!tiny_model("golden", options, path) || greta_model_open(path, &model, &err) != GRETA_OK) {
        stop("mkmodel", &err);
    }
    g->weights = type;
    g->kv = g->act = "-";
    print_digest(g, -1, "the model's file", digest_file(path));
    for (int i = 0; i < 4; i++) {
        greta_session_options session = {.size = sizeof session,
                                         .n_thread = 2,
                                         .kv = i / 2 ? GRETA_KV_F32 : GRETA_KV_F16,
                                         .act = i % 2 ? GRETA_ACT_F32 : GRETA_ACT_Q8,
                                         .cpu = g->table->name};
        g->kv = i / 2 ? "f32" : "f16";
        g->act = i % 2 ? "f32" : "q8";
        print_run(g, model, &session);
    }
    greta_model_release(model);
    unlink(path);
}

/* All digests of one table, as the lines of a golden file; malloc'd. */
static char *golden_text(const kernel_table *table)
{
    char *text = NULL;
    size_t bytes;
    golden g = {.table = table, .out = open_memstream(&text, &bytes)};
    if (!g.out) {
        stop("memory", NULL);
    }
    fprintf(g.out, "weights\tkv\tact\tlayer\tstage\tdigest of arithmetic %d\n",
            greta_version().arithmetic);
    for (size_t i = 0; i < BITS_MODELS; i++) {
        print_model(&g, bits_models[i].type, bits_models[i].extras);
    }
    if (fclose(g.out) != 0) {
        stop("memory", NULL);
    }
    return text;
}

static void golden_path(const char *folder, char path[TINY_PATH])
{
    snprintf(path, TINY_PATH, "%s/arithmetic-%d.tsv", folder, greta_version().arithmetic);
}

/* `ref` takes as long as all the others. */
static int table_is_meant(const kernel_table *table, const char *only)
{
    if (only && strcmp(only, "quick") == 0) {
        return strcmp(table->name, "ref") != 0 || !kernel_find("ref-avx2");
    }
    return !only || strcmp(only, table->name) == 0;
}

/* Reads a golden file; false: there is none. */
static int golden_read(const char *path, char text[GOLDEN_BYTES])
{
    FILE *file = fopen(path, "rb");
    text[file ? fread(text, 1, GOLDEN_BYTES - 1, file) : 0] = '\0';
    return file != NULL && fclose(file) == 0;
}

/* Every line of the old text stands in the new one, in the same order. */
static int lines_are_kept(const char *old, const char *new)
{
    for (; *old && *new; new += strcspn(new, "\n"), new += *new == '\n') {
        size_t n = strcspn(old, "\n");
        if (n == strcspn(new, "\n") && memcmp(old, new, n) == 0) {
            old += n + (old[n] == '\n');
        }
    }
    return *old == '\0';
}

static int golden_write(const char *folder, int force)
{
    static char old[GOLDEN_BYTES];
    char path[TINY_PATH];
    golden_path(folder, path);
    char *text = golden_text(kernel_find("ref"));
    if (!force && golden_read(path, old) && !lines_are_kept(old, text)) {
        fprintf(stderr,
                "golden_tool: %s: digests in it are no longer found; a change of bits is a new "
                "arithmetic version (FORCE=1 writes it again)\n",
                path);
        free(text);
        return 1;
    }
    FILE *file = fopen(path, "wb");
    int is_written = file && fputs(text, file) >= 0;
    is_written = file && fclose(file) == 0 && is_written;
    free(text);
    if (!is_written) {
        fprintf(stderr, "golden_tool: %s: cannot be written\n", path);
    }
    return !is_written;
}

/* Lines of the text that are not those of the file, in order: number, and the first few told. */
static int lines_compare(const char *expected, const char *found, const char *kernel, int *n_line)
{
    int n_differ = 0;
    for (*n_line = 0; *expected || *found; (*n_line)++) {
        size_t e = strcspn(expected, "\n"), f = strcspn(found, "\n");
        if (e != f || memcmp(expected, found, e) != 0) {
            if (n_differ++ < DETAILS_MAX) {
                printf("# %s: expected %.*s\n# %s: found    %.*s\n", kernel, (int)e, expected,
                       kernel, (int)f, found);
            }
        }
        expected += e + (expected[e] == '\n');
        found += f + (found[f] == '\n');
    }
    return n_differ;
}

static int golden_check(const char *folder, const char *only)
{
    static char expected[GOLDEN_BYTES];
    char path[TINY_PATH], cpu[256];
    golden_path(folder, path);
    if (!golden_read(path, expected)) {
        printf("1..1\nnot ok 1 - %s is there; `make golden` writes it\n", path);
        return 1;
    }
    int n_test = 0, n_failed = 0;
    printf("# %s\n", greta_cpu_describe(cpu, sizeof cpu));
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        if (!table_is_meant(*t, only)) {
            continue;
        }
        int n_line;
        char *found = golden_text(*t);
        int n_differ = lines_compare(expected, found, (*t)->name, &n_line);
        free(found);
        n_failed += n_differ != 0;
        printf("%sok %d - kernels %s: %d of %d digests are those of arithmetic %d\n",
               n_differ ? "not " : "", ++n_test, (*t)->name, n_line - n_differ, n_line,
               greta_version().arithmetic);
        fflush(stdout);
    }
    printf("1..%d\n", n_test);
    return n_failed != 0;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && argc <= 4 && strcmp(argv[1], "write") == 0) {
        return golden_write(argv[2], argc == 4 && strcmp(argv[3], "force") == 0);
    }
    if (argc >= 3 && argc <= 4 && strcmp(argv[1], "check") == 0) {
        return golden_check(argv[2], argc == 4 ? argv[3] : NULL);
    }
    fputs("usage: golden_tool write FOLDER [force] | check FOLDER [KERNELS|quick]\n", stderr);
    return 2;
}
