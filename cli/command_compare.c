/* command_compare.c - `greta compare`: two traces, record by record; with the model, or a model of
 * each, op by op. The exit code is the verdict: 0 equal (with the model: nothing but policy), 1 a
 * fault or a differing bit, 6 nothing to compare. */
#include "commands.h"
#include "common.h"
#include "output.h"

#include <stdlib.h>

typedef struct compare_args {
    model_args model, model_b;
    bool json;
} compare_args;

int command_compare(int argc, char **argv, greta_error *err)
{
    compare_args args = {0};
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH,
                                  .offset = offsetof(compare_args, json), .help = "as JSON"}};
    static const flag other[] = {
        {.name = "--model-b", .kind = FLAG_PATH, .value = "NAME|FILE",
         .offset = offsetof(compare_args, model_b) + offsetof(model_args, model),
         .help = "the model of B, where -m is that of A: the same weights in another type"}};
    flag_group group[] = {model_group(&args.model), {"Model of B", other, 1, &args},
                          {"Output", flags, 1, &args}};
    command_line line = {
        .name = "compare", .usage = "[-m MODEL [--model-b MODEL]] A.jsonl B.jsonl", .group = group,
        .n_group = COUNT_OF(group), .n_operand_min = 2, .n_operand_max = 2,
        .summary = "Pairs the records of two traces by token, position, layer and stage, and\n"
                   "shows the first that differ. With the model, every op of the tokens that\n"
                   "differ is replayed: which run introduced what, and why. Traces of two models\n"
                   "that hold the same weights in two types take -m and --model-b.",
    };
    const greta_watch watch = {.size = sizeof watch, .progress = progress_watch};
    greta_model *model = NULL, *model_b = NULL;
    char *path = NULL, *path_b = NULL, *text = NULL;
    greta_status verdict = GRETA_OK;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    if (args.model_b.model && !args.model.model) {
        return (int)fail(err, GRETA_USAGE, "--model-b needs -m");
    }
    if (args.model.model) {
        status = model_load(&args.model, &model, &path, err);
    }
    if (!status && args.model_b.model) {
        status = model_load(&args.model_b, &model_b, &path_b, err);
    }
    if (!status) {
        const greta_traced traced[2] = {{line.operand[0], model},
                                        {line.operand[1], model_b ? model_b : model}};
        status = greta_compare_models(traced, &watch, args.json, &text, &verdict, err);
    }
    if (!status) {
        status = output_take(text, err);
    }
    greta_model_release(model);
    greta_model_release(model_b);
    free(path);
    free(path_b);
    return (int)(status ? status : verdict);
}
