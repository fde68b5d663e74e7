from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from vlcore.batch import collate
from vlcore.config import GenerateConfig, LoadConfig
from vlcore.generate import run_batch
from vlcore.messages import Message, make_message, user
from vlcore.model import VLModel, build_frontend
from vlcore.resolve import Checkpoint
from vlcore.shards import read_tensors
from vlcore_yi_vl.family import find_vision

Make = Callable[..., Checkpoint]
Photo = Callable[[str], Path]
CPU = LoadConfig(dtype="fp32", device_map="cpu")


@pytest.fixture(scope="module")
def model(recorded: Checkpoint) -> VLModel:
    return open_vl(recorded)


def open_vl(checkpoint: Checkpoint) -> VLModel:
    return VLModel(build_frontend(checkpoint), checkpoint.call("load_model", config=CPU))


def ask(text: str, *images: Path) -> list[Message]:
    return [user(text, images)]


@pytest.mark.parametrize("kind", ["6b", "34b"])
def test_logits_are_those_of_transformers_own_llama_and_clip(kind: str, tiny: Make, photo: Photo) -> None:
    """The release's order of operations, spelt out, with the weights read by their names in the release."""
    from transformers import CLIPVisionModel, LlamaForCausalLM

    checkpoint = tiny(kind)
    ours = open_vl(checkpoint)
    vision = CLIPVisionModel.from_pretrained(find_vision(checkpoint.config, checkpoint.folder))
    language = LlamaForCausalLM(ours.module.config.text_config).eval()
    ending = "safetensors" if kind == "6b" else "bin"
    main = {n: t for path in checkpoint.folder.glob(f"*.{ending}") for n, t in read_tensors(path).items()}
    language.load_state_dict({n: t for n, t in main.items() if not n.startswith(("model.vision", "model.mm_"))})

    example = ours.encode(ask("What is it?", photo("cat"), photo("coffee")))
    logits, _ = ours.compute_logits(example)
    with torch.no_grad():
        hidden = vision(ours.place(example.pixels)["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
        for at in (0, 3):
            weight, bias, scale, shift = (
                main[f"model.mm_projector.{n}"]
                for n in (f"{at}.weight", f"{at}.bias", f"{at + 1}.weight", f"{at + 1}.bias")
            )
            hidden = torch.nn.functional.gelu(hidden) if at else hidden
            hidden = torch.nn.functional.linear(hidden, weight, bias)
            hidden = torch.nn.functional.layer_norm(hidden, scale.shape, scale, shift)
        ids = torch.tensor(example.ids)
        embeds = language.model.embed_tokens(ids.clamp(min=0))
        embeds[ids == -200] = hidden.flatten(0, 1)
        expected = language(inputs_embeds=embeds[None]).logits[0]
    torch.testing.assert_close(ours.compute_features(example), hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def conversations(photo: Photo) -> list[list[Message]]:
    history = [*ask("What is it?", photo("cat")), make_message("assistant", "A cat.")]
    return [
        ask("Hello"),
        ask("What is different?", photo("rocket"), photo("cat")),
        [*history, *ask("And what is this, in some more words?", photo("coffee"))],
    ]


@pytest.mark.parametrize(
    "settings", [GenerateConfig(), GenerateConfig(num_beams=3), GenerateConfig(repetition_penalty=1.3)]
)
def test_a_batch_answers_as_its_rows_do_alone(settings: GenerateConfig, model: VLModel, photo: Photo) -> None:
    settings = GenerateConfig(**{**vars(settings), "temperature": 0, "max_new_tokens": 8})
    examples = [model.encode(messages) for messages in conversations(photo)]
    together = run_batch(model, examples, settings)
    assert together == [run_batch(model, [example], settings)[0] for example in examples]


def logits_of(model: VLModel, messages: Sequence[Sequence[Message]], side: str) -> torch.Tensor:
    batch = model.place(collate([model.encode(m) for m in messages], 0, side=side))
    batch.pop("labels")
    with torch.no_grad():
        output: torch.Tensor = model.module(**batch).logits
    return output


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logits(side: str, model: VLModel, photo: Photo) -> None:
    rows = conversations(photo)
    batch = logits_of(model, rows, side)
    for number, messages in enumerate(rows):
        alone = logits_of(model, [messages], side)[0]
        found = batch[number, -len(alone) :] if side == "left" else batch[number, : len(alone)]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


def test_generating_from_the_cache_gives_the_logits_of_the_whole(model: VLModel, photo: Photo) -> None:
    example = model.encode(conversations(photo)[2])
    ids = torch.tensor([example.ids])
    new, pixels = torch.tensor([[3, 4, 5]]), model.place(example.pixels)
    with torch.no_grad():
        whole = model.module(input_ids=torch.cat([ids, new], 1), **pixels).logits[:, -3:]
        cache = model.module(input_ids=ids, **pixels, use_cache=True).past_key_values
        parts = model.module(input_ids=new, past_key_values=cache).logits
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_image_positions_and_pictures_must_agree_in_number(model: VLModel, photo: Photo) -> None:
    example = model.encode(ask("What?", photo("cat")))
    ids = torch.tensor([example.ids])
    with pytest.raises(ValueError, match="16 image positions for 0 features"):
        model.module(input_ids=ids)
    with pytest.raises(ValueError, match="16 image positions for 32 features"):
        model.module(input_ids=ids, pixel_values=model.place(example.pixels)["pixel_values"].repeat(2, 1, 1, 1))


def test_the_loss_is_a_share_of_the_tokens_it_is_told(model: VLModel, photo: Photo) -> None:
    example = model.encode([*ask("What?", photo("cat")), make_message("assistant", "A cat.")], train=True)
    batch = model.place(collate([example], 0))
    trained = sum(label >= 0 for label in example.labels)
    with torch.no_grad():
        mean, half = model.module(**batch).loss, model.module(**batch, num_items_in_batch=2 * trained).loss
    assert float(half) == pytest.approx(float(mean) / 2)


def test_gradients_with_and_without_recomputing_are_equal(tiny: Make, photo: Photo) -> None:
    ours = open_vl(tiny())
    example = ours.encode([*ask("What?", photo("cat")), make_message("assistant", "A cat.")], train=True)
    batch = ours.place(collate([example], 0))
    found: list[dict[str, Any]] = []
    for recompute in (False, True):
        ours.module.zero_grad()
        ours.module.train()
        if recompute:
            ours.module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        ours.module(**batch, use_cache=False).loss.backward()
        found.append({n: p.grad.clone() for n, p in ours.module.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(grad, found[1][name], atol=1e-6) for name, grad in found[0].items())
    unused = {name for name, _ in ours.module.named_parameters()} - found[0].keys()
    assert all(name.startswith(("model.vision_tower.encoder.layers.2.", "model.vision_tower.post_")) for name in unused)


def part_of(model: VLModel, name: str) -> str | None:
    return model.checkpoint.parts.part_of(name)


def test_default_targets_are_the_language_model_s_attention_and_all_reaches_every_part(tiny: Make) -> None:
    ours = open_vl(tiny())
    default = ours.checkpoint.call("lora_targets", model=ours.module, choice="DEFAULT")
    assert {name.split(".")[-1] for name in default} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(default) == 8 and all(name.startswith("model.language_model.") for name in default)
    every = ours.checkpoint.call("lora_targets", model=ours.module, choice="ALL")
    assert {part_of(ours, name) for name in every} == {"language", "vision", "projector"}
    assert "lm_head" not in every and "model.multi_modal_projector.3" in every


def test_a_deeper_projector_is_built_as_the_release_names_it(tiny: Make) -> None:
    ours = open_vl(tiny(mm_projector_type="mlp3x_gelu_Norm"))
    kinds = [type(part).__name__ for part in ours.module.model.multi_modal_projector]
    assert kinds == ["Linear", "LayerNorm", *("GELU", "Linear", "LayerNorm") * 2]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(attention: str, tiny: Make, photo: Photo) -> None:
    checkpoint = tiny()
    config = LoadConfig(dtype="fp32", device_map="cpu", attn=attention)  # type: ignore[arg-type]
    chosen = VLModel(build_frontend(checkpoint), checkpoint.call("load_model", config=config))
    messages = ask("What is it?", photo("cat"))
    expected = logits_of(open_vl(checkpoint), [messages], "left")
    torch.testing.assert_close(logits_of(chosen, [messages], "left"), expected, atol=1e-5, rtol=1e-4)


def test_half_precision_answers(tiny: Make, photo: Photo) -> None:
    checkpoint = tiny()
    half = VLModel(
        build_frontend(checkpoint), checkpoint.call("load_model", config=LoadConfig(dtype="bf16", device_map="cpu"))
    )
    reply = half.chat("What is it?", [photo("cat")], settings=GenerateConfig(max_new_tokens=4))
    assert reply.usage.image_tokens == 16
