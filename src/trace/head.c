/* head.c - what of a record orders, pairs and finds it, in a fortieth of the record's size.
 *
 * A trace of all rows of a long prompt has millions of records. What is kept of each is its head;
 * the record is read again from its line when somebody looks at it.
 */
#include "trace/trace.h"

#include <string.h>
#include <xxhash.h>

#define TENSOR_WORDS 6
#define RECORD_WORDS 5
#define TENSORS_MAX  (TRACE_IN_MAX + TRACE_WEIGHT_MAX + TRACE_OUT_MAX)

/* Two words of 32 bits. */
static uint64_t joined(uint32_t high, uint32_t low)
{
    return (uint64_t)high << 32 | low;
}

/* What two tensors must share to be equal; false: one without a hash, of which nothing is known. */
static bool words_of_tensor(const trace_tensor *t, uint64_t *words)
{
    words[0] = joined((uint32_t)t->type, hash_float_bits(t->min));
    words[1] = joined(hash_float_bits(t->max), hash_float_bits(t->sumsq));
    words[2] = (uint64_t)t->n;
    words[3] = t->n_nonfinite;
    words[4] = t->hash.ordered;
    words[5] = t->hash.bag;
    return t->hash.ordered != 0 || t->hash.bag != 0;
}

static uint64_t body_of(const trace_record *r)
{
    uint64_t words[RECORD_WORDS + TENSOR_WORDS * TENSORS_MAX] = {
        joined((uint32_t)r->n_in, (uint32_t)r->n_weight),
        joined((uint32_t)r->n_out, (uint32_t)r->has_norm)};
    const trace_tensor *list[] = {r->in, r->weight, r->out};
    const int32_t length[] = {r->n_in, r->n_weight, r->n_out};
    size_t n = RECORD_WORDS;
    if (r->has_norm) {
        words[2] = joined(hash_float_bits(r->eps), hash_float_bits(r->inv_rms));
        words[3] = (uint64_t)r->count;
    }
    for (int k = 0; k < 3; k++) {
        for (int32_t i = 0; i < length[k]; i++, n += TENSOR_WORDS) {
            if (!words_of_tensor(&list[k][i], &words[n])) {
                return 0;
            }
        }
    }
    uint64_t body = XXH64(words, n * sizeof *words, 0);
    return body != 0 ? body : 1;
}

trace_head trace_head_new(const trace_record *r)
{
    const trace_tensor *t = r->kind == TRACE_WEIGHT ? &r->weight[0] : &r->out[0];
    bool is_index = r->kind == TRACE_INDEX;
    bool is_whole = is_index || t->n_kept == t->n;
    return (trace_head){
        .prefix = r->prefix,
        .pass = r->pass,
        .content = t->hash,
        .body = r->kind == TRACE_ROW ? body_of(r) : 0,
        .values = is_whole ? t->data : NULL,
        .n = is_index ? r->chunk_rows : t->n,
        .sequence = r->sequence,
        .position = is_index ? r->first_position : r->position,
        .row = r->row,
        .layer = r->layer,
        .name = (uint8_t)r->name,
        .kind = (uint8_t)r->kind,
        .phase = (uint8_t)r->phase,
        .type = t->type,
    };
}

trace_head trace_head_of(const trace *t, size_t i)
{
    return t->head != NULL ? t->head[i] : trace_head_new(&t->record[i]);
}
