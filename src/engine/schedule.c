/* schedule.c - which thread computes what, and where threads must wait for each other.
 *
 * The list is cut into groups of consecutive ops. Within a group a thread reads, of what the group
 * has written, only what it wrote itself, so one barrier at the end of the group is enough: gate,
 * up, their product and its quantised form are one group, since the thread that made columns
 * [a, b) of one makes the same columns of the next. Every result is a function of its operands
 * alone, so where the cuts lie changes no bit.
 *
 * Two schedules exist per list. A pass of one row leaves rows that need all of it (norms) to the
 * caller, and deals rotation, cache and attention by kv heads. A pass of many rows deals norms by
 * tokens, and attention by blocks of tokens.
 */
#include "engine/engine.h"

#include <stdlib.h>

#define COLUMNS 32 /* of a matrix product per part: a block of the quantiser, two tiles of rows */

span share(int64_t n, int32_t thread, int32_t n_thread)
{
    return (span){n * thread / n_thread, n * (thread + 1) / n_thread};
}

static op_split part_split(int32_t n_part, int32_t width)
{
    return (op_split){SPLIT_PARTS, n_part, (width + n_part - 1) / n_part};
}

/* The split of an op that reads nothing its group has written. */
static op_split split_alone(const greta_session *s, const op_list *list, const op *o, int is_single)
{
    int32_t width = list->edge[o->out[0]].width, n_head_kv = s->model->cfg.n_head_kv;
    switch (o->kind) {
    case OP_MATMUL:
        return (op_split){SPLIT_PARTS, (width + COLUMNS - 1) / COLUMNS, COLUMNS};
    case OP_EXPERT_MATMUL: /* columns of every expert's part of a row */
        width /= o->n_expert_used;
        return (op_split){SPLIT_PARTS, (width + COLUMNS - 1) / COLUMNS, COLUMNS};
    case OP_HEAD_NORM:
    case OP_ROPE:
    case OP_KV_STORE:
    case OP_ATTENTION:
        if (is_single) {
            return part_split(n_head_kv, width);
        }
        return (op_split){o->kind == OP_ATTENTION ? SPLIT_BLOCKS : SPLIT_TOKENS, 0, 0};
    default:
        return (op_split){is_single ? SPLIT_CALLER : SPLIT_TOKENS, 0, 0};
    }
}

/* Ops whose every output column depends on the same column, or block, of their inputs. */
static int is_columnwise(const op *o)
{
    return o->kind == OP_QUANTIZE || o->kind == OP_ADD || o->kind == OP_GLU ||
           o->kind == OP_SCALE || o->kind == OP_SOFTCAP;
}

/* The edge that input `in` reads of this pass and that an op of [first, i) wrote; -1: none. */
static int32_t read_in_group(const op_list *list, const op *o, int in, int32_t first)
{
    const op_read *read = &o->in[in];
    int is_own = read->edge >= 0 && read->delay == READ_THIS_PASS &&
                 list->edge[read->edge].producer >= first;
    return is_own ? read->edge : -1;
}

/* The split that spares a wait, if there is one: that of the first input the group has written. */
static op_split split_choose(const greta_session *s, const op_list *list, const schedule *groups,
                             int32_t i, int32_t first)
{
    const op *o = &list->op[i];
    for (int in = 0; in < OP_IN_MAX && is_columnwise(o); in++) {
        int32_t e = read_in_group(list, o, in, first);
        if (e >= 0 && list->op[list->edge[e].producer].kind != OP_EXPERT_MATMUL) {
            op_split split = groups->split[list->edge[e].producer];
            int cuts_blocks = o->kind == OP_QUANTIZE && split.unit % ACT_BLOCK != 0;
            return cuts_blocks ? split_alone(s, list, o, groups->is_single) : split;
        }
    }
    return split_alone(s, list, o, groups->is_single);
}

/* Are the parts of two edges the same ones: equal columns, or equal shares of rows of any width? */
static int parts_match(op_split a, int32_t a_width, op_split b, int32_t b_width)
{
    int are_whole = a.unit * a.n_part == a_width && b.unit * b.n_part == b_width;
    return a.n_part == b.n_part && (are_whole || (a.unit == b.unit && a_width == b_width));
}

/* What the op reads of the group's work was written by the thread that reads it. */
static int reads_own(const op_list *list, const schedule *groups, int32_t i, int32_t first)
{
    const op *o = &list->op[i];
    op_split mine = groups->split[i];
    int needs_rows = o->kind == OP_MATMUL || o->kind == OP_RMS_NORM || o->kind == OP_EXPERT_MATMUL;
    for (int in = 0; in < OP_IN_MAX; in++) {
        int32_t e = read_in_group(list, o, in, first);
        if (e < 0) {
            continue;
        }
        const edge *in_edge = &list->edge[e], *out_edge = &list->edge[o->out[0]];
        op_split its = groups->split[in_edge->producer];
        int is_same = its.kind == mine.kind && in_edge->is_packed == out_edge->is_packed &&
                      parts_match(its, in_edge->width, mine, out_edge->width);
        int is_experts = list->op[in_edge->producer].kind == OP_EXPERT_MATMUL;
        if (!is_same || is_experts || mine.kind == SPLIT_BLOCKS ||
            (mine.kind == SPLIT_PARTS && needs_rows)) {
            return 0;
        }
    }
    return 1;
}

/* May op i join the group that starts at `first`? One norm a group: the pass keeps the inverse rms
 * of the last one only. Ops of an override stand alone: rows of one may run different ops. */
static int joins(const greta_session *s, const op_list *list, const schedule *groups, int32_t i,
                 int32_t first)
{
    int is_caller = groups->split[i].kind == SPLIT_CALLER;
    return list == &s->healthy && list->op[i].kind != OP_RMS_NORM &&
           is_caller == (groups->split[first].kind == SPLIT_CALLER) &&
           reads_own(list, groups, i, first);
}

greta_status schedule_build(const greta_session *s, const op_list *list, int is_single,
                            schedule *out, greta_error *err)
{
    size_t n = (size_t)list->n_op;
    *out = (schedule){.split = calloc(n, sizeof *out->split),
                      .end = calloc(n, sizeof *out->end),
                      .is_single = is_single};
    if (!out->split || !out->end) {
        schedule_free(out);
        return error_memory(err, "the schedule", n * sizeof *out->split);
    }
    int32_t first = 0;
    for (int32_t i = 0; i < list->n_op; i++) {
        out->split[i] = split_choose(s, list, out, i, first);
        if (i > first && !joins(s, list, out, i, first)) {
            first = i;
            out->split[i] = split_alone(s, list, &list->op[i], is_single);
        }
        for (int32_t member = first; member <= i; member++) {
            out->end[member] = i + 1;
        }
    }
    return GRETA_OK;
}

void schedule_free(schedule *groups)
{
    free(groups->split);
    free(groups->end);
    *groups = (schedule){0};
}
