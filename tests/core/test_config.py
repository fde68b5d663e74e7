from pathlib import Path

import pytest
from vlcore.config import (
    DataConfig,
    GenerateConfig,
    InferConfig,
    LoadConfig,
    LoraConfig,
    SftConfig,
    TrainConfig,
    complete,
    list_options,
    pick,
    read_config,
    write_config,
)
from vlcore.errors import UsageError

CONFIGS = [LoadConfig, GenerateConfig, DataConfig, LoraConfig, TrainConfig, InferConfig, SftConfig]


@pytest.mark.parametrize("kind", CONFIGS)
def test_written_configuration_is_read_back_as_it_was(kind):
    assert read_config(kind, write_config(kind())) == kind()


def test_written_configuration_is_plain_and_keeps_what_was_set():
    config = SftConfig(model="m", dataset=("a", "b"), learning_rate=1e-5, use_flash_attn=True, option=("max_num=6",))
    written = write_config(config)
    assert written["dataset"] == ["a", "b"] and written["learning_rate"] == 1e-5
    assert read_config(SftConfig, written) == config


def test_unknown_keys_are_refused_together_with_near_names():
    with pytest.raises(UsageError) as caught:
        read_config(SftConfig, {"lora_rnk": 4, "bach_size": 2})
    assert "lora_rnk: did you mean lora_rank" in str(caught.value)
    assert "bach_size: did you mean batch_size" in str(caught.value)


def test_all_faulty_values_are_in_one_error():
    with pytest.raises(UsageError) as caught:
        SftConfig(
            lora_rank=0, batch_size="many", dtype="fp8", lora_dropout_p=2.0, dataset="a.jsonl")
    for part in (
        "lora_rank is 0, it takes at least 1",
        "batch_size is 'many', it takes a whole number",
        "dtype is 'fp8', it takes auto or fp32 or bf16 or fp16",
        "lora_dropout_p is 2.0, it takes at most 1",
        "dataset is 'a.jsonl', it takes a list",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [True, 1.5, None, "3"])
def test_whole_number_is_no_truth_no_fraction_no_text(value):
    with pytest.raises(UsageError, match="lora_rank"):
        LoraConfig(lora_rank=value)


def test_number_that_is_none_stays_unset_and_nan_is_refused():
    assert GenerateConfig(temperature=None).temperature is None
    with pytest.raises(UsageError, match="temperature"):
        GenerateConfig(temperature=float("nan"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_repetition_penalty_is_above_0(value):
    with pytest.raises(UsageError, match="repetition_penalty is .*, it takes more than 0"):
        GenerateConfig(repetition_penalty=value)


def test_lists_and_paths_are_taken_in_a_fields_own_form():
    config = SftConfig(model=Path("folder"), dataset=["a.jsonl", Path("b.jsonl")])
    assert (config.model, config.dataset) == ("folder", ("a.jsonl", "b.jsonl"))


@pytest.mark.parametrize("bits", [1, 3, 16])
def test_quantization_has_4_and_8_bits(bits):
    with pytest.raises(UsageError, match=f"quantization_bit {bits}"):
        LoadConfig(quantization_bit=bits)


def test_full_training_of_quantized_weights_is_refused():
    with pytest.raises(UsageError, match="--sft_type lora"):
        SftConfig(sft_type="full", quantization_bit=4)


def test_rows_of_a_training_need_its_checkpoint():
    with pytest.raises(UsageError, match="--ckpt_dir"):
        InferConfig(load_dataset_config=True)


def test_family_options_are_pairs():
    assert LoadConfig(option=("max_num=6", "name=a=b", "empty=")).family_options == {
        "max_num": "6", "name": "a=b", "empty": ""}
    with pytest.raises(UsageError, match=r"--option max_num: .*NAME=VALUE"):
        _ = LoadConfig(option=("max_num",)).family_options


@pytest.mark.parametrize(("given", "attention"), [(None, "eager"), (True, "flash_attention_2"), (False, "sdpa")])
def test_use_flash_attn_is_short_for_an_attention(given, attention):
    assert LoadConfig(attn="eager", use_flash_attn=given).attention == attention


def test_smaller_configuration_is_picked_from_a_larger_one():
    assert pick(LoadConfig, SftConfig(model="m", lora_rank=4)) == LoadConfig(model="m")


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_has_help_and_no_two_share_a_spelling(kind):
    spellings = [name for item, _, _ in list_options(kind) for name in (item.name, *item.metadata["aliases"])]
    assert len(spellings) == len(set(spellings))
    assert all(item.metadata["help"].endswith(".") for item, _, _ in list_options(kind))


def test_only_unset_fields_are_completed():
    given = GenerateConfig(temperature=0.0)
    assert complete(given, {"temperature": 0.2, "top_p": 0.7}) == GenerateConfig(temperature=0.0, top_p=0.7)
