"""A talk: the time to the first token with what was computed kept and without, and tokens a second of an answer.

    python benchmarks/talk.py [--width 512] [--layers 8] [--turns 6] [--tokens 200] [--rounds 5]
        [--tiles 1] [--small]

The model is an InternVL2 in miniature with random weights, and pictures are cut into tiles of 448 pixels.

first token: a talk of some turns with a picture each, of one tile (256 positions) unless more are asked for. What is
measured is the last turn's time until its first token, decoding of pictures and all: in the session that has kept what
was computed, and computed from nothing. Both take turns within each round.

decoding: tokens a second of an answer of fixed length to a question with a picture, greedily, from its first token to
its last: `VLModel.chat` and `VLModel.stream` (the answer handed to another thread and read there as text), and plain
`transformers` `generate` on the same native model with the same inputs, as it is and with a `TextIteratorStreamer` that
another thread reads. The four take turns within each round, and the shares, chat of the plain answer and stream of the
streamed one, are medians of the shares within a round.

The figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, TextIteratorStreamer
from vlcore.batch import collate
from vlcore.config import GenerateConfig
from vlcore.generate import answer_one, make_request, read_pieces
from vlcore.messages import user
from vlcore.model import VLModel, load_model
from vlcore.template import Stop
from vlcore_internvl.tiny import write_tiny

GREEDY = GenerateConfig(temperature=0)


def open_model(folder: Path, width: int, layers: int, tile: int) -> VLModel:
    """A model with random weights whose answers never stop by themselves, so that all are equally long."""
    write_tiny(folder, width=width, layers=layers, tile=tile, texts=["What is in this picture?"])
    model = load_model(folder, dtype="fp32")
    endless = replace(model.frontend.template, stop=Stop())  # type: ignore[type-var]
    model.frontend = replace(model.frontend, template=endless)
    return model


def take_time(action: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def draw(number: int, tile: int, tiles: int = 1) -> Image.Image:
    """A picture of some tiles beside each other; above one, the model takes a thumbnail besides."""
    return Image.effect_noise((tiles * tile, tile), 40 + number).convert("RGB")


def measure_first_token(model: VLModel, turns: int, rounds: int, size: tuple[int, int]) -> tuple[float, float, int]:
    """Seconds to the first token of a talk's last turn with what was kept and without, and the tokens of its prompt."""
    few, one = replace(GREEDY, max_new_tokens=8), replace(GREEDY, max_new_tokens=1)
    session = model.session()
    for number in range(turns - 1):
        session.send("What is in this picture?", [draw(number, *size)], few)
    asked = (*session.messages, user("What is in this picture?", [draw(turns, *size)]))
    kept, fresh, length = [], [], 0
    for _ in range(rounds):
        prefix = session.prefix.copy()
        kept.append(take_time(lambda prefix=prefix: answer_one(model, asked, one, prefix)))  # type: ignore[misc]
        start = time.perf_counter()
        length = answer_one(model, asked, one).usage.prompt_tokens
        fresh.append(time.perf_counter() - start)
    return statistics.median(kept), statistics.median(fresh), length


class Clock:
    """Notes when each token comes, as what watches an answer, or as a streamer of transformers."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, token: int) -> bool:
        self.times.append(time.perf_counter())
        return False

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt, then with each token."""
        self.times += [time.perf_counter()] if value.ndim == 1 else []

    def end(self) -> None:
        """Nothing is left to do."""

    @property
    def rate(self) -> float:
        """Tokens a second behind the first one."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


class ClockedStreamer(TextIteratorStreamer):
    """transformers' streamer of text, with a clock that notes when each token comes."""

    def __init__(self, clock: Clock, tokenizer: Any) -> None:
        super().__init__(tokenizer.hf, skip_prompt=True)  # type: ignore[no-untyped-call]
        self.clock = clock

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt, then with each token."""
        super().put(value)  # type: ignore[no-untyped-call]
        self.clock.put(value)


def measure_decoding(model: VLModel, tokens: int, rounds: int, tile: int) -> dict[str, list[float]]:
    """Tokens a second of each way in each round."""
    asked = [user("What is in this picture?", [draw(0, tile)])]
    settings = replace(GREEDY, max_new_tokens=tokens)
    batch = model.place(collate([model.encode(asked)], model.frontend.tokenizer.pad_id, side="left"))
    inputs = {name: batch[name] for name in batch if name not in ("labels", "position_ids")}
    module: Any = model.module

    def chat(clock: Clock) -> None:
        make_request(model, asked, settings).run(model, clock)

    def stream(clock: Clock) -> None:
        seen = SimpleQueue[Any]()
        reader = Thread(target=lambda: deque(read_pieces(seen, model.frontend), 0))
        reader.start()
        seen.put(make_request(model, asked, settings).run(model, lambda token: seen.put(token) or clock(token)))
        reader.join()

    def plain(clock: Clock) -> None:
        chosen = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=model.frontend.tokenizer.pad_id)
        with torch.no_grad():
            module.generate(**inputs, generation_config=chosen, streamer=clock)

    def streamed(clock: Clock) -> None:
        streamer = ClockedStreamer(clock, model.frontend.tokenizer)
        reader = Thread(target=lambda: deque(streamer, 0))
        reader.start()
        chosen = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=model.frontend.tokenizer.pad_id)
        with torch.no_grad():
            module.generate(**inputs, generation_config=chosen, streamer=streamer)
        reader.join()

    ways = {"chat": chat, "stream": stream, "transformers": plain, "transformers streamed": streamed}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            clock = Clock()
            way(clock)
            rates[name].append(clock.rate)
    return rates


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("width", 512), ("layers", 8), ("turns", 6), ("tokens", 200), ("rounds", 5), ("tiles", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--small", action="store_true", help="a model that shows only that it runs")
    given = parser.parse_args()
    tile = 448
    if given.small:
        given.width, given.layers, given.turns, given.tokens, given.rounds, tile = 128, 2, 3, 8, 1, 56
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(Path(folder) / "model", given.width, given.layers, tile)
        kept, fresh, length = measure_first_token(model, given.turns, given.rounds, (tile, given.tiles))
        print(f"first token of turn {given.turns}, {length} tokens: {kept:.3f} s with what was kept, {fresh:.3f} s "
              f"without: {fresh / kept:.1f} times")
        rates = measure_decoding(model, given.tokens, given.rounds, tile)
        speeds = ", ".join(f"{name} {statistics.median(found):.1f}" for name, found in rates.items())
        pairs = {"chat": "transformers", "stream": "transformers streamed"}
        shares = {name: statistics.median(one / other for one, other in zip(rates[name], rates[plain], strict=True))
                  for name, plain in pairs.items()}
        print(f"decoding, tokens a second: {speeds}; chat {shares['chat']:.2f} of transformers, stream "
              f"{shares['stream']:.2f} of it streamed")


if __name__ == "__main__":
    main()
