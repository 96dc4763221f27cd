/* op_cross.c - what one side's contract makes of the other side's operands: C_B(a).
 *
 * Where the contracts agree this is the op itself. Where they do not, a row that A never wrote is
 * made from A's rows by B's own op (its quantiser). Cache rows are read in the type in which A
 * holds them: what their rounding does is the policy of the op that stored them. So the policy of
 * an op is exactly what its contract does to the operands it is given, and nothing that came
 * before.
 *
 * With two models B's op has B's weights. What they alone do is asked in binary64: both weights on
 * one row, A's, its codes as the numbers they stand for; so no quantiser of rows takes part.
 */
#include "explain/terms.h"
#include "verdict/op_pair.h"

#include <stdlib.h>
#include <string.h>

typedef struct cross {
    const audit_terms *a;
    const op_plan *b;
    void **made; /* rows that were made, freed at the end */
    size_t n_made, n_made_max;
    greta_status status;
    greta_error *err;
} cross;

/* Whatever the trace of A holds, in A's own terms. */
static bool find_of_a(const cross *x, int32_t reader, stage name, int32_t layer, int64_t position,
                      op_operand *row)
{
    return op_audit_row(x->a, &x->b->expected[reader], name, layer, position, row);
}

static void *made_keep(cross *x, size_t bytes)
{
    if (x->n_made == x->n_made_max) {
        size_t n = x->n_made_max ? 2 * x->n_made_max : 64;
        void **grown = realloc(x->made, n * sizeof *grown);
        if (!grown) {
            x->status = error_memory(x->err, "rows", n * sizeof *grown);
            return NULL;
        }
        x->made = grown;
        x->n_made_max = n;
    }
    void *row = malloc(bytes ? bytes : 1);
    if (!row) {
        x->status = error_memory(x->err, "a row", bytes);
        return NULL;
    }
    x->made[x->n_made++] = row;
    return row;
}

typedef struct cross_finder {
    cross *x;
    int32_t reader; /* op of B's list */
} cross_finder;

static bool cross_find(void *user, stage name, int32_t layer, int64_t position, op_operand *row);

/* A row that only B's contract has: B's op on A's rows. */
static bool row_make(cross *x, int32_t producer, op_operand *row)
{
    cross_finder finder = {x, producer};
    op_rows rows = {cross_find, &finder};
    op_place at = {x->b->model,       &x->b->list, producer,  x->a->run.site->any->position,
                   x->b->contract.kv, x->b->n_ctx, x->a->work};
    char missing[OP_MISSING_MAX];
    op_case c;
    op_output y = {0};
    void *kept = NULL;
    if (op_case_build(&at, &rows, &c, x->err) != GRETA_OK) {
        x->status = GRETA_IO;
        return false;
    }
    if (op_case_check(&c, missing) && op_output_new(&c, &y, x->err) == GRETA_OK &&
        op_replay(op_replay_table(NULL), &c, &y, x->err) == GRETA_OK) {
        size_t bytes = op_row_bytes(y.type, y.n);
        kept = made_keep(x, bytes);
        if (kept) {
            memcpy(kept, y.values, bytes);
            *row = (op_operand){y.type, y.n, kept};
        }
    }
    op_output_free(&y);
    op_case_free(&c);
    return kept != NULL;
}

static bool cross_find(void *user, stage name, int32_t layer, int64_t position, op_operand *row)
{
    const cross_finder *finder = user;
    cross *x = finder->x;
    int32_t edge_of = op_list_edge(&x->b->list, name, layer);
    if (edge_of < 0 || x->status != GRETA_OK) {
        return false;
    }
    const edge *e = &x->b->list.edge[edge_of];
    dtype wanted = e->is_cache ? x->a->plan->contract.kv : e->type;
    if (find_of_a(x, finder->reader, name, layer, position, row)) {
        return row->type == wanted;
    }
    bool is_made = e->producer >= 0 && x->b->list.op[e->producer].kind == OP_QUANTIZE;
    return is_made && row_make(x, e->producer, row);
}

greta_status op_cross(const audit_terms *a, const op_plan *b, int32_t i, op_output *out,
                      greta_error *err)
{
    cross x = {.a = a, .b = b, .err = err};
    cross_finder finder = {&x, i};
    op_rows rows = {cross_find, &finder};
    bool is_store = b->list.op[i].kind == OP_KV_STORE;
    op_place at = {b->model,
                   &b->list,
                   i,
                   a->run.site->any->position,
                   is_store ? b->contract.kv : a->plan->contract.kv,
                   b->n_ctx,
                   a->work};
    char missing[OP_MISSING_MAX];
    op_case c;
    *out = (op_output){0};
    greta_status status = op_case_build(&at, &rows, &c, err);
    if (status == GRETA_OK) {
        status = x.status;
        if (status == GRETA_OK && op_case_check(&c, missing)) {
            status = op_output_new(&c, out, err);
            status = status == GRETA_OK ? op_replay(op_replay_table(NULL), &c, out, err) : status;
        }
        op_case_free(&c);
    }
    for (size_t k = 0; k < x.n_made; k++) {
        free(x.made[k]);
    }
    free(x.made);
    return status;
}

/* ---- Weights alone ----------------------------------------------------------------------------
 */

/* The row that a product reads, as floats. NULL: no memory. */
static float *row_widen(const op_operand *in)
{
    const term_row row = {in->type, in->n, in->values};
    float *wide = malloc((size_t)in->n * sizeof *wide);
    for (int64_t i = 0; wide && i < in->n; i++) {
        wide[i] = (float)term_value(&row, i);
    }
    return wide;
}

/* out -= the op in binary64. */
static greta_status exact_subtract(const op_case *c, const op_contract *contract, double *out,
                                   greta_error *err)
{
    double *exact = malloc((size_t)c->out.n * sizeof *exact);
    if (!exact) {
        return error_memory(err, "a row", (uint64_t)c->out.n * sizeof *exact);
    }
    greta_status status = op_replay_f64(c, contract, exact, err);
    for (int64_t i = 0; i < c->out.n && status == GRETA_OK; i++) {
        out[i] -= exact[i];
    }
    free(exact);
    return status;
}

static greta_status weights_cross(op_case *c, const op *other, const op_contract *kept,
                                  double **out, greta_error *err)
{
    const op_contract contract = {ACT_CONTRACT_F32, kept->kv};
    float *wide = NULL;
    double *made = malloc((size_t)c->out.n * sizeof *made);
    greta_status status =
        made ? GRETA_OK : error_memory(err, "a row", (uint64_t)c->out.n * sizeof *made);
    if (status == GRETA_OK && c->in[0].type == DTYPE_ACT_Q8) {
        wide = row_widen(&c->in[0]);
        c->in[0] = (op_operand){DTYPE_F32, c->in[0].n, wide};
        status = wide ? GRETA_OK : error_memory(err, "a row", (uint64_t)c->in[0].n * sizeof *wide);
    }
    if (status == GRETA_OK) {
        status = op_replay_f64(c, &contract, made, err);
        memcpy(c->op.w, other->w, sizeof c->op.w);
    }
    status = status == GRETA_OK ? exact_subtract(c, &contract, made, err) : status;
    free(wide);
    if (status != GRETA_OK) {
        free(made);
        made = NULL;
    }
    *out = made;
    return status;
}

greta_status op_cross_weights(const audit_terms *a, int32_t i, const op_plan *b, int32_t k,
                              double **out, greta_error *err)
{
    char missing[OP_MISSING_MAX];
    op_case c;
    *out = NULL;
    GRETA_TRY(op_audit_case(a, i, &c, err));
    greta_status status = op_case_check(&c, missing)
                              ? weights_cross(&c, &b->list.op[k], &a->plan->contract, out, err)
                              : GRETA_OK;
    op_case_free(&c);
    return status;
}
