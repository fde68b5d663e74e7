"""What a check tells: that it holds, what a plugin must change, or why it says nothing of this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlcore.errors import PluginError

#: The page that says of each check what it holds, why, and what to change; each has a heading of its name there.
PAGE = "docs/plugins/checks.md"


class Fault(PluginError):
    """What a plugin does wrong: where it was seen, what was seen, what its author must change."""


class NotApplicable(Exception):
    """Why a check says nothing of a family."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check went.

    Attributes:
        family: the family that was checked.
        check: the check's name.
        state: whether it passed, failed, or does not apply.
        text: what must change, or why it does not apply; empty when it passed.
        seconds: how long it took.
    """

    family: str
    check: str
    state: Literal["passed", "failed", "not applicable"]
    text: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the plugin must change something."""
        return self.state == "failed"

    @property
    def page(self) -> str:
        """Where to read about the check."""
        return f"{PAGE}#{self.check}"

    def describe(self) -> str:
        """One line; of a failure what must change and where to read about it."""
        word = {"passed": "ok", "failed": "FAIL", "not applicable": "-"}[self.state]
        line = f"{word:<4} {self.family}/{self.check} ({self.seconds:.1f} s)"
        told = f"{line}: {self.text}" if self.text else line
        return f"{told}; see {self.page}" if self.failed else told
