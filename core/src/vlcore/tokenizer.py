"""Tokenizers: plain text and named tokens to ids, ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vlcore.errors import CheckpointError, suggest_near

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenizer(Protocol):
    """What the core needs of a family's tokenizer."""

    @property
    def pad_id(self) -> int:
        """The id that fills batches; masked wherever it stands."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, and no special token is recognised in it."""

    def token_id(self, token: str) -> int:
        """The id of a token by its name. Raises CheckpointError when there is none."""

    def strips_after(self, token: str) -> bool:
        """Whether white space behind this token is swallowed, as some releases' added tokens do."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids as the release decodes them, before stop marks are cut off."""


@runtime_checkable
class TidyingTokenizer(Protocol):
    """What the tokenizer of a release offers besides whose decoding goes over the whole text at the end."""

    @property
    def tidied(self) -> int:
        """How many characters at the end of a decoded text what follows may change; 0 when it is left as it is."""

    def decode_untidied(self, ids: Sequence[int]) -> str:
        """Text of generated ids before that."""

    def tidy(self, text: str) -> str:
        """The text as `decode` gives it."""


@runtime_checkable
class PlacedTokenizer(Protocol):
    """What a tokenizer offers besides for which it matters what stands before a text."""

    def encode_behind(self, text: str, after_text: bool) -> list[int]:
        """Ids of a text behind a token or a medium, or behind a text that is tokenized apart; else as `encode`."""


class HfTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.hf = tokenizer
        self._added = {t.content: t for t in tokenizer.added_tokens_decoder.values()}
        self._ids = tokenizer.get_vocab()

    @property
    def pad_id(self) -> int:
        """The pad token's id, else the end-of-text token's, else 0."""
        for token_id in (self.hf.pad_token_id, self.hf.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is added, and no special token is recognised in it."""
        return list(self.hf.encode(text, add_special_tokens=False, split_special_tokens=True)) if text else []

    def token_id(self, token: str) -> int:
        """The id of a token by its name.

        Raises:
            CheckpointError: when the vocabulary does not have it, with near names.
        """
        if token not in self._ids:
            near = suggest_near(token, self._added)
            raise CheckpointError(f"token {token}", "the checkpoint's tokenizer does not have it", near)
        return int(self._ids[token])

    def strips_after(self, token: str) -> bool:
        """Whether white space behind this added token is swallowed."""
        added = self._added.get(token)
        return bool(added and added.rstrip)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens left out."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True))

    @property
    def tidied(self) -> int:
        """Longer than what takes part in one change, `" n ' t"`, for releases that take spaces from English texts."""
        return 8 if self.hf.clean_up_tokenization_spaces else 0

    def decode_untidied(self, ids: Sequence[int]) -> str:
        """Text of the ids with all their spaces."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def tidy(self, text: str) -> str:
        """The text without spaces before full stops and the like, where the release takes them away."""
        return str(self.hf.clean_up_tokenization(text)) if self.tidied else text
