from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vlcore.serve.door import Door


class Connection:
    """A connection as uvicorn has it: before its first request, within one (`False`), or behind one (`True`)."""

    def __init__(self, answered: bool | None = None) -> None:
        self.cycle = None if answered is None else SimpleNamespace(response_complete=answered)
        self.closed = False
        self.transport = SimpleNamespace(close=lambda: setattr(self, "closed", True))


def closed_after(door: Door, connections: list[Any], *seconds: float) -> list[bool]:
    for now in seconds:
        door.sweep(connections, now)
    return [connection.closed for connection in connections]


def test_a_connection_that_never_asks_is_closed() -> None:
    assert closed_after(Door(20), [Connection()], 100.0, 119.0) == [False]
    assert closed_after(Door(20), [Connection()], 100.0, 121.0) == [True]


def test_a_connection_within_a_request_is_left_alone_however_long_it_takes() -> None:
    assert closed_after(Door(20), [Connection(answered=False)], 0.0, 1000.0) == [False]


def test_time_counts_from_the_end_of_the_last_answer() -> None:
    connection, door = Connection(answered=False), Door(20)
    door.sweep([connection], 0.0)
    connection.cycle = SimpleNamespace(response_complete=True)
    assert closed_after(door, [connection], 100.0, 119.0) == [False]
    assert closed_after(door, [connection], 121.0) == [True]


def test_the_oldest_go_when_too_many_wait() -> None:
    first, second, third = Connection(), Connection(), Connection()
    door = Door(20, most=2)
    door.sweep([first], 0.0)
    door.sweep([first, second], 1.0)
    assert closed_after(door, [first, second, third], 2.0) == [True, False, False]
