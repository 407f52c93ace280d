"""Writes chat.json: conversations rendered by Hugging Face's own `apply_chat_template`.

    pip install transformers jinja2
    python make_chat.py

The templates are written for this test in the styles of several families (except SmolLM2's, which is the one its GGUF
file carries), and use between them the constructs that templates in the wild use.
"""

import datetime
import json
import pathlib

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 3, 7, 15, 4, 5)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedClock

TEMPLATES = {
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3_style": """{{- bos_token }}
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
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You may call these functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen_style": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "mistral_style": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{% if loop.index0 == 0 and system_message != false %}{{ '[INST] ' + system_message.strip() + '\n\n' + message['content'] + ' [/INST]' }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}
""",
    "constructs": """{# a comment #}
  {% for message in messages %}
    {% if message.role == 'skip' %}
      {% continue %}
    {% elif message.role == 'stop' %}
      {% break %}
    {% endif %}
    {%- if message.role == 'assistant' %}
    {%- generation %}
[{{ message.role | upper }}|{{ message.content | title }}]
    {%- endgeneration %}
    {% else %}
({{ loop.index }}/{{ loop.length }} {{ message.get('name', 'nobody') }}: {{ message.content.replace('a', 'A') }})
    {% endif %}
  {% endfor %}
{% macro pair(key, value='none') -%}
<{{ key }}={{ value }}>
{%- endmacro %}
{{ pair('x') }}{{ pair('y', value=3) }}
{{ true }} {{ false }} {{ none }} {{ 1.0 }} {{ 3 // 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 1e20 }} {{ [1, 'two', none, true] }} {{ {'k': 'v', 'a': [1.5]} }}
{{ undefined_variable }}|{{ undefined_variable | default('fallback') }}|{{ 'b' if undefined_variable else 'c' }}
{% for key, value in {'z': 1, 'a': {'b': "it's"}}.items() %}
{{ key }}->{{ value }};
{% endfor %}
{{ ['x', 'y'] | join(', ') }} {{ messages | map(attribute='role') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ {'html': '<b>&\\'"</b>', 'é': 'ü\\n', 'n': [1, 2.5, 1e-7, 1e16, none, true]} | tojson }}
{{ {'b': [], 'a': {}, 'c': [1, {'d': 2}]} | tojson(indent=2) }}
{{ {'b': 'é😀', 'a': 1} | tojson(sort_keys=true, ensure_ascii=true) }}
{{ "  padded  ".strip() }}|{{ "a,b,c".split(',')[1] }}|{{ "Hello"[1:3] }}|{{ "Hello"[-1] }}|{{ "x" ~ 1 ~ none }}
{% set text %}
captured {{ 1 + 1 }}
{% endset %}
{{ text | trim }} {{ 'a' in 'cat' }} {{ 3 is odd }} {{ 'n' is in ['n'] }} {{ "%s has %d" | format('it', 3) }} {{ '{} of {}'.format(1, 2) }}
{% if tools %}tools{% elif documents %}documents {{ documents[0].title }}{% else %}neither{% endif %}

{{ 'eos ' + eos_token }}
""",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says how the weather is <now> & \"here\".",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name, e.g. Zürich"},
                "days": {"type": "integer", "default": 3},
                "threshold": {"type": "number", "default": 0.5},
            },
            "required": ["city"],
        },
    },
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
PLAIN = [user("Hi there"), assistant(" Hello! "), user("Name a river.\nOnly one.")]
WITH_SYSTEM = [system("  You are terse.  "), *PLAIN]
WITH_TOOLS = [
    system("Use tools."),
    user("Weather in Zürich?"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "name": "get_weather", "content": "{\"sky\": \"grey\"}"},
]
THINKING = [
    user("2+2?"),
    assistant("<think>\nadd\n</think>\n\n4"),
    user("and 3+3?"),
    assistant("<think>\nadd again\n</think>\n\n6"),
]
ODD = [
    {"role": "user", "content": "banana", "name": "Ann"},
    {"role": "skip", "content": ""},
    {"role": "assistant", "content": "an answer"},
    {"role": "user", "content": "Grüße 😀 <|im_end|> & \"quotes\""},
    {"role": "stop", "content": ""},
    {"role": "user", "content": "never seen"},
]
TWO_CALLS = [user("Weather?"), assistant("", tool_calls=[CALL, CALL])]

CASES = [
    ("smollm2", dict(messages=PLAIN, add_generation_prompt=True)),
    ("smollm2", dict(messages=WITH_SYSTEM, add_generation_prompt=False)),
    ("smollm2", dict(messages=[user("Grüße 😀\n\n")], add_generation_prompt=True)),
    ("llama3_style", dict(messages=PLAIN, add_generation_prompt=True)),
    ("llama3_style", dict(messages=WITH_SYSTEM, add_generation_prompt=False)),
    ("llama3_style", dict(messages=WITH_TOOLS, tools=[WEATHER], add_generation_prompt=True)),
    ("llama3_style", dict(messages=PLAIN, variables={"date_string": "1 Jan 2025"})),
    ("llama3_style", dict(messages=TWO_CALLS, add_generation_prompt=True)),
    ("qwen_style", dict(messages=PLAIN, add_generation_prompt=True)),
    ("qwen_style", dict(messages=WITH_SYSTEM, add_generation_prompt=True, variables={"enable_thinking": False})),
    ("qwen_style", dict(messages=WITH_TOOLS, tools=[WEATHER], add_generation_prompt=True)),
    ("qwen_style", dict(messages=THINKING)),
    ("mistral_style", dict(messages=PLAIN, add_generation_prompt=True)),
    ("mistral_style", dict(messages=WITH_SYSTEM)),
    ("mistral_style", dict(messages=[user("a"), user("b")])),
    ("constructs", dict(messages=ODD)),
    ("constructs", dict(messages=PLAIN, tools=[WEATHER])),
    ("constructs", dict(messages=PLAIN, documents=[{"title": "T", "text": "x"}])),
]


def main():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    cases = []
    for template, given in CASES:
        case = {"template": template, **given}
        arguments = {key: value for key, value in given.items() if key not in ("messages", "variables")}
        try:
            case["expected"] = tokenizer.apply_chat_template(
                given["messages"],
                chat_template=TEMPLATES[template],
                tokenize=False,
                **arguments,
                **given.get("variables", {}),
            )
        except Exception as error:
            case["error"] = str(error)
        cases.append(case)
    golden = {
        "made_with": f"transformers {transformers.__version__}",
        "now_unix_seconds": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "templates": TEMPLATES,
        "cases": cases,
    }
    path = pathlib.Path(__file__).with_name("chat.json")
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for case in cases:
        print(case["template"], repr(case.get("expected", case.get("error")))[:150])


main()
