/* test_fault.c - each plant edits exactly what it says, and leaves no trace of itself.
 *
 * The op list is made by hand: embedding, and per layer attn_norm, x_after_attn, ffn_norm,
 * x_after_mlp, then final_norm. What a planted kernel computes is compared with the formula of its
 * description in binary64.
 */
#include "fault/fault.h"

#include "greta.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N      10
#define LAYERS 3

static op ops[5 * LAYERS + 2];
static edge edges[5 * LAYERS + 2];
static weight weights[2 * LAYERS + 1];
static char weight_name[2 * LAYERS + 1][16];
static float values[2 * LAYERS + 1][N];
static op_list healthy = {ops, 0, edges, 0};

static int32_t add_op(op_kind kind, stage name, int32_t layer, int32_t in)
{
    op *o = &ops[healthy.n_op];
    *o = (op){.kind = kind,
              .name = name,
              .layer = layer,
              .out = {healthy.n_edge, -1, -1},
              .in = {{in, READ_THIS_PASS, 0}, {-1, 0, 0}, {-1, 0, 0}, {-1, 0, 0}}};
    if (kind == OP_RMS_NORM) {
        int w = name == STAGE_FINAL_NORM ? 2 * LAYERS : 2 * layer + (name == STAGE_FFN_NORM);
        for (int i = 0; i < N; i++) {
            values[w][i] = (float)(100 * w + i);
        }
        snprintf(weight_name[w], sizeof weight_name[w], "norm %d", w);
        weights[w] = (weight){.name = weight_name[w],
                              .type = DTYPE_F32,
                              .n_row = 1,
                              .n_col = N,
                              .row_bytes = N * 4,
                              .data = (const uint8_t *)values[w]};
        o->w[0] = (weight_view){&weights[w], 0, 1};
        o->eps = 1e-5f;
        o->count = N;
    }
    edges[healthy.n_edge] =
        (edge){.name = name, .layer = layer, .width = N, .producer = healthy.n_op++};
    return healthy.n_edge++;
}

static int list_setup(void **state)
{
    (void)state;
    int32_t x = add_op(OP_EMBED, STAGE_EMBED, -1, -1);
    for (int32_t l = 0; l < LAYERS; l++) {
        add_op(OP_RMS_NORM, STAGE_ATTN_NORM, l, x);
        x = add_op(OP_ADD, STAGE_X_AFTER_ATTN, l, x);
        add_op(OP_RMS_NORM, STAGE_FFN_NORM, l, x);
        x = add_op(OP_ADD, STAGE_X_AFTER_MLP, l, x);
    }
    add_op(OP_RMS_NORM, STAGE_FINAL_NORM, -1, x);
    return 0;
}

static fault_site site_of(const fault_kind *kind, int32_t layer)
{
    return (fault_site){.kind = kind,
                        .list = &healthy,
                        .table = kernel_find("ref"),
                        .stage = STAGE_NONE,
                        .layer = layer,
                        .previous_row = -1};
}

static fault_planted *plant(const char *name, int32_t layer)
{
    fault_planted *p = NULL;
    fault_site site = site_of(fault_find(name), layer);
    assert_non_null(site.kind);
    assert_int_equal(fault_plant(&site, &p, NULL), GRETA_OK);
    assert_non_null(p);
    return p;
}

/* The planted op; everything else is as in the healthy list and table. */
static const op *only_change(const fault_planted *p, stage name, int32_t layer)
{
    int32_t at = op_list_op(&healthy, name, layer);
    assert_int_equal(p->list.n_op, healthy.n_op);
    assert_int_equal(p->list.n_edge, healthy.n_edge);
    for (int32_t i = 0; i < healthy.n_op; i++) {
        int same = memcmp(&p->list.op[i], &healthy.op[i], sizeof(op)) == 0;
        assert_int_equal(same, i != at);
    }
    assert_memory_equal(p->list.edge, edges, sizeof(edge) * (size_t)healthy.n_edge);
    const kernel_table *table = kernel_find("ref");
    kernel_table expected = *table;
    for (int32_t i = 0; i < p->n_table; i++) {
        expected.rms_norm = p->table[i].rms_norm;
        assert_memory_equal(&p->table[i], &expected, sizeof expected);
        assert_ptr_equal(p->table[i].name, table->name);
        assert_ptr_not_equal(p->table[i].rms_norm, table->rms_norm);
    }
    assert_in_range(p->n_table, 0, 1);
    assert_int_equal(p->list.op[at].table, p->n_table);
    assert_int_equal(p->n_op, 1);
    assert_int_equal(p->op[0], at);
    assert_int_equal(p->n_trigger, 0);
    return &p->list.op[at];
}

/* One field group differs from the healthy op: 'r'ead, 'n'umbers, 'w'eights or 't'able. */
static void only_field(const op *o, char group)
{
    op back = *o;
    const op *h = &ops[op_list_op(&healthy, o->name, o->layer)];
    if (group == 'r') {
        back.in[0] = h->in[0];
    } else if (group == 'n') {
        back.eps = h->eps;
        back.count = h->count;
    } else if (group == 'w') {
        back.w[0].tensor = h->w[0].tensor;
    } else {
        back.table = h->table;
    }
    assert_memory_equal(&back, h, sizeof back);
}

static void test_inputs(void **state)
{
    (void)state;
    const struct {
        const char *name;
        op_delay delay;
        int32_t row;
        stage read;
        int32_t layer;
    } cases[] = {
        {"ffn_norm-reads-previous-position", READ_PREVIOUS_PASS, -1, STAGE_X_AFTER_ATTN, 1},
        {"ffn_norm-reads-chunk-row-0", READ_PREVIOUS_PASS, 0, STAGE_X_AFTER_ATTN, 1},
        {"ffn_norm-reads-layer-before", READ_THIS_PASS, 0, STAGE_X_AFTER_ATTN, 0},
        {"ffn_norm-reads-attn_norm-input", READ_THIS_PASS, 0, STAGE_X_AFTER_MLP, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fault_planted *p = plant(cases[i].name, 1);
        const op *o = only_change(p, STAGE_FFN_NORM, 1);
        only_field(o, 'r');
        assert_int_equal(o->in[0].delay, cases[i].delay);
        assert_int_equal(o->in[0].row, cases[i].row);
        assert_int_equal(o->in[0].edge, op_list_edge(&healthy, cases[i].read, cases[i].layer));
        fault_planted_free(p);
    }
    fault_planted *p = plant("ffn_norm-reads-attn_norm-input", 0);
    assert_int_equal(only_change(p, STAGE_FFN_NORM, 0)->in[0].edge,
                     op_list_edge(&healthy, STAGE_EMBED, -1));
    fault_planted_free(p);
    fault_site site = site_of(fault_find("ffn_norm-reads-previous-position"), 2);
    site.previous_row = -2; /* the last row was prefilled and dropped */
    assert_int_equal(fault_plant(&site, &p, NULL), GRETA_OK);
    assert_int_equal(only_change(p, STAGE_FFN_NORM, 2)->in[0].row, -2);
    fault_planted_free(p);
}

static const float eps_of[] = {1e-5f * 10, 1e-5f / 10, 1e-5f + 1e-3f, 1e-5f, 1e-5f};
static const int64_t count_of[] = {N, N, N, N - 1, N + 1};
static const char *const number_of[] = {"eps-times-10", "eps-over-10", "eps-plus-1e-3",
                                        "mean-over-n-minus-1", "mean-over-n-plus-1"};

static void test_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "ffn_norm-%s", number_of[i]);
        fault_planted *p = plant(name, 2);
        const op *o = only_change(p, STAGE_FFN_NORM, 2);
        only_field(o, 'n');
        assert_true(o->eps == eps_of[i]);
        assert_int_equal(o->count, count_of[i]);
        assert_false(fault_find(name)->is_hidden);
        fault_planted_free(p);
    }
}

static norm_args norm_of(const float *x, const float *w, float *y)
{
    return (norm_args){.x = x, .weight = w, .y = y, .n = N, .count = N, .eps = 1e-5f};
}

/* A hidden number: the op is as healthy, the kernel gives the bits of the wrong number. */
static void test_hidden_numbers(void **state)
{
    (void)state;
    float x[N], w[N], y[N], expected[N];
    for (int i = 0; i < N; i++) {
        x[i] = 0.01f * (float)(i + 1);
        w[i] = 1.0f / (float)(i + 2);
    }
    for (size_t i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "ffn_norm-%s-hidden", number_of[i]);
        assert_true(fault_find(name)->is_hidden);
        fault_planted *p = plant(name, 0);
        only_field(only_change(p, STAGE_FFN_NORM, 0), 't');
        norm_args wrong = norm_of(x, w, y), number = norm_of(x, w, expected);
        number.eps = eps_of[i];
        number.count = count_of[i];
        p->table[0].rms_norm(&wrong);
        kernel_find("ref")->rms_norm(&number);
        assert_memory_equal(y, expected, sizeof y);
        assert_true(wrong.inv_rms == number.inv_rms);
        assert_true(wrong.eps == 1e-5f && wrong.count == N);
        fault_planted_free(p);
    }
}

static void test_formulas(void **state)
{
    (void)state;
    const char *name[] = {"ffn_norm-sum-for-mean", "ffn_norm-no-root", "ffn_norm-mean-subtracted",
                          "ffn_norm-weight-plus-1"};
    float x[N], w[N], y[N];
    double sum = 0, sumsq = 0, var = 0;
    for (int i = 0; i < N; i++) {
        x[i] = 0.01f * (float)(i * i) - 0.2f;
        w[i] = 1.0f / (float)(i + 2);
        sum += (double)x[i];
        sumsq += (double)x[i] * (double)x[i];
    }
    for (int i = 0; i < N; i++) {
        var += ((double)x[i] - sum / N) * ((double)x[i] - sum / N) / N;
    }
    const double factor[] = {1 / sqrt(sumsq + 1e-5), 1 / (sumsq / N + 1e-5), 1 / sqrt(var + 1e-5),
                             1 / sqrt(sumsq / N + 1e-5)};
    for (size_t k = 0; k < 4; k++) {
        fault_planted *p = plant(name[k], 0);
        only_field(only_change(p, STAGE_FFN_NORM, 0), 't');
        norm_args a = norm_of(x, w, y);
        p->table[0].rms_norm(&a);
        assert_true(fabs((double)a.inv_rms - factor[k]) < 1e-6 * factor[k]);
        for (int i = 0; i < N; i++) {
            double from = (double)x[i] - (k == 2 ? sum / N : 0);
            double expected = from * factor[k] * ((double)w[i] + (k == 3 ? 1 : 0));
            assert_true(fabs((double)y[i] - expected) < 1e-6 * fabs(expected) + 1e-7);
        }
        fault_planted_free(p);
    }
}

static void test_weights(void **state)
{
    (void)state;
    const char *name[] = {"ffn_norm-weights-reversed", "ffn_norm-weights-halves-swapped",
                          "ffn_norm-weights-stride-2"};
    const float *file = values[2 * 1 + 1];
    for (size_t k = 0; k < 3; k++) {
        fault_planted *p = plant(name[k], 1);
        const op *o = only_change(p, STAGE_FFN_NORM, 1);
        only_field(o, 'w');
        const weight *w = o->w[0].tensor;
        assert_string_equal(w->name, weight_name[3]);
        assert_int_equal(w->n_col, N);
        assert_ptr_not_equal(w->data, file);
        for (int i = 0; i < N; i++) {
            int at[] = {N - 1 - i, (i + N / 2) % N, 2 * i % N};
            assert_true(((const float *)(const void *)w->data)[i] == file[at[k]]);
        }
        fault_planted_free(p);
    }
    for (int32_t layer = 0; layer < LAYERS; layer++) { /* the next, for the last the one before */
        fault_planted *p = plant("ffn_norm-weights-other-layer", layer);
        const op *o = only_change(p, STAGE_FFN_NORM, layer);
        only_field(o, 'w');
        int32_t other = layer + 1 < LAYERS ? layer + 1 : layer - 1;
        assert_ptr_equal(o->w[0].tensor->data, values[2 * other + 1]);
        assert_string_equal(o->w[0].tensor->name, weight_name[2 * layer + 1]);
        fault_planted_free(p);
    }
}

static void refuse(const char *name, stage at, int32_t layer, const op_list *list)
{
    fault_planted *p = (fault_planted *)&p;
    greta_error err = {0};
    fault_site site = site_of(fault_find(name), layer);
    site.stage = at;
    site.list = list;
    assert_int_equal(fault_plant(&site, &p, &err), GRETA_USAGE);
    assert_null(p);
    assert_int_equal(err.code, GRETA_USAGE);
    assert_true(err.message[0] != '\0');
    assert_string_equal(err.subject, name);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("ffn_norm-no-root", STAGE_NONE, LAYERS, &healthy);
    refuse("ffn_norm-no-root", STAGE_NONE, -1, &healthy);
    refuse("ffn_norm-no-root", STAGE_X_AFTER_ATTN, 0, &healthy);
    refuse("ffn_norm-reads-layer-before", STAGE_NONE, 0, &healthy);
    refuse("ffn_norm-reads-attn_norm-input", STAGE_ATTN_NORM, 1, &healthy);
    refuse("ffn_norm-reads-attn_norm-input", STAGE_FINAL_NORM, -1, &healthy);
    refuse("ffn_norm-weights-other-layer", STAGE_FINAL_NORM, -1, &healthy);
    op_list one_layer = {ops, 5, edges, 5};
    refuse("ffn_norm-weights-other-layer", STAGE_NONE, 0, &one_layer);
    assert_null(fault_find("ffn_norm"));
    fault_planted_free(NULL);
}

/* Any norm can carry a kind. */
static void test_other_norms(void **state)
{
    (void)state;
    const struct {
        stage name;
        int32_t layer;
    } cases[] = {{STAGE_ATTN_NORM, 0}, {STAGE_ATTN_NORM, 2}, {STAGE_FINAL_NORM, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fault_site site = site_of(fault_find("ffn_norm-weights-reversed"), cases[i].layer);
        fault_planted *p = NULL;
        site.stage = cases[i].name;
        assert_int_equal(fault_plant(&site, &p, NULL), GRETA_OK);
        only_field(only_change(p, cases[i].name, cases[i].layer), 'w');
        fault_planted_free(p);
    }
    fault_site site = site_of(fault_find("ffn_norm-reads-layer-before"), 2);
    fault_planted *p = NULL;
    site.stage = STAGE_ATTN_NORM; /* reads x_after_mlp of layer 1; before it, of layer 0 */
    assert_int_equal(fault_plant(&site, &p, NULL), GRETA_OK);
    assert_int_equal(only_change(p, STAGE_ATTN_NORM, 2)->in[0].edge,
                     op_list_edge(&healthy, STAGE_X_AFTER_MLP, 0));
    fault_planted_free(p);
}

static void test_layer_draw(void **state)
{
    (void)state;
    const fault_kind *before = fault_find("ffn_norm-reads-layer-before");
    const fault_kind *other = fault_find("ffn_norm-weights-other-layer");
    int count[8] = {0};
    for (uint64_t seed = 0; seed < 8000; seed++) {
        int32_t layer = fault_layer_draw(before, 8, seed);
        assert_in_range(layer, 1, 7);
        count[layer]++;
        assert_int_equal(layer, fault_layer_draw(before, 8, seed));
        assert_in_range(fault_layer_draw(other, 2, seed), 0, 1);
    }
    for (int layer = 1; layer < 8; layer++) { /* 8000 / 7, 6 sigma about */
        assert_in_range(count[layer], 950, 1340);
    }
    assert_int_equal(fault_layer_draw(before, 1, 0), -1);
    assert_int_equal(fault_layer_draw(other, 1, 0), -1);
    assert_int_equal(fault_layer_draw(other, 0, 0), -1);
}

static void test_catalogue(void **state)
{
    (void)state;
    size_t n;
    const fault_kind *kind = fault_kinds(&n);
    int per_cause[CAUSE_COUNT] = {0}, hidden = 0;
    char *listed = NULL, *json = NULL;
    assert_int_equal(greta_faults(0, &listed, NULL), GRETA_OK);
    assert_int_equal(greta_faults(1, &json, NULL), GRETA_OK);
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    json_t *list = json_object_get(root, "faults");
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        json_t *o = json_array_get(list, i);
        per_cause[kind[i].cause]++;
        hidden += kind[i].is_hidden;
        assert_in_range(kind[i].where, 0, WHERE_COUNT - 1);
        assert_non_null(strstr(listed, fault_where_text(kind[i].where)));
        assert_string_equal(json_string_value(json_object_get(o, "where")),
                            fault_where_text(kind[i].where));
        assert_string_equal(json_string_value(json_object_get(o, "stage")),
                            stage_name(kind[i].stage));
        assert_ptr_equal(fault_find(kind[i].name), &kind[i]); /* no name twice */
        assert_true(i == 0 || kind[i].cause >= kind[i - 1].cause);
        assert_non_null(strstr(listed, kind[i].name));
        assert_non_null(strstr(listed, kind[i].description));
        assert_non_null(strstr(listed, cause_name(kind[i].cause)));
        assert_string_equal(json_string_value(json_object_get(o, "name")), kind[i].name);
        assert_string_equal(json_string_value(json_object_get(o, "cause")),
                            cause_name(kind[i].cause));
        assert_int_equal(json_is_true(json_object_get(o, "is_hidden")), kind[i].is_hidden);
    }
    for (cause c = CAUSE_INPUT_SELECTION; c <= CAUSE_PRECISION_POLICY; c++) {
        assert_true(per_cause[c] >= 4);
    }
    assert_true(per_cause[CAUSE_TOKENS] >= 2 && hidden >= 6);
    size_t n_trigger;
    const fault_trigger *trigger = fault_triggers(&n_trigger);
    for (size_t i = 0; i < n_trigger; i++) {
        assert_ptr_equal(fault_trigger_find(trigger[i].name), &trigger[i]);
        assert_non_null(strstr(listed, trigger[i].name));
    }
    assert_int_equal(json_array_size(json_object_get(root, "triggers")), n_trigger);
    json_decref(root);
    greta_free(listed);
    greta_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inputs),         cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_hidden_numbers), cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_weights),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_other_norms),    cmocka_unit_test(test_layer_draw),
        cmocka_unit_test(test_catalogue),
    };
    return cmocka_run_group_tests_name("fault", tests, list_setup, NULL);
}
