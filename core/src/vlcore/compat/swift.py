"""The functions of ms-swift 2.x (`swift.llm`, `swift.utils`) that its scripts for these models call.

What an argument said there it says here, and an argument that would have no effect is an error. Conversations are
read as rows of data are (`vlcore.dataset`): history is a list of `[query, response]`, `images` are those of the whole
conversation, and media without a tag go where the model's family puts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import RELEASE_SETTINGS, DataConfig, GenerateConfig
from vlcore.dataset import Position, make_read_options, read_row
from vlcore.errors import DataError, ModelNotFound, UsageError, suggest_near
from vlcore.family import ModelFamily
from vlcore.messages import Message
from vlcore.model import Frontend, VLModel, load_model
from vlcore.plugins import get_registry
from vlcore.talk import Session

if TYPE_CHECKING:
    import torch

#: Arguments of `from_pretrained` that `model_kwargs` may hold, and the settings they are here.
MODEL_KWARGS = {"device_map": "device_map", "attn_implementation": "attn", "load_in_4bit": 4, "load_in_8bit": 8}
#: Names of the types of weights.
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "auto": "auto", "None": "auto"}
#: Largest seed of all generators that are seeded.
LARGEST_SEED = 2**32 - 1
History = list[list[str]]


class ModelTypes:
    """The registered names as attributes: `ModelType.qwen_vl_chat` is `"qwen-vl-chat"`."""

    def __getattr__(self, name: str) -> str:
        known = self._list()
        if name not in known:
            raise AttributeError(f"ModelType.{name}: no plugin registers it; {suggest_near(name, known)}")
        return known[name]

    def __dir__(self) -> list[str]:
        return sorted(self._list())

    def _list(self) -> dict[str, str]:
        families = get_registry().families.values()
        return {model.name.replace("-", "_"): model.name for family in families for model in family.models}


ModelType = ModelTypes()


class GenerationSettings:
    """How a model generates, to be set by attribute: the fields of `GenerateConfig`, and `do_sample`.

    None is what the release does.

    Raises:
        UsageError: for a name that is none of them, or a value it does not take.
    """

    max_new_tokens: int | None
    temperature: float | None
    do_sample: bool | None

    def __init__(self) -> None:
        for item in fields(GenerateConfig):
            object.__setattr__(self, item.name, getattr(RELEASE_SETTINGS, item.name))
        object.__setattr__(self, "do_sample", None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self):
            raise UsageError(f"generation_config.{name}", "it would have no effect", suggest_near(name, vars(self)))
        before = getattr(self, name)
        object.__setattr__(self, name, value)
        try:
            self.freeze({})
        except UsageError:
            object.__setattr__(self, name, before)
            raise

    def freeze(self, release: Mapping[str, Any]) -> GenerateConfig:
        """The settings of an answer by a model whose release generates like this."""
        values = {name: value for name, value in vars(self).items() if name != "do_sample"}
        if self.do_sample is False:
            values["temperature"] = 0.0
        elif self.do_sample and not (self.temperature or release.get("temperature")):
            values["temperature"] = 1.0  # what sampling takes where nothing says more
        return GenerateConfig(**values)


class Model(VLModel):
    """A model whose generation settings can be changed, as `model.generation_config.max_new_tokens = 256`."""

    def __init__(self, model: VLModel) -> None:
        super().__init__(model.frontend, model.module)
        self.generation_config = GenerationSettings()


class Tokenizer:
    """The tokenizer of a model, which its template is made from."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.frontend.tokenizer, name)


@dataclass(frozen=True, slots=True)
class Template:
    """How conversations with a model are read.

    Attributes:
        frontend: the model's.
        system: system text instead of the model's.
        max_length: longest prompt in tokens; above it the oldest turns are forgotten, with a warning. 0 is no limit.
    """

    frontend: Frontend
    system: str = ""
    max_length: int = 0

    def read(self, query: str, history: History, **beside: Any) -> tuple[Message, ...]:
        """The messages of a conversation; `beside` as of a row of data.

        Raises:
            UsageError: for what cannot be read, naming the argument.
        """
        checkpoint = self.frontend.checkpoint
        given = {key: value for key, value in beside.items() if value is not None}
        row = {"query": query, "history": [list(pair) for pair in history], **given}
        data = DataConfig(system=self.system, image_folder=str(Path.cwd()))
        options = make_read_options(data, checkpoint.family, train=False, record=checkpoint.record)
        position = Position(source=Path("inference"), line=1)
        try:
            return read_row(row, position, options).messages
        except DataError as error:
            raise UsageError(error.given.removeprefix(f"{position}: "), error.why, error.do) from error


def get_default_template_type(model_type: str) -> str:
    """The name of a model's template: that of its family, as `yi-vl`.

    Raises:
        ModelNotFound: for a model that no plugin registers.
    """
    families = get_registry().families.values()
    family = next((f for f in families if any(model.answers_to(model_type) for model in f.models)), None)
    if family is None:
        names = [model.name for f in families for model in f.models]
        raise ModelNotFound(f"model_type {model_type}", "no plugin registers it", suggest_near(model_type, names))
    return name_template(family)


def name_template(family: ModelFamily) -> str:
    """The name of a family's template."""
    return family.name.replace("_", "-")


def get_model_tokenizer(
    model_type: str,
    torch_dtype: torch.dtype | str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    *,
    model_id_or_path: str | None = None,
    **settings: Any,
) -> tuple[Model, Tokenizer]:
    """A model and its tokenizer.

    Args:
        model_type: its registered name.
        torch_dtype: weights in memory; None takes bf16 where the GPU has it, fp32 on a CPU.
        model_kwargs: `device_map`, `attn_implementation`, `load_in_4bit` and `load_in_8bit`.
        model_id_or_path: folder or hub id, instead of the one that is registered.
        settings: more of `vlcore.load_model`, such as `use_flash_attn`.

    Raises:
        UsageError: for arguments that would have no effect.
        ModelNotFound, CheckpointError: as of `vlcore.load_model`.
    """
    settings = {**read_kwargs(model_kwargs or {}), **settings, "dtype": read_dtype(torch_dtype)}
    model = Model(load_model(model_id_or_path or model_type, model_type=model_type, **settings))
    return model, Tokenizer(model.frontend)


def read_dtype(given: Any) -> str:
    """The name of a type of weights here.

    >>> read_dtype("torch.float16"), read_dtype(None)
    ('fp16', 'auto')
    """
    name = str(given).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"torch_dtype {given}", "weights are not loaded in it",
                         "give torch.float32, torch.float16 or torch.bfloat16")
    return DTYPES[name]


def read_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `model_kwargs` are here.

    Raises:
        UsageError: for one that would have no effect.
    """
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in MODEL_KWARGS:
            raise UsageError(f"model_kwargs {name}", "it would have no effect", suggest_near(name, MODEL_KWARGS))
        if name == "device_map" and not isinstance(value, str):
            raise UsageError(f"model_kwargs device_map {value!r}", "it takes a text such as auto or cuda:0",
                             "give device_map_config_path=FILE.json for the device of each module")
        setting = MODEL_KWARGS[name]
        if isinstance(setting, str):
            settings[setting] = value
        elif value:
            settings["quantization_bit"] = setting
    return settings


def get_template(
    template_type: str, tokenizer: Tokenizer, default_system: str | None = None, max_length: int | None = None
) -> Template:
    """A model's template.

    Args:
        template_type: its name, as `get_default_template_type` says it; there is one a model.
        tokenizer: the model's.
        default_system: system text instead of the model's.
        max_length: longest prompt in tokens; above it the oldest turns are forgotten, with a warning.

    Raises:
        UsageError: for the template of another model.
    """
    known = name_template(tokenizer.frontend.checkpoint.family)
    if template_type.replace("_", "-") != known:
        raise UsageError(f"template_type {template_type}", f"the model's is {known}, and it has no other",
                         "give what get_default_template_type says")
    return Template(tokenizer.frontend, default_system or "", max_length or 0)


def inference(
    model: Model,
    template: Template,
    query: str,
    history: Sequence[Sequence[str]] | None = None,
    system: str | None = None,
    images: Sequence[Any] | None = None,
    *,
    videos: Sequence[Any] | None = None,
) -> tuple[str, History]:
    """The answer to a question, and the history with both.

    Args:
        model: answers.
        template: the model's.
        query: the question; `<image>` and `<img>PATH</img>` in it and in the history place pictures.
        history: earlier turns, `[query, response]` each.
        system: system text instead of the template's.
        images: pictures of the whole conversation, in order.
        videos: videos of the whole conversation, in order.

    Raises:
        UsageError: for a conversation that cannot be read, or the template of another model.
        MediaError: for media that cannot be opened.
    """
    *_, last = inference_stream(model, template, query, history, system, images, videos=videos)
    return last


def inference_stream(
    model: Model,
    template: Template,
    query: str,
    history: Sequence[Sequence[str]] | None = None,
    system: str | None = None,
    images: Sequence[Any] | None = None,
    *,
    videos: Sequence[Any] | None = None,
) -> Iterator[tuple[str, History]]:
    """The answer as it grows, each time whole, with the history; arguments and errors as of `inference`.

    At least one pair comes, and the last one is what `inference` returns.
    """
    if template.frontend is not model.frontend:
        raise UsageError("template", "it belongs to another model", "make it from this model's tokenizer")
    turns = [list(pair) for pair in history or ()]
    messages = template.read(query, turns, system=system, images=_listed(images), videos=_listed(videos))
    return _stream(model, template, messages, [*turns, [query, ""]])


def _stream(
    model: Model, template: Template, messages: tuple[Message, ...], turns: History
) -> Iterator[tuple[str, History]]:
    settings = model.generation_config.freeze(model.checkpoint.family.generation)
    pieces = Session(model, messages[:-1], template.max_length).stream_message(messages[-1], settings)
    text = ""
    for piece in pieces:
        text += piece
        yield text, _answer(turns, text)
    yield text, _answer(turns, text)


def _answer(turns: History, text: str) -> History:
    return [*([*turn] for turn in turns[:-1]), [turns[-1][0], text]]


def _listed(media: Sequence[Any] | str | None) -> list[Any] | str | None:
    if media is None or isinstance(media, str):
        return media
    return [str(item) if isinstance(item, Path) else item for item in media]


def seed_everything(seed: int | None = None) -> int:
    """Seeds the generators of Python, numpy and PyTorch, whose numbers an answer is drawn with.

    Args:
        seed: the seed; one is drawn when there is none.

    Returns:
        The seed.
    """
    import random

    import numpy
    import torch

    chosen = random.randint(0, LARGEST_SEED) if seed is None else seed
    random.seed(chosen)
    numpy.random.seed(chosen)
    torch.manual_seed(chosen)
    return chosen
