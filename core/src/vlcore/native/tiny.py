"""A tiny random checkpoint of a native model type, in the layout of the published ones. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.errors import UsageError, suggest_near
from vlcore.native.kinds import EDGE, HEAD, KINDS, PATCH, WIDTH, Kind

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig

#: What is made small in the configuration of a language model, and in that of a vision tower.
TEXT_SIZES = {
    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": HEAD, "max_position_embeddings": 4096,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH // 2,
    "shared_expert_intermediate_size": WIDTH // 2,
}
VISION_SIZES = {
    "hidden_size": WIDTH // 2, "intermediate_size": WIDTH, "num_hidden_layers": 2, "depth": 2,
    "num_attention_heads": 2, "num_heads": 2, "image_size": EDGE, "patch_size": PATCH, "vision_use_head": False,
}


def write_tiny(
    model_type: str, folder: Path, texts: Sequence[str] = (), seed: int = 0, kind: Kind | None = None
) -> None:
    """Writes a checkpoint that loads like a published one and knows nothing.

    Args:
        model_type: transformers' name of the model type, such as `llava`.
        folder: an existing folder.
        texts: texts that the tokenizer should spell in few tokens; it can spell everything.
        seed: of the random weights; equal seeds give equal weights.
        kind: what it is made of, for a model type that is not known here.

    Raises:
        UsageError: for a model type of which no tiny checkpoint is known.
    """
    kind = kind or KINDS.get(model_type)
    if kind is None:
        raise UsageError(
            f"a tiny checkpoint of {model_type}", "its sizes and its chat template are not known here",
            f"fill the hook write_tiny with a Kind of its own, or {suggest_near(model_type, KINDS)}")
    tokenizer = train_tokenizer(kind, texts)
    write_frontend(kind, tokenizer, folder)
    write_weights(shrink(model_type, kind, tokenizer), kind.tower, folder, seed)


def train_tokenizer(kind: Kind, texts: Sequence[str], size: int = 512) -> Tokenizer:
    """A byte-level tokenizer with the special tokens of a kind."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts, "user assistant system User: Assistant:\n"], trainer)
    names = dict.fromkeys((*kind.tokens.values(), *kind.plain))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    if kind.begins:
        bos = kind.tokens["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return tokenizer


def write_frontend(kind: Kind, tokenizer: Tokenizer, folder: Path) -> None:
    """Tokenizer, chat template and the settings of processor and pictures."""
    named = {name: token for name, token in kind.tokens.items() if name[:3] in ("bos", "eos", "unk", "pad")}
    more = {name: token for name, token in kind.tokens.items() if name not in named}
    processor, processing = kind.processor
    pictures, preprocessing = kind.pictures
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "model_max_length": 4096, "processor_class": processor, "extra_special_tokens": more, **named},
        "processor_config.json": {"processor_class": processor, **processing},
        "preprocessor_config.json": {
            "image_processor_type": pictures, "processor_class": processor, **preprocessing},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    (folder / "chat_template.jinja").write_text(kind.template, encoding="utf8")
    tokenizer.save(str(folder / "tokenizer.json"))


def shrink(model_type: str, kind: Kind, tokenizer: Tokenizer) -> PretrainedConfig:
    """The native configuration of a model type, every size in it small."""
    from transformers import CONFIG_MAPPING

    ids = {key: tokenizer.token_to_id(token) for key, token in kind.ids.items()}
    named = {"bos_token": kind.tokens["pad_token"], **kind.tokens}
    text_ids = {f"{name}_id": tokenizer.token_to_id(named[name]) for name in ("bos_token", "eos_token", "pad_token")}
    vocabulary = (tokenizer.get_vocab_size() + 63) // 64 * 64
    whole = CONFIG_MAPPING[model_type]
    parts = {}
    for name, standard in whole().to_dict().items():
        if name.endswith("_config") and isinstance(standard, Mapping):
            given = kind.config.get(name, {})
            small = {**TEXT_SIZES, "vocab_size": vocabulary, **text_ids} if name == "text_config" else VISION_SIZES
            described = CONFIG_MAPPING[given.get("model_type", standard["model_type"])]().to_dict()
            parts[name] = {"model_type": described["model_type"]} | {
                key: value for key, value in small.items() if key in described} | given
    return whole(**{**kind.config, **parts, **ids, **text_ids})


def write_weights(config: PretrainedConfig, tower: str, folder: Path, seed: int) -> None:
    """config.json and model.safetensors of a model with random weights.

    Args:
        config: what the model is made by.
        tower: the vision tower's name in the published files where that holds a `vision_model`, else empty.
        folder: where they are written.
        seed: of the weights.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForImageTextToText
    from transformers.core_model_loading import revert_weight_conversion

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        fill(model)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    head = model.get_output_embeddings()
    state = model.state_dict()
    if head.weight is model.get_input_embeddings().weight:
        del state[next(f"{name}.weight" for name, module in model.named_modules() if module is head)]
    tensors = {
        name.replace(f"{tower}.", f"{tower}.vision_model.", 1) if tower else name: tensor.contiguous()
        for name, tensor in revert_weight_conversion(model, state).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fill(model: torch.nn.Module) -> None:
    """Random matrices that keep the size of what goes through them: the usual start is too small to learn fast from."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
