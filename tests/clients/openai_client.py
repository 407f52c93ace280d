"""Drives a running server through OpenAI's own Python client.

    python openai_client.py http://127.0.0.1:8000 [API_KEY]

Checks shapes and promises, not what a model says, so that it passes with any model that has a chat
template and can be held to a schema. Prints one line for each check; the first failure ends it.
"""

import json
import sys

import openai
from pydantic import BaseModel

BASE_URL = sys.argv[1].rstrip("/")
client = openai.OpenAI(
    base_url=f"{BASE_URL}/v1",
    api_key=sys.argv[2] if len(sys.argv) > 2 else "none",
    max_retries=0,
    timeout=300,
)
MODEL = client.models.list().data[0].id
HELLO = [{"role": "user", "content": "Say hello."}]
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": ADD}}]
FLAT_TOOLS = [{"type": "function", "name": "add", "parameters": ADD, "strict": True}]
ASK_ADD = "Call add: what is 2 + 3?"


class Sum(BaseModel):
    a: int
    b: int


def models():
    assert client.models.retrieve(MODEL).id == MODEL
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("an unknown model was found")


def chat():
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=16, seed=1, temperature=0.7
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 16 and usage.prompt_tokens > 1


def chat_is_repeatable():
    def ask():
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_completion_tokens=16, seed=7
        )
        return answer.choices[0].message.content

    assert ask() == ask()


def chat_stream():
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_completion_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens >= 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    reasons = [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason]
    assert len(reasons) == 1 and len({chunk.id for chunk in chunks}) == 1


def chat_stream_equals_whole():
    ask = {"model": MODEL, "messages": HELLO, "max_completion_tokens": 24, "seed": 3}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stream = client.chat.completions.create(**ask, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole, (text, whole)


def chat_continues():
    ask = {"model": MODEL, "messages": HELLO, "max_completion_tokens": 24, "seed": 3}
    extra = {"return_token_ids": True}
    pieces = []
    for chunk in client.chat.completions.create(**ask, stream=True, extra_body=extra):
        choice = chunk.choices[0]
        pieces.append((choice.delta.content or "", choice.token_ids or []))
    half = len(pieces) // 2
    ids = [token for _, tokens in pieces[:half] for token in tokens]
    extra["continue_token_ids"] = ids
    rest = client.chat.completions.create(**ask, stream=True, extra_body=extra)
    continued = "".join(chunk.choices[0].delta.content or "" for chunk in rest)
    assert continued == "".join(text for text, _ in pieces[half:])


def several_choices():
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=4, n=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def log_probs():
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=4, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
    spoken = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    assert answer.choices[0].message.content.strip() in spoken


def tools():
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": ASK_ADD}],
        tools=TOOLS,
        tool_choice="required",
        max_completion_tokens=200,
        temperature=0,
    )
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "add" and set(json.loads(call.function.arguments)) == {"a", "b"}
    follow_up = [
        {"role": "user", "content": ASK_ADD},
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "5"},
    ]
    client.chat.completions.create(model=MODEL, messages=follow_up, max_completion_tokens=4)


def tools_stream():
    named = {"type": "function", "function": {"name": "add"}}
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": ASK_ADD}],
        tools=TOOLS,
        tool_choice=named,
        max_completion_tokens=200,
        temperature=0,
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    call = answer.choices[0].message.tool_calls[0]
    assert call.id and call.function.name == "add"
    assert set(json.loads(call.function.arguments)) == {"a", "b"}


def structured_output():
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Two numbers as JSON."}],
        response_format=Sum,
        max_completion_tokens=200,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Sum)
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Two numbers as JSON."}],
        max_completion_tokens=200,
        temperature=0,
        extra_body={"guided_json": Sum.model_json_schema()},
    )
    Sum.model_validate_json(answer.choices[0].message.content)


def completions():
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, echo=True, n=2
    )
    assert all(choice.text.startswith("Once upon a time") for choice in answer.choices)
    answer = client.completions.create(
        model=MODEL, prompt=[[5, 6, 7], [8, 9]], max_tokens=4, logprobs=2
    )
    assert len(answer.choices) == 2 and len(answer.choices[0].logprobs.tokens) <= 4
    stream = client.completions.create(model=MODEL, prompt="Once", max_tokens=8, stream=True)
    assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")


def embeddings():
    # Without a format the client asks for base64 and decodes it.
    answer = client.embeddings.create(model=MODEL, input=["one", "two words"])
    as_floats = client.embeddings.create(
        model=MODEL, input="one", encoding_format="float", dimensions=4
    )
    assert len(answer.data) == 2 and len(as_floats.data[0].embedding) == 4
    assert answer.usage.prompt_tokens >= 3


def responses():
    answer = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=16)
    assert answer.status in ("completed", "incomplete") and isinstance(answer.output_text, str)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    called = client.responses.create(
        model=MODEL,
        input=ASK_ADD,
        instructions="Use the function.",
        tools=FLAT_TOOLS,
        tool_choice="required",
        max_output_tokens=200,
        temperature=0,
    )
    call = next(item for item in called.output if item.type == "function_call")
    assert set(json.loads(call.arguments)) == {"a", "b"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    history = [{"role": "user", "content": ASK_ADD}, call.model_dump(exclude_none=True), result]
    client.responses.create(model=MODEL, input=history, max_output_tokens=4)
    parsed = client.responses.parse(
        model=MODEL,
        input="Two numbers as JSON.",
        text_format=Sum,
        max_output_tokens=200,
        temperature=0,
    )
    assert isinstance(parsed.output_parsed, Sum)


def responses_stream():
    with client.responses.stream(
        model=MODEL, input="Say hello.", max_output_tokens=16
    ) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events if event.sequence_number is not None]
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert events[-1].response.output_text == text


def errors():
    def fails(kind, **request):
        try:
            client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **request})
        except kind as error:
            assert error.body["message"], error
            return error
        raise AssertionError(f"{request} did not fail")

    assert fails(openai.NotFoundError, model="no-such-model").code == "model_not_found"
    assert fails(openai.BadRequestError, temperature=-1).param == "temperature"
    assert fails(openai.BadRequestError, messages=[]).param == "messages"
    long = [{"role": "user", "content": "word " * 2_000_000}]
    assert fails(openai.BadRequestError, messages=long).code == "context_length_exceeded"


def request_ids():
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=HELLO,
        max_completion_tokens=1,
        extra_headers={"x-request-id": "my-own-id"},
    )
    assert answer.headers["x-request-id"] == "my-own-id" == answer.parse()._request_id


def cancellation():
    # More streams, one after the other, than would fit at once if any were left behind.
    for _ in range(50):
        stream = client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            stream=True,
            max_completion_tokens=100,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()
    chat()


CHECKS = [
    models, chat, chat_is_repeatable, chat_stream, chat_stream_equals_whole, chat_continues,
    several_choices, log_probs, tools, tools_stream, structured_output, completions, embeddings,
    responses, responses_stream, errors, request_ids, cancellation,
]

for check in CHECKS:
    check()
    print(f"ok {check.__name__}", flush=True)
