"""The records that hooks give and are given: public dataclasses and protocols of the modules that plugins import."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from sitepages.docstring import join_lines, read_docstring
from sitepages.fill import quote, write_table
from sitepages.hooks import show_type, write_signature

#: The modules, and what each is for.
MODULES = {
    "vlcore.family": "What a plugin registers",
    "vlcore.resolve": "The checkpoint that hooks are called for",
    "vlcore.template": "Templates",
    "vlcore.media": "Media",
    "vlcore.tokenizer": "Tokenizers",
    "vlcore.boxes": "Boxes",
    "vlcore.metrics.record": "Metrics",
}


def write_records() -> str:
    """A section a module, in it a section a record."""
    return "\n\n".join(part for module, title in MODULES.items() for part in write_module(module, title))


def write_module(module: str, title: str) -> Iterator[str]:
    """The records of a module."""
    yield f"## {title}"
    yield f"`from {module} import ...`"
    for record in list_records(module):
        yield from write_record(record)


def list_records(module: str) -> list[type]:
    """The public dataclasses and protocols that a module defines, in its order."""
    kinds = [thing for thing in vars(import_module(module)).values() if inspect.isclass(thing)]
    own = [kind for kind in kinds if kind.__module__ == module and not kind.__name__.startswith("_")]
    return [kind for kind in own if dataclasses.is_dataclass(kind) or is_protocol(kind)]


def is_protocol(kind: type) -> bool:
    """Whether a class says what others must offer."""
    return bool(getattr(kind, "_is_protocol", False))


def write_record(record: type) -> Iterator[str]:
    """What a record is, its fields, and what it can do."""
    said = read_docstring(record)
    yield f"### {record.__name__}"
    yield said.text
    if dataclasses.is_dataclass(record):
        rows = [[quote(item.name), write_type(item.type), show_default(item), said.entries.get(item.name, "")]
                for item in dataclasses.fields(record)]
        columns = 4 if said.entries else 3
        yield write_table(["field", "type", "default", "what it is"][:columns], [row[:columns] for row in rows])
    yield "\n".join(f"- {quote(head)}: {join_lines(text)}" for head, text in list_methods(record))


def write_type(kind: Any) -> str:
    """A type as code; one that is long may break in its cell (`site.css`)."""
    text = show_type(kind)
    return quote(text) + ("{.long}" if len(text) > 24 else "")


def list_methods(record: type) -> Iterator[tuple[str, str]]:
    """The public methods and properties of a class itself, each with its head and what it does."""
    for name, thing in vars(record).items():
        if name.startswith("_"):
            continue
        if isinstance(thing, property):
            back = inspect.signature(thing.fget).return_annotation if thing.fget else ""
            yield f"{name}: {show_type(back)}", read_docstring(thing).text
        elif inspect.isfunction(thing):
            head = write_signature(name, thing).removeprefix("def ").removesuffix(": ...")
            yield head.replace("(self, ", "(").replace("(self)", "()"), read_docstring(thing).text


def show_default(item: dataclasses.Field[Any]) -> str:
    """A field's default as code; "needed" when there is none."""
    if item.default is not dataclasses.MISSING:
        return "its own" if inspect.isfunction(item.default) else quote(repr(item.default))
    if item.default_factory is not dataclasses.MISSING:
        return quote(repr(item.default_factory()))
    return "needed"
