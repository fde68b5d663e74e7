"""A result to look at: a tiny model learns to read, count and point at handwritten digits, then to answer in words.

    python benchmarks/digits.py [--folder digits] [--seed 0] [--small]

scikit-learn's digits (8 x 8 pixels) are put into pictures of 1 to 3 rows of 1 to 4 digits, at random places and sizes
of a grid of 4 x 4. Training, validation and test have different source digits. A training row is a conversation that
asks three questions about its picture in random order: read, count, point. A test row asks one. A tiny random InternVL2
is trained in full; then LoRA teaches it to read and count in words. Everything is done with the commands that are
printed; seconds are of the clock and of the processor, the latter summed over cores.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from vlcore.boxes import draw_boxes
from vlcore.cli import cli
from vlcore.cli.table import write_table
from vlcore.contact import draw_contact_sheet
from vlcore.demo import WORDS, load_digits
from vlcore.metrics import Facts, choose_metrics, measure
from vlcore_internvl.family import FAMILY
from vlcore_internvl.tiny import write_tiny, write_weights

#: Edge of a picture and of the model's tile; places and sizes of digits are multiples of the square that becomes one
#: position of the language model, two by two patches: so small a vision tower learns digits that lie across slowly.
EDGE, GRID = 112, 28
#: Standard deviation of the first weights: the usual 0.02 is for models ten times as wide.
SPREAD = 0.06
SYSTEM = "Look."
KINDS = ("read", "count", "point")
#: Pictures on each sheet.
SHOWN = 32
#: What each kind of question is measured by; the first is the figure of the closing table.
METRICS = {
    "read": ("exact_match", "cer"), "count": ("count_accuracy", "exact_match"), "point": ("box_iou@0.5", "box_iou")}
NUMBERS = (*WORDS, "ten", "eleven", "twelve")
TRAINING = ("--dtype", "fp32", "--gradient_checkpointing", "false", "--gradient_accumulation_steps", "1",
            "--batch_size", "32", "--eval_batch_size", "50", "--save_total_limit", "1", "--logging_steps", "20",
            "--eval_steps", "100", "--save_steps", "10000", "--report_to", "none")
FULL = ("--sft_type", "full", "--learning_rate", "2e-3")
LORA = ("--sft_type", "lora", "--learning_rate", "2e-3", "--lora_rank", "16", "--lora_dropout_p", "0",
        "--lora_target_modules", "ALL")


@dataclass(frozen=True, slots=True)
class Digit:
    """A digit in a picture: which, and left, top, right, bottom in pixels of the square it was scaled into."""

    value: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its rows of digits from top to bottom."""

    image: Path
    rows: tuple[tuple[Digit, ...], ...]

    @property
    def digits(self) -> tuple[Digit, ...]:
        """All digits in the order of reading."""
        return tuple(digit for row in self.rows for digit in row)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, its answer, and the boxes that stand at the answer's `<bbox>`."""

    kind: str
    text: str
    answer: str
    boxes: tuple[tuple[int, int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: pictures and epochs of each training, pictures of the test, size of the model."""

    full: tuple[int, float] = (6000, 10)
    words: tuple[int, float] = (3000, 4)
    test: int = 200
    width: int = 128
    layers: int = 2


SMALL = Plan((32, 1), (32, 1), 4, 32, 1)


def spread(room: int, sizes: Sequence[int], chance: random.Random, most: int) -> list[int]:
    """Starts of things in a line, at random places of the grid, with gaps of at most `most` between them."""
    spare = room - sum(sizes)
    gaps = [chance.randrange(0, min(most, spare // len(sizes)) + 1, GRID) for _ in sizes[1:]]
    at = chance.randrange(0, spare - sum(gaps) + 1, GRID)
    starts = []
    for size, gap in zip(sizes, [*gaps, 0], strict=True):
        starts.append(at)
        at += size + gap
    return starts


def compose(pool: Sequence[tuple[Image.Image, int]], path: Path, chance: random.Random, counts: Sequence[int]) -> Scene:
    """A picture with so many digits of the pool in each row, written to a file."""
    canvas = Image.new("L", (EDGE, EDGE))
    sizes = [chance.randrange(GRID, EDGE // max(count, len(counts)) + 1, GRID) for count in counts]
    rows = []
    for top, size, count in zip(spread(EDGE, sizes, chance, EDGE), sizes, counts, strict=True):
        chosen = chance.choices(pool, k=count)
        row = []
        for left, (picture, value) in zip(spread(EDGE, [size] * count, chance, GRID), chosen, strict=True):
            canvas.paste(picture.resize((size, size), Image.Resampling.BICUBIC), (left, top))
            row.append(Digit(value, (left, top, left + size, top + size)))
        rows.append(tuple(row))
    canvas.save(path)
    return Scene(path, tuple(rows))


def compose_all(pool: Sequence[tuple[Image.Image, int]], folder: Path, count: int) -> list[Scene]:
    """Some pictures in a folder, of 1 to 3 rows of 1 to 4 digits; small numbers are likelier."""
    folder.mkdir(parents=True)
    chance = random.Random(folder.name)
    counts = [chance.choices(range(1, 5), (3, 3, 2, 2), k=chance.choice((1, 1, 1, 2, 2, 3))) for _ in range(count)]
    return [compose(pool, folder / f"{at:05}.png", chance, wanted) for at, wanted in enumerate(counts)]


def read_sources(seed: int) -> dict[str, list[tuple[Image.Image, int]]]:
    """scikit-learn's digits with what they show, divided among training, validation and test."""
    data = load_digits()
    digits = [(Image.fromarray((pixels * (255 / 16)).astype("uint8")), int(value))
              for pixels, value in zip(data.images, data.target, strict=True)]
    random.Random(seed).shuffle(digits)
    return {"test": digits[:300], "val": digits[300:400], "train": digits[400:]}


def ask(scene: Scene, chance: random.Random) -> list[Question]:
    """A question of each kind: what is written, how many there are, where one is."""
    values = [digit.value for digit in scene.digits]
    lines = "\n".join("".join(str(digit.value) for digit in row) for row in scene.rows)
    counted = chance.choice([*values, chance.randrange(10)])
    number = (Question("count", "How many digits?", str(len(values))) if chance.random() < 0.3 else
              Question("count", f"How many {counted}s are there?", str(values.count(counted))))
    wanted = chance.choice(values)
    boxes = tuple(digit.box for digit in scene.digits if digit.value == wanted)
    return [Question("read", "Read the numbers.", lines), number,
            Question("point", f"Where is the {wanted}?", "<bbox>", boxes)]


def spell(kind: str, answer: str) -> str:
    """An answer in words; places stay as they are.

    >>> spell("read", "37"), spell("count", "11")
    ('three seven', 'eleven')
    """
    if kind == "count":
        return NUMBERS[int(answer)]
    if kind == "read":
        return "\n".join(" ".join(WORDS[int(digit)] for digit in line) for line in answer.splitlines())
    return answer


def write_row(scene: Scene, questions: Sequence[Question], style: Callable[[str, str], str]) -> dict[str, Any]:
    """A row of a data file: the questions about a picture as one conversation."""
    turns = [(question.text, style(question.kind, question.answer)) for question in questions]
    turns[0] = (f"<image>{turns[0][0]}", turns[0][1])
    objects = [{"bbox": [list(box) for box in question.boxes]} for question in questions if question.boxes]
    return {"system": SYSTEM, "history": [list(turn) for turn in turns[:-1]], "query": turns[-1][0],
            "response": turns[-1][1], "images": [f"{scene.image.parent.name}/{scene.image.name}"], "objects": objects}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


def write_data(folder: Path, plan: Plan, seed: int) -> list[Scene]:
    """Rows of both trainings, with some to validate each, and a file of each kind to test; returns the test's."""
    pools = read_sources(seed)
    for name, (count, _), style in (("full", plan.full, keep), ("words", plan.words, spell)):
        for part, pictures in (("train", count), ("val", 64)):
            scenes = compose_all(pools[part], folder / f"{name}-{part}", pictures)
            chance = random.Random(seed)
            rows = [write_row(scene, chance.sample(ask(scene, chance), 3), style) for scene in scenes]
            write_rows(folder / f"{name}-{part}.jsonl", rows)
    scenes = compose_all(pools["test"], folder / "test", plan.test)
    chance = random.Random(seed)
    questions = [ask(scene, chance) for scene in scenes]
    for at, kind in enumerate(KINDS):
        rows = [write_row(scene, [asked[at]], keep) for scene, asked in zip(scenes, questions, strict=True)]
        write_rows(folder / f"test-{kind}.jsonl", rows)
    return scenes


def write_model(folder: Path, plan: Plan, seed: int) -> None:
    """The tiny random checkpoint."""
    texts = [SYSTEM, "Read the numbers.", "How many digits?", *(f"How many {n}s are there?" for n in range(10)),
             *(f"Where is the {n}?" for n in range(10)), " ".join(NUMBERS), "[[100, 200, 300, 400]]"]
    write_tiny(folder, tile=EDGE, texts=texts, width=plan.width, layers=plan.layers, seed=seed)
    config = json.loads((folder / "config.json").read_text("utf8"))
    for part in ("vision_config", "llm_config"):
        config[part]["initializer_range"] = SPREAD
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf8")
    write_weights(folder, seed)


def keep(kind: str, answer: str) -> str:
    """An answer as it is."""
    return answer


def run(*words: object) -> None:
    """A command of vlcore in this process, after printing it; then its seconds."""
    texts = [str(word) for word in words]
    print(f"\n$ vlcore {shlex.join(texts)}", flush=True)
    start = time.perf_counter(), read_processor()
    cli.main(texts, prog_name="vlcore", standalone_mode=False)
    print(f"{time.perf_counter() - start[0]:.0f} s, {read_processor() - start[1]:.0f} s of the processor", flush=True)


def read_processor() -> float:
    """Seconds of the processor that this process and its ended children took."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def train(folder: Path, model: Path, name: str, epochs: float, *settings: object) -> Path:
    """The last checkpoint of a training."""
    output = folder / f"output-{name}"
    run("sft", "--model", model, "--dataset", folder / f"{name}-train.jsonl", "--val_dataset",
        folder / f"{name}-val.jsonl", "--output_dir", output, "--num_train_epochs", epochs, *TRAINING, *settings)
    return max(output.glob("*/v*/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def answer(folder: Path, name: str, model: Path) -> dict[str, list[str]]:
    """A model's answers to the questions of each kind."""
    answers = {}
    for kind in KINDS:
        path = folder / f"answers-{name}-{kind}.jsonl"
        run("infer", "--ckpt_dir", model, "--val_dataset", folder / f"test-{kind}.jsonl", "--metric", *METRICS[kind],
            "--result_path", path, "--infer_batch_size", 100, "--max_new_tokens", 100, "--temperature", 0,
            "--dtype", "fp32")
        answers[kind] = [json.loads(line)["response"] for line in path.read_text("utf8").splitlines()]
    return answers


def read_labels(folder: Path, kind: str) -> list[str]:
    """The labels of the test rows of a kind, boxes in the family's marks."""
    lines = (folder / f"answers-full-{kind}.jsonl").read_text("utf8").splitlines()
    return [json.loads(line)["label"] for line in lines]


def score(metric: str, answers: Sequence[str], labels: Sequence[str]) -> float:
    """The figure of a metric for some answers."""
    figures = measure(choose_metrics([metric]), answers, labels, Facts(grounding=FAMILY.grounding))
    value = figures.metrics[metric].value
    assert value is not None, "every label can be measured"
    return value


def report(folder: Path, answers: dict[str, dict[str, list[str]]]) -> None:
    """Prints how many answers of each model are right: read and counted in either style, and pointed at."""
    columns: dict[str, tuple[str, Callable[[str, str], str], str]] = {
        "read": ("read", keep, "exact_match"), "count": ("count", keep, "exact_match"),
        "read in words": ("read", spell, "exact_match"), "count in words": ("count", spell, "exact_match"),
        "point, IoU 0.5": ("point", keep, "box_iou@0.5")}
    rows = [{"model": model} for model in answers]
    for name, (kind, style, metric) in columns.items():
        labels = [style(kind, label) for label in read_labels(folder, kind)]
        for row in rows:
            row[name] = f"{score(metric, answers[row['model']][kind], labels):.1%}"
    print("\n" + write_table(["model", *columns], rows))


def draw(folder: Path, scenes: Sequence[Scene], answers: dict[str, list[str]]) -> None:
    """sheet.png with what was read in some pictures, boxes.png with where digits were seen."""
    pictures = [scene.image for scene in scenes[:SHOWN]]
    lines = ["/".join(text.splitlines()) for text in answers["read"][:SHOWN]]
    pairs = zip(answers["read"], read_labels(folder, "read")[:SHOWN], strict=False)
    draw_contact_sheet(pictures, lines, [text == label for text, label in pairs], folder / "sheet.png")
    asked = [json.loads(line)["query"] for line in (folder / "test-point.jsonl").read_text("utf8").splitlines()[:SHOWN]]
    (folder / "drawn").mkdir()
    drawn = [folder / "drawn" / picture.name for picture in pictures]
    for picture, text, path in zip(pictures, answers["point"], drawn, strict=False):
        draw_boxes(Image.open(picture), FAMILY.grounding.read(text)).save(path)
    pairs = zip(answers["point"], read_labels(folder, "point")[:SHOWN], strict=False)
    right = [score("box_iou@0.5", [text], [label]) == 1 for text, label in pairs]
    draw_contact_sheet(drawn, [text.removeprefix("<image>") for text in asked], right, folder / "boxes.png")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("digits"), help="where everything is written; must be new")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few pictures and steps, to try the script")
    return parser.parse_args()


def main() -> None:
    given = read_arguments()
    plan, folder = SMALL if given.small else Plan(), given.folder.resolve()
    folder.mkdir(parents=True)
    scenes = write_data(folder, plan, given.seed)
    write_model(folder / "tiny", plan, given.seed)
    full = train(folder, folder / "tiny", "full", plan.full[1], *FULL)
    adapter = train(folder, full, "words", plan.words[1], *LORA)
    merged = folder / "merged"
    run("export", "--ckpt_dir", adapter, "--merge_lora", "true", "--output_dir", merged, "--verify", "false")
    models = {"full": full, "adapter": adapter, "merged": merged}
    answers = {name: answer(folder, name, model) for name, model in models.items()}
    report(folder, answers)
    same = answers["adapter"] == answers["merged"]
    print(f"answers of adapter and merged model: {'identical' if same else 'DIFFERENT'}")
    draw(folder, scenes, answers["full"])


if __name__ == "__main__":
    main()
