"""The real server as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# For journeys that are not about trust: a tab that has calibrated answers the next request, and
# neither known questions nor audits come between. `test_trust.py` keeps the defaults.
TRUSTING = {"ZEROGPU_TRUST_AFTER": "0", "ZEROGPU_AUDIT_SHARE": "0"}
# For those that say where an answer comes from: a tab's first job of a model may take longer than
# its forecast, and the CPU worker would step in.
UNHEDGED = {**TRUSTING, "ZEROGPU_HEDGE_SHARE": "0"}


class NotInTime(AssertionError):
    """Something that should have become true did not."""


def eventually(
    condition: Callable[[], Any], *, timeout_s: float = 30.0, what: str = "condition"
) -> Any:
    """Return the first truthy value of ``condition``; raises `NotInTime`."""
    pause = threading.Event()
    until = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise NotInTime(f"{what} did not come true within {timeout_s:g} s")
        pause.wait(0.03)


class Server:
    """One `zerogpu serve` process on a free port, with its output kept in a file."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: dict[str, str] | None = None,
        module: str = "orchestrator",
    ) -> None:
        self.module = module
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.options = options
        self.env = {**os.environ, "ZEROGPU_LOG_FORMAT": "json", **(env or {})}
        self.url = ""
        self.api_key = ""
        self.project_id = ""
        self.console_url = ""
        self.process: subprocess.Popen[bytes] | None = None

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def start(self, *, wait_ready: bool = True, port: int = 0) -> Server:
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", self.module, "serve"),
                    *("--port", str(port), "--data-dir", str(self.data_dir), *self.options),
                ],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self.url = eventually(lambda: self._find(r"running at (\S+)", offset), what="the server")
        if not self.api_key:
            self.api_key = self._find(r"API key \(shown once\)\s+(\S+)", 0)
            self.project_id = self._find(r"project id\s+(\S+)", 0)
            self.console_url = self._find(r"console \(one-time link\)\s+(\S+)", 0)
        if wait_ready:
            eventually(self.ready, what="readiness")
        return self

    def mended(self) -> Server:
        """Start the server if it has ended, and wait until it and its worker are ready."""
        if self.process is None or self.process.poll() is not None:
            return self.start(port=int(self.url.rsplit(":", 1)[1]))
        eventually(self.ready, what="readiness")
        return self

    def _find(self, pattern: str, offset: int) -> str:
        assert self.process is not None
        text = self.log()[offset:]
        found = re.search(pattern, text)
        if found is None and self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{text}")
        return found.group(1) if found else ""

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def worker_pid(self) -> int | None:
        """Return the pid of the CPU worker process, read from the process table."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"worker" in words and os.fsencode(self.data_dir) in words:
                    return int(entry.name)
        return None

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM and wait; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, lower-case headers and body; status 0 when nobody answers."""
        return self.send("GET", path, None, **headers)

    def send(
        self, method: str, path: str, body: bytes | None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _lower(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read()
        except (urllib.error.URLError, ConnectionError):
            return 0, {}, b""

    def infer(self, route: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        """POST to ``/v1/<route>`` with the first key; returns status, headers and parsed body."""
        status, headers, raw = self.send(
            "POST",
            f"/v1/{route}",
            json.dumps(body).encode(),
            x_api_key=self.api_key,
            content_type="application/json",
        )
        return status, headers, json.loads(raw) if raw else None

    def ask(self, route: str, body: dict[str, Any]) -> tuple[str, Any]:
        """Return where the answer was made, and the answer; any other status fails the test."""
        status, headers, answer = self.infer(route, body)
        assert status == 200, answer
        return headers["x-inference-type"], answer

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(self.get("/stats")[2])
        return stats


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextlib.contextmanager
def serving(
    data_dir: Path, *options: str, module: str = "orchestrator", **kwargs: Any
) -> Iterator[Server]:
    """Run a server for the length of a ``with`` block."""
    server = Server(data_dir, *options, env=kwargs.pop("env", None), module=module)
    try:
        yield server.start(**kwargs)
    finally:
        server.close()
