"""The hook reference: each specification with its signature, arguments, result, default and example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from vlcore import hookspecs
from vlcore.clashes import GROUP
from vlcore.plugins import get_registry

from sitepages.docstring import Docstring, read_docstring
from sitepages.fill import write_table


def list_specs() -> dict[str, Callable[..., Any]]:
    """The specifications by name, in the order of the module."""
    return {name: thing for name, thing in vars(hookspecs).items() if hasattr(thing, f"{GROUP}_spec")}


def write_hooks() -> str:
    """The version of the hooks, and a section each."""
    version = f"Version {hookspecs.VERSION} of the hooks."
    return "\n\n".join([version, *(part for name, spec in list_specs().items() for part in write_hook(name, spec))])


def write_hook(name: str, spec: Callable[..., Any]) -> Iterator[str]:
    """What there is to say of a hook, paragraph by paragraph."""
    said = read_docstring(spec)
    yield f"## {name}"
    yield f"```py\n{write_signature(name, spec)}\n```"
    yield said.text
    if said.entries:
        yield write_table(["argument", "what it is"], [[f"`{key}`", text] for key, text in said.entries.items()])
    options = getattr(spec, f"{GROUP}_spec")
    for warning in filter(None, [options["warn_on_impl"], *(options["warn_on_impl_args"] or {}).values()]):
        yield f"**Deprecated:** {warning}."
    yield from write_end(name, said, options["firstresult"])


def write_end(name: str, said: Docstring, first: bool) -> Iterator[str]:
    """What comes back, how many are asked, an example, and who fills it."""
    yield f"**Returns** {said.returns[:1].lower()}{said.returns[1:]}" if said.returns else ""
    yield ("The first answer that is not `None` counts." if first else "All plugins are asked, and all answers count.")
    yield f"Example: {said.example}"
    filled = [plugin.distribution for plugin in get_registry().plugins if name in plugin.hooks]
    yield f"Filled by: {', '.join(f'`{each}`' for each in dict.fromkeys(filled)) or 'no installed plugin'}."


def write_signature(name: str, function: Callable[..., Any]) -> str:
    """A function's head as its module has it.

    >>> write_signature("f", lambda x, *y: 0)
    'def f(x, *y): ...'
    """
    signature = inspect.signature(function)
    parts = []
    for each in signature.parameters.values():
        kind = "" if each.annotation is inspect.Parameter.empty else f": {show_type(each.annotation)}"
        default = "" if each.default is inspect.Parameter.empty else f" = {each.default!r}"
        star = "*" * (each.kind is each.VAR_POSITIONAL) + "**" * (each.kind is each.VAR_KEYWORD)
        parts.append(f"{star}{each.name}{kind}{default}")
    back = signature.return_annotation
    result = "" if back is inspect.Signature.empty else f" -> {show_type(back)}"
    return f"def {name}({', '.join(parts)}){result}: ..."


def show_type(annotation: Any) -> str:
    """A type as it is written in the source."""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
