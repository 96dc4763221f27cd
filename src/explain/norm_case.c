/* norm_case.c - what a recorded norm should have had, and where what it did have came from.
 *
 * The op's own record is never asked what it should have read: a faulty run names the wrong edge
 * in good faith. The stage that feeds a norm follows from the order of stages (norm_reads), its
 * row of this token from the records of the same pass. Values are then looked up by content hash:
 * a row that one record does not keep is usually kept by another, in this trace or in the other
 * side's.
 */
#include "explain/norm_side.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

stage norm_reads(stage name, int32_t layer, int32_t n_layer, bool has_embed_scaled,
                 int32_t *layer_read)
{
    *layer_read = layer;
    switch (name) {
    case STAGE_ATTN_NORM:
        *layer_read = layer - 1;
        if (layer > 0) {
            return STAGE_X_AFTER_MLP;
        }
        return has_embed_scaled ? STAGE_EMBED_SCALED : STAGE_EMBED;
    case STAGE_FFN_NORM:
        return STAGE_X_AFTER_ATTN;
    case STAGE_FINAL_NORM:
        *layer_read = n_layer - 1;
        return STAGE_X_AFTER_MLP;
    case STAGE_ATTN_POST_NORM:
        return STAGE_WO_OUT;
    case STAGE_FFN_POST_NORM:
        return STAGE_MLP_OUT;
    default:
        return STAGE_NONE;
    }
}

const char *norm_place(stage name, int32_t layer, char out[FINDING_TEXT])
{
    if (stage_is_per_layer(name)) {
        snprintf(out, FINDING_TEXT, "%s layer %d", stage_name(name), (int)layer);
    } else {
        snprintf(out, FINDING_TEXT, "%s", stage_name(name));
    }
    return out;
}

/* ---- Looking up --------------------------------------------------------------------------- */

static bool trace_has_stage(const trace *t, stage name)
{
    for (size_t i = 0; i < t->n_record; i++) {
        if (t->record[i].name == name) {
            return true;
        }
    }
    return false;
}

/* Hash of an INDEX record's row, of its consecutive positions; false: it has no such row. */
static bool index_hash(const trace_record *index, int64_t row, row_hash *hash)
{
    const trace_tensor *out = &index->out[0];
    if (row < 0 || row >= index->chunk_rows || !out->data ||
        out->blob_bytes < (uint64_t)index->chunk_rows * sizeof *hash) {
        return false;
    }
    memcpy(hash, (const row_hash *)out->data + row, sizeof *hash);
    return true;
}

/* What (stage, layer) wrote for the row of `of`, in the pass of `of`. */
static bool produced_hash(const trace *t, const trace_record *of, stage name, int32_t layer,
                          row_hash *hash)
{
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        if (r->name != name || r->layer != layer || r->pass != of->pass || r->n_out < 1 ||
            r->sequence != of->sequence) {
            continue;
        }
        if (r->kind == TRACE_ROW && r->row == of->row) {
            *hash = r->out[0].hash;
            return true;
        }
        if (r->kind == TRACE_INDEX && index_hash(r, of->position - r->first_position, hash)) {
            return true;
        }
    }
    return false;
}

static const trace_record *weight_record(const trace *t, const trace_record *of)
{
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        if (r->kind == TRACE_WEIGHT && r->name == of->name && r->layer == of->layer &&
            r->n_weight > 0) {
            return r;
        }
    }
    return NULL;
}

static const trace_tensor *kept_row(const trace_tensor *list, int32_t n, row_hash content)
{
    for (int32_t i = 0; i < n; i++) {
        if (hash_equal(list[i].hash, content) && list[i].type == DTYPE_F32 && list[i].data &&
            list[i].n_kept == list[i].n) {
            return &list[i];
        }
    }
    return NULL;
}

static const trace_tensor *kept_in_record(const trace_record *r, row_hash content)
{
    const trace_tensor *found = NULL;
    if (r && r->kind != TRACE_INDEX) {
        found = kept_row(r->in, r->n_in, content);
        found = found ? found : kept_row(r->weight, r->n_weight, content);
        found = found ? found : kept_row(r->out, r->n_out, content);
    }
    return found;
}

/* A row kept in full with this content: in the two records, else anywhere in the two traces. */
static const trace_tensor *kept_anywhere(const norm_case *c, row_hash content)
{
    const trace_tensor *found = NULL;
    for (side s = SIDE_A; s < SIDE_COUNT && !found; s++) {
        found = kept_in_record(c->record[s], content);
    }
    for (side s = SIDE_A; s < SIDE_COUNT && !found; s++) {
        for (size_t i = 0; c->trace[s] && i < c->trace[s]->n_record && !found; i++) {
            found = kept_in_record(&c->trace[s]->record[i], content);
        }
    }
    return found;
}

/* The eps that all other norms of the traces were given; NAN if there is none or they disagree. */
static float eps_elsewhere(const norm_case *c)
{
    float eps = NAN;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        for (size_t i = 0; c->trace[s] && i < c->trace[s]->n_record; i++) {
            const trace_record *r = &c->trace[s]->record[i], *own = c->record[s];
            bool is_accused = !own || (r->name == own->name && r->layer == own->layer);
            if (r->kind != TRACE_ROW || !r->has_norm || is_accused) {
                continue;
            }
            if (!isnan(eps) && r->eps != eps) {
                return NAN;
            }
            eps = r->eps;
        }
    }
    return eps;
}

/* ---- Completing a case -------------------------------------------------------------------- */

static void side_complete(norm_case *c, side s)
{
    const trace_record *r = c->record[s];
    const trace *t = c->trace[s];
    c->operands[s] = (norm_operands){.record = r, .eps = c->eps, .head_dim = c->head_dim};
    if (!r || r->n_in < 1 || r->n_weight < 1) {
        return;
    }
    if (t && c->producer_stage != STAGE_NONE) {
        c->has_produced[s] =
            produced_hash(t, r, c->producer_stage, c->producer_layer, &c->produced[s]);
    }
    const trace_record *file = t ? weight_record(t, r) : NULL;
    if (file) {
        c->has_file_weight[s] = true;
        c->file_weight[s] = file->weight[0].hash;
    }
    /* Unknown proper operands: the op is at least judged on those it had. */
    c->operands[s].x = kept_anywhere(c, c->has_produced[s] ? c->produced[s] : r->in[0].hash);
    c->operands[s].weight =
        kept_anywhere(c, c->has_file_weight[s] ? c->file_weight[s] : r->weight[0].hash);
    c->operands[s].count = r->in[0].n;
}

void norm_case_complete(norm_case *c)
{
    c->producer_stage = STAGE_NONE;
    c->producer_layer = -1;
    for (side s = SIDE_A; s < SIDE_COUNT; s++) {
        c->has_produced[s] = c->has_file_weight[s] = false;
        const trace_record *r = c->record[s];
        const trace *t = c->trace[s];
        if (r && t && c->producer_stage == STAGE_NONE) {
            c->producer_stage = norm_reads(r->name, r->layer, t->header.n_layer,
                                           trace_has_stage(t, STAGE_EMBED_SCALED),
                                           &c->producer_layer);
        }
    }
    if (isnan(c->eps)) {
        c->eps = eps_elsewhere(c);
    }
    side_complete(c, SIDE_A);
    side_complete(c, SIDE_B);
}

/* ---- Provenance --------------------------------------------------------------------------- */

static int source_rank(const norm_case *c, const trace_tensor *read, const finding_source *source)
{
    if (source->name == read->name && source->layer == read->layer) {
        return 2;
    }
    return source->name == c->producer_stage ? 1 : 0;
}

typedef struct source_search {
    const norm_case *c;
    const trace_tensor *read; /* as the record names it */
    row_hash content;
    bool any_order;
    finding_source *best;
    int rank;
} source_search;

static void source_offer(source_search *search, const trace_record *r, int64_t row,
                         int32_t position)
{
    finding_source found = {.is_found = !search->any_order, .is_permuted = search->any_order,
                            .name = r->name, .layer = r->layer, .position = position,
                            .row = (int32_t)row, .pass = r->pass, .phase = r->phase,
                            .n_match = search->best->n_match + 1};
    int rank = source_rank(search->c, search->read, &found);
    if (search->best->n_match == 0 || rank > search->rank ||
        (rank == search->rank && found.pass >= search->best->pass)) {
        *search->best = found;
        search->rank = rank;
    } else {
        search->best->n_match++;
    }
}

static bool is_content(const source_search *search, row_hash hash)
{
    return hash.bag == search->content.bag &&
           (search->any_order || hash.ordered == search->content.ordered);
}

static void source_scan(source_search *search, const trace *t, trace_kind kind)
{
    for (size_t i = 0; i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        if (r->kind != kind || r->n_out < 1) {
            continue;
        }
        if (kind == TRACE_ROW && is_content(search, r->out[0].hash)) {
            source_offer(search, r, r->row, r->position);
        }
        row_hash hash;
        for (int64_t row = 0; kind == TRACE_INDEX && index_hash(r, row, &hash); row++) {
            if (is_content(search, hash)) {
                source_offer(search, r, r->row + row, r->first_position + (int32_t)row);
            }
        }
    }
}

void norm_source_find(const norm_case *c, side s, row_hash content, finding_source *out)
{
    *out = (finding_source){.name = STAGE_NONE, .layer = -1, .position = -1, .row = -1, .pass = -1};
    for (int i = 0; i < 4 && out->n_match == 0; i++) { /* own, other, and both in any order */
        bool is_other = i % 2 == 1;
        const trace *t = c->trace[is_other ? SIDE_B - s : s];
        if (!t || (is_other && t == c->trace[s])) {
            continue;
        }
        source_search search = {.c = c, .read = &c->record[s]->in[0], .content = content,
                                .any_order = i >= 2, .best = out, .rank = -1};
        source_scan(&search, t, TRACE_INDEX);
        if (out->n_match == 0) { /* a stage without an index: its selected rows */
            source_scan(&search, t, TRACE_ROW);
        }
        out->in_other_trace = is_other && out->n_match > 0;
    }
}

void norm_tensor_find(const norm_case *c, side s, finding_weight *out)
{
    const trace_record *own = c->record[s];
    const trace *t = c->trace[s];
    for (size_t i = 0; t && i < t->n_record; i++) {
        const trace_record *r = &t->record[i];
        if (r->kind == TRACE_WEIGHT && r->n_weight > 0 &&
            hash_equal(r->weight[0].hash, own->weight[0].hash)) {
            out->is_other_tensor = true;
            snprintf(out->tensor, sizeof out->tensor, "%s", r->weight[0].tensor);
            out->name = r->name;
            out->layer = r->layer;
            return;
        }
    }
}
