/* change_weight.c - hypotheses about weights: another tensor, other rows, blocks read wrongly.
 *
 * Rearranged weights are copies in the file's own type: rows, blocks and bytes move, nothing is
 * quantised anew. Blocks are edited as bytes by the layouts of kernel/blocks.h. Other tensors are
 * those of the model that have this shape: of the neighbouring layers, of this layer, the
 * embedding.
 */
#include "replay/change.h"

#include <string.h>

/* ---- Another tensor -------------------------------------------------------------------------- */

static bool fits_shape(const weight_view *a, const weight_view *b)
{
    return b->tensor && b->tensor->data && a->n == b->n && a->tensor->n_col == b->tensor->n_col &&
           (a->tensor->data != b->tensor->data || a->first != b->first);
}

/* The op reads floats in front of float weights, codes in front of quantised ones. */
static bool reads_type(const change *e, dtype type)
{
    bool is_coded = e->healthy->in[0].type == DTYPE_ACT_Q8;
    return !is_coded || dtype_find((uint32_t)type)->is_quantised;
}

static bool view_set(change *e, const op *other)
{
    const weight_view *own = &e->healthy->op.w[0];
    weight_view view = other->w[0];
    view.n = other->kind == OP_EMBED ? view.tensor->n_row : view.n;
    if (!own->tensor || !fits_shape(own, &view) || !reads_type(e, view.tensor->type)) {
        return false;
    }
    e->c.op.w[0] = view;
    change_say(e, "weights %s for %s", view.tensor->name, own->tensor->name);
    return true;
}

static bool of_layer(change *e, double by)
{
    const op_place *at = e->around->at;
    const op *o = &e->healthy->op;
    int32_t layer = o->layer + (int32_t)by;
    int32_t index = !at || o->layer < 0 || layer < 0 ? -1 : op_list_op(at->list, o->name, layer);
    return index >= 0 && view_set(e, &at->list->op[index]);
}

/* The k-th other op of this layer (or of those outside the layers) with such weights. */
static bool of_sibling(change *e, double which)
{
    const op_place *at = e->around->at;
    int32_t left = (int32_t)which;
    for (int32_t i = 0; at && i < at->list->n_op; i++) {
        const op *o = &at->list->op[i];
        bool is_near = o->layer == e->healthy->op.layer && i != at->index && o->w[0].tensor;
        if (is_near && view_set(e, o) && left-- == 0) {
            return true;
        }
        e->c.op.w[0] = e->healthy->op.w[0];
    }
    return false;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

typedef enum row_order {
    ROWS_TO_HALVES,     /* neighbours of a head's pairs become halves */
    ROWS_TO_NEIGHBOURS, /* and back */
    ROWS_HEADS_REVERSED,
    ROWS_REVERSED,
    ROWS_NEXT,
    ROWS_PREVIOUS,
    ROWS_WRAPPED, /* at half of them */
} row_order;

static int64_t row_of(row_order how, int64_t r, int64_t n, int64_t dim)
{
    int64_t at = r % dim, head = r - at;
    switch (how) {
    case ROWS_TO_HALVES:
        return head + (at % 2 == 0 ? at / 2 : dim / 2 + at / 2);
    case ROWS_TO_NEIGHBOURS:
        return head + (at < dim / 2 ? 2 * at : 2 * (at - dim / 2) + 1);
    case ROWS_HEADS_REVERSED:
        return (n / dim - 1 - r / dim) * dim + at;
    case ROWS_REVERSED:
        return n - 1 - r;
    case ROWS_NEXT:
        return (r + 1) % n;
    case ROWS_PREVIOUS:
        return (r + n - 1) % n;
    case ROWS_WRAPPED:
        return r % (n / 2 + 1);
    }
    return r;
}

static bool rows_moved(change *e, double how)
{
    const weight_view *own = &e->healthy->op.w[0];
    bool is_by_head = (row_order)how <= ROWS_HEADS_REVERSED;
    int64_t dim = e->around->at ? e->around->at->model->cfg.head_dim : 0;
    if (is_by_head && (dim < 4 || dim % 2 || own->n % dim)) {
        return false;
    }
    uint8_t *data = change_weight_copy(e, 0);
    size_t bytes = (size_t)own->tensor->row_bytes;
    for (int64_t r = 0; r < own->n && data; r++) {
        int64_t from = own->first + row_of((row_order)how, r, own->n, is_by_head ? dim : 1);
        memcpy(data + (size_t)r * bytes, own->tensor->data + (size_t)from * bytes, bytes);
    }
    return data != NULL;
}

/* An index of 8 or 16 bits: as the kernel counts them, from the first row of the view. */
static bool rows_wrapped(change *e, double at)
{
    const weight_view *own = &e->healthy->op.w[0];
    uint8_t *data = own->n > (int64_t)at ? change_weight_copy(e, 0) : NULL;
    size_t bytes = (size_t)own->tensor->row_bytes;
    for (int64_t r = (int64_t)at; r < own->n && data; r++) {
        memcpy(data + (size_t)r * bytes, data + (size_t)(r % (int64_t)at) * bytes, bytes);
    }
    change_say(e, "rows wrapped at %d of them", (int)at);
    return data != NULL;
}

/* Stored row by row and read column by column: of a square matrix its transpose. What moves without
 * rounding is a value of a float type, or a block of a quantised one. */
static bool transposed(change *e, double unused)
{
    (void)unused;
    const weight_view *own = &e->healthy->op.w[0];
    const dtype_traits *type = dtype_find((uint32_t)own->tensor->type);
    int64_t n_unit = own->tensor->n_col / type->block;
    bool has_order = own->n > 1 && n_unit > 1;
    const uint8_t *file = own->tensor->data + own->first * own->tensor->row_bytes;
    uint8_t *data = has_order ? change_weight_copy(e, 0) : NULL;
    for (int64_t r = 0; r < own->n && data; r++) {
        for (int64_t c = 0; c < n_unit; c++) {
            memcpy(data + (r * n_unit + c) * type->bytes, file + (c * own->n + r) * type->bytes,
                   type->bytes);
        }
    }
    bool is_transpose = type->block == 1 && own->n == own->tensor->n_col;
    change_say(e, "%s", is_transpose ? "weights transposed" : "weights in column order");
    return data != NULL;
}

static bool zeroed(change *e, double unused)
{
    (void)unused;
    uint8_t *data = change_weight_copy(e, 0);
    if (data) {
        memset(data, 0, (size_t)e->tensor.n_row * (size_t)e->tensor.row_bytes);
    }
    return data != NULL;
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

typedef enum block_fault {
    BLOCK_NIBBLES,      /* low and high four bits swapped */
    BLOCK_REVERSED,     /* codes in reverse order */
    BLOCK_SCALE_MIN,    /* scale and minimum swapped */
    BLOCK_SCALE_BEFORE, /* the scale of the block before, or */
    BLOCK_SCALE_AFTER,  /* behind */
    BLOCK_SUB_SCALES,   /* scales of parts one part further on */
    BLOCK_FIFTH_BITS,   /* left out */
} block_fault;

typedef struct bytes_at {
    int at, n;
} bytes_at;

/* Codes of four bits, two in a byte. */
static bytes_at nibbles_of(dtype type)
{
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        return (bytes_at){2, 16};
    case DTYPE_Q4_1:
        return (bytes_at){4, 16};
    case DTYPE_Q5_0:
        return (bytes_at){6, 16};
    case DTYPE_Q5_1:
        return (bytes_at){8, 16};
    case DTYPE_Q4_K:
        return (bytes_at){16, 128};
    case DTYPE_Q5_K:
        return (bytes_at){48, 128};
    case DTYPE_Q6_K:
        return (bytes_at){0, 128};
    case DTYPE_IQ4_XS:
        return (bytes_at){8, 128};
    case DTYPE_MXFP4:
        return (bytes_at){1, 16};
    default:
        return (bytes_at){0, 0};
    }
}

static bytes_at scale_of(dtype type)
{
    switch (type) {
    case DTYPE_Q2_K:
        return (bytes_at){80, 2};
    case DTYPE_Q3_K:
        return (bytes_at){108, 2};
    case DTYPE_Q6_K:
        return (bytes_at){208, 2};
    case DTYPE_MXFP4:
        return (bytes_at){0, 1};
    default:
        return (bytes_at){0, 2};
    }
}

static bytes_at fifth_bits_of(dtype type)
{
    return type == DTYPE_Q5_0   ? (bytes_at){2, 4}
           : type == DTYPE_Q5_1 ? (bytes_at){4, 4}
           : type == DTYPE_Q5_K ? (bytes_at){16, 32}
                                : (bytes_at){0, 0};
}

static bool nibbles_swap(dtype type, uint8_t *block)
{
    bytes_at codes = nibbles_of(type);
    for (int i = codes.at; i < codes.at + codes.n; i++) {
        block[i] = (uint8_t)(block[i] << 4 | block[i] >> 4);
    }
    return codes.n > 0;
}

static bool codes_reverse(dtype type, uint8_t *block)
{
    bytes_at codes = type == DTYPE_Q8_0 ? (bytes_at){2, 32} : nibbles_of(type);
    for (int i = 0, j = codes.n - 1; i < j; i++, j--) {
        uint8_t kept = block[codes.at + i];
        block[codes.at + i] = block[codes.at + j];
        block[codes.at + j] = kept;
    }
    return codes.n > 0;
}

static bool scale_min_swap(dtype type, uint8_t *block)
{
    bool has_min = type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K ||
                   type == DTYPE_Q5_K || type == DTYPE_Q2_K;
    uint8_t scale[2], *at = block + scale_of(type).at; /* the minimum stands behind it */
    if (has_min) {
        memcpy(scale, at, 2);
        memcpy(at, at + 2, 2);
        memcpy(at + 2, scale, 2);
    }
    return has_min;
}

static bool sub_scales_turn(dtype type, uint8_t *block)
{
    bytes_at part = type == DTYPE_Q6_K                         ? (bytes_at){192, 16}
                    : type == DTYPE_Q2_K                       ? (bytes_at){0, 16}
                    : type == DTYPE_Q4_K || type == DTYPE_Q5_K ? (bytes_at){4, 4}
                                                               : (bytes_at){0, 0};
    if (part.n > 0) {
        uint8_t first = block[part.at];
        memmove(block + part.at, block + part.at + 1, (size_t)part.n - 1);
        block[part.at + part.n - 1] = first;
    }
    return part.n > 0;
}

/* healthy: the same block of the file. */
static bool block_break(block_fault how, dtype type, uint8_t *block, const uint8_t *healthy,
                        bool has_neighbour)
{
    bytes_at scale = scale_of(type), fifth = fifth_bits_of(type);
    int64_t bytes = (int64_t)dtype_find((uint32_t)type)->bytes;
    switch (how) {
    case BLOCK_NIBBLES:
        return nibbles_swap(type, block);
    case BLOCK_REVERSED:
        return codes_reverse(type, block);
    case BLOCK_SCALE_MIN:
        return scale_min_swap(type, block);
    case BLOCK_SCALE_BEFORE:
    case BLOCK_SCALE_AFTER:
        if (has_neighbour) {
            memcpy(block + scale.at,
                   healthy + scale.at + (how == BLOCK_SCALE_AFTER ? bytes : -bytes),
                   (size_t)scale.n);
        }
        return true;
    case BLOCK_SUB_SCALES:
        return sub_scales_turn(type, block);
    case BLOCK_FIFTH_BITS:
        memset(block + fifth.at, 0, (size_t)fifth.n);
        return fifth.n > 0;
    }
    return false;
}

static bool blocks_broken(change *e, double how)
{
    const weight_view *own = &e->healthy->op.w[0];
    const dtype_traits *type = dtype_find((uint32_t)own->tensor->type);
    uint8_t *data = type->is_quantised ? change_weight_copy(e, 0) : NULL;
    int64_t n = data ? own->n * own->tensor->row_bytes / type->bytes : 0;
    const uint8_t *file = own->tensor->data + own->first * own->tensor->row_bytes;
    for (int64_t i = 0; i < n; i++) {
        bool has_neighbour = (block_fault)how == BLOCK_SCALE_AFTER ? i + 1 < n : i > 0;
        if (!block_break((block_fault)how, type->type, data + i * type->bytes,
                         file + i * type->bytes, has_neighbour)) {
            return false;
        }
    }
    return data != NULL;
}

/* Every row starts one block late: the last block of a row is the first of the next one. */
static bool blocks_shifted(change *e, double by)
{
    const weight_view *own = &e->healthy->op.w[0];
    const dtype_traits *type = dtype_find((uint32_t)own->tensor->type);
    uint8_t *data = change_weight_copy(e, 0);
    int64_t n = data ? own->n * own->tensor->row_bytes / type->bytes : 0;
    const uint8_t *file = own->tensor->data + own->first * own->tensor->row_bytes;
    for (int64_t i = 0; i < n; i++) {
        memcpy(data + i * type->bytes, file + (i + n + (int64_t)by) % n * type->bytes, type->bytes);
    }
    change_say(e, "weights one %s %s", type->block == 1 ? "value" : "block",
               by > 0 ? "further on" : "further back");
    return data != NULL;
}

/* ---- Biases ---------------------------------------------------------------------------------- */

static bool bias_missing(change *e, double unused)
{
    (void)unused;
    e->c.op.w[1] = (weight_view){0};
    return e->healthy->op.w[1].tensor != NULL;
}

static bool bias_times(change *e, double factor)
{
    const float *from = op_weight_floats(&e->healthy->op.w[1]);
    float *bias = from ? (float *)(void *)change_weight_copy(e, 1) : NULL;
    for (int64_t i = 0; i < e->c.out.n && bias; i++) {
        bias[i] = (float)factor * from[i];
    }
    return bias != NULL;
}

static bool bias_of_sibling(change *e, double which)
{
    const op_place *at = e->around->at;
    const weight_view *own = &e->healthy->op.w[1];
    int32_t left = (int32_t)which;
    for (int32_t i = 0; at && own->tensor && i < at->list->n_op; i++) {
        const op *o = &at->list->op[i];
        bool is_near = o->kind == e->healthy->op.kind && o->w[1].tensor && i != at->index &&
                       (o->layer == e->healthy->op.layer || o->name == e->healthy->op.name);
        if (is_near && fits_shape(own, &o->w[1]) && left-- == 0) {
            e->c.op.w[1] = o->w[1];
            change_say(e, "bias %s for %s", o->w[1].tensor->name, own->tensor->name);
            return true;
        }
    }
    return false;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define PRODUCTS KIND(OP_MATMUL)
#define TABLES   (KIND(OP_MATMUL) | KIND(OP_EMBED))
#define LAYOUT(kinds, edit, value, phrase)                                                         \
    {                                                                                              \
        kinds, CAUSE_WEIGHT_LAYOUT, EVIDENCE_CHANGE, edit, value, phrase                           \
    }
#define BIAS(edit, value, phrase)                                                                  \
    {                                                                                              \
        PRODUCTS, CAUSE_STRUCTURE, EVIDENCE_CHANGE, edit, value, phrase                            \
    }

static const hypothesis rows[] = {
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_layer, 1, NULL),
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_layer, -1, NULL),
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_sibling, 0, NULL),
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_sibling, 1, NULL),
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_sibling, 2, NULL),
    LAYOUT(TABLES | KINDS_NORM | KIND(OP_EXPERT_MATMUL), of_sibling, 3, NULL),
    LAYOUT(TABLES, transposed, 0, NULL),
    LAYOUT(PRODUCTS, rows_moved, ROWS_TO_HALVES, "rows of heads put from neighbours to halves"),
    LAYOUT(PRODUCTS, rows_moved, ROWS_TO_NEIGHBOURS, "rows of heads put from halves to neighbours"),
    LAYOUT(PRODUCTS, rows_moved, ROWS_HEADS_REVERSED, "rows of heads in reverse order"),
    LAYOUT(TABLES, rows_moved, ROWS_REVERSED, "rows in reverse order"),
    LAYOUT(TABLES, rows_moved, ROWS_NEXT, "rows one further on"),
    LAYOUT(TABLES, rows_moved, ROWS_PREVIOUS, "rows one further back"),
    LAYOUT(TABLES, rows_moved, ROWS_WRAPPED, "rows wrapped at half of them"),
    LAYOUT(TABLES, rows_wrapped, 256, NULL),
    LAYOUT(TABLES, rows_wrapped, 65536, NULL),
    LAYOUT(TABLES, zeroed, 0, "weights zero"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_NIBBLES, "nibbles swapped"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_REVERSED,
           "codes of blocks reversed"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_SCALE_MIN,
           "scale and minimum swapped"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_SCALE_BEFORE,
           "scale of the block before"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_SCALE_AFTER,
           "scale of the block behind"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_SUB_SCALES,
           "scales of parts one part further on"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_broken, BLOCK_FIFTH_BITS, "fifth bits left out"),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_shifted, 1, NULL),
    LAYOUT(TABLES | KIND(OP_EXPERT_MATMUL), blocks_shifted, -1, NULL),
    BIAS(bias_missing, 0, "bias left out"),
    BIAS(bias_times, 2, "bias added twice"),
    BIAS(bias_times, -1, "bias subtracted"),
    BIAS(bias_of_sibling, 0, NULL),
    BIAS(bias_of_sibling, 1, NULL),
};

const hypothesis_table changes_weight = {rows, sizeof rows / sizeof *rows};
