"""Base tensors and an adapter into merged tensors, in batches as small as conversion and adapter allow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.carry import carry_weights, make_rooms
from vlcore.errors import CheckpointError
from vlcore.export.adapted import Change, list_changes
from vlcore.export.conversion import Conversion, Group
from vlcore.shards import list_files, outline_folders, read_places, read_tensors
from vlcore.weights import check_files, check_report

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.family import WeightFolder
    from vlcore.resolve import Checkpoint


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors that are merged at once: whole groups of the conversion, and the changes that look at them."""

    groups: tuple[Group, ...]
    changes: tuple[Change, ...] = ()

    @property
    def released(self) -> list[str]:
        """Names in the release."""
        return [name for group in self.groups for name in group.released]

    @property
    def native(self) -> frozenset[str]:
        """Names in the model."""
        return frozenset(name for group in self.groups for name in group.native)

    def join(self, other: Batch) -> Batch:
        """Both as one, every group once."""
        return Batch(tuple(dict.fromkeys(self.groups + other.groups)), self.changes + other.changes)


class Scratch:
    """Memory for the tensors of a batch, used again for the next: getting fresh memory takes longer than the sums."""

    def __init__(self) -> None:
        import torch

        self.memory = torch.empty(0)

    def widen(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies in float32, as long as nothing else is widened; what is no floating-point number stays as it is."""
        import torch

        size = sum(tensor.numel() for tensor in tensors.values())
        if len(self.memory) < size:
            self.memory = torch.empty(0)  # the old one goes before the new one comes
            self.memory = torch.empty(size)
        wide, at = dict(tensors), 0
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                wide[name] = self.memory[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)
                at += tensor.numel()
        return wide


class Merger:
    """A base without its weights, and what an adapter changes in it.

    Args:
        model: the base, loaded on `meta`.
        release: where its weights are.
        adapter: the folder with the adapter; without one nothing changes.

    Raises:
        CheckpointError: when the adapter does not fit, or changes a tensor that has no place in the release.
    """

    def __init__(self, model: PreTrainedModel, release: Checkpoint, adapter: Path | None = None) -> None:
        self.folders = release.weight_folders
        for folder in self.folders:
            check_files(folder.path)
        self.tensors = tensors = outline_folders(self.folders)
        self.sources = find_sources(self.folders)
        self.conversion = Conversion(model, tensors)
        groups = list(self.conversion.list_groups(tensors))
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        check_report(self.conversion.compare(groups), release.folder)
        self.group_of = {name: group for group in groups for name in group.native}
        self.twins = {**tied, **{source: target for target, source in tied.items()}}
        self.changes = list_changes(model, adapter) if adapter else []
        self.scratch = Scratch()

    @property
    def size(self) -> int:
        """Bytes of the release's weights."""
        return sum(path.stat().st_size for folder in self.folders for path in list_files(folder.path))

    def write(self, output: Path, advance: Callable[[int], object]) -> None:
        """Writes the release's weights with the adapter merged; `advance` is told the bytes written."""
        replaced = self.replace_whole()
        batches = self.divide(replaced)
        rooms = carry_weights(self.folders, output, [name for batch in batches for name in batch.released], advance)
        for batch in batches:
            for name, tensor in self.conversion.to_release(self.merge_batch(batch, replaced)).items():
                rooms[name].fill(name, tensor)

    def write_native(self, output: Path, advance: Callable[[int], object]) -> None:
        """Writes all weights under their native names, each in the dtype it has in the release."""
        replaced = self.replace_whole()
        batches = self.divide(replaced)
        merged = {name for batch in batches for name in batch.native}
        rest = {id(group): Batch((group,)) for name, group in self.group_of.items() if name not in merged}
        rooms = make_rooms(self.outline_native(), output, advance)
        for batch in (*batches, *rest.values()):
            for name, tensor in self.merge_batch(batch, replaced).items():
                rooms[name].fill(name, tensor)

    def outline_native(self) -> dict[str, torch.Tensor]:
        """The native tensors without data, in the model's order."""
        import torch

        outlined = {}
        for name, group in self.group_of.items():
            shape = group.shapes[group.native.index(name)]
            outlined[name] = torch.empty(shape, dtype=self.tensors[group.released[0]].dtype, device="meta")
        return {name: outlined[name] for name in self.conversion.state if name in outlined}

    def merge_batch(self, batch: Batch, replaced: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The native tensors of a batch as the adapter makes them."""
        values = self.read(batch, replaced)
        for change in batch.changes:
            values |= change.apply(values)
        return values

    def replace_whole(self) -> dict[str, torch.Tensor]:
        """The trained tensors that take the place of the base's, by native name."""
        import torch

        values = {name: tensor for change in self.changes if change.whole for name, tensor in change.apply({}).items()}
        for name in [name for name in values if name not in self.group_of]:
            twin = values.get(self.twins.get(name, ""))
            if twin is None or not torch.equal(twin, values.pop(name)):
                raise self.explain_homeless(name)
        return values

    def divide(self, replaced: Collection[str]) -> list[Batch]:
        """What is merged together: groups that a change looks at with all others it looks at."""
        batch_of: dict[str, Batch] = {}
        for name in replaced:
            batch_of.setdefault(name, Batch((self.group_of[name],)))
            batch_of |= dict.fromkeys(batch_of[name].native, batch_of[name])
        for change in self.changes:
            if change.whole:
                continue
            if homeless := [name for name in change.names if name not in self.group_of]:
                raise self.explain_homeless(homeless[0])
            joined = Batch(tuple(dict.fromkeys(self.group_of[name] for name in change.names)), (change,))
            for batch in {id(batch_of[name]): batch_of[name] for name in joined.native & batch_of.keys()}.values():
                joined = batch.join(joined)
            batch_of |= dict.fromkeys(joined.native, joined)
        return list({id(batch): batch for batch in batch_of.values()}.values())

    def explain_homeless(self, name: str) -> CheckpointError:
        """The error for a changed tensor that the release does not hold."""
        twin = self.twins.get(name)
        why = f"the release holds it as {twin}, which must stay as it is" if twin else "the release does not hold it"
        return CheckpointError(f"adapter on {name}", why, "train both alike, or keep the adapter unmerged")

    def read(self, batch: Batch, replaced: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The native tensors of a batch in float32, those that were trained in full taken out of `replaced`."""
        given = {name: replaced.pop(name) for name in batch.native & replaced.keys()}
        if given.keys() == batch.native:
            return given
        base: dict[str, torch.Tensor] = {}
        for path in dict.fromkeys(self.sources[name] for name in batch.released):
            base |= read_tensors(path, [name for name in batch.released if self.sources[name] == path])
        return self.conversion.to_native(self.scratch.widen(base)) | given


def find_sources(folders: Iterable[WeightFolder]) -> dict[str, Path]:
    """The file of each tensor that a model reads."""
    places = {folder: read_places(folder.path) for folder in folders}
    return {n: folder.path / file for folder, held in places.items() for n, file in held.items() if folder.reads(n)}
