"""What a server counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Meter:
    """The figures of one server.

    Args:
        running: answers being computed.
        waiting: requests that wait for a place.
    """

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("vlcore_requests", "Requests by model and HTTP status.", ["model", "status"], **own)
        self.tokens = Counter("vlcore_tokens", "Tokens: prompt (image ones among them), image, completion.", ["kind"],
                              **own)
        self.first = Histogram("vlcore_first_token_seconds", "Seconds from a request to its first token, when "
                               "streamed.", buckets=SECONDS, **own)
        self.whole = Histogram("vlcore_request_seconds", "Seconds from a request to the end of its answer.",
                               buckets=SECONDS, **own)
        self.rows = Histogram("vlcore_step_rows", "Answers that a step of the model computes.",
                              buckets=(1, 2, 4, 8, 16, 32, 64, 128), **own)
        Gauge("vlcore_running", "Answers being computed.", **own).set_function(running)
        Gauge("vlcore_waiting", "Requests that wait for a place.", **own).set_function(waiting)

    def write(self) -> bytes:
        """All figures as text."""
        return generate_latest(self.registry)
