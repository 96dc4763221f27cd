/* chat_lexer.c - a Jinja template as a list of lexemes.
 *
 * The settings are those with which chat templates are rendered everywhere: trim_blocks (the
 * newline after a tag goes), lstrip_blocks (blanks before a tag that begins its line go), newlines
 * become \n and one newline at the very end goes. `-` inside a delimiter takes all white space on
 * its side, `+` keeps it. The rules follow jinja2's lexer.py, whose order of decisions is repeated
 * here: whitespace belongs to the data before a tag, or to the end of the tag before it.
 */
#include "model/chat_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct lexer {
    lexemes *list;
    char *text; /* the source, normalised */
    size_t n, at;
    bool is_line_start;  /* whether the last match ended on a newline */
    const char *counted; /* newlines before it are counted */
    uint32_t line;
    greta_error *err;
} lexer;

static greta_status lexer_refuse(const lexer *l, const char *what)
{
    return error_at(l->err, GRETA_BAD_INPUT, GRETA_PLACE_LINE, l->line,
                    "the chat template has %s at byte %zu", what, l->at);
}

bool lexeme_is(const lexeme *l, lexeme_kind kind, const char *word)
{
    return l->kind == kind && l->length == strlen(word) && memcmp(l->text, word, l->length) == 0;
}

/* ---- White space ----------------------------------------------------------------------------- */

size_t chat_space(const char *start, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)start;
    if (bytes >= 1 && ((s[0] >= 0x09 && s[0] <= 0x0d) || (s[0] >= 0x1c && s[0] <= 0x20))) {
        return 1;
    }
    if (bytes >= 2 && s[0] == 0xc2 && (s[1] == 0x85 || s[1] == 0xa0)) {
        return 2; /* U+0085, U+00A0 */
    }
    if (bytes < 3) {
        return 0;
    }
    unsigned tail = (unsigned)s[1] << 8 | s[2];
    bool is_space = (s[0] == 0xe1 && tail == 0x9a80) ||                     /* U+1680 */
                    (s[0] == 0xe2 && tail >= 0x8080 && tail <= 0x808a) ||   /* U+2000 - U+200A */
                    (s[0] == 0xe2 && (tail == 0x80a8 || tail == 0x80a9)) || /* U+2028, U+2029 */
                    (s[0] == 0xe2 && (tail == 0x80af || tail == 0x819f)) || /* U+202F, U+205F */
                    (s[0] == 0xe3 && tail == 0x8080);                       /* U+3000 */
    return is_space ? 3 : 0;
}

size_t chat_trim_end(const char *s, size_t bytes)
{
    for (size_t n = 1; n <= 3 && n <= bytes;) {
        if (chat_space(s + bytes - n, n) == n) {
            bytes -= n;
            n = 1;
        } else {
            n++;
        }
    }
    return bytes;
}

static size_t space_run(const char *s, size_t bytes)
{
    size_t at = 0, n = 0;
    while ((n = chat_space(s + at, bytes - at)) > 0) {
        at += n;
    }
    return at;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void lines_count(lexer *l, const char *end)
{
    while (l->counted < end) {
        l->line += *l->counted++ == '\n';
    }
}

static greta_status lexeme_add(lexer *l, lexeme_kind kind, const char *s, size_t length)
{
    lexemes *list = l->list;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity < 128 ? 128 : list->capacity * 2;
        lexeme *grown = realloc(list->item, capacity * sizeof *grown);
        if (grown == NULL) {
            return error_memory(l->err, "the chat template", capacity * sizeof *grown);
        }
        list->item = grown;
        list->capacity = capacity;
    }
    lines_count(l, s);
    list->item[list->n++] = (lexeme){.kind = kind, .line = l->line, .text = s, .length = length};
    return GRETA_OK;
}

void lexemes_free(lexemes *list)
{
    free(list->item);
    free(list->source);
    *list = (lexemes){0};
}

/* ---- Strings --------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* UTF-8 of a code point; 0: it has none. */
static size_t utf8_put(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
        return 0;
    }
    size_t n = code < 0x10000 ? 3 : 4;
    out[0] = (char)(n == 3 ? 0xe0 | code >> 12 : 0xf0 | code >> 18);
    for (size_t i = 1; i < n; i++) {
        out[i] = (char)(0x80 | (code >> 6 * (n - 1 - i) & 0x3f));
    }
    return n;
}

/* \xNN, \uNNNN and \UNNNNNNNN: reads `digits` digits at *s. */
static size_t escape_hex(const char *s, const char *end, int digits, char *out)
{
    uint32_t code = 0;
    if (end - s < digits) {
        return 0;
    }
    for (int i = 0; i < digits; i++) {
        int digit = hex_digit(s[i]);
        if (digit < 0 || code >> 28 != 0) {
            return 0;
        }
        code = code * 16 + (uint32_t)digit;
    }
    return utf8_put(code, out);
}

/* Resolves the escape whose letter is at s; returns the bytes read from there (0: refused) and
 * moves *out. What is written is never longer than what is read. */
static size_t escape_resolve(const char *s, const char *end, char **out)
{
    static const char letters[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = memchr(letters, *s, sizeof letters - 1);
    if (known != NULL) {
        *(*out)++ = values[known - letters];
        return 1;
    }
    if (*s == '\n') {
        return 1; /* A continued line. */
    }
    int digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    if (digits > 0) {
        size_t n = escape_hex(s + 1, end, digits, *out);
        *out += n;
        return n == 0 ? 0 : 1 + (size_t)digits;
    }
    if ((*s >= '0' && *s <= '9') || *s == 'N' || (unsigned char)*s >= 0x80) {
        return 0; /* Octal, names, and what Python makes of \ before a non-ASCII letter. */
    }
    *(*out)++ = '\\'; /* An unknown escape stays as it is. */
    *(*out)++ = *s;
    return 1;
}

static greta_status lex_string(lexer *l)
{
    char quote = l->text[l->at];
    char *out = l->text + l->at, *start = out;
    const char *s = start + 1, *end = l->text + l->n;
    uint32_t newlines = 0; /* counted before escapes are resolved in their place */
    lines_count(l, start);
    while (s < end && *s != quote) {
        newlines += *s == '\n';
        if (*s != '\\') {
            *out++ = *s++;
            continue;
        }
        size_t n = end - s < 2 ? 0 : escape_resolve(s + 1, end, &out);
        if (n == 0) {
            return lexer_refuse(l, "an escape that is not supported");
        }
        newlines += s[1] == '\n';
        s += 1 + n;
    }
    if (s == end) {
        return lexer_refuse(l, "a string without an end");
    }
    l->at = (size_t)(s + 1 - l->text);
    GRETA_TRY(lexeme_add(l, LEXEME_STRING, start, (size_t)(out - start)));
    l->counted = s;
    l->line += newlines;
    return GRETA_OK;
}

/* ---- Tags ------------------------------------------------------------------------------------ */

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* One lexeme inside a tag that is not its end. *depth counts open brackets. */
static greta_status lex_inside(lexer *l, int *depth)
{
    static const char *const operators[] = {"==", "!=", ">=", "<=", "//", "**"};
    const char *s = l->text + l->at;
    size_t rest = l->n - l->at, length = 1;
    if (*s == '\'' || *s == '"') {
        return lex_string(l);
    }
    if (is_word(*s)) {
        bool is_number = *s >= '0' && *s <= '9';
        while (length < rest && (is_word(s[length]) || (is_number && s[length] == '.'))) {
            length++;
        }
        l->at += length;
        return lexeme_add(l, is_number ? LEXEME_NUMBER : LEXEME_NAME, s, length);
    }
    if (strchr("+-/*%~[](){}><=!.:|,;", *s) == NULL || *s == '\0') {
        return lexer_refuse(l, "a character that means nothing");
    }
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        length = rest >= 2 && memcmp(s, operators[i], 2) == 0 ? 2 : length;
    }
    *depth += strchr("([{", *s) != NULL ? 1 : strchr(")]}", *s) != NULL ? -1 : 0;
    if (*depth < 0) {
        return lexer_refuse(l, "a bracket that was not opened");
    }
    l->at += length;
    return lexeme_add(l, LEXEME_OPERATOR, s, length);
}

/* Whether the tag ends here: [-+] close. Then moves behind it and the white space it takes. */
static bool lex_end(lexer *l, const char *close)
{
    size_t at = l->at;
    char sign = at < l->n ? l->text[at] : '\0';
    bool has_sign = sign == '-' || (sign == '+' && close[0] != '}');
    at += has_sign;
    if (l->n - at < 2 || memcmp(l->text + at, close, 2) != 0) {
        return false;
    }
    at += 2;
    if (has_sign && sign == '-') {
        at += space_run(l->text + at, l->n - at);
    } else if (!has_sign && close[0] != '}' && at < l->n && l->text[at] == '\n') {
        at++; /* trim_blocks */
    }
    l->is_line_start = l->text[at - 1] == '\n';
    l->at = at;
    return true;
}

/* Everything from behind {{ or {% to the end of the tag. */
static greta_status lex_tag(lexer *l, bool is_print)
{
    int depth = 0;
    size_t first = l->list->n;
    GRETA_TRY(lexeme_add(l, is_print ? LEXEME_PRINT : LEXEME_TAG, l->text + l->at, 0));
    for (;;) {
        l->at += space_run(l->text + l->at, l->n - l->at);
        if (depth == 0 && lex_end(l, is_print ? "}}" : "%}")) {
            break;
        }
        if (l->at == l->n) {
            return lexer_refuse(l, "a tag without an end");
        }
        GRETA_TRY(lex_inside(l, &depth));
    }
    if (!is_print && l->list->n > first + 1 &&
        lexeme_is(&l->list->item[first + 1], LEXEME_NAME, "raw")) {
        return lexer_refuse(l, "a raw block");
    }
    return lexeme_add(l, is_print ? LEXEME_PRINT_END : LEXEME_TAG_END, l->text + l->at, 0);
}

static greta_status lex_comment(lexer *l)
{
    while (!lex_end(l, "#}")) {
        if (l->at == l->n) {
            return lexer_refuse(l, "a comment without an end");
        }
        l->at++;
    }
    return GRETA_OK;
}

/* The data before a tag, without the white space that the tag takes. */
static size_t data_length(const lexer *l, const char *data, size_t length, const char *tag)
{
    if (tag[2] == '-') {
        return chat_trim_end(data, length);
    }
    if (tag[2] == '+' || tag[1] == '{') {
        return length;
    }
    size_t line = length; /* lstrip_blocks */
    while (line > 0 && data[line - 1] != '\n') {
        line--;
    }
    bool is_blank = space_run(data + line, length - line) == length - line;
    return (line > 0 || l->is_line_start) && is_blank ? line : length;
}

static greta_status lex_all(lexer *l)
{
    while (l->at < l->n) {
        const char *data = l->text + l->at;
        size_t rest = l->n - l->at, length = 0;
        while (length < rest && !(data[length] == '{' && strchr("{%#", data[length + 1]) != NULL &&
                                  data[length + 1] != '\0')) {
            length++;
        }
        const char *tag = data + length;
        size_t kept = length < rest ? data_length(l, data, length, tag) : length;
        if (kept > 0) {
            GRETA_TRY(lexeme_add(l, LEXEME_DATA, data, kept));
        }
        l->at += length;
        if (length == rest) {
            break;
        }
        l->at += tag[2] == '-' || tag[2] == '+' ? 3 : 2;
        if (tag[1] == '#') {
            GRETA_TRY(lex_comment(l));
        } else {
            GRETA_TRY(lex_tag(l, tag[1] == '{'));
        }
    }
    return lexeme_add(l, LEXEME_END, l->text + l->n, 0);
}

/* ---- Entry ----------------------------------------------------------------------------------- */

/* Copies the source with every newline as \n, without a last one. */
static void source_normalise(lexer *l, const char *source, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        bool is_crlf = source[i] == '\r' && i + 1 < bytes && source[i + 1] == '\n';
        if (!is_crlf) {
            l->text[n++] = source[i] == '\r' ? '\n' : source[i];
        }
    }
    l->n = n > 0 && l->text[n - 1] == '\n' ? n - 1 : n;
    memset(l->text + l->n, 0, 3 + bytes - l->n); /* A tag's sign can be looked at unchecked. */
}

greta_status chat_lex(const char *source, size_t bytes, lexemes *list, greta_error *err)
{
    *list = (lexemes){.source = malloc(bytes + 3)};
    if (list->source == NULL) {
        return error_memory(err, "the chat template", bytes);
    }
    lexer l = {.list = list, .text = list->source, .is_line_start = true, .line = 1, .err = err};
    l.counted = l.text;
    source_normalise(&l, source, bytes);
    return lex_all(&l);
}
