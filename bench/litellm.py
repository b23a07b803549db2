"""What a chat completion costs here, and through LiteLLM's proxy, when nobody computes anything.

All give the same 120 characters for the same bodies: here eight stub nodes over their sockets,
there once LiteLLM's own `mock_response`, so that it opens no connection, and once a provider on
loopback, as it is meant to be used. It is set up as kindly as it allows: no database, no callbacks,
no telemetry, its "production" mode, prices from its own package. It insists on a master key, which
it compares with the request's; here a key is looked up, the request is limited, scheduled, logged
and charged.

It has a virtual environment of its own in build/bench-litellm, made on first use (two minutes).

    python -m bench.litellm ANSWER        the provider: prints its port, gives ANSWER to everything
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.dispatch import Sample, Target, compose, median_ratio
from bench.load import Order, give
from bench.processes import ROOT, Pinning, cpu_seconds, first_line, module
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING, UNLIMITED
from e2e.server import Server, eventually, serving

OURS: Final = "this server"
MOCKED: Final = "LiteLLM, mock_response"
PROXIED: Final = "LiteLLM, provider on loopback"
VERSION: Final = "1.106.2"
REQUIREMENT: Final = f"litellm[proxy]=={VERSION}"
TARGET_RATIO: Final = 50.0
_HOME: Final = ROOT / "build" / "bench-litellm"
_PATH: Final = "/v1/chat/completions"
_MODEL: Final = "zlm-v1-summary-cloud"
# What a stub node answers: this many characters of the text.
_ANSWER_CHARS: Final = 120
_TEXTS: Final = 64
_NODES: Final = 8
_KEY: Final = "sk-bench-0123456789abcdef0123456789abcdef"
_QUIET: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_TELEMETRY": "False",
}


def measure(*, rounds: int, seconds: float) -> Section:
    """Run ``rounds`` of ``seconds`` for each of the two and each concurrency, in turn."""
    program = install()
    pinning = Pinning()
    texts = compose(_TEXTS)
    answer = texts[0][:_ANSWER_CHARS]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "data", "--no-cpu-worker", env=TRUSTING | UNLIMITED) as server,
        module("bench.litellm", answer) as provider,
        proxying(program, Path(folder), answer, int(first_line(provider))) as (pid, proxy_port),
        module("bench.load") as load,
        _stubs(server) as stubs,
    ):
        first_line(stubs)
        for process in (stubs, load, provider):
            pinning.pin_other(process.pid)
        key, bearer = {"x-api-key": server.api_key}, {"authorization": f"Bearer {_KEY}"}
        port = urlsplit(server.url).port or 0
        targets = [
            Target(OURS, server.pid, port, _PATH, _bodies(_MODEL, texts), key),
            Target(MOCKED, pid, proxy_port, _PATH, _bodies("mocked", texts), bearer),
            Target(PROXIED, pid, proxy_port, _PATH, _bodies("proxied", texts), bearer),
        ]
        for target in targets:
            pinning.pin_server(target.pid)
            _sample(load, target, connections=8, seconds=max(seconds / 2, 0.2))
        samples: dict[int, dict[str, list[Sample]]] = {}
        for connections in (1, 32):
            kept = samples[connections] = {target.name: [] for target in targets}
            for number in range(rounds):
                for target in targets if number % 2 == 0 else reversed(targets):
                    sample = _sample(load, target, connections=connections, seconds=seconds)
                    kept[target.name].append(sample)
    return report(samples)


def install() -> Path:
    """Return LiteLLM's program, installed first where it is not; raises `RuntimeError`."""
    program = _HOME / "bin" / "litellm"
    made = _HOME / "requirement.txt"
    if not made.exists() or made.read_text() != REQUIREMENT:
        print(
            f"Installing {REQUIREMENT} into {_HOME.relative_to(ROOT)}: about two minutes.",
            flush=True,
        )
        venv.create(_HOME, with_pip=True, symlinks=True, clear=True)  # also what broke off
        words = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT)
        done = subprocess.run([_HOME / "bin" / "python", *words], check=False)
        if done.returncode:
            raise RuntimeError(f"pip could not install {REQUIREMENT}: see what it says above")
        made.write_text(REQUIREMENT)
    return program


@contextlib.contextmanager
def proxying(
    program: Path, folder: Path, answer: str, provider_port: int
) -> Iterator[tuple[int, int]]:
    """Run LiteLLM's proxy for the length of a block; yields its pid and port."""
    config = folder / "litellm.json"  # YAML is a superset
    config.write_text(json.dumps(configuration(answer, provider_port)))
    port = _free_port()
    words = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    log = folder / "litellm.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [program, *words, "--num_workers", "1", "--telemetry", "False"],
            cwd=folder,
            env={**os.environ, **_QUIET},
            stdout=said,
            stderr=said,
        )
    try:

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"LiteLLM ended with {process.returncode}:\n{log.read_text()}")
            with socket.socket() as there:
                return there.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, timeout_s=60, what="LiteLLM's proxy listening")
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def configuration(answer: str, provider_port: int) -> dict[str, Any]:
    """Return LiteLLM's configuration: a model that it mocks, and one of the provider's."""
    base = {"model": "openai/stub", "api_key": "unused"}
    there = {**base, "api_base": f"http://127.0.0.1:{provider_port}/v1"}
    models = {"mocked": {**base, "mock_response": answer}, "proxied": there}
    return {
        "model_list": [
            {"model_name": name, "litellm_params": parameters}
            for name, parameters in models.items()
        ],
        "general_settings": {"master_key": _KEY},
    }


async def provide(answer: str) -> None:
    """Be the provider: give ``answer`` to every request until told to end."""
    message = {"role": "assistant", "content": answer}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 160, "completion_tokens": 24, "total_tokens": 184},
    }
    body = json.dumps(completion).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", asked, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port: int = there.getsockname()[1]
    return port


def _stubs(server: Server) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = ("--url", server.url, "--data-dir", str(server.data_dir), "--nodes", str(_NODES))
    return module("bench.stub", *words)


def _bodies(model: str, texts: list[str]) -> tuple[str, ...]:
    return tuple(
        json.dumps({"model": model, "messages": [{"role": "user", "content": text}]})
        for text in texts
    )


def _sample(
    load: subprocess.Popen[str], target: Target, *, connections: int, seconds: float
) -> Sample:
    """Send for ``seconds``; raises `RuntimeError` if anything but 200 comes back."""
    order = Order(
        port=target.port,
        path=target.path,
        bodies=target.bodies,
        headers=target.headers,
        connections=connections,
        seconds=seconds,
    )
    before = cpu_seconds(target.pid)
    outcome = give(load, order)
    cpu_s = cpu_seconds(target.pid) - before
    if set(outcome.statuses) != {"200"}:
        raise RuntimeError(f"{target.name} answered {outcome.statuses}")
    return Sample(
        cpu_us=cpu_s / outcome.requests * 1e6,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        per_s=outcome.requests / outcome.seconds,
    )


def report(samples: dict[int, dict[str, list[Sample]]]) -> Section:
    """Return medians over the rounds, and how many of our requests one of LiteLLM's pays for."""
    rows = []
    figures = []
    for connections, by_name in samples.items():
        for name, kept in by_name.items():
            medians = (
                statistics.median(sample.cpu_us for sample in kept),
                statistics.median(sample.p50_ms for sample in kept),
                statistics.median(sample.per_s for sample in kept),
            )
            rows.append((name, str(connections), *(f"{value:.4g}" for value in medians)))
        case = f"{connections} connection{'s' if connections > 1 else ''}"
        for name in (MOCKED, PROXIED):
            pairs = zip(by_name[name], by_name[OURS], strict=True)
            ratio = median_ratio([(theirs.cpu_us, ours.cpu_us) for theirs, ours in pairs])
            # The target is for servers with work to do: with one connection both mostly sleep.
            at_least = TARGET_RATIO if connections > 1 else None
            figures.append(Figure(f"CPU of {name} ÷ ours, {case}", ratio, "×", at_least=at_least))
    columns = ("server", "connections", "CPU µs", "p50 ms", "requests/s")
    note = (
        f"POST {_PATH}, answers of {_ANSWER_CHARS} characters: {_NODES} trusted stub nodes here;"
        f" there LiteLLM {VERSION}, one worker, master key, no database, the same Python."
    )
    return Section("litellm", "Beside LiteLLM's proxy", figures, [Table(columns, rows)], note)


if __name__ == "__main__":
    asyncio.run(provide(sys.argv[1]))
