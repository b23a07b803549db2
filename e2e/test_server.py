"""The server without a browser: its CPU worker answers, and it survives what happens to servers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import sqlalchemy

from browser_node.pipelines.vectors import dot
from e2e.conftest import sdk
from e2e.server import ROOT, Server, eventually, serving
from e2e.texts import ARTICLE, CLASSIFY, RECIPE, SENTENCES
from orchestrator.storage.database import migrate

pytestmark = pytest.mark.slow


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ── the CPU worker answers ───────────────────────────────────────────────────────────────────────


def test_embeddings_from_the_sdk_are_unit_vectors_in_input_order(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model="all-minilm-l6-v2", input=[*SENTENCES, SENTENCES[0]])
    vectors = [row.embedding for row in reply.data]

    assert [row.index for row in reply.data] == list(range(5))
    assert all(len(vector) == 384 for vector in vectors)
    assert all(abs(dot(vector, vector) - 1) < 1e-3 for vector in vectors)
    assert dot(vectors[0], vectors[4]) > 0.999
    assert dot(vectors[0], vectors[1]) < 0.5
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 40


def test_base64_and_float_embeddings_are_the_same_numbers(client: openai.OpenAI) -> None:
    plain = client.embeddings.create(
        model="all-minilm-l6-v2", input=SENTENCES[0], encoding_format="float"
    )
    packed = client.embeddings.create(model="all-minilm-l6-v2", input=SENTENCES[0])

    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)


def test_a_summary_takes_sentences_of_its_source_in_their_order(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="zlm-v1-summary-cloud", input=ARTICLE)
    positions = [ARTICLE.find(part) for part in reply.output_text.split(". ")]

    assert 0 < len(reply.output_text) < len(ARTICLE)
    assert positions == sorted(positions)
    assert min(positions) >= 0
    assert reply.usage is not None
    assert reply.usage.input_tokens > 100


def test_classification_knows_football_from_cooking(client: openai.OpenAI) -> None:
    found = {}
    for text in (ARTICLE, RECIPE):
        reply = client.chat.completions.create(
            model="zlm-v1-iab-classify-edge", messages=[{"role": "user", "content": text}]
        )
        profile = json.loads(reply.choices[0].message.content or "")
        found[text] = profile["content"]["iab_2_2"][0]["tier1_name"]
        assert {"audience", "content", "topics", "keywords", "user_intent"} <= profile.keys()

    assert found == {ARTICLE: "Sports", RECIPE: "Food & Drink"}


def test_the_answer_says_where_it_was_made_and_which_request_it_was(shared_server: Server) -> None:
    status, headers, _ = shared_server.infer(
        "embeddings", {"model": "all-minilm-l6-v2", "input": "hello"}
    )
    assert status == 200
    assert headers["x-inference-type"] == "cloud"
    assert headers["x-request-id"].startswith("req_")


def test_a_key_made_on_the_command_line_works_at_once_and_a_revoked_one_stops(
    shared_server: Server,
) -> None:
    made = command("keys", "create", "--data-dir", str(shared_server.data_dir), "--json")
    key = json.loads(made.stdout)
    assert set(key) == {"api_key", "project_id"}

    def status() -> int:
        return shared_server.get("/v1/models", x_api_key=key["api_key"])[0]

    assert status() == 200
    listed = command("keys", "list", "--data-dir", str(shared_server.data_dir), "--json")
    [entry] = [k for k in json.loads(listed.stdout) if k["hint"] == key["api_key"][-4:]]
    revoked = command("keys", "revoke", entry["id"], "--data-dir", str(shared_server.data_dir))
    assert revoked.returncode == 0
    eventually(lambda: status() == 401, timeout_s=10, what="the revocation")


# ── life and death ───────────────────────────────────────────────────────────────────────────────


def test_a_second_server_on_the_same_data_dir_is_refused_with_a_sentence(
    shared_server: Server,
) -> None:
    second = command("serve", "--port", "0", "--data-dir", str(shared_server.data_dir))

    assert second.returncode == 1
    assert str(shared_server.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert shared_server.ready()


def test_a_killed_worker_is_replaced_and_the_customer_waits_instead_of_failing(
    server: Server,
) -> None:
    first = eventually(server.worker_pid, what="a worker")
    os.kill(first, signal.SIGKILL)

    with sdk(server) as client:
        reply = client.embeddings.create(model="all-minilm-l6-v2", input="after the crash")

    assert len(reply.data[0].embedding) == 384
    assert server.worker_pid() not in {None, first}


def test_a_hung_worker_is_replaced_and_readiness_tells(server: Server) -> None:
    hung = eventually(server.worker_pid, what="a worker")
    os.kill(hung, signal.SIGSTOP)
    try:
        with sdk(server) as client:
            reply = client.embeddings.create(model="all-minilm-l6-v2", input="while it hangs")
    finally:
        # Killed by the supervisor by now; a failed test must not leave it behind.
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGKILL)

    assert len(reply.data[0].embedding) == 384
    assert server.worker_pid() not in {None, hung}


def test_what_cannot_be_finished_in_time_is_told_so_and_not_cut_off(tmp_path: Path) -> None:
    texts = [f"Number {n}. {ARTICLE}" for n in range(600)]

    # A deadline that all of it can meet, or it would be refused at once.
    env = {"ZEROGPU_DRAIN_S": "0.3", "ZEROGPU_REQUEST_DEADLINE_S": "600"}
    with serving(tmp_path / "data", env=env) as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            body = {"model": "all-minilm-l6-v2", "input": texts}
            asked = [pool.submit(server.infer, "embeddings", body) for _ in range(4)]
            eventually(lambda: server.stats()["jobs_answered"] > 0, what="the first answers")
            assert server.terminate() == 0
            answers = [future.result() for future in asked]
        log = server.log()

    for status, headers, answer in answers:
        assert status == 503, answer
        assert answer["error"]["code"] == "shutting_down"
        assert int(headers["retry-after"]) >= 1
    assert "Traceback" not in log


def has_ended(pid: int) -> bool:
    """Whether a process is over, if perhaps not yet collected by whoever inherited it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_a_killed_server_takes_its_worker_along_and_starts_again_with_the_same_key(
    server: Server,
) -> None:
    worker = eventually(server.worker_pid, what="a worker")
    assert server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": "a"})[0] == 200
    server.kill()

    eventually(lambda: has_ended(worker), what="the worker's end")
    server.start()
    assert server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": "b"})[0] == 200


def test_sigterm_under_load_answers_what_was_accepted_and_loses_no_log_row(
    server: Server,
) -> None:
    answered = server.stats()["jobs_answered"]

    def ask(_: int) -> int:
        return server.infer("responses", CLASSIFY)[0]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(ask, n) for n in range(96)]
        eventually(lambda: server.stats()["jobs_answered"] >= answered + 8, what="answers")
        code = server.terminate()
        statuses = [future.result() for future in asked]

    assert code == 0
    # 0: the listener was closed before this request could connect.
    assert set(statuses) <= {200, 503, 0}
    # No other journey of this file asks this server for that model.
    assert logged(server, CLASSIFY["model"]) == statuses.count(200) >= 8


def logged(server: Server, model: str) -> int:
    """Return how many answers of a model the request log has."""
    with contextlib.closing(sqlite3.connect(server.data_dir / "zerogpu.db")) as database:
        [[count]] = database.execute(
            "select count(*) from requests where status = 200 and model = ?", (model,)
        )
    return int(count)


def test_without_worker_and_nodes_the_answer_is_503_with_a_time_to_come_back(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data", "--no-cpu-worker") as server:
        status, headers, body = server.infer(
            "embeddings", {"model": "all-minilm-l6-v2", "input": "hello"}
        )

    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert body["error"]["code"] == "no_capacity"


def test_a_worker_started_by_hand_serves_a_server_without_one(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--no-cpu-worker") as server:
        worker = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "worker", "--data-dir", str(server.data_dir)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(
                lambda: (
                    server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": "hello"})[0]
                    == 200
                ),
                what="the worker's first answer",
            )
        finally:
            worker.terminate()
            assert worker.wait(15) == 0


def test_an_older_database_is_upgraded_with_a_backup(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--no-cpu-worker") as server:
        key = server.api_key
    downgrade(data_dir / "zerogpu.db", "0001")

    with serving(data_dir, "--no-cpu-worker") as server:
        assert server.get("/v1/models", x_api_key=key)[0] == 200
    with contextlib.closing(sqlite3.connect(data_dir / "zerogpu.db")) as database:
        assert database.execute("select count(*) from requests").fetchone()[0] >= 0
    assert list((data_dir / "backups").iterdir())


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with serving(data_dir, "--no-cpu-worker"):
        pass
    with contextlib.closing(sqlite3.connect(data_dir / "zerogpu.db")) as database, database:
        database.execute("update alembic_version set version_num = '9999'")
    before = (data_dir / "zerogpu.db").read_bytes()

    refused = command("serve", "--port", "0", "--no-cpu-worker", "--data-dir", str(data_dir))

    assert refused.returncode == 1
    assert "9999" in refused.stderr
    assert (data_dir / "zerogpu.db").read_bytes() == before


def downgrade(path: Path, revision: str) -> None:
    """Take the database back to an older schema, as an older release left it."""
    older = path.with_name("older.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{older}")
    migrate(engine, to=revision)
    engine.dispose()
    with contextlib.closing(sqlite3.connect(older)) as database:
        database.execute("attach ? as newer", (str(path),))
        for (table,) in database.execute(TABLES).fetchall():
            columns = ", ".join(row[1] for row in database.execute(f"pragma table_info({table})"))
            database.execute(f"insert into {table} select {columns} from newer.{table}")
        database.commit()
    older.replace(path)


TABLES = """select name from main.sqlite_master
            where type = 'table' and name not in ('alembic_version', 'sqlite_sequence')"""


# ── what never leaves ────────────────────────────────────────────────────────────────────────────


def test_the_log_of_a_run_holds_no_prompt_key_or_link(tmp_path: Path) -> None:
    with serving(tmp_path / "data", env={"ZEROGPU_LOG_LEVEL": "debug"}) as server:
        summary = {"model": "zlm-v1-summary-cloud", "input": ARTICLE}
        assert server.infer("responses", summary)[0] == 200
        server.infer("responses", {"model": "no-such-model", "input": ARTICLE})
        server.get("/v1/models", x_api_key="zgpu-api-" + "x" * 43)
        path = server.console_url.removeprefix(server.url)
        server.get(path)
        server.terminate()
        lines = [line for line in server.log().splitlines() if line.startswith("{")]

    assert lines, "the log has structured lines"
    text = "\n".join(lines)
    for secret in (
        ARTICLE[:30], "goalkeeper", server.api_key, "x" * 43, path.split("token=")[1],
    ):  # fmt: skip
        assert secret not in text
