/* device_find.c - which device an option names, and the plugin that drives it.
 *
 * A plugin is libgreta-NAME.so. It is looked for where this program and this library lie, and where
 * they were to be installed, never along a path of the environment. One that does not speak this
 * library's versions is refused: a device that computed other bits would be worse than none. A
 * plugin that was loaded stays loaded, since vendors' libraries do not survive being unloaded.
 */
#include "engine/device.h"

#include "base/text.h"

#include <dirent.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLUGINS_MAX 64
#define NUMBER_LAST 1023

#ifndef GRETA_LIBDIR
#define GRETA_LIBDIR "/usr/local/lib"
#endif

static const char prefix[] = "libgreta-", suffix[] = ".so";

/* ---- Names ----------------------------------------------------------------------------------- */

int device_is_cpu(const char *name)
{
    return !name || strcmp(name, "cpu") == 0;
}

/* Length of the name at `from`; 0: there is none. */
static size_t name_length(const char *from)
{
    size_t n = strspn(from, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n < sizeof((device_spec *)0)->plugin ? n : 0;
}

greta_status device_parse(const char *name, device_spec *out, greta_error *err)
{
    size_t n = name_length(name), digits = 0;
    int64_t number = 0;
    *out = (device_spec){0};
    if (n > 0 && name[n] == ':') {
        digits = strspn(name + n + 1, "0123456789");
        for (size_t i = 0; i < digits && number <= NUMBER_LAST; i++) {
            number = 10 * number + (name[n + 1 + i] - '0');
        }
    }
    int is_whole = n > 0 && (name[n] == '\0' || (digits > 0 && name[n + 1 + digits] == '\0'));
    if (!is_whole || number > NUMBER_LAST) {
        char shown[ESCAPED_MAX];
        return error_about(err, GRETA_USAGE, "device", "\"%s\" is not cpu, NAME or NAME:NUMBER",
                           escape(name, strlen(name), shown));
    }
    memcpy(out->plugin, name, n);
    out->number = (int32_t)number;
    return GRETA_OK;
}

/* ---- Folders --------------------------------------------------------------------------------- */

/* The folder of a file and `below` in it, once. */
static void folder_add(plugin_folders *f, const char *file, const char *below)
{
    const char *slash = strrchr(file, '/');
    char *path = f->path[f->n];
    int n =
        slash ? snprintf(path, sizeof f->path[0], "%.*s%s", (int)(slash - file), file, below) : -1;
    int is_new = n > 0 && (size_t)n < sizeof f->path[0];
    for (size_t i = 0; i < f->n && is_new; i++) {
        is_new = strcmp(f->path[i], path) != 0;
    }
    f->n += is_new ? 1 : 0;
}

greta_status plugin_folders_find(const char *first, plugin_folders **out, greta_error *err)
{
    plugin_folders *f = calloc(1, sizeof *f);
    char program[4096] = "";
    Dl_info library = {0};
    *out = f;
    if (!f) {
        return error_memory(err, "the folders of plugins", sizeof *f);
    }
    if (first) {
        snprintf(f->path[0], sizeof f->path[0], "%s", first);
        f->n = 1;
    }
    if (readlink("/proc/self/exe", program, sizeof program - 1) > 0) {
        folder_add(f, program, "");
        folder_add(f, program, "/plugins"); /* of a build */
        folder_add(f, program, "/../lib/greta");
    }
    /* Of the program, where the library is part of it; then it may be no path. */
    if (dladdr(prefix, &library) != 0 && library.dli_fname) {
        folder_add(f, library.dli_fname, "");
        folder_add(f, library.dli_fname, "/greta");
    }
    folder_add(f, GRETA_LIBDIR "/", "/greta");
    return GRETA_OK;
}

/* ---- Plugins --------------------------------------------------------------------------------- */

/* The NAME of libgreta-NAME.so; false: it is no such file. */
static int name_of_file(const char *file, char name[16])
{
    size_t n = strlen(file), extra = strlen(prefix) + strlen(suffix);
    if (n <= extra || strncmp(file, prefix, strlen(prefix)) != 0 ||
        strcmp(file + n - strlen(suffix), suffix) != 0) {
        return 0;
    }
    size_t length = n - extra;
    if (name_length(file + strlen(prefix)) != length) {
        return 0;
    }
    memcpy(name, file + strlen(prefix), length);
    name[length] = '\0';
    return 1;
}

static int place_order(const void *a, const void *b)
{
    return strcmp(((const plugin_place *)a)->name, ((const plugin_place *)b)->name);
}

static void folder_list(const char *folder, plugin_place *list, size_t *n)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && *n < PLUGINS_MAX && (e = readdir(dir));) {
        plugin_place *p = &list[*n];
        int is_new = name_of_file(e->d_name, p->name);
        for (size_t i = 0; i < *n && is_new; i++) {
            is_new = strcmp(list[i].name, p->name) != 0;
        }
        int bytes = snprintf(p->path, sizeof p->path, "%s/%s", folder, e->d_name);
        *n += is_new && bytes > 0 && (size_t)bytes < sizeof p->path ? 1 : 0;
    }
    if (dir) {
        closedir(dir);
    }
}

greta_status plugin_list(const char *folder, plugin_place **list, size_t *n, greta_error *err)
{
    plugin_folders *f = NULL;
    *n = 0;
    *list = calloc(PLUGINS_MAX, sizeof **list);
    greta_status status = *list ? plugin_folders_find(folder, &f, err)
                                : error_memory(err, "the plugins", PLUGINS_MAX * sizeof **list);
    for (size_t i = 0; status == GRETA_OK && i < f->n; i++) {
        folder_list(f->path[i], *list, n);
    }
    free(f);
    if (status != GRETA_OK) {
        free(*list);
        *list = NULL;
        return status;
    }
    qsort(*list, *n, sizeof **list, place_order);
    return GRETA_OK;
}

static greta_status plugin_none(const char *name, const plugin_place *list, size_t n,
                                greta_error *err)
{
    text t = {0};
    char *names = NULL;
    for (size_t i = 0; i < n; i++) {
        text_format(&t, "%s%s", i == 0 ? "" : ", ", list[i].name);
    }
    GRETA_TRY(text_take(&t, &names, err));
    error_hint(err, "greta doctor says where plugins are looked for");
    error_about(err, GRETA_IO, name, "there is no plugin %s%s%s (here: %s)", prefix, name, suffix,
                n == 0 ? "none" : names);
    free(names);
    return GRETA_IO;
}

/* Versions stand first in every version of the table. */
static greta_status plugin_check(const gpu_plugin *plugin, const char *name, greta_error *err)
{
    if (plugin->version != GPU_PLUGIN_VERSION) {
        return error_about(err, GRETA_IO, name,
                           "the plugin has interface %" PRId32 " (this greta has %d)",
                           plugin->version, GPU_PLUGIN_VERSION);
    }
    if (plugin->arithmetic != ARITHMETIC_VERSION) {
        return error_about(err, GRETA_IO, name,
                           "the plugin computes arithmetic %" PRId32 " (this greta %d)",
                           plugin->arithmetic, ARITHMETIC_VERSION);
    }
    if (strcmp(plugin->name, name) != 0) {
        return error_about(err, GRETA_IO, name, "the plugin of this name is another one");
    }
    return GRETA_OK;
}

static greta_status plugin_open(const plugin_place *place, const gpu_plugin **plugin,
                                greta_error *err)
{
    void *library = dlopen(place->path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
        const char *why = dlerror();
        char shown[ESCAPED_MAX];
        return error_about(err, GRETA_IO, place->name, "the plugin does not load: %s",
                           escape(why ? why : "", why ? strlen(why) : 0, shown));
    }
    gpu_plugin_function *entry;
    void *symbol = dlsym(library, GPU_PLUGIN_SYMBOL);
    memcpy(&entry, &symbol, sizeof entry); /* what POSIX wants of functions from dlsym */
    const gpu_plugin *found = symbol ? entry() : NULL;
    greta_status status =
        found ? plugin_check(found, place->name, err)
              : error_about(err, GRETA_IO, place->name, "the plugin has no " GPU_PLUGIN_SYMBOL);
    dlclose(library); /* stays loaded */
    *plugin = status == GRETA_OK ? found : NULL;
    return status;
}

greta_status plugin_load(const char *name, const char *folder, const gpu_plugin **plugin,
                         greta_error *err)
{
    plugin_place *list = NULL;
    size_t n = 0, at = 0;
    *plugin = NULL;
    GRETA_TRY(plugin_list(folder, &list, &n, err));
    while (at < n && strcmp(list[at].name, name) != 0) {
        at++;
    }
    greta_status status =
        at < n ? plugin_open(&list[at], plugin, err) : plugin_none(name, list, n, err);
    free(list);
    return status;
}

/* ---- Errors ---------------------------------------------------------------------------------- */

greta_status device_error(const device_spec *spec, gpu_status status, const char *why,
                          greta_error *err)
{
    static const char *const what[] = {
        [GPU_OK] = "?",
        [GPU_NO_DEVICE] = "there is no such device",
        [GPU_NO_DRIVER] = "the driver is absent or too old",
        [GPU_NO_MEMORY] = "the device has too little memory",
        [GPU_FAILED] = "the device failed",
    };
    char name[DEVICE_NAME_MAX + 8], shown[ESCAPED_MAX];
    snprintf(name, sizeof name, "%s:%" PRId32, spec->plugin, spec->number);
    int is_known = (unsigned)status < sizeof what / sizeof *what;
    return error_about(err, GRETA_IO, name, "%s%s%s%s", what[is_known ? status : GPU_FAILED],
                       why[0] ? " (" : "", escape(why, strlen(why), shown), why[0] ? ")" : "");
}
