"""`vlcore infer`: one question, a talk, or a data set."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.config import GenerateConfig, InferConfig, LoadConfig, complete, default_of, pick
from vlcore.errors import UsageError

if TYPE_CHECKING:
    from vlcore.messages import Message
    from vlcore.model import VLModel


@click.command(cls=ConfigCommand)
@config_options(InferConfig)
def command(config: InferConfig) -> None:
    """Ask a model: one question (--question), a talk, or all rows of a data set (--val_dataset).

    The model is a name, a hub id or a folder (--model, --model_type), or what training left (--ckpt_dir).
    """
    for line in find_idle(config):
        warnings.warn(line, stacklevel=1)
    model = open_checkpoint_or_model(config)
    if config.load_dataset_config or config.val_dataset:
        answer_rows(model, config)
    elif config.question:
        answer_question(model, config)
    else:
        talk(model, config)


def find_idle(config: InferConfig) -> Iterator[str]:
    """Options that were given but have no effect, with the reason."""
    if config.load_dataset_config or config.val_dataset:
        idle, why = ("image_file", "stream", "max_length"), "a data set is answered"
    else:
        idle, why = ("result_path", "image_folder", "infer_batch_size"), "no data set is answered"
    if config.temperature == 0:
        yield from _name_given(config, ("top_p", "top_k", "seed"), "temperature 0 is greedy")
    yield from _name_given(config, idle, why)


def _name_given(config: InferConfig, names: Sequence[str], why: str) -> Iterator[str]:
    usual = {item.name: default_of(item) for item in fields(InferConfig)}
    return (f"--{name} has no effect: {why}" for name in names if getattr(config, name) != usual[name])


def open_checkpoint_or_model(config: InferConfig) -> VLModel:
    """The model of `--ckpt_dir`, else of `--model` and `--model_type`."""
    from vlcore.checkpoint import RUN_FILE, read_run
    from vlcore.model import open_model

    load = pick(LoadConfig, config)
    if not config.ckpt_dir:
        return open_model(load)
    if not (Path(config.ckpt_dir) / RUN_FILE).is_file():
        return open_model(replace(load, model=config.ckpt_dir))
    run = read_run(config.ckpt_dir)
    return open_model(run.adopt(load), run.adapter or "")


def answer_question(model: VLModel, config: InferConfig) -> None:
    """Prints one question and its answer between dashed lines."""
    from vlcore.messages import read_inline

    draw = make_drawer(model, config.draw_boxes)
    tags = model.checkpoint.family.tags
    text, inline = read_inline(config.question, tags[0])
    if not config.image_file and not inline and any(tag in text for tag in tags):
        raise UsageError(f"question {text!r}", "it has a tag but no picture", "give --image_file, or leave the tag out")
    click.echo(f"----------\nquestion: {config.question}\noutputs: ", nl=False)
    session = model.session(config.system, config.max_length)
    settings = complete(pick(GenerateConfig, config), model.checkpoint.family.question)
    pieces = session.stream(text, [*config.image_file, *inline], settings)
    if config.stream:
        for piece in pieces:
            click.echo(piece, nl=False)
    else:
        click.echo("".join(pieces), nl=False)
    click.echo("\n----------")
    if not draw(session.messages):
        click.echo("[INFO] The answer holds no boxes for a picture; nothing is drawn.")


def talk(model: VLModel, config: InferConfig) -> None:
    """A talk on the terminal, or with what is piped in; `--image_file` opens it with pictures."""
    from vlcore.console import Talk, Terminal
    from vlcore.messages import Image

    record, family = model.checkpoint.record, model.checkpoint.family
    ask = (record.ask if record else None) or family.ask
    draw = make_drawer(model, config.draw_boxes)
    terminal = Terminal(read_line, lambda text: click.echo(text, nl=False), draw)
    opening = [Image(source) for source in config.image_file]
    session = model.session(config.system, config.max_length)
    Talk(session, terminal, ask, pick(GenerateConfig, config), opening).run()


def make_drawer(model: VLModel, file: str) -> Callable[[Sequence[Message]], bool]:
    """What draws the boxes of a conversation's last answer into a file, the next time into `NAME-2.png`.

    Args:
        model: the model that answers.
        file: where to draw; empty for nowhere.

    Returns:
        A function that takes a conversation and tells whether it did what was asked: False without boxes.

    Raises:
        UsageError: when the model's family writes no boxes, or files of that name cannot be written.
    """
    from PIL import Image

    from vlcore.boxes import draw_answer

    if not file:
        return lambda messages: True
    path, family = Path(file), model.checkpoint.family
    if family.grounding is None:
        raise UsageError(f"draw_boxes {file}", f"models of family {family.name} write no boxes", "leave it out")
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"draw_boxes {file}", "no picture is written under such a name", "give a name such as out.png")
    grounding = family.grounding
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))

    def draw(messages: Sequence[Message]) -> bool:
        drawn = draw_answer(messages, grounding)
        if drawn is not None:
            target = next(names)
            drawn.save(target)
            click.echo(f"[INFO] boxes: {target}")
        return drawn is not None

    return draw


def read_line(prompt: str) -> str:
    """A line typed after a prompt, with the editing and history of the terminal."""
    import sys

    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() editing and history
    return input(prompt)


def answer_rows(model: VLModel, config: InferConfig) -> None:
    """Answers the rows of a data set, one JSON line a row, with a progress bar."""
    from vlcore.evaluate import answer_rows, choose_result_path, find_rows

    rows = find_rows(model, config)
    path = choose_result_path(config)
    failed = answer_rows(model, rows, path, config)
    click.echo(f"answers: {path}")
    if failed:
        warnings.warn(f"{failed} of {len(rows)} rows could not be answered; their lines hold the error", stacklevel=1)


