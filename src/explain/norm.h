/* norm.h - why an RMS norm differs between two runs (attn_norm, ffn_norm, final_norm).
 *
 *     norm_case c = {.trace = {ta, tb}, .record = {a, b}, .eps = rms_eps}; // NAN: unknown
 *     norm_case_complete(&c);             // producers, the file's weights, proper operands
 *     for each side s whose record is there:
 *         norm_replay(&c.operands[s], &evidence[s], err);  c.evidence[s] = &evidence[s];
 *     norm_classify(&c, &found);
 *
 * Both sides are judged alike; nothing assumes which run is right. Buffers, offsets and addresses
 * are copied into the numbers and never read by a rule. Needs no model and no engine.
 */
#ifndef GRETA_EXPLAIN_NORM_H
#define GRETA_EXPLAIN_NORM_H

#include "explain/cause.h"
#include "trace/evidence.h"
#include "trace/trace.h"

typedef enum side { SIDE_A, SIDE_B, SIDE_COUNT } side;
enum { SIDES_NONE = 0, SIDES_A = 1, SIDES_B = 2, SIDES_BOTH = 3 }; /* bit 1 << side */

typedef struct norm_case {
    /* By the caller. */
    const trace *trace[SIDE_COUNT];            /* may be one and the same */
    const trace_record *record[SIDE_COUNT];    /* ROW records of a norm; NULL: missing */
    float eps;                                 /* the model's; NAN: unknown, then what the other
                                                  norms of the traces were given, if they agree */
    int32_t head_dim;                          /* 0: unknown */
    const norm_evidence *evidence[SIDE_COUNT]; /* NULL: not replayed */
    /* By norm_case_complete. */
    stage producer_stage;                      /* what a norm of this stage and layer must read */
    int32_t producer_layer;
    bool has_produced[SIDE_COUNT];             /* the producer's row of this token is known */
    row_hash produced[SIDE_COUNT];
    bool has_file_weight[SIDE_COUNT];          /* the trace says what the model file holds */
    row_hash file_weight[SIDE_COUNT];
    norm_operands operands[SIDE_COUNT];
} norm_case;

/* Looks up, in each side's own trace and pass, what wrote the row the op should have read, the hash
 * of the file's weights, and kept values of both (in either trace, found by hash). */
void norm_case_complete(norm_case *c);

/* One line of the reference report's table. Unknown: NAN, or -1 for the matches. */
typedef struct norm_numbers {
    double input_mae, weight_mae, output_mae;  /* over values kept on both sides, the finite ones */
    int64_t n_compared, n_nonfinite;           /* of the output: values kept on both sides; those of
                                                  them that are not finite on a side */
    int eps_match;
    double sumsq_delta, inv_rms_delta;         /* |A - B|; sumsq is the input's sum of squares */
    int input_ptr_match;                       /* address = buffer map + offset */
    int input_offset_match, weight_hash_match;
} norm_numbers;

#define FINDING_TEXT 48
#define FINDING_PHRASE 192
#define FINDING_MISMATCH_MAX 8

/* NOT_COMPARABLE: a field of the pairing key that differs. */
typedef struct finding_mismatch {
    const char *field; /* "stage", "layer", "position", "token", "prefix", "width", "op" */
    char value[SIDE_COUNT][FINDING_TEXT];
} finding_mismatch;

/* A captured row: what was read instead of the producer's, or whose difference was inherited. */
typedef struct finding_source {
    bool is_found;
    bool is_permuted;    /* not found; the row told here holds the same values in another order */
    bool in_other_trace; /* only among the other side's rows */
    stage name;
    int32_t layer, position, row;
    int64_t pass;
    greta_phase phase;
    int32_t n_match;     /* captured rows with this content in the searched trace */
} finding_source;

/* Weights read instead of the file's. */
typedef struct finding_weight {
    bool is_permutation;          /* the same values in another order, by the order-free hash */
    char kind[EVIDENCE_PHRASE];   /* "weights reversed"; "": no known rearrangement */
    bool is_other_tensor;         /* the tensor of another op */
    char tensor[TRACE_NAME_MAX];  /* its name */
    stage name;                   /* the op that should read it */
    int32_t layer;
} finding_weight;

typedef struct finding {
    verdict_state state;
    cause cause;                  /* the bucket; of several that fit, the most direct */
    unsigned sides;               /* SIDES_*: which run is wrong; SIDES_NONE: unknown, or neither */
    char phrase[FINDING_PHRASE];  /* never empty: "eps 0.0001 for 1e-05", "row of x_after_attn layer
                                     3, position 11, for that of position 12" */
    int n_mismatch;               /* NOT_COMPARABLE */
    finding_mismatch mismatch[FINDING_MISMATCH_MAX];
    finding_source source;        /* A: what was read instead; INHERITED: the producer's row */
    finding_weight weight;        /* C */
    evidence_number number;       /* B: which number is wrong: what it should be, what the record
                                     says was given, what reproduces the output (NAN: none does) */
    double number_healthy, number_given, number_used;
    bool is_hidden;               /* B: the kernel used another number than it was given */
    double eps_min, eps_max;      /* solved from the accused side's inverse rms, see norm_evidence;
                                     empty when eps_min > eps_max */
    bool is_benign;               /* another precision or order of summation, where the run does not
                                     claim our bits: no fault */
    bool changed_no_bit;          /* an operand or number is wrong, the output is not (EQUAL) */
    bool is_inherited_too;        /* beside the fault, the proper inputs of the sides differ */
    int32_t n_fit;                /* every hypothesis that reproduces the accused output; they point
                                     into c->evidence, fit[0] is the one of `phrase` */
    const evidence *fit[EVIDENCE_MAX];
    unsigned fit_causes;          /* bit 1 << cause of each */
    char replay_kernel[32];       /* build that replayed the accused side; "" */
    norm_numbers numbers;
} finding;

/* Judges a completed case. Never fails: what cannot be judged has a state of its own. */
void norm_classify(const norm_case *c, finding *out);

/* The stage and layer a norm must read; STAGE_NONE: not a norm this room knows. `has_embed_scaled`:
 * the model scales its embedding. */
stage norm_reads(stage name, int32_t layer, int32_t n_layer, bool has_embed_scaled,
                 int32_t *layer_read);

#endif
