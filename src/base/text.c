/* text.c - growing text, and lists of ranges.
 *
 * A text grows by doubling, so appending n bytes costs O(n) altogether. Failure is sticky: after
 * the first refused allocation nothing more is appended, and text_take reports it once. Writers of
 * reports therefore need no error path per line.
 */
#include "base/text.h"

#include "base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define TEXT_CAPACITY_MIN 256u

/* Makes room for n more bytes and the terminator. */
static bool text_reserve(text *t, size_t n)
{
    uint64_t needed, doubled = (uint64_t)t->capacity * 2;
    size_t capacity;
    if (t->failed || !checked_add(t->length, n, &needed) || !checked_add(needed, 1, &needed)) {
        t->failed = true;
        return false;
    }
    if (needed <= t->capacity) {
        return true;
    }
    doubled = doubled < TEXT_CAPACITY_MIN ? TEXT_CAPACITY_MIN : doubled;
    char *grown = NULL;
    if (checked_size(needed > doubled ? needed : doubled, &capacity)) {
        grown = realloc(t->data, capacity);
    }
    if (grown == NULL) {
        t->failed = true;
        return false;
    }
    t->data = grown;
    t->capacity = capacity;
    return true;
}

void text_append(text *t, const char *bytes, size_t n)
{
    if (text_reserve(t, n)) {
        if (n > 0) {
            memcpy(t->data + t->length, bytes, n);
        }
        t->length += n;
        t->data[t->length] = '\0';
    }
}

void text_string(text *t, const char *string)
{
    text_append(t, string, strlen(string));
}

void text_format(text *t, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    if (length < 0) {
        t->failed = true;
    } else if (text_reserve(t, (size_t)length)) {
        vsnprintf(t->data + t->length, (size_t)length + 1, format, again);
        t->length += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

greta_status text_take(text *t, char **string, greta_error *err)
{
    *string = NULL;
    text_append(t, "", 0); /* An empty text becomes "". */
    if (t->failed) {
        uint64_t bytes = t->length;
        text_free(t);
        return error_memory(err, "text", bytes);
    }
    *string = t->data;
    *t = (text){0};
    return GRETA_OK;
}

void text_free(text *t)
{
    free(t->data);
    *t = (text){0};
}

void greta_free(void *memory)
{
    free(memory);
}

bool utf8_is_valid(const char *bytes, size_t n)
{
    const utf8proc_uint8_t *cursor = (const utf8proc_uint8_t *)bytes;
    while (n > 0) {
        utf8proc_int32_t code_point;
        /* At most 4 bytes are looked at, so the length need not fit the library's signed type. */
        utf8proc_ssize_t taken = utf8proc_iterate(cursor, n < 4 ? (utf8proc_ssize_t)n : 4,
                                                  &code_point);
        if (taken <= 0) {
            return false;
        }
        cursor += taken;
        n -= (size_t)taken;
    }
    return true;
}

/* ---- Ranges ---------------------------------------------------------------------------------- */

/* Reads a whole number at *cursor, at most `end`; false: there is none. Saturates. */
static bool range_number(const char **cursor, const char *end, uint64_t *number)
{
    const char *start = *cursor;
    *number = 0;
    for (; *cursor < end && **cursor >= '0' && **cursor <= '9'; (*cursor)++) {
        uint64_t digit = (uint64_t)(**cursor - '0');
        *number = *number > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *number * 10 + digit;
    }
    return *cursor > start;
}

/* One item of the list: "7", "3-5" or "all". */
static greta_status range_parse(const char *flag, const char *start, const char *end,
                                uint8_t *selected, size_t n, greta_error *err)
{
    char shown[ESCAPED_MAX];
    uint64_t first, last;
    const char *cursor = start;
    if (end - start == 3 && memcmp(start, "all", 3) == 0) {
        memset(selected, 1, n);
        return GRETA_OK;
    }
    bool is_range = range_number(&cursor, end, &first);
    last = first;
    if (is_range && cursor < end && *cursor == '-') {
        cursor++;
        is_range = range_number(&cursor, end, &last);
    }
    escape(start, (size_t)(end - start), shown);
    if (!is_range || cursor != end || first > last) {
        return error_about(err, GRETA_USAGE, flag,
                           "\"%s\" is not a number or a range (such as 0,3-5 or all)", shown);
    }
    if (last >= n) {
        return error_about(err, GRETA_USAGE, flag, "\"%s\" is too large (there are %zu, from 0)",
                           shown, n);
    }
    memset(selected + first, 1, (size_t)(last - first) + 1);
    return GRETA_OK;
}

greta_status ranges_parse(const char *flag, const char *ranges, uint8_t *selected, size_t n,
                          greta_error *err)
{
    const char *item = ranges == NULL ? "all" : ranges;
    if (n > 0) {
        memset(selected, 0, n);
    }
    for (;;) {
        const char *end = item + strcspn(item, ",");
        GRETA_TRY(range_parse(flag, item, end, selected, n, err));
        if (*end == '\0') {
            return GRETA_OK;
        }
        item = end + 1;
    }
}
