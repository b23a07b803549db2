"""Prometheus metrics of the API, counted in plain numbers and turned into samples when asked for.

One counter of the client library costs as much as parsing a request. Labels are routes, statuses
and model ids: never anything that a customer types.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = b"text/plain; version=1.0.0; charset=utf-8"
_BOUNDS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class _Times:
    """How many answers of an endpoint fell into each bucket, and the sum of their seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_S) + 1)
        self.sum_s = 0.0


class _Answers:
    """How many answers there were with the same labels; ``times`` are all of their endpoint's."""

    __slots__ = ("count", "times")

    def __init__(self, times: _Times) -> None:
        self.count = 0
        self.times = times


class Metrics(Collector):
    """One registry; others may add their own collectors to it. For one event loop only."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int, str | None], _Answers] = {}
        self._times: dict[str, _Times] = {}
        self._tokens: dict[str, list[int]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that is read when it is asked for."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def answered(self, endpoint: str, status: int, place: str | None, seconds: float) -> None:
        """Count one answer."""
        labels = (endpoint, status, place)
        answers = self._answers.get(labels)
        if answers is None:
            times = self._times.setdefault(endpoint, _Times())
            answers = self._answers[labels] = _Answers(times)
        answers.count += 1
        times = answers.times
        times.counts[bisect_left(_BOUNDS_S, seconds)] += 1
        times.sum_s += seconds

    def billed(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of one answered request."""
        tokens = self._tokens.get(model)
        if tokens is None:
            tokens = self._tokens[model] = [0, 0]
        tokens[0] += input_tokens
        tokens[1] += output_tokens

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the samples of now; called by the registry."""
        requests = CounterMetricFamily(
            "zerogpu_requests", "Requests answered.", labels=("endpoint", "status", "place")
        )
        for (endpoint, status, place), answers in self._answers.items():
            requests.add_metric((endpoint, str(status), place or ""), answers.count)
        yield requests
        seconds = HistogramMetricFamily(
            "zerogpu_request_seconds",
            "Time from a request's headers to the end of its answer.",
            labels=("endpoint",),
        )
        for endpoint, times in self._times.items():
            seconds.add_metric((endpoint,), _cumulative(times.counts), times.sum_s)
        yield seconds
        tokens = CounterMetricFamily(
            "zerogpu_tokens", "Tokens of answered requests.", labels=("model", "direction")
        )
        for model, (input_tokens, output_tokens) in self._tokens.items():
            tokens.add_metric((model, "input"), input_tokens)
            tokens.add_metric((model, "output"), output_tokens)
        yield tokens


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each holds all that is not greater."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
