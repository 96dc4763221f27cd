/* json_strict.h - JSON from files: jansson behind limits, without a second meaning. */
#ifndef GRETA_BASE_JSON_STRICT_H
#define GRETA_BASE_JSON_STRICT_H

#include "base/error.h"

#include <jansson.h>

/* Parses one JSON object. Refused as GRETA_BAD_INPUT at the byte `offset` of its start: what is not
 * JSON or not an object, bytes behind it that are not blanks, a name that stands twice in an
 * object, text that is not UTF-8 or holds a NUL, more than LIMIT_JSON_FILE_DEPTH levels, more than
 * n_value_max values. `what` names it in messages: "header". The result is the caller's. */
typedef struct json_source {
    const char *bytes;
    size_t n;
    uint64_t offset, n_value_max;
    const char *what;
} json_source;
greta_status json_strict(const json_source *source, json_t **out, greta_error *err);

#endif
