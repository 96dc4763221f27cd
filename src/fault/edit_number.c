/* edit_number.c - faults of an op's numbers, of its kernel and of rotary angles.
 *
 * Angles are a table of their own, made by the healthy formula with other numbers, for other
 * positions, or with other values; the op's kernel stays healthy.
 */
#include "base/checked.h"
#include "base/fpenv.h"
#include "fault/edit.h"
#include "kernel/rope_table.h"

#include <math.h>
#include <string.h>

greta_status plant_number(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    (void)out;
    int64_t count = target->count;
    site->kind->edit->number(&target->eps, &count);
    if (count < 1 || count > INT32_MAX) {
        return error_about(err, GRETA_USAGE, site->kind->name, "the norm has only %d values",
                           (int)target->count);
    }
    target->count = (int32_t)count;
    return GRETA_OK;
}

greta_status plant_change(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    (void)out;
    return site->kind->edit->change(site, target)
               ? GRETA_OK
               : fault_refuse(site, target, "number to change", err);
}

void kernels_replace(kernel_table *table, const kernel_table *wrong)
{
#define REPLACE(entry) table->entry = wrong->entry ? wrong->entry : table->entry
    REPLACE(embed);
    REPLACE(rms_norm);
    REPLACE(quantize);
    REPLACE(matmul);
    REPLACE(rope);
    REPLACE(kv_store);
    REPLACE(attention);
    REPLACE(add);
    REPLACE(glu);
    REPLACE(scale);
    REPLACE(softcap);
    REPLACE(top_k);
    REPLACE(expert_weights);
    REPLACE(expert_sum);
#undef REPLACE
}

greta_status plant_kernel(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    if (target->table > 0) {
        return fault_refuse(site, target, "room for another wrong kernel", err);
    }
    kernel_table *table = &out->table[out->n_table++];
    *table = *site->table;
    kernels_replace(table, &site->kind->edit->kernel);
    target->table = out->n_table;
    return GRETA_OK;
}

/* The table of other frequencies, or of another product with the position. */
static void frequencies_edit(const fault_edit *edit, const rope_table_args *a, float *table)
{
    int32_t half = a->rope_dim / 2;
    double scale = a->scaling == ROPE_SCALING_LINEAR ? (double)a->factor : 1.0;
    for (int32_t i = 0; i < half && (edit->frequency || edit->phase); i++) {
        double healthy = kernel_rope_frequency(a, i);
        double frequency = edit->frequency ? edit->frequency(healthy) : healthy;
        for (int64_t p = 0; p < a->n_position; p++) {
            double position = (double)(a->first_position + p) / scale;
            double angle = edit->phase ? edit->phase(position, frequency) : position * frequency;
            kernel_rope_turn(a, angle, table + 2 * (p * half + i));
        }
    }
}

/* Values as `value` changes them, rows as `position` chooses them. */
static void angles_edit(const fault_edit *edit, int64_t n_position, int64_t n_pair, float *table)
{
    for (int64_t p = n_position - 1; p >= 0 && edit->position; p--) {
        int64_t from = edit->position(p); /* not above p, whose row is still healthy */
        memmove(table + 2 * p * n_pair, table + 2 * from * n_pair,
                (size_t)(2 * n_pair) * sizeof *table);
    }
    for (int64_t i = 0; i < 2 * n_position * n_pair && edit->angle; i++) {
        table[i] = edit->angle(table[i], i % 2 == 1);
    }
}

greta_status plant_angles(const fault_site *site, fault_planted *out, op *target, greta_error *err)
{
    const fault_edit *edit = site->kind->edit;
    if (!site->angles || target->rope_table >= ROPE_TABLE_OTHER) {
        return fault_refuse(site, target, "healthy table of angles", err);
    }
    rope_table_args args = site->angles[target->rope_table];
    if (edit->formula && !edit->formula(site, &args)) {
        return fault_refuse(site, target, "number of its angles to change", err);
    }
    uint64_t bytes = 0;
    float *table = NULL;
    if (checked_mul((uint64_t)args.n_position, (uint64_t)args.rope_dim * sizeof *table, &bytes)) {
        table = planted_memory(out, (size_t)bytes);
    }
    if (!table) {
        return error_memory(err, "rotary angles", bytes);
    }
    uint32_t saved = fpenv_enter();
    kernel_rope_table(&args, table);
    frequencies_edit(edit, &args, table);
    angles_edit(edit, args.n_position, args.rope_dim / 2, table);
    fpenv_leave(saved);
    target->rope_dim = args.rope_dim;
    target->rope_table = ROPE_TABLE_OTHER + out->n_cos_sin;
    out->cos_sin[out->n_cos_sin++] = table;
    return GRETA_OK;
}
