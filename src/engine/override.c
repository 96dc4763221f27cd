/* override.c - another list instead of the healthy one, for a phase, an op, a row.
 *
 * Faults are planted and tensors patched in a copy of the op list. It has the same ops and edges,
 * so one plan serves both, and a pass can run one op by the copy and by the healthy list side by
 * side, row by row: that is how a trigger works. Ops of an override are not grouped (schedule.c),
 * since what its rows read is not what the groups were made for.
 */
#include "engine/device.h"

const op_list *session_list(const greta_session *s, greta_phase phase)
{
    int is_overridden = s->override.op != NULL && (s->override_phases & (1u << phase)) != 0;
    return is_overridden ? &s->override : &s->healthy;
}

const op_list *session_ops(const greta_session *s, greta_phase phase)
{
    return session_list(s, phase);
}

const struct greta_model *session_model(const greta_session *s)
{
    return s->model;
}

const kernel_table *session_table(const greta_session *s, const op *o)
{
    return o->table > 0 && s->alternate ? &s->alternate[o->table - 1] : s->table;
}

const char *session_kernel(const greta_session *s, const op *o)
{
    return s->device ? s->device->plugin->name : session_table(s, o)->name;
}

const float *session_cos_sin(const greta_session *s, const op *o, int32_t position)
{
    int is_other = o->rope_table >= ROPE_TABLE_OTHER && s->alternate_cos_sin;
    const float *table = is_other ? s->alternate_cos_sin[o->rope_table - ROPE_TABLE_OTHER]
                                  : s->cos_sin[o->rope_table];
    return table + (int64_t)position * o->rope_dim;
}

/* ---- Rows --------------------------------------------------------------------------------------
 */

static int has_next(const greta_session *s, int64_t row)
{
    return row + 1 < s->n_row && s->row[row + 1].sequence == s->row[row].sequence;
}

/* The sequence began in an earlier pass: the first of its rows here is not its position 0. */
static int is_later_chunk(const greta_session *s, int64_t row)
{
    int64_t first = row;
    while (first > 0 && s->row[first - 1].sequence == s->row[row].sequence) {
        first--;
    }
    return s->row[first].position > 0;
}

static int trigger_holds(const greta_session *s, const op_trigger *g, int64_t row)
{
    const greta_row *at = &s->row[row];
    int64_t n = s->n_row;
    return (g->phases == 0 || (g->phases & (1u << s->phase)) != 0) &&
           at->position >= g->position_min && row >= g->row_min &&
           (g->tail_of == 0 || row >= n - n % g->tail_of) &&
           (g->length_of == 0 || n % g->length_of == g->length_rest) &&
           (!g->is_warm || s->generation[row_slot(s, at)] > 1) &&
           (!g->is_later_chunk || is_later_chunk(s, row)) && (!g->has_next || has_next(s, row));
}

int op_is_uniform(const op *o)
{
    int is_shifted = 0;
    for (int i = 0; i < OP_IN_MAX; i++) {
        is_shifted |= o->in[i].edge >= 0 && o->in[i].delay == READ_THIS_PASS && o->in[i].row != 0;
    }
    return o->trigger == 0 && !is_shifted;
}

/* Is there what input `in` reads for token t? */
static int read_exists(const greta_session *s, const op *o, int in, int64_t t)
{
    const op_read *read = &o->in[in];
    const edge *e = &s->healthy.edge[read->edge];
    int64_t row = op_row(s, o, t);
    if (read->delay == READ_PREVIOUS_PASS) {
        int64_t from = read->row < 0 ? s->n_row_previous + read->row : read->row;
        return from >= 0 && from < s->n_row_previous;
    }
    if (e->is_cache) {
        int32_t sequence = sequence_read(o, in, &s->row[row]);
        return sequence >= 0 && sequence < s->options.n_sequence &&
               s->n_cached[sequence] > s->row[row].position;
    }
    int64_t at = (e->is_packed ? t : row) + read->row, n = e->is_packed ? s->n_want : s->n_row;
    return at >= 0 && at < n;
}

const op *session_op(const greta_session *s, const op *o, int64_t t)
{
    if (op_is_uniform(o)) {
        return o;
    }
    int runs = o->trigger == 0 || trigger_holds(s, &s->trigger[o->trigger - 1], op_row(s, o, t));
    for (int i = 0; i < OP_IN_MAX && runs; i++) {
        runs = o->in[i].edge < 0 || read_exists(s, o, i, t);
    }
    return runs ? o : &s->healthy.op[o - s->override.op];
}

const greta_row *token_read(const greta_session *s, const op *o, int64_t t)
{
    const op_read *read = &o->in[0];
    if (read->delay == READ_PREVIOUS_PASS) {
        return &s->row_previous[read->row < 0 ? s->n_row_previous + read->row : read->row];
    }
    return &s->row[t + read->row];
}

/* ---- The override ------------------------------------------------------------------------------
 */

/* What a pass left behind is gone with the old buffers. */
static greta_status plan_replace(greta_session *s, const op_list *override, greta_error *err)
{
    plan replanned;
    uint8_t *memory = NULL;
    GRETA_TRY(plan_build(s, &s->healthy, override, &replanned, err));
    greta_status status = s->device ? device_plan_new(s, &replanned, &memory, err) : GRETA_OK;
    if (status != GRETA_OK) {
        plan_free(&replanned);
        return status;
    }
    if (s->device) {
        device_plan_drop(s);
    }
    plan_free(&s->plan);
    s->plan = replanned;
    if (s->device) {
        device_plan_take(s, memory);
    }
    s->n_row_previous = 0;
    s->n_want = 0;
    s->logits = NULL;
    return GRETA_OK;
}

greta_status session_replan(greta_session *s, greta_error *err)
{
    return plan_replace(s, &s->override, err);
}

static void override_replace(greta_session *s, const session_override *override,
                             const op_list *copy, const device_ops *ops)
{
    op_list_free(&s->override);
    s->override = *copy;
    s->override_phases = override ? override->phases : 0;
    s->alternate = override ? override->table : NULL;
    s->trigger = override ? override->trigger : NULL;
    s->alternate_cos_sin = override ? override->cos_sin : NULL;
    if (s->device) {
        device_ops_free(s->device, &s->device->override);
        s->device->override = *ops;
    }
}

greta_status session_override_set(greta_session *s, const session_override *override,
                                  greta_error *err)
{
    op_list copy = {0};
    device_ops ops = {0};
    greta_status status = GRETA_OK;
    if (override) {
        GRETA_TRY(op_list_copy(override->list, &copy, err));
        GRETA_ASSERT(copy.n_edge == s->healthy.n_edge && copy.n_op == s->healthy.n_op);
        status = s->device ? device_override_new(s, override, &ops, err) : GRETA_OK;
    }
    if (status == GRETA_OK) {
        status = plan_replace(s, &copy, err);
    }
    if (status != GRETA_OK) {
        op_list_free(&copy);
        if (s->device) {
            device_ops_free(s->device, &ops);
        }
        return status;
    }
    override_replace(s, override, &copy, &ops);
    return GRETA_OK;
}
