"""Ids of texts in the middle of a prompt, for vocabularies that put a space before texts."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from vlcore.native.tokenizer import NativeTokenizer, find_spaces

SPACE = "\u2581"
WAYS = ("prepend", "always", "first", "never", "letters")


def make_tokenizer(way: str) -> PreTrainedTokenizerFast:
    """A small vocabulary of Llama's kind, or of bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if way == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    elif way == "letters":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=way, split=False)
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=["<unk>"], max_token_length=5,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["a cat, two cats"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False), AddedToken("</s>", normalized=False)])
    tokenizer.add_tokens([AddedToken("<video>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("way", WAYS)
def test_pieces_of_a_prompt_have_the_ids_of_the_whole(way: str) -> None:
    hf = make_tokenizer(way)
    tokenizer = NativeTokenizer(hf)
    image = tokenizer.token_id("<image>")
    for first, second in (("a cat", "two cats"), (" a cat ", " two"), ("cat", "")):
        whole = hf.encode(f"{first}<image>{second}", add_special_tokens=False)
        assert [*tokenizer.encode(first), image, *(tokenizer.encode_behind(second, False) if second else ())] == whole


@pytest.mark.parametrize("way", WAYS)
def test_a_text_behind_a_text_gets_no_space_of_its_own(way: str) -> None:
    tokenizer = NativeTokenizer(make_tokenizer(way))
    tokens = tokenizer.hf.convert_ids_to_tokens(tokenizer.encode_behind("cat", True))
    assert "".join(tokens) == "cat"


@pytest.mark.parametrize("way", WAYS)
def test_placeholders_that_are_typed_are_spelled(way: str) -> None:
    tokenizer = NativeTokenizer(make_tokenizer(way), ["<image>", "<video>"])
    marks = {tokenizer.token_id("<image>"), tokenizer.token_id("<video>")}
    for ids in (tokenizer.encode("a <video> <image> <video>"), tokenizer.encode_behind("<video>", True),
                tokenizer.encode_behind("cat<video>", False)):
        assert not marks & set(ids)
        assert len(ids) > 5


def test_the_way_is_read_from_the_pipeline() -> None:
    found = {way: find_spaces(make_tokenizer(way)) for way in WAYS}
    assert found == {"prepend": "always", "always": "always", "first": "first", "never": "", "letters": "always"}
    sequence: Any = make_tokenizer("never")
    steps = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Metaspace(SPACE, "first")])
    sequence.backend_tokenizer.pre_tokenizer = steps
    assert find_spaces(sequence) == "first"
