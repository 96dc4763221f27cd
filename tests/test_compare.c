/* test_compare.c - two traces, record by record: what pairs, what differs, and when nothing can be
 * said. The traces are written here, so that each case differs from the healthy one in one thing.
 */
#include "explain/pair.h"
#include "trace_files.h"

#include <jansson.h>

/* A run of `n` tokens: embed, then per layer q (F32), k_cache (F16), ffn_norm, ffn_norm_q8. */
typedef struct run {
    int n_layer, chunk; /* of the prefill; 1: all decode */
    int32_t token[12];
    int n;
    int64_t sample;                  /* values kept; -1: all */
    stage only;                      /* STAGE_NONE: all stages */
    int fault_position, fault_layer; /* where the output of a stage is wrong; -1: nowhere */
    stage fault;
    bool spreads;   /* to all later positions and layers */
    bool no_hashes; /* of q */
    stage twice;    /* whose rows stand twice in their pass; STAGE_NONE: none */
    float eps;
    int32_t n_thread, arithmetic;
    const char *kv, *end;
    uint64_t model_hash;
} run;

static const run healthy = {.n_layer = 3,
                            .chunk = 4,
                            .token = {5, 6, 7, 8, 9, 10, 11, 12},
                            .n = 8,
                            .sample = -1,
                            .only = STAGE_NONE,
                            .fault_position = -1,
                            .fault_layer = -1,
                            .fault = STAGE_FFN_NORM,
                            .twice = STAGE_NONE,
                            .eps = 1e-5f,
                            .n_thread = 1,
                            .arithmetic = 1,
                            .kv = "f16",
                            .end = "complete",
                            .model_hash = 77};

#define WIDTH 64

typedef struct rows_memory {
    float x[WIDTH], y[WIDTH];
    uint16_t half[WIDTH];
    struct {
        int8_t code[WIDTH];
        float scale[WIDTH / 32];
    } q8;
} rows_memory;

static void put_row(const run *r, trace_writer *writer, trace_record *record)
{
    greta_error err = {0};
    if (r->only == STAGE_NONE || r->only == record->name) {
        for (int i = 0; i < (r->twice == record->name ? 2 : 1); i++) {
            assert_int_equal(trace_writer_add(writer, record, &err), GRETA_OK);
        }
    }
}

static trace_tensor row_of(const run *r, stage name, int layer, dtype type, const void *data)
{
    int64_t kept = r->sample < 0 ? WIDTH : r->sample;
    trace_tensor t = sample_tensor(type, data, WIDTH, type == DTYPE_ACT_Q8 && kept ? WIDTH : kept);
    t.name = name;
    t.layer = layer;
    if (type == DTYPE_F32) {
        sample_statistics(&t, data);
    }
    return t;
}

/* Values that depend on the place and, through the prefix, on all tokens so far. */
static void fill(rows_memory *m, uint64_t prefix, int layer, int which)
{
    for (int i = 0; i < WIDTH; i++) {
        m->x[i] = sinf((float)(prefix % 997) + (float)(layer * 31 + which * 7 + i));
        m->y[i] = m->x[i] * 0.5f;
        m->half[i] = (uint16_t)(0x3000 + (prefix + (uint64_t)(i * 5 + layer)) % 997);
        m->q8.code[i] = (int8_t)(i + (int)(prefix % 61) - 60);
    }
    m->q8.scale[0] = 0.5f;
    m->q8.scale[1] = 0.25f;
}

static void plant(const run *r, rows_memory *m, const trace_record *record)
{
    bool is_place = record->position == r->fault_position && record->layer == r->fault_layer;
    bool is_later = record->position >= r->fault_position && record->layer >= r->fault_layer;
    if (record->name == r->fault && (r->spreads ? is_later : is_place)) {
        m->y[3] = nextafterf(m->y[3], 2.0f);
        m->y[10] += 0.25f;
        m->half[2] ^= 1;
        m->q8.code[1] ^= 2;
    }
}

static void put_token(const run *r, trace_writer *writer, int position, uint64_t prefix)
{
    rows_memory m;
    int chunk = r->chunk, pass = position / chunk;
    int left = r->n - pass * chunk;
    for (int layer = -1; layer < r->n_layer; layer++) {
        static const stage stages[] = {STAGE_Q, STAGE_K_CACHE, STAGE_FFN_NORM, STAGE_FFN_NORM_Q8};
        static const dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_F32, DTYPE_ACT_Q8};
        for (int s = 0; s < (layer < 0 ? 1 : 4); s++) {
            trace_record record = {.name = layer < 0 ? STAGE_EMBED : stages[s], .layer = layer};
            record.prefix = prefix;
            record.position = position;
            record.token = r->token[position];
            record.phase = chunk > 1 ? GRETA_PHASE_PREFILL : GRETA_PHASE_DECODE;
            record.pass = pass;
            record.row = position % chunk;
            record.chunk_rows = left < chunk ? left : chunk;
            record.kernel = "ref";
            fill(&m, prefix, layer, s);
            plant(r, &m, &record);
            const void *data = types[s] == DTYPE_F32   ? (void *)m.y
                               : types[s] == DTYPE_F16 ? (void *)m.half
                                                       : (void *)&m.q8;
            record.n_in = record.n_out = 1;
            record.in[0] = row_of(r, STAGE_X_AFTER_ATTN, layer < 0 ? 0 : layer, DTYPE_F32, m.x);
            record.out[0] = row_of(r, record.name, layer, types[s], data);
            if (record.name == STAGE_Q && r->no_hashes) {
                record.out[0].hash = (row_hash){0, 0};
                record.out[0].n_kept = 0;
            }
            if (record.name == STAGE_FFN_NORM) {
                record.has_norm = 1;
                record.eps = position == r->fault_position ? r->eps : 1e-5f;
                record.inv_rms = 2.0f;
                record.count = WIDTH;
            }
            put_row(r, writer, &record);
        }
    }
}

static void write_run(const char *name, const run *r)
{
    greta_error err = {0};
    trace_header header = sample_header();
    trace_writer *writer;
    greta_trace_options options = options_for(name);
    options.overwrite = 1;
    header.n_layer = r->n_layer;
    header.n_chunk = r->chunk;
    header.n_thread = r->n_thread;
    header.arithmetic = r->arithmetic;
    header.model_hash = r->model_hash;
    snprintf(header.kv, sizeof header.kv, "%s", r->kv);
    snprintf(header.notes, sizeof header.notes, "%s",
             name); /* headers of two runs are never equal */
    uint64_t prefix = 0;
    assert_int_equal(trace_writer_new(&options, &header, &writer, &err), GRETA_OK);
    for (int position = 0; position < r->n; position++) {
        prefix = hash_prefix(prefix, r->token[position]);
        put_token(r, writer, position, prefix);
    }
    assert_int_equal(trace_writer_end(writer, r->end, &err), GRETA_OK);
}

/* Compares a.jsonl and b.jsonl. Checks the verdict and returns the JSON; *shown gets the text. */
static json_t *compared(greta_status verdict, char **shown)
{
    greta_error err = {0};
    json_error_t json_error;
    greta_status got = GRETA_BUG;
    char *json = NULL;
    assert_int_equal(
        greta_compare(NULL, path_of("a.jsonl"), path_of("b.jsonl"), NULL, 0, shown, &got, &err),
        GRETA_OK);
    if (got != verdict) {
        fail_msg("verdict %d, expected %d:\n%s", got, verdict, *shown);
    }
    assert_int_equal(
        greta_compare(NULL, path_of("a.jsonl"), path_of("b.jsonl"), NULL, 1, &json, &got, &err),
        GRETA_OK);
    assert_int_equal(got, verdict);
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &json_error);
    assert_non_null(root);
    free(json);
    return root;
}

static int64_t number_in(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void has(const char *shown, const char *part)
{
    if (strstr(shown, part) == NULL) {
        fail_msg("no \"%s\" in:\n%s", part, shown);
    }
}

/* Rows per token of the healthy run. */
enum { ROWS = 1 + 3 * 4 };

/* Chunks of four against one token at a time: other passes, rows and phases, the same keys. */
static void test_equal(void **state)
{
    (void)state;
    char *shown;
    run b = healthy;
    b.chunk = 1;
    write_run("a.jsonl", &healthy);
    write_run("b.jsonl", &b);
    json_t *root = compared(GRETA_OK, &shown);
    has(shown, "equal: all 104 pairs are equal, bit for bit");
    has(shown, "n_chunk          4  |  1");
    has(shown, "no difference");
    has(shown, "not looked at: tokens, embed_scaled, attn_norm,");
    assert_int_equal(number_in(root, "paired"), 8 * ROWS);
    assert_int_equal(number_in(root, "equal"), 8 * ROWS);
    assert_true(json_is_null(json_object_get(root, "first_difference")));
    json_decref(root);
    free(shown);
}

static json_t *differing(const run *b, greta_status verdict, char **shown)
{
    write_run("a.jsonl", &healthy);
    write_run("b.jsonl", b);
    return compared(verdict, shown);
}

static void test_difference(void **state)
{
    (void)state;
    char *shown;
    run b = healthy;
    b.chunk = 1;
    b.fault_position = 6;
    b.fault_layer = 1;
    json_t *root = differing(&b, GRETA_FAULT, &shown);
    json_t *first = json_object_get(root, "first_difference");
    assert_int_equal(number_in(root, "differ"), 1);
    assert_string_equal(json_string_value(json_object_get(first, "stage")), "ffn_norm");
    assert_int_equal(number_in(first, "layer"), 1);
    assert_int_equal(number_in(first, "position"), 6);
    assert_int_equal(number_in(first, "n_compared"), WIDTH);
    assert_int_equal(number_in(first, "n_differ"), 2);
    assert_int_equal(number_in(first, "largest"), 10);
    assert_true(fabs(json_number_value(json_object_get(first, "abs_max")) - 0.25) < 1e-6);
    assert_true(number_in(first, "ulp_max") > 1);
    assert_string_equal(json_string_value(json_object_get(first, "inputs")), "equal");
    has(shown, "first difference: layer 1, ffn_norm, position 6 (token 11)");
    has(shown, "prefill pass 1 row 2  |  decode pass 6 row 0");
    has(shown, "2 of 64 kept values differ (64 in the row), at most by 2.500e-01 (value 10: ");
    has(shown, "fault: 1 of 104 pairs differ where equal bits are promised");
    json_decref(root);
    free(shown);

    /* First is first in the execution of A, not in the order of keys: pass, layer, then row. */
    b.fault = STAGE_K_CACHE;
    b.spreads = true;
    for (b.fault_position = 0; b.fault_position < 8; b.fault_position++) {
        char expected[80];
        root = differing(&b, GRETA_FAULT, &shown);
        snprintf(expected, sizeof expected, "first difference: layer 1, k_cache, position %d",
                 b.fault_position);
        assert_int_equal(number_in(root, "differ"), 2 * (8 - b.fault_position));
        has(shown, expected);
        has(shown, "1 of 64 kept values differ");
        has(shown, ", 1 ulp");
        json_decref(root);
        free(shown);
    }
    b.fault_position = 6;
    b.spreads = false;

    b.fault = STAGE_FFN_NORM_Q8;
    root = differing(&b, GRETA_FAULT, &shown);
    has(shown, "1 of 64 kept values differ (64 in the row), at most by 1.000e+00 (value 1: ");
    assert_null(json_object_get(json_object_get(root, "first_difference"), "ulp_max"));
    json_decref(root);
    free(shown);
}

/* Without values the hashes and statistics decide; with few, the values may miss the place. */
static void test_hash_only(void **state)
{
    (void)state;
    for (int64_t kept = 0; kept <= 3; kept += 3) {
        char *shown;
        run b = healthy;
        b.chunk = 1;
        b.fault_position = 6;
        b.fault_layer = 1;
        b.sample = kept;
        json_t *root = differing(&b, GRETA_FAULT, &shown);
        json_t *first = json_object_get(root, "first_difference");
        assert_int_equal(number_in(root, "differ"), 1);
        assert_int_equal(number_in(first, "n_compared"), kept);
        assert_int_equal(number_in(first, "n_differ"), 0);
        assert_null(json_object_get(first, "abs_max"));
        has(shown, "first difference: layer 1, ffn_norm, position 6");
        json_decref(root);
        free(shown);
    }
}

/* Equal outputs from a kernel that was given another eps: bits that are promised, too. */
static void test_norm_numbers(void **state)
{
    (void)state;
    char *shown;
    run b = healthy;
    b.chunk = 2;
    b.fault_position = 3; /* no layer: nothing is planted but eps */
    b.eps = 1e-6f;
    json_t *root = differing(&b, GRETA_FAULT, &shown);
    json_t *first = json_object_get(root, "first_difference");
    assert_int_equal(number_in(root, "differ"), 3);
    assert_string_equal(json_string_value(json_object_get(first, "what")), "eps");
    has(shown, "first difference: layer 0, ffn_norm, position 3");
    has(shown, "eps 1e-05, count 64, inv_rms 2  |  1e-06, 64, 2");
    json_decref(root);
    free(shown);
}

/* Nobody promises equal bits across arithmetics, caches or models: shown, not judged. */
static void test_no_promise(void **state)
{
    (void)state;
    for (int what = 0; what < 5; what++) {
        static const char *const reason[] = {"arithmetic differs", "kv differs",
                                             "model_hash differs", "an unknown model differs", ""};
        char *shown;
        run a = healthy, b = healthy;
        b.fault_position = what == 4 ? -1 : 6;
        b.fault_layer = 1;
        b.arithmetic = what == 0 || what == 4 ? 2 : 1;
        b.kv = what == 1 ? "f32" : "f16";
        b.model_hash = what == 2 ? 78 : what == 3 ? 0 : 77;
        a.model_hash = what == 3 ? 0 : 77;
        write_run("a.jsonl", &a);
        write_run("b.jsonl", &b);
        json_t *root = compared(what == 4 ? GRETA_OK : GRETA_NO_VERDICT, &shown);
        has(shown, reason[what]);
        assert_int_equal(number_in(root, "differ"), what != 4);
        json_decref(root);
        free(shown);
    }
}

static void test_nothing_compared(void **state)
{
    (void)state;
    static const char *const reason[] = {
        "nothing was compared: two runs of one configuration, equal to the last bit",
        "nothing was compared: n_layer is 3 and 2",
        "nothing was compared: no row has a partner, most for their prefix (the prompts are other",
        "nothing was compared: no row has a partner, most for their stage",
        "nothing was compared: B has no rows",
    };
    for (int what = 0; what < 5; what++) {
        char *shown;
        run a = healthy, b = healthy;
        b.n_layer = what == 1 ? 2 : 3;
        b.token[0] = what == 2 ? 99 : 5;
        a.only = what == 3 ? STAGE_Q : STAGE_NONE;
        b.only = what == 3 ? STAGE_EMBED : STAGE_NONE;
        b.n = what == 4 ? 0 : 8;
        write_run("a.jsonl", &a);
        write_run("b.jsonl", &b);
        json_t *root = compared(GRETA_NO_VERDICT, &shown);
        has(shown, reason[what]);
        json_decref(root);
        free(shown);
    }
    greta_error err = {0};
    greta_status verdict;
    char *shown;
    assert_int_equal(greta_compare(NULL, path_of("a.jsonl"), path_of("a.jsonl"), NULL, 0, &shown,
                                   &verdict, &err),
                     GRETA_OK);
    assert_int_equal(verdict, GRETA_NO_VERDICT);
    has(shown, "nothing was compared: both are the same trace");
    free(shown);
    assert_int_equal(greta_compare(NULL, path_of("a.jsonl"), path_of("no.jsonl"), NULL, 0, &shown,
                                   &verdict, &err),
                     GRETA_IO);
    assert_null(shown);
    expect(&err, GRETA_IO, "no.jsonl");
}

/* Rows without a partner, and the field that says why. */
static void test_unpaired(void **state)
{
    (void)state;
    char *shown;
    run b = healthy;
    /* Fewer tokens and another selection: measured on one side only, the rest is equal. */
    b.n = 6;
    b.n_thread = 2;
    json_t *root = differing(&b, GRETA_OK, &shown);
    has(shown, "only in A: 26, 26 for their position");
    has(shown, "only in B: 0\n");
    json_decref(root);
    free(shown);
    b.only = STAGE_Q;
    root = differing(&b, GRETA_OK, &shown);
    has(shown, "paired 18: 18 equal");
    assert_int_equal(number_in(json_object_get(json_object_get(root, "a"), "alone"), "stage"),
                     8 * (1 + 3 * 3));
    assert_int_equal(number_in(json_object_get(json_object_get(root, "a"), "alone"), "position"),
                     2 * 3);
    json_decref(root);
    free(shown);

    /* Another token in the middle: what is behind it is of other tokens, and that spoils it. */
    b = healthy;
    b.n_thread = 2;
    b.token[5] = 99;
    root = differing(&b, GRETA_NO_VERDICT, &shown);
    has(shown, "paired 65: 65 equal");
    has(shown, "only in A: 39, 39 for their prefix");
    has(shown, "only in B: 39, 39 for their prefix");
    has(shown, "the 65 pairs are equal, but 78 rows are of other tokens (prefix)");
    json_decref(root);
    free(shown);

    /* The same key twice in one pass: these rows cannot be told apart, the others can. */
    b = healthy;
    b.twice = STAGE_Q;
    b.n_thread = 2;
    root = differing(&b, GRETA_NO_VERDICT, &shown);
    has(shown, "paired 80: 80 equal");
    has(shown, "only in A: 0; 24 NOT COMPARABLE, their key stands twice in a pass");
    has(shown, "only in B: 0; 48 NOT COMPARABLE, their key stands twice in a pass");
    has(shown, "the 80 pairs are equal, but 72 rows have a key that stands twice in a pass");
    json_decref(root);
    free(shown);

    /* No hash and no values on one side: not measured, hence not equal. */
    b = healthy;
    b.no_hashes = true;
    b.n_thread = 2;
    root = differing(&b, GRETA_NO_VERDICT, &shown);
    has(shown, "paired 104: 80 equal, 0 differ, 24 not measured");
    has(shown, "24 of 104 pairs were not measured on both sides");
    json_decref(root);
    free(shown);
}

/* A trace that ends early says where; what it has is compared. */
static void test_incomplete(void **state)
{
    (void)state;
    char *shown;
    run b = healthy;
    b.chunk = 2;
    write_run("a.jsonl", &healthy);
    write_run("b.jsonl", &b);
    bytes torn = load("b.jsonl");
    char *end = strchr(torn.data, '\n');
    for (int line = 0; line < ROWS + 3; line++) { /* one token, then embed, q and k_cache */
        end = strchr(end + 1, '\n');
    }
    store("b.jsonl", torn.data, (size_t)(end - torn.data) + 20);
    json_t *root = compared(GRETA_OK, &shown);
    has(shown, "b.jsonl: torn, 16 rows; incomplete after layer 0, k_cache");
    has(shown, "all 16 pairs are equal, bit for bit");
    json_decref(root);
    free(shown);
    free(torn.data);
}

/* A key in several passes: equal phases meet, and a row that is left meets the last one. */
static void test_many_passes(void **state)
{
    (void)state;
    greta_error err = {0};
    trace a = {.n_record = 3}, b = {.n_record = 2};
    trace_record records[5] = {
        {.name = STAGE_Q, .phase = GRETA_PHASE_DECODE, .pass = 0, .n = 2},
        {.name = STAGE_Q, .phase = GRETA_PHASE_PREFILL, .pass = 1, .n = 0},
        {.name = STAGE_Q, .phase = GRETA_PHASE_PREFILL, .pass = 2, .n = 1},
        {.name = STAGE_Q, .phase = GRETA_PHASE_PREFILL, .pass = 0, .n = 0},
        {.name = STAGE_Q, .phase = GRETA_PHASE_DECODE, .pass = 1, .n = 1},
    };
    pairing p;
    a.record = records;
    b.record = records + 3;
    assert_int_equal(pairing_new(&a, &b, &p, &err), GRETA_OK);
    assert_int_equal(p.n_pair, 3);
    assert_true(p.n_alone[0] == 0 && p.n_alone[1] == 0);
    static const int partner[3][2] = {{0, 4}, {1, 3}, {2, 4}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(p.pair[i].row[0], partner[i][0]);
        assert_int_equal(p.pair[i].row[1] + 3, partner[i][1]);
    }
    pairing_free(&p);
    assert_string_equal(pair_field_name(PAIR_PREFIX), "prefix");
    assert_string_equal(pair_field_name(PAIR_FIELD_COUNT), "?");
}

/* Bits against bits: NaNs are one value, zeros have signs, infinities are counted apart. */
static void test_row_compare(void **state)
{
    (void)state;
    static const float x[] = {NAN, 0.0f, 1.0f, INFINITY, 3.0f, -1e-45f};
    static const float y[] = {-NAN, -0.0f, 1.0f, 5.0f, 3.0000002f, 1e-45f};
    static const uint16_t half_x[] = {0x7c01, 0x8000, 0x3c00, 0x7bff},
                          half_y[] = {0xfe00, 0, 0x3c01, 0x7c00};
    static const int32_t id_x[] = {1, 2}, id_y[] = {1, 7};
    row_difference d;
    trace_tensor a = sample_tensor(DTYPE_F32, x, 6, 6), b = sample_tensor(DTYPE_F32, y, 6, 6);
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_DIFFERS);
    assert_true(d.n_compared == 6 && d.n_differ == 4 && d.n_nonfinite == 1);
    assert_true(d.largest == 4 && d.has_ulp && d.ulp_max == 2); /* across zero: two steps */
    a = sample_tensor(DTYPE_F16, half_x, 4, 4);
    b = sample_tensor(DTYPE_F16, half_y, 4, 4);
    row_compare(&a, &b, &d);
    assert_true(d.n_differ == 3 && d.n_nonfinite == 1 && d.largest == 2 && d.ulp_max == 1);
    assert_true(d.abs_max == 0x1p-10 && d.value[0] == 1 && d.value[1] == 1 + 0x1p-10);
    a = sample_tensor(DTYPE_I32, id_x, 2, 2);
    b = sample_tensor(DTYPE_I32, id_y, 2, 2);
    row_compare(&a, &b, &d);
    assert_true(d.n_differ == 1 && d.abs_max == 5 && !d.has_ulp);
    /* Without hashes what was kept decides, and equality needs all of it. */
    a.hash = b.hash = (row_hash){0, 0};
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_DIFFERS);
    row_compare(&a, &a, &d);
    assert_int_equal(d.state, PAIR_EQUAL);
    a.n_kept = 1;
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_UNMEASURED);
    /* The same hash with other statistics is no equality; nor is another type or length. */
    a = b = sample_tensor(DTYPE_F32, x, 6, 0);
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_EQUAL);
    b.sumsq = 1.0f; /* but a side may have taken none */
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_EQUAL);
    a.sumsq = 2.0f;
    row_compare(&a, &b, &d);
    assert_int_equal(d.state, PAIR_DIFFERS);
    a.sumsq = b.sumsq = 0;
    b.n = 5;
    row_compare(&a, &b, &d);
    assert_true(d.state == PAIR_DIFFERS && d.is_shape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),       cmocka_unit_test(test_difference),
        cmocka_unit_test(test_hash_only),   cmocka_unit_test(test_norm_numbers),
        cmocka_unit_test(test_no_promise),  cmocka_unit_test(test_nothing_compared),
        cmocka_unit_test(test_unpaired),    cmocka_unit_test(test_incomplete),
        cmocka_unit_test(test_many_passes), cmocka_unit_test(test_row_compare),
    };
    return cmocka_run_group_tests_name("compare", tests, files_begin, files_end);
}
