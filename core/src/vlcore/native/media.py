"""Pictures of native models: by transformers' own image processors, planned from sizes first."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError, MediaError, first_line
from vlcore.media import Plan, Size, Slot
from vlcore.native.family import FRAMES, OPTIONS
from vlcore.native.outline import OUTLINES
from vlcore.native.positions import trace_positions
from vlcore.native.processor import list_tokens, load_config
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions, Segment, split_tokens
from vlcore.tokenizer import PlacedTokenizer, Tokenizer

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage

    from vlcore.batch import Layout

#: Plans that are kept, by size.
KEPT = 4096


@dataclass(frozen=True, slots=True)
class Detail:
    """How a picture is computed.

    Attributes:
        several: whether its conversation has others, for models that look less closely then.
        grid: frames, rows and columns of its patches, for models whose positions follow them.
        settings: settings of the image processor that are not its own.
    """

    several: bool = False
    grid: tuple[int, ...] | None = None
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NativeMedia:
    """A processor of transformers as the core's media processor.

    Attributes:
        processor: transformers' processor.
        tokenizer: for the ids of what is written around and between the tiles of a picture.
        config: the native configuration.
        image_token_id: the id where the model puts what it sees.
        inputs: names of what the model is fed.
        names: tokens at which what is written for a picture is cut.
    """

    processor: Any
    tokenizer: Tokenizer = field(repr=False)
    config: Any = field(repr=False)
    image_token_id: int
    inputs: frozenset[str] = field(repr=False)
    names: frozenset[str] = field(repr=False)
    _known: dict[Any, Plan] = field(default_factory=dict, compare=False, repr=False)

    #: Pictures of several sizes in a batch are filled up with zeros, as transformers' processors do it.
    ragged = True

    @classmethod
    def read(cls, checkpoint: Checkpoint, tokenizer: Tokenizer) -> NativeMedia:
        """The media processor of a checkpoint.

        Raises:
            CheckpointError: for a processor that places pictures in a way of its own, or a model that reads its
                prompt apart from its answer.
        """
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, ProcessorMixin

        processor, config = checkpoint.processor, load_config(checkpoint.folder)
        own = type(processor).replace_image_token is not ProcessorMixin.replace_image_token
        if config.is_encoder_decoder or not own:
            why = ("it has an encoder and a decoder" if config.is_encoder_decoder else
                   f"{type(processor).__name__} places pictures in a way that is not known here")
            raise CheckpointError(f"checkpoint {checkpoint.folder}", why, "install a plugin for it")
        model: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        token = next(found for found in (getattr(config, "image_token_id", None), *processor.image_token_ids) if found)
        return cls(processor=processor, tokenizer=tokenizer, config=config, image_token_id=int(token),
                   inputs=frozenset(inspect.signature(model.forward).parameters),
                   names=frozenset(list_tokens(processor)))

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """The ids of each picture, as the processor writes them.

        Raises:
            MediaError: for a size that the processor refuses.
        """
        given = {name: value for name, value in options.family.items() if name in OPTIONS and value is not None}
        settings = tuple(sorted(given.items()))
        several = len(slots) > 1 and "batch_num_images" in self.inputs
        return tuple(self._plan(slot.sizes[0], several, settings) for slot in slots)

    def _plan(self, size: Size, several: bool, settings: tuple[tuple[str, Any], ...]) -> Plan:
        key = size, several, settings
        found = self._known.get(key)
        if found is None:
            try:
                found = self._outline(size, several, settings)
            except ValueError as error:
                why = f"the model's processor refuses it ({first_line(error)})"
                raise MediaError(f"a picture of {size[0]}x{size[1]}", why, "give another one") from error
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = found
        return found

    def _outline(self, size: Size, several: bool, settings: tuple[tuple[str, Any], ...]) -> Plan:
        """The plan of a picture from its size."""
        from PIL import Image as PilImage

        known = OUTLINES.get(type(self.processor).__name__)
        told = known(self.processor, size, several, self._choose_settings(settings)) if known else None
        if told is None:
            told = self._process(PilImage.new("RGB", size), several, settings)
        return self._read_plan(told, several, settings)

    def _read_plan(self, told: Mapping[str, Any], several: bool, settings: tuple[tuple[str, Any], ...]) -> Plan:
        """The plan that what the processor tells of a picture makes."""
        text = self.processor.replace_image_token(told, image_idx=0)
        pieces = split_tokens(text, self.names)
        marks = [number for number, piece in enumerate(pieces) if piece.kind == "special"]
        before, behind = (pieces[: marks[0]], pieces[marks[-1] + 1 :]) if marks else (pieces, ())
        ids = [token for piece in pieces[marks[0] : marks[-1] + 1] for token in self._encode(piece)] if marks else []
        grid = told.get("image_grid_thw")
        detail = Detail(several, None if grid is None else tuple(int(n) for n in grid[0]), settings)
        around = "".join(piece.text for piece in before), "".join(piece.text for piece in behind)
        plain = set(ids) == {self.image_token_id}
        return Plan(len(ids), (count_tiles(told),), detail, None if plain else tuple(ids), around)

    def _encode(self, piece: Segment) -> Sequence[int]:
        if piece.kind == "special":
            return [self.tokenizer.token_id(piece.text)]
        if isinstance(self.tokenizer, PlacedTokenizer):
            return self.tokenizer.encode_behind(piece.text, False)
        return self.tokenizer.encode(piece.text)

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """What the model is fed of a picture, floats; the first axis runs over tiles, patches or pictures.

        Raises:
            CheckpointError: when the processor writes other ids for the picture than planned from its size.
        """
        detail: Detail = plan.detail
        made = self._process(images[0], detail.several, detail.settings)
        written = self._read_plan(made, detail.several, detail.settings)
        if written != plan:
            size = "x".join(map(str, images[0].size))
            raise CheckpointError(
                f"a picture of {size} pixels",
                f"{type(self.processor).__name__} writes {written.tokens} positions for it, planned were {plan.tokens}",
                "report it with the size and the checkpoint's preprocessor_config.json")
        return {name: self._arrange(name, made) for name in made if name in self.inputs and name != "batch_num_images"}

    def _arrange(self, name: str, made: Mapping[str, Any]) -> torch.Tensor:
        """A tensor with the tiles of its picture along the first axis."""
        tensor: torch.Tensor = made[name]
        if made["pixel_values"].ndim < 5 or not name.startswith("pixel"):
            return tensor[:1] if name != "pixel_values" and made.get("batch_num_images") is not None else tensor
        # (pictures, tiles, ...), of which models with sizes beside take the tiles alone, others (rows, pictures, ...).
        return tensor[0] if "image_sizes" in made else tensor.transpose(0, 1)

    def _process(
        self, image: PilImage.Image, several: bool, settings: tuple[tuple[str, Any], ...]
    ) -> Mapping[str, Any]:
        """What the processor computes of a picture; of several, with another one that is left out again."""
        from PIL import Image as PilImage

        images = [[image, PilImage.new("RGB", (8, 8))] if several else [image]]
        laid_out = self.processor.prepare_inputs_layout(images=images, text=[self.processor.image_token])
        merged = self.processor._merge_kwargs(
            tokenizer_init_kwargs=self.processor.tokenizer.init_kwargs, return_tensors="pt",
            images_kwargs=self._choose_settings(settings))
        made: Mapping[str, Any] = self.processor._process_images(laid_out[0], **merged["images_kwargs"])[0]
        return made

    def _choose_settings(self, settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        """Settings by the names that image processors have for them."""
        chosen, edges = dict(settings), {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
        limits = {edge: chosen.pop(name) for name, edge in edges.items() if name in chosen}
        return {**chosen, "size": {**dict(self.processor.image_processor.size), **limits}} if limits else chosen

    def choose_frames(self, count: int, fps: float, options: EncodeOptions) -> tuple[int, ...]:
        """The middles of so many parts of a video of equal length as the option says; all frames when it has fewer."""
        taken = min(options.family.get(FRAMES.name) or FRAMES.default, count)
        return tuple((2 * number + 1) * count // (2 * taken) for number in range(taken))

    def count(self, plans: Sequence[Plan]) -> Mapping[str, torch.Tensor]:
        """How many pictures a conversation has, for models that look at several less closely.

        More than are fed where only the last ones are: the number is looked at for being 1 alone.
        """
        import torch

        if "batch_num_images" not in self.inputs:
            return {}
        return {"batch_num_images": torch.tensor([max(2, len(plans)) if plans[0].detail.several else 1])}

    def trace(self, layout: Layout) -> Mapping[str, torch.Tensor]:
        """Positions and kinds of tokens, for models that take them."""
        return trace_positions(self, layout)


def count_tiles(told: Mapping[str, Any]) -> int:
    """Tiles of a picture, the whole of it among them, where its processor tells them."""
    if "rows" in told:
        return int(told["rows"][0][0]) * int(told["cols"][0][0]) + 1
    return int(told["num_patches"][0]) if "num_patches" in told else 1
