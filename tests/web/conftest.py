"""Fixtures: a tiny model that writes boxes, an adapter for it, and the real command in a process of its own."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from vlcore.config import LoadConfig, LoraConfig
from vlcore.lora import add_adapters
from vlcore.resolve import open_checkpoint

pytest.importorskip("nicegui")
PASSWORD = "someone:a password"
#: Warnings are errors, but for what NiceGUI touches when it looks for its server among all objects.
WARNINGS = "error,ignore:`torch.distributed.reduce_op` is deprecated:FutureWarning"
#: Beginnings of what torchrun, accelerate and DeepSpeed set.
DISTRIBUTED = ("RANK", "WORLD_", "LOCAL_", "MASTER_", "GROUP_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "DS_")


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlcore_qwen_vl import tiny

    folder = tmp_path_factory.mktemp("release") / "tiny-vl"
    folder.mkdir()
    tiny.write_tiny(folder, layers=1, texts=["What is this?"])
    return folder


@pytest.fixture(scope="session")
def adapter(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = open_checkpoint(release)
    adapted = add_adapters(checkpoint, checkpoint.call("load_model", config=LoadConfig()), LoraConfig(lora_rank=4))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("adapter") / "tuned"
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="session")
def start(release: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts the page and tells its address."""
    started = []

    def run(*options: str, **settings: str) -> str:
        command = [sys.executable, str(Path(__file__).with_name("scripted.py")), "web", "--model", str(release),
                   "--adapter", f"tuned={adapter}", "--port", "0", "--max_image_bytes", "200000",
                   "--max_pixels", "1000000", *options]
        # Other tests of this process may have joined the processes of a training.
        plain = {name: value for name, value in os.environ.items() if not name.startswith(DISTRIBUTED)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path_factory.mktemp("run"),
                                   env=plain | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": WARNINGS, **settings})
        started.append(process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"talk with tiny-vl, tuned at (http://\S+)", line):
                return found.group(1)
        raise AssertionError(f"the page has not started: {said}")

    yield run
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def address(start: Callable[..., str]) -> str:
    """A page without a password, on this machine alone."""
    return start()


@pytest.fixture(scope="session")
def locked(start: Callable[..., str]) -> str:
    """A page with a password."""
    return start(VLCORE_WEB_AUTH=PASSWORD)


@pytest.fixture
def make_picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture of one colour."""

    def make(name: str = "orange.png", size: tuple[int, int] = (320, 240), colour: str = "orange") -> Path:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, "PNG")
        (tmp_path / name).write_bytes(file.getvalue())
        return tmp_path / name

    return make
