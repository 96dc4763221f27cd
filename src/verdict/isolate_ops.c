/* isolate_ops.c - every op of the model on both sides of isolate's pair (op_pair.h).
 *
 * What is isolate's own is here: which trace goes on from which, and that both sides have one
 * contract, which the pairing has seen to.
 */
#include "verdict/isolate.h"
#include "verdict/op_pair.h"

#include <string.h>

static uint64_t cache_address(const trace_header *h)
{
    for (size_t i = 0; i < h->n_buffer; i++) {
        if (strcmp(h->buffer[i].name, "kv.k.0") == 0) {
            return h->buffer[i].address;
        }
    }
    return 0;
}

/* Whether b's session went on from a's: then cache rows it read can be in a's trace. */
static bool is_same_session(const trace_header *a, const trace_header *b)
{
    return a->process == b->process && cache_address(a) != 0 &&
           cache_address(a) == cache_address(b);
}

greta_status isolate_judge_ops(const isolate_side sides[SIDE_COUNT], const isolate_terms *terms,
                               analysis_prompt *out, greta_error *err)
{
    const trace_header *a = &sides[SIDE_A].trace->header, *b = &sides[SIDE_B].trace->header;
    if (!terms->model || model_file_hash(terms->model) != a->model_hash) {
        return GRETA_OK;
    }
    catalog catalogs[SIDE_COUNT] = {{0}, {0}};
    op_plan plan = {0};
    greta_status status = catalog_new(sides[SIDE_A].trace, &catalogs[SIDE_A], err);
    status = status ? status : catalog_new(sides[SIDE_B].trace, &catalogs[SIDE_B], err);
    status = status ? status : op_plan_new(terms->model, a, &plan, err);
    if (status == GRETA_OK) {
        op_pair p = {.side = {&sides[SIDE_A], &sides[SIDE_B]},
                     .catalog = {&catalogs[SIDE_A], &catalogs[SIDE_B]},
                     .plan = {&plan, &plan},
                     .is_one_session = is_same_session(a, b),
                     .has_canaries = true,
                     .norm = out->norm,
                     .n_norm = out->n_norm};
        status = op_pair_judge(&p, &out->ops, err);
        out->ops.judged.n_site = out->ops.judged.n_site_judged = 1;
    }
    op_plan_free(&plan);
    catalog_free(&catalogs[SIDE_A]);
    catalog_free(&catalogs[SIDE_B]);
    return status;
}
