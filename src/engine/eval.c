/* eval.c - a batch, checked and taken through one pass; feeding prompts in chunks; logits.
 *
 * Every refusal comes before anything is changed: the ops themselves cannot fail, so a batch that
 * was accepted is in the cache, and one that was refused left no trace there. Only a device can be
 * lost during a pass; its session is over then.
 */
#include "base/fpenv.h"
#include "engine/device.h"

#include <inttypes.h>
#include <string.h>

static greta_status batch_check_row(const greta_session *s, const greta_batch *batch, size_t i,
                                    greta_error *err)
{
    const greta_row *row = &batch->row[i];
    if (row->token < 0 || row->token >= s->model->cfg.n_vocab) {
        return error_set(err, GRETA_USAGE,
                         "token %" PRId32 " of row %zu is outside the vocabulary of %" PRId32,
                         row->token, i, s->model->cfg.n_vocab);
    }
    if (row->sequence < 0 || row->sequence >= s->options.n_sequence) {
        return error_set(err, GRETA_USAGE, "sequence %" PRId32 " of row %zu (0 to %" PRId32 ")",
                         row->sequence, i, s->options.n_sequence - 1);
    }
    int32_t expected = s->n_cached[row->sequence];
    for (size_t before = i; before-- > 0;) {
        if (batch->row[before].sequence == row->sequence) {
            expected = batch->row[before].position + 1;
            break;
        }
    }
    if (row->position != expected) {
        return error_set(err, GRETA_USAGE,
                         "row %zu has position %" PRId32 ", sequence %" PRId32
                         " continues at %" PRId32,
                         i, row->position, row->sequence, expected);
    }
    if (row->position >= s->options.n_ctx) {
        error_hint(err, "raise the context or shorten the prompt");
        return error_set(err, GRETA_USAGE,
                         "position %" PRId32 " is outside the context of %" PRId32, row->position,
                         s->options.n_ctx);
    }
    return GRETA_OK;
}

/* A delayed read needs a previous pass that has the row; one with a trigger goes without. */
static greta_status delays_check(const greta_session *s, greta_phase phase, greta_error *err)
{
    const op_list *list = session_list(s, phase);
    for (int32_t i = 0; i < list->n_op; i++) {
        for (int in = 0; in < OP_IN_MAX; in++) {
            const op_read *read = &list->op[i].in[in];
            int64_t row = read->row < 0 ? s->n_row_previous + read->row : read->row;
            if (read->edge >= 0 && read->delay == READ_PREVIOUS_PASS && list->op[i].trigger == 0 &&
                (row < 0 || row >= s->n_row_previous)) {
                return error_set(err, GRETA_USAGE, "the previous pass has no row %" PRId32 " of %s",
                                 read->row, stage_name(list->edge[read->edge].name));
            }
        }
    }
    return GRETA_OK;
}

static void pass_begin(greta_session *s, const greta_batch *batch)
{
    s->phase = batch->phase;
    s->n_row = (int64_t)batch->n;
    s->n_want = 0;
    greta_row *previous = s->row;
    s->row = s->row_previous;
    s->row_previous = previous;
    memcpy(s->row, batch->row, batch->n * sizeof *s->row);
    for (int64_t t = 0; t < s->n_row; t++) {
        const greta_row *row = &s->row[t];
        int64_t slot = row_slot(s, row);
        s->prefix[slot] = hash_prefix(row->position == 0 ? 0 : s->prefix[slot - 1], row->token);
        s->generation[slot]++;
        s->n_cached[row->sequence] = row->position + 1;
        if (row->want_logits) {
            s->want[s->n_want++] = (int32_t)t;
        }
    }
}

greta_status greta_session_eval(greta_session *s, const greta_batch *batch, greta_error *err)
{
    if (batch->n < 1 || batch->n > (size_t)s->options.n_chunk) {
        return error_set(err, GRETA_USAGE, "a batch of %zu rows (1 to %" PRId32 ")", batch->n,
                         s->options.n_chunk);
    }
    for (size_t i = 0; i < batch->n; i++) {
        GRETA_TRY(batch_check_row(s, batch, i, err));
    }
    GRETA_TRY(delays_check(s, batch->phase, err));
    GRETA_TRY(s->device ? device_check(s->device, err) : GRETA_OK);
    if (s->capture) {
        GRETA_TRY(capture_reserve(s, batch, err));
    }
    uint32_t saved = fpenv_enter();
    pass_begin(s, batch);
    if (s->capture) {
        capture_pass(s);
    }
    greta_status status = s->device ? device_walk(s, err) : GRETA_OK;
    if (!s->device) {
        walk_list(s);
    }
    fpenv_leave(saved);
    if (status != GRETA_OK) { /* the device is lost, and all that was on it */
        s->n_want = 0;
        return status;
    }
    int32_t edge_of = op_list_edge(&s->healthy, STAGE_LOGITS, -1);
    const buffer *b = &s->plan.buffer[s->plan.slot[2 * edge_of + (s->pass & 1)]];
    s->logits = (const float *)(const void *)b->base;
    s->logits_stride = b->stride / sizeof(float);
    s->n_row_previous = s->n_row;
    s->pass++;
    return GRETA_OK;
}

greta_status greta_session_feed(greta_session *s, const int32_t *id, size_t n, int32_t from,
                                greta_error *err)
{
    GRETA_TRY(greta_session_drop(s, 0, from, err));
    if (n > (size_t)(s->options.n_ctx - from)) {
        return error_set(err, GRETA_USAGE,
                         "%zu tokens from position %" PRId32 " exceed the context of %" PRId32, n,
                         from, s->options.n_ctx);
    }
    greta_row *row = s->feed;
    for (size_t done = 0; done < n;) {
        size_t size = n - done < (size_t)s->options.n_chunk ? n - done : (size_t)s->options.n_chunk;
        for (size_t i = 0; i < size; i++) {
            row[i] = (greta_row){.token = id[done + i],
                                 .position = from + (int32_t)(done + i),
                                 .want_logits = done + i + 1 == n};
        }
        greta_batch batch = {row, size, GRETA_PHASE_PREFILL};
        GRETA_TRY(greta_session_eval(s, &batch, err));
        done += size;
    }
    return GRETA_OK;
}

const float *greta_session_logits(const greta_session *s, size_t k)
{
    return k < (size_t)s->n_want && s->logits ? s->logits + k * s->logits_stride : NULL;
}
