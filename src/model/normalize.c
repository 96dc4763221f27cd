/* normalize.c - the normalizers of a tokenizer.json, one after another.
 *
 * NFC and its kin are made in three passes, each linear: every character is decomposed by
 * utf8proc's tables, each run of combining marks is sorted by its class with a counting sort, and
 * utf8proc composes what is now in order. Its own one-pass function sorts by swapping neighbours,
 * which a megabyte of marks in the wrong order turns into hours.
 *
 * A text of ASCII is its own normal form, and most are: they go through without a copy. Tables are
 * those of utf8proc; the `tokenizers` library's agree on characters that both know.
 */
#include "model/normalize.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define DECOMPOSED_MAX 32 /* U+FDFA becomes 18 characters */
#define CLASSES        256

struct normalizer {
    normalize_step step[LIMIT_TOKENIZER_STEPS];
    size_t n_step;
};

/* ---- Making one ------------------------------------------------------------------------------ */

greta_status normalizer_new(normalizer **out, greta_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out == NULL ? error_memory(err, "the normalizer", sizeof **out) : GRETA_OK;
}

static void step_free(normalize_step *step)
{
    regex_free(step->pattern);
    free(step->with);
    charsmap_free(step->map);
}

greta_status normalizer_add(normalizer *n, normalize_step step, greta_error *err)
{
    if (n->n_step == LIMIT_TOKENIZER_STEPS) {
        step_free(&step);
        return error_set(err, GRETA_BAD_INPUT, "more than %u normalizers in a row",
                         LIMIT_TOKENIZER_STEPS);
    }
    n->step[n->n_step++] = step;
    return GRETA_OK;
}

void normalizer_free(normalizer *n)
{
    for (size_t i = 0; n != NULL && i < n->n_step; i++) {
        step_free(&n->step[i]);
    }
    free(n);
}

void normalize_scratch_free(normalize_scratch *scratch)
{
    text_free(&scratch->side[0]);
    text_free(&scratch->side[1]);
    free(scratch->code);
    regex_scan_free(scratch->scan);
}

/* ---- Normal forms ---------------------------------------------------------------------------- */

static bool is_ascii(const char *s, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && (unsigned char)s[i] < 0x80) {
        i++;
    }
    return i == bytes;
}

static int class_of(int32_t code)
{
    return utf8proc_get_property(code)->combining_class & (CLASSES - 1);
}

/* Sorts a run of combining marks by class, equals in their order. `spare` has room for it. */
static void marks_sort(int32_t *code, size_t n, int32_t *spare)
{
    size_t start[CLASSES + 1] = {0};
    for (size_t i = 0; i < n; i++) {
        start[class_of(code[i]) + 1]++;
    }
    for (size_t i = 1; i <= CLASSES; i++) {
        start[i] += start[i - 1];
    }
    for (size_t i = 0; i < n; i++) {
        spare[start[class_of(code[i])]++] = code[i];
    }
    memcpy(code, spare, n * sizeof *code);
}

static void marks_order(int32_t *code, size_t n, int32_t *spare)
{
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        bool is_sorted = true;
        while (i + run < n && class_of(code[i + run]) != 0) {
            is_sorted =
                is_sorted && (run == 0 || class_of(code[i + run - 1]) <= class_of(code[i + run]));
            run++;
        }
        if (!is_sorted) {
            marks_sort(code + i, run, spare);
        }
        i += run + (run == 0);
    }
}

static greta_status codes_reserve(normalize_scratch *s, size_t n, greta_error *err)
{
    if (n > s->capacity) {
        size_t capacity = n < 4096 ? 4096 : n + n / 2;
        int32_t *grown = realloc(s->code, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_memory(err, "the normalizer", capacity * sizeof *grown);
        }
        s->code = grown;
        s->capacity = capacity;
    }
    return GRETA_OK;
}

static greta_status normal_form(normalize_kind kind, normalize_scratch *s, const char *in,
                                size_t bytes, text *out, greta_error *err)
{
    bool composes = kind == NORMALIZE_NFC || kind == NORMALIZE_NFKC;
    bool is_compatible = kind == NORMALIZE_NFKC || kind == NORMALIZE_NFKD;
    utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    how = is_compatible ? how | UTF8PROC_COMPAT : how;
    size_t n = 0;
    for (size_t at = 0; at < bytes;) {
        int32_t code = 0;
        int boundary = 0;
        at += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)in + at,
                                       (utf8proc_ssize_t)(bytes - at), &code);
        GRETA_TRY(codes_reserve(s, n + DECOMPOSED_MAX, err));
        utf8proc_ssize_t made =
            utf8proc_decompose_char(code, s->code + n, DECOMPOSED_MAX, how, &boundary);
        GRETA_ASSERT(made >= 0 && made <= DECOMPOSED_MAX);
        n += (size_t)made;
    }
    GRETA_TRY(codes_reserve(s, 2 * n + DECOMPOSED_MAX, err));
    marks_order(s->code, n, s->code + n);
    if (composes) {
        utf8proc_ssize_t made = utf8proc_normalize_utf32(s->code, (utf8proc_ssize_t)n,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        GRETA_ASSERT(made >= 0);
        n = (size_t)made;
    }
    for (size_t i = 0; i < n; i++) {
        utf8proc_uint8_t encoded[4];
        utf8proc_ssize_t length = utf8proc_encode_char(s->code[i], encoded);
        text_append(out, (const char *)encoded, (size_t)length);
    }
    return GRETA_OK;
}

/* Rust's char::to_lowercase: one character each, but U+0130, which becomes two. */
static void lowercase(const char *in, size_t bytes, text *out)
{
    for (size_t at = 0; at < bytes;) {
        int32_t code = 0;
        utf8proc_uint8_t encoded[4];
        at += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)in + at,
                                       (utf8proc_ssize_t)(bytes - at), &code);
        if (code == 0x130) {
            text_append(out, "i\xcc\x87", 3);
            continue;
        }
        utf8proc_ssize_t length = utf8proc_encode_char(utf8proc_tolower(code), encoded);
        text_append(out, (const char *)encoded, (size_t)length);
    }
}

/* ---- The other steps ------------------------------------------------------------------------- */

static greta_status replace(const normalize_step *step, normalize_scratch *s, const char *in,
                            size_t bytes, text *out, greta_error *err)
{
    if (s->scan == NULL) {
        GRETA_TRY(regex_scan_new(&s->scan, err));
    }
    regex_begin(s->scan, bytes);
    for (size_t at = 0; at < bytes;) {
        size_t start = 0, stop = 0;
        GRETA_TRY(regex_find(s->scan, step->pattern, in + at, bytes - at, &start, &stop, err));
        text_append(out, in + at, start);
        if (stop > start) {
            text_append(out, step->with, step->with_bytes);
        }
        at += stop;
    }
    return GRETA_OK;
}

/* Unicode's White_Space, as Rust's char::is_whitespace. */
static bool is_space(int32_t code)
{
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static void strip(const normalize_step *step, const char *in, size_t bytes, text *out)
{
    size_t first = bytes, last = 0; /* of what is no white space */
    for (size_t at = 0; at < bytes;) {
        int32_t code = 0;
        size_t n = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)in + at,
                                            (utf8proc_ssize_t)(bytes - at), &code);
        if (!is_space(code)) {
            first = first < at ? first : at;
            last = at + n;
        }
        at += n;
    }
    size_t from = step->strips_left ? first : 0, to = step->strips_right ? last : bytes;
    text_append(out, in + from, to > from ? to - from : 0);
}

/* As the library does it: a short grapheme becomes what the shortest rule that begins it says, else
 * its characters do. */
static void map_text(const charsmap *map, const char *in, size_t bytes, text *out)
{
    for (size_t at = 0; at < bytes;) {
        int32_t state = 0, last = 0, code = 0;
        const utf8proc_uint8_t *s = (const utf8proc_uint8_t *)in + at;
        size_t n = (size_t)utf8proc_iterate(s, (utf8proc_ssize_t)(bytes - at), &last);
        while (at + n < bytes) {
            size_t more =
                (size_t)utf8proc_iterate(s + n, (utf8proc_ssize_t)(bytes - at - n), &code);
            if (utf8proc_grapheme_break_stateful(last, code, &state)) {
                break;
            }
            last = code;
            n += more;
        }
        const char *with = NULL;
        size_t with_bytes = 0;
        if (n < 6 && charsmap_match(map, in + at, n, true, &with, &with_bytes) > 0) {
            text_append(out, with, with_bytes);
            at += n;
            continue;
        }
        for (size_t end = at + n; at < end;) {
            size_t one = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)in + at,
                                                  (utf8proc_ssize_t)(end - at), &code);
            bool has_rule = charsmap_match(map, in + at, one, true, &with, &with_bytes) > 0;
            text_append(out, has_rule ? with : in + at, has_rule ? with_bytes : one);
            at += one;
        }
    }
}

/* ---- All steps ------------------------------------------------------------------------------- */

static bool leaves_ascii(normalize_kind kind)
{
    return kind <= NORMALIZE_NFKD;
}

static greta_status step_run(const normalize_step *step, normalize_scratch *s, const char *in,
                             size_t bytes, text *out, greta_error *err)
{
    switch (step->kind) {
    case NORMALIZE_LOWERCASE:
        lowercase(in, bytes, out);
        return GRETA_OK;
    case NORMALIZE_PREPEND:
        text_append(out, step->with, step->with_bytes);
        text_append(out, in, bytes);
        return GRETA_OK;
    case NORMALIZE_REPLACE:
        return replace(step, s, in, bytes, out, err);
    case NORMALIZE_STRIP:
        strip(step, in, bytes, out);
        return GRETA_OK;
    case NORMALIZE_MAP:
        map_text(step->map, in, bytes, out);
        return GRETA_OK;
    default:
        return normal_form(step->kind, s, in, bytes, out, err);
    }
}

greta_status normalize(const normalizer *n, normalize_scratch *scratch, const char *input,
                       size_t bytes, bool is_inner, const char **out, size_t *out_bytes,
                       greta_error *err)
{
    int side = 0;
    *out = input;
    *out_bytes = bytes;
    for (size_t i = 0; i<n->n_step && * out_bytes> 0; i++) {
        const normalize_step *step = &n->step[i];
        text *made = &scratch->side[side];
        if ((leaves_ascii(step->kind) && is_ascii(*out, *out_bytes)) ||
            (step->kind == NORMALIZE_PREPEND && is_inner)) {
            continue;
        }
        made->length = 0;
        GRETA_TRY(step_run(step, scratch, *out, *out_bytes, made, err));
        if (made->failed) {
            return error_memory(err, "the normalised text", bytes);
        }
        if (made->length > 4 * (size_t)LIMIT_PROMPT_BYTES) {
            return error_set(err, GRETA_BAD_INPUT, "the normalised text has more than %zu bytes",
                             4 * (size_t)LIMIT_PROMPT_BYTES);
        }
        *out = made->length == 0 ? "" : made->data;
        *out_bytes = made->length;
        side = 1 - side;
    }
    return GRETA_OK;
}
