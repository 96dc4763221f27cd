/* command_isolate.c - `greta isolate`: why prefill and decode differ, on a set of prompts.
 *
 * The work and the verdict are the library's; here prompts are gathered: those of a folder
 * (prompts.h), or one of the command line.
 */
#include "commands.h"
#include "output.h"
#include "prompts.h"
#include "tracing.h"

#include <stdlib.h>
#include <string.h>

typedef struct isolate_args {
    model_args model;
    prompt_args prompt;
    session_args session;
    const char *prompts, *prompt_id, *layers, *fault, *fault_stage, *out, *from, *devices;
    char device[2][64]; /* of --devices */
    int mode, e1; /* E1|E0, fresh|truncate */
    int64_t fault_layer;
    uint64_t seed, bytes_max;
    bool json, force;
} isolate_args;

static const flag prompt_flags[] = {
    {.name = "--prompts", .kind = FLAG_PATH, .value = "DIR",
     .offset = offsetof(isolate_args, prompts), .help = "every *.txt of a folder is a prompt"},
    {.name = "--prompt-id", .kind = FLAG_PATH, .value = "ID",
     .offset = offsetof(isolate_args, prompt_id),
     .help = "name of the prompt of -p, -f or --tokens; default prompt"},
};

static const flag isolate_flags[] = {
    {.name = "--mode", .kind = FLAG_CHOICE, .value = "E1|E0",
     .offset = offsetof(isolate_args, mode),
     .help = "E1: decode the prompt's last token again; E0: the next"},
    {.name = "--e1", .kind = FLAG_CHOICE, .value = "fresh|truncate",
     .offset = offsetof(isolate_args, e1), .help = "E1 in a fresh session, or after a dropped row"},
    {.name = "--devices", .kind = FLAG_PATH, .value = "A,B",
     .offset = offsetof(isolate_args, devices),
     .help = "prefill_last on one, decode0 on the other: cpu,cuda"},
    {.name = "--layers", .kind = FLAG_PATH, .value = "LIST",
     .offset = offsetof(isolate_args, layers), .help = "of the table; default 0"},
    {.name = "--fault", .kind = FLAG_PATH, .value = "NAME", .offset = offsetof(isolate_args, fault),
     .help = "plant faults in decode; greta faults lists them"},
    {.name = "--fault-stage", .kind = FLAG_PATH, .value = "STAGE",
     .offset = offsetof(isolate_args, fault_stage), .help = "the op; default the fault's own"},
    {.name = "--fault-layer", .kind = FLAG_WHOLE, .value = "N", .max = 1023,
     .offset = offsetof(isolate_args, fault_layer), .help = "its layer; default drawn from --seed"},
    {.name = "--seed", .kind = FLAG_SEED, .value = "N", .offset = offsetof(isolate_args, seed),
     .help = "default 0"},
    {.name = "--out", .letter = "-o", .kind = FLAG_PATH, .value = "DIR",
     .offset = offsetof(isolate_args, out),
     .help = "for traces, tables and report; default greta-isolate"},
    {.name = "--from", .kind = FLAG_PATH, .value = "DIR", .offset = offsetof(isolate_args, from),
     .help = "analyse the traces that are there; runs nothing"},
    {.name = "--max-bytes", .kind = FLAG_BYTES, .value = "SIZE",
     .offset = offsetof(isolate_args, bytes_max), .help = "of each trace; default 4G"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = offsetof(isolate_args, force),
     .help = "replace an analysis that is there"},
    {.name = "--json", .kind = FLAG_SWITCH, .offset = offsetof(isolate_args, json),
     .help = "print analysis.json instead of the tables"},
};

/* "cpu,cuda:1" into the two. */
static greta_status devices_split(isolate_args *args, greta_error *err)
{
    char q[QUOTED_MAX];
    const char *list = args->devices, *comma = list ? strchr(list, ',') : NULL;
    if (!list) {
        return GRETA_OK;
    }
    if (args->session.device) {
        return fail(err, GRETA_USAGE, "--device and --devices: one of the two");
    }
    size_t n = comma ? (size_t)(comma - list) : 0, rest = comma ? strlen(comma + 1) : 0;
    if (n == 0 || rest == 0 || strchr(comma + 1, ',') || n >= sizeof args->device[0] ||
        rest >= sizeof args->device[1]) {
        return fail(err, GRETA_USAGE, "--devices \"%s\" is not two devices, A,B",
                    quoted(list, strlen(list), q));
    }
    memcpy(args->device[0], list, n);
    memcpy(args->device[1], comma + 1, rest);
    args->session.device = args->device[0];
    return GRETA_OK;
}

static greta_status isolate_check(const isolate_args *args, greta_error *err)
{
    const char *variable;
    bool has_prompt = !prompt_is_absent(&args->prompt);
    if (tracing_is_switched_on(&variable)) {
        note("%s does nothing here: isolate writes its own traces", variable);
    }
    if (args->from && (has_prompt || args->prompts || args->fault)) {
        return fail(err, GRETA_USAGE, "--from analyses traces; it takes no prompts and no fault");
    }
    if (args->prompts && has_prompt) {
        return fail(err, GRETA_USAGE, "only one of --prompts, -p, -f and --tokens can be given");
    }
    if (args->prompts && args->prompt_id) {
        return fail(err, GRETA_USAGE, "--prompt-id names one prompt; --prompts takes file names");
    }
    if (!args->from && !args->prompts && !has_prompt) {
        return fail(err, GRETA_USAGE, "no prompt is given (--prompts DIR, -p, -f or --tokens)");
    }
    if (args->mode && args->e1) {
        return fail(err, GRETA_USAGE, "--e1 truncate belongs to --mode E1");
    }
    if (!args->fault && (args->fault_layer >= 0 || args->fault_stage)) {
        return fail(err, GRETA_USAGE, "%s needs --fault",
                    args->fault_stage ? "--fault-stage" : "--fault-layer");
    }
    return GRETA_OK;
}

/* ---- The analysis ---------------------------------------------------------------------------- */

static greta_isolate_options isolate_options(const isolate_args *args)
{
    return (greta_isolate_options){
        .size = sizeof(greta_isolate_options),
        .session = session_options(&args->session),
        .mode = args->mode ? GRETA_E0 : args->e1 ? GRETA_E1_TRUNCATE : GRETA_E1_FRESH,
        .layers = args->layers,
        .fault = args->fault,
        .fault_stage = args->fault_stage,
        .fault_layer = (int32_t)args->fault_layer,
        .seed = args->seed,
        .out = args->out,
        .from = args->from,
        .bytes_max = args->bytes_max,
        .overwrite = args->force,
        .progress = progress_parts,
        .device_decode = args->devices ? args->device[1] : NULL,
    };
}

static greta_status isolate_work(const isolate_args *args, greta_status *verdict, greta_error *err)
{
    greta_model *model = NULL;
    prompt_list list = {0};
    char *path = NULL, *text = NULL;
    greta_isolate_options options = isolate_options(args);
    greta_status status = GRETA_OK;
    if (!args->from || args->model.model) {
        status = model_load(&args->model, &model, &path, err);
    }
    if (!status && args->prompts) {
        status = prompts_add_folder(&list, model, args->prompts, &args->prompt, err);
    } else if (!status && !args->from) {
        status = prompts_add(&list, model, args->prompt_id ? args->prompt_id : "prompt",
                             &args->prompt, err);
    }
    if (!status) {
        status = greta_isolate(model, list.prompt, list.n, &options, args->json, &text, verdict,
                               err);
    }
    if (!status) {
        status = output_take(text, err);
    }
    prompts_free(&list);
    greta_model_release(model);
    free(path);
    return status;
}

int command_isolate(int argc, char **argv, greta_error *err)
{
    isolate_args args = {.fault_layer = -1, .out = "greta-isolate"};
    greta_status verdict = GRETA_OK;
    flag_group group[] = {
        model_group(&args.model),
        {"Prompts: --prompts, or one of -p, -f, --tokens", prompt_flags, COUNT_OF(prompt_flags),
         &args},
        prompt_group(&args.prompt),
        {"Analysis", isolate_flags, COUNT_OF(isolate_flags), &args},
        session_group(&args.session),
    };
    command_line line = {
        .name = "isolate", .usage = "-m MODEL --prompts DIR", .group = group,
        .n_group = COUNT_OF(group),
        .summary = "Pairs prefill_last with decode0 of each prompt, stage by stage, and names the\n"
                   "first operation that is really wrong. Exit code: 0 aligned, 1 a fault,\n"
                   "6 no verdict.",
    };
    greta_status status = args_parse(&line, argc, argv, err);
    if (status || line.is_help) {
        return (int)status;
    }
    status = devices_split(&args, err);
    if (!status) {
        status = isolate_check(&args, err);
    }
    if (!status) {
        status = isolate_work(&args, &verdict, err);
    }
    return (int)(status ? status : verdict);
}
