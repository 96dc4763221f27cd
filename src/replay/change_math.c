/* change_math.c - hypotheses about arithmetic: orders of sums, precisions, tails, quantisers,
 * activations, residuals.
 *
 * Orders are ROUNDING and tried beside the faults, so that what another order explains is never
 * called one. A narrower format is PRECISION_POLICY, also where it ruins the result.
 */
#include "replay/change.h"

#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- Products -------------------------------------------------------------------------------- */

static bool is_coded(const change *e)
{
    return e->healthy->in[0].type == DTYPE_ACT_Q8;
}

static bool order(change *e, double which)
{
    int64_t k = e->c.op.w[0].tensor->n_col, n_term = is_coded(e) ? k / ACT_BLOCK : k;
    bool is_tree = n_term > 3; /* else a chain */
    e->c.variant.order = (dot_order)which;
    return (dot_order)which == DOT_BIAS_FIRST ? e->c.op.w[1].tensor != NULL
                                              : (dot_order)which != DOT_PAIRWISE || is_tree;
}

static bool accumulator(change *e, double p)
{
    e->c.variant.accumulator = (precision)p;
    return true;
}

static bool accumulator_chain(change *e, double p)
{
    e->c.variant.accumulator = (precision)p;
    e->c.variant.order = DOT_CHAIN;
    return true;
}

static bool factors(change *e, double p)
{
    e->c.variant.input = (precision)p;
    return !is_coded(e);
}

static bool flushed(change *e, double unused)
{
    (void)unused;
    e->c.variant.is_flushed = 1;
    e->c.variant.attention = e->c.op.kind == OP_ATTENTION ? ATTENTION_TILES : ATTENTION_CANONICAL;
    return true;
}

static bool flushing(change *e, double unused)
{
    (void)unused;
    e->c.variant.is_flushing = 1;
    return true;
}

static bool tail(change *e, tail_fault which, double size, const char *what)
{
    bool is_out = which == TAIL_OUT_SKIPPED || which == TAIL_OUT_TWICE;
    bool can_be_all = is_out || which == TAIL_K_TWICE; /* a tail, and nothing before it */
    int64_t n = is_out ? e->c.out.n : e->c.in[0].n;
    e->c.variant.tail = which;
    e->c.variant.tail_size = (int32_t)size;
    change_say(e, what, (int)size);
    return (n > (int64_t)size || can_be_all) &&
           (which == TAIL_K_LAST_SKIPPED || n % (int64_t)size != 0);
}

static bool k_skipped(change *e, double size)
{
    return tail(e, TAIL_K_SKIPPED, size, "terms behind the last %d skipped");
}

static bool k_twice(change *e, double size)
{
    return tail(e, TAIL_K_TWICE, size, "terms behind the last %d added twice");
}

static bool k_twice_apart(change *e, double size)
{
    return tail(e, TAIL_K_TWICE_APART, size, "terms behind the last %d added twice, apart");
}

static bool k_last_skipped(change *e, double size)
{
    return tail(e, TAIL_K_LAST_SKIPPED, size, "last %d terms skipped");
}

static bool out_skipped(change *e, double size)
{
    return tail(e, TAIL_OUT_SKIPPED, size, "outputs behind the last %d not written");
}

static bool out_twice(change *e, double size)
{
    return tail(e, TAIL_OUT_TWICE, size, "outputs behind the last %d doubled");
}

/* Rows that a buffer can have held before: what an earlier op wrote for this token, or any for one
 * of the few before it. */
#define LEFT_POSITIONS 16

/* Whether the recorded tail is that of a row, as wide or wider. */
static bool is_left_of(const change *e, int64_t from, const op_operand *row)
{
    bool is_same = row->type == DTYPE_F32 && row->values && row->n >= e->c.out.n;
    for (int64_t i = from; i < e->c.out.n && is_same; i++) {
        float a = op_float_at(row, i), b = op_float_at(e->recorded, i);
        is_same = memcmp(&a, &b, sizeof a) == 0;
    }
    return is_same;
}

/* The row whose values from `from` on stand in the record; false: none that was recorded. */
static bool left_find(const change *e, int64_t from, op_operand *row, const edge **of, int64_t *at)
{
    const op_place *place = e->around->at;
    for (int64_t by = 0; by < LEFT_POSITIONS && place; by++) {
        for (int32_t i = 0; i < place->list->n_edge; i++) {
            const edge *other = &place->list->edge[i];
            bool is_later = by == 0 && other->producer >= place->index;
            *of = other;
            *at = e->healthy->position - by;
            bool is_wide = other->type == DTYPE_F32 && other->width >= e->c.out.n;
            if (!is_later && is_wide && !other->is_cache &&
                change_find(e, other->name, other->layer, *at, row) && is_left_of(e, from, row)) {
                return true;
            }
        }
    }
    return false;
}

/* A grid of whole tiles: what does not fill one stays as it lay in the buffer. Nobody who wrote
 * zeros there is known either: memory that was never written. */
static bool tail_left(change *e, double size)
{
    int64_t n = e->c.out.n, from = n - n % (int64_t)size;
    op_operand row = {0};
    const edge *of = NULL;
    int64_t at = 0;
    float *left = from > 0 && from < n ? change_memory(e, op_row_bytes(DTYPE_F32, n)) : NULL;
    if (!left || e->recorded->type != DTYPE_F32 || e->recorded->n != n) {
        return false;
    }
    bool is_blank = true;
    for (int64_t i = from; i < n; i++) {
        is_blank = is_blank && op_float_at(e->recorded, i) == 0;
    }
    if (is_blank) {
        change_say(e, "outputs behind the last %d left at 0", (int)size);
    } else if (left_find(e, from, &row, &of, &at)) {
        char layer[24] = "";
        if (of->layer >= 0) {
            snprintf(layer, sizeof layer, " of layer %d", (int)of->layer);
        }
        change_say(e, "outputs behind the last %d left as %s%s, position %lld", (int)size,
                   stage_name(of->name), layer, (long long)at);
    } else { /* whatever lay there: it is taken from the record, and proves nothing */
        change_say(e, "outputs behind the last %d left as something else", (int)size);
        e->told.is_solved = true;
    }
    for (int64_t i = from; i < n; i++) {
        left[i] = op_float_at(e->recorded, i);
    }
    e->c.variant.left = left;
    e->c.variant.left_from = from;
    return true;
}

static bool last_segment_skipped(change *e, double segment)
{
    int64_t n = e->c.in[0].n, rest = n - (n - 1) / (int64_t)segment * (int64_t)segment;
    return n > (int64_t)segment &&
           tail(e, TAIL_K_LAST_SKIPPED, (double)rest, "last segment skipped");
}

static bool minima_missing(change *e, double unused)
{
    (void)unused;
    e->c.variant.has_no_minima = 1;
    return is_coded(e);
}

static bool scale_before(change *e, double unused)
{
    (void)unused;
    e->c.variant.takes_scale_before = 1;
    return is_coded(e);
}

/* ---- Quantisers ------------------------------------------------------------------------------ */

static const struct {
    act_quantiser q;
    cause cause;
    const char *phrase;
} quantisers[] = {
    {{.width = 256}, CAUSE_PRECISION_POLICY, "one scale per 256 values"},
    {{.width = 256, .is_divided = 1},
     CAUSE_PRECISION_POLICY,
     "one scale per 256 values, by division"},
    {{.width = 64}, CAUSE_PRECISION_POLICY, "one scale per 64 values"},
    {{.width = 128}, CAUSE_PRECISION_POLICY, "one scale per 128 values"},
    {{.width = -1}, CAUSE_PRECISION_POLICY, "one scale for the row"},
    {{.width = -1, .is_divided = 1}, CAUSE_PRECISION_POLICY, "one scale for the row, by division"},
    {{.is_half = 1}, CAUSE_PRECISION_POLICY, "scales in binary16"},
    {{.is_away = 1, .is_half = 1},
     CAUSE_PRECISION_POLICY,
     "scales in binary16, codes half away from zero"},
    {{.steps = 128}, CAUSE_PRECISION_POLICY, "scale = largest / 128"},
    {{.is_away = 1}, CAUSE_ROUNDING, "codes half away from zero"},
    {{.is_divided = 1}, CAUSE_ROUNDING, "codes by division"},
    {{.is_divided = 1, .is_away = 1}, CAUSE_ROUNDING, "codes by division, half away from zero"},
    {{.is_cut = 1}, CAUSE_KERNEL_MATH, "codes cut towards zero"},
    {{.is_cut = 1, .is_divided = 1}, CAUSE_KERNEL_MATH, "codes cut towards zero, by division"},
};
#define QUANTISERS (sizeof quantisers / sizeof *quantisers)

static bool quantiser_set(change *e, op_case *c, size_t which)
{
    if (which >= QUANTISERS) {
        return false;
    }
    c->variant.quantiser = quantisers[which].q;
    if (c->variant.quantiser.width < 0) {
        c->variant.quantiser.width = (int32_t)c->out.n;
    }
    e->told.cause = quantisers[which].cause;
    e->told.role = e->told.cause == CAUSE_ROUNDING ? EVIDENCE_ORDER : EVIDENCE_CHANGE;
    change_say(e, "%s", quantisers[which].phrase);
    return true;
}

static bool quantiser(change *e, double which)
{
    return quantiser_set(e, &e->c, (size_t)which);
}

/* The row in front of the op's quantiser. */
static bool unquantised(const change *e, op_operand *row)
{
    const op_place *at = e->around->at;
    if (!at || !is_coded(e)) {
        return false;
    }
    const edge *codes = &at->list->edge[at->list->op[at->index].in[0].edge];
    int32_t read = codes->producer >= 0 ? at->list->op[codes->producer].in[0].edge : -1;
    const edge *from = read >= 0 ? &at->list->edge[read] : NULL;
    return from && change_find(e, from->name, from->layer, e->healthy->position, row) &&
           row->type == DTYPE_F32 && row->n == e->healthy->in[0].n;
}

static bool not_quantised(change *e, double unused)
{
    (void)unused;
    return unquantised(e, &e->c.in[0]);
}

/* The product's row by another quantiser; value -1: where the contract has none at all. */
static bool row_quantised(change *e, double which)
{
    op_case q = {.op = {.kind = OP_QUANTIZE}, .out = {.type = DTYPE_ACT_Q8}};
    op_output codes;
    bool is_added = (int)which < 0;
    if (is_added ? is_coded(e) : !unquantised(e, &q.in[0])) {
        return false;
    }
    q.in[0] = is_added ? e->healthy->in[0] : q.in[0];
    q.out.n = q.in[0].n;
    if (q.out.n % ACT_BLOCK != 0 || (!is_added && !quantiser_set(e, &q, (size_t)which))) {
        return false;
    }
    uint8_t *row = change_memory(e, op_row_bytes(DTYPE_ACT_Q8, q.out.n));
    if (!row || op_output_new(&q, &codes, NULL) != GRETA_OK) {
        e->failed = true;
        return false;
    }
    bool done = op_replay(kernel_find("ref"), &q, &codes, NULL) == GRETA_OK;
    memcpy(row, codes.values, codes.bytes);
    op_output_free(&codes);
    e->c.in[0] = (op_operand){DTYPE_ACT_Q8, q.out.n, row};
    return done;
}

/* ---- Activations ----------------------------------------------------------------------------- */

static bool other_activation(change *e, double which)
{
    static const char *const name[ACTIVATION_COUNT] = {"silu", "gelu", "sigmoid", "tanh", "exp"};
    activation f = (activation)which;
    change_say(e, "%s for %s", name[f], name[e->healthy->op.activation]);
    e->c.op.activation = f;
    return f != e->healthy->op.activation;
}

static bool wrong_function(change *e, double which)
{
    e->c.variant.activation = (wrong_activation)which;
    return true;
}

static bool inputs_swapped(change *e, double unused)
{
    (void)unused;
    e->c.in[0] = e->healthy->in[1];
    e->c.in[1] = e->healthy->in[0];
    return true;
}

/* Input `which` filled with one number. */
static bool input_filled(change *e, int which, float with)
{
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, e->c.in[which].n));
    for (int64_t i = 0; i < e->c.in[which].n && row; i++) {
        row[i] = with;
    }
    e->c.in[which].values = row;
    return row != NULL;
}

static bool up_missing(change *e, double unused)
{
    (void)unused;
    return input_filled(e, 1, 1.0f);
}

/* ---- Residuals ------------------------------------------------------------------------------- */

/* -0 is what leaves every number as it is. */
static bool term_missing(change *e, double which)
{
    return input_filled(e, (int)which, -0.0f);
}

/* a + b, and a again: the other term becomes their rounded sum. */
static bool term_twice(change *e, double which)
{
    int again = (int)which, other = 1 - again;
    float *sum = change_memory(e, op_row_bytes(DTYPE_F32, e->c.out.n));
    for (int64_t i = 0; i < e->c.out.n && sum; i++) {
        sum[i] = op_float_at(&e->healthy->in[0], i) + op_float_at(&e->healthy->in[1], i);
    }
    e->c.in[other].values = sum;
    return sum != NULL;
}

static bool term_negated(change *e, double which)
{
    const op_operand *in = &e->healthy->in[(int)which];
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, in->n));
    for (int64_t i = 0; i < in->n && row; i++) {
        row[i] = -op_float_at(in, i);
    }
    e->c.in[(int)which].values = row;
    return row != NULL;
}

/* ---- Scales and caps ------------------------------------------------------------------------- */

static bool factor_set(change *e, double factor)
{
    e->c.op.factor = (float)factor;
    return change_number(e, EVIDENCE_NUMBER_SCALE, "scale", (double)e->healthy->op.factor,
                         (double)e->c.op.factor);
}

static bool factor_rounded(change *e, double p)
{
    return factor_set(e, (double)precision_round((precision)p, e->healthy->op.factor));
}

static bool factor_power(change *e, double power)
{
    return factor_set(e, pow((double)e->healthy->op.factor, power));
}

static bool cap_set(change *e, double cap)
{
    e->c.op.softcap = (float)cap;
    return cap > 0 &&
           change_number(e, EVIDENCE_NUMBER_CAP, "cap", (double)e->healthy->op.softcap, cap);
}

static bool clipped(change *e, double unused)
{
    (void)unused;
    e->c.variant.is_copy = 1;
    e->c.variant.clamp = e->healthy->op.softcap;
    return true;
}

/* ---- Saturation ------------------------------------------------------------------------------ */

/* Cut off at the largest magnitude of the record, if the row shows a ceiling: two values or more
 * lie exactly there, and none above. The limit follows from any one of them, the others prove it.
 */
static bool clamped(change *e, double unused)
{
    double most = 0;
    int64_t n_at = 0;
    (void)unused;
    for (int64_t i = 0; i < e->recorded->n && e->recorded->type == DTYPE_F32; i++) {
        double size = fabs(op_value_at(e->recorded, i));
        n_at = size > most ? 1 : n_at + (size == most);
        most = size > most ? size : most;
    }
    char limit[NUMBER_MAX];
    e->c.variant.clamp = (float)most;
    change_say(e, "values cut off at %s", number_f32((float)most, limit));
    return isfinite(most) && most > 0 && n_at > 1;
}

/* ---- The cache ------------------------------------------------------------------------------- */

static bool heads_reversed(change *e, double unused)
{
    (void)unused;
    const op *o = &e->c.op;
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, e->c.out.n));
    for (int64_t i = 0; i < e->c.out.n && row; i++) {
        int64_t head = o->n_head_kv - 1 - i / o->head_dim;
        row[i] = op_float_at(&e->healthy->in[0], head * o->head_dim + i % o->head_dim);
    }
    e->c.in[0].values = row;
    return row != NULL;
}

/* Towards zero, to the step of the cache's type. */
static bool stored_cut(change *e, double unused)
{
    (void)unused;
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, e->c.out.n));
    for (int64_t i = 0; i < e->c.out.n && row; i++) {
        float x = op_float_at(&e->healthy->in[0], i), near = precision_round(PRECISION_F16, x);
        /* Halves lie 2^-24 apart below 2^-14, else 2^13 floats. */
        float below = fabsf(near) < 0x1p-14f ? near - copysignf(0x1p-24f, near) : near;
        uint32_t bits;
        memcpy(&bits, &below, sizeof bits);
        bits -= below == near ? 0x2000u : 0;
        memcpy(&below, &bits, sizeof below);
        row[i] = fabsf(near) > fabsf(x) ? below : near;
    }
    e->c.in[0].values = row;
    return row != NULL;
}

/* Subnormal numbers of binary16 are zero. */
static bool stored_flushed(change *e, double unused)
{
    (void)unused;
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, e->c.out.n));
    for (int64_t i = 0; i < e->c.out.n && row; i++) {
        float x = op_float_at(&e->healthy->in[0], i);
        row[i] = fabsf(x) < 0x1p-14f ? copysignf(0.0f, x) : x;
    }
    e->c.in[0].values = row;
    return row != NULL;
}

/* A row that was never written: zeros, as a fresh cache has them. */
static bool stored_nothing(change *e, double unused)
{
    (void)unused;
    return input_filled(e, 0, 0.0f);
}

/* ---- The list -------------------------------------------------------------------------------- */

#define MATMULS   (KIND(OP_MATMUL) | KIND(OP_EXPERT_MATMUL))
#define WITH_TAIL (KIND(OP_MATMUL) | KIND(OP_GLU) | KIND(OP_ADD) | KIND(OP_SCALE))
#define GLU(edit, value, phrase)                                                                   \
    {                                                                                              \
        KIND(OP_GLU), CAUSE_KERNEL_MATH, EVIDENCE_CHANGE, edit, value, phrase                      \
    }
#define ORDER(which, phrase)                                                                       \
    {                                                                                              \
        MATMULS, CAUSE_ROUNDING, EVIDENCE_ORDER, order, which, phrase                              \
    }
#define POLICY(edit, value, phrase)                                                                \
    {                                                                                              \
        MATMULS, CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, edit, value, phrase                      \
    }
#define TAIL(edit, value)                                                                          \
    {                                                                                              \
        MATMULS, CAUSE_KERNEL_MATH, EVIDENCE_CHANGE, edit, value, NULL                             \
    }
#define MATH(kinds, edit, value, phrase)                                                           \
    {                                                                                              \
        kinds, CAUSE_KERNEL_MATH, EVIDENCE_CHANGE, edit, value, phrase                             \
    }
#define PART(edit, value, phrase)                                                                  \
    {                                                                                              \
        KIND(OP_ADD), CAUSE_STRUCTURE, EVIDENCE_CHANGE, edit, value, phrase                        \
    }
#define QUANTISED(which)                                                                           \
    {KIND(OP_QUANTIZE), CAUSE_NONE, EVIDENCE_CHANGE, quantiser, which, NULL},                      \
        POLICY(row_quantised, which, NULL)
#define SCALED(edit, value)                                                                        \
    {                                                                                              \
        KIND(OP_SCALE), CAUSE_SCALE, EVIDENCE_CHANGE, edit, value, NULL                            \
    }

static const hypothesis rows[] = {
    ORDER(DOT_CHAIN, "one chain"),
    ORDER(DOT_SEGMENTS, "other segments"),
    ORDER(DOT_LANES_8, "summed in 8 lanes"),
    ORDER(DOT_LANES_16, "summed in 16 lanes"),
    ORDER(DOT_LANES_32, "summed in 32 lanes"),
    ORDER(DOT_PAIRWISE, "summed pairwise"),
    ORDER(DOT_F64, "summed in binary64"),
    ORDER(DOT_BIAS_FIRST, "bias first"),
    POLICY(accumulator, PRECISION_F16, "sums in binary16"),
    POLICY(accumulator, PRECISION_BF16, "sums in bfloat16"),
    POLICY(accumulator_chain, PRECISION_F16, "sums in binary16, one chain"),
    POLICY(accumulator_chain, PRECISION_BF16, "sums in bfloat16, one chain"),
    POLICY(factors, PRECISION_TF32, "factors in TF32"),
    POLICY(factors, PRECISION_F16, "factors in binary16"),
    POLICY(factors, PRECISION_BF16, "factors in bfloat16"),
    POLICY(not_quantised, 0, "activations not quantised"),
    POLICY(row_quantised, -1, "activations quantised"),
    MATH(MATMULS, order, DOT_PLAIN, "products rounded before they are added"),
    MATH(MATMULS, order, DOT_CHAIN_PLAIN, "products rounded before they are added, one chain"),
    POLICY(factors, PRECISION_TF32_CUT, "factors cut to TF32"),
    MATH(MATMULS | KIND(OP_GLU) | KIND(OP_ATTENTION), flushed, 0, "subnormals flushed to zero"),
    MATH(KINDS_FLOAT, flushing, 0, "subnormals flushed to zero, of binary16 too"),
    MATH(WITH_TAIL, tail_left, 8, NULL),
    MATH(WITH_TAIL, tail_left, 16, NULL),
    MATH(WITH_TAIL, tail_left, 32, NULL),
    MATH(WITH_TAIL, tail_left, 64, NULL),
    MATH(WITH_TAIL, tail_left, 128, NULL),
    MATH(WITH_TAIL, tail_left, 256, NULL),
    MATH(KINDS_FLOAT, clamped, 0, NULL),
    TAIL(k_skipped, 8),
    TAIL(k_skipped, 16),
    TAIL(k_skipped, 32),
    TAIL(k_skipped, 64),
    TAIL(k_twice, 8),
    TAIL(k_twice, 16),
    TAIL(k_twice, 32),
    TAIL(k_twice, 64),
    TAIL(k_twice_apart, 8),
    TAIL(k_twice_apart, 16),
    TAIL(k_twice_apart, 32),
    TAIL(k_twice_apart, 64),
    TAIL(k_last_skipped, 1),
    TAIL(k_last_skipped, 32),
    TAIL(k_last_skipped, 256),
    TAIL(last_segment_skipped, SEGMENT),
    TAIL(last_segment_skipped, SEGMENT_FLOAT),
    TAIL(out_skipped, 8),
    TAIL(out_skipped, 16),
    TAIL(out_skipped, 32),
    TAIL(out_skipped, 64),
    TAIL(out_twice, 8),
    TAIL(out_twice, 16),
    TAIL(out_twice, 32),
    TAIL(out_twice, 64),
    MATH(MATMULS, minima_missing, 0, "minima left out"),
    MATH(MATMULS, scale_before, 0, "activation scale of the block before"),
    QUANTISED(0),
    QUANTISED(1),
    QUANTISED(2),
    QUANTISED(3),
    QUANTISED(4),
    QUANTISED(5),
    QUANTISED(6),
    QUANTISED(7),
    QUANTISED(8),
    QUANTISED(9),
    QUANTISED(10),
    QUANTISED(11),
    QUANTISED(12),
    QUANTISED(13),
    GLU(other_activation, ACTIVATION_SILU, NULL),
    GLU(other_activation, ACTIVATION_GELU_TANH, NULL),
    GLU(other_activation, ACTIVATION_SIGMOID, NULL),
    GLU(other_activation, ACTIVATION_TANH, NULL),
    GLU(wrong_function, WRONG_ACTIVATION_GELU_ERF, "gelu by erf"),
    GLU(wrong_function, WRONG_ACTIVATION_GELU_ERF_SUM, "gelu by 1 + erf"),
    GLU(wrong_function, WRONG_ACTIVATION_GELU_QUICK, "x sigmoid(1.702 x)"),
    GLU(wrong_function, WRONG_ACTIVATION_GELU_QUICK_F32, "x sigmoid(1.702 x), in steps"),
    GLU(wrong_function, WRONG_ACTIVATION_RELU, "relu"),
    GLU(wrong_function, WRONG_ACTIVATION_IDENTITY, "activation left out"),
    GLU(inputs_swapped, 0, "gate and up swapped"),
    GLU(up_missing, 0, "up left out"),
    PART(term_missing, 0, "residual left out"),
    PART(term_missing, 1, "block left out"),
    PART(term_twice, 0, "residual added twice"),
    PART(term_twice, 1, "block added twice"),
    PART(term_negated, 0, "residual subtracted"),
    PART(term_negated, 1, "block subtracted"),
    SCALED(factor_rounded, PRECISION_BF16),
    SCALED(factor_rounded, PRECISION_F16),
    SCALED(factor_power, 2),
    SCALED(factor_power, 0.5),
    SCALED(factor_power, -1),
    {KIND(OP_SOFTCAP), CAUSE_SCALE, EVIDENCE_CHANGE, cap_set, 30, NULL},
    {KIND(OP_SOFTCAP), CAUSE_SCALE, EVIDENCE_CHANGE, cap_set, 50, NULL},
    MATH(KIND(OP_SOFTCAP), clipped, 0, "clipped at the cap"),
    {KIND(OP_KV_STORE), CAUSE_KV_STATE, EVIDENCE_CHANGE, heads_reversed, 0, "heads reversed"},
    MATH(KIND(OP_KV_STORE), stored_cut, 0, "cut towards zero"),
    MATH(KIND(OP_KV_STORE), stored_flushed, 0, "subnormal numbers of binary16 taken for zero"),
    {KIND(OP_KV_STORE), CAUSE_KV_STATE, EVIDENCE_CHANGE, stored_nothing, 0,
     "not written: zeros are left"},
};

const hypothesis_table changes_math = {rows, sizeof rows / sizeof *rows};
