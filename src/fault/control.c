/* control.c - the benign variants: kernels with other roundings and nothing else.
 *
 * Products and attention are the rules of wrong_matmul.c and wrong_attention.c; sums and functions
 * are written here in the way other engines write them: one accumulator, the C library's exp.
 */
#include "fault/control.h"

#include "fault/edit.h"
#include "fault/wrong_attention.h"
#include "fault/wrong_matmul.h"
#include "fault/wrong_rows.h"

#include <math.h>
#include <string.h>

static void finish_norm(norm_args *a, float sum)
{
    a->inv_rms = 1.0f / sqrtf(sum / (float)a->count + a->eps);
    for (int64_t i = 0; i < a->n; i++) {
        float scaled = a->x[i] * a->inv_rms;
        a->y[i] = scaled * a->weight[i];
    }
}

/* One accumulator, in order. */
static void norm_in_order(norm_args *a)
{
    float sum = 0;
    for (int64_t i = 0; i < a->n; i++) {
        float square = a->x[i] * a->x[i];
        sum += square;
    }
    finish_norm(a, sum);
}

/* Sixteen accumulators, fused, and a tree. */
static void norm_lanes(norm_args *a)
{
    float lane[16] = {0};
    for (int64_t i = 0; i < a->n; i++) {
        lane[i % 16] = fmaf(a->x[i], a->x[i], lane[i % 16]);
    }
    for (int stride = 8; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; i++) {
            lane[i] += lane[i + stride];
        }
    }
    finish_norm(a, lane[0]);
}

static float silu_libm(float x)
{
    return x / (1.0f + expf(-x));
}

static float gelu_libm(float x)
{
    float inner = 0.79788456f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

static void glu_libm(activation f, const float *gate, const float *up, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float value = f == ACTIVATION_GELU_TANH ? gelu_libm(gate[i])
                      : f == ACTIVATION_SILU    ? silu_libm(gate[i])
                      : f == ACTIVATION_SIGMOID ? 1.0f / (1.0f + expf(-gate[i]))
                      : f == ACTIVATION_TANH    ? tanhf(gate[i])
                                                : expf(gate[i]);
        y[i] = up ? value * up[i] : value;
    }
}

static const control_kind controls[] = {
    {"order-lanes", "sums of 16 lanes and a tree, in norms and products", CAUSE_ROUNDING, "f32",
     .kernel = {.rms_norm = norm_lanes, .matmul = matmul_lanes}},
    {"order-backwards", "norms in one accumulator, products from the last term to the first",
     CAUSE_ROUNDING, "f32", .kernel = {.rms_norm = norm_in_order, .matmul = matmul_backwards}},
    {"not-fused", "no fused operations in products, rotation and attention", CAUSE_ROUNDING, "f32",
     .kernel = {.matmul = matmul_not_fused,
                .rope = rope_not_fused,
                .attention = attention_not_fused}},
    {"exp-libm", "exp and tanh of the C library, in attention and activations", CAUSE_ROUNDING,
     "f32", .kernel = {.glu = glu_libm, .attention = attention_libm_exp}},
    {"attention-plain", "attention over all positions at once, without tiles", CAUSE_ROUNDING,
     "f32", .kernel = {.attention = attention_plain}},
    {"attention-tiles-8", "attention in tiles of 8 positions", CAUSE_ROUNDING, "f32",
     .kernel = {.attention = attention_tiles_8}},
    {"quantize-per-256", "one scale for 256 activations", CAUSE_PRECISION_POLICY, "",
     .kernel = {.quantize = quantize_per_256}},
    {"kv-bf16", "keys and values rounded to bfloat16 first", CAUSE_PRECISION_POLICY, "",
     .kernel = {.kv_store = store_bf16}},
    {"kv-f32", "keys and values kept as f32", CAUSE_PRECISION_POLICY, "", .is_kv_f32 = true},
    {"act-f32", "activations that are not quantised", CAUSE_PRECISION_POLICY, "",
     .is_act_f32 = true},
};

const control_kind *control_kinds(size_t *n)
{
    *n = sizeof controls / sizeof *controls;
    return controls;
}

const control_kind *control_find(const char *name)
{
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        if (strcmp(controls[i].name, name) == 0) {
            return &controls[i];
        }
    }
    return NULL;
}

bool control_has_kernels(const control_kind *kind)
{
    return !kind->is_kv_f32 && !kind->is_act_f32;
}

greta_status control_list(const op_list *healthy, op_list *list, greta_error *err)
{
    GRETA_TRY(op_list_copy(healthy, list, err));
    for (int32_t i = 0; i < list->n_op; i++) {
        list->op[i].table = 1;
    }
    return GRETA_OK;
}

kernel_table control_table(const control_kind *kind, const kernel_table *table)
{
    kernel_table varied = *table;
    kernels_replace(&varied, &kind->kernel);
    varied.rounding = kind->rounding;
    return varied;
}
