"""The exceptions of the library, each with its exit code, a line that it really says, and what to do."""

from __future__ import annotations

import ast
import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlcore import errors
from vlcore.errors import ExtraMissing, VlcoreError

from sitepages.fill import quote, write_table


@dataclass(frozen=True, slots=True)
class Example:
    """How an error comes about.

    Attributes:
        typed: a command that ends with it.
        provoke: raises it as that command does.
        remedy: what to do about errors of its class.
    """

    typed: str
    provoke: Callable[[], object]
    remedy: str

    def provoke_in_empty_folder(self) -> None:
        """Raises the error where nothing else is."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the plugins of an example have no code
            self.provoke()


def misuse() -> object:
    """Options that exclude each other."""
    from vlcore.config import SftConfig

    return SftConfig(model="internvl2-2b", dataset=("train.jsonl",), sft_type="full", quantization_bit=4)


def mistype() -> object:
    """A name that nothing has."""
    from vlcore.config import LoadConfig
    from vlcore.resolve import resolve_model

    return resolve_model(LoadConfig(model="internvl2-2"))


def collide() -> object:
    """Two distributions with a plugin of one name."""
    from importlib_metadata import distributions
    from vlcore.plugins import discover

    for name in ("formulas", "tables"):
        folder = Path(f"vlcore_{name}-1.0.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: vlcore-{name}\nVersion: 1.0\n", "utf8")
        (folder / "entry_points.txt").write_text(f"[vlcore]\nmath = vlcore_{name}\n", "utf8")
    return discover([point for found in distributions(path=["."]) for point in found.entry_points])


def misread() -> object:
    """A row with more tags than pictures."""
    from vlcore.dataset import Position, ReadOptions, read_row

    row = {"query": "<image><image>What differs?", "response": "The hats.", "images": ["a.png"]}
    return read_row(row, Position(source=Path("train.jsonl"), line=12), ReadOptions(check_media=False))


def open_empty() -> object:
    """A folder without a configuration."""
    from vlcore.config import LoadConfig
    from vlcore.resolve import resolve_model

    Path("checkpoint-50").mkdir()
    return resolve_model(LoadConfig(model="checkpoint-50"))


def open_missing() -> object:
    """A picture that is not there."""
    from vlcore.media import open_image
    from vlcore.messages import Image

    return open_image(Image("cat.png"))


def lack() -> object:
    """A package that is not installed."""
    raise ExtraMissing("vlcore serve", "fastapi", "serve")


#: An example of each class.
EXAMPLES: dict[type[VlcoreError], Example] = {
    errors.UsageError: Example(
        "vlcore sft --model internvl2-2b --dataset train.jsonl --sft_type full --quantization_bit 4", misuse,
        "Change the option that the line names; `--help` and the [options](options.md) say what it takes. A mistyped "
        "option brings the near names."),
    errors.ModelNotFound: Example(
        "vlcore infer --model internvl2-2", mistype,
        "`vlcore models` lists the registered names; a folder needs its `config.json`. Where the line names a "
        "distribution, install it. See [supported models](models.md)."),
    errors.PluginError: Example(
        "vlcore infer --model MODEL", collide,
        "`vlcore plugins` shows what is installed and what is wrong with it. Remove or update what the line names, or "
        "set `VLCORE_PLUGINS` to the plugins you want."),
    errors.DataError: Example(
        "vlcore sft --model MODEL --dataset train.jsonl", misread,
        "Correct the row at file and line, or leave such rows out with `--bad_rows skip`. `vlcore data check` names "
        "all of them at once: [looking at data](../looking.md)."),
    errors.CheckpointError: Example(
        "vlcore infer --model checkpoint-50", open_empty,
        "Download or copy the folder again; what the line names is missing, damaged or of another model."),
    errors.MediaError: Example(
        "vlcore infer --model MODEL --image_file cat.png --question \"What is this?\"", open_missing,
        "Check the path or address; a picture that is damaged must be written again, one above a limit made smaller."),
    errors.ExtraMissing: Example(
        "vlcore serve --model MODEL", lack,
        "Run the command of the line; it installs the packages that this part needs. [Install](../install.md) lists "
        "the extras."),
}


def write_errors() -> str:
    """A table of the classes, then a section each."""
    rows = [[f"[{kind.__name__}](#{kind.__name__.lower()})", str(kind.exit_code), describe(kind)] for kind in EXAMPLES]
    parts = [write_table(["class", "exit code", "what it is"], rows)]
    parts += [part for kind in EXAMPLES for part in write_error(kind)]
    return "\n\n".join([*parts, "### Classes of one module", *write_special()])


def write_error(kind: type[VlcoreError]) -> Iterator[str]:
    """What there is to say of a class."""
    example = EXAMPLES[kind]
    yield f"### {kind.__name__}"
    yield f"{describe(kind)} Exit code {kind.exit_code}; in Python {quote(f'vlcore.errors.{kind.__name__}')}."
    yield f"```text\n$ {example.typed}\nvlcore: error: {raise_line(example)}\n```"
    yield example.remedy


def write_special() -> Iterator[str]:
    """A table of the classes that one module alone raises."""
    yield "Each is caught as what it derives from, and has its exit code where nothing else is said above."
    rows = [[quote(name), quote(base), text] for name, base, text in list_special()]
    yield write_table(["class", "derives from", "what it is"], rows)


def list_special() -> Iterator[tuple[str, str, str]]:
    """Classes of errors outside `vlcore.errors`: full name, the class they derive from, and what they are.

    They are read from the sources, since some of their modules are heavy.
    """
    known = {"VlcoreError", *(kind.__name__ for kind in EXAMPLES)}
    root = Path(errors.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for node in (each for each in ast.parse(path.read_text("utf8")).body if isinstance(each, ast.ClassDef)):
            base = next((base.id for base in node.bases if isinstance(base, ast.Name) and base.id in known), "")
            if base and module != errors.__name__:
                yield f"{module}.{node.name}", base, (ast.get_docstring(node) or "").splitlines()[0]


def describe(kind: type[VlcoreError]) -> str:
    """The first line of a class's docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def raise_line(example: Example) -> str:
    """What the error of an example says.

    Raises:
        AssertionError: when nothing was raised.
    """
    try:
        example.provoke_in_empty_folder()
    except VlcoreError as error:
        return " ".join(str(error).split())
    raise AssertionError(f"{example.typed} raises nothing")
