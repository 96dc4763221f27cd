/* record_json.h - the lines of a trace: a header, records, a footer. Text: docs/trace-format.md.
 *
 * A line is a JSON object whose last member is its checksum: XXH64 over the bytes before that
 * member, seeded with the checksum of the line before (header and first body line: with 0).
 */
#ifndef GRETA_TRACE_RECORD_JSON_H
#define GRETA_TRACE_RECORD_JSON_H

#include "trace/field.h"
#include "trace/record.h"

#define TRACE_BLOB_ALIGNMENT 64u
#define TRACE_SUM_BYTES 26u      /* ,"sum":"0123456789abcdef"} */
#define TRACE_FOOTER_BYTES_MAX 256u

/* The stretch of the blob that one record added, with padding; hash: XXH64 of it, seed 0. */
typedef struct trace_span {
    uint64_t offset, bytes, hash;
} trace_span;

typedef struct trace_footer {
    char status[16];
    uint64_t n_record, blob_bytes;
    uint64_t digest;             /* XXH64, seed 0, of header and body as they stand in the file */
} trace_footer;

/* "complete", "interrupted" or "truncated". */
bool footer_status_is_known(const char *status);

/* Append a line without its checksum and closing brace. */
void header_write(text *line, const trace_header *header);
void record_write(text *line, const trace_record *record, const trace_span *span);
void footer_write(text *line, const trace_footer *footer);
/* Appends the checksum, the closing brace and a newline; *sum: seed, then this line's checksum. */
void line_seal(text *line, uint64_t *sum);
/* Whether a line (n bytes, no newline) ends on its checksum. *sum: seed, then this line's. */
bool line_check(const char *line, size_t n, uint64_t *sum);

/* header->buffer is malloc'd, also on failure. */
greta_status header_read(const field_source *source, const json_t *object, trace_header *header);
/* blob_offset and blob_bytes of the tensors are checked against the span, data is left NULL. */
greta_status record_read(const field_source *source, const json_t *object, trace_record *record,
                         trace_span *span);
/* The same of a line, n bytes, spelled as record_write and line_seal spell it, its checksum not
 * looked at. False: it is spelled otherwise, which says nothing about it; ask record_read. */
bool record_scan(const field_source *source, const char *line, size_t n, trace_record *record,
                 trace_span *span);
greta_status footer_read(const field_source *source, const json_t *object, trace_footer *footer);

/* Whether the members of a record fit each other and the header; if not, *why says what does not.
 * The writer asks before it writes, the reader after it read. */
#define TRACE_WHY_MAX 160
bool record_check(const trace_record *record, const trace_header *header, char why[TRACE_WHY_MAX]);

#endif
