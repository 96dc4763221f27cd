/* prompts.h - a set of prompts: every *.txt of a folder, named by its file and in byte order of the
 * names, and single ones.
 */
#ifndef GRETA_CLI_PROMPTS_H
#define GRETA_CLI_PROMPTS_H

#include "common.h"

typedef struct prompt_list {
    greta_prompt *prompt; /* ids and tokens are owned */
    size_t n;
} prompt_list;

/* `args` says text, file or tokens, and how they become ids. */
greta_status prompts_add(prompt_list *list, const greta_model *model, const char *id,
                         const prompt_args *args, greta_error *err);
/* `args` says how text becomes ids; a folder without prompts is refused. */
greta_status prompts_add_folder(prompt_list *list, const greta_model *model, const char *folder,
                                const prompt_args *args, greta_error *err);
void prompts_free(prompt_list *list);

#endif
