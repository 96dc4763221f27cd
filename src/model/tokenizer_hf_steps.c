/* tokenizer_hf_steps.c - normalizer, pre_tokenizer, decoder and post_processor of a tokenizer.json.
 *
 * Each is an object with a "type", or a Sequence of such objects, which are taken apart into one
 * list (to a fixed depth: a file must not drive recursion). What is not known is refused by its
 * name with the list of what is; what is known is what the `tokenizers` library makes of it.
 *
 * Decoders: the library lets any follow any. Ours are the two shapes in use: ByteLevel or Metaspace
 * alone, or Replace(U+2581 by a space), ByteFallback, Fuse, Strip in this order, each at most once.
 * All of it can be done to single tokens at load, but for the space at the start (decode_start).
 */
#include "model/tokenizer_hf.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

#define NORMALIZERS                                                                                \
    "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, Precompiled, Sequence"
#define PRE_TOKENIZERS  "ByteLevel, Split, Digits, Metaspace, Sequence"
#define DECODERS        "ByteLevel, Metaspace, Sequence of Replace, ByteFallback, Fuse, Strip"
#define POST_PROCESSORS "TemplateProcessing, ByteLevel, Sequence"

/* ---- Members --------------------------------------------------------------------------------- */

const char *hf_text(const json_t *object, const char *name, size_t *bytes)
{
    const json_t *value = json_object_get(object, name);
    *bytes = json_string_length(value);
    return json_string_value(value);
}

greta_status hf_bool(hf *h, const json_t *object, const char *name, bool absent, bool *value)
{
    const json_t *found = json_object_get(object, name);
    *value = found == NULL || json_is_null(found) ? absent : json_is_true(found);
    return found == NULL || json_is_null(found) || json_is_boolean(found)
               ? GRETA_OK
               : error_set(h->err, GRETA_BAD_INPUT, "\"%s\" is not true or false", name);
}

greta_status hf_refuse(hf *h, const char *what, const char *type, const char *supported)
{
    char shown[ESCAPED_MAX];
    return error_set(h->err, GRETA_BAD_INPUT, "%s \"%s\" is not supported (%s)", what,
                     type == NULL ? "?" : escape(type, strlen(type), shown), supported);
}

static bool is(const char *type, const char *name)
{
    return type != NULL && strcmp(type, name) == 0;
}

/* A member that must be a string of at least `least` bytes. */
static greta_status needed_text(hf *h, const json_t *object, const char *name, size_t least,
                                const char **value, size_t *bytes)
{
    *value = hf_text(object, name, bytes);
    return *value != NULL && *bytes >= least
               ? GRETA_OK
               : error_set(h->err, GRETA_BAD_INPUT, "\"%s\" is not a string%s", name,
                           least > 0 ? " with text in it" : "");
}

typedef greta_status step_read(hf *h, const json_t *object, const char *type);

/* Calls `read` for the object, or for all members of a Sequence; `members` is what the list is
 * called there. */
static greta_status steps_read(hf *h, const json_t *object, const char *what, const char *members,
                               step_read *read)
{
    struct {
        const json_t *list;
        size_t i;
    } open[LIMIT_TOKENIZER_DEPTH];
    size_t depth = 0;
    const json_t *next = object;
    for (;;) {
        const char *type = json_string_value(json_object_get(next, "type"));
        const json_t *list = json_object_get(next, members);
        if (is(type, "Sequence") && json_is_array(list)) {
            if (depth == LIMIT_TOKENIZER_DEPTH) {
                return error_set(h->err, GRETA_BAD_INPUT, "%s: Sequences nested that deep", what);
            }
            open[depth].list = list;
            open[depth++].i = 0;
        } else {
            GRETA_TRY(read(h, next, type));
        }
        while (depth > 0 && open[depth - 1].i == json_array_size(open[depth - 1].list)) {
            depth--;
        }
        if (depth == 0) {
            return GRETA_OK;
        }
        next = json_array_get(open[depth - 1].list, open[depth - 1].i++);
    }
}

static greta_status steps_of_root(hf *h, const char *what, const char *members, step_read *read)
{
    const json_t *object = json_object_get(h->root, what);
    greta_status status = object == NULL || json_is_null(object)
                              ? GRETA_OK
                              : steps_read(h, object, what, members, read);
    if (status != GRETA_OK) {
        error_subject(h->err, "%s", what);
    }
    return status;
}

/* {"String": ".."} or {"Regex": ".."} */
static greta_status pattern_read(hf *h, const json_t *object, regex **pattern)
{
    const json_t *given = json_object_get(object, "pattern");
    size_t bytes = 0;
    const char *literal = hf_text(given, "String", &bytes);
    if (literal != NULL) {
        return regex_literal(literal, bytes, pattern, h->err);
    }
    GRETA_TRY(needed_text(h, given, "Regex", 1, &literal, &bytes));
    return regex_new(literal, bytes, pattern, h->err);
}

/* ---- Normalizer ------------------------------------------------------------------------------ */

static int base64_value(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

static greta_status charsmap_read(hf *h, const json_t *object, charsmap **map)
{
    size_t bytes = 0, n = 0;
    const char *given = NULL;
    uint32_t held = 0;
    GRETA_TRY(needed_text(h, object, "precompiled_charsmap", 1, &given, &bytes));
    uint8_t *data = malloc(bytes);
    if (data == NULL) {
        return error_memory(h->err, "the precompiled charsmap", bytes);
    }
    while (bytes > 0 && given[bytes - 1] == '=') {
        bytes--;
    }
    size_t i = 0;
    for (; i < bytes && base64_value(given[i]) >= 0; i++) {
        held = held << 6 | (uint32_t)base64_value(given[i]);
        if (i % 4 != 0) {
            data[n++] = (uint8_t)(held >> (6 - 2 * (i % 4)));
        }
    }
    greta_status status =
        i == bytes ? charsmap_new(data, n, map, h->err)
                   : error_set(h->err, GRETA_BAD_INPUT, "precompiled_charsmap is not base64");
    free(data);
    return status;
}

static greta_status with_read(hf *h, const json_t *object, const char *name, normalize_step *step)
{
    const char *with = NULL;
    GRETA_TRY(needed_text(h, object, name, 0, &with, &step->with_bytes));
    step->with = malloc(step->with_bytes + 1);
    if (step->with == NULL) {
        return error_memory(h->err, "the normalizer", step->with_bytes);
    }
    memcpy(step->with, with, step->with_bytes);
    return GRETA_OK;
}

static greta_status normalizer_fill(hf *h, const json_t *object, const char *type,
                                    normalize_step *step)
{
    static const char *const plain[] = {
        [NORMALIZE_NFC] = "NFC",
        [NORMALIZE_NFD] = "NFD",
        [NORMALIZE_NFKC] = "NFKC",
        [NORMALIZE_NFKD] = "NFKD",
        [NORMALIZE_LOWERCASE] = "Lowercase",
    };
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (is(type, plain[i])) {
            step->kind = (normalize_kind)i;
            return GRETA_OK;
        }
    }
    if (is(type, "Prepend")) {
        step->kind = NORMALIZE_PREPEND;
        return with_read(h, object, "prepend", step);
    }
    if (is(type, "Replace")) {
        step->kind = NORMALIZE_REPLACE;
        GRETA_TRY(with_read(h, object, "content", step));
        return pattern_read(h, object, &step->pattern);
    }
    if (is(type, "Strip")) {
        step->kind = NORMALIZE_STRIP;
        GRETA_TRY(hf_bool(h, object, "strip_left", true, &step->strips_left));
        return hf_bool(h, object, "strip_right", true, &step->strips_right);
    }
    if (is(type, "Precompiled")) {
        step->kind = NORMALIZE_MAP;
        return charsmap_read(h, object, &step->map);
    }
    return hf_refuse(h, "normalizer", type, NORMALIZERS);
}

static greta_status normalizer_read(hf *h, const json_t *object, const char *type)
{
    normalize_step step = {0};
    greta_status status = h->t->norm == NULL ? normalizer_new(&h->t->norm, h->err) : GRETA_OK;
    if (status == GRETA_OK) {
        status = normalizer_fill(h, object, type, &step);
    }
    if (status != GRETA_OK) {
        regex_free(step.pattern);
        free(step.with);
        charsmap_free(step.map);
        return status;
    }
    return normalizer_add(h->t->norm, step, h->err);
}

greta_status hf_read_normalizer(hf *h)
{
    return steps_of_root(h, "normalizer", "normalizers", normalizer_read);
}

/* ---- Pre-tokenizer --------------------------------------------------------------------------- */

static greta_status split_read(hf *h, const json_t *object, pretokenize_step *step)
{
    static const char *const names[] = {
        [SPLIT_REMOVED] = "Removed",
        [SPLIT_ISOLATED] = "Isolated",
        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const char *behavior = json_string_value(json_object_get(object, "behavior"));
    size_t i = 0, n = sizeof names / sizeof names[0];
    while (i < n && !is(behavior, names[i])) {
        i++;
    }
    if (i == n) {
        return hf_refuse(h, "behavior", behavior,
                         "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
    }
    step->behavior = (split_behavior)i;
    GRETA_TRY(hf_bool(h, object, "invert", false, &step->is_inverted));
    return pattern_read(h, object, &step->pattern);
}

static greta_status metaspace_read(hf *h, const json_t *object, pretokenize_step *step)
{
    size_t bytes = 0;
    bool splits = true, adds_prefix = true;
    const char *mark = hf_text(object, "replacement", &bytes);
    const char *scheme = json_string_value(json_object_get(object, "prepend_scheme"));
    if (mark == NULL || bytes != SPACE_MARK_BYTES || memcmp(mark, SPACE_MARK, bytes) != 0) {
        return hf_refuse(h, "replacement", mark, "U+2581");
    }
    GRETA_TRY(hf_bool(h, object, "split", true, &splits));
    GRETA_TRY(hf_bool(h, object, "add_prefix_space", true, &adds_prefix)); /* as older files say */
    if (scheme != NULL && !is(scheme, "always") && !is(scheme, "first") && !is(scheme, "never")) {
        return hf_refuse(h, "prepend_scheme", scheme, "always, first, never");
    }
    step->marks_spaces = true;
    step->prepend = scheme == NULL        ? adds_prefix ? PREPEND_ALWAYS : PREPEND_NEVER
                    : is(scheme, "never") ? PREPEND_NEVER
                    : is(scheme, "first") ? PREPEND_FIRST
                                          : PREPEND_ALWAYS;
    step->behavior = SPLIT_MERGED_WITH_NEXT;
    return splits ? regex_literal(SPACE_MARK, SPACE_MARK_BYTES, &step->pattern, h->err) : GRETA_OK;
}

static greta_status byte_level_read(hf *h, const json_t *object, pretokenize_step *step)
{
    bool adds_prefix = true, uses_pattern = true;
    GRETA_TRY(hf_bool(h, object, "add_prefix_space", true, &adds_prefix));
    GRETA_TRY(hf_bool(h, object, "use_regex", true, &uses_pattern));
    h->t->is_byte_level = true;
    step->prepend = adds_prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    step->behavior = SPLIT_ISOLATED;
    return uses_pattern
               ? regex_new(pretokenize_gpt2, strlen(pretokenize_gpt2), &step->pattern, h->err)
               : GRETA_OK;
}

static greta_status digits_read(hf *h, const json_t *object, pretokenize_step *step)
{
    bool individual = false;
    GRETA_TRY(hf_bool(h, object, "individual_digits", false, &individual));
    step->behavior = SPLIT_ISOLATED;
    return regex_new(individual ? "\\p{N}" : "\\p{N}+", individual ? 5 : 6, &step->pattern, h->err);
}

static greta_status pre_tokenizer_read(hf *h, const json_t *object, const char *type)
{
    pretokenize_step step = {0};
    if (h->t->is_byte_level) {
        return error_set(h->err, GRETA_BAD_INPUT, "ByteLevel is not the last of the sequence");
    }
    if (h->t->pre == NULL) {
        GRETA_TRY(pretokenizer_new(&h->t->pre, h->err));
    }
    greta_status status = is(type, "Split")       ? split_read(h, object, &step)
                          : is(type, "ByteLevel") ? byte_level_read(h, object, &step)
                          : is(type, "Metaspace") ? metaspace_read(h, object, &step)
                          : is(type, "Digits")
                              ? digits_read(h, object, &step)
                              : hf_refuse(h, "pre_tokenizer", type, PRE_TOKENIZERS);
    return status != GRETA_OK ? status : pretokenizer_add(h->t->pre, step, h->err);
}

greta_status hf_read_pre_tokenizer(hf *h)
{
    return steps_of_root(h, "pre_tokenizer", "pretokenizers", pre_tokenizer_read);
}

/* ---- Decoder --------------------------------------------------------------------------------- */

static greta_status strip_read(hf *h, const json_t *object)
{
    const json_t *start = json_object_get(object, "start"), *stop = json_object_get(object, "stop");
    json_int_t n = json_integer_value(start);
    bool is_space = is(json_string_value(json_object_get(object, "content")), " ");
    if (!is_space || !json_is_integer(start) || n < 0 || n > 1000 ||
        json_integer_value(stop) != 0) {
        return error_set(h->err, GRETA_BAD_INPUT,
                         "Strip is not of spaces at the start (content \" \", stop 0)");
    }
    h->t->start = DECODE_STRIP;
    h->t->n_strip = (uint32_t)n;
    return GRETA_OK;
}

static greta_status decoder_read(hf *h, const json_t *object, const char *type)
{
    tokenizer *t = h->t;
    static const char *const order[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    if (h->decodes_byte_level || t->start == DECODE_FIRST_TOKEN || t->start == DECODE_STRIP) {
        return error_set(h->err, GRETA_BAD_INPUT, "a decoder behind the last one (%s)", DECODERS);
    }
    if (is(type, "Fuse")) {
        return GRETA_OK; /* Tokens are put together anyway. */
    }
    if (is(type, order[0])) {
        size_t bytes = 0, with_bytes = 0;
        const char *mark = hf_text(json_object_get(object, "pattern"), "String", &bytes);
        const char *with = hf_text(object, "content", &with_bytes);
        if (!is(mark, SPACE_MARK) || !is(with, " ") || h->decodes_bytes) {
            return error_set(h->err, GRETA_BAD_INPUT, "Replace is not of U+2581 by a space, first");
        }
        h->decodes_marks = true;
        return GRETA_OK;
    }
    if (is(type, order[1])) {
        h->decodes_bytes = true;
        return GRETA_OK;
    }
    if (is(type, order[3])) {
        return strip_read(h, object);
    }
    if (is(type, "ByteLevel") && !h->decodes_marks && !h->decodes_bytes) {
        h->decodes_byte_level = true;
        return GRETA_OK;
    }
    if (is(type, "Metaspace")) {
        pretokenize_step step = {0};
        greta_status status = metaspace_read(h, object, &step);
        regex_free(step.pattern);
        h->decodes_marks = true;
        t->start = step.prepend == PREPEND_NEVER ? DECODE_AS_IT_IS : DECODE_FIRST_TOKEN;
        return status;
    }
    return hf_refuse(h, "decoder", type, DECODERS);
}

greta_status hf_read_decoder(hf *h)
{
    const json_t *decoder = json_object_get(h->root, "decoder");
    if (decoder == NULL || json_is_null(decoder)) {
        return error_set(h->err, GRETA_BAD_INPUT, "there is no decoder (" DECODERS ")");
    }
    GRETA_TRY(steps_of_root(h, "decoder", "decoders", decoder_read));
    return h->decodes_byte_level == h->t->is_byte_level
               ? GRETA_OK
               : error_set(h->err, GRETA_BAD_INPUT,
                           "the pre_tokenizer is %sByteLevel, the decoder is %s",
                           h->t->is_byte_level ? "" : "not ", h->t->is_byte_level ? "not" : "it");
}

/* ---- Post-processor -------------------------------------------------------------------------- */

/* The ids of a special token of the template, put around the text. */
static greta_status special_add(hf *h, const json_t *object, const char *name, bool is_behind)
{
    tokenizer *t = h->t;
    const json_t *all = json_object_get(object, "special_tokens");
    const json_t *ids = name == NULL ? NULL : json_object_get(json_object_get(all, name), "ids");
    if (!json_is_array(ids)) {
        return hf_refuse(h, "special token", name, "those of special_tokens");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        int *n = is_behind ? &t->n_end : &t->n_begin;
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= t->n_vocab) {
            return error_set(h->err, GRETA_BAD_INPUT, "an id is outside the vocabulary of %d",
                             t->n_vocab);
        }
        if (*n == ENDS_MAX) {
            return error_set(h->err, GRETA_BAD_INPUT, "more than %d special tokens around a text",
                             ENDS_MAX);
        }
        (is_behind ? t->end : t->begin)[(*n)++] = (int32_t)id;
    }
    return GRETA_OK;
}

static greta_status post_processor_read(hf *h, const json_t *object, const char *type)
{
    const json_t *single = json_object_get(object, "single");
    size_t n_sequence = 0;
    if (is(type, "ByteLevel")) {
        return GRETA_OK; /* It changes offsets only. */
    }
    if (!is(type, "TemplateProcessing")) {
        return hf_refuse(h, "post_processor", type, POST_PROCESSORS);
    }
    if (!json_is_array(single) || h->t->n_begin > 0 || h->t->n_end > 0) {
        return error_set(h->err, GRETA_BAD_INPUT, "no template \"single\", or a second one");
    }
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence") != NULL) {
            n_sequence++;
            continue;
        }
        GRETA_TRY(special_add(h, object, json_string_value(json_object_get(special, "id")),
                              n_sequence > 0));
    }
    return n_sequence == 1 ? GRETA_OK
                           : error_set(h->err, GRETA_BAD_INPUT,
                                       "the template \"single\" has not the text once");
}

greta_status hf_read_post_processor(hf *h)
{
    return steps_of_root(h, "post_processor", "processors", post_processor_read);
}
