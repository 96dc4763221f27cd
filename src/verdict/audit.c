/* audit.c - `greta audit`: one trace against the model itself, without a second run.
 *
 * Every recorded op is held against its own contract: its operands against what their producers
 * wrote in the same run, its weights against the model file, its output against a replay by a
 * build of the definition that did not make the record. Two runs can agree and both be wrong; this
 * is asked of each alone.
 *
 * Exit: 0 every recorded op was replayed and is as recorded: to the bit where the trace claims our
 * arithmetic, else within its bounds; 1 a fault; 6 something that
 * was recorded could not be judged, or nothing was recorded.
 */
#include "report/op_json.h"
#include "report/report.h"
#include "verdict/op_sites.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct audit {
    trace *t;
    op_findings found;
    greta_status verdict;
    char why[256];
} audit;

static void decide(audit *a, greta_status verdict, const char *what, int32_t n)
{
    a->verdict = verdict;
    snprintf(a->why, sizeof a->why, "%" PRId32 " of %" PRId32 " recorded ops %s", n,
             a->found.judged.n_op, what);
}

static void judge(audit *a)
{
    const op_coverage *c = &a->found.judged;
    const stage missed = canaries_missed(&a->found.canaries);
    if (missed != STAGE_NONE) {
        a->verdict = GRETA_NO_VERDICT;
        snprintf(a->why, sizeof a->why, "the judge missed its canary in %s", stage_name(missed));
    } else if (op_findings_first(&a->found)) {
        decide(a, GRETA_FAULT, "do not give what the model says", c->n_replayed - c->n_healthy);
    } else if (op_findings_suspect(&a->found)) {
        decide(a, GRETA_NO_VERDICT, "are as recorded, and others contradict their records",
               c->n_healthy);
    } else if (c->n_op == 0) {
        decide(a, GRETA_NO_VERDICT, "were there to audit", 0);
    } else if (c->n_unmeasured > 0) {
        decide(a, GRETA_NO_VERDICT, "could not be replayed: values of their rows were not kept",
               c->n_unmeasured);
    } else if (strcmp(a->t->status, "complete") != 0) {
        decide(a, GRETA_NO_VERDICT, "are as recorded, but the trace ended early", c->n_healthy);
    } else {
        decide(a, GRETA_OK,
               c->n_policy > 0    ? "are as recorded, the others another precision"
               : c->n_bounded > 0 ? "lie within their bounds of what their operands give"
                                  : "give the recorded bits",
               c->n_healthy);
    }
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_line(text *out, const op_line *line)
{
    text_string(out, "\n");
    say_op(out, LANG_EN, line);
    text_string(out, ": ");
    if (line->layer >= 0) {
        text_format(out, "layer %" PRId32 ", ", line->layer);
    }
    text_format(out, "position %" PRId32 "; %s", line->position,
                analysis_bucket(line->found.state, line->found.cause));
    text_format(out, line->is_accused ? ", %s\n" : "\n", verdict_state_name(line->found.state));
    text_string(out, "  evidence:");
    say_op_evidence(out, LANG_EN, line);
    text_string(out, "\n");
}

#define LINES_PRINTED 16

static void print_text(text *out, const audit *a)
{
    const op_coverage *c = &a->found.judged;
    text_format(out, "%s: %s\n",
                a->verdict == GRETA_OK      ? "the trace is what the model says"
                : a->verdict == GRETA_FAULT ? "fault"
                                            : "no verdict",
                a->why);
    for (size_t i = 0; i < a->found.n_op && i < LINES_PRINTED; i++) {
        print_line(out, &a->found.op[i]);
    }
    if (a->found.n_op > LINES_PRINTED) {
        text_format(out, "\n(and %zu more, in --json)\n", a->found.n_op - LINES_PRINTED);
    }
    text_format(out, "\nwhat was audited: %" PRId32 " tokens; ", c->n_site);
    text_format(out,
                "%" PRId32 " op records, %" PRId32 " replayed, %" PRId32 " as recorded, %" PRId32
                " read something else than was written; %" PRId32
                " ops of the model have no record; replay cost %.1f forward passes.\n",
                c->n_op, c->n_replayed, c->n_healthy, c->n_broken, c->n_unrecorded,
                c->work_once > 0 ? c->work / c->work_once : 0);
    text_string(out, "  ");
    op_standard_say(out, &a->t->header);
    text_string(out, "  ");
    say_canaries(out, LANG_EN, &a->found.canaries, false);
    text_string(out, "\n  ");
    say_configuration(out, &a->t->header);
    text_format(out, "; trace %s\n", a->t->status);
}

static greta_status print_json(text *out, const audit *a, greta_error *err)
{
    json_t *root = json_pack(
        "{s:i, s:s, s:i, s:s, s:s, s:s, s:o, s:o, s:o}", "format", ANALYSIS_FORMAT, "verdict",
        a->verdict == GRETA_OK      ? "aligned"
        : a->verdict == GRETA_FAULT ? "fault"
                                    : "no verdict",
        "exit_code", (int)a->verdict, "why", a->why, "path", a->t->path, "status", a->t->status,
        "judged", json_judged(&a->found.judged), "canaries", json_canaries(&a->found.canaries),
        "ops", json_ops(&a->found));
    char *dump = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!dump) {
        return error_memory(err, "the audit", 0);
    }
    text_format(out, "%s\n", dump);
    free(dump);
    return GRETA_OK;
}

/* ---- The call -------------------------------------------------------------------------------- */

static greta_status audit_run(greta_model *model, const char *path, const greta_watch *watch,
                              audit *a, greta_error *err)
{
    GRETA_TRY(trace_open_heads(path, watch, &a->t, err));
    if (model_file_hash(model) != a->t->header.model_hash) {
        error_file(err, path);
        error_hint(err, "give the model that the trace was made with");
        return error_set(err, GRETA_NO_VERDICT,
                         "the trace is of another model (%016" PRIx64 ", not %016" PRIx64 ")",
                         a->t->header.model_hash, model_file_hash(model));
    }
    GRETA_TRY(op_sites_audit(model, a->t, watch, &a->found, err));
    judge(a);
    return trace_check(a->t, err);
}

greta_status greta_audit(greta_model *model, const char *path, const greta_watch *watch, int json,
                         char **out, greta_status *verdict, greta_error *err)
{
    audit a = {0};
    text t = {0};
    *out = NULL;
    *verdict = GRETA_NO_VERDICT;
    greta_status status = audit_run(model, path, watch, &a, err);
    if (status == GRETA_OK && json) {
        status = print_json(&t, &a, err);
    } else if (status == GRETA_OK) {
        print_text(&t, &a);
    }
    if (status == GRETA_OK) {
        status = text_take(&t, out, err);
        *verdict = a.verdict;
    }
    text_free(&t);
    op_findings_free(&a.found);
    trace_close(a.t);
    return status;
}
