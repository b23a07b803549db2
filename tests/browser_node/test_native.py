"""The native runtime as a process: keys, files, signals, and the leash to the server."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from browser_node import protocol as p
from browser_node.agreement import Judge
from browser_node.runtimes.native import run_node, run_worker
from browser_node.runtimes.native_net import FileKeys, WebNetwork, get, in_thread
from browser_node.runtimes.seams import NetworkError
from tests.browser_node.built import BUILD, model
from tests.browser_node.fake_orchestrator import FakeOrchestrator, Peer, recipe
from tests.browser_node.graphs import hungry_backbone
from tests.browser_node.processes import ROOT, end_of, is_running
from tests.browser_node.tiny import build


def command(call: str) -> list[str]:
    """Return a command that ends with what ``call`` of the native runtime returns."""
    code = f"import sys; from pathlib import Path; from browser_node.runtimes import native; {call}"
    return [sys.executable, "-c", code]


def node_command(url: str, data_dir: Path) -> list[str]:
    arguments = f"url={url!r}, data_dir=Path({str(data_dir)!r}), cpu_share=1.0, threads=1"
    return command(f"sys.exit(native.run_node({arguments}))")


def worker_command(data_dir: Path, build_dir: Path, *, parent: int | None = None) -> list[str]:
    folders = f"data_dir=Path({str(data_dir)!r}), build_dir=Path({str(build_dir)!r})"
    return command(f"sys.exit(native.run_worker({folders}, threads=1, parent={parent}))")


async def started(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, list[dict[str, object]]]:
    """Return the exit code and the log lines."""
    _, log = await asyncio.wait_for(process.communicate(), 10)
    return process.returncode, [json.loads(line) for line in log.decode().splitlines()]


# ── keys, files, addresses ───────────────────────────────────────────────────────────────────────


async def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "fresh" / "node-key.pem"

    first, second = FileKeys(path), FileKeys(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.public_key == second.public_key
    assert len(first.public_key) == 65


async def test_a_signature_has_64_bytes_and_holds(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "key.pem")

    signature = await keys.sign(b"message")

    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), keys.public_key)
    key.verify(encode_dss_signature(r, s), b"message", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("url", ["example.org", "ftp://example.org", "https://", ""])
def test_a_malformed_url_ends_with_a_sentence(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_node(url=url, data_dir=tmp_path, cpu_share=1.0, threads=1) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a URL such as" in json.loads(line)["error"]


def test_a_worker_without_a_server_ends_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_worker(data_dir=tmp_path, build_dir=tmp_path, threads=1) == 1
    assert "zerogpu serve" in json.loads(capsys.readouterr().err)["hint"]


async def test_an_address_that_nobody_answers_is_a_network_error() -> None:
    network = WebNetwork("http://127.0.0.1:9")

    with pytest.raises(NetworkError):
        await network.register(b"{}")
    with pytest.raises(NetworkError):
        await network.connect("/node/v1")
    with pytest.raises(NetworkError):
        await in_thread(lambda: get("http://127.0.0.1:9/x", limit_bytes=1))


# ── processes ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[tuple[FakeOrchestrator, Path]]:
    """A server on a Unix socket, and the data folder that tells of it."""
    data_dir = tmp_path / "data"
    (data_dir / "run").mkdir(parents=True)
    socket = data_dir / "run" / "worker.sock"
    told = {"socket": str(socket), "secret": "s3cret"}
    (data_dir / "run" / "worker.json").write_text(json.dumps(told))
    server = FakeOrchestrator(tmp_path / "build")
    async with server.running(uds=socket):
        yield server, data_dir


async def test_sigterm_makes_a_node_say_goodbye_and_end(tmp_path: Path) -> None:
    server = FakeOrchestrator(build(tmp_path / "build", "first"))
    async with server.running():
        process = await started(node_command(server.url, tmp_path / "node"))
        hello, peer = await server.accept()
        await peer.welcome()
        await peer.expect(p.Capacity)

        process.send_signal(signal.SIGTERM)

        assert (await peer.expect(p.Bye, 5)).reason == "got SIGTERM"
        code, log = await ended(process)
    assert code == 0
    assert hello.runtime.kind == "native"
    assert [line["event"] for line in log if line["event"] in ("connected", "ended")] == [
        "connected",
        "ended",
    ]


async def test_a_node_that_is_not_wanted_ends_with_an_exit_code(tmp_path: Path) -> None:
    server = FakeOrchestrator(build(tmp_path / "build", "first"))
    async with server.running():
        process = await started(node_command(server.url, tmp_path / "node"))
        _, peer = await server.accept()
        await peer.send(p.Refused(reason="You are banned."))
        code, log = await ended(process)

    assert code == 1
    assert log[-2]["reason"] == "You are banned."


async def test_the_worker_uses_the_private_socket_with_its_secret(
    endpoint: tuple[FakeOrchestrator, Path], tmp_path: Path
) -> None:
    server, data_dir = endpoint
    process = await started(worker_command(data_dir, tmp_path / "build"))
    hello, peer = await server.accept()

    assert peer.websocket.headers["authorization"] == "Bearer s3cret"
    assert (hello.runtime.kind, hello.public_key, hello.signature) == ("cpu", b"", b"")
    assert server.nonces == []
    process.terminate()
    assert (await ended(process))[0] == 0


async def test_the_worker_ends_when_the_server_is_killed(
    endpoint: tuple[FakeOrchestrator, Path], tmp_path: Path
) -> None:
    server, data_dir = endpoint
    worker = worker_command(data_dir, tmp_path / "build")
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import subprocess; p = subprocess.Popen({worker!r}, stderr=-3);"
        "print(p.pid, flush=True); p.wait()",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    _, peer = await server.accept()
    await peer.welcome()
    await peer.expect(p.Capacity)
    gone = end_of(pid)

    parent.kill()

    assert isinstance(await peer.expect(p.Bye, 5), p.Bye)
    await asyncio.wait_for(gone, 5)
    await parent.wait()


async def test_the_worker_ends_when_the_server_was_killed_before_it_began(
    endpoint: tuple[FakeOrchestrator, Path], tmp_path: Path
) -> None:
    _, data_dir = endpoint
    gone = await started([sys.executable, "-c", ""])
    await gone.wait()

    process = await started(worker_command(data_dir, tmp_path / "build", parent=gone.pid))
    code, log = await ended(process)

    assert code == 0
    assert log[-1]["reason"] == "the server is gone"


# ── isolation ────────────────────────────────────────────────────────────────────────────────────


async def test_the_worker_isolates_what_it_is_told_to_and_answers_pings_and_jobs_meanwhile(
    endpoint: tuple[FakeOrchestrator, Path], tmp_path: Path
) -> None:
    server, data_dir = endpoint
    build_dir = build(tmp_path / "build", "hungry", backbone=hungry_backbone())
    process = await started(worker_command(data_dir, build_dir))
    _, peer = await server.accept()
    await peer.welcome()
    wanted = recipe(build_dir, "hungry")

    def item(attempt_id: str, text: str, *, isolated: bool) -> p.JobItem:
        return p.JobItem(
            attempt_id=attempt_id,
            digest=wanted.digest,
            lease_s=60,
            tokens=1,
            input=text,
            isolated=isolated,
        )

    await peer.send(p.Load(recipe=wanted))
    await peer.expect(p.Ready, 60)
    await peer.send(p.Jobs(items=(item("hog", "sea " * 20, isolated=True),)))
    await peer.send(p.Jobs(items=(item("plain", "sea", isolated=False),)))
    await peer.send(p.Ping(n=1))
    first, second = await peer.next(), await peer.next()
    while isinstance(first, p.Capacity):
        first, second = second, await peer.next()
    assert {type(first), type(second)} == {p.Pong, p.Results}
    failed = await peer.expect(p.Failed, 60)
    await peer.send(p.Jobs(items=(item("small", "sea", isolated=True),)))
    (small,) = (await peer.expect(p.Results, 60)).items
    process.terminate()
    code, log = await ended(process)

    assert (failed.attempt_id, failed.blame) == ("hog", "input")
    assert failed.code == p.OUT_OF_MEMORY_IN_ISOLATION
    assert small.attempt_id == "small"
    assert code == 0
    pids = [line["pid"] for line in log if line["event"] == "isolation_started"]
    assert len(set(pids)) == 2
    assert not any(is_running(pid) for pid in pids)


# ── the real model ───────────────────────────────────────────────────────────────────────────────


async def loaded(peer: Peer, model_id: str) -> p.Ready:
    challenge = (p.Task(input="The striker scored twice in the final."),)
    await peer.send(p.Load(recipe=recipe(BUILD, model_id), challenge=challenge))
    return await peer.expect(p.Ready, 60)


@pytest.mark.slow
async def test_a_native_node_runs_the_real_models_and_loads_the_backbone_once(
    tmp_path: Path,
) -> None:
    server = FakeOrchestrator(BUILD)
    models = [row["id"] for row in json.loads((BUILD / "index.json").read_text())["models"]]
    async with server.running():
        process = await started(node_command(server.url, tmp_path / "node"))
        _, peer = await server.accept()
        await peer.welcome()
        ready = {model_id: await loaded(peer, model_id) for model_id in models}
        items = tuple(
            p.JobItem(
                attempt_id=f"{model_id} {n}",
                digest=ready[model_id].digest,
                lease_s=60,
                tokens=20,
                input=f"Number {n}: the parliament voted on the budget. It passed.",
            )
            for model_id in models
            for n in range(20)
        )
        await peer.send(p.Jobs(items=items))
        answered: dict[str, p.Result] = {}
        while len(answered) < len(items):
            answered |= {r.attempt_id: r for r in (await peer.expect(p.Results, 60)).items}
        process.terminate()
        code, _ = await ended(process)

    assert code == 0
    assert len({entry.calibration for entry in ready.values()}) == 1
    urls = [url for url, _ in server.served]
    assert len(urls) == len(set(urls)), "a file was downloaded twice"
    assert len(answered["all-minilm-l6-v2 0"].output) == 384 * 4


@pytest.mark.slow
async def test_an_isolated_attempt_is_answered_as_any_other_with_its_evidence(
    endpoint: tuple[FakeOrchestrator, Path],
) -> None:
    server, data_dir = endpoint
    text = "The parliament voted on the budget. Markets rose. The striker scored twice."
    models = [row["id"] for row in json.loads((BUILD / "index.json").read_text())["models"]]
    process = await started(worker_command(data_dir, BUILD))
    _, peer = await server.accept()
    await peer.welcome()
    for model_id in models:
        ready = await loaded(peer, model_id)
        answers = []
        for isolated in (False, True):
            item = p.JobItem(
                attempt_id=f"{model_id} {isolated}",
                digest=ready.digest,
                lease_s=60,
                tokens=20,
                input=text,
                isolated=isolated,
            )
            await peer.send(p.Jobs(items=(item,)))
            (result,) = (await peer.expect(p.Results, 60)).items
            answers.append(p.Answer(output=result.output, evidence=result.evidence))
        manifest, files = model(model_id)
        verdict = Judge(manifest, files).agree(p.Task(input=text), *answers)
        assert verdict.agrees, (model_id, verdict.reason)
        # An embedding is its own evidence.
        assert manifest.pipeline == "embeddings" or all(answer.evidence for answer in answers)
    process.terminate()
    await ended(process)
