"""Adapters: what one learns is kept when it is saved, and not lost when it is merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.testing.numbers import TOLERANCE, differ
from vlcore.testing.outcome import Fault

if TYPE_CHECKING:
    import torch

    from vlcore.testing.subject import Subject

#: Seed and size of the numbers that stand for what an adapter has learnt.
SEED, SIZE = 0, 0.05


def check_adapter(subject: Subject) -> None:
    """An adapter on every linear layer learns, and is the same when it is loaded again."""
    folder, scores = write_adapter(subject, "adapter")
    loaded = score(subject.load(adapter=folder), subject)
    plain = score(subject.model, subject)
    if differ(scores, plain) <= TOLERANCE:
        raise Fault("an adapter on every linear layer", "it changes no score", "let lora_targets name layers in use")
    gap = differ(loaded, scores)
    if gap > TOLERANCE:
        raise Fault("an adapter that is loaded again", f"the scores move by {gap:.2g} of the largest",
                    "give adapted modules the same names whenever the model is loaded")


def check_merge(subject: Subject) -> None:
    """A merged model has the scores of the model with its adapter, and the tensors of its release."""
    from vlcore.export.merging import merge, read_dtypes

    folder, scores = write_adapter(subject, "merged")
    merged = merge(folder, folder.with_name(f"{folder.name}-whole"))
    gap = differ(score(subject.load(merged), subject), scores)
    before = differ(score(subject.model, subject), scores)
    if gap > TOLERANCE:
        lost = "what the adapter learnt is lost" if gap > before / 2 else "it is not what the adapter makes of it"
        raise Fault("a merged model", f"its scores move by {gap:.2g} of the largest (the adapter moves them by "
                    f"{before:.2g}): {lost}", "make the renamings of loading reversible, or correct the hook merge")
    for part in subject.checkpoint.weight_folders:
        old, new = read_dtypes(part.path), read_dtypes(merged / part.inside)
        if old != new:
            names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            raise Fault("a merged model", f"its tensors are not those of the release: {', '.join(names[:5])}",
                        "write the names and dtypes that the release has")


def score(model: Any, subject: Subject) -> torch.Tensor:
    """Scores of a row with a picture, (positions, vocabulary)."""
    scores: torch.Tensor = model.compute_logits(subject.rows["picture"])[0]
    return scores


def write_adapter(subject: Subject, name: str) -> tuple[Path, torch.Tensor]:
    """The folder of an adapter on every linear layer that has learnt something, and the scores with it."""
    import torch

    from vlcore.config import LoraConfig
    from vlcore.lora import add_adapters, quiet_peft
    from vlcore.model import VLModel

    folder = subject.new_folder(name)
    config = LoraConfig(lora_rank=2, lora_dropout_p=0.0, lora_target_modules=("ALL",))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        plain: Any = subject.load().module
        adapted = add_adapters(subject.checkpoint, plain, config)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=SIZE)
    adapted.eval()
    with quiet_peft():
        adapted.save_pretrained(str(folder))
    return folder, score(VLModel(subject.frontend, adapted), subject)
