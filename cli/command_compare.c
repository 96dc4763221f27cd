/* command_compare.c - `greta compare`: two traces, record by record; with the model, op by op. The
 * exit code is the verdict: 0 equal (with the model: nothing but policy), 1 a fault or a differing
 * bit, 6 nothing to compare. */
#include "commands.h"
#include "common.h"
#include "output.h"

#include <stdlib.h>

typedef struct compare_args {
    model_args model;
    bool json;
} compare_args;

int command_compare(int argc, char **argv, greta_error *err)
{
    compare_args args = {0};
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH,
                                  .offset = offsetof(compare_args, json), .help = "as JSON"}};
    flag_group group[] = {model_group(&args.model), {"Output", flags, 1, &args}};
    command_line line = {
        .name = "compare", .usage = "[-m MODEL] A.jsonl B.jsonl", .group = group,
        .n_group = COUNT_OF(group), .n_operand_min = 2, .n_operand_max = 2,
        .summary = "Pairs the records of two traces by token, position, layer and stage, and\n"
                   "shows the first that differ. With the model, every op of the tokens that\n"
                   "differ is replayed: which run introduced what, and why.",
    };
    const greta_watch watch = {.size = sizeof watch, .progress = progress_watch};
    greta_model *model = NULL;
    char *path = NULL, *text = NULL;
    greta_status verdict = GRETA_OK;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    if (args.model.model) {
        status = model_load(&args.model, &model, &path, err);
    }
    if (!status) {
        status = greta_compare(model, line.operand[0], line.operand[1], &watch, args.json, &text,
                               &verdict, err);
    }
    if (!status) {
        status = output_take(text, err);
    }
    greta_model_release(model);
    free(path);
    return (int)(status ? status : verdict);
}
