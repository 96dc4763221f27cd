/* tsv.c - both tables as tab-separated values, for spreadsheets and awk.
 *
 * Two blocks, each: a comment line, a line of titles, rows, each line ended by a newline; an
 * empty line between them. No cell holds a tab or a newline (what came from outside is escaped).
 * The columns are described in docs/isolate.md.
 */
#include "report/tables.h"

void report_tsv(text *t, const analysis *a)
{
    text_string(t, "# norms: prefill_last against decode0\n");
    table_norms(t, a, TABLE_TSV);
    text_string(t, "\n# stages: in execution order\n");
    table_stages(t, a, TABLE_TSV);
}
