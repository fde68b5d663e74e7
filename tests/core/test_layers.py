"""The import graph of the core: modules import from their own layer or a lower one, and there is no cycle.

Only imports at the head of a module count. Those inside functions bring in what is heavy when it is needed, and
those under TYPE_CHECKING are for the reader.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import vlcore

#: Each module of the core in its layer; a package stands for everything below it.
LAYERS = [
    {"errors", "messages", "family", "config", "hookspecs", "recorder", "table"},
    {"clashes", "installed", "plugins", "requirements", "resolve", "hub", "template", "tokenizer",
     "detokenizer", "terminal", "transcript", "dataset", "boxes", "fonts", "metrics"},
    {"loops", "media", "resample", "video"},
    {"attention", "batch", "cache", "carry", "decoding", "layout", "footprint", "joining", "native", "packing",
     "placement", "shards", "spread", "weights", "lora"},
    {"budget", "checkpoint", "forecast", "generate", "ledger", "model", "prefix", "talk"},
    {"answers", "doctor", "evaluate", "export", "plan", "train", "worklist"},
    {"cli", "compat", "console", "contact", "demo", "fetch", "parity", "testing", "scaffold", "serve", "web"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
ROOT = Path(vlcore.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path.parent != ROOT or path.stem != "__init__"
}


def list_imports(path: Path) -> set[str]:
    """Modules of the core that a module imports at its head."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        assert not isinstance(node, ast.ImportFrom) or not node.level, f"{path}: imports are absolute"
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("vlcore.") for name in names} & set(MODULES)


GRAPH = {name: list_imports(path) for name, path in MODULES.items()}


def layer(module: str) -> int:
    return LAYER_OF[module.split(".")[0]]


def test_every_module_has_a_layer_and_every_layer_its_modules():
    assert {name.split(".")[0] for name in MODULES} == set(LAYER_OF)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_from_its_own_layer_or_a_lower_one(module):
    above = {other for other in GRAPH[module] if layer(other) > layer(module)}
    assert not above, f"{module} is in layer {layer(module)}"


def test_imports_have_no_cycle():
    # Importing a module runs its packages first, which are part of the graph only by name.
    list(TopologicalSorter(GRAPH).static_order())
