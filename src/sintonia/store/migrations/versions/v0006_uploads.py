"""Files that arrive in parts, and answers that are kept for requests sent again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _uploads()
    _upload_parts()
    _kept_answers()


def _seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def _uploads() -> None:
    op.create_table(
        "uploads",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("draft", sa.JSON, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("part_ids", sa.JSON, nullable=False),
        sa.Column("file_id", sa.String(64)),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )


def _upload_parts() -> None:
    op.create_table(
        "upload_parts",
        _seq(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("upload_id", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])


def _kept_answers() -> None:
    op.create_table(
        "kept_answers",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_kept_answers_expires_at", "kept_answers", ["expires_at"])
