"""The release's tokenizer behind the core's protocol: byte pieces of `qwen.tiktoken`, then the special tokens."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import tiktoken
from vlcore.errors import CheckpointError, suggest_near

#: How text is cut before its pieces are merged: GPT-4's rule with single digits.
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
GROUNDING = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
#: In the order of their ids, which follow the pieces.
SPECIALS = (
    END, START, STOP, *(f"<|extra_{i}|>" for i in range(205)), *GROUNDING, "<img>", "</img>", "<imgpad>",
)


class QwenTokenizer:
    """Byte pieces with ranks, on text in Unicode's composed form, and special tokens behind them.

    Args:
        ranks: the pieces and their ids.
        ends: tokens that end an answer; decoding leaves them out.
    """

    def __init__(self, ranks: dict[bytes, int], ends: Sequence[str] = (START, STOP, END)) -> None:
        self.special = {token: len(ranks) + i for i, token in enumerate(SPECIALS)}
        self._pieces = tiktoken.Encoding("qwen", pat_str=CUT, mergeable_ranks=ranks, special_tokens=self.special)
        self._ends = frozenset(self.special[token] for token in ends)

    @property
    def pad_id(self) -> int:
        """The id of `<|endoftext|>`."""
        return self.special[END]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, and no special token is recognised in it."""
        return self._pieces.encode_ordinary(unicodedata.normalize("NFC", text))

    def token_id(self, token: str) -> int:
        """The id of a special token by its name.

        Raises:
            CheckpointError: when there is none, with near names.
        """
        if token not in self.special:
            near = suggest_near(token, self.special)
            raise CheckpointError(f"token {token}", "the release's tokenizer does not have it", near)
        return self.special[token]

    def strips_after(self, token: str) -> bool:
        """No token swallows white space."""
        return False

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids as the release's `decode` writes it, special tokens by their names.

        A whole image, `<img>` to `</img>`, is written with the path that its ids spell: the release keeps the
        path's bytes there, as ids 0 to 255 before `<imgpad>`. Left out are the tokens that end an answer and
        ids beyond the vocabulary, which the padded embedding has and the release stumbles over.
        """
        kept = [i for i in ids if i < self._pieces.n_vocab and i not in self._ends]
        return b"".join(self._spell(kept)).decode("utf-8", errors="replace")

    def _spell(self, ids: Sequence[int]) -> Iterator[bytes]:
        """The bytes of each token; those of an image's positions are the bytes of its path."""
        start, end, pad = (self.special[name] for name in ("<img>", "</img>", "<imgpad>"))
        at = 0
        while at < len(ids):
            yield self._pieces.decode_single_token_bytes(ids[at])
            rest = ids[at + 1 :]
            at += 1
            if ids[at - 1] == start and end in rest:
                inside = rest[: rest.index(end)]
                path = inside[: inside.index(pad)] if pad in inside else inside
                if all(token < 256 for token in path):
                    yield bytes(path)
                    at += len(inside)


@lru_cache(maxsize=2)
def read_ranks(path: Path, stamp: int) -> dict[bytes, int]:
    """The pieces of a `qwen.tiktoken` and their ids; lines of base64 and rank.

    Args:
        path: the file.
        stamp: when it was changed, so that a changed file is read again.

    Raises:
        CheckpointError: when the file is damaged.
    """
    try:
        lines = (line.split() for line in path.read_bytes().splitlines() if line)
        return {base64.b64decode(piece, validate=True): int(rank) for piece, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise CheckpointError(f"file {path}", f"it is no vocabulary ({error})", "download or copy it again") from error
