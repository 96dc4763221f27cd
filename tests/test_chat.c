/* test_chat.c - chat templates that nobody wrote: whatever a template holds, rendering ends in a
 * text or in a refusal. That the text is jinja2's is tests/py/test_chat.py.
 */
#include "base/limits.h"
#include "model/tokenizer.h"

#include "gguf_builder.h"
#include "splice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

static const char template[] =
    "{%- if tools %}\n    {{- messages | tojson(1, [2]) }}\n"
    "{%- elif messages[0]['role'] == 'system' %}\n"
    "{{- '<|im_start|>' + messages[0].content | trim }}{% set n = loop is not defined %}\n"
    "{%- else %}\n  {# \"note\" -#} {{ \"\\x41\\u00e9\\n<|im_end|>\" ~ (1 + 2) % 2 }}\n"
    "{%- endif -%}\n{%- for m in messages[1:-1] %}\n"
    "  {% if not (m.role != \"user\" and loop.last) or 'role' in m and n %}\n"
    "{{ m.content.strip() if m['content'] is string else raise_exception('no') }}{{ bos_token }}\n"
    "  {%- endif %}\n{% endfor %}\n{% if add_generation_prompt %}<|im_start|>{% endif %}\n";

static const greta_message messages[] = {
    {"system", " Be \xe3\x80\x80"}, {"user", "one"}, {"assistant", "\xff two"}, {"user", ""}};

static const greta_chat_options options = {.size = sizeof options, .add_generation_prompt = 1};

/* A vocabulary of two tokens with this template. */
static void build(builder *b, const char *text, size_t bytes)
{
    put_header(b, 0, 6);
    put_key(b, "tokenizer.ggml.model", 8);
    put_string(b, "gpt2");
    put_key(b, "tokenizer.ggml.pre", 8);
    put_string(b, "gpt-2");
    put_array(b, "tokenizer.ggml.tokens", 8, 2);
    put_string(b, "a");
    put_string(b, "<s>");
    put_array(b, "tokenizer.ggml.merges", 8, 0);
    put_key_u32(b, "tokenizer.ggml.bos_token_id", 1);
    put_key(b, "tokenizer.chat_template", 8);
    put_bytes(b, text, bytes);
}

/* Renders; NULL after a refusal. */
static char *render(const char *text, size_t bytes, greta_error *err)
{
    builder b = {0};
    gguf *g = NULL;
    tokenizer *t = NULL;
    char *out = (char *)&b;
    *err = (greta_error){0};
    build(&b, text, bytes);
    assert_int_equal(gguf_parse(b.data, b.size, &g, err), GRETA_OK);
    assert_int_equal(tokenizer_new(g, 2, &t, err), GRETA_OK);
    greta_status status = chat_render(t, messages, 4, &options, &out, err);
    assert_true(status == GRETA_OK ? out != NULL : status == GRETA_BAD_INPUT && out == NULL);
    tokenizer_free(t);
    gguf_close(g);
    free(b.data);
    return out;
}

static void test_as_written(void **state)
{
    (void)state;
    greta_error err;
    char *text = render(template, sizeof template - 1, &err);
    assert_string_equal(err.message, "");
    assert_string_equal(text, "<|im_start|>Beone<s>\xff two<s><|im_start|>"); /* jinja2 says so */
    greta_free(text);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    greta_error err;
    for (size_t bytes = 0; bytes < sizeof template; bytes++) {
        greta_free(render(template, bytes, &err));
    }
}

static void test_changed_anywhere(void **state)
{
    (void)state;
    static const char other[] = "{}%#-+'\"\\()[]|.:=!~ \n\r\0a0ni\xe3";
    char changed[sizeof template];
    greta_error err;
    for (size_t i = 0; i < sizeof template - 1; i++) {
        for (size_t k = 0; k < sizeof other - 1; k++) {
            memcpy(changed, template, sizeof template);
            changed[i] = other[k];
            greta_free(render(changed, sizeof template - 1, &err));
        }
    }
}

/* What templates are made of, with numbers at the ends of their ranges. */
static const char *const piece[] = {
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "(",
    ")",
    "[",
    "]",
    "|",
    ".",
    ",",
    "~",
    "=",
    "\"",
    "{% for m in messages %}",
    "{% for a, b in m.items() recursive %}",
    "{% endfor %}",
    "{% if m %}",
    "{% elif loop.index0 > 1 %}",
    "{% else %}",
    "{% endif %}",
    "{% macro f(a, b=1) %}",
    "{{ f(f, b=messages) }}",
    "{% endmacro %}",
    "{{ loop(m) }}",
    "{% set ns = namespace(n=[], s='') %}",
    "{% set ns.s = ns.s ~ ns.s %}",
    "{% set x %}",
    "{% endset %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% break %}",
    "{% continue %}",
    "{% raw %}",
    "{% endraw %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% call f(1) %}",
    " | map(attribute='role') | list",
    " | selectattr('role', 'equalto', 'user')",
    " | tojson",
    " | tojson(indent=1000000)",
    " | join(messages)",
    " | replace('', 'ab')",
    " | indent(99999)",
    " | batch(0)",
    " | dictsort",
    " | unique | sort(reverse=true)",
    " | default(m, true)",
    ".split(' ', -1)",
    ".strip('\\u00e9')",
    "[::-1]",
    "[1:-9223372036854775808:3]",
    "[m]",
    " * 99999",
    " * 'ab'",
    " ** 65",
    " // 0",
    " % 0",
    " + 9223372036854775807",
    " - 1e308",
    " in messages",
    " is mapping",
    " is not none",
    " and not ",
    " if m else ",
    "'\\x41'",
    "range(1000000)",
    "range(9, -9, -4)",
    "cycler('a')",
    "lipsum()",
    "dict(a=m, **m)",
    "raise_exception('x')",
    "strftime_now('%Y %q %')",
    "messages[0]",
    "bos_token",
    "\xe3\x80",
};

/* Each answer comes in time, whatever a template asks for: the limits are on steps and bytes. */
static void test_spliced(void **state)
{
    (void)state;
    static const char plain[] =
        "Some text {{ messages[0].content }}, and {% for m in messages %} more of it: "
        "{{ m.role ~ m['content'] }} {% endfor %} {% if bos_token %} between all {% endif %} tags.";
    const char *sample[] = {template, plain};
    size_t n_text = 0, n_refused = 0;
    for (uint64_t round = 0; round < splice_rounds(3000); round++) {
        char text[2048];
        greta_error err;
        const char *whole = sample[round % 2];
        const splice_source source = {
            whole, strlen(whole), piece, sizeof piece / sizeof piece[0], 6, 4};
        size_t n = splice(&source, round, text);
        clock_t begun = clock();
        char *rendered = render(text, n, &err);
        double seconds = (double)(clock() - begun) / CLOCKS_PER_SEC;
        if (seconds > 30) {
            fail_msg("round %llu took %.0f seconds", (unsigned long long)round, seconds);
        }
        n_text += rendered != NULL;
        n_refused += rendered == NULL;
        greta_free(rendered);
    }
    assert_true(n_text > 200 && n_refused > 200);
}

static void test_template_size(void **state)
{
    (void)state;
    greta_error err;
    char *large = malloc(LIMIT_CHAT_TEMPLATE_BYTES + 1);
    assert_non_null(large);
    memset(large, 'x', LIMIT_CHAT_TEMPLATE_BYTES + 1);
    memcpy(large, "<|im_start|><|im_end|>", 22);
    char *text = render(large, LIMIT_CHAT_TEMPLATE_BYTES, &err);
    assert_int_equal(strlen(text), LIMIT_CHAT_TEMPLATE_BYTES);
    greta_free(text);
    assert_null(render(large, LIMIT_CHAT_TEMPLATE_BYTES + 1, &err));
    assert_string_equal(err.message, "tokenizer.chat_template has 1048577 bytes (at most 1048576)");
    free(large);
}

static void test_usage(void **state)
{
    (void)state;
    builder b = {0};
    gguf *g = NULL;
    tokenizer *t = NULL;
    char *out = NULL;
    greta_error err = {0};
    const greta_message half[] = {{"user", "x"}, {"user", NULL}};
    build(&b, template, sizeof template - 1);
    assert_int_equal(gguf_parse(b.data, b.size, &g, &err), GRETA_OK);
    assert_int_equal(tokenizer_new(g, 2, &t, &err), GRETA_OK);
    assert_int_equal(chat_render(t, half, 2, &options, &out, &err), GRETA_USAGE);
    assert_string_equal(err.message, "message 1 has no content");
    err = (greta_error){0};
    assert_int_equal(chat_render(t, NULL, 0, &options, &out, &err), GRETA_BAD_INPUT);
    assert_string_equal(err.message, "the chat template asks for an item of an undefined value");
    assert_int_equal(err.place, GRETA_PLACE_LINE);
    assert_int_equal(err.position, 3); /* the line */
    assert_null(out);
    tokenizer_free(t);
    gguf_close(g);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_written),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_changed_anywhere),
        cmocka_unit_test(test_template_size),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_spliced),
    };
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
