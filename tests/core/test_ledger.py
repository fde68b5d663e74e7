from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image as Picture
from vlcore.dataset import ReadOptions, Source, open_rows
from vlcore.ledger import COUNTS, digest_frontend, make_ledger_key, read_ledger, stamp_media, write_ledger
from vlcore.messages import Image, Video, make_message
from vlcore.model import Frontend

OpenFrontend = Callable[[str], Frontend]
DIGEST = """
import sys
from vlcore.config import LoadConfig
from vlcore.ledger import digest_frontend
from vlcore.model import build_frontend
from vlcore.resolve import resolve_model
print(digest_frontend(build_frontend(resolve_model(LoadConfig(model=sys.argv[1], model_type=sys.argv[2])))))
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": "a", "response": "b"}) + "\n" for _ in range(3)))
    return open_rows([str(path)]).sources[0]


@pytest.mark.parametrize("model", ["internvl2-2b", "yi-vl-6b-chat", "qwen-vl-chat", "deepseek-vl-7b-chat"])
def test_a_frontend_has_the_same_digest_in_every_process(open_frontend: OpenFrontend, model: str) -> None:
    frontend = open_frontend(model)
    command = [sys.executable, "-c", DIGEST, str(frontend.checkpoint.folder), model]
    done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_frontend(frontend)


def test_another_tokenizer_or_option_is_another_digest(open_frontend: OpenFrontend) -> None:
    frontend = open_frontend("internvl2-2b")
    digest = digest_frontend(frontend)
    assert digest_frontend(replace(frontend, options={"max_num": 2})) != digest
    settings = frontend.checkpoint.folder / "tokenizer_config.json"
    before = settings.read_text()
    settings.write_text(before + " ")
    assert digest_frontend(frontend) != digest
    settings.write_text(before)
    assert digest_frontend(frontend) == digest


def test_a_key_depends_on_content_and_reading_and_not_on_the_seed(source: Source) -> None:
    def key(**options: object) -> str:
        return make_ledger_key(Source(source.records, ReadOptions(**options)), "digest")  # type: ignore[arg-type]

    assert key(seed=1, train=False, check_media=False) == key()
    assert len({key(), key(system="a"), key(image_folder="b"), key(place="turns"), key(tags=("<pic>",))}) == 5


def test_counts_are_read_as_they_were_written(source: Source) -> None:
    counts = numpy.zeros(3, COUNTS)
    counts["known"], counts["text"], counts["stamp"] = True, (7, 8, 9), 2**64 - 1
    assert not read_ledger(source, "0" * 32)[0]["known"].any()
    write_ledger(source, "0" * 32, counts, ["[]", '["id"]'])
    read, unread = read_ledger(source, "0" * 32)
    assert numpy.array_equal(read, counts)
    assert unread == ["[]", '["id"]']


def test_a_stamp_changes_with_the_files_of_media(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Picture.new("RGB", (4, 4)).save(path)
    messages = [make_message("user", [Image(path), Image("https://example.com/b.png"), Image(b"bytes")])]
    film = [make_message("user", [Video(frames=(Image(path),))])]
    before = stamp_media(messages)
    assert before == stamp_media(messages) != 0
    assert stamp_media(film) == before
    assert stamp_media([make_message("user", [Image("https://example.com/b.png"), "text"])]) == 0
    os.utime(path, ns=(5, 5))
    assert stamp_media(messages) not in (before, 0)
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        stamp_media(messages)
