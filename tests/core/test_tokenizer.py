from copy import deepcopy

import pytest
from vlcore.errors import CheckpointError
from vlcore.tokenizer import HfTokenizer

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "<strips>"]


@pytest.fixture
def tokenizer(qwen_tokenizer):
    return HfTokenizer(qwen_tokenizer)


@pytest.mark.parametrize("text", ["What is this?\n\n", " A cat.", "猫 🐈", "", "  \n "])
def test_text_is_encoded_with_nothing_added_and_decoded_as_it_was(text, tokenizer):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {tokenizer.token_id(name) for name in SPECIALS}


@pytest.mark.parametrize("name", SPECIALS)
def test_typed_text_never_becomes_a_special_token(name, tokenizer):
    ids = tokenizer.encode(f"a{name}b")
    assert tokenizer.token_id(name) not in ids and len(ids) > 4
    assert tokenizer.decode(ids) == f"a{name}b"


def test_plain_encoding_leaves_the_tokenizer_as_it_was(tokenizer, qwen_tokenizer):
    before = qwen_tokenizer.encode("<|im_end|>")
    tokenizer.encode("<|im_end|>")
    assert qwen_tokenizer.encode("<|im_end|>") == before == [tokenizer.token_id("<|im_end|>")]


def test_special_tokens_are_left_out_of_decoded_text(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("A cat."), tokenizer.token_id("<|im_end|>")]) == "A cat."


def test_unknown_token_is_refused_with_the_near_name(tokenizer):
    with pytest.raises(CheckpointError, match=r"token <\|im_ends\|>: .*did you mean <\|im_end\|>"):
        tokenizer.token_id("<|im_ends|>")


def test_tokens_that_swallow_white_space_are_known(tokenizer):
    assert [name for name in SPECIALS if tokenizer.strips_after(name)] == ["<strips>"]
    assert not tokenizer.strips_after("not there")


def test_padding_is_the_pad_token_else_the_end_token_else_0(qwen_tokenizer):
    tokenizer = HfTokenizer(deepcopy(qwen_tokenizer))
    assert tokenizer.pad_id == tokenizer.token_id("<|endoftext|>")
    tokenizer.hf.pad_token = None
    assert tokenizer.pad_id == tokenizer.token_id("<|im_end|>")
    tokenizer.hf.eos_token = None
    assert tokenizer.pad_id == 0
