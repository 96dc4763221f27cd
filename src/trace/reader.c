/* reader.c - a trace from disk, believed only as far as it was checked.
 *
 * One pass over the lines. Every line must end on its checksum, every record must have the next
 * ordinal, follow the rules of record_check, and own the next stretch of the blob with the hash it
 * states; where a row is kept in full, the row's content hash is recomputed. The footer must count
 * and digest what was read. So a trace that opened is what its writer wrote, bit for bit.
 *
 * A tail that a kill, a full disk or a lost cable leaves (a last line without a newline, no footer,
 * values that never reached the blob) is cut off and said: status "torn". Everything else that does
 * not fit is damage and refused, because a trace with a hole would be compared as if it were whole.
 *
 * Records are held, or only their heads (head.c): then each is parsed into one room, checked, and
 * left, and the pages that were read are given back, so that memory does not grow with what the
 * rows hold. trace_at reads a record's line once more; it was checked, and is not again.
 *
 * The blob's name follows from the trace's, so that no file can name another. Lines are parsed by
 * jansson, which gets them only below the limits on length and depth.
 */
#include "base/checked.h"
#include "base/file.h"
#include "base/limits.h"
#include "trace/agree.h"
#include "trace/record_json.h"
#include "trace/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define RECORDS_MIN  64u
#define WINDOW_BYTES (8u << 20) /* read between two looks at the memory that was used */

struct trace_impl {
    mapped_file file, blob;
    name_pool names;
    trace_head *head;
    size_t capacity; /* of trace.record, head */
    uint64_t again;  /* bytes of lines read once more since pages were given back */
    /* Rows by (stage, layer), in file order: row[bucket[k]] .. row[bucket[k + 1] - 1]. */
    uint32_t *bucket, *row;
};

typedef struct reader {
    trace *t;
    const char *data;
    uint64_t size, position, n_line;
    uint64_t sum, blob_end; /* chained checksum; where the next record's values must begin */
    uint64_t line_start;    /* of the line that is read */
    uint64_t forgotten[2];  /* of file and blob, given back so far */
    XXH64_state_t *digest;
    const greta_watch *watch; /* NULL: records are held */
    trace_record *room;       /* one; NULL: they are */
    bool has_footer;          /* the last line is one: nothing may be missing */
    bool is_torn, is_ended;
    field_source source;
} reader;

/* ---- Lines ----------------------------------------------------------------------------------- */

/* The next line without its newline. At the end of the file, or at a torn tail, *line is NULL. */
static greta_status next_line(reader *r, const char **line, size_t *n)
{
    uint64_t left = r->size - r->position;
    uint64_t looked = left <= LIMIT_TRACE_LINE_BYTES ? left : LIMIT_TRACE_LINE_BYTES + 1u;
    const char *start = left == 0 ? NULL : r->data + r->position;
    const char *newline = left == 0 ? NULL : memchr(start, '\n', looked);
    *line = NULL;
    *n = 0;
    r->source.line = ++r->n_line;
    if (newline == NULL && left > LIMIT_TRACE_LINE_BYTES) {
        return field_error(&r->source, "a line of more than %u bytes", LIMIT_TRACE_LINE_BYTES);
    }
    if (newline == NULL) {
        r->is_torn = left > 0;
        return GRETA_OK;
    }
    *line = start;
    *n = (size_t)(newline - start);
    r->line_start = r->position;
    r->position += *n + 1;
    return GRETA_OK;
}

static bool is_too_deep(const char *line, size_t n)
{
    uint32_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (line[i] == '\\' && in_string) {
            i++;
        } else if (line[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && (line[i] == '{' || line[i] == '[')) {
            if (++depth > LIMIT_JSON_DEPTH) {
                return true;
            }
        } else if (!in_string && (line[i] == '}' || line[i] == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

/* The line as an object, to be released with json_decref; NULL with the error otherwise. */
static json_t *line_parse(const reader *r, const char *line, size_t n)
{
    char shown[ESCAPED_MAX];
    json_error_t json_error;
    if (is_too_deep(line, n)) {
        field_error(&r->source, "nested more than %u deep", LIMIT_JSON_DEPTH);
        return NULL;
    }
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, &json_error);
    if (object == NULL) {
        field_error(&r->source, "not JSON: %s",
                    escape(json_error.text, strlen(json_error.text), shown));
    } else if (!json_is_object(object)) {
        field_error(&r->source, "not a JSON object");
        json_decref(object);
        object = NULL;
    }
    return object;
}

/* Says what is wrong with a line that does not end on the checksum that the chain asks for. */
static greta_status sum_error(const reader *r, const char *line, size_t n)
{
    field_source quiet = r->source;
    reader again = *r;
    quiet.err = NULL;
    again.source = quiet;
    json_t *object = line_parse(&again, line, n);
    const json_t *ordinal = json_object_get(object, "n");
    greta_status status;
    if (json_object_get(object, "greta_trace") != NULL) {
        status = field_error(&r->source, "a second header (two writers in one file)");
    } else if (json_is_integer(ordinal) && json_integer_value(ordinal) >= 0 &&
               (uint64_t)json_integer_value(ordinal) != r->t->n_record) {
        status = field_error(&r->source, "record %zu expected, found %lld", r->t->n_record,
                             (long long)json_integer_value(ordinal));
    } else {
        status = field_error(&r->source, "checksum does not match; file damaged");
    }
    json_decref(object);
    return status;
}

/* ---- Header ---------------------------------------------------------------------------------- */

static const char header_start[] = "{\"greta_trace\":";

/* The version stands first, so that a trace of a later one is told from damage. */
static greta_status version_check(const reader *r, const char *line, uint64_t n)
{
    const size_t start = sizeof header_start - 1;
    uint64_t version = 0;
    size_t i = start;
    if (n <= start || memcmp(line, header_start, start) != 0) {
        return field_error(&r->source, "not a greta trace");
    }
    for (; i < n && i < start + 9 && line[i] >= '0' && line[i] <= '9'; i++) {
        version = version * 10 + (uint64_t)(line[i] - '0');
    }
    if (i == start || version > TRACE_FORMAT_VERSION) {
        return field_error(&r->source, "trace version %" PRIu64 ", this greta reads up to %d",
                           version, TRACE_FORMAT_VERSION);
    }
    return GRETA_OK;
}

static greta_status read_header(reader *r)
{
    const char *line;
    size_t n;
    if (r->size == 0) {
        return field_error(&r->source, "not a greta trace (the file is empty)");
    }
    GRETA_TRY(version_check(r, r->data, r->size));
    GRETA_TRY(next_line(r, &line, &n));
    if (line == NULL) {
        return field_error(&r->source, "the file ends inside the header");
    }
    if (!line_check(line, n, &r->t->header_sum)) {
        return field_error(&r->source, "checksum does not match; file damaged");
    }
    XXH64_update(r->digest, line, n + 1);
    json_t *object = line_parse(r, line, n);
    greta_status status =
        object == NULL ? GRETA_BAD_INPUT : header_read(&r->source, object, &r->t->header);
    json_decref(object);
    return status;
}

/* ---- Body ------------------------------------------------------------------------------------ */

/* Connects a tensor with its kept values and holds them against its hash. */
static greta_status tensor_bind(const reader *r, const trace_record *record, const trace_span *span,
                                trace_tensor *tensor)
{
    if (tensor->blob_bytes == 0) {
        return GRETA_OK;
    }
    if (tensor->blob_offset < span->offset ||
        !checked_span(tensor->blob_offset - span->offset, tensor->blob_bytes, span->bytes)) {
        return field_error(&r->source, "values outside the record's part of the blob");
    }
    tensor->data = r->t->impl->blob.data + tensor->blob_offset;
    bool is_hashed = tensor->hash.ordered != 0 || tensor->hash.bag != 0;
    if (record->kind != TRACE_INDEX && tensor->n_kept == tensor->n && is_hashed) {
        row_hash hash = trace_values_hash(tensor->type, tensor->data, tensor->n);
        if (hash.ordered != tensor->hash.ordered || hash.bag != tensor->hash.bag) {
            return field_error(&r->source, "the hash of a row is not that of its kept values");
        }
    }
    return GRETA_OK;
}

/* Checks the record's stretch of the blob. In a trace without a footer, values that never reached
 * the blob are a torn tail. */
static greta_status span_bind(reader *r, const trace_span *span)
{
    const mapped_file *blob = &r->t->impl->blob;
    if (span->bytes == 0) {
        return GRETA_OK;
    }
    if (span->offset != r->blob_end || span->bytes % TRACE_BLOB_ALIGNMENT != 0) {
        return field_error(&r->source, "values at %" PRIu64 " in the blob (%" PRIu64 " expected)",
                           span->offset, r->blob_end);
    }
    if (!checked_span(span->offset, span->bytes, blob->size)) {
        r->is_torn = !r->has_footer;
        return r->is_torn ? GRETA_OK
                          : field_error(&r->source,
                                        "values up to %" PRIu64 " in a blob of %" PRIu64 " bytes",
                                        span->offset + span->bytes, blob->size);
    }
    if (XXH64(blob->data + span->offset, (size_t)span->bytes, 0) != span->hash) {
        return field_error(&r->source, "values in the blob do not match their hash; blob damaged");
    }
    r->blob_end = span->offset + span->bytes;
    return GRETA_OK;
}

static greta_status records_grow(const reader *r)
{
    trace *t = r->t;
    size_t capacity = t->impl->capacity;
    if (t->n_record < capacity) {
        return GRETA_OK;
    }
    if (t->n_record >= LIMIT_TRACE_RECORDS) {
        return field_error(&r->source, "more than %u records", LIMIT_TRACE_RECORDS);
    }
    capacity = capacity < RECORDS_MIN ? RECORDS_MIN : capacity + capacity / 2;
    trace_head *head = realloc(t->impl->head, capacity * sizeof *head);
    t->head = t->impl->head = head != NULL ? head : t->impl->head;
    trace_record *grown = r->room == NULL ? realloc(t->record, capacity * sizeof *grown) : NULL;
    t->record = grown != NULL ? grown : t->record;
    if (head == NULL || (r->room == NULL && grown == NULL)) {
        return error_memory(r->source.err, "records of the trace", capacity * sizeof *grown);
    }
    t->impl->capacity = capacity;
    return GRETA_OK;
}

/* Where the next record is read to. */
static trace_record *next_record(const reader *r)
{
    return r->room != NULL ? r->room : &r->t->record[r->t->n_record];
}

/* A record that was read into the next place. */
static greta_status take_record(reader *r, const trace_span *span)
{
    char why[TRACE_WHY_MAX];
    trace_record *record = next_record(r);
    if (record->n != r->t->n_record) {
        return field_error(&r->source, "record %zu expected, found %" PRIu64, r->t->n_record,
                           record->n);
    }
    if (!record_check(record, &r->t->header, why)) {
        return field_error(&r->source, "%s", why);
    }
    GRETA_TRY(span_bind(r, span));
    if (r->is_torn) {
        return GRETA_OK;
    }
    for (int32_t i = 0; i < record->n_in; i++) {
        GRETA_TRY(tensor_bind(r, record, span, &record->in[i]));
    }
    for (int32_t i = 0; i < record->n_weight; i++) {
        GRETA_TRY(tensor_bind(r, record, span, &record->weight[i]));
    }
    for (int32_t i = 0; i < record->n_out; i++) {
        GRETA_TRY(tensor_bind(r, record, span, &record->out[i]));
    }
    r->t->impl->head[r->t->n_record] = trace_head_new(record);
    r->t->impl->head[r->t->n_record++].line = r->line_start;
    return GRETA_OK;
}

static greta_status read_footer(reader *r, const json_t *object)
{
    trace_footer footer = {.n_record = 0};
    uint64_t blob_size = r->t->impl->blob.size;
    GRETA_TRY(footer_read(&r->source, object, &footer));
    if (!footer_status_is_known(footer.status)) {
        return field_error(&r->source, "\"end\" is not complete, interrupted or truncated");
    }
    if (footer.n_record != r->t->n_record || footer.digest != XXH64_digest(r->digest)) {
        return field_error(&r->source,
                           "the footer is of %" PRIu64 " other records (%zu precede it)",
                           footer.n_record, r->t->n_record);
    }
    if (footer.blob_bytes != r->blob_end || footer.blob_bytes != blob_size) {
        return field_error(&r->source, "a blob of %" PRIu64 " bytes (%" PRIu64 " expected)",
                           blob_size, r->blob_end);
    }
    memcpy(r->t->status, footer.status, sizeof footer.status);
    r->is_ended = true;
    return GRETA_OK;
}

static greta_status read_object(reader *r, const json_t *object)
{
    trace_span span;
    if (json_object_get(object, "greta_trace") != NULL) {
        return field_error(&r->source, "a second header (two writers in one file)");
    }
    if (json_object_get(object, "end") != NULL) {
        return read_footer(r, object);
    }
    GRETA_TRY(record_read(&r->source, object, next_record(r), &span));
    return take_record(r, &span);
}

static greta_status read_line(reader *r, const char *line, size_t n)
{
    trace_span span;
    GRETA_TRY(records_grow(r));
    if (record_scan(&r->source, line, n, next_record(r), &span)) {
        return take_record(r, &span);
    }
    json_t *object = line_parse(r, line, n);
    greta_status status = object == NULL ? GRETA_BAD_INPUT : read_object(r, object);
    json_decref(object);
    return status;
}

/* Gives back what was read, and says how far the reading is. */
static void window_move(reader *r)
{
    const mapped_file *file[2] = {&r->t->impl->file, &r->t->impl->blob};
    const uint64_t done[2] = {r->position, r->blob_end};
    bool is_due = done[0] + done[1] - r->forgotten[0] - r->forgotten[1] >= WINDOW_BYTES;
    for (int i = 0; i < 2 && r->room != NULL && is_due; i++) {
        mapped_file_forget(file[i], r->forgotten[i], done[i]);
        r->forgotten[i] = done[i];
    }
    if (is_due && r->watch != NULL && r->watch->progress != NULL) {
        r->watch->progress(r->watch->user, "reading", done[0] + done[1],
                           file[0]->size + file[1]->size);
    }
}

static greta_status read_body(reader *r)
{
    for (;;) {
        const char *line;
        size_t n;
        GRETA_TRY(next_line(r, &line, &n));
        if (line == NULL) {
            return GRETA_OK;
        }
        if (r->is_ended) {
            return field_error(&r->source, "text after the footer");
        }
        if (!line_check(line, n, &r->sum)) {
            return sum_error(r, line, n);
        }
        greta_status status = read_line(r, line, n);
        if (status != GRETA_OK || r->is_torn) {
            return status;
        }
        if (!r->is_ended) {
            r->t->body_sum = r->sum;
            XXH64_update(r->digest, line, n + 1);
        }
        window_move(r);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Maps the blob beside a trace: x.blob of x, x.blob.partial of x.partial (or x.blob, where a crash
 * fell between the two renames). */
static greta_status blob_open(const char *path, mapped_file *blob, greta_error *err)
{
    static const char partial[] = ".partial";
    const size_t tail = sizeof partial - 1;
    struct stat found;
    size_t n = strlen(path);
    bool is_partial = n > tail && strcmp(path + n - tail, partial) == 0;
    char *name = malloc(n + sizeof ".blob.partial");
    if (name == NULL) {
        return error_memory(err, "name of the blob", n);
    }
    n -= is_partial ? tail : 0;
    memcpy(name, path, n);
    memcpy(name + n, ".blob.partial", sizeof ".blob.partial");
    if (!is_partial || (lstat(name, &found) != 0 && errno == ENOENT)) {
        name[n + strlen(".blob")] = '\0';
    }
    greta_status status;
    if (lstat(name, &found) != 0) {
        status = error_set(err, GRETA_BAD_INPUT, "the trace's blob cannot be read: %s",
                           error_reason(errno));
    } else if (S_ISLNK(found.st_mode)) {
        status =
            error_set(err, GRETA_BAD_INPUT, "blob leaves the trace folder (it is a symbolic link)");
    } else {
        status = mapped_file_open(name, blob, err);
    }
    if (status != GRETA_OK) {
        error_file(err, name);
    }
    free(name);
    return status;
}

/* Whether the last whole line is a footer, so that nothing may be missing before it. */
static bool ends_on_footer(const char *data, uint64_t size)
{
    static const char start[] = "{\"end\":";
    if (size < 2 || data[size - 1] != '\n') {
        return false;
    }
    const char *newline = memrchr(data, '\n', size - 1);
    const char *last = newline == NULL ? data : newline + 1;
    return (uint64_t)(data + size - last) > sizeof start &&
           memcmp(last, start, sizeof start - 1) == 0;
}

static size_t bucket_of(const trace *t, stage name, int32_t layer)
{
    return (size_t)name * ((size_t)t->header.n_layer + 1) + (size_t)(layer + 1);
}

/* Sorts the rows by stage and layer, counting. */
static greta_status index_build(trace *t, greta_error *err)
{
    struct trace_impl *impl = t->impl;
    size_t n_bucket = bucket_of(t, STAGE_COUNT, -1);
    impl->bucket = calloc(n_bucket + 1, sizeof impl->bucket[0]);
    impl->row = calloc(t->n_record + 1, sizeof impl->row[0]);
    if (impl->bucket == NULL || impl->row == NULL) {
        return error_memory(err, "index of the trace", (n_bucket + t->n_record) * sizeof(uint32_t));
    }
    /* bucket[k + 1] is first the number of rows in k, then its start, and in the end its end. */
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].kind == TRACE_ROW) {
            impl->bucket[bucket_of(t, t->record[i].name, t->record[i].layer) + 1]++;
        }
    }
    uint32_t start = 0;
    for (size_t k = 1; k <= n_bucket; k++) {
        uint32_t count = impl->bucket[k];
        impl->bucket[k] = start;
        start += count;
    }
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].kind == TRACE_ROW) {
            size_t k = bucket_of(t, t->record[i].name, t->record[i].layer);
            impl->row[impl->bucket[k + 1]++] = (uint32_t)i;
        }
    }
    return GRETA_OK;
}

static greta_status trace_read(trace *t, const char *path, const greta_watch *watch,
                               trace_record *room, greta_error *err)
{
    GRETA_TRY(mapped_file_open(path, &t->impl->file, err));
    reader r = {.t = t,
                .data = (const char *)t->impl->file.data,
                .size = t->impl->file.size,
                .digest = XXH64_createState(),
                .watch = watch,
                .room = room,
                .source = {.line = 1, .names = &t->impl->names, .err = err}};
    if (r.digest == NULL) {
        return error_memory(err, "digest", sizeof(XXH64_hash_t));
    }
    XXH64_reset(r.digest, 0);
    r.has_footer = ends_on_footer(r.data, r.size);
    greta_status status = read_header(&r);
    status = status != GRETA_OK ? status : blob_open(path, &t->impl->blob, err);
    status = status != GRETA_OK ? status : read_body(&r);
    if (status == GRETA_OK && !r.is_ended) {
        memcpy(t->status, "torn", sizeof "torn");
    }
    XXH64_freeState(r.digest);
    status = status != GRETA_OK ? status : trace_agree(t, err);
    return status != GRETA_OK || room != NULL ? status : index_build(t, err);
}

static greta_status open_with(const char *path, const greta_watch *watch, trace_record *room,
                              trace **out, greta_error *err)
{
    trace *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t != NULL) {
        t->impl = calloc(1, sizeof *t->impl);
    }
    if (t == NULL || t->impl == NULL) {
        free(t);
        return error_memory(err, "trace", sizeof *t);
    }
    path_cut(path, t->path);
    greta_status status = trace_read(t, path, watch, room, err);
    if (status != GRETA_OK) {
        error_file(err, path);
        trace_close(t);
        return status;
    }
    *out = t;
    return GRETA_OK;
}

greta_status trace_open(const char *path, trace **out, greta_error *err)
{
    return open_with(path, NULL, NULL, out, err);
}

greta_status trace_open_heads(const char *path, const greta_watch *watch, trace **out,
                              greta_error *err)
{
    trace_record room;
    return open_with(path, watch, &room, out, err);
}

void trace_close(trace *t)
{
    if (t != NULL) {
        mapped_file_close(&t->impl->file);
        mapped_file_close(&t->impl->blob);
        name_pool_free(&t->impl->names);
        free(t->impl->bucket);
        free(t->impl->row);
        free(t->impl->head);
        free(t->impl);
        free((void *)(uintptr_t)t->header.buffer);
        free(t->record);
        free(t);
    }
}

const trace_record *trace_find(const trace *t, stage name, int32_t layer, int32_t position,
                               greta_phase phase)
{
    if (t->impl->bucket == NULL || (int)name < 0 || name >= STAGE_COUNT || layer < -1 ||
        layer >= t->header.n_layer) {
        return NULL;
    }
    size_t k = bucket_of(t, name, layer);
    for (uint32_t i = t->impl->bucket[k]; i < t->impl->bucket[k + 1]; i++) {
        const trace_record *record = &t->record[t->impl->row[i]];
        if (record->phase == phase && (position == -1 || record->position == position)) {
            return record;
        }
    }
    return NULL;
}

/* ---- Once more ------------------------------------------------------------------------------- */

static void values_bind(const trace *t, trace_tensor *tensor, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        bool is_there =
            tensor[i].blob_bytes > 0 &&
            checked_span(tensor[i].blob_offset, tensor[i].blob_bytes, t->impl->blob.size);
        tensor[i].data = is_there ? t->impl->blob.data + tensor[i].blob_offset : NULL;
    }
}

/* The line was checked when the trace was opened; here it is only parsed. */
static bool line_again(const trace *t, size_t i, trace_record *room)
{
    const mapped_file *file = &t->impl->file;
    const uint64_t start = t->head[i].line;
    const char *line = (const char *)file->data + start;
    const char *end = memchr(line, '\n', (size_t)(file->size - start));
    greta_error quiet = {0};
    field_source source = {.line = i + 2, .names = &t->impl->names, .err = &quiet};
    trace_span span;
    if (end == NULL) {
        return false;
    }
    size_t n = (size_t)(end - line);
    t->impl->again += n;
    if (record_scan(&source, line, n, room, &span)) {
        return true;
    }
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    bool is_read = object != NULL && record_read(&source, object, room, &span) == GRETA_OK;
    json_decref(object);
    return is_read;
}

const trace_record *trace_at(const trace *t, size_t i, trace_record *room)
{
    if (t->record != NULL) {
        return &t->record[i];
    }
    char why[TRACE_WHY_MAX];
    if (!line_again(t, i, room) || room->n != i || !record_check(room, &t->header, why)) {
        memset(room, 0, sizeof *room); /* the file is another one now: trace_check says so */
        room->kind = TRACE_WEIGHT;
        return room;
    }
    if (t->impl->again > WINDOW_BYTES) {
        trace_forget(t);
    }
    values_bind(t, room->in, room->n_in);
    values_bind(t, room->weight, room->n_weight);
    values_bind(t, room->out, room->n_out);
    return room;
}

void trace_forget(const trace *t)
{
    if (t->impl != NULL) {
        t->impl->again = 0;
        mapped_file_forget(&t->impl->file, 0, t->impl->file.size);
        mapped_file_forget(&t->impl->blob, 0, t->impl->blob.size);
    }
}

greta_status trace_check(const trace *t, greta_error *err)
{
    if (mapped_file_changed(&t->impl->file) || mapped_file_changed(&t->impl->blob)) {
        error_set(err, GRETA_IO, "the trace was changed while it was read");
        error_file(err, t->path);
        return GRETA_IO;
    }
    return GRETA_OK;
}
