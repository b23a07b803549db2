"""`zerogpu` as a process: what it says at its start, and of what it cannot use."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.storage import keys
from orchestrator.storage.database import FILE_NAME, open_for_command
from tests.browser_node.built import BUILD
from tests.orchestrator.databases import database_in

MODULE = [sys.executable, "-m", "orchestrator"]
SCRIPT = [str(Path(sys.executable).with_name("zerogpu"))]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZEROGPU_")}
    return {**kept, "ZEROGPU_LOG_FORMAT": "json", "ZEROGPU_CPU_WORKER": "no", **more}


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODULE, *words],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a command ended with, having checked that it is no traceback."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("zerogpu: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@contextlib.contextmanager
def banner(program: list[str], *options: str) -> Iterator[str]:
    """Start a server, yield what it prints, and end it."""
    command = [*program, "serve", "--port", "0", "--build-dir", str(BUILD), *options]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines: list[str] = []
            while not lines or "another API key" not in lines[-1]:
                lines.append(server.stdout.readline())
                assert lines[-1], server.communicate()[1]
            yield "".join(lines)
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_the_commands_of_the_banner_act_on_the_server_that_printed_them(
    tmp_path: Path, program: list[str]
) -> None:
    data_dir = tmp_path / "a folder's data"
    database = database_in(data_dir)
    keys.create_key(database, keys.load_pepper(database), name="first", now=1.0)
    database.close()

    with banner(program, "--data-dir", str(data_dir)) as said:
        [url] = re.findall(r"running at (\S+)", said)
        commands = [line.split("  ")[-1].strip() for line in said.splitlines()[-2:]]
        link, made = (
            subprocess.run(
                command,
                shell=True,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
            for command in commands
        )

    database = open_for_command(data_dir)
    assert len(keys.list_keys(database)) == 2
    database.close()
    assert "API key (shown once)" in made
    assert link.startswith(f"{url}/console/sign-in?token=")
    assert shlex.split(commands[0])[: len(program)] == program


def test_a_mistyped_setting_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = run(
        *("serve", "--data-dir", str(tmp_path / "file")),
        ZEROGPU_KEY_CONCURENCY="5",
        ZEROGPU_FROBNICATE="secret",
        ZEROGPU_API_KEY="zgpu-api-none",
    )

    [warning] = [line for line in done.stderr.splitlines() if '"warning"' in line]
    assert "ZEROGPU_KEY_CONCURENCY (did you mean ZEROGPU_KEY_CONCURRENCY?)" in warning
    assert "ZEROGPU_FROBNICATE" in warning
    assert "ZEROGPU_API_KEY" not in warning
    assert "secret" not in warning


@pytest.mark.parametrize("words", [("serve",), ("keys", "create"), ("keys", "list")])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/zerogpu"])
def test_a_data_directory_that_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], place: str
) -> None:
    (tmp_path / "file").touch()
    data_dir = str(tmp_path / place)

    said = sentence(run(*words, "--data-dir", data_dir))

    assert f"the data directory {data_dir} cannot be used (" in said
    assert "--data-dir" in said


@pytest.mark.parametrize("name", ["lock", FILE_NAME, "pepper"])
def test_what_lies_in_the_way_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    said = sentence(run("keys", "create", "--data-dir", str(tmp_path)))

    assert f"the data directory {tmp_path} cannot be used (" in said
    assert f"{tmp_path / name})" in said


def test_a_store_of_files_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    database_in(tmp_path / "data").close()
    (tmp_path / "file").touch()
    store = str(tmp_path / "file" / "store")

    said = sentence(
        run(
            *("serve", "--port", "0", "--build-dir", str(BUILD)),
            *("--data-dir", str(tmp_path / "data")),
            ZEROGPU_STORAGE_URL=store,
        )
    )

    assert f"files cannot be kept in {store} (Not a directory" in said
    assert "ZEROGPU_STORAGE_URL" in said
