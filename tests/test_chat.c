/* test_chat.c - chat templates that nobody wrote: whatever a template holds, rendering ends in a
 * text or in a refusal. That the text is jinja2's is tests/py/test_chat.py.
 */
#include "base/limits.h"
#include "model/tokenizer.h"

#include "gguf_builder.h"

#include <setjmp.h>
#include <stdarg.h>

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
    assert_string_equal(err.message,
                        "tokenizer.chat_template has 1048577 bytes (at most 1048576)");
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
    assert_string_equal(err.message,
                        "the chat template asks for an item of an undefined value");
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
        cmocka_unit_test(test_as_written),      cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_changed_anywhere), cmocka_unit_test(test_template_size),
        cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
