"""Stored chat completions, and permissions of tuned models for projects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_completions()
    _create_completion_metadata()
    _create_permissions()


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def _create_completions() -> None:
    name = "stored_completions"
    op.create_table(
        name,
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{name}_expires_at", name, ["expires_at"])
    op.create_index(f"ix_{name}_model", name, ["model"])


def _create_completion_metadata() -> None:
    name = "stored_completion_metadata"
    op.create_table(
        name,
        sa.Column("completion_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["completion_id"], ["stored_completions.id"]),
        sa.PrimaryKeyConstraint("completion_id", "key"),
    )
    op.create_index(f"ix_{name}_key_value", name, ["key", "value"])


def _create_permissions() -> None:
    op.create_table(
        "checkpoint_permissions",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("project_id", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("model", "project_id"),
        sqlite_autoincrement=True,
    )
