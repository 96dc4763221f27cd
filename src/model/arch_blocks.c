/* arch_blocks.c - the pieces of which architectures make their lists of ops.
 *
 * A piece appends what the bound tensors and the configuration ask for: a norm that was not bound,
 * a factor of one or a cap of zero is no op. So pre-norm and post-norm models, with or without
 * norms of heads, are one function each for attention and feed-forward, and nothing of it runs
 * twice.
 */
#include "model/arch.h"

static int32_t norm(op_builder *b, stage name, int32_t x, weight_view w)
{
    op_spec spec = {
        .kind = OP_RMS_NORM, .name = name, .in = {x + 1}, .w = {w}, .width = b->model->cfg.n_embd};
    return w.tensor ? op_add(b, &spec) : x;
}

/* Each head by itself; or all heads as one row, where the weight is longer than a head. */
static int32_t heads_norm(op_builder *b, stage name, int32_t x, weight_view w)
{
    op_spec spec = {.kind = OP_HEAD_NORM, .name = name, .in = {x + 1}, .w = {w}};
    if (!w.tensor || b->status != GRETA_OK) {
        return x;
    }
    spec.width = b->list->edge[x].width;
    if (w.tensor->n_col > b->model->cfg.head_dim) {
        spec.kind = OP_RMS_NORM;
    } else {
        spec.n_head = spec.width / b->model->cfg.head_dim;
    }
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

int32_t block_embed(op_builder *b)
{
    const struct greta_model *m = b->model;
    op_spec embed = {.kind = OP_EMBED,
                     .name = STAGE_EMBED,
                     .in = {1},
                     .w = {m->token_embd},
                     .width = m->cfg.n_embd};
    int32_t x = op_add(b, &embed);
    op_spec scale = {.kind = OP_SCALE,
                     .name = STAGE_EMBED_SCALED,
                     .in = {x + 1},
                     .width = m->cfg.n_embd,
                     .factor = m->cfg.embd_scale};
    return m->cfg.embd_scale != 1.0f ? op_add(b, &scale) : x;
}

int32_t block_attention(op_builder *b, const layer_weights *w, int32_t x)
{
    const config *c = &b->model->cfg;
    int32_t x_q8 = -1, out_q8 = -1;
    int32_t h = norm(b, STAGE_ATTN_NORM, x, w->attn_norm);
    matmul_spec mq = {STAGE_Q, STAGE_ATTN_NORM_Q8, h, &x_q8, w->q, w->q_bias, 0};
    matmul_spec mk = {STAGE_K, STAGE_ATTN_NORM_Q8, h, &x_q8, w->k, w->k_bias, 0};
    matmul_spec mv = {STAGE_V, STAGE_ATTN_NORM_Q8, h, &x_q8, w->v, w->v_bias, 0};
    int32_t q = op_add_matmul(b, &mq), k = op_add_matmul(b, &mk), v = op_add_matmul(b, &mv);
    q = heads_norm(b, STAGE_Q_NORM, q, w->q_norm);
    k = heads_norm(b, STAGE_K_NORM, k, w->k_norm);
    int32_t q_rope = rope(b, STAGE_Q_ROPE, q, c->n_head);
    int32_t k_rope = rope(b, STAGE_K_ROPE, k, c->n_head_kv);
    int32_t k_cache = store(b, STAGE_K_CACHE, k_rope), v_cache = store(b, STAGE_V_CACHE, v);
    op_spec attention = {.kind = OP_ATTENTION,
                         .name = STAGE_ATTN_OUT,
                         .in = {q_rope + 1, k_cache + 1, v_cache + 1},
                         .n_head = c->n_head,
                         .width = c->n_head * c->head_dim};
    int32_t out = op_add(b, &attention);
    matmul_spec mo = {STAGE_WO_OUT, STAGE_ATTN_OUT_Q8, out, &out_q8, w->o, {0}, 0};
    int32_t y = norm(b, STAGE_ATTN_POST_NORM, op_add_matmul(b, &mo), w->attn_post_norm);
    return add(b, STAGE_X_AFTER_ATTN, x, y);
}

/* The normed edge, its quantised form (-1: not yet made), and the chosen experts (edge + 1; 0: the
 * layer is dense). */
typedef struct ffn_input {
    int32_t x, x_q8, ids;
} ffn_input;

/* down(f(gate x) * up x), of every chosen expert side by side. */
static int32_t ffn(op_builder *b, const layer_weights *w, ffn_input in)
{
    int32_t act_q8 = -1, ids = in.ids;
    matmul_spec mg = {STAGE_GATE, STAGE_FFN_NORM_Q8, in.x, &in.x_q8, w->gate, {0}, ids};
    matmul_spec mu = {STAGE_UP, STAGE_FFN_NORM_Q8, in.x, &in.x_q8, w->up, {0}, ids};
    int32_t gate = op_add_matmul(b, &mg), up = op_add_matmul(b, &mu);
    op_spec glu = {.kind = OP_GLU,
                   .name = STAGE_ACT,
                   .in = {gate + 1, up + 1},
                   .width = b->list->edge[gate].width,
                   .activation = b->model->cfg.activation};
    int32_t act = op_add(b, &glu);
    stage out = ids ? STAGE_EXPERT_OUT : STAGE_MLP_OUT;
    matmul_spec md = {out, STAGE_ACT_Q8, act, &act_q8, w->down, {0}, ids};
    return op_add_matmul(b, &md);
}

/* The chosen experts' outputs by their weights (Shazeer et al. 2017). */
static int32_t ffn_experts(op_builder *b, const layer_weights *w, int32_t h)
{
    const config *c = &b->model->cfg;
    int32_t x_q8 = -1;
    matmul_spec mr = {STAGE_ROUTER, STAGE_FFN_NORM_Q8, h, &x_q8, w->router, {0}, 0};
    int32_t router = op_add_matmul(b, &mr);
    op_spec top = {.kind = OP_TOP_K,
                   .name = STAGE_EXPERT_IDS,
                   .in = {router + 1},
                   .width = c->n_expert_used,
                   .type = DTYPE_I32};
    int32_t ids = op_add(b, &top);
    op_spec weigh = {.kind = OP_EXPERT_WEIGHTS,
                     .name = STAGE_EXPERT_WEIGHTS,
                     .in = {router + 1, ids + 1},
                     .width = c->n_expert_used};
    int32_t weights = op_add(b, &weigh);
    int32_t out = ffn(b, w, (ffn_input){h, x_q8, ids + 1});
    op_spec sum = {.kind = OP_EXPERT_SUM,
                   .name = STAGE_MLP_OUT,
                   .in = {out + 1, weights + 1},
                   .width = c->n_embd};
    return op_add(b, &sum);
}

int32_t block_ffn(op_builder *b, const layer_weights *w, int32_t x)
{
    int32_t h = norm(b, STAGE_FFN_NORM, x, w->ffn_norm);
    int32_t out =
        b->model->cfg.n_expert > 0 ? ffn_experts(b, w, h) : ffn(b, w, (ffn_input){h, -1, 0});
    int32_t y = norm(b, STAGE_FFN_POST_NORM, out, w->ffn_post_norm);
    return add(b, STAGE_X_AFTER_MLP, x, y);
}

void block_head(op_builder *b, int32_t x)
{
    const struct greta_model *m = b->model;
    float cap = m->cfg.logit_softcap;
    int32_t x_q8 = -1;
    int32_t h = norm(b, STAGE_FINAL_NORM, x, m->output_norm);
    matmul_spec head = {cap > 0 ? STAGE_LOGITS_RAW : STAGE_LOGITS,
                        STAGE_FINAL_NORM_Q8,
                        h,
                        &x_q8,
                        m->output,
                        {0},
                        0};
    int32_t logits = op_add_matmul(b, &head);
    op_spec softcap = {.kind = OP_SOFTCAP,
                       .name = STAGE_LOGITS,
                       .in = {logits + 1},
                       .width = m->cfg.n_vocab,
                       .factor = cap};
    if (cap > 0) {
        op_add(b, &softcap);
    }
}

void ops_decoder(op_builder *b)
{
    const struct greta_model *m = b->model;
    b->layer = -1;
    int32_t x = block_embed(b);
    for (int32_t l = 0; l < m->cfg.n_layer; l++) {
        b->layer = l;
        x = block_attention(b, &m->layer[l], x);
        x = block_ffn(b, &m->layer[l], x);
    }
    b->layer = -1;
    b->is_packed = 1;
    block_head(b, x);
}
