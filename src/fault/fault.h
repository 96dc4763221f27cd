/* fault.h - the catalogue of plantable faults, as data, and how one is planted.
 *
 * A fault is what a run executes instead of the healthy op list: an edited copy (an edge, a number,
 * a weight), an alternate kernel or other rotary angles for one op, or other tokens. Kernels carry
 * no fault flags, and what is planted leaves no name behind: an alternate table is called like the
 * healthy one, rearranged weights like the tensor they replace. The caller hands what was planted
 * to session_override_set. Faults stack: fault_plant_add plants one more in the same list.
 */
#ifndef GRETA_FAULT_FAULT_H
#define GRETA_FAULT_FAULT_H

#include "base/causes.h"
#include "kernel/kernel.h"
#include "model/op.h"

#include <stdbool.h>

/* Which ops can carry a kind. */
typedef enum fault_where {
    WHERE_NORM,       /* any RMS norm, of rows or of heads */
    WHERE_ROW_NORM,   /* of rows only */
    WHERE_READER,     /* any op that reads a row that another op wrote */
    WHERE_AFTER_NORM, /* reads what a norm of the same width wrote */
    WHERE_EMBED,
    WHERE_MATMUL,           /* experts included */
    WHERE_MATRIX,           /* without experts */
    WHERE_MATMUL_QUANTISED, /* of quantised activations */
    WHERE_BIAS,             /* with a bias */
    WHERE_QK,               /* of queries or keys */
    WHERE_HEAD,             /* of the logits */
    WHERE_QUANTIZE,
    WHERE_ROPE,
    WHERE_STORE, /* of keys or values */
    WHERE_K_STORE,
    WHERE_V_STORE,
    WHERE_ATTENTION,
    WHERE_ADD,
    WHERE_GLU,
    WHERE_SCALE,
    WHERE_SOFTCAP,
    WHERE_EXPERT_WEIGHTS,
    WHERE_EXPERT_IDS,
    WHERE_EXPERT_SUM,
    WHERE_TOKENS, /* no op: the tokens that are fed */
    WHERE_COUNT
} fault_where;

/* "a matrix product"; whether an op of the list is one of them. */
const char *fault_where_text(fault_where where);
bool fault_where_is(fault_where where, const op_list *list, const op *o);

typedef struct fault_kind {
    const char *name;        /* "ffn_norm-reads-previous-position": stable, typed by users */
    cause cause;             /* the bucket a correct classifier names */
    const char *description; /* one clause: what the faulty run does */
    stage stage;             /* the op it is planted at, unless the site names another */
    fault_where where;       /* the ops it can be planted at */
    int32_t layer_min;       /* first layer it can be planted at */
    bool needs_chunk;        /* the last prefill pass must hold 2 rows or more */
    bool needs_two_layers;
    bool is_hidden;                /* the record shows the right number, the kernel uses another */
    bool is_random;                /* two runs of it differ */
    bool is_late;                  /* written after the referee's rules were frozen */
    op_trigger trigger;            /* rows it needs, beside those of the site */
    const struct fault_edit *edit; /* how; known to this room only */
} fault_kind;

/* All kinds, grouped by cause. */
const fault_kind *fault_kinds(size_t *n);
/* NULL: no such fault. */
const fault_kind *fault_find(const char *name);
/* A layer of a model of n_layer that the kind can be planted at, drawn from the seed; -1: none. */
int32_t fault_layer_draw(const fault_kind *kind, int32_t n_layer, uint64_t seed);

/* Triggers that have names: "decode", "prefill", "later-chunk", "warm", "batch-row-1", "tail-32",
 * "from-position-8". NULL: no such trigger. */
typedef struct fault_trigger {
    const char *name, *description;
    op_trigger rows;
} fault_trigger;
const fault_trigger *fault_triggers(size_t *n);
const fault_trigger *fault_trigger_find(const char *name);

typedef struct fault_site {
    const fault_kind *kind;
    const op_list *list;           /* healthy; copied, and its weights must outlive the fault */
    const kernel_table *table;     /* healthy: the one the session runs */
    stage stage;                   /* STAGE_NONE: the kind's, or the first op that can carry it */
    int32_t layer;                 /* -1 for ops that are not in a layer */
    int32_t previous_row;          /* row of the previous pass that holds position-1, counted from
                                      its end: -1 in a fresh session; -2 where the last row was
                                      prefilled and dropped */
    const rope_table_args *angles; /* (2) healthy, of rope_table 0 and 1; NULL: kinds that edit
                                      angles are refused */
    op_trigger trigger;            /* rows; {0}: all */
} fault_site;

#define FAULTS_STACKED    4   /* that a user can name at once */
#define FAULT_OPS_MAX     128 /* that carry one: a fault can be planted in every layer */
#define FAULT_EVERY_LAYER (-2)

typedef struct fault_planted {
    op_list list;              /* run this instead */
    int32_t op[FAULT_OPS_MAX]; /* the ops that were edited, in order of planting */
    int32_t n_op;
    kernel_table table[FAULT_OPS_MAX]; /* for ops with table 1 .. n_table */
    int32_t n_table;
    op_trigger trigger[FAULT_OPS_MAX]; /* for ops with trigger 1 .. n_trigger */
    int32_t n_trigger;
    const float *cos_sin[FAULT_OPS_MAX]; /* for ops with rope_table ROPE_TABLE_OTHER, .. */
    int32_t n_cos_sin;
    weight tensor[FAULT_OPS_MAX]; /* rearranged weights the list points to */
    int32_t n_tensor;
    void *owned[2 * FAULT_OPS_MAX]; /* values of tensors and angles */
    int32_t n_owned;
} fault_planted;

/* Plants one fault. GRETA_USAGE when the site cannot carry it (names why). *out is malloc'd and
 * must outlive every session that runs it: the list points into it. */
greta_status fault_plant(const fault_site *site, fault_planted **out, greta_error *err);
/* One more in a list that has one: site->list is only checked. On failure `planted` is as before,
 * or can only be freed. */
greta_status fault_plant_add(const fault_site *site, fault_planted *planted, greta_error *err);
/* One fault in every layer that can carry it, site->layer left out; *planted is NULL or has some.
 * GRETA_USAGE: no layer can. */
greta_status fault_plant_layers(const fault_site *site, int32_t n_layer, fault_planted **planted,
                                greta_error *err);
void fault_planted_free(fault_planted *planted); /* NULL is fine */

/* ---- What a user writes ---------------------------------------------------------------------- */

/* "NAME[/STAGE][:LAYER][@TRIGGER]", stacked with "+", the layer "*" for every one (order.c); or
 * the name of a real bug. */
typedef struct fault_order_part {
    const fault_kind *kind;
    stage stage;   /* STAGE_NONE: not said */
    int32_t layer; /* -1: not said; FAULT_EVERY_LAYER */
    op_trigger trigger;
} fault_order_part;
typedef struct fault_order {
    fault_order_part part[FAULTS_STACKED];
    int32_t n;
} fault_order;
/* One kind in a layer; NULL: none. */
fault_order fault_order_of(const fault_kind *kind, int32_t layer);
greta_status fault_order_parse(const char *text, fault_order *out, greta_error *err);

/* The op the site names in its list; -1: none that can carry the kind. */
int32_t fault_site_op(const fault_site *site);

/* The tokens that a run with the kind is fed in place of `id`, malloc'd; only of WHERE_TOKENS. */
typedef struct fault_tokens {
    int32_t *id;
    size_t n;
} fault_tokens;
greta_status fault_tokens_edit(const fault_kind *kind, const int32_t *id, size_t n,
                               fault_tokens *out, greta_error *err);

#endif
