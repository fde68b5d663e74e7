"""The release's sentencepiece tokenizer behind the core's protocol.

Conversions of it add a space before every chunk, or after pieces such as the newline, and so give other ids;
sentencepiece is asked directly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vlcore.errors import CheckpointError, suggest_near

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

#: Pieces that users could type and that are meant to be special, such as `<|im_end|>`.
MARK = re.compile(r"<\|\w+\|>")


@dataclass(frozen=True)
class PieceTokenizer:
    """A sentencepiece model.

    Attributes:
        model: the loaded model; whether texts get a space in front is up to its file (Yi's get none).
    """

    model: SentencePieceProcessor

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The tokenizer of a release.

        Raises:
            CheckpointError: when its file is missing or damaged.
        """
        from sentencepiece import SentencePieceProcessor

        path = folder / "tokenizer.model"
        try:
            return cls(SentencePieceProcessor(model_file=str(path)))
        except (OSError, RuntimeError) as error:
            why = "it is not a sentencepiece model" if path.is_file() else "it is not there"
            raise CheckpointError(f"file {path}", why, "copy or download it again") from error

    @property
    def pad_id(self) -> int:
        """The id that fills batches, 0: the unknown piece, as in the release."""
        return int(self.model.unk_id())

    @cached_property
    def marks(self) -> frozenset[str]:
        """Pieces of the vocabulary that look like special tokens."""
        pieces = map(self.model.id_to_piece, range(self.model.get_piece_size()))
        return frozenset(piece for piece in pieces if MARK.fullmatch(piece))

    @cached_property
    def seams(self) -> re.Pattern[str]:
        """Places behind the first character of a mark: a text cut there has no mark in any part."""
        rests = "|".join(re.escape(mark[1:]) for mark in sorted(self.marks))
        return re.compile(f"(?<=<)(?={rests})" if rests else "(?!)")

    @cached_property
    def unsaid(self) -> frozenset[int]:
        """Ids that have no text: the unknown piece, and those that begin and end a text."""
        ids = range(self.model.get_piece_size())
        return frozenset(i for i in ids if self.model.is_control(i) or self.model.is_unknown(i))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a typed `<|im_end|>` and its like are spelt out, never the special piece."""
        return [i for part in self.seams.split(text) for i in self.model.encode(part)]

    def token_id(self, token: str) -> int:
        """The id of a piece by its name.

        Raises:
            CheckpointError: when there is none, with near names.
        """
        token_id = int(self.model.piece_to_id(token))
        if self.model.id_to_piece(token_id) != token:
            near = suggest_near(token, self.marks)
            raise CheckpointError(f"token {token}", "the checkpoint's tokenizer does not have it", near)
        return token_id

    def strips_after(self, token: str) -> bool:
        """False: no piece swallows the white space behind it."""
        return False

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, those without a text left out."""
        return str(self.model.decode([i for i in ids if i not in self.unsaid]))
