"""Connections on which nothing is asked: they get some seconds, and are not many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Seconds in which the head of a request must have come.
HEAD_SECONDS = 20.0
#: Connections that may wait for a request at the same time.
MAX_WAITING = 512


class Door:
    """Closes connections that wait too long for their next request, and the oldest when too many wait.

    uvicorn ends those that are quiet behind an answer, but not those that never ask, or ask a byte at a time.
    """

    def __init__(self, seconds: float = HEAD_SECONDS, most: int = MAX_WAITING) -> None:
        self.seconds, self.most = seconds, most
        self._since: dict[Any, float] = {}

    def sweep(self, connections: Iterable[Any], now: float) -> None:
        """Looks at all connections once.

        Args:
            connections: uvicorn's protocols, each with its `transport` and `cycle`, the request, None before the first.
            now: seconds of a clock that never goes back.
        """
        waiting = [c for c in connections if c.transport and (c.cycle is None or c.cycle.response_complete)]
        self._since = {connection: self._since.get(connection, now) for connection in waiting}
        oldest = sorted(waiting, key=self._since.__getitem__)
        surplus = max(len(oldest) - self.most, 0)
        for number, connection in enumerate(oldest):
            if number < surplus or now - self._since[connection] > self.seconds:
                connection.transport.close()
