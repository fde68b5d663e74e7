"""The forms of a row: each, recognised by its keys, becomes turns with the media beside them, then messages.

Three keys name a form: `query` (with `response` and `history`), `conversations` and `messages`. With each go
`system`, `images`, `videos` and `objects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlcore.dataset.grounding import BOX_TAG, NAME_TAG, TAGS, write_objects
from vlcore.dataset.places import Shelf, Slot, Turn, place_media
from vlcore.dataset.row import Position, ReadOptions, Row, Site
from vlcore.dataset.sources import find_medium, list_media
from vlcore.errors import UsageError, show, suggest_near
from vlcore.messages import Image, Message, Part, Role, Text, Video
from vlcore.template import check_order

ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}
_BESIDE = {"system", "images", "image", "videos", "video", "objects"}
#: The keys that are read, by the key that names the form.
FORMS: Mapping[str, set[str]] = {
    "query": {"query", "response", "history"} | _BESIDE,
    "conversations": {"conversations"} | _BESIDE,
    "messages": {"messages"} | _BESIDE,
}
#: The keys of one turn: role, content, and whether it counts in the loss.
_TURN_KEYS = {"conversations": ("from", "value", "loss"), "messages": ("role", "content", "loss")}
_PARTS: Mapping[str, type[Image] | type[Video]] = {
    "image": Image, "image_url": Image, "video": Video, "video_url": Video,
}
_PART_KEYS = {"type", "text", "frames", "url", "path", *_PARTS}


def read_row(data: Mapping[str, Any], position: Position, options: ReadOptions) -> Row:
    """A row from a JSON object of any form.

    Raises:
        DataError: naming file, line and field of what cannot be read.
    """
    site = Site(source=position.source, line=position.line, options=options)
    form = find_form(data, site)
    turns = _read_query(data, site) if form == "query" else _read_turns(data, form, site)
    turns = _add_system(turns, data, site)
    _check_turns(turns, form, bool(data.get("objects")), site)
    shelf = Shelf(list_media(data, "image", site), list_media(data, "video", site), site)
    messages, placed = place_media(turns, shelf, site)
    return Row(source=site.source, line=site.line, messages=write_objects(messages, data, site), placed=placed)


def find_form(data: Mapping[str, Any], position: Position) -> str:
    """The key that names the row's form.

    Raises:
        DataError: for a row with none of them, with near names, or with several.
    """
    found = [form for form in FORMS if form in data]
    if len(found) == 1:
        return found[0]
    if found:
        raise position.fault(" and ".join(found), "a row has one conversation", "leave one of them out")
    if "response" in data:
        raise position.fault("query", _missing("query", data), "give the question that is answered")
    keys = [show(key) + hint_key(key, {*FORMS, "response"}) for key in list(data)[:12]]
    said = ", ".join(keys) + (f" and {len(data) - 12} more" if len(data) > 12 else "") or "none"
    raise position.fault("row", f"it has no conversation; its keys are: {said}",
                         "write query and response, conversations or messages")


def list_unread(data: Mapping[str, Any], form: str) -> set[str]:
    """Keys of a row, and of its turns as `messages[].name`, that nothing reads; `objects` without their tags."""
    turns = data[form] if form in _TURN_KEYS else ()
    contents = [turn["content"] for turn in turns] if form == "messages" else ()
    parts = [part for content in contents if isinstance(content, list) for part in content]
    of_turns = {f"{form}[].{key}" for key in _used_keys(turns) - set(_TURN_KEYS.get(form, ()))}
    of_parts = {f"{form}[].content[].{key}" for key in _used_keys(parts) - _PART_KEYS}
    written = str([data.get(key) for key in (form, "response", "history")])
    idle = {"objects"} if data.get("objects") and not TAGS.search(written) else set()
    return (set(data) - FORMS[form]) | of_turns | of_parts | idle


def hint_key(key: str, known: set[str]) -> str:
    """` (did you mean ...?)` for a row's key that is nearly a known one, else nothing."""
    hint = "" if key in known or "[" in key else suggest_near(key, known)
    return f" ({hint})" if hint.startswith("did you mean") else ""


def _used_keys(items: Iterable[Mapping[str, Any]]) -> set[str]:
    return {key for item in items for key, value in item.items() if value is not None}


def _read_query(data: Mapping[str, Any], site: Site) -> list[Turn]:
    turns = []
    for i, pair in enumerate(_as_list(data.get("history", []), "history", site)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise site.fault(f"history[{i}]", "it is not a pair", "write [query, response]")
        turns.append(_make_turn("user", pair[0], f"history[{i}][0]", site))
        turns.append(_make_turn("assistant", pair[1], f"history[{i}][1]", site))
    turns.append(_make_turn("user", data["query"], "query", site))
    if "response" in data:
        turns.append(_make_turn("assistant", data["response"], "response", site))
    elif site.options.train:
        raise site.fault("response", _missing("response", data), "give the answer to train on")
    return turns


def _read_turns(data: Mapping[str, Any], form: str, site: Site) -> list[Turn]:
    items = _as_list(data[form], form, site)
    return [_read_turn(item, form, f"{form}[{i}]", site) for i, item in enumerate(items)]


def _read_turn(item: Any, form: str, field: str, site: Site) -> Turn:
    role_key, content_key, loss_key = _TURN_KEYS[form]
    example = f'write {{"{role_key}": "user", "{content_key}": "..."}}'
    if not isinstance(item, dict):
        raise site.fault(field, "it is not a turn", example)
    for key in (role_key, content_key):
        if item.get(key) is None:
            raise site.fault(f"{field}.{key}", _missing(key, item), example)
    role = ROLES.get(str(item[role_key]).lower())
    if role is None:
        why = f"there is no role '{show(item[role_key])}'"
        raise site.fault(f"{field}.{role_key}", why, suggest_near("", ROLES))
    trained = True if item.get(loss_key) is None else item[loss_key]
    if not isinstance(trained, bool):
        raise site.fault(f"{field}.{loss_key}", "it is neither true nor false", "write true or false")
    content, field = item[content_key], f"{field}.{content_key}"
    if form == "messages" and isinstance(content, list):
        parts = tuple(_read_part(part, f"{field}[{i}]", site) for i, part in enumerate(content))
        return Turn(role, parts, field, trained, typed=False)
    return _make_turn(role, content, field, site, trained)


def _read_part(part: Any, field: str, site: Site) -> Part | Slot:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return Text(_as_text(part.get("text"), f"{field}.text", site))
    medium = _PARTS.get(str(kind))
    if medium is None:
        why = f"there is no part of type '{show(kind)}'"
        raise site.fault(f"{field}.type", why, suggest_near("", ("text", *_PARTS)))
    if part.get("frames") is not None:
        frames = _as_list(part["frames"], f"{field}.frames", site)
        if not frames:
            raise site.fault(f"{field}.frames", "there is none", "list at least one picture")
        found = (find_medium(source, f"{field}.frames[{i}]", site) for i, source in enumerate(frames))
        return Video(frames=tuple(map(Image, found)))
    key = next((key for key in (kind, "url", "path") if part.get(key) is not None), None)
    if key is None:
        return Slot("image" if medium is Image else "video")
    source = part[key].get("url") if isinstance(part[key], dict) else part[key]
    return medium(find_medium(source, f"{field}.{key}", site))


def _add_system(turns: list[Turn], data: Mapping[str, Any], site: Site) -> list[Turn]:
    own = bool(turns) and turns[0].role == "system"
    if own and data.get("system"):
        raise site.fault("system", "the conversation begins with one of its own", "leave one of them out")
    system = data.get("system") or site.options.system
    return turns if own or not system else [_make_turn("system", system, "system", site), *turns]


def _check_turns(turns: list[Turn], form: str, grounded: bool, site: Site) -> None:
    answered = bool(turns) and turns[-1].role == "assistant"
    try:
        check_order([Message(turn.role, ()) for turn in turns], site.options.train or answered)
    except UsageError as error:
        raise site.fault(form, f"{error.given}: {error.why}", error.do) from error
    for turn in turns:
        if not grounded and (tag := next((tag for tag in (BOX_TAG, NAME_TAG) if tag in turn.text), None)):
            raise site.fault(turn.field, f"{tag} would stay in the text as it is",
                             "give objects for it, or write names and boxes in the model's own marks")


def _make_turn(role: Role, text: Any, field: str, site: Site, trained: bool = True) -> Turn:
    return Turn(role, (Text(_as_text(text, field, site)),), field, trained)


def _as_text(value: Any, field: str, site: Site) -> str:
    if not isinstance(value, str):
        raise site.fault(field, "it is not a text", "put it in quotes")
    return value


def _as_list(value: Any, field: str, site: Site) -> list[Any]:
    if not isinstance(value, list):
        raise site.fault(field, "it is not a list", "write it as a list, [...]")
    return value


def _missing(key: str, data: Mapping[str, Any]) -> str:
    near = next((other for other in data if hint_key(other, {key})), None)
    return f"it is missing (is {show(near)} meant for it?)" if near else "it is missing"
