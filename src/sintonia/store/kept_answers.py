"""Answers kept for requests that are sent again, by the key that their sender chose."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from sintonia.domain.kept_answers import KEPT_SECONDS, KeptAnswer
from sintonia.store.database import Database
from sintonia.store.tables import KEPT_ANSWERS


class KeptAnswers:
    """The kept answers of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> KeptAnswer | None:
        """Return what was answered under ``key`` within the last day."""
        query = sa.select(KEPT_ANSWERS).where(
            KEPT_ANSWERS.c.key == key, KEPT_ANSWERS.c.expires_at > int(time.time())
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return KeptAnswer(row.fingerprint, row.status, row.headers, row.body)

    def keep(self, key: str, answer: KeptAnswer) -> None:
        """Keep an answer for a day; one that was there before is replaced."""
        values: dict[str, Any] = {
            "key": key,
            "fingerprint": answer.fingerprint,
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": answer.body,
            "expires_at": int(time.time()) + KEPT_SECONDS,
        }
        with self._database.write() as connection:
            connection.execute(KEPT_ANSWERS.delete().where(KEPT_ANSWERS.c.key == key))
            connection.execute(KEPT_ANSWERS.insert().values(values))

    def remove_expired(self) -> int:
        """Forget the answers whose day is over; return how many."""
        old = KEPT_ANSWERS.delete().where(KEPT_ANSWERS.c.expires_at <= int(time.time()))
        with self._database.write() as connection:
            return connection.execute(old).rowcount
