/* change_attention.c - hypotheses about attention: scale, cap, mask, heads, rows of the cache,
 * order.
 *
 * Which rows are seen is `end` and op.window of a case; which row stands for a position is its list
 * of rows; which kv head a query head reads is its map. So nearly all of it is data, and goes
 * through a kernel table that knows nothing of it.
 */
#include "replay/change.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Scale and cap --------------------------------------------------------------------------- */

static bool scale_set(change *e, float scale)
{
    e->c.op.scale = scale;
    return scale > 0 && change_number(e, EVIDENCE_NUMBER_SCALE, "scale",
                                      (double)e->healthy->op.scale, (double)scale);
}

/* head_dim to a power, rounded as 1 / sqrt is in the definition. */
static bool scale_power(change *e, double power)
{
    float d = (float)e->c.op.head_dim;
    float scale = power == 0.5   ? sqrtf(d)
                  : power == 0   ? 1.0f
                  : power == -1  ? 1.0f / d
                  : power == -.5 ? 1.0f / sqrtf(d)
                                 : d;
    return scale_set(e, scale);
}

/* 1 / sqrt of all heads' values together. */
static bool scale_of_row(change *e, double unused)
{
    (void)unused;
    return scale_set(e, 1.0f / sqrtf((float)e->c.out.n));
}

static bool scale_of_embedding(change *e, double unused)
{
    (void)unused;
    return e->around->at && scale_set(e, 1.0f / sqrtf((float)e->around->at->model->cfg.n_embd));
}

static bool scale_times(change *e, double factor)
{
    return scale_set(e, e->healthy->op.scale * (float)factor);
}

static bool cap_set(change *e, double cap)
{
    e->c.op.softcap = (float)cap;
    return change_number(e, EVIDENCE_NUMBER_CAP, "cap of scores", (double)e->healthy->op.softcap,
                         cap);
}

static bool cap_missing(change *e, double unused)
{
    (void)unused;
    e->c.op.softcap = 0;
    return e->healthy->op.softcap > 0;
}

static bool cap_of_logits(change *e, double unused)
{
    (void)unused;
    return e->around->at && e->around->at->model->cfg.logit_softcap > 0 &&
           cap_set(e, (double)e->around->at->model->cfg.logit_softcap);
}

/* ---- Lists of rows --------------------------------------------------------------------------- */

/* Own lists of n rows, copies of the healthy ones as far as those reach. */
static bool own_lists(change *e, int64_t n)
{
    size_t bytes = (size_t)n * sizeof *e->c.key;
    int64_t known = n < e->healthy->n_key ? n : e->healthy->n_key;
    const void **key = change_memory(e, bytes), **value = change_memory(e, bytes);
    if (!key || !value) {
        return false;
    }
    memcpy(key, e->healthy->key, (size_t)known * sizeof *key);
    memcpy(value, e->healthy->value, (size_t)known * sizeof *value);
    e->c.key = key;
    e->c.value = value;
    e->c.n_key = n;
    return true;
}

static const edge *cache_edge(const change *e, int which)
{
    const op_place *at = e->around->at;
    int32_t index = at ? at->list->op[at->index].in[1 + which].edge : -1;
    return index >= 0 ? &at->list->edge[index] : NULL;
}

/* A row of the cache that another op, layer, position or sequence wrote; NULL: not recorded. */
static const void *row_of(const change *e, const op_rows *rows, const edge *from, int64_t position)
{
    op_operand row = {0};
    bool is_there = rows && from && position >= 0 &&
                    rows->find(rows->user, from->name, from->layer, position, &row) &&
                    row.type == e->c.kv_type &&
                    row.n == (int64_t)e->c.op.n_head_kv * e->c.op.head_dim;
    return is_there ? row.values : NULL;
}

/* ---- Mask ------------------------------------------------------------------------------------ */

static bool window_set(change *e, int32_t window)
{
    e->c.op.window = window;
    return window > 0 && change_number(e, EVIDENCE_NUMBER_WINDOW, "window",
                                       (double)e->healthy->op.window, (double)window);
}

static bool window_plus(change *e, double more)
{
    return e->healthy->op.window > 0 && window_set(e, e->healthy->op.window + (int32_t)more);
}

static bool window_missing(change *e, double unused)
{
    (void)unused;
    e->c.op.window = 0;
    return e->healthy->op.window > 0;
}

static bool window_of_model(change *e, double unused)
{
    (void)unused;
    return e->around->at && e->healthy->op.window == 0 &&
           window_set(e, e->around->at->model->cfg.window);
}

static bool last_only(change *e, double n)
{
    change_say(e, "last %d positions only", (int)n);
    e->c.op.window = (int32_t)n;
    return e->healthy->op.window != (int32_t)n && e->c.end > (int64_t)n;
}

static bool self_hidden(change *e, double unused)
{
    (void)unused;
    e->c.end--;
    e->c.op.window -= e->c.op.window > 1 && e->healthy->end > e->c.op.window;
    return e->c.end > 0;
}

static bool first_hidden(change *e, double unused)
{
    (void)unused;
    e->c.op.window = (int32_t)e->c.end - 1;
    return e->c.end > 1 && op_first_seen(e->healthy) == 0;
}

/* One position more, if it was recorded. */
static bool next_seen(change *e, double unused)
{
    (void)unused;
    int64_t next = e->healthy->end;
    const void *key = row_of(e, e->around->rows, cache_edge(e, 0), next);
    const void *value = row_of(e, e->around->rows, cache_edge(e, 1), next);
    if (!key || !value || !own_lists(e, next + 1)) {
        return false;
    }
    e->c.key[next] = key;
    e->c.value[next] = value;
    e->c.end = next + 1;
    e->c.op.window += e->c.op.window > 0; /* the far end stays where it is */
    return true;
}

/* ---- Heads ----------------------------------------------------------------------------------- */

typedef enum head_order { HEADS_TILED, HEADS_FIRST, HEADS_REVERSED, HEADS_NEXT } head_order;

static bool heads(change *e, double how)
{
    const op *o = &e->c.op;
    int32_t group = o->n_head / o->n_head_kv;
    int32_t *map = change_memory(e, (size_t)o->n_head * sizeof *map);
    for (int32_t h = 0; h < o->n_head && map; h++) {
        map[h] = (head_order)how == HEADS_TILED      ? h % o->n_head_kv
                 : (head_order)how == HEADS_FIRST    ? 0
                 : (head_order)how == HEADS_REVERSED ? o->n_head_kv - 1 - h / group
                                                     : (h / group + 1) % o->n_head_kv;
    }
    e->c.kv_head = map;
    return map && o->n_head_kv > 1;
}

/* ---- Rows of the cache ----------------------------------------------------------------------- */

enum { KEYS = 1, VALUES = 2, BOTH = 3 };

static const char *side_name(int sides)
{
    return sides == KEYS ? "keys" : sides == VALUES ? "values" : "keys and values";
}

/* Every position reads the row `by` further on; the ends keep theirs. */
static bool rows_shifted(change *e, int sides, int64_t by)
{
    if (e->healthy->n_key < 2 || !own_lists(e, e->healthy->n_key)) {
        return false;
    }
    for (int64_t p = 0; p < e->c.n_key; p++) {
        int64_t from = p + by < 0 ? 0 : p + by >= e->c.n_key ? e->c.n_key - 1 : p + by;
        e->c.key[p] = sides & KEYS ? e->healthy->key[from] : e->c.key[p];
        e->c.value[p] = sides & VALUES ? e->healthy->value[from] : e->c.value[p];
    }
    change_say(e, "%s of the position %s", side_name(sides), by < 0 ? "before" : "behind");
    return true;
}

static bool rows_of_before(change *e, double sides)
{
    return rows_shifted(e, (int)sides, -1);
}

static bool rows_of_behind(change *e, double sides)
{
    return rows_shifted(e, (int)sides, 1);
}

/* The own row as the position before left it. */
static bool own_row_stale(change *e, double sides)
{
    int64_t own = e->healthy->end - 1;
    if (own < 1 || !own_lists(e, e->healthy->n_key)) {
        return false;
    }
    e->c.key[own] = (int)sides & KEYS ? e->c.key[own - 1] : e->c.key[own];
    e->c.value[own] = (int)sides & VALUES ? e->c.value[own - 1] : e->c.value[own];
    change_say(e, "own row of %s is that of the position before", side_name((int)sides));
    return true;
}

enum { STALE_MAX = 128 };

static bool gives_record(const change *e)
{
    op_output y = {0};
    bool gives = op_output_new(&e->c, &y, NULL) == GRETA_OK &&
                 op_replay(kernel_find("ref"), &e->c, &y, NULL) == GRETA_OK;
    for (int64_t i = 0; i < e->recorded->n && gives; i++) {
        float wanted = op_float_at(e->recorded, i);
        gives = memcmp((const float *)y.values + i, &wanted, sizeof wanted) == 0;
    }
    op_output_free(&y);
    return gives;
}

static bool one_row_search(change *e, const char *phrase, bool is_empty)
{
    int64_t first = op_first_seen(e->healthy), own = e->healthy->end - 1;
    size_t bytes = op_row_bytes(e->c.kv_type, (int64_t)e->c.op.n_head_kv * e->c.op.head_dim);
    const void *empty = change_memory(e, bytes);
    if (!empty || e->recorded->type != DTYPE_F32 || !own_lists(e, e->healthy->n_key)) {
        return false;
    }
    first = own - first >= STALE_MAX ? own - STALE_MAX + 1 : first;
    for (int64_t p = own; p >= first && (p > 0 || is_empty); p--) {
        const void *key = e->healthy->key[p], *value = e->healthy->value[p];
        e->c.key[p] = is_empty ? empty : e->healthy->key[p - 1];
        e->c.value[p] = is_empty ? empty : e->healthy->value[p - 1];
        if (e->c.key[p] && e->c.value[p] && gives_record(e)) {
            change_say(e, phrase, (int)p);
            return p < own || is_empty;
        }
        e->c.key[p] = key;
        e->c.value[p] = value;
    }
    return false;
}

/* One position's row is the one before it, or empty: the position whose row explains the record, of
 * the last STALE_MAX. Every other row is healthy, so that one position is all that is free. */
static bool one_row_stale(change *e, double unused)
{
    (void)unused;
    return one_row_search(e, "row of position %d is that of the position before", false);
}

static bool one_row_empty(change *e, double unused)
{
    (void)unused;
    return one_row_search(e, "row of position %d is empty", true);
}

/* All positions by another list of rows; positions that were not recorded rule it out. */
static bool rows_replaced(change *e, int sides, const op_rows *rows, int32_t layer_by)
{
    if (!rows || !cache_edge(e, 0) || !own_lists(e, e->healthy->n_key)) {
        return false;
    }
    for (int which = 0; which < 2; which++) {
        edge from = *cache_edge(e, which);
        const void **list = which == 0 ? e->c.key : e->c.value;
        from.layer += layer_by;
        for (int64_t p = 0; p < e->c.n_key && sides & 1 << which; p++) {
            list[p] = from.layer < 0 ? NULL : row_of(e, rows, &from, p);
        }
    }
    return true;
}

/* Values: 4 * layers + sides, layers 1: the one behind; 0: the one before. */
static bool rows_of_layer(change *e, double which)
{
    int32_t by = (int)which >= 4 ? 1 : -1;
    int sides = (int)which % 4;
    change_say(e, "%s of layer %d", side_name(sides), (int)(e->healthy->op.layer + by));
    return rows_replaced(e, sides, e->around->rows, by);
}

static bool rows_of_sequence(change *e, double which)
{
    bool is_there = (int32_t)which < e->around->n_other;
    return is_there && rows_replaced(e, BOTH, &e->around->others[(int)which], 0);
}

static bool rows_swapped(change *e, double unused)
{
    (void)unused;
    if (!own_lists(e, e->healthy->n_key)) {
        return false;
    }
    const void **key = e->c.key;
    e->c.key = e->c.value;
    e->c.value = key;
    return true;
}

/* ---- Keys that are not what the cache holds -------------------------------------------------- */

static void row_store(dtype type, const op_operand *floats, uint8_t *row)
{
    for (int64_t i = 0; i < floats->n; i++) {
        float x = op_float_at(floats, i);
        uint16_t half = kernel_f16_from_f32(x);
        if (type == DTYPE_F16) {
            memcpy(row + 2 * i, &half, sizeof half);
        } else {
            memcpy(row + 4 * i, &x, sizeof x);
        }
    }
}

/* The row of `name` at a position, turned once more if asked for, as the cache would hold it. */
static bool key_made(change *e, stage name, bool is_turned, int64_t position, uint8_t *out)
{
    const op_place *at = e->around->at;
    op_place rope = {at->model, at->list,    op_list_op(at->list, STAGE_K_ROPE, e->c.op.layer),
                     position,  at->kv_type, at->n_ctx,
                     at->work};
    op_operand row = {0};
    op_case turn;
    op_output y = {0};
    if (rope.index < 0 || !change_find(e, name, e->c.op.layer, position, &row) ||
        row.type != DTYPE_F32 || row.n != (int64_t)e->c.op.n_head_kv * e->c.op.head_dim ||
        op_case_build(&rope, e->around->rows, &turn, NULL) != GRETA_OK) {
        return false;
    }
    turn.in[0] = row;
    bool done = !is_turned || (op_output_new(&turn, &y, NULL) == GRETA_OK &&
                               op_replay(kernel_find("ref"), &turn, &y, NULL) == GRETA_OK);
    op_operand floats = is_turned ? (op_operand){DTYPE_F32, row.n, y.values} : row;
    if (done) {
        row_store(e->c.kv_type, &floats, out);
    }
    op_output_free(&y);
    return done;
}

/* Keys as they were in front of the rotation, or turned once more. */
static bool keys_from(change *e, stage name, bool is_turned)
{
    size_t bytes = op_row_bytes(e->c.kv_type, (int64_t)e->c.op.n_head_kv * e->c.op.head_dim);
    uint8_t *room = change_memory(e, bytes * (size_t)e->healthy->n_key);
    bool done = room && e->around->at && own_lists(e, e->healthy->n_key);
    for (int64_t p = op_first_seen(e->healthy); p < e->c.end && done; p++) {
        e->c.key[p] = room + (size_t)p * bytes;
        done = key_made(e, name, is_turned, p, room + (size_t)p * bytes);
    }
    return done;
}

static bool keys_not_turned(change *e, double unused)
{
    (void)unused;
    op_operand row;
    bool has_norm = change_find(e, STAGE_K_NORM, e->c.op.layer, e->healthy->position, &row);
    return keys_from(e, has_norm ? STAGE_K_NORM : STAGE_K, false);
}

static bool keys_turned_twice(change *e, double unused)
{
    (void)unused;
    return keys_from(e, STAGE_K_ROPE, true);
}

/* ---- The softmax ----------------------------------------------------------------------------- */

static bool order(change *e, double which)
{
    e->c.variant.attention = (attention_order)which;
    return true;
}

static bool scores_rounded(change *e, double p)
{
    e->c.variant.attention = ATTENTION_TILES;
    e->c.variant.scores = (precision)p;
    return true;
}

static bool values_rounded(change *e, double p)
{
    e->c.variant.attention = ATTENTION_TILES;
    e->c.variant.values = (precision)p;
    return true;
}

static bool not_divided(change *e, double unused)
{
    (void)unused;
    e->c.variant.attention = ATTENTION_TILES;
    e->c.variant.is_not_divided = 1;
    return true;
}

static bool one_key_more(change *e, double unused)
{
    (void)unused;
    e->c.variant.attention = ATTENTION_TILES;
    e->c.variant.adds_one = 1;
    return true;
}

static bool not_rescaled(change *e, double unused)
{
    (void)unused;
    e->c.variant.attention = ATTENTION_TILES;
    e->c.variant.keeps_scale = 1;
    return e->c.end > ATTENTION_TILE;
}

/* A cache of floats, narrowed. */
static bool cache_narrow(change *e, double p)
{
    int64_t n = (int64_t)e->c.op.n_head_kv * e->c.op.head_dim;
    size_t bytes = op_row_bytes(e->c.kv_type, n);
    uint8_t *room = change_memory(e, 2 * bytes * (size_t)e->healthy->n_key);
    float *wide = change_memory(e, (size_t)n * sizeof *wide);
    if (!room || !wide || !own_lists(e, e->healthy->n_key)) {
        return false;
    }
    for (int64_t r = 0; r < 2 * e->c.n_key; r++) {
        const void **place = r % 2 ? &e->c.value[r / 2] : &e->c.key[r / 2];
        if (!*place) {
            continue;
        }
        op_cache_floats(e->c.kv_type, *place, n, wide);
        for (int64_t i = 0; i < n; i++) {
            wide[i] = precision_round((precision)p, wide[i]);
        }
        row_store(e->c.kv_type, &(op_operand){DTYPE_F32, n, wide}, room + (size_t)r * bytes);
        *place = room + (size_t)r * bytes;
    }
    return e->c.kv_type == DTYPE_F32 || (precision)p != PRECISION_F16;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define SEEN(cause, edit, value, phrase)                                                           \
    {                                                                                              \
        KIND(OP_ATTENTION), CAUSE_##cause, EVIDENCE_CHANGE, edit, value, phrase                    \
    }
#define OTHER_ORDER(which, phrase)                                                                 \
    {                                                                                              \
        KIND(OP_ATTENTION), CAUSE_ROUNDING, EVIDENCE_ORDER, order, which, phrase                   \
    }

static const hypothesis rows[] = {
    SEEN(SCALE, scale_power, 0, NULL),
    SEEN(SCALE, scale_power, -1, NULL),
    SEEN(SCALE, scale_power, -.5, NULL),
    SEEN(SCALE, scale_power, 0.5, NULL),
    SEEN(SCALE, scale_of_row, 0, NULL),
    SEEN(SCALE, scale_of_embedding, 0, NULL),
    SEEN(SCALE, scale_times, 2, NULL),
    SEEN(SCALE, scale_times, 0.5, NULL),
    SEEN(SCALE, cap_missing, 0, "cap of scores left out"),
    SEEN(SCALE, cap_set, 30, NULL),
    SEEN(SCALE, cap_set, 50, NULL),
    SEEN(SCALE, cap_of_logits, 0, NULL),
    SEEN(MASK, next_seen, 0, "next position seen"),
    SEEN(MASK, self_hidden, 0, "own position hidden"),
    SEEN(MASK, first_hidden, 0, "position 0 hidden"),
    SEEN(MASK, window_plus, 1, NULL),
    SEEN(MASK, window_plus, -1, NULL),
    SEEN(MASK, window_missing, 0, "window left out"),
    SEEN(MASK, window_of_model, 0, NULL),
    SEEN(MASK, last_only, 16, NULL),
    SEEN(MASK, last_only, 32, NULL),
    SEEN(MASK, last_only, 64, NULL),
    SEEN(STRUCTURE, heads, HEADS_TILED, "kv heads tiled for repeated"),
    SEEN(STRUCTURE, heads, HEADS_FIRST, "kv head 0 for every head"),
    SEEN(STRUCTURE, heads, HEADS_REVERSED, "kv heads in reverse order"),
    SEEN(STRUCTURE, heads, HEADS_NEXT, "kv heads one further on"),
    SEEN(KV_STATE, rows_of_before, KEYS, NULL),
    SEEN(KV_STATE, rows_of_before, VALUES, NULL),
    SEEN(KV_STATE, rows_of_before, BOTH, NULL),
    SEEN(KV_STATE, rows_of_behind, KEYS, NULL),
    SEEN(KV_STATE, rows_of_behind, VALUES, NULL),
    SEEN(KV_STATE, rows_of_behind, BOTH, NULL),
    SEEN(KV_STATE, own_row_stale, KEYS, NULL),
    SEEN(KV_STATE, own_row_stale, VALUES, NULL),
    SEEN(KV_STATE, own_row_stale, BOTH, NULL),
    SEEN(KV_STATE, one_row_stale, 0, NULL),
    SEEN(KV_STATE, one_row_empty, 0, NULL),
    SEEN(KV_STATE, rows_of_layer, KEYS, NULL),
    SEEN(KV_STATE, rows_of_layer, VALUES, NULL),
    SEEN(KV_STATE, rows_of_layer, BOTH, NULL),
    SEEN(KV_STATE, rows_of_layer, 4 + KEYS, NULL),
    SEEN(KV_STATE, rows_of_layer, 4 + VALUES, NULL),
    SEEN(KV_STATE, rows_of_layer, 4 + BOTH, NULL),
    SEEN(KV_STATE, rows_of_sequence, 0, "rows of another sequence"),
    SEEN(KV_STATE, rows_of_sequence, 1, "rows of a further sequence"),
    SEEN(KV_STATE, rows_swapped, 0, "keys and values swapped"),
    SEEN(KV_STATE, keys_not_turned, 0, "keys before their rotation"),
    SEEN(KV_STATE, keys_turned_twice, 0, "keys turned twice"),
    SEEN(KERNEL_MATH, not_divided, 0, "not divided by the sum of the softmax"),
    SEEN(KERNEL_MATH, one_key_more, 0, "one key more, of score and value 0"),
    SEEN(KERNEL_MATH, not_rescaled, 0, "tiles not scaled to the new maximum"),
    SEEN(PRECISION_POLICY, scores_rounded, PRECISION_F16, "scores in binary16"),
    SEEN(PRECISION_POLICY, scores_rounded, PRECISION_BF16, "scores in bfloat16"),
    SEEN(PRECISION_POLICY, values_rounded, PRECISION_F16, "sums of values in binary16"),
    SEEN(PRECISION_POLICY, values_rounded, PRECISION_BF16, "sums of values in bfloat16"),
    SEEN(PRECISION_POLICY, cache_narrow, PRECISION_F16, "cache in binary16"),
    SEEN(PRECISION_POLICY, cache_narrow, PRECISION_BF16, "cache in bfloat16"),
    SEEN(PRECISION_POLICY, cache_narrow, PRECISION_E4M3, "cache in 8 bits (e4m3)"),
    OTHER_ORDER(ATTENTION_TWO_PASS, "all scores first"),
    OTHER_ORDER(ATTENTION_NO_MAX, "no maximum taken off"),
    OTHER_ORDER(ATTENTION_F64, "in binary64"),
};

const hypothesis_table changes_attention = {rows, sizeof rows / sizeof *rows};
