"""Scripts written for ms-swift 2.x run with their import lines changed, on a tiny checkpoint of every family."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from vlcore.compat import swift
from vlcore.compat.swift import ModelType, get_default_template_type, get_model_tokenizer, get_template, inference
from vlcore.errors import MediaError, ModelNotFound, UsageError
from vlcore.plugins import get_registry

#: How such a script goes, with the places where those for the families differ.
SCRIPT = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = "0"

from vlcore.compat.swift import (
    get_model_tokenizer, get_template, inference, ModelType,
    get_default_template_type, inference_stream
)
from vlcore.compat.swift import seed_everything
import torch

model_type = {model_type}
template_type = get_default_template_type(model_type)
print(f"template_type: {{template_type}}")

model, tokenizer = get_model_tokenizer(model_type, {dtype}, model_kwargs={{"device_map": "auto"}},
                                       model_id_or_path={folder!r})
model.generation_config.max_new_tokens = 6
template = get_template(template_type, tokenizer)
seed_everything(42)

{first}
response, history = inference(model, template, query{images})
print(f"query: {{query}}")
print(f"response: {{response}}")

query = "Which is the furthest?"
{second}
print_idx = 0
print(f"query: {{query}}\\nresponse: ", end="")
for response, history in gen:
    delta = response[print_idx:]
    print(delta, end="", flush=True)
    print_idx = len(response)
print()
print(f"history: {{history}}")
"""
BESIDE = "images = [{picture!r}]\nquery = 'How far is it?'"
INSIDE = "query = '<img>{picture}</img>How far is it?'"
NUMBERED = 'query = """Picture 1:<img>{picture}</img>\nHow far is it?"""'
PLAIN = "gen = inference_stream(model, template, query, history)"
AGAIN = "images = images * 2\ngen = inference_stream(model, template, query, history, images=images)"
#: What each script says of model, type of weights, first question and second question.
SCRIPTS = {
    "yi_vl": ("ModelType.yi_vl_6b_chat", "torch.float16", BESIDE, AGAIN, "yi-vl"),
    "qwen_vl": ("ModelType.qwen_vl_chat", "torch.float16", NUMBERED, PLAIN, "qwen-vl"),
    "internvl": ("'internvl-chat-v1_5'", "torch.bfloat16", BESIDE, PLAIN, "internvl"),
    "deepseek_vl": ("ModelType.deepseek_vl_7b_chat", "torch.float16", INSIDE, PLAIN, "deepseek-vl"),
}
MakeRelease = Callable[[str], Path]


@pytest.fixture(scope="module")
def make_release(tmp_path_factory: pytest.TempPathFactory) -> MakeRelease:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder, registry = tmp_path_factory.mktemp(name), get_registry()
            family = next(family for family in registry.families.values() if family.name == name)
            owner = registry.owner_of(family).name
            registry.call("write_tiny", owner, family=family, folder=folder, texts=["How far is it?"], seed=0)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "road.png")
    return str(tmp_path / "road.png")


@pytest.fixture
def loaded(make_release: MakeRelease) -> tuple[swift.Model, swift.Template]:
    model, tokenizer = get_model_tokenizer("internvl2-2b", model_id_or_path=str(make_release("internvl")))
    model.generation_config.max_new_tokens = 4
    return model, get_template("internvl", tokenizer)


@pytest.mark.parametrize("family", SCRIPTS)
def test_a_script_runs_with_only_its_imports_changed(
    family: str, make_release: MakeRelease, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model_type, dtype, first, second, template = SCRIPTS[family]
    text = SCRIPT.format(
        model_type=model_type, dtype=dtype, folder=str(make_release(family)), second=second,
        first=first.format(picture=picture), images=", images=images" if first == BESIDE else "")
    shown, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(shown):
        exec(compile(text, family, "exec"), names)  # the script is our own
    lines = shown.getvalue()
    assert lines.startswith(f"template_type: {template}\nquery: ")
    (asked, answered), (query, response) = names["history"]
    assert f"query: {asked}\nresponse: {answered}\n" in lines
    assert f"query: {query}\nresponse: {response}\nhistory: " in lines
    assert (query, response) == ("Which is the furthest?", names["response"])
    assert picture in asked or first == BESIDE
    assert str(names["model"].module.dtype) == dtype


def test_the_names_of_models_are_those_that_plugins_register() -> None:
    assert ModelType.internvl2_2b == "internvl2-2b" and "qwen_vl_chat_int4" in dir(ModelType)
    with pytest.raises(AttributeError, match="did you mean qwen_vl_chat"):
        ModelType.qwen_vl_chta  # noqa: B018
    with pytest.raises(ModelNotFound, match="did you mean internvl2-2b"):
        get_default_template_type("internvl2-2")


def test_what_would_have_no_effect_is_refused(loaded: tuple[swift.Model, swift.Template]) -> None:
    model, template = loaded
    with pytest.raises(UsageError, match=r"generation_config\.max_new_token: .*did you mean max_new_tokens"):
        model.generation_config.max_new_token = 3  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        model.generation_config.max_new_tokens = 0
    assert model.generation_config.max_new_tokens == 4
    folder = str(model.checkpoint.folder)
    for given, said in (
        ({"model_kwargs": {"low_cpu_mem_usage": True}}, "model_kwargs low_cpu_mem_usage: it would have no effect"),
        ({"model_kwargs": {"device_map": {"": 0}}}, "device_map_config_path"),
        ({"torch_dtype": torch.int8}, r"torch_dtype torch\.int8"),
        ({"use_flash_attention": True}, "did you mean use_flash_attn"),
    ):
        with pytest.raises(UsageError, match=said):
            get_model_tokenizer("internvl2-2b", model_id_or_path=folder, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="template_type default: the model's is internvl"):
        get_template("default", swift.Tokenizer(model.frontend))
    with pytest.raises(TypeError, match="stop_words"):
        inference(model, template, "?", stop_words=["a"])  # type: ignore[call-arg]


def test_arguments_have_their_effect(make_release: MakeRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load(model: str, **settings: Any) -> Any:
        seen.update(settings, model=model)
        raise KeyboardInterrupt

    monkeypatch.setattr(swift, "load_model", load)
    kwargs = {"device_map": "cuda:1", "load_in_4bit": True, "load_in_8bit": False, "attn_implementation": "eager"}
    with pytest.raises(KeyboardInterrupt):
        get_model_tokenizer("qwen-vl-chat", torch.float16, kwargs, revision="v2", use_flash_attn=False)
    assert seen == {
        "model": "qwen-vl-chat", "model_type": "qwen-vl-chat", "dtype": "fp16", "device_map": "cuda:1",
        "quantization_bit": 4, "attn": "eager", "revision": "v2", "use_flash_attn": False}


def test_pictures_go_where_rows_of_data_have_them(loaded: tuple[swift.Model, swift.Template], picture: str) -> None:
    _, template = loaded
    asked = template.read("Two?", [["<image>One?", "1"]], images=[picture], system="Be brief.")
    assert [len(message.media) for message in asked] == [0, 1, 0, 0]
    assert asked[0].text == "Be brief."
    assert [len(message.media) for message in template.read("Two?", [["One?", "1"]], images=[picture])] == [0, 0, 1]


def test_a_conversation_that_cannot_be_read_names_the_argument(
    loaded: tuple[swift.Model, swift.Template], tmp_path: Path
) -> None:
    model, template = loaded
    with pytest.raises(UsageError, match=r"^images\[0\]: there is no file"):
        inference(model, template, "?", images=["no-such.png"])
    with pytest.raises(UsageError, match=r"^history\[0\]: it is not a pair"):
        inference(model, template, "?", [["alone"]])
    (tmp_path / "bad.png").write_text("no picture", "utf8")
    with pytest.raises(MediaError, match="bad"):
        inference(model, template, "?", images=[tmp_path / "bad.png"])


def test_the_template_of_another_model_is_refused(
    loaded: tuple[swift.Model, swift.Template], make_release: MakeRelease
) -> None:
    _, other = get_model_tokenizer("internvl2-2b", model_id_or_path=str(make_release("internvl")))
    with pytest.raises(UsageError, match="template: it belongs to another model"):
        inference(loaded[0], get_template("internvl", other), "?")


def test_answers_grow_and_end_as_the_answer_at_once(loaded: tuple[swift.Model, swift.Template]) -> None:
    model, template = loaded
    history = [["One?", "1"]]
    steps = list(swift.inference_stream(model, template, "Two?", history))
    texts = [text for text, _ in steps]
    assert all(late.startswith(early) for early, late in itertools.pairwise(texts))
    assert steps[-1] == inference(model, template, "Two?", history)
    assert [turns for _, turns in steps] == [[["One?", "1"], ["Two?", text]] for text in texts]
    assert history == [["One?", "1"]]
    model.generation_config.max_new_tokens = 1
    short, _ = inference(model, template, "Two?", history)
    assert texts[-1].startswith(short) and len(short) < len(texts[-1])


def test_a_seed_repeats_what_is_drawn(loaded: tuple[swift.Model, swift.Template]) -> None:
    model, template = loaded
    model.generation_config.do_sample, model.generation_config.max_new_tokens = True, 12
    answers = []
    for seed in (1, 1, 2):
        assert swift.seed_everything(seed) == seed
        answers.append(inference(model, template, "?")[0])
    assert answers[0] == answers[1] != answers[2]
    model.generation_config.do_sample = False
    assert inference(model, template, "?") == inference(model, template, "?")


def test_all_generators_are_seeded() -> None:
    drawn = []
    for _ in range(2):
        swift.seed_everything(7)
        drawn.append((random.random(), float(numpy.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert swift.seed_everything() != swift.seed_everything()
