"""Caches of what was learnt about data sources: where they lie, what they survive."""

import os
from pathlib import Path

import numpy as np
import pytest
from vlcore.dataset import cache
from vlcore.dataset.cache import digest_file, list_places, make_key, read_arrays, write_arrays

ARRAYS = {"lengths": np.arange(5), "empty": np.empty(0, np.uint8)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "vlcore"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text("{}\n")
    return path


def test_what_was_written_is_read_under_the_same_kind_and_key_alone(source: Path) -> None:
    written = write_arrays(source, "index", "a", ARRAYS)
    assert written == source.parent / ".vlcore" / "rows.jsonl.index-a.npz"
    found = read_arrays(source, "index", "a")
    assert found is not None and found.keys() == ARRAYS.keys()
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    assert read_arrays(source, "index", "b") is None and read_arrays(source, "forecast", "a") is None


def test_the_users_cache_folder_serves_where_the_folder_cannot_be_written(source: Path, home: Path) -> None:
    (source.parent / ".vlcore").write_text("a file in the way")
    assert write_arrays(source, "index", "a", ARRAYS) == home / "rows.jsonl.index-a.npz"
    (source.parent / ".vlcore").unlink()
    assert read_arrays(source, "index", "a") is not None


def test_a_source_that_is_no_path_is_kept_in_the_users_cache_folder(home: Path) -> None:
    assert write_arrays("HF::owner/name:en", "forecast", "a", ARRAYS) == home / "name_en.forecast-a.npz"
    assert not Path("HF::owner").exists()


def test_no_folder_to_write_is_no_fault(source: Path, home: Path) -> None:
    (source.parent / ".vlcore").write_text("")
    home.parent.write_text("")
    assert write_arrays(source, "index", "a", ARRAYS) is None
    assert read_arrays(source, "index", "a") is None


def test_home_is_used_without_a_cache_folder_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/path/counts/as/unset")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert list_places("name", "index", "a") == [tmp_path / ".cache" / "vlcore" / "name.index-a.npz"]


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_cache_counts_as_absent(source: Path, damage: bytes | None) -> None:
    path = write_arrays(source, "index", "a", ARRAYS)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert read_arrays(source, "index", "a") is None
    assert write_arrays(source, "index", "a", ARRAYS) == path
    assert read_arrays(source, "index", "a") is not None


def test_a_cache_with_objects_is_not_unpickled(source: Path) -> None:
    path = write_arrays(source, "index", "a", ARRAYS)
    assert path is not None
    np.savez(path, bad=np.array([{"an": "object"}], dtype=object))
    assert read_arrays(source, "index", "a") is None


def test_only_the_newest_of_a_kind_are_kept(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    other = write_arrays(source, "forecast", "x", ARRAYS)
    for number, key in enumerate("abc"):
        path = write_arrays(source, "index", key, ARRAYS)
        assert path is not None
        os.utime(path, (number, number))
    write_arrays(source, "index", "d", ARRAYS)
    left = {path.name for path in (source.parent / ".vlcore").iterdir()}
    assert other is not None and left == {other.name, "rows.jsonl.index-c.npz", "rows.jsonl.index-d.npz"}


def test_the_digest_follows_the_content(source: Path) -> None:
    first = digest_file(source)
    source.write_text("{} \n")
    assert digest_file(source) != first
    source.write_text("{}\n")
    assert digest_file(source) == first


def test_a_key_follows_every_part_of_it() -> None:
    keys = {make_key("a", 1), make_key("a", "1"), make_key("a1"), make_key("a", number=1), make_key("a", None)}
    assert len(keys) == 5
