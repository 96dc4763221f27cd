/* command_inspect.c - `greta inspect`: what a model file holds. */
#include "commands.h"
#include "common.h"
#include "output.h"

#include <stdlib.h>

int command_inspect(int argc, char **argv, greta_error *err)
{
    bool json = false;
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH, .help = "as JSON"}};
    flag_group group = {"Output", flags, 1, &json};
    command_line line = {
        .name = "inspect", .usage = "NAME|FILE", .group = &group, .n_group = 1,
        .n_operand_min = 1, .n_operand_max = 1,
        .summary = "Shows metadata, tensors, parameters and the memory a model needs.",
    };
    char *path = NULL, *text = NULL;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = model_path(line.operand[0], &path, err);
    if (!status) {
        status = greta_inspect(path, json, &text, err);
    }
    if (!status) {
        status = output_take(text, err);
    }
    free(path);
    return (int)status;
}
