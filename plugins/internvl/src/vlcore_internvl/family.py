"""The family's records: names, hub ids, how a checkpoint is recognised, options."""

from __future__ import annotations

import re
from pathlib import Path

from vlcore.boxes import Box, Grounding, read_marks
from vlcore.family import ConfigJson, FamilyOption, ModelFamily, ModelRecord, Parts

#: Language model classes of the releases, and transformers' model type for each.
LANGUAGE_MODELS = {
    "GptOssForCausalLM": "gpt_oss",
    "InternLM2ForCausalLM": "llama",
    "InternLM3ForCausalLM": "internlm3",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
#: Boxes whose marks were left out: four numbers each in brackets, and brackets around all.
BARE = re.compile(r"\[(?:(?:,\s*)?\[\s*\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){3}\s*\])+\s*\]")
#: Frames taken of a video when nothing else is asked for.
NUM_SEGMENTS = 8
#: What was compared for every model below but those of `UNRECORDED` and the int8 one, on tiny checkpoints.
VERIFIED = "parity with the release on a tiny checkpoint of this layout"
INT8 = "read from an int8 checkpoint made for the test; not compared with the release"
#: Models whose releases could not be run, by a part of their names: their language model was held against
#: transformers' own, their prompts and tokenizers against nothing.
UNRECORDED = {
    "3-9B": "logits equal to transformers' own InternLM3; not compared with the release",
    "-A3B": "logits equal to transformers' own Qwen3-MoE; not compared with the release",
    "-A4B": "logits equal to transformers' own gpt-oss; layout as its conversion has it; not compared with the release",
    "-A28B": "logits equal to transformers' own Qwen3-MoE; not compared with the release",
}
#: First generation by name on the hub, with its id on ModelScope where that differs.
_FIRST = {
    "InternVL-Chat-V1-5": "AI-ModelScope/InternVL-Chat-V1-5",
    "InternVL-Chat-V1-5-Int8": "AI-ModelScope/InternVL-Chat-V1-5-int8",
    "Mini-InternVL-Chat-2B-V1-5": "",
    "Mini-InternVL-Chat-4B-V1-5": "",
    "InternVL-Chat-V1-2": "",
    "InternVL-Chat-V1-2-Plus": "",
}
#: Sizes of the later generations by series, and the stages of training that were released beside the last one.
_LATER = {
    "InternVL2": ("1B 2B 4B 8B 8B-MPO 26B 40B Llama3-76B", ""),
    "InternVL2_5": ("1B 2B 4B 8B 26B 38B 78B", "-MPO"),
    "InternVL3": ("1B 2B 8B 9B 14B 38B 78B", "-Pretrained -Instruct"),
    "InternVL3_5": ("1B 2B 4B 8B 14B 38B 30B-A3B 241B-A28B", "-Pretrained -Instruct -MPO"),
    "InternVL3_5-GPT-OSS": ("20B-A4B-Preview", ""),
}
#: Other system texts, fewer tiles, one picture a talk.
FIRST_GENERATION = tuple(
    ModelRecord(
        name=name.replace("V1-", "V1_").lower(),
        huggingface=f"OpenGVLab/{name}",
        modelscope=modelscope,
        ask="conversation",
        verified=INT8 if name.endswith("Int8") else VERIFIED,
    )
    for name, modelscope in _FIRST.items()
)
LATER_GENERATIONS = tuple(
    ModelRecord(
        name=f"{series}-{size}{stage}".lower(),
        huggingface=f"OpenGVLab/{series}-{size}{stage}",
        verified=next((found for part, found in UNRECORDED.items() if part in f"{series}-{size}"), VERIFIED),
    )
    for series, (sizes, stages) in _LATER.items()
    for stage in ("", *stages.split())
    for size in sizes.split()
)


def is_first_generation(record: ModelRecord | None) -> bool:
    """Whether a model is of the first generation, which `config.json` does not tell."""
    return record in FIRST_GENERATION


def language_class(config: ConfigJson) -> str:
    """The class of the language model as the release names it, or an empty text."""
    names = (config.get("llm_config") or {}).get("architectures") or [""]
    return str(names[0])


def recognise(config: ConfigJson, folder: Path) -> bool:
    """Whether a checkpoint is an InternVL release that is known here."""
    return config.get("model_type") == "internvl_chat" and reject(config, folder) is None


def reject(config: ConfigJson, folder: Path) -> str | None:
    """Why a checkpoint of InternVL's model type cannot be loaded."""
    if config.get("model_type") != "internvl_chat":
        return None
    if config.get("flash_mode"):
        return "it is a Flash model, which chooses between two numbers of tokens for each tile; they are not known here"
    method = (config.get("quantization_config") or {}).get("quant_method", "bitsandbytes")
    if method != "bitsandbytes":
        return f"its weights are quantized by {method}, and their kernels are not known here; take the full ones"
    if language_class(config) not in LANGUAGE_MODELS:
        found = language_class(config) or "not named"
        return f"its language model is {found}; known are {', '.join(LANGUAGE_MODELS)}"
    return None


def read_boxes(text: str) -> tuple[Box, ...]:
    """Boxes in the release's marks, or without: its decoding leaves special tokens out, and the marks are such.

    >>> read_boxes("the cat[[100, 200, 300, 400]]")
    (Box(points=((0.1, 0.2), (0.3, 0.4)), label=''),)
    """
    marked = any(mark in text for mark in ("<box>", "<quad>"))
    return read_marks(text if marked else BARE.sub(r"<box>\g<0></box>", text))


def write_box(box: Box) -> str:
    """A box in the release's marks: whole thousandths from 0 to 1000, the rest cut off.

    >>> write_box(Box(((0.1, 0.25), (0.5, 1.0))))
    '<box>[[100, 250, 500, 1000]]</box>'
    """
    return f"<box>[{[min(1000, max(0, int(part * 1000))) for point in box.points for part in point]}]</box>"


FAMILY = ModelFamily(
    name="internvl",
    models=FIRST_GENERATION + LATER_GENERATIONS,
    recognise=recognise,
    reject=reject,
    parts=Parts(
        language=("model.language_model", "lm_head"),
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
    ),
    attention=("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"),
    options=(
        FamilyOption(
            name="max_num", kind=int, minimum=1,
            help="Most tiles of one image; when unset 12 (6 for 1.x), in training max_dynamic_patch.",
        ),
        FamilyOption(
            name="max_dynamic_patch", kind=int, minimum=1,
            help="Most tiles the images of one training row share; config.json's when unset.",
        ),
        FamilyOption(
            name="combine_images", kind=bool, default=False,
            help="Put the tiles of all images of a turn behind one mark, as one picture.",
        ),
        FamilyOption(
            name="num_segments", kind=int, minimum=1, default=NUM_SEGMENTS,
            help="Frames taken of a video, one from each of as many equal stretches.",
        ),
        FamilyOption(
            name="frame_label", kind=str,
            help="Text before each video frame, {} is its number; 'Frame{}: ', from 2.5 on 'Frame-{}: '.",
        ),
    ),
    tags=("<image>", "<video>"),
    grounding=Grounding(read=read_boxes, write_box=write_box, write_label="<ref>{}</ref>".format),
    generation={"temperature": 0.0, "max_new_tokens": 1024},
)
