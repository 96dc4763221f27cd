/* human.c - the analysis as text on a terminal: first the answer in one sentence, then the tables, then
 * for each prompt what its verdict stands on, then what was compared, and how to do it again.
 *
 * Exit codes and verdicts are the same as in the other writers; nothing is said here that
 * analysis.json does not hold.
 */
#include "report/table.h"

static bool has_norms(const analysis *a)
{
    for (size_t i = 0; i < a->n_prompt; i++) {
        if (a->prompt[i].n_norm > 0) {
            return true;
        }
    }
    return false;
}

static void write_norms(text *t, const analysis *a)
{
    if (!has_norms(a)) {
        return;
    }
    text_format(t, "\nffn_norm, layers %s\n\n", a->layers);
    table_norms(t, a, TABLE_TEXT);
    text_string(t, "\nsumsq is the sum of squares of the input, where the reference report held its "
                   "mean.\nPointers and offsets are shown and decide nothing: prefill and decode use "
                   "other buffers and rows\nby design.\n");
}

static void write_window(text *t, const analysis_prompt *p)
{
    if (p->first == p->n_stage) {
        return;
    }
    text_string(t, "\n");
    size_t n = table_window(t, p, TABLE_TEXT);
    if (n < p->n_stage) {
        text_format(t, "(%zu other stages are in analysis.tsv)\n", p->n_stage - n);
    }
}

/* Judged norms beside the one that decides: later faults, and plants that changed nothing. */
static void write_others(text *t, const analysis_prompt *p)
{
    for (size_t k = 0; k < p->n_norm; k++) {
        const norm_line *norm = &p->norm[k];
        bool is_plain = norm->found.state == VERDICT_EQUAL && !norm->found.changed_no_bit;
        if (norm->is_decisive || is_plain || norm->found.state == VERDICT_INHERITED ||
            p->why != REASON_NONE) {
            continue;
        }
        char layer[LAYER_MAX];
        text_string(t, "  also: ");
        say_norm(t, LANG_EN, norm);
        text_format(t, ": layer %s; %s, %s\n", layer_text(norm->layer, layer),
                    cause_name(norm->found.cause), verdict_state_name(norm->found.state));
    }
}

static void write_line(text *t, const char *name, void (*say)(text *, lang, const analysis_prompt *),
                       const analysis_prompt *p)
{
    text_format(t, "  %s: ", name);
    say(t, LANG_EN, p);
    text_string(t, "\n");
}

static void write_prompt(text *t, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    text_format(t, "\n%s: ", p->id);
    say_prompt(t, LANG_EN, p);
    text_string(t, "\n");
    for (int s = 0; s < SIDE_COUNT; s++) {
        text_format(t, "  %s: ", s == SIDE_A ? "prefill_last" : "decode0");
        say_side(t, LANG_EN, &p->side[s]);
        if (p->side[s].is_present) {
            text_string(t, "\n    ");
            say_configuration(t, &p->side[s].header);
        }
        text_string(t, "\n");
    }
    if (norm) {
        text_string(t, "  evidence:");
        size_t before = t->length;
        say_norm_details(t, LANG_EN, norm);
        text_string(t, t->length == before ? " none beyond the numbers.\n" : "\n");
    }
    write_others(t, p);
    if (p->n_stage > 0) {
        write_line(t, "measured", say_coverage, p);
        write_line(t, "instrument", say_instrument, p);
        write_line(t, "not looked at", say_not_seen, p);
    }
    write_window(t, p);
}

void report_human(text *t, const analysis *a)
{
    say_headline(t, LANG_EN, a);
    text_string(t, "\n");
    write_norms(t, a);
    for (size_t i = 0; i < a->n_prompt; i++) {
        write_prompt(t, &a->prompt[i]);
    }
    text_string(t, "\ncommands:\n");
    for (size_t i = 0; i < a->n_command; i++) {
        text_format(t, "  %s\n", a->command[i]);
    }
    if (a->has_out) {
        text_format(t, "reports: %s/report.md, %s/analysis.tsv, %s/analysis.json\n", a->out, a->out,
                    a->out);
    }
    text_format(t, "traces: %s\n", a->traces);
}
