"""The whole process on its event loop: the order in which it begins."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest

from orchestrator.app import Application
from orchestrator.settings import Settings
from orchestrator.storage.keys import load_pepper
from orchestrator.storage.objects import Objects
from orchestrator.transport import listen
from tests.browser_node.built import BUILD
from tests.orchestrator.databases import database_in

ASK = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


async def test_nobody_is_answered_before_it_is_known_which_batches_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, may_end = threading.Event(), threading.Event()

    def looks_for_long(objects: Objects) -> None:
        looking.set()
        may_end.wait(30)

    monkeypatch.setattr(Objects, "discard_unfinished", looks_for_long)
    settings = Settings.from_env({}, data_dir=tmp_path, build_dir=BUILD, cpu_worker=False)
    database = database_in(tmp_path)
    with listen.bind(dataclasses.replace(settings, port=0)) as listener:
        port = listener.getsockname()[1]
        settings = dataclasses.replace(settings, port=port)
        application = Application(settings, database, load_pepper(database))
        started = asyncio.Event()
        running = asyncio.create_task(application.run(listener, started=started.set))
        await asyncio.to_thread(looking.wait, 30)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        answer = asyncio.create_task(reader.read())
        # Long enough for an answer, were there anybody to give it.
        for _ in range(50):
            await asyncio.to_thread(looking.is_set)
        assert not answer.done()

        may_end.set()
        assert (await answer).startswith(b"HTTP/1.1 200")
        assert started.is_set()
        writer.close()
        application.stop()
        await running
    database.close()
