"""A tiny random checkpoint of either kind in the release's own layout, its tokenizer made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.resolve import Checkpoint

from vlcore_deepseek_vl.family import FAMILY, MODEL_TYPE
from vlcore_deepseek_vl.media import CLIP_MEAN, CLIP_STD
from vlcore_deepseek_vl.template import SYSTEM

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BOS, EOS, IMAGE = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<image_placeholder>"
#: Single characters that follow BOS and EOS in the release's vocabulary. They are those that would stand for
#: bytes no UTF-8 text has, and the byte-level alphabet lacks them.
CHARACTERS = "øöúÿõ÷ûýÀùÁþü"
HALF = [0.5, 0.5, 0.5]
#: Grid of image positions, and the edge of a picture in pixels before SigLIP and before SAM.
GRID, LOW_EDGE, HIGH_EDGE = 6, 48, 64
WIDTH, HIDDEN = 48, 64


def write_tiny(
    folder: Path,
    texts: Sequence[str] = (),
    seed: int = 0,
    *,
    hybrid: bool = False,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint that loads like a release and knows nothing.

    Args:
        folder: an existing folder.
        texts: texts that the tokenizer should spell in few tokens.
        seed: of the random weights.
        hybrid: the 7B's kind, with SAM beside SigLIP; else the 1.3B's.
        config: another `config.json`, as `tiny_config` makes it.
    """
    tokenizer = train_tokenizer([*texts, SYSTEM, "User: Assistant:"], with_image=not hybrid)
    size = tokenizer.get_vocab_size() + hybrid
    given = dict(config or tiny_config(hybrid))
    given["language_config"] = {**given["language_config"], "vocab_size": (size + 63) // 64 * 64}
    files: dict[str, Mapping[str, Any]] = {
        "config.json": given,
        "preprocessor_config.json": preprocessor_config(hybrid),
        "processor_config.json": {
            "add_special_token": False, "ignore_id": -100, "image_tag": IMAGE, "mask_prompt": True,
            "num_image_tokens": GRID**2, "processor_class": "VLChatProcessor", "sft_format": "deepseek",
        },
        "tokenizer_config.json": {
            "add_bos_token": True, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS,
            "clean_up_tokenization_spaces": False, "model_max_length": 16384, "tokenizer_class": "LlamaTokenizer",
            "unk_token": None,
        },
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_weights(folder, given, seed)


def tiny_config(hybrid: bool) -> dict[str, Any]:
    """`config.json` of a tiny model; its towers bring the table's entry along as `preset`."""
    low = {
        "model_name": "siglip_tiny", "image_size": LOW_EDGE, "select_feature": "same", "select_layer": -1,
        "preset": {"patch_size": LOW_EDGE // GRID, "width": WIDTH, "layers": 2, "heads": 3, "mlp_ratio": 4},
    }
    vision = {"cls": "CLIPVisionTower", "model_type": "vision", "params": low}
    if hybrid:
        # Four convolutions take SAM's map of 96 to 6, SigLIP's grid; the 7B has two and 24.
        high = {
            "model_name": "sam_tiny", "image_size": HIGH_EDGE, "output_dim": WIDTH, "pixel_mean": list(CLIP_MEAN),
            "pixel_std": list(CLIP_STD), "select_feature": "same", "select_layer": -1,
            "preset": {"patch_size": 8, "width": 32, "layers": 3, "heads": 2, "prompt_embed_dim": 8,
                       "global_attn_indexes": [1, 2], "downsample_channels": [8, 16, 32, WIDTH]},
        }
        low |= {"output_dim": WIDTH, "pixel_mean": HALF, "pixel_std": HALF}
        params = {
            "concat_type": "tuple", "freeze_high": True, "freeze_low": True, "high_res_cfg": high, "low_res_cfg": low,
        }
        vision = {"cls": "HybridVisionTower", "model_type": "vision", "params": params}
    projector = "low_high_hybrid_split_mlp_gelu" if hybrid else "mlp_gelu"
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": MODEL_TYPE,
        "torch_dtype": "float32",
        "vision_config": vision,
        "aligner_config": {
            "cls": "MlpProjector", "model_type": "aligner",
            "params": {"depth": 2, "input_dim": WIDTH, "n_embed": HIDDEN, "projector_type": projector},
        },
        "language_config": {
            "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 128, "num_attention_heads": 4,
            "num_hidden_layers": 2, "max_position_embeddings": 4096,
        },
    }


def preprocessor_config(hybrid: bool) -> dict[str, Any]:
    """`preprocessor_config.json`: with SAM the model normalises, and the padding has CLIP's mean colour."""
    mean, deviation = (list(CLIP_MEAN), list(CLIP_STD)) if hybrid else (HALF, HALF)
    return {
        "image_processor_type": "VLMImageProcessor", "image_size": HIGH_EDGE if hybrid else LOW_EDGE, "min_size": 14,
        "image_mean": mean, "image_std": deviation, "do_normalize": not hybrid, "rescale_factor": 1 / 255,
        "background_color": [int(value * 255) for value in mean],
    }


def train_tokenizer(texts: Sequence[str], with_image: bool) -> Tokenizer:
    """A byte-level tokenizer that splits as the release's does.

    Args:
        texts: what it learns to spell in few tokens.
        with_image: whether it knows the image token and writes BOS; the release's processor sees to both.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers.decoders import ByteLevel

    tokenizer = Tokenizer(models.BPE())
    patterns = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"\s+$")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(CHARACTERS))
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(BOS, normalized=True), AddedToken(EOS, normalized=True)])
    tokenizer.add_tokens([AddedToken(character, normalized=True) for character in CHARACTERS])
    if with_image:
        tokenizer.add_special_tokens([IMAGE])
        bos = (BOS, tokenizer.token_to_id(BOS))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return tokenizer


def write_weights(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    """Random weights under the release's names, those it never computes with among them."""
    import torch
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    from vlcore_deepseek_vl.modeling import choose_class
    from vlcore_deepseek_vl.release import native_config

    native = native_config(Checkpoint(folder, config, FAMILY, None, FAMILY.name))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = choose_class(config)(native)
        fill(model)
        tensors = revert_weight_conversion(model, model.state_dict()) | unread_tensors(config)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def fill(model: torch.nn.Module) -> None:
    """Random matrices that keep the size of what goes through them, and a share for SAM's second branch."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif name.endswith("high_res_vision_alpha"):
                parameter.fill_(0.5)


def unread_tensors(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """SigLIP's pooling head and the two norms behind the towers."""
    import torch

    params = config["vision_config"]["params"]
    hybrid = "low_res_cfg" in params
    preset = (params["low_res_cfg"] if hybrid else params)["preset"]
    width, wide = preset["width"], int(preset["width"] * preset["mlp_ratio"])
    linear = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width), "mlp.fc1": (wide, width),
              "mlp.fc2": (width, wide)}
    shapes: dict[str, tuple[int, ...]] = {"latent": (1, 1, width), "norm.weight": (width,), "norm.bias": (width,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tower = "vision_model.vision_tower_low.vision_tower" if hybrid else "vision_model.vision_tower"
    named = {f"{tower}.attn_pool.{name}": shape for name, shape in shapes.items()}
    if hybrid:
        norms = [f"{size}_layer_norm.{leaf}" for size in ("high", "low") for leaf in ("weight", "bias")]
        named |= {f"vision_model.{name}": (WIDTH,) for name in norms}
    return {name: torch.randn(shape) for name, shape in named.items()}
