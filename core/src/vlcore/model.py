"""A loaded model: what turns messages into an answer, a loss or features.

`Frontend` is everything but the weights (tokenizer, template, media), enough to plan and encode data;
`VLModel` is a frontend with the native model behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vlcore.batch import Example, Layout, collate, load_pixels, plan_layout
from vlcore.checkpoint import RUN_FILE, find_base, load_adapter, read_run
from vlcore.config import RELEASE_SETTINGS, GenerateConfig, LoadConfig, read_config
from vlcore.errors import UsageError
from vlcore.generate import Reply, answer, stream_answer
from vlcore.media import MediaProcessor, VideoProcessor, describe, fetch_media, normalise
from vlcore.messages import Message, Part, Video, make_message, user
from vlcore.resolve import Checkpoint, resolve_model
from vlcore.template import EncodeOptions, LossOn, Segment, Template
from vlcore.tokenizer import Tokenizer
from vlcore.video import ChooseFrames, outline_video, sample_video

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from vlcore.talk import Session


@dataclass(frozen=True)
class Frontend:
    """A checkpoint's tokenizer, template and media processor, with its family's options resolved."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    template: Template
    media: MediaProcessor
    options: Mapping[str, Any] = field(default_factory=dict)

    def write_segments(
        self, messages: Sequence[Message], *, train: bool = False, loss_on: LossOn = "answers", **options: Any
    ) -> tuple[Segment, ...]:
        """The segments of a conversation; arguments as for `encode`."""
        chosen = self.resolve_options(train=train, loss_on=loss_on, **options)
        return self.template.write_segments(self._fill_videos(messages, outline_video, chosen), chosen)

    def plan(
        self, messages: Sequence[Message], *, train: bool = False, loss_on: LossOn = "answers", **options: Any
    ) -> Layout:
        """Ids, labels and media plans of a conversation from the headers of its media; arguments as for `encode`."""
        chosen = self.resolve_options(train=train, loss_on=loss_on, **options)
        segments = self.template.write_segments(self._fill_videos(messages, outline_video, chosen), chosen)
        return plan_layout(segments, self.tokenizer, self.media, chosen)

    def encode(
        self, messages: Sequence[Message], *, train: bool = False, loss_on: LossOn = "answers", **options: Any
    ) -> Example:
        """What the model is fed for a conversation.

        Args:
            messages: the conversation, ending with the user, or with the assistant when training.
            train: with the closing answer and its labels.
            loss_on: `answers` or `release`.
            options: options of the family that differ from this model's.

        Raises:
            UsageError: for turns out of order or unknown options.
            MediaError: for media that cannot be read.
        """
        fetched = self.fetch(messages, train=train, **options)
        return load_pixels(self.plan(fetched, train=train, loss_on=loss_on, **options), self.media)

    def fetch(self, messages: Sequence[Message], *, train: bool = False, **options: Any) -> tuple[Message, ...]:
        """The messages with what lies behind URLs fetched and the frames of videos taken, ready to be used often.

        Args:
            messages: the conversation; frames that a video has already are left as they are.
            train: whether frames are chosen as for training.
            options: options of the family that differ from this model's.

        Raises:
            UsageError: for a video when the family takes none; it is not opened.
            MediaError: for a URL or video that cannot be read.
        """
        chosen = self.resolve_options(train=train, **options)
        return fetch_media(self._fill_videos(messages, sample_video, chosen))

    def _fill_videos(
        self, messages: Sequence[Message], take: Callable[[Video, ChooseFrames], Video], options: EncodeOptions
    ) -> tuple[Message, ...]:
        """The messages with frames in every video."""
        processor = self.media

        def fill(part: Part) -> Part:
            if not isinstance(part, Video) or part.frames:
                return part
            if not isinstance(processor, VideoProcessor):
                raise UsageError(describe(part), "this model takes images only", "give its frames as images")
            return take(part, lambda count, fps: processor.choose_frames(count, fps, options))

        return tuple(replace(message, content=tuple(map(fill, message.content))) for message in messages)

    def resolve_options(self, *, train: bool = False, loss_on: LossOn = "answers", **given: Any) -> EncodeOptions:
        """All options under which a conversation is encoded; arguments and errors as for `encode`."""
        if loss_on not in get_args(LossOn):
            raise UsageError(f"loss_on {loss_on!r}", "the loss is not taken on that", "use answers or release")
        family = self.checkpoint.family.read_options({**self.options, **given}, self.checkpoint.record)
        return EncodeOptions(train, loss_on, family)


class VLModel:
    """A vision-language model that answers.

    Attributes:
        frontend: its tokenizer, template and media processor.
        module: the native model, or the PEFT model around it.
    """

    def __init__(self, frontend: Frontend, module: PreTrainedModel | PeftModel) -> None:
        self.frontend, self.module = frontend, module

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint the weights came from."""
        return self.frontend.checkpoint

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.module.device

    def encode(
        self, messages: Sequence[Message], *, train: bool = False, loss_on: LossOn = "answers", **options: Any
    ) -> Example:
        """What the model is fed for a conversation; see `Frontend.encode`."""
        return self.frontend.encode(messages, train=train, loss_on=loss_on, **options)

    def chat(
        self,
        text: str,
        images: Sequence[Any] = (),
        history: Sequence[Message] = (),
        settings: GenerateConfig = RELEASE_SETTINGS,
        videos: Sequence[Any] = (),
    ) -> Reply:
        """The answer to a question.

        Args:
            text: the question; `<image>` in it places an image.
            images: paths, URLs, data URLs, bytes or PIL images.
            history: earlier messages, such as `reply.history`.
            settings: how to generate; unset values are the release's.
            videos: paths, folders of frames, URLs, data URLs or bytes; `<video>` in the question places one.
        """
        return self.answer([(*history, user(text, images, videos))], settings)[0]

    def answer(
        self, conversations: Sequence[Sequence[Message]], settings: GenerateConfig = RELEASE_SETTINGS
    ) -> list[Reply]:
        """The answers to several conversations, computed as one batch."""
        fetched = [self.frontend.fetch(messages) for messages in conversations]
        return answer(self, fetched, settings)

    def stream(
        self,
        text: str,
        images: Sequence[Any] = (),
        history: Sequence[Message] = (),
        settings: GenerateConfig = RELEASE_SETTINGS,
        videos: Sequence[Any] = (),
    ) -> Generator[str, None, Reply]:
        """The answer to a question piece by piece; the generator's return value is the `Reply`."""
        return stream_answer(self, self.frontend.fetch((*history, user(text, images, videos))), settings)

    def session(self, system: str = "", max_length: int = 0) -> Session:
        """A talk that remembers its turns.

        Args:
            system: a system text instead of the model's.
            max_length: longest prompt in tokens; above it the oldest turns are forgotten, with a warning.
        """
        from vlcore.talk import Session

        return Session(self, (make_message("system", system),) if system else (), max_length)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """A scope in which the model answers as it was before training.

        Raises:
            UsageError: when it has no adapter.
        """
        module: Any = self.module
        if not hasattr(module, "disable_adapter"):
            raise UsageError("the model without its adapter", "it has none", "open a checkpoint of a LoRA training")
        with module.disable_adapter():
            yield

    def compute_features(self, example: Example) -> torch.Tensor:
        """What is put into the language model at the image positions.

        (tiles, tokens, hidden), or (tokens, hidden) of all pictures where they take different numbers of tokens.
        """
        import torch

        # Some of transformers' classes have it below the head alone.
        module: Any = next(part for part in self.module.modules() if hasattr(part, "get_image_features"))
        with torch.no_grad():
            output = module.get_image_features(**self.place(example.pixels))
        features = output.pooler_output if hasattr(output, "pooler_output") else output
        if isinstance(features, torch.Tensor):
            return features
        alike = len({part.shape for part in features}) == 1
        return torch.stack(tuple(features)) if alike else torch.cat(tuple(features))

    def compute_logits(self, example: Example, train: bool = False) -> tuple[torch.Tensor, float | None]:
        """Logits of one example, (positions, vocabulary), and its loss when it has labels.

        Args:
            example: the example.
            train: compute in training mode, where some releases differ even without dropout.
        """
        import torch

        batch = self.place(collate([example], self.frontend.tokenizer.pad_id))
        if all(label < 0 for label in example.labels):
            batch.pop("labels")
        was = self.module.training
        self.module.train(train)
        try:
            with torch.no_grad():
                output = self.module(**batch)
        finally:
            self.module.train(was)
        return output.logits[0], None if output.loss is None else float(output.loss)

    def place(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors on the model's device, pixels normalised there, floating ones in its dtype."""
        placed = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        return {
            name: tensor.to(self.module.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in normalise(self.frontend.media, placed).items()
        }


def build_frontend(checkpoint: Checkpoint, options: Mapping[str, Any] | None = None) -> Frontend:
    """Tokenizer, template and media of a checkpoint, without its weights.

    Args:
        checkpoint: the resolved checkpoint.
        options: options of the family, by name.

    Raises:
        UsageError: for an option the family does not have.
    """
    checkpoint.family.read_options(options or {}, checkpoint.record)
    tokenizer = checkpoint.call("load_tokenizer")
    template = checkpoint.call("build_template")
    media = checkpoint.call("preprocess_media", tokenizer=tokenizer)
    return Frontend(checkpoint, tokenizer, template, media, dict(options or {}))


def open_model(config: LoadConfig, adapter: str | Path = "") -> VLModel:
    """The model that a configuration names.

    Args:
        config: the model and how it is loaded. A folder that training left (adapter or full) works too.
        adapter: a folder with an adapter for it.
    """
    from transformers import GenerationConfig

    if not adapter and config.model and (Path(config.model) / "adapter_config.json").is_file():
        adapter = config.model
    checkpoint = resolve_adapted(config, Path(adapter)) if adapter else resolve_model(config)
    frontend = build_frontend(checkpoint, config.family_options)
    module = checkpoint.call("load_model", config=config)
    # Generation settings come from the call and the family alone, never from files of the checkpoint.
    module.generation_config = GenerationConfig()
    return VLModel(frontend, load_adapter(module, Path(adapter)) if adapter else module)


def resolve_adapted(config: LoadConfig, adapter: Path) -> Checkpoint:
    """The base checkpoint of an adapter: the model given, unless that is the adapter, else the one it names."""
    if config.model and Path(config.model) != adapter:
        return resolve_model(config)
    base = find_base(adapter)
    return resolve_model(replace(
        base, model_type=config.model_type or base.model_type, vision_tower=config.vision_tower or base.vision_tower
    ))


def load_model(model: str | Path = "", *, adapter: str | Path = "", **settings: Any) -> VLModel:
    """Loads a model by folder, hub id or registered name.

    Args:
        model: what to load; a checkpoint of a LoRA training brings its base model along, and any training's the
            options of its family.
        adapter: an adapter to put on it.
        settings: fields of `LoadConfig`, such as `dtype="bf16"`, `device_map="cuda:0"`,
            `quantization_bit=4`, `attn="flash_attention_2"` or `model_type="internvl-chat-v1_5"`;
            `options={"max_num": 6}` for options of the family.

    Raises:
        ModelNotFound: when there is no such model or no plugin for it.
        CheckpointError: when its files are damaged or do not fit.
    """
    options = {name: value for name, value in settings.pop("options", {}).items() if value is not None}
    pairs = [f"{name}={value}" for name, value in options.items()]
    config = read_config(LoadConfig, {"model": str(model), "option": pairs, **settings})
    return open_model(adopt_options(config, adapter), adapter)


def adopt_options(config: LoadConfig, adapter: str | Path = "") -> LoadConfig:
    """The configuration with the family's options that the adapter or model was trained with; those given go first.

    Raises:
        CheckpointError: when the folder of a training is damaged.
    """
    folder = Path(adapter or config.model or "-")
    if not (folder / RUN_FILE).is_file():
        return config
    return replace(config, option=(*read_run(folder).config.option, *config.option))
