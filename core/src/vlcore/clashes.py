"""Plugins in each other's way, and hooks that do not exist: faults that are found, not raised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from vlcore import hookspecs
from vlcore.errors import PluginError, suggest_near

if TYPE_CHECKING:
    import pluggy
    from importlib_metadata import EntryPoint

    from vlcore.plugins import Plugin

#: The entry-point group of plugins.
GROUP = "vlcore"
#: Environment variable: a comma-separated list of the only plugins to load (empty: none but the core's own).
LIMIT = "VLCORE_PLUGINS"


def find_twins(found: Iterable[EntryPoint]) -> Iterator[PluginError]:
    """Plugins of one name, of which pluggy would skip the second in silence."""
    owners: dict[str, list[str]] = {}
    for point in found:
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        owners.setdefault(point.name, []).append(owner)
    for name, several in owners.items():
        if len(several) > 1:
            yield PluginError(f"plugin {name}", f"{' and '.join(sorted(several))} both bring it",
                              "uninstall one of them")


def find_misspelt(manager: pluggy.PluginManager, plugins: Iterable[Plugin]) -> Iterator[PluginError]:
    """Implementations of hooks that do not exist, unless they are marked `optionalhook=True`."""
    known = [name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")]
    for plugin in plugins:
        for hook in sorted(set(plugin.hooks) - set(known)):
            impls = getattr(manager.hook, hook).get_hookimpls()
            if not all(impl.optionalhook for impl in impls if impl.plugin_name == plugin.name):
                yield PluginError(
                    f"hook {hook} of {plugin.distribution} {plugin.version}",
                    "vlcore has no hook of this name",
                    f"{suggest_near(hook, known)} (correct or uninstall {plugin.distribution})",
                )


def explain_arguments(manager: pluggy.PluginManager, module: object) -> tuple[str, str] | None:
    """The first argument of a plugin's hooks that vlcore does not give, and the near names; None without such a one."""
    for name, spec in vars(hookspecs).items():
        impl = getattr(module, name, None)
        if not hasattr(spec, f"{GROUP}_spec") or not hasattr(impl, f"{GROUP}_impl"):
            continue
        known = getattr(manager.hook, name).spec.argnames
        for argument in inspect.signature(cast("Callable[..., object]", impl)).parameters.values():
            if argument.name not in known and argument.default is argument.empty:
                return f"{name} is given no argument {argument.name}", f"{suggest_near(argument.name, known)} "
    return None


def find_rivals(plugins: Sequence[Plugin]) -> Iterator[PluginError]:
    """Models, data sets and metrics whose name or hub id two plugins register."""
    models = {(plugin.name, name.lower()): (plugin, name) for plugin in plugins for family in plugin.families
              for model in family.models for name in (model.name, *model.hub_ids)}
    yield from find_shared("model", "own", models.values())
    yield from find_shared("dataset", "register", [(p, record.name) for p in plugins for record in p.datasets])
    yield from find_shared("metric", "register", [(p, metric.name) for p in plugins for metric in p.metrics])


def find_rival_types(plugins: Sequence[Plugin]) -> Iterator[PluginError]:
    """Model types of transformers whose checkpoints two plugins take."""
    types = {(plugin.name, name): (plugin, name) for plugin in plugins for family in plugin.families
             if family.recognise is None for name in family.native}
    yield from find_shared("model type", "own", types.values())


def find_shared(kind: str, verb: str, named: Iterable[tuple[Plugin, str]]) -> Iterator[PluginError]:
    """Names of records of one kind that occur twice; case is ignored."""
    owners: dict[str, Plugin] = {}
    for plugin, name in named:
        if name.lower() not in owners:
            owners[name.lower()] = plugin
        else:
            both = " and ".join(f"{p.distribution} {p.version}" for p in (owners[name.lower()], plugin))
            yield PluginError(f"{kind} {name}", f"{both} both {verb} it",
                              f"uninstall one of them, or set {LIMIT} to the plugins you want")
