/* change_rope.c - hypotheses about rotation: position, base, scaling, pairs, dimensions, precision.
 *
 * Angles are computed by the definition's table from other numbers, or given as a table of their
 * own. The position that was used can be read off the record: the first pair turns by one radian a
 * position, so every position in reach is tried on that pair alone, and whole rows only where it
 * agrees.
 *
 * Cosines and sines that are kept in 16 bits are off by the same little everywhere: a policy.
 * Frequencies or angles in 16 bits are off by more with every position, as positions in 16 bits
 * are: E.
 */
#include "replay/change.h"

#include "base/limits.h"
#include "kernel/rope_table.h"

#include <math.h>
#include <string.h>

#define SEARCHED 65536 /* positions around the own one that a record is searched for */

/* ---- What a table is made from --------------------------------------------------------------- */

/* What positions are divided by. */
static float rope_linear(const rope_table_args *a)
{
    return a->scaling == ROPE_SCALING_LINEAR ? a->factor : 1.0f;
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static bool position_set(change *e, int64_t position)
{
    e->c.rope.first_position = position;
    return change_number(e, EVIDENCE_NUMBER_POSITION, "position", (double)e->healthy->position,
                         (double)position);
}

static bool position_plus(change *e, double more)
{
    return position_set(e, e->healthy->position + (int64_t)more);
}

static bool position_is(change *e, double position)
{
    return e->healthy->position > 1 && position_set(e, (int64_t)position);
}

/* Cut to as many bits as bfloat16 has, or rounded to them. */
static bool position_bf16(change *e, double is_cut)
{
    int64_t p = e->healthy->position, unit = 1;
    while (p / unit >= 256) {
        unit *= 2;
    }
    int64_t near = (int64_t)precision_round(PRECISION_BF16, (float)p);
    e->told.cause = CAUSE_POSITION;
    return position_set(e, is_cut > 0 ? p / unit * unit : near);
}

/* How far the first pair of the first head lies from where `position` would turn it. */
static double pair_distance(const change *e, int64_t position)
{
    rope_table_args a = e->healthy->rope;
    float cos_sin[2];
    int64_t first, second;
    float angle_of_pair[LIMIT_HEAD_DIM];
    a.first_position = position;
    kernel_rope_table(&a, angle_of_pair);
    memcpy(cos_sin, angle_of_pair, sizeof cos_sin);
    op_pair(&e->healthy->op, 0, &first, &second);
    double x0 = op_value_at(&e->healthy->in[0], first);
    double x1 = op_value_at(&e->healthy->in[0], second);
    double y0 = x0 * (double)cos_sin[0] - x1 * (double)cos_sin[1];
    double y1 = x0 * (double)cos_sin[1] + x1 * (double)cos_sin[0];
    return hypot(y0 - op_value_at(e->recorded, first), y1 - op_value_at(e->recorded, second));
}

/* The nearest position, but the usual ones, whose first pair is the record's. A whole number that
 * one pair tells and all others confirm: nothing is left free. */
static bool position_solved(change *e, double unused)
{
    (void)unused;
    int64_t own = e->healthy->position, first, second;
    op_pair(&e->healthy->op, 0, &first, &second);
    double size =
        hypot(op_value_at(&e->healthy->in[0], first), op_value_at(&e->healthy->in[0], second));
    for (int64_t d = 2; d < SEARCHED && size > 0; d++) {
        int64_t near = own - d;
        if (near > 0 && pair_distance(e, near) <= 1e-5 * size) {
            return position_set(e, near);
        }
        if (d < 4096 && pair_distance(e, own + d) <= 1e-5 * size) {
            return position_set(e, own + d);
        }
        if (near <= 0 && d >= 4096) {
            return false;
        }
    }
    return false;
}

static bool base_set(change *e, double base)
{
    e->c.rope.freq_base = (float)base;
    return base > 0 &&
           change_number(e, EVIDENCE_NUMBER_BASE, "base", (double)e->healthy->rope.freq_base, base);
}

/* The base of the model's layers of the other kind. */
static bool base_other(change *e, double unused)
{
    (void)unused;
    const rope_config *r = e->around->at ? &e->around->at->model->cfg.rope : NULL;
    float own = e->healthy->rope.freq_base;
    double other = !r ? 0 : (double)(own == r->freq_base ? r->freq_base_local : r->freq_base);
    return base_set(e, other);
}

static bool dimensions_set(change *e, int32_t dim)
{
    e->c.op.rope_dim = e->c.rope.rope_dim = dim;
    bool has_factors = !e->c.rope.factors || dim <= e->healthy->op.rope_dim;
    return dim >= 2 && dim % 2 == 0 && dim <= e->c.op.head_dim && has_factors &&
           change_number(e, EVIDENCE_NUMBER_DIMENSIONS, "rotary dimensions",
                         (double)e->healthy->op.rope_dim, (double)dim);
}

static bool dimensions_times(change *e, double factor)
{
    return dimensions_set(e, (int32_t)((double)e->healthy->op.rope_dim * factor) / 2 * 2);
}

static bool dimensions_all(change *e, double unused)
{
    (void)unused;
    return dimensions_set(e, e->healthy->op.head_dim);
}

static bool other_pairing(change *e, double unused)
{
    (void)unused;
    bool is_halves = e->healthy->op.pairing == ROPE_HALVES;
    e->c.op.pairing = is_halves ? ROPE_NEIGHBOURS : ROPE_HALVES;
    change_say(e, is_halves ? "neighbours turned for halves" : "halves turned for neighbours");
    return true;
}

/* ---- Scaling --------------------------------------------------------------------------------- */

static bool factors_missing(change *e, double unused)
{
    (void)unused;
    e->c.rope.factors = NULL;
    return e->healthy->rope.factors != NULL;
}

static bool scaling_missing(change *e, double unused)
{
    (void)unused;
    e->c.rope.scaling = ROPE_SCALING_NONE;
    e->c.rope.attn_factor = 0;
    return e->healthy->rope.scaling != ROPE_SCALING_NONE;
}

/* A method whose divisors are part of it, all of it left out. */
static bool method_missing(change *e, double unused)
{
    e->c.rope.factors = NULL;
    return e->healthy->rope.factors && scaling_missing(e, unused);
}

/* The frequencies as they should be, the pairs not lengthened; or the other way round. */
static bool magnitude_missing(change *e, double unused)
{
    (void)unused;
    e->c.rope.attn_factor = 0;
    return e->healthy->rope.attn_factor > 0 && e->healthy->rope.attn_factor != 1.0f;
}

/* Positions divided by more; or, in place of another method, by this alone. */
static bool linear_times(change *e, double factor)
{
    rope_scaling method = e->healthy->rope.scaling;
    bool is_alone = method == ROPE_SCALING_NONE || method == ROPE_SCALING_LINEAR;
    double healthy = (double)rope_linear(&e->healthy->rope);
    e->c.rope.scaling = ROPE_SCALING_LINEAR;
    e->c.rope.factor = (float)(healthy * factor);
    bool is_other =
        change_number(e, EVIDENCE_NUMBER_SCALE, "positions divided by", healthy, healthy * factor);
    if (!is_alone) {
        change_say(e, "positions divided by %d in place of the model's scaling", (int)factor);
    }
    return is_other && (is_alone || factor >= 1);
}

/* The angles of the model's layers of the other kind. */
static bool other_table(change *e, double unused)
{
    (void)unused;
    const op_place *at = e->around->at;
    if (!at || !(at->model->cfg.rope.freq_base_local > 0)) {
        return false;
    }
    const struct greta_model *m = at->model;
    rope_source source = {&m->cfg.rope,  m->rope_factors,    m->rope_long,
                          m->rope_short, m->cfg.n_ctx_train, at->n_ctx};
    e->c.rope = kernel_rope_args(&source, e->healthy->op.rope_table != 1);
    e->c.rope.first_position = e->healthy->position;
    return e->c.rope.rope_dim == e->c.op.rope_dim;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static float *own_angles(change *e)
{
    float *cos_sin = change_memory(e, (size_t)e->c.op.rope_dim * sizeof *cos_sin);
    if (cos_sin) {
        op_angles(e->healthy, cos_sin);
        e->c.cos_sin = cos_sin;
    }
    return cos_sin;
}

/* Signs of sines (1) or of cosines (0). */
static bool turned_over(change *e, double which)
{
    float *cos_sin = own_angles(e);
    for (int32_t i = (int32_t)which; i < e->c.op.rope_dim && cos_sin; i += 2) {
        cos_sin[i] = -cos_sin[i];
    }
    return cos_sin != NULL;
}

/* Pairs longer by the factor that the first one tells, if all of it is a factor. */
static bool magnitude_solved(change *e, double unused)
{
    (void)unused;
    double in = 0.0, out = 0.0;
    for (int64_t i = 0; i < e->c.op.head_dim; i++) {
        bool turns = i < e->c.op.rope_dim;
        in += turns ? pow(op_value_at(&e->healthy->in[0], i), 2) : 0;
        out += turns ? pow(op_value_at(e->recorded, i), 2) : 0;
    }
    double own = e->healthy->rope.attn_factor > 0 ? (double)e->healthy->rope.attn_factor : 1.0;
    double factor = in > 0 ? sqrt(out / in) / own : 1.0;
    double shown = round(factor * 1e5) / 1e5; /* as a file would have it */
    float *cos_sin = own_angles(e);
    for (int32_t i = 0; i < e->c.op.rope_dim && cos_sin; i++) {
        cos_sin[i] *= (float)shown;
    }
    e->told.is_solved = true;
    return cos_sin && isfinite(factor) && fabs(factor - 1) > 1e-5 &&
           change_number(e, EVIDENCE_NUMBER_SCALE, "pairs lengthened by", 1, (double)(float)shown);
}

/* Pairs longer by the attention factor of a context stretched this often, where the model has none:
 * 0.1 ln(factor) + 1 (Peng et al. 2023, section 3.4). Below 0: by that beside what the model has,
 * and cosines and sines are rounded first. */
static bool magnitude_yarn(change *e, double factor)
{
    float longer = (float)(0.1 * log(fabs(factor)) + 1.0);
    float *cos_sin = factor < 0 ? own_angles(e) : NULL;
    for (int32_t i = 0; i < e->c.op.rope_dim && cos_sin; i++) {
        cos_sin[i] *= longer;
    }
    e->c.rope.attn_factor = longer;
    return (cos_sin || !(e->healthy->rope.attn_factor > 0)) &&
           change_number(e, EVIDENCE_NUMBER_SCALE, "pairs lengthened by", 1, (double)longer);
}

/* Twice the angle is the rotation done twice, but for its roundings. */
static bool twice(change *e, double unused)
{
    (void)unused;
    float *row = change_memory(e, op_row_bytes(DTYPE_F32, e->c.out.n));
    op_output once;
    if (!row || op_output_new(e->healthy, &once, NULL) != GRETA_OK) {
        return false;
    }
    bool done = op_replay(kernel_find("ref"), e->healthy, &once, NULL) == GRETA_OK;
    memcpy(row, once.values, once.bytes);
    op_output_free(&once);
    e->c.in[0].values = row;
    return done;
}

static bool angles_rounded(change *e, double p)
{
    e->c.variant.angles = (precision)p;
    return true;
}

/* Frequencies (0) or angles (1) held in a narrower format before cos and sin are taken, in steps of
 * four: 4 * precision + what. Angles are products in binary32, or (2) in binary64. */
static bool phase_rounded(change *e, double what_and_precision)
{
    int what = (int)what_and_precision % 4;
    precision p = (precision)((int)what_and_precision / 4);
    const rope_table_args *a = &e->healthy->rope;
    double position = (double)e->healthy->position / (double)rope_linear(a);
    float *cos_sin = own_angles(e);
    for (int32_t i = 0; i < a->rope_dim / 2 && cos_sin; i++) {
        double frequency = kernel_rope_frequency(a, i), angle;
        frequency = what == 1 ? frequency : (double)precision_round(p, (float)frequency);
        angle = what == 2 ? position * frequency : (double)(float)(position * frequency);
        angle = what == 1 ? (double)precision_round(p, (float)angle) : angle;
        kernel_rope_turn(a, angle, cos_sin + 2 * i);
    }
    return cos_sin != NULL;
}

static bool not_fused(change *e, double unused)
{
    (void)unused;
    e->c.variant.is_plain = 1;
    return true;
}

static bool heads_only(change *e, double n)
{
    e->c.variant.heads_only = (int32_t)n;
    return e->c.op.n_head > (int32_t)n;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define TURN(edit, value, phrase)                                                                  \
    {                                                                                              \
        KIND(OP_ROPE), CAUSE_POSITION, EVIDENCE_CHANGE, edit, value, phrase                        \
    }
#define LONGER(factor) TURN(magnitude_yarn, factor, NULL), TURN(magnitude_yarn, -(factor), NULL)
#define NARROW(edit, value, phrase)                                                                \
    {                                                                                              \
        KIND(OP_ROPE), CAUSE_PRECISION_POLICY, EVIDENCE_CHANGE, edit, value, phrase                \
    }

static const hypothesis rows[] = {
    TURN(position_plus, -1, NULL),
    TURN(position_plus, 1, NULL),
    TURN(position_is, 0, NULL),
    TURN(position_solved, 0, NULL),
    TURN(position_bf16, 1, NULL),
    TURN(position_bf16, 0, NULL),
    TURN(base_set, 10000, NULL),
    TURN(base_set, 100000, NULL),
    TURN(base_set, 500000, NULL),
    TURN(base_set, 1000000, NULL),
    TURN(base_set, 5000000, NULL),
    TURN(base_other, 0, NULL),
    TURN(factors_missing, 0, "divisors of frequencies left out"),
    TURN(scaling_missing, 0, "scaling of frequencies left out"),
    TURN(method_missing, 0, "scaling and divisors of frequencies left out"),
    TURN(magnitude_missing, 0, "attention factor left out"),
    TURN(other_table, 0, "angles of layers of the other kind"),
    TURN(linear_times, 2, NULL),
    TURN(linear_times, 4, NULL),
    TURN(linear_times, 8, NULL),
    TURN(linear_times, 0.5, NULL),
    TURN(other_pairing, 0, NULL),
    TURN(dimensions_times, 0.5, NULL),
    TURN(dimensions_times, 0.25, NULL),
    TURN(dimensions_all, 0, NULL),
    LONGER(2),
    LONGER(4),
    LONGER(8),
    LONGER(16),
    LONGER(32),
    LONGER(40),
    LONGER(64),
    TURN(magnitude_solved, 0, NULL),
    TURN(turned_over, 1, "turned backwards"),
    TURN(turned_over, 0, "cosines negated"),
    TURN(twice, 0, "turned twice"),
    TURN(heads_only, 1, "first head only"),
    NARROW(angles_rounded, PRECISION_F16, "cos and sin in binary16"),
    NARROW(angles_rounded, PRECISION_BF16, "cos and sin in bfloat16"),
    NARROW(phase_rounded, 4 * PRECISION_F32, "frequencies in binary32"),
    NARROW(phase_rounded, 4 * PRECISION_F32 + 2, "frequencies in binary32"),
    TURN(phase_rounded, 4 * PRECISION_F16, "frequencies in binary16"),
    TURN(phase_rounded, 4 * PRECISION_F16 + 2, "frequencies in binary16"),
    TURN(phase_rounded, 4 * PRECISION_BF16, "frequencies in bfloat16"),
    TURN(phase_rounded, 4 * PRECISION_BF16 + 2, "frequencies in bfloat16"),
    TURN(phase_rounded, 4 * PRECISION_F16 + 1, "angles in binary16"),
    TURN(phase_rounded, 4 * PRECISION_BF16 + 1, "angles in bfloat16"),
    {KIND(OP_ROPE), CAUSE_KERNEL_MATH, EVIDENCE_CHANGE, not_fused, 0,
     "products rounded before they are added"},
};

const hypothesis_table changes_rope = {rows, sizeof rows / sizeof *rows};
