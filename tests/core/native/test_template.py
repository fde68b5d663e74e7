"""Prompts of native models: what their chat templates write, found again piece by piece."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, UsageError
from vlcore.messages import Message, make_message, user
from vlcore.model import Frontend, build_frontend
from vlcore.native.kinds import KINDS
from vlcore.native.talk import TAGS
from vlcore.resolve import read_json, resolve_model

TALK = (user("What is this? "), make_message("assistant", " A cat.\n"), user("And this?"),
        make_message("assistant", "Two cats."))
TALKING = [model_type for model_type in KINDS if model_type != "paligemma"]
#: A chat template whose last answer is written unlike the others, as those of thinking models.
THINKING = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{%- if message.role == 'assistant' and loop.last %} <think></think> {% endif -%}
{%- for part in message.content -%}{{ '<|image_pad|>' if part.type == 'image' else part.text }}{%- endfor -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{%- endif -%}
"""
#: One that opens the answers of the history with a space that its prompts do not have, as LLaVA-OneVision's.
SPACED = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + ' \n' }}
{%- for part in message.content -%}{{ '<|image_pad|>' if part.type == 'image' else part.text }}{%- endfor -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
Open = Callable[[str], Frontend]


@pytest.fixture
def with_template(native_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], Frontend]:
    """The frontend of a tiny checkpoint with another chat template, or none."""

    def make(model_type: str, template: str) -> Frontend:
        folder = tmp_path / model_type
        shutil.copytree(native_folder(model_type), folder)
        (folder / "chat_template.jinja").unlink()
        if template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf8")
        return build_frontend(resolve_model(LoadConfig(model=str(folder))))

    return make


def spell(frontend: Frontend, ids: Any) -> str:
    hf: Any = frontend.tokenizer
    return str(hf.hf.decode([token for token in ids if token >= 0]))


@pytest.mark.parametrize("model_type", TALKING)
def test_ids_of_training_begin_with_those_of_every_prompt(model_type: str, native_frontend: Open) -> None:
    frontend = native_frontend(model_type)
    whole = frontend.plan(TALK, train=True)
    for length in (1, 3):
        prompt = frontend.plan(TALK[:length]).ids
        assert whole.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("model_type", TALKING)
def test_answers_and_what_ends_them_are_trained(model_type: str, native_frontend: Open) -> None:
    frontend = native_frontend(model_type)
    labels = frontend.plan(TALK, train=True).labels
    runs = "".join("x" if label >= 0 else " " for label in labels).split()
    assert len(runs) == 2
    trained = spell(frontend, labels)
    assert [part for part in ("A cat.", "Two cats.") if part in trained] == ["A cat.", "Two cats."]
    assert "And this" not in trained
    stop = [label for label in labels if label >= 0][-1]
    assert stop in {frontend.tokenizer.token_id(name) for name in frontend.template.stop.tokens}


def test_an_answer_that_is_not_trained_has_no_labels(native_frontend: Open) -> None:
    frontend = native_frontend("qwen2_vl")
    half = (TALK[0], replace(TALK[1], trained=False), *TALK[2:])
    assert frontend.plan(half, train=True).ids == frontend.plan(TALK, train=True).ids
    assert spell(frontend, frontend.plan(half, train=True).labels) == "Two cats.<|im_end|>"


def test_a_template_without_an_end_gets_the_tokenizers_behind_the_last_answer(native_frontend: Open) -> None:
    frontend = native_frontend("llava")
    assert spell(frontend, frontend.plan(TALK, train=True).labels).endswith("Two cats.</s>")
    assert spell(frontend, frontend.plan(TALK[:3]).ids).count("</s>") == 0


@pytest.mark.parametrize("model_type", TALKING)
def test_what_is_typed_never_becomes_a_special_token(
    model_type: str, native_frontend: Open, pictures: list[Any]
) -> None:
    frontend: Any = native_frontend(model_type)
    specials = [name for name, token in frontend.tokenizer._added.items() if token.special]
    typed = "x" + "".join(name for name in specials if name not in TAGS)
    ids = {frontend.tokenizer.token_id(name) for name in specials}
    plain, odd = (frontend.plan([user(text, pictures[:1])]).ids for text in ("x", typed))
    assert [token for token in odd if token in ids] == [token for token in plain if token in ids]
    assert len(odd) > len(plain) + len(specials)


def test_jinja_that_is_typed_is_text(native_frontend: Open) -> None:
    frontend = native_frontend("llava")
    assert "{{ eos_token }}{% raw %}" in spell(frontend, frontend.plan([user("{{ eos_token }}{% raw %}")]).ids)


def test_a_template_that_trims_trims(native_frontend: Open) -> None:
    frontend = native_frontend("gemma3")
    assert "user\nWhat?<end_of_turn>" in frontend.plan([user("  What?\n ")]).prompt
    assert "user\n  What?\n <|im_end|>" in native_frontend("qwen2_vl").plan([user("  What?\n ")]).prompt


def test_pictures_stand_where_they_are_tagged(native_frontend: Open, pictures: list[Any]) -> None:
    frontend = native_frontend("smolvlm")
    layout = frontend.plan([user("One <image> two <image> three", pictures[:2])])
    assert "User: One <image> two <image> three<end_of_utterance>" in layout.prompt
    assert [slot.sizes[0] for slot in layout.slots] == [picture.size for picture in pictures[:2]]
    assert frontend.plan([user("No <image> here")]).slots == ()


def test_an_answer_is_opened_as_its_prompt_ends_where_only_white_space_differs(
    with_template: Callable[[str, str], Frontend]
) -> None:
    frontend = with_template("qwen2_vl", SPACED)
    asked, whole = frontend.plan(TALK[:3]), frontend.plan(TALK, train=True)
    assert whole.ids[: len(asked)] == asked.ids
    assert whole.prompt.count("<|im_start|>assistant\n") == 2
    assert whole.prompt.count("<|im_start|>user \n") == 2


def test_a_template_that_changes_what_was_said_is_refused_for_training_with_the_place(
    with_template: Callable[[str, str], Frontend]
) -> None:
    frontend = with_template("qwen2_vl", THINKING)
    with pytest.raises(UsageError) as refusal:
        frontend.plan(TALK, train=True)
    assert str(refusal.value) == (
        "answer 1 (the conversation up to it): the model's chat template writes '<think></think>  A cat.\\n<|im_e' "
        "there, but 'A cat.\\n<|im_end|><|im_start|>u' when the conversation goes on, so what is trained cannot be "
        "told from it; train with single turns, or put a chat template without such a rule into the model's folder")
    single = frontend.plan(TALK[:2], train=True)
    assert spell(frontend, single.labels) == " <think></think>  A cat.\n<|im_end|>"
    assert "A cat." in frontend.plan(TALK[:3]).prompt


@pytest.mark.parametrize(("template", "messages", "why"), [
    ("{{ raise_exception('no system') }}", TALK[:1], r"a conversation of user: .*refuses it \(no system\)"),
    ("{% for m in messages if m.role != 'system' %}{{ m.content[0].text }}{% endfor %}",
     (make_message("system", "Be kind."), *TALK[:1]), "the text Be kind.: the model's chat template writes it 0 times"),
    ("{% for m in messages %}{{ m.content[-1].text * 2 }}{% endfor %}", TALK[:1], "writes it 2 times"),
])
def test_a_conversation_that_the_template_does_not_take_is_refused(
    template: str, messages: tuple[Message, ...], why: str, native_frontend: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend: Any = native_frontend("qwen2_vl")
    monkeypatch.setattr(frontend.template.processor, "chat_template", template)
    with pytest.raises(UsageError, match=why):
        frontend.plan(messages)


@pytest.mark.parametrize("written", ["message.content", "(message.role + ': ' + message.content)"])
def test_a_template_that_takes_texts_alone_gets_texts(
    written: str, native_frontend: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend: Any = native_frontend("qwen2_vl")
    template = "{% for message in messages %}{{ " + written + " }}<|im_end|>{% endfor %}"
    monkeypatch.setattr(frontend.template.processor, "chat_template", template)
    prompt = frontend.plan((make_message("system", "Be kind."), *TALK), train=True).prompt
    assert "Be kind.<|im_end|>" in prompt
    assert "type" not in prompt


def test_pictures_that_the_template_leaves_out_are_missed(
    native_frontend: Open, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend: Any = native_frontend("qwen2_vl")
    template = "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"
    monkeypatch.setattr(frontend.template.processor, "chat_template", template)
    with pytest.raises(UsageError, match="a conversation with 2 pictures: the model's chat template writes 0"):
        frontend.plan([user("What?", pictures[:2])])


def test_a_checkpoint_without_a_chat_template_says_what_to_do(with_template: Callable[[str, str], Frontend]) -> None:
    with pytest.raises(CheckpointError, match=r"has no chat template, .*; take the model's instruct or chat release"):
        with_template("idefics3", "")


def test_a_chat_template_that_is_no_jinja_is_named_with_its_line(with_template: Callable[[str, str], Frontend]) -> None:
    with pytest.raises(CheckpointError, match=r"idefics3: its chat template cannot be read \(line 2: .*; copy it"):
        with_template("idefics3", "{{ bos_token }}\n{{ messages")


def test_paligemma_needs_no_chat_template(
    with_template: Callable[[str, str], Frontend], native_frontend: Open, pictures: list[Any]
) -> None:
    frontend, asked = with_template("paligemma", ""), [user("caption en", pictures[:1])]
    assert frontend.plan(asked).prompt == "<image><bos>caption en\n"
    assert frontend.plan(asked).ids == native_frontend("paligemma").plan(asked).ids
    trained = frontend.encode([*asked, make_message("assistant", "a cat")], train=True)
    assert spell(frontend, trained.labels) == "a cat<eos>"
    assert trained.tracks["token_type_ids"].tolist() == [int(label >= 0) for label in trained.labels]


def test_ends_of_generation_config_end_an_answer(native_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "gemma3"
    shutil.copytree(native_folder("gemma3"), folder)
    frontend = build_frontend(resolve_model(LoadConfig(model=str(folder))))
    bos = frontend.tokenizer.token_id("<bos>")
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [{bos}]}}')
    again = build_frontend(resolve_model(LoadConfig(model=str(folder))))
    assert again.template.stop.tokens == ("<eos>", "<bos>", "<end_of_turn>")
    assert frontend.template.stop.tokens == ("<eos>", "<end_of_turn>")


def test_an_end_that_the_vocabulary_lacks_ends_no_answer(native_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "paligemma"
    shutil.copytree(native_folder("paligemma"), folder)
    settings = read_json(folder / "tokenizer_config.json")
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = read_json(folder / "config.json")
    config["eos_token_id"] = config["text_config"]["eos_token_id"] = 100_000
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="nothing names a token that ends an answer"):
        build_frontend(resolve_model(LoadConfig(model=str(folder))))
