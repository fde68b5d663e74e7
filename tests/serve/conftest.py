"""Fixtures: a tiny release, adapters for it, and the real command serving them in a process of its own."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from vlcore.config import LoadConfig, LoraConfig
from vlcore.lora import add_adapters
from vlcore.model import VLModel, load_model
from vlcore.resolve import open_checkpoint

KEY = "a key of the tests"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tensors this small are computed fastest, and always alike, by one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlcore_internvl import tiny

    folder = tmp_path_factory.mktemp("release") / "tiny"
    folder.mkdir()
    tiny.write_tiny(folder, tile=28, width=64, layers=1, texts=["What is this?"])
    return folder


@pytest.fixture(scope="session")
def model(release: Path) -> VLModel:
    return load_model(str(release))


@pytest.fixture(scope="session")
def adapters(release: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters whose every tensor has been moved off its first value, one of them with a projector of its own."""
    checkpoint = open_checkpoint(release)
    made = {}
    for number, settings in enumerate(({"lora_rank": 4}, {"lora_rank": 8, "modules_to_save": ("PROJECTOR",)})):
        module = checkpoint.call("load_model", config=LoadConfig())
        adapted = add_adapters(checkpoint, module, LoraConfig(**settings))
        torch.manual_seed(number)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
        name = ("one", "two.0")[number]
        made[name] = tmp_path_factory.mktemp("adapters") / name
        adapted.save_pretrained(made[name], save_embedding_layers=False)
    return made


def draw(colour: str, width: int = 40, kind: str = "PNG") -> bytes:
    """The file of a picture in one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, 30), colour).save(file, kind)
    return file.getvalue()


def write_url(data: bytes, kind: str = "png") -> str:
    """The data URL of a picture."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def memory(self) -> int:
        """Memory that it holds, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf8")
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024


@pytest.fixture(scope="session")
def start(release: Path) -> Iterator[Callable[..., Running]]:
    """Starts `vlcore serve` and waits until it takes requests."""
    started = []

    def run(*options: str, **settings: str) -> Running:
        command = [str(Path(sys.executable).with_name("vlcore")), "serve", "--model", str(release), "--port", "0"]
        # Each thread's own heap would make memory look as if it grew.
        settings = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **settings}
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=os.environ | settings)
        started.append(process)
        assert process.stdout is not None
        found = re.search(r"at (http://\S+)/v1", process.stdout.readline())
        assert found, "the server has not started"
        return Running(process, found.group(1))

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that requests may name files of, and beside it a secret that links in it lead to."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "open").mkdir()
    (folder / "open" / "cat.png").write_bytes(draw("orange"))
    (folder / "secret.png").write_bytes(draw("black"))
    (folder / "open" / "link.png").symlink_to(folder / "secret.png")
    os.mkfifo(folder / "open" / "pipe.png")
    return folder


@pytest.fixture(scope="session")
def server(start: Callable[..., Running], adapters: dict[str, Path], pictures: Path) -> Running:
    """A server with two adapters, a key and a folder of pictures."""
    named = [f"{name}={folder}" for name, folder in adapters.items()]
    return start("--adapter", *named, "--allowed_media_dir", str(pictures / "open"), "--max_images", "3",
                 "--max_length", "400", "--max_body_bytes", "2000000", "--max_pixels", "1000000",
                 "--prefix_cache_mb", "2", VLCORE_API_KEY=KEY)
