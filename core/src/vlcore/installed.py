"""What is wrong with the plugins that are installed, each finding with what to do. Imports them and nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from importlib_metadata import EntryPoint, distribution
from packaging.requirements import InvalidRequirement
from packaging.utils import canonicalize_name

from vlcore.clashes import LIMIT, find_rival_types
from vlcore.errors import PluginError
from vlcore.plugins import Plugin, choose_plugins, survey_plugins
from vlcore.requirements import CORE, Unmet, find_unmet

if TYPE_CHECKING:
    from importlib_metadata import IDistribution


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about what is installed.

    Attributes:
        kind: `fault` for what does not work, `note` for what was chosen or will not work in a later version.
        given: the plugin, model or requirement.
        why: what is the matter with it.
        do: what to do.
    """

    kind: str
    given: str
    why: str
    do: str

    def describe(self) -> str:
        """The finding as one line."""
        return " ".join(f"{self.kind}: {self.given}: {self.why}; {self.do}".split())


def inspect_plugins(found: Iterable[EntryPoint], limit: str | None) -> list[Finding]:
    """Everything that is wrong with installed plugins, faults first.

    Args:
        found: the entry points of the group.
        limit: comma-separated names of the only plugins to load; None loads all.
    """
    points = list(found)
    chosen = choose_plugins(points, limit)
    survey = survey_plugins(points, limit)
    plugins = survey.registry.plugins
    found_out = (*survey.refused, *survey.warned, *find_rival_types(plugins), *find_empty(plugins))
    faults = [Finding("fault", e.given, e.why, e.do) for e in found_out]
    notes = [Finding("note", plugin.title, notice.text, f"it stands in {notice.file}:{notice.line}")
             for plugin in plugins for notice in plugin.notices]
    return [*faults, *check_requirements(chosen), *notes, *list_disabled(points, chosen, limit)]


def find_empty(plugins: Iterable[Plugin]) -> Iterator[PluginError]:
    """Plugins that were loaded and fill no hook, as when a mark is forgotten."""
    for plugin in plugins:
        if not plugin.hooks and not plugin.failure:
            yield PluginError(plugin.title, f"{plugin.origin} fills no hook", "mark its hooks with @vlcore.hookimpl")


def check_requirements(points: Iterable[EntryPoint]) -> Iterator[Finding]:
    """Requirements of the core and of the plugins' distributions that are not met."""
    owners = {canonicalize_name(point.dist.name): point.dist for point in points if point.dist}
    for owner in ({CORE: distribution(CORE)} | owners).values():
        for unmet in list_unmet(owner):
            # Discovery says it of a plugin's requirement on the core itself.
            if canonicalize_name(unmet.name) != CORE:
                yield Finding("fault", f"{owner.name} {owner.version} needs {unmet.wanted}", unmet.why,
                              f"run: {unmet.run}")


def list_unmet(owner: IDistribution) -> list[Unmet]:
    """Unmet requirements of a distribution; none when they cannot be read, which discovery says."""
    try:
        return list(find_unmet(owner))
    except InvalidRequirement:
        return []


def list_disabled(points: Iterable[EntryPoint], chosen: Iterable[EntryPoint], limit: str | None) -> Iterator[Finding]:
    """Installed plugins that the environment variable leaves out."""
    loaded = {point.name for point in chosen}
    for point in points:
        if point.name not in loaded:
            name = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            yield Finding("note", f"plugin {point.name} of {name}", f"{LIMIT}={limit} leaves it out",
                          f"unset {LIMIT} or add {point.name} to it")
