/* causes.c - names of the causes, from the one list in causes.h. */
#include "base/causes.h"

#include <string.h>

static const char *const cause_names[CAUSE_COUNT] = {
#define CAUSE_NAME(id, name) name,
    CAUSE_LIST(CAUSE_NAME)
#undef CAUSE_NAME
};

const char *cause_name(cause c)
{
    return (unsigned)c < CAUSE_COUNT ? cause_names[c] : "?";
}

cause cause_find(const char *name)
{
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        if (strcmp(name, cause_names[i]) == 0) {
            return (cause)i;
        }
    }
    return CAUSE_COUNT;
}
