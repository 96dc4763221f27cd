/* wrong_numbers.c - an op's numbers, changed: scale, cap, window, pairing, activation, experts.
 *
 * False says that the op has no such number, or that it is the wrong one already: then there is
 * nothing to plant.
 */
#include "fault/wrong_attention.h"

#include "kernel/half.h"

#include <math.h>

static bool float_set(float *number, float value)
{
    bool differs = *number != value;
    *number = value;
    return differs;
}

static bool whole_set(int32_t *number, int32_t value)
{
    bool differs = *number != value;
    *number = value;
    return differs;
}

bool scale_1_over_d(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->scale, 1.0f / (float)o->head_dim);
}

bool scale_1(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->scale, 1.0f);
}

bool scale_sqrt_d(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->scale, sqrtf((float)o->head_dim));
}

/* 1 / sqrt of the width of all heads, not of one. */
bool scale_of_embd(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->scale, 1.0f / sqrtf((float)o->head_dim * (float)o->n_head));
}

/* 1 / sqrt(n_embd / n_head), which is not the width of a head in every model: llama.cpp 8197. */
bool scale_of_width(const fault_site *site, op *o)
{
    int32_t embed = op_list_edge(site->list, STAGE_EMBED, -1);
    float width = embed < 0 ? 0 : (float)site->list->edge[embed].width / (float)o->n_head;
    return width > 0 && float_set(&o->scale, 1.0f / sqrtf(width));
}

bool scores_cap_missing(const fault_site *site, op *o)
{
    (void)site;
    return o->softcap > 0 && float_set(&o->softcap, 0);
}

bool scores_cap_30(const fault_site *site, op *o)
{
    (void)site;
    return o->softcap > 0 && float_set(&o->softcap, 30);
}

bool window_plus_1(const fault_site *site, op *o)
{
    (void)site;
    return o->window > 0 && whole_set(&o->window, o->window + 1);
}

bool window_minus_1(const fault_site *site, op *o)
{
    (void)site;
    return o->window > 1 && whole_set(&o->window, o->window - 1);
}

bool window_missing(const fault_site *site, op *o)
{
    (void)site;
    return o->window > 0 && whole_set(&o->window, 0);
}

/* A pattern of layers that is off: the window of a layer of the other kind. */
bool window_of_other_layer(const fault_site *site, op *o)
{
    for (int32_t i = 0; i < site->list->n_op; i++) {
        const op *other = &site->list->op[i];
        if (other->kind == OP_ATTENTION && other->window != o->window) {
            return whole_set(&o->window, other->window);
        }
    }
    return false;
}

bool pairing_other(const fault_site *site, op *o)
{
    (void)site;
    o->pairing = o->pairing == ROPE_HALVES ? ROPE_NEIGHBOURS : ROPE_HALVES;
    return o->rope_dim > 2;
}

/* The angles of layers of the other kind: one base for two. */
bool rope_table_other(const fault_site *site, op *o)
{
    bool has_two = site->angles && site->angles[1].freq_base > 0;
    return has_two && o->rope_table < ROPE_TABLE_OTHER && whole_set(&o->rope_table, !o->rope_table);
}

bool activation_other(const fault_site *site, op *o)
{
    (void)site;
    o->activation = o->activation == ACTIVATION_SILU ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    return true;
}

bool factor_1(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->factor, 1.0f);
}

bool factor_squared(const fault_site *site, op *o)
{
    (void)site;
    return float_set(&o->factor, o->factor * o->factor);
}

/* sqrt(n_embd) rounded to bfloat16 first. */
bool factor_bf16(const fault_site *site, op *o)
{
    (void)site;
    uint32_t bits = bits_from_float(o->factor);
    return float_set(&o->factor,
                     float_from_bits((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u));
}

bool experts_norm_other(const fault_site *site, op *o)
{
    (void)site;
    return whole_set(&o->is_norm, !o->is_norm);
}
