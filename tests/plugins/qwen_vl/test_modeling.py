from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from vlcore.batch import Example, collate
from vlcore.config import GenerateConfig
from vlcore.generate import run_batch
from vlcore.lora import find_linear
from vlcore.messages import Image, make_message, user
from vlcore.model import VLModel, load_model
from vlcore.resolve import Checkpoint
from vlcore_qwen_vl.vision import resize_positions

GREEDY = GenerateConfig(max_new_tokens=6, temperature=0)
CAT = Image(str(Path(__file__).parents[2] / "parity" / "data" / "images" / "cat_small.png"))
COFFEE = Image(str(Path(__file__).parents[2] / "parity" / "data" / "images" / "coffee.png"))


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Checkpoint]) -> VLModel:
    """Trained for 60 tokens, so that short prompts lie beyond that; weights large enough to tell faults."""
    loaded = load_model(tiny(seq_length=60, initializer_range=0.2).folder, device_map="cpu", dtype="fp32")
    loaded.module.eval()
    return loaded


@pytest.fixture(scope="module")
def examples(model: VLModel) -> Sequence[Example]:
    questions = [user("Hi"), user("What is it?", [CAT]), user("Which?" * 9, [CAT, COFFEE]), user("a b " * 60)]
    return [model.encode([question]) for question in questions]


def compute(model: VLModel, examples: Sequence[Example], side: str = "right") -> torch.Tensor:
    batch = model.place(collate(examples, model.frontend.tokenizer.pad_id, side))
    batch.pop("labels")
    with torch.no_grad():
        return model.module(**batch).logits


def test_the_prompts_lie_on_both_sides_of_the_trained_length(examples: Sequence[Example]) -> None:
    assert [len(example) > 60 for example in examples] == [False, False, True, True]
    assert max(map(len, examples)) > 120


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_computes_what_each_row_does_alone(model: VLModel, examples: Sequence[Example], side: str) -> None:
    together = compute(model, examples, side)
    for row, example in zip(together, examples, strict=True):
        kept = row[-len(example) :] if side == "left" else row[: len(example)]
        assert torch.allclose(kept, compute(model, [example])[0], atol=1e-4)


def test_a_batch_answers_as_each_row_does_alone(model: VLModel, examples: Sequence[Example]) -> None:
    alone = [run_batch(model, [example], GREEDY)[0] for example in examples]
    assert run_batch(model, examples, GREEDY) == alone


def test_positions_are_counted_from_the_mask_when_none_are_given(model: VLModel, examples: Sequence[Example]) -> None:
    batch = model.place(collate(examples[:3], model.frontend.tokenizer.pad_id, "left"))
    wanted = compute(model, examples[:3], "left")
    for name in ("labels", "position_ids"):
        batch.pop(name)
    with torch.no_grad():
        assert torch.allclose(model.module(**batch).logits, wanted, atol=1e-5)


def decode(model: VLModel, example: Example, tokens: Sequence[int]) -> torch.Tensor:
    """Logits of tokens after a prompt, one at a time with a cache."""
    batch = model.place(collate([example], 0))
    batch.pop("labels")
    rows = []
    with torch.no_grad():
        output = model.module(**batch, use_cache=True)
        for token in tokens:
            ids = torch.tensor([[token]])
            output = model.module(input_ids=ids, past_key_values=output.past_key_values, use_cache=True)
            rows.append(output.logits[0, -1])
    return torch.stack(rows)


def test_an_answer_that_crosses_the_trained_length_keeps_its_prompts_frequencies(
    model: VLModel, examples: Sequence[Example]
) -> None:
    tokens, start = list(range(30, 60)), examples[1]
    assert len(start) <= 60 < len(start) + len(tokens)
    stepwise = decode(model, start, tokens)
    config = model.module.config.text_config
    whole = model.place(collate([start], 0))
    ids = torch.cat([whole["input_ids"], torch.tensor([tokens])], dim=1)
    config.use_dynamic_ntk = False
    try:
        with torch.no_grad():
            logits = model.module(input_ids=ids, pixel_values=whole["pixel_values"]).logits[0, -len(tokens) :]
    finally:
        config.use_dynamic_ntk = True
    assert torch.allclose(stepwise, logits, atol=1e-4)
    with torch.no_grad():
        stretched = model.module(input_ids=ids, pixel_values=whole["pixel_values"]).logits[0, -len(tokens) :]
    assert not torch.allclose(stepwise, stretched, atol=1e-2)


def test_one_conversation_does_not_change_another(model: VLModel, examples: Sequence[Example]) -> None:
    short, long = examples[1], examples[3]
    before = decode(model, short, [40, 41, 42])
    decode(model, long, [40])
    compute(model, [long])
    assert torch.equal(decode(model, short, [40, 41, 42]), before)


def test_answers_with_and_without_a_cache_agree_within_the_trained_length(model: VLModel, examples) -> None:
    from transformers import GenerationConfig

    batch = model.place(collate([examples[0]], 0))
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (
        model.module.generate(batch["input_ids"], generation_config=GenerationConfig(**settings, use_cache=use))
        for use in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_the_id_of_image_positions_may_be_generated(model: VLModel, examples: Sequence[Example]) -> None:
    batch = model.place(collate([examples[1]], 0))
    padding = torch.tensor([[model.frontend.media.image_token_id]])
    ids, pixels = torch.cat([batch["input_ids"], padding], dim=1), batch["pixel_values"]
    with torch.no_grad():
        longer, plain = (model.module(each, pixel_values=pixels).logits for each in (ids, ids[:, :-1]))
    assert torch.allclose(longer[:, :-1], plain, atol=1e-5)


def test_pictures_in_ids_and_pixels_must_agree(model: VLModel, examples: Sequence[Example]) -> None:
    batch = model.place(collate([examples[2]], 0))
    with pytest.raises(ValueError, match="2 pictures, the pixels 1"):
        model.module(batch["input_ids"], pixel_values=batch["pixel_values"][:1])
    with pytest.raises(ValueError, match="0 pictures, the pixels 1"):
        model.module(torch.tensor([[1, 2]]), pixel_values=batch["pixel_values"][:1])


def test_a_picture_changes_what_follows_it_and_features_have_the_promised_shape(model: VLModel) -> None:
    cat, coffee = (model.encode([user("What is it?", [picture])]) for picture in (CAT, COFFEE))
    features = model.compute_features(cat)
    assert features.shape == (1, 16, 128)
    assert cat.ids == coffee.ids and not torch.allclose(compute(model, [cat]), compute(model, [coffee]))


def test_text_after_a_picture_does_not_change_its_features(model: VLModel) -> None:
    one, two = model.encode([user("a", [CAT])]), model.encode([user("b" * 50, [CAT, CAT])])
    assert torch.allclose(model.compute_features(one)[0], model.compute_features(two)[1], atol=1e-6)


def test_loss_is_over_the_given_number_of_tokens(model: VLModel) -> None:
    row = model.encode([user("a", [CAT]), make_message("assistant", "bc")], train=True)
    batch = model.place(collate([row], 0))
    trained = sum(label >= 0 for label in row.labels)
    with torch.no_grad():
        mean = float(model.module(**batch).loss)
        half = float(model.module(**batch, num_items_in_batch=torch.tensor(2 * trained)).loss)
    assert half == pytest.approx(mean / 2)


def test_checkpointed_gradients_equal_plain_ones_and_reach_every_part(model: VLModel) -> None:
    row = model.encode([user("a", [CAT]), make_message("assistant", "bc")], train=True)
    batch, module = model.place(collate([row], 0)), model.module.train()
    found = []
    try:
        for _ in range(2):
            module.zero_grad()
            module(**batch, use_cache=False).loss.backward()
            found.append({name: parameter.grad.clone() for name, parameter in module.named_parameters()})
            module.activation_checkpointing_enable({"use_reentrant": False})
    finally:
        module.activation_checkpointing_disable()
        module.zero_grad()
        module.eval()
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys() == dict(module.named_parameters()).keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-5) for name in plain)


def test_eager_attention_computes_what_sdpa_does(model: VLModel, examples: Sequence[Example]) -> None:
    expected = compute(model, examples)
    model.module.set_attn_implementation("eager")
    try:
        assert torch.allclose(compute(model, examples), expected, atol=1e-4)
    finally:
        model.module.set_attn_implementation("sdpa")


def test_default_adapters_are_on_what_was_fused_and_all_reaches_every_linear_layer(model: VLModel) -> None:
    default = find_linear(model.checkpoint, model.module, "DEFAULT")
    assert {name.rsplit(".", 1)[0] for name in default} == {
        f"model.language_model.layers.{layer}.self_attn" for layer in range(2)}
    assert {name.rsplit(".", 1)[1] for name in default} == {"q_proj", "k_proj", "v_proj"}
    linear = {name for name, module in model.module.named_modules() if isinstance(module, nn.Linear)}
    assert set(find_linear(model.checkpoint, model.module, "ALL")) == linear - {"lm_head"}


def test_low_precision_answers_with_its_own_dtype(tiny) -> None:
    loaded = load_model(tiny(seq_length=60).folder, device_map="cpu", dtype="bf16")
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.chat("What is it? " * 12, [CAT.source], settings=GREEDY).usage.completion_tokens


def test_equal_grids_keep_their_positions_and_others_are_resized_in_float32() -> None:
    table = torch.randn(16, 8)
    assert resize_positions(table, 4) is table
    low = resize_positions(table.bfloat16(), 6)
    assert low.shape == (36, 8) and low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), resize_positions(table.bfloat16().float(), 6), atol=1e-2)
