"""Tokens a second of `vlcore serve`: many clients at once against one, on a tiny random model.

    python benchmarks/serve.py [--clients 16] [--requests 64] [--tokens 48] [--width 512] [--layers 4]

Server and clients are processes of their own on this machine; every request asks about a picture of its own, greedily,
and is streamed. One client sends the requests one after the other, then `clients` share the same number of other ones;
the two take turns, and the figure is what the clients received over the time from the first request to the last token.
Nothing is found again of earlier prompts (`--prefix_cache_mb 0`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

#: Turns that one client and many take.
ROUNDS = 3


def make_body(number: int, tokens: int) -> dict[str, Any]:
    """A question about a picture of its own."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), (number * 37 % 256, number * 91 % 256, 80)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    question = {"type": "text", "text": f"What is in picture {number}?"}
    content = [{"type": "image_url", "image_url": {"url": url}}, question]
    return {"model": "model", "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}


@contextmanager
def start_server(folder: Path, places: int) -> Iterator[str]:
    """The address of a server that takes requests."""
    command = [str(Path(sys.executable).with_name("vlcore")), "serve", "--model", str(folder), "--port", "0",
               "--max_batch_size", str(places), "--max_queue", "1000", "--prefix_cache_mb", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"at (http://\S+)/v1", process.stdout.readline())
        if not found:
            raise SystemExit("the server has not started")
        try:
            yield found.group(1)
        finally:
            process.terminate()


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> int:
    """Sends a question; returns the tokens of its answer."""
    tokens = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"choices":[]' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    return tokens


async def measure(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[int, float]:
    """Tokens and seconds of some clients that share the questions."""
    waiting = iter(bodies)

    async def work() -> int:
        async with httpx2.AsyncClient(base_url=url, timeout=None) as client:
            return sum([await ask(client, body) for body in waiting])

    begun = time.perf_counter()
    tokens = await asyncio.gather(*(work() for _ in range(clients)))
    return sum(tokens), time.perf_counter() - begun


def compare(url: str, clients: int, requests: int, tokens: int) -> dict[int, float]:
    """Tokens a second of one client and of many."""
    asyncio.run(measure(url, [make_body(number, tokens) for number in range(clients)], clients))  # warm up
    sums = {1: [0, 0.0], clients: [0, 0.0]}
    share = max(1, requests // ROUNDS)
    for turn in range(ROUNDS):
        for number, count in enumerate(sums):
            first = 1000 + (2 * turn + number) * share
            got = asyncio.run(measure(url, [make_body(first + each, tokens) for each in range(share)], count))
            sums[count] = [have + more for have, more in zip(sums[count], got, strict=True)]
    return {count: made / seconds for count, (made, seconds) in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clients", 16), ("requests", 64), ("tokens", 48), ("width", 512), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    from vlcore_internvl.tiny import write_tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        write_tiny(folder, tile=56, width=given.width, layers=given.layers)
        with start_server(folder, given.clients) as url:
            speeds = compare(url, given.clients, given.requests, given.tokens)
    one, many = speeds.values()
    print(f"1 client: {one:.0f} tokens/s")
    print(f"{given.clients} clients: {many:.0f} tokens/s, {many / one:.2f} times as many")


if __name__ == "__main__":
    main()
