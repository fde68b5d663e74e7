"""The real command, asked by OpenAI's own client and by clients that mean no good."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from vlcore.config import GenerateConfig
from vlcore.messages import user
from vlcore.model import VLModel, load_model

from .conftest import KEY, Running, draw, write_url

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
COLOURS = ("red", "green", "blue", "orange")


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def ask(text: str, *urls: str) -> list[Any]:
    """Messages with pictures before a question."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def answer(model: VLModel, text: str, *images: bytes) -> str:
    return model.chat(text, images, settings=GenerateConfig(max_new_tokens=8, temperature=0.0)).text


def test_an_answer_is_the_models_own(client: openai.OpenAI, model: VLModel) -> None:
    reply = client.chat.completions.create(model="tiny", messages=ask("What is this?"), **GREEDY)
    assert reply.choices[0].message.content == answer(model, "What is this?")
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


def test_several_pictures_count_in_the_usage(client: openai.OpenAI, model: VLModel) -> None:
    images = [draw("red"), draw("blue", 80)]
    urls = [write_url(images[0]), write_url(images[1], "jpeg")]  # what it is called does not count
    reply = client.chat.completions.create(model="tiny", messages=ask("Compare.", *urls), **GREEDY)
    assert reply.choices[0].message.content == answer(model, "Compare.", *images)
    wanted = model.chat("Compare.", images, settings=GenerateConfig(max_new_tokens=1)).usage
    details = reply.usage.prompt_tokens_details.model_dump()  # type: ignore[union-attr]
    assert (reply.usage.prompt_tokens, details["image_tokens"]) == (wanted.prompt_tokens, wanted.image_tokens)


def test_pieces_of_a_stream_make_the_answer_and_the_usage_comes_last(client: openai.OpenAI, model: VLModel) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=ask("What is this?", write_url(draw("red"))), stream=True,
        stream_options={"include_usage": True}, **GREEDY)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer(model, "What is this?", draw("red"))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len(chunks) > 4


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI, model: VLModel) -> None:
    whole = answer(model, "What is this?")
    stop = whole[3:5]
    for stream in (False, True):
        made = client.chat.completions.create(
            model="tiny", messages=ask("What is this?"), stop=[stop, "never"], stream=stream, **GREEDY)
        if stream:
            chunks = list(made)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = made.choices[0].message.content, made.choices[0].finish_reason
        assert text == whole[: whole.index(stop)].strip()
        assert reason == "stop"


def test_a_seed_makes_a_sampled_answer_repeatable(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str | None:
        reply = client.chat.completions.create(
            model="tiny", messages=ask("Say something."), temperature=1.5, seed=seed, max_tokens=12)
        return reply.choices[0].message.content

    assert sample(1) == sample(1) != sample(2)


def test_adapters_are_chosen_by_name_and_the_base_is_left_as_it_is(
    client: openai.OpenAI, model: VLModel, release: Path, adapters: dict[str, Path]
) -> None:
    image = draw("green")
    wanted = {"tiny": answer(model, "What is this?", image)}
    for name, folder in adapters.items():
        wanted[name] = answer(load_model(str(release), adapter=folder), "What is this?", image)
    assert len(set(wanted.values())) == 3
    assert [each.id for each in client.models.list()] == list(wanted)
    for name in (*wanted, *reversed(wanted)):
        reply = client.chat.completions.create(model=name, messages=ask("What is this?", write_url(image)), **GREEDY)
        assert reply.choices[0].message.content == wanted[name]


def test_a_talks_earlier_turns_are_not_computed_again(client: openai.OpenAI, model: VLModel) -> None:
    messages = ask("What is this, in a few words?", write_url(draw("purple", 90)))
    first = client.chat.completions.create(model="tiny", messages=messages, **GREEDY)
    text = first.choices[0].message.content or ""
    later = [*messages, {"role": "assistant", "content": text}, *ask("And now?")]
    second = client.chat.completions.create(model="tiny", messages=later, **GREEDY)
    usage = second.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens // 2
    history = model.chat("What is this, in a few words?", [draw("purple", 90)],
                         settings=GenerateConfig(max_new_tokens=8, temperature=0.0)).history
    alone = model.answer([(*history, user("And now?"))], GenerateConfig(max_new_tokens=8, temperature=0.0))
    assert second.choices[0].message.content == alone[0].text


def test_a_file_below_an_allowed_folder_is_read(client: openai.OpenAI, model: VLModel, pictures: Path) -> None:
    path = pictures / "open" / "cat.png"
    for url in (str(path), path.as_uri()):
        reply = client.chat.completions.create(model="tiny", messages=ask("What is this?", url), **GREEDY)
        assert reply.choices[0].message.content == answer(model, "What is this?", path.read_bytes())


def test_an_unknown_model_a_wrong_key_and_a_long_prompt_are_told_apart(
    client: openai.OpenAI, server: Running
) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean tiny?"):
        client.chat.completions.create(model="tini", messages=ask("Hi"), **GREEDY)
    with pytest.raises(openai.BadRequestError, match="a prompt of 5.. tokens.*may have 400") as caught:
        client.chat.completions.create(model="tiny", messages=ask("0 1" * 180), **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="max_tokens 1000"):
        client.chat.completions.create(model="tiny", messages=ask("Hi"), max_tokens=1000)
    other = client.with_options(api_key="another key")
    for call in (other.models.list, lambda: other.chat.completions.create(model="tiny", messages=ask("Hi"))):
        with pytest.raises(openai.AuthenticationError, match="it is not the one of this server"):
            call()
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx2.get(f"{server.url}/metrics").status_code == 401


def test_a_field_without_effect_is_named_in_a_header(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=ask("Hi"), user="me", top_p=0.5, **GREEDY)
    assert raw.headers["x-vlcore-ignored"] == "user, top_p (greedy)"


def read_metric(server: Running, name: str) -> float:
    text = httpx2.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: Running, client: openai.OpenAI, stream: bool) -> None:
    long = {"temperature": 0, "max_tokens": 350}
    if stream:
        with client.chat.completions.create(model="tiny", messages=ask("Hi"), stream=True, **long) as pieces:
            next(iter(pieces))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.1).chat.completions.create(model="tiny", messages=ask("Hi"), **long)
    end = time.monotonic() + 20
    while read_metric(server, "vlcore_running") and time.monotonic() < end:
        time.sleep(0.02)
    assert read_metric(server, "vlcore_running") == 0


def make_questions() -> list[dict[str, Any]]:
    """Sixty requests of different models, lengths and pictures."""
    chance = random.Random(0)
    questions = []
    for number in range(60):
        urls = [write_url(draw(COLOURS[number % 4], 30 + number))] * (number % 3)
        questions.append({
            "model": ("tiny", "tiny", "one", "two.0")[number % 4], "temperature": 0,
            "messages": ask(f"What is {number}?" * (1 + number % 4), *urls),
            "max_tokens": 1 + chance.randrange(8), "stream": number % 5 == 0,
        })
    return questions


async def read_text(client: httpx2.AsyncClient, question: dict[str, Any]) -> str:
    response = await client.post("/v1/chat/completions", json=question)
    assert response.status_code == 200, response.text
    if not question["stream"]:
        return str(response.json()["choices"][0]["message"]["content"])
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines)


def test_a_thousand_requests_of_32_clients_get_their_own_answers_and_memory_stays(server: Running) -> None:
    questions = make_questions()

    headers = {"Authorization": f"Bearer {KEY}"}
    settings: dict[str, Any] = {"base_url": server.url, "headers": headers, "timeout": 60}

    async def run() -> tuple[list[str], int, list[tuple[int, str]], int]:
        async with httpx2.AsyncClient(**settings) as client:
            alone = [await read_text(client, question) for question in questions]
        waiting = iter([random.Random(1).randrange(60) for _ in range(100)])
        await asyncio.gather(*(work(waiting, []) for _ in range(32)))
        before = server.memory
        chance, got = random.Random(2), []
        waiting = iter([chance.randrange(60) for _ in range(1000)])
        await asyncio.gather(*(work(waiting, got) for _ in range(32)))
        return alone, before, got, server.memory

    async def work(waiting: Iterator[int], got: list[tuple[int, str]]) -> None:
        async with httpx2.AsyncClient(**settings) as client:
            for number in waiting:
                got.append((number, await read_text(client, questions[number])))

    alone, before, got, after = asyncio.run(run())
    assert len(got) == 1000
    assert [number for number, text in got if text != alone[number]] == []
    assert len(set(alone)) > 30
    assert after - before < 40


def write_bomb() -> bytes:
    """A small PNG of 20,000 by 20,000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501 * 20000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_animation() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in COLOURS]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a file URL": ("file:///etc/passwd", "does not read such files"),
    "an absolute path": ("/etc/passwd", "does not read such files"),
    "a relative path": ("cat.png", "does not read such files"),
    "a way out of the folder": ("{open}/../secret.png", "does not read such files"),
    "a link out of the folder": ("{open}/link.png", "does not read such files"),
    "a pipe": ("{open}/pipe.png", "it is no file"),
    "a folder": ("{open}", "it cannot be read (Is a directory)"),
    "a file that is not there": ("{open}/dog.png", "cannot be read"),
    "a host in a file URL": ("file://host{open}/cat.png", "does not read such files"),
    "this machine": ("http://127.0.0.1:{port}/health", "not one of the public internet"),
    "this machine in IPv6": ("http://[::1]:{port}/health", "not one of the public internet"),
    "this machine in IPv4 in IPv6": ("http://[::ffff:127.0.0.1]:{port}/", "not one of the public internet"),
    "this machine as a number": ("http://2130706433:{port}/", "not one of the public internet"),
    "this machine in octal": ("http://0177.0.0.1:{port}/", "Invalid IPv4 address"),
    "this machine in hexadecimal": ("http://0x7f.1:{port}/", "not one of the public internet"),
    "this machine by name": ("http://localhost:{port}/", "not one of the public internet"),
    "any address": ("http://0.0.0.0:{port}/", "not one of the public internet"),
    "metadata of a cloud": ("http://169.254.169.254/latest/meta-data", "not one of the public internet"),
    "an intranet": ("http://10.0.0.1/", "not one of the public internet"),
    "a multicast address": ("http://224.0.0.1/", "not one of the public internet"),
    "a password": ("http://user:password@93.184.216.34/", "no plain http or https URL"),
    "another scheme": ("ftp://93.184.216.34/cat.png", "does not read such files"),
    "no host": ("http:///cat.png", "no plain http or https URL"),
    "a sign 0": ("/a\x00", "does not read such files"),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>", "it is no PNG"),
    "a page": (b"<!doctype html><img src='x'>", "it is no PNG"),
    "a script for a printer": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no PNG"),
    "half a picture": (draw("red", 400)[:150], "it cannot be decoded"),
    "nothing": (b"", "it is no PNG"),
    "an animation": (write_animation(), "it is an animation"),
    "a bomb": (write_bomb(), "exceeds 1000000 pixels"),
    "damaged base64": ("data:image/png;base64,%%%", "its base64 is damaged"),
    "text in a data URL": ("data:text/plain,hello", "without ;base64"),
}


def test_every_bad_picture_is_refused_in_one_line_and_memory_stays(
    client: openai.OpenAI, server: Running, pictures: Path
) -> None:
    before = server.memory
    for case, (source, why) in REFUSED.items():
        url = write_url(source) if isinstance(source, bytes) else source.replace("{open}", str(pictures / "open"))
        url = url.replace("{port}", str(urlsplit(server.url).port))
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=ask("What is this?", url), **GREEDY)
        message = caught.value.body["message"]  # type: ignore[index]
        assert why in message and "\n" not in message and len(message) < 500, f"{case}: {message}"
    with pytest.raises(openai.BadRequestError, match="4 pictures: a request may have 3"):
        client.chat.completions.create(model="tiny", messages=ask("?", *[write_url(draw("red"))] * 4), **GREEDY)
    assert httpx2.get(f"{server.url}/health").status_code == 200
    assert server.memory - before < 40


def talk(server: Running, *pieces: bytes, limit: float = 20.0) -> bytes:
    """What a server says to bytes on a connection, until it closes it."""
    parts = urlsplit(server.url)
    said = b""
    with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=limit) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            while more := connection.recv(65536):
                said += more
        except ConnectionError:
            pass  # it need not read what it will not take
    return said


def test_endless_headers_and_bodies_are_cut_off_and_memory_stays(server: Running) -> None:
    before = server.memory
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    key = f"Authorization: Bearer {KEY}\r\n".encode()
    line = b"x: " + b"a" * 10000 + b"\r\n"
    assert b" 400 " in talk(server, head, *[line] * 7)
    talk(server, head, *[line] * 2000)  # it closes the connection before it has all of them
    declared = talk(server, head + key + b"Content-Length: 10000000000\r\n\r\n", b"x" * 1000)
    assert b" 413 " in declared and b"a body of more than 2000000 bytes" in declared
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert b" 413 " in talk(server, head + key + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 31)
    unknown = talk(server, head + b"Content-Length: 10000000000\r\n\r\n", b"x" * 1000)
    assert b" 401 " in unknown
    assert httpx2.get(f"{server.url}/health").status_code == 200
    assert server.memory - before < 40


@pytest.mark.parametrize(
    ("body", "kind", "status", "why"),
    [
        (b"{", "application/json", 400, "the body"),
        (b"[" * 100_000, "application/json", 400, "the body"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400, "body"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}', "text/plain", 415, "bodies are JSON"),
        (b'{"model": "tiny", "messages": [{"role": "assistant", "content": "Hi"}]}', "application/json", 400,
         "turns alternate"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
         b'"data:;base64,"}}, {"type": "text", "text": "<image><image>"}]}]}', "application/json", 400, "no PNG"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    server: Running, body: bytes, kind: str, status: int, why: str
) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    response = httpx2.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert why in error["message"] and "\n" not in error["message"]


def test_an_unknown_address_is_an_error_in_openais_form(server: Running) -> None:
    response = httpx2.get(f"{server.url}/v1/completions")
    assert response.status_code == 404
    assert response.json()["error"]["message"].startswith("GET /v1/completions: not found")


async def read_stream(client: httpx2.AsyncClient, seen: asyncio.Event) -> list[str]:
    body = {"model": "tiny", "messages": ask("Hi"), "temperature": 0, "max_tokens": 400, "stream": True}
    lines = []
    async with client.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            seen.set()
    return [line for line in lines if line]


def test_a_full_queue_is_429_and_a_stopping_server_ends_its_answers(start: Callable[..., Running]) -> None:
    server = start("--max_batch_size", "1", "--max_queue", "0")
    body = {"model": "tiny", "messages": ask("Hi")}

    async def run() -> tuple[Any, Any, Any, list[str]]:
        async with httpx2.AsyncClient(base_url=server.url) as client, running(client) as (first, seen):
            await seen.wait()
            full = await client.post("/v1/chat/completions", json=body)
            server.process.terminate()
            while (health := await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/chat/completions", json=body)
            return full, health, refused, await first

    import contextlib

    @contextlib.asynccontextmanager
    async def running(client: httpx2.AsyncClient) -> AsyncIterator[tuple[asyncio.Task[list[str]], asyncio.Event]]:
        seen = asyncio.Event()
        task = asyncio.create_task(read_stream(client, seen))
        yield task, seen
        await task

    full, health, refused, lines = asyncio.run(run())
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert full.json()["error"]["type"] == "rate_limit_error"
    assert health.status_code == refused.status_code == 503
    assert "the server is stopping" in refused.json()["error"]["message"]
    assert lines[-1] == "data: [DONE]" and '"finish_reason":"length"' in lines[-2]
    assert server.process.wait(30) == 0
