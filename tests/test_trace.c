/* test_trace.c - traces: what is written is read, and what is damaged is refused.
 *
 * Damage is made in two ways: to the bytes of a file, which the checksums must see, and to its
 * content with checksums made right again (`reseal`), as a faulty or hostile writer would, which
 * the checks of the reader must see. The reader's limits are held from both sides.
 */
#include "base/error.h"
#include "base/limits.h"
#include "base/text.h"
#include "trace/record_json.h"
#include "trace_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

/* ---- Round trip ------------------------------------------------------------------------------ */

static bool same_float(float a, float b)
{
    return hash_float_bits(a) == hash_float_bits(b);
}

static void check_tensor(const trace_tensor *a, const trace_tensor *b, bool is_index, size_t index)
{
    assert_int_equal(a->name, b->name);
    assert_int_equal(a->layer, b->layer);
    assert_string_equal(a->tensor, b->tensor);
    assert_int_equal(a->first_row, b->first_row);
    assert_string_equal(a->buffer, b->buffer);
    assert_int_equal(a->row, b->row);
    assert_int_equal(a->offset, b->offset);
    assert_int_equal(a->stride, b->stride);
    assert_int_equal(a->slot, b->slot);
    assert_int_equal(a->generation, b->generation);
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->n, b->n);
    assert_true(same_float(a->min, b->min) && same_float(a->max, b->max));
    assert_true(same_float(a->sumsq, b->sumsq));
    assert_int_equal(a->n_nonfinite, b->n_nonfinite);
    assert_int_equal(a->hash.ordered, b->hash.ordered);
    assert_int_equal(a->hash.bag, b->hash.bag);
    assert_int_equal(a->n_kept, b->n_kept);
    assert_int_equal(a->blob_offset, b->blob_offset);
    assert_int_equal(a->blob_bytes, b->blob_bytes);
    assert_int_equal(b->blob_offset % 64, 0);
    if (is_index) {
        assert_memory_equal(a->data, b->data, index);
    } else if (a->n_kept == 0) {
        assert_null(b->data);
    } else if (a->type == DTYPE_ACT_Q8) {
        assert_memory_equal(a->data, b->data, (size_t)a->n_kept);
        assert_memory_equal((const char *)a->data + a->n, (const char *)b->data + a->n_kept,
                            (size_t)a->n_kept / 8);
    } else {
        assert_memory_equal(a->data, b->data, (size_t)a->n_kept * (a->type == DTYPE_F16 ? 2 : 4));
    }
}

static void check_text(const char *a, const char *b)
{
    assert_true((a == NULL) == (b == NULL));
    if (a != NULL) {
        assert_string_equal(a, b);
    }
}

static void check_record(const trace_record *a, const trace_record *b)
{
    bool is_index = a->kind == TRACE_INDEX;
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->prefix, b->prefix);
    assert_int_equal(a->token, b->token);
    assert_int_equal(a->position, b->position);
    assert_int_equal(a->layer, b->layer);
    assert_int_equal(a->name, b->name);
    assert_int_equal(a->phase, b->phase);
    assert_int_equal(a->pass, b->pass);
    assert_int_equal(a->chunk_rows, b->chunk_rows);
    assert_int_equal(a->sequence, b->sequence);
    assert_int_equal(a->row, b->row);
    assert_int_equal(a->first_position, b->first_position);
    check_text(a->op, b->op);
    check_text(a->kernel, b->kernel);
    assert_int_equal(a->has_norm, b->has_norm);
    assert_true(same_float(a->eps, b->eps) && same_float(a->inv_rms, b->inv_rms));
    assert_int_equal(a->count, b->count);
    assert_true(a->n_in == b->n_in && a->n_weight == b->n_weight && a->n_out == b->n_out);
    for (int i = 0; i < a->n_in; i++) {
        check_tensor(&a->in[i], &b->in[i], false, 0);
    }
    for (int i = 0; i < a->n_weight; i++) {
        check_tensor(&a->weight[i], &b->weight[i], false, 0);
    }
    for (int i = 0; i < a->n_out; i++) {
        check_tensor(&a->out[i], &b->out[i], is_index, sizeof(row_hash[SAMPLE_CHUNK]));
    }
}

/* Writes the sample and keeps what the writer made of each record, to hold reading against it. */
static void test_round_trip(void **state)
{
    (void)state;
    static sample s[SAMPLE_RECORDS];
    greta_error err = {0};
    greta_trace_options options = options_for("round.jsonl");
    trace_header header = sample_header();
    trace_writer *writer;
    trace *t;
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    assert_true(exists("round.jsonl.partial") && !exists("round.jsonl"));
    for (int k = 0; k < SAMPLE_RECORDS; k++) {
        sample_record(&s[k], k);
        assert_int_equal(trace_writer_add(writer, &s[k].record, &err), GRETA_OK);
    }
    assert_int_equal(trace_writer_end(writer, "interrupted", &err), GRETA_OK);
    assert_true(!exists("round.jsonl.partial") && !exists("round.jsonl.blob.partial"));
    assert_int_equal(trace_open(path_of("round.jsonl"), &t, &err), GRETA_OK);
    assert_string_equal(t->status, "interrupted");
    assert_string_equal(t->path, path_of("round.jsonl"));
    assert_int_equal(t->n_record, SAMPLE_RECORDS);
    for (int k = 0; k < SAMPLE_RECORDS; k++) {
        check_record(&s[k].record, &t->record[k]);
        assert_int_equal(t->record[k].line, k + 2);
    }
    assert_int_equal(t->record[1].out[1].n_kept, 64); /* 33 were asked of blocks of 32 */
    /* The header: everything but what the writer fills in. */
    header.process = getpid();
    const trace_buffer *buffer = t->header.buffer;
    assert_int_equal(t->header.n_buffer, header.n_buffer);
    for (size_t i = 0; i < header.n_buffer; i++) {
        assert_string_equal(buffer[i].name, sample_buffers[i].name);
        assert_int_equal(buffer[i].address, sample_buffers[i].address);
        assert_int_equal(buffer[i].bytes, sample_buffers[i].bytes);
    }
    header.buffer = buffer;
    assert_memory_equal(&t->header, &header, sizeof header);
    trace_close(t);
}

/* Bytes that no JSON string can hold are replaced, not refused and not cut. */
static void test_strange_names(void **state)
{
    (void)state;
    greta_error err = {0};
    greta_trace_options options = options_for("names.jsonl");
    trace_header header = sample_header();
    trace_writer *writer;
    trace *t;
    memset(header.prompt_id, 0xff, sizeof header.prompt_id); /* not UTF-8, and no terminator */
    header.prompt_id[sizeof header.prompt_id - 1] = '\0';
    memcpy(header.notes, "\xc3", 2);            /* a character that ends too early */
    memcpy(header.compiler, "\xed\xa0\x80", 4); /* a surrogate */
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_OK);
    assert_int_equal(trace_open(path_of("names.jsonl"), &t, &err), GRETA_OK);
    assert_int_equal(strspn(t->header.prompt_id, "?"), sizeof header.prompt_id - 1);
    assert_string_equal(t->header.notes, "?");
    assert_string_equal(t->header.compiler, "???");
    trace_close(t);
}

static void test_find(void **state)
{
    (void)state;
    greta_error err = {0};
    trace *t;
    write_sample("find.jsonl", SAMPLE_RECORDS);
    assert_int_equal(trace_open(path_of("find.jsonl"), &t, &err), GRETA_OK);
    for (int name = 0; name <= STAGE_COUNT; name++) {
        for (int key = 0; key < 5 * 30 * 2; key++) {
            int layer = key % 5 - 1, position = key / 5 % 30 - 1;
            greta_phase phase = key / 150 ? GRETA_PHASE_DECODE : GRETA_PHASE_PREFILL;
            const trace_record *found = NULL;
            for (size_t i = 0; i < t->n_record && found == NULL; i++) {
                const trace_record *r = &t->record[i];
                found = r->kind == TRACE_ROW && (int)r->name == name && r->layer == layer &&
                                r->phase == phase && (position == -1 || r->position == position)
                            ? r
                            : NULL;
            }
            assert_ptr_equal(trace_find(t, (stage)name, layer, position, phase), found);
        }
    }
    assert_non_null(trace_find(t, STAGE_FFN_NORM, 1, 4, GRETA_PHASE_PREFILL));
    assert_null(trace_find(t, STAGE_FFN_NORM, 3, -1, GRETA_PHASE_PREFILL));
    trace_close(t);
}

/* ---- Damage to bytes ------------------------------------------------------------------------- */

/* Cut anywhere in the last lines, a trace is its whole records, and says that it is torn. */
static void test_torn_tail(void **state)
{
    (void)state;
    write_sample("whole.jsonl", 8);
    bytes whole = load("whole.jsonl"), blob = load("whole.jsonl.blob");
    store("torn.jsonl.blob", blob.data, blob.n);
    size_t first_body = (size_t)(strchr(whole.data, '\n') - whole.data) + 1;
    for (size_t cut = 0; cut < whole.n; cut++) {
        greta_error err = {0};
        trace *t;
        size_t lines = 0;
        for (size_t i = 0; i < cut; i++) {
            lines += whole.data[i] == '\n';
        }
        store("torn.jsonl", whole.data, cut);
        greta_status status = trace_open(path_of("torn.jsonl"), &t, &err);
        if (cut < first_body) {
            expect(&err, GRETA_BAD_INPUT, cut < 15 ? "line 1: not a greta trace" : "line 1: ");
            assert_null(t);
            continue;
        }
        assert_int_equal(status, GRETA_OK);
        assert_string_equal(t->status, "torn");
        assert_int_equal(t->n_record, lines - 1);
        trace_close(t);
    }
    free(whole.data);
    free(blob.data);
}

/* Values that never reached the disk: without a footer a torn tail, with one damage. */
static void test_torn_blob(void **state)
{
    (void)state;
    greta_error err = {0};
    trace *all;
    write_sample("whole.jsonl", 8);
    bytes whole = load("whole.jsonl"), blob = load("whole.jsonl.blob");
    size_t body = (size_t)((char *)memrchr(whole.data, '\n', whole.n - 1) - whole.data) + 1;
    assert_int_equal(trace_open(path_of("whole.jsonl"), &all, &err), GRETA_OK);
    for (size_t cut = 0; cut < blob.n; cut += 32) {
        trace *t;
        size_t n = 0; /* records before the first whose values, with padding, are not all there */
        for (; n < 8; n++) {
            const trace_record *r = &all->record[n];
            const trace_tensor *last = r->n_out ? &r->out[r->n_out - 1] : &r->weight[0];
            if ((last->blob_offset + last->blob_bytes + 63) / 64 * 64 > cut) {
                break;
            }
        }
        store("torn.jsonl", whole.data, body);
        store("torn.jsonl.blob", blob.data, cut);
        assert_int_equal(trace_open(path_of("torn.jsonl"), &t, &err), GRETA_OK);
        assert_string_equal(t->status, "torn");
        assert_int_equal(t->n_record, n);
        trace_close(t);
        err = (greta_error){0};
        store("torn.jsonl", whole.data, whole.n);
        assert_int_equal(try_open("torn.jsonl", &err), GRETA_BAD_INPUT);
        expect(&err, GRETA_BAD_INPUT, "in a blob of");
        err = (greta_error){0};
    }
    trace_close(all);
    free(whole.data);
    free(blob.data);
}

/* Any changed byte of either file is refused, or cuts off a tail that the change made torn. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    write_sample("flip.jsonl", 4);
    bytes whole = load("flip.jsonl"), blob = load("flip.jsonl.blob");
    int fd[2] = {open(path_of("flip.jsonl"), O_RDWR), open(path_of("flip.jsonl.blob"), O_RDWR)};
    assert_true(fd[0] >= 0 && fd[1] >= 0);
    for (size_t i = 0; i < whole.n + blob.n; i++) {
        greta_error err = {0};
        trace *t;
        int side = i >= whole.n;
        off_t place = (off_t)(side ? i - whole.n : i);
        char before = side ? blob.data[place] : whole.data[place];
        char after = (char)(before ^ (1 << (i % 8)));
        assert_int_equal(pwrite(fd[side], &after, 1, place), 1);
        if (trace_open(path_of("flip.jsonl"), &t, &err) == GRETA_OK) {
            assert_int_equal(i, whole.n - 1); /* only the last newline can be missed */
            assert_string_equal(t->status, "torn");
            assert_int_equal(t->n_record, 4);
            trace_close(t);
        } else {
            assert_int_equal(err.code, GRETA_BAD_INPUT);
            assert_true(err.place == GRETA_PLACE_LINE && err.file[0] != '\0');
        }
        assert_int_equal(pwrite(fd[side], &before, 1, place), 1);
    }
    close(fd[0]);
    close(fd[1]);
    free(whole.data);
    free(blob.data);
}

/* ---- Damage to content ----------------------------------------------------------------------- */

/* Copies the trace `name` with `from` replaced by `to` in line `line` (from 1; 0: nothing) and all
 * checksums made right. A NULL `to` drops the line, a NULL `from` repeats it. */
static void reseal(const char *name, const char *copy, size_t line, const char *from,
                   const char *to)
{
    bytes whole = load(name), blob = load("base.jsonl.blob");
    XXH64_state_t *digest = XXH64_createState();
    text out = {0};
    uint64_t sum = 0;
    size_t number = 0;
    XXH64_reset(digest, 0);
    for (char *start = whole.data; *start != '\0';) {
        char *end = strchr(start, '\n');
        text one = {0};
        number++;
        int copies = number == line && to == NULL ? 0 : number == line && from == NULL ? 2 : 1;
        text_append(&one, start, (size_t)(end - start) - TRACE_SUM_BYTES);
        if (number == line && from != NULL && to != NULL) {
            char *found = strstr(one.data, from);
            assert_non_null(found);
            text changed = {0};
            text_append(&changed, one.data, (size_t)(found - one.data));
            text_string(&changed, to);
            text_string(&changed, found + strlen(from));
            text_free(&one);
            one = changed;
        }
        bool is_footer = strncmp(one.data, "{\"end\":", 7) == 0;
        if (is_footer) {
            char hex[17];
            snprintf(hex, sizeof hex, "%016" PRIx64, XXH64_digest(digest));
            memcpy(strstr(one.data, "\"digest\":\"") + 10, hex, 16);
        }
        for (int i = 0; i < copies; i++) {
            text sealed = {0};
            text_append(&sealed, one.data, one.length);
            uint64_t header_sum = 0;
            line_seal(&sealed, number == 1 ? &header_sum : &sum);
            XXH64_update(digest, sealed.data, sealed.length);
            text_append(&out, sealed.data, sealed.length);
            text_free(&sealed);
        }
        text_free(&one);
        start = end + 1;
    }
    store(copy, out.data, out.length);
    char blob_name[100];
    snprintf(blob_name, sizeof blob_name, "%s.blob", copy);
    store(blob_name, blob.data, blob.n);
    XXH64_freeState(digest);
    text_free(&out);
    free(whole.data);
    free(blob.data);
}

/* Lines of base.jsonl: 1 header, 2 a norm, 3 attention, 4 an index, 5 a weight, 6 a norm, 7 ... */
static const struct damage {
    size_t line;
    const char *from, *to, *expected;
} damages[] = {
    {1, "{\"greta_trace\":1", "{\"greta_trace\":3",
     "line 1: trace version 3, this greta reads up to 1"},
    {1, "{\"greta_trace\":1", "{\"greta_trace\":0",
     "line 1: \"greta_trace\" is not a whole number"},
    {1, "{\"greta_trace\":1", "{\"greta_trace\":", "line 1: trace version"},
    {1, "{\"greta_trace\":1,", "{", "line 1: not a greta trace"},
    {1, "\"n_layer\":3", "\"n_layer\":1025", "line 1: \"n_layer\" is 1025 (at most 1024)"},
    {1, "\"n_layer\":3", "\"n_layer\":-3", "line 1: \"n_layer\" is not a whole number from 0 to"},
    {1, "\"n_layer\":3", "\"n_layer\":3,\"n_layer\":3", "line 1: not JSON: duplicate object key"},
    {1, "\"n_layer\":3,", "", "line 1: \"n_layer\" is missing"},
    {1, "\"mxcsr\":\"0", "\"mxcsr\":\"g", "line 1: \"mxcsr\" is not 8 hex digits"},
    {1, "\"kv\":\"f16\"", "\"kv\":\"f16f16f16\"", "line 1: \"kv\" is longer than 7 bytes"},
    {1, "\"kv\":\"f16\"", "\"kv\":16", "line 1: \"kv\" is not a string"},
    {1, "\"buffers\":[[", "\"buffers\":[5,[", "line 1: \"buffers\" has an entry that is not"},
    {1, "\"buffers\":[[", "\"buffers_\":[[", "line 1: \"buffers\" is not an array"},
    {2, "{\"n\":0", "[\"n\",0", "line 2: not JSON"},
    {2, "{\"n\":0", "\"n\":0", "line 2: not JSON"},
    {2, "{\"n\":0", "{\"n\":1", "line 2: record 0 expected, found 1"},
    {4, "{\"n\":2", "{\"greta_trace\":1,\"n\":2", "line 4: a second header"},
    {4, NULL, NULL, "line 4: record 2 expected, found 3"}, /* dropped */
    {4, NULL, "", "line 5: record 3 expected, found 2"},   /* repeated */
    {2, "\"kind\":\"row\"", "\"kind\":\"rows\"", "line 2: \"kind\" is unknown: \"rows\""},
    {2, "\"stage\":\"ffn_norm\"", "\"stage\":\"ffn\\u001b\"",
     "line 2: \"stage\" is unknown: \"ffn\\x1b\""},
    {2, "\"stage\":\"ffn_norm\"", "\"stage\":\"logits\"",
     "line 2: stage logits does not belong to layer 0 of 3"},
    {2, "\"layer\":0", "\"layer\":3", "line 2: stage ffn_norm does not belong to layer 3 of 3"},
    {2, "\"in\":[{\"stage\":\"x_after_attn\",\"layer\":0", "\"in\":[{\"stage\":\"x_after_attn\"",
     "line 2: stage x_after_attn does not belong to layer -1"},
    {2, "\"layer\":0", "\"layer\":1e0", "line 2: \"layer\" is not a whole number"},
    {2, "\"layer\":0", "\"layer\":2147483648",
     "line 2: \"layer\" is not a whole number from -1 to"},
    {2, "\"layer\":0", "\"layer\":99999999999999999999", "line 2: not JSON: too big integer"},
    {2, "\"token\":100", "\"token\":49152",
     "line 2: token 49152 is outside the vocabulary of 49152"},
    {2, "\"token\":100,", "", "line 2: \"token\" is missing"},
    {2, "\"row\":0", "\"row\":6", "line 2: row 6 of a pass of 6 rows"},
    {2, "\"phase\":\"prefill\"", "\"phase\":\"encode\"", "line 2: \"phase\" is unknown"},
    {2, "\"prefix\":\"", "\"prefix\":\"0", "line 2: \"prefix\" is not 16 hex digits"},
    {2, "1e-05]", "1e400]", "line 2: not JSON: real number overflow"},
    {2, "1e-05]", "NaN]", "line 2: not JSON"},
    {2, "1e-05]", "\"nan\"]", "line 2: \"eps\" is not a number"},
    {2, "1e-05]", "1.1e-05]", "line 2: \"eps\" is not a number: its bits are 3727c5ac, which is"},
    {2, "[\"3727c5ac\",1e-05]", "1e-05", "line 2: \"eps\" is not a number"},
    {2, "[\"3727c5ac\",1e-05]", "[\"7fc00001\",\"nan\"]", "line 2: \"eps\" is not a number"},
    {2, "\"inv_rms\":", "\"inv\":", "line 2: \"inv_rms\" is missing"},
    {2, "\"type\":\"F32\"", "\"type\":\"F33\"", "line 2: \"type\" is unknown"},
    {2, "\"type\":\"F32\",\"n\":96", "\"type\":\"F32\",\"n\":95", "line 2: 96 values kept"},
    {2, "\"type\":\"F32\",\"n\":96", "\"type\":\"F32\",\"n\":0",
     "line 2: \"n\" is not a whole number"},
    {2, "\"kept\":96", "\"kept\":95", "line 2: 384 bytes at 0 in the blob (380 bytes"},
    {2, "\"type\":\"F32\"", "\"type\":\"Q4_K\"", "line 2: 96 values of Q4_K cannot be kept"},
    {2, "\"at\":384", "\"at\":388", "line 2: 20 bytes at 388 in the blob"},
    {2, "\"at\":448", "\"at\":512", "line 2: values outside the record's part of the blob"},
    {2, "\"at\":448", "\"at\":384", "line 2: the hash of a row is not that of its kept values"},
    {2, "\"blob\":[0,", "\"blob\":[64,", "line 2: values at 64 in the blob (0 expected)"},
    {2, "\"blob\":[0,832,", "\"blob\":[0,831,", "line 2: values at 0 in the blob"},
    {2, "\"blob\":[0,832,", "\"blob\":[0,768,",
     "line 2: values in the blob do not match their hash"},
    {2, "\"blob\":[0,832,", "\"blob\":[0,1048576,", "line 2: values up to 1048576 in a blob of"},
    {2, ",\"blob\":[", ",\"blub\":[", "line 2: values outside the record's part of the blob"},
    {2, "\"blob\":[0,", "\"blob\":[", "line 2: \"blob\" is not [offset, bytes, hash]"},
    {2, "\"in\":[{", "\"in\":[7,{", "line 2: \"in\" has an entry that is not an object"},
    {2, "\"in\":[{", "\"in\":[{},{},{},{},{", "line 2: \"in\" is not an array of 1 to 4 tensors"},
    {3, "\"type\":\"ACT_Q8\",\"n\":96", "\"type\":\"ACT_Q8\",\"n\":97",
     "line 3: 96 values of ACT_Q8"},
    {4, "\"rows\":6", "\"rows\":5", "line 4: 96 bytes at"},
    {4, "\"rows\":6", "\"rows\":65537", "line 4: a record of kind index"},
    {4, "\"out\":[", "\"weight\":[", "line 4: a record of kind index"},
    {5, "\"weight\":[", "\"in\":[", "line 5: a record of kind weight"},
    {10, "\"records\":8", "\"records\":7", "line 10: the footer is of 7 other records (8 precede"},
    {10, "\"blob_bytes\":", "\"blob_bytes\":1", "line 10: a blob of"},
    {10, "\"digest\":\"", "\"digest\":\"0", "line 10: \"digest\" is not 16 hex digits"},
    {10, "\"end\":\"complete\"", "\"end\":\"torn\"", "line 10: \"end\" is not complete"},
    {10, NULL, "", "line 11: text after the footer"},
};

static void test_damaged_content(void **state)
{
    (void)state;
    write_sample("base.jsonl", 8);
    greta_error clean = {0};
    reseal("base.jsonl", "sealed.jsonl", 0, NULL, NULL);
    bytes a = load("base.jsonl"), b = load("sealed.jsonl");
    assert_int_equal(a.n, b.n); /* resealing what is right changes nothing */
    assert_memory_equal(a.data, b.data, a.n);
    assert_int_equal(try_open("sealed.jsonl", &clean), GRETA_OK);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        const struct damage *d = &damages[i];
        greta_error err = {0};
        reseal("base.jsonl", "sealed.jsonl", d->line, d->from, d->to);
        assert_int_equal(try_open("sealed.jsonl", &err), GRETA_BAD_INPUT);
        expect(&err, GRETA_BAD_INPUT, d->expected);
        expect(&err, GRETA_BAD_INPUT, "sealed.jsonl");
    }
    free(a.data);
    free(b.data);
}

/* The footer binds the header and the blob's size, which no checksum of the body sees. */
static void test_footer_binds(void **state)
{
    (void)state;
    greta_error err = {0};
    text other = {0};
    uint64_t sum = 0;
    write_sample("bound.jsonl", 8);
    bytes whole = load("bound.jsonl"), blob = load("bound.jsonl.blob");
    char *body = strchr(whole.data, '\n') + 1, *n_thread = strstr(whole.data, "\"n_thread\":3");
    assert_non_null(n_thread);
    n_thread[strlen("\"n_thread\":")] = '4';
    text_append(&other, whole.data, (size_t)(body - whole.data) - TRACE_SUM_BYTES - 1);
    line_seal(&other, &sum);
    text_append(&other, body, whole.n - (size_t)(body - whole.data));
    store("bound.jsonl", other.data, other.length);
    assert_int_equal(try_open("bound.jsonl", &err), GRETA_BAD_INPUT);
    expect(&err, GRETA_BAD_INPUT, "line 10: the footer is of 8 other records");

    err = (greta_error){0};
    write_sample("bound.jsonl", 8);
    store("bound.jsonl.blob", blob.data, blob.n + 1); /* load put a NUL there */
    assert_int_equal(try_open("bound.jsonl", &err), GRETA_BAD_INPUT);
    expect(&err, GRETA_BAD_INPUT, "line 10: a blob of");
    text_free(&other);
    free(whole.data);
    free(blob.data);
}

/* ---- Limits ---------------------------------------------------------------------------------- */

/* The base trace with a member that no reader knows put into its first record. */
static greta_status open_with_member(const char *member, greta_error *err)
{
    text to = {0};
    text_string(&to, "{\"n\":0,\"unknown\":");
    text_string(&to, member);
    text_string(&to, ",\"kind\"");
    assert_false(to.failed);
    reseal("base.jsonl", "limit.jsonl", 2, "{\"n\":0,\"kind\"", to.data);
    text_free(&to);
    *err = (greta_error){0};
    return try_open("limit.jsonl", err);
}

static void test_limits(void **state)
{
    (void)state;
    greta_error err;
    char nested[2 * LIMIT_JSON_DEPTH + 1];
    write_sample("base.jsonl", 8);
    /* Unknown members are skipped: a later greta may add some. Brackets in strings do not count. */
    assert_int_equal(open_with_member("\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"", &err),
                     GRETA_OK);
    for (unsigned depth = LIMIT_JSON_DEPTH - 1; depth <= LIMIT_JSON_DEPTH; depth++) {
        memset(nested, '[', depth);
        memset(nested + depth, ']', depth);
        nested[2 * depth] = '\0';
        greta_status status = open_with_member(nested, &err);
        assert_int_equal(status, depth < LIMIT_JSON_DEPTH ? GRETA_OK : GRETA_BAD_INPUT);
    }
    expect(&err, GRETA_BAD_INPUT, "line 2: nested more than 32 deep");

    bytes base = load("base.jsonl");
    char *line = strchr(base.data, '\n') + 1;
    size_t n = (size_t)(strchr(line, '\n') - line), added = strlen("\"unknown\":\"\",");
    size_t fill = LIMIT_TRACE_LINE_BYTES - n - added;
    char *filler = malloc(fill + 4);
    assert_non_null(filler);
    for (size_t more = 0; more < 2; more++) {
        memset(filler, 'x', fill + more + 2);
        filler[0] = filler[fill + more + 1] = '"';
        filler[fill + more + 2] = '\0';
        greta_status status = open_with_member(filler, &err);
        assert_int_equal(status, more ? GRETA_BAD_INPUT : GRETA_OK);
    }
    expect(&err, GRETA_BAD_INPUT, "line 2: a line of more than 1048576 bytes");
    free(filler);
    free(base.data);
}

/* As many names of ops and kernels as the limit allows, then one more. */
static void test_names_limit(void **state)
{
    (void)state;
    for (unsigned more = 0; more < 2; more++) {
        greta_error err = {0};
        greta_trace_options options = options_for("pool.jsonl");
        trace_header header = sample_header();
        trace_writer *writer;
        sample s;
        options.overwrite = 1;
        assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
        for (unsigned i = 0; i < LIMIT_TRACE_NAMES + more; i++) {
            char name[16];
            sample_record(&s, 3);
            snprintf(name, sizeof name, "op%u", i);
            s.record.op = name;
            s.record.kernel = NULL;
            assert_int_equal(trace_writer_add(writer, &s.record, &err), GRETA_OK);
        }
        assert_int_equal(trace_writer_end(writer, "complete", &err), GRETA_OK);
        assert_int_equal(try_open("pool.jsonl", &err), more ? GRETA_BAD_INPUT : GRETA_OK);
        if (more) {
            expect(&err, GRETA_BAD_INPUT, "line 1026: more than 1024 different names");
        }
    }
}

/* ---- Files that are no trace ----------------------------------------------------------------- */

static void test_other_files(void **state)
{
    (void)state;
    static const struct {
        const char *content, *expected;
    } others[] = {
        {"", "line 1: not a greta trace (the file is empty)"},
        {"\n", "line 1: not a greta trace"},
        {"{}\n", "line 1: not a greta trace"},
        {"GGUF", "line 1: not a greta trace"},
        {"{\"greta_trace\":1", "line 1: the file ends inside the header"},
        {"{\"greta_trace\":12345678901234567890}\n", "line 1: trace version 123456789, this"},
        {"{\"greta_trace\":1}\n", "line 1: checksum does not match"},
        {"{\"greta_trace\":1,\"sum\":\"0000000000000000\"}\n", "line 1: checksum does not match"},
    };
    write_sample("base.jsonl", 8);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        greta_error err = {0};
        store("other.jsonl", others[i].content, strlen(others[i].content));
        assert_int_equal(try_open("other.jsonl", &err), GRETA_BAD_INPUT);
        expect(&err, GRETA_BAD_INPUT, others[i].expected);
    }
    greta_error err = {0};
    assert_int_equal(try_open("absent.jsonl", &err), GRETA_IO);
    expect(&err, GRETA_IO, "absent.jsonl");
    err = (greta_error){0};
    assert_int_equal(try_open(".", &err), GRETA_IO);

    /* The blob: missing, a link out of the folder, a folder. */
    reseal("base.jsonl", "sealed.jsonl", 0, NULL, NULL);
    unlink(path_of("sealed.jsonl.blob"));
    err = (greta_error){0};
    assert_int_equal(try_open("sealed.jsonl", &err), GRETA_BAD_INPUT);
    expect(&err, GRETA_BAD_INPUT, "sealed.jsonl.blob: the trace's blob cannot be read: no such");
    assert_int_equal(symlink("base.jsonl.blob", path_of("sealed.jsonl.blob")), 0);
    err = (greta_error){0};
    assert_int_equal(try_open("sealed.jsonl", &err), GRETA_BAD_INPUT);
    expect(&err, GRETA_BAD_INPUT, "blob leaves the trace folder");
    unlink(path_of("sealed.jsonl.blob"));
}

/* Both halves of an unfinished trace can be read, also when a crash fell between the renames. */
static void test_partial_names(void **state)
{
    (void)state;
    greta_error err = {0};
    write_sample("base.jsonl", 8);
    reseal("base.jsonl", "sealed.jsonl", 0, NULL, NULL);
    assert_int_equal(rename(path_of("sealed.jsonl"), path_of("sealed.jsonl.partial")), 0);
    assert_int_equal(try_open("sealed.jsonl.partial", &err), GRETA_OK);
    assert_int_equal(rename(path_of("sealed.jsonl.blob"), path_of("sealed.jsonl.blob.partial")), 0);
    assert_int_equal(try_open("sealed.jsonl.partial", &err), GRETA_OK);
}

/* The words that are hashed, spelled out for each type. */
static void test_hash_words(void **state)
{
    (void)state;
    static const float f[] = {1.0f, NAN, -0.0f};
    static const uint16_t h[] = {0x3c00, 0xfe01, 0x8000};
    static const uint32_t f_words[] = {0x3f800000, 0x7fc00000, 0x80000000};
    static const uint32_t h_words[] = {0x3c00, 0x7e00, 0x8000};
    struct {
        int8_t code[32];
        float scale;
    } q = {{-1, 2}, -2.0f};
    row_hash expected[3] = {{0, 0}, {0, 0}, {0, 0}};
    for (uint64_t i = 0; i < 3; i++) {
        hash_word(&expected[0], i, f_words[i]);
        hash_word(&expected[1], i, h_words[i]);
    }
    hash_word(&expected[2], 0, 0xffffffffu);
    hash_word(&expected[2], 1, 2);
    for (uint64_t i = 2; i < 32; i++) {
        hash_word(&expected[2], i, 0);
    }
    hash_word(&expected[2], 32, 0xc0000000u);
    row_hash got[3] = {trace_values_hash(DTYPE_F32, f, 3), trace_values_hash(DTYPE_F16, h, 3),
                       trace_values_hash(DTYPE_ACT_Q8, &q, 32)};
    assert_memory_equal(got, expected, sizeof got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_strange_names),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_torn_tail),
        cmocka_unit_test(test_torn_blob),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_damaged_content),
        cmocka_unit_test(test_footer_binds),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_names_limit),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_partial_names),
        cmocka_unit_test(test_hash_words),
    };
    return cmocka_run_group_tests_name("trace", tests, files_begin, files_end);
}
