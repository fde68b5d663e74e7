"""Plugins: found through the entry-point group `vlcore`, loaded each in its own try, asked through pluggy.

The manager below is the only global state of the library. It is filled on first use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import pluggy
from importlib_metadata import EntryPoint, entry_points

from vlcore import hookspecs
from vlcore.errors import PluginError, suggest_near
from vlcore.family import DatasetRecord, ModelFamily
from vlcore.metrics.record import Metric

#: The entry-point group of plugins.
GROUP = "vlcore"
#: Environment variable: a comma-separated list of the only plugins to load (empty: none but the core's own).
LIMIT = "VLCORE_PLUGINS"
#: The plugin that holds the defaults of the core.
NATIVE = "native"
_Record = TypeVar("_Record")


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
    """
    chosen = choose_plugins(found, limit)
    check_names(chosen)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    loaded = [load_plugin(manager, point) for point in chosen]
    check_hooks(manager, loaded)
    plugins = tuple(add_records(manager, plugin) for plugin in loaded)
    check_owners(plugins)
    return Registry(manager, plugins)


def choose_plugins(found: Iterable[EntryPoint], limit: str | None) -> list[EntryPoint]:
    """The entry points to load, the core's own first, then by name; a name that is not there costs a warning."""
    points = sorted(found, key=lambda point: (point.name != NATIVE, point.name))
    if limit is None:
        return points
    wanted = {NATIVE, *filter(None, (name.strip() for name in limit.split(",")))}
    names = {NATIVE, *(point.name for point in points)}
    for name in sorted(wanted - names):
        near = suggest_near(name, names)
        warnings.warn(f"{LIMIT} names {name}, which is not installed; {near}", stacklevel=2)
    return [point for point in points if point.name in wanted]


def load_plugin(manager: pluggy.PluginManager, point: EntryPoint) -> Plugin:
    """One plugin, registered; or its failure, with one warning that says how to go on without it.

    Raises:
        PluginError: for an implementation that does not fit its hook.
    """
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
    plugin = Plugin(point.name, name, version, point.value)
    try:
        module = point.load()
        manager.register(module, point.name)
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"plugin {point.name} of {name} {version}",
            "a hook is not written as vlcore calls it (" + " ".join(str(error).split()) + ")",
            f"correct or uninstall {name}, or set {LIMIT} to the plugins you want",
        ) from error
    except (Exception, SystemExit) as error:
        # A plugin is somebody else's code: whatever it raises must not take the others down.
        return leave_out(manager, plugin, error)
    callers = manager.get_hookcallers(module) or []
    return replace(plugin, hooks=tuple(sorted(caller.name for caller in callers)))


def add_records(manager: pluggy.PluginManager, plugin: Plugin) -> Plugin:
    """The plugin with the families, data sets and metrics it registers; or its failure, with one warning."""
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
    records = tuple(record for answer in answers for record in answer)
    for record in records:
        if not isinstance(record, kind):
            raise TypeError(f"{hook} gave {record!r}, which is no {kind.__name__}")
    return records


def leave_out(manager: pluggy.PluginManager, plugin: Plugin, error: BaseException) -> Plugin:
    """The plugin with its failure, taken off the manager; one warning says how to go on without it."""
    if manager.has_plugin(plugin.name):
        manager.unregister(name=plugin.name)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    warnings.warn(
        f"plugin {plugin.name} of {plugin.distribution} {plugin.version} was left out: {reason}; "
        f"mend it, remove it (pip uninstall {plugin.distribution}), or set {LIMIT} to the plugins you want",
        stacklevel=2,
    )
    return replace(plugin, hooks=(), failure=reason)


def check_names(found: Iterable[EntryPoint]) -> None:
    """Refuses two plugins of one name, of which pluggy would skip the second in silence."""
    owners: dict[str, list[str]] = {}
    for point in found:
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        owners.setdefault(point.name, []).append(owner)
    for name, several in owners.items():
        if len(several) > 1:
            both = " and ".join(sorted(several))
            raise PluginError(f"plugin {name}", f"{both} both bring it", "uninstall one of them")


def check_hooks(manager: pluggy.PluginManager, plugins: Iterable[Plugin]) -> None:
    """Refuses implementations of hooks that do not exist, unless they are marked `optionalhook=True`."""
    known = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")]
    for plugin in plugins:
        for hook in set(plugin.hooks) - set(known):
            impls = getattr(manager.hook, hook).get_hookimpls()
            if not all(impl.optionalhook for impl in impls if impl.plugin_name == plugin.name):
                raise PluginError(
                    f"hook {hook} of {plugin.distribution} {plugin.version}",
                    "vlcore has no hook of this name",
                    f"{suggest_near(hook, known)} (correct or uninstall {plugin.distribution})",
                )


def check_owners(plugins: Iterable[Plugin]) -> None:
    """Refuses two plugins that register one model name or hub id."""
    owners: dict[str, Plugin] = {}
    for plugin in plugins:
        for model in (model for family in plugin.families for model in family.models):
            for name in (model.name, *model.hub_ids):
                other = owners.setdefault(name.lower(), plugin)
                if other is not plugin:
                    both = " and ".join(f"{p.distribution} {p.version}" for p in (other, plugin))
                    raise PluginError(
                        f"model {name}",
                        f"{both} both own it",
                        f"uninstall one of them, or set {LIMIT} to the plugins you want",
                    )
    check_names_of_records("dataset", [(plugin, record.name) for plugin in plugins for record in plugin.datasets])
    check_names_of_records("metric", [(plugin, metric.name) for plugin in plugins for metric in plugin.metrics])


def check_names_of_records(kind: str, named: Iterable[tuple[Plugin, str]]) -> None:
    """Refuses two records of one kind and name, such as two data sets."""
    owners: dict[str, Plugin] = {}
    for plugin, name in named:
        if name.lower() in owners:
            both = " and ".join(f"{p.distribution} {p.version}" for p in (owners[name.lower()], plugin))
            raise PluginError(f"{kind} {name}", f"{both} both register it",
                              f"uninstall one of them, or set {LIMIT} to the plugins you want")
        owners[name.lower()] = plugin
