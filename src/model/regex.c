/* regex.c - regular expressions of pre-tokenizers: Oniguruma's patterns, run by PCRE2.
 *
 * The `tokenizers` library runs its patterns with Oniguruma. What both engines read alike is passed
 * on, what differs is spelt out, everything else is refused: a pattern that means something else
 * here would be a divergence. Accepted are characters and escapes, \s \S \d \D, \p{..} and \P{..}
 * of general categories, classes, groups, (?i:..), alternatives, lookaheads at one character, and
 * quantifiers (lazy and possessive ones too). Spelt out: \s is Unicode's White_Space (PCRE2 would
 * add U+180E), `.` is anything but a newline. Case is folded by Unicode in (?i:..), as there. All
 * this holds for characters up to Unicode 14, the version of PCRE2 10.42's tables.
 *
 * A pattern comes from a file, so its cost is bounded. A quantified group may not hold a
 * quantifier: nothing is exponential. A match is looked for in a window; only when it wants to see
 * beyond the window's end (PCRE2's partial matching says so) the window grows, and what was looked
 * at is taken from a budget of some bytes for each byte of the text. Patterns that consume what
 * they look at spend a fraction of it; one that looks at the whole rest for every word runs out and
 * is refused. So a megabyte takes linear time, whatever the pattern.
 */
#include "model/regex.h"

#include "base/limits.h"
#include "base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#define SPACE_CLASS "\\x09-\\x0d\\x{20}\\x{85}\\p{Z}"
#define WINDOW      256u /* bytes */
#define BUDGET_EACH 64u  /* bytes looked at for each byte of text */
#define GROUPS_MAX  32u

struct regex {
    pcre2_code *code;
};

struct regex_scan {
    pcre2_match_data *match;
    pcre2_match_context *context;
    uint64_t budget; /* bytes */
};

/* ---- Translation ----------------------------------------------------------------------------- */

typedef struct group {
    bool has_quantifier; /* somewhere inside */
    bool is_look;        /* (?= or (?! */
    int n_atom;          /* of a lookahead */
} group;

typedef struct translator {
    const char *s, *end, *begin;
    text out;
    group open[GROUPS_MAX];
    size_t n_open;
    bool has_atom;     /* something that a quantifier may follow */
    bool atom_repeats; /* it is a group with a quantifier inside */
    greta_error *err;
} translator;

static greta_status refuse(const translator *t, const char *what)
{
    greta_status status =
        error_set(t->err, GRETA_BAD_INPUT, "pattern, byte %zu: %s is not supported",
                  (size_t)(t->s - t->begin), what);
    error_hint(t->err, "characters, classes, \\s \\d \\p{L}, groups, (?i:), one-character "
                       "lookaheads, quantifiers are");
    return status;
}

/* An atom is complete. */
static greta_status atom(translator *t, bool repeats)
{
    group *g = &t->open[t->n_open];
    t->has_atom = true;
    t->atom_repeats = repeats;
    g->has_quantifier = g->has_quantifier || repeats;
    if (g->is_look && ++g->n_atom > 1) {
        return refuse(t, "a lookahead at more than one character");
    }
    return GRETA_OK;
}

static bool is_plain(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c >= 0x80;
}

static void put_literal(translator *t, char c)
{
    if (c == '\0') {
        text_string(&t->out, "\\x00");
        return;
    }
    if (!is_plain((unsigned char)c)) {
        text_string(&t->out, "\\");
    }
    text_append(&t->out, &c, 1);
}

/* \p{L}: one of the general categories. */
static greta_status property(translator *t)
{
    static const char *const known[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                        "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                        "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                        "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co"};
    const char *close = t->end - t->s < 6 && t->end - t->s < 5 ? NULL : memchr(t->s, '}', 6);
    size_t n = close == NULL || t->s[2] != '{' ? 0 : (size_t)(close - t->s - 3);
    for (size_t i = 0; n > 0 && i < sizeof known / sizeof known[0]; i++) {
        if (strlen(known[i]) == n && memcmp(known[i], t->s + 3, n) == 0) {
            text_append(&t->out, t->s, n + 4);
            t->s += n + 4;
            return GRETA_OK;
        }
    }
    return refuse(t, "a property that is not a general category");
}

/* \x41 or \x{2581} */
static greta_status hexadecimal(translator *t)
{
    bool is_braced = t->end - t->s > 2 && t->s[2] == '{';
    const char *s = t->s + (is_braced ? 3 : 2);
    uint32_t code = 0;
    int n = 0;
    for (; s < t->end && n < (is_braced ? 6 : 2); s++, n++) {
        char c = *s;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            break;
        }
        code = code * 16 + (uint32_t)digit;
    }
    bool is_closed = !is_braced || (s < t->end && *s == '}');
    if (n == 0 || !is_closed || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ||
        (!is_braced && code >= 0x80)) {
        return refuse(t, "this character code");
    }
    text_format(&t->out, "\\x{%x}", code);
    t->s = s + is_braced;
    return GRETA_OK;
}

/* An escape, in a class or out of it. */
static greta_status escape_read(translator *t, bool in_class)
{
    if (t->end - t->s < 2) {
        return refuse(t, "a backslash at the end");
    }
    char c = t->s[1];
    switch (c) {
    case 's':
        text_string(&t->out, in_class ? SPACE_CLASS : "[" SPACE_CLASS "]");
        break;
    case 'S':
        if (in_class) {
            return refuse(t, "\\S in a class");
        }
        text_string(&t->out, "[^" SPACE_CLASS "]");
        break;
    case 'd':
        text_string(&t->out, "\\p{Nd}");
        break;
    case 'D':
        text_string(&t->out, "\\P{Nd}");
        break;
    case 'r':
    case 'n':
    case 't':
    case 'f':
        text_append(&t->out, t->s, 2);
        break;
    case 'v':
        text_string(&t->out, "\\x0b");
        break;
    case 'p':
    case 'P':
        return property(t);
    case 'x':
        return hexadecimal(t);
    default:
        if (is_plain((unsigned char)c)) {
            return refuse(t, "this escape");
        }
        put_literal(t, c);
        break;
    }
    t->s += 2;
    return GRETA_OK;
}

/* [..]: the classes of the engines agree but for what they nest. */
static greta_status class_read(translator *t)
{
    text_string(&t->out, "[");
    t->s++;
    if (t->s < t->end && *t->s == '^') {
        text_string(&t->out, "^");
        t->s++;
    }
    for (bool is_first = true; t->s < t->end; is_first = false) {
        char c = *t->s;
        if (c == ']' && !is_first) {
            text_string(&t->out, "]");
            t->s++;
            return atom(t, false);
        }
        if (c == '\\') {
            GRETA_TRY(escape_read(t, true));
        } else if (c == '[' || (c == ']' && is_first) ||
                   (c == '&' && t->s + 1 < t->end && t->s[1] == '&')) {
            return refuse(t, "a class within a class");
        } else if (c == '-' && !is_first && t->s + 1 < t->end && t->s[1] != ']') {
            text_string(&t->out, "-"); /* a range */
            t->s++;
        } else {
            put_literal(t, c);
            t->s++;
        }
    }
    return refuse(t, "a class without an end");
}

static greta_status group_open(translator *t)
{
    static const struct {
        const char *text;
        bool is_look;
    } kinds[] = {{"(?i:", false}, {"(?:", false}, {"(?=", true}, {"(?!", true}};
    size_t n = 1;
    group g = {0};
    const char *put = "(?:";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t length = strlen(kinds[i].text);
        if ((size_t)(t->end - t->s) >= length && memcmp(t->s, kinds[i].text, length) == 0) {
            n = length;
            g.is_look = kinds[i].is_look;
            put = kinds[i].text;
        }
    }
    if (n == 1 && t->s + 1 < t->end && t->s[1] == '?') {
        return refuse(t, "this kind of group");
    }
    if (t->n_open + 1 == GROUPS_MAX) {
        return refuse(t, "a group nested that deep");
    }
    text_string(&t->out, put);
    t->s += n;
    t->open[++t->n_open] = g;
    t->has_atom = false;
    return GRETA_OK;
}

static greta_status group_close(translator *t)
{
    if (t->n_open == 0) {
        return refuse(t, "a bracket that was not opened");
    }
    group closed = t->open[t->n_open--];
    text_string(&t->out, ")");
    t->s++;
    if (closed.is_look) {
        t->has_atom = false;
        return GRETA_OK;
    }
    return atom(t, closed.has_quantifier);
}

/* ? * + {n} {n,} {n,m}, then perhaps ? or +. */
static greta_status quantifier(translator *t)
{
    const char *start = t->s;
    bool is_counted = *t->s == '{';
    if (!t->has_atom || t->atom_repeats) {
        return refuse(t, t->has_atom ? "a quantified group that holds a quantifier"
                                     : "a quantifier of nothing");
    }
    t->s++;
    if (is_counted) {
        size_t n_digit = 0, n_comma = 0;
        while (t->s < t->end && ((*t->s >= '0' && *t->s <= '9') || *t->s == ',')) {
            n_comma += *t->s == ',';
            n_digit += *t->s++ != ',';
        }
        bool is_good = t->s < t->end && *t->s == '}' && n_comma <= 1 && n_digit > 0 &&
                       n_digit <= 6 && start[1] != ',';
        if (!is_good) {
            return refuse(t, "this quantifier");
        }
        t->s++;
    }
    if (t->s < t->end && (*t->s == '?' || *t->s == '+')) {
        if (is_counted) {
            return refuse(t, "a lazy or possessive {..}"); /* Oniguruma reads it otherwise. */
        }
        t->s++;
    }
    text_append(&t->out, start, (size_t)(t->s - start));
    if (t->open[t->n_open].is_look) {
        return refuse(t, "a quantifier in a lookahead");
    }
    t->open[t->n_open].has_quantifier = true;
    t->has_atom = false;
    return GRETA_OK;
}

static greta_status translate(translator *t)
{
    while (t->s < t->end) {
        char c = *t->s;
        if (c == '\\') {
            GRETA_TRY(escape_read(t, false));
            GRETA_TRY(atom(t, false));
        } else if (c == '[') {
            GRETA_TRY(class_read(t));
        } else if (c == '(') {
            GRETA_TRY(group_open(t));
        } else if (c == ')') {
            GRETA_TRY(group_close(t));
        } else if (c == '|') {
            if (t->open[t->n_open].is_look) {
                return refuse(t, "a lookahead with alternatives");
            }
            text_string(&t->out, "|");
            t->s++;
            t->has_atom = false;
        } else if (c == '?' || c == '*' || c == '+' || c == '{') {
            GRETA_TRY(quantifier(t));
        } else if (c == '.') {
            text_string(&t->out, "[^\\n]");
            t->s++;
            GRETA_TRY(atom(t, false));
        } else if (c == '^' || c == '$') {
            return refuse(t, "an anchor");
        } else {
            size_t n = 1;
            put_literal(t, c);
            while (t->s + n < t->end && ((unsigned char)t->s[n] & 0xc0) == 0x80) {
                put_literal(t, t->s[n++]);
            }
            t->s += n;
            GRETA_TRY(atom(t, false));
        }
    }
    return t->n_open == 0 ? GRETA_OK : refuse(t, "a group without an end");
}

/* ---- Compiling ------------------------------------------------------------------------------- */

static greta_status compile(const char *pattern, size_t bytes, regex **out, greta_error *err)
{
    int number = 0;
    PCRE2_SIZE place = 0;
    uint32_t matches_empty = 0;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, bytes, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK,
                      &number, &place, NULL);
    if (code == NULL) {
        return number == PCRE2_ERROR_HEAP_FAILED
                   ? error_memory(err, "a pattern", bytes)
                   : error_set(err, GRETA_BAD_INPUT, "a pattern was refused (PCRE2 error %d)",
                               number);
    }
    (void)pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) {
        pcre2_code_free(code);
        return error_set(err, GRETA_BAD_INPUT, "a pattern that matches the empty text");
    }
    /* A failure leaves the code interpreted, with the same result. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    *out = malloc(sizeof **out);
    if (*out == NULL) {
        pcre2_code_free(code);
        return error_memory(err, "a pattern", sizeof **out);
    }
    (*out)->code = code;
    return GRETA_OK;
}

static greta_status check(const char *pattern, size_t bytes, greta_error *err)
{
    if (bytes == 0 || bytes > LIMIT_PATTERN_BYTES) {
        return error_set(err, GRETA_BAD_INPUT, "a pattern of %zu bytes (1 to %u)", bytes,
                         LIMIT_PATTERN_BYTES);
    }
    return utf8_is_valid(pattern, bytes)
               ? GRETA_OK
               : error_set(err, GRETA_BAD_INPUT, "a pattern that is not UTF-8");
}

greta_status regex_new(const char *pattern, size_t bytes, regex **out, greta_error *err)
{
    *out = NULL;
    GRETA_TRY(check(pattern, bytes, err));
    translator t = {.s = pattern, .begin = pattern, .end = pattern + bytes, .err = err};
    char *translated = NULL;
    greta_status status = translate(&t);
    size_t n = t.out.length;
    if (status == GRETA_OK) {
        status = text_take(&t.out, &translated, err);
    }
    if (status == GRETA_OK) {
        status = compile(translated, n, out, err);
    }
    free(translated);
    text_free(&t.out);
    return status;
}

greta_status regex_literal(const char *literal, size_t bytes, regex **out, greta_error *err)
{
    *out = NULL;
    GRETA_TRY(check(literal, bytes, err));
    translator t = {.err = err};
    char *translated = NULL;
    for (size_t i = 0; i < bytes; i++) {
        put_literal(&t, literal[i]);
    }
    size_t n = t.out.length;
    greta_status status = text_take(&t.out, &translated, err);
    if (status == GRETA_OK) {
        status = compile(translated, n, out, err);
    }
    free(translated);
    return status;
}

void regex_free(regex *r)
{
    if (r != NULL) {
        pcre2_code_free(r->code);
        free(r);
    }
}

/* ---- Searching ------------------------------------------------------------------------------- */

greta_status regex_scan_new(regex_scan **out, greta_error *err)
{
    *out = NULL;
    regex_scan *scan = calloc(1, sizeof *scan);
    if (scan != NULL) {
        scan->match = pcre2_match_data_create(1, NULL);
        scan->context = pcre2_match_context_create(NULL);
    }
    if (scan == NULL || scan->match == NULL || scan->context == NULL) {
        regex_scan_free(scan);
        return error_memory(err, "the pre-tokenizer", sizeof *scan);
    }
    *out = scan;
    return GRETA_OK;
}

void regex_scan_free(regex_scan *scan)
{
    if (scan != NULL) {
        pcre2_match_data_free(scan->match);
        pcre2_match_context_free(scan->context);
        free(scan);
    }
}

void regex_begin(regex_scan *scan, size_t bytes)
{
    scan->budget = (uint64_t)bytes * BUDGET_EACH + (1u << 20);
}

/* One attempt on `bytes` of the text, which goes on behind them or ends. */
static int attempt(regex_scan *scan, const regex *r, const char *input, size_t bytes, bool goes_on)
{
    size_t limit = (UINT32_MAX - 4096) / 8, steps = bytes < limit ? bytes : limit;
    pcre2_set_match_limit(scan->context, (uint32_t)steps * 8 + 4096);
    pcre2_set_depth_limit(scan->context, 1000);
    return pcre2_match(r->code, (PCRE2_SPTR)input, bytes, 0,
                       PCRE2_NO_UTF_CHECK | (goes_on ? PCRE2_PARTIAL_HARD : 0), scan->match,
                       scan->context);
}

greta_status regex_find(regex_scan *scan, const regex *r, const char *input, size_t bytes,
                        size_t *start, size_t *stop, greta_error *err)
{
    size_t skipped = 0, window = WINDOW;
    while (skipped < bytes) {
        size_t rest = bytes - skipped, n = window < rest ? window : rest;
        while (n < rest && ((unsigned char)input[skipped + n] & 0xc0) == 0x80) {
            n++;
        }
        int rc = attempt(scan, r, input + skipped, n, n < rest);
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(scan->match);
        if (rc > 0) {
            *start = skipped + found[0];
            *stop = skipped + found[1];
            return GRETA_OK;
        }
        if (rc == PCRE2_ERROR_NOMEMORY) {
            return error_memory(err, "the pre-tokenizer", bytes);
        }
        if (rc != PCRE2_ERROR_PARTIAL && rc != PCRE2_ERROR_NOMATCH) {
            return error_set(err, GRETA_BAD_INPUT,
                             "a pattern of the pre-tokenizer takes too long on this text (%d)", rc);
        }
        if (rc == PCRE2_ERROR_PARTIAL) {
            if (n > scan->budget) {
                return error_set(err, GRETA_BAD_INPUT,
                                 "a pattern of the pre-tokenizer takes too long on this text");
            }
            scan->budget -= n;
            window = found[0] == 0 ? window * 4 : window;
        }
        skipped += rc == PCRE2_ERROR_NOMATCH ? n : found[0];
    }
    *start = *stop = bytes;
    return GRETA_OK;
}
