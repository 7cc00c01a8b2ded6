"""The first tables: files, jobs with their events and checkpoints, models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_files()
    _create_jobs()
    _create_events_and_checkpoints()
    _create_models()


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def _create_files() -> None:
    op.create_table(
        "files",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("status_details", sa.Text),
        sa.Column("expires_at", sa.BigInteger),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("draft", sa.JSON, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("estimated_finish", sa.BigInteger),
        sa.Column("fine_tuned_model", sa.Text),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("resolved", sa.JSON),
        sa.Column("origins", sa.JSON),
        sa.Column("tuned_name", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("lease_expires_at", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("handle", sa.Text),
        sa.Column("import_offset", sa.BigInteger, nullable=False),
        sa.Column("num_failures", sa.Integer, nullable=False),
        sa.Column("progress_step", sa.Integer, nullable=False),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_index("ix_job_metadata_key_value", "job_metadata", ["key", "value"])


def _create_events_and_checkpoints() -> None:
    op.create_table(
        "job_events",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON),
        sa.Column("step", sa.Integer),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job_id", "step"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"])
    op.create_table(
        "job_checkpoints",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("job_id", "step"),
        sqlite_autoincrement=True,
    )


def _create_models() -> None:
    op.create_table(
        "models",
        _seq(),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("owned_by", sa.Text, nullable=False),
        sa.Column("base_name", sa.Text, nullable=False),
        sa.Column("base_folder", sa.Text, nullable=False),
        sa.Column("base_sha256", sa.String(64), nullable=False),
        sa.Column("folder", sa.Text),
        sa.Column("adapter_sha256", sa.String(64)),
        sa.Column("job_id", sa.String(64)),
        sa.Column("parent", sa.Text),
        sa.Column("deleted_at", sa.BigInteger),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_models_job_id", "models", ["job_id"])
