"""The model against the release's computation, written down a second time in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from safetensors.torch import load_file
from vlcore.config import LoadConfig
from vlcore.lora import find_linear
from vlcore.resolve import Checkpoint

Tiny = Callable[..., Checkpoint]
Change = Callable[[dict[str, Any]], object]
WINDOW = 14


def load(checkpoint: Checkpoint, **settings: Any) -> Any:
    return checkpoint.call("load_model", config=LoadConfig(**({"dtype": "fp32", "device_map": "cpu"} | settings)))


class Release:
    """What a release computes for pictures, from its own tensors and `config.json`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tensors = load_file(checkpoint.folder / "model.safetensors")
        self.vision = checkpoint.config["vision_config"]["params"]
        self.aligner = checkpoint.config["aligner_config"]["params"]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return fn.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return fn.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], 1e-6)

    def patches(self, images: torch.Tensor, tower: str) -> torch.Tensor:
        weight = self.tensors[f"{tower}patch_embed.proj.weight"]
        return fn.conv2d(images, weight, self.tensors[f"{tower}patch_embed.proj.bias"], stride=weight.shape[-1])

    def siglip(self, images: torch.Tensor, tower: str, heads: int) -> torch.Tensor:
        x = self.patches(images, tower).flatten(2).transpose(1, 2) + self.tensors[f"{tower}pos_embed"]
        layer = 0
        while f"{tower}blocks.{layer}.norm1.weight" in self.tensors:
            block = f"{tower}blocks.{layer}."
            qkv = self.linear(self.norm(x, block + "norm1"), block + "attn.qkv").unflatten(-1, (3, heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v
            x = x + self.linear(mixed.transpose(1, 2).flatten(2), block + "attn.proj")
            wide = fn.gelu(self.linear(self.norm(x, block + "norm2"), block + "mlp.fc1"))
            x = x + self.linear(wide, block + "mlp.fc2")
            layer += 1
        return self.norm(x, tower + "norm")

    def attend(self, x: torch.Tensor, block: str, heads: int) -> torch.Tensor:
        """SAM's attention within squares, (squares, edge, edge, width)."""
        count, edge, _, width = x.shape
        qkv = self.linear(x, block + "qkv").reshape(count, edge * edge, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.flatten(1, 2)
        at = torch.arange(edge)[:, None] - torch.arange(edge) + edge - 1
        grid = q.unflatten(1, (edge, edge))
        rows = torch.einsum("bhwc,hkc->bhwk", grid, self.tensors[block + "rel_pos_h"][at])
        columns = torch.einsum("bhwc,wkc->bhwk", grid, self.tensors[block + "rel_pos_w"][at])
        bias = (rows[..., None] + columns[..., None, :]).reshape(q.shape[0], edge**2, edge**2)
        mixed = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v
        together = mixed.unflatten(0, (count, heads)).transpose(1, 2).reshape(count, edge, edge, width)
        return self.linear(together, block + "proj")

    def attend_windows(self, x: torch.Tensor, block: str, heads: int) -> torch.Tensor:
        """The same within windows; the map is padded with zeros to whole windows."""
        images, edge, _, width = x.shape
        more = -edge % WINDOW
        side = (edge + more) // WINDOW
        cells = fn.pad(x, (0, 0, 0, more, 0, more)).view(images, side, WINDOW, side, WINDOW, width).transpose(2, 3)
        mixed = self.attend(cells.reshape(-1, WINDOW, WINDOW, width), block, heads)
        whole = mixed.view(images, side, side, WINDOW, WINDOW, width).transpose(2, 3)
        return whole.reshape(images, edge + more, edge + more, width)[:, :edge, :edge]

    def neck(self, x: torch.Tensor, name: str) -> torch.Tensor:
        for number, padding in ((0, 0), (2, 1)):
            weight = self.tensors[f"{name}.{number}.weight"]
            x = fn.conv2d(x.permute(0, 3, 1, 2), weight, padding=padding).permute(0, 2, 3, 1)
            x = self.norm(x, f"{name}.{number + 1}")
        x = fn.interpolate(x.permute(0, 3, 1, 2), size=(96, 96), mode="bilinear", align_corners=False)
        number, convolutions = 0, name.rsplit(".", 1)[0] + ".downsamples"
        while f"{convolutions}.{number}.weight" in self.tensors:
            x = fn.conv2d(x, self.tensors[f"{convolutions}.{number}.weight"], stride=2, padding=1)
            number += 1
        return x

    def sam(self, images: torch.Tensor, tower: str, preset: dict[str, Any]) -> torch.Tensor:
        x = self.patches(images, tower).permute(0, 2, 3, 1) + self.tensors[f"{tower}pos_embed"]
        seen = []
        for layer in range(preset["layers"]):
            block = f"{tower}blocks.{layer}."
            whole = layer in preset["global_attn_indexes"]
            attend = self.attend if whole else self.attend_windows
            x = x + attend(self.norm(x, block + "norm1"), block + "attn.", preset["heads"])
            wide = fn.gelu(self.linear(self.norm(x, block + "norm2"), block + "mlp.lin1"))
            x = x + self.linear(wide, block + "mlp.lin2")
            seen += [x] if whole else []
        alpha = self.tensors[f"{tower}hd_alpha_downsamples"]
        both = self.neck(x, f"{tower}neck") + self.neck(seen[0], f"{tower}neck_hd") * alpha
        return both.flatten(2).transpose(1, 2)

    def join(self, images: torch.Tensor) -> torch.Tensor:
        """The features of both towers as `concat_type` says, the first layer of the aligner applied to a tuple."""
        low, high = self.vision["low_res_cfg"], self.vision["high_res_cfg"]
        small = fn.interpolate(images, size=(low["image_size"],) * 2, mode="bilinear", antialias=True)
        fine = self.sam(scale(images, high), "vision_model.vision_tower_high.vision_tower.", high["preset"])
        coarse = self.siglip(scale(small, low), "vision_model.vision_tower_low.vision_tower.", low["preset"]["heads"])
        joined: dict[str, Callable[[], torch.Tensor]] = {
            "tuple": lambda: torch.cat(
                [self.linear(fine, "aligner.high_up_proj"), self.linear(coarse, "aligner.low_up_proj")], -1
            ),
            "feature": lambda: torch.cat([fine, coarse], -1),
            "sequence": lambda: torch.cat([fine, coarse], 1),
            "add": lambda: fine + coarse,
        }
        return joined[self.vision["concat_type"]]()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if "low_res_cfg" in self.vision:
            x = self.join(images)
        else:
            x = self.siglip(images, "vision_model.vision_tower.", self.vision["preset"]["heads"])
        if self.aligner["projector_type"] == "identity":
            return x
        if self.aligner["projector_type"] == "linear":
            return self.linear(x, "aligner.layers")
        split = "aligner.high_up_proj.weight" in self.tensors
        first = 1 if split else 2
        x = x if split else self.linear(x, "aligner.layers.0")
        for number in range(self.aligner.get("depth", 1) - 1):
            x = self.linear(fn.gelu(x), f"aligner.layers.{first + 2 * number}")
        return x


def scale(images: torch.Tensor, tower: dict[str, Any]) -> torch.Tensor:
    return (images - torch.tensor(tower["pixel_mean"]).view(3, 1, 1)) / torch.tensor(tower["pixel_std"]).view(3, 1, 1)


def low(config: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = config["vision_config"]["params"]
    return params.get("low_res_cfg", params)  # type: ignore[no-any-return]


def high(config: dict[str, Any]) -> dict[str, Any]:
    return config["vision_config"]["params"]["high_res_cfg"]  # type: ignore[no-any-return]


def aligner(config: dict[str, Any]) -> dict[str, Any]:
    return config["aligner_config"]["params"]  # type: ignore[no-any-return]


def concatenate(kind: str, width: int) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["vision_config"]["params"]["concat_type"] = kind
        aligner(config).update(projector_type="mlp_gelu", input_dim=width)

    return change


VARIANTS: dict[str, tuple[bool, Change]] = {
    "single": (False, lambda c: None),
    "aligner of depth 1": (False, lambda c: aligner(c).update(depth=1)),
    "aligner of depth 3": (False, lambda c: aligner(c).update(depth=3)),
    "aligner of no depth": (False, lambda c: aligner(c).pop("depth")),
    "linear aligner": (False, lambda c: aligner(c).update(projector_type="linear")),
    "one layer left out": (False, lambda c: low(c).update(select_layer=-2)),
    "one layer kept": (False, lambda c: low(c).update(select_layer=1)),
    "patches that do not divide": (False, lambda c: low(c)["preset"].update(patch_size=13, mlp_ratio=3.7362)),
    "hybrid": (True, lambda c: None),
    "hybrid, aligner of depth 3": (True, lambda c: aligner(c).update(depth=3)),
    "hybrid, other channels": (True, lambda c: high(c)["preset"].update(downsample_channels=[5, 7, 9, 48])),
    "hybrid, other global layers": (True, lambda c: high(c)["preset"].update(global_attn_indexes=[0, 3], layers=4)),
    "hybrid, features side by side": (True, concatenate("feature", 96)),
    "hybrid, features in a row": (True, concatenate("sequence", 48)),
    "hybrid, features added": (True, concatenate("add", 48)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_features_are_the_releases(name: str, tiny: Tiny) -> None:
    hybrid, change = VARIANTS[name]
    checkpoint = tiny(hybrid, change)
    edge = high(dict(checkpoint.config))["image_size"] if hybrid else low(dict(checkpoint.config))["image_size"]
    images = torch.rand(2, 3, edge, edge, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load(checkpoint).get_image_features(images).pooler_output
        expected = Release(checkpoint).features(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_identity_aligner_hands_features_on(tiny: Tiny) -> None:
    def change(config: dict[str, Any]) -> None:
        aligner(config).update(projector_type="identity")
        config["language_config"]["hidden_size"] = 48

    checkpoint, images = tiny(change=change), torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        found = load(checkpoint).get_image_features(images).pooler_output
        torch.testing.assert_close(found, Release(checkpoint).features(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hybrid", [False, True])
def test_both_attention_implementations_agree(hybrid: bool, tiny: Tiny) -> None:
    images = torch.rand(1, 3, 64 if hybrid else 48, 64 if hybrid else 48)
    with torch.no_grad():
        models = [load(tiny(hybrid), attn=attn) for attn in ("eager", "sdpa")]
        eager, sdpa = (model.get_image_features(images).pooler_output for model in models)
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hybrid", [False, True])
def test_half_precision_computes_in_half_precision(hybrid: bool, tiny: Tiny) -> None:
    images = torch.rand(1, 3, 64 if hybrid else 48, 64 if hybrid else 48)
    model = load(tiny(hybrid), dtype="bf16")
    with torch.no_grad():
        features = model.get_image_features(images.bfloat16()).pooler_output
        exact = load(tiny(hybrid)).get_image_features(images).pooler_output
    assert features.dtype == torch.bfloat16
    assert (features.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("hybrid", [False, True])
def test_recomputing_activations_changes_no_gradient(hybrid: bool, tiny: Tiny) -> None:
    edge = 64 if hybrid else 48
    gradients = []
    for recompute in (False, True):
        model = load(tiny(hybrid)).train()
        if recompute:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        ids = torch.cat([torch.full((1, 36), model.config.image_token_id), torch.arange(5, 15)[None]], dim=1)
        images = torch.rand(1, 3, edge, edge, generator=torch.Generator().manual_seed(0))
        model(input_ids=ids, pixel_values=images, labels=ids).loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("hybrid", [False, True])
def test_parts_cover_every_parameter(hybrid: bool, tiny: Tiny) -> None:
    checkpoint = tiny(hybrid)
    parts = {checkpoint.parts.part_of(name) for name, _ in load(checkpoint).named_parameters()}
    assert parts == {"language", "vision", "projector"}


@pytest.mark.parametrize("hybrid", [False, True])
def test_default_adapters_go_into_the_language_models_attention_only(hybrid: bool, tiny: Tiny) -> None:
    checkpoint = tiny(hybrid)
    model = load(checkpoint)
    targets = checkpoint.call("lora_targets", model=model, choice="DEFAULT")
    layers = range(model.config.text_config.num_hidden_layers)
    expected = {f"model.language_model.layers.{i}.self_attn.{name}_proj" for i in layers for name in "qkvo"}
    assert set(targets) == expected
    every = set(find_linear(checkpoint, model, "ALL"))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert every == linear - {"lm_head"}


def test_images_and_positions_that_differ_in_number_are_an_error(tiny: Tiny) -> None:
    model = load(tiny())
    ids = torch.full((1, 35), model.config.image_token_id)
    with pytest.raises(ValueError, match="do not match"):
        model(input_ids=ids, pixel_values=torch.rand(1, 3, 48, 48))
