"""Configuration: frozen dataclasses whose fields are the options of the command line.

A field's help lives in its metadata and nowhere else: options, configuration files and the tables of the docs
are made from the fields. `read_config` turns plain values back into a configuration and names the nearest
field for an unknown key.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from vlcore.errors import UsageError, suggest_near

DType = Literal["auto", "fp32", "bf16", "fp16"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
_Config = TypeVar("_Config")
#: How error messages call the types of fields.
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting(
    default: Any,
    help: str,
    *,
    aliases: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a configuration.

    Args:
        default: its value when nothing is given; a tuple for an option that takes several.
        help: one sentence for `--help` and the docs.
        aliases: other names for the same option, as older tools spelt it.
        minimum: smallest allowed number.
        above: number that is too small itself.
        maximum: largest allowed number.
        below: number that is too large itself.
    """
    limits = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    return field(default=default, metadata={"help": help, "aliases": aliases, **limits})


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Which model, and how it is loaded."""

    model: str = setting("", "Folder, hub id or registered name of the model.",
                        aliases=("model_id_or_path", "model_path", "model_name_or_path"))
    model_type: str = setting("", "Registered name of the model, when a folder does not tell it (see `vlcore models`).")
    dtype: DType = setting("auto", "Weights in memory: auto takes bf16 where the GPU has it, fp32 on a CPU.",
                          aliases=("torch_dtype",))
    device_map: str = setting("auto", "auto (GPUs when there are any, else the CPU), cpu, cuda:0 and so on.")
    device_max_memory: tuple[str, ...] = setting(
        (), "Most memory of each GPU, such as 15GB 15GB, when one process spreads the model over several.")
    device_map_config_path: str = setting("", "JSON file with the device of each module, instead of device_map.")
    quantization_bit: int = setting(0, "Load the linear layers in 4 or 8 bit through bitsandbytes; 0 is off.")
    attn: Attention = setting("auto", "Attention implementation; auto lets transformers choose.",
                             aliases=("attn_impl",))
    use_flash_attn: bool | None = setting(None, "true is short for --attn flash_attention_2, false for --attn sdpa.")
    hub_token: str = setting("", "Token for the hub; else MODELSCOPE_API_TOKEN or HF_TOKEN.")
    revision: str = setting("", "Revision on the hub; the default branch when empty.", aliases=("model_revision",))
    vision_tower: str = setting("", "Folder of the vision tower, for models that keep it in a folder of its own; "
                                "else where config.json says.")
    option: tuple[str, ...] = setting(
        (), "A setting of the model's family as NAME=VALUE, such as max_num=6; repeatable.")

    def __post_init__(self) -> None:
        check_values(self)
        if self.quantization_bit not in (0, 4, 8):
            raise UsageError(f"quantization_bit {self.quantization_bit}", "there are 4 and 8 bit", "use 4, 8 or 0")

    @property
    def family_options(self) -> dict[str, str]:
        """The `--option NAME=VALUE` pairs by name.

        Raises:
            UsageError: for a text without an equals sign.
        """
        pairs = [text.partition("=") for text in self.option]
        for name, sign, _ in pairs:
            if not sign:
                raise UsageError(f"--option {name}", "it has no value", "write it as NAME=VALUE")
        return {name: value for name, _, value in pairs}

    @property
    def attention(self) -> Attention:
        """The attention implementation, `use_flash_attn` applied."""
        if self.use_flash_attn is None:
            return self.attn
        return "flash_attention_2" if self.use_flash_attn else "sdpa"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How answers are generated. Unset values are the release's own."""

    max_new_tokens: int | None = setting(None, "Longest answer in tokens.", minimum=1)
    temperature: float | None = setting(None, "Sampling temperature; 0 is greedy.", minimum=0)
    top_p: float | None = setting(
        None, "Sample from the smallest set of tokens with this probability.", minimum=0, maximum=1)
    top_k: int | None = setting(None, "Sample from this many tokens; 0 is all.", minimum=0)
    repetition_penalty: float | None = setting(
        None, "Above 1 discourages tokens that were generated before.", above=0)
    num_beams: int = setting(1, "Beams of a beam search; 1 is off.", minimum=1)
    seed: int | None = setting(None, "Seed of the sampling, for answers that can be repeated.")
    compile: bool = setting(
        False, "Compile the decoding of tokens, with a cache of fixed size; for many answers on a GPU.")

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows, and how they become examples."""

    dataset: tuple[str, ...] = setting(
        (), "Files (json, jsonl, parquet), folders, registered names or hub ids (HF::ID, MS::ID), each with #N to "
        "sample N rows.", aliases=("data_path",))
    dataset_weights: tuple[float, ...] = setting(
        (), "How often an epoch has each source, in the order of dataset: 2 is every row twice, 0.5 half of the rows.",
        above=0)
    val_dataset: tuple[str, ...] = setting((), "Sources for evaluation, as of dataset.")
    dataset_test_ratio: float = setting(
        0.01, "Part of the rows set aside for evaluation when there is no val_dataset.", minimum=0, maximum=1)
    image_folder: str = setting("", "Folder that relative media paths start from; else the data file's folder.")
    system: str = setting("", "System text for rows that have none; else the model's.")
    max_length: int = setting(2048, "Longest row in tokens, and the size of a pack. 0 is no limit.", minimum=0)
    on_overflow: Literal["error", "drop", "shrink", "truncate"] = setting(
        "error", "Rows above max_length: error names them before weights are read, drop leaves them out and lists "
        "them, shrink gives their media fewer tiles or frames, truncate leaves out their oldest turns.")
    bad_rows: Literal["error", "skip"] = setting(
        "error", "Rows that cannot be read: error stops, skip leaves them out and lists them with the reason.")
    packing: bool = setting(False, "Put several rows into one of max_length tokens; none attends to another.")
    group_by_length: bool = setting(False, "Make batches of rows of similar length.")
    forecast: bool = setting(
        True, "Learn the length of every row before the run; false starts at once, and a row is judged when it comes.")
    loss_on: Literal["answers", "release"] = setting(
        "answers", "What counts in the loss: the answers and their ends, or what the release's training code counts.")
    data_seed: int = setting(42, "Seed of sampling, splitting and shuffling.")

    def __post_init__(self) -> None:
        check_values(self)
        if self.dataset_weights and len(self.dataset_weights) != len(self.dataset):
            raise UsageError(
                f"{len(self.dataset_weights)} dataset_weights for {len(self.dataset)} sources of dataset",
                "each source has one weight", "give as many weights as sources, or none")
        if self.packing and not self.max_length:
            raise UsageError("packing with max_length 0", "it says how large a pack is", "give --max_length")
        needing = [name for name in ("packing", "group_by_length") if getattr(self, name)]
        if needing and not self.forecast:
            raise UsageError(f"{needing[0]} with forecast false", "it needs the length of every row", "leave one out")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters."""

    lora_target_modules: tuple[str, ...] = setting(
        ("DEFAULT",), "DEFAULT (attention of the language model), ALL (every linear layer but the head), names, or "
        "regular expressions of full names.")
    lora_rank: int = setting(8, "Rank of the adapters.", minimum=1)
    lora_alpha: int = setting(32, "Scale of the adapters, over the rank.", minimum=1)
    lora_dropout_p: float = setting(
        0.05, "Dropout before the adapters.", minimum=0, maximum=1, aliases=("lora_dropout",))
    use_rslora: bool = setting(False, "Scale adapters by the square root of the rank (rsLoRA).")
    use_dora: bool = setting(False, "Learn the length of each weight's columns apart from their direction (DoRA).")
    init_lora_weights: Literal["default", "gaussian", "orthogonal", "pissa"] = setting(
        "default", "First weights of the adapters; pissa takes the largest singular values of the weights (PiSSA).")
    lora_plus_ratio: float = setting(
        1.0, "Learning rate of the second adapter matrix over that of the first (LoRA+); 16 is usual.", above=0,
        aliases=("loraplus_lr_ratio", "lora_lr_ratio"))
    modules_to_save: tuple[str, ...] = setting(
        (), "Modules trained in full beside the adapters: VISION, PROJECTOR, EMBEDDINGS, HEAD, or names.",
        aliases=("lora_modules_to_save",))

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the model is trained."""

    sft_type: Literal["lora", "full"] = setting("lora", "Train adapters or all weights.")
    output_dir: str = setting("output", "Runs are written to OUTPUT_DIR/MODEL/vN-DATE.")
    num_train_epochs: float = setting(1.0, "Passes over the data.", above=0)
    max_steps: int = setting(-1, "Optimizer steps; overrides num_train_epochs when positive.")
    learning_rate: float | None = setting(None, "Peak learning rate; 1e-4 for lora and 1e-5 for full when not given.",
                                         minimum=0)
    vit_lr: float | None = setting(None, "Peak learning rate of the vision tower; learning_rate when not given.",
                                  minimum=0)
    aligner_lr: float | None = setting(None, "Peak learning rate of the projector; learning_rate when not given.",
                                      minimum=0)
    batch_size: int = setting(1, "Rows, or packs of them, a device and step.", minimum=1,
                             aliases=("per_device_train_batch_size",))
    eval_batch_size: int = setting(1, "Rows a device in evaluation.", minimum=1,
                                  aliases=("per_device_eval_batch_size",))
    gradient_accumulation_steps: int | None = setting(
        None, "Steps whose gradients make one update; 16 rows an update when not given.", minimum=1)
    lr_scheduler_type: str = setting("cosine", "Shape of the learning rate, by transformers' names.")
    warmup_ratio: float = setting(0.05, "Part of the steps in which the learning rate rises.", minimum=0, maximum=1)
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", minimum=0)
    max_grad_norm: float = setting(1.0, "Largest norm of the gradient.", minimum=0)
    adam_beta2: float = setting(0.999, "Second beta of AdamW.", minimum=0, below=1)
    neftune_alpha: float = setting(
        0.0, "Strength of the noise that is added to embeddings in training (NEFTune); 5 is usual, 0 is off.",
        minimum=0, aliases=("neftune_noise_alpha",))
    label_smoothing: float = setting(
        0.0, "Part of a label's weight that is spread over the vocabulary in training.", minimum=0, below=1,
        aliases=("label_smoothing_factor",))
    use_liger: bool = setting(
        False, "Use the liger package's kernels for norms, rotary embeddings and activations.",
        aliases=("use_liger_kernel",))
    gradient_checkpointing: bool = setting(True, "Recompute activations in the backward pass to save memory.",
                                          aliases=("gradient_checkpoting",))
    eval_steps: int = setting(50, "Steps between evaluations.", minimum=1)
    predict_with_generate: bool = setting(
        False, "Answer the validation rows at each evaluation, as vlcore infer does, but greedily.")
    metric: tuple[str, ...] = setting(
        (), "Hold these answers against the labels; names as of vlcore infer --metric.", aliases=("metrics",))
    predict_limit: int = setting(0, "Only the first so many validation rows are answered. 0 is all.", minimum=0)
    max_new_tokens: int | None = setting(None, "Longest of these answers in tokens; else the release's.", minimum=1)
    sheet_rows: int = setting(
        12, "Validation rows whose pictures and answers are shown on a sheet at each evaluation. 0 is no sheet.",
        minimum=0)
    metric_for_best_model: str = setting(
        "eval_loss", "What makes a checkpoint the best one, which is always kept: eval_loss or a metric.")
    early_stopping_patience: int = setting(
        0, "End the training after so many evaluations that bring no better figure. 0 is off.", minimum=0)
    early_stopping_threshold: float = setting(
        0.0, "A figure that is better by no more than this is none of these.", minimum=0)
    save_steps: int = setting(50, "Steps between checkpoints.", minimum=1)
    save_total_limit: int = setting(2, "Checkpoints that are kept.", minimum=1)
    logging_steps: int = setting(5, "Steps between lines of the log.", minimum=1)
    dataloader_num_workers: int = setting(0, "Processes that prepare rows.", minimum=0)
    report_to: tuple[str, ...] = setting(("tensorboard",), "Where figures go: tensorboard, wandb, swanlab, none.")
    resume_from_checkpoint: str = setting("", "A checkpoint folder to go on from, or `latest` of the output folder.")
    seed: int = setting(42, "Seed of initial weights, dropout and order.")
    freeze_vit: bool = setting(False, "Leave the vision tower as it is in full training.")
    freeze_llm: bool = setting(False, "Leave the language model as it is in full training.")
    freeze_aligner: bool = setting(False, "Leave the projector as it is in full training.")
    deepspeed: str = setting(
        "", "default-zero2, default-zero3, either with -offload, or a DeepSpeed configuration file (extra: deepspeed).")
    fsdp: str = setting(
        "", "full_shard divides weights, gradients and optimizer states among the processes through PyTorch's FSDP2; "
        "full_shard-offload keeps them in the CPU's memory.")

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class InferConfig(GenerateConfig, LoadConfig):
    """Asking a model: one question, a talk, or a data set."""

    ckpt_dir: str = setting("", "A checkpoint that training left (adapter or full), or a merged folder.")
    load_dataset_config: bool = setting(False, "Answer the validation rows of the training that made ckpt_dir.")
    val_dataset: tuple[str, ...] = setting((), "Files whose rows are answered instead of a talk.")
    question: str = setting("", "Answer this and end; without it, a talk begins.", aliases=("query",))
    image_file: tuple[str, ...] = setting((), "Pictures for the question or the talk: paths or URLs.",
                                          aliases=("image", "images"))
    video_file: tuple[str, ...] = setting((), "Videos for the question or the talk: files, folders of frames or URLs.",
                                          aliases=("video", "videos"))
    image_folder: str = setting("", "Folder that relative media paths of val_dataset start from.")
    system: str = setting("", "System text instead of the model's.")
    stream: bool = setting(True, "Print the answer while it is made.")
    max_length: int = setting(0, "Longest prompt in tokens; a talk forgets its oldest turns above it. 0 is no limit.",
                              minimum=0)
    infer_batch_size: int = setting(1, "Rows of val_dataset answered at once.", minimum=1)
    metric: tuple[str, ...] = setting(
        (), "Hold the answers to val_dataset against its labels: exact_match, cer, anls, vqa_accuracy, rouge_l, "
        "box_iou@0.5, box_iou, count_accuracy, or a plugin's own.", aliases=("metrics",))
    draw_boxes: str = setting("", "File for the last picture with the boxes of the answer in it, such as out.png.")
    result_path: str = setting("", "File for the answers to val_dataset; else in infer_result/ of ckpt_dir, or here.")
    resume: bool = setting(
        False, "Go on with the answers in result_path, or with the newest run that was stopped: only rows without an "
        "answer are asked.")

    def __post_init__(self) -> None:
        LoadConfig.__post_init__(self)
        if self.question and (self.load_dataset_config or self.val_dataset):
            raise UsageError("question with a data set", "it is one or the other", "leave one of them out")
        if self.load_dataset_config and not self.ckpt_dir:
            raise UsageError("load_dataset_config", "no checkpoint says which rows", "give --ckpt_dir as well")
        if self.draw_boxes and (self.load_dataset_config or self.val_dataset):
            raise UsageError("draw_boxes with a data set", "it draws answers to questions and in talks", "leave it out")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Writing a model: merged, in another layout, or quantized."""

    ckpt_dir: str = setting("", "A checkpoint that training left (adapter or full), a merged folder or a release.")
    merge_lora: bool = setting(False, "Merge the adapter of ckpt_dir into its base model.")
    output_dir: str = setting("", "Folder to write; else ckpt_dir with -merged, -native, -int4 or -int8 behind it.")
    overwrite: bool = setting(False, "Replace the folder when it is there.")
    model: str = setting("", "Base model, when it is not where it was.", aliases=("model_id_or_path",))
    layout: Literal["release", "native"] = setting(
        "release", "Names and files of the release, or transformers' own, for which vlcore is not needed.")
    quant_bits: int = setting(0, "Quantize the linear layers to 4 or 8 bit through bitsandbytes; 0 is off.")
    verify: bool = setting(True, "Load what was written in a fresh process and compare logits and answers.")
    dtype: DType = setting("auto", "Precision of that comparison: auto takes bf16 where the GPU has it, fp32 on a CPU.",
                          aliases=("torch_dtype",))
    device_map: str = setting("auto", "Where that comparison runs: auto (GPUs when there are any), cpu, cuda:0.")

    def __post_init__(self) -> None:
        check_values(self)
        if not self.ckpt_dir:
            raise UsageError("export without ckpt_dir", "nothing says what to export", "give --ckpt_dir FOLDER")
        if self.quant_bits not in (0, 4, 8):
            raise UsageError(f"quant_bits {self.quant_bits}", "there are 4 and 8 bit", "use 4, 8 or 0")
        if self.quant_bits and self.layout == "native":
            raise UsageError("quant_bits with layout native", "a quantized export is one that vlcore loads",
                             "leave one of them out; transformers quantizes a native folder while loading it")
        if not self.merge_lora and self.layout == "release" and not self.quant_bits:
            raise UsageError("export without merge_lora", "nothing would change",
                             "add --merge_lora true, --layout native or --quant_bits 4")


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainConfig, LoraConfig, DataConfig, LoadConfig):
    """A fine-tuning run: the model, the data, the adapters and the training in one."""

    def __post_init__(self) -> None:
        LoadConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        if self.quantization_bit and self.sft_type == "full":
            raise UsageError("sft_type full with quantization_bit", "quantized weights cannot be trained",
                             "use --sft_type lora, or leave quantization_bit out")
        apart = [name for name in ("quantization_bit", "use_rslora", "use_dora") if getattr(self, name)]
        if self.init_lora_weights == "pissa" and apart:
            raise UsageError(f"init_lora_weights pissa with {apart[0]}", "it changes weights that this changes, too",
                             "leave one of them out")


def check_values(config: Any) -> None:
    """Brings lists and paths into a field's own form and refuses what no field can take, all faults in one error.

    Raises:
        UsageError: naming every field whose value is of another type, no choice, or out of range.
    """
    faults = []
    for item, kind, several in list_options(type(config)):
        value = getattr(config, item.name)
        if several and isinstance(value, list):
            value = tuple(value)
        if kind is str:
            value = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        object.__setattr__(config, item.name, value)
        if value is None and item.default is None:
            continue
        wanted = _explain_value(item, kind, several, value)
        if wanted:
            faults.append(f"{item.name} is {value!r}, {wanted}")
    if faults:
        raise UsageError(", ".join(faults), "a setting does not take this value", "correct it")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _explain_value(item: Field[Any], kind: Any, several: bool, value: Any) -> str:
    """What a field takes, when the value is none of it; else nothing."""
    if several:
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, tuple) or not all(isinstance(each, accepted) for each in value):
            return "it takes a list"
        return next(filter(None, (_explain_range(item.metadata, each) for each in value)), "")
    choices = typing.get_args(kind)
    if choices:
        return "" if value in choices else "it takes " + " or ".join(map(str, choices))
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return f"it takes {TYPE_NAMES[kind]}"
    return _explain_range(item.metadata, value)


def _explain_range(limits: Mapping[str, Any], value: float) -> str:
    low, above, high, below = (limits[name] for name in ("minimum", "above", "maximum", "below"))
    if low is not None and not value >= low:
        return f"it takes at least {low}"
    if above is not None and not value > above:
        return f"it takes more than {above}"
    if below is not None and not value < below:
        return f"it takes less than {below}"
    return f"it takes at most {high}" if high is not None and value > high else ""


def list_options(config_type: type[Any]) -> Iterator[tuple[Field[Any], type, bool]]:
    """The fields of a configuration with the type of one value and whether several are taken."""
    hints = typing.get_type_hints(config_type)
    for item in fields(config_type):
        kinds = [kind for kind in _split_union(hints[item.name]) if kind is not type(None)]
        several = typing.get_origin(kinds[0]) is tuple
        yield item, (typing.get_args(kinds[0])[0] if several else kinds[0]), several


def read_config(config_type: type[_Config], values: Mapping[str, Any]) -> _Config:
    """A configuration from plain values, as a file or the saved configuration of a run holds them.

    Raises:
        UsageError: for keys that are not fields, with near names, and for values that a field cannot take.
    """
    names = {item.name for item in fields(config_type)}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in names]
    if unknown:
        near = " ".join(f"{key}: {suggest_near(key, names)}" for key in unknown)
        raise UsageError(f"setting {', '.join(unknown)}", "there is no such setting", near)
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def write_config(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, the reverse of `read_config`."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def default_of(item: Field[Any]) -> Any:
    """A field's default."""
    return None if item.default is MISSING else item.default


def pick(config_type: type[_Config], config: Any) -> _Config:
    """The part of a larger configuration that belongs to a smaller one."""
    return config_type(**{item.name: getattr(config, item.name) for item in fields(config_type)})  # type: ignore[arg-type]


def complete(config: _Config, values: Mapping[str, Any]) -> _Config:
    """A configuration whose unset fields take these values."""
    unset = {name: value for name, value in values.items() if getattr(config, name) is None}
    return replace(config, **unset)  # type: ignore[type-var]


def _split_union(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


#: Everything as the release has it.
RELEASE_SETTINGS = GenerateConfig()
