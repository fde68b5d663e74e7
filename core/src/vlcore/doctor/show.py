"""A row as the model sees it: its prompt piece by piece, its ids, and what becomes of it in a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlcore.batch import IGNORED, Layout
from vlcore.budget import Overflow, Reduction, fit
from vlcore.dataset import Position, Row, Rows
from vlcore.doctor.findings import name_fault
from vlcore.doctor.report import name_number
from vlcore.doctor.settings import LookConfig
from vlcore.errors import DataError, UsageError, VlcoreError
from vlcore.media import Plan, Slot, describe
from vlcore.messages import Image, Video
from vlcore.template import Segment

if TYPE_CHECKING:
    from vlcore.model import Frontend

PieceKind = Literal["text", "special", "media"]
#: Control characters as they are written in code, so that no text of a row steers the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
#: Ids of one value in a row from which they are written as one.
_MANY = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of what is shown: text, one special token or one medium, in the loss or not."""

    text: str
    kind: PieceKind = "text"
    trained: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """A row as the model sees it.

    Attributes:
        head: lines about it.
        prompt: its prompt.
        ids: its ids.
    """

    head: tuple[str, ...]
    prompt: tuple[Piece, ...]
    ids: tuple[Piece, ...]


def find_rows(rows: Rows, line: int, count: int) -> list[int]:
    """Indices of some rows, from the one that begins in a line on.

    Args:
        rows: the rows.
        line: as errors name it: the line a row begins in, or its number in a table; 0 for the first.
        count: how many.

    Raises:
        UsageError: when no row begins there.
    """
    lines = [rows.locate(index).line for index in range(len(rows))] if line else []
    if line and line not in lines:
        near = sorted(set(sorted(set(lines), key=lambda other: abs(other - line))[:2]))
        raise UsageError(f"row {line}", f"no row of {rows.sources[0].records.name} begins in that line",
                         f"near are {' and '.join(map(str, near))}")
    first = lines.index(line) if line else 0
    return list(range(first, min(first + count, len(rows))))


def view_row(frontend: Frontend, row: Row, config: LookConfig) -> View:
    """What a training makes of a row; a row without an answer as it would be asked.

    Raises:
        DataError: naming file and line, when the row's media cannot be read or do not fit the model.
    """
    train = row.messages[-1].role == "assistant"
    plan: dict[str, Any] = {"train": train, "loss_on": config.loss_on}
    try:
        whole = frontend.plan(row.messages, **plan)
        reduction, layout, fate = _reduce(frontend, row, whole, config)
        segments = frontend.write_segments(reduction.messages, **plan, **reduction.options)
    except VlcoreError as error:
        raise _name(row, error) from error
    head = (write_head(row, whole, train), write_system(row, frontend), *list_videos(row), *fate)
    image_id = frontend.media.image_token_id
    return View(head, tuple(_list_pieces(segments, layout)), tuple(_list_ids(layout, image_id)))


def _name(row: Row, error: VlcoreError) -> DataError:
    fault = name_fault(row, error)
    return DataError(fault.place, fault.why, fault.do)


def _reduce(
    frontend: Frontend, row: Row, whole: Layout, config: LookConfig
) -> tuple[Reduction, Layout, tuple[str, ...]]:
    """What is left of a row, its layout, and what is said about it."""
    kept = Reduction(row.messages)
    limit, rule = config.max_length, config.on_overflow
    if not limit or len(whole) <= limit:
        return kept, whole, ()
    said = f"above --max_length {limit:,} by {name_number(len(whole) - limit, 'token')}: --on_overflow {rule} "
    if rule in ("error", "drop"):
        return kept, whole, (said + ("stops a training here" if rule == "error" else "leaves it out"),)
    train = row.messages[-1].role == "assistant"
    try:
        reduction, layout = fit(frontend, row.messages, limit, rule, train=train, loss_on=config.loss_on)
    except Overflow as error:
        return kept, whole, (f"{said}cannot help: {error.why}",)
    return reduction, layout, (f"{said}leaves {len(layout):,} tokens, shown here{_explain(reduction, row)}",)


def _explain(reduction: Reduction, row: Row) -> str:
    """What was taken away."""
    if reduction.options:
        return f" ({', '.join(f'{name}={value}' for name, value in reduction.options.items())})"
    return f" ({name_number(len(row.messages) - len(reduction.messages), 'message')} left out)"


def write_head(row: Row, layout: Layout, train: bool) -> str:
    """Where a row stands and what it takes."""
    media = [medium for message in row.messages for medium in message.media]
    tokens = sum(plan.tokens for plan in layout.plans)
    turns = sum(message.role == "user" for message in row.messages)
    images = sum(isinstance(medium, Image) for medium in media)
    counts = (("turn", turns), ("image", images), ("video", len(media) - images))
    held = ", ".join(name_number(n, what) for what, n in counts if n)
    trained = len(layout) - layout.labels.count(IGNORED)
    parts = [f"{len(layout) - tokens:,} text", f"{tokens:,} media", f"{trained:,} in the loss"]
    return (f"{Position(source=row.source, line=row.line)}: {held}, "
            f"{name_number(len(layout), 'token')} ({', '.join(parts)})" + ("" if train else ", without an answer"))


def write_system(row: Row, frontend: Frontend) -> str:
    """Which system text a row has."""
    if row.messages[0].role == "system":
        return "system text: of the row or --system"
    return f"system text: {'of the model' if getattr(frontend.template, 'system', None) else 'none'}"


def list_videos(row: Row) -> list[str]:
    """Where a row's videos come from; at their places stand their frames."""
    return [describe(medium) for message in row.messages for medium in message.media if isinstance(medium, Video)]


def _list_pieces(segments: Sequence[Segment], layout: Layout) -> Iterator[Piece]:
    waiting = iter(zip(layout.slots, layout.plans, strict=True))
    for segment in segments:
        if segment.kind == "media":
            yield Piece(write_slot(*next(waiting)), "media")
        elif segment.text:
            yield Piece(segment.text.translate(_CONTROLS), segment.kind, segment.trained)


def write_slot(slot: Slot, plan: Plan) -> str:
    """A medium at its place: kind, sizes, tiles, tokens, and where it is from."""
    sizes: Mapping[str, None] = dict.fromkeys("{}x{}".format(*size) for size in slot.sizes)
    kind = "frame" if slot.frame else "image"
    several = f"{len(slot.images)} of " if len(slot.images) > 1 else ""
    held = f"<{kind} {several}{', '.join(sizes)}, {name_number(sum(plan.tiles), 'tile')}, "
    # The frames of a video have no pixels yet when lengths are taken, and no names.
    names = dict.fromkeys(describe(image).removeprefix("image ") for image in slot.images)
    where = "" if slot.frame and any(isinstance(image.source, bytes) for image in slot.images) else (
        f": {', '.join(names)}")
    return f"{held}{name_number(plan.tokens, 'token')}{where}>".translate(_CONTROLS)


def _list_ids(layout: Layout, image_id: int) -> Iterator[Piece]:
    at = 0
    while at < len(layout):
        token, end = layout.ids[at], at + 1
        while end < len(layout) and layout.ids[end] == token:
            end += 1
        trained, kind = layout.labels[at] != IGNORED, _kind_of(token, image_id)
        if end - at < _MANY or trained:
            end = at + 1
        yield Piece(str(token) if end == at + 1 else f"{token}×{end - at}", kind, trained)
        at = end


def _kind_of(token: int, image_id: int) -> PieceKind:
    return "media" if token == image_id else "text"


def join_ids(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Ids with spaces between them, the space in the loss where both its neighbours are."""
    joined: list[Any] = []
    for piece in pieces:
        if joined:
            joined.append(Piece(" ", trained=joined[-1].trained and piece.trained))
        joined.append(piece)
    return tuple(joined)
