"""The family's records: names, hub ids, how a checkpoint is recognised, settings of the release."""

from __future__ import annotations

from pathlib import Path

from vlcore.family import ConfigJson, ModelFamily, ModelRecord, Parts, WeightFolder

MODEL_TYPE = "multi_modality"
#: Tensors that a release holds and never computes with: SigLIP's pooling head, and two norms behind the towers.
UNREAD = (r"^vision_model\..*\.attn_pool\.", r"^vision_model\.(high|low)_layer_norm\.")


def make_record(size: str, kind: str) -> ModelRecord:
    """The record of one release; its ModelScope id is the same."""
    verified = f"parity with the release on a tiny checkpoint of the {size} chat model's layout"
    return ModelRecord(
        name=f"deepseek-vl-{size}-{kind}".replace(".", "_"),
        huggingface=f"deepseek-ai/deepseek-vl-{size}-{kind}",
        verified=verified if kind == "chat" else f"{verified}, which the base model shares",
    )


def is_janus(config: ConfigJson) -> bool:
    """Whether a configuration has a part that generates images (`gen_vision_config` and others)."""
    return any(key.startswith("gen_") and key.endswith("_config") for key in config)


def recognise(config: ConfigJson, folder: Path) -> bool:
    """Whether a checkpoint is a DeepSeek-VL release."""
    return config.get("model_type") == MODEL_TYPE and not is_janus(config)


def reject(config: ConfigJson, folder: Path) -> str | None:
    """Why a checkpoint that looks like DeepSeek-VL is not loaded."""
    if config.get("model_type") == MODEL_TYPE and is_janus(config):
        return "it is Janus, which shares DeepSeek-VL's model_type multi_modality but also generates images"
    if config.get("model_type") == "deepseek_vl_v2":
        return "it is DeepSeek-VL2, another architecture than DeepSeek-VL"
    return None


def list_folders(config: ConfigJson, folder: Path) -> tuple[WeightFolder, ...]:
    """The release's own folder, without what it never computes with."""
    return (WeightFolder(path=folder, unread=UNREAD),)


FAMILY = ModelFamily(
    name="deepseek_vl",
    models=tuple(make_record(size, kind) for size in ("1.3b", "7b") for kind in ("chat", "base")),
    recognise=recognise,
    reject=reject,
    parts=Parts(
        language=("model.language_model", "lm_head"),
        vision=(
            "model.vision_model", "model.high_res_vision_model", "model.high_res_vision_neck",
            "model.high_res_vision_proj", "model.high_res_vision_alpha",
        ),
        projector=("model.aligner",),
    ),
    tags=("<image>", "<image_placeholder>"),
    # The release's chat on the command line; top_k is the default of the transformers it was released with.
    generation={"temperature": 0.2, "max_new_tokens": 512},
    sampling={"top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1},
    penalised="answer",
    # Its script for a single question is greedy.
    question={"temperature": 0.0},
    weight_folders=list_folders,
)
