/* test_op_hypothesis.c - each hypothesis recognises the fault it is named after, and nothing else.
 *
 * Wrong rows are made here by hand: by a kernel that is given wrong operands, or by a loop that
 * says the fault in plain code; never by the edits of src/replay/change_*.c. Each is handed to
 * op_try as if it had been recorded. The hypothesis of that name must give its bits, and none of
 * another cause may.
 */
#include "op_rig.h"

#include "base/text.h"
#include "replay/op_bound.h"
#include "replay/op_hypothesis.h"

#include <math.h>

static op_rig rig;
static const kernel_table *ref;

/* The case at hand, and the row that is passed off as recorded. */
typedef struct setup {
    op_case c;
    op_place at;
    op_rows rows;
    op_output wrong;
    evidence *item;
    int32_t n;
} setup;

static void begin(setup *s, stage name, int32_t layer, int64_t position)
{
    greta_error err = {0};
    int32_t index = op_list_op(&rig.list, name, layer);
    *s = (setup){.at = rig_place(&rig, index, position), .rows = rig_rows(&rig)};
    assert_true(index >= 0);
    rig_check(op_case_build(&s->at, &s->rows, &s->c, &err), &err);
    rig_check(op_output_new(&s->c, &s->wrong, &err), &err);
    op_operand good = rig_recorded(&rig, index, position);
    memcpy(s->wrong.values, good.values, s->wrong.bytes);
}

static void try_all(setup *s, const double *bound)
{
    greta_error err = {0};
    op_around around = {&s->at, &s->rows, NULL, 0};
    op_operand recorded = {s->wrong.type, s->wrong.n, s->wrong.values};
    op_trial_terms terms = {"avx2", &recorded, bound, NULL};
    rig_check(op_try(&s->c, &around, &terms, &s->item, &s->n, &err), &err);
    assert_true(s->n > 1);
    assert_int_equal(s->item[0].role, EVIDENCE_HEALTHY);
}

static void end(setup *s)
{
    free(s->item);
    op_output_free(&s->wrong);
    op_case_free(&s->c);
}

static void tell_fits(const setup *s)
{
    for (int32_t i = 0; i < s->n; i++) {
        if (s->item[i].fits) {
            print_message("    fits: %s, %s (same as %d)\n", cause_name(s->item[i].cause),
                          s->item[i].phrase, (int)s->item[i].same_as);
        }
    }
}

/* The hypothesis `phrase` fits with this cause; the healthy op does not, nor any other cause. */
static void expect(setup *s, cause expected, const char *phrase)
{
    bool is_found = false;
    try_all(s, NULL);
    for (int32_t i = 0; i < s->n; i++) {
        const evidence *e = &s->item[i];
        if (e->fits && e->cause != expected) {
            tell_fits(s);
            fail_msg("%s of %s: %s fits too (%s)", phrase, stage_name(s->c.op.name), e->phrase,
                     cause_name(e->cause));
        }
        is_found |= e->fits && strcmp(e->phrase, phrase) == 0;
        assert_true(!e->fits || (e->n_equal == e->n && e->is_within));
    }
    if (!is_found) {
        tell_fits(s);
        fail_msg("%s of %s is not recognised", phrase, stage_name(s->c.op.name));
    }
    end(s);
}

static const float *floats_of(stage name, int32_t layer, int64_t position)
{
    op_operand row = {0};
    assert_true(rig_find(&rig, name, layer, position, &row));
    assert_int_equal(row.type, DTYPE_F32);
    return row.values;
}

static int32_t width_of(stage name, int32_t layer)
{
    return rig.list.edge[op_list_edge(&rig.list, name, layer)].width;
}

static void open_with(const char *model, greta_act act, greta_kv kv)
{
    op_rig_open(&rig, &(op_rig_options){model, "avx2", kv, act});
    ref = kernel_find("ref");
}

/* ---- A healthy run --------------------------------------------------------------------------- */

/* Every op's own record is healthy; what fits beside it changes no bit, and says so. */
static void healthy_ops_are_healthy(void **state)
{
    (void)state;
    open_with("--type Q4_1 --bias", GRETA_ACT_Q8, GRETA_KV_F16);
    for (int32_t i = 0; i < rig.list.n_op; i++) {
        setup s;
        double *bound;
        op_contract contract = {rig.act, rig.kv};
        begin(&s, rig.list.op[i].name, rig.list.op[i].layer, 65);
        bound = calloc((size_t)s.c.out.n, sizeof *bound);
        rig_check(op_bound(&s.c, &contract, BOUND_SOUND, bound, NULL), NULL);
        try_all(&s, bound);
        assert_true(s.item[0].fits && s.item[0].is_within && s.item[0].worst_at == -1);
        for (int32_t k = 1; k < s.n; k++) {
            assert_int_equal(s.item[k].fits, s.item[k].same_as == 0);
            assert_true(s.item[k].phrase[0] != '\0' && s.item[k].cause != CAUSE_NONE);
            assert_true(s.item[k].same_as <= k);
            if (s.item[k].fits) {
                assert_true(s.item[k].is_within);
            }
        }
        free(bound);
        end(&s);
    }
    op_rig_close(&rig);
}

/* ---- Norms ----------------------------------------------------------------------------------- */

static void norm_by_hand(setup *s, norm_args a)
{
    a.x = a.x ? a.x : floats_of(STAGE_EMBED, -1, s->at.position);
    a.weight = a.weight ? a.weight : (const float *)(const void *)s->c.op.w[0].tensor->data;
    a.y = s->wrong.values;
    a.n = s->wrong.n;
    a.count = a.count ? a.count : a.n;
    a.eps = a.eps > 0 ? a.eps : s->c.op.eps;
    ref->rms_norm(&a);
}

static void norms_are_told_apart(void **state)
{
    (void)state;
    setup s;
    float w[4096];
    open_with("--type F32", GRETA_ACT_F32, GRETA_KV_F32);
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.eps = 1e-4f});
    expect(&s, CAUSE_NORM_STATS, "eps 0.0001 for 1e-05");
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.eps = 0.0025f});
    expect(&s, CAUSE_NORM_STATS, "eps 0.0025 for 1e-05");
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.count = s.wrong.n - 1});
    char phrase[64];
    snprintf(phrase, sizeof phrase, "mean over %d for %d", (int)s.wrong.n - 1, (int)s.wrong.n);
    expect(&s, CAUSE_NORM_STATS, phrase);
    const float *file = (const float *)(const void *)rig.model->layer[0].attn_norm.tensor->data;
    int32_t n = width_of(STAGE_ATTN_NORM, 0);
    for (int i = 0; i < n; i++) {
        w[i] = file[i] + 1;
    }
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.weight = w});
    expect(&s, CAUSE_KERNEL_MATH, "1 + weight for weight");
    for (int i = 0; i < n; i++) {
        w[i] = file[n - 1 - i];
    }
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.weight = w});
    expect(&s, CAUSE_WEIGHT_LAYOUT, "weights reversed");
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(
        &s, (norm_args){
                .weight = (const float *)(const void *)rig.model->layer[0].ffn_norm.tensor->data});
    expect(&s, CAUSE_WEIGHT_LAYOUT, "weights blk.0.ffn_norm.weight for blk.0.attn_norm.weight");
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    norm_by_hand(&s, (norm_args){.x = floats_of(STAGE_EMBED, -1, 6)});
    expect(&s, CAUSE_INPUT_SELECTION, "row of embed at position 6 for that of 7");
    begin(&s, STAGE_ATTN_NORM, 0, 7);
    memcpy(s.wrong.values, floats_of(STAGE_EMBED, -1, 7), s.wrong.bytes);
    expect(&s, CAUSE_STRUCTURE, "norm left out");
    op_rig_close(&rig);
}

/* ---- Products -------------------------------------------------------------------------------- */

static void product_by_hand(setup *s, const weight *w, const float *bias)
{
    matmul_args a = {.type = w->type,
                     .w = w->data,
                     .row_bytes = w->row_bytes,
                     .bias = bias,
                     .x = s->c.in[0].values,
                     .x_stride = w->n_col * 4,
                     .y = s->wrong.values,
                     .y_stride = s->wrong.n,
                     .k = w->n_col,
                     .n_token = 1};
    assert_int_equal(s->c.in[0].type, DTYPE_F32);
    ref->matmul(&a, 0, s->wrong.n);
}

static void float_products_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type F32 --bias --embd 64 --heads 4 --heads-kv 4 --head-dim 16", GRETA_ACT_F32,
              GRETA_KV_F32);
    const layer_weights *l = &rig.model->layer[1];
    const float *bias = (const float *)(const void *)l->q_bias.tensor->data;
    int64_t k = l->q.tensor->n_col, n = l->q.tensor->n_row, dim = 16;
    const float *file = (const float *)(const void *)l->q.tensor->data;
    float *w = malloc((size_t)(n * k) * sizeof *w), *twice = malloc((size_t)n * sizeof *twice);
    weight moved = *l->q.tensor;
    moved.data = (const uint8_t *)w;
    for (int64_t r = 0; r < n && n == k; r++) {
        for (int64_t c = 0; c < k; c++) {
            w[r * k + c] = file[c * k + r];
        }
    }
    assert_int_equal(n, k);
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, &moved, bias);
    expect(&s, CAUSE_WEIGHT_LAYOUT, "weights transposed");
    for (int64_t r = 0; r < n; r++) { /* what the converter of Llama files undoes */
        int64_t head = r / dim * dim, i = r % dim;
        memcpy(w + r * k, file + (head + i % 2 * (dim / 2) + i / 2) * k, (size_t)k * sizeof *w);
    }
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, &moved, bias);
    expect(&s, CAUSE_WEIGHT_LAYOUT, "rows of heads put from neighbours to halves");
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, l->k.tensor, bias);
    expect(&s, CAUSE_WEIGHT_LAYOUT, "weights blk.1.attn_k.weight for blk.1.attn_q.weight");
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, rig.model->layer[0].q.tensor, bias);
    expect(&s, CAUSE_WEIGHT_LAYOUT, "weights blk.0.attn_q.weight for blk.1.attn_q.weight");
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, l->q.tensor, NULL);
    expect(&s, CAUSE_STRUCTURE, "bias left out");
    for (int64_t r = 0; r < n; r++) {
        twice[r] = 2 * bias[r];
    }
    begin(&s, STAGE_Q, 1, 9);
    product_by_hand(&s, l->q.tensor, twice);
    expect(&s, CAUSE_STRUCTURE, "bias added twice");
    begin(&s, STAGE_Q, 1, 9);
    s.c.in[0].values = floats_of(STAGE_ATTN_NORM, 0, 9);
    product_by_hand(&s, l->q.tensor, bias);
    s.c.in[0].values = floats_of(STAGE_ATTN_NORM, 1, 9);
    expect(&s, CAUSE_INPUT_SELECTION, "row of attn_norm in layer 0 for that of layer 1");
    free(w);
    free(twice);
    op_rig_close(&rig);
}

static void sums_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type F32 --bias --embd 64", GRETA_ACT_F32, GRETA_KV_F32);
    const layer_weights *l = &rig.model->layer[1];
    const float *bias = (const float *)(const void *)l->q_bias.tensor->data;
    const float *file = (const float *)(const void *)l->q.tensor->data;
    int64_t k = l->q.tensor->n_col, n = l->q.tensor->n_row;
    begin(&s, STAGE_Q, 1, 9);
    for (int64_t r = 0; r < n; r++) {
        float acc = 0;
        for (int64_t c = 0; c < k; c++) {
            acc += file[r * k + c] * ((const float *)s.c.in[0].values)[c];
        }
        ((float *)s.wrong.values)[r] = acc + bias[r];
    }
    expect(&s, CAUSE_KERNEL_MATH, "products rounded before they are added, one chain");
    begin(&s, STAGE_Q, 1, 9);
    for (int64_t r = 0; r < n; r++) {
        float acc = 0;
        for (int64_t c = 0; c < k; c++) {
            acc = fmaf(file[r * k + c], ((const float *)s.c.in[0].values)[c], acc);
            acc = kernel_f32_from_f16(kernel_f16_from_f32(acc));
        }
        ((float *)s.wrong.values)[r] = acc + bias[r];
    }
    expect(&s, CAUSE_PRECISION_POLICY, "sums in binary16");
    op_rig_close(&rig);
}

static float code_dot(const weight *w, int64_t r, const op_operand *x, int64_t skip_from)
{
    float value[4096], acc = 0;
    const int8_t *code = x->values;
    const float *scale = (const float *)(const void *)(code + x->n);
    kernel_dequantize(w->type, w->data + r * w->row_bytes, value, w->n_col);
    for (int64_t b = 0; b < w->n_col / 32 && 32 * b < skip_from; b++) {
        float ws = kernel_f32_from_f16(
            *(const uint16_t *)(const void *)(w->data + r * w->row_bytes + 34 * b));
        int32_t dot = 0;
        for (int i = 0; i < 32; i++) {
            dot += (int8_t)w->data[r * w->row_bytes + 34 * b + 2 + i] * code[32 * b + i];
        }
        acc = fmaf(ws * scale[b], (float)dot, acc);
    }
    return acc;
}

static void coded_products_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type Q8_0 --ff 512", GRETA_ACT_Q8, GRETA_KV_F16);
    const weight *down = rig.model->layer[0].down.tensor;
    int64_t k = down->n_col;
    assert_true(k <= 1024 && k % 32 == 0);
    begin(&s, STAGE_MLP_OUT, 0, 12);
    for (int64_t r = 0; r < s.wrong.n; r++) {
        ((float *)s.wrong.values)[r] = code_dot(down, r, &s.c.in[0], k - 32);
    }
    expect(&s, CAUSE_KERNEL_MATH, "last 32 terms skipped");
    begin(&s, STAGE_MLP_OUT, 0, 12); /* the contract's row, not quantised */
    op_operand codes = s.c.in[0];
    s.c.in[0] = (op_operand){DTYPE_F32, k, floats_of(STAGE_ACT, 0, 12)};
    product_by_hand(&s, down, NULL);
    s.c.in[0] = codes;
    expect(&s, CAUSE_PRECISION_POLICY, "activations not quantised");
    begin(&s, STAGE_ACT_Q8, 0, 12); /* a scale for 256 values at once */
    const float *x = floats_of(STAGE_ACT, 0, 12);
    int8_t *code = s.wrong.values;
    float *scale = (float *)(void *)(code + k);
    for (int64_t at = 0; at < k; at += 256) {
        float most = 0;
        for (int64_t i = at; i < at + 256 && i < k; i++) {
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        }
        for (int64_t i = at; i < at + 256 && i < k; i++) {
            code[i] = (int8_t)rintf(x[i] * (127.0f / most));
            scale[i / 32] = most / 127.0f;
        }
    }
    expect(&s, CAUSE_PRECISION_POLICY, "one scale per 256 values");
    op_rig_close(&rig);
}

/* Blocks of the file, edited as bytes by somebody else's code. */
static void broken_blocks_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type Q4_1", GRETA_ACT_F32, GRETA_KV_F16);
    const weight *q = rig.model->layer[0].q.tensor;
    size_t bytes = (size_t)(q->n_row * q->row_bytes);
    uint8_t *data = malloc(bytes);
    weight broken = *q;
    broken.data = data;
    for (int which = 0; which < 3; which++) {
        static const char *const phrase[] = {"nibbles swapped", "scale and minimum swapped",
                                             "scale of the block before"};
        memcpy(data, q->data, bytes);
        for (size_t at = 0; at < bytes; at += 20) {
            for (size_t i = 4; i < 20 && which == 0; i++) {
                data[at + i] = (uint8_t)(q->data[at + i] >> 4 | (q->data[at + i] & 15) << 4);
            }
            for (size_t i = 0; i < 2; i++) {
                data[at + i] = which == 1             ? q->data[at + 2 + i]
                               : which == 2 && at > 0 ? q->data[at - 20 + i]
                                                      : data[at + i];
                data[at + 2 + i] = which == 1 ? q->data[at + i] : data[at + 2 + i];
            }
        }
        begin(&s, STAGE_Q, 0, 3);
        product_by_hand(&s, &broken, NULL);
        expect(&s, CAUSE_WEIGHT_LAYOUT, phrase[which]);
    }
    free(data);
    op_rig_close(&rig);
}

/* ---- Rotation -------------------------------------------------------------------------------- */

typedef struct turn {
    double position, base, factor;
    int32_t dim;
    bool is_halves, is_bf16; /* bfloat16: of frequencies */
} turn;

/* 8 bits of a number, nearest even. */
static double bf16_of(double x)
{
    int exponent;
    double fraction = frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

static void rope_by_hand(setup *s, turn t)
{
    const float *x = floats_of(STAGE_Q, 0, s->at.position);
    float *y = s->wrong.values;
    int32_t dim = t.dim, head_dim = s->c.op.head_dim;
    memcpy(y, x, s->wrong.bytes);
    for (int64_t at = 0; at < s->wrong.n; at += head_dim) {
        for (int32_t i = 0; i < dim / 2; i++) {
            double frequency = pow(t.base, -2.0 * i / dim);
            double angle = t.position * (t.is_bf16 ? bf16_of(frequency) : frequency);
            float c = (float)cos(angle) * (float)t.factor, n = (float)sin(angle) * (float)t.factor;
            int64_t a = at + (t.is_halves ? i : 2 * i);
            int64_t b = at + (t.is_halves ? i + dim / 2 : 2 * i + 1);
            float across = x[b] * n, on = x[b] * c;
            y[a] = fmaf(x[a], c, -across);
            y[b] = fmaf(x[a], n, on);
        }
    }
}

static void rotations_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type F32 --head-dim 32", GRETA_ACT_F32, GRETA_KV_F32);
    int32_t dim = rig.model->cfg.rope.dim;
    const struct {
        turn t;
        const char *phrase;
    } cases[] = {
        {{39, 10000, 1, dim, false, false}, "position 39 for 40"},
        {{41, 10000, 1, dim, false, false}, "position 41 for 40"},
        {{0, 10000, 1, dim, false, false}, "position 0 for 40"},
        {{8, 10000, 1, dim, false, false}, "position 8 for 40"},
        {{1977, 10000, 1, dim, false, false}, "position 1977 for 40"},
        {{40, 500000, 1, dim, false, false}, "base 500000 for 10000"},
        {{40, 1e6, 1, dim, false, false}, "base 1000000 for 10000"},
        {{20, 10000, 1, dim, false, false}, "positions divided by 2 for 1"},
        {{40, 10000, 1.261, dim, false, false}, "pairs lengthened by 1.261 for 1"},
        {{40, 10000, 1, dim / 2, false, false}, NULL},
        {{40, 10000, 1, dim, true, false}, "halves turned for neighbours"},
        {{40, 10000, 1, dim, false, true}, "frequencies in bfloat16"},
    };
    assert_true(rig.model->cfg.rope.freq_base == 10000.0f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char phrase[64];
        snprintf(phrase, sizeof phrase, "rotary dimensions %d for %d", dim / 2, dim);
        begin(&s, STAGE_Q_ROPE, 0, 40);
        rope_by_hand(&s, cases[i].t);
        expect(&s, CAUSE_POSITION, cases[i].phrase ? cases[i].phrase : phrase);
    }
    begin(&s, STAGE_Q_ROPE, 0, 40);
    memcpy(s.wrong.values, floats_of(STAGE_Q, 0, 40), s.wrong.bytes);
    try_all(&s, NULL); /* position 0 turns nothing: one result, two descriptions, one cause */
    for (int32_t i = 0; i < s.n; i++) {
        assert_true(!s.item[i].fits || s.item[i].cause == CAUSE_POSITION);
    }
    end(&s);
    op_rig_close(&rig);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* One query head in binary64: which rows, which kv head, what scale. Within bounds, not in bits. */
typedef struct attend {
    double scale;
    int64_t first, end;
    int32_t (*head)(int32_t h, int32_t n_head, int32_t n_kv);
    int64_t key_shift, value_shift;
    int32_t key_layer;
} attend;

static int32_t repeated(int32_t h, int32_t n_head, int32_t n_kv)
{
    return h / (n_head / n_kv);
}

static int32_t tiled(int32_t h, int32_t n_head, int32_t n_kv)
{
    (void)n_head;
    return h % n_kv;
}

static const float *cached(stage name, int32_t layer, int64_t p)
{
    return floats_of(name, layer, p < 0 ? 0 : p);
}

static void attention_by_hand(setup *s, const attend *a)
{
    const op *o = &s->c.op;
    const float *q = s->c.in[0].values;
    double weight_of[OP_RIG_TOKENS];
    for (int32_t h = 0; h < o->n_head; h++) {
        int32_t at = a->head(h, o->n_head, o->n_head_kv) * o->head_dim;
        double most = -INFINITY, total = 0;
        for (int64_t p = a->first; p < a->end; p++) {
            const float *k = cached(STAGE_K_CACHE, a->key_layer, p + a->key_shift) + at;
            weight_of[p] = 0;
            for (int32_t d = 0; d < o->head_dim; d++) {
                weight_of[p] += (double)q[h * o->head_dim + d] * (double)k[d];
            }
            weight_of[p] *= a->scale;
            most = weight_of[p] > most ? weight_of[p] : most;
        }
        for (int64_t p = a->first; p < a->end; p++) {
            weight_of[p] = exp(weight_of[p] - most);
            total += weight_of[p];
        }
        for (int32_t d = 0; d < o->head_dim; d++) {
            double sum = 0;
            for (int64_t p = a->first; p < a->end; p++) {
                sum += weight_of[p] * (double)cached(STAGE_V_CACHE, 1, p + a->value_shift)[at + d];
            }
            ((float *)s->wrong.values)[h * o->head_dim + d] = (float)(sum / total);
        }
    }
}

/* In bounds: the hypothesis fits; nothing of another cause, nor the healthy op. */
static void expect_within(setup *s, cause expected, const char *phrase)
{
    bool is_found = false;
    double *bound = calloc((size_t)s->c.out.n, sizeof *bound);
    op_contract contract = {rig.act, rig.kv};
    rig_check(op_bound(&s->c, &contract, BOUND_SOUND, bound, NULL), NULL);
    for (int64_t i = 0; i < s->c.out.n; i++) {
        bound[i] *= 2;
    }
    try_all(s, bound);
    for (int32_t i = 0; i < s->n; i++) {
        const evidence *e = &s->item[i];
        if (e->is_within && e->cause != expected) {
            fail_msg("%s of attention: %s fits too (%s)", phrase, e->phrase, cause_name(e->cause));
        }
        is_found |= e->is_within && strcmp(e->phrase, phrase) == 0;
    }
    if (!is_found) {
        fail_msg("%s of attention is not recognised", phrase);
    }
    free(bound);
    end(s);
}

static void attention_faults_are_told_apart(void **state)
{
    (void)state;
    open_with("--type F32 --heads 8 --heads-kv 2 --head-dim 16", GRETA_ACT_F32, GRETA_KV_F32);
    int64_t p = 45;
    const struct {
        attend a;
        cause cause;
        const char *phrase;
    } cases[] = {
        {{1.0 / 16, 0, p + 1, repeated, 0, 0, 1}, CAUSE_SCALE, "scale 0.0625 for 0.25"},
        {{1.0, 0, p + 1, repeated, 0, 0, 1}, CAUSE_SCALE, "scale 1 for 0.25"},
        {{4.0, 0, p + 1, repeated, 0, 0, 1}, CAUSE_SCALE, "scale 4 for 0.25"},
        {{0.25, 0, p, repeated, 0, 0, 1}, CAUSE_MASK, "own position hidden"},
        {{0.25, 0, p + 2, repeated, 0, 0, 1}, CAUSE_MASK, "next position seen"},
        {{0.25, 1, p + 1, repeated, 0, 0, 1}, CAUSE_MASK, "position 0 hidden"},
        {{0.25, p + 1 - 32, p + 1, repeated, 0, 0, 1}, CAUSE_MASK, "last 32 positions only"},
        {{0.25, 0, p + 1, tiled, 0, 0, 1}, CAUSE_STRUCTURE, "kv heads tiled for repeated"},
        {{0.25, 0, p + 1, repeated, -1, 0, 1}, CAUSE_KV_STATE, "keys of the position before"},
        {{0.25, 0, p + 1, repeated, 0, -1, 1}, CAUSE_KV_STATE, "values of the position before"},
        {{0.25, 0, p + 1, repeated, 0, 0, 0}, CAUSE_KV_STATE, "keys of layer 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setup s;
        begin(&s, STAGE_ATTN_OUT, 1, p);
        assert_true(s.c.op.scale == 0.25f);
        attention_by_hand(&s, &cases[i].a);
        expect_within(&s, cases[i].cause, cases[i].phrase);
    }
    op_rig_close(&rig);
}

/* ---- Elementwise ----------------------------------------------------------------------------- */

static float relu_of(float x)
{
    return x > 0 ? x : 0;
}

static void rows_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--type F16", GRETA_ACT_F32, GRETA_KV_F16);
    const float *gate = floats_of(STAGE_GATE, 0, 20), *up = floats_of(STAGE_UP, 0, 20);
    begin(&s, STAGE_ACT, 0, 20);
    ref->glu(ACTIVATION_GELU_TANH, gate, up, s.wrong.values, s.wrong.n);
    expect(&s, CAUSE_KERNEL_MATH, "gelu for silu");
    begin(&s, STAGE_ACT, 0, 20);
    ref->glu(ACTIVATION_SILU, up, gate, s.wrong.values, s.wrong.n);
    expect(&s, CAUSE_KERNEL_MATH, "gate and up swapped");
    begin(&s, STAGE_ACT, 0, 20);
    for (int64_t i = 0; i < s.wrong.n; i++) {
        ((float *)s.wrong.values)[i] = relu_of(gate[i]) * up[i];
    }
    expect(&s, CAUSE_KERNEL_MATH, "relu");
    begin(&s, STAGE_ACT, 0, 20);
    for (int64_t i = 0; i < s.wrong.n; i++) {
        ((float *)s.wrong.values)[i] = gate[i] * up[i];
    }
    expect(&s, CAUSE_KERNEL_MATH, "activation left out");
    const float *x = floats_of(STAGE_EMBED, -1, 20), *o = floats_of(STAGE_WO_OUT, 0, 20);
    const char *const phrase[] = {"residual left out", "block left out", "residual added twice",
                                  "block added twice", "block subtracted"};
    for (int which = 0; which < 5; which++) {
        begin(&s, STAGE_X_AFTER_ATTN, 0, 20);
        for (int64_t i = 0; i < s.wrong.n; i++) {
            float sum = x[i] + o[i];
            ((float *)s.wrong.values)[i] = which == 0   ? o[i]
                                           : which == 1 ? x[i]
                                           : which == 2 ? sum + x[i]
                                           : which == 3 ? sum + o[i]
                                                        : x[i] - o[i];
        }
        expect(&s, CAUSE_STRUCTURE, phrase[which]);
    }
    begin(&s, STAGE_EMBED, -1, 20); /* the token before */
    op_operand before = rig_recorded(&rig, op_list_op(&rig.list, STAGE_EMBED, -1), 19);
    memcpy(s.wrong.values, before.values, s.wrong.bytes);
    expect(&s, CAUSE_INPUT_SELECTION, "row of tokens at position 19 for that of 20");
    begin(&s, STAGE_K_CACHE, 0, 20); /* keys stored before their rotation */
    const float *k = floats_of(STAGE_K, 0, 20);
    for (int64_t i = 0; i < s.wrong.n; i++) {
        ((uint16_t *)s.wrong.values)[i] = kernel_f16_from_f32(k[i]);
    }
    expect(&s, CAUSE_KV_STATE, "stored before k_rope");
    op_rig_close(&rig);
}

/* ---- Single rows, ceilings, narrow formats ----------------------------------------------------
 */

/* The nearest of the 253 numbers of the OCP's E4M3, the even one of two; saturating. */
static float e4m3_of(float x)
{
    float best = 0, least = INFINITY;
    for (int code = 0; code < 127; code++) {
        int exponent = code >> 3, fraction = code & 7;
        float value =
            exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
        float distance = fabsf(value - fabsf(x));
        if (distance < least || (distance == least && code % 2 == 0)) {
            least = distance;
            best = value;
        }
    }
    return copysignf(best, x);
}

/* Attention on keys and values of which one position's are another row. */
static void one_row(int64_t at, const void *key, const void *value, const char *phrase)
{
    setup s;
    const void *keys[64], *values[64];
    begin(&s, STAGE_ATTN_OUT, 1, 20);
    op_case wrong = s.c;
    memcpy(keys, s.c.key, (size_t)s.c.n_key * sizeof *keys);
    memcpy(values, s.c.value, (size_t)s.c.n_key * sizeof *values);
    keys[at] = key ? key : s.c.key[at - 1];
    values[at] = value ? value : s.c.value[at - 1];
    wrong.key = keys;
    wrong.value = values;
    rig_check(op_replay(ref, &wrong, &s.wrong, NULL), NULL);
    expect(&s, CAUSE_KV_STATE, phrase);
}

static void single_rows_are_found(void **state)
{
    static const uint16_t empty[1024];
    (void)state;
    setup s;
    open_with("--type F16", GRETA_ACT_F32, GRETA_KV_F16);
    one_row(7, NULL, NULL, "row of position 7 is that of the position before");
    one_row(13, empty, empty, "row of position 13 is empty");
    const float *k = floats_of(STAGE_K_ROPE, 0, 20);
    begin(&s, STAGE_K_CACHE, 0, 20);
    for (int64_t i = 0; i < s.wrong.n; i++) {
        ((uint16_t *)s.wrong.values)[i] = kernel_f16_from_f32(e4m3_of(k[i]));
    }
    expect(&s, CAUSE_PRECISION_POLICY, "input in 8 bits (e4m3)");
    begin(&s, STAGE_V_CACHE, 1, 20);
    memset(s.wrong.values, 0, s.wrong.bytes);
    expect(&s, CAUSE_KV_STATE, "not written: zeros are left");
    begin(&s, STAGE_ACT, 0, 20);
    float *y = s.wrong.values, limit = fabsf(y[3]);
    char phrase[64], number[NUMBER_MAX];
    for (int64_t i = 0; i < s.wrong.n; i++) {
        y[i] = fabsf(y[i]) > limit ? copysignf(limit, y[i]) : y[i];
    }
    snprintf(phrase, sizeof phrase, "values cut off at %s", number_f32(limit, number));
    expect(&s, CAUSE_KERNEL_MATH, phrase);
    op_rig_close(&rig);
}

/* ---- Experts --------------------------------------------------------------------------------- */

static void experts_are_told_apart(void **state)
{
    (void)state;
    setup s;
    open_with("--arch llama --type F32 --experts 4 --experts-used 2", GRETA_ACT_F32, GRETA_KV_F16);
    const float *router = floats_of(STAGE_ROUTER, 0, 20);
    op_operand row = {0};
    assert_true(rig_find(&rig, STAGE_EXPERT_IDS, 0, 20, &row));
    const int32_t *ids = row.values;
    begin(&s, STAGE_EXPERT_WEIGHTS, 0, 20);
    expert_weights_args a = {
        .router = router, .ids = ids, .y = s.wrong.values, .n = 4, .n_used = 2};
    a.is_norm = !s.c.op.is_norm;
    ref->expert_weights(&a);
    expect(&s, CAUSE_STRUCTURE, "softmax over all experts for the chosen ones");
    begin(&s, STAGE_EXPERT_WEIGHTS, 0, 20);
    for (int r = 0; r < 2; r++) {
        ((float *)s.wrong.values)[r] = router[ids[r]];
    }
    expect(&s, CAUSE_STRUCTURE, "the router's values as weights");
    begin(&s, STAGE_EXPERT_IDS, 0, 20);
    for (int r = 0; r < 2; r++) {
        ((int32_t *)s.wrong.values)[r] = (ids[r] + 1) % 4;
    }
    expect(&s, CAUSE_STRUCTURE, "expert behind each chosen one");
    begin(&s, STAGE_MLP_OUT, 0, 20);
    const float *weights = floats_of(STAGE_EXPERT_WEIGHTS, 0, 20);
    const float *x = floats_of(STAGE_EXPERT_OUT, 0, 20);
    for (int64_t i = 0; i < s.wrong.n; i++) {
        ((float *)s.wrong.values)[i] = fmaf(weights[0], x[i], 0.0f);
    }
    expect(&s, CAUSE_STRUCTURE, "last expert left out");
    begin(&s, STAGE_GATE, 0, 20);
    const weight *gate = rig.model->layer[0].gate.tensor;
    int64_t n = gate->n_row / 4;
    for (int64_t i = 0; i < 2 * n; i++) {
        const float *w =
            (const float *)(const void *)weight_row(gate, (ids[i / n] + 1) % 4 * n + i % n);
        float total = 0;
        for (int64_t k = 0; k < gate->n_col; k += 256) {
            float acc = 0;
            for (int64_t j = k; j < k + 256 && j < gate->n_col; j++) {
                acc = fmaf(w[j], ((const float *)s.c.in[0].values)[j], acc);
            }
            total = k == 0 ? acc : total + acc;
        }
        ((float *)s.wrong.values)[i] = total;
    }
    expect(&s, CAUSE_WEIGHT_LAYOUT, "matrix of the expert behind");
    op_rig_close(&rig);
}

/* A row that no hypothesis explains fits none. */
static void what_nothing_explains_fits_nothing(void **state)
{
    (void)state;
    open_with("--type F32", GRETA_ACT_F32, GRETA_KV_F32);
    for (int32_t i = 0; i < rig.list.n_op; i++) {
        setup s;
        begin(&s, rig.list.op[i].name, rig.list.op[i].layer, 33);
        uint32_t *word = s.wrong.values;
        word[s.wrong.n / 3] ^= 0x00100400;
        try_all(&s, NULL);
        for (int32_t k = 0; k < s.n; k++) {
            assert_false(s.item[k].fits);
            assert_false(s.item[k].is_within);
        }
        assert_int_equal(s.item[0].worst_at, s.wrong.n / 3);
        assert_int_equal(s.item[0].n_equal, s.wrong.n - 1);
        end(&s);
    }
    op_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(healthy_ops_are_healthy),
        cmocka_unit_test(norms_are_told_apart),
        cmocka_unit_test(float_products_are_told_apart),
        cmocka_unit_test(sums_are_told_apart),
        cmocka_unit_test(coded_products_are_told_apart),
        cmocka_unit_test(broken_blocks_are_told_apart),
        cmocka_unit_test(rotations_are_told_apart),
        cmocka_unit_test(attention_faults_are_told_apart),
        cmocka_unit_test(rows_are_told_apart),
        cmocka_unit_test(single_rows_are_found),
        cmocka_unit_test(experts_are_told_apart),
        cmocka_unit_test(what_nothing_explains_fits_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
