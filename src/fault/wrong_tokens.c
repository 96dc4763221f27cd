/* wrong_tokens.c - prompts that are fed wrongly: one token twice, one missing. */
#include "fault/wrong_tokens.h"

#include <stdlib.h>
#include <string.h>

static greta_status tokens_new(size_t n, fault_tokens *out, greta_error *err)
{
    *out = (fault_tokens){malloc((n ? n : 1) * sizeof *out->id), n};
    return out->id ? GRETA_OK : error_memory(err, "tokens", n * sizeof *out->id);
}

greta_status tokens_first_twice(const int32_t *id, size_t n, fault_tokens *out, greta_error *err)
{
    if (n < 1) {
        return error_set(err, GRETA_USAGE, "there is no first token");
    }
    GRETA_TRY(tokens_new(n + 1, out, err));
    out->id[0] = id[0];
    memcpy(out->id + 1, id, n * sizeof *id);
    return GRETA_OK;
}

static greta_status tokens_without(const int32_t *id, size_t n, size_t at, fault_tokens *out,
                                   greta_error *err)
{
    if (n < 2) {
        return error_set(err, GRETA_USAGE, "%zu tokens (2 or more)", n);
    }
    GRETA_TRY(tokens_new(n - 1, out, err));
    memcpy(out->id, id, at * sizeof *id);
    memcpy(out->id + at, id + at + 1, (n - 1 - at) * sizeof *id);
    return GRETA_OK;
}

greta_status tokens_first_missing(const int32_t *id, size_t n, fault_tokens *out, greta_error *err)
{
    return tokens_without(id, n, 0, out, err);
}

greta_status tokens_middle_missing(const int32_t *id, size_t n, fault_tokens *out, greta_error *err)
{
    return tokens_without(id, n, n / 2, out, err);
}

greta_status tokens_swapped(const int32_t *id, size_t n, fault_tokens *out, greta_error *err)
{
    if (n < 2) {
        return error_set(err, GRETA_USAGE, "%zu tokens (2 or more)", n);
    }
    GRETA_TRY(tokens_new(n, out, err));
    memcpy(out->id, id, n * sizeof *id);
    size_t at = (n - 1) / 2;
    out->id[at] = id[at + 1];
    out->id[at + 1] = id[at];
    return GRETA_OK;
}
