/* command_doctor.c - `greta doctor`: the devices that models can run on, and what is wrong with the
 * others. Nothing wrong with a plugin or a driver makes it fail: to say so is its work.
 */
#include "args.h"
#include "commands.h"
#include "common.h"
#include "output.h"

int command_doctor(int argc, char **argv, greta_error *err)
{
    bool json = false;
    static const flag flags[] = {{.name = "--json", .kind = FLAG_SWITCH, .help = "as JSON"}};
    flag_group group = {"Output", flags, 1, &json};
    command_line line = {
        .name = "doctor", .usage = "[--json]", .group = &group, .n_group = 1,
        .summary = "Lists this CPU with its kernels, the plugins of devices and where they were\n"
                   "looked for, and the devices themselves. GRETA_PLUGIN_DIR is looked in first.",
    };
    char *text = NULL;
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = greta_devices(plugin_folder(), json, &text, err);
    return (int)(status ? status : output_take(text, err));
}
