"""The tables as they are now. How they came to be is in ``migrations``; a test compares both.

``seq`` gives each table the order in which rows were made: times have whole seconds only.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _seq() -> sa.Column[int]:
    # SQLite numbers rows by itself only for a column of exactly INTEGER.
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


FILES = sa.Table(
    "files",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(32), nullable=False),
    sa.Column("status_details", sa.Text),
    sa.Column("expires_at", sa.BigInteger),
    sqlite_autoincrement=True,
)

JOBS = sa.Table(
    "jobs",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("draft", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("estimated_finish", sa.BigInteger),
    sa.Column("fine_tuned_model", sa.Text),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("result_files", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("resolved", sa.JSON(none_as_null=True)),
    sa.Column("origins", sa.JSON(none_as_null=True)),
    sa.Column("tuned_name", sa.Text),  # drawn when the job is admitted, shown once it succeeded
    # The worker's side: who works on it, until when, and how far it got.
    sa.Column("owner", sa.Text),
    sa.Column("lease_expires_at", sa.Float, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("handle", sa.Text),
    sa.Column("import_offset", sa.BigInteger, nullable=False),
    sa.Column("num_failures", sa.Integer, nullable=False),
    sa.Column("progress_step", sa.Integer, nullable=False),
    sa.Column("verdict", sa.JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

JOB_METADATA = sa.Table(
    "job_metadata",
    METADATA,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("ix_job_metadata_key_value", "key", "value"),
)

EVENTS = sa.Table(
    "job_events",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.JSON(none_as_null=True)),
    sa.Column("step", sa.Integer),  # of a metrics event: a job has one for each step
    sa.UniqueConstraint("job_id", "step"),
    sqlite_autoincrement=True,
)

CHECKPOINTS = sa.Table(
    "job_checkpoints",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),
    sa.UniqueConstraint("job_id", "step"),
    sqlite_autoincrement=True,
)

UPLOADS = sa.Table(
    "uploads",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("draft", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("part_ids", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("file_id", sa.String(64)),
    sqlite_autoincrement=True,
)

UPLOAD_PARTS = sa.Table(
    "upload_parts",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("upload_id", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

KEPT_ANSWERS = sa.Table(
    "kept_answers",
    METADATA,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("headers", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)

MODELS = sa.Table(
    "models",
    METADATA,
    _seq(),
    sa.Column("name", sa.String(512), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("owned_by", sa.Text, nullable=False),
    sa.Column("base_name", sa.Text, nullable=False),
    sa.Column("base_folder", sa.Text, nullable=False),
    sa.Column("base_sha256", sa.String(64), nullable=False),
    sa.Column("folder", sa.Text),
    sa.Column("adapter_sha256", sa.String(64)),
    sa.Column("job_id", sa.String(64), index=True),
    sa.Column("parent", sa.Text),
    sa.Column("deleted_at", sa.BigInteger),
    sqlite_autoincrement=True,
)

BATCHES = sa.Table(
    "batches",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("draft", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),  # when its window ends; the row stays
    sa.Column("entered_at", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("num_requests", sa.Integer, nullable=False),
    sa.Column("tally", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("problems", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("output_file_id", sa.String(64)),
    sa.Column("error_file_id", sa.String(64)),
    sqlite_autoincrement=True,
)

DEPLOYMENTS = sa.Table(
    "deployments",
    METADATA,
    _seq(),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("asked", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

IMPORTED_JOBS = sa.Table(
    "imported_jobs",
    METADATA,
    _seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("object", sa.JSON(none_as_null=True), nullable=False),
    sqlite_autoincrement=True,
)

IMPORTED_METADATA = sa.Table(
    "imported_job_metadata",
    METADATA,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("imported_jobs.id"), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def _lines(name: str) -> sa.Table:
    """Return a table of what an imported job has many of; ``seq`` is the order it was listed in."""
    return sa.Table(
        name,
        METADATA,
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column(
            "job_id", sa.String(64), sa.ForeignKey("imported_jobs.id"), nullable=False, index=True
        ),
        sa.Column("object", sa.JSON(none_as_null=True), nullable=False),
        sqlite_autoincrement=True,
    )


IMPORTED_EVENTS = _lines("imported_events")
IMPORTED_CHECKPOINTS = _lines("imported_checkpoints")

MIGRATION_ITEMS = sa.Table(
    "migration_items",
    METADATA,
    _seq(),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("object", sa.JSON(none_as_null=True)),
    sa.Column("reason", sa.Text),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("sha256", sa.String(64)),
    sa.UniqueConstraint("kind", "id"),
    sqlite_autoincrement=True,
)

TAKEN_NAMES = sa.Table(
    "taken_names",
    METADATA,
    _seq(),
    sa.Column("name", sa.String(512), nullable=False),
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
    sa.UniqueConstraint("name", "job_id"),
    sqlite_autoincrement=True,
)
