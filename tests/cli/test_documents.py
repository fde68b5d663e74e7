"""The command lines that the families' documents print work with `vlcore` in the place of their tools."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image
from vlcore.cli import cli, main
from vlcore.cli.infer import find_idle
from vlcore.config import ExportConfig, InferConfig, SftConfig
from vlcore.plugins import get_registry
from vlcore.web.settings import WebConfig

#: Older commands, and the commands here that take their arguments.
COMMANDS = {
    "swift": "", "python single_inference.py": "infer", "python cli.py": "infer", "python web_demo.py": "web",
    "finetune": "sft",
}
#: What users of ms-swift typed, folders of checkpoints shortened, and what of it must arrive.
SWIFT: list[tuple[str, dict[str, Any]]] = [
    ("swift infer --model_type yi-vl-6b-chat", {"model_type": "yi-vl-6b-chat"}),
    ("swift infer --model_type qwen-vl-chat", {"model_type": "qwen-vl-chat"}),
    ("swift infer --model_type deepseek-vl-7b-chat", {"model_type": "deepseek-vl-7b-chat"}),
    ("swift infer --model_type deepseek-vl-1_3b-chat", {"model_type": "deepseek-vl-1_3b-chat"}),
    ("swift infer --model_type internvl2-2b", {"model_type": "internvl2-2b"}),
    ("swift infer --model_type internvl-chat-v1_5 --dtype bf16 --max_length 4096",
     {"model_type": "internvl-chat-v1_5", "dtype": "bf16", "max_length": 4096}),
    ("swift infer --model_type internvl-chat-v1_5-int8 --dtype bf16", {"dtype": "bf16"}),
    ("swift infer --model_type internvl2-2b --model_id_or_path FOLDER --use_flash_attn false",
     {"model": "FOLDER", "use_flash_attn": False}),
    ("swift infer --model_type internvl2-26b --device_max_memory 15GB 15GB 15GB 15GB",
     {"device_max_memory": ("15GB", "15GB", "15GB", "15GB")}),
    ("swift infer --model_type internvl2-26b --device_map_config_path map.json",
     {"device_map_config_path": "map.json"}),
    ("swift infer --model_type internvl2-2b --hub_token secret", {"hub_token": "secret"}),
    ("swift sft --model_type yi-vl-6b-chat --dataset coco-en-2-mini", {"dataset": ("coco-en-2-mini",)}),
    ("swift sft --model_type qwen-vl-chat --dataset coco-en-mini", {"dataset": ("coco-en-mini",)}),
    ("swift sft --model_type qwen-vl-chat --dataset coco-en-mini --sft_type full", {"sft_type": "full"}),
    ("swift sft --model_type qwen-vl-chat --dataset coco-en-mini --lora_target_modules ALL",
     {"lora_target_modules": ("ALL",)}),
    ("swift sft --model_type deepseek-vl-7b-chat --dataset coco-en-mini --sft_type full --use_flash_attn true "
     "--deepspeed default-zero2", {"deepspeed": "default-zero2", "use_flash_attn": True}),
    ("swift sft --model_type internvl-chat-v1_5 --dataset coco-en-2-mini --max_length 4096", {"max_length": 4096}),
    ("swift sft --model_type internvl-chat-v1_5 --dataset coco-en-2-mini --max_length 4096 --deepspeed default-zero2",
     {"deepspeed": "default-zero2"}),
    ("swift sft --model_type internvl-chat-v1_5 --dataset coco-en-2-mini --max_length 4096 --sft_type full",
     {"sft_type": "full", "max_length": 4096}),
    ("swift sft --model_type internvl2-2b --dataset coco-en-2-mini --gradient_checkpoting true",
     {"gradient_checkpointing": True}),
    ("swift infer --ckpt_dir DIR --load_dataset_config true", {"ckpt_dir": "DIR", "load_dataset_config": True}),
    ("swift infer --ckpt_dir DIR --load_dataset_config true --max_length 4096", {"max_length": 4096}),
    ("swift infer --ckpt_dir DIR-merged --load_dataset_config true", {"ckpt_dir": "DIR-merged"}),
    ("swift export --ckpt_dir DIR --merge_lora true", {"ckpt_dir": "DIR", "merge_lora": True}),
]
#: What users of the Yi project's scripts typed.
YI: list[tuple[str, dict[str, Any]]] = [
    ("python single_inference.py --model-path YI --image-file cat.jpg --question 'Describe the cat.'",
     {"model": "YI", "image_file": ("cat.jpg",), "question": "Describe the cat."}),
    ("python cli.py --model-path YI --image cat.jpg", {"model": "YI", "image_file": ("cat.jpg",)}),
    ("python cli.py --model-path YI --image-file cat.jpg", {"model": "YI", "image_file": ("cat.jpg",)}),
    ("python web_demo.py --model-path YI", {"model": "YI"}),
    ("finetune --model_name_or_path YI --data_path rows.json --image_folder images --vision_tower YI/vit",
     {"model": "YI", "dataset": ("rows.json",), "image_folder": "images", "vision_tower": "YI/vit"}),
]


def translate(line: str) -> list[str]:
    """The arguments of `vlcore` for an older command line."""
    old = next(old for old in COMMANDS if line.startswith(old + " "))
    return [word for word in [COMMANDS[old], *shlex.split(line.removeprefix(old))] if word]


def parse(words: list[str]) -> Any:
    """The configuration that a command is given."""
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    with command.make_context(words[0], words[1:]) as context:
        kind = {"infer": InferConfig, "sft": SftConfig, "export": ExportConfig, "web": WebConfig}[words[0]]
        lists = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in context.params.items()}
        return kind(**lists)


@pytest.mark.parametrize(("line", "expected"), SWIFT + YI)
def test_a_command_line_of_the_documents_is_understood(line: str, expected: dict[str, Any]) -> None:
    config = parse(translate(line))
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("line", [line for line, given in SWIFT if given.get("model_type")])
def test_a_model_of_the_documents_is_registered(line: str) -> None:
    name = parse(translate(line)).model_type
    assert any(model.answers_to(name) for family in get_registry().families.values() for model in family.models)


def test_an_option_of_the_documents_that_has_no_effect_is_said() -> None:
    config = parse(translate("swift infer --ckpt_dir DIR --load_dataset_config true --max_length 4096"))
    assert list(find_idle(config)) == ["--max_length has no effect: a data set is answered"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an older command line with some words replaced, and gives what it prints."""

    def run(line: str, **words: Path) -> str:
        for old, new in words.items():
            line = line.replace(old, str(new))
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "--max_length has no effect")
            main(translate(line))
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown.err
        return shown.out

    return run


def write_release(folder: Path, name: str) -> Path:
    registry = get_registry()
    family = next(family for family in registry.families.values() if family.name == name)
    folder.mkdir()
    registry.call("write_tiny", registry.owner_of(family).name, family=family, folder=folder,
                  texts=["Describe the cat."], seed=0)
    return folder


@pytest.mark.parametrize(
    ("family", "model_type", "answer"),
    [("internvl", "internvl-chat-v1_5 --dtype fp32 --max_length 4096", "--load_dataset_config true --max_length 4096"),
     ("qwen_vl", "qwen-vl-chat", "--load_dataset_config true"),
     ("deepseek_vl", "deepseek-vl-7b-chat --use_flash_attn false", "--load_dataset_config true"),
     ("yi_vl", "yi-vl-6b-chat", "--load_dataset_config true")],
)
def test_the_documents_steps_from_training_to_the_merged_model_run_one_after_the_other(
    family: str, model_type: str, answer: str, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release = write_release(tmp_path / "release", family)
    Image.new("RGB", (30, 20), "orange").save("cat.png")
    row = {"query": "Describe the cat.", "response": "Orange.", "images": ["cat.png"]}
    Path("rows.jsonl").write_text((json.dumps(row) + "\n") * 3, "utf8")
    local = "--model_id_or_path RELEASE --dataset rows.jsonl --report_to none --save_total_limit 1"
    run(f"swift sft --model_type {model_type} {local}", RELEASE=release)
    (folder,) = Path("output").glob("*/v0-*/checkpoint-*")
    assert folder.parts[1] == model_type.split()[0]
    run("swift export --ckpt_dir DIR --merge_lora true", DIR=folder)
    for trained in (folder, folder.with_name(folder.name + "-merged")):
        run(f"swift infer --ckpt_dir DIR {answer} --max_new_tokens 2", DIR=trained)
        assert len(list((trained / "infer_result").glob("*.jsonl"))) == 1


def test_a_single_question_of_yis_script_is_answered(run: Callable[..., str], tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", "yi_vl")
    Image.new("RGB", (30, 20), "orange").save(tmp_path / "cat.jpg")
    shown = run(YI[0][0] + " --max_new_tokens 2", YI=release, **{"cat.jpg": tmp_path / "cat.jpg"})
    assert shown.startswith("----------\nquestion: Describe the cat.\noutputs: ") and shown.endswith("----------\n")


def test_options_of_the_page_for_users_of_ms_swift_are_there() -> None:
    page = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf8")
    here = "".join(line.split(" | ")[1] for line in page.splitlines() if line.startswith("| `"))
    commands = [cli.get_command(click.Context(cli), name) for name in ("infer", "sft", "export", "serve")]
    known = {name for command in commands if command for option in command.params for name in option.opts}
    named = {word.replace("-", "_").replace("__", "--", 1) for word in re.findall(r"--[a-z][\w-]+", here)}
    assert named and named <= known
