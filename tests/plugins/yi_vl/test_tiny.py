from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from vlcore.cli import cli
from vlcore.config import GenerateConfig
from vlcore.model import load_model
from vlcore.plugins import get_registry
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore_yi_vl.family import FAMILY
from vlcore_yi_vl.tiny import write_tiny

Photo = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["6b", "34b"])
def test_a_tiny_checkpoint_answers_and_stops_at_its_limit(kind: str, tmp_path: Path) -> None:
    write_tiny(tmp_path, kind, width=56)
    reply = load_model(tmp_path, dtype="fp32", device_map="cpu").chat(
        "Hello", settings=GenerateConfig(max_new_tokens=3)
    )
    assert len(reply.token_ids) <= 3


def test_the_files_are_laid_out_as_the_release_s(tmp_path: Path) -> None:
    write_tiny(tmp_path, "34b", width=56)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    vision = "vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-34B-448"
    assert names == {
        "config.json",
        "generation_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
        f"{vision}/config.json",
        f"{vision}/preprocessor_config.json",
        f"{vision}/pytorch_model.bin",
    }


def test_the_command_answers_one_question_between_dashes(tiny: Callable[..., Checkpoint], photo: Photo) -> None:
    words = ["infer", "--model-path", str(tiny().folder), "--image-file", str(photo("cat")), "--max_new_tokens", "3"]
    done = CliRunner().invoke(cli, [*words, "--question", "What is it?"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("----------\nquestion: What is it?\noutputs: ")
    assert done.stdout.endswith("\n----------\n")


def test_a_talk_asks_for_a_picture_after_each_question(tiny: Callable[..., Checkpoint], photo: Photo) -> None:
    typed = f"Hello\n\nWhat is it?\n{photo('cat')}\nAnd now?\nno-such.png\nexit\n"
    words = ["infer", "--model", str(tiny().folder), "--max_new_tokens", "3"]
    done = CliRunner().invoke(cli, words, input=typed)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("Input a media path or URL <<< ") == 3
    assert done.stdout.count("[ERROR] image no-such.png") == 1


def test_the_hook_writes_one(tmp_path: Path) -> None:
    registry = get_registry()
    owner = registry.owner_of(FAMILY).name
    assert registry.call("write_tiny", owner, family=FAMILY, folder=tmp_path, texts=["Seven"], seed=3)
    assert open_checkpoint(tmp_path).family.name == "yi_vl"
