from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as PilImage
from vlcore.errors import CheckpointError
from vlcore.messages import Image, Message, Video, make_message, user
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions, render_prompt
from vlcore_internvl.family import FAMILY
from vlcore_internvl.template import SECOND_GENERATION, build_template

Make = Callable[..., Checkpoint]
PICTURES = [Image(PilImage.new("RGB", (8, 8))) for _ in range(3)]


def render(checkpoint: Checkpoint, messages: list[Message], **options: Any) -> str:
    return render_prompt(build_template(checkpoint).write_segments(messages, EncodeOptions(**options)))


def test_the_prompt_shows_no_tokens_around_a_picture(tiny: Make) -> None:
    checkpoint = tiny("internlm2")
    segments = build_template(checkpoint).write_segments([user("What?", PICTURES[:1])], EncodeOptions())
    asked = "<|im_start|>user\n<image>\nWhat?<|im_end|><|im_start|>assistant\n"
    assert render_prompt(segments).endswith(asked)
    names = [segment.text for segment in segments if segment.kind != "text"]
    assert names[:2] == ["<s>", "<|im_start|>"] and names[4:7] == ["<img>", "<image>", "</img>"]


def test_a_first_generation_record_brings_its_own_system_text(tiny: Make) -> None:
    checkpoint = tiny("internlm2")
    first = replace(checkpoint, record=FAMILY.find_record("internvl-chat-v1_5"))
    assert build_template(checkpoint).system == SECOND_GENERATION
    assert build_template(first).system == "You are an AI assistant whose name is InternLM (书生·浦语)."


@pytest.mark.parametrize(("given", "used"), [(None, SECOND_GENERATION), ("", ""), ("Be brief.", "Be brief.")])
def test_system_message_in_config_json_wins_unless_null(given: str | None, used: str, tiny: Make) -> None:
    checkpoint = tiny()
    changed = replace(checkpoint, config={**checkpoint.config, "system_message": given})
    assert build_template(changed).system == used


def test_an_empty_system_text_still_writes_its_line(tiny: Make) -> None:
    prompt = render(tiny(), [make_message("system", ""), user("Hi")])
    assert prompt.startswith("<|im_start|>system\n<|im_end|><|im_start|>user\nHi")


def test_tags_place_pictures_and_add_nothing(tiny: Make) -> None:
    prompt = render(tiny(), [user("First <image> then <image>.", PICTURES[:2])])
    assert "user\nFirst <image> then <image>.<|im_end|>" in prompt


@pytest.mark.parametrize("tag", ["", "<video>\n"])
def test_a_video_is_a_line_for_each_frame(tag: str, tiny: Make) -> None:
    message = user(tag + "What happens?", videos=[Video(frames=tuple(PICTURES))])
    lines = "Frame{}1: <image>\nFrame{}2: <image>\nFrame{}3: <image>\nWhat happens?"
    assert lines.replace("{}", "") in render(tiny(), [message])
    assert lines.replace("{}", "-") in render(tiny("qwen3"), [message])
    assert lines.replace("{}", " no. ") in render(tiny(), [message], family={"frame_label": "Frame no. {}: "})


def test_frames_are_marked_so_that_each_takes_one_tile(tiny: Make) -> None:
    message = user("What?", PICTURES[:1], [Video(frames=tuple(PICTURES[1:]))])
    segments = build_template(tiny()).write_segments([message], EncodeOptions())
    assert [segment.frame for segment in segments if segment.kind == "media"] == [False, True, True]


def test_combined_pictures_share_one_slot(tiny: Make) -> None:
    same = [PICTURES[0], Image(PICTURES[0].source)]
    segments = build_template(tiny()).write_segments(
        [user("What?", same)], EncodeOptions(family={"combine_images": True})
    )
    assert [segment.images for segment in segments if segment.kind == "media"] == [tuple(same)]
    assert render_prompt(segments).count("<image>\n") == 1


def test_grounding_tokens_are_tokens_in_typed_text_and_roles_are_not(tiny: Make) -> None:
    typed = "Where is <ref>it</ref>?<|im_end|><img>"
    segments = build_template(tiny()).write_segments([user(typed)], EncodeOptions())
    user_part = [(s.text, s.kind) for s in segments][5:]
    assert ("<ref>", "special") in user_part and ("?<|im_end|><img>", "text") in user_part


@pytest.mark.parametrize(("kind", "newline"), [("internlm2", ""), ("qwen3", "\n")])
def test_the_answer_and_its_end_are_trained_and_nothing_else(kind: str, newline: str, tiny: Make) -> None:
    messages = [user("What?", PICTURES[:1]), make_message("assistant", "A cat.")]
    segments = build_template(tiny(kind)).write_segments(messages, EncodeOptions(train=True))
    assert [segment.text for segment in segments if segment.trained] == ["A cat.", "<|im_end|>"]
    assert render_prompt(segments).endswith("A cat.<|im_end|>" + newline)


@pytest.mark.parametrize(
    ("kind", "loss_on", "answer"),
    [
        ("internlm2", "release", "A cat."),
        ("internlm2", "answers", " A cat. "),
        ("qwen2", "release", " A cat. "),
    ],
)
def test_only_internlm2_as_released_strips_messages(kind: str, loss_on: str, answer: str, tiny: Make) -> None:
    messages = [user("What?"), make_message("assistant", " A cat. ")]
    options = EncodeOptions(train=True, loss_on=loss_on)  # type: ignore[arg-type]
    segments = build_template(tiny(kind)).write_segments(messages, options)
    assert next(segment.text for segment in segments if segment.trained) == answer


TALK = [
    user("What?"), make_message("assistant", "A cat."), user("And <|end|>?"), make_message("assistant", "A dog."),
]


def test_gpt_oss_opens_the_final_channel_and_names_no_first_token(tiny: Make) -> None:
    checkpoint = tiny("gpt_oss")
    assert render(checkpoint, [make_message("system", "Be brief."), *TALK[:3]]) == (
        "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>What?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>A cat.<|end|>"
        "<|start|>user<|message|>And <|end|>?<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    assert "Current date: 2025-08-06\n\nReasoning: low\n\n# Valid channels: final." in render(checkpoint, TALK[:1])


@pytest.mark.parametrize(("loss_on", "said"), [("answers", []), ("release", ["<|channel|>", "final", "<|message|>"])])
def test_gpt_oss_is_trained_to_return_behind_the_last_answer_alone(loss_on: Any, said: list[str], tiny: Make) -> None:
    options = EncodeOptions(train=True, loss_on=loss_on)
    segments = build_template(tiny("gpt_oss")).write_segments(TALK, options)
    trained = [segment.text for segment in segments if segment.trained]
    assert trained == [*said, "A cat.", "<|end|>", *said, "A dog.", "<|return|>"]


def test_gpt_oss_ends_an_answer_at_both_ends_of_a_message(tiny: Make) -> None:
    assert build_template(tiny("gpt_oss")).stop.tokens == ("<|return|>", "<|end|>")


def test_an_answer_is_cut_at_the_end_token_and_stripped(tiny: Make) -> None:
    assert build_template(tiny()).clean_answer(" A cat. <|im_end|> more") == "A cat."


def test_an_unknown_template_is_named(tiny: Make) -> None:
    checkpoint = tiny()
    with pytest.raises(CheckpointError, match="template strange"):
        build_template(replace(checkpoint, config={**checkpoint.config, "template": "strange"}))
