"""Segments to examples, examples to batches. The one place where ids, labels and pixels are made.

`plan_layout` knows the length of everything from image sizes alone; `load_pixels` adds the pixels. Both are used
for training, inference and serving alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from vlcore.joining import join_tensors
from vlcore.media import JoiningProcessor, MediaProcessor, Plan, Slot, TracingProcessor, open_image, read_size
from vlcore.template import EncodeOptions, Segment, render_prompt
from vlcore.tokenizer import PlacedTokenizer, Tokenizer

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
        spans: where the ids of each slot stand, from the first number up to before the second.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    slots: tuple[Slot, ...]
    plans: tuple[Plan, ...]
    prompt: str
    spans: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation ready for a batch: its layout, and its pixels by the name of the model's argument.

    Attributes:
        layout: everything but its pixels.
        pixels: tensors whose first axis runs over the tiles of all slots in order: bytes where the family's
            processor normalises them on the model's device (`media.normalise`), else floats.
        tracks: tensors whose last axis runs over the positions, for models that take more of each than its id: kinds
            of tokens, or `position_ids` of several axes, of which the first holds the plain positions.
        shares: how many rows of each tensor of `pixels` belong to each slot.
        ragged: whether shorter axes of `pixels` are filled with zeros where a batch needs it.
    """

    layout: Layout
    pixels: Mapping[str, torch.Tensor] = field(default_factory=dict)
    tracks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    shares: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ragged: bool = False

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
    spans: list[tuple[int, int]] = []
    for run in _encode_runs(segments, tokenizer, media.image_token_id, plans):
        spans += [(len(ids), len(ids) + len(run.ids))] if run.medium else []
        ids += run.ids
        labels += run.ids if run.trained else [IGNORED] * len(run.ids)
    return Layout(tuple(ids), tuple(labels), slots, plans, render_prompt(segments), tuple(spans))


def load_pixels(layout: Layout, media: MediaProcessor, known: int = 0) -> Example:
    """The example of a layout: its images opened and turned into tensors.

    Args:
        layout: the layout.
        media: the processor that planned it.
        known: how many slots, the first ones, are left out, for a model that has computed them already.
    """
    places = zip(layout.slots[known:], layout.plans[known:], strict=True)
    parts = [media.load(tuple(open_image(image) for image in slot.images), plan) for slot, plan in places]
    shares = {name: tuple(len(part[name]) if name in part else 0 for part in parts) for part in parts for name in part}
    ragged = isinstance(media, JoiningProcessor) and media.ragged
    return Example(layout, _join_parts(parts, layout.plans[known:], media), trace(layout, media), shares, ragged)


def cut_pixels(example: Example, media: MediaProcessor, known: int) -> dict[str, torch.Tensor]:
    """The pixels of an example without those of its first slots."""
    if not known:
        return dict(example.pixels)
    ends = {name: [0, *accumulate(counts)] for name, counts in example.shares.items()}
    slots = range(known, len(example.layout.slots))
    parts = [{name: example.pixels[name][at[slot] : at[slot + 1]] for name, at in ends.items()} for slot in slots]
    whole = [{name: tensor for name, tensor in part.items() if len(tensor)} for part in parts]
    return _join_parts(whole, example.layout.plans[known:], media)


def trace(layout: Layout, media: MediaProcessor) -> Mapping[str, torch.Tensor]:
    """The tracks of a conversation (`Example.tracks`); none for most models."""
    return media.trace(layout) if isinstance(media, TracingProcessor) else {}


def _join_parts(
    parts: Sequence[Mapping[str, torch.Tensor]], plans: Sequence[Plan], media: MediaProcessor
) -> dict[str, torch.Tensor]:
    """The pixels of one conversation from those of its slots."""
    if not isinstance(media, JoiningProcessor):
        return join_tensors(parts, ragged=False)
    return {**join_tensors(parts, media.ragged), **(media.count(plans) if plans else {})}


@dataclass(frozen=True, slots=True)
class _Run:
    """Ids that are made at once, and whether they are trained, or are those of a medium."""

    ids: Sequence[int]
    trained: bool = False
    medium: bool = False


def _encode_runs(
    segments: Sequence[Segment], tokenizer: Tokenizer, image_id: int, plans: Sequence[Plan]
) -> Iterator[_Run]:
    """Runs of ids.

    Neighbouring texts are tokenized as one, as the releases tokenize whole prompts, but never across the
    border of an answer or of what is trained: an answer gets the same ids in training and in the history of a
    later prompt as the open prompt leaves for it.
    """
    waiting = iter(plans)
    text, trained, answer, strip, before = "", False, False, False, ""
    for segment in (*_surround(segments, plans), Segment("", "special")):
        if segment.kind != "text" or (segment.trained, segment.answer) != (trained, answer):
            plain = text.lstrip() if strip else text
            if plain:
                yield _Run(_encode_text(tokenizer, plain, before), trained)
                strip, before = False, "text"
            text, trained, answer = "", segment.trained, segment.answer
        if segment.kind == "text":
            text += segment.text
        elif segment.kind == "media":
            plan = next(waiting)
            yield _Run([image_id] * plan.tokens if plan.ids is None else plan.ids, medium=True)
            strip, before = False, "token"
        elif segment.text:
            yield _Run([tokenizer.token_id(segment.text)], segment.trained)
            strip, before = tokenizer.strips_after(segment.text), "token"


def _encode_text(tokenizer: Tokenizer, text: str, before: str) -> list[int]:
    """Ids of a text, in view of what stands before it: nothing, a token, or a text that is tokenized apart."""
    if before and isinstance(tokenizer, PlacedTokenizer):
        return tokenizer.encode_behind(text, before == "text")
    return tokenizer.encode(text)


def _surround(segments: Sequence[Segment], plans: Sequence[Plan]) -> Iterator[Segment]:
    """The segments, with the texts that a plan puts around its medium."""
    waiting = iter(plans)
    for segment in segments:
        plan = next(waiting) if segment.kind == "media" else None
        if plan and plan.around[0]:
            yield replace(segment, text=plan.around[0], kind="text")
        yield segment
        if plan and plan.around[1]:
            yield replace(segment, text=plan.around[1], kind="text")


def collate(examples: Sequence[Example], pad_id: int, side: str = "right") -> dict[str, torch.Tensor]:
    """A batch: padded ids, attention mask, positions, labels, and the pixels of all rows in order.

    Args:
        examples: the rows; rows with and without media may be mixed.
        pad_id: fills the short rows; masked and unlabelled.
        side: "left" for generation, "right" for training.

    Returns:
        `input_ids`, `attention_mask`, `position_ids`, `labels` of shape (rows, longest), the tracks of shape
        (..., rows, longest), and the pixels. Positions count the tokens of a row alone, so padding never moves them.
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
    return batch | _join_tracks([[example] for example in examples], longest, side) | _join_pixels(examples)


def collate_packs(packs: Sequence[Pack], pad_id: int, flat: bool = False) -> dict[str, torch.Tensor]:
    """A batch of packs. There is no attention mask: positions that begin again at 0 tell conversations apart.

    transformers makes the mask of such positions (`masking_utils.find_packed_sequence_indices`), flash attention the
    borders of its kernels (`modeling_flash_attention_utils.prepare_fa_kwargs_from_position_ids`).

    Args:
        packs: the packs.
        pad_id: fills the short rows. Each such position is a conversation of its own, at position 0.
        flat: all packs in one row, which flash attention needs; else a row a pack, whose mask is smaller.

    Returns:
        `input_ids`, `position_ids`, `labels` of shape (rows, longest), the tracks of shape (..., rows, longest), and
        the pixels. The first token of a conversation has no label, for what stands before it belongs to another one.
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
    batch = {name: torch.tensor(values) for name, values in named.items()}
    return batch | _join_tracks([row.examples for row in rows], longest) | _join_pixels(examples)


def _join_pixels(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The pixels of all examples in order."""
    return join_tensors([example.pixels for example in examples], any(example.ragged for example in examples))


def _join_tracks(
    rows: Sequence[Sequence[Example]], longest: int, side: str = "right"
) -> dict[str, torch.Tensor]:
    """The tracks of rows, each of one example or more, (..., rows, longest), zeros where padding is."""
    import torch
    from torch.nn.functional import pad

    shapes = {name: track.shape[:-1] for row in rows for example in row for name, track in example.tracks.items()}

    def join(name: str, row: Sequence[Example]) -> torch.Tensor:
        found = torch.cat([_find_track(example, name, shapes[name]) for example in row], dim=-1)
        space = longest - found.shape[-1]
        return pad(found, (space, 0) if side == "left" else (0, space))

    return {name: torch.stack([join(name, row) for row in rows], dim=-2) for name in shapes}


def _find_track(example: Example, name: str, shape: Sequence[int]) -> torch.Tensor:
    """A track of an example; one made without, such as a row of padding, is plain text."""
    import torch

    plain = torch.arange(len(example)) if name == "position_ids" else torch.zeros(len(example), dtype=torch.long)
    return example.tracks.get(name, plain.expand(*shape, -1))


def count_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Tokens of a batch without its padding: what the mask covers, or packed conversations of more than one token."""
    mask = batch.get("attention_mask")
    return (measure_lengths(plain_positions(batch)) > 1).sum() if mask is None else mask.sum()


def plain_positions(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Positions of a batch as they are counted, (rows, positions), whatever axes its rotary embeddings have besides."""
    positions = batch["position_ids"]
    return positions[0] if positions.ndim > 2 else positions


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
