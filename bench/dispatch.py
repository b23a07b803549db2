"""What it costs the orchestrator to have one request answered by an edge node.

Everything a real request has but the model: key, parsing, token counting, scheduling, two frames
over the node's socket, the answer's JSON, the log row. Against a bare Starlette JSON echo of the
same bodies in the same run, rounds alternating, the server on one processor and all else on
another. CPU is that of the server process, user and system, divided by its answers; that of its
event loop's thread alone leaves out what a thread does behind the answers: write the log's rows.

What trust costs is on top of that: one server trusts all its nodes, another has the settings that
it comes with and nodes that have earned their trust, so that some answers are audited. A third has
no router at all (`bench.bare`): what it costs is not for deciding.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import statistics
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bench.load import Order, Outcome, give
from bench.processes import Pinning, cpu_seconds, first_line, main_cpu_seconds, module
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING, UNLIMITED
from e2e.server import Server, serving
from orchestrator.domain.passages import PASSAGES

ECHO = "Starlette echo"
AUDITED = ", audited"
WITHOUT_ROUTER = ", without router"
TARGET_RATIO = 1.5
TARGET_ADDED_MS = 1.0
_TEXTS = 64
_TEXT_CHARS = 800
_WORKER_SLOTS = 64
# Requests until all nodes are trusted, at most: each has to agree a few times first.
_TRIALS = 100
# Of audited answers; the rest is the CPU worker's, who hedges.
_EDGE_LEAST = 0.8


class Target(msgspec.Struct, frozen=True):
    """Where one kind of request goes, and whose CPU answers it."""

    name: str
    pid: int
    port: int
    path: str
    bodies: tuple[str, ...]
    headers: dict[str, str]

    @property
    def is_audited(self) -> bool:
        return self.name.endswith(AUDITED)


class Sample(msgspec.Struct, frozen=True):
    """One round of one target; ``loop_us`` is there where it was looked at."""

    cpu_us: float
    p50_ms: float
    p99_ms: float
    per_s: float
    loop_us: float = math.nan


def measure(*, rounds: int, seconds: float, nodes: int) -> Section:
    """Run ``rounds`` of ``seconds`` for each target and concurrency over ``nodes`` stub nodes."""
    pinning = Pinning()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "trusting", "--no-cpu-worker", env=TRUSTING | UNLIMITED) as trusting,
        serving(Path(folder) / "auditing", "--no-cpu-worker", env=UNLIMITED) as auditing,
        serving(
            Path(folder) / "bare", "--no-cpu-worker", env=TRUSTING | UNLIMITED, module="bench.bare"
        ) as bare,
        module("bench.echo") as echo,
        module("bench.load") as load,
        _stubs(trusting, nodes=nodes) as stubs,
        _stubs(auditing, nodes=nodes, worker_slots=_WORKER_SLOTS) as audited,
        _stubs(bare, nodes=nodes) as served_in_turn,
    ):
        for process in (stubs, audited, served_in_turn):
            first_line(process)
            pinning.pin_other(process.pid)
        pinning.pin_other(load.pid)
        for pid in (trusting.pid, auditing.pid, bare.pid, echo.pid):
            pinning.pin_server(pid)
        targets = _targets(
            {"": trusting, AUDITED: auditing, WITHOUT_ROUTER: bare}, echo.pid, int(first_line(echo))
        )
        for target in targets:
            if target.is_audited:
                _earn_trust(load, target)
            _send(load, target, connections=8, seconds=max(seconds / 2, 0.2))
        samples = {
            connections: _alternate(load, targets, connections, rounds, seconds)
            for connections in (1, 32)
        }
    return report(samples, nodes=nodes)


def _stubs(
    server: Server, *, nodes: int, worker_slots: int = 0
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = ("--url", server.url, "--data-dir", str(server.data_dir))
    numbers = ("--nodes", str(nodes), "--worker-slots", str(worker_slots))
    return module("bench.stub", *words, *numbers)


def _targets(servers: dict[str, Server], echo_pid: int, echo_port: int) -> list[Target]:
    """Return the echo and each server's routes; ``servers`` go by what their names end in."""
    texts = compose(_TEXTS)
    embeddings = tuple(
        json.dumps({"model": "all-minilm-l6-v2", "input": text, "encoding_format": "base64"})
        for text in texts
    )
    responses = tuple(
        json.dumps({"model": "zlm-v1-iab-classify-edge", "input": text}) for text in texts
    )
    targets = [Target(ECHO, echo_pid, echo_port, "/echo", responses, {})]
    for suffix, server in servers.items():
        port = urlsplit(server.url).port or 0
        key = {"x-api-key": server.api_key}
        for path, bodies in (("/v1/embeddings", embeddings), ("/v1/responses", responses)):
            targets.append(Target(f"POST {path}{suffix}", server.pid, port, path, bodies, key))
    return targets


def compose(count: int) -> list[str]:
    """Return different texts of about 800 characters; as in any language their words recur."""
    sentences = itertools.cycle(sentence for passage in PASSAGES for sentence in passage)
    texts = []
    for number in range(count):
        text = f"Number {number}."
        while len(text) < _TEXT_CHARS:
            text += f" {next(sentences)}"
        texts.append(text)
    return texts


def _alternate(
    load: subprocess.Popen[str],
    targets: list[Target],
    connections: int,
    rounds: int,
    seconds: float,
) -> dict[str, list[Sample]]:
    """Measure each target once a round, in one order and then in the other."""
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for target in targets if number % 2 == 0 else reversed(targets):
            before, loop_before = cpu_seconds(target.pid), main_cpu_seconds(target.pid)
            outcome = _send(load, target, connections=connections, seconds=seconds)
            cpu_s = cpu_seconds(target.pid) - before
            loop_s = main_cpu_seconds(target.pid) - loop_before
            sample = Sample(
                cpu_us=cpu_s / outcome.requests * 1e6,
                p50_ms=outcome.p50_ms,
                p99_ms=outcome.p99_ms,
                per_s=outcome.requests / outcome.seconds,
                loop_us=loop_s / outcome.requests * 1e6,
            )
            samples[target.name].append(sample)
    return samples


def _send(
    load: subprocess.Popen[str], target: Target, *, connections: int, seconds: float
) -> Outcome:
    outcome = give(load, _order(target, connections=connections, seconds=seconds))
    least = 0.0 if target.name == ECHO else _EDGE_LEAST if target.is_audited else 1.0
    if set(outcome.statuses) != {"200"} or _edge_share(outcome) < least:
        raise RuntimeError(f"{target.name} answered {outcome.statuses} from {outcome.places}")
    return outcome


def _earn_trust(load: subprocess.Popen[str], target: Target) -> None:
    """Send requests until nodes answer them: a newcomer's answers are compared first."""
    for _ in range(_TRIALS):
        outcome = give(load, _order(target, connections=4, seconds=30, requests=32))
        if _edge_share(outcome) == 1.0:
            return
    raise RuntimeError(f"no node is trusted after {32 * _TRIALS} of {target.name}")


def _edge_share(outcome: Outcome) -> float:
    return outcome.places.get("edge", 0) / outcome.requests


def _order(
    target: Target, *, connections: int, seconds: float, requests: int | None = None
) -> Order:
    return Order(
        port=target.port,
        path=target.path,
        bodies=target.bodies,
        headers=target.headers,
        connections=connections,
        seconds=seconds,
        requests=requests,
    )


def report(samples: dict[int, dict[str, list[Sample]]], *, nodes: int) -> Section:
    """Return medians over the rounds, and ratios of those of one run."""
    rows = []
    figures = []
    for connections, by_target in samples.items():
        echo = by_target[ECHO]
        for name, ours in by_target.items():
            ratio = median_ratio([(a.cpu_us, b.cpu_us) for a, b in zip(ours, echo, strict=True)])
            added_ms = statistics.median(
                a.p50_ms - b.p50_ms for a, b in zip(ours, echo, strict=True)
            )
            on_loop = median_ratio(
                [(a.loop_us, b.loop_us) for a, b in zip(ours, echo, strict=True)]
            )
            cpu_us = statistics.median(sample.cpu_us for sample in ours)
            rows.append(
                (
                    name,
                    str(connections),
                    f"{cpu_us:.0f}",
                    f"{ratio:.2f}",
                    f"{on_loop:.2f}",
                    f"{statistics.median(s.p50_ms for s in ours):.2f}",
                    f"{statistics.median(s.p99_ms for s in ours):.2f}",
                    f"{statistics.median(s.per_s for s in ours):.0f}",
                )
            )
            if name == ECHO:
                continue
            case = f"{name}, {connections} connection{'s' if connections > 1 else ''}"
            # The targets are for dispatch alone: an audit is a second job, on the CPU worker.
            is_aimed_at = not name.endswith((AUDITED, WITHOUT_ROUTER))
            # And for a server that has work to do: with one connection it sleeps between what it
            # does, and is woken twice for an answer that comes from a node, an echo once.
            target = TARGET_RATIO if is_aimed_at and connections > 1 else None
            figures.append(Figure(f"CPU ratio: {case}", ratio, "×", target))
            figures.append(Figure(f"CPU ratio, event loop alone: {case}", on_loop, "×", None))
            if connections == 1 and is_aimed_at:
                figures.append(Figure(f"added p50: {case}", added_ms, "ms", TARGET_ADDED_MS))
    columns = (
        "request",
        "connections",
        "CPU µs",
        "ratio",
        "on the loop",
        "p50 ms",
        "p99 ms",
        "requests/s",
    )
    note = (
        f"{nodes} stub nodes, texts of about {_TEXT_CHARS} characters; medians over the rounds. All"
        " nodes trusted from the start (ZEROGPU_TRUST_AFTER=0, ZEROGPU_AUDIT_SHARE=0), but where it"
        " says audited: there with the default settings. Without router: jobs go to the nodes in"
        " turn, and no tokens are counted: with one connection most of what it costs is that the"
        " server is woken twice for an answer, and an echo once. On the loop: the ratio without"
        " the threads behind it, of which one writes the log's rows."
    )
    return Section("dispatch", "Edge dispatch", figures, [Table(columns, rows)], note)


def median_ratio(pairs: list[tuple[float, float]]) -> float:
    """Return the median of ``ours / theirs``, each pair from one round."""
    return statistics.median(ours / theirs for ours, theirs in pairs)
