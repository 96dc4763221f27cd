/* agree.h - whether records of a trace agree with each other. */
#ifndef GRETA_TRACE_AGREE_H
#define GRETA_TRACE_AGREE_H

#include "trace/trace.h"

/* GRETA_BAD_INPUT, with the line of the index: it has another hash for a row than the record of
 * that row. Rows and indexes without hashes are not held to anything. */
greta_status trace_agree(const trace *t, greta_error *err);

#endif
