/* args.c - see args.h.
 *
 * The idea: a flag is a row of a table, so that parsing, range checks, the environment variable and
 * the help text cannot disagree. getopt was not used: it knows no ranges, no duplicates and no
 * "did you mean". Numbers are read here digit by digit: strtol accepts blanks, signs and tails
 * that a user did not mean.
 */
#include "args.h"

#include "output.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_MAX 64
#define WORD_MAX 40 /* longest word that is compared for "did you mean" */

/* ---- Words and numbers ----------------------------------------------------------------------- */

bool args_whole(const char *text, size_t bytes, uint64_t *value)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned digit = (unsigned)(unsigned char)text[i] - '0';
        if (digit > 9 || v > (UINT64_MAX - digit) / 10) {
            return false;
        }
        v = v * 10 + digit;
    }
    *value = v;
    return bytes > 0;
}

/* Edits (insert, delete, replace, swap of neighbours) that make one word of the other. */
static size_t word_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t row[3][WORD_MAX + 1];
    for (size_t j = 0; j <= n_b; j++) {
        row[0][j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        size_t *now = row[i % 3], *above = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = above[j] + 1 < best ? above[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best) {
                best = before[j - 2] + 1;
            }
            now[j] = best;
        }
    }
    return row[n_a % 3][n_b];
}

const char *args_nearest(const char *word, const char *const *known)
{
    size_t n = strlen(word);
    const char *nearest = NULL;
    size_t distance_min = n / 3 < 3 ? n / 3 + 1 : 3; /* one above the most that is still near */
    if (n > WORD_MAX) {
        return NULL;
    }
    for (; *known; known++) {
        size_t n_known = strlen(*known);
        if (n_known > WORD_MAX) {
            continue;
        }
        size_t distance = word_distance(word, n, *known, n_known);
        if (distance < distance_min) {
            distance_min = distance;
            nearest = *known;
        } else if (!nearest && n > 3 && strncmp(word, *known, n) == 0) {
            nearest = *known;
        }
    }
    return nearest;
}

greta_status args_ranges(const char *name, const char *ranges, uint8_t *selected, size_t n,
                         greta_error *err)
{
    char q[QUOTED_MAX];
    memset(selected, 0, n);
    for (const char *part = ranges;; part++) {
        size_t bytes = strcspn(part, ",");
        const char *dash = memchr(part, '-', bytes);
        uint64_t first = 0, last = 0;
        if (bytes == 3 && memcmp(part, "all", 3) == 0) {
            memset(selected, 1, n);
        } else {
            size_t n_first = dash ? (size_t)(dash - part) : bytes;
            if (!args_whole(part, n_first, &first) ||
                (dash && !args_whole(dash + 1, bytes - n_first - 1, &last))) {
                return fail(err, GRETA_USAGE, "%s \"%s\" is not a list like 0,3-5 or all", name,
                            quoted(ranges, strlen(ranges), q));
            }
            last = dash ? last : first;
            if (last >= n || first > last) {
                return fail(err, GRETA_USAGE, "%s: %s is outside 0 to %zu", name,
                            quoted(part, bytes, q), n ? n - 1 : 0);
            }
            memset(selected + first, 1, (size_t)(last - first + 1));
        }
        part += bytes;
        if (!*part) {
            return GRETA_OK;
        }
    }
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Index of `value` in "a|b|c"; -1: not there. */
static int choice_find(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (int i = 0;; i++) {
        size_t bytes = strcspn(choices, "|");
        if (bytes == n && memcmp(choices, value, n) == 0) {
            return i;
        }
        if (!choices[bytes]) {
            return -1;
        }
        choices += bytes + 1;
    }
}

static bool whole_signed(const char *value, int64_t *number)
{
    uint64_t magnitude;
    bool is_negative = value[0] == '-';
    if (!args_whole(value + is_negative, strlen(value + is_negative), &magnitude) ||
        magnitude > INT64_MAX) {
        return false;
    }
    *number = is_negative ? -(int64_t)magnitude : (int64_t)magnitude;
    return true;
}

static bool real_parse(const char *value, double *number)
{
    char *end;
    if (!*value || value[strspn(value, "+-.0123456789eE")]) {
        return false; /* strtod alone would take blanks, hexadecimal and "nan" */
    }
    *number = strtod(value, &end);
    return *end == '\0';
}

static bool bytes_parse(const char *value, uint64_t *bytes)
{
    size_t n = strlen(value);
    char unit = n ? value[n - 1] : '\0';
    unsigned shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
    if (!args_whole(value, n - (shift > 0), bytes) || *bytes > (UINT64_MAX >> shift)) {
        return false;
    }
    *bytes <<= shift;
    return *bytes > 0;
}

/* The tables stand at the end of "AMD EPYC ...; kernels: ref-avx2, ref". */
static greta_status cpu_check(const char *name, const char *value, greta_error *err)
{
    char buffer[512], q[QUOTED_MAX];
    const char *tables = strrchr(greta_cpu_describe(buffer, sizeof buffer), ';');
    tables = tables ? tables + 1 : buffer;
    tables += strchr(tables, ':') ? strcspn(tables, ":") + 1 : 0;
    tables += strspn(tables, " ");
    size_t n = strlen(value);
    for (const char *t = tables; *t;) {
        size_t bytes = strcspn(t, ",");
        if (bytes == n && memcmp(t, value, n) == 0) {
            return GRETA_OK;
        }
        t += bytes + strspn(t + bytes, ", ");
    }
    return fail(err, GRETA_USAGE, "%s: this machine has no %s (has: %s)", name,
                quoted(value, n, q), tables);
}

static greta_status whole_value(const flag *f, const char *name, const char *value, void *target,
                                greta_error *err)
{
    char q[QUOTED_MAX];
    int64_t number;
    if (!whole_signed(value, &number) || (double)number < f->min || (double)number > f->max) {
        return fail(err, GRETA_USAGE, "%s \"%s\" is not a whole number from %.0f to %.0f", name,
                    quoted(value, strlen(value), q), f->min, f->max);
    }
    *(int64_t *)target = number;
    return GRETA_OK;
}

static greta_status choice_value(const flag *f, const char *name, const char *value, int *target,
                                 greta_error *err)
{
    char q[QUOTED_MAX];
    int choice = choice_find(f->value, value);
    if (choice < 0) {
        return fail(err, GRETA_USAGE, "%s \"%s\" is not one of %s", name,
                    quoted(value, strlen(value), q), f->value);
    }
    *target = choice;
    return GRETA_OK;
}

greta_status args_value(const flag *f, const char *name, const char *value, void *target,
                        greta_error *err)
{
    char q[QUOTED_MAX];
    size_t n = strlen(value);
    const char *expected = NULL;
    switch (f->kind) {
    case FLAG_SWITCH:
        *(bool *)target = true;
        return GRETA_OK;
    case FLAG_WHOLE:
        return whole_value(f, name, value, target, err);
    case FLAG_CHOICE:
    case FLAG_OPTIONAL:
        return choice_value(f, name, value, target, err);
    case FLAG_SEED:
        if (args_whole(value, n, target)) {
            return GRETA_OK;
        }
        expected = "a whole number from 0 to 18446744073709551615";
        break;
    case FLAG_REAL:
        if (real_parse(value, target) && *(double *)target >= f->min &&
            *(double *)target <= f->max) {
            return GRETA_OK;
        }
        return fail(err, GRETA_USAGE, "%s \"%s\" is not a number from %.0f to %.0f", name,
                    quoted(value, n, q), f->min, f->max);
    case FLAG_BYTES:
        if (bytes_parse(value, target)) {
            return GRETA_OK;
        }
        expected = "a size like 1000, 64K, 512M or 4G";
        break;
    case FLAG_COUNT:
        if (strcmp(value, "all") == 0) {
            *(int64_t *)target = -1;
            return GRETA_OK;
        }
        if (whole_signed(value, target) && *(int64_t *)target >= 0) {
            return GRETA_OK;
        }
        expected = "a whole number from 0, or all";
        break;
    case FLAG_CPU:
        *(const char **)target = value;
        return cpu_check(name, value, err);
    case FLAG_PATH:
        if (n > 0 && strncmp(value, "--", 2) != 0) {
            *(const char **)target = value;
            return GRETA_OK;
        }
        expected = "a name (write ./--x for a file of that name)";
        break;
    case FLAG_TEXT:
        *(const char **)target = value;
        return GRETA_OK;
    }
    return fail(err, GRETA_USAGE, "%s \"%s\" is not %s", name, quoted(value, n, q), expected);
}

/* ---- The command line ------------------------------------------------------------------------ */

typedef struct parsing {
    command_line *line;
    const char *seen[FLAGS_MAX]; /* value of the n-th flag over all groups; NULL: absent */
} parsing;

/* The n-th flag over all groups; NULL: there are fewer. */
static const flag *flag_at(const command_line *line, size_t index, void **target)
{
    assert(index < FLAGS_MAX);
    for (size_t g = 0; g < line->n_group; g++) {
        const flag_group *group = &line->group[g];
        if (index < group->n) {
            *target = (char *)group->target + group->flag[index].offset;
            return &group->flag[index];
        }
        index -= group->n;
    }
    return NULL;
}

static greta_status flag_unknown(const command_line *line, const char *word, size_t n,
                                 greta_error *err)
{
    const char *known[FLAGS_MAX + 2] = {"--help"};
    char q[QUOTED_MAX];
    void *target;
    const flag *f;
    for (size_t i = 0; (f = flag_at(line, i, &target)) != NULL; i++) {
        known[i + 1] = f->name;
    }
    const char *nearest = args_nearest(quoted(word, n, q), known);
    fail(err, GRETA_USAGE, "unknown flag %s", q);
    if (nearest) {
        fail_hint(err, "did you mean %s?", nearest);
    } else {
        fail_hint(err, "see greta %s --help", line->name);
    }
    return GRETA_USAGE;
}

/* One argument that looks like a flag. */
typedef struct flag_word {
    const char *name;     /* as written: "-n" or "--threads" */
    const char *attached; /* what follows '='; NULL: nothing */
    const char *next;     /* the next argument; NULL: none */
} flag_word;

/* Stores flag `index`. Returns in *used how many further arguments were taken. */
static greta_status flag_take(parsing *p, size_t index, const flag_word *word, int *used,
                              greta_error *err)
{
    void *target;
    const flag *f = flag_at(p->line, index, &target);
    const char *value = word->attached, *name = word->name;
    char q[2][QUOTED_MAX];
    *used = 0;
    if (f->kind == FLAG_SWITCH) {
        if (value) {
            return fail(err, GRETA_USAGE, "%s takes no value", name);
        }
        value = "";
    } else if (f->kind == FLAG_OPTIONAL && !value &&
               (!word->next || choice_find(f->value, word->next) < 0)) {
        p->seen[index] = "";
        *(int *)target = 0;
        return GRETA_OK;
    } else if (!value) {
        if (!word->next) {
            return fail(err, GRETA_USAGE, "%s needs a value (%s)", name, f->value);
        }
        value = word->next;
        *used = 1;
    }
    if (p->seen[index] && strcmp(p->seen[index], value) != 0) {
        return fail(err, GRETA_USAGE, "%s is given twice, as \"%s\" and \"%s\"", name,
                    quoted(p->seen[index], strlen(p->seen[index]), q[0]),
                    quoted(value, strlen(value), q[1]));
    }
    p->seen[index] = value;
    return args_value(f, name, value, target, err);
}

static greta_status word_take(parsing *p, const char *word, const char *next, int *used,
                              greta_error *err)
{
    const char *equals = strncmp(word, "--", 2) == 0 ? strchr(word, '=') : NULL;
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    flag_word taken = {.attached = equals ? equals + 1 : NULL, .next = next};
    void *target;
    const flag *f;
    for (size_t i = 0; (f = flag_at(p->line, i, &target)) != NULL; i++) {
        if (strlen(f->name) == n && memcmp(f->name, word, n) == 0) {
            taken.name = f->name;
        } else if (f->letter && strcmp(f->letter, word) == 0) {
            taken.name = f->letter;
        }
        if (taken.name) {
            return flag_take(p, i, &taken, used, err);
        }
    }
    return flag_unknown(p->line, word, n, err);
}

static greta_status operand_take(command_line *line, const char *word, greta_error *err)
{
    char q[QUOTED_MAX];
    if (line->n_operand == line->n_operand_max) {
        fail(err, GRETA_USAGE, "unexpected argument \"%s\"", quoted(word, strlen(word), q));
        fail_hint(err, "usage: greta %s %s", line->name, line->usage);
        return GRETA_USAGE;
    }
    line->operand[line->n_operand++] = word;
    return GRETA_OK;
}

static greta_status variables_take(parsing *p, greta_error *err)
{
    void *target;
    const flag *f;
    for (size_t i = 0; (f = flag_at(p->line, i, &target)) != NULL; i++) {
        const char *value = f->variable && !p->seen[i] ? getenv(f->variable) : NULL;
        if (value) {
            greta_status status = args_value(f, f->variable, value, target, err);
            if (status) {
                return status;
            }
        }
    }
    return GRETA_OK;
}

/* ---- Help ------------------------------------------------------------------------------------ */

static greta_status help_print(const command_line *line, greta_error *err)
{
    printf("usage: greta %s %s\n\n%s\n", line->name, line->usage, line->summary);
    for (size_t g = 0; g < line->n_group; g++) {
        const flag_group *group = &line->group[g];
        printf("\n%s\n", group->title);
        for (size_t i = 0; i < group->n; i++) {
            const flag *f = &group->flag[i];
            char left[80];
            snprintf(left, sizeof left, "%s%s%s%s%s%s", f->letter ? f->letter : "",
                     f->letter ? ", " : "", f->name, f->kind == FLAG_OPTIONAL ? " [" : " ",
                     f->value ? f->value : "", f->kind == FLAG_OPTIONAL ? "]" : "");
            printf("  %-28s %s", left, f->help);
            if (f->kind == FLAG_WHOLE || f->kind == FLAG_REAL) {
                printf(" (%.0f to %.0f)", f->min, f->max);
            }
            if (f->variable) {
                printf(" [%s]", f->variable);
            }
            printf("\n");
        }
    }
    printf("\n  %-28s %s\n", "--help", "this text");
    return output_flush(err);
}

greta_status args_parse(command_line *line, int argc, char **argv, greta_error *err)
{
    parsing p = {.line = line};
    bool only_operands = false;
    greta_status status = GRETA_OK;
    line->n_operand = 0;
    for (int i = 0; i < argc && !status; i++) {
        const char *word = argv[i];
        int used = 0;
        if (only_operands || word[0] != '-' || !word[1]) {
            status = operand_take(line, word, err);
        } else if (strcmp(word, "--") == 0) {
            only_operands = true;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            line->is_help = true;
            return help_print(line, err);
        } else {
            status = word_take(&p, word, i + 1 < argc ? argv[i + 1] : NULL, &used, err);
        }
        i += used;
    }
    if (!status) {
        status = variables_take(&p, err);
    }
    if (!status && line->n_operand < line->n_operand_min) {
        status = fail(err, GRETA_USAGE, "%s needs %s", line->name, line->usage);
        fail_hint(err, "see greta %s --help", line->name);
    }
    return status;
}
