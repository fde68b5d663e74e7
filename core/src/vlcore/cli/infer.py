"""`vlcore infer`: one question, a talk, or a data set."""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.cli.table import write_table
from vlcore.config import GenerateConfig, InferConfig, LoadConfig, complete, default_of, pick
from vlcore.errors import UsageError
from vlcore.metrics import Figures, Metric, choose_metrics

if TYPE_CHECKING:
    from vlcore.messages import Message
    from vlcore.model import VLModel
    from vlcore.train.ranks import Place


@click.command(cls=ConfigCommand)
@config_options(InferConfig)
def command(config: InferConfig) -> None:
    """Ask a model: one question (--question), a talk, or all rows of a data set (--val_dataset).

    The model is a name, a hub id or a folder (--model, --model_type), or what training left (--ckpt_dir).
    """
    for line in find_idle(config):
        warnings.warn(line, stacklevel=1)
    metrics = choose_metrics(config.metric)
    if config.load_dataset_config or config.val_dataset:
        answer_data(config, metrics)
        return
    model = open_checkpoint_or_model(config)
    if config.question:
        answer_question(model, config)
    else:
        talk(model, config)


def find_idle(config: InferConfig) -> Iterator[str]:
    """Options that were given but have no effect, with the reason."""
    if config.temperature == 0:
        yield from _name_given(config, ("top_p", "top_k", "seed"), "temperature 0 is greedy")
    if config.load_dataset_config or config.val_dataset:
        yield from _name_given(config, ("image_file", "video_file", "stream", "max_length"), "a data set is answered")
    else:
        idle = ("result_path", "image_folder", "infer_batch_size", "metric", "resume")
        yield from _name_given(config, idle, "no data set is answered")
        if os.environ.get("NPROC_PER_NODE", "1") != "1":
            yield "NPROC_PER_NODE has no effect: processes share a data set, and none is answered"


def _name_given(config: InferConfig, names: Sequence[str], why: str) -> Iterator[str]:
    usual = {item.name: default_of(item) for item in fields(InferConfig)}
    return (f"--{name} has no effect: {why}" for name in names if getattr(config, name) != usual[name])


def open_checkpoint_or_model(config: InferConfig) -> VLModel:
    """The model of `--ckpt_dir`, else of `--model` and `--model_type`."""
    from vlcore.checkpoint import RUN_FILE, read_run
    from vlcore.model import adopt_options, open_model

    load = pick(LoadConfig, config)
    if not config.ckpt_dir:
        return open_model(adopt_options(load))
    if not (Path(config.ckpt_dir) / RUN_FILE).is_file():
        return open_model(replace(load, model=config.ckpt_dir))
    run = read_run(config.ckpt_dir)
    return open_model(run.adopt(load), run.adapter or "")


def answer_question(model: VLModel, config: InferConfig) -> None:
    """Prints one question and its answer between dashed lines."""
    from vlcore.messages import read_inline
    from vlcore.terminal import clean_text

    draw = make_drawer(model, config.draw_boxes)
    tags = model.checkpoint.family.tags
    text, inline = read_inline(config.question, tags[0])
    if not config.image_file and not inline and any(tag in text for tag in tags if tag != "<video>"):
        raise UsageError(f"question {text!r}", "it has a tag but no picture", "give --image_file, or leave the tag out")
    if "<video>" in text and not config.video_file:
        raise UsageError(f"question {text!r}", "it has a tag but no video", "give --video_file, or leave the tag out")
    click.echo(f"----------\nquestion: {config.question}\noutputs: ", nl=False)
    session = model.session(config.system, config.max_length)
    settings = complete(pick(GenerateConfig, config), model.checkpoint.family.question)
    pieces = session.stream(text, [*config.image_file, *inline], settings, config.video_file)
    for piece in pieces if config.stream else ("".join(pieces),):
        click.echo(clean_text(piece), nl=False)
    click.echo("\n----------")
    if not draw(session.messages):
        click.echo("[INFO] The answer holds no boxes for a picture; nothing is drawn.")


def talk(model: VLModel, config: InferConfig) -> None:
    """A talk on the terminal, or with what is piped in; `--image_file` and `--video_file` open it with media."""
    from vlcore.console import Talk, Terminal
    from vlcore.messages import Image, Video
    from vlcore.terminal import history_file, line_editing, read_line

    record, family = model.checkpoint.record, model.checkpoint.family
    ask = family.ask_of(record)
    draw = make_drawer(model, config.draw_boxes)
    person = sys.stdin.isatty()
    terminal = Terminal(read_line, lambda text: click.echo(text, nl=False), draw, person, config.stream)
    opening: list[Image | Video] = [Image(source) for source in config.image_file]
    opening += [Video(source) for source in config.video_file]
    session = model.session(config.system, config.max_length)
    with line_editing(history_file()):
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


def answer_data(config: InferConfig, metrics: Sequence[Metric]) -> None:
    """Answers a data set in this process, or starts as many as `NPROC_PER_NODE` says and lets them share it."""
    from vlcore.train.launch import asks_for_processes, hush_others, start_processes

    if asks_for_processes():
        code, text = start_processes(sys.argv[1:], config.device_map)
        if text:
            click.echo(f"vlcore: error: {text}", err=True)
        sys.exit(code)
    hush_others()
    from vlcore.evaluate import choose_result_path
    from vlcore.train.ranks import join_processes

    with join_processes() as place:
        path = place.share(lambda: choose_result_path(config))
        answer_rows(replace(config, device_map=place.choose_device(config.device_map)), metrics, path, place)


def answer_rows(config: InferConfig, metrics: Sequence[Metric], path: Path, place: Place) -> None:
    """Answers the rows of a data set, one JSON line a row, with a progress bar; at the end a table of figures."""
    from vlcore.evaluate import answer_rows, find_rows, name_figures

    model = open_checkpoint_or_model(config)
    rows = find_rows(model, config)
    figures = answer_rows(model, rows, path, config, metrics, place)
    if not place.is_first:
        return
    click.echo(f"answers: {path}")
    if metrics:
        click.echo(f"metrics: {name_figures(path)}\n{describe_figures(figures)}")
    if figures.failed:
        share = f"{figures.failed} of {figures.rows} rows"
        worst = "; they have the worst score" if metrics else ""
        warnings.warn(f"{share} could not be answered; their lines hold the error{worst}", stacklevel=1)


def describe_figures(figures: Figures) -> str:
    """A table of figures, and a line for the rows that are in none of them."""
    rows = [
        {
            "metric": name,
            "value": "-" if figure.value is None else f"{figure.value:.4f}",
            "95% interval": "-" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}",
            "better": "higher" if figure.greater_is_better else "lower",
            "rows": figure.rows,
        }
        for name, figure in figures.metrics.items()
    ]
    table = write_table(list(rows[0]), rows)
    if not figures.unlabelled:
        return table
    return f"{table}\n[INFO] {figures.unlabelled} of {figures.rows} rows have no label; they are in no figure."
