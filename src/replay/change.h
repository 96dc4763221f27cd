/* change.h - an edit of a case with exactly one change: what a hypothesis consists of. */
#ifndef GRETA_REPLAY_CHANGE_H
#define GRETA_REPLAY_CHANGE_H

#include "replay/op_exact.h"
#include "replay/op_hypothesis.h"

#define CHANGE_OWNED 16

/* One change in the making. `c` starts as a copy of the healthy case. */
typedef struct change {
    const op_case *healthy;
    const op_around *around;
    const op_operand *recorded;
    op_case c;
    evidence told;             /* cause, role, phrase, numbers: from the table, or the edit's own */
    void *owned[CHANGE_OWNED]; /* freed with the change */
    int32_t n_owned;
    weight tensor; /* a tensor of its own */
    bool failed;   /* no memory */
} change;

/* Makes the change in e->c; false: there is nothing to change in this case. `value` is the table's:
 * a number, or which one of several. */
typedef bool change_edit(change *e, double value);

typedef struct hypothesis {
    uint32_t kinds; /* bit 1 << op_kind */
    cause cause;
    evidence_role role;
    change_edit *edit;
    double value;
    const char *phrase; /* NULL: the edit says it */
} hypothesis;

typedef struct hypothesis_table {
    const hypothesis *row;
    int32_t n;
} hypothesis_table;

#define KIND(k)     (1u << (k))
#define KINDS_NORM  (KIND(OP_RMS_NORM) | KIND(OP_HEAD_NORM))
#define KINDS_FLOAT (~(KIND(OP_QUANTIZE) | KIND(OP_KV_STORE)))
#define KINDS_ALL   (~0u)

extern const hypothesis_table changes_norm, changes_row, changes_math, changes_weight, changes_rope,
    changes_attention, changes_expert;

/* 64-byte aligned, cleared, freed with the change; NULL: no memory (then e->failed). */
void *change_memory(change *e, size_t bytes);
void change_say(change *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "<name> 1e-06 for 1e-05", and the numbers themselves. False: they are equal. */
bool change_number(change *e, evidence_number number, const char *name, double healthy,
                   double used);
/* Row of a stage; NULL place or no such row: false. Of the op's own sequence. */
bool change_find(const change *e, stage name, int32_t layer, int64_t position, op_operand *row);
/* The view becomes one of an own copy of its rows (data cleared, or copied). NULL: not in one
 * piece, or no memory. */
uint8_t *change_weight_copy(change *e, int which);

#endif
