/* stage.c - names of the stages, from the one list in stage.h. */
#include "base/stage.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    int per_layer;
} stages[STAGE_COUNT] = {
#define STAGE_ROW(id, name, per_layer) [STAGE_##id] = {name, per_layer},
    STAGE_LIST(STAGE_ROW)
#undef STAGE_ROW
};

/* STAGE_COUNT and above, or below 0 where the enum is signed: no stage. */
static int is_stage(stage s)
{
    return (unsigned)s < (unsigned)STAGE_COUNT;
}

const char *stage_name(stage s)
{
    return is_stage(s) ? stages[s].name : "?";
}

stage stage_find(const char *name)
{
    for (int i = 0; i < STAGE_COUNT; i++) {
        if (strcmp(stages[i].name, name) == 0) {
            return (stage)i;
        }
    }
    return STAGE_NONE;
}

int stage_is_per_layer(stage s)
{
    return is_stage(s) && stages[s].per_layer;
}
