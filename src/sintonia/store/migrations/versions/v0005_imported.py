"""Jobs brought over from other servers, the manifest of doing so, and names that go on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_jobs()
    _create_lines("imported_events")
    _create_lines("imported_checkpoints")
    _create_items()
    _create_taken_names()


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def _create_jobs() -> None:
    op.create_table(
        "imported_jobs",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("object", sa.JSON(none_as_null=True), nullable=False),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_imported_jobs_created_at", "imported_jobs", ["created_at"])
    op.create_table(
        "imported_job_metadata",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("imported_jobs.id"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _create_lines(table: str) -> None:
    op.create_table(
        table,
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("imported_jobs.id"), nullable=False),
        sa.Column("object", sa.JSON(none_as_null=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(f"ix_{table}_job_id", table, ["job_id"])


def _create_items() -> None:
    op.create_table(
        "migration_items",
        _seq(),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("object", sa.JSON(none_as_null=True)),
        sa.Column("reason", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("sha256", sa.String(64)),
        sa.UniqueConstraint("kind", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_migration_items_state", "migration_items", ["state"])


def _create_taken_names() -> None:
    op.create_table(
        "taken_names",
        _seq(),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.UniqueConstraint("name", "job_id"),
        sqlite_autoincrement=True,
    )
