"""The kit: which checks there are, which families a name means, and running the ones on the others."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import MappingProxyType

from vlcore.errors import UsageError, VlcoreError, first_line, suggest_near
from vlcore.family import ModelFamily
from vlcore.parity import find_cases
from vlcore.plugins import NATIVE, Plugin, get_registry
from vlcore.resolve import open_checkpoint
from vlcore.testing import adapters, answers, encoding, files, numbers, origin, parts, processes, recorded
from vlcore.testing.outcome import Fault, NotApplicable, Outcome
from vlcore.testing.subject import Subject

#: A check: returns when a family does what it must.
Check = Callable[[Subject], None]
#: The checks by name, in the order in which they are run: what others build upon comes first.
CHECKS: Mapping[str, Check] = MappingProxyType({
    "import": origin.check_import,
    "records": origin.check_records,
    "tiny": origin.check_tiny,
    "load": files.check_load,
    "parts": parts.check_parts,
    "labels": encoding.check_labels,
    "media": encoding.check_media,
    "ids": encoding.check_ids,
    "typed": encoding.check_typed,
    "forecast": encoding.check_forecast,
    "video": encoding.check_video,
    "batch": numbers.check_batch,
    "padding": numbers.check_padding,
    "packing": numbers.check_packing,
    "answers": answers.check_answers,
    "reuse": answers.check_reuse,
    "targets": parts.check_targets,
    "gradients": numbers.check_gradients,
    "adapter": adapters.check_adapter,
    "merge": adapters.check_merge,
    "release": files.check_release,
    "processes": processes.check_processes,
    "recorded": recorded.check_recorded,
})


def find_families(name: str, family: str = "") -> list[tuple[Plugin, ModelFamily]]:
    """The families that a name means, each with its plugin.

    Args:
        name: of a plugin, a distribution, a family (`family` or `plugin/family`), or one of transformers' own model
            types that the core takes without a plugin.
        family: only the family of this name.

    Raises:
        UsageError: when nothing is meant, with near names; when the plugin could not be loaded, with the reason.
    """
    plugins, found, known = get_registry().plugins, [], set[str]()
    for plugin in plugins:
        known |= {plugin.name, plugin.distribution} if plugin.name != NATIVE else set()
        if plugin.failure and name in (plugin.name, plugin.distribution):
            raise UsageError(f"plugin {plugin.name}", f"it cannot be loaded ({plugin.failure})", plugin.remedy)
        for each in plugin.families:
            names = {plugin.name, plugin.distribution, each.name, f"{plugin.name}/{each.name}"}
            known |= names
            found += [(plugin, each)] if name in names and family in ("", each.name) else []
    found = found or find_native(name, family)
    if not found:
        if not family and name in known:
            raise UsageError(f"plugin {name}", "it registers no family",
                             "return its families from register_models, marked with @vlcore.hookimpl")
        given = f"{name} with family {family}" if family else name
        raise UsageError(f"plugin {given}", "no family of an installed plugin is meant", suggest_near(name, known))
    return found


def find_native(name: str, family: str) -> list[tuple[Plugin, ModelFamily]]:
    """The family that takes a model type of transformers as it is, of a plugin or made by the core; or none."""
    from vlcore.native.family import make_family
    from vlcore.native.kinds import KINDS

    if name not in KINDS:
        return []
    plugins = get_registry().plugins
    found = [(plugin, replace(each, native=(name, *each.native))) for plugin in plugins for each in plugin.families
             if name in each.native]
    made = make_family({"model_type": name}, Path())
    found = found or [(plugin, made) for plugin in plugins if plugin.name == NATIVE and made]
    return [(plugin, each) for plugin, each in found if family in ("", each.name)]


def choose_checks(only: Iterable[str]) -> tuple[str, ...]:
    """The names of the checks to run: all when none is asked for.

    Raises:
        UsageError: for a name that no check has, with near names.
    """
    asked = tuple(only)
    for name in asked:
        if name not in CHECKS:
            raise UsageError(f"check {name}", "there is no such check", suggest_near(name, CHECKS))
    return tuple(name for name in CHECKS if not asked or name in asked)


def check_plugin(
    name: str, work: Path, *, family: str = "", model: Path | None = None, parity: Sequence[Path] = (),
    only: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Holds the families of a plugin to everything that a family must do; outcomes come as they are known.

    Args:
        name: as of `find_families`.
        work: an empty folder for tiny checkpoints and what is made of them.
        family: only the family of this name.
        model: a checkpoint to try instead of a tiny one.
        parity: folders with recorded parity data.
        only: names of the checks to run; all when left out.

    Raises:
        UsageError: for names that mean nothing, and folders without parity data.
        VlcoreError: for a model that no plugin owns.
    """
    chosen = choose_checks(only)
    find_cases(parity)  # a folder without any is noticed before anything is tried
    family = open_checkpoint(model).family.name if model and not family else family
    for plugin, each in find_families(name, family):
        subject = Subject(plugin, each, work / each.name, tuple(parity), model)
        for check in chosen:
            yield run_check(check, subject)


def run_check(name: str, subject: Subject) -> Outcome:
    """The outcome of one check. Whatever a plugin raises is a failure of its own; what it prints is kept away."""
    begun = monotonic()

    def tell(state: str, text: str = "") -> Outcome:
        return Outcome(subject.family.name, name, state, text, monotonic() - begun)  # type: ignore[arg-type]

    try:
        with redirect_stderr(io.StringIO()), hushed():
            CHECKS[name](subject)
    except NotApplicable as reason:
        return tell("not applicable", str(reason))
    except Fault as fault:
        return tell("failed", " ".join(str(fault).split()))
    except Exception as error:  # a plugin is somebody else's code
        return tell("failed", f"it ended with {explain(error, subject.plugin)}")
    return tell("passed")


@contextmanager
def hushed() -> Iterator[None]:
    """A scope in which nothing is logged: libraries tell of the broken checkpoints that are tried."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def explain(error: Exception, plugin: Plugin) -> str:
    """An error that no check expects: what it is, what it says, and the plugin's last line before it, if any."""
    if isinstance(error, VlcoreError):
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    lines = traceback.extract_tb(error.__traceback__)
    package = plugin.origin.partition(":")[0].partition(".")[0]
    own = [line for line in lines if package in Path(line.filename).with_suffix("").parts]
    last = (own or lines)[-1]
    file = Path(*Path(last.filename).parts[-2:])
    return f"{type(error).__name__} in {file}:{last.lineno}: {first_line(error)}"
