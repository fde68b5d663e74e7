"""Records of what a plugin registers: families, the models in them, and data sets. Plain values, nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlcore.errors import UsageError, suggest_near

if TYPE_CHECKING:
    from vlcore.boxes import Grounding

#: `config.json` of a checkpoint as it was read.
ConfigJson = Mapping[str, Any]
#: How a truth value is written in an option.
BOOLEANS = {"true": True, "false": False}
#: When a talk asks its user for media: after every question, until the talk has its picture, or once for
#: each `<image>` or `<video>` tag typed.
AskMedia = Literal["turn", "conversation", "tag"]
#: Where media without tags in a data row belong: before the last query, one to a turn in order, or before
#: the first query.
PlaceMedia = Literal["last", "turns", "first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One released model.

    Attributes:
        name: what a user types.
        huggingface: its id on the Hugging Face hub.
        modelscope: its id on ModelScope; the Hugging Face id when left out.
        options: family options whose value differs for this model.
        ask: when a talk asks for media; the family's way when left out.
        verified: how the model was held against its release, for the table of models.
    """

    name: str
    huggingface: str
    modelscope: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    ask: AskMedia | None = None
    verified: str = "not compared"

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """Its ids, Hugging Face first, each once."""
        return tuple(dict.fromkeys((self.huggingface, self.modelscope or self.huggingface)))

    def answers_to(self, name: str) -> bool:
        """Whether a name typed by a user, or a folder's name, means this model (case is ignored)."""
        folder_names = {hub_id.split("/")[-1].lower() for hub_id in self.hub_ids}
        known = {self.name.lower(), *(hub_id.lower() for hub_id in self.hub_ids), *folder_names}
        return name.lower() in known


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """A data set on a hub that users name by a name of its own.

    Attributes:
        name: what a user types.
        huggingface: its id on the Hugging Face hub; empty when it is not there.
        modelscope: its id on ModelScope; the Hugging Face id when left out.
        subset: which part of it; empty for its own default.
        split: which split; `a+b` is both.
        help: one line on what it holds.
        convert: a row as the hub has it to a row in one of the known forms, media as they are, in a list; a
            function of a module, since workers need it. None when its rows are in a known form.
    """

    name: str
    huggingface: str = ""
    modelscope: str = ""
    subset: str = ""
    split: str = "train"
    help: str = ""
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not self.huggingface and not self.modelscope:
            raise UsageError(f"dataset {self.name}", "it names no hub", "give huggingface or modelscope")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Module-name prefixes of a native model's parts; together they cover every parameter."""

    language: tuple[str, ...]
    vision: tuple[str, ...]
    projector: tuple[str, ...]

    def part_of(self, name: str) -> str | None:
        """The part ("language", "vision" or "projector") a parameter or module belongs to."""
        for part in ("vision", "projector", "language"):
            if any(name == prefix or name.startswith(prefix + ".") for prefix in getattr(self, part)):
                return part
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyOption:
    """A setting that only one family has, such as the number of tiles an image may take.

    A value of None means that the model's own configuration decides.
    """

    name: str
    kind: type[int] | type[float] | type[str] | type[bool]
    help: str
    default: Any = None
    minimum: float | None = None

    def read(self, value: Any) -> Any:
        """The value in this option's type; text from a command line is parsed.

        Raises:
            UsageError: when it is not of this type, or below the minimum.
        """
        read = self._parse(value)
        if self.minimum is not None and read is not None and read < self.minimum:
            raise UsageError(f"{self.name}={value}", f"the smallest {self.name} is {self.minimum}", self.help)
        return read

    def _parse(self, value: Any) -> Any:
        fault = UsageError(f"{self.name}={value}", f"{self.name} takes a value of type {self.kind.__name__}", self.help)
        if value is None or (isinstance(value, str) and self.kind is str):
            return value
        if not isinstance(value, str):
            kinds = (int, float) if self.kind is float else self.kind
            if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind is not bool):
                raise fault
            return value
        try:
            return BOOLEANS[value.lower()] if self.kind is bool else self.kind(value)
        except (ValueError, KeyError) as error:
            raise fault from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFolder:
    """A folder that holds weights of a release; tensors of different folders have different names.

    Attributes:
        path: where it is read.
        inside: where it is written below a saved release; empty for the release's own folder.
        unread: patterns of tensors that the release's own code does not read. Saving carries them over.
    """

    path: Path
    inside: str = ""
    unread: tuple[str, ...] = ()

    def reads(self, name: str) -> bool:
        """Whether a tensor in this folder belongs to the model."""
        return not any(re.search(pattern, name) for pattern in self.unread)


def _no_reason(config: ConfigJson, folder: Path) -> str | None:
    return None


def _one_folder(config: ConfigJson, folder: Path) -> tuple[WeightFolder, ...]:
    return (WeightFolder(path=folder),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """Everything the core must know of a family before anything of it is loaded.

    Attributes:
        name: the family's name, one word.
        models: its released models.
        native: transformers' own model types whose checkpoints are of this family as they are. Hooks that its
            plugin does not fill then do everything; the first one is what its tiny checkpoint is made of.
        recognise: tells from `config.json` and the folder whether a checkpoint is of this family; None for those
            whose `model_type` is in `native`.
        reject: for look-alikes that share the configuration's `model_type`: the reason, or None.
        parts: module prefixes of the native model; None for what `Checkpoint.parts` finds in it.
        attention: last names of the language model's attention projections (the default LoRA targets); empty for
            `q_proj`, `k_proj`, `v_proj`, `o_proj` and every linear layer right in a module called attention.
        options: settings only this family has.
        ask: when a talk asks for media.
        place: where media without tags in a data row belong.
        tags: texts that stand for an image in a row or a question, `<image>` among them.
        generation: generation settings of the release (`temperature`, `max_new_tokens` and so on).
        sampling: more of them, which the release sets only when it samples and leaves out at temperature 0.
        penalised: what a repetition penalty looks at: the prompt and the answer, or the answer alone.
        question: generation settings where the release answers a single question (`vlcore infer --question`).
        weight_folders: the folders with weights, for releases that keep parts of them in folders of their own.
        vision_key: key of `config.json` that names the folder of the vision tower, for such releases.
        grounding: how boxes are written, for families that find things in pictures.
    """

    name: str
    models: tuple[ModelRecord, ...] = ()
    native: tuple[str, ...] = ()
    recognise: Callable[[ConfigJson, Path], bool] | None = None
    reject: Callable[[ConfigJson, Path], str | None] = _no_reason
    parts: Parts | None = None
    attention: tuple[str, ...] = ()
    options: tuple[FamilyOption, ...] = ()
    ask: AskMedia = "tag"
    place: PlaceMedia = "last"
    tags: tuple[str, ...] = ("<image>",)
    generation: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    penalised: Literal["all", "answer"] = "all"
    question: Mapping[str, Any] = field(default_factory=dict)
    weight_folders: Callable[[ConfigJson, Path], tuple[WeightFolder, ...]] = _one_folder
    vision_key: str = ""
    grounding: Grounding | None = None

    def __post_init__(self) -> None:
        for name in ("native", "attention", "tags"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise UsageError(f"family {self.name}", f"{name} is a text, not a tuple of texts",
                                 f'write {name}=("{value}",)')
        if self.recognise is None and not self.native:
            raise UsageError(f"family {self.name}", "nothing says which checkpoints are of it",
                             "give native, transformers' model types, or recognise")

    def owns(self, config: ConfigJson, folder: Path) -> bool:
        """Whether a checkpoint is of this family, told by its `config.json` and folder."""
        if self.recognise is None:
            return config.get("model_type") in self.native
        return self.recognise(config, folder)

    def find_record(self, *names: str) -> ModelRecord | None:
        """The first model that one of the names means."""
        return next((model for name in names for model in self.models if name and model.answers_to(name)), None)

    def ask_of(self, record: ModelRecord | None) -> AskMedia:
        """When a talk with a model of this family asks for media."""
        return (record.ask if record else None) or self.ask

    def read_options(self, given: Mapping[str, Any], record: ModelRecord | None = None) -> dict[str, Any]:
        """All options of the family: the given value, else the model's, else the default.

        Raises:
            UsageError: for an option the family does not have, with near names, or a value of another type.
        """
        known = {option.name: option for option in self.options}
        for name in given:
            if name not in known:
                raise UsageError(f"option {name}", f"family {self.name} has no such option", suggest_near(name, known))
        own = record.options if record else {}
        return {name: option.read(given.get(name, own.get(name, option.default))) for name, option in known.items()}
