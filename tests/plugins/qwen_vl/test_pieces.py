from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from vlcore.errors import CheckpointError
from vlcore.template import split_tokens
from vlcore_qwen_vl.pieces import CUT, GROUNDING, SPECIALS, QwenTokenizer, read_ranks

#: The real vocabulary with what the release makes of many strings; it may lie beside the repository.
REAL = Path(__file__).parents[4] / "shared" / "parity" / "qwen_vl" / "real_tokenizer"
TEXTS = (
    "", "What is it?", "  two  spaces\n\n\nlines \t tab ", "é café", "数字12345，图中有四只羊。", "I'M it's we'LL",
    "😀👨‍👩‍👧 한국어 नमस्ते", "<|im_end|> <box> <img>", "a" * 3000, "\x00\x7f\ud800 lone surrogate",
)


@pytest.fixture
def ranks(recorded: Any) -> dict[bytes, int]:
    return read_ranks(recorded.folder / "qwen.tiktoken", 0)


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_has_the_ids_of_tiktoken_on_the_composed_form(text: str, ranks: dict[bytes, int]) -> None:
    plain = tiktoken.Encoding("plain", pat_str=CUT, mergeable_ranks=ranks, special_tokens={})
    tokenizer = QwenTokenizer(ranks)
    assert tokenizer.encode(text) == plain.encode_ordinary(unicodedata.normalize("NFC", text))
    assert max(tokenizer.encode(text), default=0) < len(ranks)


def test_text_comes_back_from_its_ids(ranks: dict[bytes, int]) -> None:
    tokenizer = QwenTokenizer(ranks)
    assert all(tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text) for text in TEXTS[:-1])


def test_special_tokens_follow_the_pieces_in_the_order_of_the_release(ranks: dict[bytes, int]) -> None:
    tokenizer, first = QwenTokenizer(ranks), len(ranks)
    offsets = {"<|endoftext|>": 0, "<|im_end|>": 2, "<|extra_0|>": 3, "<|extra_204|>": 207}
    offsets |= {"<ref>": 208, "<imgpad>": 216}
    assert {name: tokenizer.token_id(name) - first for name in offsets} == offsets
    assert tokenizer.pad_id == first and not tokenizer.strips_after("<box>")
    with pytest.raises(CheckpointError, match="did you mean <box>"):
        tokenizer.token_id("<boxx>")


def test_decoding_leaves_out_what_ends_an_answer_and_names_other_special_tokens(ranks: dict[bytes, int]) -> None:
    tokenizer = QwenTokenizer(ranks)
    ids = [tokenizer.token_id(name) for name in ("<ref>", "<|extra_7|>", "<imgpad>", "<|im_end|>", "<|endoftext|>")]
    assert tokenizer.decode(ids) == "<ref><|extra_7|><imgpad>"
    base = QwenTokenizer(ranks, ends=("<|endoftext|>",))
    assert base.decode(ids) == "<ref><|extra_7|><imgpad><|im_end|>"


def test_an_image_is_decoded_with_its_path_and_an_open_one_as_it_stands(ranks: dict[bytes, int]) -> None:
    tokenizer = QwenTokenizer(ranks)
    start, end, pad = map(tokenizer.token_id, ("<img>", "</img>", "<imgpad>"))
    path = list("猫.png".encode())
    assert tokenizer.decode([start, *path, *[pad] * (256 - len(path)), end]) == "<img>猫.png</img>"
    assert tokenizer.decode([start, *b"x" * 256, end]) == f"<img>{'x' * 256}</img>"
    assert tokenizer.decode([start, *[pad] * 256, end]) == "<img></img>"
    assert tokenizer.decode([start, *tokenizer.encode("open")]) == "<img>open"
    assert tokenizer.decode([start, 700, end]).startswith("<img>")


def test_ids_beyond_the_vocabulary_decode_to_nothing_and_broken_bytes_to_a_mark(ranks: dict[bytes, int]) -> None:
    tokenizer = QwenTokenizer(ranks)
    assert tokenizer.decode([len(ranks) + len(SPECIALS), 10**6]) == ""
    assert tokenizer.decode(tokenizer.encode("貓")[:-1]) == "\ufffd"


def test_a_damaged_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "qwen.tiktoken"
    path.write_text("not base64! 7\n")
    with pytest.raises(CheckpointError, match="qwen.tiktoken"):
        read_ranks(path, 0)


def encode_marked(tokenizer: QwenTokenizer, text: str, special: tuple[str, ...]) -> list[int]:
    """Ids where special strings count as their tokens and an image's positions hold its path's bytes."""
    ids: list[int] = []
    for piece in re.split(r"(<img>.*?</img>)", unicodedata.normalize("NFC", text), flags=re.DOTALL):
        if piece.startswith("<img>"):
            path = piece[5:-6].encode()
            fill = [tokenizer.token_id("<imgpad>")] * (256 - len(path))
            ids += [tokenizer.token_id("<img>"), *path, *fill, tokenizer.token_id("</img>")]
        else:
            for segment in split_tokens(piece, special):
                plain = segment.kind == "text"
                ids += tokenizer.encode(segment.text) if plain else [tokenizer.token_id(segment.text)]
    return ids


def read_real() -> list[dict[str, Any]]:
    return [json.loads((REAL / "cases.json").read_text("utf8"))] if REAL.is_dir() else []


def test_every_recorded_string_of_the_real_vocabulary_is_encoded_and_decoded_as_by_the_release() -> None:
    for cases in read_real():
        tokenizer = QwenTokenizer(read_ranks(REAL / "qwen.tiktoken", 0), ends=())
        assert all(tokenizer.token_id(name) == number for name, number in cases["special_tokens"].items())
        for case in cases["encode"]:
            assert encode_marked(tokenizer, case["text"], SPECIALS) == case["ids"]
            chat = encode_marked(tokenizer, case["text"], (*GROUNDING, "<img>", "</img>", "<imgpad>"))
            assert chat == case.get("ids_chat", case["ids"])
        for case in (*cases["encode"], *cases["decode"]):
            assert tokenizer.decode(case["ids"]) == case.get("decoded", tokenizer.decode(case["ids"]))
