"""Audits of an identity to which it did not show its evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    column = sa.Column("unshown", sa.Integer, nullable=False, server_default="0")
    op.add_column("standings", column)
