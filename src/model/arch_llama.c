/* arch_llama.c - Llama as data: the tensors it has and its list of ops.
 *
 * Touvron et al. 2023, section 2.2, with grouped-query attention (Ainslie et al. 2023). In GGUF
 * files of this architecture the rows of attn_q and attn_k are ordered so that rotary pairs are
 * neighbours (2i, 2i+1). The head is `output.weight`, or the embedding when the file has none.
 * `rope_freqs.weight` holds the divisors of Llama 3.1's rotary frequencies.
 */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>

typedef struct layer_tensor {
    const char *suffix;
    const weight **out;
    int64_t n_row, n_col;
    int needed, is_f32;
} layer_tensor;

static greta_status bind_layer(struct greta_model *m, int32_t l, greta_error *err)
{
    const config *c = &m->cfg;
    layer_weights *w = &m->layer[l];
    int64_t q_dim = (int64_t)c->n_head * c->head_dim, kv_dim = (int64_t)c->n_head_kv * c->head_dim;
    const layer_tensor tensor[] = {
        {"attn_norm.weight", &w->attn_norm, 1, c->n_embd, 1, 1},
        {"attn_q.weight", &w->q, q_dim, c->n_embd, 1, 0},
        {"attn_k.weight", &w->k, kv_dim, c->n_embd, 1, 0},
        {"attn_v.weight", &w->v, kv_dim, c->n_embd, 1, 0},
        {"attn_q.bias", &w->q_bias, 1, q_dim, 0, 1},
        {"attn_k.bias", &w->k_bias, 1, kv_dim, 0, 1},
        {"attn_v.bias", &w->v_bias, 1, kv_dim, 0, 1},
        {"attn_output.weight", &w->o, c->n_embd, q_dim, 1, 0},
        {"ffn_norm.weight", &w->ffn_norm, 1, c->n_embd, 1, 1},
        {"ffn_gate.weight", &w->gate, c->n_ff, c->n_embd, 1, 0},
        {"ffn_up.weight", &w->up, c->n_ff, c->n_embd, 1, 0},
        {"ffn_down.weight", &w->down, c->n_embd, c->n_ff, 1, 0},
    };
    for (size_t i = 0; i < sizeof tensor / sizeof *tensor; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s", (int)l, tensor[i].suffix);
        weight_spec spec = {name, tensor[i].n_row, tensor[i].n_col, tensor[i].needed,
                            tensor[i].is_f32};
        GRETA_TRY(model_bind(m, &spec, tensor[i].out, err));
    }
    return GRETA_OK;
}

greta_status arch_llama_bind(struct greta_model *m, greta_error *err)
{
    const config *c = &m->cfg;
    const weight *factors = NULL;
    weight_spec embd = {"token_embd.weight", c->n_vocab, c->n_embd, 1, 0};
    weight_spec norm = {"output_norm.weight", 1, c->n_embd, 1, 1};
    weight_spec head = {"output.weight", c->n_vocab, c->n_embd, 0, 0};
    weight_spec rope = {"rope_freqs.weight", 1, c->rope_dim / 2, 0, 1};
    GRETA_TRY(model_bind(m, &embd, &m->token_embd, err));
    GRETA_TRY(model_bind(m, &norm, &m->output_norm, err));
    GRETA_TRY(model_bind(m, &head, &m->output, err));
    GRETA_TRY(model_bind(m, &rope, &factors, err));
    if (!m->output) {
        m->output = m->token_embd;
    }
    if (factors) {
        m->rope_factors = (const float *)(const void *)factors->data;
        for (int64_t i = 0; i < factors->n_col; i++) {
            if (!(m->rope_factors[i] > 0) || isinf(m->rope_factors[i])) {
                return error_about(err, GRETA_BAD_INPUT, factors->name,
                                   "factor %d is not a positive number", (int)i);
            }
        }
    }
    for (int32_t l = 0; l < c->n_layer; l++) {
        GRETA_TRY(bind_layer(m, l, err));
    }
    return GRETA_OK;
}

static int32_t norm(op_builder *b, stage name, int32_t x, const weight *w)
{
    op_spec spec = {
        .kind = OP_RMS_NORM, .name = name, .in = {x + 1}, .w = {w}, .width = b->model->cfg.n_embd};
    return op_add(b, &spec);
}

static int32_t add(op_builder *b, stage name, int32_t x, int32_t y)
{
    op_spec spec = {
        .kind = OP_ADD, .name = name, .in = {x + 1, y + 1}, .width = b->model->cfg.n_embd};
    return op_add(b, &spec);
}

static int32_t rope(op_builder *b, stage name, int32_t x, int32_t n_head)
{
    op_spec spec = {.kind = OP_ROPE,
                    .name = name,
                    .in = {x + 1},
                    .n_head = n_head,
                    .width = n_head * b->model->cfg.head_dim};
    return op_add(b, &spec);
}

static int32_t store(op_builder *b, stage name, int32_t x)
{
    const config *c = &b->model->cfg;
    op_spec spec = {.kind = OP_KV_STORE,
                    .name = name,
                    .in = {x + 1},
                    .n_head = c->n_head_kv,
                    .width = c->n_head_kv * c->head_dim,
                    .is_cache = 1};
    return op_add(b, &spec);
}

static int32_t attention_block(op_builder *b, const layer_weights *w, int32_t x)
{
    const config *c = &b->model->cfg;
    int32_t x_q8 = -1, out_q8 = -1;
    int32_t h = norm(b, STAGE_ATTN_NORM, x, w->attn_norm);
    matmul_spec mq = {STAGE_Q, STAGE_ATTN_NORM_Q8, h, &x_q8, w->q, w->q_bias};
    matmul_spec mk = {STAGE_K, STAGE_ATTN_NORM_Q8, h, &x_q8, w->k, w->k_bias};
    matmul_spec mv = {STAGE_V, STAGE_ATTN_NORM_Q8, h, &x_q8, w->v, w->v_bias};
    int32_t q = op_add_matmul(b, &mq), k = op_add_matmul(b, &mk), v = op_add_matmul(b, &mv);
    int32_t q_rope = rope(b, STAGE_Q_ROPE, q, c->n_head);
    int32_t k_rope = rope(b, STAGE_K_ROPE, k, c->n_head_kv);
    int32_t k_cache = store(b, STAGE_K_CACHE, k_rope), v_cache = store(b, STAGE_V_CACHE, v);
    op_spec attention = {.kind = OP_ATTENTION,
                         .name = STAGE_ATTN_OUT,
                         .in = {q_rope + 1, k_cache + 1, v_cache + 1},
                         .n_head = c->n_head,
                         .width = c->n_head * c->head_dim};
    int32_t out = op_add(b, &attention);
    matmul_spec mo = {STAGE_WO_OUT, STAGE_ATTN_OUT_Q8, out, &out_q8, w->o, NULL};
    return add(b, STAGE_X_AFTER_ATTN, x, op_add_matmul(b, &mo));
}

static int32_t ffn_block(op_builder *b, const layer_weights *w, int32_t x)
{
    int32_t x_q8 = -1, act_q8 = -1;
    int32_t h = norm(b, STAGE_FFN_NORM, x, w->ffn_norm);
    matmul_spec mg = {STAGE_GATE, STAGE_FFN_NORM_Q8, h, &x_q8, w->gate, NULL};
    matmul_spec mu = {STAGE_UP, STAGE_FFN_NORM_Q8, h, &x_q8, w->up, NULL};
    int32_t gate = op_add_matmul(b, &mg), up = op_add_matmul(b, &mu);
    op_spec swiglu = {.kind = OP_GLU,
                      .name = STAGE_ACT,
                      .in = {gate + 1, up + 1},
                      .width = b->model->cfg.n_ff,
                      .activation = ACTIVATION_SILU};
    int32_t act = op_add(b, &swiglu);
    matmul_spec md = {STAGE_MLP_OUT, STAGE_ACT_Q8, act, &act_q8, w->down, NULL};
    return add(b, STAGE_X_AFTER_MLP, x, op_add_matmul(b, &md));
}

void arch_llama_ops(op_builder *b)
{
    const struct greta_model *m = b->model;
    b->layer = -1;
    op_spec embed = {.kind = OP_EMBED,
                     .name = STAGE_EMBED,
                     .in = {1},
                     .w = {m->token_embd},
                     .width = m->cfg.n_embd};
    int32_t x = op_add(b, &embed), x_q8 = -1;
    for (int32_t l = 0; l < m->cfg.n_layer; l++) {
        b->layer = l;
        x = attention_block(b, &m->layer[l], x);
        x = ffn_block(b, &m->layer[l], x);
    }
    b->layer = -1;
    b->is_packed = 1;
    int32_t h = norm(b, STAGE_FINAL_NORM, x, m->output_norm);
    matmul_spec head = {STAGE_LOGITS, STAGE_FINAL_NORM_Q8, h, &x_q8, m->output, NULL};
    op_add_matmul(b, &head);
}
