/* tables.h - the two tables of an analysis, each defined once and written in three ways.
 *
 * The norm table has the columns of the reference report, led by prompt and layer. The stage table
 * has every stage in execution order; a window of it shows what stands around a first divergence.
 */
#ifndef GRETA_REPORT_TABLES_H
#define GRETA_REPORT_TABLES_H

#include "report/report.h"

typedef enum table_style {
    TABLE_TEXT, /* aligned columns */
    TABLE_TSV,
    TABLE_MARKDOWN,
} table_style;

void table_norms(text *t, const analysis *a, table_style style);
/* All prompts, all stages. */
void table_stages(text *t, const analysis *a, table_style style);
/* The stages around a prompt's first divergence; returns how many rows. */
size_t table_window(text *t, const analysis_prompt *p, table_style style);

#endif
