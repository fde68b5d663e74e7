"""Options made from the fields of a configuration.

Every option answers to `--snake_case` and `--kebab-case` and to its aliases. Several values may follow one
option (`--dataset a.jsonl b.jsonl`), and a flag stands alone or with `true` or `false`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from vlcore.config import default_of, list_options
from vlcore.errors import suggest_near

#: Words that a flag may be followed by.
BOOLEANS = {"true": "true", "false": "false", "1": "true", "0": "false"}


class ConfigCommand(click.Command):
    """A command that spells its arguments as click wants them before click sees them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, after `spell_arguments`."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        return super().parse_args(ctx, spell_arguments(args, options))


def spell_arguments(arguments: Sequence[str], options: Sequence[click.Option]) -> list[str]:
    """Arguments in one spelling: `--name=value`, once for each value.

    Raises:
        click.UsageError: for an option that does not exist, with near names, or that has no value.
    """
    known = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    spelt: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*spelt, word, *waiting]
        if not word.startswith("--"):
            spelt.append(word)
            continue
        name, sign, value = spell_name(word).partition("=")
        if name == "--help":
            return [name]
        if name not in known:
            near = suggest_near(name[2:], [n[2:] for n in known])
            raise click.UsageError(f"option {word}: there is no such option; {near}")
        option = known[name]
        values = [value] if sign else _take_values(option, waiting, known)
        if not values:
            raise click.UsageError(f"option {word}: it needs a value; {option.help}")
        spelt += _spell_flag(name, values[0]) if option.is_flag else [f"{name}={v}" for v in values]
    return spelt


def spell_name(word: str) -> str:
    """An option's word with underscores in its name.

    >>> spell_name("--batch-size=a-b")
    '--batch_size=a-b'
    """
    name, sign, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + sign + value


def _spell_flag(name: str, value: str) -> list[str]:
    """A flag of click's own, which takes no value: its name, or nothing."""
    if value.lower() not in BOOLEANS:
        raise click.UsageError(f"option {name}: {value} is neither true nor false; leave it out")
    return [name] if BOOLEANS[value.lower()] == "true" else []


def _take_values(option: click.Option, waiting: list[str], known: Mapping[str, click.Option]) -> list[str]:
    """The values that belong to an option, taken off the waiting words; none when another option follows."""
    if option.is_flag or isinstance(option.type, type(click.BOOL)):
        return [BOOLEANS[waiting.pop(0).lower()]] if waiting and waiting[0].lower() in BOOLEANS else ["true"]
    taken: list[str] = []
    while waiting and spell_name(waiting[0]).partition("=")[0] not in known and waiting[0] != "--":
        if taken and (not option.multiple or waiting[0].startswith("--")):
            break
        taken.append(waiting.pop(0))
    return taken


def config_options(config_type: type[Any], **hidden: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a command function with one option a field of a configuration; it is given the `config`.

    Args:
        config_type: the dataclass.
        hidden: fields that get no option, with their values.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        names = [item.name for item, _, _ in list_options(config_type) if item.name not in hidden]

        def run(**given: Any) -> Any:
            values = {name: given.pop(name) for name in names}
            lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list | tuple)}
            return function(config=config_type(**{**values, **lists, **hidden}), **given)

        run.__doc__ = function.__doc__
        run.__dict__.update(getattr(function, "__dict__", {}))
        for item, kind, several in reversed([o for o in list_options(config_type) if o[0].name in names]):
            run = make_option(item, kind, several)(run)
        return run

    return decorate


def make_option(item: Any, kind: Any, several: bool) -> Callable[[Any], Any]:
    """The click option of one field."""
    spellings = [f"--{name}" for name in (item.name, *item.metadata["aliases"])]
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    default = default_of(item)
    option_type = click.Choice([str(choice) for choice in choices], case_sensitive=False) if choices else kind
    return click.option(
        *spellings,
        item.name,
        type=option_type,
        is_flag=False,
        multiple=several,
        metavar="TEXT..." if several else None,
        default=list(default) if several else default,
        help=f"{item.metadata['help']} [default: {show_default(default)}]",
    )


def show_default(default: Any) -> str:
    """How a default is shown: `true` and `none` as a user would type or read them."""
    if isinstance(default, tuple):
        return " ".join(default) or "none"
    if default is None or default == "":
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
