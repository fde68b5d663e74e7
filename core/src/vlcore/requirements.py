"""What installed distributions require, held against what is installed. Reads metadata and imports nothing of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from importlib_metadata import PackageNotFoundError, distribution, version
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from vlcore.errors import PluginError

if TYPE_CHECKING:
    from importlib_metadata import IDistribution

#: The distribution of the core.
CORE = "vlcore"


@dataclass(frozen=True, slots=True)
class Unmet:
    """A requirement that what is installed does not meet.

    Attributes:
        name: the distribution that is missing or of another version, or the extra that does not exist.
        wanted: the requirement as pip takes it.
        why: what is there instead.
        run: the command that mends it.
    """

    name: str
    wanted: str
    why: str
    run: str


def read_requirements(owner: IDistribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What a distribution requires on this machine, with the given extras.

    Raises:
        packaging.requirements.InvalidRequirement: for one that cannot be read.
    """
    environments = [{"extra": extra} for extra in ("", *extras)]
    for line in owner.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate(given) for given in environments):
            yield requirement


def refuse_other_core(owner: IDistribution, plugin: str) -> None:
    """Holds a plugin's requirement on vlcore against the vlcore that runs; `pip install --no-deps` does not.

    Args:
        owner: the distribution the plugin came with.
        plugin: the plugin with its distribution and version, for the error.

    Raises:
        PluginError: when it was made for a newer or an older core.
    """
    running = version(CORE)
    for requirement in read_requirements(owner):
        if canonicalize_name(requirement.name) == CORE and not meets(requirement, running):
            newer = needs_newer(requirement, running)
            raise PluginError(plugin, f"it needs {show_bounds(requirement)}, and {CORE} {running} is installed",
                              f"run: pip install -U {CORE if newer else owner.name}")


def find_unmet(owner: IDistribution) -> Iterator[Unmet]:
    """Requirements of a distribution that are not met, and those of the extras that they name."""
    for requirement in read_requirements(owner):
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            yield miss(requirement)
            continue
        if not meets(requirement, found.version):
            yield explain_unmet(requirement, found.version, owner)
        for extra in sorted(requirement.extras):
            yield from find_missing_extra(found, extra)


def find_missing_extra(owner: IDistribution, extra: str) -> Iterator[Unmet]:
    """What a named extra of a distribution needs and is not met; or that there is no such extra."""
    wanted, known = f"{owner.name}[{extra}]", owner.metadata.get_all("Provides-Extra") or []
    if canonicalize_name(extra) not in {canonicalize_name(name) for name in known}:
        why = f"{owner.name} {owner.version} has no extra {extra}"
        yield Unmet(wanted, wanted, why, f"pip install -U {owner.name}")
        return
    plain = {str(requirement) for requirement in read_requirements(owner)}
    for requirement in read_requirements(owner, [extra]):
        if str(requirement) in plain:
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Unmet(requirement.name, wanted, f"{requirement.name} is not installed", f"pip install '{wanted}'")
            continue
        if not meets(requirement, found):
            yield explain_unmet(requirement, found, owner)


def miss(requirement: Requirement) -> Unmet:
    """A requirement of which nothing is installed."""
    wanted = show_bounds(requirement)
    return Unmet(requirement.name, wanted, "it is not installed", f"pip install '{wanted}'")


def explain_unmet(requirement: Requirement, found: str, owner: IDistribution) -> Unmet:
    """A requirement with what is installed instead, and whether that or who requires it is too old."""
    wanted = show_bounds(requirement)
    command = f"pip install '{wanted}'"
    if not needs_newer(requirement, found):
        command = f"pip install -U {owner.name}, or {command}"
    return Unmet(requirement.name, wanted, f"{requirement.name} {found} is installed", command)


def meets(requirement: Requirement, found: str) -> bool:
    """Whether a version is within a requirement; pre-releases count as any other version."""
    try:
        return requirement.specifier.contains(found, prereleases=True)
    except InvalidVersion:
        return False


def needs_newer(requirement: Requirement, found: str) -> bool:
    """Whether a version that a requirement refuses is too old, rather than too new."""
    lowest = [s.version.removesuffix(".*") for s in requirement.specifier if s.operator in (">=", ">", "==", "~=")]
    return any(Version(low) >= Version(found) for low in lowest)


def show_bounds(requirement: Requirement) -> str:
    """A requirement as pip takes it: name, extras and bounds, the lower bound first."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    bounds = sorted(map(str, requirement.specifier), key=lambda text: (text[0] not in ">=~", text))
    return f"{requirement.name}{extras}{','.join(bounds)}"
