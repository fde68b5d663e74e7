"""Encoding speed of the Qwen-VL tokenizer against the plain tiktoken call on the same texts, side by side.

    python benchmarks/qwen_tokenizer.py [qwen.tiktoken]

Without a file, the vocabulary is that of a tiny checkpoint. Ratios above 1 mean faster than tiktoken.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tiktoken
from vlcore_qwen_vl.pieces import CUT, QwenTokenizer, read_ranks
from vlcore_qwen_vl.tiny import write_tiny

ROUNDS = 25
TEXTS = {
    "short questions": ["What is in the picture?", "这张图片里写了什么？", "Where is <ref>the cat</ref>?"] * 400,
    "paragraphs": [
        "The harbour was quiet that morning; two boats lay at the pier, and a cat slept on the nets. " * 12,
        "月光如水船如星，独坐船头吹夜风。深林倒影照水面，萤火点点照船行。" * 20,
        "def area(box):\n    x1, y1, x2, y2 = box\n    return (x2 - x1) * (y2 - y1)\n" * 15,
    ] * 30,
    "one long text": [Path(__file__).read_text(encoding="utf8") * 60],
}


def measure(encode: Callable[[str], Sequence[int]], texts: Sequence[str]) -> float:
    """Seconds to encode all texts once."""
    start = time.perf_counter()
    for text in texts:
        encode(text)
    return time.perf_counter() - start


def compare(tokenizer: QwenTokenizer, plain: tiktoken.Encoding, texts: Sequence[str]) -> tuple[float, float]:
    """Characters a second, and the ratio to tiktoken: medians of rounds in which both take turns."""
    rounds = [(measure(tokenizer.encode, texts), measure(plain.encode_ordinary, texts)) for _ in range(ROUNDS)]
    own, ratio = statistics.median(own for own, _ in rounds), statistics.median(b / a for a, b in rounds)
    return sum(map(len, texts)) / own, ratio


def find_vocabulary(arguments: Sequence[str]) -> Path:
    """The file given, else one of a tiny checkpoint."""
    if arguments:
        return Path(arguments[0])
    folder = Path(tempfile.mkdtemp())
    write_tiny(folder, texts=[text for texts in TEXTS.values() for text in texts[:3]])
    return folder / "qwen.tiktoken"


def main() -> None:
    ranks = read_ranks(find_vocabulary(sys.argv[1:]), 0)
    tokenizer = QwenTokenizer(ranks)
    plain = tiktoken.Encoding("plain", pat_str=CUT, mergeable_ranks=ranks, special_tokens={})
    for name, texts in TEXTS.items():
        assert all(tokenizer.encode(text) == plain.encode_ordinary(text) for text in texts)
        speed, ratio = compare(tokenizer, plain, texts)
        print(f"{name}: {speed / 1e6:.2f} million characters a second, {ratio:.2f} of tiktoken's speed")


if __name__ == "__main__":
    main()
