"""What native models are fed is what transformers' own processor makes, picture by picture."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from vlcore.batch import Example, cut_pixels
from vlcore.errors import CheckpointError, MediaError
from vlcore.messages import user
from vlcore.model import Frontend
from vlcore.native import outline
from vlcore.native.kinds import KINDS
from vlcore.native.media import NativeMedia

QUESTION = " What is\n this? "
Open = Callable[[str], Frontend]


def ask_processor(frontend: Frontend, images: list[Any]) -> Any:
    processor = frontend.checkpoint.processor
    if frontend.checkpoint.config["model_type"] == "paligemma":
        text = processor.image_token * len(images) + QUESTION
    else:
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    begins = text.startswith(processor.tokenizer.bos_token or " ")
    return processor(text=[text], images=[images], images_kwargs={"return_tensors": "pt"},
                     text_kwargs={"add_special_tokens": not begins})


def compare_pixels(example: Example, made: Any, names: frozenset[str]) -> None:
    for name in made.keys() & names - {"input_ids", "attention_mask", "labels", "mm_token_type_ids"}:
        own = example.pixels.get(name, example.tracks.get(name))
        assert own is not None, name
        theirs = torch.as_tensor(made[name])
        if theirs.ndim == 5 and "image_sizes" in made:  # pictures of several, each with as many tiles as the most have
            theirs = torch.cat([tiles[:count] for tiles, count in zip(theirs, example.shares[name], strict=True)])
        assert torch.equal(own.flatten(), theirs.flatten()), name


@pytest.mark.parametrize("model_type", KINDS)
def test_ids_and_pixels_are_those_of_the_processor(
    model_type: str, native_frontend: Open, pictures: list[Any]
) -> None:
    frontend = native_frontend(model_type)
    media = frontend.media
    assert isinstance(media, NativeMedia)
    for images in ([pictures[0]], [pictures[1]], [pictures[3]], pictures):
        example, made = frontend.encode([user(QUESTION, images)]), ask_processor(frontend, images)
        assert list(example.ids) == list(made["input_ids"][0])
        compare_pixels(example, made, media.inputs)


@pytest.mark.parametrize("model_type", KINDS)
def test_plans_from_sizes_are_those_from_black_pictures(
    model_type: str, native_folder: Any, native_frontend: Open, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> Any:
        frontend: Any = native_frontend(model_type)
        frontend.media._known.clear()
        return [frontend.plan([user("What?", chosen)]).plans for chosen in (pictures[:1], pictures)]

    told = plan()
    monkeypatch.setattr("vlcore.native.media.OUTLINES", {})
    assert plan() == told


def test_lengths_need_no_pixels(native_frontend: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    frontends = [native_frontend(name) for name, kind in KINDS.items() if kind.processor[0] in outline.OUTLINES]
    monkeypatch.setattr(NativeMedia, "_process", None)
    for frontend in frontends:
        layout = frontend.plan([user("What?", [Image.new("RGB", (70, 50))])])
        ((start, end),) = layout.spans
        assert end - start == layout.plans[0].tokens > 1


def test_a_picture_that_becomes_something_else_than_planned_is_refused(
    native_frontend: Open, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend: Any = native_frontend("idefics3")
    wrong = {"Idefics3Processor": lambda *arguments: {"rows": [[1]], "cols": [[2]]}}
    monkeypatch.setattr("vlcore.native.media.OUTLINES", wrong)
    frontend.media._known.clear()
    with pytest.raises(CheckpointError, match=r"Idefics3Processor writes \d+ positions for it, planned were \d+"):
        frontend.encode([user("What?", pictures[:1])])
    frontend.media._known.clear()


def test_a_shape_that_the_processor_refuses_is_named(native_frontend: Open) -> None:
    with pytest.raises(MediaError, match=r"a picture of 4000x10: the model's processor refuses it \(absolute aspect"):
        native_frontend("qwen2_vl").plan([user("What?", [Image.new("RGB", (4000, 10))])])


@pytest.mark.parametrize(("model_type", "option", "value"), [
    ("qwen2_vl", "max_pixels", 1024), ("idefics3", "do_image_splitting", False),
    ("smolvlm", "do_image_splitting", False), ("internvl", "max_patches", 1),
])
def test_settings_of_the_image_processor_are_options(
    model_type: str, option: str, value: Any, native_frontend: Open, pictures: list[Any]
) -> None:
    frontend, asked = native_frontend(model_type), [user("What?", pictures[3:])]
    fewer = frontend.encode(asked, **{option: value})
    assert len(fewer) < len(frontend.encode(asked))
    assert fewer.layout == frontend.plan(asked, **{option: value})


@pytest.mark.parametrize("model_type", ["llava_next", "llava_onevision", "qwen2_vl", "idefics3", "internvl", "gemma3"])
def test_pixels_of_later_pictures_are_those_that_are_loaded_without_the_first(
    model_type: str, native_frontend: Open, pictures: list[Any]
) -> None:
    from vlcore.batch import load_pixels

    frontend = native_frontend(model_type)
    example = frontend.encode([user("What?", pictures)])
    for known in range(len(pictures) + 1):
        cut = cut_pixels(example, frontend.media, known)
        loaded = load_pixels(example.layout, frontend.media, known).pixels
        assert cut.keys() == loaded.keys()
        assert all(torch.equal(cut[name], loaded[name]) for name in cut)


def test_a_frontend_can_be_sent_to_another_process(native_frontend: Open, pictures: list[Any]) -> None:
    frontend = native_frontend("smolvlm")
    sent = pickle.loads(pickle.dumps(frontend))
    assert sent.plan([user("What?", pictures[:1])]) == frontend.plan([user("What?", pictures[:1])])


def test_every_outline_is_of_a_processor_that_is_tried() -> None:
    assert set(outline.OUTLINES) <= {kind.processor[0] for kind in KINDS.values()}
