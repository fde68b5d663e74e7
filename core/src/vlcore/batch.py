"""Segments to examples, examples to batches. The one place where ids, labels and pixels are made.

`plan_layout` knows the length of everything from image sizes alone; `load_pixels` adds the pixels. Both are used
for training, inference and serving alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from vlcore.media import MediaProcessor, Plan, Slot, open_image, read_size
from vlcore.template import EncodeOptions, Segment, render_prompt
from vlcore.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

#: The label of a position that takes no part in the loss.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Layout:
    """A conversation with everything but its pixels.

    Attributes:
        ids: token ids, image positions filled with the family's image id.
        labels: the id where a token counts in the loss, else -100; aligned with `ids`, not shifted.
        slots: the media in order; `plans` tells the tokens and tiles of each.
        prompt: the prompt as text.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    slots: tuple[Slot, ...]
    plans: tuple[Plan, ...]
    prompt: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation ready for a batch: its layout, and its pixels by the name of the model's argument.

    `pixels` holds tensors whose first axis runs over the tiles of all slots in order: bytes where the family's
    processor normalises them on the model's device (`media.normalise`), else floats.
    """

    layout: Layout
    pixels: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""
        return self.layout.ids

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels, -100 where no loss is taken."""
        return self.layout.labels

    def __len__(self) -> int:
        return len(self.layout)


@dataclass(frozen=True, slots=True)
class Pack:
    """Conversations that share a row of a batch; none attends to another."""

    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return sum(map(len, self.examples))


def plan_layout(
    segments: Sequence[Segment], tokenizer: Tokenizer, media: MediaProcessor, options: EncodeOptions
) -> Layout:
    """Ids, labels and media plans of a conversation, from image headers alone."""
    places = [segment for segment in segments if segment.kind == "media"]
    slots = tuple(Slot(place.images, tuple(map(read_size, place.images)), place.frame) for place in places)
    plans = media.plan(slots, options)
    ids: list[int] = []
    labels: list[int] = []
    for run, trained in _encode_runs(segments, tokenizer, media.image_token_id, plans):
        ids += run
        labels += run if trained else [IGNORED] * len(run)
    return Layout(tuple(ids), tuple(labels), slots, plans, render_prompt(segments))


def load_pixels(layout: Layout, media: MediaProcessor) -> Example:
    """The example of a layout: its images opened and turned into tensors."""
    import torch

    parts = [
        media.load(tuple(open_image(image) for image in slot.images), plan)
        for slot, plan in zip(layout.slots, layout.plans, strict=True)
    ]
    names = dict.fromkeys(name for part in parts for name in part)
    held = {name: [part[name] for part in parts if name in part] for name in names}
    pixels = {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in held.items()}
    return Example(layout, pixels)


def _encode_runs(
    segments: Sequence[Segment], tokenizer: Tokenizer, image_id: int, plans: Sequence[Plan]
) -> Iterator[tuple[list[int], bool]]:
    """Runs of ids with whether they are trained.

    Neighbouring texts are tokenized as one, as the releases tokenize whole prompts, but never across the
    border of an answer or of what is trained: an answer gets the same ids in training and in the history of a
    later prompt as the open prompt leaves for it.
    """
    waiting = iter(plans)
    text, trained, answer, strip = "", False, False, False
    for segment in (*segments, Segment("", "special")):
        if segment.kind != "text" or (segment.trained, segment.answer) != (trained, answer):
            plain = text.lstrip() if strip else text
            if plain:
                yield tokenizer.encode(plain), trained
                strip = False
            text, trained, answer = "", segment.trained, segment.answer
        if segment.kind == "text":
            text += segment.text
        elif segment.kind == "media":
            yield [image_id] * next(waiting).tokens, False
            strip = False
        elif segment.text:
            yield [tokenizer.token_id(segment.text)], segment.trained
            strip = tokenizer.strips_after(segment.text)


def collate(examples: Sequence[Example], pad_id: int, side: str = "right") -> dict[str, torch.Tensor]:
    """A batch: padded ids, attention mask, positions, labels, and the pixels of all rows in order.

    Args:
        examples: the rows; rows with and without media may be mixed.
        pad_id: fills the short rows; masked and unlabelled.
        side: "left" for generation, "right" for training.

    Returns:
        `input_ids`, `attention_mask`, `position_ids`, `labels` of shape (rows, longest), and the pixels.
        Positions count the tokens of a row alone, so padding never moves them.
    """
    import torch

    longest = max(map(len, examples))

    def pad(values: Sequence[int], fill: int) -> list[int]:
        space = [fill] * (longest - len(values))
        return [*space, *values] if side == "left" else [*values, *space]

    mask = torch.tensor([pad([1] * len(example), 0) for example in examples])
    batch = {
        "input_ids": torch.tensor([pad(example.ids, pad_id) for example in examples]),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "labels": torch.tensor([pad(example.labels, IGNORED) for example in examples]),
    }
    return batch | _join_pixels(examples)


def collate_packs(packs: Sequence[Pack], pad_id: int, flat: bool = False) -> dict[str, torch.Tensor]:
    """A batch of packs. There is no attention mask: positions that begin again at 0 tell conversations apart.

    transformers makes the mask of such positions (`masking_utils.find_packed_sequence_indices`), flash attention the
    borders of its kernels (`modeling_flash_attention_utils.prepare_fa_kwargs_from_position_ids`).

    Args:
        packs: the packs.
        pad_id: fills the short rows. Each such position is a conversation of its own, at position 0.
        flat: all packs in one row, which flash attention needs; else a row a pack, whose mask is smaller.

    Returns:
        `input_ids`, `position_ids`, `labels` of shape (rows, longest), and the pixels. The first token of a
        conversation has no label, for what stands before it belongs to another one.
    """
    import torch

    examples = [example for pack in packs for example in pack.examples]
    rows = [Pack(tuple(examples))] if flat else packs
    longest = max(map(len, rows))

    def fill(row: Pack, values: Iterator[Sequence[int]], space: int) -> list[int]:
        return [*chain.from_iterable(values), *[space] * (longest - len(row))]

    ids = [fill(row, (e.ids for e in row.examples), pad_id) for row in rows]
    labels = [fill(row, ((IGNORED, *e.labels[1:]) for e in row.examples), IGNORED) for row in rows]
    positions = [fill(row, (range(len(e)) for e in row.examples), 0) for row in rows]
    named = {"input_ids": ids, "position_ids": positions, "labels": labels}
    return {name: torch.tensor(values) for name, values in named.items()} | _join_pixels(examples)


def _join_pixels(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The pixels of all examples in order."""
    import torch

    names = dict.fromkeys(name for example in examples for name in example.pixels)
    return {n: torch.cat([e.pixels[n] for e in examples if n in e.pixels]) for n in names}


def count_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Tokens of a batch without its padding: what the mask covers, or packed conversations of more than one token."""
    mask = batch.get("attention_mask")
    return (measure_lengths(batch["position_ids"]) > 1).sum() if mask is None else mask.sum()


def measure_lengths(position_ids: torch.Tensor) -> torch.Tensor:
    """Length so far of the conversation each position belongs to, (rows, positions) as given.

    A position 0 begins a conversation, so rows of a batch and conversations packed in a row are told apart.

    >>> import torch
    >>> measure_lengths(torch.tensor([[0, 1, 2, 0, 1]])).tolist()
    [[3, 3, 3, 2, 2]]
    """
    conversation = (position_ids == 0).cumsum(-1)
    last = position_ids.new_zeros(position_ids.shape[0], position_ids.shape[1] + 1)
    last.scatter_reduce_(1, conversation, position_ids, reduce="amax")
    return last.gather(1, conversation) + 1
