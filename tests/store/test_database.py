"""Transactions and migrations, on real SQLite files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from sintonia import settings
from sintonia.domain.jobs import JobDraft
from sintonia.errors import InvalidValue, ServerError, SettingInvalid, Unavailable
from sintonia.store import Store
from sintonia.store.database import Database
from sintonia.store.tables import METADATA


def migrated(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder / 'test.db'}", busy_seconds=0.2)
    database.migrate(folder / "lock")
    return database


def test_migrations_from_empty_give_the_tables_of_the_code(tmp_path):
    database = migrated(tmp_path)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_a_store_that_is_opened_again_keeps_its_jobs(tmp_path):
    given = settings.load({}, home=str(tmp_path))
    store = Store.open(given)
    job = store.jobs.create(JobDraft(model="m", base_model="m", training_file="file-x"))
    store.close()
    again = Store.open(given)
    assert again.jobs.get(job.id) == job
    again.close()


def test_many_processes_may_open_a_new_home_at_once(tmp_path):
    script = (
        "from sintonia import settings\nfrom sintonia.store import Store\n"
        "Store.open(settings.load()).close()\n"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", script], env={"SINTONIA_HOME": str(tmp_path)})
        for _ in range(3)
    ]
    assert [opener.wait(60) for opener in openers] == [0, 0, 0]


def test_a_schema_change_that_fails_half_way_leaves_nothing(tmp_path):
    database = migrated(tmp_path)

    def change_half_way():
        with database.write() as connection:
            connection.exec_driver_sql("CREATE TABLE half (x INTEGER)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_half_way()
    with database.read() as connection:
        assert "half" not in sa.inspect(connection).get_table_names()
    database.close()


def test_a_writer_that_waits_too_long_is_told_to_come_back(tmp_path):
    database = migrated(tmp_path)
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable) as caught, database.write():
        pass
    assert caught.value.retry_after_seconds > 0
    other.execute("ROLLBACK")
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM files")
    other.close()
    database.close()


def test_readers_go_on_while_somebody_writes(tmp_path):
    database = migrated(tmp_path)
    with database.write() as writer:
        writer.exec_driver_sql("DELETE FROM files")
        with database.read() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM files").scalar() == 0
    database.close()


def test_half_a_character_is_refused_and_not_a_fault_of_ours(tmp_path):
    store = Store.open(settings.load({}, home=str(tmp_path)))
    draft = JobDraft(model="m", base_model="m", training_file="f", metadata={"k": "\ud800"})
    with pytest.raises(InvalidValue):
        store.jobs.create(draft)
    with pytest.raises(InvalidValue):
        store.files.get("\ud800")
    assert store.jobs.list().items == []
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "sintonia.db").write_bytes(b"this was a database once" * 100)
    with pytest.raises(ServerError, match="not a database") as caught:
        Store.open(settings.load({}, home=str(tmp_path)))
    assert str(tmp_path / "sintonia.db") in caught.value.message
    assert "backup" in caught.value.message


def test_a_database_of_a_newer_version_is_named(tmp_path):
    given = settings.load({}, home=str(tmp_path))
    Store.open(given).close()
    with sqlite3.connect(tmp_path / "sintonia.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00d'")
    connection.close()
    with pytest.raises(ServerError, match="f00d") as caught:
        Store.open(given)
    assert str(tmp_path / "sintonia.db") in caught.value.message


@pytest.mark.parametrize("url", ["nonsense", "nosuch://a:secret@b/c", "sqlite://", "sqlite+x:///y"])
def test_a_database_url_that_cannot_be_used_is_named_without_its_password(tmp_path, url):
    with pytest.raises(SettingInvalid, match="database_url") as caught:
        Store.open(settings.load({}, home=str(tmp_path), database_url=url))
    assert "secret" not in caught.value.message


def test_a_database_in_a_folder_that_is_not_there_is_named(tmp_path):
    url = f"sqlite:///{tmp_path}/no/such/folder/x.db"
    with pytest.raises(ServerError, match="unable to open") as caught:
        Store.open(settings.load({}, home=str(tmp_path), database_url=url))
    assert "no/such/folder" in caught.value.message
