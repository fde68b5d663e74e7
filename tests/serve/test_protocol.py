"""What a request may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vlcore.config import GenerateConfig
from vlcore.generate import Usage
from vlcore.serve.faults import RequestError, write_error
from vlcore.serve.protocol import Writer, find_idle, read_request, write_usage

TURNS: list[Any] = [{"role": "user", "content": "Hi"}]


def read(**fields: Any) -> Any:
    return read_request(json.dumps({"model": "m", "messages": TURNS, **fields}).encode())


def test_a_plain_request_leaves_the_settings_to_the_release() -> None:
    request = read()
    assert request.settings == GenerateConfig()
    assert (request.model, request.stop, request.stream, request.notes) == ("m", (), False, ())
    assert request.turns[0].parts[0].text == "Hi"


def test_settings_are_read() -> None:
    request = read(max_completion_tokens=5, temperature=1, top_p=0.5, top_k=3, repetition_penalty=1.1, seed=-4,
                   stop="a", stream=True, stream_options={"include_usage": True})
    assert request.settings == GenerateConfig(
        max_new_tokens=5, temperature=1.0, top_p=0.5, top_k=3, repetition_penalty=1.1, seed=-4)
    assert (request.stop, request.stream, request.include_usage) == (("a",), True, True)
    assert find_idle(request.settings) == ("top_p (greedy)", "top_k (greedy)", "seed (greedy)")


@pytest.mark.parametrize("fields", [
    {"n": 1}, {"n": None}, {"logprobs": False}, {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"tools": []},
    {"tool_choice": "none"}, {"response_format": {"type": "text"}}, {"logit_bias": {}}, {"modalities": ["text"]},
    {"max_tokens": 4, "max_completion_tokens": 4}, {"stop": None}, {"stop": []},
])
def test_fields_that_change_nothing_are_taken(fields: dict[str, Any]) -> None:
    assert read(**fields).notes == ()


def test_fields_about_the_request_are_named() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}
    request = read(user="me", metadata={"a": 1}, messages=[{"role": "user", "name": "bob", "content": [image, image]}])
    assert request.notes == ("user", "metadata", "messages.name", "image_url.detail")


@pytest.mark.parametrize(("fields", "message", "param"), [
    ({"n": 2}, "n 2: it is not supported; leave it out, or give 1", "n"),
    ({"n": True}, "n True: it is not supported", "n"),
    ({"logprobs": True}, "logprobs True", "logprobs"),
    ({"frequency_penalty": 0.5}, "frequency_penalty 0.5", "frequency_penalty"),
    ({"tools": [{"type": "function"}]}, "tools", "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format", "response_format"),
    ({"temprature": 1}, "field temprature: there is no such field.*did you mean temperature", "temprature"),
    ({"temperature": "1"}, "field temperature: input should be a valid number", "temperature"),
    ({"temperature": -1}, "field temperature: input should be greater than or equal to 0", "temperature"),
    ({"top_p": 0}, "field top_p", "top_p"),
    ({"seed": 2**63}, "field seed", "seed"),
    ({"max_tokens": 0}, "field max_tokens", "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "they mean the same", "max_tokens"),
    ({"stop": ["a"] * 17}, "stop with 17 strings", "stop"),
    ({"stop": ""}, "stop with 1 strings", "stop"),
    ({"stop": [1]}, "field stop.0", "stop.0"),
    ({"stream_options": {"include_usage": True}}, "the answer is not streamed", "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "field stream_options.x", "stream_options"),
    ({"messages": []}, "field messages", "messages"),
    ({"messages": "Hi"}, "field messages", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "field messages.0.role", "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "field messages.0.content: field required", "messages.0.content"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "field messages.tool_calls", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "expected tags: 'text', 'image_url'",
     "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]},
     "field messages.0.content.0.image_url", "messages.0.content.0.image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "field messages.0.content.0.text",
     "messages.0.content.0.text"),
    ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, *TURNS]},
     "a picture in a system message", "messages"),
    ({"model": None}, "field model", "model"),
])
def test_what_cannot_be_answered_is_refused_by_name(fields: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff", b'{"model": "m"} x', b"NaN"])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="the body"):
        read_request(data)


def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    body = write_error(RuntimeError("/home/secret"))["error"]
    assert body["type"] == "server_error"
    assert "secret" not in body["message"]


def test_bodies_have_openais_form() -> None:
    usage = write_usage(Usage(10, 4, 2, 3))
    assert usage["total_tokens"] == 12
    assert usage["prompt_tokens_details"] == {"image_tokens": 4, "cached_tokens": 3}
    writer = Writer("id", 1, "m", include_usage=True)
    whole = writer.write_answer("Hi", "stop", usage)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}
    chunk = writer.write_chunk({"content": "H"})
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["usage"] is None
    assert "usage" not in Writer("id", 1, "m").write_chunk({})
    assert writer.write_end(usage)["choices"] == []
