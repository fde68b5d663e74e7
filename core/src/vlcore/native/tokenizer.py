"""Tokenizers of native models: ids of a text as in the middle of a whole prompt, whatever stands before it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlcore.tokenizer import HfTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NativeTokenizer(HfTokenizer):
    """A transformers tokenizer that knows where a text stands.

    Some vocabularies put a space before a text: each text (older Llama tokenizers), the first one of a prompt (newer
    ones), or none. A prompt is cut at its special tokens and encoded piece by piece here, so the pieces must be told
    apart.

    Args:
        tokenizer: transformers' tokenizer.
        placeholders: tokens for media. In a text that somebody typed they are spelled like any other text, even where
            the vocabulary does not call them special.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, placeholders: Iterable[str] = ()) -> None:
        super().__init__(tokenizer)
        self.placeholders = tuple(p for p in placeholders if p in self._added and not self._added[p].special)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.spaces = find_spaces(tokenizer)
        self._bare = make_bare(backend) if self.spaces else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text at the head of a prompt; no special token is recognised in it."""
        cut = self._cut_placeholder(text)
        return super().encode(text) if cut is None else [*self.encode(cut[0]), *self.encode_behind(cut[1], True)]

    def encode_behind(self, text: str, after_text: bool) -> list[int]:
        """Ids of a text behind a token or a medium, or behind a text that is tokenized apart."""
        if self._bare is None or (self.spaces == "always" and not after_text):
            return self.encode(text)
        cut = self._cut_placeholder(text)
        if cut is not None:
            return [*self.encode_behind(cut[0], after_text), *self.encode_behind(cut[1], True)]
        return list(self._bare.encode(text, add_special_tokens=False).ids)

    def _cut_placeholder(self, text: str) -> tuple[str, str] | None:
        """The text cut within the first placeholder that was typed."""
        places = [at for at in (text.find(name) for name in self.placeholders) if at >= 0]
        return (text[: min(places) + 1], text[min(places) + 1 :]) if places else None


def find_spaces(tokenizer: PreTrainedTokenizerBase) -> str:
    """Before which texts a vocabulary puts a space: "always" each, "first" that of a prompt, empty for none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pipeline = json.loads(backend.to_str()) if backend is not None else {}
    steps = [*_list_steps(pipeline.get("normalizer")), *_list_steps(pipeline.get("pre_tokenizer"))]
    for step in steps:
        if step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme") == "always"):
            return "always"
        if step["type"] == "Metaspace" and step.get("prepend_scheme") == "first":
            return "first"
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return "always"
    return ""


def make_bare(backend: Any) -> Any:
    """A tokenizer of `tokenizers` that puts no space before a text and recognises no special token in it."""
    pipeline = json.loads(backend.to_str())
    for key in ("normalizer", "pre_tokenizer"):
        pipeline[key] = _bare_step(pipeline.get(key))
    bare = type(backend).from_str(json.dumps(pipeline))
    bare.encode_special_tokens = True
    return bare


def _list_steps(step: Any) -> list[Any]:
    """The steps of a part of the pipeline, in order."""
    if not step:
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return [found for each in inner for found in _list_steps(each)] if step["type"] == "Sequence" and inner else [step]


def _bare_step(step: Any) -> Any:
    """A step without the space it puts before a text, or None when it does nothing else."""
    if not step or step["type"] == "Prepend":
        return None
    changes: dict[str, Any] = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
    inner = {
        key: [bare for each in step[key] if (bare := _bare_step(each)) is not None]
        for key in ("normalizers", "pretokenizers") if key in step
    }
    return {**step, **changes.get(step["type"], {}), **inner}
