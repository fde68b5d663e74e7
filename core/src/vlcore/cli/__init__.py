"""The command line. Commands are imported when they are used; none imports torch before it runs."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from vlcore.errors import VlcoreError, suggest_near

#: Command -> module below this package, and the sentence `vlcore --help` shows.
COMMANDS = {
    "infer": ("infer", "Ask a model, talk with it, or answer a data set."),
    "sft": ("sft", "Fine-tune a model: LoRA, QLoRA or full."),
    "data": ("data", "Look at data before a training: faults, tokens, rows as a model sees them."),
    "plan": ("plan", "Say what a fine-tuning will take: parameters, steps, memory of a GPU."),
    "export": ("export", "Merge an adapter, write transformers' layout or quantize, and prove the result."),
    "serve": ("serve", "Serve a model over HTTP, as OpenAI's chat completions."),
    "web": ("web", "Open a page in the browser for talking with a model."),
    "models": ("models", "List the models that the installed plugins know."),
    "plugins": ("plugins", "List the installed plugins and what is wrong with them."),
    "plugin": ("plugin", "Write a plugin, and check that its models do what every family must."),
    "parity": ("parity", "Hold a model against recorded data of its release."),
    "demo": ("demo", "Train and ask a tiny model on real images, offline, in two minutes."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use.

    Args:
        table: command -> module of `vlcore.cli`, and the sentence `--help` shows.
        named: as of click.
    """

    def __init__(self, *, table: Mapping[str, tuple[str, str]], **named: Any) -> None:
        super().__init__(**named)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order a user meets them."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in self.table:
            return None
        command: click.Command = import_module(f"vlcore.cli.{self.table[cmd_name][0]}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click, but an unknown name brings the near ones."""
        if args and args[0] not in self.table:
            near = suggest_near(args[0], self.table)
            raise click.UsageError(f"command {args[0]}: there is no such command; {near}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="vlcore")
def cli(debug: bool) -> None:
    """Run and fine-tune vision-language models."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line: errors become one line on standard error and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    warnings.showwarning = show_warning
    # It warns of every 8-bit layer at every token, and on a CPU of kernels that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        sys.exit(cli.main(arguments or ["--help"], prog_name="vlcore", standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        text, code = explain(error)
        text = " ".join(text.split())
        if not hand_on(text, code):
            click.echo(f"vlcore: error: {text}", err=True)
        sys.exit(code)


def hand_on(text: str, code: int) -> bool:
    """Leaves an error to the command that started this process as one of several; returns whether there is one."""
    if "RANK" not in os.environ:
        return False
    from vlcore.train.launch import leave_failure

    return leave_failure(text, code)


def explain(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, VlcoreError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", 130
    if isinstance(error, OSError) and error.strerror:
        given = "the system" if error.filename is None else error.filename
        return f"{given}: {error.strerror}; check the path, who may write there, and the space that is left", 1
    return f"{type(error).__name__}: {error}; this is a fault of vlcore or of a plugin, --debug shows where", 1


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **named: Any
) -> None:
    """Warnings as one line, without the source line that Python adds."""
    click.echo(f"vlcore: warning: {' '.join(str(message).split())}", err=True)
