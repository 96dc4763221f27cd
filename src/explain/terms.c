/* terms.c - four terms of every element, and their largest and their Euclidean size over a row.
 *
 * Values are exact in binary64 whatever their type, so what the terms lack to add up is the
 * rounding of a few subtractions; the gap is kept, for tests and reports to hold against its bound.
 */
#include "explain/terms.h"

#include <math.h>
#include <string.h>

#define SCALE_BLOCK 32 /* values per scale of ACT_Q8 */

static const char *const term_names[TERM_COUNT] = {
    "difference", "introduced_a", "introduced_b", "policy",         "inherited",      "computed_a",
    "computed_b", "selected_a",   "selected_b",   "policy_weights", "policy_contract"};

const char *term_name(term t)
{
    return (unsigned)t < TERM_COUNT ? term_names[t] : "?";
}

static double double_from_half(uint16_t half)
{
    int exponent = half >> 10 & 0x1f;
    double fraction = half & 0x3ff;
    double magnitude = exponent == 0x1f ? (fraction != 0 ? NAN : INFINITY)
                       : exponent == 0  ? ldexp(fraction, -24)
                                        : ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

double term_value(const term_row *row, int64_t i)
{
    const uint8_t *data = row->values;
    float value;
    uint16_t half;
    int32_t whole;
    switch (row->type) {
    case DTYPE_F16:
        memcpy(&half, data + 2 * i, sizeof half);
        return double_from_half(half);
    case DTYPE_I32:
        memcpy(&whole, data + 4 * i, sizeof whole);
        return whole;
    case DTYPE_ACT_Q8:
        memcpy(&value, data + row->n + 4 * (i / SCALE_BLOCK), sizeof value);
        return (double)value * (int8_t)data[i];
    default:
        memcpy(&value, data + 4 * i, sizeof value);
        return (double)value;
    }
}

static bool is_known(const term_rows *rows)
{
    const term_row *row[] = {&rows->recorded[SIDE_A], &rows->recorded[SIDE_B],
                             &rows->healthy[SIDE_A], &rows->healthy[SIDE_B], &rows->crossed};
    for (int i = 0; i < 5; i++) {
        if (!row[i]->values || row[i]->n != row[0]->n) {
            return false;
        }
    }
    return true;
}

/* What one side introduced, in two parts. */
static void side_terms(const term_rows *rows, side s, int64_t i, double t[TERM_COUNT])
{
    double recorded = term_value(&rows->recorded[s], i), healthy = term_value(&rows->healthy[s], i);
    bool has_read = rows->as_read[s].values && rows->as_read[s].n == rows->recorded[s].n;
    double read = has_read ? term_value(&rows->as_read[s], i) : healthy;
    t[s == SIDE_A ? TERM_INTRODUCED_A : TERM_INTRODUCED_B] = recorded - healthy;
    t[s == SIDE_A ? TERM_COMPUTED_A : TERM_COMPUTED_B] = recorded - read;
    t[s == SIDE_A ? TERM_SELECTED_A : TERM_SELECTED_B] = read - healthy;
}

static double gap_of(const double t[TERM_COUNT])
{
    double sum = t[TERM_INTRODUCED_A] - t[TERM_INTRODUCED_B] + t[TERM_POLICY] + t[TERM_INHERITED];
    double split_a = t[TERM_COMPUTED_A] + t[TERM_SELECTED_A] - t[TERM_INTRODUCED_A];
    double split_b = t[TERM_COMPUTED_B] + t[TERM_SELECTED_B] - t[TERM_INTRODUCED_B];
    double split_policy = t[TERM_POLICY_WEIGHTS] + t[TERM_POLICY_CONTRACT] - t[TERM_POLICY];
    double gap = fmax(fmax(fabs(t[TERM_DIFFERENCE] - sum), fabs(split_policy)),
                      fmax(fabs(split_a), fabs(split_b)));
    double largest = 0;
    for (int k = 0; k < TERM_COUNT; k++) {
        largest = fmax(largest, fabs(t[k]));
    }
    return gap > 0 ? gap / largest : 0;
}

void terms_take(const term_rows *rows, op_terms *out)
{
    *out = (op_terms){.is_measured = is_known(rows), .n = rows->recorded[SIDE_A].n};
    out->has_weights = out->is_measured && rows->weights;
    for (int64_t i = 0; i < out->n && out->is_measured; i++) {
        double t[TERM_COUNT], crossed = term_value(&rows->crossed, i);
        double healthy_b = term_value(&rows->healthy[SIDE_B], i);
        side_terms(rows, SIDE_A, i, t);
        side_terms(rows, SIDE_B, i, t);
        t[TERM_DIFFERENCE] =
            term_value(&rows->recorded[SIDE_A], i) - term_value(&rows->recorded[SIDE_B], i);
        t[TERM_POLICY] = term_value(&rows->healthy[SIDE_A], i) - crossed;
        t[TERM_INHERITED] = crossed - healthy_b;
        t[TERM_POLICY_WEIGHTS] = rows->weights ? rows->weights[i] : 0;
        t[TERM_POLICY_CONTRACT] = t[TERM_POLICY] - t[TERM_POLICY_WEIGHTS];
        bool is_finite = true;
        for (int k = 0; k < TERM_COUNT; k++) {
            is_finite = is_finite && isfinite(t[k]);
        }
        if (!is_finite) {
            out->n_nonfinite++;
            continue;
        }
        for (int k = 0; k < TERM_COUNT; k++) {
            out->at[k] = fabs(t[k]) > out->largest[k] ? i : out->at[k];
            out->largest[k] = fmax(out->largest[k], fabs(t[k]));
            out->norm[k] += t[k] * t[k];
        }
        out->gap = fmax(out->gap, gap_of(t));
        out->scale += healthy_b * healthy_b;
    }
    for (int k = 0; k < TERM_COUNT; k++) {
        out->norm[k] = sqrt(out->norm[k]);
    }
    out->scale = sqrt(out->scale);
}
