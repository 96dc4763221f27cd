/* logits.c - see logits.h.
 *
 * Bits are written as hexadecimal of the little-endian bytes, because a decimal is a second
 * rounding for a reader to get wrong. The list of the highest is exact in order: ties go to the
 * lower id, as in the greedy sampler, and a NaN is never among them.
 */
#include "logits.h"

#include <stdlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are written as they lie in memory");

static json_t *top_list(const float *logits, int32_t n_vocab, int32_t n_top)
{
    int32_t *best = malloc((size_t)n_top * sizeof *best);
    int32_t n = 0;
    json_t *list = best ? json_array() : NULL;
    for (int32_t id = 0; list && id < n_vocab; id++) {
        bool is_number = logits[id] == logits[id];
        if (!is_number || (n == n_top && !(logits[id] > logits[best[n - 1]]))) {
            continue;
        }
        int32_t i = n < n_top ? n++ : n - 1;
        for (; i > 0 && logits[id] > logits[best[i - 1]]; i--) {
            best[i] = best[i - 1];
        }
        best[i] = id;
    }
    for (int32_t i = 0; list && i < n; i++) {
        json_array_append_new(list, json_pack("{s:i, s:o}", "id", best[i], "logit",
                                              json_number((double)logits[best[i]])));
    }
    free(best);
    return list;
}

greta_status logits_keep(void *user, int32_t position, const float *logits, greta_error *err)
{
    logits_keeper *keeper = user;
    size_t bytes = (size_t)keeper->n_vocab * sizeof *logits;
    bool is_chosen = !keeper->chosen || keeper->chosen[position];
    greta_status status = GRETA_OK;
    json_t *row = NULL;
    if (is_chosen && keeper->file.stream) {
        status = output_file_write(&keeper->file, logits, bytes, err);
        row = keeper->list ? json_pack("{s:i, s:I}", "position", position, "row",
                                       (json_int_t)keeper->n_row)
                           : NULL;
        keeper->n_row++;
    } else if (is_chosen && keeper->bits && keeper->list) {
        row = json_pack("{s:i, s:o}", "position", position, "bits", json_hex(logits, bytes));
    }
    if (row && json_array_append_new(keeper->list, row)) {
        return fail_memory(err);
    }
    if (!status && is_chosen && keeper->top && keeper->n_top > 0) {
        json_t *top = json_pack("{s:i, s:o}", "position", position, "top",
                                top_list(logits, keeper->n_vocab, keeper->n_top));
        status = json_array_append_new(keeper->top, top) ? fail_memory(err) : GRETA_OK;
    }
    return status;
}
