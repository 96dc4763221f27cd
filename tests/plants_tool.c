/* plants_tool.c - every fault of ffn_norm, planted in a given model on given prompts, for the
 * tests in Python (what a plant of any kind changes: test_fault_bits.c):
 *
 *     plants_tool MODEL FOLDER LAYERS ONE_OF PROMPT...   a prompt is a file; its name is the id
 *
 * For each prompt a clean run, then one of ONE_OF faults (1: every one) in one layer after the
 * other (first, middle, last, then all others) until LAYERS of them are named by bucket. One line a
 * run, tab-separated:
 *
 *     prompt  fault  bucket planted  layer  outcome  state  bucket found  stages that differ phrase
 *
 * The traces lie in FOLDER, those of the last plant at the end.
 */
#include "base/text.h"
#include "plant_bench.h"

#include <stdlib.h>

static int fail(const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    fprintf(stderr, "plants_tool: %s\n", greta_error_line(err, line));
    return 1;
}

static void print_run(const plant_bench *b, const fault_kind *kind, int32_t layer,
                      const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    printf("%s\t%s\t%s\t%d\t%s\t%s\t%s\t%zu\t%s\n", b->prompt.id, kind ? kind->name : "-",
           kind ? cause_name(kind->cause) : "-", (int)layer,
           kind ? plant_outcome_name(bench_outcome(b, kind, layer, p)) : "clean",
           verdict_state_name(p->state), analysis_bucket(p->state, p->cause), p->n_differ,
           norm ? norm->found.phrase : "-");
}

/* The i-th layer to try of n. */
static int32_t layer_at(int32_t i, int32_t n)
{
    int32_t chosen[3] = {0, n / 2, n - 1};
    if (i < 3) {
        return chosen[i];
    }
    int32_t layer = i - 2; /* 1 .. n-2, without the middle */
    return layer < n / 2 ? layer : layer + 1;
}

static int run_kind(plant_bench *b, const fault_kind *kind, int n_wanted)
{
    greta_error err = {0};
    int32_t n_layer = b->run.model->cfg.n_layer;
    int n_named = 0;
    for (int32_t i = 0; i < n_layer && n_named < n_wanted; i++) {
        int32_t layer = layer_at(i, n_layer);
        if (layer < kind->layer_min || layer >= n_layer) {
            continue;
        }
        analysis_prompt judged;
        if (bench_run(b, kind, layer, &judged, &err) != GRETA_OK) {
            return fail(&err);
        }
        n_named += bench_outcome(b, kind, layer, &judged) == PLANT_NAMED;
        print_run(b, kind, layer, &judged);
        analysis_prompt_free(&judged);
    }
    return 0;
}

/* What of the matrix is run. */
typedef struct matrix_share {
    const char *folder;
    int n_wanted, one_of;
} matrix_share;

static int run_prompt(greta_model *model, const greta_prompt *prompt, const matrix_share *share)
{
    greta_error err = {0};
    greta_isolate_options options = {.size = sizeof options,
                                     .session = {.n_thread = 1},
                                     .out = share->folder,
                                     .fault_layer = -1};
    plant_bench bench;
    analysis_prompt judged;
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    if (bench_open(&bench, model, prompt, &options, &err) != GRETA_OK ||
        bench_run(&bench, NULL, -1, &judged, &err) != GRETA_OK) {
        return fail(&err);
    }
    print_run(&bench, NULL, -1, &judged);
    analysis_prompt_free(&judged);
    int failed = 0, n_taken = 0;
    for (size_t i = 0; i < n && !failed; i++) {
        if (bench_takes(&kind[i]) && n_taken++ % share->one_of == 0) {
            failed = run_kind(&bench, &kind[i], share->n_wanted);
        }
    }
    bench_close(&bench);
    return failed;
}

static char *file_read(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    char *bytes = malloc(1 << 20);
    *n = file && bytes ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file) {
        fclose(file);
    }
    return bytes;
}

static int run_file(greta_model *model, char *path, const matrix_share *share)
{
    greta_error err = {0};
    greta_tokenize_options special = {.size = sizeof special, .special = 1};
    greta_tokens ids;
    size_t n;
    char *bytes = file_read(path, &n), *id = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (!bytes || n == 0 || greta_tokenize(model, bytes, n, &special, &ids, &err) != GRETA_OK) {
        free(bytes);
        return n ? fail(&err) : (fprintf(stderr, "plants_tool: cannot read %s\n", path), 1);
    }
    id[strcspn(id, ".")] = '\0';
    greta_prompt prompt = {id, ids.id, ids.n};
    int failed = run_prompt(model, &prompt, share);
    greta_free(ids.id);
    free(bytes);
    return failed;
}

int main(int argc, char **argv)
{
    greta_error err = {0};
    greta_model *model;
    if (argc < 6 || strtol(argv[4], NULL, 10) < 1) {
        fputs("usage: plants_tool MODEL FOLDER LAYERS ONE_OF PROMPT...\n", stderr);
        return 2;
    }
    if (greta_model_open(argv[1], &model, &err) != GRETA_OK) {
        return fail(&err);
    }
    const matrix_share share = {argv[2], (int)strtol(argv[3], NULL, 10),
                                (int)strtol(argv[4], NULL, 10)};
    int failed = 0;
    for (int i = 5; i < argc && !failed; i++) {
        failed = run_file(model, argv[i], &share);
    }
    greta_model_release(model);
    return failed;
}
