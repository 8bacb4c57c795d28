"""Counts of a server for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jaxdlm.batch.engine import Result
from jaxdlm.batch.rows import Request

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counts of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def make(kind: Any, name: str, what: str, *labels: str, **more: Any) -> Any:
            return kind(f"jaxdlm_{name}", what, labels, registry=self.registry, **more)

        self.requests = make(Counter, "requests", "Requests that were answered.", "route", "status")
        self.seconds = make(Histogram, "request_seconds", "From a request to its answer.", "route", buckets=SECONDS)
        self.first = make(Histogram, "first_block_seconds", "To the first piece of a stream.", "route", buckets=SECONDS)
        self.rows = make(Counter, "answers", "Answers by how they ended.", "status")
        self.prompts = make(Counter, "prompt_tokens", "Tokens of prompts.")
        self.tokens = make(Counter, "generated_tokens", "Tokens of answers.")
        self.forwards = make(Counter, "row_forwards", "Forwards that answers took part in.")
        self.waiting = make(Gauge, "waiting", "Answers without a slot.")
        self.busy = make(Gauge, "busy_slots", "Slots with an answer.")
        self.slots = make(Gauge, "slots", "Slots of a program.")

    def written(self, request: Request, result: Result) -> None:
        """An answer has ended."""
        self.prompts.inc(len(request.tokens))
        for each in result.every:
            self.rows.labels(each.status).inc()
            self.tokens.inc(len(request.stops.before(each.tokens)))
            self.forwards.inc(each.forwards)

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return generate_latest(self.registry)
