/* score_table.c - what an exam says: how often the referee is right, beside simpler methods.
 *
 * A planted case counts where some recorded bit differs: where none does, the fault changed nothing
 * that these runs computed, and there is nothing to find (equal bits prove it). An alarm of the
 * referee is the verdict "fault"; a narrower number format is found when it is called policy, other
 * tokens when the pair is refused for them. Benign, clean and outside cases must give no alarm.
 * 3 / n bounds the rate of alarms from above, with 95 % confidence, where none was seen.
 */
#include "score/score_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *word(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static int32_t whole(const json_t *object, const char *key)
{
    return (int32_t)json_integer_value(json_object_get(object, key));
}

static bool truth(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

/* ---- One case -------------------------------------------------------------------------------- */

static bool is_planted(const json_t *line)
{
    const char *sort = word(line, "sort");
    return strcmp(sort, "fault") == 0 || strcmp(sort, "stack") == 0 || strcmp(sort, "real") == 0;
}

static bool is_in(const json_t *line, score_set set)
{
    bool is_real = strcmp(word(line, "sort"), "real") == 0;
    bool is_late = truth(json_object_get(line, "planted"), "is_late");
    bool is_device = strcmp(word(line, "mode"), "device") == 0;
    if (is_device != (set == SET_DEVICE)) {
        return false;
    }
    switch (set) {
    case SET_DEVICE:
        return true;
    case SET_REAL:
        return is_real;
    case SET_LATE:
        return is_late && !is_real;
    case SET_PLANTED:
        return !is_real && !is_late;
    default:
        return !is_real && !is_late && whole(line, "half") == (set == SET_HELD);
    }
}

static cause expected_of(const json_t *line)
{
    return cause_find(word(json_object_get(line, "planted"), "cause"));
}

static bool is_refused_pair(const json_t *line)
{
    return strcmp(word(json_object_get(line, "referee"), "state"), "NOT_COMPARABLE") == 0;
}

/* What the referee says the cause is: a pair that is refused for its tokens has other tokens. */
static cause told_of(const json_t *line)
{
    cause told = cause_find(word(json_object_get(line, "referee"), "bucket"));
    if (told == CAUSE_COUNT) {
        told =
            expected_of(line) == CAUSE_TOKENS && is_refused_pair(line) ? CAUSE_TOKENS : CAUSE_NONE;
    }
    return told;
}

/* A format that overflowed may be told by the Inf that came of it. */
static bool cause_is_right(const json_t *line)
{
    cause expected = expected_of(line), told = told_of(line);
    return told == expected ||
           (expected == CAUSE_PRECISION_POLICY && told == CAUSE_NONFINITE_ORIGIN);
}

static bool is_alarm(const json_t *line)
{
    cause expected = expected_of(line);
    bool is_fault = strcmp(word(json_object_get(line, "referee"), "verdict"), "fault") == 0;
    bool is_policy = expected == CAUSE_PRECISION_POLICY && told_of(line) == expected;
    return is_fault || (is_planted(line) && (is_policy || told_of(line) == CAUSE_TOKENS));
}

/* ---- Sums ------------------------------------------------------------------------------------ */

static void rank_count(score_tally *t, const json_t *line, int32_t rank, bool is_at_position)
{
    int32_t n = whole(line, "places");
    if (rank < 1 || n < 1) {
        return;
    }
    t->n_place++;
    t->n_top1 += rank == 1;
    t->n_top3 += rank <= 3;
    t->n_exact += rank == 1 && is_at_position;
    t->rank_sum += rank;
    t->exam_sum += (double)rank / n;
}

static void cause_count(score_tally *t, cause expected, cause told, bool is_right)
{
    t->n_cause++;
    t->n_cause_right += is_right;
    t->seen[expected][is_right ? expected : told]++;
}

static void methods_count(score_sum *s, const json_t *line, bool is_fault)
{
    const json_t *methods = json_object_get(line, "methods");
    bool differs = truth(line, "differs");
    for (score_method m = 0; m < SCORE_METHODS; m++) {
        const json_t *one = json_object_get(methods, score_method_name(m));
        score_tally *t = &s->method[m];
        bool alarm = truth(one, "alarm");
        t->n_fault += is_fault;
        t->n_detected += is_fault && alarm;
        t->n_quiet += !is_fault;
        t->n_false += !is_fault && alarm;
        t->n_quiet_differs += !is_fault && differs;
        t->n_false_differs += !is_fault && differs && alarm;
        if (is_fault) {
            cause told = cause_find(word(one, "cause"));
            rank_count(t, line, whole(one, "rank"), false);
            cause_count(t, expected_of(line), told < CAUSE_COUNT ? told : CAUSE_NONE,
                        told == expected_of(line));
        }
    }
}

static void fault_count(score_sum *s, const json_t *line)
{
    const json_t *referee = json_object_get(line, "referee");
    score_tally *t = &s->referee;
    int32_t rank = whole(referee, "rank");
    bool is_place = rank == 1 || expected_of(line) == CAUSE_TOKENS;
    bool is_right = is_place && cause_is_right(line);
    bool is_confirmed = strcmp(word(referee, "state"), "CONFIRMED") == 0;
    t->n_fault++;
    t->n_detected += is_alarm(line);
    rank_count(t, line, rank,
               json_equal(json_object_get(referee, "position"), json_object_get(line, "position")));
    cause_count(t, expected_of(line), told_of(line), cause_is_right(line));
    s->n_right += is_right;
    s->n_right_confirmed += is_right && is_confirmed;
    s->n_confirmed += is_confirmed;
    s->n_confirmed_right += is_confirmed && is_right;
    s->n_abstained += strcmp(word(referee, "verdict"), "no verdict") == 0 && !is_alarm(line);
}

const char *score_set_name(score_set set)
{
    static const char *const name[] = {"planted", "tune", "held", "late", "real", "device"};
    return name[set];
}

const char *score_set_title(score_set set)
{
    static const char *const title[] = {"planted",
                                        "planted, the half that rules may be tuned on",
                                        "planted, the held half",
                                        "planted, faults written after the rules were frozen",
                                        "bugs that happened",
                                        "devices with one mistake"};
    return title[set];
}

void score_sum_take(const score_lines *lines, score_set set, score_sum *out)
{
    *out = (score_sum){0};
    for (size_t i = 0; i < lines->n; i++) {
        const json_t *line = lines->item[i];
        if (!is_in(line, set)) {
            continue;
        }
        out->n_line++;
        out->seconds += json_number_value(json_object_get(line, "seconds"));
        out->bytes += (uint64_t)json_integer_value(json_object_get(line, "bytes"));
        if (truth(line, "refused")) {
            out->n_refused++;
        } else if (is_planted(line) && !truth(line, "differs")) {
            out->n_equal++;
        } else if (is_planted(line)) {
            fault_count(out, line);
            methods_count(out, line, true);
        } else {
            out->referee.n_quiet++;
            out->referee.n_false += is_alarm(line);
            out->referee.n_quiet_differs += truth(line, "differs");
            out->referee.n_false_differs += truth(line, "differs") && is_alarm(line);
            methods_count(out, line, false);
        }
    }
}

double score_macro_f1(const score_tally *t)
{
    double sum = 0;
    int32_t n = 0;
    for (int c = 0; c < CAUSE_COUNT; c++) {
        int32_t expected = 0, told = 0;
        for (int k = 0; k < CAUSE_COUNT; k++) {
            expected += t->seen[c][k];
            told += t->seen[k][c];
        }
        if (c != CAUSE_NONE && expected + told > 0) {
            sum += 2.0 * t->seen[c][c] / (expected + told);
            n++;
        }
    }
    return n > 0 ? sum / n : NAN;
}

/* ---- As JSON --------------------------------------------------------------------------------- */

static json_t *share(double part, double all)
{
    return all > 0 ? json_real(part / all) : json_null();
}

static json_t *tally_json(const score_tally *t, bool has_cause)
{
    double f1 = has_cause ? score_macro_f1(t) : NAN;
    return json_pack(
        "{s:i, s:i, s:o, s:i, s:i, s:i, s:i, s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "faults", (int)t->n_fault, "detected", (int)t->n_detected, "recall",
        share(t->n_detected, t->n_fault), "quiet", (int)t->n_quiet, "false_alarms", (int)t->n_false,
        "quiet_differing", (int)t->n_quiet_differs, "false_alarms_differing",
        (int)t->n_false_differs, "false_alarm_limit",
        t->n_false == 0 ? share(3, t->n_quiet) : json_null(), "false_alarm_limit_differing",
        t->n_false_differs == 0 ? share(3, t->n_quiet_differs) : json_null(), "placed",
        (int)t->n_place, "top1", share(t->n_top1, t->n_place), "top3", share(t->n_top3, t->n_place),
        "exact", share(t->n_exact, t->n_place), "mean_rank", share(t->rank_sum, t->n_place), "exam",
        share(t->exam_sum, t->n_place), "cause_right",
        has_cause ? share(t->n_cause_right, t->n_cause) : json_null(), "macro_f1",
        isnan(f1) ? json_null() : json_real(f1));
}

score_mark score_mark_of(const json_t *line)
{
    const json_t *referee = json_object_get(line, "referee");
    score_mark m = {.is_refused = truth(line, "refused"),
                    .is_planted = is_planted(line),
                    .differs = truth(line, "differs"),
                    .is_alarm = is_alarm(line),
                    .is_place = whole(referee, "rank") == 1 || expected_of(line) == CAUSE_TOKENS,
                    .is_cause = cause_is_right(line),
                    .is_confirmed = strcmp(word(referee, "state"), "CONFIRMED") == 0};
    if (m.is_refused || (m.is_planted && !m.differs)) {
        return m;
    }
    bool is_outside = strcmp(word(line, "sort"), "outside") == 0;
    bool is_verdict = strcmp(word(referee, "verdict"), "fault") == 0;
    if (!m.is_planted) {
        m.miss = m.is_alarm                ? "false alarm"
                 : m.differs && is_outside ? "differs although no row is concerned"
                                           : NULL;
        return m;
    }
    m.miss = !m.is_alarm                     ? "not detected"
             : !m.is_place                   ? "another op"
             : !m.is_cause                   ? "another cause"
             : !m.is_confirmed && is_verdict ? "right, not confirmed"
                                             : NULL;
    return m;
}

static json_t *misses_json(const score_lines *lines)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < lines->n; i++) {
        const json_t *line = lines->item[i], *referee = json_object_get(line, "referee");
        score_mark m = score_mark_of(line);
        if (m.miss) {
            json_array_append_new(
                list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "case", word(line, "case"),
                                "miss", m.miss, "expected", cause_name(expected_of(line)), "state",
                                word(referee, "state"), "bucket", word(referee, "bucket"), "why",
                                word(referee, "why")));
        }
    }
    return list;
}

static json_t *sum_json(const score_sum *s)
{
    json_t *methods = json_object();
    for (score_method m = 0; methods && m < SCORE_METHODS; m++) {
        json_object_set_new(methods, score_method_name(m),
                            tally_json(&s->method[m], m == METHOD_REPORT));
    }
    return json_pack("{s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:i, s:i, s:f, s:I}", "cases",
                     (int)s->n_line, "refused", (int)s->n_refused, "equal", (int)s->n_equal,
                     "referee", tally_json(&s->referee, true), "methods", methods,
                     "confirmed_among_right", share(s->n_right_confirmed, s->n_right),
                     "right_among_confirmed", share(s->n_confirmed_right, s->n_confirmed),
                     "wrong_and_confirmed", (int)(s->n_confirmed - s->n_confirmed_right),
                     "abstained", (int)s->n_abstained, "seconds", s->seconds, "bytes",
                     (json_int_t)s->bytes);
}

/* ---- As text --------------------------------------------------------------------------------- */

static void put_share(text *t, double part, double all)
{
    if (all > 0) {
        text_format(t, " %7.2f %%", 100 * part / all);
    } else {
        text_string(t, "         -");
    }
}

static void put_tally(text *t, const char *name, const score_tally *y, bool has_cause)
{
    double f1 = has_cause ? score_macro_f1(y) : NAN;
    text_format(t, "%-10s", name);
    put_share(t, y->n_detected, y->n_fault);
    text_format(t, " %5d of %-5d %5d of %-5d", (int)y->n_false, (int)y->n_quiet,
                (int)y->n_false_differs, (int)y->n_quiet_differs);
    put_share(t, y->n_top1, y->n_place);
    put_share(t, y->n_top3, y->n_place);
    text_format(t, y->n_place ? " %9.2f" : "         -",
                y->rank_sum / (y->n_place ? y->n_place : 1));
    put_share(t, y->exam_sum, y->n_place);
    text_format(t, isnan(f1) ? "        -\n" : " %8.4f\n", f1);
}

static void put_sum(text *t, const char *title, const score_sum *s)
{
    const score_tally *y = &s->referee;
    text_format(t,
                "%s: %d cases; %d faults that change bits, %d that change none, %d that no op "
                "can carry; %d cases without a fault\n\n",
                title, (int)s->n_line, (int)y->n_fault, (int)s->n_equal, (int)s->n_refused,
                (int)y->n_quiet);
    text_string(t,
                "method         recall  false alarms   of those that    top-1     top-3      mean"
                "     EXAM     macro-F1\n                                        differ      "
                "                        rank              of causes\n");
    put_tally(t, "greta", y, true);
    for (score_method m = 0; m < SCORE_METHODS; m++) {
        put_tally(t, score_method_name(m), &s->method[m], m == METHOD_REPORT);
    }
    text_string(t, "\ngreta: exact (layer, stage, position)");
    put_share(t, y->n_exact, y->n_place);
    text_string(t, "; right cause");
    put_share(t, y->n_cause_right, y->n_cause);
    text_string(t, "\n       confirmed among right");
    put_share(t, s->n_right_confirmed, s->n_right);
    text_string(t, "; right among confirmed");
    put_share(t, s->n_confirmed_right, s->n_confirmed);
    text_format(t, "; wrong and confirmed %d; no verdict %d\n",
                (int)(s->n_confirmed - s->n_confirmed_right), (int)s->n_abstained);
    if (y->n_quiet > 0 && y->n_false == 0) {
        text_format(t, "       rate of false alarms, 95 %% upper limit: 3/%d = %.4f",
                    (int)y->n_quiet, 3.0 / y->n_quiet);
        if (y->n_quiet_differs > 0) {
            text_format(t, "; where bits differ: 3/%d = %.4f", (int)y->n_quiet_differs,
                        3.0 / y->n_quiet_differs);
        }
        text_string(t, "\n");
    }
    text_format(t, "       cost: %.2f s and %.2f MB a case\n", s->seconds / s->n_line,
                (double)s->bytes / 1e6 / s->n_line);
    text_string(t, "\n");
}

#define MISSES_PRINTED 24

static void put_misses(text *t, const json_t *misses)
{
    const json_t *miss;
    size_t i;
    text_format(t, "what fell short: %zu\n", json_array_size(misses));
    json_array_foreach(misses, i, miss)
    {
        if (i < MISSES_PRINTED) {
            text_format(t, "  %s: %s (%s, %s)\n", word(miss, "case"), word(miss, "miss"),
                        word(miss, "state"), word(miss, "bucket"));
        }
    }
    if (i > MISSES_PRINTED) {
        text_format(t, "  (and %zu more, in --json)\n", i - MISSES_PRINTED);
    }
}

static void print_text(const score_lines *lines, const json_t *misses, text *out)
{
    for (score_set set = 0; set < SCORE_SETS; set++) {
        score_sum sum;
        score_sum_take(lines, set, &sum);
        if (sum.n_line > 0) {
            put_sum(out, score_set_title(set), &sum);
        }
    }
    score_groups_text(lines, out);
    put_misses(out, misses);
}

static greta_status print_json(const score_lines *lines, json_t *misses, text *out,
                               greta_error *err)
{
    json_t *root = json_object();
    for (score_set set = 0; set < SCORE_SETS && root; set++) {
        score_sum sum;
        score_sum_take(lines, set, &sum);
        json_object_set_new(root, score_set_name(set), sum_json(&sum));
    }
    if (root) {
        json_object_set_new(root, "groups", score_groups_json(lines));
        json_object_set(root, "misses", misses);
    }
    char *dump = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!dump) {
        return error_memory(err, "the table", 0);
    }
    text_format(out, "%s\n", dump);
    free(dump);
    return GRETA_OK;
}

static greta_status print(const score_lines *lines, int json, text *out, greta_error *err)
{
    json_t *misses = misses_json(lines);
    greta_status status = misses ? GRETA_OK : error_memory(err, "the table", 0);
    if (status == GRETA_OK && json) {
        status = print_json(lines, misses, out, err);
    } else if (status == GRETA_OK) {
        print_text(lines, misses, out);
    }
    json_decref(misses);
    return status;
}

greta_status greta_score_table(const char *folder, int json, char **out, greta_error *err)
{
    score_lines lines;
    text t = {0};
    *out = NULL;
    GRETA_TRY(score_files_read(folder, &lines, err));
    greta_status status = GRETA_OK;
    if (lines.n == 0) {
        error_file(err, folder);
        status = error_set(err, GRETA_BAD_INPUT, "has no case of an exam (cases*.jsonl)");
    }
    status = status ? status : print(&lines, json, &t, err);
    status = status ? status : text_take(&t, out, err);
    text_free(&t);
    score_lines_free(&lines);
    return status;
}
