"""Bad input to the real commands: one clear line on standard error, and the exit code of its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from vlcore.cli import main
from vlcore_internvl.tiny import write_tiny


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_tiny(folder, tile=28, width=64, layers=1)
    return folder


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "model"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": "<image>What?", "response": "Red.", "images": ["a.png"]}) + "\n", "utf8")
    return path


def fail(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Runs a command that must fail; returns its exit code and the one line it printed."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlcore: error:")]
    assert len(lines) == 1
    assert isinstance(ended.value.code, int)
    return ended.value.code, lines[0]


ASK = ("--question", "Hi", "--max_new_tokens", 1)


def test_a_missing_folder(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fail(capsys, "infer", "--model", "./no/such/folder", *ASK)
    assert code == 3
    assert "./no/such/folder" in line


def test_a_half_written_safetensors_file(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    code, line = fail(capsys, "infer", "--model", copy, *ASK)
    assert code == 6
    assert str(weights) in line


def test_a_tensor_that_is_missing_and_one_that_is_left_over(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    tensors["mlp1.9.weight"] = tensors.pop("mlp1.1.weight")
    save_file(tensors, copy / "model.safetensors")
    code, line = fail(capsys, "infer", "--model", copy, *ASK)
    assert code == 6
    assert "1 missing" in line
    assert "1 left over" in line


def test_a_shard_that_is_not_there(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index), "utf8")
    code, line = fail(capsys, "infer", "--model", copy, *ASK)
    assert code == 6
    assert "model-00002-of-00002.safetensors" in line


def test_a_config_that_no_plugin_owns(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "something_else"}', "utf8")
    code, line = fail(capsys, "infer", "--model", copy, *ASK)
    assert code == 3
    assert "something_else" in line


def test_a_plugin_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlcore import plugins

    monkeypatch.setenv("VLCORE_PLUGINS", "")
    plugins.get_registry.cache_clear()
    try:
        code, line = fail(capsys, "infer", "--model", copy, *ASK)
    finally:
        plugins.get_registry.cache_clear()
    assert code == 3
    assert "pip install vlcore-internvl" in line


def test_an_image_that_cannot_be_read(capsys: pytest.CaptureFixture[str], release: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image", "utf8")
    code, line = fail(capsys, "infer", "--model", release, "--image_file", tmp_path / "a.png", *ASK)
    assert code == 7
    assert str(tmp_path / "a.png") in line


def test_a_row_with_more_tags_than_images(capsys: pytest.CaptureFixture[str], release: Path, rows: Path) -> None:
    bad = '{"query": "<image><image>?", "response": "x", "images": ["a.png"]}'
    rows.write_text(rows.read_text("utf8") * 2 + bad, "utf8")
    code, line = fail(capsys, "sft", "--model", release, "--dataset", rows, "--output_dir", rows.parent / "out")
    assert code == 5
    assert f"{rows}:3" in line


def test_an_unknown_option_and_an_unknown_name_bring_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fail(capsys, "infer", "--modle", "x")
    assert code == 2
    assert line.endswith("option --modle: there is no such option; did you mean model?")
    code, line = fail(capsys, "infer", "--model_type", "internvl2-2bb")
    assert code == 3
    assert "internvl2-2b" in line


def test_an_unknown_option_of_the_family(capsys: pytest.CaptureFixture[str], release: Path) -> None:
    code, line = fail(capsys, "infer", "--model", release, "--option", "maxnum=3", *ASK)
    assert code == 2
    assert "did you mean max_num?" in line


def test_an_output_that_exists(capsys: pytest.CaptureFixture[str], release: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "result.jsonl").write_text("", "utf8")
    given = ("--val_dataset", rows, "--result_path", tmp_path / "result.jsonl")
    code, line = fail(capsys, "infer", "--model", release, *given)
    assert code == 2
    assert "result.jsonl" in line


def test_a_folder_that_training_did_not_leave(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, line = fail(capsys, "export", "--ckpt_dir", tmp_path, "--merge_lora", "true")
    assert code == 2
    assert str(tmp_path) in line


def test_a_tag_without_a_picture(capsys: pytest.CaptureFixture[str], release: Path) -> None:
    code, line = fail(capsys, "infer", "--model", release, "--question", "<image>What?")
    assert code == 2
    assert "--image_file" in line


def test_a_question_together_with_a_data_set(capsys: pytest.CaptureFixture[str], release: Path, rows: Path) -> None:
    code, line = fail(capsys, "infer", "--model", release, "--val_dataset", rows, *ASK)
    assert code == 2
    assert "question" in line


def test_options_without_effect_are_said_aloud(
    capsys: pytest.CaptureFixture[str], release: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="--result_path has no effect"):
        main(["infer", "--model", str(release), "--result_path", str(tmp_path / "x"), *map(str, ASK)])
