"""The releases' tokenizers behind the core's protocol.

Fast conversions of the sentencepiece ones differ in ids (an added token cannot lie over a piece, for one), so
sentencepiece is asked directly.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError, suggest_near
from vlcore.resolve import read_json
from vlcore.tokenizer import HfTokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerBase


def decode_runs(
    ids: Sequence[int],
    added: Mapping[int, str],
    skipped: frozenset[str],
    decode: Callable[[list[int]], str],
    gap: str,
) -> str:
    """Text of ids as the slow tokenizers of transformers 4 write it.

    Args:
        ids: generated ids.
        added: added tokens by id; each is written as it is, in a run of its own.
        skipped: added tokens that are left out.
        decode: text of a run of ordinary ids.
        gap: what stands between runs.
    """
    kept = [token_id for token_id in ids if added.get(token_id) not in skipped]
    runs = itertools.groupby(kept, key=added.get)
    texts = [[token] * len(list(run)) if token else [decode(list(run))] for token, run in runs]
    return gap.join(text for run in texts for text in run)


class BytePieceTokenizer(HfTokenizer):
    """A byte-level tokenizer (Qwen) whose answers keep the added tokens that the release keeps."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, skipped: frozenset[str]) -> None:
        super().__init__(tokenizer)
        self._skipped = skipped
        self._names = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids without the tokens of `special_tokens_map.json`."""
        return decode_runs(ids, self._names, self._skipped, lambda run: str(self.hf.decode(run)), "")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token beside, or laid over, the pieces of a sentencepiece model."""

    name: str
    rstrip: bool


class SentencePieceTokenizer:
    """A sentencepiece model with the tokens that its release adds.

    Args:
        folder: holds `tokenizer.model`, `tokenizer_config.json` and perhaps `added_tokens.json`.
        skipped: tokens left out of decoded text.
    """

    def __init__(self, folder: Path, skipped: frozenset[str]) -> None:
        settings = read_json(folder / "tokenizer_config.json")
        self._model = load_pieces(folder / "tokenizer.model", keep_prefix=bool(settings.get("legacy", True)))
        self._skipped = skipped
        self._added = read_added(folder, settings)
        self._ids = {token.name: token_id for token_id, token in self._added.items()}
        self._names = {token_id: token.name for token_id, token in self._added.items()}
        self._pad = _name_of(settings.get("pad_token") or settings.get("eos_token") or "<unk>")
        pieces = enumerate(map(self._model.id_to_piece, range(self._model.get_piece_size())))
        role = re.compile(r"<\|\w+\|>")
        self._reserved = {i: piece for i, piece in pieces if i in self._added or role.fullmatch(piece)}

    @property
    def pad_id(self) -> int:
        """The id that fills batches."""
        return self.token_id(self._pad)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. A piece that would become a special token is spelt out instead.

        InternLM2's `<|im_end|>` lies over the piece `[UNUSED_TOKEN_145]`, so these letters must not meet it.
        """
        ids: list[int] = self._model.encode(text)
        reserved = [self._reserved[i] for i in ids if i in self._reserved]
        if not reserved:
            return ids
        pattern = "|".join(f"(?<={re.escape(piece[0])})(?={re.escape(piece[1:])})" for piece in set(reserved))
        return [i for part in re.split(pattern, text) for i in self._model.encode(part)]

    def token_id(self, token: str) -> int:
        """The id of an added token, else of the piece of that name.

        Raises:
            CheckpointError: when there is neither.
        """
        if token in self._ids:
            return self._ids[token]
        token_id: int = self._model.piece_to_id(token)
        if self._model.id_to_piece(token_id) != token:
            near = suggest_near(token, self._ids)
            raise CheckpointError(f"token {token}", "the checkpoint's tokenizer does not have it", near)
        return token_id

    def strips_after(self, token: str) -> bool:
        """Whether white space behind this token is swallowed (Phi-3's roles)."""
        added = self._added.get(self._ids.get(token, -1))
        return bool(added and added.rstrip)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; what remains of added tokens is set off by spaces, as the release does."""
        return decode_runs(ids, self._names, self._skipped, self._model.decode, " ")


def load_pieces(path: Path, keep_prefix: bool) -> SentencePieceProcessor:
    """A sentencepiece model; `keep_prefix` False switches off the `▁` it puts before every text.

    Raises:
        CheckpointError: when the file is damaged.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        why = "it is not a sentencepiece model"
        raise CheckpointError(f"file {path}", why, "copy or download it again") from error
    if not keep_prefix:
        messages = import_protobuf()
        proto = messages.ModelProto.FromString(model.serialized_model_proto())
        proto.normalizer_spec.add_dummy_prefix = False
        model.load_from_serialized_proto(proto.SerializeToString())
    return model


def read_added(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """The added tokens by id, from `added_tokens.json` and, knowing more, `tokenizer_config.json`."""
    path = folder / "added_tokens.json"
    named = read_json(path) if path.is_file() else {}
    added = {int(token_id): AddedToken(name, False) for name, token_id in named.items()}
    for token_id, token in settings.get("added_tokens_decoder", {}).items():
        added[int(token_id)] = AddedToken(token["content"], bool(token.get("rstrip")))
    return added


def _name_of(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
