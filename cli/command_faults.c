/* command_faults.c - `greta faults`: the catalogue of plantable faults. */
#include "args.h"
#include "commands.h"
#include "output.h"

int command_faults(int argc, char **argv, greta_error *err)
{
    bool json = false;
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH, .help = "as JSON"}};
    flag_group group = {"Output", flags, 1, &json};
    command_line line = {
        .name = "faults", .usage = "[--json]", .group = &group, .n_group = 1,
        .summary = "Lists the faults that isolate --fault can plant, with bucket and description.",
    };
    char *text = NULL;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = greta_faults(json, &text, err);
    return (int)(status ? status : output_take(text, err));
}
