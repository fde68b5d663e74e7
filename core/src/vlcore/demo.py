"""The demo: from a random tiny model to one that reads digits, then answers in words.

Everything goes through the same functions as the commands it prints: `sft`, `merge`, and answering a data set.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcore.cli.table import write_table
from vlcore.config import InferConfig, SftConfig
from vlcore.errors import ExtraMissing, ModelNotFound, UsageError, suggest_near
from vlcore.family import ModelFamily
from vlcore.plugins import get_registry

#: What each digit is called after the LoRA training.
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTION = "<image>Which digit?"
#: A short system text: the model's own would be most of every prompt.
SYSTEM = "Read."
#: Edge of the pictures in pixels; the originals are 8 x 8.
EDGE = 56
#: Pictures kept for the final test; the others train.
HELD_OUT = 297


@dataclass(frozen=True, slots=True)
class Digit:
    """A picture of the data set and the digit it shows."""

    image: Path
    digit: int


@dataclass(frozen=True, slots=True)
class Score:
    """A model's answers to the held-out pictures: how many are right, in digits and in words."""

    model: str
    answers: tuple[str, ...]
    digits: float
    words: float


class Demo:
    """The demo's folder and the steps that fill it."""

    def __init__(self, folder: Path, family: str, seed: int, say: Callable[[str], object]) -> None:
        self.folder, self.seed, self.say = folder, seed, say
        self.family = find_family(family)

    def run(self, overwrite: bool = False) -> list[Score]:
        """All steps; returns the scores of the base, full-trained, adapted and merged model."""
        data = load_digits()
        prepare_folder(self.folder, overwrite)
        held_out = self.write_data(data)
        tiny = self.write_tiny()
        full = self.sft(tiny, "digits", sft_type="full", learning_rate=3e-3, num_train_epochs=12.0)
        adapter = self.sft(full, "words", sft_type="lora", learning_rate=3e-3, num_train_epochs=6.0,
                           lora_rank=16, lora_dropout_p=0.0, lora_target_modules=("ALL",))
        merged = self.merge(adapter)
        models = {"base": tiny, "full": full, "adapter": adapter, "merged": merged}
        scores = [self.score(name, model, held_out) for name, model in models.items()]
        self.report(scores, held_out, {"full": full, "adapter": adapter})
        return scores

    def write_data(self, data: Any) -> list[Digit]:
        """The digits as PNG files, with jsonl files for both trainings; returns the held-out pictures."""
        digits = write_digits(data, self.folder / "images")
        random.Random(self.seed).shuffle(digits)
        held_out, train = digits[:HELD_OUT], digits[HELD_OUT:]
        for name, answers in (("digits", tuple(map(str, range(10)))), ("words", WORDS)):
            write_rows(self.folder / f"{name}-train.jsonl", train, answers)
            write_rows(self.folder / f"{name}-held-out.jsonl", held_out, answers)
        self.say(f"{len(digits)} digits written to {self.folder}: {len(train)} to train, {len(held_out)} held out")
        return held_out

    def write_tiny(self) -> Path:
        """The tiny random checkpoint, in the layout of its family's release."""
        folder = self.folder / "tiny"
        folder.mkdir()
        registry = get_registry()
        owner = registry.owner_of(self.family).name
        texts = [SYSTEM, QUESTION, *map(str, range(10)), *WORDS]
        if not registry.call("write_tiny", owner, family=self.family, folder=folder, texts=texts, seed=self.seed):
            name = self.family.name
            raise UsageError(f"family {name}", "its plugin brings no tiny checkpoint", "choose another --family")
        self.say(f"a tiny random {self.family.name} model: {folder}")
        return folder

    def sft(self, model: Path, task: str, **settings: Any) -> Path:
        """A training through the public function, after printing its command; returns the last checkpoint."""
        from vlcore.train.sft import sft

        config = SftConfig(
            model=str(model),
            dataset=(str(self.folder / f"{task}-train.jsonl"),),
            val_dataset=(str(self.folder / f"{task}-held-out.jsonl") + "#100",),
            output_dir=str(self.folder / f"output-{task}"),
            batch_size=20, eval_batch_size=50, gradient_accumulation_steps=1,
            gradient_checkpointing=False, eval_steps=150, save_steps=150, logging_steps=10,
            seed=self.seed, dtype="fp32", **settings,
        )
        self.say_command("sft", config, SftConfig())
        return Path(sft(config).checkpoint)

    def merge(self, adapter: Path) -> Path:
        """The adapter merged into its model, after printing the command."""
        from vlcore.export.merging import merge

        self.say(f"\n$ vlcore export --ckpt_dir {adapter} --merge_lora true")
        return merge(adapter)

    def score(self, name: str, model: Path, held_out: Sequence[Digit]) -> Score:
        """A model's answers to the held-out pictures, after printing the command."""
        from vlcore.evaluate import answer_rows, find_rows
        from vlcore.model import load_model

        path = self.folder / f"answers-{name}.jsonl"
        data = (str(self.folder / "words-held-out.jsonl"),)
        config = InferConfig(ckpt_dir=str(model), val_dataset=data, result_path=str(path),
                             infer_batch_size=99, max_new_tokens=8, temperature=0.0, dtype="fp32")
        self.say_command("infer", config, InferConfig())
        loaded = load_model(model, dtype="fp32")
        answer_rows(loaded, find_rows(loaded, config), path, config)
        with path.open(encoding="utf8") as file:
            answers = tuple(json.loads(line)["response"] for line in file)
        pairs = list(zip(answers, held_out, strict=True))
        digits = sum(text == str(item.digit) for text, item in pairs) / len(pairs)
        return Score(name, answers, digits, sum(text == WORDS[item.digit] for text, item in pairs) / len(pairs))

    def report(self, scores: Sequence[Score], held_out: Sequence[Digit], runs: dict[str, Path]) -> None:
        """The closing table, the loss curves and the contact sheet."""
        from vlcore.contact import draw_contact_sheet

        rows = [{"model": s.model, "digits": f"{s.digits:.1%}", "words": f"{s.words:.1%}"} for s in scores]
        self.say("\n" + write_table(["model", "digits", "words"], rows))
        by_name = {score.model: score.answers for score in scores}
        same = by_name["adapter"] == by_name["merged"]
        self.say(f"adapter and merged answers are {'identical' if same else 'DIFFERENT'} on {len(held_out)} images")
        sheet = draw_contact_sheet(
            [item.image for item in held_out[:40]],
            [f"{full} / {word}" for full, word in zip(by_name["full"][:40], by_name["adapter"][:40], strict=True)],
            [(full, word) == (str(item.digit), WORDS[item.digit])
             for full, word, item in zip(by_name["full"], by_name["adapter"], held_out[:40], strict=False)],
            self.folder / "answers.png",
        )
        for name, checkpoint in runs.items():
            shutil.copyfile(checkpoint.parent / "loss.png", self.folder / f"loss-{name}.png")
        self.say(f"loss curves: {self.folder / 'loss-full.png'}, {self.folder / 'loss-adapter.png'}; answers: {sheet}")

    def say_command(self, name: str, config: Any, defaults: Any) -> None:
        """Prints the command that does what a configuration says."""
        words = [f"$ vlcore {name}"]
        for key, value in vars(config).items():
            if value != getattr(defaults, key):
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words.append(f"--{key} {shown.lower() if isinstance(value, bool) else shown}")
        self.say("\n" + " ".join(words))


def find_family(name: str) -> ModelFamily:
    """A registered family by name.

    Raises:
        ModelNotFound: when no plugin brings it, with near names.
    """
    families = {family.name: family for family in get_registry().families.values()}
    if name not in families:
        raise ModelNotFound(f"family {name}", "no installed plugin brings it",
                            f"run: pip install vlcore-{name.replace('_', '-')} ({suggest_near(name, families)})")
    return families[name]


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """An empty folder for the demo.

    Raises:
        UsageError: when there is something in it, unless it is a demo's and may be replaced.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (overwrite and (folder / "digits-train.jsonl").is_file()):
            raise UsageError(f"folder {folder}", "it is not empty", "give --overwrite or another --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def load_digits() -> Any:
    """scikit-learn's handwritten digits: `images` of 8 x 8 values up to 16, and the `target` of each.

    Raises:
        ExtraMissing: when scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ExtraMissing("the demo's digits", "scikit-learn", "demo") from error
    return datasets.load_digits()


def write_digits(data: Any, folder: Path) -> list[Digit]:
    """The digits as PNG files of 56 x 56 pixels."""
    from PIL import Image

    folder.mkdir()
    digits = []
    for number, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
        picture = Image.fromarray((pixels * (255 / 16)).astype("uint8"))
        path = folder / f"{number:04d}.png"
        picture.resize((EDGE, EDGE), Image.Resampling.BICUBIC).save(path)
        digits.append(Digit(path, int(digit)))
    return digits


def write_rows(path: Path, digits: Sequence[Digit], answers: Sequence[str]) -> None:
    """A jsonl file with a question and an answer a picture."""
    rows = [
        {"system": SYSTEM, "query": QUESTION, "response": answers[item.digit], "images": [f"images/{item.image.name}"]}
        for item in digits
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
