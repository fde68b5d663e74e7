"""Plugins: found through the entry-point group `vlcore`, loaded each in its own try, asked through pluggy.

The manager below is the only global state of the library. It is filled on first use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import pluggy
from importlib_metadata import EntryPoint, entry_points

from vlcore import hookspecs
from vlcore.clashes import GROUP, explain_arguments, find_misspelt, find_rivals, find_twins
from vlcore.clashes import LIMIT as LIMIT
from vlcore.errors import PluginError, VlcoreDeprecationWarning, suggest_near
from vlcore.family import DatasetRecord, ModelFamily
from vlcore.metrics.record import Metric
from vlcore.requirements import refuse_other_core

#: The plugin that holds the defaults of the core.
NATIVE = "native"
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a plugin uses that a later version of the hooks will not have, and the line where it does."""

    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin as it was found.

    Attributes:
        name: its entry point's name.
        distribution: the distribution it came with, and its `version`.
        origin: the module or object the entry point names.
        families: the families it registered, and its `datasets` and `metrics`.
        hooks: names of the hooks it fills.
        failure: why it could not be loaded; empty when it was.
        remedy: what to do about the failure.
        refused: whether no command goes on before that is done.
        notices: what it uses that is deprecated.
    """

    name: str
    distribution: str
    version: str
    origin: str
    families: tuple[ModelFamily, ...] = ()
    datasets: tuple[DatasetRecord, ...] = ()
    metrics: tuple[Metric, ...] = ()
    hooks: tuple[str, ...] = ()
    failure: str = ""
    remedy: str = ""
    refused: bool = False
    notices: tuple[Notice, ...] = ()

    @property
    def title(self) -> str:
        """The plugin with its distribution, for a message."""
        return f"plugin {self.name} of {self.distribution} {self.version}"

    @property
    def fault(self) -> PluginError | None:
        """Its failure as an error."""
        given = self.title if self.refused else f"{self.title} was left out"
        return PluginError(given, self.failure, self.remedy) if self.failure else None


@dataclass(frozen=True, slots=True)
class Registry:
    """What discovery found: the manager to call hooks with, and a record of each plugin."""

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...] = field(default=())

    @property
    def families(self) -> dict[str, ModelFamily]:
        """Families by the name of the plugin and their own, `plugin/family`."""
        return {f"{p.name}/{family.name}": family for p in self.plugins for family in p.families}

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics by name."""
        return {metric.name: metric for plugin in self.plugins for metric in plugin.metrics}

    def owner_of(self, family: ModelFamily) -> Plugin:
        """The plugin that registered a family."""
        return next(plugin for plugin in self.plugins if family in plugin.families)

    def call(self, hook: str, owner: str, **arguments: Any) -> Any:
        """Calls a hook for a model: other owners are not asked, the core's default comes last.

        Plugins that own nothing take part: they may wrap the hook.

        Args:
            hook: name of the hook.
            owner: name of the plugin that owns the model.
            arguments: what the hook takes.
        """
        others = [p.name for p in self.plugins if p.families and p.name not in (owner, NATIVE)]
        removed = [self.manager.get_plugin(name) for name in others]
        return self.manager.subset_hook_caller(hook, removed)(**arguments)

    def fills(self, hook: str, owner: str) -> bool:
        """Whether a plugin, the owner of a model or one that owns nothing, takes part in a hook for that model."""
        others = {p.name for p in self.plugins if p.families and p.name != owner}
        names = {impl.plugin_name for impl in getattr(self.manager.hook, hook).get_hookimpls()}
        return bool(names - others - {NATIVE})


@dataclass(frozen=True, slots=True)
class Survey:
    """What discovery found, and every fault of it.

    Attributes:
        registry: the plugins, and the manager that holds those which could be loaded.
        refused: faults with which no command goes on.
        warned: faults that cost no more than the plugin that has them.
    """

    registry: Registry
    refused: tuple[PluginError, ...] = ()
    warned: tuple[PluginError, ...] = ()


@cache
def get_registry() -> Registry:
    """The plugins of this process, discovered once.

    Raises:
        PluginError: for two plugins of one name, a misspelt hook, or two owners of one model.
    """
    return discover(entry_points(group=GROUP), os.environ.get(LIMIT))


def discover(found: Iterable[EntryPoint], limit: str | None = None) -> Registry:
    """Loads plugins and checks them against each other.

    A plugin that cannot be loaded costs one warning; all others go on.

    Args:
        found: the entry points of the group.
        limit: comma-separated names of the only plugins to load; None loads all.

    Raises:
        PluginError: the first fault with which nothing goes on.
    """
    survey = survey_plugins(found, limit)
    for warned in survey.warned:
        warnings.warn(str(warned), stacklevel=2)
    for refused in survey.refused:
        raise refused
    for plugin in survey.registry.plugins:
        for notice in plugin.notices:
            text = f"{plugin.title}: {notice.text}"
            warnings.warn_explicit(text, VlcoreDeprecationWarning, notice.file, notice.line)
    return survey.registry


def survey_plugins(found: Iterable[EntryPoint], limit: str | None = None) -> Survey:
    """Loads plugins, checks them against each other, and keeps every fault instead of raising; as `discover`."""
    installed = list(found)
    points = choose_plugins(installed, limit)
    twins = tuple(find_twins(points))
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    loaded = [load_plugin(manager, point) for point in {point.name: point for point in reversed(points)}.values()]
    loaded.reverse()
    misspelt = tuple(find_misspelt(manager, loaded))
    plugins = tuple(add_records(manager, plugin) for plugin in loaded)
    faults = [(plugin.refused, plugin.fault) for plugin in plugins if plugin.fault]
    refused = (*twins, *(fault for fatal, fault in faults if fatal), *misspelt, *find_rivals(plugins))
    warned = (*find_unknown(installed, limit), *(fault for fatal, fault in faults if not fatal))
    return Survey(Registry(manager, plugins), refused, warned)


def read_limit(limit: str | None) -> set[str] | None:
    """The names of the only plugins to load, the core's own among them; None when all are."""
    return None if limit is None else {NATIVE, *filter(None, (name.strip() for name in limit.split(",")))}


def choose_plugins(found: Iterable[EntryPoint], limit: str | None) -> list[EntryPoint]:
    """The entry points to load, the core's own first, then by name."""
    points = sorted(found, key=lambda point: (point.name != NATIVE, point.name))
    wanted = read_limit(limit)
    return points if wanted is None else [point for point in points if point.name in wanted]


def find_unknown(found: Iterable[EntryPoint], limit: str | None) -> Iterator[PluginError]:
    """Names of plugins to load that are not installed."""
    names = {NATIVE, *(point.name for point in found)}
    for name in sorted((read_limit(limit) or set()) - names):
        yield PluginError(f"{LIMIT} names {name}", "it is not installed", suggest_near(name, names))


def load_plugin(manager: pluggy.PluginManager, point: EntryPoint) -> Plugin:
    """One plugin, registered, or with its failure. What it requires of vlcore is read before it is imported."""
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
    plugin = Plugin(point.name, name, version, point.value)
    try:
        if point.dist and point.name != NATIVE:
            refuse_other_core(point.dist, plugin.title)
        module = point.load()
        notices = register(manager, module, plugin)
    except pluggy.PluginValidationError as error:
        reason, near = explain_arguments(manager, module) or (" ".join(str(error).split()), "")
        why = f"a hook is not written as vlcore calls it ({reason})"
        do = f"{near}correct or uninstall {name}, or set {LIMIT} to the plugins you want"
        return replace(leave_out(manager, plugin, error), failure=why, remedy=do, refused=True)
    except (Exception, SystemExit) as error:
        # A plugin is somebody else's code: whatever it raises must not take the others down.
        return leave_out(manager, plugin, error)
    callers = manager.get_hookcallers(module) or []
    return replace(plugin, hooks=tuple(sorted(caller.name for caller in callers)), notices=notices)


def register(manager: pluggy.PluginManager, module: object, plugin: Plugin) -> tuple[Notice, ...]:
    """Registers a plugin's implementations; returns what is deprecated of them.

    Raises:
        pluggy.PluginValidationError: for an implementation that does not fit its hook.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VlcoreDeprecationWarning)
        manager.register(module, plugin.name)
    return tuple(Notice(str(item.message), item.filename, item.lineno) for item in caught)


def add_records(manager: pluggy.PluginManager, plugin: Plugin) -> Plugin:
    """The plugin with the families, data sets and metrics it registers; or its failure."""
    try:
        return replace(
            plugin,
            families=ask_plugin(manager, plugin, "register_models", ModelFamily),
            datasets=ask_plugin(manager, plugin, "register_datasets", DatasetRecord),
            metrics=ask_plugin(manager, plugin, "register_metrics", Metric),
        )
    except Exception as error:
        return leave_out(manager, plugin, error)


def ask_plugin(manager: pluggy.PluginManager, plugin: Plugin, hook: str, kind: type[_Record]) -> tuple[_Record, ...]:
    """What one plugin answers to a hook that registers records.

    Raises:
        TypeError: when it is of another kind.
    """
    impls = getattr(manager.hook, hook).get_hookimpls()
    answering = [impl for impl in impls if not (impl.wrapper or impl.hookwrapper)]
    if plugin.failure or plugin.name not in {impl.plugin_name for impl in answering}:
        return ()
    others = [impl.plugin for impl in answering if impl.plugin_name != plugin.name]
    answers = manager.subset_hook_caller(hook, others)()
    if not answers:
        raise TypeError(f"{hook} gave nothing; let it return a list of {kind.__name__}")
    for answer in answers:
        if not isinstance(answer, Iterable):
            raise TypeError(f"{hook} gave {kind.__name__ if isinstance(answer, kind) else repr(answer)}, "
                            f"which is no list of {kind.__name__}")
    records = tuple(record for answer in answers for record in answer)
    for record in records:
        if not isinstance(record, kind):
            raise TypeError(f"{hook} gave {record!r}, which is no {kind.__name__}")
    return records


def leave_out(manager: pluggy.PluginManager, plugin: Plugin, error: BaseException) -> Plugin:
    """The plugin with its failure and how to go on without it, taken off the manager."""
    if manager.has_plugin(plugin.name):
        manager.unregister(name=plugin.name)
    if isinstance(error, PluginError):
        return replace(plugin, hooks=(), failure=error.why, remedy=error.do)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    do = f"mend it, remove it (pip uninstall {plugin.distribution}), or set {LIMIT} to the plugins you want"
    return replace(plugin, hooks=(), failure=reason, remedy=do)
