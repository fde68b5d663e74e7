"""What was computed of earlier conversations, kept so that a talk's next turn need not compute it again."""

from __future__ import annotations

from vlcore.prefix import Passage, Prefix

#: Conversations that are kept at most: each is held against every prompt.
MOST = 64


class Shelf:
    """The conversations that were last used, within a limit of memory. Used by the engine's thread alone.

    Args:
        limit: bytes of keys and values, on the model's device; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: list[tuple[str | None, Prefix]] = []

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        return sum(prefix.nbytes for _, prefix in self._kept)

    def clear(self) -> None:
        """Frees all of it."""
        self._kept = []

    def find(self, adapter: str | None, passage: Passage) -> tuple[Prefix | None, int]:
        """What has most in common with a prompt, and how many positions that is."""
        lengths = [prefix.match(passage) if name == adapter else 0 for name, prefix in self._kept]
        longest = max(lengths, default=0)
        if not longest:
            return None, 0
        used = self._kept.pop(lengths.index(longest))
        self._kept.append(used)
        return used[1], longest

    def add(self, adapter: str | None, prefix: Prefix) -> None:
        """Keeps what an answer left; what it begins with is let go, and the longest unused beyond the limit."""
        if not len(prefix) or prefix.nbytes > self.limit:
            return
        self._kept = [(name, other) for name, other in self._kept
                      if name != adapter or other.passage.match(prefix.passage) < len(other)]
        self._kept.append((adapter, prefix))
        while len(self._kept) > MOST or self.nbytes > self.limit:
            self._kept.pop(0)
