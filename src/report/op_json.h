/* op_json.h - the parts of analysis.json that speak of ops. NULL: memory ran out. */
#ifndef GRETA_REPORT_OP_JSON_H
#define GRETA_REPORT_OP_JSON_H

#include "report/analysis.h"

#include <jansson.h>

json_t *json_ops(const op_findings *f);
json_t *json_judged(const op_coverage *c); /* null without a model */
json_t *json_canaries(const op_canaries *c);
json_t *json_effect(const logit_effect *e); /* null where no logit differs */
json_t *json_growth(const op_findings *f);

#endif
