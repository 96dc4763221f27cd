/* defect.h - devices with one mistake each: faults that a GPU has and a CPU has not.
 *
 * They cannot be edits of the op list, because a device runs its own kernels. So the device itself
 * is at fault: the exam's plugin (tests/plugin/faulty_ops.c, libgreta-faulty.so) is a device
 * without a GPU whose number n makes mistake n of this list in every op that the mistake concerns,
 * in every layer and pass, as a wrong flag of a compiler or a wrong kernel would. Number 0 makes
 * none. Nobody but the plugin, the list of faults and the exam reads this.
 */
#ifndef GRETA_FAULT_DEFECT_H
#define GRETA_FAULT_DEFECT_H

#include "fault/fault.h"

#define DEFECT_PLUGIN "faulty"

typedef enum defect_number {
    DEFECT_NONE,
    DEFECT_FLUSH,
    DEFECT_CONTRACTION,
    DEFECT_BARRIER_NORM,
    DEFECT_BARRIER_MATMUL,
    DEFECT_INDEX_8,
    DEFECT_INDEX_16,
    DEFECT_TAIL_MATMUL,
    DEFECT_TAIL_GLU,
    DEFECT_STALE_GRAPH,
    DEFECT_ORDER_NORM,
    DEFECT_ORDER_MATMUL,
    DEFECT_TF32,
    DEFECT_SUM_F16,
    DEFECT_COUNT
} defect_number;

#define DEFECT_TILE_ROWS    32  /* outputs of a tile of a product: the tail does not fill one */
#define DEFECT_TILE_COLUMNS 64  /* columns of a tile of the gated activation */
#define DEFECT_INDEX_SMALL  256 /* rows at which an index of 8 bits wraps */
#define DEFECT_INDEX_LARGE  65536

typedef struct defect {
    fault_kind kind; /* without an edit; its stage and layer are not used */
    /* Whether it can change what the op writes, by its shapes; NULL: every op of kind.where. */
    bool (*concerns)(const op_list *list, const op *o);
    bool needs_decode; /* shows in the second decoded token and later ones */
} defect;

/* (DEFECT_COUNT), by number; that of DEFECT_NONE has no cause. */
const defect *defects(void);
bool defect_concerns(const defect *d, const op_list *list, const op *o);

#endif
