/* record_json.c - the lines of a trace: tables of members, checksums, and what must fit together.
 *
 * One table per struct serves both directions (field.h). Members that hold what their absence
 * stands for are left out: a trace has 30 layers x 20 stages x tokens of these lines.
 *
 * The checksum is chained so that lines can be neither exchanged, repeated, dropped nor inserted;
 * XXH64 is not cryptographic: it finds damage, not malice. The chain starts at the first body line,
 * because the header names addresses and the process: bodies of equal runs are equal bytes.
 */
#include "trace/record_json.h"

#include "base/limits.h"
#include "trace/scan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- Names ----------------------------------------------------------------------------------- */

static const char *name_of_stage(int value)
{
    return stage_name((stage)value);
}

static int stage_of_name(const char *name)
{
    stage found = stage_find(name);
    return found == STAGE_NONE ? -1 : (int)found;
}

static const dtype types[] = {DTYPE_F32,  DTYPE_F16,    DTYPE_Q4_0,   DTYPE_Q4_1,   DTYPE_Q5_0,
                              DTYPE_Q5_1, DTYPE_Q8_0,   DTYPE_Q2_K,   DTYPE_Q3_K,   DTYPE_Q4_K,
                              DTYPE_Q5_K, DTYPE_Q6_K,   DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4,
                              DTYPE_BF16, DTYPE_ACT_Q8, DTYPE_I32};

static const char *name_of_type(int value)
{
    return dtype_name((dtype)value);
}

static int type_of_name(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(dtype_name(types[i]), name) == 0) {
            return (int)types[i];
        }
    }
    return -1;
}

static const char *const phase_names[] = {"prefill", "decode"};
static const char *const kind_names[] = {"row", "index", "weight"};

static const char *name_of_phase(int value)
{
    return phase_names[value == GRETA_PHASE_DECODE];
}

static int phase_of_name(const char *name)
{
    return strcmp(name, phase_names[0]) == 0 ? 0 : strcmp(name, phase_names[1]) == 0 ? 1 : -1;
}

static const char *name_of_kind(int value)
{
    return kind_names[value == TRACE_INDEX ? 1 : value == TRACE_WEIGHT ? 2 : 0];
}

static int kind_of_name(const char *name)
{
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, kind_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static const field_enum stage_enum = {name_of_stage, stage_of_name};
static const field_enum type_enum = {name_of_type, type_of_name};
static const field_enum phase_enum = {name_of_phase, phase_of_name};
static const field_enum kind_enum = {name_of_kind, kind_of_name};

/* ---- Tables ---------------------------------------------------------------------------------- */

enum { ROW = 1 << TRACE_ROW, INDEX = 1 << TRACE_INDEX, WEIGHT = 1 << TRACE_WEIGHT, NORM = 8 };
enum { ALL = ROW | INDEX | WEIGHT };

#define AT(member) offsetof(OWNER, member), sizeof(((OWNER *)0)->member)
#define NEEDED(key, kind, member, when, min)                                                       \
    {                                                                                              \
        key, kind, AT(member), when, false, 0, min, NULL                                           \
    }
#define OPTIONAL(key, kind, member, when, absent)                                                  \
    {                                                                                              \
        key, kind, AT(member), when, true, absent, absent < 0 ? absent : 0, NULL                   \
    }
#define NAMED(key, member, when, names)                                                            \
    {                                                                                              \
        key, FIELD_ENUM, AT(member), when, false, 0, 0, names                                      \
    }
#define TABLE(fields) ((field_table){fields, sizeof(fields) / sizeof((fields)[0])})

#define OWNER trace_header
static const field header_fields[] = {
    NEEDED("greta_trace", FIELD_I32, format, ALL, 1),
    NEEDED("process", FIELD_I64, process, ALL, 0),
    NEEDED("greta", FIELD_TEXT, greta, ALL, 0),
    NEEDED("arithmetic", FIELD_I32, arithmetic, ALL, 0),
    NEEDED("stage_list", FIELD_I32, stage_list, ALL, 0),
    NEEDED("model", FIELD_TEXT, model_name, ALL, 0),
    NEEDED("arch", FIELD_TEXT, arch, ALL, 0),
    NEEDED("model_hash", FIELD_HEX64, model_hash, ALL, 0),
    NEEDED("tokenizer_hash", FIELD_HEX64, tokenizer_hash, ALL, 0),
    NEEDED("prompt_id", FIELD_TEXT, prompt_id, ALL, 0),
    NEEDED("n_layer", FIELD_I32, n_layer, ALL, 0),
    NEEDED("n_embd", FIELD_I32, n_embd, ALL, 0),
    NEEDED("n_vocab", FIELD_I32, n_vocab, ALL, 0),
    NEEDED("n_ctx", FIELD_I32, n_ctx, ALL, 0),
    NEEDED("n_sequence", FIELD_I32, n_sequence, ALL, 0),
    NEEDED("n_chunk", FIELD_I32, n_chunk, ALL, 0),
    NEEDED("n_thread", FIELD_I32, n_thread, ALL, 0),
    OPTIONAL("rounding", FIELD_TEXT, rounding, ALL, 0),
    NEEDED("kv", FIELD_TEXT, kv, ALL, 0),
    NEEDED("act", FIELD_TEXT, act, ALL, 0),
    NEEDED("kernel", FIELD_TEXT, kernel, ALL, 0),
    NEEDED("cpu", FIELD_TEXT, cpu, ALL, 0),
    OPTIONAL("device", FIELD_TEXT, device, ALL, 0),
    NEEDED("compiler", FIELD_TEXT, compiler, ALL, 0),
    NEEDED("mxcsr", FIELD_HEX32, mxcsr, ALL, 0),
    NEEDED("stages", FIELD_TEXT, selection_stages, ALL, 0),
    NEEDED("layers", FIELD_TEXT, selection_layers, ALL, 0),
    NEEDED("phases", FIELD_TEXT, selection_phases, ALL, 0),
    NEEDED("tokens", FIELD_TEXT, selection_tokens, ALL, 0),
    NEEDED("sample", FIELD_I64, sample, ALL, -1),
    NEEDED("bytes_max", FIELD_U64, bytes_max, ALL, 0),
    NEEDED("notes", FIELD_TEXT, notes, ALL, 0),
};
#undef OWNER

#define OWNER trace_record
static const field line_fields[] = {
    NEEDED("n", FIELD_U64, n, ALL, 0),
    NAMED("kind", kind, ALL, &kind_enum),
};

static const field record_fields[] = {
    NAMED("stage", name, ALL, &stage_enum),
    OPTIONAL("layer", FIELD_I32, layer, ALL, -1),
    NEEDED("prefix", FIELD_HEX64, prefix, ROW, 0),
    NEEDED("token", FIELD_I32, token, ROW, 0),
    NEEDED("position", FIELD_I32, position, ROW, 0),
    NAMED("phase", phase, ROW | INDEX, &phase_enum),
    NEEDED("pass", FIELD_I64, pass, ROW | INDEX, 0),
    NEEDED("rows", FIELD_I64, chunk_rows, ROW | INDEX, 1),
    NEEDED("row", FIELD_I32, row, ROW | INDEX, 0),
    OPTIONAL("sequence", FIELD_I32, sequence, ROW | INDEX, 0),
    OPTIONAL("first_position", FIELD_I32, first_position, ROW | INDEX, 0),
    OPTIONAL("op", FIELD_NAME, op, ALL, 0),
    OPTIONAL("kernel", FIELD_NAME, kernel, ALL, 0),
    NEEDED("eps", FIELD_F32, eps, NORM, 0),
    NEEDED("inv_rms", FIELD_F32, inv_rms, NORM, 0),
    NEEDED("count", FIELD_I64, count, NORM, 0),
};
#undef OWNER

#define OWNER trace_tensor
static const field tensor_fields[] = {
    {"stage", FIELD_ENUM, AT(name), ALL, true, STAGE_NONE, 0, &stage_enum},
    OPTIONAL("layer", FIELD_I32, layer, ALL, -1),
    OPTIONAL("tensor", FIELD_TEXT, tensor, ALL, 0),
    OPTIONAL("first_row", FIELD_I64, first_row, ALL, 0),
    OPTIONAL("buffer", FIELD_TEXT, buffer, ALL, 0),
    OPTIONAL("row", FIELD_I64, row, ALL, 0),
    OPTIONAL("offset", FIELD_U64, offset, ALL, 0),
    OPTIONAL("stride", FIELD_U64, stride, ALL, 0),
    OPTIONAL("slot", FIELD_I64, slot, ALL, -1),
    OPTIONAL("generation", FIELD_U64, generation, ALL, 0),
    NAMED("type", type, ALL, &type_enum),
    NEEDED("n", FIELD_I64, n, ALL, 1),
    OPTIONAL("min", FIELD_F32, min, ALL, 0),
    OPTIONAL("max", FIELD_F32, max, ALL, 0),
    OPTIONAL("sumsq", FIELD_F32, sumsq, ALL, 0),
    OPTIONAL("nonfinite", FIELD_U64, n_nonfinite, ALL, 0),
    OPTIONAL("hash", FIELD_HEX64, hash.ordered, ALL, 0),
    OPTIONAL("bag", FIELD_HEX64, hash.bag, ALL, 0),
    OPTIONAL("kept", FIELD_I64, n_kept, ALL, 0),
    OPTIONAL("at", FIELD_U64, blob_offset, ALL, 0),
    OPTIONAL("bytes", FIELD_U64, blob_bytes, ALL, 0),
};
#undef OWNER

#define OWNER trace_footer
static const field footer_fields[] = {
    NEEDED("end", FIELD_TEXT, status, ALL, 0),
    NEEDED("records", FIELD_U64, n_record, ALL, 0),
    NEEDED("blob_bytes", FIELD_U64, blob_bytes, ALL, 0),
    NEEDED("digest", FIELD_HEX64, digest, ALL, 0),
};
#undef OWNER

/* ---- Checksums ------------------------------------------------------------------------------- */

static const char sum_key[] = ",\"sum\":\"";

void line_seal(text *line, uint64_t *sum)
{
    if (line->failed) {
        return;
    }
    *sum = XXH64(line->data, line->length, *sum);
    json_put_key(line, "sum");
    json_put_hex(line, *sum, 16);
    text_append(line, "}\n", 2);
}

bool line_check(const char *line, size_t n, uint64_t *sum)
{
    static const char digits[] = "0123456789abcdef";
    const char *end = line + n - TRACE_SUM_BYTES;
    const size_t key = sizeof sum_key - 1;
    if (n < TRACE_SUM_BYTES || memcmp(end, sum_key, key) != 0 || end[key + 16] != '"' ||
        end[key + 17] != '}') {
        return false;
    }
    *sum = XXH64(line, n - TRACE_SUM_BYTES, *sum);
    for (int i = 0; i < 16; i++) {
        if (end[key + (size_t)i] != digits[*sum >> (60 - 4 * i) & 15]) {
            return false;
        }
    }
    return true;
}

/* ---- Writing --------------------------------------------------------------------------------- */

void header_write(text *line, const trace_header *header)
{
    text_append(line, "{", 1);
    fields_write(line, TABLE(header_fields), ALL, header);
    json_put_key(line, "buffers");
    text_append(line, "[", 1);
    for (size_t i = 0; i < header->n_buffer; i++) {
        const trace_buffer *buffer = &header->buffer[i];
        text_append(line, ",[", i == 0 ? 0 : 1);
        text_append(line, "[", 1);
        json_put_string(line, buffer->name, strnlen(buffer->name, sizeof buffer->name));
        text_append(line, ",", 1);
        json_put_hex(line, buffer->address, 16);
        text_append(line, ",", 1);
        json_put_whole(line, (int64_t)(buffer->bytes & INT64_MAX));
        text_append(line, "]", 1);
    }
    text_append(line, "]", 1);
}

static void tensors_write(text *line, const char *key, const trace_tensor *tensor, int32_t n)
{
    if (n == 0) {
        return;
    }
    json_put_key(line, key);
    for (int32_t i = 0; i < n; i++) {
        text_append(line, i == 0 ? "[{" : ",{", 2);
        fields_write(line, TABLE(tensor_fields), ALL, &tensor[i]);
        text_append(line, "}", 1);
    }
    text_append(line, "]", 1);
}

void record_write(text *line, const trace_record *record, const trace_span *span)
{
    unsigned when = (1u << record->kind) | (record->has_norm ? NORM : 0u);
    text_append(line, "{", 1);
    fields_write(line, TABLE(line_fields), when, record);
    fields_write(line, TABLE(record_fields), when, record);
    tensors_write(line, "in", record->in, record->n_in);
    tensors_write(line, "weight", record->weight, record->n_weight);
    tensors_write(line, "out", record->out, record->n_out);
    if (span->bytes > 0) {
        json_put_key(line, "blob");
        text_append(line, "[", 1);
        json_put_whole(line, (int64_t)span->offset);
        text_append(line, ",", 1);
        json_put_whole(line, (int64_t)span->bytes);
        text_append(line, ",", 1);
        json_put_hex(line, span->hash, 16);
        text_append(line, "]", 1);
    }
}

void footer_write(text *line, const trace_footer *footer)
{
    text_append(line, "{", 1);
    fields_write(line, TABLE(footer_fields), ALL, footer);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static greta_status buffer_read(const field_source *source, const json_t *item,
                                trace_buffer *buffer)
{
    const char *name = json_string_value(json_array_get(item, 0));
    int64_t bytes;
    if (json_array_size(item) != 3 || name == NULL || strlen(name) >= sizeof buffer->name) {
        return field_error(source, "\"buffers\" has an entry that is not [name, address, bytes]");
    }
    memcpy(buffer->name, name, strlen(name) + 1);
    GRETA_TRY(field_hex(source, "buffers", json_array_get(item, 1), 16, &buffer->address));
    GRETA_TRY(field_whole(source, "buffers", json_array_get(item, 2), 0, INT64_MAX, &bytes));
    buffer->bytes = (uint64_t)bytes;
    return GRETA_OK;
}

greta_status header_read(const field_source *source, const json_t *object, trace_header *header)
{
    const json_t *list = json_object_get(object, "buffers");
    GRETA_TRY(fields_read(source, TABLE(header_fields), ALL, object, header));
    if (!json_is_array(list)) {
        return field_error(source, "\"buffers\" is not an array");
    }
    if (header->n_layer > LIMIT_LAYERS) {
        return field_error(source, "\"n_layer\" is %d (at most %d)", header->n_layer, LIMIT_LAYERS);
    }
    size_t n = json_array_size(list);
    trace_buffer *buffer = calloc(n + 1, sizeof *buffer);
    header->buffer = buffer;
    if (buffer == NULL) {
        return error_memory(source->err, "buffer map", n * sizeof *buffer);
    }
    for (size_t i = 0; i < n; i++) {
        GRETA_TRY(buffer_read(source, json_array_get(list, i), &buffer[i]));
    }
    header->n_buffer = n;
    return GRETA_OK;
}

static greta_status tensors_read(const field_source *source, const json_t *list, const char *key,
                                 trace_tensor *tensor, int32_t *n)
{
    size_t count = json_array_size(list);
    size_t max = strcmp(key, "in") == 0 ? TRACE_IN_MAX : TRACE_OUT_MAX;
    static_assert(TRACE_OUT_MAX == TRACE_WEIGHT_MAX, "two lists, one limit");
    if (list != NULL && (count == 0 || count > max)) {
        return field_error(source, "\"%s\" is not an array of 1 to %zu tensors", key, max);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *object = json_array_get(list, i);
        if (!json_is_object(object)) {
            return field_error(source, "\"%s\" has an entry that is not an object", key);
        }
        GRETA_TRY(fields_read(source, TABLE(tensor_fields), ALL, object, &tensor[i]));
    }
    *n = (int32_t)count;
    return GRETA_OK;
}

static greta_status span_read(const field_source *source, const json_t *list, trace_span *span)
{
    int64_t offset, bytes;
    *span = (trace_span){0};
    if (list == NULL) {
        return GRETA_OK;
    }
    if (json_array_size(list) != 3) {
        return field_error(source, "\"blob\" is not [offset, bytes, hash]");
    }
    GRETA_TRY(field_whole(source, "blob", json_array_get(list, 0), 0, INT64_MAX, &offset));
    GRETA_TRY(field_whole(source, "blob", json_array_get(list, 1), 1, INT64_MAX, &bytes));
    GRETA_TRY(field_hex(source, "blob", json_array_get(list, 2), 16, &span->hash));
    span->offset = (uint64_t)offset;
    span->bytes = (uint64_t)bytes;
    return GRETA_OK;
}

static void record_clear(const field_source *source, trace_record *record)
{
    memset(record, 0, sizeof *record);
    record->line = source->line;
    record->token = record->position = record->row = -1;
    record->pass = -1;
}

greta_status record_read(const field_source *source, const json_t *object, trace_record *record,
                         trace_span *span)
{
    record_clear(source, record);
    GRETA_TRY(fields_read(source, TABLE(line_fields), ALL, object, record));
    record->has_norm = json_object_get(object, "eps") != NULL;
    unsigned when = (1u << record->kind) | (record->has_norm ? NORM : 0u);
    GRETA_TRY(fields_read(source, TABLE(record_fields), when, object, record));
    GRETA_TRY(tensors_read(source, json_object_get(object, "in"), "in", record->in, &record->n_in));
    GRETA_TRY(tensors_read(source, json_object_get(object, "weight"), "weight", record->weight,
                           &record->n_weight));
    GRETA_TRY(
        tensors_read(source, json_object_get(object, "out"), "out", record->out, &record->n_out));
    return span_read(source, json_object_get(object, "blob"), span);
}

/* ---- Scanning -------------------------------------------------------------------------------- */

static bool tensors_scan(line_scan *s, const char *key, int32_t max, trace_tensor *tensor,
                         int32_t *n)
{
    *n = 0;
    if (!scan_text(s, key)) {
        return true;
    }
    do {
        if (*n == max || !scan_text(s, "{") ||
            !fields_scan(s, TABLE(tensor_fields), ALL, &tensor[(*n)++]) || !scan_text(s, "}")) {
            return false;
        }
    } while (scan_text(s, ","));
    return scan_text(s, "]");
}

static bool span_scan(line_scan *s, trace_span *span)
{
    int64_t offset, bytes;
    *span = (trace_span){0};
    if (!scan_text(s, ",\"blob\":[")) {
        return true;
    }
    bool is_spelled = scan_whole(s, 0, INT64_MAX, &offset) && scan_text(s, ",") &&
                      scan_whole(s, 1, INT64_MAX, &bytes) && scan_text(s, ",") &&
                      scan_hex(s, 16, &span->hash) && scan_text(s, "]");
    span->offset = is_spelled ? (uint64_t)offset : 0;
    span->bytes = is_spelled ? (uint64_t)bytes : 0;
    return is_spelled;
}

bool record_scan(const field_source *source, const char *line, size_t n, trace_record *record,
                 trace_span *span)
{
    line_scan s = {line, line + (n < TRACE_SUM_BYTES ? 0 : n - TRACE_SUM_BYTES), source};
    record_clear(source, record);
    if (!scan_text(&s, "{") || !fields_scan(&s, TABLE(line_fields), ALL, record) ||
        !fields_scan(&s, TABLE(record_fields), 1u << record->kind, record)) {
        return false;
    }
    line_scan ahead = s;
    record->has_norm = scan_text(&ahead, ",\"eps\":");
    return (!record->has_norm || fields_scan(&s, TABLE(record_fields), NORM, record)) &&
           tensors_scan(&s, ",\"in\":[", TRACE_IN_MAX, record->in, &record->n_in) &&
           tensors_scan(&s, ",\"weight\":[", TRACE_WEIGHT_MAX, record->weight, &record->n_weight) &&
           tensors_scan(&s, ",\"out\":[", TRACE_OUT_MAX, record->out, &record->n_out) &&
           span_scan(&s, span) && s.at == s.end;
}

/* ---- Footer ---------------------------------------------------------------------------------- */

greta_status footer_read(const field_source *source, const json_t *object, trace_footer *footer)
{
    return fields_read(source, TABLE(footer_fields), ALL, object, footer);
}

bool footer_status_is_known(const char *status)
{
    return strcmp(status, "complete") == 0 || strcmp(status, "interrupted") == 0 ||
           strcmp(status, "truncated") == 0;
}

/* ---- What must fit together ------------------------------------------------------------------ */

static bool refuse(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool refuse(char *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, TRACE_WHY_MAX, format, args);
    va_end(args);
    return false;
}

static bool place_check(stage name, int32_t layer, const trace_header *header, char *why)
{
    if (stage_is_per_layer(name) ? layer < 0 || layer >= header->n_layer : layer != -1) {
        return refuse(why, "stage %s does not belong to layer %d of %d", stage_name(name), layer,
                      header->n_layer);
    }
    return true;
}

static bool tensor_check(const trace_record *record, const trace_tensor *tensor,
                         const trace_header *header, char *why)
{
    uint64_t bytes = 0;
    if (tensor->name != STAGE_NONE && !place_check(tensor->name, tensor->layer, header, why)) {
        return false;
    }
    if (tensor->n < 1 || tensor->n_kept < 0 || tensor->n_kept > tensor->n ||
        tensor->n_nonfinite > (uint64_t)tensor->n) {
        return refuse(why, "%" PRId64 " values kept and %" PRIu64 " not finite of %" PRId64,
                      tensor->n_kept, tensor->n_nonfinite, tensor->n);
    }
    if (record->kind == TRACE_INDEX) {
        bytes = (uint64_t)record->chunk_rows * sizeof(row_hash);
    } else if (tensor->n_kept > 0 && (!trace_values_bytes(tensor->type, tensor->n_kept, &bytes) ||
                                      (tensor->type == DTYPE_ACT_Q8 && tensor->n % 32 != 0))) {
        return refuse(why, "%" PRId64 " values of %s cannot be kept", tensor->n_kept,
                      dtype_name(tensor->type));
    }
    if (tensor->blob_bytes != bytes || (bytes > 0 && tensor->blob_offset % TRACE_BLOB_ALIGNMENT)) {
        return refuse(why,
                      "%" PRIu64 " bytes at %" PRIu64 " in the blob (%" PRIu64
                      " bytes, at a multiple of %u)",
                      tensor->blob_bytes, tensor->blob_offset, bytes, TRACE_BLOB_ALIGNMENT);
    }
    return true;
}

static bool row_check(const trace_record *record, const trace_header *header, char *why)
{
    if (record->token < 0 || record->token >= header->n_vocab) {
        return refuse(why, "token %d is outside the vocabulary of %d", record->token,
                      header->n_vocab);
    }
    if (record->position < 0 || record->sequence < 0 || record->n_out == 0) {
        return refuse(why, "position %d, sequence %d, %d outputs", record->position,
                      record->sequence, record->n_out);
    }
    if (record->row < 0 || record->row >= record->chunk_rows) {
        return refuse(why, "row %d of a pass of %" PRId64 " rows", record->row, record->chunk_rows);
    }
    return true;
}

bool record_check(const trace_record *record, const trace_header *header, char why[TRACE_WHY_MAX])
{
    const bool is_index = record->kind == TRACE_INDEX, is_weight = record->kind == TRACE_WEIGHT;
    if (!place_check(record->name, record->layer, header, why) ||
        (record->kind == TRACE_ROW && !row_check(record, header, why))) {
        return false;
    }
    if ((is_index && (record->n_in != 0 || record->n_weight != 0 || record->n_out != 1 ||
                      record->out[0].n_kept != 0 || record->chunk_rows < 1 ||
                      record->chunk_rows > LIMIT_CHUNK)) ||
        (is_weight && (record->n_in != 0 || record->n_weight != 1 || record->n_out != 0))) {
        return refuse(why, "a record of kind %s with %d, %d and %d tensors",
                      kind_names[record->kind], record->n_in, record->n_weight, record->n_out);
    }
    for (int32_t i = 0; i < record->n_in + record->n_weight + record->n_out; i++) {
        const int32_t w = i - record->n_in, o = w - record->n_weight;
        const trace_tensor *tensor = w < 0   ? &record->in[i]
                                     : o < 0 ? &record->weight[w]
                                             : &record->out[o];
        if (!tensor_check(record, tensor, header, why)) {
            return false;
        }
    }
    return true;
}
