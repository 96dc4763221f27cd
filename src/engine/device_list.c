/* device_list.c - what `greta doctor` says: the CPU, the plugins that are there, their devices.
 *
 * Nothing is opened for good: plugins are loaded and asked. One that cannot be loaded, or finds no
 * driver, is listed with the reason, for that is what the question was about.
 */
#include "base/text.h"
#include "engine/device.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBERS_MAX 64 /* devices of one plugin that are listed */

static json_t *text_json(const char *bytes)
{
    json_t *value = json_string(bytes);
    return value ? value : json_string("?"); /* not UTF-8 */
}

static json_t *device_json(const gpu_plugin *plugin, int32_t number)
{
    gpu_info info = {0};
    char why[DEVICE_WHY_MAX] = "";
    gpu_status status = plugin->describe(number, &info, why, sizeof why);
    json_t *out = json_pack("{s:i}", "number", (int)number);
    if (status != GPU_OK) {
        greta_error err = {0};
        device_spec spec = {.number = number};
        device_error(&spec, status, why, &err);
        json_object_set_new(out, "error", text_json(err.message));
        return out;
    }
    json_object_set_new(out, "name", text_json(info.name));
    json_object_set_new(out, "arch", text_json(info.arch));
    json_object_set_new(out, "processors", json_integer(info.n_processor));
    json_object_set_new(out, "memory", json_integer((json_int_t)info.memory));
    json_object_set_new(out, "memory_free", json_integer((json_int_t)info.memory_free));
    return out;
}

static json_t *plugin_json(const plugin_place *place, const char *folder)
{
    const gpu_plugin *plugin = NULL;
    greta_error err = {0};
    json_t *devices = json_array();
    json_t *out =
        json_pack("{s:o, s:o}", "name", text_json(place->name), "path", text_json(place->path));
    if (plugin_load(place->name, folder, &plugin, &err) != GRETA_OK) {
        json_object_set_new(out, "error", text_json(err.message));
    } else {
        int32_t n = 0;
        char why[DEVICE_WHY_MAX] = "";
        device_spec spec = {0};
        gpu_status status = plugin->count(&n, why, sizeof why);
        if (status != GPU_OK) {
            device_error(&spec, status, why, &err);
            json_object_set_new(out, "error", text_json(err.message));
        }
        for (int32_t i = 0; status == GPU_OK && i < n && i < NUMBERS_MAX; i++) {
            json_array_append_new(devices, device_json(plugin, i));
        }
    }
    json_object_set_new(out, "devices", devices);
    return out;
}

static json_t *tables_json(void)
{
    json_t *names = json_array();
    for (const kernel_table *const *t = kernel_tables(); *t; t++) {
        json_array_append_new(names, text_json((*t)->name));
    }
    return names;
}

/* ---- For people ------------------------------------------------------------------------------ */

static const char *string_of(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static void device_say(text *t, const char *plugin, const json_t *one)
{
    char name[DEVICE_NAME_MAX], memory[NUMBER_MAX], available[NUMBER_MAX];
    snprintf(name, sizeof name, "%s:%" PRIu64, plugin, number_of(one, "number"));
    if (json_object_get(one, "error")) {
        text_format(t, "%-12s %s\n", name, string_of(one, "error"));
        return;
    }
    text_format(t, "%-12s %s, %s, %" PRIu64 " processors, %s of memory, %s free\n", name,
                string_of(one, "name"), string_of(one, "arch"), number_of(one, "processors"),
                number_bytes(number_of(one, "memory"), memory),
                number_bytes(number_of(one, "memory_free"), available));
}

static void all_say(text *t, const json_t *all)
{
    size_t i, k;
    json_t *plugin, *one;
    text_format(t, "%-12s %s\n", "cpu", string_of(all, "cpu"));
    json_array_foreach(json_object_get(all, "plugins"), i, plugin)
    {
        const char *name = string_of(plugin, "name");
        const json_t *devices = json_object_get(plugin, "devices");
        int is_broken = json_object_get(plugin, "error") != NULL;
        text_format(t, "%-12s %s%s%s\n", name, string_of(plugin, "path"), is_broken ? ": " : "",
                    string_of(plugin, "error"));
        if (!is_broken && json_array_size(devices) == 0) {
            text_format(t, "%-12s no device\n", name);
        }
        json_array_foreach(devices, k, one)
        {
            device_say(t, name, one);
        }
    }
    if (json_array_size(json_object_get(all, "plugins")) == 0) {
        text_string(t, "no plugin of a device; looked for libgreta-NAME.so in\n");
    } else {
        text_string(t, "plugins are looked for in\n");
    }
    json_array_foreach(json_object_get(all, "searched"), i, plugin)
    {
        text_format(t, "  %s\n", json_string_value(plugin));
    }
}

/* ---- Both ------------------------------------------------------------------------------------ */

static greta_status all_find(const char *folder, json_t *all, greta_error *err)
{
    plugin_place *list = NULL;
    size_t n = 0;
    plugin_folders *searched = NULL;
    char cpu[512];
    GRETA_TRY(plugin_folders_find(folder, &searched, err));
    json_t *plugins = json_array(), *folders = json_array();
    for (size_t i = 0; i < searched->n; i++) {
        json_array_append_new(folders, text_json(searched->path[i]));
    }
    free(searched);
    greta_status status = plugin_list(folder, &list, &n, err);
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(plugins, plugin_json(&list[i], folder));
    }
    free(list);
    json_object_set_new(all, "cpu", text_json(greta_cpu_describe(cpu, sizeof cpu)));
    json_object_set_new(all, "kernels", tables_json());
    json_object_set_new(all, "plugins", plugins);
    json_object_set_new(all, "searched", folders);
    return status;
}

greta_status greta_devices(const char *plugins, int json, char **out, greta_error *err)
{
    json_t *all = json_object();
    text t = {0};
    *out = NULL;
    greta_status status =
        all ? all_find(plugins, all, err) : error_memory(err, "the list of devices", 0);
    if (status == GRETA_OK && json) {
        char *dump = json_dumps(all, JSON_INDENT(2));
        text_string(&t, dump ? dump : "");
        text_string(&t, "\n");
        status = dump ? GRETA_OK : error_memory(err, "the list of devices", 0);
        free(dump);
    } else if (status == GRETA_OK) {
        all_say(&t, all);
    }
    json_decref(all);
    if (status != GRETA_OK) {
        text_free(&t);
        return status;
    }
    return text_take(&t, out, err);
}
