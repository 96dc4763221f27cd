/* json_strict.c - JSON from files that nobody vouches for.
 *
 * jansson (RFC 8259) does the parsing. Before it sees a byte, one pass over the text counts levels
 * and values: memory then stays below n_value_max times what a value takes, and the stack below
 * what LIMIT_JSON_FILE_DEPTH levels take, whatever the file says. The pass knows strings and
 * nothing else; what it miscounts in text that is not JSON is refused a moment later.
 *
 * A name that stands twice is refused: readers differ in which of the two they believe, and a model
 * that two programs read differently is the kind of fault this program looks for.
 */
#include "base/json_strict.h"

#include "base/limits.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct extent {
    uint64_t n_value, depth_max;
} extent;

/* Every value but the first stands behind a bracket, a colon or a comma. */
static extent extent_of(const char *bytes, size_t n)
{
    extent seen = {1, 0};
    uint64_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (in_string) {
            in_string = c != '"';
            i += c == '\\';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
            seen.n_value++;
            seen.depth_max = depth > seen.depth_max ? depth : seen.depth_max;
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c == ',' || c == ':') {
            seen.n_value++;
        }
    }
    return seen;
}

/* "duplicate object key near '"w"'" -> "\"w\" appears twice"; other texts as they are. */
static greta_status fail_parse(const json_source *source, const json_error_t *why, greta_error *err)
{
    char shown[ESCAPED_MAX];
    const char *near = strstr(why->text, "near '");
    size_t n = near != NULL ? strlen(near) : 0;
    uint64_t place = source->offset + (why->position > 0 ? (uint64_t)why->position : 0);
    if (json_error_code(why) == json_error_duplicate_key && n > 7) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, place, "%s: %s appears twice",
                        source->what, escape(near + 6, n - 7, shown));
    }
    return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, place, "%s is not JSON (%s)",
                    source->what, escape(why->text, strlen(why->text), shown));
}

/* Whether it was memory that ended the parse. jansson says so at some places only; at others it
 * takes what it could not store for a fault of the text. */
static bool no_memory(const json_error_t *why, size_t n)
{
    void *probe = malloc(n + 65536);
    bool is_out =
        probe == NULL || json_error_code(why) == json_error_out_of_memory || why->text[0] == '\0';
    free(probe);
    return is_out;
}

greta_status json_strict(const json_source *source, json_t **out, greta_error *err)
{
    json_error_t why;
    extent seen = extent_of(source->bytes, source->n);
    *out = NULL;
    if (seen.depth_max > LIMIT_JSON_FILE_DEPTH) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, source->offset,
                        "%s is nested %" PRIu64 " levels deep (at most %u)", source->what,
                        seen.depth_max, LIMIT_JSON_FILE_DEPTH);
    }
    if (seen.n_value > source->n_value_max) {
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, source->offset,
                        "%s holds some %" PRIu64 " values (at most %" PRIu64 ")", source->what,
                        seen.n_value, source->n_value_max);
    }
    json_t *root = json_loadb(source->bytes, source->n, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        return no_memory(&why, source->n) ? error_memory(err, source->what, source->n)
                                          : fail_parse(source, &why, err);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return error_at(err, GRETA_BAD_INPUT, GRETA_PLACE_BYTE, source->offset,
                        "%s is not a JSON object", source->what);
    }
    *out = root;
    return GRETA_OK;
}
