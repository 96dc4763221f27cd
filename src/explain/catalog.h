/* catalog.h - a trace made searchable: who wrote what, and where else a content was seen.
 *
 * Two orders over the records of one trace, made once: by place (stage, layer), and by content
 * hash. Every question below costs a binary search, whatever the trace holds. Needs no model and
 * no engine.
 */
#ifndef GRETA_EXPLAIN_CATALOG_H
#define GRETA_EXPLAIN_CATALOG_H

#include "explain/norm.h"
#include "trace/trace.h"

/* One row somewhere in the trace: written by an op (a ROW record's output, or a hash of an INDEX),
 * kept by one that read it, or a weight of the model file. */
typedef enum sighting_kind { SIGHTING_WRITTEN, SIGHTING_READ, SIGHTING_WEIGHT } sighting_kind;

typedef struct sighting {
    row_hash content;
    uint32_t record; /* its number in the trace */
    int32_t row;     /* INDEX: of its hashes; else 0 */
    uint8_t kind;    /* sighting_kind */
    int8_t part;     /* of out, in or weight; INDEX: -1 */
} sighting;

/* A row that an op wrote: the output of a ROW, or hash `row` of an INDEX. */
typedef struct written_row {
    uint32_t record;
    int32_t row;
} written_row;

typedef struct catalog {
    const trace *trace;
    sighting *sighting; /* (n_sighting) by bag, then ordered hash, then record */
    written_row
        *written; /* (n_written) by place, sequence, position, pass; a ROW before an INDEX */
    size_t n_sighting, n_sighting_max, n_written;
    uint32_t *weight; /* (n_weight) WEIGHT records */
    size_t n_weight;
} catalog;

/* A row that was kept in full; data NULL: none. */
typedef struct row_values {
    dtype type;
    int64_t n;
    const void *data;
} row_values;

greta_status catalog_new(const trace *t, catalog *out, greta_error *err);
void catalog_free(catalog *c); /* a zeroed one is fine */

/* Which row of an op is meant: what it wrote for this position of this sequence. */
typedef struct row_place {
    stage name;
    int32_t layer, sequence, position;
    int64_t pass;
} row_place;

/* What was written there, in that pass; false: no record says. */
bool catalog_written(const catalog *c, const row_place *at, row_hash *hash);
/* The same of the latest pass up to at->pass: what a cache row held. */
bool catalog_stored(const catalog *c, const row_place *at, row_hash *hash);
/* A row kept in full with this content. */
row_values catalog_values(const catalog *c, row_hash content);
/* Sightings with this content; any_order: with these values in any order. */
const sighting *catalog_find(const catalog *c, row_hash content, bool any_order, size_t *n);

/* ---- One token of one run --------------------------------------------------------------------
 */

/* What one pass wrote for one token: the row of the op of each stage. */
typedef struct site {
    const trace *trace;          /* NULL: there is no such row */
    const trace_record *any;     /* one of them: token, position, pass */
    const trace_record *twice;   /* a second record of one stage and layer; NULL: none */
    const trace_record **record; /* (n_layer + 1, STAGE_COUNT), row 0 outside the layers */
    trace_record *room;          /* of them, where the trace holds none */
} site;

static inline const trace_record *site_record(const site *s, stage name, int32_t layer)
{
    return s->trace && layer < s->trace->header.n_layer
               ? s->record[(size_t)(layer + 1) * STAGE_COUNT + (size_t)name]
               : NULL;
}

/* Files the records of the row of `any` by stage and layer. Free with site_free. */
greta_status site_new(const trace *t, const trace_record *any, site *out, greta_error *err);
void site_free(site *s);

/* The tokens of a trace: one site for each position of a sequence in a pass. */
typedef struct site_list {
    const trace *trace;
    uint32_t *row;            /* ROW records by pass, sequence, position */
    size_t *first;            /* (n + 1) first row of each site */
    size_t n;
} site_list;

greta_status site_list_new(const trace *t, site_list *out, greta_error *err);
void site_list_free(site_list *list); /* a zeroed one is fine */
/* Which site ROW record i of the trace belongs to. */
size_t site_list_of(const site_list *list, uint32_t i);
greta_status site_list_open(const site_list *list, size_t i, site *out, greta_error *err);

#endif
