/* rope_table.h - the two halves of kernel_rope_table (kernel.h), for who asks what another angle
 * would give: replay and planted faults.
 */
#ifndef GRETA_KERNEL_ROPE_TABLE_H
#define GRETA_KERNEL_ROPE_TABLE_H

#include "kernel/kernel.h"

/* Radians that pair i turns by a position, by the method of `a`; of linear scaling, by a scaled
 * position. */
double kernel_rope_frequency(const rope_table_args *a, int32_t i);
/* cos and sin of an angle in radians, times the attention factor, rounded once; NaN beyond
 * LIMIT_ROPE_ANGLE. */
void kernel_rope_turn(const rope_table_args *a, double angle, float cos_sin[2]);

#endif
