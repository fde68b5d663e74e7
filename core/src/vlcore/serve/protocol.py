"""OpenAI's chat completions: what a request may hold, and the bodies that answer it.

Nothing a client sends is ignored in silence. A field that would change the answer and is not supported is refused,
unless it has the value that changes nothing; one that does not change the answer is named in `Request.notes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError

from vlcore.config import GenerateConfig
from vlcore.errors import show, suggest_near
from vlcore.generate import Usage
from vlcore.serve.faults import RequestError

#: Fields whose other values would change the answer, with those that change nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},),
    "frequency_penalty": (0, 0.0), "presence_penalty": (0, 0.0), "tools": ([],), "tool_choice": ("none",),
    "functions": ([],), "function_call": ("none",), "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},), "modalities": (["text"],),
}
#: Fields that say something about the request, not about its answer.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
           "prompt_cache_retention")
#: Fields that only matter when an answer is sampled.
SAMPLING = ("top_p", "top_k", "seed")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Where a picture is: an http, https, data or file URL, or a path."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Turn(_Part):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Discriminator("type")]]

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """The content as parts."""
        return (TextPart(type="text", text=self.content),) if isinstance(self.content, str) else tuple(self.content)


class StreamOptions(_Part):
    """How a stream is written."""

    include_usage: bool | None = None


class Body(_Part):
    """The body of a request."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the server answers it.

    Attributes:
        model: the name of a model.
        turns: the conversation.
        settings: how to generate; unset values are the release's.
        stop: strings that end the answer and are no part of it.
        stream: whether the answer is sent piece by piece.
        include_usage: whether a stream ends with the usage.
        notes: fields that have no effect, each with the reason.
    """

    model: str
    turns: tuple[Turn, ...]
    settings: GenerateConfig
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    notes: tuple[str, ...]


def read_request(data: bytes) -> Request:
    """The request that a body holds.

    Raises:
        RequestError: 400, naming the field.
    """
    try:
        body = Body.model_validate_json(data)
    except ValidationError as error:
        raise _explain(error) from error
    notes = tuple(_check_extra(body))
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise RequestError(
            f"max_tokens {body.max_tokens} and max_completion_tokens {body.max_completion_tokens}",
            "they mean the same", "give one of them", param="max_tokens")
    if body.stream_options and not body.stream:
        raise RequestError("stream_options", "the answer is not streamed", "set stream to true", param="stream_options")
    settings = GenerateConfig(
        max_new_tokens=body.max_completion_tokens or body.max_tokens, temperature=body.temperature, top_p=body.top_p,
        top_k=body.top_k, repetition_penalty=body.repetition_penalty, seed=body.seed)
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return Request(body.model, tuple(body.messages), settings, _read_stop(body.stop), bool(body.stream), usage, notes)


def _explain(error: ValidationError) -> RequestError:
    """The deepest of pydantic's faults: those of the other branches of a union lie above it."""
    fault = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    branches = ("str", "text", "image_url", "list[str]")
    place = ".".join(str(key) for number, key in enumerate(fault["loc"])
                     if not (key in branches and number and isinstance(fault["loc"][number - 1], int))
                     and not str(key).startswith(("list[", "function-")) and (key != "str" or not number))
    why = fault["msg"][0].lower() + fault["msg"][1:]
    return RequestError(f"field {show(place)}" if place else "the body", show(why),
                        "write it as OpenAI's chat completions do", param=show(place) or None)


def _read_stop(given: str | list[str] | None) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stops) > 16 or not all(0 < len(stop) <= 256 for stop in stops):
        raise RequestError(f"stop with {len(stops)} strings", "it takes up to 16 of 1 to 256 signs", "give fewer",
                           param="stop")
    return stops


def _check_extra(body: Body) -> Iterator[str]:
    """Names the fields that have no effect; raises RequestError for those that would have one."""
    for name, value in (body.model_extra or {}).items():
        if name in IGNORED:
            yield name
        elif name in NEUTRAL:
            if value is not None and not any(type(value) is type(same) and value == same for same in NEUTRAL[name]):
                raise RequestError(f"{name} {show(value)}", "it is not supported",
                                   f"leave it out, or give {NEUTRAL[name][0]!r}", param=name)
        else:
            raise RequestError(f"field {show(name)}", "there is no such field, or it is not supported",
                               suggest_near(name, Body.model_fields), param=show(name))
    yield from _check_parts(body)


def _check_parts(body: Body) -> Iterator[str]:
    named: dict[str, None] = {}
    for turn in body.messages:
        _refuse_extra(turn, "messages", allowed=("name", "refusal"))
        named.update(dict.fromkeys(f"messages.{key}" for key in turn.model_extra or {}))
        for part in turn.parts:
            _refuse_extra(part, "messages.content")
            if isinstance(part, ImagePart):
                _refuse_extra(part.image_url, "messages.content.image_url")
                named.update({"image_url.detail": None} if part.image_url.detail not in (None, "auto") else {})
                if turn.role != "user":
                    raise RequestError(f"a picture in a {turn.role} message", "pictures belong to the user",
                                       "put it into a user message", param="messages")
    _refuse_extra(body.stream_options, "stream_options", allowed=("include_obfuscation",))
    yield from named


def _refuse_extra(part: _Part | None, place: str, allowed: tuple[str, ...] = ()) -> None:
    for name, value in ((part.model_extra if part else None) or {}).items():
        if name not in allowed and value is not None:
            raise RequestError(f"field {place}.{show(name)}", "it is not supported", "leave it out", param=place)


def find_idle(settings: GenerateConfig) -> tuple[str, ...]:
    """Fields that have no effect on an answer that is not sampled."""
    return tuple(f"{name} (greedy)" for name in SAMPLING if getattr(settings, name) is not None)


def write_usage(usage: Usage) -> dict[str, Any]:
    """`usage` in OpenAI's form, with the tokens of pictures and those found again beside the prompt's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"image_tokens": usage.image_tokens, "cached_tokens": usage.cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the bodies of one answer.

    Attributes:
        id: the answer's.
        created: seconds since 1970.
        model: the name the client gave.
        include_usage: whether chunks of a stream have `usage`, null but in the last.
    """

    id: str
    created: int
    model: str
    include_usage: bool = False

    def write_answer(self, text: str, reason: str, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._head("chat.completion") | {"choices": [choice], "usage": usage}

    def write_chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | usage

    def write_end(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The last chunk of a stream that was asked to tell the usage."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
