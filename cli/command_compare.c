/* command_compare.c - `greta compare`: two traces, record by record. The exit code is the verdict:
 * 0 equal, 1 a differing bit, 6 nothing to compare. */
#include "args.h"
#include "commands.h"
#include "output.h"

int command_compare(int argc, char **argv, greta_error *err)
{
    bool json = false;
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH, .help = "as JSON"}};
    flag_group group = {"Output", flags, 1, &json};
    command_line line = {
        .name = "compare", .usage = "A.jsonl B.jsonl", .group = &group, .n_group = 1,
        .n_operand_min = 2, .n_operand_max = 2,
        .summary = "Pairs the records of two traces by token, position, layer and stage, and\n"
                   "shows the first that differ.",
    };
    char *text = NULL;
    greta_status verdict = GRETA_OK;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = greta_compare(line.operand[0], line.operand[1], json, &text, &verdict, err);
    if (!status) {
        status = output_take(text, err);
    }
    return (int)(status ? status : verdict);
}
