"""Media meet their places: tags, `<img>PATH</img>`, parts, or the family's rule when a row says nothing.

The result has the form that templates place again. Media at tags stand in front of their turn's text, in the
order of the tags, and the tags stay in the text. `<img>PATH</img>` becomes a tag in the same way, so the text
around it stays exactly as it was written and nothing is added. Media without tags stand at the start of a
turn that has no tag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from vlcore.dataset.row import ReadOptions, Site
from vlcore.dataset.sources import Kind, Source, find_medium
from vlcore.family import PlaceMedia
from vlcore.messages import Image, Message, Part, Role, Text, Video

VIDEO_TAG = "<video>"
#: Another way to write `<image>` in data files, read for every family.
PLACEHOLDER = "<image_placeholder>"
_INLINE = re.compile(r"<img>(.*?)</img>")
_ESCAPE = 'or keep it as text by writing the content as parts, [{"type": "text", "text": ...}]'


@dataclass(frozen=True, slots=True)
class Slot:
    """A part that takes the next medium beside the conversation, `{"type": "image"}` without a source."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn before its media are placed.

    Attributes:
        role: who speaks.
        parts: its content.
        field: where its content is in the row, for messages to people.
        trained: whether it counts in the loss.
        typed: whether its content was one text, in which `<img>` and tags are looked for.
    """

    role: Role
    parts: tuple[Part | Slot, ...]
    field: str
    trained: bool = True
    typed: bool = True

    @property
    def text(self) -> str:
        """Its texts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """The media it holds by itself."""
        return tuple(part for part in self.parts if isinstance(part, Image | Video))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its parts that wait for a medium."""
        return tuple(part for part in self.parts if isinstance(part, Slot))

    def tags(self, options: ReadOptions) -> list[Kind]:
        """What the tags in its text stand for, in order; only users place media."""
        found = _compile_tags(options.tags).findall(self.text) if self.role == "user" else []
        return ["video" if tag == VIDEO_TAG else "image" for tag in found]


class Shelf:
    """The media beside a conversation, taken one by one as places for them come."""

    def __init__(self, images: Sequence[Source], videos: Sequence[Source], site: Site) -> None:
        self.site = site
        #: One entry a listed medium, None where the list has null.
        self.listed: list[Image | Video | None] = [
            *(Image(source) if source else None for source in images),
            *(Video(source) if source else None for source in videos),
        ]
        self.left: dict[Kind, list[Image | Video]] = {
            "image": [medium for medium in self.listed if isinstance(medium, Image)],
            "video": [medium for medium in self.listed if isinstance(medium, Video)],
        }

    @property
    def field(self) -> str:
        """The key that lists media, for messages to people."""
        return "images" if self.left["image"] else "videos"

    def take(self, kind: Kind, field: str) -> Image | Video:
        """The next medium of a kind, for the turn at `field`.

        Raises:
            DataError: when none is left.
        """
        if not self.left[kind]:
            raise self.site.fault(field, f"no {kind} is left for its <{kind}> tag",
                                  f"give as many {kind}s as tags, {_ESCAPE}")
        return self.left[kind].pop(0)

    def check_empty(self) -> None:
        """Refuses a row with more media than tags."""
        for kind, left in self.left.items():
            if left:
                raise self.site.fault(f"{kind}s", f"{len(left)} of them have no <{kind}> tag",
                                      f"give as many tags as {kind}s, or no tag at all")


def place_media(
    turns: Sequence[Turn], shelf: Shelf, site: Site
) -> tuple[tuple[Message, ...], PlaceMedia | None]:
    """Messages with every medium in its place, and the rule that placed them when no tag or part did.

    Raises:
        DataError: when places and media differ in number, the row places media in two ways, or a turn has media
            that the model does not take there.
    """
    _check_speakers(turns, site)
    messages, placed = _place(turns, shelf, site)
    _check_share(messages, turns, site)
    return messages, placed


def _place(turns: Sequence[Turn], shelf: Shelf, site: Site) -> tuple[tuple[Message, ...], PlaceMedia | None]:
    beside = any(shelf.listed)
    turns = [_read_placeholders(turn, beside, site) for turn in turns]
    if any(_is_inline(turn) for turn in turns):
        _check_inline(turns, shelf, site)
        turns = [_read_inline(turn, site) for turn in turns]
    elif beside and not any(turn.slots or (turn.tags(site.options) and not turn.media) for turn in turns):
        return _place_untagged(turns, shelf, site), site.options.place
    messages = tuple(_fill_turn(turn, shelf, site, literal=not beside) for turn in turns)
    shelf.check_empty()
    return messages, None


@cache
def _compile_tags(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, (*tags, VIDEO_TAG))))


def _check_speakers(turns: Sequence[Turn], site: Site) -> None:
    for turn in turns:
        if turn.role != "user" and (turn.media or turn.slots):
            raise site.fault(turn.field, f"it holds media of the {turn.role}", "give them to the user")


def _check_share(messages: Sequence[Message], turns: Sequence[Turn], site: Site) -> None:
    """Refuses media beyond what a talk would ask for: more than one in a turn, or in a second turn."""
    holding = [at for at, message in enumerate(messages) if message.media]
    crowded = [at for at in holding if len(messages[at].media) > 1]
    if site.options.ask == "turn" and crowded:
        count = len(messages[crowded[0]].media)
        raise site.fault(turns[crowded[0]].field, f"it has {count} media, and this model takes one a turn",
                         "give each a turn of its own")
    if site.options.ask == "conversation" and len(holding) > 1:
        raise site.fault(turns[holding[1]].field, "this model takes media in one turn, and an earlier one has some",
                         "put them all into one turn, or make a row of each")


def _read_placeholders(turn: Turn, beside: bool, site: Site) -> Turn:
    """The turn with the family's own tag for each placeholder; content given as parts is text as in `_fill_turn`."""
    tags = site.options.tags
    if turn.role != "user" or PLACEHOLDER in tags or not (turn.typed or beside):
        return turn
    parts = (Text(part.text.replace(PLACEHOLDER, tags[0])) if isinstance(part, Text) else part for part in turn.parts)
    return replace(turn, parts=tuple(parts))


def _is_inline(turn: Turn) -> bool:
    return turn.typed and turn.role == "user" and ("<img>" in turn.text or "</img>" in turn.text)


def _check_inline(turns: Sequence[Turn], shelf: Shelf, site: Site) -> None:
    if any(shelf.listed):
        raise site.fault(shelf.field, "the text names media too, in <img>", "use one way in a row")
    for turn in turns:
        if turn.typed and (tags := turn.tags(site.options)):
            raise site.fault(turn.field, f"it has an <{tags[0]}> tag in a row with <img>PATH</img>",
                             "use one way in a row")


def _read_inline(turn: Turn, site: Site) -> Turn:
    """The turn with each `<img>PATH</img>` of its text replaced by a tag, and its images in front."""
    if not _is_inline(turn):
        return turn
    paths = _INLINE.findall(turn.text)
    text = _INLINE.sub(lambda found: site.options.tags[0], turn.text)
    if "<img>" in text or "</img>" in text:
        raise site.fault(turn.field, "it has <img> or </img> alone", f"write <img>PATH</img>, {_ESCAPE}")
    images = [Image(find_medium(path.strip(), f"{turn.field}: <img>", site)) for path in paths]
    return replace(turn, parts=(*images, Text(text)))


def _place_untagged(turns: Sequence[Turn], shelf: Shelf, site: Site) -> tuple[Message, ...]:
    if any(turn.media for turn in turns):
        raise site.fault(shelf.field, "the conversation holds media too, and no tag says where these belong",
                         "put all of them in the conversation, or write tags")
    queries = [i for i, turn in enumerate(turns) if turn.role == "user"]
    groups = _group_media(shelf, queries, site)
    return tuple(_make_message(turn, groups.get(i, ())) for i, turn in enumerate(turns))


def _group_media(shelf: Shelf, queries: Sequence[int], site: Site) -> dict[int, list[Image | Video]]:
    """The media of each turn, by the family's rule."""
    if site.options.place != "turns":
        at = queries[0] if site.options.place == "first" else queries[-1]
        return {at: [medium for medium in shelf.listed if medium]}
    if len(shelf.listed) > len(queries):
        raise site.fault(shelf.field, f"{len(shelf.listed)} media for {len(queries)} turns",
                         "this model takes one a turn, in order; write null for a turn without")
    return {i: [medium] for i, medium in zip(queries, shelf.listed, strict=False) if medium}


def _fill_turn(turn: Turn, shelf: Shelf, site: Site, literal: bool) -> Message:
    """The turn with media at its slots and tags.

    The tags of a turn that holds media by itself are for these. `literal`: content given as parts is text as
    it stands, so that rows without media can talk about tags.
    """
    parts = (shelf.take(part.kind, turn.field) if isinstance(part, Slot) else part for part in turn.parts)
    turn = replace(turn, parts=tuple(parts))
    tags = turn.tags(site.options)
    if not turn.media:
        waiting = [] if literal and not turn.typed else tags
        return _make_message(turn, [shelf.take(kind, turn.field) for kind in waiting])
    held: list[Kind] = ["video" if isinstance(medium, Video) else "image" for medium in turn.media]
    if tags and tags != held:
        why = f"its tags are for {', '.join(tags)}, and it holds {', '.join(held)}"
        raise site.fault(turn.field, why, "give as many tags as media, in the same order, or no tag at all")
    return _make_message(turn, ())


def _make_message(turn: Turn, media: Sequence[Image | Video]) -> Message:
    parts = (part for part in turn.parts if not isinstance(part, Slot))
    return Message(turn.role, (*media, *parts), turn.trained)
