/* op_check.c - the operands of one recorded op against what their producers wrote.
 *
 * Hashes decide. A row has one; a cache is as many rows as there are positions, and the record
 * holds their values, so that each row gets its own hash and a stale row names its position. Where
 * the values were not kept, a read of the cache is unknown, not intact.
 */
#include "explain/op_check.h"

#include "base/text.h"
#include "explain/norm_side.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_hashed(row_hash h)
{
    return h.ordered != 0 || h.bag != 0;
}

static size_t value_bytes(dtype type)
{
    return type == DTYPE_F16 ? 2 : 4;
}

/* ---- What should have been read -------------------------------------------------------------- */

bool run_cache_row(const run_site *run, stage name, int32_t layer, int32_t position, row_hash *hash)
{
    const trace_record *any = run->site->any;
    row_place at = {name, layer, any->sequence, position, any->pass};
    if (catalog_stored(run->own, &at, hash)) {
        return true;
    }
    at.pass = INT64_MAX;
    return run->earlier && catalog_stored(run->earlier, &at, hash);
}

const void *cache_row_read(const trace_tensor *read, int64_t width, int32_t position)
{
    bool is_kept = read->data && read->n_kept == read->n &&
                   (read->type == DTYPE_F16 || read->type == DTYPE_F32);
    bool is_there = width > 0 && position >= 0 && (int64_t)position < read->n / width;
    return is_kept && is_there && read->n % width == 0
               ? (const uint8_t *)read->data +
                     (size_t)position * (size_t)width * value_bytes(read->type)
               : NULL;
}

static bool should_read(const run_site *run, const read_expected *e, row_hash *hash)
{
    const trace_record *any = run->site->any;
    const trace_record *producer = site_record(run->site, e->name, e->layer);
    if (e->name == STAGE_TOKENS) {
        *hash = trace_values_hash(DTYPE_I32, &any->token, 1);
        return true;
    }
    if (producer && is_hashed(producer->out[0].hash)) {
        *hash = producer->out[0].hash;
        return true;
    }
    row_place at = {e->name, e->layer, any->sequence, any->position, any->pass};
    return catalog_written(run->own, &at, hash);
}

/* ---- Operands -------------------------------------------------------------------------------- */

static void row_judge(read_check *c)
{
    c->n_row = 1;
    c->first_broken = -1;
    c->state = !c->has_should || !is_hashed(c->read) ? READ_UNKNOWN
               : hash_equal(c->should, c->read)      ? READ_INTACT
                                                     : READ_BROKEN;
    c->n_broken = c->state == READ_BROKEN;
}

/* Rows whose values the record does not hold: all of them at once, by the hash of the whole read,
 * if every row was kept where it was written. */
static void cache_judge_whole(const run_site *run, const read_expected *e, const trace_tensor *read,
                              read_check *c)
{
    const catalog *in[3] = {run->own, run->earlier, run->other};
    int64_t width = read->n / c->n_row;
    row_hash whole = {0, 0};
    c->state = READ_UNKNOWN;
    for (int32_t p = 0; p < c->n_row; p++) {
        row_values row = {0};
        row_hash should;
        if (!run_cache_row(run, e->name, e->layer, p, &should)) {
            return;
        }
        for (int i = 0; i < 3 && !row.data; i++) {
            row = in[i] ? catalog_values(in[i], should) : row;
        }
        if (!row.data || row.type != read->type || row.n != width) {
            return;
        }
        trace_piece piece = {row.data, width, p * width, 1};
        trace_values_hash_add(&whole, read->type, &piece);
    }
    c->has_should = true;
    c->should = whole;
    c->read = read->hash;
    c->state = hash_equal(whole, read->hash) ? READ_INTACT : READ_BROKEN;
    c->n_broken = c->state == READ_BROKEN ? c->n_row : 0;
}

static void cache_judge(const run_site *run, const read_expected *e, const trace_tensor *read,
                        read_check *c)
{
    int32_t n = run->site->any->position + 1;
    int64_t width = read->n / n;
    *c = (read_check){.state = READ_INTACT, .n_row = n, .first_broken = -1};
    if (!cache_row_read(read, width, 0)) {
        cache_judge_whole(run, e, read, c);
        return;
    }
    for (int32_t p = 0; p < n; p++) {
        const void *values = read->n % n == 0 ? cache_row_read(read, width, p) : NULL;
        row_hash should, held;
        if (!values || !run_cache_row(run, e->name, e->layer, p, &should)) {
            c->state = c->n_broken > 0 ? READ_BROKEN : READ_UNKNOWN;
            return;
        }
        held = trace_values_hash(read->type, values, width);
        if (p == 0) {
            c->has_should = true;
            c->should = should;
            c->read = held;
        }
        if (!hash_equal(should, held) && c->n_broken++ == 0) {
            c->state = READ_BROKEN;
            c->first_broken = p;
            c->should = should;
            c->read = held;
        }
    }
}

/* The weight of this name as the model file holds it; {0, 0}: no record says. */
static row_hash file_weight(const catalog *c, const trace_record *of, const char *name)
{
    for (size_t i = 0; i < c->n_weight; i++) {
        const trace_head h = trace_head_of(c->trace, c->weight[i]);
        trace_record room;
        if (h.name == of->name && h.layer == of->layer) {
            const trace_record *r = trace_at(c->trace, c->weight[i], &room);
            if (r->n_weight > 0 && strcmp(r->weight[0].tensor, name) == 0) {
                return r->weight[0].hash;
            }
        }
    }
    return (row_hash){0, 0};
}

void op_check_reads(const run_site *run, const op_expected *op, op_check *out)
{
    const trace_record *r = site_record(run->site, op->name, op->layer);
    *out = (op_check){.record = r};
    if (!r) {
        return;
    }
    out->n_in = op->n_in;
    out->n_weight = op->n_weight;
    bool has_numbers = op->has_numbers && r->has_norm;
    out->is_eps_broken = has_numbers && r->eps != op->eps;
    out->is_count_broken = has_numbers && r->count != op->count;
    for (int32_t i = 0; i < op->n_in; i++) {
        read_check *c = &out->in[i];
        if (i < r->n_in && op->in[i].is_cache) {
            cache_judge(run, &op->in[i], &r->in[i], c);
            continue;
        }
        c->has_should = should_read(run, &op->in[i], &c->should);
        c->read = i < r->n_in ? r->in[i].hash : (row_hash){0, 0};
        row_judge(c);
    }
    for (int32_t i = 0; i < op->n_weight; i++) {
        read_check *c = &out->weight[i];
        c->should = file_weight(run->own, r, op->weight[i]);
        c->has_should = is_hashed(c->should);
        c->read = i < r->n_weight ? r->weight[i].hash : (row_hash){0, 0};
        row_judge(c);
    }
}

bool op_check_is_broken(const op_check *c)
{
    bool is_broken = c->is_eps_broken || c->is_count_broken;
    for (int32_t i = 0; i < c->n_in; i++) {
        is_broken = is_broken || c->in[i].state == READ_BROKEN;
    }
    for (int32_t i = 0; i < c->n_weight; i++) {
        is_broken = is_broken || c->weight[i].state == READ_BROKEN;
    }
    return is_broken;
}
