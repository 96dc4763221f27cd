/* prompts.c - see prompts.h. */
#include "prompts.h"

#include "output.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

greta_status prompts_add(prompt_list *list, const greta_model *model, const char *id,
                         const prompt_args *args, greta_error *err)
{
    prompt_text text;
    greta_prompt *grown = realloc(list->prompt, (list->n + 1) * sizeof *grown);
    char *name = text_new("%s", id);
    list->prompt = grown ? grown : list->prompt;
    greta_status status = grown && name ? prompt_load(model, args, &text, err) : fail_memory(err);
    if (status) {
        free(name);
        return status;
    }
    list->prompt[list->n++] = (greta_prompt){name, text.tokens.id, text.tokens.n};
    return GRETA_OK;
}

void prompts_free(prompt_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free((void *)list->prompt[i].id);
        greta_free((void *)list->prompt[i].token);
    }
    free(list->prompt);
}

static int is_text(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && entry->d_name[0] != '.' && strcmp(entry->d_name + n - 4, ".txt") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

greta_status prompts_add_folder(prompt_list *list, const greta_model *model, const char *folder,
                                const prompt_args *args, greta_error *err)
{
    struct dirent **entry = NULL;
    char q[QUOTED_MAX];
    quoted(folder, strlen(folder), q);
    int n = scandir(folder, &entry, is_text, by_name);
    greta_status status = n < 0    ? fail_errno(err, "cannot read the prompts of %s", q)
                          : n == 0 ? fail(err, GRETA_BAD_INPUT, "%s has no *.txt", q)
                                   : GRETA_OK;
    for (int i = 0; i < n; i++) {
        prompt_args prompt = *args;
        char *path = text_new("%s/%s", folder, entry[i]->d_name);
        prompt.file = path;
        entry[i]->d_name[strlen(entry[i]->d_name) - 4] = '\0';
        if (!status) {
            status =
                path ? prompts_add(list, model, entry[i]->d_name, &prompt, err) : fail_memory(err);
        }
        free(path);
        free(entry[i]);
    }
    free(entry);
    return status;
}
