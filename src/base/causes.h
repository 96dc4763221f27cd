/* causes.h - the causes of a difference, as reports name them (the buckets of the reference report
 * and the letters after them). One vocabulary for evidence, findings and the fault catalogue,
 * which lie in rooms that may not include one another. Names are stable for ever.
 */
#ifndef GRETA_BASE_CAUSES_H
#define GRETA_BASE_CAUSES_H

#define CAUSE_LIST(X)                                                                              \
    X(NONE, "NONE")                                                                                \
    X(INPUT_SELECTION, "A_input_selection")       /* another row than the producer wrote */        \
    X(NORM_STATS, "B_norm_stats")                 /* the right formula with a wrong number */      \
    X(WEIGHT_LAYOUT, "C_weight_layout")           /* other weights than the model file's */        \
    X(KERNEL_MATH, "D_kernel_math")               /* another formula */                            \
    X(POSITION, "E_position")                                                                      \
    X(KV_STATE, "F_kv_state")                                                                      \
    X(MASK, "G_mask")                                                                              \
    X(SCALE, "H_scale")                                                                            \
    X(STRUCTURE, "I_structure")                                                                    \
    X(PRECISION_POLICY, "P_precision_policy")                                                      \
    X(ROUNDING, "R_rounding")                     /* benign: another order of summation */         \
    X(TOKENS, "T_tokens")                                                                          \
    X(WEIGHTS_DIFFER, "V_weights_differ")         /* the two sides ran different model files */    \
    X(NONFINITE_ORIGIN, "X_nonfinite_origin")     /* finite operands, non-finite result */

typedef enum cause {
#define CAUSE_ENUM(id, name) CAUSE_##id,
    CAUSE_LIST(CAUSE_ENUM)
#undef CAUSE_ENUM
    CAUSE_COUNT
} cause;

/* "A_input_selection"; "?" if out of range. */
const char *cause_name(cause c);
/* CAUSE_COUNT: no such name. */
cause cause_find(const char *name);

#endif
