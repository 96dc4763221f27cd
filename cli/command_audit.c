/* command_audit.c - `greta audit`: one trace against the model. The exit code is the verdict: 0 the
 * trace is what the model says, 1 a fault, 6 no verdict. */
#include "commands.h"
#include "common.h"
#include "output.h"

#include <stdlib.h>

typedef struct audit_args {
    model_args model;
    bool json;
} audit_args;

int command_audit(int argc, char **argv, greta_error *err)
{
    audit_args args = {0};
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH,
                                  .offset = offsetof(audit_args, json), .help = "as JSON"}};
    flag_group group[] = {model_group(&args.model), {"Output", flags, 1, &args}};
    command_line line = {
        .name = "audit", .usage = "-m MODEL TRACE.jsonl", .group = group,
        .n_group = COUNT_OF(group), .n_operand_min = 1, .n_operand_max = 1,
        .summary = "Replays every op of a trace on what it should have read, and says which op is\n"
                   "not what the model says. Exit code: 0 none, 1 a fault, 6 no verdict.",
    };
    const greta_watch watch = {.size = sizeof watch, .progress = progress_watch};
    greta_model *model = NULL;
    char *path = NULL, *text = NULL;
    greta_status verdict = GRETA_OK;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = model_load(&args.model, &model, &path, err);
    if (!status) {
        status = greta_audit(model, line.operand[0], &watch, args.json, &text, &verdict, err);
    }
    if (!status) {
        status = output_take(text, err);
    }
    greta_model_release(model);
    free(path);
    return (int)(status ? status : verdict);
}
