"""The release's configuration and tokenizer files, read into native ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, read_json

from vlcore_deepseek_vl.towers import downsample_channels, normalization, sam_config, siglip_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from vlcore.tokenizer import HfTokenizer

    from vlcore_deepseek_vl.modeling import DeepseekVLHybridReleaseConfig, DeepseekVLReleaseConfig

#: Keys of `language_config` that mean the same in transformers; what it leaves out is LlamaConfig's default.
#: A list of what is taken, not of what is dropped: its token ids are LlamaConfig's and wrong.
LANGUAGE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_bias",
    "attention_dropout", "initializer_range", "tie_word_embeddings",
)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Names of the special tokens.

    Attributes:
        bos: stands before every prompt, once, unless `adds_bos` is false.
        eos: ends every answer.
        pad: fills batches.
        image: stands at image positions, and for an image in a text.
    """

    bos: str
    eos: str
    pad: str
    image: str
    adds_bos: bool = True


def read_special_tokens(folder: Path) -> SpecialTokens:
    """The special tokens that a release's tokenizer and processor files name."""
    settings = read_json(folder / "tokenizer_config.json")
    eos = _name_of(settings.get("eos_token")) or "<｜end▁of▁sentence｜>"
    return SpecialTokens(
        bos=_name_of(settings.get("bos_token")) or "<｜begin▁of▁sentence｜>",
        eos=eos,
        pad=_name_of(settings.get("pad_token")) or eos,
        image=read_processor(folder).get("image_tag", "<image_placeholder>"),
        adds_bos=settings.get("add_bos_token", True),
    )


def read_processor(folder: Path) -> Mapping[str, Any]:
    """`processor_config.json`; a folder without one has the release's defaults."""
    path = folder / "processor_config.json"
    return read_json(path) if path.is_file() else {}


def load_tokenizer(folder: Path) -> HfTokenizer:
    """The tokenizer from `tokenizer.json`.

    The class it was released with, Llama's, would drop blanks and line breaks. Where the file lacks the image
    token, the release's processor adds it as the next id, and so does this.

    Raises:
        CheckpointError: when the folder has no tokenizer.json.
    """
    from transformers import PreTrainedTokenizerFast
    from vlcore.tokenizer import HfTokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"folder {folder}", "it has no tokenizer.json", "copy the tokenizer's files, too")
    names = read_special_tokens(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=names.bos, eos_token=names.eos, pad_token=names.pad,
        extra_special_tokens=[names.image],
    )
    return HfTokenizer(tokenizer)


def native_config(checkpoint: Checkpoint) -> DeepseekVLReleaseConfig | DeepseekVLHybridReleaseConfig:
    """The configuration of the native model.

    Raises:
        CheckpointError: for towers that the release's tables do not have.
    """
    from vlcore_deepseek_vl.modeling import DeepseekVLHybridReleaseConfig, DeepseekVLReleaseConfig

    config = checkpoint.config
    tokenizer, names = load_tokenizer(checkpoint.folder), read_special_tokens(checkpoint.folder)
    text = language_config(config["language_config"], tokenizer.token_id(names.bos), tokenizer.token_id(names.eos))
    shared: dict[str, Any] = {
        "text_config": text,
        "image_token_id": tokenizer.token_id(names.image),
        "tie_word_embeddings": text.tie_word_embeddings,  # at the top: the native default ties the head
        "aligner": {"depth": 1, **config["aligner_config"]["params"]},
    }
    params = config["vision_config"]["params"]
    if not is_hybrid(config):
        return DeepseekVLReleaseConfig(
            **shared, vision_config=siglip_config(params), normalization=normalization(params)
        )
    high, low = params["high_res_cfg"], params["low_res_cfg"]
    return DeepseekVLHybridReleaseConfig(
        **shared,
        vision_config=siglip_config(low),
        high_res_vision_config=sam_config(high),
        downsample_channels=downsample_channels(high),
        concat_type=params.get("concat_type", "tuple"),
        normalization=normalization(low),
        high_res_normalization=normalization(high),
    )


def is_hybrid(config: Mapping[str, Any]) -> bool:
    """Whether a release has SAM beside SigLIP. Like the release, this looks for a part of the class's name.

    Raises:
        CheckpointError: for a class of tower that is not known.
    """
    name = str(config["vision_config"].get("cls"))
    if "CLIPVisionTower" not in name and "HybridVisionTower" not in name:
        raise CheckpointError(
            f"vision tower class {name}", "it is not known", "CLIPVisionTower and HybridVisionTower are"
        )
    return "HybridVisionTower" in name


def language_config(given: Mapping[str, Any], bos: int, eos: int) -> PretrainedConfig:
    """The language model's configuration, with the tokenizer's ids."""
    from transformers import AutoConfig

    scaling = dict(given.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    own = {key: given[key] for key in LANGUAGE_KEYS if key in given}
    return AutoConfig.for_model(
        "llama",
        **({"tie_word_embeddings": False} | own),
        rope_parameters={"rope_theta": given.get("rope_theta", 10000.0), "rope_type": kind, **scaling},
        bos_token_id=bos,
        eos_token_id=eos,
    )


def _name_of(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token or "")
