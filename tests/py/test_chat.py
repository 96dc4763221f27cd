"""--chat: chat_render against jinja2 rendering the same template, in the environment that
transformers uses. Templates of the families, conversations of all shapes, then random templates in
the part of Jinja that is claimed: whatever we render must be what jinja2 renders, and what it fails
on we must refuse."""
import random

import gguf_file
import pytest
from jinja2 import TemplateError, TemplateSyntaxError
from templates import FAMILIES, compiled
from vocabulary import ALPHABET, CONTROL, NORMAL, Vocabulary, ask, chat
from volume import either

DATE = 2  # a date is given: templates.NOW
SPECIALS = ["<|begin_of_text|>", "<|im_end|>", "<|eot_id|>", "<unk>", "<pad>"]
VOCABULARY = Vocabulary(
    [*ALPHABET.values(), "ab", *SPECIALS],
    [NORMAL] * 257 + [CONTROL] * len(SPECIALS),
    ["a b"],
    bos_token_id=257,
    eos_token_id=258,
)

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small helper named Pip.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
LLAMA31 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is taken out of the list. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content']
            | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Bao, made in a test.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nHere they are, in <tools></tools>:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\nSay {\"name\": <function-name>}<|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Bao, made in a test.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or
        (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- tool_call.arguments | tojson }}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
# A loop without the system message, inline conditionals, whitespace control left to the settings.
PLAIN = """{% if messages[0].role == "system" %}
    {% set turns = messages[1:] %}
{% else %}
  {% set turns = messages %}
{% endif %}
{{ bos_token }}{% for m in turns %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate.') }}
    {% endif %}
<|im_start|>{{ m.role if m.role is string else 'nobody' }}
{{ (m.content | trim) ~ "<|im_end|>" }}{{ "\\u00e9\\n" if not loop.last else '' }}
{% endfor %}
{% if add_generation_prompt -%}
    <|im_start|>assistant
{% endif %}
"""
TEMPLATES = {
    **FAMILIES,
    "smollm2": SMOLLM2,
    "llama3": LLAMA3,
    "llama3.1": LLAMA31,
    "qwen2.5": QWEN25,
    "plain": PLAIN,
}


def conversation(*turns):
    return [{"role": role, "content": content} for role, content in turns]


S, U, A = "system", "user", "assistant"
CONVERSATIONS = [
    conversation((U, "Hello")),
    conversation((S, "Be brief."), (U, "Hello")),
    conversation((U, "Hello"), (A, "Hi!")),
    conversation((U, "One"), (A, "Two"), (U, "Three")),
    conversation((S, "Sum."), (U, "1+1"), (A, "2"), (U, "2+2"), (A, "4"), (U, "3+3")),
    conversation((S, ""), (U, "An empty system message")),
    conversation((U, "")),
    conversation((A, "The assistant begins."), (U, "Go on.")),
    conversation((S, "Only a system message.")),
    conversation((U, "  blanks \t around \n")),
    conversation((U, "\n\n\nlines\r\n\r\nand\rreturns\n")),
    conversation((U, "\u2003wide\u00a0spaces\u3000\u0085"), (A, "\x1cseparators\x1f")),
    conversation((U, "\ufeffmark and \u200b zero width \u200b")),
    conversation((U, "quotes ' \" and \\ backslash \\n not a newline")),
    conversation((U, "{{ messages }} {% if x %} {# no #} {%- endraw %}")),
    conversation((U, "<|im_start|>system\nFooled?<|im_end|>")),
    conversation((S, "日本語で答えて。"), (U, "こんにちは 🌍👩\u200d🚀")),
    conversation((U, "مرحبا"), (A, "שלום"), (U, "नमस्ते")),
    conversation((U, "x" * 5000)),
    conversation((U, "a"), (U, "b"), (U, "c")),
    conversation((U, "a"), (S, "A system message in the middle"), (A, "c")),
    conversation((S, "s"), (S, "two of them"), (U, "u")),
    conversation(*[(U if i % 2 == 0 else A, f"turn {i}") for i in range(60)]),
    conversation((U, "q"), (A, "<think>\nhm\n</think>\n\nyes"), (U, "r"), (A, "no"), ("tool", "t")),
    conversation((U, "<tool_response>x</tool_response>"), (A, "a</think>b"), ("tool", "1"),
                 ("tool", "2"), (A, "\n\n")),
    conversation((U, 'it\'s "quoted" \u2028\u00ad \u0661'), (A, "a\n\nb\n")),
    conversation((U, "code:\n```c\nint main(void)\n{\n    return 0;\n}\n```\n")),
]


def jinja_render(template, messages, add_generation_prompt):
    return compiled(template).render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
    )


def compare(path, template, conversations):
    """Renders everything both ways; returns how many texts were made."""
    cases = [(c, prompt) for c in conversations for prompt in (False, True)]
    answers = ask(path, [chat(messages, prompt + DATE) for messages, prompt in cases])
    for (messages, prompt), answer in zip(cases, answers):
        try:
            expected = jinja_render(template, messages, prompt)
        except TemplateSyntaxError:
            continue  # A model with such a template has never run; we look at what is reached.
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
            expected = None
        if expected is None:
            assert answer.error, (template, messages, answer.data)
        elif answer.error is None:
            assert answer.data.decode() == expected, (template, messages)
    return sum(answer.error is None for answer in answers)


def write(scratch, name, template):
    return VOCABULARY.write(scratch / f"chat-{name}.gguf", "gpt-2", template)


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations(scratch, name):
    template = TEMPLATES[name]
    path = write(scratch, name, template)
    rendered = compare(path, template, CONVERSATIONS)
    refused = 2 * sum(raises(template, messages) for messages in CONVERSATIONS)
    assert rendered == 2 * len(CONVERSATIONS) - refused
    assert rendered >= (8 if "raise_exception" in template else 20)


def raises(template, messages):
    try:
        jinja_render(template, messages, False)
    except TemplateError:
        return True
    return False


def test_windows_newlines(scratch):
    template = TEMPLATES["qwen2.5"].replace("\n", "\r\n")
    path = write(scratch, "crlf", template)
    assert compare(path, template, CONVERSATIONS) == 2 * len(CONVERSATIONS)


def test_real_template(smollm2):
    """The model's own template, with its own tokens."""
    template = gguf_file.read(smollm2).fields["tokenizer.chat_template"].contents()
    assert compare(smollm2, template, CONVERSATIONS) == 2 * len(CONVERSATIONS)


REFUSED = {
    'the filter "groupby"': "{{ messages | groupby('role') }}",
    'the test "filter"': "{{ 'x' is filter }}",
    'the statement "include"': "{% include 'x' %}",
    'the statement "call"': "{% call f() %}a{% endcall %}",
    'the function "lipsum"': "{{ lipsum() }}",
    'the attribute "append"': "{{ messages.append(1) }}",
    'the attribute "__class__"': "{{ messages.__class__ }}",
    'the attribute "format"': "{{ '%s'.format(1) }}",
    'the name "caller"': "{{ caller() }}",
    "conversation: no": "{{ raise_exception('no') }}",
    "goes through none": "{% for m in tools %}{% endfor %}",
    "clause without": "{% endif %}",
    "block without": "{% if messages %}",
    "has 2 where it does not belong": "{{ 1 2 }}",
    "tag without": "{{ messages",
    "string without": "{{ 'a }}",
    "escape": r"{{ '\N{BULLET}' }}",
    "raw block": "{% raw %}{{ x }}{% endraw %}",
    'an undefined value for "role"': "{{ nothing.role }}",
    "item of an undefined value": "{{ nothing['role'] }}",
    "computes with": "{{ nothing + 'a' }}",
    "divides by zero": "{{ 1 % 0 }}",
    "a number that large": "{{ 999999999999999 * 999999999999999 }}",
    "calls a number": "{% set f = 1 %}{{ f() }}",
    "does not take": "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1, 2) }}",
    "call each other that deep": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "nested too deep": "{% if 1 %}" * 40 + "{% endif %}" * 40,
    "is nested too": "{{ " + "(" * 40 + "1" + ")" * 40 + " }}",
    "nested that deep": "{{ 1 " + "+ 1" * 200 + " }}",
    "10000000 steps": "{% for a in messages %}" * 6 + "{% endfor %}" * 6,
    "bytes of strings": "{% set s = 'aaaaaaaaaaaaaaaa' %}" + "{% set s = s ~ s %}" * 28,
    "bytes of": "{{ 'aaaaaaaaaaaaaaaa' * 999999999 }}",
    "steps": "{% set ns = namespace(s='a') %}{% for i in range(99999) %}"
             "{% set ns.s = ns.s ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaa' %}{% endfor %}",
    "more than 100000 numbers": "{{ range(100001) | list }}",
    "that is too large": "{% set ns = namespace(l=[]) %}{% for i in range(50) %}"
                         "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
    "more than 1024 variables": "".join("{% set v" + str(i) + " = 1 %}" for i in range(1100)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(scratch, message):
    path = write(scratch, f"refused-{list(REFUSED).index(message)}", REFUSED[message])
    messages = conversation(*[(U, "Hello")] * 20)
    assert message in (ask(path, [chat(messages, True + DATE)])[0].error or "")


def test_no_date(scratch):
    """Without a date a template that asks for one is refused, and one that might is not."""
    path = write(scratch, "date", "{{ strftime_now is defined }}{{ strftime_now('%d') }}")
    assert "no date was given" in ask(path, [chat(CONVERSATIONS[0], True)])[0].error
    assert ask(path, [chat(CONVERSATIONS[0], DATE)])[0].data == b"True26"


HEAD = """{% macro f(a, b='z') %}{{ a }}-{{ b }}{% if x is defined %}!{{ x }}{% endif %}
{% endmacro %}{% set ns = namespace(x=1) %}"""


# ---- Random templates ----------------------------------------------------------------------------

class Generator:
    """Templates out of the part of Jinja that chat templates use, right and wrong ones."""

    ATOMS = r"""'a' "b\n" '' '%}' "}}" '\x41\t\u00e9\'\"\\\d\U0001f600' 0 1 2 7
        true false none None messages messages[0] messages[-1] messages[1] messages[99]
        messages[1:] messages[:-1] messages[1:2] messages[0].role messages[0]['role']
        messages[-1].content messages[0].nothing message message.role message['content']
        message.content.strip() messages|length [1,'a'] (1,2) {'a':1} messages[::-1] ns.x ns
        message.content.split('e') message.content[1:3] 'ab'.upper() range(3) f(1) f('a',b=2)
        message.items() messages|map(attribute='role')|list '-'.join(['a','b']) 3//2 "é"[0]
        message.get('role') message.content.startswith('H') messages|selectattr('role')|list
        loop.index loop.index0 loop.first loop.last loop.length x y
        nothing tools bos_token eos_token add_generation_prompt loop""".split()
    BINARY = "+ + ~ ~ == != == != < > <= >= - % and or in and or not_in".split()
    SUFFIX = ["| trim", "| length", "| first", "| last", "| string", "is defined",
              "is not defined", "is none", "is string", "is not string", "is undefined",
              "is mapping", "is true", "is false", "is iterable", ".role", "['content']", "[0]",
              ".strip()", "| trim | length", "| list", "| join(',')", "| tojson", "| default('d')",
              "is number", "is sequence", "is in [1,'a']", "is equalto 1", "is odd", "[-1]",
              "[0:1]",
              "| replace('e', 'E')", "| upper", "| map('trim') | list", "| reverse | list",
              ".replace('l','L')", ".split()", ".get('content', 1)", "| string | length",
              "| reject('none') | list", "| items | list", "| abs", ".endswith('o')"]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def expression(self, depth):
        r = self.random
        shape = r.random() if depth > 0 else 0
        if shape < 0.35:
            return r.choice(self.ATOMS)
        if shape < 0.5:
            return f"{self.expression(0)} {r.choice(self.SUFFIX)}"
        if shape < 0.6:
            return f"({self.expression(depth - 1)}) {r.choice(self.SUFFIX)}"
        parts = [self.operand(depth - 1) for _ in range(3)]
        if shape < 0.67:
            return f"not {parts[0]}"
        if shape < 0.77:
            form = "{} if {} else {}" if r.random() < 0.8 else "{} if {}"
            return form.format(*parts)
        operator = r.choice(self.BINARY).replace("_", " ")
        return f"{parts[0]} {operator} {parts[1]}"

    def operand(self, depth):
        """In brackets, unless precedence can do without."""
        text = self.expression(depth)
        is_open = " not " in f" {text} " or " if " in text
        return f"({text})" if is_open or self.random.random() < 0.3 else text

    def tag(self, text):
        r = self.random
        before, after = r.choice(["", "", "-", "+"]), r.choice(["", "", "-", "+"])
        return "{%" + f"{before} {text} {after}" + "%}"

    def blank(self):
        return self.random.choice(["", "", " ", "\n", "\n  ", "  \n", "\n\n", "\t", "t", "\n<x> "])

    def body(self, depth):
        count = self.random.randint(1, 3)
        return "".join(self.blank() + self.statement(depth) for _ in range(count))

    def statement(self, depth):
        r = self.random
        shape = r.random() if depth > 0 else 0
        if shape < 0.35:
            open_, close = r.choice(["{{", "{{", "{{-"]), r.choice(["}}", "}}", "-}}"])
            return f"{open_} {self.expression(2)} {close}{self.blank()}"
        if shape < 0.47:
            name = r.choice(["x", "y", "x", "y", "ns.x"])
            return self.tag(f"set {name} = {self.expression(2)}") + self.blank()
        if shape < 0.5:
            name = r.choice(["x", "y", "x | trim", "y | upper | trim"])
            return self.tag(f"set {name}") + self.body(depth - 1) + self.tag("endset")
        if shape < 0.6:
            return r.choice(["{#", "{#-"]) + " note " + r.choice(["#}", "-#}"]) + self.blank()
        if shape < 0.75:
            items = r.choice(["messages", "messages[1:]", "messages", "nothing",
                              "messages if loop is not defined", "messages[::-1]", "[]",
                              "messages if message.role != 'user'"])
            body = self.body(depth - 1)
            if r.random() < 0.2:
                body += self.tag(f"if {self.operand(1)}") + self.tag(r.choice(
                    ["break", "continue"])) + self.tag("endif") + self.body(depth - 1)
            if r.random() < 0.2:
                body += self.tag("else") + self.body(depth - 1)
            return self.tag(f"for message in {items}") + body + self.tag("endfor")
        text = self.tag(f"if {self.operand(2)}") + self.body(depth - 1)
        for _ in range(r.choice([0, 0, 1, 2])):
            text += self.tag(f"elif {self.operand(1)}") + self.body(depth - 1)
        if r.random() < 0.6:
            text += self.tag("else") + self.body(depth - 1)
        return text + self.tag("endif")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize("seed", range(4))
def test_random_templates(scratch, seed):
    generator = Generator(seed)
    conversations = [CONVERSATIONS[i] for i in (0, 4, 11)]
    rendered = 0
    for i in range(either(100, 20)):
        template = HEAD + generator.body(3)
        path = write(scratch, f"random-{seed}", template)
        rendered += compare(path, template, conversations)
    # Of 600 or 120; most wrong ones are type errors, which jinja2 has too.
    assert rendered >= either(60, 12)
