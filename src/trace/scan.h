/* scan.h - a record's line in the writer's own spelling, read without a tree.
 *
 *     if (!record_scan(&source, line, n, record, &span)) { ... parse it as JSON ... }
 *
 * A trace has millions of lines, nearly all of them spelled as record_write spells them: members in
 * the table's order, no spaces, no escapes. Those are recognised here. Whatever is spelled
 * otherwise is no error of this file: it is left to the JSON parser, which decides.
 */
#ifndef GRETA_TRACE_SCAN_H
#define GRETA_TRACE_SCAN_H

#include "trace/field.h"

/* Where the scan stands in a line. */
typedef struct line_scan {
    const char *at, *end;
    const field_source *source;
} line_scan;

/* Whether the bytes `expected` come next; then they are passed. */
bool scan_text(line_scan *s, const char *expected);
/* A whole number from min to max, without leading zeros. */
bool scan_whole(line_scan *s, int64_t min, int64_t max, int64_t *out);
/* Hex digits in quotes. */
bool scan_hex(line_scan *s, size_t digits, uint64_t *out);
/* The members that belong to `when`, in the order of the table; false: spelled otherwise, or not
 * what fields_read would take. Optional members that are absent get what that stands for. */
bool fields_scan(line_scan *s, field_table table, unsigned when, void *base);

#endif
