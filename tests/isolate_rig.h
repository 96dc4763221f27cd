/* isolate_rig.h - what the tests of isolate share: a tiny model, three prompts, and greta_isolate
 * run and read back from its JSON.
 */
#ifndef GRETA_TESTS_ISOLATE_RIG_H
#define GRETA_TESTS_ISOLATE_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "plant_bench.h"
#include "tiny_model.h"

#include <jansson.h>

#define N_PROMPT 3
#define N_TOKEN  42
#define N_LAYER  3

static greta_model *model;
static int32_t tokens[N_PROMPT][N_TOKEN];
static greta_prompt prompts[N_PROMPT];
static const size_t lengths[N_PROMPT] = {6, 18, N_TOKEN}; /* no chunk of 2, 3, 4 ends on one row */

static inline void check(greta_status status, const greta_error *err)
{
    char line[GRETA_ERROR_LINE];
    if (status != GRETA_OK) {
        fail_msg("%s", greta_error_line(err, line));
    }
}

/* A folder of this process in the scratch folder. */
static inline const char *folder(const char *name)
{
    static char path[8][TINY_PATH];
    static int next;
    const char *tmp = getenv("GRETA_TMP");
    char *out = path[next++ % 8];
    snprintf(out, TINY_PATH, "%s/isolate-%d-%s", tmp ? tmp : "/tmp", (int)getpid(), name);
    return out;
}

static inline int setup(void **state)
{
    char path[TINY_PATH];
    greta_error err = {0};
    (void)state;
    if (!tiny_model("isolate", "--layers 3 --vocab 500 --ff 128", path)) {
        return -1;
    }
    check(greta_model_open(path, &model, &err), &err);
    int32_t n_vocab = greta_model_describe(model).n_vocab;
    static const char *const id[N_PROMPT] = {"short", "middle", "long"};
    uint32_t random = 1;
    for (int i = 0; i < N_PROMPT; i++) {
        for (size_t k = 0; k < lengths[i]; k++) {
            random = random * 1664525u + 1013904223u;
            tokens[i][k] = (int32_t)((random >> 8) % (uint32_t)n_vocab);
        }
        prompts[i] = (greta_prompt){id[i], tokens[i], lengths[i]};
    }
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    greta_model_release(model);
    return 0;
}

static inline greta_isolate_options options_for(const char *name)
{
    return (greta_isolate_options){
        .size = sizeof(greta_isolate_options),
        .session = {.size = sizeof(greta_session_options), .n_thread = 1},
        .layers = "all",
        .fault_layer = -1,
        .out = folder(name),
        .overwrite = 1};
}

/* Runs, and checks that the JSON agrees with the verdict. Free with json_decref. */
static inline json_t *run(const greta_isolate_options *options, const greta_prompt *p, size_t n,
                          greta_status expected)
{
    greta_error err = {0};
    greta_status verdict;
    char *printed;
    json_error_t parse;
    greta_model *m = options->from ? NULL : model;
    check(greta_isolate(m, p, n, options, 1, &printed, &verdict, &err), &err);
    json_t *root = json_loads(printed, JSON_REJECT_DUPLICATES, &parse);
    assert_non_null(root);
    if (verdict != expected) {
        fail_msg("verdict %d, expected %d: %s", (int)verdict, (int)expected,
                 json_string_value(json_object_get(json_object_get(root, "headline"), "en")));
    }
    assert_int_equal(json_integer_value(json_object_get(root, "exit_code")), expected);
    greta_free(printed);
    return root;
}

static inline json_t *prompt_at(json_t *root, size_t i)
{
    json_t *p = json_array_get(json_object_get(root, "prompts"), i);
    assert_non_null(p);
    return p;
}

static inline const char *text_at(json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "(null)";
}

static inline int64_t whole_at(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

/* The norm that the verdict of a prompt stands on; NULL: none. */
static inline json_t *decisive(json_t *prompt)
{
    json_t *norms = json_object_get(prompt, "norms");
    for (size_t i = 0; i < json_array_size(norms); i++) {
        if (json_is_true(json_object_get(json_array_get(norms, i), "is_decisive"))) {
            return json_array_get(norms, i);
        }
    }
    return NULL;
}

#endif
