/* arch.c - the list of architectures, and the binding of their tensors.
 *
 * Binding walks the rules of the architecture for every layer: it looks a tensor up by name, holds
 * its shape against the sizes of the configuration, and leaves a view in layer_weights. A file that
 * stores experts one by one gets a weight of parts, so that ops see one tensor either way.
 */
#include "model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const architecture *const architectures[] = {
    &arch_gemma2, &arch_gemma3, &arch_llama, &arch_olmo2,
    &arch_phi3,   &arch_qwen2,  &arch_qwen3, &arch_qwen3moe,
};

#define N_ARCH (sizeof architectures / sizeof architectures[0])

const architecture *arch_find(const char *name)
{
    for (size_t i = 0; i < N_ARCH; i++) {
        if (strcmp(architectures[i]->name, name) == 0) {
            return architectures[i];
        }
    }
    return NULL;
}

const char *arch_names(char text[ARCH_NAMES_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < N_ARCH; i++) {
        n += (size_t)snprintf(text + n, ARCH_NAMES_MAX - n, "%s%s", i ? ", " : "",
                              architectures[i]->name);
        GRETA_ASSERT(n < ARCH_NAMES_MAX);
    }
    return text;
}

/* ---- Rules that families share ----------------------------------------------------------------*/

#define PLACE(field) offsetof(layer_weights, field)
#define RULES_END                                                                                  \
    {                                                                                              \
        NULL, 0, DIM_0, DIM_0, 0, DIM_0, DIM_0                                                     \
    }

const tensor_rule tensors_norms[] = {
    {"attn_norm.weight", PLACE(attn_norm), DIM_1, DIM_EMBD, TENSOR_NEEDED | TENSOR_F32, DIM_0,
     DIM_0},
    {"ffn_norm.weight", PLACE(ffn_norm), DIM_1, DIM_EMBD, TENSOR_NEEDED | TENSOR_F32, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_post_norms[] = {
    {"post_attention_norm.weight", PLACE(attn_post_norm), DIM_1, DIM_EMBD,
     TENSOR_NEEDED | TENSOR_F32, DIM_0, DIM_0},
    {"post_ffw_norm.weight", PLACE(ffn_post_norm), DIM_1, DIM_EMBD, TENSOR_NEEDED | TENSOR_F32,
     DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_qkv[] = {
    {"attn_q.weight", PLACE(q), DIM_Q, DIM_EMBD, TENSOR_NEEDED, DIM_0, DIM_0},
    {"attn_k.weight", PLACE(k), DIM_KV, DIM_EMBD, TENSOR_NEEDED, DIM_0, DIM_0},
    {"attn_v.weight", PLACE(v), DIM_KV, DIM_EMBD, TENSOR_NEEDED, DIM_0, DIM_0},
    {"attn_output.weight", PLACE(o), DIM_EMBD, DIM_Q, TENSOR_NEEDED, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_qkv_bias[] = {
    {"attn_q.bias", PLACE(q_bias), DIM_1, DIM_Q, TENSOR_F32, DIM_0, DIM_0},
    {"attn_k.bias", PLACE(k_bias), DIM_1, DIM_KV, TENSOR_F32, DIM_0, DIM_0},
    {"attn_v.bias", PLACE(v_bias), DIM_1, DIM_KV, TENSOR_F32, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_qk_norm[] = {
    {"attn_q_norm.weight", PLACE(q_norm), DIM_1, DIM_HEAD, TENSOR_NEEDED | TENSOR_F32, DIM_0,
     DIM_0},
    {"attn_k_norm.weight", PLACE(k_norm), DIM_1, DIM_HEAD, TENSOR_NEEDED | TENSOR_F32, DIM_0,
     DIM_0},
    RULES_END,
};

/* Of all heads at once. */
const tensor_rule tensors_qk_norm_whole[] = {
    {"attn_q_norm.weight", PLACE(q_norm), DIM_1, DIM_Q, TENSOR_NEEDED | TENSOR_F32, DIM_0, DIM_0},
    {"attn_k_norm.weight", PLACE(k_norm), DIM_1, DIM_KV, TENSOR_NEEDED | TENSOR_F32, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_qkv_fused[] = {
    {"attn_qkv.weight", PLACE(q), DIM_Q, DIM_EMBD, TENSOR_NEEDED, DIM_0, DIM_QKV},
    {"attn_qkv.weight", PLACE(k), DIM_KV, DIM_EMBD, TENSOR_NEEDED, DIM_Q, DIM_QKV},
    {"attn_qkv.weight", PLACE(v), DIM_KV, DIM_EMBD, TENSOR_NEEDED, DIM_Q_KV, DIM_QKV},
    {"attn_output.weight", PLACE(o), DIM_EMBD, DIM_Q, TENSOR_NEEDED, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_ffn[] = {
    {"ffn_gate.weight", PLACE(gate), DIM_FF, DIM_EMBD, TENSOR_NEEDED | TENSOR_DENSE, DIM_0, DIM_0},
    {"ffn_up.weight", PLACE(up), DIM_FF, DIM_EMBD, TENSOR_NEEDED | TENSOR_DENSE, DIM_0, DIM_0},
    {"ffn_down.weight", PLACE(down), DIM_EMBD, DIM_FF, TENSOR_NEEDED | TENSOR_DENSE, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_ffn_fused[] = {
    {"ffn_up.weight", PLACE(gate), DIM_FF, DIM_EMBD, TENSOR_NEEDED, DIM_0, DIM_FF_2},
    {"ffn_up.weight", PLACE(up), DIM_FF, DIM_EMBD, TENSOR_NEEDED, DIM_FF, DIM_FF_2},
    {"ffn_down.weight", PLACE(down), DIM_EMBD, DIM_FF, TENSOR_NEEDED, DIM_0, DIM_0},
    RULES_END,
};

const tensor_rule tensors_experts[] = {
    {"ffn_gate_inp.weight", PLACE(router), DIM_EXPERTS, DIM_EMBD, TENSOR_NEEDED | TENSOR_MOE, DIM_0,
     DIM_0},
    {"ffn_gate_exps.weight", PLACE(gate), DIM_FF_EXPERT, DIM_EMBD,
     TENSOR_NEEDED | TENSOR_MOE | TENSOR_EXPERTS, DIM_0, DIM_0},
    {"ffn_up_exps.weight", PLACE(up), DIM_FF_EXPERT, DIM_EMBD,
     TENSOR_NEEDED | TENSOR_MOE | TENSOR_EXPERTS, DIM_0, DIM_0},
    {"ffn_down_exps.weight", PLACE(down), DIM_EMBD, DIM_FF_EXPERT,
     TENSOR_NEEDED | TENSOR_MOE | TENSOR_EXPERTS, DIM_0, DIM_0},
    RULES_END,
};

int64_t dim_of(const config *c, dim d)
{
    int64_t q = (int64_t)c->n_head * c->head_dim, kv = (int64_t)c->n_head_kv * c->head_dim;
    const int64_t size[DIM_COUNT] = {
        [DIM_0] = 0,
        [DIM_1] = 1,
        [DIM_EMBD] = c->n_embd,
        [DIM_VOCAB] = c->n_vocab,
        [DIM_HEAD] = c->head_dim,
        [DIM_Q] = q,
        [DIM_KV] = kv,
        [DIM_Q_KV] = q + kv,
        [DIM_QKV] = q + 2 * kv,
        [DIM_FF] = c->n_ff,
        [DIM_FF_2] = 2 * (int64_t)c->n_ff,
        [DIM_FF_EXPERT] = c->n_ff_expert,
        [DIM_EXPERTS] = c->n_expert,
    };
    return size[d];
}

/* ---- Binding -----------------------------------------------------------------------------------
 */

/* A tensor as it must be: n_total rows of n_col values, of which `view` takes some. */
typedef struct wanted {
    const char *name;
    int64_t n_total, n_col, first, n;
    unsigned flags;
} wanted;

static greta_status shape_check(const weight *w, const wanted *t, greta_error *err)
{
    if (w->n_col != t->n_col || w->n_row != t->n_total) {
        return error_about(err, GRETA_BAD_INPUT, t->name,
                           "tensor \"%s\" is %" PRId64 "x%" PRId64 ", expected %" PRId64
                           "x%" PRId64,
                           t->name, w->n_row, w->n_col, t->n_total, t->n_col);
    }
    if ((t->flags & TENSOR_F32) && w->type != DTYPE_F32) {
        return error_about(err, GRETA_BAD_INPUT, t->name, "tensor \"%s\" is %s (F32)", t->name,
                           dtype_name(w->type));
    }
    return GRETA_OK;
}

static greta_status bind_one(const struct greta_model *m, const wanted *t, weight_view *out,
                             greta_error *err)
{
    *out = (weight_view){0};
    const weight *w = model_weight(m, t->name);
    if (!w) {
        return t->flags & TENSOR_NEEDED
                   ? error_about(err, GRETA_BAD_INPUT, t->name, "tensor \"%s\" is missing", t->name)
                   : GRETA_OK;
    }
    GRETA_TRY(shape_check(w, t, err));
    *out = (weight_view){w, t->first, t->n};
    return GRETA_OK;
}

/* "blk.3.ffn_up_exps.weight" of the rule as "blk.3.ffn_up.7.weight". */
static void expert_name(const tensor_rule *rule, int32_t layer, int32_t e, char name[64])
{
    int stem = (int)(strstr(rule->suffix, "_exps") - rule->suffix);
    snprintf(name, 64, "blk.%d.%.*s.%d.weight", (int)layer, stem, rule->suffix, (int)e);
}

/* Experts one by one. All have one shape and one type. */
static greta_status bind_parts(struct greta_model *m, const tensor_rule *rule, int32_t layer,
                               weight_view *out, greta_error *err)
{
    int32_t n = m->cfg.n_expert;
    char name[64];
    const weight **part = NULL;
    weight *whole = model_weight_of_parts(m, n, &part);
    if (!whole) {
        return error_memory(err, "the experts", (uint64_t)n * sizeof *part);
    }
    for (int32_t e = 0; e < n; e++) {
        expert_name(rule, layer, e, name);
        int64_t n_row = dim_of(&m->cfg, rule->n_row);
        wanted t = {name, n_row, dim_of(&m->cfg, rule->n_col), 0, n_row, TENSOR_NEEDED};
        weight_view view;
        GRETA_TRY(bind_one(m, &t, &view, err));
        part[e] = view.tensor;
        if (view.tensor->type != part[0]->type) {
            return error_about(err, GRETA_BAD_INPUT, name, "tensor \"%s\" is %s (%s, as \"%s\")",
                               name, dtype_name(view.tensor->type), dtype_name(part[0]->type),
                               part[0]->name);
        }
    }
    whole->name = part[0]->name;
    whole->type = part[0]->type;
    whole->n_row = part[0]->n_row * n;
    whole->n_col = part[0]->n_col;
    whole->row_bytes = part[0]->row_bytes;
    *out = (weight_view){whole, 0, whole->n_row};
    return GRETA_OK;
}

static greta_status bind_rule(struct greta_model *m, const tensor_rule *rule, int32_t layer,
                              greta_error *err)
{
    const config *c = &m->cfg;
    unsigned unfit = c->n_expert > 0 ? TENSOR_DENSE : TENSOR_MOE;
    if (rule->flags & unfit) {
        return GRETA_OK;
    }
    char name[64];
    weight_view *out = (weight_view *)(void *)((char *)&m->layer[layer] + rule->place);
    snprintf(name, sizeof name, "blk.%d.%s", (int)layer, rule->suffix);
    int64_t n = dim_of(c, rule->n_row);
    int64_t n_total = rule->n_total == DIM_0 ? n : dim_of(c, rule->n_total);
    if (rule->flags & TENSOR_EXPERTS) {
        char first[64];
        expert_name(rule, layer, 0, first);
        if (!model_weight(m, name) && model_weight(m, first)) {
            return bind_parts(m, rule, layer, out, err);
        }
        n_total = n = n * c->n_expert;
    }
    wanted t = {name, n_total, dim_of(c, rule->n_col), dim_of(c, rule->first), n, rule->flags};
    return bind_one(m, &t, out, err);
}

/* Divisors of the rotary frequencies: positive numbers. */
static greta_status bind_factors(struct greta_model *m, const char *name, const float **out,
                                 greta_error *err)
{
    weight_view view;
    wanted t = {name, 1, m->cfg.rope.dim / 2, 0, 1, TENSOR_F32};
    GRETA_TRY(bind_one(m, &t, &view, err));
    *out = view.tensor ? (const float *)(const void *)view.tensor->data : NULL;
    for (int64_t i = 0; *out && i < view.tensor->n_col; i++) {
        if (!((*out)[i] > 0) || isinf((*out)[i])) {
            return error_about(err, GRETA_BAD_INPUT, name, "factor %d is not a positive number",
                               (int)i);
        }
    }
    return GRETA_OK;
}

static greta_status bind_rope(struct greta_model *m, greta_error *err)
{
    const rope_config *rope = &m->cfg.rope;
    if (rope->scaling == ROPE_SCALING_LONGROPE) {
        GRETA_TRY(bind_factors(m, "rope_factors_long.weight", &m->rope_long, err));
        GRETA_TRY(bind_factors(m, "rope_factors_short.weight", &m->rope_short, err));
        const char *missing = !m->rope_long    ? "rope_factors_long.weight"
                              : !m->rope_short ? "rope_factors_short.weight"
                                               : NULL;
        return missing ? error_about(err, GRETA_BAD_INPUT, missing,
                                     "tensor \"%s\" is missing (longrope needs it)", missing)
                       : GRETA_OK;
    }
    return bind_factors(m, "rope_freqs.weight", &m->rope_factors, err);
}

/* Has the architecture the kind of layer that the file asks for? */
static greta_status feed_forward_check(const struct greta_model *m, const architecture *a,
                                       greta_error *err)
{
    int has_experts = 0, has_dense = 0;
    for (int i = 0; i < TENSOR_LISTS_MAX && a->tensor[i]; i++) {
        has_experts |= a->tensor[i] == tensors_experts;
        has_dense |= a->tensor[i] == tensors_ffn || a->tensor[i] == tensors_ffn_fused;
    }
    if (m->cfg.n_expert > 0 ? has_experts : has_dense) {
        return GRETA_OK;
    }
    return error_about(err, GRETA_BAD_INPUT, a->name, "%" PRId32 " experts in architecture %s (%s)",
                       m->cfg.n_expert, a->name, has_dense ? "none" : "1 or more");
}

greta_status arch_bind(struct greta_model *m, greta_error *err)
{
    const config *c = &m->cfg;
    const architecture *a = arch_find(c->arch);
    wanted embd = {"token_embd.weight", c->n_vocab, c->n_embd, 0, c->n_vocab, TENSOR_NEEDED};
    wanted norm = {"output_norm.weight", 1, c->n_embd, 0, 1, TENSOR_NEEDED | TENSOR_F32};
    wanted head = {"output.weight", c->n_vocab, c->n_embd, 0, c->n_vocab, 0};
    GRETA_TRY(feed_forward_check(m, a, err));
    GRETA_TRY(bind_one(m, &embd, &m->token_embd, err));
    GRETA_TRY(bind_one(m, &norm, &m->output_norm, err));
    GRETA_TRY(bind_one(m, &head, &m->output, err));
    GRETA_TRY(bind_rope(m, err));
    if (!m->output.tensor) {
        m->output = m->token_embd;
    }
    for (int32_t l = 0; l < c->n_layer; l++) {
        for (int i = 0; i < TENSOR_LISTS_MAX && a->tensor[i]; i++) {
            for (const tensor_rule *rule = a->tensor[i]; rule->suffix; rule++) {
                GRETA_TRY(bind_rule(m, rule, l, err));
            }
        }
    }
    return GRETA_OK;
}
