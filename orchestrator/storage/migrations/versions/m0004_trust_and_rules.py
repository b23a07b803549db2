"""Standings of nodes with the evidence against them, operators' actions, rules of projects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for column in (
        sa.Column("verify", sa.String(16), nullable=False, server_default="adaptive"),
        sa.Column("placement", sa.String(16), nullable=False, server_default="any"),
        sa.Column("region", sa.String(8), nullable=False, server_default=""),
        sa.Column("weight", sa.Float, nullable=False, server_default="1.0"),
        sa.Column("replays", sa.Boolean, nullable=False, server_default=sa.true()),
    ):
        op.add_column("projects", column)
    op.create_table(
        "standings",
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("runtime", sa.String(32), primary_key=True),
        sa.Column("consecutive", sa.Integer, nullable=False),
        sa.Column("real", sa.Integer, nullable=False),
        sa.Column("agreed", sa.Integer, nullable=False),
        sa.Column("disagreed", sa.Integer, nullable=False),
        sa.Column("strikes", sa.Integer, nullable=False),
        sa.Column("quarantined", sa.Boolean, nullable=False),
        sa.Column("banned", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(400), nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    op.create_table(
        "disagreements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("runtime", sa.String(32), nullable=False),
        sa.Column("node_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("min_cosine", sa.Float, nullable=False),
        sa.Column("reason", sa.String(400), nullable=False),
    )
    op.create_index("ix_disagreements_identity", "disagreements", ["identity", "runtime"])
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("detail", sa.String(1000), nullable=False),
    )
