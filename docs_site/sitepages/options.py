"""The configuration reference: every option of every command, and the options of families."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from vlcore.cli import cli
from vlcore.cli.options import make_option, show_default
from vlcore.config import DataConfig, GenerateConfig, LoadConfig, LoraConfig, TrainConfig, list_options
from vlcore.native.family import FRAMES, OPTIONS
from vlcore.plugins import get_registry

from sitepages.docstring import join_lines
from sitepages.fill import quote, write_table

#: Options that several commands take, by the title of their table.
GROUPS: Mapping[str, type[Any]] = {
    "Loading a model": LoadConfig, "Generating": GenerateConfig, "Data": DataConfig, "Adapters": LoraConfig,
    "Training": TrainConfig,
}
#: How the types of click are called.
TYPES = {"integer": "whole number", "integer range": "whole number", "float": "number", "boolean": "true or false",
         "path": "path"}
HEAD = ["option", "takes", "default", "what it says"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option as its table shows it.

    Attributes:
        names: its spellings, the first one first.
        takes: what a value may be.
        default: its value when nothing is given.
        help: what it says.
    """

    names: tuple[str, ...]
    takes: str
    default: str
    help: str

    def write_row(self) -> list[str]:
        """Its row of a table."""
        first, *others = map(quote, self.names)
        return [first + "".join(f"<br>{name}" for name in others), self.takes, quote(self.default), escape(self.help)]


def write_options() -> str:
    """The shared options, then the commands, then the families."""
    return "\n\n".join([*write_groups(), *write_commands(), *write_families()])


def write_groups() -> Iterator[str]:
    """A table a group."""
    yield "## Options that several commands take"
    for title, config in GROUPS.items():
        yield f"### {title}"
        yield f"In Python: `vlcore.config.{config.__name__}`. {(config.__doc__ or '').strip()}"
        yield write_table(HEAD, [option.write_row() for option in list_group(config)])


def list_group(config: type[Any]) -> list[Option]:
    """The options of a configuration."""

    def nothing() -> None: ...

    for field in reversed(list(list_options(config))):
        make_option(*field)(nothing)
    return [read_option(param) for param in reversed(nothing.__click_params__)]  # type: ignore[attr-defined]


def write_commands() -> Iterator[str]:
    """A section a command."""
    yield "## Commands"
    groups = {title: list_group(config) for title, config in GROUPS.items()}
    for name, command in list_commands():
        yield f"### {name}"
        if given := usage(command):
            yield quote(" ".join([name, *given]))
        yield escape(join_paragraphs(command.help or ""))
        yield from write_own(read_options(command), groups)


def write_own(options: Sequence[Option], groups: Mapping[str, Sequence[Option]]) -> Iterator[str]:
    """The groups that a command takes whole, and a table of its other options."""
    taken = {title: group for title, group in groups.items() if all(option in options for option in group)}
    own = [option for option in options if not any(option in group for group in taken.values())]
    links = [f"[{title}](#{title.lower().replace(' ', '-')})" for title in taken]
    if links:
        yield f"Takes the options of {', '.join(links)}{', and' if own else '.'}"
    if own:
        yield write_table(HEAD, [option.write_row() for option in own])
    if not options:
        yield "It has no options."


def list_commands(group: click.Group = cli, path: str = "vlcore") -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it; of a group its commands."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{path} {name}")
        elif command is not None:
            yield f"{path} {name}", command


def usage(command: click.Command) -> list[str]:
    """What a command is given besides options."""
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    return [each.make_metavar(click.Context(command)) for each in arguments]


def read_options(command: click.Command) -> list[Option]:
    """The options of a command."""
    return [read_option(param) for param in command.params if isinstance(param, click.Option)]


def read_option(param: click.Option) -> Option:
    """What an option says, with the limits that its field has."""
    help_text, _, _ = (param.help or "").partition(" [default: ")
    default = param.default
    if not isinstance(default, str | int | float | list | tuple):
        default = False if param.is_flag else None  # click marks what has no default by a value of its own
    shown = show_default(tuple(map(str, default)) if isinstance(default, list | tuple) else default)
    return Option(tuple(param.opts), describe_type(param) + find_limits(param.name or "", help_text), shown, help_text)


def describe_type(param: click.Option) -> str:
    """What values an option takes."""
    if param.is_flag:
        return "nothing"
    if isinstance(param.type, click.Choice):
        return ", ".join(quote(str(choice)) for choice in param.type.choices)
    kind = TYPES.get(param.type.name, "text")
    return f"{kind}, several" if param.multiple else kind


def find_limits(name: str, help_text: str) -> str:
    """The limits of a number, which the field with this help has."""
    signs = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    for field in list_fields():
        if field.name == name and field.metadata["help"] == help_text:
            limits = [f"{sign} {field.metadata[key]}" for key, sign in signs.items() if field.metadata[key] is not None]
            return "".join(f", {limit}" for limit in limits)
    return ""


def list_fields() -> Iterator[dataclasses.Field[Any]]:
    """The fields of all configurations."""
    from vlcore import config
    from vlcore.serve.settings import ServeConfig
    from vlcore.web.settings import WebConfig

    kinds = [thing for name, thing in vars(config).items() if name.endswith("Config") and isinstance(thing, type)]
    for kind in (*kinds, ServeConfig, WebConfig):
        yield from dataclasses.fields(kind)


def write_families() -> Iterator[str]:
    """The options of each family, which `--option NAME=VALUE` sets."""
    yield "## Options of families"
    yield ("`--option NAME=VALUE` sets one; commands that load a model take it. Without a default, the model's own "
           "configuration decides.")
    families = [(family.name, option) for family in get_registry().families.values() for option in family.options]
    families += [("transformers' own", option) for option in (FRAMES, *OPTIONS.values())]
    rows = [[name, quote(option.name), option.kind.__name__, quote(show_default(option.default)), escape(option.help)]
            for name, option in families]
    yield write_table(["family", "option", "type", "default", "what it says"], rows)


def join_paragraphs(text: str) -> str:
    """A help text with each paragraph on one line."""
    return "\n\n".join(join_lines(part) for part in text.split("\n\n"))


def escape(text: str) -> str:
    """A help text whose signs mean nothing to markdown, and whose options are code.

    >>> escape("with --model, <b> `<c>`")
    'with `--model`, &lt;b> `<c>`'
    """
    pieces = text.split("`")
    for number in range(0, len(pieces), 2):
        plain = pieces[number].replace("*", "\\*").replace("<", "&lt;")
        pieces[number] = re.sub(r"--[a-z][\w-]*", r"`\g<0>`", plain)
    return "`".join(pieces)
