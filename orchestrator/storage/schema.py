"""The tables, as the newest migration leaves them (a test compares the two).

Times are Unix seconds, durations and sizes carry their unit in the name. Secrets (API keys, console
sessions, sign-in links) are stored as digests only.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
    true,
)

metadata = MetaData()

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
    # What it demands of placement: `orchestrator.domain.model.Rules`, field by field.
    Column("verify", String(16), nullable=False, server_default="adaptive"),
    Column("placement", String(16), nullable=False, server_default="any"),
    Column("region", String(8), nullable=False, server_default=""),
    Column("weight", Float, nullable=False, server_default="1.0"),
    Column("replays", Boolean, nullable=False, server_default=true()),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.id"), nullable=False),
    Column("name", String(200), nullable=False),
    # Hex HMAC-SHA256 of the key under the pepper file: a stolen database opens nothing.
    Column("digest", String(64), nullable=False, unique=True),
    # What a list may show: the last four characters.
    Column("hint", String(8), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Index("ix_api_keys_project", "project_id"),
)

# No foreign keys: the log outlives what it mentions, and a row must never fail to be written. No
# index beside the rows themselves, which lie by project and, as ids begin with the time, in its
# order: each would be written at every answer.
requests = Table(
    "requests",
    metadata,
    Column("id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("ts", Float, nullable=False),
    Column("model", String(128)),
    Column("endpoint", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("place", String(8)),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("node_id", String(64)),
    Column("error_code", String(64)),
    PrimaryKeyConstraint("project_id", "id"),
    sqlite_with_rowid=False,
)

sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    # Hex SHA-256 of the public key: one identity across sessions.
    Column("key_digest", String(64), primary_key=True),
    Column("runtime", String(32), nullable=False),
    Column("first_seen", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("jobs", Integer, nullable=False),
)

# What audits have shown of an identity in one runtime class: `orchestrator.domain.trust.Standing`.
standings = Table(
    "standings",
    metadata,
    Column("identity", String(64), primary_key=True),
    Column("runtime", String(32), primary_key=True),
    Column("consecutive", Integer, nullable=False),
    Column("real", Integer, nullable=False),
    Column("agreed", Integer, nullable=False),
    Column("disagreed", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),
    Column("unshown", Integer, nullable=False, server_default="0"),
    Column("quarantined", Boolean, nullable=False),
    Column("banned", Boolean, nullable=False),
    Column("reason", String(400), nullable=False),
    Column("updated_at", Float, nullable=False),
)

# The evidence of wrong answers: neither prompt nor answer.
disagreements = Table(
    "disagreements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("identity", String(64), nullable=False),
    Column("runtime", String(32), nullable=False),
    Column("node_id", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("min_cosine", Float, nullable=False),
    Column("reason", String(400), nullable=False),
    Index("ix_disagreements_identity", "identity", "runtime"),
)

# Who ordered what: the audit log of the people who run the server.
operator_actions = Table(
    "operator_actions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False),
    Column("detail", String(1000), nullable=False),
)

# What customers upload and what batches leave behind; the bytes are in the object store.
files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("is_error", Boolean, nullable=False, server_default=false()),
    # Set when a customer deletes it or its time is over: the row stays, the object goes.
    Column("deleted_at", Float),
    Index("ix_files_project", "project_id", "created_at", "id"),
    Index("ix_files_expires", "expires_at"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("project_id", String(64), nullable=False),
    # Whose key created it: lines run on its behalf, and fail once it is revoked.
    Column("key_id", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("total", Integer, nullable=False, server_default="0"),
    # Of a batch that has ended; of others, the lines are counted.
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("created_at", Float, nullable=False),
    Column("in_progress_at", Float),
    Column("expires_at", Float, nullable=False),
    Column("finalizing_at", Float),
    Column("completed_at", Float),
    Column("failed_at", Float),
    Column("expired_at", Float),
    Column("cancelling_at", Float),
    Column("cancelled_at", Float),
    # JSON, as the customer sent it and as it is answered.
    Column("metadata", Text, nullable=False, server_default="{}"),
    Column("errors", Text),
    # How long the result files are to be kept from when they are made; null: as all files.
    Column("output_expires_s", Integer),
    Index("ix_batches_project", "project_id", "created_at", "id"),
    Index("ix_batches_status", "status"),
)

# One row a line that has an outcome: the primary key is what makes it exactly one. Rows go when the
# batch has ended and its files are written.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("ok", Boolean, nullable=False),
    # A line of the output or of the error file, without its line feed.
    Column("payload", LargeBinary, nullable=False),
)

# Answers to POST requests that named an Idempotency-Key and must outlive a restart.
idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("path", String(128), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    # Hex SHA-256 of what was asked.
    Column("digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_idempotent_answers_created", "created_at"),
)
