"""Chat templates in the constructs that those of the model families use, written for the tests:
none is a copy, each shows what its family's needs an interpreter for. Also the environment in which
transformers renders them.
"""
import datetime
import functools
import json

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}
{%- set intro = messages[0]['content'] %}{% else %}{% set turns = messages %}
{%- set intro = false %}{% endif %}
{%- for turn in turns %}{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must take turns: user, assistant, user, ...') }}{% endif %}
{%- if loop.index0 == 0 and intro != false %}
{%- set text = '<<SYS>>\\n' + intro + '\\n<</SYS>>\\n\\n' + turn['content'] %}
{%- else %}{% set text = turn['content'] %}{% endif %}
{%- if turn['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{%- elif turn['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MISTRAL = r"""{%- if messages[0]["role"] == "system" %}
    {%- set intro = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}

{#- Turns must alternate, but for those of tools. #}
{%- set ns = namespace(index=0, calls=[]) %}
{%- for message in turns %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("Not alternating after " ~ ns.index ~ " turns") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == asked[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}{{- tool | tojson(indent=4) }}{% endfor %}
        {%- endif %}
        {%- if intro is defined and message == asked[-1] %}
            {{- "[INST] " + intro + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user, assistant and one system message: " + message.role) }}
    {%- endif %}
{%- endfor %}"""

LLAMA32 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today: " + date_string + ", " + strftime_now('%A %-d %B %y, %H:%M:%S (%I %p, day %j) 100%%') }}
{{- "\n\n" ~ system_message ~ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.arguments | tojson }}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

QWEN3 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' ~ (tools | map('tojson') | join('\n')) }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and
        not(message.content.startswith('<tool_response>') and
            message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}
            {%- set thought = thought.lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') }}
            {{- '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' ~ content ~ '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

GEMMA = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first_prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""

PHI = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}\
{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}\
{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}\
{% generation %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endgeneration %}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}\
{{ eos_token }}{% endif %}"""

# Macros, set blocks, loop controls, methods, filters: what newer families write with.
MACROS = r"""{%- macro turn(role, content, end="<|im_end|>", note=none) -%}
<|im_start|>{{ role | upper }}{% if note is not none %} ({{ note }}){% endif %}|
{{- content }}{{ end }}
{%- endmacro -%}
{%- macro count(n) %}{% if n > 0 %}{{ n }},{{ count(n - 1) }}{% endif %}{% endmacro -%}
{%- set names = {"user": "U", "assistant": "A", 'system': "S"} -%}
{%- set header %}
  {{- messages | map(attribute="role") | join("/") }}: {{ messages | length }} turns
{%- endset -%}
{%- set shout | trim | replace("T", "t") %}  THAT  {% endset -%}
{{ header }} {{ shout }} {{ count(3) }}
{%- for key, value in names.items() %} {{ key }}={{ value }}{{ "," if not loop.last }}{% endfor %}
{% for message in messages if message.role != "system" %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
    {%- if not message.content.strip() %}{% continue %}{% endif %}
    {{- turn(names[message.role] or names.get(message.role, "?"), message.content[:20],
             note=loop.index ~ "/" ~ loop.length) }}
    {{- loop.previtem.role if loop.previtem is defined else "-" }}
    {{- "|" ~ (loop.nextitem | default({"role": "end"})).role ~ "|" }}
    {{- loop.revindex ~ loop.cycle("a", "b") }}
{% else %}
nobody speaks
{% endfor %}
{%- set lines = (messages | last).content.split("\n") %}
{{- lines | first }} {{ lines[-1:] }} {{ lines | reject("equalto", "") | list | length }}
{{- ["x", 'it\'s', 1, none, true, {"k": [1, "\n"]}] }} {{ ("a", 1) }} {{ [] }}
{{- messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ {"é": "\u2028\x01"} | tojson }}
{%- for i in range(1, 8, 3) %}{{ i }}{{ i is odd }}{{ i // 2 }}{{ -i % 3 }}{{ i * 2 > 5 }}
{%- endfor %}
{{- "abc"[::-1] ~ "äöü"[1] ~ "abc"[1:] ~ "abc"[-2:-1] ~ "ab" * 2 ~ ([1, 2] + [3]) }}
{{- "a-b-c".split("-", 1) ~ "  a b ".split() ~ "a,b".replace(",", ";").capitalize() }}
{{- (1 < 2 < 3) ~ (1 in [1, 2]) ~ ("a" not in "cab") ~ ("x" if false) ~ (none is none) }}
{{- messages | selectattr("role", "in", ["user", "tool"]) | map(attribute="content") | list }}
{{- "b" > "a" }}{{ "file.txt".endswith((".md", ".txt")) }}{{ "a\r\nb\n".splitlines() }}
{{- "a=b=c".rsplit("=", 1) }}{{ "xxabxx".strip("x") }}{{ "aXbX".count("X") }}
{{- "abc".find("c") }}"""

FAMILIES = {
    "llama2": LLAMA2, "zephyr": ZEPHYR, "mistral": MISTRAL, "llama3.2": LLAMA32, "qwen3": QWEN3,
    "gemma": GEMMA, "phi3": PHI, "macros": MACROS,
    "phi4": "{% for message in messages %}{% if (message['role'] == 'user') %}"
            "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
            "{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + "
            "message['content'] + '<|im_end|>'}}{% else %}{{'<|im_start|>system<|im_sep|>' + "
            "message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "mixtral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
               "(loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
               "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
               "{% else %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}",
}


class Generation(Extension):
    """{% generation %}: what the assistant says, which transformers marks."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


@functools.lru_cache(maxsize=64)
def compiled(template):
    return environment().from_string(template)


def environment():
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    found.globals["raise_exception"] = raise_exception
    found.globals["strftime_now"] = NOW.strftime
    found.filters["tojson"] = tojson
    return found
