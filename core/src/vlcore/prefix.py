"""What a model has computed of a conversation, kept for the next request that begins alike.

    prefix = Prefix(model)                                  # one for each conversation
    reply = answer_one(model, messages, settings, prefix)   # or stream_answer(model, messages, settings, prefix)
    reply.usage.cached_tokens                               # positions that were not computed again

`answer_one` and `stream_answer` of `vlcore.generate` take from a prefix what their prompt has in common with it, and
leave in it what they computed, however they end: with the answer, or left early. After an error it is as it was. A
prefix serves one request at a time; `copy` is free and lets several conversations go on from one. To choose among
many:

    passage = read_passage(model, model.frontend.plan(model.frontend.fetch(messages)))
    best = max(prefixes, key=lambda prefix: prefix.match(passage))

Prompts are compared position by position: ids by value, media by the digest of their content and how they are cut
into tiles. A medium is taken whole or not at all. Where rotary embeddings change with the prompt's length
(`rotation_at` of the native model), keys of another rotation are never taken. Where every token of a prompt looks at
all others (PaliGemma), nothing is taken but for the very same prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.batch import Layout
from vlcore.media import MAX_BYTES, Plan, Slot, locate, open_image
from vlcore.messages import Image
from vlcore.native.positions import WHOLE

if TYPE_CHECKING:
    from transformers import DynamicCache

    from vlcore.cache import Layers
    from vlcore.model import VLModel


@dataclass(frozen=True, slots=True)
class Medium:
    """Where a medium stands, from `start` up to before `end`, and a digest of what is seen of it."""

    start: int
    end: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Passage:
    """What a model reads: ids, what stands at the media's positions, and what else all its keys depend on.

    Attributes:
        ids: token ids.
        media: what stands at the media's positions.
        rotation: how keys are rotated, or whatever else makes those of one passage useless to another.
    """

    ids: tuple[int, ...] = ()
    media: tuple[Medium, ...] = ()
    rotation: Hashable = None

    def match(self, other: Passage) -> int:
        """Positions at the head that are the same in both, never a part of a medium."""
        if self.rotation != other.rotation:
            return 0
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, other.ids, strict=False)))
        return self.fit(min(alike, self._match_media(other)))

    def fit(self, length: int) -> int:
        """The most positions, up to a length, that cut no medium."""
        return next((medium.start for medium in self.media if medium.start < length < medium.end), length)

    def count_media(self, length: int) -> int:
        """How many media stand within so many positions at the head."""
        return sum(medium.end <= length for medium in self.media)

    def _match_media(self, other: Passage) -> int:
        """Positions before the first medium that is not the same in both."""
        count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.media, other.media, strict=False)))
        return min((passage.media[count].start for passage in (self, other) if count < len(passage.media)),
                   default=min(len(self.ids), len(other.ids)))


@dataclass(frozen=True, slots=True)
class Start:
    """Where a request begins: a cache that holds the first positions of its prompt already."""

    passage: Passage
    length: int
    cache: DynamicCache

    @property
    def known(self) -> int:
        """How many media of the prompt, the first ones, are in the cache."""
        return self.passage.count_media(self.length)


class Prefix:
    """Keys and values of the head of a conversation, on the model's device. See the module for its use.

    While an answer is made there are two of them: what is kept, and a copy that grows.
    """

    def __init__(self, model: VLModel) -> None:
        self.model = model
        self.clear()

    def __len__(self) -> int:
        return len(self.passage.ids)

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values in bytes, without the room in their buffers."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)

    def clear(self) -> None:
        """Frees it."""
        self.passage = Passage()
        self.layers: Layers = ()

    def copy(self) -> Prefix:
        """Another one that begins alike; no tensor is copied."""
        other = Prefix(self.model)
        other.passage, other.layers = self.passage, self.layers
        return other

    def match(self, passage: Passage) -> int:
        """How many positions of a passage need not be computed again; its last one always must."""
        return passage.fit(min(self.passage.match(passage), len(passage.ids) - 1))

    def start(self, layout: Layout) -> Start:
        """Where the request for a prompt begins."""
        from vlcore.cache import start_cache

        passage = read_passage(self.model, layout)
        length = self.match(passage)
        module: Any = self.model.module
        return Start(passage, length, start_cache(module.config.get_text_config(decoder=True), self.layers, length))

    def keep(self, start: Start, answer: Sequence[int]) -> None:
        """Keeps what a request computed.

        Args:
            start: where it began; its cache has grown.
            answer: the ids it generated. The last one was never fed, and is in no cache.
        """
        from vlcore.cache import kept_layers

        layers = kept_layers(start.cache)
        prompt = len(start.passage.ids)
        held = min(prompt + len(answer), layers[0][0].shape[-2] if layers else 0)
        turn = rotation_of(self.model)
        # Keys that were rotated in another way are of no use to a later prompt, which has one rotation.
        alike = (length for length in range(prompt, held) if turn(length + 1) != start.passage.rotation)
        held = next(alike, held)
        passage = replace(start.passage, ids=(*start.passage.ids, *answer)[:held])
        self.passage, self.layers = (passage, layers) if layers else (Passage(), ())


def read_passage(model: VLModel, layout: Layout) -> Passage:
    """What a model reads for a prompt; the content of its media is read for their digests.

    Raises:
        MediaError: when one cannot be read.
    """
    places = zip(layout.spans, layout.slots, layout.plans, strict=True)
    media = tuple(Medium(start, end, digest_slot(slot, plan)) for (start, end), slot, plan in places)
    module: Any = model.module
    if module.config.model_type in WHOLE:
        return Passage(layout.ids, media, (layout.ids, media))
    return Passage(layout.ids, media, rotation_of(model)(len(layout)))


def rotation_of(model: VLModel) -> Any:
    """What tells how a model rotates the keys of a prompt of some length; the same for every length, usually."""
    return getattr(model.module, "rotation_at", lambda length: None)


def digest_slot(slot: Slot, plan: Plan) -> bytes:
    """A digest of a medium's content and of how it is cut."""
    digest = hashlib.blake2b(repr((plan, slot.frame)).encode(), digest_size=16)
    for image in slot.images:
        digest.update(digest_image(image))
    return digest.digest()


def digest_image(image: Image) -> bytes:
    """A digest of a picture's file, or of its pixels when it is open."""
    if not isinstance(image.source, str | Path | bytes):
        picture = open_image(image)
        return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16).digest()
    place = locate(image, MAX_BYTES)
    data = place.read_bytes() if isinstance(place, Path) else place.getvalue()
    return hashlib.blake2b(data, digest_size=16).digest()
