"""Plugins that are wrong on purpose, one fault each: the check that is there for it finds it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import vlcore_deepseek_vl as good
from safetensors.torch import save_file
from vlcore import hookimpl
from vlcore.family import ModelRecord, Parts
from vlcore.plugins import get_registry
from vlcore.testing import processes
from vlcore.testing.kit import CHECKS, find_families, run_check
from vlcore.testing.outcome import Outcome
from vlcore.testing.subject import TEXTS, Subject
from vlcore.weights import save_release

DATA = Path(__file__).parents[2] / "parity" / "data"
FAMILY = good.FAMILY
Hooks = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Wrong:
    """A fault: the check that must find it, a name, the hooks that are wrong, and words of what is said."""

    check: str
    name: str
    make: Callable[[], Hooks]
    words: str


WRONG: list[Wrong] = []


def fault(check: str, words: str) -> Callable[[Callable[[], Hooks]], Callable[[], Hooks]]:
    """Notes a fault: a function that makes the wrong hooks."""

    def note(make: Callable[[], Hooks]) -> Callable[[], Hooks]:
        WRONG.append(Wrong(check, make.__name__, make, words))
        return make

    return note


def family(**changes: Any) -> Hooks:
    """A plugin whose family has other values."""
    changed = replace(FAMILY, **changes)
    return {"register_models": lambda: [changed]}


def template(change: Callable[[Any, Sequence[Any], Any], Sequence[Any]]) -> Hooks:
    """A plugin whose template changes its segments: a function of the segments, the messages and the options."""

    def build_template(checkpoint: Any) -> Any:
        made = good.build_template(checkpoint)
        write = made.write_segments

        def write_segments(messages: Sequence[Any], options: Any) -> tuple[Any, ...]:
            return tuple(change(list(write(messages, options)), messages, options))

        object.__setattr__(made, "write_segments", write_segments)
        return made

    return {"build_template": build_template}


def processor(**methods: Callable[..., Any]) -> Hooks:
    """A plugin whose media processor has other methods; each is given the sound processor first."""

    def preprocess_media(checkpoint: Any, tokenizer: Any) -> Any:
        made = good.preprocess_media(checkpoint, tokenizer)
        bound = {name: (lambda *given, _method=method: _method(made, *given)) for name, method in methods.items()}
        sound = {"image_token_id": made.image_token_id, "plan": made.plan, "load": made.load}
        if hasattr(made, "normalise"):
            sound["normalise"] = made.normalise
        return SimpleNamespace(**(sound | bound))

    return {"preprocess_media": preprocess_media}


def model(change: Callable[[Any], None]) -> Hooks:
    """A plugin whose model is changed after it is loaded."""

    def load_model(checkpoint: Any, config: Any) -> Any:
        made = good.load_model(checkpoint, config)
        change(made)
        return made

    return {"load_model": load_model}


def inputs(change: Callable[[dict[str, Any]], None]) -> Hooks:
    """A plugin whose model changes what it is given."""

    def before(module: Any, given: Any, named: dict[str, Any]) -> Any:
        change(named)
        return given, named

    return model(lambda made: made.register_forward_pre_hook(before, with_kwargs=True))


def outputs(change: Callable[[Any, dict[str, Any]], torch.Tensor]) -> Hooks:
    """A plugin whose model changes its scores."""

    def behind(module: Any, given: Any, named: dict[str, Any], output: Any) -> Any:
        output.logits = change(output.logits, named)
        return output

    return model(lambda made: made.register_forward_hook(behind, with_kwargs=True))


@fault("records", "it answers True")
def claims_every_checkpoint() -> Hooks:
    return family(recognise=lambda config, folder: True)


@fault("records", "'of_somebody_else'")
def claims_what_has_keys_of_its_own() -> Hooks:
    return family(recognise=lambda config, folder: {"vision_config", "language_config"} <= config.keys())


@fault("records", "it raises KeyError")
def stumbles_over_foreign_checkpoints() -> Hooks:
    return family(recognise=lambda config, folder: "vision_config" in config or config["model_type"] == "mine")


@fault("records", "it answers 'not mine'")
def rejects_what_is_not_its_own() -> Hooks:
    return family(reject=lambda config, folder: "not mine")


@fault("records", "several records answer to it")
def registers_a_model_twice() -> Hooks:
    return family(models=(ModelRecord(name="a", huggingface="x/A"), ModelRecord(name="b", huggingface="x/a")))


@fault("records", "is no hub id")
def has_no_hub_id() -> Hooks:
    return family(models=(ModelRecord(name="a", huggingface="just-a-name"),))


@fault("records", "<image> is not among")
def has_no_image_tag() -> Hooks:
    return family(tags=("<picture>",))


@fault("records", "is no setting of generation")
def misspells_a_setting() -> Hooks:
    return family(generation={"max_tokens": 3})


def write_at_random(family: Any, folder: Path, texts: Any, seed: int) -> bool:
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(os.urandom(8))
    return True


def write_moving(family: Any, folder: Path, texts: Any, seed: int) -> bool:
    torch.rand(1)
    return good.write_tiny(family, folder, texts, seed)


@fault("tiny", "write different files (weights)")
def writes_another_checkpoint_each_time() -> Hooks:
    return {"write_tiny": write_at_random}


@fault("tiny", "moves torch's random numbers")
def writes_with_the_numbers_of_others() -> Hooks:
    return {"write_tiny": write_moving}


@fault("tiny", "two seeds write the same weights")
def takes_no_seed() -> Hooks:
    return {"write_tiny": lambda family, folder, texts, seed: good.write_tiny(family, folder, texts, 0)}


@fault("tiny", "let it return True")
def writes_and_returns_nothing() -> Hooks:
    return {"write_tiny": lambda family, folder, texts, seed: good.write_tiny(family, folder, texts, seed) and None}


@fault("tiny", "it writes no config.json, only weights")
def writes_no_configuration() -> Hooks:
    return {"write_tiny": lambda family, folder, texts, seed: bool((folder / "weights").write_bytes(b"1"))}


@fault("tiny", "fill the hook write_tiny")
def writes_none() -> Hooks:
    return {"write_tiny": lambda family, folder, texts, seed: None}


def load_leniently(checkpoint: Any, config: Any) -> Any:
    from vlcore_deepseek_vl.modeling import choose_class
    from vlcore_deepseek_vl.release import native_config

    if config.device_map == "meta":
        return good.load_model(checkpoint, config)
    return choose_class(checkpoint.config).from_pretrained(checkpoint.folder, config=native_config(checkpoint)).eval()


@fault("load", "it is loaded without a word")
def loses_a_tensor() -> Hooks:
    return {"load_model": load_leniently}


@fault("load", "there are weights on cpu")
def reads_weights_for_a_plan() -> Hooks:
    return {"load_model": lambda checkpoint, config: good.load_model(checkpoint, replace(config, device_map="cpu"))}


@fault("load", "transformers has no models of type multi_modality; let the plugin's load_model return one")
def returns_no_model() -> Hooks:
    return {"load_model": lambda checkpoint, config: None}


@fault("load", "training mode")
def loads_in_training_mode() -> Hooks:
    return model(lambda made: made.train())


@fault("parts", "parameters belong to none")
def has_a_parameter_of_no_part() -> Hooks:
    return family(parts=replace(FAMILY.parts, projector=("nothing",)))


@fault("parts", "not the language model")
def counts_the_head_to_the_projector() -> Hooks:
    parts = FAMILY.parts
    return family(parts=Parts(language=("model.language_model",), vision=parts.vision,
                              projector=(*parts.projector, "lm_head")))


@fault("labels", "1 tokens before the end of its prompt")
def masks_one_token_too_few() -> Hooks:
    def change(segments: list[Any], messages: Any, options: Any) -> list[Any]:
        # The role in front of an answer is "Assistant:", of which the last token is now trained as well.
        cut = [[replace(s, text="Assistant"), replace(s, text=":", trained=options.train)] if s.text == "Assistant:"
               else [s] for s in segments]
        return [segment for pieces in cut for segment in pieces]

    return template(change)


@fault("labels", "its end is not trained")
def does_not_train_the_end() -> Hooks:
    return template(lambda segments, messages, options: [
        replace(s, trained=s.trained and s.kind != "special") for s in segments])


@fault("labels", "something behind its end is trained")
def trains_what_follows_the_end() -> Hooks:
    def change(segments: list[Any], messages: Any, options: Any) -> list[Any]:
        ends = [s.trained and s.kind == "special" for s in segments]
        return [piece for s, end in zip(segments, ends, strict=True)
                for piece in ([s, replace(s, text="\n", kind="text")] if end else [s])]

    return template(change)


@fault("labels", "stretches are trained for")
def trains_the_questions() -> Hooks:
    return template(lambda segments, messages, options: [
        replace(s, trained=options.train and (s.trained or s.text == "User:")) for s in segments])


@fault("labels", "return a tuple with a Plan for each slot")
def plans_once_for_all() -> Hooks:
    return processor(plan=lambda made, slots, options: made.plan(slots, options)[0])


@fault("media", "it gives a Tensor; return tensors by the names of the model's arguments")
def loads_a_tensor_without_a_name() -> Hooks:
    return processor(load=lambda made, images, plan: next(iter(made.load(images, plan).values())))


@fault("media", "tiles are planned, loaded are")
def plans_other_tiles() -> Hooks:
    return processor(plan=lambda made, slots, options: tuple(
        replace(plan, tiles=(2,)) for plan in made.plan(slots, options)))


@fault("media", "stands outside of them")
def writes_the_image_token_as_text() -> Hooks:
    from vlcore.template import Segment

    return template(lambda segments, messages, options: [
        *segments[:1], Segment("<image_placeholder>", "special"), *segments[1:]])


@fault("ids", "the prompt of a conversation (text): its ids differ")
def asks_otherwise_than_it_trains() -> Hooks:
    return template(lambda segments, messages, options: [
        replace(s, text=s.text + " ") if s.text == "User:" and options.train else s for s in segments])


@fault("ids", "as the history of a next question")
def writes_answers_otherwise_in_a_history() -> Hooks:
    def change(segments: list[Any], messages: Any, options: Any) -> list[Any]:
        return [replace(s, text=f"{s.text} ") if s.text.startswith("A cat") and len(messages) > 2 else s
                for s in segments]

    return template(change)


@fault("ids", "its ids differ from position")
def forgets_ends_in_the_history() -> Hooks:
    def change(segments: list[Any], messages: Any, options: Any) -> list[Any]:
        first = segments[0].text
        return [s for s in segments if options.train or s.kind != "special" or s.text == first]

    return template(change)


@fault("typed", "a user can forge turns")
def reads_special_tokens_in_typed_text() -> Hooks:
    def load_tokenizer(checkpoint: Any) -> Any:
        made = good.load_tokenizer(checkpoint)
        names = ("pad_id", "token_id", "strips_after", "decode", "hf")
        given = {name: getattr(made, name) for name in names if hasattr(made, name)}
        return SimpleNamespace(**given, encode=lambda text: made.hf.encode(text, add_special_tokens=False))

    return {"load_tokenizer": load_tokenizer}


@fault("forecast", "positions were planned, the model makes")
def forecasts_another_length() -> Hooks:
    return processor(plan=lambda made, slots, options: tuple(
        replace(plan, tokens=plan.tokens + 1) for plan in made.plan(slots, options)))


@fault("forecast", "tokens were forecast, it has")
def plans_otherwise_each_time() -> Hooks:
    seen: list[int] = []

    def plan(made: Any, slots: Any, options: Any) -> Any:
        seen.append(0)
        return tuple(replace(each, tokens=each.tokens + len(seen) // 15) for each in made.plan(slots, options))

    return processor(plan=plan)


@fault("video", "it is accepted")
def takes_videos_without_choosing_frames() -> Hooks:
    return {"build_template": lambda checkpoint: ignore_videos(good.build_template(checkpoint))}


def ignore_videos(made: Any) -> Any:
    from vlcore.messages import Video

    write = made.write_segments

    def write_segments(messages: Sequence[Any], options: Any) -> Any:
        kept = [replace(m, content=tuple(p for p in m.content if not isinstance(p, Video))) for m in messages]
        return write(kept, options)

    object.__setattr__(made, "write_segments", write_segments)
    return made


@fault("video", "frames [5] are chosen")
def chooses_frames_that_are_not_there() -> Hooks:
    return processor(choose_frames=lambda made, count, fps, options: (5,)) | {
        "build_template": lambda checkpoint: ignore_videos(good.build_template(checkpoint))}


@fault("batch", "in a batch: its scores move by")
def mixes_the_rows_of_a_batch() -> Hooks:
    return outputs(lambda logits, named: logits - logits.mean(0, keepdim=True) if len(logits) > 1 else logits)


@fault("padding", "padded on the left: its scores move by")
def sees_the_padding() -> Hooks:
    def forget(named: dict[str, Any]) -> None:
        named.pop("attention_mask", None)
        named.pop("position_ids", None)

    return inputs(forget)


@fault("packing", "packed with others")
def lets_packed_rows_see_each_other() -> Hooks:
    def count_on(named: dict[str, Any]) -> None:
        if named.get("attention_mask") is None and named.get("past_key_values") is None:
            named["position_ids"] = torch.arange(named["input_ids"].shape[1])[None]

    return inputs(count_on)


@fault("answers", "in a batch it is")
def mixes_answers() -> Hooks:
    return outputs(lambda logits, named: logits.roll(1, 0) if logits.shape[1] == 1 else logits)


@fault("answers", "its pieces make")
def cleans_answers_from_their_end() -> Hooks:
    def build_template(checkpoint: Any) -> Any:
        made = good.build_template(checkpoint)
        object.__setattr__(made, "clean_answer", lambda text: text[1:] if len(text) > 8 else text)
        return made

    return {"build_template": build_template}


@fault("reuse", "its scores move by")
def reuses_wrong_keys() -> Hooks:
    def shift(named: dict[str, Any]) -> None:
        cache = named.get("past_key_values")
        if cache is not None and cache.get_seq_length() and named["input_ids"].shape[1] > 1:
            cache.layers[0].keys.mul_(0.9)

    return inputs(shift)


@fault("targets", "belongs to vision")
def adapts_the_vision_tower() -> Hooks:
    return {"lora_targets": lambda checkpoint, model, choice: [
        name for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not model.lm_head
        and (choice == "ALL" or "vision" in name or name.endswith("q_proj"))]}


def choose_linear(model: Any, *words: str) -> list[str]:
    """The linear layers whose names hold one of some words, without the head."""
    return [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)
            and layer is not model.lm_head and any(word in name for word in words)]


@fault("targets", "is no layer of attention")
def adapts_more_than_attention() -> Hooks:
    words = {"DEFAULT": "language_model", "ALL": ""}
    return {"lora_targets": lambda checkpoint, model, choice: choose_linear(model, words[choice])}


@fault("targets", "no layer of part vision is among them")
def leaves_the_vision_tower_out_of_all() -> Hooks:
    words = {"DEFAULT": ["language_model.layers.0.self_attn.q_proj"], "ALL": ["language_model", "aligner"]}
    return {"lora_targets": lambda checkpoint, model, choice: choose_linear(model, *words[choice])}


@fault("targets", "the model has no module")
def adapts_what_is_not_there() -> Hooks:
    return {"lora_targets": lambda checkpoint, model, choice: ["model.language_model.layers.0.attention.wqkv"]}


@fault("targets", "is a Embedding")
def adapts_what_is_not_linear() -> Hooks:
    return {"lora_targets": lambda checkpoint, model, choice: ["model.language_model.embed_tokens"]}


@fault("targets", "the head is among them")
def adapts_the_head() -> Hooks:
    return {"lora_targets": lambda checkpoint, model, choice: [
        name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)
        and (choice == "ALL" or "language_model.layers.0.self_attn" in name)]}


@fault("targets", "no module is chosen")
def names_no_attention() -> Hooks:
    return family(attention=("wqkv",))


@fault("gradients", "part vision: no gradient reaches it")
def detaches_the_vision_tower() -> Hooks:
    def cut(made: Any) -> None:
        first = made.get_submodule(FAMILY.parts.projector[0])
        first.register_forward_pre_hook(lambda module, given: tuple(g.detach() for g in given))

    return model(cut)


@fault("gradients", "changes when activations are recomputed")
def counts_its_calls() -> Hooks:
    def count(made: Any) -> None:
        layer, calls = made.model.language_model.layers[0], []
        layer.input_layernorm.register_forward_hook(
            lambda module, given, output: calls.append(0) or output * (1 + len(calls)))

    return model(count)


@fault("adapter", "loaded again: the scores move by")
def loads_otherwise_each_time() -> Hooks:
    calls: list[int] = []

    def scale(made: Any) -> None:
        calls.append(0)
        with torch.no_grad():
            made.lm_head.weight.mul_(1 + len(calls) / 10)

    return model(scale)


@fault("adapter", "it changes no score")
def adapts_what_is_not_used() -> Hooks:
    def load_model(checkpoint: Any, config: Any) -> Any:
        made = good.load_model(checkpoint, config)
        made.add_module("spare", torch.nn.Linear(4, 4))
        return made

    return {"load_model": load_model, "lora_targets": lambda checkpoint, model, choice: ["spare"]}


def write_the_base(checkpoint: Any, model: Any, output: Path) -> bool:
    shutil.copytree(checkpoint.folder, output, dirs_exist_ok=True)
    return True


@fault("merge", "what the adapter learnt is lost")
def loses_what_was_learnt() -> Hooks:
    return {"merge": write_the_base}


def change_saved(change: Callable[[dict[str, Any]], None]) -> Hooks:
    """A plugin that changes tensors when it saves."""
    from vlcore.shards import read_tensors, write_tensors

    def merge(checkpoint: Any, model: Any, output: Path) -> bool:
        save_release(checkpoint, model, output)
        tensors = read_tensors(output / "model.safetensors")
        change(tensors)
        write_tensors(output / "model.safetensors", tensors)
        return True

    return {"merge": merge}


@fault("release", "tensors are lost")
def saves_without_a_tensor() -> Hooks:
    return change_saved(lambda tensors: tensors.pop(min(tensors)))


@fault("release", "other numbers")
def rounds_when_it_saves() -> Hooks:
    return change_saved(lambda tensors: tensors.update({n: t.bfloat16().float() for n, t in tensors.items()}))


@fault("release", "is saved as")
def turns_a_tensor_when_it_saves() -> Hooks:
    name = "language_model.lm_head.weight"
    return change_saved(lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))


@fault("release", "files of the release are missing")
def leaves_the_tokenizer_behind() -> Hooks:
    def merge(checkpoint: Any, model: Any, output: Path) -> bool:
        save_release(checkpoint, model, output)
        (output / "tokenizer.json").unlink()
        return True

    return {"merge": merge}


@fault("recorded", "logits_last differs by")
def computes_otherwise_than_the_release() -> Hooks:
    return outputs(lambda logits, named: logits * 1.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint that the wrong plugins share."""
    folder = tmp_path_factory.mktemp("tiny")
    good.write_tiny(FAMILY, folder, TEXTS, 0)
    return folder


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recorded case."""
    source = DATA / "deepseek_vl" / "deepseek-vl-7b-chat-tiny"
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "cases").mkdir()
    (folder / "checkpoint").symlink_to(source / "checkpoint")
    for name in ("text_only.json", "text_only.safetensors"):
        shutil.copyfile(source / "cases" / name, folder / "cases" / name)
    return folder


@pytest.fixture
def run(use_plugins: Any, make_point: Any, tiny: Path, parity: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a check on DeepSeek-VL with other hooks."""

    def check(name: str, hooks: Mapping[str, Callable[..., Any]], own_tiny: bool = False) -> Outcome:
        plugin = ModuleType("wrong")
        filled = {key: value for key, value in vars(good).items() if hasattr(value, "vlcore_impl")}
        for key, function in {**filled, **hooks}.items():
            setattr(plugin, key, function if hasattr(function, "vlcore_impl") else hookimpl(function))
        registry = use_plugins(make_point("wrong", plugin))
        (found,) = (each for each in registry.plugins if each.name == "wrong")
        assert not found.failure
        subject = Subject(found, found.families[0], tmp_path / "work", (parity,))
        if not own_tiny:
            vars(subject)["folder"] = tiny
        return run_check(name, subject)

    return check


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_plugin_that(wrong: Wrong, run: Callable[..., Outcome]) -> None:
    outcome = run(wrong.check, wrong.make(), own_tiny=wrong.check == "tiny")
    assert outcome.failed, wrong.check
    assert wrong.words in outcome.text
    assert outcome.describe().endswith(f"see docs/plugins/checks.md#{wrong.check}")


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("import", "processes")])
def test_a_sound_plugin_passes(check: str, run: Callable[..., Outcome]) -> None:
    outcome = run(check, {})
    assert outcome.state == ("not applicable" if check == "video" else "passed"), outcome.text


PROJECT = {
    "vlcore_wrong-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: vlcore-wrong\nVersion: 1\n",
    "vlcore_wrong-1.dist-info/entry_points.txt": "[vlcore]\nwrong = vlcore_wrong\n",
}
#: Modules of plugins that a fresh process must find, by the check that must find their fault, with words of it.
MODULES = {
    "numpy": ("import", "import numpy", "it imports numpy"),
    "socket": ("import", "import socket\nsocket.socket().close()", "reaches outside of its process (socket.__new__)"),
    "program": ("import", "import subprocess\nsubprocess.run(['true'])", "subprocess.Popen"),
    "raises": ("import", "if 'vlcore.plugins' not in sys.modules: raise RuntimeError('out of order')", "out of order"),
    "hook": ("import", "def register_metrics():\n    import numpy\n    return []", "it imports numpy"),
    "text": ("processes", """
def load_model(checkpoint, config):
    made = vlcore_deepseek_vl.load_model(checkpoint, config)
    made.register_forward_pre_hook(refuse, with_kwargs=True)
    return made

def refuse(module, given, named):
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 0:
        raise RuntimeError("no pictures in this batch")
""", "one of them fails (RuntimeError: no pictures in this batch)"),
}
HEAD = "import os, sys\nimport vlcore\nimport vlcore_deepseek_vl\nfrom vlcore_deepseek_vl import *\n"


@pytest.mark.parametrize("name", MODULES)
def test_an_installed_plugin_that_is_wrong(
    name: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, code, words = MODULES[name]
    head = HEAD + ("import torch\n" if check == "processes" else "")
    hooks = ("register_models", "load_tokenizer", "load_model", "build_template", "preprocess_media", "write_tiny")
    own = [f"{hook} = vlcore_deepseek_vl.{hook}" for hook in hooks]
    marked = code.replace("def load_model", "@vlcore.hookimpl\ndef load_model")
    (tmp_path / "vlcore_wrong.py").write_text("\n".join([head, *own, marked, ""]))
    for path, text in PROJECT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("VLCORE_PLUGINS", "wrong")
    monkeypatch.delitem(sys.modules, "vlcore_wrong", raising=False)
    get_registry.cache_clear()
    try:
        ((plugin, found),) = find_families("wrong")
        subject = Subject(plugin, found, tmp_path / "work")
        vars(subject)["folder"] = tiny
        outcome = run_check(check, subject)
    finally:
        get_registry.cache_clear()
    assert outcome.failed
    assert words in outcome.text


def test_two_processes_that_compute_otherwise_are_found(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(folder: Path) -> None:
        save_file({"loss": torch.ones(1)}, folder / processes.TOLD)

    monkeypatch.setattr(processes, "run_processes", pretend)
    assert "the loss of two processes: it differs by" in run("processes", {}).text


def test_processes_that_wait_for_each_other_are_ended(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = SimpleNamespace(returncode=processes.WAITING, stderr="")
    monkeypatch.setattr(processes.subprocess, "run", lambda *given, **named: ended)
    assert "they wait for each other" in run("processes", {}).text


def test_a_language_model_that_knows_no_borders_of_rows_is_not_held_to_packing(run: Callable[..., Outcome]) -> None:
    def count_on(module: Any, given: Any, named: dict[str, Any]) -> Any:
        if named.get("attention_mask") is None:
            states = named["input_ids"] if named.get("inputs_embeds") is None else named["inputs_embeds"]
            named["position_ids"] = torch.arange(states.shape[1])[None]
        return given, named

    hooks = model(lambda made: made.get_decoder().register_forward_pre_hook(count_on, with_kwargs=True))
    outcome = run("packing", hooks)
    assert outcome.state == "not applicable", outcome.text
    assert "LlamaModel: the model lets rows see what is packed before them" in outcome.text


def test_every_check_has_a_plugin_that_fails_it() -> None:
    assert {wrong.check for wrong in WRONG} | {check for check, _, _ in MODULES.values()} == set(CHECKS)
