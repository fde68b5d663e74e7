"""A native model's prompts held against its processor's, once for each checkpoint that is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError, VlcoreError, first_line
from vlcore.messages import user
from vlcore.native.positions import WHOLE
from vlcore.native.template import NativeTemplate
from vlcore.template import EncodeOptions
from vlcore.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vlcore.batch import Example
    from vlcore.native.media import NativeMedia
    from vlcore.resolve import Checkpoint

#: What is asked, with white space that tokenizers treat in ways of their own.
QUESTION = "What is it?\n It is  red."
#: Sizes of pictures, in which nothing is square.
SIZES = ((44, 30), (20, 50))


def check_agreement(checkpoint: Checkpoint, template: NativeTemplate, tokenizer: Tokenizer, media: NativeMedia) -> None:
    """Holds questions about one picture and about two against what transformers' processor makes of them.

    Raises:
        CheckpointError: when they differ, which would make every answer a little worse in silence.
    """
    try:
        why = find_difference(template, tokenizer, media)
    except VlcoreError:
        raise
    except Exception as error:
        # A processor that nobody has tried may stumble anywhere.
        why = f"a question about a picture cannot be asked of it ({first_line(error)}) as of others"
    if why:
        than = f"{why} than its {type(media.processor).__name__} makes"
        raise CheckpointError(f"checkpoint {checkpoint.folder}", than,
                              "install a plugin for it, or report it with the checkpoint's name")


def find_difference(template: NativeTemplate, tokenizer: Tokenizer, media: NativeMedia) -> str:
    """How prompts or pixels differ from those of the processor, in words; empty when they do not."""
    from PIL import Image as PilImage

    from vlcore.batch import load_pixels, plan_layout

    pictures = [PilImage.linear_gradient("L").resize(size).convert("RGB") for size in SIZES]
    options = EncodeOptions()  # the checkpoint's own settings, whatever a family sets besides
    for count in (2, 1):
        shown = pictures[:count]
        layout = plan_layout(template.write_segments([user(QUESTION, shown)], options), tokenizer, media, options)
        made = ask_processor(media, shown)
        if list(layout.ids) != list(made["input_ids"][0]):
            return f"prompts with {count} pictures have other ids here"
    return compare_inputs(load_pixels(layout, media), made, media)


def ask_processor(media: NativeMedia, pictures: Sequence[Any]) -> Mapping[str, Any]:
    """What the processor itself makes of the question; ids as lists, for some count in them."""
    processor = media.processor
    if media.config.model_type in WHOLE:
        text, begins = processor.image_token * len(pictures) + QUESTION, True
    else:
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        bos = processor.tokenizer.bos_token
        begins = bos is not None and text.startswith(bos)
    made: Mapping[str, Any] = processor(
        text=[text], images=[list(pictures)], images_kwargs={"return_tensors": "pt"},
        text_kwargs={"add_special_tokens": not begins})
    return made


def compare_inputs(example: Example, made: Mapping[str, Any], media: NativeMedia) -> str:
    """Which of the other inputs differ, in words; empty when none does."""
    import torch

    known = {"input_ids", "attention_mask", "labels", "mm_token_type_ids"}
    for name in (name for name in made if name in media.inputs and name not in known):
        own, theirs = example.pixels.get(name, example.tracks.get(name)), torch.as_tensor(made[name])
        if own is None or not (own.numel() == theirs.numel() and torch.equal(own.flatten(), theirs.flatten())):
            return f"a picture has other {name} here"
    return ""
