/* mkmodel_weights.c - which tensors a model has, and their random values.
 *
 * Every tensor has its own generator (splitmix64), seeded by (seed, name of the tensor), so that
 * an option that adds or retypes one does not reshuffle the others. Values are such that
 * activations stay of order one: matmul weights have root mean square 1/sqrt(K), embedding and head
 * 2.5/sqrt(K) (logits spread by about 2.5), norm weights are even in [0.5, 1.5), so that a
 * permutation of them shows.
 *
 * A quantised tensor is random bytes with scales written over them: any bytes are valid codes, and
 * the rms of codes drawn evenly is known, so the scale that gives the wanted rms is known too.
 * Drawing values and quantising them was rejected: slower, longer, and codes near the ends of
 * their range, where kernels go wrong, would be rare.
 *
 * Block layouts: ggml-common.h of https://github.com/ggml-org/ggml.
 */
#include "mkmodel.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_TENSORS 16 /* and three per expert */
#define MODEL_TENSORS 6

/* rms: codes even in [-128, 127], [-8, 7], [0, 15] - 7.5, [-16, 15], [0, 31] - 15.5; then
 * sc*q - 7.5*m and sc*q - 15.5*m with sc, m even in [0, 63]; sc*(q - 32) with sc in [-128, 127];
 * the entries of IQ4_NL's table, alone and times sc in [-32, 31]; E2M1 twice; sc*q - 1.5*m with sc
 * and m even in [0, 15], q in [0, 3]; sc*(q - 4) with sc in [-32, 31], q in [0, 7]. */
enum { TYPE_MXFP4 = 39 };
static const type_traits types[] = {
    {"F32", 0, 1, 4, -1, -1, 0, 0},
    {"F16", 1, 1, 2, -1, -1, 0, 0},
    {"BF16", 30, 1, 2, -1, -1, 0, 0},
    {"Q8_0", 8, 32, 34, 0, -1, 0, 73.90196},
    {"Q4_0", 2, 32, 18, 0, -1, 0, 4.636809},
    {"Q4_1", 3, 32, 20, 0, 2, -7.5, 4.609772},
    {"Q5_0", 6, 32, 22, 0, -1, 0, 9.246621},
    {"Q5_1", 7, 32, 24, 0, 2, -15.5, 9.233093},
    {"Q4_K", 12, 256, 144, 0, 2, 7.5, 258.3155},
    {"Q5_K", 13, 256, 176, 0, 2, 15.5, 526.9259},
    {"Q6_K", 14, 256, 210, 208, -1, 0, 1365.7},
    {"IQ4_NL", 20, 32, 18, 0, -1, 0, 67.43886},
    {"IQ4_XS", 23, 256, 136, 0, -1, 0, 1246.251},
    {"MXFP4", TYPE_MXFP4, 32, 17, 0, -1, 0, 5.852350},
    {"Q2_K", 10, 256, 84, 80, 82, 1.5, 13.87444},
    {"Q3_K", 11, 256, 110, 108, -1, 0, 43.33878},
};
#define N_TYPE (sizeof types / sizeof types[0])
static const type_traits *const type_f32 = &types[0];

const type_traits *type_find(const char *name)
{
    for (size_t i = 0; i < N_TYPE; i++) {
        if (!strcmp(types[i].name, name)) {
            return &types[i];
        }
    }
    return NULL;
}

/* ---- Random numbers ------------------------------------------------------------------------ */

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The generator of a tensor: far from those of other tensors and other seeds. */
static uint64_t random_state(uint64_t seed, const char *name)
{
    uint64_t state = seed;
    for (; *name; name++) {
        state ^= (uint8_t)*name;
        state = random_next(&state);
    }
    return state;
}

/* Even in [0, 1). */
static double random_uniform(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/* Nearly normal with mean 0 and rms 1: the sum of four even 16-bit numbers, whose variance is
 * 4 * (2^32 - 1) / 12. */
static inline double random_normal(uint64_t *state)
{
    uint64_t z = random_next(state);
    int64_t sum = (int64_t)((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
    return (double)(sum - 2 * 0xffff) * (1.0 / 37837.227);
}

/* ---- Number formats ------------------------------------------------------------------------ */

static uint32_t bits_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint16_t bf16_from_float(float value)
{
    uint32_t bits = bits_from_float(value);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Round to nearest even, subnormals too; finite values below 65520 only, which is all we draw. */
uint16_t half_from_float(float value)
{
    uint32_t bits = bits_from_float(value);
    uint32_t sign = bits >> 16 & 0x8000;
    int32_t exponent = (int32_t)(bits >> 23 & 0xff) - 127 + 15;
    uint32_t mantissa = (bits & 0x7fffff) | 0x800000; /* 24 bits, 11 are kept */
    uint32_t shift = exponent > 0 ? 13 : (uint32_t)(14 - exponent);
    if (shift > 24) {
        return (uint16_t)sign;
    }
    uint32_t kept = mantissa >> shift;
    uint32_t rest = mantissa & ((1u << shift) - 1);
    uint32_t half = 1u << (shift - 1);
    kept += rest > half || (rest == half && (kept & 1));
    /* A normal number's hidden bit adds one to the exponent field; so does a carry. */
    return (uint16_t)(sign | ((exponent > 0 ? (uint32_t)(exponent - 1) << 10 : 0) + kept));
}

/* 1/sqrt(x) for x >= 1 by Newton's rule, which needs no libm: from below it rises to the root. */
static double inverse_root(double x)
{
    double y = 1 / x;
    for (int i = 0; i < 64; i++) {
        y *= 1.5 - 0.5 * x * y * y;
    }
    return y;
}

/* ---- Tensors ------------------------------------------------------------------------------- */

static tensor *tensor_add(tensor_list *list, int64_t layer, const char *name)
{
    tensor *t = &list->item[list->n++];
    if (layer < 0) {
        snprintf(t->name, sizeof t->name, "%s", name);
    } else {
        snprintf(t->name, sizeof t->name, "blk.%" PRId64 ".%s", layer, name);
    }
    t->type = type_f32;
    return t;
}

static tensor *matrix_add(tensor_list *list, int64_t layer, const char *name,
                          const int64_t shape[2] /* (n_row, n_col) */)
{
    tensor *t = tensor_add(list, layer, name);
    t->n_row = shape[0];
    t->n_col = shape[1];
    t->fill = FILL_NORMAL;
    t->high = inverse_root((double)t->n_col);
    return t;
}

static void vector_add(tensor_list *list, int64_t layer, const char *name, tensor shape)
{
    tensor *t = tensor_add(list, layer, name);
    t->n_col = shape.n_col;
    t->fill = shape.fill;
    t->low = shape.low;
    t->high = shape.high;
}

/* Mixes as llama.cpp's quantiser lays them out (llama_tensor_get_type_impl and use_more_bits in its
 * sources, for models without eight experts); Q2_K_MIX is the one it calls Q2_K. The output matrix,
 * which is the embedding where they are tied, is Q6_K in all. Where rows are no multiple of 256,
 * another type stands for each. */
static const struct mix {
    const char *name, *base;
} mixes[] = {{"Q2_K_MIX", "Q2_K"}, {"Q3_K_M", "Q3_K"}, {"Q4_K_M", "Q4_K"}};
#define N_MIX (sizeof mixes / sizeof mixes[0])

const type_traits *mix_base(const char *name)
{
    for (size_t i = 0; i < N_MIX; i++) {
        if (!strcmp(mixes[i].name, name)) {
            return type_find(mixes[i].base);
        }
    }
    return NULL;
}

static const char *mixed_name(const options *p, int64_t layer, const char *name)
{
    const int64_t n = p->layers, eighth = n / 8;
    bool is_output = !strcmp(name, p->untied ? "output.weight" : "token_embd.weight");
    bool is_v = !strcmp(name, "attn_v.weight") || !strcmp(name, "attn_qkv.weight");
    bool is_o = !strcmp(name, "attn_output.weight"), is_down = !strncmp(name, "ffn_down", 8);
    bool has_more = layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
    if (is_output) {
        return "Q6_K";
    }
    if (!strcmp(p->type->name, "Q2_K")) {
        return is_v && p->heads / p->heads_kv >= 4 ? "Q4_K"
               : is_v || is_o || is_down           ? "Q3_K"
                                                   : "Q2_K";
    }
    if (!strcmp(p->type->name, "Q3_K")) {
        return (is_v && layer < 2) || (is_down && layer < n / 16) ? "Q5_K"
               : is_v || is_o || is_down                          ? "Q4_K"
                                                                  : "Q3_K";
    }
    return (is_v || is_down) && has_more ? "Q6_K" : "Q4_K";
}

const type_traits *type_mixed(const options *p, int64_t layer, const char *name, int64_t n_col)
{
    static const char *const narrow[][2] = {
        {"Q2_K", "Q4_0"}, {"Q3_K", "Q4_0"}, {"Q4_K", "Q5_0"}, {"Q5_K", "Q5_1"}, {"Q6_K", "Q8_0"}};
    const char *type = mixed_name(p, layer, name);
    for (size_t i = 0; n_col % 256 && i < sizeof narrow / sizeof narrow[0]; i++) {
        if (!strcmp(narrow[i][0], type)) {
            return type_find(narrow[i][1]);
        }
    }
    return type_find(type);
}

static tensor *weights_add(tensor_list *list, const options *p, int64_t layer, const char *name,
                           const int64_t shape[2])
{
    tensor *t = matrix_add(list, layer, name, shape);
    t->type = p->is_mix ? type_mixed(p, layer, name, shape[1]) : p->type;
    return t;
}

static void norms_add(tensor_list *list, const options *p, int64_t layer)
{
    const tensor norm = {.n_col = p->embd, .fill = FILL_UNIFORM, .low = 0.5, .high = 1.5};
    bool is_whole = p->family->has & HAS_WHOLE_NORM;
    tensor q = norm, k = norm;
    q.n_col = p->head_dim * (is_whole ? p->heads : 1);
    k.n_col = p->head_dim * (is_whole ? p->heads_kv : 1);
    if (!(p->family->has & HAS_NO_PRE_NORM)) {
        vector_add(list, layer, "attn_norm.weight", norm);
        vector_add(list, layer, "ffn_norm.weight", norm);
    }
    if (p->family->has & HAS_POST_NORM) {
        vector_add(list, layer, "post_attention_norm.weight", norm);
        vector_add(list, layer, "post_ffw_norm.weight", norm);
    }
    if (p->family->has & HAS_QK_NORM) {
        vector_add(list, layer, "attn_q_norm.weight", q);
        vector_add(list, layer, "attn_k_norm.weight", k);
    }
}

static void attention_add(tensor_list *list, const options *p, int64_t layer)
{
    const int64_t n_q = p->heads * p->head_dim, n_kv = p->heads_kv * p->head_dim;
    const struct {
        const char *name, *bias;
        int64_t shape[2];
    } matrix[] = {
        {"attn_q.weight", "attn_q.bias", {n_q, p->embd}},
        {"attn_k.weight", "attn_k.bias", {n_kv, p->embd}},
        {"attn_v.weight", "attn_v.bias", {n_kv, p->embd}},
        {"attn_output.weight", NULL, {p->embd, n_q}},
        {"attn_qkv.weight", NULL, {n_q + 2 * n_kv, p->embd}},
    };
    bool is_fused = p->family->has & HAS_FUSED;
    for (size_t i = is_fused ? 3 : 0; i < (is_fused ? 5u : 4u); i++) {
        weights_add(list, p, layer, matrix[i].name, matrix[i].shape);
        if (p->bias && matrix[i].bias) {
            tensor bias = {.n_col = matrix[i].shape[0], .fill = FILL_NORMAL, .high = 0.5};
            vector_add(list, layer, matrix[i].bias, bias);
        }
    }
}

/* As one tensor of three dimensions, or one by one. */
static void experts_add(tensor_list *list, const options *p, int64_t layer)
{
    const struct {
        const char *stem;
        int64_t shape[2];
    } matrix[] = {
        {"ffn_gate", {p->ff_expert, p->embd}},
        {"ffn_up", {p->ff_expert, p->embd}},
        {"ffn_down", {p->embd, p->ff_expert}},
    };
    const int64_t router[2] = {p->experts, p->embd};
    char name[40];
    matrix_add(list, layer, "ffn_gate_inp.weight", router)->high *= 2;
    for (size_t i = 0; i < sizeof matrix / sizeof matrix[0]; i++) {
        snprintf(name, sizeof name, "%s_exps.weight", matrix[i].stem);
        for (int64_t e = 0; e < p->experts && p->split_experts; e++) {
            snprintf(name, sizeof name, "%s.%" PRId64 ".weight", matrix[i].stem, e);
            weights_add(list, p, layer, name, matrix[i].shape);
        }
        if (!p->split_experts) {
            weights_add(list, p, layer, name, matrix[i].shape)->n_matrix = p->experts;
        }
    }
}

static void layer_add(tensor_list *list, const options *p, int64_t layer)
{
    const int64_t wide[2] = {p->ff, p->embd}, fused[2] = {2 * p->ff, p->embd};
    const int64_t down[2] = {p->embd, p->ff};
    bool is_fused = p->family->has & HAS_FUSED;
    norms_add(list, p, layer);
    attention_add(list, p, layer);
    if (p->experts > 0) {
        experts_add(list, p, layer);
        return;
    }
    if (!is_fused) {
        weights_add(list, p, layer, "ffn_gate.weight", wide);
    }
    weights_add(list, p, layer, "ffn_up.weight", is_fused ? fused : wide);
    weights_add(list, p, layer, "ffn_down.weight", down);
}

static void rope_add(tensor_list *list, const options *p)
{
    const tensor factors = {.n_col = p->head_dim / 2, .fill = FILL_UNIFORM, .low = 1, .high = 8};
    tensor short_factors = factors;
    short_factors.high = 2;
    if (p->rope_factors) {
        vector_add(list, -1, "rope_freqs.weight", factors);
    }
    if (!strcmp(p->rope_scaling, "longrope")) {
        vector_add(list, -1, "rope_factors_long.weight", factors);
        vector_add(list, -1, "rope_factors_short.weight", short_factors);
    }
}

bool tensors_build(const options *p, tensor_list *list)
{
    const int64_t table[2] = {p->vocab, p->embd};
    const tensor norm = {.n_col = p->embd, .fill = FILL_UNIFORM, .low = 0.5, .high = 1.5};
    list->n = 0;
    size_t n_layer = LAYER_TENSORS + 3 * (size_t)p->experts;
    list->item = calloc((size_t)p->layers * n_layer + MODEL_TENSORS, sizeof *list->item);
    if (!list->item) {
        return false;
    }
    tensor *embd = matrix_add(list, -1, "token_embd.weight", table);
    embd->type = p->embd_type;
    embd->high *= 2.5;
    rope_add(list, p);
    for (int64_t i = 0; i < p->layers; i++) {
        layer_add(list, p, i);
    }
    vector_add(list, -1, "output_norm.weight", norm);
    if (p->untied) {
        tensor *head = matrix_add(list, -1, "output.weight", table);
        head->type = p->is_mix ? type_mixed(p, -1, "output.weight", p->embd) : p->type;
        head->high *= 2.5;
    }
    return true;
}

uint64_t tensor_values(const tensor *t)
{
    return (uint64_t)t->n_col * (uint64_t)(t->n_row ? t->n_row : 1) *
           (uint64_t)(t->n_matrix ? t->n_matrix : 1);
}

uint64_t tensor_bytes(const tensor *t)
{
    return tensor_values(t) / t->type->block * t->type->bytes;
}

/* The next value of a tensor of floats. */
static float value_next(const tensor *t, uint64_t *state)
{
    return (float)(t->fill == FILL_NORMAL ? t->high * random_normal(state)
                                          : t->low + (t->high - t->low) * random_uniform(state));
}

static void fill_floats(const tensor *t, uint64_t *state, uint8_t *buffer, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float value = value_next(t, state);
        uint16_t narrow;
        if (t->type == type_f32) {
            memcpy(buffer + 4 * i, &value, 4);
        } else {
            narrow = t->type->number == 1 ? half_from_float(value) : bf16_from_float(value);
            memcpy(buffer + 2 * i, &narrow, 2);
        }
    }
}

/* 256 scales, with their minima, between half and one and a half of the one that gives the wanted
 * rms; the root of the mean square of such factors is sqrt(13/12). Formats without a minimum take
 * scales of both signs, as their quantisers make them. */
typedef struct scale_table {
    uint16_t scale[256], minimum[256];
} scale_table;

static void scale_table_fill(const tensor *t, uint64_t *state, scale_table *table)
{
    const double middle = t->high / (t->type->rms * 1.0408330);
    for (int i = 0; i < 256; i++) {
        double scale = middle * (0.5 + random_uniform(state));
        double sign = t->type->minimum < 0 && (i & 1) ? -1 : 1;
        table->scale[i] = half_from_float((float)(sign * scale));
        table->minimum[i] = half_from_float((float)(t->type->ratio * scale));
    }
}

/* MXFP4 scales by powers of two, 2^(exponent - 128). Of the two exponents around the wanted scale
 * the higher is taken as often as gives the wanted rms; entries are drawn evenly. */
static void exponent_table_fill(const tensor *t, scale_table *table)
{
    double wanted = t->high / t->type->rms, power = 1;
    uint16_t exponent = 128;
    for (; power > wanted; power /= 2) {
        exponent--;
    }
    for (; 2 * power <= wanted; power *= 2) {
        exponent++;
    }
    double ratio = wanted / power, share = (ratio * ratio - 1) / 3; /* 4 p + 1 - p = ratio^2 */
    for (int i = 0; i < 256; i++) {
        table->scale[i] = (uint16_t)(exponent + (i + 0.5 < 256 * share));
    }
}

static void fill_blocks(const type_traits *type, const scale_table *table, uint64_t *state,
                        uint8_t *buffer, size_t n)
{
    for (size_t i = 0; i < n * type->bytes; i += 8) { /* the buffer's size is a multiple of 8 */
        uint64_t word = random_next(state);
        memcpy(buffer + i, &word, 8);
    }
    for (size_t i = 0; i < n; i++) {
        uint8_t *block = buffer + i * type->bytes;
        uint64_t pick = random_next(state) & 255;
        memcpy(block + type->scale, &table->scale[pick], type->number == TYPE_MXFP4 ? 1 : 2);
        if (type->minimum >= 0) {
            memcpy(block + type->minimum, &table->minimum[pick], 2);
        }
    }
}

static void fill_rounded(const tensor *t, uint64_t *state, uint8_t *buffer, size_t n)
{
    float x[32];
    for (size_t i = 0; i < n; i++) {
        for (int j = 0; j < 32; j++) {
            x[j] = value_next(t, state);
        }
        round_block(t->type, x, buffer + i * t->type->bytes);
    }
}

void put_tensor(output *o, const tensor *t, const options *p, uint8_t *buffer)
{
    uint64_t state = random_state(p->seed, t->name);
    scale_table table;
    if (p->rounded) {
        memset(&table, 0, sizeof table);
    } else if (t->type->number == TYPE_MXFP4) {
        exponent_table_fill(t, &table);
    } else if (t->type->block > 1) {
        scale_table_fill(t, &state, &table);
    }
    uint64_t n_block = tensor_values(t) / t->type->block;
    size_t n_most = BUFFER_BYTES / t->type->bytes;
    while (n_block && !o->failed) {
        size_t n = n_block < n_most ? (size_t)n_block : n_most;
        if (t->type->block > 1 && p->rounded) {
            fill_rounded(t, &state, buffer, n);
        } else if (t->type->block > 1) {
            fill_blocks(t->type, &table, &state, buffer, n);
        } else {
            fill_floats(t, &state, buffer, n);
        }
        put(o, buffer, n * t->type->bytes);
        n_block -= n;
    }
}
