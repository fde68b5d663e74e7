"""The models that installed plugins register, and the model types that need no plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from vlcore.family import ModelFamily
from vlcore.plugins import Plugin, get_registry

from sitepages.fill import quote, write_table


def write_models() -> str:
    """A section a distribution, in it a table a family."""
    return "\n\n".join(part for name, owners in find_owners().items() for part in write_owner(name, owners))


def find_owners() -> dict[str, list[Plugin]]:
    """The plugins that register models, by the distribution they came with."""
    owners: dict[str, list[Plugin]] = {}
    for plugin in get_registry().plugins:
        if plugin.families:
            owners.setdefault(plugin.distribution, []).append(plugin)
    return owners


def write_owner(distribution: str, plugins: Sequence[Plugin]) -> Iterator[str]:
    """The families that a distribution brings."""
    yield f"### {distribution}"
    yield f"Version {plugins[0].version}: `pip install {distribution}`."
    yield from (write_family(family) for plugin in plugins for family in plugin.families)


def write_family(family: ModelFamily) -> str:
    """A family's models, with the ids on both hubs and how each was held against its release."""
    rows = [
        [quote(model.name), "<br>".join(quote(each) for each in model.hub_ids), family.name, model.verified]
        for model in family.models
    ]
    return write_table(["name", "on the hubs", "family", "how it was verified"], rows)


def write_native() -> str:
    """The model types that were tried, then those that were not, then those that are refused."""
    from vlcore.native.family import UNFIT, list_types
    from vlcore.native.kinds import KINDS

    named = find_named()
    tried = [[quote(kind), ", ".join(map(quote, named.get(kind, ()))) or "none"] for kind in sorted(KINDS)]
    others = ", ".join(map(quote, sorted(list_types() - KINDS.keys() - UNFIT.keys())))
    refused = [[quote(kind), why] for kind, why in sorted(UNFIT.items())]
    return "\n\n".join([
        "Of these a tiny checkpoint with random weights was held against transformers' own processor, in ids and "
        "pixels; [models without a plugin](../native.md#what-was-tried) says what else was tried. No published weights "
        "were run.",
        write_table(["model type", "plugins that register models of it"], tried),
        f"Of transformers {version('transformers')}, not tried: {others}. What the defaults cannot do with one of them "
        "is refused with the reason.",
        "Refused:",
        write_table(["model type", "why"], [*refused, ["with an encoder and a decoder", "prompts are read otherwise"]]),
    ])


def find_named() -> dict[str, list[str]]:
    """The distributions whose families name a model type of transformers."""
    named: dict[str, list[str]] = {}
    for plugin in get_registry().plugins:
        for kind in (kind for family in plugin.families for kind in family.native):
            named[kind] = [*named.get(kind, []), plugin.distribution]
    return named
